//! What a caller may do.

use serde::{Deserialize, Serialize};

/// How much a caller may do, and a method asks for. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look: list, get, resolve, subscribe, status.
    Read,
    /// Change what is known to the server already: stop, restart, entries of one's own.
    Operate,
    /// Everything, also what brings programs along, shows secrets or says who may do what.
    Admin,
}

impl Scope {
    /// As it is written in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is said of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MethodInfo {
    /// As a request names it: `registry.list`.
    pub name: &'static str,
    /// What a caller must be allowed to do.
    pub scope: Scope,
}

impl MethodInfo {
    /// A method that only looks.
    pub const fn read(name: &'static str) -> Self {
        Self { name, scope: Scope::Read }
    }

    /// A method that changes something.
    pub const fn operate(name: &'static str) -> Self {
        Self { name, scope: Scope::Operate }
    }

    /// A method for those who may do everything.
    pub const fn admin(name: &'static str) -> Self {
        Self { name, scope: Scope::Admin }
    }
}

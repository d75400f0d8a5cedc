//! Exit codes. Scripts rely on them: they change only with a deprecation.

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// All went well.
    pub const OK: Self = Self(0);
    /// Something failed that has no code of its own.
    pub const GENERAL: Self = Self(1);
    /// Wrong usage, or a configuration that has errors. Nothing was started.
    pub const USAGE: Self = Self(2);
    /// A service failed; what is independent of it goes on.
    pub const SERVICE_FAILED: Self = Self(3);
    /// The daemon, the network or a node can't be reached.
    pub const UNREACHABLE: Self = Self(4);
    /// Time ran out, and nothing worse happened.
    pub const TIMED_OUT: Self = Self(5);
    /// `exec`: the command was found and can't be run.
    pub const NOT_EXECUTABLE: Self = Self(126);
    /// `exec`: the command wasn't found.
    pub const NOT_FOUND: Self = Self(127);
    /// Ctrl-C.
    pub const INTERRUPTED: Self = Self(130);
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

//! What an instance is, where it is, and where it can be reached.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What carries an instance out. Kinds of a newer version are read as [`Execution::Unknown`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Execution {
    /// Nothing at the moment.
    #[default]
    None,
    /// A process.
    Process {
        /// Its process id while it lives.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// The id of this run: the name of its log and state files.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<String>,
    },
    /// A container.
    Container {
        /// The engine's id for it.
        id: String,
        /// The image that it was made from.
        image: String,
        /// Its main process on the engine's machine, while it lives.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// The id of this run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<String>,
    },
    /// All services of a Compose file.
    Compose {
        /// The name of the Compose project.
        project: String,
        /// The id of this run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<String>,
    },
    /// A systemd unit, also of a portable service.
    Unit {
        /// Its name with suffix: `nginx.service`.
        unit: String,
        /// Its main process, while it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// The id of this run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<String>,
    },
    /// Something elsewhere of which only the address is known.
    External {
        /// The id of this run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<String>,
    },
    /// A kind that this version doesn't know.
    #[serde(other)]
    Unknown,
}

impl Execution {
    /// The id of the run that it is about.
    pub fn run(&self) -> Option<&str> {
        match self {
            Self::Process { run, .. }
            | Self::Container { run, .. }
            | Self::Compose { run, .. }
            | Self::Unit { run, .. }
            | Self::External { run } => run.as_deref(),
            Self::None | Self::Unknown => None,
        }
    }

    /// The same as part of the run `id`.
    #[must_use]
    pub fn of_run(mut self, id: &str) -> Self {
        match &mut self {
            Self::Process { run, .. }
            | Self::Container { run, .. }
            | Self::Compose { run, .. }
            | Self::Unit { run, .. }
            | Self::External { run } => *run = Some(id.to_owned()),
            Self::None | Self::Unknown => {}
        }
        self
    }

    /// Its main process on its machine, where there is one.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Process { pid, .. } | Self::Container { pid, .. } | Self::Unit { pid, .. } => *pid,
            Self::Compose { .. } | Self::External { .. } | Self::None | Self::Unknown => None,
        }
    }

    /// The same without its process, which has ended.
    #[must_use]
    pub fn ended(mut self) -> Self {
        if let Self::Process { pid, .. } | Self::Container { pid, .. } | Self::Unit { pid, .. } = &mut self {
            *pid = None;
        }
        self
    }
}

/// The machine that an instance is on, as seen from the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Location {
    /// This one.
    #[default]
    Local,
    /// The node of this name.
    Node(String),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Local => "local",
            Self::Node(name) => name,
        })
    }
}

/// From where somebody asks for addresses. The default is this machine, outside containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Place {
    /// The machine.
    #[serde(default)]
    pub location: Location,
    /// Whether it is in a container of that machine, on the stack's network.
    #[serde(default)]
    pub container: bool,
}

/// An address at which an instance listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Endpoint {
    /// The port's name; `None` is *the* port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// An IP address or a host name.
    pub address: String,
    /// The port at that address.
    pub port: u16,
    /// `tcp`, `udp`, or what is spoken above it.
    pub protocol: String,
    /// From where the address can be reached.
    pub scope: Scope,
}

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// From the same machine.
    Host,
    /// From containers of the same network.
    ContainerNetwork,
    /// From machines of the same local network.
    Lan,
    /// From members of the WireGuard mesh.
    Wireguard,
}

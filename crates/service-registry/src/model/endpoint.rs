//! What an instance is, where it is, and where it can be reached.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What carries an instance out. Kinds of a newer version are read as [`Execution::Unknown`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    },
    /// A systemd unit, also of a portable service.
    Unit {
        /// Its name with suffix: `nginx.service`.
        unit: String,
    },
    /// A kind that this version doesn't know.
    #[serde(other)]
    Unknown,
}

/// The machine that an instance is on, as seen from the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// An address at which an instance listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

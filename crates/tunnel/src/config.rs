//! What an engine is told, and what it tells.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// How an engine is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder of its own, which only this user may read: the private key, and what is kept between runs.
    pub state: PathBuf,
    /// The UDP port. 0 is any, which is then kept: the next start takes the same one if it is free.
    pub port: u16,
}

/// What an engine serves from now on.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub node: String,
    /// Its address in the overlay.
    pub address: Ipv4Addr,
    /// With it nodes answer each other's probes. Secret.
    pub probe_key: [u8; 32],
    /// Raised to have this node make another key for itself. Never falls: a lower one changes nothing.
    pub key_epoch: u64,
    /// The node that relays packets for those that don't reach each other. A node that has none relays for the others.
    pub hub: Option<String>,
    /// An interface of the kernel's that this node is to have besides.
    pub interface: Option<Interface>,
    /// Other ends, by node.
    pub peers: BTreeMap<String, Peer>,
}

/// An interface of the kernel's (TUN), at which any program of the machine reaches the other nodes' interfaces: TCP and
/// UDP. It takes root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, at most 15 bytes. There must not be one of that name.
    pub name: String,
    /// Its address, another one than those of the overlay.
    pub address: Ipv4Addr,
    /// Bits of the network that the others' are in too.
    pub prefix: u8,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("node", &self.node)
            .field("address", &self.address)
            .field("key_epoch", &self.key_epoch)
            .field("hub", &self.hub)
            .field("interface", &self.interface)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

/// The other end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its WireGuard public key, base64.
    pub public_key: String,
    /// Its address in the overlay.
    pub address: Ipv4Addr,
    /// The address of its interface, if it is to have one.
    pub interface: Option<Ipv4Addr>,
    /// Where its UDP port may be reached, likeliest first. All are tried at once.
    pub candidates: Vec<SocketAddr>,
}

/// How an engine does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Its public key, base64.
    pub public_key: String,
    /// The epoch that this key was made for.
    pub key_epoch: u64,
    /// The UDP port.
    pub port: u16,
    /// This machine's addresses at which the port may be reached from outside.
    pub addresses: Vec<IpAddr>,
    /// As which address and port another node has seen this one, by node.
    pub seen_as: BTreeMap<String, SocketAddr>,
    /// Its interface, if it is to have one.
    pub interface: Option<InterfaceState>,
    /// The tunnels, by node.
    pub tunnels: BTreeMap<String, State>,
}

/// An interface of the kernel's that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceState {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Why it isn't there, if so.
    pub error: Option<String>,
}

/// One tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Where its packets go now; `None` while the hub relays them or nobody answers.
    pub endpoint: Option<SocketAddr>,
    /// Whether the hub relays.
    pub through_hub: bool,
    /// Seconds since the last handshake.
    pub handshake_s: Option<u64>,
    /// Bytes received.
    pub rx: u64,
    /// Bytes sent.
    pub tx: u64,
    /// Round-trip time of the last probe that was answered, in microseconds.
    pub rtt_us: Option<u64>,
}

/// What an answered probe told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pong {
    /// The node that answered.
    pub name: String,
    /// As which address and port it has seen this one.
    pub seen_as: SocketAddr,
    /// How long it took.
    pub rtt: std::time::Duration,
}

/// Why something isn't possible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the state folder.
    #[error("can't use {path}: check that only this user may write there", path = path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The key file holds something else.
    #[error("{path} holds no key: remove it, and this node makes another one", path = path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
    },
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// The UDP port.
    #[error("can't listen on UDP port {port}: choose another one, or end who holds it")]
    Bind {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The socket that tells of changed addresses.
    #[error("can't watch this machine's addresses")]
    Watch(#[source] std::io::Error),
    /// WireGuard itself.
    #[error("WireGuard doesn't start")]
    Device(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The interface.
    #[error("can't make the interface {name}: {remedy}")]
    Interface {
        /// Its name.
        name: String,
        /// What helps.
        remedy: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A configuration that can't be served.
    #[error("{0}")]
    Config(String),
    /// Nobody of that name.
    #[error("{0} is no other end of a tunnel of this node")]
    NoPeer(String),
    /// Nothing is known of how to reach it, in the time that there was.
    #[error("no way to {peer}: it answers at none of its addresses, and no hub relays")]
    NoWay {
        /// The node.
        peer: String,
    },
    /// The connection wasn't answered in time.
    #[error("{peer} didn't answer through the tunnel within {ms} ms")]
    Timeout {
        /// The node.
        peer: String,
        /// The bound.
        ms: u128,
    },
    /// The connection was refused.
    #[error("{0} refused the connection")]
    Refused(String),
    /// Too many streams.
    #[error("{0} streams are open: close some")]
    Full(usize),
    /// A probe.
    #[error("no authentic answer from {0} in time")]
    NoAnswer(SocketAddr),
    /// The engine has ended.
    #[error("the tunnels of this node have ended")]
    Ended,
}

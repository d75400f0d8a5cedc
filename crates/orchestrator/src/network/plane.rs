//! What a node's data plane is told, and what it tells: tables down, reports up. JSON, one value a line, on its socket.
//!
//! A table is complete: what isn't in it is no longer served. The data plane decides nothing but which of the backends
//! and ways it was given to try next, and goes on with its last table while nobody tells it another.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The version of these types. A table of another format is refused.
pub const FORMAT: u32 = 1;

/// All that the data plane of one node serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// [`FORMAT`].
    pub format: u32,
    /// Rises with every change of this node's table; an older one than what is served is refused.
    pub version: u64,
    /// The node that it is for.
    pub node: String,
    /// Where services are reached from here.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// What ambassadors stand for in container networks here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doors: Vec<Door>,
    /// What others may reach here, by [`Backend::export`].
    #[serde(default)]
    pub exports: BTreeMap<String, SocketAddr>,
    /// The other nodes, and the ways to them.
    #[serde(default)]
    pub peers: BTreeMap<String, Peer>,
    /// The tunnels of this node, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
    /// The DNS zone, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// Tables of other nodes, to be handed on over the links to them: only the project's own node has any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub others: BTreeMap<String, Table>,
}

/// One port of one service, as it is reached from this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The service.
    pub service: String,
    /// Where to listen: its virtual address and declared port, or a port of the container network's gateway.
    pub address: SocketAddr,
    /// Who serves it, in order. With none, connections wait a moment and are then closed.
    pub backends: Vec<Backend>,
}

/// One port of one service, as ambassadors listen for it: they hand the socket that they listen on in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// The service: its name in container networks.
    pub service: String,
    /// The port that it is reached at there.
    pub port: u16,
    /// Who serves it, in order; see [`Listener::backends`].
    pub backends: Vec<Backend>,
}

/// One instance behind a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The instance.
    pub instance: String,
    /// Its node; the table's own node for one that is here.
    pub node: String,
    /// By what its node finds it in [`Table::exports`]: `INSTANCE:PORT`.
    pub export: String,
    /// Where it listens, as seen from its own node; what [`Way::Lan`] dials unless this is a loopback address.
    pub address: SocketAddr,
    /// Its share among backends that serve, at least 1.
    pub weight: u32,
    /// Whether new connections go to it.
    pub draining: bool,
}

/// A DNS zone, as it is seen from this node. Names are in lower case, and without the zone's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// Its name: `shop.test`.
    pub name: String,
    /// Where it is asked, by UDP and TCP.
    pub listen: SocketAddr,
    /// Where services are reached, by name: `db`.
    pub hosts: BTreeMap<String, IpAddr>,
    /// Their named ports: `_postgres._tcp.db` (RFC 2782).
    #[serde(default)]
    pub ports: BTreeMap<String, ZonePort>,
}

/// A named port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZonePort {
    /// The service, one of [`Zone::hosts`].
    pub host: String,
    /// The number that it is reached at.
    pub port: u16,
}

/// Another node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The ways to it, best first. Each is tried when those before it have failed.
    pub ways: Vec<Way>,
    /// The command whose standard input and output are a link to that node's data plane; only the node that makes links
    /// has it. No secret stands in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link: Vec<String>,
}

/// A way to another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "way", rename_all = "kebab-case")]
pub enum Way {
    /// Straight to the instance, on a network that both are in. Only what listens there can be reached so.
    Lan {
        /// The node's address in that network.
        address: IpAddr,
    },
    /// Through a WireGuard tunnel to that node, of [`Tunnel::peers`].
    Wireguard,
    /// Through the link to that node: one that was made from here, or came from there.
    Link,
    /// Through the link to another node, which hands on.
    Relay {
        /// The node between.
        via: String,
    },
}

/// This node's end of tunnels.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// This node's address in the overlay.
    pub address: Ipv4Addr,
    /// The UDP port to listen on; 0 is any, which is then kept.
    pub port: u16,
    /// The stack's key, hex of 32 bytes: with it nodes answer each other's probes. Secret.
    pub probe_key: String,
    /// Raised to have this node make another key for itself.
    pub key_epoch: u64,
    /// The node that relays packets for those that don't reach each other, if not this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    /// An interface of the kernel's that this node is to have besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<TunnelInterface>,
    /// Other ends.
    pub peers: BTreeMap<String, TunnelPeer>,
}

/// An interface of the kernel's (TUN), at which any program of the node reaches the other nodes' interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelInterface {
    /// Its name.
    pub name: String,
    /// Its address; another one than the end of tunnels has.
    pub address: Ipv4Addr,
    /// Bits of the network that all of them are in.
    pub prefix: u8,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("address", &self.address)
            .field("port", &self.port)
            .field("key_epoch", &self.key_epoch)
            .field("hub", &self.hub)
            .field("interface", &self.interface)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

/// The other end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelPeer {
    /// Its WireGuard public key, base64.
    pub public_key: String,
    /// Its address in the overlay.
    pub address: Ipv4Addr,
    /// The address of its interface, if it is to have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Ipv4Addr>,
    /// Where its UDP port may be reached, likeliest first.
    pub candidates: Vec<SocketAddr>,
}

/// What a data plane tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The node.
    pub node: String,
    /// The build of its program, as whoever started it named it.
    #[serde(default)]
    pub build: String,
    /// The version of the table that is served; 0 before the first.
    pub version: u64,
    /// Connections that it carries, its own and others'.
    #[serde(default)]
    pub connections: u64,
    /// Its listeners, in the table's order.
    pub listeners: Vec<ListenerReport>,
    /// What is known of the other nodes.
    pub peers: BTreeMap<String, PeerReport>,
    /// Its end of tunnels, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelReport>,
    /// Its DNS zone, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneReport>,
    /// Reports of other nodes that came over links.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub others: BTreeMap<String, Report>,
}

/// How a listener does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerReport {
    /// The service.
    pub service: String,
    /// Where it is listened for; in container networks `SERVICE:PORT`.
    pub address: String,
    /// Why that isn't possible, if so: `in use by redis (pid 812)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Connections that are open.
    pub open: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that no backend took.
    pub refused: u64,
    /// Bytes towards backends.
    pub sent: u64,
    /// Bytes from backends.
    pub received: u64,
    /// Backends that are left out because they failed, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ejected: BTreeMap<String, String>,
}

/// How a DNS zone does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneReport {
    /// Where it is asked.
    pub address: String,
    /// Why it can't be, if so: `in use by dnsmasq (pid 812)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Questions that were answered.
    pub answered: u64,
}

/// What is known of another node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// The ways, in the table's order.
    pub ways: Vec<WayReport>,
}

/// How a way does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayReport {
    /// The way.
    #[serde(flatten)]
    pub way: Way,
    /// Whether it worked when it was used or probed last; `None` if it wasn't yet.
    pub works: Option<bool>,
    /// The evidence, for people: `authenticated answer from 10.0.0.3 in 0.4 ms`.
    pub evidence: String,
    /// Round-trip time, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
}

/// This node's end of tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelReport {
    /// Its public key, base64.
    pub public_key: String,
    /// The epoch that this key was made for.
    pub key_epoch: u64,
    /// The UDP port.
    pub port: u16,
    /// This machine's addresses at which the port may be reached from outside, without loopback and those of container
    /// networks.
    pub addresses: Vec<IpAddr>,
    /// As which address and port another node has seen this one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seen_as: BTreeMap<String, SocketAddr>,
    /// Its interface, if it is to have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<InterfaceReport>,
    /// The tunnels, by node.
    pub tunnels: BTreeMap<String, TunnelState>,
}

/// How an interface is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceReport {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Why it isn't there, and what to do, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelState {
    /// Where its packets go now; `None` while the hub relays them or nobody answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// Whether the hub relays.
    pub through_hub: bool,
    /// Seconds since the last handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake_s: Option<u64>,
    /// Bytes received.
    pub rx: u64,
    /// Bytes sent.
    pub tx: u64,
}

/// What is said to a data plane on its socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum Tell {
    /// Serve this from now on. Answered with a report once it is served.
    Serve {
        /// The table.
        table: Box<Table>,
    },
    /// Report, now and at every change from now on.
    Watch,
    /// Report once.
    Show,
    /// What follows on this connection is a link from the data plane of that node.
    Link {
        /// The node that makes the link.
        from: String,
    },
    /// Connect to a service as this node's services would; what follows, after one line with the answer, is the stream.
    Connect {
        /// The service.
        service: String,
        /// The port of its listener; the first if none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    /// Connect to the data plane of another node, which throws away what it is sent and then says how much came: one line
    /// with the number of bytes. What follows, after one line with the answer, is the stream.
    Discard {
        /// The node.
        node: String,
    },
    /// End. Answered before it does.
    End,
}

/// What a data plane answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Told {
    /// How it is.
    Report {
        /// The report.
        report: Box<Report>,
    },
    /// Done; for `Connect` and `Link`, the stream follows.
    Done {
        /// Who it was, for `Connect`: the instance, and the way to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<String>,
        /// The node that it is on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        /// The way that was taken.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        way: Option<Way>,
    },
    /// It can't be done.
    Refused {
        /// Why, for people.
        why: String,
    },
}

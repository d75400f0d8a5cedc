//! Which ways there are from node to node, and what shows it.
//!
//! Evidence alone makes a straight way: a tunnel that goes to an address of the peer's own, where a handshake with its key was
//! made. Subnets that look alike prove nothing (two sites may both have 192.168.1.0/24), and neither does somebody who
//! accepts connections there.

use super::plane::{Report, TunnelState, Way};
use crate::model::Node;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// What data planes have told of nodes. Kept, so that a daemon that returns makes the same tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    nodes: BTreeMap<String, NodeFacts>,
    /// By node and node: the address at which the second was proved to be reached straight from the first.
    lan: BTreeMap<String, BTreeMap<String, IpAddr>>,
    /// Where the file says that nodes are.
    hosts: BTreeMap<String, String>,
}

/// What is known of one node's end of tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Its public key, base64.
    pub public_key: String,
    /// The UDP port; 0 while it has none.
    pub port: u16,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// As which address and port other nodes have seen it.
    pub seen_as: BTreeMap<String, SocketAddr>,
}

/// How a node reaches another, as the best way that works says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// It is the same node.
    Local,
    /// Straight, on a network that both are in.
    Lan,
    /// Through a tunnel between the two.
    Wireguard,
    /// Through a tunnel whose packets the project's node relays.
    Hub,
    /// Through the link over ssh.
    Link,
    /// Through the link of the project's node, which hands on.
    Relay,
}

/// Which ways the networks of the services allow that one node asks for on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Straight: not where one of them has to be encrypted.
    pub lan: bool,
    /// Over links: only where one of them takes any way.
    pub link: bool,
}

impl Allowed {
    /// Every way.
    pub const ALL: Self = Self { lan: true, link: true };
    /// Tunnels only.
    pub const WIREGUARD: Self = Self { lan: false, link: false };

    /// What both allow together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { lan: self.lan && other.lan, link: self.link || other.link }
    }
}

/// One node's way to another, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// From this node.
    pub from: String,
    /// To that one.
    pub to: String,
    /// How; `None` while no way is known to work.
    pub class: Option<Class>,
    /// The ways that are tried, best first.
    pub ways: Vec<Way>,
    /// What shows that it is so.
    pub evidence: String,
}

impl Facts {
    /// Takes what the data plane of `node` reports. The answer: whether anything that tables depend on has changed.
    pub fn heard(&mut self, node: &str, report: &Report) -> bool {
        let before = (self.nodes.get(node).cloned(), self.lan.get(node).cloned());
        if let Some(tunnel) = &report.tunnel {
            let known = self.nodes.entry(node.to_owned()).or_default();
            known.public_key.clone_from(&tunnel.public_key);
            known.port = tunnel.port;
            known.addresses.clone_from(&tunnel.addresses);
            known.seen_as.clone_from(&tunnel.seen_as);
        }
        for (peer, state) in report.tunnel.iter().flat_map(|tunnel| &tunnel.tunnels) {
            let proven = self.straight(peer, state);
            let known = self.lan.entry(node.to_owned()).or_default();
            match proven {
                Some(address) => drop(known.insert(peer.clone(), address)),
                None => drop(known.remove(peer)),
            }
        }
        before != (self.nodes.get(node).cloned(), self.lan.get(node).cloned())
    }

    /// The address of its own at which a peer's packets arrive: a handshake with its key was made there.
    fn straight(&self, peer: &str, state: &TunnelState) -> Option<IpAddr> {
        let endpoint = state.endpoint.filter(|_| !state.through_hub && state.handshake_s.is_some())?;
        let own = &self.nodes.get(peer)?.addresses;
        own.contains(&endpoint.ip()).then_some(endpoint.ip())
    }

    /// Takes the nodes of a file, beside the project's own. What was told by one that is gone, or is another machine now, is
    /// forgotten.
    pub fn know(&mut self, hub: &str, nodes: &IndexMap<String, Node>) {
        let host = |name: &str| nodes.get(name).map(|node| node.host.as_str());
        let same = |known: &BTreeMap<String, String>, name: &str| {
            name == hub || host(name).is_some_and(|host| known.get(name).is_none_or(|known| known == host))
        };
        let Self { nodes: ends, lan, hosts } = self;
        ends.retain(|name, _| same(hosts, name));
        lan.retain(|name, _| same(hosts, name));
        for proven in lan.values_mut() {
            proven.retain(|name, _| same(hosts, name));
        }
        let now = nodes.iter().map(|(name, node)| (name.clone(), node.host.clone()));
        *hosts = now.collect();
    }

    /// What is known of a node's end of tunnels, once it has one.
    pub fn of(&self, node: &str) -> Option<&NodeFacts> {
        self.nodes.get(node).filter(|known| !known.public_key.is_empty())
    }

    /// The address at which `to` was proved to be reached straight from `from`.
    pub fn lan(&self, from: &str, to: &str) -> Option<IpAddr> {
        self.lan.get(from)?.get(to).copied()
    }

    /// The ways from a node to another, best first. `hub` is the project's node, which has the links.
    pub fn ways(&self, hub: &str, from: &str, to: &str, allowed: Allowed) -> Vec<Way> {
        let lan = self.lan(from, to).filter(|_| allowed.lan).map(|address| Way::Lan { address });
        let keys = self.of(from).is_some() && self.of(to).is_some();
        let link = match from == hub || to == hub {
            true => Way::Link,
            false => Way::Relay { via: hub.to_owned() },
        };
        let link = allowed.link.then_some(link);
        lan.into_iter().chain(keys.then_some(Way::Wireguard)).chain(link).collect()
    }
}

/// How `from` reaches `to`, of the ways that it has, by its latest report.
pub fn pair(from: &str, to: &str, ways: &[Way], report: Option<&Report>) -> Pair {
    let told = report.and_then(|report| report.peers.get(to));
    let tunnel = report.and_then(|report| report.tunnel.as_ref()?.tunnels.get(to));
    let mut class = None;
    let mut evidence = Vec::new();
    for way in ways {
        let said = told.and_then(|told| told.ways.iter().find(|said| said.way == *way));
        let works = said.and_then(|said| said.works);
        if let Some(said) = said.filter(|said| !said.evidence.is_empty()) {
            evidence.push(said.evidence.clone());
        }
        if class.is_some() || works == Some(false) {
            continue;
        }
        let shown = works == Some(true);
        class = match way {
            // It isn't among the ways without proof.
            Way::Lan { .. } => Some(Class::Lan),
            Way::Wireguard => match tunnel.filter(|tunnel| tunnel.handshake_s.is_some()) {
                Some(tunnel) if tunnel.through_hub => Some(Class::Hub),
                Some(_) => Some(Class::Wireguard),
                None => shown.then_some(Class::Wireguard),
            },
            Way::Link => shown.then_some(Class::Link),
            Way::Relay { .. } => shown.then_some(Class::Relay),
        };
    }
    let evidence = match evidence.is_empty() {
        true => "not tried yet".to_owned(),
        false => evidence.join("; "),
    };
    Pair { from: from.to_owned(), to: to.to_owned(), class, ways: ways.to_vec(), evidence }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::plane::{PeerReport, TunnelReport, WayReport};
    use crate::testing::node;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn report(tunnel: Option<TunnelReport>, ways: Vec<(&str, Way, bool)>) -> Report {
        let mut report = Report { tunnel, ..Report::default() };
        for (peer, way, works) in ways {
            let told: &mut PeerReport = report.peers.entry(peer.into()).or_default();
            let evidence = format!("{way:?} {works}");
            told.ways.push(WayReport { way, works: Some(works), evidence, rtt_us: None });
        }
        report
    }

    fn end(key: &str, address: &str) -> TunnelReport {
        TunnelReport {
            public_key: key.into(),
            port: 51820,
            addresses: vec![ip(address)],
            ..TunnelReport::default()
        }
    }

    fn texts(ways: &[Way]) -> Vec<String> {
        ways.iter().map(|way| serde_json::to_string(way).unwrap()).collect()
    }

    #[test]
    fn ways_come_with_what_shows_them() {
        let mut facts = Facts::default();
        assert_eq!(facts.ways("local", "local", "a", Allowed::ALL), [Way::Link]);
        assert_eq!(facts.ways("local", "a", "b", Allowed::ALL), [Way::Relay { via: "local".into() }]);
        assert!(facts.heard("local", &report(Some(end("k0", "10.0.0.9")), vec![])));
        assert!(facts.heard("a", &report(Some(end("k1", "10.0.0.1")), vec![])));
        assert!(!facts.heard("a", &report(Some(end("k1", "10.0.0.1")), vec![])), "nothing new");
        assert_eq!(facts.ways("local", "a", "local", Allowed::ALL), [Way::Wireguard, Way::Link]);
        // A handshake at an address of the peer's own: it is straight.
        let mut tunnel = end("k0", "10.0.0.9");
        let straight = TunnelState {
            endpoint: Some("10.0.0.1:51820".parse().unwrap()),
            handshake_s: Some(3),
            ..TunnelState::default()
        };
        tunnel.tunnels.insert("a".into(), straight.clone());
        assert!(facts.heard("local", &report(Some(tunnel), vec![])));
        let lan = Way::Lan { address: ip("10.0.0.1") };
        assert_eq!(
            texts(&facts.ways("local", "local", "a", Allowed::ALL)),
            [r#"{"way":"lan","address":"10.0.0.1"}"#, r#"{"way":"wireguard"}"#, r#"{"way":"link"}"#]
        );
        assert_eq!(facts.ways("local", "local", "a", Allowed::WIREGUARD), [Way::Wireguard]);
        // Somebody who accepts connections there proves nothing, and who doesn't takes nothing back.
        for works in [true, false] {
            assert!(!facts.heard("local", &report(None, vec![("a", lan.clone(), works)])));
            assert!(!facts.heard("local", &report(None, vec![("b", lan.clone(), works)])));
        }
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
        // The packets go another way.
        let mut tunnel = end("k0", "10.0.0.9");
        tunnel.tunnels.insert("a".into(), TunnelState { through_hub: true, ..straight });
        assert!(facts.clone().heard("local", &report(Some(tunnel), vec![])));
        // It is another machine.
        let mut nodes = IndexMap::from([("a".to_owned(), node("10.0.0.1", &[]))]);
        facts.know("local", &nodes);
        assert!(facts.of("a").is_some() && facts.lan("local", "a").is_some() && facts.of("local").is_some());
        nodes.insert("a".to_owned(), node("10.0.0.2", &[]));
        facts.know("local", &nodes);
        assert!(facts.of("a").is_none() && facts.lan("local", "a").is_none() && facts.of("local").is_some());
    }

    #[test]
    fn the_class_is_that_of_the_best_way_that_works() {
        let ways = [Way::Lan { address: ip("10.0.0.1") }, Way::Wireguard, Way::Link];
        assert_eq!(pair("local", "a", &ways[1..], None).class, None);
        assert_eq!(pair("local", "a", &ways[1..], None).evidence, "not tried yet");
        assert_eq!(pair("local", "a", &ways, None).class, Some(Class::Lan));
        let told = |lan, link| report(None, vec![("a", ways[0].clone(), lan), ("a", Way::Link, link)]);
        assert_eq!(pair("local", "a", &ways, Some(&told(false, true))).class, Some(Class::Link));
        assert_eq!(pair("local", "a", &ways, Some(&told(false, false))).class, None);
        let mut tunnel = end("k", "10.0.0.9");
        let state = TunnelState { handshake_s: Some(1), through_hub: true, ..TunnelState::default() };
        tunnel.tunnels.insert("a".into(), state);
        let report = report(Some(tunnel), vec![("a", ways[0].clone(), false)]);
        let pair = pair("local", "a", &ways, Some(&report));
        assert_eq!(pair.class, Some(Class::Hub));
        assert!(pair.evidence.contains("10.0.0.1"), "{pair:?}");
    }

    proptest! {
        /// Whatever is reported, there is a way, the last is one that needs no luck, and none comes twice.
        #[test]
        fn there_is_always_a_way(
            told in prop::collection::vec((0usize..3, 0usize..3, 0u8..4, any::<bool>(), any::<bool>()), 0..40),
        ) {
            const NODES: [&str; 3] = ["local", "a", "b"];
            let mut facts = Facts::default();
            for (from, to, address, straight, keyed) in told {
                let mut tunnel = end("key", "10.0.0.1");
                let endpoint = SocketAddr::from(([10, 0, 0, address], 51820));
                let state = TunnelState {
                    endpoint: straight.then_some(endpoint), handshake_s: Some(1), ..TunnelState::default()
                };
                tunnel.tunnels.insert(NODES[to].into(), state);
                facts.heard(NODES[from], &report(keyed.then_some(tunnel), vec![]));
            }
            for from in NODES {
                for to in NODES.into_iter().filter(|to| *to != from) {
                    let ways = facts.ways("local", from, to, Allowed::ALL);
                    let by_link = matches!(ways.last(), Some(Way::Link | Way::Relay { .. }));
                    prop_assert!(by_link);
                    let mut sorted = ways.clone();
                    sorted.sort();
                    prop_assert_eq!(&sorted, &ways, "best first, none twice");
                    sorted.dedup();
                    prop_assert_eq!(sorted.len(), ways.len());
                    let bound = facts.ways("local", from, to, Allowed::WIREGUARD);
                    prop_assert!(bound.iter().all(|way| *way == Way::Wireguard));
                }
            }
        }
    }
}

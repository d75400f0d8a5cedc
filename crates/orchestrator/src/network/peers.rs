//! The overlay that tunnels make: who has which address in it, and where each end's UDP port may be reached.

use super::plane::{Table, Tunnel, TunnelInterface, TunnelPeer, Way};
use super::topology::{Facts, NodeFacts};
use super::{Full, Sites};
use crate::model::Node;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Nodes that an overlay has room for: each has a /24 in it, of which neither the first nor the last is given.
const PLACES: u8 = 254;
/// Candidates that are handed on: the likeliest.
const CANDIDATES: usize = 16;
/// Bits of the network that all interfaces are in: never more of it than the overlay gives out.
const INTERFACES: u8 = 16;

/// An IPv4 subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

impl Subnet {
    /// `10.210.0.0/16`; bits behind the prefix are left out. `None` if it isn't one.
    pub fn parse(text: &str) -> Option<Self> {
        let (base, prefix) = text.split_once('/')?;
        let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
        let base: Ipv4Addr = base.parse().ok()?;
        Some(Self { base: u32::from(base) & mask(prefix), prefix })
    }

    /// Whether any address lies in both.
    pub fn overlaps(self, other: Self) -> bool {
        let mask = mask(self.prefix.min(other.prefix));
        self.base & mask == other.base & mask
    }

    /// Whether an address lies in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.base
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is no IPv4 subnet"))
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

/// The overlay and the places of nodes in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    subnet: Option<Subnet>,
    /// Raised whenever a subnet is chosen.
    epoch: u64,
    places: BTreeMap<String, u8>,
    /// The place after the one that was leased last.
    next: u8,
}

impl Overlay {
    /// Leases a place for `node` if it has none, and a subnet for the overlay if that has none: the file's if it names one,
    /// else the first that none of `taken` overlaps.
    ///
    /// # Errors
    /// [`Full::Overlay`], at once.
    pub fn lease(&mut self, node: &str, wanted: Option<Subnet>, taken: &[Subnet]) -> Result<(), Full> {
        if self.places.contains_key(node) {
            return Ok(());
        }
        let full = |subnet: String| Full::Overlay { node: node.to_owned(), subnet };
        let subnet = match self.subnet.or(wanted.filter(|wanted| wanted.prefix <= 16)) {
            Some(subnet) => subnet,
            None => free(taken).ok_or_else(|| full(String::new()))?,
        };
        let used: BTreeSet<u8> = self.places.values().copied().collect();
        let start = u32::from(self.next.clamp(1, PLACES)) - 1;
        let place = (0..u32::from(PLACES))
            .filter_map(|step| u8::try_from((start + step) % u32::from(PLACES) + 1).ok())
            .find(|place| !used.contains(place))
            .ok_or_else(|| full(subnet.to_string()))?;
        if self.subnet.is_none() {
            self.subnet = Some(subnet);
            self.epoch += 1;
        }
        self.places.insert(node.to_owned(), place);
        self.next = if place >= PLACES { 1 } else { place + 1 };
        Ok(())
    }

    /// The address of a node: the first of its /24.
    pub fn address(&self, node: &str) -> Option<Ipv4Addr> {
        let place = u32::from(*self.places.get(node)?);
        Some(Ipv4Addr::from(self.subnet?.base + (place << 8) + 1))
    }

    /// The address of a node's interface: the second of its /24.
    pub fn interface(&self, node: &str) -> Option<Ipv4Addr> {
        self.address(node).map(|address| Ipv4Addr::from(u32::from(address) + 1))
    }

    /// The overlay, once there is one.
    pub fn subnet(&self) -> Option<Subnet> {
        self.subnet
    }

    /// What overlaps it now. It is never given up silently: whoever is asked tells both.
    pub fn conflict(&self, taken: &[Subnet]) -> Option<Subnet> {
        let own = self.subnet?;
        taken.iter().copied().find(|other| own.overlaps(*other))
    }

    /// Takes back the places of nodes that `keep` doesn't want.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.places.retain(|node, _| keep(node));
    }
}

/// 10.210.0.0/16 to 10.225.0.0/16, then 172.31.0.0/16.
fn free(taken: &[Subnet]) -> Option<Subnet> {
    let tens = (210..=225).map(|second| Ipv4Addr::new(10, second, 0, 0));
    let bases = tens.chain([Ipv4Addr::new(172, 31, 0, 0)]);
    let mut subnets = bases.map(|base| Subnet { base: u32::from(base), prefix: 16 });
    subnets.find(|subnet| !taken.iter().any(|other| subnet.overlaps(*other)))
}

/// What all ends of tunnels have in common.
pub struct Tunnels<'a> {
    /// The project's node.
    pub hub: &'a str,
    /// The stack's key, hex of 32 bytes.
    pub probe_key: &'a str,
    /// Raised to have every node make another key.
    pub key_epoch: u64,
    /// What is known of the ends.
    pub facts: &'a Facts,
    /// Their addresses.
    pub overlay: &'a Overlay,
    /// The name of the interface of the kernel's that ends have besides, where the file wants one.
    pub interface: Option<&'a str>,
    /// The nodes of the file.
    pub nodes: &'a IndexMap<String, Node>,
    /// Addresses that connections have shown.
    pub sites: &'a Sites,
}

impl Tunnels<'_> {
    /// Gives each table its end of the tunnels to its peers. Where an end has no address, there is no tunnel.
    pub fn into_tables(&self, tables: &mut BTreeMap<String, Table>) {
        for (node, table) in tables {
            let Some(address) = self.overlay.address(node).filter(|_| !table.peers.is_empty()) else {
                for peer in table.peers.values_mut() {
                    peer.ways.retain(|way| *way != Way::Wireguard);
                }
                continue;
            };
            let mut peers = BTreeMap::new();
            for (name, peer) in &mut table.peers {
                match self.peer(node, name) {
                    Some(known) => drop(peers.insert(name.clone(), known)),
                    None => peer.ways.retain(|way| *way != Way::Wireguard),
                }
            }
            table.tunnel = Some(Tunnel {
                address,
                port: 0,
                probe_key: self.probe_key.to_owned(),
                key_epoch: self.key_epoch,
                hub: (node != self.hub).then(|| self.hub.to_owned()),
                interface: self.interface.zip(self.overlay.interface(node)).map(|(name, address)| {
                    TunnelInterface { name: name.to_owned(), address, prefix: INTERFACES }
                }),
                peers,
            });
        }
    }

    fn peer(&self, from: &str, to: &str) -> Option<TunnelPeer> {
        let known = self.facts.of(to)?;
        let address = self.overlay.address(to)?;
        Some(TunnelPeer {
            public_key: known.public_key.clone(),
            address,
            interface: self.interface.and_then(|_| self.overlay.interface(to)),
            candidates: self.candidates(from, to, known),
        })
    }

    /// Where the UDP port of `to` may be reached from `from`, likeliest first: what the user said, addresses that look to be
    /// in the same subnet, the address that ssh used, the others, and as what others have seen it.
    fn candidates(&self, from: &str, to: &str, known: &NodeFacts) -> Vec<SocketAddr> {
        let own: &[IpAddr] = self.facts.of(from).map_or(&[], |facts| facts.addresses.as_slice());
        let said = self.nodes.get(to).and_then(|node| node.host.parse::<IpAddr>().ok());
        let near =
            known.addresses.iter().copied().filter(|address| own.iter().any(|own| alike(*own, *address)));
        let by_ssh = match (from == self.hub, to == self.hub) {
            (true, _) => self.sites.far(to),
            (_, true) => self.sites.near(from),
            _ => None,
        };
        let addresses = said.into_iter().chain(near).chain(by_ssh).chain(known.addresses.iter().copied());
        let at_port = addresses.map(|address| SocketAddr::new(address, known.port));
        let all = at_port.filter(|_| known.port != 0).chain(known.seen_as.values().copied());
        let mut candidates: Vec<SocketAddr> = Vec::new();
        for candidate in all.filter(|candidate| !candidate.ip().is_loopback()) {
            if candidates.len() < CANDIDATES && !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        candidates
    }
}

/// Whether two addresses are in the same /24. It only says what to try first.
fn alike(a: IpAddr, b: IpAddr) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u32::from(a) >> 8 == u32::from(b) >> 8,
        (IpAddr::V6(a), IpAddr::V6(b)) => u128::from(a) >> 64 == u128::from(b) >> 64,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::plane::{Peer, Report, TunnelReport};
    use crate::testing::node;
    use proptest::prelude::*;

    fn subnet(text: &str) -> Subnet {
        Subnet::parse(text).unwrap()
    }

    #[test]
    fn a_subnet_that_is_taken_is_passed_by() {
        let mut overlay = Overlay::default();
        overlay.lease("local", None, &[subnet("10.0.0.0/8")]).unwrap();
        assert_eq!(overlay.address("local"), Some(Ipv4Addr::new(172, 31, 1, 1)));
        overlay.lease("a", None, &[]).unwrap();
        assert_eq!(overlay.address("a"), Some(Ipv4Addr::new(172, 31, 2, 1)), "chosen once");
        assert_eq!(overlay.conflict(&[subnet("172.16.0.0/12")]), Some(subnet("172.16.0.0/12")));
        let mut first = Overlay::default();
        first.lease("local", None, &[subnet("10.210.7.0/24")]).unwrap();
        assert_eq!(first.subnet(), Some(subnet("10.211.0.0/16")));
        let mut said = Overlay::default();
        said.lease("local", Some(subnet("10.42.0.0/16")), &[]).unwrap();
        assert_eq!(said.address("local"), Some(Ipv4Addr::new(10, 42, 1, 1)));
        let full = Overlay::default().lease("a", None, &[subnet("0.0.0.0/0")]).unwrap_err();
        assert_eq!(full, Full::Overlay { node: "a".into(), subnet: String::new() });
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/64"] {
            assert_eq!(Subnet::parse(bad), None, "{bad}");
        }
        let text = serde_json::to_string(&said).unwrap();
        assert_eq!(serde_json::from_str::<Overlay>(&text).unwrap(), said);
    }

    fn end(facts: &mut Facts, name: &str, addresses: &[&str], seen_as: &[(&str, &str)]) {
        let tunnel = TunnelReport {
            public_key: format!("key of {name}"),
            port: 51820,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            seen_as: seen_as.iter().map(|(by, at)| ((*by).to_owned(), at.parse().unwrap())).collect(),
            ..TunnelReport::default()
        };
        facts.heard(name, &Report { tunnel: Some(tunnel), ..Report::default() });
    }

    #[test]
    fn candidates_come_likeliest_first() {
        let mut facts = Facts::default();
        end(&mut facts, "local", &["192.168.1.5"], &[]);
        end(&mut facts, "a", &["10.9.9.9", "192.168.1.7"], &[("local", "5.6.7.8:40000")]);
        let mut overlay = Overlay::default();
        for node in ["local", "a"] {
            overlay.lease(node, None, &[]).unwrap();
        }
        let nodes = IndexMap::from([("a".to_owned(), node("1.2.3.4", &[]))]);
        let mut sites = Sites::default();
        sites.know(&nodes);
        sites.saw("a", "192.168.1.5".parse().ok(), "10.0.0.7".parse().ok());
        let tunnels = Tunnels {
            hub: "local",
            probe_key: "secret",
            key_epoch: 1,
            facts: &facts,
            overlay: &overlay,
            interface: Some("wg-test"),
            nodes: &nodes,
            sites: &sites,
        };
        let table = |peer: &str| Table {
            peers: [(peer.to_owned(), Peer { ways: vec![Way::Wireguard, Way::Link], link: vec![] })].into(),
            ..Table::default()
        };
        let mut tables = BTreeMap::from([("local".to_owned(), table("a")), ("a".to_owned(), table("b"))]);
        tunnels.into_tables(&mut tables);
        let tunnel = tables["local"].tunnel.as_ref().unwrap();
        let candidates: Vec<String> = tunnel.peers["a"].candidates.iter().map(ToString::to_string).collect();
        assert_eq!(
            candidates,
            ["1.2.3.4:51820", "192.168.1.7:51820", "10.0.0.7:51820", "10.9.9.9:51820", "5.6.7.8:40000"]
        );
        assert_eq!((tunnel.address, tunnel.hub.as_deref()), (Ipv4Addr::new(10, 210, 1, 1), None));
        let interface = tunnel.interface.as_ref().unwrap();
        assert_eq!((interface.name.as_str(), interface.address), ("wg-test", Ipv4Addr::new(10, 210, 1, 2)));
        assert_eq!(tunnel.peers["a"].interface, Some(Ipv4Addr::new(10, 210, 2, 2)));
        let other = tables["a"].tunnel.as_ref().unwrap();
        assert_eq!((other.peers.len(), other.hub.as_deref()), (0, Some("local")));
        assert_eq!(tables["a"].peers["b"].ways, [Way::Link], "no tunnel to what has no key");
        assert!(!format!("{other:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn no_address_twice_none_outside_never_network_or_broadcast(
            steps in prop::collection::vec((0u16..400, any::<bool>()), 1..600),
        ) {
            let mut overlay = Overlay::default();
            let mut seen: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
            for (number, leaves) in steps {
                let node = format!("n{number}");
                if leaves {
                    overlay.retain(|other| other != node);
                    seen.remove(&node);
                    continue;
                }
                match overlay.lease(&node, None, &[]) {
                    Err(_) => prop_assert_eq!(seen.len(), 254, "full only when it is"),
                    Ok(()) => {
                        let address = overlay.address(&node).unwrap();
                        let [_, _, third, fourth] = address.octets();
                        prop_assert!(subnet("10.210.0.0/16").contains(address));
                        prop_assert!(third != 0 && third != 255 && fourth == 1);
                        if let Some(before) = seen.insert(node, address) {
                            prop_assert_eq!(before, address);
                        }
                    }
                }
                let distinct: BTreeSet<_> = seen.values().collect();
                prop_assert_eq!(distinct.len(), seen.len());
            }
        }
    }
}

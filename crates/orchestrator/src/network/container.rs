//! The stack's container network: which address each instance has in it.
//!
//! A container's address is leased to its instance and kept, so that what was told to others stays true when the
//! container is replaced. What is leased is a place in the subnet: should the network have to be made anew with another
//! subnet, every instance keeps its place.

use super::Full;
use crate::model::InstanceName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The network that a container engine has for the stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerNetwork {
    /// Its name in the engine.
    pub name: String,
    /// Its first address.
    pub base: Ipv4Addr,
    /// Bits of the subnet's prefix, at most 30.
    pub prefix: u8,
    /// This machine's address in it.
    pub gateway: Ipv4Addr,
}

/// Places in the subnet, by instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressLeases {
    places: BTreeMap<InstanceName, u32>,
    /// The place after the one that was leased last: an address isn't reused right after it came free.
    next: u32,
}

/// The first place that is leased: before it are the network's own address and, usually, the gateway's.
const FIRST: u32 = 2;

impl ContainerNetwork {
    /// A network from `A.B.C.D/N` and its gateway; the first address where none is told. `None` if that isn't IPv4, or
    /// has no room.
    pub fn parse(name: &str, subnet: &str, gateway: Option<&str>) -> Option<Self> {
        let (base, prefix) = subnet.split_once('/')?;
        let base: Ipv4Addr = base.parse().ok()?;
        let prefix: u8 = prefix.parse().ok().filter(|prefix| (1..=30).contains(prefix))?;
        let gateway = match gateway.filter(|gateway| !gateway.is_empty()) {
            Some(gateway) => gateway.parse().ok()?,
            None => Ipv4Addr::from(u32::from(base).checked_add(1)?),
        };
        Some(Self { name: name.to_owned(), base, prefix, gateway })
    }

    /// `A.B.C.D/N`.
    pub fn subnet(&self) -> String {
        format!("{}/{}", self.base, self.prefix)
    }

    /// How many addresses there are, with the network's own and the broadcast address.
    fn size(&self) -> u32 {
        1 << (32 - u32::from(self.prefix.clamp(1, 30)))
    }

    /// The addresses at the end of it that no instance is given: for ambassadors, who are told theirs by nobody else. A
    /// small network has none.
    fn reserved(&self) -> u32 {
        if self.size() >= 64 { self.size() / 4 } else { 0 }
    }

    /// An address for whoever is found by name only, chosen by `seed`: always the same one in that network. `None` in a small
    /// network; then the engine chooses.
    pub fn spare(&self, seed: u64) -> Option<Ipv4Addr> {
        let reserved = u64::from(self.reserved().checked_sub(2)?.max(1));
        self.at(self.size() - 2 - u32::try_from(seed % reserved).ok()?)
    }

    /// The address at that place; `None` for the network's own, the gateway, the broadcast address and what is outside.
    fn at(&self, place: u32) -> Option<Ipv4Addr> {
        let usable = place > 0 && place < self.size() - 1;
        let address = Ipv4Addr::from(u32::from(self.base).checked_add(place)?);
        (usable && address != self.gateway).then_some(address)
    }
}

impl AddressLeases {
    /// The address of `instance` in `network`, if it has one.
    pub fn address(&self, network: &ContainerNetwork, instance: &InstanceName) -> Option<Ipv4Addr> {
        network.at(*self.places.get(instance)?)
    }

    /// Leases a place for `instance` if it has none in that network. Next-fit.
    ///
    /// # Errors
    /// [`Full::Network`], at once, when every address is leased.
    pub fn lease(&mut self, network: &ContainerNetwork, instance: &InstanceName) -> Result<(), Full> {
        if self.address(network, instance).is_some() {
            return Ok(());
        }
        let taken: BTreeSet<u32> =
            self.places.iter().filter(|(name, _)| *name != instance).map(|(_, place)| *place).collect();
        let size = network.size() - network.reserved();
        let full = || Full::Network { instance: instance.clone(), subnet: network.subnet() };
        // More than are taken need not be looked at.
        let start = self.next.max(FIRST);
        let place = (0..size)
            .map(|step| (start - FIRST + step) % size.saturating_sub(FIRST).max(1) + FIRST)
            .find(|place| !taken.contains(place) && network.at(*place).is_some())
            .ok_or_else(full)?;
        self.places.insert(instance.clone(), place);
        self.next = place + 1;
        Ok(())
    }

    /// Takes back the places of all that `keep` doesn't want.
    pub fn retain(&mut self, keep: impl Fn(&InstanceName) -> bool) {
        self.places.retain(|instance, _| keep(instance));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instance;
    use proptest::prelude::*;

    fn network(subnet: &str) -> ContainerNetwork {
        ContainerNetwork::parse("n", subnet, None).unwrap()
    }

    #[test]
    fn subnets() {
        let parsed = ContainerNetwork::parse("n", "172.20.0.0/16", Some("172.20.0.1")).unwrap();
        assert_eq!(
            (parsed.subnet().as_str(), parsed.gateway),
            ("172.20.0.0/16", Ipv4Addr::new(172, 20, 0, 1))
        );
        for bad in ["", "172.20.0.0", "172.20.0.0/31", "172.20.0.0/0", "fd00::/64", "a/16", "1.2.3.4/x"] {
            assert_eq!(ContainerNetwork::parse("n", bad, None), None, "{bad}");
        }
    }

    #[test]
    fn an_address_is_kept_and_full_is_said_at_once() {
        let small = network("10.0.0.0/29");
        let mut leases = AddressLeases::default();
        for number in 1..=5 {
            leases.lease(&small, &instance(&format!("a-{number}"))).unwrap();
        }
        let first = leases.address(&small, &instance("a-1"));
        assert_eq!(first, Some(Ipv4Addr::new(10, 0, 0, 2)));
        let full = leases.lease(&small, &instance("b-1")).unwrap_err();
        assert_eq!(full.to_string(), "no free address in 10.0.0.0/29 for b-1");
        leases.lease(&small, &instance("a-1")).unwrap();
        assert_eq!(leases.address(&small, &instance("a-1")), first);
        leases.retain(|name| *name != instance("a-3"));
        leases.lease(&small, &instance("b-1")).unwrap();
        // Another subnet: the same places.
        let other = network("10.9.0.0/16");
        assert_eq!(leases.address(&other, &instance("a-1")), Some(Ipv4Addr::new(10, 9, 0, 2)));
    }

    proptest! {
        #[test]
        fn no_address_twice_none_outside_never_network_broadcast_or_gateway(
            prefix in 24u8..=30, gateway in 1u32..3, names in prop::collection::vec("[a-f]-[1-9]", 1..80)
        ) {
            let base = Ipv4Addr::new(10, 1, 2, 0);
            let gateway = Ipv4Addr::from(u32::from(base) + gateway);
            let network = ContainerNetwork { name: "n".into(), base, prefix, gateway };
            let mut leases = AddressLeases::default();
            let mut seen = BTreeMap::new();
            for name in names {
                let name = instance(&name);
                if leases.lease(&network, &name).is_err() {
                    prop_assert!(seen.len() as u32 + network.reserved() + 4 >= network.size(), "full only when it is");
                    continue;
                }
                let address = leases.address(&network, &name).unwrap();
                let place = u32::from(address) - u32::from(base);
                prop_assert!(place > 0 && place < network.size() - 1 && address != gateway);
                let spare = network.spare(u64::from(place) * 7919);
                prop_assert!(spare.is_none_or(|spare| u32::from(spare) - u32::from(base) < network.size() - 1));
                prop_assert!(spare.is_none_or(|spare| spare > address && spare != gateway), "of nobody");
                if let Some(before) = seen.insert(name.clone(), address) {
                    prop_assert_eq!(before, address);
                }
            }
            let distinct: BTreeSet<_> = seen.values().collect();
            prop_assert_eq!(distinct.len(), seen.len());
        }
    }
}

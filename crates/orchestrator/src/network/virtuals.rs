//! Virtual addresses: one for each service that can move, multiply or stand on another node, the same on every node.
//!
//! A stack has a /24 in 127.64.0.0/10, a service a place in it that it keeps by its name. Both are chosen once and
//! never changed silently: what was told to others stays true.

use super::Full;
use crate::model::{PortNumber, Service, ServiceName};
use crate::network::PortLeases;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The first address of the range: every loopback address from 127.64.0.0 to 127.127.255.255.
const BASE: u32 = 0x7f40_0000;
/// How many /24 the range has. Neither the first nor the last is ever used.
const SLOTS: u16 = 16_384;
/// How many services a stack may have there: .0 and .255 are never given.
const PLACES: u8 = 254;

/// The stack's /24 and who has which place in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Virtuals {
    /// Which /24 of the range.
    slot: Option<u16>,
    /// Raised whenever a /24 is chosen.
    epoch: u64,
    services: BTreeMap<ServiceName, Virtual>,
    /// The place of the DNS zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<u8>,
    /// The place after the one that was leased last: an address isn't reused right after it came free.
    next: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Virtual {
    /// 1 to 254.
    place: u8,
    /// Ports, by position, that can't have the declared number there, and have the one that was leased to the service.
    #[serde(default)]
    leased: BTreeSet<usize>,
}

/// The slot that an address lies in, if it is one of the range: `127.64.1.7` lies in slot 1.
pub fn slot_of(address: Ipv4Addr) -> Option<u16> {
    let offset = u32::from(address).checked_sub(BASE)?;
    u16::try_from(offset >> 8).ok().filter(|slot| *slot < SLOTS)
}

impl Virtuals {
    /// Leases a place for `service` if it has none, and a /24 for the stack if that has none: the first that isn't `taken`,
    /// from where `seed` says. `leased` are the ports that can't have their declared numbers there.
    ///
    /// # Errors
    /// [`Full::Slots`] and [`Full::Virtual`], at once.
    pub fn lease(
        &mut self,
        service: &ServiceName,
        leased: BTreeSet<usize>,
        seed: u64,
        taken: impl Fn(u16) -> bool,
    ) -> Result<(), Full> {
        if let Some(known) = self.services.get_mut(service) {
            known.leased = leased;
            return Ok(());
        }
        let place = self.free_place(service.as_str(), seed, taken)?;
        self.services.insert(service.clone(), Virtual { place, leased });
        Ok(())
    }

    /// The same for the stack's DNS zone.
    ///
    /// # Errors
    /// As [`Virtuals::lease`].
    pub fn lease_zone(&mut self, seed: u64, taken: impl Fn(u16) -> bool) -> Result<(), Full> {
        if self.zone.is_none() {
            self.zone = Some(self.free_place("the zone", seed, taken)?);
        }
        Ok(())
    }

    /// Takes the zone's place back.
    pub fn free_zone(&mut self) {
        self.zone = None;
    }

    /// The address of the DNS zone, the same on every node; `None` if it has none.
    pub fn zone(&self) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from(base(self.slot?) + u32::from(self.zone?)))
    }

    /// Finds a place for `owner`, and a /24 if there is none yet.
    fn free_place(&mut self, owner: &str, seed: u64, taken: impl Fn(u16) -> bool) -> Result<u8, Full> {
        let slot = match self.slot {
            Some(slot) => slot,
            None => free_slot(seed, taken).ok_or(Full::Slots)?,
        };
        let used: BTreeSet<u8> = self.services.values().map(|known| known.place).chain(self.zone).collect();
        let start = u32::from(self.next.clamp(1, PLACES)) - 1;
        let place = (0..u32::from(PLACES))
            .filter_map(|step| u8::try_from((start + step) % u32::from(PLACES) + 1).ok())
            .find(|place| !used.contains(place))
            .ok_or_else(|| Full::Virtual { owner: owner.to_owned(), subnet: subnet(slot) })?;
        if self.slot.is_none() {
            self.slot = Some(slot);
            self.epoch += 1;
        }
        self.next = if place >= PLACES { 1 } else { place + 1 };
        Ok(place)
    }

    /// The address of `service`, the same on every node; `None` if it has none.
    pub fn address(&self, service: &ServiceName) -> Option<Ipv4Addr> {
        let place = self.services.get(service)?.place;
        Some(Ipv4Addr::from(base(self.slot?) + u32::from(place)))
    }

    /// The port of the service's port number `position` at its virtual address.
    pub fn port(&self, leases: &PortLeases, service: &Service, position: usize) -> Option<u16> {
        let leased = self.services.get(&service.name)?.leased.contains(&position);
        match service.ports.get(position)?.number {
            PortNumber::Fixed(number) if !leased => Some(number),
            _ => leases.service_port(&service.name, position),
        }
    }

    /// The stack's /24, as `127.64.1.0/24`, once it has one.
    pub fn subnet(&self) -> Option<String> {
        self.slot.map(subnet)
    }

    /// How often a /24 was chosen; 0 before the first time.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Who has an address, with it.
    pub fn iter(&self) -> impl Iterator<Item = (&ServiceName, Ipv4Addr)> {
        self.services.keys().filter_map(|service| Some((service, self.address(service)?)))
    }

    /// Whether nobody has an address.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.zone.is_none()
    }

    /// Takes back the places of all that `keep` doesn't want. The stack keeps its /24.
    pub fn retain(&mut self, keep: impl Fn(&ServiceName) -> bool) {
        self.services.retain(|service, _| keep(service));
    }
}

fn base(slot: u16) -> u32 {
    BASE + (u32::from(slot) << 8)
}

fn subnet(slot: u16) -> String {
    format!("{}/24", Ipv4Addr::from(base(slot)))
}

fn free_slot(seed: u64, taken: impl Fn(u16) -> bool) -> Option<u16> {
    let usable = u64::from(SLOTS) - 2;
    let from = seed % usable;
    (0..usable).filter_map(|step| u16::try_from((from + step) % usable + 1).ok()).find(|slot| !taken(*slot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;
    use proptest::prelude::*;

    fn lease(virtuals: &mut Virtuals, service: &str, seed: u64) -> Result<Ipv4Addr, Full> {
        virtuals.lease(&name(service), BTreeSet::new(), seed, |_| false)?;
        Ok(virtuals.address(&name(service)).unwrap())
    }

    #[test]
    fn a_place_is_kept_by_name_and_full_is_said_at_once() {
        let mut virtuals = Virtuals::default();
        assert_eq!(lease(&mut virtuals, "db", 0), Ok(Ipv4Addr::new(127, 64, 1, 1)), "never the first /24");
        assert_eq!(lease(&mut virtuals, "web", 99), Ok(Ipv4Addr::new(127, 64, 1, 2)), "chosen once");
        virtuals.retain(|service| service.as_str() != "db");
        assert_eq!(lease(&mut virtuals, "api", 0), Ok(Ipv4Addr::new(127, 64, 1, 3)), "not reused at once");
        assert_eq!(virtuals.epoch(), 1);
        for number in 0..252 {
            lease(&mut virtuals, &format!("s{number}"), 0).unwrap();
        }
        let full = lease(&mut virtuals, "late", 0).unwrap_err();
        assert_eq!(full.to_string(), "no free virtual address in 127.64.1.0/24 for late: a stack has 254");
        let text = serde_json::to_string(&virtuals).unwrap();
        assert_eq!(serde_json::from_str::<Virtuals>(&text).unwrap(), virtuals);
    }

    #[test]
    fn a_taken_slot_is_passed_by_and_the_last_is_never_used() {
        let mut virtuals = Virtuals::default();
        let last = u64::from(SLOTS) - 3;
        virtuals.lease(&name("db"), BTreeSet::new(), last, |slot| slot == SLOTS - 2).unwrap();
        assert_eq!(virtuals.subnet().as_deref(), Some("127.64.1.0/24"), "after the last comes the first");
        let none = Virtuals::default().lease(&name("db"), BTreeSet::new(), 7, |_| true);
        assert_eq!(none, Err(Full::Slots));
        assert_eq!(slot_of(Ipv4Addr::new(127, 64, 1, 7)), Some(1));
        assert_eq!(slot_of(Ipv4Addr::new(127, 127, 255, 1)), Some(SLOTS - 1));
        for outside in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 128, 0, 1), Ipv4Addr::new(10, 0, 0, 1)] {
            assert_eq!(slot_of(outside), None);
        }
    }

    proptest! {
        #[test]
        fn no_address_twice_none_outside_never_the_first_or_last_of_a_subnet(
            seed: u64, taken in prop::collection::btree_set(0..SLOTS, 0..50),
            steps in prop::collection::vec((0u16..400, any::<bool>()), 1..600), with_zone: bool,
        ) {
            let mut virtuals = Virtuals::default();
            if with_zone {
                virtuals.lease_zone(seed, |slot| taken.contains(&slot)).unwrap();
            }
            let zone = virtuals.zone();
            let mut seen: BTreeMap<ServiceName, Ipv4Addr> = BTreeMap::new();
            for (number, leaves) in steps {
                let service = name(&format!("s{number}"));
                if leaves {
                    virtuals.retain(|other| *other != service);
                    seen.remove(&service);
                    continue;
                }
                match virtuals.lease(&service, BTreeSet::new(), seed, |slot| taken.contains(&slot)) {
                    Err(_) => prop_assert_eq!(seen.len(), 254 - usize::from(zone.is_some()), "full only when it is"),
                    Ok(()) => {
                        let address = virtuals.address(&service).unwrap();
                        let [.., last] = address.octets();
                        prop_assert!(last != 0 && last != 255);
                        let slot = slot_of(address).unwrap();
                        prop_assert!(slot > 0 && slot < SLOTS - 1 && !taken.contains(&slot));
                        if let Some(before) = seen.insert(service, address) {
                            prop_assert_eq!(before, address);
                        }
                    }
                }
                let distinct: BTreeSet<_> = seen.values().chain(&zone).collect();
                prop_assert_eq!(distinct.len(), seen.len() + usize::from(with_zone));
                prop_assert_eq!(virtuals.zone(), zone, "never changed");
                prop_assert_eq!(virtuals.iter().count(), seen.len());
            }
        }
    }
}

//! Free ports for `port: auto`: leased to an instance and kept for it.

use crate::model::{InstanceName, PortNumber, Service, ServiceName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The ports that instances got, by instance and position in its list of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortLeases {
    leases: BTreeMap<InstanceName, BTreeMap<usize, u16>>,
    /// Ports of services as a whole, by position: at container networks' gateways, and at virtual addresses where the declared
    /// number can't be had.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    services: BTreeMap<ServiceName, BTreeMap<usize, u16>>,
    /// The port after the one that was leased last: a port isn't reused right after it came free.
    next: u16,
}

/// The ports that may be leased, first and last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First.
    pub first: u16,
    /// Last, not below the first.
    pub last: u16,
}

/// Nothing is left to lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// No port of the range is free.
    #[error("no free port between {first} and {last} for {instance}")]
    Ports {
        /// The instance that got none.
        instance: InstanceName,
        /// First of the range.
        first: u16,
        /// Last of the range.
        last: u16,
    },
    /// No address of the container network is free.
    #[error("no free address in {subnet} for {instance}")]
    Network {
        /// The instance that got none.
        instance: InstanceName,
        /// The network's subnet.
        subnet: String,
    },
    /// No virtual address of the stack is free.
    #[error("no free virtual address in {subnet} for {owner}: a stack has 254")]
    Virtual {
        /// What got none: a service, or the zone.
        owner: String,
        /// The stack's /24.
        subnet: String,
    },
    /// Every /24 for virtual addresses is taken.
    #[error("no /24 in 127.64.0.0/10 is free on this machine")]
    Slots,
    /// No address of the overlay is free.
    #[error("no free address in {subnet} for node {node}")]
    Overlay {
        /// The node that got none.
        node: String,
        /// The overlay's subnet; empty where there is none to choose.
        subnet: String,
    },
}

impl PortRange {
    /// Below the kernel's ephemeral ports (`net.ipv4.ip_local_port_range`), so that no outgoing connection takes one by
    /// chance: 10,000 ports up to there, or 20000 to 29999 if there isn't room below.
    pub fn below_ephemeral(ephemeral_first: u16) -> Self {
        if ephemeral_first >= 15_000 {
            Self { first: ephemeral_first - 10_000, last: ephemeral_first - 1 }
        } else {
            Self { first: 20_000, last: 29_999 }
        }
    }

    fn size(self) -> u32 {
        u32::from(self.last).saturating_sub(u32::from(self.first)) + 1
    }
}

impl PortLeases {
    /// Leases for a project: `seed` (a hash of its id) says where in the range to begin, so that two projects seldom meet.
    pub fn new(range: PortRange, seed: u64) -> Self {
        let offset = u16::try_from(seed % u64::from(range.size())).unwrap_or(0);
        Self { next: range.first.saturating_add(offset), ..Self::default() }
    }

    /// The port that was leased to the service as a whole for its port number `position`.
    pub fn service_port(&self, service: &ServiceName, position: usize) -> Option<u16> {
        self.services.get(service)?.get(&position).copied()
    }

    /// Whether any service as a whole has a port.
    pub fn serves(&self) -> bool {
        !self.services.is_empty()
    }

    /// Takes back the ports of services as a whole that `keep` doesn't want.
    pub fn retain_services(&mut self, keep: impl Fn(&ServiceName) -> bool) {
        self.services.retain(|service, _| keep(service));
    }

    fn taken(&self, declared: &BTreeSet<u16>) -> BTreeSet<u16> {
        let leased = self.leases.values().chain(self.services.values());
        leased.flat_map(|ports| ports.values().copied()).chain(declared.iter().copied()).collect()
    }

    /// The next port of the range that is free, which is then no more. Next-fit.
    fn take(
        &mut self,
        range: PortRange,
        taken: &mut BTreeSet<u16>,
        in_use: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let start = self.next.clamp(range.first, range.last);
        let port = (0..range.size())
            .filter_map(|i| {
                let offset = (u32::from(start - range.first) + i) % range.size();
                u16::try_from(u32::from(range.first) + offset).ok()
            })
            .find(|port| !taken.contains(port) && !in_use(*port))?;
        taken.insert(port);
        self.next = if port >= range.last { range.first } else { port + 1 };
        Some(port)
    }

    /// The port that stands behind the port number `position` of `service`, as `instance` has it.
    pub fn port(&self, instance: &InstanceName, service: &Service, position: usize) -> Option<u16> {
        match service.ports.get(position)?.number {
            PortNumber::Fixed(port) => Some(port),
            PortNumber::Auto => self.leases.get(instance)?.get(&position).copied(),
        }
    }
}

/// Leases a port for each `auto` of `service` that `instance` hasn't one for. `in_use` says whether something listens on a
/// port, `declared` are the fixed ports of the stack. `true` if something was leased.
pub fn allocate(
    leases: &mut PortLeases,
    range: PortRange,
    instance: &InstanceName,
    service: &Service,
    declared: &BTreeSet<u16>,
    in_use: impl Fn(u16) -> bool,
) -> Result<bool, Full> {
    let wanted: Vec<usize> = service
        .ports
        .iter()
        .enumerate()
        .filter(|(position, port)| {
            port.number == PortNumber::Auto
                && !leases.leases.get(instance).is_some_and(|ports| ports.contains_key(position))
        })
        .map(|(position, _)| position)
        .collect();
    if wanted.is_empty() {
        return Ok(false);
    }
    let mut taken = leases.taken(declared);
    for position in wanted {
        let port = leases.take(range, &mut taken, &in_use).ok_or_else(|| Full::Ports {
            instance: instance.clone(),
            first: range.first,
            last: range.last,
        })?;
        leases.leases.entry(instance.clone()).or_default().insert(position, port);
    }
    Ok(true)
}

/// Leases a port to `service` as a whole for each of `positions` that it hasn't one for: of the same range as those of
/// instances, so that none is given twice.
///
/// # Errors
/// [`Full::Ports`], at once.
pub fn allocate_service(
    leases: &mut PortLeases,
    range: PortRange,
    service: &ServiceName,
    positions: &BTreeSet<usize>,
    declared: &BTreeSet<u16>,
    in_use: impl Fn(u16) -> bool,
) -> Result<(), Full> {
    let missing: Vec<usize> =
        positions.iter().copied().filter(|at| leases.service_port(service, *at).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut taken = leases.taken(declared);
    for position in missing {
        let port = leases.take(range, &mut taken, &in_use).ok_or_else(|| Full::Ports {
            instance: InstanceName::new(service.clone(), 1),
            first: range.first,
            last: range.last,
        })?;
        leases.services.entry(service.clone()).or_default().insert(position, port);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Port, Protocol};
    use crate::testing;
    use proptest::prelude::*;

    fn with_ports(count: usize) -> Service {
        let port = Port {
            name: None,
            number: PortNumber::Auto,
            target: None,
            protocol: Protocol::Tcp,
            address: None,
        };
        Service { ports: vec![port; count], ..testing::service("web") }
    }

    #[test]
    fn a_port_is_kept_and_full_is_said_at_once() {
        let range = PortRange { first: 100, last: 102 };
        let mut leases = PortLeases::new(range, 2);
        let (one, two) = (testing::instance("web-1"), testing::instance("web-2"));
        let service = with_ports(2);
        let none = BTreeSet::new();
        assert_eq!(allocate(&mut leases, range, &one, &service, &none, |_| false), Ok(true));
        assert_eq!((leases.port(&one, &service, 0), leases.port(&one, &service, 1)), (Some(102), Some(100)));
        assert_eq!(allocate(&mut leases, range, &one, &service, &none, |_| true), Ok(false));
        let full = allocate(&mut leases, range, &two, &service, &none, |_| false).unwrap_err();
        assert_eq!(full.to_string(), "no free port between 100 and 102 for web-2");
    }

    proptest! {
        #[test]
        fn no_port_twice_none_outside_none_in_use(seed: u64, counts in prop::collection::vec(1usize..4, 1..20), used in prop::collection::btree_set(1000u16..1100, 0..50)) {
            let range = PortRange { first: 1000, last: 1099 };
            let mut leases = PortLeases::new(range, seed);
            let mut seen = BTreeSet::new();
            for (i, count) in counts.iter().enumerate() {
                let instance = testing::instance(&format!("web-{}", i + 1));
                let service = with_ports(*count);
                if allocate(&mut leases, range, &instance, &service, &BTreeSet::new(), |p| used.contains(&p)).is_err() {
                    prop_assert!(seen.len() + used.len() + count > 100, "full only when it is");
                    break;
                }
                for position in 0..*count {
                    let port = leases.port(&instance, &service, position).unwrap();
                    prop_assert!((1000..1100).contains(&port) && !used.contains(&port) && seen.insert(port));
                }
                let name = testing::name(&format!("s{i}"));
                if allocate_service(&mut leases, range, &name, &BTreeSet::from([0]), &BTreeSet::new(), |p| used.contains(&p)).is_err() {
                    prop_assert!(seen.len() + used.len() + 1 > 100, "full only when it is");
                    break;
                }
                let port = leases.service_port(&name, 0).unwrap();
                prop_assert!((1000..1100).contains(&port) && !used.contains(&port) && seen.insert(port));
            }
        }
    }
}

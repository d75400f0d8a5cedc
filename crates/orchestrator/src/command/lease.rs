//! What is leased for the services of a stack as a whole: virtual addresses, and ports at container networks' gateways.

use super::{PortSource, declared_ports};
use crate::model::{PortNumber, ServiceName, Stack};
use crate::network::reach::{Reach, Stand, asks_for, displaced, kind_of, reach, tcp_ports, views};
use crate::network::{Full, PortLeases, View, Virtuals, allocate_service};
use crate::plan::allowed;
use std::collections::{BTreeMap, BTreeSet};

/// What a service needs so that others reach it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Need {
    address: bool,
    gateway: bool,
    /// Where ambassadors stand for it.
    door: bool,
}

/// Leases what the services of `stack` need that haven't it. It doesn't matter where they are placed now: what may be
/// needed after a move is there before it.
///
/// # Errors
/// [`Full`], at once.
pub fn lease(
    stack: &Stack,
    virtuals: &mut Virtuals,
    leases: &mut PortLeases,
    ports: &PortSource<'_>,
) -> Result<(), Full> {
    match &stack.zone {
        Some(zone) if zone.listen.is_none() => virtuals.lease_zone(ports.seed, ports.slot_in_use)?,
        _ => virtuals.free_zone(),
    }
    let needs = needs(stack);
    if needs.is_empty() {
        return Ok(());
    }
    let declared = declared_ports(stack);
    let services = || stack.services.values().map(AsRef::as_ref);
    for (name, need) in needs {
        let Some(service) = stack.services.get(&name) else { continue };
        let displaced = displaced(services(), service);
        let positions = match need.gateway {
            true => tcp_ports(service).map(|(position, _)| position).collect(),
            false => displaced.clone(),
        };
        let auto = tcp_ports(service).filter(|(_, port)| port.number == PortNumber::Auto && need.door);
        let positions = auto.map(|(position, _)| position).chain(positions).collect();
        if need.address {
            virtuals.lease(&name, displaced, ports.seed, ports.slot_in_use)?;
        }
        allocate_service(leases, ports.range, &name, &positions, &declared, ports.in_use)?;
    }
    Ok(())
}

/// What each service needs, by all that may ask for it from wherever they may be. In the file's order.
fn needs(stack: &Stack) -> indexmap::IndexMap<ServiceName, Need> {
    let homes: BTreeMap<&ServiceName, Vec<Option<&str>>> = stack
        .services
        .values()
        .map(|service| (&service.name, allowed(stack, service).unwrap_or_default()))
        .collect();
    let mut needs: BTreeMap<&ServiceName, Need> = BTreeMap::new();
    for caller in stack.services.values() {
        let from: &[Option<&str>] = homes.get(&caller.name).map_or(&[], Vec::as_slice);
        let stands: Vec<Stand<'_>> =
            views(caller).flat_map(|view| from.iter().map(move |node| Stand { node: *node, view })).collect();
        for name in asks_for(caller) {
            let Some(service) = stack.services.get(name) else { continue };
            let kind = kind_of(&stack.networks, service);
            let need = needs.entry(name).or_default();
            // What may be on several nodes is reached in the same way wherever it is.
            for at in homes.get(name).into_iter().flatten().take(1) {
                for stand in &stands {
                    match reach(kind, *stand, service, *at) {
                        Reach::Virtual => need.address = true,
                        Reach::Gateway => need.gateway = true,
                        Reach::Ambassador => need.door = true,
                        Reach::Direct | Reach::Apart => {}
                    }
                }
            }
        }
    }
    // Whoever asks the zone is on any machine where something runs.
    let machines: BTreeSet<Option<&str>> =
        stack.zone.iter().flat_map(|_| homes.values().flatten().copied().chain([None])).collect();
    for service in stack.services.values() {
        let kind = kind_of(&stack.networks, service);
        let at = homes.get(&service.name).and_then(|homes| homes.first()).copied().flatten();
        let is_virtual = |node: &Option<&str>| {
            let stand = Stand { node: *node, view: View::Machine };
            reach(kind, stand, service, at) == Reach::Virtual
        };
        if machines.iter().any(is_virtual) {
            needs.entry(&service.name).or_default().address = true;
        }
    }
    let needed: BTreeSet<&ServiceName> =
        needs.iter().filter(|(_, need)| **need != Need::default()).map(|(name, _)| *name).collect();
    let names = stack.services.keys().filter(|name| needed.contains(name));
    names.filter_map(|name| Some((name.clone(), *needs.get(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Port, Protocol, Service, Target};
    use crate::network::PortRange;
    use crate::testing::{name, node, service, stack_of};

    pub(crate) fn port(number: PortNumber) -> Port {
        Port { name: None, number, target: None, protocol: Protocol::Tcp, address: None }
    }

    fn needing(text: &str, needs: &[&str]) -> Service {
        let mut service = service(text);
        for need in needs {
            let dependency =
                crate::model::Dependency { condition: crate::model::Condition::Started, implied: false };
            service.dependencies.insert(name(need), dependency);
        }
        service
    }

    fn docker(service: Service) -> Service {
        let target = Target::Docker {
            image: "x".into(),
            command: None,
            entrypoint: None,
            volumes: vec![],
            pull: None,
        };
        Service { target, ..service }
    }

    fn leased(services: Vec<Service>) -> String {
        let mut stack = stack_of(services);
        stack.nodes.insert("far".into(), node("10.0.0.1", &[("zone", "a")]));
        let (mut virtuals, mut leases) = Default::default();
        let range = PortRange { first: 1000, last: 1099 };
        let ports = PortSource { range, in_use: &|_| false, seed: 0, slot_in_use: &|_| false };
        lease(&stack, &mut virtuals, &mut leases, &ports).unwrap();
        let each = stack.services.values().map(|service| {
            let address = virtuals.address(&service.name).map_or("-".to_owned(), |ip| ip.to_string());
            let port = |port: Option<u16>| port.map_or("-".to_owned(), |port| port.to_string());
            let number = port(virtuals.port(&leases, service, 0));
            format!("{} {address}:{number} {}", service.name, port(leases.service_port(&service.name, 0)))
        });
        each.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn only_what_somebody_may_need_is_leased() {
        let db = || Service { ports: vec![port(PortNumber::Fixed(5432))], ..service("db") };
        let far = || Service { host: Some("far".into()), ..db() };
        let web = || needing("web", &["db"]);
        assert_eq!(leased(vec![db(), web()]), "db -:- -, web -:- -", "beside each other");
        assert_eq!(leased(vec![far(), web()]), "db 127.64.1.1:5432 -, web -:- -");
        assert_eq!(leased(vec![db(), docker(web())]), "db -:- 1000, web -:- -", "a container asks a process");
        assert_eq!(leased(vec![docker(db()), docker(web())]), "db -:- -, web -:- -");
        let many = Service { replicas: 2, ports: vec![port(PortNumber::Auto)], ..db() };
        assert_eq!(leased(vec![many, web()]), "db 127.64.1.1:1000 1000, web -:- -");
        let moves = Service { placement: [("zone".to_owned(), "a".to_owned())].into(), ..db() };
        assert_eq!(leased(vec![moves, web()]), "db 127.64.1.1:1000 1000, web -:- -", "it may come beside us");
        // Another process may hold the number on all addresses where the listener is.
        let other = Service { ports: vec![port(PortNumber::Fixed(5432))], ..web() };
        assert_eq!(leased(vec![far(), other]), "db 127.64.1.1:1000 1000, web -:- -");
        let published = docker(Service { ports: vec![port(PortNumber::Fixed(5432))], ..service("other") });
        assert_eq!(leased(vec![far(), web(), published]), "db 127.64.1.1:5432 -, web -:- -, other -:- -");
    }
}

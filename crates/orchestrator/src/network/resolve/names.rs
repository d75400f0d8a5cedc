//! The names of others: what a hosts file has to say, and who has one of its own.
//!
//! Neither the machine's hosts file nor its resolver is touched. A container is given names when it is made; a process with
//! `names: hosts` sees a file of its own in place of the machine's.

use super::Caller;
use super::address::{Asked, MACHINE, View};
use crate::model::{NameView, Service, ServiceName, Target};
use crate::network::reach::{Reach, Stand, asks_for, door_port, has_ambassadors, kind_of, reach, tcp_ports};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

/// The names that the caller resolves besides those of its machine and of its container network, each with its address: an
/// IP address or, in a container of another node, `host.docker.internal`, which that node's engine knows.
pub fn names(caller: &Caller<'_, '_>) -> BTreeMap<String, String> {
    if !sees_names(caller) {
        return BTreeMap::new();
    }
    // An assignment has them filled in already, as it has everything.
    if !caller.service.hosts.is_empty() {
        return caller.service.hosts.clone();
    }
    let asked = asks_for(caller.service).into_iter().filter_map(|name| (caller.lookup)(name));
    asked
        .filter_map(|service| Some((service.name.to_string(), address_of(caller, &Asked::first(service))?)))
        .collect()
}

/// The services that ambassadors stand for in the caller's container network, each with its ports there.
pub fn ambassadors(caller: &Caller<'_, '_>) -> BTreeMap<String, BTreeSet<u16>> {
    if !has_ambassadors(caller.service) {
        return BTreeMap::new();
    }
    // An assignment has them filled in already, as it has everything.
    if !caller.service.ambassadors.is_empty() {
        return caller.service.ambassadors.clone();
    }
    let asked = asks_for(caller.service).into_iter().filter_map(|name| (caller.lookup)(name));
    let doors = asked.filter_map(|service| {
        let from = Stand { node: caller.service.host.as_deref(), view: caller.view };
        let kind = kind_of(caller.networks, service);
        if reach(kind, from, service, service.host.as_deref()) != Reach::Ambassador {
            return None;
        }
        let ports =
            tcp_ports(service).filter_map(|(position, _)| door_port(caller.leases, service, position));
        Some((service.name.to_string(), ports.collect::<BTreeSet<u16>>()))
    });
    doors.filter(|(_, ports)| !ports.is_empty()).collect()
}

/// Whether instances of the service see a hosts file of their own.
pub fn has_hosts_file(service: &Service) -> bool {
    let kept = matches!(service.target, Target::Process { .. } | Target::Package { .. });
    kept && service.names == Some(NameView::Hosts)
}

/// Whether the caller can be given names.
fn sees_names(caller: &Caller<'_, '_>) -> bool {
    caller.inside
        && match caller.view {
            View::Container | View::Ambassador => matches!(caller.service.target, Target::Docker { .. }),
            View::Enclosed => false,
            View::Machine => has_hosts_file(caller.service),
        }
}

/// Whether the caller resolves the name of that service because [`names`] has it.
pub(super) fn is_named(caller: &Caller<'_, '_>, asked: &Asked<'_>, name: &ServiceName) -> bool {
    sees_names(caller) && asks_for(caller.service).contains(name) && address_of(caller, asked).is_some()
}

/// The address behind its name. `None` where the name is known anyway: containers find each other by it. `None` also for
/// what has no IP address.
fn address_of(caller: &Caller<'_, '_>, asked: &Asked<'_>) -> Option<String> {
    if caller.view != View::Machine && asked.is_beside(caller) {
        return None;
    }
    let address = asked.ip(&caller.sight())?;
    (address == MACHINE || address.parse::<IpAddr>().is_ok()).then_some(address)
}

/// A hosts file with the machine's lines and one for each of `names`. A name that both have is the stack's: the machine's
/// line goes without it.
pub fn hosts_file(machine: &str, names: &BTreeMap<String, String>) -> String {
    let ours: BTreeSet<String> = names.keys().map(|name| name.to_ascii_lowercase()).collect();
    let is_ours = |word: &str| ours.contains(&word.to_ascii_lowercase());
    let mut file = String::with_capacity(machine.len() + 256);
    for line in machine.lines() {
        let entry = line.split('#').next().unwrap_or_default();
        let mut words = entry.split_whitespace();
        let address = words.next();
        let others: Vec<&str> = words.clone().filter(|word| !is_ours(word)).collect();
        match address {
            Some(address) if words.any(is_ours) => {
                if !others.is_empty() {
                    let _ = writeln!(file, "{address} {}", others.join(" "));
                }
            }
            _ => {
                let _ = writeln!(file, "{line}");
            }
        }
    }
    if !names.is_empty() {
        file.push_str("# harness: what this service's others are reached at\n");
    }
    for (name, address) in names {
        let _ = writeln!(file, "{address} {name}");
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, address)| (name.to_string(), address.to_string())).collect()
    }

    #[test]
    fn the_machines_lines_then_ours() {
        let machine = "127.0.0.1\tlocalhost db  other # both\n10.0.0.9 DB\n\n# a word: db\n::1 localhost";
        let ours = names(&[("web", "127.77.1.2"), ("db", "127.77.1.1")]);
        let expected = "127.0.0.1 localhost other\n\n# a word: db\n::1 localhost\n\
            # harness: what this service's others are reached at\n127.77.1.1 db\n127.77.1.2 web\n";
        assert_eq!(hosts_file(machine, &ours), expected);
        assert_eq!(hosts_file("127.0.0.1 localhost\n", &names(&[])), "127.0.0.1 localhost\n");
    }

    /// Whom a resolver finds by a name: all addresses of lines that have it.
    fn found<'a>(file: &'a str, name: &str) -> Vec<&'a str> {
        let entries = file.lines().map(|line| line.split('#').next().unwrap_or_default());
        entries
            .filter_map(|entry| {
                let mut words = entry.split_whitespace();
                let address = words.next()?;
                words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
            })
            .collect()
    }

    proptest! {
        #[test]
        fn each_name_has_our_address_and_the_others_what_they_had(
            machine in "(([0-9]{1,2}|#)?[ \t]?([a-eA-E]{1,2}[ #]?){0,4}\r?\n){0,6}[a-e 1#]{0,6}",
            ours in proptest::collection::btree_map("[a-e]{1,2}", "[1-9]\\.[1-9]\\.[1-9]\\.[1-9]", 0..4),
            other in "[a-e]{1,2}",
        ) {
            let file = hosts_file(&machine, &ours);
            for (name, address) in &ours {
                prop_assert_eq!(found(&file, name), [address.as_str()]);
            }
            if !ours.contains_key(&other) {
                prop_assert_eq!(found(&file, &other), found(&machine, &other));
            }
            prop_assert_eq!(&hosts_file(&file, &BTreeMap::new()), &file, "it is a file like the machine's");
        }
    }
}

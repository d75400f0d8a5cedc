//! The zone as each node sees it.

use super::*;
use crate::network::plane::Zone;

fn zoned(listen: Option<&str>, services: Vec<Service>) -> Stack {
    let zone = crate::model::Zone { name: "shop.test".into(), listen: listen.map(|at| at.parse().unwrap()) };
    Stack { zone: Some(zone), ..stack(services) }
}

/// What a zone has, as `NAME=ADDRESS` and `NAME=HOST:PORT`.
fn records(zone: &Zone) -> Vec<String> {
    let hosts = zone.hosts.iter().map(|(name, address)| format!("{name}={address}"));
    hosts.chain(zone.ports.iter().map(|(name, it)| format!("{name}={}:{}", it.host, it.port))).collect()
}

#[test]
fn each_node_is_told_what_its_own_processes_would_be() {
    let at = |node: &str, service: Service| Service { host: Some(node.into()), ..service };
    let named = |name: &str, number: u16| Port { name: Some(name.into()), ..port(PortNumber::Fixed(number)) };
    let udp = Port { protocol: Protocol::Udp, ..named("stats", 82) };
    let outside = Attach::External { host: "db.example.com".into(), port: 5433 };
    let world = started(zoned(
        None,
        vec![
            at("a", Service { ports: vec![named("postgres", 5432)], ..service("db") }),
            Service { ports: vec![named("http", 80), named("not a label", 81), udp], ..service("web") },
            Service { network: Some("local".into()), ports: vec![named("x", 1)], ..service("secluded") },
            Service { target: Target::Attach(outside), ..service("named") },
            Service { role: Role::Task, ..service("migrate") },
        ],
    ));
    let tables = tables_of(&world, &Facts::default());
    let zone = |node: &str| tables[node].zone.clone().unwrap();
    assert_eq!(zone("local").listen.to_string(), "127.64.1.1:5300");
    assert_eq!(zone("a").listen, zone("local").listen);
    assert_eq!(
        records(&zone("local")),
        [
            "db=127.64.1.2",
            "secluded=127.0.0.1",
            "web=127.0.0.1",
            "_http._tcp.web=web:80",
            "_postgres._tcp.db=db:5432",
            "_stats._udp.web=web:82",
            "_x._tcp.secluded=secluded:1",
        ]
    );
    assert_eq!(
        records(&zone("a")),
        ["db=127.0.0.1", "web=127.64.1.3", "_http._tcp.web=web:80", "_postgres._tcp.db=db:5432"]
    );
    // What is UDP isn't listened for at virtual addresses. Nobody depends on them: it is the zone that has them listened for.
    assert_eq!(
        listeners(&tables),
        ["a: web at 127.64.1.3:80:", "a: web at 127.64.1.3:81:", "local: db at 127.64.1.2:5432:"]
    );
    assert!(!tables.contains_key("b"), "nothing runs there");
}

#[test]
fn a_zone_comes_and_goes_with_the_file_and_with_what_runs() {
    let services = || vec![Service { ports: vec![port(PortNumber::Fixed(80))], ..service("web") }];
    let mut world = started(zoned(Some("127.0.0.1:53"), services()));
    let tables = tables_of(&world, &Facts::default());
    assert_eq!(tables["local"].zone.as_ref().unwrap().listen.to_string(), "127.0.0.1:53");
    assert!(world.virtuals.is_empty(), "an address of its own isn't needed");
    start(&mut world, zoned(None, services()), &StartRequest::default(), &PORTS).unwrap();
    let leased = world.virtuals.zone();
    assert!(leased.is_some());
    stop(&mut world, &Default::default()).unwrap();
    assert!(tables_of(&world, &Facts::default()).is_empty(), "nothing runs");
    start(&mut world, zoned(None, services()), &StartRequest::default(), &PORTS).unwrap();
    assert_eq!(world.virtuals.zone(), leased);
    start(&mut world, stack(services()), &StartRequest::default(), &PORTS).unwrap();
    assert!(world.virtuals.is_empty() && tables_of(&world, &Facts::default()).is_empty());
}

#[test]
fn no_service_is_leased_the_port_of_the_zone() {
    let services = || vec![Service { ports: vec![port(PortNumber::Auto)], ..service("web") }];
    let leased = |stack: Stack| started(stack).leases.port(&instance("web-1"), &services()[0], 0);
    assert_eq!(leased(stack(services())), Some(20_000));
    assert_eq!(leased(zoned(Some("127.0.0.1:20000"), services())), Some(20_001));
}

/// Names that can be asked for, each leading where somebody listens.
pub(super) fn check(world: &World, tables: &BTreeMap<String, Table>) -> Result<(), TestCaseError> {
    let declared = &world.stack.as_ref().unwrap().zone;
    for (node, table) in tables {
        let runs = world.desired.wishes.values().any(|wish| wish.goal == WishGoal::Up);
        prop_assert_eq!(table.zone.is_some(), declared.is_some() && runs);
        let Some(zone) = &table.zone else { continue };
        for (name, address) in &zone.hosts {
            let service = &world.desired.wishes[&instance(&format!("{name}-1"))].service;
            prop_assert_ne!(Some(*address), world.virtuals.zone().map(IpAddr::V4));
            if Some(*address) != world.virtuals.address(&service.name).map(IpAddr::V4) {
                continue;
            }
            for (position, _) in reach::tcp_ports(service) {
                let port = world.virtuals.port(&world.leases, service, position).unwrap();
                let at = SocketAddr::new(*address, port);
                prop_assert!(
                    table.listeners.iter().any(|it| it.address == at),
                    "{} at {} on {}",
                    name,
                    at,
                    node
                );
            }
        }
        for (name, entry) in &zone.ports {
            prop_assert!(zone.hosts.contains_key(&entry.host));
            let at_virtual = world.virtuals.iter().any(|(_, at)| zone.hosts[&entry.host] == IpAddr::V4(at));
            prop_assert!(!(at_virtual && name.contains("._udp.")), "{}", name);
            let suffix = format!(".{}", entry.host);
            prop_assert!(name.starts_with('_') && name.ends_with(&suffix), "{}", name);
            prop_assert!(name.split('.').all(|label| (1..64).contains(&label.len())));
        }
    }
    Ok(())
}

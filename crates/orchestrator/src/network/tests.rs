//! What values, leases and tables promise each other, over random stacks on three nodes.

mod zone;

use super::plane::{Table, Way};
use super::topology::Facts;
use super::*;
use crate::command::{PortSource, StartRequest, World, forget_node, start, stop};
use crate::model::*;
use crate::observed::{Fact, NodeSeen, Run, StopCause};
use crate::plan::WishGoal;
use crate::testing::{self, instance, name, node, service, stack_of};
use proptest::prelude::{Strategy, *};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const PORTS: PortSource<'_> = PortSource {
    range: PortRange { first: 20_000, last: 29_999 },
    in_use: &|_| false,
    seed: 0,
    slot_in_use: &|_| false,
};
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 1);

fn port(number: PortNumber) -> Port {
    Port { name: None, number, target: None, protocol: Protocol::Tcp, address: None }
}

fn docker(service: Service) -> Service {
    let target =
        Target::Docker { image: "x".into(), command: None, entrypoint: None, volumes: vec![], pull: None };
    Service { target, ..service }
}

fn reference(service: &str, field: Field) -> Template {
    let subject = Subject::Service(name(service));
    Template { segments: vec![Segment::Reference(Reference { subject, field })] }
}

/// A service that depends on others and is given all of their addresses.
fn asking(text: &str, asked: &[&str]) -> Service {
    let mut service = Service { names: Some(NameView::Hosts), ..service(text) };
    for other in asked {
        let dependency = Dependency { condition: Condition::Started, implied: true };
        service.dependencies.insert(name(other), dependency);
        for (key, field) in [("IP", Field::Ip), ("AT", Field::Host), ("NUMBER", Field::Port(None))] {
            service.env.insert(format!("{other}_{key}"), reference(other, field));
        }
    }
    service
}

/// Two other nodes, `a` and `b`, with labels and a container network each, and a network of each kind.
fn stack(services: Vec<Service>) -> Stack {
    let mut stack = stack_of(services);
    for (name, host) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        stack.nodes.insert(name.into(), node(host, &[("zone", "far")]));
    }
    for (name, kind) in [
        ("local", NetworkKind::Local),
        ("lan", NetworkKind::Lan),
        ("mesh", NetworkKind::Wireguard),
        ("best", NetworkKind::Auto),
    ] {
        stack.networks.insert(name.into(), Network { kind, subnet: None, interface: None });
    }
    stack
}

fn started(stack: Stack) -> World {
    let mut world =
        World { network: ContainerNetwork::parse("n", "172.20.0.0/16", None), ..World::default() };
    start(&mut world, stack, &StartRequest::default(), &PORTS).unwrap();
    for node in ["a", "b"] {
        world.sites.has_gateway(node, GATEWAY);
    }
    world
}

fn run(world: &mut World, name: &InstanceName, ready: bool) {
    let run = Run { tells_health: !ready, ..testing::run_of("r", &world.desired.wishes[name]) };
    world.observed.issue_start(name, run, false);
    let execution = Default::default();
    let fact = Fact::Started { execution, tells_health: !ready };
    world.observed.apply(name, "r", fact, Duration::ZERO);
}

fn all_run(world: &mut World) {
    for name in world.desired.wishes.keys().cloned().collect::<Vec<_>>() {
        run(world, &name, true);
    }
}

fn tables_of(world: &World, facts: &Facts) -> BTreeMap<String, Table> {
    tables(&Scene {
        node: "local",
        stack: world.stack.as_ref().unwrap(),
        desired: &world.desired,
        observed: &world.observed,
        leases: &world.leases,
        virtuals: &world.virtuals,
        network: world.network.as_ref(),
        addresses: &world.addresses,
        sites: &world.sites,
        facts,
    })
}

#[test]
fn no_table_names_a_node_that_was_forgotten() {
    let placed = |text: &str, node: &str, network: &str| Service {
        host: Some(node.into()),
        network: Some(network.into()),
        ports: vec![port(PortNumber::Fixed(8000))],
        ..service(text)
    };
    let services =
        vec![placed("db", "a", "best"), placed("web", "b", "best"), asking("here", &["db", "web"])];
    let mut world = started(stack(services));
    all_run(&mut world);
    let named = |world: &World| {
        let text = serde_json::to_string(&tables_of(world, &Facts::default())).unwrap();
        ["\"a\"", "\"b\""].map(|node| text.contains(node))
    };
    assert_eq!(named(&world), [true, true]);
    let lost =
        NodeSeen::Lost { since: Default::default(), last: Duration::ZERO, why: String::new(), heard: true };
    world.observed.nodes.insert("a".into(), lost);
    forget_node(&mut world, "a", Duration::ZERO).unwrap();
    assert_eq!(named(&world), [false, true]);
}

fn with_caller<T>(world: &World, name: &InstanceName, with: impl FnOnce(&Caller<'_, '_>) -> T) -> T {
    let lookup = |name: &ServiceName| {
        let first = InstanceName::new(name.clone(), 1);
        world.desired.wishes.get(&first).map(|wish| wish.service.as_ref())
    };
    let service = &world.desired.wishes[name].service;
    with(&Caller {
        instance: name,
        service,
        view: View::from(service),
        inside: true,
        lookup: &lookup,
        leases: &world.leases,
        network: world.network.as_ref(),
        addresses: &world.addresses,
        sites: &world.sites,
        virtuals: &world.virtuals,
        networks: &world.stack.as_ref().unwrap().networks,
        secrets: &BTreeMap::new(),
    })
}

fn env(world: &World, name: &str) -> BTreeMap<String, String> {
    let name = instance(name);
    with_caller(world, &name, given)
}

/// Node `a` is reached straight from the project's own, at that address.
fn prove(facts: &mut Facts, address: [u8; 4]) {
    let end = |name: &str| plane::TunnelReport {
        public_key: format!("key of {name}"),
        port: 1,
        addresses: vec![IpAddr::from(address)],
        ..Default::default()
    };
    let state = plane::TunnelState {
        endpoint: Some(SocketAddr::from((address, 1))),
        handshake_s: Some(1),
        ..Default::default()
    };
    let tunnels = [("a".to_owned(), state)].into();
    for (node, tunnel) in [("a", end("a")), ("local", plane::TunnelReport { tunnels, ..end("local") })] {
        facts.heard(node, &plane::Report { tunnel: Some(tunnel), ..Default::default() });
    }
}

/// Each node's listeners as `service at address: backends`.
fn listeners(tables: &BTreeMap<String, Table>) -> Vec<String> {
    let all = tables.iter().flat_map(|(node, table)| table.listeners.iter().map(move |it| (node, it)));
    all.map(|(node, it)| {
        let backend = |backend: &plane::Backend| {
            let draining = if backend.draining { " draining" } else { "" };
            format!(" {}@{} {}{draining}", backend.instance, backend.node, backend.address)
        };
        let backends: String = it.backends.iter().map(backend).collect();
        format!("{node}: {} at {}:{backends}", it.service, it.address)
    })
    .collect()
}

/// What `name` resolves, as `NAME=ADDRESS`, and what it is told to call the others.
fn named(world: &World, name: &str) -> (Vec<String>, Vec<String>) {
    let name = instance(name);
    let lines = with_caller(world, &name, names);
    let lines = lines.iter().map(|(name, address)| format!("{name}={address}")).collect();
    let asked = reach::asks_for(&world.desired.wishes[&name].service);
    let host = |other: &&ServiceName| {
        with_caller(world, &name, |caller| fill(caller, &reference(other.as_str(), Field::Host)).unwrap())
    };
    (lines, asked.iter().map(host).collect())
}

#[test]
fn names_of_others_as_each_caller_resolves_them() {
    let at = |node: &str, service: Service| Service { host: Some(node.into()), ..service };
    let listening = |service: Service| Service { ports: vec![port(PortNumber::Fixed(5432))], ..service };
    let outside = |name: &str, host: &str| Service {
        target: Target::Attach(Attach::External { host: host.into(), port: 5433 }),
        ..service(name)
    };
    let asked = ["db", "api", "kv", "ip", "dns"];
    let world = started(stack(vec![
        at("a", listening(service("db"))),
        listening(service("api")),
        docker(listening(service("kv"))),
        outside("ip", "10.9.8.7"),
        outside("dns", "db.example.com"),
        asking("web", &asked),
        Service { names: None, ..asking("plain", &asked) },
        docker(asking("box", &asked)),
        at("a", asking("far", &["api"])),
        docker(at("a", asking("far-box", &["api"]))),
    ]));
    let told = |lines: &[&str], hosts: &[&str]| {
        let own = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        (own(lines), own(hosts))
    };
    let lines = ["api=127.0.0.1", "db=127.64.1.1", "ip=10.9.8.7", "kv=127.0.0.1"];
    assert_eq!(named(&world, "web-1"), told(&lines, &["api", "db", "db.example.com", "ip", "kv"]));
    let hosts = ["localhost", "127.64.1.1", "db.example.com", "10.9.8.7", "localhost"];
    assert_eq!(named(&world, "plain-1"), told(&[], &hosts));
    // Containers find each other by docker's own names.
    let lines = ["api=172.20.0.1", "db=172.20.0.1", "ip=10.9.8.7"];
    assert_eq!(named(&world, "box-1"), told(&lines, &["api", "db", "db.example.com", "ip", "kv"]));
    assert_eq!(named(&world, "far-1"), told(&["api=127.64.1.2"], &["api"]));
    // The engine there knows which address that is.
    assert_eq!(named(&world, "far-box-1"), told(&["api=host.docker.internal"], &["api"]));
    // They travel with the assignment, and the agent has nothing else to look them up in.
    for name in ["far-1", "far-box-1"].map(instance) {
        let assigned = with_caller(&world, &name, |caller| assigned(caller, "a")).unwrap();
        let there = with_caller(&world, &name, |caller| {
            names(&Caller { service: &assigned, lookup: &|_| None, ..*caller })
        });
        assert_eq!(there, with_caller(&world, &name, names));
        // A command beside the instance doesn't resolve them.
        let beside = with_caller(&world, &name, |caller| names(&caller.beside()));
        assert_eq!(beside.is_empty(), name == instance("far-1"));
    }
}

#[test]
fn values_and_tables_of_a_service_elsewhere() {
    let db = Service { host: Some("a".into()), ports: vec![port(PortNumber::Fixed(5432))], ..service("db") };
    let mut world =
        started(stack(vec![db, asking("web", &["db"]), docker(asking("box", &["db"])), asking("far", &[])]));
    let web = env(&world, "web-1");
    assert_eq!((web["${db.ip}"].as_str(), web["${db.port}"].as_str()), ("127.64.1.1", "5432"));
    let inside = env(&world, "box-1");
    let values = ["${db.ip}", "${db.host}", "${db.port}"].map(|key| inside[key].as_str());
    assert_eq!(values, ["172.20.0.1", "db", "20000"]);
    let facts = Facts::default();
    assert_eq!(
        listeners(&tables_of(&world, &facts)),
        ["local: db at 127.64.1.1:5432:", "local: db at 172.20.0.1:20000:"],
        "before anybody serves"
    );
    all_run(&mut world);
    let tables = tables_of(&world, &facts);
    assert_eq!(
        listeners(&tables),
        [
            "local: db at 127.64.1.1:5432: db-1@a 127.0.0.1:5432",
            "local: db at 172.20.0.1:20000: db-1@a 127.0.0.1:5432"
        ]
    );
    assert_eq!(tables["a"].exports, [("db-1:5432".to_owned(), "127.0.0.1:5432".parse().unwrap())].into());
    assert_eq!(tables["local"].peers["a"].ways, [Way::Link]);
    assert_eq!(tables["a"].peers["local"].ways, [Way::Link]);
    assert_eq!(tables.len(), 2, "nobody asks for anything on b");
    // It ends: what was begun is finished, nothing new is.
    world.observed.issue_stop(&instance("db-1"), false, StopCause::Wish, Duration::ZERO);
    let ending = listeners(&tables_of(&world, &facts));
    assert_eq!(ending[0], "local: db at 127.64.1.1:5432: db-1@a 127.0.0.1:5432 draining");
}

#[test]
fn what_needs_no_data_plane_has_none() {
    let db = Service { ports: vec![port(PortNumber::Fixed(5432))], ..service("db") };
    let lan = Service { host: Some("a".into()), network: Some("lan".into()), ..db.clone() };
    let udp = Service {
        ports: vec![Port { protocol: Protocol::Udp, ..port(PortNumber::Fixed(53)) }],
        ..lan.clone()
    };
    for (db, ip) in [
        (db.clone(), "127.0.0.1"),
        (docker(db.clone()), "127.0.0.1"),
        (lan, "10.0.0.1"),
        (Service { network: None, ..udp }, "10.0.0.1"),
    ] {
        let mut world = started(stack(vec![db, asking("web", &["db"])]));
        all_run(&mut world);
        assert_eq!(env(&world, "web-1")["${db.ip}"], ip);
        assert!(tables_of(&world, &Facts::default()).is_empty());
        assert!(world.virtuals.is_empty() && !world.leases.serves());
    }
}

#[test]
fn replicas_share_one_address_and_those_that_are_well_come_first() {
    let web = Service {
        replicas: 3,
        ports: vec![port(PortNumber::Auto)],
        health_check: Some(testing::check()),
        ..service("web")
    };
    let mut world = started(stack(vec![web, asking("front", &["web"])]));
    all_run(&mut world);
    let facts = Facts::default();
    assert_eq!(listeners(&tables_of(&world, &facts)), ["local: web at 127.64.1.1:20000:"], "none is ready");
    let told = |world: &mut World, name: &str, ok: bool| {
        for _ in 0..testing::check().retries {
            world.observed.apply(&instance(name), "r", Fact::Probed { ok }, Duration::from_secs(60));
        }
    };
    for name in ["web-1", "web-2"] {
        told(&mut world, name, true);
    }
    assert_eq!(
        listeners(&tables_of(&world, &facts)),
        ["local: web at 127.64.1.1:20000: web-1@local 127.0.0.1:20001 web-2@local 127.0.0.1:20002"]
    );
    told(&mut world, "web-1", false);
    assert_eq!(
        listeners(&tables_of(&world, &facts)),
        ["local: web at 127.64.1.1:20000: web-1@local 127.0.0.1:20001 draining web-2@local 127.0.0.1:20002"]
    );
    told(&mut world, "web-2", false);
    assert!(!listeners(&tables_of(&world, &facts))[0].contains("draining"), "better one that is unwell");
    // Nothing is wanted any more: it drains, and then nobody asks.
    stop(&mut world, &Default::default()).unwrap();
    assert_eq!(listeners(&tables_of(&world, &facts))[0].matches("draining").count(), 2);
    let names: Vec<InstanceName> = world.observed.instances.keys().cloned().collect();
    for name in names {
        let exit = service_registry::model::Exit::with_code(0);
        world.observed.apply(&name, "r", Fact::Exited { exit }, Duration::ZERO);
    }
    assert!(tables_of(&world, &facts).is_empty());
}

#[test]
fn a_network_says_which_ways_may_be_taken() {
    let on = |node: &str, network: &str, name: &str, number| Service {
        host: Some(node.into()),
        network: Some(network.into()),
        ports: vec![port(PortNumber::Fixed(number))],
        ..service(name)
    };
    let mut facts = Facts::default();
    let report = |address: &str| plane::Report {
        tunnel: Some(plane::TunnelReport { public_key: address.into(), port: 1, ..Default::default() }),
        ..Default::default()
    };
    for node in ["local", "a", "b"] {
        facts.heard(node, &report(node));
    }
    let lan = Way::Lan { address: IpAddr::from([10, 0, 0, 1]) };
    prove(&mut facts, [10, 0, 0, 1]);
    let ways = |services: Vec<Service>, from: &str| {
        let mut world = started(stack(services));
        all_run(&mut world);
        tables_of(&world, &facts)[from].peers["a"].ways.clone()
    };
    let (mesh, best) = (on("a", "mesh", "db", 5432), on("a", "best", "web", 80));
    assert_eq!(ways(vec![best.clone(), asking("x", &["web"])], "local"), [lan, Way::Wireguard, Way::Link]);
    assert_eq!(ways(vec![mesh.clone(), asking("x", &["db"])], "local"), [Way::Wireguard]);
    let both = ways(vec![mesh, best.clone(), asking("x", &["db", "web"])], "local");
    assert_eq!(both, [Way::Wireguard, Way::Link], "never in the clear, where one of them mustn't be");
    let on_b = Service { host: Some("b".into()), ..asking("x", &["web"]) };
    assert_eq!(ways(vec![best, on_b], "b"), [Way::Wireguard, Way::Relay { via: "local".into() }]);
    // One that doesn't leave its machine is not reached from another, and that is said.
    let world = started(stack(vec![on("a", "local", "db", 5432), asking("x", &["db"])]));
    let x = instance("x-1");
    let error = with_caller(&world, &x, |caller| fill(caller, &reference("db", Field::Ip)).unwrap_err());
    assert_eq!(
        error.to_string(),
        "${db.ip} in x-1: db is on the network local, which doesn't leave its machine: put it on another"
    );
}

/// What a random service is made of.
type Shape = (u8, u8, u8, u8, u8, Vec<(u8, u8)>);

fn shape() -> impl Strategy<Value = Shape> {
    let ports = prop::collection::vec((0u8..4, 0u8..4), 0..3);
    (0u8..7, 0u8..4, 0u8..4, 1u8..4, any::<u8>(), ports)
}

fn shaped(number: usize, (target, place, network, replicas, asks, ports): Shape) -> Service {
    let asked: Vec<String> =
        (0..number).filter(|other| asks >> other & 1 == 1).map(|n| format!("s{n}")).collect();
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let mut service = asking(&format!("s{number}"), &asked);
    service.replicas = replicas.into();
    service.host = [None, Some("a"), Some("b"), None][usize::from(place)].map(str::to_owned);
    if place == 3 {
        service.placement = [("zone".to_owned(), "far".to_owned())].into();
    }
    service.network =
        [None, Some("lan"), Some("mesh"), Some("local")][usize::from(network)].map(str::to_owned);
    let ports = ports.into_iter().enumerate().map(|(position, (kind, address))| Port {
        name: Some(format!("p{position}")),
        // A fixed port and replicas exclude each other.
        number: match kind == 0 && replicas == 1 {
            true => PortNumber::Fixed(8000 + u16::try_from(number % 3 + 10 * position).unwrap()),
            false => PortNumber::Auto,
        },
        target: None,
        protocol: if kind == 3 { Protocol::Udp } else { Protocol::Tcp },
        address: [None, Some("0.0.0.0"), Some("127.0.0.1"), Some("10.0.0.9")][usize::from(address)]
            .map(str::to_owned),
    });
    service.ports = ports.collect();
    match target {
        0 | 1 => service,
        2 => docker(service),
        4 => Service { names: Some(NameView::Ambassador), ..docker(service) },
        5 | 6 => {
            let inner = (target == 5).then(|| "inner".into());
            service.names = None;
            service.replicas = 1;
            service.target = Target::Compose { file: "/c.yaml".into(), service: inner };
            service
        }
        _ => {
            service.replicas = 1;
            service.target = Target::Attach(Attach::External { host: "db.example.com".into(), port: 5433 });
            service
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Whatever the stack: each value is there or says why not, it stays, and where it leads somebody listens, who takes no
    /// port from a process that may hold it.
    #[test]
    fn every_value_is_kept_and_somebody_listens_there(
        shapes in prop::collection::vec(shape(), 2..7), up in any::<u32>(), seen in any::<u8>(), zone: bool,
    ) {
        let services: Vec<Service> = shapes.into_iter().enumerate().map(|(n, shape)| shaped(n, shape)).collect();
        let mut stack = stack(services);
        stack.zone = zone.then(|| crate::model::Zone { name: "shop.test".into(), listen: None });
        let mut world = started(stack.clone());
        let zones = |world: &World, facts: &Facts| -> BTreeMap<String, Option<plane::Zone>> {
            tables_of(world, facts).into_iter().map(|(node, table)| (node, table.zone)).collect()
        };
        let values = |world: &World| -> BTreeMap<InstanceName, BTreeMap<String, String>> {
            world.desired.wishes.keys().map(|name| (name.clone(), with_caller(world, name, given))).collect()
        };
        let before = values(&world);
        let mut facts = Facts::default();
        let zones_before = zones(&world, &facts);
        check_tables(&world, &tables_of(&world, &facts))?;
        // Instances come up, nodes are seen, ways are proved.
        for (at, name) in world.desired.wishes.keys().cloned().collect::<Vec<_>>().iter().enumerate() {
            if up >> (at % 32) & 1 == 1 {
                run(&mut world, name, at % 3 != 0);
            }
        }
        prove(&mut facts, [10, 0, 0, seen]);
        check_tables(&world, &tables_of(&world, &facts))?;
        prop_assert_eq!(&values(&world), &before, "what happens changes no value");
        prop_assert_eq!(&zones(&world, &facts), &zones_before, "and no name");
        start(&mut world, stack, &StartRequest::default(), &PORTS).unwrap();
        prop_assert_eq!(&values(&world), &before, "nor does another start");
    }
}

fn check_tables(world: &World, tables: &BTreeMap<String, Table>) -> Result<(), TestCaseError> {
    zone::check(world, tables)?;
    let none = Table::default();
    for (name, wish) in world.desired.wishes.iter().filter(|(_, wish)| wish.goal == WishGoal::Up) {
        let node = wish.service.host.as_deref();
        let table = tables.get(node.unwrap_or("local")).unwrap_or(&none);
        for other in reach::asks_for(&wish.service) {
            let asked = &world.desired.wishes[&InstanceName::new(other.clone(), 1)].service;
            let kind = reach::kind_of(&world.stack.as_ref().unwrap().networks, asked);
            let from = reach::Stand { node, view: View::from(&wish.service) };
            let how = reach::reach(kind, from, asked, asked.host.as_deref());
            let value =
                |field| with_caller(world, name, |caller| fill(caller, &reference(other.as_str(), field)));
            let (ip, port) = (value(Field::Ip), value(Field::Port(None)));
            let named = with_caller(world, name, names).remove(other.as_str());
            if let Some(named) = named {
                prop_assert_eq!(Ok(named), ip.clone(), "a name leads where the address does");
                prop_assert_eq!(value(Field::Host), Ok(other.to_string()));
            } else if has_hosts_file(&wish.service) {
                // What has no address has no name, nor what has only a name of its own.
                let address = ip.as_ref().ok().and_then(|ip| ip.parse::<IpAddr>().ok());
                prop_assert_eq!(address, None, "{} has no name for {}", other, name);
            }
            match how {
                reach::Reach::Direct => {}
                reach::Reach::Apart => {
                    let said = matches!(ip, Err(Unresolved::Apart { .. }));
                    prop_assert!(said);
                }
                reach::Reach::Ambassador => {
                    prop_assert_eq!((ip, value(Field::Host)), (Ok(other.to_string()), Ok(other.to_string())));
                    let port = port.unwrap().parse().unwrap();
                    let stands = with_caller(world, name, ambassadors).remove(other.as_str());
                    prop_assert!(stands.is_some_and(|ports| ports.contains(&port)), "{} for {}", other, name);
                    let door =
                        table.doors.iter().filter(|it| it.service == other.as_str() && it.port == port);
                    prop_assert_eq!(door.count(), 1, "{}:{} for {}", other, port, name);
                }
                reach::Reach::Virtual | reach::Reach::Gateway => {
                    let ip = ip.unwrap();
                    let ip = if ip == "host.docker.internal" { GATEWAY.to_string() } else { ip };
                    let at = SocketAddr::new(ip.parse().unwrap(), port.unwrap().parse().unwrap());
                    let there = table.listeners.iter().find(|it| it.address == at);
                    let there = there.map(|it| it.service.as_str());
                    prop_assert_eq!(there, Some(other.as_str()), "{} at {} for {}", other, at, name);
                }
            }
        }
    }
    for (node, table) in tables {
        let addresses: BTreeSet<SocketAddr> = table.listeners.iter().map(|it| it.address).collect();
        prop_assert_eq!(addresses.len(), table.listeners.len(), "no two at one address");
        let doors = table.doors.iter().flat_map(|it| &it.backends);
        for backend in table.listeners.iter().flat_map(|it| &it.backends).chain(doors) {
            prop_assert_eq!(tables[&backend.node].exports.get(&backend.export), Some(&backend.address));
            prop_assert!(
                backend.node == *node
                    || !table.peers[&backend.node].ways.is_empty()
                    || world
                        .stack
                        .as_ref()
                        .unwrap()
                        .networks
                        .values()
                        .any(|it| it.kind == NetworkKind::Wireguard)
            );
        }
        for (name, wish) in &world.desired.wishes {
            if wish.service.host.as_deref().unwrap_or("local") != node
                || View::of(&wish.service) == View::Container
                || matches!(wish.service.target, Target::Attach(_))
            {
                continue;
            }
            for (position, port) in reach::tcp_ports(&wish.service) {
                let all = port.address.as_deref().is_none_or(|address| address == "0.0.0.0");
                let number = world.leases.port(name, &wish.service, position).unwrap();
                let met = addresses.iter().find(|at| at.port() == number);
                prop_assert!(!all || met.is_none(), "{:?} on {} keeps {} from starting", met, node, name);
            }
        }
    }
    Ok(())
}

#[test]
fn what_is_kept_doesnt_grow_with_what_has_come_and_gone() {
    let of = |round: usize| {
        let many = |name: &str| Service {
            replicas: 2,
            ports: vec![port(PortNumber::Auto)],
            ..service(&format!("{name}{round}"))
        };
        let asked = format!("web{round}");
        let far = Service { host: Some("a".into()), ..many("far") };
        stack(vec![many("web"), far, docker(asking(&format!("front{round}"), &[&asked]))])
    };
    let size = |world: &World| serde_json::to_string(&(&world.virtuals, &world.sites)).unwrap().len();
    let mut world = started(of(1000));
    let first = size(&world);
    for round in 1001..1600 {
        stop(&mut world, &Default::default()).unwrap();
        start(&mut world, of(round), &StartRequest::default(), &PORTS).unwrap();
        crate::command::forget(&mut world);
        assert!(size(&world) <= first + 4, "{} bytes after {first}", size(&world));
        assert_eq!(world.virtuals.iter().count(), 0, "it was asked for from a container only");
        let old = name(&format!("web{}", round - 1));
        assert_eq!(world.leases.service_port(&old, 0), None);
        assert!(world.leases.service_port(&name(&format!("web{round}")), 0).is_some());
    }
}

/// So many services, 20 on each node, a quarter of which everybody uses: the others ask for 5 of them each.
fn large(services: usize) -> World {
    let (nodes, used) = (services / 20, services / 4);
    let all = (0..services).map(|number| {
        let asked: Vec<String> = (1..6).map(|step| format!("s{}", (number * 7 + step * 31) % used)).collect();
        let asked: Vec<&str> = asked.iter().map(String::as_str).filter(|_| number >= used).collect();
        Service {
            host: Some(format!("n{}", number % nodes)),
            ports: vec![port(PortNumber::Auto)],
            ..asking(&format!("s{number}"), &asked)
        }
    });
    let mut stack = stack_of(all.collect());
    for number in 0..nodes {
        stack.nodes.insert(format!("n{number}"), node(&format!("10.0.0.{number}"), &[]));
    }
    let mut world = World::default();
    start(&mut world, stack, &StartRequest::default(), &PORTS).unwrap();
    all_run(&mut world);
    world
}

/// Bytes of memory that this process has had at most.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn a_large_stack_on_many_nodes_has_its_tables_at_once() {
    let mut best = Duration::MAX;
    for services in [250, 500, 1000] {
        let before = peak();
        let world = large(services);
        let (facts, made) = (Facts::default(), peak());
        let took = (0..3).map(|_| {
            let begun = Instant::now();
            assert_eq!(tables_of(&world, &facts).len(), services / 20 + 1);
            begun.elapsed()
        });
        best = took.min().unwrap();
        let kib = |from: usize, to: usize| (to - from) >> 10;
        println!(
            "{services} services on {} nodes: {best:?}; {} KiB for the stack, {} more for its tables",
            services / 20,
            kib(before, made),
            kib(made, peak())
        );
    }
    // 50 ms as a release; without optimisation, on a busy machine, it may take many times that.
    let bound = Duration::from_millis(if cfg!(debug_assertions) { 2_000 } else { 50 });
    assert!(best < bound, "{best:?}");
}

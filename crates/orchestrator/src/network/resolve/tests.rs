use super::*;
use crate::model::{Field, Port, PortNumber, Probe, Protocol, Reference, Segment, Target};
use crate::network::{PortRange, Sites, Virtuals, allocate_service};
use crate::testing;
use indexmap::IndexMap;
use std::collections::BTreeSet;
use std::path::Path;

fn hole(service: &str, field: Field) -> Segment {
    let subject = if service == "self" { Subject::Own } else { Subject::Service(testing::name(service)) };
    Segment::Reference(Reference { subject, field })
}

fn port(name: Option<&str>, number: PortNumber) -> Port {
    Port { name: name.map(Into::into), number, target: None, protocol: Protocol::Tcp, address: None }
}

#[test]
fn an_instance_sees_itself_and_its_dependencies() {
    let mut db = testing::service("my-db");
    db.ports =
        vec![port(Some("postgres"), PortNumber::Fixed(5432)), port(Some("admin"), PortNumber::Fixed(80))];
    let mut web = testing::service("web");
    web.ports = vec![port(None, PortNumber::Fixed(8080))];
    web.dependencies.insert(
        db.name.clone(),
        crate::model::Dependency { condition: crate::model::Condition::Started, implied: false },
    );
    web.target = Target::Process {
        program: "serve".into(),
        args: vec![Template {
            segments: vec![
                hole("my-db", Field::Url),
                Segment::Text(" ".into()),
                hole("my-db", Field::Port(Some("admin".into()))),
                Segment::Text(" ".into()),
                hole("self", Field::Port(None)),
            ],
        }],
    };
    web.env.insert("MY_DB_HOST".into(), "elsewhere".into());
    let instance = testing::instance("web-1");
    let (leases, addresses, secrets) = (PortLeases::default(), AddressLeases::default(), BTreeMap::new());
    let lookup = |name: &ServiceName| (name == &db.name).then_some(&db);
    let caller = Caller {
        instance: &instance,
        service: &web,
        view: View::Machine,
        inside: true,
        lookup: &lookup,
        leases: &leases,
        network: None,
        addresses: &addresses,
        sites: &Sites::default(),
        virtuals: &Virtuals::default(),
        networks: &IndexMap::new(),
        secrets: &secrets,
    };
    let base = BTreeMap::from([("HOME".to_string(), "/h".to_string()), ("PORT".into(), "1".into())]);
    let resolved = resolve(&caller, &base, Path::new("/stack"), "local").unwrap();
    let argv = ["serve", "postgres://127.0.0.1:5432 80 8080"].map(String::from).to_vec();
    assert_eq!(resolved.target, ResolvedTarget::Process(argv));
    let env: Vec<String> = resolved.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(
        env,
        [
            "HARNESS_INSTANCE=web-1",
            "HARNESS_NODE=local",
            "HARNESS_SERVICE=web",
            "HOME=/h",
            "MY_DB_ADDR=127.0.0.1:5432",
            "MY_DB_HOST=elsewhere",
            "MY_DB_PORT=5432",
            "PORT=8080",
        ]
    );
    assert_eq!(resolved.working_dir.as_deref(), Some(Path::new("/stack")));
    let missing = Template { segments: vec![hole("web", Field::Ip)] };
    assert_eq!(
        fill(&caller, &missing).unwrap_err().to_string(),
        "${web.ip} in web-1: there is no service web"
    );
    let unnamed = Template { segments: vec![hole("my-db", Field::Port(Some("x".into())))] };
    assert_eq!(
        fill(&caller, &unnamed).unwrap_err().to_string(),
        "${my-db.port.x} in web-1: my-db declares no such port"
    );
}

/// Every pair of a process and a container, each as the other sees it.
#[test]
fn the_same_text_is_right_for_whoever_asks() {
    let published = |target| Port { target: Some(target), ..port(None, PortNumber::Fixed(15432)) };
    let docker = |name: &str, ports: Vec<Port>| {
        let mut service = testing::service(name);
        service.target = Target::Docker {
            image: "x".into(),
            command: None,
            entrypoint: None,
            volumes: vec![],
            pull: None,
        };
        service.ports = ports;
        service
    };
    let db = docker("db", vec![published(5432)]);
    let inner = docker("inner", vec![]);
    let mut web = testing::service("web");
    web.ports = vec![port(None, PortNumber::Fixed(8080))];
    let mut outside = testing::service("outside");
    outside.target =
        Target::Attach(crate::model::Attach::External { host: "db.example.com".into(), port: 5433 });
    let mut open = testing::service("open");
    open.ports = vec![Port { address: Some("0.0.0.0".into()), ..port(None, PortNumber::Fixed(9090)) }];
    let all = [&db, &inner, &web, &open, &outside];
    let network = ContainerNetwork::parse("n", "172.20.0.0/16", Some("172.20.0.1")).unwrap();
    let (mut leases, secrets) = (PortLeases::default(), BTreeMap::new());
    let range = PortRange { first: 20_000, last: 29_999 };
    allocate_service(&mut leases, range, &web.name, &[0].into(), &BTreeSet::new(), |_| false).unwrap();
    let mut addresses = AddressLeases::default();
    for name in ["db-1", "inner-1"] {
        addresses.lease(&network, &testing::instance(name)).unwrap();
    }
    let lookup = |name: &ServiceName| all.into_iter().find(|service| service.name == *name);
    let seen = |asking: &Service, asked: &str| {
        let instance = InstanceName::new(asking.name.clone(), 1);
        let caller = Caller {
            instance: &instance,
            service: asking,
            view: View::from(asking),
            inside: true,
            lookup: &lookup,
            leases: &leases,
            network: Some(&network),
            addresses: &addresses,
            sites: &Sites::default(),
            virtuals: &Virtuals::default(),
            networks: &IndexMap::new(),
            secrets: &secrets,
        };
        let text = |field| {
            fill(&caller, &Template { segments: vec![hole(asked, field)] }).unwrap_or_else(|_| "-".into())
        };
        format!("{} {} {}", text(Field::Ip), text(Field::Host), text(Field::Port(None)))
    };
    for (asking, asked, expected) in [
        // a container's published port, on this machine and in the network
        (&web, "db", "127.0.0.1 localhost 15432"),
        (&inner, "db", "172.20.0.2 db 5432"),
        (&db, "self", "172.20.0.2 db 5432"),
        // one that publishes nothing is reached where it is
        (&web, "inner", "172.20.0.3 172.20.0.3 -"),
        (&db, "inner", "172.20.0.3 inner -"),
        // this machine, as its containers see it: at the gateway, where somebody stands for what is only on loopback
        (&db, "web", "172.20.0.1 host.docker.internal 20000"),
        (&db, "open", "172.20.0.1 host.docker.internal 9090"),
        (&web, "self", "127.0.0.1 localhost 8080"),
        // elsewhere is the same for all
        (&web, "outside", "db.example.com db.example.com 5433"),
        (&db, "outside", "db.example.com db.example.com 5433"),
    ] {
        assert_eq!(seen(asking, asked), expected, "{} sees {asked}", asking.name);
    }
    // Without an engine the containers have no addresses there, and that is said.
    let instance = testing::instance("db-1");
    let caller = Caller {
        instance: &instance,
        service: &db,
        view: View::Container,
        inside: true,
        lookup: &lookup,
        leases: &leases,
        network: None,
        addresses: &addresses,
        sites: &Sites::default(),
        virtuals: &Virtuals::default(),
        networks: &IndexMap::new(),
        secrets: &secrets,
    };
    let error = fill(&caller, &Template { segments: vec![hole("inner", Field::Ip)] }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "${inner.ip} in db-1: inner has no address, because its container engine or its node can't be reached"
    );
    let probe = ResolvedProbe::new(&caller, &Probe::Tcp { host: None, port: "15432".into() }).unwrap();
    let from_the_machine = ResolvedProbe::Tcp { host: "127.0.0.1".into(), port: 15432, proxied: true };
    assert_eq!(probe, from_the_machine, "what isn't a command is asked from the machine");
}

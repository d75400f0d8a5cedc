//! Several nodes: links, relays, and what happens when they break.

use crate::support::*;
use orchestrator::network::plane::{Table, Way};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

/// `hub` makes links to `a` and `b`, and has their tables handed to them.
struct Nodes {
    hub: Plane,
    a: Plane,
    b: Plane,
    tables: [Table; 3],
}

fn relay() -> Way {
    Way::Relay { via: "hub".to_owned() }
}

impl Nodes {
    fn start() -> Self {
        let (hub, a, b) = (Plane::start("hub"), Plane::start("a"), Plane::start("b"));
        let mut tables = [table("hub", 1), table("a", 1), table("b", 1)];
        tables[0].peers.insert("a".to_owned(), peer(&[Way::Link], a.link()));
        tables[0].peers.insert("b".to_owned(), peer(&[Way::Link], b.link()));
        for (at, other) in [(1, "b"), (2, "a")] {
            tables[at].peers.insert(other.to_owned(), peer(&[relay()], vec![]));
            tables[at].peers.insert("hub".to_owned(), peer(&[Way::Link], vec![]));
        }
        Self { hub, a, b, tables }
    }

    /// Serves all tables through the hub and waits until they are served.
    fn serve(&mut self) {
        let [hub, a, b] = &mut self.tables;
        for table in [&mut *hub, &mut *a, &mut *b] {
            table.version += 1;
        }
        hub.others = [("a".to_owned(), a.clone()), ("b".to_owned(), b.clone())].into();
        let (va, vb) = (a.version, b.version);
        self.hub.serve(hub);
        self.hub.until("the other nodes' tables", |report| {
            let version = |node: &str| report.others.get(node).map(|report| report.version);
            version("a") == Some(va) && version("b") == Some(vb)
        });
    }

    fn listen(&mut self, at: usize, service: &str, node: &str, instance: &Instance) -> SocketAddr {
        let address = free();
        self.tables[at].listeners.push(listener(service, address, vec![instance.backend(node)]));
        address
    }
}

#[test]
fn services_are_reached_across_links_in_both_directions_and_through_the_hub() {
    let mut nodes = Nodes::start();
    let (on_hub, on_a, on_b) = (Instance::start("h-1"), Instance::start("a-1"), Instance::start("b-1"));
    nodes.tables[0].exports = exports(&[&on_hub]);
    nodes.tables[1].exports = exports(&[&on_a]);
    nodes.tables[2].exports = exports(&[&on_b]);
    let hub_to_a = nodes.listen(0, "a", "a", &on_a);
    let a_to_hub = nodes.listen(1, "h", "hub", &on_hub);
    let a_to_b = nodes.listen(1, "b", "b", &on_b);
    let b_to_a = nodes.listen(2, "a", "a", &on_a);
    nodes.serve();
    for (address, name) in [(hub_to_a, "a-1"), (a_to_hub, "h-1"), (a_to_b, "b-1"), (b_to_a, "a-1")] {
        // There and back ends with the end of one direction while the other goes on: through every way.
        assert_eq!(there_and_back(address, 3_000_000), name);
    }
    let report =
        nodes.hub.until("the round-trip time", |report| way(report, "a", &Way::Link).rtt_us.is_some());
    assert_eq!(way(&report, "a", &Way::Link).works, Some(true));
    let report = nodes.a.show();
    assert_eq!(way(&report, "b", &relay()).works, Some(true));
    assert!(way(&report, "b", &relay()).evidence.contains("through hub"), "{report:?}");
    let connected = smol::block_on(nodes.a.client().connect_service("b", None)).unwrap();
    assert_eq!((connected.instance.as_str(), connected.way), ("b-1", Some(relay())));
}

#[test]
fn what_isnt_exported_isnt_reached_and_the_way_isnt_blamed() {
    let mut nodes = Nodes::start();
    let (secret, open) = (Instance::start("secret-1"), Instance::start("open-1"));
    nodes.tables[1].exports = exports(&[&open]);
    let to_secret = nodes.listen(0, "secret", "a", &secret);
    let to_open = nodes.listen(0, "open", "a", &open);
    nodes.serve();
    assert!(ask(to_secret).is_err());
    assert_eq!(who(to_open), "open-1");
    assert_eq!(way(&nodes.hub.show(), "a", &Way::Link).works, Some(true));
    let why = smol::block_on(nodes.hub.client().connect_service("secret", None)).unwrap_err().to_string();
    assert!(why.contains("a has no secret-1:80"), "{why}");
}

#[test]
fn a_cut_link_breaks_what_went_over_it_and_the_next_goes_another_way() {
    let mut nodes = Nodes::start();
    let on_b = Instance::start("b-1");
    nodes.tables[2].exports = exports(&[&on_b]);
    // The hub reaches b by its own link, else through a, which has one as well.
    let through_a = Way::Relay { via: "a".to_owned() };
    let to_b = nodes.b.link();
    nodes.tables[0].peers.insert("b".to_owned(), peer(&[Way::Link, through_a.clone()], to_b.clone()));
    nodes.tables[1].peers.insert("b".to_owned(), peer(&[Way::Link], to_b));
    let address = nodes.listen(0, "b", "b", &on_b);
    nodes.serve();
    nodes.a.until("the link from a to b", |report| way(report, "b", &Way::Link).works == Some(true));

    let (_, mut open) = ask(address).unwrap();
    open.get_mut().write_all(b"half").unwrap();
    open.read_exact(&mut [0; 4]).unwrap();
    kill(nodes.hub.bridge_to(&nodes.b));
    // Broken off, not ended.
    let error = open.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(there_and_back(address, 1000), "b-1");
    // It is made again by itself.
    nodes.hub.until("the link", |report| way(report, "b", &Way::Link).works == Some(true));
    assert_eq!(there_and_back(address, 1000), "b-1");
}

#[test]
fn a_node_that_is_down_is_passed_over_and_reached_again_when_it_is_back() {
    let mut nodes = Nodes::start();
    let (on_a, on_b) = (Instance::start("web-1"), Instance::start("web-2"));
    nodes.tables[1].exports = exports(&[&on_a]);
    nodes.tables[2].exports = exports(&[&on_b]);
    let address = nodes.listen(0, "web", "a", &on_a);
    nodes.tables[0].listeners[0].backends.push(on_b.backend("b"));
    nodes.serve();
    nodes.b.kill();
    for _ in 0..10 {
        assert_eq!(there_and_back(address, 100), "web-1");
    }
    let report = nodes.hub.until("the broken link", |report| {
        way(report, "b", &Way::Link).evidence.contains("no data plane answers")
    });
    assert_eq!(way(&report, "b", &Way::Link).works, Some(false));
    nodes.b = nodes.b.again();
    within("web-2's return", || (who(address) == "web-2").then_some(()));
}

#[test]
fn a_node_serves_on_while_the_hub_is_away() {
    let mut nodes = Nodes::start();
    let on_a = Instance::start("web-1");
    nodes.tables[1].exports = exports(&[&on_a]);
    let address = nodes.listen(1, "web", "a", &on_a);
    nodes.serve();
    nodes.hub.kill();
    assert_eq!(there_and_back(address, 1000), "web-1");
    nodes.hub = nodes.hub.again();
    // Its last table has the links.
    nodes.hub.until("the links", |report| report.others.contains_key("a"));
}

#[test]
fn who_answers_at_the_end_of_a_link_must_be_who_was_expected() {
    let (hub, other) = (Plane::start("hub"), Plane::start("other"));
    let mut served = table("hub", 1);
    served.peers.insert("a".to_owned(), peer(&[Way::Link], other.link()));
    hub.serve(&served);
    hub.until("the refusal", |report| {
        way(report, "a", &Way::Link).evidence.starts_with("a was expected at the other end, other is there")
    });
}

#[test]
fn what_a_links_command_says_is_the_evidence() {
    let hub = Plane::start("hub");
    let mut served = table("hub", 1);
    let command = ["sh", "-c", "echo a: no such host >&2; exit 255"].map(str::to_owned).to_vec();
    served.peers.insert("a".to_owned(), peer(&[Way::Link], command));
    served.peers.insert("b".to_owned(), peer(&[], vec!["no-such-program".to_owned()]));
    hub.serve(&served);
    hub.until("the evidence", |report| {
        let (a, b) = (way(report, "a", &Way::Link), way(report, "b", &Way::Link));
        a.works == Some(false)
            && a.evidence.ends_with("(exit status: 255): a: no such host")
            && b.evidence.starts_with("no-such-program can't be started")
    });
}

#[test]
fn a_link_ends_with_its_peer_and_so_does_its_command() {
    let mut nodes = Nodes::start();
    nodes.serve();
    let bridge = nodes.hub.bridge_to(&nodes.b);
    nodes.tables[0].peers.remove("b");
    nodes.tables[0].version += 1;
    nodes.tables[0].others.clear();
    let report = nodes.hub.serve(&nodes.tables[0]);
    assert!(!report.peers.contains_key("b") && !report.others.contains_key("b"));
    within("the end of the link's command", || (!nodes.hub.children().contains(&bridge)).then_some(()));
}

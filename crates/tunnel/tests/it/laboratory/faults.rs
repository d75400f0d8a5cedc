//! What happens to networks, with requests under way. Bounds leave room for a busy machine.

use super::process::Process;
use super::{PORT, Switch, alone, at_switch, place, runtime, sh};
use crate::world::{Flow, Node, bulk, within};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// From now on that node loses packets that come in and match.
fn loses(node: &str, what: &str) {
    sh(&format!(
        "ip netns exec {node} nft 'add table inet fault;
         add chain inet fault i {{ type filter hook input priority -300 ; }}; add rule inet fault i {what} drop'"
    ));
}

/// It no longer does.
fn heals(node: &str) {
    sh(&format!("ip netns exec {node} nft delete table inet fault"));
}

#[test]
fn what_the_caller_does_not_hear_comes_through_the_hub_until_it_does_again() {
    alone(|| at_switch(true, async |nodes| one_way(nodes, "a", "203.0.113.2").await));
}

#[test]
fn what_the_other_end_does_not_hear_goes_through_the_hub_until_it_does_again() {
    alone(|| at_switch(true, async |nodes| one_way(nodes, "b", "203.0.113.1").await));
}

/// The straight way loses one direction.
async fn one_way(nodes: Switch, deaf: &str, to: &str) {
    let mut flow = nodes.straight().await;
    loses(deaf, &format!("ip saddr {to}"));
    let gap = flow.gap().await;
    assert!(nodes.a.tunnel(&nodes.b).await.through_hub);
    nodes.b.until(&nodes.a, |tunnel| tunnel.through_hub).await;
    flow.goes_on_for(Duration::from_secs(3)).await;
    heals(deaf);
    let begun = Instant::now();
    nodes.a.until(&nodes.b, |tunnel| !tunnel.through_hub).await;
    nodes.b.until(&nodes.a, |tunnel| !tunnel.through_hub).await;
    let back = begun.elapsed();
    let on_the_way_back = flow.gap().await;
    eprintln!(
        "{deaf} deaf: a gap of {gap:?}; straight again {back:?} after the heal, a gap of {on_the_way_back:?}"
    );
    assert!(gap < Duration::from_secs(9), "{gap:?}");
    assert!(on_the_way_back < Duration::from_secs(1), "{on_the_way_back:?}");
}

#[test]
fn a_fifth_of_all_packets_lost_loses_no_byte() {
    alone(|| at_switch(true, async |nodes| fifth_lost(nodes).await));
}

async fn fifth_lost(nodes: Switch) {
    let mut flow = nodes.straight().await;
    let stream = nodes.a.open(&nodes.b).await;
    for node in ["a", "b", "h"] {
        // Every fifth: by chance alone a test now and then has none of twenty come through.
        loses(node, "numgen inc mod 5 0");
    }
    const LENGTH: usize = 8 << 10;
    let took = bulk(stream, LENGTH).await;
    // It is slow, and it goes on.
    flow.goes_on_for(Duration::ZERO).await;
    eprintln!("a fifth lost: {} KiB there and back in {took:?}", LENGTH >> 10);
}

#[test]
fn a_slow_link_is_used_to_the_full_and_not_taken_for_a_broken_one() {
    alone(|| at_switch(true, async |nodes| slow(nodes).await));
}

async fn slow(nodes: Switch) {
    let mut flow = nodes.straight().await;
    sh("tc -n a qdisc add dev eth0 root tbf rate 10mbit burst 32kbit latency 200ms");
    let stream = nodes.a.open(&nodes.b).await;
    const LENGTH: usize = 5 << 20;
    let took = bulk(stream, LENGTH).await;
    let rate = LENGTH as f64 * 8.0 / took.as_secs_f64() / 1e6;
    let gap = flow.gap().await;
    eprintln!("a link of 10 Mbit/s: {rate:.1} Mbit/s, a gap of {gap:?}");
    assert!(rate > 3.0, "{rate}");
    assert!(gap < Duration::from_secs(3), "{gap:?}");
    assert!(!nodes.a.tunnel(&nodes.b).await.through_hub);
}

#[test]
fn new_keys_on_all_nodes_interrupt_requests_for_a_moment() {
    alone(|| at_switch(true, async |nodes| rotate(nodes).await));
}

async fn rotate(mut nodes: Switch) {
    let mut flow = nodes.straight().await;
    for epoch in 1..=3 {
        let Switch { hub, a, b } = &mut nodes;
        for node in [&mut *hub, &mut *a, &mut *b] {
            node.config.key_epoch = epoch;
            node.set().await;
            node.read().await;
        }
        let keys = [hub.key.clone(), a.key.clone(), b.key.clone()];
        for node in [&mut *hub, &mut *a, &mut *b] {
            for (name, key) in ["hub", "a", "b"].iter().zip(&keys) {
                if let Some(peer) = node.config.peers.get_mut(*name) {
                    peer.public_key.clone_from(key);
                }
            }
            node.set().await;
        }
        let gap = flow.gap().await;
        eprintln!("new keys: a gap of {gap:?}");
        assert!(gap < Duration::from_millis(600), "{gap:?}");
        nodes.a.until(&nodes.b, |tunnel| !tunnel.through_hub).await;
        flow.goes_on_for(Duration::from_secs(1)).await;
    }
}

#[test]
fn neighbours_talk_straight_at_once() {
    alone(|| at_switch(true, async |nodes| neighbours(nodes).await));
}

async fn neighbours(nodes: Switch) {
    let begun = Instant::now();
    let mut flow = Flow::start(nodes.a.open(&nodes.b).await);
    nodes.a.until(&nodes.b, |tunnel| !tunnel.through_hub).await;
    nodes.b.until(&nodes.a, |tunnel| !tunnel.through_hub).await;
    let took = begun.elapsed();
    let gap = flow.gap().await;
    eprintln!("neighbours: straight after {took:?}, a gap of {gap:?}");
    assert!(took < Duration::from_millis(300) && gap < Duration::from_millis(300), "{took:?} {gap:?}");
    let tunnel = nodes.a.tunnel(&nodes.b).await;
    assert_eq!(tunnel.endpoint, Some(place(2)));
}

#[test]
fn an_address_that_changes_under_way_is_followed_at_once() {
    alone(|| at_switch(true, async |nodes| moves(nodes).await));
}

async fn moves(nodes: Switch) {
    let mut flow = nodes.straight().await;
    sh("ip -n b addr add 203.0.113.7/24 dev eth0; ip -n b addr del 203.0.113.2/24 dev eth0;
        ip -n b addr show dev eth0 | grep -q 203.0.113.7 || ip -n b addr add 203.0.113.7/24 dev eth0");
    let new: SocketAddr = ([203, 0, 113, 7], PORT).into();
    let gap = flow.gap().await;
    eprintln!("another address: a gap of {gap:?}");
    assert!(gap < Duration::from_secs(1), "{gap:?}");
    nodes.a.until(&nodes.b, |tunnel| tunnel.endpoint == Some(new)).await;
}

#[test]
fn a_hub_that_is_killed_relays_again_as_soon_as_it_is_back() {
    alone(|| at_switch_with_a_process("h", async |hub, a, b| killed_hub(hub, a, b).await));
}

async fn killed_hub(mut hub: Process, a: Node, b: Node) {
    let mut flow = Flow::start(a.open(&b).await);
    flow.goes_on_for(Duration::from_secs(3)).await;
    assert!(a.tunnel(&b).await.through_hub);
    let begun = Instant::now();
    hub.kill();
    std::thread::sleep(Duration::from_secs(2));
    hub.start_again();
    let away = begun.elapsed();
    let gap = flow.gap().await;
    eprintln!("a hub killed: away for {away:?}, a gap of {gap:?}");
    assert!(gap < away + Duration::from_secs(2), "{away:?} {gap:?}");
}

#[test]
fn an_end_that_slept_goes_on_where_it_was() {
    alone(|| at_switch_with_a_process("b", async |b, a, hub| sleeps(b, a, hub).await));
}

async fn sleeps(b: Process, a: Node, _hub: Node) {
    let mut flow = Flow::start(a.engine.open("b", Duration::from_secs(5)).await.unwrap());
    until(&a, "b", |tunnel| !tunnel.through_hub).await;
    flow.goes_on_for(Duration::from_secs(2)).await;
    let begun = Instant::now();
    b.signal("STOP");
    std::thread::sleep(Duration::from_secs(10));
    b.signal("CONT");
    let asleep = begun.elapsed();
    let gap = flow.gap().await;
    eprintln!("asleep for {asleep:?}: a gap of {gap:?}");
    assert!(gap < asleep + Duration::from_secs(3), "{asleep:?} {gap:?}");
    let begun = Instant::now();
    until(&a, "b", |tunnel| !tunnel.through_hub).await;
    eprintln!("straight again {:?} later", begun.elapsed());
}

/// Waits until the tunnel to a node of that name is like that.
async fn until(node: &Node, other: &str, like: impl Fn(&tunnel::State) -> bool) {
    let mut ways = node.engine.ways();
    within(async {
        loop {
            ways.borrow_and_update();
            if like(&node.engine.report().await.unwrap().tunnels[other]) {
                return;
            }
            ways.changed().await.unwrap();
        }
    })
    .await;
}

/// Has a scene with `a` and, of `b` and the hub, one that is a process of its own and one that isn't. The nodes know each
/// other's places if the process isn't the hub.
fn at_switch_with_a_process(process: &'static str, scene: impl AsyncFnOnce(Process, Node, Node)) {
    super::switch("a b h", "eth0");
    let other = if process == "h" { "b" } else { "h" };
    let (in_a, in_other) = (runtime("a"), runtime(other));
    Runtime::new().unwrap().block_on(async {
        let mut a = Node::start_in(in_a.handle(), 1, "a", PORT).await;
        let (n, name) = if process == "h" { (2, "b") } else { (0, "hub") };
        let mut other = Node::start_in(in_other.handle(), n, name, PORT).await;
        let (n, name, at) = if process == "h" { (0, "hub", 3) } else { (2, "b", 2) };
        let mut process = Process::start(process, n, name, PORT);
        let mut config = a.config.clone();
        (config.node, config.address) = (name.to_owned(), process.address);
        let near = name == "b";
        if near {
            a.knows_at(&other, &[place(3)]);
            other.knows(&a, false);
            config.peers.insert("a".to_owned(), a.as_peer(false));
            config.peers.insert("hub".to_owned(), a.config.peers["hub"].clone());
        } else {
            a.knows(&other, false);
            other.knows(&a, false);
            config.peers.insert("a".to_owned(), a.as_peer(false));
            config.peers.insert("b".to_owned(), other.as_peer(false));
        }
        let seen_by_a = process.as_peer(&[place(at)]);
        let places = if near { Vec::new() } else { vec![place(at)] };
        let seen_by_other = process.as_peer(&places);
        a.config.peers.insert(name.to_owned(), seen_by_a);
        other.config.peers.insert(name.to_owned(), seen_by_other);
        let hub = Some("hub".to_owned());
        a.config.hub.clone_from(&hub);
        if near {
            config.hub = hub;
        } else {
            other.config.hub = hub;
        }
        process.set(&config);
        a.set().await;
        other.set().await;
        until(&a, "hub", |tunnel| tunnel.endpoint.is_some()).await;
        if !near {
            until(&other, "hub", |tunnel| tunnel.endpoint.is_some()).await;
        }
        scene(process, a, other).await;
    });
}

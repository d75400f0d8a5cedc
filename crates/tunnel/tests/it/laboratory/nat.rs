//! Two nodes behind NATs, both with the same address, and a hub outside: in network namespaces, without root.

use super::{PORT, alone, place, runtime, sh, switch};
use crate::world::{Flow, Node, echo, within};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// `a` and `b` are 10.0.0.2 each, behind `ra` (203.0.113.1) and `rb` (203.0.113.2); `h` is 203.0.113.3. The routers let in
/// only what answers something.
const SETUP: &str = r#"
    set -e
    for node in a b; do
        ip netns add $node
        ip -n $node link add eth0 type veth peer name in netns r$node
        ip -n $node link set lo up
        ip -n $node link set eth0 up
        ip -n $node addr add 10.0.0.2/24 dev eth0
        ip -n $node route add default via 10.0.0.1
        ip -n r$node link set in up
        ip -n r$node addr add 10.0.0.1/24 dev in
        ip netns exec r$node sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
        ip netns exec r$node nft -f - <<'RULES'
            table ip nat {
                chain leaving {
                    type nat hook postrouting priority 100
                    oifname "out" masquerade
                }
            }
            table inet filter {
                chain arriving {
                    type filter hook input priority 0
                    iifname "out" drop
                }
                chain through {
                    type filter hook forward priority 0
                    iifname "out" ct state { established, related } accept
                    iifname "out" drop
                }
            }
RULES
    done
"#;

#[test]
fn nodes_behind_nats_go_straight_and_a_node_that_moves_is_found_at_once() {
    alone(|| behind_nats(async |a, _, flow| moves(a, flow).await));
}

#[test]
fn a_way_between_nats_that_is_cut_is_left_for_the_hub() {
    alone(|| behind_nats(async |a, b, flow| is_cut(a, b, flow).await));
}

/// Has both nodes meet, and hands on: the nodes, and a stream of requests that goes straight.
fn behind_nats(scene: impl AsyncFnOnce(&Node, &Node, &mut Flow)) {
    switch("ra rb h", "out");
    sh(SETUP);
    let (a, b, h) = (runtime("a"), runtime("b"), runtime("h"));
    let main = Runtime::new().unwrap();
    main.block_on(async {
        let mut hub = Node::start_in(h.handle(), 0, "hub", PORT).await;
        let mut a = Node::start_in(a.handle(), 1, "a", PORT).await;
        let mut b = Node::start_in(b.handle(), 2, "b", PORT).await;
        let mut flow = Flow::start(meet(&mut hub, &mut a, &mut b).await);
        // What is measured is a way that has been in use for a while.
        flow.goes_on_for(Duration::from_secs(3)).await;
        scene(&a, &b, &mut flow).await;
    });
}

async fn meet(hub: &mut Node, a: &mut Node, b: &mut Node) -> tunnel::Stream {
    for node in [&mut *a, &mut *b] {
        node.config.hub = Some("hub".to_owned());
        node.knows_at(hub, &[place(3)]);
        hub.knows(node, false);
    }
    hub.set().await;
    for node in [&*a, &*b] {
        node.set().await;
        hub.until(node, |tunnel| tunnel.endpoint.is_some()).await;
        node.until(hub, |tunnel| tunnel.endpoint.is_some()).await;
    }
    let seen = |report: tunnel::Report| report.seen_as["hub"];
    let a_seen = seen(a.engine.report().await.unwrap());
    let b_seen = seen(b.engine.report().await.unwrap());
    assert_eq!(a_seen.ip().to_string(), "203.0.113.1");
    assert_eq!(b_seen.ip().to_string(), "203.0.113.2");

    // Each is told of the other's own address too, at which it finds itself.
    let own: SocketAddr = ([10, 0, 0, 2], PORT).into();
    let (for_a, for_b) = (b.as_peer(false), a.as_peer(false));
    for (node, name, mut peer, place) in [(&mut *a, "b", for_a, b_seen), (&mut *b, "a", for_b, a_seen)] {
        peer.candidates = vec![own, place];
        node.config.peers.insert(name.to_owned(), peer);
    }
    a.set().await;
    b.set().await;
    let mut stream = a.open(b).await;
    echo(&mut stream, b"through the hub first").await;
    let begun = Instant::now();
    let straight = a.until(b, |tunnel| !tunnel.through_hub).await;
    eprintln!("straight through both NATs after {:?}: {straight:?}", begun.elapsed());
    assert_eq!(straight.endpoint, Some(b_seen));
    b.until(a, |tunnel| !tunnel.through_hub).await;
    stream
}

/// The way between the routers is cut, the one to the hub isn't.
async fn is_cut(a: &Node, b: &Node, flow: &mut Flow) {
    sh("ip netns exec ra nft 'add table inet cut; add chain inet cut f { type filter hook forward priority -5 ; };
        add rule inet cut f ip daddr 203.0.113.2 drop; add rule inet cut f ip saddr 203.0.113.2 drop'");
    let gap = flow.gap().await;
    eprintln!("through the hub again after {gap:?}");
    assert!(a.tunnel(b).await.through_hub);
    assert!(gap < Duration::from_secs(10), "{gap:?}");
}

/// The node gets another address while its stream is busy.
async fn moves(node: &Node, flow: &mut Flow) {
    sh("ip -n a addr add 10.0.0.7/24 dev eth0; ip -n a addr del 10.0.0.2/24 dev eth0;
        ip -n a addr show dev eth0 | grep -q 10.0.0.7 || ip -n a addr add 10.0.0.7/24 dev eth0;
        ip -n a route replace default via 10.0.0.1");
    // Settled once the node itself tells of its new address and its way to the hub is open.
    within(async {
        let new = ["10.0.0.7".parse::<std::net::IpAddr>().unwrap()];
        while node.engine.report().await.unwrap().addresses != new {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let gap = flow.gap().await;
    eprintln!("roaming took {gap:?}");
    assert!(gap < Duration::from_secs(1), "{gap:?}");
}

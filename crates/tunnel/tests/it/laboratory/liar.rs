//! A neighbour that has the address at which another site has a node, and answers there.

use super::{PORT, alone, runtime, sh};
use crate::world::{Flow, Node, bulk, within};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::runtime::Runtime;

/// `a` is at 10.0.0.1 of its site, where somebody else, `m`, has 10.0.0.2. `b` is at 10.0.0.2 of its own site. Both see the
/// hub `h` only, at 10.1.0.3 and 10.2.0.3.
const SITES: &str = "
    set -e
    mount -t tmpfs tmpfs /run
    for ns in a b h m; do
        ip netns add $ns
        ip -n $ns link set lo up
    done
    ip link add sw type bridge
    ip link set sw up
    for ns in a m; do
        ip link add s$ns type veth peer name eth0 netns $ns
        ip link set s$ns master sw up
        ip -n $ns link set eth0 up
    done
    ip -n a addr add 10.0.0.1/24 dev eth0
    ip -n m addr add 10.0.0.2/24 dev eth0
    ip -n b link add eth0 type veth peer name nobody
    ip -n b link set nobody up
    ip -n b link set eth0 up
    ip -n b addr add 10.0.0.2/24 dev eth0
    for node in a:1 b:2; do
        ns=${node%:*} n=${node#*:}
        ip -n $ns link add wan type veth peer name to$ns netns h
        ip -n $ns link set wan up
        ip -n h link set to$ns up
        ip -n $ns addr add 10.$n.0.1/24 dev wan
        ip -n h addr add 10.$n.0.3/24 dev to$ns
    done
";

#[test]
fn a_neighbour_of_another_stack_is_never_taken_for_the_node() {
    alone(|| with_neighbour(Neighbour::OfAnotherStack));
}

#[test]
fn a_neighbour_that_sends_everything_back_is_never_taken_for_the_node() {
    alone(|| with_neighbour(Neighbour::Echo));
}

#[test]
fn a_neighbour_that_knows_the_stack_and_has_another_key_is_never_taken_for_the_node() {
    alone(|| with_neighbour(Neighbour::WithAnotherKey));
}

enum Neighbour {
    /// It says that it is `b`, and signs with its own stack's key.
    OfAnotherStack,
    /// It returns every datagram.
    Echo,
    /// It says that it is `b`, signs as `b` would, and has another WireGuard key.
    WithAnotherKey,
}

fn with_neighbour(neighbour: Neighbour) {
    sh(SITES);
    let (in_a, in_b, in_h, in_m) = (runtime("a"), runtime("b"), runtime("h"), runtime("m"));
    Runtime::new().unwrap().block_on(async {
        let mut hub = Node::start_in(in_h.handle(), 0, "hub", PORT).await;
        let mut a = Node::start_in(in_a.handle(), 1, "a", PORT).await;
        let mut b = Node::start_in(in_b.handle(), 2, "b", PORT).await;
        let liar: SocketAddr = ([10, 0, 0, 2], PORT).into();
        let _liar = match neighbour {
            Neighbour::Echo => {
                in_m.spawn(echo(liar)).await.unwrap();
                None
            }
            Neighbour::OfAnotherStack | Neighbour::WithAnotherKey => {
                let mut node = Node::start_in(in_m.handle(), 2, "b", PORT).await;
                if matches!(neighbour, Neighbour::OfAnotherStack) {
                    node.config.probe_key = [8; 32];
                }
                node.knows(&a, false);
                node.set().await;
                Some(node)
            }
        };
        for (n, node) in [(1, &mut a), (2, &mut b)] {
            node.config.hub = Some("hub".to_owned());
            node.knows_at(&hub, &[([10, n, 0, 3], PORT).into()]);
            hub.knows(node, false);
        }
        a.knows_at(&b, &[liar]);
        b.knows_at(&a, &[([10, 0, 0, 1], PORT).into()]);
        hub.set().await;
        for node in [&a, &b] {
            node.set().await;
            node.until(&hub, |tunnel| tunnel.endpoint.is_some()).await;
        }
        let mut flow = Flow::start(a.open(&b).await);
        // The way straight would be taken within the first second.
        flow.goes_on_for(Duration::from_secs(4)).await;
        bulk(a.open(&b).await, 1 << 20).await;
        let gap = flow.gap().await;
        eprintln!("beside a neighbour that lies: the longest answer took {gap:?}");
        assert!(gap < Duration::from_secs(1), "{gap:?}");
        let tunnel = a.tunnel(&b).await;
        assert!(tunnel.through_hub && tunnel.endpoint.is_none(), "{tunnel:?}");
        let answered = a.engine.probe(liar, Duration::from_secs(1)).await;
        match neighbour {
            Neighbour::OfAnotherStack => assert!(answered.is_err(), "{answered:?}"),
            // The node hears itself: that is nobody else.
            Neighbour::Echo => assert!(answered.is_ok_and(|pong| pong.name == "a")),
            Neighbour::WithAnotherKey => assert!(answered.is_ok_and(|pong| pong.name == "b")),
        }
    });
}

/// Listens there, and goes on after this returned.
async fn echo(place: SocketAddr) {
    let socket = within(UdpSocket::bind(place)).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], from).await;
        }
    });
}

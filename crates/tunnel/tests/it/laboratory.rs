//! Two nodes behind NATs, both with the same address, and a hub outside: in network namespaces, without root.

use crate::world::{Node, echo, longest_round_trip, within};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use test_hosts::{Error, require};
use tokio::runtime::Runtime;

/// The port that both nodes have.
const PORT: u16 = 40_000;

/// `a` and `b` are 10.0.0.2 each, behind `ra` (203.0.113.1) and `rb` (203.0.113.2); `h` is 203.0.113.3. The routers let in
/// only what answers something.
const SETUP: &str = r#"
    set -e
    mount -t tmpfs tmpfs /run
    ip link set lo up
    ip link add sw type bridge
    ip link set sw up
    n=1
    for ns in ra rb h; do
        ip netns add $ns
        ip link add s$ns type veth peer name out netns $ns
        ip link set s$ns master sw up
        ip -n $ns link set lo up
        ip -n $ns link set out up
        ip -n $ns addr add 203.0.113.$n/24 dev out
        n=$((n + 1))
    done
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

/// Whether this machine lets users have networks of their own.
fn namespaces() -> Result<(), Error> {
    let tried = Command::new("unshare").args(["-Urnm", "sh", "-c", "ip -V && nft -v"]).output();
    if tried.is_ok_and(|tried| tried.status.success()) {
        return Ok(());
    }
    let hint = "allow user namespaces, and install iproute2 and nftables".to_owned();
    Err(Error::Absent { what: "networks without root".to_owned(), hint })
}

#[test]
fn nodes_behind_nats_go_straight_and_a_node_that_moves_is_found_at_once() {
    require!(namespaces());
    run("laboratory::inside_one_moves");
}

#[test]
fn a_way_between_nats_that_is_cut_is_left_for_the_hub() {
    require!(namespaces());
    run("laboratory::inside_one_is_cut");
}

/// Runs a test of this program in namespaces of its own.
fn run(test: &str) {
    let ran = Command::new("unshare")
        .arg("-Urnm")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    eprintln!("{said}");
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

fn sh(script: &str) {
    let ran = Command::new("sh").args(["-c", script]).output().unwrap();
    assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// A runtime whose threads are in that namespace.
fn runtime(namespace: &'static str) -> Runtime {
    let enter = move || {
        let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().on_thread_start(enter).build().unwrap()
}

#[test]
#[ignore = "run by a test above, in namespaces of its own"]
fn inside_one_moves() {
    inside(async |a, _, stream| moves(a, stream).await);
}

#[test]
#[ignore = "run by a test above, in namespaces of its own"]
fn inside_one_is_cut() {
    inside(async |a, b, stream| is_cut(a, b, stream).await);
}

/// Has both nodes meet, and hands on: the nodes, and a stream that goes straight.
fn inside(scene: impl AsyncFnOnce(&Node, &Node, &mut tunnel::Stream)) {
    sh(SETUP);
    let (a, b, h) = (runtime("a"), runtime("b"), runtime("h"));
    let main = Runtime::new().unwrap();
    main.block_on(async {
        let mut hub = Node::start_in(h.handle(), 0, "hub", PORT).await;
        let mut a = Node::start_in(a.handle(), 1, "a", PORT).await;
        let mut b = Node::start_in(b.handle(), 2, "b", PORT).await;
        let mut stream = meet(&mut hub, &mut a, &mut b).await;
        // What is measured is a way that has been in use for a while.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            echo(&mut stream, b"steady").await;
        }
        scene(&a, &b, &mut stream).await;
    });
}

async fn meet(hub: &mut Node, a: &mut Node, b: &mut Node) -> tunnel::Stream {
    for node in [&mut *a, &mut *b] {
        node.config.hub = Some("hub".to_owned());
        node.knows(hub, false);
        let place: SocketAddr = ([203, 0, 113, 3], PORT).into();
        node.config.peers.get_mut("hub").unwrap().candidates.push(place);
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
async fn is_cut(a: &Node, b: &Node, stream: &mut tunnel::Stream) {
    sh("ip netns exec ra nft 'add table inet cut; add chain inet cut f { type filter hook forward priority -5 ; };
        add rule inet cut f ip daddr 203.0.113.2 drop; add rule inet cut f ip saddr 203.0.113.2 drop'");
    let begun = Instant::now();
    echo(stream, b"through the hub again").await;
    eprintln!("through the hub again after {:?}", begun.elapsed());
    assert!(a.tunnel(b).await.through_hub);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

/// The node gets another address while its stream is busy.
async fn moves(node: &Node, stream: &mut tunnel::Stream) {
    let done = Arc::new(AtomicBool::new(false));
    let longest = longest_round_trip(stream, &done);
    let moving = async {
        sh("ip -n a addr add 10.0.0.7/24 dev eth0; ip -n a addr del 10.0.0.2/24 dev eth0;
            ip -n a addr show dev eth0 | grep -q 10.0.0.7 || ip -n a addr add 10.0.0.7/24 dev eth0;
            ip -n a route replace default via 10.0.0.1");
        // Settled once the node itself tells of its new address and its way to the hub is open.
        within(async {
            while node.engine.report().await.unwrap().addresses
                != ["10.0.0.7".parse::<std::net::IpAddr>().unwrap()]
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        done.store(true, Ordering::Relaxed);
    };
    let (longest, ()) = tokio::join!(longest, moving);
    eprintln!("roaming took {longest:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

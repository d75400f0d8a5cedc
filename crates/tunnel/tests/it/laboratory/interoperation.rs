//! The other end is not ours: Debian's wireguard-go, with addresses and routes as its users give them.

use super::interface::{PORT as SERVED, by_tcp, by_udp, forge, ping, serve};
use super::{PORT, alone, place, runtime, sh, switch};
use crate::world::{Flow, Node, bulk, within};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use test_hosts::{program, require};
use tokio::runtime::Runtime;
use tunnel::{Interface, Peer};

/// Where nodes listen inside the tunnels.
const INNER: u16 = 7700;
/// Bytes that go there and back.
const MUCH: usize = 4 << 20;

#[test]
fn wireguard_go_and_we_carry_each_others_streams_datagrams_and_pings() {
    require!(program("wireguard-go", "wireguard-go"));
    require!(program("wg", "wireguard-tools"));
    alone(|| {
        switch("a b", "eth0");
        let (a, b) = (runtime("a"), runtime("b"));
        Runtime::new().unwrap().block_on(scene(&a, &b));
        for runtime in [a, b] {
            runtime.shutdown_background();
        }
    });
}

async fn scene(in_a: &Runtime, in_b: &Runtime) {
    let mut a = Node::start_in(in_a.handle(), 1, "a", PORT).await;
    let mut b = Theirs::start();
    a.config.interface = Some(Interface { name: "wg-ours".into(), address: inner(1, 2), prefix: 16 });
    a.config.peers.insert("b".to_owned(), b.as_peer());
    a.set().await;
    b.aim(&a.key);
    let ports = [(straight(2, 1), INNER), (straight(2, 2), SERVED)];
    serve(in_b.handle(), &ports).await;
    serve(in_a.handle(), &[(inner(1, 2), SERVED)]).await;

    // Streams of our own TCP, with their kernel at the other end, begun from either side.
    let stream = within(a.engine.open("b", Duration::from_secs(10))).await.unwrap();
    bulk(stream, MUCH).await;
    assert_eq!(by_tcp(in_b.handle(), (straight(1, 1), INNER).into()).await, 1 << 20);
    // Kernel to kernel: TCP, UDP and ICMP, both ways.
    for (from, to) in [(in_b, straight(1, 2)), (in_a, inner(2, 2))] {
        assert_eq!(by_tcp(from.handle(), (to, SERVED).into()).await, 1 << 20);
        assert_eq!(by_udp(from.handle(), (to, SERVED).into()).await, "pong");
        ping(from.handle(), to).await;
    }

    // Whoever has a tunnel speaks for its own addresses only.
    sh("ip -n b addr add 250.210.9.9/32 dev lo");
    forge(in_b.handle(), [250, 210, 9, 9].into(), (straight(1, 2), SERVED).into()).await;
    assert_eq!(by_udp(in_b.handle(), (straight(1, 2), SERVED).into()).await, "pong");

    // Either end changes its key, and theirs its port, while requests flow.
    let mut flow = Flow::start(within(a.engine.open("b", Duration::from_secs(10))).await.unwrap());
    flow.goes_on_for(Duration::from_millis(200)).await;
    let before = a.key.clone();
    a.config.key_epoch = 1;
    a.set().await;
    a.read().await;
    assert_ne!(a.key, before);
    b.aim(&a.key);
    flow.gap().await;
    b.renew_key();
    a.config.peers.insert("b".to_owned(), b.as_peer());
    a.set().await;
    flow.gap().await;
    b.wg(&format!("listen-port {}", PORT + 1));
    flow.gap().await;
    let state = a.engine.report().await.unwrap().tunnels["b"].clone();
    assert_eq!(state.endpoint, Some(SocketAddr::new(place(2).ip(), PORT + 1)));
    assert!(state.handshake_s.is_some() && !state.through_hub);
    drop(flow);
    a.end().await;
}

/// An address of our overlay.
fn inner(node: u8, last: u8) -> Ipv4Addr {
    [10, 210, node, last].into()
}

/// The same on packets that no hub relays: what wireguard-go, which knows nothing of hubs, is to have.
fn straight(node: u8, last: u8) -> Ipv4Addr {
    [250, 210, node, last].into()
}

/// wireguard-go in `b`, which has the addresses of node 2.
struct Theirs {
    child: Child,
    key: String,
}

impl Theirs {
    fn start() -> Self {
        sh("mkdir /run/wireguard");
        let child = Command::new("ip")
            .args(["netns", "exec", "b", "setpriv", "--pdeathsig", "KILL", "wireguard-go", "-f", "wg-theirs"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut theirs = Self { child, key: String::new() };
        sh(
            "for try in $(seq 400); do test -S /run/wireguard/wg-theirs.sock && exit 0; sleep 0.05; done; exit 1",
        );
        theirs.renew_key();
        theirs.wg(&format!("listen-port {PORT}"));
        sh("set -e
            for last in 1 2; do ip -n b addr add 250.210.2.$last/32 dev wg-theirs; done
            ip -n b link set wg-theirs up mtu 1200
            for last in 1 2; do
                ip -n b route add 250.210.1.$last dev wg-theirs src 250.210.2.$last
            done");
        theirs
    }

    fn wg(&self, what: &str) {
        sh(&format!("ip netns exec b wg set wg-theirs {what}"));
    }

    /// Knows our node by that key, and nobody else. It keeps on trying, as one behind NAT does.
    fn aim(&self, key: &str) {
        sh(
            "for key in $(ip netns exec b wg show wg-theirs peers); do ip netns exec b wg set wg-theirs peer $key remove; done",
        );
        self.wg(&format!(
            "peer {key} endpoint {} allowed-ips 250.210.1.0/24 persistent-keepalive 1",
            place(1)
        ));
    }

    fn renew_key(&mut self) {
        sh(
            "umask 077; wg genkey > /run/wireguard/key; wg pubkey < /run/wireguard/key > /run/wireguard/public",
        );
        self.wg("private-key /run/wireguard/key");
        self.key = std::fs::read_to_string("/run/wireguard/public").unwrap().trim().to_owned();
    }

    fn as_peer(&self) -> Peer {
        Peer {
            public_key: self.key.clone(),
            address: inner(2, 1),
            interface: Some(inner(2, 2)),
            candidates: vec![place(2)],
        }
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

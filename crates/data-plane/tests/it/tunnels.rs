//! Services reached through tunnels.

use crate::support::*;
use orchestrator::network::plane::{Table, Tunnel, TunnelPeer, Way};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

/// Two nodes with a tunnel between them; `far` exports `instance`.
struct Pair {
    near: Plane,
    far: Plane,
    tables: [Table; 2],
    address: SocketAddr,
}

fn tunnel(number: u8) -> Tunnel {
    Tunnel {
        address: Ipv4Addr::new(10, 210, number, 1),
        port: 0,
        probe_key: "5a".repeat(32),
        key_epoch: 0,
        hub: None,
        interface: None,
        peers: BTreeMap::new(),
    }
}

impl Pair {
    fn start(instance: &Instance, ways: &[Way]) -> Self {
        let (near, far) = (Plane::start("near"), Plane::start("far"));
        let mut tables = [table("near", 1), table("far", 1)];
        tables[0].tunnel = Some(tunnel(1));
        tables[1].tunnel = Some(tunnel(2));
        // Each makes its own key and tells the public one at once.
        let ends = [near.serve(&tables[0]).tunnel.unwrap(), far.serve(&tables[1]).tunnel.unwrap()];
        for (own, (other, node)) in [(0, (1, "far")), (1, (0, "near"))] {
            let end = &ends[other];
            assert_ne!(end.port, 0);
            let candidates = vec![SocketAddr::from(([127, 0, 0, 1], end.port))];
            let address = tunnel(u8::try_from(other).unwrap() + 1).address;
            let peer_end =
                TunnelPeer { public_key: end.public_key.clone(), address, interface: None, candidates };
            let tunnel = tables[own].tunnel.as_mut().unwrap();
            tunnel.peers.insert(node.to_owned(), peer_end);
            tables[own].version = 2;
        }
        tables[1].exports = exports(&[instance]);
        far.serve(&tables[1]);
        let address = free();
        let link = if ways.contains(&Way::Link) { far.link() } else { Vec::new() };
        tables[0].peers.insert("far".to_owned(), peer(ways, link));
        tables[0].listeners.push(listener("web", address, vec![instance.backend("far")]));
        near.serve(&tables[0]);
        Self { near, far, tables, address }
    }
}

#[test]
fn a_service_is_reached_through_a_tunnel() {
    let instance = Instance::start("web-1");
    let pair = Pair::start(&instance, &[Way::Wireguard]);
    for _ in 0..5 {
        assert_eq!(there_and_back(pair.address, 500_000), "web-1");
    }
    let report = pair.near.until("the tunnel", |report| {
        report.tunnel.as_ref().is_some_and(|end| end.tunnels["far"].handshake_s.is_some())
    });
    assert_eq!(way(&report, "far", &Way::Wireguard).works, Some(true));
    let text = std::fs::read_to_string(pair.near.state.join("table.json")).unwrap();
    assert!(text.contains("probe_key"));
    let mode = std::fs::metadata(pair.near.state.join("tunnel")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
}

#[test]
fn a_data_plane_that_comes_back_has_the_same_key_and_is_reached_again() {
    let instance = Instance::start("web-1");
    let mut pair = Pair::start(&instance, &[Way::Wireguard]);
    assert_eq!(who(pair.address), "web-1");
    let key = |plane: &Plane| plane.show().tunnel.unwrap().public_key;
    let before = key(&pair.far);
    pair.far = pair.far.again();
    assert_eq!(key(&pair.far), before);
    within("the return", || ask(pair.address).ok());
}

#[test]
fn a_tunnel_that_ends_leaves_the_link() {
    let instance = Instance::start("web-1");
    let pair = Pair::start(&instance, &[Way::Wireguard, Way::Link]);
    let taken = || smol::block_on(pair.near.client().connect_service("web", None)).unwrap().way;
    assert_eq!(taken(), Some(Way::Wireguard));
    let mut without = pair.tables[1].clone();
    without.tunnel = None;
    without.version = 3;
    assert_eq!(pair.far.serve(&without).tunnel, None);
    pair.near.until("the link", |report| way(report, "far", &Way::Link).works == Some(true));
    assert_eq!(taken(), Some(Way::Link));
    assert_eq!(there_and_back(pair.address, 1000), "web-1");
    assert_eq!(way(&pair.near.show(), "far", &Way::Wireguard).works, Some(false));
}

#[test]
fn a_reset_through_a_tunnel_stays_one() {
    let server = TcpListener::bind(SocketAddr::new(own(), 0)).unwrap();
    let mut instance = Instance::start("web-1");
    instance.address = server.local_addr().unwrap();
    let pair = Pair::start(&instance, &[Way::Wireguard]);
    let mut client = TcpStream::connect(pair.address).unwrap();
    client.set_read_timeout(Some(BOUND)).unwrap();
    let (mut at_instance, _) = server.accept().unwrap();
    client.write_all(b"unread").unwrap();
    at_instance.write_all(b"half").unwrap();
    let mut half = [0; 4];
    client.read_exact(&mut half).unwrap();
    at_instance.peek(&mut [0; 1]).unwrap();
    drop(at_instance);
    assert_eq!(client.read(&mut half).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_tunnel_that_cant_be_is_evidence() {
    let instance = Instance::start("web-1");
    let pair = Pair::start(&instance, &[Way::Wireguard]);
    let mut broken = pair.tables[0].clone();
    broken.version = 3;
    broken.tunnel.as_mut().unwrap().probe_key = "short".to_owned();
    pair.near.serve(&broken);
    let held = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    broken.version = 4;
    let end = broken.tunnel.as_mut().unwrap();
    (end.probe_key, end.port) = ("5a".repeat(32), held.local_addr().unwrap().port());
    pair.near.serve(&broken);
    let why = smol::block_on(pair.near.client().connect_service("web", None)).unwrap_err().to_string();
    assert!(why.contains("can't listen on UDP port"), "{why}");
    // It is tried again once it is free.
    drop(held);
    within("the tunnel", || ask(pair.address).ok());
}

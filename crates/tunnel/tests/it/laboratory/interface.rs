//! Interfaces of the kernel's: programs that know nothing of tunnels talk through them, by TCP and UDP.

use super::process::Process;
use super::{Switch, alone, at_switch, place, runtime, sh, switch};
use crate::world::{BOUND, Node, within};
use rustix::net;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tunnel::{Config, Interface};

/// Where programs listen behind interfaces.
pub(super) const PORT: u16 = 7000;
/// What a datagram says whose sender isn't who it claims to be.
const FORGED: &[u8] = b"forged";

#[test]
fn programs_reach_each_other_by_their_interfaces_straight() {
    alone(|| at_switch(true, async |nodes| interfaces(nodes, true).await));
}

#[test]
fn programs_reach_each_other_by_their_interfaces_through_the_hub() {
    alone(|| at_switch(false, async |nodes| interfaces(nodes, false).await));
}

#[test]
fn an_interface_goes_with_a_node_that_is_killed_and_comes_back_with_it() {
    alone(|| {
        switch("a", "eth0");
        let mut node = Process::start("a", 1, "a", 0);
        node.set(&Config {
            node: "a".to_owned(),
            address: node.address,
            probe_key: [7; 32],
            key_epoch: 0,
            hub: None,
            interface: Some(Interface { name: "wg-test".into(), address: address(1), prefix: 16 }),
            peers: std::collections::BTreeMap::new(),
        });
        for _ in 0..2 {
            sh("ip -n a addr show wg-test | grep -q 10.210.1.2/16");
            node.kill();
            sh("! ip -n a link show wg-test 2>/dev/null && ! ip -n a route | grep 10.210");
            node.start_again();
        }
    });
}

#[test]
fn an_interface_that_cant_be_made_is_once_it_can() {
    alone(|| {
        switch("a", "eth0");
        let in_a = runtime("a");
        sh("ip -n a link add wg-test type veth peer name other");
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let mut node = Node::start_in(in_a.handle(), 1, "a", 0).await;
            node.config.interface =
                Some(Interface { name: "wg-test".into(), address: address(1), prefix: 16 });
            node.set().await;
            let state = node.engine.report().await.unwrap().interface.unwrap();
            assert!(state.error.is_some(), "somebody has the name");
            sh("ip -n a link del wg-test; for try in $(seq 400); do ip -n a addr show wg-test | grep -q 10.210.1.2 && exit 0; sleep 0.05; done; exit 1");
            let state = node.engine.report().await.unwrap().interface.unwrap();
            assert_eq!(state.error, None);
            node.end().await;
        });
        in_a.shutdown_background();
    });
}

/// The address of the interface of the node with that number.
fn address(n: u8) -> Ipv4Addr {
    [10, 210, n, 2].into()
}

async fn interfaces(mut nodes: Switch, near: bool) {
    let Switch { hub, a, b } = &mut nodes;
    for (n, node) in [(0, &mut *hub), (1, &mut *a), (2, &mut *b)] {
        node.config.interface = Some(Interface { name: "wg-test".into(), address: address(n), prefix: 16 });
    }
    let at = |n: u8| if near { vec![place(n)] } else { Vec::new() };
    for node in [&mut *a, &mut *b] {
        node.knows_at(hub, &[place(3)]);
        hub.knows(node, false);
    }
    a.knows_at(b, &at(2));
    b.knows_at(a, &at(1));
    for node in [&*hub, &*a, &*b] {
        node.set().await;
        let state = node.engine.report().await.unwrap().interface.unwrap();
        assert_eq!((state.name.as_str(), state.error), ("wg-test", None));
    }
    let (in_a, in_b) = (runtime("a"), runtime("b"));
    let there = (address(2), PORT);
    serve(in_b.handle(), &[there]).await;
    for _ in 0..3 {
        assert_eq!(by_tcp(in_a.handle(), there.into()).await, 1 << 20);
        assert_eq!(by_udp(in_a.handle(), there.into()).await, "pong");
        ping(in_a.handle(), address(2)).await;
    }
    assert_eq!(a.tunnel(b).await.through_hub, !near);
    // What isn't the other's address isn't let through: nobody speaks for another.
    sh("ip -n a addr add 10.210.9.9/32 dev lo");
    forge(in_a.handle(), [10, 210, 9, 9].into(), there.into()).await;
    assert_eq!(by_udp(in_a.handle(), there.into()).await, "pong");
    // One that somebody removes is made again.
    sh(
        "ip -n b link del wg-test; for try in $(seq 200); do ip -n b link show wg-test && exit 0; sleep 0.05; done; exit 1",
    );
    // It goes with what it was made for.
    a.config.interface = None;
    a.set().await;
    sh("! ip -n a link show wg-test 2>/dev/null");
    for runtime in [in_a, in_b] {
        runtime.shutdown_background();
    }
}

/// Sends back what comes by TCP at any of these places, and answers datagrams, otherwise once a forged one has come.
pub(super) async fn serve(runtime: &Handle, places: &[(Ipv4Addr, u16)]) {
    for place in places.iter().copied() {
        let listening = runtime.spawn(async move {
            let (listener, socket) =
                (TcpListener::bind(place).await.unwrap(), UdpSocket::bind(place).await.unwrap());
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    tokio::spawn(async move {
                        let (mut read, mut write) = stream.split();
                        let _ = tokio::io::copy(&mut read, &mut write).await;
                    });
                }
            });
            tokio::spawn(async move {
                let (mut buffer, mut answer) = ([0; 2048], b"pong".as_slice());
                while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                    if buffer[..length] == *FORGED {
                        answer = FORGED;
                    }
                    let _ = socket.send_to(answer, from).await;
                }
            });
        });
        listening.await.unwrap();
    }
}

/// Sends a MiB and counts what comes back.
pub(super) async fn by_tcp(runtime: &Handle, to: SocketAddr) -> usize {
    let task = runtime.spawn(async move {
        let stream = within(TcpStream::connect(to)).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let writing = tokio::spawn(async move {
            write.write_all(&vec![7; 1 << 20]).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut back = Vec::new();
        within(read.read_to_end(&mut back)).await.unwrap();
        writing.await.unwrap();
        back.len()
    });
    task.await.unwrap()
}

/// What a datagram is answered with.
pub(super) async fn by_udp(runtime: &Handle, to: SocketAddr) -> String {
    let task = runtime.spawn(async move {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let mut answer = [0; 16];
        socket.send_to(b"ping", to).await.unwrap();
        let length = within(socket.recv(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    });
    task.await.unwrap()
}

/// Sends a datagram as if from that address, which the namespace has and the node hasn't.
pub(super) async fn forge(runtime: &Handle, from: Ipv4Addr, to: SocketAddr) {
    let task = runtime.spawn(async move {
        let socket = UdpSocket::bind((from, 0)).await.unwrap();
        socket.send_to(FORGED, to).await.unwrap();
    });
    task.await.unwrap();
}

/// An ICMP echo request, which must be answered as it was sent.
pub(super) async fn ping(runtime: &Handle, to: Ipv4Addr) {
    /// Type, code, checksum, identifier, sequence number, text.
    const REQUEST: [u8; 16] = *b"\x08\x00\x00\x00\x12\x34\x00\x01harness!";
    let task = runtime.spawn_blocking(move || {
        let socket =
            net::socket(net::AddressFamily::INET, net::SocketType::RAW, Some(net::ipproto::ICMP)).unwrap();
        net::sockopt::set_socket_timeout(&socket, net::sockopt::Timeout::Recv, Some(BOUND)).unwrap();
        net::connect(&socket, &SocketAddr::from((to, 0))).unwrap();
        let mut request = REQUEST;
        let sum = request.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum::<u32>();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        request[2..4].copy_from_slice(&sum.to_be_bytes());
        net::send(&socket, &request, net::SendFlags::empty()).unwrap();
        loop {
            let mut packet = [0; 128];
            let (length, _) = net::recv(&socket, &mut packet, net::RecvFlags::empty()).unwrap();
            // Behind an IPv4 header without options.
            let message = &packet[20..length];
            if message[0] == 0 {
                assert_eq!(message[4..], request[4..]);
                break;
            }
        }
    });
    task.await.unwrap();
}

//! Interfaces of the kernel's: programs that know nothing of tunnels talk through them, by TCP and UDP.

use super::{Switch, alone, at_switch, place, runtime, sh};
use crate::world::within;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tunnel::Interface;

/// Where programs of `b` listen.
const PORT: u16 = 7000;

#[test]
fn programs_reach_each_other_by_their_interfaces_straight() {
    alone(|| at_switch(true, async |nodes| interfaces(nodes, true).await));
}

#[test]
fn programs_reach_each_other_by_their_interfaces_through_the_hub() {
    alone(|| at_switch(false, async |nodes| interfaces(nodes, false).await));
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
    serve(in_b.handle()).await;
    for _ in 0..3 {
        assert_eq!(by_tcp(in_a.handle()).await, 1 << 20);
        assert_eq!(by_udp(in_a.handle()).await, "pong");
    }
    assert_eq!(a.tunnel(b).await.through_hub, !near);
    // What isn't the other's address isn't let through: nobody speaks for another.
    sh("ip -n a addr add 10.210.9.9/32 dev lo");
    let forged = in_a.spawn(async {
        let socket = UdpSocket::bind((Ipv4Addr::new(10, 210, 9, 9), 0)).await.unwrap();
        socket.send_to(b"forged", (address(2), PORT)).await.unwrap();
        let mut answer = [0; 8];
        tokio::time::timeout(std::time::Duration::from_millis(500), socket.recv(&mut answer)).await.is_err()
    });
    assert!(forged.await.unwrap(), "an address that isn't the node's was let through");
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

/// `b` sends back what comes by TCP, and answers datagrams.
async fn serve(runtime: &Handle) {
    let place: SocketAddr = (address(2), PORT).into();
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
            let mut buffer = [0; 2048];
            while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(b"pong", from).await;
            }
        });
    });
    listening.await.unwrap();
}

/// Sends a MiB and counts what comes back.
async fn by_tcp(runtime: &Handle) -> usize {
    let task = runtime.spawn(async {
        let stream = within(TcpStream::connect((address(2), PORT))).await.unwrap();
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

async fn by_udp(runtime: &Handle) -> String {
    let task = runtime.spawn(async {
        let socket = UdpSocket::bind((address(1), 0)).await.unwrap();
        let mut answer = [0; 16];
        socket.send_to(b"ping", (address(2), PORT)).await.unwrap();
        let length = within(socket.recv(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    });
    task.await.unwrap()
}

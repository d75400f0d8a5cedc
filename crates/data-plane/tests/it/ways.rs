//! Which way is taken, and how it behaves.

use crate::support::*;
use orchestrator::network::plane::{Backend, Way};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// `near` makes a link to `far`, where `instance` is exported as one that listens on a network.
struct Pair {
    near: Plane,
    far: Plane,
    address: SocketAddr,
}

fn lan(address: IpAddr) -> Way {
    Way::Lan { address }
}

/// As if the instance listened on every address of its node. Only its port is dialed.
fn on_network(instance: &Instance, port: u16) -> Backend {
    let mut backend = instance.backend("far");
    backend.address = SocketAddr::new(IpAddr::from([192, 0, 2, 1]), port);
    backend
}

impl Pair {
    fn start(instance: &Instance, backend: Backend, ways: &[Way]) -> Self {
        let (near, far) = (Plane::start("near"), Plane::start("far"));
        let mut served = table("far", 1);
        served.exports = exports(&[instance]);
        far.serve(&served);
        let address = free();
        let mut served = table("near", 1);
        served.peers.insert("far".to_owned(), peer(ways, far.link()));
        served.listeners.push(listener("web", address, vec![backend]));
        near.serve(&served);
        near.until("the link", |report| way(report, "far", &Way::Link).works == Some(true));
        Self { near, far, address }
    }

    fn way(&self) -> Option<Way> {
        smol::block_on(self.near.client().connect_service("web", None)).unwrap().way
    }
}

/// An address at which nobody answers anything: its queue is full.
struct BlackHole {
    address: SocketAddr,
    _listener: OwnedFd,
    _queued: Vec<OwnedFd>,
}

impl BlackHole {
    fn start() -> Self {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        let kind = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap()
        };
        let listener = kind();
        rustix::net::bind(&listener, &SocketAddr::new(own(), 0)).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = rustix::net::getsockname(&listener).unwrap().try_into().unwrap();
        let queued = (0..8)
            .map(|_| {
                let socket = kind();
                let _ = rustix::net::connect(&socket, &address);
                socket
            })
            .collect();
        Self { address, _listener: listener, _queued: queued }
    }
}

#[test]
fn a_network_that_both_are_in_is_taken_and_what_listens_on_loopback_isnt_looked_for_there() {
    let instance = Instance::start("web-1");
    let network = lan(instance.address.ip());
    let pair =
        Pair::start(&instance, on_network(&instance, instance.address.port()), &[network.clone(), Way::Link]);
    assert_eq!(there_and_back(pair.address, 1_000_000), "web-1");
    assert_eq!(pair.way(), Some(network.clone()));

    // The same port is open there, but this instance listens on its loopback: only its node can reach it.
    let pair = Pair::start(&instance, instance.backend("far"), &[network.clone(), Way::Link]);
    assert_eq!(pair.way(), Some(Way::Link));
    assert_eq!(way(&pair.near.show(), "far", &network).works, None);
}

#[test]
fn a_network_where_the_instance_doesnt_listen_is_passed_over_without_blame() {
    let instance = Instance::start("web-1");
    let nobody = free();
    let ways = [lan(nobody.ip()), Way::Link];
    let pair = Pair::start(&instance, on_network(&instance, nobody.port()), &ways);
    for _ in 0..3 {
        assert_eq!(pair.way(), Some(Way::Link));
    }
    assert_eq!(way(&pair.near.show(), "far", &ways[0]).works, None);
}

#[test]
fn a_network_that_swallows_everything_costs_one_connection_its_bound_and_the_next_nothing() {
    let instance = Instance::start("web-1");
    let hole = BlackHole::start();
    let ways = [lan(hole.address.ip()), Way::Link];
    let pair = Pair::start(&instance, on_network(&instance, hole.address.port()), &ways);
    assert_eq!(pair.way(), Some(Way::Link));
    let began = Instant::now();
    assert_eq!(there_and_back(pair.address, 1000), "web-1");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let report = pair.near.show();
    let tried = way(&report, "far", &ways[0]);
    assert_eq!(
        (tried.works, tried.evidence.clone()),
        (Some(false), format!("{}: no answer within 3 s", hole.address))
    );
}

#[test]
fn a_link_that_hangs_is_given_up_and_made_again() {
    let instance = Instance::start("web-1");
    let pair = Pair::start(&instance, instance.backend("far"), &[Way::Link]);
    let bridge = pair.near.bridge_to(&pair.far);
    stop(bridge);
    let began = Instant::now();
    pair.near.until("the end of the link", |report| {
        let link = way(report, "far", &Way::Link);
        link.works == Some(false) && link.evidence.starts_with("nothing came for 15 s")
    });
    assert!(began.elapsed() < Duration::from_secs(18), "{:?}", began.elapsed());
    pair.near.until("another link", |report| way(report, "far", &Way::Link).works == Some(true));
    assert_eq!(there_and_back(pair.address, 1000), "web-1");
    assert_ne!(pair.near.bridge_to(&pair.far), bridge);
}

#[test]
fn a_reader_that_doesnt_read_holds_up_nobody_else() {
    let instance = Instance::start("web-1");
    let pair = Pair::start(&instance, instance.backend("far"), &[Way::Link]);
    // Sends and never reads: what comes back fills everything on its way.
    let mut stuck = TcpStream::connect(pair.address).unwrap();
    stuck.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let block = vec![b'x'; 256 * 1024];
    let mut sent = 0;
    while let Ok(count) = stuck.write(&block) {
        sent += count;
        assert!(sent < 256 << 20, "there is no end to what is buffered");
    }
    for _ in 0..20 {
        assert_eq!(there_and_back(pair.address, 1_000_000), "web-1");
    }
}

#[test]
fn a_reset_over_a_link_stays_one() {
    let server = TcpListener::bind(SocketAddr::new(own(), 0)).unwrap();
    let mut instance = Instance::start("web-1");
    instance.address = server.local_addr().unwrap();
    let pair = Pair::start(&instance, instance.backend("far"), &[Way::Link]);
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

    // And in the other direction.
    let mut client = TcpStream::connect(pair.address).unwrap();
    let (mut at_instance, _) = server.accept().unwrap();
    at_instance.set_read_timeout(Some(BOUND)).unwrap();
    at_instance.write_all(b"unread").unwrap();
    client.write_all(b"half").unwrap();
    at_instance.read_exact(&mut half).unwrap();
    client.peek(&mut [0; 1]).unwrap();
    drop(client);
    assert_eq!(at_instance.read(&mut half).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// Tables change on both nodes while many connections share the link; no request notices.
#[test]
fn tables_are_swapped_over_a_link_under_load_without_an_error() {
    let (a, b) = (Instance::start("web-1"), Instance::start("web-2"));
    let pair = Pair::start(&a, a.backend("far"), &[Way::Link]);
    let stop = AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        let load: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        there_and_back(pair.address, 2000);
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        let (mut near, mut far) = (pair.near.client(), pair.far.client());
        for version in 2..100 {
            let serving = if version % 2 == 0 { &b } else { &a };
            let mut served = table("far", version);
            served.exports = exports(&[&a, &b]);
            smol::block_on(far.serve(&served)).unwrap();
            let mut served = table("near", version);
            served.peers.insert("far".to_owned(), peer(&[Way::Link], pair.far.link()));
            served.listeners.push(listener("web", pair.address, vec![serving.backend("far")]));
            smol::block_on(near.serve(&served)).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
        load.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
    });
    assert_eq!(pair.near.show().listeners[0].refused, 0);
    assert!(done > 100, "{done} requests");
}

#[test]
fn hundreds_of_connections_share_a_link() {
    const CONNECTIONS: usize = 400;
    let instance = Instance::start("web-1");
    let pair = Pair::start(&instance, instance.backend("far"), &[Way::Link]);
    let mut open: Vec<_> = (0..CONNECTIONS).map(|_| ask(pair.address).unwrap()).collect();
    for (at, (name, connection)) in open.iter_mut().enumerate() {
        assert_eq!(name, "web-1");
        connection.get_mut().write_all(&at.to_be_bytes()).unwrap();
    }
    for (at, (_, connection)) in open.iter_mut().enumerate() {
        let mut back = [0; size_of::<usize>()];
        connection.read_exact(&mut back).unwrap();
        assert_eq!(usize::from_be_bytes(back), at);
    }
    drop(open);
    pair.near.until("the end of all", |report| report.listeners[0].open == 0);
    assert_eq!(there_and_back(pair.address, 1000), "web-1");
}

#[test]
fn a_way_is_measured_by_what_the_other_end_has_got() {
    let instance = Instance::start("web-1");
    // Straight to an instance nobody measures: the next way is.
    let pair =
        Pair::start(&instance, on_network(&instance, instance.address.port()), &[lan(own()), Way::Link]);
    let measured = smol::block_on(pair.near.client().measure("far", Duration::from_millis(200))).unwrap();
    assert_eq!(measured.way, Some(Way::Link));
    assert!(measured.bytes > 1 << 20 && measured.took >= Duration::from_millis(200), "{measured:?}");
    let error = smol::block_on(pair.near.client().measure("nowhere", Duration::from_millis(200)));
    assert!(error.is_err_and(|error| error.to_string().contains("no way to nowhere is known")));
    drop(pair.far);
}

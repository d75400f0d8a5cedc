//! Tables, listeners and backends of one node.

use crate::support::*;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[test]
fn connections_are_shared_among_the_instances_and_counted() {
    let plane = Plane::start("here");
    let (a, b) = (Instance::start("web-1"), Instance::start("web-2"));
    let mut table = table("here", 1);
    let address = free();
    table.listeners = vec![listener("web", address, vec![a.backend("here"), b.backend("here")])];
    let report = plane.serve(&table);
    assert_eq!((report.version, report.node.as_str()), (1, "here"));
    assert_eq!(report.listeners[0].error, None);
    let mut answers = BTreeMap::<String, u32>::new();
    for _ in 0..10 {
        *answers.entry(there_and_back(address, 1000)).or_default() += 1;
    }
    assert_eq!(answers, BTreeMap::from([("web-1".to_owned(), 5), ("web-2".to_owned(), 5)]));
    let report = plane.until("the end of the connections", |report| report.listeners[0].open == 0);
    let listener = &report.listeners[0];
    assert_eq!((listener.accepted, listener.refused, listener.sent), (10, 0, 10_000));
    assert_eq!(listener.received, 10_000 + 10 * "web-1\n".len() as u64);
}

#[test]
fn a_restarted_data_plane_serves_its_last_table_at_once() {
    let plane = Plane::start("here");
    let instance = Instance::start("web-1");
    let mut table = table("here", 7);
    let address = free();
    table.listeners = vec![listener("web", address, vec![instance.backend("here")])];
    plane.serve(&table);
    assert_eq!(who(address), "web-1");
    let plane = plane.again();
    // The socket answers only once the listeners are open, so this isn't tried twice.
    assert_eq!(who(address), "web-1");
    assert_eq!(plane.show().version, 7);
    let state = std::fs::metadata(plane.state.join("table.json")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&state.permissions()) & 0o777, 0o600);
}

#[test]
fn a_table_that_rotted_is_left_and_the_next_one_served() {
    let plane = Plane::start("here");
    plane.serve(&table("here", 3));
    std::fs::write(plane.state.join("table.json"), "{\"format\": 1, \"ver").unwrap();
    let plane = plane.again();
    assert_eq!(plane.show().version, 0);
    assert_eq!(plane.serve(&table("here", 1)).version, 1);
}

/// Every 10 ms another half of the instances serves; no request notices.
#[test]
fn tables_are_swapped_under_load_without_an_error() {
    const TABLES: u64 = 200;
    let plane = Plane::start("here");
    let instances: Vec<Instance> = (1..=4).map(|number| Instance::start(&format!("web-{number}"))).collect();
    let address = free();
    let at_version = |version: u64| {
        let mut table = table("here", version);
        let half = instances.iter().skip((version % 3) as usize).take(2);
        table.listeners = vec![listener("web", address, half.map(|i| i.backend("here")).collect())];
        if version.is_multiple_of(2) {
            table.listeners.push(listener("other", free(), vec![]));
        }
        table
    };
    plane.serve(&at_version(1));
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (stop, done) = (stop.clone(), done.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    there_and_back(address, 100);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut client = plane.client();
    let began = Instant::now();
    for version in 2..TABLES {
        let due = began + Duration::from_millis(10) * u32::try_from(version).unwrap();
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        smol::block_on(client.serve(&at_version(version))).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for thread in load {
        thread.join().unwrap();
    }
    let report = plane.show();
    assert_eq!(report.listeners[0].refused, 0);
    assert!(done.load(Ordering::Relaxed) > 500, "{} requests", done.load(Ordering::Relaxed));
}

#[test]
fn a_draining_backend_keeps_its_connections_and_gets_no_more() {
    let plane = Plane::start("here");
    let (a, b) = (Instance::start("web-1"), Instance::start("web-2"));
    let address = free();
    let mut table = table("here", 1);
    table.listeners = vec![listener("web", address, vec![a.backend("here")])];
    plane.serve(&table);
    let (name, mut open) = ask(address).unwrap();
    assert_eq!(name, "web-1");

    let mut draining = a.backend("here");
    draining.draining = true;
    table.version = 2;
    table.listeners[0].backends = vec![draining, b.backend("here")];
    plane.serve(&table);
    let mut echo = |text: &[u8; 4]| {
        open.get_mut().write_all(text).unwrap();
        let mut back = [0; 4];
        open.read_exact(&mut back).unwrap();
        assert_eq!(&back, text);
    };
    for _ in 0..5 {
        assert_eq!(who(address), "web-2");
        echo(b"more");
    }
    // Gone from the table, and then the listener too: who is connected goes on.
    table.version = 3;
    table.listeners[0].backends = vec![b.backend("here")];
    plane.serve(&table);
    echo(b"gone");
    table.version = 4;
    table.listeners.clear();
    plane.serve(&table);
    assert!(ask(address).is_err());
    echo(b"last");
}

#[test]
fn an_instance_that_is_down_is_passed_over_left_out_and_taken_back() {
    let plane = Plane::start("here");
    let a = Instance::start("web-1");
    let down = free();
    let mut backend = a.backend("here");
    backend.instance = "web-2".to_owned();
    backend.export = export("web-2");
    backend.address = down;
    let address = free();
    let mut table = table("here", 1);
    table.listeners = vec![listener("web", address, vec![backend, a.backend("here")])];
    plane.serve(&table);
    for _ in 0..20 {
        assert_eq!(who(address), "web-1");
    }
    let report = plane.show();
    assert_eq!(report.listeners[0].refused, 0);
    assert!(report.listeners[0].ejected["web-2"].contains("refused"), "{report:?}");

    let back = Instance::start_at("web-2", down);
    within("web-2's return", || (who(address) == "web-2").then_some(()));
    assert!(plane.show().listeners[0].ejected.is_empty());
    drop(back);
}

#[test]
fn a_connection_waits_for_a_backend_that_is_coming_and_not_for_ever() {
    let plane = Plane::start("here");
    let a = Instance::start("web-1");
    let address = free();
    let mut table = table("here", 1);
    table.listeners = vec![listener("web", address, vec![])];
    plane.serve(&table);
    let waiting = std::thread::spawn(move || who(address));
    plane.until("the connection", |report| report.listeners[0].open == 1);
    table.version = 2;
    table.listeners[0].backends = vec![a.backend("here")];
    plane.serve(&table);
    assert_eq!(waiting.join().unwrap(), "web-1");

    table.version = 3;
    table.listeners[0].backends.clear();
    plane.serve(&table);
    let began = Instant::now();
    let error = ask(address).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    plane.until("the refusal", |report| report.listeners[0].refused == 1);
}

#[test]
fn a_port_that_somebody_has_is_reported_with_who_and_taken_once_it_is_free() {
    let plane = Plane::start("here");
    let a = Instance::start("web-1");
    let held = TcpListener::bind(std::net::SocketAddr::new(own(), 0)).unwrap();
    let address = held.local_addr().unwrap();
    let mut table = table("here", 1);
    table.listeners = vec![
        listener("web", address, vec![a.backend("here")]),
        listener("elsewhere", "203.0.113.7:9000".parse().unwrap(), vec![]),
    ];
    let report = plane.serve(&table);
    let error = report.listeners[0].error.clone().unwrap();
    assert!(error.ends_with(&format!("(pid {})", std::process::id())), "{error}");
    assert_eq!(report.listeners[1].error.as_deref(), Some("203.0.113.7 isn't an address of this machine"));
    drop(held);
    plane.until("the port", |report| report.listeners[0].error.is_none());
    assert_eq!(who(address), "web-1");
}

#[test]
fn a_reset_is_passed_on_as_one() {
    let plane = Plane::start("here");
    let server = TcpListener::bind(std::net::SocketAddr::new(own(), 0)).unwrap();
    let instance = Instance::start("web-1");
    let mut backend = instance.backend("here");
    backend.address = server.local_addr().unwrap();
    let address = free();
    let mut table = table("here", 1);
    table.listeners = vec![listener("web", address, vec![backend])];
    plane.serve(&table);
    let mut client = std::net::TcpStream::connect(address).unwrap();
    let (mut at_instance, _) = server.accept().unwrap();
    client.write_all(b"unread").unwrap();
    at_instance.write_all(b"half").unwrap();
    let mut half = [0; 4];
    client.read_exact(&mut half).unwrap();
    // What is closed with something unread is reset.
    let mut one = [0; 1];
    at_instance.peek(&mut one).unwrap();
    drop(at_instance);
    client.set_read_timeout(Some(BOUND)).unwrap();
    assert_eq!(client.read(&mut half).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn idle_connections_cost_no_buffers() {
    const IDLE: usize = 400;
    let plane = Plane::start("here");
    let instance = Instance::start("web-1");
    let address = free();
    let mut table = table("here", 1);
    table.listeners = vec![listener("web", address, vec![instance.backend("here")])];
    plane.serve(&table);
    there_and_back(address, 1 << 20);
    let before = plane.memory();
    let idle: Vec<_> = (0..IDLE).map(|_| ask(address).unwrap()).collect();
    let grown = plane.memory().saturating_sub(before) / IDLE as u64;
    drop(idle);
    assert!(grown < 16 * 1024, "{grown} bytes for each connection");
}

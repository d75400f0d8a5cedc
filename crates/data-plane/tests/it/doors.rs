//! Sockets that ambassadors hand in.

use crate::support::*;
use orchestrator::network::plane::{Door, Table};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command};

struct Ambassador(Child);

impl Ambassador {
    fn start(plane: &Plane, service: &str, address: SocketAddr) -> Self {
        let mut command = Command::new(program());
        command.arg("ambassador").arg(&plane.state).args([service, &address.port().to_string()]);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Ambassador {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn with_door(version: u64, service: &str, port: u16, instance: &Instance) -> Table {
    let mut table = table("here", version);
    let backends = vec![instance.backend("here")];
    table.doors = vec![Door { service: service.to_owned(), port, backends }];
    table
}

/// A connection through an ambassador, once it listens.
fn connected(address: SocketAddr) -> TcpStream {
    let stream = within("the ambassador", || TcpStream::connect(address).ok());
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream
}

/// Who answers.
fn greeting(stream: TcpStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

#[test]
fn a_socket_that_is_handed_in_is_served_through_restarts_of_the_data_plane() {
    let plane = Plane::start("here");
    let web = Instance::start("web-1");
    let address = free();
    let ambassador = Ambassador::start(&plane, "web", address);
    // It isn't in a table yet: who comes waits in the socket's queue.
    let waiting = connected(address);
    let report = plane.serve(&with_door(1, "web", address.port(), &web));
    assert_eq!(report.listeners[0].address, format!("web:{}", address.port()));
    assert_eq!(greeting(waiting), "web-1");
    assert_eq!(there_and_back(address, 100_000), "web-1");
    // Another instance serves it now.
    let other = Instance::start("web-2");
    plane.serve(&with_door(2, "web", address.port(), &other));
    assert_eq!(who(address), "web-2");
    // The next data plane is handed the same socket.
    let plane = plane.again();
    assert_eq!(greeting(connected(address)), "web-2");
    plane.until("the connection's end", |report| report.listeners[0].open == 0);
    // What isn't in the table any more isn't served.
    plane.serve(&table("here", 3));
    let waiting = connected(address);
    plane.serve(&with_door(4, "web", address.port(), &web));
    assert_eq!(greeting(waiting), "web-1");
    drop(ambassador);
}

#[test]
fn what_came_through_an_ambassador_breaks_with_it() {
    let plane = Plane::start("here");
    let web = Instance::start("web-1");
    let address = free();
    plane.serve(&with_door(1, "web", address.port(), &web));
    let ambassador = Ambassador::start(&plane, "web", address);
    let mut stream = connected(address);
    let mut name = [0; 6];
    stream.read_exact(&mut name).unwrap();
    drop(ambassador);
    let broken = stream.read(&mut name);
    assert!(broken.is_err(), "a reset, not an end: {broken:?}");
    plane.until("the connection's end", |report| report.listeners[0].open == 0);
}

#[test]
fn nothing_but_a_listening_socket_for_a_service_is_taken() {
    let plane = Plane::start("here");
    let door = plane.state.join("door/door.sock");
    let mode = std::fs::metadata(&door).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    for junk in [&b"{\"service\": \"web\", \"port\": 1}"[..], b"{\"say\": \"end\"}\n", b"\0", &[b'x'; 4096]] {
        let mut stream = std::os::unix::net::UnixStream::connect(&door).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.write_all(junk).unwrap();
        // Closed with something unread it may be a reset.
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(said.is_empty());
    }
    assert_eq!(plane.serve(&table("here", 1)).version, 1, "it goes on");
}

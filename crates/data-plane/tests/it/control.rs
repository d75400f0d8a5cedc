//! What is said on the socket.

use crate::support::*;
use data_plane::client::ClientError;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    match result.unwrap_err() {
        ClientError::Refused { why } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn tables_that_dont_belong_here_are_refused() {
    let plane = Plane::start("here");
    let mut client = plane.client();
    smol::block_on(async {
        client.serve(&table("here", 5)).await.unwrap();
        client.serve(&table("here", 5)).await.unwrap();
        let why = refused(client.serve(&table("here", 4)).await);
        assert_eq!(why, "table 4 is older than 5, which is served");
        let why = refused(client.serve(&table("there", 6)).await);
        assert_eq!(why, "the table is for there, this is here");
        let mut other = table("here", 6);
        other.format = 2;
        assert!(refused(client.serve(&other).await).contains("format 2"));
        assert_eq!(client.show().await.unwrap().version, 5);
    });
}

#[test]
fn the_folder_is_this_users_alone_and_has_one_data_plane() {
    let mut plane = Plane::start("here");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&plane.state), 0o700);
    assert_eq!(mode(&socket(&plane.state)), 0o600);
    let options =
        data_plane::Options { state: plane.state.clone(), node: "here".to_owned(), build: String::new() };
    let error = data_plane::run(options).unwrap_err();
    assert!(matches!(error, data_plane::PlaneError::Running { .. }), "{error}");
    smol::block_on(plane.client().end()).unwrap();
    assert!(plane.ended());
    assert!(!socket(&plane.state).exists());
}

#[test]
fn a_socket_is_reached_however_deep_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    let state = deep.join("plane");
    let mut command = std::process::Command::new(program());
    let mut child = command.arg("run").arg(&state).arg("here").spawn().unwrap();
    let client = within("the data plane", || smol::block_on(data_plane::client::connect(&state)).ok());
    smol::block_on(client.end()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn junk_is_answered_and_disturbs_nobody() {
    let plane = Plane::start("here");
    let instance = Instance::start("web-1");
    let address = free();
    let mut served = table("here", 1);
    served.listeners = vec![listener("web", address, vec![instance.backend("here")])];
    plane.serve(&served);
    let connect = || {
        let stream = UnixStream::connect(socket(&plane.state)).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream
    };
    let stream = connect();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut answer = |junk: &[u8]| {
        (&stream).write_all(junk).unwrap();
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line
    };
    for junk in
        [&b"\n"[..], b"hello\n", b"{}\n", b"\xff\xfe\n", b"{\"say\":\"fly\"}\n", b"{\"say\":\"serve\"}\n"]
    {
        assert!(answer(junk).contains("\"answer\":\"refused\""), "{junk:?}");
    }
    // The same connection still understands what is right.
    assert!(answer(b"{\"say\":\"show\"}\n").contains("\"version\":1"));

    // A line without an end costs what the limit says, and the connection.
    let mut long = connect();
    let block = vec![b'x'; 1 << 20];
    let broken = (0..64).any(|_| long.write_all(&block).is_err());
    assert!(broken);
    let cut = connect();
    (&cut).write_all(b"{\"say\":\"sh").unwrap();
    cut.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = String::new();
    (&cut).read_to_string(&mut all).unwrap();
    assert!(all.contains("no end"), "{all}");

    // Junk where a link was announced.
    let link = connect();
    (&link).write_all(b"{\"say\":\"link\",\"from\":\"there\"}\n").unwrap();
    let mut reader = BufReader::new(link.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("done"), "{line}");
    (&link).write_all(&[0x55; 4096]).unwrap();
    let mut rest = Vec::new();
    let _ = reader.read_to_end(&mut rest);
    assert_eq!(who(address), "web-1");
    assert_eq!(plane.show().version, 1);
}

#[test]
fn there_is_room_for_so_many_clients_and_again_when_they_end() {
    let plane = Plane::start("here");
    // The one that showed that it is there may still be counted.
    let connect = || UnixStream::connect(socket(&plane.state)).unwrap();
    let mut clients = Vec::new();
    let why = within("the limit", || {
        let mut stream = connect();
        // One that is too many may have been sent away before it asks.
        let _ = stream.write_all(b"{\"say\":\"show\"}\n");
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        clients.push(stream);
        line.contains("refused").then_some(line)
    });
    assert!(why.contains("64 clients"), "{why}");
    assert!(clients.len() >= 64, "{}", clients.len());
    drop(clients);
    within("room", || smol::block_on(async { plane.client().show().await.ok() }));
}

#[test]
fn who_says_nothing_is_sent_away() {
    let plane = Plane::start("here");
    let mut silent = UnixStream::connect(socket(&plane.state)).unwrap();
    silent.set_read_timeout(Some(BOUND)).unwrap();
    let began = std::time::Instant::now();
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
    assert!(began.elapsed() > std::time::Duration::from_secs(9));
}

#[test]
fn a_connection_through_the_socket_is_one_to_the_service() {
    let plane = Plane::start("here");
    let instance = Instance::start("web-1");
    let address = free();
    let mut served = table("here", 1);
    served.listeners = vec![listener("web", address, vec![instance.backend("here")])];
    plane.serve(&served);
    smol::block_on(async {
        for port in [None, Some(address.port())] {
            let mut connected = plane.client().connect_service("web", port).await.unwrap();
            assert_eq!((connected.instance.as_str(), &connected.way), ("web-1", &None));
            connected.stream.write_all(b"there and back").await.unwrap();
            connected.stream.close().await.unwrap();
            let mut all = String::new();
            connected.stream.read_to_string(&mut all).await.unwrap();
            assert_eq!(all, "web-1\nthere and back");
        }
        let why = refused(plane.client().connect_service("db", None).await);
        assert_eq!(why, "db isn't reached through here");
        let why = refused(plane.client().connect_service("web", Some(1)).await);
        assert_eq!(why, "web has no port 1");
    });
    drop(instance);
    let why = refused(smol::block_on(plane.client().connect_service("web", None)));
    assert!(why.starts_with("no instance of web answers: web-1: "), "{why}");
    // A service that nobody listens for because the port is taken is reached this way all the same.
    let report = plane.show();
    assert_eq!((report.listeners[0].accepted, report.listeners[0].refused), (3, 1));
}

//! The DNS zone, asked as programs ask.

use crate::support::*;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::AllRecordData;
use orchestrator::network::plane::{Table, Zone};
use std::any::Any;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

fn with_zone(version: u64, listen: SocketAddr, hosts: &[(&str, &str)]) -> Table {
    let hosts = hosts.iter().map(|(name, address)| ((*name).to_owned(), address.parse().unwrap())).collect();
    let zone = Zone { name: "shop.test".into(), listen, hosts, ports: Default::default() };
    Table { zone: Some(zone), ..table("here", version) }
}

fn question(name: &str) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec().question();
    builder.push((Name::vec_from_str(name).unwrap(), Rtype::A)).unwrap();
    builder.finish()
}

fn addresses(answer: &[u8]) -> Vec<String> {
    let message = Message::from_octets(answer).unwrap();
    let records = message.answer().unwrap().limit_to::<AllRecordData<_, _>>();
    records.map(|record| record.unwrap().data().to_string()).collect()
}

fn by_udp(zone: SocketAddr, name: &str) -> Vec<String> {
    let socket = UdpSocket::bind(SocketAddr::new(own(), 0)).unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    let mut answer = [0; 2000];
    socket.send_to(&question(name), zone).unwrap();
    let length = socket.recv(&mut answer).unwrap();
    addresses(&answer[..length])
}

fn by_tcp(zone: SocketAddr, names: &[&str]) -> Vec<Vec<String>> {
    let mut stream = TcpStream::connect(zone).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    for name in names {
        let question = question(name);
        stream.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&question).unwrap();
    }
    let answer = |_: &&str| {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).unwrap();
        addresses(&answer)
    };
    names.iter().map(answer).collect()
}

#[test]
fn a_zone_answers_what_the_last_table_says_also_in_another_life() {
    let plane = Plane::start("here");
    let at = free();
    let report = plane.serve(&with_zone(1, at, &[("db", "127.1.1.1")]));
    let zone = report.zone.unwrap();
    assert_eq!((zone.address, zone.error), (at.to_string(), None));
    assert_eq!(by_udp(at, "db.shop.test"), ["127.1.1.1"]);
    assert_eq!(by_tcp(at, &["db.shop.test", "web.shop.test"]), [vec!["127.1.1.1".to_owned()], vec![]]);
    let plane = plane.again();
    assert_eq!(by_udp(at, "db.shop.test"), ["127.1.1.1"]);
    // A connection that is open sees the change too.
    let silent = TcpStream::connect(at).unwrap();
    plane.serve(&with_zone(2, at, &[("db", "127.1.1.2"), ("web", "127.1.1.3")]));
    assert_eq!(by_tcp(at, &["db.shop.test", "web.shop.test"]), [["127.1.1.2"], ["127.1.1.3"]]);
    plane.until("two are counted", |report| report.zone.as_ref().is_some_and(|zone| zone.answered >= 3));
    // Moved, and gone: with all that was open.
    let other = free();
    plane.serve(&with_zone(3, other, &[("db", "127.1.1.2")]));
    assert_eq!(by_udp(other, "db.shop.test"), ["127.1.1.2"]);
    assert_eq!((&silent).read(&mut [0]).unwrap_or(0), 0);
    assert!(plane.serve(&table("here", 4)).zone.is_none());
    for address in [at, other] {
        assert!(TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok());
    }
}

#[test]
fn an_address_that_somebody_has_is_told_and_taken_once_it_is_free() {
    let plane = Plane::start("here");
    let tcp = TcpListener::bind(SocketAddr::new(own(), 0)).unwrap();
    let udp = UdpSocket::bind(SocketAddr::new(own(), 0)).unwrap();
    let (first, second) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    let holders: [(u64, SocketAddr, Box<dyn Any>); 2] =
        [(1, first, Box::new(tcp)), (2, second, Box::new(udp))];
    for (version, at, holder) in holders {
        let report = plane.serve(&with_zone(version, at, &[("db", "127.1.1.1")]));
        let error = report.zone.unwrap().error.unwrap();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        drop(holder);
        plane.until("it is free", |report| report.zone.as_ref().is_some_and(|zone| zone.error.is_none()));
        assert_eq!(by_udp(at, "db.shop.test"), ["127.1.1.1"]);
    }
}

#[test]
fn the_c_librarys_resolver_finds_services() {
    test_hosts::require!(test_hosts::namespaces());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("resolv.conf"), "nameserver 127.64.9.9\noptions attempts:1\n").unwrap();
    std::fs::write(folder.path().join("nsswitch.conf"), "hosts: dns\n").unwrap();
    let state = folder.path().join("plane");
    // In a network and with files of its own, where it may have port 53. Without an address that isn't loopback's the library
    // asks for none.
    let script = "ip link set lo up && ip addr add 203.0.113.9/32 dev lo && for it in resolv nsswitch; do mount --bind \"$1/$it.conf\" /etc/$it.conf || exit; done
        \"$2\" run \"$3\" here & plane=$!
        read -r go
        getent ahostsv4 db.shop.test; echo \"found: $?\"
        getent hosts nobody.shop.test; echo \"none: $?\"
        kill $plane; wait";
    let mut child = Command::new("unshare")
        .args(["-Urnm", "sh", "-c", script, "sh"])
        .args([folder.path(), &program(), &state])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let client =
        within("the data plane's socket", || smol::block_on(data_plane::client::connect(&state)).ok());
    let table = with_zone(1, "127.64.9.9:53".parse().unwrap(), &[("db", "127.64.9.1")]);
    let report = smol::block_on({
        let mut client = client;
        async move { client.serve(&table).await }
    });
    assert_eq!(report.unwrap().zone.unwrap().error, None);
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.contains("127.64.9.1      STREAM db.shop.test\n"), "{said}");
    assert!(said.contains("found: 0\n") && said.ends_with("none: 2\n"), "{said}");
}

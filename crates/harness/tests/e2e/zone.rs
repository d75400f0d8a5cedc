//! The DNS zone of a stack, asked from outside of it.

use crate::network::{SERVER, ask};
use crate::support::{Project, kill, until};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Asks for the addresses of a name: none if it has none.
fn look_up(zone: SocketAddr, name: &str) -> io::Result<Option<Ipv4Addr>> {
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(zone)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.send(&question)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    let address: [u8; 4] = answer[length - 4..length].try_into().unwrap();
    Ok((answer[6..8] == [0, 1]).then_some(address.into()))
}

#[test]
fn services_are_found_by_name_whoever_asks_and_whatever_dies() {
    let project = Project::new(&format!(
        "zone: shop.test
services:
  db: {{type: process, command: {SERVER}, ports: [{{name: tcp, port: auto}}]}}
  web: {{type: process, command: {SERVER}, replicas: 2, ports: [{{name: http, port: auto}}], health_check: {{tcp: '${{self.port}}'}}}}
"
    ));
    project.ok(&["start"]);
    let shown = project.json(&["network", "show"]);
    let zone: SocketAddr = shown["zone"]["address"].as_str().unwrap().parse().unwrap();
    assert!(zone.to_string().starts_with("127.") && zone.port() == 5300, "{zone}");
    until("it is asked", || look_up(zone, "db.shop.test").is_ok());
    let db = look_up(zone, "db.shop.test").unwrap();
    assert_eq!(db, Some(Ipv4Addr::LOCALHOST));
    let web = look_up(zone, "WEB.shop.test").unwrap().unwrap();
    let service = shown["services"].as_array().unwrap().iter().find(|it| it["service"] == "web").unwrap();
    assert_eq!(service["address"], web.to_string());
    let port = u16::try_from(service["ports"][0]["number"].as_u64().unwrap()).unwrap();
    let answered =
        |instance: &str| until("it answers", || ask((web, port).into()).is_ok_and(|said| said == instance));
    answered("web-1");
    answered("web-2");
    assert_eq!(look_up(zone, "nobody.shop.test").unwrap(), None);
    // Nothing that dies or comes anew changes a name, and it is told all the while.
    kill(project.daemon_pid(), "KILL");
    assert_eq!(look_up(zone, "web.shop.test").unwrap(), Some(web));
    project.ok(&["restart", "web"]);
    assert_eq!(look_up(zone, "web.shop.test").unwrap(), Some(web));
    let shown = project.ok(&["network", "show"]).stdout;
    assert!(shown.contains(&format!("Zone shop.test, asked at {zone} on every node")), "{shown}");
    // What is stopped keeps its name as long as anything runs; then nobody answers.
    project.ok(&["stop", "-y", "web"]);
    assert_eq!(look_up(zone, "web.shop.test").unwrap(), Some(web));
    project.ok(&["stop", "-y"]);
    let refused = look_up(zone, "db.shop.test").unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

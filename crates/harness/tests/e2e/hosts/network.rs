//! One network over machines, containers and processes: who reaches whom, by which way, and what becomes of it when parts
//! die.

use super::nodes::{left, project};
use crate::support::{Project, kill, until};
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use test_hosts::{Host, Network, Suite, require};

/// A server that listens on loopback alone, and answers with its name and what the next one says.
const CHAIN: &str = r#"[perl, "-MIO::Socket::INET", -e, 'my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ENV{PORT}, Listen => 64, ReuseAddr => 1) or die; while (my $c = $s->accept) { my $n = IO::Socket::INET->new(PeerAddr => $ENV{NEXT}, Timeout => 5); print $c "$ENV{HARNESS_INSTANCE}>", $n ? <$n> : "nobody\n"; close $c }']"#;

/// The same at the end of the chain.
const LAST: &str = r#"[perl, "-MIO::Socket::INET", -e, 'my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ENV{PORT}, Listen => 64, ReuseAddr => 1) or die; while (my $c = $s->accept) { print $c "$ENV{HARNESS_INSTANCE}\n"; close $c }']"#;

/// What is answered at an address; an error if it is nothing.
fn said(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    if said.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(said.trim().to_owned()) }
}

/// What is answered at a port of this machine.
fn asked(port: u16) -> std::io::Result<String> {
    said(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// `c` on a host, and the address of it that is told to `here`, beside this test.
fn one_far(host: &Host) -> (Project, SocketAddr) {
    let project = project(
        host,
        &format!(
            "nodes:\n  far: {{host: {}, user: app}}\nservices:\n  c: {{type: remote, host: far, command: {LAST}, ports: [auto]}}\n  \
             here: {{type: process, command: [sh, -c, 'echo $C_ADDR; exec sleep 1000'], dependencies: [c]}}\n",
            host.name()
        ),
    );
    project.ok(&["start"]);
    until("the address is told", || !project.logs("here").is_empty());
    let address = project.logs("here")[0].parse().unwrap();
    (project, address)
}

#[test]
fn a_process_a_container_and_both_on_other_machines_reach_each_other() {
    // Where tunnels' ends would have their addresses if nobody else had any.
    let network = require!(Network::create_within("chain", |first| first.octets()[..2] == [10, 210]));
    let [one, two] = require!(network.boot_all([(Suite::Bookworm, "one"), (Suite::Trixie, "two")]));
    two.start_docker().unwrap();
    two.load_bb().unwrap();
    let docker = require!(test_hosts::Docker::here());
    let scope = docker.scope("chain").unwrap();
    let project = project(
        &one,
        &format!(
            r#"nodes:
  one: {{host: {one}, user: app}}
  two: {{host: {two}, user: app}}
services:
  a:
    type: process
    command: {CHAIN}
    ports: [auto]
    env: {{NEXT: "${{b.ip}}:${{b.port}}"}}
  b:
    type: docker
    image: BB
    init: true
    command: [sh, -c, "exec nc -ll -p 9000 -e sh -c 'printf \"b-1>\"; nc ${{c.ip}} ${{c.port}}'"]
    ports: ["auto:9000"]
  c:
    type: remote
    host: one
    command: {CHAIN}
    ports: [auto]
    env: {{NEXT: "${{d.ip}}:${{d.port}}"}}
  d:
    type: docker
    host: two
    image: BB
    init: true
    command: [sh, -c, "exec nc -ll -p 9000 -e echo d-1"]
    ports: ["auto:9000"]
  back:
    type: remote
    host: two
    command: [bash, -c, "exec 3<>/dev/tcp/${{a.ip}}/${{a.port}}; cat <&3; exec sleep 1000"]
"#,
            one = one.name(),
            two = two.name()
        ),
    );
    let done = project.run(&["start"]);
    let id = project.state_dir().file_name().unwrap().to_str().unwrap().to_owned();
    scope.also(&format!("harness.project={id}")).unwrap();
    assert_eq!(done.code, 0, "{}", done.stderr);
    let whole = "a-1>b-1>c-1>d-1";
    let port = project.instance("a-1")["endpoints"][0]["port"].as_u64().unwrap() as u16;
    until("each has found the next", || asked(port).is_ok_and(|said| said == whole));
    until("the way back is there too", || {
        project.ok(&["logs", "--no-prefix", "back"]).stdout.lines().last() == Some(whole)
            || project.run(&["restart", "back"]).code != 0
    });
    // Seen from every node, with the way to each.
    until("every node reaches what it asks for", || {
        let tested = project.run(&["network", "test", "-o", "json"]);
        let tested: serde_json::Value = serde_json::from_str(&tested.stdout).unwrap_or_default();
        let seen = tested["seen"].as_array().cloned().unwrap_or_default();
        seen.len() == 3
            && seen.iter().all(|node| {
                let services = node["services"].as_array().cloned().unwrap_or_default();
                node["error"].is_null()
                    && !services.is_empty()
                    && services.iter().all(|one| one["why"].is_null())
            })
    });
    until("it is shown", || {
        let shown = project.ok(&["network", "show"]).stdout;
        eprintln!("{shown}");
        shown.contains("✓ serves") && !shown.contains("✗")
    });
    // Data planes go on while the daemon is away, and are found by the next.
    let before = project.data_planes();
    assert_eq!(before.len(), 1);
    kill(project.daemon_pid(), "KILL");
    until("it answers without a daemon", || asked(port).is_ok_and(|said| said == whole));
    project.ok(&["start"]);
    assert_eq!(project.data_planes(), before, "the same data plane");
    // One that is killed is there again, with the same addresses.
    kill(before[0], "KILL");
    until("the data plane is started again", || project.data_planes().iter().any(|pid| *pid != before[0]));
    until("it serves again", || asked(port).is_ok_and(|said| said == whole));
    project.ok(&["stop", "-y"]);
    assert_eq!(project.data_planes(), [0; 0], "it ended with the stack");
    until("nothing of it runs on either", || left(&one).is_empty() && left(&two).is_empty());
}

#[test]
fn a_machine_that_was_cut_off_is_reached_again_at_the_same_address() {
    let host = require!(Host::boot(Suite::Trixie, "cut path"));
    let (project, address) = one_far(&host);
    assert!(address.ip().is_loopback(), "{address}");
    until("it answers", || said(address).is_ok_and(|said| said == "c-1"));
    host.cut().unwrap();
    until("nobody answers", || said(address).is_err());
    // What fails says where.
    let tested = project.run(&["network", "test", "local", "c"]);
    assert_eq!(tested.code, 4, "{}", tested.stdout);
    assert!(tested.stdout.contains("✗ c at"), "{}", tested.stdout);
    host.heal().unwrap();
    let healed = Instant::now();
    until("it answers again", || said(address).is_ok_and(|said| said == "c-1"));
    eprintln!("answers {:?} after the heal", healed.elapsed());
    assert_eq!(project.logs("here").len(), 1, "nothing was restarted");
    project.ok(&["stop", "-y"]);
    until("nothing of it runs there", || left(&host).is_empty());
}

/// The way that a connection from this machine to `c` takes now.
fn way(project: &Project) -> String {
    let done = project.run(&["network", "test", "local", "c", "-o", "json"]);
    let tested: serde_json::Value = serde_json::from_str(&done.stdout).unwrap_or_default();
    tested["seen"][0]["services"][0]["way"]["way"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn a_way_that_breaks_is_left_for_the_next_and_the_address_stays() {
    let host = require!(Host::boot(Suite::Bookworm, "next way"));
    let (project, address) = one_far(&host);
    until("a tunnel carries it", || way(&project) == "wireguard");
    let measured = project.ok(&["network", "test", "local", "c", "--speed", "-o", "json"]).stdout;
    let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
    let speed = &measured["seen"][0]["services"][0]["speed"]["measured"];
    assert!(speed["bits"].as_u64() > Some(1_000_000) && speed["way"]["way"] == "wireguard", "{measured:#}");
    // What listens on loopback there isn't reached straight, and no UDP comes through any more: ssh is left.
    for chain in ["INPUT", "OUTPUT"] {
        host.exec(&["iptables", "-I", chain, "-p", "udp", "-j", "DROP"]).unwrap();
    }
    let cut = Instant::now();
    assert_eq!(said(address).unwrap(), "c-1", "within the same connection");
    eprintln!("answers {:?} after the tunnel was cut", cut.elapsed());
    until("the link carries it", || way(&project) == "link");
    for _ in 0..20 {
        assert_eq!(said(address).unwrap(), "c-1");
    }
    assert_eq!(project.logs("here").len(), 1, "nothing was restarted");
    project.ok(&["stop", "-y"]);
}

/// Asks a zone for a name: prints the address, or nothing.
const LOOK_UP: &str = r#"use IO::Socket::INET; my ($at, $name) = @ARGV; my $s = IO::Socket::INET->new(Proto => "udp", PeerAddr => $at) or die; my $q = pack("n6", 7, 256, 1, 0, 0, 0) . join("", map { chr(length) . $_ } split(/\./, $name)) . "\0" . pack("n2", 1, 1); send($s, $q, 0); alarm 10; recv($s, my $a, 512, 0) // die; print join(".", unpack("C4", substr($a, -4))) if unpack("n", substr($a, 6, 2))"#;

#[test]
fn each_machine_of_a_zone_is_told_what_is_right_there() {
    let host = require!(Host::boot(Suite::Trixie, "zone"));
    let project = project(
        &host,
        &format!(
            "zone: shop.test\nnodes:\n  far: {{host: {}, user: app}}\nservices:\n  c: {{type: remote, host: far, command: {LAST}, ports: [auto]}}\n  \
             d: {{type: process, command: {LAST}, ports: [auto]}}\n",
            host.name()
        ),
    );
    project.ok(&["start"]);
    let shown = project.json(&["network", "show"]);
    let zone = shown["zone"]["address"].as_str().unwrap().to_owned();
    let look_up = |there: bool, name: &str| {
        let name = format!("{name}.shop.test");
        let words = ["perl", "-e", LOOK_UP, &zone, &name];
        let found = match there {
            true => host.command(&words).output(),
            false => std::process::Command::new(words[0]).args(&words[1..]).output(),
        };
        String::from_utf8(found.unwrap().stdout).unwrap()
    };
    let port = |service: &str| {
        let services = shown["services"].as_array().unwrap();
        let service = services.iter().find(|it| it["service"] == service).unwrap();
        u16::try_from(service["ports"][0]["number"].as_u64().unwrap()).unwrap()
    };
    until("both machines answer", || !look_up(false, "c").is_empty() && !look_up(true, "d").is_empty());
    assert_eq!((look_up(false, "d").as_str(), look_up(true, "c").as_str()), ("127.0.0.1", "127.0.0.1"));
    let (c, d) = (look_up(false, "c"), look_up(true, "d"));
    assert!(
        c.starts_with("127.") && c != "127.0.0.1" && d.starts_with("127.") && d != "127.0.0.1",
        "{c} {d}"
    );
    let at = SocketAddr::new(c.parse().unwrap(), port("c"));
    until("it is reached there", || said(at).is_ok_and(|said| said == "c-1"));
    let fetch = format!("exec 3<>/dev/tcp/{d}/{}; cat <&3", port("d"));
    until("it is reached from there", || {
        let got = host.command(&["bash", "-c", &fetch]).output().unwrap();
        String::from_utf8_lossy(&got.stdout).trim() == "d-1"
    });
    project.ok(&["stop", "-y"]);
    until("nothing of it runs there", || left(&host).is_empty());
}

//! A daemon of another build takes over what runs.

use crate::support::{Done, Project, alive, done, kill, parent, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

const STACK: &str = r#"
services:
  db: { type: process, command: [sh, -c, "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done"] }
  web: { type: process, command: [sleep, "1000"], dependencies: [db], restart: { policy: always, reset_after: 0s } }
  spare: { type: process, command: [sleep, "1000"] }
"#;

/// The program under another path and inode: another build.
fn another_build(project: &Project) -> PathBuf {
    let copy = project.path().join("harness-next");
    std::fs::copy(env!("CARGO_BIN_EXE_harness"), &copy).unwrap();
    copy
}

/// Runs the other build as [`Project::run`] runs this one.
fn run(project: &Project, program: &PathBuf, args: &[&str]) -> Done {
    let ours = project.command(args);
    let mut command = std::process::Command::new(program);
    command.args(args).current_dir(project.path()).stdin(std::process::Stdio::null());
    for (name, value) in ours.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    done(command.output().unwrap())
}

fn pids(project: &Project, names: &[&str]) -> BTreeMap<String, u32> {
    names.iter().map(|name| ((*name).to_owned(), project.pid(name))).collect()
}

fn program_of(pid: u32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

#[test]
fn another_build_takes_over_and_nothing_is_restarted() {
    let project = Project::new(STACK);
    project.ok(&["start", "web"]);
    let next = another_build(&project);
    let before = pids(&project, &["db-1", "web-1"]);
    let (old_daemon, old_zygote) = (project.daemon_pid(), project.zygote_pid("web-1"));

    let restart = run(&project, &next, &["daemon", "restart"]);
    assert_eq!(restart.code, 0, "{}", restart.stderr);
    let said = &restart.stderr;
    assert!(said.contains(&format!("pid {old_daemon}")), "{said}");
    assert!(said.contains("2 instances go on as before, with the same processes"), "{said}");

    assert!(!alive(old_daemon));
    let daemon = project.daemon_pid();
    assert_eq!(program_of(daemon), next.canonicalize().unwrap());
    assert_eq!(pids(&project, &["db-1", "web-1"]), before, "nothing is restarted");
    for name in ["db-1", "web-1"] {
        assert_eq!(
            (project.state(name).as_str(), &project.instance(name)["restarts"]),
            ("running", &0.into())
        );
    }
    let status = project.ok(&["daemon", "status"]);
    assert!(status.stdout.contains("another build"), "{}", status.stdout);

    // What is started now comes from the new build's zygote; the old one's keepers stay with it.
    project.ok(&["start", "spare"]);
    let new_zygote = project.zygote_pid("spare-1");
    assert_ne!(new_zygote, old_zygote);
    assert_eq!(program_of(new_zygote), next.canonicalize().unwrap());
    assert_eq!(project.zygote_pid("db-1"), old_zygote);

    // The new daemon looks after what the old one started: it replaces it, and notices a killed keeper.
    kill(before["web-1"], "KILL");
    until("a new process", || {
        project.instance("web-1")["pid"].as_u64().is_some_and(|pid| pid != u64::from(before["web-1"]))
    });
    until("it has a keeper", || project.zygote_pid("web-1") == new_zygote);
    kill(project.keeper_pid("db-1"), "KILL");
    until("the killed keeper is noticed", || {
        project
            .records("db-1")
            .iter()
            .any(|record| record["state"]["exited"]["exit"]["unknown"] == "keeper killed")
    });
    assert!(!alive(before["db-1"]), "a killed keeper's service dies with it");
    until("the old zygote has nothing left to live for", || !alive(old_zygote));

    project.ok(&["stop"]);
    assert!(project.processes().is_empty());
    until("the new zygote ends too", || !alive(new_zygote));
}

#[test]
fn wishes_and_lines_survive_the_exchange_in_both_directions() {
    let project = Project::new(STACK);
    project.ok(&["start"]);
    project.ok(&["stop", "spare", "-y"]);
    let next = another_build(&project);
    let before = pids(&project, &["db-1", "web-1"]);
    for program in [&next, &PathBuf::from(env!("CARGO_BIN_EXE_harness")), &next] {
        let restart = run(&project, program, &["daemon", "restart", "-o", "json"]);
        assert_eq!(restart.code, 0, "{}", restart.stderr);
        let document: Value = serde_json::from_str(&restart.stdout).unwrap();
        assert_eq!(document["kept"], serde_json::json!(["db-1", "web-1"]), "{document:#}");
        assert_eq!(document["changed"], serde_json::json!([]));
        assert_ne!(document["before"]["build"], document["daemon"]["build"]);
        assert_eq!(pids(&project, &["db-1", "web-1"]), before);
        assert_eq!(project.state("spare-1"), "stopped", "what was stopped stays stopped");
    }
    project.ok(&["stop"]);
    assert!(before.values().all(|pid| !alive(*pid)));
    for (i, line) in project.logs("db").iter().enumerate() {
        assert_eq!(*line, format!("line {}", i + 1), "no line is lost or doubled");
    }
}

#[test]
fn without_a_daemon_one_is_started_and_adopts() {
    let project = Project::new(STACK);
    let never = project.ok(&["daemon", "restart"]);
    assert!(never.stderr.contains("Nothing was ever started"), "{}", never.stderr);
    assert!(!project.path().join("state").exists(), "and nothing is made");
    project.ok(&["start", "db"]);
    let (db, zygote) = (project.pid("db-1"), project.zygote_pid("db-1"));
    let daemon = project.daemon_pid();
    kill(daemon, "KILL");
    until("the daemon is gone", || !alive(daemon));
    let restart = project.ok(&["daemon", "restart"]);
    assert!(restart.stderr.contains("No daemon ran"), "{}", restart.stderr);
    assert!(restart.stderr.contains("1 instance goes on"), "{}", restart.stderr);
    assert_eq!(project.pid("db-1"), db);
    assert_eq!(parent(project.keeper_pid("db-1")), Some(zygote));
}

/// A daemon of the far future: it holds the lock, speaks protocol 9 only, and ends when it is told to.
const FUTURE: &str = r#"
import base64, fcntl, hashlib, json, os, socket, struct, sys
state = sys.argv[1]
lock = open(state + "/daemon.lock", "a+")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.truncate(0)
lock.write("pid %d, since 2030-01-01T00:00:00Z, harness\n" % os.getpid())
lock.flush()
os.chdir(state + "/run")
if os.path.exists("harness.sock"):
    os.unlink("harness.sock")
server = socket.socket(socket.AF_UNIX)
server.bind("harness.sock")
server.listen()
print("up", flush=True)

def exactly(peer, count):
    data = b""
    while len(data) < count:
        more = peer.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data

def frame(peer):
    head, length = exactly(peer, 2)
    length &= 127
    if length == 126:
        length = struct.unpack(">H", exactly(peer, 2))[0]
    mask = exactly(peer, 4)
    return head & 15, bytes(byte ^ mask[i % 4] for i, byte in enumerate(exactly(peer, length)))

while True:
    peer, _ = server.accept()
    try:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += exactly(peer, 1)
        key = [line.split(b": ")[1] for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")][0]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        while True:
            kind, data = frame(peer)
            if kind != 1:
                break
            call = json.loads(data)
            answer = {"jsonrpc": "2.0", "id": call["id"]}
            ends = call["method"] == "daemon.stop"
            if ends:
                answer["result"] = {}
            else:
                answer["error"] = {"code": -32001, "message": "this server speaks protocol 9: use a newer client"}
            text = json.dumps(answer).encode()
            peer.sendall(bytes([0x81, len(text)]) + text if len(text) < 126 else bytes([0x81, 126]) + struct.pack(">H", len(text)) + text)
            if ends:
                sys.exit(0)
    except EOFError:
        pass
"#;

#[test]
fn a_daemon_that_speaks_no_common_protocol_is_replaced_too() {
    let project = Project::new(STACK);
    project.ok(&["start", "db"]);
    let db = project.pid("db-1");
    project.ok(&["daemon", "stop"]);
    let script = project.write("future.py", FUTURE);
    let mut future = std::process::Command::new("python3")
        .arg(script)
        .arg(project.state_dir())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 3];
    std::io::Read::read_exact(future.stdout.as_mut().unwrap(), &mut said).unwrap();

    let refused = project.run(&["start", "db"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("of another version"), "{}", refused.stderr);
    assert!(refused.stderr.contains("harness daemon restart"), "{}", refused.stderr);

    let restart = project.ok(&["daemon", "restart"]);
    assert!(restart.stderr.contains(&format!("pid {}", future.id())), "{}", restart.stderr);
    assert!(restart.stderr.contains("1 instance goes on"), "{}", restart.stderr);
    assert!(future.wait().unwrap().success(), "it ended by itself");
    assert_eq!(project.pid("db-1"), db);
}

/// Holds every connection until its client has enough.
const HOLDS: &str = r#"[python3, -c, 'import os,socketserver; S = socketserver.ThreadingTCPServer; S.allow_reuse_address = True; H = type("H", (socketserver.BaseRequestHandler,), {"handle": lambda self: (self.request.sendall(b"here"), self.request.recv(1))}); S(("127.0.0.1", int(os.environ["PORT"])), H).serve_forever()']"#;

#[test]
fn a_data_plane_of_another_build_is_exchanged_once_it_carries_nothing() {
    let project = Project::new(&format!(
        "services:
  web: {{type: process, command: {HOLDS}, replicas: 2, ports: [auto], health_check: {{tcp: '${{self.port}}'}}}}
  client: {{type: process, command: [sh, -c, 'echo $WEB_ADDR; exec sleep 1000'], dependencies: [web]}}
"
    ));
    project.ok(&["start"]);
    until("the address is told", || !project.logs("client").is_empty());
    let address: std::net::SocketAddr = project.logs("client")[0].parse().unwrap();
    let next = another_build(&project);
    let held = || {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.set_read_timeout(Some(crate::support::PATIENCE))?;
        std::io::Read::read_exact(&mut stream, &mut [0; 4])?;
        std::io::Result::Ok(stream)
    };
    let mut open = held().unwrap();
    assert_eq!(run(&project, &next, &["daemon", "restart"]).code, 0);
    let plane = |project: &Project| project.data_planes().first().copied().unwrap_or(0);
    let before = plane(&project);
    assert_ne!(program_of(before), next.canonicalize().unwrap(), "it carries a connection");
    std::io::Write::write_all(&mut open, b".").unwrap();
    assert_eq!(std::io::Read::read(&mut open, &mut [0; 1]).unwrap(), 0, "which ended by itself");
    drop(open);
    assert_eq!(run(&project, &next, &["daemon", "restart"]).code, 0);
    until("it is exchanged", || {
        let now = plane(&project);
        now != 0 && now != before && program_of(now) == next.canonicalize().unwrap()
    });
    until("it serves the same address", || held().is_ok());
    assert_eq!(run(&project, &next, &["stop", "-y"]).code, 0);
}

//! Virtual addresses on one machine: replicas behind one, what keeps it served, and what `network` tells.

use crate::support::{Project, alive, kill, until};
use std::collections::BTreeSet;
use std::io::{BufRead as _, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Answers with the name of the instance.
pub(crate) const SERVER: &str = r#"[python3, -c, 'import os,socketserver; S = socketserver.ThreadingTCPServer; S.allow_reuse_address = True; S.request_queue_size = 128; H = type("H", (socketserver.BaseRequestHandler,), {"handle": lambda self: self.request.sendall(os.environ["HARNESS_INSTANCE"].encode())}); S(("127.0.0.1", int(os.environ["PORT"])), H).serve_forever()']"#;

pub(crate) fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

/// Asks until each of three has answered, and none else.
fn all_three(address: SocketAddr) -> BTreeSet<String> {
    let mut answered = BTreeSet::new();
    until("all have answered", || {
        answered.insert(ask(address).unwrap());
        answered.len() >= 3
    });
    assert_eq!(answered, ["web-1", "web-2", "web-3"].map(String::from).into());
    answered
}

fn stack() -> Project {
    Project::new(&format!(
        "services:
  web: {{type: process, command: {SERVER}, replicas: 3, ports: [{{name: tcp, port: auto}}], health_check: {{tcp: '${{self.port}}', interval: 1s}}}}
  client: {{type: process, command: [sh, -c, 'echo $WEB_ADDR; exec sleep 1000'], dependencies: [web]}}
"
    ))
}

/// The address of `web` as `client` was told.
fn address(project: &Project) -> SocketAddr {
    until("the client has told", || !project.logs("client").is_empty());
    project.logs("client")[0].parse().unwrap()
}

#[test]
fn replicas_have_one_address_and_none_that_is_dead_answers() {
    let project = stack();
    project.ok(&["start"]);
    let address = address(&project);
    assert!(address.to_string().starts_with("127."), "{address}");
    let answered = all_three(address);
    // One of them is killed again and again: whoever asks doesn't notice.
    for _ in 0..3 {
        let pid = project.pid("web-2");
        kill(pid, "KILL");
        // What it had accepted dies with it.
        until("it is dead", || !alive(pid));
        for _ in 0..200 {
            let said = ask(address).unwrap();
            assert!(answered.contains(&said), "{said:?}");
        }
        until("it is there again", || {
            let now = project.instance("web-2");
            now["state"] == "running" && now["pid"].as_u64().is_some_and(|now| now != u64::from(pid))
        });
    }
    // The address goes on while the daemon is away; whoever looks has another one started, which finds who serves it.
    kill(project.daemon_pid(), "KILL");
    assert!(answered.contains(&ask(address).unwrap()));
    until("it is shown", || {
        let shown = project.ok(&["network", "show"]).stdout;
        shown.contains(&address.to_string()) && shown.contains("✓ serves")
    });
    let tested = project.ok(&["network", "test", "web"]).stdout;
    assert!(tested.contains("on the same node"), "{tested}");
    // It can be taken back while the services run, and comes again with the next start.
    let refused = project.run(&["network", "down"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(ask(address).is_ok(), "nobody agreed");
    project.ok(&["network", "down", "-y"]);
    until("nothing listens", || ask(address).is_err());
    assert_eq!(project.state("web-1"), "running");
    project.ok(&["start"]);
    until("it is served again", || ask(address).is_ok());
    project.ok(&["stop", "-y"]);
    assert!(ask(address).is_err(), "nothing is left that listens");
    until("its programs are gone", || programs(&project).is_empty());
}

/// What runs of this project's own programs: `harness daemon …` below its state folder.
fn programs(project: &Project) -> Vec<u32> {
    let folder = project.path().join("state").display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&folder) && alive(*pid)
    })
    .collect()
}

#[test]
fn a_stack_that_needs_no_data_plane_has_none() {
    let project = Project::new(
        "services:
  db: {type: process, command: [sleep, '1000'], ports: [18941]}
  web: {type: process, command: [sh, -c, 'echo $DB_ADDR; exec sleep 1000'], dependencies: [db]}
",
    );
    project.ok(&["start"]);
    until("it has told", || project.logs("web") == ["127.0.0.1:18941"]);
    let shown = project.json(&["network", "show"]);
    assert_eq!(shown["version"], 0, "{shown:#}");
    assert!(!project.state_dir().join("plane/plane.sock").exists());
    project.ok(&["stop", "-y"]);
}

/// Connects to the first argument at the port that the second is, and prints what it says.
const CALL: &str =
    "import socket,sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2]))).recv(99).decode())";

#[test]
fn a_process_with_a_hosts_file_of_its_own_reaches_others_by_name() {
    let before = std::fs::read("/etc/hosts").unwrap();
    let file = |outside: &str| {
        format!(
            "services:
  web: {{type: process, command: {SERVER}, replicas: 2, ports: [auto], health_check: {{tcp: '${{self.port}}', interval: 1s}}}}
  solo: {{type: process, command: {SERVER}, ports: [auto], health_check: {{tcp: '${{self.port}}', interval: 1s}}}}
  ext: {{type: attach, external: {{host: {outside}, port: 80}}}}
  client:
    type: process
    names: hosts
    dependencies: {{web: {{condition: healthy}}, solo: {{condition: healthy}}, ext: {{condition: started}}}}
    env: {{CALL: '{CALL}'}}
    command: [sh, -c, 'getent hosts web; getent hosts ext; python3 -c \"$CALL\" web ${{web.port}}; python3 -c \"$CALL\" solo ${{solo.port}};
      echo ${{web.host}} $SOLO_HOST $WEB_ADDR; until getent hosts ext | grep 10.9.8.6; do sleep 0.05; done; exec sleep 1000']
"
        )
    };
    let project = Project::new(&file("10.9.8.7"));
    project.ok(&["start"]);
    until("the client has told", || project.logs("client").len() >= 5);
    let said = project.logs("client");
    let words = |at: usize| said[at].split_whitespace().collect::<Vec<&str>>();
    let address = words(4)[2].rsplit_once(':').unwrap().0;
    assert_eq!(words(0), [address, "web"]);
    assert_eq!(words(1), ["10.9.8.7", "ext"]);
    assert!(said[2].starts_with("web-"), "{said:?}");
    assert_eq!(said[3], "solo-1");
    assert_eq!(words(4)[..2], ["web", "solo"]);
    // What is run beside it doesn't see its file, and is told addresses.
    let beside = project.ok(&["exec", "client", "--", "sh", "-c", "echo $WEB_HOST"]).stdout;
    assert_eq!(beside.trim(), address);
    // Another address, while it runs.
    let pid = project.pid("client-1");
    project.write_services(&file("10.9.8.6"));
    project.ok(&["start", "--apply", "ext"]);
    until("it sees the new address", || project.logs("client").len() == 6);
    assert_eq!(project.logs("client")[5].split_whitespace().collect::<Vec<_>>(), ["10.9.8.6", "ext"]);
    assert_eq!(project.pid("client-1"), pid);
    project.ok(&["stop", "-y"]);
    assert_eq!(std::fs::read("/etc/hosts").unwrap(), before, "the machine's own file is left alone");
}

#[test]
fn a_forward_without_descriptors_goes_on_and_is_ended_by_ctrl_c() {
    let project = stack();
    project.ok(&["start", "web"]);
    let harness = project.command(&["network", "forward", "web", "0"]);
    let mut forward = std::process::Command::new("sh");
    forward
        .args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""])
        .arg(harness.get_program())
        .args(harness.get_args());
    forward.envs(harness.get_envs().filter_map(|(name, value)| Some((name, value?))));
    forward.current_dir(harness.get_current_dir().unwrap()).stdout(std::process::Stdio::piped());
    let mut forward = forward.spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(forward.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address: SocketAddr = line.trim().parse().unwrap();
    // The instances end each one at once: what stays open is what nobody reads.
    let many: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(address).unwrap()).collect();
    drop(many);
    until("it answers again", || ask(address).is_ok_and(|said| said.starts_with("web-")));
    let _held: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(address).unwrap()).collect();
    kill(forward.id(), "INT");
    assert!(forward.wait().unwrap().success());
    project.ok(&["stop", "-y"]);
}

#[test]
fn a_service_is_forwarded_to_a_port_of_this_machine() {
    let project = stack();
    project.ok(&["start"]);
    let mut forward = project.command(&["network", "forward", "web", "0"]);
    let mut forward = forward.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(forward.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let address: SocketAddr = line.trim().parse().unwrap();
    all_three(address);
    kill(forward.id(), "INT");
    assert!(forward.wait().unwrap().success());
    assert!(ask(address).is_err());
    let wrong = project.run(&["network", "forward", "wep"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("did you mean 'web'?"), "{}", wrong.stderr);
    project.ok(&["stop", "-y"]);
}

#[test]
fn more_connections_than_the_limit_of_open_files_are_carried() {
    let holds = r#"[python3, -c, 'import os,socketserver; S = socketserver.ThreadingTCPServer; S.allow_reuse_address = True; S.request_queue_size = 512; S.daemon_threads = True; H = type("H", (socketserver.BaseRequestHandler,), {"handle": lambda self: (self.request.sendall(b"here"), self.request.recv(1))}); S(("127.0.0.1", int(os.environ["PORT"])), H).serve_forever()']"#;
    let project = Project::new(&format!(
        "services:
  web: {{type: process, command: {holds}, replicas: 2, ports: [auto], health_check: {{tcp: '${{self.port}}', interval: 1s}}}}
  client: {{type: process, command: [sh, -c, 'echo $WEB_ADDR; exec sleep 1000'], dependencies: [web]}}
"
    ));
    // With the limit that most logins have.
    let ours = project.command(&["start"]);
    let mut start = std::process::Command::new("sh");
    start.args(["-c", "ulimit -S -n 1024; exec \"$0\" start", env!("CARGO_BIN_EXE_harness")]);
    start.current_dir(project.path()).stdin(std::process::Stdio::null());
    for (name, value) in ours.get_envs() {
        match value {
            Some(value) => start.env(name, value),
            None => start.env_remove(name),
        };
    }
    assert!(start.output().unwrap().status.success());
    let address = address(&project);
    let mut open = Vec::new();
    for _ in 0..700 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        open.push(stream);
    }
    drop(open);
    project.ok(&["stop", "-y"]);
}

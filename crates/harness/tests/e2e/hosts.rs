//! What needs a machine of its own: units of a real systemd, and an engine that may be restarted. The program under test
//! runs on a test host.

mod agents;
mod ambassadors;
mod deploy;
mod files;
mod lost;
mod many;
mod network;
mod nodes;
mod targets;

use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};
use test_hosts::{Host, Network, OwnHost, Portable, Suite, require};

/// Time after which something that should happen has not.
const PATIENCE: Duration = Duration::from_secs(30);

/// A project on a host.
struct There {
    host: OwnHost,
}

impl There {
    fn new(host: OwnHost, services: &str) -> Self {
        let copied = Command::new("docker")
            .args(["cp", "--quiet", env!("CARGO_BIN_EXE_harness")])
            .arg(format!("{}:/usr/local/bin/harness", host.container()))
            .output()
            .unwrap();
        assert!(copied.status.success(), "{copied:?}");
        host.write("/srv/stack/services.yaml", &format!("version: \"1.0\"\nname: test\n{services}")).unwrap();
        Self { host }
    }

    fn try_run(&self, args: &str) -> (i32, String, String) {
        let script = format!("cd /srv/stack && HOME=/root exec harness {args}");
        let output = self.host.command(&["sh", "-c", &script]).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    #[track_caller]
    fn ok(&self, args: &str) -> String {
        let (code, stdout, stderr) = self.try_run(args);
        assert_eq!(code, 0, "harness {args}\n{stdout}\n{stderr}");
        stdout
    }

    #[track_caller]
    fn instance(&self, name: &str) -> Value {
        let status: Value = serde_json::from_str(&self.ok("status -o json")).unwrap();
        let found = status["instances"].as_array().unwrap().iter().find(|it| it["instance"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {status:#}")).clone()
    }

    fn state(&self, name: &str) -> String {
        self.instance(name)["state"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "never happened: {what}\n{}", self.ok("status"));
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn kill_daemon(&self) {
        let status: Value = serde_json::from_str(&self.ok("daemon status -o json")).unwrap();
        let pid = status["daemon"]["pid"].as_u64().unwrap();
        self.host.exec(&["kill", "-KILL", &pid.to_string()]).unwrap();
    }
}

fn unit(exec: &str, more: &str) -> String {
    format!("[Service]\nExecStart={exec}\n{more}\n")
}

const UNITS: &str = "services:
  web: {type: systemd, unit: web.service}
  after: {type: process, command: [sleep, '1000'], dependencies: [web]}
  theirs: {type: attach, unit: theirs.service}
";

#[test]
fn a_unit_is_started_watched_and_stopped_like_any_other_service() {
    let there = There::new(require!(Host::boot(Suite::Bookworm, "units")), UNITS);
    let host = &there.host;
    host.write("/etc/systemd/system/web.service", &unit("/bin/sh -c 'echo serving; exec sleep 1000'", ""))
        .unwrap();
    host.write("/etc/systemd/system/theirs.service", &unit("/bin/sleep 1000", "")).unwrap();
    host.sh("systemctl daemon-reload && systemctl start theirs").unwrap();
    there.ok("start");
    assert_eq!(host.exec(&["systemctl", "is-active", "web"]).unwrap(), "active");
    let main_pid =
        || -> u64 { host.exec(&["systemctl", "show", "-P", "MainPID", "web"]).unwrap().parse().unwrap() };
    let pid = main_pid();
    assert_eq!(there.instance("web-1")["pid"], pid);
    there.until("its line is in the journal", || there.ok("logs --no-prefix web").contains("serving"));
    // Killed, it is started again at once; by then the process beside it has not been touched.
    let beside = there.instance("after-1")["pid"].clone();
    host.exec(&["systemctl", "kill", "-s", "KILL", "web"]).unwrap();
    there.until("it is started again", || {
        let web = there.instance("web-1");
        web["state"] == "running" && web["pid"] != pid
    });
    assert_eq!(there.instance("after-1")["pid"], beside);
    // A new daemon finds it.
    there.kill_daemon();
    there.ok("start after");
    assert_eq!(there.instance("web-1")["pid"], main_pid());
    assert_eq!(there.state("theirs-1"), "running");
    there.ok("stop");
    assert_eq!(host.sh("systemctl is-active web || true").unwrap(), "inactive");
    assert_eq!(host.exec(&["systemctl", "is-active", "theirs"]).unwrap(), "active", "it isn't ours to stop");
    assert!(there.ok("logs --no-prefix web").contains("serving"), "also when it has stopped");
}

#[test]
fn a_unit_that_fails_says_why_and_what_it_said_last() {
    let services = "services:
  bad: {type: systemd, unit: bad.service, restart: no}
  missing: {type: systemd, unit: no-such.service, restart: no}
  exec: {type: systemd, unit: exec.service, restart: no}
  job: {type: systemd, unit: job.service, restart: no}
";
    let there = There::new(require!(Host::boot(Suite::Trixie, "units fail")), services);
    let host = &there.host;
    host.write("/etc/systemd/system/bad.service", &unit("/bin/sh -c 'echo last words; exit 3'", "")).unwrap();
    host.write("/etc/systemd/system/exec.service", &unit("/no/such/program", "Type=exec")).unwrap();
    host.write("/etc/systemd/system/job.service", &unit("/bin/sh -c 'exit 0'", "Type=oneshot")).unwrap();
    host.exec(&["systemctl", "daemon-reload"]).unwrap();
    let (code, _, stderr) = there.try_run("start");
    assert_eq!(code, 3, "{stderr}");
    for said in ["last words", "code 3", "no unit no-such.service", "203"] {
        assert!(stderr.contains(said), "{said}: {stderr}");
    }
    assert_eq!(there.instance("bad-1")["exit"]["code"], 3);
    assert_eq!(there.instance("job-1")["exit"]["code"], 0);
    there.ok("stop");
}

#[test]
fn containers_are_found_again_after_their_engine_was_restarted() {
    let services = "services:
  it: {type: docker, image: harness-test/bb, init: true, command: [sh, -c, 'echo up; exec sleep 1000'], restart: {backoff: {max: 500ms}}}
  once: {type: docker, image: harness-test/bb, init: true, restart: no, command: [sleep, '1000']}
";
    let there = There::new(require!(Host::boot(Suite::Bookworm, "engine restarted")), services);
    there.host.start_docker().unwrap();
    there.host.load_bb().unwrap();
    there.ok("start");
    there.host.exec(&["systemctl", "restart", "docker"]).unwrap();
    // dockerd takes its containers with it; what is to run is started again once it answers.
    there.until("it is started again", || {
        there.state("it-1") == "running" && there.ok("logs --no-prefix it").lines().count() == 2
    });
    there.until("the other's end is known", || there.state("once-1") == "failed");
    there.host.exec(&["systemctl", "stop", "docker.socket", "docker"]).unwrap();
    let (_, _, stderr) = there.try_run("start --timeout 5s once");
    assert!(stderr.contains("docker"), "{stderr}");
    there.host.exec(&["systemctl", "start", "docker"]).unwrap();
    there.until("it is up again", || there.state("it-1") == "running");
    there.ok("stop");
    let left = there.host.exec(&["docker", "ps", "--all", "--quiet"]).unwrap();
    assert_eq!(left, "");
}

#[test]
fn podman_s_docker_command_line_will_do() {
    let services = "services:
  db: {type: docker, image: harness-test/bb, init: true, command: [sh, -c, 'echo up; exec httpd -f -p 5432 -h /'], ports: ['15432:5432'],
    health_check: {tcp: 15432}}
  web: {type: process, command: [sleep, '1000'], dependencies: [db]}
";
    let there = There::new(require!(Host::boot(Suite::Podman, "podman")), services);
    there.host.load_bb().unwrap();
    there.ok("start");
    there.until("it has said it", || there.ok("logs --no-prefix db").contains("up"));
    there.host.sh("docker kill $(docker ps -q --filter label=harness.instance=db-1)").unwrap();
    there.until("it is started again", || {
        there.instance("db-1")["restarts"] == 1 && there.state("db-1") == "running"
    });
    there.kill_daemon();
    there.ok("start web");
    assert_eq!(there.state("db-1"), "running");
    there.ok("stop");
    assert_eq!(there.host.exec(&["docker", "ps", "--all", "--quiet"]).unwrap(), "");
}

#[test]
fn a_portable_service_is_attached_reattached_and_detached() {
    let services = |version: &str| {
        format!(
            "services:\n  hello: {{type: portable, image: /var/lib/portables/hello_{version}, unit: hello.service, profile: trusted}}\n"
        )
    };
    let there = There::new(require!(Host::boot(Suite::Bookworm, "portable")), &services("1.0"));
    let host = &there.host;
    for version in ["1.0", "2.0"] {
        let exec = format!("/usr/bin/busybox sh -c 'echo version {version}; exec busybox sleep 1000'");
        host.make_portable(&Portable {
            folder: &format!("/var/lib/portables/hello_{version}"),
            prefix: "hello",
            units: &[("hello.service", &unit(&exec, ""))],
            files: &[],
        })
        .unwrap();
    }
    there.ok("start");
    assert_eq!(host.exec(&["systemctl", "is-active", "hello"]).unwrap(), "active");
    there.until("its line is in the journal", || there.ok("logs --no-prefix hello").contains("version 1.0"));
    host.write("/srv/stack/services.yaml", &format!("version: \"1.0\"\nname: test\n{}", services("2.0")))
        .unwrap();
    there.ok("start --apply");
    there.until("the new version has said so", || there.ok("logs --no-prefix hello").contains("version 2.0"));
    assert_eq!(there.state("hello-1"), "running");
    there.ok("stop");
    let load = host.exec(&["systemctl", "show", "-P", "LoadState", "hello"]).unwrap();
    assert_eq!(load, "not-found", "it was attached for the run, and is detached with it");
}

#[test]
fn an_engine_that_hangs_costs_no_container() {
    let services = "services:
  it: {type: docker, image: harness-test/bb, init: true, command: [sleep, '1000'], ports: ['5432:5432']}
  beside: {type: process, command: [sleep, '1000']}
";
    let there = There::new(require!(Host::boot(Suite::Trixie, "engine hangs")), services);
    there.host.start_docker().unwrap();
    there.host.load_bb().unwrap();
    there.ok("start");
    let id = there.host.exec(&["docker", "ps", "--quiet"]).unwrap();
    there.host.exec(&["systemctl", "kill", "--signal", "STOP", "docker"]).unwrap();
    there.kill_daemon();
    // What can't be asked is as it was, and nobody else waits for it.
    there.ok("start beside");
    assert_eq!((there.state("it-1").as_str(), there.state("beside-1").as_str()), ("running", "running"));
    there.host.exec(&["systemctl", "kill", "--signal", "CONT", "docker"]).unwrap();
    there.until("its process is known again", || there.instance("it-1")["pid"].as_u64().is_some());
    assert_eq!(there.host.exec(&["docker", "ps", "--quiet"]).unwrap(), id, "the same container");
    assert_eq!(there.instance("it-1")["restarts"], 0);
    there.ok("stop");
    assert_eq!(there.host.exec(&["docker", "ps", "--all", "--quiet"]).unwrap(), "");
}

#[test]
fn every_command_can_be_carried_out_by_the_harness_of_another_machine() {
    let there = There::new(require!(Host::boot(Suite::Trixie, "elsewhere")), "");
    let host = &there.host;
    // Where logins by ssh don't look by themselves.
    host.sh(
        "install -D -o app /usr/local/bin/harness /home/app/.local/bin/harness && rm /usr/local/bin/harness",
    )
    .unwrap();
    let services = "version: \"1.0\"\nservices:\n  web:\n    type: process\n    command: [sh, -c, 'echo it is up; exec sleep 1000']\n    env: {GREETING: hello}\n";
    host.write("/home/app/a shop/services.yaml", services).unwrap();
    host.sh("chown -R app /home/app").unwrap();
    let run = |folder: &str, args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_harness"))
            .arg("-H")
            .arg(format!("ssh://app@{}/{folder}", host.name()))
            .args(args)
            .env("HARNESS_SSH_CONFIG", host.ssh_config())
            .env_remove("HARNESS_CONFIG")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let shop = "~/a shop";
    let (code, _, stderr) = run(shop, &["start"]);
    assert_eq!(code, Some(0), "{stderr}");
    let (_, stdout, _) = run("home/app/a shop", &["status", "-o", "json"]);
    let status: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(status["instances"][0]["state"], "running", "{status:#}");
    assert!(run(shop, &["logs", "--no-prefix", "web"]).1.contains("it is up"));
    let (code, stdout, _) =
        run(shop, &["exec", "web", "--", "sh", "-c", "echo \"$GREETING\" 'it'\\''s'; exit 7"]);
    assert_eq!((code, stdout.as_str()), (Some(7), "hello it's\n"));
    let odd = ["-H", "it's", "two\nlines", "a!b", r"back\\slash\", "", "$HOME", "*"];
    let printed = run(shop, &[&["exec", "web", "--", "printf", "<%s>"], &odd[..]].concat()).1;
    assert_eq!(printed, odd.map(|word| format!("<{word}>")).concat());
    let (code, _, stderr) = run(shop, &["status", "nosuch"]);
    assert!(code == Some(2) && stderr.contains("there is no service 'nosuch'"), "{stderr}");
    assert_eq!(run(shop, &["stop"]).0, Some(0));
    let (code, _, stderr) = run("no/such", &["status"]);
    assert!(code == Some(2) && stderr.contains("no/such"), "{stderr}");
    host.sh("rm /home/app/.local/bin/harness").unwrap();
    let (code, _, stderr) = run(shop, &["status"]);
    assert!(code == Some(127) && stderr.contains("harness"), "{stderr}");
}

/// What answers datagrams on a machine.
const ECHO: &str = r#"[perl, "-MIO::Socket::INET", -e, 'my $s = IO::Socket::INET->new(LocalPort => 9000, Proto => "udp") or die; while ($s->recv(my $m, 99)) { $s->send("heard $m") }']"#;

#[test]
fn programs_of_two_machines_reach_each_other_by_interfaces_of_the_kernel() {
    let network = require!(Network::create("interfaces"));
    let [one, two] = require!(network.boot_all([(Suite::Bookworm, "one"), (Suite::Trixie, "two")]));
    // The project is on one of them, so that nothing of this machine is changed.
    one.write("/srv/key", &std::fs::read_to_string(one.identity()).unwrap()).unwrap();
    one.write("/etc/ssh/ssh_known_hosts", &std::fs::read_to_string(one.known_hosts()).unwrap()).unwrap();
    one.sh("chmod 600 /srv/key").unwrap();
    let there = There::new(
        one,
        &format!(
            "networks:
  mesh: {{type: wireguard, subnet: 10.42.0.0/16, interface: wg-test}}
nodes:
  two: {{host: {}, user: app, sudo: true, identity_file: /srv/key}}
services:
  web: {{type: remote, host: two, command: {ECHO}, ports: [9001], network: mesh}}
  ask: {{type: process, command: [sleep, '1000'], env: {{WEB: '${{web.url}}'}}}}
",
            two.address()
        ),
    );
    there.ok("start");
    let shown = || -> Value { serde_json::from_str(&there.ok("network show -o json")).unwrap() };
    let interface = |node: &str| shown()["reports"][node]["tunnel"]["interface"].clone();
    there.until("both have their interface", || {
        ["local", "two"].iter().all(|node| {
            let interface = interface(node);
            interface["name"] == "wg-test" && interface["error"].is_null()
        })
    });
    let address = interface("two")["address"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.42."), "{address}");
    let ask = format!(
        r#"perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(PeerAddr => "{address}", PeerPort => 9000, Proto => "udp") or die; alarm 5; $s->send("a word"); $s->recv(my $m, 99); print $m'"#
    );
    there.until("a datagram is answered", || there.host.sh(&ask).is_ok_and(|said| said == "heard a word"));
    assert!(there.ok("network show").contains("wg-test"));
    there.ok("stop -y");
    let gone = "! ip link show wg-test 2>/dev/null";
    there.host.wait_until(gone).unwrap();
    two.wait_until(gone).unwrap();
}

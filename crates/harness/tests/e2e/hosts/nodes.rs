//! Services on other machines: gates, names and logs across them; what becomes of it all when links break and machines die.

use crate::package_services::build;
use crate::support::{Project, kill, until};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use test_hosts::{BB, Host, Network, Suite, require};

/// A project with these nodes, whose agents' program has no symbols: it is sent often here.
pub(super) fn project(hosts: &Host, services: &str) -> Project {
    let project = Project::new(&services.replace("BB", BB)).with("HARNESS_SSH_CONFIG", hosts.ssh_config());
    let programs = project.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    let program = programs.join(format!("harness-{}", std::env::consts::ARCH));
    let stripped = Command::new("strip").arg("-o").arg(&program).arg(env!("CARGO_BIN_EXE_harness")).output();
    if !stripped.is_ok_and(|output| output.status.success()) {
        std::fs::copy(env!("CARGO_BIN_EXE_harness"), program).unwrap();
    }
    project.with("HARNESS_AGENT_DIR", programs)
}

/// What runs of a project's agents on a host, as `ps` lists it.
pub(super) fn left(host: &Host) -> String {
    host.sh("for it in /proc/[0-9]*; do tr '\\0' ' ' <$it/cmdline 2>/dev/null | grep 'harness/[a]gents'; done; true").unwrap()
}

pub(super) fn on_node(project: &Project, instance: &str) -> u32 {
    project.instance(instance)["pid"].as_u64().unwrap_or_else(|| panic!("{instance} has no pid")) as u32
}

/// The events of an instance, each as `kind state`.
fn events(project: &Project, instance: &str) -> Vec<String> {
    let done = project.ok(&["events", "-o", "json"]);
    let lines = done.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|event| event["instance"] == instance)
        .map(|event| {
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            format!("{} {}", text(&event["kind"]), text(&event["entry"]["status"]["state"]))
        })
        .collect()
}

/// A process that counts aloud and holds a lock as long as it lives; a second copy says so in a file.
pub(super) const COUNTER: &str = r#"[sh, -c, "exec 9>>lock; flock -n 9 || { echo doubled >> doubled; exit 1; }; echo begin $$; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done"]"#;

/// What copies of a [`COUNTER`] have said that found another alive on a host.
pub(super) fn doubled(host: &Host) -> String {
    host.sh("cat /home/app/.local/state/harness/agents/*/files/doubled 2>/dev/null; true").unwrap()
}

/// `harness logs -f`, line by line.
struct Followed {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Followed {
    fn new(project: &Project, name: &str) -> Self {
        let mut child = project
            .command(&["logs", "--no-prefix", "-f", name])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, lines) = sync_channel(4096);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits until so many lines came.
    #[track_caller]
    fn until_lines(&mut self, count: usize) {
        until("more lines", || {
            self.seen.extend(self.lines.try_iter());
            self.seen.len() >= count
        });
    }
}

/// Every life of a [`COUNTER`] counted from 1 without a gap or a repetition, and began once. The answer: how many lives.
#[track_caller]
fn whole(seen: &[String]) -> usize {
    let (mut lives, mut next) = (0, 1);
    for line in seen {
        match line.strip_prefix("line ") {
            Some(number) => {
                assert_eq!(number.parse::<u32>().ok(), Some(next), "in {seen:?}");
                next += 1;
            }
            None => {
                assert!(line.starts_with("begin "), "{line}");
                (lives, next) = (lives + 1, 1);
            }
        }
    }
    lives
}

impl Drop for Followed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn one_graph_over_machines_of_every_kind() {
    let network = require!(Network::create("one graph"));
    let [a, b] = require!(network.boot_all([(Suite::Bookworm, "one"), (Suite::Trixie, "two")]));
    for host in [&a, &b] {
        host.start_docker().unwrap();
        host.load_bb().unwrap();
    }
    b.write("/etc/systemd/system/beat.service", "[Service]\nExecStart=/bin/sleep 1000\n").unwrap();
    b.exec(&["systemctl", "daemon-reload"]).unwrap();
    let project = project(
        &a,
        &format!(
            r#"nodes:
  one: {{host: {a}, user: app, labels: {{disk: ssd}}}}
  two: {{host: {b}, user: app, sudo: true, labels: {{disk: ssd}}}}
networks:
  lan: {{type: lan}}
services:
  db:
    type: docker
    image: BB
    host: one
    command: [sh, -c, "mkdir /www; echo content > /www/index.html; exec httpd -f -p 80 -h /www"]
    init: true
    network: lan
    ports: ["0.0.0.0:8080:80"]
    health_check: {{http: "http://127.0.0.1:8080/index.html", interval: 1s}}
  beat: {{type: systemd, unit: beat.service, host: two}}
  joined: {{type: attach, unit: ssh.service, host: two}}
  composed: {{type: compose, file: ./compose.yaml, service: app, host: two}}
  api:
    type: remote
    host: two
    command: [sh, -c, "echo api sees $DB_ADDR ${{db.url}}; curl -s ${{db.url}}/index.html || wget -q -O - ${{db.url}}/index.html; exec sleep 1000"]
    dependencies: [db, beat]
  here:
    type: process
    command: [sh, -c, "echo here sees ${{api.host}} at ${{db.ip}}; exec sleep 1000"]
    dependencies: [api]
  many:
    type: process
    replicas: 3
    placement: {{disk: ssd}}
    command: [sh, -c, "echo $HARNESS_INSTANCE on $HARNESS_NODE; exec sleep 1000"]
"#,
            a = a.name(),
            b = b.name()
        ),
    );
    project.write(
        "compose.yaml",
        &format!("services:\n  app: {{image: '{BB}', init: true, command: [sh, -c, 'echo composed; exec sleep 1000']}}\n"),
    );
    project.ok(&["start"]);
    assert_eq!(project.ok(&["logs", "--no-prefix", "composed"]).stdout, "composed\n");
    let (one, two) = (a.address().to_string(), b.address().to_string());
    assert_eq!(project.logs("here"), [format!("here sees {two} at {one}")]);
    let api = project.ok(&["logs", "--no-prefix", "api"]).stdout;
    assert_eq!(api, format!("api sees {one}:8080 http://{one}:8080\ncontent\n"));
    let mut many: Vec<String> =
        project.ok(&["logs", "--no-prefix", "many"]).stdout.lines().map(str::to_owned).collect();
    many.sort();
    assert_eq!(many, ["many-1 on one", "many-2 on two", "many-3 on one"]);
    // Where they run was chosen: that makes nothing stale.
    let stale = |at: u32| {
        project.instance(&format!("many-{at}"))["stale"].as_array().is_some_and(|it| !it.is_empty())
    };
    assert!(!(1..=3).any(stale));
    for (instance, location, health) in [
        ("db-1", "one", "healthy"),
        ("beat-1", "two", ""),
        ("joined-1", "two", ""),
        ("composed-1", "two", ""),
        ("api-1", "two", ""),
        ("here-1", "local", ""),
    ] {
        let seen = project.instance(instance);
        assert_eq!(
            (seen["state"].as_str(), seen["location"].as_str()),
            (Some("running"), Some(location)),
            "{seen:#}"
        );
        assert_eq!(seen["health"]["status"].as_str().unwrap_or_default(), health);
    }
    // Its checks run there too, also when somebody asks.
    let asked = project.json(&["health", "--run-now", "db"]);
    assert_eq!(asked["instances"][0]["health"]["status"], "healthy", "{asked:#}");
    assert!(
        asked["instances"][0]["health"]["last"]["message"].as_str().is_some_and(|said| said.contains("200")),
        "{asked:#}"
    );
    // A command runs where the service does, whatever that is.
    assert_eq!(project.ok(&["exec", "db", "--", "cat", "/www/index.html"]).stdout, "content\n");
    let exec = project.run(&["exec", "api", "--", "sh", "-c", "echo $HARNESS_NODE; exit 7"]);
    assert_eq!((exec.code, exec.stdout.as_str()), (7, "two\n"), "{}", exec.stderr);
    // Starting it again changes nothing, and one that is drained is left by what may go.
    assert!(project.ok(&["start"]).stderr.contains("unchanged"));
    let drained = project.json(&["node", "drain", "one"]);
    assert_eq!(drained["moving"], serde_json::json!(["many-1", "many-3"]), "{drained:#}");
    until("the drained go to the other node", || {
        ["many-1", "many-3"].iter().all(|name| {
            let seen = project.instance(name);
            seen["location"] == "two" && seen["state"] == "running"
        })
    });
    project.ok(&["stop", "-y"]);
    until("nothing of it runs on either", || left(&a).is_empty() && left(&b).is_empty());
    for host in [&a, &b] {
        assert_eq!(host.exec(&["docker", "ps", "--all", "--quiet"]).unwrap(), "");
    }
    assert!(b.exec(&["systemctl", "is-active", "beat.service"]).is_err());
    b.exec(&["systemctl", "is-active", "ssh.service"]).unwrap();
}

#[test]
fn what_is_cut_off_goes_on_and_everything_of_the_meantime_arrives() {
    let host = require!(Host::boot(Suite::Bookworm, "cut off"));
    let project = project(
        &host,
        &format!(
            "nodes:\n  far: {{host: {}, user: app}}\nservices:\n  db: {{type: remote, host: far, command: {COUNTER}}}\n  \
             here: {{type: process, command: [sleep, '1000'], dependencies: [db]}}\n",
            host.name()
        ),
    );
    project.ok(&["start"]);
    let mut followed = Followed::new(&project, "db");
    followed.until_lines(5);
    let first = on_node(&project, "db-1");
    host.cut().unwrap();
    until("it is told as lost", || project.instance("db-1")["lost_since"].is_string());
    let lost = project.instance("db-1");
    assert_eq!(lost["state"], "running", "nobody has heard that it isn't");
    assert!(!lost["ready"].as_bool().unwrap());
    let listed = project.json(&["node", "list"]);
    assert_eq!(listed["nodes"][0]["known"]["state"], "lost", "{listed:#}");
    // It dies while nobody hears, and the agent starts it anew; the daemon is killed meanwhile.
    host.exec(&["kill", "-KILL", &first.to_string()]).unwrap();
    kill(project.daemon_pid(), "KILL");
    host.wait_until(
        "[ $(cat /home/app/.local/state/harness/agents/*/instances/db-1/*.log | grep -c begin) -ge 2 ]",
    )
    .unwrap();
    let unreachable = project.run(&["start", "--timeout", "10s"]);
    assert_eq!(unreachable.code, 4, "{}", unreachable.stderr);
    assert!(unreachable.stderr.contains("when node far was last heard"), "{}", unreachable.stderr);
    host.heal().unwrap();
    until("it is heard again", || {
        let seen = project.instance("db-1");
        seen["state"] == "running" && seen["pid"].as_u64() != Some(first.into()) && seen["ready"] == true
    });
    let told = events(&project, "db-1");
    let came_back = ["state-changed failed", "state-changed starting", "state-changed running"];
    let at = told.iter().rposition(|event| event == came_back[0]).unwrap_or_else(|| panic!("{told:?}"));
    let after: Vec<&String> = told[at..].iter().filter(|event| event.starts_with("state")).collect();
    assert_eq!(after, came_back, "in {told:?}");
    assert_eq!(told.iter().filter(|event| event.as_str() == came_back[0]).count(), 1, "once: {told:?}");
    let seen = followed.seen.len();
    followed.until_lines(seen + 40);
    assert_eq!(whole(&followed.seen), 2);
    project.ok(&["stop", "-y"]);
    assert_eq!(doubled(&host), "");
}

#[test]
fn agents_sshd_and_machines_may_die() {
    let host = require!(Host::boot(Suite::Trixie, "deaths"));
    let project = project(
        &host,
        &format!(
            "nodes:\n  far: {{host: {}, user: app}}\nservices:\n  db: {{type: remote, host: far, command: {COUNTER}, restart: always}}\n",
            host.name()
        ),
    );
    project.ok(&["start"]);
    let first = on_node(&project, "db-1");
    // The agent: its services go on, the next connection starts another.
    let agent = "cat /home/app/.local/state/harness/agents/*/daemon.lock | tr -c '0-9\\n' ' ' | awk '{print $1; exit}'";
    let pid = host.sh(agent).unwrap().trim().to_owned();
    host.exec(&["kill", "-KILL", &pid]).unwrap();
    until("another agent answers", || {
        host.sh(agent).unwrap().trim() != pid && project.instance("db-1")["lost_since"].is_null()
    });
    until("it is up as before", || project.instance("db-1")["ready"] == true);
    assert_eq!(on_node(&project, "db-1"), first);
    host.exec(&["systemctl", "restart", "ssh"]).unwrap();
    host.sh("for it in /proc/[0-9]*; do tr '\\0' ' ' <$it/cmdline 2>/dev/null | grep -q '^sshd.*app' && kill -KILL ${it#/proc/}; done; true").unwrap();
    until("a new connection is there", || project.instance("db-1")["ready"] == true);
    assert_eq!(on_node(&project, "db-1"), first);
    // The machine: everything there is gone, and comes back.
    host.crash().unwrap();
    host.start().unwrap();
    until("it was started again", || {
        let seen = project.instance("db-1");
        seen["ready"] == true && seen["state"] == "running"
    });
    let exits = project.ok(&["events", "-o", "json"]).stdout;
    // A container's boot is that of its machine: of these deaths only the keepers' is seen.
    assert!(exits.contains("keeper killed"), "{exits}");
    project.ok(&["stop", "-y"]);
    assert_eq!(doubled(&host), "");
}

#[test]
fn a_node_that_cant_be_reached_is_named_with_what_to_do() {
    let host = require!(Host::boot(Suite::Bookworm, "unreachable"));
    let project = project(
        &host,
        &format!(
            "nodes:\n  closed: {{host: {name}, user: app, port: 9}}\n  stranger: {{host: {name}, user: nobody-there}}\n\
             services:\n  a: {{type: remote, host: closed, command: [sleep, '1000']}}\n  \
             b: {{type: remote, host: stranger, command: [sleep, '1000']}}\n  \
             needs-a: {{type: process, command: [sleep, '1000'], dependencies: [a]}}\n  \
             apart: {{type: process, command: [sleep, '1000']}}\n",
            name = host.name()
        ),
    );
    let done = project.run(&["start"]);
    assert_eq!(done.code, 4, "{}", done.stderr);
    for part in [
        "node closed: log in: the host refuses the connection",
        "node stranger: log in: the host refuses the login",
        "needs a, which can't be started",
        "harness node check",
    ] {
        assert!(done.stderr.contains(part), "{part} in {}", done.stderr);
    }
    assert_eq!(project.state("apart-1"), "running", "what is independent of it is started");
    assert_eq!(project.instance("needs-a-1")["summary"], "blocked");
    // It becomes reachable, and goes on by itself.
    host.sh("echo Port 9 >>/etc/ssh/sshd_config; echo Port 22 >>/etc/ssh/sshd_config; systemctl restart ssh")
        .unwrap();
    until("it is started once it can be", || project.instance("needs-a-1")["ready"] == true);
    project.ok(&["stop", "-y"]);
}

#[test]
fn two_daemons_of_one_project_dont_steer_one_agent() {
    let host = require!(Host::boot(Suite::Bookworm, "two daemons"));
    let services = format!(
        "nodes:\n  far: {{host: {}, user: app}}\nservices:\n  db: {{type: remote, host: far, command: {COUNTER}}}\n",
        host.name()
    );
    let project = project(&host, &services);
    project.ok(&["start"]);
    let first = on_node(&project, "db-1");
    // The same file with another state folder: as if the folder were on a disk that two machines share.
    let other = |args: &[&str]| {
        let mut command = project.command(args);
        crate::support::done(command.env("XDG_STATE_HOME", project.path().join("other")).output().unwrap())
    };
    let refused = other(&["start"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    let state = project.state_dir();
    for part in
        ["node far: its agent keeps services of this project for another daemon", state.to_str().unwrap()]
    {
        assert!(refused.stderr.contains(part), "{part} in {}", refused.stderr);
    }
    // Nor does it bring packages there, or change what is current.
    build(&project, "1.0.0", "");
    let to_far = ["deploy", "web-1.0.0.tar.zst", "--to", "far", "-o", "json"];
    for args in [&to_far[..], &["rollback", "web", "--to", "far", "-o", "json"]] {
        let refused = other(args);
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        let why: Value = serde_json::from_str(&refused.stdout).unwrap();
        let why = why["nodes"][0]["error"].as_str().unwrap();
        assert!(why.contains("for another daemon") && why.contains(state.to_str().unwrap()), "{why}");
    }
    host.sh("! ls -d /home/app/.local/share/harness/opt").unwrap();
    project.ok(&to_far);
    host.sh("ls -d /home/app/.local/share/harness/opt/web-1.0.0").unwrap();
    assert_eq!(other(&["stop", "-y"]).code, 0);
    let seen = project.instance("db-1");
    assert_eq!((on_node(&project, "db-1"), seen["ready"].as_bool()), (first, Some(true)));
    // What is stopped belongs to nobody.
    project.ok(&["stop", "-y"]);
    let taken = other(&["start"]);
    assert_eq!(taken.code, 0, "{}", taken.stderr);
    assert_eq!(other(&["stop", "-y"]).code, 0);
    until("nothing of it runs", || left(&host).is_empty());
    assert_eq!(doubled(&host), "");
}

/// Times since boot that a service on a host has written, in seconds. The hosts are containers of one machine: one clock.
fn stamps(host: &Host) -> Vec<f64> {
    let text = host.sh("cat /home/app/.local/state/harness/agents/*/files/stamps 2>/dev/null; true").unwrap();
    text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect()
}

#[test]
fn what_is_rescheduled_is_dead_where_it_was_before_it_lives_elsewhere() {
    let network = require!(Network::create("reschedule"));
    let [a, b] = require!(network.boot_all([(Suite::Bookworm, "one"), (Suite::Trixie, "two")]));
    let project = project(
        &a,
        &format!(
            "nodes:\n  one: {{host: {}, user: app, labels: {{zone: a}}}}\n  two: {{host: {}, user: app, labels: {{zone: a}}}}\n\
             services:\n  web:\n    type: process\n    placement: {{zone: a}}\n    on_node_loss: reschedule\n    shutdown_timeout: 1s\n    \
             command: [sh, -c, \"trap '' TERM; while :; do cat /proc/uptime >>stamps; sleep 0.05; done\"]\n",
            a.name(),
            b.name()
        ),
    );
    project.ok(&["start"]);
    assert_eq!(project.instance("web-1")["location"], "one");
    // Longer than a lease while it is heard: it runs on.
    let begun = *stamps(&a).first().unwrap();
    until("it outlives its first lease", || stamps(&a).last().is_some_and(|last| last - begun > 12.0));
    a.cut().unwrap();
    until("it is lost", || project.instance("web-1")["lost_since"].is_string());
    assert_eq!(stamps(&b), [0.0; 0], "nobody knows yet that it is dead");
    until("it runs elsewhere", || {
        let seen = project.instance("web-1");
        seen["location"] == "two" && seen["ready"] == true && !stamps(&b).is_empty()
    });
    let (last, first) = (*stamps(&a).last().unwrap(), stamps(&b)[0]);
    assert!(last < first, "it ran on one until {last}, and on two from {first}");
    a.heal().unwrap();
    until("the first node is heard again", || {
        let listed = project.json(&["node", "list"]);
        listed["nodes"][0]["known"]["state"] == "up"
    });
    project.ok(&["restart", "web"]);
    assert_eq!(stamps(&a).last(), Some(&last), "it was never started there again");
    assert_eq!(project.instance("web-1")["location"], "two", "and doesn't move back");
    project.ok(&["stop", "-y", "--force"]);
    until("nothing of it runs on either", || left(&a).is_empty() && left(&b).is_empty());
}

/// Numbers that look random and are the same for the same seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % count
    }
}

/// For `HARNESS_CHAOS_SECONDS` (20), with the seed `HARNESS_CHAOS_SEED`: cables are pulled and plugged in again, daemon,
/// agents, keepers and services are killed, commands given. At the end nothing is lost, doubled or left.
#[test]
fn chaos_between_machines_loses_and_doubles_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("HARNESS_CHAOS_SEED").unwrap_or_else(|| u64::from(std::process::id()) | 1);
    let seconds = number("HARNESS_CHAOS_SECONDS").unwrap_or(20);
    let network = require!(Network::create("chaos"));
    let [a, b] = require!(network.boot_all([(Suite::Bookworm, "one"), (Suite::Trixie, "two")]));
    eprintln!("seed {seed}");
    let mut services = String::new();
    for number in 0..4 {
        let node = if number % 2 == 0 { "one" } else { "two" };
        let command = COUNTER.replace(">>lock", &format!(">>lock-{number}"));
        services.push_str(&format!(
            "  far-{number}: {{type: remote, host: {node}, restart: {{policy: always, backoff: {{initial: 50ms, max: 200ms}}}}, \
             logs: {{keep_runs: 500}}, command: {command}}}\n"
        ));
    }
    let project = project(
        &a,
        &format!(
            "nodes:\n  one: {{host: {}, user: app}}\n  two: {{host: {}, user: app}}\nservices:\n{services}",
            a.name(),
            b.name()
        ),
    );
    project.ok(&["start"]);
    let hosts = [&a, &b];
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut cut = [false, false];
    let mut paused = [false, false];
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let mut done: std::collections::BTreeMap<&str, u32> = Default::default();
    while std::time::Instant::now() < end {
        let which = dice.below(2) as usize;
        let victim = |host: &Host, pattern: &str| {
            let script = format!(
                "for it in /proc/[0-9]*; do tr '\\0' ' ' <$it/cmdline 2>/dev/null | grep -q '{pattern}' && echo ${{it#/proc/}}; done; true"
            );
            host.sh(&script).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let kill_one = |dice: &mut Dice, host: &Host, pattern: &str| {
            let found = victim(host, pattern);
            if let Some(pid) = found.get(dice.below(found.len().max(1) as u64) as usize) {
                // Gone by itself meanwhile.
                let _ = host.exec(&["kill", "-KILL", pid]);
            }
        };
        // Nothing can be done on a machine that hangs but let it go on.
        let toss = if paused[which] { 10 } else { dice.below(12) };
        let what = match toss {
            10 => {
                if paused[which] {
                    hosts[which].unpause().unwrap()
                } else {
                    hosts[which].pause().unwrap()
                };
                paused[which] = !paused[which];
                "pause"
            }
            11 if !cut[which] => {
                hosts[which].crash().unwrap();
                hosts[which].start().unwrap();
                "crash"
            }
            0 | 1 => {
                if cut[which] {
                    hosts[which].heal().unwrap()
                } else {
                    hosts[which].cut().unwrap()
                };
                cut[which] = !cut[which];
                "cable"
            }
            2 => {
                kill_one(&mut dice, hosts[which], "daemon [r]un");
                "agent"
            }
            3 => {
                kill_one(&mut dice, hosts[which], "daemon [b]ridge");
                "bridge"
            }
            4 | 5 => {
                kill_one(&mut dice, hosts[which], "exec 9>>[l]ock");
                "service"
            }
            6 => {
                let status = project.json(&["daemon", "status"]);
                if let Some(pid) = status["daemon"]["pid"].as_u64() {
                    kill(pid as u32, "KILL");
                }
                "daemon"
            }
            7 => {
                project.run(&["restart", &format!("far-{}", dice.below(4)), "--timeout", "1s"]);
                "restart"
            }
            8 => {
                project.run(&["stop", &format!("far-{}", dice.below(4)), "--timeout", "1s"]);
                "stop"
            }
            _ => {
                project.run(&["start", "--timeout", "1s"]);
                "start"
            }
        };
        *done.entry(what).or_default() += 1;
        std::thread::park_timeout(std::time::Duration::from_millis(dice.below(600)));
    }
    for ((host, cut), paused) in hosts.iter().zip(cut).zip(paused) {
        if paused {
            host.unpause().unwrap();
        }
        if cut {
            host.heal().unwrap();
        }
    }
    eprintln!("{done:?}");
    until("everything is up again", || {
        let started = project.run(&["start", "--timeout", "5s"]);
        started.code == 0
    });
    let mut lives = 0;
    for number in 0..4 {
        let log = project.ok(&["logs", "--no-prefix", &format!("far-{number}")]).stdout;
        let seen: Vec<String> = log.lines().map(str::to_owned).collect();
        assert!(!seen.iter().any(|line| line.contains("doubled")), "far-{number}, seed {seed}");
        lives += whole(&seen);
    }
    eprintln!("{lives} lives, every line of which is there once");
    project.ok(&["stop", "-y"]);
    until("nothing of it runs on either", || left(&a).is_empty() && left(&b).is_empty());
    for host in hosts {
        assert_eq!(doubled(host), "", "two copies lived at once; seed {seed}");
    }
}

//! Agents of other machines: brought up from nothing, found again, exchanged, and everything that can go wrong on the way.

use crate::support::{Done, Project, done};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use test_hosts::{Host, Network, Suite, require};

/// The folder of agents in a user's home.
const AGENTS: &str = ".local/state/harness/agents";

/// A project with a folder of programs for its agents.
struct Stack {
    project: Project,
    programs: PathBuf,
}

impl Stack {
    /// A project with these nodes, as YAML.
    fn new(nodes: &str) -> Self {
        Self::with(nodes, "  web: {type: process, command: [sleep, '1000']}\n")
    }

    /// The same, with these services.
    fn with(nodes: &str, services: &str) -> Self {
        let project = Project::new(&format!("nodes:\n{nodes}services:\n{services}"));
        let programs = project.path().join("programs");
        std::fs::create_dir(&programs).unwrap();
        let stripped = Command::new("strip")
            .arg("-o")
            .arg(program(&programs))
            .arg(env!("CARGO_BIN_EXE_harness"))
            .output();
        if !stripped.is_ok_and(|output| output.status.success()) {
            std::fs::copy(env!("CARGO_BIN_EXE_harness"), program(&programs)).unwrap();
        }
        Self { project, programs }
    }

    fn run(&self, host: &Host, args: &[&str]) -> Done {
        let mut command = self.project.command(args);
        command.env("HARNESS_SSH_CONFIG", host.ssh_config()).env("HARNESS_AGENT_DIR", &self.programs);
        done(command.output().unwrap())
    }

    /// Brings up a node's agent; what `up` says of it.
    #[track_caller]
    fn up(&self, host: &Host, node: &str) -> Value {
        let done = self.run(host, &["node", "up", node, "-o", "json"]);
        assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
        let document: Value = serde_json::from_str(&done.stdout).unwrap();
        document["nodes"][0].clone()
    }

    /// Another program: one with another hash that does the same.
    fn change_program(&self) {
        let path = program(&self.programs);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.push(0);
        std::fs::write(&path, bytes).unwrap();
    }
}

/// The file of this machine's kind of program.
fn program(folder: &Path) -> PathBuf {
    folder.join(format!("harness-{}", std::env::consts::ARCH))
}

/// A node that is this host, as that user, with more keys.
fn node(name: &str, host: &Host, user: &str, more: &str) -> String {
    format!("  {name}: {{host: {}, user: {user}{more}}}\n", host.name())
}

#[test]
fn an_agent_is_brought_up_from_nothing_and_found_again() {
    let host = require!(Host::boot(Suite::Bookworm, "agent from nothing"));
    let stack = Stack::new(&node("app", &host, "app", ""));
    let first = stack.up(&host, "app");
    eprintln!("from nothing: {} ms, {} bytes", first["milliseconds"], first["agent"]["copied"]);
    let agent = &first["agent"];
    assert!(agent["copied"].as_u64().is_some_and(|count| count > 0), "{first:#}");
    assert_eq!(agent["far"], host.address().to_string());
    assert_eq!(agent["near"], host.network().gateway().to_string());
    let folder = agent["state_dir"].as_str().unwrap();
    assert!(folder.starts_with(&format!("/home/app/{AGENTS}/")), "{folder}");
    let modes = host.sh(&format!("stat -c '%a %U' {folder} {folder}/bin/harness-*")).unwrap();
    assert_eq!(modes, "700 app\n700 app");

    let checked = stack.run(&host, &["node", "check", "app"]);
    let said = format!("✓ agent        {}, pid {}\n", env!("CARGO_PKG_VERSION"), agent["pid"]);
    assert!(checked.stdout.contains(&said), "{}", checked.stdout);
    let again = stack.up(&host, "app");
    eprintln!("found again: {} ms", again["milliseconds"]);
    assert_eq!(again["agent"]["copied"], Value::Null);
    assert_eq!((&again["agent"]["pid"], &again["agent"]["build"]), (&agent["pid"], &agent["build"]));
    host.wait_until("! pgrep -f '[d]aemon bridge'").unwrap();
}

/// Runs the agent's own program on the node as `app`, with the agent's folder as the project's state: what is started runs
/// under the agent. Project files lie there where they lie here.
fn under_agent(stack: &Stack, host: &Host, args: &str) -> String {
    let folder = stack.project.path().display();
    let services = stack.project.read("services.yaml");
    host.write(&format!("{folder}/services.yaml"), &services).unwrap();
    let script = format!(
        "chmod 755 {folder} && mkdir -p /srv/alias && ln -sfn /home/app/{AGENTS} /srv/alias/harness && cd {folder} && \
         exec runuser -u app -- env HOME=/home/app XDG_STATE_HOME=/srv/alias \
         sh -c 'exec $(ls -t /srv/alias/harness/*/bin/harness-* | head -1) {args}'"
    );
    host.sh(&script).unwrap()
}

#[test]
fn another_program_takes_over_and_services_keep_their_processes() {
    let host = require!(Host::boot(Suite::Trixie, "agent exchanged"));
    let stack = Stack::new(&node("app", &host, "app", ""));
    let first = stack.up(&host, "app");
    under_agent(&stack, &host, "start web");
    let pid = || {
        let status: Value = serde_json::from_str(&under_agent(&stack, &host, "status -o json")).unwrap();
        status["instances"][0]["pid"].as_u64().unwrap_or_else(|| panic!("{status:#}"))
    };
    let web = pid();
    let older = host.sh(&format!("ls /home/app/{AGENTS}/*/bin")).unwrap();
    assert_eq!(stack.up(&host, "app")["agent"]["running"], 1);
    stack.change_program();
    let checked = stack.run(&host, &["node", "check", "app"]);
    assert!(checked.stdout.contains("another build than this"), "{}", checked.stdout);
    let second = stack.up(&host, "app");
    assert!(second["agent"]["copied"].is_number(), "{second:#}");
    assert_ne!(second["agent"]["build"], first["agent"]["build"]);
    assert_ne!(second["agent"]["pid"], first["agent"]["pid"]);
    assert_eq!(second["agent"]["running"], 1);
    assert_eq!(pid(), web);
    let programs = || host.sh(&format!("ls /home/app/{AGENTS}/*/bin | wc -l")).unwrap();
    stack.up(&host, "app");
    assert_eq!(programs(), "2", "the older one still runs a keeper");
    under_agent(&stack, &host, "stop web");
    host.wait_until(&format!("! kill -0 {web}")).unwrap();
    host.wait_until(&format!("! ls -l /proc/[0-9]*/exe 2>/dev/null | grep -F {older}")).unwrap();
    stack.up(&host, "app");
    assert_eq!(programs(), "1", "nothing uses the older one");
}

/// What `up` says of a node whose agent can't be brought up, which leaves nothing there.
#[track_caller]
fn refused(stack: &Stack, host: &Host, node: &str) -> Value {
    let done = stack.run(host, &["node", "up", node, "-o", "json"]);
    assert_eq!(done.code, 4, "{}\n{}", done.stdout, done.stderr);
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    let outcome = document["nodes"][0].clone();
    assert_eq!(outcome["node"], node);
    let left = host.sh("find /home /root -name 'harness*' -o -name 'new-*'").unwrap();
    assert_eq!(left, "", "{outcome:#}");
    outcome["error"].clone()
}

/// Holds what was said against what is expected: step, a part of the message, a part of the fix, whether it may pass.
#[track_caller]
fn says(error: &Value, step: &str, message: &str, hint: &str, passing: bool) {
    let holds = |key: &str, part: &str| error[key].as_str().is_some_and(|text| text.contains(part));
    assert!(
        error["step"] == step
            && holds("message", message)
            && holds("hint", hint)
            && error["passing"] == passing,
        "{error:#}"
    );
}

#[test]
fn a_login_that_fails_is_told_as_such() {
    let host = require!(Host::boot(Suite::Bookworm, "agent logins"));
    let stack = Stack::new(
        &[
            node("key", &host, "app", ", identity_file: other"),
            node("closed", &host, "app", ", port: 9"),
            node("plain", &host, "plain", ", sudo: true"),
            node("password", &host, "pw", ", sudo: true"),
            node("nologin", &host, "nobody", ""),
            "  unknown: {host: no-such-host.invalid}\n".to_owned(),
        ]
        .concat(),
    );
    let other = stack.project.path().join("other");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&other).status();
    assert!(made.unwrap().success());
    // The configuration names a key of its own; here only the node's counts.
    let config = std::fs::read_to_string(host.ssh_config()).unwrap();
    let without: String = config
        .lines()
        .filter(|line| !line.contains("IdentityFile"))
        .map(|line| format!("{line}\n"))
        .collect();
    let keyless = stack.project.write("ssh_keyless", &without);
    let done = done(
        stack
            .project
            .command(&["node", "up", "key", "-o", "json"])
            .env("HARNESS_SSH_CONFIG", keyless)
            .env("HARNESS_AGENT_DIR", &stack.programs)
            .output()
            .unwrap(),
    );
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    says(&document["nodes"][0]["error"], "log in", "refuses the login", "ssh -v", false);
    says(&refused(&stack, &host, "closed"), "log in", "refuses the connection", "sshd runs there", true);
    says(&refused(&stack, &host, "unknown"), "log in", "name is unknown", "ssh_config or DNS", false);
    says(&refused(&stack, &host, "plain"), "become root", "sudo", "/etc/sudoers.d/harness", false);
    says(&refused(&stack, &host, "password"), "become root", "sudo", "/etc/sudoers.d/harness", false);

    // A user whose shell only says goodbye.
    host.sh("usermod --shell /usr/sbin/nologin plain").unwrap();
    let shell = Stack::new(&node("shell", &host, "plain", ""));
    says(&refused(&shell, &host, "shell"), "log in", "not available", "sh", false);

    // The host has another key than the known one.
    let known = std::fs::read_to_string(host.known_hosts()).unwrap();
    let key = std::fs::read_to_string(other.with_extension("pub")).unwrap();
    let key: Vec<&str> = key.split_whitespace().take(2).collect();
    let forged: String = known
        .lines()
        .map(|line| format!("{} {}\n", line.split(' ').next().unwrap(), key.join(" ")))
        .collect();
    let forged = stack.project.write("forged", &forged);
    let config = config.replace(&host.known_hosts().display().to_string(), &forged.display().to_string());
    let config = stack.project.write("ssh_forged", &config);
    let changed = Stack::new(&node("app", &host, "app", ""));
    let output = changed.project.command(&["node", "up"]).env("HARNESS_SSH_CONFIG", config).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("app") && text.contains("log in: the host's key has changed"), "{text}");
    assert!(text.contains("ssh-keygen -R"), "{text}");
}

#[test]
fn a_folder_that_will_not_do_is_told_as_such() {
    let host = require!(Host::boot(Suite::Trixie, "agent folders"));
    let stack = Stack::new(&node("app", &host, "app", ""));
    let with = |options: &str| {
        let script = "umount /home/app/.local 2>/dev/null; install -d -o app /home/app/.local &&
                      mount -t tmpfs -o";
        host.sh(&format!("{script} uid=$(id -u app),mode=755,{options} tmpfs /home/app/.local")).unwrap();
        refused(&stack, &host, "app")
    };
    says(&with("size=1m"), "copy the agent", "are free there, the agent needs", "make room", false);
    says(&with("size=0,nr_inodes=3"), "look around", "there is no room", "make room", false);
    says(&with("ro"), "look around", "Read-only file system", "XDG_STATE_HOME", false);
    says(&with("noexec"), "look around", "noexec", "without noexec", false);
    // Room is only missing when it is too late: df tells another story.
    host.write("/usr/local/bin/df", "#!/bin/sh\necho head\necho tmpfs 9 9 999999999 9% /\n").unwrap();
    host.sh("chmod 755 /usr/local/bin/df").unwrap();
    says(&with("size=2m"), "copy the agent", "there is no room", "make room", false);
    host.sh("umount /home/app/.local; rm /usr/local/bin/df").unwrap();
    stack.up(&host, "app");
}

#[test]
fn a_machine_that_cant_run_the_program_is_told_as_such() {
    let host = require!(Host::boot(Suite::Bookworm, "agent programs"));
    let stack = Stack::new(&node("app", &host, "app", ""));
    let fake = |name: &str, text: &str| {
        let path = format!("/usr/local/bin/{name}");
        host.write(&path, &format!("#!/bin/sh\n{text}\n")).unwrap();
        host.sh(&format!("chmod 755 {path}")).unwrap();
    };
    fake("uname", "echo aarch64");
    let error = refused(&stack, &host, "app");
    says(&error, "look around", "the machine is aarch64", "cargo xtask agent --target aarch64", false);
    // With a program for it there, that one is taken; it can't run here, of course.
    std::fs::write(stack.programs.join("harness-aarch64"), b"\x7fELF of another kind").unwrap();
    let error = refused(&stack, &host, "app");
    says(&error, "copy the agent", "the agent doesn't run there", "cargo xtask agent", false);
    host.sh("rm /usr/local/bin/uname").unwrap();
    // Damaged on the way.
    fake("head", "shift; shift; /usr/bin/head -c 1000");
    says(&refused(&stack, &host, "app"), "copy the agent", "", "try again", true);
    host.sh("rm /usr/local/bin/head").unwrap();
    fake("sha256sum", "exit 1");
    says(&refused(&stack, &host, "app"), "copy the agent", "isn't what was sent", "try again", true);
    host.sh("rm /usr/local/bin/sha256sum").unwrap();
    std::fs::write(program(&stack.programs), "#!/bin/sh\necho 'GLIBC_2.99 not found' >&2\nexit 1\n").unwrap();
    let error = refused(&stack, &host, "app");
    says(&error, "copy the agent", "GLIBC_2.99 not found", "cargo xtask agent", false);
}

#[test]
fn noise_limits_and_other_projects_dont_disturb() {
    let host = require!(Host::boot(Suite::Trixie, "agent noise"));
    host.write("/etc/ssh/banner", "Authorised use only.\n\nhave a nice day\n").unwrap();
    host.write(
        "/home/app/.bashrc",
        "echo 'Welcome!'; for i in 1 2 3; do echo noise >&2; done\nprintf 'last login: never'\n",
    )
    .unwrap();
    host.sh("printf 'Banner /etc/ssh/banner\nMaxSessions 1\n' > /etc/ssh/sshd_config.d/00-noise.conf &&
         usermod --shell /bin/bash app && systemctl restart ssh")
        .unwrap();
    let nodes = [node("app", &host, "app", ""), node("root", &host, "app", ", sudo: true")].concat();
    let (one, two) = (Stack::new(&nodes), Stack::new(&nodes));
    let pid = |stack: &Stack, node: &str| stack.up(&host, node)["agent"]["pid"].clone();
    let pids = [pid(&one, "app"), pid(&two, "app"), pid(&one, "root")];
    assert_eq!(
        host.sh(&format!("ls /home/app/{AGENTS} | wc -l; ls ~root/{AGENTS} | wc -l")).unwrap(),
        "2\n1"
    );
    assert_eq!([pid(&one, "app"), pid(&two, "app"), pid(&one, "root")], pids, "each goes on with its own");
    assert_eq!(host.sh(&format!("stat -c %U /proc/{}/exe", pids[2])).unwrap(), "root");
    let checked = one.run(&host, &["node", "check", "root"]);
    assert!(checked.stdout.contains(&format!("pid {}\n", pids[2])), "root's is seen too: {}", checked.stdout);
    let agent = one.up(&host, "root")["agent"].clone();
    assert_eq!(agent["near"], host.network().gateway().to_string(), "also through sudo");
}

#[test]
fn a_node_behind_two_jump_hosts_has_its_agent_and_three_come_up_at_once() {
    let lan = require!(Network::create("agents behind"));
    let hosts = [(Suite::Bookworm, "a"), (Suite::Trixie, "b"), (Suite::Bookworm, "c")];
    let [a, b, c] = require!(lan.boot_all(hosts));
    let stack = Stack::new(
        &[node("a", &a, "app", ""), node("b", &b, "app", ", jump: a"), node("c", &c, "app", ", jump: b")]
            .concat(),
    );
    let done = stack.run(&a, &["node", "up", "-o", "json"]);
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    let times: Vec<&Value> =
        document["nodes"].as_array().unwrap().iter().map(|node| &node["milliseconds"]).collect();
    eprintln!("three at once, behind none, one and two: {times:?} ms");
    let far = |at: usize| document["nodes"][at]["agent"]["far"].clone();
    assert_eq!((far(0), far(1), far(2)), (a.address().to_string().into(), Value::Null, Value::Null));
    c.sh(&format!("ls /home/app/{AGENTS}/*/run/harness.sock")).unwrap();
    // One of them away doesn't hold up the others.
    b.crash().unwrap();
    let done = stack.run(&a, &["node", "up", "-o", "json"]);
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(document["nodes"][0]["error"], Value::Null);
    for at in [1, 2] {
        let error = &document["nodes"][at]["error"];
        assert!(error["step"] == "log in" && error["passing"] == true, "{error:#}");
    }
}

#[test]
fn an_agent_is_removed_with_all_that_it_runs_and_stays_away() {
    let host = require!(Host::boot(Suite::Bookworm, "agent removed"));
    let nodes = [node("app", &host, "app", ""), node("root", &host, "app", ", sudo: true")].concat();
    let stack = Stack::with(
        &nodes,
        "  web: {type: process, command: [sleep, '1001'], host: app}\n  near: {type: process, command: [sleep, '1000']}\n",
    );
    let run = |args: &[&str]| stack.run(&host, args);
    let none = run(&["node", "remove", "app", "-y"]);
    assert!(none.code == 0 && none.stdout.contains("has no agent"), "{}\n{}", none.stdout, none.stderr);
    let started = run(&["start"]);
    assert_eq!(started.code, 0, "{}\n{}", started.stdout, started.stderr);
    stack.up(&host, "root");
    host.sh("pgrep -fx 'sleep 1001'").unwrap();
    let refused = run(&["node", "remove", "app"]);
    assert!(refused.code == 2 && refused.stderr.contains("web-1"), "{}", refused.stderr);
    let removed = run(&["node", "remove", "app", "root", "-y"]);
    assert_eq!(removed.code, 0, "{}\n{}", removed.stdout, removed.stderr);
    assert!(removed.stderr.contains("delete line 4"), "{}", removed.stderr);
    let gone = "! pgrep -u app,root '^harness' && ! pgrep -fx 'sleep 1001'";
    host.wait_until(gone).unwrap();
    assert_eq!(host.sh("find /home /root -name 'harness*'").unwrap(), "");
    // What is here goes on, under a daemon that leaves the nodes alone.
    assert_eq!(stack.project.state("near-1"), "running");
    assert_eq!(host.sh("find /home /root -name 'harness*'").unwrap(), "");
}

#[test]
fn several_who_bring_up_the_same_agent_at_once_share_it() {
    let host = require!(Host::boot(Suite::Bookworm, "agent at once"));
    let stack = Stack::new(&node("app", &host, "app", ""));
    let agents: Vec<Value> = std::thread::scope(|threads| {
        let all: Vec<_> = (0..4).map(|_| threads.spawn(|| stack.up(&host, "app")["agent"].clone())).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for agent in &agents {
        assert_eq!((&agent["pid"], &agent["build"]), (&agents[0]["pid"], &agents[0]["build"]), "{agents:#?}");
    }
    assert_eq!(host.sh(&format!("ls /home/app/{AGENTS}/*/bin | wc -l")).unwrap(), "1", "no copy is left");
}

#[test]
fn an_agent_outlives_sessions_that_take_their_processes_with_them() {
    let host = require!(Host::boot(Suite::Trixie, "agent sessions"));
    host.write("/etc/systemd/logind.conf.d/kill.conf", "[Login]\nKillUserProcesses=yes\n").unwrap();
    host.sh("systemctl restart systemd-logind").unwrap();
    let stack =
        Stack::new(&[node("app", &host, "app", ""), node("root", &host, "app", ", sudo: true")].concat());
    let error = refused(&stack, &host, "app");
    says(&error, "look around", "KillUserProcesses", "loginctl enable-linger app", false);
    let checked = stack.run(&host, &["node", "check", "app"]);
    assert!(checked.stdout.contains("✗ sessions"), "{}", checked.stdout);
    host.sh("loginctl enable-linger app").unwrap();
    let checked = stack.run(&host, &["node", "check", "app"]);
    assert!(!checked.stdout.contains("sessions"), "{}", checked.stdout);
    for node in ["app", "root"] {
        let first = stack.up(&host, node)["agent"]["pid"].clone();
        host.wait_until("! loginctl --no-legend list-sessions | grep -v manager | grep -q ' app '").unwrap();
        assert_eq!(stack.up(&host, node)["agent"]["pid"], first, "{node}");
        let cgroup = host.sh(&format!("cat /proc/{first}/cgroup")).unwrap();
        assert!(!cgroup.contains("/session-"), "{cgroup}");
    }
}

#[test]
fn a_host_with_too_many_logins_is_asked_again() {
    let host = require!(Host::boot(Suite::Bookworm, "agent crowd"));
    host.sh("echo 'MaxStartups 2' > /etc/ssh/sshd_config.d/00-few.conf && systemctl restart ssh").unwrap();
    let nodes: Vec<String> = (0..6).map(|number| node(&format!("n{number}"), &host, "app", "")).collect();
    let done = Stack::new(&nodes.concat()).run(&host, &["node", "up"]);
    assert_eq!(done.code, 0, "{}", done.stdout);
    let log = host.sh("journalctl -o cat _COMM=sshd").unwrap();
    assert!(log.contains("MaxStartups"), "none was refused: {log}");
}

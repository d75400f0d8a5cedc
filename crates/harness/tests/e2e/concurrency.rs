//! Several commands at once, in each other's way, and a machine that gives less than it should: never a second copy of
//! anything, and messages that name who or what is in the way.

use crate::support::{Done, LOCKED, Project, alive, done, kill, until};
use std::process::{Command, Stdio};
use std::thread;

/// A stack of services that hold locks.
fn locked(names: &[&str]) -> Project {
    let services = names.iter().map(|name| {
        format!("  {name}: {{ type: process, command: {LOCKED}, restart: {{ policy: always, reset_after: 0s }} }}\n")
    });
    Project::new(&format!("services:\n{}", services.collect::<String>()))
}

/// Runs commands at the same moment.
fn together(project: &Project, commands: &[&[&str]]) -> Vec<Done> {
    let barrier = std::sync::Barrier::new(commands.len());
    thread::scope(|scope| {
        let running: Vec<_> = commands
            .iter()
            .map(|args| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    project.run(args)
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// How many processes hold the lock of a [`LOCKED`] instance.
fn copies(project: &Project, instance: &str) -> usize {
    let marker = format!("HARNESS_INSTANCE={instance}");
    let of = |pid: &u32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|pair| pair == marker.as_bytes())
    };
    project.processes().iter().filter(|pid| of(pid)).count()
}

/// Processes that this project's state folder was named to: its daemon.
fn daemons(project: &Project) -> Vec<u32> {
    let folder = project.state_dir().display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.contains(&&b"daemon"[..]) && words.contains(&folder.as_bytes()) && alive(*pid)
        })
        .collect()
}

#[test]
fn two_starts_at_once_share_one_daemon_and_one_copy() {
    for _ in 0..3 {
        let project = locked(&["a", "b", "c"]);
        for done in together(&project, &[&["start"], &["start"], &["start"]]) {
            assert_eq!(done.code, 0, "{}", done.stderr);
        }
        assert_eq!(daemons(&project).len(), 1);
        for name in ["a-1", "b-1", "c-1"] {
            assert_eq!((project.state(name), copies(&project, name)), ("running".into(), 1));
            assert_eq!(project.records(name).len(), 1, "started once");
        }
        project.assert_never_doubled();
    }
}

#[test]
fn a_start_during_a_stop_ends_with_everything_running_or_everything_stopped() {
    let project = Project::new(
        r#"
services:
  slow:
    type: process
    command: [sh, -c, "trap 'echo asked > asked; sleep 0.3; exit 0' TERM; echo up > up; while :; do sleep 0.01; done"]
  other: { type: process, command: sleep 1000 }
"#,
    );
    project.ok(&["start"]);
    project.wait_for("up");
    let old = project.pid("slow-1");
    let stop =
        project.command(&["stop", "slow"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    project.wait_for("asked");
    let start = project.run(&["start"]);
    assert_eq!(start.code, 0, "{}", start.stderr);
    let stop = done(stop.wait_with_output().unwrap());
    assert_eq!(stop.code, 1, "{}", stop.stderr);
    assert!(stop.stderr.contains("slow-1 was started again meanwhile"), "{}", stop.stderr);
    let new = project.pid("slow-1");
    assert!(new != old && !alive(old), "the old copy ended before the new one began");
    assert_eq!(project.state("slow-1"), "running");
    let runs = project.records("slow-1");
    let moment = |text: &serde_json::Value| -> jiff::Timestamp { text.as_str().unwrap().parse().unwrap() };
    assert!(moment(&runs[0]["state"]["exited"]["ended_at"]) <= moment(&runs[1]["started_at"]), "{runs:#?}");
}

#[test]
fn a_start_of_all_during_a_stop_of_all_leaves_no_half() {
    let project = locked(&["a", "b", "c", "d"]);
    for _ in 0..3 {
        project.ok(&["start"]);
        let done = together(&project, &[&["stop"], &["start"]]);
        assert!(matches!(done[0].code, 0 | 1), "{}", done[0].stderr);
        assert!(matches!(done[1].code, 0 | 3), "{}", done[1].stderr);
        let names = ["a-1", "b-1", "c-1", "d-1"];
        // Whichever came last has its way; both said what became of it.
        until("it is all one or the other", || {
            let running = names.iter().filter(|name| copies(&project, name) == 1).count();
            running == 0 || running == names.len()
        });
        assert!(done.iter().any(|done| done.code == 0), "{}\n{}", done[0].stderr, done[1].stderr);
        project.assert_never_doubled();
    }
}

#[test]
fn two_stops_at_once_both_end_well() {
    let project = locked(&["a", "b"]);
    for _ in 0..3 {
        project.ok(&["start"]);
        for done in together(&project, &[&["stop"], &["stop"]]) {
            assert_eq!(done.code, 0, "{}", done.stderr);
        }
        assert!(project.processes().is_empty());
    }
}

#[test]
fn a_stop_during_a_start_ends_the_start_and_leaves_nothing() {
    let project = Project::new(
        r#"
services:
  never:
    type: process
    command: [sh, -c, "echo up > up; exec sleep 1000"]
    health_check: { command: "false", interval: 20ms }
  after: { type: process, command: sleep 1000, dependencies: [never] }
"#,
    );
    let start = project.command(&["start"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    project.wait_for("up");
    project.ok(&["stop"]);
    let start = done(start.wait_with_output().unwrap());
    assert_ne!(start.code, 0, "it doesn't claim that anything is ready: {}", start.stderr);
    assert!(project.processes().is_empty());
}

#[test]
fn a_second_daemon_names_the_first() {
    let project = locked(&["a"]);
    project.ok(&["start"]);
    let pid = project.daemon_pid();
    let second = project.run(&["daemon", "run"]);
    assert_eq!(second.code, 1, "{}", second.stderr);
    assert!(second.stderr.contains(&format!("pid {pid}")), "{}", second.stderr);
    assert!(second.stderr.contains("hint"), "{}", second.stderr);
    assert_eq!(project.daemon_pid(), pid);
    assert_eq!(project.state("a-1"), "running");
}

#[test]
fn stale_sockets_are_in_nobodys_way() {
    let project = locked(&["a"]);
    project.ok(&["start"]);
    let (pid, socket) = (project.pid("a-1"), project.state_dir().join("run/harness.sock"));
    kill(project.daemon_pid(), "KILL");
    until("the daemon is gone", || daemons(&project).is_empty());
    assert!(socket.exists(), "a killed daemon leaves its socket");
    project.ok(&["start"]);
    assert_eq!(project.pid("a-1"), pid);
    // What isn't a socket isn't ours to remove.
    project.ok(&["stop"]);
    std::fs::write(&socket, "precious").unwrap();
    let refused = project.run(&["start"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains(&*socket.to_string_lossy()), "{}", refused.stderr);
    assert_eq!(std::fs::read(&socket).unwrap(), b"precious");
    std::fs::remove_file(&socket).unwrap();
    project.ok(&["start"]);
    project.assert_never_doubled();
}

#[test]
fn a_state_folder_that_is_not_writable_is_named() {
    let project = locked(&["a"]);
    let state = project.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let mut command = if rustix::process::geteuid().is_root() {
        // Root may write anywhere: someone else tries, with a copy of the program that they can reach.
        let program = project.path().join("harness");
        std::fs::copy(env!("CARGO_BIN_EXE_harness"), &program).unwrap();
        mode(project.path(), 0o755);
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).arg("start");
        command.current_dir(project.path()).env("XDG_STATE_HOME", &state).env("HOME", project.path());
        command.stdin(Stdio::null());
        command
    } else {
        mode(&state, 0o555);
        project.command(&["start"])
    };
    let refused = done(command.output().unwrap());
    mode(&state, 0o755);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains(&*state.to_string_lossy()), "{}", refused.stderr);
    assert!(refused.stderr.contains("denied") && refused.stderr.contains("hint"), "{}", refused.stderr);
    assert!(project.processes().is_empty());
}

fn mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_full_disk_costs_log_lines_that_are_counted_and_nothing_else() {
    let project = Project::new(
        r#"
services:
  writer:
    type: process
    logs: { max_size: 64MiB }
    command: [sh, -c, "seq -f '%0999.0f' 1 4000; echo written > written; while [ ! -e freed ]; do sleep 0.01; done; echo after; exec sleep 1000"]
"#,
    );
    // The folder of the logs becomes a disk of 1 MiB, for this project's processes only.
    let script = r#"
        set -e
        mount -t tmpfs -o size=1m tmpfs "$2"
        "$1" start
        while [ ! -e written ]; do sleep 0.02; done
        "$1" status -o json > full.json
        df -k --output=avail "$2" > df.txt
        rm -f "$2"/*/*.log.*
        mount -o remount,size=16m "$2"
        touch freed
        n=0
        while ! "$1" logs --no-prefix -n 1 writer | grep -q '^after$'; do n=$((n+1)); [ $n -lt 400 ]; sleep 0.02; done
        "$1" logs --no-prefix -n 10000 writer > lines.txt
        "$1" stop
        cat "$2"/writer-1/*.json > record.json
    "#;
    project.write("freed", "");
    project.ok(&["start"]);
    let zygote = project.zygote_pid("writer-1");
    project.ok(&["stop"]);
    // It lives on for a while, and would see the folder below the disk.
    kill(zygote, "KILL");
    until("the zygote is gone", || !alive(zygote));
    let instances = project.state_dir().join("instances");
    for name in ["written", "freed"] {
        let _ = std::fs::remove_file(project.path().join(name));
    }
    let mut command = Command::new("unshare");
    let flags = if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" };
    command.args([flags, "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_harness")]).arg(&instances);
    let plain = project.command(&[]);
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(project.path()).stdin(Stdio::null());
    let ran = done(command.output().unwrap());
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);

    let full: serde_json::Value = serde_json::from_str(&project.read("full.json")).unwrap();
    assert_eq!(full["instances"][0]["state"], "running", "it never noticed: {full:#}");
    let record: serde_json::Value = serde_json::from_str(&project.read("record.json")).unwrap();
    let gaps = record["gaps"].as_array().unwrap();
    assert!(!gaps.is_empty(), "{record:#}");
    assert!(gaps.iter().all(|gap| gap["reason"].as_str().unwrap().contains("disk full")), "{record:#}");
    let lost: u64 = gaps.iter().filter_map(|gap| gap["bytes"].as_u64()).sum();
    let kept: u64 = project.read("lines.txt").lines().map(|line| line.len() as u64 + 1).sum();
    let written = 4000 * 1000 + "after\n".len() as u64;
    assert_eq!(lost + kept, written, "each byte is in the log or counted: {lost} + {kept}");
}

/// A mount namespace in which the daemon's store lies on a disk of 48 MiB.
struct SmallDisk<'a> {
    project: &'a Project,
    holder: std::process::Child,
}

impl<'a> SmallDisk<'a> {
    /// The project must have been started once, and be stopped.
    fn under_the_store(project: &'a Project) -> Self {
        use std::io::BufRead;
        let script = r#"
            set -e
            mkdir "$1/store"
            mount -t tmpfs -o size=48m,mode=700 tmpfs "$1/store"
            mv "$1/registry.redb" "$1/store/"
            ln -s store/registry.redb "$1/registry.redb"
            echo mounted
            exec sleep 1000
        "#;
        let root = rustix::process::geteuid().is_root();
        let mut command = Command::new("unshare");
        command.args([if root { "-m" } else { "-Urm" }, "sh", "-c", script, "sh"]).arg(project.state_dir());
        let mut holder = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n");
        Self { project, holder }
    }

    /// Runs a program in it.
    fn run(&self, words: &[&str]) -> Done {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-m"]);
        if !rustix::process::geteuid().is_root() {
            command.args(["-U", "--preserve-credentials"]);
        }
        command.arg(format!("--wd={}", self.project.path().display())).args(words);
        let plain = self.project.command(&[]);
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        done(command.stdin(Stdio::null()).output().unwrap())
    }

    fn harness(&self, args: &[&str]) -> Done {
        self.run(&[&[env!("CARGO_BIN_EXE_harness")], args].concat())
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Done {
        let done = self.harness(args);
        assert_eq!(done.code, 0, "harness {args:?}\n{}\n{}", done.stdout, done.stderr);
        done
    }

    /// What `status` says of an instance.
    fn instance(&self, name: &str) -> serde_json::Value {
        let status: serde_json::Value =
            serde_json::from_str(&self.ok(&["status", "-o", "json"]).stdout).unwrap();
        let instances = status["instances"].as_array().unwrap();
        instances.iter().find(|instance| instance["instance"] == name).cloned().unwrap_or_default()
    }

    fn daemon(&self) -> u32 {
        let status = self.ok(&["daemon", "status", "-o", "json"]).stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["daemon"]["pid"].as_u64().unwrap() as u32
    }

    fn fill(&self) {
        let filler = self.project.state_dir().join("store/filler");
        let cat = format!("cat /dev/zero > '{}'", filler.display());
        let full = self.run(&["sh", "-c", &cat]);
        assert!(full.stderr.contains("No space left"), "{}", full.stderr);
    }

    fn empty(&self) {
        let filler = self.project.state_dir().join("store/filler");
        assert_eq!(self.run(&["rm", &filler.display().to_string()]).code, 0);
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = self.harness(&["stop", "--force", "-y"]);
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn a_full_disk_under_the_store_is_said_and_nothing_is_acknowledged_that_is_not_kept() {
    let stack = |big: &str| {
        format!(
            "services:\n  web: {{ type: process, restart: {{ policy: always, reset_after: 0s }}, command: {LOCKED} }}\n  late: {{ type: process, command: {LOCKED}, labels: {{ big: \"{big}\" }} }}\n"
        )
    };
    let project = Project::new(&stack(""));
    project.ok(&["start", "web"]);
    let zygote = project.zygote_pid("web-1");
    project.ok(&["stop"]);
    // It lives on for a while, and would see the folder below the disk.
    kill(zygote, "KILL");
    until("the zygote is gone", || !alive(zygote));
    let disk = SmallDisk::under_the_store(&project);
    disk.ok(&["start", "web"]);
    let first = disk.instance("web-1")["pid"].as_u64().unwrap() as u32;
    disk.fill();
    // More than the store's file has room for.
    project.write_services(&stack(&"x".repeat(1 << 20)));
    let refused = disk.harness(&["start", "late"]);
    assert_eq!(refused.code, 1, "{}{}", refused.stdout, refused.stderr);
    for words in ["could not be written down", "No space left on device"] {
        assert!(refused.stderr.contains(words), "{words:?} isn't in {}", refused.stderr);
    }
    // Everything else goes on: what runs runs, what dies is replaced, who asks is answered.
    assert!(alive(first));
    kill(first, "KILL");
    let replaced = || disk.instance("web-1")["pid"].as_u64().is_some_and(|pid| pid != u64::from(first));
    until("it is replaced", replaced);
    let second = disk.instance("web-1")["pid"].as_u64().unwrap() as u32;
    let log = std::fs::read_to_string(project.state_dir().join("daemon.log")).unwrap();
    assert_eq!(log.matches("can't write to the store").count(), 1, "it is said once: {log}");

    // A daemon that comes while the disk is full takes over, or says why it can't; the services run on in any case.
    kill(disk.daemon(), "KILL");
    let next = disk.harness(&["start", "web"]);
    let said = next.stderr.contains("No space left on device");
    assert!(next.code == 0 || said, "{}{}", next.stdout, next.stderr);
    assert!(alive(second), "{}", next.stderr);

    disk.empty();
    disk.ok(&["start", "web"]);
    assert_eq!(disk.instance("web-1")["pid"].as_u64(), Some(u64::from(second)));
    disk.ok(&["start", "late"]);
    kill(disk.daemon(), "KILL");
    disk.ok(&["start", "web"]);
    assert_eq!(disk.instance("late-1")["state"], "running", "what was acknowledged is kept");
    disk.ok(&["stop", "-y"]);
    project.assert_never_doubled();
    assert!(project.processes().is_empty());
}

mod heavy {
    use super::*;

    #[test]
    fn concurrent_restarts_and_starts_never_make_a_second_copy() {
        let project = locked(&["a", "b", "c", "d"]);
        project.ok(&["start"]);
        thread::scope(|scope| {
            for worker in 0..6 {
                let project = &project;
                scope.spawn(move || {
                    let names = ["a", "b", "c", "d"];
                    for round in 0..5 {
                        let name = names[(worker + round) % names.len()];
                        let args: &[&str] = match (worker + round) % 4 {
                            0 => &["restart", "-q"],
                            1 => &["start", "-q"],
                            2 => &["restart", "-q", name],
                            _ => &["start", "-q", "--apply", name],
                        };
                        let done = project.run(args);
                        assert_eq!(done.code, 0, "harness {args:?}: {}", done.stderr);
                    }
                });
            }
        });
        until("the dust has settled", || {
            ["a-1", "b-1", "c-1", "d-1"].iter().all(|name| project.state(name) == "running")
        });
        for name in ["a-1", "b-1", "c-1", "d-1"] {
            assert_eq!(copies(&project, name), 1);
            assert_eq!(project.instance(name)["restarts"], 0, "no copy died");
        }
        project.assert_never_doubled();
        assert_eq!(daemons(&project).len(), 1);
    }

    #[test]
    fn a_hundred_services_run_under_256_open_files() {
        let services: String =
            (1..=100).map(|n| format!("  s{n}: {{ type: process, command: sleep 1000 }}\n")).collect();
        let project = Project::new(&format!("services:\n{services}"));
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 256; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_harness"), "start"]);
        let plain = project.command(&[]);
        limited.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        limited.current_dir(project.path()).stdin(Stdio::null());
        let start = done(limited.output().unwrap());
        assert_eq!(start.code, 0, "{}", start.stderr);
        let daemon = project.daemon_pid();
        let limits = std::fs::read_to_string(format!("/proc/{daemon}/limits")).unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(files.split_whitespace().nth(4), Some("256"), "{files}");
        let status = project.json(&["status"]);
        let instances = status["instances"].as_array().unwrap();
        assert_eq!(instances.iter().filter(|instance| instance["state"] == "running").count(), 100);
        assert!(std::fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().count() < 200);
        project.ok(&["stop"]);
        assert!(project.processes().is_empty());
    }
}

//! The daemon, keepers and the zygote are killed: nothing is lost, nothing is doubled, and what is shown is true.

use crate::support::{LOCKED, Project, alive, kill, until};
use serde_json::Value;
use std::thread;

/// Whether `instance` runs with another process than `old`.
fn is_replaced(project: &Project, instance: &str, old: u32) -> bool {
    let seen = project.instance(instance);
    seen["state"] == "running" && seen["pid"].as_u64().is_some_and(|pid| pid != u64::from(old))
}

/// The records of the runs that ended in a way that nobody saw.
fn unknown_exits(project: &Project, instance: &str) -> Vec<Value> {
    let records = project.records(instance).into_iter();
    records.filter(|record| !record["state"]["exited"]["exit"]["unknown"].is_null()).collect()
}

#[test]
fn every_kind_of_end_is_known_to_a_daemon_that_was_not_there() {
    let project = Project::new(
        r#"
templates:
  waits: { type: process, restart: no }
services:
  good: { extends: waits, command: [sh, -c, "while [ ! -e go ]; do sleep 0.01; done"] }
  bad: { extends: waits, command: [sh, -c, "while [ ! -e go ]; do sleep 0.01; done; echo oh no; exit 42"] }
  shot: { extends: waits, command: sleep 1000 }
  lives: { extends: waits, command: sleep 1000 }
  again: { type: process, restart: { policy: always, reset_after: 0s }, command: [sh, -c, "if [ -e go ]; then exec sleep 1000; fi; while [ ! -e go ]; do sleep 0.01; done; exit 3"] }
"#,
    );
    project.ok(&["start"]);
    let [good, bad, shot, lives, again] =
        ["good-1", "bad-1", "shot-1", "lives-1", "again-1"].map(|name| project.pid(name));
    kill(project.daemon_pid(), "KILL");
    project.write("go", "");
    kill(shot, "USR1");
    until("they have ended", || [good, bad, shot, again].into_iter().all(|pid| !alive(pid)));
    // Without a daemon the files of the keepers tell the same.
    until("the files say so", || {
        let offline = project.json(&["status"]);
        offline["instances"]
            .as_array()
            .unwrap()
            .iter()
            .any(|i| i["instance"] == "bad-1" && i["exit"]["code"] == 42)
    });
    project.run(&["start", "lives"]);
    assert_eq!(project.pid("lives-1"), lives);
    assert_eq!(project.instance("good-1")["exit"]["code"], 0);
    let seen = project.instance("bad-1");
    assert_eq!((&seen["state"], &seen["exit"]["code"]), (&"failed".into(), &42.into()), "{seen:#}");
    assert_eq!(project.instance("shot-1")["exit"]["signal"], 10);
    assert_eq!(project.logs("bad"), ["oh no"]);
    until("what should always run is restarted", || is_replaced(&project, "again-1", again));
}

#[test]
fn a_killed_keeper_takes_its_service_along_and_a_new_one_follows() {
    let project = Project::new(&format!(
        r#"
services:
  web:
    type: process
    restart: {{ policy: always, reset_after: 0s }}
    command:
      - sh
      - -c
      - |
        exec 9>>lock
        flock -n 9 || {{ echo web >> doubled; exit 1; }}
        setsid sh -c 'trap "" TERM HUP; echo $$$$ > marked; while :; do sleep 1; done' &
        setsid env -i sh -c 'echo $$$$ > unmarked; exec sleep 1000' &
        exec sleep 1000
  other: {{ type: process, command: {LOCKED} }}
"#
    ));
    project.ok(&["start"]);
    let (web, other) = (project.pid("web-1"), project.pid("other-1"));
    let (marked, unmarked) = (project.pid_in("marked"), project.pid_in("unmarked"));
    kill(project.keeper_pid("web-1"), "KILL");
    until("a new one runs", || is_replaced(&project, "web-1", web));
    assert!(
        !alive(web) && !alive(marked) && !alive(unmarked),
        "nothing of the first is left when the second runs"
    );
    let lost = unknown_exits(&project, "web-1");
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0]["state"]["exited"]["exit"]["unknown"], "keeper killed");
    assert_eq!(lost[0]["gaps"][0]["reason"], "keeper killed");
    let seen = project.instance("web-1");
    assert!(seen["exit"].to_string().contains("keeper killed"), "{seen:#}");
    assert_eq!((project.pid("other-1"), &seen["restarts"]), (other, &1.into()));
    project.assert_never_doubled();
}

#[test]
fn a_keeper_killed_is_an_end_like_any_other_for_the_policy() {
    let project = Project::new(
        r#"
services:
  once: { type: process, command: sleep 1000, restart: no }
"#,
    );
    project.ok(&["start"]);
    let pid = project.pid("once-1");
    kill(project.keeper_pid("once-1"), "KILL");
    until("its end is known", || project.state("once-1") == "failed");
    let seen = project.instance("once-1");
    assert!(!alive(pid));
    assert_eq!(seen["reason"]["code"], "keeper-killed", "{seen:#}");
    assert!(seen["reason"]["message"].as_str().unwrap().contains("unknown"), "{seen:#}");
    assert_eq!(project.records("once-1").len(), 1);
}

#[test]
fn a_keeper_and_the_daemon_killed_together() {
    let project = Project::new(&format!(
        "services:\n  web: {{ type: process, restart: {{ policy: always, reset_after: 0s }}, command: {LOCKED} }}\n  other: {{ type: process, command: {LOCKED} }}\n"
    ));
    project.ok(&["start"]);
    let (web, other, keeper) = (project.pid("web-1"), project.pid("other-1"), project.keeper_pid("web-1"));
    kill(project.daemon_pid(), "KILL");
    kill(keeper, "KILL");
    project.ok(&["start"]);
    until("a new one runs", || is_replaced(&project, "web-1", web));
    assert_eq!(project.pid("other-1"), other);
    assert_eq!(unknown_exits(&project, "web-1").len(), 1);
    project.assert_never_doubled();
}

#[test]
fn a_killed_zygote_costs_no_service_and_the_next_start_works() {
    let project = Project::new(&format!(
        "services:\n  a: {{ type: process, command: {LOCKED}, restart: {{ policy: always, reset_after: 0s }} }}\n  b: {{ type: process, command: {LOCKED} }}\n  late: {{ type: process, command: {LOCKED} }}\n"
    ));
    project.ok(&["start", "a", "b"]);
    let (a, b, zygote) = (project.pid("a-1"), project.pid("b-1"), project.zygote_pid("a-1"));
    kill(zygote, "KILL");
    until("the zygote is gone", || !alive(zygote));
    assert!(alive(a) && alive(b));
    project.ok(&["start", "late"]);
    assert_eq!((project.pid("a-1"), project.pid("b-1")), (a, b));
    // A keeper that lost its zygote still tells the end.
    kill(a, "KILL");
    until("a is replaced", || is_replaced(&project, "a-1", a));
    assert_eq!(project.instance("a-1")["exit"]["signal"], 9);
    project.assert_never_doubled();
    project.ok(&["stop"]);
    assert!(project.processes().is_empty());
}

#[test]
fn a_daemon_that_has_started_nothing_notices_the_death_of_zygote_and_keeper_too() {
    let project = Project::new(&format!(
        "services:\n  web: {{ type: process, restart: {{ policy: always, reset_after: 0s }}, command: {LOCKED} }}\n"
    ));
    project.ok(&["start"]);
    let (web, keeper, zygote) =
        (project.pid("web-1"), project.keeper_pid("web-1"), project.zygote_pid("web-1"));
    kill(project.daemon_pid(), "KILL");
    project.ok(&["start"]);
    assert_eq!(project.pid("web-1"), web);
    kill(zygote, "KILL");
    until("the zygote is gone", || !alive(zygote));
    kill(keeper, "KILL");
    until("a new one runs", || is_replaced(&project, "web-1", web));
    assert_eq!(unknown_exits(&project, "web-1").len(), 1);
    project.assert_never_doubled();
}

/// As if the daemon had been killed before its store was safe: nobody was told that these were started.
#[test]
fn what_lives_and_was_never_written_down_is_ended_before_it_is_started_again() {
    let project = Project::new(&format!(
        r#"
services:
  web: {{ type: process, command: {LOCKED} }}
  slow: {{ type: process, command: [sh, -c, "exec 9>>lock; flock -n 9 || {{ echo slow >> doubled; exit 1; }}; trap 'echo asked >> asked; exit 0' TERM; echo up > up; while :; do sleep 0.01; done"] }}
"#
    ));
    project.ok(&["start"]);
    project.wait_for("up");
    let (web, slow) = (project.pid("web-1"), project.pid("slow-1"));
    kill(project.daemon_pid(), "KILL");
    until("its store is free", || {
        std::fs::File::open(project.state_dir().join("daemon.lock")).unwrap().try_lock().is_ok()
    });
    std::fs::remove_file(project.state_dir().join("registry.redb")).unwrap();
    project.ok(&["start", "web"]);
    assert!(!alive(web) && !alive(slow), "both are over before anything else begins");
    assert_eq!(project.read("asked"), "asked\n", "they were asked to end");
    assert_ne!(project.pid("web-1"), web);
    project.assert_never_doubled();
    assert_eq!(project.processes().len(), 1);
}

#[test]
fn what_a_check_started_does_not_outlive_a_killed_daemon_by_more_than_the_next_ones_start() {
    let project = Project::new(
        r#"
services:
  web:
    type: process
    command: sleep 1000
    health_check:
      command: [sh, -c, "[ -e checked ] && exit 0; setsid sh -c 'trap \"\" TERM HUP; echo $$$$ > left; exec sleep 1000' & while [ ! -s left ]; do sleep 0.01; done; touch checked; exec sleep 1000"]
      timeout: 60s
"#,
    );
    project.ok(&["start", "--no-wait"]);
    let left = project.pid_in("left");
    until("the check goes on", || project.path().join("checked").exists());
    kill(project.daemon_pid(), "KILL");
    assert!(alive(left));
    project.ok(&["start"]);
    until("it is ended", || !alive(left));
    assert_eq!(project.instance("web-1")["health"]["status"], "healthy", "the next one's own checks go on");
}

#[test]
fn zygote_keeper_and_daemon_killed_together_leave_no_second_copy() {
    let project = Project::new(
        r#"
services:
  web:
    type: process
    restart: { policy: always, reset_after: 0s }
    command:
      - sh
      - -c
      - |
        exec 9>>lock
        flock -n 9 || { echo web >> doubled; exit 1; }
        setsid sh -c 'trap "" TERM HUP; echo $$$$ > escaped; while :; do sleep 1; done' &
        exec sleep 1000
"#,
    );
    project.ok(&["start"]);
    let (web, escaped) = (project.pid("web-1"), project.pid_in("escaped"));
    let (keeper, zygote) = (project.keeper_pid("web-1"), project.zygote_pid("web-1"));
    let daemon = project.daemon_pid();
    for pid in [daemon, zygote, keeper] {
        kill(pid, "KILL");
    }
    project.ok(&["start"]);
    until("a new one runs", || is_replaced(&project, "web-1", web));
    assert!(!alive(web) && !alive(escaped), "what the first left was ended before");
    project.assert_never_doubled();
}

#[test]
fn a_daemon_told_to_end_leaves_everything_running() {
    let project = Project::new(&format!("services:\n  a: {{ type: process, command: {LOCKED} }}\n"));
    project.ok(&["start"]);
    let (a, daemon) = (project.pid("a-1"), project.daemon_pid());
    kill(daemon, "TERM");
    until("the daemon is gone", || !alive(daemon));
    assert!(alive(a));
    project.ok(&["start"]);
    assert_eq!(project.pid("a-1"), a);
    assert_eq!(project.records("a-1").len(), 1);
}

#[test]
fn a_clock_that_was_set_back_hides_no_living_run_and_names_no_run_before_its_elders() {
    let project = Project::new(&format!(
        "services:\n  web: {{ type: process, restart: {{ policy: always, reset_after: 0s }}, command: {LOCKED} }}\n"
    ));
    project.ok(&["start"]);
    let first = project.pid("web-1");
    kill(first, "KILL");
    until("a second run", || is_replaced(&project, "web-1", first));
    let second = project.pid("web-1");
    kill(project.daemon_pid(), "KILL");
    // As if the first run had begun in the year 2096, and the clock had been put right after it.
    let folder = project.state_dir().join("instances/web-1");
    let (ended, future) = (project.records("web-1")[0].clone(), "03900000-0000-7fff-bfff-ffffffffffff");
    let run = ended["run"].as_str().unwrap();
    let record = std::fs::read_to_string(folder.join(format!("{run}.json"))).unwrap();
    std::fs::write(folder.join(format!("{future}.json")), record.replace(run, future)).unwrap();
    std::fs::remove_file(folder.join(format!("{run}.json"))).unwrap();
    std::fs::rename(folder.join(format!("{run}.log")), folder.join(format!("{future}.log"))).unwrap();
    project.ok(&["start"]);
    assert_eq!(project.pid("web-1"), second, "it is taken over, not started again beside itself");
    kill(second, "KILL");
    until("a third run", || is_replaced(&project, "web-1", second));
    let runs: Vec<String> =
        project.records("web-1").iter().map(|record| record["run"].as_str().unwrap().to_owned()).collect();
    assert_eq!((runs.len(), runs[1].as_str()), (3, future));
    assert!(runs[2].starts_with("03900000-0001-7"), "the newest run has the last name: {runs:?}");
    project.assert_never_doubled();
}

#[test]
fn a_stop_that_the_daemon_did_not_survive_is_finished_by_the_next() {
    let project = Project::new(
        r#"
services:
  slow:
    type: process
    restart: always
    command: [sh, -c, "trap 'echo asked >> asked; while [ ! -e go ]; do sleep 0.01; done; exit 0' TERM; echo up > up; while :; do sleep 0.01; done"]
  other: { type: process, command: sleep 1000 }
"#,
    );
    project.ok(&["start"]);
    project.wait_for("up");
    let (slow, daemon) = (project.pid("slow-1"), project.daemon_pid());
    let mut stop = project.command(&["stop", "slow"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    project.wait_for("asked");
    kill(daemon, "KILL");
    project.write("go", "");
    assert!(stop.wait().unwrap().success(), "the stop begins with the next daemon by itself");
    project.ok(&["start", "other"]);
    until("it has stopped", || project.state("slow-1") == "stopped");
    assert!(!alive(slow));
    assert_eq!(project.records("slow-1").len(), 1, "it isn't started again");
}

#[test]
fn a_stop_finds_out_an_end_that_was_never_told() {
    let project = Project::new(
        r#"
services:
  web: { type: process, restart: no, shutdown_timeout: 100ms, command: [sh, -c, "while [ ! -e go ]; do sleep 0.01; done; exit 7"] }
"#,
    );
    project.ok(&["start"]);
    let (web, keeper) = (project.pid("web-1"), project.keeper_pid("web-1"));
    // The keeper finds nobody to tell, and a keeper that is gone tells nothing later.
    let socket = project.state_dir().join("run/daemon.sock");
    std::fs::rename(&socket, socket.with_extension("away")).unwrap();
    project.write("go", "");
    until("it has ended", || !alive(web) && !alive(keeper));
    std::fs::rename(socket.with_extension("away"), &socket).unwrap();
    assert_eq!(project.state("web-1"), "running", "the daemon doesn't know");
    project.ok(&["stop", "web", "--timeout", "20s"]);
    let seen = project.instance("web-1");
    assert_eq!((&seen["state"], &seen["exit"]["code"]), (&"stopped".into(), &7.into()), "{seen:#}");
}

#[test]
fn a_start_that_met_a_daemon_on_its_way_out_makes_another() {
    let project = Project::new("services:\n  web: { type: process, command: sleep 1000 }\n");
    project.ok(&["start"]);
    project.ok(&["stop"]);
    // As a daemon that answers no longer and isn't gone yet.
    let lock = std::fs::File::options()
        .read(true)
        .write(true)
        .open(project.state_dir().join("daemon.lock"))
        .unwrap();
    until("it is free", || lock.try_lock().is_ok());
    let log = project.state_dir().join("daemon.log");
    let before = std::fs::read_to_string(&log).unwrap_or_default().matches("a daemon runs already").count();
    let start = project.command(&["start"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("one has met the lock", || {
        std::fs::read_to_string(&log).unwrap_or_default().matches("a daemon runs already").count() > before
    });
    lock.unlock().unwrap();
    let done = crate::support::done(start.wait_with_output().unwrap());
    assert_eq!(done.code, 0, "{}", done.stderr);
}

#[test]
fn a_start_and_a_restart_that_wait_go_on_waiting_with_the_next_daemon() {
    let project = Project::new(
        r#"
services:
  slow:
    type: process
    command: [sh, -c, "echo up > up; exec sleep 1000"]
    health_check: { command: [test, -e, go], interval: 50ms }
"#,
    );
    for command in ["start", "restart"] {
        for name in ["go", "up"] {
            let _ = std::fs::remove_file(project.path().join(name));
        }
        let mut waiting = project.command(&[command]).stderr(std::process::Stdio::piped()).spawn().unwrap();
        project.wait_for("up");
        let (slow, daemon) = (project.pid("slow-1"), project.daemon_pid());
        kill(daemon, "KILL");
        until("there is another daemon", || {
            let status = project.json(&["daemon", "status"]);
            status["daemon"]["pid"].as_u64().is_some_and(|pid| pid != u64::from(daemon))
        });
        assert!(waiting.try_wait().unwrap().is_none(), "it isn't ready yet");
        project.write("go", "");
        let done = crate::support::done(waiting.wait_with_output().unwrap());
        assert_eq!(done.code, 0, "{command}: {}", done.stderr);
        assert!(done.stderr.contains("1 ready"), "{command}: {}", done.stderr);
        assert_eq!(project.pid("slow-1"), slow);
    }
}

mod heavy {
    use super::*;

    /// A small generator of numbers that a seed repeats (xorshift64*).
    struct Dice(u64);

    impl Dice {
        fn next(&mut self, below: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % below
        }
    }

    /// Services that hold a lock and number their lines, each run from one.
    fn storm_stack() -> Project {
        let chatty = r#"[sh, -c, "exec 9>>lock-$HARNESS_INSTANCE; flock -n 9 || { echo $HARNESS_INSTANCE >> doubled; exit 1; }; i=0; while :; do i=$((i+1)); echo $HARNESS_RUN $i; sleep 0.01; done"]"#;
        Project::new(&format!(
            r#"
templates:
  chatty: {{ type: process, command: {chatty}, restart: {{ policy: always, reset_after: 0s }}, logs: {{ keep_runs: 500 }}, shutdown_timeout: 2s }}
services:
  a: {{ extends: chatty }}
  b: {{ extends: chatty, dependencies: [a] }}
  c: {{ extends: chatty, health_check: {{ command: "true", interval: 20ms }} }}
  d: {{ extends: chatty, dependencies: [c] }}
  steady: {{ type: process, command: {LOCKED} }}
"#
        ))
    }

    /// Each run's lines are 1, 2, 3, … without a hole, whoever was killed meanwhile.
    fn assert_no_line_lost(project: &Project, name: &str) -> usize {
        let mut last: std::collections::HashMap<String, u64> = std::collections::HashMap::new();
        let lines = project.logs(name);
        for line in &lines {
            let (run, number) = line.split_once(' ').unwrap_or_else(|| panic!("{name} said {line:?}"));
            let number: u64 = number.parse().unwrap();
            let before = last.insert(run.to_owned(), number).unwrap_or(0);
            assert_eq!(number, before + 1, "{name}, run {run}");
        }
        lines.len()
    }

    fn storm(seed: u64, kills: usize) {
        println!("seed {seed}");
        let project = storm_stack();
        project.ok(&["start"]);
        let steady = project.pid("steady-1");
        let over = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            for worker in 0..2 {
                let (project, over) = (&project, &over);
                scope.spawn(move || {
                    let mut dice = Dice(seed + worker + 1);
                    let names = ["a", "b", "c", "d"];
                    while !over.load(std::sync::atomic::Ordering::Relaxed) {
                        let name = names[dice.next(4) as usize];
                        // What it answers is of no account here: its daemon may be shot under it.
                        let _ = match dice.next(4) {
                            0 => project.run(&["start", "-q"]),
                            1 => project.run(&["stop", "-q", "-y", name]),
                            _ => project.run(&["restart", "-q", name]),
                        };
                    }
                });
            }
            let mut dice = Dice(seed);
            for _ in 0..kills {
                let pause = std::time::Instant::now();
                let length = std::time::Duration::from_millis(5 + dice.next(120));
                until("the moment of the next kill", || pause.elapsed() >= length);
                let lock =
                    std::fs::read_to_string(project.state_dir().join("daemon.lock")).unwrap_or_default();
                let pid = lock.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty());
                // Only a daemon of this project: the pid of one that is gone may be another's.
                if let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) {
                    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    if line.contains(&*project.state_dir().to_string_lossy()) {
                        kill(pid, "KILL");
                    }
                }
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        project.ok(&["start"]);
        project.assert_never_doubled();
        assert_eq!(project.pid("steady-1"), steady, "what nobody touched has the pid that it had");
        for name in ["a-1", "b-1", "c-1", "d-1"] {
            let pid = project.pid(name);
            assert!(alive(pid), "{name}");
            assert!(unknown_exits(&project, name).is_empty(), "no keeper was killed");
            let open =
                project.records(name).iter().filter(|record| !record["state"]["running"].is_null()).count();
            assert_eq!(open, 1, "each run but the last has a recorded end");
        }
        project.ok(&["stop"]);
        let lines: usize = ["a", "b", "c", "d"].map(|name| assert_no_line_lost(&project, name)).iter().sum();
        println!("{kills} kills, {lines} lines");
        assert!(project.processes().is_empty());
    }

    #[test]
    fn the_daemon_is_killed_at_random_moments_of_a_storm() {
        storm(u64::from(std::process::id()), 15);
    }

    /// The daemon starts a service again, with a new zygote, while it still finds out what the old one left.
    #[test]
    fn a_zygote_and_another_ones_keeper_killed_in_the_same_moment_make_no_second_copy() {
        let many: String =
            (0..40).map(|n| format!("  s{n}: {{ type: process, command: sleep 1000 }}\n")).collect();
        let project = Project::new(&format!(
            "templates:\n  locked: {{ type: process, restart: {{ policy: always, reset_after: 0s }}, command: {LOCKED} }}\nservices:\n  a: {{ extends: locked }}\n  b: {{ extends: locked }}\n{many}"
        ));
        project.ok(&["start"]);
        kill(project.zygote_pid("a-1"), "KILL");
        // Each round leaves one of them under the newest zygote, and the other without one.
        let (mut new, mut old) = ("a-1", "b-1");
        project.ok(&["restart", "a"]);
        for _ in 0..12 {
            let pid = project.pid(old);
            let both = [project.zygote_pid(new).to_string(), project.keeper_pid(old).to_string()];
            std::process::Command::new("kill").arg("-KILL").args(both).status().unwrap();
            until("a new one runs", || is_replaced(&project, old, pid));
            let runs = project.records(old);
            let open = runs.iter().filter(|record| !record["state"]["running"].is_null()).count();
            assert_eq!(open, 1, "a run that is given up is over: {runs:#?}");
            (new, old) = (old, new);
        }
        project.assert_never_doubled();
        project.ok(&["stop"]);
        assert!(project.processes().is_empty());
    }

    #[test]
    fn keepers_are_killed_at_random_moments_of_restarts() {
        let project = storm_stack();
        project.ok(&["start"]);
        let seed = u64::from(std::process::id());
        println!("seed {seed}");
        let mut dice = Dice(seed);
        for round in 0..10 {
            let name = ["a", "b", "c", "d"][dice.next(4) as usize];
            let keeper = project.keeper_pid(&format!("{name}-1"));
            if round % 2 == 0 {
                let mut restart = project.command(&["restart", "-q", name]).spawn().unwrap();
                kill(keeper, "KILL");
                restart.wait().unwrap();
            } else {
                kill(keeper, "KILL");
            }
            until("all run again", || {
                ["a-1", "b-1", "c-1", "d-1"].iter().all(|name| project.instance(name)["ready"] == true)
            });
        }
        project.assert_never_doubled();
        project.ok(&["stop"]);
        assert!(project.processes().is_empty());
    }
}

//! What is done when something ends, hangs, or has to wait: restart policies, dependencies, limits, the order of stopping.

use crate::support::{LOCKED, Project, alive, kill, until};
use std::time::{Duration, Instant};

#[test]
fn each_restart_policy_does_what_it_says() {
    let project = Project::new(
        r#"
templates:
  quick: { type: process, command: [sh, -c, "echo ran; exit $CODE"] }
services:
  no-bad: { extends: quick, restart: no, env: { CODE: "1" } }
  failure-good: { extends: quick, restart: on-failure, env: { CODE: "0" } }
  failure-bad: { extends: quick, restart: { policy: on-failure, backoff: { initial: 5ms, max: 10ms } }, env: { CODE: "1" } }
  always-good: { extends: quick, restart: { policy: always, backoff: { initial: 5ms, max: 10ms } }, env: { CODE: "0" } }
"#,
    );
    project.ok(&["start", "--no-wait"]);
    for name in ["failure-bad-1", "always-good-1"] {
        until(&format!("{name} is restarted"), || project.instance(name)["restarts"].as_u64() >= Some(4));
    }
    for (name, state, code) in [("no-bad-1", "failed", 1), ("failure-good-1", "stopped", 0)] {
        let seen = project.instance(name);
        assert_eq!((&seen["restarts"], &seen["exit"]["code"]), (&0.into(), &code.into()), "{seen:#}");
        // A service that ended before it was ready has failed, whatever its code.
        assert!(seen["state"] == state || code == 0 && seen["state"] == "failed", "{seen:#}");
    }
    assert_eq!(project.logs("no-bad"), ["ran"]);
}

#[test]
fn what_has_used_up_its_retries_is_given_up() {
    let project = Project::new(
        r#"
services:
  doomed:
    type: process
    command: [sh, -c, "echo ran >> runs; exit 5"]
    restart: { policy: always, max_retries: 4, backoff: { initial: 5ms, max: 10ms } }
"#,
    );
    assert_eq!(project.run(&["start"]).code, 3);
    until("it is given up", || project.instance("doomed-1")["reason"]["code"] == "gave-up");
    let seen = project.instance("doomed-1");
    assert_eq!(
        (&seen["state"], &seen["exit"]["code"], &seen["restarts"]),
        (&"failed".into(), &5.into(), &4.into())
    );
    assert_eq!(project.read("runs").lines().count(), 5, "the first and four retries");
    project.run(&["start"]);
    until("a start tries again", || project.read("runs").lines().count() == 10);
}

#[test]
fn what_was_given_up_stays_so_when_the_daemon_returns() {
    let project = Project::new(
        r#"
services:
  doomed:
    type: process
    command: [sh, -c, "echo ran >> runs; exit 5"]
    restart: { policy: always, max_retries: 2, backoff: { initial: 5ms, max: 10ms } }
  other: { type: process, command: sleep 1000 }
"#,
    );
    project.run(&["start"]);
    until("it is given up", || project.instance("doomed-1")["reason"]["code"] == "gave-up");
    kill(project.daemon_pid(), "KILL");
    project.ok(&["start", "other"]);
    let seen = project.instance("doomed-1");
    assert_eq!((&seen["state"], &seen["reason"]["code"]), (&"failed".into(), &"gave-up".into()), "{seen:#}");
    // A later word of the new daemon shows that it had its chance to do wrong.
    project.ok(&["restart", "other"]);
    assert_eq!(project.read("runs").lines().count(), 3);
}

#[test]
fn a_pause_after_deaths_is_kept_when_the_daemon_returns() {
    let project = Project::new(
        r#"
services:
  dying:
    type: process
    command: [sh, -c, "echo ran >> runs; exit 5"]
    restart: { policy: always, backoff: { initial: 30ms, max: 60s } }
  other: { type: process, command: sleep 1000 }
"#,
    );
    project.run(&["start"]);
    // The seventh death is followed by a pause of two seconds, the eighth by four.
    until("it has died often", || project.read("runs").lines().count() >= 7);
    for _ in 0..4 {
        kill(project.daemon_pid(), "KILL");
        project.ok(&["start", "other"]);
    }
    let runs = project.read("runs").lines().count();
    assert!(runs <= 8, "each daemon began anew: {runs} runs");
}

#[test]
fn the_pause_between_restarts_grows() {
    let project = Project::new(
        r#"
services:
  dying: { type: process, command: "false", restart: { policy: always, max_retries: 4, backoff: { initial: 40ms, max: 160ms } }, logs: { keep_runs: 10 } }
"#,
    );
    project.run(&["start"]);
    until("it is given up", || project.instance("dying-1")["reason"]["code"] == "gave-up");
    let moment = |text: &serde_json::Value| -> jiff::Timestamp { text.as_str().unwrap().parse().unwrap() };
    let runs = project.records("dying-1");
    let pauses: Vec<i128> = runs
        .windows(2)
        .map(|two| {
            let (ended, started) =
                (moment(&two[0]["state"]["exited"]["ended_at"]), moment(&two[1]["started_at"]));
            started.duration_since(ended).as_millis()
        })
        .collect();
    assert_eq!(pauses.len(), 4, "{runs:#?}");
    for (pause, least) in pauses.iter().zip([40, 80, 160, 160]) {
        assert!(*pause >= least - 1, "{pauses:?}");
    }
}

#[test]
fn what_was_stable_is_replaced_at_once_and_its_count_begins_anew() {
    let project = Project::new(
        r#"
services:
  web: { type: process, command: sleep 1000, restart: { policy: always, reset_after: 100ms, backoff: { initial: 60s, max: 60s } } }
"#,
    );
    project.ok(&["start"]);
    for round in 1..=3 {
        let (pid, begin) = (project.pid("web-1"), Instant::now());
        until("it is stable", || begin.elapsed() > Duration::from_millis(150));
        kill(pid, "KILL");
        until("it is replaced", || {
            project.instance("web-1")["pid"].as_u64().is_some_and(|new| new != u64::from(pid))
        });
        assert_eq!(project.instance("web-1")["restarts"], round);
    }
}

#[test]
fn an_unhealthy_service_is_restarted_if_it_asks_for_that() {
    let project = Project::new(
        r#"
services:
  web:
    type: process
    command: [sh, -c, "touch well; exec sleep 1000"]
    on_unhealthy: restart
    restart: { policy: on-failure, backoff: { initial: 10ms, max: 20ms } }
    health_check: { command: [test, -e, well], interval: 20ms, retries: 2 }
  shown:
    type: process
    command: [sh, -c, "touch fine; exec sleep 1000"]
    health_check: { command: [test, -e, fine], interval: 20ms, retries: 2 }
"#,
    );
    project.ok(&["start"]);
    let (web, shown) = (project.pid("web-1"), project.pid("shown-1"));
    std::fs::remove_file(project.path().join("fine")).unwrap();
    until("it is shown", || project.instance("shown-1")["health"]["status"] == "unhealthy");
    assert_eq!((project.pid("shown-1"), project.state("shown-1")), (shown, "running".into()));
    std::fs::remove_file(project.path().join("well")).unwrap();
    until("it is restarted and healthy", || {
        let seen = project.instance("web-1");
        seen["health"]["status"] == "healthy" && seen["pid"].as_u64().is_some_and(|pid| pid != u64::from(web))
    });
    assert!(!alive(web));
}

#[test]
fn dependents_follow_wait_or_go_on_when_a_dependency_dies() {
    let project = Project::new(
        r#"
services:
  db: { type: process, command: sleep 1000, restart: { policy: always, reset_after: 0s } }
  follows: { type: process, command: sleep 1000, dependencies: [db], on_dependency_failure: restart }
  holds: { type: process, command: sleep 1000, dependencies: [db], on_dependency_failure: hold }
  ignores: { type: process, command: sleep 1000, dependencies: [db], on_dependency_failure: ignore }
"#,
    );
    project.ok(&["start"]);
    let [db, follows, holds, ignores] =
        ["db-1", "follows-1", "holds-1", "ignores-1"].map(|name| project.pid(name));
    kill(db, "KILL");
    until("the follower has a new run", || {
        let seen = project.instance("follows-1");
        seen["state"] == "running" && seen["pid"].as_u64().is_some_and(|pid| pid != u64::from(follows))
    });
    until("the holder is held", || project.instance("holds-1")["reason"]["code"] == "held");
    assert!(!alive(holds) && !alive(follows));
    assert_eq!(project.pid("ignores-1"), ignores);
    project.ok(&["start", "holds"]);
    assert_eq!(project.state("holds-1"), "running");
    assert_eq!(project.pid("ignores-1"), ignores);
}

#[test]
fn a_dependency_that_fails_blocks_only_what_needs_it() {
    let project = Project::new(
        r#"
tasks:
  migrate: { command: [sh, -c, "echo no schema; exit 7"] }
services:
  api: { type: process, command: sleep 1000, dependencies: [migrate] }
  web: { type: process, command: sleep 1000, dependencies: [api] }
  other: { type: process, command: sleep 1000 }
"#,
    );
    let start = project.run(&["start"]);
    assert_eq!(start.code, 3, "{}", start.stderr);
    for words in ["migrate failed", "exited with code 7", "no schema", "1 ready", "2 blocked"] {
        assert!(start.stderr.contains(words), "{words:?} isn't in {}", start.stderr);
    }
    assert_eq!(project.instance("web-1")["reason"]["code"], "blocked");
    assert!(project.instance("web-1")["reason"]["message"].as_str().unwrap().contains("migrate"));
    assert_eq!(project.state("other-1"), "running");
}

#[test]
fn each_condition_is_waited_for() {
    let project = Project::new(
        r#"
tasks:
  prepare: { command: [sh, -c, "echo prepare >> order"] }
services:
  healthy:
    type: process
    command: [sh, -c, "echo healthy-starts >> order; while [ ! -e well ]; do sleep 0.01; done; exec sleep 1000"]
    health_check: { command: [test, -e, well], interval: 20ms }
    dependencies: { prepare: { condition: completed } }
  eager: { type: process, command: [sh, -c, "echo eager >> order; exec sleep 1000"], dependencies: { healthy: { condition: started } } }
  patient: { type: process, command: [sh, -c, "echo patient >> order; exec sleep 1000"], dependencies: [healthy] }
"#,
    );
    project.ok(&["start", "--no-wait"]);
    until("the eager one runs", || project.read("order").contains("eager"));
    until("it is said who waits", || project.instance("patient-1")["reason"]["code"] == "waiting");
    assert!(!project.read("order").contains("patient"));
    project.write("well", "");
    project.ok(&["start"]);
    until("the patient one runs", || project.read("order").contains("patient"));
    let order = project.read("order");
    assert_eq!(order.lines().next(), Some("prepare"));
    assert_eq!(order.lines().collect::<Vec<_>>(), ["prepare", "healthy-starts", "eager", "patient"]);
}

#[test]
fn a_task_runs_in_a_start_that_needs_it_and_never_otherwise() {
    let project = Project::new(
        r#"
tasks:
  migrate: { command: [sh, -c, "echo migrated >> runs"] }
services:
  web: { type: process, command: sleep 1000, dependencies: [migrate], restart: { policy: always, reset_after: 0s } }
  other: { type: process, command: sleep 1000 }
"#,
    );
    let runs = || project.read("runs").lines().count();
    project.ok(&["start"]);
    assert_eq!(runs(), 1);
    project.ok(&["start"]);
    assert_eq!(runs(), 1, "not on a no-op");
    let pid = project.pid("web-1");
    kill(pid, "KILL");
    until("web is back", || {
        project.instance("web-1")["pid"].as_u64().is_some_and(|new| new != u64::from(pid))
    });
    assert_eq!(runs(), 1, "not on a crash");
    kill(project.daemon_pid(), "KILL");
    project.ok(&["start"]);
    assert_eq!(runs(), 1, "not on the daemon's return");
    project.ok(&["stop", "web"]);
    project.ok(&["start", "web"]);
    assert_eq!(runs(), 2, "for what is about to start");
    project.ok(&["start", "migrate"]);
    assert_eq!(runs(), 3, "by name");
}

#[test]
fn replicas_have_ports_of_their_own_and_keep_them() {
    let project = Project::new(
        r#"
services:
  web:
    type: process
    replicas: 3
    command: [sh, -c, "echo $PORT > port-$HARNESS_INSTANCE; exec sleep 1000"]
    ports: [{ name: http, port: auto }]
    restart: { policy: always, reset_after: 0s }
"#,
    );
    project.ok(&["start"]);
    let ports = || ["web-1", "web-2", "web-3"].map(|name| project.wait_for(&format!("port-{name}")));
    let first = ports();
    assert!(first[0] != first[1] && first[1] != first[2] && first[0] != first[2], "{first:?}");
    assert_eq!(project.instance("web-2")["endpoints"][0]["port"].to_string(), first[1].trim());
    let again = || {
        for name in ["web-1", "web-2", "web-3"] {
            let _ = std::fs::remove_file(project.path().join(format!("port-{name}")));
        }
    };
    again();
    project.ok(&["restart"]);
    assert_eq!(ports(), first, "over a restart");
    project.ok(&["stop"]);
    again();
    project.ok(&["start"]);
    assert_eq!(ports(), first, "over a stop of everything");
}

#[test]
fn limits_are_really_set() {
    let project = Project::new(
        r#"
services:
  limited: { type: process, command: sleep 1000, resources: { open_files: 123, nice: 7 } }
"#,
    );
    project.ok(&["start"]);
    let pid = project.pid("limited-1");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("123"), "{files}");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert_eq!(
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(16),
        Some("7"),
        "nice, as proc_pid_stat(5) has it"
    );
}

#[test]
fn a_service_runs_as_the_user_that_it_names() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root can become another.
    }
    let project = Project::new(
        r#"
services:
  plain: { type: process, command: sleep 1000, user: nobody, working_dir: / }
  grouped: { type: process, command: sleep 1000, user: nobody, group: daemon, working_dir: / }
"#,
    );
    project.ok(&["start"]);
    let ids = |name: &str, key: &str| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", project.pid(name))).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
        line.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<u32>>()
    };
    assert_eq!(ids("plain-1", "Uid:"), [65534; 4]);
    assert_eq!(ids("plain-1", "Gid:"), [65534; 4]);
    assert!(!ids("plain-1", "Groups:").contains(&0), "none of root's groups are kept");
    assert_eq!(ids("grouped-1", "Gid:"), [1; 4]);
    let pids = [project.pid("plain-1"), project.pid("grouped-1")];
    project.ok(&["stop"]);
    assert!(pids.into_iter().all(|pid| !alive(pid)), "its keeper can still end it");
}

/// Three in a row, each saying when it stops.
const CHAIN: &str = r#"
templates:
  telling:
    type: process
    command: [sh, -c, "trap 'echo $HARNESS_SERVICE >> order; exit 0' TERM; echo up > up-$HARNESS_SERVICE; while :; do sleep 0.01; done"]
services:
  db: { extends: telling }
  api: { extends: telling, dependencies: [db] }
  web: { extends: telling, dependencies: [api] }
"#;

fn chain() -> Project {
    let project = Project::new(CHAIN);
    project.ok(&["start"]);
    for name in ["db", "api", "web"] {
        project.wait_for(&format!("up-{name}"));
    }
    project
}

#[test]
fn everything_stops_in_reverse_order() {
    let project = chain();
    project.ok(&["stop"]);
    assert_eq!(project.read("order"), "web\napi\ndb\n");
    assert!(project.processes().is_empty());
}

#[test]
fn what_others_need_is_not_stopped_without_a_yes() {
    let project = chain();
    let refused = project.run(&["stop", "db"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    for words in ["api", "web", "-y"] {
        assert!(refused.stderr.contains(words), "{words:?} isn't in {}", refused.stderr);
    }
    for name in ["db-1", "api-1", "web-1"] {
        assert_eq!(project.state(name), "running", "nothing was stopped");
    }
    project.ok(&["stop", "db", "-y"]);
    assert_eq!(project.read("order"), "web\napi\ndb\n");
}

#[test]
fn force_kills_the_named_one_and_leaves_its_dependents() {
    let project = chain();
    let (db, web) = (project.pid("db-1"), project.pid("web-1"));
    project.ok(&["stop", "db", "--force"]);
    assert!(!alive(db));
    assert_eq!(project.read("order"), "", "it wasn't asked");
    assert_eq!(project.instance("db-1")["exit"]["signal"], 9);
    assert_eq!((project.pid("web-1"), project.state("api-1")), (web, "running".into()));
}

#[test]
fn what_a_user_stopped_stays_down() {
    let project = Project::new(&format!(
        "services:\n  web: {{ type: process, restart: always, command: {LOCKED} }}\n  other: {{ type: process, command: sleep 1000 }}\n"
    ));
    project.ok(&["start"]);
    project.ok(&["stop", "web"]);
    kill(project.daemon_pid(), "KILL");
    project.ok(&["start", "other"]);
    let seen = project.instance("web-1");
    assert_eq!((&seen["state"], &seen["restarts"]), (&"stopped".into(), &0.into()), "{seen:#}");
    project.assert_never_doubled();
}
#[test]
fn a_start_does_not_wait_again_for_what_was_ready_and_died_since() {
    let project = Project::new(
        r#"
services:
  dies: { type: process, restart: { policy: always, reset_after: 1h, backoff: { initial: 120s, max: 120s } }, command: [sh, -c, "sleep 2; exit 1"] }
  slow: { type: process, command: sleep 1000, health_check: { command: [test, -e, go], interval: 50ms } }
"#,
    );
    let start = project.command(&["start"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("the first has died", || {
        project.state_dir_exists() && project.json(&["status"])["instances"][0]["reason"]["code"] == "backoff"
    });
    project.write("go", "");
    let begin = std::time::Instant::now();
    let done = crate::support::done(start.wait_with_output().unwrap());
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(begin.elapsed() < crate::support::PATIENCE, "it waited for the next try: {:?}", begin.elapsed());
}

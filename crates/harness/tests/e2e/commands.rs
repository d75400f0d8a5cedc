//! Every command and what it says: what is planned, started, replaced, stopped and shown.

use crate::support::{Project, alive, until};
use crate::terminal::Running;
use serde_json::Value;
use std::time::{Duration, Instant};

/// In no order of the alphabet: listings have the file's.
const STACK: &str = r#"
services:
  web:
    type: process
    command: [sh, -c, "trap 'echo web >>order; exit 0' TERM; touch web.up; while :; do sleep 0.02; done"]
    dependencies: [cache, db]
    health_check: { command: test, args: [-e, web.up] }
    labels: { tier: front }
  db:
    type: process
    command: [sh, -c, "trap 'echo db >>order; exit 0' TERM; touch db.up; while :; do sleep 0.02; done"]
    health_check: { command: test, args: [-e, db.up] }
  cache: { type: process, command: [sleep, "1000"], replicas: 2, labels: { tier: back } }
"#;

fn texts(value: &Value, key: &str) -> Vec<String> {
    let items = value.as_array().unwrap_or_else(|| panic!("no list: {value}"));
    items.iter().map(|item| item[key].as_str().unwrap_or_default().to_owned()).collect()
}

/// Instances of the steps of a plan, round by round.
fn rounds(plan: &Value) -> Vec<Vec<String>> {
    plan["rounds"].as_array().unwrap().iter().map(|round| texts(&round["steps"], "instance")).collect()
}

#[test]
fn a_dry_run_prints_the_plan_and_touches_nothing() {
    let project = Project::new(STACK);
    let plan = project.json(&["start", "--dry-run"]);
    assert_eq!(plan["schema"], 1);
    assert_eq!(rounds(&plan), [vec!["db-1", "cache-1", "cache-2"], vec!["web-1"]], "in the file's order");
    let text = project.ok(&["start", "--dry-run"]).stdout;
    assert!(text.contains("Round 2") && text.contains("web-1"), "{text}");
    assert_eq!(rounds(&project.json(&["start", "cache", "--dry-run"])), [["cache-1", "cache-2"]]);
    assert!(!project.path().join("state").exists(), "a dry run leaves nothing");

    project.ok(&["start", "db"]);
    let pid = project.pid("db-1");
    let planned: Vec<String> = rounds(&project.json(&["start", "--dry-run"])).concat();
    assert!(!planned.contains(&"db-1".to_owned()), "it runs already: {planned:?}");
    assert_eq!(project.json(&["status"])["instances"].as_array().unwrap().len(), 1, "nothing was started");
    project.write_services(&STACK.replace("touch db.up", "touch db.up; :"));
    let apply = project.json(&["start", "db", "--apply", "--dry-run"]);
    assert!(rounds(&apply).concat().contains(&"db-1".to_owned()), "{apply}");
    let text = project.ok(&["stop", "--dry-run"]);
    assert!(text.stdout.contains("db-1"), "{}", text.stdout);
    assert_eq!(project.pid("db-1"), pid, "dry runs change nothing");
}

#[test]
fn the_plan_of_a_dry_run_is_what_start_does() {
    let project = Project::new(STACK);
    let mut planned = rounds(&project.json(&["start", "--dry-run"])).concat();
    let done = project.json(&["start"]);
    let mut started = texts(&done["instances"], "instance");
    planned.sort();
    started.sort();
    assert_eq!(planned, started);
    assert_eq!((&done["schema"], &done["exit_code"]), (&1.into(), &0.into()));
    assert!(texts(&done["instances"], "outcome").iter().all(|outcome| outcome == "ready"), "{done}");
    assert_eq!(project.ok(&["start", "--dry-run"]).stdout, "nothing to do\n");
}

#[test]
fn listings_are_in_the_files_order() {
    let project = Project::new(STACK);
    let start = project.json(&["start"]);
    let order = ["web-1", "db-1", "cache-1", "cache-2"];
    assert_eq!(texts(&start["instances"], "instance"), order, "start");
    assert_eq!(texts(&project.json(&["status"])["instances"], "instance"), order, "status");
    assert_eq!(texts(&project.json(&["health"])["instances"], "instance"), order, "health");
    assert_eq!(texts(&project.json(&["list"])["services"], "name"), ["web", "db", "cache"], "list");
    let shown = project.ok(&["config", "show"]).stdout;
    let services = &shown[shown.find("\nservices:").unwrap()..];
    let at =
        |name: &str| services.find(&format!("\n  {name}:")).unwrap_or_else(|| panic!("{name} in {shown}"));
    assert!(at("web") < at("db") && at("db") < at("cache"), "config show: {shown}");
    let unknown = project.run(&["start", "zzzzzz"]);
    assert!(unknown.stderr.contains("web, db, cache"), "{}", unknown.stderr);
    let unknown = project.run(&["status", "zzzzzz"]);
    assert!(unknown.stderr.contains("web, db, cache"), "{}", unknown.stderr);
}

#[test]
fn what_changed_is_shown_with_its_keys_and_replaced_only_when_asked_for() {
    let project = Project::new(STACK);
    project.ok(&["start"]);
    let before = (project.pid("web-1"), project.pid("cache-1"));
    project.write_services(&STACK.replace(r#"[sleep, "1000"]"#, r#"[sleep, "2000"]"#));
    let start = project.ok(&["start"]);
    assert!(start.stderr.contains("cache-1") && start.stderr.contains("cache-2"), "{}", start.stderr);
    assert!(
        start.stderr.contains("args") || start.stderr.contains("command"),
        "what differs: {}",
        start.stderr
    );
    assert!(start.stderr.contains("harness start --apply"), "how to take it: {}", start.stderr);
    assert_eq!((project.pid("web-1"), project.pid("cache-1")), before);
    assert!(project.ok(&["status"]).stdout.contains("stale"));
    let start = project.ok(&["start", "--apply"]);
    assert!(start.stderr.contains("ready"), "{}", start.stderr);
    assert_eq!(project.pid("web-1"), before.0, "web has not changed");
    assert_ne!(project.pid("cache-1"), before.1);
    assert!(!project.ok(&["status"]).stdout.contains("stale"));
    assert!(project.ok(&["start"]).stderr.contains("unchanged"));
}

#[test]
fn only_values_that_the_file_names_make_an_instance_stale() {
    let project = Project::new(
        r#"
services:
  web: { type: process, command: [sh, -c, "echo ${GREETING:-hello}; exec sleep 1000"] }
"#,
    );
    project.ok(&["start"]);
    let pid = project.pid("web-1");
    let mut command = project.command(&["start"]);
    command.env("SOMETHING_ELSE", "1");
    let done = Running::piped(command).end();
    assert!(done.stderr.contains("unchanged"), "{}", done.stderr);
    let mut command = project.command(&["start", "--apply"]);
    command.env("GREETING", "moin");
    assert_eq!(Running::piped(command).end().code, 0);
    assert_ne!(project.pid("web-1"), pid);
    project.ok(&["-e", "GREETING=ahoi", "restart", "web"]);
    assert_eq!(project.logs("web"), ["hello", "moin", "ahoi"]);
}

#[test]
fn services_that_left_the_file_are_named_and_stopped_when_asked_for() {
    let project = Project::new(STACK);
    project.ok(&["start"]);
    let (web, db) = (project.pid("web-1"), project.pid("db-1"));
    let rest = &STACK[..STACK.find("  db:").unwrap()].replace("[cache, db]", "[]");
    project.write_services(rest);
    let start = project.ok(&["start"]);
    for said in ["db", "cache", "--remove-orphans"] {
        assert!(start.stderr.contains(said), "{said}: {}", start.stderr);
    }
    assert!(alive(db));
    assert_eq!(project.state("db-1"), "running", "an orphan is still listed");
    let cache = project.pid("cache-1");
    project.ok(&["stop", "cache"]);
    assert!(!alive(cache), "an orphan can be stopped by its name");
    project.ok(&["start", "--remove-orphans"]);
    until("the orphan ends", || !alive(db));
    assert!(alive(web));
    let status = project.json(&["status"]);
    assert_eq!(texts(&status["instances"], "instance"), ["web-1"], "{status:#}");
}

/// `slow` is healthy once the file `go` is there.
const SLOW: &str = r#"
services:
  quick: { type: process, command: [sleep, "1000"] }
  slow:
    type: process
    command: [sleep, "1000"]
    health_check: { command: test, args: [-e, go], interval: 50ms }
  after: { type: process, command: [sleep, "1000"], dependencies: [slow] }
"#;

#[test]
fn without_waiting_start_returns_at_once_and_the_daemon_goes_on() {
    let project = Project::new(SLOW);
    let begin = Instant::now();
    let start = project.ok(&["start", "--no-wait"]);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(start.stderr.contains("harness status"), "{}", start.stderr);
    until("slow starts", || project.state("slow-1") == "starting");
    assert_eq!(project.instance("after-1")["reason"]["code"], "waiting");
    project.write("go", "");
    until("all run", || project.state("after-1") == "running");
    assert_eq!(project.json(&["start", "--no-wait"])["schema"], 1);
}

#[test]
fn a_timeout_ends_the_waiting_with_5_and_leaves_running_what_runs() {
    let project = Project::new(SLOW);
    let start = project.run(&["start", "--timeout", "300ms"]);
    assert_eq!(start.code, 5, "{}", start.stderr);
    assert!(start.stderr.contains("slow is not ready yet"), "which: {}", start.stderr);
    assert!(start.stderr.contains("goes on: quick, slow"), "what runs: {}", start.stderr);
    assert!(start.stderr.contains("test exited with code 1"), "the check's last answer: {}", start.stderr);
    assert!(start.stderr.contains("harness health slow"), "what to do: {}", start.stderr);
    assert_eq!((project.state("quick-1"), project.state("slow-1")), ("running".into(), "starting".into()));
    let mut command = project.command(&["start", "-o", "json"]);
    command.env("HARNESS_TIMEOUT", "300ms");
    let done = Running::piped(command).end();
    assert_eq!(done.code, 5, "HARNESS_TIMEOUT: {}", done.stderr);
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&document["schema"], &document["exit_code"]), (&1.into(), &5.into()));
}

#[test]
fn past_its_startup_timeout_a_service_is_overdue_not_killed_and_may_still_come() {
    let project = Project::new(
        r#"
services:
  slow:
    type: process
    command: [sleep, "1000"]
    startup_timeout: 200ms
    health_check: { command: test, args: [-e, go], interval: 50ms }
  after: { type: process, command: [sleep, "1000"], dependencies: [slow] }
"#,
    );
    let start = project.run(&["start"]);
    assert_eq!(start.code, 5, "{}", start.stderr);
    let slow = project.instance("slow-1");
    assert_eq!(
        (&slow["state"], &slow["reason"]["code"]),
        (&"starting".into(), &"overdue".into()),
        "{slow:#}"
    );
    let pid = project.pid("slow-1");
    project.write("go", "");
    until("it and what waits for it come", || project.state("after-1") == "running");
    assert_eq!(project.pid("slow-1"), pid);
}

#[test]
fn one_failure_leaves_the_rest_alone_and_is_told_with_its_last_lines() {
    let project = Project::new(
        r#"
services:
  good: { type: process, command: [sleep, "1000"] }
  bad:
    type: process
    restart: no
    command: [sh, -c, "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo bad line $i; done; exit 9"]
    health_check: { command: "false" }
  blocked: { type: process, command: [sleep, "1000"], dependencies: [bad] }
  further: { type: process, command: [sleep, "1000"], dependencies: [blocked] }
"#,
    );
    let start = project.run(&["start"]);
    assert_eq!(start.code, 3, "{}", start.stderr);
    for said in
        ["bad line 12", "bad line 3\n", "exited with code 9", "blocked", "further", "harness logs bad"]
    {
        assert!(start.stderr.contains(said), "{said}: {}", start.stderr);
    }
    assert!(!start.stderr.contains("bad line 2\n"), "ten lines are enough: {}", start.stderr);
    assert_eq!(project.state("good-1"), "running");
    assert_eq!(project.state("blocked-1"), "registered");
    let bad = project.instance("bad-1");
    assert_eq!((&bad["state"], &bad["exit"]["code"]), (&"failed".into(), &9.into()), "{bad:#}");

    let again = project.run(&["start", "-o", "json"]);
    assert_eq!(again.code, 3);
    let document: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(
        texts(&document["instances"], "outcome"),
        ["ready", "failed", "blocked", "blocked"],
        "{document:#}"
    );
    let lines = document["instances"][1]["last_lines"].as_array().unwrap();
    assert_eq!((lines.len(), lines[9].as_str()), (10, Some("bad line 12")));
}

#[test]
fn rolling_back_stops_what_this_start_began_and_nothing_else() {
    let project = Project::new(
        r#"
services:
  old: { type: process, command: [sleep, "1000"] }
  new: { type: process, command: [sleep, "1000"] }
  bad: { type: process, restart: no, command: [sh, -c, "exit 1"], dependencies: [new], health_check: { command: "false" } }
"#,
    );
    project.ok(&["start", "old"]);
    let old = project.pid("old-1");
    let start = project.run(&["start", "--rollback-on-failure"]);
    assert_eq!(start.code, 3, "{}", start.stderr);
    assert_eq!(project.pid("old-1"), old);
    assert_eq!(project.state("new-1"), "stopped");
    assert_eq!(project.processes(), [old]);
}

#[test]
fn stop_ends_dependents_first_and_asks_for_a_flag_where_nobody_can_be_asked() {
    let project = Project::new(STACK);
    project.ok(&["start"]);
    let stop = project.run(&["stop", "db"]);
    assert_eq!(stop.code, 2);
    assert!(stop.stderr.contains("web") && stop.stderr.contains("-y"), "{}", stop.stderr);
    assert_eq!(project.state("db-1"), "running");
    let json = project.run(&["stop", "db", "-o", "json"]);
    let error: Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!((&error["schema"], &error["error"]["exit_code"]), (&1.into(), &2.into()), "{error:#}");
    project.ok(&["stop", "db", "-y"]);
    let order = std::fs::read_to_string(project.path().join("order")).unwrap();
    assert_eq!(order, "web\ndb\n");
    assert_eq!((project.state("web-1"), project.state("db-1")), ("stopped".into(), "stopped".into()));
    assert_eq!(project.state("cache-1"), "running");
    project.ok(&["stop", "db"]);
    project.ok(&["start"]);
    let web = project.pid("web-1");
    project.ok(&["stop", "--force", "db"]);
    assert_eq!(project.state("db-1"), "stopped");
    assert_eq!(project.pid("web-1"), web, "--force leaves running what needs it");
    let stop = project.json(&["stop"]);
    assert_eq!((&stop["schema"], stop["stopped"].as_array().unwrap().len()), (&1.into(), 3), "{stop}");
    assert!(project.processes().is_empty());
    assert!(project.ok(&["stop"]).stderr.contains("Nothing is running"));
    assert_eq!(project.json(&["stop"])["stopped"], serde_json::json!([]));
}

#[test]
fn after_stop_nothing_is_called_failed() {
    let project = Project::new("services:\n  web: { type: process, command: [sleep, '1000'] }\n");
    project.ok(&["start"]);
    project.ok(&["stop"]);
    assert_eq!(project.state("web-1"), "stopped", "it was asked to stop, that is no failure");
}

#[test]
fn one_replica_can_be_stopped_restarted_and_started() {
    let project = Project::new(STACK);
    project.ok(&["start", "cache"]);
    let (one, two) = (project.pid("cache-1"), project.pid("cache-2"));
    project.ok(&["restart", "cache-2"]);
    assert_eq!(project.pid("cache-1"), one);
    assert_ne!(project.pid("cache-2"), two);
    project.ok(&["stop", "cache-1", "-y"]);
    assert_eq!((project.state("cache-1"), project.state("cache-2")), ("stopped".into(), "running".into()));
    project.ok(&["start", "cache-1"]);
    assert_eq!(project.state("cache-1"), "running");
    let unknown = project.run(&["restart", "cache-3"]);
    assert_eq!(unknown.code, 2, "{}", unknown.stderr);
}

#[test]
fn restart_takes_the_new_text_and_tells_its_outcome() {
    let project = Project::new(STACK);
    let nothing = project.run(&["restart"]);
    assert_eq!(nothing.code, 1);
    assert!(nothing.stderr.contains("harness start"), "{}", nothing.stderr);
    project.ok(&["start"]);
    let (web, cache) = (project.pid("web-1"), project.pid("cache-1"));
    project.write_services(&STACK.replace(r#"[sleep, "1000"]"#, r#"[sh, -c, "exit 4"]"#));
    let restart = project.run(&["restart", "cache", "-o", "json"]);
    assert_eq!(restart.code, 3, "{}", restart.stderr);
    let document: Value = serde_json::from_str(&restart.stdout).unwrap();
    assert_eq!(texts(&document["instances"], "outcome"), ["failed", "failed"], "{document:#}");
    assert!(!alive(cache));
    assert_eq!(project.pid("web-1"), web, "what needs it goes on");
    project.write_services(STACK);
    project.ok(&["restart"]);
    assert_ne!(project.pid("web-1"), web);
    assert_eq!(project.state("cache-1"), "running");
}

#[test]
fn status_is_one_document_in_every_form() {
    let project = Project::new(STACK);
    let before = project.ok(&["status"]);
    assert!(
        before.stdout.is_empty() && before.stderr.contains("harness start"),
        "{}{}",
        before.stdout,
        before.stderr
    );
    project.ok(&["start", "web"]);
    let json = project.json(&["status"]);
    let yaml = project.ok(&["status", "-o", "yaml"]).stdout;
    let yaml: Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!((&json["schema"], &yaml["schema"]), (&1.into(), &1.into()));
    assert_eq!(yaml["instances"][0]["instance"], json["instances"][0]["instance"]);
    let table = project.ok(&["status"]).stdout;
    for said in ["NAME", "STATE", "web", "cache-1", "running", "healthy", &project.pid("web-1").to_string()] {
        assert!(table.contains(said), "{said}: {table}");
    }
    assert!(!table.contains('\u{1b}'), "{table:?}");
    let one = project.json(&["status", "db"]);
    assert_eq!(texts(&one["instances"], "instance"), ["db-1"]);
    assert_eq!(texts(&project.json(&["status", "cache-2"])["instances"], "instance"), ["cache-2"]);
    let unknown = project.run(&["status", "dv"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("did you mean 'db'"), "{}", unknown.stderr);
}

#[test]
fn list_shows_the_file_and_filters_by_state_type_name_label_and_health() {
    let project = Project::new(STACK);
    let listed = |filters: &[&str]| {
        let mut args = vec!["list"];
        filters.iter().for_each(|filter| args.extend(["--filter", filter]));
        texts(&project.json(&args)["services"], "name")
    };
    assert_eq!(listed(&[]), ["web", "db", "cache"], "also before anything was started");
    assert_eq!(listed(&["state=not-started"]), ["web", "db", "cache"]);
    project.ok(&["start", "db", "cache"]);
    assert_eq!(listed(&["state=running"]), ["db", "cache"]);
    assert_eq!(listed(&["health=healthy"]), ["db"]);
    assert_eq!(listed(&["type=process"]), ["web", "db", "cache"]);
    assert_eq!(listed(&["label.tier"]), ["web", "cache"]);
    assert_eq!(listed(&["label.tier=back"]), ["cache"]);
    assert_eq!(listed(&["c*"]), ["cache"]);
    assert_eq!(listed(&["name=db", "state=running"]), ["db"], "all must hold");
    assert_eq!(listed(&["name=db", "state=failed"]), [""; 0]);
    let wrong = project.run(&["list", "--filter", "colour=red"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("state="), "what is expected: {}", wrong.stderr);
    let labels = &project.json(&["list", "--filter", "web"])["services"][0]["labels"];
    assert_eq!(labels, &serde_json::json!({ "tier": "front" }));
    let table = project.ok(&["list"]).stdout;
    assert!(table.lines().nth(1).is_some_and(|line| line.starts_with("web")), "{table}");
}

#[test]
fn health_shows_the_last_answers_and_asks_again_when_told_to() {
    let project = Project::new(
        r#"
services:
  db: { type: process, command: [sleep, "1000"], health_check: { command: test, args: [-e, up], interval: 1h, retries: 1 } }
  plain: { type: process, command: [sleep, "1000"] }
"#,
    );
    project.write("up", "");
    project.ok(&["start"]);
    std::fs::remove_file(project.path().join("up")).unwrap();
    assert_eq!(
        project.json(&["health", "db"])["instances"][0]["health"]["status"],
        "healthy",
        "the last answer"
    );
    let now = project.run(&["health", "--run-now", "-o", "json"]);
    assert_eq!(now.code, 3, "{}{}", now.stdout, now.stderr);
    let now: Value = serde_json::from_str(&now.stdout).unwrap();
    assert_eq!(now["schema"], 1);
    assert_eq!(now["instances"][0]["health"]["status"], "unhealthy", "{now:#}");
    assert_eq!(now["instances"][1]["health"], Value::Null);
    project.write("up", "");
    let table = project.ok(&["health", "--run-now"]).stdout;
    assert!(table.contains("healthy") && table.contains("no check"), "{table}");
    assert_eq!(project.run(&["health", "bd"]).code, 2);
    project.ok(&["stop"]);
    assert_eq!(project.run(&["health", "--run-now"]).code, 4, "no daemon");
}

#[test]
fn events_tell_what_happened_in_order_and_follow() {
    let project = Project::new(STACK);
    assert_eq!(project.run(&["events"]).code, 4, "no daemon");
    project.ok(&["start", "db"]);
    let text = project.ok(&["events", "db"]).stdout;
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
    assert!(at("starting") < at("running"), "{text}");
    let lines = project.ok(&["events", "-o", "json"]).stdout;
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let revisions: Vec<u64> = events.iter().map(|event| event["revision"].as_u64().unwrap()).collect();
    assert!(revisions.windows(2).all(|pair| pair[0] < pair[1]), "{revisions:?}");
    assert!(events.iter().all(|event| event["schema"] == 1));
    assert_eq!(project.ok(&["events", "-n", "2"]).stdout.lines().count(), 2);
    assert!(project.ok(&["events", "--since", "1h"]).stdout.contains("db-1"));
    assert!(project.ok(&["events", "--since", "2100-01-01T00:00:00Z"]).stdout.is_empty());
    assert_eq!(project.run(&["events", "--since", "yesterday-ish"]).code, 2);

    let follow = Running::piped(project.command(&["events", "-f", "--since", "2100-01-01T00:00:00Z"]));
    let all = Running::piped(project.command(&["events", "-f", "cache"]));
    project.ok(&["start", "cache"]);
    all.shows("cache-2");
    project.ok(&["stop", "db"]);
    project.ok(&["stop", "cache"]);
    until("the end of cache-2 is told", || {
        let text = all.stdout();
        text.lines().any(|line| line.contains("cache-2") && line.contains("stopped"))
    });
    assert!(!all.stdout().contains("db-1"), "{}", all.stdout());
    assert!(follow.stdout().is_empty(), "{}", follow.stdout());
    all.signal("INT");
    assert!([130, -2].contains(&all.end().code));
}

#[test]
fn an_unknown_service_is_refused_by_every_command_with_the_nearest_name() {
    let project = Project::new(STACK);
    let refused = |args: &[&str]| {
        let done = project.run(args);
        assert_eq!(done.code, 2, "{args:?}\n{}\n{}", done.stdout, done.stderr);
        assert!(done.stderr.contains("did you mean 'cache'"), "{args:?}: {}", done.stderr);
    };
    for args in [
        &["start", "cahce"][..],
        &["config", "env", "cahce"],
        &["config", "deps", "cahce"],
        &["config", "show", "cahce"],
    ] {
        refused(args);
    }
    project.ok(&["start", "cache"]);
    for args in [
        &["start", "cahce"][..],
        &["start", "--dry-run", "cahce"],
        &["stop", "cahce"],
        &["restart", "cahce"],
        &["status", "cahce"],
        &["logs", "cahce"],
        &["health", "cahce"],
        &["exec", "cahce", "--", "true"],
        &["events", "cahce"],
        &["config", "env", "cahce"],
        &["config", "resolve", "cahce"],
    ] {
        refused(args);
    }
}

#[test]
fn the_daemon_tells_of_itself_and_can_be_ended_while_services_go_on() {
    let project = Project::new(STACK);
    assert_eq!(project.json(&["daemon", "status"])["daemon"], Value::Null);
    assert!(!project.path().join("state").exists(), "asking starts nothing");
    project.ok(&["start", "cache"]);
    let pid = project.pid("cache-1");
    let status = project.json(&["daemon", "status"]);
    assert_eq!((&status["schema"], &status["daemon"]["running"]), (&1.into(), &2.into()), "{status:#}");
    assert_eq!(
        status["daemon"]["config"].as_str(),
        project.path().canonicalize().unwrap().join("services.yaml").to_str()
    );
    let table = project.ok(&["daemon", "status"]).stdout;
    assert!(table.contains(&project.daemon_pid().to_string()), "{table}");
    let daemon = project.daemon_pid();
    let stop = project.ok(&["daemon", "stop"]);
    assert!(stop.stderr.contains("2"), "how many go on: {}", stop.stderr);
    assert!(!alive(daemon) && alive(pid));
    assert!(project.ok(&["daemon", "status"]).stderr.contains("go on"));
    assert_eq!(project.instance("cache-1")["pid"], pid, "status without a daemon");
    project.ok(&["daemon", "stop"]);

    let run = Running::piped(project.command(&["daemon", "run"]));
    until("the daemon in the foreground answers", || {
        !project.json(&["daemon", "status"])["daemon"].is_null()
    });
    assert_eq!(project.pid("cache-1"), pid, "adopted");
    let second = project.run(&["daemon", "run"]);
    assert_eq!(second.code, 1, "{}", second.stderr);
    assert!(second.stderr.contains(&project.daemon_pid().to_string()), "who holds it: {}", second.stderr);
    run.signal("TERM");
    let done = run.end();
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(alive(pid), "services outlive the daemon");
    project.ok(&["stop"]);
    assert!(!alive(pid));
}

#[test]
fn completions_are_accepted_by_their_shells_and_man_pages_name_every_command() {
    let project = Project::new(STACK);
    for shell in ["bash", "zsh", "fish"] {
        let script = project.ok(&["completions", shell]).stdout;
        assert!(script.contains("harness"), "{shell}");
        let file = project.write(&format!("completions.{shell}"), &script);
        // Shells that aren't installed can't judge.
        let mut command = std::process::Command::new(shell);
        if let Ok(output) = command.arg("-n").arg(file).output() {
            assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    assert_eq!(project.run(&["completions", "tcsh2"]).code, 2);
    let page = project.ok(&["man"]).stdout;
    assert!(page.contains(".TH"), "{page}");
    for command in ["start", "stop", "status", "logs", "exec"] {
        assert!(page.contains(command), "{command} isn't in the man page");
    }
}

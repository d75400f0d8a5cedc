//! From services.yaml to running and back.

use crate::support::{Project, alive, kill, until};

#[test]
fn a_stack_starts_in_order_answers_and_stops() {
    let project = Project::new(
        r#"
services:
  db:
    type: process
    command: python3 -m http.server ${self.port} --bind 127.0.0.1
    ports: [{name: http, port: auto}]
    health_check: { http: "http://127.0.0.1:${self.port}/" }
  web:
    type: process
    command: [sh, -c, "echo db is at $DB_ADDR; exec sleep 1000"]
    dependencies: [db]
tasks:
  migrate:
    command: [sh, -c, "echo migrated"]
    dependencies: [db]
"#,
    );
    let start = project.ok(&["start"]);
    assert!(start.stderr.contains("2 ready, 1 completed"), "{}", start.stderr);
    assert_eq!(project.state("web-1"), "running");
    assert_eq!(project.instance("db-1")["health"]["status"], "healthy");
    assert_eq!(project.logs("migrate"), ["migrated"]);
    assert!(project.logs("web")[0].starts_with("db is at 127.0.0.1:"));
    let again = project.ok(&["start"]);
    assert!(again.stderr.contains("unchanged"), "{}", again.stderr);
    assert_eq!(project.logs("migrate"), ["migrated"], "a task doesn't run again on a no-op");
    let pid = project.pid("web-1");
    project.ok(&["stop"]);
    assert!(!alive(pid));
    assert!(project.processes().is_empty());
}

#[test]
fn the_daemon_is_killed_and_nothing_happens_to_the_services() {
    let project = Project::new(
        r#"
services:
  web: { type: process, command: [sh, -c, "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done"] }
  brief: { type: process, restart: no, command: [sh, -c, "while [ ! -e go ]; do sleep 0.02; done; exit 7"] }
"#,
    );
    project.ok(&["start"]);
    let (web, brief) = (project.pid("web-1"), project.pid("brief-1"));
    kill(project.daemon_pid(), "KILL");
    project.write("go", "");
    until("brief has ended", || !alive(brief));
    let offline = project.run(&["status"]);
    assert!(offline.stderr.contains("no daemon"), "{}", offline.stderr);
    project.ok(&["start", "web"]);
    assert_eq!(project.pid("web-1"), web, "adopted, not started again");
    let ended = project.instance("brief-1");
    assert_eq!((&ended["state"], &ended["exit"]["code"]), (&"failed".into(), &7.into()), "{ended:#}");
    project.ok(&["stop", "web", "-y"]);
    let lines = project.logs("web");
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("line {}", i + 1), "no line is lost or doubled");
    }
}

#[test]
fn a_service_that_dies_is_restarted_at_once_if_it_was_stable() {
    let project = Project::new(
        r#"
services:
  web: { type: process, command: [sleep, "1000"], restart: { policy: always, reset_after: 0s } }
"#,
    );
    project.ok(&["start"]);
    let pid = project.pid("web-1");
    kill(pid, "KILL");
    until("a new process", || {
        project.instance("web-1")["pid"].as_u64().is_some_and(|new| new != u64::from(pid))
    });
    assert_eq!(project.instance("web-1")["restarts"], 1);
    assert_eq!(project.instance("web-1")["exit"]["signal"], 9);
}

#[test]
fn a_check_under_way_ends_with_what_it_asks() {
    let project = Project::new(
        r#"
services:
  web:
    type: process
    command: [sleep, "1000"]
    startup_timeout: 200ms
    health_check: { command: sh, args: [-c, "echo $$$$ > asking; exec sleep 1000"], timeout: 60s }
  other: { type: process, command: [sleep, "1000"] }
"#,
    );
    assert_eq!(project.run(&["start"]).code, 5);
    let file = project.path().join("asking");
    until("the check runs", || std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n')));
    let asking: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    project.ok(&["stop", "web"]);
    until("the check has ended", || !alive(asking));
    assert_eq!(project.state("other-1"), "running");
}

#[test]
fn a_secret_is_a_value_and_a_private_file() {
    let project = Project::new(
        r#"
secrets:
  password: { file: password.txt }
services:
  web:
    type: process
    command: [sh, -c, "echo $PW; cat $HARNESS_SECRETS/password; exec sleep 1000"]
    env: { PW: "${secrets.password}" }
"#,
    );
    project.write("password.txt", "hunter2\n");
    project.ok(&["start"]);
    // `cat` prints it without a line break: the line is whole when the service ends.
    until("it has read both", || project.logs("web").first().is_some_and(|line| line == "hunter2"));
    project.ok(&["stop", "-y"]);
    assert_eq!(project.logs("web"), ["hunter2", "hunter2"]);
}

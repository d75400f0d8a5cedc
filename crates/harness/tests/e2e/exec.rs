//! `harness exec`.

use crate::support::{Project, kill, until};
use crate::terminal::Running;
use std::io::Write;
use std::process::Stdio;

const STACK: &str = r#"
services:
  web:
    type: process
    command: [sleep, "1000"]
    replicas: 2
    working_dir: inside
    env: { GREETING: "hello there", DB: "${db.url}" }
  db: { type: process, command: [sleep, "1000"], ports: [{name: sql, port: auto}] }
"#;

fn project() -> Project {
    let project = Project::new(STACK);
    std::fs::create_dir(project.path().join("inside")).unwrap();
    project.ok(&["start"]);
    project
}

#[test]
fn a_command_has_the_services_folder_and_environment() {
    let project = project();
    let script = r#"echo "$GREETING|$HARNESS_SERVICE|$HARNESS_INSTANCE|$DB_PORT|$DB|$(pwd)""#;
    let said = project.ok(&["exec", "web", "--", "sh", "-c", script]).stdout;
    let fields: Vec<&str> = said.trim().split('|').collect();
    assert_eq!(fields[..3], ["hello there", "web", "web-1"]);
    assert_eq!(
        fields[4],
        format!("http://127.0.0.1:{}", fields[3]).replace("http", fields[4].split(':').next().unwrap())
    );
    assert!(fields[5].ends_with("/inside"), "{said}");
    let two = project.ok(&["exec", "web-2", "--", "sh", "-c", "echo $HARNESS_INSTANCE"]).stdout;
    assert_eq!(two, "web-2\n");
    let set = project.ok(&["-e", "GREETING=moin", "exec", "web", "--", "sh", "-c", "echo $GREETING"]).stdout;
    assert_eq!(set, "moin\n", "-e is for this command");
}

#[test]
fn arguments_arrive_as_they_are() {
    let project = project();
    let odd = ["a b", "", "$HOME", "`x`", "'\"", "*", "-o", "json", "--", "ü\n2", "\\"];
    let mut args = vec!["exec", "web", "--", "printf", "%s\\0"];
    args.extend(odd);
    assert_eq!(project.ok(&args).stdout, odd.map(|arg| format!("{arg}\0")).concat());
}

#[test]
fn exit_codes_and_signals_are_the_commands_own() {
    let project = project();
    let code = |args: &[&str]| {
        let mut all = vec!["exec", "web", "--"];
        all.extend(args);
        project.run(&all)
    };
    for number in [0, 1, 2, 42, 255] {
        assert_eq!(code(&["sh", "-c", &format!("exit {number}")]).code, number);
    }
    let missing = code(&["there-is-no-such-program"]);
    assert_eq!(missing.code, 127);
    assert!(missing.stderr.contains("there-is-no-such-program"), "{}", missing.stderr);
    project.write("inside/plain", "no program");
    assert_eq!(code(&["./plain"]).code, 126);
    assert_eq!(code(&["/"]).code, 126);

    let running = Running::piped(project.command(&[
        "exec",
        "web",
        "--",
        "sh",
        "-c",
        "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.01; done",
    ]));
    running.shows("ready");
    running.signal("TERM");
    let done = running.end();
    assert_eq!((done.code, done.stdout.as_str()), (9, "ready\ncaught\n"));
    let running =
        Running::piped(project.command(&["exec", "web", "--", "sh", "-c", "echo ready; exec sleep 1000"]));
    running.shows("ready");
    running.signal("INT");
    assert_eq!(running.end().code, -2);
}

#[test]
fn stdin_is_the_callers() {
    let project = project();
    let mut command = project.command(&["exec", "web", "--", "wc", "-c"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&vec![0xff; 3_000_000]).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "3000000");
    let mut shell = Running::in_terminal(project.command(&[
        "exec",
        "-it",
        "web",
        "--",
        "sh",
        "-c",
        "test -t 0 && test -t 1 && read x && echo got $x",
    ]));
    shell.press("words\n");
    let done = shell.end();
    assert_eq!(done.code, 0, "{}", done.stdout);
    assert!(done.stdout.contains("got words"), "{}", done.stdout);
}

#[test]
fn only_what_runs_can_be_joined_also_without_a_daemon() {
    let project = project();
    project.ok(&["stop", "db", "-y"]);
    let stopped = project.run(&["exec", "db", "--", "true"]);
    assert_eq!(stopped.code, 1, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("harness start"), "{}", stopped.stderr);
    let unknown = project.run(&["exec", "wbe", "--", "true"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("did you mean 'web'"), "{}", unknown.stderr);
    project.ok(&["start"]);
    let daemon = project.daemon_pid();
    kill(daemon, "KILL");
    until("the daemon is gone", || !crate::support::alive(daemon));
    let pid = project.pid("web-1");
    assert_eq!(project.ok(&["exec", "web", "--", "echo", "still"]).stdout, "still\n");
    assert_eq!(project.pid("web-1"), pid);
    project.ok(&["stop"]);
    let nothing = project.run(&["exec", "web", "--", "true"]);
    assert_eq!(nothing.code, 1);
    assert!(nothing.stderr.contains("harness start"), "{}", nothing.stderr);
}

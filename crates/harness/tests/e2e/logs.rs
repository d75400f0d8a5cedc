//! `harness logs`.

use crate::support::{Project, done, until};
use crate::terminal::Running;
use serde_json::Value;
use std::io::Read;
use std::process::Stdio;

const TWO: &str = r#"
services:
  a:
    type: process
    restart: no
    command: [sh, -c, "echo a one; touch one; while [ ! -e two ]; do sleep 0.01; done; printf '\\033[31ma three\\033[0m\\n'; touch three; exec sleep 1000"]
  longer-name:
    type: process
    restart: no
    command: [sh, -c, "while [ ! -e one ]; do sleep 0.01; done; echo b two >&2; touch two; while [ ! -e three ]; do sleep 0.01; done; echo b four; touch four; exec sleep 1000"]
"#;

fn two() -> Project {
    let project = Project::new(TWO);
    project.ok(&["start"]);
    until("all has been said", || {
        project.path().join("four").exists() && project.logs("longer-name").len() == 2
    });
    project
}

#[test]
fn several_are_merged_by_time_with_aligned_prefixes() {
    let project = two();
    let merged = "a           │ a one\nlonger-name │ b two\na           │ a three\nlonger-name │ b four\n";
    assert_eq!(project.ok(&["logs"]).stdout, merged, "also: no colours in a pipe");
    assert_eq!(project.ok(&["logs", "longer-name", "a"]).stdout, merged);
    assert_eq!(project.ok(&["logs", "--no-prefix"]).stdout, "a one\nb two\na three\nb four\n");
    let stamped = project.ok(&["logs", "-t", "--no-prefix", "a"]).stdout;
    let stamp = stamped.lines().next().unwrap().split(' ').next().unwrap();
    assert!(stamp.parse::<jiff::Timestamp>().is_ok(), "{stamped}");
    project.ok(&["stop"]);
    assert_eq!(project.ok(&["logs"]).stdout, merged, "also when all has stopped");
}

#[test]
fn lines_are_chosen_by_number_by_text_and_by_time() {
    let project = two();
    let lines = |args: &[&str]| {
        let mut all = vec!["logs", "--no-prefix"];
        all.extend(args);
        project.ok(&all).stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&["-n", "1"]), ["a three", "b four"], "of each");
    assert_eq!(lines(&["--tail", "0"]), [""; 0]);
    assert_eq!(lines(&["-n", "1000"]).len(), 4);
    assert_eq!(lines(&["--grep", "t(wo|hree)"]), ["b two", "a three"]);
    assert_eq!(lines(&["--since", "1h"]).len(), 4);
    assert_eq!(lines(&["--since", "2100-01-01T00:00:00Z"]), [""; 0]);
    assert_eq!(lines(&["--until", "2000-01-01T00:00:00Z"]), [""; 0]);
    let records: Vec<Value> = project
        .ok(&["logs", "-o", "json"])
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let second = records[1]["time"].as_str().unwrap();
    assert_eq!(lines(&["--until", second, "--since", records[0]["time"].as_str().unwrap()])[0], "a one");
    assert_eq!(lines(&["--since", second])[0], "b two");
    assert_eq!(lines(&["--since", second, "--grep", "three"]), ["a three"]);
    assert_eq!(lines(&["--since", second, "-n", "1", "a"]), ["a three"]);
    for wrong in
        [["--since", "soon"], ["--until", "10 parsecs"], ["--grep", "("], ["-n", "-5"], ["-n", "many"]]
    {
        let done = project.run(&["logs", wrong[0], wrong[1]]);
        assert_eq!(done.code, 2, "{wrong:?}: {}{}", done.stdout, done.stderr);
        assert!(
            done.stderr.contains(wrong[0].trim_start_matches('-')) || done.stderr.contains("--tail"),
            "{}",
            done.stderr
        );
    }
}

#[test]
fn json_has_a_document_on_each_line_with_stream_and_run() {
    let project = two();
    let text = project.ok(&["logs", "-o", "json"]).stdout;
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(records.iter().all(|record| record["schema"] == 1 && record["run"].is_string()));
    let short: Vec<_> =
        records.iter().map(|r| (r["instance"].as_str().unwrap(), r["stream"].as_str().unwrap())).collect();
    assert_eq!(
        short,
        [("a-1", "stdout"), ("longer-name-1", "stderr"), ("a-1", "stdout"), ("longer-name-1", "stdout")]
    );
    assert_eq!(records[2]["text"], "\u{1b}[31ma three\u{1b}[0m", "what it wrote, as it wrote it");
}

#[test]
fn a_terminal_gets_the_childs_own_colours_and_a_coloured_prefix() {
    let project = two();
    let shown = Running::in_terminal(project.command(&["logs"])).end().stdout;
    assert!(shown.contains("\u{1b}[31ma three"), "{shown:?}");
    let plain = Running::in_terminal(project.command(&["logs", "--no-color"])).end().stdout;
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
}

/// Writes numbered lines up to what the file `limit` says, and goes on from there in its next run.
const NUMBERS: &str = r#"
services:
  count:
    type: process
    command: [sh, -c, "n=$(cat n 2>/dev/null || echo 0); limit=$(cat limit); while [ $n -lt $limit ]; do n=$((n+1)); echo number $n; echo $n >n; done; exec sleep 1000"]
    logs: { max_size: SIZE, keep_files: 1000, keep_runs: 50 }
"#;

#[test]
fn following_goes_on_across_a_restart_and_loses_and_doubles_nothing() {
    let project = Project::new(&NUMBERS.replace("SIZE", "10MiB"));
    project.write("limit", "100");
    project.ok(&["start"]);
    let follow = Running::piped(project.command(&["logs", "-f", "--no-prefix", "count"]));
    follow.shows("number 100\n");
    project.write("limit", "200");
    project.ok(&["restart", "count"]);
    follow.shows("number 200\n");
    project.ok(&["stop"]);
    project.write("limit", "300");
    project.ok(&["start"]);
    follow.shows("number 300\n");
    let expected: String = (1..=300).map(|n| format!("number {n}\n")).collect();
    assert_eq!(follow.stdout(), expected);
    follow.signal("INT");
    let done = follow.end();
    assert!([130, -2].contains(&done.code), "{}", done.code);
    assert!(done.stderr.is_empty(), "{}", done.stderr);
}

#[test]
fn following_goes_on_across_rotation() {
    let project = Project::new(&NUMBERS.replace("SIZE", "4KiB"));
    project.write("limit", "0");
    project.ok(&["start"]);
    let follow = Running::piped(project.command(&["logs", "-f", "--no-prefix"]));
    project.write("limit", "3000");
    project.ok(&["restart", "count"]);
    follow.shows("number 3000\n");
    let folder = project.state_dir().join("instances/count-1");
    let files = std::fs::read_dir(folder).unwrap().flatten();
    let rotated = files.filter(|file| file.file_name().to_string_lossy().contains(".log.")).count();
    assert!(rotated > 5, "{rotated} rotated files");
    let expected: String = (1..=3000).map(|n| format!("number {n}\n")).collect();
    let got = follow.stdout();
    assert!(got == expected, "{} lines of 3000", got.lines().count());
    assert_eq!(project.logs("count").len(), 3000, "without following too");
}

#[test]
fn following_finds_services_that_start_later() {
    let project = Project::new(TWO);
    project.ok(&["start", "a"]);
    let follow = Running::piped(project.command(&["logs", "-f"]));
    follow.shows("a one");
    project.ok(&["start"]);
    follow.shows("b four");
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let project = Project::new(
        "services:\n  many: { type: process, command: [sh, -c, 'seq 100000; exec sleep 1000'] }\n",
    );
    project.ok(&["start"]);
    until("all is said", || project.logs("many").len() == 100_000);
    for args in [
        &["logs"][..],
        &["logs", "-o", "json"],
        &["logs", "-f"],
        &["events"],
        &["status"],
        &["config", "show"],
    ] {
        let mut child = project.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 1];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let end = done(child.wait_with_output().unwrap());
        assert!(end.code == 0 || end.code == -1, "{args:?} {}", end.code);
        assert!(end.stderr.is_empty(), "{args:?}: {}", end.stderr);
    }
}

#[test]
fn a_closed_or_full_stdout_breaks_nothing() {
    let project = Project::new(&NUMBERS.replace("SIZE", "10MiB"));
    project.write("limit", "10");
    project.ok(&["start"]);
    until("all is said", || project.logs("count").len() == 10);
    let program = env!("CARGO_BIN_EXE_harness");
    let shell = |script: &str| {
        let command = project.command(&[]);
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", script, "sh", program])
            .current_dir(project.path())
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        done(shell.output().unwrap())
    };
    for args in ["logs", "status", "list", "events", "start", "config show", "--help"] {
        for closed in [">&-", "2>&-", "<&-", "<&- >&- 2>&-"] {
            let end = shell(&format!("\"$1\" {args} {closed}"));
            assert_eq!(end.code, 0, "{args} {closed}: {}", end.stderr);
            assert!(!end.stderr.contains("panicked"), "{args} {closed}: {}", end.stderr);
        }
    }
    let full = shell("\"$1\" logs >/dev/full");
    assert_eq!(full.code, 1);
    assert!(full.stderr.contains("No space left"), "{}", full.stderr);
    let pid = project.pid("count-1");
    assert!(crate::support::alive(pid));
    project.ok(&["stop"]);
    assert_eq!(shell("\"$1\" start >&- 2>&- <&-").code, 0, "a daemon can be started without any of them");
    assert_eq!(project.state("count-1"), "running");
}

#[test]
fn logs_of_nothing_and_of_nobody() {
    let project = Project::new(TWO);
    let none = project.ok(&["logs"]);
    assert!(none.stdout.is_empty() && none.stderr.contains("harness start"), "{}", none.stderr);
    assert!(!project.path().join("state").exists(), "looking leaves nothing");
    project.ok(&["start", "a"]);
    let unknown = project.run(&["logs", "longer-nam"]);
    assert_eq!(unknown.code, 2, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("did you mean 'longer-name'"), "{}", unknown.stderr);
    let silent = project.ok(&["logs", "longer-name"]);
    assert!(silent.stdout.is_empty(), "a service of the file that has not said anything is no mistake");
}

//! Files with mistakes, and files that are none: told, located, and nothing is started.

use crate::support::{Done, Project, done};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// A wrong file is told within this. The program that users have is an optimised one.
const SOON: Duration = if cfg!(debug_assertions) { Duration::from_secs(5) } else { Duration::from_secs(1) };

/// A file with mistakes: what to write, and what must be said of it.
struct Wrong {
    what: &'static str,
    text: String,
    /// `line:column` of the place.
    place: &'static str,
    says: &'static [&'static str],
}

fn wrong(
    what: &'static str,
    text: impl Into<String>,
    place: &'static str,
    says: &'static [&'static str],
) -> Wrong {
    Wrong { what, text: text.into(), place, says }
}

/// `version` and one line after it.
fn services(text: &str) -> String {
    format!("version: \"1.0\"\nservices:\n{text}\n")
}

fn bomb() -> String {
    let mut text = String::from("version: \"1.0\"\ntemplates:\n  t0: &t0 {env: {a: x}}\n");
    for level in 1..40 {
        let aliases = vec![format!("*t{}", level - 1); 9].join(", ");
        text.push_str(&format!("  t{level}: &t{level} [{aliases}]\n"));
    }
    text
}

fn mistakes() -> Vec<Wrong> {
    vec![
        wrong(
            "unknown key",
            services("  web: {type: process, command: ls, comand: x}"),
            "3:37",
            &["comand", "did you mean `command`"],
        ),
        wrong(
            "unknown key at the top",
            "version: \"1.0\"\nsevices: {}\n",
            "2:1",
            &["sevices", "did you mean `services`"],
        ),
        wrong(
            "wrong type",
            services("  web: {type: process, command: ls, replicas: many}"),
            "3:47",
            &["many", "whole number"],
        ),
        wrong("a list for a map", services("  - web"), "3:3", &["list"]),
        wrong("missing field", services("  web: {type: process}"), "3:3", &["web", "command", "binary"]),
        wrong("missing type", services("  web: {command: ls}"), "3:3", &["`type`"]),
        wrong("missing version", "services:\n  web: {type: process, command: ls}\n", "1:1", &["version"]),
        wrong("wrong version", "version: \"9.0\"\nservices: {}\n", "1:10", &["9.0", "1.0"]),
        wrong(
            "unknown type",
            services("  web: {type: proces, command: ls}"),
            "3:15",
            &["proces", "did you mean `process`"],
        ),
        wrong(
            "duplicate name",
            services("  web: {type: process, command: ls}\n  web: {type: process, command: ls}"),
            "4:3",
            &["web", "twice"],
        ),
        wrong(
            "names that differ in case only",
            services("  web: {type: process, command: ls}\n  Web: {type: process, command: ls}"),
            "4:3",
            &["Web"],
        ),
        wrong(
            "a name that can't be one",
            services("  \"we b\": {type: process, command: ls}"),
            "3:3",
            &["we b"],
        ),
        wrong(
            "cycle",
            services(
                "  a: {type: process, command: ls, dependencies: [b]}\n  b: {type: process, command: ls, dependencies: [c]}\n  c: {type: process, command: ls, dependencies: [a]}",
            ),
            "3:50",
            &["a → b → c → a"],
        ),
        wrong(
            "cycle through references",
            services(
                "  a: {type: process, command: 'ls ${b.ip}'}\n  b: {type: process, command: 'ls ${a.ip}'}",
            ),
            "3:",
            &["a → b → a", "none"],
        ),
        wrong(
            "self-dependency",
            services("  a: {type: process, command: ls, dependencies: [a]}"),
            "3:50",
            &["itself"],
        ),
        wrong(
            "unknown dependency",
            services(
                "  web: {type: process, command: ls, dependencies: [bd]}\n  db: {type: process, command: ls}",
            ),
            "3:52",
            &["bd", "did you mean `db`"],
        ),
        wrong(
            "unknown service in a reference",
            services("  web: {type: process, command: 'ls ${bd.ip}'}\n  db: {type: process, command: ls}"),
            "3:37",
            &["bd", "db"],
        ),
        wrong(
            "unknown template",
            services("  web: {type: process, command: ls, extends: base}"),
            "3:46",
            &["base"],
        ),
        wrong(
            "unknown network",
            services("  web: {type: process, command: ls, network: lna}"),
            "3:46",
            &["lna"],
        ),
        wrong(
            "unset variable",
            services("  web: {type: process, command: 'ls ${SURELY_NOT_SET}'}"),
            "3:37",
            &["SURELY_NOT_SET", "-e SURELY_NOT_SET"],
        ),
        wrong(
            "a variable with a message",
            services("  web: {type: process, command: 'ls ${SURELY_NOT_SET:?ask the office}'}"),
            "3:37",
            &["ask the office"],
        ),
        wrong(
            "unclosed reference",
            services("  web: {type: process, command: 'ls ${OOPS'}"),
            "3:37",
            &["not closed", "$${"],
        ),
        wrong(
            "a duration that is none",
            services("  web: {type: process, command: ls, startup_timeout: soon}"),
            "3:54",
            &["soon", "500ms"],
        ),
        wrong(
            "a size that is none",
            services("  web: {type: process, command: ls, logs: {max_size: big}}"),
            "3:54",
            &["big"],
        ),
        wrong(
            "a port used twice",
            services(
                "  a: {type: process, command: ls, ports: [8080]}\n  b: {type: process, command: ls, ports: [8080]}",
            ),
            "4:",
            &["8080"],
        ),
        wrong(
            "a fixed port with replicas",
            services("  a: {type: process, command: ls, ports: [8080], replicas: 2}"),
            "3:",
            &["8080", "auto"],
        ),
        wrong("YAML bomb", bomb(), ":", &["alias"]),
        wrong(
            "100,000 lists deep",
            format!("version: \"1.0\"\nservices: {}", "[".repeat(100_000)),
            "2:",
            &["64 levels"],
        ),
        wrong(
            "100,000 maps deep",
            format!("version: \"1.0\"\nservices: {}", "{a: ".repeat(100_000)),
            "2:",
            &["64 levels"],
        ),
        wrong(
            "100,000 blocks deep",
            (0..2_000).fold(String::from("version: \"1.0\"\nservices:\n"), |text, n| {
                format!("{text}{}a:\n", " ".repeat(n + 1))
            }),
            ":",
            &["64 levels"],
        ),
        wrong("unclosed bracket", "version: \"1.0\"\nservices: [\n", "2:11", &["not valid YAML"]),
        wrong("a tab", "version: \"1.0\"\nservices:\n\tweb: x\n", "3:2", &["spaces"]),
        wrong("a text", "hello\n", "1:1", &["expected a map"]),
        wrong("empty", "", "services.yaml", &["empty", "harness init"]),
        wrong("only a comment", "# nothing\n", "services.yaml", &["empty"]),
        wrong("bytes", "\u{0}\u{1}\u{2}", "1:1", &["not valid YAML"]),
    ]
}

/// Whether anything was begun: a state folder is the first trace of it.
fn untouched(project: &Project) -> bool {
    !project.path().join("state").exists()
}

fn timed(project: &Project, args: &[&str]) -> Done {
    let begin = Instant::now();
    let done = project.run(args);
    assert!(begin.elapsed() < SOON, "{args:?} took {:?}", begin.elapsed());
    done
}

#[test]
fn every_mistake_is_located_ends_with_2_and_starts_nothing() {
    let project = Project::new("");
    for Wrong { what, text, place, says } in mistakes() {
        project.write("services.yaml", &text);
        for command in ["start", "validate"] {
            let done = timed(&project, &[command]);
            assert_eq!(done.code, 2, "{what}, {command}: {}{}", done.stdout, done.stderr);
            let place = if place.contains("yaml") {
                place.to_owned()
            } else {
                format!("services.yaml:{}", place.trim_start_matches(':'))
            };
            assert!(done.stderr.contains(&place), "{what}: not at {place}: {}", done.stderr);
            for said in says {
                assert!(done.stderr.contains(said), "{what}: {said:?} isn't said: {}", done.stderr);
            }
            assert!(done.stderr.len() < 20_000, "{what}: {} bytes are too much to read", done.stderr.len());
            assert!(!done.stderr.contains("panicked"), "{what}: {}", done.stderr);
        }
        let json = timed(&project, &["validate", "-o", "json"]);
        assert_eq!(json.code, 2, "{what}");
        let document: Value =
            serde_json::from_str(&json.stdout).unwrap_or_else(|e| panic!("{what} {e}: {}", json.stdout));
        assert_eq!(document["schema"], 1, "{what}");
        assert!(untouched(&project), "{what}");
    }
}

#[test]
fn what_is_no_readable_file_is_told_and_starts_nothing() {
    let project = Project::new("");
    project.write("bytes.yaml", "");
    fs::write(
        project.path().join("bytes.yaml"),
        b"version: \"1.0\"\nservices: {web: {type: process, command: \"\xff\"}}\n",
    )
    .unwrap();
    fs::create_dir(project.path().join("folder.yaml")).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(project.path().join("pipe.yaml"))
            .status()
            .unwrap()
            .success()
    );
    std::os::unix::fs::symlink("loop.yaml", project.path().join("loop.yaml")).unwrap();
    let mut big = String::from("version: \"1.0\"\n");
    big.push_str(&"# padding\n".repeat(4_000_000));
    project.write("big.yaml", &big);
    for (file, said) in [
        ("bytes.yaml", "UTF-8"),
        ("folder.yaml", "directory"),
        ("pipe.yaml", "regular file"),
        ("loop.yaml", "loop.yaml"),
        ("big.yaml", "larger"),
        ("/dev/zero", "regular file"),
        ("absent.yaml", "absent.yaml"),
    ] {
        for command in ["start", "validate"] {
            let done = timed(&project, &[command, "-c", file]);
            assert_eq!(done.code, 2, "{file}: {}", done.stderr);
            assert!(
                done.stderr.contains(said) && done.stderr.contains(file.trim_start_matches('/')),
                "{file}: {}",
                done.stderr
            );
            assert!(untouched(&project), "{file}");
        }
    }
    let bytes = project.run(&["validate", "-c", "bytes.yaml"]);
    assert!(
        bytes.stderr.contains("line 2, column 43") || bytes.stderr.contains("bytes.yaml:2:43"),
        "{}",
        bytes.stderr
    );
    fs::remove_file(project.path().join("services.yaml")).unwrap();
    fs::create_dir(project.path().join("services.yaml")).unwrap();
    let folder = timed(&project, &["start"]);
    assert_eq!(folder.code, 2);
    assert!(folder.stderr.contains("services.yaml"), "{}", folder.stderr);
    assert!(untouched(&project));
}

#[test]
fn a_file_that_may_not_be_read_is_told() {
    let project = Project::new("");
    fs::set_permissions(project.path().join("services.yaml"), PermissionsExt::from_mode(0o000)).unwrap();
    if fs::read(project.path().join("services.yaml")).is_ok() {
        // Root may read everything: as someone else, who needs the way there and the program.
        fs::set_permissions(project.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let program = project.path().join("harness");
        fs::copy(env!("CARGO_BIN_EXE_harness"), &program).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).arg("start");
        let Ok(output) = command
            .current_dir(project.path())
            .env("HOME", project.path())
            .env_remove("XDG_STATE_HOME")
            .output()
        else {
            return;
        };
        told(&done(output));
    } else {
        told(&project.run(&["start"]));
    }
    fn told(done: &Done) {
        assert_eq!(done.code, 2, "{}", done.stderr);
        assert!(
            done.stderr.contains("Permission denied") && done.stderr.contains("services.yaml"),
            "{}",
            done.stderr
        );
    }
    assert!(untouched(&project));
}

#[test]
fn all_problems_are_told_at_once_in_the_files_order_with_their_number() {
    let project = Project::new("");
    project.write(
        "services.yaml",
        &services("  a: {type: process, command: ls, dependencies: [nobody]}\n  b: {type: process, comand: ls}\n  c: {type: process, command: ls, restart: sometimes}"),
    );
    let said = project.run(&["validate"]).stderr;
    let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text}: {said}"));
    assert!(at("nobody") < at("comand") && at("comand") < at("sometimes"), "{said}");
    assert!(said.contains("errors"), "{said}");
    assert!(said.contains("^^^^^^"), "underlined: {said}");
}

#[test]
fn a_thousand_services_are_valid_within_a_second() {
    let mut text = String::new();
    for n in 0..1000 {
        let needs = if n == 0 { String::new() } else { format!(", dependencies: [s{}]", n / 2) };
        let needs = if n == 1 { ", dependencies: [s0]".to_owned() } else { needs };
        text.push_str(&format!("  s{n}: {{type: process, command: 'sleep ${{SECS:-10}}', ports: [{{name: http, port: auto}}], env: {{A: \"b\"}}{needs}}}\n"));
    }
    let project = Project::new("");
    project.write("services.yaml", &services(&text));
    let done = timed(&project, &["validate"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stderr.contains("1000 services"), "{}", done.stderr);
}

#[test]
fn what_this_version_cannot_run_is_said_before_anything_starts() {
    let project = Project::new("");
    let head =
        "nodes: {eu: {host: eu.example.com}}\nservices:\n  fine: {type: process, command: [sleep, '1000']}\n";
    for (line, said) in [("  it: {type: package, package: x-1.0.0.tar.zst}", "package")] {
        project.write_services(&format!("{head}{line}\n"));
        assert_eq!(project.run(&["validate"]).code, 0, "{line}: {}", project.run(&["validate"]).stderr);
        for args in [&["start"][..], &["start", "it"], &["start", "--dry-run"], &["start", "--no-wait"]] {
            let done = project.run(args);
            assert_eq!(done.code, 2, "{line} {args:?}: {}{}", done.stdout, done.stderr);
            assert!(done.stderr.contains(said) && done.stderr.contains("it"), "{line}: {}", done.stderr);
            assert!(done.stderr.contains("nothing was started"), "{line}: {}", done.stderr);
            assert!(untouched(&project), "{line} {args:?}");
        }
    }
    project.ok(&["start", "fine"]);
    assert_eq!(project.state("fine-1"), "running", "what it can run it runs");
}

#[test]
fn warnings_are_errors_only_when_asked_for() {
    let project = Project::new("services:\n  web: {type: process, binary: ./there-is-none}\n");
    let valid = project.ok(&["validate"]);
    assert!(valid.stderr.contains("warning") && valid.stderr.contains("there-is-none"), "{}", valid.stderr);
    let strict = project.run(&["validate", "--strict"]);
    assert_eq!(strict.code, 2, "{}", strict.stderr);
    assert_eq!(project.run(&["start", "--strict"]).code, 2);
    assert!(untouched(&project));
    let check = project.ok(&["config", "check"]);
    assert_eq!((check.stdout, check.stderr), (valid.stdout, valid.stderr), "the same by another name");
}

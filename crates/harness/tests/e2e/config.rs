//! Configuration as a user meets it: mistakes, what it means, starters, and what is never shown.

use crate::support::{Done, Project, done, until};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
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

fn wrong(what: &'static str, text: impl Into<String>, place: &'static str, says: &'static [&'static str]) -> Wrong {
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
        wrong("unknown key", services("  web: {type: process, command: ls, comand: x}"), "3:37", &["comand", "did you mean `command`"]),
        wrong("unknown key at the top", "version: \"1.0\"\nsevices: {}\n", "2:1", &["sevices", "did you mean `services`"]),
        wrong("wrong type", services("  web: {type: process, command: ls, replicas: many}"), "3:47", &["many", "whole number"]),
        wrong("a list for a map", services("  - web"), "3:3", &["list"]),
        wrong("missing field", services("  web: {type: process}"), "3:3", &["web", "command", "binary"]),
        wrong("missing type", services("  web: {command: ls}"), "3:3", &["`type`"]),
        wrong("missing version", "services:\n  web: {type: process, command: ls}\n", "1:1", &["version"]),
        wrong("wrong version", "version: \"9.0\"\nservices: {}\n", "1:10", &["9.0", "1.0"]),
        wrong("unknown type", services("  web: {type: proces, command: ls}"), "3:15", &["proces", "did you mean `process`"]),
        wrong("duplicate name", services("  web: {type: process, command: ls}\n  web: {type: process, command: ls}"), "4:3", &["web", "twice"]),
        wrong("names that differ in case only", services("  web: {type: process, command: ls}\n  Web: {type: process, command: ls}"), "4:3", &["Web"]),
        wrong("a name that can't be one", services("  \"we b\": {type: process, command: ls}"), "3:3", &["we b"]),
        wrong(
            "cycle",
            services("  a: {type: process, command: ls, dependencies: [b]}\n  b: {type: process, command: ls, dependencies: [c]}\n  c: {type: process, command: ls, dependencies: [a]}"),
            "3:50",
            &["a → b → c → a"],
        ),
        wrong("cycle through references", services("  a: {type: process, command: 'ls ${b.ip}'}\n  b: {type: process, command: 'ls ${a.ip}'}"), "3:", &["a → b → a", "none"]),
        wrong("self-dependency", services("  a: {type: process, command: ls, dependencies: [a]}"), "3:50", &["itself"]),
        wrong("unknown dependency", services("  web: {type: process, command: ls, dependencies: [bd]}\n  db: {type: process, command: ls}"), "3:52", &["bd", "did you mean `db`"]),
        wrong("unknown service in a reference", services("  web: {type: process, command: 'ls ${bd.ip}'}\n  db: {type: process, command: ls}"), "3:37", &["bd", "db"]),
        wrong("unknown template", services("  web: {type: process, command: ls, extends: base}"), "3:46", &["base"]),
        wrong("unknown network", services("  web: {type: process, command: ls, network: lna}"), "3:46", &["lna"]),
        wrong("unset variable", services("  web: {type: process, command: 'ls ${SURELY_NOT_SET}'}"), "3:37", &["SURELY_NOT_SET", "-e SURELY_NOT_SET"]),
        wrong("a variable with a message", services("  web: {type: process, command: 'ls ${SURELY_NOT_SET:?ask the office}'}"), "3:37", &["ask the office"]),
        wrong("unclosed reference", services("  web: {type: process, command: 'ls ${OOPS'}"), "3:37", &["not closed", "$${"]),
        wrong("a duration that is none", services("  web: {type: process, command: ls, startup_timeout: soon}"), "3:54", &["soon", "500ms"]),
        wrong("a size that is none", services("  web: {type: process, command: ls, logs: {max_size: big}}"), "3:54", &["big"]),
        wrong("a port used twice", services("  a: {type: process, command: ls, ports: [8080]}\n  b: {type: process, command: ls, ports: [8080]}"), "4:", &["8080"]),
        wrong("a fixed port with replicas", services("  a: {type: process, command: ls, ports: [8080], replicas: 2}"), "3:", &["8080", "auto"]),
        wrong("YAML bomb", bomb(), ":", &["alias"]),
        wrong("100,000 lists deep", format!("version: \"1.0\"\nservices: {}", "[".repeat(100_000)), "2:", &["64 levels"]),
        wrong("100,000 maps deep", format!("version: \"1.0\"\nservices: {}", "{a: ".repeat(100_000)), "2:", &["64 levels"]),
        wrong("100,000 blocks deep", (0..2_000).fold(String::from("version: \"1.0\"\nservices:\n"), |text, n| format!("{text}{}a:\n", " ".repeat(n + 1))), ":", &["64 levels"]),
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
            let place = if place.contains("yaml") { place.to_owned() } else { format!("services.yaml:{}", place.trim_start_matches(':')) };
            assert!(done.stderr.contains(&place), "{what}: not at {place}: {}", done.stderr);
            for said in says {
                assert!(done.stderr.contains(said), "{what}: {said:?} isn't said: {}", done.stderr);
            }
            assert!(done.stderr.len() < 20_000, "{what}: {} bytes are too much to read", done.stderr.len());
            assert!(!done.stderr.contains("panicked"), "{what}: {}", done.stderr);
        }
        let json = timed(&project, &["validate", "-o", "json"]);
        assert_eq!(json.code, 2, "{what}");
        let document: Value = serde_json::from_str(&json.stdout).unwrap_or_else(|e| panic!("{what} {e}: {}", json.stdout));
        assert_eq!(document["schema"], 1, "{what}");
        assert!(untouched(&project), "{what}");
    }
}

#[test]
fn what_is_no_readable_file_is_told_and_starts_nothing() {
    let project = Project::new("");
    project.write("bytes.yaml", "");
    fs::write(project.path().join("bytes.yaml"), b"version: \"1.0\"\nservices: {web: {type: process, command: \"\xff\"}}\n").unwrap();
    fs::create_dir(project.path().join("folder.yaml")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(project.path().join("pipe.yaml")).status().unwrap().success());
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
            assert!(done.stderr.contains(said) && done.stderr.contains(file.trim_start_matches('/')), "{file}: {}", done.stderr);
            assert!(untouched(&project), "{file}");
        }
    }
    let bytes = project.run(&["validate", "-c", "bytes.yaml"]);
    assert!(bytes.stderr.contains("line 2, column 43") || bytes.stderr.contains("bytes.yaml:2:43"), "{}", bytes.stderr);
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
    fs::set_permissions(project.path().join("services.yaml"), PermissionsExt::from_mode(0)).unwrap();
    if fs::read(project.path().join("services.yaml")).is_ok() {
        // Root may read everything: as someone else, who needs the way there and the program.
        fs::set_permissions(project.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let program = project.path().join("harness");
        fs::copy(env!("CARGO_BIN_EXE_harness"), &program).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).arg("start");
        let Ok(output) = command.current_dir(project.path()).env("HOME", project.path()).env_remove("XDG_STATE_HOME").output() else {
            return;
        };
        told(&done(output));
    } else {
        told(&project.run(&["start"]));
    }
    fn told(done: &Done) {
        assert_eq!(done.code, 2, "{}", done.stderr);
        assert!(done.stderr.contains("Permission denied") && done.stderr.contains("services.yaml"), "{}", done.stderr);
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
    let head = "nodes: {eu: {host: eu.example.com}}\nservices:\n  fine: {type: process, command: [sleep, '1000']}\n";
    for (line, said) in [
        ("  it: {type: process, command: ls, host: eu}", "another machine"),
        ("  it: {type: remote, command: ls, host: eu}", "isn't there yet"),
        ("  it: {type: docker, image: nginx}", "docker"),
        ("  it: {type: compose, file: compose.yaml}", "compose"),
        ("  it: {type: systemd, unit: cron.service}", "systemd"),
        ("  it: {type: portable, image: x.raw, unit: x.service}", "portable"),
        ("  it: {type: package, package: x-1.0.0.tar.zst}", "package"),
        ("  it: {type: attach, unit: cron.service}", "attach"),
    ] {
        project.write("compose.yaml", "services: {}\n");
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

const SHOWN: &str = r#"
env_file: [all.env]
networks: { local: { type: local } }
secrets:
  PASSWORD: { env: SHOP_PASSWORD }
  KEY: { file: key.txt }
templates:
  base: { env: { LEVEL: "${LEVEL:-info}" }, restart: always }
tasks:
  migrate: { command: [sh, -c, "true"] }
services:
  web:
    type: process
    extends: base
    command: [sh, -c, "touch up; exec sleep 1000"]
    env: { TOKEN: from-the-file-123, PASSWORD: "${secrets.PASSWORD}", FROM_FILE: "${IN_ENV_FILE}", DB: "${db.url}" }
    env_file: [web.env]
    dependencies: [migrate]
    ports: [{ name: http, port: auto }]
    health_check: { command: test, args: [-e, up] }
  db: { type: process, command: [sleep, "1000"], ports: [{ name: sql, port: auto, protocol: tcp }], env: { K: "${secrets.KEY}" } }
"#;

/// Every value that must not be seen.
const HIDDEN: [&str; 6] = ["from-the-file-123", "from-the-secret-456", "from-the-env-file-789", "from-web-env-012", "from-the-caller-345", "from-key-678"];

fn shown() -> Project {
    let project = Project::new(SHOWN);
    project.write("all.env", "IN_ENV_FILE=from-the-env-file-789\n");
    project.write("web.env", "IN_WEB_ENV=from-web-env-012\n");
    project.write("key.txt", "from-key-678\n");
    project
}

fn with_secrets(project: &Project, args: &[&str]) -> Done {
    let mut command = project.command(args);
    command.env("SHOP_PASSWORD", "from-the-secret-456").env("OF_THE_CALLER", "from-the-caller-345");
    done(command.output().unwrap())
}

#[test]
fn secrets_are_in_no_output_no_log_of_the_daemon_and_no_arguments() {
    let project = shown();
    let clean = |what: &str, text: &str| {
        for secret in HIDDEN {
            assert!(!text.contains(secret), "{what} shows {secret}: {text}");
        }
    };
    for args in [
        &["validate"][..],
        &["start", "--dry-run", "-o", "json"],
        &["-vvv", "start"],
        &["start", "-o", "json"],
        &["status"],
        &["status", "-o", "json"],
        &["list", "-o", "json"],
        &["health", "--run-now", "-o", "json"],
        &["events", "-o", "json"],
        &["config", "show"],
        &["config", "show", "-o", "json"],
        &["config", "env", "web"],
        &["config", "env", "web", "-o", "json"],
        &["config", "deps", "-o", "json"],
        &["-e", "SHOP_PASSWORD=from-the-secret-456", "config", "resolve", "${web.url}"],
        &["daemon", "status", "-o", "json"],
        &["logs", "-o", "json"],
    ] {
        let done = with_secrets(&project, args);
        assert_eq!(done.code, 0, "{args:?} {}{}", done.stdout, done.stderr);
        clean(&format!("{args:?}"), &done.stdout);
        clean(&format!("{args:?}"), &done.stderr);
    }
    project.write_services(&SHOWN.replace("from-the-file-123", "changed-000"));
    let stale = with_secrets(&project, &["start"]);
    assert!(stale.stderr.contains("env"), "{}", stale.stderr);
    clean("what is stale", &stale.stderr);
    assert!(!stale.stderr.contains("changed-000"), "{}", stale.stderr);
    // With -e on the command line of the caller they would be, but that is the caller's doing: nobody of ours has them.
    let mut seen = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        seen += usize::from(!line.is_empty());
        clean("/proc", &String::from_utf8_lossy(&line));
    }
    assert!(seen > 3);
    let log = fs::read_to_string(project.state_dir().join("daemon.log")).unwrap();
    clean("daemon.log", &log);
    let runs = project.state_dir().join("instances");
    for instance in fs::read_dir(runs).unwrap().flatten() {
        for file in fs::read_dir(instance.path()).unwrap().flatten().filter(|file| file.path().is_file()) {
            if file.file_name().to_string_lossy().ends_with(".json") {
                clean("a run's record", &String::from_utf8_lossy(&fs::read(file.path()).unwrap()));
            }
        }
    }
    let mut folders = vec![project.state_dir()];
    while let Some(folder) = folders.pop() {
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o077, 0, "{}", folder.display());
        folders.extend(fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    let env = with_secrets(&project, &["exec", "web", "--", "env"]).stdout;
    for secret in ["from-the-file-123", "from-the-secret-456", "from-the-env-file-789", "from-web-env-012", "from-the-caller-345"] {
        assert!(env.contains(secret), "the service itself has {secret}: {env}");
    }
}

#[test]
fn values_are_shown_when_that_is_asked_for() {
    let project = shown();
    let show = with_secrets(&project, &["config", "show", "--show-values"]);
    assert!(show.stdout.contains("from-the-file-123"), "{}", show.stdout);
    assert!(!show.stdout.contains("from-key-678"), "a secret is shown by its name: {}", show.stdout);
    assert_eq!(with_secrets(&project, &["start"]).code, 0);
    let env = with_secrets(&project, &["config", "env", "web", "--show-values", "-o", "json"]).stdout;
    let env: Value = serde_json::from_str(&env).unwrap();
    assert_eq!((&env["schema"], &env["env"]["TOKEN"]), (&1.into(), &"from-the-file-123".into()), "{env:#}");
    assert_eq!(env["env"]["PASSWORD"], "from-the-secret-456");
}

#[test]
fn what_config_show_writes_can_be_loaded_again() {
    let project = shown();
    let text = with_secrets(&project, &["config", "show", "--show-values"]).stdout;
    project.write("again.yaml", &text);
    let again = with_secrets(&project, &["config", "show", "--show-values", "-c", "again.yaml"]);
    assert_eq!(again.code, 0, "{}\n{text}", again.stderr);
    assert_eq!(again.stdout, text, "and means the same");
    for form in ["json", "yaml"] {
        let done = with_secrets(&project, &["config", "show", "-o", form]);
        let document: Value = serde_saphyr::from_str(&done.stdout).unwrap();
        assert_eq!(document["schema"], 1);
        assert_eq!(document["services"]["web"]["restart"]["policy"], "always", "templates are applied: {document:#}");
        assert_eq!(document["services"]["web"]["health_check"]["retries"], 3, "defaults too");
    }
    let one = with_secrets(&project, &["config", "show", "db"]).stdout;
    assert!(one.contains("\n  db:") && !one.contains("\n  web:"), "{one}");
}

#[test]
fn references_are_resolved_as_they_are_now() {
    let project = shown();
    assert_eq!(with_secrets(&project, &["start"]).code, 0);
    let resolved = |text: &str| {
        let done = with_secrets(&project, &["config", "resolve", text]);
        assert_eq!(done.code, 0, "{text}: {}", done.stderr);
        done.stdout.trim().to_owned()
    };
    let port: u16 = resolved("${web.port}").parse().unwrap();
    assert_eq!(resolved("${web.port.http}"), port.to_string());
    assert_eq!(resolved("${web.ip}"), "127.0.0.1");
    assert_eq!(resolved("a ${web.ip}:${web.port} b $${x}"), format!("a 127.0.0.1:{port} b ${{x}}"));
    assert_eq!(resolved("${web.url}"), format!("http://127.0.0.1:{port}"));
    assert!(resolved("web").contains(&port.to_string()), "{}", resolved("web"));
    for wrong in ["${nobody.ip}", "${web.port.nothing}", "${web.colour}", "${web"] {
        let done = with_secrets(&project, &["config", "resolve", wrong]);
        assert_eq!(done.code, 2, "{wrong}: {}{}", done.stdout, done.stderr);
    }
}

#[test]
fn dependencies_are_shown_as_tree_and_graphs() {
    let project = shown();
    let deps = |args: &[&str]| {
        let done = with_secrets(&project, &[&["config", "deps"], args].concat());
        assert_eq!(done.code, 0, "{}", done.stderr);
        done.stdout
    };
    let tree = deps(&[]);
    assert!(tree.starts_with("web") && tree.contains("migrate  completed") && tree.contains("db  started"), "{tree}");
    let dot = deps(&["--format", "dot"]);
    assert!(dot.starts_with("digraph") && dot.contains("\"web\" -> \"db\""), "{dot}");
    assert!(deps(&["--format", "mermaid"]).starts_with("graph"));
    let json: Value = serde_json::from_str(&deps(&["-o", "json"])).unwrap();
    assert_eq!(json["schema"], 1, "{json:#}");
    assert_eq!(deps(&["db"]).trim(), "db");
}

fn convert(name: &str, text: &str) -> (Project, Done) {
    let project = Project::new("");
    fs::remove_file(project.path().join("services.yaml")).unwrap();
    project.write(name, text);
    let init = project.ok(&["init", "--from", name]);
    (project, init)
}

#[test]
fn a_procfile_becomes_a_stack_that_runs() {
    let (project, init) = convert(
        "Procfile",
        "# what runs\nweb: echo web on $PORT; exec sleep 1000\nworker: while true; do echo '${x}' $HOME; sleep 1000; done\nrelease: echo released\n",
    );
    assert!(init.stderr.contains("harness start"), "{}", init.stderr);
    project.ok(&["validate", "--strict"]);
    project.ok(&["start"]);
    until("web tells its port", || project.logs("web").first().is_some_and(|line| line.starts_with("web on ") && line.len() > 8));
    assert_eq!(project.logs("release"), ["released"]);
    until("worker speaks", || !project.logs("worker").is_empty());
    assert!(project.logs("worker")[0].starts_with("${x} /"), "{:?}", project.logs("worker"));
}

#[test]
fn a_compose_file_becomes_a_valid_file_and_what_was_left_out_is_said() {
    let (project, init) = convert(
        "docker-compose.yml",
        r#"
name: shop
services:
  web:
    build: .
    command: ["./web", "--db", "$$X"]
    ports: ["8080:80", "127.0.0.1:9090:90/tcp"]
    environment: ["A=1", "B=${B:-two}"]
    depends_on: { db: { condition: service_healthy } }
    restart: unless-stopped
    deploy: { replicas: 2 }
  db:
    image: postgres:17
    environment: { POSTGRES_PASSWORD: secret }
    volumes: ["data:/var/lib/postgresql/data"]
    healthcheck: { test: ["CMD-SHELL", "pg_isready"], interval: 5s, retries: 3 }
volumes: { data: {} }
"#,
    );
    assert!(init.stderr.contains("deploy") && init.stderr.contains("volumes"), "what was left out: {}", init.stderr);
    project.ok(&["validate"]);
    let listed = project.json(&["list"]);
    assert_eq!(listed["services"][0]["type"], "docker", "{listed:#}");
    assert_eq!(listed["services"][0]["dependencies"], serde_json::json!(["db"]));
    let broken = Project::new("");
    broken.write("compose.yml", "services: [\n");
    assert_eq!(broken.run(&["init", "--from", "compose.yml", "new.yaml"]).code, 2);
    assert_eq!(broken.run(&["init", "--from", "absent.yml", "new.yaml"]).code, 2);
    assert!(!broken.path().join("new.yaml").exists());
}

#[test]
fn init_writes_starters_that_run_and_never_overwrites_unasked() {
    let project = Project::new("");
    let before = fs::read(project.path().join("services.yaml")).unwrap();
    let exists = project.run(&["init"]);
    assert_eq!(exists.code, 2);
    assert!(exists.stderr.contains("--force"), "{}", exists.stderr);
    assert_eq!(fs::read(project.path().join("services.yaml")).unwrap(), before);
    let dry = project.ok(&["init", "--dry-run"]);
    assert!(dry.stdout.contains("version: \"1.0\""), "{}", dry.stdout);
    assert_eq!(fs::read(project.path().join("services.yaml")).unwrap(), before);
    for template in ["starter", "web"] {
        project.ok(&["init", "--force", "--template", template]);
        project.ok(&["validate", "--strict"]);
        project.ok(&["start"]);
        project.ok(&["stop"]);
    }
    project.ok(&["init", "deep/er/stack.yaml"]);
    assert!(Path::new(&project.path().join("deep/er/stack.yaml")).exists());
    project.ok(&["validate", "-c", "deep/er/stack.yaml"]);
}

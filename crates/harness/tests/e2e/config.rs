//! What configuration means: shown, resolved, converted, begun with, and what is never shown of it.

use crate::support::{Done, Project, done, until};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

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
const HIDDEN: [&str; 6] = [
    "from-the-file-123",
    "from-the-secret-456",
    "from-the-env-file-789",
    "from-web-env-012",
    "from-the-caller-345",
    "from-key-678",
];

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
        folders.extend(
            fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()),
        );
    }
    let env = with_secrets(&project, &["exec", "web", "--", "env"]).stdout;
    for secret in [
        "from-the-file-123",
        "from-the-secret-456",
        "from-the-env-file-789",
        "from-web-env-012",
        "from-the-caller-345",
    ] {
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
        assert_eq!(
            document["services"]["web"]["restart"]["policy"], "always",
            "templates are applied: {document:#}"
        );
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
    assert!(
        tree.starts_with("web") && tree.contains("migrate  completed") && tree.contains("db  started"),
        "{tree}"
    );
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
    until("web tells its port", || {
        project.logs("web").first().is_some_and(|line| line.starts_with("web on ") && line.len() > 8)
    });
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
    assert!(
        init.stderr.contains("deploy") && init.stderr.contains("volumes"),
        "what was left out: {}",
        init.stderr
    );
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

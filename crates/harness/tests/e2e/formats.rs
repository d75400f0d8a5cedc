//! State that another version left: read, or refused with a message that says what to do, and left as it is.

use crate::support::{Project, kill, until};
use futures_lite::future::block_on;
use service_registry::store::{Batch, DurableStore, Snapshot, Store};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the checked-in samples were made of.
const SAMPLE: &str = r#"
services:
  db: { type: process, command: [sleep, "1000"], working_dir: /, ports: [{name: main, port: auto}], health_check: { command: ["true"] } }
  web: { type: process, command: [sh, -c, "echo db is at $DB_ADDR; exec sleep 1000"], working_dir: /, env: { DB: "${db.ip}:${db.port.main}" }, dependencies: [db], labels: { tier: front } }
  spare: { type: process, command: [sleep, "1000"], working_dir: / }
tasks:
  migrate: { command: ["true"], working_dir: /, dependencies: [db] }
"#;

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples")
}

fn store(project: &Project) -> PathBuf {
    project.state_dir().join("registry.redb")
}

fn content(path: &Path) -> Snapshot {
    block_on(DurableStore::open(path).unwrap().load()).unwrap()
}

/// A project that has run before and in which nothing runs now.
fn rested(services: &str) -> Project {
    let project = Project::new(services);
    project.ok(&["start"]);
    project.ok(&["stop"]);
    project
}

/// Writes the samples of this version: run it once when a format's number is raised, under the new number, and keep the
/// old ones.
#[test]
#[ignore = "writes into the source tree"]
fn write_samples() {
    let project = Project::new(SAMPLE);
    // The environment of whoever runs this is nobody's business.
    let bare = |args: &[&str]| {
        let ours = project.command(args);
        let mut command = Command::new(ours.get_program());
        command.args(args).current_dir(project.path()).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("HOME", "/").env("XDG_STATE_HOME", project.path().join("state"));
        assert!(command.status().unwrap().success());
    };
    bare(&["start"]);
    bare(&["stop", "spare", "-y"]);
    // so that there is something in the log
    kill(project.daemon_pid(), "KILL");
    until("its store is free", || {
        std::fs::File::open(project.state_dir().join("daemon.lock")).unwrap().try_lock().is_ok()
    });
    copy_store(&store(&project), &samples().join("registry-v2.redb"));
    bare(&["start"]);
    bare(&["daemon", "stop"]);
    let found = content(&store(&project));
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../orchestrator/samples");
    std::fs::write(models.join("stack-v1.json"), &found["kv:supervisor"]["stack"]).unwrap();
    std::fs::write(models.join("wish-v1.json"), &found["kv:wishes"]["web-1"]).unwrap();
}

/// A store with its log, where it has one.
fn copy_store(from: &Path, to: &Path) {
    let named = |path: &Path, end: &str| PathBuf::from(format!("{}{end}", path.display()));
    std::fs::copy(from, to).unwrap();
    for end in ["-log-0", "-log-1"] {
        match std::fs::read(named(from, end)) {
            Ok(log) if !log.is_empty() => std::fs::write(named(to, end), log).unwrap(),
            _ => {}
        }
    }
}

#[test]
fn the_store_of_version_1_is_read_with_its_wishes_ports_and_history() {
    sample_is_read("registry-v1.redb");
}

#[test]
fn the_store_of_version_2_is_read_with_what_is_in_its_log() {
    assert!(samples().join("registry-v2.redb-log-0").exists());
    sample_is_read("registry-v2.redb");
}

fn sample_is_read(name: &str) {
    let project = rested("\nservices:\n  other: { type: process, command: [sleep, \"1000\"] }\n");
    project.write_services(SAMPLE);
    copy_store(&samples().join(name), &store(&project));
    let port: u64 = {
        let found = content(&store(&project));
        let leases: serde_json::Value = serde_json::from_slice(&found["kv:supervisor"]["ports"]).unwrap();
        leases["leases"]["db-1"]["0"].as_u64().unwrap()
    };
    project.ok(&["daemon", "restart"]);
    until("what was wanted runs", || {
        project.state("db-1") == "running" && project.state("web-1") == "running"
    });
    assert_eq!(project.state("spare-1"), "stopped", "what was stopped stays stopped");
    assert_eq!(project.instance("db-1")["endpoints"][0]["port"], port, "its port is still its own");
    let logs = project.logs("web");
    assert!(logs[0].ends_with(&format!(":{port}")), "{logs:?}");
    let events = project.ok(&["events", "-o", "json"]);
    assert!(events.stdout.contains("spare-1"), "history is readable: {}", events.stdout);
    let pid = project.pid("web-1");
    project.ok(&["start"]);
    assert_eq!(project.pid("web-1"), pid, "definitions compare equal");
    assert_eq!(project.instance("web-1")["stale"], serde_json::json!([]));
}

#[test]
fn a_newer_store_is_refused_and_left_as_it_is() {
    let project = rested("\nservices:\n  web: { type: process, command: [sleep, \"1000\"] }\n");
    {
        let store = DurableStore::open(&store(&project)).unwrap();
        let mut batch = Batch::new();
        batch.put("kv:supervisor", "version", "2");
        batch.put("kv:wishes", "web-1", "{\"in\": \"another form\"}");
        block_on(store.commit(batch)).unwrap();
    }
    let before = content(&store(&project));
    for command in [&["start"][..], &["daemon", "restart"]] {
        let refused = project.run(command);
        assert_ne!(refused.code, 0);
        assert!(refused.stderr.contains("use the newer harness"), "{}", refused.stderr);
    }
    let after = content(&store(&project));
    for namespace in before.keys().filter(|name| *name != "meta") {
        assert_eq!(after.get(namespace), before.get(namespace), "{namespace}");
    }
    assert!(project.processes().is_empty());
}

#[test]
fn a_newer_run_record_is_refused_and_left_as_it_is() {
    let project = rested("\nservices:\n  web: { type: process, command: [sleep, \"1000\"] }\n");
    let path = project.state_dir().join("instances/web-1/ffffffff-ffff-7fff-bfff-ffffffffffff.json");
    let text = r#"{"version":2,"instance":"web-1","of":"the future"}"#;
    std::fs::write(&path, text).unwrap();
    let refused = project.run(&["start"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("use the newer version"), "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert!(project.processes().is_empty(), "what it describes may still run: no second copy");
    std::fs::remove_file(&path).unwrap();
    project.ok(&["start"]);
}

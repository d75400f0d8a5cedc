//! What is on disk is enough to begin again: after everything was killed, and the machine was started anew.

use crate::support::{LOCKED, Project, alive, kill, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Kills everything of a project at once: daemon, zygotes and keepers. Services die with their keepers.
fn kill_everything(project: &Project, instances: &[&str]) {
    let daemon = project.daemon_pid();
    let keepers: Vec<u32> = instances.iter().map(|name| project.keeper_pid(name)).collect();
    let zygotes: BTreeSet<u32> = instances.iter().map(|name| project.zygote_pid(name)).collect();
    let services: Vec<u32> = instances.iter().map(|name| project.pid(name)).collect();
    let all: Vec<u32> = [daemon].into_iter().chain(zygotes).chain(keepers).collect();
    for pid in &all {
        kill(*pid, "STOP");
    }
    // Stopped first, so that none sees another one die and cleans up after it.
    for pid in &all {
        kill(*pid, "KILL");
    }
    until("everything is dead", || all.iter().chain(&services).all(|pid| !alive(*pid)));
}

fn record_files(project: &Project) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(project.state_dir().join("instances")).unwrap().flatten();
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).unwrap().flatten());
    files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == "json")).collect()
}

/// Makes the records those of an earlier boot. The pids in them now mean others: this test's own process.
fn reboot(project: &Project) {
    let me = std::process::id();
    for path in record_files(project) {
        let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record["boot_id"] = "00000000-1111-4222-8333-444444444444".into();
        if record["keeper"].is_object() {
            record["keeper"]["pid"] = me.into();
        }
        if record["state"]["running"].is_object() {
            record["state"]["running"]["process"]["pid"] = me.into();
        }
        std::fs::write(&path, record.to_string()).unwrap();
    }
}

#[test]
fn after_a_reboot_everything_starts_cleanly_and_the_past_is_readable() {
    let project = Project::new(&format!(
        r#"
services:
  db: {{ type: process, command: {LOCKED} }}
  web: {{ type: process, command: [sh, -c, "echo before $$; exec sleep 1000"], dependencies: [db], ports: [{{name: http, port: auto}}] }}
  spare: {{ type: process, command: {LOCKED} }}
tasks:
  migrate: {{ command: [sh, -c, "echo migrated"], dependencies: [db] }}
"#
    ));
    project.ok(&["start"]);
    project.ok(&["stop", "spare", "-y"]);
    let old = [project.pid("db-1"), project.pid("web-1")];
    let port = project.instance("web-1")["endpoints"].clone();
    kill_everything(&project, &["db-1", "web-1"]);
    reboot(&project);

    // Before any daemon: what is said is true, and nobody's process is taken for ours.
    let offline = project.json(&["status"]);
    for instance in offline["instances"].as_array().unwrap() {
        assert!(instance["pid"].is_null(), "{instance:#}");
        assert_ne!(instance["state"], "running", "{instance:#}");
    }
    assert!(project.logs("web")[0].starts_with("before "));

    project.ok(&["start", "web"]);
    for (name, old) in [("db-1", old[0]), ("web-1", old[1])] {
        let seen = project.instance(name);
        assert_eq!(seen["state"], "running", "{seen:#}");
        assert_ne!(project.pid(name), old);
        assert_eq!(seen["exit"]["unknown"], "the machine was restarted", "{seen:#}");
    }
    assert_eq!(project.instance("web-1")["endpoints"], port, "the port stays the same for the project");
    assert_eq!(project.state("spare-1"), "stopped", "what was stopped stays stopped");
    project.assert_never_doubled();

    let lines = project.logs("web");
    assert_eq!(lines.len(), 2, "the run before the reboot and the one after: {lines:?}");
    assert_eq!(project.logs("migrate"), ["migrated"]);
    let events = project.ok(&["events"]);
    assert!(events.stdout.matches("web-1").count() > 2, "{}", events.stdout);
    let ended: Vec<Value> =
        project.records("web-1").into_iter().filter(|record| record["state"]["exited"].is_object()).collect();
    assert!(ended.len() <= 1, "{ended:#?}");
    project.ok(&["stop"]);
    assert!(project.processes().is_empty());
    assert!(alive(std::process::id()), "nobody's process was ended");
}

#[test]
fn after_a_reboot_the_first_command_brings_back_all_that_was_wanted_but_by_policy_no() {
    let policies = ["always", "unless-stopped", "on-failure", "no"];
    let services: String = policies
        .iter()
        .map(|policy| format!("  {policy}: {{ type: process, restart: \"{policy}\", command: {LOCKED} }}\n"))
        .collect();
    let project = Project::new(&format!(
        "\nservices:\n{services}  stopped: {{ type: process, restart: always, command: {LOCKED} }}\n  other: {{ type: process, command: {LOCKED} }}\n"
    ));
    let instances = policies.map(|policy| format!("{policy}-1"));
    project.ok(&["start", "stopped", "always", "unless-stopped", "on-failure", "no"]);
    project.ok(&["stop", "stopped"]);
    kill_everything(&project, &instances.each_ref().map(String::as_str));
    reboot(&project);
    project.ok(&["start", "other"]);
    for instance in &instances[..3] {
        until("it is back", || project.state(instance) == "running");
        assert_eq!(project.instance(instance)["exit"]["unknown"], "the machine was restarted");
        assert_eq!(project.records(instance).len(), 2, "{instance} was started once");
    }
    assert_eq!(project.state("stopped-1"), "stopped");
    let left = project.instance("no-1");
    assert!(left["pid"].is_null() && left["state"] != "running", "{left:#}");
    assert_eq!(project.records("no-1").len(), 1);
    project.assert_never_doubled();
}

#[test]
fn after_everything_was_killed_everything_starts_once() {
    let project = Project::new(&format!(
        "\nservices:\n  one: {{ type: process, command: {LOCKED} }}\n  two: {{ type: process, command: {LOCKED}, dependencies: [one] }}\n"
    ));
    project.ok(&["start"]);
    let old = [project.pid("one-1"), project.pid("two-1")];
    kill_everything(&project, &["one-1", "two-1"]);
    project.ok(&["start"]);
    for (name, old) in [("one-1", old[0]), ("two-1", old[1])] {
        assert_eq!(project.state(name), "running");
        assert_ne!(project.pid(name), old);
        let first = &project.records(name)[0];
        assert_eq!(first["state"]["exited"]["exit"]["unknown"], "keeper killed", "{first:#}");
        assert_eq!(first["gaps"][0]["reason"], "keeper killed", "{first:#}");
    }
    project.assert_never_doubled();
}

//! Services of `type: package`, on this machine.

use crate::support::{Done, Project, until};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

pub(crate) fn script(project: &Project, name: &str, text: &str) {
    let path = project.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// Builds `web-VERSION.tar.zst`, with more of a manifest.
pub(crate) fn build(project: &Project, version: &str, more: &str) {
    script(
        project,
        "web/scripts/start.sh",
        "echo \"$HARNESS_PACKAGE_VERSION in $(basename $PWD): $GREETING $(bin/say)\"; exec sleep 1000",
    );
    script(project, "web/bin/say", &format!("echo said {version}"));
    project.write("web/manifest.yaml", &format!("name: web\nversion: {version}\n{more}"));
    project.ok(&["package", "build", "web"]);
}

fn services(version: &str, more: &str) -> String {
    format!(
        "services:\n  web: {{type: package, package: web-{version}.tar.zst, install_path: {{PREFIX}}{more}}}\n"
    )
}

fn write(project: &Project, version: &str, more: &str) {
    let prefix = project.path().join("opt").display().to_string();
    project.write_services(&services(version, more).replace("{PREFIX}", &prefix));
}

#[test]
fn a_package_is_installed_run_and_replaced_by_the_next_version() {
    let project = Project::new("services: {}\n");
    let manifest = "service: {env: {GREETING: hello}, ports: [18931]}\nhealth: {command: bin/say}\n";
    build(&project, "1.0.0", manifest);
    write(
        &project,
        "1.0.0",
        ", pre_install: [sh, -c, 'echo pre >> log'], post_install: [sh, -c, 'echo post >> log']",
    );
    project.ok(&["start"]);
    until("it says so", || project.logs("web") == ["1.0.0 in web-1.0.0: hello said 1.0.0"]);
    let web = project.instance("web-1");
    assert_eq!((&web["state"], &web["health"]["status"]), (&"running".into(), &"healthy".into()), "{web:#}");
    assert_eq!(web["endpoints"][0]["port"], 18931, "{web:#}");
    assert_eq!(fs::read_link(project.path().join("opt/web-current")).unwrap().to_str(), Some("web-1.0.0"));
    // Started again nothing is installed again.
    project.ok(&["restart", "web"]);
    assert_eq!(project.read("log"), "pre\npost\n");
    build(&project, "1.1.0", manifest);
    write(&project, "1.1.0", ", env: {GREETING: bye}");
    project.ok(&["start", "--apply"]);
    until("it is the next one", || {
        project.logs("web").last().is_some_and(|line| line == "1.1.0 in web-1.1.0: bye said 1.1.0")
    });
    project.ok(&["stop"]);
}

#[test]
fn the_packages_stop_command_is_run_before_the_signal() {
    let project = Project::new("services: {}\n");
    let goodbye = "echo \"bye from $HARNESS_PACKAGE_VERSION in $(basename $PWD)\"";
    script(&project, "web/scripts/stop.sh", goodbye);
    build(&project, "1.0.0", "");
    write(&project, "1.0.0", "");
    project.ok(&["start"]);
    // The one of the version that runs, also where the next is there already.
    script(&project, "web/bin/leave", "echo \"left $1\"; exit 4");
    fs::remove_file(project.path().join("web/scripts/stop.sh")).unwrap();
    build(&project, "1.1.0", "service: {stop: bin/leave now}\n");
    write(&project, "1.1.0", "");
    project.ok(&["start", "--apply"]);
    let lines = project.logs("web");
    assert!(lines.contains(&"bye from 1.0.0 in web-1.0.0".to_owned()), "{lines:?}");
    // Also by a daemon that took it over.
    project.ok(&["daemon", "restart"]);
    project.ok(&["stop", "web"]);
    let lines = project.logs("web");
    let last: Vec<&str> = lines.iter().rev().take(2).rev().map(String::as_str).collect();
    assert_eq!(last, ["left now", "harness: the stop command ended with 4; the signal follows"], "{lines:?}");
    project.ok(&["stop"]);
}

#[test]
fn what_cant_be_installed_is_told_and_stop_ends_an_install() {
    let project = Project::new("services: {}\n");
    write(&project, "1.0.0", "");
    let said = |done: &Done, code: i32, part: &str| {
        assert_eq!(done.code, code, "{}", done.stderr);
        assert!(done.stderr.contains(part), "no {part:?} in {}", done.stderr);
    };
    said(&project.run(&["start"]), 2, "web-1.0.0.tar.zst");
    build(&project, "1.0.0", "");
    write(&project, "1.0.0", ", version: 2.0.0, restart: no");
    said(&project.run(&["start"]), 3, "web 2.0.0 isn't installed");
    write(&project, "1.0.0", ", restart: no, pre_install: [sh, -c, 'echo no room; exit 3']");
    said(&project.run(&["start", "--apply"]), 3, "no room");
    assert!(!project.path().join("opt/web-current").exists());
    write(
        &project,
        "1.0.0",
        ", restart: no, pre_install: [sh, -c, 'touch begun; while [ -e begun -a ! -e end ]; do sleep 0.05; done']",
    );
    let mut child = project.command(&["start", "--apply"]).spawn().unwrap();
    until("it is being installed", || project.path().join("begun").exists());
    project.ok(&["stop"]);
    let _ = child.wait();
    project.write("end", "");
    assert!(!project.json(&["status"]).to_string().contains("running"));
}

/// The version that is current.
fn current(project: &Project) -> String {
    fs::read_link(project.path().join("opt/web-current")).unwrap().to_string_lossy().into_owned()
}

#[test]
fn a_deployed_service_runs_the_new_version_or_again_the_old_one() {
    let project = Project::new("services: {}\n");
    let more = ", restart: no";
    build(&project, "1.0.0", "");
    write(&project, "1.0.0", more);
    let idle = project.run(&["deploy", "web"]);
    assert_eq!(idle.code, 1, "{}", idle.stderr);
    assert!(idle.stderr.contains("harness start web"), "{}", idle.stderr);
    project.ok(&["start"]);
    build(&project, "1.1.0", "");
    write(&project, "1.1.0", more);
    let dry = project.ok(&["deploy", "web", "--dry-run"]);
    assert!(dry.stdout.contains("switch to it from 1.0.0"), "{}", dry.stdout);
    assert_eq!(current(&project), "web-1.0.0");
    let done = project.ok(&["deploy", "web"]);
    assert!(done.stderr.contains("harness deploy web --version 1.0.0"), "{}", done.stderr);
    until("it is the next one", || {
        project.logs("web").last().is_some_and(|line| line.starts_with("1.1.0 in"))
    });
    // One that doesn't come up: its check fails until it is given up.
    script(&project, "web/bin/broken", "exit 1");
    build(&project, "1.2.0", "health: {command: bin/broken, interval: 50ms, retries: 1}\n");
    write(&project, "1.2.0", ", restart: no, startup_timeout: 500ms");
    let failed = project.run(&["deploy", "web", "--rollback-on-failure"]);
    assert!(matches!(failed.code, 3 | 5), "{}: {}", failed.code, failed.stderr);
    assert!(failed.stderr.contains("web runs with 1.1.0 again"), "{}", failed.stderr);
    until("it is the one before", || {
        project.logs("web").last().is_some_and(|line| line.starts_with("1.1.0 in"))
    });
    assert_eq!(current(&project), "web-1.1.0");
    project.ok(&["deploy", "web", "--version", "1.0.0"]);
    assert_eq!(current(&project), "web-1.0.0");
    let unknown = project.run(&["deploy", "web", "--version", "7.0.0"]);
    assert_eq!(unknown.code, 3, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("web 7.0.0 isn't installed"), "{}", unknown.stderr);
    project.ok(&["stop"]);
}

/// Three replicas of that version in the file, each of which is healthy once it has written into `diary` that it is up.
fn replicas(project: &Project, version: &str, more: &str) {
    let start = "echo $VERSION begins >> diary; [ -e broken ] && exit 1\n\
                 echo $VERSION is up >> diary; touch up.$VERSION.$HARNESS_INSTANCE; exec sleep 1000";
    script(project, "web/scripts/start.sh", start);
    project.write("web/manifest.yaml", &format!("name: web\nversion: {version}\n"));
    project.ok(&["package", "build", "web"]);
    let folder = project.path().display();
    let check = "health_check: {command: [sh, -c, 'test -e up.$VERSION.$HARNESS_INSTANCE'], interval: 50ms}";
    let env = format!("env: {{VERSION: '{version}'}}, working_dir: {folder}");
    write(project, version, &format!(", restart: no, replicas: 3, {env}, {check}{more}"));
}

#[test]
fn replicas_are_deployed_to_one_after_the_other_and_the_first_failure_ends_it() {
    let project = Project::new("services: {}\n");
    replicas(&project, "1.0.0", "");
    project.ok(&["start"]);
    replicas(&project, "1.1.0", "");
    project.ok(&["deploy", "web"]);
    let diary = project.read("diary");
    let new: Vec<&str> = diary.lines().filter(|line| line.starts_with("1.1.0")).collect();
    assert_eq!(new, ["1.1.0 begins", "1.1.0 is up"].repeat(3), "{diary}");
    replicas(&project, "1.2.0", "");
    project.write("broken", "");
    let failed = project.run(&["deploy", "web"]);
    assert!(matches!(failed.code, 3 | 5), "{}: {}", failed.code, failed.stderr);
    assert_eq!(project.read("diary").matches("1.2.0").count(), 1, "{}", project.read("diary"));
    for (name, state) in [("web-1", "failed"), ("web-2", "running"), ("web-3", "running")] {
        assert_eq!(project.instance(name)["state"], state, "{name}");
    }
    project.ok(&["stop"]);
}

#[test]
fn a_deployment_in_the_file_says_how_many_at_once_and_whether_to_go_back() {
    let project = Project::new("services: {}\n");
    let two = ", deployment: {strategy: rolling, max_parallel: 2}";
    replicas(&project, "1.0.0", two);
    let checked = project.ok(&["validate"]);
    assert!(!checked.stderr.contains("carried out"), "{}", checked.stderr);
    project.ok(&["start"]);
    // The instances that each step of it has restarted.
    let steps = |args: &[&str]| {
        let done = project.ok(&[&["deploy", "web", "-o", "json"], args].concat());
        let documents = serde_json::Deserializer::from_str(&done.stdout).into_iter::<serde_json::Value>();
        let count = |document: serde_json::Value| document["instances"].as_array().map_or(0, Vec::len);
        documents.map(|document| count(document.unwrap())).collect::<Vec<_>>()
    };
    replicas(&project, "1.1.0", two);
    assert_eq!(steps(&[]), [2, 1]);
    assert_eq!(steps(&["--version", "1.0.0", "--max-parallel", "3"]), [3]);
    assert_eq!(steps(&["--version", "1.1.0", "--max-parallel", "1"]), [1, 1, 1]);
    replicas(&project, "1.2.0", two);
    project.write("broken", "");
    let failed = project.run(&["deploy", "web"]);
    assert!(matches!(failed.code, 3 | 5), "{}: {}", failed.code, failed.stderr);
    assert!(failed.stderr.contains("web isn't ready with 1.2.0: back to 1.1.0"), "{}", failed.stderr);
    // Two were tried and two taken back; the one that wasn't reached runs on.
    assert_eq!(project.read("diary").matches("1.2.0").count(), 4, "{}", project.read("diary"));
    assert_eq!(project.state("web-3"), "running");
    assert_eq!(current(&project), "web-1.1.0");
    project.ok(&["stop"]);
}

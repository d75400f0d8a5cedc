//! What services on other machines need of the project: brought there, kept in step, and everything that can go wrong on the way.

use super::nodes::project;
use crate::support::{Project, kill, noise, until};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use test_hosts::{Host, OwnHost, Suite, require};

/// Says how it is configured, and stays.
const SERVE: &str = "#!/bin/sh\necho \"configured with $(cat conf/web.toml)\"\nexec sleep 1000\n";

fn services(host: &Host, files: &str) -> String {
    format!(
        "nodes:\n  eu: {{host: {}, user: app}}\nservices:\n  web: {{type: remote, host: eu, command: bin/serve, \
         files: [{files}], restart: no}}\n",
        host.name()
    )
}

fn stack(host: &OwnHost, files: &str) -> Project {
    let project = project(host, &services(host, files));
    fs::create_dir_all(project.path().join("bin")).unwrap();
    fs::create_dir_all(project.path().join("conf")).unwrap();
    let serve = project.write("bin/serve", SERVE);
    fs::set_permissions(serve, Permissions::from_mode(0o755)).unwrap();
    project.write("conf/web.toml", "one");
    project
}

/// What lies in the folder of the agent's files.
fn there(host: &Host, path: &str) -> String {
    host.sh(&format!("cat /home/app/.local/state/harness/agents/*/files/{path}")).unwrap()
}

#[test]
fn files_are_there_before_the_service_starts_and_kept_in_step() {
    let host = require!(Host::boot(Suite::Bookworm, "files"));
    let project = stack(&host, "bin, 'conf/web.toml:conf/web.toml', 'conf:/home/app/copied/conf'");
    project.ok(&["start"]);
    until("it says so", || project.logs("web") == ["configured with one"]);
    assert_eq!(host.sh("stat -c '%a %U' /home/app/copied/conf/web.toml").unwrap(), "644 app");
    // While it runs a start brings what has changed, also the program that runs.
    let pid = project.pid("web-1");
    project.write("conf/web.toml", "two");
    project.ok(&["start"]);
    assert_eq!((there(&host, "conf/web.toml").as_str(), project.pid("web-1")), ("two", pid));
    let sleep = fs::read("/bin/sleep").unwrap();
    fs::write(project.path().join("bin/sleep"), &sleep).unwrap();
    fs::set_permissions(project.path().join("bin/sleep"), Permissions::from_mode(0o755)).unwrap();
    project.write("bin/serve", "#!/bin/sh\necho \"now with $(cat conf/web.toml)\"\nexec bin/sleep 1000\n");
    project.ok(&["restart", "web"]);
    until("it runs the new one", || project.logs("web").last().is_some_and(|line| line == "now with two"));
    fs::write(project.path().join("bin/sleep"), [&sleep[..], b"x"].concat()).unwrap();
    fs::remove_file(project.path().join("conf/web.toml")).unwrap();
    project.write("conf/other.toml", "three");
    project.write_services(
        &services(&host, "bin, 'conf:/home/app/copied/conf'")
            .replace("restart: no", "restart: no, env: {A: b}"),
    );
    project.ok(&["start", "--apply"]);
    assert_eq!(host.sh("ls /home/app/copied/conf").unwrap(), "other.toml");
    let done = project.ok(&["stop"]);
    assert!(!done.stderr.contains("warning"), "{}", done.stderr);
}

#[test]
fn what_is_missing_here_is_told_before_anything_starts() {
    let host = require!(Host::boot(Suite::Trixie, "files missing"));
    let project = stack(&host, "bin, conf/none.toml, '../up'");
    let done = project.run(&["start"]);
    assert_eq!(done.code, 2, "{}", done.stderr);
    for part in ["services.yaml:6", "conf/none.toml", "climbs out"] {
        assert!(done.stderr.contains(part), "no {part:?} in {}", done.stderr);
    }
    assert!(!project.state_dir_exists());
    project.write_services(&services(&host, "'bin:/etc/closed'"));
    let done = project.run(&["start"]);
    assert_eq!(done.code, 3, "{}", done.stderr);
    for part in ["node eu", "/etc/closed", "ermission denied", "sudo: true"] {
        assert!(done.stderr.contains(part), "no {part:?} in {}", done.stderr);
    }
}

#[test]
fn a_disk_that_is_full_and_a_cable_that_is_cut_leave_the_old_files_or_the_new_ones() {
    let host = require!(Host::boot(Suite::Bookworm, "files bad luck"));
    let project = stack(&host, "bin, 'conf:/mnt/small/conf', 'conf:conf'");
    host.sh("mkdir -p /mnt/small && mount -t tmpfs -o size=6m,mode=777 tmpfs /mnt/small").unwrap();
    project.ok(&["start"]);
    fs::write(project.path().join("conf/big"), noise(40 << 20, 1)).unwrap();
    project.write("conf/web.toml", "two");
    let done = project.run(&["restart", "web"]);
    assert_eq!(done.code, 3, "{}", done.stderr);
    for part in ["node eu", "/mnt/small/conf/big", "make room there"] {
        assert!(done.stderr.contains(part), "no {part:?} in {}", done.stderr);
    }
    assert_eq!(host.sh("cat /mnt/small/conf/web.toml; ls -A /mnt/small/conf").unwrap(), "oneweb.toml");
    // Cut in the middle: it goes on where it was, and everything is whole.
    host.sh("mount -o remount,size=300m /mnt/small").unwrap();
    let daemon = project.daemon_pid();
    let mut child = project.command(&["restart", "web"]).spawn().unwrap();
    host.wait_until(
        "[ $(cat /home/app/.local/state/harness/agents/*/incoming/web.pack | wc -c) -gt 8000000 ]",
    )
    .unwrap();
    // It sends no more while the cable is being pulled, which takes its time.
    kill(daemon, "STOP");
    host.cut().unwrap();
    kill(daemon, "CONT");
    until("the cut is noticed", || project.ok(&["node", "list"]).stdout.contains("lost"));
    assert_eq!(host.sh("cat /mnt/small/conf/web.toml").unwrap(), "one");
    host.heal().unwrap();
    // Whoever waited was told that the node is lost; it goes on without them.
    assert_eq!(child.wait().unwrap().code(), Some(4));
    until("it says so", || project.logs("web").last().is_some_and(|line| line == "configured with two"));
    let sum = host.sh("sha256sum < /mnt/small/conf/big").unwrap();
    let same = host.sh("sha256sum < $(echo /home/app/.local/state/harness/agents/*/files/conf/big)").unwrap();
    assert_eq!(sum, same);
}

#[test]
fn a_package_is_brought_installed_and_run_there() {
    let host = require!(Host::boot(Suite::Trixie, "package there"));
    let services = |version: &str| {
        format!(
            "nodes:\n  eu: {{host: {}, user: app}}\nservices:\n  web: {{type: package, host: eu, package: web-{version}.tar.zst}}\n",
            host.name()
        )
    };
    let project = project(&host, &services("1.0.0"));
    let manifest = "service: {env: {GREETING: hello}}\nhealth: {command: bin/say}\n";
    for version in ["1.0.0", "1.1.0"] {
        crate::package_services::build(&project, version, manifest);
        project.write_services(&services(version));
        project.ok(&["start", "--apply"]);
        let line = format!("{version} in web-{version}: hello said {version}");
        until("it says so", || project.logs("web").last() == Some(&line));
        assert_eq!(project.instance("web-1")["health"]["status"], "healthy");
    }
    let current = host.sh("readlink /home/app/.local/share/harness/opt/web-current").unwrap();
    assert_eq!(current, "web-1.1.0");
    project.ok(&["stop"]);
}

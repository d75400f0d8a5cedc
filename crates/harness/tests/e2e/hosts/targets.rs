//! What a service may be on a node, where that differs from the same on this machine.

use super::nodes::{left, project};
use crate::package_services::{build, script};
use crate::support::until;
use test_hosts::{Host, Portable, Suite, require};

#[test]
fn a_portable_service_on_a_node_is_attached_for_its_run_and_leaves_nothing() {
    let host = require!(Host::boot(Suite::Bookworm, "portable on a node"));
    let exec = "/usr/bin/busybox sh -c 'echo begun; exec busybox sleep 1000'";
    host.make_portable(&Portable {
        folder: "/var/lib/portables/hello_1.0",
        prefix: "hello",
        units: &[("hello.service", &format!("[Service]\nExecStart={exec}\n"))],
        files: &[],
    })
    .unwrap();
    let project = project(
        &host,
        &format!(
            "nodes:\n  far: {{host: {}, user: app, sudo: true}}\nservices:\n  hello:\n    type: portable\n    host: far\n    \
             image: /var/lib/portables/hello_1.0\n    profile: trusted\n    \
             health_check: {{command: [systemctl, is-active, --quiet, hello], interval: 100ms}}\n",
            host.name()
        ),
    );
    project.ok(&["start"]);
    let seen = project.instance("hello-1");
    assert_eq!(
        (seen["state"].as_str(), seen["location"].as_str(), seen["health"]["status"].as_str()),
        (Some("running"), Some("far"), Some("healthy")),
        "{seen:#}"
    );
    until("its line is there", || project.ok(&["logs", "--no-prefix", "hello"]).stdout.contains("begun"));
    // An agent that takes it over finds it attached.
    project.ok(&["daemon", "restart"]);
    assert_eq!(project.instance("hello-1")["pid"], seen["pid"]);
    project.ok(&["stop", "-y"]);
    assert_eq!(host.exec(&["systemctl", "show", "-P", "LoadState", "hello"]).unwrap(), "not-found");
    assert_eq!(host.sh("portablectl is-attached hello_1.0; true").unwrap(), "detached");
    until("nothing of it runs", || left(&host).is_empty());
}

#[test]
fn a_packages_stop_command_is_run_on_its_node() {
    let host = require!(Host::boot(Suite::Bookworm, "farewell on a node"));
    let project = project(
        &host,
        &format!(
            "nodes:\n  far: {{host: {}, user: app}}\nservices:\n  \
             web: {{type: package, package: web-1.0.0.tar.zst, host: far, env: {{WHO: you}}}}\n",
            host.name()
        ),
    );
    script(
        &project,
        "web/scripts/stop.sh",
        "echo \"bye $WHO in $(basename $PWD), $(cat /proc/$HARNESS_PID/comm)\"",
    );
    build(&project, "1.0.0", "");
    project.ok(&["start"]);
    project.ok(&["stop", "web"]);
    let said = project.ok(&["logs", "--no-prefix", "web"]).stdout;
    assert_eq!(said.lines().last(), Some("bye you in web-1.0.0, sleep"), "{said}");
    project.ok(&["stop", "-y"]);
}

#[test]
fn secrets_are_files_on_a_node_as_long_as_they_are_needed_and_in_no_arguments() {
    let host = require!(Host::boot(Suite::Trixie, "secrets on a node"));
    let project = project(
        &host,
        &format!(
            "nodes:\n  far: {{host: {}, user: app}}\nsecrets:\n  password: {{file: password}}\n  other: {{file: other}}\n\
             services:\n  web:\n    type: remote\n    host: far\n    env: {{PASSWORD: '${{secrets.password}}'}}\n    \
             files: [web.sh]\n    command: [sh, web.sh]\n  \
             idle: {{type: remote, host: far, command: [sleep, '1000']}}\n",
            host.name()
        ),
    );
    project.write(
        "web.sh",
        "echo \"$(cat $HARNESS_SECRETS/password), $(ls $HARNESS_SECRETS)\"; exec sleep 1000\n",
    );
    project.write("password", "hush-hush-1\n");
    project.write("other", "hush-hush-2\n");
    project.ok(&["start"]);
    // While it starts and runs: on both sides.
    let everyone = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '";
    let (here, there) = (std::process::Command::new("sh").args(["-c", everyone]).output(), host.sh(everyone));
    for seen in [String::from_utf8_lossy(&here.unwrap().stdout).into_owned(), there.unwrap()] {
        assert!(!seen.contains("hush-hush"), "in arguments: {seen}");
    }
    let find = "cd /home/app/.local/state/harness/agents/*/instances && find . -path '*secrets-*' -type f -printf '%m %u %f %h\\n'";
    let found = host.sh(find).unwrap();
    assert!(found.starts_with("600 app password ./web-1/secrets-") && found.lines().count() == 1, "{found}");
    assert_eq!(project.ok(&["logs", "--no-prefix", "web"]).stdout, "hush-hush-1, password\n");
    // Another value is another start.
    project.write("password", "hush-hush-3\n");
    project.ok(&["restart", "web"]);
    let texts = "cd /home/app/.local/state/harness/agents/*/instances && cat */secrets-*/*";
    assert_eq!(host.sh(texts).unwrap(), "hush-hush-3");
    project.ok(&["stop", "-y", "web"]);
    assert_eq!(host.sh(find).unwrap(), "");
    project.ok(&["stop", "-y"]);
}

//! The hosts that tests share, and this machine's docker, give what other tests build on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests are tests")]

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use test_hosts::{BARE, BB, Docker, Error, Host, Suite, User, require};

/// What a program printed.
fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Runs a command with this on its standard input.
fn fed(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn every_user_gets_in_by_ssh_to_every_host() {
    for suite in Suite::ALL {
        let host = require!(Host::shared(suite));
        for user in User::ALL {
            let output = host.ssh(user).arg("id -un; hostname").output().unwrap();
            assert_eq!(printed(&output), format!("{}\n{}", user.name(), suite.name()), "{output:?}");
        }
        let by_address = format!("plain@{}", host.address());
        let output =
            Command::new("ssh").arg("-F").arg(host.ssh_config()).args([&by_address, "id -un"]).output();
        assert_eq!(printed(&output.unwrap()), "plain");
    }
}

#[test]
fn an_unknown_host_key_is_refused() {
    let host = require!(Host::shared(Suite::Trixie));
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(host.ssh_config()).args(["-o", "UserKnownHostsFile=/dev/null"]);
    let output = ssh.args([host.name(), "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(255), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Host key verification failed"), "{output:?}");
}

#[test]
fn sudo_asks_for_a_password_from_those_who_have_one() {
    for suite in [Suite::Bookworm, Suite::Trixie] {
        let host = require!(Host::shared(suite));
        let asked = |user, words: &str, input| fed(host.ssh(user).arg(words), input);
        assert_eq!(printed(&asked(User::App, "sudo -n id -u", "")), "0");
        assert!(!asked(User::Pw, "sudo -n id -u", "").status.success());
        assert_eq!(printed(&asked(User::Pw, "sudo -S -p '' id -u", "pw\n")), "0");
    }
    // A wrong password costs two seconds and more, so these are asked once.
    let host = require!(Host::shared(Suite::Trixie));
    assert!(!fed(host.ssh(User::Pw).arg("sudo -S -p '' id -u"), "wrong\n").status.success());
    assert!(!fed(host.ssh(User::Plain).arg("sudo -n id -u"), "").status.success());
}

#[test]
fn systemd_runs_with_nothing_failed() {
    for suite in Suite::ALL {
        let host = require!(Host::shared(suite));
        let failed = host.exec(&["systemctl", "list-units", "--failed", "--no-legend"]).unwrap();
        assert_eq!(failed, "", "{suite:?}");
        assert_eq!(host.exec(&["cat", "/proc/1/comm"]).unwrap(), "systemd");
    }
}

#[test]
fn the_versions_are_those_that_are_promised() {
    let bookworm = require!(Host::shared(Suite::Bookworm));
    let trixie = require!(Host::shared(Suite::Trixie));
    let podman = require!(Host::shared(Suite::Podman));
    let says = |host: &Host, script: &str, text: &str| {
        let answer = host.sh(&format!("{script} 2>&1")).unwrap_or_else(|error| error.chain());
        assert!(answer.contains(text), "{}: {script}: {answer}", host.name());
    };
    says(&bookworm, "systemctl --version", "systemd 252");
    says(&bookworm, "ssh -V", "OpenSSH_9.2");
    says(&bookworm, "docker --version", "version 20.10");
    says(&bookworm, "docker compose version", "not a docker command");
    says(&trixie, "systemctl --version", "systemd 257");
    says(&trixie, "ssh -V", "OpenSSH_10.0");
    says(&trixie, "docker --version", "version 26.1");
    says(&trixie, "docker compose version", "version 2.26");
    says(&podman, "docker --version", "podman version 4.3");
}

#[test]
fn the_engine_of_every_host_runs_an_image_of_this_machine() {
    for suite in Suite::ALL {
        let host = require!(Host::shared(suite));
        host.load_bb().unwrap();
        let said = host.exec(&["docker", "run", "--rm", BB, "echo", "it runs"]).unwrap();
        assert_eq!(said, "it runs", "{suite:?}");
    }
}

#[test]
fn only_the_group_docker_may_ask_the_engine() {
    let host = require!(Host::shared(Suite::Bookworm));
    host.start_docker().unwrap();
    let asked = |user| host.ssh(user).arg("docker version --format '{{.Server.Version}}'").output().unwrap();
    assert!(printed(&asked(User::App)).starts_with("20.10"));
    let refused = asked(User::Plain);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("permission denied"), "{refused:?}");
}

#[test]
fn a_shared_host_is_the_same_one_when_it_is_asked_for_again() {
    let first = require!(Host::shared(Suite::Bookworm));
    let second = require!(Host::shared(Suite::Bookworm));
    let id = |host: &Host| host.exec(&["cat", "/etc/machine-id"]).unwrap();
    assert_eq!((first.container(), id(&first)), (second.container(), id(&second)));
}

#[test]
fn a_scope_takes_all_that_carries_its_labels_with_it() {
    let docker = require!(Docker::here());
    let scope = docker.scope("scope").unwrap();
    let label = scope.label();
    let theirs = format!("test-hosts.made-by-the-tested-program={}", scope.name("x"));
    scope.also(&theirs).unwrap();
    let network = scope.name("net");
    scope.create("network", &["--internal", &network]).unwrap();
    scope.create("volume", &[&scope.name("volume")]).unwrap();
    scope.run(&["--network", &network, BB, "sleep", "600"]).unwrap();
    docker.output(&["run", "--detach", "--network=none", "--label", &theirs, BB, "sleep", "600"]).unwrap();
    let left = |kind: &[&str], label: &str| {
        let filter = format!("label={label}");
        docker.output(&[kind, &["--quiet", "--filter", &filter]].concat()).unwrap().lines().count()
    };
    let count = || {
        [
            left(&["ps", "--all"], &label),
            left(&["network", "ls"], &label),
            left(&["volume", "ls"], &label),
            left(&["ps", "--all"], &theirs),
        ]
    };
    assert_eq!(count(), [1, 1, 1, 1]);
    drop(scope);
    assert_eq!(count(), [0, 0, 0, 0]);
}

#[test]
fn what_a_killed_test_left_is_swept() {
    let docker = require!(Docker::here());
    let scope = docker.scope("killed").unwrap();
    let container = scope.run(&["--network=none", BB, "sleep", "600"]).unwrap();
    // As if a process had made it that is no more: this pid, at another time.
    let folder = scope.folder().to_path_buf();
    std::mem::forget(scope);
    let name = folder.file_name().unwrap().to_str().unwrap();
    let number = name.rsplit_once('-').unwrap().1;
    let left = folder.with_file_name(format!("{}.1-{number}", std::process::id()));
    std::fs::rename(&folder, &left).unwrap();
    test_hosts::sweep().unwrap();
    // Another test may have seen it first and be at it still.
    let deadline = Instant::now() + Duration::from_secs(20);
    while docker.output(&["container", "inspect", &container]).is_ok() {
        assert!(Instant::now() < deadline, "{container} is still there");
    }
}

#[test]
fn the_bare_image_serves_and_has_no_shell() {
    let docker = require!(Docker::here());
    let scope = docker.scope("bare").unwrap();
    let network = scope.name("net");
    scope.create("network", &["--internal", &network]).unwrap();
    let container = scope.run(&["--network", &network, BARE]).unwrap();
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let address = docker.output(&["container", "inspect", "--format", format, &container]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut stream = loop {
        match std::net::TcpStream::connect((address.as_str(), 8080)) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
    };
    stream.write_all(b"GET /true HTTP/1.0\r\n\r\n").unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    let shell = docker.output(&["exec", &container, "sh", "-c", "true"]);
    let Err(Error::Ended { status, .. }) = shell else { panic!("{shell:?}") };
    assert!(matches!(status.code(), Some(126 | 127)), "{status}");
}

/// This test binary again, for one test that needs Docker, on a machine that has none.
fn without_docker(ci: bool) -> Output {
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "a_scope_takes_all_that_carries_its_labels_with_it", "--nocapture"]);
    again.env("PATH", "/nowhere").env_remove("CI");
    if ci {
        again.env("CI", "true");
    }
    again.output().unwrap()
}

#[test]
fn without_docker_a_test_is_skipped_with_the_reason_and_fails_in_ci() {
    let skipped = without_docker(false);
    let talk = String::from_utf8_lossy(&skipped.stderr).into_owned();
    assert!(skipped.status.success(), "{skipped:?}");
    assert!(talk.contains("skipped: Docker does not answer here"), "{talk}");
    let failed = without_docker(true);
    assert!(!failed.status.success(), "{failed:?}");
}

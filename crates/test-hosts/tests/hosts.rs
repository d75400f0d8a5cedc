//! Hosts of a test's own: they boot, suffer what they are made to suffer, and are gone at the end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests are tests")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use test_hosts::{Docker, Error, Host, Network, OwnHost, Portable, Suite, User, require};

/// Whether a fresh login works within some seconds.
fn answers(host: &Host, seconds: u32) -> bool {
    let ssh = host.ssh(User::App);
    let mut command = Command::new("timeout");
    command.arg(seconds.to_string()).arg(ssh.get_program()).args(ssh.get_args()).arg("true");
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap().success()
}

#[test]
fn an_own_host_boots_and_is_gone_when_it_is_dropped() {
    let host = require!(Host::boot(Suite::Bookworm, "boots"));
    assert_eq!(host.exec(&["systemctl", "is-system-running"]).unwrap(), "running");
    let (container, folder) = (host.container().to_owned(), host.ssh_config());
    drop(host);
    let docker = require!(Docker::here());
    let asked = docker.output(&["container", "inspect", &container]);
    assert!(matches!(asked, Err(Error::Ended { .. })), "{asked:?}");
    assert!(!folder.exists());
}

#[test]
fn a_paused_host_hangs_and_goes_on() {
    let host = require!(Host::boot(Suite::Trixie, "pause"));
    host.pause().unwrap();
    assert!(!answers(&host, 1));
    host.unpause().unwrap();
    assert!(answers(&host, 20));
    // It can be dropped while it hangs.
    host.pause().unwrap();
}

#[test]
fn a_connection_survives_a_cut_that_heals() {
    let host = require!(Host::boot(Suite::Bookworm, "cut"));
    let mut echo = host.ssh(User::App);
    echo.arg("cat").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut echo = echo.spawn().unwrap();
    let mut far = echo.stdin.take().unwrap();
    let mut lines = BufReader::new(echo.stdout.take().unwrap()).lines();
    writeln!(far, "before").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "before");
    host.cut().unwrap();
    writeln!(far, "into the cut").unwrap();
    assert!(!answers(&host, 1));
    host.heal().unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "into the cut");
    assert!(answers(&host, 20));
    drop(far);
    assert!(echo.wait().unwrap().success());
}

#[test]
fn a_deafened_host_hears_one_address_less() {
    let lan = require!(Network::create("deafen"));
    let [a, b] = require!(lan.boot_all([(Suite::Bookworm, "a"), (Suite::Trixie, "b")]));
    let greets = |seconds| a.exec(&["ping", "-c", "1", "-W", seconds, "b"]).is_ok();
    assert!(greets("20"));
    b.deafen(a.address()).unwrap();
    assert!(!greets("1"));
    assert!(answers(&b, 20), "this machine is still heard");
    b.hear(a.address()).unwrap();
    assert!(greets("20"));
}

#[test]
fn a_slow_host_takes_its_time() {
    let host = require!(Host::boot(Suite::Trixie, "slow"));
    let time = || {
        let begin = Instant::now();
        // Two seconds at a megabit.
        let output = host.ssh(User::App).arg("head -c 250000 /dev/urandom").output().unwrap();
        assert_eq!(output.stdout.len(), 250_000);
        begin.elapsed()
    };
    host.slow(1000).unwrap();
    let slow = time();
    assert!(slow > Duration::from_millis(1500), "{slow:?}");
    host.full_speed().unwrap();
    let full = time();
    assert!(full < slow, "{full:?} against {slow:?}");
}

#[test]
fn a_crashed_host_boots_again_with_its_files_and_keys() {
    let host = require!(Host::boot(Suite::Trixie, "crash"));
    host.write("/var/lib/kept/file", "kept").unwrap();
    host.write("/run/lost", "lost").unwrap();
    host.crash().unwrap();
    assert!(!answers(&host, 2));
    host.start().unwrap();
    assert_eq!(host.exec(&["cat", "/var/lib/kept/file"]).unwrap(), "kept");
    assert!(host.exec(&["cat", "/run/lost"]).is_err());
    assert!(answers(&host, 20));
}

#[test]
fn hosts_of_a_network_know_each_other_and_nobody_else() {
    let lan = require!(Network::create("network"));
    let [a, b] = require!(lan.boot_all([(Suite::Bookworm, "a"), (Suite::Trixie, "b")]));
    let far = |host: &OwnHost, words: &[&str]| {
        let output = host.ssh(User::Plain).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(far(&a, &["ssh b hostname"]), "b");
    assert_eq!(far(&b, &["ssh app@a id -un"]), "app");
    let mut jump = Command::new("ssh");
    jump.arg("-F").arg(a.ssh_config()).args(["-J", "a", "b", "hostname"]);
    assert_eq!(jump.output().unwrap().stdout, b"b\n");
    let stranger = require!(Host::shared(Suite::Bookworm)).address().to_string();
    let reached = |address: &str| a.exec(&["nc", "-z", "-w", "1", address, "22"]).is_ok();
    assert!(reached(&b.address().to_string()) && !reached(&stranger));
}

#[test]
fn a_portable_image_is_attached_and_runs() {
    for suite in [Suite::Bookworm, Suite::Trixie] {
        let host = require!(Host::boot(suite, "portable"));
        let unit = "[Service]\nExecStart=/usr/bin/busybox cat /etc/greeting /proc/self/stat -\nStandardInput=null\n\
            Type=oneshot\nRemainAfterExit=yes\n";
        let folder = "/var/lib/portables/hello_1.0";
        let (units, files) = ([("hello.service", unit)], [("/etc/greeting", "hello from inside\n")]);
        host.make_portable(&Portable { folder, prefix: "hello", units: &units, files: &files }).unwrap();
        host.exec(&["portablectl", "attach", "--now", folder]).unwrap();
        host.wait_until("systemctl is-active hello.service").unwrap();
        host.wait_until("journalctl -u hello.service -o cat | grep 'hello from inside'").unwrap();
        assert_eq!(host.exec(&["portablectl", "is-attached", "hello_1.0"]).unwrap(), "running");
        host.exec(&["portablectl", "detach", "--now", "hello_1.0"]).unwrap();
        let attached = host.sh("portablectl is-attached hello_1.0 || true").unwrap();
        assert_eq!(attached, "detached");
    }
}

#[test]
fn a_test_outside_the_group_of_those_that_boot_is_refused() {
    require!(Docker::here());
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "a_slow_host_takes_its_time", "--nocapture"]);
    let output = again.env("NEXTEST_TEST_GROUP", "@global").output().unwrap();
    assert!(!output.status.success());
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(talk.contains("belongs in a module or a test binary named `hosts`"), "{talk}");
}

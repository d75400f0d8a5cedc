//! Packages deployed to other machines: what travels, what is noticed, and what is left when it breaks off.

use super::nodes::project;
use crate::package_services::build;
use crate::support::{Project, kill, noise};
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use test_hosts::{Host, Network, Suite, require};

/// Where packages are installed there.
const DEPOT: &str = "/home/app/.local/share/harness/opt";

fn stack(hosts: &[&Host]) -> Project {
    let nodes: String = hosts
        .iter()
        .enumerate()
        .map(|(at, host)| format!("  n{at}: {{host: {}, user: app}}\n", host.name()))
        .collect();
    project(
        hosts[0],
        &format!("nodes:\n{nodes}services:\n  idle: {{type: process, command: [sleep, '1']}}\n"),
    )
}

fn content(project: &Project, seed: u64, changed: bool) {
    let mut data = noise(8 << 20, seed);
    if changed {
        data.splice(3_000_000..3_050_000, noise(50_000, 99));
    }
    fs::create_dir_all(project.path().join("web/share")).unwrap();
    fs::write(project.path().join("web/share/data"), data).unwrap();
}

fn deploy(project: &Project, version: &str, more: &[&str]) -> (i32, Value) {
    let file = format!("web-{version}.tar.zst");
    let done = project.run(&[&["deploy", &file, "-o", "json"], more].concat());
    let document = serde_json::from_str(&done.stdout).unwrap_or_else(|_| panic!("{}", done.stderr));
    (done.code, document)
}

#[test]
fn only_what_is_missing_travels_and_each_node_tells_for_itself() {
    let lan = require!(Network::create("deploy"));
    let [a, b] = require!(lan.boot_all([(Suite::Bookworm, "a"), (Suite::Trixie, "b")]));
    let project = stack(&[&a, &b]);
    content(&project, 1, false);
    build(&project, "1.0.0", "");
    let (code, first) = deploy(&project, "1.0.0", &["--to", "n0,n1"]);
    assert_eq!(code, 0, "{first:#}");
    for node in first["nodes"].as_array().unwrap() {
        assert!(node["sent"].as_u64().unwrap() > 8 << 20, "{node:#}");
    }
    content(&project, 1, true);
    build(&project, "1.1.0", "");
    let (_, would) = deploy(&project, "1.1.0", &["--to", "n0", "--dry-run"]);
    assert!((1..800_000).contains(&would["nodes"][0]["sent"].as_u64().unwrap()), "{would:#}");
    assert_eq!(a.sh(&format!("readlink {DEPOT}/web-current")).unwrap(), "web-1.0.0");
    assert_eq!(
        a.sh(&format!("find {DEPOT}/.harness/web -name 'incoming-*'")).unwrap(),
        "",
        "nothing is begun"
    );
    // Somebody else is at it on one of them.
    let lock = format!("{DEPOT}/.harness/web/lock");
    b.sh(&format!("echo bob@laptop > {lock}; setsid sh -c 'echo $$ > /run/holder; exec flock {lock} sleep 1000' >/dev/null 2>&1 &"))
        .unwrap();
    b.wait_until(&format!("! flock -n {lock} true")).unwrap();
    let (code, second) = deploy(&project, "1.1.0", &["--to", "n0", "--to", "n1", "--max-parallel", "1"]);
    assert_eq!(code, 1, "{second:#}");
    assert!(second["nodes"][0]["sent"].as_u64().unwrap() < 800_000, "a tenth of it: {second:#}");
    assert!(second["nodes"][1]["error"].as_str().unwrap().contains("bob@laptop"), "{second:#}");
    let current = |host: &Host| host.sh(&format!("readlink {DEPOT}/web-current; ls {DEPOT}")).unwrap();
    assert_eq!(current(&a), "web-1.1.0\nweb-1.0.0\nweb-1.1.0\nweb-current");
    assert_eq!(current(&b), "web-1.0.0\nweb-1.0.0\nweb-current");
    b.sh("kill $(cat /run/holder) $(cat /proc/$(cat /run/holder)/task/*/children)").unwrap();
    b.wait_until(&format!("flock -n {lock} true")).unwrap();
    let (code, again) = deploy(&project, "1.1.0", &["--to", "n0,n1"]);
    assert_eq!(code, 0, "{again:#}");
    assert_eq!(again["nodes"][0]["deployed"]["changed"], false, "{again:#}");
    assert!(again["nodes"][1]["sent"].as_u64().unwrap() == 0, "it had come before: {again:#}");
    let same = "cd web-1.1.0 && find . -type f | sort | xargs sha256sum | sha256sum; find . -perm /022";
    let sums = [&a, &b].map(|host| host.sh(&format!("cd {DEPOT} && {same}")).unwrap());
    assert_eq!(sums[0], sums[1]);
    let back = project.ok(&["rollback", "web", "--to", "n0"]);
    assert!(back.stdout.contains("web 1.0.0 is current"), "{}", back.stdout);
    assert_eq!(a.sh(&format!("readlink {DEPOT}/web-current")).unwrap(), "web-1.0.0");
}

#[test]
fn a_script_that_fails_and_a_version_that_is_damaged_there() {
    let host = require!(Host::boot(Suite::Bookworm, "deploy bad luck"));
    let project = stack(&[&host]);
    content(&project, 1, false);
    build(&project, "1.0.0", "");
    assert_eq!(deploy(&project, "1.0.0", &["--to", "n0"]).0, 0);
    // What lies there rots: what was to be taken from it is sent instead.
    host.sh(&format!(
        "printf x | dd of={DEPOT}/web-1.0.0/share/data bs=1 seek=5000000 conv=notrunc 2>/dev/null"
    ))
    .unwrap();
    content(&project, 1, true);
    let script = project.path().join("web/scripts/post_install.sh");
    fs::write(&script, "#!/bin/sh\necho it does not fit; exit 7\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    build(&project, "1.1.0", "");
    let (code, failed) = deploy(&project, "1.1.0", &["--to", "n0", "--rollback-on-failure"]);
    assert_eq!(code, 1);
    assert!(failed["nodes"][0]["error"].as_str().unwrap().contains("it does not fit"), "{failed:#}");
    assert_eq!(
        host.sh(&format!("readlink {DEPOT}/web-current; ls -A {DEPOT}/.harness/web")).unwrap(),
        "web-1.0.0\nhistory.json\nlock"
    );
    fs::remove_file(script).unwrap();
    build(&project, "1.2.0", "");
    assert_eq!(deploy(&project, "1.2.0", &["--to", "n0"]).0, 0);
    let there = host.sh(&format!("sha256sum < {DEPOT}/web-1.2.0/share/data")).unwrap();
    let here =
        std::process::Command::new("sha256sum").arg(project.path().join("web/share/data")).output().unwrap();
    assert_eq!(there.split(' ').next(), String::from_utf8_lossy(&here.stdout).split(' ').next());
}

#[test]
fn a_disk_that_is_full_and_a_cable_that_is_cut_leave_what_was_current() {
    let host = require!(Host::boot(Suite::Trixie, "deploy cut"));
    let project = stack(&[&host]);
    content(&project, 1, false);
    build(&project, "1.0.0", "");
    let small = ["--to", "n0", "--prefix", "/mnt/small/opt"];
    host.sh("mkdir -p /mnt/small && mount -t tmpfs -o size=5m,mode=777 tmpfs /mnt/small").unwrap();
    let (code, full) = deploy(&project, "1.0.0", &small);
    assert_eq!(code, 1);
    let said = full["nodes"][0]["error"].as_str().unwrap();
    assert!(said.contains("make room there"), "{said}");
    assert_eq!(host.sh("ls /mnt/small/opt").unwrap(), "");
    host.sh("mount -o remount,size=300m /mnt/small").unwrap();
    assert_eq!(deploy(&project, "1.0.0", &small).0, 0);

    content(&project, 2, false);
    // So much that most of it is still to come when eight megabytes are there.
    fs::write(project.path().join("web/share/more"), noise(32 << 20, 77)).unwrap();
    build(&project, "2.0.0", "");
    let file = ["deploy", "web-2.0.0.tar.zst", "-o", "json"];
    let mut command = project.command(&[&file[..], &small].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let packs = "/mnt/small/opt/.harness/web/incoming-*/share/*";
    host.wait_until(&format!("[ $(cat {packs} | wc -c) -gt 8000000 ]")).unwrap();
    // It sends no more while the cable is being pulled, which takes its time.
    kill(child.id(), "STOP");
    host.cut().unwrap();
    kill(child.id(), "CONT");
    // ssh notices within some seconds that nothing comes any more.
    let said = BufReader::new(child.stderr.take().unwrap());
    let mut lines = said.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("again after")));
    assert_eq!(host.sh("readlink /mnt/small/opt/web-current").unwrap(), "web-1.0.0");
    host.heal().unwrap();
    let output = child.wait_with_output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{document:#}");
    // Of 40 MiB the first eight megabytes had come before the cut.
    assert!(document["nodes"][0]["sent"].as_u64().unwrap() < 36_000_000, "{document:#}");
    assert_eq!(host.sh("readlink /mnt/small/opt/web-current").unwrap(), "web-2.0.0");
}

#[test]
fn a_service_on_a_node_gets_its_package_where_it_takes_it_from() {
    let host = require!(Host::boot(Suite::Bookworm, "deploy service"));
    let node = format!("nodes:\n  far: {{host: {}, user: app}}\n", host.name());
    let services = |version: &str| {
        format!(
            "version: \"1.0\"\n{node}services:\n  web: {{type: package, package: web-{version}.tar.zst, host: far, install_path: /home/app/apps}}\n"
        )
    };
    let project = project(&host, &format!("{node}services: {{}}\n"));
    build(&project, "1.0.0", "");
    project.write("services.yaml", &services("1.0.0"));
    project.ok(&["start"]);
    build(&project, "1.1.0", "");
    project.write("services.yaml", &services("1.1.0"));
    let done = project.ok(&["deploy", "web"]);
    assert!(done.stderr.contains("harness deploy web --version 1.0.0"), "{}", done.stderr);
    assert_eq!(
        host.sh("readlink /home/app/apps/web-current; ls -A /home/app/.local/share 2>/dev/null; true")
            .unwrap(),
        "web-1.1.0"
    );
    let said = project.ok(&["logs", "web", "--no-prefix"]).stdout;
    assert!(said.lines().last().is_some_and(|line| line.starts_with("1.1.0 in web-1.1.0")), "{said}");
    project.ok(&["stop", "-y"]);
}

//! `cargo xtask torture nodes`: a stack over three machines, a container and this one, whose machines, ways, agents, data planes
//! and daemon are attacked at random while everyone asks everyone; and a proof that nothing was lost or doubled, that nobody
//! was ever answered by somebody else, and that nothing is left.

mod drive;
mod proof;
mod schedule;
mod stack;

use super::arguments::Arguments;
use super::project::{Programs, Project};
use super::report::Report;
use super::{Ends, failed};
use crate::shell::{self, Failure};
use drive::{Driver, VERSIONS};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;
use test_hosts::{BB, Error, Network, OwnHost};

pub(crate) use schedule::GROUPS;

/// What a host couldn't do.
fn broken(error: Error) -> Failure {
    Failure::new(error.chain())
}

/// Runs it.
///
/// # Errors
/// When something that must not be was found; the seed and the folder with the evidence are printed.
pub(crate) fn torture(arguments: &Arguments) -> Result<(), Failure> {
    let began = Instant::now();
    let network = match Network::create("torture") {
        Err(error) if error.is_lack() && !shell::in_ci() => {
            println!("SKIPPED: {}", error.chain());
            return Ok(());
        }
        made => made.map_err(broken)?,
    };
    let folder = network.scope().folder().join("torture");
    fs::create_dir_all(&folder).map_err(failed("the run's folder"))?;
    let folder = folder.canonicalize().map_err(failed("the run's folder"))?;
    let programs = programs(arguments, &folder)?;
    let hosts = network.boot_all(stack::HOSTS).map_err(broken)?;
    println!("seed {}, {} s, {} hosts", arguments.seed, arguments.seconds, hosts.len());
    let mut report = Report::new(arguments.seed, arguments.seconds);
    let outcome = attack(&folder, programs, &hosts, arguments, &mut report);
    if let Err(failure) = outcome {
        report.violation(format!("the torture itself could not go on: {failure}"));
    }
    report.print();
    println!("  {:<28}{:>8.0} s", "all of it", began.elapsed().as_secs_f64());
    if report.is_clean() && !arguments.keep {
        return Ok(());
    }
    let kept =
        std::env::temp_dir().join(format!("harness-torture-nodes-{}-{}", arguments.seed, std::process::id()));
    let copied = Command::new("cp").arg("-r").arg(&folder).arg(&kept).status();
    if copied.is_ok_and(|status| status.success()) {
        println!("evidence: {}", kept.display());
    }
    if report.is_clean() {
        return Ok(());
    }
    let again =
        format!("cargo xtask torture nodes --seconds {} --seed {}", arguments.seconds, arguments.seed);
    Err(Failure::new(format!("{} violations; again with: {again}", report.violations.len())))
}

/// Builds what is run, also on the hosts: the temper linked statically, since it runs in an empty container too.
fn programs(arguments: &Arguments, folder: &Path) -> Result<Programs, Failure> {
    let profile: &[&str] = if arguments.debug { &[] } else { &["--release"] };
    let built = match &arguments.harness {
        Some(path) => path.clone(),
        None => {
            shell::run(&mut shell::cargo(&[&["build", "--locked", "-p", "harness"], profile].concat()))?;
            super::target().join(if arguments.debug { "debug" } else { "release" }).join("harness")
        }
    };
    let triple = shell::host_triple()?;
    let words = ["build", "--locked", "-p", "xtask", "--bin", "temper", "--target", &triple];
    shell::run(shell::cargo(&words).env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    let temper = super::target().join(&triple).join("debug/temper");
    let agents = folder.join("programs");
    fs::create_dir_all(&agents).map_err(failed("a folder for the agent"))?;
    let harness = strip(&built, &folder.join("harness"))?;
    let agent = agents.join(format!("harness-{}", std::env::consts::ARCH));
    fs::copy(&harness, agent).map_err(failed("the agent"))?;
    Ok(Programs { harness, temper: strip(&temper, &folder.join("temper"))? })
}

/// A copy without symbols, which is sent often; where nothing strips, with them.
fn strip(from: &Path, to: &Path) -> Result<PathBuf, Failure> {
    let stripped = Command::new("strip").arg("-o").arg(to).arg(from).output();
    if !stripped.is_ok_and(|output| output.status.success()) {
        fs::copy(from, to).map_err(failed(&format!("copying {}", from.display())))?;
    }
    Ok(to.to_owned())
}

/// The package in two versions: `pack-VERSION.tar.zst`. Its service answers with its name.
fn packages(project: &Project) -> Result<(), Failure> {
    let root = project.folder.join("pack");
    for folder in ["bin", "scripts"] {
        fs::create_dir_all(root.join(folder)).map_err(failed("the package"))?;
    }
    fs::copy(&project.programs.temper, root.join("bin/temper")).map_err(failed("the package"))?;
    let start = root.join("scripts/start.sh");
    fs::write(&start, format!("#!/bin/sh\nexec bin/temper serve {}\n", stack::PACKAGE))
        .map_err(failed("the package"))?;
    shell::output(&root, "chmod", &["755", "scripts/start.sh"])?;
    for version in VERSIONS {
        let manifest = format!("name: {}\nversion: {version}\n", stack::PACKAGE);
        fs::write(root.join("manifest.yaml"), manifest).map_err(failed("the package"))?;
        let done = project.run(&["package", "build", "pack"]).map_err(failed("package build"))?;
        if done.code != Some(0) {
            return Err(Failure::new(format!("the package isn't built: {}{}", done.stdout, done.stderr)));
        }
    }
    Ok(())
}

fn attack(
    folder: &Path,
    programs: Programs,
    hosts: &[OwnHost],
    arguments: &Arguments,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut project = Project::new(folder, programs).map_err(failed("a project"))?;
    let Some(any) = hosts.first() else { return Ok(()) };
    project.variables = vec![
        ("HARNESS_SSH_CONFIG", any.ssh_config()),
        ("HARNESS_AGENT_DIR", project.folder.join("programs")),
    ];
    packages(&project)?;
    let project = Arc::new(project);
    let _ended = Ends(&project);
    for host in hosts {
        let made = format!("install -d -o app -g app {0} {0}/locks {0}/truth", stack::FOLDER);
        host.sh(&made).map_err(broken)?;
    }
    let services = stack::services();
    let text = stack::yaml(&services, &project.folder.display().to_string(), BB, VERSIONS[0]);
    project.write_services(&text).map_err(failed("services.yaml"))?;
    let begin = Instant::now();
    let done = project.run(&["start"]).map_err(failed("start"))?;
    if done.code != Some(0) {
        return Err(Failure::new(format!("it doesn't start: {}{}", done.stdout, done.stderr)));
    }
    if let Some(id) = project.state_dir().as_deref().and_then(Path::file_name) {
        let label = format!("harness.project={}", id.display());
        any.network().scope().also(&label).map_err(broken)?;
    }
    println!(
        "started {} instances on {} machines in {:.2} s",
        stack::instances(&services).len(),
        hosts.len() + 1,
        begin.elapsed().as_secs_f64()
    );
    let schedule = schedule::schedule(arguments.seed, arguments.seconds, &services, &arguments.without);
    let driver = Driver::new(Arc::clone(&project), &services, hosts).map_err(failed("the journal"))?;
    let (deeds, called) = driver.run(&schedule, arguments.seconds).map_err(broken)?;
    report.deeds.counts = deeds.counts.clone();
    proof::prove(&project, &services, hosts, &deeds, &called, report)
}

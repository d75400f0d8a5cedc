//! `cargo xtask torture`: fifty services of all tempers, everything killed at random, and a proof that nothing was lost,
//! nothing doubled and nothing is stuck.
//!
//! ```text
//! seed ──schedule (pure)──► drive ──► harness, tempers ──► records, logs, truth ──check (pure)──► report
//! ```
//!
//! The tempers (`src/bin/temper.rs`) number their lines and write down how far they came; the checker holds the logs
//! against that. Only processes that carry this run's state home are ever signalled.

mod arguments;
mod check;
mod clock;
mod drive;
mod evidence;
mod final_proof;
#[allow(dead_code, reason = "shared with the tempers: each uses its half")]
mod line;
mod nodes;
mod orders;
mod process;
mod project;
mod report;
mod rng;
mod room;
mod schedule;
mod stack;
mod steps;
#[allow(dead_code, reason = "shared with the tempers: each uses its half")]
mod talk;

use crate::shell::{self, Failure};
use arguments::Arguments;
use clock::Clock;
use drive::Driver;
use project::{Programs, Project};
use report::Report;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Services of the stack whose take-over is measured.
const QUIET: usize = 100;

/// Times that a take-over is measured.
const TIMES: usize = 5;

/// What went wrong with the torture itself, not with what is tortured.
fn failed(what: &str) -> impl FnOnce(std::io::Error) -> Failure {
    let what = what.to_owned();
    move |error| Failure::new(format!("{what}: {error}"))
}

/// Runs it.
///
/// # Errors
/// When something that must not be was found; the seed and the folder with the evidence are printed.
pub(crate) fn torture(words: &[String]) -> Result<(), Failure> {
    if let Some(("nodes", words)) = words.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return nodes::torture(&Arguments::parse(words, nodes::GROUPS)?);
    }
    let arguments = Arguments::parse(words, schedule::GROUPS)?;
    if let Some(outcome) = room::enter(words, &arguments)? {
        return outcome;
    }
    let disks = arguments.inside;
    if !disks && shell::in_ci() {
        return Err(Failure::new("full disks can't be had here: no private mount namespace"));
    }
    let folder =
        std::env::temp_dir().join(format!("harness-torture-{}-{}", arguments.seed, std::process::id()));
    fs::create_dir_all(&folder).map_err(failed("the run's folder"))?;
    let programs = programs(&arguments, &folder)?;
    let clock = if disks { clock(&folder)? } else { None };
    println!(
        "seed {}, {} s, {}, {}",
        arguments.seed,
        arguments.seconds,
        if disks { "small disks" } else { "full disks SKIPPED: no private mount namespace" },
        if clock.is_some() { "a clock that is set" } else { "clock steps SKIPPED" }
    );
    let mut report = Report::new(arguments.seed, arguments.seconds);
    let result = adoption(&folder.join("quiet"), &programs, &mut report)
        .and_then(|()| match &clock {
            Some(clock) => {
                let project = Project::new(&folder.join("steps"), programs.clone());
                steps::steps(&project.map_err(failed("a project"))?, clock, &mut report)
            }
            None => Ok(()),
        })
        .and_then(|()| attack(&folder.join("stack"), programs, &arguments, disks, clock, &mut report));
    if let Err(failure) = result {
        report.violation(format!("the torture itself could not go on: {failure}"));
    }
    report.print();
    if report.is_clean() && !arguments.keep {
        room::leave(&folder);
        fs::remove_dir_all(&folder).map_err(failed("removing the run's folder"))?;
        return Ok(());
    }
    println!("evidence: {}", folder.display());
    if report.is_clean() {
        return Ok(());
    }
    let again = format!("cargo xtask torture --seconds {} --seed {}", arguments.seconds, arguments.seed);
    Err(Failure::new(format!("{} violations; again with: {again}", report.violations.len())))
}

/// The wall clock that is set. Where one can't be had this is said, and refused where nothing may be skipped.
fn clock(folder: &Path) -> Result<Option<Arc<Clock>>, Failure> {
    match Clock::install(folder) {
        Ok(clock) => Ok(Some(Arc::new(clock))),
        Err(failure) if shell::in_ci() => Err(failure),
        Err(failure) => {
            println!("no clock that can be set: {failure}");
            Ok(None)
        }
    }
}

/// Where cargo puts what it builds: this program lies in it.
fn target() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).map_or_else(|| shell::root().join("target"), Path::to_path_buf)
}

/// Builds what is run and copies it away, so that nobody changes it meanwhile.
fn programs(arguments: &Arguments, folder: &Path) -> Result<Programs, Failure> {
    let profile: &[&str] = if arguments.debug { &[] } else { &["--release"] };
    let harness = match &arguments.harness {
        Some(path) => path.clone(),
        None => {
            shell::run(&mut shell::cargo(&[&["build", "--locked", "-p", "harness"], profile].concat()))?;
            target().join(if arguments.debug { "debug" } else { "release" }).join("harness")
        }
    };
    shell::run(&mut shell::cargo(&["build", "--locked", "-p", "xtask", "--bin", "temper"]))?;
    let copy = |from: &Path, name: &str| -> Result<PathBuf, Failure> {
        let to = folder.join(name);
        fs::copy(from, &to).map_err(failed(&format!("copying {}", from.display())))?;
        Ok(to)
    };
    let temper = target().join("debug/temper");
    Ok(Programs { harness: copy(&harness, "harness")?, temper: copy(&temper, "temper")? })
}

/// How long a new daemon takes until it has taken over a hundred services.
fn adoption(folder: &Path, programs: &Programs, report: &mut Report) -> Result<(), Failure> {
    let project = Project::new(folder, programs.clone()).map_err(failed("a project"))?;
    let ended = Ends(&project);
    let text = stack::quiet_yaml(QUIET, &project.programs.temper, &project.folder);
    project.write_services(&text).map_err(failed("services.yaml"))?;
    let done = project.run(&["start"]).map_err(failed("start"))?;
    if done.code != Some(0) {
        report.violation(format!("{QUIET} quiet services don't start: {}", done.stderr));
    }
    let pids = |project: &Project| {
        let all = project.family.all();
        let mut pids: Vec<i32> = all.iter().filter(|p| p.run.is_some()).map(|p| p.pid).collect();
        pids.sort_unstable();
        pids
    };
    let before = pids(&project);
    for _ in 0..TIMES {
        report.adoptions_100.push(project.daemon_again().map_err(failed("a new daemon"))?);
    }
    if pids(&project) != before || before.len() != QUIET {
        report.violation(format!("{} of {QUIET} quiet services are left as they were", before.len()));
    }
    let done = project.run(&["stop"]).map_err(failed("stop"))?;
    if done.code != Some(0) {
        report.violation(format!("the quiet stack doesn't stop: {}", done.stderr));
    }
    drop(ended);
    Ok(())
}

/// Ends what a project left, also when something went wrong.
struct Ends<'a>(&'a Project);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn attack(
    folder: &Path,
    programs: Programs,
    arguments: &Arguments,
    disks: bool,
    clock: Option<Arc<Clock>>,
    report: &mut Report,
) -> Result<(), Failure> {
    let project = Arc::new(Project::new(folder, programs).map_err(failed("a project"))?);
    let _ended = Ends(&project);
    let services = Arc::new(stack::services());
    let text = stack::yaml(&services, &stack::Edits::default(), &project.programs.temper, &project.folder);
    project.write_services(&text).map_err(failed("services.yaml"))?;
    if disks {
        room::mount_disks(&project, &services)?;
    }
    let begin = Instant::now();
    let done = project.run(&["start"]).map_err(failed("start"))?;
    println!("started 50 services in {:.2} s, exit code {:?}", begin.elapsed().as_secs_f64(), done.code);
    if !matches!(done.code, Some(0 | 3)) {
        report.violation(format!("the first start: {done:?}"));
        return Ok(());
    }
    std::thread::sleep(Duration::from_secs(1));
    report.first_footprint = project.daemon().and_then(process::footprint);

    let schedule = schedule::schedule(arguments.seed, arguments.seconds, &services, &arguments.without);
    println!("{} actions; what is done stands in {}/journal", schedule.len(), project.folder.display());
    let driver = Driver::new(Arc::clone(&project), Arc::clone(&services), disks, clock.clone())
        .map_err(failed("the journal"))?;
    let (deeds, mut calls) = driver.run(&schedule, arguments.seconds).map_err(failed("the attack"))?;
    if let Some(clock) = &clock {
        clock.set(0).map_err(failed("the clock"))?;
    }
    let proven = final_proof::prove(&project, &services, &deeds, &mut calls, report);
    report.deeds = deeds;
    if disks && (proven.is_err() || !report.is_clean()) {
        room::keep(&project, &services);
    }
    proven
}

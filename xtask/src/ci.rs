//! `cargo xtask ci`: everything that must hold before a change is taken, in sections with their times.

use crate::shell::{self, Failure};
use crate::test::{human, test};
use crate::tools;
use std::time::{Duration, Instant};

/// A named part of the run.
type Section = (&'static str, fn() -> Result<(), Failure>);

/// In the order of how soon they tell something.
const SECTIONS: &[Section] = &[
    ("format", format),
    ("clippy", clippy),
    ("docs", docs),
    ("dependencies", dependencies),
    ("tests", || test(&[])),
    ("torture", torture),
    ("fuzz", || crate::fuzz::fuzz(&[])),
];

/// Runs the sections that are named, without names all of them, also after one has failed, and prints the times.
///
/// # Errors
/// Naming the sections that failed, or the one that doesn't exist.
pub(crate) fn ci(wanted: &[String]) -> Result<(), Failure> {
    if let Some(unknown) = wanted.iter().find(|name| SECTIONS.iter().all(|(known, _)| known != name)) {
        let known: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
        return Err(Failure::new(format!("there is no section {unknown}; there are {}", known.join(", "))));
    }
    let begin = Instant::now();
    let mut results: Vec<(&str, Duration, Option<Failure>)> = Vec::new();
    for (name, section) in SECTIONS {
        if !wanted.is_empty() && wanted.iter().all(|wanted| wanted != name) {
            continue;
        }
        eprintln!("\n== {name}");
        let begin = Instant::now();
        let failure = section().err();
        match &failure {
            None => eprintln!("== {name}: ok, {}", human(begin.elapsed())),
            Some(failure) => eprintln!("== {name}: FAILED, {}: {failure}", human(begin.elapsed())),
        }
        results.push((name, begin.elapsed(), failure));
    }
    eprintln!("\n== summary");
    for (name, time, failure) in &results {
        eprintln!("{:<14}{:<8}{}", name, if failure.is_none() { "ok" } else { "FAILED" }, human(*time));
    }
    eprintln!("{:<22}{}", "all", human(begin.elapsed()));
    let failed: Vec<&str> =
        results.iter().filter(|(_, _, failure)| failure.is_some()).map(|(name, ..)| *name).collect();
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(format!("failed: {}", failed.join(", ")))) }
}

/// A minute with everything, a shorter one in which the daemon lives and must not grow, and one over several machines. The debug
/// build: another one would take longer than the runs.
fn torture() -> Result<(), Failure> {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    crate::torture::torture(&words(&["--debug", "--seconds", "60"]))?;
    crate::torture::torture(&words(&["--debug", "--seconds", "30", "--without", "daemon,all"]))?;
    crate::torture::torture(&words(&["nodes", "--debug", "--seconds", "40"]))
}

fn format() -> Result<(), Failure> {
    shell::run(&mut shell::cargo(&["fmt", "--all", "--check"]))
}

fn clippy() -> Result<(), Failure> {
    shell::run(&mut shell::cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))
}

fn docs() -> Result<(), Failure> {
    let mut command = shell::cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    shell::run(command.env("RUSTDOCFLAGS", "-D warnings"))
}

/// cargo-deny's bans, licences and sources. Its advisories need a database from elsewhere and are not asked.
fn dependencies() -> Result<(), Failure> {
    tools::ensure(&tools::DENY)?;
    shell::run(&mut shell::cargo(&[
        "deny",
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]))
}

//! `cargo xtask fuzz`: builds the fuzz targets with coverage, runs each for a while and counts the executions.
//!
//! `fuzz/` is laid out for cargo-fuzz, but nothing needs it: libFuzzer comes with the `libfuzzer-sys` crate and is built
//! by the C++ compiler, the coverage by rustc's own flags. Seeds are checked in; what is found beyond them is kept in
//! `fuzz/corpus/`, and inputs that break something in `fuzz/artifacts/`.

use crate::shell::{self, Failure};
use std::path::Path;
use std::process::{Command, Stdio};

/// Name and what it is fed with.
const TARGETS: &[(&str, &str)] = &[
    ("stack", "services.yaml → stack"),
    ("reference", "the grammar of ${…}"),
    ("rpc", "JSON-RPC frames"),
    ("record", "run records"),
    ("log", "log files"),
    ("package", "packages, unpacked"),
];

/// Seconds for each target when none are named.
const SECONDS: u32 = 10;

/// What cargo-fuzz gives to rustc, without a sanitizer: the code that takes input has no `unsafe`.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Clink-dead-code=no";

/// Runs the targets that are named, without names all of them, `--seconds` each.
///
/// # Errors
/// When the arguments can't be understood, the targets don't build, or an input breaks one.
pub(crate) fn fuzz(arguments: &[String]) -> Result<(), Failure> {
    let (seconds, wanted) = read(arguments)?;
    let triple = shell::host_triple()?;
    let mut build = shell::cargo(&["build", "--release", "--locked", "--bins", "--target", &triple]);
    build.current_dir(shell::root().join("fuzz")).env("RUSTFLAGS", RUSTFLAGS).env("RUSTC_BOOTSTRAP", "1");
    shell::run(&mut build)?;
    let programs = shell::root().join("fuzz/target").join(&triple).join("release");
    let mut failed = Vec::new();
    let mut table = String::new();
    for (name, what) in TARGETS.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name)) {
        eprintln!("fuzzing {name} ({what}) for {seconds} s");
        let (executions, good) = run(&programs.join(name), name, seconds)?;
        table.push_str(&format!("{name:<12}{executions:>12} executions  {what}\n"));
        if !good {
            failed.push(*name);
        }
    }
    print!("{table}");
    if failed.is_empty() {
        return Ok(());
    }
    let names = failed.join(", ");
    Err(Failure::new(format!(
        "an input breaks {names}: it is in fuzz/artifacts/, give it to the target to see it again"
    )))
}

/// Seconds and names.
fn read(arguments: &[String]) -> Result<(u32, Vec<&str>), Failure> {
    let (mut seconds, mut names) = (SECONDS, Vec::new());
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if word == "--seconds" {
            let number = words.next().and_then(|number| number.parse().ok()).filter(|number| *number > 0);
            seconds = number.ok_or_else(|| Failure::new("--seconds needs a number from 1"))?;
        } else if TARGETS.iter().any(|(name, _)| *name == word) {
            names.push(word);
        } else {
            let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            return Err(Failure::new(format!(
                "there is no fuzz target {word}; there are {}",
                known.join(", ")
            )));
        }
    }
    Ok((seconds, names))
}

/// Runs one; the answer: executions, and whether nothing broke.
fn run(program: &Path, name: &str, seconds: u32) -> Result<(u64, bool), Failure> {
    let folder = shell::root().join("fuzz");
    let (corpus, seeds) = (folder.join("corpus").join(name), folder.join("seeds").join(name));
    let artifacts = folder.join("artifacts").join(name);
    for made in [&corpus, &artifacts] {
        std::fs::create_dir_all(made)
            .map_err(|error| Failure::new(format!("can't make {}: {error}", made.display())))?;
    }
    let mut command = Command::new(program);
    command
        .arg(format!("-max_total_time={seconds}"))
        .args(["-print_final_stats=1", "-timeout=10", "-rss_limit_mb=2048", "-max_len=16384"])
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args([&corpus, &seeds])
        .current_dir(&folder)
        .stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|error| Failure::new(format!("{} can't be started: {error}", program.display())))?;
    let talk = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<&str> = talk.lines().collect();
        eprintln!("{}", lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n"));
    }
    Ok((executions(&talk), output.status.success()))
}

/// What libFuzzer says about itself at its end, or else with its last line of progress (`#1234 NEW …`).
fn executions(talk: &str) -> u64 {
    let last = talk.lines().rev().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let last = last.or_else(|| {
        let progress = talk.lines().rev().find_map(|line| line.strip_prefix('#'));
        progress.and_then(|line| line.split_whitespace().next())
    });
    last.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_figures_are_read() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(read(&words("--seconds 3 log")).unwrap(), (3, vec!["log"]));
        assert_eq!(read(&[]).unwrap(), (SECONDS, Vec::new()));
        for bad in ["--seconds", "--seconds 0", "--seconds x", "nope"] {
            assert!(read(&words(bad)).is_err(), "{bad}");
        }
        assert_eq!(
            executions("#12\tNEW cov: 3\nDone\nstat::number_of_executed_units: 4711\nstat::x: 1"),
            4711
        );
        assert_eq!(executions("#12\tNEW cov: 3\n==1== ERROR"), 12);
    }

    #[test]
    fn every_target_has_seeds_and_a_source() {
        for (name, _) in TARGETS {
            let fuzz = shell::root().join("fuzz");
            assert!(fuzz.join(format!("targets/{name}.rs")).is_file(), "{name}");
            assert!(std::fs::read_dir(fuzz.join("seeds").join(name)).unwrap().count() > 1, "{name}");
        }
    }
}

//! `cargo xtask test`: sets up what the tests need and runs all of them.

use crate::shell::{self, Failure};
use crate::tools;
use std::time::Duration;

/// Programs that tests and examples run and that a developer's machine has: program, argument that makes it answer,
/// Debian's package.
const NEEDED: &[(&str, &str, &str)] = &[
    ("python3", "--version", "python3"),
    ("sh", "-c", "dash"),
    ("git", "--version", "git"),
    ("openssl", "version", "openssl"),
];

/// Test threads where nextest can't be had: its groups and time limits are missing then.
const THREADS_WITHOUT_NEXTEST: &str = "--test-threads=2";

/// Runs the tests that match the filter (nextest's arguments), all of them and the doctests when it is empty.
///
/// # Errors
/// When something that tests need is missing, or a test fails.
pub(crate) fn test(filter: &[String]) -> Result<(), Failure> {
    check_needed()?;
    bring_up_hosts()?;
    make_python()?;
    let nextest = match tools::ensure(&tools::NEXTEST) {
        Ok(()) => true,
        Err(failure) if shell::in_ci() => return Err(failure),
        Err(failure) => {
            eprintln!("{failure}\ngoing on with `cargo test`, without time limits and groups");
            false
        }
    };
    // cargo would ignore `-p` beside `--workspace`.
    let names_package = |word: &String| word.starts_with("-p") || word.starts_with("--package");
    let scope = if filter.iter().any(names_package) { None } else { Some("--workspace") };
    if nextest {
        let profile = if shell::in_ci() { "ci" } else { "default" };
        let mut command = shell::cargo(&["nextest", "run", "--profile", profile]);
        shell::run(command.args(scope).args(filter))?;
    } else {
        let mut command = shell::cargo(&["test", "--tests", "--no-fail-fast"]);
        shell::run(command.args(scope).args(filter).args(["--", THREADS_WITHOUT_NEXTEST]))?;
    }
    if filter.is_empty() {
        shell::run(&mut shell::cargo(&["test", "--workspace", "--doc"]))?;
    }
    Ok(())
}

/// Makes the images and boots the hosts that tests share. Where this machine can't, tests that need them say so and are
/// skipped, but not in CI.
fn bring_up_hosts() -> Result<(), Failure> {
    match crate::hosts::up(shell::in_ci()) {
        Err(failure) if !shell::in_ci() => {
            eprintln!("{failure}\ngoing on; tests that need these hosts are skipped and say so");
            Ok(())
        }
        other => other,
    }
}

/// Makes the Python environment of the tests whose clients come from PyPI. Where it can't be made, these are skipped and say
/// so, but not in CI.
fn make_python() -> Result<(), Failure> {
    match tools::ensure_python() {
        Err(failure) if !shell::in_ci() => {
            eprintln!("{failure}\ngoing on; tests that need it are skipped and say so");
            Ok(())
        }
        other => other,
    }
}

/// Refuses early, and once for all, what would otherwise fail test by test.
fn check_needed() -> Result<(), Failure> {
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, argument, _)| {
            !shell::answers(program, &[argument, ":"]) && !shell::answers(program, &[argument])
        })
        .map(|(_, _, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    Err(Failure::new(format!(
        "the tests need programs that are not here; on Debian: apt-get install {packages}"
    )))
}

/// `1m 05s` or `7.3s`.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds >= 60 {
        format!("{}m {:02}s", seconds / 60, seconds % 60)
    } else {
        format!("{:.1}s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(human(Duration::from_millis(7_340)), "7.3s");
        assert_eq!(human(Duration::from_secs(65)), "1m 05s");
    }
}

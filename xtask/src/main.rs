//! Chores of the project, run with `cargo xtask NAME`.
//!
//! `test` runs every test, `guards` the guards of the invariants alone, `ci` all that must hold before a change is
//! taken, `torture` attacks the real program, `figures` measures the registry, `agent` builds the program for nodes, `hosts`
//! are machines for tests, `clean` takes back what the project left on this machine.

mod agent;
mod ci;
mod clean;
mod fuzz;
mod guards;
mod hosts;
mod shell;
mod test;
mod tools;
mod torture;

use shell::Failure;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask CHORE

  test [ARGS]        set up what the tests need and run all of them; ARGS go to nextest, e.g. a filter
  guards             check the invariants that ARCHITECTURE.md lists
  ci [SECTION...]    format, clippy, docs, dependencies, tests, fuzz
  torture [ARGS]     kill everything at random and prove that nothing is lost: --seconds N --seed S
  torture nodes [ARGS]         the same with three machines, and what lies between them
  fuzz [ARGS]        feed every parser with junk that learns: --seconds N, names of targets
  openrpc            write the descriptions of the API anew, after a change of methods or their types
  figures            what the registry does in a second, built as a release
  agent [--target TRIPLE]      build the program that is copied to nodes, linked statically, into target/agents
  hosts build|up|down|status   the machines that tests run on; --yes installs what they need
  clean [--dry-run]  stop the examples, remove their state, the test hosts and the target folder
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test", ..] => test::test(arguments.get(1..).unwrap_or_default()),
        ["guards"] => guards_chore(),
        ["ci", ..] => ci::ci(arguments.get(1..).unwrap_or_default()),
        ["torture", ..] => torture::torture(arguments.get(1..).unwrap_or_default()),
        ["fuzz", ..] => fuzz::fuzz(arguments.get(1..).unwrap_or_default()),
        ["openrpc"] => openrpc(),
        ["figures"] => figures(),
        ["agent", ..] => agent::agent(words.get(1..).unwrap_or_default()),
        ["hosts", ..] => hosts::hosts(words.get(1..).unwrap_or_default()),
        ["clean"] => clean::clean(false),
        ["clean", "--dry-run"] => clean::clean(true),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Measures the registry alone: 10,000 events a second beside slow and silent subscribers, calls, durable writes, starts.
fn figures() -> Result<(), Failure> {
    let build = ["test", "--release", "--locked", "-p", "service-registry", "--test", "it", "--"];
    let which = ["--include-ignored", "--nocapture", "--test-threads", "1", "figures", "ten_thousand"];
    shell::run(&mut shell::cargo(&[&build[..], &which].concat()))
}

/// The tests that hold the descriptions of the API against the code, told to write them. The registry's first: it is in the
/// program that the other is a test of.
fn openrpc() -> Result<(), Failure> {
    for package in ["service-registry", "harness"] {
        let test = ["test", "--locked", "-p", package, "openrpc::the_document"];
        shell::run(shell::cargo(&test).env("UPDATE_OPENRPC", "1"))?;
    }
    Ok(())
}

/// Prints what the guards found.
fn guards_chore() -> Result<(), Failure> {
    let report = guards::run(&shell::root())?;
    for warning in &report.warnings {
        eprintln!("warning: {}", warning.0);
    }
    for violation in &report.violations {
        println!("{violation}");
    }
    match report.violations.len() {
        0 => {
            eprintln!("the invariants hold");
            Ok(())
        }
        count => Err(Failure::new(format!("{count} violations"))),
    }
}

//! Tools that the chores need and Rust doesn't bring: used where they are installed, else built once into
//! `target/tools`, so that nothing outside the repository changes.

use crate::shell::{self, Failure};
use std::path::PathBuf;
use std::process::Command;

/// A cargo subcommand from crates.io.
pub(crate) struct Tool {
    /// Its package and program.
    package: &'static str,
    /// The subcommand.
    subcommand: &'static str,
}

/// Runs the tests: a process each, with time limits and groups (`.config/nextest.toml`).
pub(crate) const NEXTEST: Tool = Tool { package: "cargo-nextest", subcommand: "nextest" };

/// Checks licences, bans and sources of dependencies (`deny.toml`).
pub(crate) const DENY: Tool = Tool { package: "cargo-deny", subcommand: "deny" };

/// Folder of the tools' programs.
pub(crate) fn folder() -> PathBuf {
    target().join("tools").join("bin")
}

/// cargo's target folder.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => shell::root().join(folder),
        None => shell::root().join("target"),
    }
}

/// What tests use from PyPI, with hashes.
const REQUIREMENTS: &str = "xtask/python/requirements.txt";

/// Makes sure that `target/tools/python` is a Python environment with what tests use from PyPI. It has a copy of the list that
/// it was made from, written last.
///
/// # Errors
/// When it isn't there and can't be made.
pub(crate) fn ensure_python() -> Result<(), Failure> {
    let folder = target().join("tools").join("python");
    let (list, made_from) = (shell::root().join(REQUIREMENTS), folder.join("requirements.txt"));
    let wanted =
        std::fs::read(&list).map_err(|e| Failure::new(format!("{} can't be read: {e}", list.display())))?;
    let python = folder.join("bin").join("python3");
    if std::fs::read(&made_from).is_ok_and(|made_from| made_from == wanted)
        && shell::answers(&python, &["-V"])
    {
        return Ok(());
    }
    let hint = "on Debian: apt-get install python3-venv; and PyPI must be reachable";
    let explained = |failure: Failure| Failure::new(format!("{failure}\n{hint}"));
    shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder)).map_err(explained)?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]);
    install.args(["--only-binary", ":all:", "--no-deps", "--requirement"]).arg(&list);
    shell::run(&mut install).map_err(explained)?;
    std::fs::write(&made_from, wanted)
        .map_err(|e| Failure::new(format!("{} can't be written: {e}", made_from.display())))
}

/// Makes sure that the tool is there. Builds it without optimisation, which takes a third of the time and is fast
/// enough: on two cores cargo-deny in one to two minutes, nextest in three to four.
///
/// # Errors
/// When it isn't there and can't be built.
pub(crate) fn ensure(tool: &Tool) -> Result<(), Failure> {
    let own = folder().join(tool.package);
    if shell::answers(&own, &[tool.subcommand, "--version"])
        || shell::answers(tool.package, &[tool.subcommand, "--version"])
    {
        return Ok(());
    }
    let root = target().join("tools");
    let build = root.join("build");
    let mut command = shell::cargo(&["install", "--locked", "--debug", "--quiet", tool.package, "--root"]);
    command.arg(&root);
    command.env("CARGO_TARGET_DIR", &build).env("CARGO_PROFILE_DEV_DEBUG", "false");
    // The flags of this repository's build are no concern of the tool's.
    command.env_remove("RUSTFLAGS").env_remove("RUSTDOCFLAGS");
    let built = shell::run(&mut command);
    // Left-overs of the build are large and of no further use.
    let cleaned = std::fs::remove_dir_all(&build);
    built?;
    cleaned.or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) }).map_err(|e| {
        Failure::new(format!("{} was built, but {} can't be removed: {e}", tool.package, build.display()))
    })
}

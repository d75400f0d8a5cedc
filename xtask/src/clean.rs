//! `cargo xtask clean`: takes back what building, testing and trying the examples left on this machine.

use crate::shell::{self, Failure};
use crate::tools;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Stops the examples' stacks, then removes their state folders, the test hosts and the target folder.
///
/// # Errors
/// When a stack can't be stopped (then its state stays) or a folder can't be removed.
pub(crate) fn clean(dry_run: bool) -> Result<(), Failure> {
    for config in example_configs()? {
        let folders = state_folders(&config)?;
        if folders.is_empty() {
            continue;
        }
        stop(&config, dry_run)?;
        for folder in folders {
            remove(&folder, dry_run)?;
        }
    }
    crate::hosts::clean(dry_run)?;
    remove(&tools::target(), dry_run)
}

/// The examples' configurations, canonical.
fn example_configs() -> Result<Vec<PathBuf>, Failure> {
    let examples = shell::root().join("examples");
    let mut configs = Vec::new();
    for folder in entries(&examples)? {
        for name in ["services.yaml", "harness.yaml", ".harness/services.yaml"] {
            if let Ok(config) = folder.join(name).canonicalize() {
                configs.push(config);
            }
        }
    }
    Ok(configs)
}

/// State folders of the project with this configuration: `NAME-HASH`, the hash being that of the path.
fn state_folders(config: &Path) -> Result<Vec<PathBuf>, Failure> {
    let Some(states) = states() else { return Ok(Vec::new()) };
    let suffix = format!("-{}", id_hash(config));
    let is_of_project = |folder: &PathBuf| {
        folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(&suffix))
    };
    Ok(entries(&states)?.into_iter().filter(is_of_project).collect())
}

/// The folder that holds the state of every project.
fn states() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("harness"))
}

/// The first 8 hexadecimal digits of the SHA-256 of the path.
fn id_hash(config: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let digest = Sha256::digest(config.as_os_str().as_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let list = match std::fs::read_dir(folder) {
        Ok(list) => list,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Failure::new(format!("{} can't be read: {e}", folder.display()))),
    };
    let mut paths: Vec<PathBuf> = list.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Stops a stack with the program that this repository built.
fn stop(config: &Path, dry_run: bool) -> Result<(), Failure> {
    let programs = ["release", "debug"].map(|profile| tools::target().join(profile).join("harness"));
    let Some(program) = programs.into_iter().find(|program| program.is_file()) else {
        return Err(Failure::new(format!(
            "{} has state on this machine and there is no program to stop it with: run `cargo build` first",
            config.display()
        )));
    };
    eprintln!("stopping {}", config.display());
    if dry_run {
        return Ok(());
    }
    shell::run(Command::new(program).arg("--config").arg(config).args(["stop", "-y"]))
}

fn remove(folder: &Path, dry_run: bool) -> Result<(), Failure> {
    if !folder.exists() {
        return Ok(());
    }
    eprintln!("removing {}", folder.display());
    if dry_run {
        return Ok(());
    }
    std::fs::remove_dir_all(folder)
        .map_err(|e| Failure::new(format!("{} can't be removed: {e}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_path() {
        // printf /a/services.yaml | sha256sum
        assert_eq!(id_hash(Path::new("/a/services.yaml")), "940a390c");
    }
}

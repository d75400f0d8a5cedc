//! The scripts of a package, run by this program: in the package's folder, with what they may want to know.

use super::PackageError;
use command_executor::command::Command;
use command_executor::executor::{ExecuteError, Executor, Finished};
use command_executor::launcher::LocalLauncher;
use semver::Version;
use service_registry::package::manifest::Manifest;
use std::path::Path;
use std::time::Duration;

/// Lines that are shown of a script that failed.
const LAST: usize = 10;

/// Whether the programs are here that the manifest requires.
pub(super) fn check_requires(manifest: &Manifest) -> Result<(), PackageError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let here = |name: &str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let missing: Vec<String> =
        manifest.requires.commands.iter().filter(|name| !here(name)).cloned().collect();
    if missing.is_empty() { Ok(()) } else { Err(PackageError::Lacks { package: manifest.stem(), missing }) }
}

/// Runs a script to its end.
pub(super) fn run(
    manifest: &Manifest,
    folder: &Path,
    path: &str,
    before: Option<&Version>,
    timeout: Duration,
) -> Result<(), PackageError> {
    let script = path.to_owned();
    let mut command = Command::new(folder.join(path)).current_dir(folder).timeout(timeout);
    command = command
        .env("HARNESS_PACKAGE", &manifest.name)
        .env("HARNESS_PACKAGE_VERSION", manifest.version.to_string())
        .env("HARNESS_PACKAGE_PREVIOUS", before.map(ToString::to_string).unwrap_or_default());
    LocalLauncher::prepare();
    match async_io::block_on(Executor::new(LocalLauncher::new().killed_with_thread()).run(&command)) {
        Ok(Finished { exit, .. }) if exit.is_success() => Ok(()),
        Ok(Finished { exit, stdout, stderr, .. }) => Err(PackageError::Script {
            script,
            how: format!("ended with {exit}"),
            output: last(&[stdout.to_text(), stderr.to_text()]),
        }),
        Err(ExecuteError::TimedOut { timeout, stdout, stderr, .. }) => Err(PackageError::Script {
            script,
            how: format!("was not done after {}", crate::ui::time::short(timeout)),
            output: last(&[stdout.to_text(), stderr.to_text()]),
        }),
        Err(source) => Err(PackageError::Start { script, source }),
    }
}

/// The last lines of what it said.
fn last(texts: &[String]) -> String {
    let lines: Vec<&str> = texts.iter().flat_map(|text| text.lines()).collect();
    lines.get(lines.len().saturating_sub(LAST)..).unwrap_or_default().join("\n")
}

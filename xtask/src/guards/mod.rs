//! The guards of the invariants that ARCHITECTURE.md lists. Each is a function over text, so that a test can show
//! that it fails; [`run`] feeds them this repository. They run as tests of this crate and as `cargo xtask guards`.

mod files;
mod graph;
mod licence;
mod rules;
mod source;

use crate::shell::{self, Failure};
use std::fmt;
use std::path::Path;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// Name of the rule.
    pub(crate) rule: &'static str,
    /// File and line, or crate.
    pub(crate) at: String,
    /// What is wrong.
    pub(crate) what: String,
}

/// Something to look at that breaks nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warning(pub(crate) String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.at, self.rule, self.what)
    }
}

/// What the guards found.
#[derive(Default)]
pub(crate) struct Report {
    /// Broken rules.
    pub(crate) violations: Vec<Violation>,
    /// What to look at.
    pub(crate) warnings: Vec<Warning>,
}

/// Manifests that aren't held to the workspace's: its own, and those of workspaces apart. The fuzz targets need another
/// compiler mode; the benchmark beside etcd needs tokio, which no crate of ours may have.
const APART: &[&str] = &["Cargo.toml", "fuzz/Cargo.toml", "bench/registry/Cargo.toml"];

/// Runs every guard on the repository at `root`.
///
/// # Errors
/// When git or cargo can't be asked, or a file can't be read.
pub(crate) fn run(root: &Path) -> Result<Report, Failure> {
    let mut report = Report::default();
    report.violations.extend(dependencies(root)?);
    let paths = tracked_files(root)?;
    report.violations.extend(rules::empty_rooms(&paths));
    report.warnings.extend(rules::blind_doors(&paths));
    for path in paths {
        let Some(text) = read_text(&root.join(&path))? else { continue };
        report.violations.extend(files::machine_paths(&path, &text));
        report.warnings.extend(files::length(&path, &text));
        if path.ends_with("Cargo.toml") && !APART.contains(&path.as_str()) {
            report.violations.extend(files::manifest(&path, &text));
        }
        if path.ends_with(".md") {
            report.violations.extend(files::links(&path, &text, &|target| root.join(target).exists()));
        }
        if path.ends_with(".rs") {
            report.violations.extend(rules::RULES.iter().flat_map(|rule| rules::check(rule, &path, &text)));
        }
    }
    Ok(report)
}

/// The guards that ask cargo: arrows, runtimes, licences, sources, bans.
fn dependencies(root: &Path) -> Result<Vec<Violation>, Failure> {
    // One platform, so that crates which only other systems need are not fetched.
    let host = shell::host_triple()?;
    let metadata =
        shell::output(root, "cargo", &["metadata", "--format-version", "1", "--filter-platform", &host])?;
    let graph = graph::Graph::parse(&metadata).map_err(Failure::new)?;
    let mut violations = graph.arrows();
    violations.extend(graph.licences());
    violations.extend(graph.sources_and_bans());
    for library in graph::LIBRARIES {
        let tree =
            shell::output(root, "cargo", &["tree", "-p", library, "-e", "normal", "--prefix", "none"])?;
        violations.extend(graph::runtimes(library, &tree));
    }
    violations.extend(stale_lock(root, "fuzz/Cargo.toml"));
    Ok(violations)
}

/// Whether that workspace's lock file doesn't fit its manifests: nothing else looks at the one of the fuzz targets, whose
/// path dependencies change with ours.
fn stale_lock(root: &Path, manifest: &str) -> Option<Violation> {
    let arguments = ["metadata", "--locked", "--format-version", "1", "--manifest-path", manifest];
    shell::output(root, "cargo", &arguments).err().map(|failure| Violation {
        rule: "lock files are current",
        at: manifest.replace(".toml", ".lock"),
        what: format!("run `cargo metadata --manifest-path {manifest}` and commit it: {failure}"),
    })
}

/// Files that git tracks or would track, relative to the root.
fn tracked_files(root: &Path) -> Result<Vec<String>, Failure> {
    let list = shell::output(root, "git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    Ok(list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

/// The file's text; `None` when it is gone, a folder, or not UTF-8.
fn read_text(path: &Path) -> Result<Option<String>, Failure> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes =
        std::fs::read(path).map_err(|e| Failure::new(format!("{} can't be read: {e}", path.display())))?;
    Ok(String::from_utf8(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_lock_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| std::fs::write(folder.path().join(path), text).unwrap();
        for name in ["a", "b"] {
            std::fs::create_dir_all(folder.path().join(name).join("src")).unwrap();
            write(&format!("{name}/src/lib.rs"), "");
        }
        write("b/Cargo.toml", "[package]\nname = \"b\"\n[workspace]\n");
        write(
            "a/Cargo.toml",
            "[package]\nname = \"a\"\n[workspace]\n[dependencies]\nb = { path = \"../b\" }\n",
        );
        write("a/Cargo.lock", "version = 4\n[[package]]\nname = \"a\"\nversion = \"0.0.0\"\n");
        let violation = stale_lock(folder.path(), "a/Cargo.toml").unwrap();
        assert_eq!(violation.at, "a/Cargo.lock");
        shell::output(
            folder.path(),
            "cargo",
            &["metadata", "--format-version", "1", "--manifest-path", "a/Cargo.toml"],
        )
        .unwrap();
        assert!(stale_lock(folder.path(), "a/Cargo.toml").is_none());
    }

    #[test]
    fn this_repository_keeps_its_invariants() {
        let report = run(&shell::root()).unwrap();
        let lines: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "\n{}", lines.join("\n"));
    }
}

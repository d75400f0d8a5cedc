//! Guards of the repository's files: versions stated once, no paths of one machine, files that grow too long.

use super::{Violation, Warning};
use std::path::Path;

/// Tables of a manifest that list dependencies.
const DEPENDENCY_TABLES: &[&str] = &["dependencies", "dev-dependencies", "build-dependencies"];

/// Fields of `[package]` that the workspace states for all.
const INHERITED: &[&str] = &["version", "edition", "rust-version", "license", "repository", "publish"];

/// Lines above which a source file is asked what else has moved in.
const LONG: usize = 500;

/// Every version, lint and package field that a crate's manifest states by itself.
pub(crate) fn manifest(path: &str, text: &str) -> Vec<Violation> {
    let violation = |line: usize, what: String| Violation {
        rule: "every version stated once",
        at: format!("{path}:{line}"),
        what,
    };
    let mut violations = Vec::new();
    let mut table = String::new();
    let mut inherits_lints = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.split(" #").next().unwrap_or_default().trim();
        let number = index + 1;
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_end_matches(']').trim_matches('[').to_owned();
            if let Some((_, dependency)) = dependency_of(&table) {
                violations
                    .push(violation(number, format!("write `{dependency}.workspace = true` in the list")));
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=').map(|(k, v)| (k.trim(), v.trim())) else { continue };
        let is_list = DEPENDENCY_TABLES.iter().any(|t| table == *t || table.ends_with(&format!(".{t}")));
        if is_list && !(key.ends_with(".workspace") && value == "true" || value.contains("workspace = true"))
        {
            violations
                .push(violation(number, format!("`{key}` must come from the workspace's dependencies")));
        }
        if is_list && value.contains("version") {
            violations.push(violation(number, format!("`{key}` states a version of its own")));
        }
        if table == "package" && INHERITED.contains(&key) {
            violations.push(violation(number, format!("write `{key}.workspace = true`")));
        }
        if table == "lints" && key == "workspace" && value == "true" {
            inherits_lints = true;
        }
        if table.starts_with("profile") {
            violations.push(violation(number, "profiles belong to the workspace".to_owned()));
        }
    }
    if !inherits_lints {
        violations.push(violation(1, "write `[lints] workspace = true`".to_owned()));
    }
    violations
}

/// `dependencies.serde` as (`dependencies`, `serde`).
fn dependency_of(table: &str) -> Option<(&str, &str)> {
    let (head, name) = table.rsplit_once('.')?;
    DEPENDENCY_TABLES.iter().any(|t| head == *t || head.ends_with(&format!(".{t}"))).then_some((head, name))
}

/// Every absolute path of one machine in a text.
pub(crate) fn machine_paths(path: &str, text: &str) -> Vec<Violation> {
    // Put together here, so that this file passes.
    let home = |name: &str| format!("/{name}/");
    let folders = [home("work"), home("root"), home("home/runner"), home("Users")];
    let mut violations = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for folder in &folders {
            let starts_here = line.match_indices(folder.as_str()).any(|(at, _)| {
                let before = line.get(..at).and_then(|s| s.chars().next_back());
                !before.is_some_and(|c| {
                    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '}' | '*' | '~')
                })
            });
            if starts_here {
                violations.push(Violation {
                    rule: "no path of one machine",
                    at: format!("{path}:{}", index + 1),
                    what: format!("`{folder}` exists on one machine only"),
                });
            }
        }
    }
    violations
}

/// Every relative link of a Markdown file to something that isn't in the repository. `exists` takes a path as git writes
/// it, without a slash at its end.
pub(crate) fn links(path: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next());
        let relative = targets.filter(|target| !in_code && !target.is_empty() && !target.contains(':'));
        for target in relative.filter(|target| !exists(&joined(path, target))) {
            violations.push(Violation {
                rule: "links lead somewhere",
                at: format!("{path}:{}", index + 1),
                what: format!("there is no {target}"),
            });
        }
    }
    violations
}

/// What `target` means in the file at `path`.
fn joined(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A warning for a source file that wants splitting.
pub(crate) fn length(path: &str, text: &str) -> Option<Warning> {
    let lines = text.lines().count();
    let is_source = Path::new(path).extension().is_some_and(|e| e == "rs");
    (is_source && lines > LONG).then(|| Warning(format!("{path} has {lines} lines: what else has moved in?")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"a\"\nversion.workspace = true\n[lints]\nworkspace = true\n\
        [dependencies]\nserde.workspace = true\nclap = { workspace = true, features = [\"env\"] }\n";

    #[test]
    fn a_manifest_states_nothing_that_the_workspace_states() {
        assert_eq!(manifest("a/Cargo.toml", GOOD), []);
        for bad in [
            "[dependencies]\nserde = \"1\"\n",
            "[dev-dependencies]\nserde = { version = \"1\" }\n",
            "[dependencies]\nserde = { workspace = true, version = \"1\" }\n",
            "[dependencies.serde]\nversion = \"1\"\n",
            "[target.'cfg(unix)'.dependencies]\nlibc = \"0.2\"\n",
            "[dependencies]\nserde = { git = \"https://example.com/serde\" }\n",
            "[profile.release]\nlto = true\n",
        ] {
            assert!(!manifest("a/Cargo.toml", &format!("{GOOD}{bad}")).is_empty(), "{bad}");
        }
        let own = GOOD.replace("version.workspace = true", "version = \"1.0.0\"");
        assert!(!manifest("a/Cargo.toml", &own).is_empty());
        let no_lints = GOOD.replace("[lints]\nworkspace = true\n", "");
        assert!(!manifest("a/Cargo.toml", &no_lints).is_empty());
    }

    #[test]
    fn paths_of_one_machine_are_found_and_others_are_not() {
        for folder in ["work", "root"] {
            assert_eq!(machine_paths("a", &format!("cd /{folder}/x")).len(), 1, "{folder}");
            assert_eq!(machine_paths("a", &format!("\"/{folder}/\"")).len(), 1, "{folder}");
            assert_eq!(machine_paths("a", &format!("target/{folder}/x ${{dir}}/{folder}/x")), [], "{folder}");
        }
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let exists = |path: &str| matches!(path, "docs/adr/0001-a.md" | "docs/adr" | "LICENSE");
        let good = "[a](0001-a.md) [b](../../LICENSE) [c](./0001-a.md#why) [d](https://x.org/y) [e](../adr/) [f](#here)";
        assert_eq!(links("docs/adr/README.md", good, &exists), []);
        assert_eq!(links("docs/adr/README.md", "[a](0002-a.md) and [b](LICENSE)", &exists).len(), 2);
        assert_eq!(links("a.md", "```\n[a](nowhere.md)\n```\n", &exists), []);
    }

    #[test]
    fn long_sources_are_mentioned() {
        assert!(length("a.rs", &"\n".repeat(LONG)).is_none());
        assert!(length("a.rs", &"\n".repeat(LONG + 1)).is_some());
        assert!(length("Cargo.lock", &"\n".repeat(LONG + 1)).is_none());
    }
}

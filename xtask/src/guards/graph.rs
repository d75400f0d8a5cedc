//! Guards of the dependency graph: arrows between our crates, licences, sources, what must not be there.

use super::{Violation, licence};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Our crates and the ones of ours that each depends on, as ARCHITECTURE.md draws them.
pub(crate) const ARROWS: &[(&str, &[&str])] = &[
    ("command-executor", &[]),
    ("service-registry", &[]),
    ("orchestrator", &["command-executor", "service-registry"]),
    ("harness-config", &["orchestrator", "service-registry"]),
    ("data-plane", &["orchestrator", "tunnel"]),
    ("harness", &["command-executor", "data-plane", "harness-config", "orchestrator", "service-registry"]),
    ("tunnel", &[]),
    ("test-hosts", &[]),
    ("xtask", &["test-hosts"]),
];

/// Crates whose normal dependency tree must not contain any of [`RUNTIMES`].
pub(crate) const LIBRARIES: &[&str] =
    &["command-executor", "service-registry", "orchestrator", "harness-config"];

/// Runtimes that only a program may choose.
pub(crate) const RUNTIMES: &[&str] = &["tokio", "async-std", "smol", "async-global-executor"];

/// Packages that must not be in the lock file at all, and why.
const BANNED: &[(&str, &str)] = &[
    ("openssl-sys", "TLS is rustls"),
    ("native-tls", "TLS is rustls"),
    ("serde_yaml", "unmaintained; serde-saphyr knows where each value stands"),
    ("async-std", "discontinued"),
    ("sled", "unmaintained; the store is redb"),
];

/// What `cargo metadata` says about the workspace.
pub(crate) struct Graph {
    /// Packages by id.
    packages: Vec<Package>,
    /// Our arrows: normal and build dependencies.
    arrows: BTreeMap<String, BTreeSet<String>>,
}

struct Package {
    name: String,
    version: String,
    licence: Option<String>,
    source: Option<String>,
    ours: bool,
}

impl Graph {
    /// Reads the output of `cargo metadata --format-version 1`.
    ///
    /// # Errors
    /// A sentence, when the text isn't what cargo prints.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let value: Value =
            serde_json::from_str(text).map_err(|e| format!("cargo metadata printed no JSON: {e}"))?;
        let members: BTreeSet<&str> =
            array(&value, "workspace_members")?.iter().filter_map(Value::as_str).collect();
        let all = array(&value, "packages")?;
        let is_ours = |package: &Value| text_of(package, "id").is_some_and(|id| members.contains(id));
        let our_names: BTreeSet<String> =
            all.iter().filter(|p| is_ours(p)).filter_map(|p| owned(p, "name")).collect();
        let mut packages = Vec::new();
        let mut arrows = BTreeMap::new();
        for package in all {
            let name = owned(package, "name").ok_or("a package without a name")?;
            if is_ours(package) {
                let to = array(package, "dependencies")?
                    .iter()
                    .filter(|d| text_of(d, "kind") != Some("dev"))
                    .filter_map(|d| owned(d, "name"))
                    .filter(|n| our_names.contains(n))
                    .collect();
                arrows.insert(name.clone(), to);
            }
            packages.push(Package {
                version: owned(package, "version").unwrap_or_default(),
                licence: owned(package, "license"),
                source: owned(package, "source"),
                ours: is_ours(package),
                name,
            });
        }
        Ok(Self { packages, arrows })
    }

    /// Arrows that ARCHITECTURE.md doesn't draw, drawn ones that aren't there, and crates it doesn't know.
    pub(crate) fn arrows(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut add = |name: &str, what: String| {
            violations.push(Violation { rule: "arrows as drawn", at: name.to_owned(), what });
        };
        for (name, to) in &self.arrows {
            let Some((_, drawn)) = ARROWS.iter().find(|(known, _)| known == name) else {
                add(name, "is not on the map: draw it in ARCHITECTURE.md and in this guard".to_owned());
                continue;
            };
            let drawn: BTreeSet<String> = drawn.iter().map(|s| (*s).to_owned()).collect();
            for extra in to.difference(&drawn) {
                add(name, format!("must not depend on {extra}"));
            }
            for missing in drawn.difference(to) {
                add(name, format!("is drawn to depend on {missing} and doesn't"));
            }
        }
        for (name, _) in ARROWS {
            if !self.arrows.contains_key(*name) {
                add(name, "is drawn and doesn't exist".to_owned());
            }
        }
        violations
    }

    /// Packages whose licence is not on the list, which no copyleft licence is.
    pub(crate) fn licences(&self) -> Vec<Violation> {
        let refused = self.packages.iter().filter(|p| !p.ours).filter_map(|package| {
            let what = match &package.licence {
                None => "states no licence".to_owned(),
                Some(text) if licence::is_allowed(&package.name, text) => return None,
                Some(text) => format!("licence `{text}` is not on the list"),
            };
            Some(Violation { rule: "licences", at: format!("{} {}", package.name, package.version), what })
        });
        refused.collect()
    }

    /// Packages that don't come from crates.io, and packages that must not be there.
    pub(crate) fn sources_and_bans(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        for package in self.packages.iter().filter(|p| !p.ours) {
            let at = format!("{} {}", package.name, package.version);
            let from_registry = package
                .source
                .as_deref()
                .is_some_and(|s| s.starts_with("registry+") && s.ends_with("crates.io-index"));
            if !from_registry {
                let source = package.source.as_deref().unwrap_or("a folder outside the workspace");
                let what = format!("comes from {source}, not from crates.io");
                violations.push(Violation { rule: "sources", at: at.clone(), what });
            }
            if let Some((_, why)) = BANNED.iter().find(|(name, _)| *name == package.name) {
                violations.push(Violation { rule: "bans", at, what: (*why).to_owned() });
            }
        }
        violations
    }
}

/// Runtimes in what `cargo tree -p LIBRARY -e normal --prefix none` prints.
pub(crate) fn runtimes(library: &str, tree: &str) -> Vec<Violation> {
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let found = RUNTIMES.iter().filter(|runtime| names.contains(**runtime));
    found
        .map(|runtime| Violation {
            rule: "no runtime in the libraries",
            at: library.to_owned(),
            what: format!(
                "{runtime} is in its normal dependency tree: `cargo tree -p {library} -e normal -i {runtime}`"
            ),
        })
        .collect()
}

fn array<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>, String> {
    value.get(key).and_then(Value::as_array).ok_or_else(|| format!("cargo metadata printed no `{key}`"))
}

fn text_of<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn owned(value: &Value, key: &str) -> Option<String> {
    text_of(value, key).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A workspace as drawn, with one more package and one more arrow.
    fn graph(extra_arrow: Option<(&str, &str, Option<&str>)>, package: Option<(&str, &str, &str)>) -> Graph {
        let ours = ARROWS.iter().map(|(name, to)| {
            let mut dependencies: Vec<Value> =
                to.iter().map(|to| json!({"name": to, "kind": null})).collect();
            if let Some((_, to, kind)) = extra_arrow.filter(|(from, _, _)| from == name) {
                dependencies.push(json!({"name": to, "kind": kind}));
            }
            json!({"id": name, "name": name, "version": "0.1.0", "dependencies": dependencies})
        });
        let theirs = package.map(|(name, licence, source)| {
            json!({"id": name, "name": name, "version": "1.0.0", "license": licence, "source": source, "dependencies": []})
        });
        let members: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
        let all: Vec<Value> = ours.chain(theirs).collect();
        Graph::parse(&json!({"workspace_members": members, "packages": all}).to_string()).unwrap()
    }

    const CRATES_IO: &str = "registry+https://example.org/crates.io-index";

    #[test]
    fn an_arrow_that_is_not_drawn_is_refused() {
        assert_eq!(graph(None, None).arrows(), []);
        assert_eq!(graph(Some(("command-executor", "orchestrator", None)), None).arrows().len(), 1);
        assert_eq!(graph(Some(("service-registry", "harness", Some("build"))), None).arrows().len(), 1);
        assert_eq!(graph(Some(("service-registry", "harness", Some("dev"))), None).arrows(), []);
        // Hosts for tests are for tests.
        for ours in ["command-executor", "harness"] {
            assert_eq!(graph(Some((ours, "test-hosts", None)), None).arrows().len(), 1);
            assert_eq!(graph(Some((ours, "test-hosts", Some("dev"))), None).arrows(), []);
        }
        let empty = Graph::parse(
            r#"{"workspace_members": ["new"], "packages":
            [{"id": "new", "name": "new", "version": "1.0.0", "dependencies": []}]}"#,
        );
        assert_eq!(empty.unwrap().arrows().len(), ARROWS.len() + 1);
    }

    #[test]
    fn copyleft_is_refused() {
        for bad in ["GPL-3.0-only", "LGPL-2.1", "AGPL-3.0-or-later", "MIT AND GPL-2.0", ""] {
            assert_eq!(graph(None, Some(("x", bad, CRATES_IO))).licences().len(), 1, "{bad}");
        }
        assert_eq!(graph(None, Some(("x", "MIT OR GPL-2.0", CRATES_IO))).licences(), []);
    }

    #[test]
    fn other_sources_and_banned_packages_are_refused() {
        assert_eq!(graph(None, Some(("x", "MIT", CRATES_IO))).sources_and_bans(), []);
        assert_eq!(graph(None, Some(("x", "MIT", "git+https://example.org/x"))).sources_and_bans().len(), 1);
        assert_eq!(graph(None, Some(("openssl-sys", "MIT", CRATES_IO))).sources_and_bans().len(), 1);
    }

    #[test]
    fn a_runtime_in_a_library_is_refused() {
        assert_eq!(runtimes("orchestrator", "orchestrator v0.1.0 (path)\nasync-io v2.6.0\n"), []);
        assert_eq!(runtimes("orchestrator", "orchestrator v0.1.0\ntokio v1.40.0 (*)\n").len(), 1);
    }
}

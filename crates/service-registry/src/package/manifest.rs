//! What a package says of itself: `manifest.yaml`.

use super::hash::Digest;
use super::name;
use indexmap::IndexMap;
use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::time::Duration;

/// The manifest's file, at the root of the package.
pub const FILE: &str = "manifest.yaml";
/// Bytes of the largest manifest: enough for a hundred thousand files.
pub const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// Starts the service, where the manifest names no command.
pub const START: &str = "scripts/start.sh";
/// Stops it, where the manifest names no command; else it gets a signal.
pub const STOP: &str = "scripts/stop.sh";
/// Tells whether it is well, where the manifest names no check.
pub const HEALTH: &str = "scripts/health.sh";
/// Run before the package becomes current, in this order, where they are there.
pub const BEFORE: [&str; 2] = ["scripts/pre_install.sh", "scripts/setup.sh"];
/// Run after it became current.
pub const AFTER: &str = "scripts/post_install.sh";

/// A manifest, as it is written in the package too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// See [`name::is_name`].
    pub name: String,
    /// Its version, as semver has it.
    pub version: Version,
    /// What it is, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What runs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub service: Service,
    /// Services that it needs, and which versions of them.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub dependencies: IndexMap<String, VersionReq>,
    /// What the machine must have.
    #[serde(default, skip_serializing_if = "is_default")]
    pub requires: Requires,
    /// How one tells that it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Every file but the manifest, sorted by path. The builder writes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<File>,
    /// Every link, sorted by path. The builder writes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
}

/// What runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// Program and arguments; empty for [`START`]. A program with a `/` that isn't absolute is one of the package.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Stops it; empty for [`STOP`] where that is there, else a signal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Where it listens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Its environment. Values may hold references, which are for whoever runs it.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub env: IndexMap<String, String>,
    /// Its folder, a path in the package; the root without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
}

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// What others call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its number, from 1.
    pub port: u16,
    /// How one talks to it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Protocol,
}

/// How one talks to a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Streams.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

/// What the machine must have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Requires {
    /// Programs in the search path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

/// How one tells that a service is well: exactly one of the first three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Ends with exit code 0.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Answers with a status below 400.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Takes connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<u16>,
    /// From one check to the next.
    #[serde(skip_serializing_if = "Option::is_none", with = "millis")]
    pub interval: Option<Duration>,
    /// How long a check may take.
    #[serde(skip_serializing_if = "Option::is_none", with = "millis")]
    pub timeout: Option<Duration>,
    /// Failures in a row until it counts as unwell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Failures don't count for so long after the start.
    #[serde(skip_serializing_if = "Option::is_none", with = "millis")]
    pub start_period: Option<Duration>,
}

/// A file of the package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where it lies.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// Their digest.
    pub sha256: Digest,
}

/// A link of the package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Where it lies.
    pub path: String,
    /// What it says; leads to somewhere in the package.
    pub target: String,
}

/// Something that is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key: `service.ports[0].name`.
    pub at: String,
    /// What is wrong, and what was expected.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

impl Manifest {
    /// A manifest that says no more than what it must.
    pub fn new(name: impl Into<String>, version: Version) -> Self {
        Self {
            name: name.into(),
            version,
            description: None,
            service: Service::default(),
            dependencies: IndexMap::new(),
            requires: Requires::default(),
            health: None,
            files: Vec::new(),
            links: Vec::new(),
        }
    }

    /// `NAME-VERSION`.
    pub fn stem(&self) -> String {
        name::stem(&self.name, &self.version)
    }

    /// The text that stands in the package: JSON, which is YAML too, the same for the same manifest.
    ///
    /// # Errors
    ///
    /// None that a manifest can cause.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// Reads what [`Manifest::to_text`] writes; a [`super::ReadManifest`] for packages of our own making.
    ///
    /// # Errors
    ///
    /// What is wrong with the text.
    pub fn from_text(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Everything that is wrong beyond the form, in the order of the keys.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Problems(Vec::new());
        if !name::is_name(&self.name) {
            found.add(
                "name",
                "expected 1 to 63 of a-z, 0-9, '.', '_', '+' and '-', beginning with a letter or digit",
            );
        }
        if name::version(&self.version.to_string()).is_none() {
            found.add("version", format!("longer than {} bytes", name::MAX_VERSION));
        }
        if self.description.as_deref().is_some_and(|text| text.chars().any(|c| c.is_control() && c != '\n')) {
            found.add("description", "has control characters");
        }
        self.service.problems(&mut found);
        for dependency in self.dependencies.keys().filter(|dependency| !name::is_name(dependency)) {
            found.add(format!("dependencies.{dependency}"), "not the name of a service");
        }
        for (index, command) in self.requires.commands.iter().enumerate() {
            if command.is_empty() || command.contains(|c: char| c == '/' || c.is_control()) {
                found.add(
                    format!("requires.commands[{index}]"),
                    "expected the name of a program, without a path",
                );
            }
        }
        if let Some(health) = &self.health {
            health.problems(&mut found);
        }
        self.tree_problems(&mut found);
        found.0
    }

    fn tree_problems(&self, found: &mut Problems) {
        let mut paths = name::Paths::default();
        let mut check = |found: &mut Problems, at: String, path: &str| match name::path(path.as_bytes()) {
            Err(problem) => found.add(at, problem.to_string()),
            Ok(FILE) => found.add(at, "the manifest doesn't list itself"),
            Ok(path) if !paths.add(path) => found.add(at, "is there twice"),
            Ok(_) => {}
        };
        for (index, file) in self.files.iter().enumerate() {
            check(found, format!("files[{index}].path"), &file.path);
        }
        for (index, link) in self.links.iter().enumerate() {
            check(found, format!("links[{index}].path"), &link.path);
            if let Err(problem) = name::link_target(&link.path, link.target.as_bytes()) {
                found.add(format!("links[{index}].target"), problem.to_string());
            }
        }
    }

    /// What a package with these files lacks to be run: scripts, and programs of its own that the manifest names.
    /// `executable` says of a path whether it is a file that may be executed; `None` where there is no such file.
    pub fn missing(&self, executable: impl Fn(&str) -> Option<bool>) -> Vec<Problem> {
        let mut found = Problems(Vec::new());
        let mut program = |at: &str, path: &str, what: &str| match executable(path) {
            Some(true) => {}
            Some(false) => found.add(at, format!("{path} isn't executable: `chmod +x {path}`")),
            None => found.add(at, what.replace("{}", path)),
        };
        if self.service.command.is_empty() {
            program("service.command", START, "there is neither a command nor {}");
        }
        let health = self.health.as_ref().map_or(&[][..], |health| &health.command);
        let commands = [
            ("service.command", &self.service.command[..]),
            ("service.stop", &self.service.stop),
            ("health.command", health),
        ];
        for (at, command) in commands {
            if let Some(first) =
                command.first().filter(|first| first.contains('/') && !first.starts_with('/'))
            {
                program(at, first.strip_prefix("./").unwrap_or(first), "there is no {} in the package");
            }
        }
        for script in
            [STOP, HEALTH, AFTER].iter().chain(&BEFORE).filter(|path| executable(path) == Some(false))
        {
            program(script, script, "");
        }
        found.0
    }
}

impl Service {
    fn problems(&self, found: &mut Problems) {
        command("service.command", &self.command, found);
        command("service.stop", &self.stop, found);
        let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
        for (index, port) in self.ports.iter().enumerate() {
            let at = format!("service.ports[{index}]");
            if let Some(name) = &port.name {
                if !name::is_name(name) {
                    found.add(format!("{at}.name"), "expected a-z, 0-9 and '-'");
                } else if !names.insert(name) {
                    found.add(format!("{at}.name"), format!("`{name}` is there twice"));
                }
            }
            if port.port == 0 {
                found.add(format!("{at}.port"), "expected a number from 1 to 65535");
            } else if !numbers.insert((port.port, port.protocol == Protocol::Udp)) {
                found.add(format!("{at}.port"), format!("{} is there twice", port.port));
            }
        }
        for (name, value) in &self.env {
            let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let named = name.chars().all(good) && name.starts_with(|c: char| !c.is_ascii_digit());
            if !named || value.contains('\0') {
                found.add(
                    format!("service.env.{name}"),
                    "expected a name of A-Z, 0-9 and '_', and a value without NUL",
                );
            }
        }
        if let Some(folder) = &self.working_dir
            && let Err(problem) = name::path(folder.as_bytes())
        {
            found.add("service.working_dir", problem.to_string());
        }
    }
}

impl Health {
    fn problems(&self, found: &mut Problems) {
        let count = [!self.command.is_empty(), self.http.is_some(), self.tcp.is_some()];
        if count.iter().filter(|there| **there).count() != 1 {
            found.add("health", "expected exactly one of command, http, tcp");
        }
        command("health.command", &self.command, found);
        if self.http.as_deref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://"))
        {
            found.add("health.http", "expected a URL that begins with http:// or https://");
        }
        if self.tcp == Some(0) {
            found.add("health.tcp", "expected a number from 1 to 65535");
        }
    }
}

/// What a command must be: no NUL in it, and a program of the package by a path that stays in it.
fn command(at: &str, words: &[String], found: &mut Problems) {
    let Some(program) = words.first() else { return };
    if program.is_empty() || words.iter().any(|word| word.contains('\0')) {
        found.add(at, "expected a program and arguments without NUL");
    }
    if program.contains('/')
        && !program.starts_with('/')
        && let Err(problem) = name::path(program.strip_prefix("./").unwrap_or(program).as_bytes())
    {
        found.add(at, format!("the program's path: {problem}"));
    }
}

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, at: impl Into<String>, what: impl Into<String>) {
        self.0.push(Problem { at: at.into(), what: what.into() });
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Durations as text, `1500ms`: what services.yaml reads too.
mod millis {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.serialize_str(&format!("{}ms", value.as_millis())),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let millis = text.strip_suffix("ms").and_then(|number| number.parse().ok());
        millis
            .map(|millis| Some(Duration::from_millis(millis)))
            .ok_or_else(|| D::Error::custom("expected 1500ms"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Manifest {
        let text = r#"{
            "name": "web", "version": "1.2.3", "description": "Answers.",
            "service": {"command": ["bin/web", "--port", "80"], "ports": [{"name": "http", "port": 80}],
                        "env": {"A": "${db.host}"}, "working_dir": "config"},
            "dependencies": {"db": ">=1.2, <2"}, "requires": {"commands": ["sh"]},
            "health": {"http": "http://localhost/", "interval": "1500ms"},
            "files": [{"path": "bin/web", "size": 3,
                       "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}],
            "links": [{"path": "bin/w", "target": "web"}]
        }"#;
        Manifest::from_text(text).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let manifest = full();
        assert_eq!(manifest.problems(), []);
        let text = manifest.to_text().unwrap();
        assert_eq!(Manifest::from_text(&text).unwrap(), manifest);
        assert!(Manifest::from_text(&text.replace("\"env\"", "\"envy\"")).is_err());
    }

    #[test]
    fn all_problems_at_once() {
        let mut manifest = full();
        manifest.name = "../x".into();
        manifest.service.command[0] = "../sh".into();
        manifest.service.ports.push(Port { name: Some("http".into()), port: 80, protocol: Protocol::Tcp });
        manifest.service.env.insert("1 x".into(), "1".into());
        manifest.service.working_dir = Some("/".into());
        manifest.dependencies.insert("a/b".into(), VersionReq::STAR);
        manifest.requires.commands.push("/bin/sh".into());
        manifest.health.as_mut().unwrap().tcp = Some(0);
        manifest.files.push(File { path: "../up".into(), size: 0, sha256: Digest::of(b"") });
        manifest.links.push(Link { path: "bin/web".into(), target: "/etc/passwd".into() });
        let places: Vec<String> = manifest.problems().into_iter().map(|problem| problem.at).collect();
        assert_eq!(
            places,
            [
                "name",
                "service.command",
                "service.ports[1].name",
                "service.ports[1].port",
                "service.env.1 x",
                "service.working_dir",
                "dependencies.a/b",
                "requires.commands[1]",
                "health",
                "health.tcp",
                "files[1].path",
                "links[1].path",
                "links[1].target",
            ]
        );
    }

    #[test]
    fn what_it_runs_must_be_in_it() {
        let mut manifest = full();
        let says = |manifest: &Manifest, files: &[(&str, bool)]| {
            let found =
                manifest.missing(|path| files.iter().find(|(name, _)| *name == path).map(|(_, x)| *x));
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(says(&manifest, &[("bin/web", true)]), [""; 0]);
        assert_eq!(says(&manifest, &[]), ["service.command: there is no bin/web in the package"]);
        assert_eq!(
            says(&manifest, &[("bin/web", false), (STOP, false)]),
            [
                "service.command: bin/web isn't executable: `chmod +x bin/web`",
                "scripts/stop.sh: scripts/stop.sh isn't executable: `chmod +x scripts/stop.sh`"
            ]
        );
        manifest.service.command.clear();
        assert_eq!(
            says(&manifest, &[]),
            ["service.command: there is neither a command nor scripts/start.sh"]
        );
        assert_eq!(says(&manifest, &[(START, true)]), [""; 0]);
    }
}

//! A service or task, with every default filled in.

use super::policy::Dependencies;
use super::{
    Deployment, HealthCheck, OnDependencyChange, OnDependencyFailure, OnNodeLoss, OnUnhealthy, Restart,
    Scaling, ServiceName, Target, Template,
};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A named part of the stack, with every default filled in.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Whether it runs on or to completion.
    pub role: Role,
    /// What its instances are.
    pub target: Target,
    /// Network that it is on; `None` is the default one.
    pub network: Option<String>,
    /// Node that it runs on: a key of [`super::Stack::nodes`], or an address; `None` is this machine.
    pub host: Option<String>,
    /// How many instances, 0 allowed.
    pub replicas: u32,
    /// Variables of its own: `env_file` first, `env` over it.
    #[serde(default)]
    pub env: IndexMap<String, Template>,
    /// What it needs, in the file's order; implied ones last.
    pub dependencies: Dependencies,
    /// How it is asked whether it is well.
    pub health_check: Option<HealthCheck>,
    /// Ports that it listens on; the first is *the* port.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Time it has to become ready.
    pub startup_timeout: Duration,
    /// Time between the stop signal and SIGKILL.
    pub shutdown_timeout: Duration,
    /// Signal that asks it to stop.
    pub stop_signal: Signal,
    /// When it is started again.
    pub restart: Restart,
    /// User to run as: a name or a number.
    pub user: Option<Template>,
    /// Group to run as: a name or a number.
    pub group: Option<Template>,
    /// Folder to run in, absolute; `None` is the stack's folder.
    pub working_dir: Option<Template>,
    /// Limits.
    pub resources: Resources,
    /// Labels for people and filters.
    #[serde(default)]
    pub labels: IndexMap<String, String>,
    /// Profiles that it belongs to; empty is always active.
    #[serde(default)]
    pub profiles: Vec<String>,
    /// What happens to it when a dependency fails.
    pub on_dependency_failure: OnDependencyFailure,
    /// What happens to it when a value that it was given changes.
    pub on_dependency_change: OnDependencyChange,
    /// What happens to it when it is unhealthy.
    pub on_unhealthy: OnUnhealthy,
    /// What happens to it when its node is lost.
    pub on_node_loss: OnNodeLoss,
    /// What is kept of its output.
    pub logs: LogPolicy,
    /// Whether a container gets an init process.
    #[serde(default)]
    pub init: bool,
    /// How it sees the names of others.
    pub names: Option<NameView>,
    /// In an assignment: the names of others that it resolves, with their addresses as its node sees them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, String>,
    /// In an assignment: the services that ambassadors stand for beside it, with their ports there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ambassadors: BTreeMap<String, BTreeSet<u16>>,
    /// In an assignment: the secrets that it gets as files, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Labels that a node must have to run it.
    #[serde(default)]
    pub placement: IndexMap<String, String>,
    /// Files that a node needs from the project.
    #[serde(default)]
    pub files: Vec<FileCopy>,
    /// How a new version replaces an old one.
    pub deployment: Option<Deployment>,
    /// How many replicas there should be.
    pub scaling: Option<Scaling>,
    /// Free text for people.
    pub description: Option<String>,
    /// Where it stands: `services.yaml:12`.
    #[serde(default)]
    pub source: String,
}

impl fmt::Debug for Service {
    /// Only what can't be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.name)
            .field("role", &self.role)
            .field("type", &self.target.type_name())
            .field("replicas", &self.replicas)
            .field("dependencies", &self.dependencies)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// Whether somebody else than a keeper of this machine keeps it: a container engine, systemd, whoever started it, the
    /// agent of another node.
    pub fn is_hosted(&self) -> bool {
        self.host.is_some() || self.target.is_hosted()
    }

    /// The texts that an instance is started with: those of its target, environment, folder, user, group.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let optional = [&self.working_dir, &self.user, &self.group].into_iter().flatten();
        self.target.templates().into_iter().chain(self.env.values()).chain(optional)
    }
}

/// Whether a service runs on, or to completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs until it is stopped.
    Service,
    /// Runs to completion once per start.
    Task,
}

/// A port that a service listens on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Name for `${db.port.NAME}`.
    pub name: Option<String>,
    /// The port that others use.
    pub number: PortNumber,
    /// The port inside a container, where it differs.
    pub target: Option<u16>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Address to listen on or publish at.
    pub address: Option<String>,
}

/// A port's number, or the wish for a free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortNumber {
    /// This one.
    Fixed(u16),
    /// A free one, kept for the instance as long as the project exists.
    Auto,
}

/// Transport of a [`Port`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Limits of an instance. What can't be enforced on a machine is a warning there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processors, also in parts.
    pub cpus: Option<f64>,
    /// Niceness, -20 to 19.
    pub nice: Option<i32>,
    /// Open files.
    pub open_files: Option<u64>,
}

/// What is kept of an instance's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPolicy {
    /// Bytes after which the file of a run is rotated.
    pub max_size: u64,
    /// Rotated files kept for each run, besides the current one.
    pub keep_files: u32,
    /// Runs kept for each instance, with the current one.
    pub keep_runs: u32,
}

/// How an instance sees the names of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NameView {
    /// In its environment only.
    Env,
    /// In a private view of the hosts file too.
    Hosts,
    /// In the container network, where ambassadors stand for others under their names and ports.
    Ambassador,
}

/// A file or folder that a node needs from the project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCopy {
    /// Here.
    pub source: PathBuf,
    /// There.
    pub destination: PathBuf,
}

/// Where a secret's value comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretSource {
    /// The content of a file, without its last line break.
    File(PathBuf),
    /// A variable of the environment that `start` is called with.
    Env(String),
    /// What a command prints, without its last line break.
    Command(Vec<Template>),
}

/// A Unix signal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signal(i32);

/// Signals by their names, with Linux's numbers (signal(7), x86 and ARM).
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

impl Signal {
    /// SIGTERM.
    pub const TERM: Self = Self(15);
    /// SIGKILL.
    pub const KILL: Self = Self(9);

    /// The signal of that name (`SIGTERM`, `term`) or number (1 to 64).
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse::<i32>() {
            return (1..=64).contains(&number).then_some(Self(number));
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        SIGNALS.iter().find(|(n, _)| *n == name).map(|(_, number)| Self(*number))
    }

    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// The signal with this number, where it is one.
    pub fn from_number(number: i32) -> Option<Self> {
        (1..=64).contains(&number).then_some(Self(number))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIGNALS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Signal {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let number = text.strip_prefix("signal ").unwrap_or(&text);
        Self::parse(number).ok_or_else(|| format!("{text:?} is no signal"))
    }
}

impl From<Signal> for String {
    fn from(signal: Signal) -> String {
        signal.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(Signal::parse("SIGTERM"), Some(Signal::TERM));
        assert_eq!(Signal::parse("term"), Some(Signal::TERM));
        assert_eq!(Signal::parse("9"), Some(Signal::KILL));
        for bad in ["", "0", "65", "-1", "SIGFOO", "SIG"] {
            assert_eq!(Signal::parse(bad), None, "{bad}");
        }
        assert_eq!(Signal::try_from(Signal::parse("40").unwrap().to_string()), Ok(Signal(40)));
    }
}

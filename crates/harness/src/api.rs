//! The methods that the daemon adds to the registry's: `stack.*`, `daemon.*` and `package.*`, and their wire types.
//!
//! Everything about the *state* of instances travels as registry entries and events (`registry.list`,
//! `events.subscribe`), so a client that starts something watches the registry to see what becomes of it.

pub mod network;
pub mod node;
pub mod package;
pub mod plane;

use indexmap::IndexMap;
use orchestrator::model::{InstanceName, Node, ServiceName, Stack};
use serde::{Deserialize, Serialize};
use service_registry::access::TokenInfo;
use service_registry::wire::Scope;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `stack.start`: [`StartParams`] → [`StartResult`]. Answers as soon as the wish is durable.
pub const STACK_START: &str = "stack.start";
/// `stack.stop`: [`StopParams`] → [`StopResult`]. Answers as soon as the wish is durable.
pub const STACK_STOP: &str = "stack.stop";
/// `stack.restart`: [`RestartParams`] → [`RestartResult`]. Answers as soon as the wish is durable.
pub const STACK_RESTART: &str = "stack.restart";
/// `stack.status`: [`Names`] → [`StatusResult`].
pub const STACK_STATUS: &str = "stack.status";
/// `stack.health`: [`HealthParams`] → [`StatusResult`], after the probes if `run_now`.
pub const STACK_HEALTH: &str = "stack.health";
/// `stack.exec`: [`ExecParams`] → [`ExecContext`].
pub const STACK_EXEC: &str = "stack.exec";
/// `daemon.status`: `{}` → [`DaemonInfo`].
pub const DAEMON_STATUS: &str = "daemon.status";
/// `daemon.stop`: [`EndParams`] → [`EndResult`]; the daemon ends, services go on under their keepers.
pub const DAEMON_STOP: &str = "daemon.stop";
/// `daemon.listen`: [`ListenParams`] → [`ListenResult`]; the setting outlives the daemon.
pub const DAEMON_LISTEN: &str = "daemon.listen";
/// `token.create`: [`NewTokenParams`] → [`NewTokenResult`], once it is durable.
pub const TOKEN_CREATE: &str = "token.create";
/// `token.list`: `{}` → [`TokenList`].
pub const TOKEN_LIST: &str = "token.list";
/// `token.revoke`: [`TokenName`] → `{}`, once it is durable; ends the connections that it opened.
pub const TOKEN_REVOKE: &str = "token.revoke";

/// Application error codes, in JSON-RPC's range for servers' own.
pub mod code {
    service_registry::error_codes! {
        /// A name is neither a service nor an instance of the stack; `data.name` is the name, `data.names` lists what there is.
        UNKNOWN_NAME = -32010;
        /// The request needs something that this version does not run; `data.services` lists it. Nothing was started.
        NOT_SUPPORTED = -32011;
        /// Others depend on what should be stopped; `data.dependents` lists them. Nothing was stopped.
        HAS_DEPENDENTS = -32012;
        /// The instance isn't running.
        NOT_RUNNING = -32013;
        /// The daemon has no stack yet: nothing was ever started in this project.
        NO_STACK = -32014;
        /// A secret has no value. Nothing was started.
        SECRET = -32016;
        /// A port could not be found or is used twice.
        PORTS = -32015;
        /// A package is refused, or can't be installed or gone back to; the message says why. What was current is current.
        PACKAGE = -32017;
        /// The address can't be listened on, or the certificate not be used. What was before still is.
        LISTEN = -32018;
        /// An assignment has been overtaken by a newer one, or was withdrawn.
        OUTDATED = -32019;
        /// The agent keeps services for another daemon; the message says whose. Nothing was changed.
        CLAIMED = -32040;
        /// Files can't be brought to their places; the message says why. With `data.again` the same again may help: something
        /// was damaged, or changed meanwhile.
        FILES = -32041;
        /// The data plane can't be started, or doesn't answer.
        PLANE = -32042;
        /// The node isn't lost, or not for long enough; the message says why. Nothing was changed.
        NOT_LOST = -32043;
    }
}

/// What to start, and with which environment.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StartParams {
    /// The stack as the file has it now.
    #[cfg_attr(test, schemars(with = "serde_json::Map<String, serde_json::Value>"))]
    pub stack: Stack,
    /// The file that it comes from, for `daemon status`.
    pub config: Option<PathBuf>,
    /// Services or instances; empty is all.
    pub names: Vec<String>,
    /// The caller's environment: local processes get it under their own variables.
    pub env: BTreeMap<String, String>,
    /// Also restart what runs with an older definition.
    pub apply: bool,
    /// Stop what the file no longer has.
    pub remove_orphans: bool,
    /// Change nothing, answer with the plan.
    pub dry_run: bool,
}

/// What `stack.start` set in motion.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StartResult {
    /// Revision of the registry before anything changed: subscribe since this.
    pub revision: u64,
    /// Everything that has to become ready: the named ones and what they need, in the file's order.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub wanted: Vec<InstanceName>,
    /// Those of `wanted` that were not running.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub started: Vec<InstanceName>,
    /// Those of `wanted` that run already, as the file has them.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub unchanged: Vec<InstanceName>,
    /// Those that run with an older definition and were left alone (restarted if `apply`).
    pub stale: Vec<Stale>,
    /// What still runs or is remembered though the file no longer has it.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub orphans: Vec<InstanceName>,
    /// With `dry_run`: what would be done, in rounds; the steps of a round run at the same time.
    pub plan: Option<Vec<Round>>,
    /// What can't be enforced here.
    pub warnings: Vec<String>,
}

/// An instance that runs with an older definition.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Stale {
    /// Which.
    #[cfg_attr(test, schemars(with = "String"))]
    pub instance: InstanceName,
    /// The keys that differ.
    pub changes: Vec<String>,
}

/// Steps that run at the same time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Round {
    /// The steps, in the file's order.
    pub steps: Vec<PlannedStep>,
}

/// One step of a plan, as shown to people.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PlannedStep {
    /// What it is done to.
    #[cfg_attr(test, schemars(with = "String"))]
    pub instance: InstanceName,
    /// `start`, `stop`, `wait`.
    pub action: String,
    /// Why now, or what it waits for.
    pub reason: String,
}

/// What to stop, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StopParams {
    /// Services or instances; empty is everything.
    pub names: Vec<String>,
    /// Kill at once, and leave dependents running.
    pub force: bool,
    /// The caller knows about the dependents: stop them first. Without it and with dependents that run:
    /// [`code::HAS_DEPENDENTS`].
    pub dependents: bool,
    /// Change nothing, answer with what would be stopped.
    pub dry_run: bool,
}

/// What `stack.stop` set in motion.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StopResult {
    /// Revision of the registry before anything changed: subscribe since this.
    pub revision: u64,
    /// What will stop, dependents first.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub stopping: Vec<InstanceName>,
    /// The last run of each of these that has one: an instance with another run was started again meanwhile.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "BTreeMap<String, String>"))]
    pub runs: BTreeMap<InstanceName, String>,
    /// With `dry_run`: what would be done.
    pub plan: Option<Vec<Round>>,
}

/// Whether the daemon should end.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct EndParams {
    /// Only if nothing is wanted to run and nothing does: a start that came in between needs it.
    pub if_idle: bool,
}

/// Whether the daemon ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EndResult {
    /// `false`: something is wanted.
    pub ending: bool,
}

/// What to restart.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RestartParams {
    /// The stack as the file has it now; `None` keeps the one of the last start.
    #[cfg_attr(test, schemars(with = "Option<serde_json::Map<String, serde_json::Value>>"))]
    pub stack: Option<Stack>,
    /// Services or instances; empty is everything that is wanted.
    pub names: Vec<String>,
    /// The caller's environment.
    pub env: BTreeMap<String, String>,
    /// Kill at once.
    pub force: bool,
}

/// What `stack.restart` set in motion.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RestartResult {
    /// Revision of the registry before anything changed: subscribe since this.
    pub revision: u64,
    /// What restarts, in the file's order.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub restarting: Vec<InstanceName>,
}

/// A selection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Names {
    /// Services or instances; empty is all.
    pub names: Vec<String>,
}

/// What to ask for its health.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HealthParams {
    /// Services or instances; empty is all.
    pub names: Vec<String>,
    /// Run the checks now and answer with their results, instead of the last known ones.
    pub run_now: bool,
}

/// Everything that a listing shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StatusResult {
    /// Name of the project.
    pub project: String,
    /// The daemon that answers.
    pub daemon: DaemonInfo,
    /// Revision of the registry that this is the state of.
    pub revision: u64,
    /// Instances in the file's order, orphans last.
    pub instances: Vec<service_registry::model::Entry>,
    /// Services of the stack that aren't wanted now.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub not_started: Vec<ServiceName>,
}

/// Who answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DaemonInfo {
    /// Its version.
    pub version: String,
    /// Which program exactly, of that version; empty where the daemon doesn't say.
    #[serde(default)]
    pub build: String,
    /// Its process.
    pub pid: u32,
    /// Since when it runs, RFC 3339.
    pub started_at: String,
    /// Project id: name and 8 hex digits.
    pub project_id: String,
    /// The configuration that the last start used.
    pub config: Option<PathBuf>,
    /// The folder that holds all state.
    pub state_dir: PathBuf,
    /// Instances that run now.
    pub running: usize,
    /// Where it listens on TCP, if it should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<Listener>,
}

/// Where a daemon listens on TCP.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Listener {
    /// Address and port.
    pub address: String,
    /// The fingerprint of its certificate: `sha256:` and 64 hexadecimal digits; empty where there is none yet.
    pub certificate: String,
    /// Why it doesn't listen now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Where to listen on TCP, behind TLS, for who has a token or a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Listen {
    /// Address and port; port 0 is one that is free.
    #[cfg_attr(test, schemars(with = "String"))]
    pub address: std::net::SocketAddr,
    /// Names by which it is reached, beside this machine's and its address: for the certificate that it makes.
    #[serde(default)]
    pub names: Vec<String>,
    /// The user's own certificate and its key, PEM files; without them one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<CertificateFiles>,
    /// Authorities of clients' certificates, a PEM file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// What a client with such a certificate may do: `read`, `operate` or `admin`.
    #[cfg_attr(test, schemars(with = "String"))]
    pub client_scope: Scope,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CertificateFiles {
    /// The certificate, and those of intermediate authorities after it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Where to listen on TCP from now on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ListenParams {
    /// `None`: nowhere.
    pub listen: Option<Listen>,
}

/// Where the daemon listens on TCP now.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ListenResult {
    /// `None`: nowhere.
    pub listener: Option<Listener>,
}

/// A token to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NewTokenParams {
    /// Its name.
    pub name: String,
    /// What its bearer may do: `read`, `operate` or `admin`.
    #[cfg_attr(test, schemars(with = "String"))]
    pub scope: Scope,
    /// When it ends, RFC 3339; `None`: when it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub expires: Option<jiff::Timestamp>,
}

/// A token, this once. No `Debug`: it opens doors.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NewTokenResult {
    /// It.
    pub token: String,
}

/// A token by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TokenName {
    /// Its name.
    pub name: String,
}

/// All tokens, by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TokenList {
    /// What is known of each; not the tokens themselves, which nobody knows any more.
    #[cfg_attr(test, schemars(with = "Vec<serde_json::Map<String, serde_json::Value>>"))]
    pub tokens: Vec<TokenInfo>,
}

/// Where to run a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ExecParams {
    /// A service (its first running instance) or an instance.
    pub name: String,
}

/// What a command needs to run where an instance of this machine runs. Carries the service's environment: never logged.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ExecContext {
    /// The instance.
    #[cfg_attr(test, schemars(with = "String"))]
    pub instance: InstanceName,
    /// Its environment, complete.
    pub env: Vec<(String, String)>,
    /// Its folder; `None` is what its container has by itself.
    pub working_dir: Option<PathBuf>,
    /// The container that it is, where it is one. The rest is what the container was made with.
    #[serde(default)]
    pub container: Option<String>,
    /// User to become.
    pub user: Option<String>,
    /// Group to become.
    pub group: Option<String>,
    /// The node that it is on, if that isn't the daemon's machine: the agent there knows the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// That node, and those on the way to it.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    #[cfg_attr(test, schemars(with = "serde_json::Map<String, serde_json::Value>"))]
    pub way: IndexMap<String, Node>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    /// Reads the value as `T` and says how it is written now.
    fn again<T: Serialize + DeserializeOwned>(value: &Value) -> Value {
        let read: T =
            serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"));
        serde_json::to_value(read).unwrap()
    }

    /// Whether all that `old` says stands in `new` too: a newer version may say more.
    fn has(new: &Value, old: &Value) -> bool {
        match (new, old) {
            (Value::Object(new), Value::Object(old)) => {
                old.iter().all(|(key, old)| new.get(key).is_some_and(|new| has(new, old)))
            }
            (Value::Array(new), Value::Array(old)) => {
                new.len() == old.len() && new.iter().zip(old).all(|(new, old)| has(new, old))
            }
            (new, old) => new == old,
        }
    }

    /// What command line and daemon say to each other: `daemon restart` is asked by one build and answered by another.
    #[test]
    fn samples_of_every_message_are_read_and_still_said() {
        let mut seen = std::collections::BTreeSet::new();
        for line in include_str!("../tests/samples/api-v1.jsonl").lines() {
            let sample: Value = serde_json::from_str(line).unwrap();
            let (kind, value) = (sample["type"].as_str().unwrap().to_owned(), &sample["value"]);
            let now = match kind.as_str() {
                "StartParams" => again::<StartParams>(value),
                "StartResult" => again::<StartResult>(value),
                "StopParams" => again::<StopParams>(value),
                "StopResult" => again::<StopResult>(value),
                "EndParams" => again::<EndParams>(value),
                "EndResult" => again::<EndResult>(value),
                "RestartParams" => again::<RestartParams>(value),
                "RestartResult" => again::<RestartResult>(value),
                "Names" => again::<Names>(value),
                "HealthParams" => again::<HealthParams>(value),
                "StatusResult" => again::<StatusResult>(value),
                "ExecParams" => again::<ExecParams>(value),
                "ExecContext" => again::<ExecContext>(value),
                "ListParams" => again::<package::ListParams>(value),
                "ListResult" => again::<package::ListResult>(value),
                "UploadParams" => again::<package::UploadParams>(value),
                "PutParams" => again::<service_registry::files::PutParams>(value),
                "UploadOpened" => again::<package::UploadOpened>(value),
                "Uploaded" => again::<package::Uploaded>(value),
                "DeployParams" => again::<package::DeployParams>(value),
                "InstallParams" => again::<package::InstallParams>(value),
                "RollbackParams" => again::<package::RollbackParams>(value),
                "AssignParams" => again::<node::AssignParams>(value),
                "WithdrawParams" => again::<node::WithdrawParams>(value),
                "Owner" => again::<node::Owner>(value),
                "Pong" => again::<node::Pong>(value),
                "NodeList" => again::<node::ListResult>(value),
                other => panic!("a sample of {other}, which isn't read any more"),
            };
            assert!(has(&now, value), "{kind}: {now:#}\nlacks something of {value:#}");
            seen.insert(kind);
        }
        assert_eq!(seen.len(), 27, "{seen:?}");
    }
}

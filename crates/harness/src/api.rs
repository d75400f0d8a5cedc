//! The methods that the daemon adds to the registry's: `stack.*` and `daemon.*`, and their wire types.
//!
//! Everything about the *state* of instances travels as registry entries and events (`registry.list`,
//! `events.subscribe`), so a client that starts something watches the registry to see what becomes of it.

use orchestrator::model::{InstanceName, ServiceName, Stack};
use serde::{Deserialize, Serialize};
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

/// Application error codes, in JSON-RPC's range for servers' own.
pub mod code {
    /// A name is neither a service nor an instance of the stack; `data.name` is the name, `data.names` lists what there is.
    pub const UNKNOWN_NAME: i64 = -32010;
    /// The request needs something that this version does not run; `data.services` lists it. Nothing was started.
    pub const NOT_SUPPORTED: i64 = -32011;
    /// Others depend on what should be stopped; `data.dependents` lists them. Nothing was stopped.
    pub const HAS_DEPENDENTS: i64 = -32012;
    /// The instance isn't running.
    pub const NOT_RUNNING: i64 = -32013;
    /// The daemon has no stack yet: nothing was ever started in this project.
    pub const NO_STACK: i64 = -32014;
    /// A secret has no value. Nothing was started.
    pub const SECRET: i64 = -32016;
    /// A port could not be found or is used twice.
    pub const PORTS: i64 = -32015;
}

/// What to start, and with which environment.
#[derive(Clone, Serialize, Deserialize)]
pub struct StartParams {
    /// The stack as the file has it now.
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
pub struct StartResult {
    /// Revision of the registry before anything changed: subscribe since this.
    pub revision: u64,
    /// Everything that has to become ready: the named ones and what they need, in the file's order.
    pub wanted: Vec<InstanceName>,
    /// Those of `wanted` that were not running.
    pub started: Vec<InstanceName>,
    /// Those of `wanted` that run already, as the file has them.
    pub unchanged: Vec<InstanceName>,
    /// Those that run with an older definition and were left alone (restarted if `apply`).
    pub stale: Vec<Stale>,
    /// What still runs or is remembered though the file no longer has it.
    pub orphans: Vec<InstanceName>,
    /// With `dry_run`: what would be done, in rounds; the steps of a round run at the same time.
    pub plan: Option<Vec<Round>>,
    /// What can't be enforced here.
    pub warnings: Vec<String>,
}

/// An instance that runs with an older definition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stale {
    /// Which.
    pub instance: InstanceName,
    /// The keys that differ.
    pub changes: Vec<String>,
}

/// Steps that run at the same time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Round {
    /// The steps, in the file's order.
    pub steps: Vec<PlannedStep>,
}

/// One step of a plan, as shown to people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlannedStep {
    /// What it is done to.
    pub instance: InstanceName,
    /// `start`, `stop`, `wait`.
    pub action: String,
    /// Why now, or what it waits for.
    pub reason: String,
}

/// What to stop, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
pub struct StopResult {
    /// Revision of the registry before anything changed: subscribe since this.
    pub revision: u64,
    /// What will stop, dependents first.
    pub stopping: Vec<InstanceName>,
    /// The last run of each of these that has one: an instance with another run was started again meanwhile.
    #[serde(default)]
    pub runs: BTreeMap<InstanceName, String>,
    /// With `dry_run`: what would be done.
    pub plan: Option<Vec<Round>>,
}

/// Whether the daemon should end.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndParams {
    /// Only if nothing is wanted to run and nothing does: a start that came in between needs it.
    pub if_idle: bool,
}

/// Whether the daemon ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct EndResult {
    /// `false`: something is wanted.
    pub ending: bool,
}

/// What to restart.
#[derive(Clone, Serialize, Deserialize)]
pub struct RestartParams {
    /// The stack as the file has it now; `None` keeps the one of the last start.
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
pub struct RestartResult {
    /// Revision of the registry before anything changed: subscribe since this.
    pub revision: u64,
    /// What restarts, in the file's order.
    pub restarting: Vec<InstanceName>,
}

/// A selection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Names {
    /// Services or instances; empty is all.
    pub names: Vec<String>,
}

/// What to ask for its health.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HealthParams {
    /// Services or instances; empty is all.
    pub names: Vec<String>,
    /// Run the checks now and answer with their results, instead of the last known ones.
    pub run_now: bool,
}

/// Everything that a listing shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    pub not_started: Vec<ServiceName>,
}

/// Who answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
}

/// Where to run a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecParams {
    /// A service (its first running instance) or an instance.
    pub name: String,
}

/// What a command needs to run where an instance of this machine runs. Carries the service's environment: never logged.
#[derive(Clone, Serialize, Deserialize)]
pub struct ExecContext {
    /// The instance.
    pub instance: InstanceName,
    /// Its environment, complete.
    pub env: Vec<(String, String)>,
    /// Its folder.
    pub working_dir: PathBuf,
    /// User to become.
    pub user: Option<String>,
    /// Group to become.
    pub group: Option<String>,
}

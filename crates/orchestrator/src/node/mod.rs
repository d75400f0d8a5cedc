//! The engine of a node: it carries out steps, and reports what came of them. It decides nothing.
//!
//! Orders go in, in order, and never block the one who gives them; [`NodeEvent`]s come out. Processes run under keepers
//! and outlive the engine. Every probe is a task of its own with a bound, and there is at most one per instance at a time,
//! because the planner asks for no second.

mod agents;
mod hosted;
mod http;
mod install;
mod names;
mod planes;
mod ports;
mod probe;
mod reporter;
mod routes;
mod secrets;
mod user;
mod worker;

pub use agents::{ConnectFailed, Connection, Connector, Duplex, HEARTBEAT, LinkEvent, LinkFact, wire};
pub use hosted::docker::{EngineError, NetworkError, PROJECT_LABEL, container_network};
pub use hosted::{Ended, HOSTED_VERSION, HostedRecord, LogSource};
pub use install::{Installed, Installer};
pub use planes::{NoPlanes, Planes};
pub use ports::{Listeners, bound, ephemeral_first, holder, listening};
pub(crate) use routes::routes;
pub use secrets::{SecretError, evaluate as evaluate_secrets};

use crate::health::Verdict;
use crate::model::{InstanceName, Node, Service, Signal};
use crate::network::ambassadors::Caller;
use crate::network::{ContainerNetwork, Resolved, ResolvedProbe, ResolvedTarget};
use crate::observed::Moment;
use crate::supervisor::Event;
use agents::Links;
use async_channel::{Receiver, Sender};
use async_lock::Semaphore;
use command_executor::keeper::{self, KeeperError, Keepers, Liveness, RunId, StopRequest};
use command_executor::launcher::LocalLauncher;
use futures_util::task::{Spawn, SpawnExt};
use hosted::Hosts;
use indexmap::IndexMap;
use install::Installs;
use jiff::Timestamp;
use reporter::Reporter;
use service_registry::model::{Execution, Exit};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use worker::Worker;

/// Tasks are put here.
pub type Spawner = Arc<dyn Spawn + Send + Sync>;

/// Commands of health checks that may run at the same time on a node; more wait within their own time-outs.
const COMMANDS_AT_ONCE: usize = 32;

/// Time that a run has to end which nobody wants; the daemon isn't ready before.
const STRAY_TIMEOUT: Duration = Duration::from_secs(3);

/// Something for the engine to do.
pub enum Order {
    /// Start a run.
    Start(Box<Launch>),
    /// End a run.
    Stop {
        /// Of this instance.
        instance: InstanceName,
        /// The run.
        run: String,
        /// How.
        how: StopHow,
    },
    /// Let the agent that keeps a run probe it, now.
    Ask {
        /// Of this instance.
        instance: InstanceName,
        /// The run.
        run: String,
        /// The node.
        node: String,
        /// Time for the whole of it.
        timeout: Duration,
    },
    /// Renew the lease of a run, until this time since boot.
    Renew {
        /// Of this instance.
        instance: InstanceName,
        /// The run.
        run: String,
        /// Until then.
        until: Moment,
    },
    /// Write the hosts file of an instance anew.
    Names {
        /// The instance.
        instance: InstanceName,
        /// What the file has besides the machine's lines.
        names: BTreeMap<String, String>,
    },
    /// Let these have ambassadors for those that they call, and nobody else; with `down` nobody at all.
    Ambassadors {
        /// The instances, with what they ask for.
        callers: BTreeMap<InstanceName, Caller>,
        /// Whether the network is down, until another order.
        down: bool,
    },
    /// Probe a run.
    Probe(Box<Question>),
}

/// How a run is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopHow {
    /// Signal that asks it.
    pub signal: i32,
    /// Time until it is killed.
    pub timeout: Duration,
    /// Kill it, now.
    pub kill: bool,
}

/// A probe of a run, with every hole filled.
pub struct Question {
    /// Of this instance.
    pub instance: InstanceName,
    /// The run.
    pub run: String,
    /// The question.
    pub probe: ResolvedProbe,
    /// What a command of the probe runs with.
    pub resolved: Resolved,
    /// Time for the whole of it.
    pub timeout: Duration,
    /// What carries the run out: a command is run where that is.
    pub execution: Execution,
}

/// A run to start, with every hole filled.
pub struct Launch {
    /// Of this instance.
    pub instance: InstanceName,
    /// The run's id, a UUIDv7.
    pub run: String,
    /// What to run.
    pub resolved: Resolved,
    /// The definition, for its limits.
    pub service: Arc<Service>,
    /// TCP ports that it will listen on; one that is taken fails the start with the holder's name.
    pub ports: Vec<u16>,
    /// The stack's container network, if there is one.
    pub network: Option<ContainerNetwork>,
    /// Where it runs on a lease: until when.
    pub lease_until: Option<Moment>,
    /// Program and arguments that ask it to end, before its signal; empty: the signal alone.
    pub stop: Vec<String>,
}

/// Something that happened to a run.
#[derive(Clone, Debug)]
pub struct NodeEvent {
    /// Of this instance.
    pub instance: InstanceName,
    /// The run.
    pub run: String,
    /// What.
    pub fact: NodeFact,
}

/// What can happen to a run.
#[derive(Clone, Debug)]
pub enum NodeFact {
    /// A start goes on.
    Progress {
        /// How, for people.
        message: String,
    },
    /// It runs.
    Started {
        /// What carries it out.
        execution: Execution,
        /// Whether that tells its health by itself.
        tells_health: bool,
    },
    /// Another process carries it out now.
    Moved {
        /// What carries it out.
        execution: Execution,
    },
    /// It ended, and whoever keeps it starts it again.
    Returning {
        /// How it ended.
        exit: Exit,
        /// What it waits for, for people.
        why: String,
        /// Quick deaths in a row.
        deaths: u32,
    },
    /// What carries it out has told its health.
    Told {
        /// What it told.
        verdict: Verdict,
        /// In which words.
        message: String,
    },
    /// Whoever keeps it was asked how it is, and has told, or couldn't be asked.
    Asked,
    /// It could not be started.
    StartFailed {
        /// Why, for people.
        error: String,
    },
    /// Nothing of it is left.
    Exited {
        /// How its main process ended.
        exit: Exit,
    },
    /// A probe ended.
    Probed {
        /// Whether the answer was good.
        ok: bool,
        /// What came back, for people.
        message: String,
        /// How long it took.
        duration: Duration,
    },
}

/// The engine can't work.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The keepers' side failed.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// No task could be started.
    #[error("can't start a task: the program is ending")]
    Spawn,
}

/// A run that was found in the keepers' files.
#[derive(Clone, Debug)]
pub struct Found {
    /// Of this instance.
    pub instance: InstanceName,
    /// The run.
    pub run: String,
    /// When it began; zero for one of an earlier boot.
    pub began: Moment,
    /// When it ended, if it did and that is known.
    pub ended: Option<Timestamp>,
    /// What became of it.
    pub state: FoundState,
}

/// What became of a [`Found`] run.
#[derive(Clone, Debug)]
pub enum FoundState {
    /// Its keeper lives and hasn't said more.
    Starting,
    /// It runs.
    Running {
        /// What carries it out.
        execution: Execution,
        /// Whether that tells its health by itself.
        tells_health: bool,
    },
    /// It ended.
    Ended {
        /// How.
        exit: Exit,
    },
    /// It could not be started.
    Unstartable {
        /// Why.
        error: String,
    },
    /// Nobody saw its end. Nothing of it is left.
    Lost {
        /// Why nobody saw it.
        why: &'static str,
    },
}

/// Carries out orders.
pub struct Engine {
    keepers: Keepers,
    orders: Arc<Orders>,
    hosts: Hosts,
}

/// Whose services the engine runs.
#[derive(Clone, Debug)]
pub struct Project {
    /// Its id: the label of its containers.
    pub id: String,
    /// Its name: the prefix of its containers and volumes.
    pub name: String,
    /// Its state folder.
    pub state: PathBuf,
    /// Who this daemon is for agents of other nodes.
    pub owner: wire::Owner,
    /// The words behind this program's name that make it an ambassador.
    pub ambassador: &'static [&'static str],
}

/// Orders that wait. Giving one never blocks and never fails. Their number is bounded by the planner, which has at most a
/// start, a stop and a probe of an instance under way, and by how often addresses change.
struct Orders {
    waiting: Mutex<VecDeque<Order>>,
    /// Holds a message while something waits; closed with the engine.
    bell: (Sender<()>, Receiver<()>),
}

impl Orders {
    fn push(&self, order: Order) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(order);
        // Full: it has been rung and not been heard yet.
        let _ = self.bell.0.try_send(());
    }

    fn pop(&self) -> Option<Order> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// The next order; `None` when the engine is gone.
    async fn next(&self) -> Option<Order> {
        loop {
            if let Some(order) = self.pop() {
                return Some(order);
            }
            self.bell.1.recv().await.ok()?;
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.orders.bell.0.close();
    }
}

/// Runs that were handed to the zygote and haven't reported: a stop that doesn't reach them is given again when they do.
type Unreported = Arc<Mutex<BTreeMap<RunId, InstanceName>>>;

impl Engine {
    /// Starts the engine's tasks on `spawner`. Events go to `events`.
    pub fn start(
        keepers: Keepers,
        project: Project,
        connector: Arc<dyn Connector>,
        installer: Arc<dyn Installer>,
        spawner: &Spawner,
        events: Sender<Event>,
    ) -> Result<Self, NodeError> {
        LocalLauncher::prepare();
        let links = Links::new(connector, project.owner.clone(), spawner.clone(), events.clone());
        let hosts = Hosts::new(project, spawner.clone(), events.clone(), links);
        let orders = Arc::new(Orders { waiting: Mutex::default(), bell: async_channel::bounded(1) });
        let worker = Worker {
            keepers: keepers.clone(),
            events: events.clone(),
            spawner: spawner.clone(),
            commands: Arc::new(Semaphore::new(COMMANDS_AT_ONCE)),
            unreported: Unreported::default(),
            under_way: UnderWay::default(),
            hosts: hosts.clone(),
            installs: Installs::new(installer, spawner.clone(), events.clone()),
        };
        let reporter = Reporter {
            keepers: keepers.clone(),
            events,
            unreported: worker.unreported.clone(),
            under_way: worker.under_way.clone(),
        };
        spawner.spawn(end_leftovers(keepers.clone())).map_err(|_| NodeError::Spawn)?;
        spawner.spawn(worker.run(orders.clone())).map_err(|_| NodeError::Spawn)?;
        spawner.spawn(reporter.run()).map_err(|_| NodeError::Spawn)?;
        Ok(Self { keepers, orders, hosts })
    }

    /// Gives an order. Never blocks.
    pub fn order(&self, order: Order) {
        self.orders.push(order);
    }

    /// Every instance's newest run, from the keepers' files. What a dead keeper left is ended first, so that of all that
    /// isn't found running nothing is left. So is what lives beside another run of its instance, and what lives though
    /// its instance isn't `wanted` by anyone: a start that was never written down, as its daemon was killed.
    pub async fn found(&self, wanted: impl Fn(&InstanceName) -> bool) -> Result<Vec<Found>, NodeError> {
        let mut newest: BTreeMap<InstanceName, keeper::FoundRun> = BTreeMap::new();
        let mut strays: Vec<keeper::FoundRun> = Vec::new();
        for mut found in self.keepers.adopt().await? {
            let Ok(instance) = found.record.instance.parse::<InstanceName>() else { continue };
            // Also one of which nothing is left, and of which nobody has recorded the end: that is done with it.
            let unrecorded = found.liveness == Liveness::Dead && !found.record.state.is_final();
            if unrecorded || matches!(found.liveness, Liveness::KeeperDeadProcessesLeft(_)) {
                let ended = self.keepers.ensure_gone(&found.record.instance, found.record.run).await?;
                found.record = ended.record.unwrap_or(found.record);
                found.liveness = Liveness::Dead;
            }
            let lives = |found: &keeper::FoundRun| found.liveness == Liveness::KeeperAlive;
            // Sorted by name within an instance: the newest stays. Names follow the clock, which an older build let go
            // back: what lives is never hidden by what is over, or it would be started again beside itself.
            if newest.get(&instance).is_some_and(|older| lives(older) && !lives(&found)) {
                continue;
            }
            strays.extend(newest.remove(&instance).filter(lives));
            match lives(&found) && !wanted(&instance) {
                true => strays.push(found),
                false => drop(newest.insert(instance, found)),
            }
        }
        futures_util::future::try_join_all(strays.iter().map(|stray| self.end_stray(stray))).await?;
        Ok(newest.into_iter().map(|(instance, found)| found_run(instance, &found)).collect())
    }

    async fn end_stray(&self, stray: &keeper::FoundRun) -> Result<(), NodeError> {
        let (instance, run) = (&stray.record.instance, stray.record.run);
        tracing::warn!(%instance, %run, "it runs, and its start was never written down: it is ended");
        let stop = StopRequest { signal: Signal::TERM.number(), timeout: STRAY_TIMEOUT, kill: false };
        self.keepers.ensure_ended(stray, stop).await?;
        Ok(())
    }

    /// What has become of these runs, which no keeper has. One of which nothing was ever made is left out.
    pub async fn found_hosted(&self, launches: Vec<Launch>) -> Vec<Found> {
        self.hosts.found(launches).await
    }

    /// The nodes as the file has them now.
    pub fn know_nodes(&self, nodes: &IndexMap<String, Node>) {
        self.hosts.links().know(nodes);
    }

    /// A run was given up while its node was lost: when that is heard again, its agent is told before all else.
    pub fn give_up(&self, node: &str, instance: &InstanceName, run: &str) {
        self.hosts.links().give_up(node, instance, run);
    }

    /// Ends the link to a node. `runs` are given up there: when it is heard again, its agent is told before all else, and until
    /// then nobody looks for them.
    pub fn forget_node(&self, node: &str, runs: &[(InstanceName, String)]) {
        self.hosts.links().forget(node);
        for (instance, run) in runs {
            self.give_up(node, instance, run);
            self.hosts.abandon(instance, run, Exit::unknown(crate::command::forgotten(node)));
        }
    }

    /// Begins the link to a node, if there is none. `revision`: up to where it was heard by a daemon before.
    pub fn link(&self, node: &str, revision: Option<u64>) {
        self.hosts.links().to(node, revision);
    }

    /// Tries to reach the nodes that are lost now, rather than when it is their turn.
    pub fn retry_nodes(&self) {
        self.hosts.links().urge();
    }

    /// Brings the files of services that run on other nodes there again; what failed, for people, is told at the end.
    pub fn bring(&self, services: Vec<(String, Arc<Service>)>, told: Sender<Vec<String>>) {
        self.hosts.links().bring(services, told);
    }

    /// A node and those on the way to it.
    pub fn way(&self, node: &str) -> IndexMap<String, Node> {
        self.hosts.links().way(node)
    }

    /// Takes back what was made for the stack as a whole, where nothing of it runs any more: its container network, and the
    /// agents on other nodes.
    pub async fn tidy(&self, network: Option<&ContainerNetwork>) {
        self.hosts.tidy(network).await;
        // Last: an agent that ended earlier would be brought up again by its link meanwhile.
        self.hosts.links().end_idle().await;
    }
}

/// Ends what health checks of a daemon that was killed have left.
async fn end_leftovers(keepers: Keepers) {
    match keepers.end_leftovers().await {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "ended what health checks of an earlier daemon had left"),
        Err(error) => tracing::warn!(error = chain(&error), "can't look for what health checks have left"),
    }
}

fn found_run(instance: InstanceName, found: &keeper::FoundRun) -> Found {
    let alive = found.liveness == Liveness::KeeperAlive;
    let state = match &found.record.state {
        keeper::RunState::Exited { exit, .. } => FoundState::Ended { exit: exit_of(exit) },
        keeper::RunState::FailedToStart { stage, message, .. } => {
            FoundState::Unstartable { error: start_error(*stage, message) }
        }
        keeper::RunState::Running { process } if alive => {
            let run = Some(found.record.run.to_string());
            let execution = Execution::Process { pid: u32::try_from(process.pid).ok(), run };
            FoundState::Running { execution, tells_health: false }
        }
        keeper::RunState::Starting if alive => FoundState::Starting,
        _ if found.liveness == Liveness::OtherBoot => FoundState::Lost { why: "the machine was restarted" },
        _ => FoundState::Lost { why: "keeper killed" },
    };
    let began = match found.record.process() {
        Some(process) if found.liveness != Liveness::OtherBoot => since_boot(process.start),
        _ => Moment::ZERO,
    };
    let ended = match &found.record.state {
        keeper::RunState::Exited { ended_at, .. } => Some(*ended_at),
        keeper::RunState::FailedToStart { at, .. } => Some(*at),
        _ => None,
    };
    Found { instance, run: found.record.run.to_string(), began, ended, state }
}

/// Clock ticks since boot as `/proc/PID/stat` has them: USER_HZ is 100 on every Linux (proc_pid_stat(5)).
fn since_boot(ticks: u64) -> Moment {
    Moment::from_millis(ticks.saturating_mul(10))
}

fn exit_of(exit: &keeper::Exit) -> Exit {
    match exit {
        keeper::Exit::Code(code) => Exit::with_code(*code),
        keeper::Exit::Signal(signal) => Exit::with_signal(*signal),
        keeper::Exit::Unknown(why) => Exit::unknown(why.clone()),
    }
}

fn start_error(stage: keeper::StartStage, message: &str) -> String {
    format!("{stage} failed: {message}")
}

/// The probes that are under way, by instance. Taking one out ends it: the sender is dropped with the entry.
#[derive(Clone, Default)]
struct UnderWay(Arc<Mutex<BTreeMap<InstanceName, Asking>>>);

/// The run that is asked, and what ends the asking when it is dropped.
type Asking = (String, Sender<Infallible>);

impl UnderWay {
    fn map(&self) -> MutexGuard<'_, BTreeMap<InstanceName, Asking>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a probe. The answer ends when it is taken out.
    fn begin(&self, instance: &InstanceName, run: &str) -> Receiver<Infallible> {
        let (sender, ended) = async_channel::bounded(1);
        self.map().insert(instance.clone(), (run.to_owned(), sender));
        ended
    }

    /// Ends the probe of that run, if it is under way.
    fn end(&self, instance: &InstanceName, run: &str) {
        let mut map = self.map();
        if map.get(instance).is_some_and(|(current, _)| current == run) {
            map.remove(instance);
        }
    }
}

fn lock(unreported: &Unreported) -> std::sync::MutexGuard<'_, BTreeMap<RunId, InstanceName>> {
    unreported.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error with its sources, as one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

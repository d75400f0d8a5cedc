//! The engine of a node: it carries out steps, and reports what came of them. It decides nothing.
//!
//! Orders go in, in order, and never block the one who gives them; [`NodeEvent`]s come out. Processes run under keepers
//! and outlive the engine. Every probe is a task of its own with a bound, and there is at most one per instance at a time,
//! because the planner asks for no second.

mod http;
mod ports;
mod probe;
mod secrets;
mod user;

pub use ports::{Listeners, ephemeral_first, holder};
pub use secrets::{SecretError, evaluate as evaluate_secrets};

use crate::model::{InstanceName, Service};
use crate::network::{Resolved, ResolvedProbe};
use crate::observed::Moment;
use crate::supervisor::Event;
use async_channel::{Receiver, Sender};
use async_lock::Semaphore;
use command_executor::keeper::{
    self, KeeperError, Keepers, Liveness, LogLimits, Report, RunId, RunSpec, StopRequest,
};
use futures_util::task::{Spawn, SpawnExt};
use jiff::Timestamp;
use service_registry::model::Exit;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Tasks are put here.
pub type Spawner = Arc<dyn Spawn + Send + Sync>;

/// Commands of health checks that may run at the same time on a node; more wait within their own time-outs.
const COMMANDS_AT_ONCE: usize = 32;

/// The pause after keepers couldn't be heard.
const DEAF_PAUSE: Duration = Duration::from_millis(100);

/// Starts that are handed over together.
const STARTS_AT_ONCE: usize = 64;

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
        /// Signal that asks it.
        signal: i32,
        /// Time until it is killed.
        timeout: Duration,
        /// Kill it, now.
        force: bool,
    },
    /// Probe a run.
    Probe(Box<Question>),
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
    /// Exec succeeded.
    Started {
        /// Its process.
        pid: u32,
    },
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
        /// Its process.
        pid: u32,
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
}

/// Orders that wait. Giving one never blocks and never fails; their number is bounded by the planner, which has at most a
/// start, a stop and a probe of an instance under way.
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

/// Runs that were handed to the zygote and haven't reported: should it be lost, they must be looked for.
type Unreported = Arc<Mutex<BTreeMap<RunId, InstanceName>>>;

impl Engine {
    /// Starts the engine's tasks on `spawner`. Events go to `events`.
    pub fn start(keepers: Keepers, spawner: &Spawner, events: Sender<Event>) -> Result<Self, NodeError> {
        let orders = Arc::new(Orders { waiting: Mutex::default(), bell: async_channel::bounded(1) });
        let worker = Worker {
            keepers: keepers.clone(),
            events: events.clone(),
            spawner: spawner.clone(),
            commands: Arc::new(Semaphore::new(COMMANDS_AT_ONCE)),
            unreported: Unreported::default(),
        };
        let reporter = Reporter { keepers: keepers.clone(), events, unreported: worker.unreported.clone() };
        spawner.spawn(worker.run(orders.clone())).map_err(|_| NodeError::Spawn)?;
        spawner.spawn(reporter.run()).map_err(|_| NodeError::Spawn)?;
        Ok(Self { keepers, orders })
    }

    /// Gives an order. Never blocks.
    pub fn order(&self, order: Order) {
        self.orders.push(order);
    }

    /// Every instance's newest run, from the keepers' files. What a dead keeper left is ended first, so that of all that
    /// isn't found running nothing is left.
    pub async fn found(&self) -> Result<Vec<Found>, NodeError> {
        let mut newest: BTreeMap<InstanceName, Found> = BTreeMap::new();
        for mut found in self.keepers.adopt().await? {
            let Ok(instance) = found.record.instance.parse::<InstanceName>() else { continue };
            // Also one of which nothing is left, and of which nobody has recorded the end: that is done with it.
            let unrecorded = found.liveness == Liveness::Dead && !found.record.state.is_final();
            if unrecorded || matches!(found.liveness, Liveness::KeeperDeadProcessesLeft(_)) {
                let ended = self.keepers.ensure_gone(&found.record.instance, found.record.run).await?;
                found.record = ended.record.unwrap_or(found.record);
            }
            let found = found_run(instance.clone(), &found);
            // Sorted by time within an instance: the newest stays.
            newest.insert(instance, found);
        }
        Ok(newest.into_values().collect())
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
            FoundState::Running { pid: u32::try_from(process.pid).unwrap_or(0) }
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

/// Brings the keepers' reports to the loop, until either side is gone.
struct Reporter {
    keepers: Keepers,
    events: Sender<Event>,
    unreported: Unreported,
}

impl Reporter {
    async fn run(self) {
        let mut deaf = false;
        loop {
            let report = match self.keepers.next_report().await {
                Ok(report) => report,
                // For want of descriptors or memory: nothing of it is lost, so it is tried until it can be heard again.
                Err(error) => {
                    if !std::mem::replace(&mut deaf, true) {
                        tracing::error!(error = chain(&error), "keepers can't be heard now");
                    }
                    async_io::Timer::after(DEAF_PAUSE).await;
                    continue;
                }
            };
            if std::mem::replace(&mut deaf, false) {
                tracing::info!("keepers are heard again");
            }
            let (instance, run, fact) = match report {
                Report::Started { instance, run, pid } => {
                    (instance, run, NodeFact::Started { pid: u32::try_from(pid).unwrap_or(0) })
                }
                Report::StartFailed { instance, run, stage, message, .. } => {
                    (instance, run, NodeFact::StartFailed { error: start_error(stage, &message) })
                }
                Report::Exited { instance, run, exit, .. } => {
                    (instance, run, NodeFact::Exited { exit: exit_of(&exit) })
                }
                Report::KeeperLost { instance, run } => {
                    tracing::warn!(%instance, "its keeper was killed, and it with its keeper");
                    (instance, run, NodeFact::Exited { exit: Exit::unknown("keeper killed") })
                }
                Report::ZygoteLost => {
                    if !self.zygote_lost().await {
                        return;
                    }
                    continue;
                }
            };
            lock(&self.unreported).remove(&run);
            let Ok(instance) = instance.parse() else { continue };
            if !self.send(instance, run, fact).await {
                return;
            }
        }
    }

    /// What was handed to it and hasn't reported may or may not exist: it is ended, so that it doesn't.
    async fn zygote_lost(&self) -> bool {
        tracing::warn!("the zygote was killed; services go on, a new one is made at the next start");
        let unreported = std::mem::take(&mut *lock(&self.unreported));
        for (run, instance) in unreported {
            let error = match self.keepers.ensure_gone(&instance.to_string(), run).await {
                Ok(_) => "the zygote was killed while it was started".into(),
                Err(error) => chain(&error),
            };
            if !self.send(instance, run, NodeFact::StartFailed { error }).await {
                return false;
            }
        }
        true
    }

    async fn send(&self, instance: InstanceName, run: RunId, fact: NodeFact) -> bool {
        let event = NodeEvent { instance, run: run.to_string(), fact };
        self.events.send(Event::Node(event)).await.is_ok()
    }
}

fn lock(unreported: &Unreported) -> std::sync::MutexGuard<'_, BTreeMap<RunId, InstanceName>> {
    unreported.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    keepers: Keepers,
    events: Sender<Event>,
    spawner: Spawner,
    commands: Arc<Semaphore>,
    unreported: Unreported,
}

impl Worker {
    async fn run(self, orders: Arc<Orders>) {
        while let Some(first) = orders.next().await {
            // Starts that come together go to the zygote together, and cost one look at the ports.
            let mut starts = Vec::new();
            let mut next = Some(first);
            while let Some(order) = next {
                match order {
                    Order::Start(launch) => starts.push(*launch),
                    other => {
                        self.launch(std::mem::take(&mut starts)).await;
                        if !self.carry_out(other).await {
                            return;
                        }
                    }
                }
                next = if starts.len() < STARTS_AT_ONCE { orders.pop() } else { None };
            }
            self.launch(starts).await;
        }
    }

    async fn carry_out(&self, order: Order) -> bool {
        match order {
            Order::Start(launch) => self.launch(vec![*launch]).await,
            Order::Stop { instance, run, signal, timeout, force } => {
                self.stop(&instance, &run, StopRequest { signal, timeout, kill: force }).await;
            }
            Order::Probe(question) => {
                let Question { instance, run, probe, resolved, timeout } = *question;
                let (events, commands) = (self.events.clone(), self.commands.clone());
                let task = async move {
                    let fact = probe::probe(&probe, &resolved, timeout, &commands).await;
                    // The loop is gone only when the engine is to end.
                    let _ = events.send(Event::Node(NodeEvent { instance, run, fact })).await;
                };
                return self.spawner.spawn(task).is_ok();
            }
        }
        true
    }

    async fn launch(&self, launches: Vec<Launch>) {
        if launches.is_empty() {
            return;
        }
        let listeners = if launches.iter().any(|launch| !launch.ports.is_empty()) {
            Listeners::read()
        } else {
            Listeners::default()
        };
        let mut specs = Vec::new();
        for launch in launches {
            let (instance, run) = (launch.instance.clone(), launch.run.clone());
            match spec(launch, &listeners) {
                Ok(spec) => {
                    lock(&self.unreported).insert(spec.run, instance);
                    specs.push(spec);
                }
                Err(error) => self.failed(instance, run, error).await,
            }
        }
        let Err(error) = self.keepers.start_many(&specs).await else { return };
        tracing::debug!(%error, "a burst of starts was refused, each is tried alone");
        // One of them is impossible, or the zygote is: each hears for itself.
        for spec in specs {
            let Err(error) = self.keepers.start(&spec).await else { continue };
            let instance = lock(&self.unreported).remove(&spec.run);
            if let Some(instance) = instance {
                self.failed(instance, spec.run.to_string(), chain(&error)).await;
            }
        }
    }

    async fn failed(&self, instance: InstanceName, run: String, error: String) {
        let event = NodeEvent { instance, run, fact: NodeFact::StartFailed { error } };
        let _ = self.events.send(Event::Node(event)).await;
    }

    async fn stop(&self, instance: &InstanceName, run: &str, request: StopRequest) {
        let Ok(run) = run.parse::<RunId>() else { return };
        // A keeper that isn't there yet or not any more: its report says what became of the run.
        if let Err(error) = self.keepers.stop(&instance.to_string(), run, request).await {
            tracing::debug!(%instance, %error, "stop didn't reach the keeper");
        }
    }
}

/// What a keeper is told about a launch.
fn spec(launch: Launch, listeners: &Listeners) -> Result<RunSpec, String> {
    // What another process listens on can't be had, and its answers to our probes would be taken for the service's.
    if let Some(port) = launch.ports.iter().copied().find(|port| listeners.contains(*port)) {
        let by = holder(port).map(|holder| format!(" by {holder}")).unwrap_or_default();
        return Err(format!("port {port} is in use{by}"));
    }
    let service = &launch.service;
    let run: RunId = launch.run.parse().map_err(|error| format!("{error}"))?;
    Ok(RunSpec {
        instance: launch.instance.to_string(),
        run,
        argv: launch.resolved.argv.into_iter().map(Into::into).collect(),
        env: launch.resolved.env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        cwd: launch.resolved.working_dir,
        user: launch.resolved.user,
        group: launch.resolved.group,
        stop_signal: service.stop_signal.number(),
        stop_timeout: service.shutdown_timeout,
        open_files: service.resources.open_files,
        nice: service.resources.nice,
        cgroup: None,
        logs: LogLimits {
            max_size: service.logs.max_size,
            keep_files: service.logs.keep_files,
            keep_runs: service.logs.keep_runs,
        },
        stdin: false,
    })
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

//! The one loop: it owns what is wanted and what was seen, and every cause of change comes to it as an [`Event`].
//!
//! Handling an event is synchronous: change the world, ask for the plan, issue its steps to the [`Engine`], tell the
//! registry. What takes time runs elsewhere and comes back as an event. What must not be lost is written to the
//! registry's store before a command is answered.

mod adopt;
mod commands;
mod names;
mod network;
mod nodes;
mod persist;
#[cfg(test)]
mod tests;

pub use adopt::AdoptError;
pub use commands::{AssignOrder, Command, ExecContext, Reply, StartAnswer, StartOrder, Stopped};
pub use network::{NetworkNode, NetworkPort, NetworkService, NetworkStatus, NetworkZone};
pub use nodes::NodeStatus;
pub use persist::PersistError;

use crate::command::World;
use crate::health::Verdict;
use crate::model::{InstanceName, OnNodeLoss, Protocol, Service};
use crate::network::ambassadors;
use crate::network::plane::Report;
use crate::network::{Caller, PortRange, Resolved, ResolvedProbe, Unresolved, View, given, resolve};
use crate::node::{Engine, Launch, LinkEvent, NodeEvent, NodeFact, Order, Planes, Question, StopHow};
use crate::observed::{Fact, Moment, Phase, Run, StopCause};
use crate::plan::{self, Step};
use crate::view;
use async_channel::{Receiver, Sender};
use jiff::Timestamp;
use persist::Memory;
use service_registry::model::{ProbeResult, Reason, State};
use service_registry::registry::Registry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Where the loop takes the time from: time since boot for decisions, wall time for display.
pub type Clock = Arc<dyn Fn() -> (Moment, Timestamp) + Send + Sync>;

/// Where the loop takes the names of new runs from.
pub type RunNames = Box<dyn Fn() -> String + Send + Sync>;

/// Those of a project that nothing was started in.
static NO_NETWORKS: std::sync::LazyLock<indexmap::IndexMap<String, crate::model::Network>> =
    std::sync::LazyLock::new(Default::default);

/// Events that are handled before the plan is asked again: a burst of reports costs one plan.
const BATCH: usize = 256;

/// Events that may wait for the loop. Whoever sends more waits.
pub const QUEUE: usize = 512;

/// What the loop needs from outside.
pub struct Options {
    /// Where everything is told and kept.
    pub registry: Registry,
    /// What carries out steps.
    pub engine: Engine,
    /// What runs data planes.
    pub planes: Arc<dyn Planes>,
    /// The time.
    pub clock: Clock,
    /// The ports for `auto`.
    pub ports: PortRange,
    /// Where in ranges of ports and virtual addresses to begin: differs from project to project.
    pub seed: u64,
    /// This node's name, for `HARNESS_NODE`.
    pub node: String,
    /// How a new run is named: UUIDv7, each later than all before it, so that names sort by time.
    pub run_id: RunNames,
}

/// Every cause of change.
pub enum Event {
    /// Somebody wants something.
    Command(Command),
    /// Something happened on the node.
    Node(NodeEvent),
    /// Something happened to the link to another node.
    Link(LinkEvent),
    /// Data planes have reported, by node.
    Planes(BTreeMap<String, Report>),
}

/// The loop and all that it owns.
pub struct Supervisor {
    world: World,
    memory: Memory,
    registry: Registry,
    engine: Engine,
    clock: Clock,
    ports: PortRange,
    seed: u64,
    node: String,
    run_id: RunNames,
    events: Receiver<Event>,
    waiting: BTreeMap<InstanceName, Reason>,
    probes: BTreeMap<InstanceName, ProbeResult>,
    /// How starts go on, in the engine's words.
    progress: BTreeMap<InstanceName, String>,
    /// Clocks and the like of other nodes.
    nodes: BTreeMap<String, nodes::Kept>,
    net: network::Net,
    /// What hosts files of living instances were told to say.
    names: BTreeMap<InstanceName, BTreeMap<String, String>>,
    /// Who may have ambassadors, as the engine was told, and whether the network is down; `None` before it was told anything.
    callers: Option<(BTreeMap<InstanceName, ambassadors::Caller>, bool)>,
    /// Answers to `health --run-now` that wait for their probes.
    asked: Vec<commands::Asked>,
    ended: bool,
    /// Whether it ended because nothing is left to do.
    idle: bool,
}

impl Supervisor {
    /// Reads what was wanted, finds what runs, and takes it over. Nothing is started or stopped yet.
    pub async fn open(options: Options, events: Receiver<Event>) -> Result<Self, AdoptError> {
        let (memory, world) = Memory::load(&options.registry, options.ports, options.seed)?;
        let (kept, epoch) = Memory::load_network(&options.registry)?;
        let mut supervisor = Self {
            world,
            memory,
            registry: options.registry,
            engine: options.engine,
            clock: options.clock,
            ports: options.ports,
            seed: options.seed,
            node: options.node,
            run_id: options.run_id,
            events,
            waiting: BTreeMap::new(),
            probes: BTreeMap::new(),
            progress: BTreeMap::new(),
            nodes: BTreeMap::new(),
            net: network::Net::new(options.planes, kept, epoch),
            names: BTreeMap::new(),
            callers: None,
            asked: Vec::new(),
            ended: false,
            idle: false,
        };
        supervisor.open_network().await;
        supervisor.adopt().await?;
        Ok(supervisor)
    }

    /// How many instances live.
    pub fn running(&self) -> usize {
        self.world.observed.instances.values().filter(|instance| instance.is_live()).count()
    }

    /// Runs until [`Command::End`], or until nobody can send events any more. Where nothing is left to run, what was made
    /// for the stack as a whole is taken back.
    pub async fn run(mut self) {
        self.handle_events().await;
        if self.idle {
            self.net.end().await;
            self.engine.tidy(self.world.network.as_ref()).await;
        }
    }

    async fn handle_events(&mut self) {
        let mut wake = self.next();
        while !self.ended {
            let first = match wake {
                Some(at) => {
                    let pause = at.saturating_sub((self.clock)().0);
                    let timer = async {
                        async_io::Timer::after(pause).await;
                        None
                    };
                    futures_lite::future::or(async { Some(self.events.recv().await) }, timer).await
                }
                None => Some(self.events.recv().await),
            };
            match first {
                Some(Ok(event)) => self.handle(event),
                Some(Err(_)) => break,
                None => {}
            }
            for _ in 1..BATCH {
                if self.ended {
                    // Whoever asks from now on is told by the end of the queue, and asks the next loop.
                    return;
                }
                match self.events.try_recv() {
                    Ok(event) => self.handle(event),
                    Err(_) => break,
                }
            }
            wake = self.next();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Command(command) => self.command(command),
            Event::Node(event) => self.node_event(event),
            Event::Link(event) => self.link_event(event),
            Event::Planes(reports) => self.planes_event(reports),
        }
    }

    /// Asks for the plan and issues its steps. The answer: when to ask again at the latest.
    fn next(&mut self) -> Option<Moment> {
        self.link_nodes();
        let over = self.reschedule();
        let Some(stack) = &self.world.stack else { return None };
        let (now, _) = (self.clock)();
        let mut plan = plan::plan(stack, &self.world.desired, &self.world.observed, now);
        // Before anything is started that needs a listener.
        self.serve_planes();
        self.serve_ambassadors();
        self.hold(&mut plan, now);
        let waiting: BTreeMap<InstanceName, Reason> = plan.waiting.into_iter().collect();
        let mut touched: BTreeSet<InstanceName> = BTreeSet::new();
        let differs = |old: &BTreeMap<InstanceName, Reason>, new: &BTreeMap<InstanceName, Reason>| {
            old.iter()
                .filter(|(name, reason)| new.get(*name) != Some(*reason))
                .map(|(name, _)| name.clone())
                .collect::<Vec<_>>()
        };
        touched.extend(differs(&self.waiting, &waiting));
        touched.extend(differs(&waiting, &self.waiting));
        self.waiting = waiting;
        for step in plan.steps {
            if !matches!(step, Step::Probe { .. }) {
                touched.insert(step.instance().clone());
            }
            self.issue(step, now);
        }
        for instance in &touched {
            self.publish(instance);
        }
        for gone in crate::command::forget(&mut self.world) {
            self.memory.forget(&self.registry, &gone);
            self.probes.remove(&gone);
            self.progress.remove(&gone);
            if let Some(written) = self.registry.remove(&gone.to_string()) {
                written.forget();
            }
        }
        self.serve_planes();
        self.serve_names();
        self.serve_ambassadors();
        plan.wake_at.into_iter().chain(over).min()
    }

    fn issue(&mut self, step: Step, now: Moment) {
        match step {
            Step::Start { instance, service, epoch, dependencies, again } => {
                let given = self.seen_from(&instance, &service, given);
                let id = (self.run_id)();
                let run = Run {
                    execution: view::expected(&service, &id),
                    id,
                    epoch,
                    began: now,
                    started: false,
                    tells_health: false,
                    service,
                    dependencies,
                    given,
                    returned: 0,
                };
                self.start(&instance, run, again);
            }
            Step::Stop { instance, run, force, cause } => {
                if self.world.observed.issue_stop(&instance, force, cause, now) {
                    self.memory.stopping(&self.registry, &instance, cause);
                    self.order_stop(&instance, run, force);
                }
            }
            Step::Probe { instance, run } => {
                self.world.observed.issue_probe(&instance, now);
                self.order_probe(&instance, run);
            }
        }
    }

    fn start(&mut self, instance: &InstanceName, run: Run, again: bool) {
        let (id, service) = (run.id.clone(), run.service.clone());
        self.memory.started(&self.registry, instance, &run);
        self.world.observed.issue_start(instance, run, again);
        self.probes.remove(instance);
        self.progress.remove(instance);
        match self.launch(instance, &service, id.clone()) {
            Ok(launch) => self.engine.order(Order::Start(Box::new(launch))),
            Err(error) => {
                let (now, _) = (self.clock)();
                self.world.observed.apply(instance, &id, Fact::StartFailed { error: error.to_string() }, now);
            }
        }
    }

    /// What the engine needs to run it, or to find it again.
    fn launch(
        &self,
        instance: &InstanceName,
        service: &Arc<Service>,
        run: String,
    ) -> Result<Launch, Unresolved> {
        let resolved = self.seen_from(instance, service, |caller| self.resolved(caller))?;
        let tcp = service.ports.iter().enumerate().filter(|(_, port)| port.protocol == Protocol::Tcp);
        let ports =
            tcp.filter_map(|(position, _)| self.world.leases.port(instance, service, position)).collect();
        let network = self.world.network.clone();
        let leased = self.world.desired.wishes.get(instance).is_some_and(|wish| {
            wish.assignment.is_some() && wish.service.on_node_loss == OnNodeLoss::Reschedule
        });
        let lease_until = self.world.observed.lease.filter(|_| leased);
        Ok(Launch {
            instance: instance.clone(),
            run,
            resolved,
            service: service.clone(),
            ports,
            network,
            lease_until,
            stop: Vec::new(),
        })
    }

    fn order_stop(&self, instance: &InstanceName, run: String, force: bool) {
        let Some(service) = self.world.observed.get(instance).and_then(|seen| Some(&seen.run()?.service))
        else {
            return;
        };
        let order = Order::Stop {
            instance: instance.clone(),
            run,
            how: StopHow {
                signal: service.stop_signal.number(),
                timeout: service.shutdown_timeout,
                kill: force,
            },
        };
        self.engine.order(order);
    }

    fn order_probe(&mut self, instance: &InstanceName, run: String) {
        let Some(service) =
            self.world.observed.get(instance).and_then(|seen| Some(seen.run()?.service.clone()))
        else {
            return;
        };
        let Some(check) = &service.health_check else { return };
        let execution =
            self.world.observed.get(instance).and_then(|seen| Some(seen.run()?.execution.clone()));
        let execution = execution.unwrap_or_default();
        let probe = self.seen_from(instance, &service, |caller| {
            let caller = &caller.beside();
            Ok::<_, Unresolved>((ResolvedProbe::new(caller, &check.probe)?, self.resolved(caller)?))
        });
        match probe {
            Ok((probe, resolved)) => {
                let question = Question {
                    instance: instance.clone(),
                    run,
                    probe,
                    resolved,
                    timeout: check.timeout,
                    execution,
                };
                self.engine.order(Order::Probe(Box::new(question)));
            }
            Err(error) => {
                let fact =
                    NodeFact::Probed { ok: false, message: error.to_string(), duration: Duration::ZERO };
                self.node_event(NodeEvent { instance: instance.clone(), run, fact });
            }
        }
    }

    /// Lets `with` look at the stack as `instance` sees it.
    fn seen_from<T>(
        &self,
        instance: &InstanceName,
        service: &crate::model::Service,
        with: impl FnOnce(&Caller<'_, '_>) -> T,
    ) -> T {
        let lookup = |name: &crate::model::ServiceName| self.lookup(name);
        let caller = Caller {
            instance,
            service,
            view: View::from(service),
            inside: true,
            lookup: &lookup,
            leases: &self.world.leases,
            network: self.world.network.as_ref(),
            addresses: &self.world.addresses,
            sites: &self.world.sites,
            virtuals: &self.world.virtuals,
            networks: self.world.stack.as_ref().map_or(&*NO_NETWORKS, |stack| &stack.networks),
            secrets: &self.memory.secrets,
        };
        with(&caller)
    }

    /// What a node needs to run the instance that asks.
    fn resolved(&self, caller: &Caller<'_, '_>) -> Result<Resolved, Unresolved> {
        let folder = self.world.stack.as_ref().map(|stack| stack.folder.as_path()).unwrap_or(Path::new("/"));
        resolve(caller, self.memory.env_of(caller.instance), folder, &self.node)
    }

    /// The definition that others see: of what is wanted, else of the file.
    fn lookup(&self, name: &crate::model::ServiceName) -> Option<&crate::model::Service> {
        let first = InstanceName::new(name.clone(), 1);
        let wished = self.world.desired.wishes.get(&first).map(|wish| wish.service.as_ref());
        wished.or_else(|| Some(self.world.stack.as_ref()?.services.get(name)?.as_ref()))
    }

    fn node_event(&mut self, event: NodeEvent) {
        let (now, wall) = (self.clock)();
        let NodeEvent { instance, run, fact } = event;
        let fact = match fact {
            NodeFact::Progress { message } => {
                let current = self.world.observed.get(&instance).and_then(|seen| seen.run());
                if current.is_some_and(|current| current.id == run && !current.started) {
                    self.progress.insert(instance.clone(), message);
                    self.publish(&instance);
                }
                return;
            }
            NodeFact::Started { execution, tells_health } => Fact::Started { execution, tells_health },
            NodeFact::Moved { execution } => Fact::Moved { execution },
            NodeFact::Returning { exit, why, deaths } => Fact::Returning { exit, why, deaths },
            NodeFact::Asked => return self.answer_asked(&instance),
            NodeFact::Told { verdict, message } => {
                let ok = verdict != Verdict::Unhealthy;
                self.probes.insert(instance.clone(), ProbeResult { at: wall, ok, message, duration_ms: 0 });
                Fact::Told { verdict }
            }
            NodeFact::StartFailed { error } => Fact::StartFailed { error },
            NodeFact::Exited { exit } => Fact::Exited { exit },
            NodeFact::Probed { ok, message, duration } => {
                let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
                let current = self.world.observed.get(&instance).and_then(|seen| seen.run());
                if current.is_some_and(|current| current.id == run) {
                    self.probes.insert(instance.clone(), ProbeResult { at: wall, ok, message, duration_ms });
                }
                Fact::Probed { ok }
            }
        };
        let (started, probed) = (matches!(fact, Fact::Started { .. }), matches!(fact, Fact::Probed { .. }));
        if self.world.observed.apply(&instance, &run, fact, now) {
            self.publish(&instance);
            // A stop that was issued before the keeper existed didn't reach it.
            if started
                && let Some(Phase::Stopping { force, .. }) =
                    self.world.observed.get(&instance).map(|seen| &seen.phase)
            {
                self.order_stop(&instance, run, *force);
            }
        }
        if probed {
            self.answer_asked(&instance);
        }
    }

    /// Tells the registry what is true of `instance` now.
    fn publish(&self, instance: &InstanceName) {
        let Some(wish) = self.world.desired.wishes.get(instance) else { return };
        let previous = self.registry.get(&instance.to_string());
        let beside = view::Beside {
            waiting: self.waiting.get(instance),
            probe: self.probes.get(instance),
            progress: self.progress.get(instance).map(String::as_str),
            previous: previous.as_deref(),
            now: (self.clock)().1,
        };
        let entry = view::entry(&self.world, instance, wish, &beside);
        let skipped_running = previous.as_deref().is_some_and(|old| old.status.state == State::Starting)
            && entry.status.state == State::Stopped;
        let skipped_starting = previous.is_some_and(|old| {
            matches!(old.status.state, State::Failed | State::Stopped | State::Registered)
                && entry.status.state == State::Running
        });
        if skipped_starting {
            // Whoever keeps it has started it anew, and only said that it runs.
            let mut starting = entry.clone();
            starting.status.state = State::Starting;
            starting.status.reason = None;
            starting.ready = false;
            self.registry.put(starting).forget();
        }
        if skipped_running {
            // It ended before anyone heard that it ran; that it ran is part of the story.
            let mut running = entry.clone();
            running.status.state = State::Running;
            running.status.reason = None;
            running.ready = false;
            self.registry.put(running).forget();
        }
        self.registry.put(entry).forget();
    }
}

/// Why an instance was stopped, as it is remembered over a restart of the daemon.
pub(crate) type Cause = Option<StopCause>;

/// The sending side of a loop's events, of the size that the loop is made for.
pub fn channel() -> (Sender<Event>, Receiver<Event>) {
    async_channel::bounded(QUEUE)
}

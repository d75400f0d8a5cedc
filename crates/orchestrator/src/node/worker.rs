//! Orders, on their way to keepers and probes.

use super::{
    Hosts, Installs, Launch, Listeners, NodeEvent, NodeFact, Order, Orders, Question, ResolvedTarget,
    Spawner, StopHow, UnderWay, Unreported, chain, exit_of, holder, lock, names, probe,
};
use crate::model::InstanceName;
use crate::network::{PackageSpec, has_hosts_file};
use crate::supervisor::Event;
use async_channel::Sender;
use async_lock::Semaphore;
use command_executor::keeper::{
    KeeperError, Keepers, LogLimits, RunId, RunRecord, RunSpec, RunState, StopRequest,
};
use futures_util::task::SpawnExt;
use service_registry::model::Exit;
use std::sync::Arc;
use std::time::Duration;

/// Starts that are handed over together.
const STARTS_AT_ONCE: usize = 64;

/// Carries out orders, one after the other; what takes time becomes a task.
pub(super) struct Worker {
    pub(super) keepers: Keepers,
    pub(super) events: Sender<Event>,
    pub(super) spawner: Spawner,
    pub(super) commands: Arc<Semaphore>,
    pub(super) unreported: Unreported,
    pub(super) under_way: UnderWay,
    pub(super) hosts: Hosts,
    pub(super) installs: Installs,
}

impl Worker {
    pub(super) async fn run(self, orders: Arc<Orders>) {
        while let Some(first) = orders.next().await {
            // Starts that come together go to the zygote together, and cost one look at the ports.
            let mut starts = Vec::new();
            let mut next = Some(first);
            while let Some(order) = next {
                match order {
                    Order::Start(launch) => match &launch.resolved.target {
                        ResolvedTarget::Package(package) => {
                            let package = PackageSpec::clone(package);
                            self.installs.begin(*launch, package, orders.clone());
                        }
                        _ => starts.push(*launch),
                    },
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
            Order::Stop { instance, run, how } => {
                self.under_way.end(&instance, &run);
                if self.installs.end(&instance, &run) {
                    let exit = Exit::unknown("it was stopped before it began");
                    let fact = NodeFact::Exited { exit };
                    let _ = self.events.send(Event::Node(NodeEvent { instance, run, fact })).await;
                    return true;
                }
                if !self.hosts.stop(&instance, &run, how) {
                    self.stop(&instance, &run, how).await;
                }
            }
            Order::Ask { instance, run, node, timeout } => {
                return self.hosts.ask(instance, run, &node, timeout);
            }
            Order::Renew { instance, run, until } => {
                if let Ok(id) = run.parse::<RunId>()
                    && let Err(error) = self.keepers.renew(&instance.to_string(), id, until).await
                {
                    tracing::debug!(%instance, %error, "its lease can't be renewed");
                }
            }
            Order::Names { instance, names } => {
                if let Err(error) = names::write(self.keepers.state(), &instance, &names) {
                    tracing::warn!(%instance, %error, "its hosts file can't be written");
                }
            }
            Order::Ambassadors { callers, down } => self.hosts.expect_callers(callers, down),
            Order::Probe(question) => {
                let Question { instance, run, probe, mut resolved, timeout, execution } = *question;
                let (name, value) = self.keepers.command_marker();
                resolved.env.push((name.into(), value.into()));
                let (events, commands) = (self.events.clone(), self.commands.clone());
                let (under_way, ended) = (self.under_way.clone(), self.under_way.begin(&instance, &run));
                let place = probe::Place::new(resolved, execution);
                let task = async move {
                    let asking = probe::probe(&probe, &place, timeout, &commands);
                    // What is about to end isn't asked any more, and a command that asks it ends with it.
                    let pointless = async {
                        let _ = ended.recv().await;
                        NodeFact::Probed {
                            ok: false,
                            message: "it was stopped".into(),
                            duration: Duration::ZERO,
                        }
                    };
                    let fact = futures_lite::future::or(asking, pointless).await;
                    under_way.end(&instance, &run);
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
            if let Err(error) = self.hand_over(launch, &listeners, &mut specs) {
                self.failed(instance, run, error).await;
            }
        }
        if specs.is_empty() {
            return;
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

    /// A process becomes a spec for a keeper; everything else begins at once with whoever keeps it.
    fn hand_over(
        &self,
        launch: Launch,
        listeners: &Listeners,
        specs: &mut Vec<RunSpec>,
    ) -> Result<(), String> {
        // What another process listens on can't be had, and its answers to our probes would be taken for the service's.
        // Units and what was joined may be up already, and a container engine says itself what it can't publish.
        let binds = matches!(launch.resolved.target, ResolvedTarget::Process(_));
        if let Some(port) = launch.ports.iter().copied().find(|port| binds && listeners.meets(*port)) {
            let by = holder(port).map(|holder| format!(" by {holder}")).unwrap_or_default();
            return Err(format!("port {port} is in use{by}"));
        }
        if !matches!(launch.resolved.target, ResolvedTarget::Process(_)) {
            return self.hosts.start(launch);
        }
        let instance = launch.instance.clone();
        let hosts = match has_hosts_file(&launch.service) {
            true => {
                let written = names::write(self.keepers.state(), &instance, &launch.resolved.names);
                Some(written.map_err(|error| format!("can't write its hosts file: {error}"))?)
            }
            false => None,
        };
        let spec = RunSpec { hosts, ..spec(launch)? };
        lock(&self.unreported).insert(spec.run, instance);
        specs.push(spec);
        Ok(())
    }

    async fn failed(&self, instance: InstanceName, run: String, error: String) {
        let event = NodeEvent { instance, run, fact: NodeFact::StartFailed { error } };
        let _ = self.events.send(Event::Node(event)).await;
    }

    async fn stop(&self, instance: &InstanceName, run: &str, how: StopHow) {
        let request = StopRequest { signal: how.signal, timeout: how.timeout, kill: how.kill };
        let Ok(id) = run.parse::<RunId>() else { return };
        let Err(error) = self.keepers.stop(&instance.to_string(), id, request).await else { return };
        tracing::debug!(%instance, %error, "stop didn't reach the keeper");
        // One that isn't there yet will report, and is asked again then.
        if !matches!(error, KeeperError::KeeperGone { .. }) || lock(&self.unreported).contains_key(&id) {
            return;
        }
        // One that is gone has reported, or never will: what became of the run is found out, and said once more.
        let (keepers, events) = (self.keepers.clone(), self.events.clone());
        let (instance, run) = (instance.clone(), run.to_owned());
        let settle = async move {
            let fact = match keepers.ensure_gone(&instance.to_string(), id).await {
                Ok(ended) => {
                    NodeFact::Exited { exit: ended.record.as_ref().map_or_else(unseen, exit_recorded) }
                }
                Err(error) => {
                    tracing::warn!(%instance, error = %chain(&error), "can't make sure that it is gone");
                    return;
                }
            };
            let _ = events.send(Event::Node(NodeEvent { instance, run, fact })).await;
        };
        // Refused only when the engine is to end.
        let _ = self.spawner.spawn(settle);
    }
}

/// How a run that is over ended, as its record says.
fn exit_recorded(record: &RunRecord) -> Exit {
    match &record.state {
        RunState::Exited { exit, .. } => exit_of(exit),
        _ => unseen(),
    }
}

fn unseen() -> Exit {
    Exit::unknown("keeper killed")
}

/// What a keeper is told about a launch.
fn spec(launch: Launch) -> Result<RunSpec, String> {
    let ResolvedTarget::Process(argv) = launch.resolved.target else {
        return Err("only a process can have a keeper".into());
    };
    let service = &launch.service;
    let run: RunId = launch.run.parse().map_err(|error| format!("{error}"))?;
    Ok(RunSpec {
        instance: launch.instance.to_string(),
        run,
        argv: argv.into_iter().map(Into::into).collect(),
        env: launch.resolved.env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        cwd: launch.resolved.working_dir.unwrap_or_else(|| "/".into()),
        user: launch.resolved.user,
        group: launch.resolved.group,
        stop_signal: service.stop_signal.number(),
        stop_timeout: service.shutdown_timeout,
        stop: launch.stop.into_iter().map(Into::into).collect(),
        open_files: service.resources.open_files,
        nice: service.resources.nice,
        cgroup: None,
        hosts: None,
        logs: LogLimits {
            max_size: service.logs.max_size,
            keep_files: service.logs.keep_files,
            keep_runs: service.logs.keep_runs,
        },
        stdin: false,
        lease_until: launch.lease_until,
    })
}

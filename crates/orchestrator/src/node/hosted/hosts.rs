//! Everyone who keeps something for the engine, and how a launch becomes a run in their care.

use super::attached::{Attached, External};
use super::docker::Engine;
use super::portable::Portable;
use super::remote::{self, Remote, Telling};
use super::unit::Unit;
use super::{Ended, HOSTED_VERSION, Hosted, HostedRecord, Live, LogSource, Task, Told, record};
use crate::model::{InstanceName, Role, Service};
use crate::network::ambassadors::Caller;
use crate::network::{Attached as Joined, ContainerNetwork, ResolvedTarget};
use crate::node::agents::Links;
use crate::node::{Found, FoundState, Launch, NodeEvent, NodeFact, Project, Spawner, StopHow};
use crate::observed::Moment;
use crate::supervisor::Event;
use crate::view;
use async_channel::Sender;
use command_executor::attacher::{LocalAttacher, LocalTarget, ManagedAttacher};
use command_executor::executor::Executor;
use command_executor::launcher::LocalLauncher;
use command_executor::target::ManagedService;
use futures_util::future::join_all;
use futures_util::task::SpawnExt;
use jiff::Timestamp;
use service_registry::model::Exit;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a task that is a unit may run.
const TASK: Duration = Duration::from_secs(24 * 3600);

/// Those who keep runs, and the runs that they keep.
#[derive(Clone)]
pub(in crate::node) struct Hosts {
    inner: Arc<Inner>,
}

struct Inner {
    project: Project,
    spawner: Spawner,
    events: Sender<Event>,
    live: Live,
    docker: Engine,
    links: Links,
}

impl Hosts {
    pub(in crate::node) fn new(
        project: Project,
        spawner: Spawner,
        events: Sender<Event>,
        links: Links,
    ) -> Self {
        let docker = Engine::new(project.clone(), spawner.clone());
        Self { inner: Arc::new(Inner { project, spawner, events, live: Live::default(), docker, links }) }
    }

    /// The links to other nodes.
    pub(in crate::node) fn links(&self) -> &Links {
        &self.inner.links
    }

    /// Begins a run. The error is for people.
    pub(in crate::node) fn start(&self, launch: Launch) -> Result<(), String> {
        if self.task(&launch)?.start(&self.inner.spawner) {
            Ok(())
        } else {
            Err("the daemon is ending".into())
        }
    }

    /// Asks a run to end; `false` if it is none of ours.
    pub(in crate::node) fn stop(&self, instance: &InstanceName, run: &str, how: StopHow) -> bool {
        self.inner.live.stop(instance, run, how)
    }

    /// Lets the agent of a node run the checks of an instance, and tells what came of it. `false`: the engine is to end.
    pub(in crate::node) fn ask(
        &self,
        instance: InstanceName,
        run: String,
        node: &str,
        timeout: Duration,
    ) -> bool {
        let (link, events) = (self.inner.links.to(node, None), self.inner.events.clone());
        let asking = async move {
            let told = remote::ask(&link, &instance, timeout).await;
            let facts = told.map(|Told { verdict, message }| NodeFact::Told { verdict, message });
            for fact in facts.into_iter().chain([NodeFact::Asked]) {
                let event = NodeEvent { instance: instance.clone(), run: run.clone(), fact };
                // The loop is gone only when the engine is to end.
                let _ = events.send(Event::Node(event)).await;
            }
        };
        self.inner.spawner.spawn(asking).is_ok()
    }

    /// Takes who may have ambassadors from now on. What has to be done for it is done beside everything else.
    pub(in crate::node) fn expect_callers(&self, callers: BTreeMap<InstanceName, Caller>, down: bool) {
        let docker = self.inner.docker.clone();
        // Before whatever is ordered next, so that nobody's networks are forgotten that were told meanwhile.
        docker.expect_callers(callers, down);
        // Refused only when the engine is to end.
        let _ = self.inner.spawner.spawn(async move { docker.check_ambassadors().await });
    }

    /// What has become of these runs. Those that are up are taken over.
    pub(in crate::node) async fn found(&self, launches: Vec<Launch>) -> Vec<Found> {
        if launches.is_empty() {
            return Vec::new();
        }
        let found = join_all(launches.iter().map(|launch| self.find(launch))).await;
        found.into_iter().flatten().collect()
    }

    /// Nobody follows that run any more: its record ends here.
    pub(in crate::node) fn abandon(&self, instance: &InstanceName, run: &str, exit: Exit) {
        let inner = &self.inner;
        inner.live.end(instance, run);
        let Some(mut record) = HostedRecord::read(&inner.project.state, instance, run) else { return };
        record.ended = Some(Ended { exit, at: Timestamp::now(), asked: true });
        if let Err(error) = record.write(&inner.project.state) {
            tracing::error!(%instance, %error, "can't write the run's record");
        }
    }

    /// Takes back what was made for the stack as a whole.
    pub(in crate::node) async fn tidy(&self, network: Option<&ContainerNetwork>) {
        self.inner.docker.tidy(network).await;
    }

    async fn find(&self, launch: &Launch) -> Option<Found> {
        let (instance, run) = (launch.instance.clone(), launch.run.clone());
        // Without a record nobody was told to keep it.
        let known = HostedRecord::read(&self.inner.project.state, &instance, &run)?;
        let began = since_boot(known.started_at);
        if let Some(ended) = known.ended {
            let state = FoundState::Ended { exit: ended.exit };
            return Some(Found { instance, run, began, ended: Some(ended.at), state });
        }
        let state = match self.task(launch) {
            Ok(task) => Task { record: known, ..task }.adopt(&self.inner.spawner).await?,
            Err(why) => FoundState::Unstartable { error: why },
        };
        let over = !matches!(state, FoundState::Running { .. } | FoundState::Starting);
        Some(Found { instance, run, began, ended: over.then(Timestamp::now), state })
    }

    fn task(&self, launch: &Launch) -> Result<Task, String> {
        let inner = &self.inner;
        let record = HostedRecord {
            version: HOSTED_VERSION,
            instance: launch.instance.clone(),
            run: launch.run.clone(),
            execution: view::expected(&launch.service, &launch.run),
            log: LogSource::not_up(),
            started_at: Timestamp::now(),
            ended: None,
            boot: record::boot_id(),
        };
        Ok(Task {
            hosted: self.hosted(launch)?,
            record,
            state: inner.project.state.clone(),
            keep_runs: launch.service.logs.keep_runs,
            events: inner.events.clone(),
            live: inner.live.clone(),
        })
    }

    fn hosted(&self, launch: &Launch) -> Result<Box<dyn Hosted>, String> {
        let inner = &self.inner;
        Ok(match &launch.resolved.target {
            ResolvedTarget::Process(_) | ResolvedTarget::Package(_) => {
                return Err("a process has a keeper".into());
            }
            ResolvedTarget::Elsewhere { node, service } => {
                let link = inner.links.to(node, None);
                Box::new(Remote {
                    heard: link.listen(&launch.instance),
                    link,
                    links: inner.links.clone(),
                    project: inner.project.name.clone(),
                    instance: launch.instance.clone(),
                    run: launch.run.clone(),
                    service: Arc::new(Service::clone(service)),
                    told: Mutex::new(Telling::default()),
                })
            }
            ResolvedTarget::Container(spec) => Box::new(inner.docker.container(launch, spec)?),
            ResolvedTarget::Compose { file, service, ip } => {
                Box::new(inner.docker.compose(launch, file, service.as_deref(), *ip))
            }
            ResolvedTarget::Unit(unit) => Box::new(unit_run(launch, unit)?),
            ResolvedTarget::Portable { image, unit, profile } => {
                let unit = unit.clone().unwrap_or_else(|| Portable::unit_of(image));
                Box::new(Portable::new(image, unit_run(launch, &unit)?, profile.clone()))
            }
            ResolvedTarget::Attached(Joined::Container(name)) => Box::new(inner.docker.joined(launch, name)),
            ResolvedTarget::Attached(Joined::Unit(unit)) => Box::new(unit_run(launch, unit)?.joined()),
            ResolvedTarget::Attached(joined) => attached(launch, joined)?,
        })
    }
}

fn unit_run(launch: &Launch, unit: &str) -> Result<Unit, String> {
    // A unit that runs to completion starts as long as it runs.
    let patience = match launch.service.role {
        Role::Task => TASK,
        Role::Service => launch.service.startup_timeout,
    };
    Unit::new(unit, &launch.run, patience).map_err(|error| error.to_string())
}

/// When something began, as time since boot; what began before counts from there.
fn since_boot(at: Timestamp) -> Moment {
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let uptime = Moment::from_secs(u64::try_from(uptime.tv_sec).unwrap_or(0));
    let ago = Moment::try_from(Timestamp::now().duration_since(at)).unwrap_or_default();
    uptime.saturating_sub(ago)
}

fn attached(launch: &Launch, joined: &Joined) -> Result<Box<dyn Hosted>, String> {
    let execution = view::expected(&launch.service, &launch.run);
    let elsewhere = || LogSource::Nowhere { why: "it writes where its starter wanted".into() };
    let local = |target| Attached {
        attacher: Box::new(LocalAttacher::new(target)),
        execution: execution.clone(),
        log: elsewhere(),
        starts: false,
        stops: false,
    };
    Ok(match joined {
        Joined::PidFile(path) => Box::new(local(LocalTarget::PidFile(path.clone()))),
        Joined::ProcessName(name) => Box::new(local(LocalTarget::Name(name.clone()))),
        Joined::External { .. } => Box::new(External { run: launch.run.clone() }),
        Joined::Managed { start, stop, status, logs } => {
            let folder = launch.resolved.working_dir.clone();
            let log = match logs {
                Some(argv) => LogSource::Command {
                    argv: argv.clone(),
                    folder: folder.clone().unwrap_or_else(|| "/".into()),
                },
                None => LogSource::Nowhere { why: "it has no command for its logs".into() },
            };
            let service = ManagedService {
                name: launch.instance.to_string(),
                start: start.clone().unwrap_or_default(),
                stop: stop.clone().unwrap_or_default(),
                status: status.clone(),
                logs: logs.clone(),
                env: launch.resolved.env.iter().cloned().collect(),
                folder,
                start_timeout: launch.service.startup_timeout,
            };
            let executor = Executor::new(LocalLauncher::new().killed_with_thread());
            Box::new(Attached {
                attacher: Box::new(ManagedAttacher::new(executor, service)),
                execution,
                log,
                starts: start.is_some(),
                stops: stop.is_some(),
            })
        }
        Joined::Container(_) | Joined::Unit(_) => return Err("whoever keeps it is asked for it".into()),
    })
}

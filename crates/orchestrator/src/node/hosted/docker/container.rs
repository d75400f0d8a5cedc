//! A run that is a container.

use super::ambassador::AmbassadorError;
use super::ask::EngineError;
use super::engine::{Engine, Notice};
use super::news::{exit_after_stop, news};
use super::save::is_run;
use super::{INSTANCE_LABEL, PROJECT_LABEL, RUN_LABEL};
use crate::health::Verdict;
use crate::model::InstanceName;
use crate::network::ContainerSpec;
use crate::network::ambassadors::Doors;
use crate::network::reach::has_ambassadors;
use crate::node::hosted::record::folder;
use crate::node::hosted::{Change, Hosted, HostedRecord, LogSource, Progress, Seen, Told, Up};
use crate::node::{Launch, StopHow, chain, holder};
use async_channel::Receiver;
use command_executor::event::ProcessEvent;
use command_executor::keeper::LogLimits;
use command_executor::process::Exit as ClientExit;
use command_executor::target::docker::{
    self, ContainerHealth, ContainerNetwork, ContainerState, ContainerStatus, DockerContainer, DockerError,
    HealthStatus, PortBinding, Protocol, PullFailure, PullProgress, Volume,
};
use futures_util::future::BoxFuture;
use service_registry::model::{Execution, Exit};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The name of this machine in a container.
const MACHINE: &str = "host.docker.internal";
/// How often a name that is still in the way is cleared before a start gives up.
const CLEARINGS: usize = 3;

/// A run that is a container.
pub(in crate::node::hosted) struct Container {
    engine: Engine,
    wanted: DockerContainer,
    pull: Pull,
    instance: InstanceName,
    run: String,
    limits: LogLimits,
    folder: PathBuf,
    notices: Receiver<Notice>,
    /// Who stands for whom in its network, where it calls others by ambassadors.
    ambassadors: Option<Doors>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pull {
    Always,
    Missing,
    Never,
}

impl Engine {
    /// The run as a container, not made yet.
    pub(in crate::node::hosted) fn container(
        &self,
        launch: &Launch,
        spec: &ContainerSpec,
    ) -> Result<Container, String> {
        if launch.network.is_none() {
            return Err("the stack has no container network: is the container engine there?".into());
        }
        let wanted = wanted(self, launch, spec)?;
        self.in_network(launch.network.as_ref());
        let logs = &launch.service.logs;
        Ok(Container {
            notices: self.watch(&wanted.name, &launch.run),
            engine: self.clone(),
            pull: match spec.pull.as_deref() {
                Some("always") => Pull::Always,
                Some("never") => Pull::Never,
                _ => Pull::Missing,
            },
            instance: launch.instance.clone(),
            run: launch.run.clone(),
            limits: LogLimits {
                max_size: logs.max_size,
                keep_files: logs.keep_files,
                keep_runs: logs.keep_runs,
            },
            folder: folder(&self.project().state, &launch.instance),
            wanted,
            ambassadors: has_ambassadors(&launch.service).then(|| launch.resolved.ambassadors.clone()),
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.engine.unwatch(&self.wanted.name, &self.run);
    }
}

/// The container as docker is told of it.
fn wanted(engine: &Engine, launch: &Launch, spec: &ContainerSpec) -> Result<DockerContainer, String> {
    let (service, project) = (&launch.service, engine.project());
    let name = format!("{}-{}", project.id, launch.instance);
    let mut wanted = DockerContainer::new(engine.docker().clone(), name, &spec.image);
    wanted.command.clone_from(&spec.command);
    wanted.entrypoint.clone_from(&spec.entrypoint);
    wanted.env = launch.resolved.env.iter().cloned().collect();
    wanted.volumes = spec.volumes.iter().map(|text| volume(&project.name, text)).collect();
    for port in &spec.ports {
        let address =
            port.address.parse().map_err(|_| format!("{:?} is no address to publish at", port.address))?;
        let protocol = if port.protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
        let binding = PortBinding {
            address: Some(address),
            host: Some(port.published),
            container: port.target,
            protocol,
        };
        wanted.ports.push(binding);
    }
    wanted.network = launch.network.as_ref().map(|network| ContainerNetwork {
        name: network.name.clone(),
        aliases: spec.aliases.clone(),
        address: spec.ip.map(Into::into),
    });
    // Not docker's `host-gateway`: older engines and podman don't know it.
    let gateway = launch.network.as_ref().map(|network| network.gateway.to_string());
    let named = |gateway: String| {
        let names = launch.resolved.names.iter().map(|(name, address)| {
            (name.clone(), if address == MACHINE { gateway.clone() } else { address.clone() })
        });
        std::iter::once((MACHINE.to_owned(), gateway.clone())).chain(names).collect()
    };
    wanted.extra_hosts = gateway.map(named).unwrap_or_default();
    wanted.user.clone_from(&launch.resolved.user);
    wanted.group.clone_from(&launch.resolved.group);
    let folder = launch.resolved.working_dir.as_ref();
    wanted.working_dir = folder.map(|folder| folder.to_string_lossy().into_owned());
    wanted.labels = [
        (PROJECT_LABEL, project.id.clone()),
        (INSTANCE_LABEL, launch.instance.to_string()),
        (RUN_LABEL, launch.run.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    wanted.init = service.init;
    wanted.memory = service.resources.memory;
    wanted.cpus = service.resources.cpus;
    wanted.open_files = service.resources.open_files;
    // SIGTERM is what a file has that says nothing: then the image decides.
    wanted.stop_signal =
        Some(service.stop_signal).filter(|signal| *signal != crate::model::Signal::TERM).map(|s| s.number());
    // Two that ask the same container would only differ.
    wanted.no_healthcheck = service.health_check.is_some();
    Ok(wanted)
}

/// `SOURCE:DESTINATION[:OPTIONS]`; a source that is a name belongs to the project, as with Compose.
fn volume(project: &str, text: &str) -> Volume {
    let parts: Vec<&str> = text.splitn(3, ':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => {
            let mut volume = Volume::new("", *target);
            volume.source = docker::VolumeSource::Anonymous;
            return volume;
        }
        [source, target] => (*source, *target, ""),
        [source, target, options, ..] => (*source, *target, *options),
        [] => ("", "", ""),
    };
    let mut volume = if source.starts_with('/') {
        Volume::new(source, target)
    } else {
        Volume::new(format!("{project}_{source}"), target)
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => volume.read_only = true,
            "rw" => {}
            other => volume.options.push(other.to_owned()),
        }
    }
    volume
}

impl Container {
    fn name(&self) -> &str {
        &self.wanted.name
    }

    fn networks(&self) -> BTreeSet<String> {
        self.wanted.network.iter().map(|network| network.name.clone()).collect()
    }

    /// Whoever it calls is there before it is.
    async fn stand(&self) -> Result<(), AmbassadorError> {
        match &self.ambassadors {
            Some(doors) => self.engine.stand_for(&self.instance, self.networks(), doors).await,
            None => Ok(()),
        }
    }

    async fn bring_up(&self, progress: Progress<'_>) -> Result<Up, EngineError> {
        if self.pull == Pull::Always {
            self.pull(progress).await?;
        }
        let run = self.wanted.run()?;
        let (mut clearings, mut pulled) = (0, self.pull == Pull::Always);
        loop {
            match self.engine.change(&run).await {
                Ok(_) => break,
                Err(EngineError::Docker(DockerError::NoSuchImage { .. }))
                    if self.pull == Pull::Missing && !pulled =>
                {
                    self.pull(progress).await?;
                    pulled = true;
                }
                Err(EngineError::Docker(DockerError::NameInUse { name, by })) => {
                    clearings += 1;
                    self.clear(DockerError::NameInUse { name, by }, clearings).await?;
                }
                Err(error) => return Err(error),
            }
        }
        // One that has ended already says so in its first notice.
        let state = self.engine.inspect(self.name()).await?;
        state
            .map(|state| self.up(&state))
            .ok_or_else(|| DockerError::NoSuchContainer { name: self.name().to_owned() }.into())
    }

    /// An earlier run of ours makes room, once its log is saved. What isn't ours stays.
    async fn clear(&self, taken: DockerError, clearings: usize) -> Result<(), EngineError> {
        let Some(state) = self.engine.inspect(self.name()).await? else { return Ok(()) };
        let ours = state.labels.get(PROJECT_LABEL) == Some(&self.engine.project().id);
        if !ours || clearings > CLEARINGS {
            return Err(taken.into());
        }
        if let Some(run) = state.labels.get(RUN_LABEL).filter(|run| is_run(run))
            && self.engine.save(&state.id, &self.folder, run, self.limits).await
        {
            HostedRecord::note_saved(&self.engine.project().state, &self.instance, run, exit_of(&state));
        }
        self.engine.remove(&state.id).await
    }

    async fn pull(&self, progress: Progress<'_>) -> Result<(), EngineError> {
        let image = &self.wanted.image;
        progress(format!("pulling {image}"));
        let command = self.wanted.pull();
        let (handle, mut events) = match self.engine.executor().start(&command) {
            Ok(started) => started,
            Err(error) => return Err(EngineError::Run(error.into())),
        };
        let (mut so_far, mut said) = (PullProgress::new(), String::new());
        let mut exit = ClientExit::Code(-1);
        while let Some(event) = events.next().await.map_err(|source| {
            EngineError::Run(command_executor::executor::ExecuteError::Follow {
                program: "docker".into(),
                source,
            })
        })? {
            match event {
                ProcessEvent::Stdout(line) => {
                    if so_far.push(&String::from_utf8_lossy(&line.text)) && so_far.layers() > 0 {
                        let (done, all) = (so_far.complete(), so_far.layers());
                        progress(format!("pulling {image}: {done} of {all} layers"));
                    }
                }
                ProcessEvent::Stderr(line) => {
                    said.push_str(&String::from_utf8_lossy(&line.text));
                    said.push('\n');
                }
                ProcessEvent::Exited(how) => exit = how,
                ProcessEvent::Started { .. } => {}
            }
        }
        drop(handle);
        if exit.is_success() {
            return Ok(());
        }
        // Whatever it is, it is about the image.
        Err(match DockerError::classify(exit, &said) {
            DockerError::Other { text, .. } => {
                let reason = PullFailure::Other;
                DockerError::PullFailed { image: image.clone(), reason, why: text }.into()
            }
            error => error.into(),
        })
    }

    fn up(&self, state: &ContainerState) -> Up {
        Up {
            returning: None,
            execution: self.execution(state),
            tells_health: state.has_healthcheck,
            health: state.health.as_ref().and_then(told),
            log: LogSource::Container { id: state.id.clone() },
        }
    }

    fn execution(&self, state: &ContainerState) -> Execution {
        Execution::Container {
            id: state.id.clone(),
            image: self.wanted.image.clone(),
            pid: state.pid,
            run: Some(self.run.clone()),
        }
    }

    fn is_this_run(&self, state: &ContainerState) -> bool {
        state.labels.get(RUN_LABEL) == Some(&self.run)
    }

    /// How it is now. What isn't this run is no news of it.
    async fn look(&self) -> Result<Seen, EngineError> {
        let found = self.engine.inspect(self.name()).await?.filter(|state| self.is_this_run(state));
        Ok(match found {
            None => Seen::Absent,
            Some(state) if state.status.is_running() || state.status == ContainerStatus::Restarting => {
                Seen::Up(self.up(&state))
            }
            // Made and never started: its start was interrupted.
            Some(state) if state.status == ContainerStatus::Created => Seen::Absent,
            Some(state) => Seen::Ended(exit_of(&state)),
        })
    }
}

/// What the image's own health check has told; nothing while it is starting.
pub(super) fn told(health: &ContainerHealth) -> Option<Told> {
    let last = health.last_output.trim().lines().next_back().unwrap_or_default();
    let (verdict, message) = match (health.status, last) {
        (HealthStatus::Starting, _) => return None,
        (HealthStatus::Healthy, _) => (Verdict::Healthy, "its own health check is good".to_owned()),
        (HealthStatus::Unhealthy, "") => (Verdict::Unhealthy, "its own health check fails".to_owned()),
        (HealthStatus::Unhealthy, last) => {
            (Verdict::Unhealthy, format!("its own health check fails: {last}"))
        }
    };
    Some(Told { verdict, message })
}

/// How a container ended.
pub(super) fn exit_of(state: &ContainerState) -> Exit {
    if state.oom_killed {
        return Exit::out_of_memory(state.exit_code);
    }
    match (&state.error, state.exit_code) {
        (Some(error), 0) => Exit::unknown(error.clone()),
        (_, code) => Exit::with_code(code),
    }
}

impl Hosted for Container {
    fn start<'a>(&'a self, progress: Progress<'a>) -> BoxFuture<'a, Result<Up, String>> {
        Box::pin(async move {
            self.stand().await.map_err(|error| error.told())?;
            self.bring_up(progress).await.map_err(|error| match &error {
                EngineError::Docker(DockerError::PortInUse { .. }) => {
                    let taken = self.wanted.ports.iter().filter_map(|port| holder(port.host?));
                    let by = taken.map(|holder| format!(" by {holder}")).next().unwrap_or_default();
                    format!("{}{by}", chain(&error))
                }
                _ => error.told(),
            })
        })
    }

    fn find(&self) -> BoxFuture<'_, Result<Seen, String>> {
        Box::pin(async {
            let seen = self.look().await.map_err(|error| error.told())?;
            if matches!(seen, Seen::Up(_)) {
                self.engine.join_again(&self.instance, self.networks(), self.ambassadors.as_ref()).await;
            }
            Ok(seen)
        })
    }

    fn next(&self) -> BoxFuture<'_, Change> {
        Box::pin(news(&self.notices, Some(&self.run), self))
    }

    fn stop(&self, how: StopHow) -> BoxFuture<'_, Result<Exit, String>> {
        Box::pin(async move {
            self.engine.end(self.name(), how).await.map_err(|error| error.told())?;
            exit_after_stop(self.find().await?)
        })
    }

    fn save(&self) -> BoxFuture<'_, Option<LogSource>> {
        Box::pin(async {
            let state = self.engine.inspect(self.name()).await.ok().flatten()?;
            if !self.is_this_run(&state) {
                return None;
            }
            if state.started_at.is_some()
                && !self.engine.save(&state.id, &self.folder, &self.run, self.limits).await
            {
                return None;
            }
            Some(LogSource::File)
        })
    }

    fn clean(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let Ok(Some(state)) = self.engine.inspect(self.name()).await else { return };
            // One whose log couldn't be saved stays, until the next run needs its name.
            let safe = state.started_at.is_none() || self.engine.is_saved(&self.folder, &self.run);
            if !self.is_this_run(&state) || !safe {
                return;
            }
            if let Err(error) = self.engine.remove(&state.id).await {
                tracing::warn!(container = self.name(), why = error.told(), "it can't be removed");
            }
        })
    }
}

//! A run that is a service of a Compose file, or the whole of it.
//!
//! Compose is only called to bring it up and to take it down; what becomes of it the engine tells, by the labels that
//! Compose gives its containers.

use super::ambassador::AmbassadorError;
use super::ask::EngineError;
use super::engine::{Engine, Notice};
use super::news::{exit_after_stop, news};
use crate::health::Verdict;
use crate::model::InstanceName;
use crate::network::ambassadors::Doors;
use crate::network::reach::has_ambassadors;
use crate::node::hosted::record::folder;
use crate::node::hosted::{Change, Hosted, LogSource, Progress, Seen, Told, Up};
use crate::node::{Launch, StopHow, chain};
use async_channel::Receiver;
use command_executor::command::Command;
use command_executor::executor::{ExecuteError, Finished};
use command_executor::keeper::LogLimits;
use command_executor::launcher::LaunchError;
use command_executor::target::compose::{ComposeCli, ComposeError, ComposeProject, check};
use command_executor::target::docker::{
    ContainerRow, ContainerState, ContainerStatus, DockerError, NetworkJoin,
};
use futures_util::future::{BoxFuture, try_join_all};
use service_registry::model::{Execution, Exit};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The label of Compose's containers that names their service.
const SERVICE_LABEL: &str = "com.docker.compose.service";
/// What is no network of containers' own.
const MODES: &[&str] = &["host", "none"];
/// How long `up` may take, with the pulls and builds that belong to it.
const UP: Duration = Duration::from_secs(3600);
/// The grace that `down` gives; nothing runs any more then.
const DOWN_GRACE: Duration = Duration::from_secs(10);
/// How often containers are looked for again when one was removed meanwhile.
const TRIES: usize = 5;

/// A run that Compose brings up.
pub(in crate::node::hosted) struct Compose {
    engine: Engine,
    file: PathBuf,
    name: String,
    service: Option<String>,
    env: Vec<(String, String)>,
    folder: PathBuf,
    network: Option<NetworkJoin>,
    run: String,
    limits: LogLimits,
    logs: PathBuf,
    notices: Receiver<Notice>,
    instance: InstanceName,
    /// Who stands for whom in its networks, where it calls others by ambassadors.
    ambassadors: Option<Doors>,
    project: Mutex<Option<ComposeProject>>,
}

/// Compose didn't do it.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Compose(#[from] ComposeError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("Compose isn't here: neither `docker compose` nor `docker-compose` answers")]
    NotInstalled,
    #[error("can't run Compose")]
    Run(#[source] ExecuteError),
    #[error(transparent)]
    Ambassador(#[from] AmbassadorError),
    #[error("Compose has made no container of {0}")]
    Nothing(String),
}

impl Failed {
    fn told(&self) -> String {
        let text = chain(self);
        let hint = match self {
            Self::Compose(error) => error.hint(),
            Self::Engine(error) => return error.told(),
            Self::Ambassador(error) => return error.told(),
            _ => None,
        };
        hint.map_or(text.clone(), |hint| format!("{text} ({hint})"))
    }
}

impl Engine {
    /// The run as Compose is told of it.
    pub(in crate::node::hosted) fn compose(
        &self,
        launch: &Launch,
        file: &Path,
        service: Option<&str>,
        ip: Option<Ipv4Addr>,
    ) -> Compose {
        let name = format!("{}-{}", self.project().id, short_hash(file));
        let key = match service {
            Some(service) => format!("compose:{name}/{service}"),
            None => format!("compose:{name}"),
        };
        let aliases = vec![launch.service.name.to_string(), launch.instance.to_string()];
        let network = launch.network.as_ref().filter(|_| service.is_some());
        let logs = &launch.service.logs;
        self.in_network(launch.network.as_ref());
        Compose {
            notices: self.watch(&key, &launch.run),
            engine: self.clone(),
            file: file.to_owned(),
            name,
            service: service.map(str::to_owned),
            env: launch.resolved.env.clone(),
            folder: file.parent().unwrap_or(Path::new("/")).to_owned(),
            network: network.map(|network| NetworkJoin {
                network: network.name.clone(),
                aliases,
                address: ip.map(Into::into),
            }),
            run: launch.run.clone(),
            limits: LogLimits {
                max_size: logs.max_size,
                keep_files: logs.keep_files,
                keep_runs: logs.keep_runs,
            },
            logs: folder(&self.project().state, &launch.instance),
            instance: launch.instance.clone(),
            ambassadors: has_ambassadors(&launch.service).then(|| launch.resolved.ambassadors.clone()),
            project: Mutex::new(None),
        }
    }
}

/// Two files of one stack may have services of the same name: each is a Compose project of its own.
fn short_hash(file: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let digest = Sha256::digest(file.as_os_str().as_bytes());
    digest.iter().take(2).map(|byte| format!("{byte:02x}")).collect()
}

impl Drop for Compose {
    fn drop(&mut self) {
        let key = match &self.service {
            Some(service) => format!("compose:{}/{service}", self.name),
            None => format!("compose:{}", self.name),
        };
        self.engine.unwatch(&key, &self.run);
    }
}

/// What is of a run, all its containers together.
struct Found {
    containers: Vec<ContainerState>,
}

impl Compose {
    /// The project with the Compose that is here, which is looked for once.
    async fn project(&self) -> Result<ComposeProject, Failed> {
        let known = self.project.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(project) = known {
            return Ok(project);
        }
        for cli in ComposeCli::candidates(self.engine.docker()) {
            match self.run(&cli.version()).await {
                Ok(_) => {
                    let mut project = ComposeProject::new(cli, &self.name, &self.file);
                    project.env = self.env.iter().cloned().collect();
                    *self.project.lock().unwrap_or_else(PoisonError::into_inner) = Some(project.clone());
                    self.engine.remember(project.clone());
                    return Ok(project);
                }
                Err(Failed::Compose(_) | Failed::NotInstalled) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Failed::NotInstalled)
    }

    async fn run(&self, command: &Command) -> Result<Finished, Failed> {
        let command = command.clone().current_dir(&self.folder);
        let finished = self.engine.executor().run(&command).await.map_err(|error| match error {
            ExecuteError::Launch(LaunchError::NotFound { .. }) => Failed::NotInstalled,
            error => Failed::Run(error),
        })?;
        check(&finished)?;
        Ok(finished)
    }

    fn what(&self) -> String {
        self.service.clone().unwrap_or_else(|| self.file.display().to_string())
    }

    async fn find_containers(&self) -> Result<Found, Failed> {
        self.find_within(TRIES).await
    }

    async fn find_within(&self, tries: usize) -> Result<Found, Failed> {
        let mut labels = vec![format!("com.docker.compose.project={}", self.name)];
        labels.extend(self.service.iter().map(|service| format!("{SERVICE_LABEL}={service}")));
        let finished = self.engine.ask(&self.engine.docker().list(labels.iter().map(String::as_str))).await?;
        let rows = ContainerRow::parse(&finished.stdout.bytes).map_err(EngineError::from)?;
        if rows.is_empty() {
            return Ok(Found { containers: Vec::new() });
        }
        let inspect = self.engine.docker().inspect(rows.iter().map(|row| row.id.as_str()));
        let finished = match self.engine.ask(&inspect).await {
            // One was removed between the two.
            Err(EngineError::Docker(DockerError::NoSuchContainer { .. })) if tries > 0 => {
                return Box::pin(self.find_within(tries - 1)).await;
            }
            done => done?,
        };
        let mut containers = ContainerState::parse(&finished.stdout.bytes).map_err(EngineError::from)?;
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Found { containers })
    }

    async fn bring_up(&self, progress: Progress<'_>) -> Result<Up, Failed> {
        let project = self.project().await?;
        if let Some(doors) = self.ambassadors.as_ref().filter(|doors| !doors.is_empty()) {
            self.stand(&project, doors, progress).await?;
        }
        progress(format!("Compose brings up {}", self.what()));
        let up = match &self.service {
            Some(service) => project.service(service).up(),
            None => project.up(),
        };
        self.made(up).await?.up(self).ok_or_else(|| Failed::Nothing(self.what()))
    }

    /// Has Compose make its containers by that command; they are in the stack's network then, where that is joined.
    async fn made(&self, command: Command) -> Result<Found, Failed> {
        // Compose would make the project's network twice if two of its services came up at the same time.
        let turn = self.engine.compose_turn().await;
        self.run(&command.timeout(UP)).await?;
        drop(turn);
        let found = self.find_containers().await?;
        self.join(&found).await?;
        Ok(found)
    }

    async fn join(&self, found: &Found) -> Result<(), Failed> {
        if let (Some(join), Some(container)) = (&self.network, found.containers.first())
            && !container.networks.contains_key(&join.network)
        {
            self.engine.change(&self.engine.docker().network_join(join, &container.id)).await?;
        }
        Ok(())
    }

    /// Has its containers and networks made, and whoever they call stand there, before anything of it runs.
    async fn stand(
        &self,
        project: &ComposeProject,
        doors: &Doors,
        progress: Progress<'_>,
    ) -> Result<(), Failed> {
        progress(format!("Compose makes {}", self.what()));
        let create = match &self.service {
            Some(service) => project.service(service).create(),
            None => project.create(),
        };
        let found = self.made(create).await?;
        let (networks, doors) = (self.networks(&found), self.doors(&found, doors));
        Ok(self.engine.stand_for(&self.instance, networks, &doors).await?)
    }

    /// Where ambassadors are to stand: in the stack's network, where that is joined, else in those of the file.
    fn networks(&self, found: &Found) -> BTreeSet<String> {
        if let Some(join) = &self.network {
            return [join.network.clone()].into();
        }
        let networks = found.containers.iter().flat_map(|container| container.networks.keys());
        networks.filter(|name| !MODES.contains(&name.as_str())).cloned().collect()
    }

    /// What it asks for, without what its own services are called in the same networks.
    fn doors(&self, found: &Found, doors: &Doors) -> Doors {
        if self.network.is_some() {
            return doors.clone();
        }
        let own = |name: &str| {
            found.containers.iter().any(|it| it.labels.get(SERVICE_LABEL).is_some_and(|own| own == name))
        };
        let (own, others): (Doors, Doors) =
            doors.iter().map(|(name, ports)| (name.clone(), ports.clone())).partition(|(name, _)| own(name));
        for name in own.keys() {
            tracing::warn!(
                instance = %self.instance,
                name,
                "its file has a service of that name, so that of the stack can't be called by it"
            );
        }
        others
    }

    fn execution(&self, found: &Found) -> Execution {
        let run = Some(self.run.clone());
        match (&self.service, found.containers.first()) {
            (Some(_), Some(container)) => Execution::Container {
                id: container.id.clone(),
                image: container.image.clone(),
                pid: container.pid,
                run,
            },
            _ => Execution::Compose { project: self.name.clone(), run },
        }
    }
}

impl Found {
    fn seen(&self, compose: &Compose) -> Seen {
        match self.lives() {
            _ if self.containers.is_empty() => Seen::Absent,
            true => self.up(compose).map_or(Seen::Absent, Seen::Up),
            // Made and never started: its start was interrupted.
            false if self.containers.iter().all(|it| it.status == ContainerStatus::Created) => Seen::Absent,
            false => Seen::Ended(self.exit()),
        }
    }

    /// Whether one of them is up, or about to be again.
    fn lives(&self) -> bool {
        let lives = |status: ContainerStatus| status.is_running() || status == ContainerStatus::Restarting;
        self.containers.iter().any(|container| lives(container.status))
    }

    fn up(&self, compose: &Compose) -> Option<Up> {
        let first = self.containers.first()?;
        let log = match compose.service {
            Some(_) => LogSource::Container { id: first.id.clone() },
            None => LogSource::Compose { project: compose.name.clone() },
        };
        Some(Up {
            returning: None,
            execution: compose.execution(self),
            tells_health: self.containers.iter().any(|container| container.has_healthcheck),
            health: self.health(),
            log,
        })
    }

    /// One that is unwell speaks for all; well are all only together.
    fn health(&self) -> Option<Told> {
        let checked = || self.containers.iter().filter(|container| container.has_healthcheck);
        let told: Vec<(&ContainerState, Option<Told>)> = checked()
            .map(|container| (container, container.health.as_ref().and_then(super::container::told)))
            .collect();
        let unwell = told.iter().find_map(|(container, told)| {
            let told = told.as_ref().filter(|told| told.verdict == Verdict::Unhealthy)?;
            Some(Told { verdict: told.verdict, message: format!("{}: {}", container.name, told.message) })
        });
        let well = !told.is_empty() && told.iter().all(|(_, told)| told.is_some());
        let all = || Told { verdict: Verdict::Healthy, message: "its own health checks are good".into() };
        unwell.or_else(|| well.then(all))
    }

    /// The first that didn't end well, else well.
    fn exit(&self) -> Exit {
        let exits = self.containers.iter().map(super::container::exit_of);
        exits.into_iter().find(|exit| !exit.is_success()).unwrap_or_else(|| Exit::with_code(0))
    }
}

impl Hosted for Compose {
    fn start<'a>(&'a self, progress: Progress<'a>) -> BoxFuture<'a, Result<Up, String>> {
        Box::pin(async move { self.bring_up(progress).await.map_err(|error| error.told()) })
    }

    fn find(&self) -> BoxFuture<'_, Result<Seen, String>> {
        Box::pin(async {
            // So that its network is taken back with everything else, whoever brought it up.
            self.project().await.map_err(|error| error.told())?;
            let found = self.find_containers().await.map_err(|error| error.told())?;
            let seen = found.seen(self);
            if let (Seen::Up(_), Some(doors)) = (&seen, &self.ambassadors) {
                let doors = self.doors(&found, doors);
                self.engine.join_again(&self.instance, self.networks(&found), Some(&doors)).await;
            }
            Ok(seen)
        })
    }

    fn next(&self) -> BoxFuture<'_, Change> {
        Box::pin(news(&self.notices, Some(&self.run), self))
    }

    fn stop(&self, how: StopHow) -> BoxFuture<'_, Result<Exit, String>> {
        Box::pin(async move {
            let containers = self.find_containers().await.map_err(|error| error.told())?.containers;
            let ends = containers.iter().map(|container| self.engine.end(&container.id, how));
            try_join_all(ends).await.map_err(|error| error.told())?;
            exit_after_stop(self.find().await?)
        })
    }

    fn save(&self) -> BoxFuture<'_, Option<LogSource>> {
        Box::pin(async {
            let found = self.find_containers().await.ok()?;
            let whole = self.service.is_none();
            let parts: Vec<(String, String)> = found
                .containers
                .iter()
                .map(|container| {
                    let service = container.labels.get(SERVICE_LABEL).filter(|_| whole);
                    (container.id.clone(), service.map(|service| format!("{service} | ")).unwrap_or_default())
                })
                .collect();
            if parts.is_empty() || !self.engine.save_all(&parts, &self.logs, &self.run, self.limits).await {
                return None;
            }
            Some(LogSource::File)
        })
    }

    fn clean(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let Ok(found) = self.find_containers().await else { return };
            if !self.engine.is_saved(&self.logs, &self.run) || found.lives() {
                return;
            }
            for container in &found.containers {
                if let Err(error) = self.engine.remove_keeping_volumes(&container.id).await {
                    tracing::warn!(container = container.name, why = error.told(), "it can't be removed");
                }
            }
        })
    }
}

impl Engine {
    /// Takes back what Compose has made for its projects, their networks.
    pub(in crate::node::hosted) async fn compose_down(&self) {
        for project in self.remembered() {
            let folder =
                project.files.first().and_then(|file| file.parent()).unwrap_or(Path::new("/")).to_owned();
            let down = project.down(DOWN_GRACE, false).current_dir(folder);
            match self.executor().run(&down).await {
                Ok(finished) => {
                    if let Err(error) = check(&finished) {
                        tracing::info!(
                            project = project.name,
                            error = chain(&error),
                            "Compose leaves something"
                        );
                    }
                }
                Err(error) => {
                    tracing::info!(project = project.name, error = chain(&error), "Compose can't be run")
                }
            }
        }
    }
}

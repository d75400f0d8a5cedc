//! A container, or the containers of a Compose service, that somebody else started.

use super::follow::Decoder;
use super::{AttachError, AttachStatus, AttachedLine, AttachedLines, Attacher, run};
use crate::executor::Executor;
use crate::launcher::Launcher;
use crate::target::compose::ComposeService;
use crate::target::docker::{self, Container, ContainerRow, ContainerState, DockerError, LogOptions};
use futures_util::future::BoxFuture;
use std::time::Duration;

/// Joins a container.
#[derive(Clone, Debug)]
pub struct ContainerAttacher<L> {
    executor: Executor<L>,
    container: Container,
}

impl<L: Launcher> ContainerAttacher<L> {
    /// Joins the container that has that name whenever it is asked for, also when it was made anew.
    pub fn new(executor: Executor<L>, container: Container) -> Self {
        Self { executor, container }
    }

    /// What docker says of it; `None` if it isn't there.
    ///
    /// # Errors
    /// [`AttachError::Run`] and [`AttachError::Docker`].
    pub async fn inspect(&self) -> Result<Option<ContainerState>, AttachError> {
        let finished = run(&self.executor, &self.container.inspect()).await?;
        match docker::check(&finished) {
            Ok(()) => Ok(Some(ContainerState::parse_one(&finished.stdout.bytes)?)),
            Err(DockerError::NoSuchContainer { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn status_now(&self) -> Result<AttachStatus, AttachError> {
        Ok(match self.inspect().await? {
            Some(state) => of_container(&state),
            None => {
                let reason = format!("there is no container {}", self.container.name());
                AttachStatus::NotRunning { reason }
            }
        })
    }

    /// Docker answers when the container ends.
    async fn wait(&self) -> Result<(), AttachError> {
        if !matches!(self.status_now().await?, AttachStatus::Running { .. }) {
            return Ok(());
        }
        let finished = run(&self.executor, &self.container.wait()).await?;
        match docker::check(&finished) {
            Ok(()) | Err(DockerError::NoSuchContainer { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn lines(&self, lines: usize, follow: bool) -> Result<AttachedLines, AttachError> {
        AttachedLines::start(&self.executor, [client(&self.container, lines, follow)])
    }
}

fn client(container: &Container, lines: usize, follow: bool) -> (crate::command::Command, Decoder) {
    let options = LogOptions { follow, tail: Some(lines), timestamps: true, ..LogOptions::default() };
    (container.logs(&options), Decoder::Container)
}

fn of_container(state: &ContainerState) -> AttachStatus {
    if state.status.is_running() {
        // Its pid is one of the engine's machine, which may be another.
        return AttachStatus::Running { process: None };
    }
    let word = format!("{:?}", state.status).to_lowercase();
    let reason = match &state.error {
        Some(error) => format!("container {} couldn't be started: {error}", state.name),
        None if state.oom_killed => format!("container {} was killed for want of memory", state.name),
        None if state.finished_at.is_some() => {
            format!("container {} has {word} with code {}", state.name, state.exit_code)
        }
        None => format!("container {} is {word}", state.name),
    };
    AttachStatus::NotRunning { reason }
}

impl<L: Launcher> Attacher for ContainerAttacher<L> {
    fn status(&self) -> BoxFuture<'_, Result<AttachStatus, AttachError>> {
        Box::pin(self.status_now())
    }

    fn exited(&self) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(self.wait())
    }

    fn logs(&self, lines: usize) -> BoxFuture<'_, Result<Vec<AttachedLine>, AttachError>> {
        Box::pin(async move { self.lines(lines, false)?.collect().await })
    }

    fn follow(&self, lines: usize) -> BoxFuture<'_, Result<AttachedLines, AttachError>> {
        Box::pin(async move { self.lines(lines, true) })
    }

    fn start(&self) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(async { Ok(docker::check(&run(&self.executor, &self.container.start()).await?)?) })
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(async move {
            let finished = run(&self.executor, &self.container.stop(grace)).await?;
            match docker::check(&finished) {
                Ok(()) | Err(DockerError::NoSuchContainer { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
    }
}

/// Joins a service of a Compose project: all containers that it has when it is asked for.
///
/// Compose itself is only needed to start it; the file doesn't have to be the one that made them.
#[derive(Clone, Debug)]
pub struct ComposeAttacher<L> {
    executor: Executor<L>,
    service: ComposeService,
}

impl<L: Launcher> ComposeAttacher<L> {
    /// Joins that service.
    pub fn new(executor: Executor<L>, service: ComposeService) -> Self {
        Self { executor, service }
    }

    fn docker(&self) -> &docker::Docker {
        self.service.project.cli.docker()
    }

    /// Its containers, running or not.
    ///
    /// # Errors
    /// [`AttachError::Run`] and [`AttachError::Docker`].
    pub async fn containers(&self) -> Result<Vec<ContainerRow>, AttachError> {
        let labels = self.service.labels();
        let list = self.docker().list(labels.iter().map(String::as_str));
        let finished = run(&self.executor, &list).await?;
        docker::check(&finished)?;
        Ok(ContainerRow::parse(&finished.stdout.bytes)?)
    }

    async fn running(&self) -> Result<Vec<Container>, AttachError> {
        let rows = self.containers().await?.into_iter().filter(|row| row.status.is_running());
        Ok(rows.map(|row| self.docker().container(row.id)).collect())
    }

    async fn wait(&self) -> Result<(), AttachError> {
        // One that is made anew takes the place of one that ended.
        while let Some(container) = self.running().await?.first() {
            let finished = run(&self.executor, &container.wait()).await?;
            match docker::check(&finished) {
                Ok(()) | Err(DockerError::NoSuchContainer { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn lines(&self, lines: usize, follow: bool) -> Result<AttachedLines, AttachError> {
        let containers: Vec<Container> = match follow {
            true => self.running().await?,
            false => {
                let rows = self.containers().await?.into_iter();
                rows.map(|row| self.docker().container(row.id)).collect()
            }
        };
        AttachedLines::start(
            &self.executor,
            containers.iter().map(|container| client(container, lines, follow)),
        )
    }
}

impl<L: Launcher> Attacher for ComposeAttacher<L> {
    fn status(&self) -> BoxFuture<'_, Result<AttachStatus, AttachError>> {
        Box::pin(async {
            let all = self.containers().await?;
            let (project, service) = (&self.service.project.name, &self.service.service);
            let down: Vec<&str> =
                all.iter().filter(|row| !row.status.is_running()).map(|row| row.name.as_str()).collect();
            Ok(match (all.len(), down.len()) {
                (0, _) => {
                    let reason = format!("{service} of the project {project} has no container");
                    AttachStatus::NotRunning { reason }
                }
                (_, 0) => AttachStatus::Running { process: None },
                (all, _) => {
                    let reason = format!("{} of {all} containers don't run: {}", down.len(), down.join(", "));
                    AttachStatus::NotRunning { reason }
                }
            })
        })
    }

    fn exited(&self) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(self.wait())
    }

    fn logs(&self, lines: usize) -> BoxFuture<'_, Result<Vec<AttachedLine>, AttachError>> {
        Box::pin(async move {
            let mut all = self.lines(lines, false).await?.collect().await?;
            let over = all.len().saturating_sub(lines);
            all.drain(..over);
            Ok(all)
        })
    }

    fn follow(&self, lines: usize) -> BoxFuture<'_, Result<AttachedLines, AttachError>> {
        Box::pin(self.lines(lines, true))
    }

    fn start(&self) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(async {
            let finished = run(&self.executor, &self.service.up()).await?;
            Ok(crate::target::compose::check(&finished)?)
        })
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(async move {
            let finished = run(&self.executor, &self.service.stop(grace)).await?;
            Ok(crate::target::compose::check(&finished)?)
        })
    }
}

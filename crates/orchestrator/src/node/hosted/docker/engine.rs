//! The container engine: how it is asked, and the one stream of what it tells.

use super::ambassador::Ambassadors;
use super::ask::{Asking, EngineError};
use super::{INSTANCE_LABEL, PROJECT_LABEL, RUN_LABEL};
use crate::node::{Project, Spawner, StopHow, chain};
use async_channel::{Receiver, Sender};
use async_lock::{Semaphore, SemaphoreGuard};
use command_executor::command::Command;
use command_executor::event::ProcessEvent;
use command_executor::executor::{Executor, Finished};
use command_executor::launcher::{LaunchError, LocalLauncher};
use command_executor::target::compose::{ComposeIdentity, ComposeProject};
use command_executor::target::docker::{
    ContainerAction, ContainerEvent, ContainerState, Docker, DockerError, RemoveOptions,
};
use futures_util::task::SpawnExt;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Commands that change something in the engine at the same time; more wait.
const CHANGES_AT_ONCE: usize = 8;
/// Questions at the same time.
const QUESTIONS_AT_ONCE: usize = 8;
/// Notices that may wait for a run's task. The oldest makes room: a task looks for itself at whatever it hears.
const NOTICES: usize = 32;
/// Pauses before the stream of events is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A stream that lasted so long was a good one: the pauses begin anew.
const STEADY: Duration = Duration::from_secs(10);
/// How long a container that was killed may take to end.
const KILLED: Duration = Duration::from_secs(30);
/// SIGKILL's number, on every Linux.
const SIGKILL: i32 = 9;
/// How much earlier than its start a stream begins: the engine's clock may be a little behind.
const OVERLAP: Duration = Duration::from_secs(2);

/// What a run's task hears of its container.
#[derive(Clone, Debug)]
pub(in crate::node::hosted) enum Notice {
    /// Something happened to it.
    Event(ContainerEvent),
    /// Something may have been missed: look.
    Look,
}

/// The engine.
#[derive(Clone)]
pub(in crate::node::hosted) struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    docker: Docker,
    project: Project,
    spawner: Spawner,
    asking: Asking,
    changes: Semaphore,
    questions: Semaphore,
    watchers: Mutex<BTreeMap<String, Vec<Watcher>>>,
    /// Compose projects that were brought up or found, by name.
    compose: Mutex<BTreeMap<String, ComposeProject>>,
    /// Held while Compose brings something up.
    compose_turn: Semaphore,
    listening: AtomicBool,
    ambassadors: Ambassadors,
}

/// Who wants to hear of a container, by its name or id; or of those of a Compose project (`compose:PROJECT`) or of one of its
/// services (`compose:PROJECT/SERVICE`).
struct Watcher {
    run: String,
    notices: Sender<Notice>,
}

impl Engine {
    pub(in crate::node::hosted) fn new(project: Project, spawner: Spawner) -> Self {
        let inner = Inner {
            docker: Docker::new(),
            project,
            spawner,
            asking: Asking::new(),
            changes: Semaphore::new(CHANGES_AT_ONCE),
            questions: Semaphore::new(QUESTIONS_AT_ONCE),
            watchers: Mutex::default(),
            compose: Mutex::default(),
            compose_turn: Semaphore::new(1),
            listening: AtomicBool::new(false),
            ambassadors: Ambassadors::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    pub(super) fn docker(&self) -> &Docker {
        &self.inner.docker
    }

    pub(super) fn project(&self) -> &Project {
        &self.inner.project
    }

    pub(super) fn ambassadors(&self) -> &Ambassadors {
        &self.inner.ambassadors
    }

    pub(super) fn launcher(&self) -> LocalLauncher {
        *self.inner.asking.executor().launcher()
    }

    pub(super) fn executor(&self) -> &Executor<LocalLauncher> {
        self.inner.asking.executor()
    }

    /// Ends a container and waits for that. One that has ended or isn't there is no error.
    pub(super) async fn end(&self, container: &str, how: StopHow) -> Result<(), EngineError> {
        let container = self.docker().container(container);
        let stop = if how.kill { container.kill(SIGKILL) } else { container.stop(how.timeout) };
        // A kill is on its way when docker answers; waiting tells when it has come. Neither is counted among the changes,
        // whose turn others wait for: a stop takes as long as its grace.
        for command in [stop, container.wait().timeout(KILLED)] {
            match self.inner.asking.run(&command).await {
                Ok(_)
                | Err(EngineError::Docker(
                    DockerError::NotRunning { .. } | DockerError::NoSuchContainer { .. },
                )) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Runs a command that changes something.
    pub(in crate::node::hosted) async fn change(&self, command: &Command) -> Result<Finished, EngineError> {
        let _permit = self.inner.changes.acquire().await;
        self.inner.asking.run(command).await
    }

    /// Runs a command that only asks.
    pub(in crate::node::hosted) async fn ask(&self, command: &Command) -> Result<Finished, EngineError> {
        let _permit = self.inner.questions.acquire().await;
        self.inner.asking.run(command).await
    }

    /// The turn to bring something up with Compose, one at a time.
    pub(super) async fn compose_turn(&self) -> SemaphoreGuard<'_> {
        self.inner.compose_turn.acquire().await
    }

    /// A Compose project that must be taken back in the end.
    pub(super) fn remember(&self, project: ComposeProject) {
        self.compose_projects().insert(project.name.clone(), project);
    }

    /// The Compose projects that must be taken back. They are forgotten.
    pub(super) fn remembered(&self) -> Vec<ComposeProject> {
        std::mem::take(&mut *self.compose_projects()).into_values().collect()
    }

    fn compose_projects(&self) -> MutexGuard<'_, BTreeMap<String, ComposeProject>> {
        self.inner.compose.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a container; `None` if it isn't there.
    pub(in crate::node::hosted) async fn inspect(
        &self,
        container: &str,
    ) -> Result<Option<ContainerState>, EngineError> {
        let finished = match self.ask(&self.docker().container(container).inspect()).await {
            Err(EngineError::Docker(DockerError::NoSuchContainer { .. })) => return Ok(None),
            done => done?,
        };
        Ok(Some(ContainerState::parse_one(&finished.stdout.bytes)?))
    }

    /// Removes a container with its anonymous volumes, whatever it does. One that isn't there is no error.
    pub(in crate::node::hosted) async fn remove(&self, container: &str) -> Result<(), EngineError> {
        self.remove_with(container, RemoveOptions { force: true, volumes: true }).await
    }

    /// The same, but its anonymous volumes stay, as Compose leaves them for the next container of the service.
    pub(super) async fn remove_keeping_volumes(&self, container: &str) -> Result<(), EngineError> {
        self.remove_with(container, RemoveOptions { force: true, volumes: false }).await
    }

    async fn remove_with(&self, container: &str, options: RemoveOptions) -> Result<(), EngineError> {
        match self.change(&self.docker().container(container).remove(options)).await {
            Ok(_) | Err(EngineError::Docker(DockerError::NoSuchContainer { .. })) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// From now on, what happens to the container of that name is told. The engine's stream is opened with the first one.
    pub(in crate::node::hosted) fn watch(&self, name: &str, run: &str) -> Receiver<Notice> {
        let (notices, heard) = async_channel::bounded(NOTICES);
        self.watchers().entry(name.to_owned()).or_default().push(Watcher { run: run.to_owned(), notices });
        if !self.inner.listening.swap(true, Ordering::SeqCst) {
            let engine = self.clone();
            // Refused only when the daemon is to end.
            let _ = self.inner.spawner.spawn(async move { engine.listen().await });
        }
        heard
    }

    /// Nobody wants to hear of that run's container any more.
    pub(in crate::node::hosted) fn unwatch(&self, name: &str, run: &str) {
        let mut watchers = self.watchers();
        if let Some(of_name) = watchers.get_mut(name) {
            of_name.retain(|watcher| watcher.run != run);
            if of_name.is_empty() {
                watchers.remove(name);
            }
        }
    }

    fn watchers(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Watcher>>> {
        self.inner.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens for ever. Where the stream breaks, because the engine was restarted or isn't there, it is opened again from
    /// where it broke, and every task looks for itself what it missed.
    async fn listen(self) {
        let mut since = Timestamp::now();
        let mut pause = FIRST_PAUSE;
        let mut again = false;
        loop {
            let begun = std::time::Instant::now();
            let from = since.checked_sub(OVERLAP).unwrap_or(since);
            let why = match self.stream(from, again, &mut since).await {
                Ok(why) => why,
                Err(error) => chain(&error),
            };
            if begun.elapsed() >= STEADY {
                pause = FIRST_PAUSE;
            }
            if pause == FIRST_PAUSE {
                tracing::warn!(why, "the container engine's events have ended; they are asked for again");
            }
            async_io::Timer::after(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            again = true;
        }
    }

    /// One stream, to its end. The answer: what it said last.
    async fn stream(
        &self,
        from: Timestamp,
        again: bool,
        since: &mut Timestamp,
    ) -> Result<String, LaunchError> {
        let command = self.docker().events([], Some(from)).args(FILTERS.iter().copied());
        let (handle, mut events) = self.inner.asking.executor().start(&command)?;
        if again {
            self.look();
        }
        let mut said = String::new();
        while let Ok(Some(event)) = events.next().await {
            match event {
                ProcessEvent::Stdout(line) => match ContainerEvent::parse(&line.text) {
                    Ok(Some(event)) => {
                        *since = (*since).max(event.time());
                        self.tell(event);
                    }
                    Ok(None) => {}
                    Err(error) => tracing::debug!(error = chain(&error), "an event that isn't understood"),
                },
                ProcessEvent::Stderr(line) => said = String::from_utf8_lossy(&line.text).into_owned(),
                ProcessEvent::Exited(exit) if said.is_empty() => said = exit.to_string(),
                _ => {}
            }
        }
        drop(handle);
        Ok(said)
    }

    fn look(&self) {
        for watcher in self.watchers().values().flatten() {
            // Full: there is something to look at already.
            let _ = watcher.notices.try_send(Notice::Look);
        }
    }

    fn tell(&self, event: ContainerEvent) {
        let started = event.action == ContainerAction::Start;
        let ours = event.labels.get(PROJECT_LABEL).is_some_and(|id| *id == self.inner.project.id);
        if Self::is_ambassador(&event.labels) {
            // One that goes may be needed; one that comes is looked at by whoever has it made.
            if ours && !started {
                let engine = self.clone();
                let _ = self.inner.spawner.spawn(async move { engine.check_ambassadors().await });
            }
            return;
        }
        let run = event.labels.get(RUN_LABEL).cloned().unwrap_or_default();
        let (name, id) = (event.name.clone(), event.id.clone());
        let instance = event.labels.get(INSTANCE_LABEL).cloned();
        let known = {
            let watchers = self.watchers();
            let identity = ComposeIdentity::of(&event.labels);
            let of_compose = identity.iter().flat_map(|of| {
                [format!("compose:{}/{}", of.project, of.service), format!("compose:{}", of.project)]
            });
            let short = id.get(..12).unwrap_or(&id).to_owned();
            for key in [name.clone(), id.clone(), short].into_iter().chain(of_compose) {
                for watcher in watchers.get(&key).into_iter().flatten() {
                    // The oldest makes room. Closed: its task has ended.
                    let _ = watcher.notices.force_send(Notice::Event(event.clone()));
                }
            }
            watchers.get(&name).into_iter().flatten().any(|watcher| watcher.run == run)
        };
        // A start that a killed daemon had asked for and that came late: nobody wants it.
        if started && ours && !known {
            tracing::warn!(
                container = name,
                run,
                "a container that nobody waits for was started: it is removed"
            );
            let engine = self.clone();
            let _ = self.inner.spawner.spawn(async move {
                engine.discard(&id, instance.as_deref(), Some(&run)).await;
            });
        }
    }
}

/// What is worth hearing: not the many events of `exec`, which every health check makes. Podman says `died` and `remove`.
const FILTERS: &[&str] = &[
    "--filter",
    "event=start",
    "--filter",
    "event=die",
    "--filter",
    "event=died",
    "--filter",
    "event=remove",
    "--filter",
    "event=oom",
    "--filter",
    "event=health_status",
    "--filter",
    "event=destroy",
    "--filter",
    "event=pause",
    "--filter",
    "event=unpause",
];

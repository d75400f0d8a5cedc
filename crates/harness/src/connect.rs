//! The way to the project's daemon: connect, or start it and connect.
//!
//! Everything about one command runs on one thread: the connection's driver is a task beside the command's own.

use crate::error::CommandError;
use crate::project::{Project, ProjectError};
use async_executor::LocalExecutor;
use async_io::{Async, Timer};
use futures_lite::FutureExt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use service_registry::client::{self, Client, ClientError, ClientOptions, Subscription};
use service_registry::model::Known;
use service_registry::registry::{DropReason, Event, Filter, Item};
use service_registry::wire;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The daemon's socket in the state folder.
pub(crate) const SOCKET: &str = "run/harness.sock";
/// The file that the daemon holds locked, with its pid, since when it runs and its command.
pub(crate) const LOCK: &str = "daemon.lock";
/// What a daemon in the background says.
pub(crate) const LOG: &str = "daemon.log";

/// Time that an answer may take. Probes that are run on demand take longer: as long as their own time-outs.
const ANSWER: Duration = Duration::from_secs(120);
/// Time that a new daemon has to become ready: adopting a thousand services takes a fraction of it.
const READY: Duration = Duration::from_secs(30);
/// Time in which a daemon that cuts connections off is gone.
const DYING: Duration = Duration::from_secs(3);
/// A daemon that left without a word is tried again after this.
const SPAWN_AGAIN: Duration = Duration::from_millis(200);
/// Time in which a daemon that somebody else starts must answer.
const OTHERS: Duration = Duration::from_secs(10);

/// Why there is no daemon to talk to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Somebody listens and doesn't answer as a daemon would.
    #[error("the daemon{} does not answer", holder(.pid))]
    Silent {
        /// Its process, from its lock file.
        pid: Option<u32>,
        /// What went wrong.
        #[source]
        source: ClientError,
    },
    /// The daemon speaks another version of the protocol.
    #[error("the daemon{} is of another version", holder(.pid))]
    Version {
        /// Its process, from its lock file.
        pid: Option<u32>,
        /// What it said.
        #[source]
        source: ClientError,
    },
    /// The daemon of another machine can't be asked.
    #[error("can't ask the daemon at {address}")]
    Remote {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// The state folder can't be used.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// The daemon can't be started.
    #[error("can't start the daemon of {}", state_dir.display())]
    Start {
        /// The state folder.
        state_dir: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The daemon has said why it can't run.
    #[error("the daemon could not start: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// The daemon said nothing, and doesn't answer.
    #[error("the daemon of {} was not ready within {}", state_dir.display(), crate::ui::time::short(*.after))]
    NotReady {
        /// The state folder.
        state_dir: PathBuf,
        /// The time it had.
        after: Duration,
    },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The daemon refused.
    #[error("{message}")]
    Answer {
        /// One of [`crate::api::code`] or the registry's.
        code: i64,
        /// For people.
        message: String,
        /// For programs.
        data: Option<Box<Value>>,
    },
    /// The connection is gone: the daemon has ended, or its listener.
    #[error("the connection to the daemon is over ({reason})")]
    Closed {
        /// What is known about it.
        reason: String,
    },
    /// Anything else on the way.
    #[error("the daemon could not be asked")]
    Failed(#[source] ClientError),
}

impl CallError {
    /// Whether the daemon is ending, or has ended.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Answer { code: wire::code::SHUTTING_DOWN, .. })
    }
}

impl From<ClientError> for CallError {
    fn from(error: ClientError) -> Self {
        if let Some(rpc) = error.rpc() {
            return Self::Answer {
                code: rpc.code,
                message: rpc.message.clone(),
                data: rpc.data.clone().map(Box::new),
            };
        }
        match error {
            ClientError::Closed { reason } => Self::Closed { reason },
            other => Self::Failed(other),
        }
    }
}

/// Runs a command's work and the connections that it makes.
pub(crate) fn block_on<T>(
    work: impl AsyncFnOnce(&LocalExecutor<'static>) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let executor = LocalExecutor::new();
    async_io::block_on(executor.run(work(&executor)))
}

/// A connection to the daemon.
#[derive(Clone, Debug)]
pub(crate) struct Daemon {
    client: Client,
}

/// A change that the registry tells.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Everything as it is; what was known before is void.
    Snapshot(Vec<Known>),
    /// One entry changed.
    Event(Arc<Event>),
}

/// All changes, in order.
#[derive(Debug)]
pub(crate) struct Changes {
    client: Client,
    subscription: Subscription,
}

impl Daemon {
    /// Calls a method.
    pub(crate) async fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<R, CallError> {
        Ok(self.client.call(method, params, ANSWER).await?)
    }

    /// A snapshot, then every change.
    pub(crate) async fn watch(&self) -> Result<Changes, CallError> {
        self.subscribe(None).await
    }

    /// Every change since that revision, if the daemon still knows; else a snapshot first.
    pub(crate) async fn watch_since(&self, revision: u64) -> Result<Changes, CallError> {
        match self.subscribe(Some(revision)).await {
            Err(CallError::Answer { code: wire::code::REVISION_GONE, .. }) => self.subscribe(None).await,
            outcome => outcome,
        }
    }

    async fn subscribe(&self, since: Option<u64>) -> Result<Changes, CallError> {
        let subscription = self.client.subscribe(&Filter::default(), since, ANSWER).await?;
        Ok(Changes { client: self.client.clone(), subscription })
    }

    /// The events that the daemon remembers, and the present revision.
    pub(crate) async fn past(&self) -> Result<(u64, Vec<Arc<Event>>), CallError> {
        let params = wire::EventsListParams::default();
        let result: wire::EventsListResult = self.call(wire::EVENTS_LIST, &params).await?;
        Ok((result.revision, result.events))
    }
}

impl Changes {
    /// What the connection knows of its end is more than that it was lost.
    fn over(&self, reason: DropReason) -> CallError {
        let over = self.client.over().filter(|_| reason == DropReason::ConnectionLost);
        over.map_or_else(|| CallError::Closed { reason: reason.to_string() }, CallError::from)
    }

    /// The next change. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Change, CallError> {
        loop {
            match self.subscription.next().await {
                Some(Item::Snapshot { entries, .. }) => return Ok(Change::Snapshot(entries)),
                Some(Item::Event(event)) => return Ok(Change::Event(event)),
                Some(Item::Dropped { reason: DropReason::TooSlow, .. }) => {
                    self.subscription = self.client.subscribe(&Filter::default(), None, ANSWER).await?;
                }
                Some(Item::Dropped { reason, .. }) => return Err(self.over(reason)),
                None => return Err(self.over(DropReason::ConnectionLost)),
            }
        }
    }
}

/// The daemon that runs, if one does. One that dies at this very moment (killed, say) is waited for.
pub(crate) async fn existing(
    executor: &LocalExecutor<'static>,
    project: &Project,
) -> Result<Option<Daemon>, ConnectError> {
    let end = Instant::now() + DYING;
    loop {
        match connect(executor, project).await {
            Err(ConnectError::Silent {
                source: ClientError::Handshake { .. } | ClientError::Closed { .. },
                ..
            }) if Instant::now() < end => {
                Timer::after(Duration::from_millis(10)).await;
            }
            outcome => return outcome,
        }
    }
}

fn client_options() -> ClientOptions {
    let name = concat!("harness ", env!("CARGO_PKG_VERSION")).to_owned();
    ClientOptions { name, ..ClientOptions::default() }
}

async fn connect(
    executor: &LocalExecutor<'static>,
    project: &Project,
) -> Result<Option<Daemon>, ConnectError> {
    let options = client_options();
    if let Some(remote) = &project.remote {
        let connected = Client::connect_tls(remote, &options).await;
        let (client, driver) =
            connected.map_err(|source| ConnectError::Remote { address: remote.to_string(), source })?;
        executor.spawn(driver).detach();
        return Ok(Some(Daemon { client }));
    }
    match Client::connect_unix(&project.state_dir.join(SOCKET), &options).await {
        Ok((client, driver)) => {
            executor.spawn(driver).detach();
            Ok(Some(Daemon { client }))
        }
        Err(error) if error.is_absent() => Ok(None),
        Err(source @ ClientError::Incompatible { .. }) => {
            Err(ConnectError::Version { pid: lock_holder(&project.state_dir), source })
        }
        Err(source) => Err(ConnectError::Silent { pid: lock_holder(&project.state_dir), source }),
    }
}

/// The daemon that runs; if none does, a new one. Two of these at once end with the same daemon: the second to start
/// finds the lock taken and goes away.
pub(crate) async fn or_start(
    executor: &LocalExecutor<'static>,
    project: &Project,
) -> Result<Daemon, ConnectError> {
    if let Some(daemon) = existing(executor, project).await? {
        return Ok(daemon);
    }
    project.create_state_dir()?;
    let begin = Instant::now();
    let mut pause = Duration::from_millis(1);
    let mut spawned: Option<Instant> = None;
    loop {
        // One that found the lock held left without a word: by a daemon that is about to answer, or by one that was about
        // to end. Where none answers soon, the lock may be free by now.
        if spawned.is_none_or(|at| at.elapsed() > SPAWN_AGAIN) {
            spawned = Some(Instant::now());
            let word = spawn_daemon(&project.state_dir)
                .map_err(|source| ConnectError::Start { state_dir: project.state_dir.clone(), source })?;
            match word {
                Word::Ready | Word::Nothing => {}
                Word::Refused(reason) => return Err(ConnectError::Refused { reason }),
                Word::Late => {
                    return Err(ConnectError::NotReady {
                        state_dir: project.state_dir.clone(),
                        after: READY,
                    });
                }
            }
        }
        if let Some(daemon) = existing(executor, project).await? {
            return Ok(daemon);
        }
        if begin.elapsed() > OTHERS {
            let state_dir = project.state_dir.clone();
            return Err(ConnectError::NotReady { state_dir, after: begin.elapsed() });
        }
        Timer::after(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// The same, and whether it was started for this.
pub(crate) async fn asked(
    executor: &LocalExecutor<'static>,
    project: &Project,
) -> Result<(Daemon, bool), ConnectError> {
    match existing(executor, project).await? {
        Some(daemon) => Ok((daemon, false)),
        None => Ok((or_start(executor, project).await?, true)),
    }
}

/// Tells a daemon to end with which there is no common protocol.
pub(crate) async fn end_foreign(project: &Project) -> Result<(), CallError> {
    let options = client_options();
    let params = serde_json::json!({});
    match client::call_ungreeted::<_, Value>(
        &project.state_dir.join(SOCKET),
        &options,
        crate::api::DAEMON_STOP,
        &params,
    )
    .await
    {
        // It may close the connection before its answer is out.
        Ok(_) | Err(ClientError::Closed { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The daemon's process, whose end is to be seen. Look for it before telling it to end.
pub(crate) struct Ending {
    process: Option<Async<OwnedFd>>,
}

impl Ending {
    /// The process that holds the project's lock.
    pub(crate) fn of(project: &Project) -> Self {
        let pid = lock_holder(&project.state_dir).and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let handle = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Self { process: handle.and_then(|handle| Async::new_nonblocking(handle).ok()) }
    }

    /// Waits until it is gone, at most `limit`: its connection closes a little before its lock is free.
    pub(crate) async fn ended(self, limit: Duration) -> bool {
        let ended = async {
            match &self.process {
                Some(process) => process.readable().await.is_ok(),
                None => true,
            }
        };
        let late = async {
            Timer::after(limit).await;
            false
        };
        ended.or(late).await
    }
}

/// The first number in the daemon's lock file: its pid.
fn lock_holder(state_dir: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(state_dir.join(LOCK)).ok()?.take(4096).read_to_string(&mut text).ok()?;
    holder_in(&text)
}

fn holder_in(text: &str) -> Option<u32> {
    text.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?.parse().ok()
}

/// The first that a new daemon says.
enum Word {
    /// One byte: it answers.
    Ready,
    /// More: why it can't run.
    Refused(String),
    /// It ended, or left the word to another daemon.
    Nothing,
    /// Time ran out.
    Late,
}

/// Starts a daemon that outlives this program, and waits for its first word.
///
/// Its standard input is the writing end of a pipe, in which its first word comes; it makes a session of its own and enters the state folder. Of the
/// environment it gets only what programs need to find their way: what services get travels with each start.
fn spawn_daemon(state_dir: &Path) -> io::Result<Word> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(state_dir.join(LOG))?;
    let program = std::env::current_exe().ok().filter(|path| path.exists());
    let program = program.unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    // The one door through which a daemon is started: it must outlive this program, so no launcher owns it.
    let mut command = std::process::Command::new(program);
    command
        .args(["daemon", "run", "--background", "--state-dir"])
        .arg(state_dir)
        .current_dir(state_dir)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(passes)).map(whole))
        // A daemon is idle nearly always: what a burst took from the heap is given back.
        .envs([
            ("MALLOC_ARENA_MAX", "1"),
            ("MALLOC_MMAP_THRESHOLD_", "65536"),
            ("MALLOC_TRIM_THRESHOLD_", "65536"),
        ])
        .stdin(Stdio::from(writer))
        .stdout(log.try_clone()?)
        .stderr(log);
    let child = command.spawn()?;
    // Holds our copy of the writing end: without it gone, a daemon that dies silently would never be noticed.
    drop(command);
    first_word(reader, child)
}

/// Whether a daemon gets this variable of its starter.
fn passes(name: &str) -> bool {
    const NAMES: [&str; 14] = [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "TZ",
        "TMPDIR",
        "DBUS_SESSION_BUS_ADDRESS",
        "SSH_AUTH_SOCK",
        "DOCKER_HOST",
        "DOCKER_CONFIG",
        "DOCKER_CONTEXT",
        "RUST_BACKTRACE",
    ];
    let prefixed = name.starts_with("XDG_") || name.starts_with("LC_") || name.starts_with("HARNESS_");
    NAMES.contains(&name) || (prefixed && !crate::commands::is_own(name))
}

/// The variable as the daemon gets it, which runs in another folder: where it names a file of ours, by its whole path.
fn whole((name, value): (OsString, OsString)) -> (OsString, OsString) {
    let is_path = ["HARNESS_SSH_CONFIG", "HARNESS_AGENT_DIR"].iter().any(|path| name == *path);
    match std::path::absolute(&value) {
        Ok(path) if is_path => (name, path.into_os_string()),
        _ => (name, value),
    }
}

fn first_word(reader: OwnedFd, mut child: Child) -> io::Result<Word> {
    let end = Instant::now() + READY;
    let mut said = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut waiting = [PollFd::from_borrowed_fd(reader.as_fd(), PollFlags::IN)];
        match poll(&mut waiting, Some(&left)) {
            Ok(0) if said.is_empty() => return Ok(Word::Late),
            Ok(0) => break,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut buffer = [0_u8; 4096];
        let length = match rustix::io::read(&reader, &mut buffer) {
            Ok(length) => length,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        said.extend_from_slice(buffer.get(..length).unwrap_or_default());
        if said.len() == 1 {
            return Ok(Word::Ready);
        }
        if length == 0 || said.len() > 64 * 1024 {
            break;
        }
    }
    if said.is_empty() {
        // It ends, or has ended: never a zombie of ours for longer than this command.
        let _ = child.try_wait();
        return Ok(Word::Nothing);
    }
    Ok(Word::Refused(String::from_utf8_lossy(&said).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_of_every_lock_file_is_read() {
        assert_eq!(holder_in(include_str!("../tests/samples/daemon-v1.lock")), Some(4711));
        assert_eq!(holder_in(""), None);
        assert_eq!(holder_in("pid 99999999999"), None);
    }

    #[test]
    fn a_daemon_gets_no_secrets_of_its_starter() {
        for (name, gets) in [
            ("PATH", true),
            ("XDG_RUNTIME_DIR", true),
            ("HARNESS_LOG_LEVEL", true),
            ("HARNESS_RUN", false),
            ("HARNESS_SERVICE", false),
            ("AWS_SECRET_ACCESS_KEY", false),
            ("DB_PASSWORD", false),
        ] {
            assert_eq!(passes(name), gets, "{name}");
        }
    }

    #[test]
    fn a_daemon_gets_the_whole_path_of_files() {
        let here = std::env::current_dir().unwrap();
        let passed = |name: &str, value: &str| whole((name.into(), value.into())).1;
        assert_eq!(passed("HARNESS_AGENT_DIR", "target/agents"), here.join("target/agents"));
        assert_eq!(passed("HARNESS_SSH_CONFIG", "/etc/x"), "/etc/x");
        assert_eq!(passed("HARNESS_SSH_CONFIG", ""), "");
        assert_eq!(passed("HARNESS_LOG_LEVEL", "debug"), "debug");
    }

    #[test]
    fn the_holder_of_the_lock_is_named_whatever_the_format() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(lock_holder(folder.path()), None);
        std::fs::write(folder.path().join(LOCK), r#"{"pid":4242,"since":"2026-11-23T10:00:00Z"}"#).unwrap();
        assert_eq!(lock_holder(folder.path()), Some(4242));
    }
}

//! The daemon of a project: the supervisor's loop, the registry and its socket, in one process.
//!
//! It may be killed at any moment: services live under their keepers, wishes and history in the registry's store, and
//! the next daemon finds both. One thread runs everything; what blocks (the store's disk) has a thread of its own.

mod access;
mod files;
mod host;
mod lock;
mod methods;
mod nodes;
mod packages;
mod planes;
mod secrets;
mod uploads;

pub(crate) use host::raise_open_files;
#[cfg(test)]
pub(crate) use methods::METHODS;
pub(crate) use planes::{FOLDER as PLANE_FOLDER, end as end_plane};

use crate::connect::SOCKET;
use access::Access;
use async_channel::Sender;
use async_signal::{Signal, Signals};
use command_executor::keeper::{KeeperError, KeeperOptions, Keepers};
use futures_lite::StreamExt;
use host::Host;
use lock::{Lock, LockError};
use orchestrator::network::PortRange;
use orchestrator::node::{Engine, NodeError, Project, ephemeral_first};
use orchestrator::supervisor::{self, AdoptError, Command, Event, Options, Supervisor};
use planes::DataPlanes;
use service_registry::access::TokenError;
use service_registry::registry::{Registry, RegistryError};
use service_registry::server::{Limits, ListenError, ServeError, Server, UnixListener};
use service_registry::store::{DurableStore, StoreError};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The file of the registry's store in the state folder.
const STORE: &str = "registry.redb";

/// The time that open requests have when the daemon ends.
const GRACE: Duration = Duration::from_secs(2);

/// This node's name, for `HARNESS_NODE`.
const NODE: &str = "local";

/// The command that is an ambassador: `harness daemon ambassador`.
const AMBASSADOR: &[&str] = &["daemon", "ambassador"];

/// The daemon can't run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// Another one runs, or the state folder can't be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The store can't be opened.
    #[error("can't open the project's state in {}", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The store can't be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Keepers can't be reached.
    #[error("can't talk to keepers")]
    Keepers(#[from] KeeperError),
    /// The engine can't be started.
    #[error(transparent)]
    Engine(#[from] NodeError),
    /// What runs can't be taken over.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// The tokens can't be read.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The socket can't be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The socket broke.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The system refuses something.
    #[error("can't {what}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Runs the daemon of the project whose state is in `state_dir`, until it is told to end. With `background` its standard
/// input is a pipe that gets one byte when it answers, or else the reason why it can't.
pub(crate) fn run(state_dir: &Path, background: bool) -> Result<(), DaemonError> {
    let mut ready = Ready::new(background);
    let ended = async_io::block_on(serve(state_dir, &mut ready));
    if let Err(error) = &ended {
        ready.refuse(error);
    }
    ended
}

async fn serve(state_dir: &Path, ready: &mut Ready) -> Result<(), DaemonError> {
    if ready.is_background() {
        // Away from the terminal that started it; it may lead a session already.
        let _ = rustix::process::setsid();
        trace();
    }
    let lock = Lock::take(state_dir)?;
    let soft_open_files = host::raise_open_files();
    let host = Host::new();
    host.run(daemon(state_dir, &lock, soft_open_files, ready, &host)).await
}

/// What a daemon in the background has to say goes to its log, which is its standard error.
fn trace() {
    let level = std::env::var("HARNESS_LOG_LEVEL").unwrap_or_else(|_| "info".into());
    let filter = tracing_subscriber::EnvFilter::try_new(level)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // The command line may have set one up already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .try_init();
}

async fn daemon(
    state_dir: &Path,
    lock: &Lock,
    soft_open_files: Option<u64>,
    ready: &mut Ready,
    host: &Host,
) -> Result<(), DaemonError> {
    let path = state_dir.join(STORE);
    let store = DurableStore::open(&path).map_err(|source| DaemonError::Store { path, source })?;
    let registry = Registry::open(Arc::new(store), Default::default()).await?;
    let build = build_id();
    let keepers =
        Keepers::open(KeeperOptions { state: state_dir.to_owned(), program: None, build, soft_open_files })?;
    let (events, received) = supervisor::channel();
    let spawner = host.spawner();
    let names = keepers.clone();
    let kept = keepers.clone();
    let project_id =
        state_dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = project_id.rsplit_once('-').map_or(project_id.as_str(), |(name, _)| name).to_owned();
    let owner = nodes::identity(&registry, state_dir);
    let project =
        Project { id: project_id.clone(), name, state: state_dir.to_owned(), owner, ambassador: AMBASSADOR };
    let engine = Engine::start(
        keepers,
        project.clone(),
        Arc::new(crate::node::agent::Agents::of(&project_id)),
        Arc::new(crate::packages::service::Packages::default()),
        &spawner,
        events.clone(),
    )?;
    let planes = DataPlanes::new(kept, project_id.clone(), spawner.clone(), events.clone());
    let options = Options {
        registry: registry.clone(),
        engine,
        planes: Arc::new(planes.clone()),
        clock: host::clock(),
        ports: PortRange::below_ephemeral(ephemeral_first()),
        seed: seed(&project_id),
        node: NODE.into(),
        run_id: Box::new(move || names.name_run().to_string()),
    };
    let supervisor = Supervisor::open(options, received).await?;
    tracing::info!(pid = std::process::id(), running = supervisor.running(), "ready");

    let listener = UnixListener::bind(&state_dir.join(SOCKET))?;
    let about = methods::About { project, started_at: lock.since() };
    let access = Arc::new(Access::new(registry.clone(), state_dir.to_owned(), spawner.clone())?);
    let methods =
        methods::StackMethods::new(events.clone(), registry.clone(), about, Arc::clone(&access), planes);
    let server = Server::new(
        registry.clone(),
        Arc::new(methods),
        spawner,
        Limits { message: MESSAGE, ..Limits::default() },
    );
    access.begin(&server).await;
    let signals = Signals::new([Signal::Term, Signal::Int])
        .map_err(|source| DaemonError::System { what: "listen to signals", source })?;
    host.spawn(end_on_signal(signals, events));
    ready.tell();
    let serving = async {
        let served = server.serve_unix(&listener).await;
        // Without its socket it is of no use: better a new one that says why.
        served.map_err(DaemonError::from)
    };
    let supervising = async {
        supervisor.run().await;
        Ok(())
    };
    let ended = futures_lite::future::or(supervising, serving).await;
    server.shutdown(GRACE).await;
    drop(listener);
    if let Err(error) = registry.close().await {
        tracing::error!(%error, "the last writes are not safe");
    }
    tracing::info!("ended");
    ended
}

/// A stack of a thousand services with its texts fits.
const MESSAGE: usize = 64 << 20;

async fn end_on_signal(mut signals: Signals, events: Sender<Event>) {
    if signals.next().await.is_some() {
        let _ = events.send(Event::Command(Command::End)).await;
    }
}

/// This build, as its zygote is named: another program gets another zygote.
pub(crate) fn build_id() -> String {
    let identity = std::fs::metadata("/proc/self/exe").map(|meta| {
        use std::os::unix::fs::MetadataExt;
        format!("{}-{}-{}-{}", meta.dev(), meta.ino(), meta.size(), meta.mtime_nsec())
    });
    let text = format!("{} {}", env!("CARGO_PKG_VERSION"), identity.unwrap_or_default());
    hex(&Sha256::digest(text.as_bytes()), 6)
}

fn seed(project_id: &str) -> u64 {
    let digest = Sha256::digest(project_id.as_bytes());
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

fn hex(bytes: &[u8], count: usize) -> String {
    bytes.iter().take(count).map(|byte| format!("{byte:02x}")).collect()
}

/// Where the starter waits for a word.
struct Ready(Option<std::fs::File>);

impl Ready {
    /// With `wanted`, standard input is the writing end of the starter's pipe; it is exchanged for `/dev/null`.
    fn new(wanted: bool) -> Self {
        let take = || {
            let pipe = std::io::stdin().as_fd().try_clone_to_owned()?;
            rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
            Ok::<_, std::io::Error>(pipe.into())
        };
        Self(if wanted { take().ok() } else { None })
    }

    fn is_background(&self) -> bool {
        self.0.is_some()
    }

    /// It answers.
    fn tell(&mut self) {
        if let Some(mut file) = self.0.take() {
            // Nobody waits any more: no reason to end.
            let _ = file.write_all(b"1");
        }
    }

    /// It can't run. A daemon that finds another one running says nothing: the starter connects to that one.
    fn refuse(&mut self, error: &DaemonError) {
        let Some(mut file) = self.0.take() else { return };
        if matches!(error, DaemonError::Lock(LockError::Held { .. })) {
            return;
        }
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        let _ = file.write_all(text.as_bytes());
    }
}

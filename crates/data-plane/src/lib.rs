//! Carries the bytes between services: listens where a table says, connects to a backend that serves, by a way that works.
//!
//! # Theory of operation
//!
//! ```text
//!  daemon ── table ──► control ──► tables ──► listeners ── dial ──► balance ──► ways ──► instance here
//!         ◄─ report ──                │                                          ├──► straight to another node
//!                                     └────► links ◄─── streams ─────────────────┴──► the data plane beside it
//! ```
//!
//! **It decides little.** A [`Table`](orchestrator::network::plane::Table) is complete and comes from elsewhere. Which of its backends
//! and ways is next is pure code (`forward::balance`, `ways::memory`); the rest is effects. The last table is kept on disk
//! and served at once by the next life, whoever is there to tell another or isn't.
//!
//! **A table is served at once or not at all.** One task opens and closes listeners; a connection takes its backend and the
//! ways to it from one table. Listeners that stay aren't touched, and connections go on to the backend that they have until
//! they end by themselves, also when it has left the table: who takes it away knows when it is drained.
//!
//! **A failure is somebody's.** The far data plane says whether the instance refused or the node can't be reached. The first
//! leads to another backend, the second to another way, both within the same connection and before a byte of it was read.
//!
//! **A link is one stream of bytes** (mostly ssh's), with streams in both directions in it (yamux). Tables go down and reports
//! come up; whoever didn't make it can't steer who did. What is silent for 15 s is dead.
//!
//! **Ambassadors hand in sockets.** In a container network a service's name leads to a process that does nothing but listen
//! there; its listening socket comes in through a socket of its own (`door`), and is served like a listener of the table.
//!
//! **What is broken off isn't passed on as an end**: a reset at one end is one at the other, except behind an end that was already
//! sent the other way over a link, where the multiplexer can't say so.

pub mod client;

mod ambassador;
mod control;
mod door;
mod folder;
mod forward;
mod lines;
mod link;
mod plane;
mod port;
mod tables;
mod task;
mod tunnels;
mod ways;
mod zone;

pub use ambassador::{Ambassador, AmbassadorError};

use folder::Folder;
use plane::Plane;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long work that can't be ended may go on at the end: a file that is being written.
const END: Duration = Duration::from_secs(1);

/// Threads that carry bytes: with two, one may encrypt while the other forwards. More are rarely worth the memory.
const WORKERS: usize = 2;

/// What a data plane needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its folder, for its socket and its last table. Made if it isn't there, and closed to other users.
    pub state: PathBuf,
    /// The node that it is for.
    pub node: String,
    /// The build of the program, for reports.
    pub build: String,
}

/// Why there is no data plane.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// The folder can't be used.
    #[error("{} can't be used for a data plane: it must be a folder of this user's", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process is the data plane of this folder.
    #[error("{} has a data plane already: end it first", path.display())]
    Running {
        /// The folder.
        path: PathBuf,
    },
    /// The socket can't be opened.
    #[error("the data plane's socket in {} can't be opened: look at the folder's permissions", path.display())]
    Socket {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The runtime can't be started.
    #[error("the data plane can't be started: look at the limits on open files and threads")]
    Runtime {
        /// What the system said.
        source: io::Error,
    },
}

/// Is the data plane of a node until it is told to end. Blocks.
///
/// # Errors
///
/// It can't be started; see [`PlaneError`].
pub fn run(options: Options) -> Result<(), PlaneError> {
    let path = options.state;
    let failed = |source| PlaneError::Folder { path: path.clone(), source };
    let folder = Arc::new(Folder::make(&path).map_err(failed)?);
    let Some(_lock) = folder.lock().map_err(failed)? else {
        return Err(PlaneError::Running { path });
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .map_err(|source| PlaneError::Runtime { source })?;
    let ended = runtime.block_on(serve(options.node, options.build, folder.clone()));
    runtime.shutdown_timeout(END);
    // Whoever finds no socket knows at once that nobody is there; the next life doesn't mind one that is left.
    let _ = std::fs::remove_file(folder.socket());
    let _ = std::fs::remove_file(folder.door_socket());
    ended.map_err(|source| PlaneError::Socket { path, source })
}

async fn serve(node: String, build: String, folder: Arc<Folder>) -> io::Result<()> {
    let (plane, requests) = Plane::new(node, build);
    let kept = folder.table().unwrap_or_else(|error| {
        tracing::warn!(%error, "the last table can't be read: serving none until one is told");
        None
    });
    let listener = control::bind(&folder)?;
    let door = door::bind(&folder)?;
    let (ready, served) = oneshot::channel();
    let tables = tables::own(plane.clone(), folder, kept, requests, ready);
    let clients = async {
        // Whoever connects finds the last table served. An error is the end of the other side of this join.
        let _ = served.await;
        let handed = door::receive(plane.clone(), door);
        let accepted = control::accept(plane.clone(), listener);
        tokio::join!(handed, accepted);
    };
    tokio::select! {
        () = tables => {}
        () = clients => {}
        () = plane.end.cancelled() => {}
    }
    Ok(())
}

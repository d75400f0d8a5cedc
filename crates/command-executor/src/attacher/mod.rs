//! Joins what already runs and was started by somebody else: sees whether it is there, shows what it logs, and
//! starts and stops it where that thing has a way to.
//!
//! [`LocalAttacher`] joins a process of this machine, by its pid file or by its name. The others ask through
//! [commands](crate::command::Command), in the place of their executor: [`ContainerAttacher`], [`ComposeAttacher`],
//! [`UnitAttacher`], and [`ManagedAttacher`] for what brings its own commands.

mod local;
mod procfs;

mod follow;

mod container;
mod managed;
mod unit;

pub use container::{ComposeAttacher, ContainerAttacher};
pub use follow::{AttachedLine, AttachedLines};
pub use local::{LocalAttacher, LocalTarget};
pub use managed::ManagedAttacher;
pub use unit::UnitAttacher;

use crate::command::Command;
use crate::executor::{ExecuteError, Executor, Finished};
use crate::keeper::ProcessIdentity;
use crate::launcher::Launcher;
use crate::process::ProcessError;
use crate::target::ManagedServiceError;
use crate::target::compose::ComposeError;
use crate::target::docker::DockerError;
use crate::target::systemd::SystemdError;
use futures_util::future::BoxFuture;
use rustix::process::Signal;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What an attacher sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachStatus {
    /// It runs.
    Running {
        /// Which process, where it is one of this machine.
        process: Option<ProcessIdentity>,
    },
    /// It doesn't.
    NotRunning {
        /// How that is known, for people: `the pid file isn't there`.
        reason: String,
    },
}

/// A thing that somebody else started.
///
/// What it has no way to do is [`AttachError::Unsupported`].
pub trait Attacher: Send + Sync {
    /// Whether it runs now.
    fn status(&self) -> BoxFuture<'_, Result<AttachStatus, AttachError>>;

    /// Waits until it doesn't run, without polling where the thing tells of its exit.
    fn exited(&self) -> BoxFuture<'_, Result<(), AttachError>>;

    /// The last lines that it logged, oldest first.
    fn logs(&self, lines: usize) -> BoxFuture<'_, Result<Vec<AttachedLine>, AttachError>>;

    /// The last lines that it logged, and those that it logs from then on.
    fn follow(&self, lines: usize) -> BoxFuture<'_, Result<AttachedLines, AttachError>>;

    /// Starts it. What Compose has to fetch for that may take any time: the bound is the caller's.
    fn start(&self) -> BoxFuture<'_, Result<(), AttachError>>;

    /// Asks it to stop, and ends it when it hasn't stopped after `grace`. Returns when it doesn't run.
    fn stop(&self, grace: Duration) -> BoxFuture<'_, Result<(), AttachError>>;
}

/// Why something couldn't be done with an attached thing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// It has no way to do that.
    #[error("{what} has no way to {operation}")]
    Unsupported {
        /// The thing.
        what: String,
        /// The verb.
        operation: &'static str,
    },
    /// The pid file can't be read.
    #[error("can't read the pid file {}", .path.display())]
    ReadPidFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pid file holds something else.
    #[error("the pid file {} holds no pid but {text:?}", .path.display())]
    PidFile {
        /// The file.
        path: PathBuf,
        /// The beginning of what it holds.
        text: String,
    },
    /// Several processes have the name, and none is the parent of the others.
    #[error("{} processes are named {name:?}, none of them the parent of the others: {pids:?}", .pids.len())]
    Ambiguous {
        /// The name.
        name: String,
        /// The processes.
        pids: Vec<i32>,
    },
    /// The processes of this machine can't be looked through.
    #[error("can't look up the processes of this machine")]
    Lookup {
        /// Why.
        source: io::Error,
    },
    /// Its exit can't be waited for.
    #[error("can't wait for process {pid}")]
    Wait {
        /// The process.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// It can't be signalled.
    #[error("can't send {signal:?} to process {pid}")]
    Signal {
        /// The process.
        pid: i32,
        /// The signal.
        signal: Signal,
        /// Why.
        source: io::Error,
    },
    /// It still runs after SIGKILL.
    #[error("process {pid} still runs {after:?} after SIGKILL")]
    Survived {
        /// The process.
        pid: i32,
        /// How long it was waited for.
        after: Duration,
    },
    /// A program that asks or acts for it didn't run to its end.
    #[error(transparent)]
    Run(#[from] ExecuteError),
    /// The program that fetches its log can't be followed.
    #[error("can't follow the log")]
    Follow {
        /// Why.
        source: ProcessError,
    },
    /// Docker didn't do it.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// Compose didn't do it.
    #[error(transparent)]
    Compose(#[from] ComposeError),
    /// Systemd didn't do it.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// Its own command didn't do it.
    #[error(transparent)]
    Managed(#[from] ManagedServiceError),
}

impl AttachError {
    /// What to do about it, where there is something to say that can be done.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Docker(error) => error.hint(),
            Self::Compose(error) => error.hint(),
            Self::Systemd(error) => error.hint(),
            _ => None,
        }
    }
}

async fn run<L: Launcher>(executor: &Executor<L>, command: &Command) -> Result<Finished, AttachError> {
    Ok(executor.run(command).await?)
}

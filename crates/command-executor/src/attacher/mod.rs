//! Joins what already runs and was started by somebody else: sees whether it is there, shows what it logs, and
//! starts and stops it where that thing has a way to.
//!
//! [`LocalAttacher`] joins a process of this machine, by its pid file or by its name. Attachers for containers and
//! units are files of this folder; they ask through [commands](crate::command::Command).

mod local;
mod procfs;

pub use local::{LocalAttacher, LocalTarget};

use crate::keeper::ProcessIdentity;
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

    /// The last lines that it logged, without line breaks, oldest first.
    fn logs(&self, lines: usize) -> BoxFuture<'_, Result<Vec<Vec<u8>>, AttachError>>;

    /// Starts it.
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
}

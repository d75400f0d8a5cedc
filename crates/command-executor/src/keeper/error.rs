//! Why something about keepers didn't work.

use super::{record::RecordError, socket::MAX_FRAME, spec::RunId, want::is_want};
use std::{io, path::PathBuf};
use thiserror::Error;

/// Why something about keepers didn't work.
#[derive(Debug, Error)]
pub enum KeeperError {
    /// This program can't be a zygote.
    #[error("this program doesn't call zygote_main() first in main, so it can't have keepers")]
    NoZygoteMain,
    /// The build's name can't be part of a file name.
    #[error("`{0}` can't be the name of a build")]
    InvalidBuild(String),
    /// The instance's name can't be the name of a folder.
    #[error("`{0}` can't be the name of an instance")]
    InvalidInstance(String),
    /// There is no program to run.
    #[error("instance {0} has no program to run")]
    NoProgram(String),
    /// The specification is too long.
    #[error("the arguments and environment of {0} are longer than {MAX_FRAME} bytes")]
    TooLong(String),
    /// The state folder can't be made or opened.
    #[error("cannot use the state folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket in the state folder can't be made.
    #[error("cannot make the socket {name}")]
    Socket {
        /// Its name in the folder.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The zygote can't be started.
    #[error("cannot start a zygote from {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Talking to the zygote failed; what was asked may or may not have happened.
    #[error("lost the zygote")]
    Zygote(#[source] io::Error),
    /// The keeper isn't there any more: the run is over, or its keeper was killed. Its record knows.
    #[error("run {run} of {instance} has no keeper any more")]
    KeeperGone {
        /// The instance.
        instance: String,
        /// The run.
        run: RunId,
    },
    /// The keeper doesn't answer.
    #[error("the keeper of {instance} doesn't take messages")]
    KeeperBusy {
        /// The instance.
        instance: String,
    },
    /// Sending to the keeper failed.
    #[error("cannot talk to the keeper of {instance}")]
    Control {
        /// The instance.
        instance: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its standard input can't be written to.
    #[error("cannot write to the standard input of {instance}")]
    Stdin {
        /// The instance.
        instance: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Receiving reports failed.
    #[error("cannot receive reports")]
    Reports(#[source] io::Error),
    /// Looking through processes or records failed.
    #[error("cannot look through {what}")]
    Scan {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record can't be read.
    #[error("cannot tell what became of a run")]
    Record(#[source] RecordError),
    /// Processes of the run can't be ended.
    #[error("processes of {instance} can't be ended: {pids:?}")]
    Left {
        /// The instance.
        instance: String,
        /// The processes.
        pids: Vec<i32>,
    },
}

impl KeeperError {
    /// Whether it failed for want of descriptors or memory, so that nothing is known and trying again may help.
    pub(super) fn is_want(&self) -> bool {
        match self {
            Self::Scan { source, .. } => is_want(source),
            Self::Record(error) => error.is_want(),
            _ => false,
        }
    }
}

//! Reads what keepers wrote.
//!
//! Logs never pass through the daemon: a keeper writes files, whoever wants to see them reads files. That works
//! without a daemon, for stopped instances, and while one is written to.
//!
//! ```text
//! STATE/instances/web-1/RUN.log      written now         (format: what a line looks like)
//!                       RUN.log.1    rotated last        (run: which files there are, by inode)
//!                       RUN.log.2    rotated before      (segment: one file, block by block, both ways)
//!                       RUN.json     start, exit, gaps   (keeper::record)
//! ```
//!
//! A source walks over all runs and files of one instance and can go on where it stopped; [`read`] merges
//! several by time and ends, [`Follower`] merges and waits.

pub mod format;

mod run;
mod segment;

mod source;
mod tail;

mod merge;

mod follow;

mod archive;
mod command;

pub use archive::Archive;
pub use command::{CommandLog, LineForm, LineJoiner, LogRecord};
pub use follow::Follower;
pub use format::Stream;
pub use merge::Lines;

use jiff::Timestamp;
use source::Source;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Instances, in the order that equal times are shown in. One that has no log is empty.
    pub instances: Vec<String>,
    /// Only the last lines of each instance, over all its runs. They are held in memory.
    pub tail: Option<usize>,
    /// Only lines of this time or later.
    pub since: Option<Timestamp>,
    /// Only lines of this time or earlier.
    pub until: Option<Timestamp>,
}

/// A line that an instance wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Who wrote it.
    pub instance: Arc<str>,
    /// When its beginning was read from the instance.
    pub time: Timestamp,
    /// From which of its outputs.
    pub stream: Stream,
    /// The bytes without the line break: any bytes, up to [`format::MAX_LINE`] of them.
    pub text: Vec<u8>,
    /// The run that wrote it.
    pub run: Arc<str>,
}

/// Why a log can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The name of an instance could lead out of the folder of instances.
    #[error("{instance:?} can't be the name of an instance")]
    Name {
        /// The name.
        instance: String,
    },
    /// The folder of an instance can't be listed.
    #[error("can't list the logs in {}", .path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A log file can't be opened.
    #[error("can't open the log {}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A log file can't be read.
    #[error("can't read the log {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder can't be watched for changes.
    #[error("can't watch {} for new log lines", .path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The lines that are there now, merged by time; what is written later isn't among them.
///
/// `state` is the folder that holds `instances/`. One block of each instance is in memory at a time, and one file of
/// each open.
///
/// # Errors
/// [`LogError::Name`], [`LogError::List`] or [`LogError::Open`] if an instance's log can't be opened. An error while
/// reading is an item of the iterator; it ends that instance only.
pub fn read(state: &Path, query: &LogQuery) -> Result<Lines, LogError> {
    let sources: Result<Vec<_>, LogError> =
        query.instances.iter().map(|instance| Source::open(state, instance, query, false)).collect();
    Ok(Lines::new(sources?))
}

/// The last lines of the latest run of an instance, oldest first: what it said before it failed.
///
/// # Errors
/// Those of [`read`].
pub fn last_lines(state: &Path, instance: &str, lines: usize) -> Result<Vec<LogLine>, LogError> {
    Lines::new(vec![Source::latest_run(state, instance, lines)?]).collect()
}

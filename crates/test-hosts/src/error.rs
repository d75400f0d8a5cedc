//! What can go wrong.

use std::path::PathBuf;

/// What can go wrong when a test asks for a host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This machine lacks something.
    #[error("{what}: {hint}")]
    Absent {
        /// What isn't there.
        what: String,
        /// What to do about it, a command if there is one.
        hint: String,
    },
    /// A host did not come up.
    #[error("the host {host} did not boot")]
    Boot {
        /// Its name.
        host: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// A program can't be started.
    #[error("`{command}` can't be started")]
    Start {
        /// The program and its arguments.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program did not end well; 124 and 137 mean that it took longer than its bound.
    #[error("`{command}` ended with {status}: {talk}")]
    Ended {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it wrote to standard error, and to standard output if that was nothing.
        talk: String,
    },
    /// A program printed something that can't be understood.
    #[error("`{command}` printed {printed:?}, which can't be understood")]
    Answer {
        /// The program and its arguments.
        command: String,
        /// What it printed.
        printed: String,
    },
    /// A file or folder of the test hosts' state.
    #[error("{} can't be {doing}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried, as a participle.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Every private subnet is taken or routed elsewhere.
    #[error("no private subnet is free on this machine")]
    NoSubnet,
    /// The test isn't in the group of those that boot hosts.
    #[error(
        "a test that boots hosts belongs in a module or a test binary named `hosts` (.config/nextest.toml)"
    )]
    Misplaced,
}

impl Error {
    /// Whether this is something that the machine lacks, rather than something that broke.
    pub fn is_lack(&self) -> bool {
        matches!(self, Error::Absent { .. } | Error::Boot { .. })
    }

    /// The error and its sources in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            text = format!("{text}: {source}");
            next = source.source();
        }
        text
    }
}

//! The log of something attached, as its client program prints it.

use super::AttachError;
use crate::command::Command;
use crate::executor::Executor;
use crate::launcher::Launcher;
use crate::log::{CommandLog, LineForm, LogRecord, Stream};
use crate::process::Exit;
use crate::target::ManagedServiceError;
use crate::target::docker::DockerError;
use crate::target::systemd::SystemdError;
use futures_util::future::select_all;
use jiff::Timestamp;
use std::collections::VecDeque;
use std::fmt;

/// A line that an attached thing wrote, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedLine {
    /// When whoever keeps it received it, if that is known.
    pub time: Option<Timestamp>,
    /// From which of its outputs, if that is known.
    pub stream: Option<Stream>,
    /// The bytes without the line break.
    pub text: Vec<u8>,
    /// Whether a line break followed. If not, the line goes on in the next one of the same output, or the output ended.
    pub complete: bool,
}

/// How a client prints.
pub(super) enum Decoder {
    /// `docker logs --timestamps`, each output on its own.
    Container,
    /// `journalctl -o json`.
    Journal,
    /// As it was written; the service of that name.
    Plain {
        /// For messages.
        name: String,
    },
}

/// The lines of something attached, as they are written. Dropping it ends the programs that fetch them.
///
/// It ends when the thing ends, where its keeper tells that (docker), and else never.
pub struct AttachedLines {
    sources: Vec<(CommandLog, Decoder)>,
    ready: VecDeque<AttachedLine>,
}

impl AttachedLines {
    pub(super) fn start<L: Launcher>(
        executor: &Executor<L>,
        clients: impl IntoIterator<Item = (Command, Decoder)>,
    ) -> Result<Self, AttachError> {
        let mut sources = Vec::new();
        for (command, decoder) in clients {
            let log = CommandLog::start(executor.launcher(), &command, decoder.form())
                .map_err(|error| AttachError::Run(error.into()))?;
            sources.push((log, decoder));
        }
        Ok(Self { sources, ready: VecDeque::new() })
    }

    /// The next line; `None` at the end. Cancelling it loses nothing.
    ///
    /// # Errors
    /// The client failed: one of [`AttachError`]. The rest can be read on.
    pub async fn next(&mut self) -> Result<Option<AttachedLine>, AttachError> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            if self.sources.is_empty() {
                return Ok(None);
            }
            let waiting = self.sources.iter_mut().map(|(log, _)| Box::pin(log.next()));
            let (records, which, _) = select_all(waiting).await;
            match (records, self.sources.get(which)) {
                (Ok(records), Some((_, decoder))) if !records.is_empty() => {
                    self.ready.extend(records.into_iter().map(|record| decoder.line(record)));
                }
                (Ok(_), _) => {
                    let (log, decoder) = self.sources.swap_remove(which);
                    decoder.verdict(&log)?;
                }
                (Err(source), _) => {
                    self.sources.swap_remove(which);
                    return Err(AttachError::Follow { source });
                }
            }
        }
    }

    /// All lines to the end, in the order of their times.
    pub(super) async fn collect(mut self) -> Result<Vec<AttachedLine>, AttachError> {
        let mut lines = Vec::new();
        while let Some(line) = self.next().await? {
            lines.push(line);
        }
        // Outputs come side by side; parts of a line have its time, and a stable sort keeps them together.
        lines.sort_by_key(|line| line.time);
        Ok(lines)
    }
}

impl Decoder {
    fn form(&self) -> LineForm {
        match self {
            Self::Container => LineForm::Container,
            Self::Journal => LineForm::Journal,
            Self::Plain { .. } => LineForm::Plain,
        }
    }

    /// Only what its keeper knows of a line: the journal doesn't keep the output, nobody the time of a plain line.
    fn line(&self, record: LogRecord) -> AttachedLine {
        let LogRecord { time, stream, partial, text } = record;
        AttachedLine {
            time: (!matches!(self, Self::Plain { .. })).then_some(time),
            stream: (!matches!(self, Self::Journal)).then_some(stream),
            text,
            complete: !partial,
        }
    }

    fn verdict(&self, log: &CommandLog) -> Result<(), AttachError> {
        let exit = log.exit().unwrap_or(Exit::Code(-1));
        if exit.is_success() {
            return Ok(());
        }
        let said = log.said();
        Err(match self {
            Self::Container => DockerError::classify(exit, &said).into(),
            Self::Journal => SystemdError::classify(exit, &said).into(),
            Self::Plain { name } => {
                let said = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
                ManagedServiceError::Failed { name: name.clone(), verb: "show the log of", exit, said }.into()
            }
        })
    }
}

impl fmt::Debug for AttachedLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttachedLines").field("sources", &self.sources.len()).finish_non_exhaustive()
    }
}

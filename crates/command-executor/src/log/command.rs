//! The log of something that somebody else keeps: what a command prints about it.
//!
//! `docker logs`, `journalctl` and commands of the user's own each have a form; here they become records like those of a
//! log file. Both outputs of a command are read as they come: records that are there at the same moment are put in the
//! order of their times.

use super::format::{Joiner, Record, Stream};
use super::{LogLine, format};
use crate::command::Command;
use crate::event::{Line, ProcessEvent};
use crate::launcher::{LaunchError, Launcher};
use crate::process::{Exit, ProcessError, ProcessEvents, ProcessHandle};
use crate::target::docker::ContainerLog;
use crate::target::systemd::{Journal, JournalLine};
use jiff::Timestamp;
use std::sync::Arc;

/// What a command's lines look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineForm {
    /// `docker logs --timestamps`: each of its outputs is the container's own.
    Container,
    /// What `journalctl --output=json` prints of a unit. The journal doesn't say which output a line is from.
    Journal,
    /// Records as a keeper writes them: what the harness of another machine prints of what is kept there.
    Records,
    /// Lines as they are. They have the time at which they are read, and those of standard error come as such.
    Plain,
}

/// A record that a command printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// When it was written, as far as that is known.
    pub time: Timestamp,
    /// From where.
    pub stream: Stream,
    /// Whether the line goes on in the next record of the same stream.
    pub partial: bool,
    /// The bytes, without line break.
    pub text: Vec<u8>,
}

/// Records that are given out at once, at most (and the rest of one read).
const BATCH: usize = 4096;

/// What a command prints, as records. Dropping it ends the command.
#[derive(Debug)]
pub struct CommandLog {
    _handle: ProcessHandle,
    events: ProcessEvents,
    reader: Reader,
    exit: Option<Exit>,
    said: Vec<u8>,
}

#[derive(Debug)]
enum Reader {
    Container { stdout: ContainerLog, stderr: ContainerLog, last: Timestamp },
    Journal(Journal),
    Records(format::Parser),
    Plain,
}

impl CommandLog {
    /// Starts the command.
    ///
    /// # Errors
    /// It didn't start.
    pub fn start(launcher: &impl Launcher, command: &Command, form: LineForm) -> Result<Self, LaunchError> {
        let (handle, events) = launcher.launch(command)?;
        let reader = match form {
            LineForm::Container => Reader::Container {
                stdout: ContainerLog::new(),
                stderr: ContainerLog::new(),
                last: Timestamp::UNIX_EPOCH,
            },
            LineForm::Journal => Reader::Journal(Journal::new()),
            LineForm::Records => Reader::Records(format::Parser::default()),
            LineForm::Plain => Reader::Plain,
        };
        Ok(Self { _handle: handle, events, reader, exit: None, said: Vec::new() })
    }

    /// The next records, at least one, earliest first; waits until there are some. None at all means that the command has
    /// ended. Cancelling it loses nothing.
    ///
    /// # Errors
    /// It can't be read on.
    pub async fn next(&mut self) -> Result<Vec<LogRecord>, ProcessError> {
        let mut records = Vec::new();
        while records.is_empty() && self.exit.is_none() {
            let event = self.events.next().await?;
            self.take(event, &mut records);
        }
        // What is there already belongs to the same moment.
        while records.len() < BATCH && self.exit.is_none() {
            let Some(event) = futures_lite::future::poll_once(self.events.next()).await else { break };
            self.take(event?, &mut records);
        }
        records.sort_by_key(|record| record.time);
        Ok(records)
    }

    /// How the command ended, once it has.
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// The last of what the client itself said on its standard error, where that can be told from what it was to print, else
    /// of all that it printed: why it failed.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said).trim().to_owned()
    }

    fn take(&mut self, event: Option<ProcessEvent>, records: &mut Vec<LogRecord>) {
        match event {
            Some(ProcessEvent::Started { .. }) => {}
            Some(ProcessEvent::Stdout(line)) => self.line(Stream::Stdout, &line, records),
            Some(ProcessEvent::Stderr(line)) => self.line(Stream::Stderr, &line, records),
            Some(ProcessEvent::Exited(exit)) => {
                self.reader.finish(records);
                self.exit = Some(exit);
            }
            None => self.exit = self.exit.or(Some(Exit::Code(-1))),
        }
    }
}

/// Bytes of what a client says that are kept.
const SAID: usize = 4096;

impl CommandLog {
    fn line(&mut self, stream: Stream, line: &Line, records: &mut Vec<LogRecord>) {
        if let Some(said) = self.reader.line(stream, line, records) {
            self.said.extend_from_slice(&said);
            self.said.push(b'\n');
            let over = self.said.len().saturating_sub(SAID);
            self.said.drain(..over);
        }
    }
}

impl Reader {
    /// Reads a line of the client's outputs. The answer: what the client itself says in it.
    fn line(&mut self, stream: Stream, line: &Line, records: &mut Vec<LogRecord>) -> Option<Vec<u8>> {
        match self {
            Self::Container { stdout, stderr, last } => {
                let log = if stream == Stream::Stdout { stdout } else { stderr };
                let mut own = None;
                for line in log.push(line) {
                    // Every line of a container has a time.
                    if line.time.is_none() && stream == Stream::Stderr {
                        own = Some(line.text);
                        continue;
                    }
                    *last = line.time.unwrap_or(*last);
                    records.push(LogRecord { time: *last, stream, partial: !line.complete, text: line.text });
                }
                return own;
            }
            // Standard error is journalctl's own.
            Self::Journal(journal) if stream == Stream::Stdout => {
                // What isn't an entry is left out; the next one can be read.
                if let Ok(Some(line)) = journal.push(line) {
                    let JournalLine { time, text, complete, .. } = line;
                    records.push(LogRecord { time, stream, partial: !complete, text });
                }
            }
            Self::Journal(_) => return Some(line.text.clone()),
            // Standard error is the other harness's own.
            Self::Records(parser) if stream == Stream::Stdout => match parser.parse(&line.text) {
                Some(Record { time, stream, partial, text }) => {
                    records.push(LogRecord { time, stream, partial, text: text.to_vec() });
                }
                // A login that talks.
                None => return Some(line.text.clone()),
            },
            Self::Records(_) => return Some(line.text.clone()),
            Self::Plain => {
                let (time, partial) = (Timestamp::now(), !line.complete);
                records.push(LogRecord { time, stream, partial, text: line.text.clone() });
                return Some(line.text.clone());
            }
        }
        None
    }

    fn finish(&mut self, records: &mut Vec<LogRecord>) {
        let Self::Container { stdout, stderr, last } = self else { return };
        for (stream, log) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            for line in log.finish() {
                let time = line.time.unwrap_or(*last);
                records.push(LogRecord { time, stream, partial: false, text: line.text });
            }
        }
    }
}

/// Puts records together to lines of an instance's run.
#[derive(Debug)]
pub struct LineJoiner {
    instance: Arc<str>,
    run: Arc<str>,
    joiner: Joiner,
}

impl LineJoiner {
    /// For that run of that instance.
    pub fn new(instance: impl Into<Arc<str>>, run: impl Into<Arc<str>>) -> Self {
        Self { instance: instance.into(), run: run.into(), joiner: Joiner::default() }
    }

    /// Takes a record; the line that it completes.
    pub fn push(&mut self, record: &LogRecord) -> Option<LogLine> {
        let LogRecord { time, stream, partial, text } = record;
        let record = Record { time: *time, stream: *stream, partial: *partial, text };
        let joined = self.joiner.push(&record)?;
        Some(self.line(joined))
    }

    /// What was begun and isn't complete, at the end.
    pub fn finish(&mut self) -> Vec<LogLine> {
        let rest: Vec<format::Joined> = self.joiner.finish().collect();
        rest.into_iter().map(|joined| self.line(joined)).collect()
    }

    fn line(&self, joined: format::Joined) -> LogLine {
        let format::Joined { time, stream, text } = joined;
        LogLine { instance: self.instance.clone(), time, stream, text, run: self.run.clone() }
    }
}

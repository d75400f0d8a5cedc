//! Lines of the journal.

use super::{Systemd, SystemdError, UnitName};
use crate::command::Command;
use crate::event::Line;
use jiff::Timestamp;
use serde_json::Value;

/// The longest entry that is put together: journald cuts messages at 48 KiB, and JSON writes a byte with up to six.
const ENTRY: usize = 1024 * 1024;
/// Fields that are read. The journal always adds time, cursor and boot.
const FIELDS: &str =
    "MESSAGE,PRIORITY,_PID,_LINE_BREAK,_SYSTEMD_INVOCATION_ID,INVOCATION_ID,USER_INVOCATION_ID";

/// Which part of a unit's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalOptions {
    /// Whether it goes on until it is ended.
    pub follow: bool,
    /// Where it begins.
    pub from: JournalRange,
    /// Only entries of this time or earlier.
    pub until: Option<Timestamp>,
    /// Only the last entries.
    pub tail: Option<usize>,
    /// Only entries of this run of the unit.
    pub invocation: Option<String>,
}

/// Where a part of a log begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum JournalRange {
    /// With the oldest that is kept.
    #[default]
    Oldest,
    /// With this time.
    Since(Timestamp),
    /// Behind the entry with this [cursor](JournalLine::cursor).
    After(String),
}

pub(super) fn command(manager: Systemd, unit: &UnitName, options: &JournalOptions) -> Command {
    let user = manager == Systemd::User;
    let mut words: Vec<String> = Vec::new();
    words.extend(user.then(|| "--user".to_owned()));
    // Without --all, long messages are left out.
    words.extend(["--output=json", "--all", "--no-pager"].map(str::to_owned));
    words.push(format!("--output-fields={FIELDS}"));
    match &options.from {
        JournalRange::Oldest => {}
        JournalRange::Since(time) => words.push(format!("--since={}", seconds(*time))),
        JournalRange::After(cursor) => words.push(format!("--after-cursor={cursor}")),
    }
    words.extend(options.until.map(|time| format!("--until={}", seconds(time))));
    match options.tail {
        Some(lines) => words.push(format!("--lines={lines}")),
        // Following would begin with the last ten.
        None => words.push("--lines=all".to_owned()),
    }
    words.extend(options.follow.then(|| "--follow".to_owned()));
    match &options.invocation {
        // What the unit wrote, or what the manager wrote about it.
        Some(run) => {
            let about = if user { "USER_INVOCATION_ID" } else { "INVOCATION_ID" };
            words.extend([format!("_SYSTEMD_INVOCATION_ID={run}"), "+".to_owned(), format!("{about}={run}")]);
        }
        None if user => words.push(format!("--user-unit={unit}")),
        None => words.push(format!("--unit={unit}")),
    }
    Command::new("journalctl").args(words)
}

/// Microseconds are what the journal has: a time between two of them begins with the next.
fn seconds(time: Timestamp) -> String {
    let micros = time.as_microsecond();
    format!("@{}.{:06}", micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000))
}

/// An entry of a unit's log: a line, or a part of one. The journal doesn't keep which output it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalLine {
    /// When journald received it.
    pub time: Timestamp,
    /// The bytes without the line break.
    pub text: Vec<u8>,
    /// Whether a line break followed. If not, the line goes on in the next entry of the same process, or the output
    /// ended.
    pub complete: bool,
    /// Which run of the unit.
    pub invocation: Option<String>,
    /// Which process wrote it.
    pub pid: Option<u32>,
    /// Syslog's level, 0 (emergency) to 7 (debug).
    pub priority: Option<u8>,
    /// Whether it is from the manager, about the unit: `Started …`.
    pub is_manager: bool,
    /// Its place, to go on from.
    pub cursor: String,
}

/// Reads the lines that [`SystemdService::logs`](super::SystemdService::logs) prints, as they come from its process.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    begun: Vec<u8>,
    too_long: bool,
}

impl Journal {
    /// At the beginning of an output.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a line, or a part of one; what became whole by it comes back.
    ///
    /// # Errors
    /// [`SystemdError::Answer`] if that is no entry, or is longer than any entry can be. The next one can be read.
    pub fn push(&mut self, line: &Line) -> Result<Option<JournalLine>, SystemdError> {
        if self.begun.len() + line.text.len() > ENTRY {
            self.too_long = true;
            self.begun.clear();
        }
        if !self.too_long {
            self.begun.extend_from_slice(&line.text);
        }
        if !line.complete {
            return Ok(None);
        }
        let entry = std::mem::take(&mut self.begun);
        if std::mem::take(&mut self.too_long) {
            return Err(unexpected());
        }
        if entry.trim_ascii().is_empty() {
            return Ok(None);
        }
        JournalLine::parse(&entry).map(Some)
    }
}

fn unexpected() -> SystemdError {
    SystemdError::Answer { what: "an entry of the journal" }
}

impl JournalLine {
    /// Reads one entry.
    ///
    /// # Errors
    /// [`SystemdError::Answer`].
    pub fn parse(entry: &[u8]) -> Result<Self, SystemdError> {
        let value: Value = serde_json::from_slice(entry).map_err(|_| unexpected())?;
        let text = |name: &str| value.get(name).and_then(last).and_then(Value::as_str);
        let micros = text("__REALTIME_TIMESTAMP").and_then(|micros| micros.parse().ok());
        let time = micros.and_then(|micros| Timestamp::from_microsecond(micros).ok());
        let own = text("_SYSTEMD_INVOCATION_ID");
        let about = text("INVOCATION_ID").or_else(|| text("USER_INVOCATION_ID"));
        Ok(Self {
            time: time.ok_or_else(unexpected)?,
            text: value.get("MESSAGE").and_then(message).unwrap_or_default(),
            complete: text("_LINE_BREAK").is_none(),
            invocation: about.or(own).map(str::to_owned),
            pid: text("_PID").and_then(|pid| pid.parse().ok()),
            priority: text("PRIORITY").and_then(|level| level.parse().ok()),
            is_manager: about.is_some(),
            cursor: text("__CURSOR").ok_or_else(unexpected)?.to_owned(),
        })
    }
}

/// A field that an entry has several times is a list of its values.
fn last(value: &Value) -> Option<&Value> {
    match value {
        Value::Array(values) => values.last(),
        value => Some(value),
    }
}

/// Text, or the numbers of bytes that are none, or a list of these where the field is there several times.
fn message(value: &Value) -> Option<Vec<u8>> {
    let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
    match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        Value::Array(values) if values.iter().all(Value::is_number) => values.iter().map(byte).collect(),
        Value::Array(values) => values.last().and_then(message_once),
        _ => None,
    }
}

/// As [`message`], no deeper.
fn message_once(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        Value::Array(values) => {
            values.iter().map(|value| value.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect()
        }
        _ => None,
    }
}

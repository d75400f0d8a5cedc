//! What keepers and the zygote say to the daemon, and what the daemon says to keepers: one datagram each.
//!
//! A message is a line of JSON with the version of the protocol. Both sides take the current version and the one before.

use super::{record::Exit, record::timestamp, spec::RunId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// The version of the protocol that is spoken; the one before is understood as well.
pub const PROTOCOL: u32 = 1;

/// Whether messages of that version are understood.
pub(super) fn is_understood(version: u32) -> bool {
    version == PROTOCOL || version.checked_add(1) == Some(PROTOCOL)
}

/// The longest datagram, in bytes.
pub(super) const MAX_DATAGRAM: usize = 16 << 10;

/// A step on the way to the running program, for the one that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartStage {
    /// The request for it couldn't be read.
    Request,
    /// Making the keeper process.
    Fork,
    /// Making the instance's folder or writing the run's record.
    Record,
    /// Opening its log.
    Log,
    /// Making its pipes, or the keeper's socket.
    Socket,
    /// Starting a session.
    Session,
    /// Joining the cgroup.
    Cgroup,
    /// Setting a resource limit.
    Rlimit,
    /// Setting the niceness.
    Nice,
    /// Getting a hosts file of its own.
    Names,
    /// Becoming the group.
    Group,
    /// Becoming the user.
    User,
    /// Entering the working directory.
    Cwd,
    /// Finding and executing the program.
    Exec,
}

impl fmt::Display for StartStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "reading the request",
            Self::Fork => "making a process",
            Self::Record => "writing the run record",
            Self::Log => "opening the log",
            Self::Socket => "making pipes and sockets",
            Self::Session => "starting a session",
            Self::Cgroup => "joining the cgroup",
            Self::Rlimit => "setting resource limits",
            Self::Nice => "setting the niceness",
            Self::Names => "giving it a hosts file of its own",
            Self::Group => "becoming the group",
            Self::User => "becoming the user",
            Self::Cwd => "entering the working directory",
            Self::Exec => "executing the program",
        })
    }
}

/// Something that became true of a run. The files say the same to those who come later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Exec succeeded.
    Started {
        /// The instance.
        instance: String,
        /// The run.
        run: RunId,
        /// The main process.
        pid: i32,
    },
    /// The program never ran; the run is over.
    StartFailed {
        /// The instance.
        instance: String,
        /// The run.
        run: RunId,
        /// The step that failed.
        stage: StartStage,
        /// The error number it failed with.
        errno: i32,
        /// What the step was about (a path, a name), and the error's text.
        message: String,
    },
    /// The program and all that it started are gone, its last output is in the log; the run is over.
    Exited {
        /// The instance.
        instance: String,
        /// The run.
        run: RunId,
        /// How the main process ended.
        exit: Exit,
        /// When it did.
        #[serde(with = "timestamp")]
        ended_at: Timestamp,
        /// Processes of its tree that couldn't be ended.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left: Vec<i32>,
    },
    /// The keeper was killed, and what it left has been ended; the run is over, its exit unknown.
    KeeperLost {
        /// The instance.
        instance: String,
        /// The run.
        run: RunId,
    },
    /// The zygote ended. Its keepers live on. A run that was handed to it and hasn't reported may or may not exist:
    /// [`super::Keepers::take_unheard_of`] names them.
    ZygoteLost,
}

impl Report {
    /// The run that it is about.
    pub(super) fn run(&self) -> Option<RunId> {
        match self {
            Self::Started { run, .. }
            | Self::StartFailed { run, .. }
            | Self::Exited { run, .. }
            | Self::KeeperLost { run, .. } => Some(*run),
            Self::ZygoteLost => None,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    v: u32,
    message: T,
}

/// The bytes of a message.
pub(super) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    encode_as(PROTOCOL, message)
}

/// The bytes of a message for one that speaks this version: the current one or the one before.
pub(super) fn encode_as<T: Serialize>(version: u32, message: &T) -> Vec<u8> {
    // Neither type can fail to become JSON: no maps with odd keys, no foreign Serialize.
    serde_json::to_vec(&Envelope { v: version, message }).unwrap_or_default()
}

/// The message in the bytes, if they are one that is understood.
pub(super) fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    let envelope: Envelope<T> = serde_json::from_slice(bytes).ok()?;
    is_understood(envelope.v).then_some(envelope.message)
}

/// How a run shall end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopRequest {
    /// The signal for the main process (only that one: what it started hears of it from it, or when it has ended).
    pub signal: i32,
    /// How long it may take before the whole tree is killed.
    pub timeout: Duration,
    /// Kill the whole tree at once instead.
    pub kill: bool,
}

/// What a keeper is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Control {
    Stop {
        signal: i32,
        timeout_ms: u64,
    },
    Kill,
    Signal {
        number: i32,
    },
    CloseStdin,
    /// The lease lasts until this time since boot.
    Lease {
        until_ms: u64,
    },
}

impl From<StopRequest> for Control {
    fn from(stop: StopRequest) -> Self {
        if stop.kill {
            return Self::Kill;
        }
        let timeout_ms = u64::try_from(stop.timeout.as_millis()).unwrap_or(u64::MAX);
        Self::Stop { signal: stop.signal, timeout_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way() {
        let run = RunId::generate();
        let report = Report::Started { instance: "web-1".into(), run, pid: 5 };
        assert_eq!(decode::<Report>(&encode(&report)), Some(report));
        assert_eq!(decode::<Report>(&encode(&Report::ZygoteLost)), Some(Report::ZygoteLost));
        for control in [
            Control::Kill,
            Control::Stop { signal: 15, timeout_ms: 10 },
            Control::CloseStdin,
            Control::Lease { until_ms: 7 },
        ] {
            assert_eq!(decode::<Control>(&encode(&control)), Some(control));
        }
    }

    #[test]
    fn samples_of_every_version_are_read() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/keeper");
        let reports = std::fs::read_to_string(folder.join("reports.v1.jsonl")).unwrap();
        for line in reports.lines() {
            assert!(decode::<Report>(line.as_bytes()).is_some(), "{line}");
        }
        let controls = std::fs::read_to_string(folder.join("controls.v1.jsonl")).unwrap();
        for line in controls.lines() {
            assert!(decode::<Control>(line.as_bytes()).is_some(), "{line}");
        }
    }

    #[test]
    fn other_versions_and_nonsense_are_not_understood() {
        assert_eq!(decode::<Control>(br#"{"v":9,"message":{"signal":{"number":1}}}"#), None);
        assert_eq!(decode::<Control>(b"\xff\x00"), None);
        assert_eq!(decode::<Control>(br#"{"v":1,"message":{"dance":{}}}"#), None);
    }
}

//! The state of an instance with its reason, and how it last ended.

use super::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// In which state an instance is, since when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Status {
    /// The state.
    pub state: State,
    /// When it came into this state.
    pub since: Timestamp,
    /// Why it is in this state, or what it waits for in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How it last ended; stays when it is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

impl Status {
    /// A status without reason and exit.
    pub fn new(state: State, since: Timestamp) -> Self {
        Self { state, since, reason: None, exit: None }
    }
}

/// Why an instance is in its state: a code for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Reason {
    /// For programs.
    pub code: ReasonCode,
    /// For people: `waiting for db to be healthy`.
    pub message: String,
}

impl Reason {
    /// A reason from its two parts.
    pub fn new(code: ReasonCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() { fmt::Display::fmt(&self.code, f) } else { f.write_str(&self.message) }
    }
}

/// The kinds of [`Reason`]. A code of a newer version is read as [`ReasonCode::Unknown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ReasonCode {
    /// A dependency isn't there yet.
    Waiting,
    /// A dependency failed before this could start.
    Blocked,
    /// Kept from starting until a dependency is back.
    Held,
    /// Not ready within its start-up time-out; still being waited for.
    Overdue,
    /// Waiting until it is tried again.
    Backoff,
    /// Tried as often as its policy allows.
    GaveUp,
    /// A task that ended well.
    Completed,
    /// Ended by itself with an exit code.
    Exited,
    /// Ended by a signal that nobody here sent.
    Signaled,
    /// Somebody asked for it to stop.
    StopRequested,
    /// Something is made ready for its start: an image is pulled.
    Preparing,
    /// Its program could not be executed.
    SpawnFailed,
    /// The process that kept it was killed.
    KeeperKilled,
    /// Its health checks fail.
    Unhealthy,
    /// Something that it needs failed.
    DependencyFailed,
    /// Something that it needs was started again.
    DependencyRestarted,
    /// Another version or configuration took its place.
    Replaced,
    /// It did not end, or not become ready, in time.
    TimedOut,
    /// Whoever registered it did not renew its lease.
    Lost,
    /// The node that it is to run on can't be reached; it is tried again.
    Unreachable,
    /// A code that this version doesn't know.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Held => "held",
            Self::Overdue => "overdue",
            Self::Backoff => "backoff",
            Self::GaveUp => "gave-up",
            Self::Completed => "completed",
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::StopRequested => "stop-requested",
            Self::Preparing => "preparing",
            Self::SpawnFailed => "spawn-failed",
            Self::KeeperKilled => "keeper-killed",
            Self::Unhealthy => "unhealthy",
            Self::DependencyFailed => "dependency-failed",
            Self::DependencyRestarted => "dependency-restarted",
            Self::Replaced => "replaced",
            Self::TimedOut => "timed-out",
            Self::Lost => "lost",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
        })
    }
}

/// How a process ended: exactly one of code, signal and unknown is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Exit {
    /// Its exit code, 0 to 255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The number of the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether it was ended for want of memory, besides its code or signal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_memory: bool,
    /// Nobody was there to see it; why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

impl Exit {
    /// It exited with this code.
    pub fn with_code(code: i32) -> Self {
        Self { code: Some(code), ..Self::default() }
    }

    /// This signal ended it.
    pub fn with_signal(signal: i32) -> Self {
        Self { signal: Some(signal), ..Self::default() }
    }

    /// It was ended for want of memory, and left this code.
    pub fn out_of_memory(code: i32) -> Self {
        Self { code: Some(code), out_of_memory: true, ..Self::default() }
    }

    /// Nobody saw it end, because of `why`.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self { unknown: Some(why.into()), ..Self::default() }
    }

    /// Whether it exited with code 0.
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }
}

/// Names of the signals 1 to 31 (signal(7), x86 and ARM).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.unknown {
            return write!(f, "unknown: {why}");
        }
        if let Some(signal) = self.signal {
            let name =
                usize::try_from(signal).ok().and_then(|n| n.checked_sub(1)).and_then(|n| SIGNALS.get(n));
            return match name {
                Some(name) => write!(f, "killed by SIG{name}"),
                None => write!(f, "killed by signal {signal}"),
            };
        }
        match self.code {
            Some(code) if self.out_of_memory => write!(f, "out of memory (exit code {code})"),
            Some(code) => write!(f, "exit code {code}"),
            None => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_reads_as_a_sentence() {
        for (exit, text) in [
            (Exit::with_code(3), "exit code 3"),
            (Exit::with_code(0), "exit code 0"),
            (Exit::with_signal(9), "killed by SIGKILL"),
            (Exit::with_signal(1), "killed by SIGHUP"),
            (Exit::with_signal(31), "killed by SIGSYS"),
            (Exit::with_signal(34), "killed by signal 34"),
            (Exit::with_signal(0), "killed by signal 0"),
            (Exit::with_signal(i32::MIN), "killed by signal -2147483648"),
            (Exit::unknown("keeper killed"), "unknown: keeper killed"),
            (Exit::default(), "unknown"),
        ] {
            assert_eq!(exit.to_string(), text);
        }
    }

    #[test]
    fn a_reason_of_a_newer_version_is_read_as_unknown() {
        let reason: Reason = serde_json::from_str(r#"{"code":"moon-phase","message":"full"}"#).unwrap();
        assert_eq!(reason, Reason::new(ReasonCode::Unknown, "full"));
        let known: ReasonCode = serde_json::from_str("\"keeper-killed\"").unwrap();
        assert_eq!(known, ReasonCode::KeeperKilled);
    }

    #[test]
    fn the_code_on_the_wire_is_the_code_on_the_screen() {
        use ReasonCode::*;
        for code in [
            Waiting,
            Blocked,
            Held,
            Overdue,
            Backoff,
            GaveUp,
            Completed,
            Exited,
            Signaled,
            StopRequested,
            Preparing,
            SpawnFailed,
            KeeperKilled,
            Unhealthy,
            DependencyFailed,
            DependencyRestarted,
            Replaced,
            TimedOut,
            Lost,
            Unknown,
        ] {
            assert_eq!(serde_json::to_value(code).unwrap(), code.to_string());
        }
    }
}

//! What an engine tells while it happens.

use super::json::{self, at, text};
use super::{DockerError, HealthStatus};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// When, by the engine's clock, in nanoseconds since 1970.
    pub time_nano: i64,
    /// What.
    pub action: ContainerAction,
    /// The container's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its labels. Docker mixes in what it says about the event, for example `exitCode` and `image`.
    pub labels: BTreeMap<String, String>,
}

/// What happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerAction {
    /// It was made.
    Create,
    /// It was started.
    Start,
    /// It ended.
    Die {
        /// The exit code, or 128 and the number of the signal that ended it.
        exit_code: Option<i32>,
    },
    /// One of its processes was killed for want of memory; podman doesn't tell.
    Oom,
    /// The verdict of its own health check changed, or (podman) was found again.
    Health(HealthStatus),
    /// It was sent a signal, by its number if docker says so.
    Kill {
        /// The signal.
        signal: Option<i32>,
    },
    /// Somebody stopped it.
    Stop,
    /// It was removed.
    Destroy,
    /// It was frozen.
    Pause,
    /// It runs on.
    Unpause,
    /// Something else, by docker's word for it.
    Other(String),
}

impl ContainerEvent {
    /// Reads a line that [`Docker::events`](super::Docker::events) printed; `None` if it isn't about a container.
    ///
    /// # Errors
    /// [`DockerError::Answer`].
    pub fn parse(line: &[u8]) -> Result<Option<Self>, DockerError> {
        let value = json::document(line, "an event")?;
        if text(&value, &["/Type"]).is_some_and(|kind| kind != "container") {
            return Ok(None);
        }
        let need = |paths: &[&str]| text(&value, paths).ok_or_else(|| DockerError::unexpected("an event"));
        let labels = json::texts(&value, &["/Actor/Attributes", "/Attributes"]);
        let word = need(&["/Action", "/Status", "/status"])?;
        Ok(Some(Self {
            time_nano: time(&value).ok_or_else(|| DockerError::unexpected("an event's time"))?,
            action: action(&word, &value, &labels),
            id: need(&["/Actor/ID", "/id", "/ID"])?,
            name: labels.get("name").cloned().or_else(|| text(&value, &["/Name"])).unwrap_or_default(),
            labels,
        }))
    }

    /// When, as a time.
    pub fn time(&self) -> Timestamp {
        Timestamp::from_nanosecond(self.time_nano.into()).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

fn action(word: &str, value: &Value, labels: &BTreeMap<String, String>) -> ContainerAction {
    let number = |name: &str| labels.get(name).and_then(|text| text.parse().ok());
    // Docker writes "health_status: healthy"; podman has the verdict in a field of its own.
    let (word, detail) = word.split_once(": ").unwrap_or((word, ""));
    match word {
        "create" => ContainerAction::Create,
        "start" => ContainerAction::Start,
        "die" | "died" => {
            let podman = at(value, &["/ContainerExitCode"]).and_then(Value::as_i64);
            let podman = podman.and_then(|code| i32::try_from(code).ok());
            ContainerAction::Die { exit_code: number("exitCode").or(number("containerExitCode")).or(podman) }
        }
        "oom" => ContainerAction::Oom,
        "health_status" => {
            let verdict =
                text(value, &["/HealthStatus", "/health_status"]).unwrap_or_else(|| detail.to_owned());
            HealthStatus::parse(&verdict).map_or_else(|| other(word, detail), ContainerAction::Health)
        }
        "kill" => ContainerAction::Kill { signal: number("signal") },
        "stop" => ContainerAction::Stop,
        "destroy" | "remove" => ContainerAction::Destroy,
        "pause" => ContainerAction::Pause,
        "unpause" => ContainerAction::Unpause,
        _ => other(word, detail),
    }
}

fn other(word: &str, detail: &str) -> ContainerAction {
    ContainerAction::Other(if detail.is_empty() { word.to_owned() } else { format!("{word}: {detail}") })
}

fn time(value: &Value) -> Option<i64> {
    if let Some(nanoseconds) = at(value, &["/timeNano", "/TimeNano"]).and_then(Value::as_i64) {
        return Some(nanoseconds);
    }
    if let Some(seconds) = at(value, &["/time", "/Time"]).and_then(Value::as_i64) {
        return seconds.checked_mul(1_000_000_000);
    }
    let time: Timestamp = text(value, &["/Time"])?.parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}

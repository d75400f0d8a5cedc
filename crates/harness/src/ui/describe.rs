//! An instance in words: the one vocabulary of status, start, stop and events.

use super::style;
use anstyle::Style;
use service_registry::model::{Entry, Health, HealthStatus, ReasonCode, State};
use std::collections::HashMap;

/// A symbol and a word for the state of an instance, and the colour they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// `✓`, `●`, `○` or `✗`.
    pub(crate) symbol: &'static str,
    /// `running`, `waiting`, `completed`, …
    pub(crate) word: &'static str,
    /// Colour of both.
    pub(crate) style: Style,
}

impl Look {
    /// Symbol and word, coloured.
    pub(crate) fn painted(&self) -> String {
        style::paint(self.style, format_args!("{} {}", self.symbol, self.word))
    }
}

/// How the state of this instance looks.
pub(crate) fn look(entry: &Entry) -> Look {
    if entry.lost_since.is_some() {
        return Look { symbol: "✗", word: "lost", style: style::ERROR };
    }
    let code = entry.status.reason.as_ref().map(|reason| reason.code);
    let (symbol, word, style) = match (entry.status.state, code) {
        (_, Some(ReasonCode::Lost)) => ("✗", "lost", style::ERROR),
        (State::Running, _) if health(entry.health.as_ref()) == "unhealthy" => ("✗", "running", style::ERROR),
        (State::Running, _) => ("✓", "running", style::GOOD),
        (State::Stopping, _) => ("●", "stopping", style::BUSY),
        (_, Some(ReasonCode::Completed)) => ("✓", "completed", style::GOOD),
        (_, Some(ReasonCode::Waiting)) => ("●", "waiting", style::BUSY),
        (_, Some(ReasonCode::Blocked | ReasonCode::DependencyFailed)) => ("✗", "blocked", style::ERROR),
        (_, Some(ReasonCode::Unreachable)) => ("✗", "unreachable", style::ERROR),
        (_, Some(ReasonCode::Held)) => ("○", "held", style::WARNING),
        (_, Some(ReasonCode::Backoff)) => ("✗", "backoff", style::ERROR),
        (State::Starting, Some(ReasonCode::Overdue)) => ("●", "starting (overdue)", style::WARNING),
        (State::Starting, _) => ("●", "starting", style::BUSY),
        (State::Registered, _) => ("○", "registered", style::DIM),
        (State::Stopped, _) => ("○", "stopped", style::DIM),
        (State::Failed, _) => ("✗", "failed", style::ERROR),
    };
    Look { symbol, word, style }
}

/// `healthy`, `unhealthy`, `unknown`, or nothing where there is no check.
pub(crate) fn health(health: Option<&Health>) -> &'static str {
    match health.map(|health| health.status) {
        None => "",
        Some(HealthStatus::Unknown) => "unknown",
        Some(HealthStatus::Healthy) => "healthy",
        Some(HealthStatus::Unhealthy) => "unhealthy",
    }
}

/// Why it is in its state, with how it ended and what its last check said; empty when there is nothing to add.
pub(crate) fn reason(entry: &Entry) -> String {
    let mut parts: Vec<String> = Vec::new();
    if let Some(since) = entry.lost_since {
        let since = since.strftime("%F %T UTC");
        parts.push(format!("{} when node {} was last heard, at {since}", entry.status.state, entry.location));
    }
    let ended = matches!(entry.status.state, State::Failed | State::Stopped);
    if let Some(reason) = &entry.status.reason {
        let plain = matches!(reason.code, ReasonCode::Completed | ReasonCode::StopRequested);
        if !plain && !reason.message.is_empty() {
            parts.push(reason.message.clone());
        }
    }
    // How it ended before is old news while it waits or where it can't even start, and no news after it was asked to stop.
    let code = entry.status.reason.as_ref().map(|reason| reason.code);
    let stale = matches!(
        code,
        Some(
            ReasonCode::Waiting
                | ReasonCode::Blocked
                | ReasonCode::Unreachable
                | ReasonCode::Held
                | ReasonCode::StopRequested
                | ReasonCode::SpawnFailed
        )
    );
    if let Some(exit) = entry.status.exit.as_ref().filter(|exit| ended && !stale && !exit.is_success()) {
        let told = exit.to_string();
        let code = exit.code.map_or_else(|| told.clone(), |code| format!("code {code}"));
        if !parts.iter().any(|part| part.contains(&told) || part.contains(&code)) {
            parts.push(told);
        }
    }
    if !entry.stale.is_empty() {
        parts.push(format!("stale: {}", entry.stale.join(", ")));
    }
    // While it starts, failures don't count yet; still they are what it is waited for.
    let starting = entry.status.state == State::Starting;
    let bad = entry.health.as_ref().filter(|health| starting || health.status == HealthStatus::Unhealthy);
    if let Some(last) = bad.and_then(|health| health.last.as_ref()).filter(|last| !last.ok)
        && !parts.iter().any(|part| part.contains(&last.message))
    {
        parts.push(last.message.clone());
    }
    parts.join("; ").replace(['\n', '\r', '\u{1b}'], " ")
}

/// The names that people see: an instance that is the only one of its service goes by the service's name.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    count: HashMap<String, usize>,
}

impl Labels {
    /// For a listing with these instances, each given as its service and its own name.
    pub(crate) fn new<'a>(instances: impl IntoIterator<Item = &'a str>) -> Self {
        let mut count = HashMap::new();
        for service in instances {
            *count.entry(service.to_owned()).or_insert(0) += 1;
        }
        Self { count }
    }

    /// What this instance is called.
    pub(crate) fn of<'a>(&self, service: &'a str, instance: &'a str) -> &'a str {
        let alone = self.count.get(service).is_none_or(|count| *count == 1);
        if alone && instance.strip_prefix(service) == Some("-1") { service } else { instance }
    }
}

/// `1 service`, `2 services`.
pub(crate) fn count(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_registry::model::{Exit, Reason};

    fn entry(state: State, code: Option<ReasonCode>) -> Entry {
        let mut entry = Entry::new("web", "web-1", jiff::Timestamp::UNIX_EPOCH);
        entry.status.state = state;
        entry.status.reason = code.map(|code| Reason::new(code, "because"));
        entry
    }

    #[test]
    fn every_state_has_a_word() {
        for (state, code, word) in [
            (State::Registered, Some(ReasonCode::Waiting), "● waiting"),
            (State::Registered, None, "○ registered"),
            (State::Registered, Some(ReasonCode::Blocked), "✗ blocked"),
            (State::Starting, None, "● starting"),
            (State::Starting, Some(ReasonCode::Overdue), "● starting (overdue)"),
            (State::Running, Some(ReasonCode::Lost), "✗ lost"),
            (State::Running, None, "✓ running"),
            (State::Stopping, Some(ReasonCode::StopRequested), "● stopping"),
            (State::Stopped, Some(ReasonCode::Completed), "✓ completed"),
            (State::Stopped, Some(ReasonCode::StopRequested), "○ stopped"),
            (State::Failed, Some(ReasonCode::Backoff), "✗ backoff"),
            (State::Failed, Some(ReasonCode::GaveUp), "✗ failed"),
        ] {
            let look = look(&entry(state, code));
            assert_eq!(format!("{} {}", look.symbol, look.word), word, "{state:?} {code:?}");
        }
    }

    #[test]
    fn a_reason_names_the_exit_once() {
        let mut failed = entry(State::Failed, Some(ReasonCode::GaveUp));
        failed.status.exit = Some(Exit::with_code(3));
        assert_eq!(reason(&failed), "because; exit code 3");
        failed.status.reason = Some(Reason::new(ReasonCode::Exited, "exited with code 3"));
        assert_eq!(reason(&failed), "exited with code 3");
        assert_eq!(reason(&entry(State::Stopped, Some(ReasonCode::StopRequested))), "");
        failed.status.reason = Some(Reason::new(ReasonCode::SpawnFailed, "port 80 is in use"));
        assert_eq!(reason(&failed), "port 80 is in use", "the exit is that of an earlier run");
    }

    #[test]
    fn a_lone_instance_goes_by_its_service() {
        let labels = Labels::new(["web", "web", "db"]);
        assert_eq!(labels.of("web", "web-1"), "web-1");
        assert_eq!(labels.of("db", "db-1"), "db");
        assert_eq!(labels.of("db", "db-2"), "db-2");
    }
}

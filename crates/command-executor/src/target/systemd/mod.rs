//! Units of systemd, through `systemctl` and `journalctl`.
//!
//! ```text
//! SystemdService ── start, stop, restart, kill ──► systemctl ──► check ──► SystemdError
//!       ├── status, Systemd::status ──► systemctl show ──► UnitState
//!       └── logs ──► journalctl -o json ──► Journal ──► JournalLine
//! ```
//!
//! A unit that isn't there, is masked or has failed is a [state](UnitState), no error: `systemctl show` answers for
//! every name. There is no way to run a command in a unit.

mod state;

mod journal;

mod error;

pub use error::{SystemdError, check};
pub use journal::{Journal, JournalLine, JournalOptions, JournalRange};
pub use state::{ActiveState, LoadState, UnitState};

use crate::command::Command;
use std::time::Duration;

/// How long a question may take.
const QUERY: Duration = Duration::from_secs(30);
/// How long a job is waited for unless said otherwise: more than systemd itself gives a start or a stop (90 s each).
const PATIENCE: Duration = Duration::from_secs(300);

/// The ends of a unit's name.
const KINDS: [&str; 11] = [
    ".service",
    ".socket",
    ".device",
    ".mount",
    ".automount",
    ".swap",
    ".target",
    ".path",
    ".timer",
    ".slice",
    ".scope",
];

/// Which manager keeps the units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Systemd {
    /// The machine's.
    #[default]
    System,
    /// That of the user who asks.
    User,
}

impl Systemd {
    fn systemctl<'a>(self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let user = (self == Self::User).then_some("--user");
        Command::new("systemctl").args(user).args(["--no-ask-password", "--no-pager"]).args(words)
    }

    /// Looks at several units at once: [`UnitState::parse`] has them in the same order.
    pub fn status<'a>(self, units: impl IntoIterator<Item = &'a UnitName>) -> Command {
        // Times are written for the place where they are read.
        let command = self.systemctl(["show", "--property", state::PROPERTIES, "--"]).env("TZ", "UTC");
        command.args(units.into_iter().map(|unit| unit.0.as_str())).timeout(QUERY)
    }

    /// Makes systemd read its unit files again.
    pub fn reload(self) -> Command {
        self.systemctl(["daemon-reload"]).timeout(PATIENCE)
    }

    /// Tells whether the manager is up: `running`, or `degraded` where some unit has failed; the exit is bad for the
    /// latter.
    pub fn is_running(self) -> Command {
        self.systemctl(["is-system-running"]).timeout(QUERY)
    }
}

/// The name of one unit, with its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitName(String);

/// The text can't be the name of a unit that is started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} can't be the name of a unit: {why}")]
pub struct UnitNameError {
    /// The text.
    pub name: String,
    /// Why, for people.
    pub why: &'static str,
}

impl UnitName {
    /// Checks a name; one without a kind is a service's, as for `systemctl`.
    ///
    /// # Errors
    /// [`UnitNameError`], also for patterns and for templates without an instance.
    pub fn new(name: &str) -> Result<Self, UnitNameError> {
        let refuse = |why| Err(UnitNameError { name: name.to_owned(), why });
        let is_allowed =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
        if name.is_empty() || !name.chars().all(is_allowed) {
            return refuse("only letters, digits and : - _ . \\ @ may stand in it");
        }
        let stem = KINDS.iter().find_map(|kind| name.strip_suffix(kind));
        if stem.unwrap_or(name).ends_with('@') {
            return refuse("a template needs an instance: NAME@INSTANCE");
        }
        if stem.is_some_and(str::is_empty) || name.starts_with(['@', '-']) {
            return refuse("something has to stand before its kind");
        }
        let full = if stem.is_some() { name.to_owned() } else { format!("{name}.service") };
        if full.len() > 255 {
            return refuse("it is longer than 255 bytes");
        }
        Ok(Self(full))
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its kind.
    pub fn stem(&self) -> &str {
        self.0.rsplit_once('.').map_or(&self.0, |(stem, _)| stem)
    }
}

impl std::fmt::Display for UnitName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A unit that systemd keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemdService {
    /// Its name.
    pub unit: UnitName,
    /// Who keeps it.
    pub manager: Systemd,
    /// How long a job may be waited for. Then only the waiting ends; systemd goes on with it.
    pub patience: Duration,
}

impl SystemdService {
    /// A unit of the machine's manager.
    ///
    /// # Errors
    /// [`UnitNameError`].
    pub fn new(unit: &str) -> Result<Self, UnitNameError> {
        Ok(Self { unit: UnitName::new(unit)?, manager: Systemd::System, patience: PATIENCE })
    }

    /// The same of the user's own manager.
    #[must_use]
    pub fn of_user(mut self) -> Self {
        self.manager = Systemd::User;
        self
    }

    fn verb<'a>(&'a self, words: impl IntoIterator<Item = &'a str>) -> Command {
        self.manager.systemctl(words).args(["--", self.unit.as_str()])
    }

    /// Starts it and waits until systemd calls it started, which for a simple service says little. One that is active is
    /// left as it is.
    pub fn start(&self) -> Command {
        self.verb(["start"]).timeout(self.patience)
    }

    /// Stops it and waits for that; systemd kills what doesn't end within the unit's own time.
    pub fn stop(&self) -> Command {
        self.verb(["stop"]).timeout(self.patience)
    }

    /// Stops it if it is active, and starts it.
    pub fn restart(&self) -> Command {
        self.verb(["restart"]).timeout(self.patience)
    }

    /// Sends a signal, by its number, to all its processes.
    pub fn kill(&self, signal: i32) -> Command {
        self.verb(["kill", "--signal", &signal.to_string()]).timeout(QUERY)
    }

    /// Forgets that it failed, and how often it was started.
    pub fn reset_failed(&self) -> Command {
        self.verb(["reset-failed"]).timeout(QUERY)
    }

    /// Looks at it: [`UnitState::parse_one`].
    pub fn status(&self) -> Command {
        self.manager.status([&self.unit])
    }

    /// Prints what it logged: [`Journal`].
    pub fn logs(&self, options: &JournalOptions) -> Command {
        journal::command(self.manager, &self.unit, options)
    }
}

#[cfg(test)]
mod tests;

//! The states of an instance and the ways between them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where an instance is in its life.
///
/// ```text
///                   ┌──────────────────────────────┐
///                   ▼                              │
/// registered ──► starting ──► running ──► stopping │
///     │           │    │      │  │  │      │    │  │
///     │           │    └──────┼──┼──┴──►   │    │  │      starting may also go straight to stopping
///     │           │           │  │         │    │  │
///     │           ▼           ▼  │         ▼    │  │
///     │         failed ◄──────┴──┼─────────┘    │  │
///     │           │              ▼              │  │
///     └───────────┼────────► stopped ◄──────────┘  │
///                 │              │                 │
///                 └──────────────┴─────────────────┘
/// ```
///
/// | from | to |
/// |---|---|
/// | registered | starting, stopped |
/// | starting | running, stopping, failed |
/// | running | stopping, stopped (its own exit), failed |
/// | stopping | stopped, failed |
/// | stopped, failed | starting |
///
/// Waiting, blocked, backing off and completed are no states but a [`super::Reason`] that the state carries; health
/// stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Known, never started.
    Registered,
    /// Being started, or started and not yet ready.
    Starting,
    /// Ready.
    Running,
    /// Asked to end, not yet gone.
    Stopping,
    /// Gone, as was wanted or with an exit of its own that counts as success.
    Stopped,
    /// Gone, or never come, against what was wanted.
    Failed,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 6] =
        [Self::Registered, Self::Starting, Self::Running, Self::Stopping, Self::Stopped, Self::Failed];

    /// Whether an instance in this state may be in `to` next. Staying is no change: `can_become(self, self)` is false.
    pub fn can_become(self, to: Self) -> bool {
        use State::{Failed, Registered, Running, Starting, Stopped, Stopping};
        match self {
            Registered => matches!(to, Starting | Stopped),
            Starting => matches!(to, Running | Stopping | Failed),
            Running => matches!(to, Stopping | Stopped | Failed),
            Stopping => matches!(to, Stopped | Failed),
            Stopped | Failed => to == Starting,
        }
    }

    /// The word of this state, as on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::State::{self, *};

    #[test]
    fn every_pair_of_states_is_allowed_or_not_as_the_table_says() {
        // rows: from, columns: to, in the order of State::ALL
        let table = [
            (Registered, [false, true, false, false, true, false]),
            (Starting, [false, false, true, true, false, true]),
            (Running, [false, false, false, true, true, true]),
            (Stopping, [false, false, false, false, true, true]),
            (Stopped, [false, true, false, false, false, false]),
            (Failed, [false, true, false, false, false, false]),
        ];
        assert_eq!(table.map(|(from, _)| from), State::ALL);
        for (from, row) in table {
            for (to, allowed) in State::ALL.into_iter().zip(row) {
                assert_eq!(from.can_become(to), allowed, "{from} → {to}");
            }
        }
    }

    #[test]
    fn the_word_on_the_wire_is_the_word_on_the_screen() {
        for state in State::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.to_string());
        }
        assert_eq!(format!("{:<8}|", Failed), "failed  |");
    }
}

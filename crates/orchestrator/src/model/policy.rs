//! What to do when something happens: dependencies, restarts, rollouts, scaling.

use super::ServiceName;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One edge of the graph: `web` needs `db`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// What must be true of it before the dependent may start.
    pub condition: Condition,
    /// Whether the file names it, or a reference or a template's default implies it.
    pub implied: bool,
}

/// What must be true of a dependency before its dependent may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// It was started: exec succeeded.
    Started,
    /// Its health check says healthy.
    Healthy,
    /// It ended with exit code 0.
    Completed,
    /// Nothing: an address is wanted, no order.
    None,
}

/// When an instance that ended is started again, and how fast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// When.
    pub policy: RestartPolicy,
    /// Quick deaths in a row after which it is given up; `None` is never.
    pub max_retries: Option<u32>,
    /// How long to wait after a quick death.
    pub backoff: Backoff,
    /// An instance that ran this long was stable: it is replaced at once, and the count of quick deaths begins anew.
    pub reset_after: Duration,
}

/// When an instance that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    No,
    /// Always, until it is stopped.
    Always,
    /// After an exit code other than 0, a signal, or an unhealthy verdict that asks for it.
    OnFailure,
    /// Like `Always`, and remembered over a reboot.
    UnlessStopped,
}

/// Exponential delay: `initial`, doubled each time, at most `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// The delay after the first quick death.
    pub initial: Duration,
    /// The longest delay.
    pub max: Duration,
}

impl Backoff {
    /// The delay after `deaths` quick deaths in a row (from 1).
    pub fn delay(&self, deaths: u32) -> Duration {
        let factor = 1u32.checked_shl(deaths.saturating_sub(1)).filter(|_| deaths <= 31).unwrap_or(u32::MAX);
        self.initial.saturating_mul(factor).min(self.max)
    }
}

/// What happens to an instance when a dependency fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDependencyFailure {
    /// It is stopped, and started again when the dependency is back.
    Restart,
    /// It is stopped and held until the dependency is back and someone starts it; before its first start it waits.
    Hold,
    /// It goes on; before its first start it waits.
    Ignore,
}

/// What happens to an instance when a value that it was given changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDependencyChange {
    /// It is shown as stale.
    Ignore,
    /// It is restarted.
    Restart,
}

/// What happens to an instance that is unhealthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnhealthy {
    /// It is shown.
    Ignore,
    /// It is restarted, as its restart policy's backoff allows.
    Restart,
}

/// What happens to an instance whose node is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNodeLoss {
    /// It stays assigned to that node.
    Keep,
    /// It is started elsewhere once its lease there is surely over.
    Reschedule,
}

/// How a new version replaces an old one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// The way.
    pub strategy: Strategy,
    /// Instances replaced at the same time, at least 1.
    pub max_parallel: u32,
    /// Whether a failed deployment is taken back.
    pub rollback_on_failure: bool,
    /// Keys that only some strategies read, as the file has them.
    pub options: IndexMap<String, String>,
}

/// The ways of [`Deployment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Stop the old, start the new.
    Recreate,
    /// One after the other.
    Rolling,
    /// All new beside all old, then switch.
    BlueGreen,
    /// A few new first.
    Canary,
}

/// How many replicas there should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// At least.
    pub min: u32,
    /// At most.
    pub max: u32,
    /// What is measured.
    pub metric: String,
    /// The value to hold.
    pub target: f64,
    /// Keys that only some metrics read, as the file has them.
    pub options: IndexMap<String, String>,
}

/// The dependencies of a service, in the file's order.
pub(crate) type Dependencies = IndexMap<ServiceName, Dependency>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_its_limit_and_never_overflows() {
        let backoff = Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(30) };
        let delays: Vec<u128> =
            [1, 2, 3, 9, 10, 40, u32::MAX].iter().map(|n| backoff.delay(*n).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 25_600, 30_000, 30_000, 30_000]);
    }
}

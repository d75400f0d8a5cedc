//! What is next, now? A pure function of what is wanted, what was seen, and the time.
//!
//! [`plan_stack`] looks at the whole stack: which instance goes where, what gates what, in which order things stop. Its
//! answer is one [`Assignment`] per instance. [`plan_node`] looks at the assignments of one node: what to start, probe,
//! restart and stop there. A node that is cut off goes on with its last assignments alone. [`plan`] is both, one after
//! the other, as on a single machine.
//!
//! Level-triggered: called after every event, it remembers nothing and may change its mind. That no step is issued twice
//! is because issuing one changes what is observed ([`Observed::issue_start`] and its siblings).

mod node;
mod place;
mod simulate;
mod stack;
#[cfg(test)]
mod tests;

pub use node::plan_node;
pub use place::{Unplaced, allowed, fits, node_named, place};
pub use simulate::simulate;
pub use stack::plan_stack;
pub(crate) use stack::{FORGOTTEN, comes_back};

use crate::model::{InstanceName, Service, Stack};
use crate::observed::{Moment, Observed, StopCause};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use service_registry::model::{Reason, ReasonCode};
use std::sync::Arc;
use std::time::Duration;

/// Quick deaths in a row after which a service counts as failing: its dependents are shown as blocked, and a `start` that
/// waits for it gives up waiting. It is still restarted.
pub const FAILING_AFTER_DEATHS: u32 = 3;

/// How long what may be started elsewhere (`on_node_loss: reschedule`) runs on after its agent last answered. The agent counts
/// from the moment at which it answered, the daemon from the later one at which it heard that, so the daemon never thinks
/// it over before it is.
pub const LEASE: Duration = Duration::from_secs(10);
/// What the daemon waits on top, for clocks that don't run alike and for what is killed to be gone.
pub const MARGIN: Duration = Duration::from_secs(2);

/// What is wanted, instance by instance, in the order of the file that wanted it first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Desired {
    /// The wishes. An instance without one is left alone.
    pub wishes: IndexMap<InstanceName, Wish>,
}

/// What is wanted of one instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// The definition to run. It changes only when a user says so.
    pub service: Arc<Service>,
    /// Up or down.
    pub goal: WishGoal,
    /// Raised by every command that wants a new run: a run of an older epoch is replaced, a failure of an older epoch is
    /// forgotten.
    pub epoch: u64,
    /// On an agent: the run of the project's daemon that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<String>,
}

/// Up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WishGoal {
    /// It should run (a task: have run).
    Up,
    /// It should not run.
    Down {
        /// Kill it, now.
        force: bool,
    },
}

/// What a node has to do about one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The instance.
    pub instance: InstanceName,
    /// The definition to run.
    pub service: Arc<Service>,
    /// The wish's epoch.
    pub epoch: u64,
    /// Run, wait, or stop.
    pub goal: Goal,
    /// The runs of the dependencies now; a start remembers them.
    pub dependencies: Vec<(InstanceName, String)>,
    /// Whether it may run only under a lease: on an agent, what is started elsewhere if this node is lost.
    pub leased: bool,
}

/// Run, wait, or stop.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    /// Keep it running.
    Run,
    /// If it runs, leave it; don't start it, for this reason.
    Hold(Reason),
    /// End it.
    Stop {
        /// Kill it, now.
        force: bool,
        /// Why.
        cause: StopCause,
    },
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Start a new run.
    Start {
        /// Of this instance.
        instance: InstanceName,
        /// With this definition.
        service: Arc<Service>,
        /// For this wish.
        epoch: u64,
        /// The runs of the dependencies.
        dependencies: Vec<(InstanceName, String)>,
        /// Whether it ran for this wish before: a restart.
        again: bool,
    },
    /// End the current run.
    Stop {
        /// Of this instance.
        instance: InstanceName,
        /// Its run.
        run: String,
        /// Kill it, now.
        force: bool,
        /// Why.
        cause: StopCause,
    },
    /// Ask the current run whether it is well.
    Probe {
        /// Of this instance.
        instance: InstanceName,
        /// Its run.
        run: String,
    },
}

impl Step {
    /// The instance that it is done to.
    pub fn instance(&self) -> &InstanceName {
        match self {
            Self::Start { instance, .. } | Self::Stop { instance, .. } | Self::Probe { instance, .. } => {
                instance
            }
        }
    }
}

/// The answer to "what next, now?".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What to do, in order; steps of different instances may run at the same time.
    pub steps: Vec<Step>,
    /// When to ask again, should nothing happen before.
    pub wake_at: Option<Moment>,
    /// Who waits for what.
    pub waiting: Vec<(InstanceName, Reason)>,
}

/// The plan for a stack whose only node is this machine.
pub fn plan(stack: &Stack, desired: &Desired, observed: &Observed, now: Moment) -> Plan {
    let assignments = plan_stack(stack, desired, observed);
    plan_node(&assignments, observed, now)
}

/// A reason with its words.
pub(crate) fn reason(code: ReasonCode, message: impl Into<String>) -> Reason {
    Reason { code, message: message.into() }
}

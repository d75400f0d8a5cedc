//! What was seen of every instance, and how a fact changes it. Pure: time comes with the fact.
//!
//! ```text
//!            issue(Start)            Started             issue(Stop)
//!   Idle ───────────────► Starting ──────────► Running ─────────────► Stopping
//!                            │ StartFailed        │ Exited                │ Exited
//!                            ▼                    ▼                       ▼
//!                        Unstartable            Ended ◄───────────────────┘
//!                            └──── issue(Start) ──┴──► Starting
//! ```
//!
//! What is started anew by whoever keeps it (the agent of another node) is *returning* in between: ended, but not to be
//! started by us. `Starting, Running ──Returning──► Returning ──Started──► Running`.
//!
//! A fact about a run that isn't the current one comes late and changes nothing.

use crate::health::{History, Verdict};
use crate::model::{HealthCheck, InstanceName, Service};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use service_registry::model::{Execution, Exit};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A moment: time since this machine's boot, sleep included (CLOCK_BOOTTIME). Never goes back.
pub type Moment = Duration;

/// Everything that was seen of the instances of a stack.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Instances that ran or are wanted.
    pub instances: BTreeMap<InstanceName, Instance>,
    /// Other nodes that are or were connected to.
    pub nodes: BTreeMap<String, NodeSeen>,
    /// On an agent: until when it may run what would be started elsewhere if it were lost.
    pub lease: Option<Moment>,
}

/// What is known of the way to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeSeen {
    /// A first way to it is being made.
    Connecting {
        /// How that goes on, for people; empty where there is nothing to say.
        progress: String,
    },
    /// Its agent answers.
    Up,
    /// It can't be reached. It is tried again.
    Lost {
        /// When it was heard last; when it was tried first if it was never heard.
        since: Timestamp,
        /// The same as time since this machine's boot.
        last: Moment,
        /// Why, for people, with what to do about it.
        why: String,
        /// Whether it was heard before: what runs there runs on.
        heard: bool,
    },
}

/// What was seen of one instance.
#[derive(Clone, Debug, Default)]
pub struct Instance {
    /// Where in its life it is.
    pub phase: Phase,
    /// Probes of the current run.
    pub health: History,
    /// Whether the current or last run was ready once: started and, with a health check, healthy.
    pub ready: bool,
    /// Quick deaths in a row.
    pub deaths: u32,
    /// Earliest moment of the next start.
    pub not_before: Moment,
    /// Starts without a wish of their own: after a death.
    pub restarts: u32,
    /// Why the last start failed or the last run ended, for people.
    pub last_error: Option<String>,
}

/// Where in its life an instance is.
#[derive(Clone, Debug, Default)]
pub enum Phase {
    /// It never ran.
    #[default]
    Idle,
    /// A start was issued; neither success nor failure was reported.
    Starting(Run),
    /// It runs.
    Running(Run),
    /// It ended, and whoever keeps it starts it again.
    Returning {
        /// The run, which goes on.
        run: Run,
        /// How it ended.
        exit: Exit,
        /// What it waits for, for people.
        why: String,
    },
    /// A stop was issued; the end wasn't reported.
    Stopping {
        /// What is stopping.
        run: Run,
        /// When the stop was issued last.
        issued: Moment,
        /// Whether it was a kill.
        force: bool,
        /// Why.
        cause: StopCause,
    },
    /// It ended.
    Ended {
        /// What ended.
        run: Run,
        /// How.
        exit: Exit,
        /// Why it was stopped; `None` if it ended by itself.
        cause: Option<StopCause>,
    },
    /// It could not be started.
    Unstartable {
        /// What should have run.
        run: Run,
        /// Why not.
        error: String,
    },
}

/// One run of an instance.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its id, a UUIDv7.
    pub id: String,
    /// The wish that it answers; a newer wish replaces it.
    pub epoch: u64,
    /// When the start was issued.
    pub began: Moment,
    /// What carries it out: known in full once it has started.
    pub execution: Execution,
    /// Whether it was started: its process was executed, its container or unit is up.
    pub started: bool,
    /// Whether what carries it out tells its health: a container whose image has a health check.
    pub tells_health: bool,
    /// The definition it was started with.
    pub service: Arc<Service>,
    /// The runs of the dependencies at that time: a changed one is a dependency that died.
    pub dependencies: Vec<(InstanceName, String)>,
    /// What stood behind its references to other services at that time: `${db.port}` → `5432`.
    pub given: BTreeMap<String, String>,
    /// How often whoever keeps it has started it anew.
    pub returned: u32,
}

/// Why an instance is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopCause {
    /// A user said so.
    Wish,
    /// A newer wish replaces it: restart, or a new definition.
    Replaced,
    /// A dependency died, and its policy says to follow.
    Dependency,
    /// It is unhealthy, and its policy says to restart.
    Unhealthy,
}

/// Something that happened to an instance.
#[derive(Clone, Debug)]
pub enum Fact {
    /// It runs: exec succeeded, the container or unit is up.
    Started {
        /// What carries it out.
        execution: Execution,
        /// Whether that tells its health by itself.
        tells_health: bool,
    },
    /// Something else carries it out now, as when systemd has started a unit's process anew.
    Moved {
        /// What carries it out.
        execution: Execution,
    },
    /// Its node is lost, and nobody waits for it there any more.
    GivenUp {
        /// Why not, for people.
        why: String,
    },
    /// It ended, and whoever keeps it starts it again.
    Returning {
        /// How it ended.
        exit: Exit,
        /// What it waits for, for people.
        why: String,
        /// Quick deaths in a row.
        deaths: u32,
    },
    /// It could not be started.
    StartFailed {
        /// Why.
        error: String,
    },
    /// It ended, and nothing of it is left.
    Exited {
        /// How.
        exit: Exit,
    },
    /// A probe ended.
    Probed {
        /// Whether the answer was good.
        ok: bool,
    },
    /// What carries it out has told its health.
    Told {
        /// What it told.
        verdict: Verdict,
    },
}

impl Fact {
    /// A process was executed.
    pub fn process(pid: u32, run: impl Into<String>) -> Self {
        Self::Started {
            execution: Execution::Process { pid: Some(pid), run: Some(run.into()) },
            tells_health: false,
        }
    }
}

impl Observed {
    /// What was seen of `name`, if anything.
    pub fn get(&self, name: &InstanceName) -> Option<&Instance> {
        self.instances.get(name)
    }

    /// Takes a fact about the run `run` of `name`. `false` if it is about another run than the current one, and changed
    /// nothing.
    pub fn apply(&mut self, name: &InstanceName, run: &str, fact: Fact, now: Moment) -> bool {
        match self.instances.get_mut(name) {
            Some(instance) if instance.run().is_some_and(|current| current.id == run) => {
                instance.apply(fact, now)
            }
            _ => false,
        }
    }

    /// A start of `run` was issued.
    pub fn issue_start(&mut self, name: &InstanceName, run: Run, again: bool) {
        let instance = self.instances.entry(name.clone()).or_default();
        if again {
            instance.restarts = instance.restarts.saturating_add(1);
        } else {
            instance.deaths = 0;
        }
        instance.health = History::default();
        instance.ready = false;
        instance.last_error = None;
        instance.phase = Phase::Starting(run);
    }

    /// A stop of the current run was issued. `false` if there is nothing to stop.
    pub fn issue_stop(&mut self, name: &InstanceName, force: bool, cause: StopCause, now: Moment) -> bool {
        let Some(instance) = self.instances.get_mut(name) else { return false };
        let phase = std::mem::take(&mut instance.phase);
        let (phase, issued) = match phase {
            Phase::Starting(run) | Phase::Running(run) | Phase::Returning { run, .. } => {
                (Phase::Stopping { run, issued: now, force, cause }, true)
            }
            // The reason of the first stop stays, unless a user says stop.
            Phase::Stopping { run, force: was, cause: old, .. } => {
                let cause = if cause == StopCause::Wish { cause } else { old };
                (Phase::Stopping { run, issued: now, force: was || force, cause }, true)
            }
            other => (other, false),
        };
        instance.phase = phase;
        issued
    }

    /// A probe of the current run was issued.
    pub fn issue_probe(&mut self, name: &InstanceName, now: Moment) {
        if let Some(instance) = self.instances.get_mut(name) {
            instance.health.in_flight = Some(now);
        }
    }
}

impl Instance {
    /// The current or last run.
    pub fn run(&self) -> Option<&Run> {
        match &self.phase {
            Phase::Idle => None,
            Phase::Starting(run)
            | Phase::Running(run)
            | Phase::Returning { run, .. }
            | Phase::Stopping { run, .. }
            | Phase::Ended { run, .. }
            | Phase::Unstartable { run, .. } => Some(run),
        }
    }

    /// Whether a process of it may exist, or may exist any moment without our doing.
    pub fn is_live(&self) -> bool {
        matches!(
            self.phase,
            Phase::Starting(_) | Phase::Running(_) | Phase::Returning { .. } | Phase::Stopping { .. }
        )
    }

    /// How it ended, if it has ended.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.phase {
            Phase::Ended { exit, .. } | Phase::Returning { exit, .. } => Some(exit),
            _ => None,
        }
    }

    fn apply(&mut self, fact: Fact, now: Moment) -> bool {
        match (fact, std::mem::take(&mut self.phase)) {
            (Fact::Started { execution, tells_health }, Phase::Starting(mut run)) => {
                run.up(execution, tells_health);
                self.ready = !run.is_checked();
                self.phase = Phase::Running(run);
            }
            (
                Fact::Started { execution, tells_health },
                Phase::Stopping { mut run, issued, force, cause },
            ) => {
                run.up(execution, tells_health);
                self.phase = Phase::Stopping { run, issued, force, cause };
            }
            (Fact::Started { execution, tells_health }, Phase::Returning { mut run, .. }) => {
                run.up(execution, tells_health);
                run.returned = run.returned.saturating_add(1);
                self.restarts = self.restarts.saturating_add(1);
                self.health = History::default();
                self.ready = !run.is_checked();
                self.phase = Phase::Running(run);
            }
            (
                Fact::Returning { exit, why, deaths },
                Phase::Starting(run) | Phase::Running(run) | Phase::Returning { run, .. },
            ) => {
                self.deaths = deaths;
                self.ready = false;
                self.last_error = Some(exit.to_string());
                self.phase = Phase::Returning { run, exit, why };
            }
            (
                Fact::GivenUp { why },
                Phase::Starting(run)
                | Phase::Running(run)
                | Phase::Returning { run, .. }
                | Phase::Stopping { run, .. },
            ) => {
                let exit = Exit::unknown(why);
                self.last_error = Some(exit.to_string());
                self.end(Phase::Ended { run, exit, cause: Some(StopCause::Replaced) });
            }
            (Fact::Moved { execution }, Phase::Running(mut run)) => {
                run.execution = execution;
                self.phase = Phase::Running(run);
            }
            (Fact::Told { verdict }, Phase::Running(run)) => {
                self.health.verdict = verdict;
                self.ready |= verdict == Verdict::Healthy;
                self.phase = Phase::Running(run);
            }
            (Fact::StartFailed { error }, Phase::Starting(run) | Phase::Stopping { run, .. }) => {
                self.count_death(&run, now);
                self.last_error = Some(error.clone());
                self.phase = Phase::Unstartable { run, error };
            }
            (Fact::Exited { exit }, Phase::Returning { run, .. }) => {
                // Its deaths were counted by whoever kept it.
                self.last_error = Some(exit.to_string());
                self.end(Phase::Ended { run, exit, cause: None });
            }
            (Fact::Exited { exit }, Phase::Starting(run) | Phase::Running(run)) => {
                self.count_death(&run, now);
                self.last_error = Some(exit.to_string());
                self.end(Phase::Ended { run, exit, cause: None });
            }
            (Fact::Exited { exit }, Phase::Stopping { run, cause, .. }) => {
                if cause == StopCause::Unhealthy {
                    self.count_death(&run, now);
                    self.last_error = Some("unhealthy".into());
                }
                self.end(Phase::Ended { run, exit, cause: Some(cause) });
            }
            (Fact::Probed { ok }, Phase::Running(run)) => {
                if let Some(check) = run.service.health_check.as_ref() {
                    self.health.record(check, ok, now.saturating_sub(run.began), now);
                    self.ready |= self.health.verdict == Verdict::Healthy;
                }
                self.phase = Phase::Running(run);
            }
            (_, phase) => {
                self.phase = phase;
                return false;
            }
        }
        true
    }

    fn end(&mut self, phase: Phase) {
        self.health.in_flight = None;
        self.phase = phase;
    }

    /// A run that was stable is replaced at once and the count of quick deaths begins anew.
    pub(crate) fn count_death(&mut self, run: &Run, now: Moment) {
        let restart = &run.service.restart;
        if now.saturating_sub(run.began) >= restart.reset_after {
            self.deaths = 0;
            self.not_before = now;
        } else {
            self.deaths = self.deaths.saturating_add(1);
            self.not_before = now + restart.backoff.delay(self.deaths);
        }
    }
}

impl Run {
    /// What tells this life from the one before and after it: the run, and which of its lives it is.
    pub fn life(&self) -> String {
        match self.returned {
            0 => self.id.clone(),
            times => format!("{}+{times}", self.id),
        }
    }

    /// Whether it is still in the life of that name, and nothing has ended it. A daemon that returns doesn't know of lives
    /// before: they are no news.
    pub fn is_in_life(&self, life: &str, phase: &Phase) -> bool {
        let (id, times) = match life.split_once('+') {
            Some((id, times)) => (id, times.parse().unwrap_or(0)),
            None => (life, 0),
        };
        self.id == id && self.returned <= times && !matches!(phase, Phase::Returning { .. })
    }

    /// Whether the agent of another node keeps it: probes and restarts are that one's.
    pub fn is_elsewhere(&self) -> bool {
        self.service.host.is_some()
    }

    /// The health check that it was started with.
    pub fn health_check(&self) -> Option<&HealthCheck> {
        self.service.health_check.as_ref()
    }

    /// Whether anything says how it is, besides that it runs.
    pub fn is_checked(&self) -> bool {
        self.tells_health || self.service.health_check.is_some()
    }

    fn up(&mut self, execution: Execution, tells_health: bool) {
        self.execution = execution;
        self.started = true;
        self.tells_health = tells_health;
    }
}

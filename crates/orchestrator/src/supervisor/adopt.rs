//! Taking over what runs: the keepers' files say what became of every run while nobody looked.

use super::{PersistError, Supervisor};
use crate::health::History;
use crate::model::InstanceName;
use crate::node::{Found, FoundState, Launch, NodeError};
use crate::observed::{Instance, Phase, Run, StopCause};
use crate::plan::{Wish, WishGoal};
use jiff::Timestamp;
use service_registry::model::{Entry, Exit, State};
use std::time::Duration;

/// What was running could not be taken over; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// What was wanted can't be read.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// What runs can't be found out.
    #[error("can't find out what runs")]
    Scan(#[source] NodeError),
}

impl Supervisor {
    /// Brings what is observed to what the keepers' files say. An instance that is recorded but not wanted by anyone is
    /// left alone, unless it lives: then it is ended, as nobody was told that it had been started.
    pub(super) async fn adopt(&mut self) -> Result<(), AdoptError> {
        self.know_nodes();
        for (node, instance, run) in &self.memory.given_up {
            self.engine.give_up(node, instance, run);
        }
        self.link_nodes();
        let wishes = &self.world.desired.wishes;
        let mut found =
            self.engine.found(|name| wishes.contains_key(name)).await.map_err(AdoptError::Scan)?;
        found.extend(self.engine.found_hosted(self.hosted()).await);
        for found in found {
            let instance = found.instance.clone();
            let Some(wish) = self.world.desired.wishes.get(&instance).cloned() else { continue };
            let observed = self.take_over(&instance, &wish, found);
            self.world.observed.instances.insert(instance, observed);
        }
        for instance in self.world.desired.wishes.keys() {
            self.publish(instance);
        }
        Ok(())
    }

    /// The last run of everything that no keeper has: where to look for it.
    fn hosted(&self) -> Vec<Launch> {
        let wishes = self.world.desired.wishes.iter();
        wishes
            .filter_map(|(instance, wish)| {
                let note = self.memory.runs.get(instance)?;
                let service = note.hosted_as.as_ref().unwrap_or(&wish.service);
                if !service.is_hosted() {
                    return None;
                }
                match self.launch(instance, service, note.run.clone()) {
                    Ok(launch) => Some(launch),
                    Err(error) => {
                        tracing::warn!(%instance, %error, "can't look for it");
                        None
                    }
                }
            })
            .collect()
    }

    fn take_over(&self, name: &InstanceName, wish: &Wish, found: Found) -> Instance {
        let note = self.memory.runs.get(name).filter(|note| note.run == found.run);
        let service = note.and_then(|note| note.hosted_as.clone()).unwrap_or_else(|| wish.service.clone());
        let run = Run {
            // Without a note the daemon died right after it issued the start: for the wish of that time.
            epoch: note.map_or(wish.epoch, |note| note.epoch),
            began: found.began,
            execution: crate::view::expected(&service, &found.run),
            id: found.run,
            started: false,
            tells_health: false,
            service,
            dependencies: note.map(|note| note.dependencies.clone()).unwrap_or_default(),
            given: note.map(|note| note.given.clone()).unwrap_or_default(),
            returned: 0,
        };
        let cause = note.and_then(|note| note.cause);
        let before = self.registry.get(&name.to_string());
        let mut instance = Instance { health: History::default(), ..Instance::default() };
        instance.restarts = before.as_ref().map_or(0, |entry| entry.restarts);
        instance.deaths = before.as_ref().map_or(0, |entry| entry.deaths);
        let ended = found.ended;
        // What was ready stays so until its checks say otherwise: a daemon's restart is no news about a service.
        let was_ready = before.as_ref().is_some_and(|entry| entry.ready);
        let checked = run.service.health_check.is_some()
            || matches!(found.state, FoundState::Running { tells_health: true, .. });
        instance.ready = !checked || was_ready;
        instance.phase = match found.state {
            FoundState::Starting => Phase::Starting(run),
            FoundState::Running { execution, tells_health } => {
                self.still_running(Run { execution, started: true, tells_health, ..run }, wish, cause)
            }
            FoundState::Ended { exit } => {
                instance.last_error = Some(exit.to_string());
                let cause = cause.or((wish.goal != WishGoal::Up).then_some(StopCause::Wish));
                Phase::Ended { run, exit, cause }
            }
            FoundState::Unstartable { error } => {
                instance.last_error = Some(error.clone());
                Phase::Unstartable { run, error }
            }
            FoundState::Lost { why } => {
                let exit = Exit::unknown(why);
                instance.last_error = Some(exit.to_string());
                Phase::Ended { run, exit, cause }
            }
        };
        self.recall_death(&mut instance, before.as_deref(), ended);
        instance
    }

    /// A run that ended by itself has its part in the count of quick deaths, also if nobody looked; and the pause after
    /// them isn't cut short by a new daemon.
    fn recall_death(&self, instance: &mut Instance, before: Option<&Entry>, ended: Option<Timestamp>) {
        let by_itself = |cause: &Option<StopCause>| matches!(cause, None | Some(StopCause::Unhealthy));
        let (mut run, never_ran) = match &instance.phase {
            Phase::Ended { run, cause, .. } if by_itself(cause) => (run.clone(), false),
            Phase::Unstartable { run, .. } => (run.clone(), true),
            _ => return,
        };
        let (now, wall) = (self.clock)();
        // The wall clock may have been set meanwhile: never later than now.
        let ago = ended.and_then(|at| Duration::try_from(wall.duration_since(at)).ok()).unwrap_or_default();
        let at = now.saturating_sub(ago);
        if never_ran {
            run.began = at;
        }
        let told = before.is_some_and(|entry| {
            let same = entry.execution.run() == Some(&run.id);
            same && matches!(entry.status.state, State::Failed | State::Stopped)
        });
        if !told {
            instance.count_death(&run, at);
        } else if instance.deaths > 0 {
            instance.not_before = at + run.service.restart.backoff.delay(instance.deaths);
        }
    }

    /// A stop that was under way goes on; one whose order may not have arrived is issued again by the plan.
    fn still_running(&self, run: Run, wish: &Wish, cause: Option<StopCause>) -> Phase {
        match cause {
            // The wish says whether it should still end; a stop for another reason is found again by the plan.
            Some(StopCause::Wish) | None => Phase::Running(run),
            Some(_) if wish.goal != WishGoal::Up => Phase::Running(run),
            Some(cause) => {
                let (now, _) = (self.clock)();
                let issued = now.saturating_sub(run.service.shutdown_timeout);
                Phase::Stopping { run, issued, force: false, cause }
            }
        }
    }
}

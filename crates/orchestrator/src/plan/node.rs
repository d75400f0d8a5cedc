//! The decisions that one node makes by itself: start, probe, restart with backoff, stop.

use super::stack::{comes_back, gave_up, retries_left, wants_restart};
use super::{Assignment, Goal, Plan, Step, reason};
use crate::health::Verdict;
use crate::model::{OnUnhealthy, Role};
use crate::observed::{Instance, Moment, Observed, Phase, Run, StopCause};
use service_registry::model::{Reason, ReasonCode};
use std::time::Duration;

/// A keeper ends a tree within the shutdown time-out. If its word doesn't come within this time on top, the stop is
/// issued again, as a kill.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// A probe ends within its own time-out. One whose answer is this much later is lost.
const PROBE_MARGIN: Duration = Duration::from_secs(5);

/// The steps that bring the instances of one node to where their assignments want them.
pub fn plan_node(assignments: &[Assignment], observed: &Observed, now: Moment) -> Plan {
    let mut plan = Plan::default();
    let idle = Instance::default();
    for assignment in assignments {
        let seen = observed.get(&assignment.instance).unwrap_or(&idle);
        match &assignment.goal {
            Goal::Run
                if !seen.is_live()
                    && assignment.leased
                    && observed.lease.is_none_or(|until| until <= now) =>
            {
                // Another node may run it by now.
                let why = reason(ReasonCode::Waiting, "waiting for a lease from the project's daemon");
                plan.waiting.push((assignment.instance.clone(), why));
            }
            Goal::Run if !seen.is_live() => start(&mut plan, assignment, seen, now),
            Goal::Run => watch(&mut plan, assignment, seen, now),
            Goal::Hold(reason) => {
                if seen.is_live() {
                    watch(&mut plan, assignment, seen, now);
                }
                // What runs and waits for its dependents to stop says so; what isn't running says why.
                plan.waiting.push((assignment.instance.clone(), reason.clone()));
            }
            Goal::Stop { force, cause } => stop(&mut plan, assignment, seen, *force, *cause, now),
        }
    }
    plan
}

/// It should run and doesn't: now, later, or never again.
fn start(plan: &mut Plan, assignment: &Assignment, seen: &Instance, now: Moment) {
    let service = &assignment.service;
    let newer = seen.run().is_none_or(|run| run.epoch < assignment.epoch);
    if newer {
        return push_start(plan, assignment, false);
    }
    let (exit, cause) = match &seen.phase {
        Phase::Ended { exit, cause, .. } => (Some(exit), *cause),
        _ => (None, None),
    };
    let by_itself = !matches!(cause, Some(StopCause::Replaced | StopCause::Dependency | StopCause::Wish));
    if by_itself && service.role == Role::Task && exit.is_some_and(|exit| exit.code == Some(0)) {
        return; // completed
    }
    if !comes_back(service, seen) {
        let wanted = cause == Some(StopCause::Unhealthy) || wants_restart(service, exit);
        if wanted && !retries_left(service, seen) {
            plan.waiting.push((assignment.instance.clone(), gave_up(seen)));
        }
        return;
    }
    if by_itself && seen.not_before > now {
        wake(plan, seen.not_before);
        plan.waiting.push((assignment.instance.clone(), backoff(seen)));
        return;
    }
    push_start(plan, assignment, by_itself);
}

fn push_start(plan: &mut Plan, assignment: &Assignment, again: bool) {
    plan.steps.push(Step::Start {
        instance: assignment.instance.clone(),
        service: assignment.service.clone(),
        epoch: assignment.epoch,
        dependencies: assignment.dependencies.clone(),
        again,
    });
}

/// The delay is that of the last death, so that the words don't change while time passes.
fn backoff(seen: &Instance) -> Reason {
    let delay = seen.run().map(|run| run.service.restart.backoff.delay(seen.deaths)).unwrap_or_default();
    let why = seen.last_error.clone().unwrap_or_else(|| "it ended".into());
    let times = if seen.deaths == 1 { "once".into() } else { format!("{} times", seen.deaths) };
    reason(ReasonCode::Backoff, format!("died {times}, restarts after {delay:?}: {why}"))
}

/// It runs: probes, time-outs, what an unhealthy verdict asks for.
fn watch(plan: &mut Plan, assignment: &Assignment, seen: &Instance, now: Moment) {
    match &seen.phase {
        Phase::Running(run) => {
            if unhealthy_restart(run, seen) {
                return push_stop(plan, assignment, run, false, StopCause::Unhealthy);
            }
            probe(plan, assignment, run, seen, now);
            overdue(plan, assignment, run, seen, now);
        }
        Phase::Starting(run) => overdue(plan, assignment, run, seen, now),
        Phase::Returning { why, .. } => {
            plan.waiting.push((assignment.instance.clone(), reason(ReasonCode::Backoff, why.as_str())));
        }
        Phase::Stopping { run, issued, force, cause } => {
            remind(plan, assignment, run, *issued, *force, *cause, now)
        }
        _ => {}
    }
}

fn unhealthy_restart(run: &Run, seen: &Instance) -> bool {
    !run.is_elsewhere()
        && run.service.on_unhealthy == OnUnhealthy::Restart
        && seen.health.verdict == Verdict::Unhealthy
}

fn probe(plan: &mut Plan, assignment: &Assignment, run: &Run, seen: &Instance, now: Moment) {
    let Some(check) = run.health_check().filter(|_| !run.is_elsewhere()) else { return };
    let due = match (seen.health.due(check), seen.health.in_flight) {
        (Some(due), _) => due,
        (None, Some(since)) => since + check.timeout + PROBE_MARGIN,
        (None, None) => return,
    };
    if due <= now {
        plan.steps.push(Step::Probe { instance: assignment.instance.clone(), run: run.id.clone() });
    } else {
        wake(plan, due);
    }
}

fn overdue(plan: &mut Plan, assignment: &Assignment, run: &Run, seen: &Instance, now: Moment) {
    if seen.ready || run.service.role == Role::Task {
        return;
    }
    let deadline = run.began + run.service.startup_timeout;
    if deadline <= now {
        let message = format!("not ready within its startup_timeout of {:?}", run.service.startup_timeout);
        plan.waiting.push((assignment.instance.clone(), reason(ReasonCode::Overdue, message)));
    } else {
        wake(plan, deadline);
    }
}

fn stop(
    plan: &mut Plan,
    assignment: &Assignment,
    seen: &Instance,
    force: bool,
    cause: StopCause,
    now: Moment,
) {
    match &seen.phase {
        Phase::Starting(run) | Phase::Running(run) | Phase::Returning { run, .. } => {
            push_stop(plan, assignment, run, force, cause);
        }
        Phase::Stopping { run, force: was, cause: old, .. } if (force && !was) || escalates(cause, *old) => {
            push_stop(plan, assignment, run, force || *was, cause);
        }
        Phase::Stopping { run, issued, force: was, .. } => {
            remind(plan, assignment, run, *issued, *was, cause, now)
        }
        _ => {}
    }
}

/// A user's stop takes the place of another reason, so that what follows is right: it isn't started again.
fn escalates(cause: StopCause, old: StopCause) -> bool {
    cause == StopCause::Wish && old != StopCause::Wish
}

/// A stop whose end wasn't reported in time is issued again, as a kill.
fn remind(
    plan: &mut Plan,
    assignment: &Assignment,
    run: &Run,
    issued: Moment,
    force: bool,
    cause: StopCause,
    now: Moment,
) {
    let bound = if force { STOP_MARGIN } else { run.service.shutdown_timeout + STOP_MARGIN };
    if issued + bound <= now {
        push_stop(plan, assignment, run, true, cause);
    } else {
        wake(plan, issued + bound);
    }
}

fn push_stop(plan: &mut Plan, assignment: &Assignment, run: &Run, force: bool, cause: StopCause) {
    plan.steps.push(Step::Stop { instance: assignment.instance.clone(), run: run.id.clone(), force, cause });
}

fn wake(plan: &mut Plan, at: Moment) {
    plan.wake_at = Some(plan.wake_at.map_or(at, |old| old.min(at)));
}

//! What a plan would do if every step succeeded: `--dry-run`.

use super::{Desired, Step, plan};
use crate::health::Verdict;
use crate::model::{Role, Stack};
use crate::observed::{Fact, Moment, NodeSeen, Observed, Run};
use service_registry::model::{Execution, Exit};
use std::collections::BTreeMap;

/// More rounds than any stack needs: one per start, stop and restart of each service would be the longest chain.
const MOST_ROUNDS: usize = 100_000;

/// The starts and stops that lead from what was seen to what is wanted, in rounds: the steps of a round are issued at the
/// same time. Folds the plan over a world in which every step succeeds at once.
pub fn simulate(stack: &Stack, desired: &Desired, observed: &Observed, now: Moment) -> Vec<Vec<Step>> {
    let mut world = observed.clone();
    for node in desired.wishes.values().filter_map(|wish| wish.service.host.as_ref()) {
        world.nodes.insert(node.clone(), NodeSeen::Up);
    }
    let mut rounds = Vec::new();
    for round in 0..MOST_ROUNDS {
        let plan = plan(stack, desired, &world, now);
        if plan.steps.is_empty() {
            break;
        }
        let mut shown = Vec::new();
        for step in plan.steps {
            let probe = matches!(step, Step::Probe { .. });
            carry_out(&mut world, &step, round, now);
            if !probe {
                shown.push(step);
            }
        }
        if !shown.is_empty() {
            rounds.push(shown);
        }
    }
    rounds
}

fn carry_out(world: &mut Observed, step: &Step, round: usize, now: Moment) {
    match step {
        Step::Start { instance, service, epoch, dependencies, again } => {
            let id = format!("simulated-{round}");
            let run = Run {
                id: id.clone(),
                epoch: *epoch,
                began: now,
                execution: Execution::None,
                started: false,
                tells_health: false,
                service: service.clone(),
                dependencies: dependencies.clone(),
                given: BTreeMap::new(),
                returned: 0,
            };
            world.issue_start(instance, run, *again);
            world.apply(instance, &id, Fact::process(0, &*id), now);
            if service.host.is_some() {
                // Its agent probes it, and tells.
                world.apply(instance, &id, Fact::Told { verdict: Verdict::Healthy }, now);
            }
            if service.role == Role::Task {
                world.apply(instance, &id, Fact::Exited { exit: Exit::with_code(0) }, now);
            }
        }
        Step::Stop { instance, run, force, cause } => {
            world.issue_stop(instance, *force, *cause, now);
            world.apply(instance, run, Fact::Exited { exit: Exit::with_code(0) }, now);
        }
        Step::Probe { instance, run } => {
            let threshold = world
                .get(instance)
                .and_then(|seen| seen.run()?.health_check().map(|check| check.success_threshold))
                .unwrap_or(1);
            for _ in 0..threshold.max(1) {
                world.issue_probe(instance, now);
                world.apply(instance, run, Fact::Probed { ok: true }, now);
            }
        }
    }
}

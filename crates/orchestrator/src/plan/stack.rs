//! The decisions that need the whole stack: gates between instances, the order of stopping, who follows whom.

use super::{Assignment, Desired, FAILING_AFTER_DEATHS, Goal, Wish, WishGoal, reason};
use crate::graph;
use crate::health::Verdict;
use crate::model::{
    Condition, InstanceName, OnDependencyFailure, OnNodeLoss, RestartPolicy, Role, Service, ServiceName,
    Stack,
};
use crate::observed::{Instance, NodeSeen, Observed, Phase, StopCause};
use service_registry::model::{Exit, Reason, ReasonCode};
use std::cell::RefCell;
use std::collections::HashMap;

/// One assignment for every wish, in the wishes' order.
pub fn plan_stack(_stack: &Stack, desired: &Desired, observed: &Observed) -> Vec<Assignment> {
    let view = View::new(desired, observed);
    desired
        .wishes
        .iter()
        .map(|(instance, wish)| Assignment {
            instance: instance.clone(),
            service: wish.service.clone(),
            epoch: wish.epoch,
            goal: view.goal(instance, wish),
            dependencies: view.dependency_runs(&wish.service),
            leased: wish.assignment.is_some() && wish.service.on_node_loss == OnNodeLoss::Reschedule,
        })
        .collect()
}

/// The wishes and what was seen, by service.
struct View<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    instances: HashMap<&'a ServiceName, Vec<(&'a InstanceName, &'a Wish)>>,
    dependents: HashMap<&'a ServiceName, Vec<&'a InstanceName>>,
    idle: Instance,
    /// Gates that were asked for already: a diamond must not be walked once per path.
    gates: RefCell<HashMap<(ServiceName, Option<String>), Gate>>,
}

/// How far a chain of waiting dependencies is followed to find what blocks it.
const DEEPEST_EXPLANATION: usize = 200;

/// Whether a dependency lets its dependents start.
#[derive(Clone)]
enum Gate {
    Open,
    /// It may open by itself.
    Waiting(String),
    /// It won't open by itself, or not soon.
    Blocked(String),
    /// The node can't be reached.
    Unreachable(String),
}

impl<'a> View<'a> {
    fn new(desired: &'a Desired, observed: &'a Observed) -> Self {
        let mut view = Self {
            desired,
            observed,
            instances: HashMap::new(),
            dependents: HashMap::new(),
            idle: Instance::default(),
            gates: RefCell::default(),
        };
        for (instance, wish) in &desired.wishes {
            view.instances.entry(instance.service()).or_default().push((instance, wish));
            for (dependency, _) in graph::ordering(&wish.service) {
                view.dependents.entry(dependency).or_default().push(instance);
            }
        }
        view
    }

    fn seen(&self, instance: &InstanceName) -> &Instance {
        self.observed.get(instance).unwrap_or(&self.idle)
    }

    /// How people call it: a service that has one instance goes by its own name.
    fn label(&self, name: &InstanceName) -> String {
        match self.instances.get(name.service()).map(Vec::len) {
            Some(1) => name.service().to_string(),
            _ => name.to_string(),
        }
    }

    fn goal(&self, name: &InstanceName, wish: &Wish) -> Goal {
        let seen = self.seen(name);
        match wish.goal {
            WishGoal::Down { force: true } => Goal::Stop { force: true, cause: StopCause::Wish },
            WishGoal::Down { force: false } => self.stop_in_order(name),
            WishGoal::Up if seen.is_live() => self.keep(wish, seen),
            WishGoal::Up => self.start(wish, seen),
        }
    }

    /// What needs it and is to stop too, stops first.
    fn stop_in_order(&self, name: &InstanceName) -> Goal {
        let first = self.dependents.get(name.service()).into_iter().flatten().find(|dependent| {
            self.seen(dependent).is_live()
                && self.desired.wishes.get(**dependent).is_some_and(|wish| wish.goal != WishGoal::Up)
        });
        match first {
            Some(dependent) => {
                let dependent = self.label(dependent);
                Goal::Hold(reason(ReasonCode::Waiting, format!("waiting for {dependent} to stop")))
            }
            None => Goal::Stop { force: false, cause: StopCause::Wish },
        }
    }

    /// It runs and should: unless for an older wish, or with a dependency that died and a policy that follows.
    fn keep(&self, wish: &Wish, seen: &Instance) -> Goal {
        let Some(run) = seen.run() else { return Goal::Run };
        if run.epoch < wish.epoch {
            return Goal::Stop { force: false, cause: StopCause::Replaced };
        }
        let follows = run.service.on_dependency_failure != OnDependencyFailure::Ignore
            && run.service.role == Role::Service;
        let lost = follows
            && run.dependencies.iter().any(|(dependency, id)| {
                // A dependency that a user took down or removed didn't fail.
                let wanted =
                    self.desired.wishes.get(dependency).is_some_and(|wish| wish.goal == WishGoal::Up);
                let now = self.seen(dependency);
                wanted && !now.run().is_some_and(|run| now.is_live() && run.is_in_life(id, &now.phase))
            });
        if lost { Goal::Stop { force: false, cause: StopCause::Dependency } } else { Goal::Run }
    }

    fn start(&self, wish: &Wish, seen: &Instance) -> Goal {
        if is_held(wish, seen) {
            return Goal::Hold(reason(
                ReasonCode::Held,
                "a dependency failed; it is held until it is started again",
            ));
        }
        match self.gate(&wish.service, 0) {
            Gate::Open => Goal::Run,
            Gate::Waiting(message) => Goal::Hold(reason(ReasonCode::Waiting, message)),
            Gate::Blocked(message) => Goal::Hold(reason(ReasonCode::Blocked, message)),
            Gate::Unreachable(message) => Goal::Hold(reason(ReasonCode::Unreachable, message)),
        }
    }

    /// The first dependency that is blocked, else the first that is waited for.
    fn gate(&self, service: &Service, depth: usize) -> Gate {
        // Instances of one service may be on several nodes.
        let key = (service.name.clone(), service.host.clone());
        if let Some(gate) = self.gates.borrow().get(&key) {
            return gate.clone();
        }
        let gate = match self.node(service) {
            Gate::Open => self.closed_by(service, depth),
            closed => closed,
        };
        self.gates.borrow_mut().insert(key, gate.clone());
        gate
    }

    /// Whether the node that it is placed on can be told to start it.
    fn node(&self, service: &Service) -> Gate {
        let Some(node) = &service.host else { return Gate::Open };
        match self.observed.nodes.get(node) {
            Some(NodeSeen::Up) => Gate::Open,
            Some(NodeSeen::Lost { why, .. }) => Gate::Unreachable(format!("node {node}: {why}")),
            Some(NodeSeen::Connecting { progress }) if !progress.is_empty() => {
                Gate::Waiting(format!("node {node}: {progress}"))
            }
            Some(NodeSeen::Connecting { .. }) | None => Gate::Waiting(format!("connecting to node {node}")),
        }
    }

    fn closed_by(&self, service: &Service, depth: usize) -> Gate {
        let mut waiting = None;
        for (name, condition) in graph::ordering(service) {
            let Some(instances) = self.instances.get(name) else {
                return Gate::Blocked(format!("needs {name}, which isn't started"));
            };
            for (instance, wish) in instances {
                match self.dependency(instance, wish, condition, depth) {
                    Gate::Open => {}
                    Gate::Waiting(message) => waiting = waiting.or(Some(message)),
                    blocked @ (Gate::Blocked(_) | Gate::Unreachable(_)) => return blocked,
                }
            }
        }
        waiting.map_or(Gate::Open, Gate::Waiting)
    }

    fn dependency(&self, name: &InstanceName, wish: &Wish, condition: Condition, depth: usize) -> Gate {
        let seen = self.seen(name);
        let label = self.label(name);
        if wish.goal != WishGoal::Up {
            return Gate::Blocked(format!("needs {label}, which was stopped"));
        }
        // What was last heard of it may not be so any more.
        if let (true, Some(node)) = (seen.is_live(), &wish.service.host)
            && matches!(self.observed.nodes.get(node), Some(NodeSeen::Lost { .. }))
        {
            return Gate::Waiting(format!("waiting for {label}: node {node} is lost"));
        }
        // A run for an older wish is about to be replaced; its successor counts.
        let current = seen.run().is_some_and(|run| run.epoch >= wish.epoch);
        match (&seen.phase, condition) {
            (_, Condition::None) => Gate::Open,
            (Phase::Running(_), Condition::Started) if current => Gate::Open,
            (Phase::Running(run), Condition::Healthy) if current => {
                let healthy = seen.ready && seen.health.verdict != Verdict::Unhealthy;
                if healthy || !run.is_checked() {
                    Gate::Open
                } else {
                    Gate::Waiting(format!("waiting for {label} to be healthy"))
                }
            }
            (Phase::Ended { exit, .. }, Condition::Completed) if current && exit.code == Some(0) => {
                Gate::Open
            }
            (Phase::Ended { .. } | Phase::Unstartable { .. }, _) if current => {
                self.ended_dependency(name, wish, seen, depth)
            }
            (Phase::Returning { why, .. }, _) if seen.deaths >= FAILING_AFTER_DEATHS => {
                Gate::Blocked(format!("needs {label}, which keeps failing: {why}"))
            }
            (Phase::Running(_), Condition::Completed) if current => {
                Gate::Waiting(format!("waiting for {label} to complete"))
            }
            _ if seen.is_live() => Gate::Waiting(format!("waiting for {label}")),
            _ => self.unstarted_dependency(name, wish, depth),
        }
    }

    /// A dependency that ended: will it come back?
    fn ended_dependency(&self, name: &InstanceName, wish: &Wish, seen: &Instance, depth: usize) -> Gate {
        let why = seen.last_error.clone().unwrap_or_else(|| "it ended".into());
        let name_of = self.label(name);
        if seen.deaths >= FAILING_AFTER_DEATHS {
            return Gate::Blocked(format!("needs {name_of}, which keeps failing: {why}"));
        }
        if is_held(wish, seen) {
            return Gate::Blocked(format!("needs {name_of}, which is held until it is started again"));
        }
        if comes_back(&wish.service, seen) {
            return match self.unstarted_dependency(name, wish, depth) {
                Gate::Waiting(_) => Gate::Waiting(format!("waiting for {name_of} to be restarted")),
                blocked => blocked,
            };
        }
        Gate::Blocked(format!("needs {name_of}, which failed: {why}"))
    }

    /// What waits for something blocked is blocked by it; at the end of a very long chain it just waits.
    fn unstarted_dependency(&self, name: &InstanceName, wish: &Wish, depth: usize) -> Gate {
        if depth >= DEEPEST_EXPLANATION {
            return Gate::Waiting(format!("waiting for {}", self.label(name)));
        }
        let gate = self.gate(&wish.service, depth + 1);
        if let Gate::Unreachable(message) = gate {
            return Gate::Blocked(format!("needs {}, which can't be started: {message}", self.label(name)));
        }
        if let Gate::Blocked(message) = gate {
            // The root of it is what helps: not "needs a, which needs b, which needs c …".
            return Gate::Blocked(match message.split_once(", which ") {
                Some(_) => message,
                None => format!("needs {}, which {message}", self.label(name)),
            });
        }
        Gate::Waiting(format!("waiting for {}", self.label(name)))
    }

    /// The runs that a start depends on. Tasks have ended by then and can't die.
    fn dependency_runs(&self, service: &Service) -> Vec<(InstanceName, String)> {
        graph::ordering(service)
            .filter_map(|(name, _)| self.instances.get(name))
            .flatten()
            .filter(|(_, wish)| wish.service.role == Role::Service)
            .filter_map(|(name, _)| Some(((*name).clone(), self.seen(name).run()?.life())))
            .collect()
    }
}

/// Whether it was stopped because a dependency failed, and its policy waits for a user.
fn is_held(wish: &Wish, seen: &Instance) -> bool {
    matches!(&seen.phase, Phase::Ended { run, cause: Some(StopCause::Dependency), .. }
        if run.epoch >= wish.epoch && run.service.on_dependency_failure == OnDependencyFailure::Hold)
}

/// How a run ended of which the agent that had it knows nothing any more.
pub(crate) const FORGOTTEN: &str = "the agent there knows nothing of it";

/// Whether the restart policy starts an ended instance again by itself.
pub(crate) fn comes_back(service: &Service, seen: &Instance) -> bool {
    let (exit, cause) = match &seen.phase {
        Phase::Ended { exit, cause, .. } => (Some(exit), *cause),
        Phase::Unstartable { .. } => (None, None),
        _ => return true,
    };
    let elsewhere = service.host.is_some();
    match cause {
        Some(StopCause::Replaced | StopCause::Dependency | StopCause::Wish) => return true,
        // The agent there has started it as often as its policy allows; but of what it has lost it knows nothing.
        _ if elsewhere && exit.is_none_or(|exit| exit.unknown.as_deref() != Some(FORGOTTEN)) => return false,
        Some(StopCause::Unhealthy) if service.restart.policy != RestartPolicy::No => {
            return retries_left(service, seen);
        }
        _ => {}
    }
    wants_restart(service, exit) && retries_left(service, seen)
}

/// Whether the policy asks for a restart after this end; `None` is a start that failed.
pub(super) fn wants_restart(service: &Service, exit: Option<&Exit>) -> bool {
    match service.restart.policy {
        RestartPolicy::No => false,
        RestartPolicy::OnFailure => exit.is_none_or(|exit| exit.code != Some(0)),
        RestartPolicy::Always | RestartPolicy::UnlessStopped => {
            service.role == Role::Service || exit.is_none_or(|exit| exit.code != Some(0))
        }
    }
}

/// Whether it died less often than `max_retries` allows.
pub(super) fn retries_left(service: &Service, seen: &Instance) -> bool {
    service.restart.max_retries.is_none_or(|max| seen.deaths <= max)
}

/// A reason for what is neither waiting nor held.
pub(super) fn gave_up(seen: &Instance) -> Reason {
    let why = seen.last_error.clone().unwrap_or_else(|| "it ended".into());
    reason(ReasonCode::GaveUp, format!("gave up after {} quick deaths: {why}", seen.deaths))
}

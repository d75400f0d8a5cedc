//! What the registry is told about an instance. Pure.

use crate::command::{World, changes};
use crate::health::Verdict;
use crate::model::{Attach, InstanceName, PortNumber, Role, Service, Signal, Target};
use crate::observed::{Instance, NodeSeen, Phase, Run, StopCause};
use crate::plan::{Wish, WishGoal, comes_back, reason};
use jiff::Timestamp;
use service_registry::model::{
    Endpoint, Entry, Execution, Exit, Health, HealthStatus, Location, ProbeResult, Reason, ReasonCode, Scope,
    State, Status,
};

/// What is known about an instance besides the world.
pub struct Beside<'a> {
    /// Why it waits, as the last plan said.
    pub waiting: Option<&'a Reason>,
    /// How its start goes on, in the engine's words.
    pub progress: Option<&'a str>,
    /// Its last probe.
    pub probe: Option<&'a ProbeResult>,
    /// Its entry until now.
    pub previous: Option<&'a Entry>,
    /// The time, for display.
    pub now: Timestamp,
}

/// The entry of `instance`, which has a wish.
pub fn entry(world: &World, instance: &InstanceName, wish: &Wish, beside: &Beside<'_>) -> Entry {
    let idle = Instance::default();
    let seen = world.observed.get(instance).unwrap_or(&idle);
    // What runs has the definition that it was started with.
    let service = seen.run().filter(|_| seen.is_live()).map_or(&wish.service, |run| &run.service);
    let (state, reason) = state(seen, wish, beside.waiting);
    let starting = matches!(seen.phase, Phase::Starting(_));
    let progress = beside.progress.filter(|_| starting).map(|told| self::reason(ReasonCode::Preparing, told));
    // What it is busy with says more than that it is late.
    let reason = progress.or(reason);
    let mut entry = Entry::new(instance.service().as_str(), instance.to_string(), beside.now);
    entry.role = match service.role {
        Role::Service => "service".into(),
        Role::Task => "task".into(),
    };
    entry.execution = execution(seen);
    let node = service.host.as_ref();
    entry.location = node.map_or(Location::Local, |node| Location::Node(node.clone()));
    if let Some(NodeSeen::Lost { since, heard: true, .. }) =
        node.and_then(|node| world.observed.nodes.get(node))
        && seen.is_live()
    {
        entry.lost_since = Some(*since);
    }
    entry.endpoints = endpoints(world, instance, service);
    entry.dependencies = service.dependencies.keys().map(ToString::to_string).collect();
    let since =
        beside.previous.filter(|old| old.status.state == state).map_or(beside.now, |old| old.status.since);
    let exit = seen.exit().cloned().or_else(|| beside.previous.and_then(|old| old.status.exit.clone()));
    entry.status = Status { state, since, reason, exit };
    let checked = seen.run().map_or(service.health_check.is_some(), Run::is_checked);
    entry.health = checked.then(|| health(seen, entry.lost_since.is_some(), beside));
    entry.ready = is_ready(seen, service) && entry.lost_since.is_none();
    entry.returning = wish.goal == WishGoal::Up && returns(seen, service);
    let answered = seen.run().is_some_and(|run| run.epoch >= wish.epoch);
    entry.assignment = wish.assignment.clone().filter(|_| answered);
    entry.restarts = seen.restarts;
    entry.deaths = seen.deaths;
    entry.labels = service.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(stack) = &world.stack {
        let position = stack.services.get_index_of(instance.service());
        entry.order = position.and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX);
        if let Some(now) = stack.services.get(instance.service())
            && seen.is_live()
        {
            entry.stale = match (&now.host, now.placement.is_empty()) {
                // Where it runs is what the daemon has chosen.
                (None, false) => {
                    changes(service, &Service { host: service.host.clone(), ..now.as_ref().clone() })
                }
                _ => changes(service, now),
            };
        }
    }
    entry
}

/// A service is ready when it runs and was healthy once, a task when it has completed.
fn is_ready(seen: &Instance, service: &Service) -> bool {
    match (&seen.phase, service.role) {
        (Phase::Running(_), Role::Service) => seen.ready,
        (Phase::Ended { exit, cause: None, .. }, Role::Task) => exit.code == Some(0),
        _ => false,
    }
}

/// Whether it has ended and is started again by itself: by the plan, or by whoever keeps it.
fn returns(seen: &Instance, service: &Service) -> bool {
    let completed = |exit: &Exit| service.role == Role::Task && exit.code == Some(0);
    match &seen.phase {
        Phase::Returning { .. } => true,
        Phase::Ended { exit, cause: None, .. } if completed(exit) => false,
        Phase::Ended { .. } | Phase::Unstartable { .. } => comes_back(service, seen),
        _ => false,
    }
}

fn state(seen: &Instance, wish: &Wish, waiting: Option<&Reason>) -> (State, Option<Reason>) {
    let waiting = waiting.cloned();
    match &seen.phase {
        Phase::Idle if wish.goal != WishGoal::Up => {
            (State::Stopped, Some(reason(ReasonCode::StopRequested, "stopped")))
        }
        Phase::Idle => (State::Registered, waiting),
        Phase::Starting(_) => (State::Starting, waiting),
        Phase::Running(run) if !seen.ready && run.service.role == Role::Service => (State::Starting, waiting),
        Phase::Running(_) => (State::Running, waiting),
        Phase::Returning { why, .. } => {
            (State::Failed, waiting.or_else(|| Some(reason(ReasonCode::Backoff, why.as_str()))))
        }
        Phase::Stopping { run, cause, .. } => (State::Stopping, Some(stop_reason(told(*cause, run, wish)))),
        Phase::Unstartable { error, .. } => {
            let message = match &waiting {
                Some(retry) if retry.code == ReasonCode::Backoff => format!("{error} (it is tried again)"),
                _ => error.clone(),
            };
            (State::Failed, Some(reason(ReasonCode::SpawnFailed, message)))
        }
        Phase::Ended { run, exit, cause } => {
            let cause = cause.map(|cause| told(cause, run, wish));
            ended(seen, run.service.role, exit, cause, waiting)
        }
    }
}

/// A stop that a user has overtaken with a start makes room for the new run: it is no longer meant to stay down.
fn told(cause: StopCause, run: &Run, wish: &Wish) -> StopCause {
    if cause == StopCause::Wish && wish.goal == WishGoal::Up && run.epoch < wish.epoch {
        StopCause::Replaced
    } else {
        cause
    }
}

fn ended(
    seen: &Instance,
    role: Role,
    exit: &Exit,
    cause: Option<StopCause>,
    waiting: Option<Reason>,
) -> (State, Option<Reason>) {
    match cause {
        Some(StopCause::Unhealthy) => {
            return (
                State::Failed,
                waiting.or_else(|| Some(reason(ReasonCode::Unhealthy, "it was unhealthy"))),
            );
        }
        Some(cause) => return (State::Stopped, waiting.or_else(|| Some(stop_reason(cause)))),
        None => {}
    }
    let good = exit.code == Some(0);
    // A service that ends before it was ready has failed, whatever its exit code.
    let state = if good && (role == Role::Task || seen.ready) { State::Stopped } else { State::Failed };
    let own = match (exit.code, exit.signal, role) {
        (Some(0), _, Role::Task) => reason(ReasonCode::Completed, "completed"),
        (Some(0), _, Role::Service) if !seen.ready => {
            reason(ReasonCode::Exited, "exited with code 0 before it was ready")
        }
        (Some(code), _, _) => reason(ReasonCode::Exited, format!("exited with code {code}")),
        (_, Some(signal), _) => {
            let name =
                Signal::from_number(signal).map_or_else(|| format!("signal {signal}"), |s| s.to_string());
            reason(ReasonCode::Signaled, format!("killed by {name}"))
        }
        _ => reason(ReasonCode::KeeperKilled, exit.to_string()),
    };
    (state, waiting.or(Some(own)))
}

fn stop_reason(cause: StopCause) -> Reason {
    match cause {
        StopCause::Wish => reason(ReasonCode::StopRequested, "stopped"),
        StopCause::Replaced => reason(ReasonCode::Replaced, "replaced by a new run"),
        StopCause::Dependency => reason(ReasonCode::DependencyFailed, "a dependency failed"),
        StopCause::Unhealthy => reason(ReasonCode::Unhealthy, "restarted because it is unhealthy"),
    }
}

/// What will carry out a run of `service`, as far as that is known before it has started.
pub fn expected(service: &Service, run: &str) -> Execution {
    let run = Some(run.to_owned());
    match &service.target {
        Target::Docker { image, .. } => {
            Execution::Container { id: String::new(), image: image.display(false), pid: None, run }
        }
        Target::Systemd { unit } | Target::Attach(Attach::Unit(unit)) => {
            Execution::Unit { unit: unit.display(false), pid: None, run }
        }
        Target::Attach(Attach::External { .. }) => Execution::External { run },
        _ => Execution::Process { pid: None, run },
    }
}

fn execution(seen: &Instance) -> Execution {
    match seen.run() {
        Some(run) if seen.is_live() => run.execution.clone(),
        Some(run) => run.execution.clone().ended(),
        None => Execution::None,
    }
}

fn endpoints(world: &World, instance: &InstanceName, service: &Service) -> Vec<Endpoint> {
    let there = service.host.as_ref().and_then(|node| world.sites.address(None, Some(node)));
    let ports = service.ports.iter().enumerate();
    ports
        .filter_map(|(position, port)| {
            let number = match port.number {
                PortNumber::Fixed(number) => number,
                PortNumber::Auto => world.leases.port(instance, service, position)?,
            };
            Some(Endpoint {
                name: port.name.clone(),
                address: port.address.clone().or_else(|| there.clone()).unwrap_or_else(|| "127.0.0.1".into()),
                port: number,
                protocol: match port.protocol {
                    crate::model::Protocol::Tcp => "tcp".into(),
                    crate::model::Protocol::Udp => "udp".into(),
                },
                scope: Scope::Host,
            })
        })
        .collect()
}

fn health(seen: &Instance, lost: bool, beside: &Beside<'_>) -> Health {
    // Of the dead and of what isn't heard nothing is known: "healthy" is only what runs.
    let status = match seen.health.verdict {
        _ if lost || !seen.is_live() => HealthStatus::Unknown,
        Verdict::Unknown => HealthStatus::Unknown,
        Verdict::Healthy => HealthStatus::Healthy,
        Verdict::Unhealthy => HealthStatus::Unhealthy,
    };
    let old = beside.previous.and_then(|entry| entry.health.as_ref());
    let since = old.filter(|old| old.status == status).map_or(beside.now, |old| old.since);
    Health { status, since, last: beside.probe.cloned() }
}

//! What the registry is told about an instance. Pure.

use crate::command::{World, changes};
use crate::health::Verdict;
use crate::model::{InstanceName, PortNumber, Role, Service, Signal};
use crate::observed::{Instance, Phase, Run, StopCause};
use crate::plan::{Wish, WishGoal, reason};
use jiff::Timestamp;
use service_registry::model::{
    Endpoint, Entry, Execution, Exit, Health, HealthStatus, Location, ProbeResult, Reason, ReasonCode, Scope,
    State, Status,
};

/// What is known about an instance besides the world.
pub struct Beside<'a> {
    /// Why it waits, as the last plan said.
    pub waiting: Option<&'a Reason>,
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
    let mut entry = Entry::new(instance.service().as_str(), instance.to_string(), beside.now);
    entry.role = match service.role {
        Role::Service => "service".into(),
        Role::Task => "task".into(),
    };
    entry.execution = execution(seen);
    entry.location = Location::Local;
    entry.endpoints = endpoints(world, instance, service);
    entry.dependencies = service.dependencies.keys().map(ToString::to_string).collect();
    let since =
        beside.previous.filter(|old| old.status.state == state).map_or(beside.now, |old| old.status.since);
    let exit = seen.exit().cloned().or_else(|| beside.previous.and_then(|old| old.status.exit.clone()));
    entry.status = Status { state, since, reason, exit };
    entry.health = service.health_check.as_ref().map(|_| health(seen, beside));
    entry.ready = is_ready(seen, service);
    entry.restarts = seen.restarts;
    entry.deaths = seen.deaths;
    entry.labels = service.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(stack) = &world.stack {
        let position = stack.services.get_index_of(instance.service());
        entry.order = position.and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX);
        if let Some(now) = stack.services.get(instance.service())
            && seen.is_live()
        {
            entry.stale = changes(service, now);
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

fn execution(seen: &Instance) -> Execution {
    match seen.run() {
        Some(run) => Execution::Process {
            pid: run.pid.filter(|pid| *pid != 0 && seen.is_live()),
            run: Some(run.id.clone()),
        },
        None => Execution::None,
    }
}

fn endpoints(world: &World, instance: &InstanceName, service: &Service) -> Vec<Endpoint> {
    let ports = service.ports.iter().enumerate();
    ports
        .filter_map(|(position, port)| {
            let number = match port.number {
                PortNumber::Fixed(number) => number,
                PortNumber::Auto => world.leases.port(instance, service, position)?,
            };
            Some(Endpoint {
                name: port.name.clone(),
                address: port.address.clone().unwrap_or_else(|| "127.0.0.1".into()),
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

fn health(seen: &Instance, beside: &Beside<'_>) -> Health {
    // Of the dead nothing is known: "healthy" is only what runs.
    let status = match seen.health.verdict {
        _ if !seen.is_live() => HealthStatus::Unknown,
        Verdict::Unknown => HealthStatus::Unknown,
        Verdict::Healthy => HealthStatus::Healthy,
        Verdict::Unhealthy => HealthStatus::Unhealthy,
    };
    let old = beside.previous.and_then(|entry| entry.health.as_ref());
    let since = old.filter(|old| old.status == status).map_or(beside.now, |old| old.since);
    Health { status, since, last: beside.probe.cloned() }
}

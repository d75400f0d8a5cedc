//! Stacks made by hand for the tests of the pure rooms.

use crate::command::{PortSource, StartRequest, World, start};
use crate::graph::Services;
use crate::model::*;
use crate::network::PortRange;
use crate::observed::{Moment, Run};
use crate::plan::Wish;
use indexmap::IndexMap;
use service_registry::model::Execution;
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

pub(crate) fn instance(text: &str) -> InstanceName {
    text.parse().unwrap()
}

/// A process service without dependencies and with the defaults that a file would give.
pub(crate) fn service(text: &str) -> Service {
    Service {
        name: name(text),
        role: Role::Service,
        target: Target::Process { program: "/bin/true".into(), args: vec![] },
        network: None,
        host: None,
        replicas: 1,
        env: IndexMap::new(),
        dependencies: IndexMap::new(),
        health_check: None,
        ports: vec![],
        startup_timeout: Duration::from_secs(300),
        shutdown_timeout: Duration::from_secs(30),
        stop_signal: Signal::TERM,
        restart: Restart {
            policy: RestartPolicy::OnFailure,
            max_retries: None,
            backoff: Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(30) },
            reset_after: Duration::from_secs(10),
        },
        user: None,
        group: None,
        working_dir: None,
        resources: Resources::default(),
        labels: IndexMap::new(),
        profiles: vec![],
        on_dependency_failure: OnDependencyFailure::Ignore,
        on_dependency_change: OnDependencyChange::Ignore,
        on_unhealthy: OnUnhealthy::Ignore,
        on_node_loss: OnNodeLoss::Keep,
        logs: LogPolicy { max_size: 10 << 20, keep_files: 5, keep_runs: 5 },
        init: false,
        names: None,
        hosts: Default::default(),
        ambassadors: Default::default(),
        secrets: Default::default(),
        placement: IndexMap::new(),
        files: vec![],
        deployment: None,
        scaling: None,
        description: None,
        source: "test".into(),
    }
}

/// A health check that asks a TCP port.
pub(crate) fn check() -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp { host: None, port: "80".into() },
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
        retries: 3,
        start_period: Duration::ZERO,
        start_interval: Duration::from_millis(20),
        success_threshold: 1,
    }
}

/// Services from `web: api cache; api: db!; job?: db`: `!` behind a name asks for healthy, `?` makes a task.
pub(crate) fn services(text: &str) -> Services {
    let mut services: Services = text
        .split(';')
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let (head, needs) = part.split_once(':').unwrap();
            let mut service = service(head.trim().trim_end_matches('?'));
            if head.trim().ends_with('?') {
                service.role = Role::Task;
                service.restart.policy = RestartPolicy::No;
            }
            for need in needs.split_whitespace() {
                let condition = if need.ends_with('!') { Condition::Healthy } else { Condition::Started };
                let need = name(need.trim_end_matches('!'));
                service.dependencies.insert(need, Dependency { condition, implied: false });
            }
            (service.name.clone(), Arc::new(service))
        })
        .collect();
    let tasks: Vec<ServiceName> =
        services.values().filter(|s| s.role == Role::Task).map(|s| s.name.clone()).collect();
    let checked: Vec<ServiceName> = services
        .values()
        .flat_map(|s| s.dependencies.iter())
        .filter(|(_, d)| d.condition == Condition::Healthy)
        .map(|(n, _)| n.clone())
        .collect();
    for service in services.values_mut() {
        let service = Arc::make_mut(service);
        for (need, dependency) in &mut service.dependencies {
            if tasks.contains(need) {
                dependency.condition = Condition::Completed;
            }
        }
        if checked.contains(&service.name) {
            service.health_check = Some(check());
        }
    }
    services
}

pub(crate) fn stack(text: &str) -> Stack {
    Stack {
        name: "test".into(),
        description: None,
        folder: "/".into(),
        services: services(text),
        networks: IndexMap::new(),
        nodes: IndexMap::new(),
        secrets: IndexMap::new(),
        zone: None,
    }
}

/// A stack of these services.
pub(crate) fn stack_of(services: Vec<Service>) -> Stack {
    let services = services.into_iter().map(|service| (service.name.clone(), Arc::new(service)));
    Stack { services: services.collect(), ..stack("") }
}

/// A node at an address, with labels.
pub(crate) fn node(host: &str, labels: &[(&str, &str)]) -> Node {
    Node {
        host: host.into(),
        port: None,
        user: None,
        identity_file: None,
        sudo: false,
        jump: None,
        networks: vec![],
        region: None,
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    }
}

/// Ports from 1000 on, all of them free.
pub(crate) const PORTS: PortSource<'_> = PortSource {
    range: PortRange { first: 1000, last: 1999 },
    in_use: &|_| false,
    seed: 0,
    slot_in_use: &|_| false,
};

/// What a start of these services makes, where there are two more nodes, `one` and `two`, in the zone `a`.
pub(crate) fn on_two_nodes(services: Vec<Service>) -> World {
    let mut stack = stack_of(services);
    stack.nodes.insert("one".into(), node("10.0.0.1", &[("zone", "a")]));
    stack.nodes.insert("two".into(), node("10.0.0.2", &[("zone", "a")]));
    let mut world = World::default();
    start(&mut world, stack, &StartRequest::default(), &PORTS).unwrap();
    world
}

/// A run of what is wished that was just begun.
pub(crate) fn run_of(id: &str, wish: &Wish) -> Run {
    Run {
        id: id.to_owned(),
        epoch: wish.epoch,
        began: Moment::ZERO,
        execution: Execution::None,
        started: false,
        tells_health: false,
        service: wish.service.clone(),
        dependencies: vec![],
        given: Default::default(),
        returned: 0,
    }
}

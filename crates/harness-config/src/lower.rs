//! From what was written to what is meant: the only file that knows both.

use crate::syntax::file::{File, Settings};
use crate::syntax::health::Health;
use crate::syntax::policy;
use crate::syntax::service::Service as Written;
use indexmap::IndexMap;
use orchestrator::model::{
    Backoff, Condition, Dependency, HealthCheck, Network, NetworkKind, Node, OnDependencyChange,
    OnDependencyFailure, OnNodeLoss, OnUnhealthy, Restart, RestartPolicy, Role, Service, ServiceName, Signal,
    Stack, Subject,
};
use orchestrator::plan::node_named;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const STARTUP_TIMEOUT: Duration = Duration::from_secs(300);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
const HEALTH_INTERVAL: Duration = Duration::from_secs(30);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
const START_INTERVAL: Duration = Duration::from_millis(20);
const RESET_AFTER: Duration = Duration::from_secs(10);
const BACKOFF: Backoff = Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(30) };

/// The edges of a service as they are meant: explicit ones in the file's order, implied ones behind. Names that are no
/// service are left out; the checks have reported them.
pub(crate) fn edges(service: &Written, all: &HashMap<&str, &Written>) -> IndexMap<ServiceName, Dependency> {
    let mut edges = IndexMap::new();
    for dependency in &service.dependencies {
        let (Some(other), Ok(name)) = (all.get(dependency.name.as_str()), ServiceName::new(&dependency.name))
        else {
            continue;
        };
        let condition =
            dependency.condition.as_ref().map_or_else(|| default_condition(other), |given| given.value);
        edges.insert(name, Dependency { condition, implied: false });
    }
    for used in &service.uses {
        if let Subject::Service(name) = &used.reference.subject
            && name.as_str() != service.name
            && all.contains_key(name.as_str())
        {
            edges.entry(name.clone()).or_insert(Dependency { condition: Condition::Started, implied: true });
        }
    }
    edges
}

/// `healthy` where there is a health check, `completed` for a task, else `started`.
fn default_condition(other: &Written) -> Condition {
    match (other.role, &other.health) {
        (Role::Task, _) => Condition::Completed,
        (_, Some(_)) => Condition::Healthy,
        _ => Condition::Started,
    }
}

/// The stack of a file that passed every check. `active` are the services whose profiles are.
pub(crate) fn stack(
    file: &File,
    active: &[&Written],
    name: String,
    folder: &Path,
    source: impl Fn(&Written) -> String,
) -> Stack {
    let all: HashMap<&str, &Written> =
        active.iter().map(|service| (service.name.as_str(), *service)).collect();
    let mut services = IndexMap::new();
    for written in active {
        if let Some(service) = service(written, &file.settings, &all, source(written)) {
            services.insert(service.name.clone(), Arc::new(service));
        }
    }
    let mut networks = IndexMap::new();
    networks.insert("local".to_string(), Network { kind: NetworkKind::Local, subnet: None, interface: None });
    networks.extend(file.networks.iter().map(|network| (network.name.clone(), network.network.clone())));
    Stack {
        name,
        description: file.description.clone(),
        folder: folder.to_path_buf(),
        services,
        networks,
        nodes: nodes(file, active),
        secrets: file.secrets.iter().cloned().collect(),
        zone: file.zone.clone(),
    }
}

/// The nodes of the file, and those that services name by their address only: `host: deploy@10.0.0.5`.
fn nodes(file: &File, active: &[&Written]) -> IndexMap<String, Node> {
    let mut nodes: IndexMap<String, Node> =
        file.nodes.iter().map(|node| (node.name.clone(), node.node.clone())).collect();
    for host in active.iter().filter_map(|service| service.host.as_ref()).map(|host| &host.value) {
        if host == "localhost" || node_named(&nodes, host).is_some() {
            continue;
        }
        let (user, address) = match host.rsplit_once('@') {
            Some((user, address)) => (Some(user.to_owned()), address),
            None => (None, host.as_str()),
        };
        let node = Node {
            host: address.to_owned(),
            port: None,
            user,
            identity_file: None,
            sudo: false,
            jump: None,
            networks: Vec::new(),
            region: None,
            labels: IndexMap::new(),
        };
        nodes.insert(host.clone(), node);
    }
    nodes
}

fn service(
    written: &Written,
    settings: &Settings,
    all: &HashMap<&str, &Written>,
    source: String,
) -> Option<Service> {
    Some(Service {
        name: ServiceName::new(&written.name).ok()?,
        role: written.role,
        target: written.target.clone()?,
        network: written.network.as_ref().map(|network| network.value.clone()),
        host: written.host.as_ref().map(|host| host.value.clone()).filter(|host| host != "localhost"),
        replicas: replicas(written),
        env: written.env.clone(),
        dependencies: edges(written, all),
        health_check: written.health.as_ref().map(|health| health_check(health, settings)),
        ports: written.ports.iter().map(|port| port.value.clone()).collect(),
        startup_timeout: written.startup_timeout.or(settings.startup_timeout).unwrap_or(STARTUP_TIMEOUT),
        shutdown_timeout: written.shutdown_timeout.or(settings.shutdown_timeout).unwrap_or(SHUTDOWN_TIMEOUT),
        stop_signal: written.stop_signal.unwrap_or(Signal::TERM),
        restart: restart(&written.restart, written.role),
        user: written.user.clone(),
        group: written.group.clone(),
        working_dir: written.working_dir.clone(),
        resources: written.resources.clone(),
        labels: written.labels.clone(),
        profiles: written.profiles.iter().map(|profile| profile.value.clone()).collect(),
        on_dependency_failure: written.on_dependency_failure.unwrap_or(OnDependencyFailure::Ignore),
        on_dependency_change: written.on_dependency_change.unwrap_or(OnDependencyChange::Ignore),
        on_unhealthy: written.on_unhealthy.unwrap_or(OnUnhealthy::Ignore),
        on_node_loss: written.on_node_loss.as_ref().map_or(OnNodeLoss::Keep, |loss| loss.value),
        logs: written.logs.clone(),
        init: written.init,
        names: written.names,
        hosts: Default::default(),
        ambassadors: Default::default(),
        secrets: Default::default(),
        placement: written.placement.clone(),
        files: written.files.iter().map(|file| file.value.clone()).collect(),
        deployment: written.deployment.clone(),
        scaling: written.scaling.clone(),
        description: written.description.clone(),
        source,
    })
}

/// How many instances: what is written, else what scaling begins with, else one.
pub(crate) fn replicas(written: &Written) -> u32 {
    let least = written.scaling.as_ref().map(|scaling| scaling.min);
    written.replicas.as_ref().map(|replicas| replicas.value).or(least).unwrap_or(1)
}

fn restart(written: &policy::Restart, role: Role) -> Restart {
    let default = if role == Role::Task { RestartPolicy::No } else { RestartPolicy::OnFailure };
    let initial = written.initial.unwrap_or(BACKOFF.initial.min(written.max.unwrap_or(BACKOFF.max)));
    Restart {
        policy: written.policy.unwrap_or(default),
        max_retries: written.max_retries,
        backoff: Backoff { initial, max: written.max.unwrap_or(BACKOFF.max.max(initial)) },
        reset_after: written.reset_after.unwrap_or(RESET_AFTER),
    }
}

fn health_check(written: &Health, settings: &Settings) -> HealthCheck {
    let interval = written.interval.or(settings.health_check_interval).unwrap_or(HEALTH_INTERVAL);
    HealthCheck {
        probe: written.probe.clone(),
        interval,
        timeout: written.timeout.unwrap_or(HEALTH_TIMEOUT),
        retries: written.retries.unwrap_or(3),
        start_period: written.start_period.unwrap_or(Duration::ZERO),
        start_interval: written.start_interval.unwrap_or(START_INTERVAL).min(interval),
        success_threshold: written.success_threshold.unwrap_or(1),
    }
}

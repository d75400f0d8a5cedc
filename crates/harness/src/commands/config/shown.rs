//! The stack in the words of services.yaml, with values of the environment masked.

use orchestrator::model::{
    Attach, Condition, HealthCheck, Port, PortNumber, Probe, Protocol, Restart, Role, Service, Stack, Target,
    Template,
};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// What stands in the place of a value that may be a secret.
pub(super) const MASK: &str = "********";

/// The whole of it.
pub(super) fn stack(stack: &Stack, show_values: bool) -> Value {
    let of = |role: Role| -> Map<String, Value> {
        let all = stack.services.values().filter(|service| service.role == role);
        all.map(|service| (service.name.to_string(), self::service(service, show_values))).collect()
    };
    let networks: Map<String, Value> = stack
        .networks
        .iter()
        .map(|(name, network)| {
            let fields =
                json!({ "type": network.kind, "subnet": network.subnet, "interface": network.interface });
            (name.clone(), fields)
        })
        .collect();
    let mut document = json!({
        "version": "1.0",
        "name": stack.name,
        "description": stack.description,
        "networks": networks,
        "nodes": stack.nodes,
        "secrets": stack.secrets.keys().collect::<Vec<_>>(),
        "tasks": of(Role::Task),
        "services": of(Role::Service),
    });
    prune(&mut document);
    document
}

/// Who it needs, and what of them.
pub(super) fn dependencies(service: &Service) -> Value {
    let all = service.dependencies.iter();
    let pairs = all.map(|(name, d)| (name.to_string(), json!({ "condition": condition(d.condition) })));
    Value::Object(pairs.collect())
}

/// The word of a condition.
pub(super) fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Started => "started",
        Condition::Healthy => "healthy",
        Condition::Completed => "completed",
        Condition::None => "none",
    }
}

fn service(service: &Service, show: bool) -> Value {
    let text = |template: &Template| template.display(show);
    let maybe = |template: &Option<Template>| template.as_ref().map(text);
    let env: Map<String, Value> = service
        .env
        .iter()
        .map(|(name, value)| (name.clone(), if show { text(value).into() } else { MASK.into() }))
        .collect();
    let mut shown = json!({ "type": service.target.type_name() });
    merge(&mut shown, target(&service.target, show));
    let deployment = service.deployment.as_ref().map(|deployment| {
        json!({
            "strategy": deployment.strategy,
            "max_parallel": deployment.max_parallel,
            "rollback_on_failure": deployment.rollback_on_failure,
        })
    });
    merge(
        &mut shown,
        json!({
            "description": service.description,
            "network": service.network,
            "host": service.host,
            "replicas": if service.replicas == 1 { Value::Null } else { service.replicas.into() },
            "env": env,
            "dependencies": dependencies(service),
            "health_check": service.health_check.as_ref().map(|check| health(check, show)),
            "ports": service.ports.iter().map(port).collect::<Vec<_>>(),
            "startup_timeout": time(service.startup_timeout),
            "shutdown_timeout": time(service.shutdown_timeout),
            "stop_signal": service.stop_signal.to_string(),
            "restart": restart(&service.restart),
            "user": maybe(&service.user),
            "group": maybe(&service.group),
            "working_dir": maybe(&service.working_dir),
            "resources": service.resources,
            "labels": service.labels,
            "profiles": service.profiles,
            "on_dependency_failure": service.on_dependency_failure,
            "on_dependency_change": service.on_dependency_change,
            "on_unhealthy": service.on_unhealthy,
            "logs": service.logs,
            "placement": service.placement,
            "deployment": deployment,
        }),
    );
    shown
}

fn target(target: &Target, show: bool) -> Value {
    let text = |template: &Template| template.display(show);
    let list = |templates: &[Template]| templates.iter().map(text).collect::<Vec<_>>();
    let maybe_list = |templates: &Option<Vec<Template>>| templates.as_deref().map(list);
    let maybe = |template: &Option<Template>| template.as_ref().map(text);
    match target {
        Target::Process { program, args } => json!({ "binary": text(program), "args": list(args) }),
        Target::Docker { image, command, entrypoint, volumes, pull } => json!({
            "image": text(image),
            "command": maybe_list(command),
            "entrypoint": maybe_list(entrypoint),
            "volumes": list(volumes),
            "pull": pull,
        }),
        Target::Compose { file, service } => json!({ "file": text(file), "service": maybe(service) }),
        Target::Systemd { unit } => json!({ "unit": text(unit) }),
        Target::Portable { image, unit, profile } => {
            json!({ "image": text(image), "unit": maybe(unit), "profile": maybe(profile) })
        }
        Target::Package { package, version, install_path, pre_install, post_install } => json!({
            "package": text(package),
            "version": maybe(version),
            "install_path": maybe(install_path),
            "pre_install": maybe_list(pre_install),
            "post_install": maybe_list(post_install),
        }),
        Target::Attach(Attach::PidFile(file)) => json!({ "pid_file": text(file) }),
        Target::Attach(Attach::ProcessName(name)) => json!({ "process_name": text(name) }),
        Target::Attach(Attach::Container(name)) => json!({ "container": text(name) }),
        Target::Attach(Attach::Unit(unit)) => json!({ "unit": text(unit) }),
        Target::Attach(Attach::Managed(managed)) => json!({ "managed": {
            "start": maybe_list(&managed.start),
            "stop": maybe_list(&managed.stop),
            "status": maybe_list(&managed.status),
            "logs": maybe_list(&managed.logs),
        } }),
        Target::Attach(Attach::External { host, port }) => {
            json!({ "external": { "host": text(host), "port": port } })
        }
    }
}

fn health(check: &HealthCheck, show: bool) -> Value {
    let mut shown = probe(&check.probe, show);
    merge(
        &mut shown,
        json!({
            "interval": time(check.interval),
            "timeout": time(check.timeout),
            "retries": check.retries,
            "start_period": time(check.start_period),
            "start_interval": time(check.start_interval),
            "success_threshold": check.success_threshold,
        }),
    );
    shown
}

fn probe(probe: &Probe, show: bool) -> Value {
    match probe {
        Probe::Command { argv, expected_exit, expected_output } => {
            let mut words = argv.iter().map(|word| word.display(show));
            json!({
                "command": words.next(),
                "args": words.collect::<Vec<_>>(),
                "expected_exit": expected_exit,
                "expected_output": expected_output,
            })
        }
        Probe::Http(http) => {
            // A header may be a token.
            let headers: Map<String, Value> = http
                .headers
                .iter()
                .map(|(name, value)| {
                    (name.clone(), if show { value.display(true).into() } else { MASK.into() })
                })
                .collect();
            json!({ "http": {
                "url": http.url.display(show),
                "method": http.method,
                "headers": headers,
                "expected_status": http.expected_status,
                "expected_body": http.expected_body,
            } })
        }
        Probe::Tcp { host, port } => {
            json!({ "tcp": { "host": host.as_ref().map(|host| host.display(show)), "port": port.display(show) } })
        }
        Probe::All(all) => json!({ "all": all.iter().map(|one| self::probe(one, show)).collect::<Vec<_>>() }),
    }
}

fn port(port: &Port) -> Value {
    json!({
        "name": port.name,
        "port": match port.number {
            PortNumber::Fixed(number) => Value::from(number),
            PortNumber::Auto => Value::from("auto"),
        },
        "target": port.target,
        "protocol": match port.protocol {
            Protocol::Tcp => Value::Null,
            Protocol::Udp => Value::from("udp"),
        },
        "address": port.address,
    })
}

fn restart(restart: &Restart) -> Value {
    json!({
        "policy": restart.policy,
        "max_retries": restart.max_retries,
        "backoff": { "initial": time(restart.backoff.initial), "max": time(restart.backoff.max) },
        "reset_after": time(restart.reset_after),
    })
}

/// A duration as services.yaml takes it, without loss.
fn time(duration: Duration) -> Value {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1000) {
        format!("{}s", millis / 1000).into()
    } else {
        format!("{millis}ms").into()
    }
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

/// Takes away what says nothing: null, and empty lists and maps.
fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            fields.retain(|_, value| match value {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(fields) => !fields.is_empty(),
                _ => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

//! Keys that mean nothing for a type: what runs there is told elsewhere how.

use super::Facts;
use crate::diagnostic::Diagnostic;
use crate::lower::replicas;
use crate::syntax::service::Service;
use orchestrator::model::{Deployment, NameView, Strategy};

/// Keys without effect, and copies that can't be made.
pub(super) fn effects(facts: &Facts<'_>, out: &mut Vec<Diagnostic>) {
    for service in facts.active {
        not_yet(service, out);
        let Some(kind) = service.kind else { continue };
        let idle: Vec<&str> = written(service).into_iter().filter(|key| !has_effect(kind, key)).collect();
        if !idle.is_empty() {
            let (keys, have) = (idle.join(", "), if idle.len() == 1 { "has" } else { "have" });
            out.push(
                Diagnostic::warning(
                    "no-effect",
                    service.span,
                    format!("{keys} {have} no effect on `{}`", service.name),
                )
                .label(format!("of type {kind}, which {}", told_by(kind))),
            );
        }
        if kind == "docker" && service.group.is_some() && service.user.is_none() {
            out.push(
                Diagnostic::error(
                    "group",
                    service.span,
                    format!("`{}` has a group and no user", service.name),
                )
                .label("docker takes a group only together with a user")
                .help("name the user too: `user: …`"),
            );
        }
        let copies = replicas(service).max(service.scaling.as_ref().map_or(0, |scaling| scaling.max));
        if copies > 1 && matches!(kind, "systemd" | "portable" | "compose" | "attach") {
            out.push(
                Diagnostic::error(
                    "replicas",
                    service.span,
                    format!(
                        "`{}` can't have {copies} instances: there is one of what it names",
                        service.name
                    ),
                )
                .label(format!("of type {kind}")),
            );
        }
    }
}

/// Keys that this version reads and checks, and does nothing about.
fn not_yet(service: &Service, out: &mut Vec<Diagnostic>) {
    let mut keys = service.deployment.as_ref().map(|it| not_deployed(service, it)).unwrap_or_default();
    keys.extend(service.scaling.is_some().then(|| "scaling".to_owned()));
    if !keys.is_empty() {
        let (keys, are) = (keys.join(", "), if keys.len() == 1 { "isn't" } else { "aren't" });
        out.push(
            Diagnostic::warning(
                "not-yet",
                service.span,
                format!("{keys} of `{}` {are} carried out yet", service.name),
            )
            .label("it runs as if that weren't there"),
        );
    }
}

/// What `deploy` doesn't do of this. It restarts what is made of a package, some instances at a time.
fn not_deployed(service: &Service, deployment: &Deployment) -> Vec<String> {
    if service.kind != Some("package") {
        return vec!["deployment".into()];
    }
    let strategy = match deployment.strategy {
        Strategy::Recreate | Strategy::Rolling => None,
        Strategy::BlueGreen | Strategy::Canary => Some("deployment.strategy".to_owned()),
    };
    strategy.into_iter().chain(deployment.options.keys().map(|key| format!("deployment.{key}"))).collect()
}

/// Ways to see names, which only some types have.
const HOSTS: &str = "names: hosts";
const AMBASSADOR: &str = "names: ambassador";

/// Those of the keys in question that the service has.
fn written(service: &Service) -> Vec<&'static str> {
    let resources = &service.resources;
    let keys = [
        ("env", !service.env.is_empty()),
        ("user", service.user.is_some()),
        ("group", service.group.is_some()),
        ("working_dir", service.working_dir.is_some()),
        ("stop_signal", service.stop_signal.is_some()),
        ("init", service.init),
        (HOSTS, service.names == Some(NameView::Hosts)),
        (AMBASSADOR, service.names == Some(NameView::Ambassador)),
        ("resources.memory", resources.memory.is_some()),
        ("resources.cpus", resources.cpus.is_some()),
        ("resources.nice", resources.nice.is_some()),
        ("resources.open_files", resources.open_files.is_some()),
    ];
    keys.into_iter().filter(|(_, written)| *written).map(|(key, _)| key).collect()
}

fn has_effect(kind: &str, key: &str) -> bool {
    match kind {
        "docker" => key != "resources.nice" && key != HOSTS,
        // A Compose file's `${VAR}` are filled from `env`, and commands of the user's own are given it.
        "compose" => key == "env" || key == AMBASSADOR,
        "attach" => matches!(key, "env" | "working_dir"),
        "systemd" | "portable" => false,
        // Limits that a process can't be held to have their own warning.
        _ => key != "init" && key != AMBASSADOR,
    }
}

fn told_by(kind: &str) -> &'static str {
    match kind {
        "docker" => "has no niceness, and resolves names without a hosts file of ours",
        "compose" => "its file tells how to run",
        "attach" => "somebody else runs",
        "systemd" | "portable" => "its unit file tells how to run",
        _ => "is no container",
    }
}

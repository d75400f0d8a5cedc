//! Names of services that something depends on or refers to.

use super::Facts;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::source::Span;
use crate::syntax::reader::{Use, shown};
use crate::syntax::service::Service;
use orchestrator::model::{Condition, Field, Role, Subject, Target};

pub(super) fn dependencies(facts: &Facts<'_>, out: &mut Vec<Diagnostic>) {
    for service in facts.active {
        for dependency in &service.dependencies {
            if dependency.name == service.name {
                out.push(
                    Diagnostic::error(
                        "self-dependency",
                        dependency.span,
                        format!("`{}` depends on itself", service.name),
                    )
                    .label("expected another service"),
                );
                continue;
            }
            let Some(other) = facts.by_name.get(dependency.name.as_str()) else {
                out.push(unknown(facts, &dependency.name, dependency.span));
                continue;
            };
            let Some(condition) = &dependency.condition else { continue };
            match (condition.value, other.role, &other.health) {
                // The image of a container may have a check of its own.
                (Condition::Healthy, _, None) if !may_tell_health(other) => out.push(
                    Diagnostic::error(
                        "condition",
                        condition.span,
                        format!(
                            "`{}` has no health check, so it can't be waited for to be healthy",
                            other.name
                        ),
                    )
                    .label("expected started, completed or none")
                    .related(other.span, "declared here"),
                ),
                (Condition::Completed, Role::Service, _) if !ends(other) => out.push(
                    Diagnostic::error(
                        "condition",
                        condition.span,
                        format!("`{}` never completes: it is restarted", other.name),
                    )
                    .label("expected a task, or a service with `restart: no` or `on-failure`")
                    .related(other.span, "declared here"),
                ),
                _ => {}
            }
        }
    }
}

/// Whether what carries a service out may tell its health without a check of ours.
fn may_tell_health(service: &Service) -> bool {
    matches!(service.target, Some(Target::Docker { .. } | Target::Compose { service: Some(_), .. }))
}

/// Whether a service may end by itself.
fn ends(service: &Service) -> bool {
    use orchestrator::model::RestartPolicy::{Always, UnlessStopped};
    !matches!(service.restart.policy, Some(Always | UnlessStopped))
}

fn unknown(facts: &Facts<'_>, name: &str, span: Span) -> Diagnostic {
    if let Some(other) = facts.inactive.get(name) {
        let profile = other.profiles.first().map_or("", |profile| profile.value.as_str());
        return Diagnostic::error(
            "inactive",
            span,
            format!("`{name}` is not active: it belongs to the profile `{profile}`"),
        )
        .label("not active")
        .related(other.span, "declared here")
        .help(format!("activate it: --profile {profile}"));
    }
    let known = facts.active.iter().map(|service| service.name.as_str());
    Diagnostic::error("unknown-service", span, format!("there is no service or task `{}`", shown(name)))
        .label("unknown service")
        .maybe_help(did_you_mean(name, known))
}

pub(super) fn references(facts: &Facts<'_>, out: &mut Vec<Diagnostic>) {
    for service in facts.active {
        for used in &service.uses {
            reference(facts, service, used, out);
        }
    }
}

fn reference(facts: &Facts<'_>, service: &Service, used: &Use, out: &mut Vec<Diagnostic>) {
    let owner = match &used.reference.subject {
        Subject::Secret(name) => return secret(facts, name, used, out),
        Subject::Own => service,
        Subject::Service(name) if name.as_str() == service.name => service,
        Subject::Service(name) => match facts.by_name.get(name.as_str()) {
            Some(other) => other,
            None => return out.push(unknown(facts, name.as_str(), used.span)),
        },
    };
    // Something elsewhere declares its port in `external`; a Compose file or a unit knows its own.
    let external = matches!(owner.target, Some(Target::Attach(orchestrator::model::Attach::External { .. })));
    let problem = match &used.reference.field {
        Field::Port(None) | Field::Url if owner.ports.is_empty() && !external => {
            Some((format!("`{}` declares no ports", owner.name), None))
        }
        Field::Port(Some(wanted)) => {
            let names: Vec<&str> = owner.ports.iter().filter_map(|port| port.value.name.as_deref()).collect();
            (!names.contains(&wanted.as_str())).then(|| {
                let help = match names.as_slice() {
                    [] => Some(format!("name one: ports: [{{name: {wanted}, port: …}}]")),
                    names => did_you_mean(wanted, names.iter().copied()),
                };
                (format!("`{}` has no port named `{wanted}`", owner.name), help)
            })
        }
        _ => None,
    };
    if let Some((message, help)) = problem {
        let mut diagnostic =
            Diagnostic::error("undeclared", used.span, message).label("not declared").maybe_help(help);
        if owner.name != service.name {
            diagnostic = diagnostic.related(owner.span, "declared here");
        }
        out.push(diagnostic);
    }
}

fn secret(facts: &Facts<'_>, name: &str, used: &Use, out: &mut Vec<Diagnostic>) {
    let known = || facts.file.secrets.iter().map(|(name, _)| name.as_str());
    if !known().any(|secret| secret == name) {
        let help = did_you_mean(name, known().collect::<Vec<_>>())
            .unwrap_or_else(|| "there are no `secrets:`".into());
        out.push(
            Diagnostic::error("unknown-secret", used.span, format!("there is no secret `{}`", shown(name)))
                .label("unknown secret")
                .help(help),
        );
    } else if used.in_args {
        out.push(
            Diagnostic::warning(
                "secret",
                used.span,
                "a secret in arguments can be seen by every user of the machine",
            )
            .label("seen in ps")
            .help("pass it in `env` or as a file"),
        );
    }
}

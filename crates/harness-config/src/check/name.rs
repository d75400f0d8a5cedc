//! Names that aren't names, and names that clash.

use super::Facts;
use crate::diagnostic::Diagnostic;
use crate::syntax::reader::shown;
use crate::syntax::service::Service;
use orchestrator::model::{InstanceName, ServiceName};
use std::collections::HashMap;

/// Words that `${…}` needs for itself.
const RESERVED: [&str; 2] = ["self", "secrets"];

pub(super) fn names(facts: &Facts<'_>, out: &mut Vec<Diagnostic>) {
    let all = &facts.file.services;
    let mut lower: HashMap<String, &Service> = HashMap::new();
    let mut prefixes: HashMap<String, &Service> = HashMap::new();
    for service in all {
        let name = match ServiceName::new(&service.name) {
            Ok(name) => name,
            Err(error) => {
                let suggestion = sanitise(&service.name);
                out.push(
                    Diagnostic::error(
                        "name",
                        service.span,
                        format!("`{}` can't be a name", shown(&service.name)),
                    )
                    .label(error.to_string())
                    .maybe_help(
                        ServiceName::new(&suggestion).ok().map(|name| format!("for example `{name}`")),
                    ),
                );
                match lower.get(&service.name.to_ascii_lowercase()).copied() {
                    Some(first) => out.push(clash(service, first, "names are compared without case")),
                    None => {
                        lower.insert(service.name.to_ascii_lowercase(), service);
                    }
                }
                continue;
            }
        };
        if RESERVED.contains(&name.as_str()) {
            out.push(
                Diagnostic::error(
                    "name",
                    service.span,
                    format!("`{name}` has a meaning of its own in ${{{name}.…}}"),
                )
                .label("expected another name"),
            );
        }
        if let Some(first) = lower.get(name.as_str()).copied() {
            let what = if first.name == service.name {
                "a task and a service can't have the same name"
            } else {
                "names are compared without case"
            };
            out.push(clash(service, first, what));
            continue;
        }
        lower.insert(service.name.clone(), service);
        if let Some(first) = prefixes.insert(name.variable_prefix(), service) {
            let what = format!("both give others the variables {}_HOST and {0}_PORT", name.variable_prefix());
            out.push(clash(service, first, &what));
        }
    }
    for service in all {
        let Ok(instance) = service.name.parse::<InstanceName>() else { continue };
        if let Some(first) = lower.get(instance.service().as_str()).copied() {
            out.push(clash(service, first, &format!("the instances of `{}` have such names", first.name)));
        }
    }
}

fn clash(service: &Service, first: &Service, why: &str) -> Diagnostic {
    let message = if service.name == first.name {
        format!("`{}` is there twice: {why}", service.name)
    } else {
        format!("`{}` clashes with `{}`: {why}", shown(&service.name), shown(&first.name))
    };
    Diagnostic::error("name-clash", service.span, message)
        .label("clashes")
        .related(first.span, "with this one")
}

/// A name made of what may be in one.
pub(crate) fn sanitise(text: &str) -> String {
    let mut out: String = text
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '-' | '_') => c,
            _ => '-',
        })
        .collect();
    out.truncate(63);
    out.trim_start_matches(['-', '_']).trim_end_matches('-').to_string()
}

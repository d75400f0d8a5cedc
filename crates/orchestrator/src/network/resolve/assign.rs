//! A definition as another node's agent is told to run it: with every hole filled, and nothing left to look up.

use super::{Caller, Unresolved, View, address, names, variables};
use crate::model::{PortNumber, Segment, Service, Template};

/// The definition of the caller's service for the node that it is placed on. Dependencies are the project's daemon's to
/// keep, so it has none; ports are those that were leased to the instance.
///
/// # Errors
/// See [`Unresolved`].
pub fn assigned(caller: &Caller<'_, '_>, node: &str) -> Result<Service, Unresolved> {
    let machine = Caller { view: View::Machine, inside: false, ..*caller };
    let mut service = caller.service.rewritten(|text| filled(caller, text), |text| filled(&machine, text))?;
    let own = std::mem::take(&mut service.env);
    for (name, value) in variables(caller, node) {
        service.env.insert(name, Template::literal(value));
    }
    service.env.extend(own);
    service.hosts = names(caller);
    service.ambassadors = names::ambassadors(caller);
    service.dependencies.clear();
    service.placement.clear();
    service.host = None;
    for (position, port) in service.ports.iter_mut().enumerate() {
        if let Some(number) = caller.leases.port(caller.instance, caller.service, position) {
            port.number = PortNumber::Fixed(number);
        }
    }
    Ok(service)
}

/// The text with its holes filled. One that holds a value from outside the file is masked as that value was.
fn filled(caller: &Caller<'_, '_>, template: &Template) -> Result<Template, Unresolved> {
    let segments = template.segments.iter().map(|segment| match segment {
        Segment::Reference(reference) => {
            let value = address::value(caller, reference)?;
            Ok(match &reference.subject {
                crate::model::Subject::Secret(name) => {
                    Segment::Value { name: format!("secrets.{name}"), value }
                }
                _ => Segment::Text(value),
            })
        }
        other => Ok(other.clone()),
    });
    Ok(Template { segments: segments.collect::<Result<_, Unresolved>>()? })
}

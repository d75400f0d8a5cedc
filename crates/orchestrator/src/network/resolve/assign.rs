//! A definition as another node's agent is told to run it: with every hole filled, and nothing left to look up.

use super::{Caller, Unresolved, View, address, names, variables};
use crate::model::{PortNumber, Segment, Service, Subject, Template};
use std::collections::BTreeMap;

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
    service.secrets = secrets(caller);
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

/// The variable that tells a process in which folder the files of secrets are.
pub const SECRETS_VARIABLE: &str = "HARNESS_SECRETS";

/// The secrets that a process gets as files on another node: those that its definition refers to, and all of them where it
/// names the folder. Nothing goes to a machine that has no use for it.
fn secrets(caller: &Caller<'_, '_>) -> BTreeMap<String, String> {
    if caller.service.target.is_hosted() {
        return BTreeMap::new();
    }
    let segments = || caller.service.templates().flat_map(|template| &template.segments);
    let names_folder = segments().any(|segment| match segment {
        Segment::Text(text) | Segment::Value { value: text, .. } => text.contains(SECRETS_VARIABLE),
        Segment::Reference(_) => false,
    });
    let refers_to = |name: &String| {
        segments().any(|segment| match segment {
            Segment::Reference(reference) => reference.subject == Subject::Secret(name.clone()),
            _ => false,
        })
    };
    let all = caller.secrets.iter().filter(|(name, _)| names_folder || refers_to(name));
    all.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The text with its holes filled. One that holds a value from outside the file is masked as that value was.
fn filled(caller: &Caller<'_, '_>, template: &Template) -> Result<Template, Unresolved> {
    let segments = template.segments.iter().map(|segment| match segment {
        Segment::Reference(reference) => {
            let value = address::value(caller, reference)?;
            Ok(match &reference.subject {
                Subject::Secret(name) => Segment::Value { name: format!("secrets.{name}"), value },
                _ => Segment::Text(value),
            })
        }
        other => Ok(other.clone()),
    });
    Ok(Template { segments: segments.collect::<Result<_, Unresolved>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Field, InstanceName, Reference, Target};
    use crate::network::{AddressLeases, PortLeases, Sites, Virtuals};
    use crate::testing;

    fn given(template: Template, target: Target) -> Vec<String> {
        let mut service = testing::service("web");
        service.target = target;
        service.env.insert("X".into(), template);
        let secrets = [("a", "1"), ("b", "2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let (instance, secrets) = (InstanceName::new(service.name.clone(), 1), BTreeMap::from(secrets));
        let (leases, addresses) = (PortLeases::default(), AddressLeases::default());
        let (sites, virtuals, networks) = (Sites::default(), Virtuals::default(), Default::default());
        let caller = Caller {
            instance: &instance,
            service: &service,
            view: View::Machine,
            inside: true,
            lookup: &|_| None,
            leases: &leases,
            network: None,
            addresses: &addresses,
            sites: &sites,
            virtuals: &virtuals,
            networks: &networks,
            secrets: &secrets,
        };
        assigned(&caller, "eu-1").unwrap().secrets.into_keys().collect()
    }

    #[test]
    fn only_what_a_process_has_a_use_for_goes_to_its_node() {
        let process = || testing::service("web").target;
        let subject = Subject::Secret("b".into());
        let reference = Segment::Reference(Reference { subject, field: Field::Value });
        let refers = Template { segments: vec![reference] };
        assert_eq!(given("nothing".into(), process()), [""; 0]);
        assert_eq!(given(refers.clone(), process()), ["b"]);
        assert_eq!(given("$HARNESS_SECRETS/a".into(), process()), ["a", "b"]);
        let unit = Target::Systemd { unit: "web.service".into() };
        assert_eq!(given(refers, unit), [""; 0], "what somebody else runs reads none of our files");
    }
}

//! What must hold between the parts of a file. Every check reports and goes on.

mod cycle;
mod effect;
mod machine;
mod name;
mod place;
mod refer;

use crate::diagnostic::Diagnostic;
use crate::source::Files;
use crate::syntax::file::File;
use crate::syntax::service::Service;
use std::collections::{BTreeMap, HashMap, HashSet};

pub(crate) use name::sanitise;

/// Whether a project may be called that.
pub(crate) fn is_name(name: &str) -> bool {
    orchestrator::model::ServiceName::new(name).is_ok()
}

/// What the checks look at.
pub(crate) struct Facts<'a> {
    pub(crate) file: &'a File,
    /// Services whose profiles are active, in the file's order.
    pub(crate) active: &'a [&'a Service],
    /// The same by name.
    pub(crate) by_name: &'a HashMap<&'a str, &'a Service>,
    /// Services whose profiles are not.
    pub(crate) inactive: &'a HashMap<&'a str, &'a Service>,
    pub(crate) caller: &'a BTreeMap<String, String>,
    pub(crate) files: &'a dyn Files,
    /// Whether what is missing on this machine is an error.
    pub(crate) strict: bool,
}

/// Runs every check.
pub(crate) fn check(facts: &Facts<'_>, out: &mut Vec<Diagnostic>) {
    name::names(facts, out);
    refer::dependencies(facts, out);
    refer::references(facts, out);
    cycle::cycles(facts, out);
    place::places(facts, out);
    place::ports(facts, out);
    place::zone(facts, out);
    place::subnets(facts, out);
    effect::effects(facts, out);
    machine::needs(facts, out);
}

/// Services whose profiles are active: those without one, and those with one that was asked for (`*` asks for all).
pub(crate) fn is_active(service: &Service, profiles: &HashSet<&str>) -> bool {
    service.profiles.is_empty()
        || profiles.contains("*")
        || service.profiles.iter().any(|profile| profiles.contains(profile.value.as_str()))
}

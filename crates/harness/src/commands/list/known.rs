//! What a daemon knows of its services, where their file isn't here: the definitions are told by what became of them.

use super::super::status::Facts;
use super::{Listed, states};
use indexmap::IndexMap;
use service_registry::model::{Entry, Execution};

/// Those with instances in the order of the daemon's listing, then those that nobody wants.
pub(super) fn services(facts: &Facts) -> Vec<(Listed, Vec<&Entry>)> {
    let mut all: IndexMap<&str, Vec<&Entry>> = IndexMap::new();
    for entry in &facts.entries {
        all.entry(&entry.service).or_default().push(entry);
    }
    for name in &facts.not_started {
        all.entry(name).or_default();
    }
    all.into_iter().map(|(name, entries)| (listed(name, &entries), entries)).collect()
}

fn listed(name: &str, entries: &[&Entry]) -> Listed {
    let first = entries.first();
    let port = |endpoint: &service_registry::model::Endpoint| {
        endpoint.name.as_ref().map_or(endpoint.port.to_string(), |name| format!("{name}:{}", endpoint.port))
    };
    Listed {
        name: name.to_owned(),
        role: first.map_or("service", |entry| if entry.role == "task" { "task" } else { "service" }),
        kind: entries.iter().map(|entry| kind(&entry.execution)).find(|kind| !kind.is_empty()).unwrap_or(""),
        replicas: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        ports: first.map(|entry| entry.endpoints.iter().map(port).collect()).unwrap_or_default(),
        dependencies: first.map(|entry| entry.dependencies.clone()).unwrap_or_default(),
        labels: first.map(|entry| entry.labels.clone().into_iter().collect()).unwrap_or_default(),
        description: None,
        source: None,
        instances: states(entries),
    }
}

/// The type that the file most likely has; nothing where it isn't carried out at the moment.
fn kind(execution: &Execution) -> &'static str {
    match execution {
        Execution::Process { .. } => "process",
        Execution::Container { .. } => "docker",
        Execution::Compose { .. } => "compose",
        Execution::Unit { .. } => "systemd",
        Execution::External { .. } => "attach",
        Execution::None | Execution::Unknown => "",
    }
}

//! `harness list`.

mod known;

use super::filter::{self, Filter, Subject};
use super::{Context, examples, load, status};
use crate::connect;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::ui::describe::{self, look};
use crate::ui::table::Table;
use indexmap::IndexMap;
use orchestrator::model::{PortNumber, Role, Service};
use serde::Serialize;
use service_registry::model::Entry;

/// List the services of the file, with their types, ports, needs and states
///
/// With -H wss:// those that the daemon over there knows.
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness list                            All services of the file"
    "harness list --filter state=running     Those that run"
    "harness list --filter 'web*' -o json    By name, for programs"
])]
pub(crate) struct Args {
    /// state=, health=, type=, name=, label.KEY= or a name with wildcards (again for more: all must hold)
    #[arg(short, long, value_name = "FILTER", value_parser = filter::parse)]
    filter: Vec<Filter>,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    services: &'a [Listed],
}

#[derive(Serialize)]
struct Listed {
    name: String,
    role: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    replicas: u32,
    ports: Vec<String>,
    dependencies: Vec<String>,
    labels: IndexMap<String, String>,
    description: Option<String>,
    source: Option<String>,
    instances: Vec<State>,
}

#[derive(Serialize)]
struct State {
    instance: String,
    state: &'static str,
    summary: &'static str,
    health: &'static str,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let stack = match project.remote {
        Some(_) => None,
        None => Some(load::look(context, &project)?.stack),
    };
    let facts = connect::block_on(async |executor| {
        let daemon = connect::existing(executor, &project).await?;
        status::facts(context, &project, daemon.as_ref(), &[]).await
    })?;
    let mut services: Vec<(Listed, Vec<&Entry>)> = match &stack {
        None => known::services(&facts),
        Some(stack) => stack
            .services
            .values()
            .map(|service| {
                let own = facts.entries.iter().filter(|entry| entry.service == service.name.as_str());
                let own: Vec<&Entry> = own.collect();
                (listed(service, &own), own)
            })
            .collect(),
    };
    services.retain(|(service, own)| args.filter.iter().all(|filter| holds(filter, service, own)));
    let services: Vec<Listed> = services.into_iter().map(|(service, _)| service).collect();
    if context.ui.is_table() {
        context.ui.out(table(&services).lines(context.ui.stdout_width()).join("\n"))?;
    } else {
        context.ui.document(&Document { schema: 1, services: &services })?;
    }
    Ok(Exit::OK)
}

fn holds(filter: &Filter, service: &Listed, entries: &[&Entry]) -> bool {
    let subject = Subject {
        service: &service.name,
        kind: service.kind,
        labels: service.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        ..Subject::default()
    };
    if entries.is_empty() {
        return filter.holds(&Subject { states: vec!["not-started"], ..subject });
    }
    entries.iter().any(|entry| {
        filter.holds(&Subject {
            instance: Some(&entry.instance),
            states: vec![entry.status.state.as_str(), look(entry).word],
            health: describe::health(entry.health.as_ref()),
            ..subject.clone()
        })
    })
}

fn listed(service: &Service, entries: &[&Entry]) -> Listed {
    let port = |port: &orchestrator::model::Port| {
        let number = match port.number {
            PortNumber::Fixed(number) => number.to_string(),
            PortNumber::Auto => "auto".to_owned(),
        };
        port.name.as_ref().map_or(number.clone(), |name| format!("{name}:{number}"))
    };
    Listed {
        name: service.name.to_string(),
        role: match service.role {
            Role::Service => "service",
            Role::Task => "task",
        },
        kind: service.target.type_name(),
        replicas: service.replicas,
        ports: service.ports.iter().map(port).collect(),
        dependencies: service.dependencies.keys().map(ToString::to_string).collect(),
        labels: service.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        description: service.description.clone(),
        source: Some(service.source.clone()),
        instances: states(entries),
    }
}

fn states(entries: &[&Entry]) -> Vec<State> {
    entries
        .iter()
        .map(|entry| State {
            instance: entry.instance.clone(),
            state: entry.status.state.as_str(),
            summary: look(entry).word,
            health: describe::health(entry.health.as_ref()),
        })
        .collect()
}

fn table(services: &[Listed]) -> Table {
    let mut table = Table::new(&["NAME", "TYPE", "REPLICAS", "STATE", "PORTS", "NEEDS", "DESCRIPTION"]);
    for service in services {
        let mut words: Vec<&str> = service.instances.iter().map(|instance| instance.summary).collect();
        words.dedup();
        let state = if words.is_empty() { "not started".to_owned() } else { words.join(", ") };
        table.row(vec![
            service.name.clone(),
            if service.role == "task" { "task".into() } else { service.kind.to_owned() },
            service.replicas.to_string(),
            state,
            service.ports.join(", "),
            service.dependencies.join(", "),
            service.description.clone().unwrap_or_default(),
        ]);
    }
    table
}

//! `harness network test`: connects as services do, and says which layer fails.

use super::super::daemon::plane::{Probed, Speed, probe};
use super::super::{Context, examples, load};
use super::{live, show};
use crate::connect;
use crate::daemon::PLANE_FOLDER;
use crate::error::{CommandError, chain};
use crate::exit::Exit;
use crate::node::There;
use crate::project::Project;
use crate::ui::style::{self, paint};
use crate::ui::suggest;
use crate::ui::time::fine;
use command_executor::executor::Executor;
use command_executor::launcher::LocalLauncher;
use futures_util::future::join_all;
use indexmap::IndexMap;
use orchestrator::model::Node;
use orchestrator::network::plane::Way;
use orchestrator::supervisor::NetworkStatus;
use serde::Serialize;
use std::time::Duration;

/// The time that a node has for all of its connections, with the way there.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connect to services as other services do, and say what doesn't work and why
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness network test            Every service from every node"
    "harness network test db         db from every node"
    "harness network test eu-1 db    db from eu-1"
    "harness network test web db     db from where web runs"
    "harness network test --speed    The same, and how fast the ways between nodes are"
])]
pub(super) struct Args {
    /// From: a node, or a service for the nodes that it runs on. With one name alone: to that service, from every node
    #[arg(value_name = "FROM")]
    first: Option<String>,
    /// To: a service
    #[arg(value_name = "TO")]
    second: Option<String>,
    /// Measure also how fast the way to each other node is: two seconds of zeros in one stream
    #[arg(long)]
    speed: bool,
}

/// How it looks from a node.
#[derive(Serialize)]
struct Seen {
    node: String,
    services: Vec<Probed>,
    /// Why nothing could be tried there.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) fn run(context: &Context, project: &Project, args: &Args) -> Result<Exit, CommandError> {
    #[derive(Serialize)]
    struct Document {
        schema: u32,
        seen: Vec<Seen>,
    }
    let (network, instances) = live(project)?;
    if network.version == 0 {
        context.ui.say("Every service is reached at its own address: there is no way to test.");
        return Ok(Exit::OK);
    }
    let nodes = load::look(context, project)?.stack.nodes;
    let (from, to) = match (&args.first, &args.second) {
        (None, _) => (None, None),
        (Some(to), None) => (None, Some(to)),
        (Some(from), Some(to)) => (Some(from), Some(to)),
    };
    let services: Vec<String> = to.map(|to| service(&network, to)).transpose()?.into_iter().collect();
    let places: Vec<&str> = network.nodes.iter().map(|node| node.node.as_str()).collect();
    let places = match from {
        None => places,
        Some(from) if places.contains(&from.as_str()) => vec![from.as_str()],
        Some(from) => {
            let runs = |node: &&str| {
                let here = *node == network.node;
                instances.iter().any(|entry| {
                    (entry.service == *from || entry.instance == *from)
                        && if here {
                            entry.location == Default::default()
                        } else {
                            entry.location.to_string() == *node
                        }
                })
            };
            let found: Vec<&str> = places.iter().copied().filter(runs).collect();
            if found.is_empty() {
                return Err(CommandError::usage(format!(
                    "'{from}' is neither a node that takes part nor a service that runs on one"
                ))
                .hint(format!("nodes: {}", places.join(", "))));
            }
            found
        }
    };
    LocalLauncher::prepare();
    let seen = connect::block_on(async |_| {
        let tested = places.iter().map(|node| see(project, &network, &nodes, node, &services, args.speed));
        if !args.speed {
            return Ok(join_all(tested).await);
        }
        // One after the other, or they would measure each other.
        let mut seen = Vec::new();
        for one in tested {
            seen.push(one.await);
        }
        Ok(seen)
    })?;
    let failed =
        seen.iter().any(|seen| seen.error.is_some() || seen.services.iter().any(|one| one.why.is_some()));
    if context.ui.is_table() {
        for seen in &seen {
            tell(context, seen, &network)?;
        }
    } else {
        context.ui.document(&Document { schema: 1, seen })?;
    }
    Ok(if failed { Exit::UNREACHABLE } else { Exit::OK })
}

/// The service that is meant.
fn service(network: &NetworkStatus, name: &str) -> Result<String, CommandError> {
    let known: Vec<&str> = network.services.iter().map(|service| service.service.as_str()).collect();
    match known.contains(&name) {
        true => Ok(name.to_owned()),
        false => {
            Err(CommandError::usage(format!("'{name}' isn't a service that is reached by the data plane"))
                .hint(suggest::did_you_mean(name, known.iter().copied())))
        }
    }
}

async fn see(
    project: &Project,
    network: &NetworkStatus,
    nodes: &IndexMap<String, Node>,
    node: &str,
    services: &[String],
    speed: bool,
) -> Seen {
    let seen = if node == network.node {
        probe(&project.state_dir.join(PLANE_FOLDER), services, speed).await.map_err(|error| error.in_a_line())
    } else {
        there(project, nodes, node, services, speed).await
    };
    let node = node.to_owned();
    match seen {
        Ok(services) => Seen { node, services, error: None },
        Err(error) => Seen { node, services: Vec::new(), error: Some(error) },
    }
}

async fn there(
    project: &Project,
    nodes: &IndexMap<String, Node>,
    node: &str,
    services: &[String],
    speed: bool,
) -> Result<Vec<Probed>, String> {
    let there = There::of(nodes, node, &project.id).map_err(|error| chain(&error))?;
    let words = ["daemon", "plane", "probe"].into_iter().chain(speed.then_some("--speed"));
    let words = words.chain(services.iter().map(String::as_str));
    let command = there.harness(words).timeout(PATIENCE);
    let finished = Executor::new(there.launcher).run(&command).await.map_err(|error| chain(&error))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !finished.exit.is_success() {
        return Err(said(&finished.stderr.bytes));
    }
    // What a noisy login says comes before.
    let text = said(&finished.stdout.bytes);
    serde_json::from_str(text.lines().last().unwrap_or_default()).map_err(|error| format!("{error}: {text}"))
}

fn tell(context: &Context, seen: &Seen, network: &NetworkStatus) -> Result<(), CommandError> {
    context.ui.out(format_args!("from {}", paint(style::STRONG, &seen.node)))?;
    if let Some(error) = &seen.error {
        context.ui.out(format_args!("  {} {error}", paint(style::ERROR, "✗")))?;
        context
            .ui
            .out(format_args!("      {}", paint(style::DIM, "`harness node list` tells how the node is")))?;
    }
    for one in &seen.services {
        let target = format!("{} at {}", one.service, one.address);
        match &one.why {
            None => {
                let way = one.way.as_ref().map_or("on the same node", show::way);
                let time = fine(Duration::from_micros(one.connect_us.unwrap_or_default()));
                let instance = one.instance.as_deref().unwrap_or("?");
                let good = paint(style::GOOD, "✓");
                let speed = one.speed.as_ref().map(|speed| told(speed, one.way.as_ref())).unwrap_or_default();
                let how = format!("{instance}, {way}, connected in {time}{speed}");
                context.ui.out(format_args!("  {good} {target}: {how}"))?;
            }
            Some(why) => {
                context.ui.out(format_args!("  {} {target}: {why}", paint(style::ERROR, "✗")))?;
                let hint = hint(one, &seen.node, network);
                context.ui.out(format_args!("      {}", paint(style::DIM, hint)))?;
            }
        }
    }
    Ok(())
}

/// How fast the way is, for people.
fn told(speed: &Speed, taken: Option<&Way>) -> String {
    match speed {
        Speed::Measured { bits, way } => {
            let by = way.as_ref().filter(|way| taken != Some(way)).map(show::way);
            let by = by.map(|way| format!(" ({way})")).unwrap_or_default();
            format!(", {} Mbit/s{by}", (bits + 500_000) / 1_000_000)
        }
        Speed::Failed(why) => format!(", its speed can't be measured: {why}"),
    }
}

/// What to do about a connection that fails, by the layer that it fails at.
fn hint(one: &Probed, node: &str, network: &NetworkStatus) -> String {
    let report = network.reports.get(node);
    let listener = report.and_then(|report| report.listeners.iter().find(|it| it.address == one.address));
    match listener {
        Some(listener) if listener.error.is_some() => {
            format!("end what holds {}, or give it another port", one.address)
        }
        Some(listener) if !listener.ejected.is_empty() => {
            format!("its instances refuse connections: `harness logs {}`", one.service)
        }
        _ => format!(
            "`harness status {}` tells whether it is ready, `harness network show` which ways work",
            one.service
        ),
    }
}

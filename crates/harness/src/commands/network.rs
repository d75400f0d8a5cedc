//! `harness network`.

mod discover;
mod forward;
mod show;
mod test;

use super::{Context, examples, load, offline};
use crate::api::network::{DOWN, Down, ROTATE_KEYS, Rotated, SHOW, ShowResult};
use crate::api::{self, StatusResult};
use crate::connect;
use crate::error::{CommandError, next_steps};
use crate::exit::Exit;
use crate::project::Project;
use crate::ui::prompt;
use crate::ui::table::Table;
use orchestrator::model::{NetworkKind, Stack};
use orchestrator::network::reach::kind_of;
use orchestrator::supervisor::NetworkStatus;
use serde::Serialize;
use service_registry::model::Entry;
use std::net::SocketAddr;

/// See how services reach each other, and find out why one doesn't
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness network show                What is reached where, and the way from node to node"
    "harness network test                Connect to everything from everywhere"
    "harness network test eu-1 db        To db, as services on eu-1 do"
    "harness network forward db          Make db a port of this machine, until Ctrl-C"
    "harness network discover            What is around that the stack could use"
    "harness network down -y             Take back all that was set up, until the next start"
])]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// List the networks of the file, and who is in them
    List,
    /// Show addresses, ways, tunnels, and what shows that they work
    Show,
    /// Look for what the stack could use: what listens here, containers, machines nearby; nothing is scanned
    Discover,
    Test(test::Args),
    Forward(forward::Args),
    /// Have every node make itself another key for its tunnels; connections go on
    RotateKeys,
    /// End all that was set up for the network, until the next start; services run on and aren't reached by it
    Down {
        /// Don't ask
        #[arg(short, long)]
        yes: bool,
    },
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let project = context.project()?;
    match &args.command {
        Command::List => list(context, &project),
        Command::Show => show::run(context, &project),
        Command::Test(args) => test::run(context, &project, args),
        Command::Forward(args) => forward::run(context, &project, args),
        Command::RotateKeys => rotate_keys(context, &project),
        Command::Down { yes } => down(context, &project, *yes),
        Command::Discover => {
            let nodes = load::look(context, &project).map(|loaded| loaded.stack.nodes).unwrap_or_default();
            let nodes = nodes.into_iter().map(|(name, node)| (name, node.host)).collect();
            let instances = known(&project)?.map(|(_, instances)| instances).unwrap_or_default();
            let own: Vec<SocketAddr> = instances
                .iter()
                .flat_map(|entry| &entry.endpoints)
                .filter_map(|endpoint| format!("{}:{}", endpoint.address, endpoint.port).parse().ok())
                .collect();
            discover::run(context, &own, &nodes)
        }
    }
}

/// The network as the daemon knows it, and the instances. `None` where nothing runs; a daemon that is missing is started, since
/// what runs is reached without one.
fn known(project: &Project) -> Result<Option<(NetworkStatus, Vec<Entry>)>, CommandError> {
    connect::block_on(async |executor| {
        let Some(daemon) = offline::daemon_of_what_runs(executor, project).await? else { return Ok(None) };
        let shown: ShowResult = daemon.call(SHOW, &serde_json::json!({})).await?;
        let status: StatusResult = daemon.call(api::STACK_STATUS, &api::Names::default()).await?;
        Ok(Some((shown.network, status.instances)))
    })
}

/// The same where it must be known.
fn live(project: &Project) -> Result<(NetworkStatus, Vec<Entry>), CommandError> {
    known(project)?.ok_or_else(|| {
        CommandError::new(Exit::GENERAL, "nothing is running, so nothing is reached")
            .hint("`harness start` starts it")
    })
}

fn rotate_keys(context: &Context, project: &Project) -> Result<Exit, CommandError> {
    let (network, _) = live(project)?;
    let rotated: Rotated = ask(project, ROTATE_KEYS)?;
    if !context.ui.is_table() {
        context.ui.document(&serde_json::json!({ "schema": 1, "epoch": rotated.epoch }))?;
        return Ok(Exit::OK);
    }
    let nodes = network.nodes.iter().filter(|node| node.overlay.is_some()).count();
    context.ui.say(format_args!(
        "{nodes} nodes make themselves new keys; `harness network show` tells when they have"
    ));
    Ok(Exit::OK)
}

fn down(context: &Context, project: &Project, yes: bool) -> Result<Exit, CommandError> {
    let (network, _) = live(project)?;
    let names: Vec<&str> = network.services.iter().map(|service| service.service.as_str()).collect();
    if network.version > 0 && !yes {
        context.ui.say(format_args!(
            "These can't be reached by it any more, until the next start: {}",
            names.join(", ")
        ));
        if !context.ui.can_ask {
            return Err(CommandError::usage("connections through the data plane would end")
                .hint("-y does it unasked"));
        }
        if !prompt::confirm("End the data planes?") {
            context.ui.say("nothing was changed");
            return Ok(Exit::OK);
        }
    }
    let down: Down = ask(project, DOWN)?;
    if !context.ui.is_table() {
        context.ui.document(&serde_json::json!({ "schema": 1, "nodes": down.nodes }))?;
        return Ok(Exit::OK);
    }
    match down.nodes.is_empty() {
        true => context.ui.say("there was no data plane"),
        false => {
            context.ui.say(format_args!("the data planes of {} end", down.nodes.join(", ")));
            next_steps(&context.ui, &[("harness start".to_owned(), "bring them up again")]);
        }
    }
    Ok(Exit::OK)
}

fn ask<T: serde::de::DeserializeOwned>(project: &Project, method: &str) -> Result<T, CommandError> {
    connect::block_on(async |executor| {
        let daemon = connect::or_start(executor, project).await?;
        Ok(daemon.call(method, &serde_json::json!({})).await?)
    })
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    kind: NetworkKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    subnet: Option<&'a str>,
    nodes: Vec<&'a str>,
    services: Vec<&'a str>,
}

fn list(context: &Context, project: &Project) -> Result<Exit, CommandError> {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        networks: Vec<Listed<'a>>,
    }
    let stack = load::look(context, project)?.stack;
    let networks = listed(&stack);
    if !context.ui.is_table() {
        context.ui.document(&Document { schema: 1, networks })?;
        return Ok(Exit::OK);
    }
    let mut table = Table::new(&["NETWORK", "TYPE", "SUBNET", "NODES", "SERVICES"]);
    for network in &networks {
        table.row(vec![
            network.name.to_owned(),
            kind(network.kind).to_owned(),
            network.subnet.unwrap_or_default().to_owned(),
            network.nodes.join(", "),
            network.services.join(", "),
        ]);
    }
    context.ui.out(table.lines(context.ui.stdout_width()).join("\n"))?;
    Ok(Exit::OK)
}

fn listed(stack: &Stack) -> Vec<Listed<'_>> {
    let members = |name: &str| {
        let nodes =
            stack.nodes.iter().filter(move |(_, node)| node.networks.iter().any(|other| other == name));
        nodes.map(|(name, _)| name.as_str()).collect()
    };
    let services = |name: Option<&str>, kind: NetworkKind| {
        let on = stack.services.values().filter(move |service| match (service.network.as_deref(), name) {
            (Some(own), Some(name)) => own == name,
            (None, None) => kind_of(&stack.networks, service) == kind,
            _ => false,
        });
        on.map(|service| service.name.as_str()).collect::<Vec<_>>()
    };
    let mut networks: Vec<Listed<'_>> = stack
        .networks
        .iter()
        .map(|(name, network)| Listed {
            name,
            kind: network.kind,
            subnet: network.subnet.as_deref(),
            nodes: members(name),
            services: services(Some(name), network.kind),
        })
        .collect();
    let unnamed = services(None, NetworkKind::Auto);
    if !unnamed.is_empty() {
        let nodes = stack.nodes.keys().map(String::as_str).collect();
        let (kind, subnet) = (NetworkKind::Auto, None);
        networks.push(Listed { name: "(default)", kind, subnet, nodes, services: unnamed });
    }
    networks
}

fn kind(kind: NetworkKind) -> &'static str {
    match kind {
        NetworkKind::Local => "local",
        NetworkKind::Lan => "lan",
        NetworkKind::Wireguard => "wireguard",
        NetworkKind::Auto => "auto",
    }
}

//! `harness node`.

mod add;
mod check;
mod edit;
mod live;
mod remove;
mod up;

pub(super) use up::Board;

use super::{Context, examples, load};
use crate::api::node::NodeInfo;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::node::{self, Wanted};
use crate::project::Project;
use crate::ui::style::{self, paint};
use crate::ui::suggest;
use crate::ui::table::Table;
use orchestrator::model::{Node, Stack};
use orchestrator::node::ConnectFailed;
use serde::Serialize;

/// Look at the machines that the file names, and bring up their agents
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness node list          The nodes of the file, and what should run there"
    "harness node check         Log in to each: what it is, what it lacks, what to do about it"
    "harness node check eu-1    The same for one"
    "harness node add eu-1 deploy@10.20.0.11 --sudo   Write a node into the file"
    "harness node up eu-1       Bring its agent up, and see that it answers"
    "harness node remove eu-1   End its agent with all that it runs, and leave nothing there"
])]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// List the nodes of the file
    List,
    /// Show how a node is reached, and what should run there
    Show {
        /// The node
        name: String,
    },
    /// Log in and see what the machine is, can do and lacks; changes nothing there
    Check {
        /// Nodes; all of the file without one
        names: Vec<String>,
    },
    /// Write a node into the file, and leave all else of it as it is
    Add(add::Args),
    /// Empty a node: what may run elsewhere goes there, and nothing new comes
    Drain {
        /// The node
        name: String,
        /// Let it take part again; nothing moves back by itself
        #[arg(long)]
        off: bool,
    },
    /// Bring up the agents of nodes now: copy what isn't there, start what doesn't run, and ask how they are
    Up {
        /// Nodes; all of the file without one
        names: Vec<String>,
    },
    /// Stop what runs on nodes, end their agents and remove all that is there of them
    Remove(remove::Args),
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    if let Command::Add(args) = &args.command {
        return add::run(context, args);
    }
    let project = context.project()?;
    let stack = load::look(context, &project)?.stack;
    match &args.command {
        Command::List => list(context, &project, &stack),
        Command::Drain { name, off } => live::drain(context, &project, name, *off),
        Command::Show { name } => show(context, &stack, name),
        Command::Check { names } => check::run(context, &project, &stack, names),
        Command::Add(args) => add::run(context, args),
        Command::Up { names } => up::run(context, &stack, names),
        Command::Remove(args) => remove::run(context, &stack, args),
    }
}

#[derive(Serialize)]
struct Described<'a> {
    name: &'a str,
    address: String,
    #[serde(flatten)]
    node: &'a Node,
    services: Vec<String>,
    /// What the daemon knows of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<NodeInfo>,
}

fn described<'a>(stack: &Stack, name: &'a str, node: &'a Node) -> Described<'a> {
    let services = Wanted::of(stack, name, node).services;
    Described { name, address: node::label(node), node, services, known: None }
}

fn list(context: &Context, project: &Project, stack: &Stack) -> Result<Exit, CommandError> {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        nodes: Vec<Described<'a>>,
    }
    let mut known = live::known(project)?;
    let nodes: Vec<_> = stack
        .nodes
        .iter()
        .map(|(name, node)| Described { known: known.remove(name), ..described(stack, name, node) })
        .collect();
    if !context.ui.is_table() {
        context.ui.document(&Document { schema: 1, nodes })?;
        return Ok(Exit::OK);
    }
    if nodes.is_empty() {
        context.ui.say("The file names no other machines: `nodes:` is where they stand.");
        return Ok(Exit::OK);
    }
    let mut table = Table::new(&[
        "NODE", "STATE", "ADDRESS", "JUMP", "REGION", "LABELS", "NETWORKS", "CLOCK", "SERVICES", "REASON",
    ]);
    for described in &nodes {
        let node = described.node;
        let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let known = described.known.as_ref();
        table.row(vec![
            described.name.to_owned(),
            live::state(known),
            described.address.clone(),
            node.jump.clone().unwrap_or_default(),
            node.region.clone().unwrap_or_default(),
            labels.join(", "),
            node.networks.join(", "),
            live::clock(known),
            described.services.join(", "),
            live::trouble(known),
        ]);
    }
    context.ui.out(table.lines(context.ui.stdout_width()).join("\n"))?;
    Ok(Exit::OK)
}

fn show(context: &Context, stack: &Stack, name: &str) -> Result<Exit, CommandError> {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        node: Described<'a>,
    }
    let (name, node) = named(stack, name)?;
    let described = described(stack, name, node);
    if !context.ui.is_table() {
        context.ui.document(&Document { schema: 1, node: described })?;
        return Ok(Exit::OK);
    }
    let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let key = node.identity_file.as_ref().map(|path| path.display().to_string());
    for (key, value) in [
        ("node", name.to_owned()),
        ("address", described.address),
        ("key", key.unwrap_or_default()),
        ("jump", node.jump.clone().unwrap_or_default()),
        ("sudo", if node.sudo { "yes".into() } else { String::new() }),
        ("region", node.region.clone().unwrap_or_default()),
        ("labels", labels.join(", ")),
        ("networks", node.networks.join(", ")),
        ("services", described.services.join(", ")),
    ] {
        if !value.is_empty() {
            context.ui.out(format_args!("{}  {value}", paint(style::STRONG, format_args!("{key:<8}"))))?;
        }
    }
    Ok(Exit::OK)
}

fn named<'a>(stack: &'a Stack, name: &str) -> Result<(&'a str, &'a Node), CommandError> {
    stack.nodes.get_key_value(name).map(|(name, node)| (name.as_str(), node)).ok_or_else(|| {
        let near = suggest::did_you_mean(name, stack.nodes.keys().map(String::as_str));
        CommandError::usage(format!("there is no node '{name}'")).hint(match stack.nodes.is_empty() {
            true => "the file names no nodes: `nodes:` is where they stand".to_owned(),
            false => near,
        })
    })
}

/// What couldn't be done on a node.
#[derive(Serialize)]
struct Failure {
    step: &'static str,
    message: String,
    hint: String,
    /// Whether trying again may help.
    passing: bool,
}

impl From<ConnectFailed> for Failure {
    fn from(failed: ConnectFailed) -> Self {
        let ConnectFailed { step, message, hint, passing, .. } = failed;
        Self { step, message, hint, passing }
    }
}

impl Failure {
    fn show(&self, context: &Context, node: &str) -> Result<(), CommandError> {
        let (cross, name) = (paint(style::ERROR, "✗"), paint(style::STRONG, node));
        context.ui.out(format_args!("{cross} {name}  {}: {}", self.step, self.message))?;
        context.ui.out(format_args!("    {}", paint(style::DIM, &self.hint)))?;
        Ok(())
    }
}

/// The nodes of those names; all of the file without one.
pub(super) fn chosen<'a>(
    stack: &'a Stack,
    names: &[String],
) -> Result<Vec<(&'a str, &'a Node)>, CommandError> {
    let nodes: Vec<(&str, &Node)> = match names.is_empty() {
        true => stack.nodes.iter().map(|(name, node)| (name.as_str(), node)).collect(),
        false => names.iter().map(|name| named(stack, name)).collect::<Result<_, _>>()?,
    };
    if nodes.is_empty() {
        return Err(CommandError::usage("the file names no nodes").hint("`nodes:` is where they stand"));
    }
    Ok(nodes)
}

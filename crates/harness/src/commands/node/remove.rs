//! `harness node remove`: the agents of nodes, ended and taken away.

use super::super::{Context, daemon, stop};
use super::{chosen, edit};
use crate::api::node::{self, ListResult, NodeState};
use crate::connect::{self, Daemon};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::node::agent::Agents;
use crate::project::Project;
use crate::ui::prompt;
use crate::ui::style::{self, paint};
use command_executor::launcher::LocalLauncher;
use orchestrator::model::{Node, Stack};
use orchestrator::node::ConnectFailed;
use serde::Serialize;
use std::fs;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Nodes
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Serialize)]
struct Outcome<'a> {
    node: &'a str,
    /// Whether there was an agent, and is none any more.
    removed: bool,
    /// What was said when what ran there was stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    said: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<super::Failure>,
}

pub(super) fn run(context: &Context, stack: &Stack, args: &Args) -> Result<Exit, CommandError> {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        nodes: Vec<Outcome<'a>>,
    }
    let nodes = chosen(stack, &args.names)?;
    let project = context.project()?;
    LocalLauncher::prepare();
    let there = used(&project, &nodes)?;
    if !agreed(context, args, &nodes, &there.instances)? {
        context.ui.say("Nothing was removed.");
        return Ok(Exit::OK);
    }
    if !there.instances.is_empty() {
        let stopped = stop::names(context, &project, there.instances)?;
        if stopped != Exit::OK {
            return Ok(stopped);
        }
    }
    // A daemon that is connected to an agent would bring it up again at once.
    let pause = there.linked && daemon::end_if_any(&project)?;
    let outcomes = taken_away(&project, stack, &nodes);
    match (pause, there.started) {
        (true, false) => {
            connect::block_on(async |executor| Ok(connect::or_start(executor, &project).await.map(drop)?))?;
        }
        (false, true) => daemon::end_if_idle(&project)?,
        _ => {}
    }
    let failed = outcomes.iter().any(|outcome| outcome.error.is_some());
    if !context.ui.is_table() {
        context.ui.document(&Document { schema: 1, nodes: outcomes })?;
    } else {
        let text = fs::read_to_string(&project.config).unwrap_or_default();
        for outcome in &outcomes {
            show(context, &project, &text, outcome)?;
        }
    }
    Ok(if failed { Exit::UNREACHABLE } else { Exit::OK })
}

/// What the project's daemon has on the nodes.
#[derive(Default)]
struct Used {
    instances: Vec<String>,
    /// Whether it is connected to one of them, or tries to.
    linked: bool,
    /// Whether it runs only since it was to be asked.
    started: bool,
}

/// Asks the daemon. Where something was started and none runs, one is started: only it knows.
fn used(project: &Project, nodes: &[(&str, &Node)]) -> Result<Used, CommandError> {
    if !project.state_dir.exists() {
        return Ok(Used::default());
    }
    connect::block_on(async |executor| {
        let ran = connect::existing(executor, project).await?;
        let started = ran.is_none();
        let daemon: Daemon = match ran {
            Some(daemon) => daemon,
            None => connect::or_start(executor, project).await?,
        };
        let list: ListResult = daemon.call(node::LIST, &serde_json::json!({})).await?;
        let mut used = Used { started, ..Used::default() };
        for info in list.nodes.iter().filter(|info| nodes.iter().any(|(name, _)| info.name == *name)) {
            used.instances.extend(info.instances.iter().map(ToString::to_string));
            used.linked |= info.state != NodeState::Unused;
        }
        Ok(used)
    })
}

fn agreed(
    context: &Context,
    args: &Args,
    nodes: &[(&str, &Node)],
    instances: &[String],
) -> Result<bool, CommandError> {
    if args.yes {
        return Ok(true);
    }
    let names: Vec<&str> = nodes.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    let what = match instances {
        [] => format!("the agent of this project on {names}, with its logs and state"),
        some => format!("the agent on {names}, and stops {}, with their logs and state", some.join(", ")),
    };
    if !context.ui.can_ask {
        return Err(CommandError::usage(format!("this removes {what}; nothing was removed"))
            .hint("`-y` does it without asking"));
    }
    context.ui.say(format_args!("This removes {what}."));
    Ok(prompt::confirm("Go on?"))
}

fn taken_away<'a>(project: &Project, stack: &Stack, nodes: &[(&'a str, &Node)]) -> Vec<Outcome<'a>> {
    let agents = Agents::of(&project.id);
    let outcome = async |name: &'a str| match agents.remove(&stack.nodes, name).await {
        Ok(said) => Outcome { node: name, removed: said.is_some(), said, error: None },
        Err(failed) => {
            let failed: ConnectFailed = failed;
            Outcome { node: name, removed: false, said: None, error: Some(failed.into()) }
        }
    };
    async_io::block_on(futures_util::future::join_all(nodes.iter().map(|(name, _)| outcome(name))))
}

fn show(context: &Context, project: &Project, text: &str, outcome: &Outcome<'_>) -> Result<(), CommandError> {
    let name = paint(style::STRONG, outcome.node);
    if let Some(error) = &outcome.error {
        return error.show(context, outcome.node);
    }
    let good = paint(style::GOOD, "✓");
    match (&outcome.said, outcome.removed) {
        (Some(said), true) if !said.is_empty() => {
            context.ui.out(format_args!("{good} {name}  removed; {}", said.trim_start_matches("✓ ")))?;
        }
        (_, true) => context.ui.out(format_args!("{good} {name}  removed"))?,
        (_, false) => context.ui.out(format_args!("{good} {name}  has no agent of this project"))?,
    }
    let shown = project.shown.display();
    match edit::lines_of(text, outcome.node) {
        Some((first, last)) if first == last => context
            .ui
            .say(format_args!("{shown} still names it; delete line {first} there if it is to be forgotten.")),
        Some((first, last)) => context.ui.say(format_args!(
            "{shown} still names it; delete lines {first} to {last} there if it is to be forgotten."
        )),
        None => {}
    }
    Ok(())
}

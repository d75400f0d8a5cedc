//! `harness node remove`: the agents of nodes, ended and taken away.

use super::super::{Context, daemon, stop};
use super::{chosen, edit, live};
use crate::api::node::{self, ForgetParams, ForgetResult, ListResult, NodeInfo, NodeState};
use crate::connect::{self, Daemon};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::node::agent::Agents;
use crate::project::Project;
use crate::ui::prompt;
use crate::ui::style::{self, paint};
use async_io::Timer;
use command_executor::launcher::LocalLauncher;
use orchestrator::model::{InstanceName, Node, Stack};
use orchestrator::node::ConnectFailed;
use serde::Serialize;
use std::fs;
use std::time::{Duration, Instant};

/// The time that the first try to reach a node has, before it counts as neither up nor lost.
const FIRST_TRY: Duration = Duration::from_secs(40);
/// How often the daemon is asked meanwhile.
const LOOK: Duration = Duration::from_millis(200);

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Nodes
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
    /// Forget those that are lost: what is there stays there
    #[arg(short, long)]
    force: bool,
}

#[derive(Serialize)]
struct Outcome<'a> {
    node: &'a str,
    /// Whether there was an agent, and is none any more.
    removed: bool,
    /// What was said when what ran there was stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    said: Option<String>,
    /// What stays there, of a lost node that was forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<Left>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<super::Failure>,
}

/// What stays on a node that was forgotten.
#[derive(Serialize)]
struct Left {
    /// May run on there.
    instances: Vec<InstanceName>,
    /// The agent's folder, with program, state, logs and files, as a shell there understands it.
    folder: String,
    /// What ends and removes all of it, in a shell there.
    by_hand: String,
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
    if let Some(lost) = there.lost.first().filter(|_| !args.force) {
        return Err(is_lost(lost));
    }
    if !agreed(context, args, &nodes, &there)? {
        context.ui.say("Nothing was removed.");
        return Ok(Exit::OK);
    }
    let mut outcomes = forgotten(&project, &nodes, &there.lost)?;
    let nodes: Vec<_> = nodes.into_iter().filter(|(name, _)| !there.is_lost(name)).collect();
    if !there.instances.is_empty() {
        let stopped = stop::names(context, &project, there.instances)?;
        if stopped != Exit::OK {
            return Ok(stopped);
        }
    }
    // A daemon that is connected to an agent would bring it up again at once.
    let pause = there.linked && daemon::end_if_any(&project)?;
    outcomes.extend(taken_away(&project, stack, &nodes));
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
    /// On those that aren't lost.
    instances: Vec<String>,
    /// Those that can't be reached.
    lost: Vec<NodeInfo>,
    /// Whether it is connected to one of the others, or tries to.
    linked: bool,
    /// Whether it runs only since it was to be asked.
    started: bool,
}

impl Used {
    fn is_lost(&self, name: &str) -> bool {
        self.lost.iter().any(|info| info.name == name)
    }
}

/// Asks the daemon. Where something was started and none runs, one is started: only it knows.
fn used(project: &Project, nodes: &[(&str, &Node)]) -> Result<Used, CommandError> {
    if !project.state_dir.exists() {
        return Ok(Used::default());
    }
    connect::block_on(async |executor| {
        let (daemon, started) = connect::asked(executor, project).await?;
        let mut used = Used { started, ..Used::default() };
        for info in known(&daemon, nodes).await? {
            if matches!(info.state, NodeState::Lost | NodeState::Unreachable) {
                used.lost.push(info);
                continue;
            }
            used.instances.extend(info.instances.iter().map(ToString::to_string));
            used.linked |= info.state != NodeState::Unused;
        }
        Ok(used)
    })
}

/// The nodes as the daemon knows them, once it has tried them.
async fn known(daemon: &Daemon, nodes: &[(&str, &Node)]) -> Result<Vec<NodeInfo>, CommandError> {
    let begun = Instant::now();
    loop {
        let ListResult { nodes: mut found } = daemon.call(node::LIST, &serde_json::json!({})).await?;
        found.retain(|info| nodes.iter().any(|(name, _)| info.name == *name));
        let tried = found.iter().all(|info| info.state != NodeState::Connecting);
        if tried || begun.elapsed() > FIRST_TRY {
            return Ok(found);
        }
        Timer::after(LOOK).await;
    }
}

fn is_lost(info: &NodeInfo) -> CommandError {
    let name = &info.name;
    CommandError::new(
        Exit::UNREACHABLE,
        format!("node {name} is lost, {}; nothing was removed", live::trouble(Some(info))),
    )
    .hint(format!(
        "`harness node check {name}` looks whether it is back; `harness node remove {name} --force` forgets it, and \
         leaves there what is there"
    ))
}

/// Has the daemon forget the nodes that are lost.
fn forgotten<'a>(
    project: &Project,
    nodes: &[(&'a str, &Node)],
    lost: &[NodeInfo],
) -> Result<Vec<Outcome<'a>>, CommandError> {
    let lost: Vec<_> = nodes.iter().filter(|(name, _)| lost.iter().any(|info| info.name == *name)).collect();
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    connect::block_on(async |executor| {
        let daemon = connect::or_start(executor, project).await?;
        let mut outcomes = Vec::new();
        for (name, declared) in lost {
            let params = ForgetParams { name: (*name).to_owned() };
            let ForgetResult { left } = daemon.call(node::FORGET, &params).await?;
            let home =
                if declared.sudo { "~root/.local/state" } else { "${XDG_STATE_HOME:-$HOME/.local/state}" };
            let folder = format!("{home}/harness/agents/{}", project.id);
            let stop = "\"$(ls -t $d/bin/harness-* | head -n 1)\" --state-dir $d stop -y";
            let by_hand = format!("d={folder}; {stop} && rm -rf $d");
            let left = Some(Left { instances: left, folder, by_hand });
            outcomes.push(Outcome { node: name, removed: false, said: None, left, error: None });
        }
        Ok(outcomes)
    })
}

fn agreed(
    context: &Context,
    args: &Args,
    nodes: &[(&str, &Node)],
    there: &Used,
) -> Result<bool, CommandError> {
    if args.yes {
        return Ok(true);
    }
    let reached: Vec<&str> =
        nodes.iter().map(|(name, _)| *name).filter(|name| !there.is_lost(name)).collect();
    let reached = reached.join(", ");
    let removed = match there.instances.as_slice() {
        _ if reached.is_empty() => None,
        [] => Some(format!("removes the agent of this project on {reached}, with its logs and state")),
        some => Some(format!(
            "removes the agent on {reached}, and stops {}, with their logs and state",
            some.join(", ")
        )),
    };
    let forgotten = there.lost.iter().map(|info| match info.instances.as_slice() {
        [] => format!("forgets {}, which is lost", info.name),
        some => {
            let some: Vec<String> = some.iter().map(ToString::to_string).collect();
            format!("forgets {}, which is lost, where {} may run on", info.name, some.join(", "))
        }
    });
    let what: Vec<String> = removed.into_iter().chain(forgotten).collect();
    let what = what.join("; ");
    if !context.ui.can_ask {
        return Err(CommandError::usage(format!("this {what}; nothing was removed"))
            .hint("`-y` does it without asking"));
    }
    context.ui.say(format_args!("This {what}."));
    Ok(prompt::confirm("Go on?"))
}

fn taken_away<'a>(project: &Project, stack: &Stack, nodes: &[(&'a str, &Node)]) -> Vec<Outcome<'a>> {
    let agents = Agents::of(&project.id);
    let outcome = async |name: &'a str| match agents.remove(&stack.nodes, name).await {
        Ok(said) => Outcome { node: name, removed: said.is_some(), said, left: None, error: None },
        Err(failed) => {
            let failed: ConnectFailed = failed;
            Outcome { node: name, removed: false, said: None, left: None, error: Some(failed.into()) }
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
    if let Some(left) = &outcome.left {
        show_left(context, outcome.node, left)?;
    }
    match (&outcome.said, outcome.removed) {
        _ if outcome.left.is_some() => {}
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

fn show_left(context: &Context, node: &str, left: &Left) -> Result<(), CommandError> {
    let names: Vec<String> = left.instances.iter().map(ToString::to_string).collect();
    let run_on = match names.is_empty() {
        true => String::new(),
        false => format!("; {} may run on there", names.join(", ")),
    };
    let (mark, name) = (paint(style::WARNING, "!"), paint(style::STRONG, node));
    context.ui.out(format_args!("{mark} {name}  forgotten{run_on}. What is there stays: {}", left.folder))?;
    for line in [
        format!("once it is back, `harness node remove {node}` stops and removes that"),
        format!("or in a shell there: `{}`", left.by_hand),
        format!("it gets nothing new until `harness node drain {node} --off`"),
    ] {
        context.ui.out(format_args!("    {}", paint(style::DIM, line)))?;
    }
    Ok(())
}

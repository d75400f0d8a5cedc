//! `harness node up`: the agents of nodes, brought up now.

use super::super::Context;
use super::{Failure, chosen};
use crate::api::{self, DaemonInfo};
use crate::connect;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::node::agent::{Agents, Brought, Up};
use crate::node::label;
use crate::ui::Ui;
use crate::ui::meter::bytes;
use crate::ui::progress::{Item, Painter, Phase, Screen, frame};
use crate::ui::style::{self, paint};
use crate::ui::time::short;
use command_executor::launcher::LocalLauncher;
use futures_util::future::join_all;
use indexmap::IndexMap;
use orchestrator::model::{Node, Stack};
use orchestrator::node::ConnectFailed;
use serde::Serialize;
use service_registry::client::{Client, ClientError, ClientOptions};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where no terminal is, one that copies is heard of as often.
const SAY: Duration = Duration::from_secs(2);
/// Time that the agent has to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// What became of a node.
#[derive(Serialize)]
struct Outcome<'a> {
    node: &'a str,
    address: String,
    milliseconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<Agent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

#[derive(Serialize)]
struct Agent {
    #[serde(flatten)]
    up: Up,
    /// Its state folder there.
    state_dir: String,
    /// Instances that run under it.
    running: usize,
    /// Milliseconds of a question and its answer.
    round_trip_ms: f64,
    /// Bytes that its program took on the way, if it wasn't there.
    copied: Option<u64>,
    /// The address by which the node sees this machine.
    near: Option<IpAddr>,
    /// The address by which this machine sees the node.
    far: Option<IpAddr>,
}

pub(super) fn run(context: &Context, stack: &Stack, names: &[String]) -> Result<Exit, CommandError> {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        nodes: Vec<Outcome<'a>>,
    }
    let nodes = chosen(stack, names)?;
    let project = context.project()?;
    LocalLauncher::prepare();
    let agents = Agents::of(project.id);
    let board = Board::new(&context.ui, &nodes);
    let outcomes = connect::block_on(async |_| {
        let all = nodes.iter().enumerate();
        Ok(join_all(all.map(|(at, (name, node))| one(&agents, &stack.nodes, name, node, &board, at))).await)
    })?;
    drop(board);
    let failed = outcomes.iter().any(|outcome| outcome.error.is_some());
    if context.ui.is_table() {
        for outcome in &outcomes {
            show(context, outcome)?;
        }
    } else {
        context.ui.document(&Document { schema: 1, nodes: outcomes })?;
    }
    Ok(if failed { Exit::UNREACHABLE } else { Exit::OK })
}

async fn one<'a>(
    agents: &Agents,
    nodes: &IndexMap<String, Node>,
    name: &'a str,
    node: &Node,
    board: &Board<'_>,
    at: usize,
) -> Outcome<'a> {
    let begun = Instant::now();
    let progress = |text: String| board.tell(at, Phase::Busy, text);
    let brought = match agents.bring(nodes, name, &progress).await {
        Ok(brought) => {
            let milliseconds = begun.elapsed();
            asked(name, brought).await.map(|agent| (agent, milliseconds))
        }
        Err(failed) => Err(failed),
    };
    let (agent, error, time) = match brought {
        Ok((agent, time)) => (Some(agent), None, time),
        Err(failed) => (None, Some(Failure::from(failed)), begun.elapsed()),
    };
    let (phase, text) = if error.is_none() { (Phase::Done, "up") } else { (Phase::Failed, "failed") };
    board.tell(at, phase, text.to_owned());
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Outcome { node: name, address: label(node), milliseconds, agent, error }
}

/// Asks the agent how it is, and takes the time.
async fn asked(name: &str, brought: Brought) -> Result<Agent, ConnectFailed> {
    let Brought { connection, up, copied } = brought;
    let (near, far) = (connection.near, connection.far);
    let options = ClientOptions {
        name: concat!("harness ", env!("CARGO_PKG_VERSION")).to_owned(),
        connect_timeout: ANSWER,
        ..ClientOptions::default()
    };
    let failed = |message: String| ConnectFailed {
        node: name.to_owned(),
        step: "ask the agent",
        message,
        hint: "try again; daemon.log in the agent's folder there has its words".to_owned(),
        passing: true,
    };
    let (client, driver) =
        Client::connect(connection.stream, &options).await.map_err(|error| failed(error.to_string()))?;
    let asking = async {
        let begun = Instant::now();
        let info: DaemonInfo = client.call(api::DAEMON_STATUS, &serde_json::json!({}), ANSWER).await?;
        Ok::<_, ClientError>((info, begun.elapsed()))
    };
    let (info, time) = driver.run(asking).await.map_err(|error| failed(error.to_string()))?;
    Ok(Agent {
        up,
        state_dir: info.state_dir.display().to_string(),
        running: info.running,
        round_trip_ms: time.as_secs_f64() * 1e3,
        copied,
        near,
        far,
    })
}

fn show(context: &Context, outcome: &Outcome<'_>) -> Result<(), CommandError> {
    let name = paint(style::STRONG, outcome.node);
    if let Some(error) = &outcome.error {
        return error.show(context, outcome.node);
    }
    let Some(agent) = &outcome.agent else { return Ok(()) };
    let copied = agent.copied.map(|count| format!(", {} copied", bytes(count))).unwrap_or_default();
    context.ui.out(format_args!(
        "{} {name}  up in {}{copied}; agent {} ({}), pid {}, round trip {:.1} ms",
        paint(style::GOOD, "✓"),
        short(Duration::from_millis(outcome.milliseconds)),
        agent.up.version,
        agent.up.build,
        agent.up.pid,
        agent.round_trip_ms,
    ))?;
    Ok(())
}

/// How far each node is: lines that are drawn anew in a terminal, else one for each change.
pub(in crate::commands) struct Board<'a> {
    ui: &'a Ui,
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    painter: Option<Painter>,
    items: Vec<Item>,
    said: Vec<Instant>,
}

impl<'a> Board<'a> {
    pub(in crate::commands) fn new(ui: &'a Ui, nodes: &[(&str, &Node)]) -> Self {
        let item = |(name, _): &(&str, &Node)| Item {
            name: (*name).to_owned(),
            phase: Phase::Busy,
            text: "logging in".to_owned(),
            time: Duration::ZERO,
        };
        let now = Instant::now();
        let painter = (ui.stderr_terminal && !ui.quiet).then(|| Painter::new(Screen::Stderr));
        let items: Vec<Item> = nodes.iter().map(item).collect();
        let said = vec![now; items.len()];
        let board = Self { ui, begun: now, state: Mutex::new(State { painter, items, said }) };
        board.draw();
        board
    }

    pub(in crate::commands) fn tell(&self, at: usize, phase: Phase, text: String) {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let State { painter, items, said } = &mut *state;
            let (Some(item), Some(said)) = (items.get_mut(at), said.get_mut(at)) else { return };
            let goes_on = text.split_once(" of ").is_some();
            if painter.is_none() && phase == Phase::Busy && (!goes_on || said.elapsed() >= SAY) {
                *said = Instant::now();
                self.ui.say(format_args!("{}: {text}", item.name));
            }
            (item.phase, item.text, item.time) = (phase, text, self.begun.elapsed());
        }
        self.draw();
    }

    fn draw(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { painter: Some(painter), items, .. } = &mut *state else { return };
        let (width, height) = self.ui.stderr_size();
        let tick = usize::try_from(self.begun.elapsed().as_millis() / 100).unwrap_or(0);
        // What can't be drawn isn't worth an error.
        let _ = painter.draw(frame(items, tick, width, height));
    }
}

impl Drop for Board<'_> {
    /// What follows says the same, and more.
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(painter) = &mut state.painter {
            let _ = painter.draw(Vec::new());
        }
    }
}

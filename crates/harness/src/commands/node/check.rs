//! `harness node check`: what machines are, and what they lack.

use super::super::Context;
use super::{chosen, live};
use crate::connect;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::node::agent::Agents;
use crate::node::{self, Clock, Facts, Finding, Level, Wanted};
use crate::project::Project;
use crate::ui::style::{self, paint};
use command_executor::event::ProcessEvent;
use command_executor::executor::Executor;
use command_executor::launcher::{LaunchError, LocalLauncher, SshLauncher};
use command_executor::process::{Exit as ProcessExit, ProcessError};
use futures_util::future::join_all;
use jiff::Timestamp;
use orchestrator::model::{Node, Stack};
use serde::Serialize;
use std::time::Duration;

/// Time for a login and for looking, unless `--timeout` says otherwise.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a script prints at most, in lines; a login that says more is cut off.
const MOST_LINES: usize = 2_000;

/// What became of the look at one node.
#[derive(Serialize)]
struct Checked<'a> {
    node: &'a str,
    address: String,
    /// Milliseconds from the start of ssh to the first word of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    login_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    facts: Option<Facts>,
    findings: Vec<Finding>,
}

pub(super) fn run(
    context: &Context,
    project: &Project,
    stack: &Stack,
    names: &[String],
) -> Result<Exit, CommandError> {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        nodes: Vec<Checked<'a>>,
    }
    let nodes = chosen(stack, names)?;
    LocalLauncher::prepare();
    let patience = context.global.timeout.unwrap_or(PATIENCE);
    let agents = Agents::of(&project.id);
    let checked = connect::block_on(async |_| {
        let programs = agents.programs().await.map_err(|error| {
            CommandError::from_error(Exit::USAGE, &error).hint("check HARNESS_AGENT_DIR and its files")
        })?;
        let asked = Asked { stack, project: &project.id, programs, patience };
        Ok(join_all(nodes.iter().map(|(name, node)| look(&asked, name, node))).await)
    })?;
    let worst = checked.iter().flat_map(|checked| &checked.findings).map(|finding| finding.level).max();
    let reached = checked.iter().all(|checked| checked.facts.is_some());
    if checked.iter().any(|checked| checked.facts.is_some()) {
        // A daemon that can't be asked tries by itself, later.
        let _ = live::retry(project);
    }
    if context.ui.is_table() {
        for checked in &checked {
            show_checked(context, checked)?;
        }
    } else {
        context.ui.document(&Document { schema: 1, nodes: checked })?;
    }
    Ok(match worst {
        _ if !reached => Exit::UNREACHABLE,
        Some(Level::Error) => Exit::GENERAL,
        _ => Exit::OK,
    })
}

fn show_checked(context: &Context, checked: &Checked<'_>) -> Result<(), CommandError> {
    context.ui.out(format_args!("{}  {}", paint(style::STRONG, checked.node), checked.address))?;
    for finding in &checked.findings {
        let (symbol, style) = match finding.level {
            Level::Ok => ("✓", style::GOOD),
            Level::Warning => ("!", style::WARNING),
            Level::Error => ("✗", style::ERROR),
        };
        context.ui.out(format_args!("  {} {:<11}  {}", paint(style, symbol), finding.about, finding.text))?;
        if let Some(fix) = &finding.fix {
            context.ui.out(format_args!("                 {}", paint(style::DIM, fix)))?;
        }
    }
    Ok(())
}

/// What is the same for all nodes that are looked at.
struct Asked<'a> {
    stack: &'a Stack,
    project: &'a str,
    /// The programs that can be sent: for which kind of machine, and their names there.
    programs: Vec<(String, String)>,
    patience: Duration,
}

async fn look<'a>(asked: &Asked<'_>, name: &'a str, node: &Node) -> Checked<'a> {
    let patience = asked.patience;
    let late = async {
        async_io::Timer::after(patience).await;
        Err(Unreached {
            text: format!("no answer within {patience:?}"),
            fix: "see whether its login hangs: `ssh -v`".into(),
        })
    };
    let looked = futures_lite::future::or(ask(asked, name, node), late).await;
    let mut checked =
        Checked { node: name, address: node::label(node), login_ms: None, facts: None, findings: Vec::new() };
    match looked {
        Ok(Looked { facts, login, clock }) => {
            let login_ms = u64::try_from(login.as_millis()).unwrap_or(u64::MAX);
            let user = facts.user.as_deref().unwrap_or("an unknown user");
            checked.findings.push(Finding {
                about: "login",
                level: Level::Ok,
                text: format!("as {user} in {login_ms} ms"),
                fix: None,
            });
            let wanted = Wanted::of(asked.stack, name, node);
            checked.findings.extend(node::judge(&facts, &wanted, clock, &asked.programs));
            checked.login_ms = Some(login_ms);
            checked.facts = Some(facts);
        }
        Err(Unreached { text, fix }) => {
            checked.findings.push(Finding { about: "login", level: Level::Error, text, fix: Some(fix) });
        }
    }
    checked
}

struct Looked {
    facts: Facts,
    login: Duration,
    clock: Option<Clock>,
}

/// Why a node wasn't seen.
struct Unreached {
    text: String,
    fix: String,
}

impl Unreached {
    fn of(error: &LaunchError) -> Self {
        match error {
            LaunchError::Place(place) => {
                let detail =
                    if place.detail.is_empty() { String::new() } else { format!(": {}", place.detail) };
                Self { text: format!("{}{detail}", place.kind), fix: place.hint().into() }
            }
            LaunchError::NotFound { .. } => Self {
                text: error.to_string(),
                fix: "install ssh here: `sudo apt-get install openssh-client`".into(),
            },
            other => Self { text: other.to_string(), fix: "see what was said".into() },
        }
    }

    fn cut_off(error: ProcessError) -> Self {
        match error {
            ProcessError::Place(place) => Self::of(&LaunchError::Place(place)),
            other => Self { text: other.to_string(), fix: "try again".into() },
        }
    }
}

async fn ask(asked: &Asked<'_>, name: &str, node: &Node) -> Result<Looked, Unreached> {
    let host = node::host_of(&asked.stack.nodes, name, crate::elsewhere::ssh_config())
        .map_err(|error| Unreached { text: error.to_string(), fix: "correct `jump:` in the file".into() })?;
    let place = Executor::new(SshLauncher::new(LocalLauncher::new(), host));
    let before = Timestamp::now().as_nanosecond();
    let (_handle, mut events) =
        place.open(&node::look(asked.project, node.sudo)).await.map_err(|error| Unreached::of(&error))?;
    let (mut text, mut lines, mut after) = (String::new(), 0, None);
    let mut last_words = String::new();
    let exit = loop {
        match events.next().await.map_err(Unreached::cut_off)? {
            Some(ProcessEvent::Stdout(line)) if lines < MOST_LINES => {
                after.get_or_insert_with(|| Timestamp::now().as_nanosecond());
                lines += 1;
                text.push_str(&String::from_utf8_lossy(&line.text));
                text.push('\n');
            }
            Some(ProcessEvent::Stderr(line)) => last_words = String::from_utf8_lossy(&line.text).into_owned(),
            Some(ProcessEvent::Exited(exit)) => break exit,
            Some(_) => {}
            None => break ProcessExit::Code(-1),
        }
    };
    let facts = Facts::read(&text);
    let (Some(after), Some(_)) = (after, &facts.kernel) else {
        return Err(Unreached {
            text: format!("it can't be looked at ({exit}): {last_words}"),
            fix: "check that `sh` runs there for this user".into(),
        });
    };
    let login = Duration::from_nanos(u64::try_from(after - before).unwrap_or(0));
    let clock = facts.time.map(|theirs| Clock::compare(before, theirs, after));
    Ok(Looked { facts, login, clock })
}

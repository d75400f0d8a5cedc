//! `harness status`, and `harness` alone.

use super::{Context, examples, offline};
use crate::api::{self, Names, StatusResult};
use crate::connect::{self, Change, Changes, Daemon};
use crate::error::{CommandError, next_steps};
use crate::exit::Exit;
use crate::project::{Project, ProjectError};
use crate::ui::progress::{Painter, Screen};
use crate::ui::status::{Document, Row, table};
use crate::ui::{WriteError, style};
use async_io::Timer;
use futures_lite::{FutureExt, future};
use jiff::Timestamp;
use service_registry::model::Entry;
use std::time::Duration;

/// Show what runs, how it is, and why
///
/// Works without a daemon too, from the files of what runs.
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness status             Everything"
    "harness status --watch     Redrawn whenever something changes"
    "harness status -o json     For programs"
])]
pub(crate) struct Args {
    /// Services or instances; without any, all
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Redraw whenever something changes, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

/// What a listing shows.
pub(super) struct Facts {
    pub(super) project: String,
    pub(super) daemon: Option<api::DaemonInfo>,
    pub(super) entries: Vec<Entry>,
    pub(super) not_started: Vec<String>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let project = context.project()?;
    connect::block_on(async |executor| {
        let daemon = connect::existing(executor, &project).await?;
        if args.watch {
            let Some(daemon) = daemon else {
                return Err(CommandError::new(
                    Exit::UNREACHABLE,
                    "no daemon runs, so there is nothing to watch",
                )
                .hint("`harness start` starts the services, `harness status` shows what is left of them"));
            };
            return watch(context, &daemon, args).await;
        }
        let facts = facts(context, &project, daemon.as_ref(), &args.names).await?;
        show(context, &facts)?;
        Ok(Exit::OK)
    })
}

/// What is known of these instances: from the daemon, else from the files of what runs.
pub(super) async fn facts(
    context: &Context,
    project: &Project,
    daemon: Option<&Daemon>,
    names: &[String],
) -> Result<Facts, CommandError> {
    if let Some(daemon) = daemon {
        let params = Names { names: names.to_vec() };
        return match daemon.call::<StatusResult>(api::STACK_STATUS, &params).await {
            Ok(result) => Ok(from_daemon(result)),
            Err(connect::CallError::Answer { code: api::code::NO_STACK, .. }) => Ok(Facts {
                project: project.id.clone(),
                daemon: None,
                entries: Vec::new(),
                not_started: Vec::new(),
            }),
            Err(error) => Err(error.into()),
        };
    }
    let entries = select(offline::entries(project)?, names)?;
    if !entries.is_empty() {
        context.ui.say(style::paint(
            style::DIM,
            "no daemon runs: this is what the files of the services say; `harness start` starts it again",
        ));
    }
    Ok(Facts { project: project.id.clone(), daemon: None, entries, not_started: Vec::new() })
}

fn from_daemon(result: StatusResult) -> Facts {
    Facts {
        project: result.project,
        daemon: Some(result.daemon),
        entries: result.instances,
        not_started: result.not_started.iter().map(ToString::to_string).collect(),
    }
}

/// Prints a listing.
pub(super) fn show(context: &Context, facts: &Facts) -> Result<(), WriteError> {
    let now = Timestamp::now();
    let rows: Vec<Row> = facts.entries.iter().map(|entry| Row::new(entry.clone(), now)).collect();
    if !context.ui.is_table() {
        return context.ui.document(&Document {
            schema: 1,
            project: &facts.project,
            daemon: facts.daemon.as_ref(),
            instances: &rows,
            not_started: facts.not_started.clone(),
        });
    }
    if rows.is_empty() && facts.not_started.is_empty() {
        context.ui.say("Nothing was started yet. `harness start` starts the services of services.yaml.");
        return Ok(());
    }
    let width = if context.ui.verbose > 0 { None } else { context.ui.stdout_width() };
    context.ui.out(table(&rows, &facts.not_started, width).join("\n"))
}

/// Redraws on every change; once a second for the ages.
async fn watch(context: &Context, daemon: &Daemon, args: &Args) -> Result<Exit, CommandError> {
    let mut changes = daemon.watch().await?;
    let mut painter = Painter::new(Screen::Stdout);
    let params = Names { names: args.names.clone() };
    let mut facts = from_daemon(daemon.call(api::STACK_STATUS, &params).await?);
    loop {
        draw(context, &facts, &mut painter)?;
        if changed(&mut changes).await? {
            facts = from_daemon(daemon.call(api::STACK_STATUS, &params).await?);
        }
    }
}

/// Waits for a change (and takes all that came with it), at most a second; whether there was one.
async fn changed(changes: &mut Changes) -> Result<bool, CommandError> {
    let change = async { Some(changes.next().await) };
    let second = async {
        Timer::after(Duration::from_secs(1)).await;
        None
    };
    match change.or(second).await {
        None => return Ok(false),
        Some(change) => match change? {
            Change::Snapshot(_) | Change::Event(_) => {}
        },
    }
    // A burst of changes is one frame, at most ten in a second.
    Timer::after(Duration::from_millis(100)).await;
    while let Some(change) = future::poll_once(changes.next()).await {
        change?;
    }
    Ok(true)
}

fn draw(context: &Context, facts: &Facts, painter: &mut Painter) -> Result<(), CommandError> {
    if !context.ui.is_table() || !context.ui.stdout_terminal {
        return Ok(show(context, facts)?);
    }
    let now = Timestamp::now();
    let rows: Vec<Row> = facts.entries.iter().map(|entry| Row::new(entry.clone(), now)).collect();
    let (width, height) = (context.ui.stdout_width().unwrap_or(80), context.ui.stderr_size().1);
    let mut lines = table(&rows, &facts.not_started, Some(width));
    let room = height.saturating_sub(2).max(1);
    if lines.len() > room {
        let hidden = lines.len() - room;
        lines.truncate(room);
        lines.push(style::paint(style::DIM, format_args!("… {hidden} more")));
    }
    painter.draw(lines).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => WriteError::Closed.into(),
        _ => WriteError::Failed(error).into(),
    })
}

/// `harness` alone: in a project its status and three things to do next, elsewhere the help.
pub(crate) fn overview(context: &Context) -> Result<Exit, CommandError> {
    let project = match context.find_project() {
        Ok(project) => project,
        Err(ProjectError::Discover(harness_config::DiscoverError::NotFound { .. })) => {
            context.ui.out(crate::cli::command().render_help().ansi())?;
            return Ok(Exit::OK);
        }
        Err(error) => return Err(error.into()),
    };
    let running = connect::block_on(async |executor| {
        let daemon = connect::existing(executor, &project).await?;
        let facts = facts(context, &project, daemon.as_ref(), &[]).await?;
        show(context, &facts)?;
        Ok(!facts.entries.is_empty())
    })?;
    let steps = if running {
        [
            ("harness logs -f".to_owned(), "follow what they say"),
            ("harness status --watch".to_owned(), "follow how they are"),
            ("harness stop".to_owned(), "stop everything"),
        ]
    } else {
        [
            ("harness start".to_owned(), "start everything"),
            ("harness validate".to_owned(), "check services.yaml"),
            ("harness --help".to_owned(), "see all commands"),
        ]
    };
    next_steps(&context.ui, &steps);
    Ok(Exit::OK)
}

/// The instances that names mean, of those that are known; an unknown name is an error.
pub(super) fn select(entries: Vec<Entry>, names: &[String]) -> Result<Vec<Entry>, CommandError> {
    for name in names {
        if !entries.iter().any(|entry| entry.service == *name || entry.instance == *name) {
            let mut known: Vec<String> = entries.iter().map(|entry| entry.service.clone()).collect();
            known.dedup();
            return Err(CommandError::unknown_name(name, &known));
        }
    }
    let chosen =
        |entry: &Entry| names.is_empty() || names.contains(&entry.service) || names.contains(&entry.instance);
    Ok(entries.into_iter().filter(chosen).collect())
}

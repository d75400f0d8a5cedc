//! `harness events`.

use super::{Context, examples};
use crate::api::{self, Names, StatusResult};
use crate::connect::{self, Change};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::ui::describe::{self, look};
use crate::ui::logs::millis;
use crate::ui::time::parse_moment;
use crate::ui::{Format, WriteError, style};
use jiff::Timestamp;
use serde::Serialize;
use service_registry::registry::{Event, EventKind};
use std::sync::Arc;

/// Show what happened: states, health, endpoints
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness events             What the daemon remembers"
    "harness events -f          And what happens from now on"
    "harness events web --since 10m"
])]
pub(crate) struct Args {
    /// Services or instances; without any, all
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// Only what is younger than this: 10m, or later than 2026-11-23T10:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only the last so many
    #[arg(short = 'n', long = "tail", value_name = "NUMBER")]
    tail: Option<usize>,
}

/// One event; with `-o json` one document on each line.
#[derive(Serialize)]
struct Line<'a> {
    schema: u32,
    #[serde(flatten)]
    event: &'a Event,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let since = args.since.as_deref().map(|text| parse_moment(text, Timestamp::now())).transpose();
    let since = since.map_err(|message| CommandError::usage(format!("--since: {message}")))?;
    let project = context.project()?;
    connect::block_on(async |executor| {
        let Some(daemon) = connect::existing(executor, &project).await? else {
            return Err(CommandError::new(Exit::UNREACHABLE, "no daemon runs; events are what it remembers")
                .hint("`harness start` starts it, `harness logs` shows what services said before"));
        };
        let wanted = |event: &Event| {
            let named = args.names.is_empty()
                || args.names.iter().any(|name| *name == event.service || *name == event.instance);
            named && since.is_none_or(|since| event.at >= since)
        };
        let (mut last, events) = daemon.past().await?;
        // A name that was never heard of is a mistake, and would be followed for ever.
        let unheard = |name: &&String| !events.iter().any(|e| e.service == **name || e.instance == **name);
        let names: Vec<String> = args.names.iter().filter(unheard).cloned().collect();
        if !names.is_empty() {
            daemon.call::<StatusResult>(api::STACK_STATUS, &Names { names }).await?;
        }
        let mut events: Vec<Arc<Event>> = events.into_iter().filter(|event| wanted(event)).collect();
        if let Some(tail) = args.tail {
            events.drain(..events.len().saturating_sub(tail));
        }
        for event in &events {
            show(context, event)?;
        }
        if events.is_empty() && !args.follow {
            context.ui.say("Nothing has happened.");
        }
        if !args.follow {
            return Ok(Exit::OK);
        }
        let mut changes = daemon.watch_since(last).await?;
        loop {
            match changes.next().await? {
                Change::Event(event) => {
                    if event.revision > last {
                        last = event.revision;
                        if wanted(&event) {
                            show(context, &event)?;
                        }
                    }
                }
                Change::Snapshot(_) => {
                    context
                        .ui
                        .warn("some events were missed: the connection was lost, or they came too fast");
                }
            }
        }
    })
}

fn show(context: &Context, event: &Event) -> Result<(), WriteError> {
    match context.ui.format {
        Format::Json => return context.ui.json_line(&Line { schema: 1, event }),
        Format::Yaml => {
            context.ui.out("---")?;
            return context.ui.document(&Line { schema: 1, event });
        }
        Format::Table => {}
    }
    let time = style::paint(style::DIM, millis(event.at));
    let name = style::paint(style::of_name(&event.service), &event.instance);
    context.ui.out(format_args!("{time}  {name}  {}", what(event)))
}

fn what(event: &Event) -> String {
    let Some(entry) = &event.entry else { return "removed".into() };
    let reason = describe::reason(entry);
    let because = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    match event.kind {
        EventKind::Registered => format!("registered{because}"),
        EventKind::Deregistered => "removed".into(),
        EventKind::StateChanged => {
            let from = event.previous.map(|state| format!("{state} → ")).unwrap_or_default();
            format!("{from}{}{because}", look(entry).painted())
        }
        EventKind::NodeLost => format!("{}{because}", look(entry).painted()),
        EventKind::NodeJoined => {
            format!("{} (node {} can be reached again)", look(entry).painted(), entry.location)
        }
        EventKind::HealthChanged => {
            let last = entry.health.as_ref().and_then(|health| health.last.as_ref());
            let answer = last.map(|last| format!(": {}", last.message)).unwrap_or_default();
            match describe::health(entry.health.as_ref()) {
                "" => "no health check any more".into(),
                health => format!("{health}{answer}"),
            }
        }
        EventKind::EndpointChanged => format!("reachable at {}", crate::ui::status::ports(&entry.endpoints)),
        EventKind::Updated | EventKind::Unknown => format!("{}{because}", look(entry).word),
    }
}

//! `harness health`.

use super::{Context, examples, status};
use crate::api::{self, HealthParams, StatusResult};
use crate::connect;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::ui::describe::{self, Labels};
use crate::ui::style;
use crate::ui::table::Table;
use crate::ui::time::{age, short};
use jiff::Timestamp;
use serde::Serialize;
use service_registry::model::{Entry, Health, HealthStatus};
use std::time::Duration;

/// Show what the health checks say; exit code 3 if one is unhealthy
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness health             The last answers"
    "harness health --run-now   Ask again, now"
    "harness health web -o json"
])]
pub(crate) struct Args {
    /// Services or instances; without any, all
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Run the checks now and show their answers
    #[arg(long)]
    run_now: bool,
}

#[derive(Serialize)]
struct Document {
    schema: u32,
    instances: Vec<Checked>,
}

#[derive(Serialize)]
struct Checked {
    instance: String,
    state: &'static str,
    ready: bool,
    health: Option<Health>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let entries = connect::block_on(async |executor| {
        let Some(daemon) = connect::existing(executor, &project).await? else {
            if args.run_now {
                return Err(CommandError::new(Exit::UNREACHABLE, "no daemon runs, so no check can be run")
                    .hint("`harness start` starts it"));
            }
            return Ok(status::facts(context, &project, None, &args.names).await?.entries);
        };
        let params = HealthParams { names: args.names.clone(), run_now: args.run_now };
        let result: StatusResult = daemon.call(api::STACK_HEALTH, &params).await?;
        Ok(result.instances)
    })?;
    let unhealthy = entries
        .iter()
        .any(|entry| entry.health.as_ref().is_some_and(|h| h.status == HealthStatus::Unhealthy));
    if context.ui.is_table() {
        context.ui.out(table(&entries, Timestamp::now()).lines(context.ui.stdout_width()).join("\n"))?;
    } else {
        let instances = entries
            .into_iter()
            .map(|entry| Checked {
                state: entry.status.state.as_str(),
                instance: entry.instance,
                ready: entry.ready,
                health: entry.health,
            })
            .collect();
        context.ui.document(&Document { schema: 1, instances })?;
    }
    Ok(if unhealthy { Exit::SERVICE_FAILED } else { Exit::OK })
}

fn table(entries: &[Entry], now: Timestamp) -> Table {
    let labels = Labels::new(entries.iter().map(|entry| entry.service.as_str()));
    let mut table = Table::new(&["NAME", "STATE", "HEALTH", "ASKED", "TOOK", "ANSWER"]);
    for entry in entries {
        let health = describe::health(entry.health.as_ref());
        let (symbol, colour) = match health {
            "healthy" => ("✓ ", style::GOOD),
            "unhealthy" => ("✗ ", style::ERROR),
            "" => ("", style::DIM),
            _ => ("● ", style::DIM),
        };
        let last = entry.health.as_ref().and_then(|health| health.last.as_ref());
        let ago = last.map(|last| now.duration_since(last.at).unsigned_abs());
        table.row(vec![
            labels.of(&entry.service, &entry.instance).to_owned(),
            describe::look(entry).painted(),
            style::paint(
                colour,
                format_args!("{symbol}{}", if health.is_empty() { "no check" } else { health }),
            ),
            ago.map(|ago| format!("{} ago", age(ago))).unwrap_or_default(),
            last.map(|last| short(Duration::from_millis(last.duration_ms))).unwrap_or_default(),
            last.map(|last| last.message.replace(['\n', '\r', '\u{1b}'], " ")).unwrap_or_default(),
        ]);
    }
    table
}

//! `harness registry`.

use super::{Context, examples};
use crate::connect;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::ui::style::{self, paint};
use serde_json::{Value, json};
use service_registry::wire;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Keep what programs from outside have registered, or take it to another project
///
/// An export has the entries that no lease holds: those of leases come again by themselves, those of the project's own services
/// are made by the daemon. It has no tokens, secrets or environments.
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness registry export > registry.json            Entries from outside, as JSON"
    "harness registry import registry.json              All of them, or none"
    "harness registry import registry.json --replace    In the place of those that are there"
])]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Print the entries from outside; starts the daemon if none runs
    Export,
    /// Register the entries of an export: all of them, or none
    Import {
        /// The export; - is stdin
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Replace entries from outside that are there
        #[arg(long)]
        replace: bool,
    },
}

/// Bytes that an export may have: what a message to the daemon holds.
const MOST: u64 = 60 << 20;

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    match &args.command {
        Command::Export => {
            let export: Value = call(context, wire::REGISTRY_EXPORT, &json!({}))?;
            context.ui.document(&export)?;
        }
        Command::Import { file, replace } => {
            let mut params = read(file)?;
            params.insert("replace".into(), (*replace).into());
            let done: wire::ImportResult = call(context, wire::REGISTRY_IMPORT, &params)?;
            if !context.ui.is_table() {
                context.ui.document(
                    &json!({ "schema": 1, "imported": done.imported, "replaced": done.replaced }),
                )?;
                return Ok(Exit::OK);
            }
            let replaced = match done.replaced {
                0 => String::new(),
                replaced => format!(", {replaced} of them in the place of another"),
            };
            let entries = match done.imported {
                1 => "1 entry".to_owned(),
                count => format!("{count} entries"),
            };
            context.ui.say(format_args!("{} {entries} registered{replaced}", paint(style::GOOD, "✓")));
        }
    }
    Ok(Exit::OK)
}

fn call<R: serde::de::DeserializeOwned>(
    context: &Context,
    method: &str,
    params: &impl serde::Serialize,
) -> Result<R, CommandError> {
    let project = context.project()?;
    connect::block_on(async |executor| {
        let daemon = connect::or_start(executor, &project).await?;
        Ok(daemon.call(method, params).await?)
    })
}

fn read(file: &Path) -> Result<serde_json::Map<String, Value>, CommandError> {
    let shown = if file == Path::new("-") { "stdin".to_owned() } else { file.display().to_string() };
    let mut text = Vec::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().take(MOST + 1).read_to_end(&mut text),
        false => File::open(file).and_then(|file| file.take(MOST + 1).read_to_end(&mut text)),
    };
    read.map_err(|error| CommandError::io(format!("can't read {shown}"), &error).exit(Exit::USAGE))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MOST {
        return Err(CommandError::usage(format!("{shown} has more than {MOST} bytes")));
    }
    serde_json::from_slice(&text).map_err(|error| {
        CommandError::from_error(Exit::USAGE, &error)
            .hint(format!("{shown} is no export: `harness registry export` makes one"))
    })
}

//! `harness rollback`.

use super::deploy::nodes;
use super::{Context, examples};
use crate::api::package::RollbackParams;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::packages::{self, RolledBack};
use crate::ui::style;
use semver::Version;
use serde::Serialize;
use std::path::PathBuf;

/// Make an earlier version of a package current
///
/// The version that the current one replaced, if it is still there; again, and the one before that. Scripts don't run.
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness rollback web                     To the version before"
    "harness rollback web --version 1.2.0     To a version that is installed"
])]
pub(crate) struct Args {
    /// The package
    #[arg(value_name = "NAME")]
    name: String,
    /// A version that is installed
    #[arg(long, value_name = "VERSION")]
    version: Option<Version>,
    /// Nodes of services.yaml; else this machine
    #[arg(long, value_name = "NODE", value_delimiter = ',', conflicts_with = "dry_run")]
    to: Vec<String>,
    /// Where it is installed
    #[arg(long, value_name = "FOLDER")]
    prefix: Option<PathBuf>,
    /// Show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    rolled_back: &'a RolledBack,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    if !args.to.is_empty() {
        let (name, version, prefix) = (args.name.clone(), args.version.clone(), args.prefix.clone());
        return nodes::rollback(
            context,
            &args.to,
            RollbackParams { name, version, prefix, steered_by: None },
        );
    }
    let depot = packages::depot(args.prefix.as_deref())?;
    let done = packages::rollback(&depot, &args.name, args.version.as_ref(), args.dry_run)?;
    if !context.ui.is_table() {
        context.ui.document(&Document { schema: 1, rolled_back: &done })?;
        return Ok(Exit::OK);
    }
    let RolledBack { name, version, previous, changed, current } = &done;
    let from = previous.as_ref().map(|from| format!(", before it {from}")).unwrap_or_default();
    if args.dry_run {
        context.ui.out(format_args!("switch {} to {version}{from}", current.display()))?;
    } else if *changed {
        let good = style::paint(style::GOOD, "✓");
        context.ui.say(format_args!("{good} {name} {version} is current again{from}: {}", current.display()));
    } else {
        context.ui.say(format_args!("{name} {version} is current already: unchanged"));
    }
    Ok(Exit::OK)
}

//! `harness deploy`.

pub(super) mod nodes;
mod service;

use super::{Context, examples};
use crate::connect;
use crate::error::{CommandError, next_steps};
use crate::exit::Exit;
use crate::packages::{self, Deployed, Opened, Options, PackageError, SCRIPT, Step};
use crate::ui::meter::{Meter, bytes};
use crate::ui::style;
use async_signal::{Signal, Signals};
use futures_lite::{FutureExt as _, StreamExt as _};
use semver::Version;
use serde::Serialize;
use service_registry::package::install::Depot;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Install a package and make it current
///
/// It is checked, unpacked beside the versions that are there, and switched to by one rename. Scripts of the package run before
/// (scripts/pre_install.sh, scripts/setup.sh) and after (scripts/post_install.sh). Deploying what is current changes nothing.
#[derive(clap::Args, Clone, Debug)]
#[command(before_help = examples![
    "harness deploy web-1.2.0.tar.zst                    To /opt as root, else below ~/.local/share/harness/opt"
    "harness deploy web-1.2.0.tar.zst --key web.pub      Only if it is signed with this key"
    "harness deploy web-1.2.0.tar.zst --prefix ./opt     To another folder"
    "harness deploy web-1.2.0.tar.zst --to eu-1,eu-2     To nodes: only what is missing there is sent"
    "harness deploy web-1.2.0.tar.zst --dry-run          What would be done"
    "harness deploy web --rollback-on-failure            A service: its package to where it runs, then a restart"
    "harness deploy web --version 1.1.0                  A version of it that is installed"
])]
pub(crate) struct Args {
    /// The package, NAME-VERSION.tar.zst; or a service of `type: package` of services.yaml, which is restarted with it
    #[arg(value_name = "FILE|SERVICE")]
    file: PathBuf,
    /// Nodes of services.yaml to deploy to, restarting nothing; without one, where the named service runs, else this machine
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    to: Vec<String>,
    /// Run this version of the service's package, which is installed already
    #[arg(long, value_name = "VERSION", conflicts_with_all = ["to", "key", "prefix"])]
    version: Option<Version>,
    /// Nodes that are deployed to, and instances that are restarted, at the same time; else three nodes, and as many instances as
    /// the service's `deployment` says, or one
    #[arg(long, value_name = "N")]
    max_parallel: Option<NonZeroUsize>,
    /// Refuse what isn't signed with this key: a file as minisign has it, or its second line
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Install below this folder
    #[arg(long, value_name = "FOLDER")]
    prefix: Option<PathBuf>,
    /// Keep so many versions; the current one and that before it are always kept
    #[arg(long, value_name = "N", default_value_t = packages::KEEP)]
    keep: usize,
    /// Go back to the version from before if the script after the switch fails, or the service isn't ready with the new one
    #[arg(long)]
    rollback_on_failure: bool,
    /// Check the package, show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    deployed: &'a Deployed,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let here = args.to.is_empty() || args.to == ["local"];
    if !here {
        return nodes::run(context, args);
    }
    if args.version.is_some() || service::is_meant(&args.file) {
        return service::run(context, args);
    }
    let depot = packages::depot(args.prefix.as_deref())?;
    let key = args.key.as_deref().map(packages::public_key).transpose()?;
    let mut package = Opened::new(&args.file, key.as_ref())?;
    if args.dry_run {
        return dry_run(context, &mut package, &depot);
    }
    let options = Options {
        keep: args.keep,
        rollback_on_failure: args.rollback_on_failure,
        timeout: context.global.timeout.unwrap_or(SCRIPT),
    };
    let signed = package.signed.clone();
    let deployed = with_interrupt(context, package, depot, options)?;
    if !context.ui.is_table() {
        context.ui.document(&Document { schema: 1, deployed: &deployed })?;
        return Ok(Exit::OK);
    }
    tell(context, args, &deployed, signed.as_deref());
    Ok(Exit::OK)
}

/// Deploys on a thread beside this one, which Ctrl-C tells to end and to leave all as it was.
fn with_interrupt(
    context: &Context,
    mut package: Opened,
    depot: Depot,
    options: Options,
) -> Result<Deployed, CommandError> {
    let ended = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&ended);
    let ui = context.ui;
    connect::block_on(async move |_| {
        let mut signals = Signals::new([Signal::Int])
            .map_err(|error| CommandError::io("can't listen for Ctrl-C", &error))?;
        let work = blocking::unblock(move || {
            let total = package.peek()?.files.iter().map(|file| file.size).sum();
            let mut meter = Meter::new(&ui, "unpacking");
            packages::deploy(&mut package, &depot, &options, &mut |step| {
                match step {
                    Step::Unpacked(done) => meter.at(done, total),
                    Step::Switch => {}
                    Step::Script(script) => {
                        ui.say(style::paint(style::DIM, format_args!("running {script}")))
                    }
                }
                !ended.load(Ordering::Relaxed)
            })
        });
        let watch = async {
            while signals.next().await.is_some() {
                asked.store(true, Ordering::Relaxed);
            }
            std::future::pending::<Result<Deployed, PackageError>>().await
        };
        Ok(work.or(watch).await?)
    })
}

fn tell(context: &Context, args: &Args, deployed: &Deployed, signed: Option<&str>) {
    let Deployed { name, version, previous, changed, current, removed, .. } = deployed;
    let good = style::paint(style::GOOD, "✓");
    if !changed {
        context.ui.say(format_args!("{good} {name} {version} is current already: unchanged"));
        return;
    }
    let before = previous.as_ref().map(|before| format!(", before it {before}")).unwrap_or_default();
    context.ui.say(format_args!("{good} {name} {version} is current{before}: {}", current.display()));
    if let Some(comment) = signed {
        context.ui.say(format_args!("  signed: {comment}"));
    } else if packages::signature_path(&args.file).exists() {
        context.ui.say("  it has a signature, which nobody looked at: `--key KEY` does");
    }
    if !removed.is_empty() {
        let versions: Vec<String> = removed.iter().map(ToString::to_string).collect();
        context.ui.say(format_args!("  removed: {}", versions.join(", ")));
    }
    if previous.is_some() {
        next_steps(&context.ui, &[(format!("harness rollback {name}"), "go back to the version before")]);
    }
}

fn dry_run(context: &Context, package: &mut Opened, depot: &Depot) -> Result<Exit, CommandError> {
    let found = package.verify(&mut |_| true)?;
    let manifest = &found.manifest;
    packages::check_dependencies(manifest, depot)?;
    let (name, version) = (&manifest.name, &manifest.version);
    let before = depot.current(name).map_err(|error| CommandError::from_error(Exit::GENERAL, &error))?;
    let folder = depot.folder(name, version);
    let mut steps = Vec::new();
    let has = |path: &str| manifest.files.iter().any(|file| file.path == path);
    if before.as_ref() == Some(version) {
        steps.push(format!("nothing: {name} {version} is current already"));
    } else {
        let there = folder.exists();
        let size = bytes(found.unpacked);
        steps.push(match there {
            true => format!("use {}, which is there", folder.display()),
            false => format!("unpack {size} to {}", folder.display()),
        });
        let scripts = service_registry::package::manifest::BEFORE.into_iter().filter(|path| has(path));
        steps.extend(scripts.map(|path| format!("run {path}")));
        let from = before.map(|before| format!(", from {before}")).unwrap_or_default();
        steps.push(format!("switch {} to {version}{from}", depot.link(name).display()));
        steps.extend(
            Some(service_registry::package::manifest::AFTER)
                .filter(|path| has(path))
                .map(|path| format!("run {path}")),
        );
    }
    if context.ui.is_table() {
        context.ui.out(steps.join("\n"))?;
    } else {
        context.ui.document(&serde_json::json!({ "schema": 1, "steps": steps }))?;
    }
    Ok(Exit::OK)
}

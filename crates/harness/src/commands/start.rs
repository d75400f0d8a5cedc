//! `harness start`.

use super::verdict::{self, Expect};
use super::wait::{End, Waiter};
use super::{Context, examples, load, outcome, plan, wait};
use crate::api::{self, StartParams, StartResult, StopParams, StopResult};
use crate::connect::{self, CallError, Daemon};
use crate::error::{CommandError, next_steps};
use crate::exit::Exit;
use crate::packages;
use crate::project::Project;
use crate::ui::describe::count;
use crate::ui::prompt;
use crate::ui::style;
use async_io::Timer;
use std::time::{Duration, Instant};

/// How long a daemon that is ending is waited for, to begin with the next one.
const ENDING: Duration = Duration::from_secs(5);

/// Start services and what they need, and wait until they are ready
///
/// Starts in parallel where the dependencies allow it. What runs already is left alone; what runs with an older
/// definition is listed, and replaced with --apply. One failure doesn't stop what is independent of it.
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness start              Everything"
    "harness start web          web and what it needs"
    "harness start --dry-run    Show the plan, touch nothing"
    "harness start --apply      Also replace what the file has changed"
])]
pub(crate) struct Args {
    /// Services or instances; without any, all
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Wait until everything is ready (the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Return as soon as the daemon has the wish
    #[arg(long)]
    no_wait: bool,
    /// Replace what runs with an older definition
    #[arg(long)]
    apply: bool,
    /// Show what would be done, in rounds, and touch nothing
    #[arg(long)]
    dry_run: bool,
    /// Stop what the file no longer has
    #[arg(long)]
    remove_orphans: bool,
    /// If something fails, stop what this call started
    #[arg(long, conflicts_with = "no_wait")]
    rollback_on_failure: bool,
    /// Warnings are errors
    #[arg(long)]
    strict: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let begin = Instant::now();
    let project = context.project()?;
    let loaded = load::load(context, &project, args.strict)?;
    load::check_names(&loaded.stack, &args.names)?;
    // The daemon would refuse too; but then it would have been started for nothing, and a dry run needs no daemon.
    let selected = plan::selected(&loaded.stack, &args.names);
    packages::service::check(&loaded.stack, &selected)?;
    let params = StartParams {
        names: args.names.clone(),
        env: Context::caller_environment(),
        apply: args.apply,
        remove_orphans: args.remove_orphans,
        dry_run: args.dry_run,
        stack: loaded.stack,
        config: Some(project.config.clone()),
    };
    connect::block_on(async |executor| {
        if args.dry_run {
            return dry_run(context, &project, &params, connect::existing(executor, &project).await?).await;
        }
        let (daemon, begun) = loop {
            let daemon = connect::or_start(executor, &project).await?;
            match Begun::ask(begin, &daemon, &params).await {
                // It is ending, for someone else's stop: the next one takes this.
                Err(error) if error.is_end() && begin.elapsed() < ENDING => {
                    Timer::after(Duration::from_millis(5)).await;
                }
                begun => break (daemon, begun?),
            }
        };
        let next = async || Ok(connect::or_start(executor, &project).await?);
        start(context, &project, (&daemon, next), params, args, begun).await
    })
}

async fn dry_run(
    context: &Context,
    project: &Project,
    params: &StartParams,
    daemon: Option<Daemon>,
) -> Result<Exit, CommandError> {
    let rounds = match daemon {
        Some(daemon) => {
            let result: StartResult = daemon.call(api::STACK_START, params).await?;
            plan::say_stale(context, &result.stale);
            result.plan.unwrap_or_default()
        }
        None => plan::from_nothing(project, &params.stack, &params.names)?,
    };
    plan::show(context, &rounds)?;
    Ok(Exit::OK)
}

/// What a start has set in motion.
struct Begun {
    begin: Instant,
    /// The processes that ran before, where they may be replaced.
    before: Vec<(String, String)>,
    result: StartResult,
}

impl Begun {
    async fn ask(begin: Instant, daemon: &Daemon, params: &StartParams) -> Result<Self, CallError> {
        let before = if params.apply { present_runs(daemon).await? } else { Vec::new() };
        Ok(Self { begin, before, result: daemon.call(api::STACK_START, params).await? })
    }
}

async fn start(
    context: &Context,
    project: &Project,
    (daemon, next): (&Daemon, impl AsyncFn() -> Result<Daemon, CommandError>),
    mut params: StartParams,
    args: &Args,
    begun: Begun,
) -> Result<Exit, CommandError> {
    let Begun { begin, before, mut result } = begun;
    for warning in &result.warnings {
        context.ui.warn(warning);
    }
    let mut replaced = before;
    if !result.stale.is_empty() && !args.apply {
        plan::say_stale(context, &result.stale);
        if context.ui.can_ask && prompt::confirm("Replace what changed now?") {
            replaced = present_runs(daemon).await?;
            params.apply = true;
            result = daemon.call(api::STACK_START, &params).await?;
        }
    }
    if !result.orphans.is_empty() && !args.remove_orphans {
        let names: Vec<String> = result.orphans.iter().map(ToString::to_string).collect();
        context.ui.warn(format_args!(
            "{} no longer in the file: {} (`harness start --remove-orphans` stops what runs of them)",
            count(names.len(), "service"),
            names.join(", ")
        ));
    }
    if args.no_wait {
        if !context.ui.is_table() {
            context.ui.document(&Envelope { schema: 1, result: &result })?;
        }
        context.ui.say(format_args!("{} starting", count(result.started.len(), "instance")));
        next_steps(&context.ui, &[("harness status --watch".into(), "see how it goes")]);
        return Ok(Exit::OK);
    }
    let nothing_new = result.started.is_empty() && (!params.apply || result.stale.is_empty());
    let wanted = expectations(&result, &replaced, &params);
    let mut waiter = Waiter::new(context, daemon, begin).await?;
    let (end, verdicts) = waiter.ready_whoever_tells(&wanted, &next).await?;
    let exit = match end {
        End::Interrupted => wait::interrupted(),
        _ => verdict::exit(&verdicts, end == End::TimedOut),
    };
    if nothing_new && exit == Exit::OK && context.ui.is_table() {
        context.ui.say(format_args!("{} {} unchanged", style::paint(style::GOOD, "✓"), wanted.len()));
        return Ok(exit);
    }
    outcome::summary(context, project, &wanted, &verdicts, &waiter.board, begin.elapsed(), exit)?;
    if exit != Exit::OK && end == End::Settled && args.rollback_on_failure {
        roll_back(context, &next().await?, &result, &mut waiter).await?;
    } else if end == End::Settled {
        outcome::advise(context, &wanted, &verdicts);
    } else {
        outcome::goes_on(context, &wanted, &verdicts, &waiter.board);
    }
    Ok(exit)
}

#[derive(serde::Serialize)]
struct Envelope<'a> {
    schema: u32,
    #[serde(flatten)]
    result: &'a StartResult,
}

/// The runs that are the present ones now, by instance.
pub(super) async fn present_runs(daemon: &Daemon) -> Result<Vec<(String, String)>, CallError> {
    let status: api::StatusResult = daemon.call(api::STACK_STATUS, &api::Names::default()).await?;
    let runs = status.instances.into_iter().filter_map(|entry| {
        let run = entry.execution.run()?.to_owned();
        Some((entry.instance, run))
    });
    Ok(runs.collect())
}

fn expectations(result: &StartResult, before: &[(String, String)], params: &StartParams) -> Vec<Expect> {
    let replaced =
        |name: &str| params.apply && result.stale.iter().any(|stale| stale.instance.to_string() == name);
    result
        .wanted
        .iter()
        .map(|name| {
            let fresh = result.started.contains(name) || replaced(&name.to_string());
            let restart = params.stack.service(name.service().as_str()).map(|service| service.restart.policy);
            let name = name.to_string();
            let run = before.iter().find(|(instance, _)| *instance == name).map(|(_, run)| run.clone());
            Expect {
                after: if fresh { result.revision } else { 0 },
                fresh,
                not_run: run.filter(|_| replaced(&name)),
                deaths_before: 0,
                restart,
                instance: name,
            }
        })
        .collect()
}

async fn roll_back(
    context: &Context,
    daemon: &Daemon,
    result: &StartResult,
    waiter: &mut Waiter<'_>,
) -> Result<(), CommandError> {
    if result.started.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = result.started.iter().map(ToString::to_string).collect();
    context.ui.say(format_args!("Stopping what this start began: {}", names.join(", ")));
    let params = StopParams { names, force: false, dependents: true, dry_run: false };
    let stopped: StopResult = daemon.call(api::STACK_STOP, &params).await?;
    waiter.stopped(&stopped).await?;
    context.ui.say("Rolled back.");
    Ok(())
}

//! `harness stop`.

use super::wait::{End, Waiter};
use super::{Context, examples, offline, plan, wait};
use crate::api::{self, StopParams, StopResult, code};
use crate::connect::{self, CallError, Daemon};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::project::Project;
use crate::ui::describe::count;
use crate::ui::time::short;
use crate::ui::{prompt, style};
use async_io::Timer;
use std::time::{Duration, Instant};

/// How long the daemon may take to end after everything has stopped.
const DAEMON_END: Duration = Duration::from_secs(10);

/// How long a daemon that ends under a stop is replaced by the next.
const ENDING: Duration = Duration::from_secs(10);

/// Stop services, what needs them first; without names everything, and the daemon
///
/// Each gets its stop signal, and after its shutdown_timeout its whole process tree is killed. Asks before it stops
/// something that others need.
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness stop               Everything, and the daemon"
    "harness stop db            db and what needs it, after asking"
    "harness stop db -y         The same without asking"
    "harness stop db --force    Kill db at once, leave what needs it running"
])]
pub(crate) struct Args {
    /// Services or instances; without any, all
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
    /// Kill at once, and leave running what needs them
    #[arg(long)]
    force: bool,
    /// Show what would be stopped, and touch nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    of(context, args, &context.project()?)
}

/// Stops services by their names, and what needs them.
pub(super) fn names(context: &Context, project: &Project, names: Vec<String>) -> Result<Exit, CommandError> {
    of(context, &Args { names, yes: true, force: false, dry_run: false }, project)
}

fn of(context: &Context, args: &Args, project: &Project) -> Result<Exit, CommandError> {
    let begin = Instant::now();
    connect::block_on(async |executor| {
        loop {
            let daemon = match connect::existing(executor, project).await? {
                Some(daemon) => daemon,
                // Services go on without a daemon: one is needed to stop them.
                None if !offline::live_instances(project)?.is_empty() && !args.dry_run => {
                    connect::or_start(executor, project).await?
                }
                None => {
                    return nothing(
                        context,
                        args,
                        &offline::live_instances(project)?.into_iter().collect::<Vec<_>>(),
                    );
                }
            };
            match stop(context, project, &daemon, args, begin).await {
                // The daemon has ended under it, killed or by another stop: what that one left undone, the next one does.
                Err(error) if error.exit == Exit::UNREACHABLE && begin.elapsed() < ENDING => {
                    Timer::after(Duration::from_millis(5)).await;
                }
                outcome => return outcome,
            }
        }
    })
}

#[derive(serde::Serialize)]
struct Document<'a> {
    schema: u32,
    stopped: &'a [String],
    seconds: f64,
}

fn nothing(context: &Context, args: &Args, live: &[String]) -> Result<Exit, CommandError> {
    if !context.ui.is_table() {
        context.ui.document(&Document { schema: 1, stopped: &[], seconds: 0.0 })?;
    } else if args.dry_run && !live.is_empty() {
        context.ui.out(format_args!("would stop: {}", live.join(", ")))?;
    } else {
        context.ui.say("Nothing is running.");
    }
    Ok(Exit::OK)
}

async fn stop(
    context: &Context,
    project: &Project,
    daemon: &Daemon,
    args: &Args,
    begin: Instant,
) -> Result<Exit, CommandError> {
    let mut params =
        StopParams { names: args.names.clone(), force: args.force, dependents: args.yes, dry_run: true };
    if args.dry_run {
        params.dependents = true;
        let result: StopResult = daemon.call(api::STACK_STOP, &params).await?;
        plan::show(context, &result.plan.unwrap_or_default())?;
        return Ok(Exit::OK);
    }
    params.dry_run = false;
    let all = args.names.is_empty();
    params.dependents = args.yes || all;
    let result = match daemon.call::<StopResult>(api::STACK_STOP, &params).await {
        Ok(result) => result,
        Err(error) => match agree(context, args, error)? {
            false => return Ok(Exit::OK),
            true => {
                params.dependents = true;
                daemon.call(api::STACK_STOP, &params).await?
            }
        },
    };
    let mut waiter = Waiter::new(context, daemon, begin).await?;
    match waiter.stopped(&result).await? {
        End::Settled => {}
        End::TimedOut => {
            return Err(CommandError::new(
                Exit::TIMED_OUT,
                "not everything has stopped in time; it goes on stopping",
            )
            .hint("`harness status` shows what is left, `harness stop --force` kills it"));
        }
        End::Interrupted => {
            context.ui.say("Stopping goes on. `harness stop --force` kills what is left.");
            return Ok(wait::interrupted());
        }
    }
    let again = waiter.started_again(&result);
    if !again.is_empty() {
        return Err(CommandError::new(
            Exit::GENERAL,
            format!("{} was started again meanwhile, by another command", again.join(", ")),
        )
        .hint("`harness status` shows what runs, `harness stop` stops it"));
    }
    // A daemon of another machine goes on: nobody there has said that it isn't needed.
    if all && project.remote.is_none() && !end_daemon(daemon, &mut waiter, project).await? {
        context.ui.say("The daemon goes on: something was started meanwhile.");
    }
    let names: Vec<String> = result.stopping.iter().map(ToString::to_string).collect();
    if !context.ui.is_table() {
        context.ui.document(&Document {
            schema: 1,
            stopped: &names,
            seconds: begin.elapsed().as_secs_f64(),
        })?;
    } else if names.is_empty() {
        context.ui.say("Nothing is running.");
    } else {
        context.ui.say(format_args!(
            "{} {} stopped in {}",
            style::paint(style::GOOD, "✓"),
            count(names.len(), "instance"),
            short(begin.elapsed())
        ));
    }
    Ok(Exit::OK)
}

/// Whether dependents may be stopped too: asks, where someone is there to answer.
fn agree(context: &Context, args: &Args, error: CallError) -> Result<bool, CommandError> {
    let CallError::Answer { code: code::HAS_DEPENDENTS, data: Some(data), .. } = &error else {
        return Err(error.into());
    };
    let dependents: Vec<&str> = data
        .get("dependents")
        .and_then(|names| names.as_array())
        .map(|names| names.iter().filter_map(|name| name.as_str()).collect())
        .unwrap_or_default();
    if !context.ui.can_ask {
        let needed =
            format!("{} is needed by {}; nothing was stopped", args.names.join(", "), dependents.join(", "));
        return Err(CommandError::usage(needed).hint("`-y` stops these too, `--force` leaves them running"));
    }
    context.ui.say(format_args!("{} is needed by: {}", args.names.join(", "), dependents.join(", ")));
    let agreed = prompt::confirm("Stop these too?");
    if !agreed {
        context.ui.say("Nothing was stopped.");
    }
    Ok(agreed)
}

/// Ends the daemon and waits until it is gone, so that the next command doesn't meet it half-way. `false`: something is
/// wanted of it again.
pub(super) async fn end_daemon(
    daemon: &Daemon,
    waiter: &mut Waiter<'_>,
    project: &Project,
) -> Result<bool, CommandError> {
    let ending = connect::Ending::of(project);
    match daemon.call::<api::EndResult>(api::DAEMON_STOP, &api::EndParams { if_idle: true }).await {
        Ok(api::EndResult { ending: false }) => return Ok(false),
        Ok(api::EndResult { ending: true }) => {}
        // It may close the connection before its answer is out.
        Err(error) if error.is_end() => {}
        Err(error) => return Err(error.into()),
    }
    if waiter.closed(DAEMON_END).await && ending.ended(DAEMON_END).await {
        return Ok(true);
    }
    Err(CommandError::new(
        Exit::TIMED_OUT,
        format!("everything has stopped, but the daemon has not ended within {}", short(DAEMON_END)),
    )
    .hint(format!("{} has its last words", project.state_dir.join(connect::LOG).display())))
}

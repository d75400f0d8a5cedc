//! `harness restart`.

use super::verdict::{self, Expect};
use super::wait::{End, Waiter};
use super::{Context, examples, load, offline, outcome, start, wait};
use crate::api::{self, RestartParams, RestartResult};
use crate::connect;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::project::Project;
use std::time::Instant;

/// Restart services with the file as it is now, and wait until they are ready
///
/// With -H wss:// as they were started over there: no file and no environment of this machine goes along.
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness restart web        web, with its definition as the file has it now"
    "harness restart web-2      One instance of several"
    "harness restart            Everything that should run"
])]
pub(crate) struct Args {
    /// Services or instances; without any, all that should run
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Return as soon as the daemon has the wish
    #[arg(long)]
    no_wait: bool,
    /// Kill at once instead of asking to stop
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let remote = project.remote.is_some();
    let stack = if project.deleted || remote {
        None
    } else {
        let stack = load::load(context, &project, false)?.stack;
        load::check_names(&stack, &args.names)?;
        Some(stack)
    };
    let params = RestartParams {
        stack,
        names: args.names.clone(),
        env: if remote { Default::default() } else { Context::caller_environment() },
        force: args.force,
    };
    carry_out(context, &project, &params, !args.no_wait)
}

/// Asks for the restart, and with `wait` waits until all of it is ready.
pub(super) fn carry_out(
    context: &Context,
    project: &Project,
    params: &RestartParams,
    wait: bool,
) -> Result<Exit, CommandError> {
    let begin = Instant::now();
    let remote = project.remote.is_some();
    connect::block_on(async |executor| {
        let Some(daemon) = offline::daemon_of_what_runs(executor, project).await? else {
            return Err(CommandError::new(
                Exit::GENERAL,
                "nothing is running, so there is nothing to restart",
            )
            .hint("`harness start` starts it"));
        };
        let before = start::present_runs(&daemon).await?;
        let result: RestartResult = daemon.call(api::STACK_RESTART, params).await?;
        let wanted: Vec<Expect> = result
            .restarting
            .iter()
            .map(|name| {
                let instance = name.to_string();
                let run = before.iter().find(|(known, _)| *known == instance).map(|(_, run)| run.clone());
                let service = params.stack.as_ref().and_then(|stack| stack.service(name.service().as_str()));
                let restart = service.map(|service| service.restart.policy);
                Expect {
                    instance,
                    after: result.revision,
                    fresh: true,
                    not_run: run,
                    deaths_before: 0,
                    restart,
                }
            })
            .collect();
        if !wait {
            context.ui.say(format_args!("{} restarting", wanted.len()));
            return Ok(Exit::OK);
        }
        let mut waiter = Waiter::new(context, &daemon, begin).await?;
        let next = async || Ok(connect::or_start(executor, project).await?);
        let (end, verdicts) = waiter.ready_whoever_tells(&wanted, next).await?;
        let exit = match end {
            End::Interrupted => wait::interrupted(),
            _ => verdict::exit(&verdicts, end == End::TimedOut),
        };
        outcome::summary(context, project, &wanted, &verdicts, &waiter.board, begin.elapsed(), exit)?;
        // What would be typed next needs the logs or the file, which are over there.
        if remote {
            return Ok(exit);
        }
        if end == End::Settled {
            outcome::advise(context, &wanted, &verdicts);
        } else {
            outcome::goes_on(context, &wanted, &verdicts, &waiter.board);
        }
        Ok(exit)
    })
}

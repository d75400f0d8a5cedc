//! `harness daemon`.

mod access;
mod bridge;
pub(super) mod plane;
mod restart;

use super::{Context, examples, offline};
use crate::api::{self, DaemonInfo};
use crate::connect::{self, CallError};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::project::Project;
use crate::ui::style;
use std::path::PathBuf;
use std::time::Duration;

/// Look after the daemon that runs the project's services
///
/// `harness start` starts it by itself; it ends with `harness stop`. Services don't depend on it: they go on while it
/// is away, and it finds them again.
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness daemon status      Which daemon runs, since when, with what"
    "harness daemon stop        End it; services go on"
    "harness daemon restart     Let this program take over, after an upgrade; services go on"
    "harness daemon run         Run it in the foreground, for a service manager"
])]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

impl Args {
    /// Whether the daemon is only asked, so that it may be one of another machine. One that was ended there couldn't be started
    /// again from here.
    pub(crate) fn only_asks(&self) -> bool {
        matches!(self.command, Command::Status | Command::Listen(_) | Command::Token(_))
    }
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Run the daemon in the foreground, until it is told to end
    Run(Run),
    /// Show the daemon: process, version, folders
    Status,
    /// End the daemon; services go on under their keepers
    Stop,
    /// End the daemon and start one of this program's build, which takes over what runs
    Restart,
    Listen(access::Listen),
    Token(access::Token),
    #[command(hide = true)]
    Ambassador(Ambassador),
    #[command(hide = true)]
    Bridge(bridge::Args),
    #[command(hide = true)]
    Plane(plane::Args),
}

#[derive(clap::Args, Debug)]
struct Run {
    /// The project's state folder; else that of the configuration file
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Leave the terminal; standard input is a pipe that gets one byte when the daemon answers, or else why it can't
    #[arg(long, hide = true)]
    background: bool,
}

/// Stand for a service in a container network. Nobody types this
#[derive(clap::Args, Debug)]
struct Ambassador {
    /// The data plane's socket for ambassadors
    #[arg(long)]
    door: PathBuf,
    /// The service
    #[arg(long)]
    service: String,
    /// The ports to listen on
    #[arg(long, value_delimiter = ',', required = true)]
    ports: Vec<u16>,
}

/// How long the daemon may take to end.
const END: Duration = Duration::from_secs(10);

#[derive(serde::Serialize)]
struct Document<'a> {
    schema: u32,
    daemon: Option<&'a DaemonInfo>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, CommandError> {
    match args.command {
        Command::Run(run) => foreground(context, run),
        Command::Status => status(context),
        Command::Stop => stop(context),
        Command::Restart => restart::run(context),
        Command::Listen(args) => access::listen(context, args),
        Command::Token(args) => access::token(context, args),
        Command::Ambassador(Ambassador { door, service, ports }) => {
            data_plane::Ambassador { door, service, ports }
                .run()
                .map(|()| Exit::OK)
                .map_err(|error| CommandError::from_error(Exit::GENERAL, &error))
        }
        Command::Bridge(args) => bridge::run(args),
        Command::Plane(args) => plane::run(context, args),
    }
}

fn foreground(context: &Context, run: Run) -> Result<Exit, CommandError> {
    let state_dir = match run.state_dir {
        Some(state_dir) => state_dir,
        None => {
            let project = context.project()?;
            project.create_state_dir()?;
            project.state_dir
        }
    };
    match crate::daemon::run(&state_dir, run.background) {
        Ok(()) => Ok(Exit::OK),
        Err(error) => Err(CommandError::from_error(Exit::GENERAL, &error).hint(
            "`harness daemon status` shows the one that runs, `harness daemon stop` ends it; services go on",
        )),
    }
}

fn status(context: &Context) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let info = connect::block_on(async |executor| {
        let Some(daemon) = connect::existing(executor, &project).await? else { return Ok(None) };
        Ok(Some(daemon.call::<DaemonInfo>(api::DAEMON_STATUS, &serde_json::json!({})).await?))
    })?;
    if !context.ui.is_table() {
        context.ui.document(&Document { schema: 1, daemon: info.as_ref() })?;
        return Ok(Exit::OK);
    }
    let Some(info) = info else {
        let live = offline::live_instances(&project)?;
        context.ui.say(match live.len() {
            0 => "No daemon runs, and no service.".to_owned(),
            n => format!(
                "No daemon runs; {n} services go on without it. The next command that needs it starts it."
            ),
        });
        return Ok(Exit::OK);
    };
    let version = match project.remote.is_some() || info.build == crate::daemon::build_id() {
        true => info.version,
        false => format!(
            "{} of another build than this program; `harness daemon restart` lets this one take over",
            info.version
        ),
    };
    let config = info.config.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let listens = info.listener.map_or("this machine only".to_owned(), |listener| match listener.problem {
        Some(problem) => format!("not on {}: {problem}", listener.address),
        None => format!("{}, certificate {}", listener.address, listener.certificate),
    });
    for (key, value) in [
        ("pid", info.pid.to_string()),
        ("version", version),
        ("since", info.started_at),
        ("project", info.project_id),
        ("config", config),
        ("state", info.state_dir.display().to_string()),
        ("running", info.running.to_string()),
        ("listens", listens),
    ] {
        context.ui.out(format_args!("{}  {value}", style::paint(style::STRONG, format_args!("{key:<8}"))))?;
    }
    Ok(Exit::OK)
}

/// Ends the project's daemon if one runs, and waits until it is gone; services go on. The answer: whether one ran.
pub(super) fn end_if_any(project: &Project) -> Result<bool, CommandError> {
    connect::block_on(async |executor| Ok(restart::end(executor, project).await?.is_some()))
}

/// Ends the project's daemon if it has nothing to do.
pub(super) fn end_if_idle(project: &Project) -> Result<(), CommandError> {
    connect::block_on(async |executor| {
        let Some(daemon) = connect::existing(executor, project).await? else { return Ok(()) };
        let ending = connect::Ending::of(project);
        match daemon.call::<api::EndResult>(api::DAEMON_STOP, &api::EndParams { if_idle: true }).await {
            Ok(api::EndResult { ending: false }) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.is_end() => {}
            Err(error) => return Err(error.into()),
        }
        ending.ended(END).await;
        Ok(())
    })
}

fn stop(context: &Context) -> Result<Exit, CommandError> {
    let project = context.project()?;
    connect::block_on(async |executor| {
        let Some(daemon) = connect::existing(executor, &project).await? else {
            context.ui.say("No daemon runs.");
            return Ok(Exit::OK);
        };
        let info: DaemonInfo = daemon.call(api::DAEMON_STATUS, &serde_json::json!({})).await?;
        let ending = connect::Ending::of(&project);
        let mut waiter = super::wait::Waiter::new(context, &daemon, std::time::Instant::now()).await?;
        match daemon.call::<serde_json::Value>(api::DAEMON_STOP, &serde_json::json!({})).await {
            Ok(_) | Err(CallError::Closed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if !waiter.closed(END).await || !ending.ended(END).await {
            return Err(CommandError::new(
                Exit::TIMED_OUT,
                format!("the daemon (pid {}) has not ended", info.pid),
            )
            .hint(format!("`kill -9 {}` ends it; services go on", info.pid)));
        }
        context.ui.say(match info.running {
            0 => "The daemon has ended.".to_owned(),
            n => {
                format!("The daemon has ended; {n} services go on. The next command that needs it starts it.")
            }
        });
        Ok(Exit::OK)
    })
}

//! `harness daemon restart`: the daemon ends, one of this program's build takes over. Services don't notice.

use super::super::{Context, offline};
use super::END;
use crate::api::{self, DaemonInfo};
use crate::connect::{self, CallError, ConnectError};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::project::Project;
use crate::ui::describe::count;
use crate::ui::time::short;
use async_executor::LocalExecutor;
use std::time::Instant;

/// How often a daemon is ended that somebody else started in between, with another program.
const ATTEMPTS: usize = 3;

/// The daemon that was there.
#[derive(serde::Serialize)]
pub(super) struct Before {
    pid: Option<u32>,
    version: Option<String>,
    build: Option<String>,
}

#[derive(serde::Serialize)]
struct Document<'a> {
    schema: u32,
    before: Option<&'a Before>,
    daemon: &'a DaemonInfo,
    /// Instances that go on with the process that they had.
    kept: &'a [String],
    /// Instances that ran and now don't, or with another process.
    changed: &'a [String],
    seconds: f64,
}

pub(super) fn run(context: &Context) -> Result<Exit, CommandError> {
    let begin = Instant::now();
    let project = context.project()?;
    if !project.state_dir.exists() {
        context.ui.say("Nothing was ever started in this project: there is no daemon to restart.");
        return Ok(Exit::OK);
    }
    let ran = offline::live_runs(&project)?;
    let (before, info) = connect::block_on(async |executor| exchange(executor, &project).await)?;
    let runs = offline::live_runs(&project)?;
    let (kept, changed): (Vec<String>, Vec<String>) =
        ran.keys().cloned().partition(|name| runs.get(name) == ran.get(name));
    if !context.ui.is_table() {
        let seconds = begin.elapsed().as_secs_f64();
        let (kept, changed) = (kept.as_slice(), changed.as_slice());
        let document = Document { schema: 1, before: before.as_ref(), daemon: &info, kept, changed, seconds };
        context.ui.document(&document)?;
        return Ok(Exit::OK);
    }
    let new = format!("pid {}, {}", info.pid, info.version);
    let exchanged = match &before {
        None => format!("No daemon ran; a new one does ({new})."),
        Some(before) => {
            let known = [before.pid.map(|pid| format!("pid {pid}")), before.version.clone()];
            let known: Vec<String> = known.into_iter().flatten().collect();
            format!("The daemon ({}) has ended, a new one ({new}) has taken over.", known.join(", "))
        }
    };
    let services = match kept.len() {
        0 => String::new(),
        n => format!(" {} on as before, with the same processes.", goes(n)),
    };
    context.ui.say(format_args!("{exchanged}{services} {}", short(begin.elapsed())));
    if !changed.is_empty() {
        context.ui.say(format_args!(
            "Not as before: {}. `harness status` shows what they do, `harness events` why.",
            changed.join(", ")
        ));
    }
    Ok(Exit::OK)
}

fn goes(instances: usize) -> String {
    let verb = if instances == 1 { "goes" } else { "go" };
    format!("{} {verb}", count(instances, "instance"))
}

/// Ends the daemon, whatever its version, and starts ours. The answer: the first that was ended, and ours.
pub(super) async fn exchange(
    executor: &LocalExecutor<'static>,
    project: &Project,
) -> Result<(Option<Before>, DaemonInfo), CommandError> {
    let mut first = None;
    for _ in 0..ATTEMPTS {
        let ended = end(executor, project).await?;
        let old = ended.as_ref().and_then(|before| before.pid);
        first = first.or(ended);
        let daemon = connect::or_start(executor, project).await?;
        let info: DaemonInfo = daemon.call(api::DAEMON_STATUS, &serde_json::json!({})).await?;
        // Else somebody was faster, with another program.
        if info.build == crate::daemon::build_id() && Some(info.pid) != old {
            return Ok((first, info));
        }
    }
    Err(CommandError::new(Exit::GENERAL, "a daemon of another program is started again and again")
        .hint("`harness daemon status` shows it: end what starts it, then try again"))
}

/// Ends the daemon that runs, and waits until it is gone.
pub(super) async fn end(
    executor: &LocalExecutor<'static>,
    project: &Project,
) -> Result<Option<Before>, CommandError> {
    let before = match connect::existing(executor, project).await {
        Ok(None) => return Ok(None),
        Ok(Some(daemon)) => {
            // One of another version may say it in a way that isn't understood: no reason to keep it.
            let info: Option<DaemonInfo> = daemon.call(api::DAEMON_STATUS, &serde_json::json!({})).await.ok();
            let ending = connect::Ending::of(project);
            match daemon.call::<serde_json::Value>(api::DAEMON_STOP, &serde_json::json!({})).await {
                Ok(_) => {}
                Err(error) if error.is_end() => {}
                Err(error) => return Err(error.into()),
            }
            let pid = info.as_ref().map(|info| info.pid);
            let (version, build) = info.map(|info| (info.version, info.build)).unzip();
            (ending, Before { pid, version, build })
        }
        Err(ConnectError::Version { pid, .. }) => {
            let ending = connect::Ending::of(project);
            connect::end_foreign(project).await.map_err(|error| stuck(error, pid))?;
            (ending, Before { pid, version: None, build: None })
        }
        Err(error) => return Err(error.into()),
    };
    let (ending, before) = before;
    if ending.ended(END).await {
        return Ok(Some(before));
    }
    let pid = before.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    Err(CommandError::new(Exit::TIMED_OUT, format!("the daemon{pid} has not ended within {}", short(END)))
        .hint("it can be killed: services go on, and the next command starts a new daemon"))
}

/// It speaks no common protocol and doesn't end when it is told to.
fn stuck(error: CallError, pid: Option<u32>) -> CommandError {
    let error = CommandError::from(error);
    match pid {
        Some(pid) => error.hint(format!("`kill {pid}` ends it; services go on, then try again")),
        None => error,
    }
}

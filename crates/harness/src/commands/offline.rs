//! What can be known without a daemon: from the files that keepers wrote; and the daemon that what runs should have.

use crate::connect::{self, Daemon};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::project::Project;
use async_executor::LocalExecutor;
use command_executor::keeper::{self, FoundRun, Keepers, Liveness, RunState};
use orchestrator::node::{HostedRecord, LogSource};
use service_registry::model::{Entry, Execution, Exit as Ended, Location, Reason, ReasonCode, State};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn scan(project: &Project) -> Result<Vec<FoundRun>, CommandError> {
    if !project.state_dir.join("instances").is_dir() {
        return Ok(Vec::new());
    }
    Keepers::scan(&project.state_dir).map_err(|error| CommandError::from_error(Exit::GENERAL, &error))
}

fn is_alive(run: &FoundRun) -> bool {
    matches!(run.liveness, Liveness::KeeperAlive | Liveness::KeeperDeadProcessesLeft(_))
}

/// The newest run of each instance that no keeper has.
fn hosted(project: &Project) -> Result<BTreeMap<String, HostedRecord>, CommandError> {
    let records = HostedRecord::all(&project.state_dir)
        .map_err(|error| CommandError::io("can't list the runs", &error))?;
    Ok(records.into_iter().map(|record| (record.instance.to_string(), record)).collect())
}

/// Whether a run that nobody saw end may go on. Only whoever keeps it knows for sure.
fn may_live(record: &HostedRecord) -> bool {
    // A container's process may be one of another machine, and one that has ended is still the engine's.
    let process = match record.execution {
        Execution::Process { pid, .. } | Execution::Unit { pid, .. } => pid,
        _ => None,
    };
    let elsewhere = matches!(record.log, LogSource::Node { .. });
    // A number of before the last boot is another process's by now, if anybody's.
    let is_there = |pid| !record.is_of_another_boot() && Path::new(&format!("/proc/{pid}")).exists();
    record.ended.is_none() && (elsewhere || process.is_none_or(is_there))
}

/// The daemon; where none runs though something is alive, one that is started and adopts it. `None` where nothing runs.
pub(super) async fn daemon_of_what_runs(
    executor: &LocalExecutor<'static>,
    project: &Project,
) -> Result<Option<Daemon>, CommandError> {
    match connect::existing(executor, project).await? {
        Some(daemon) => Ok(Some(daemon)),
        None if live_instances(project)?.is_empty() => Ok(None),
        None => Ok(Some(connect::or_start(executor, project).await?)),
    }
}

/// Instances of which something is alive.
pub(super) fn live_instances(project: &Project) -> Result<BTreeSet<String>, CommandError> {
    Ok(live_runs(project)?.into_keys().collect())
}

/// What is alive: the run and the main process of each instance.
pub(super) fn live_runs(project: &Project) -> Result<BTreeMap<String, (String, Option<i32>)>, CommandError> {
    let live = scan(project)?.into_iter().filter(is_alive).map(|run| run.record);
    let process = |record: &keeper::RunRecord| record.process().map(|process| process.pid);
    let live = live.map(|record| (record.instance.clone(), (record.run.to_string(), process(&record))));
    let hosted = hosted(project)?.into_iter().filter(|(_, record)| may_live(record));
    let hosted = hosted.map(|(instance, record)| {
        let pid = record.execution.pid().and_then(|pid| i32::try_from(pid).ok());
        (instance, (record.run, pid))
    });
    Ok(live.chain(hosted).collect())
}

/// Instances that have left logs, by name.
pub(super) fn logged_instances(project: &Project) -> Result<Vec<String>, CommandError> {
    let folder = project.state_dir.join("instances");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CommandError::io(format!("can't list {}", folder.display()), &error)),
    };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    // `web-10` after `web-9`.
    names.sort_by_key(|name| match name.rsplit_once('-') {
        Some((service, number)) => (service.to_owned(), number.parse::<u32>().unwrap_or(0)),
        None => (name.clone(), 0),
    });
    Ok(names)
}

/// The newest run of each instance as an entry. Health, readiness and wishes are the daemon's knowledge: not in here.
pub(super) fn entries(project: &Project) -> Result<Vec<Entry>, CommandError> {
    let mut newest: BTreeMap<String, FoundRun> = BTreeMap::new();
    for run in scan(project)? {
        // Sorted by run, so the last of an instance is the newest; one that lives comes before one that doesn't.
        let keep = newest.get(&run.record.instance).is_none_or(|known| is_alive(&run) || !is_alive(known));
        if keep {
            newest.insert(run.record.instance.clone(), run);
        }
    }
    let mut entries: BTreeMap<String, Entry> =
        newest.into_iter().map(|(instance, run)| (instance, entry(&run))).collect();
    for (instance, record) in hosted(project)? {
        // Where the file has changed what an instance is, the later run counts.
        let later = entries.get(&instance).is_none_or(|entry| entry.created_at < record.started_at);
        if later {
            entries.insert(instance, hosted_entry(&record));
        }
    }
    Ok(entries.into_values().collect())
}

fn hosted_entry(record: &HostedRecord) -> Entry {
    let instance = record.instance.to_string();
    let mut entry = Entry::new(record.instance.service().as_str(), &instance, record.started_at);
    entry.execution = record.execution.clone();
    if let LogSource::Node { node, .. } = &record.log {
        entry.location = Location::Node(node.clone());
    }
    let (state, reason) = match &record.ended {
        Some(ended) => {
            entry.status.since = ended.at;
            entry.status.exit = Some(ended.exit.clone());
            match ended.asked {
                true => (State::Stopped, Some(Reason::new(ReasonCode::StopRequested, "stopped"))),
                false => {
                    let state = if ended.exit.is_success() { State::Stopped } else { State::Failed };
                    (state, Some(Reason::new(ReasonCode::Exited, ended.exit.to_string())))
                }
            }
        }
        None if may_live(record) => match entry.location {
            Location::Local => (State::Running, None),
            // Nobody here has heard since.
            Location::Node(_) => {
                let why = "as a daemon heard last: none runs that would ask";
                (State::Running, Some(Reason::new(ReasonCode::Unknown, why)))
            }
        },
        None => {
            let why = "it ended while no daemon ran";
            entry.status.exit = Some(Ended::unknown(why));
            entry.execution = record.execution.clone().ended();
            (State::Failed, Some(Reason::new(ReasonCode::Exited, why)))
        }
    };
    entry.status.state = state;
    entry.status.reason = reason;
    entry
}

fn entry(run: &FoundRun) -> Entry {
    let record = &run.record;
    let service = super::wait::service_of(&record.instance);
    let mut entry = Entry::new(service, &record.instance, record.started_at);
    let pid = record.process().and_then(|process| u32::try_from(process.pid).ok());
    let (state, reason) = match (&record.state, is_alive(run)) {
        (RunState::Running { .. }, true) => (State::Running, None),
        (RunState::Starting, true) => (State::Starting, None),
        (RunState::Running { .. } | RunState::Starting, false) => {
            let why = match run.liveness {
                Liveness::OtherBoot => "the machine was restarted",
                _ => "its keeper was killed",
            };
            entry.status.exit = Some(Ended::unknown(why));
            (State::Failed, Some(Reason::new(ReasonCode::KeeperKilled, why)))
        }
        (RunState::Exited { exit, ended_at, .. }, _) => {
            entry.status.since = *ended_at;
            let exit = ended(exit);
            // Nobody but a daemon knows whether it was asked to stop; these signals are how one is asked.
            let asked = matches!(exit.signal, Some(2 | 9 | 15));
            let state = if exit.is_success() || asked { State::Stopped } else { State::Failed };
            let reason = Reason::new(ReasonCode::Exited, exit.to_string());
            entry.status.exit = Some(exit);
            (state, Some(reason))
        }
        (RunState::FailedToStart { message, at, .. }, _) => {
            entry.status.since = *at;
            (State::Failed, Some(Reason::new(ReasonCode::SpawnFailed, message.clone())))
        }
    };
    entry.status.state = state;
    entry.status.reason = reason;
    if is_alive(run) {
        entry.execution = Execution::Process { pid, run: Some(record.run.to_string()) };
    }
    entry
}

fn ended(exit: &keeper::Exit) -> Ended {
    match exit {
        keeper::Exit::Code(code) => Ended::with_code(*code),
        keeper::Exit::Signal(signal) => Ended::with_signal(*signal),
        keeper::Exit::Unknown(why) => Ended::unknown(why.clone()),
    }
}

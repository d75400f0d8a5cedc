//! What can be known without a daemon: from the files that keepers wrote.

use crate::error::CommandError;
use crate::exit::Exit;
use crate::project::Project;
use command_executor::keeper::{self, FoundRun, Keepers, Liveness, RunState};
use service_registry::model::{Entry, Execution, Exit as Ended, Reason, ReasonCode, State};
use std::collections::{BTreeMap, BTreeSet};

fn scan(project: &Project) -> Result<Vec<FoundRun>, CommandError> {
    if !project.state_dir.join("instances").is_dir() {
        return Ok(Vec::new());
    }
    Keepers::scan(&project.state_dir).map_err(|error| CommandError::from_error(Exit::GENERAL, &error))
}

fn is_alive(run: &FoundRun) -> bool {
    matches!(run.liveness, Liveness::KeeperAlive | Liveness::KeeperDeadProcessesLeft(_))
}

/// Instances of which something is alive.
pub(super) fn live_instances(project: &Project) -> Result<BTreeSet<String>, CommandError> {
    Ok(scan(project)?.into_iter().filter(is_alive).map(|run| run.record.instance).collect())
}

/// What is alive: the run and the main process of each instance.
pub(super) fn live_runs(project: &Project) -> Result<BTreeMap<String, (String, Option<i32>)>, CommandError> {
    let live = scan(project)?.into_iter().filter(is_alive).map(|run| run.record);
    let process = |record: &keeper::RunRecord| record.process().map(|process| process.pid);
    Ok(live.map(|record| (record.instance.clone(), (record.run.to_string(), process(&record)))).collect())
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
    Ok(newest.into_values().map(|run| entry(&run)).collect())
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

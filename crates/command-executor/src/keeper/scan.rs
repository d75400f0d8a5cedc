//! Reading back what keepers wrote, and making sure that a run is over.

use super::{
    client::KeeperError,
    identity::{self, ProcessIdentity},
    record::{RECORD_VERSION, RecordError, RunRecord, RunState, Writing, read_record_at, write_record},
    runs,
    socket::open_folder,
    spec::{RunId, is_instance_name},
    tree,
    zygote::{lost_gap, lost_state},
};
use jiff::Timestamp;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    process::{Signal, pidfd_send_signal},
};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::{Duration, Instant},
};

/// How long a keeper that was asked to kill its tree may take.
const KEEPER_PATIENCE: Duration = Duration::from_secs(7);

/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// What is alive of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Its keeper lives.
    KeeperAlive,
    /// Its keeper is gone, these processes aren't.
    KeeperDeadProcessesLeft(Vec<i32>),
    /// Nothing.
    Dead,
    /// It was started before this machine's last boot: nothing.
    OtherBoot,
}

/// A run that was found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRun {
    /// Its record.
    pub record: RunRecord,
    /// What is alive of it.
    pub liveness: Liveness,
}

/// A run of which nothing is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedRun {
    /// Its record, if there is one.
    pub record: Option<RunRecord>,
    /// The processes that had to be ended for that.
    pub ended: Vec<i32>,
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> KeeperError {
    let what = what.into();
    move |source| KeeperError::Scan { what, source }
}

/// The newest run of each instance, older ones of which something is alive, and those of this boot whose end nobody has
/// recorded. Files that aren't records are skipped:
/// they are somebody else's, or the half of something that never was.
pub(super) fn scan(state: &Path) -> Result<Vec<FoundRun>, KeeperError> {
    let boot_id = identity::boot_id().map_err(failed("the boot id"))?;
    let path = state.join("instances");
    let instances = match open_folder(&path) {
        Ok(folder) => folder,
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        Err(error) => return Err(failed(path.display().to_string())(error.into())),
    };
    let mut records = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(failed(path.display().to_string()))? {
        let name = entry.map_err(failed(path.display().to_string()))?.file_name();
        if let Some(instance) = name.to_str().filter(|name| is_instance_name(name)) {
            scan_instance(instances.as_fd(), instance, &mut records)?;
        }
    }
    // Only where a keeper died is it worth it to look for what it left.
    let orphaned: Vec<RunId> = records
        .iter()
        .filter(|(record, _)| !record.state.is_final() && record.boot_id == boot_id && !keeper_lives(record))
        .map(|(record, _)| record.run)
        .collect();
    let mut left = BTreeMap::<RunId, Vec<i32>>::new();
    for (run, pid) in tree::marked(&orphaned).map_err(failed("/proc"))? {
        left.entry(run).or_default().push(pid);
    }
    let mut found: Vec<FoundRun> = records
        .into_iter()
        .filter_map(|(record, newest)| {
            let liveness = liveness(&record, &boot_id, left.remove(&record.run).unwrap_or_default());
            let alive = matches!(liveness, Liveness::KeeperAlive | Liveness::KeeperDeadProcessesLeft(_));
            let unrecorded = liveness == Liveness::Dead && !record.state.is_final();
            (newest || alive || unrecorded).then_some(FoundRun { record, liveness })
        })
        .collect();
    found.sort_by(|a, b| (&a.record.instance, a.record.run).cmp(&(&b.record.instance, b.record.run)));
    Ok(found)
}

/// Reads the records of an instance: the newest, marked so, and those older ones that aren't final.
fn scan_instance(
    instances: BorrowedFd<'_>,
    instance: &str,
    records: &mut Vec<(RunRecord, bool)>,
) -> Result<(), KeeperError> {
    let folder = match runs::instance_folder(instances, instance) {
        Ok(folder) => folder,
        // A file, not a folder.
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => return Ok(()),
        Err(error) => return Err(failed(instance)(error)),
    };
    let mut newest = true;
    for run in runs::files(folder.as_fd()).map_err(failed(instance))?.into_keys().rev() {
        match read_record_at(folder.as_fd(), run) {
            Ok(record) if record.run == run && record.instance == instance => {
                if newest || !record.state.is_final() {
                    records.push((record, newest));
                }
                newest = false;
            }
            // A format of the future is no reason to start a second copy of what it describes.
            Err(error @ RecordError::Newer { .. }) => return Err(KeeperError::Record(error)),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

fn keeper_lives(record: &RunRecord) -> bool {
    record.keeper.is_some_and(|keeper| keeper.is_alive())
}

fn liveness(record: &RunRecord, boot_id: &str, mut left: Vec<i32>) -> Liveness {
    if record.boot_id != boot_id {
        return Liveness::OtherBoot;
    }
    // A keeper lives on for a moment after it has recorded the end; then there is nothing left of its run.
    if record.state.is_final() {
        return Liveness::Dead;
    }
    if keeper_lives(record) {
        return Liveness::KeeperAlive;
    }
    if let Some(process) = record.process()
        && !left.contains(&process.pid)
        && process.is_alive()
    {
        left.push(process.pid);
    }
    if left.is_empty() { Liveness::Dead } else { Liveness::KeeperDeadProcessesLeft(left) }
}

/// A run that the zygote knows and the disk doesn't yet; `None` if it is over already.
pub(super) fn unwritten(instance: String, run: RunId, keeper: i32) -> Result<Option<FoundRun>, KeeperError> {
    let Ok(keeper) = ProcessIdentity::of(keeper) else { return Ok(None) };
    let record = RunRecord {
        version: RECORD_VERSION,
        protocol: super::report::PROTOCOL,
        instance,
        run,
        boot_id: identity::boot_id().map_err(failed("the boot id"))?,
        keeper: Some(keeper),
        started_at: Timestamp::now(),
        program: String::new(),
        state: RunState::Starting,
        gaps: Vec::new(),
    };
    Ok(Some(FoundRun { record, liveness: Liveness::KeeperAlive }))
}

/// The record of a run, if there is one.
pub(super) fn record(state: &Path, instance: &str, run: RunId) -> Result<Option<RunRecord>, KeeperError> {
    let path = state.join("instances");
    let instances = open_folder(&path).map_err(|error| failed(path.display().to_string())(error.into()))?;
    let folder = runs::instance_folder(instances.as_fd(), instance).map_err(failed(instance))?;
    Ok(read_record_at(folder.as_fd(), run).ok())
}

/// Ends everything of a run. `ask_keeper` asks its keeper to, if it has one; false if there is none.
pub(super) fn ensure_gone(
    state: &Path,
    instance: &str,
    run: RunId,
    ask_keeper: impl FnOnce() -> bool,
) -> Result<EndedRun, KeeperError> {
    let boot_id = identity::boot_id().map_err(failed("the boot id"))?;
    let path = state.join("instances");
    let instances = open_folder(&path).map_err(|error| failed(path.display().to_string())(error.into()))?;
    let folder = runs::instance_folder(instances.as_fd(), instance).map_err(failed(instance))?;
    let read = || read_record_at(folder.as_fd(), run).ok();
    let record = read();
    let here = |record: &&RunRecord| record.boot_id == boot_id;
    let keeper = record.as_ref().filter(here).and_then(|record| record.keeper);
    if let Some(keeper) = keeper.and_then(|keeper| keeper.open().ok().flatten()) {
        // It ends its tree better than anyone else. If it can't, it is in the way.
        if !ask_keeper() || !wait(&keeper, KEEPER_PATIENCE) {
            let _ = pidfd_send_signal(&keeper, Signal::KILL);
            wait(&keeper, KILL_PATIENCE);
        }
    }
    let main = record.as_ref().filter(here).and_then(RunRecord::process);
    let ended = end_processes(instance, run, main)?;
    let mut record = read();
    if let Some(record) = record.as_mut().filter(|record| !record.state.is_final()) {
        record.state = lost_state(record.process(), Vec::new());
        record.add_gap(lost_gap());
        write_record(folder.as_fd(), record, Writing::Durable).map_err(failed(instance))?;
    }
    Ok(EndedRun { record, ended })
}

/// Kills the recorded main process and whatever carries the run's marker, until there is nothing more.
fn end_processes(instance: &str, run: RunId, main: Option<ProcessIdentity>) -> Result<Vec<i32>, KeeperError> {
    let begun = Instant::now();
    let mut ended = Vec::new();
    loop {
        let mut alive: Vec<(i32, OwnedFd)> = Vec::new();
        if let Some(main) = main
            && let Ok(Some(fd)) = main.open()
        {
            alive.push((main.pid, fd));
        }
        for (_, pid) in tree::marked(&[run]).map_err(failed("/proc"))? {
            // The marker is read again after the descriptor was opened, so that it is that process's own.
            if main.is_none_or(|main| main.pid != pid)
                && let Ok(fd) = identity::open(pid)
                && tree::marker(pid) == Some(run)
                && identity::Stat::read(pid).is_ok_and(|stat| stat.is_alive())
            {
                alive.push((pid, fd));
            }
        }
        if alive.is_empty() {
            return Ok(ended);
        }
        if begun.elapsed() >= KILL_PATIENCE {
            let pids = alive.into_iter().map(|(pid, _)| pid).collect();
            return Err(KeeperError::Left { instance: instance.to_owned(), pids });
        }
        for (pid, fd) in &alive {
            let _ = pidfd_send_signal(fd, Signal::KILL);
            if !ended.contains(pid) {
                ended.push(*pid);
            }
        }
        for (_, fd) in &alive {
            wait(fd, Duration::from_millis(200));
        }
    }
}

/// Waits until the process has ended; whether it has.
fn wait(process: &OwnedFd, patience: Duration) -> bool {
    let begun = Instant::now();
    loop {
        let rest = patience.saturating_sub(begun.elapsed());
        let timeout = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::record::Exit;

    #[test]
    fn a_run_whose_end_nobody_recorded_is_found_behind_a_newer_one() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("instances");
        std::fs::create_dir(&path).unwrap();
        let instances = std::fs::File::open(path).unwrap();
        let folder = runs::instance_folder(instances.as_fd(), "web-1").unwrap();
        let gone = ProcessIdentity { pid: 1, start: u64::MAX, inode: None };
        let exited = || RunState::Exited {
            exit: Exit::Code(0),
            ended_at: Timestamp::UNIX_EPOCH,
            process: Some(gone),
            left: Vec::new(),
        };
        let boot_id = identity::boot_id().unwrap();
        let states = [exited(), RunState::Running { process: gone }, exited()];
        let runs: Vec<RunId> = states.iter().map(|_| RunId::generate()).collect();
        for (state, run) in states.into_iter().zip(&runs) {
            let record = RunRecord {
                version: RECORD_VERSION,
                protocol: 1,
                instance: "web-1".into(),
                run: *run,
                boot_id: boot_id.clone(),
                keeper: Some(gone),
                started_at: Timestamp::UNIX_EPOCH,
                program: String::new(),
                state,
                gaps: Vec::new(),
            };
            write_record(folder.as_fd(), &record, Writing::First).unwrap();
        }
        let found: Vec<RunId> = scan(state.path()).unwrap().iter().map(|found| found.record.run).collect();
        assert_eq!(found, [runs[1], runs[2]]);
        let ended = ensure_gone(state.path(), "web-1", runs[1], || false).unwrap();
        assert!(ended.record.unwrap().state.is_final());
        let found = scan(state.path()).unwrap();
        assert_eq!(found.iter().map(|found| found.record.run).collect::<Vec<_>>(), [runs[2]]);
    }
}

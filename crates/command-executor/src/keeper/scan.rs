//! Reading back what keepers wrote, and making sure that a run is over.

use super::{
    error::KeeperError,
    identity::{self, ProcessIdentity},
    record::{RecordError, RunRecord, Writing, read_record_at, write_record},
    runs,
    socket::open_folder,
    spec::{RunId, is_instance_name},
    tree,
    want::known,
    zygote::{lost_gap, lost_state},
};
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

/// How long a process may take from its fork to its program.
const EXECUTING: Duration = Duration::from_millis(200);

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

/// What is on disk.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The newest run of each instance, older ones of which something is alive, and those of this boot whose end nobody
    /// has recorded.
    pub(super) found: Vec<FoundRun>,
    /// Runs whose record is there and can't be read: their keepers are writing it, or were killed before they had and
    /// had started nothing.
    pub(super) torn: Vec<(String, RunId)>,
}

/// Reads what is on disk. Files whose names aren't those of runs are somebody else's.
pub(super) fn scan(state: &Path) -> Result<Scan, KeeperError> {
    let boot_id = identity::boot_id().map_err(failed("the boot id"))?;
    let path = state.join("instances");
    let instances = match open_folder(&path) {
        Ok(folder) => folder,
        Err(rustix::io::Errno::NOENT) => return Ok(Scan::default()),
        Err(error) => return Err(failed(path.display().to_string())(error.into())),
    };
    let mut records = Vec::new();
    let mut torn = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(failed(path.display().to_string()))? {
        let name = entry.map_err(failed(path.display().to_string()))?.file_name();
        if let Some(instance) = name.to_str().filter(|name| is_instance_name(name)) {
            scan_instance(instances.as_fd(), instance, &mut records, &mut torn)?;
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
    Ok(Scan { found, torn })
}

/// Reads the records of an instance: the newest, marked so, and those older ones that aren't final.
fn scan_instance(
    instances: BorrowedFd<'_>,
    instance: &str,
    records: &mut Vec<(RunRecord, bool)>,
    torn: &mut Vec<(String, RunId)>,
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
            Err(error) if error.is_want() => return Err(KeeperError::Record(error)),
            Err(RecordError::Decode { .. }) => torn.push((instance.to_owned(), run)),
            Ok(_) | Err(RecordError::Read { .. }) => {}
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
    let keeper = known(ProcessIdentity::of(keeper)).map_err(failed("a keeper"))?;
    let Some(keeper) = keeper else { return Ok(None) };
    let boot_id = identity::boot_id().map_err(failed("the boot id"))?;
    let record = RunRecord::unwritten(instance, run, boot_id, Some(keeper));
    Ok(Some(FoundRun { record, liveness: Liveness::KeeperAlive }))
}

/// The record of a run, if there is one.
pub(super) fn record(state: &Path, instance: &str, run: RunId) -> Result<Option<RunRecord>, KeeperError> {
    let path = state.join("instances");
    let instances = open_folder(&path).map_err(|error| failed(path.display().to_string())(error.into()))?;
    let folder = runs::instance_folder(instances.as_fd(), instance).map_err(failed(instance))?;
    Ok(read_record_at(folder.as_fd(), run).ok())
}

/// Ends everything of a run. `ask_keeper` asks its keeper to, if it has one; false if there is none. `unwritten` is the
/// keeper of a run that has no record yet, where that is known: it is waited for, until it can be asked.
pub(super) fn ensure_gone(
    state: &Path,
    instance: &str,
    run: RunId,
    unwritten: Option<ProcessIdentity>,
    ask_keeper: impl FnOnce() -> bool,
) -> Result<EndedRun, KeeperError> {
    let boot_id = identity::boot_id().map_err(failed("the boot id"))?;
    let path = state.join("instances");
    let instances = open_folder(&path).map_err(|error| failed(path.display().to_string())(error.into()))?;
    let folder = runs::instance_folder(instances.as_fd(), instance).map_err(failed(instance))?;
    let record = written(unwritten, || read_if_there(folder.as_fd(), run))?;
    let here = |record: &&RunRecord| record.boot_id == boot_id;
    let keeper = record.as_ref().filter(here).and_then(|record| record.keeper);
    let alive = keeper.map(|keeper| keeper.open()).transpose().map_err(failed("a keeper"))?;
    if let Some(keeper) = alive.flatten() {
        // It ends its tree better than anyone else. If it can't, it is in the way.
        if !ask_keeper() || !wait(&keeper, KEEPER_PATIENCE) {
            let _ = pidfd_send_signal(&keeper, Signal::KILL);
            wait(&keeper, KILL_PATIENCE);
        }
    }
    let main = record.as_ref().filter(here).and_then(RunRecord::process);
    let ended = end_processes(instance, run, main)?;
    let mut record = match read_record_at(folder.as_fd(), run) {
        Ok(record) => Some(record),
        Err(error) if error.is_want() => return Err(KeeperError::Record(error)),
        // Its keeper was killed while it wrote the first one, and its zygote didn't live to do it in its place.
        Err(RecordError::Decode { .. }) => {
            Some(RunRecord::unwritten(instance.to_owned(), run, boot_id, None))
        }
        Err(_) => None,
    };
    if let Some(record) = record.as_mut().filter(|record| !record.state.is_final()) {
        record.state = lost_state(record.process(), Vec::new());
        record.add_gap(lost_gap());
        write_record(folder.as_fd(), record, Writing::Durable).map_err(failed(instance))?;
    }
    Ok(EndedRun { record, ended })
}

fn read_if_there(folder: BorrowedFd<'_>, run: RunId) -> Result<Option<RunRecord>, KeeperError> {
    match read_record_at(folder, run) {
        Ok(record) => Ok(Some(record)),
        Err(error) if error.is_want() => Err(KeeperError::Record(error)),
        Err(_) => Ok(None),
    }
}

/// The record, waited for as long as the keeper that will write it lives; at most a few seconds.
fn written(
    keeper: Option<ProcessIdentity>,
    read: impl Fn() -> Result<Option<RunRecord>, KeeperError>,
) -> Result<Option<RunRecord>, KeeperError> {
    let begun = Instant::now();
    loop {
        let alive = keeper.is_some_and(|keeper| keeper.is_alive());
        let record = read()?;
        if record.is_some() || !alive || begun.elapsed() >= KEEPER_PATIENCE {
            return Ok(record);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills the recorded main process and whatever carries the run's marker, until there is nothing more.
fn end_processes(instance: &str, run: RunId, main: Option<ProcessIdentity>) -> Result<Vec<i32>, KeeperError> {
    let begun = Instant::now();
    let mut ended = Vec::new();
    loop {
        let mut alive: Vec<(i32, OwnedFd)> = Vec::new();
        if let Some(main) = main
            && let Some(fd) = main.open().map_err(failed("the main process"))?
        {
            alive.push((main.pid, fd));
        }
        for (_, pid) in tree::marked(&[run]).map_err(failed("/proc"))? {
            // The marker is read again after the descriptor was opened, so that it is that process's own.
            if main.is_none_or(|main| main.pid != pid)
                && let Some(fd) = known(identity::open(pid)).map_err(failed("/proc"))?
                && tree::marker(pid).map_err(failed("/proc"))? == Some(run)
                && let Some(stat) = known(identity::Stat::read(pid)).map_err(failed("/proc"))?
                && stat.is_alive()
            {
                alive.push((pid, fd));
            }
        }
        if alive.is_empty() {
            if begun.elapsed() < KILL_PATIENCE && tree::undecided(EXECUTING).map_err(failed("/proc"))? {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
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
    use crate::keeper::record::{Exit, RECORD_VERSION, RunState};
    use jiff::Timestamp;

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
        let found: Vec<RunId> =
            scan(state.path()).unwrap().found.iter().map(|found| found.record.run).collect();
        assert_eq!(found, [runs[1], runs[2]]);
        let ended = ensure_gone(state.path(), "web-1", runs[1], None, || false).unwrap();
        assert!(ended.record.unwrap().state.is_final());
        let found = scan(state.path()).unwrap().found;
        assert_eq!(found.iter().map(|found| found.record.run).collect::<Vec<_>>(), [runs[2]]);
    }

    #[test]
    fn several_may_make_sure_of_the_same_end_at_once() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("instances");
        std::fs::create_dir(&path).unwrap();
        let instances = std::fs::File::open(path).unwrap();
        let folder = runs::instance_folder(instances.as_fd(), "web-1").unwrap();
        for _ in 0..20 {
            let run = RunId::generate();
            let boot_id = identity::boot_id().unwrap();
            let record = RunRecord::unwritten("web-1".into(), run, boot_id, None);
            write_record(folder.as_fd(), &record, Writing::First).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let ended = ensure_gone(state.path(), "web-1", run, None, || false).unwrap();
                        assert!(ended.record.unwrap().state.is_final());
                    });
                }
            });
            let left = std::fs::read_dir(state.path().join("instances/web-1")).unwrap();
            let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
            assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".new")), "{left:?}");
        }
    }
}

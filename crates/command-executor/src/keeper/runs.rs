//! The folders of instances: made, pruned.

use super::{
    identity::ProcessIdentity,
    record::{RunRecord, read_record_at},
    spec::RunId,
};
use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Opens the folder of an instance, made if it isn't there.
pub(super) fn instance_folder(instances: BorrowedFd<'_>, instance: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let open = || rustix::fs::openat(instances, instance, flags, Mode::empty());
    match open() {
        Err(Errno::NOENT) => match rustix::fs::mkdirat(instances, instance, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(open()?),
            Err(error) => Err(error.into()),
        },
        done => Ok(done?),
    }
}

/// The files of each run in an instance's folder, oldest run first.
pub(super) fn files(folder: BorrowedFd<'_>) -> io::Result<BTreeMap<RunId, Vec<String>>> {
    let mut runs = BTreeMap::<RunId, Vec<String>>::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if let Some(run) = name.split_once('.').and_then(|(run, _)| run.parse().ok()) {
            runs.entry(run).or_default().push(name.to_owned());
        }
    }
    Ok(runs)
}

/// Removes what is left of the oldest runs, so that with `current` at most `keep` remain. A run that may still be alive
/// stays; what can't be removed is left to the next start.
pub(super) fn prune(folder: BorrowedFd<'_>, current: RunId, keep: u32, boot_id: &str) {
    let Ok(runs) = files(folder) else { return };
    let others = runs.into_iter().filter(|(run, _)| *run != current);
    let others: Vec<_> = others.collect();
    let keep = usize::try_from(keep.max(1)).unwrap_or(usize::MAX) - 1;
    let excess = others.len().saturating_sub(keep);
    for (run, names) in others.into_iter().take(excess) {
        if read_record_at(folder, run).is_ok_and(|record| may_live(&record, boot_id)) {
            continue;
        }
        for name in names {
            let _ = rustix::fs::unlinkat(folder.as_fd(), name, AtFlags::empty());
        }
    }
}

fn may_live(record: &RunRecord, boot_id: &str) -> bool {
    let alive = |process: Option<ProcessIdentity>| process.is_some_and(|process| process.is_alive());
    !record.state.is_final() && record.boot_id == boot_id && (alive(record.keeper) || alive(record.process()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::{
        identity,
        record::{RunState, Writing, write_record},
    };

    #[test]
    fn the_oldest_runs_go_except_those_that_may_live() {
        let root = tempfile::tempdir().unwrap();
        let instances = std::fs::File::open(root.path()).unwrap();
        let folder = instance_folder(instances.as_fd(), "web-1").unwrap();
        let boot = identity::boot_id().unwrap();
        let me = ProcessIdentity::of(std::process::id() as i32).unwrap();
        let runs: Vec<RunId> = (0..6).map(|_| RunId::generate()).collect();
        for (at, run) in runs.iter().enumerate() {
            let record = RunRecord {
                version: 1,
                protocol: 1,
                instance: "web-1".into(),
                run: *run,
                boot_id: boot.clone(),
                keeper: Some(if at == 0 { me } else { ProcessIdentity { start: 1, inode: None, ..me } }),
                started_at: jiff::Timestamp::UNIX_EPOCH,
                program: String::new(),
                state: RunState::Starting,
                gaps: Vec::new(),
            };
            write_record(folder.as_fd(), &record, Writing::First).unwrap();
            std::fs::write(root.path().join(format!("web-1/{run}.log.1")), "x").unwrap();
        }
        prune(folder.as_fd(), runs[5], 3, &boot);
        let left: Vec<RunId> = files(folder.as_fd()).unwrap().into_keys().collect();
        assert_eq!(left, [runs[0], runs[3], runs[4], runs[5]]);
    }
}

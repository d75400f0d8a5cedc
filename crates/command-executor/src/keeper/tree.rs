//! Descendants: those of this process, which it may signal, and those that carry a run's marker, for the next start.
//!
//! A subreaper ends a whole tree by signalling only its own children: when one has ended, the children it had become
//! children of the subreaper, and their turn comes. A child that wasn't waited for keeps its pid, so nothing else can
//! ever be hit.

use super::{identity, spec::RunId, sys};
use std::{fs, io};

/// The variable that marks every process of a run.
pub(super) const MARKER: &str = "HARNESS_RUN";

/// The children of this single-threaded process, zombies among them.
pub(super) fn children() -> io::Result<Vec<i32>> {
    let me = rustix::process::getpid().as_raw_nonzero();
    match fs::read_to_string(format!("/proc/self/task/{me}/children")) {
        Ok(text) => Ok(text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()),
        // A kernel built without that file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let is_mine = |pid: &i32| identity::Stat::read(*pid).is_ok_and(|stat| stat.parent == me.get());
            Ok(processes()?.into_iter().filter(is_mine).collect())
        }
        Err(error) => Err(error),
    }
}

/// Every process of this machine.
fn processes() -> io::Result<Vec<i32>> {
    let names = fs::read_dir("/proc")?.flatten();
    Ok(names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// A child that ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reaped {
    /// This one, by its exit code or signal.
    Child { pid: i32, exit: super::record::Exit },
    /// None of those that there are.
    NoneEnded,
    /// There are none.
    NoChildren,
}

/// Waits for any child that has ended. Only where every child is ours: never in a host program.
pub(super) fn reap() -> Reaped {
    use super::record::Exit;
    use rustix::{
        io::Errno,
        process::{WaitOptions, wait},
    };
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let exit = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    // Stopped or continued; not asked for.
                    (None, None) => continue,
                };
                return Reaped::Child { pid: pid.as_raw_nonzero().get(), exit };
            }
            Ok(None) => return Reaped::NoneEnded,
            Err(Errno::INTR) => {}
            Err(_) => return Reaped::NoChildren,
        }
    }
}

/// Sends a signal to a child, and wakes it in case it is stopped. A child that has just ended is fine; others refuse
/// because they run as someone else.
pub(super) fn signal_child(pid: i32, signal: i32) {
    let _ = sys::kill_child(pid, signal);
    if signal != libc::SIGKILL && signal != libc::SIGSTOP && signal != libc::SIGTSTP {
        let _ = sys::kill_child(pid, libc::SIGCONT);
    }
}

/// The processes that carry a marker of one of the runs, as far as their environment can be read.
pub(super) fn marked(runs: &[RunId]) -> io::Result<Vec<(RunId, i32)>> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for pid in processes()? {
        if let Some(run) = marker(pid).filter(|run| runs.contains(run)) {
            found.push((run, pid));
        }
    }
    Ok(found)
}

/// The run that a living process was started in.
pub(super) fn marker(pid: i32) -> Option<RunId> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environment
        .split(|byte| *byte == 0)
        .find_map(|pair| pair.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"="))?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

//! Descendants: those of this process, which it may signal, and those that carry a run's marker, for the next start.
//!
//! A subreaper ends a whole tree by signalling only its own children: when one has ended, the children it had become
//! children of the subreaper, and their turn comes. A child that wasn't waited for keeps its pid, so nothing else can
//! ever be hit.

use super::{identity, spec::RunId, sys, want::known};
use std::{fs, io, time::Duration};

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
pub(super) fn processes() -> io::Result<Vec<i32>> {
    let names: Vec<_> = fs::read_dir("/proc")?.collect::<io::Result<_>>()?;
    Ok(names.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
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

/// The processes that carry a marker of one of the runs, as far as their environment may be read. An error where one can't
/// be looked at now: then nobody may say that there are no others.
pub(super) fn marked(runs: &[RunId]) -> io::Result<Vec<(RunId, i32)>> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for pid in processes()? {
        if let Some(run) = marker(pid)?.filter(|run| runs.contains(run)) {
            found.push((run, pid));
        }
    }
    Ok(found)
}

/// Whether there is a process that nobody can say of whether it carries a marker: one that executes a program right now has
/// no environment for a moment. Only one that was started within this time can be that.
pub(super) fn undecided(within: Duration) -> io::Result<bool> {
    for pid in processes()? {
        if known(fs::read(format!("/proc/{pid}/environ")))?.is_some_and(|environment| environment.is_empty())
            && let Some(stat) = known(identity::Stat::read(pid))?
            && stat.is_alive()
            && !stat.is_of_kernel()
            && stat.age() < within
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The run that a living process was started in.
pub(super) fn marker(pid: i32) -> io::Result<Option<RunId>> {
    let value = variable(pid, MARKER)?;
    Ok(value.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok()))
}

/// A variable of the environment that a process was started with; `None` if it has none of that name, is gone, or is
/// somebody else's.
pub(super) fn variable(pid: i32, name: &str) -> io::Result<Option<Vec<u8>>> {
    let Some(environment) = known(fs::read(format!("/proc/{pid}/environ")))? else { return Ok(None) };
    let mut pairs = environment.split(|byte| *byte == 0);
    Ok(pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).map(<[u8]>::to_vec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_environment_yet_is_waited_for_and_who_never_has_one_is_not() {
        let mut bare = std::process::Command::new("sleep").arg("600").env_clear().spawn().unwrap();
        // It is executing until its environment is that of the program: an empty one.
        while fs::read_link(format!("/proc/{}/exe", bare.id())).ok() == std::env::current_exe().ok() {
            std::thread::yield_now();
        }
        assert!(undecided(Duration::MAX).unwrap());
        assert!(!undecided(Duration::ZERO).unwrap());
        let stat = identity::Stat::read(bare.id() as i32).unwrap();
        assert!(!stat.is_of_kernel() && stat.age() < Duration::from_secs(60));
        bare.kill().unwrap();
        bare.wait().unwrap();
    }

    #[test]
    fn a_variable_that_isnt_set_is_none() {
        let me = rustix::process::getpid().as_raw_nonzero().get();
        assert_eq!(variable(me, "NO_SUCH_VARIABLE_OF_OURS").unwrap(), None);
    }
}

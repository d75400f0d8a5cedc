//! Processes of a torture run: found by what they carry, signalled only when they are exactly that process.

use rustix::fd::OwnedFd;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, pidfd_send_signal, prlimit,
};
use std::fs;
use std::path::{Path, PathBuf};

/// What is known of a living process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// Its pid.
    pub(crate) pid: i32,
    /// Its name, as the kernel has it.
    pub(crate) name: String,
    /// Its command line.
    pub(crate) command: Vec<String>,
    /// `HARNESS_INSTANCE`.
    pub(crate) instance: Option<String>,
    /// `HARNESS_RUN`.
    pub(crate) run: Option<String>,
}

/// All processes that belong to one state home, told by their environment or by their command line.
pub(crate) struct Family {
    /// `XDG_STATE_HOME=…`
    marker: Vec<u8>,
    /// The path of the state home, which zygotes, keepers and daemons have in their command lines.
    states: PathBuf,
}

impl Family {
    /// The family of this state home.
    pub(crate) fn new(states: &Path) -> Self {
        let marker = [b"XDG_STATE_HOME=", states.as_os_str().as_encoded_bytes()].concat();
        Self { marker, states: states.to_owned() }
    }

    /// Those that live now.
    pub(crate) fn all(&self) -> Vec<Process> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid| self.member(pid)).collect()
    }

    /// The process with this pid, if it is one of the family and alive.
    fn member(&self, pid: i32) -> Option<Process> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let environment = fs::read(folder.join("environ")).unwrap_or_default();
        let command = fs::read(folder.join("cmdline")).unwrap_or_default();
        let pairs = || environment.split(|byte| *byte == 0);
        let words: Vec<String> = command
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let ours = pairs().any(|pair| pair == self.marker)
            || words.iter().any(|word| Path::new(word).starts_with(&self.states));
        if !ours || i64::from(pid) == i64::from(std::process::id()) || !is_alive(pid) {
            return None;
        }
        let value = |name: &str| {
            let value = pairs().find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default().trim().to_owned();
        Some(Process {
            pid,
            name,
            command: words,
            instance: value("HARNESS_INSTANCE"),
            run: value("HARNESS_RUN"),
        })
    }

    /// The zygotes.
    pub(crate) fn zygotes(&self) -> Vec<Process> {
        self.all().into_iter().filter(|process| process.name == "keeper-zygote").collect()
    }

    /// Sends a signal to a process, if it is of the family and `is_it` says so; whether it was sent.
    pub(crate) fn signal(&self, pid: i32, signal: Signal, is_it: impl Fn(&Process) -> bool) -> bool {
        let Some(fd) = open(pid) else { return false };
        // Looked at after the descriptor was opened: what is seen is the process that the descriptor is of.
        self.member(pid).is_some_and(|process| is_it(&process)) && pidfd_send_signal(&fd, signal).is_ok()
    }
}

fn open(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Whether a process exists and is no zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| fields.first().is_some_and(|state| !matches!(state.as_str(), "Z" | "X")))
}

/// Whether nothing of a process is left that could hold a file open: its threads may outlive the first of them.
pub(crate) fn is_gone(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    !is_alive(pid) && threads <= 1
}

/// When a process started, in clock ticks since boot.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

/// The fields of `/proc/PID/stat` from the state on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_ascii_whitespace().map(str::to_owned).collect())
}

/// Resident memory in KiB and the number of open descriptors.
pub(crate) fn footprint(pid: i32) -> Option<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let resident = resident.split_ascii_whitespace().next()?.parse().ok()?;
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    Some((resident, open as u64))
}

/// The limit of open files that was taken from a process.
pub(crate) struct Starved {
    /// Whose.
    pub(crate) pid: i32,
    start: Option<u64>,
    soft: Option<u64>,
    hard: Option<u64>,
}

/// Sets the soft limit of open files of a process so low that it can't open any more.
pub(crate) fn starve(pid: i32) -> Option<Starved> {
    let start = start_time(pid);
    let open = footprint(pid)?.1;
    let target = Pid::from_raw(pid)?;
    // Our own hard limit bounds what can be given back; the daemon's is the same.
    let hard = getrlimit(Resource::Nofile).maximum;
    let old = prlimit(Some(target), Resource::Nofile, Rlimit { current: Some(open), maximum: hard }).ok()?;
    Some(Starved { pid, start, soft: old.current, hard: old.maximum })
}

impl Starved {
    /// Gives it back, if the process still lives.
    pub(crate) fn feed(&self) {
        if start_time(self.pid) == self.start
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            let _ = prlimit(Some(pid), Resource::Nofile, Rlimit { current: self.soft, maximum: self.hard });
        }
    }
}

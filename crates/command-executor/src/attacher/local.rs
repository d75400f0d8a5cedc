//! A process of this machine.
//!
//! A pid says nothing tomorrow. The attacher remembers the [identity](ProcessIdentity) of the process it found and
//! signals only through a pidfd that was opened while exactly that process held the pid.

use super::procfs;
use super::{AttachError, AttachStatus, AttachedLine, AttachedLines, Attacher};
use crate::keeper::ProcessIdentity;
use async_io::{Async, Timer};
use futures_util::future::BoxFuture;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long a process may take to end after SIGKILL.
const KILLED: Duration = Duration::from_secs(10);
/// Bytes of a pid file that are read.
const PID_FILE: u64 = 64;
/// Clocks and file systems round: a pid file may seem this much older than the process that wrote it.
const SLACK: Duration = Duration::from_secs(2);

/// How a process is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalTarget {
    /// By the pid in this file, which is written when the process starts.
    PidFile(PathBuf),
    /// By its name: the executable's file name, that of `argv[0]`, or the name the process gave itself. If one of
    /// several is the parent of the others, it is meant.
    Name(String),
}

/// Joins a process of this machine.
#[derive(Clone, Debug)]
pub struct LocalAttacher {
    target: LocalTarget,
}

/// What was found.
enum Found {
    Running(ProcessIdentity),
    No(String),
}

impl LocalAttacher {
    /// Joins the process that is found so, whenever it is asked for.
    pub fn new(target: LocalTarget) -> Self {
        Self { target }
    }

    /// Sends a signal to the process if it runs; whether it does. Only to this one process, not to its children.
    ///
    /// # Errors
    /// Those of the lookup, and [`AttachError::Signal`].
    pub fn signal(&self, signal: Signal) -> Result<bool, AttachError> {
        let Found::Running(process) = self.find()? else { return Ok(false) };
        match open(process)? {
            Some(descriptor) => send(process, &descriptor, signal),
            None => Ok(false),
        }
    }

    fn find(&self) -> Result<Found, AttachError> {
        match &self.target {
            LocalTarget::PidFile(path) => in_file(path),
            LocalTarget::Name(name) => by_name(name),
        }
    }

    fn unsupported(&self, operation: &'static str) -> AttachError {
        let what = match &self.target {
            LocalTarget::PidFile(path) => format!("the process of {}", path.display()),
            LocalTarget::Name(name) => format!("the process {name:?}"),
        };
        AttachError::Unsupported { what, operation }
    }

    async fn stop_process(&self, grace: Duration) -> Result<(), AttachError> {
        let Found::Running(process) = self.find()? else { return Ok(()) };
        let Some(descriptor) = open(process)? else { return Ok(()) };
        let descriptor = watch(process, descriptor)?;
        for (signal, patience) in [(Signal::TERM, grace), (Signal::KILL, KILLED)] {
            if !send(process, descriptor.get_ref(), signal)? {
                return Ok(());
            }
            let over = async {
                Timer::after(patience).await;
                Ok(false)
            };
            let gone = async { ended(process, &descriptor).await.map(|()| true) };
            if futures_lite::future::or(gone, over).await? {
                return Ok(());
            }
        }
        Err(AttachError::Survived { pid: process.pid, after: KILLED })
    }
}

impl Attacher for LocalAttacher {
    fn status(&self) -> BoxFuture<'_, Result<AttachStatus, AttachError>> {
        Box::pin(async {
            Ok(match self.find()? {
                Found::Running(process) => AttachStatus::Running { process: Some(process) },
                Found::No(reason) => AttachStatus::NotRunning { reason },
            })
        })
    }

    fn exited(&self) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(async {
            let Found::Running(process) = self.find()? else { return Ok(()) };
            match open(process)? {
                Some(descriptor) => ended(process, &watch(process, descriptor)?).await,
                None => Ok(()),
            }
        })
    }

    fn logs(&self, _lines: usize) -> BoxFuture<'_, Result<Vec<AttachedLine>, AttachError>> {
        Box::pin(async { Err(self.unsupported("show its log: it writes where its starter wanted")) })
    }

    fn follow(&self, _lines: usize) -> BoxFuture<'_, Result<AttachedLines, AttachError>> {
        Box::pin(async { Err(self.unsupported("show its log: it writes where its starter wanted")) })
    }

    fn start(&self) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(async { Err(self.unsupported("be started")) })
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(self.stop_process(grace))
    }
}

fn in_file(path: &Path) -> Result<Found, AttachError> {
    let failed = |source| AttachError::ReadPidFile { path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Found::No(format!("the pid file {} isn't there", path.display())));
        }
        Err(error) => return Err(failed(error)),
    };
    let written = file.metadata().and_then(|metadata| metadata.modified()).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(PID_FILE).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    let first = text.lines().next().unwrap_or_default().trim();
    let Some(pid) = first.parse::<i32>().ok().filter(|pid| *pid > 0) else {
        return Err(AttachError::PidFile { path: path.to_owned(), text: first.to_owned() });
    };
    let stale = |why| Found::No(format!("the pid file {} names process {pid}, {why}", path.display()));
    let Some(process) = identify(pid)? else { return Ok(stale("which isn't there")) };
    match started(process) {
        // Its pid is used again: whoever wrote the file can't have known this process.
        Some(started) if started > written + SLACK => Ok(stale("which started after the file was written")),
        _ => Ok(Found::Running(process)),
    }
}

fn by_name(name: &str) -> Result<Found, AttachError> {
    let found = procfs::named(name).map_err(|source| AttachError::Lookup { source })?;
    if found.is_empty() {
        return Ok(Found::No(format!("no process is named {name:?}")));
    }
    let Some(process) = procfs::root(&found) else {
        let mut pids: Vec<i32> = found.iter().map(|process| process.pid).collect();
        pids.sort_unstable();
        return Err(AttachError::Ambiguous { name: name.to_owned(), pids });
    };
    Ok(match identify(process.pid)? {
        Some(process) => Found::Running(process),
        None => Found::No(format!("the process named {name:?} has just ended")),
    })
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT | libc::EINVAL))
}

/// The identity of the process that has the pid now, unless it is gone or a zombie.
pub(super) fn identify(pid: i32) -> Result<Option<ProcessIdentity>, AttachError> {
    match ProcessIdentity::of(pid) {
        Ok(process) => Ok(process.is_alive().then_some(process)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(AttachError::Lookup { source }),
    }
}

/// When it started, by the wall clock as it is set now.
fn started(process: ProcessIdentity) -> Option<SystemTime> {
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let uptime = Duration::new(u64::try_from(uptime.tv_sec).ok()?, u32::try_from(uptime.tv_nsec).ok()?);
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let since_boot = Duration::from_millis(process.start.checked_mul(1000)? / ticks);
    SystemTime::now().checked_sub(uptime.checked_sub(since_boot)?)
}

/// A pidfd of exactly that process; `None` if it is gone.
pub(super) fn open(process: ProcessIdentity) -> Result<Option<OwnedFd>, AttachError> {
    let pid = process.pid;
    let Some(raw) = Pid::from_raw(pid) else { return Ok(None) };
    match pidfd_open(raw, PidfdFlags::NONBLOCK) {
        // Alive after the descriptor was opened, so that the pid was its own in between too.
        Ok(descriptor) => Ok(process.is_alive().then_some(descriptor)),
        Err(Errno::SRCH) => Ok(None),
        Err(errno) => Err(AttachError::Wait { pid, source: errno.into() }),
    }
}

fn send(process: ProcessIdentity, descriptor: &OwnedFd, signal: Signal) -> Result<bool, AttachError> {
    match pidfd_send_signal(descriptor, signal) {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(errno) => Err(AttachError::Signal { pid: process.pid, signal, source: errno.into() }),
    }
}

pub(super) fn watch(process: ProcessIdentity, descriptor: OwnedFd) -> Result<Async<OwnedFd>, AttachError> {
    Async::new_nonblocking(descriptor).map_err(|source| AttachError::Wait { pid: process.pid, source })
}

pub(super) async fn ended(process: ProcessIdentity, descriptor: &Async<OwnedFd>) -> Result<(), AttachError> {
    descriptor.readable().await.map_err(|source| AttachError::Wait { pid: process.pid, source })
}

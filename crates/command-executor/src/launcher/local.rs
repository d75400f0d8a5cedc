//! This machine.

use super::{LaunchError, Launcher};
use crate::command::{Command, Stdin, UserIds};
use crate::process::{ByteStream, ProcessEvents, ProcessHandle};
use async_process::{Child, Stdio};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;

/// Runs commands as children of this program: the one spawn site besides the keepers'.
///
/// Each leads a process group of its own, which is ended with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalLauncher {
    open_files: Option<u64>,
    with_thread: bool,
}

impl LocalLauncher {
    /// This machine.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes what waiting for children needs. Else it is made with the first child, and async-process panics if there is
    /// no descriptor left then: a program that may run out of them calls this when it starts.
    pub fn prepare() {
        let waiting = futures_lite::future::poll_once(async_process::driver());
        futures_lite::future::block_on(waiting);
    }

    /// The soft limit of open files that children get. A program that raised its own should hand on the one it came
    /// with: some programs walk through all numbers below it.
    #[must_use]
    pub fn with_open_files(mut self, limit: u64) -> Self {
        self.open_files = Some(limit);
        self
    }

    /// Children are killed when the thread that launched them ends, also when it is killed: only for a thread that lives
    /// as long as they may. What they started themselves lives on.
    #[must_use]
    pub fn killed_with_thread(mut self) -> Self {
        self.with_thread = true;
        self
    }

    /// Starts it as the leader of a group of its own, with pipes for its outputs.
    fn spawn(&self, command: &Command, stdin: Stdio) -> Result<Child, LaunchError> {
        let mut prepared = command.to_std();
        prepared.process_group(0);
        if self.with_thread {
            crate::keeper::kill_with_this_thread(&mut prepared);
        }
        let mut prepared = async_process::Command::from(prepared);
        prepared.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = prepared.spawn().map_err(|source| explain(command, source))?;
        self.limit(child.id());
        Ok(child)
    }

    fn limit(&self, pid: u32) {
        let Some(limit) = self.open_files else { return };
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
        let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: Some(hard.map_or(limit, |hard| limit.min(hard))), maximum: hard };
        // It may have ended already, or changed its user; the limit is a courtesy.
        let _ = prlimit(Some(pid), Resource::Nofile, limit);
    }
}

impl Launcher for LocalLauncher {
    fn rewrite(&self, command: Command) -> Result<Command, LaunchError> {
        Ok(command)
    }

    fn rewrite_to_replace(&self, command: Command, _tty: bool) -> Result<Command, LaunchError> {
        Ok(command)
    }

    fn launch(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError> {
        let (stdin, input) = match command.get_stdin() {
            Stdin::Null => (Stdio::null(), None),
            Stdin::Inherit => (Stdio::inherit(), None),
            Stdin::Bytes(bytes) => (Stdio::piped(), Some(bytes.clone())),
            Stdin::Piped => (Stdio::piped(), None),
        };
        let stdin = if command.far.is_some() { Stdio::piped() } else { stdin };
        let child = self.spawn(command, stdin)?;
        let made = match &command.far {
            None => ProcessHandle::new(child, input, command.leaves_group),
            Some(far) => ProcessHandle::far(child, far.clone(), input, *command.get_stdin() == Stdin::Piped),
        };
        made.map_err(|source| LaunchError::Spawn { program: command.get_program().to_owned(), source })
    }

    fn pipe(&self, command: &Command) -> Result<ByteStream, LaunchError> {
        let child = self.spawn(command, Stdio::piped())?;
        let program = command.get_program().to_owned();
        ByteStream::new(child, program.clone()).map_err(|source| LaunchError::Spawn { program, source })
    }
}

/// The system tells only that one of several steps failed: finds out which.
fn explain(command: &Command, source: io::Error) -> LaunchError {
    let program = command.get_program().to_owned();
    if let Some(folder) = command.get_current_dir() {
        let entered = fs::metadata(folder).and_then(|found| match found.is_dir() {
            true => Ok(()),
            false => Err(ErrorKind::NotADirectory.into()),
        });
        if let Err(source) = entered {
            return LaunchError::Folder { folder: folder.to_owned(), source };
        }
    }
    match source.kind() {
        ErrorKind::NotFound => LaunchError::NotFound { program, source },
        ErrorKind::PermissionDenied => match command.get_user() {
            Some(UserIds { uid, gid }) if uid != rustix::process::geteuid().as_raw() => {
                LaunchError::User { program, uid, gid, source }
            }
            _ => LaunchError::NotExecutable { program, source },
        },
        // ENOEXEC has no kind of its own.
        _ if source.raw_os_error() == Some(libc::ENOEXEC) => LaunchError::NotExecutable { program, source },
        _ => LaunchError::Spawn { program, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_child_is_killed_with_the_thread_that_launched_it() {
        let launched = std::thread::spawn(|| {
            let command = Command::new("sleep").args(["1000"]);
            let (handle, events) = LocalLauncher::new().killed_with_thread().launch(&command).unwrap();
            let pid = handle.pid();
            // As if the program were killed: nothing is dropped.
            std::mem::forget((handle, events));
            pid
        });
        let pid = launched.join().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let lives = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
        };
        while lives() {
            assert!(Instant::now() < deadline, "it lives on");
            std::thread::yield_now();
        }
    }
}

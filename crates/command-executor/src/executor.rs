//! Runs commands in a place, to completion or with their events.

use crate::command::Command;
use crate::event::ProcessEvent;
use crate::launcher::{LaunchError, Launcher};
use crate::process::{Exit, ProcessError, ProcessEvents, ProcessHandle};
use async_io::Timer;
use std::ffi::OsString;
use std::time::{Duration, Instant};

/// Bytes of each output that [`Executor::run`] keeps unless told otherwise.
pub const CAPTURE: usize = 1024 * 1024;

/// How often a command is begun where nothing ran.
const ATTEMPTS: u32 = 5;
/// How long the second try waits, about; each further one twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Runs commands in the place that its launcher stands for.
#[derive(Clone, Copy, Debug)]
pub struct Executor<L> {
    launcher: L,
    capture: usize,
}

/// The beginning of an output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// The first bytes, up to the executor's limit.
    pub bytes: Vec<u8>,
    /// How many followed that were not kept.
    pub dropped: u64,
}

/// What became of a command that ran to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote to its standard output.
    pub stdout: Captured,
    /// What it wrote to its standard error.
    pub stderr: Captured,
    /// How long it ran.
    pub elapsed: Duration,
}

/// Why a command didn't run to its end. That it ended badly is no error of this kind.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// It didn't start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// It took longer than its timeout and was killed with its group.
    #[error("{} didn't end within {timeout:?}", .program.display())]
    TimedOut {
        /// The program.
        program: OsString,
        /// Its timeout.
        timeout: Duration,
        /// What it had written to its standard output.
        stdout: Captured,
        /// What it had written to its standard error.
        stderr: Captured,
    },
    /// It couldn't be followed to its end, and was killed.
    #[error("can't follow {} to its end", .program.display())]
    Follow {
        /// The program.
        program: OsString,
        /// Why.
        source: ProcessError,
    },
}

impl<L: Launcher> Executor<L> {
    /// An executor for that place.
    pub fn new(launcher: L) -> Self {
        Self { launcher, capture: CAPTURE }
    }

    /// Sets how many bytes of each output [`Self::run`] keeps.
    #[must_use]
    pub fn with_capture(mut self, bytes: usize) -> Self {
        self.capture = bytes;
        self
    }

    /// The place.
    pub fn launcher(&self) -> &L {
        &self.launcher
    }

    /// Starts a command; the handle owns it, the events tell of it. Its timeout is the caller's to keep.
    ///
    /// # Errors
    /// The process didn't start.
    pub fn start(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError> {
        self.launcher.launch(command)
    }

    /// Prepares the place, then [starts](Self::start) a command there: over a connection that is shared, where the place
    /// has them.
    ///
    /// # Errors
    /// The place can't be reached, or the process didn't start.
    pub async fn open(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError> {
        self.launcher.prepare().await?;
        self.launcher.launch(command)
    }

    /// Runs a command to its end, or to that of its [timeout](Command::timeout). Dropping the future kills it.
    ///
    /// Where it is certain that nothing ran, because a host had too many logins at once or a shared connection was gone,
    /// it is tried again, a few times.
    ///
    /// # Errors
    /// See [`ExecuteError`]; a bad exit isn't one.
    pub async fn run(&self, command: &Command) -> Result<Finished, ExecuteError> {
        let (mut stdout, mut stderr) = (Captured::default(), Captured::default());
        let attempts = async {
            let mut pause = FIRST_PAUSE;
            for _ in 1..ATTEMPTS {
                match self.attempt(command, &mut stdout, &mut stderr).await {
                    Err(ExecuteError::Launch(LaunchError::Place(error)))
                        if error.kind.is_worth_a_retry() && self.launcher.recover(&error) =>
                    {
                        Timer::after(pause.mul_f64(0.5 + fastrand::f64())).await;
                        pause *= 2;
                        (stdout, stderr) = (Captured::default(), Captured::default());
                    }
                    done => return Some(done),
                }
            }
            Some(self.attempt(command, &mut stdout, &mut stderr).await)
        };
        let done = match command.get_timeout() {
            None => attempts.await,
            Some(timeout) => {
                let over = async {
                    Timer::after(timeout).await;
                    None
                };
                futures_lite::future::or(attempts, over).await
            }
        };
        match done {
            Some(done) => done.map(|(exit, elapsed)| Finished { exit, stdout, stderr, elapsed }),
            None => {
                let program = command.get_program().to_owned();
                let timeout = command.get_timeout().unwrap_or_default();
                Err(ExecuteError::TimedOut { program, timeout, stdout, stderr })
            }
        }
    }

    async fn attempt(
        &self,
        command: &Command,
        stdout: &mut Captured,
        stderr: &mut Captured,
    ) -> Result<(Exit, Duration), ExecuteError> {
        let begun = Instant::now();
        let (_handle, mut events) = self.open(command).await?;
        match follow(&mut events, self.capture, stdout, stderr).await {
            Ok(exit) => Ok((exit, begun.elapsed())),
            Err(ProcessError::Place(error)) if !error.kind.may_have_run() => {
                Err(ExecuteError::Launch(LaunchError::Place(error)))
            }
            Err(source) => Err(ExecuteError::Follow { program: command.get_program().to_owned(), source }),
        }
    }
}

async fn follow(
    events: &mut ProcessEvents,
    limit: usize,
    stdout: &mut Captured,
    stderr: &mut Captured,
) -> Result<Exit, ProcessError> {
    let mut exit = Exit::Code(-1);
    while let Some(event) = events.next().await? {
        let (captured, line) = match event {
            ProcessEvent::Started { .. } => continue,
            ProcessEvent::Stdout(line) => (&mut *stdout, line),
            ProcessEvent::Stderr(line) => (&mut *stderr, line),
            ProcessEvent::Exited(how) => {
                exit = how;
                continue;
            }
        };
        captured.add(&line.text, limit);
        if line.complete {
            captured.add(b"\n", limit);
        }
    }
    Ok(exit)
}

impl Captured {
    fn add(&mut self, bytes: &[u8], limit: usize) {
        let (kept, dropped) = bytes.split_at(bytes.len().min(limit.saturating_sub(self.bytes.len())));
        self.bytes.extend_from_slice(kept);
        self.dropped += dropped.len() as u64;
    }

    /// As text; bytes that are none become replacement characters.
    pub fn to_text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

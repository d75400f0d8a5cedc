//! A process that runs: a handle to end it by, and the stream of what it tells.
//!
//! The two are apart, so that one task can read while another waits, signals or writes. The handle owns the process:
//! dropping it ends the process's whole group, and so does the exit of the process itself. What must live longer is
//! not a one-shot command but a [managed process](crate::target).
//!
//! The group can only be signalled safely while its leader is not reaped, because until then its number can't be
//! given to another. So the exit is seen through a pidfd, the rest of the group is ended, and only then the leader is
//! reaped.
//!
//! A process in another place has two ends: the client that was started here (ssh, sudo, docker), whose process id
//! [`ProcessHandle::pid`] tells, and the program there ([`ProcessHandle::far_pid`]). Signals go to the program, its own
//! exit is what counts, and it ends when its near end does.

mod events;
mod far;
mod markers;
mod stdin;
mod stream;

pub use events::ProcessEvents;
pub use stdin::write_all;
pub use stream::ByteStream;

use self::events::{Input, Output, Outputs, drain_errors};
use self::far::FarRun;
use self::stdin::ProcessStdin;
use crate::command::Stdin;
use crate::event::{LineBuffer, MAX_LINE, ProcessEvent};
use crate::launcher::{Far, PlaceError};
use async_io::{Async, Timer};
use async_process::{Child, ChildStdin};
use futures_lite::AsyncWrite;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

/// How long a client here has to follow the program that was ended there.
const GRACE: Duration = Duration::from_secs(2);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code; 0 is success.
    Code(i32),
    /// By a signal of this number.
    Signal(i32),
}

impl Exit {
    /// Whether it ended by itself with 0.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }

    fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            // Neither: only for a stopped process, which isn't waited for.
            (None, None) => Self::Code(-1),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Why something couldn't be done with a process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Its exit can't be waited for.
    #[error("can't wait for process {pid}")]
    Wait {
        /// The process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// It can't be signalled.
    #[error("can't send signal {signal} to the group of process {pid}")]
    Signal {
        /// The process.
        pid: u32,
        /// The signal's number.
        signal: i32,
        /// Why.
        source: io::Error,
    },
    /// Its output can't be read.
    #[error("can't read the output of process {pid}")]
    Output {
        /// The process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// The place failed, before the program ran there or while it did; see
    /// [`PlaceErrorKind::may_have_run`](crate::launcher::PlaceErrorKind::may_have_run).
    #[error(transparent)]
    Place(#[from] Box<PlaceError>),
}

/// What handle and events share.
struct Shared {
    pid: u32,
    pidfd: Async<OwnedFd>,
    leaves_group: bool,
    state: Mutex<State>,
    far: Option<Mutex<FarRun>>,
    outputs: Mutex<Outputs>,
    /// What is given back when the process is gone.
    held: Mutex<Vec<Box<dyn Any + Send>>>,
}

struct State {
    child: Child,
    exit: Option<Exit>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn far(&self) -> Option<MutexGuard<'_, FarRun>> {
        self.far.as_ref().map(lock)
    }

    /// Signals the group; `false` if its leader was reaped.
    fn signal_near(&self, signal: Signal) -> Result<bool, ProcessError> {
        let state = lock(&self.state);
        if state.exit.is_some() {
            return Ok(false);
        }
        self.signal_unreaped(signal).map(|()| true)
    }

    fn signal_unreaped(&self, signal: Signal) -> Result<(), ProcessError> {
        let group = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let sent = group.map_or(Err(Errno::SRCH), |group| kill_process_group(group, signal));
        match sent {
            // Nobody is left but the zombie.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => {
                let (pid, signal) = (self.pid, signal.as_raw());
                Err(ProcessError::Signal { pid, signal, source: errno.into() })
            }
        }
    }

    /// Waits for the process that was started here.
    async fn near_exit(&self) -> Result<Exit, ProcessError> {
        let failed = |source| ProcessError::Wait { pid: self.pid, source };
        loop {
            if let Some(exit) = lock(&self.state).exit {
                return Ok(exit);
            }
            self.pidfd.readable().await.map_err(failed)?;
            match self.far() {
                // Shells of the place may still be at it, also in this group: the end of their input ends them.
                Some(mut far) => far.hang_up(),
                None if self.leaves_group => {}
                // What refuses to be ended here is of another user: it isn't ours to wait for.
                None => drop(self.signal_near(Signal::KILL)),
            }
            let mut state = lock(&self.state);
            if state.exit.is_none() {
                state.exit = state.child.try_status().map_err(failed)?.map(Exit::of);
            }
            if state.exit.is_some() {
                lock(&self.held).clear();
            }
        }
    }

    async fn wait(&self) -> Result<Exit, ProcessError> {
        let near = self.near_exit().await?;
        // In this order, as where events are read.
        let mut outputs = lock(&self.outputs);
        let Some(mut far) = self.far() else { return Ok(near) };
        if far.exit().is_none() {
            drain_errors(&mut outputs, &mut far);
        }
        Ok(far.outcome(Some(near))?)
    }
}

/// A process that was launched. Dropping it kills its process group; in another place, the program's there.
pub struct ProcessHandle {
    shared: Arc<Shared>,
    stdin: Option<ProcessStdin>,
}

impl ProcessHandle {
    /// Takes over a child that leads a process group of its own.
    /// `leaves_group` is whether the rest of it lives on.
    pub(crate) fn new(
        child: Child,
        input: Option<Vec<u8>>,
        leaves_group: bool,
    ) -> io::Result<(Self, ProcessEvents)> {
        Self::make(child, leaves_group, |stdin| {
            let (input, stdin) = match input {
                Some(bytes) => (stdin.map(|pipe| Input { pipe, bytes, written: 0 }), None),
                None => (None, stdin),
            };
            (None, input, stdin)
        })
    }

    /// The same for the client of a place.
    pub(crate) fn far(
        child: Child,
        far: Box<Far>,
        input: Option<Vec<u8>>,
        piped: bool,
    ) -> io::Result<(Self, ProcessEvents)> {
        let (mut handle, events) =
            Self::make(child, false, |stdin| (Some(FarRun::new(far, stdin, input)), None, None))?;
        handle.stdin = piped.then(|| ProcessStdin::Far(Arc::clone(&handle.shared)));
        Ok((handle, events))
    }

    fn make(
        mut child: Child,
        leaves_group: bool,
        divide: impl FnOnce(Option<ChildStdin>) -> (Option<FarRun>, Option<Input>, Option<ChildStdin>),
    ) -> io::Result<(Self, ProcessEvents)> {
        let pid = child.id();
        let of = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        let pidfd = Async::new_nonblocking(pidfd_open(of, PidfdFlags::NONBLOCK)?)?;
        let stdout = child.stdout.take().map(|pipe| Output { pipe, lines: LineBuffer::new(MAX_LINE) });
        let stderr = child.stderr.take().map(|pipe| Output { pipe, lines: LineBuffer::new(MAX_LINE) });
        let (far, input, stdin) = divide(child.stdin.take());
        let deadline = far.as_ref().and_then(FarRun::deadline).map(Timer::at);
        let ready = match far {
            Some(_) => VecDeque::new(),
            None => VecDeque::from([ProcessEvent::Started { pid }]),
        };
        let announced = far.is_none();
        let shared = Arc::new(Shared {
            pid,
            pidfd,
            leaves_group,
            state: Mutex::new(State { child, exit: None }),
            far: far.map(Mutex::new),
            outputs: Mutex::new(Outputs { stdout, stderr, ready }),
            held: Mutex::new(Vec::new()),
        });
        let events = ProcessEvents {
            shared: Arc::clone(&shared),
            input,
            announced,
            exit: None,
            linger: None,
            deadline,
            timed_out: false,
            finished: false,
        };
        Ok((Self { shared, stdin: stdin.map(ProcessStdin::Near) }, events))
    }

    /// Gives a session that waits in another place its command.
    pub(crate) fn begin(&mut self, events: &mut ProcessEvents, far: Far, stdin: &Stdin) {
        let source = match stdin {
            Stdin::Bytes(bytes) => Some(bytes.clone()),
            Stdin::Null | Stdin::Inherit | Stdin::Piped => None,
        };
        if let Some(mut run) = self.shared.far() {
            run.begin(Box::new(far), source);
            events.deadline = run.deadline().map(Timer::at);
        }
        self.stdin = (*stdin == Stdin::Piped).then(|| ProcessStdin::Far(Arc::clone(&self.shared)));
    }

    /// Whether the process here has ended.
    pub(crate) fn has_ended(&self) -> bool {
        let mut state = lock(&self.shared.state);
        if state.exit.is_none() {
            state.exit = state.child.try_status().ok().flatten().map(Exit::of);
        }
        state.exit.is_some()
    }

    /// Keeps something until the process is gone.
    pub(crate) fn hold(&self, held: impl Any + Send) {
        lock(&self.shared.held).push(Box::new(held));
    }

    /// Ends what goes to a program in another place, as if this program had ended.
    #[cfg(test)]
    pub(crate) fn hang_up(&self) {
        if let Some(mut far) = self.shared.far() {
            far.hang_up();
        }
    }

    /// The process id here, which is also that of its group.
    pub fn pid(&self) -> u32 {
        self.shared.pid
    }

    /// The program's process id in the place where it runs, once that is known: at
    /// [`ProcessEvent::Started`]. `None` for a process of this machine, and where a place can't tell.
    pub fn far_pid(&self) -> Option<u32> {
        self.shared.far().and_then(|far| far.pid())
    }

    /// Waits until it has ended and ends what is left of its group.
    ///
    /// A process that writes more than a pipe holds doesn't end unless its events are read too. Can be called
    /// again; cancelling it changes nothing.
    ///
    /// # Errors
    /// [`ProcessError::Wait`]; [`ProcessError::Place`] if it didn't run to its end in its place.
    pub async fn wait(&self) -> Result<Exit, ProcessError> {
        self.shared.wait().await
    }

    /// Sends a signal to its group; `false` if it has ended and was waited for.
    ///
    /// To a program in another place it is sent on its way, and waits there for no input that the program doesn't take;
    /// what the place does with it isn't waited for.
    ///
    /// # Errors
    /// [`ProcessError::Signal`], for example if it runs as another user.
    pub fn signal(&self, signal: Signal) -> Result<bool, ProcessError> {
        match self.shared.far() {
            None => self.shared.signal_near(signal),
            Some(mut far) => Ok(far.signal(signal)),
        }
    }

    /// Ends its group by SIGKILL and waits for that.
    ///
    /// In another place, the program's group there; if nothing is heard of that within two seconds, what leads there is
    /// ended too, within four.
    ///
    /// # Errors
    /// [`ProcessError::Signal`] and [`ProcessError::Wait`]; [`ProcessError::Place`] if it had failed before.
    pub async fn kill(&self) -> Result<Exit, ProcessError> {
        if self.shared.far.is_none() {
            self.shared.signal_near(Signal::KILL)?;
            return self.shared.wait().await;
        }
        if let Some(mut far) = self.shared.far() {
            far.signal(Signal::KILL);
        }
        if !self.ends_within(GRACE).await {
            if let Some(mut far) = self.shared.far() {
                far.give_up();
            }
            // Not SIGKILL: a shell of the place may be in the group, and must live until the program doesn't.
            self.shared.signal_near(Signal::TERM)?;
            if !self.ends_within(2 * GRACE).await {
                self.shared.signal_near(Signal::KILL)?;
            }
        }
        self.shared.wait().await
    }

    /// Waits for the client here, so long, and sends what is still to be sent there.
    async fn ends_within(&self, time: Duration) -> bool {
        let pump = poll_fn(|cx| {
            if let Some(mut far) = self.shared.far() {
                far.poll_pump(cx);
            }
            Poll::<bool>::Pending
        });
        let late = async {
            Timer::after(time).await;
            false
        };
        // A failure is told by the wait that follows.
        let ended = async { self.shared.near_exit().await.is_ok() };
        futures_lite::future::or(futures_lite::future::or(ended, late), pump).await
    }

    /// What writes to its standard input, if that is [piped](crate::command::Stdin::Piped) and wasn't taken yet.
    /// Dropping it ends the input.
    ///
    /// For a program in another place, what was written is passed on while the events are read, and that it closed its
    /// input is noticed at its end only.
    pub fn take_stdin(&mut self) -> Option<impl AsyncWrite + Send + Unpin + use<>> {
        self.stdin.take()
    }
}

impl Drop for ProcessHandle {
    fn drop(&mut self) {
        // Nobody is left to tell; the zombie is reaped by async-process.
        match self.shared.far() {
            None => drop(self.shared.signal_near(Signal::KILL)),
            Some(mut far) => {
                far.signal(Signal::KILL);
                far.give_up();
                // Not SIGKILL: a shell of the place may be in the group, and must live until the program doesn't.
                drop(self.shared.signal_near(Signal::TERM));
            }
        }
    }
}

impl fmt::Debug for ProcessHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessHandle").field("pid", &self.shared.pid).finish_non_exhaustive()
    }
}

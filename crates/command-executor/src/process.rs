//! A process that runs: a handle to end it by, and the stream of what it tells.
//!
//! The two are apart, so that one task can read while another waits, signals or writes. The handle owns the process:
//! dropping it ends the process's whole group, and so does the exit of the process itself. What must live longer is
//! not a one-shot command but a [managed process](crate::target).
//!
//! The group can only be signalled safely while its leader is not reaped, because until then its number can't be
//! given to another. So the exit is seen through a pidfd, the rest of the group is ended, and only then the leader is
//! reaped.

use crate::event::{Line, LineBuffer, MAX_LINE, ProcessEvent};
use async_io::{Async, Timer};
use async_process::{Child, ChildStderr, ChildStdin, ChildStdout};
use futures_lite::{AsyncRead, AsyncWrite, AsyncWriteExt};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::pin::{Pin, pin};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// How long outputs are read on after the exit, while somebody who left the group holds them open.
const LINGER: Duration = Duration::from_millis(500);
/// Bytes that are read at once.
const BLOCK: usize = 32 * 1024;
/// Lines that wait before reading goes on.
const WAITING: usize = 256;

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
}

/// What handle and events share.
struct Shared {
    pid: u32,
    pidfd: Async<OwnedFd>,
    state: Mutex<State>,
}

struct State {
    child: Child,
    exit: Option<Exit>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends to the group unless the leader is reaped; whether it was sent.
    fn signal(&self, signal: Signal) -> Result<bool, ProcessError> {
        let state = self.state();
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

    async fn wait(&self) -> Result<Exit, ProcessError> {
        let failed = |source| ProcessError::Wait { pid: self.pid, source };
        loop {
            if let Some(exit) = self.state().exit {
                return Ok(exit);
            }
            self.pidfd.readable().await.map_err(failed)?;
            let mut state = self.state();
            if state.exit.is_none() {
                // What refuses to be ended here is of another user: it isn't ours to wait for.
                let _ = self.signal_unreaped(Signal::KILL);
                state.exit = state.child.try_status().map_err(failed)?.map(Exit::of);
            }
        }
    }
}

/// A process that was launched. Dropping it kills its process group.
pub struct ProcessHandle {
    shared: Arc<Shared>,
    stdin: Option<ChildStdin>,
}

/// What a process tells; see [`ProcessEvents::next`].
pub struct ProcessEvents {
    shared: Arc<Shared>,
    stdout: Option<Output<ChildStdout>>,
    stderr: Option<Output<ChildStderr>>,
    input: Option<Input>,
    ready: VecDeque<ProcessEvent>,
    exit: Option<Exit>,
    linger: Option<Timer>,
    finished: bool,
}

struct Output<R> {
    pipe: R,
    lines: LineBuffer,
}

struct Input {
    pipe: ChildStdin,
    bytes: Vec<u8>,
    written: usize,
}

impl ProcessHandle {
    /// Takes over a child that leads a process group of its own.
    pub(crate) fn new(mut child: Child, input: Option<Vec<u8>>) -> io::Result<(Self, ProcessEvents)> {
        let pid = child.id();
        let of = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        let pidfd = Async::new_nonblocking(pidfd_open(of, PidfdFlags::NONBLOCK)?)?;
        let stdout = child.stdout.take().map(|pipe| Output { pipe, lines: LineBuffer::new(MAX_LINE) });
        let stderr = child.stderr.take().map(|pipe| Output { pipe, lines: LineBuffer::new(MAX_LINE) });
        let mut stdin = child.stdin.take();
        let input = match input {
            Some(bytes) => stdin.take().map(|pipe| Input { pipe, bytes, written: 0 }),
            None => None,
        };
        let shared = Arc::new(Shared { pid, pidfd, state: Mutex::new(State { child, exit: None }) });
        let events = ProcessEvents {
            shared: Arc::clone(&shared),
            stdout,
            stderr,
            input,
            ready: VecDeque::from([ProcessEvent::Started { pid }]),
            exit: None,
            linger: None,
            finished: false,
        };
        Ok((Self { shared, stdin }, events))
    }

    /// Its process id, which is also that of its group.
    pub fn pid(&self) -> u32 {
        self.shared.pid
    }

    /// Waits until it has ended and ends what is left of its group.
    ///
    /// A process that writes more than a pipe holds doesn't end unless its events are read too. Can be called
    /// again; cancelling it changes nothing.
    ///
    /// # Errors
    /// [`ProcessError::Wait`].
    pub async fn wait(&self) -> Result<Exit, ProcessError> {
        self.shared.wait().await
    }

    /// Sends a signal to its group; `false` if it has ended and was waited for.
    ///
    /// # Errors
    /// [`ProcessError::Signal`], for example if it runs as another user.
    pub fn signal(&self, signal: Signal) -> Result<bool, ProcessError> {
        self.shared.signal(signal)
    }

    /// Ends its group by SIGKILL and waits for that.
    ///
    /// # Errors
    /// [`ProcessError::Signal`] and [`ProcessError::Wait`].
    pub async fn kill(&self) -> Result<Exit, ProcessError> {
        self.shared.signal(Signal::KILL)?;
        self.shared.wait().await
    }

    /// What writes to its standard input, if that is [piped](crate::command::Stdin::Piped) and wasn't taken yet.
    /// Dropping it ends the input.
    pub fn take_stdin(&mut self) -> Option<impl AsyncWrite + Send + Unpin + use<>> {
        self.stdin.take()
    }
}

impl Drop for ProcessHandle {
    fn drop(&mut self) {
        // Nobody is left to tell; the zombie is reaped by async-process.
        let _ = self.shared.signal(Signal::KILL);
    }
}

impl fmt::Debug for ProcessHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessHandle").field("pid", &self.shared.pid).finish_non_exhaustive()
    }
}

impl fmt::Debug for ProcessEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessEvents").field("pid", &self.shared.pid).finish_non_exhaustive()
    }
}

impl ProcessEvents {
    /// The next event; `None` after [`ProcessEvent::Exited`]. Cancelling it loses nothing.
    ///
    /// Everything that was written comes before `Exited`, except by processes that left the group and still hold an
    /// output half a second after the exit.
    ///
    /// # Errors
    /// [`ProcessError::Output`]; that output ends there, and the rest can be read on. [`ProcessError::Wait`].
    pub async fn next(&mut self) -> Result<Option<ProcessEvent>, ProcessError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.finished {
                return Ok(None);
            }
            let shared = Arc::clone(&self.shared);
            let mut exited = pin!(shared.wait());
            poll_fn(|cx| self.poll(cx, exited.as_mut())).await?;
        }
    }

    /// Moves everything that can move; ready when there are events or the end.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        exited: Pin<&mut impl Future<Output = Result<Exit, ProcessError>>>,
    ) -> Poll<Result<(), ProcessError>> {
        let pid = self.shared.pid;
        let failed = |source| ProcessError::Output { pid, source };
        self.poll_input(cx);
        poll_output(&mut self.stdout, &mut self.ready, ProcessEvent::Stdout, cx).map_err(failed)?;
        poll_output(&mut self.stderr, &mut self.ready, ProcessEvent::Stderr, cx).map_err(failed)?;
        if !self.ready.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.exit.is_none()
            && let Poll::Ready(exit) = exited.poll(cx)
        {
            self.exit = Some(exit?);
            self.input = None;
            self.linger = Some(Timer::after(LINGER));
            // What it wrote last may have come after the pipes were read above.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(exit) = self.exit else { return Poll::Pending };
        let over = self.linger.as_mut().is_none_or(|timer| Pin::new(timer).poll(cx).is_ready());
        if (self.stdout.is_none() && self.stderr.is_none()) || over {
            let rest = |output: &mut LineBuffer| output.finish();
            let stdout: Option<Line> = self.stdout.as_mut().and_then(|output| rest(&mut output.lines));
            let stderr: Option<Line> = self.stderr.as_mut().and_then(|output| rest(&mut output.lines));
            self.ready.extend(stdout.map(ProcessEvent::Stdout));
            self.ready.extend(stderr.map(ProcessEvent::Stderr));
            (self.stdout, self.stderr) = (None, None);
            self.ready.push_back(ProcessEvent::Exited(exit));
            self.finished = true;
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) {
        while let Some(input) = &mut self.input {
            let left = input.bytes.get(input.written..).unwrap_or_default();
            if left.is_empty() {
                self.input = None;
                return;
            }
            match Pin::new(&mut input.pipe).poll_write(cx, left) {
                Poll::Pending => return,
                Poll::Ready(Ok(count)) => input.written += count,
                // It doesn't read on, which is its right.
                Poll::Ready(Err(_)) => self.input = None,
            }
        }
    }
}

/// Reads an output as far as it goes without waiting, and closes it at its end.
fn poll_output<R: AsyncRead + Unpin>(
    slot: &mut Option<Output<R>>,
    ready: &mut VecDeque<ProcessEvent>,
    event: fn(Line) -> ProcessEvent,
    cx: &mut Context<'_>,
) -> io::Result<()> {
    let Some(output) = slot else { return Ok(()) };
    let mut block = [0; BLOCK];
    while ready.len() < WAITING {
        match Pin::new(&mut output.pipe).poll_read(cx, &mut block) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(count)) if count > 0 => {
                let bytes = block.get(..count).unwrap_or_default();
                output.lines.push(bytes, |line| ready.push_back(event(line)));
            }
            Poll::Ready(done) => {
                ready.extend(output.lines.finish().map(event));
                *slot = None;
                return done.map(|_| ());
            }
        }
    }
    Ok(())
}

/// Writes all bytes to an input and ends it.
///
/// # Errors
/// What the pipe fails with; `BrokenPipe` if the process reads no more.
pub async fn write_all(mut stdin: impl AsyncWrite + Unpin, bytes: &[u8]) -> io::Result<()> {
    stdin.write_all(bytes).await?;
    stdin.close().await
}

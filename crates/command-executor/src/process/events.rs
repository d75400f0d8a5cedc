//! What a process tells, read from its outputs.

use super::far::FarRun;
use super::{Exit, ProcessError, Shared, lock};
use crate::event::{Line, LineBuffer, ProcessEvent};
use async_io::Timer;
use async_process::{ChildStderr, ChildStdin, ChildStdout};
use futures_lite::{AsyncRead, AsyncWrite};
use rustix::io::Errno;
use rustix::process::Signal;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// How long outputs are read on after the exit, while somebody who left the group holds them open.
const LINGER: Duration = Duration::from_millis(500);
/// Bytes that are read at once.
const BLOCK: usize = 32 * 1024;
/// Lines that wait before reading goes on.
const WAITING: usize = 256;

/// What a process tells; see [`ProcessEvents::next`].
pub struct ProcessEvents {
    pub(super) shared: Arc<Shared>,
    pub(super) input: Option<Input>,
    pub(super) announced: bool,
    pub(super) exit: Option<Exit>,
    pub(super) linger: Option<Timer>,
    pub(super) deadline: Option<Timer>,
    pub(super) timed_out: bool,
    pub(super) finished: bool,
}

pub(super) struct Input {
    pub(super) pipe: ChildStdin,
    pub(super) bytes: Vec<u8>,
    pub(super) written: usize,
}

/// What was read and not told yet, and where from.
pub(super) struct Outputs {
    pub(super) stdout: Option<Output<ChildStdout>>,
    pub(super) stderr: Option<Output<ChildStderr>>,
    pub(super) ready: VecDeque<ProcessEvent>,
}

pub(super) struct Output<R> {
    pub(super) pipe: R,
    pub(super) lines: LineBuffer,
}

/// What a client wrote last tells how the program ended; once it has ended it is all in the pipe.
pub(super) fn drain_errors(outputs: &mut Outputs, far: &mut FarRun) {
    let Outputs { stderr: Some(stderr), ready, .. } = outputs else { return };
    let mut block = [0; BLOCK];
    loop {
        match rustix::io::read(stderr.pipe.as_fd(), &mut block) {
            Err(Errno::INTR) => {}
            Ok(count) if count > 0 => {
                let lines = &mut stderr.lines;
                far.take_errors(block.get(..count).unwrap_or_default(), &mut |bytes| {
                    lines.push(bytes, |line| ready.push_back(ProcessEvent::Stderr(line)));
                });
            }
            _ => return,
        }
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
    /// [`ProcessError::Place`] instead of the exit; nothing follows it.
    pub async fn next(&mut self) -> Result<Option<ProcessEvent>, ProcessError> {
        loop {
            if self.announced
                && let Some(event) = lock(&self.shared.outputs).ready.pop_front()
            {
                return Ok(Some(event));
            }
            if self.finished {
                return Ok(None);
            }
            let shared = Arc::clone(&self.shared);
            let mut exited = pin!(shared.near_exit());
            poll_fn(|cx| self.poll(cx, exited.as_mut())).await?;
        }
    }

    /// Moves everything that can move; ready when there are events or the end.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        exited: Pin<&mut impl Future<Output = Result<Exit, ProcessError>>>,
    ) -> Poll<Result<(), ProcessError>> {
        let shared = Arc::clone(&self.shared);
        self.poll_input(cx);
        self.poll_outputs(cx).map_err(|source| ProcessError::Output { pid: shared.pid, source })?;
        if self.announced && !lock(&shared.outputs).ready.is_empty() {
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
        let Some(exit) = self.exit else {
            self.poll_patience(cx);
            return Poll::Pending;
        };
        let over = self.linger.as_mut().is_none_or(|timer| Pin::new(timer).poll(cx).is_ready());
        let mut outputs = lock(&shared.outputs);
        if (outputs.stdout.is_none() && outputs.stderr.is_none()) || over {
            outputs.close();
            self.finished = true;
            self.announced = true;
            let outcome = match shared.far() {
                None => Ok(exit),
                Some(far) => far.outcome((!self.timed_out).then_some(exit)),
            };
            return Poll::Ready(match outcome {
                Ok(exit) => {
                    outputs.ready.push_back(ProcessEvent::Exited(exit));
                    Ok(())
                }
                Err(error) => Err(error.into()),
            });
        }
        Poll::Pending
    }

    /// Reads both outputs as far as they go. Those of a place begin with the news that the program runs.
    fn poll_outputs(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut outputs = lock(&shared.outputs);
        let Outputs { stdout, stderr, ready } = &mut *outputs;
        let Some(mut far) = shared.far() else {
            poll_output(stdout, ready, ProcessEvent::Stdout, cx, |bytes, take| {
                if let Some(bytes) = bytes {
                    take(bytes);
                }
            })?;
            return poll_output(stderr, ready, ProcessEvent::Stderr, cx, |bytes, take| {
                if let Some(bytes) = bytes {
                    take(bytes);
                }
            });
        };
        far.poll_pump(cx);
        let errors = poll_output(stderr, ready, ProcessEvent::Stderr, cx, |bytes, take| match bytes {
            Some(bytes) => far.take_errors(bytes, take),
            None => far.finish_errors(take),
        });
        let output = poll_output(stdout, ready, ProcessEvent::Stdout, cx, |bytes, take| {
            if let Some(bytes) = bytes {
                far.take_output(bytes, take);
            }
        });
        if !self.announced && far.pid().is_some() {
            self.announced = true;
            ready.push_front(ProcessEvent::Started { pid: shared.pid });
        }
        errors.and(output)
    }

    /// Ends the client here when it is too late for the program to start, and when the program has ended but the client
    /// doesn't.
    fn poll_patience(&mut self, cx: &mut Context<'_>) {
        let shared = Arc::clone(&self.shared);
        let Some(mut far) = shared.far() else { return };
        if far.exit().is_none()
            && far.deadline().is_some()
            && let Some(deadline) = &mut self.deadline
            && Pin::new(deadline).poll(cx).is_ready()
        {
            self.timed_out = true;
            far.give_up();
            drop(shared.signal_near(Signal::TERM));
        }
        if far.exit().is_some() || self.timed_out {
            let linger = self.linger.get_or_insert_with(|| Timer::after(LINGER));
            if Pin::new(linger).poll(cx).is_ready() {
                drop(shared.signal_near(Signal::KILL));
            }
        }
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

impl Outputs {
    /// Tells what came last, and reads no more.
    fn close(&mut self) {
        let stdout = self.stdout.take().and_then(|mut output| output.lines.finish());
        let stderr = self.stderr.take().and_then(|mut output| output.lines.finish());
        self.ready.extend(stdout.map(ProcessEvent::Stdout));
        self.ready.extend(stderr.map(ProcessEvent::Stderr));
    }
}

/// Reads an output as far as it goes without waiting, and closes it at its end. `sort` is given the bytes, then `None`,
/// and passes on what the program wrote.
fn poll_output<R: AsyncRead + Unpin>(
    slot: &mut Option<Output<R>>,
    ready: &mut VecDeque<ProcessEvent>,
    event: fn(Line) -> ProcessEvent,
    cx: &mut Context<'_>,
    mut sort: impl FnMut(Option<&[u8]>, &mut dyn FnMut(&[u8])),
) -> io::Result<()> {
    let Some(output) = slot else { return Ok(()) };
    let mut block = [0; BLOCK];
    while ready.len() < WAITING {
        match Pin::new(&mut output.pipe).poll_read(cx, &mut block) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(count)) if count > 0 => {
                let lines = &mut output.lines;
                sort(block.get(..count), &mut |bytes| lines.push(bytes, |line| ready.push_back(event(line))));
            }
            Poll::Ready(done) => {
                let lines = &mut output.lines;
                sort(None, &mut |bytes| lines.push(bytes, |line| ready.push_back(event(line))));
                ready.extend(output.lines.finish().map(event));
                *slot = None;
                return done.map(|_| ());
            }
        }
    }
    Ok(())
}

impl fmt::Debug for ProcessEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessEvents").field("pid", &self.shared.pid).finish_non_exhaustive()
    }
}

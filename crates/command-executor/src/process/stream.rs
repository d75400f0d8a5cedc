//! A command as a stream of bytes: for a protocol of one's own with a program, here or in another place.

use super::{Exit, ProcessHandle};
use crate::launcher::{Evidence, Far, Hop, PlaceError, explain};
use async_io::Timer;
use async_process::{Child, ChildStderr, ChildStdin, ChildStdout};
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite};
use std::any::Any;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Bytes that are kept of what comes on standard error: the last ones.
const SAID: usize = 16 * 1024;
/// Bytes of standard error that are read at once.
const BLOCK: usize = 4 * 1024;

/// A command whose standard input and output are one stream, byte for byte: what is written is what it reads, what is read
/// is what it writes. Made by [`Launcher::pipe`](crate::launcher::Launcher::pipe).
///
/// Nothing of ours stands between the two: no frames, no windows, no shell that stays. So the stream is as fast as ssh is,
/// and a program in another place must end by itself when its input does, which is all that it hears of the end of this
/// one. Closing ends its input; dropping also kills what was started here, and what it had not passed on yet is lost.
///
/// What comes on standard error, of the clients on the way and of the program, is read while the stream is, and its last
/// 16 KiB are kept for [`Self::explain`].
pub struct ByteStream {
    handle: ProcessHandle,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    stderr: Option<ChildStderr>,
    said: Vec<u8>,
    hops: Vec<Hop>,
    program: OsString,
}

impl ByteStream {
    /// Takes over a child that leads a process group of its own and has pipes for everything.
    pub(crate) fn new(mut child: Child, program: OsString) -> io::Result<Self> {
        let stdin = child.stdin.take();
        let stderr = child.stderr.take();
        let stdout = child.stdout.take().ok_or(io::ErrorKind::InvalidInput)?;
        let (handle, _) = ProcessHandle::new(child, None, false)?;
        Ok(Self { handle, stdin, stdout, stderr, said: Vec::new(), hops: Vec::new(), program })
    }

    /// The same, where what was started is the client of a further place in which `program` runs.
    pub(crate) fn behind(mut self, mut hop: Hop, program: OsString) -> Self {
        hop.tells = false;
        self.hops.push(hop);
        self.program = program;
        self
    }

    /// Keeps something until the process here is gone.
    pub(crate) fn hold(&self, held: impl Any + Send) {
        self.handle.hold(held);
    }

    /// The process id here.
    pub fn pid(&self) -> u32 {
        self.handle.pid()
    }

    /// Says why the stream ended, from the end of the process here and what came on standard error. It ends the input and
    /// waits for both, at most `patience`; then it is ended.
    ///
    /// `begun` is whether the program has shown that it runs: then it was lost. Else it is found out at which step of the
    /// way it went wrong, as far as the words of ssh and its like tell.
    pub async fn explain(mut self, begun: bool, patience: Duration) -> PlaceError {
        self.stdin = None;
        let ended = async {
            self.hear_out().await;
            self.handle.wait().await.ok()
        };
        let late = async {
            Timer::after(patience).await;
            None
        };
        let near = futures_lite::future::or(ended, late).await;
        self.judge(begun, near)
    }

    /// Reads standard error to its end.
    async fn hear_out(&mut self) {
        let mut block = [0; BLOCK];
        while let Some(stderr) = &mut self.stderr {
            match stderr.read(&mut block).await {
                Ok(count) if count > 0 => keep(&mut self.said, block.get(..count).unwrap_or_default()),
                _ => self.stderr = None,
            }
        }
    }

    fn judge(self, begun: bool, near: Option<Exit>) -> PlaceError {
        let far = Far::unspoken(self.hops, self.program);
        let mut error =
            explain(&far, Evidence { told: 0, started: begun, fail: None, near, said: &self.said });
        if error.place.is_empty() {
            error.place = "this machine".to_owned();
        }
        error
    }

    fn poll_errors(&mut self, cx: &mut Context<'_>) {
        let mut block = [0; BLOCK];
        while let Some(stderr) = &mut self.stderr {
            match Pin::new(stderr).poll_read(cx, &mut block) {
                Poll::Pending => return,
                Poll::Ready(Ok(count)) if count > 0 => {
                    keep(&mut self.said, block.get(..count).unwrap_or_default());
                }
                Poll::Ready(_) => self.stderr = None,
            }
        }
    }
}

/// Keeps the last bytes.
fn keep(said: &mut Vec<u8>, bytes: &[u8]) {
    said.extend_from_slice(bytes);
    if said.len() > 2 * SAID {
        said.drain(..said.len() - SAID);
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        // Else a program that has much to say there would wait for ever.
        stream.poll_errors(cx);
        Pin::new(&mut stream.stdout).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stdin {
            Some(stdin) => Pin::new(stdin).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stdin = None;
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream").field("pid", &self.handle.pid()).finish_non_exhaustive()
    }
}

//! Carries bytes both ways between two streams.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read at once. A connection owns a buffer only for what the other side doesn't take at once, so that thousands of
/// idle ones cost nothing.
const BUFFER: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// Copies until both directions have ended: the end of one is passed on and the other goes on. An error ends both.
/// `sent` counts bytes from `near` to `far`, `received` the others.
///
/// # Errors
///
/// Either stream is broken.
pub(crate) async fn both_ways<N, F>(
    near: &mut N,
    far: &mut F,
    sent: &AtomicU64,
    received: &AtomicU64,
) -> io::Result<()>
where
    N: AsyncRead + AsyncWrite + Unpin,
    F: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Half::default(), Half::default());
    poll_fn(|context| {
        let forth = up.poll(context, near, far, sent)?;
        let back = down.poll(context, far, near, received)?;
        match (forth, back) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
    .await
}

/// One direction.
#[derive(Debug, Default)]
struct Half {
    /// What was read and isn't written yet, from `at` on.
    pending: Vec<u8>,
    at: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Ended,
    Closed,
}

impl Half {
    fn poll<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        count: &AtomicU64,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while let Some(rest) = self.pending.get(self.at..).filter(|rest| !rest.is_empty()) {
                let written = ready!(Pin::new(&mut *writer).poll_write(context, rest))?;
                self.at += written_some(written)?;
                count.fetch_add(written as u64, Ordering::Relaxed);
            }
            match self.state {
                State::Open => {}
                State::Ended => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(context))?;
                    self.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
            if self.state == State::Open {
                ready!(self.read(context, reader, writer, count))?;
            }
        }
    }

    /// Reads once, and writes what was read as far as that goes.
    fn read<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        count: &AtomicU64,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut *reader).poll_read(context, &mut buffer) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    self.pending = Vec::new();
                    self.at = 0;
                    return Poll::Pending;
                }
            }
            let mut rest = buffer.filled();
            if rest.is_empty() {
                self.state = State::Ended;
                return Poll::Ready(Ok(()));
            }
            self.pending.clear();
            self.at = 0;
            while !rest.is_empty() {
                match Pin::new(&mut *writer).poll_write(context, rest) {
                    Poll::Ready(written) => {
                        let written = written_some(written?)?;
                        count.fetch_add(written as u64, Ordering::Relaxed);
                        rest = rest.get(written..).unwrap_or_default();
                    }
                    Poll::Pending => {
                        self.pending.extend_from_slice(rest);
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }
}

fn written_some(written: usize) -> io::Result<usize> {
    if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
}

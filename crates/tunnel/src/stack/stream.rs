//! A TCP stream through a tunnel.

use super::{BUFFER, Stack};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{RecvError, Socket, State};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A reader that takes from a buffer this full tells the other end of the room that it made, in bytes.
const TELL: usize = BUFFER / 4;

/// A TCP stream with another node, through a tunnel. Shutting it down closes one direction, as with TCP elsewhere. What was
/// written before it is dropped is still sent, unless there is something that wasn't read: then it is reset.
pub struct Stream {
    stack: Arc<Stack>,
    handle: SocketHandle,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) const fn new(stack: Arc<Stack>, handle: SocketHandle) -> Self {
        Self { stack, handle }
    }

    /// Breaks it off: the other end sees a reset, not an end. What was written and isn't sent yet is lost.
    pub fn reset(&self) {
        self.with(Socket::abort);
        self.stack.wake.notify_one();
    }

    fn with<R>(&self, work: impl FnOnce(&mut Socket<'static>) -> R) -> R {
        work(self.stack.inner().sockets.get_mut::<Socket<'static>>(self.handle))
    }

    /// Waits until the other end has accepted, and says whether it has. Without a bound of its own.
    pub(crate) async fn connected(&self) -> bool {
        std::future::poll_fn(|cx| {
            self.with(|socket| match socket.state() {
                State::SynSent | State::SynReceived => {
                    socket.register_send_waker(cx.waker());
                    socket.register_recv_waker(cx.waker());
                    Poll::Pending
                }
                state => Poll::Ready(state != State::Closed),
            })
        })
        .await
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (poll, tell) = self.with(|socket| {
            let waiting = socket.recv_queue();
            let read = socket.recv(|bytes| {
                let taken = bytes.len().min(buffer.remaining());
                buffer.put_slice(bytes.get(..taken).unwrap_or_default());
                (taken, taken)
            });
            match read {
                Ok(0) if buffer.remaining() > 0 => {
                    socket.register_recv_waker(cx.waker());
                    (Poll::Pending, false)
                }
                Ok(_) => (Poll::Ready(Ok(())), waiting >= TELL),
                Err(RecvError::Finished) => (Poll::Ready(Ok(())), false),
                Err(RecvError::InvalidState) => (Poll::Ready(Err(reset())), false),
            }
        });
        if tell {
            self.stack.wake.notify_one();
        }
        poll
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = self.with(|socket| {
            if !socket.may_send() {
                let closed = matches!(socket.state(), State::Closed);
                return Poll::Ready(Err(if closed { reset() } else { io::ErrorKind::BrokenPipe.into() }));
            }
            match socket.send_slice(bytes) {
                Ok(0) if !bytes.is_empty() => {
                    socket.register_send_waker(cx.waker());
                    Poll::Pending
                }
                Ok(sent) => Poll::Ready(Ok(sent)),
                Err(_) => Poll::Ready(Err(reset())),
            }
        });
        if poll.is_ready() {
            self.stack.wake.notify_one();
        }
        poll
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(Socket::close);
        self.stack.wake.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.stack.inner();
        if let Some(flow) = inner.flows.get_mut(&self.handle) {
            flow.dropped = Some(Instant::now());
        }
        let socket = inner.sockets.get_mut::<Socket<'_>>(self.handle);
        if socket.can_recv() {
            socket.abort();
        } else {
            socket.close();
        }
        drop(inner);
        self.stack.wake.notify_one();
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

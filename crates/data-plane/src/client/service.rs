//! A connection to a service through the data plane's socket.

use async_net::unix::UnixStream;
use futures_lite::{AsyncRead, AsyncWrite};
use orchestrator::network::plane::Way;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A connection to a service, and where it went.
#[derive(Debug)]
pub struct Connected {
    /// The instance that took it.
    pub instance: String,
    /// Its node; `None` where the data plane is of a release that doesn't say so.
    pub node: Option<String>,
    /// The way to its node; `None` if it is on this one.
    pub way: Option<Way>,
    /// The connection.
    pub stream: ServiceStream,
}

/// The bytes of a connection to a service. Closing it ends this side's part only.
#[derive(Debug)]
pub struct ServiceStream {
    stream: UnixStream,
    /// What came behind the answer, from `at` on.
    first: Vec<u8>,
    at: usize,
}

impl ServiceStream {
    pub(super) fn new(stream: UnixStream, first: Vec<u8>) -> Self {
        Self { stream, first, at: 0 }
    }
}

impl AsyncRead for ServiceStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let rest = self.first.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = rest.len().min(buf.len());
        for (to, from) in buf.iter_mut().zip(rest) {
            *to = *from;
        }
        self.at += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for ServiceStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

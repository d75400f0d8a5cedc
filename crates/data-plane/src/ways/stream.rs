//! A connection to a backend, whichever way it goes.

use crate::link::mux;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection to a backend.
#[derive(Debug)]
pub(crate) enum Stream {
    /// To the instance itself.
    Tcp(TcpStream),
    /// To the data plane beside it.
    Link(mux::Stream),
    /// To the same, through a tunnel.
    Tunnel(tunnel::Stream),
}

/// Ends in a way that the other end can tell from the end of what was to be said.
pub(crate) trait Reset {
    /// What is done before it is dropped.
    fn reset(&self);
}

impl Reset for TcpStream {
    fn reset(&self) {
        // Fails only on a connection that is over.
        let _ = self.set_zero_linger();
    }
}

impl Reset for mux::Stream {
    /// One that is dropped before it was shut down is reset.
    fn reset(&self) {}
}

impl Reset for tunnel::Stream {
    fn reset(&self) {
        Self::reset(self);
    }
}

impl Reset for BufReader<UnixStream> {
    /// A Unix socket has nothing of the kind.
    fn reset(&self) {}
}

impl Reset for Stream {
    fn reset(&self) {
        match self {
            Self::Tcp(stream) => stream.reset(),
            Self::Link(stream) => stream.reset(),
            Self::Tunnel(stream) => Reset::reset(stream),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Link(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tunnel(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Link(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tunnel(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Link(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tunnel(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Link(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tunnel(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

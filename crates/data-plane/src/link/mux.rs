//! Streams within a link.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};
use tokio_util::sync::CancellationToken;
use yamux::{Config, Connection, ConnectionError, Mode};

/// Streams of one link that are open at the same time, in each direction.
pub(crate) const STREAMS: usize = 1024;
/// What the multiplexer itself allows: one that was given up here may still be there for a moment.
const STREAMS_AT_MOST: usize = 3 * STREAMS;
/// What all streams of a link may hold for readers that don't read. Each has 256 KiB, and more while it is read fast.
const WINDOWS: usize = (STREAMS_AT_MOST * 256 + 256 * 1024) * 1024;
/// Requests for streams that wait for the link.
const REQUESTS: usize = 64;

/// A link that stands.
#[derive(Debug)]
pub(crate) struct Link {
    /// The node at the other end.
    pub(crate) node: String,
    /// Cancelled when a newer link has taken its place.
    pub(crate) replaced: CancellationToken,
    requests: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
    streams: Arc<Semaphore>,
    broken: Arc<AtomicBool>,
}

/// What [`drive`] opens streams for.
pub(crate) type Requests = mpsc::Receiver<oneshot::Sender<yamux::Stream>>;

impl Link {
    pub(crate) fn new(node: String) -> (Arc<Self>, Requests) {
        let (requests, received) = mpsc::channel(REQUESTS);
        let link = Self {
            node,
            replaced: CancellationToken::new(),
            requests,
            streams: Arc::new(Semaphore::new(STREAMS)),
            broken: Arc::default(),
        };
        (Arc::new(link), received)
    }

    /// Opens a stream. The caller bounds the wait.
    ///
    /// # Errors
    ///
    /// The link is broken, or has all the streams that it may have.
    pub(crate) async fn open(&self) -> io::Result<Stream> {
        let over = || io::Error::new(io::ErrorKind::ConnectionReset, "the link is broken");
        let permit = self.streams.clone().try_acquire_owned();
        let permit = permit.map_err(|_| io::Error::other(format!("{STREAMS} connections share the link")))?;
        let (answer, stream) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| over())?;
        let stream = stream.await.map_err(|_| over())?;
        Ok(self.wrap(stream, Some(permit)))
    }

    /// A stream that the other end opened.
    pub(crate) fn came(&self, stream: yamux::Stream) -> Stream {
        self.wrap(stream, None)
    }

    /// Whatever is read from its streams from now on is broken off, not ended.
    pub(crate) fn set_broken(&self) {
        self.broken.store(true, Relaxed);
    }

    fn wrap(&self, stream: yamux::Stream, permit: Option<OwnedSemaphorePermit>) -> Stream {
        Stream { inner: stream.compat(), shut: false, broken: self.broken.clone(), _permit: permit }
    }
}

/// A stream within a link.
#[derive(Debug)]
pub(crate) struct Stream {
    inner: Compat<yamux::Stream>,
    /// Whether this end was shut down.
    shut: bool,
    broken: Arc<AtomicBool>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if matches!(polled, Poll::Ready(Ok(()))) && buf.filled().len() == before && buf.remaining() > 0 {
            // The multiplexer tells a reset as an end. A stream that this end didn't shut down is closed by a reset only.
            let reset = !self.shut && self.inner.get_ref().is_closed();
            if reset || self.broken.load(Relaxed) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    /// What was written is on its way: the link needs no asking.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.shut = true;
        }
        polled
    }
}

/// The multiplexer over a stream of bytes. Whoever made the link is the client.
pub(crate) fn over<T>(stream: T, made: bool) -> Connection<Compat<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut config = Config::default();
    // In this order: each checks itself against the other.
    config.set_max_connection_receive_window(None);
    config.set_max_num_streams(STREAMS_AT_MOST);
    config.set_max_connection_receive_window(Some(WINDOWS));
    Connection::new(stream.compat(), config, if made { Mode::Client } else { Mode::Server })
}

/// Moves the link's bytes and opens streams that are asked for, until the next stream comes from the other end.
/// `None` at the link's end.
pub(crate) async fn drive<T>(
    connection: &mut Connection<Compat<T>>,
    requests: &mut Requests,
    waiting: &mut Option<oneshot::Sender<yamux::Stream>>,
) -> Option<Result<yamux::Stream, ConnectionError>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| {
        loop {
            if waiting.is_none()
                && let Poll::Ready(Some(request)) = requests.poll_recv(cx)
            {
                *waiting = Some(request);
            }
            if waiting.is_some()
                && let Poll::Ready(opened) = connection.poll_new_outbound(cx)
            {
                match (opened, waiting.take()) {
                    (Ok(stream), Some(answer)) => {
                        // Whoever asked may have given up: the stream is closed as it is dropped.
                        let _ = answer.send(stream);
                        continue;
                    }
                    (Err(error), _) => return Poll::Ready(Some(Err(error))),
                    (Ok(_), None) => {}
                }
            }
            return connection.poll_next_inbound(cx);
        }
    })
    .await
}

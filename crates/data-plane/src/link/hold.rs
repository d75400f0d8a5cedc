//! Holds a link while it stands, from either end.

use super::mux::{self, Link};
use super::{Side, control};
use crate::plane::Plane;
use crate::ways::export;
use crate::ways::hello::Hello;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often the other end is asked whether it is there.
pub(crate) const PING: Duration = Duration::from_secs(5);
/// After how long without a byte from it the link is dead: three questions without an answer.
const SILENCE: Duration = Duration::from_secs(15);

/// Holds a link to `node` over `stream` until it ends. `lives` is called once the other end has shown itself.
/// Returns why it ended, for people.
pub(crate) async fn hold<T>(
    plane: &Arc<Plane>,
    node: &str,
    stream: T,
    side: Side,
    lives: impl FnOnce(),
) -> String
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (link, mut requests) = Link::new(node.to_owned());
    let heard = Arc::new(AtomicU64::new(0));
    let heard_stream = Heard { inner: stream, start: Instant::now(), last: heard.clone() };
    let start = heard_stream.start;
    let mut connection = mux::over(heard_stream, side == Side::Made);
    let _standing = Standing { plane, side, link: &link };
    if side == Side::Came {
        plane.links.add(side, &link);
        plane.link_stands(node, None);
    }
    let carried = async {
        let limit = Arc::new(Semaphore::new(mux::STREAMS));
        let mut streams = JoinSet::new();
        let mut waiting = None;
        loop {
            let came = mux::drive(&mut connection, &mut requests, &mut waiting).await;
            while streams.try_join_next().is_some() {}
            match came {
                // Above the limit the stream is dropped, which resets it.
                Some(Ok(stream)) => {
                    let Ok(permit) = limit.clone().try_acquire_owned() else { continue };
                    let (plane, stream, node) = (plane.clone(), link.came(stream), node.to_owned());
                    streams.spawn(async move {
                        answer(plane, stream, node, side).await;
                        drop(permit);
                    });
                }
                Some(Err(error)) => return format!("the link broke: {error}"),
                None => return "the link was closed".to_owned(),
            }
        }
    };
    let steered = async {
        match side {
            Side::Made => control::near(plane, &link, lives).await,
            Side::Came => std::future::pending().await,
        }
    };
    tokio::select! {
        why = carried => why,
        why = steered => why,
        () = silence(start, &heard) => format!("nothing came for {} s", SILENCE.as_secs()),
        () = link.replaced.cancelled() => format!("{node} has made another link"),
    }
}

/// Takes the link out of those that stand as it ends, however it does.
struct Standing<'a> {
    plane: &'a Plane,
    side: Side,
    link: &'a Arc<Link>,
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.link.set_broken();
        self.plane.links.remove(self.side, self.link);
        self.plane.changed();
    }
}

async fn answer(plane: Arc<Plane>, mut stream: mux::Stream, from: String, side: Side) {
    let asked = match export::asked(&mut stream).await {
        Ok(asked) => asked,
        Err(error) => {
            tracing::debug!(from, %error, "a stream didn't say what it is for");
            return;
        }
    };
    match (asked, side) {
        (Hello::Export { node, export }, _) => export::serve(plane, stream, node, export).await,
        (Hello::Ping, _) => {
            let _ = echo(stream).await;
        }
        (Hello::Control, Side::Came) => control::far(&plane, stream).await,
        (Hello::Control, Side::Made) => tracing::warn!(from, "a node wanted to steer this one: refused"),
    }
}

/// Sends back what comes, eight bytes at a time.
async fn echo(mut stream: mux::Stream) -> io::Result<()> {
    loop {
        let ping = stream.read_u64().await?;
        stream.write_u64(ping).await?;
    }
}

/// Ends once nothing was heard for too long.
async fn silence(start: Instant, heard: &AtomicU64) {
    loop {
        let last = start + Duration::from_millis(heard.load(Relaxed));
        if last.elapsed() >= SILENCE {
            return;
        }
        tokio::time::sleep_until(last + SILENCE).await;
    }
}

/// A stream that notes when something came.
#[derive(Debug)]
struct Heard<T> {
    inner: T,
    start: Instant,
    /// Milliseconds since the start.
    last: Arc<AtomicU64>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Heard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_ready() {
            let since = self.start.elapsed().as_millis();
            self.last.store(u64::try_from(since).unwrap_or(u64::MAX), Relaxed);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Heard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

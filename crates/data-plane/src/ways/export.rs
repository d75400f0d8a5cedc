//! The far end: connects those who come by a stream with what they asked for.

use crate::forward::copy::both_ways;
use crate::plane::Plane;
use crate::ways::hello::{self, Answer, Hello};
use crate::ways::stream::{Reset, Stream};
use crate::ways::{LOCAL, connect};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

/// An export that every node has: what is sent there is thrown away and counted. Those of instances have a colon.
pub(crate) const DISCARD: &str = "discard";

/// How much is thrown away at once.
const BLOCK: usize = 64 * 1024;

/// How long it is taken at most.
const LONGEST: Duration = Duration::from_secs(60);

/// How long a relay may take to reach the node: less than who asked waits.
const RELAY: Duration = Duration::from_millis(2500);

/// Serves one stream that asked for an export of this node, or of one that there is a link to.
pub(crate) async fn serve<S>(plane: Arc<Plane>, mut stream: S, node: String, export: String)
where
    S: AsyncRead + AsyncWrite + Unpin + Reset,
{
    let Ok(_permit) = plane.connections.clone().try_acquire_owned() else {
        let _ = hello::write(&mut stream, &Answer::way("too many connections")).await;
        return;
    };
    if export == DISCARD && node == plane.node {
        discard(stream).await;
        return;
    }
    let (answer, far) = match open(&plane, node, export).await {
        Ok(far) => (Answer::Ok, Some(far)),
        Err(answer) => (answer, None),
    };
    let told = hello::write(&mut stream, &answer).await;
    let Some(mut far) = far else {
        // Shut down, or the answer would be lost with the stream.
        let _ = stream.shutdown().await;
        return;
    };
    let uncounted = AtomicU64::default();
    if told.is_err() || both_ways(&mut stream, &mut far, &uncounted, &uncounted).await.is_err() {
        stream.reset();
        far.reset();
    }
}

/// Throws away what comes, and says how much it was.
async fn discard(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let counted = async {
        hello::write(&mut stream, &Answer::Ok).await?;
        let (mut bytes, mut block) = (0_u64, vec![0; BLOCK]);
        loop {
            let count = stream.read(&mut block).await?;
            if count == 0 {
                break;
            }
            bytes = bytes.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        }
        stream.write_all(format!("{bytes}\n").as_bytes()).await?;
        stream.shutdown().await
    };
    // Who sends sees that no number comes.
    let _ = timeout(LONGEST, counted).await;
}

async fn open(plane: &Plane, node: String, export: String) -> Result<Stream, Answer> {
    if node == plane.node {
        let deadline = Instant::now() + LOCAL;
        let address = address(plane, &export, deadline)
            .await
            .ok_or_else(|| Answer::instance(&format!("{} has no {export}", plane.node)))?;
        let left = deadline.saturating_duration_since(Instant::now());
        return connect(address, left).await.map(Stream::Tcp).map_err(|e| Answer::instance(&e.to_string()));
    }
    // Only by its own link, never by another relay: nothing goes round in circles.
    let link = plane.links.to(&node);
    let link = link.ok_or_else(|| Answer::way(&format!("{} has no link to {node}", plane.node)))?;
    let asked = timeout(RELAY, async {
        let mut stream = link.open().await?;
        let answer = hello::ask(&mut stream, &node, &export).await?;
        io::Result::Ok((stream, answer))
    });
    match asked.await {
        Ok(Ok((stream, Answer::Ok))) => Ok(Stream::Link(stream)),
        Ok(Ok((_, answer))) => Err(answer),
        Ok(Err(error)) => Err(Answer::way(&format!("the link from {} to {node}: {error}", plane.node))),
        Err(_) => Err(Answer::way(&format!("{node} doesn't answer {}", plane.node))),
    }
}

/// Where the export listens. Tables reach nodes one after the other: who asks may have one that isn't here yet.
async fn address(plane: &Plane, export: &str, deadline: Instant) -> Option<SocketAddr> {
    let mut tables = plane.table.subscribe();
    loop {
        if let Some(address) = tables.borrow_and_update().exports.get(export) {
            return Some(*address);
        }
        timeout_at(deadline, tables.changed()).await.ok()?.ok()?;
    }
}

/// What a stream that came is for.
///
/// # Errors
///
/// It doesn't say so in time.
pub(crate) async fn asked(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Hello> {
    const PATIENCE: Duration = Duration::from_secs(10);
    timeout(PATIENCE, hello::read(stream)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

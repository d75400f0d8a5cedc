//! The near side: what is missing there is read, packed and sent.

use super::packed::{Packed, Packer};
use super::wire::{Opened, PUT};
use super::{Received, Scan, ScanError, Source, scan};
use crate::client::{Client, ClientError};
use crate::wire::code;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// The time in which a machine must have looked at what it has, or have brought everything to its place.
const LOOK: Duration = Duration::from_secs(600);
/// Times that something that changed or was damaged meanwhile is tried.
const TRIES: u32 = 3;
/// Bytes that are read and packed at a time, before they are.
const BATCH: usize = 1 << 20;

/// Why files didn't get there.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// They can't be read here.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The machine refuses, or the way to it broke.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl PushError {
    /// Whether the way broke: over another connection it goes on where it was.
    pub fn is_of_the_way(&self) -> bool {
        match self {
            Self::Client(ClientError::Closed { .. } | ClientError::TimedOut { .. }) => true,
            // The other end gave the stream up: its sender fell silent, also because the way was cut.
            Self::Client(error) => error.rpc().is_some_and(|rpc| rpc.code == code::STREAM_BROKEN),
            Self::Scan(_) => false,
        }
    }

    /// Whether the same again may help: something was damaged, or changed meanwhile.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Scan(error) => matches!(error, ScanError::Changed { .. }),
            Self::Client(error) => {
                error.rpc().and_then(|rpc| rpc.data.as_ref()?.get("again")?.as_bool()) == Some(true)
            }
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that went over the wire.
    pub sent: u64,
    /// Files that are new there or have another content.
    pub written: usize,
    /// Files and links that were put before and are gone.
    pub removed: usize,
}

/// Brings files to a machine whose agent was claimed with the id `steered_by`, and waits until they are in their places. `progress` is told how far it is: bytes that were
/// sent, bytes to send.
///
/// # Errors
///
/// What can't be read here, what the machine refuses, and that the way broke; what has come there is kept.
pub async fn push(
    client: &Client,
    steered_by: &str,
    owner: &str,
    sources: &[Source],
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<Pushed, PushError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match once(client, steered_by, owner, sources.to_vec(), progress).await {
            Err(error) if error.may_pass() && tries < TRIES => {}
            other => return other,
        }
    }
}

async fn once(
    client: &Client,
    steered_by: &str,
    owner: &str,
    sources: Vec<Source>,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<Pushed, PushError> {
    let owner = owner.to_owned();
    let found = blocking::unblock(move || scan(&owner, &sources)).await?;
    push_scanned(client, &Arc::new(found.steered_by(steered_by)), progress).await
}

/// The same with what was scanned before, for several machines; tried once.
///
/// # Errors
///
/// As [`push`].
pub async fn push_scanned(
    client: &Client,
    found: &Arc<Scan>,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<Pushed, PushError> {
    let (opened, mut stream): (Opened, _) = client.open_stream(PUT, &found.params, LOOK).await?;
    let total = found.size_of(&opened.missing);
    let mut batches = batches(found, &opened.missing).into_iter();
    let (mut sent, mut done) = (0, 0);
    let mut next = batches.next().map(|batch| pack(found, batch));
    if total > 0 {
        progress(0, total);
    }
    while let Some(batch) = next.take() {
        let (bytes, of) = batch.await?;
        // Read and packed while this is on its way.
        next = batches.next().map(|batch| pack(found, batch));
        stream.send(&bytes).await?;
        sent += u64::try_from(bytes.len()).unwrap_or_default();
        done += of;
        progress(done, total);
    }
    let Received { written, removed, .. } = stream.finish(LOOK).await?;
    Ok(Pushed { bytes: found.bytes, sent, written, removed })
}

/// The chunks to send, in their order, as many together as are read at a time.
fn batches(found: &Scan, missing: &[u32]) -> Vec<Vec<u32>> {
    let (mut all, mut now, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut seen = HashSet::new();
    for index in missing.iter().filter(|index| seen.insert(**index)) {
        now.push(*index);
        let chunk = found.params.chunks.get(usize::try_from(*index).unwrap_or(usize::MAX));
        bytes += chunk.map_or(0, |chunk| usize::try_from(chunk.1).unwrap_or_default());
        if bytes >= BATCH {
            all.push(std::mem::take(&mut now));
            bytes = 0;
        }
    }
    all.extend(Some(now).filter(|rest| !rest.is_empty()));
    all
}

type Batch = Result<(Vec<u8>, u64), ScanError>;

/// Begins to read and pack chunks: what goes over the wire, and how many bytes that stands for.
fn pack(found: &Arc<Scan>, batch: Vec<u32>) -> impl Future<Output = Batch> + Send + use<> {
    let found = Arc::clone(found);
    blocking::unblock(move || {
        let (mut bytes, mut of) = (Vec::with_capacity(BATCH + BATCH / 4), 0);
        let mut packer = Packer::new(&found);
        for index in batch {
            let Packed { payload, size } = packer.pack(index)?;
            bytes.extend(index.to_be_bytes());
            bytes.extend(u32::try_from(payload.len()).unwrap_or_default().to_be_bytes());
            bytes.extend_from_slice(&payload);
            of += u64::try_from(size).unwrap_or_default();
        }
        Ok((bytes, of))
    })
}

//! Chunks as they go over the wire: read, hashed and packed.

use super::{Scan, ScanError};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zstd::bulk::Compressor;

/// zstd's level: fast.
const LEVEL: i32 = 3;
/// Bytes of packed chunks that are kept for other machines. Those that get the same at the same time aren't far apart.
const KEPT: usize = 32 << 20;

/// A chunk on its way.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    /// A frame of zstd, or the chunk itself where that is no shorter.
    pub(super) payload: Arc<[u8]>,
    /// Bytes of the chunk.
    pub(super) size: usize,
}

/// A chunk that is packed or will be: whoever comes second waits for the first.
type Slot = Arc<Mutex<Option<Packed>>>;

/// What was packed for one machine and may be wanted for others in a moment.
#[derive(Default)]
pub(super) struct Kept(Mutex<State>);

#[derive(Default)]
struct State {
    slots: VecDeque<(u32, Slot)>,
    /// Bytes in all slots, and one for each.
    bytes: usize,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    fn slot(&self, index: u32) -> Slot {
        let mut state = lock(&self.0);
        // The newest ones are asked for most.
        if let Some((_, slot)) = state.slots.iter().rev().find(|(at, _)| *at == index) {
            return Arc::clone(slot);
        }
        let slot = Slot::default();
        state.slots.push_back((index, Arc::clone(&slot)));
        slot
    }

    /// Counts what came into a slot; the oldest go where it is too much.
    fn count(&self, bytes: usize) {
        let mut state = lock(&self.0);
        state.bytes += bytes;
        while state.bytes > KEPT {
            let Some((_, oldest)) = state.slots.pop_front() else { break };
            // One that is being packed just now isn't counted yet, and kept by whoever does it.
            let freed =
                oldest.try_lock().ok().and_then(|slot| slot.as_ref().map(|packed| packed.payload.len()));
            state.bytes = state.bytes.saturating_sub(freed.unwrap_or_default());
        }
    }
}

/// Packs chunks of a scan, one after the other.
pub(super) struct Packer<'a> {
    scan: &'a Scan,
    compressor: Option<Compressor<'static>>,
}

impl<'a> Packer<'a> {
    pub(super) fn new(scan: &'a Scan) -> Self {
        Self { scan, compressor: Compressor::new(LEVEL).ok() }
    }

    /// A chunk as it goes over the wire.
    ///
    /// # Errors
    ///
    /// As [`Scan::chunk`].
    pub(super) fn pack(&mut self, index: u32) -> Result<Packed, ScanError> {
        let Some(kept) = &self.scan.kept else { return self.fresh(index) };
        let slot = kept.slot(index);
        let mut slot = lock(&slot);
        if let Some(packed) = &*slot {
            return Ok(packed.clone());
        }
        let packed = self.fresh(index)?;
        *slot = Some(packed.clone());
        drop(slot);
        kept.count(packed.payload.len());
        Ok(packed)
    }

    fn fresh(&mut self, index: u32) -> Result<Packed, ScanError> {
        let chunk = self.scan.chunk(index)?;
        let size = chunk.len();
        let packed = self.compressor.as_mut().and_then(|compressor| compressor.compress(&chunk).ok());
        let payload = packed.filter(|packed| packed.len() < size).unwrap_or(chunk);
        Ok(Packed { payload: payload.into(), size })
    }
}

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
    /// Each with the chunk's number, and the bytes in it once they are counted.
    slots: VecDeque<(u32, Slot, usize)>,
    /// Bytes in all slots that are counted.
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
        if let Some((_, slot, _)) = state.slots.iter().rev().find(|(at, ..)| *at == index) {
            return Arc::clone(slot);
        }
        let slot = Slot::default();
        state.slots.push_back((index, Arc::clone(&slot), 0));
        slot
    }

    /// Counts what came into a slot, unless it was thrown out meanwhile; the oldest go where it is too much.
    fn count(&self, slot: &Slot, bytes: usize) {
        let mut state = lock(&self.0);
        let mut newest_first = state.slots.iter_mut().rev();
        let Some((_, _, counted)) = newest_first.find(|(_, kept, _)| Arc::ptr_eq(kept, slot)) else { return };
        *counted = bytes;
        state.bytes += bytes;
        while state.bytes > KEPT {
            // One that is being packed just now isn't counted, and kept by whoever does it.
            let Some((_, _, counted)) = state.slots.pop_front() else { break };
            state.bytes -= counted;
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
        let mut content = lock(&slot);
        if let Some(packed) = &*content {
            return Ok(packed.clone());
        }
        let packed = self.fresh(index)?;
        *content = Some(packed.clone());
        drop(content);
        kept.count(&slot, packed.payload.len());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_thrown_out_isnt_counted() {
        let kept = Kept::default();
        let bytes = || lock(&kept.0).bytes;
        // The first is being packed for so long that those after it are too much.
        let slow = kept.slot(0);
        kept.count(&kept.slot(1), KEPT);
        kept.count(&kept.slot(2), 5);
        assert_eq!(bytes(), 5);
        kept.count(&slow, 7);
        assert_eq!(bytes(), 5);
        // Who wants it again has it packed again.
        let again = kept.slot(0);
        assert!(!Arc::ptr_eq(&slow, &again));
        kept.count(&again, 7);
        assert_eq!(bytes(), 12);
    }
}

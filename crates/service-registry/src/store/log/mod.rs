//! The log before the table: what was committed, in the order in which it was, in two files that take turns.
//!
//! A commit is one write and one sync at the end of the segment that is being filled. A full one is handed to the
//! checkpoint, which brings its updates into the table and gives it back, to be filled again. The table notes in the same
//! transaction up to which generation it has them; what the segments hold of later ones is read again at the next start.

mod record;
#[cfg(test)]
mod tests;

use self::record::{Extent, Stamp, Unreadable};
use super::{Slot, Snapshot, StoreError};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes after which a segment is full. A small one is soon filled for the second time, in place, which syncs faster than
/// growing; and a checkpoint holds all of it in memory.
pub(super) const FULL: u64 = 512 << 10;
/// Bytes up to which a full one is filled further while the other is still being brought into the table.
pub(super) const LIMIT: u64 = 16 * FULL;

/// Updates that are read back, the last of each slot.
pub(super) type Updates<'a> = BTreeMap<(&'a str, &'a str), Option<&'a [u8]>>;

/// One of the two files.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    path: PathBuf,
    store: u64,
    /// Of its records.
    generation: u64,
    /// How many these are.
    records: u64,
    /// Where the next goes.
    end: u64,
    /// Bytes of the file that may hold anything.
    length: u64,
}

/// Both, as they were found.
pub(super) struct Segments {
    /// Filled further.
    pub(super) active: Segment,
    /// Older than it.
    pub(super) other: Segment,
    /// A later generation than any that was seen.
    pub(super) next: u64,
}

/// Opens the segments beside the table's file, or makes them with mode 0600.
pub(super) fn open(table: &Path, store: u64, applied: u64) -> Result<Segments, StoreError> {
    let failed =
        |path: &Path, source: io::Error| StoreError::Open { path: path.to_owned(), source: Arc::new(source) };
    // A link to the table leads to the log as well.
    let table = table.canonicalize().map_err(|source| failed(table, source))?;
    let mut fresh = false;
    let mut open = |number: u8| {
        let mut name = table.file_name().unwrap_or_default().to_owned();
        name.push(format!("-log-{number}"));
        let path = table.with_file_name(name);
        fresh |= !path.exists();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(|source| failed(&path, source))?;
        let length = file.metadata().map_err(|source| failed(&path, source))?.len();
        let mut segment = Segment { file, path, store, generation: 0, records: 0, end: 0, length };
        segment.measure(applied)?;
        Ok(segment)
    };
    let (first, second) = (open(0)?, open(1)?);
    if fresh {
        super::table::sync_folder(&table).map_err(|source| failed(&table, source))?;
    }
    let next = applied.max(first.generation).max(second.generation) + 1;
    let (active, other) =
        if second.generation > first.generation { (second, first) } else { (first, second) };
    Ok(Segments { active, other, next })
}

impl Segment {
    /// Its file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing of it counts.
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Which filling of it this is.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes of its records.
    pub(super) fn size(&self) -> u64 {
        self.end
    }

    /// Finds out what it holds.
    fn measure(&mut self, applied: u64) -> Result<(), StoreError> {
        let bytes = self.bytes(self.length)?;
        let Extent { generation, records, end } = record::extent(&bytes, self.store, applied)
            .map_err(|problem| unreadable(&self.path, &problem))?;
        (self.generation, self.records) = (generation, records);
        self.end = u64::try_from(end).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Begins it anew, with another generation. What it held must be in the table.
    pub(super) fn begin(&mut self, generation: u64) {
        (self.generation, self.records, self.end) = (generation, 0, 0);
        if self.length > FULL * 2 && self.file.set_len(FULL).is_ok() {
            self.length = FULL;
        }
    }

    /// Writes a record and syncs it. `Err`: nothing was added, though it may be found after a crash.
    pub(super) fn append(
        &mut self,
        updates: &BTreeMap<Slot, Option<Vec<u8>>>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        buffer.clear();
        let stamp = Stamp { store: self.store, generation: self.generation, number: self.records };
        record::encode(buffer, stamp, updates);
        let written = self.file.write_all_at(buffer, self.end).and_then(|()| self.file.sync_data());
        let size = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        if let Err(error) = written {
            // A part of it may have taken the last bytes of a disk that is full. Err: they are written over.
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.end += size;
        self.records += 1;
        self.length = self.length.max(self.end);
        Ok(())
    }

    /// Its records.
    pub(super) fn content(&self) -> Result<Content, StoreError> {
        Ok(Content { bytes: self.bytes(self.end)?, store: self.store, path: self.path.clone() })
    }

    fn bytes(&self, length: u64) -> Result<Vec<u8>, StoreError> {
        let failed = |source| StoreError::Load { path: self.path.clone(), source: Arc::new(source) };
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        Ok(bytes)
    }

    /// Gives its space back. What it held must be in the table.
    pub(super) fn clear(&self) {
        // Err: what is left doesn't count any more
        let _ = self.file.set_len(0);
    }
}

/// A copy of the records of a segment.
pub(super) struct Content {
    bytes: Vec<u8>,
    store: u64,
    path: PathBuf,
}

impl Content {
    /// Their updates.
    pub(super) fn updates(&self) -> Result<Updates<'_>, StoreError> {
        let mut last = Updates::new();
        let take = |(namespace, key, value)| {
            last.insert((namespace, key), value);
        };
        record::each_update(&self.bytes, self.store, take)
            .map_err(|problem| unreadable(&self.path, &problem))?;
        Ok(last)
    }
}

fn unreadable(path: &Path, problem: &Unreadable) -> StoreError {
    let path = path.to_owned();
    match problem {
        Unreadable::Newer(found) => {
            StoreError::Newer { path, found: (*found).into(), known: record::FORMAT.into() }
        }
        Unreadable::Damaged(problem) => StoreError::Damaged { path, problem: (*problem).to_owned() },
    }
}

/// Carries updates out on what was loaded.
pub(super) fn apply(snapshot: &mut Snapshot, updates: Updates<'_>) {
    for ((namespace, key), value) in updates {
        match value {
            Some(value) => {
                snapshot.entry(namespace.to_owned()).or_default().insert(key.to_owned(), value.to_vec());
            }
            None => {
                if let Some(keys) = snapshot.get_mut(namespace) {
                    keys.remove(key);
                    if keys.is_empty() {
                        snapshot.remove(namespace);
                    }
                }
            }
        }
    }
}

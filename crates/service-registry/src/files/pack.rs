//! Chunks that have come and have no place yet: a file of records, each a digest, a length (u32, big-endian) and the bytes.
//!
//! A pack outlives its writer. What is in it is hashed when it is opened again; from the first record on that isn't whole it is
//! cut off.

use super::super::package::hash::Digest;
use super::chunk::MOST;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Bytes before those of a chunk.
const HEAD: usize = 64 + 4;

/// A pack, open to be added to.
#[derive(Debug)]
pub(super) struct Pack {
    file: File,
    end: u64,
    places: HashMap<Digest, (u64, u32)>,
}

impl Pack {
    /// Opens a pack, or begins one.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut pack = Self { file, end: 0, places: HashMap::new() };
        let mut reader = BufReader::with_capacity(1 << 20, pack.file.try_clone()?);
        let mut bytes = Vec::new();
        loop {
            let mut head = [0; HEAD];
            if reader.read_exact(&mut head).is_err() {
                break;
            }
            let Some((text, size)) = head.split_last_chunk::<4>() else { break };
            let size = u32::from_be_bytes(*size);
            let digest = std::str::from_utf8(text).ok().and_then(|text| text.parse::<Digest>().ok());
            let Some(digest) = digest.filter(|_| usize::try_from(size).is_ok_and(|size| size <= MOST)) else {
                break;
            };
            bytes.resize(usize::try_from(size).unwrap_or_default(), 0);
            if reader.read_exact(&mut bytes).is_err() || Digest::of(&bytes) != digest {
                break;
            }
            pack.places.insert(digest, (pack.end + HEAD as u64, size));
            pack.end += HEAD as u64 + u64::from(size);
        }
        pack.file.set_len(pack.end)?;
        pack.file.seek(SeekFrom::Start(pack.end))?;
        Ok(pack)
    }

    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.places.contains_key(digest)
    }

    /// Adds a chunk whose digest was compared.
    pub(super) fn add(&mut self, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut record = Vec::with_capacity(HEAD + bytes.len());
        record.extend(digest.to_string().as_bytes());
        record.extend(size.to_be_bytes());
        record.extend(bytes);
        self.file.write_all(&record)?;
        self.places.insert(digest, (self.end + HEAD as u64, size));
        self.end += HEAD as u64 + u64::from(size);
        Ok(())
    }

    /// A chunk, as it is on disk now.
    pub(super) fn read(&self, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
        let Some((offset, size)) = self.places.get(digest) else { return Ok(None) };
        let mut bytes = vec![0; usize::try_from(*size).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, *offset)?;
        Ok(Some(bytes).filter(|bytes| Digest::of(bytes) == *digest))
    }
}

//! What of the wanted chunks lies in files that are here already.

use super::super::package::hash::Digest;
use super::chunk;
use super::receive::ReceiveError;
use rustix::fs::OFlags;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A chunk in a file that is here.
#[derive(Debug)]
struct Place {
    file: PathBuf,
    offset: u64,
    size: u32,
}

/// Wanted chunks, and where they lie.
#[derive(Debug, Default)]
pub(super) struct Old(HashMap<Digest, Place>);

impl Old {
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.0.contains_key(digest)
    }

    /// A chunk that is there; the first place counts.
    pub(super) fn note(&mut self, digest: Digest, file: PathBuf, offset: u64, size: u32) {
        self.0.entry(digest).or_insert(Place { file, offset, size });
    }

    /// The chunks of a file, those that are wanted noted; `None` where there is no such file.
    pub(super) fn cut(&mut self, path: &Path, wanted: &HashSet<Digest>) -> Option<Vec<Digest>> {
        let mut file = open(path).ok()?;
        let mut found = Vec::new();
        let read = chunk::chunks(&mut file, &mut |digest, offset, bytes| {
            if wanted.contains(&digest) {
                let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
                self.0.entry(digest).or_insert_with(|| Place { file: path.to_owned(), offset, size });
            }
            found.push(digest);
            Ok(())
        });
        read.ok().map(|()| found)
    }

    /// The same for everything in a folder. What can't be read is missing.
    pub(super) fn cut_all(&mut self, folder: &Path, wanted: &HashSet<Digest>) {
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    Ok(kind) if kind.is_file() => drop(self.cut(&entry.path(), wanted)),
                    _ => {}
                }
            }
        }
    }

    /// A chunk, read and hashed anew; `None` where it never was.
    pub(super) fn read(&self, digest: &Digest) -> Option<Result<Vec<u8>, ReceiveError>> {
        let Place { file, offset, size } = self.0.get(digest)?;
        let mut bytes = vec![0; usize::try_from(*size).unwrap_or_default()];
        let read = open(file).and_then(|file| file.read_exact_at(&mut bytes, *offset));
        if read.is_err() || Digest::of(&bytes) != *digest {
            return Some(Err(ReceiveError::Damaged { path: file.clone() }));
        }
        Some(Ok(bytes))
    }
}

/// A file, and nothing that was put in its place: a link may lead to anywhere, and a pipe would block for ever.
fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

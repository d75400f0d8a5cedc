//! What is to travel, as it is on this machine now.

use super::super::package::hash::Digest;
use super::super::package::name;
use super::Source;
use super::chunk;
use super::wire::{Chunk, Copy, Entry, Kind, PackagePlace, PutParams, refused};
use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Entries that travel together, at most.
const ENTRIES: usize = 100_000;
/// Permission bits that are kept.
const MODE: u32 = 0o777;

/// Why something can't travel.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// It can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It has no place there.
    #[error("{} can't be copied: {why}", path.display())]
    Refused {
        /// What.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// It isn't what it was a moment ago.
    #[error("{} changes while it is copied", path.display())]
    Changed {
        /// What.
        path: PathBuf,
    },
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> ScanError {
    move |source| ScanError::Read { path: path.to_owned(), source }
}

fn refuse(path: &Path, why: impl Into<String>) -> ScanError {
    ScanError::Refused { path: path.to_owned(), why: why.into() }
}

/// What is to travel, and where each chunk of it lies.
#[derive(Clone, Debug)]
pub struct Scan {
    /// What is said of it.
    pub params: PutParams,
    /// Bytes of its files.
    pub bytes: u64,
    files: Vec<PathBuf>,
    /// For each chunk a file and where it begins there.
    places: Vec<(usize, u64)>,
}

/// Reads files and folders: every file is cut and hashed.
///
/// # Errors
///
/// What can't be read or copied.
pub fn scan(owner: &str, sources: &[Source]) -> Result<Scan, ScanError> {
    let params = PutParams { owner: owner.to_owned(), copies: Vec::new(), chunks: Vec::new(), package: None };
    let mut scanner = Scanner {
        scan: Scan { params, bytes: 0, files: Vec::new(), places: Vec::new() },
        known: HashMap::new(),
        count: 0,
    };
    for Source { source, destination } in sources {
        let copy = scanner.copy(source, destination)?;
        scanner.scan.params.copies.push(copy);
    }
    Ok(scanner.scan)
}

impl Scan {
    /// The same as a package that is to be installed.
    pub fn with_package(&self, package: PackagePlace) -> Self {
        let mut scan = self.clone();
        scan.params.package = Some(package);
        scan
    }

    /// Bytes of these chunks.
    pub fn size_of(&self, chunks: &[u32]) -> u64 {
        let size = |index: &u32| {
            let chunk = self.params.chunks.get(usize::try_from(*index).unwrap_or(usize::MAX));
            chunk.map_or(0, |chunk| u64::from(chunk.1))
        };
        chunks.iter().map(size).sum()
    }

    /// Reads a chunk again.
    ///
    /// # Errors
    ///
    /// [`ScanError::Changed`] if it isn't what it was.
    pub fn chunk(&self, index: u32) -> Result<Vec<u8>, ScanError> {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        let (Some(Chunk(digest, size)), Some((file, offset))) =
            (self.params.chunks.get(at), self.places.get(at))
        else {
            return Err(refuse(Path::new(""), format!("there is no chunk {index}")));
        };
        let path = self.files.get(*file).map(PathBuf::as_path).unwrap_or(Path::new(""));
        let opened = open(path)?;
        let mut bytes = vec![0; usize::try_from(*size).unwrap_or_default()];
        match opened.read_exact_at(&mut bytes, *offset) {
            Ok(()) if Digest::of(&bytes) == *digest => Ok(bytes),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(unreadable(path)(error)),
            _ => Err(ScanError::Changed { path: path.to_owned() }),
        }
    }
}

/// A pipe that took the place of a file would block for ever.
fn open(path: &Path) -> Result<File, ScanError> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable(path))
}

struct Scanner {
    scan: Scan,
    known: HashMap<Digest, u32>,
    count: usize,
}

impl Scanner {
    fn copy(&mut self, source: &Path, destination: &Path) -> Result<Copy, ScanError> {
        if let Some(why) = refused(destination) {
            return Err(refuse(destination, why));
        }
        // What is named itself may be a link: it stands for what it leads to.
        let found = fs::metadata(source).map_err(unreadable(source))?;
        if found.is_dir() {
            let mut entries = vec![Entry { path: ".".into(), kind: Kind::Folder { mode: mode(&found) } }];
            self.folder(source, "", &mut entries)?;
            return Ok(Copy { folder: destination.to_owned(), entries });
        }
        if !found.is_file() {
            return Err(refuse(source, "it is neither a file nor a folder"));
        }
        let named_folder = destination.as_os_str().to_string_lossy().ends_with('/');
        let (folder, name) = match destination.file_name() {
            Some(name) if !named_folder => (destination.parent().unwrap_or(Path::new("")), Some(name)),
            _ => (destination, source.file_name()),
        };
        let name = name.and_then(|name| name.to_str()).unwrap_or_default();
        name::path(name.as_bytes()).map_err(|problem| refuse(source, problem.to_string()))?;
        let kind = self.file(source, &found)?;
        Ok(Copy { folder: folder.to_owned(), entries: vec![Entry { path: name.into(), kind }] })
    }

    fn folder(&mut self, folder: &Path, path: &str, entries: &mut Vec<Entry>) -> Result<(), ScanError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable(folder))? {
            names.push(entry.map_err(unreadable(folder))?.file_name());
        }
        names.sort();
        for name in names {
            let here = folder.join(&name);
            let Some(text) = name.to_str() else { return Err(refuse(&here, "its name is not UTF-8")) };
            let there = if path.is_empty() { text.to_owned() } else { format!("{path}/{text}") };
            name::path(there.as_bytes()).map_err(|problem| refuse(&here, problem.to_string()))?;
            self.count += 1;
            if self.count > ENTRIES {
                return Err(refuse(folder, format!("there are more than {ENTRIES} files in it")));
            }
            let found = fs::symlink_metadata(&here).map_err(unreadable(&here))?;
            let kind = if found.is_dir() {
                entries.push(Entry { path: there.clone(), kind: Kind::Folder { mode: mode(&found) } });
                self.folder(&here, &there, entries)?;
                continue;
            } else if found.is_symlink() {
                link(&here, &there)?
            } else if found.is_file() {
                self.file(&here, &found)?
            } else {
                return Err(refuse(&here, "it is a device, a pipe or a socket: keep it out of the folder"));
            };
            entries.push(Entry { path: there, kind });
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, found: &Metadata) -> Result<Kind, ScanError> {
        let file = self.scan.files.len();
        self.scan.files.push(path.to_owned());
        let (mut chunks, mut opened) = (Vec::new(), open(path)?);
        let read = chunk::chunks(&mut opened, &mut |digest, offset, bytes| {
            let next = u32::try_from(self.scan.params.chunks.len()).map_err(io::Error::other)?;
            let index = *self.known.entry(digest).or_insert(next);
            if index == next {
                let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
                self.scan.params.chunks.push(Chunk(digest, size));
                self.scan.places.push((file, offset));
            }
            self.scan.bytes += u64::try_from(bytes.len()).unwrap_or_default();
            chunks.push(index);
            Ok(())
        });
        read.map_err(unreadable(path))?;
        Ok(Kind::File { mode: mode(found), chunks })
    }
}

fn link(here: &Path, there: &str) -> Result<Kind, ScanError> {
    let says = fs::read_link(here).map_err(unreadable(here))?;
    let Some(says) = says.to_str() else { return Err(refuse(here, "what the link says is not UTF-8")) };
    name::link_target(there, says.as_bytes()).map_err(|problem| {
        let out = "only links inside the folder are copied: name what it leads to in `files` too";
        refuse(here, format!("the link to {says}: {problem}; {out}"))
    })?;
    Ok(Kind::Link { says: says.to_owned() })
}

fn mode(found: &Metadata) -> u32 {
    found.permissions().mode() & MODE
}

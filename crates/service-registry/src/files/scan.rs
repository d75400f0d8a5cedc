//! What is to travel, as it is on this machine now.

use super::super::package::hash::Digest;
use super::super::package::name;
use super::Source;
use super::chunk;
use super::packed::Kept;
use super::wire::{Chunk, Copy, Entry, Kind, PackagePlace, PutParams, refused};
use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Entries that travel together, at most.
const ENTRIES: usize = 100_000;
/// Files that are read at once, at most.
const WORKERS: usize = 8;
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
    /// Chunks as they were packed, where they go to several machines.
    pub(super) kept: Option<Arc<Kept>>,
}

/// Reads files and folders: every file is cut and hashed.
///
/// # Errors
///
/// What can't be read or copied.
pub fn scan(owner: &str, sources: &[Source]) -> Result<Scan, ScanError> {
    let (copies, chunks) = Default::default();
    let owner = owner.to_owned();
    let params = PutParams { owner, copies, chunks, package: None, steered_by: None, look: false };
    let mut scanner = Scanner {
        scan: Scan { params, bytes: 0, files: Vec::new(), places: Vec::new(), kept: None },
        entries: Vec::new(),
        count: 0,
    };
    for Source { source, destination } in sources {
        let copy = scanner.copy(source, destination)?;
        scanner.scan.params.copies.push(copy);
    }
    scanner.cut()
}

impl Scan {
    /// The same for several machines: what was read and packed for one of them is kept for a while for the others.
    pub fn for_several(mut self) -> Self {
        self.kept = Some(Arc::default());
        self
    }

    /// The same as a package that is to be installed.
    pub fn with_package(&self, package: PackagePlace) -> Self {
        let mut scan = self.clone();
        scan.params.package = Some(package);
        scan
    }

    /// The same for an agent that was claimed with this id.
    #[must_use]
    pub fn steered_by(mut self, id: &str) -> Self {
        self.params.steered_by = Some(id.to_owned());
        self
    }

    /// The same, only to be told what is missing.
    #[must_use]
    pub fn only_to_look(mut self) -> Self {
        self.params.look = true;
        self
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
    /// Which entry each file is: of which copy, and which of it.
    entries: Vec<(usize, usize)>,
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
        let kind = self.file(source, &found, 0);
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
                self.file(&here, &found, entries.len())
            } else {
                return Err(refuse(&here, "it is a device, a pipe or a socket: keep it out of the folder"));
            };
            entries.push(Entry { path: there, kind });
        }
        Ok(())
    }

    /// Notes a file, which will be the copy's entry of that number. It is read when all are known.
    fn file(&mut self, path: &Path, found: &Metadata, entry: usize) -> Kind {
        self.scan.files.push(path.to_owned());
        self.entries.push((self.scan.params.copies.len(), entry));
        Kind::File { mode: mode(found), chunks: Vec::new() }
    }

    /// Cuts all files, and numbers their chunks in the order of the files.
    fn cut(mut self) -> Result<Scan, ScanError> {
        let scan = &mut self.scan;
        let mut known: HashMap<Digest, u32> = HashMap::new();
        for (file, (cuts, (copy, entry))) in cut_files(&scan.files).into_iter().zip(self.entries).enumerate()
        {
            let mut numbers = Vec::new();
            for Cut { digest, offset, size } in cuts? {
                let next = u32::try_from(scan.params.chunks.len()).unwrap_or(u32::MAX);
                let index = *known.entry(digest).or_insert(next);
                if index == next {
                    scan.params.chunks.push(Chunk(digest, size));
                    scan.places.push((file, offset));
                }
                scan.bytes += u64::from(size);
                numbers.push(index);
            }
            let entry = scan.params.copies.get_mut(copy).and_then(|copy| copy.entries.get_mut(entry));
            if let Some(Entry { kind: Kind::File { chunks, .. }, .. }) = entry {
                *chunks = numbers;
            }
        }
        Ok(self.scan)
    }
}

/// A chunk of a file.
struct Cut {
    digest: Digest,
    offset: u64,
    size: u32,
}

/// The chunks of each file. As many files are read at once as there are processors.
fn cut_files(files: &[PathBuf]) -> Vec<Result<Vec<Cut>, ScanError>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = files.get(at) else { return done };
            done.push((at, cut_file(path)));
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let more = processors.min(WORKERS).min(files.len()).saturating_sub(1);
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (0..more).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for other in others {
            match other.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, cuts)| cuts).collect()
}

fn cut_file(path: &Path) -> Result<Vec<Cut>, ScanError> {
    let (mut cuts, mut opened) = (Vec::new(), open(path)?);
    let read = chunk::chunks(&mut opened, &mut |digest, offset, bytes| {
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        cuts.push(Cut { digest, offset, size });
        Ok(())
    });
    read.map_err(unreadable(path))?;
    Ok(cuts)
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

//! The far side: what is missing, what comes, and how it gets to its place.

use super::super::package::hash::Digest;
use super::beside::Beside;
use super::staged::Staged;
use super::wire::{Chunk, Entry, PutParams};
use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes before those of a chunk on the stream.
const HEAD: usize = 8;

/// Why files aren't in their places. All of what was there is there still, unless a rename failed in the middle.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// What was said can't be, or what came isn't what was said.
    #[error("{0}")]
    Refused(String),
    /// What was read here isn't what it was a moment ago: beginning again asks for it.
    #[error("{} is damaged, or changes while it is read", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Something else is in the place.
    #[error("{} is in the way: {what}", path.display())]
    InTheWay {
        /// The place.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// The system refuses.
    #[error("can't {verb} {}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl ReceiveError {
    /// Whether the same again may help: the one who sends begins anew.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    pub(super) fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::File { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

pub(super) fn failed<E: Into<io::Error>>(verb: &'static str, path: &Path) -> impl FnOnce(E) -> ReceiveError {
    move |source| ReceiveError::File { verb, path: path.to_owned(), source: source.into() }
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Received {
    /// Files that are new or have another content.
    pub written: usize,
    /// Files that were as they should be.
    pub unchanged: usize,
    /// Files and links that were put before and are gone.
    pub removed: usize,
}

/// Where things are on the receiving machine.
#[derive(Clone, Debug)]
pub struct Places {
    /// What relative folders are below. A package comes into this folder itself, which nobody else looks into.
    pub files: PathBuf,
    /// For packs and for what was put for whom.
    pub state: PathBuf,
    /// Folders whose files may hold what is wanted, besides the places themselves: the likeliest first.
    pub bases: Vec<PathBuf>,
}

/// A transfer on its way in.
#[derive(Debug)]
pub struct Receiver {
    params: Arc<PutParams>,
    way: Way,
    missing: Vec<u32>,
    /// How many of those have come.
    came: usize,
    /// What has come of the next.
    part: Vec<u8>,
}

/// Where what comes is kept until all of it is here.
#[derive(Debug)]
enum Way {
    /// In a pack: others use what is in the places.
    Beside(Beside),
    /// In the places themselves.
    Staged(Staged),
}

impl Receiver {
    /// Looks at what is here, and says what is missing ([`Self::missing`]).
    ///
    /// # Errors
    ///
    /// What can't be there, and what can't be read or made here.
    pub fn begin(params: PutParams, places: &Places) -> Result<Self, ReceiveError> {
        params.check().map_err(ReceiveError::Refused)?;
        let params = Arc::new(params);
        let (way, missing) = if params.package.is_some() {
            let (staged, missing) = Staged::begin(Arc::clone(&params), places)?;
            (Way::Staged(staged), missing)
        } else {
            let (beside, missing) = Beside::begin(Arc::clone(&params), places)?;
            (Way::Beside(beside), missing)
        };
        Ok(Self { params, way, missing, came: 0, part: Vec::new() })
    }

    /// The chunks that must be sent, in this order.
    pub fn missing(&self) -> &[u32] {
        &self.missing
    }

    fn may_change(&self) -> Result<(), ReceiveError> {
        if self.params.look {
            return Err(ReceiveError::Refused("this was only a look at what is missing".into()));
        }
        Ok(())
    }

    /// Takes what came on the stream: the missing chunks, in pieces of any size.
    ///
    /// # Errors
    ///
    /// It isn't what is missing, or can't be kept.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
        self.may_change()?;
        self.part.extend_from_slice(bytes);
        let part = std::mem::take(&mut self.part);
        let mut rest = part.as_slice();
        while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
            let [a, b, c, d, e, f, g, h] = *head;
            let (index, length) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
            let wrong = || ReceiveError::Refused(format!("chunk {index} was sent and isn't what is missing"));
            if self.missing.get(self.came) != Some(&index) {
                return Err(wrong());
            }
            let at = usize::try_from(index).unwrap_or(usize::MAX);
            let Chunk(digest, size) = *self.params.chunks.get(at).ok_or_else(wrong)?;
            if length > size {
                return Err(wrong());
            }
            let Some((packed, next)) = after.split_at_checked(usize::try_from(length).unwrap_or(usize::MAX))
            else {
                break;
            };
            let opened;
            let bytes = if length == size {
                packed
            } else {
                opened = zstd::bulk::decompress(packed, usize::try_from(size).unwrap_or_default())
                    .map_err(|_| wrong())?;
                &opened
            };
            if Digest::of(bytes) != digest {
                return Err(wrong());
            }
            match &mut self.way {
                Way::Beside(beside) => beside.keep(digest, bytes)?,
                Way::Staged(staged) => staged.keep(at, bytes)?,
            }
            self.came += 1;
            rest = next;
        }
        self.part = rest.to_vec();
        Ok(())
    }

    /// Brings everything to its place, once all of it is here. A package isn't synced to disk: who gives it its name does that.
    ///
    /// # Errors
    ///
    /// Something didn't come, is damaged, or can't be written.
    pub fn finish(self) -> Result<Received, ReceiveError> {
        self.may_change()?;
        if self.came < self.missing.len() || !self.part.is_empty() {
            let text = format!("{} of {} chunks came", self.came, self.missing.len());
            return Err(ReceiveError::Refused(text));
        }
        match self.way {
            Way::Beside(beside) => beside.finish(),
            Way::Staged(staged) => staged.finish(),
        }
    }
}

/// The path without parts `.`, in which no folder can be made.
pub(super) fn below(files: &Path, folder: &Path) -> PathBuf {
    files.join(folder).components().collect()
}

/// Every entry with its absolute path.
pub(super) fn entries<'a>(
    params: &'a PutParams,
    files: &'a Path,
) -> impl Iterator<Item = (PathBuf, &'a Entry)> {
    params.copies.iter().flat_map(move |copy| {
        let folder = below(files, &copy.folder);
        copy.entries.iter().map(move |entry| match entry.path.as_str() {
            "." => (folder.clone(), entry),
            path => (folder.join(path), entry),
        })
    })
}

/// Makes a folder and those above it.
pub(super) fn make(folder: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(folder)
}

/// Sets the mode of a file or folder, and of nothing that was put in its place meanwhile: a link there may lead to anywhere.
pub(super) fn set_mode(path: &Path, mode: u32, kind: FileType) -> Result<(), ReceiveError> {
    // Held by its path only: it may be one that can't be read.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open", path))?;
    let is = rustix::fs::fstat(&held).map_err(failed("look at", path))?;
    if FileType::from_raw_mode(is.st_mode) != kind {
        return Err(ReceiveError::Damaged { path: path.to_owned() });
    }
    let held = format!("/proc/self/fd/{}", held.as_raw_fd());
    fs::set_permissions(held, Permissions::from_mode(mode)).map_err(failed("set the mode of", path))
}

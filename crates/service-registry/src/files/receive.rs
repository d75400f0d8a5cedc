//! The far side: what is missing, what comes, and how it gets to its place.

use super::super::package::hash::Digest;
use super::chunk;
use super::pack::Pack;
use super::wire::{Chunk, Copy, Entry, Kind, PutParams};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

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

    fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::File { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

fn failed<E: Into<io::Error>>(verb: &'static str, path: &Path) -> impl FnOnce(E) -> ReceiveError {
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
    /// What relative folders are below.
    pub files: PathBuf,
    /// For packs and for what was put for whom.
    pub state: PathBuf,
    /// Folders whose files may hold what is wanted, besides the places themselves.
    pub bases: Vec<PathBuf>,
}

/// What was put for an owner.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Files and links, by their absolute paths.
    files: BTreeSet<PathBuf>,
    /// Folders that were made for them.
    folders: BTreeSet<PathBuf>,
    /// What was being written when this was written.
    beside: BTreeSet<PathBuf>,
}

/// A chunk in a file that is here.
#[derive(Debug)]
struct Old {
    file: PathBuf,
    offset: u64,
    size: u32,
}

/// A transfer on its way in.
#[derive(Debug)]
pub struct Receiver {
    params: PutParams,
    files: PathBuf,
    own: PathBuf,
    record: Record,
    pack: Pack,
    old: HashMap<Digest, Old>,
    unchanged: HashSet<PathBuf>,
    missing: Vec<u32>,
    /// How many of those have come.
    came: usize,
    /// What has come of the next.
    part: Vec<u8>,
}

impl Receiver {
    /// Looks at what is here, and says what is missing ([`Self::missing`]).
    ///
    /// # Errors
    ///
    /// What can't be there, and what can't be read or made here.
    pub fn begin(params: PutParams, places: &Places) -> Result<Self, ReceiveError> {
        params.check().map_err(ReceiveError::Refused)?;
        let state = &places.state;
        make(state, 0o700).map_err(failed("make", state))?;
        let own = state.join(&params.owner);
        let record: Record = match fs::read(own.with_extension("json")) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(_) => Record::default(),
        };
        // What a killed daemon was writing.
        for beside in &record.beside {
            let _ = fs::remove_file(beside);
        }
        let packed = own.with_extension("pack");
        let pack = Pack::open(&packed).map_err(failed("open", &packed))?;
        let files = places.files.clone();
        let (old, unchanged, missing) = Default::default();
        let part = Vec::new();
        let mut receiver = Self { params, files, own, record, pack, old, unchanged, missing, came: 0, part };
        receiver.look(&places.bases);
        Ok(receiver)
    }

    /// The chunks that must be sent, in this order.
    pub fn missing(&self) -> &[u32] {
        &self.missing
    }

    /// What of the files is here already, and where. What can't be read is missing.
    fn look(&mut self, bases: &[PathBuf]) {
        let wanted: HashSet<Digest> = self.params.chunks.iter().map(|chunk| chunk.0).collect();
        let mut seen: HashSet<PathBuf> = HashSet::new();
        for (path, entry) in entries(&self.params, &self.files) {
            let Kind::File { chunks, .. } = &entry.kind else { continue };
            let is: Option<Vec<Digest>> = cut(&path, &wanted, &mut self.old);
            let of = |at: &u32| self.params.chunks.get(usize::try_from(*at).ok()?).map(|chunk| chunk.0);
            let should: Option<Vec<Digest>> = chunks.iter().map(of).collect();
            if is.is_some() && is == should {
                self.unchanged.insert(path.clone());
            }
            seen.insert(path);
        }
        for path in self.record.files.iter().filter(|path| !seen.contains(*path)) {
            cut(path, &wanted, &mut self.old);
        }
        let mut folders: Vec<PathBuf> = bases.to_vec();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    Ok(kind) if kind.is_file() => drop(cut(&entry.path(), &wanted, &mut self.old)),
                    _ => {}
                }
            }
        }
        let here = |chunk: &Chunk| self.old.contains_key(&chunk.0) || self.pack.has(&chunk.0);
        self.missing = (0_u32..)
            .zip(&self.params.chunks)
            .filter(|(_, chunk)| !here(chunk))
            .map(|(index, _)| index)
            .collect();
    }

    /// Takes what came on the stream: the missing chunks, in pieces of any size.
    ///
    /// # Errors
    ///
    /// It isn't what is missing, or can't be kept.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
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
            if let Err(source) = self.pack.add(digest, bytes) {
                let path = self.own.with_extension("pack");
                return Err(self.or_room(failed("write", &path)(source)));
            }
            self.came += 1;
            rest = next;
        }
        self.part = rest.to_vec();
        Ok(())
    }

    /// Brings everything to its place, once all of it is here.
    ///
    /// # Errors
    ///
    /// Something didn't come, is damaged, or can't be written.
    pub fn finish(mut self) -> Result<Received, ReceiveError> {
        if self.came < self.missing.len() || !self.part.is_empty() {
            let text = format!("{} of {} chunks came", self.came, self.missing.len());
            return Err(ReceiveError::Refused(text));
        }
        let done = self.install();
        for beside in std::mem::take(&mut self.record.beside) {
            // Those that have got their names aren't there any more.
            let _ = fs::remove_file(beside);
        }
        match done {
            Ok(received) => {
                self.note()?;
                let packed = self.own.with_extension("pack");
                fs::remove_file(&packed).map_err(failed("remove", &packed))?;
                Ok(received)
            }
            Err(error) => {
                let error = self.or_room(error);
                // The disk may be full.
                let _ = self.note();
                Err(error)
            }
        }
    }

    /// A disk that is full is not kept full by what can't be used.
    fn or_room(&self, error: ReceiveError) -> ReceiveError {
        if error.is_full() {
            let _ = fs::remove_file(self.own.with_extension("pack"));
        }
        error
    }

    fn install(&mut self) -> Result<Received, ReceiveError> {
        let wanted: Vec<(PathBuf, Entry)> =
            entries(&self.params, &self.files).map(|(path, entry)| (path, entry.clone())).collect();
        self.folders(&wanted)?;
        let mut moves = Vec::new();
        for (number, (path, entry)) in wanted.iter().enumerate() {
            match &entry.kind {
                Kind::File { .. } if self.unchanged.contains(path) => {}
                Kind::File { .. } | Kind::Link { .. } => {
                    free(path)?;
                    let folder = path.parent().unwrap_or(Path::new("/"));
                    moves.push((folder.join(format!(".harness-{number}.new")), path.clone(), entry));
                }
                Kind::Folder { .. } => {}
            }
        }
        // Written down before the first of them is made: whoever comes after a kill removes them.
        let before = std::mem::take(&mut self.record.files);
        let now: BTreeSet<PathBuf> = wanted
            .iter()
            .filter(|(_, entry)| !matches!(entry.kind, Kind::Folder { .. }))
            .map(|(path, _)| path.clone())
            .collect();
        self.record.files = before.union(&now).cloned().collect();
        self.record.beside = moves.iter().map(|(beside, ..)| beside.clone()).collect();
        self.note()?;
        for (beside, path, entry) in &moves {
            self.write(beside, path, entry)?;
        }
        if !moves.is_empty() {
            self.sync()?;
        }
        for (beside, path, _) in &moves {
            fs::rename(beside, path).map_err(failed("replace", path))?;
        }
        let removed = self.remove(&before, &now);
        self.record.files = now;
        self.modes(&wanted)?;
        let written = moves.len();
        Ok(Received { written, unchanged: self.unchanged.len(), removed })
    }

    /// The folders, as long as they are written to with the right to do so.
    fn folders(&mut self, wanted: &[(PathBuf, Entry)]) -> Result<(), ReceiveError> {
        for Copy { folder, entries } in &self.params.copies {
            let mut folder = below(&self.files, folder);
            // One that is copied itself is made with its mode, below.
            if entries.iter().any(|entry| entry.path == ".") && !folder.pop() {
                continue;
            }
            make(&folder, 0o755).map_err(|error| self.or_room(failed("make", &folder)(error)))?;
        }
        for (path, entry) in wanted {
            let Kind::Folder { mode } = &entry.kind else { continue };
            match fs::symlink_metadata(path) {
                Ok(there) if there.is_dir() => {
                    if there.permissions().mode() & 0o700 != 0o700 {
                        set_mode(path, mode | 0o700)?;
                    }
                    continue;
                }
                // The folder itself, not one in it, may be reached through a link.
                Ok(_) if entry.path == "." && path.is_dir() => continue,
                Ok(_) if self.record.files.remove(path) => {
                    fs::remove_file(path).map_err(failed("remove", path))?;
                }
                Ok(_) => {
                    return Err(ReceiveError::InTheWay { path: path.clone(), what: "it is no folder" });
                }
                Err(_) => {}
            }
            make(path, mode | 0o700).map_err(failed("make", path))?;
            self.record.folders.insert(path.clone());
        }
        Ok(())
    }

    fn write(&self, beside: &Path, path: &Path, entry: &Entry) -> Result<(), ReceiveError> {
        match &entry.kind {
            Kind::Folder { .. } => Ok(()),
            Kind::Link { says } => {
                std::os::unix::fs::symlink(says, beside).map_err(failed("make the link", path))
            }
            Kind::File { mode, chunks } => {
                let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(0o600).custom_flags(flags);
                let mut file = options.open(beside).map_err(failed("write", path))?;
                for index in chunks {
                    let bytes = self.chunk(*index, path)?;
                    file.write_all(&bytes).map_err(failed("write", path))?;
                }
                file.set_permissions(Permissions::from_mode(*mode)).map_err(failed("set the mode of", path))
            }
        }
    }

    /// A chunk, hashed.
    fn chunk(&self, index: u32, path: &Path) -> Result<Vec<u8>, ReceiveError> {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        let damaged = |path: &Path| ReceiveError::Damaged { path: path.to_owned() };
        let Chunk(digest, _) = self.params.chunks.get(at).ok_or_else(|| damaged(path))?;
        if let Ok(Some(bytes)) = self.pack.read(digest) {
            return Ok(bytes);
        }
        let Some(Old { file, offset, size }) = self.old.get(digest) else {
            return Err(damaged(&self.own.with_extension("pack")));
        };
        let mut bytes = vec![0; usize::try_from(*size).unwrap_or_default()];
        let read = File::open(file).and_then(|file| file.read_exact_at(&mut bytes, *offset));
        if read.is_err() || Digest::of(&bytes) != *digest {
            return Err(damaged(file));
        }
        Ok(bytes)
    }

    /// What was written is on disk before it gets its name.
    fn sync(&self) -> Result<(), ReceiveError> {
        for Copy { folder, .. } in &self.params.copies {
            let folder = below(&self.files, folder);
            let opened = File::open(&folder).map_err(failed("open", &folder))?;
            rustix::fs::syncfs(&opened).map_err(failed("write", &folder))?;
        }
        Ok(())
    }

    /// Removes what was put before and isn't wanted any more; how many files and links that were.
    fn remove(&mut self, before: &BTreeSet<PathBuf>, now: &BTreeSet<PathBuf>) -> usize {
        let gone = before.difference(now).filter(|path| fs::remove_file(path).is_ok()).count();
        let wanted: HashSet<PathBuf> = entries(&self.params, &self.files)
            .filter(|(_, entry)| matches!(entry.kind, Kind::Folder { .. }))
            .map(|(path, _)| path)
            .collect();
        // Deeper ones first. One that isn't empty holds what somebody else made, and stays.
        let folders = std::mem::take(&mut self.record.folders);
        for folder in folders.into_iter().rev() {
            if wanted.contains(&folder) || (fs::remove_dir(&folder).is_err() && folder.is_dir()) {
                self.record.folders.insert(folder);
            }
        }
        gone
    }

    /// The modes of what was there before, and of folders, deeper ones first.
    fn modes(&self, wanted: &[(PathBuf, Entry)]) -> Result<(), ReceiveError> {
        for (path, entry) in wanted.iter().rev() {
            let mode = match &entry.kind {
                Kind::File { mode, .. } if self.unchanged.contains(path) => mode,
                // A folder that isn't ours keeps its mode.
                Kind::Folder { mode } if self.record.folders.contains(path) => mode,
                _ => continue,
            };
            set_mode(path, *mode)?;
        }
        Ok(())
    }

    fn note(&self) -> Result<(), ReceiveError> {
        let (beside, path) = (self.own.with_extension("json.new"), self.own.with_extension("json"));
        let text = serde_json::to_vec(&self.record).map_err(|error| failed("write", &path)(error))?;
        fs::write(&beside, text).and_then(|()| fs::rename(&beside, &path)).map_err(failed("write", &path))
    }
}

/// The path without parts `.`, in which no folder can be made.
fn below(files: &Path, folder: &Path) -> PathBuf {
    files.join(folder).components().collect()
}

/// Every entry with its absolute path.
fn entries<'a>(params: &'a PutParams, files: &'a Path) -> impl Iterator<Item = (PathBuf, &'a Entry)> {
    params.copies.iter().flat_map(move |copy| {
        let folder = below(files, &copy.folder);
        copy.entries.iter().map(move |entry| match entry.path.as_str() {
            "." => (folder.clone(), entry),
            path => (folder.join(path), entry),
        })
    })
}

/// The chunks of a file, those that are wanted noted; `None` where there is no such file.
fn cut(path: &Path, wanted: &HashSet<Digest>, old: &mut HashMap<Digest, Old>) -> Option<Vec<Digest>> {
    let there = fs::symlink_metadata(path).ok()?;
    if !there.is_file() {
        return None;
    }
    let mut file = File::open(path).ok()?;
    let mut found = Vec::new();
    let read = chunk::chunks(&mut file, &mut |digest, offset, bytes| {
        if wanted.contains(&digest) {
            let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            old.entry(digest).or_insert_with(|| Old { file: path.to_owned(), offset, size });
        }
        found.push(digest);
        Ok(())
    });
    read.ok().map(|()| found)
}

/// Whether a file or link may get this name.
fn free(path: &Path) -> Result<(), ReceiveError> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => {
            Err(ReceiveError::InTheWay { path: path.to_owned(), what: "it is a folder" })
        }
        _ => Ok(()),
    }
}

fn make(folder: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(folder)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), ReceiveError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("set the mode of", path))
}

//! Files whose places others use: what comes waits in a pack, is written beside its place and renamed.

use super::super::package::hash::Digest;
use super::old::Old;
use super::pack::Pack;
use super::receive::{Places, ReceiveError, Received, below, entries, failed, make, set_mode};
use super::wire::{Chunk, Copy, Entry, Kind, PutParams};
use rustix::fs::{FileType, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was put for an owner.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Files and links, by their absolute paths.
    files: BTreeSet<PathBuf>,
    /// Folders that were made for them.
    folders: BTreeSet<PathBuf>,
    /// What was being written beside its place when this was written: none of it has got its name.
    beside: BTreeSet<PathBuf>,
    /// What was being renamed when this was written, as (what was beside, its place): what isn't beside any more has got its name.
    #[serde(default)]
    moving: Vec<(PathBuf, PathBuf)>,
}

impl Record {
    /// None is there before the first transfer. One that says nothing sensible is kept for people: what it listed stays for ever.
    fn read(path: &Path) -> Result<Self, ReceiveError> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            read => read.map_err(failed("read", path))?,
        };
        serde_json::from_slice(&text).or_else(|error| {
            let aside = path.with_extension("json.damaged");
            fs::rename(path, &aside).map_err(failed("move away", path))?;
            tracing::warn!(
                record = %aside.display(), %error,
                "the list of files that were put is damaged: remove by hand those of them that aren't wanted any more"
            );
            Ok(Self::default())
        })
    }

    /// On disk when this returns.
    fn write(&self, path: &Path) -> io::Result<()> {
        let beside = path.with_extension("json.new");
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

/// A transfer to places that are in use.
#[derive(Debug)]
pub(super) struct Beside {
    params: Arc<PutParams>,
    files: PathBuf,
    own: PathBuf,
    record: Record,
    pack: Pack,
    old: Old,
    unchanged: HashSet<PathBuf>,
}

impl Beside {
    /// Looks at what is here; and the chunks that are missing.
    pub(super) fn begin(params: Arc<PutParams>, places: &Places) -> Result<(Self, Vec<u32>), ReceiveError> {
        let state = &places.state;
        make(state, 0o700).map_err(failed("make", state))?;
        let own = state.join(&params.owner);
        let record = Record::read(&own.with_extension("json"))?;
        let packed = own.with_extension("pack");
        let pack = Pack::open(&packed).map_err(failed("open", &packed))?;
        let files = places.files.clone();
        let (old, unchanged) = Default::default();
        let mut beside = Self { params, files, own, record, pack, old, unchanged };
        // What a killed daemon was at.
        beside.settle()?;
        let missing = beside.look(&places.bases);
        Ok((beside, missing))
    }

    /// What of the files is here already, and where; and what isn't. What can't be read is missing.
    fn look(&mut self, bases: &[PathBuf]) -> Vec<u32> {
        let wanted: HashSet<Digest> = self.params.chunks.iter().map(|chunk| chunk.0).collect();
        let mut seen: HashSet<PathBuf> = HashSet::new();
        for (path, entry) in entries(&self.params, &self.files) {
            let Kind::File { chunks, .. } = &entry.kind else { continue };
            let is: Option<Vec<Digest>> = self.old.cut(&path, &wanted);
            let of = |at: &u32| self.params.chunks.get(usize::try_from(*at).ok()?).map(|chunk| chunk.0);
            let should: Option<Vec<Digest>> = chunks.iter().map(of).collect();
            if is.is_some() && is == should {
                self.unchanged.insert(path.clone());
            }
            seen.insert(path);
        }
        for path in self.record.files.iter().filter(|path| !seen.contains(*path)) {
            self.old.cut(path, &wanted);
        }
        bases.iter().for_each(|folder| self.old.cut_all(folder, &wanted));
        let here = |chunk: &Chunk| self.old.has(&chunk.0) || self.pack.has(&chunk.0);
        (0_u32..).zip(&self.params.chunks).filter(|(_, chunk)| !here(chunk)).map(|(index, _)| index).collect()
    }

    /// Keeps a chunk whose digest was compared.
    pub(super) fn keep(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), ReceiveError> {
        self.pack.add(digest, bytes).map_err(|source| {
            let path = self.own.with_extension("pack");
            self.or_room(failed("write", &path)(source))
        })
    }

    /// Brings everything to its place.
    pub(super) fn finish(mut self) -> Result<Received, ReceiveError> {
        match self.install() {
            Ok(received) => {
                self.note()?;
                let packed = self.own.with_extension("pack");
                fs::remove_file(&packed).map_err(failed("remove", &packed))?;
                Ok(received)
            }
            Err(error) => {
                let error = self.or_room(error);
                // The disk may be full.
                let _ = self.settle().and_then(|()| self.note());
                Err(error)
            }
        }
    }

    /// What broke off: what got its name was put, and nothing else; what is still beside its place goes.
    fn settle(&mut self) -> Result<(), ReceiveError> {
        let mut left = std::mem::take(&mut self.record.beside);
        if !self.record.moving.is_empty() {
            let moving = std::mem::take(&mut self.record.moving);
            let is_there = |(beside, _): &(PathBuf, PathBuf)| fs::symlink_metadata(beside).is_ok();
            let (beside, named): (Vec<_>, Vec<_>) = moving.into_iter().partition(is_there);
            self.record.files.extend(named.into_iter().map(|(_, path)| path));
            self.record.beside = beside.into_iter().map(|(beside, _)| beside).collect();
            // Written down before they are removed: in `moving` they would then be taken for renamed.
            self.note()?;
            left.append(&mut self.record.beside);
        }
        for beside in left {
            let _ = fs::remove_file(beside);
        }
        Ok(())
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
        let moving = || moves.iter().map(|(beside, path, _)| (beside.clone(), path.clone()));
        if !moves.is_empty() {
            // Written down before the first of them is made: whoever comes after a kill removes them.
            self.record.beside = moving().map(|(beside, _)| beside).collect();
            self.note()?;
            for (beside, path, entry) in &moves {
                self.write(beside, path, entry)?;
            }
            self.sync()?;
            self.record.beside.clear();
            self.record.moving = moving().collect();
            self.note()?;
        }
        for (beside, path, _) in &moves {
            fs::rename(beside, path).map_err(failed("replace", path))?;
        }
        let now: BTreeSet<PathBuf> = wanted
            .iter()
            .filter(|(_, entry)| !matches!(entry.kind, Kind::Folder { .. }))
            .map(|(path, _)| path.clone())
            .collect();
        let before = std::mem::replace(&mut self.record.files, now);
        self.record.moving.clear();
        let removed = self.remove(&before);
        if !moves.is_empty() || removed > 0 {
            // Before the record says so, and whoever sent it is told.
            self.sync()?;
        }
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
                        set_mode(path, mode | 0o700, FileType::Directory)?;
                    }
                    continue;
                }
                // The folder itself, not one in it, may be reached through a link.
                Ok(_) if entry.path == "." && path.is_dir() => {
                    // It isn't the one that was made here, if any was.
                    self.record.folders.remove(path);
                    continue;
                }
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
        self.old.read(digest).unwrap_or_else(|| Err(damaged(&self.own.with_extension("pack"))))
    }

    /// What was written is on disk before it gets its name, and so are the names.
    fn sync(&self) -> Result<(), ReceiveError> {
        for Copy { folder, .. } in &self.params.copies {
            let folder = below(&self.files, folder);
            let opened = File::open(&folder).map_err(failed("open", &folder))?;
            rustix::fs::syncfs(&opened).map_err(failed("write", &folder))?;
        }
        Ok(())
    }

    /// Removes what was put before and isn't wanted any more; how many files and links that were.
    fn remove(&mut self, before: &BTreeSet<PathBuf>) -> usize {
        let gone = before.difference(&self.record.files).filter(|path| fs::remove_file(path).is_ok()).count();
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
            let (mode, kind) = match &entry.kind {
                Kind::File { mode, .. } if self.unchanged.contains(path) => (mode, FileType::RegularFile),
                // A folder that isn't ours keeps its mode.
                Kind::Folder { mode } if self.record.folders.contains(path) => (mode, FileType::Directory),
                _ => continue,
            };
            set_mode(path, *mode, kind)?;
        }
        Ok(())
    }

    fn note(&self) -> Result<(), ReceiveError> {
        let path = self.own.with_extension("json");
        self.record.write(&path).map_err(failed("write", &path))
    }
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

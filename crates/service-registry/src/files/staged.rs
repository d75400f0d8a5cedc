//! A package on its way in: its folder is nobody's yet, so that what comes is written where it belongs at once, and only once.
//!
//! What has come before a break is found in that folder again, each chunk at its place. Nothing here is synced, and files aren't
//! compared as a whole: `package::install` does both before the folder gets its name.

use super::super::package::hash::Digest;
use super::old::Old;
use super::receive::{Places, ReceiveError, Received, below, entries, failed, make};
use super::wire::{Chunk, Kind, PutParams};
use rustix::fs::OFlags;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a chunk goes: to which of the files, and where in it.
type Target = (usize, u64);

/// A transfer into a folder that nobody else looks into.
#[derive(Debug)]
pub(super) struct Staged {
    params: Arc<PutParams>,
    root: PathBuf,
    /// The files, with the bytes that each has in the end.
    files: Vec<(PathBuf, u64)>,
    /// For each chunk where it is still to go.
    left: Vec<Vec<Target>>,
    old: Old,
    /// The file that was written to last.
    open: Option<(usize, File)>,
    /// Files that were not as they should be.
    touched: HashSet<usize>,
}

impl Staged {
    /// Looks at what is here; and the chunks that are missing.
    pub(super) fn begin(params: Arc<PutParams>, places: &Places) -> Result<(Self, Vec<u32>), ReceiveError> {
        let mut staged = Self::lay_out(Arc::clone(&params), &places.files);
        let part = staged.is_part();
        if !params.look {
            if !part {
                fs::remove_dir_all(&staged.root).map_err(failed("remove", &staged.root))?;
            }
            staged.folders()?;
        }
        if part {
            staged.look_inside();
        }
        let missing = staged.look(&places.bases);
        Ok((staged, missing))
    }

    /// Finds out which chunk goes where.
    fn lay_out(params: Arc<PutParams>, root: &Path) -> Self {
        let mut staged = Self {
            root: root.to_owned(),
            files: Vec::new(),
            left: vec![Vec::new(); params.chunks.len()],
            old: Old::default(),
            open: None,
            touched: HashSet::new(),
            params,
        };
        let params = Arc::clone(&staged.params);
        for (path, entry) in entries(&params, root) {
            if let Kind::File { chunks, .. } = &entry.kind {
                staged.file(path, chunks);
            }
        }
        staged
    }

    /// Whether what is in the folder is a part of the same, as far as names tell; else it is of no use.
    fn is_part(&self) -> bool {
        entries(&self.params, &self.root).all(|(path, entry)| {
            let Ok(there) = fs::symlink_metadata(&path) else { return true };
            match &entry.kind {
                Kind::Folder { .. } => there.is_dir(),
                Kind::File { .. } => there.is_file(),
                Kind::Link { .. } => !there.is_dir(),
            }
        })
    }

    /// Makes the folders that aren't there.
    fn folders(&self) -> Result<(), ReceiveError> {
        make(&self.root, 0o700).map_err(failed("make", &self.root))?;
        for copy in &self.params.copies {
            let folder = below(&self.root, &copy.folder);
            make(&folder, 0o700).map_err(failed("make", &folder))?;
        }
        for (path, entry) in entries(&self.params, &self.root) {
            if matches!(entry.kind, Kind::Folder { .. }) {
                make(&path, 0o700).map_err(failed("make", &path))?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf, chunks: &[u32]) {
        let mut end = 0;
        for at in chunks.iter().filter_map(|at| usize::try_from(*at).ok()) {
            let Some(Chunk(_, size)) = self.params.chunks.get(at) else { continue };
            if let Some(targets) = self.left.get_mut(at) {
                targets.push((self.files.len(), end));
            }
            end += u64::from(*size);
        }
        self.files.push((path, end));
    }

    /// What is here already, elsewhere than in its place; and what isn't.
    fn look(&mut self, bases: &[PathBuf]) -> Vec<u32> {
        for folder in bases {
            let wanted = self.wanted();
            if wanted.is_empty() {
                break;
            }
            self.old.cut_all(folder, &wanted);
        }
        let missing = self.wanted();
        let left = (0_u32..).zip(&self.params.chunks).zip(&self.left);
        let is_missing = |(_, targets): &((u32, &Chunk), &Vec<Target>)| -> bool { !targets.is_empty() };
        left.filter(is_missing)
            .filter(|((_, chunk), _)| missing.contains(&chunk.0))
            .map(|((index, _), _)| index)
            .collect()
    }

    /// The chunks that go somewhere and are nowhere.
    fn wanted(&self) -> HashSet<Digest> {
        let left = self.params.chunks.iter().zip(&self.left);
        left.filter(|(chunk, targets)| !targets.is_empty() && !self.old.has(&chunk.0))
            .map(|(chunk, _)| chunk.0)
            .collect()
    }

    /// What a transfer that broke off has brought to its place. What was never written to is read as zeros, and not taken for
    /// something else.
    fn look_inside(&mut self) {
        let chunks = self.left.iter().enumerate();
        let mut all: Vec<(Target, usize)> =
            chunks.flat_map(|(chunk, targets)| targets.iter().map(move |target| (*target, chunk))).collect();
        all.sort_unstable();
        let mut whole: HashSet<Target> = HashSet::new();
        let mut buffer = Vec::new();
        // One file at a time: there may be more of them than a process can open.
        for inside in all.chunk_by(|((one, _), _), ((other, _), _)| one == other) {
            let file = inside.first().and_then(|((file, _), _)| self.files.get(*file));
            let Some(opened) = file.and_then(|(path, _)| File::open(path).ok()) else { continue };
            for (target, chunk) in inside {
                let Some(Chunk(digest, size)) = self.params.chunks.get(*chunk) else { continue };
                buffer.resize(usize::try_from(*size).unwrap_or_default(), 0);
                if opened.read_exact_at(&mut buffer, target.1).is_ok() && Digest::of(&buffer) == *digest {
                    whole.insert(*target);
                }
            }
        }
        for (Chunk(digest, size), targets) in self.params.chunks.iter().zip(&mut self.left) {
            let there = targets.iter().find(|target| whole.contains(target)).copied();
            targets.retain(|target| !whole.contains(target));
            let path = there.and_then(|(file, offset)| Some((self.files.get(file)?.0.clone(), offset)));
            if let Some((path, offset)) = path.filter(|_| !targets.is_empty()) {
                self.old.note(*digest, path, offset, *size);
            }
        }
    }

    /// Writes a chunk, whose digest was compared, to all its places.
    pub(super) fn keep(&mut self, at: usize, bytes: &[u8]) -> Result<(), ReceiveError> {
        let targets = self.left.get_mut(at).map(std::mem::take).unwrap_or_default();
        for (file, offset) in targets {
            self.write(file, offset, bytes).map_err(|error| self.or_room(error))?;
        }
        Ok(())
    }

    fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) -> Result<(), ReceiveError> {
        let Some((path, _)) = self.files.get(file) else { return Ok(()) };
        self.touched.insert(file);
        let opened = match self.open.take().filter(|(open, _)| *open == file) {
            Some((_, opened)) => opened,
            None => open(path).map_err(failed("write", path))?,
        };
        opened.write_all_at(bytes, offset).map_err(failed("write", path))?;
        self.open = Some((file, opened));
        Ok(())
    }

    /// Fills in what is here already, and sets sizes, modes and links.
    pub(super) fn finish(mut self) -> Result<Received, ReceiveError> {
        let done = self.complete();
        done.map_err(|error| self.or_room(error))
    }

    fn complete(&mut self) -> Result<Received, ReceiveError> {
        let params = Arc::clone(&self.params);
        for (at, Chunk(digest, _)) in params.chunks.iter().enumerate() {
            if self.left.get(at).is_none_or(Vec::is_empty) {
                continue;
            }
            let damaged = || Err(ReceiveError::Damaged { path: self.root.clone() });
            let bytes = self.old.read(digest).unwrap_or_else(damaged)?;
            self.keep(at, &bytes)?;
        }
        self.open = None;
        let mut file = 0;
        for (path, entry) in entries(&params, &self.root) {
            match &entry.kind {
                Kind::Folder { .. } => {}
                Kind::File { mode, .. } => {
                    let size = self.files.get(file).map_or(0, |(_, size)| *size);
                    let opened = open(&path).map_err(failed("write", &path))?;
                    opened.set_len(size).map_err(failed("write", &path))?;
                    let mode = Permissions::from_mode(*mode);
                    opened.set_permissions(mode).map_err(failed("set the mode of", &path))?;
                    file += 1;
                }
                Kind::Link { says } => {
                    let _ = fs::remove_file(&path);
                    std::os::unix::fs::symlink(says, &path).map_err(failed("make the link", &path))?;
                }
            }
        }
        let written = self.touched.len();
        Ok(Received { written, unchanged: file.saturating_sub(written), removed: 0 })
    }

    /// A disk that is full is not kept full by what can't be used.
    fn or_room(&self, error: ReceiveError) -> ReceiveError {
        if error.is_full() {
            let _ = fs::remove_dir_all(&self.root);
        }
        error
    }
}

/// A file to write to, made if it isn't there.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

//! Makes a package of a folder. The same folder gives the same bytes, on every machine.

use super::archive::Limits;
use super::hash::Digest;
use super::manifest::{self, FILE, Manifest, Problem};
use super::name;
use super::tree::{EntryProblem, Kind, Tree};
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// What is packed of a folder, besides the manifest. All else beside them is left out: what a repository or a build leaves
/// lying about, files with secrets, the package of the last build.
pub const FOLDERS: [&str; 5] = ["bin", "config", "lib", "scripts", "share"];

/// zstd's own default; its levels 1 to 19 differ by a tenth of size and a factor of twenty in time.
const LEVEL: i32 = 3;
/// The time of every entry, in seconds: 1980-01-01, the earliest that no program finds odd.
const TIME: u64 = 315_532_800;
/// Bytes of a tar block.
const BLOCK: usize = 512;
/// Bytes that a name has in a header.
const SHORT: usize = 100;

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// What can't be in a package, by path, and what is missing.
    #[error("it can't be packed: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Problems(Vec<Problem>),
    /// A file or folder can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file was written to meanwhile.
    #[error("{} was changed while it was packed", .0.display())]
    Changed(PathBuf),
    /// The package can't be written.
    #[error("can't write {}", path.display())]
    Write {
        /// The package.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The manifest has no text.
    #[error("the manifest can't be written")]
    Manifest(#[source] serde_json::Error),
    /// The callback wanted no more.
    #[error("interrupted")]
    Interrupted,
}

/// How far a build is, in bytes: each file is read once to hash it and once to pack it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Read so far.
    pub done: u64,
    /// To be read in all.
    pub total: u64,
}

/// A package that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// With its files.
    pub manifest: Manifest,
    /// Where it is.
    pub path: PathBuf,
    /// The digest of its file.
    pub digest: Digest,
    /// Bytes of its file.
    pub packed: u64,
    /// Bytes of its files.
    pub unpacked: u64,
}

/// What a folder holds that belongs into a package.
#[derive(Debug)]
pub struct Contents {
    folder: PathBuf,
    items: Vec<Item>,
    tree: Tree,
    problems: Vec<Problem>,
    /// Names beside [`FOLDERS`] that are left out, sorted.
    pub left_out: Vec<String>,
}

#[derive(Debug)]
struct Item {
    path: String,
    kind: ItemKind,
}

#[derive(Debug)]
enum ItemKind {
    Folder,
    File { executable: bool, size: u64 },
    Link { says: String },
}

impl Contents {
    /// Looks at a folder. What can't be packed is told by [`Contents::pack`], all at once.
    ///
    /// # Errors
    ///
    /// [`BuildError::Read`].
    pub fn of(folder: &Path) -> Result<Self, BuildError> {
        let mut contents = Self {
            folder: folder.to_owned(),
            items: Vec::new(),
            tree: Tree::default(),
            problems: Vec::new(),
            left_out: Vec::new(),
        };
        for name in names(folder)? {
            match name.to_str() {
                Some(FILE) => {}
                Some(name) if FOLDERS.contains(&name) => contents.add(name)?,
                _ => contents.left_out.push(name.to_string_lossy().into_owned()),
            }
        }
        let links = contents.tree.bad_links();
        contents
            .problems
            .extend(links.map(|(path, problem)| Problem { at: path.into(), what: problem.to_string() }));
        contents.items.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(contents)
    }

    fn refuse(&mut self, path: impl Into<String>, problem: &EntryProblem) {
        self.problems.push(Problem { at: path.into(), what: problem.to_string() });
    }

    fn add(&mut self, path: &str) -> Result<(), BuildError> {
        if self.items.len() >= Limits::default().entries {
            self.problems
                .push(Problem { at: path.into(), what: format!("more than {} files", self.items.len()) });
            return Ok(());
        }
        let full = self.folder.join(path);
        let read = |source| BuildError::Read { path: full.clone(), source };
        let data = fs::symlink_metadata(&full).map_err(read)?;
        let kind = data.file_type();
        let foreign = [
            (kind.is_block_device() || kind.is_char_device(), "a device"),
            (kind.is_fifo(), "a pipe"),
            (kind.is_socket(), "a socket"),
        ];
        if let Some((_, what)) = foreign.iter().find(|(is, _)| *is) {
            self.refuse(path, &EntryProblem::Kind(what));
            return Ok(());
        }
        if let Err(problem) = name::path(path.as_bytes()) {
            self.refuse(path.escape_debug().to_string(), &problem.into());
            return Ok(());
        }
        // A folder's own bits mean nothing in a package: it is made anew.
        if kind.is_file() && data.mode() & 0o7000 != 0 {
            self.refuse(path, &EntryProblem::Rights);
        }
        let item = |kind| Item { path: path.to_owned(), kind };
        let executable = data.mode() & 0o111 != 0;
        let added = if kind.is_dir() {
            self.items.push(item(ItemKind::Folder));
            self.tree.add(path, Kind::Folder { listed: true })
        } else if kind.is_symlink() {
            let says = fs::read_link(&full).map_err(read)?;
            self.tree
                .add_link(path, says.as_os_str().as_bytes())
                .map(|says| self.items.push(item(ItemKind::Link { says })))
        } else {
            self.items.push(item(ItemKind::File { executable, size: data.len() }));
            self.tree.add(path, Kind::File { executable })
        };
        if let Err(problem) = added {
            self.refuse(path, &problem);
        }
        if kind.is_dir() {
            for name in names(&full)? {
                match name.to_str() {
                    Some(name) => self.add(&format!("{path}/{name}"))?,
                    None => self.refuse(
                        format!("{path}/{}", name.to_string_lossy()),
                        &name::PathProblem::NotUtf8.into(),
                    ),
                }
            }
        }
        Ok(())
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files().map(|(_, size)| size).sum()
    }

    /// Paths and sizes of the files, sorted.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.items.iter().filter_map(|item| match item.kind {
            ItemKind::File { size, .. } => Some((item.path.as_str(), size)),
            _ => None,
        })
    }

    /// Whether it can be packed with a manifest.
    ///
    /// # Errors
    ///
    /// [`BuildError::Problems`], everything at once.
    pub fn check(&self, manifest: &Manifest) -> Result<(), BuildError> {
        let mut problems = manifest.problems();
        problems.extend(self.problems.iter().cloned());
        problems.extend(self.tree.missing(manifest));
        if problems.is_empty() { Ok(()) } else { Err(BuildError::Problems(problems)) }
    }

    /// Packs it with a manifest, whose list of files is written anew, to `path`. An older file there is replaced when all
    /// has gone well. The callback is told how far it is; `false` from it ends the build.
    ///
    /// # Errors
    ///
    /// Everything that can't be packed at once; nothing is left at `path` or beside it.
    pub fn pack(
        &self,
        mut manifest: Manifest,
        path: &Path,
        progress: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Built, BuildError> {
        manifest.files.clear();
        manifest.links.clear();
        self.check(&manifest)?;
        let mut state = Progress { done: 0, total: self.size() * 2 };
        let mut report = |bytes: u64| {
            state.done += bytes;
            progress(state)
        };
        self.list(&mut manifest, &mut report)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}.part", std::process::id()));
        let beside = PathBuf::from(beside);
        let written = self.write(&manifest, &beside, &mut report).and_then(|(digest, packed)| {
            fs::rename(&beside, path).map_err(|source| BuildError::Write { path: path.into(), source })?;
            Ok(Built { path: path.into(), digest, packed, unpacked: self.size(), manifest })
        });
        if written.is_err() {
            // What matters is the error before; a left-over is no harm.
            let _ = fs::remove_file(&beside);
        }
        written
    }

    /// Writes files and links into the manifest.
    fn list(&self, manifest: &mut Manifest, report: &mut dyn FnMut(u64) -> bool) -> Result<(), BuildError> {
        for item in &self.items {
            match &item.kind {
                ItemKind::Folder => {}
                ItemKind::Link { says } => {
                    manifest.links.push(manifest::Link { path: item.path.clone(), target: says.clone() });
                }
                ItemKind::File { size, .. } => {
                    let sha256 = self.copy(item, *size, &mut io::sink(), Path::new(""), report)?;
                    manifest.files.push(manifest::File { path: item.path.clone(), size: *size, sha256 });
                }
            }
        }
        Ok(())
    }

    /// The package, written to a file of its own and safe on disk.
    fn write(
        &self,
        manifest: &Manifest,
        path: &Path,
        report: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(Digest, u64), BuildError> {
        let failed = |source| BuildError::Write { path: path.into(), source };
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
        let counted = BufWriter::with_capacity(128 * 1024, file);
        let mut out = zstd::Encoder::new(counted, LEVEL).map_err(failed)?;
        out.include_checksum(true).map_err(failed)?;
        let text = manifest.to_text().map_err(BuildError::Manifest)?;
        put(&mut out, EntryType::Regular, FILE, "", text.len() as u64, false).map_err(failed)?;
        out.write_all(text.as_bytes()).and_then(|()| pad(&mut out, text.len() as u64)).map_err(failed)?;
        for item in &self.items {
            match &item.kind {
                ItemKind::Folder => {
                    put(&mut out, EntryType::Directory, &format!("{}/", item.path), "", 0, true)
                }
                ItemKind::Link { says } => put(&mut out, EntryType::Symlink, &item.path, says, 0, true),
                ItemKind::File { executable, size } => {
                    put(&mut out, EntryType::Regular, &item.path, "", *size, *executable).map_err(failed)?;
                    let digest = self.copy(item, *size, &mut out, path, report)?;
                    let listed = manifest.files.binary_search_by(|file| file.path.cmp(&item.path));
                    let listed = listed.ok().and_then(|index| manifest.files.get(index));
                    if listed.is_none_or(|listed| listed.sha256 != digest) {
                        return Err(BuildError::Changed(self.folder.join(&item.path)));
                    }
                    pad(&mut out, *size)
                }
            }
            .map_err(failed)?;
        }
        out.write_all(&[0; 2 * BLOCK]).map_err(failed)?;
        let file =
            out.finish().and_then(|buffer| buffer.into_inner().map_err(io::Error::from)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        let mut written = File::open(path).map_err(failed)?;
        Digest::of_reader(&mut written).map_err(failed)
    }

    /// Copies a file and gives its digest. It must have the size that it had.
    fn copy(
        &self,
        item: &Item,
        size: u64,
        out: &mut dyn Write,
        to: &Path,
        report: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Digest, BuildError> {
        let path = self.folder.join(&item.path);
        let read = |source| BuildError::Read { path: path.clone(), source };
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(read)?;
        let mut content = super::hash::Hashing::new(file.take(size + 1));
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = content.read(&mut buffer).map_err(read)?;
            let part = buffer.get(..count).unwrap_or_default();
            if content.length() > size {
                return Err(BuildError::Changed(path));
            }
            if count == 0 {
                break;
            }
            out.write_all(part).map_err(|source| BuildError::Write { path: to.into(), source })?;
            if !report(count as u64) {
                return Err(BuildError::Interrupted);
            }
        }
        if content.length() < size { Err(BuildError::Changed(path)) } else { Ok(content.finish()) }
    }
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Result<Vec<std::ffi::OsString>, BuildError> {
    let read = |source| BuildError::Read { path: folder.into(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        names.push(entry.map_err(read)?.file_name());
    }
    names.sort();
    Ok(names)
}

/// A header with what matters of an entry, and before it those for names that it has no room for.
fn put(
    out: &mut dyn Write,
    kind: EntryType,
    path: &str,
    says: &str,
    size: u64,
    executable: bool,
) -> io::Result<()> {
    for (long, text) in [(EntryType::GNULongName, path), (EntryType::GNULongLink, says)] {
        if text.len() > SHORT {
            let size = text.len() as u64 + 1;
            out.write_all(header(long, "././@LongLink", "", size, false)?.as_bytes())?;
            out.write_all(text.as_bytes())?;
            out.write_all(&[0])?;
            pad(out, size)?;
        }
    }
    out.write_all(header(kind, path, says, size, executable)?.as_bytes())
}

fn header(kind: EntryType, path: &str, says: &str, size: u64, executable: bool) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(TIME);
    header.set_size(size);
    let gnu = header.as_gnu_mut().ok_or_else(|| io::Error::other("not a GNU header"))?;
    for (field, text) in [(&mut gnu.name, path), (&mut gnu.linkname, says)] {
        field.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    }
    header.set_cksum();
    Ok(header)
}

/// Zeros up to the next block.
fn pad(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let rest = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    if rest == 0 { Ok(()) } else { out.write_all([0; BLOCK].get(rest..).unwrap_or_default()) }
}

//! Looks at a package, and unpacks it: the only code that writes what an archive holds.

use super::ReadManifest;
use super::archive::{self, ArchiveError, Entry, Limits, Walked};
use super::hash::{Digest, Hashing};
use super::manifest::{self, FILE, Manifest, Problem};
use super::name;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Mode of folders, whatever the archive says and the umask is.
const FOLDER: Mode = Mode::from_raw_mode(0o755);
/// Bytes that are read at once.
const CHUNK: usize = 128 * 1024;

/// Why a package is refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// There is none.
    #[error("there is no {FILE} in it")]
    NoManifest,
    /// It can't be read.
    #[error("{FILE}: {0}")]
    Manifest(String),
    /// What it says can't be.
    #[error("{FILE}: {}", list(.0))]
    Problems(Vec<Problem>),
    /// The file has another name than the package.
    #[error("it is {found} by its manifest and {asked} by its name")]
    OtherName {
        /// What the manifest says.
        found: String,
        /// What was asked for.
        asked: String,
    },
    /// A file that the manifest doesn't list.
    #[error("{0}: not in the manifest")]
    Unlisted(String),
    /// A file that the manifest lists.
    #[error("{0}: in the manifest and not in the package")]
    Absent(String),
    /// A file whose bytes aren't those that the manifest lists.
    #[error("{path}: not what the manifest says: {what}")]
    Differs {
        /// The file.
        path: String,
        /// What differs.
        what: String,
    },
    /// What was read now isn't what was verified before.
    #[error("the file was changed while it was read")]
    Changed,
    /// It can't be written.
    #[error("can't write {path}")]
    Write {
        /// Where, in the package.
        path: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The callback wanted no more.
    #[error("interrupted")]
    Interrupted,
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What a package turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Package {
    /// What it says of itself; all of it was compared with what is there.
    pub manifest: Manifest,
    /// The digest of its file.
    pub digest: Digest,
    /// Bytes of its file.
    pub packed: u64,
    /// Bytes of its files.
    pub unpacked: u64,
}

/// What is expected of a package, and who is told how far it is.
pub struct Check<'a> {
    /// Reads the manifest's text.
    pub read: ReadManifest<'a>,
    /// What it may need.
    pub limits: Limits,
    /// The name of its file, if it must fit: `NAME-VERSION.tar.zst`.
    pub file_name: Option<&'a str>,
    /// The digest that was verified before.
    pub digest: Option<Digest>,
    /// Told the bytes of files so far; `false` ends it.
    pub progress: &'a mut dyn FnMut(u64) -> bool,
}

/// Reads a package to its end and compares everything with its manifest. Writes nothing, and needs no more memory than the
/// manifest does.
///
/// # Errors
///
/// The first thing that is wrong; of the manifest everything that is.
pub fn verify(package: impl Read, check: Check<'_>) -> Result<Package, UnpackError> {
    run(package, check, None)
}

/// The same, and writes what it reads into a folder, which must be empty. After an error the folder holds a part.
///
/// Modes are 755 for folders and what may be executed, 644 for other files; the owner is who runs this.
///
/// # Errors
///
/// As [`verify`], and [`UnpackError::Write`].
pub fn unpack(package: impl Read, into: &Path, check: Check<'_>) -> Result<Package, UnpackError> {
    let open = rustix::fs::open(
        into,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let root = open.map_err(|source| write_error("", source))?;
    run(package, check, Some(&root))
}

/// Reads a package up to its manifest, which is checked by itself. Nothing of the rest is.
///
/// # Errors
///
/// What is wrong up to there.
pub fn peek(package: impl Read, read: ReadManifest<'_>, limits: &Limits) -> Result<Manifest, UnpackError> {
    let (mut found, mut progress) = (None, |_| true);
    let mut seen = Seen {
        read,
        root: None,
        file_name: None,
        progress: &mut progress,
        manifest: None,
        files: BTreeMap::new(),
        bytes: 0,
    };
    let walked = archive::walk(package, limits, &mut |path, entry| match entry {
        Entry::File { size, content, .. } if path == FILE => {
            seen.manifest(size, content)?;
            found = seen.manifest.take();
            Err(UnpackError::Interrupted)
        }
        _ => Ok(()),
    });
    match (found, walked) {
        (Some(manifest), _) => Ok(manifest),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(UnpackError::NoManifest),
    }
}

fn run(package: impl Read, check: Check<'_>, root: Option<&OwnedFd>) -> Result<Package, UnpackError> {
    let Check { read, limits, file_name, digest, progress } = check;
    let mut seen = Seen { read, root, file_name, progress, manifest: None, files: BTreeMap::new(), bytes: 0 };
    let Walked { tree, digest: found, length } =
        archive::walk(package, &limits, &mut |path, entry| seen.take(path, entry))?;
    if digest.is_some_and(|digest| digest != found) {
        return Err(UnpackError::Changed);
    }
    let Seen { manifest, files, bytes, .. } = seen;
    let manifest = manifest.ok_or(UnpackError::NoManifest)?;
    compare(&manifest, &files, &tree.links())?;
    let missing = tree.missing(&manifest);
    if !missing.is_empty() {
        return Err(UnpackError::Problems(missing));
    }
    Ok(Package { manifest, digest: found, packed: length, unpacked: bytes })
}

/// Size and digest of a file.
type Content = (u64, Digest);

struct Seen<'a> {
    read: ReadManifest<'a>,
    root: Option<&'a OwnedFd>,
    file_name: Option<&'a str>,
    progress: &'a mut dyn FnMut(u64) -> bool,
    manifest: Option<Manifest>,
    files: BTreeMap<String, Content>,
    bytes: u64,
}

impl Seen<'_> {
    fn take(&mut self, path: &str, entry: Entry<'_>) -> Result<(), UnpackError> {
        let place = self.root.map(|root| Place::open(root.as_fd(), path)).transpose()?;
        match entry {
            Entry::Folder => place.map_or(Ok(()), |place| place.folder()),
            Entry::Link { says } => place.map_or(Ok(()), |place| place.link(&says)),
            Entry::File { size, content, .. } if path == FILE => {
                let text = self.manifest(size, content)?;
                let Some(place) = place else { return Ok(()) };
                place.file(false, |file| {
                    file.write_all(text.as_bytes()).map_err(|error| write_error(path, error))
                })
            }
            Entry::File { executable, size, content } => {
                // Before a byte of it is written, where the manifest came first.
                if let Some(manifest) = &self.manifest {
                    let listed = manifest.files.binary_search_by(|file| file.path.as_str().cmp(path));
                    let listed = listed.ok().and_then(|index| manifest.files.get(index));
                    let listed = listed.ok_or_else(|| UnpackError::Unlisted(path.to_owned()))?;
                    if listed.size != size {
                        return Err(differs(path, format!("{size} bytes instead of {}", listed.size)));
                    }
                }
                let found = match place {
                    None => self.copy(path, size, content, None)?,
                    Some(place) => {
                        let mut found = None;
                        place.file(executable, |file| {
                            found = Some(self.copy(path, size, content, Some(file))?);
                            Ok(())
                        })?;
                        found.ok_or(ArchiveError::Truncated)?
                    }
                };
                self.files.insert(path.to_owned(), found);
                Ok(())
            }
        }
    }

    /// Reads and checks the manifest.
    fn manifest(&mut self, size: u64, content: &mut dyn Read) -> Result<String, UnpackError> {
        if size > manifest::MAX_BYTES {
            return Err(ArchiveError::TooLarge(format!("{} MiB of {FILE}", manifest::MAX_BYTES >> 20)).into());
        }
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(ArchiveError::from)?;
        if bytes.len() as u64 != size {
            return Err(ArchiveError::Truncated.into());
        }
        let text = String::from_utf8(bytes).map_err(|_| UnpackError::Manifest("not UTF-8".into()))?;
        let mut manifest = (self.read)(&text).map_err(UnpackError::Manifest)?;
        let problems = manifest.problems();
        if !problems.is_empty() {
            return Err(UnpackError::Problems(problems));
        }
        let found = manifest.stem();
        if let Some(asked) = self
            .file_name
            .map(|file| name::without_ending(file).unwrap_or(file))
            .filter(|asked| *asked != found)
        {
            return Err(UnpackError::OtherName { found, asked: asked.to_owned() });
        }
        manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
        manifest.links.sort_by(|a, b| a.path.cmp(&b.path));
        self.manifest = Some(manifest);
        Ok(text)
    }

    fn copy(
        &mut self,
        path: &str,
        size: u64,
        content: &mut dyn Read,
        mut to: Option<&mut File>,
    ) -> Result<Content, UnpackError> {
        let mut content = Hashing::new(content);
        let mut buffer = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK)).max(1)];
        loop {
            let count = content.read(&mut buffer).map_err(ArchiveError::from)?;
            if count == 0 {
                break;
            }
            if let Some(file) = &mut to {
                file.write_all(buffer.get(..count).unwrap_or_default())
                    .map_err(|error| write_error(path, error))?;
            }
            self.bytes += count as u64;
            if !(self.progress)(self.bytes) {
                return Err(UnpackError::Interrupted);
            }
        }
        if content.length() != size {
            return Err(ArchiveError::Truncated.into());
        }
        Ok((size, content.finish()))
    }
}

/// Whether what was there is what the manifest lists, neither more nor less.
pub(super) fn compare(
    manifest: &Manifest,
    files: &BTreeMap<String, Content>,
    links: &[(String, String)],
) -> Result<(), UnpackError> {
    for listed in &manifest.files {
        let (size, digest) =
            files.get(&listed.path).ok_or_else(|| UnpackError::Absent(listed.path.clone()))?;
        if *size != listed.size {
            return Err(differs(&listed.path, format!("{size} bytes instead of {}", listed.size)));
        }
        if *digest != listed.sha256 {
            return Err(differs(&listed.path, "its SHA-256 is another".into()));
        }
    }
    // Both have each path once, and all that are listed are there.
    if files.len() > manifest.files.len() {
        let listed = |path: &&String| manifest.files.binary_search_by(|file| file.path.cmp(path)).is_ok();
        return Err(UnpackError::Unlisted(
            files.keys().find(|path| !listed(path)).cloned().unwrap_or_default(),
        ));
    }
    for link in &manifest.links {
        match links.iter().find(|(path, _)| *path == link.path) {
            None => return Err(UnpackError::Absent(link.path.clone())),
            Some((_, says)) if *says != link.target => {
                return Err(differs(&link.path, format!("a link to {}", says.escape_debug())));
            }
            Some(_) => {}
        }
    }
    let listed = |path: &String| manifest.links.iter().any(|link| link.path == *path);
    match links.iter().find(|(path, _)| !listed(path)) {
        Some((path, _)) => Err(UnpackError::Unlisted(path.clone())),
        None => Ok(()),
    }
}

fn differs(path: &str, what: String) -> UnpackError {
    UnpackError::Differs { path: path.to_owned(), what }
}

fn write_error(path: &str, source: impl Into<io::Error>) -> UnpackError {
    UnpackError::Write { path: path.to_owned(), source: source.into() }
}

/// A name in a folder that is held open, reached from the root without leaving it and without following a link.
struct Place<'a> {
    path: &'a str,
    name: &'a str,
    parent: Parent<'a>,
}

enum Parent<'a> {
    Root(BorrowedFd<'a>),
    Below(OwnedFd),
}

impl<'a> Place<'a> {
    fn open(root: BorrowedFd<'a>, path: &'a str) -> Result<Self, UnpackError> {
        let (parent, name) = match path.rsplit_once('/') {
            None => (Parent::Root(root), path),
            Some((folder, name)) => {
                make_folders(root, folder).map_err(|source| write_error(path, source))?;
                (Parent::Below(open_below(root, folder).map_err(|source| write_error(path, source))?), name)
            }
        };
        Ok(Self { path, name, parent })
    }

    fn parent(&self) -> BorrowedFd<'_> {
        match &self.parent {
            Parent::Root(root) => *root,
            Parent::Below(folder) => folder.as_fd(),
        }
    }

    fn folder(&self) -> Result<(), UnpackError> {
        make_folder(self.parent(), self.name).map_err(|source| write_error(self.path, source))
    }

    fn link(&self, says: &str) -> Result<(), UnpackError> {
        rustix::fs::symlinkat(says, self.parent(), self.name).map_err(|source| write_error(self.path, source))
    }

    fn file(
        &self,
        executable: bool,
        fill: impl FnOnce(&mut File) -> Result<(), UnpackError>,
    ) -> Result<(), UnpackError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(self.parent(), self.name, flags, Mode::from_raw_mode(0o600));
        let mut file = File::from(opened.map_err(|source| write_error(self.path, source))?);
        fill(&mut file)?;
        let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
        rustix::fs::fchmod(&file, mode).map_err(|source| write_error(self.path, source))
    }
}

/// Opens a folder below another: the kernel refuses links, `..` and everything else that leads out.
fn open_below(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}

fn make_folders(root: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
    if open_below(root, path).is_ok() {
        return Ok(());
    }
    let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
    let mut above: Option<OwnedFd> = None;
    let mut from = 0;
    for end in ends {
        let at = above.as_ref().map_or(root, |above| above.as_fd());
        make_folder(at, path.get(from..end).unwrap_or_default())?;
        above = Some(open_below(root, path.get(..end).unwrap_or_default())?);
        from = end + 1;
    }
    Ok(())
}

fn make_folder(parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    match rustix::fs::mkdirat(parent, name, FOLDER) {
        // The archive's loop has seen to it that only a folder can be there.
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => rustix::fs::chmodat(parent, name, FOLDER, AtFlags::empty()),
    }
}

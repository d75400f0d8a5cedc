//! Where packages are installed: versions beside each other, a link to the current one, and what was current before.
//!
//! ```text
//! ROOT/NAME-1.0.0/            a version, as it was unpacked
//! ROOT/NAME-1.1.0/
//! ROOT/NAME-current           a link to one of them: the truth about what is current
//! ROOT/.harness/NAME/lock     held by whoever changes something, with its name in it
//! ROOT/.harness/NAME/history.json
//! ROOT/.harness/NAME/new-…    what is being unpacked, renamed when it is whole
//! ROOT/.harness/NAME/old-…    what is being removed
//! ROOT/.harness/NAME/incoming-…   what another machine sends, by the digest of its package
//! ```
//!
//! Every change is one rename. What a killed process left lies in `.harness/NAME`, and the next one that takes the lock
//! removes it.

use super::ReadManifest;
use super::hash::Digest;
use super::history::{History, SCHEMA};
use super::manifest::{self, Manifest};
use super::name;
use super::unpack::UnpackError;
use jiff::Timestamp;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use semver::Version;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

mod locked;

pub use locked::{Locked, Placed};

/// The folder with locks and histories.
const OWN: &str = ".harness";
/// What the folders of what comes begin with.
const INCOMING: &str = "incoming-";
/// What the link's name ends with. No version begins so, so it is never taken for one.
const CURRENT: &str = "-current";
/// Times that a lock is taken anew whose file its holder removed.
const LOCK_TRIES: u32 = 100;
/// Bytes of the largest history.
const MAX_HISTORY: u64 = 1 << 20;

/// Why something can't be installed or switched.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The package is refused.
    #[error(transparent)]
    Package(#[from] UnpackError),
    /// Somebody else is at it.
    #[error("{name} is being changed by another: {holder}")]
    Held {
        /// The package.
        name: String,
        /// Who, as its lock says.
        holder: String,
    },
    /// What is at the place isn't this package.
    #[error("{} is there already and isn't {expected}: {found}", path.display())]
    Taken {
        /// The place.
        path: PathBuf,
        /// What should be there.
        expected: String,
        /// What is.
        found: String,
    },
    /// The same version with other contents is there.
    #[error("{stem} is installed already, with other contents")]
    OtherContents {
        /// Name and version.
        stem: String,
    },
    /// No such package, or not this version of it.
    #[error("{what} is not installed")]
    NotInstalled {
        /// Name, or name and version.
        what: String,
        /// The versions that are, or the packages.
        known: Vec<String>,
    },
    /// Nothing was current before.
    #[error("there is no version of {name} to go back to")]
    NoEarlier {
        /// The package.
        name: String,
    },
    /// Not a name that a package has.
    #[error("`{0}` is not the name of a package")]
    Name(String),
    /// The history is of a later format, or damaged.
    #[error("{} can't be understood: {reason}", path.display())]
    History {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file or folder.
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

/// An error of the file system, for `map_err`.
fn failed<E: Into<io::Error>>(verb: &'static str, path: &Path) -> impl FnOnce(E) -> InstallError {
    move |source| InstallError::File { verb, path: path.to_owned(), source: source.into() }
}

/// A folder that packages are installed to.
#[derive(Clone, Debug)]
pub struct Depot {
    root: PathBuf,
}

/// What is installed of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The package.
    pub name: String,
    /// The version that the link leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Version>,
    /// Where a rollback would lead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<Version>,
    /// All that are there, oldest first.
    pub versions: Vec<Version>,
    /// What was current when.
    pub history: History,
}

impl Depot {
    /// The folder need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a version lies.
    pub fn folder(&self, name: &str, version: &Version) -> PathBuf {
        self.root.join(name::stem(name, version))
    }

    /// The link to the current version.
    pub fn link(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}{CURRENT}"))
    }

    /// Where what comes of a package lies until it is whole: in a folder of its own for each, by its digest.
    pub fn staging(&self, name: &str, digest: &Digest) -> PathBuf {
        let digest = digest.to_string();
        self.own(name).join(format!("{INCOMING}{}", digest.get(..16).unwrap_or_default()))
    }

    /// What has come of a package, whole or not.
    pub fn incoming(&self, name: &str) -> Vec<PathBuf> {
        let own = self.own(name);
        // None of them is an error: there may be none.
        let names = names(&own).unwrap_or_default().into_iter();
        names.filter(|name| name.starts_with(INCOMING)).map(|name| own.join(name)).collect()
    }

    fn own(&self, name: &str) -> PathBuf {
        self.root.join(OWN).join(name)
    }

    /// Every package that was ever installed here, by name.
    ///
    /// # Errors
    ///
    /// What can't be read.
    pub fn list(&self, read: ReadManifest<'_>) -> Result<Vec<Status>, InstallError> {
        let mut all: Vec<String> =
            names(&self.root.join(OWN))?.into_iter().filter(|name| name::is_name(name)).collect();
        all.sort();
        let mut found = Vec::new();
        for name in all {
            found.extend(Some(self.read_status(&name, read)?).filter(|status| !status.versions.is_empty()));
        }
        Ok(found)
    }

    /// One package.
    ///
    /// # Errors
    ///
    /// [`InstallError::NotInstalled`], and what can't be read.
    pub fn status(&self, name: &str, read: ReadManifest<'_>) -> Result<Status, InstallError> {
        check_name(name)?;
        let status = self.read_status(name, read)?;
        if status.versions.is_empty() {
            let known = self.list(read)?.into_iter().map(|status| status.name).collect();
            return Err(InstallError::NotInstalled { what: name.to_owned(), known });
        }
        Ok(status)
    }

    fn read_status(&self, name: &str, read: ReadManifest<'_>) -> Result<Status, InstallError> {
        let history = self.history(name)?;
        let current = self.current(name)?;
        let versions = self.versions(name, read)?;
        let previous = current.as_ref().and_then(|current| history.before(current)).cloned();
        let previous = previous.filter(|previous| versions.contains(previous));
        Ok(Status { name: name.to_owned(), current, previous, versions, history })
    }

    /// The version that the link leads to.
    ///
    /// # Errors
    ///
    /// [`InstallError::Taken`] where something else is at its place.
    pub fn current(&self, name: &str) -> Result<Option<Version>, InstallError> {
        let path = self.link(name);
        let taken = |found: String| InstallError::Taken {
            path: path.clone(),
            expected: format!("the link to a version of {name}"),
            found,
        };
        let target = match fs::read_link(&path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(taken("no link".into())),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let version = target
            .to_str()
            .and_then(|text| text.strip_prefix(name)?.strip_prefix('-'))
            .and_then(name::version);
        version.map(Some).ok_or_else(|| taken(format!("it leads to {}", target.display())))
    }

    /// The versions that are there, oldest first.
    fn versions(&self, name: &str, read: ReadManifest<'_>) -> Result<Vec<Version>, InstallError> {
        let stem = format!("{name}-");
        let mut versions: Vec<Version> = names(&self.root)?
            .iter()
            .filter_map(|entry| name::version(entry.strip_prefix(&stem)?))
            // `foo-1.0.0` in version 2.0.0 and `foo` in version 1.0.0-2.0.0 have the same folder.
            .filter(|version| {
                installed(&self.folder(name, version), read).is_ok_and(|manifest| manifest.name == name)
            })
            .collect();
        versions.sort();
        Ok(versions)
    }

    fn history(&self, name: &str) -> Result<History, InstallError> {
        let path = self.own(name).join("history.json");
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_HISTORY).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(History::default()),
            Err(error) => return Err(failed("read", &path)(error)),
        }
        let damaged = |reason: String| InstallError::History { path: path.clone(), reason };
        let history: History = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if history.schema == SCHEMA {
            Ok(history)
        } else {
            Err(damaged(format!("its format is {}", history.schema)))
        }
    }

    /// Takes the lock of a package, and removes what a killed holder left. `holder` says who it is, for whoever finds it
    /// taken; `now` dates what is found.
    ///
    /// # Errors
    ///
    /// [`InstallError::Held`] at once where somebody else has it, and what can't be written.
    pub fn lock(&self, name: &str, holder: &str, now: Timestamp) -> Result<Locked, InstallError> {
        check_name(name)?;
        let own = self.own(name);
        let path = own.join("lock");
        let new_root = !self.root.exists();
        for _ in 0..LOCK_TRIES {
            fs::create_dir_all(&own).map_err(failed("make", &own))?;
            let Some(mut file) = take(&path, name)? else { continue };
            file.set_len(0).and_then(|()| writeln!(file, "{holder}")).map_err(failed("write", &path))?;
            return Locked::begin(self.clone(), name.to_owned(), file, new_root, now);
        }
        let source = io::Error::other("it goes away each time");
        Err(InstallError::File { verb: "lock", path, source })
    }
}

/// The locked file; `None` when its holder before has removed it in the meantime.
fn take(path: &Path, name: &str) -> Result<Option<File>, InstallError> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o644).custom_flags(flags);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let _ = (&file).take(4096).read_to_string(&mut holder);
            return Err(InstallError::Held { name: name.to_owned(), holder: holder.trim().to_owned() });
        }
        Err(error) => return Err(failed("lock", path)(error)),
    }
    let ours = file.metadata().map_err(failed("lock", path))?;
    let there = fs::symlink_metadata(path).ok();
    Ok(there.is_some_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())).then_some(file))
}

fn check_name(name: &str) -> Result<(), InstallError> {
    if name::is_name(name) { Ok(()) } else { Err(InstallError::Name(name.escape_debug().to_string())) }
}

/// The manifest of what lies in a folder; else what is there instead.
fn installed(folder: &Path, read: ReadManifest<'_>) -> Result<Manifest, String> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(folder.join(manifest::FILE));
    let mut text = String::new();
    file.and_then(|file| file.take(manifest::MAX_BYTES).read_to_string(&mut text))
        .map_err(|error| format!("its {} can't be read: {error}", manifest::FILE))?;
    let mut manifest = read(&text).map_err(|error| format!("its {} is wrong: {error}", manifest::FILE))?;
    manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
    manifest.links.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(manifest)
}

/// The names in a folder that are UTF-8; none where there is no folder.
fn names(folder: &Path) -> Result<Vec<String>, InstallError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(failed("read", folder))?.file_name().into_string().ok());
    }
    Ok(names)
}

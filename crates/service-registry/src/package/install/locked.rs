//! Changes to one package, under its lock.

use super::super::ReadManifest;
use super::super::folder;
use super::super::hash::Digest;
use super::super::history::{Action, History};
use super::super::manifest::Manifest;
use super::super::name;
use super::super::unpack::{self, Check, Package, UnpackError};
use super::{Depot, INCOMING, InstallError, Status, failed, installed, names};
use jiff::Timestamp;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use semver::Version;
use std::fs::{self, File, Permissions};
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A version that is whole and in its place.
#[derive(Debug)]
pub struct Placed {
    /// What it is.
    pub package: Package,
    /// Where it is.
    pub folder: PathBuf,
    /// Whether this call brought it there; else it was there before, the same.
    pub fresh: bool,
}

/// A package that nobody else changes as long as this lives.
#[derive(Debug)]
pub struct Locked {
    depot: Depot,
    name: String,
    own: PathBuf,
    /// Whether the folder of packages was made with the lock.
    new_root: bool,
    _lock: File,
}

impl Locked {
    /// With the lock taken: what a killed holder left is put in order first.
    pub(super) fn begin(
        depot: Depot,
        name: String,
        lock: File,
        new_root: bool,
        now: Timestamp,
    ) -> Result<Self, InstallError> {
        let own = depot.own(&name);
        let locked = Self { depot, name, own, new_root, _lock: lock };
        locked.clean()?;
        locked.catch_up(now)?;
        Ok(locked)
    }

    /// Removes what a killed holder left.
    fn clean(&self) -> Result<(), InstallError> {
        for left in
            names(&self.own)?.iter().filter(|left| left.starts_with("new-") || left.starts_with("old-"))
        {
            remove(&self.own.join(left))?;
        }
        Ok(())
    }

    /// Notes a switch that a killed holder had no time to note.
    fn catch_up(&self, now: Timestamp) -> Result<(), InstallError> {
        let mut history = self.depot.history(&self.name)?;
        match self.depot.current(&self.name)? {
            Some(current) if history.current() != Some(&current) => {
                history.add(current, Action::Found, now, None);
                self.write(&history)
            }
            _ => Ok(()),
        }
    }

    /// Unpacks a package beside its place and renames it there. It isn't current yet.
    ///
    /// A version that is there already, with the same contents, is left as it is.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the package or the place; nothing is left then.
    pub fn place(&self, package: &mut File, check: Check<'_>) -> Result<Placed, InstallError> {
        let read = check.read;
        let manifest = unpack::peek(&mut *package, read, &check.limits)?;
        package.rewind().map_err(|error| failed("read", Path::new("the package"))(error))?;
        if manifest.name != self.name {
            return Err(UnpackError::OtherName { found: manifest.name, asked: self.name.clone() }.into());
        }
        let folder = self.depot.folder(&self.name, &manifest.version);
        if fs::symlink_metadata(&folder).is_ok() {
            let package = unpack::verify(package, check)?;
            self.same(&folder, &package.manifest, read)?;
            return Ok(Placed { package, folder, fresh: false });
        }
        let beside = self.own.join(format!("new-{}", manifest.version));
        fs::create_dir(&beside).map_err(failed("make", &beside))?;
        let placed = self.unpack(package, check, &beside, &folder, &manifest);
        if placed.is_err() {
            // The error before is the one to tell; what is left is removed by the next.
            let _ = remove(&beside);
        }
        Ok(Placed { package: placed?, folder, fresh: true })
    }

    fn unpack(
        &self,
        package: &mut File,
        check: Check<'_>,
        beside: &Path,
        folder: &Path,
        peeked: &Manifest,
    ) -> Result<Package, InstallError> {
        let found = unpack::unpack(package, beside, check)?;
        if found.manifest.stem() != peeked.stem() {
            return Err(UnpackError::Changed.into());
        }
        self.settle(beside, folder, &found)?;
        Ok(found)
    }

    /// The same for a package that lies unpacked in [`Depot::staging`]; it isn't there any more afterwards, nor is what else
    /// came of this package.
    ///
    /// # Errors
    ///
    /// As [`Locked::place`].
    pub fn place_staged(
        &self,
        digest: Digest,
        packed: u64,
        read: ReadManifest<'_>,
    ) -> Result<Placed, InstallError> {
        let staged = self.depot.staging(&self.name, &digest);
        let package = folder::verify(&staged, read, digest, packed)?;
        if package.manifest.name != self.name {
            let found = package.manifest.name;
            return Err(UnpackError::OtherName { found, asked: self.name.clone() }.into());
        }
        let folder = self.depot.folder(&self.name, &package.manifest.version);
        let fresh = fs::symlink_metadata(&folder).is_err();
        if fresh {
            self.settle(&staged, &folder, &package)?;
        } else {
            self.same(&folder, &package.manifest, read)?;
        }
        for left in names(&self.own)?.iter().filter(|left| left.starts_with(INCOMING)) {
            remove(&self.own.join(left))?;
        }
        Ok(Placed { package, folder, fresh })
    }

    /// Gives what is whole its name.
    fn settle(&self, beside: &Path, folder: &Path, found: &Package) -> Result<(), InstallError> {
        fs::set_permissions(beside, Permissions::from_mode(0o755)).map_err(failed("make", beside))?;
        // All files of it in one go, before its name says that it is whole.
        let opened = File::open(beside).map_err(failed("open", beside))?;
        rustix::fs::syncfs(&opened).map_err(failed("sync", beside))?;
        match rustix::fs::renameat_with(CWD, beside, CWD, folder, RenameFlags::NOREPLACE) {
            // Not every file system can refuse; a folder that isn't empty is never replaced anyway.
            Err(Errno::INVAL | Errno::NOSYS) => fs::rename(beside, folder).map_err(failed("make", folder))?,
            Err(Errno::EXIST) => return Err(self.taken(folder, &found.manifest, "it came meanwhile".into())),
            other => other.map_err(failed("make", folder))?,
        }
        sync(self.depot.root())
    }

    /// Whether what is in the place is this package.
    fn same(&self, folder: &Path, manifest: &Manifest, read: ReadManifest<'_>) -> Result<(), InstallError> {
        let there = installed(folder, read).map_err(|found| self.taken(folder, manifest, found))?;
        if (&there.name, &there.version) != (&manifest.name, &manifest.version) {
            let found = format!("it is {} in version {}", there.name, there.version);
            return Err(self.taken(folder, manifest, found));
        }
        if there == *manifest { Ok(()) } else { Err(InstallError::OtherContents { stem: manifest.stem() }) }
    }

    fn taken(&self, path: &Path, manifest: &Manifest, found: String) -> InstallError {
        let expected = format!("{} in version {}", manifest.name, manifest.version);
        InstallError::Taken { path: path.to_owned(), expected, found }
    }

    /// Makes a version current, by one rename, and notes it. The answer is what was current before. A version that is
    /// current already changes nothing.
    ///
    /// # Errors
    ///
    /// [`InstallError::NotInstalled`], and what can't be written.
    pub fn switch(
        &self,
        version: &Version,
        action: Action,
        digest: Option<Digest>,
        now: Timestamp,
    ) -> Result<Option<Version>, InstallError> {
        let folder = self.depot.folder(&self.name, version);
        if !folder.is_dir() {
            return Err(InstallError::NotInstalled {
                what: name::stem(&self.name, version),
                known: Vec::new(),
            });
        }
        let before = self.depot.current(&self.name)?;
        if before.as_ref() == Some(version) {
            return Ok(before);
        }
        self.point_to(version)?;
        let mut history = self.depot.history(&self.name)?;
        history.add(version.clone(), action, now, digest);
        self.write(&history)?;
        Ok(before)
    }

    /// Switches the link.
    fn point_to(&self, version: &Version) -> Result<(), InstallError> {
        let (beside, link) = (self.own.join("new-link"), self.depot.link(&self.name));
        std::os::unix::fs::symlink(name::stem(&self.name, version), &beside)
            .map_err(failed("make", &beside))?;
        fs::rename(&beside, &link).map_err(failed("make", &link))?;
        sync(self.depot.root())
    }

    /// Takes back the switch that has just been made, as if it never was: the version from before is current again, or
    /// none is.
    ///
    /// # Errors
    ///
    /// As [`Locked::switch`].
    pub fn take_back(&self, before: Option<&Version>) -> Result<(), InstallError> {
        // The history first: if this is killed in between, the next holder finds a switch that wasn't noted.
        let mut history = self.depot.history(&self.name)?;
        history.records.pop();
        self.write(&history)?;
        if let Some(before) = before {
            return self.point_to(before);
        }
        let link = self.depot.link(&self.name);
        fs::remove_file(&link).map_err(failed("remove", &link))
    }

    /// Where a rollback leads: to `version`, or to what the current one replaced.
    ///
    /// # Errors
    ///
    /// [`InstallError::NotInstalled`], [`InstallError::NoEarlier`].
    pub fn earlier(
        &self,
        version: Option<&Version>,
        read: ReadManifest<'_>,
    ) -> Result<Version, InstallError> {
        let status = self.depot.status(&self.name, read)?;
        match version {
            Some(version) if status.versions.contains(version) => Ok(version.clone()),
            Some(version) => Err(InstallError::NotInstalled {
                what: name::stem(&self.name, version),
                known: status.versions.iter().map(ToString::to_string).collect(),
            }),
            None => status.previous.ok_or_else(|| InstallError::NoEarlier { name: self.name.clone() }),
        }
    }

    /// Removes a version that isn't current: first its name, then what it holds.
    ///
    /// # Errors
    ///
    /// What can't be removed.
    pub fn remove(&self, version: &Version) -> Result<(), InstallError> {
        if self.depot.current(&self.name)?.as_ref() == Some(version) {
            return Ok(());
        }
        let (folder, old) = (self.depot.folder(&self.name, version), self.own.join(format!("old-{version}")));
        fs::rename(&folder, &old).map_err(failed("remove", &folder))?;
        remove(&old)
    }

    /// Ends a change that came to nothing: removes `version`, unless it is or was current; and all traces of the package
    /// where none of it ever was.
    ///
    /// # Errors
    ///
    /// What can't be removed.
    pub fn discard(self, version: Option<&Version>) -> Result<(), InstallError> {
        let history = self.depot.history(&self.name)?;
        if let Some(version) =
            version.filter(|version| !history.records.iter().any(|record| record.version == **version))
            && self.depot.folder(&self.name, version).exists()
        {
            self.remove(version)?;
        }
        if history.records.is_empty() && self.depot.current(&self.name)?.is_none() {
            // Whoever opens the lock in this moment sees that its file is gone, and makes another.
            remove(&self.own)?;
            // These fail, as they should, where something else is in them.
            let _ = fs::remove_dir(self.depot.root().join(super::OWN));
            if self.new_root {
                let _ = fs::remove_dir(self.depot.root());
            }
        }
        Ok(())
    }

    /// Removes old versions, so that `keep` are left: never the current one nor the one that a rollback leads to, then
    /// those that were current last. The answer is what was removed.
    ///
    /// # Errors
    ///
    /// What can't be removed.
    pub fn collect(&self, keep: usize, read: ReadManifest<'_>) -> Result<Vec<Version>, InstallError> {
        let status = self.depot.read_status(&self.name, read)?;
        let old = superfluous(&status, keep);
        old.iter().try_for_each(|version| self.remove(version))?;
        Ok(old)
    }

    fn write(&self, history: &History) -> Result<(), InstallError> {
        let (beside, path) = (self.own.join("new-history"), self.own.join("history.json"));
        let text = serde_json::to_vec_pretty(history)
            .map_err(|error| InstallError::History { path: path.clone(), reason: error.to_string() })?;
        let mut file = File::create(&beside).map_err(failed("write", &beside))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed("write", &beside))?;
        fs::rename(&beside, &path).map_err(failed("write", &path))?;
        sync(&self.own)
    }
}

/// The versions beyond the `keep` that matter most, oldest first.
fn superfluous(status: &Status, keep: usize) -> Vec<Version> {
    let last_used =
        |version: &Version| status.history.records.iter().rposition(|record| record.version == *version);
    let held = |version: &Version| {
        status.current.as_ref() == Some(version) || status.previous.as_ref() == Some(version)
    };
    let mut order: Vec<&Version> = status.versions.iter().collect();
    order.sort_by_key(|version| {
        (!held(version), std::cmp::Reverse(last_used(version)), std::cmp::Reverse(*version))
    });
    let mut old: Vec<Version> =
        order.into_iter().skip(keep).filter(|version| !held(version)).cloned().collect();
    old.sort();
    old
}

/// Removes a file, a link, or a folder with all that is in it.
fn remove(path: &Path) -> Result<(), InstallError> {
    let is_dir = fs::symlink_metadata(path).map_err(failed("remove", path))?.is_dir();
    let removed = if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(failed("remove", path))
}

/// Makes renames in a folder survive a power loss.
fn sync(folder: &Path) -> Result<(), InstallError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_current_or_gone_back_to_is_kept() {
        let versions: Vec<Version> = (1..=5).map(|major| Version::new(major, 0, 0)).collect();
        let mut history = History::default();
        for version in &versions {
            history.add(version.clone(), Action::Deploy, Timestamp::UNIX_EPOCH, None);
        }
        let mut status = Status {
            name: "web".into(),
            current: Some(versions[1].clone()),
            previous: Some(versions[0].clone()),
            versions,
            history,
        };
        let old = |status: &Status, keep| {
            superfluous(status, keep).iter().map(|version| version.major).collect::<Vec<_>>()
        };
        assert_eq!(old(&status, 5), [0; 0]);
        assert_eq!(old(&status, 3), [3, 4], "the newest of the others stays");
        assert_eq!(old(&status, 0), [3, 4, 5]);
        status.current = None;
        status.previous = None;
        assert_eq!(old(&status, 2), [1, 2, 3]);
    }
}

//! Packages as this program handles them: where they are installed, whose signature counts, and the deed of deploying one.
//! The library below knows archives, folders and links; scripts are run here.

mod error;
mod scripts;
pub(crate) mod service;

pub(crate) use error::PackageError;

use crate::project;
use jiff::Timestamp;
use semver::Version;
use serde::Serialize;
use service_registry::package::ReadManifest;
use service_registry::package::archive::Limits;
use service_registry::package::hash::Digest;
use service_registry::package::history::Action;
use service_registry::package::install::{Depot, Locked, Placed};
use service_registry::package::manifest::{self, Manifest};
use service_registry::package::sign::{self, PublicKey, Signature};
use service_registry::package::unpack::{self, Check, Package};
use std::fs::File;
use std::io::{Read, Seek as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Reads the manifest in a package.
pub(crate) const READ: ReadManifest<'static> = &harness_config::packed_manifest;

/// Time that a script of a package may take when nothing else is said.
pub(crate) const SCRIPT: Duration = Duration::from_secs(300);

/// Versions that are kept when nothing else is said.
pub(crate) const KEEP: usize = 3;

/// The folder that packages are installed to.
pub(crate) fn depot(prefix: Option<&Path>) -> Result<Depot, PackageError> {
    if let Some(prefix) = prefix {
        let path = std::path::absolute(prefix);
        return path.map(Depot::new).map_err(|source| PackageError::File { path: prefix.into(), source });
    }
    if rustix::process::geteuid().is_root() {
        return Ok(Depot::new("/opt"));
    }
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let data = data.or_else(|| project::home().map(|home| home.join(".local/share")));
    data.map(|data| Depot::new(data.join("harness/opt"))).ok_or(PackageError::NoHome)
}

/// A public key: a file of minisign's, or its second line.
pub(crate) fn public_key(text: &str) -> Result<PublicKey, PackageError> {
    let path = Path::new(text);
    let found = if path.is_file() { small(path)? } else { text.to_owned() };
    PublicKey::parse(&found).map_err(|source| PackageError::Key { path: path.into(), source })
}

/// The text of a file that holds a key or a signature.
pub(crate) fn small(path: &Path) -> Result<String, PackageError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(sign::MAX_BYTES).read_to_string(&mut text))
        .map_err(|source| PackageError::File { path: path.into(), source })?;
    Ok(text)
}

/// Where the signature of a file is.
pub(crate) fn signature_path(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(sign::ENDING);
    path.into()
}

/// An open package, its signature verified where a key was given.
#[derive(Debug)]
pub(crate) struct Opened {
    file: File,
    path: PathBuf,
    digest: Option<Digest>,
    /// The comment that was signed with it.
    pub(crate) signed: Option<String>,
}

impl Opened {
    /// Opens a package. Nothing of it is read as an archive before its signature is known to be good.
    pub(crate) fn new(path: &Path, key: Option<&PublicKey>) -> Result<Self, PackageError> {
        let failed = |source| PackageError::File { path: path.into(), source };
        let mut file = File::open(path).map_err(failed)?;
        let data = file.metadata().map_err(failed)?;
        if !data.is_file() {
            return Err(failed(std::io::Error::other("not a file")));
        }
        let (mut digest, mut signed) = (None, None);
        if let Some(key) = key {
            let at = signature_path(path);
            if !at.exists() {
                return Err(PackageError::Unsigned { path: path.into() });
            }
            let refused = |source| PackageError::Signature { path: path.into(), source };
            let signature = Signature::parse(&small(&at)?).map_err(refused)?;
            digest = Some(key.verify(&signature, &mut file).map_err(refused)?);
            signed = Some(signature.comment().to_owned());
            file.rewind().map_err(failed)?;
        }
        Ok(Self { file, path: path.into(), digest, signed })
    }

    /// Its manifest, not compared with anything yet.
    pub(crate) fn peek(&mut self) -> Result<Manifest, PackageError> {
        let found =
            unpack::peek(&mut self.file, READ, &Limits::default()).map_err(|source| self.refused(source))?;
        self.file.rewind().map_err(|source| PackageError::File { path: self.path.clone(), source })?;
        Ok(found)
    }

    /// Reads all of it and compares it with its manifest.
    pub(crate) fn verify(&mut self, progress: &mut dyn FnMut(u64) -> bool) -> Result<Package, PackageError> {
        let name = self.name();
        let check = check(name.as_deref(), self.digest, progress);
        unpack::verify(&mut self.file, check).map_err(|source| self.refused(source))
    }

    /// The same, and unpacks it into a folder, which must be empty.
    pub(crate) fn unpack(&mut self, into: &Path) -> Result<Package, PackageError> {
        let name = self.name();
        let mut progress = |_| true;
        let check = check(name.as_deref(), self.digest, &mut progress);
        unpack::unpack(&mut self.file, into, check).map_err(|source| self.refused(source))
    }

    fn refused(&self, source: unpack::UnpackError) -> PackageError {
        PackageError::Refused { path: self.path.clone(), source }
    }

    fn name(&self) -> Option<String> {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned())
    }

    fn place(
        &mut self,
        locked: &Locked,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Placed, PackageError> {
        let name = self.name();
        let check = check(name.as_deref(), self.digest, progress);
        locked
            .place(&mut self.file, check)
            .map_err(|source| PackageError::Install { path: self.path.clone(), source })
    }
}

fn check<'a>(
    file_name: Option<&'a str>,
    digest: Option<Digest>,
    progress: &'a mut dyn FnMut(u64) -> bool,
) -> Check<'a> {
    Check { read: READ, limits: Limits::default(), file_name, digest, progress }
}

/// How a package is deployed.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Versions that are kept.
    pub(crate) keep: usize,
    /// Whether the version from before becomes current again when the script after the switch fails.
    pub(crate) rollback_on_failure: bool,
    /// Time that a script may take.
    pub(crate) timeout: Duration,
}

/// What became of a deployment.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Deployed {
    /// The package.
    pub(crate) name: String,
    /// Its version, which is current now.
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) version: Version,
    /// What was current before.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) previous: Option<Version>,
    /// Whether that is another.
    pub(crate) changed: bool,
    /// Where it lies.
    pub(crate) folder: PathBuf,
    /// The link to it.
    pub(crate) current: PathBuf,
    /// The digest of the package.
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) sha256: Digest,
    /// Older versions that were removed.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub(crate) removed: Vec<Version>,
}

/// Something that a deployment does, for whoever watches.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    /// So many bytes of its files are unpacked.
    Unpacked(u64),
    /// A script of the package runs.
    Script(&'a str),
    /// It is about to become current.
    Switch,
}

/// Installs a package and makes it current. The callback is told how far it is; `false` from it ends the deployment, and
/// all is as before.
pub(crate) fn deploy(
    package: &mut Opened,
    depot: &Depot,
    options: &Options,
    watch: &mut dyn FnMut(Step<'_>) -> bool,
) -> Result<Deployed, PackageError> {
    let peeked = package.peek()?;
    scripts::check_requires(&peeked)?;
    check_dependencies(&peeked, depot)?;
    let locked = depot.lock(&peeked.name, &holder(), Timestamp::now()).map_err(PackageError::depot(depot))?;
    let placed = package.place(&locked, &mut |bytes| watch(Step::Unpacked(bytes)));
    bring_in(locked, placed, depot, options, watch)
}

/// The same for a package that lies in its staging folder, as it came from another machine.
pub(crate) fn deploy_staged(
    name: &str,
    digest: Digest,
    size: u64,
    holder: &str,
    depot: &Depot,
    options: &Options,
) -> Result<Deployed, PackageError> {
    let locked = depot.lock(name, holder, Timestamp::now()).map_err(PackageError::depot(depot))?;
    let path = depot.staging(name, &digest).join(manifest::FILE);
    let read = std::fs::read_to_string(&path).and_then(|text| READ(&text).map_err(std::io::Error::other));
    // What it needs is looked at first: a version that can't be used isn't brought in.
    let placed = read
        .map_err(|source| PackageError::File { path, source })
        .and_then(|manifest| {
            scripts::check_requires(&manifest)?;
            check_dependencies(&manifest, depot)
        })
        .and_then(|()| locked.place_staged(digest, size, READ).map_err(PackageError::depot(depot)));
    bring_in(locked, placed, depot, options, &mut |_| true)
}

/// Makes what is in its place current, or takes it away again.
fn bring_in(
    locked: Locked,
    found: Result<Placed, PackageError>,
    depot: &Depot,
    options: &Options,
    watch: &mut dyn FnMut(Step<'_>) -> bool,
) -> Result<Deployed, PackageError> {
    let mut placed = None;
    let done = found.and_then(|found| {
        let Placed { package: found, folder, .. } = placed.insert(found);
        let Manifest { name, version, .. } = &found.manifest;
        let before = depot.current(name).map_err(PackageError::depot(depot))?;
        let changed = before.as_ref() != Some(version);
        if changed {
            switch(&locked, found, folder, before.as_ref(), options, watch)?;
        }
        Ok((before, changed))
    });
    let (before, changed) = match done {
        Ok(done) => done,
        Err(error) => {
            let version = placed.as_ref().map(|placed| &placed.package.manifest.version);
            locked.discard(version).map_err(PackageError::depot(depot))?;
            return Err(error);
        }
    };
    let Some(Placed { package: found, folder, .. }) = placed else { return Err(PackageError::Interrupted) };
    let Manifest { name, version, .. } = &found.manifest;
    let removed = locked.collect(options.keep, READ).map_err(PackageError::depot(depot))?;
    Ok(Deployed {
        name: name.clone(),
        version: version.clone(),
        previous: before,
        changed,
        folder,
        current: depot.link(name),
        sha256: found.digest,
        removed,
    })
}

/// Whether the packages here that it depends on are of versions that will do. A dependency that is no package here may be
/// anything else: a container, a service of another machine.
pub(crate) fn check_dependencies(manifest: &Manifest, depot: &Depot) -> Result<(), PackageError> {
    let mut unmet = Vec::new();
    for (name, wanted) in &manifest.dependencies {
        let current = depot.current(name).map_err(PackageError::depot(depot))?;
        if let Some(current) = current.filter(|current| !wanted.matches(current)) {
            unmet.push(format!("{name} {wanted}, and {current} is current"));
        }
    }
    if unmet.is_empty() { Ok(()) } else { Err(PackageError::Unmet { package: manifest.stem(), unmet }) }
}

/// The scripts before, the switch, the script after.
fn switch(
    locked: &Locked,
    found: &Package,
    folder: &Path,
    before: Option<&Version>,
    options: &Options,
    watch: &mut dyn FnMut(Step<'_>) -> bool,
) -> Result<(), PackageError> {
    let Manifest { version, .. } = &found.manifest;
    let run = |path: &str| scripts::run(&found.manifest, folder, path, before, options.timeout);
    let has = |path: &&str| found.manifest.files.iter().any(|file| file.path == **path);
    for path in manifest::BEFORE.into_iter().filter(has) {
        if !watch(Step::Script(path)) {
            return Err(PackageError::Interrupted);
        }
        run(path)?;
    }
    // The last moment to turn back: what follows the switch is done to its end.
    if !watch(Step::Switch) {
        return Err(PackageError::Interrupted);
    }
    let failed = PackageError::depot_at(folder);
    locked.switch(version, Action::Deploy, Some(found.digest), Timestamp::now()).map_err(&failed)?;
    if !has(&manifest::AFTER) {
        return Ok(());
    }
    watch(Step::Script(manifest::AFTER));
    if let Err(error) = run(manifest::AFTER) {
        if options.rollback_on_failure {
            locked.take_back(before).map_err(&failed)?;
        }
        return Err(PackageError::After { source: Box::new(error), stays: !options.rollback_on_failure });
    }
    Ok(())
}

/// What became of a rollback.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct RolledBack {
    /// The package.
    pub(crate) name: String,
    /// What is current now.
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) version: Version,
    /// What was current before.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) previous: Option<Version>,
    /// Whether that is another.
    pub(crate) changed: bool,
    /// The link to it.
    pub(crate) current: PathBuf,
}

/// Makes an earlier version current; `dry` only says which.
pub(crate) fn rollback(
    depot: &Depot,
    name: &str,
    version: Option<&Version>,
    dry: bool,
) -> Result<RolledBack, PackageError> {
    // What isn't there is told before a folder is made for its lock.
    depot.status(name, READ).map_err(PackageError::depot(depot))?;
    let locked = depot.lock(name, &holder(), Timestamp::now()).map_err(PackageError::depot(depot))?;
    let version = locked.earlier(version, READ).map_err(PackageError::depot(depot))?;
    let previous = depot.current(name).map_err(PackageError::depot(depot))?;
    let changed = previous.as_ref() != Some(&version);
    if !dry {
        let switched = locked.switch(&version, Action::Rollback, None, Timestamp::now());
        switched.map_err(PackageError::depot(depot))?;
    }
    Ok(RolledBack { name: name.to_owned(), version, previous, changed, current: depot.link(name) })
}

/// Who holds a lock, for whoever finds it taken.
fn holder() -> String {
    let command: Vec<String> = std::env::args().collect();
    format!("pid {}, since {}, {}", std::process::id(), Timestamp::now(), command.join(" "))
}

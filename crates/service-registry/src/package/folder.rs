//! A package that lies unpacked in a folder, compared with its manifest like one that comes in an archive.

use super::ReadManifest;
use super::hash::Digest;
use super::manifest::{self, FILE};
use super::name;
use super::unpack::{Package, UnpackError, compare};
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Compares a folder with the manifest in it, entry by entry, and gives what is in it the modes of a package. `digest` and
/// `packed` are those of the archive that it came from. Nobody else may write to the folder.
///
/// # Errors
///
/// As [`super::unpack::verify`]; what can't be read is [`UnpackError::Write`].
pub fn verify(
    folder: &Path,
    read: ReadManifest<'_>,
    digest: Digest,
    packed: u64,
) -> Result<Package, UnpackError> {
    let mut text = String::new();
    let opened = File::open(folder.join(FILE)).map_err(|_| UnpackError::NoManifest)?;
    opened.take(manifest::MAX_BYTES).read_to_string(&mut text).map_err(failed(FILE))?;
    let mut manifest = read(&text).map_err(UnpackError::Manifest)?;
    let problems = manifest.problems();
    if !problems.is_empty() {
        return Err(UnpackError::Problems(problems));
    }
    manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
    manifest.links.sort_by(|a, b| a.path.cmp(&b.path));
    let mut seen = Seen { files: BTreeMap::new(), links: Vec::new(), programs: BTreeMap::new(), bytes: 0 };
    seen.look(folder, "")?;
    compare(&manifest, &seen.files, &seen.links)?;
    let missing = manifest.missing(|path| seen.programs.get(path).copied());
    if !missing.is_empty() {
        return Err(UnpackError::Problems(missing));
    }
    Ok(Package { manifest, digest, packed, unpacked: seen.bytes })
}

struct Seen {
    files: BTreeMap<String, (u64, Digest)>,
    links: Vec<(String, String)>,
    /// Whether a file may be executed.
    programs: BTreeMap<String, bool>,
    bytes: u64,
}

impl Seen {
    fn look(&mut self, folder: &Path, below: &str) -> Result<(), UnpackError> {
        for entry in fs::read_dir(folder).map_err(failed(below))? {
            let entry = entry.map_err(failed(below))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            let unlisted = || UnpackError::Unlisted(path.clone());
            name::path(path.as_bytes()).map_err(|_| unlisted())?;
            let (here, kind) = (entry.path(), entry.file_type().map_err(failed(&path))?);
            if kind.is_dir() {
                set_mode(&here, &path, 0o755)?;
                self.look(&here, &path)?;
            } else if kind.is_symlink() {
                let says = fs::read_link(&here).map_err(failed(&path))?;
                self.links.push((path, says.to_string_lossy().into_owned()));
            } else if kind.is_file() {
                let mode = entry.metadata().map_err(failed(&path))?.permissions().mode();
                let executable = mode & 0o111 != 0;
                set_mode(&here, &path, if executable { 0o755 } else { 0o644 })?;
                if path == FILE {
                    continue;
                }
                let mut file = File::open(&here).map_err(failed(&path))?;
                let (digest, size) = Digest::of_reader(&mut file).map_err(failed(&path))?;
                self.bytes += size;
                self.programs.insert(path.clone(), executable);
                self.files.insert(path, (size, digest));
            } else {
                return Err(unlisted());
            }
        }
        Ok(())
    }
}

fn set_mode(here: &Path, path: &str, mode: u32) -> Result<(), UnpackError> {
    fs::set_permissions(here, Permissions::from_mode(mode)).map_err(failed(path))
}

fn failed(path: &str) -> impl FnOnce(io::Error) -> UnpackError {
    move |source| UnpackError::Write { path: path.to_owned(), source }
}

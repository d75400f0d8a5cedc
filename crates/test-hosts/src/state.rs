//! Where the test hosts' state lies, and which checkout of the repository this is.

use crate::{Error, tool};
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The label that says which checkout of the repository a docker object belongs to: its path.
pub const CHECKOUT: &str = "harness-test.checkout";

/// The repository's folder.
pub(crate) fn checkout() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Eight hexadecimal digits that stand for [`folder`] in names: what lies there belongs to the hosts of these names.
pub(crate) fn digits() -> String {
    // FNV-1a: needs to be the same in every build, and nothing more.
    let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = folder().as_os_str().as_encoded_bytes().iter().fold(0x811c_9dc5, mix);
    format!("{hash:08x}")
}

/// The folder with keys, configurations of ssh and what runs: `target/hosts`.
pub fn folder() -> PathBuf {
    target().join("hosts")
}

/// The Python of the environment that `cargo xtask test` makes.
pub(crate) fn python() -> PathBuf {
    target().join("tools/python/bin/python3")
}

fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => checkout().join(folder),
        None => checkout().join("target"),
    }
}

/// Makes the folder, for its user alone, and the key that opens every host.
///
/// # Errors
/// When a folder can't be made, or `ssh-keygen` is missing or fails.
pub fn prepare() -> Result<(), Error> {
    make_folder(&folder().join("run"))?;
    if identity().with_extension("pub").exists() {
        return Ok(());
    }
    let _alone = lock("keys")?;
    if identity().with_extension("pub").exists() {
        return Ok(());
    }
    make_key(&identity(), "harness-test")
}

/// The private key that opens every host.
pub(crate) fn identity() -> PathBuf {
    folder().join("id")
}

/// Makes a key pair without a passphrase. The public half, `PATH.pub`, is there when both are.
pub(crate) fn make_key(path: &Path, comment: &str) -> Result<(), Error> {
    // What a killed maker left would be asked about.
    remove(path)?;
    let text = path.to_string_lossy();
    match tool::output(
        "ssh-keygen",
        &["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", &text],
        tool::Input::Nothing,
    ) {
        Err(Error::Ended { status, .. }) if status.code() == Some(127) => Err(Error::Absent {
            what: "ssh is not here".to_owned(),
            hint: "on Debian: apt-get install openssh-client".to_owned(),
        }),
        other => other.map(drop),
    }
}

/// One process at a time does this, until the file is dropped.
pub(crate) fn lock(what: &str) -> Result<File, Error> {
    let path = folder().join(what).with_extension("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|source| Error::File { path: path.clone(), doing: "opened", source })?;
    file.lock().map_err(|source| Error::File { path, doing: "locked", source })?;
    Ok(file)
}

/// Makes a folder and those above it, for their user alone.
pub(crate) fn make_folder(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::File { path: path.to_owned(), doing: "made", source })
}

/// Writes a file so that a reader sees the old text or the new one.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Error> {
    let new = path.with_extension("new");
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path));
    written.map_err(|source| Error::File { path: path.to_owned(), doing: "written", source })
}

/// Removes a file or folder that may be gone.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(Error::File { path: path.to_owned(), doing: "removed", source })
        }
        _ => Ok(()),
    }
}

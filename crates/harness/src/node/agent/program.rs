//! The programs that can be sent: this one, and those of other machines' kinds.

use async_lock::Mutex;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// This program, also where its file was replaced meanwhile.
const OWN: &str = "/proc/self/exe";
/// Bytes that are read at once.
const BLOCK: usize = 256 * 1024;

/// A program's file can't be used.
#[derive(Debug, thiserror::Error)]
#[error("can't read the agent's program {}", path.display())]
pub(crate) struct ProgramError {
    /// The file.
    pub(crate) path: PathBuf,
    /// Why.
    #[source]
    source: io::Error,
}

/// A program that can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// As `uname -m` says.
    pub(crate) arch: String,
    /// The file.
    pub(crate) path: PathBuf,
    /// SHA-256, 64 hexadecimal digits.
    pub(crate) hash: String,
    /// Its bytes.
    pub(crate) size: u64,
}

/// Finds the programs. What was read once is known as long as its file stays the same.
pub(crate) struct Programs {
    folder: Option<PathBuf>,
    hashes: Mutex<HashMap<PathBuf, (Stamp, String)>>,
}

/// What a file is recognised by.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Programs {
    /// This program, and `harness-ARCH` for each kind of machine in the folder.
    pub(crate) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, hashes: Mutex::default() }
    }

    /// All programs, one for each kind of machine. One in the folder goes before this one.
    pub(crate) async fn known(&self) -> Result<Vec<Program>, ProgramError> {
        let folder = self.folder.clone();
        let files = blocking::unblock(move || files(folder.as_deref())).await?;
        // Several connections at once wait here for the first.
        let mut hashes = self.hashes.lock().await;
        let mut programs = Vec::with_capacity(files.len());
        for (arch, path) in files {
            let (known, of) = (hashes.get(&path).cloned(), path.clone());
            let hashed = blocking::unblock(move || hash_of(&of, known)).await;
            let (stamp, hash) = hashed.map_err(|source| ProgramError { path: path.clone(), source })?;
            hashes.insert(path.clone(), (stamp, hash.clone()));
            programs.push(Program { arch, path, hash, size: stamp.size });
        }
        Ok(programs)
    }

    /// A program's bytes, compressed or as they are.
    pub(crate) async fn load(&self, program: &Program, compress: bool) -> Result<Vec<u8>, ProgramError> {
        let path = program.path.clone();
        let loaded = blocking::unblock(move || match compress {
            true => zipped(&path),
            false => fs::read(&path),
        });
        loaded.await.map_err(|source| ProgramError { path: program.path.clone(), source })
    }
}

/// The kind of machine that this program is for, as `uname -m` says it.
pub(crate) fn own_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86" => "i686",
        "arm" => "armv7l",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn files(folder: Option<&Path>) -> Result<Vec<(String, PathBuf)>, ProgramError> {
    let mut files = vec![(own_arch().to_owned(), PathBuf::from(OWN))];
    let Some(folder) = folder else { return Ok(files) };
    let failed = |source| ProgramError { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let arch = path.file_name().and_then(|name| name.to_str()?.strip_prefix("harness-"));
        let Some(arch) = arch.filter(|arch| is_arch(arch) && path.is_file()) else { continue };
        files.retain(|(other, _)| other != arch);
        files.push((arch.to_owned(), path));
    }
    files.sort();
    Ok(files)
}

fn is_arch(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn hash_of(path: &Path, known: Option<(Stamp, String)>) -> io::Result<(Stamp, String)> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    let stamp = Stamp {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        changed: (meta.mtime(), meta.mtime_nsec()),
    };
    if let Some(known) = known.filter(|(known, _)| *known == stamp) {
        return Ok(known);
    }
    let mut hasher = Sha256::new();
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block) {
            Ok(0) => break,
            Ok(count) => hasher.update(block.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((stamp, hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}

fn zipped(path: &Path) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&fs::read(path)?)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_the_folder_goes_before_this_one_and_others_stand_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let programs = Programs::new(Some(folder.path().to_owned()));
        let known = || async_io::block_on(programs.known()).unwrap();
        let alone = known();
        assert_eq!((alone.len(), alone[0].arch.as_str()), (1, own_arch()));
        for (name, text) in [("harness-s390x", "one"), ("harness-../x", ""), ("other", "x")] {
            let _ = fs::write(folder.path().join(name), text);
        }
        fs::write(folder.path().join(format!("harness-{}", own_arch())), "abc").unwrap();
        let both = known();
        assert_eq!(both.len(), 2, "{both:?}");
        let own = both.iter().find(|program| program.arch == own_arch()).unwrap();
        assert_eq!(own.hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(own.size, 3);
        fs::write(&own.path, "abcd").unwrap();
        assert_ne!(known().iter().find(|program| program.arch == own_arch()).unwrap().hash, own.hash);
        let zipped = async_io::block_on(programs.load(own, true)).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&zipped[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcd");
        let nowhere = Programs::new(Some(folder.path().join("no")));
        assert!(async_io::block_on(nowhere.known()).is_err());
    }
}

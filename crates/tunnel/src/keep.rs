//! What lasts between runs, in the state folder: the private key, the UDP port, where others were reached last.

use crate::config::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gotatun::x25519::{PublicKey, StaticSecret};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The private key: `EPOCH BASE64`.
const KEY: &str = "tunnel.key";
/// The rest, JSON.
const LAST: &str = "tunnel.json";
/// No file of ours is longer, in bytes.
const MAX: u64 = 1 << 20;

/// This node's own key.
pub(crate) struct OwnKey {
    /// The epoch that it was made for.
    pub(crate) epoch: u64,
    /// Never leaves this process, but for its file.
    pub(crate) secret: StaticSecret,
}

impl OwnKey {
    /// What others may know, base64.
    pub(crate) fn public(&self) -> String {
        STANDARD.encode(PublicKey::from(&self.secret).as_bytes())
    }
}

/// Reads somebody's public key.
pub(crate) fn public_key(text: &str) -> Option<PublicKey> {
    let bytes: [u8; 32] = STANDARD.decode(text).ok()?.try_into().ok()?;
    Some(PublicKey::from(bytes))
}

/// 16 or 32 random bytes, or any other number.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

/// What was true when it was written last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Last {
    /// Always 1.
    pub(crate) format: u32,
    /// The UDP port.
    pub(crate) port: u16,
    /// Where each node was reached.
    #[serde(default)]
    pub(crate) endpoints: BTreeMap<String, SocketAddr>,
}

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes it if need be, for this user only.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| Error::State { path: path.to_owned(), source })?;
        Ok(Self(path.to_owned()))
    }

    /// The key that is there, or a new one for epoch 0.
    pub(crate) fn key(&self) -> Result<OwnKey, Error> {
        let path = self.0.join(KEY);
        match read(&path)? {
            None => self.new_key(0),
            Some(text) => parse_key(&text).ok_or(Error::BadKey { path }),
        }
    }

    /// Makes a key for that epoch; it is on disk before it is returned.
    pub(crate) fn new_key(&self, epoch: u64) -> Result<OwnKey, Error> {
        let secret = StaticSecret::from(random::<32>()?);
        let text = format!("{epoch} {}\n", STANDARD.encode(secret.as_bytes()));
        write(&self.0.join(KEY), text.as_bytes())?;
        Ok(OwnKey { epoch, secret })
    }

    /// What was kept. What can't be read is as nothing: it only makes a start quicker.
    pub(crate) fn last(&self) -> Result<Last, Error> {
        let text = read(&self.0.join(LAST))?.unwrap_or_default();
        Ok(serde_json::from_str::<Last>(&text).ok().filter(|last| last.format == 1).unwrap_or_default())
    }

    /// Keeps it.
    pub(crate) fn keep(&self, last: &Last) -> Result<(), Error> {
        let path = self.0.join(LAST);
        let text = serde_json::to_vec(last)
            .map_err(|e| Error::State { path: path.clone(), source: io::Error::other(e) })?;
        write(&path, &text)
    }
}

fn parse_key(text: &str) -> Option<OwnKey> {
    let (epoch, key) = text.trim_end().split_once(' ')?;
    let bytes: [u8; 32] = STANDARD.decode(key).ok()?.try_into().ok()?;
    Some(OwnKey { epoch: epoch.parse().ok()?, secret: StaticSecret::from(bytes) })
}

/// The file's text; `None` if there is no file.
fn read(path: &Path) -> Result<Option<String>, Error> {
    let failed = |source| Error::State { path: path.to_owned(), source };
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
        Ok(found) if found.len() > MAX => {
            return Err(failed(io::Error::other(format!("is longer than {MAX} bytes"))));
        }
        Ok(_) => {}
    }
    fs::read_to_string(path).map(Some).map_err(failed)
}

/// Replaces the file whole, readable by this user only.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let new = path.with_extension("new");
    let done = (|| {
        // One that a killed run left may have another mode.
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    done.map_err(|source| Error::State { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_for_its_epoch_and_only_this_user_reads_it() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(&temp.path().join("deep/er")).unwrap();
        let key = folder.key().unwrap();
        assert_eq!(folder.key().unwrap().public(), key.public());
        let file = temp.path().join("deep/er").join(KEY);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let next = folder.new_key(3).unwrap();
        assert_ne!(next.public(), key.public());
        assert_eq!((folder.key().unwrap().public(), folder.key().unwrap().epoch), (next.public(), 3));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(public_key(&key.public()).is_some());
    }

    #[test]
    fn a_damaged_key_is_refused_and_damaged_memories_are_forgotten() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        fs::write(temp.path().join(KEY), "0 AAAA").unwrap();
        assert!(matches!(folder.key(), Err(Error::BadKey { .. })));
        let last = Last { format: 1, port: 7, endpoints: BTreeMap::new() };
        folder.keep(&last).unwrap();
        assert_eq!(folder.last().unwrap(), last);
        fs::write(temp.path().join(LAST), "{").unwrap();
        assert_eq!(folder.last().unwrap(), Last::default());
    }
}

//! One daemon per project: a locked file that says who holds it.

use crate::connect::LOCK;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The daemon's lock, held as long as this lives. The kernel lets it go with the process.
pub(super) struct Lock {
    _file: File,
    since: String,
}

/// The lock can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another daemon runs.
    #[error("a daemon runs already: {holder}")]
    Held {
        /// Who, as its lock file says.
        holder: String,
    },
    /// The file can't be used.
    #[error("can't lock {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Lock {
    /// Takes the lock of the project whose state is in `state_dir`.
    pub(super) fn take(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join(LOCK);
        let failed = |source: std::io::Error| LockError::File { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let _ = (&file).take(4096).read_to_string(&mut holder);
                return Err(LockError::Held { holder: holder.trim().to_owned() });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let since = jiff::Timestamp::now().to_string();
        let command: Vec<String> = std::env::args().collect();
        file.set_len(0).map_err(failed)?;
        writeln!(file, "pid {}, since {since}, {}", std::process::id(), command.join(" ")).map_err(failed)?;
        Ok(Self { _file: file, since })
    }

    /// Since when it is held, RFC 3339.
    pub(super) fn since(&self) -> String {
        self.since.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path()).unwrap();
        let Err(LockError::Held { holder }) = Lock::take(folder.path()) else { panic!("two locks") };
        assert!(holder.starts_with(&format!("pid {}, since {}", std::process::id(), first.since())));
        drop(first);
        assert!(Lock::take(folder.path()).is_ok());
    }
}

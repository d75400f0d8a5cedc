//! The folder that a data plane keeps its socket and its last table in.

use orchestrator::network::plane::Table;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

const SOCKET: &str = "plane.sock";
const TABLE: &str = "table.json";
const LOCK: &str = "plane.lock";
const DOOR: &str = "door";
const DOOR_SOCKET: &str = "door.sock";

/// The folder, held open.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    descriptor: OwnedFd,
}

impl Folder {
    /// # Errors
    ///
    /// There is no such folder, or it can't be opened.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { path: path.to_owned(), descriptor })
    }

    /// Opens it, made for this user alone where it isn't there yet.
    ///
    /// # Errors
    ///
    /// It can't be made, opened or closed to others.
    pub(crate) fn make(path: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        Self::open(path)
    }

    /// The folder that ambassadors are shown, made where it isn't there yet. It stays the same one: it is mounted elsewhere.
    ///
    /// # Errors
    ///
    /// It can't be made or opened.
    pub(crate) fn door(&self) -> io::Result<Door> {
        Self::make(&self.path.join(DOOR)).map(Door)
    }

    /// A name for the socket that is short whatever the folder's path; valid as long as this is.
    pub(crate) fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", self.descriptor.as_raw_fd()))
    }

    /// The same for the socket of ambassadors, whose folder may not be there.
    pub(crate) fn door_socket(&self) -> PathBuf {
        self.path.join(DOOR).join(DOOR_SOCKET)
    }

    /// The folder of this node's end of tunnels, which makes it.
    pub(crate) fn tunnel(&self) -> PathBuf {
        self.path.join("tunnel")
    }

    /// The right to be the folder's data plane, as long as it is held; `None` while another process has it.
    ///
    /// # Errors
    ///
    /// The lock file can't be opened.
    pub(crate) fn lock(&self) -> io::Result<Option<fs::File>> {
        let path = self.path.join(LOCK);
        let file = fs::File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The table that was kept last, if there is one and it is whole.
    ///
    /// # Errors
    ///
    /// It is there and can't be read.
    pub(crate) fn table(&self) -> io::Result<Option<Table>> {
        match fs::read(self.path.join(TABLE)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps a table: the old one or the new one is there, whole, whenever this process is killed. It isn't synced: after a
    /// power loss somebody tells the table anew.
    ///
    /// # Errors
    ///
    /// It can't be written.
    pub(crate) fn keep(&self, table: &Table) -> io::Result<()> {
        let beside = self.path.join("table.json.new");
        let mut file =
            fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
        file.write_all(&serde_json::to_vec(table)?)?;
        fs::rename(beside, self.path.join(TABLE))
    }
}

/// The folder that ambassadors are shown.
#[derive(Debug)]
pub(crate) struct Door(Folder);

impl Door {
    /// A name for its socket that is short whatever the folder's path; valid as long as this is.
    pub(crate) fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{DOOR_SOCKET}", self.0.descriptor.as_raw_fd()))
    }
}

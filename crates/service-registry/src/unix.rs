//! Unix sockets whose path may be longer than the 108 bytes that an address holds.

use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// A short name for a path in a folder that is held open; valid as long as this is.
#[derive(Debug)]
pub(crate) struct Short {
    folder: OwnedFd,
    path: PathBuf,
}

impl Short {
    /// # Errors
    ///
    /// The path has no file name, or its folder can't be opened.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "the path of a socket needs a file name")
        })?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(parent, flags, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        Ok(Self { folder, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn folder(&self) -> &OwnedFd {
        &self.folder
    }
}

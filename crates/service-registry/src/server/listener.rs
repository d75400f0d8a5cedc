//! A Unix socket that only its owner can use.

use super::Caller;
use crate::unix::Short;
use async_net::unix;
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Somebody answers there.
    #[error("another process already listens on {}", .path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is something that is no socket.
    #[error("{} exists and is no socket; it was left as it is", .path.display())]
    NotASocket {
        /// What is there.
        path: PathBuf,
    },
    /// The TCP address can't be listened on.
    #[error("can't listen on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket could not be made.
    #[error("can't listen on {}", .path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Listens on a path, with mode 0600, for processes of the same user and of root. The path may be of any length. Dropped,
/// it removes its socket.
#[derive(Debug)]
pub struct UnixListener {
    listener: unix::UnixListener,
    path: PathBuf,
    short: Short,
    /// Device and inode of the socket, so that only this one is removed.
    identity: Option<(u64, u64)>,
}

impl UnixListener {
    /// Makes the socket. One that nobody listens on any more is replaced. Two that bind at the same moment must be kept
    /// apart by a lock of the caller's.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |source: io::Error| ListenError::Bind { path: path.to_owned(), source };
        let short = Short::new(path).map_err(failed)?;
        let address = SocketAddrUnix::new(short.path()).map_err(|e| failed(e.into()))?;
        remove_stale(path, &short, &address)?;
        let socket = socket(&address).map_err(|e| match e {
            Errno::ADDRINUSE => ListenError::InUse { path: path.to_owned() },
            error => failed(error.into()),
        })?;
        let identity = identity(&short);
        let listener = unix::UnixListener::try_from(socket).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), short, identity })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection of a process that may connect; others are closed and logged.
    ///
    /// # Errors
    ///
    /// Those of accept(2).
    pub async fn accept(&self) -> io::Result<(unix::UnixStream, Caller)> {
        let own = rustix::process::geteuid().as_raw();
        loop {
            let (stream, _) = self.listener.accept().await?;
            let credentials = rustix::net::sockopt::socket_peercred(&stream)?;
            let (uid, pid) = (credentials.uid.as_raw(), credentials.pid.as_raw_nonzero().get());
            if uid == own || uid == 0 {
                return Ok((stream, Caller::process(uid, pid)));
            }
            tracing::warn!(uid, pid, "connection of another user refused");
        }
    }
}

impl Drop for UnixListener {
    fn drop(&mut self) {
        if self.identity.is_some()
            && self.identity == identity(&self.short)
            && let Err(error) = std::fs::remove_file(self.short.path())
        {
            tracing::warn!(path = %self.path.display(), %error, "can't remove the socket");
        }
    }
}

/// A listening socket that has had mode 0600 from its first moment on.
fn socket(address: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file the mode of the socket's descriptor, less the umask
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path, short: &Short, address: &SocketAddrUnix) -> Result<(), ListenError> {
    let failed = |source: io::Error| ListenError::Bind { path: path.to_owned(), source };
    let metadata = match std::fs::symlink_metadata(short.path()) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) {
        return Err(ListenError::NotASocket { path: path.to_owned() });
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|e| failed(e.into()))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(short.path()).map_err(failed),
        Err(Errno::NOENT) => Ok(()),
        // AGAIN: somebody listens and is busy
        Ok(()) | Err(Errno::AGAIN) => Err(ListenError::InUse { path: path.to_owned() }),
        Err(error) => Err(failed(error.into())),
    }
}

fn identity(short: &Short) -> Option<(u64, u64)> {
    let name = short.path().file_name()?;
    let stat = rustix::fs::statat(short.folder(), name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::Socket).then_some((stat.st_dev, stat.st_ino))
}

//! Joins standard input and output with a data plane's socket: what runs at the far end of a link.

use crate::folder::Folder;
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Copied at once.
const BUFFER: usize = 64 * 1024;

/// Why nothing is bridged any more.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// Nobody listens: there is no data plane.
    #[error("no data plane answers in {}", path.display())]
    Connect {
        /// Its folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A stream broke.
    #[error("the bridge to the data plane broke")]
    Broken {
        /// What the system said.
        source: io::Error,
    },
}

/// Copies standard input to the data plane's socket and what comes from there to standard output, until both have ended or the data
/// plane is gone. Blocks. The process should end when this returns: standard output is closed.
///
/// # Errors
///
/// There is no data plane, or a stream broke.
pub fn bridge(state: &Path) -> Result<(), BridgeError> {
    let failed = |source| BridgeError::Connect { path: state.to_owned(), source };
    let folder = Folder::open(state).map_err(failed)?;
    let socket = UnixStream::connect(folder.socket()).map_err(failed)?;
    let copied = std::thread::scope(|scope| {
        let down = scope.spawn(|| down(&socket));
        let up = up(&socket);
        let down = down.join().unwrap_or_else(|_| Err(io::Error::other("the copying thread ended")));
        up.and(down)
    });
    copied.map_err(|source| BridgeError::Broken { source })
}

/// From the socket to standard output.
fn down(socket: &UnixStream) -> io::Result<()> {
    let mut output = io::stdout().lock();
    let mut buffer = vec![0; BUFFER];
    let copied = loop {
        match (&*socket).read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(count) => {
                let part = buffer.get(..count).unwrap_or_default();
                if let Err(error) = output.write_all(part).and_then(|()| output.flush()) {
                    break Err(error);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    if copied.is_err() {
        // Wakes the other direction. Fails only on a socket that is closed.
        let _ = socket.shutdown(Shutdown::Both);
    }
    // The end is passed on although the process goes on: the other direction may.
    let nothing = std::fs::File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nothing)?;
    copied
}

/// From standard input to the socket.
fn up(socket: &UnixStream) -> io::Result<()> {
    let input = io::stdin();
    let mut buffer = vec![0; BUFFER];
    loop {
        let (ready, gone) = wait(&input, socket)?;
        if !ready && gone {
            return Ok(());
        }
        // Straight from the descriptor: what a buffer held would never be waited for.
        let count = match rustix::io::read(&input, &mut *buffer) {
            Ok(0) => return socket.shutdown(Shutdown::Write).or_else(ignore_closed),
            Ok(count) => count,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
            Err(error) => return Err(error.into()),
        };
        (&*socket).write_all(buffer.get(..count).unwrap_or_default())?;
    }
}

/// Waits until there is input, or nobody at the socket any more.
fn wait(input: impl AsFd, socket: &UnixStream) -> io::Result<(bool, bool)> {
    let mut descriptors = [PollFd::new(&input, PollFlags::IN), PollFd::new(socket, PollFlags::empty())];
    loop {
        match poll(&mut descriptors, None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let [input, socket] = descriptors;
    let gone = PollFlags::HUP | PollFlags::ERR;
    Ok((!input.revents().is_empty(), socket.revents().intersects(gone)))
}

fn ignore_closed(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}

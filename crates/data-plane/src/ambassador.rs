//! Stands for a service in a container network: listens there on the service's ports, and hands these sockets to the data
//! plane of the machine, which accepts from them.
//!
//! It holds the network's end of the sockets and carries no byte itself. While no data plane is there, connections wait
//! in the sockets' queues; the next one is handed them again.

use crate::door::{Hand, send};
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// The pause before the data plane is looked for again; doubled while it isn't there.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The same at most.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// What an ambassador needs to know.
#[derive(Clone, Debug)]
pub struct Ambassador {
    /// The data plane's socket for ambassadors.
    pub door: PathBuf,
    /// The service that it stands for.
    pub service: String,
    /// The ports to listen on, on every address.
    pub ports: Vec<u16>,
}

/// Why there is no ambassador.
#[derive(Debug, thiserror::Error)]
pub enum AmbassadorError {
    /// A port can't be listened on.
    #[error("port {port} can't be listened on")]
    Listen {
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// No thread can be started.
    #[error("no thread can be started: look at the limits on processes")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

impl Ambassador {
    /// Stands for the service, for as long as the process lives. Blocks.
    ///
    /// # Errors
    ///
    /// It can't begin; see [`AmbassadorError`].
    pub fn run(self) -> Result<(), AmbassadorError> {
        let sockets = self.ports.iter().map(|port| {
            let socket = listen(*port).map_err(|source| AmbassadorError::Listen { port: *port, source })?;
            Ok((*port, socket))
        });
        let sockets = sockets.collect::<Result<Vec<(u16, OwnedFd)>, AmbassadorError>>()?;
        let (door, service) = (self.door.as_path(), self.service.as_str());
        // They are joined here: nothing of it outlives this call.
        thread::scope(|scope| {
            for (port, socket) in &sockets {
                let hand = Hand { service: service.to_owned(), port: *port };
                let keeping = move || keep(door, &hand, socket);
                thread::Builder::new()
                    .spawn_scoped(scope, keeping)
                    .map_err(|source| AmbassadorError::Thread { source })?;
            }
            Ok(())
        })
    }
}

fn listen(port: u16) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Hands the socket in, and again whenever the data plane that has it ends.
fn keep(door: &Path, hand: &Hand, socket: &OwnedFd) {
    let mut pause = FIRST_PAUSE;
    loop {
        match hand_in(door, hand, socket) {
            Ok(()) => pause = FIRST_PAUSE,
            Err(error) => tracing::debug!(%error, "no data plane takes the socket"),
        }
        // Nothing tells when there is another one: its socket is looked for.
        thread::sleep(pause);
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Returns when the data plane that took it is gone.
fn hand_in(door: &Path, hand: &Hand, socket: &OwnedFd) -> io::Result<()> {
    let mut stream = UnixStream::connect(door)?;
    send(&stream, hand, socket.as_fd())?;
    let mut said = [0; 64];
    while stream.read(&mut said)? > 0 {}
    Ok(())
}

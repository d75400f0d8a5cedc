//! The socket on which a data plane is told what to do.

mod session;

use crate::folder::Folder;
use crate::lines;
use crate::plane::Plane;
use orchestrator::network::plane::Told;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Clients at the same time. Links and connections that came this way don't count once they are that.
const CLIENTS: usize = 64;
/// After a failed accept, mostly for want of descriptors: others end meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a client that is refused may take to read why.
const REFUSAL: Duration = Duration::from_secs(1);

/// Opens the socket, for this user alone: its folder is closed to others, and who comes is looked at. The caller holds the
/// folder's lock, so whatever has the name is left over.
///
/// # Errors
///
/// It can't be opened.
pub(crate) fn bind(folder: &Folder) -> io::Result<UnixListener> {
    let path = folder.socket();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, mode)?;
    Ok(listener)
}

/// Accepts clients until it is dropped.
pub(crate) async fn accept(plane: Arc<Plane>, listener: UnixListener) {
    let limit = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a client can't be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !is_ours(&stream) {
            tracing::warn!("a connection of another user was refused");
            continue;
        }
        match limit.clone().try_acquire_owned() {
            // Owned by the runtime, limited by the permits.
            Ok(permit) => drop(tokio::spawn(session::serve(plane.clone(), stream, permit))),
            Err(_) => refuse(stream).await,
        }
    }
}

/// Whether the process at the other end is this user's, or root's, which may do anything.
fn is_ours(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| may_come(peer.uid(), own))
}

fn may_come(uid: u32, own: u32) -> bool {
    uid == own || uid == 0
}

async fn refuse(mut stream: UnixStream) {
    let why = format!("{CLIENTS} clients are connected: end one of them first");
    // Whoever doesn't read it sees the end.
    let _ = tokio::time::timeout(REFUSAL, lines::write(&mut stream, &Told::Refused { why })).await;
}

#[cfg(test)]
mod tests {
    #[test]
    fn another_user_may_not_come() {
        assert!(super::may_come(1000, 1000));
        assert!(super::may_come(0, 1000));
        assert!(!super::may_come(1001, 1000));
        assert!(!super::may_come(1000, 0));
    }
}

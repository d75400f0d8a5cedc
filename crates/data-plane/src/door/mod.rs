//! Where ambassadors come: each hands in the socket that it listens on in a container network, and what connects there is
//! carried as if it had connected to a listener of the table.
//!
//! A socket of its own, because what reaches it is in a container: nothing can be told here but which port of which service
//! the socket is for, and only services that the table has a door for are served. No byte goes through the ambassador.

mod hand;

pub(crate) use hand::{Hand, send};

use crate::folder::Folder;
use crate::forward::listener::{Listener, accept};
use crate::plane::{Plane, lock};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Ambassadors' sockets at the same time: several ports of each of hundreds of services.
const HANDED: usize = 1024;
/// After a failed accept, mostly for want of descriptors: others end meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long an ambassador may take to say what its socket is for.
const FIRST: Duration = Duration::from_secs(10);

/// Opens the socket, for this user alone.
///
/// # Errors
///
/// It can't be opened.
pub(crate) fn bind(folder: &Folder) -> io::Result<UnixListener> {
    let door = folder.door()?;
    let path = door.socket();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Takes what ambassadors hand in, until it is dropped.
pub(crate) async fn receive(plane: Arc<Plane>, listener: UnixListener) {
    let limit = Arc::new(Semaphore::new(HANDED));
    loop {
        let Ok(permit) = limit.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let plane = plane.clone();
                // Owned by the runtime, limited by the permits.
                tokio::spawn(async move {
                    if let Err(error) = serve(&plane, stream).await {
                        tracing::warn!(%error, "what an ambassador handed in isn't served");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an ambassador can't be heard");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a socket that is handed in, until the ambassador is gone.
async fn serve(plane: &Arc<Plane>, mut stream: UnixStream) -> io::Result<()> {
    let received = tokio::time::timeout(FIRST, hand::receive(&stream)).await;
    let (hand, socket) = received.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let gone = CancellationToken::new();
    let serving = async {
        loop {
            let (listener, removed) = found(plane, &hand).await;
            let socket = listening(&socket)?;
            tokio::select! {
                () = accept(plane.clone(), listener, socket, Some(gone.clone())) => return Ok(()),
                () = removed => {}
            }
        }
    };
    let result = tokio::select! {
        result = serving => result,
        () = over(&mut stream) => Ok(()),
    };
    // Its network is gone with it: nothing comes through what was accepted there.
    gone.cancel();
    result
}

/// The listener of the table for what was handed in, as soon as there is one; and what ends when the table has it no more.
async fn found<'a>(
    plane: &'a Arc<Plane>,
    hand: &Hand,
) -> (Arc<Listener>, impl Future<Output = ()> + use<'a>) {
    let mut served = plane.served.subscribe();
    let listener = loop {
        served.borrow_and_update();
        let found = lock(&plane.listeners).iter().find(|it| it.is_door(&hand.service, hand.port)).cloned();
        match found {
            Some(listener) => break listener,
            // An error is the end of the data plane.
            None if served.changed().await.is_err() => std::future::pending().await,
            None => {}
        }
    };
    let kept = listener.clone();
    let removed = async move {
        while served.changed().await.is_ok() {
            if !lock(&plane.listeners).iter().any(|it| Arc::ptr_eq(it, &kept)) {
                return;
            }
        }
        std::future::pending().await
    };
    (listener, removed)
}

fn listening(socket: &OwnedFd) -> io::Result<TcpListener> {
    let socket = std::net::TcpListener::from(socket.try_clone()?);
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Waits for the end of the connection. Nothing is said on it any more.
async fn over(stream: &mut UnixStream) {
    let mut said = [0; 64];
    while stream.read(&mut said).await.is_ok_and(|count| count > 0) {}
}

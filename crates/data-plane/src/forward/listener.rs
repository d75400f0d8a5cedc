//! One port of one service, as it is reached from here.

use crate::forward::balance::Balance;
use crate::forward::copy::both_ways;
use crate::forward::dial::{Dialed, NoBackend, dial};
use crate::plane::{Plane, lock};
use crate::ways::stream::Reset;
use orchestrator::network::plane::{Backend, ListenerReport, Table};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// After a failed accept, mostly for want of descriptors: others end meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where a service is listened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At an address of this machine.
    Address(SocketAddr),
    /// At that port of the service's name in container networks, by those who hand their sockets in.
    Door(u16),
}

impl Place {
    /// The port.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Door(port) => port,
        }
    }
}

/// A listener of the table: its backends and what became of its connections.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) service: String,
    pub(crate) place: Place,
    pub(crate) serving: Mutex<Serving>,
    /// Raised by each table.
    pub(crate) tables: watch::Sender<u64>,
    error: Mutex<Option<String>>,
    open: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// The backends, and the table that they are of: how to reach them is never taken from another one.
#[derive(Debug, Default)]
pub(crate) struct Serving {
    pub(crate) balance: Balance,
    pub(crate) table: Arc<Table>,
}

impl Listener {
    pub(crate) fn new(service: &str, place: Place, backends: &[Backend], table: &Arc<Table>) -> Arc<Self> {
        let listener = Self {
            service: service.to_owned(),
            place,
            serving: Mutex::default(),
            tables: watch::Sender::new(0),
            error: Mutex::default(),
            open: AtomicU64::default(),
            accepted: AtomicU64::default(),
            refused: AtomicU64::default(),
            sent: AtomicU64::default(),
            received: AtomicU64::default(),
        };
        listener.update(backends, table);
        Arc::new(listener)
    }

    /// Whether it is what ambassadors of that service listen for at that port.
    pub(crate) fn is_door(&self, service: &str, port: u16) -> bool {
        self.place == Place::Door(port) && self.service == service
    }

    /// Takes the backends of a new table. Connections that are open stay with theirs, also when it isn't among them.
    pub(crate) fn update(&self, backends: &[Backend], table: &Arc<Table>) {
        let mut serving = lock(&self.serving);
        serving.balance.update(backends);
        serving.table = table.clone();
        drop(serving);
        self.tables.send_modify(|count| *count += 1);
    }

    /// Notes why it can't be listened for. Returns whether that is news.
    pub(crate) fn set_error(&self, why: Option<String>) -> bool {
        let mut error = lock(&self.error);
        let news = *error != why;
        *error = why;
        news
    }

    pub(crate) fn report(&self) -> ListenerReport {
        ListenerReport {
            service: self.service.clone(),
            address: match self.place {
                Place::Address(address) => address.to_string(),
                Place::Door(port) => format!("{}:{port}", self.service),
            },
            error: lock(&self.error).clone(),
            open: self.open.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            refused: self.refused.load(Relaxed),
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
            ejected: lock(&self.serving).balance.ejected(),
        }
    }

    /// Counts a connection until it is dropped.
    pub(crate) fn count(self: &Arc<Self>, plane: &Arc<Plane>) -> Counted {
        self.accepted.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
        plane.counted();
        Counted { plane: plane.clone(), listener: self.clone() }
    }
}

/// A connection of a listener.
#[derive(Debug)]
pub(crate) struct Counted {
    plane: Arc<Plane>,
    listener: Arc<Listener>,
}

impl Counted {
    /// Finds a backend, and counts where there is none.
    ///
    /// # Errors
    ///
    /// No backend took the connection.
    pub(crate) async fn dial(&self) -> Result<Dialed, NoBackend> {
        let dialed = dial(&self.plane, &self.listener).await;
        if dialed.is_err() {
            self.listener.refused.fetch_add(1, Relaxed);
        }
        dialed
    }

    /// Carries until both ends are done, or the near one is known to be gone.
    pub(crate) async fn carry(
        &self,
        mut near: impl AsyncRead + AsyncWrite + Unpin + Reset,
        dialed: Dialed,
        gone: impl Future<Output = ()>,
    ) {
        let Dialed { mut stream, picked: _picked, .. } = dialed;
        let (sent, received) = (&self.listener.sent, &self.listener.received);
        let carried = tokio::select! {
            biased;
            carried = both_ways(&mut near, &mut stream, sent, received) => carried,
            () = gone => Err(io::ErrorKind::ConnectionAborted.into()),
        };
        if carried.is_err() {
            // What one end sees as broken must not look to the other as if it were complete.
            near.reset();
            stream.reset();
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.listener.open.fetch_sub(1, Relaxed);
        self.plane.counted();
    }
}

/// Opens the port.
///
/// # Errors
///
/// Somebody else has it, or it isn't this machine's.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of an earlier life that linger don't stand in the way; whoever listens still does.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until it is dropped. What was accepted goes on then, unless it comes through what is `gone`.
pub(crate) async fn accept(
    plane: Arc<Plane>,
    listener: Arc<Listener>,
    socket: TcpListener,
    gone: Option<CancellationToken>,
) {
    loop {
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(service = listener.service, %error, "a connection can't be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = plane.connections.clone().acquire_owned().await else { return };
        let (plane, listener, gone) = (plane.clone(), listener.clone(), gone.clone());
        // Owned by the runtime, limited by the permits: it goes on when its listener goes.
        tokio::spawn(async move {
            let gone = async {
                match gone {
                    Some(gone) => gone.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            serve(&plane, &listener, stream, gone).await;
            drop(permit);
        });
    }
}

async fn serve(
    plane: &Arc<Plane>,
    listener: &Arc<Listener>,
    stream: TcpStream,
    gone: impl Future<Output = ()>,
) {
    let counted = listener.count(plane);
    // Fails only on a connection that is over.
    let _ = stream.set_nodelay(true);
    match counted.dial().await {
        Ok(dialed) => counted.carry(stream, dialed, gone).await,
        Err(error) => {
            tracing::debug!(service = listener.service, %error, "a connection was refused");
            stream.reset();
        }
    }
}

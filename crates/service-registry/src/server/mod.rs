//! Serves a registry, and whatever methods a host adds, to clients.
//!
//! Each connection is one task: a reader that dispatches, the requests that are open, the subscriptions that are
//! pumped, and a writer, all bounded. Nothing of one connection waits for another.
//!
//! A Unix socket is the only listener here ([`UnixListener`]); anything else that is `AsyncRead + AsyncWrite` can be
//! handed in with [`Server::connect`] by whoever has made sure who is at the other end. Listeners on TCP, with TLS and
//! tokens, get rooms of their own beside this one.

mod builtin;
mod connection;
mod listener;
mod session;

pub use listener::{ListenError, UnixListener};

use crate::registry::Registry;
use crate::wire::RpcError;
use async_channel::{Receiver, Sender};
use async_io::Timer;
use futures_lite::FutureExt as _;
use futures_lite::io::{AsyncRead, AsyncWrite};
use futures_util::future::BoxFuture;
use futures_util::task::{FutureObj, Spawn, SpawnError};
use serde_json::Value;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where tasks are spawned.
pub type Spawner = Arc<dyn Spawn + Send + Sync>;

/// Methods that a host adds to the registry's.
pub trait Methods: Send + Sync + 'static {
    /// Their names; others are never called.
    fn names(&self) -> &[&str];

    /// Those of them that are carried out before `hello` too, for a client that speaks no common protocol: what they
    /// mean never changes.
    fn ungreeted(&self) -> &[&str] {
        &[]
    }

    /// Carries one out. The future is dropped when the connection ends: what must be finished belongs into a task of
    /// the host's own. It must not block its thread.
    fn call(
        &self,
        ctx: CallContext,
        method: &str,
        params: Value,
    ) -> BoxFuture<'static, Result<Value, RpcError>>;
}

/// No added methods.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMethods;

impl Methods for NoMethods {
    fn names(&self) -> &[&str] {
        &[]
    }

    fn call(&self, _: CallContext, method: &str, _: Value) -> BoxFuture<'static, Result<Value, RpcError>> {
        let error = RpcError::new(crate::wire::code::METHOD_NOT_FOUND, format!("no method {method}"));
        Box::pin(std::future::ready(Err(error)))
    }
}

/// Who calls a method.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// Number of the connection, unique for this server.
    pub connection: u64,
    /// What the system knows about the other end.
    pub peer: Peer,
    /// What the client calls itself.
    pub client: Arc<str>,
}

/// What the system knows about the other end of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its user id.
    pub uid: Option<u32>,
    /// Its process id when it connected.
    pub pid: Option<i32>,
}

/// Bounds of everything that a client can make grow.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time; one more is closed at once.
    pub connections: usize,
    /// Bytes of one message from a client.
    pub message: usize,
    /// Open requests of one connection.
    pub requests: usize,
    /// Subscriptions of one connection.
    pub subscriptions: usize,
    /// Time until the handshake, and then `hello`, is done.
    pub handshake: Duration,
    /// Time in which a client must take a message.
    pub write: Duration,
    /// After this silence the client is pinged; after three of them it is gone.
    pub heartbeat: Duration,
}

impl Default for Limits {
    /// 1,024 connections, 8 MiB, 64 requests, 32 subscriptions, 10 s, 30 s, 15 s.
    fn default() -> Self {
        Self {
            connections: 1_024,
            message: 8 * 1024 * 1024,
            requests: 64,
            subscriptions: 32,
            handshake: Duration::from_secs(10),
            write: Duration::from_secs(30),
            heartbeat: Duration::from_secs(15),
        }
    }
}

/// What a server can't do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// There are as many connections as may be.
    #[error("{limit} connections are open, no more are taken")]
    TooManyConnections {
        /// How many.
        limit: usize,
    },
    /// [`Server::shutdown`] was called.
    #[error("the server is closed")]
    Closed,
    /// The spawner takes no tasks.
    #[error("can't spawn a task for a connection")]
    Spawn(#[source] SpawnError),
    /// The listener is broken.
    #[error("can't accept connections")]
    Accept(#[source] io::Error),
}

/// Serves connections. A cheap handle; all of them are the same server.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

struct Shared {
    registry: Registry,
    methods: Arc<dyn Methods>,
    spawner: Spawner,
    limits: Limits,
    next: AtomicU64,
    open: AtomicUsize,
    /// Closed when connections should come to an end.
    stop: Signal,
    /// Closed when connections must end now.
    cut: Signal,
    /// Each connection holds a sender: when all are gone the receiver says so.
    alive: Mutex<Option<Sender<Infallible>>>,
    gone: Receiver<Infallible>,
}

/// Something that happens once and that any number can wait for.
struct Signal(Sender<Infallible>, Receiver<Infallible>);

impl Signal {
    fn new() -> Self {
        let (sender, receiver) = async_channel::bounded(1);
        Self(sender, receiver)
    }

    fn raise(&self) {
        self.0.close();
    }

    fn raised(&self) -> BoxFuture<'static, ()> {
        let receiver = self.1.clone();
        Box::pin(async move {
            let _ = receiver.recv().await;
        })
    }
}

/// Counts a connection for as long as it lives.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    /// A server for this registry and these methods, whose connections become tasks of this spawner.
    pub fn new(registry: Registry, methods: Arc<dyn Methods>, spawner: Spawner, limits: Limits) -> Self {
        let (alive, gone) = async_channel::bounded(1);
        Self {
            shared: Arc::new(Shared {
                registry,
                methods,
                spawner,
                limits,
                next: AtomicU64::new(1),
                open: AtomicUsize::new(0),
                stop: Signal::new(),
                cut: Signal::new(),
                alive: Mutex::new(Some(alive)),
                gone,
            }),
        }
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Serves one connection in a task of its own. Who is at the other end must be clear already.
    ///
    /// # Errors
    ///
    /// Too many connections, the server is closed, or the spawner takes no tasks; the stream is closed then.
    pub fn connect<S>(&self, stream: S, peer: Peer) -> Result<(), ServeError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let shared = &self.shared;
        let alive = shared.alive.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(alive) = alive else { return Err(ServeError::Closed) };
        let limit = shared.limits.connections;
        if shared.open.fetch_add(1, Ordering::Relaxed) >= limit {
            shared.open.fetch_sub(1, Ordering::Relaxed);
            return Err(ServeError::TooManyConnections { limit });
        }
        let open = Open(Arc::clone(shared));
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let cut = shared.cut.raised();
        let connection = connection::run(Arc::clone(shared), stream, peer, number);
        let task = Box::pin(async move {
            connection.or(cut).await;
            drop((open, alive));
        });
        shared.spawner.spawn_obj(FutureObj::from(task as BoxFuture<'static, ()>)).map_err(ServeError::Spawn)
    }

    /// Accepts connections until [`Server::shutdown`].
    ///
    /// # Errors
    ///
    /// The listener is broken for good. Running out of descriptors is no such thing: it is waited out.
    pub async fn serve_unix(&self, listener: &UnixListener) -> Result<(), ServeError> {
        let stop = self.shared.stop.raised();
        let accept = async {
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => match self.connect(stream, peer) {
                        Ok(()) => {}
                        Err(error @ ServeError::TooManyConnections { .. }) => {
                            tracing::warn!(%error, pid = peer.pid, "connection refused");
                        }
                        Err(ServeError::Closed) => return Ok(()),
                        Err(error) => return Err(error),
                    },
                    Err(error) if is_passing(&error) => {
                        tracing::warn!(%error, "can't accept a connection now");
                        Timer::after(Duration::from_millis(50)).await;
                    }
                    Err(error) => return Err(ServeError::Accept(error)),
                }
            }
        };
        accept
            .or(async {
                stop.await;
                Ok(())
            })
            .await
    }

    /// Takes no more connections and requests, lets open requests finish for as long as `grace`, and closes everything.
    /// Says how many connections had to be cut.
    pub async fn shutdown(&self, grace: Duration) -> usize {
        self.shared.alive.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.stop.raise();
        let all_gone = async {
            let _ = self.shared.gone.recv().await;
            0
        };
        let late = async {
            Timer::after(grace).await;
            let late = self.connections();
            self.shared.cut.raise();
            late
        };
        all_gone.or(late).await
    }
}

/// Errors of accept that say nothing about the listener.
fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::CONNABORTED | Errno::INTR)
    )
}

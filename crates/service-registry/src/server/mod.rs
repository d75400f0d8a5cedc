//! Serves a registry, and whatever methods a host adds, to clients.
//!
//! Each connection is one task: a reader that dispatches, the requests that are open, the subscriptions that are
//! pumped, and a writer, all bounded. Nothing of one connection waits for another.
//!
//! There are two listeners: a Unix socket that only its user can open ([`UnixListener`]), and TCP behind TLS and
//! authentication ([`TcpListener`], [`Entrance`]); there is no TCP without them. Anything else that is `AsyncRead +
//! AsyncWrite`, such as the standard input and output of a child, can be handed in with [`Server::connect`] by whoever has
//! made sure who is at the other end.

mod builtin;
mod connection;
mod entrance;
mod listener;
mod rate;
mod resolve;
mod session;
mod streams;
mod tcp;

pub use entrance::Entrance;
pub use listener::{ListenError, UnixListener};
pub use streams::{IncomingStream, Streams};
pub use tcp::TcpListener;

use self::entrance::Refused;
use crate::registry::Registry;
use crate::tls::Fingerprint;
use crate::wire::{MethodInfo, RpcError, Scope};
use async_channel::{Receiver, Sender};
use async_io::Timer;
use async_net::TcpStream;
use futures_lite::FutureExt as _;
use futures_lite::io::{AsyncRead, AsyncWrite};
use futures_util::future::BoxFuture;
use futures_util::task::{FutureObj, Spawn, SpawnError};
use serde_json::Value;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where tasks are spawned.
pub type Spawner = Arc<dyn Spawn + Send + Sync>;

/// Methods that a host adds to the registry's.
pub trait Methods: Send + Sync + 'static {
    /// Which there are, and what a caller needs for each; others are never called.
    fn methods(&self) -> &[MethodInfo];

    /// Those of them that are carried out before `hello` too, for a client that speaks no common protocol: what they
    /// mean never changes.
    fn ungreeted(&self) -> &[&str] {
        &[]
    }

    /// The description of all methods, the registry's and these, for [`crate::wire::RPC_DISCOVER`]: an OpenRPC document.
    fn openrpc(&self) -> &'static str {
        crate::wire::OPENRPC
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
    fn methods(&self) -> &[MethodInfo] {
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
    /// Who is at the other end, and what it may do.
    pub caller: Caller,
    /// What the client calls itself.
    pub client: Arc<str>,
    /// For a method that takes more than a message holds: opens a stream on which the client sends it.
    ///
    /// ```
    /// # use service_registry::{server::CallContext, wire::RpcError};
    /// # use serde_json::{Value, json};
    /// async fn upload(ctx: CallContext) -> Result<Value, RpcError> {
    ///     let stream = ctx.streams.receive(|mut incoming| async move {
    ///         let mut bytes = 0;
    ///         while let Some(chunk) = incoming.next().await? {
    ///             bytes += chunk.len(); // write it away before the next is asked for
    ///         }
    ///         Ok(json!({ "bytes": bytes }))
    ///     })?;
    ///     Ok(json!({ "stream": stream }))
    /// }
    /// ```
    ///
    /// The client's side is [`crate::client::Client::open_stream`].
    pub streams: Streams,
}

/// Who is at the other end of a connection, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// How that is known.
    pub who: Who,
    /// What it may do.
    pub scope: Scope,
}

/// How it is known who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Who {
    /// The system says so: a process on the other end of a Unix socket.
    Process {
        /// Its user id.
        uid: u32,
        /// Its process id when it connected.
        pid: i32,
    },
    /// It has a token.
    Token {
        /// The token's name.
        name: Arc<str>,
    },
    /// It has a certificate of an authority that is trusted.
    Certificate {
        /// Which.
        fingerprint: Fingerprint,
    },
    /// The host program that embeds the server vouches for it.
    Host,
}

impl Caller {
    /// A process of a user who may do everything.
    pub fn process(uid: u32, pid: i32) -> Self {
        Self { who: Who::Process { uid, pid }, scope: Scope::Admin }
    }

    /// Whoever the host program hands in.
    pub fn host(scope: Scope) -> Self {
        Self { who: Who::Host, scope }
    }
}

/// For logs.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { uid, pid } => write!(f, "process {pid} of user {uid}"),
            Self::Token { name } => write!(f, "token {name}"),
            Self::Certificate { fingerprint } => write!(f, "certificate {fingerprint}"),
            Self::Host => f.write_str("the host"),
        }
    }
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
    /// Requests of one connection in a second, and at once after a second of silence.
    pub rate: u32,
    /// Subscriptions of one connection.
    pub subscriptions: usize,
    /// Streams of one connection.
    pub streams: usize,
    /// Time until the handshake, and then `hello`, is done.
    pub handshake: Duration,
    /// Time in which a client must take a message.
    pub write: Duration,
    /// After this silence the client is pinged; after three of them it is gone.
    pub heartbeat: Duration,
}

impl Default for Limits {
    /// 1,024 connections, 8 MiB, 64 requests, 20,000 in a second, 32 subscriptions, 4 streams, 10 s, 30 s, 15 s.
    fn default() -> Self {
        Self {
            connections: 1_024,
            message: 8 * 1024 * 1024,
            requests: 64,
            rate: 20_000,
            subscriptions: 32,
            streams: 4,
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
#[derive(Debug)]
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
    /// A server for this registry and these methods, whose connections become tasks of this spawner. So does the one that
    /// tends the leases of entries from outside; it ends with [`Server::shutdown`].
    pub fn new(registry: Registry, methods: Arc<dyn Methods>, spawner: Spawner, limits: Limits) -> Self {
        let (alive, gone) = async_channel::bounded(1);
        let tended = registry.tend_leases();
        let server = Self {
            shared: Arc::new(Shared {
                registry,
                methods,
                spawner,
                limits,
                next: AtomicU64::new(1),
                open: AtomicUsize::new(0),
                stop: Signal::new(),
                cut: Signal::new(),
                alive: Mutex::new(Some(alive.clone())),
                gone,
            }),
        };
        let stop = server.shared.stop.raised();
        let task: BoxFuture<'static, ()> = Box::pin(async move {
            tended.or(stop).await;
            drop(alive);
        });
        if let Err(error) = server.shared.spawner.spawn_obj(FutureObj::from(task)) {
            tracing::error!(%error, "nobody tends the leases: what isn't renewed stays");
        }
        server
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
    pub fn connect<S>(&self, stream: S, caller: Caller) -> Result<(), ServeError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let shared = &self.shared;
        let alive = self.alive()?;
        let open = self.open()?;
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let cut = shared.cut.raised();
        let connection = connection::run(Arc::clone(shared), stream, caller, number);
        self.spawn(async move {
            connection.or(cut).await;
            drop((open, alive));
        })
    }

    /// Keeps the server from being gone.
    fn alive(&self) -> Result<Sender<Infallible>, ServeError> {
        self.shared.alive.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(ServeError::Closed)
    }

    /// A place for one more connection.
    fn open(&self) -> Result<Open, ServeError> {
        let (shared, limit) = (&self.shared, self.shared.limits.connections);
        if shared.open.fetch_add(1, Ordering::Relaxed) >= limit {
            shared.open.fetch_sub(1, Ordering::Relaxed);
            return Err(ServeError::TooManyConnections { limit });
        }
        Ok(Open(Arc::clone(shared)))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        let task = Box::pin(task) as BoxFuture<'static, ()>;
        self.shared.spawner.spawn_obj(FutureObj::from(task)).map_err(ServeError::Spawn)
    }

    /// Accepts connections until [`Server::shutdown`].
    ///
    /// # Errors
    ///
    /// The listener is broken for good. Running out of descriptors is no such thing: it is waited out.
    pub async fn serve_unix(&self, listener: &UnixListener) -> Result<(), ServeError> {
        self.serve(
            || listener.accept(),
            |(stream, caller)| {
                let who = caller.who.clone();
                self.connect(stream, caller)
                    .inspect_err(|error| tracing::warn!(%error, %who, "connection refused"))
            },
        )
        .await
    }

    /// Accepts connections by TCP until [`Server::shutdown`]. Each goes through the entrance in a task of its own.
    ///
    /// # Errors
    ///
    /// As [`Server::serve_unix`].
    pub async fn serve_tcp(
        &self,
        listener: &TcpListener,
        entrance: &Arc<Entrance>,
    ) -> Result<(), ServeError> {
        self.serve(|| listener.accept(), |(stream, peer)| self.admit(stream, peer, entrance)).await
    }

    /// Takes a connection by TCP to its session.
    fn admit(&self, stream: TcpStream, peer: SocketAddr, entrance: &Arc<Entrance>) -> Result<(), ServeError> {
        let (server, entrance, alive) = (self.clone(), Arc::clone(entrance), self.alive()?);
        let (stop, cut) = (self.shared.stop.raised(), self.shared.cut.raised());
        self.spawn(async move {
            let shared = &server.shared;
            let admitted = async { Some(entrance.admit(stream, peer, &shared.limits).await) };
            let ended = async {
                stop.or(entrance.closed()).await;
                None
            };
            let (websocket, admission) = match admitted.or(ended).await {
                Some(Ok(admitted)) => admitted,
                Some(Err(error @ Refused::Denied(_))) => {
                    return tracing::warn!(%peer, %error, "connection refused");
                }
                Some(Err(error)) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    return tracing::debug!(%peer, %error, cause, "connection refused");
                }
                None => return,
            };
            let _open = match server.open() {
                Ok(open) => open,
                Err(error) => return tracing::warn!(%error, %peer, "connection refused"),
            };
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            let caller = admission.caller.clone();
            tracing::debug!(connection = number, %peer, who = %caller.who, "let in");
            let closed = Arc::clone(&entrance);
            let closed = Box::pin(async move { closed.closed().await });
            let serve = connection::serve(Arc::clone(shared), websocket, caller, number, closed);
            let over = async {
                let reason = admission.over().await;
                tracing::info!(connection = number, %peer, reason, "connection cut");
            };
            serve.or(over).or(entrance.cut()).or(cut).await;
            drop(alive);
        })
    }

    /// Accepts and hands on until [`Server::shutdown`].
    async fn serve<T, A: Future<Output = io::Result<T>>>(
        &self,
        accept: impl Fn() -> A,
        connect: impl Fn(T) -> Result<(), ServeError>,
    ) -> Result<(), ServeError> {
        let stop = self.shared.stop.raised();
        let accept = async {
            loop {
                match accept().await {
                    Ok(accepted) => match connect(accepted) {
                        Ok(()) | Err(ServeError::TooManyConnections { .. }) => {}
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
    use rustix::io::Errno as E;
    let here = [E::MFILE, E::NFILE, E::NOBUFS, E::NOMEM, E::INTR];
    // accept(2): what the network says about a connection that waited
    let there = [
        E::CONNABORTED,
        E::CONNRESET,
        E::PERM,
        E::PROTO,
        E::NOPROTOOPT,
        E::NETDOWN,
        E::NETUNREACH,
        E::HOSTDOWN,
        E::HOSTUNREACH,
        E::OPNOTSUPP,
        E::TIMEDOUT,
    ];
    let errno = error.raw_os_error().map(E::from_raw_os_error);
    errno.is_some_and(|errno| here.contains(&errno) || there.contains(&errno))
}

//! Speaks to a server: calls, subscriptions, and a watcher that survives the server's restarts.
//!
//! A connection is driven by its [`Driver`], a future that the caller spawns, or runs beside its own with
//! [`Driver::run`]: a single call needs no executor and no thread.

mod driver;
mod error;
mod outgoing;
mod registration;
mod remote;
mod subscription;
mod watcher;

pub use driver::Driver;
pub use error::ClientError;
pub use outgoing::OutgoingStream;
pub use registration::{Registration, RegistrationNews};
pub use remote::Remote;
pub use subscription::Subscription;
pub use watcher::{WatchItem, Watcher};

use self::driver::{Pending, Waiting};
use self::outgoing::Flow;
use crate::access::Secret;
use crate::registry::{Filter, Item};
use crate::unix::Short;
use crate::wire::{self, Answer, Id, Incoming, RpcError, code};
use async_channel::{Receiver, Sender};
use async_io::Timer;
use async_net::unix::UnixStream;
use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::client::IntoClientRequest as _;
use async_tungstenite::tungstenite::http::Response;
use async_tungstenite::tungstenite::http::header::{AUTHORIZATION, HeaderValue};
use async_tungstenite::tungstenite::protocol::WebSocketConfig;
use async_tungstenite::tungstenite::{self, Message};
use futures_lite::io::{AsyncRead, AsyncWrite};
use futures_lite::{FutureExt as _, StreamExt as _};
use futures_util::task::{FutureObj, Spawn};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Requests that may wait to be written; who has one more waits.
const OUTBOX: usize = 64;
/// Messages of bulk data that may wait to be written.
const BULK: usize = 4;

/// What the handshake on a Unix socket asks for.
const LOCAL: &str = "ws://harness/";

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// What it calls itself: `harness 0.1.0`.
    pub name: String,
    /// Time for the handshake and `hello`.
    pub connect_timeout: Duration,
    /// Bytes of the largest message that it takes.
    pub max_message: usize,
    /// Items that may wait in a [`Subscription`] before it is dropped.
    pub queue: usize,
}

impl Default for ClientOptions {
    /// `service-registry VERSION`, 5 s, 64 MiB, 8,192 items.
    fn default() -> Self {
        Self {
            name: concat!("service-registry ", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(5),
            max_message: 64 * 1024 * 1024,
            queue: 8 * 1024,
        }
    }
}

/// One connection. A cheap handle; calls of all of them run at the same time. The connection ends when the last handle
/// and the last [`Subscription`] are gone, or the [`Driver`] is dropped.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    outbox: Sender<String>,
    /// Bulk data, sent when there are no calls to send.
    bulk: Sender<Vec<u8>>,
    pending: Mutex<Pending>,
    next: AtomicI64,
    server: wire::HelloResult,
    queue: usize,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.shared.server.server).finish_non_exhaustive()
    }
}

/// Forgets a call whose future is dropped.
struct Forget<'a>(&'a Shared, i64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.pending().waiting.remove(&self.1);
    }
}

impl Client {
    /// Connects to a server's Unix socket, whose path may be of any length.
    ///
    /// # Errors
    ///
    /// [`ClientError::Connect`] ([`ClientError::is_absent`] if nobody listens there) and those of [`Client::connect`].
    pub async fn connect_unix(path: &Path, options: &ClientOptions) -> Result<(Self, Driver), ClientError> {
        let failed = |source| ClientError::Connect { path: path.to_owned(), source: Arc::new(source) };
        let short = Short::new(path).map_err(failed)?;
        let stream = UnixStream::connect(short.path()).await.map_err(failed)?;
        Self::connect(stream, options).await
    }

    /// The same, with the driver spawned.
    ///
    /// # Errors
    ///
    /// As [`Client::connect_unix`]; [`ClientError::Spawn`].
    pub async fn connect_unix_on(
        path: &Path,
        options: &ClientOptions,
        spawner: &(dyn Spawn + Send + Sync),
    ) -> Result<Self, ClientError> {
        let (client, driver) = Self::connect_unix(path, options).await?;
        spawner
            .spawn_obj(FutureObj::new(Box::new(driver)))
            .map_err(|error| ClientError::Spawn(Arc::new(error)))?;
        Ok(client)
    }

    /// Shakes hands over a stream that is connected. Set TCP_NODELAY on one that is TCP.
    ///
    /// # Errors
    ///
    /// The other end is no server, speaks another protocol, or doesn't answer in time.
    pub async fn connect<S>(stream: S, options: &ClientOptions) -> Result<(Self, Driver), ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let greeted = async { greet(open(stream, LOCAL, None, options).await?, options).await };
        Self::started(greeted, options).await
    }

    /// What comes of a handshake and `hello`, if they are done in time.
    async fn started<S>(
        greeted: impl Future<Output = Result<(WebSocketStream<S>, wire::HelloResult), ClientError>>,
        options: &ClientOptions,
    ) -> Result<(Self, Driver), ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let after = options.connect_timeout;
        let late = async {
            Timer::after(after).await;
            Err(ClientError::TimedOut { method: wire::HELLO.to_owned(), after })
        };
        let (websocket, server) = greeted.or(late).await?;
        let (outbox, queue) = async_channel::bounded(OUTBOX);
        let (bulk, heavy) = async_channel::bounded(BULK);
        let shared = Arc::new(Shared {
            outbox,
            bulk,
            pending: Mutex::default(),
            next: AtomicI64::new(1),
            server,
            queue: options.queue,
        });
        let driver = Driver::new(websocket, &shared, queue, heavy);
        Ok((Self { shared }, driver))
    }

    /// What the server said about itself.
    pub fn server(&self) -> &wire::HelloResult {
        &self.shared.server
    }

    /// Why the connection is over: [`ClientError::Closed`], once its driver has seen the end of it.
    pub fn over(&self) -> Option<ClientError> {
        let pending = self.shared.pending();
        pending.is_over().then(|| pending.closed())
    }

    /// Calls a method and waits for its result, at most for `timeout`. When the time is over, or this future dropped, the
    /// server may still be carrying it out.
    ///
    /// # Errors
    ///
    /// [`ClientError::Rpc`] if the server refuses; else what went wrong on the way.
    pub async fn call<P, R>(&self, method: &str, params: &P, timeout: Duration) -> Result<R, ClientError>
    where
        P: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let (sender, receiver) = async_channel::bounded(1);
        self.send(method, params, timeout, Waiting::Call(sender), receiver).await
    }

    /// Subscribes: to a snapshot and all that follows, or, with a revision, to all that followed it.
    ///
    /// # Errors
    ///
    /// As [`Client::call`]; with [`code::REVISION_GONE`] subscribe without a revision.
    pub async fn subscribe(
        &self,
        filter: &Filter,
        since: Option<u64>,
        timeout: Duration,
    ) -> Result<Subscription, ClientError> {
        let (sender, receiver) = async_channel::bounded(1);
        let (items, queue): (Sender<Item>, Receiver<Item>) = async_channel::bounded(self.shared.queue.max(1));
        let params = wire::SubscribeParams { filter: filter.clone(), since };
        let slow = Arc::default();
        let waiting = Waiting::Subscribe(sender, items, Arc::clone(&slow));
        let result: wire::SubscribeResult =
            self.send(wire::EVENTS_SUBSCRIBE, &params, timeout, waiting, receiver).await?;
        Ok(Subscription::new(Arc::clone(&self.shared), result.subscription, queue, slow, since))
    }

    /// Calls a method that opens a stream, and hands back its result with the stream to send on. The result has the stream's
    /// number as `stream`.
    ///
    /// # Errors
    ///
    /// As [`Client::call`]; [`ClientError::Decode`] if the result names no stream.
    pub async fn open_stream<P, R>(
        &self,
        method: &str,
        params: &P,
        timeout: Duration,
    ) -> Result<(R, OutgoingStream), ClientError>
    where
        P: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let (sender, receiver) = async_channel::bounded(1);
        let flow = Flow::new();
        let waiting = Waiting::Stream(sender, Arc::clone(&flow));
        let result: serde_json::Value = self.send(method, params, timeout, waiting, receiver).await?;
        let undecodable =
            |source| ClientError::Decode { method: method.to_owned(), source: Arc::new(source) };
        let wire::StreamResult { stream } = serde_json::from_value(result.clone()).map_err(undecodable)?;
        let outgoing = OutgoingStream::new(Arc::clone(&self.shared), flow, method, stream);
        Ok((serde_json::from_value(result).map_err(undecodable)?, outgoing))
    }

    async fn send<P, R>(
        &self,
        method: &str,
        params: &P,
        timeout: Duration,
        waiting: Waiting,
        answer: Receiver<Answer>,
    ) -> Result<R, ClientError>
    where
        P: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let shared = &*self.shared;
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let text = wire::request(&Id::Number(number), method, &params)
            .map_err(|source| ClientError::Encode { method: method.to_owned(), source: Arc::new(source) })?;
        let limit = shared.server.max_message;
        if text.len() > limit {
            return Err(ClientError::TooLarge { method: method.to_owned(), size: text.len(), limit });
        }
        shared.pending().add(number, waiting)?;
        let _forget = Forget(shared, number);
        let exchange = async {
            // Err of both: the driver is gone
            let sent = shared.outbox.send(text).await.is_ok();
            match if sent { answer.recv().await.ok() } else { None } {
                Some(answer) => Ok(answer),
                None => Err(shared.pending().closed()),
            }
        };
        let late = async {
            Timer::after(timeout).await;
            Err(ClientError::TimedOut { method: method.to_owned(), after: timeout })
        };
        match exchange.or(late).await? {
            Ok(result) => serde_json::from_str(result.get()).map_err(|source| ClientError::Decode {
                method: method.to_owned(),
                source: Arc::new(source),
            }),
            Err(source) => Err(ClientError::Rpc { method: method.to_owned(), source }),
        }
    }
}

/// Opens a WebSocket over the stream.
async fn open<S>(
    stream: S,
    uri: &str,
    token: Option<&Secret>,
    options: &ClientOptions,
) -> Result<WebSocketStream<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(32 * 1024)
        .write_buffer_size(4 * 1024)
        .max_message_size(Some(options.max_message))
        .max_frame_size(Some(options.max_message));
    let mut request = uri.into_client_request().map_err(broken)?;
    if let Some(token) = token {
        let value = HeaderValue::from_str(&format!("Bearer {}", token.reveal()));
        let mut value = value.map_err(|error| broken(error.into()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let opened = async_tungstenite::client_async_with_config(request, stream, Some(config)).await;
    let (websocket, _) = opened.map_err(|error| match error {
        tungstenite::Error::Http(answer) => refusal(&answer),
        other => broken(other),
    })?;
    Ok(websocket)
}

fn refusal(answer: &Response<Option<Vec<u8>>>) -> ClientError {
    let said = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default());
    let reason = said.trim().chars().filter(|c| !c.is_control()).take(200).collect();
    ClientError::Refused { status: answer.status().as_u16(), reason }
}

fn broken(source: tungstenite::Error) -> ClientError {
    ClientError::Handshake { source: Arc::new(source) }
}

/// Asks the first thing on a connection, and waits for its answer.
async fn ask_first<S, P, R>(
    websocket: &mut WebSocketStream<S>,
    method: &str,
    params: &P,
) -> Result<R, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: Serialize + ?Sized,
    R: DeserializeOwned,
{
    let text = wire::request(&Id::Number(0), method, &params)
        .map_err(|source| ClientError::Encode { method: method.to_owned(), source: Arc::new(source) })?;
    websocket.send(Message::text(text)).await.map_err(broken)?;
    loop {
        let text = match websocket.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(_)) | None => {
                return Err(ClientError::Closed { reason: "the server closed it".to_owned() });
            }
            Some(Err(error)) => return Err(broken(error)),
        };
        return match wire::parse_incoming(&text) {
            Ok(Incoming::Answer(_, Ok(result))) => serde_json::from_str(result.get()).map_err(|source| {
                ClientError::Decode { method: method.to_owned(), source: Arc::new(source) }
            }),
            Ok(Incoming::Answer(_, Err(source))) => Err(refused(method, source)),
            Ok(Incoming::Notification { .. }) | Err(_) => {
                Err(ClientError::Closed { reason: format!("the server did not answer `{method}`") })
            }
        };
    }
}

async fn greet<S>(
    mut websocket: WebSocketStream<S>,
    options: &ClientOptions,
) -> Result<(WebSocketStream<S>, wire::HelloResult), ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let oldest = Some(wire::OLDEST);
    let hello = wire::HelloParams { protocol: wire::PROTOCOL, oldest, client: options.name.clone() };
    let server = ask_first(&mut websocket, wire::HELLO, &hello).await?;
    Ok((websocket, server))
}

/// Calls a method of [`crate::server::Methods::ungreeted`] on a connection of its own: for a server with which no common
/// protocol was found.
///
/// # Errors
///
/// As [`Client::connect_unix`] and [`Client::call`].
pub async fn call_ungreeted<P, R>(
    path: &Path,
    options: &ClientOptions,
    method: &str,
    params: &P,
) -> Result<R, ClientError>
where
    P: Serialize + ?Sized,
    R: DeserializeOwned,
{
    let failed = |source| ClientError::Connect { path: path.to_owned(), source: Arc::new(source) };
    let short = Short::new(path).map_err(failed)?;
    let after = options.connect_timeout;
    let late = async {
        Timer::after(after).await;
        Err(ClientError::TimedOut { method: method.to_owned(), after })
    };
    let exchange = async {
        let stream = UnixStream::connect(short.path()).await.map_err(failed)?;
        ask_first(&mut open(stream, LOCAL, None, options).await?, method, params).await
    };
    exchange.or(late).await
}

fn refused(method: &str, source: RpcError) -> ClientError {
    if source.code == code::PROTOCOL_MISMATCH {
        ClientError::Incompatible { source }
    } else {
        ClientError::Rpc { method: method.to_owned(), source }
    }
}

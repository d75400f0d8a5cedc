//! One connection: handshake, reader, writer, heartbeat, end.

use super::entrance::{refusal, refuse_web_pages};
use super::session::{Next, Session};
use super::{Caller, Limits, Shared};
use crate::wire::{RpcError, code, failure};
use async_channel::{Receiver, Sender};
use async_io::Timer;
use async_tungstenite::tungstenite::error::{CapacityError, Error as WsError};
use async_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use async_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use async_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use async_tungstenite::tungstenite::{Bytes, Message};
use async_tungstenite::{WebSocketReceiver, WebSocketSender, WebSocketStream};
use futures_lite::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use futures_lite::{FutureExt as _, StreamExt as _};
use futures_util::future::{BoxFuture, Either, select};
use serde_json::json;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Messages that may wait for the writer; who fills it waits.
const OUTBOX: usize = 64;
/// Messages after which other connections get a turn: a client that sends without pause is always ready.
const TURN: u32 = 8;
/// How long what an oversized message still brings is read and thrown away, so that its sender gets to see the answer.
const LINGER: Duration = Duration::from_secs(1);

/// What the writer is told to send.
pub(super) enum Out {
    /// A JSON-RPC message.
    Text(String),
    /// Bulk data, or what is said about it.
    Binary(Vec<u8>),
    /// A heartbeat.
    Ping,
    /// The last message.
    Close(CloseCode, &'static str),
}

/// Serves a connection until it ends.
pub(super) async fn run<S>(shared: Arc<Shared>, stream: S, caller: Caller, number: u64)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match handshake(stream, &shared.limits, Gate).await {
        Ok(websocket) => serve(shared, websocket, caller, number, Box::pin(std::future::pending())).await,
        Err(error) => tracing::debug!(connection = number, %error, "no handshake"),
    }
}

/// Serves a connection whose handshake is done, until it ends, or the way by which it came in is `closed`.
pub(super) async fn serve<S>(
    shared: Arc<Shared>,
    websocket: WebSocketStream<S>,
    caller: Caller,
    number: u64,
    closed: BoxFuture<'static, ()>,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let limits = shared.limits;
    tracing::debug!(connection = number, who = %caller.who, "connected");
    let (sender, receiver) = websocket.split();
    let (outbox, queue) = async_channel::bounded(OUTBOX);
    let session = Session::new(Arc::clone(&shared), outbox.clone(), caller, number);
    let reader = pin!(read(shared, receiver, outbox, session, closed));
    let writer = pin!(write(sender, queue, limits.write));
    // the reader ends first unless the client doesn't take what it is sent
    if let Either::Left(((receiver, oversized), writer)) = select(reader, writer).await {
        let sender = writer.await;
        if oversized && let Ok(websocket) = WebSocketStream::reunite(sender, receiver) {
            drain(websocket.into_inner(), limits.message).await;
        }
    }
    tracing::debug!(connection = number, "disconnected");
}

pub(super) async fn handshake<S, G>(
    stream: S,
    limits: &Limits,
    gate: G,
) -> Result<WebSocketStream<S>, WsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    G: Callback + Unpin,
{
    let config = WebSocketConfig::default()
        // allocated for each connection from the start
        .read_buffer_size(4 * 1024)
        .write_buffer_size(4 * 1024)
        .max_message_size(Some(limits.message))
        .max_frame_size(Some(limits.message));
    let late = async {
        Timer::after(limits.handshake).await;
        Err(WsError::Io(std::io::ErrorKind::TimedOut.into()))
    };
    async_tungstenite::accept_hdr_async_with_config(stream, gate, Some(config)).or(late).await
}

/// Refuses web pages; who else comes is known already.
struct Gate;

impl Callback for Gate {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        match refuse_web_pages(request.headers()) {
            Ok(()) => Ok(response),
            Err((status, text)) => Err(refusal(status, &text)),
        }
    }
}

/// Reads and dispatches until the client or the server ends. Also says whether the last message was too large.
async fn read<S>(
    shared: Arc<Shared>,
    mut receiver: WebSocketReceiver<S>,
    outbox: Sender<Out>,
    mut session: Session,
    mut closed: BoxFuture<'static, ()>,
) -> (WebSocketReceiver<S>, bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = shared.limits;
    let mut stop = shared.stop.raised();
    let mut heartbeat = Timer::interval(limits.heartbeat);
    let mut hello = Some(Timer::after(limits.handshake));
    let mut silent = 0_u32;
    let mut turn = 0_u32;
    loop {
        turn = turn.wrapping_add(1);
        if turn.is_multiple_of(TURN) {
            futures_lite::future::yield_now().await;
        }
        let next = std::future::poll_fn(|cx| {
            session.poll_work(cx);
            if stop.poll(cx).is_ready() {
                return Poll::Ready(Next::Stop("the server is ending"));
            }
            if closed.poll(cx).is_ready() {
                return Poll::Ready(Next::Stop("the listener was closed"));
            }
            if let Poll::Ready(message) = receiver.poll_next(cx) {
                return Poll::Ready(Next::Message(message));
            }
            if heartbeat.poll_next(cx).is_ready() {
                return Poll::Ready(Next::Heartbeat);
            }
            if hello.as_mut().is_some_and(|timer| timer.poll(cx).is_ready()) {
                return Poll::Ready(Next::Late);
            }
            Poll::Pending
        })
        .await;
        let close = match next {
            Next::Message(Some(Ok(message))) => {
                silent = 0;
                match message {
                    Message::Text(text) => session.handle(&text).await,
                    Message::Binary(frame) => session.take(&frame).await,
                    _ => {}
                }
                if session.is_greeted() {
                    hello = None;
                }
                continue;
            }
            Next::Message(Some(Err(WsError::Capacity(error)))) => {
                let limit = limits.message;
                let what = match error {
                    CapacityError::MessageTooLong { size, .. } => format!("a message of {size} bytes"),
                    other => other.to_string(),
                };
                let error = RpcError::new(code::TOO_LARGE, format!("{what}: at most {limit} are taken"));
                // Err: the writer is gone, and with it the connection
                let _ =
                    outbox.send(Out::Text(failure(None, &error.with_data(json!({ "limit": limit }))))).await;
                let _ = outbox.send(Out::Close(CloseCode::Size, "message too large")).await;
                return (receiver, true);
            }
            Next::Message(Some(Err(WsError::Utf8(_)))) => Some((CloseCode::Invalid, "text is not UTF-8")),
            Next::Message(Some(Err(WsError::Protocol(_)))) => Some((CloseCode::Protocol, "protocol error")),
            Next::Message(Some(Err(_)) | None) => None,
            Next::Heartbeat => {
                silent += 1;
                if silent < 4 {
                    if silent > 1 {
                        // Full: something is being written, which tests the connection as well
                        let _ = outbox.try_send(Out::Ping);
                    }
                    continue;
                }
                Some((CloseCode::Away, "nothing was heard"))
            }
            Next::Late => Some((CloseCode::Policy, "hello must come first")),
            Next::Stop(reason) => {
                session.finish().await;
                Some((CloseCode::Away, reason))
            }
        };
        if let Some((code, reason)) = close {
            let _ = outbox.send(Out::Close(code, reason)).await;
        }
        return (receiver, false);
    }
}

/// Writes until the outbox is closed, or the client doesn't take a message in time.
async fn write<S>(
    mut sender: WebSocketSender<S>,
    queue: Receiver<Out>,
    patience: Duration,
) -> WebSocketSender<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Ok(out) = queue.recv().await {
        let (message, last) = match out {
            Out::Text(text) => (Message::text(text), false),
            Out::Binary(frame) => (Message::binary(frame), false),
            Out::Ping => (Message::Ping(Bytes::new()), false),
            Out::Close(code, reason) => {
                (Message::Close(Some(CloseFrame { code, reason: reason.into() })), true)
            }
        };
        let late = async {
            Timer::after(patience).await;
            Err(WsError::Io(std::io::ErrorKind::TimedOut.into()))
        };
        if let Err(error) = sender.send(message).or(late).await {
            tracing::debug!(%error, "can't write to a client");
            break;
        }
        if last {
            break;
        }
    }
    sender
}

/// Reads and throws away the rest of a message that is too large, up to `most` bytes.
async fn drain<S: AsyncRead + Unpin>(mut stream: S, most: usize) {
    let mut buffer = vec![0; 64 * 1024];
    let mut left = most.saturating_mul(16);
    let read = async {
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
    };
    read.or(async {
        Timer::after(LINGER).await;
    })
    .await;
}

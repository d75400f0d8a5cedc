//! Bulk data that a client sends: see [`crate::wire::frame`] for what goes over the wire.

use super::connection::Out;
use crate::wire::frame::{Frame, Kind, WINDOW};
use crate::wire::{RpcError, code};
use async_channel::{Receiver, Sender, TrySendError};
use async_io::Timer;
use futures_lite::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A stream on which nothing comes for so long is given up.
const IDLE: Duration = Duration::from_secs(60);

/// The streams of one connection.
pub(super) struct Table {
    limit: usize,
    outbox: Sender<Out>,
    open: Mutex<Open>,
    /// Receivers that begin, for the connection to drive.
    work: Sender<BoxFuture<'static, ()>>,
}

#[derive(Default)]
struct Open {
    /// The last number that was given.
    last: u32,
    inboxes: HashMap<u32, Arc<Inbox>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What came and wasn't taken yet: never more than the sender was allowed.
struct Inbox {
    state: Mutex<Came>,
    /// Something came.
    bell: (Sender<()>, Receiver<()>),
}

struct Came {
    bytes: Vec<u8>,
    /// How many bytes the sender may still send.
    credit: u32,
    /// Nothing more will come, or why.
    end: Option<Result<(), RpcError>>,
}

impl Table {
    /// And the receivers that begin.
    pub(super) fn new(limit: usize, outbox: Sender<Out>) -> (Arc<Self>, Receiver<BoxFuture<'static, ()>>) {
        let (work, begun) = async_channel::bounded(limit.max(1));
        (Arc::new(Self { limit, outbox, open: Mutex::default(), work }), begun)
    }

    /// Takes what a client sent; an error is one of the connection, not of a stream.
    pub(super) fn take(&self, message: &[u8]) -> Result<(), RpcError> {
        let wrong = |text: String| RpcError::new(code::INVALID_REQUEST, text);
        let frame = Frame::parse(message).map_err(wrong)?;
        let inbox = {
            let open = lock(&self.open);
            match open.inboxes.get(&frame.stream) {
                Some(inbox) => Arc::clone(inbox),
                // what was on its way when the stream ended
                None if (1..=open.last).contains(&frame.stream) => return Ok(()),
                None => return Err(wrong(format!("no stream {} is open", frame.stream))),
            }
        };
        inbox.take(frame);
        Ok(())
    }
}

impl Inbox {
    fn take(&self, frame: Frame<'_>) {
        let mut came = lock(&self.state);
        if came.end.is_some() {
            return;
        }
        match frame.kind {
            Kind::Data => {
                match came.credit.checked_sub(u32::try_from(frame.payload.len()).unwrap_or(u32::MAX)) {
                    Some(left) => {
                        came.credit = left;
                        came.bytes.extend_from_slice(frame.payload);
                    }
                    None => came.end = Some(Err(broken("more was sent than there was credit for"))),
                }
            }
            Kind::End => came.end = Some(Ok(())),
            Kind::Error => came.end = Some(Err(broken("the sender gave up"))),
            // nothing is sent on these streams
            Kind::Credit => return,
        }
        drop(came);
        ring(&self.bell.0);
    }
}

/// Full: it rings already. Closed can't be: both ends live as long as what they tell of.
fn ring(bell: &Sender<()>) {
    let (Ok(()) | Err(TrySendError::Full(()) | TrySendError::Closed(()))) = bell.try_send(());
}

fn broken(text: &str) -> RpcError {
    RpcError::new(code::STREAM_BROKEN, text)
}

/// Opens a stream for a call; see [`super::CallContext::streams`].
#[derive(Clone)]
pub struct Streams {
    table: Arc<Table>,
    /// Says that the call was answered well; taken by the stream that it opens.
    answered: Arc<Mutex<Option<Receiver<()>>>>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Streams")
    }
}

impl Streams {
    /// For a call whose good answer is said there.
    pub(super) fn new(table: Arc<Table>, answered: Receiver<()>) -> Self {
        Self { table, answered: Arc::new(Mutex::new(Some(answered))) }
    }

    /// Opens a stream on which the client sends: at most one for each call, whose result must have its number as `stream`.
    ///
    /// `receive` runs once the call was answered without an error, and is dropped with the connection. What it returns is
    /// told to the client as the end of the stream.
    ///
    /// # Errors
    ///
    /// As many streams are open as may be ([`code::TOO_MANY_STREAMS`]), or the call has opened one. The call should answer
    /// with it.
    pub fn receive<F>(
        &self,
        receive: impl FnOnce(IncomingStream) -> F + Send + 'static,
    ) -> Result<u32, RpcError>
    where
        F: Future<Output = Result<Value, RpcError>> + Send + 'static,
    {
        let Some(answered) = lock(&self.answered).take() else {
            return Err(RpcError::internal("a call opens one stream, and before it is answered"));
        };
        let table = &self.table;
        let (number, inbox) = {
            let mut open = lock(&table.open);
            if open.inboxes.len() >= table.limit {
                let text = format!("{} streams of this connection are open", table.limit);
                return Err(
                    RpcError::new(code::TOO_MANY_STREAMS, text).with_data(json!({ "limit": table.limit }))
                );
            }
            let number = open.last.wrapping_add(1);
            open.last = number;
            let came = Came { bytes: Vec::new(), credit: WINDOW, end: None };
            let inbox = Arc::new(Inbox { state: Mutex::new(came), bell: async_channel::bounded(1) });
            open.inboxes.insert(number, Arc::clone(&inbox));
            (number, inbox)
        };
        let place = Place { table: Arc::clone(table), number };
        let incoming = IncomingStream { inbox, outbox: table.outbox.clone(), number };
        let work = async move {
            let place = place;
            if answered.recv().await.is_err() {
                return;
            }
            let received = AssertUnwindSafe(async { receive(incoming).await });
            let outcome = match futures_lite::FutureExt::catch_unwind(received).await {
                Ok(outcome) => outcome,
                Err(_) => Err(RpcError::internal("what receives the stream broke off")),
            };
            let (kind, payload) = match &outcome {
                Ok(result) => (Kind::End, serde_json::to_vec(result)),
                Err(error) => (Kind::Error, serde_json::to_vec(error)),
            };
            let payload = payload.unwrap_or_default();
            let frame = Frame { stream: number, kind, payload: &payload }.write();
            // A place is free as soon as the client knows that the stream is over.
            let outbox = place.table.outbox.clone();
            drop(place);
            // Err: the connection is over
            let _ = outbox.send(Out::Binary(frame)).await;
        };
        // Never full: there are as many places as streams may be open.
        table.work.try_send(Box::pin(work)).map_err(|_| broken("the connection is over"))?;
        Ok(number)
    }
}

/// A stream's number, for as long as it is open.
struct Place {
    table: Arc<Table>,
    number: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.table.open).inboxes.remove(&self.number);
    }
}

/// What a client sends on a stream.
pub struct IncomingStream {
    inbox: Arc<Inbox>,
    outbox: Sender<Out>,
    number: u32,
}

impl fmt::Debug for IncomingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingStream").field("number", &self.number).finish_non_exhaustive()
    }
}

impl IncomingStream {
    /// What has come since the last time, at most [`WINDOW`] bytes; `None` once the client has sent everything. Taking it
    /// allows the client to send as much again, so ask for more only when there is room.
    ///
    /// # Errors
    ///
    /// The client gave up, sent more than it may, or nothing for a minute ([`code::STREAM_BROKEN`]).
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, RpcError> {
        loop {
            let bytes = {
                let mut came = lock(&self.inbox.state);
                if came.bytes.is_empty() {
                    match &came.end {
                        Some(Ok(())) => return Ok(None),
                        Some(Err(error)) => return Err(error.clone()),
                        None => None,
                    }
                } else {
                    let bytes = std::mem::take(&mut came.bytes);
                    came.credit += u32::try_from(bytes.len()).unwrap_or(0);
                    Some(bytes)
                }
            };
            if let Some(bytes) = bytes {
                let more = u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
                let credit = Frame { stream: self.number, kind: Kind::Credit, payload: &more }.write();
                self.outbox.send(Out::Binary(credit)).await.map_err(|_| broken("the connection is over"))?;
                return Ok(Some(bytes));
            }
            let rung = async { self.inbox.bell.1.recv().await.is_ok() };
            let late = async {
                Timer::after(IDLE).await;
                false
            };
            if !rung.or(late).await {
                return Err(broken("nothing was sent for a minute"));
            }
        }
    }
}

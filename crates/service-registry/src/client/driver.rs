//! The future that moves a connection's messages.

use super::outgoing::Flow;
use super::{ClientError, Shared};
use crate::model::Known;
use crate::registry::Item;
use crate::wire::frame::Frame;
use crate::wire::{self, Answer, Id, Incoming};
use async_channel::{Receiver, Sender, TrySendError};
use async_tungstenite::tungstenite::Message;
use async_tungstenite::{WebSocketReceiver, WebSocketSender, WebSocketStream};
use futures_lite::io::{AsyncRead, AsyncWrite};
use futures_lite::{FutureExt as _, StreamExt as _};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

/// Messages after which others get a turn.
const TURN: u32 = 32;

/// Who waits for an answer.
pub(super) enum Waiting {
    Call(Sender<Answer>),
    /// With the items' way, and where it is noted that they were not taken.
    Subscribe(Sender<Answer>, Sender<Item>, Arc<AtomicBool>),
    /// With what is shared about the stream.
    Stream(Sender<Answer>, Arc<Flow>),
}

/// Calls that are open.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) waiting: HashMap<i64, Waiting>,
    /// Why there is no connection any more.
    closed: Option<String>,
}

impl Pending {
    pub(super) fn add(&mut self, number: i64, waiting: Waiting) -> Result<(), ClientError> {
        if self.is_over() {
            return Err(self.closed());
        }
        self.waiting.insert(number, waiting);
        Ok(())
    }

    pub(super) fn is_over(&self) -> bool {
        self.closed.is_some()
    }

    pub(super) fn closed(&self) -> ClientError {
        let reason = self.closed.clone().unwrap_or_else(|| "its driver was dropped".to_owned());
        ClientError::Closed { reason }
    }
}

/// Moves the messages of one connection; it must be polled for anything to happen, and resolves when the connection is
/// over. Dropping it closes the connection.
#[must_use = "nothing happens on the connection unless the driver is polled"]
pub struct Driver {
    /// `None` once the connection is over.
    work: Option<Pin<Box<dyn Future<Output = String> + Send>>>,
    shared: Weak<Shared>,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}

impl Driver {
    pub(super) fn new<S>(
        websocket: WebSocketStream<S>,
        shared: &Arc<Shared>,
        queue: Receiver<String>,
        bulk: Receiver<Vec<u8>>,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, receiver) = websocket.split();
        let mut reader =
            Reader { shared: Arc::downgrade(shared), streams: HashMap::new(), flows: Flows::default() };
        let work = async move {
            let reason = reader.run(receiver).or(write(sender, queue, bulk)).await;
            // Before the reader's subscriptions end with it: who sees such an end may ask why.
            close(&reader.shared, reason.clone());
            reason
        };
        Self { work: Some(Box::pin(work)), shared: Arc::downgrade(shared) }
    }

    /// Drives the connection for as long as `with` takes.
    pub async fn run<T>(self, with: impl Future<Output = T>) -> T {
        let drive = async {
            self.await;
            // whoever still waits in `with` has been told
            std::future::pending().await
        };
        with.or(drive).await
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(work) = &mut self.work else { return Poll::Ready(()) };
        let reason = std::task::ready!(work.as_mut().poll(cx));
        self.work = None;
        close(&self.shared, reason);
        Poll::Ready(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        close(&self.shared, "its driver was dropped".to_owned());
    }
}

/// Tells everyone who waits that nothing will come.
fn close(shared: &Weak<Shared>, reason: String) {
    if let Some(shared) = shared.upgrade() {
        let mut pending = shared.pending();
        pending.closed.get_or_insert(reason);
        let waiting = std::mem::take(&mut pending.waiting);
        drop(pending);
        drop(waiting);
        shared.outbox.close();
        shared.bulk.close();
    }
}

/// Writes requests until all clients are gone.
async fn write<S>(mut sender: WebSocketSender<S>, queue: Receiver<String>, bulk: Receiver<Vec<u8>>) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        // Calls go first: `or` asks the first before the second. Both are closed at once.
        let call = async { queue.recv().await.map(Message::text) };
        let Ok(message) = call.or(async { bulk.recv().await.map(Message::binary) }).await else { break };
        if let Err(error) = sender.send(message).await {
            return error.to_string();
        }
    }
    // Err: it is closed already
    let _ = sender.close(None).await;
    "nobody uses it any more".to_owned()
}

/// A subscription as the reader sees it.
struct Stream {
    items: Sender<Item>,
    slow: Arc<AtomicBool>,
    /// The parts of a snapshot that came.
    parts: Vec<Known>,
}

struct Reader {
    shared: Weak<Shared>,
    streams: HashMap<u64, Stream>,
    flows: Flows,
}

/// Streams that the client sends on; with the connection they are closed.
#[derive(Default)]
struct Flows(HashMap<u32, Arc<Flow>>);

impl Flows {
    fn take(&mut self, message: &[u8]) {
        // What can't be understood is of a kind that a newer server sends.
        let Ok(frame) = Frame::parse(message) else { return };
        if self.0.get(&frame.stream).is_some_and(|flow| flow.take(frame)) {
            self.0.remove(&frame.stream);
        }
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.0.values().for_each(|flow| flow.close());
    }
}

impl Reader {
    async fn run<S>(&mut self, mut receiver: WebSocketReceiver<S>) -> String
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut turn = 0_u32;
        loop {
            let text = match receiver.next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(Some(frame)))) => {
                    return format!("the server closed it: {}", frame.reason);
                }
                Some(Ok(Message::Binary(frame))) => {
                    self.flows.take(&frame);
                    continue;
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => return error.to_string(),
                None => return "the server closed it".to_owned(),
            };
            match wire::parse_incoming(&text) {
                Ok(Incoming::Answer(Some(Id::Number(number)), answer)) => self.answer(number, answer),
                Ok(Incoming::Answer(_, Err(error))) => return error.message,
                Ok(Incoming::Answer(..)) => {}
                Ok(Incoming::Notification { method, params }) => {
                    if let Err(error) = self.notice(&method, &params) {
                        return format!("can't understand {method}: {error}");
                    }
                }
                Err(error) => return format!("can't understand a message: {error}"),
            }
            turn += 1;
            if turn.is_multiple_of(TURN) {
                futures_lite::future::yield_now().await;
            }
        }
    }

    fn answer(&mut self, number: i64, answer: Answer) {
        let Some(shared) = self.shared.upgrade() else { return };
        let waiting = shared.pending().waiting.remove(&number);
        // Err of try_send: the caller doesn't wait any more
        match waiting {
            Some(Waiting::Call(sender)) => drop(sender.try_send(answer)),
            Some(Waiting::Subscribe(sender, items, slow)) => {
                // the stream must be known before the next message is read
                if let Ok(result) = &answer
                    && let Ok(result) = serde_json::from_str::<wire::SubscribeResult>(result.get())
                {
                    let stream = Stream { items, slow, parts: Vec::new() };
                    self.streams.insert(result.subscription, stream);
                }
                drop(sender.try_send(answer));
            }
            Some(Waiting::Stream(sender, flow)) => {
                if let Ok(result) = &answer
                    && let Ok(result) = serde_json::from_str::<wire::StreamResult>(result.get())
                {
                    self.flows.0.insert(result.stream, flow);
                }
                drop(sender.try_send(answer));
            }
            None => {}
        }
    }

    fn notice(&mut self, method: &str, params: &RawValue) -> Result<(), serde_json::Error> {
        match method {
            wire::EVENTS_SNAPSHOT => {
                let note: wire::SnapshotNote = decode(params)?;
                if let Some(stream) = self.streams.get_mut(&note.subscription) {
                    stream.parts.extend(note.entries);
                    if !note.more {
                        let entries = std::mem::take(&mut stream.parts);
                        self.hand_on(note.subscription, Item::Snapshot { entries, revision: note.revision });
                    }
                }
            }
            wire::EVENTS_EVENT => {
                let note: wire::EventNote = decode(params)?;
                self.hand_on(note.subscription, Item::Event(note.event));
            }
            wire::EVENTS_DROPPED => {
                let note: wire::DroppedNote = decode(params)?;
                self.hand_on(note.subscription, Item::Dropped { reason: note.reason, resume: note.resume });
                self.streams.remove(&note.subscription);
            }
            // notifications of newer servers
            _ => {}
        }
        Ok(())
    }

    fn hand_on(&mut self, subscription: u64, item: Item) {
        let Some(stream) = self.streams.get_mut(&subscription) else { return };
        match stream.items.try_send(item) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                stream.slow.store(true, Ordering::Release);
                stream.items.close();
                self.unsubscribe(subscription);
            }
            Err(TrySendError::Closed(_)) => self.unsubscribe(subscription),
        }
    }

    fn unsubscribe(&mut self, subscription: u64) {
        self.streams.remove(&subscription);
        if let Some(shared) = self.shared.upgrade() {
            unsubscribe(&shared, subscription);
        }
    }
}

/// Tells the server that nobody listens; nobody waits for its answer.
pub(super) fn unsubscribe(shared: &Shared, subscription: u64) {
    let number = shared.next.fetch_add(1, Ordering::Relaxed);
    let params = wire::SubscriptionParams { subscription };
    if let Ok(text) = wire::request(&Id::Number(number), wire::EVENTS_UNSUBSCRIBE, &params) {
        // Full: the next event of it tries again
        let _ = shared.outbox.try_send(text);
    }
}

fn decode<T: DeserializeOwned>(params: &RawValue) -> Result<T, serde_json::Error> {
    serde_json::from_str(params.get())
}

//! What a connection is doing: requests that are open, subscriptions that are pumped.

use super::connection::Out;
use super::rate::Bucket;
use super::streams::{Streams, Table};
use super::{CallContext, Caller, Shared, builtin};
use crate::registry::{Item, Subscription};
use crate::wire::{self, Id, RpcError, code, failure, success};
use async_channel::{Receiver, Sender};
use async_tungstenite::tungstenite::{Error as WsError, Message};
use futures_lite::{FutureExt as _, StreamExt as _};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Entries in one part of a snapshot.
const PART: usize = 500;

/// What the reader of a connection wakes up for.
pub(super) enum Next {
    /// A message, an error, or the end.
    Message(Option<Result<Message, WsError>>),
    /// Time to see whether the client still lives.
    Heartbeat,
    /// `hello` didn't come in time.
    Late,
    /// The server ends, or its listener: why.
    Stop(&'static str),
}

/// Subscriptions by number; dropping the sender ends one.
type Pumps = Arc<Mutex<HashMap<u64, Sender<Infallible>>>>;

pub(super) struct Session {
    shared: Arc<Shared>,
    outbox: Sender<Out>,
    caller: Caller,
    number: u64,
    /// The client's name, once it said hello.
    client: Option<Arc<str>>,
    calls: FuturesUnordered<BoxFuture<'static, ()>>,
    pumps: FuturesUnordered<BoxFuture<'static, ()>>,
    subscriptions: Pumps,
    next_subscription: u64,
    streams: Arc<Table>,
    /// Receivers of streams that begin, and those that were begun.
    begun: Pin<Box<Receiver<BoxFuture<'static, ()>>>>,
    receivers: FuturesUnordered<BoxFuture<'static, ()>>,
    born: Instant,
    bucket: Bucket,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, outbox: Sender<Out>, caller: Caller, number: u64) -> Self {
        let (streams, begun) = Table::new(shared.limits.streams, outbox.clone());
        let bucket = Bucket::new(shared.limits.rate, Duration::ZERO);
        Self {
            shared,
            outbox,
            caller,
            number,
            client: None,
            calls: FuturesUnordered::new(),
            pumps: FuturesUnordered::new(),
            subscriptions: Pumps::default(),
            next_subscription: 1,
            streams,
            begun: Box::pin(begun),
            receivers: FuturesUnordered::new(),
            born: Instant::now(),
            bucket,
        }
    }

    fn too_fast(&self, wait: Duration) -> RpcError {
        let limit = self.shared.limits.rate;
        let text = format!("more than {limit} requests a second: wait {wait:?}");
        let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        RpcError::new(code::TOO_FAST, text)
            .with_data(json!({ "limit": limit, "retry_after_ms": retry_after_ms }))
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.client.is_some()
    }

    /// Drives requests, subscriptions and streams.
    pub(super) fn poll_work(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(())) = self.calls.poll_next(cx) {}
        while let Poll::Ready(Some(())) = self.pumps.poll_next(cx) {}
        while let Poll::Ready(Some(receiver)) = self.begun.poll_next(cx) {
            self.receivers.push(receiver);
        }
        while let Poll::Ready(Some(())) = self.receivers.poll_next(cx) {}
    }

    /// Ends the subscriptions and streams, and waits for the open requests.
    pub(super) async fn finish(&mut self) {
        self.pumps.clear();
        self.receivers.clear();
        while self.calls.next().await.is_some() {}
    }

    async fn say(&mut self, text: String) {
        // Err: the writer is gone, and the reader about to see it
        let _ = self.outbox.send(Out::Text(text)).await;
    }

    /// Takes bulk data.
    pub(super) async fn take(&mut self, frame: &[u8]) {
        if let Err(error) = self.streams.take(frame) {
            self.say(failure(None, &error)).await;
        }
    }

    /// Answers a message, at once or as soon as it can be.
    pub(super) async fn handle(&mut self, text: &str) {
        let paced = self.bucket.take(self.born.elapsed());
        let request = match wire::parse_request(text) {
            Ok(request) => request,
            Err((id, error)) => return self.say(failure(id.as_ref(), &error)).await,
        };
        // a notification: there is none that a server takes, and none may be answered
        let Some(id) = request.id else { return };
        if let Err(wait) = paced {
            return self.say(failure(Some(&id), &self.too_fast(wait))).await;
        }
        if let Err(error) = self.may(&request.method) {
            return self.say(failure(Some(&id), &error)).await;
        }
        let answer = match request.method.as_str() {
            wire::HELLO => self.hello(&id, request.params),
            wire::EVENTS_SUBSCRIBE => match self.subscribe(request.params) {
                Ok((number, pump)) => {
                    // the answer goes out before the first notification
                    self.say(success(&id, &wire::SubscribeResult { subscription: number })).await;
                    self.pumps.push(pump);
                    return;
                }
                Err(error) => Err(error),
            },
            wire::RPC_DISCOVER => serde_json::from_str::<&RawValue>(self.shared.methods.openrpc())
                .map(|document| success(&id, &document))
                .map_err(RpcError::internal),
            wire::EVENTS_UNSUBSCRIBE => self.unsubscribe(&id, request.params),
            method => match self.start(id.clone(), method, request.params) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
        };
        self.say(answer.unwrap_or_else(|error| failure(Some(&id), &error))).await;
    }

    /// Whether the caller may ask for that now.
    fn may(&self, method: &str) -> Result<(), RpcError> {
        let methods = &self.shared.methods;
        if self.client.is_none() && method != wire::HELLO && !methods.ungreeted().contains(&method) {
            return Err(RpcError::new(code::HELLO_REQUIRED, "`hello` must be the first request"));
        }
        let mut all = wire::METHODS.iter().chain(methods.methods());
        let Some(info) = all.find(|info| info.name == method) else {
            return Err(RpcError::new(code::METHOD_NOT_FOUND, format!("there is no method {method:?}"))
                .with_data(json!({ "methods": self.method_names() })));
        };
        let (needs, has) = (info.scope, self.caller.scope);
        if needs > has {
            let text = format!("{method} needs the scope `{needs}`, this connection has `{has}`");
            return Err(RpcError::new(code::FORBIDDEN, text).with_data(json!({ "needs": needs, "has": has })));
        }
        Ok(())
    }

    fn hello(&mut self, id: &Id, params: Value) -> Result<String, RpcError> {
        let hello: wire::HelloParams = decode(params)?;
        let Some(protocol) = wire::agree(hello.protocol, hello.oldest) else {
            let who = if hello.protocol < wire::OLDEST { "client" } else { "server" };
            let text = format!(
                "the client speaks protocol {}, this server {}: use a newer {who}",
                hello.protocol,
                wire::PROTOCOL
            );
            return Err(RpcError::new(code::PROTOCOL_MISMATCH, text).with_data(
                json!({ "protocol": wire::PROTOCOL, "oldest": wire::OLDEST, "server": server_name() }),
            ));
        };
        self.client =
            Some(hello.client.chars().filter(|c| !c.is_control()).take(128).collect::<String>().into());
        let result = wire::HelloResult {
            protocol,
            server: server_name(),
            capabilities: self.method_names(),
            revision: self.shared.registry.revision(),
            max_message: self.shared.limits.message,
        };
        Ok(success(id, &result))
    }

    fn method_names(&self) -> Vec<String> {
        let added = self.shared.methods.methods();
        wire::METHODS.iter().chain(added).map(|info| info.name.to_owned()).collect()
    }

    /// Starts a request that is answered when it is done.
    fn start(&mut self, id: Id, method: &str, params: Value) -> Result<(), RpcError> {
        let limit = self.shared.limits.requests;
        if self.calls.len() >= limit {
            let text = format!("{limit} requests of this connection are open: wait for an answer");
            return Err(RpcError::new(code::TOO_MANY_REQUESTS, text).with_data(json!({ "limit": limit })));
        }
        let (well, answered) = async_channel::bounded(1);
        let answer = match builtin::call(&self.shared.registry, &id, method, &params) {
            Some(answer) => answer?,
            None => self.call(id.clone(), method, params, well.clone(), answered),
        };
        let outbox = self.outbox.clone();
        self.calls.push(Box::pin(async move {
            let text = match futures_lite::FutureExt::catch_unwind(AssertUnwindSafe(answer)).await {
                Ok(text) => text,
                Err(_) => {
                    well.close();
                    failure(Some(&id), &RpcError::internal("the method broke off"))
                }
            };
            let _ = outbox.send(Out::Text(text)).await;
            // A stream that the call has opened begins after the answer. Err: it was no good one.
            let _ = well.try_send(());
        }));
        Ok(())
    }

    /// A method of the host's. `well` is closed if it is answered with an error, and says to `answered` when it was answered.
    fn call(
        &self,
        id: Id,
        method: &str,
        params: Value,
        well: Sender<()>,
        answered: Receiver<()>,
    ) -> BoxFuture<'static, String> {
        let context = CallContext {
            connection: self.number,
            caller: self.caller.clone(),
            client: self.client.clone().unwrap_or_else(|| "".into()),
            streams: Streams::new(Arc::clone(&self.streams), answered),
        };
        let (methods, method) = (Arc::clone(&self.shared.methods), method.to_owned());
        Box::pin(async move {
            match methods.call(context, &method, params).await {
                Ok(result) => success(&id, &result),
                Err(error) => {
                    well.close();
                    failure(Some(&id), &error)
                }
            }
        })
    }

    fn subscribe(&mut self, params: Value) -> Result<(u64, BoxFuture<'static, ()>), RpcError> {
        let params: wire::SubscribeParams = decode(params)?;
        let limit = self.shared.limits.subscriptions;
        let mut open = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= limit {
            let text = format!("{limit} subscriptions of this connection are open");
            return Err(
                RpcError::new(code::TOO_MANY_SUBSCRIPTIONS, text).with_data(json!({ "limit": limit }))
            );
        }
        let subscription =
            self.shared.registry.subscribe(params.filter, params.since).map_err(builtin::registry_error)?;
        let number = self.next_subscription;
        self.next_subscription += 1;
        let (cancel, cancelled) = async_channel::bounded(1);
        open.insert(number, cancel);
        let (outbox, all) = (self.outbox.clone(), Arc::clone(&self.subscriptions));
        let pump = async move {
            pump(number, subscription, &outbox).or(until(cancelled)).await;
            all.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        };
        Ok((number, Box::pin(pump)))
    }

    fn unsubscribe(&self, id: &Id, params: Value) -> Result<String, RpcError> {
        let wire::SubscriptionParams { subscription } = decode(params)?;
        match self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).remove(&subscription) {
            Some(_cancel) => Ok(success(id, &wire::Empty {})),
            None => Err(RpcError::new(code::NOT_FOUND, format!("there is no subscription {subscription}"))),
        }
    }
}

async fn until(cancelled: Receiver<Infallible>) {
    let _ = cancelled.recv().await;
}

/// Sends what a subscription brings. When the client is slow, this waits, and the subscription's queue fills up.
async fn pump(number: u64, mut subscription: Subscription, outbox: &Sender<Out>) {
    while let Some(item) = subscription.next().await {
        let notes = match item {
            Item::Snapshot { entries, revision } => {
                let mut parts: Vec<_> = entries.chunks(PART).map(<[_]>::to_vec).collect();
                if parts.is_empty() {
                    parts.push(Vec::new());
                }
                let last = parts.len() - 1;
                for (n, entries) in parts.into_iter().enumerate() {
                    let note = wire::SnapshotNote { subscription: number, revision, entries, more: n < last };
                    if !tell(outbox, wire::EVENTS_SNAPSHOT, &note).await {
                        return;
                    }
                    futures_lite::future::yield_now().await;
                }
                continue;
            }
            Item::Event(event) => {
                let note = wire::EventNote { subscription: number, event };
                tell(outbox, wire::EVENTS_EVENT, &note).await
            }
            Item::Dropped { reason, resume } => {
                let note = wire::DroppedNote { subscription: number, reason, resume };
                tell(outbox, wire::EVENTS_DROPPED, &note).await
            }
        };
        if !notes {
            return;
        }
    }
}

async fn tell<T: serde::Serialize>(outbox: &Sender<Out>, method: &str, note: &T) -> bool {
    match wire::notification(method, note) {
        Ok(text) => outbox.send(Out::Text(text)).await.is_ok(),
        Err(error) => {
            tracing::error!(%error, method, "can't write a notification");
            false
        }
    }
}

pub(super) fn decode<T: DeserializeOwned>(params: Value) -> Result<T, RpcError> {
    serde_json::from_value(params).map_err(|error| RpcError::invalid_params(&error))
}

fn server_name() -> String {
    concat!("service-registry ", env!("CARGO_PKG_VERSION")).to_owned()
}

//! Bulk data that a client sends: see [`crate::wire::frame`].

use super::{ClientError, Shared};
use crate::wire::RpcError;
use crate::wire::frame::{Frame, Kind, PAYLOAD, WINDOW};
use async_channel::{Receiver, Sender};
use async_io::Timer;
use futures_lite::FutureExt as _;
use serde::de::DeserializeOwned;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A stream that the server takes nothing of for so long is given up.
const STALLED: Duration = Duration::from_secs(60);

/// What the connection's reader and the sender share about a stream.
pub(super) struct Flow {
    state: Mutex<State>,
    /// Something changed; closed with the connection.
    bell: (Sender<()>, Receiver<()>),
}

struct State {
    credit: u32,
    outcome: Option<Result<Vec<u8>, RpcError>>,
}

impl Flow {
    pub(super) fn new() -> Arc<Self> {
        let state = State { credit: WINDOW, outcome: None };
        Arc::new(Self { state: Mutex::new(state), bell: async_channel::bounded(1) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the server says about the stream; whether it is over.
    pub(super) fn take(&self, frame: Frame<'_>) -> bool {
        let mut state = self.lock();
        match (frame.kind, frame.payload) {
            (Kind::Credit, &[a, b, c, d]) => {
                state.credit = state.credit.saturating_add(u32::from_be_bytes([a, b, c, d]));
            }
            (Kind::End, result) => state.outcome = Some(Ok(result.to_vec())),
            (Kind::Error, error) => {
                let error = serde_json::from_slice(error).unwrap_or_else(RpcError::internal);
                state.outcome = Some(Err(error));
            }
            _ => {}
        }
        let over = state.outcome.is_some();
        drop(state);
        // Full: it rings already
        let _ = self.bell.0.try_send(());
        over
    }

    /// The connection is over.
    pub(super) fn close(&self) {
        self.bell.0.close();
    }
}

/// A stream that a call has opened, to send on. Dropped before [`OutgoingStream::finish`] it gives the stream up.
#[must_use = "the server waits for what is sent"]
pub struct OutgoingStream {
    shared: Arc<Shared>,
    flow: Arc<Flow>,
    method: String,
    number: u32,
    finished: bool,
}

impl fmt::Debug for OutgoingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingStream").field("number", &self.number).finish_non_exhaustive()
    }
}

impl OutgoingStream {
    pub(super) fn new(shared: Arc<Shared>, flow: Arc<Flow>, method: &str, number: u32) -> Self {
        Self { shared, flow, method: method.to_owned(), number, finished: false }
    }

    /// Sends these bytes, as fast as the server takes them.
    ///
    /// # Errors
    ///
    /// The server gave up ([`ClientError::Rpc`]), took nothing for a minute, or the connection is gone.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let mut left = bytes;
        while !left.is_empty() {
            let allowed = self.credit().await?.min(left.len()).min(PAYLOAD);
            let (now, later) = left.split_at(allowed);
            self.say(Kind::Data, now).await?;
            left = later;
        }
        Ok(())
    }

    /// Says that this was all, and waits for what the server makes of it.
    ///
    /// # Errors
    ///
    /// As [`Self::send`]; [`ClientError::TimedOut`].
    pub async fn finish<R: DeserializeOwned>(mut self, timeout: Duration) -> Result<R, ClientError> {
        self.say(Kind::End, &[]).await?;
        self.finished = true;
        let result = self.wait(timeout, |state| state.outcome.take()).await?;
        let result = result.map_err(|source| ClientError::Rpc { method: self.method.clone(), source })?;
        serde_json::from_slice(&result)
            .map_err(|source| ClientError::Decode { method: self.method.clone(), source: Arc::new(source) })
    }

    /// Takes credit for one message: at least one byte.
    async fn credit(&mut self) -> Result<usize, ClientError> {
        let credit = self.wait(STALLED, |state| match &state.outcome {
            Some(Ok(_)) => Some(Err(RpcError::internal("the server has ended the stream before its end"))),
            Some(Err(error)) => Some(Err(error.clone())),
            None if state.credit > 0 => Some(Ok(state.credit)),
            None => None,
        });
        let credit =
            credit.await?.map_err(|source| ClientError::Rpc { method: self.method.clone(), source })?;
        Ok(credit as usize)
    }

    /// Waits until `look` sees what it wants.
    async fn wait<T>(
        &self,
        timeout: Duration,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, ClientError> {
        let seen = async {
            loop {
                if let Some(found) = look(&mut self.flow.lock()) {
                    return Ok(found);
                }
                if self.flow.bell.1.recv().await.is_err() {
                    return Err(self.shared.pending().closed());
                }
            }
        };
        let late = async {
            Timer::after(timeout).await;
            Err(ClientError::TimedOut { method: self.method.clone(), after: timeout })
        };
        seen.or(late).await
    }

    async fn say(&self, kind: Kind, payload: &[u8]) -> Result<(), ClientError> {
        if kind == Kind::Data {
            let mut state = self.flow.lock();
            state.credit = state.credit.saturating_sub(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        }
        let frame = Frame { stream: self.number, kind, payload }.write();
        self.shared.bulk.send(frame).await.map_err(|_| self.shared.pending().closed())
    }
}

impl Drop for OutgoingStream {
    fn drop(&mut self) {
        if !self.finished {
            let frame = Frame { stream: self.number, kind: Kind::Error, payload: &[] }.write();
            // Full: the server gives it up after a minute by itself
            let _ = self.shared.bulk.try_send(frame);
        }
    }
}

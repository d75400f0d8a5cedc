//! A client's end of a subscription.

use super::Shared;
use super::driver::unsubscribe;
use crate::registry::{DropReason, Item};
use async_channel::Receiver;
use futures_util::Stream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

/// A stream of [`Item`]s that ends after [`Item::Dropped`]: also when the connection is lost, or when more items wait
/// than may. Dropping it unsubscribes.
pub struct Subscription {
    shared: Arc<Shared>,
    number: u64,
    queue: Pin<Box<Receiver<Item>>>,
    /// Whether the queue ended because it was full.
    slow: Arc<AtomicBool>,
    resume: Option<u64>,
    ended: bool,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("resume", &self.resume).finish_non_exhaustive()
    }
}

impl Subscription {
    pub(super) fn new(
        shared: Arc<Shared>,
        number: u64,
        queue: Receiver<Item>,
        slow: Arc<AtomicBool>,
        since: Option<u64>,
    ) -> Self {
        Self { shared, number, queue: Box::pin(queue), slow, resume: since, ended: false }
    }

    /// The revision of the last item that was delivered, or the one that the subscription began after.
    pub fn revision(&self) -> Option<u64> {
        self.resume
    }

    /// The next item; `None` after [`Item::Dropped`]. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Item> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Subscription {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let item = ready!(this.queue.as_mut().poll_next(cx));
        let item = item.unwrap_or_else(|| {
            let slow = this.slow.load(Ordering::Acquire);
            let reason = if slow { DropReason::TooSlow } else { DropReason::ConnectionLost };
            Item::Dropped { reason, resume: this.resume }
        });
        match &item {
            Item::Snapshot { revision, .. } => this.resume = Some(*revision),
            Item::Event(event) => this.resume = Some(event.revision),
            Item::Dropped { .. } => this.ended = true,
        }
        Poll::Ready(Some(item))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.ended {
            unsubscribe(&self.shared, self.number);
        }
    }
}

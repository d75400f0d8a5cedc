//! One subscriber's end of the registry.

use super::event::{DropReason, Event, Filter, Item};
use crate::model::Known;
use futures_util::Stream;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

/// A stream of [`Item`]s that ends after [`Item::Dropped`]. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    snapshot: Option<(Vec<Known>, u64)>,
    backlog: VecDeque<Arc<Event>>,
    queue: Pin<Box<async_channel::Receiver<Arc<Event>>>>,
    reason: Arc<OnceLock<DropReason>>,
    resume: Option<u64>,
    ended: bool,
}

impl Subscription {
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
        if let Some((entries, revision)) = this.snapshot.take() {
            this.resume = Some(revision);
            return Poll::Ready(Some(Item::Snapshot { entries, revision }));
        }
        let event = match this.backlog.pop_front() {
            Some(event) => Some(event),
            None => ready!(this.queue.as_mut().poll_next(cx)),
        };
        Poll::Ready(Some(match event {
            Some(event) => {
                this.resume = Some(event.revision);
                Item::Event(event)
            }
            None => {
                this.ended = true;
                let reason = this.reason.get().copied().unwrap_or(DropReason::ShuttingDown);
                Item::Dropped { reason, resume: this.resume }
            }
        }))
    }
}

/// The registry's end: everyone who listens.
#[derive(Default)]
pub(super) struct Subscribers(Vec<Subscriber>);

struct Subscriber {
    filter: Filter,
    queue: async_channel::Sender<Arc<Event>>,
    reason: Arc<OnceLock<DropReason>>,
}

impl Subscribers {
    /// Adds one that begins with a snapshot or with a backlog.
    pub(super) fn add(
        &mut self,
        filter: Filter,
        capacity: usize,
        snapshot: Option<(Vec<Known>, u64)>,
        backlog: VecDeque<Arc<Event>>,
        since: Option<u64>,
    ) -> Subscription {
        let (sender, receiver) = async_channel::bounded(capacity.max(1));
        let reason = Arc::<OnceLock<DropReason>>::default();
        self.0.push(Subscriber { filter, queue: sender, reason: Arc::clone(&reason) });
        Subscription { snapshot, backlog, queue: Box::pin(receiver), reason, resume: since, ended: false }
    }

    /// Tells everyone who wants to know; who has no room left is dropped, who is gone is forgotten.
    pub(super) fn tell(&mut self, event: &Arc<Event>) {
        self.0.retain(|subscriber| {
            if !subscriber.filter.wants(event) {
                return !subscriber.queue.is_closed();
            }
            match subscriber.queue.try_send(Arc::clone(event)) {
                Ok(()) => true,
                Err(async_channel::TrySendError::Full(_)) => {
                    // Err: it has a reason already
                    let _ = subscriber.reason.set(DropReason::TooSlow);
                    subscriber.queue.close();
                    false
                }
                Err(async_channel::TrySendError::Closed(_)) => false,
            }
        });
    }

    pub(super) fn drop_all(&mut self, reason: DropReason) {
        for subscriber in self.0.drain(..) {
            let _ = subscriber.reason.set(reason);
            subscriber.queue.close();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().filter(|s| !s.queue.is_closed()).count()
    }
}

//! How far a writer has come, and who waits for it.
//!
//! The one place where threads of ours meet in code of ours that isn't a lock held for a moment: the store's writer settles
//! what the program's thread waits for. `tests/it/interleavings.rs` compiles this file against shuttle's locks and
//! tries their meetings in many orders.

use super::StoreError;
use super::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Batches are numbered from 1 in the order of their commits.
#[derive(Default)]
pub(super) struct Progress(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Everything up to this number has an outcome.
    settled: u64,
    /// Ranges that failed, `(first, last)`, oldest first; kept while somebody may still ask.
    failed: VecDeque<(u64, u64, StoreError)>,
    closed: bool,
    next_waiter: u64,
    waiters: BTreeMap<u64, (u64, Waker)>,
}

/// Failures that are remembered for those who ask late.
const FAILURES: usize = 64;

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All batches up to `number` have this outcome.
    pub(super) fn settle(&self, number: u64, outcome: Result<(), StoreError>) {
        let mut inner = self.lock();
        if let Err(error) = outcome
            && number > inner.settled
        {
            let first = inner.settled + 1;
            inner.failed.push_back((first, number, error));
            if inner.failed.len() > FAILURES {
                inner.failed.pop_front();
            }
        }
        inner.settled = inner.settled.max(number);
        let settled = inner.settled;
        let ready: Vec<u64> =
            inner.waiters.iter().filter(|(_, (number, _))| *number <= settled).map(|(id, _)| *id).collect();
        let wakers: Vec<Waker> =
            ready.iter().filter_map(|id| inner.waiters.remove(id)).map(|(_, w)| w).collect();
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Nothing will be settled any more.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        let waiters = std::mem::take(&mut inner.waiters);
        drop(inner);
        waiters.into_values().for_each(|(_, waker)| waker.wake());
    }

    /// Resolves with the outcome of batch `number`.
    pub(super) fn wait(self: &Arc<Self>, number: u64) -> Settled {
        Settled { progress: Arc::clone(self), number, waiter: None }
    }
}

/// The future of [`Progress::wait`].
pub(super) struct Settled {
    progress: Arc<Progress>,
    number: u64,
    waiter: Option<u64>,
}

impl Future for Settled {
    type Output = Result<(), StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let progress = Arc::clone(&self.progress);
        let mut inner = progress.lock();
        if inner.settled >= self.number {
            let failure =
                inner.failed.iter().find(|(first, last, _)| (*first..=*last).contains(&self.number));
            return Poll::Ready(failure.map_or(Ok(()), |(_, _, error)| Err(error.clone())));
        }
        if inner.closed {
            return Poll::Ready(Err(StoreError::Closed));
        }
        let id = *self.waiter.get_or_insert_with(|| {
            inner.next_waiter += 1;
            inner.next_waiter
        });
        inner.waiters.insert(id, (self.number, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        if let Some(id) = self.waiter {
            self.progress.lock().waiters.remove(&id);
        }
    }
}

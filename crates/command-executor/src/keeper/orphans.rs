//! Keepers whose zygote is gone: nobody would say that one was killed, so the daemon watches them itself, with a
//! descriptor for each. That is the exception: as long as their zygote lives, it needs none.

use super::{
    identity::ProcessIdentity,
    scan::{FoundRun, Liveness},
    spec::RunId,
};
use async_io::Async;
use rustix::fd::OwnedFd;
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

/// One keeper that is watched.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) instance: String,
    pub(super) run: RunId,
    keeper: ProcessIdentity,
    process: Async<OwnedFd>,
}

/// Waits for one of them, or (`None`) for a change of the list.
type End<'a> = Pin<Box<dyn Future<Output = Option<Arc<Orphan>>> + Send + 'a>>;

/// All that are watched.
#[derive(Debug)]
pub(super) struct Orphans {
    list: Mutex<Vec<Arc<Orphan>>>,
    changed: (async_channel::Sender<()>, async_channel::Receiver<()>),
}

impl Default for Orphans {
    fn default() -> Self {
        Self { list: Mutex::default(), changed: async_channel::bounded(1) }
    }
}

impl Orphans {
    /// Watches the living keepers among the found, those that aren't watched yet. One that can't be (no descriptor is
    /// left) is noticed when it is spoken to.
    pub(super) fn watch<'a>(&self, found: impl IntoIterator<Item = &'a FoundRun>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        for FoundRun { record, liveness } in found {
            let known = list.iter().any(|orphan| orphan.run == record.run);
            if let (Liveness::KeeperAlive, Some(keeper), false) = (liveness, record.keeper, known)
                && let Ok(Some(fd)) = keeper.open()
                && let Ok(process) = Async::new_nonblocking(fd)
            {
                let (instance, run) = (record.instance.clone(), record.run);
                list.push(Arc::new(Orphan { instance, run, keeper, process }));
            }
        }
        drop(list);
        let _ = self.changed.0.try_send(());
    }

    /// The next that has ended; it stays on the list until it is forgotten.
    pub(super) async fn next(&self) -> Arc<Orphan> {
        loop {
            let list = self.list.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut ends: Vec<End<'_>> = Vec::new();
            ends.push(Box::pin(async {
                let _ = self.changed.1.recv().await;
                None
            }));
            for orphan in &list {
                ends.push(Box::pin(async {
                    let _ = orphan.process.readable().await;
                    (!orphan.keeper.is_alive()).then(|| orphan.clone())
                }));
            }
            let first = poll_fn(|context| {
                let ready = ends.iter_mut().find_map(|end| match end.as_mut().poll(context) {
                    Poll::Ready(orphan) => Some(orphan),
                    Poll::Pending => None,
                });
                ready.map_or(Poll::Pending, Poll::Ready)
            });
            if let Some(orphan) = first.await {
                return orphan;
            }
        }
    }

    /// Watches it no longer.
    pub(super) fn forget(&self, run: RunId) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).retain(|orphan| orphan.run != run);
    }
}

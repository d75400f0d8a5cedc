//! Keepers whose zygote is gone: nobody would say that one was killed, so the daemon watches them itself, with a
//! descriptor for each. That is the exception: as long as their zygote lives, it needs none.

use super::{
    identity::ProcessIdentity,
    scan::{FoundRun, Liveness},
    spec::RunId,
};
use async_io::{Async, Timer};
use rustix::fd::OwnedFd;
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

/// One keeper that is watched.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) instance: String,
    pub(super) run: RunId,
    keeper: Option<ProcessIdentity>,
    /// `None` if it was gone before it could be watched, or if there was no descriptor left to watch it with.
    process: Option<Async<OwnedFd>>,
}

impl Orphan {
    /// Returns when it has ended.
    async fn end(&self) {
        loop {
            match &self.process {
                Some(process) => drop(process.readable().await),
                None => drop(Timer::after(LOOK).await),
            }
            if self.keeper.is_none_or(|keeper| !keeper.is_alive()) {
                return;
            }
            // Nothing can be said of it for want of descriptors: no reason to spin.
            Timer::after(LOOK).await;
        }
    }
}

/// How often one is looked at that can't be watched.
const LOOK: Duration = Duration::from_millis(50);

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
    /// Watches the keepers among the found whose runs aren't over, and that aren't watched yet. One may have ended before it
    /// was found, after its zygote: then nobody but us tells.
    pub(super) fn watch<'a>(&self, found: impl IntoIterator<Item = &'a FoundRun>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        for FoundRun { record, liveness } in found {
            let known = list.iter().any(|orphan| orphan.run == record.run);
            if known || record.state.is_final() || *liveness == Liveness::OtherBoot {
                continue;
            }
            let keeper = record.keeper;
            let fd = keeper.and_then(|keeper| keeper.open().ok().flatten());
            let process = fd.and_then(|fd| Async::new_nonblocking(fd).ok());
            let (instance, run) = (record.instance.clone(), record.run);
            list.push(Arc::new(Orphan { instance, run, keeper, process }));
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
                    orphan.end().await;
                    Some(orphan.clone())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::record::{RECORD_VERSION, RunRecord, RunState};

    #[test]
    fn a_keeper_that_died_before_it_could_be_watched_is_told_too() {
        let gone = ProcessIdentity { pid: i32::MAX, start: 1, inode: None };
        let record = RunRecord {
            version: RECORD_VERSION,
            protocol: 1,
            instance: "web-1".into(),
            run: RunId::generate(),
            boot_id: String::new(),
            keeper: Some(gone),
            started_at: jiff::Timestamp::UNIX_EPOCH,
            program: String::new(),
            state: RunState::Running { process: gone },
            gaps: Vec::new(),
        };
        let run = record.run;
        let left = FoundRun { record, liveness: Liveness::KeeperDeadProcessesLeft(vec![1]) };
        let orphans = Orphans::default();
        orphans.watch([&left, &left]);
        let next = futures_lite::future::block_on(orphans.next());
        assert_eq!(next.run, run);
        orphans.forget(run);
        assert!(orphans.list.lock().unwrap().is_empty(), "watched once");
    }
}

//! Brings full segments of the log into the table, in a thread of its own, and reads both.

use super::log::{self, Content, Segment};
use super::table::Table;
use super::{Snapshot, StoreError};
use std::collections::VecDeque;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Pause after a failed transaction.
const RETRY: Duration = Duration::from_millis(100);

/// Who waits for what is there.
pub(super) type Loader = async_channel::Sender<Result<Snapshot, StoreError>>;

/// What the checkpoint is told.
pub(super) enum Job {
    /// Bring this into the table, and give it back.
    Apply(Segment),
    /// Read everything: the table, the segments that aren't in it yet, and the one that is being filled, of which this is a copy.
    Load(Content, Loader),
    /// Bring everything into the table, once, give the space of the segments back, and end.
    End(Vec<Segment>),
}

/// Why full segments don't come back, if there is a reason.
#[derive(Clone, Default)]
pub(super) struct Stuck(Arc<Mutex<Option<StoreError>>>);

impl Stuck {
    fn lock(&self) -> MutexGuard<'_, Option<StoreError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came of the last try.
    pub(super) fn set(&self, why: Option<StoreError>) {
        *self.lock() = why;
    }

    /// The error of the last try.
    pub(super) fn why(&self) -> Option<StoreError> {
        self.lock().clone()
    }
}

pub(super) struct Checkpoint {
    /// The table's file, for what is logged.
    pub(super) path: PathBuf,
    pub(super) table: Table,
    /// Full segments, oldest first.
    pub(super) full: VecDeque<Segment>,
    pub(super) jobs: Receiver<Job>,
    /// Takes both segments: it is never full.
    pub(super) free: SyncSender<Segment>,
    pub(super) stuck: Stuck,
}

impl Checkpoint {
    /// Until it is told to end, or nobody is there to tell it anything.
    pub(super) fn run(mut self) {
        loop {
            let job = match self.bring() {
                Ok(Some(segment)) => {
                    // Err: the writer is gone
                    let _ = self.free.try_send(segment);
                    continue;
                }
                Ok(None) => self.jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Err(()) => self.jobs.recv_timeout(RETRY),
            };
            match job {
                Ok(Job::Apply(segment)) => self.full.push_back(segment),
                // Err: who asked doesn't wait any more
                Ok(Job::Load(tail, reply)) => drop(reply.try_send(self.load(&tail))),
                Ok(Job::End(segments)) => return self.end(segments),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Brings the oldest segment into the table. The answer: it, if there was one.
    fn bring(&mut self) -> Result<Option<Segment>, ()> {
        let Some(segment) = self.full.front() else { return Ok(None) };
        let outcome =
            segment.content().and_then(|content| self.table.apply(&content.updates()?, segment.generation()));
        self.note(&outcome);
        outcome.map_err(|_| ())?;
        let mut done = self.full.pop_front();
        // Whoever gets it must not take it for one that is to be brought.
        done.iter_mut().for_each(|segment| segment.begin(0));
        Ok(done)
    }

    fn end(mut self, segments: Vec<Segment>) {
        let (mut done, full): (Vec<_>, Vec<_>) = segments.into_iter().partition(Segment::is_empty);
        self.full.extend(full);
        while let Ok(Some(segment)) = self.bring() {
            done.push(segment);
        }
        // What can't be brought now stays in the log.
        done.iter().for_each(Segment::clear);
    }

    /// Logs the first failure of a row and its end.
    fn note(&self, outcome: &Result<(), StoreError>) {
        let (path, before) = (self.path.display(), self.stuck.why());
        match outcome {
            Err(error) if before.is_none() => {
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                tracing::error!(%path, %error, %cause, "the log can't be brought into the store; trying again until it can");
            }
            Ok(()) if before.is_some() => {
                tracing::info!(%path, "the log can be brought into the store again")
            }
            _ => {}
        }
        self.stuck.set(outcome.as_ref().err().cloned());
    }

    fn load(&mut self, tail: &Content) -> Result<Snapshot, StoreError> {
        let mut snapshot = self.table.load()?;
        for segment in &self.full {
            log::apply(&mut snapshot, segment.content()?.updates()?);
        }
        log::apply(&mut snapshot, tail.updates()?);
        Ok(snapshot)
    }
}

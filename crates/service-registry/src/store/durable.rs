//! The store of one machine: a log with one writer, and a table behind it.
//!
//! Commits land in a map of pending updates and wake the writer, a thread of its own. It takes everything that waits,
//! appends it to the log as one record with one sync, and settles all of it: the busier, the bigger the groups. The map holds
//! one update per slot, so it can't outgrow the data itself, however long a disk stalls. A second thread, the checkpoint,
//! brings full segments of the log into the table, which nobody waits for unless both segments are full.
//!
//! ```text
//!  commit ──► pending ──► writer ── append, sync ──► segment ── full ──► checkpoint ── transaction ──► table
//!                            │                          ▲                    │
//!                            └──► settled               └──── to be filled ◄─┘
//! ```
//!
//! When a record can't be written (a full disk) all who wait are told; the updates stay pending, under newer ones of the same
//! slot, and are written again until it works.

use super::checkpoint::{Checkpoint, Job, Loader, Stuck};
use super::log::{self, FULL, LIMIT, Segment};
use super::progress::Progress;
use super::table::Table;
use super::{Batch, Slot, Snapshot, Store, StoreError};
use futures_util::future::{BoxFuture, FutureExt as _};
use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Pause after a failed write.
const RETRY: Duration = Duration::from_millis(100);
/// Jobs that wait for the checkpoint; who has one more waits too.
const JOBS: usize = 4;
/// How long a full log waits for the checkpoint before those who wait for it are told.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of the buffer that are kept from one record to the next.
const BUFFER: usize = 256 << 10;

/// Files that keep everything that was acknowledged, whatever is killed.
pub struct DurableStore {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    path: PathBuf,
    pending: Mutex<Pending>,
    work: Condvar,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Pending {
    updates: BTreeMap<Slot, Option<Vec<u8>>>,
    /// Number of the last batch.
    last: u64,
    loads: Vec<Loader>,
    closing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DurableStore {
    /// Opens the table at `path` and the log beside it (`PATH-log-0`, `PATH-log-1`), or makes them with mode 0600. Blocks for
    /// about a millisecond, after a crash for as long as it takes to walk the files.
    ///
    /// # Errors
    ///
    /// [`StoreError::InUse`], [`StoreError::Newer`], [`StoreError::Damaged`], [`StoreError::Load`] or [`StoreError::Open`]; the
    /// files are then left as they were.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source: Arc::new(source) };
        let (table, mark) = Table::open(path)?;
        let mut segments = log::open(path, mark.store, mark.applied)?;
        if segments.active.is_empty() {
            segments.active.begin(segments.next);
            segments.next += 1;
        }
        let (full, spare) = match segments.other.is_empty() {
            true => (VecDeque::new(), Some(segments.other)),
            false => (VecDeque::from([segments.other]), None),
        };
        let (jobs, told) = mpsc::sync_channel(JOBS);
        let (given, free) = mpsc::sync_channel(2);
        let (stuck, path) = (Stuck::default(), path.to_owned());
        let checkpoint =
            Checkpoint { path: path.clone(), table, full, jobs: told, free: given, stuck: stuck.clone() };
        let checkpoint = std::thread::Builder::new()
            .name("registry-table".to_owned())
            .spawn(move || checkpoint.run())
            .map_err(failed)?;
        let shared = Arc::new(Shared {
            path,
            pending: Mutex::default(),
            work: Condvar::new(),
            progress: Arc::default(),
        });
        let writer = Writer {
            shared: Arc::clone(&shared),
            active: segments.active,
            spare,
            next: segments.next,
            jobs,
            free,
            stuck,
            checkpoint,
            buffer: Vec::new(),
            failing: false,
        };
        let writer = std::thread::Builder::new()
            .name("registry-store".to_owned())
            .spawn(move || writer.run())
            .map_err(failed)?;
        Ok(Self { shared, writer: Some(writer) })
    }
}

impl Store for DurableStore {
    fn load(&self) -> BoxFuture<'static, Result<Snapshot, StoreError>> {
        let (sender, receiver) = async_channel::bounded(1);
        self.shared.lock().loads.push(sender);
        self.shared.work.notify_one();
        async move { receiver.recv().await.unwrap_or(Err(StoreError::Closed)) }.boxed()
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<(), StoreError>> {
        let number = {
            let mut pending = self.shared.lock();
            pending.updates.extend(batch.updates);
            pending.last += 1;
            pending.last
        };
        self.shared.work.notify_one();
        self.shared.progress.wait(number).boxed()
    }
}

impl Drop for DurableStore {
    /// Writes what waits, once, brings the log into the table, and closes the files.
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(path = %self.shared.path.display(), "the store's writer panicked");
        }
    }
}

struct Writer {
    shared: Arc<Shared>,
    /// Filled.
    active: Segment,
    /// To be filled next; `None` while the checkpoint has it.
    spare: Option<Segment>,
    /// The generation of the next filling.
    next: u64,
    jobs: SyncSender<Job>,
    free: Receiver<Segment>,
    stuck: Stuck,
    checkpoint: JoinHandle<()>,
    buffer: Vec<u8>,
    failing: bool,
}

/// What the writer has to do next.
struct Work {
    updates: BTreeMap<Slot, Option<Vec<u8>>>,
    last: u64,
    loads: Vec<Loader>,
    closing: bool,
}

impl Writer {
    fn run(mut self) {
        // also when this thread panics, nobody may wait for ever
        let closer = CloseOnDrop(Arc::clone(&self.shared));
        let mut settled = 0;
        loop {
            let work = self.next_work(settled);
            if work.last > settled || !work.updates.is_empty() {
                let outcome = self.write(&work.updates);
                self.note(&outcome);
                if outcome.is_err() {
                    let mut pending = self.shared.lock();
                    for (slot, value) in work.updates {
                        pending.updates.entry(slot).or_insert(value);
                    }
                }
                self.shared.progress.settle(work.last, outcome);
                settled = work.last;
            }
            for reply in work.loads {
                match self.active.content() {
                    // Err: the checkpoint is gone, and with its job the sender
                    Ok(tail) => drop(self.jobs.send(Job::Load(tail, reply))),
                    // Err: who asked doesn't wait any more
                    Err(error) => drop(reply.try_send(Err(error))),
                }
            }
            if work.closing {
                break;
            }
        }
        self.end();
        drop(closer);
    }

    /// Waits until the log is in the table, if it can be.
    fn end(self) {
        let segments = std::iter::once(self.active).chain(self.spare).chain(self.free.try_iter()).collect();
        // Err: the checkpoint is gone; what was acknowledged is in the log
        let _ = self.jobs.send(Job::End(segments));
        drop(self.jobs);
        if self.checkpoint.join().is_err() {
            tracing::error!(path = %self.shared.path.display(), "the store's checkpoint panicked");
        }
    }

    fn next_work(&self, settled: u64) -> Work {
        let mut pending = self.shared.lock();
        if self.failing && !pending.closing {
            pending = self.wait(pending, RETRY);
        }
        loop {
            let idle = pending.last <= settled && pending.updates.is_empty() && pending.loads.is_empty();
            if !idle || pending.closing {
                break;
            }
            pending = self.shared.work.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
        Work {
            updates: std::mem::take(&mut pending.updates),
            last: pending.last,
            loads: std::mem::take(&mut pending.loads),
            closing: pending.closing,
        }
    }

    fn wait<'a>(&self, pending: MutexGuard<'a, Pending>, pause: Duration) -> MutexGuard<'a, Pending> {
        let wait = self.shared.work.wait_timeout_while(pending, pause, |pending| !pending.closing);
        wait.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Logs the first failure of a row and its end.
    fn note(&mut self, outcome: &Result<(), StoreError>) {
        let path = self.shared.path.display();
        match outcome {
            Err(error) if !self.failing => {
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                tracing::error!(%path, %cause, "can't write to the store; trying again until it works");
            }
            Ok(()) if self.failing => tracing::info!(%path, "the store can be written again"),
            _ => {}
        }
        self.failing = outcome.is_err();
    }

    fn write(&mut self, updates: &BTreeMap<Slot, Option<Vec<u8>>>) -> Result<(), StoreError> {
        if updates.is_empty() {
            return Ok(());
        }
        self.make_room()?;
        let appended = self.active.append(updates, &mut self.buffer);
        self.buffer.shrink_to(BUFFER);
        appended.map_err(|source| StoreError::Commit {
            path: self.active.path().to_owned(),
            source: Arc::new(source),
        })
    }

    /// Goes on with the other segment where this one is full. One that isn't back yet is waited for only when this one has
    /// reached its limit.
    fn make_room(&mut self) -> Result<(), StoreError> {
        if self.active.size() < FULL {
            return Ok(());
        }
        let path = || self.active.path().to_owned();
        let spare = match self.spare.take().or_else(|| self.free.try_recv().ok()) {
            Some(spare) => spare,
            None if self.active.size() < LIMIT => return Ok(()),
            None => match self.stuck.why() {
                Some(error) => return Err(error),
                None => self.free.recv_timeout(PATIENCE).map_err(|error| match error {
                    RecvTimeoutError::Timeout => {
                        let source = Arc::new(io::Error::from(io::ErrorKind::TimedOut));
                        self.stuck.why().unwrap_or(StoreError::Commit { path: path(), source })
                    }
                    RecvTimeoutError::Disconnected => StoreError::Closed,
                })?,
            },
        };
        let full = std::mem::replace(&mut self.active, spare);
        self.active.begin(self.next);
        self.next += 1;
        self.jobs.send(Job::Apply(full)).map_err(|_| StoreError::Closed)
    }
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.progress.close();
        self.0.lock().loads.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer whose checkpoint is the test.
    fn writer(folder: &tempfile::TempDir) -> (Writer, Receiver<Job>, SyncSender<Segment>) {
        let path = folder.path().join("t.redb");
        std::fs::write(&path, "").unwrap();
        let log::Segments { mut active, other, next } = log::open(&path, 1, 0).unwrap();
        active.begin(next);
        let (jobs, told) = mpsc::sync_channel(JOBS);
        let (given, free) = mpsc::sync_channel(2);
        let shared =
            Shared { path, pending: Mutex::default(), work: Condvar::new(), progress: Arc::default() };
        let writer = Writer {
            shared: Arc::new(shared),
            active,
            spare: Some(other),
            next: next + 1,
            jobs,
            free,
            stuck: Stuck::default(),
            checkpoint: std::thread::spawn(|| ()),
            buffer: Vec::new(),
            failing: false,
        };
        (writer, told, given)
    }

    #[test]
    fn a_table_that_gives_no_segment_back_is_felt_at_the_limit_only() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, told, given) = writer(&folder);
        let mut batch = Batch::new();
        batch.put("n", "k", vec![7; 50_000]);
        let why = StoreError::InUse { path: "the table".into() };
        writer.stuck.set(Some(why));
        let mut bytes = 0;
        let refused = loop {
            match writer.write(&batch.updates) {
                Ok(()) => bytes += 50_000,
                Err(error) => break error,
            }
            assert!(bytes < 2 * LIMIT, "it grows without end");
        };
        assert!(refused.to_string().contains("the table"), "{refused}");
        assert!(bytes > LIMIT && writer.active.size() >= LIMIT, "{bytes}");
        let Ok(Job::Apply(mut full)) = told.try_recv() else { panic!("the first segment wasn't handed on") };
        assert!(full.size() >= FULL && full.size() < 2 * FULL && told.try_recv().is_err());
        // it is brought after all
        writer.stuck.set(None);
        full.begin(0);
        given.send(full).unwrap();
        writer.write(&batch.updates).unwrap();
        let Ok(Job::Apply(large)) = told.try_recv() else { panic!("the second segment wasn't handed on") };
        assert!(large.size() >= LIMIT && large.generation() < writer.active.generation());
    }

    #[test]
    fn a_checkpoint_that_is_gone_is_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, told, given) = writer(&folder);
        drop((told, given));
        let mut batch = Batch::new();
        batch.put("n", "k", vec![7; 200_000]);
        let refused = (0..100).find_map(|_| writer.write(&batch.updates).err());
        assert!(matches!(refused, Some(StoreError::Closed)), "{refused:?}");
    }
}

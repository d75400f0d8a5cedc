//! The store of one machine: a redb file with one writer.
//!
//! Commits land in a map of pending updates and wake the writer, a thread of its own. It takes everything that waits,
//! writes it in one transaction with one fsync, and settles all of it: the busier, the bigger the groups. The map holds
//! one update per slot, so it can't outgrow the data itself, however long a disk stalls.
//!
//! When a transaction fails (a full disk) all who wait are told; the updates stay pending, under newer ones of the same
//! slot, and the file is opened anew and written again until it works.

use super::progress::Progress;
use super::{Batch, Slot, Snapshot, Store, StoreError};
use futures_util::future::{BoxFuture, FutureExt as _};
use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable as _};
use redb::{StorageError, TableDefinition, TableError};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The newest format that is read and written here. Raise it when older versions could misread what is written.
const FORMAT: u32 = 1;
/// Facts about the file itself.
const META: TableDefinition<'_, &str, u32> = TableDefinition::new("meta");
/// Values by (namespace, key).
const DATA: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("data");
/// redb's page cache, in bytes: reads happen once, so it only serves the pages that writes touch again.
const CACHE: usize = 2 * 1024 * 1024;
/// Pause after a failed transaction.
const RETRY: Duration = Duration::from_millis(100);

/// A file that keeps everything that was acknowledged, whatever is killed.
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
    loads: Vec<async_channel::Sender<Result<Snapshot, StoreError>>>,
    closing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DurableStore {
    /// Opens the file, or makes it with mode 0600. Blocks for about a millisecond, after a crash for as long as it takes
    /// to walk the file.
    ///
    /// # Errors
    ///
    /// [`StoreError::InUse`], [`StoreError::Newer`], [`StoreError::Damaged`] or [`StoreError::Open`]; the file is then
    /// left as it was.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = open(path)?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            pending: Mutex::default(),
            work: Condvar::new(),
            progress: Arc::default(),
        });
        let writer = std::thread::Builder::new()
            .name("registry-store".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || Writer { shared, database: Some(database), failing: false }.run()
            })
            .map_err(|source| StoreError::Open { path: path.to_owned(), source: Arc::new(source) })?;
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
    /// Writes what waits, once, and closes the file.
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
    /// `None` after an error: redb wants the file to be opened anew.
    database: Option<Database>,
    failing: bool,
}

/// What the writer has to do next.
struct Work {
    updates: BTreeMap<Slot, Option<Vec<u8>>>,
    last: u64,
    loads: Vec<async_channel::Sender<Result<Snapshot, StoreError>>>,
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
            for sender in work.loads {
                // Err: who asked doesn't wait any more
                let _ = sender.try_send(self.load());
            }
            if work.closing {
                break;
            }
        }
        drop(closer);
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
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.shared.path)?,
        };
        match transact(&database, updates) {
            Ok(()) => {
                self.database = Some(database);
                Ok(())
            }
            Err(source) => {
                Err(StoreError::Commit { path: self.shared.path.clone(), source: Arc::new(source) })
            }
        }
    }

    fn load(&mut self) -> Result<Snapshot, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.shared.path)?,
        };
        let snapshot = unpanicked(&self.shared.path, || read(&database))?.map_err(|source| {
            StoreError::Load { path: self.shared.path.clone(), source: Arc::new(source) }
        })?;
        self.database = Some(database);
        Ok(snapshot)
    }
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.progress.close();
        self.0.lock().loads.clear();
    }
}

fn transact(database: &Database, updates: &BTreeMap<Slot, Option<Vec<u8>>>) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut table = transaction.open_table(DATA)?;
        for ((namespace, key), value) in updates {
            let slot = (namespace.as_ref(), key.as_str());
            match value {
                Some(value) => drop(table.insert(slot, value.as_slice())?),
                None => drop(table.remove(slot)?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn read(database: &Database) -> Result<Snapshot, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(DATA) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Snapshot::new()),
        Err(error) => return Err(error.into()),
    };
    let mut snapshot = Snapshot::new();
    for item in table.iter()? {
        let (slot, value) = item?;
        let (namespace, key) = slot.value();
        if !snapshot.contains_key(namespace) {
            snapshot.insert(namespace.to_owned(), BTreeMap::new());
        }
        if let Some(keys) = snapshot.get_mut(namespace) {
            keys.insert(key.to_owned(), value.value().to_vec());
        }
    }
    Ok(snapshot)
}

/// redb verifies a file that wasn't closed, and may panic over one that was closed and then overwritten: verifying that as
/// well would make every start several times slower.
fn unpanicked<T>(path: &Path, with: impl FnOnce() -> T) -> Result<T, StoreError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(with)).map_err(|_| StoreError::Damaged {
        path: path.to_owned(),
        problem: "its content contradicts itself".to_owned(),
    })
}

/// Opens the file and checks, or writes, its format.
fn open(path: &Path) -> Result<Database, StoreError> {
    unpanicked(path, || try_open(path))?
}

fn try_open(path: &Path) -> Result<Database, StoreError> {
    let fresh = !path.exists();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| StoreError::Open { path: path.to_owned(), source: Arc::new(source) })?;
    if fresh {
        sync_folder(path)
            .map_err(|source| StoreError::Open { path: path.to_owned(), source: Arc::new(source) })?;
    }
    let database = open_database(path, file)?;
    let failed = |source: redb::Error| match source {
        redb::Error::Corrupted(problem) => StoreError::Damaged { path: path.to_owned(), problem },
        source => StoreError::Open { path: path.to_owned(), source: Arc::new(source) },
    };
    match format(&database).map_err(failed)? {
        Some(found) if found > FORMAT => {
            Err(StoreError::Newer { path: path.to_owned(), found, known: FORMAT })
        }
        // there is no older format yet; the first migration goes here
        Some(_) => Ok(database),
        None => {
            mark(&database).map_err(failed)?;
            Ok(database)
        }
    }
}

fn open_database(path: &Path, file: File) -> Result<Database, StoreError> {
    let damaged = |problem: String| StoreError::Damaged { path: path.to_owned(), problem };
    let opened = FileBackend::new(file)
        .and_then(|backend| Builder::new().set_cache_size(CACHE).create_with_backend(backend));
    opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
        DatabaseError::Storage(StorageError::Corrupted(problem)) => damaged(problem),
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            damaged(error.to_string())
        }
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            damaged("it is too short".to_owned())
        }
        source => StoreError::Open { path: path.to_owned(), source: Arc::new(source) },
    })
}

fn format(database: &Database) -> Result<Option<u32>, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(META) {
        Ok(table) => Ok(table.get("format")?.map(|value| value.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn mark(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.open_table(META)?.insert("format", FORMAT)?;
    transaction.open_table(DATA)?;
    transaction.commit()?;
    Ok(())
}

/// Makes the file's name as durable as its content.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;

    #[test]
    fn a_file_of_a_newer_format_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let store = DurableStore::open(&path).unwrap();
        let mut batch = Batch::new();
        batch.put("n", "k", "v");
        block_on(store.commit(batch)).unwrap();
        drop(store);

        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("format", FORMAT + 1).unwrap();
        transaction.commit().unwrap();
        drop(database);

        let error = DurableStore::open(&path).map(drop).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error}");
        assert!(error.to_string().contains("use the newer version"), "{error}");
        let database = Database::open(&path).unwrap();
        assert_eq!(read(&database).unwrap()["n"]["k"], b"v");
    }
}

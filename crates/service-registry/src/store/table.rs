//! The table: a redb file with a row for each slot, into which checkpoints bring what the log holds.
//!
//! A checkpoint is one transaction, with the generation of the segment that it brings: after a crash it is there with all of
//! it, or not at all, and then the segment is.

use super::log::Updates;
use super::{Snapshot, StoreError};
use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable as _};
use redb::{StorageError, TableDefinition, TableError};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The newest format that is read and written here. Raise it when older versions could misread what is written, or would not
/// see all of it: those of format 1 know of no log.
const FORMAT: u32 = 2;
/// Facts about the file itself.
const META: TableDefinition<'_, &str, u32> = TableDefinition::new("meta");
/// Values by (namespace, key).
const DATA: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("data");
/// What it has to do with the log.
const LOG: TableDefinition<'_, &str, u64> = TableDefinition::new("log");
/// A number that tells the log of this store from that of another.
const STORE: &str = "store";
/// The last generation of the log that it has.
const APPLIED: &str = "applied";
/// redb's page cache, in bytes: reads happen once, so it only serves the pages that checkpoints touch again.
const CACHE: usize = 1024 * 1024;

/// What it says about the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) store: u64,
    pub(super) applied: u64,
}

/// The file.
pub(super) struct Table {
    path: PathBuf,
    /// `None` after an error: redb wants the file to be opened anew.
    database: Option<Database>,
}

impl Table {
    /// Opens the file, or makes it with mode 0600.
    pub(super) fn open(path: &Path) -> Result<(Self, Mark), StoreError> {
        if !path.exists() {
            unpanicked(path, || create(path))??;
        }
        let (database, mark) = open(path)?;
        Ok((Self { path: path.to_owned(), database: Some(database) }, mark))
    }

    /// The file, opened anew where that must be. One that was taken away isn't made again: a table without its rows would be
    /// taken for a good one.
    fn database(&mut self) -> Result<Database, StoreError> {
        match self.database.take() {
            Some(database) => Ok(database),
            None => open(&self.path).map(|(database, _)| database),
        }
    }

    /// Carries out what a generation of the log says, durably.
    pub(super) fn apply(&mut self, updates: &Updates<'_>, generation: u64) -> Result<(), StoreError> {
        let database = self.database()?;
        unpanicked(&self.path, || transact(&database, updates, generation))?
            .map_err(|source| StoreError::Commit { path: self.path.clone(), source: Arc::new(source) })?;
        self.database = Some(database);
        Ok(())
    }

    /// All rows.
    pub(super) fn load(&mut self) -> Result<Snapshot, StoreError> {
        let database = self.database()?;
        let snapshot = unpanicked(&self.path, || read(&database))?
            .map_err(|source| StoreError::Load { path: self.path.clone(), source: Arc::new(source) })?;
        self.database = Some(database);
        Ok(snapshot)
    }
}

fn transact(database: &Database, updates: &Updates<'_>, generation: u64) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut table = transaction.open_table(DATA)?;
        for (slot, value) in updates {
            match value {
                Some(value) => drop(table.insert(*slot, *value)?),
                None => drop(table.remove(*slot)?),
            }
        }
        transaction.open_table(LOG)?.insert(APPLIED, generation)?;
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

/// Opens the file that is there and checks its format.
fn open(path: &Path) -> Result<(Database, Mark), StoreError> {
    unpanicked(path, || try_open(path))?
}

fn try_open(path: &Path) -> Result<(Database, Mark), StoreError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let database = open_database(path, file.map_err(|source| cant_open(path, source))?)?;
    let failed = |source| unusable(path, source);
    let mark = match format(&database).map_err(failed)? {
        Some(found) if found > FORMAT => {
            return Err(StoreError::Newer { path: path.to_owned(), found, known: FORMAT });
        }
        Some(FORMAT) => marked(&database).map_err(failed)?,
        // Format 1 had no log: the rest is as it was.
        None | Some(_) => mark(&database).map_err(failed)?,
    };
    Ok((database, mark))
}

/// Makes the file elsewhere and puts it in its place when it is whole: redb takes one that it was killed over for no database.
fn create(path: &Path) -> Result<(), StoreError> {
    let failed = |source| cant_open(path, source);
    let mut draft = path.as_os_str().to_owned();
    draft.push("-new");
    let draft = PathBuf::from(draft);
    // Of one that was killed; usually there is none.
    let _ = std::fs::remove_file(&draft);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&draft);
    let database = open_database(path, file.map_err(failed)?)?;
    mark(&database).map_err(|source| unusable(path, source))?;
    drop(database);
    std::fs::rename(&draft, path).and_then(|()| sync_folder(path)).map_err(failed)
}

fn cant_open(path: &Path, source: io::Error) -> StoreError {
    StoreError::Open { path: path.to_owned(), source: Arc::new(source) }
}

fn unusable(path: &Path, source: redb::Error) -> StoreError {
    match source {
        redb::Error::Corrupted(problem) => StoreError::Damaged { path: path.to_owned(), problem },
        source => StoreError::Open { path: path.to_owned(), source: Arc::new(source) },
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

/// Writes the format, and gives the store a name of its own.
fn mark(database: &Database) -> Result<Mark, redb::Error> {
    let mark = Mark { store: uuid::Uuid::new_v4().as_u64_pair().1, applied: 0 };
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.open_table(META)?.insert("format", FORMAT)?;
    transaction.open_table(DATA)?;
    {
        let mut log = transaction.open_table(LOG)?;
        log.insert(STORE, mark.store)?;
        log.insert(APPLIED, mark.applied)?;
    }
    transaction.commit()?;
    Ok(mark)
}

fn marked(database: &Database) -> Result<Mark, redb::Error> {
    let transaction = database.begin_read()?;
    let log = transaction.open_table(LOG)?;
    let number = |key| Ok::<_, redb::Error>(log.get(key)?.map(|value| value.value()));
    match (number(STORE)?, number(APPLIED)?) {
        (Some(store), Some(applied)) => Ok(Mark { store, applied }),
        _ => Err(redb::Error::Corrupted("it doesn't say which log is its own".to_owned())),
    }
}

/// Makes the file's name as durable as its content.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, Store as _};
    use futures_lite::future::block_on;

    #[test]
    fn a_file_of_a_newer_format_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let store = crate::store::DurableStore::open(&path).unwrap();
        let mut batch = Batch::new();
        batch.put("n", "k", "v");
        block_on(store.commit(batch)).unwrap();
        drop(store);

        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("format", FORMAT + 1).unwrap();
        transaction.commit().unwrap();
        drop(database);

        let error = crate::store::DurableStore::open(&path).map(drop).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 3, known: 2, .. }), "{error}");
        assert!(error.to_string().contains("use the newer version"), "{error}");
        let database = Database::open(&path).unwrap();
        assert_eq!(read(&database).unwrap()["n"]["k"], b"v");
    }
}

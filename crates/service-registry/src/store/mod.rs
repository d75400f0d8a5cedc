//! The seam below which data survives: batches of small values in, everything out at the next start.
//!
//! The registry keeps the truth in memory and reads a store once, at the start. Two stores stand here, [`MemoryStore`]
//! and [`DurableStore`], a log before a redb table; one that is shared between machines belongs in a crate of its own and passes the same
//! suite, `conformance` (of the feature of that name).

mod checkpoint;
#[cfg(feature = "conformance")]
pub mod conformance;
mod durable;
mod log;
mod memory;
mod progress;
mod table;

pub use durable::DurableStore;
pub use memory::MemoryStore;

/// The locks of `progress`; its test under shuttle has others.
mod sync {
    pub(super) use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
}

use futures_util::future::BoxFuture;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Keeps values under (namespace, key).
///
/// # Contract
///
/// - A batch takes its place in the order when [`Store::commit`] is *called*, not when the future is polled; dropping
///   the future doesn't take it back.
/// - A batch is atomic: after a crash all of it is there, or nothing.
/// - The future resolves when the batch and all before it are safe from a crash of the process and of the machine.
/// - When it resolves with an error the batch may still become durable later: the store keeps trying.
pub trait Store: Send + Sync + 'static {
    /// Everything that is durable or was committed before the call.
    fn load(&self) -> BoxFuture<'static, Result<Snapshot, StoreError>>;

    /// Applies a batch. An empty one resolves when everything before it is durable.
    fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<(), StoreError>>;
}

/// Values by namespace, then by key.
pub type Snapshot = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// Where a value stands.
pub(crate) type Slot = (Cow<'static, str>, String);

/// Updates that are applied together; the last one of a slot wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub(crate) updates: BTreeMap<Slot, Option<Vec<u8>>>,
}

impl Batch {
    /// No updates.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a value.
    pub fn put(
        &mut self,
        namespace: impl Into<Cow<'static, str>>,
        key: impl Into<String>,
        value: impl Into<Vec<u8>>,
    ) {
        self.updates.insert((namespace.into(), key.into()), Some(value.into()));
    }

    /// Removes a value, if it is there.
    pub fn delete(&mut self, namespace: impl Into<Cow<'static, str>>, key: impl Into<String>) {
        self.updates.insert((namespace.into(), key.into()), None);
    }

    /// Takes over the updates of another batch.
    pub fn extend(&mut self, other: Self) {
        self.updates.extend(other.updates);
    }

    /// The updates, in the order of their slots; `None` removes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, Option<&[u8]>)> {
        self.updates.iter().map(|((ns, key), value)| (ns.as_ref(), key.as_str(), value.as_deref()))
    }

    /// Whether there are no updates.
    pub fn is_empty(&self) -> bool {
        self.updates.is_empty()
    }
}

/// What a store can't do. Cheap to clone, as one failed commit fails everyone who waits for it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file could not be created or opened.
    #[error("can't open the store {}", .path.display())]
    Open {
        /// The store's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody else has the file open.
    #[error("the store {} is in use by another process", .path.display())]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// A newer version wrote the file. It is left as it is.
    #[error(
        "the store {} has format {found}, this version reads up to {known}: use the newer version, or another state folder",
        .path.display()
    )]
    Newer {
        /// The store's file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that is known here.
        known: u32,
    },
    /// The file is no store, or is damaged. It is left as it is.
    #[error("{} is damaged or no store: {problem}; it was left as it is", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Its content could not be read.
    #[error("can't read the store {}", .path.display())]
    Load {
        /// The store's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A batch could not be made durable; it is tried again with the next one.
    #[error("can't write to the store {}", .path.display())]
    Commit {
        /// The store's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The store is closed, or its writer ended.
    #[error("the store is closed")]
    Closed,
}

//! The registry itself: a truth in memory that answers at once, a store that remembers it, and everyone who listens.

mod core;
mod event;
mod lease;
mod outside;
mod persist;
mod subscription;
mod transfer;

pub use event::{DropReason, Event, EventKind, Filter, Item};
pub use lease::{LONGEST_LEASE, LeaseId, SHORTEST_LEASE};
pub use outside::{Refused, Renewed};
pub use subscription::Subscription;
pub use transfer::{Clashes, Imported};

use self::core::Core;
use crate::model::{Entry, Known};
use crate::store::{Batch, Store, StoreError};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// Sizes of a registry.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Events that are kept for listings and for subscribers that resume.
    pub history: usize,
    /// Events that may wait for one subscriber before it is dropped.
    pub queue: usize,
    /// Where the times of entries and events come from.
    pub clock: fn() -> Timestamp,
    /// The time since boot, which leases are measured by: the wall clock may be set at any moment.
    pub uptime: fn() -> Duration,
    /// How long an entry whose lease wasn't renewed stays known as lost, before it is removed.
    pub grace: Duration,
}

impl Default for Options {
    /// 2,000 events of history, 1,024 in a queue, the system's clocks, a minute of grace.
    fn default() -> Self {
        let (clock, uptime, grace) = (Timestamp::now, uptime, Duration::from_secs(60));
        Self { history: 2_000, queue: 1_024, clock, uptime, grace }
    }
}

/// `CLOCK_BOOTTIME`: also counts while the machine sleeps.
fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // neither is negative: it counts from 0
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// What the registry can't do.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The store's content could not be read.
    #[error("can't read what the registry knew")]
    Load(#[source] StoreError),
    /// The store refused the first write.
    #[error("can't write to the registry's store")]
    Begin(#[source] StoreError),
    /// A value of the store isn't what it should be.
    #[error("can't understand {namespace}/{key} in the registry's store")]
    Decode {
        /// Its namespace.
        namespace: String,
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// A newer version wrote the store. It is left as it is.
    #[error(
        "the registry's store has schema {found}, this version reads up to {known}: use the newer version"
    )]
    Newer {
        /// Its schema.
        found: u64,
        /// The newest that is known here.
        known: u64,
    },
    /// Changes since that revision are not all known any more.
    #[error(
        "changes since revision {since} are not known any more (oldest {oldest}, current {current}): begin with a snapshot"
    )]
    RevisionGone {
        /// The revision that was asked for.
        since: u64,
        /// The oldest that can be resumed from.
        oldest: u64,
        /// The present one.
        current: u64,
    },
    /// [`Registry::close`] was called.
    #[error("the registry is closed")]
    Closed,
}

/// Who looks after an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The program that holds this registry.
    Host,
    /// Somebody who came in over the API.
    Outside,
}

/// What becomes of an entry.
enum Change {
    /// Nothing.
    None,
    /// It is set.
    Put(Box<Entry>, Origin),
    /// It is removed.
    Remove,
}

/// Entries as a listing shows them.
#[derive(Clone, Debug)]
pub struct Listing {
    /// By position in the file, then by service and number.
    pub entries: Vec<Known>,
    /// The revision that they are the state of.
    pub revision: u64,
}

/// The outcome of a write that is already visible to everyone.
#[derive(Debug)]
#[must_use = "drop `durable` knowingly: the write isn't safe from a crash before it resolves"]
pub struct Written {
    /// The registry's revision after it.
    pub revision: u64,
    /// Whether anything changed.
    pub changed: bool,
    /// Resolves when it is safe from a crash.
    pub durable: Durable,
}

impl Written {
    /// Doesn't wait until it is durable: for what can be found out again after a crash.
    pub fn forget(self) {}
}

/// Resolves when a write, and all before it, is safe from a crash. The write goes on when this is dropped. After an
/// error the write stands in memory and is still tried.
pub struct Durable(BoxFuture<'static, Result<(), StoreError>>);

impl Durable {
    /// Doesn't wait: for what can be found out again after a crash.
    pub fn forget(self) {}
}

impl Future for Durable {
    type Output = Result<(), StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Durable")
    }
}

/// Who is where. A cheap handle; all of them are the same registry.
///
/// Reads and writes answer at once and never wait for the disk. A write is visible to everyone, and its event on its
/// way, before it is durable: who must not promise too early awaits [`Written::durable`].
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    core: Mutex<Core>,
    store: Arc<dyn Store>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

impl Registry {
    /// Reads what the store knows and goes on from there. Revisions go on above every one that was ever given out.
    ///
    /// # Errors
    ///
    /// The store can't be read, holds what can't be understood, or can't be written. It is left as it is.
    pub async fn open(store: Arc<dyn Store>, options: Options) -> Result<Self, RegistryError> {
        let snapshot = store.load().await.map_err(RegistryError::Load)?;
        let migrated = persist::migrate(&snapshot)?;
        let (core, mut batch) = Core::new(options, persist::decode(snapshot)?);
        batch.extend(migrated);
        store.commit(batch).await.map_err(RegistryError::Begin)?;
        Ok(Self { inner: Arc::new(Inner { core: Mutex::new(core), store }) })
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.inner.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the host's entry for `entry.instance`. Its times and revision are set here; one that says nothing new makes
    /// no event and no revision, and neither does one that only brings the same answer of a check again.
    pub fn put(&self, entry: Entry) -> Written {
        let instance = entry.instance.clone();
        self.write(&instance, |_| Change::Put(Box::new(entry), Origin::Host))
    }

    /// Changes an entry in place; `None` if there is none. `with` must not use the registry.
    pub fn update(&self, instance: &str, with: impl FnOnce(&mut Entry)) -> Option<Written> {
        let mut found = false;
        let written = self.write(instance, |current| match current {
            Some((entry, origin)) => {
                found = true;
                let mut entry = entry.clone();
                with(&mut entry);
                instance.clone_into(&mut entry.instance);
                Change::Put(Box::new(entry), origin)
            }
            None => Change::None,
        });
        found.then_some(written)
    }

    /// Removes an entry; `None` if there is none.
    pub fn remove(&self, instance: &str) -> Option<Written> {
        let written = self.write(instance, |_| Change::Remove);
        written.changed.then_some(written)
    }

    /// Looks at an entry and decides what becomes of it, with nobody in between. `decide` must not use the registry.
    fn write(&self, instance: &str, decide: impl FnOnce(Option<(&Entry, Origin)>) -> Change) -> Written {
        let mut core = self.lock();
        let mut change = decide(core.get(instance).map(|(entry, origin)| (&**entry, *origin)));
        if let Change::Put(entry, _) = &mut change {
            // the key is the instance, whatever was decided
            instance.clone_into(&mut entry.instance);
        }
        let mut batch = Batch::new();
        let changed = core.apply(instance, change, &mut batch);
        self.written(&core, changed, batch)
    }

    fn written(&self, core: &Core, changed: bool, batch: Batch) -> Written {
        Written { revision: core.revision(), changed, durable: self.commit(batch) }
    }

    /// The entry of an instance.
    pub fn get(&self, instance: &str) -> Option<Known> {
        self.lock().get(instance).map(|(entry, _)| entry.clone())
    }

    /// Who looks after an instance's entry.
    pub fn origin(&self, instance: &str) -> Option<Origin> {
        self.lock().get(instance).map(|(_, origin)| *origin)
    }

    /// All entries.
    pub fn list(&self) -> Listing {
        self.lock().listing(&Filter::default())
    }

    /// The entries of some services or instances.
    pub fn list_matching(&self, filter: &Filter) -> Listing {
        self.lock().listing(filter)
    }

    /// The present revision.
    pub fn revision(&self) -> u64 {
        self.lock().revision()
    }

    /// The time, as the registry takes it.
    pub fn now(&self) -> Timestamp {
        self.lock().now()
    }

    /// How many subscribers there are.
    pub fn subscribers(&self) -> usize {
        self.lock().subscribers()
    }

    /// The newest `limit` events after revision `since` (0: as far back as the history goes), oldest first.
    pub fn events(&self, filter: &Filter, since: u64, limit: usize) -> Vec<Arc<Event>> {
        self.lock().events(filter, since, limit)
    }

    /// Everything from now on, exactly once and in order: with `since: None` after a snapshot, else after the changes
    /// since that revision.
    ///
    /// # Errors
    ///
    /// [`RegistryError::RevisionGone`]: subscribe with `since: None`. [`RegistryError::Closed`].
    pub fn subscribe(&self, filter: Filter, since: Option<u64>) -> Result<Subscription, RegistryError> {
        self.lock().subscribe(filter, since)
    }

    /// Keeps a value for the host; it makes no event.
    pub fn kv_put(&self, namespace: &str, key: &str, value: &[u8]) -> Durable {
        self.set_value(namespace, key, Some(value))
    }

    /// Forgets a value.
    pub fn kv_delete(&self, namespace: &str, key: &str) -> Durable {
        self.set_value(namespace, key, None)
    }

    fn set_value(&self, namespace: &str, key: &str, value: Option<&[u8]>) -> Durable {
        let mut core = self.lock();
        let mut batch = Batch::new();
        core.set_value(namespace, key, value, &mut batch);
        self.commit(batch)
    }

    /// To be called under the lock, so that batches come to the store in the order of their revisions.
    fn commit(&self, batch: Batch) -> Durable {
        let store = &self.inner.store;
        if !batch.is_empty() {
            return Durable(store.commit(batch));
        }
        // nothing changed: the store is only bothered if somebody really waits for what came before
        let store = Arc::clone(store);
        Durable(Box::pin(async move { store.commit(Batch::new()).await }))
    }

    /// A value.
    pub fn kv_get(&self, namespace: &str, key: &str) -> Option<Arc<[u8]>> {
        self.lock().value(namespace, key)
    }

    /// All values of a namespace, sorted by key.
    pub fn kv_list(&self, namespace: &str) -> Vec<(String, Arc<[u8]>)> {
        self.lock().values(namespace)
    }

    /// Resolves when everything that was written until now is durable.
    pub fn flush(&self) -> Durable {
        Durable(self.inner.store.commit(Batch::new()))
    }

    /// Ends all subscriptions and notes where the revisions stand; a registry that is only dropped loses nothing, but
    /// its revisions jump ahead at the next start. The file is closed with the last handle.
    pub fn close(&self) -> Durable {
        let mut core = self.lock();
        let mut batch = Batch::new();
        if !core.is_closed() {
            core.close(&mut batch);
        }
        self.commit(batch)
    }
}

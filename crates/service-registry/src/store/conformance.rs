//! What every store must do, as a suite that any backend runs in its tests: [`conforms`].
//!
//! It shows the contract of [`Store`], as far as that can be shown without killing anything. That acknowledged writes survive
//! a SIGKILL and a full disk each backend must show in its own way, as `tests/it/store.rs` does for redb.

use super::{Batch, Snapshot, Store};
use crate::model::Entry;
use crate::registry::{Filter, Options, Registry};
use futures_util::future::{BoxFuture, join_all};
use std::sync::Arc;

/// One store to be tested, empty at first.
pub trait Backend {
    /// Opens it. It is opened again after every handle of the last time was dropped, as after a restart.
    fn open(&self) -> BoxFuture<'static, Arc<dyn Store>>;

    /// Whether it is empty again after a restart.
    fn forgets(&self) -> bool;
}

/// Runs the suite; each part has a store of its own, which `fresh` makes.
///
/// # Panics
///
/// With what doesn't hold.
pub async fn conforms<B: Backend>(fresh: impl Fn() -> B) {
    is_empty_at_first(&fresh()).await;
    keeps_the_last_value_of_each_slot(&fresh()).await;
    takes_any_name_and_any_bytes(&fresh()).await;
    orders_batches_by_their_calls(&fresh()).await;
    takes_nothing_back(&fresh()).await;
    loads_what_was_committed_before(&fresh()).await;
    holds_a_registry(&fresh()).await;
}

fn one(namespace: &'static str, key: &str, value: impl Into<Vec<u8>>) -> Batch {
    let mut batch = Batch::new();
    batch.put(namespace, key, value);
    batch
}

async fn commit(store: &Arc<dyn Store>, batch: Batch) {
    let outcome = store.commit(batch).await;
    assert!(outcome.is_ok(), "a commit failed: {outcome:?}");
}

async fn load(store: &Arc<dyn Store>) -> Snapshot {
    let loaded = store.load().await;
    assert!(loaded.is_ok(), "it can't be read: {loaded:?}");
    loaded.unwrap_or_default()
}

/// What is there, now and after a restart.
async fn expect(backend: &impl Backend, store: Arc<dyn Store>, rows: &[(&str, &str, &[u8])]) {
    let mut expected = Snapshot::new();
    for (namespace, key, value) in rows {
        let keys = expected.entry((*namespace).to_owned()).or_default();
        keys.insert((*key).to_owned(), value.to_vec());
    }
    assert_eq!(load(&store).await, expected);
    drop(store);
    if backend.forgets() {
        expected.clear();
    }
    assert_eq!(load(&backend.open().await).await, expected, "after a restart");
}

async fn is_empty_at_first(backend: &impl Backend) {
    let store = backend.open().await;
    commit(&store, Batch::new()).await;
    expect(backend, store, &[]).await;
}

async fn keeps_the_last_value_of_each_slot(backend: &impl Backend) {
    let store = backend.open().await;
    let mut batch = Batch::new();
    batch.put("a", "1", "one");
    batch.put("a", "2", "two");
    batch.put("b", "1", "only one of its namespace");
    commit(&store, batch).await;
    let mut batch = Batch::new();
    batch.put("a", "1", "never to be seen");
    batch.put("a", "1", "uno");
    batch.delete("a", "2");
    batch.delete("b", "1");
    batch.delete("b", "never was");
    batch.put("c", "1", "x");
    batch.delete("c", "1");
    commit(&store, batch).await;
    expect(backend, store, &[("a", "1", b"uno")]).await;
}

async fn takes_any_name_and_any_bytes(backend: &impl Backend) {
    let store = backend.open().await;
    let (large, bytes): (Vec<u8>, Vec<u8>) = (vec![7; 1 << 20], (0..=255).collect());
    let rows: [(&'static str, &str, &[u8]); 6] = [
        ("ü/", "", b""),
        ("a", "b/c", b"1"),
        ("a/b", "c", b"2"),
        ("a", "b\0c", b"3"),
        ("bytes", "all", &bytes),
        ("bytes", "many", &large),
    ];
    let mut batch = Batch::new();
    rows.iter().for_each(|(namespace, key, value)| batch.put(*namespace, *key, *value));
    commit(&store, batch).await;
    expect(backend, store, &rows).await;
}

async fn orders_batches_by_their_calls(backend: &impl Backend) {
    let store = backend.open().await;
    let mut commits: Vec<_> = (0..=200_u8).map(|number| store.commit(one("n", "last", [number]))).collect();
    // whatever is awaited when
    commits.reverse();
    let failed = join_all(commits).await.iter().filter(|outcome| outcome.is_err()).count();
    assert_eq!(failed, 0, "commits failed");
    expect(backend, store, &[("n", "last", &[200])]).await;
}

async fn takes_nothing_back(backend: &impl Backend) {
    let store = backend.open().await;
    drop(store.commit(one("n", "dropped", "stays")));
    // an empty batch is durable when all before it are
    commit(&store, Batch::new()).await;
    expect(backend, store, &[("n", "dropped", b"stays")]).await;
}

async fn loads_what_was_committed_before(backend: &impl Backend) {
    let store = backend.open().await;
    let committing = store.commit(one("n", "k", "v"));
    let loaded = load(&store).await;
    let value = loaded.get("n").and_then(|keys| keys.get("k"));
    assert_eq!(value.map(Vec::as_slice), Some(&b"v"[..]), "what was committed before the call");
    let outcome = committing.await;
    assert!(outcome.is_ok(), "{outcome:?}");
}

/// What it is for.
async fn holds_a_registry(backend: &impl Backend) {
    let open = async || {
        let opened = Registry::open(backend.open().await, Options::default()).await;
        assert!(opened.is_ok(), "no registry: {:?}", opened.as_ref().err());
        opened.ok()
    };
    let Some(registry) = open().await else { return };
    for number in 0..50 {
        let entry = Entry::new("web", format!("web-{}", number % 10), registry.now());
        registry.put(entry).forget();
        drop(registry.update("web-1", |entry| entry.restarts = number));
    }
    drop(registry.remove("web-3"));
    let (revision, entries) = (registry.revision(), registry.list().entries);
    let closed = registry.close().await;
    assert!(closed.is_ok(), "{closed:?}");
    drop(registry);
    if backend.forgets() {
        return;
    }
    let Some(registry) = open().await else { return };
    assert_eq!((registry.revision(), registry.list().entries), (revision, entries));
    assert!(registry.subscribe(Filter::default(), Some(revision - 1)).is_ok(), "its history");
}

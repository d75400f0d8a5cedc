//! The core: revisions, events, subscriptions, values.

use crate::support::{entry, in_memory, in_state, on_disk, options, soon};
use jiff::Timestamp;
use proptest::prelude::*;
use service_registry::model::{Endpoint, Health, HealthStatus, ProbeResult, Scope, State};
use service_registry::registry::{
    DropReason, EventKind, Filter, Item, Options, Registry, RegistryError, Subscription,
};
use service_registry::store::{Batch, MemoryStore, Snapshot, Store, StoreError};
use smol::block_on;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

fn drain(subscription: &mut Subscription) -> Vec<Item> {
    let mut items = Vec::new();
    while let Some(Some(item)) = block_on(futures_lite::future::poll_once(subscription.next())) {
        items.push(item);
    }
    items
}

fn kinds(items: &[Item]) -> Vec<EventKind> {
    items
        .iter()
        .filter_map(|item| if let Item::Event(event) = item { Some(event.kind) } else { None })
        .collect()
}

#[test]
fn every_kind_of_change_makes_its_event_and_one_revision() {
    let registry = block_on(in_memory(options()));
    let mut subscription = registry.subscribe(Filter::default(), None).unwrap();
    let start = registry.revision();
    registry.put(entry("web-1")).forget();
    registry.update("web-1", |e| e.status.state = State::Starting).unwrap().forget();
    let health = Health { status: HealthStatus::Healthy, since: Timestamp::UNIX_EPOCH, last: None };
    registry.update("web-1", |e| e.health = Some(health)).unwrap().forget();
    let endpoint = Endpoint {
        name: None,
        address: "127.0.0.1".into(),
        port: 80,
        protocol: "tcp".into(),
        scope: Scope::Host,
    };
    registry.update("web-1", |e| e.endpoints.push(endpoint)).unwrap().forget();
    registry.update("web-1", |e| e.restarts += 1).unwrap().forget();
    registry.remove("web-1").unwrap().forget();
    assert!(registry.update("web-1", |_| ()).is_none());
    assert!(registry.remove("web-1").is_none());

    let items = drain(&mut subscription);
    assert!(
        matches!(&items[0], Item::Snapshot { entries, revision } if entries.is_empty() && *revision == start)
    );
    use EventKind::*;
    let expected = [Registered, StateChanged, HealthChanged, EndpointChanged, Updated, Deregistered];
    assert_eq!(kinds(&items), expected);
    let Item::Event(second) = &items[2] else { panic!("{items:?}") };
    assert_eq!(second.previous, Some(State::Registered));
    assert_eq!(second.entry.as_ref().unwrap().status.state, State::Starting);
    let Item::Event(last) = &items[6] else { panic!("{items:?}") };
    assert_eq!((last.revision, &last.entry), (start + 6, &None));
}

#[test]
fn what_says_nothing_new_makes_no_event_and_no_revision() {
    let registry = block_on(in_memory(options()));
    let first = registry.put(entry("web-1"));
    let again = registry.put(entry("web-1"));
    assert_eq!((first.changed, again.changed, first.revision), (true, false, again.revision));
    block_on(again.durable).unwrap();

    let probe = |second: i64, message: &str| ProbeResult {
        at: Timestamp::from_second(second).unwrap(),
        ok: true,
        message: message.into(),
        duration_ms: 1,
    };
    let health =
        |last| Health { status: HealthStatus::Healthy, since: Timestamp::UNIX_EPOCH, last: Some(last) };
    registry.update("web-1", |e| e.health = Some(health(probe(1, "ok")))).unwrap().forget();
    let revision = registry.revision();
    // the same answer again: to be seen, not to be told
    let quiet = registry.update("web-1", |e| e.health = Some(health(probe(2, "ok")))).unwrap();
    assert_eq!((quiet.changed, registry.revision()), (false, revision));
    let entry = registry.get("web-1").unwrap();
    assert_eq!(entry.health.as_ref().unwrap().last.as_ref().unwrap().at.as_second(), 2);
    assert_eq!(entry.revision, revision);
    let loud = registry.update("web-1", |e| e.health = Some(health(probe(3, "slow")))).unwrap();
    assert!(loud.changed);
}

#[test]
fn listings_are_in_the_order_of_the_file_and_of_the_numbers() {
    let registry = block_on(in_memory(options()));
    for (name, order) in [("web-10", 1), ("web-2", 1), ("db-1", 2), ("api-1", 0), ("web-1", 1)] {
        let mut entry = entry(name);
        entry.order = order;
        registry.put(entry).forget();
    }
    let names: Vec<_> = registry.list().entries.iter().map(|e| e.instance.clone()).collect();
    assert_eq!(names, ["api-1", "web-1", "web-2", "web-10", "db-1"]);
    let filter = Filter::names(["db", "web-2"]);
    let names: Vec<_> = registry.list_matching(&filter).entries.iter().map(|e| e.instance.clone()).collect();
    assert_eq!(names, ["web-2", "db-1"]);
}

#[test]
fn a_filter_lets_only_its_kinds_and_names_through() {
    let registry = block_on(in_memory(options()));
    let mut filter = Filter::names(["web", "db-1"]);
    filter.kinds.insert(EventKind::StateChanged);
    let mut subscription = registry.subscribe(filter, None).unwrap();
    for name in ["web-1", "web-2", "db-1", "db-2"] {
        registry.put(entry(name)).forget();
        registry.put(in_state(name, State::Starting)).forget();
    }
    let items = drain(&mut subscription);
    let names: Vec<_> = items
        .iter()
        .filter_map(|i| if let Item::Event(e) = i { Some(e.instance.as_str()) } else { None })
        .collect();
    assert_eq!(names, ["web-1", "web-2", "db-1"]);
}

#[test]
fn who_does_not_read_is_dropped_with_a_reason_and_resumes_without_a_gap() {
    let registry = block_on(in_memory(Options { queue: 10, ..options() }));
    let mut slow = registry.subscribe(Filter::default(), None).unwrap();
    let mut quick = registry.subscribe(Filter::default(), None).unwrap();
    let mut seen = 0;
    for n in 0..50 {
        registry.put(entry(&format!("web-{n}"))).forget();
        seen += kinds(&drain(&mut quick)).len();
    }
    assert_eq!(seen, 50, "the slow one delays nobody");
    assert_eq!(registry.subscribers(), 1);
    let items = drain(&mut slow);
    assert_eq!(kinds(&items).len(), 10);
    let Some(Item::Dropped { reason: DropReason::TooSlow, resume: Some(resume) }) = items.last() else {
        panic!("{items:?}");
    };
    let mut resumed = registry.subscribe(Filter::default(), Some(*resume)).unwrap();
    let items = drain(&mut resumed);
    let revisions: Vec<_> =
        items.iter().filter_map(|i| if let Item::Event(e) = i { Some(e.revision) } else { None }).collect();
    assert_eq!(revisions, (resume + 1..=registry.revision()).collect::<Vec<_>>());
}

#[test]
fn a_revision_that_is_too_old_or_was_never_given_out_is_refused() {
    let registry = block_on(in_memory(Options { history: 5, ..options() }));
    let start = registry.revision();
    for n in 0..20 {
        registry.put(entry(&format!("web-{n}"))).forget();
    }
    for since in [start, start + 14, start + 21, u64::MAX] {
        let error = registry.subscribe(Filter::default(), Some(since)).map(drop).unwrap_err();
        assert!(matches!(error, RegistryError::RevisionGone { .. }), "{since}: {error}");
    }
    for since in start + 15..=start + 20 {
        let mut subscription = registry.subscribe(Filter::default(), Some(since)).unwrap();
        assert_eq!(drain(&mut subscription).len() as u64, start + 20 - since);
    }
    assert_eq!(registry.events(&Filter::default(), 0, 3).len(), 3);
    assert_eq!(registry.events(&Filter::default(), 0, 100).len(), 5);
}

#[test]
fn entries_values_history_and_revisions_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    block_on(soon("it", async {
        let registry = on_disk(&path).await;
        registry.put(entry("web-1")).forget();
        registry.put(entry("web-2")).forget();
        registry.remove("web-2").unwrap().forget();
        registry.kv_put("ports", "web-1", b"40001").forget();
        registry.kv_put("ports", "web-2", b"40002").forget();
        registry.kv_delete("ports", "web-2").forget();
        let revision = registry.revision();
        let (list, events) = (registry.list().entries, registry.events(&Filter::default(), 0, 100));
        registry.close().await.unwrap();
        assert!(matches!(registry.subscribe(Filter::default(), None), Err(RegistryError::Closed)));
        drop(registry);

        let registry = on_disk(&path).await;
        assert_eq!(registry.revision(), revision, "a clean end leaves no gap");
        assert_eq!(registry.list().entries, list);
        assert_eq!(registry.events(&Filter::default(), 0, 100), events);
        assert_eq!(registry.kv_list("ports"), [("web-1".to_owned(), b"40001".as_slice().into())]);
        let mut resumed = registry.subscribe(Filter::default(), Some(revision - 1)).unwrap();
        assert_eq!(drain(&mut resumed).len(), 1);
        registry.put(entry("web-3")).durable.await.unwrap();
        let revision = registry.revision();
        drop((registry, resumed));

        let registry = on_disk(&path).await;
        assert!(registry.revision() > revision, "who saw what was lost must not take it for what came after");
        let resumed = registry.subscribe(Filter::default(), Some(revision));
        assert!(resumed.is_ok(), "what was durable can still be resumed from");
    }));
}

#[test]
fn a_history_of_another_length_is_laid_out_anew() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    for (length, writes) in [(8, 20), (20, 5), (3, 1), (50, 60), (7, 0), (9, 4)] {
        block_on(async {
            let registry =
                Registry::open(Arc::clone(&store), Options { history: length, ..options() }).await.unwrap();
            for n in 0..writes {
                registry.update("web-1", |e| e.restarts += 1 + n).map(|w| w.forget()).unwrap_or_else(|| {
                    registry.put(entry("web-1")).forget();
                });
            }
            let revisions: Vec<_> =
                registry.events(&Filter::default(), 0, 1_000).iter().map(|e| e.revision).collect();
            let last = *revisions.last().unwrap();
            assert_eq!(revisions, (last + 1 - revisions.len() as u64..=last).collect::<Vec<_>>(), "no holes");
            assert!(revisions.len() <= length);
            registry.close().await.unwrap();
        });
    }
}

/// A store whose disk can be full.
#[derive(Default)]
struct Full {
    inner: MemoryStore,
    full: Mutex<bool>,
}

impl Store for Full {
    fn load(&self) -> futures_util::future::BoxFuture<'static, Result<Snapshot, StoreError>> {
        self.inner.load()
    }

    fn commit(&self, batch: Batch) -> futures_util::future::BoxFuture<'static, Result<(), StoreError>> {
        if *self.full.lock().unwrap() {
            let source = Arc::new(std::io::Error::from(std::io::ErrorKind::StorageFull));
            let error = StoreError::Commit { path: "/state".into(), source };
            return Box::pin(async move { Err(error) });
        }
        self.inner.commit(batch)
    }
}

#[test]
fn a_write_that_is_not_durable_stands_but_is_not_acknowledged() {
    let store = Arc::new(Full::default());
    let registry = block_on(Registry::open(Arc::clone(&store) as Arc<dyn Store>, options())).unwrap();
    *store.full.lock().unwrap() = true;
    let written = registry.put(entry("web-1"));
    assert!(registry.get("web-1").is_some());
    assert!(matches!(block_on(written.durable), Err(StoreError::Commit { .. })));
}

#[test]
fn writers_at_the_same_time_are_seen_by_all_exactly_once_and_in_order() {
    const WRITERS: usize = 4;
    const WRITES: u32 = 500;
    let registry = block_on(in_memory(Options { queue: 10_000, history: 10_000, ..options() }));
    let start = registry.revision();
    let writers: Vec<_> = (0..WRITERS)
        .map(|w| {
            let registry = registry.clone();
            std::thread::spawn(move || {
                for n in 0..WRITES {
                    let mut entry = entry(&format!("web-{w}"));
                    entry.restarts = n;
                    registry.put(entry).forget();
                }
            })
        })
        .collect();
    // subscribers come while it goes on: snapshot and events together must give the same end
    let subscribers: Vec<_> = (0..8)
        .map(|_| {
            let registry = registry.clone();
            std::thread::spawn(move || registry.subscribe(Filter::default(), None).unwrap())
        })
        .collect();
    let mut subscribers: Vec<_> = subscribers.into_iter().map(|s| s.join().unwrap()).collect();
    writers.into_iter().for_each(|w| w.join().unwrap());
    let end = registry.revision();
    assert_eq!(end, start + WRITERS as u64 * u64::from(WRITES));
    for subscription in &mut subscribers {
        let (state, last) = fold(drain(subscription));
        assert_eq!(last, end);
        assert_eq!(state.len(), WRITERS);
        assert!(state.values().all(|restarts| *restarts == WRITES - 1));
    }
}

/// What a reader believes after these items, and the last revision; revisions must follow each other.
fn fold(items: Vec<Item>) -> (BTreeMap<String, u32>, u64) {
    let mut state = BTreeMap::new();
    let mut last = None;
    for item in items {
        match item {
            Item::Snapshot { entries, revision } => {
                state = entries.iter().map(|e| (e.instance.clone(), e.restarts)).collect();
                last = Some(revision);
            }
            Item::Event(event) => {
                assert_eq!(Some(event.revision), last.map(|l| l + 1));
                last = Some(event.revision);
                match &event.entry {
                    Some(entry) => state.insert(event.instance.clone(), entry.restarts),
                    None => state.remove(&event.instance),
                };
            }
            Item::Dropped { .. } => panic!("dropped"),
        }
    }
    (state, last.unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is written, removed, reopened: who resumes believes what a snapshot says.
    #[test]
    fn resuming_anywhere_gives_the_same_as_a_snapshot(
        steps in prop::collection::vec((0..4_u8, 0..4_u32, 0..3_u32, any::<bool>()), 1..60),
    ) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let open = || block_on(Registry::open(Arc::clone(&store), Options { history: 16, ..options() })).unwrap();
        let mut registry = open();
        let mut reader: BTreeMap<String, u32> = BTreeMap::new();
        let mut since = None;
        for (what, which, value, read) in steps {
            let name = format!("web-{which}");
            match what {
                0 => drop(registry.remove(&name)),
                1 => {
                    if value == 0 { drop(block_on(registry.close())); }
                    let before = registry.revision();
                    drop(registry);
                    registry = open();
                    prop_assert!(registry.revision() >= before);
                }
                _ => {
                    let mut entry = entry(&name);
                    entry.restarts = value;
                    registry.put(entry).forget();
                }
            }
            if read {
                let subscription = registry.subscribe(Filter::default(), since);
                let mut subscription = match subscription {
                    Ok(subscription) => subscription,
                    Err(RegistryError::RevisionGone { .. }) => registry.subscribe(Filter::default(), None).unwrap(),
                    Err(error) => panic!("{error}"),
                };
                for item in drain(&mut subscription) {
                    match item {
                        Item::Snapshot { entries, .. } => {
                            reader = entries.iter().map(|e| (e.instance.clone(), e.restarts)).collect();
                        }
                        Item::Event(event) => drop(match &event.entry {
                            Some(entry) => reader.insert(event.instance.clone(), entry.restarts),
                            None => reader.remove(&event.instance),
                        }),
                        Item::Dropped { .. } => panic!("dropped"),
                    }
                }
                since = subscription.revision();
                let truth: BTreeMap<_, _> =
                    registry.list().entries.iter().map(|e| (e.instance.clone(), e.restarts)).collect();
                prop_assert_eq!(&reader, &truth);
            }
        }
    }
}

//! What every store must do, and what only a durable one can show.

use crate::support::{entry, on_disk, soon};
use service_registry::store::{Batch, DurableStore, MemoryStore, Snapshot, Store, StoreError};
use smol::block_on;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// The conformance suite: whatever stands behind the seam must pass it. `reopen` gives the same store after a restart,
/// or `None` if it forgets.
async fn conforms(store: Arc<dyn Store>, reopen: Option<&dyn Fn() -> Arc<dyn Store>>) {
    assert_eq!(store.load().await.unwrap(), Snapshot::new(), "a new store is empty");
    store.commit(Batch::new()).await.unwrap();

    let mut batch = Batch::new();
    batch.put("a", "1", "one");
    batch.put("a", "2", "two");
    batch.put("b", "1", [0_u8, 255]);
    batch.put("ü/", "", "");
    store.commit(batch).await.unwrap();
    let mut batch = Batch::new();
    batch.put("a", "1", "uno");
    batch.delete("a", "2");
    batch.delete("b", "1");
    batch.delete("b", "never was");
    batch.put("b", "2", "x");
    batch.delete("b", "2");
    store.commit(batch).await.unwrap();
    let expected: Snapshot = BTreeMap::from([
        ("a".to_owned(), BTreeMap::from([("1".to_owned(), b"uno".to_vec())])),
        ("ü/".to_owned(), BTreeMap::from([(String::new(), Vec::new())])),
    ]);
    assert_eq!(store.load().await.unwrap(), expected);

    // the order is the order of the calls, whatever is awaited when, and a dropped future takes nothing back
    let mut tickets = Vec::new();
    for n in 0..200 {
        let mut batch = Batch::new();
        batch.put("order", "last", n.to_string());
        batch.put("order", format!("{n:03}"), vec![7; 1000]);
        tickets.push(store.commit(batch));
    }
    for ticket in tickets.drain(..).rev().step_by(2) {
        ticket.await.unwrap();
    }
    store.commit(Batch::new()).await.unwrap();
    let loaded = store.load().await.unwrap();
    assert_eq!(loaded["order"]["last"], b"199");
    assert_eq!(loaded["order"].len(), 201);

    if let Some(reopen) = reopen {
        drop(store);
        assert_eq!(reopen().load().await.unwrap(), loaded, "after a restart");
    }
}

#[test]
fn the_memory_store_conforms() {
    block_on(soon("the suite", conforms(Arc::new(MemoryStore::new()), None)));
}

#[test]
fn the_durable_store_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let open = || -> Arc<dyn Store> { Arc::new(DurableStore::open(&path).unwrap()) };
    block_on(soon("the suite", conforms(open(), Some(&open))));
}

#[test]
fn the_file_is_only_for_its_owner_and_for_one_process() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let store = DurableStore::open(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = DurableStore::open(&path).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    drop(store);
    DurableStore::open(&path).unwrap();
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    drop(DurableStore::open(&path).unwrap());
    let good = std::fs::read(&path).unwrap();
    let mut cases =
        vec![b"hello".to_vec(), vec![b'x'; 100_000], good[..good.len() / 2].to_vec(), good[..100].to_vec()];
    let mut garbled = good.clone();
    garbled[0] ^= 0xff;
    cases.push(garbled);
    for content in cases {
        std::fs::write(&path, &content).unwrap();
        let error = DurableStore::open(&path).map(drop).unwrap_err();
        let known = matches!(error, StoreError::Damaged { .. } | StoreError::Open { .. });
        assert!(known, "{} bytes: {error}", content.len());
        assert_eq!(std::fs::read(&path).unwrap()[..], content[..], "it was changed");
    }
}

#[test]
fn a_file_that_was_overwritten_in_places_is_an_error_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let store = DurableStore::open(&path).unwrap();
    let mut batch = Batch::new();
    (0..500).for_each(|n| batch.put("n", n.to_string(), vec![b'v'; 100]));
    block_on(store.commit(batch)).unwrap();
    drop(store);
    let good = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for place in (0..good.len().min(200_000)).step_by(4096 + 512) {
        let mut bad = good.clone();
        bad[place..place + 64].fill(0xa5);
        std::fs::write(&path, &bad).unwrap();
        match DurableStore::open(&path) {
            Ok(store) => {
                refused += u32::from(block_on(soon("an answer", store.load())).is_err());
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0);
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let error = DurableStore::open(Path::new("/nonexistent/state.redb")).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "can't open the store /nonexistent/state.redb");
    assert!(std::error::Error::source(&error).is_some());
}

/// The child of the next test: writes entries and says the number of each once it is durable.
#[test]
#[ignore = "run by acknowledged_writes_survive_sigkill"]
fn child_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os("REGISTRY_TEST_STORE") else { return };
    block_on(async {
        let registry = on_disk(Path::new(&path)).await;
        for n in 0.. {
            let mut entry = entry("web-1");
            entry.restarts = n;
            let number = registry.put(entry).durable;
            let value = registry.kv_put("test", "n", n.to_string().as_bytes());
            number.await.unwrap();
            value.await.unwrap();
            println!("acknowledged {n} {}", registry.revision());
        }
    });
}

#[test]
fn acknowledged_writes_survive_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let mut last_revision = 0;
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::child_that_writes_until_it_is_killed", "--ignored", "--nocapture"])
            .env("REGISTRY_TEST_STORE", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = None;
        let mut read = |line: String| {
            let mut words = line.split_once("acknowledged ").map(|(_, rest)| rest)?.split(' ');
            let n: u32 = words.next()?.parse().ok()?;
            let revision: u64 = words.next()?.parse().ok()?;
            last = Some((n, revision));
            last
        };
        while read(lines.next().expect("the child ended early").unwrap()).is_none_or(|(n, _)| n < 10 * round)
        {
        }
        child.kill().unwrap();
        // what it said until it died counts as well; the last line may be half
        lines.map_while(Result::ok).for_each(|line| {
            read(line);
        });
        child.wait().unwrap();

        let (n, revision) = last.unwrap();
        assert!(revision > last_revision, "round {round}: revisions went back");
        block_on(async {
            let registry = on_disk(&path).await;
            assert!(registry.revision() >= revision, "round {round}: revisions went back");
            last_revision = registry.revision();
            assert!(registry.get("web-1").unwrap().restarts >= n, "round {round}: lost an entry");
            let value = registry.kv_get("test", "n").unwrap();
            let value: u32 = std::str::from_utf8(&value).unwrap().parse().unwrap();
            assert!(value >= n, "round {round}: lost a value");
            drop(registry.remove("web-1").unwrap().durable.await);
        });
    }
}

//! What every store must do, and what only a durable one can show.

use crate::support::{entry, on_disk, options, soon};
use futures_util::future::BoxFuture;
use service_registry::registry::{Filter, Registry, RegistryError};
use service_registry::store::conformance::{Backend, conforms};
use service_registry::store::{Batch, DurableStore, MemoryStore, Snapshot, Store, StoreError};
use smol::block_on;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Forgets: a restart is a new one.
struct Forgetful;

impl Backend for Forgetful {
    fn open(&self) -> BoxFuture<'static, Arc<dyn Store>> {
        Box::pin(async { Arc::new(MemoryStore::new()) as Arc<dyn Store> })
    }

    fn forgets(&self) -> bool {
        true
    }
}

struct OnDisk(tempfile::TempDir);

impl Backend for OnDisk {
    fn open(&self) -> BoxFuture<'static, Arc<dyn Store>> {
        let path = self.0.path().join("state.redb");
        Box::pin(async move { Arc::new(DurableStore::open(&path).unwrap()) as Arc<dyn Store> })
    }

    fn forgets(&self) -> bool {
        false
    }
}

#[test]
fn the_memory_store_conforms() {
    block_on(soon("the suite", conforms(|| Forgetful)));
}

#[test]
fn the_durable_store_conforms() {
    block_on(soon("the suite", conforms(|| OnDisk(tempfile::tempdir().unwrap()))));
}

/// A store that breaks the contract fails the suite.
struct Reordered(MemoryStore, std::sync::Mutex<Vec<Batch>>);

impl Store for Reordered {
    fn load(&self) -> BoxFuture<'static, Result<Snapshot, StoreError>> {
        self.0.load()
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<(), StoreError>> {
        // each batch is applied after the one that follows it
        let before = std::mem::replace(&mut *self.1.lock().unwrap(), vec![batch.clone()]);
        drop(self.0.commit(batch));
        before.into_iter().for_each(|batch| drop(self.0.commit(batch)));
        Box::pin(async { Ok(()) })
    }
}

struct Broken;

impl Backend for Broken {
    fn open(&self) -> BoxFuture<'static, Arc<dyn Store>> {
        let store: Arc<dyn Store> = Arc::new(Reordered(MemoryStore::new(), Default::default()));
        Box::pin(async { store })
    }

    fn forgets(&self) -> bool {
        true
    }
}

#[test]
#[should_panic(expected = "left")]
fn a_store_that_reorders_batches_does_not_conform() {
    block_on(soon("the suite", conforms(|| Broken)));
}

/// What the first version wrote, which knew neither schema nor leases.
fn of_the_first_version() -> Batch {
    let mut batch = Batch::new();
    for line in include_str!("../../samples/store-v0.jsonl").lines() {
        let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let value = match &row["text"] {
            serde_json::Value::Null => row["value"].take().to_string(),
            verbatim => text(verbatim),
        };
        batch.put(text(&row["namespace"]), text(&row["key"]), value);
    }
    batch
}

#[test]
fn what_the_first_version_wrote_is_migrated_and_what_a_newer_one_wrote_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    block_on(soon("it", async {
        let store = DurableStore::open(&path).unwrap();
        store.commit(of_the_first_version()).await.unwrap();
        drop(store);
        let registry = on_disk(&path).await;
        let names: Vec<_> = registry.list().entries.iter().map(|e| e.instance.clone()).collect();
        assert_eq!((names, registry.revision()), (vec!["db-1".to_owned(), "web-1".to_owned()], 9));
        assert_eq!(registry.events(&Filter::default(), 0, 10).len(), 2);
        assert_eq!(registry.kv_get("ports", "web-1").unwrap()[..], *b"40001");
        assert!(registry.deregister("web-1", None, None).is_ok(), "it is from outside, and not leased");
        drop(registry);

        let store = DurableStore::open(&path).unwrap();
        let before = store.load().await.unwrap();
        assert_eq!(before["meta"]["schema"], b"1");
        let mut batch = Batch::new();
        batch.put("meta", "schema", "2");
        store.commit(batch).await.unwrap();
        let newer = store.load().await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let error = Registry::open(Arc::clone(&store), options()).await.unwrap_err();
        assert!(matches!(error, RegistryError::Newer { found: 2, known: 1 }), "{error}");
        assert_eq!(store.load().await.unwrap(), newer, "it was left as it is");
    }));
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
            // so that the log is full again and again
            registry.kv_put("test", &format!("large-{}", n % 3), &[b'x'; 50_000]).forget();
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

/// The child of the next test: lives in a mount namespace in which the folder of its store is a disk of 4 MiB.
#[test]
#[ignore = "run by a_full_disk_fails_commits_and_loses_none_once_there_is_room"]
fn child_on_a_small_disk() {
    let Some(folder) = std::env::var_os("REGISTRY_TEST_DISK") else { return };
    let folder = Path::new(&folder);
    let (path, filler) = (folder.join("state.redb"), folder.join("filler"));
    let one = |key: &str, value: Vec<u8>| {
        let mut batch = Batch::new();
        batch.put("n", key, value);
        batch
    };
    block_on(async {
        let store = DurableStore::open(&path).unwrap();
        store.commit(one("before", vec![1; 1000])).await.unwrap();
        std::fs::write(&filler, vec![1; 8 << 20]).expect_err("the disk isn't small");
        // More than the file has room for: it can't be written down, and nobody is told that it was.
        let big = vec![2; 1 << 20];
        let error = soon("a refusal", store.commit(one("big", big.clone()))).await.unwrap_err();
        assert!(matches!(error, StoreError::Commit { .. } | StoreError::Open { .. }), "{error:?}");
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(cause.contains("No space left"), "{error}: {cause}");
        let error = soon("another refusal", store.commit(one("small", vec![3]))).await.unwrap_err();
        assert!(!matches!(error, StoreError::Closed), "{error}: it goes on");
        // A newer value of the same slot takes the older one's place, also while it waits.
        let newer = store.commit(one("small", vec![4]));
        soon("a third refusal", newer).await.unwrap_err();
        std::fs::remove_file(&filler).unwrap();
        // Whoever asks now waits for all that was refused before.
        let mut tries = 0;
        while soon("an outcome", store.commit(Batch::new())).await.is_err() {
            tries += 1;
            assert!(tries < 50, "it can't be written though there is room");
        }
        drop(store);
        let store = DurableStore::open(&path).unwrap();
        let loaded = store.load().await.unwrap();
        assert_eq!(loaded["n"].keys().collect::<Vec<_>>(), ["before", "big", "small"]);
        assert_eq!((&loaded["n"]["big"], &loaded["n"]["small"]), (&big, &vec![4]));

        // Killed while it can't be written: what was acknowledged is there, and nothing is damaged.
        store.commit(one("acknowledged", vec![5; 1000])).await.unwrap();
        std::fs::write(&filler, vec![1; 8 << 20]).unwrap_err();
        soon("a refusal", store.commit(one("refused", vec![6; 2 << 20]))).await.unwrap_err();
        println!("full");
        std::process::Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status().unwrap();
    });
}

/// The last part of the child, after it was killed in the middle of it.
#[test]
#[ignore = "run by a_full_disk_fails_commits_and_loses_none_once_there_is_room"]
fn child_after_a_full_disk() {
    let Some(folder) = std::env::var_os("REGISTRY_TEST_DISK") else { return };
    let folder = Path::new(&folder);
    let read = || {
        let store = DurableStore::open(&folder.join("state.redb"))?;
        block_on(soon("the content", store.load()))
    };
    // On the full disk it may be refused, but not destroyed.
    if let Err(error) = read() {
        println!("while the disk is full: {error}");
        assert!(!matches!(error, StoreError::Damaged { .. }), "{error}");
    }
    std::fs::remove_file(folder.join("filler")).unwrap();
    let loaded = read().unwrap();
    assert_eq!(loaded["n"]["acknowledged"], vec![5; 1000]);
    assert_eq!(loaded["n"]["before"], vec![1; 1000]);
}

#[test]
fn a_full_disk_fails_commits_and_loses_none_once_there_is_room() {
    on_a_small_disk("4m", "store::child_on_a_small_disk", "store::child_after_a_full_disk");
}

/// Runs two tests one after the other in a mount namespace in which the folder `REGISTRY_TEST_DISK` is a disk of that size. The
/// first kills itself when it has said `full`; what it said is in the file `REGISTRY_TEST_SAID`.
pub(crate) fn on_a_small_disk(size: &str, first: &str, then: &str) {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        set -e
        mount -t tmpfs -o size="$4" tmpfs "$2"
        if "$1" --exact "$5" --ignored --nocapture > "$3"; then echo it was not killed; exit 1; fi
        grep full "$3"
        "$1" --exact "$6" --ignored --nocapture
    "#;
    let flags = if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" };
    let said = tempfile::NamedTempFile::new().unwrap();
    let ran = Command::new("unshare")
        .args([flags, "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([folder.path(), said.path()])
        .args([size, first, then])
        .env("REGISTRY_TEST_DISK", folder.path())
        .env("REGISTRY_TEST_SAID", said.path())
        .output()
        .unwrap();
    let child = std::fs::read_to_string(said.path()).unwrap();
    let errors = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{child}{}{errors}", String::from_utf8_lossy(&ran.stdout));
}

//! The log before the table of the durable store: full segments, crashes between the two, files that aren't as they should be.

use crate::store::on_a_small_disk;
use crate::support::{copy_store, soon};
use service_registry::store::{Batch, DurableStore, Snapshot, Store, StoreError};
use smol::block_on;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn one(key: &str, value: impl Into<Vec<u8>>) -> Batch {
    let mut batch = Batch::new();
    batch.put("n", key, value);
    batch
}

fn opened(path: &Path) -> DurableStore {
    DurableStore::open(path).unwrap()
}

fn loaded(store: &DurableStore) -> Snapshot {
    block_on(soon("the content", store.load())).unwrap()
}

/// The two files of the log.
fn logs(path: &Path) -> [PathBuf; 2] {
    [0, 1].map(|number| PathBuf::from(format!("{}-log-{number}", path.display())))
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn the_log_stays_small_and_all_of_it_reaches_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let store = Arc::new(opened(&path));
    // several that commit at the same time, 24 MiB in all, and one that reads meanwhile
    let threads: Vec<_> = (0..4_u8)
        .map(|thread| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                for round in 0..100_u8 {
                    let mut batch = Batch::new();
                    batch.put("n", format!("{thread}-{}", round % 7), vec![round; 60_000]);
                    batch.put("last", thread.to_string(), [round]);
                    if round > 0 {
                        batch.delete("once", format!("{thread}-{}", round - 1));
                    }
                    batch.put("once", format!("{thread}-{round}"), "");
                    block_on(soon("a commit", store.commit(batch))).unwrap();
                }
            })
        })
        .collect();
    for _ in 0..20 {
        for (namespace, rows) in loaded(&store) {
            assert!(namespace != "once" || rows.len() <= 4, "half a batch: {:?}", rows.keys());
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let content = loaded(&store);
    assert_eq!(content["last"].values().collect::<Vec<_>>(), [&[99]; 4]);
    assert_eq!(content["once"].keys().collect::<Vec<_>>(), ["0-99", "1-99", "2-99", "3-99"]);
    assert!(content["n"].len() == 28 && content["n"]["3-1"] == vec![99; 60_000]);
    for log in logs(&path) {
        assert!(size(&log) < 10 << 20, "{} has {} bytes", log.display(), size(&log));
    }
    drop(Arc::into_inner(store).unwrap());
    assert_eq!(logs(&path).map(|log| size(&log)), [0, 0], "a store that was closed needs no log");
    let again = loaded(&opened(&path));
    assert_eq!(again["last"], content["last"]);
    assert!(again == content, "it lost something");
}

#[test]
fn a_log_that_is_in_the_table_already_takes_nothing_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let store = opened(&path);
    block_on(store.commit(one("a", "old"))).unwrap();
    block_on(store.commit(one("gone", "old"))).unwrap();
    let [log, _] = logs(&path);
    let kept = std::fs::read(&log).unwrap();
    drop(store);
    // killed after the table had it, and before the log was filled again
    std::fs::write(&log, &kept).unwrap();
    let store = opened(&path);
    let mut batch = one("a", "new");
    batch.delete("n", "gone");
    block_on(store.commit(batch)).unwrap();
    let content = loaded(&store);
    drop(store);
    std::fs::write(&log, &kept).unwrap();
    let store = opened(&path);
    assert_eq!(loaded(&store), content);
    assert_eq!(content["n"].iter().collect::<Vec<_>>(), [(&"a".to_owned(), &b"new".to_vec())]);
}

#[test]
fn what_a_crash_leaves_is_found_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let store = opened(&path);
    for n in 0..10_u8 {
        block_on(store.commit(one(&n.to_string(), [n]))).unwrap();
        // read only, then killed: nothing of it may change what the next one finds
        let copy = copy_store(&path);
        let again = opened(&copy);
        assert_eq!(loaded(&again)["n"].len(), usize::from(n) + 1);
        let third = folder.path().join("third");
        std::fs::create_dir_all(&third).unwrap();
        std::fs::copy(&copy, third.join("state.redb")).unwrap();
        for (from, to) in logs(&copy).iter().zip(logs(&third.join("state.redb"))) {
            std::fs::copy(from, to).unwrap();
        }
        assert_eq!(loaded(&opened(&third.join("state.redb")))["n"].len(), usize::from(n) + 1);
    }
}

#[test]
fn a_log_that_is_newer_or_damaged_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let store = opened(&path);
    for n in 0..5 {
        block_on(store.commit(one(&n.to_string(), "value"))).unwrap();
    }
    let copy = copy_store(&path);
    let [log, _] = logs(&copy);
    let good = std::fs::read(&log).unwrap();
    let (mut newer, mut damaged, mut first) = (good.clone(), good.clone(), good.clone());
    newer[7] = 2;
    damaged[good.len() / 2] ^= 1;
    first[50] ^= 1;
    for (content, says) in [(newer, "use the newer version"), (damaged, "damaged"), (first, "damaged")] {
        std::fs::write(&log, &content).unwrap();
        let error = DurableStore::open(&copy).map(drop).unwrap_err();
        assert!(
            matches!(error, StoreError::Newer { found: 2, known: 1, .. } | StoreError::Damaged { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(says) && error.to_string().contains("-log-0"), "{error}");
        assert_eq!(std::fs::read(&log).unwrap(), content, "it was changed");
    }
    std::fs::write(&log, &good).unwrap();
    assert_eq!(loaded(&opened(&copy))["n"].len(), 5);
}

#[test]
fn a_log_of_another_store_means_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let store = opened(&path);
    block_on(store.commit(one("a", "theirs"))).unwrap();
    let copy = copy_store(&path);
    // as who removes the table alone, to begin anew
    std::fs::remove_file(&copy).unwrap();
    let store = opened(&copy);
    assert_eq!(loaded(&store), Snapshot::new());
    block_on(store.commit(one("b", "ours"))).unwrap();
    let again = loaded(&store);
    assert_eq!(again["n"].keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_store_whose_making_was_killed_is_made_anew() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let draft = folder.path().join("state.redb-new");
    std::fs::write(&draft, vec![0; 49_152]).unwrap();
    assert_eq!(loaded(&opened(&path)), Snapshot::new());
    assert!(!draft.exists());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_log_lies_where_a_link_to_the_table_leads() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, path) = (folder.path().join("disk"), folder.path().join("state.redb"));
    std::fs::create_dir(&disk).unwrap();
    drop(opened(&disk.join("state.redb")));
    std::os::unix::fs::symlink("disk/state.redb", &path).unwrap();
    let store = opened(&path);
    block_on(store.commit(one("a", "b"))).unwrap();
    assert!(!logs(&path)[0].exists() && size(&logs(&disk.join("state.redb"))[0]) > 0);
}

/// The child of the next test: the log has its space, the table lacks some.
#[test]
#[ignore = "run by a_table_that_cannot_grow_costs_nothing_that_was_acknowledged"]
fn child_whose_table_cannot_grow() {
    let Some(folder) = std::env::var_os("REGISTRY_TEST_DISK") else { return };
    let folder = Path::new(&folder);
    let (path, filler) = (folder.join("state.redb"), folder.join("filler"));
    let large = |n: u32| one(&n.to_string(), vec![7; 30_000]);
    block_on(async {
        let store = opened(&path);
        for _ in 0..100 {
            store.commit(one("same", vec![1; 30_000])).await.unwrap();
        }
        // fills the disk, and writes until it is refused: how many were taken
        let fill = async |from: u32| {
            std::fs::write(&filler, vec![1; 16 << 20]).expect_err("the disk isn't small");
            for n in from.. {
                match soon("an outcome", store.commit(large(n))).await {
                    Ok(()) => assert!(n < from + 500, "it never was refused"),
                    Err(error) => {
                        assert!(
                            matches!(error, StoreError::Commit { .. } | StoreError::Open { .. }),
                            "{error:?}"
                        );
                        return n;
                    }
                }
            }
            unreachable!("the loop ends")
        };
        let refused = fill(0).await;
        assert!(refused > 0, "the log had room");
        assert!(store.load().await.is_err() || loaded(&store)["n"].len() > refused as usize);
        std::fs::remove_file(&filler).unwrap();
        let mut tries = 0;
        while soon("an outcome", store.commit(Batch::new())).await.is_err() {
            tries += 1;
            assert!(tries < 100, "it can't be written though there is room");
        }
        // what was refused has been written after all
        assert_eq!(loaded(&store)["n"].len(), 1 + refused as usize + 1);
        let taken = fill(refused + 1).await;
        println!("full {taken}");
        std::process::Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status().unwrap();
    });
}

/// The rest, after it was killed on its full disk.
#[test]
#[ignore = "run by a_table_that_cannot_grow_costs_nothing_that_was_acknowledged"]
fn child_after_a_table_could_not_grow() {
    let Some(folder) = std::env::var_os("REGISTRY_TEST_DISK") else { return };
    let folder = Path::new(&folder);
    let path = folder.join("state.redb");
    // On the full disk it may be refused, but not destroyed.
    if let Err(error) =
        DurableStore::open(&path).and_then(|store| block_on(soon("the content", store.load())))
    {
        println!("while the disk is full: {error}");
        assert!(!matches!(error, StoreError::Damaged { .. }), "{error}");
    }
    std::fs::remove_file(folder.join("filler")).unwrap();
    let content = loaded(&opened(&path));
    let mut numbers: Vec<u32> = content["n"].keys().filter_map(|key| key.parse().ok()).collect();
    numbers.sort_unstable();
    let taken = u32::try_from(numbers.len()).unwrap();
    assert_eq!(numbers, (0..taken).collect::<Vec<_>>(), "none is missing");
    assert!(content["n"].values().all(|value| value.len() == 30_000));
    let said = std::fs::read_to_string(std::env::var_os("REGISTRY_TEST_SAID").unwrap()).unwrap();
    let said: u32 = said.split_once("full ").unwrap().1.lines().next().unwrap().parse().unwrap();
    assert!(said > 0 && taken >= said, "{taken} of {said}");
}

#[test]
fn a_table_that_cannot_grow_costs_nothing_that_was_acknowledged() {
    on_a_small_disk(
        "8m",
        "store_log::child_whose_table_cannot_grow",
        "store_log::child_after_a_table_could_not_grow",
    );
}

//! The watcher through restarts of the server.

use crate::support::{Served, entry, on_disk, soon};
use service_registry::client::{ClientOptions, WatchItem, Watcher};
use service_registry::registry::Filter;
use service_registry::server::Limits;
use smol::block_on;
use std::time::Duration;

fn watcher(path: &std::path::Path) -> Watcher {
    Watcher::unix(path.to_owned(), ClientOptions::default(), Filter::default(), None)
}

#[test]
fn a_watcher_sees_every_change_once_through_restarts_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.redb");
    let socket = folder.path().join("registry.sock");
    block_on(soon("it", async {
        let mut watcher = watcher(&socket);
        assert!(matches!(watcher.next().await, WatchItem::Lost(error) if error.is_absent()));
        let mut seen = Vec::new();
        let mut written = Vec::new();
        for round in 0..4 {
            let served = Served::start(folder.path(), on_disk(&state).await, Limits::default());
            for n in 0..50 {
                let name = format!("web-{}", round * 50 + n);
                written.push(served.registry.put(entry(&name)).revision);
                if n == 20 && round == 0 {
                    // the first connection begins in the middle
                    let WatchItem::Snapshot { entries, .. } = watcher.next().await else {
                        panic!("no snapshot")
                    };
                    seen.extend(entries.iter().map(|e| e.revision));
                }
            }
            // some of it is read in this life of the server, the rest in the next
            while seen.len() < written.len() - 10 {
                match watcher.next().await {
                    WatchItem::Event(event) => seen.push(event.revision),
                    WatchItem::Lost(_) => {}
                    WatchItem::Snapshot { .. } => {
                        panic!("round {round}: a snapshot in place of a resumption")
                    }
                }
            }
            served.registry.close().await.unwrap();
            served.stop(Duration::from_secs(5)).await;
        }
        let served = Served::start(folder.path(), on_disk(&state).await, Limits::default());
        while seen.len() < written.len() {
            if let WatchItem::Event(event) = watcher.next().await {
                seen.push(event.revision);
            }
        }
        assert_eq!(seen, written);
        drop(served);
    }));
}

#[test]
fn a_watcher_that_was_away_for_too_long_begins_again_with_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.redb");
    let socket = folder.path().join("registry.sock");
    block_on(soon("it", async {
        let served = Served::start(folder.path(), on_disk(&state).await, Limits::default());
        served.registry.put(entry("web-1")).forget();
        let mut watcher = watcher(&socket);
        assert!(matches!(watcher.next().await, WatchItem::Snapshot { entries, .. } if entries.len() == 1));
        served.stop(Duration::from_secs(5)).await;
        // nothing was closed: as after a crash, what was given out and what was durable may differ
        let registry = on_disk(&state).await;
        for n in 0..3_000 {
            registry.put(entry(&format!("db-{n}"))).forget();
        }
        let served = Served::start(folder.path(), registry, Limits::default());
        loop {
            match watcher.next().await {
                WatchItem::Lost(_) => {}
                WatchItem::Snapshot { entries, .. } => break assert_eq!(entries.len(), 3_001),
                WatchItem::Event(event) => panic!("{event:?}"),
            }
        }
        drop(served);
    }));
}

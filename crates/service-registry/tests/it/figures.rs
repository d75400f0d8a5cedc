//! Figures, not tests: `cargo test -p service-registry --release -- --ignored figures --nocapture`.

use crate::support::{LONG, Served, entry, in_memory, on_disk, options};
use crate::tls::Secured;
use serde_json::{Value, json};
use service_registry::client::{Client, ClientOptions};
use service_registry::model::Endpoint;
use service_registry::registry::Filter;
use service_registry::server::Limits;
use service_registry::wire;
use smol::block_on;
use std::time::{Duration, Instant};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
#[ignore = "measures"]
fn figures() {
    let folder = tempfile::tempdir_in(".").unwrap();
    let state = folder.path().join("state.redb");
    block_on(async {
        let begun = Instant::now();
        let registry = on_disk(&state).await;
        println!("open a new store and registry: {:?}", begun.elapsed());
        let served = Served::start(folder.path(), registry, Limits::default());

        let mut times = Vec::new();
        for _ in 0..101 {
            let begun = Instant::now();
            let (client, driver) =
                Client::connect_unix(&served.path, &ClientOptions::default()).await.unwrap();
            driver.run(client.call::<_, Value>("test.echo", &json!({}), LONG)).await.unwrap();
            times.push(begun.elapsed());
        }
        println!("connect, hello and one call: {:?} (first {:?})", median(times.clone()), times[0]);

        let client = served.client().await;
        let begun = Instant::now();
        let calls = (0..50).map(|_| client.call::<_, Value>("test.echo", &Value::Null, LONG));
        let failed = futures_util::future::join_all(calls).await.iter().filter(|r| r.is_err()).count();
        println!("50 pipelined requests: {:?} ({failed} refused)", begun.elapsed());

        let secured = Secured::start(folder.path(), Limits::default()).await;
        let remote = secured.remote(Some(secured.token("t", wire::Scope::Read, None)));
        let mut times = Vec::new();
        for _ in 0..101 {
            let begun = Instant::now();
            let (client, driver) = Client::connect_tls(&remote, &ClientOptions::default()).await.unwrap();
            driver.run(client.call::<_, Value>("test.echo", &json!({}), LONG)).await.unwrap();
            times.push(begun.elapsed());
        }
        println!("over TLS: connect, hello and one call: {:?} (first {:?})", median(times.clone()), times[0]);
        let client = secured.client(&remote.token.unwrap()).await;
        let mut times = Vec::new();
        for _ in 0..11 {
            let begun = Instant::now();
            let calls = (0..50).map(|_| client.call::<_, Value>("test.echo", &Value::Null, LONG));
            assert!(futures_util::future::join_all(calls).await.iter().all(Result::is_ok));
            times.push(begun.elapsed());
        }
        println!("over TLS: 50 pipelined requests: {:?}", median(times));

        for writers in [1_u32, 16, 64] {
            let (writes, begun) = (400, Instant::now());
            let tasks: Vec<_> = (0..writers)
                .map(|w| {
                    let registry = served.registry.clone();
                    smol::spawn(async move {
                        for n in 0..writes {
                            let mut entry = entry(&format!("w{writers}-{w}"));
                            entry.restarts = n;
                            registry.put(entry).durable.await.unwrap();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await;
            }
            let rate = f64::from(writers * writes) / begun.elapsed().as_secs_f64();
            println!("durable puts with {writers} writers: {rate:.0}/s");
        }
        for clients in [1_u32, 16, 64] {
            let (writes, mut connected) = (200, Vec::new());
            for n in 0..clients {
                let client = served.client().await;
                let new = wire::RegisterParams { entry: entry(&format!("c{clients}-{n}")), lease: None };
                client.call::<_, Value>(wire::REGISTRY_REGISTER, &new, LONG).await.unwrap();
                connected.push((client, new.entry));
            }
            let begun = Instant::now();
            let tasks: Vec<_> = connected
                .into_iter()
                .map(|(client, mut entry)| {
                    smol::spawn(async move {
                        for n in 0..writes {
                            entry.restarts = n + 1;
                            let params =
                                wire::UpdateParams { entry: entry.clone(), revision: None, lease: None };
                            client.call::<_, Value>(wire::REGISTRY_UPDATE, &params, LONG).await.unwrap();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await;
            }
            let rate = f64::from(clients * writes) / begun.elapsed().as_secs_f64();
            println!("durable puts over the socket with {clients} clients: {rate:.0}/s");
        }
    });
    many_entries(folder.path());
    restart(&state);
}

fn many_entries(folder: &std::path::Path) {
    let folder = tempfile::tempdir_in(folder).unwrap();
    block_on(async {
        let registry = in_memory(options()).await;
        let begun = Instant::now();
        for n in 0..10_000 {
            let mut entry = entry(&format!("web-{n}"));
            entry.endpoints.push(Endpoint {
                name: None,
                address: "127.0.0.1".into(),
                port: 80,
                protocol: "tcp".into(),
                scope: service_registry::model::Scope::Host,
            });
            registry.put(entry).forget();
        }
        println!("10,000 puts in memory: {:?}", begun.elapsed());
        let served = Served::start(folder.path(), registry, Limits::default());
        let client = served.client().await;
        let times = (0..11).map(|_| {
            let begun = Instant::now();
            let _ = served.registry.list();
            begun.elapsed()
        });
        println!("10,000 entries listed in-process: {:?}", median(times.collect()));
        let (mut raw, mut times) = (Vec::new(), Vec::new());
        for _ in 0..11 {
            let begun = Instant::now();
            let text: Box<serde_json::value::RawValue> =
                client.call(wire::REGISTRY_LIST, &json!({}), LONG).await.unwrap();
            raw.push(begun.elapsed());
            let list: wire::ListResult = serde_json::from_str(text.get()).unwrap();
            assert_eq!(list.entries.len(), 10_000);
            times.push(begun.elapsed());
        }
        println!("registry.list of 10,000: received {:?}, decoded {:?}", median(raw), median(times));
        let begun = Instant::now();
        let mut subscription = client.subscribe(&Filter::default(), None, LONG).await.unwrap();
        subscription.next().await.unwrap();
        println!("snapshot of 10,000 over the socket: {:?}", begun.elapsed());
    });
}

fn restart(state: &std::path::Path) {
    block_on(async {
        let begun = Instant::now();
        drop(service_registry::store::DurableStore::open(state).unwrap());
        let bytes = std::fs::metadata(state).unwrap().len();
        println!("open and close the file of {bytes} bytes: {:?}", begun.elapsed());
        let begun = Instant::now();
        let registry = on_disk(state).await;
        let events = registry.events(&Filter::default(), 0, usize::MAX).len();
        println!(
            "open with {} entries, {events} events: {:?}",
            registry.list().entries.len(),
            begun.elapsed()
        );
    });
}

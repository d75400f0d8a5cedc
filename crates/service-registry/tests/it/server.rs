//! Server and client over a Unix socket.

use crate::support::{LONG, OnTokio, Served, copy_store, entry, in_memory, in_state, on_disk, options, soon};
use serde_json::{Value, json};
use service_registry::client::{Client, ClientError, ClientOptions};
use service_registry::model::{Endpoint, Entry, Scope, State};
use service_registry::registry::{DropReason, EventKind, Filter, Item, Options};
use service_registry::server::{Limits, ListenError, NoMethods, Server, UnixListener};
use service_registry::wire::{self, code};
use smol::block_on;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn register(entry: Entry) -> wire::RegisterParams {
    wire::RegisterParams { entry, lease: None }
}

#[test]
fn an_entry_from_outside_lives_through_all_its_methods() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let served = Served::start(folder.path(), in_memory(options()).await, Limits::default());
        let client = served.client().await;
        assert!(client.server().capabilities.contains(&"test.echo".to_owned()));

        let mut web = entry("web-1");
        web.endpoints.push(Endpoint {
            name: Some("http".into()),
            address: "127.0.0.1".into(),
            port: 80,
            protocol: "tcp".into(),
            scope: Scope::Host,
        });
        let written: wire::WriteResult =
            client.call(wire::REGISTRY_REGISTER, &register(web.clone()), LONG).await.unwrap();
        assert!(written.changed);
        let again = client.call::<_, Value>(wire::REGISTRY_REGISTER, &register(web.clone()), LONG).await;
        let error = again.unwrap_err();
        assert_eq!(error.code(), Some(code::EXISTS));
        assert_eq!(error.rpc().unwrap().data, Some(json!({"revision": written.revision})));

        let found: Entry =
            client.call(wire::REGISTRY_GET, &json!({"instance": "web-1"}), LONG).await.unwrap();
        assert_eq!(found.revision, written.revision);
        let missing = client.call::<_, Entry>(wire::REGISTRY_GET, &json!({"instance": "web-9"}), LONG).await;
        assert_eq!(missing.unwrap_err().code(), Some(code::NOT_FOUND));

        // only as the state machine allows, and only at the revision that was seen
        let mut running = web.clone();
        running.status.state = State::Running;
        let params = wire::UpdateParams { entry: running.clone(), revision: None, lease: None };
        let refused = client.call::<_, Value>(wire::REGISTRY_UPDATE, &params, LONG).await.unwrap_err();
        assert_eq!(refused.code(), Some(code::NOT_ALLOWED));
        web.status.state = State::Starting;
        let params = wire::UpdateParams { entry: web, revision: Some(999), lease: None };
        let refused = client.call::<_, Value>(wire::REGISTRY_UPDATE, &params, LONG).await.unwrap_err();
        assert_eq!(refused.code(), Some(code::CONFLICT));
        let params = wire::UpdateParams { revision: Some(written.revision), ..params };
        client.call::<_, wire::WriteResult>(wire::REGISTRY_UPDATE, &params, LONG).await.unwrap();

        // only what is ready is resolved, unless asked otherwise
        let resolve = |all| wire::ResolveParams { name: "web".into(), all, ..Default::default() };
        let none: wire::ResolveResult =
            client.call(wire::REGISTRY_RESOLVE, &resolve(false), LONG).await.unwrap();
        assert_eq!(none.endpoints, []);
        running.ready = true;
        let params = wire::UpdateParams { entry: running, revision: None, lease: None };
        client.call::<_, wire::WriteResult>(wire::REGISTRY_UPDATE, &params, LONG).await.unwrap();
        let one: wire::ResolveResult =
            client.call(wire::REGISTRY_RESOLVE, &resolve(false), LONG).await.unwrap();
        assert_eq!(one.endpoints[0].endpoint.port, 80);

        let events: wire::EventsListResult = client.call(wire::EVENTS_LIST, &json!({}), LONG).await.unwrap();
        let kinds: Vec<_> = events.events.iter().map(|e| e.kind).collect();
        assert_eq!(kinds, [EventKind::Registered, EventKind::StateChanged, EventKind::StateChanged]);

        let gone =
            client.call::<_, Value>(wire::REGISTRY_DEREGISTER, &json!({"instance": "web-1"}), LONG).await;
        assert_eq!(gone.unwrap()["changed"], true);
        let list: wire::ListResult = client.call(wire::REGISTRY_LIST, &json!({}), LONG).await.unwrap();
        assert_eq!(list.entries, []);
    }));
}

#[test]
fn what_the_host_looks_after_is_not_changed_from_outside() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let served = Served::start(folder.path(), in_memory(options()).await, Limits::default());
        served.registry.put(entry("db-1")).forget();
        let client = served.client().await;
        let params =
            wire::UpdateParams { entry: in_state("db-1", State::Starting), revision: None, lease: None };
        let error = client.call::<_, Value>(wire::REGISTRY_UPDATE, &params, LONG).await.unwrap_err();
        assert_eq!(error.code(), Some(code::NOT_YOURS));
        let params = json!({"instance": "db-1"});
        let error = client.call::<_, Value>(wire::REGISTRY_DEREGISTER, &params, LONG).await.unwrap_err();
        assert_eq!(error.code(), Some(code::NOT_YOURS));
        let bad = register(entry("../x"));
        let error = client.call::<_, Value>(wire::REGISTRY_REGISTER, &bad, LONG).await.unwrap_err();
        assert_eq!(error.code(), Some(code::INVALID_ENTRY));
        assert_eq!(error.rpc().unwrap().data.as_ref().unwrap()["problems"].as_array().unwrap().len(), 2);
    }));
}

#[test]
fn a_write_is_answered_once_it_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    block_on(soon("it", async {
        let served = Served::start(folder.path(), on_disk(&path).await, Limits::default());
        let client = served.client().await;
        let params = register(entry("web-1"));
        client.call::<_, wire::WriteResult>(wire::REGISTRY_REGISTER, &params, LONG).await.unwrap();
        // the files as they are at this moment, as a crash would leave them
        let copy = copy_store(&path);
        assert!(on_disk(&copy).await.get("web-1").is_some());
    }));
}

#[test]
fn methods_of_the_host_get_their_caller_and_may_hang_or_break_off() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let limits = Limits { requests: 4, ..Limits::default() };
        let served = Served::start(folder.path(), in_memory(options()).await, limits);
        let options = ClientOptions { name: "tester\n1".into(), ..ClientOptions::default() };
        let (client, driver) = Client::connect_unix(&served.path, &options).await.unwrap();
        driver
            .run(async {
                let who: Value = client.call("test.who", &json!({}), LONG).await.unwrap();
                assert_eq!(who["client"], "tester1");
                let (pid, uid) = (std::process::id(), rustix::process::geteuid().as_raw());
                assert_eq!(who["who"], format!("process {pid} of user {uid}"));
                let broken = client.call::<_, Value>("test.panic", &json!({}), LONG).await.unwrap_err();
                assert_eq!(broken.code(), Some(code::INTERNAL_ERROR));
                let unknown = client.call::<_, Value>("test.nope", &json!({}), LONG).await.unwrap_err();
                assert_eq!(unknown.code(), Some(code::METHOD_NOT_FOUND));
                let late = client.call::<_, Value>("test.hang", &json!({}), Duration::from_millis(20)).await;
                assert!(matches!(late, Err(ClientError::TimedOut { .. })), "{late:?}");
                // three more fill the connection; others are refused, not delayed
                for _ in 0..3 {
                    drop(client.call::<_, Value>("test.hang", &json!({}), Duration::from_millis(20)).await);
                }
                let full = client.call::<_, Value>("test.echo", &json!({}), LONG).await.unwrap_err();
                assert_eq!(full.code(), Some(code::TOO_MANY_REQUESTS));
            })
            .await;
        let other = served.client().await;
        let echo: Value = other.call("test.echo", &json!({"a": 1}), LONG).await.unwrap();
        assert_eq!(echo, json!({"a": 1}));
    }));
}

#[test]
fn who_asks_too_often_is_told_when_to_ask_again_and_others_are_not_held_up() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let limits = Limits { rate: 20, ..Limits::default() };
        let served = Served::start(folder.path(), in_memory(options()).await, limits);
        let (fast, other) = (served.client().await, served.client().await);
        let mut refused = None;
        for _ in 0..1_000 {
            if let Err(error) = fast.call::<_, Value>("test.echo", &json!({}), LONG).await {
                refused = Some(error);
                break;
            }
        }
        let refused = refused.expect("a thousand at once are more than twenty a second");
        assert_eq!(refused.code(), Some(code::TOO_FAST));
        let data = refused.rpc().and_then(|rpc| rpc.data.clone()).unwrap();
        assert_eq!(data["limit"], 20);
        other.call::<_, Value>("test.echo", &json!({}), LONG).await.unwrap();
        let wait = Duration::from_millis(data["retry_after_ms"].as_u64().unwrap());
        assert!(wait <= Duration::from_millis(51), "{wait:?}");
        async_io::Timer::after(wait).await;
        fast.call::<_, Value>("test.echo", &json!({}), LONG).await.unwrap();
    }));
}

#[test]
fn fifty_pipelined_requests_are_each_answered_to_their_asker() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let served = Served::start(folder.path(), in_memory(options()).await, Limits::default());
        let client = served.client().await;
        // one that never answers stands at the front and holds nobody up
        let hang = smol::spawn({
            let client = client.clone();
            async move { drop(client.call::<_, Value>("test.hang", &json!({}), LONG).await) }
        });
        let calls = (0..50).map(|n| {
            let client = client.clone();
            async move {
                let params = json!({ "n": n });
                assert_eq!(client.call::<_, Value>("test.echo", &params, LONG).await.unwrap(), params);
            }
        });
        futures_util::future::join_all(calls).await;
        drop(hang);
    }));
}

#[test]
fn a_snapshot_comes_first_whole_and_then_every_change() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let served = Served::start(folder.path(), in_memory(options()).await, Limits::default());
        for n in 0..1_234 {
            served.registry.put(entry(&format!("web-{n}"))).forget();
        }
        let client = served.client().await;
        let mut subscription = client.subscribe(&Filter::default(), None, LONG).await.unwrap();
        served.registry.put(entry("late-1")).forget();
        let Some(Item::Snapshot { entries, revision }) = subscription.next().await else {
            panic!("no snapshot")
        };
        assert_eq!(entries.len(), 1_234);
        let Some(Item::Event(event)) = subscription.next().await else { panic!("no event") };
        assert_eq!((event.instance.as_str(), event.revision), ("late-1", revision + 1));
        drop(subscription);
        while served.registry.subscribers() > 0 {
            smol::Timer::after(Duration::from_millis(1)).await;
        }
        let gone = client.subscribe(&Filter::default(), Some(u64::MAX), LONG).await.unwrap_err();
        assert_eq!(gone.code(), Some(code::REVISION_GONE));
    }));
}

#[test]
fn a_client_that_does_not_read_is_dropped_and_resumes_and_nobody_else_waits() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let registry = in_memory(Options { queue: 100, history: 50_000, ..options() }).await;
        let served = Served::start(folder.path(), registry, Limits::default());
        let (client, driver) = served.client_with_driver().await;
        let mut driver = Some(driver);
        let mut subscription = {
            use futures_lite::FutureExt as _;
            let driver = driver.as_mut().unwrap();
            let drive = async {
                driver.await;
                panic!("the connection broke")
            };
            async { client.subscribe(&Filter::default(), None, LONG).await.unwrap() }.or(drive).await
        };
        // from here on nobody drives the connection: it isn't read
        let other = served.client().await;
        let mut watching = other.subscribe(&Filter::default(), None, LONG).await.unwrap();
        let Some(Item::Snapshot { .. }) = watching.next().await else { panic!("no snapshot") };
        let mut last = 0;
        for n in 0..5_000_u32 {
            let mut entry = entry("web-1");
            entry.restarts = n;
            entry.version = Some("v".repeat(500));
            last = served.registry.put(entry).revision;
            let Some(Item::Event(event)) = watching.next().await else {
                panic!("the quick one was dropped at {n}")
            };
            assert_eq!(event.revision, last);
        }
        let driver = smol::spawn(driver.take().unwrap());
        let mut revisions = Vec::new();
        let resume = loop {
            match subscription.next().await.unwrap() {
                Item::Snapshot { .. } => {}
                Item::Event(event) => revisions.push(event.revision),
                Item::Dropped { reason, resume } => {
                    assert_eq!(reason, DropReason::TooSlow);
                    break resume;
                }
            }
        };
        assert!(revisions.len() < 5_000);
        let mut resumed = client.subscribe(&Filter::default(), resume, LONG).await.unwrap();
        while revisions.last() != Some(&last) {
            match resumed.next().await.unwrap() {
                Item::Event(event) => revisions.push(event.revision),
                Item::Dropped { resume, .. } => {
                    resumed = client.subscribe(&Filter::default(), resume, LONG).await.unwrap();
                }
                Item::Snapshot { .. } => panic!("a snapshot was not asked for"),
            }
        }
        assert_eq!(revisions, (last - 4_999..=last).collect::<Vec<_>>());
        drop(driver);
    }));
}

#[test]
fn shutting_down_lets_requests_finish_and_cuts_those_that_do_not() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let served = Served::start(folder.path(), in_memory(options()).await, Limits::default());
        let idle = served.client().await;
        let mut subscription = idle.subscribe(&Filter::default(), None, LONG).await.unwrap();
        assert!(matches!(subscription.next().await, Some(Item::Snapshot { .. })));
        let begun = Instant::now();
        assert_eq!(served.stop(LONG).await, 0, "nothing had to be cut");
        assert!(begun.elapsed() < LONG / 2);
        assert!(matches!(
            subscription.next().await,
            Some(Item::Dropped { reason: DropReason::ConnectionLost, resume: Some(_) })
        ));
        assert!(matches!(
            idle.call::<_, Value>("test.echo", &json!({}), LONG).await,
            Err(ClientError::Closed { .. })
        ));

        let served = Served::start(folder.path(), in_memory(options()).await, Limits::default());
        let busy = served.client().await;
        let call = smol::spawn(async move { busy.call::<_, Value>("test.hang", &json!({}), LONG).await });
        while served.server.connections() == 0 || !is_busy(&served).await {}
        let path = served.path.clone();
        assert_eq!(served.stop(Duration::from_millis(50)).await, 1);
        assert!(matches!(call.await, Err(ClientError::Closed { .. })));
        let error = Client::connect_unix(&path, &ClientOptions::default()).await.unwrap_err();
        assert!(error.is_absent(), "{error}");
    }));
}

/// Gives the other tasks a turn; true once a round trip went through after them.
async fn is_busy(served: &Served) -> bool {
    let client = served.client().await;
    client.call::<_, Value>("test.echo", &json!({}), LONG).await.is_ok()
}

#[test]
fn too_many_connections_and_subscriptions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let limits = Limits { connections: 2, subscriptions: 1, ..Limits::default() };
        let served = Served::start(folder.path(), in_memory(options()).await, limits);
        let (one, _two) = (served.client().await, served.client().await);
        assert!(Client::connect_unix(&served.path, &ClientOptions::default()).await.is_err());
        let _first = one.subscribe(&Filter::default(), None, LONG).await.unwrap();
        let second = one.subscribe(&Filter::default(), None, LONG).await.unwrap_err();
        assert_eq!(second.code(), Some(code::TOO_MANY_SUBSCRIPTIONS));
    }));
}

#[test]
fn the_socket_is_private_may_lie_deep_and_a_stale_one_is_replaced() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let mut deep = folder.path().to_owned();
    for _ in 0..10 {
        deep.push("a-folder-with-a-rather-long-name");
    }
    std::fs::create_dir_all(&deep).unwrap();
    block_on(soon("it", async {
        let served = Served::start(&deep, in_memory(options()).await, Limits::default());
        assert!(served.path.as_os_str().len() > 300);
        assert_eq!(std::fs::metadata(&served.path).unwrap().permissions().mode() & 0o777, 0o600);
        let client = served.client().await;
        let _: Value = client.call("test.echo", &json!({}), LONG).await.unwrap();
        let error = UnixListener::bind(&served.path).unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }), "{error}");
        served.stop(LONG).await;
    }));

    let path = folder.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "std leaves it behind");
    drop(UnixListener::bind(&path).unwrap());
    std::fs::write(&path, "precious").unwrap();
    let error = UnixListener::bind(&path).unwrap_err();
    assert!(matches!(error, ListenError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let error = UnixListener::bind(&folder.path().join("no/such/s")).unwrap_err();
    assert!(matches!(error, ListenError::Bind { .. }), "{error}");
}

#[test]
fn it_works_the_same_on_tokio() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let path = folder.path().join("registry.sock");
        let registry = on_disk(&folder.path().join("state.redb")).await;
        let spawner = Arc::new(OnTokio(runtime.handle().clone()));
        let server = Server::new(registry.clone(), Arc::new(NoMethods), spawner, Limits::default());
        let listener = UnixListener::bind(&path).unwrap();
        let accept = runtime.spawn({
            let server = server.clone();
            async move { server.serve_unix(&listener).await }
        });
        let spawner = OnTokio(runtime.handle().clone());
        let client = Client::connect_unix_on(&path, &ClientOptions::default(), &spawner).await.unwrap();
        let mut subscription = client.subscribe(&Filter::default(), None, LONG).await.unwrap();
        let params = register(entry("web-1"));
        client.call::<_, wire::WriteResult>(wire::REGISTRY_REGISTER, &params, LONG).await.unwrap();
        assert!(matches!(subscription.next().await, Some(Item::Snapshot { .. })));
        assert!(matches!(subscription.next().await, Some(Item::Event(event)) if event.instance == "web-1"));
        assert_eq!(server.shutdown(LONG).await, 0);
        accept.await.unwrap().unwrap();
    });
}

//! One slow or silent client never delays another, also under load.

use crate::support::{LONG, Served, Stopwatch, entry, in_memory, options, processor_time, soon};
use async_net::unix::UnixStream;
use async_tungstenite::tungstenite::Message;
use futures_lite::StreamExt as _;
use serde_json::{Value, json};
use service_registry::client::{Client, ClientOptions};
use service_registry::registry::{Filter, Item, Options, Registry};
use service_registry::server::Limits;
use service_registry::wire::{EVENTS_SUBSCRIBE, HELLO, PROTOCOL};
use smol::block_on;
use std::time::{Duration, Instant};

/// Events each second, for this many seconds.
const RATE: u32 = 10_000;
const SECONDS: u32 = 2;
/// The longest that 99 of 100 calls beside them take, and the processor time of one event, for writer, server and all
/// clients together. Measured on two quiet cores: 1.3 ms and 22 µs as a release, 4 ms and 65 µs unoptimised.
const CALL: Duration = Duration::from_millis(if cfg!(debug_assertions) { 25 } else { 10 });
const EVENT: Duration = Duration::from_micros(if cfg!(debug_assertions) { 150 } else { 60 });
/// Events of one burst; between bursts there is a pause that makes the rate.
const BURST: u32 = 100;

/// Subscribes and never reads again.
async fn silent(served: &Served) -> async_tungstenite::WebSocketStream<UnixStream> {
    let stream = UnixStream::connect(&served.path).await.unwrap();
    let mut raw = async_tungstenite::client_async("ws://harness/", stream).await.unwrap().0;
    for (method, params) in
        [(HELLO, json!({"protocol": PROTOCOL, "client": "silent"})), (EVENTS_SUBSCRIBE, json!({}))]
    {
        let text = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        raw.send(Message::text(text)).await.unwrap();
    }
    drop(raw.next().await);
    raw
}

/// Takes an item now and then, and begins again whenever it was dropped; the answer is how often.
async fn slow(client: Client) -> u32 {
    let mut dropped = 0;
    loop {
        let mut subscription = client.subscribe(&Filter::default(), None, LONG).await.unwrap();
        loop {
            smol::Timer::after(Duration::from_millis(20)).await;
            match subscription.next().await {
                Some(Item::Event(event)) if event.instance == "last-1" => return dropped,
                Some(Item::Snapshot { entries, .. }) if entries.iter().any(|e| e.instance == "last-1") => {
                    return dropped;
                }
                Some(Item::Dropped { .. }) | None => break,
                Some(_) => {}
            }
        }
        dropped += 1;
    }
}

/// Sees every event once and in order, and resumes where it was dropped; the answer: events seen, times dropped.
async fn quick(client: Client) -> (u32, u32) {
    let (mut seen, mut dropped, mut last) = (0, 0, None);
    loop {
        let mut subscription = client.subscribe(&Filter::default(), last, LONG).await.unwrap();
        loop {
            match subscription.next().await.expect("the connection is there") {
                Item::Snapshot { revision, .. } => {
                    assert_eq!(last, None, "a snapshot that wasn't asked for");
                    last = Some(revision);
                }
                Item::Event(event) => {
                    assert_eq!(
                        Some(event.revision),
                        last.map(|last| last + 1),
                        "every event, once, in order"
                    );
                    last = Some(event.revision);
                    if event.instance == "last-1" {
                        return (seen, dropped);
                    }
                    seen += 1;
                }
                Item::Dropped { .. } => break,
            }
        }
        dropped += 1;
    }
}

/// Publishes at [`RATE`]; how long that took, with and without what others had the processors.
async fn publish(registry: &Registry) -> (Duration, Duration) {
    let (begun, watch) = (Instant::now(), Stopwatch::start());
    for n in 0..RATE * SECONDS {
        if n % BURST == 0 {
            let due = begun + Duration::from_secs(1) * (n / BURST) / (RATE / BURST);
            smol::Timer::at(due).await;
        }
        let mut entry = entry(&format!("web-{}", n % 200 + 1));
        entry.restarts = n + 1;
        registry.put(entry).forget();
    }
    (begun.elapsed(), watch.elapsed())
}

mod heavy {
    use super::*;

    #[test]
    fn ten_thousand_events_a_second_delay_nobody_beside_slow_and_silent_subscribers() {
        let folder = tempfile::tempdir().unwrap();
        // Who falls behind on a busy machine resumes: nothing of this run is forgotten meanwhile.
        let remembering = Options { history: 50_000, ..options() };
        block_on(soon("it", async {
            let served = Served::start(folder.path(), in_memory(remembering).await, Limits::default());
            let silent = silent(&served).await;
            let options = ClientOptions { queue: 64, ..ClientOptions::default() };
            let crawling =
                Client::connect_unix_on(&served.path, &options, &crate::support::OnSmol).await.unwrap();
            let crawling = smol::spawn(slow(crawling));
            let watching = smol::spawn(quick(served.client().await));
            while served.registry.subscribers() < 3 {
                smol::Timer::after(Duration::from_millis(1)).await;
            }
            let caller = served.client().await;
            let (stop, stopped) = async_channel::bounded::<()>(1);
            let calls = smol::spawn(async move {
                let mut times = Vec::new();
                while !stopped.is_closed() {
                    let watch = Stopwatch::start();
                    caller.call::<_, Value>("test.echo", &json!({"a": 1}), LONG).await.unwrap();
                    times.push(watch.elapsed());
                    smol::Timer::after(Duration::from_millis(1)).await;
                }
                times
            });
            let used = processor_time();
            let (wall, took) = publish(&served.registry).await;
            drop(stop);
            served.registry.put(entry("last-1")).forget();
            let mut times = calls.await;
            times.sort();
            let (count, (seen, resumed)) = (times.len(), watching.await);
            let each = (processor_time() - used) / (RATE * SECONDS);
            let (median, p99, worst) = (times[count / 2], times[count * 99 / 100], times[count - 1]);
            println!(
                "{} events in {wall:?}, {each:?} of processor time each; {count} calls beside them: median {median:?}, \
             p99 {p99:?}, longest {worst:?}; the quick subscriber resumed {resumed} times",
                RATE * SECONDS
            );
            assert_eq!(seen, RATE * SECONDS, "the quick one saw all of them");
            let planned = Duration::from_secs(SECONDS.into());
            assert!(took < planned * 11 / 10, "the writer was held up: {took:?}");
            assert!(count >= 50, "only {count} calls were answered");
            assert!(p99 < CALL, "calls were delayed: p99 {p99:?}");
            assert!(each < EVENT, "an event costs {each:?} of processor time");
            let dropped = crawling.await;
            println!("the slow one was dropped {dropped} times");
            assert!(dropped > 0, "it was too slow to see everything");
            drop(silent);
        }));
    }
}

//! Bulk data beside calls.

use crate::support::{LONG, OnSmol, OnTokio, Served, Stopwatch, in_memory, options, soon};
use crate::tls::Secured;
use async_net::unix::UnixStream;
use async_tungstenite::tungstenite::Message;
use futures_lite::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use service_registry::client::{Client, ClientError};
use service_registry::server::{Limits, Spawner};
use service_registry::wire::frame::{Frame, Kind, PAYLOAD, WINDOW};
use service_registry::wire::{PROTOCOL, Scope, code};
use smol::block_on;
use std::sync::Arc;
use std::time::Duration;

async fn upload(client: &Client, params: &Value, bytes: &[u8]) -> Result<Value, ClientError> {
    let (answer, mut stream) = client.open_stream::<_, Value>("test.upload", params, LONG).await?;
    assert_eq!(answer["note"], "go on");
    stream.send(bytes).await?;
    stream.finish(LONG).await
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

#[test]
fn bytes_arrive_whole_and_calls_go_on_beside_them_on_both_runtimes() {
    let tokio = tokio::runtime::Runtime::new().unwrap();
    for spawner in [Arc::new(OnSmol) as Spawner, Arc::new(OnTokio(tokio.handle().clone()))] {
        let folder = tempfile::tempdir().unwrap();
        block_on(soon("it", async {
            let served =
                Served::start_on(folder.path(), in_memory(options()).await, Limits::default(), spawner);
            let secured = Secured::start(folder.path(), Limits::default()).await;
            let over_tls = secured.client(&secured.token("t", Scope::Operate, None)).await;
            for client in [served.client().await, over_tls] {
                for count in [0, 1, PAYLOAD, PAYLOAD + 1, 12 * WINDOW as usize] {
                    let sent = bytes(count);
                    let sum: u64 = sent.iter().map(|byte| u64::from(*byte)).sum();
                    let received = upload(&client, &json!({}), &sent).await.unwrap();
                    assert_eq!(received, json!({"count": count, "sum": sum}));
                }
                // two at once, and calls that don't wait for them
                let large = bytes(8 * WINDOW as usize);
                let plain = json!({});
                let (one, other) = (upload(&client, &plain, &large), upload(&client, &plain, &large));
                let both = async { futures_util::future::try_join(one, other).await.map(|_| ()).unwrap() };
                let calls = async {
                    loop {
                        let watch = Stopwatch::start();
                        client.call::<_, Value>("test.echo", &json!({}), LONG).await.unwrap();
                        assert!(watch.elapsed() < Duration::from_millis(200), "{:?}", watch.elapsed());
                    }
                };
                both.or(calls).await;
            }
        }));
    }
}

#[test]
fn a_sender_waits_for_the_receiver_and_hears_when_it_gives_up() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let served = Served::start(folder.path(), in_memory(options()).await, Limits::default());
        let client = served.client().await;
        let slow = json!({"pause_ms": 300});
        let (_, mut stream) = client.open_stream::<_, Value>("test.upload", &slow, LONG).await.unwrap();
        stream.send(&bytes(WINDOW as usize)).await.unwrap();
        let begun = std::time::Instant::now();
        stream.send(b"x").await.unwrap();
        assert!(begun.elapsed() > Duration::from_millis(100), "more than the window was sent");
        let end: Value = stream.finish(LONG).await.unwrap();
        assert_eq!(end["count"], WINDOW + 1);

        let failing = upload(&client, &json!({"fail_after": 10}), &bytes(4 * WINDOW as usize)).await;
        assert_eq!(failing.unwrap_err().code(), Some(-32050));
        // a call that is refused after all leaves no stream behind, nor does one that the sender drops
        for _ in 0..20 {
            let refused = upload(&client, &json!({"refuse": true}), b"").await.unwrap_err();
            assert_eq!(refused.code(), Some(-32051));
            drop(client.open_stream::<_, Value>("test.upload", &json!({}), LONG).await.unwrap());
            while let Err(error) = upload(&client, &json!({}), b"x").await {
                assert_eq!(error.code(), Some(code::TOO_MANY_STREAMS));
            }
        }
        let mut open = Vec::new();
        let full = loop {
            match client.open_stream::<_, Value>("test.upload", &json!({}), LONG).await {
                Ok((_, stream)) => open.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!((full.code(), open.len()), (Some(code::TOO_MANY_STREAMS), 4));
        // the end of the connection is the end of its streams
        served.server.shutdown(Duration::from_millis(100)).await;
        assert!(matches!(open.remove(0).finish::<Value>(LONG).await, Err(ClientError::Closed { .. })));
    }));
}

#[test]
fn who_breaks_the_rules_of_a_stream_loses_it_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let served = Served::start(folder.path(), in_memory(options()).await, Limits::default());
        let stream = UnixStream::connect(&served.path).await.unwrap();
        let (mut raw, _) = async_tungstenite::client_async("ws://harness/", stream).await.unwrap();
        let hello = json!({"protocol": PROTOCOL, "client": "raw"});
        for (id, method, params) in [(1, "hello", hello), (2, "test.upload", json!({"pause_ms": 50}))] {
            let text = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
            raw.send(Message::text(text)).await.unwrap();
            let Some(Ok(Message::Text(answer))) = raw.next().await else { panic!("no answer") };
            assert!(answer.contains("\"result\""), "{answer}");
        }
        // all that is allowed, and a byte more
        let full = vec![0; PAYLOAD];
        for _ in 0..WINDOW as usize / PAYLOAD {
            let frame = Frame { stream: 1, kind: Kind::Data, payload: &full }.write();
            raw.send(Message::binary(frame)).await.unwrap();
        }
        let frame = Frame { stream: 1, kind: Kind::Data, payload: b"x" }.write();
        raw.send(Message::binary(frame.clone())).await.unwrap();
        let error = loop {
            let Some(Ok(Message::Binary(message))) = raw.next().await else { panic!("no end") };
            let frame = Frame::parse(&message).unwrap();
            if frame.kind == Kind::Error {
                break serde_json::from_slice::<Value>(frame.payload).unwrap();
            }
        };
        assert_eq!(error["code"], code::STREAM_BROKEN);
        // what was on its way is no mistake; a stream that never was, an unknown kind and too much in one message are
        raw.send(Message::binary(frame)).await.unwrap();
        for junk in [vec![0, 0, 0, 9, 0], vec![0, 0, 0, 1, 99], vec![0; PAYLOAD + 6], vec![]] {
            raw.send(Message::binary(junk)).await.unwrap();
            let Some(Ok(Message::Text(answer))) = raw.next().await else { panic!("no answer") };
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(answer["error"]["code"], code::INVALID_REQUEST, "{answer}");
        }
        let echo = json!({"jsonrpc": "2.0", "id": 3, "method": "test.echo"}).to_string();
        raw.send(Message::text(echo)).await.unwrap();
        let Some(Ok(Message::Text(answer))) = raw.next().await else { panic!("no answer") };
        assert!(answer.contains("\"result\""), "{answer}");
    }));
}

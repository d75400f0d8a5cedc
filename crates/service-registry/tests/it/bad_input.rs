//! What strangers send.

use crate::support::{LONG, Served, Stopwatch, in_memory, options, soon};
use async_net::unix::UnixStream;
use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use async_tungstenite::tungstenite::{Bytes, Message};
use futures_lite::io::{AsyncReadExt as _, AsyncWriteExt as _};
use futures_lite::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use service_registry::client::{ClientOptions, call_ungreeted};
use service_registry::server::Limits;
use service_registry::wire::{PROTOCOL, code};
use smol::block_on;
use std::time::Duration;

type Raw = WebSocketStream<UnixStream>;

async fn raw(served: &Served) -> Raw {
    let stream = UnixStream::connect(&served.path).await.unwrap();
    async_tungstenite::client_async("ws://harness/", stream).await.unwrap().0
}

async fn answer(raw: &mut Raw) -> Value {
    loop {
        match raw.next().await.expect("closed").unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn ask(raw: &mut Raw, text: &str) -> Value {
    raw.send(Message::text(text)).await.unwrap();
    answer(raw).await
}

async fn greeted(served: &Served) -> Raw {
    let mut raw = raw(served).await;
    hello(&mut raw).await;
    raw
}

async fn hello(raw: &mut Raw) {
    let hello =
        json!({"jsonrpc":"2.0","id":"h","method":"hello","params":{"protocol":PROTOCOL,"client":"raw"}});
    let answer = ask(raw, &hello.to_string()).await;
    assert_eq!(answer["result"]["protocol"], PROTOCOL);
}

/// The server still answers somebody else.
async fn is_well(served: &Served) {
    let client = served.client().await;
    client.call::<_, Value>("test.echo", &json!({}), LONG).await.unwrap();
}

fn short() -> Limits {
    Limits {
        message: 100_000,
        handshake: Duration::from_millis(200),
        heartbeat: Duration::from_millis(50),
        ..Limits::default()
    }
}

#[test]
fn bad_requests_are_answered_and_the_connection_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let served = Served::start(folder.path(), in_memory(options()).await, Limits::default());
        let mut raw = greeted(&served).await;
        let deep = "[".repeat(50_000);
        for (text, id, code) in [
            ("", Value::Null, code::PARSE_ERROR),
            ("junk", Value::Null, code::PARSE_ERROR),
            (deep.as_str(), Value::Null, code::PARSE_ERROR),
            ("[]", Value::Null, code::INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1}"#, json!(1), code::INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"method":"nope"}"#, json!(1), code::METHOD_NOT_FOUND),
            (r#"{"jsonrpc":"2.0","id":1,"method":"registry.get"}"#, json!(1), code::INVALID_PARAMS),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"registry.get","params":{"instance":7}}"#,
                json!(1),
                code::INVALID_PARAMS,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"registry.get","params":["web-1"]}"#,
                json!(1),
                code::INVALID_PARAMS,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"events.subscribe","params":{"since":-1}}"#,
                json!(1),
                code::INVALID_PARAMS,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"events.unsubscribe","params":{"subscription":1}}"#,
                json!(1),
                code::NOT_FOUND,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"registry.deregister","params":{"instance":"../x"}}"#,
                json!(1),
                code::INVALID_PARAMS,
            ),
        ] {
            let answer = ask(&mut raw, text).await;
            assert_eq!(
                (&answer["id"], &answer["error"]["code"]),
                (&id, &json!(code)),
                "{text:.80}: {answer}"
            );
        }
        raw.send(Message::Binary(Bytes::from_static(b"\0\0\0\x01"))).await.unwrap();
        assert_eq!(answer(&mut raw).await["error"]["code"], code::INVALID_REQUEST);
        // a notification is never answered: the next answer is the echo's
        raw.send(Message::text(r#"{"jsonrpc":"2.0","method":"test.echo"}"#)).await.unwrap();
        let echo = ask(&mut raw, r#"{"jsonrpc":"2.0","id":9007199254740993,"method":"test.echo"}"#).await;
        assert_eq!(echo["id"], 9_007_199_254_740_993_i64);
    }));
}

#[test]
fn hello_must_come_first_in_time_and_with_a_common_protocol() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let served = Served::start(folder.path(), in_memory(options()).await, short());
        let mut one = raw(&served).await;
        let early = ask(&mut one, r#"{"jsonrpc":"2.0","id":1,"method":"registry.list"}"#).await;
        assert_eq!(early["error"]["code"], code::HELLO_REQUIRED);
        let hello = json!({"jsonrpc":"2.0","id":2,"method":"hello","params":{"protocol":PROTOCOL + 1,"client":"new"}});
        let answer = ask(&mut one, &hello.to_string()).await;
        assert_eq!(answer["error"]["code"], code::PROTOCOL_MISMATCH);
        assert!(answer["error"]["message"].as_str().unwrap().ends_with("use a newer server"), "{answer}");
        // what both have ever meant by it is done even so
        let who = ask(&mut one, r#"{"jsonrpc":"2.0","id":3,"method":"test.who"}"#).await;
        assert_eq!(who["result"]["client"], "");
        let options = ClientOptions::default();
        let who: Value = call_ungreeted(&served.path, &options, "test.who", &json!({})).await.unwrap();
        assert_eq!(who["client"], "");
        let other = call_ungreeted::<_, Value>(&served.path, &options, "test.echo", &json!({})).await;
        assert_eq!(other.unwrap_err().code(), Some(code::HELLO_REQUIRED));
        // a newer client that still speaks the server's protocol is welcome
        let mut newer = raw(&served).await;
        let hello = json!({"jsonrpc":"2.0","id":4,"method":"hello","params":{"protocol":PROTOCOL + 1,"oldest":PROTOCOL,"client":"new"}});
        assert_eq!(ask(&mut newer, &hello.to_string()).await["result"]["protocol"], PROTOCOL);
        // it never says hello: the connection ends by itself
        while let Some(Ok(_)) = one.next().await {}
        is_well(&served).await;
    }));
}

#[test]
fn junk_half_frames_and_silence_end_a_connection_and_disturb_nobody() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let served = Served::start(folder.path(), in_memory(options()).await, short());
        for junk in
            [&b"\0\xff\xfe junk"[..], b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b""]
        {
            let mut stream = UnixStream::connect(&served.path).await.unwrap();
            stream.write_all(junk).await.unwrap();
            // nothing more is said; the server must hang up
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
        }
        // a frame that claims 60,000 bytes and brings three, after a proper hello
        let raw = greeted(&served).await;
        let mut stream = raw.into_inner();
        stream.write_all(&[0x81, 0xfe, 0xea, 0x60, 1, 2, 3, 4, b'a', b'b', b'c']).await.unwrap();
        is_well(&served).await;
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest).await);
        // not masked, reserved bits, text that is no UTF-8
        for frame in [
            &[0x81_u8, 0x02, b'{', b'}'][..],
            &[0xf1, 0x80, 0, 0, 0, 0],
            &[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe],
        ] {
            let mut stream = greeted(&served).await.into_inner();
            stream.write_all(frame).await.unwrap();
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
        }
        while served.server.connections() > 0 {
            smol::Timer::after(Duration::from_millis(1)).await;
        }
        is_well(&served).await;
    }));
}

#[test]
fn a_message_that_is_too_large_is_answered_and_ends_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let served = Served::start(folder.path(), in_memory(options()).await, short());
        let mut raw = greeted(&served).await;
        drop(raw.send(Message::text("x".repeat(1_000_000))).await);
        let refused = answer(&mut raw).await;
        assert_eq!(
            (&refused["error"]["code"], &refused["error"]["data"]["limit"]),
            (&json!(code::TOO_LARGE), &json!(100_000))
        );
        let Some(Ok(Message::Close(Some(frame)))) = raw.next().await else { panic!("not closed") };
        assert_eq!(u16::from(frame.code), 1009);
        // our own client knows before it sends
        let client = served.client().await;
        let error =
            client.call::<_, Value>("test.echo", &json!({"x": "x".repeat(200_000)}), LONG).await.unwrap_err();
        assert!(error.to_string().contains("takes 100000"), "{error}");
        client.call::<_, Value>("test.echo", &json!({}), LONG).await.unwrap();
    }));
}

#[test]
fn a_message_of_64_mib_is_taken_and_one_byte_more_is_refused() {
    const MOST: usize = 64 << 20;
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let limits = Limits { message: MOST, write: LONG, heartbeat: LONG, ..Limits::default() };
        let served = Served::start(folder.path(), in_memory(options()).await, limits);
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let open = async || {
            let stream = UnixStream::connect(&served.path).await.unwrap();
            let mut raw = async_tungstenite::client_async_with_config("ws://harness/", stream, Some(config))
                .await
                .unwrap()
                .0;
            hello(&mut raw).await;
            raw
        };
        let request = |size: usize| {
            let (head, tail) = (r#"{"jsonrpc":"2.0","id":1,"method":"test.size","params":{"x":""#, r#""}}"#);
            let text = format!("{head}{}{tail}", "x".repeat(size - head.len() - tail.len()));
            assert_eq!(text.len(), size);
            Message::text(text)
        };
        let mut raw = open().await;
        raw.send(request(MOST)).await.unwrap();
        assert!(answer(&mut raw).await["result"]["size"].as_u64().unwrap() > 60 << 20);
        drop(raw.send(request(MOST + 1)).await);
        let refused = answer(&mut raw).await;
        assert_eq!(
            (&refused["error"]["code"], &refused["error"]["data"]["limit"]),
            (&json!(code::TOO_LARGE), &json!(MOST))
        );
        // in pieces, none of which is too large by itself
        let mut stream = open().await.into_inner();
        let piece = vec![b'x'; 1 << 20];
        for number in 0..=MOST >> 20 {
            let kind = if number == 0 { 0x01 } else { 0x00 };
            let mut frame = vec![kind, 0xff];
            frame.extend((piece.len() as u64).to_be_bytes());
            // a mask of zeros leaves the bytes as they are
            frame.extend([0; 4]);
            frame.extend(&piece);
            if stream.write_all(&frame).await.is_err() {
                break;
            }
        }
        let mut raw = WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await;
        assert_eq!(answer(&mut raw).await["error"]["code"], code::TOO_LARGE);
        is_well(&served).await;
    }));
}

#[test]
fn requests_with_the_same_id_are_each_answered() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let served = Served::start(folder.path(), in_memory(options()).await, Limits::default());
        let mut raw = greeted(&served).await;
        // one that never ends is open under the id all the while
        raw.send(Message::text(r#"{"jsonrpc":"2.0","id":7,"method":"test.hang"}"#)).await.unwrap();
        for x in 0..3 {
            let text = json!({"jsonrpc":"2.0","id":7,"method":"test.echo","params":{"x":x}}).to_string();
            raw.send(Message::text(text)).await.unwrap();
        }
        raw.send(Message::text(r#"{"jsonrpc":"2.0","id":7,"method":"nope"}"#)).await.unwrap();
        let (mut echoed, mut refused) = (Vec::new(), 0);
        for _ in 0..4 {
            let answer = answer(&mut raw).await;
            assert_eq!(answer["id"], 7, "{answer}");
            match answer["result"]["x"].as_u64() {
                Some(x) => echoed.push(x),
                None => refused += u32::from(answer["error"]["code"] == code::METHOD_NOT_FOUND),
            }
        }
        echoed.sort_unstable();
        assert_eq!((echoed, refused), (vec![0, 1, 2], 1));
        // also one that was answered: the id is free again
        assert_eq!(ask(&mut raw, r#"{"jsonrpc":"2.0","id":7,"method":"test.echo"}"#).await["id"], 7);
    }));
}

#[test]
fn web_pages_are_refused_by_their_origin() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let served = Served::start(folder.path(), in_memory(options()).await, Limits::default());
        let mut stream = UnixStream::connect(&served.path).await.unwrap();
        let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: http://evil.example\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 403"), "{reply}");
    }));
}

#[test]
fn a_client_that_neither_reads_nor_answers_pings_is_gone_in_time_and_delays_nobody() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let limits = Limits {
            handshake: LONG,
            heartbeat: Duration::from_millis(100),
            write: Duration::from_millis(300),
            ..short()
        };
        let served = Served::start(folder.path(), in_memory(options()).await, limits);
        // it asks for a lot and takes nothing
        let mut greedy = greeted(&served).await;
        let echo = json!({"jsonrpc":"2.0","id":1,"method":"test.echo","params":{"x":"x".repeat(50_000)}})
            .to_string();
        let flood = async { while greedy.send(Message::text(&echo)).await.is_ok() {} };
        let others = async {
            let client = served.client().await;
            for _ in 0..50 {
                let watch = Stopwatch::start();
                client.call::<_, Value>("test.echo", &json!({}), LONG).await.unwrap();
                let took = watch.elapsed();
                assert!(took < Duration::from_millis(100), "delayed by a greedy client: {took:?}");
            }
            while served.server.connections() > 1 {
                smol::Timer::after(Duration::from_millis(5)).await;
            }
            std::future::pending::<()>().await;
        };
        flood.or(others).await;
        // it says nothing at all
        let _silent = greeted(&served).await;
        while served.server.connections() > 0 {
            smol::Timer::after(Duration::from_millis(5)).await;
        }
    }));
}

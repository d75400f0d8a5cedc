//! What streams do.

use crate::world::{BOUND, Node, echo, pair, pattern, star, within};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunnel::Error;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mebibytes_come_back_and_each_half_closes_by_itself() {
    let (a, b) = pair().await;
    let stream = a.open(&b).await;
    let (mut read, mut write) = tokio::io::split(stream);
    let sent = pattern(64 << 20);
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut received = Vec::with_capacity(expected.len());
    let reading = read.read_to_end(&mut received);
    tokio::time::timeout(Duration::from_secs(50), reading).await.expect("it takes too long").unwrap();
    assert!(received == expected, "{} bytes came back, not the same ones", received.len());
    let mut write = writing.await.unwrap();
    assert!(write.write_all(b"more").await.is_err(), "a half that was closed takes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_byte_comes_back_soon_after_both_ends_are_told_of_each_other() {
    let mut a = Node::start(1, "a").await;
    let mut b = Node::start(2, "b").await;
    a.knows(&b, true);
    b.knows(&a, true);
    let begun = Instant::now();
    a.set().await;
    b.set().await;
    // Probe, handshake, connection, and the byte there and back.
    echo(&mut a.open(&b).await, b"1").await;
    let took = begun.elapsed();
    eprintln!("the first byte across a new tunnel was back after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accepting_end_may_close_first() {
    let (mut a, b) = pair().await;
    a.stop_echo().await;
    let (opened, accepted) = tokio::join!(b.open(&a), within(a.engine.accept()));
    let (from, mut there) = accepted.unwrap();
    assert_eq!(from, "b");
    let mut here = opened;
    there.write_all(b"bye").await.unwrap();
    there.shutdown().await.unwrap();
    let mut text = Vec::new();
    within(here.read_to_end(&mut text)).await.unwrap();
    assert_eq!(text, b"bye");
    here.write_all(b"still here").await.unwrap();
    drop(here);
    let mut text = Vec::new();
    within(there.read_to_end(&mut text)).await.unwrap();
    assert_eq!(text, b"still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dropped_unread_is_reset() {
    let (mut a, b) = pair().await;
    a.stop_echo().await;
    let (mut here, accepted) = tokio::join!(b.open(&a), within(a.engine.accept()));
    let (_, mut there) = accepted.unwrap();
    here.write_all(b"who reads this?").await.unwrap();
    let mut first = [0; 1];
    within(there.read_exact(&mut first)).await.unwrap();
    drop(there);
    let error = within(here.read_to_end(&mut Vec::new())).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_streams_at_once() {
    let (a, b) = pair().await;
    let mut opening = tokio::task::JoinSet::new();
    for n in 0u8..200 {
        let (engine, name) = (std::sync::Arc::clone(&a.engine), b.name.clone());
        opening.spawn(async move {
            let mut stream = engine.open(&name, BOUND).await.unwrap();
            echo(&mut stream, &vec![n; 20_000]).await;
            stream
        });
    }
    assert_eq!(within(opening.join_all()).await.len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hub_relays_for_those_who_do_not_reach_each_other() {
    let (_hub, nodes) = star(2, false).await;
    let mut stream = nodes[0].open(&nodes[1]).await;
    echo(&mut stream, &pattern(1 << 20)).await;
    let tunnel = nodes[0].tunnel(&nodes[1]).await;
    assert!(tunnel.through_hub && tunnel.endpoint.is_none(), "{tunnel:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_go_straight_once_the_other_one_has_answered_and_the_stream_goes_on() {
    let (_hub, nodes) = star(2, true).await;
    assert!(nodes[0].tunnel(&nodes[1]).await.endpoint.is_none(), "there is no tunnel before one is wanted");
    let mut stream = nodes[0].open(&nodes[1]).await;
    echo(&mut stream, b"first").await;
    let there = nodes[0].until(&nodes[1], |tunnel| !tunnel.through_hub).await;
    assert_eq!(there.endpoint, Some(nodes[1].place()));
    echo(&mut stream, &pattern(1 << 20)).await;
    let back = nodes[1].until(&nodes[0], |tunnel| !tunnel.through_hub).await;
    assert_eq!(back.endpoint.map(|place| place.port()), Some(nodes[0].port));
    assert!(back.rx > 1 << 20, "{back:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_there_is_not_waited_for_longer_than_asked() {
    let (a, b) = pair().await;
    assert!(matches!(a.engine.open("c", BOUND).await, Err(Error::NoPeer(name)) if name == "c"));
    b.end().await;
    let begun = std::time::Instant::now();
    let error = a.engine.open("b", Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, Error::NoWay { .. } | Error::Timeout { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

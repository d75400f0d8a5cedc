//! Keys that change, nodes that go and come, and those who don't belong.

use crate::world::{BOUND, Node, echo, longest_round_trip, pair, star, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunnel::Error;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_taken_out_is_cut_off_at_once() {
    let (mut a, b) = pair().await;
    let mut stream = a.open(&b).await;
    echo(&mut stream, b"hello").await;
    a.config.peers.clear();
    let begun = Instant::now();
    a.set().await;
    let error = within(stream.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    assert!(stream.write_all(b"x").await.is_err());
    assert!(matches!(a.engine.open("b", BOUND).await, Err(Error::NoPeer(_))));
    // It may call as it likes.
    assert!(b.engine.open("a", Duration::from_secs(1)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_hub_relays_again_within_a_second() {
    let (hub, nodes) = star(2, false).await;
    let mut stream = nodes[0].open(&nodes[1]).await;
    echo(&mut stream, b"before").await;
    let begun = Instant::now();
    let hub = hub.restart().await;
    let started = begun.elapsed();
    echo(&mut stream, b"after").await;
    let gap = begun.elapsed();
    eprintln!("the hub was back after {started:?}, the stream after {gap:?}");
    assert!(gap - started < Duration::from_secs(1), "{started:?} {gap:?}");
    let mut stream = nodes[1].open(&hub).await;
    echo(&mut stream, b"with the hub itself").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_keys_on_both_ends_interrupt_a_stream_for_less_than_two_tenths_of_a_second() {
    let (mut a, mut b) = pair().await;
    let mut stream = a.open(&b).await;
    echo(&mut stream, b"before").await;
    let done = Arc::new(AtomicBool::new(false));
    let running = Arc::clone(&done);
    let busy = tokio::spawn(async move { longest_round_trip(&mut stream, &running).await });
    for epoch in 1..=3 {
        (a.config.key_epoch, b.config.key_epoch) = (epoch, epoch);
        a.set().await;
        b.set().await;
        let known = (a.key.clone(), b.key.clone());
        a.read().await;
        b.read().await;
        assert!(known.0 != a.key && known.1 != b.key);
        a.knows(&b, true);
        b.knows(&a, true);
        a.set().await;
        b.set().await;
        // Each round ends when the new keys carry something.
        let mut other = a.open(&b).await;
        echo(&mut other, b"after").await;
    }
    done.store(true, Ordering::Relaxed);
    let longest = within(busy).await.unwrap();
    eprintln!("the longest round trip took {longest:?}");
    assert!(longest < Duration::from_millis(200), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_with_another_key_is_refused() {
    let (mut a, b) = pair().await;
    let stranger = Node::start(9, "stranger").await;
    a.config.peers.get_mut("b").unwrap().public_key.clone_from(&stranger.key);
    a.set().await;
    assert!(a.engine.open("b", Duration::from_secs(3)).await.is_err());
    assert!(b.engine.open("a", Duration::from_secs(3)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_name_the_node_and_are_for_those_who_know_the_key() {
    let (a, b) = pair().await;
    let pong = a.engine.probe(b.place(), BOUND).await.unwrap();
    assert_eq!((pong.name.as_str(), pong.seen_as), ("b", a.place()));
    let mut stranger = Node::start(9, "stranger").await;
    stranger.config.probe_key = [8; 32];
    stranger.set().await;
    let error = stranger.engine.probe(b.place(), Duration::from_millis(500)).await.unwrap_err();
    assert!(matches!(error, Error::NoAnswer(_)), "{error}");
    // One of another name at an address that was given for b is not b.
    let mut wrong = a;
    wrong.config.peers.get_mut("b").unwrap().candidates = vec![wrong.place()];
    wrong.config.peers.get_mut("b").unwrap().address = [10, 210, 3, 1].into();
    wrong.set().await;
    assert!(wrong.engine.open("b", Duration::from_secs(1)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_is_left_for_the_hub_and_taken_again_when_it_is_back() {
    let (_hub, mut nodes) = star(2, true).await;
    let other = nodes.pop().unwrap();
    let node = nodes.pop().unwrap();
    let mut stream = node.open(&other).await;
    node.until(&other, |tunnel| !tunnel.through_hub).await;
    echo(&mut stream, b"straight").await;
    let other = other.restart().await;
    // The stream's other end is gone with the process. A new one comes about within the time of a probe or two.
    drop(stream);
    let mut stream = node.open(&other).await;
    echo(&mut stream, b"again").await;
    node.until(&other, |tunnel| !tunnel.through_hub).await;
}

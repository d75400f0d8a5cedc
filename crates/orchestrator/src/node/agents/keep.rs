//! Makes the way to an agent, hears what comes over it, and makes it again.

use super::again;
use super::clock::Measured;
use super::link::{Inner, Link, LinkEvent, LinkFact, lock, since_boot};
use super::wire::{self, Stamp};
use super::{ConnectFailed, Connection};
use crate::node::chain;
use crate::supervisor::Event;
use async_io::Timer;
use futures_lite::future;
use futures_util::future::{BoxFuture, select_all};
use futures_util::task::SpawnExt;
use jiff::Timestamp;
use service_registry::client::{Client, ClientError, ClientOptions, Subscription};
use service_registry::registry::{DropReason, Filter, Item};
use service_registry::wire::{ListResult, REGISTRY_LIST, code};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often an agent is asked whether it is there.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// The time that an answer to that may take. A link that breaks is noticed within three heartbeats.
const SILENCE: Duration = Duration::from_secs(4);
/// The time that any other answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// Tries to connect that may be under way at once.
const TRIES: usize = 4;

/// Makes the way, stays with it, and makes it again.
pub(super) async fn keep(inner: Arc<Inner>, link: Arc<Link>) {
    let mut failures = 0;
    let mut tried = None;
    let mut told = String::new();
    loop {
        let outcome = connected(&inner, &link).await;
        let (why, passing) = match outcome {
            Ok(Up { client, subscription, near, far }) => {
                failures = 0;
                told.clear();
                link.is_up(&client);
                inner.tell(&link.node, LinkFact::Up { near, far }).await;
                let why = stay(&inner, &link, &client, subscription).await;
                link.is_down();
                (why, true)
            }
            Err((why, passing)) => (why, passing),
        };
        failures += 1;
        let (heard, last) = link.last_heard();
        let since = heard.unwrap_or_else(|| *tried.get_or_insert_with(Timestamp::now));
        if why != told {
            tracing::warn!(node = link.node, why, "can't be reached");
            told.clone_from(&why);
            inner.tell(&link.node, LinkFact::Down { since, last, why, heard: heard.is_some() }).await;
        }
        if inner.events.is_closed() {
            return;
        }
        let waited = async {
            Timer::after(again::pause(failures, link.away(), passing)).await;
        };
        future::or(waited, link.urged()).await;
    }
}

struct Up {
    client: Client,
    subscription: Subscription,
    near: Option<IpAddr>,
    far: Option<IpAddr>,
}

/// Connects and subscribes. The error is why not, and whether it may pass by itself.
async fn connected(inner: &Arc<Inner>, link: &Link) -> Result<Up, (String, bool)> {
    let nodes = lock(&inner.nodes).clone();
    let name = link.node.clone();
    let progress = |message: String| {
        let fact = LinkFact::Progress(message);
        // Full: there is more important news.
        let _ = inner.events.try_send(Event::Link(LinkEvent { node: name.clone(), fact }));
    };
    let connect = || inner.connector.connect(&nodes, &link.node, &progress);
    let was_heard = lock(&link.state).heard.is_some();
    let way = if was_heard { overlapping(connect, link).await } else { connect().await };
    let Connection { stream, near, far } = way.map_err(|failed| {
        (format!("{}: {} ({})", failed.step, failed.message, failed.hint), failed.passing)
    })?;
    let broken = |error: ClientError| (chain(&error), true);
    let options = ClientOptions { name: "harness daemon".into(), ..ClientOptions::default() };
    let (client, driver) = Client::connect(stream, &options).await.map_err(broken)?;
    inner.spawner.spawn(driver).map_err(|_| ("the daemon is ending".to_owned(), true))?;
    let claimed: Result<serde_json::Value, ClientError> =
        client.call(wire::CLAIM, &inner.owner, ANSWER).await;
    claimed.map_err(|error| match error.rpc() {
        // Another daemon's: it needs somebody to do something.
        Some(refused) => (refused.message.clone(), false),
        None => (chain(&error), true),
    })?;
    withdraw_given_up(inner, link, &client).await.map_err(broken)?;
    let subscription = subscribe(link, &client).await.map_err(broken)?;
    Ok(Up { client, subscription, near, far })
}

/// Tries of which the first to arrive counts; another begins every now and then while the ones before hang. What is sent to a
/// machine that is cut off is sent again ever more seldom: a try that has hung for long doesn't notice soon that the way is
/// there again, a fresh one does.
async fn overlapping<'a>(
    connect: impl Fn() -> BoxFuture<'a, Result<Connection, ConnectFailed>>,
    link: &Link,
) -> Result<Connection, ConnectFailed> {
    let mut tries = vec![connect()];
    loop {
        let arrived = {
            let next = async {
                let waited = async {
                    Timer::after(again::spacing(link.away())).await;
                };
                future::or(waited, link.urged()).await;
                None
            };
            let arrived = async {
                let (way, at, _) = select_all(&mut tries).await;
                Some((way, at))
            };
            future::or(arrived, next).await
        };
        match arrived {
            Some((Err(failed), at)) => {
                drop(tries.remove(at));
                if tries.is_empty() {
                    return Err(failed);
                }
            }
            Some((connected, _)) => return connected,
            None => {
                if tries.len() >= TRIES {
                    // The oldest has its time: a login may be slow. Of the others the older one goes.
                    drop(tries.remove(1));
                }
                tries.push(connect());
            }
        }
    }
}

/// Before anything else is asked of it, and before it has a new lease, an agent that was lost hears what has been given to
/// others meanwhile.
async fn withdraw_given_up(inner: &Inner, link: &Link, client: &Client) -> Result<(), ClientError> {
    loop {
        let Some((instance, run)) =
            lock(&inner.given_up).get(&link.node).and_then(|runs| runs.first().cloned())
        else {
            return Ok(());
        };
        let params = wire::WithdrawParams {
            owner: inner.owner.id.clone(),
            instance: instance.clone(),
            run: run.clone(),
            force: true,
        };
        let answer: Result<serde_json::Value, ClientError> =
            client.call(wire::WITHDRAW, &params, ANSWER).await;
        match answer {
            Ok(_) => {}
            // A newer one has taken its place there. Whatever else it says, the run may still be kept.
            Err(error) if error.rpc().is_some_and(|rpc| rpc.code == wire::OUTDATED) => {}
            Err(error) => return Err(error),
        }
        if let Some(runs) = lock(&inner.given_up).get_mut(&link.node) {
            runs.retain(|(_, given_up)| *given_up != run);
        }
        inner.tell(&link.node, LinkFact::Withdrawn { instance, run }).await;
    }
}

/// Everything since what was heard last, or a snapshot and everything after it.
async fn subscribe(link: &Link, client: &Client) -> Result<Subscription, ClientError> {
    let since = lock(&link.state).revision;
    if let Some(since) = since {
        match client.subscribe(&Filter::default(), Some(since), ANSWER).await {
            Ok(subscription) => {
                // How it is now; what led there comes with the subscription.
                if !lock(&link.state).synced {
                    let now: ListResult = client.call(REGISTRY_LIST, &serde_json::json!({}), ANSWER).await?;
                    link.is_now(now.entries);
                }
                return Ok(subscription);
            }
            Err(error) if error.rpc().is_some_and(|rpc| rpc.code == code::REVISION_GONE) => {}
            Err(error) => return Err(error),
        }
    }
    client.subscribe(&Filter::default(), None, ANSWER).await
}

/// Hears what the agent tells until the link breaks. The answer: why it did.
async fn stay(inner: &Inner, link: &Link, client: &Client, mut subscription: Subscription) -> String {
    let broken = async {
        loop {
            match subscription.next().await {
                Some(Item::Snapshot { entries, revision }) => {
                    link.snapshot(entries, revision);
                    inner.tell(&link.node, LinkFact::Revision(revision)).await;
                }
                Some(Item::Event(event)) => {
                    let revision = event.revision;
                    link.changed(&event.instance, event.entry.clone(), revision);
                    inner.tell(&link.node, LinkFact::Revision(revision)).await;
                }
                Some(Item::Dropped { reason: DropReason::TooSlow, .. }) => {
                    match subscribe(link, client).await {
                        Ok(again) => subscription = again,
                        Err(error) => return chain(&error),
                    }
                }
                Some(Item::Dropped { reason, .. }) => return reason.to_string(),
                None => return "the connection was lost".to_owned(),
            }
        }
    };
    let silent = async {
        let mut clock = Measured::default();
        let mut seen: Option<Stamp> = None;
        let mut gateway: Option<Ipv4Addr> = None;
        loop {
            let (before, wall) = (Instant::now(), Timestamp::now());
            let pong: Result<wire::Pong, ClientError> =
                client.call(wire::PING, &inner.ping(seen.as_ref()), SILENCE).await;
            let pong_stamp = pong.as_ref().ok().and_then(|pong| pong.stamp.clone());
            match pong {
                Ok(pong) => {
                    lock(&link.state).heard(since_boot());
                    if let Some(new) = pong.gateway.filter(|new| gateway.replace(*new) != Some(*new)) {
                        inner.tell(&link.node, LinkFact::Gateway(new)).await;
                    }
                    if let Some((ahead_ms, uncertain_ms)) = clock.heard(wall, before.elapsed(), pong.now_ms) {
                        inner.tell(&link.node, LinkFact::Clock { ahead_ms, uncertain_ms }).await;
                    }
                }
                Err(ClientError::TimedOut { .. }) => {
                    return format!("it hasn't answered for {} s", (HEARTBEAT + SILENCE).as_secs());
                }
                Err(error) => return chain(&error),
            }
            // The first lease at once: what waits for it isn't started before.
            let first = seen.is_none();
            seen = pong_stamp;
            if !first {
                Timer::after(HEARTBEAT).await;
            }
        }
    };
    future::or(broken, silent).await
}

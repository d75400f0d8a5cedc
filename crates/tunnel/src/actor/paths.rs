//! Finding the way to each node: probes, handshakes, and what packets show.

use super::wire::{Change, Seen};
use super::{Actor, Asked, Instant, Outcome};
use crate::config::{Peer, Pong};
use crate::path::{self, Next, Path, Seen as Shown};
use crate::route::Hint;
use gotatun::x25519::PublicKey;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinSet;

/// The bound of a probe.
const PROBE: Duration = Duration::from_millis(800);
/// A node whose handshakes failed is probed again after this time.
const RETRY_SOON: Duration = Duration::from_secs(2);
/// The same after an answer that has to be confirmed.
const CONFIRM: Duration = Duration::from_millis(100);
/// The hub is asked this often whether it is there, and as whom it sees this node.
const HUB: Duration = Duration::from_secs(20);
/// Somebody wants a node for this time after it was asked for.
const WANTED: Duration = Duration::from_secs(10);
/// A way that nothing came from for this time is looked at again when it is wanted.
const COLD: Duration = Duration::from_secs(20);
/// Once packets go straight, the other end does the same within this time.
const SETTLED: Duration = Duration::from_secs(1);
/// The bound of a handshake.
const HANDSHAKE: Duration = Duration::from_millis(700);
/// Handshakes that are tried in a row.
const HANDSHAKES: u8 = 3;
/// A session lasts for this time after its handshake.
const SESSION: Duration = Duration::from_secs(180);
/// Looks without a packet from a node that answers probes, after which its session is taken for lost.
const STALLED: u32 = 4;

impl Actor {
    /// Somebody wants to talk with that node.
    pub(super) fn want(&mut self, name: &str) {
        let alone = self.is_without_alternative(name);
        let Some(other) = self.others.get_mut(name) else { return };
        other.wanted = Some(Instant::now());
        // The time after which streams are looked after begins now.
        self.tick = self.tick.min(Instant::now() + super::TICK);
        let cold = other.heard.is_none_or(|heard| heard.elapsed() > COLD);
        let due = match other.path {
            Path::Unknown => true,
            Path::Straight { .. } => cold,
            Path::Relayed { .. } => alone || other.due.is_none_or(|due| due <= Instant::now()),
        };
        if due {
            self.probe(name);
        }
    }

    /// That node didn't answer through its tunnel.
    pub(super) fn failed(&mut self, name: &str) {
        self.probe(name);
    }

    /// Somebody asked this node.
    pub(super) fn asked(&mut self, name: &str, from: SocketAddr) {
        if let Some(other) = self.others.get_mut(name) {
            other.asked_from = Some(from);
        }
    }

    /// What a packet told.
    pub(super) fn hint(&mut self, hint: Hint) {
        let (Hint::Straight(address) | Hint::Relayed(address) | Hint::Wanted(address)) = hint;
        let Some(name) = self.name_of(address) else { return };
        match hint {
            Hint::Straight(_) => {
                self.show(&name, Shown::Packet);
                if let Some(other) = self.others.get(&name) {
                    other.node.told.store(false, Relaxed);
                }
            }
            Hint::Relayed(_) => {
                self.follow(&name);
                // Who talks through the hub may be behind a NAT that lets this node's packets in once both have sent some.
                self.want(&name);
            }
            Hint::Wanted(_) => self.want(&name),
        }
    }

    fn name_of(&self, address: Ipv4Addr) -> Option<String> {
        let is_of = |peer: &Peer| peer.address == address || peer.interface == Some(address);
        let found = self.others.iter().find(|(_, other)| is_of(&other.config));
        found.map(|(name, _)| name.clone())
    }

    /// Takes what was seen of a node, and does what follows.
    fn show(&mut self, name: &str, shown: Shown) {
        let Some(other) = self.others.get_mut(name) else { return };
        let (path, next) = other.path.after(shown);
        other.path = path;
        match next {
            Next::Stay => {}
            Next::Again => other.due = Some(Instant::now() + CONFIRM),
            Next::Demote => self.demote(name),
            Next::Promote if shown == Shown::Packet => self.promote(name),
            Next::Promote => self.shake(name, 0),
        }
    }

    /// Does as a node that no longer sends straight, though it could: it knows something.
    fn follow(&mut self, name: &str) {
        let other = self.others.get(name).filter(|other| other.path.is_straight());
        if other.is_some_and(|other| !other.node.straight.load(Relaxed)) {
            self.demote(name);
        }
    }

    /// Has the packets to a node go through the hub, if there is one.
    pub(super) fn demote(&mut self, name: &str) {
        let Some(other) = self.others.get_mut(name) else { return };
        let was_straight = other.path.is_straight();
        other.path = Path::Relayed { hits: 0 };
        other.demoted = Instant::now();
        other.misses = 0;
        other.due = Some(Instant::now() + CONFIRM);
        other.node.told.store(false, Relaxed);
        other.node.settled.store(false, Relaxed);
        other.node.straight.store(false, Relaxed);
        if was_straight {
            tracing::info!("packets to {name} go through the hub, if there is one");
            self.ways.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    fn promote(&mut self, name: &str) {
        let Some(other) = self.others.get_mut(name) else { return };
        if !other.path.is_straight() {
            other.promoted = Instant::now();
            other.node.told.store(false, Relaxed);
        }
        other.path = Path::straight();
        other.stalled = 0;
        other.heard = Some(Instant::now());
        other.due = None;
        if !other.node.straight.swap(true, Relaxed) {
            tracing::info!("packets to {name} go straight");
            self.ways.send_modify(|count| *count = count.wrapping_add(1));
        }
        self.look.get_or_insert(Instant::now());
    }

    /// Asks everywhere where that node may be, at once.
    pub(super) fn probe(&mut self, name: &str) {
        let Some(other) = self.others.get_mut(name) else { return };
        if other.probing {
            return;
        }
        other.probing = true;
        other.due = None;
        let (name, key, places) = (name.to_owned(), other.key, other.places());
        let prober = Arc::clone(&self.prober);
        self.tasks.spawn(async move {
            let mut asked = JoinSet::new();
            for place in places {
                let prober = Arc::clone(&prober);
                asked.spawn(async move { (place, prober.ask(place, PROBE).await) });
            }
            let mut found = None;
            while let Some(answer) = asked.join_next().await {
                // Another node of the stack may have that address in another network.
                if let Ok((place, Ok(pong))) = answer
                    && pong.name == name
                {
                    found = Some((place, pong));
                    break;
                }
            }
            Outcome::Probed { name, key, found }
        });
    }

    /// A node has answered, or hasn't.
    pub(super) async fn probed(&mut self, name: &str, key: &PublicKey, found: Option<(SocketAddr, Pong)>) {
        let is_hub = self.hub() == Some(name);
        let alone = self.is_without_alternative(name);
        let Some(other) = self.others.get_mut(name) else { return };
        other.probing = false;
        if other.key != *key {
            return;
        }
        let Some((place, pong)) = found else {
            self.show(name, Shown::Miss);
            if let Some(other) = self.others.get_mut(name) {
                other.misses = other.misses.saturating_add(1);
                other.due.get_or_insert(Instant::now() + path::patience(other.misses, alone));
            }
            return;
        };
        other.rtt = Some(pong.rtt);
        other.misses = 0;
        let moved = other.endpoint != Some(place);
        let stalled = other.stalled >= STALLED;
        let straight = other.path.is_straight();
        self.seen_as.insert(name.to_owned(), pong.seen_as);
        if straight && !moved && !stalled {
            self.show(name, Shown::Hit);
        } else if !straight || stalled {
            other.endpoint = Some(place);
            if let Err(error) = self.wire.aim(key, place).await {
                tracing::warn!("{name}: {error}");
            }
            self.show(name, Shown::Hit);
            if straight {
                self.kick(name).await;
            }
        } else {
            self.show(name, Shown::Hit);
        }
        if is_hub && let Some(other) = self.others.get_mut(name) {
            other.due.get_or_insert(Instant::now() + HUB);
        }
    }

    /// Handshakes with that node, where it is believed to be.
    pub(super) fn shake(&mut self, name: &str, tried: u8) {
        let Some(other) = self.others.get_mut(name) else { return };
        if tried == 0 && other.shaking.is_some() {
            return;
        }
        other.shaking = Some(tried);
        let (wire, name, key) = (Arc::clone(&self.wire), name.to_owned(), other.key);
        self.tasks.spawn(async move {
            let done = wire.shake(&key, HANDSHAKE).await;
            Outcome::Shaken { name, key, done }
        });
    }

    /// A handshake is done, or isn't.
    pub(super) async fn shaken(&mut self, name: &str, key: &PublicKey, done: bool) {
        let Some(tried) =
            self.others.get_mut(name).filter(|other| other.key == *key).and_then(|o| o.shaking.take())
        else {
            return;
        };
        // Two that begin at once meet in the middle: each is done by the other's.
        let met =
            done || self.wire.look().await.get(&key.to_bytes()).is_some_and(|s| is_within(s, HANDSHAKE));
        if met {
            self.promote(name);
        } else if tried + 1 < HANDSHAKES {
            self.renew(name, tried + 1).await;
        } else {
            self.show(name, Shown::NoHandshake);
            if let Some(other) = self.others.get_mut(name) {
                other.due.get_or_insert(Instant::now() + RETRY_SOON);
            }
        }
    }

    /// Begins the tunnel anew, whatever the other end still holds for a session.
    pub(super) async fn kick(&mut self, name: &str) {
        if self.others.get(name).is_some_and(|other| other.shaking.is_none()) {
            self.renew(name, 0).await;
        }
    }

    async fn renew(&mut self, name: &str, tried: u8) {
        let seen = self.wire.look().await;
        let Some(other) = self.others.get_mut(name) else { return };
        let seen = seen.get(&other.key.to_bytes()).copied().unwrap_or_default();
        other.before = (other.before.0 + seen.rx, other.before.1 + seen.tx);
        other.endpoint = other.endpoint.or(seen.endpoint);
        other.stalled = 0;
        let key = other.key;
        let Some(spec) = self.config.as_ref().and_then(|config| self.spec(name, config)) else { return };
        let change = Change { remove: vec![key], add: vec![spec], ..Change::default() };
        if let Err(error) = self.wire.change(change).await {
            tracing::warn!("{name}: {error}");
        }
        self.shake(name, tried);
    }

    /// Takes in where others are, and that they met this node by themselves.
    pub(super) async fn look_for_handshakes(&mut self) {
        let seen = self.wire.look().await;
        let (mut met, mut moved) = (Vec::new(), false);
        for (name, other) in &mut self.others {
            let Some(seen) = seen.get(&other.key.to_bytes()) else { continue };
            let Some(handshake) = seen.handshake.filter(|age| *age < SESSION) else { continue };
            // WireGuard follows who moves: whoever waits for where it is now is told.
            moved |= seen.endpoint.is_some() && seen.endpoint != other.endpoint;
            other.endpoint = seen.endpoint.or(other.endpoint);
            if let Some(endpoint) = seen.endpoint {
                self.outlook.learn(endpoint);
            }
            if !other.path.is_straight() && handshake < other.demoted.elapsed() {
                met.push(name.clone());
            }
        }
        if moved {
            self.ways.send_modify(|count| *count = count.wrapping_add(1));
        }
        for name in met {
            // With others it is a packet that tells: it shows that the answer to the handshake came through.
            if self.is_without_alternative(&name) {
                self.promote(&name);
            }
        }
        self.remember().await;
    }

    /// Keeps where others are for the next start.
    pub(super) async fn remember(&mut self) {
        let mut last = self.last.clone();
        last.endpoints.retain(|name, _| self.others.contains_key(name));
        for (name, other) in self.others.iter().filter(|(_, other)| other.path.is_straight()) {
            last.endpoints.extend(other.endpoint.map(|endpoint| (name.clone(), endpoint)));
        }
        if self.config.is_none() || last == self.last {
            return;
        }
        let folder = self.folder.clone();
        let kept = last.clone();
        match tokio::task::spawn_blocking(move || folder.keep(&kept)).await {
            Ok(Ok(())) => self.last = last,
            Ok(Err(error)) => tracing::warn!("{error}"),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Looks whether packets come back on the ways that are in use. Whether any is.
    pub(super) fn look_after_streams(&mut self) -> bool {
        let in_use = self.stack.in_use();
        let (mut doubtful, mut busy) = (Vec::new(), !in_use.is_empty());
        let hub = self.hub().map(str::to_owned);
        for (name, other) in &mut self.others {
            if hub.as_ref().is_some_and(|hub| hub != name)
                && other.path.is_straight()
                && other.promoted.elapsed() > SETTLED
            {
                other.node.settled.store(true, Relaxed);
            }
            let now = (other.node.sent.load(Relaxed), other.node.received.load(Relaxed));
            let before = std::mem::replace(&mut other.counted, now);
            other.node.told.store(false, Relaxed);
            let used = other.node.used.swap(false, Relaxed) || in_use.contains(&other.config.address);
            busy |= used;
            if used {
                other.wanted = Some(Instant::now());
            }
            if now.1 != before.1 {
                other.heard = Some(Instant::now());
                other.stalled = 0;
            } else if now.0 != before.0 && other.path.is_straight() && (used || other.wanted_within(WANTED)) {
                other.stalled = other.stalled.saturating_add(1);
                doubtful.push(name.clone());
            }
        }
        for name in doubtful {
            self.probe(&name);
        }
        busy
    }

    /// When somebody is to be probed next.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        let due = self.others.iter().filter(|(name, other)| self.is_of_interest(name, other));
        due.filter_map(|(_, other)| other.due).min()
    }

    /// Probes who is due.
    pub(super) fn probe_who_is_due(&mut self, now: Instant) {
        let due = self.others.iter().filter(|(name, other)| {
            self.is_of_interest(name, other) && other.due.is_some_and(|due| due <= now)
        });
        let due: Vec<String> = due.map(|(name, _)| name.clone()).collect();
        for name in due {
            self.probe(&name);
        }
    }

    fn is_of_interest(&self, name: &str, other: &super::Other) -> bool {
        !other.probing && (self.hub() == Some(name) || other.wanted_within(WANTED))
    }

    /// Who has a session, and where they are.
    pub(super) async fn sessions(&self) -> Vec<Asked> {
        let seen = self.wire.look().await;
        let found = self.others.iter().filter_map(|(name, other)| {
            let seen = seen.get(&other.key.to_bytes()).filter(|seen| is_within(seen, SESSION))?;
            Some((name.clone(), seen.endpoint?))
        });
        found.collect()
    }
}

fn is_within(seen: &Seen, time: Duration) -> bool {
    seen.handshake.is_some_and(|age| age < time)
}

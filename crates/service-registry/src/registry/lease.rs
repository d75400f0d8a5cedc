//! Who renews what, and what becomes of an entry that isn't renewed.
//!
//! ```text
//!          ┌── renewed ──┐
//!          ▼             │
//! granted ──► held ──────┴── ttl over ──► lost ── grace over ──► removed
//!              ▲                           │
//!              └──── renewed, updated ─────┘      whoever registers the name anew takes the place of one that is lost
//! ```
//!
//! Nothing here looks at a clock: times are durations since boot that are passed in, so setting the wall clock changes
//! nothing. They mean nothing after a restart; every lease then begins anew with its whole time.

use super::persist::{LEASES, encode};
use crate::model::{Entry, Health, HealthStatus, Reason, ReasonCode};
use crate::store::Batch;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The shortest time to live of a lease.
pub const SHORTEST_LEASE: Duration = Duration::from_secs(1);
/// The longest.
pub const LONGEST_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// The id of a lease, which proves the right to renew it: whoever has it can change the entry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct LeaseId(String);

impl LeaseId {
    /// An id from text that nobody can guess, or that somebody claims to have.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }
}

/// Shows nothing of it.
impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseId(…)")
    }
}

/// The SHA-256 of a lease's id: the id itself is kept nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key([u8; 32]);

impl Key {
    pub(super) fn of(id: &LeaseId) -> Self {
        Self(Sha256::digest(id.0.as_bytes()).into())
    }
}

/// A lease as it is kept.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Lease {
    key: Key,
    ttl_ms: u64,
    /// What the entry said before it was marked as lost; `None` while it isn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<Before>,
}

/// What is put aside while an entry is lost.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Before {
    ready: bool,
    health: Option<Health>,
    reason: Option<Reason>,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It was not renewed in time.
    Lose,
    /// It was lost for long enough.
    Remove,
}

/// All leases, by instance.
pub(super) struct Leases {
    /// How long an entry stays known as lost.
    grace: Duration,
    leases: BTreeMap<Arc<str>, (Lease, Duration)>,
    /// When something is due, soonest first.
    due: BTreeSet<(Duration, Arc<str>)>,
}

impl Leases {
    /// Those that were kept; each has its whole time from `now` on.
    pub(super) fn new(grace: Duration, kept: BTreeMap<String, Lease>, now: Duration) -> Self {
        let mut all = Self { grace, leases: BTreeMap::new(), due: BTreeSet::new() };
        for (instance, lease) in kept {
            let until = now + all.time(&lease);
            all.set(instance.as_str().into(), lease, until);
        }
        all
    }

    fn time(&self, lease: &Lease) -> Duration {
        if lease.lost.is_some() { self.grace } else { Duration::from_millis(lease.ttl_ms) }
    }

    fn set(&mut self, instance: Arc<str>, lease: Lease, until: Duration) {
        self.forget(&instance);
        self.due.insert((until, Arc::clone(&instance)));
        self.leases.insert(instance, (lease, until));
    }

    fn forget(&mut self, instance: &str) -> bool {
        let Some((instance, (_, until))) = self.leases.remove_entry(instance) else { return false };
        self.due.remove(&(until, instance));
        true
    }

    /// When the next lease lapses, or the next lost entry is removed.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// At most `limit` of what is due at `now`, the longest overdue first. Carry out each by [`Leases::lose`] or
    /// [`Leases::end`].
    pub(super) fn overdue(&self, now: Duration, limit: usize) -> Vec<(Arc<str>, Step)> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now).take(limit);
        let step = |instance: &str| match self.leases.get(instance) {
            Some((Lease { lost: Some(_), .. }, _)) => Step::Remove,
            _ => Step::Lose,
        };
        due.map(|(_, instance)| (Arc::clone(instance), step(instance))).collect()
    }

    pub(super) fn is_leased(&self, instance: &str) -> bool {
        self.leases.contains_key(instance)
    }

    pub(super) fn is_lost(&self, instance: &str) -> bool {
        self.leases.get(instance).is_some_and(|(lease, _)| lease.lost.is_some())
    }

    /// Whether this is the lease of that instance.
    pub(super) fn is_held_by(&self, instance: &str, key: Key) -> bool {
        self.leases.get(instance).is_some_and(|(lease, _)| lease.key == key)
    }

    /// The time to live of an instance's lease.
    pub(super) fn ttl(&self, instance: &str) -> Option<Duration> {
        self.leases.get(instance).map(|(lease, _)| Duration::from_millis(lease.ttl_ms))
    }

    /// Begins a lease.
    pub(super) fn grant(
        &mut self,
        instance: &str,
        key: Key,
        ttl: Duration,
        now: Duration,
        batch: &mut Batch,
    ) {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let lease = Lease { key, ttl_ms, lost: None };
        batch.put(LEASES, instance, encode(&lease));
        self.set(instance.into(), lease, now + ttl);
    }

    /// Begins the lease's time anew.
    pub(super) fn renew(&mut self, instance: &str, now: Duration, batch: &mut Batch) {
        let Some((lease, _)) = self.leases.get(instance) else { return };
        let mut lease = lease.clone();
        if lease.lost.take().is_some() {
            batch.put(LEASES, instance, encode(&lease));
        }
        let until = now + self.time(&lease);
        self.set(instance.into(), lease, until);
    }

    /// Begins the grace. The entry as it is now to be shown.
    pub(super) fn lose(
        &mut self,
        instance: &str,
        entry: &Entry,
        (now, wall): (Duration, Timestamp),
        batch: &mut Batch,
    ) -> Option<Entry> {
        let (lease, _) = self.leases.get(instance)?;
        let mut lease = lease.clone();
        let (lost, before) = lost(entry, Duration::from_millis(lease.ttl_ms), wall);
        lease.lost = Some(before);
        batch.put(LEASES, instance, encode(&lease));
        let until = now + self.grace;
        self.set(instance.into(), lease, until);
        Some(lost)
    }

    /// The entry as it was before it was lost, if it is.
    pub(super) fn found(&self, instance: &str, entry: &Entry) -> Option<Entry> {
        let before = self.leases.get(instance)?.0.lost.clone()?;
        let mut found = entry.clone();
        (found.ready, found.health, found.status.reason) = (before.ready, before.health, before.reason);
        Some(found)
    }

    /// Forgets a lease, if there is one.
    pub(super) fn end(&mut self, instance: &str, batch: &mut Batch) {
        if self.forget(instance) {
            batch.delete(LEASES, instance);
        }
    }
}

/// The entry as it is shown while nobody renews it, and what that hides.
fn lost(entry: &Entry, ttl: Duration, at: Timestamp) -> (Entry, Before) {
    let mut lost = entry.clone();
    let message = format!("its lease of {} was not renewed", seconds(ttl));
    let before = Before {
        ready: std::mem::replace(&mut lost.ready, false),
        reason: lost.status.reason.replace(Reason::new(ReasonCode::Lost, message)),
        health: lost.health.replace(Health { status: HealthStatus::Unknown, since: at, last: None }),
    };
    (lost, before)
}

fn seconds(ttl: Duration) -> String {
    let text = format!("{:.3}", ttl.as_secs_f64());
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

//! The truth in memory: entries, values, history and who listens, changed in one place.

use super::event::{DropReason, Event, EventKind, Filter};
use super::lease::{Leases, Step};
use super::persist::{CEILING, EVENTS, HISTORY, META, Memory, encode};
use super::subscription::{Subscribers, Subscription};
use super::{Change, Listing, Options, Origin, RegistryError};
use crate::model::{Entry, Known};
use crate::store::Batch;
use async_channel::{Receiver, Sender};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How far ahead of the present the ceiling lies. More changes than half of this can't happen during one commit.
const AHEAD: u64 = 1_000_000;
/// Leases that lapse in one go; others get at the lock before the next go.
const LAPSES: usize = 256;

/// Everything behind the registry's lock. Changes fill a [`Batch`]; nothing here waits.
pub(super) struct Core {
    options: Options,
    entries: BTreeMap<String, (Known, Origin)>,
    values: BTreeMap<String, BTreeMap<String, Arc<[u8]>>>,
    history: VecDeque<Arc<Event>>,
    /// Where the next event is kept: in the place of the oldest, once the ring is full. Not derived from the revision,
    /// which may jump.
    next_slot: u64,
    /// Every event after this revision is in the history.
    base: u64,
    revision: u64,
    ceiling: u64,
    subscribers: Subscribers,
    /// Of entries from outside. Everything that changes them tells `tenders` if something is due earlier now.
    leases: Leases,
    tenders: Vec<Sender<()>>,
    closed: bool,
}

impl Core {
    /// Begins where `memory` ended, with a batch that must be durable before the first change.
    pub(super) fn new(options: Options, mut memory: Memory) -> (Self, Batch) {
        let mut batch = Batch::new();
        let length = options.history.max(1) as u64;
        let newest = memory.slots.last().and_then(|slot| slot.parse::<u64>().ok());
        let mut next_slot = newest.map_or(0, |slot| (slot + 1) % length);
        if memory.history != length {
            // a ring of another length: lay it out anew
            for slot in &memory.slots {
                batch.delete(EVENTS, slot.as_str());
            }
            let surplus = memory.events.len().saturating_sub(options.history.max(1));
            memory.events.drain(..surplus);
            for (slot, event) in (0..).zip(&memory.events) {
                batch.put(EVENTS, slot_name(slot), encode(event));
            }
            next_slot = memory.events.len() as u64 % length;
            batch.put(META, HISTORY, encode(&length));
        }
        let revision = memory.ceiling;
        let ceiling = revision + AHEAD;
        batch.put(META, CEILING, encode(&ceiling));
        let base = memory.events.front().map_or(revision, |event| event.revision.saturating_sub(1));
        let leases = Leases::new(options.grace, memory.leases, (options.uptime)());
        let core = Self {
            options,
            entries: memory.entries,
            values: memory.values,
            history: memory.events,
            next_slot,
            base,
            revision,
            ceiling,
            subscribers: Subscribers::default(),
            leases,
            tenders: Vec::new(),
            closed: false,
        };
        (core, batch)
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn subscribers(&self) -> usize {
        self.subscribers.len()
    }

    pub(super) fn get(&self, instance: &str) -> Option<&(Known, Origin)> {
        self.entries.get(instance)
    }

    pub(super) fn listing(&self, filter: &Filter) -> Listing {
        let wanted = self.entries.values().filter(|(e, _)| filter.wants_name(&e.service, &e.instance));
        let mut placed: Vec<_> = wanted.map(|(entry, _)| (place(entry), entry)).collect();
        placed.sort_unstable_by_key(|(place, _)| *place);
        let entries = placed.into_iter().map(|(_, entry)| entry.clone()).collect();
        Listing { entries, revision: self.revision }
    }

    /// Carries a change out. `true` if there was one.
    pub(super) fn apply(&mut self, instance: &str, change: Change, batch: &mut Batch) -> bool {
        let before = self.entries.get(instance).cloned();
        match (change, before) {
            (Change::None, _) | (Change::Remove, None) => false,
            (Change::Remove, Some((entry, origin))) => {
                self.entries.remove(instance);
                batch.delete(origin.namespace(), instance);
                self.leases.end(instance, batch);
                self.record(Some(&entry), None, batch);
                true
            }
            (Change::Put(mut entry, origin), before) => {
                let current = before.as_ref().map(|(entry, _)| entry);
                if let Some(current) = current {
                    entry.created_at = current.created_at;
                    if before.as_ref().is_some_and(|(_, o)| *o == origin) && current.same_content(&entry) {
                        return false;
                    }
                    if only_probed_again(current, &entry) {
                        entry.updated_at = current.updated_at;
                        entry.revision = current.revision;
                        self.entries.insert(instance.to_owned(), (Known::from(*entry), origin));
                        return false;
                    }
                } else {
                    entry.created_at = (self.options.clock)();
                }
                if let Some((_, old)) = &before
                    && *old != origin
                {
                    batch.delete(old.namespace(), instance);
                    self.leases.end(instance, batch);
                }
                entry.updated_at = (self.options.clock)();
                entry.revision = self.revision + 1;
                let entry = Known::from(*entry);
                batch.put(origin.namespace(), instance, encode(&entry));
                self.entries.insert(instance.to_owned(), (entry.clone(), origin));
                self.record(current, Some(&entry), batch);
                true
            }
        }
    }

    /// Gives the change its revision and its event, and tells everyone.
    fn record(&mut self, before: Option<&Known>, after: Option<&Known>, batch: &mut Batch) {
        let Some(subject) = after.or(before) else { return };
        self.revision += 1;
        if self.revision + AHEAD / 2 > self.ceiling {
            self.ceiling = self.revision + AHEAD;
            batch.put(META, CEILING, encode(&self.ceiling));
        }
        let event = Arc::new(Event {
            revision: self.revision,
            at: after.map_or_else(self.options.clock, |entry| entry.updated_at),
            kind: EventKind::of(before.map(|entry| &**entry), after.map(|entry| &**entry)),
            service: subject.service.clone(),
            instance: subject.instance.clone(),
            entry: after.cloned(),
            previous: before.map(|entry| entry.status.state),
        });
        let length = self.options.history.max(1);
        batch.put(EVENTS, slot_name(self.next_slot), encode(&event));
        self.next_slot = (self.next_slot + 1) % length as u64;
        self.subscribers.tell(&event);
        self.history.push_back(event);
        while self.history.len() > length {
            self.base = self.history.pop_front().map_or(self.base, |event| event.revision);
        }
    }

    /// Events after `since` that pass the filter, oldest first; the newest `limit` of them.
    pub(super) fn events(&self, filter: &Filter, since: u64, limit: usize) -> Vec<Arc<Event>> {
        let first = self.history.partition_point(|event| event.revision <= since);
        let wanted = self.history.range(first..).rev().filter(|event| filter.wants(event)).take(limit);
        let mut events: Vec<_> = wanted.cloned().collect();
        events.reverse();
        events
    }

    pub(super) fn subscribe(
        &mut self,
        filter: Filter,
        since: Option<u64>,
    ) -> Result<Subscription, RegistryError> {
        if self.closed {
            return Err(RegistryError::Closed);
        }
        let queue = self.options.queue;
        let Some(since) = since else {
            let listing = self.listing(&filter);
            let snapshot = Some((listing.entries, listing.revision));
            return Ok(self.subscribers.add(filter, queue, snapshot, VecDeque::new(), None));
        };
        // Only a revision that was really given out can be resumed from: after a crash there may be readers who saw
        // changes that were never durable, and whose revisions nobody has.
        let known = since == self.revision
            || since == self.base
            || self.history.binary_search_by_key(&since, |event| event.revision).is_ok();
        if !known {
            return Err(RegistryError::RevisionGone { since, oldest: self.base, current: self.revision });
        }
        let backlog = self.events(&filter, since, usize::MAX).into();
        Ok(self.subscribers.add(filter, queue, None, backlog, Some(since)))
    }

    pub(super) fn value(&self, namespace: &str, key: &str) -> Option<Arc<[u8]>> {
        self.values.get(namespace)?.get(key).cloned()
    }

    pub(super) fn values(&self, namespace: &str) -> Vec<(String, Arc<[u8]>)> {
        let values = self.values.get(namespace).into_iter().flatten();
        values.map(|(key, value)| (key.clone(), Arc::clone(value))).collect()
    }

    pub(super) fn set_value(&mut self, namespace: &str, key: &str, value: Option<&[u8]>, batch: &mut Batch) {
        let values = self.values.entry(namespace.to_owned()).or_default();
        if values.get(key).map(Arc::as_ref) == value {
            return;
        }
        let full = format!("{}{namespace}", super::persist::KV);
        match value {
            Some(value) => {
                values.insert(key.to_owned(), value.into());
                batch.put(full, key, value);
            }
            None => {
                values.remove(key);
                batch.delete(full, key);
            }
        }
    }

    pub(super) fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Changes leases at the present time since boot, and tells who tends them if something is due earlier than before.
    pub(super) fn with_leases(&mut self, change: impl FnOnce(&mut Leases, Duration)) {
        let before = self.leases.wake_at();
        change(&mut self.leases, (self.options.uptime)());
        if let Some(now) = self.leases.wake_at()
            && before.is_none_or(|before| now < before)
        {
            // Full: it has been told and hasn't looked yet; closed: it is gone
            self.tenders.retain(|tender| !matches!(tender.try_send(()), Err(e) if e.is_closed()));
        }
    }

    /// Hears when something of the leases is due earlier than before.
    pub(super) fn add_tender(&mut self) -> Receiver<()> {
        let (sender, receiver) = async_channel::bounded(1);
        if !self.closed {
            self.tenders.push(sender);
        }
        receiver
    }

    /// Carries out what is due, and says in how long something is due next.
    pub(super) fn lapse(&mut self, batch: &mut Batch) -> Option<Duration> {
        if self.closed {
            return None;
        }
        let (now, wall) = ((self.options.uptime)(), (self.options.clock)());
        for (instance, step) in self.leases.overdue(now, LAPSES) {
            let entry = self.entries.get(&*instance).map(|(entry, _)| entry.clone());
            let lost = match (step, entry) {
                (Step::Lose, Some(entry)) => self.leases.lose(&instance, &entry, (now, wall), batch),
                (Step::Remove, _) | (_, None) => None,
            };
            match lost {
                Some(lost) => self.apply(&instance, Change::Put(Box::new(lost), Origin::Outside), batch),
                None => self.apply(&instance, Change::Remove, batch),
            };
        }
        Some(self.leases.wake_at()?.saturating_sub(now))
    }

    /// Ends all subscriptions and notes that no revision above the present one was given out.
    pub(super) fn close(&mut self, batch: &mut Batch) {
        self.closed = true;
        self.tenders.clear();
        self.subscribers.drop_all(DropReason::ShuttingDown);
        self.ceiling = self.revision;
        batch.put(META, CEILING, encode(&self.ceiling));
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn now(&self) -> jiff::Timestamp {
        (self.options.clock)()
    }
}

fn slot_name(slot: u64) -> String {
    format!("{slot:08}")
}

/// By position in the file, then by service, then by number: `web-2` before `web-10`.
fn place(entry: &Entry) -> (u32, &str, u64, &str) {
    let number = entry.instance.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    (entry.order, &entry.service, number, &entry.instance)
}

/// Whether a check gave the same answer as before and nothing else changed: worth showing, not worth an event.
fn only_probed_again(before: &Entry, after: &Entry) -> bool {
    let last = |entry: &Entry| {
        entry.health.as_ref().and_then(|h| h.last.as_ref()).map(|p| (p.ok, p.message.clone()))
    };
    if last(before).is_none() || last(before) != last(after) {
        return false;
    }
    let mut same = after.clone();
    if let (Some(health), Some(old)) = (&mut same.health, &before.health) {
        health.last.clone_from(&old.last);
    }
    same.same_content(before)
}

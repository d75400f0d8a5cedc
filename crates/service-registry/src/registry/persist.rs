//! How the registry's memory looks in a store.
//!
//! | namespace | key | value |
//! |---|---|---|
//! | `entries`, `outside` | instance | [`Entry`] as JSON, by who wrote it |
//! | `leases` | instance | of an entry from outside: [`Lease`] as JSON |
//! | `events` | a slot of the history, which is a ring | [`Event`] as JSON |
//! | `meta` | `ceiling`, `history`, `schema` | a number |
//! | `kv:NAMESPACE` | key | bytes |
//!
//! The schema says what a version must understand to go on from there. A store without one is from before there were
//! leases.

use super::event::Event;
use super::lease::Lease;
use super::{Origin, RegistryError};
use crate::model::{Entry, Known};
use crate::store::{Batch, Snapshot};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub(super) const EVENTS: &str = "events";
pub(super) const LEASES: &str = "leases";
pub(super) const META: &str = "meta";
pub(super) const CEILING: &str = "ceiling";
pub(super) const HISTORY: &str = "history";
pub(super) const SCHEMA: &str = "schema";
pub(super) const KV: &str = "kv:";

/// The newest schema that is read and written here. Raise it when an older version could misread what is written, and say in
/// [`migrate`] how the one before becomes it.
pub(super) const NEWEST: u64 = 1;

impl Origin {
    pub(super) fn namespace(self) -> &'static str {
        match self {
            Self::Host => "entries",
            Self::Outside => "outside",
        }
    }
}

/// What a store held.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) entries: BTreeMap<String, (Known, Origin)>,
    pub(super) events: VecDeque<Arc<Event>>,
    /// Where each of the events is kept.
    pub(super) slots: Vec<String>,
    pub(super) values: BTreeMap<String, BTreeMap<String, Arc<[u8]>>>,
    /// No revision above this was ever given out.
    pub(super) ceiling: u64,
    /// Length of the history that wrote the events.
    pub(super) history: u64,
    /// Of entries from outside.
    pub(super) leases: BTreeMap<String, Lease>,
}

/// Brings what an older version wrote to the present schema, step by step. The answer: what has to be written for it.
///
/// # Errors
///
/// [`RegistryError::Newer`]; nothing is changed.
pub(super) fn migrate(snapshot: &Snapshot) -> Result<Batch, RegistryError> {
    let mut batch = Batch::new();
    let written = snapshot.get(META).and_then(|meta| meta.get(SCHEMA));
    let mut schema = written.map_or(Ok(0), |value| json::<u64>(META, SCHEMA, value))?;
    if schema > NEWEST {
        return Err(RegistryError::Newer { found: schema, known: NEWEST });
    }
    if schema == 0 {
        // 1 adds leases; an entry without one lives as before
        schema = 1;
        batch.put(META, SCHEMA, encode(&schema));
    }
    Ok(batch)
}

pub(super) fn decode(mut snapshot: Snapshot) -> Result<Memory, RegistryError> {
    let mut memory = Memory::default();
    for origin in [Origin::Outside, Origin::Host] {
        for (key, value) in snapshot.remove(origin.namespace()).unwrap_or_default() {
            let entry: Entry = json(origin.namespace(), &key, &value)?;
            memory.ceiling = memory.ceiling.max(entry.revision);
            memory.entries.insert(key, (entry.into(), origin));
        }
    }
    let mut events = Vec::new();
    for (key, value) in snapshot.remove(EVENTS).unwrap_or_default() {
        let mut event: Event = json(EVENTS, &key, &value)?;
        // most events of the history share their entry with what is current
        if let Some(entry) = &event.entry
            && let Some((current, _)) = memory.entries.get(&event.instance)
            && current == entry
        {
            event.entry = Some(current.clone());
        }
        memory.ceiling = memory.ceiling.max(event.revision);
        events.push((Arc::new(event), key));
    }
    events.sort_by_key(|(event, _)| event.revision);
    let (events, slots): (Vec<_>, Vec<_>) = events.into_iter().unzip();
    (memory.events, memory.slots) = (events.into(), slots);
    for (key, value) in snapshot.remove(LEASES).unwrap_or_default() {
        // one without an entry was left by an older version that knew nothing of it
        if matches!(memory.entries.get(&key), Some((_, Origin::Outside))) {
            memory.leases.insert(key.clone(), json(LEASES, &key, &value)?);
        }
    }
    let meta = snapshot.remove(META).unwrap_or_default();
    let number = |key: &str| meta.get(key).map_or(Ok(0), |value| json::<u64>(META, key, value));
    memory.ceiling = memory.ceiling.max(number(CEILING)?);
    memory.history = number(HISTORY)?;
    for (namespace, values) in snapshot {
        if let Some(name) = namespace.strip_prefix(KV) {
            let values = values.into_iter().map(|(key, value)| (key, value.into())).collect();
            memory.values.insert(name.to_owned(), values);
        }
    }
    Ok(memory)
}

fn json<T: DeserializeOwned>(namespace: &str, key: &str, value: &[u8]) -> Result<T, RegistryError> {
    serde_json::from_slice(value).map_err(|source| RegistryError::Decode {
        namespace: namespace.to_owned(),
        key: key.to_owned(),
        source: Arc::new(source),
    })
}

/// JSON of a type whose maps have text keys.
pub(super) fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    // can only fail for maps with other keys and for own Serialize code that fails: there is neither
    serde_json::to_vec(value).unwrap_or_default()
}

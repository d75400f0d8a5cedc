//! How the registry's memory looks in a store.
//!
//! | namespace | key | value |
//! |---|---|---|
//! | `entries`, `outside` | instance | [`Entry`] as JSON, by who wrote it |
//! | `events` | a slot of the history, which is a ring | [`Event`] as JSON |
//! | `meta` | `ceiling`, `history` | a number |
//! | `kv:NAMESPACE` | key | bytes |

use super::event::Event;
use super::{Origin, RegistryError};
use crate::model::Entry;
use crate::store::Snapshot;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub(super) const EVENTS: &str = "events";
pub(super) const META: &str = "meta";
pub(super) const CEILING: &str = "ceiling";
pub(super) const HISTORY: &str = "history";
pub(super) const KV: &str = "kv:";

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
    pub(super) entries: BTreeMap<String, (Arc<Entry>, Origin)>,
    pub(super) events: VecDeque<Arc<Event>>,
    /// Where each of the events is kept.
    pub(super) slots: Vec<String>,
    pub(super) values: BTreeMap<String, BTreeMap<String, Arc<[u8]>>>,
    /// No revision above this was ever given out.
    pub(super) ceiling: u64,
    /// Length of the history that wrote the events.
    pub(super) history: u64,
}

pub(super) fn decode(mut snapshot: Snapshot) -> Result<Memory, RegistryError> {
    let mut memory = Memory::default();
    for origin in [Origin::Outside, Origin::Host] {
        for (key, value) in snapshot.remove(origin.namespace()).unwrap_or_default() {
            let entry: Entry = json(origin.namespace(), &key, &value)?;
            memory.ceiling = memory.ceiling.max(entry.revision);
            memory.entries.insert(key, (Arc::new(entry), origin));
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
            event.entry = Some(Arc::clone(current));
        }
        memory.ceiling = memory.ceiling.max(event.revision);
        events.push((Arc::new(event), key));
    }
    events.sort_by_key(|(event, _)| event.revision);
    let (events, slots): (Vec<_>, Vec<_>) = events.into_iter().unzip();
    (memory.events, memory.slots) = (events.into(), slots);
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

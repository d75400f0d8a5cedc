//! An entry that many hold at the same time.

use super::Entry;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

/// An entry that doesn't change any more: a cheap handle, whose JSON is written when somebody first asks for it, and once
/// however many listings and events it goes out in.
#[derive(Clone)]
pub struct Known(Arc<Inner>);

struct Inner {
    entry: Entry,
    json: OnceLock<Box<RawValue>>,
}

impl Known {
    /// The entry as JSON.
    pub fn json(&self) -> &RawValue {
        self.0.json.get_or_init(|| {
            // can only fail for maps with keys that are no text, and there is none
            serde_json::value::to_raw_value(&self.0.entry).unwrap_or_default()
        })
    }
}

impl From<Entry> for Known {
    fn from(mut entry: Entry) -> Self {
        // thousands are held, and what was read has room for more
        entry.endpoints.shrink_to_fit();
        entry.dependencies.shrink_to_fit();
        Self(Arc::new(Inner { entry, json: OnceLock::new() }))
    }
}

impl Deref for Known {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.0.entry
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.entry.fmt(f)
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.entry == other.0.entry
    }
}

impl Eq for Known {}

/// As the entry, in any format. What is only ever JSON takes [`Known::json`].
impl Serialize for Known {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.entry.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Known {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Entry::deserialize(deserializer).map(Self::from)
    }
}

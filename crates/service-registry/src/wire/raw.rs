//! Entries go out as the JSON that was written once for all: for types that only ever become JSON.

use crate::model::{Known, State};
use crate::registry::{Event, EventKind};
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::sync::Arc;

pub(super) fn entries<S: Serializer>(entries: &[Known], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(entries.iter().map(Known::json))
}

pub(super) fn events<S: Serializer>(events: &[Arc<Event>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(events.iter().map(|event| Written::of(event)))
}

pub(super) fn event<S: Serializer>(event: &Arc<Event>, serializer: S) -> Result<S::Ok, S::Error> {
    Written::of(event).serialize(serializer)
}

/// [`Event`] as it is written. The samples of the wire hold the two together.
#[derive(Serialize)]
struct Written<'a> {
    revision: u64,
    at: Timestamp,
    kind: EventKind,
    service: &'a str,
    instance: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<State>,
}

impl<'a> Written<'a> {
    fn of(event: &'a Event) -> Self {
        let Event { revision, at, kind, service, instance, entry, previous } = event;
        let entry = entry.as_ref().map(Known::json);
        Self { revision: *revision, at: *at, kind: *kind, service, instance, entry, previous: *previous }
    }
}

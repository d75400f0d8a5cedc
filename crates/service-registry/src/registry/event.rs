//! What happened, and which of it somebody wants to hear.

use crate::model::{Entry, Known, State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// One change of one entry. There is exactly one event for each revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Event {
    /// The registry's revision after the change.
    pub revision: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What happened; when several things did, the first of [`EventKind`]'s order.
    pub kind: EventKind,
    /// To which service.
    pub service: String,
    /// To which instance.
    pub instance: String,
    /// The entry after the change; `None` when it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openrpc", schemars(with = "Option<Entry>"))]
    pub entry: Option<Known>,
    /// The state before the change; `None` when it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<State>,
}

/// What an [`Event`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// An instance became known.
    Registered,
    /// An instance was removed.
    Deregistered,
    /// Its state changed.
    StateChanged,
    /// The node that it is on can't be reached any more.
    NodeLost,
    /// The node that it is on can be reached again.
    NodeJoined,
    /// Its health verdict changed.
    HealthChanged,
    /// Where it can be reached changed.
    EndpointChanged,
    /// Something else of it changed: a reason, a process id, a label.
    Updated,
    /// A kind that this version doesn't know.
    #[serde(other)]
    Unknown,
}

impl EventKind {
    /// What the change from one entry to another is.
    pub(crate) fn of(before: Option<&Entry>, after: Option<&Entry>) -> Self {
        let (before, after) = match (before, after) {
            (Some(before), Some(after)) => (before, after),
            (None, _) => return Self::Registered,
            (_, None) => return Self::Deregistered,
        };
        let verdict = |entry: &Entry| entry.health.as_ref().map(|health| health.status);
        if before.status.state != after.status.state {
            Self::StateChanged
        } else if before.lost_since.is_some() != after.lost_since.is_some() {
            if after.lost_since.is_some() { Self::NodeLost } else { Self::NodeJoined }
        } else if verdict(before) != verdict(after) {
            Self::HealthChanged
        } else if before.endpoints != after.endpoints || before.location != after.location {
            Self::EndpointChanged
        } else {
            Self::Updated
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Registered => "registered",
            Self::Deregistered => "deregistered",
            Self::StateChanged => "state-changed",
            Self::NodeLost => "node-lost",
            Self::NodeJoined => "node-joined",
            Self::HealthChanged => "health-changed",
            Self::EndpointChanged => "endpoint-changed",
            Self::Updated => "updated",
            Self::Unknown => "unknown",
        })
    }
}

/// Which events somebody wants. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Filter {
    /// Kinds of events; empty is every kind.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kinds: BTreeSet<EventKind>,
    /// Services or instances by name; empty is all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub names: BTreeSet<String>,
}

impl Filter {
    /// Only these services or instances.
    pub fn names(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { names: names.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Whether the event is wanted.
    pub fn wants(&self, event: &Event) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.wants_name(&event.service, &event.instance)
    }

    /// Whether the instance is one of those asked for.
    pub fn wants_name(&self, service: &str, instance: &str) -> bool {
        self.names.is_empty() || self.names.contains(service) || self.names.contains(instance)
    }
}

/// What a subscriber gets, in this order: a snapshot unless it resumed, then every wanted event once, in the order of
/// their revisions, and at last perhaps [`Item::Dropped`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// All wanted entries as they are at `revision`, sorted as a listing; what was known before is void.
    Snapshot {
        /// The entries.
        entries: Vec<Known>,
        /// The revision that they are the state of.
        revision: u64,
    },
    /// A change.
    Event(Arc<Event>),
    /// The last item: the subscription is over.
    Dropped {
        /// Why.
        reason: DropReason,
        /// The revision of the last item: subscribe again since this.
        resume: Option<u64>,
    },
}

/// Why a subscription is over although nobody ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DropReason {
    /// The subscriber reads slower than things change.
    TooSlow,
    /// The registry is closing.
    ShuttingDown,
    /// The connection is gone.
    ConnectionLost,
    /// A reason that this version doesn't know.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TooSlow => "it read slower than things changed",
            Self::ShuttingDown => "the registry is closing",
            Self::ConnectionLost => "the connection was lost",
            Self::Unknown => "unknown",
        })
    }
}

//! Parameters, results and notifications of the methods that every server has.

use crate::model::{Endpoint, Entry, Scope};
use crate::registry::{DropReason, Event, Filter};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloParams {
    /// [`super::PROTOCOL`] of the client: the newest that it speaks.
    pub protocol: u32,
    /// The oldest that it speaks as well; absent where it speaks one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<u32>,
    /// Its name and version, for logs: `harness 0.1.0`.
    pub client: String,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloResult {
    /// The protocol of this connection: the newest that both speak.
    pub protocol: u32,
    /// Its name and version.
    pub server: String,
    /// The methods that it has.
    pub capabilities: Vec<String>,
    /// The registry's present revision.
    pub revision: u64,
    /// The largest message that the server takes, in bytes.
    pub max_message: usize,
}

/// Nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// Entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListResult {
    /// The revision that they are the state of.
    pub revision: u64,
    /// By position in the file, then by service and number.
    pub entries: Vec<Arc<Entry>>,
}

/// An instance by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceParams {
    /// Its name.
    pub instance: String,
}

/// A new entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterParams {
    /// It; times and revision are set by the registry.
    pub entry: Entry,
}

/// An entry in place of the one of the same instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateParams {
    /// It; times and revision are set by the registry.
    pub entry: Entry,
    /// Only if the entry is still at this revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// What to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeregisterParams {
    /// The instance.
    pub instance: String,
    /// Only if the entry is still at this revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// A write that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteResult {
    /// The registry's revision after it.
    pub revision: u64,
    /// Whether anything changed.
    pub changed: bool,
}

/// Which endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveParams {
    /// Service or instance.
    pub name: String,
    /// Only ports of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Only addresses of this scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Also of instances that aren't ready.
    #[serde(default)]
    pub all: bool,
}

/// Endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveResult {
    /// The revision that this is the state of.
    pub revision: u64,
    /// By instance, then in the entry's order.
    pub endpoints: Vec<Resolved>,
}

/// One endpoint and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The instance.
    pub instance: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Where it can be reached.
    pub endpoint: Endpoint,
}

/// Which events of the past.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsListParams {
    /// Which.
    #[serde(default)]
    pub filter: Filter,
    /// After this revision; 0 is as far back as they go.
    #[serde(default)]
    pub since: u64,
    /// At most so many, the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Events of the past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsListResult {
    /// The registry's present revision: subscribe since this to go on.
    pub revision: u64,
    /// Oldest first.
    pub events: Vec<Arc<Event>>,
}

/// Which events from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeParams {
    /// Which.
    #[serde(default)]
    pub filter: Filter,
    /// Without it a snapshot comes first; with it the changes since this revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
}

/// A subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeResult {
    /// Its number on this connection.
    pub subscription: u64,
}

/// A subscription by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionParams {
    /// Its number on this connection.
    pub subscription: u64,
}

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotNote {
    /// Whose.
    pub subscription: u64,
    /// The revision that the whole is the state of.
    pub revision: u64,
    /// Some of its entries.
    pub entries: Vec<Arc<Entry>>,
    /// Whether another part follows.
    #[serde(default)]
    pub more: bool,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventNote {
    /// Whose.
    pub subscription: u64,
    /// What happened.
    pub event: Arc<Event>,
}

/// The end of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedNote {
    /// Whose.
    pub subscription: u64,
    /// Why.
    pub reason: DropReason,
    /// Subscribe again since this revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<u64>,
}

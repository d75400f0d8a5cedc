//! Parameters, results and notifications of the methods that every server has.

use super::raw;
use crate::model::{Endpoint, Entry, Known, Location, Place, Scope};
use crate::registry::{DropReason, Event, Filter, LeaseId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Empty {}

/// Entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct ListResult {
    /// The revision that they are the state of.
    pub revision: u64,
    /// By position in the file, then by service and number.
    #[serde(serialize_with = "raw::entries")]
    #[cfg_attr(feature = "openrpc", schemars(with = "Vec<Entry>"))]
    pub entries: Vec<Known>,
}

/// An instance by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct InstanceParams {
    /// Its name.
    pub instance: String,
}

/// A new entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct RegisterParams {
    /// It; times and revision are set by the registry.
    pub entry: Entry,
    /// With it the entry must be renewed again and again; without it, it lives until somebody removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseParams>,
}

/// A lease that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct LeaseParams {
    /// Milliseconds within which it must be renewed: 1,000 to 86,400,000.
    pub ttl_ms: u64,
}

/// An entry that is registered durably.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct RegisterResult {
    /// The registry's revision after it.
    pub revision: u64,
    /// Whether anything changed.
    pub changed: bool,
    /// The lease, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseGrant>,
}

/// A lease that was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct LeaseGrant {
    /// Proves the right to renew, change and remove the entry; said only here. Keep it secret.
    pub id: LeaseId,
    /// Milliseconds within which it must be renewed.
    pub ttl_ms: u64,
}

/// Which lease to renew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct RenewParams {
    /// The instance that it holds.
    pub instance: String,
    /// Its id.
    pub lease: LeaseId,
}

/// A lease whose time began anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct RenewResult {
    /// Milliseconds within which it must be renewed again.
    pub ttl_ms: u64,
    /// Whether the entry was lost meanwhile; it is back as it was, durably.
    pub was_lost: bool,
}

/// An entry in place of the one of the same instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct UpdateParams {
    /// It; times and revision are set by the registry.
    pub entry: Entry,
    /// Only if the entry is still at this revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The lease that holds the entry, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
}

/// What to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct DeregisterParams {
    /// The instance.
    pub instance: String,
    /// Only if the entry is still at this revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The lease that holds the entry, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
}

/// The format of [`ExportResult`].
pub const EXPORT_SCHEMA: u32 = 1;

/// Entries that programs from outside have registered without a lease, as they are kept in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct ExportResult {
    /// [`EXPORT_SCHEMA`].
    pub schema: u32,
    /// The revision that they are the state of.
    pub revision: u64,
    /// By service and number.
    #[serde(serialize_with = "raw::entries")]
    #[cfg_attr(feature = "openrpc", schemars(with = "Vec<Entry>"))]
    pub entries: Vec<Known>,
}

/// What to take in: an [`ExportResult`], and whether it may take the place of what is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct ImportParams {
    /// At most [`EXPORT_SCHEMA`].
    pub schema: u32,
    /// All of them, or none; times and revisions are set anew.
    pub entries: Vec<Entry>,
    /// Whether entries from outside that are there are replaced. Those that a lease holds, or the host looks after, never are.
    #[serde(default)]
    pub replace: bool,
}

/// Entries that were taken in, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct ImportResult {
    /// The registry's revision after it.
    pub revision: u64,
    /// How many there were.
    pub imported: usize,
    /// How many of them took the place of another.
    pub replaced: usize,
}

/// A write that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct WriteResult {
    /// The registry's revision after it.
    pub revision: u64,
    /// Whether anything changed.
    pub changed: bool,
}

/// Which endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct ResolveParams {
    /// Service or instance.
    pub name: String,
    /// Only ports of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Only addresses of this scope, whether or not they can be reached from where the caller is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Also of instances that aren't ready.
    #[serde(default)]
    pub all: bool,
    /// Where the caller is; without it, on the server's machine and in no container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Place>,
}

/// Endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct ResolveResult {
    /// The revision that this is the state of.
    pub revision: u64,
    /// Those that the caller can reach, nearest first: its own machine, the local network, the mesh; of equally near ones
    /// by instance, then in the entry's order.
    pub endpoints: Vec<Resolved>,
}

/// One endpoint and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Resolved {
    /// The instance.
    pub instance: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Where it is.
    #[serde(default)]
    pub location: Location,
    /// Where it can be reached.
    pub endpoint: Endpoint,
}

/// Which events of the past.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct EventsListResult {
    /// The registry's present revision: subscribe since this to go on.
    pub revision: u64,
    /// Oldest first.
    #[serde(serialize_with = "raw::events")]
    #[cfg_attr(feature = "openrpc", schemars(with = "Vec<Event>"))]
    pub events: Vec<Arc<Event>>,
}

/// Which events from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct SubscribeResult {
    /// Its number on this connection.
    pub subscription: u64,
}

/// What a call that opens a stream has in its result, beside what else it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamResult {
    /// Its number on this connection: see [`super::frame`].
    pub stream: u32,
}

/// A subscription by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct SubscriptionParams {
    /// Its number on this connection.
    pub subscription: u64,
}

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct SnapshotNote {
    /// Whose.
    pub subscription: u64,
    /// The revision that the whole is the state of.
    pub revision: u64,
    /// Some of its entries.
    #[serde(serialize_with = "raw::entries")]
    #[cfg_attr(feature = "openrpc", schemars(with = "Vec<Entry>"))]
    pub entries: Vec<Known>,
    /// Whether another part follows.
    #[serde(default)]
    pub more: bool,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct EventNote {
    /// Whose.
    pub subscription: u64,
    /// What happened.
    #[serde(serialize_with = "raw::event")]
    #[cfg_attr(feature = "openrpc", schemars(with = "Event"))]
    pub event: Arc<Event>,
}

/// The end of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct DroppedNote {
    /// Whose.
    pub subscription: u64,
    /// Why.
    pub reason: DropReason,
    /// Subscribe again since this revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    /// Reads the value as `T` and says how it is written now.
    fn again<T: Serialize + DeserializeOwned>(value: &Value) -> Value {
        let read: T =
            serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"));
        serde_json::to_value(read).unwrap()
    }

    /// What both sides say: other versions send and expect exactly this.
    #[test]
    fn samples_of_every_message_are_read_and_written_as_they_are() {
        let mut seen = std::collections::BTreeSet::new();
        for line in include_str!("../../samples/wire-v1.jsonl").lines() {
            let sample: Value = serde_json::from_str(line).unwrap();
            let (kind, value) = (sample["type"].as_str().unwrap().to_owned(), &sample["value"]);
            let now = match kind.as_str() {
                "HelloParams" => again::<HelloParams>(value),
                "HelloResult" => again::<HelloResult>(value),
                "ListResult" => again::<ListResult>(value),
                "InstanceParams" => again::<InstanceParams>(value),
                "RegisterParams" => again::<RegisterParams>(value),
                "RegisterResult" => again::<RegisterResult>(value),
                "RenewParams" => again::<RenewParams>(value),
                "RenewResult" => again::<RenewResult>(value),
                "UpdateParams" => again::<UpdateParams>(value),
                "DeregisterParams" => again::<DeregisterParams>(value),
                "ExportResult" => again::<ExportResult>(value),
                "ImportParams" => again::<ImportParams>(value),
                "ImportResult" => again::<ImportResult>(value),
                "WriteResult" => again::<WriteResult>(value),
                "ResolveParams" => again::<ResolveParams>(value),
                "ResolveResult" => again::<ResolveResult>(value),
                "EventsListParams" => again::<EventsListParams>(value),
                "EventsListResult" => again::<EventsListResult>(value),
                "SubscribeParams" => again::<SubscribeParams>(value),
                "SubscribeResult" => again::<SubscribeResult>(value),
                "SubscriptionParams" => again::<SubscriptionParams>(value),
                "SnapshotNote" => again::<SnapshotNote>(value),
                "EventNote" => again::<EventNote>(value),
                "DroppedNote" => again::<DroppedNote>(value),
                other => panic!("a sample of {other}, which isn't read any more"),
            };
            assert_eq!(&now, value, "{kind}");
            seen.insert(kind);
        }
        assert_eq!(seen.len(), 24, "{seen:?}");
    }
}

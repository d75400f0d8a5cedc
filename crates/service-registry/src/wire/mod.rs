//! What goes over a connection: JSON-RPC 2.0 in WebSocket text frames.
//!
//! A client says [`HELLO`] first, then whatever it likes; requests of one connection run at the same time and are
//! answered as they finish, matched by id. What the server says unasked are notifications: [`EVENTS_SNAPSHOT`],
//! [`EVENTS_EVENT`], [`EVENTS_DROPPED`]. Batches (a JSON-RPC array) are refused, as nothing is won by them here. Bulk
//! data goes in binary messages: see [`frame`].

pub mod code;
pub mod frame;

mod access;
mod message;
mod methods;
mod raw;

pub use access::{MethodInfo, Scope};
pub use message::{
    Answer, Id, Incoming, Request, RpcError, notification, parse_incoming, parse_request, request,
};
pub(crate) use message::{failure, success};
pub use methods::{
    DeregisterParams, DroppedNote, EXPORT_SCHEMA, Empty, EventNote, EventsListParams, EventsListResult,
    ExportResult, HelloParams, HelloResult, ImportParams, ImportResult, InstanceParams, LeaseGrant,
    LeaseParams, ListResult, RegisterParams, RegisterResult, RenewParams, RenewResult, ResolveParams,
    ResolveResult, Resolved, SnapshotNote, StreamResult, SubscribeParams, SubscribeResult,
    SubscriptionParams, UpdateParams, WriteResult,
};

/// The version of the protocol that is spoken here. It is raised when an older peer could misunderstand; added methods,
/// fields and notifications don't raise it.
pub const PROTOCOL: u32 = 1;

/// The oldest version that is spoken here as well.
pub const OLDEST: u32 = 1;

/// The newest version that both sides speak, when the other side speaks those from `oldest` (`None`: just the one) to
/// `newest`.
pub fn agree(newest: u32, oldest: Option<u32>) -> Option<u32> {
    agree_between(OLDEST..=PROTOCOL, newest, oldest)
}

fn agree_between(ours: std::ops::RangeInclusive<u32>, newest: u32, oldest: Option<u32>) -> Option<u32> {
    let common = newest.min(*ours.end());
    (common >= oldest.unwrap_or(newest).max(*ours.start())).then_some(common)
}

/// [`HelloParams`] → [`HelloResult`]; must come first.
pub const HELLO: &str = "hello";
/// [`Empty`] → the description of the API, as [OpenRPC](https://spec.open-rpc.org/) says: [`OPENRPC`], or that of the host's.
pub const RPC_DISCOVER: &str = "rpc.discover";
/// [`crate::registry::Filter`] (its names) → [`ListResult`].
pub const REGISTRY_LIST: &str = "registry.list";
/// [`InstanceParams`] → [`crate::model::Entry`].
pub const REGISTRY_GET: &str = "registry.get";
/// [`RegisterParams`] → [`RegisterResult`], once it is durable.
pub const REGISTRY_REGISTER: &str = "registry.register";
/// [`RenewParams`] → [`RenewResult`].
pub const REGISTRY_RENEW: &str = "registry.renew";
/// [`UpdateParams`] → [`WriteResult`], once it is durable.
pub const REGISTRY_UPDATE: &str = "registry.update";
/// [`DeregisterParams`] → [`WriteResult`], once it is durable.
pub const REGISTRY_DEREGISTER: &str = "registry.deregister";
/// [`ResolveParams`] → [`ResolveResult`].
pub const REGISTRY_RESOLVE: &str = "registry.resolve";
/// [`Empty`] → [`ExportResult`].
pub const REGISTRY_EXPORT: &str = "registry.export";
/// [`ImportParams`] → [`ImportResult`], once it is durable.
pub const REGISTRY_IMPORT: &str = "registry.import";
/// [`EventsListParams`] → [`EventsListResult`].
pub const EVENTS_LIST: &str = "events.list";
/// [`SubscribeParams`] → [`SubscribeResult`], then notifications.
pub const EVENTS_SUBSCRIBE: &str = "events.subscribe";
/// [`SubscriptionParams`] → [`Empty`].
pub const EVENTS_UNSUBSCRIBE: &str = "events.unsubscribe";

/// The methods that every server has.
pub const METHODS: &[MethodInfo] = &[
    MethodInfo::read(HELLO),
    MethodInfo::read(RPC_DISCOVER),
    MethodInfo::read(REGISTRY_LIST),
    MethodInfo::read(REGISTRY_GET),
    MethodInfo::operate(REGISTRY_REGISTER),
    MethodInfo::operate(REGISTRY_RENEW),
    MethodInfo::operate(REGISTRY_UPDATE),
    MethodInfo::operate(REGISTRY_DEREGISTER),
    MethodInfo::read(REGISTRY_RESOLVE),
    MethodInfo::read(REGISTRY_EXPORT),
    MethodInfo::operate(REGISTRY_IMPORT),
    MethodInfo::read(EVENTS_LIST),
    MethodInfo::read(EVENTS_SUBSCRIBE),
    MethodInfo::read(EVENTS_UNSUBSCRIBE),
];

/// The description of the methods that every server has.
pub const OPENRPC: &str = include_str!("../../openrpc.json");

/// Notification: [`SnapshotNote`].
pub const EVENTS_SNAPSHOT: &str = "events.snapshot";
/// Notification: [`EventNote`].
pub const EVENTS_EVENT: &str = "events.event";
/// Notification: [`DroppedNote`]; the subscription is over.
pub const EVENTS_DROPPED: &str = "events.dropped";

#[cfg(test)]
mod tests {
    use super::agree_between;

    #[test]
    fn the_newest_common_version_is_spoken() {
        for (ours, newest, oldest, agreed) in [
            (1..=1, 1, None, Some(1)),
            (1..=1, 2, Some(1), Some(1)),
            (1..=1, 2, None, None),
            (1..=1, 3, Some(2), None),
            (2..=3, 1, None, None),
            (2..=3, 2, Some(1), Some(2)),
            (2..=3, 9, Some(1), Some(3)),
            (1..=1, 0, None, None),
            (1..=2, 1, Some(7), None),
        ] {
            assert_eq!(agree_between(ours.clone(), newest, oldest), agreed, "{ours:?} {newest} {oldest:?}");
        }
    }
}

//! What goes over a connection: JSON-RPC 2.0 in WebSocket text frames.
//!
//! A client says [`HELLO`] first, then whatever it likes; requests of one connection run at the same time and are
//! answered as they finish, matched by id. What the server says unasked are notifications: [`EVENTS_SNAPSHOT`],
//! [`EVENTS_EVENT`], [`EVENTS_DROPPED`]. Batches (a JSON-RPC array) are refused, as nothing is won by them here. Binary
//! frames are kept for bulk streams and refused until there are any.

pub mod code;
mod message;
mod methods;

pub use message::{
    Answer, Id, Incoming, Request, RpcError, notification, parse_incoming, parse_request, request,
};
pub(crate) use message::{failure, success};
pub use methods::{
    DeregisterParams, DroppedNote, Empty, EventNote, EventsListParams, EventsListResult, HelloParams,
    HelloResult, InstanceParams, ListResult, RegisterParams, ResolveParams, ResolveResult, Resolved,
    SnapshotNote, SubscribeParams, SubscribeResult, SubscriptionParams, UpdateParams, WriteResult,
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
/// [`crate::registry::Filter`] (its names) → [`ListResult`].
pub const REGISTRY_LIST: &str = "registry.list";
/// [`InstanceParams`] → [`crate::model::Entry`].
pub const REGISTRY_GET: &str = "registry.get";
/// [`RegisterParams`] → [`WriteResult`], once it is durable.
pub const REGISTRY_REGISTER: &str = "registry.register";
/// [`UpdateParams`] → [`WriteResult`], once it is durable.
pub const REGISTRY_UPDATE: &str = "registry.update";
/// [`DeregisterParams`] → [`WriteResult`], once it is durable.
pub const REGISTRY_DEREGISTER: &str = "registry.deregister";
/// [`ResolveParams`] → [`ResolveResult`].
pub const REGISTRY_RESOLVE: &str = "registry.resolve";
/// [`EventsListParams`] → [`EventsListResult`].
pub const EVENTS_LIST: &str = "events.list";
/// [`SubscribeParams`] → [`SubscribeResult`], then notifications.
pub const EVENTS_SUBSCRIBE: &str = "events.subscribe";
/// [`SubscriptionParams`] → [`Empty`].
pub const EVENTS_UNSUBSCRIBE: &str = "events.unsubscribe";

/// The methods that every server has.
pub const METHODS: &[&str] = &[
    HELLO,
    REGISTRY_LIST,
    REGISTRY_GET,
    REGISTRY_REGISTER,
    REGISTRY_UPDATE,
    REGISTRY_DEREGISTER,
    REGISTRY_RESOLVE,
    EVENTS_LIST,
    EVENTS_SUBSCRIBE,
    EVENTS_UNSUBSCRIBE,
];

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

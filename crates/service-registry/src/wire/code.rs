//! Error codes. They are stable: a code is never given another meaning.
//!
//! | range | whose |
//! |---|---|
//! | -32700, -32600 … -32603 | JSON-RPC 2.0 |
//! | -32000 … -32009 | the connection |
//! | -32010 … -32019, -32040 … -32099 | methods that a host adds |
//! | -32020 … -32039 | the registry |

/// A code with its name and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CodeInfo {
    /// The code.
    pub code: i64,
    /// Its name in the description of the API.
    pub name: &'static str,
    /// What it means, and what `data` holds.
    pub meaning: &'static str,
}

/// Names codes, and lists them as `ALL`, with their documentation for what they mean.
#[macro_export]
macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: i64 = $code;)+

        /// All of these.
        pub const ALL: &[$crate::wire::code::CodeInfo] = &[
            $($crate::wire::code::CodeInfo::new($code, stringify!($name), concat!($($doc),+)),)+
        ];
    };
}

impl CodeInfo {
    /// For [`error_codes`].
    pub const fn new(code: i64, name: &'static str, meaning: &'static str) -> Self {
        Self { code, name, meaning }
    }
}

error_codes! {
    /// Not JSON, or nested deeper than 128.
    PARSE_ERROR = -32700;
    /// JSON, but no request.
    INVALID_REQUEST = -32600;
    /// There is no such method; `data.methods` lists what there is.
    METHOD_NOT_FOUND = -32601;
    /// Parameters are missing or of the wrong type.
    INVALID_PARAMS = -32602;
    /// Something broke in the server.
    INTERNAL_ERROR = -32603;
    /// `hello` must come first.
    HELLO_REQUIRED = -32000;
    /// The two sides don't speak the same protocol; `data` has `protocol` of the server and its `server` version.
    PROTOCOL_MISMATCH = -32001;
    /// The message is larger than the server takes; the connection ends. `data.limit` in bytes.
    TOO_LARGE = -32002;
    /// Too many requests are open on this connection; `data.limit`.
    TOO_MANY_REQUESTS = -32003;
    /// Too many subscriptions on this connection; `data.limit`.
    TOO_MANY_SUBSCRIPTIONS = -32004;
    /// The server is ending.
    SHUTTING_DOWN = -32005;
    /// The caller may not do that; `data` has the scope that the method `needs` and the one that the caller `has`.
    FORBIDDEN = -32006;
    /// More requests a second than a connection may make; `data` has the `limit` and `retry_after_ms`. Nothing was done.
    TOO_FAST = -32007;
    /// Too many streams are open on this connection; `data.limit`.
    TOO_MANY_STREAMS = -32008;
    /// A stream is over before its end: its sender gave up, fell silent, or sent more than it was allowed.
    STREAM_BROKEN = -32009;
    /// There is no such instance or subscription.
    NOT_FOUND = -32020;
    /// The instance exists; `data.revision` is its revision.
    EXISTS = -32021;
    /// The entry isn't at the revision that was given; `data.revision` is its revision.
    CONFLICT = -32022;
    /// An instance can't go from its state to that one; `data` has `from` and `to`.
    NOT_ALLOWED = -32023;
    /// The entry breaks rules; `data.problems` lists all of them with `field` and `problem`.
    INVALID_ENTRY = -32024;
    /// The instance is looked after by the server's own program.
    NOT_YOURS = -32025;
    /// Changes since that revision aren't known any more: subscribe without `since`. `data` has `oldest` and `current`.
    REVISION_GONE = -32026;
    /// The write stands but could not be made durable; it is still tried.
    NOT_DURABLE = -32027;
    /// The entry is held by a lease and this isn't it, or the lease is over: register anew.
    NOT_YOUR_LEASE = -32028;
}

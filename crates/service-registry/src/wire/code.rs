//! Error codes. They are stable: a code is never given another meaning.
//!
//! | range | whose |
//! |---|---|
//! | -32700, -32600 … -32603 | JSON-RPC 2.0 |
//! | -32000 … -32009 | the connection |
//! | -32010 … -32019, -32040 … -32099 | methods that a host adds |
//! | -32020 … -32039 | the registry |

/// Not JSON, or nested deeper than 128.
pub const PARSE_ERROR: i64 = -32700;
/// JSON, but no request.
pub const INVALID_REQUEST: i64 = -32600;
/// There is no such method; `data.methods` lists what there is.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// Parameters are missing or of the wrong type.
pub const INVALID_PARAMS: i64 = -32602;
/// Something broke in the server.
pub const INTERNAL_ERROR: i64 = -32603;

/// `hello` must come first.
pub const HELLO_REQUIRED: i64 = -32000;
/// The two sides don't speak the same protocol; `data` has `protocol` of the server and its `server` version.
pub const PROTOCOL_MISMATCH: i64 = -32001;
/// The message is larger than the server takes; the connection ends. `data.limit` in bytes.
pub const TOO_LARGE: i64 = -32002;
/// Too many requests are open on this connection; `data.limit`.
pub const TOO_MANY_REQUESTS: i64 = -32003;
/// Too many subscriptions on this connection; `data.limit`.
pub const TOO_MANY_SUBSCRIPTIONS: i64 = -32004;
/// The server is ending.
pub const SHUTTING_DOWN: i64 = -32005;

/// There is no such instance or subscription.
pub const NOT_FOUND: i64 = -32020;
/// The instance exists; `data.revision` is its revision.
pub const EXISTS: i64 = -32021;
/// The entry isn't at the revision that was given; `data.revision` is its revision.
pub const CONFLICT: i64 = -32022;
/// An instance can't go from its state to that one; `data` has `from` and `to`.
pub const NOT_ALLOWED: i64 = -32023;
/// The entry breaks rules; `data.problems` lists all of them with `field` and `problem`.
pub const INVALID_ENTRY: i64 = -32024;
/// The instance is looked after by the server's own program.
pub const NOT_YOURS: i64 = -32025;
/// Changes since that revision aren't known any more: subscribe without `since`. `data` has `oldest` and `current`.
pub const REVISION_GONE: i64 = -32026;
/// The write stands but could not be made durable; it is still tried.
pub const NOT_DURABLE: i64 = -32027;

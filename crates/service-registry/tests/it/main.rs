//! The registry from outside: stores, core, server and client.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests count as production code otherwise")]

mod bad_input;
mod figures;
mod limits;
mod registry;
mod server;
mod store;
mod support;
mod watch;

//! The registry from outside: stores, core, server and client.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests count as production code otherwise")]

mod access;
mod bad_input;
mod figures;
mod files;
mod framing;
mod interleavings;
mod leases;
mod limits;
mod openrpc;
mod package;
mod registry;
mod server;
mod stdio;
mod store;
mod store_log;
mod streams;
mod support;
mod tls;
mod transfer;
mod watch;

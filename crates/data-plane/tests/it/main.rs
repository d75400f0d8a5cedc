//! Data planes as processes, with real sockets on loopback.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests count as production code otherwise")]

mod control;
mod doors;
mod links;
mod serving;
mod support;
mod tunnels;
mod ways;
mod zone;

//! Several ends of tunnels in one process, on 127.0.0.1.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests count as production code otherwise")]

mod faults;
mod laboratory;
mod streams;
mod world;

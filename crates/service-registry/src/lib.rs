//! Who is where, told to all.
//!
//! # Theory of operation
//!
//! ```text
//!  host ──► Registry ──► Subscription (in-process)        client ── WebSocket ── Server
//!             │  one lock, held for microseconds             │                     │ one task per connection
//!             ▼                                              ▼                     ▼
//!           Store: batches in, one writer, one fsync     Driver, Watcher        Registry + the host's Methods
//! ```
//!
//! **The truth is in memory.** [`registry::Registry`] answers reads and takes writes at once. A write gets the next
//! revision, makes exactly one event, and is handed to the [`store`] in that order, all under one short lock. What it
//! returns holds a ticket that resolves when the write is safe from a crash: the host waits for it where it promises
//! something, and doesn't where it only notes what it can find out again. The API answers a write only when it is durable.
//!
//! **The store gathers.** While one record of its log is being synced, everything that comes in waits in a map that holds one
//! update per slot; the next record takes all of it, and what is logged is brought into a table behind everybody's back. A disk that fails is tried until it works, and whoever waits is
//! told.
//!
//! **Revisions never go back.** They are given out below a ceiling that is durable before they are. After a crash they go on
//! above the ceiling, so a revision that a reader saw, of a change that was lost, is never used for another; such a reader is
//! told to take a snapshot. After [`registry::Registry::close`] they go on where they were.
//!
//! **Subscriptions can be trusted.** A snapshot and the place in the queue are taken under the same lock, so nothing is
//! missed or doubled in between. A reader that doesn't keep up is dropped with a reason and resumes by revision from a
//! history that survives restarts. On the client's side [`client::Watcher`] does all of this by itself.
//!
//! **What comes from outside may be leased.** A program that nobody here started registers itself with a time to live and
//! renews it ([`client::Registration`]). When it doesn't, its entry is marked as lost, which nobody is given for an address, and
//! removed after a grace; each step is one event. What is due when is a pure function of the time since boot; one task of
//! the server carries it out. Only whoever has the lease's id changes the entry.
//!
//! **Nothing of one connection waits for another.** Each is a task with its own bounded queues, timeouts and heartbeat; see
//! [`server::Limits`]. The [`wire`] is JSON-RPC 2.0 in WebSocket text frames behind a `hello` that compares protocol versions;
//! bulk data goes in binary frames with credit ([`wire::frame`]), and calls go before it.
//!
//! # Rooms
//!
//! [`model`] (what is known) · [`store`] (what survives) · [`registry`] (the truth and its events) · [`wire`] (what is said) ·
//! [`tls`] and [`access`] (who may come in by TCP) · [`server`] and [`client`] (who says it) · [`package`] (what is
//! deployed) · [`files`] (what else travels). A store shared between machines lives in a crate of its own behind
//! [`store::Store`].

pub mod access;
pub mod client;
pub mod files;
pub mod model;
#[cfg(feature = "openrpc")]
pub mod openrpc;
pub mod package;
pub mod registry;
pub mod server;
pub mod store;
pub mod tls;
pub mod wire;

mod unix;

/// The example of the README is compiled with the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

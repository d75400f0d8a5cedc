#![doc = include_str!("../README.md")]
//!
//! # Theory of operation
//!
//! ```text
//!            target                  launcher                          process, event
//! wanted ──► lowers to a Command ──► rewrites it, the innermost ──► a handle that owns it,
//!      │                             spawns it                       events that tell of it
//!      └───► lowers to a RunSpec ──► keeper: outlives us ─────────► RUN.log ──► log: read, follow
//! ```
//!
//! A target and a place know nothing of each other: a target turns verbs into [`command::Command`] values, a
//! [`launcher::Launcher`] only rewrites such a value and hands it inward, so that places nest. There is one place
//! that spawns ([`launcher::LocalLauncher`]; keepers fork in their own room), one that quotes
//! ([`command::quote`]), and `unsafe` in one room ([`keeper`]).
//!
//! There are two kinds of life. A one-shot command belongs to its [`process::ProcessHandle`]: its process group ends
//! when it exits, when its time is over, or when the handle is dropped. A managed process belongs to its keeper and
//! is found again by its files. Things started by others belong to others: an [`attacher::Attacher`] only looks on,
//! and signals nothing whose identity it hasn't checked.
//!
//! Reading is apart from owning: events come from a stream beside the handle, logs from files beside the keeper.
//! Every buffer has a limit and every wait an end or an event that ends it.

pub mod command;
pub mod event;
pub mod process;

pub mod launcher;

pub mod target;

pub mod executor;

pub mod attacher;

pub mod keeper;

pub mod log;

//! What is said while an agent is brought up, between the line of the shell there and the stream of bytes.
//!
//! Each word is a line that begins with a mark, made of random digits for each time: what profiles and banners print is
//! told apart by it.

use serde::{Deserialize, Serialize};

/// Addresses and ports of the connection, as sshd there says: `link 10.0.0.1 50000 10.0.0.2 22`.
pub(super) const LINK: &str = "link";
/// The agent's program is there: `have`.
pub(super) const HAVE: &str = "have";
/// It isn't: `need x86_64 KIB gzip`, with the room there and whether it can be sent compressed.
pub(super) const NEED: &str = "need";
/// It is now, whole and able to run: `copied`.
pub(super) const COPIED: &str = "copied";
/// It was there and isn't any more, with what stopping it said: `removed TEXT`.
pub(super) const REMOVED: &str = "removed";
/// It wasn't there: `none`.
pub(super) const NONE: &str = "none";
/// It can't be done: `fail KIND TEXT`.
pub(crate) const FAIL: &str = "fail";
/// The agent runs, and what follows is its socket: `ready` and [`Up`] as JSON.
pub(crate) const READY: &str = "ready";

/// An agent that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Up {
    /// Which program exactly.
    pub(crate) build: String,
    /// Its version.
    pub(crate) version: String,
    /// Its process there.
    pub(crate) pid: u32,
}

/// A word with its mark. What was printed before without an end is ended first.
pub(crate) fn line(mark: &str, text: &str) -> String {
    format!("\n{mark} {}\n", text.replace(['\n', '\r'], " "))
}

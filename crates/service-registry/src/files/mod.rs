//! Files and folders that travel to another machine, of which only what is missing there goes over the wire.
//!
//! # Theory of operation
//!
//! ```text
//!  here                                            there
//!  scan ── every file cut into chunks, hashed ──►  Receiver::begin: which chunks are in the old files, or came before?
//!       ◄── the numbers of those that are missing ─┘
//!  push ── these, read again, hashed, packed ───►  take: into a pack, which outlives a connection that breaks
//!                                                  finish: every new file beside its place, then one rename each
//! ```
//!
//! **Cuts follow the content.** [`chunk`] finds them with a rolling hash, so that a byte put in moves one or two of them and no
//! more: what was there before is found again wherever it lies.
//!
//! **Nothing is believed.** A chunk is known by its SHA-256. It is hashed when it is read here, when it comes, and when a new file
//! is made of it there. A file that changes while it is read is read anew; a chunk that is damaged there is asked for again.
//!
//! **Nothing is half there.** New files are written beside their places, all of them, before the first is renamed. What has
//! come of a transfer that broke off stays in its pack, and the next one goes on from it. A package comes into a folder that is
//! nobody's yet, so there it is written to its place at once, and compared as a whole before it is installed.
//!
//! Both ends are the same program, so that how it cuts is no part of a format. [`scan()`] and [`Receiver`] block.

mod beside;
pub mod chunk;
mod old;
mod pack;
mod packed;
mod push;
mod receive;
mod scan;
mod staged;
mod wire;

pub use push::{PushError, Pushed, push, push_scanned};
pub use receive::{Places, ReceiveError, Received, Receiver};
pub use scan::{Scan, ScanError, scan};
pub use wire::{Chunk, Copy, Entry, Kind, Opened, PUT, PackagePlace, PutParams};

use std::path::PathBuf;

/// What should be where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// A file or folder of this machine.
    pub source: PathBuf,
    /// Where it goes there.
    pub destination: PathBuf,
}

//! Packages: a program with its scripts and settings in one file, built, signed, checked, unpacked and switched to.
//!
//! # Theory of operation
//!
//! ```text
//!  folder ── build ──► NAME-VERSION.tar.zst ── sign ──► .minisig        the same input gives the same bytes
//!                              │
//!                              ▼  sign::PublicKey, before anything is unpacked
//!                      unpack ──► .harness/NAME/new-…        every entry looked at, hashed, compared with the manifest
//!                              │ rename
//!                              ▼
//!                      NAME-VERSION/ ◄── NAME-current        a link, switched by one rename
//! ```
//!
//! **An archive is hostile until it was compared.** [`unpack`] is the only loop over one. It knows files, folders and links
//! inside the tree, and refuses all else by name. It writes through descriptors that can't leave the folder they began in.
//! What it has seen is compared with the manifest, entry by entry; only then the caller gets to know that it is there.
//!
//! **Nothing is half installed.** [`install`] unpacks beside the place, renames, and switches a link. Killed at any moment,
//! either the old version or the new one is current, and the next run removes what was left lying about. The link is the
//! truth; the history says what was current before it.
//!
//! **Text is read elsewhere.** A manifest is YAML, which this crate doesn't read: whoever calls hands in a [`ReadManifest`].
//! What the builder writes is JSON, which is YAML too.
//!
//! Everything here blocks: it reads and writes files, and asks the caller's callback between two steps.

pub mod manifest;
pub mod name;

pub mod archive;
pub mod build;

pub mod folder;
pub mod sign;
pub mod unpack;

pub mod history;
pub mod install;

pub mod hash;
mod tree;

/// Reads the text of a manifest.
///
/// The error is what is wrong with the text, a line for each problem. What must hold beyond the text
/// ([`manifest::Manifest::problems`]) is checked by whoever calls this.
pub type ReadManifest<'a> = &'a dyn Fn(&str) -> Result<manifest::Manifest, String>;

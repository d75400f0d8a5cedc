//! Reads services.yaml: a text becomes a checked [`Stack`], or a list of everything that is wrong with it.
//!
//! # How it works
//!
//! [`discover()`] finds the file, [`load()`] reads it. The text is parsed into a tree in which every key and value knows its
//! place; templates are merged into the services that extend them; each value is read by its own reader, which replaces
//! `${VAR}` in the scalar that it looks at (so that a value can never become syntax) and leaves `${service.field}` as a
//! hole; the parts are checked against each other; and if no error was found, what was written is lowered to what is meant.
//!
//! No step stops at the first problem. Problems are data ([`Diagnostic`]); [`render`] paints them.
//!
//! The manifest of a package is read the same way, without variables: [`read_manifest`].
//!
//! Nothing here reads the environment, prints, or touches other files than services.yaml, its `env_file`s and, to tell
//! whether they exist, the programs and folders that it names; all through [`Files`].

mod discover;
mod load;
mod manifest;
mod source;

mod diagnostic;

mod syntax;

mod environment;
mod reference;
mod substitute;

mod check;
mod lower;

mod schema;
mod show;

pub use diagnostic::{Diagnostic, Severity, has_errors, location, render, to_json};
pub use discover::{DiscoverError, FILE_NAMES, discover};
pub use load::{LoadOptions, Loaded, load, load_str, project_name};
pub use manifest::{ManifestRead, packed_manifest, read_manifest};
pub use schema::json_schema;
pub use show::{Resolved, render_stack, resolved};

pub use source::{
    Disk, FileKind, Files, MAX_FILE_BYTES, NoFiles, Position, ReadError, Source, Sources, Span,
};

pub use orchestrator::model::Stack;

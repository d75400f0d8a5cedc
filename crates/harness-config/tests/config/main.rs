//! services.yaml in, a stack or diagnostics out.

#![allow(clippy::unwrap_used, clippy::panic, reason = "all of it is tests")]

mod diagnostics;
mod docs;
mod hostile;
mod manifest;
mod meaning;
mod properties;
mod support;

//! What may be written in services.yaml, and the readers of it: a file for each kind of value.

pub(crate) mod duration;
pub(crate) mod extends;
pub(crate) mod file;
pub(crate) mod health;
pub(crate) mod keys;
pub(crate) mod manifest;
pub(crate) mod network;
pub(crate) mod policy;
pub(crate) mod port;
pub(crate) mod reader;
pub(crate) mod service;
pub(crate) mod size;
pub(crate) mod target;
pub(crate) mod tree;
pub(crate) mod variables;
pub(crate) mod words;
pub(crate) mod zone;

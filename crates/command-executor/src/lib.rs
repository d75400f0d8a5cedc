//! Run a command, in a place, and own what becomes of it.

pub mod command;
pub mod event;
pub mod process;

pub mod launcher;

pub mod target;

pub mod executor;

pub mod attacher;

pub mod keeper;

pub mod log;

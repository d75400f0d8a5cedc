//! What an instance is. A target only lowers: it turns what is wanted into values that others carry out.
//!
//! - A one-shot [`Command`](crate::command::Command) is a target as it is: it lowers to itself and ends with its
//!   [handle](crate::process::ProcessHandle).
//! - A [`ManagedProcess`] runs long and outlives its caller: it lowers to a [`RunSpec`](crate::keeper::RunSpec) for a
//!   keeper.
//! - What somebody else keeps lowers each verb, start, stop, status, logs and exec, to a `Command` for a
//!   [launcher](crate::launcher), and reads back what that printed: containers ([`docker`]), Compose
//!   services ([`compose`]), units
//!   ([`systemd`]) and those that come with an image ([`portable`]), and what brings its own commands
//!   ([`ManagedService`]).
//!
//! Each is a file or folder of this one. None does any IO.

mod managed_process;
mod managed_service;

mod text;

pub mod compose;
pub mod docker;
pub mod portable;
pub mod systemd;

pub use managed_process::{ManagedProcess, ManagedProcessError};
pub use managed_service::{ManagedService, ManagedServiceError, ManagedStatus};

//! What an instance is. A target only lowers: it turns what is wanted into values that others carry out.
//!
//! - A one-shot [`Command`](crate::command::Command) is a target as it is: it lowers to itself and ends with its
//!   [handle](crate::process::ProcessHandle).
//! - A [`ManagedProcess`] runs long and outlives its caller: it lowers to a [`RunSpec`](crate::keeper::RunSpec) for a
//!   keeper.
//!
//! Targets that somebody else keeps (containers, Compose services, units) lower each verb, start, stop, status, logs
//! and exec, to a `Command` for a [launcher](crate::launcher). Each is a file of this folder.

mod managed_process;

pub use managed_process::{ManagedProcess, ManagedProcessError};

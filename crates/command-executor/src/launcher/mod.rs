//! Where a command runs.
//!
//! A launcher only rewrites a [`Command`] and hands it inward; the innermost, [`LocalLauncher`], is the one place
//! that spawns. So places nest: a launcher for another machine would be `SshLauncher<L>`, whose [`Launcher::rewrite`]
//! turns `cmd` into `ssh HOST cmd` for `L`, and `SshLauncher<SudoLauncher<LocalLauncher>>` runs `sudo ssh HOST cmd`
//! here. Each place is a file of this folder. What such a launcher must keep to:
//!
//! - argv becomes text only through [`crate::command::quote::sh`];
//! - values of the environment never enter argv: they travel before the program's own standard input;
//! - what it can't carry (a user, a folder) is refused, not dropped.

mod local;

pub use local::LocalLauncher;

use crate::command::Command;
use crate::process::{ProcessEvents, ProcessHandle};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A place that commands run in. It can be used as `Box<dyn Launcher>`, where configuration decides.
pub trait Launcher: Send + Sync {
    /// The command as it is spawned on this machine in the end.
    ///
    /// # Errors
    /// [`LaunchError::Carry`] if something of the command has no way into that place.
    fn rewrite(&self, command: Command) -> Result<Command, LaunchError>;

    /// Starts it. The process ends with the handle.
    ///
    /// # Errors
    /// The process didn't start: one of [`LaunchError`] says why.
    fn launch(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError>;
}

impl<L: Launcher + ?Sized> Launcher for Box<L> {
    fn rewrite(&self, command: Command) -> Result<Command, LaunchError> {
        (**self).rewrite(command)
    }

    fn launch(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError> {
        (**self).launch(command)
    }
}

impl<L: Launcher + ?Sized> Launcher for Arc<L> {
    fn rewrite(&self, command: Command) -> Result<Command, LaunchError> {
        (**self).rewrite(command)
    }

    fn launch(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError> {
        (**self).launch(command)
    }
}

/// Why a command didn't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The program isn't there; a shell says 127.
    #[error("there is no program {}", .program.display())]
    NotFound {
        /// The program.
        program: OsString,
        /// Why.
        source: io::Error,
    },
    /// The program is there and can't be run, because it is a folder, not executable or not a program; a shell says
    /// 126.
    #[error("{} can't be executed", .program.display())]
    NotExecutable {
        /// The program.
        program: OsString,
        /// Why.
        source: io::Error,
    },
    /// The folder to run in can't be entered.
    #[error("can't enter the folder {}", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The user can't be changed to.
    #[error("can't run {} as user {uid} and group {gid}", .program.display())]
    User {
        /// The program.
        program: OsString,
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// Why.
        source: io::Error,
    },
    /// The process can't be made, for example because a limit is reached.
    #[error("can't start {}", .program.display())]
    Spawn {
        /// The program.
        program: OsString,
        /// Why.
        source: io::Error,
    },
    /// The place has no way to do what the command asks for.
    #[error("can't run {} there: {what}", .program.display())]
    Carry {
        /// The program.
        program: OsString,
        /// What has no way, for people.
        what: String,
    },
}

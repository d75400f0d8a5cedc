//! Where a command runs.
//!
//! A launcher only rewrites a [`Command`] and hands it inward; the innermost, [`LocalLauncher`], is the one place
//! that spawns. So places nest, in any order and to any depth: `SshLauncher<SudoLauncher<LocalLauncher>>` turns `cmd`
//! into `ssh HOST cmd`, and that into `sudo ssh HOST cmd`, which runs here. The outermost type is nearest to the program.
//! Where configuration decides, [`launcher_for`] builds the same from [`Place`]s.
//!
//! What a launcher keeps to:
//!
//! - argv becomes text only through [`crate::command::quote::sh`];
//! - values of the environment, secrets and the program's own argv never enter the argv of ssh, sudo or docker: they
//!   travel through standard input, before the program's own (see `far/`);
//! - what it can't carry (a user, a variable's name) is refused, not dropped;
//! - the program ends when this end is gone, and its real exit is told, which the clients' own isn't;
//! - an error says which step of the way it was, and every wait for a step is bounded.

mod local;
pub use local::LocalLauncher;

mod far;
pub use far::HopKind;
pub(crate) use far::{Far, Hop};

mod error;
pub(crate) use error::{Evidence, explain};
pub use error::{PlaceError, PlaceErrorKind};

mod sudo;
pub use sudo::{Password, Sudo, SudoLauncher};

mod docker;
pub use docker::{DockerExec, DockerExecLauncher};

mod ssh;
pub use ssh::{ConnectionError, Connections, HostKeys, SshHost, SshJump, SshLauncher};

mod place;
pub use place::{Place, launcher_for};

#[cfg(test)]
mod tests;

use crate::command::Command;
use crate::process::{ByteStream, ProcessEvents, ProcessHandle};
use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

/// What [`Launcher::prepare`] gives.
pub type Ready<'a> = Pin<Box<dyn Future<Output = Result<(), LaunchError>> + Send + 'a>>;

/// A place that commands run in. It can be used as `Box<dyn Launcher>`, where configuration decides.
pub trait Launcher: Send + Sync {
    /// The command as it is spawned on this machine in the end.
    ///
    /// # Errors
    /// [`LaunchError::Carry`] if something of the command has no way into that place.
    fn rewrite(&self, command: Command) -> Result<Command, LaunchError>;

    /// The same for a program that takes the place of this one ([`replace`](crate::command::replace)) and with it its
    /// inputs and outputs: nothing stands between the two, so variables have a way only where the client can carry them
    /// by name. With `tty` the program gets a terminal there.
    ///
    /// # Errors
    /// [`LaunchError::Carry`].
    fn rewrite_to_replace(&self, command: Command, tty: bool) -> Result<Command, LaunchError>;

    /// Starts it. The process ends with the handle.
    ///
    /// That a program doesn't start in another place is told later, by the events
    /// ([`ProcessError::Place`](crate::process::ProcessError::Place)).
    ///
    /// # Errors
    /// The process didn't start: one of [`LaunchError`] says why.
    fn launch(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError>;

    /// Starts it with its standard input and output as one stream of bytes. Like [`Self::rewrite_to_replace`], it can't carry
    /// variables, and a program in another place must end by itself when its input does.
    ///
    /// That a place can't be reached is told later: the stream ends, and [`ByteStream::explain`] says why.
    ///
    /// # Errors
    /// The process didn't start: one of [`LaunchError`] says why.
    fn pipe(&self, command: &Command) -> Result<ByteStream, LaunchError>;

    /// Makes what the next launch needs and takes time, for example a connection. A launch works without it, slower.
    ///
    /// # Errors
    /// [`LaunchError::Place`]: the place can't be reached.
    fn prepare(&self) -> Ready<'_> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Learns from an error of this place, and tells whether it is worth to prepare and launch again: only where it is
    /// certain that nothing ran.
    fn recover(&self, error: &PlaceError) -> bool {
        let _ = error;
        false
    }
}

impl<L: Launcher + ?Sized> Launcher for Box<L> {
    fn rewrite(&self, command: Command) -> Result<Command, LaunchError> {
        (**self).rewrite(command)
    }

    fn rewrite_to_replace(&self, command: Command, tty: bool) -> Result<Command, LaunchError> {
        (**self).rewrite_to_replace(command, tty)
    }

    fn launch(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError> {
        (**self).launch(command)
    }

    fn pipe(&self, command: &Command) -> Result<ByteStream, LaunchError> {
        (**self).pipe(command)
    }

    fn prepare(&self) -> Ready<'_> {
        (**self).prepare()
    }

    fn recover(&self, error: &PlaceError) -> bool {
        (**self).recover(error)
    }
}

impl<L: Launcher + ?Sized> Launcher for Arc<L> {
    fn rewrite(&self, command: Command) -> Result<Command, LaunchError> {
        (**self).rewrite(command)
    }

    fn rewrite_to_replace(&self, command: Command, tty: bool) -> Result<Command, LaunchError> {
        (**self).rewrite_to_replace(command, tty)
    }

    fn launch(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError> {
        (**self).launch(command)
    }

    fn pipe(&self, command: &Command) -> Result<ByteStream, LaunchError> {
        (**self).pipe(command)
    }

    fn prepare(&self) -> Ready<'_> {
        (**self).prepare()
    }

    fn recover(&self, error: &PlaceError) -> bool {
        (**self).recover(error)
    }
}

impl<L: Launcher + ?Sized> Launcher for &L {
    fn rewrite(&self, command: Command) -> Result<Command, LaunchError> {
        (**self).rewrite(command)
    }

    fn rewrite_to_replace(&self, command: Command, tty: bool) -> Result<Command, LaunchError> {
        (**self).rewrite_to_replace(command, tty)
    }

    fn launch(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError> {
        (**self).launch(command)
    }

    fn pipe(&self, command: &Command) -> Result<ByteStream, LaunchError> {
        (**self).pipe(command)
    }

    fn prepare(&self) -> Ready<'_> {
        (**self).prepare()
    }

    fn recover(&self, error: &PlaceError) -> bool {
        (**self).recover(error)
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
    /// The place can't be reached, or the program can't be started there.
    #[error(transparent)]
    Place(Box<PlaceError>),
}

impl LaunchError {
    /// The same for another who waited for the same thing.
    pub(crate) fn shared(&self) -> Self {
        match self {
            Self::Place(error) => Self::Place(error.clone()),
            other => Self::Carry {
                program: other.program().to_owned(),
                what: std::error::Error::source(other)
                    .map_or_else(|| other.to_string(), |source| format!("{other}: {source}")),
            },
        }
    }

    fn program(&self) -> &std::ffi::OsStr {
        match self {
            Self::NotFound { program, .. }
            | Self::NotExecutable { program, .. }
            | Self::User { program, .. }
            | Self::Spawn { program, .. }
            | Self::Carry { program, .. } => program,
            Self::Folder { folder, .. } => folder.as_os_str(),
            Self::Place(error) => &error.program,
        }
    }
}

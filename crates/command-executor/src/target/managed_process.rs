//! A long-running program under a keeper.

use crate::command::{Command, Stdin};
use crate::keeper::{LogLimits, RunSpec};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// A program that runs on while its caller may come and go, with its output and exit kept.
///
/// It isn't killed with a handle, and it has no timeout: it runs until it is stopped.
#[derive(Clone, Debug, PartialEq)]
pub struct ManagedProcess {
    /// The name of the instance.
    pub instance: String,
    /// The program. It needs a folder; of [`Stdin`] it can have `Null` and `Piped`.
    pub command: Command,
    /// A user's name or number.
    pub user: Option<String>,
    /// A group's name or number, instead of the user's own.
    pub group: Option<String>,
    /// The number of the signal that asks it to end.
    pub stop_signal: i32,
    /// How long it may take to end before its whole tree is killed.
    pub stop_timeout: Duration,
    /// Limit of open files; `None` leaves what the keeper was told.
    pub open_files: Option<u64>,
    /// Niceness, -20 to 19.
    pub nice: Option<i32>,
    /// A cgroup of its own that exists.
    pub cgroup: Option<PathBuf>,
    /// What is kept of its output.
    pub logs: LogLimits,
}

/// Why a [`ManagedProcess`] can't be run by a keeper.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManagedProcessError {
    /// A keeper has no folder of its own to fall back on.
    #[error("{instance} has no folder to run in")]
    NoFolder {
        /// The instance.
        instance: String,
    },
    /// A keeper outlives whoever starts it, and with it every input that could be inherited.
    #[error("{instance} can't read what its caller reads or was given: it would outlive the caller")]
    Input {
        /// The instance.
        instance: String,
    },
}

impl ManagedProcess {
    /// An instance with nothing special: SIGTERM and ten seconds, no limits.
    pub fn new(instance: impl Into<String>, command: Command) -> Self {
        Self {
            instance: instance.into(),
            command,
            user: None,
            group: None,
            stop_signal: libc::SIGTERM,
            stop_timeout: Duration::from_secs(10),
            open_files: None,
            nice: None,
            cgroup: None,
            logs: LogLimits::default(),
        }
    }

    /// A new run of it, for [`Keepers::start`](crate::keeper::Keepers::start). `inherited` is the environment that
    /// the command starts from.
    ///
    /// # Errors
    /// See [`ManagedProcessError`].
    pub fn lower(
        &self,
        inherited: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<RunSpec, ManagedProcessError> {
        let instance = || self.instance.clone();
        let Some(folder) = self.command.get_current_dir() else {
            return Err(ManagedProcessError::NoFolder { instance: instance() });
        };
        let stdin = match self.command.get_stdin() {
            Stdin::Null => false,
            Stdin::Piped => true,
            Stdin::Inherit | Stdin::Bytes(_) => {
                return Err(ManagedProcessError::Input { instance: instance() });
            }
        };
        let ids = self.command.get_user();
        let mut spec = RunSpec::new(instance(), self.command.argv().map(OsString::from).collect(), folder);
        spec.env = self.command.environment(inherited).into_iter().collect();
        spec.user = self.user.clone().or_else(|| ids.map(|ids| ids.uid.to_string()));
        spec.group = self.group.clone().or_else(|| ids.map(|ids| ids.gid.to_string()));
        spec.stop_signal = self.stop_signal;
        spec.stop_timeout = self.stop_timeout;
        spec.open_files = self.open_files;
        spec.nice = self.nice;
        spec.cgroup.clone_from(&self.cgroup);
        spec.logs = self.logs;
        spec.stdin = stdin;
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_in_the_spec() {
        let command =
            Command::new("web").args(["-p", "80"]).env("A", "1").current_dir("/srv").stdin(Stdin::Piped);
        let mut process = ManagedProcess::new("web-1", command);
        process.user = Some("www".into());
        process.nice = Some(5);
        let spec = process.lower([("B".into(), "2".into())]).unwrap();
        assert_eq!(spec.argv, ["web", "-p", "80"]);
        assert_eq!(spec.env, [("A", "1"), ("B", "2")].map(|(name, value)| (name.into(), value.into())));
        assert_eq!((spec.instance.as_str(), spec.cwd.as_path()), ("web-1", std::path::Path::new("/srv")));
        assert_eq!((spec.user.as_deref(), spec.nice, spec.stdin), (Some("www"), Some(5), true));
    }

    #[test]
    fn what_a_keeper_cannot_give_is_refused() {
        let no_folder = ManagedProcess::new("web-1", Command::new("web"));
        assert!(matches!(no_folder.lower([]), Err(ManagedProcessError::NoFolder { .. })));
        for stdin in [Stdin::Inherit, Stdin::Bytes(Vec::new())] {
            let process = ManagedProcess::new("web-1", Command::new("web").current_dir("/").stdin(stdin));
            assert!(matches!(process.lower([]), Err(ManagedProcessError::Input { .. })));
        }
    }
}

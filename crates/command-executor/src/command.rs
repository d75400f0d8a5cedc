//! What to run: a value that nothing happens to until a [launcher](crate::launcher) gets it.
//!
//! Launchers for other places take a `Command` apart and build another around it; [`quote`] is the only function
//! that turns an argv into text for a shell.

pub mod quote;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process as std_process;
use std::time::Duration;

use crate::launcher::Far;

/// What a program reads as its standard input.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Stdin {
    /// Nothing.
    #[default]
    Null,
    /// What this program reads.
    Inherit,
    /// These bytes, then its end. They are written while the process's events are read.
    Bytes(Vec<u8>),
    /// What is written to the handle.
    Piped,
}

impl fmt::Debug for Stdin {
    /// The bytes may be secrets: only how many there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Inherit => f.write_str("Inherit"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Piped => f.write_str("Piped"),
        }
    }
}

/// Whom a program runs as, by number. Changing needs the privilege to; supplementary groups are dropped then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserIds {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// A program with its arguments, environment and folder.
///
/// Like [`std::process::Command`], it starts from the environment of the place where it runs. Unlike it, it is a
/// value: it can be cloned, compared, kept, and rewritten by launchers. Its standard input is empty unless said
/// otherwise, and its outputs are always read by whoever launches it.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    env_clear: bool,
    env: BTreeMap<OsString, Option<OsString>>,
    folder: Option<PathBuf>,
    stdin: Stdin,
    user: Option<UserIds>,
    timeout: Option<Duration>,
    /// Whether what it leaves in its process group lives on.
    pub(crate) leaves_group: bool,
    /// What it carries to another place; set by launchers only.
    pub(crate) far: Option<Box<Far>>,
}

impl Command {
    /// A program: a path, or a name that is searched in the `PATH` of the command's environment.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env_clear: false,
            env: BTreeMap::new(),
            folder: None,
            stdin: Stdin::Null,
            user: None,
            timeout: None,
            leaves_group: false,
            far: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), Some(value.into()));
        self
    }

    /// Sets variables.
    #[must_use]
    pub fn envs<N: Into<OsString>, V: Into<OsString>>(
        mut self,
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.env.extend(pairs.into_iter().map(|(name, value)| (name.into(), Some(value.into()))));
        self
    }

    /// Takes a variable away, also one of the place where it runs.
    #[must_use]
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), None);
        self
    }

    /// Starts from an empty environment and forgets what was set so far.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.env_clear = true;
        self.env.clear();
        self
    }

    /// Sets the folder it runs in.
    #[must_use]
    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Sets what it reads.
    #[must_use]
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// Sets whom it runs as.
    #[must_use]
    pub fn user(mut self, user: UserIds) -> Self {
        self.user = Some(user);
        self
    }

    /// Sets how long it may take before an [executor](crate::executor) ends it.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The program.
    pub fn get_program(&self) -> &OsStr {
        &self.program
    }

    /// The arguments, without the program.
    pub fn get_args(&self) -> &[OsString] {
        &self.args
    }

    /// The program and its arguments.
    pub fn argv(&self) -> impl Iterator<Item = &OsStr> {
        std::iter::once(self.program.as_os_str()).chain(self.args.iter().map(OsString::as_os_str))
    }

    /// What is set (`Some`) and taken away (`None`), by name.
    pub fn get_envs(&self) -> impl Iterator<Item = (&OsStr, Option<&OsStr>)> {
        self.env.iter().map(|(name, value)| (name.as_os_str(), value.as_deref()))
    }

    /// Whether it starts from an empty environment.
    pub fn is_env_clear(&self) -> bool {
        self.env_clear
    }

    /// The folder it runs in; `None` is that of the launcher.
    pub fn get_current_dir(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// What it reads.
    pub fn get_stdin(&self) -> &Stdin {
        &self.stdin
    }

    /// Whom it runs as; `None` is whoever launches it.
    pub fn get_user(&self) -> Option<UserIds> {
        self.user
    }

    /// How long it may take; `None` is as long as it wants.
    pub fn get_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The whole environment that it gets where `inherited` is the environment.
    pub fn environment(
        &self,
        inherited: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> BTreeMap<OsString, OsString> {
        let mut all = BTreeMap::new();
        if !self.env_clear {
            all.extend(inherited);
        }
        for (name, value) in &self.env {
            match value {
                Some(value) => all.insert(name.clone(), value.clone()),
                None => all.remove(name),
            };
        }
        all
    }

    /// The same for the standard library, without inputs and outputs.
    pub(crate) fn to_std(&self) -> std_process::Command {
        let mut command = std_process::Command::new(&self.program);
        command.args(&self.args);
        if self.env_clear {
            command.env_clear();
        }
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        if let Some(UserIds { uid, gid }) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl fmt::Debug for Command {
    /// Variables by their names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (set, removed): (Vec<_>, Vec<_>) = self.env.iter().partition(|(_, value)| value.is_some());
        let names = |pairs: Vec<(&OsString, &Option<OsString>)>| {
            pairs.into_iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        f.debug_struct("Command")
            .field("argv", &self.argv().collect::<Vec<_>>())
            .field("env_clear", &self.env_clear)
            .field("env", &names(set))
            .field("env_remove", &names(removed))
            .field("current_dir", &self.folder)
            .field("stdin", &self.stdin)
            .field("user", &self.user)
            .field("timeout", &self.timeout)
            .field("far", &self.far)
            .finish()
    }
}

/// Runs the command in the place of this program (execve(2)), with its inputs and outputs; it returns only to say
/// why that failed.
///
/// Destructors don't run. [`Stdin`] and the timeout of the command have no meaning here. After a failure the
/// program should end soon: its folder may be another one.
#[must_use]
pub fn replace(command: &Command) -> ReplaceError {
    let source = command.to_std().exec();
    ReplaceError { program: command.program.clone(), source }
}

/// Why [`replace`] came back. The kind of the source tells what a shell tells by 127 (not found) and 126.
#[derive(Debug, thiserror::Error)]
#[error("can't run {}", .program.display())]
pub struct ReplaceError {
    /// The program.
    pub program: OsString,
    /// Why.
    pub source: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_value_of_the_environment_and_no_input() {
        let command = Command::new("sh")
            .env("PASSWORD", "hunter2")
            .env_remove("HOME")
            .stdin(Stdin::Bytes(b"hunter2".to_vec()));
        let text = format!("{command:?} {command:#?}");
        assert!(text.contains("PASSWORD") && text.contains("HOME"), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("104"), "{text}");
    }

    #[test]
    fn the_environment_is_inherited_then_set_then_taken_away() {
        let inherited = || [("A", "1"), ("B", "2")].map(|(name, value)| (name.into(), value.into()));
        let command = Command::new("x").env("B", "3").env("C", "4").env_remove("A");
        let pairs: Vec<_> = command.environment(inherited()).into_iter().collect();
        assert_eq!(pairs, [("B", "3"), ("C", "4")].map(|(name, value)| (name.into(), value.into())));
        let cleared = command.env_clear().env("D", "5").environment(inherited());
        assert_eq!(cleared.into_keys().collect::<Vec<_>>(), ["D"]);
    }
}

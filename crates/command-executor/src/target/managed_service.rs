//! A service that brings its own commands: start, stop, status and logs.

use crate::command::Command;
use crate::executor::Finished;
use crate::process::Exit;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How long a question may take.
const QUERY: Duration = Duration::from_secs(30);
/// What its stop command may take beyond the time that the service was given to end.
const MARGIN: Duration = Duration::from_secs(30);

/// A service that its own commands start and stop, as an init script does.
///
/// Each command is a program with its arguments, run without a shell. They end; the service doesn't. It must write
/// somewhere else than its start command: what nobody reads any more ends it at its next line.
#[derive(Clone, PartialEq, Eq)]
pub struct ManagedService {
    /// Its name, for messages.
    pub name: String,
    /// Starts it and ends when it is started, with 0.
    pub start: Vec<String>,
    /// Stops it and ends when it is stopped, with 0.
    pub stop: Vec<String>,
    /// Ends with 0 if it runs, and with another code if it doesn't.
    pub status: Vec<String>,
    /// Prints its log.
    pub logs: Option<Vec<String>>,
    /// Variables for all of them.
    pub env: BTreeMap<String, String>,
    /// The folder for all of them.
    pub folder: Option<PathBuf>,
    /// How long the start may take.
    pub start_timeout: Duration,
}

/// Whether it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManagedStatus {
    /// It does.
    Running,
    /// It doesn't.
    NotRunning {
        /// How its status command ended: `exit code 3`.
        exit: Exit,
        /// The first line that it wrote.
        said: String,
    },
}

/// Why a service's own command didn't do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManagedServiceError {
    /// It has no such command.
    #[error("{name} has no command to {verb}")]
    NoCommand {
        /// The service.
        name: String,
        /// What there is no command for.
        verb: &'static str,
    },
    /// Its command failed.
    #[error("{name}'s command to {verb} it failed ({exit}): {said}")]
    Failed {
        /// The service.
        name: String,
        /// What it is for.
        verb: &'static str,
        /// How it ended.
        exit: Exit,
        /// The last line that it wrote.
        said: String,
    },
}

impl ManagedService {
    fn command(&self, argv: &[String], verb: &'static str) -> Result<Command, ManagedServiceError> {
        let Some((program, args)) = argv.split_first() else {
            return Err(ManagedServiceError::NoCommand { name: self.name.clone(), verb });
        };
        let command = Command::new(program).args(args).envs(self.env.clone());
        Ok(match &self.folder {
            Some(folder) => command.current_dir(folder),
            None => command,
        })
    }

    /// Starts it, in a session of its own (by `setsid`): a command's process group ends with it, and what this one leaves
    /// running is the service. When its time is over, only the waiting ends.
    ///
    /// # Errors
    /// [`ManagedServiceError::NoCommand`].
    pub fn start(&self) -> Result<Command, ManagedServiceError> {
        if self.start.is_empty() {
            return Err(ManagedServiceError::NoCommand { name: self.name.clone(), verb: "start" });
        }
        let argv: Vec<String> =
            ["setsid", "--wait"].into_iter().map(str::to_owned).chain(self.start.iter().cloned()).collect();
        Ok(self.command(&argv, "start")?.timeout(self.start_timeout))
    }

    /// Stops it; `grace` bounds how long its command may take, with some time to spare.
    ///
    /// # Errors
    /// [`ManagedServiceError::NoCommand`].
    pub fn stop(&self, grace: Duration) -> Result<Command, ManagedServiceError> {
        Ok(self.command(&self.stop, "stop")?.timeout(grace + MARGIN))
    }

    /// Asks whether it runs: [`Self::parse_status`].
    ///
    /// # Errors
    /// [`ManagedServiceError::NoCommand`].
    pub fn status(&self) -> Result<Command, ManagedServiceError> {
        Ok(self.command(&self.status, "ask")?.timeout(QUERY))
    }

    /// Prints its log; whether that ends or follows is its own matter, and so the bound is the caller's.
    ///
    /// # Errors
    /// [`ManagedServiceError::NoCommand`].
    pub fn logs(&self) -> Result<Command, ManagedServiceError> {
        self.command(self.logs.as_deref().unwrap_or_default(), "show the log")
    }

    /// What its status command meant: 0 is running, another code is not. A signal, 126 and 127 mean that the command itself
    /// couldn't be run.
    ///
    /// # Errors
    /// [`ManagedServiceError::Failed`].
    pub fn parse_status(&self, finished: &Finished) -> Result<ManagedStatus, ManagedServiceError> {
        match finished.exit {
            Exit::Code(0) => Ok(ManagedStatus::Running),
            Exit::Code(126 | 127) | Exit::Signal(_) => Err(self.failed("ask", finished)),
            exit @ Exit::Code(_) => {
                let said = [&finished.stdout, &finished.stderr].map(|output| output.to_text());
                let said = said.iter().flat_map(|text| text.lines()).find(|line| !line.trim().is_empty());
                Ok(ManagedStatus::NotRunning { exit, said: said.unwrap_or_default().to_owned() })
            }
        }
    }

    /// Whether its command to start or stop it did that.
    ///
    /// # Errors
    /// [`ManagedServiceError::Failed`].
    pub fn check(&self, verb: &'static str, finished: &Finished) -> Result<(), ManagedServiceError> {
        if finished.exit.is_success() { Ok(()) } else { Err(self.failed(verb, finished)) }
    }

    fn failed(&self, verb: &'static str, finished: &Finished) -> ManagedServiceError {
        let said = [&finished.stderr, &finished.stdout].map(|output| output.to_text());
        let last = said.iter().find_map(|text| text.lines().rfind(|line| !line.trim().is_empty()));
        let said = last.unwrap_or("it wrote nothing").to_owned();
        ManagedServiceError::Failed { name: self.name.clone(), verb, exit: finished.exit, said }
    }
}

impl fmt::Debug for ManagedService {
    /// Variables by their names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagedService")
            .field("name", &self.name)
            .field("start", &self.start)
            .field("stop", &self.stop)
            .field("status", &self.status)
            .field("logs", &self.logs)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("folder", &self.folder)
            .field("start_timeout", &self.start_timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::Captured;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn squid() -> ManagedService {
        ManagedService {
            name: "squid".into(),
            start: words("/etc/init.d/squid start"),
            stop: words("/etc/init.d/squid stop"),
            status: words("/etc/init.d/squid status"),
            logs: None,
            env: [("PASSWORD".to_owned(), "s3cret".to_owned())].into(),
            folder: Some("/srv".into()),
            start_timeout: Duration::from_secs(60),
        }
    }

    fn finished(exit: Exit, stdout: &str, stderr: &str) -> Finished {
        let captured = |text: &str| Captured { bytes: text.as_bytes().to_vec(), dropped: 0 };
        Finished { exit, stdout: captured(stdout), stderr: captured(stderr), elapsed: Duration::ZERO }
    }

    #[test]
    fn its_commands_get_its_folder_and_environment() {
        let start = squid().start().unwrap();
        assert_eq!(start.argv().collect::<Vec<_>>(), ["setsid", "--wait", "/etc/init.d/squid", "start"]);
        assert_eq!(start.get_current_dir(), Some("/srv".as_ref()));
        assert_eq!(start.get_envs().count(), 1);
        assert_eq!(start.get_timeout(), Some(Duration::from_secs(60)));
        assert!(
            squid().stop(Duration::from_secs(5)).unwrap().get_timeout().unwrap() > Duration::from_secs(5)
        );
        let none = ManagedServiceError::NoCommand { name: "squid".into(), verb: "show the log" };
        assert_eq!(squid().logs(), Err(none));
        assert!(!format!("{:?}", squid()).contains("s3cret"));
    }

    #[test]
    fn a_status_is_an_exit_code() {
        let status = |exit, stdout| squid().parse_status(&finished(exit, stdout, ""));
        assert_eq!(status(Exit::Code(0), "up"), Ok(ManagedStatus::Running));
        let down = ManagedStatus::NotRunning { exit: Exit::Code(3), said: "stopped".into() };
        assert_eq!(status(Exit::Code(3), "\nstopped\nbye"), Ok(down));
        assert!(status(Exit::Code(127), "").is_err() && status(Exit::Signal(9), "").is_err());
    }

    #[test]
    fn a_failed_command_says_its_last_line() {
        let error = squid().check("start", &finished(Exit::Code(1), "a", "b\nport in use\n\n")).unwrap_err();
        assert_eq!(error.to_string(), "squid's command to start it failed (exit code 1): port in use");
        assert_eq!(squid().check("start", &finished(Exit::Code(0), "", "")), Ok(()));
    }
}

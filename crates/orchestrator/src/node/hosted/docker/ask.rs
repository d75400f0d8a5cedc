//! Asks docker, one command at a time.

use command_executor::command::Command;
use command_executor::executor::{ExecuteError, Executor, Finished};
use command_executor::launcher::{LaunchError, LocalLauncher};
use command_executor::target::docker::{ContainerSpecError, DockerError, check};

/// The container engine didn't do it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It says why.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// There is no docker command line on this machine.
    #[error("docker isn't installed here: there is no program docker in PATH")]
    NotInstalled,
    /// Its command line couldn't be run to its end.
    #[error("can't run docker")]
    Run(#[source] ExecuteError),
    /// It can't be told what is wanted.
    #[error(transparent)]
    Spec(#[from] ContainerSpecError),
}

impl EngineError {
    /// One line for people, with what can be done about it.
    pub(super) fn told(&self) -> String {
        let text = crate::node::chain(self);
        match self {
            Self::Docker(error) => match error.hint() {
                Some(hint) => format!("{text} ({hint})"),
                None => text,
            },
            _ => text,
        }
    }
}

/// Runs docker's command line on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    executor: Executor<LocalLauncher>,
}

/// Bytes of an answer that are kept: a list of hundreds of containers fits.
const ANSWER: usize = 4 << 20;

impl Asking {
    pub(super) fn new() -> Self {
        // A client that hangs must not outlive the daemon: the loop's thread lives as long as the program.
        Self { executor: Executor::new(LocalLauncher::new().killed_with_thread()).with_capture(ANSWER) }
    }

    pub(super) fn executor(&self) -> &Executor<LocalLauncher> {
        &self.executor
    }

    pub(super) async fn run(&self, command: &Command) -> Result<Finished, EngineError> {
        let finished = self.executor.run(command).await.map_err(|error| match error {
            ExecuteError::Launch(LaunchError::NotFound { .. }) => EngineError::NotInstalled,
            error => EngineError::Run(error),
        })?;
        check(&finished)?;
        Ok(finished)
    }
}

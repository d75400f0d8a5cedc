//! A service with commands of its own.

use super::follow::Decoder;
use super::{AttachError, AttachStatus, AttachedLine, AttachedLines, Attacher, run};
use crate::executor::Executor;
use crate::launcher::Launcher;
use crate::target::{ManagedService, ManagedStatus};
use async_io::Timer;
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::time::Duration;

/// How often its status command is asked whether it has ended: at first, and in the end.
const ASK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long its log command may take where the log isn't followed: one that follows by itself never ends.
const LOG: Duration = Duration::from_secs(30);

/// Joins a service by the commands that it brings.
#[derive(Clone, Debug)]
pub struct ManagedAttacher<L> {
    executor: Executor<L>,
    service: ManagedService,
}

impl<L: Launcher> ManagedAttacher<L> {
    /// Joins that service.
    pub fn new(executor: Executor<L>, service: ManagedService) -> Self {
        Self { executor, service }
    }

    async fn ask(&self) -> Result<ManagedStatus, AttachError> {
        let finished = run(&self.executor, &self.service.status()?).await?;
        Ok(self.service.parse_status(&finished)?)
    }

    /// Only its status command knows.
    async fn wait(&self) -> Result<(), AttachError> {
        let (mut pause, longest) = ASK;
        while self.ask().await? == ManagedStatus::Running {
            Timer::after(pause).await;
            pause = (pause * 2).min(longest);
        }
        Ok(())
    }

    fn lines(&self) -> Result<AttachedLines, AttachError> {
        let decoder = Decoder::Plain { name: self.service.name.clone() };
        AttachedLines::start(&self.executor, [(self.service.logs()?, decoder)])
    }

    async fn last(&self, lines: usize) -> Result<Vec<AttachedLine>, AttachError> {
        let mut output = self.lines()?;
        let mut last = VecDeque::new();
        let read = async {
            while let Some(line) = output.next().await? {
                last.push_back(line);
                if last.len() > lines {
                    last.pop_front();
                }
            }
            Ok(())
        };
        let over = async {
            Timer::after(LOG).await;
            Ok(())
        };
        futures_lite::future::or(read, over).await.map(|()| last.into())
    }
}

impl<L: Launcher> Attacher for ManagedAttacher<L> {
    fn status(&self) -> BoxFuture<'_, Result<AttachStatus, AttachError>> {
        Box::pin(async {
            Ok(match self.ask().await? {
                ManagedStatus::Running => AttachStatus::Running { process: None },
                ManagedStatus::NotRunning { exit, said } => {
                    let said = if said.is_empty() { said } else { format!(": {said}") };
                    AttachStatus::NotRunning { reason: format!("its status command ended with {exit}{said}") }
                }
            })
        })
    }

    fn exited(&self) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(self.wait())
    }

    fn logs(&self, lines: usize) -> BoxFuture<'_, Result<Vec<AttachedLine>, AttachError>> {
        Box::pin(self.last(lines))
    }

    fn follow(&self, _lines: usize) -> BoxFuture<'_, Result<AttachedLines, AttachError>> {
        Box::pin(async { self.lines() })
    }

    fn start(&self) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(async {
            let finished = run(&self.executor, &self.service.start()?).await?;
            Ok(self.service.check("start", &finished)?)
        })
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(async move {
            let finished = run(&self.executor, &self.service.stop(grace)?).await?;
            Ok(self.service.check("stop", &finished)?)
        })
    }
}

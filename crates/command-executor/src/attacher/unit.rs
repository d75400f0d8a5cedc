//! A unit of systemd.

use super::follow::Decoder;
use super::local::{ended, identify, open, watch};
use super::{AttachError, AttachStatus, AttachedLine, AttachedLines, Attacher, run};
use crate::executor::{ExecuteError, Executor};
use crate::keeper::ProcessIdentity;
use crate::launcher::Launcher;
use crate::target::systemd::{self, ActiveState, JournalOptions, LoadState, SystemdService, UnitState};
use async_io::Timer;
use futures_util::future::BoxFuture;
use std::time::Duration;

/// How often a unit is asked for whose end nothing tells: at first, and in the end.
const ASK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How long a unit may take to end after SIGKILL.
const KILLED: Duration = Duration::from_secs(10);
const SIGKILL: i32 = 9;

/// Joins a unit.
#[derive(Clone, Debug)]
pub struct UnitAttacher<L> {
    executor: Executor<L>,
    service: SystemdService,
    sees_processes: bool,
}

impl<L: Launcher> UnitAttacher<L> {
    /// Joins that unit. Its end is seen by asking, at least once a second.
    pub fn new(executor: Executor<L>, service: SystemdService) -> Self {
        Self { executor, service, sees_processes: false }
    }

    /// The unit's processes are processes of this machine: the end of its main process is seen when it happens.
    #[must_use]
    pub fn on_this_machine(mut self) -> Self {
        self.sees_processes = true;
        self
    }

    /// What systemd says of it.
    ///
    /// # Errors
    /// [`AttachError::Run`] and [`AttachError::Systemd`].
    pub async fn show(&self) -> Result<UnitState, AttachError> {
        let finished = run(&self.executor, &self.service.status()).await?;
        systemd::check(&finished)?;
        Ok(UnitState::parse_one(&finished.stdout.bytes)?)
    }

    fn main_process(&self, unit: &UnitState) -> Result<Option<ProcessIdentity>, AttachError> {
        let pid = unit.main_pid.filter(|_| self.sees_processes);
        match pid.and_then(|pid| i32::try_from(pid).ok()) {
            Some(pid) => identify(pid),
            None => Ok(None),
        }
    }

    async fn wait(&self) -> Result<(), AttachError> {
        let (mut pause, longest) = ASK;
        loop {
            let unit = self.show().await?;
            if !is_up(&unit) {
                return Ok(());
            }
            let process = self.main_process(&unit)?;
            let descriptor = match process {
                Some(process) => open(process)?.map(|descriptor| (process, descriptor)),
                None => None,
            };
            match descriptor {
                // It may be started again by systemd: ask then.
                Some((process, descriptor)) => {
                    ended(process, &watch(process, descriptor)?).await?;
                    pause = ASK.0;
                    Timer::after(pause).await;
                }
                None => {
                    Timer::after(pause).await;
                    pause = (pause * 2).min(longest);
                }
            }
        }
    }

    async fn stop_unit(&self, grace: Duration) -> Result<(), AttachError> {
        let mut service = self.service.clone();
        service.patience = grace;
        match self.executor.run(&service.stop()).await {
            Ok(finished) => return not_missing(systemd::check(&finished)),
            Err(ExecuteError::TimedOut { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        // What is gone meanwhile can't be killed, which the stop tells.
        let _ = run(&self.executor, &service.kill(SIGKILL)).await?;
        service.patience = KILLED;
        not_missing(systemd::check(&run(&self.executor, &service.stop()).await?))
    }

    fn lines(&self, lines: usize, follow: bool) -> Result<AttachedLines, AttachError> {
        let options = JournalOptions { follow, tail: Some(lines), ..JournalOptions::default() };
        let decoder = Decoder::Journal;
        AttachedLines::start(&self.executor, [(self.service.logs(&options), decoder)])
    }
}

/// Whether it runs, is about to, or hasn't ended yet.
fn is_up(unit: &UnitState) -> bool {
    matches!(
        unit.active,
        ActiveState::Active | ActiveState::Reloading | ActiveState::Activating | ActiveState::Deactivating
    )
}

fn not_missing(checked: Result<(), systemd::SystemdError>) -> Result<(), AttachError> {
    match checked {
        Ok(()) | Err(systemd::SystemdError::NoSuchUnit { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn why_not(unit: &UnitState) -> String {
    let id = &unit.id;
    match (&unit.load_error, unit.load, unit.exit) {
        (Some(error), _, _) => error.trim_end_matches('.').to_owned(),
        (None, LoadState::NotFound, _) => format!("there is no unit {id}"),
        (None, _, Some(exit)) if unit.active == ActiveState::Failed => {
            let meaning = UnitState::exit_meaning(exit).map(|why| format!(": {why}")).unwrap_or_default();
            format!("unit {id} failed ({}, {exit}{meaning})", unit.result)
        }
        (None, _, _) if unit.active == ActiveState::Failed => format!("unit {id} failed ({})", unit.result),
        (None, _, _) => format!("unit {id} is {} ({})", word(unit.active), unit.sub),
    }
}

fn word(active: ActiveState) -> String {
    format!("{active:?}").to_lowercase()
}

impl<L: Launcher> Attacher for UnitAttacher<L> {
    fn status(&self) -> BoxFuture<'_, Result<AttachStatus, AttachError>> {
        Box::pin(async {
            let unit = self.show().await?;
            Ok(match unit.active {
                ActiveState::Active | ActiveState::Reloading => {
                    AttachStatus::Running { process: self.main_process(&unit)? }
                }
                _ => AttachStatus::NotRunning { reason: why_not(&unit) },
            })
        })
    }

    fn exited(&self) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(self.wait())
    }

    fn logs(&self, lines: usize) -> BoxFuture<'_, Result<Vec<AttachedLine>, AttachError>> {
        Box::pin(async move { self.lines(lines, false)?.collect().await })
    }

    fn follow(&self, lines: usize) -> BoxFuture<'_, Result<AttachedLines, AttachError>> {
        Box::pin(async move { self.lines(lines, true) })
    }

    fn start(&self) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(async { Ok(systemd::check(&run(&self.executor, &self.service.start()).await?)?) })
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Result<(), AttachError>> {
        Box::pin(self.stop_unit(grace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_unit_does_not_run_is_said() {
        let said = |fields: &str| {
            let block = format!("Id=web.service\n{fields}\n");
            why_not(&UnitState::parse_one(block.as_bytes()).unwrap())
        };
        let table = [
            (
                "LoadState=not-found\nActiveState=inactive\nLoadError=org.x.NoSuchUnit \"Unit web.service not found.\"",
                "Unit web.service not found",
            ),
            ("LoadState=not-found\nActiveState=inactive", "there is no unit web.service"),
            (
                "LoadState=loaded\nActiveState=failed\nResult=exit-code\nExecMainCode=1\nExecMainStatus=203",
                "unit web.service failed (exit-code, exit code 203: its program can't be executed)",
            ),
            (
                "LoadState=loaded\nActiveState=failed\nResult=signal\nExecMainCode=2\nExecMainStatus=9",
                "unit web.service failed (signal, signal 9)",
            ),
            ("LoadState=loaded\nActiveState=inactive\nSubState=dead", "unit web.service is inactive (dead)"),
            (
                "LoadState=loaded\nActiveState=activating\nSubState=auto-restart",
                "unit web.service is activating (auto-restart)",
            ),
        ];
        for (fields, expected) in table {
            assert_eq!(said(fields), expected);
        }
    }
}

//! A run that is a unit of systemd.

use super::{Change, Hosted, LogSource, Progress, Seen, Up};
use crate::node::{StopHow, chain};
use async_io::{Async, Timer};
use command_executor::command::Command;
use command_executor::executor::{ExecuteError, Executor, Finished};
use command_executor::launcher::{LaunchError, LocalLauncher};
use command_executor::process;
use command_executor::target::systemd::{
    ActiveState, LoadState, SystemdError, SystemdService, UnitNameError, UnitState, check,
};
use futures_lite::future;
use futures_util::future::BoxFuture;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use service_registry::model::{Execution, Exit};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// While systemd is busy with a unit (it waits before it starts it again, it stops it), it is asked again after this.
const BUSY: Duration = Duration::from_millis(200);
/// A unit without a main process can end unheard: it is asked again after this.
const UNHEARD: Duration = Duration::from_secs(2);
/// How long the end of a main process is waited for before the unit is looked at all the same.
const LONGEST: Duration = Duration::from_secs(60);
/// SIGKILL's number, on every Linux.
const SIGKILL: i32 = 9;

/// A run that is a unit.
pub(super) struct Unit {
    service: SystemdService,
    executor: Executor<LocalLauncher>,
    run: String,
    /// Whether somebody else starts and stops it.
    joined: bool,
    /// The main process that was told of last.
    told: Mutex<Option<u32>>,
}

/// systemd didn't do it.
#[derive(Debug, thiserror::Error)]
enum UnitError {
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error("systemd isn't here: there is no program systemctl in PATH")]
    NotInstalled,
    #[error("can't run systemctl")]
    Run(#[source] ExecuteError),
}

impl UnitError {
    fn told(&self) -> String {
        let text = chain(self);
        match self {
            Self::Systemd(error) => match error.hint() {
                Some(hint) => format!("{text} ({hint})"),
                None => text,
            },
            _ => text,
        }
    }
}

impl Unit {
    /// The run of `unit`, whose start and stop may take as long as `patience`.
    pub(super) fn new(unit: &str, run: &str, patience: Duration) -> Result<Self, UnitNameError> {
        let mut service = SystemdService::new(unit)?;
        service.patience = patience;
        let executor = Executor::new(LocalLauncher::new().killed_with_thread());
        Ok(Self { service, executor, run: run.to_owned(), joined: false, told: Mutex::new(None) })
    }

    /// The same, but somebody else starts and stops it.
    pub(super) fn joined(self) -> Self {
        Self { joined: true, ..self }
    }

    async fn ask(&self, command: &Command) -> Result<Finished, UnitError> {
        let finished = self.executor.run(command).await.map_err(|error| match error {
            ExecuteError::Launch(LaunchError::NotFound { .. }) => UnitError::NotInstalled,
            error => UnitError::Run(error),
        })?;
        check(&finished)?;
        Ok(finished)
    }

    pub(super) async fn state(&self) -> Result<UnitState, String> {
        let finished = self.ask(&self.service.status()).await.map_err(|error| error.told())?;
        UnitState::parse_one(&finished.stdout.bytes).map_err(|error| chain(&error))
    }

    fn execution(&self, pid: Option<u32>) -> Execution {
        Execution::Unit { unit: self.service.unit.to_string(), pid, run: Some(self.run.clone()) }
    }

    fn up(&self, state: &UnitState) -> Up {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = state.main_pid;
        Up {
            returning: None,
            execution: self.execution(state.main_pid),
            tells_health: false,
            health: None,
            log: LogSource::Journal {
                unit: self.service.unit.to_string(),
                invocation: state.invocation.clone(),
            },
        }
    }

    /// Whether another process is the main one now.
    fn has_moved(&self, pid: Option<u32>) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        pid.is_some() && std::mem::replace(&mut *told, pid) != pid
    }

    pub(super) async fn bring_up(&self) -> Result<Up, String> {
        let before = self.state().await?;
        match before.load {
            LoadState::NotFound => return Err(format!("there is no unit {}", self.service.unit)),
            LoadState::Masked => {
                let unit = &self.service.unit;
                return Err(format!("the unit {unit} is masked (systemctl unmask {unit})"));
            }
            LoadState::BadSetting | LoadState::Error => {
                let why = before.load_error.unwrap_or_else(|| "its file has errors".into());
                return Err(format!("the unit {} can't be loaded: {why}", self.service.unit));
            }
            LoadState::Loaded | LoadState::Other => {}
        }
        if self.joined {
            return match before.active {
                ActiveState::Inactive | ActiveState::Failed => {
                    Err(format!("the unit {} isn't active: {}", self.service.unit, before.sub))
                }
                _ => Ok(self.up(&before)),
            };
        }
        let started = self.ask(&self.service.start()).await;
        let state = self.state().await?;
        match started {
            // What has ended again at once has run: its end is told next.
            Ok(_) => Ok(self.up(&state)),
            Err(error) if state.active == ActiveState::Failed => {
                Err(format!("{}: {}", failure(&state), error.told()))
            }
            Err(error) => {
                // It may still be about to start, and nobody would stop it any more.
                if let Err(why) = self.end().await {
                    tracing::warn!(unit = %self.service.unit, why, "its start failed, and it can't be stopped");
                }
                Err(error.told())
            }
        }
    }

    pub(super) async fn take_down(&self, how: StopHow) -> Result<Exit, String> {
        if self.joined {
            // It goes on without us.
            return Ok(Exit::with_code(0));
        }
        if how.kill {
            self.kill().await?;
        }
        let stop = self.service.stop();
        let stopping = async { Some(self.ask(&stop).await) };
        let late = async {
            Timer::after(how.timeout).await;
            None
        };
        match future::or(stopping, late).await {
            Some(done) => done.map(|_| ()).map_err(|error| error.told())?,
            // The unit's own file gives it more time than we do.
            None => {
                self.kill().await?;
                self.ask(&stop).await.map_err(|error| error.told())?;
            }
        }
        let state = self.state().await?;
        match state.active {
            ActiveState::Inactive | ActiveState::Failed => Ok(exit_of(&state)),
            _ => Err(format!("the unit {} is still {}", self.service.unit, state.sub)),
        }
    }

    /// The unit as systemctl is asked about it.
    pub(super) fn service(&self) -> &SystemdService {
        &self.service
    }

    /// Stops it if it is up, however it is.
    pub(super) async fn end(&self) -> Result<(), String> {
        self.ask(&self.service.stop()).await.map(|_| ()).map_err(|error| error.told())
    }

    async fn kill(&self) -> Result<(), String> {
        match self.ask(&self.service.kill(SIGKILL)).await {
            Ok(_) => Ok(()),
            // Nothing is left to kill: the stop that follows says what is.
            Err(UnitError::Systemd(_)) => Ok(()),
            Err(error) => Err(error.told()),
        }
    }
}

/// Why a unit has failed, for people.
fn failure(state: &UnitState) -> String {
    let exit = state.exit.map(|exit| match UnitState::exit_meaning(exit) {
        Some(meaning) => format!(", {exit} ({meaning})"),
        None => format!(", {exit}"),
    });
    format!("the unit failed: {}{}", state.result, exit.unwrap_or_default())
}

/// How a unit that is down has ended.
fn exit_of(state: &UnitState) -> Exit {
    match (state.exit, state.result.as_str()) {
        (Some(process::Exit::Code(code)), _) => Exit::with_code(code),
        (Some(process::Exit::Signal(signal)), _) => Exit::with_signal(signal),
        (None, "success") => Exit::with_code(0),
        (None, result) => Exit::unknown(result.to_owned()),
    }
}

/// Waits until a process has ended, or for long enough.
async fn process_ended(pid: u32) {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let opened = raw.and_then(|raw| pidfd_open(raw, PidfdFlags::NONBLOCK).ok());
    let Some(descriptor) = opened.and_then(|descriptor| Async::new_nonblocking(descriptor).ok()) else {
        // It has ended already, or there is no descriptor for it now.
        Timer::after(BUSY).await;
        return;
    };
    let ended = async {
        // What can't be waited for is looked at.
        let _ = descriptor.readable().await;
    };
    let long = async {
        Timer::after(LONGEST).await;
    };
    future::or(ended, long).await;
}

impl Hosted for Unit {
    fn start<'a>(&'a self, _: Progress<'a>) -> BoxFuture<'a, Result<Up, String>> {
        Box::pin(self.bring_up())
    }

    fn find(&self) -> BoxFuture<'_, Result<Seen, String>> {
        Box::pin(async {
            let state = self.state().await?;
            Ok(match state.active {
                _ if state.load == LoadState::NotFound => Seen::Absent,
                ActiveState::Inactive | ActiveState::Failed => Seen::Ended(exit_of(&state)),
                _ => Seen::Up(self.up(&state)),
            })
        })
    }

    fn next(&self) -> BoxFuture<'_, Change> {
        Box::pin(async {
            let mut deaf = false;
            loop {
                let state = match self.state().await {
                    Ok(state) => state,
                    Err(why) => {
                        if !std::mem::replace(&mut deaf, true) {
                            tracing::warn!(unit = %self.service.unit, why, "can't look at it");
                        }
                        Timer::after(UNHEARD).await;
                        continue;
                    }
                };
                match (state.active, state.main_pid) {
                    (ActiveState::Inactive | ActiveState::Failed, _) => {
                        return Change::Ended(exit_of(&state));
                    }
                    (ActiveState::Active | ActiveState::Reloading, Some(pid)) => {
                        if self.has_moved(Some(pid)) {
                            return Change::Moved(self.execution(Some(pid)));
                        }
                        process_ended(pid).await;
                    }
                    (ActiveState::Active | ActiveState::Reloading, None) => {
                        Timer::after(UNHEARD).await;
                    }
                    _ => {
                        Timer::after(BUSY).await;
                    }
                }
            }
        })
    }

    fn stop(&self, how: StopHow) -> BoxFuture<'_, Result<Exit, String>> {
        Box::pin(self.take_down(how))
    }
}

//! What somebody else started: harness looks on, and lets go of it when it is stopped.

use super::{Change, Hosted, LogSource, Progress, Seen, Up};
use crate::node::{StopHow, chain};
use command_executor::attacher::{AttachError, AttachStatus, Attacher};
use futures_lite::future;
use futures_util::future::BoxFuture;
use service_registry::model::{Execution, Exit};
use std::time::{Duration, Instant};

/// The pause after it couldn't be watched.
const BLIND_PAUSE: Duration = Duration::from_secs(1);

/// How long what its own command has started may take to be up, and the pause between questions.
const STARTS: Duration = Duration::from_secs(10);
const ASK: Duration = Duration::from_millis(100);

/// A thing that is joined.
pub(super) struct Attached {
    pub(super) attacher: Box<dyn Attacher>,
    /// What carries it out, its process filled in where that is known.
    pub(super) execution: Execution,
    pub(super) log: LogSource,
    /// Whether the user has given commands to start and to stop it.
    pub(super) starts: bool,
    pub(super) stops: bool,
}

impl Attached {
    fn up(&self, status: AttachStatus) -> Result<Up, String> {
        match status {
            AttachStatus::Running { process } => {
                let found = process.and_then(|process| u32::try_from(process.pid).ok());
                let mut execution = self.execution.clone();
                if let Execution::Process { pid, .. }
                | Execution::Container { pid, .. }
                | Execution::Unit { pid, .. } = &mut execution
                {
                    *pid = found;
                }
                Ok(Up {
                    execution,
                    tells_health: false,
                    health: None,
                    log: self.log.clone(),
                    returning: None,
                })
            }
            AttachStatus::NotRunning { reason } => Err(reason),
        }
    }
}

fn said(error: AttachError) -> String {
    chain(&error)
}

impl Hosted for Attached {
    fn start<'a>(&'a self, _: Progress<'a>) -> BoxFuture<'a, Result<Up, String>> {
        Box::pin(async {
            let status = self.attacher.status().await.map_err(said)?;
            if matches!(status, AttachStatus::NotRunning { .. }) && self.starts {
                self.attacher.start().await.map_err(said)?;
                let begun = Instant::now();
                loop {
                    let up = self.up(self.attacher.status().await.map_err(said)?);
                    if up.is_ok() || begun.elapsed() > STARTS {
                        return up;
                    }
                    async_io::Timer::after(ASK).await;
                }
            }
            self.up(status)
        })
    }

    fn find(&self) -> BoxFuture<'_, Result<Seen, String>> {
        Box::pin(async {
            Ok(match self.up(self.attacher.status().await.map_err(said)?) {
                Ok(up) => Seen::Up(up),
                Err(why) => Seen::Ended(Exit::unknown(why)),
            })
        })
    }

    fn next(&self) -> BoxFuture<'_, Change> {
        Box::pin(async {
            let mut blind = false;
            loop {
                match self.attacher.exited().await {
                    Ok(()) => {
                        return Change::Ended(Exit::unknown(
                            "harness didn't start it, so nobody saw how it ended",
                        ));
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut blind, true) {
                            tracing::warn!(error = said(error), "what was joined can't be watched now");
                        }
                        async_io::Timer::after(BLIND_PAUSE).await;
                    }
                }
            }
        })
    }

    fn stop(&self, how: StopHow) -> BoxFuture<'_, Result<Exit, String>> {
        Box::pin(async move {
            if self.stops {
                let grace = if how.kill { Duration::ZERO } else { how.timeout };
                self.attacher.stop(grace).await.map_err(said)?;
            }
            // It goes on without us.
            Ok(Exit::with_code(0))
        })
    }
}

/// Something elsewhere of which only the address is known: it is up as long as it is wanted.
pub(super) struct External {
    pub(super) run: String,
}

impl External {
    fn up(&self) -> Up {
        let log = LogSource::Nowhere { why: "it runs elsewhere, and only its address is known".into() };
        Up {
            returning: None,
            execution: Execution::External { run: Some(self.run.clone()) },
            tells_health: false,
            health: None,
            log,
        }
    }
}

impl Hosted for External {
    fn start<'a>(&'a self, _: Progress<'a>) -> BoxFuture<'a, Result<Up, String>> {
        Box::pin(future::ready(Ok(self.up())))
    }

    fn find(&self) -> BoxFuture<'_, Result<Seen, String>> {
        Box::pin(future::ready(Ok(Seen::Up(self.up()))))
    }

    fn next(&self) -> BoxFuture<'_, Change> {
        Box::pin(future::pending())
    }

    fn stop(&self, _: StopHow) -> BoxFuture<'_, Result<Exit, String>> {
        Box::pin(future::ready(Ok(Exit::with_code(0))))
    }
}

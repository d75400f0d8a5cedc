//! What keepers report, on its way to the loop.

use super::{NodeEvent, NodeFact, UnderWay, Unreported, chain, exit_of, lock, start_error};
use crate::model::InstanceName;
use crate::supervisor::Event;
use async_channel::Sender;
use command_executor::keeper::{Keepers, Report, RunId};
use service_registry::model::{Execution, Exit};
use std::time::Duration;

/// The pause after keepers couldn't be heard.
const DEAF_PAUSE: Duration = Duration::from_millis(100);

/// Brings the keepers' reports to the loop, until either side is gone.
pub(super) struct Reporter {
    pub(super) keepers: Keepers,
    pub(super) events: Sender<Event>,
    pub(super) unreported: Unreported,
    pub(super) under_way: UnderWay,
}

impl Reporter {
    pub(super) async fn run(self) {
        let mut deaf = false;
        loop {
            let report = match self.keepers.next_report().await {
                Ok(report) => report,
                // For want of descriptors or memory: nothing of it is lost, so it is tried until it can be heard again.
                Err(error) => {
                    if !std::mem::replace(&mut deaf, true) {
                        tracing::error!(error = chain(&error), "keepers can't be heard now");
                    }
                    async_io::Timer::after(DEAF_PAUSE).await;
                    continue;
                }
            };
            if std::mem::replace(&mut deaf, false) {
                tracing::info!("keepers are heard again");
            }
            let (instance, run, fact) = match report {
                Report::Started { instance, run, pid } => {
                    let execution =
                        Execution::Process { pid: u32::try_from(pid).ok(), run: Some(run.to_string()) };
                    (instance, run, NodeFact::Started { execution, tells_health: false })
                }
                Report::StartFailed { instance, run, stage, message, .. } => {
                    (instance, run, NodeFact::StartFailed { error: start_error(stage, &message) })
                }
                Report::Exited { instance, run, exit, .. } => {
                    (instance, run, NodeFact::Exited { exit: exit_of(&exit) })
                }
                Report::KeeperLost { instance, run } => {
                    tracing::warn!(%instance, "its keeper was killed, and it with its keeper");
                    (instance, run, NodeFact::Exited { exit: Exit::unknown("keeper killed") })
                }
                Report::ZygoteLost => {
                    if !self.zygote_lost().await {
                        return;
                    }
                    continue;
                }
            };
            lock(&self.unreported).remove(&run);
            let Ok(instance) = instance.parse() else { continue };
            if matches!(fact, NodeFact::Exited { .. }) {
                self.under_way.end(&instance, &run.to_string());
            }
            if !self.send(instance, run, fact).await {
                return;
            }
        }
    }

    /// What was handed to it and hasn't reported may or may not exist: it is ended, so that it doesn't.
    async fn zygote_lost(&self) -> bool {
        tracing::warn!("the zygote was killed; services go on, a new one is made at the next start");
        // Only those: others may have been handed to the next zygote since, and are about to be.
        for (instance, run) in self.keepers.take_unheard_of() {
            lock(&self.unreported).remove(&run);
            let gone = self.keepers.ensure_gone(&instance, run).await;
            let Ok(instance) = instance.parse() else { continue };
            let error = match gone {
                Ok(_) => "the zygote was killed while it was started".into(),
                Err(error) => chain(&error),
            };
            if !self.send(instance, run, NodeFact::StartFailed { error }).await {
                return false;
            }
        }
        true
    }

    async fn send(&self, instance: InstanceName, run: RunId, fact: NodeFact) -> bool {
        let event = NodeEvent { instance, run: run.to_string(), fact };
        self.events.send(Event::Node(event)).await.is_ok()
    }
}

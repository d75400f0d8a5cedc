//! A run that the agent of another node keeps.
//!
//! Starting it is handing over an assignment; from then on the agent starts, probes and restarts it by itself, and its entry
//! in the agent's registry tells how it is. While the link is down nothing is told, and nothing is taken for ended.

use super::{Change, Hosted, LogSource, Progress, Returning, Seen, Told, Up};
use crate::health::Verdict;
use crate::model::{InstanceName, Service};
use crate::node::StopHow;
use crate::node::agents::{Link, Links, copy, wire};
use crate::node::chain;
use crate::plan::FORGOTTEN;
use async_channel::Receiver;
use async_io::Timer;
use futures_lite::future;
use futures_util::future::BoxFuture;
use service_registry::client::{Client, ClientError};
use service_registry::model::{Entry, Execution, Exit, HealthStatus, Known, ReasonCode, State};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The time that an agent has to write an order down.
const ANSWER: Duration = Duration::from_secs(20);
/// The time on top of its own that a stop has to be heard of.
const MARGIN: Duration = Duration::from_secs(10);
/// The pause before files are brought again.
const AGAIN: Duration = Duration::from_secs(1);
/// The time that a stop waits for a link that is down; the plan asks again.
const LINK: Duration = Duration::from_secs(5);

/// A run on another node.
pub(super) struct Remote {
    pub(super) links: Links,
    pub(super) link: Arc<Link>,
    pub(super) project: String,
    pub(super) instance: InstanceName,
    pub(super) run: String,
    pub(super) service: Arc<Service>,
    pub(super) heard: Receiver<Known>,
    pub(super) told: Mutex<Telling>,
}

/// What was told of it.
#[derive(Default)]
pub(super) struct Telling {
    last: Option<View>,
    /// Changes that follow from the same entry.
    more: VecDeque<Change>,
}

/// What an entry of the agent says of this run.
#[derive(Clone, Debug, PartialEq)]
enum View {
    /// It is on its way; how, for people.
    Coming(Option<String>),
    Up {
        execution: Execution,
        health: Option<(Verdict, String)>,
    },
    Returning {
        exit: Exit,
        why: String,
        deaths: u32,
    },
    Ended(Exit),
}

impl View {
    /// `None` if the entry is about another run.
    fn of(entry: &Entry, run: &str) -> Option<Self> {
        if entry.assignment.as_deref() != Some(run) {
            return None;
        }
        let why = || entry.status.reason.as_ref().map(|reason| reason.message.clone());
        let exit = || {
            let unstartable =
                entry.status.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::SpawnFailed);
            if unstartable {
                // How an earlier one ended is no news of this one.
                return Exit::unknown(why().unwrap_or_default());
            }
            let failed = || Exit::unknown(why().unwrap_or_else(|| "it could not be started".into()));
            entry.status.exit.clone().unwrap_or_else(failed)
        };
        Some(match entry.status.state {
            State::Running => Self::up(entry, run),
            // Up, and not yet ready.
            State::Starting if is_there(&entry.execution) => Self::up(entry, run),
            State::Registered | State::Starting => Self::Coming(why()),
            // Ended is told when it has.
            State::Stopping => Self::up(entry, run),
            State::Stopped | State::Failed if entry.returning => Self::Returning {
                exit: exit(),
                why: why().unwrap_or_else(|| "it is started again".into()),
                deaths: entry.deaths,
            },
            State::Stopped | State::Failed => Self::Ended(exit()),
        })
    }

    fn up(entry: &Entry, run: &str) -> Self {
        let health = entry.health.as_ref().map(|health| {
            let verdict = match health.status {
                HealthStatus::Healthy => Verdict::Healthy,
                HealthStatus::Unhealthy => Verdict::Unhealthy,
                HealthStatus::Unknown => Verdict::Unknown,
            };
            (verdict, health.last.as_ref().map(|last| last.message.clone()).unwrap_or_default())
        });
        // The agent has runs of its own; for everybody here it is this one.
        Self::Up { execution: entry.execution.clone().of_run(run), health }
    }
}

/// Whether something carries it out already.
fn is_there(execution: &Execution) -> bool {
    match execution {
        Execution::Process { pid, .. } | Execution::Unit { pid, .. } => pid.is_some(),
        Execution::Container { id, .. } => !id.is_empty(),
        _ => false,
    }
}

impl Remote {
    fn told(&self) -> MutexGuard<'_, Telling> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self, entry: &Entry) -> Option<View> {
        View::of(entry, &self.run)
    }

    fn as_up(&self, view: &View) -> Up {
        let log = LogSource::Node { node: self.link.node.clone(), way: self.links.way(&self.link.node) };
        let (execution, health, returning) = match view {
            View::Up { execution, health } => (execution.clone(), health.clone(), None),
            View::Returning { exit, why, deaths } => {
                let returning = Returning { exit: exit.clone(), why: why.clone(), deaths: *deaths };
                (Execution::None, None, Some(Box::new(returning)))
            }
            View::Coming(_) | View::Ended(_) => (Execution::None, None, None),
        };
        let tells_health = self.service.health_check.is_some() || health.is_some();
        let health = health.map(|(verdict, message)| Told { verdict, message });
        Up { execution, tells_health, health, log, returning }
    }

    /// The connection; told once that it is waited for.
    async fn client(&self, progress: Progress<'_>) -> Client {
        match self.link.client_now() {
            Some(client) => client,
            None => {
                progress(format!("waiting for node {}", self.link.node));
                self.link.client().await
            }
        }
    }

    /// Brings what the service needs of the project to the node, however often the link breaks meanwhile. The error is for
    /// people.
    async fn bring(&self, progress: Progress<'_>) -> Result<(), String> {
        if self.service.files.is_empty() {
            return Ok(());
        }
        loop {
            let client = self.client(progress).await;
            let broken = async {
                self.link.down().await;
                Ok(false)
            };
            let brought = async {
                let _turn = self.link.turn_to_copy().await;
                match copy::files(&client, self.links.owner(), &self.service, progress).await {
                    Ok(_) => Ok(true),
                    Err(error) if error.is_of_the_way() => {
                        // The link has yet to notice, or the agent took too long.
                        Timer::after(AGAIN).await;
                        Ok(false)
                    }
                    Err(error) => Err(format!("node {}: {}", self.link.node, chain(&error))),
                }
            };
            if future::or(brought, broken).await? {
                return Ok(());
            }
        }
    }

    /// Hands the assignment over, however often the link breaks meanwhile. The error is a refusal.
    async fn assign(&self, progress: Progress<'_>) -> Result<(), String> {
        let params = wire::AssignParams {
            owner: self.links.owner().id.clone(),
            project: self.project.clone(),
            instance: self.instance.clone(),
            run: self.run.clone(),
            service: self.service.clone(),
        };
        loop {
            let client = self.client(progress).await;
            match self.call(&client, wire::ASSIGN, &params).await {
                Ok(()) => return Ok(()),
                Err(Broken::Outdated(why) | Broken::Refused(why)) => return Err(why),
                // Whether it has arrived isn't known; the same again changes nothing.
                Err(Broken::Link) => self.link.down().await,
                Err(Broken::Late) => {}
            }
        }
    }

    async fn call(
        &self,
        client: &Client,
        method: &str,
        params: &impl serde::Serialize,
    ) -> Result<(), Broken> {
        let _turn = self.link.turn().await;
        let answer: Result<serde_json::Value, ClientError> = client.call(method, params, ANSWER).await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) if error.rpc().is_some_and(|rpc| rpc.code == wire::OUTDATED) => {
                Err(Broken::Outdated(error.to_string()))
            }
            Err(error) if error.rpc().is_some() => Err(Broken::Refused(error.to_string())),
            Err(ClientError::TimedOut { .. }) => Err(Broken::Late),
            Err(_) => Err(Broken::Link),
        }
    }

    /// What becomes of it next, as far as that is news.
    fn news(&self, view: View) -> Option<Change> {
        let mut told = self.told();
        let last = told.last.replace(view.clone());
        match (last, view) {
            (Some(last), view) if last == view => None,
            (_, View::Ended(exit)) => Some(Change::Ended(exit)),
            (_, View::Returning { exit, why, deaths }) => {
                Some(Change::Returning(Returning { exit, why, deaths }))
            }
            // On its way again: what was told before stands until it is up.
            (last, View::Coming(_)) => {
                told.last = last;
                None
            }
            (last, view @ View::Up { .. }) => {
                let up = self.as_up(&view);
                let health = up.health.clone();
                let Some(View::Up { execution: before, health: known }) = last else {
                    told.more.extend(health.map(Change::Health));
                    return Some(Change::Up(Box::new(up)));
                };
                let changed_health = health.filter(|health| {
                    known.is_none_or(|(verdict, message)| {
                        (verdict, &message) != (health.verdict, &health.message)
                    })
                });
                if before == up.execution {
                    return changed_health.map(Change::Health);
                }
                told.more.extend(changed_health.map(Change::Health));
                Some(Change::Moved(up.execution))
            }
        }
    }
}

/// Why an order has no answer.
enum Broken {
    /// It has been overtaken by a newer one; the agent's words.
    Outdated(String),
    /// The agent says no; its words.
    Refused(String),
    /// The link broke.
    Link,
    /// It took too long.
    Late,
}

/// Lets the agent run the checks of an instance. `None` if it can't be asked, or has none.
pub(super) async fn ask(link: &Link, instance: &InstanceName, timeout: Duration) -> Option<Told> {
    #[derive(serde::Deserialize)]
    struct Answer {
        instances: Vec<Entry>,
    }
    let params = serde_json::json!({ "names": [instance], "run_now": true });
    let answer: Answer = link.client_now()?.call(wire::HEALTH, &params, timeout + ANSWER).await.ok()?;
    match View::up(answer.instances.first()?, "") {
        View::Up { health: Some((verdict, message)), .. } => Some(Told { verdict, message }),
        _ => None,
    }
}

/// What happens if nothing else does.
async fn late<T>(after: Duration, why: String) -> Result<T, String> {
    Timer::after(after).await;
    Err(why)
}

impl Hosted for Remote {
    fn start<'a>(&'a self, progress: Progress<'a>) -> BoxFuture<'a, Result<Up, String>> {
        Box::pin(async move {
            self.bring(progress).await?;
            self.assign(progress).await?;
            loop {
                let Ok(entry) = self.heard.recv().await else { return Err("the daemon is ending".into()) };
                match self.view(&entry) {
                    None => {}
                    Some(View::Coming(Some(how))) => progress(how),
                    Some(View::Coming(None)) => {}
                    Some(View::Ended(Exit { unknown: Some(why), .. })) => return Err(why),
                    Some(view @ View::Ended(_)) => {
                        // It was up, if only for a moment: its end is told next.
                        let up = self.as_up(&view);
                        if let View::Ended(exit) = view {
                            self.told().more.push_back(Change::Ended(exit));
                        }
                        return Ok(up);
                    }
                    Some(view) => {
                        let up = self.as_up(&view);
                        self.told().last = Some(view);
                        return Ok(up);
                    }
                }
            }
        })
    }

    fn find(&self) -> BoxFuture<'_, Result<Seen, String>> {
        Box::pin(async {
            let entry = self.link.entry(&self.instance).await;
            let Some(view) = entry.and_then(|entry| self.view(&entry)) else { return Ok(Seen::Absent) };
            Ok(match view {
                View::Ended(exit) => Seen::Ended(exit),
                View::Coming(_) => return Err("it is being started".into()),
                view => {
                    let up = self.as_up(&view);
                    self.told().last = Some(view);
                    Seen::Up(up)
                }
            })
        })
    }

    fn next(&self) -> BoxFuture<'_, Change> {
        Box::pin(async {
            loop {
                if let Some(change) = self.told().more.pop_front() {
                    return change;
                }
                let Ok(entry) = self.heard.recv().await else { return future::pending().await };
                if let Some(change) = self.view(&entry).and_then(|view| self.news(view)) {
                    return change;
                }
            }
        })
    }

    fn stop(&self, how: StopHow) -> BoxFuture<'_, Result<Exit, String>> {
        Box::pin(async move {
            let params = wire::WithdrawParams {
                owner: self.links.owner().id.clone(),
                instance: self.instance.clone(),
                run: self.run.clone(),
                force: how.kill,
            };
            let node = &self.link.node;
            let ordered = async {
                let client = self.link.client().await;
                match self.call(&client, wire::WITHDRAW, &params).await {
                    Ok(()) => Ok(true),
                    // A newer one has taken its place: nothing of this one is left.
                    Err(Broken::Outdated(why)) => {
                        tracing::warn!(instance = %self.instance, node, why, "a stop was refused");
                        Ok(false)
                    }
                    // It may run on: whoever stops it asks again.
                    Err(Broken::Refused(why)) => Err(format!("node {node}: {why}")),
                    Err(Broken::Link | Broken::Late) => Err(format!("node {node} doesn't answer")),
                }
            };
            let lost = late(LINK + ANSWER, format!("node {node} can't be reached"));
            if !future::or(ordered, lost).await? {
                return Ok(Exit::unknown(FORGOTTEN));
            }
            let gone = async {
                let over = |entry: Option<&Known>| match entry.and_then(|entry| self.view(entry)) {
                    None => Some(Exit::unknown(FORGOTTEN)),
                    Some(View::Ended(exit)) => Some(exit),
                    Some(_) => None,
                };
                Ok(self.link.until_entry(&self.instance, over).await)
            };
            let bound = if how.kill { MARGIN } else { how.timeout + MARGIN };
            future::or(gone, late(bound, format!("node {node} hasn't said that it ended"))).await
        })
    }
}

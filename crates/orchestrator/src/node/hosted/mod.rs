//! Runs that somebody else keeps: containers, Compose services, units, and what was joined.
//!
//! A keeper needs nobody; here the engine is the one who listens. Each run has a task of its own, which brings it up,
//! waits for what becomes of it, takes it down when it is asked to, and says so. What it knows about how, it has from
//! a [`Hosted`].

mod attached;
mod hosts;
mod portable;
mod record;
mod remote;
mod unit;

pub(super) mod docker;

pub(super) use hosts::Hosts;
pub(super) use record::folder;

pub use record::{Ended, HOSTED_VERSION, HostedRecord, LogSource};

use super::{FoundState, NodeEvent, NodeFact, Spawner, StopHow};
use crate::health::Verdict;
use crate::model::InstanceName;
use crate::supervisor::Event;
use async_channel::{Receiver, Sender};
use async_io::Timer;
use futures_lite::future;
use futures_util::future::BoxFuture;
use futures_util::task::SpawnExt;
use jiff::Timestamp;
use service_registry::model::{Execution, Exit};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Says how a start goes on, for people: `pulling postgres:16: 3 of 7 layers`.
pub(super) type Progress<'a> = &'a (dyn Fn(String) + Send + Sync);

/// Something that somebody else keeps, and how it is asked.
///
/// Every wait in it has a bound, except [`Self::next`].
pub(super) trait Hosted: Send + Sync {
    /// Brings it up. The error is for people. Dropping the future leaves something half made, which [`Self::stop`] ends.
    fn start<'a>(&'a self, progress: Progress<'a>) -> BoxFuture<'a, Result<Up, String>>;

    /// What has become of this run. Asked when a daemon returns.
    fn find(&self) -> BoxFuture<'_, Result<Seen, String>>;

    /// The next thing that becomes of it. Cancelling it loses nothing that [`Self::find`] wouldn't tell.
    fn next(&self) -> BoxFuture<'_, Change>;

    /// Takes it down and waits for that.
    fn stop(&self, how: StopHow) -> BoxFuture<'_, Result<Exit, String>>;

    /// After its end: saves what [`Self::clean`] would lose. The answer: where its log is from now on, if that has changed.
    fn save(&self) -> BoxFuture<'_, Option<LogSource>> {
        Box::pin(future::ready(None))
    }

    /// After its end was written down: removes what is in the way of the next run.
    fn clean(&self) -> BoxFuture<'_, ()> {
        Box::pin(future::ready(()))
    }
}

/// It is up.
#[derive(Clone, Debug)]
pub(super) struct Up {
    pub(super) execution: Execution,
    /// Whether it tells its health by itself.
    pub(super) tells_health: bool,
    /// What it has told so far.
    pub(super) health: Option<Told>,
    pub(super) log: LogSource,
    /// It was up, has ended, and whoever keeps it starts it again.
    pub(super) returning: Option<Box<Returning>>,
}

/// How something ended that comes back by itself.
#[derive(Clone, Debug)]
pub(super) struct Returning {
    pub(super) exit: Exit,
    /// What it waits for, for people.
    pub(super) why: String,
    /// Quick deaths in a row.
    pub(super) deaths: u32,
}

/// What something has told of its health.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) verdict: Verdict,
    /// In which words.
    pub(super) message: String,
}

/// What was found of a run.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    Up(Up),
    Ended(Exit),
    Absent,
}

/// What becomes of a run.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// It has ended.
    Ended(Exit),
    /// It told its health.
    Health(Told),
    /// Another process carries it out.
    Moved(Execution),
    /// It has ended, and whoever keeps it starts it again.
    Returning(Returning),
    /// It is up again.
    Up(Box<Up>),
}

/// The runs that have a task, by instance.
#[derive(Clone, Default)]
pub(super) struct Live(Arc<Mutex<BTreeMap<InstanceName, Orders>>>);

/// A run, and where its task takes orders.
type Orders = (String, Sender<StopHow>);

impl Live {
    fn map(&self) -> MutexGuard<'_, BTreeMap<InstanceName, Orders>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks a run to end; `false` if it has no task.
    pub(super) fn stop(&self, instance: &InstanceName, run: &str, how: StopHow) -> bool {
        match self.map().get(instance) {
            // A full queue has a stop in it already, and its task asks once more when that has failed.
            Some((current, orders)) if current == run => orders.try_send(how).is_ok() || !orders.is_closed(),
            _ => false,
        }
    }

    fn begin(&self, instance: &InstanceName, run: &str) -> Receiver<StopHow> {
        let (sender, orders) = async_channel::bounded(4);
        self.map().insert(instance.clone(), (run.to_owned(), sender));
        orders
    }

    fn end(&self, instance: &InstanceName, run: &str) {
        let mut map = self.map();
        if map.get(instance).is_some_and(|(current, _)| current == run) {
            map.remove(instance);
        }
    }
}

/// A run and what its task needs.
pub(super) struct Task {
    pub(super) hosted: Box<dyn Hosted>,
    pub(super) record: HostedRecord,
    pub(super) state: PathBuf,
    pub(super) keep_runs: u32,
    pub(super) events: Sender<Event>,
    pub(super) live: Live,
}

/// How a task's wait ended.
enum Woken {
    Up(Result<Up, String>),
    Found(Result<Seen, String>),
    Changed(Change),
    Stop(StopHow),
    Stopped(Result<Exit, String>),
    Closed,
}

/// How long a run is looked for when a daemon returns: the others wait for it.
const FIND: Duration = Duration::from_secs(5);
/// The pause before what couldn't be asked is asked again.
const AGAIN: Duration = Duration::from_secs(1);

impl Task {
    /// Brings the run up, and stays with it.
    pub(super) fn start(self, spawner: &Spawner) -> bool {
        let orders = self.live.begin(&self.record.instance, &self.record.run);
        spawner.spawn(self.begin(orders)).is_ok()
    }

    /// Finds the run as it is, and stays with it unless it has ended: also where it can't be asked now, because what isn't
    /// known to have ended is as it was. `None`: nothing of it was ever made.
    pub(super) async fn adopt(mut self, spawner: &Spawner) -> Option<FoundState> {
        let late = async {
            Timer::after(FIND).await;
            Err(format!("no answer within {FIND:?}"))
        };
        let never_up = self.record.is_not_up();
        let state = match future::or(self.hosted.find(), late).await {
            Ok(Seen::Up(up)) => {
                self.is_up(&up);
                let state =
                    FoundState::Running { execution: up.execution.clone(), tells_health: up.tells_health };
                let orders = self.live.begin(&self.record.instance, &self.record.run);
                // Refused only when the engine is to end.
                let _ = spawner.spawn(self.stay(orders, up));
                return Some(state);
            }
            // Whoever was to keep it never heard of it, or tells of another time.
            Ok(Seen::Absent | Seen::Ended(_)) if never_up => return None,
            Ok(Seen::Ended(_)) if self.record.is_of_another_boot() => {
                self.has_ended(Exit::unknown(RESTARTED), false).await;
                return Some(FoundState::Lost { why: RESTARTED });
            }
            Ok(Seen::Ended(exit)) => exit,
            Ok(Seen::Absent) => Exit::unknown("it was removed"),
            Err(why) => {
                tracing::warn!(instance = %self.record.instance, why, "can't find out what has become of it");
                let state = match never_up {
                    true => FoundState::Starting,
                    false => {
                        FoundState::Running { execution: self.record.execution.clone(), tells_health: false }
                    }
                };
                let orders = self.live.begin(&self.record.instance, &self.record.run);
                let _ = spawner.spawn(self.find_again(orders));
                return Some(state);
            }
        };
        self.has_ended(state.clone(), false).await;
        Some(FoundState::Ended { exit: state })
    }

    /// Asks until it can be told what has become of the run.
    async fn find_again(mut self, orders: Receiver<StopHow>) {
        let exit = loop {
            let woken = {
                let find = async {
                    Timer::after(AGAIN).await;
                    Woken::Found(self.hosted.find().await)
                };
                let asked = async { orders.recv().await.map_or(Woken::Closed, Woken::Stop) };
                future::or(asked, find).await
            };
            match woken {
                Woken::Found(Ok(Seen::Up(up))) => {
                    self.is_up(&up);
                    self.send(started(&up)).await;
                    return self.stay(orders, up).await;
                }
                Woken::Found(Ok(Seen::Ended(exit))) => break exit,
                Woken::Found(Ok(Seen::Absent)) => break Exit::unknown("it was removed"),
                Woken::Stop(how) => match self.hosted.stop(how).await {
                    Ok(exit) => return self.finish(exit, true).await,
                    Err(why) => tracing::warn!(instance = %self.record.instance, why, "can't stop it"),
                },
                Woken::Closed => return,
                _ => {}
            }
        };
        self.finish(exit, false).await;
    }

    async fn begin(mut self, orders: Receiver<StopHow>) {
        HostedRecord::prune(&self.state, &self.record.instance, self.keep_runs.saturating_sub(1));
        self.write();
        let woken = {
            let say = |message: String| {
                // Full: there is more important news.
                let _ = self.events.try_send(self.event(NodeFact::Progress { message }));
            };
            let start = async { Woken::Up(self.hosted.start(&say).await) };
            let asked = async { orders.recv().await.map_or(Woken::Closed, Woken::Stop) };
            future::or(start, asked).await
        };
        match woken {
            Woken::Up(Ok(up)) => {
                self.is_up(&up);
                if up.returning.is_none() {
                    self.send(started(&up)).await;
                }
                self.stay(orders, up).await;
            }
            Woken::Up(Err(error)) => {
                // Nothing of it may be in the way of the next try.
                self.has_ended(Exit::unknown(error.clone()), false).await;
                self.live.end(&self.record.instance, &self.record.run);
                self.send(NodeFact::StartFailed { error }).await;
            }
            // Half made, or made in this moment: only when it is gone it has ended.
            Woken::Stop(how) => loop {
                match self.hosted.stop(StopHow { kill: true, ..how }).await {
                    Ok(exit) => break self.finish(exit, true).await,
                    Err(why) => tracing::warn!(instance = %self.record.instance, why, "can't stop it"),
                }
                if orders.is_closed() {
                    break;
                }
                Timer::after(AGAIN).await;
            },
            _ => {}
        }
    }

    async fn stay(mut self, orders: Receiver<StopHow>, up: Up) {
        if let Some(told) = up.health {
            self.told(told).await;
        }
        if let Some(returning) = up.returning {
            self.returning(*returning).await;
        }
        // Both go on while something else is attended to: what they have heard must not be lost with them.
        let mut changed = self.hosted.next();
        let mut stopping: Option<(StopHow, BoxFuture<'_, Result<Exit, String>>)> = None;
        let ended = loop {
            let woken = {
                let change = async { Woken::Changed((&mut changed).await) };
                let asked = async { orders.recv().await.map_or(Woken::Closed, Woken::Stop) };
                let stopped = async {
                    match stopping.as_mut() {
                        Some((_, stop)) => Woken::Stopped(stop.await),
                        None => future::pending().await,
                    }
                };
                future::or(stopped, future::or(change, asked)).await
            };
            match woken {
                Woken::Changed(Change::Ended(exit)) => {
                    // Taking it down may be more than its end.
                    if let Some((_, stop)) = stopping.as_mut()
                        && let Err(why) = stop.await
                    {
                        tracing::warn!(instance = %self.record.instance, why, "it has ended and leaves something");
                    }
                    break Some(exit);
                }
                Woken::Changed(change) => {
                    match change {
                        Change::Health(told) => self.told(told).await,
                        Change::Moved(execution) => self.send(NodeFact::Moved { execution }).await,
                        Change::Returning(returning) => self.returning(returning).await,
                        Change::Up(up) => self.send(started(&up)).await,
                        Change::Ended(_) => {}
                    }
                    changed = self.hosted.next();
                }
                // Reminders don't begin it anew; only a kill is more than what goes on.
                Woken::Stop(how) => {
                    if stopping.as_ref().is_none_or(|(under_way, _)| how.kill && !under_way.kill) {
                        stopping = Some((how, self.hosted.stop(how)));
                    }
                }
                Woken::Stopped(Ok(exit)) => break Some(exit),
                Woken::Stopped(Err(why)) => {
                    // The plan asks again, harder.
                    tracing::warn!(instance = %self.record.instance, why, "can't stop it");
                    stopping = None;
                }
                Woken::Up(_) | Woken::Found(_) => {}
                Woken::Closed => break None,
            }
        };
        let asked = stopping.is_some();
        drop((changed, stopping));
        if let Some(exit) = ended {
            self.finish(exit, asked).await;
        }
    }

    fn is_up(&mut self, up: &Up) {
        self.record.execution.clone_from(&up.execution);
        self.record.log.clone_from(&up.log);
        self.write();
    }

    async fn returning(&self, Returning { exit, why, deaths }: Returning) {
        self.send(NodeFact::Returning { exit, why, deaths }).await;
    }

    async fn told(&self, Told { verdict, message }: Told) {
        self.send(NodeFact::Told { verdict, message }).await;
    }

    /// Its end is on disk, and what it said with it, before anybody hears of it. `asked`: somebody wanted it to end.
    async fn finish(&mut self, exit: Exit, asked: bool) {
        self.has_ended(exit.clone(), asked).await;
        self.live.end(&self.record.instance, &self.record.run);
        self.send(NodeFact::Exited { exit }).await;
    }

    async fn has_ended(&mut self, exit: Exit, asked: bool) {
        if let Some(log) = self.hosted.save().await {
            self.record.log = log;
        }
        self.record.execution = std::mem::take(&mut self.record.execution).ended();
        self.record.ended = Some(Ended { exit, at: Timestamp::now(), asked });
        self.write();
        self.hosted.clean().await;
    }

    fn write(&self) {
        if let Err(error) = self.record.write(&self.state) {
            tracing::error!(instance = %self.record.instance, %error, "can't write the run's record");
        }
    }

    fn event(&self, fact: NodeFact) -> Event {
        let HostedRecord { instance, run, .. } = &self.record;
        Event::Node(NodeEvent { instance: instance.clone(), run: run.clone(), fact })
    }

    async fn send(&self, fact: NodeFact) {
        // The loop is gone only when the engine is to end.
        let _ = self.events.send(self.event(fact)).await;
    }
}

fn started(up: &Up) -> NodeFact {
    NodeFact::Started { execution: up.execution.clone(), tells_health: up.tells_health }
}

/// Why nobody saw the end of what ran before.
const RESTARTED: &str = "the machine was restarted";

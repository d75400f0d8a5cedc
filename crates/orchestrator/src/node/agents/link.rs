//! The link to one agent: made, kept, made again.
//!
//! A link begins when something is first wanted on its node, and lasts as long as the daemon. While it is up it hears every
//! change of what the agent keeps, in order and once: subscriptions go on from the revision that was heard last. While it is
//! down nothing is known, and both sides go on as they are.

use super::Connector;
use super::copy;
use super::keep::keep;
use super::wire::{self, Owner, Stamp};
use crate::model::{InstanceName, Node, Service};
use crate::node::{Spawner, chain};
use crate::observed::Moment;
use crate::supervisor::Event;
use async_channel::{Receiver, Sender};
use async_lock::{Semaphore, SemaphoreGuard};
use futures_lite::future;
use futures_util::task::SpawnExt;
use indexmap::IndexMap;
use jiff::Timestamp;
use service_registry::client::{Client, ClientError};
use service_registry::model::Known;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The time that the end of an agent may take to be acknowledged.
const END: Duration = Duration::from_secs(4);
/// Changes of one instance that may wait for its task. The oldest go first: only the last is needed to know how it is.
const HEARD: usize = 128;

/// What happens to a link.
#[derive(Clone, Debug)]
pub enum LinkFact {
    /// The way is being made.
    Progress(String),
    /// The agent answers.
    Up {
        /// The address by which that node sees this one.
        near: Option<IpAddr>,
        /// The address by which this node sees that one.
        far: Option<IpAddr>,
    },
    /// It can't be reached; it is tried again.
    Down {
        /// When it was heard last; when it was tried first if never.
        since: Timestamp,
        /// The same as time since this machine's boot: no lease that was granted before lasts longer than [`crate::plan::LEASE`]
        /// from there.
        last: Moment,
        /// Why, for people.
        why: String,
        /// Whether it was heard before, by this daemon.
        heard: bool,
    },
    /// The gateway of the stack's container network there: that machine, as the containers on it see it.
    Gateway(Ipv4Addr),
    /// Everything up to this revision of its registry was heard.
    Revision(u64),
    /// A run that was given up while the node was lost will never be started there again.
    Withdrawn {
        /// Of this instance.
        instance: InstanceName,
        /// The run.
        run: String,
    },
    /// How far its clock is ahead of this one's, in milliseconds, give or take the second.
    Clock {
        /// Ahead by so much.
        ahead_ms: i64,
        /// Half the time of the question.
        uncertain_ms: u64,
    },
}

/// Something that happened to the link to a node.
#[derive(Clone, Debug)]
pub struct LinkEvent {
    /// The node.
    pub node: String,
    /// What.
    pub fact: LinkFact,
}

/// The links of a project, by node.
#[derive(Clone)]
pub(in crate::node) struct Links {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) connector: Arc<dyn Connector>,
    pub(super) owner: Owner,
    pub(super) spawner: Spawner,
    pub(super) events: Sender<Event>,
    pub(super) nodes: Mutex<IndexMap<String, Node>>,
    /// Runs that were given up while their node was lost.
    pub(super) given_up: Mutex<BTreeMap<String, Vec<(InstanceName, String)>>>,
    links: Mutex<BTreeMap<String, Arc<Link>>>,
}

/// The link to one node.
pub(in crate::node) struct Link {
    pub(in crate::node) node: String,
    pub(super) state: Mutex<LinkState>,
    /// Holds a message when somebody wants it to be tried now.
    urge: (Sender<()>, Receiver<()>),
    /// Closed when nobody wants the link any more.
    end: (Sender<()>, Receiver<()>),
    turns: Turns,
}

/// Whose turn it is to ask an agent something. It refuses more than its server's limit of open requests on a connection (64)
/// and of streams (4); the rest of both is for the link itself.
struct Turns {
    calls: Semaphore,
    copies: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self { calls: Semaphore::new(32), copies: Semaphore::new(3) }
    }
}

#[derive(Default)]
pub(super) struct LinkState {
    client: Option<Client>,
    /// What was heard last of every instance there. Complete once `synced`.
    entries: BTreeMap<String, Known>,
    pub(super) synced: bool,
    /// Up to where it was heard.
    pub(super) revision: Option<u64>,
    pub(super) heard: Option<Timestamp>,
    /// The same as time since boot; when it was tried first if never.
    pub(super) last: Option<Moment>,
    /// The tasks of instances there.
    listeners: BTreeMap<InstanceName, Sender<Known>>,
    bells: Vec<Sender<()>>,
}

impl Links {
    pub(in crate::node) fn new(
        connector: Arc<dyn Connector>,
        owner: Owner,
        spawner: Spawner,
        events: Sender<Event>,
    ) -> Self {
        let (nodes, given_up, links) = Default::default();
        Self { inner: Arc::new(Inner { connector, owner, spawner, events, nodes, given_up, links }) }
    }

    /// This run was given up: when its node is heard again, the agent there is told before all else.
    pub(in crate::node) fn give_up(&self, node: &str, instance: &InstanceName, run: &str) {
        let mut given_up = lock(&self.inner.given_up);
        given_up.entry(node.to_owned()).or_default().push((instance.clone(), run.to_owned()));
    }

    /// Who asks.
    pub(in crate::node) fn owner(&self) -> &Owner {
        &self.inner.owner
    }

    /// The nodes as the file has them now.
    pub(in crate::node) fn know(&self, nodes: &IndexMap<String, Node>) {
        lock(&self.inner.nodes).clone_from(nodes);
    }

    /// A node and those on the way to it, as the file has them now.
    pub(in crate::node) fn way(&self, node: &str) -> IndexMap<String, Node> {
        let nodes = lock(&self.inner.nodes);
        let mut way = IndexMap::new();
        let mut next = Some(node);
        while let Some((name, node)) = next.and_then(|name| nodes.get_key_value(name)) {
            if way.insert(name.clone(), node.clone()).is_some() {
                break;
            }
            next = node.jump.as_deref();
        }
        way
    }

    /// Ends the agents that can be reached and have nothing left to keep: nothing of the stack runs any more.
    pub(in crate::node) async fn end_idle(&self) {
        let links: Vec<Arc<Link>> = lock(&self.inner.links).values().cloned().collect();
        let ends = links.iter().filter_map(|link| Some((link, link.client_now()?))).map(
            |(link, client)| async move {
                let params = serde_json::json!({ "if_idle": true });
                let ended: Result<serde_json::Value, ClientError> =
                    client.call(wire::END, &params, END).await;
                match ended {
                    // It may close the connection before its answer is out.
                    Ok(_) | Err(ClientError::Closed { .. }) => {}
                    Err(error) => {
                        tracing::warn!(node = link.node, error = %chain(&error), "its agent goes on")
                    }
                }
            },
        );
        futures_util::future::join_all(ends).await;
    }

    /// Brings the files of services to nodes that can be reached now; what failed, for people, is told at the end.
    pub(in crate::node) fn bring(&self, services: Vec<(String, Arc<Service>)>, told: Sender<Vec<String>>) {
        let links = self.clone();
        let task = async move {
            let mut failed = Vec::new();
            for (node, service) in services {
                let link = links.to(&node, None);
                let brought = match link.client_now() {
                    Some(client) => {
                        let broken = async {
                            link.down().await;
                            Err("the connection was lost".to_owned())
                        };
                        let copied = async {
                            let copied = copy::files(&client, links.owner(), &service, &|_| {}).await;
                            copied.map_err(|error| chain(&error))
                        };
                        future::or(copied, broken).await
                    }
                    None => Err("it can't be reached now".to_owned()),
                };
                if let Err(why) = brought {
                    let name = &service.name;
                    failed.push(format!("the files of {name} on node {node} are as they were: {why}"));
                }
            }
            for line in &failed {
                tracing::warn!("{line}");
            }
            // Whoever asked may not wait any more.
            let _ = told.try_send(failed);
        };
        // Refused only when the engine is to end.
        let _ = self.inner.spawner.spawn(task);
    }

    /// Tries to reach the agents that are down now, rather than when it is their turn.
    pub(in crate::node) fn urge(&self) {
        let down = |link: &&Arc<Link>| link.client_now().is_none();
        for link in lock(&self.inner.links).values().filter(down) {
            // Full: it was told and hasn't heard yet.
            let _ = link.urge.0.try_send(());
        }
    }

    /// The link to `node`, begun if there is none. `revision` is up to where it was heard by a daemon before.
    pub(in crate::node) fn to(&self, node: &str, revision: Option<u64>) -> Arc<Link> {
        let mut links = lock(&self.inner.links);
        if let Some(link) = links.get(node) {
            return link.clone();
        }
        let state = LinkState { revision, ..LinkState::default() };
        let (urge, end) = (async_channel::bounded(1), async_channel::bounded(1));
        let (state, turns) = (Mutex::new(state), Turns::default());
        let link = Arc::new(Link { node: node.to_owned(), state, urge, end, turns });
        links.insert(node.to_owned(), link.clone());
        let (inner, kept) = (self.inner.clone(), link.clone());
        let kept = async move {
            future::or(keep(inner, kept.clone()), kept.unwanted()).await;
            kept.is_down();
        };
        // Refused only when the engine is to end.
        let _ = self.inner.spawner.spawn(kept);
        link
    }

    /// Ends the link to `node`, if there is one; the next one begins anew.
    pub(in crate::node) fn forget(&self, node: &str) {
        if let Some(link) = lock(&self.inner.links).remove(node) {
            link.end.0.close();
        }
    }
}

/// Time since boot, sleep included.
pub(super) fn since_boot() -> Moment {
    Moment::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Boottime)).unwrap_or_default()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(super) fn ping(&self, seen: Option<&Stamp>) -> wire::PingParams {
        wire::PingParams { owner: Some(self.owner.id.clone()), seen: seen.cloned() }
    }

    pub(super) async fn tell(&self, node: &str, fact: LinkFact) {
        // The loop is gone only when the engine is to end.
        let _ = self.events.send(Event::Link(LinkEvent { node: node.to_owned(), fact })).await;
    }
}

impl LinkState {
    pub(super) fn heard(&mut self, now: Moment) {
        self.heard = Some(Timestamp::now());
        self.last = Some(now);
    }

    fn ring(&mut self) {
        // Full: it has been rung and not been heard yet.
        self.bells.retain(|bell| !matches!(bell.try_send(()), Err(async_channel::TrySendError::Closed(()))));
    }

    fn hear(&mut self, known: &Known) {
        let Ok(instance) = known.instance.parse::<InstanceName>() else { return };
        if let Some(listener) = self.listeners.get(&instance) {
            // Of more than can wait the oldest go.
            let _ = listener.force_send(known.clone());
        }
    }
}

impl Link {
    /// Waits for a turn to call a method of the agent.
    pub(in crate::node) async fn turn(&self) -> SemaphoreGuard<'_> {
        self.turns.calls.acquire().await
    }

    /// Waits for a turn to bring files there.
    pub(in crate::node) async fn turn_to_copy(&self) -> SemaphoreGuard<'_> {
        self.turns.copies.acquire().await
    }

    /// When it was heard last, if ever, and since when it is waited for.
    pub(super) fn last_heard(&self) -> (Option<Timestamp>, Moment) {
        let mut state = lock(&self.state);
        // A daemon before this one may have heard it until this one began.
        let last = *state.last.get_or_insert_with(since_boot);
        (state.heard, last)
    }

    /// For how long it hasn't been heard.
    pub(super) fn away(&self) -> Duration {
        since_boot().saturating_sub(self.last_heard().1)
    }

    /// Waits until somebody wants it to be tried now.
    pub(super) async fn urged(&self) {
        // Both ends live as long as the link.
        let _ = self.urge.1.recv().await;
    }

    /// Waits until nobody wants it any more.
    async fn unwanted(&self) {
        // Nothing is ever sent.
        let _ = self.end.1.recv().await;
    }

    pub(super) fn is_up(&self, client: &Client) {
        let mut state = lock(&self.state);
        state.client = Some(client.clone());
        state.heard(since_boot());
        state.ring();
    }

    pub(super) fn is_down(&self) {
        let mut state = lock(&self.state);
        state.client = None;
        state.ring();
    }

    pub(super) fn is_now(&self, entries: Vec<Known>) {
        let mut state = lock(&self.state);
        state.entries = entries.into_iter().map(|entry| (entry.instance.clone(), entry)).collect();
        state.synced = true;
        state.ring();
    }

    pub(super) fn snapshot(&self, entries: Vec<Known>, revision: u64) {
        self.is_now(entries);
        let mut state = lock(&self.state);
        state.revision = Some(revision);
        let entries: Vec<Known> = state.entries.values().cloned().collect();
        for entry in &entries {
            state.hear(entry);
        }
        state.ring();
    }

    pub(super) fn changed(&self, instance: &str, entry: Option<Known>, revision: u64) {
        let mut state = lock(&self.state);
        state.revision = Some(revision);
        match entry {
            Some(entry) => {
                state.hear(&entry);
                // A list that was asked for may be ahead of the events that led to it.
                let newer = state.entries.get(instance).is_none_or(|known| known.revision <= entry.revision);
                if newer {
                    state.entries.insert(instance.to_owned(), entry);
                }
            }
            // The same of one that is gone: it may be there again.
            None if state.entries.get(instance).is_some_and(|known| known.revision > revision) => {}
            None => drop(state.entries.remove(instance)),
        }
        state.ring();
    }

    /// Every change of `instance` from now on.
    pub(in crate::node) fn listen(&self, instance: &InstanceName) -> Receiver<Known> {
        let (sender, receiver) = async_channel::bounded(HEARD);
        lock(&self.state).listeners.insert(instance.clone(), sender);
        receiver
    }

    /// What was heard last of `instance`; waits until anything was.
    pub(in crate::node) async fn entry(&self, instance: &InstanceName) -> Option<Known> {
        let name = instance.to_string();
        self.until(|state| state.synced.then(|| state.entries.get(&name).cloned())).await
    }

    /// Waits until what is known of `instance` answers.
    pub(in crate::node) async fn until_entry<T>(
        &self,
        instance: &InstanceName,
        check: impl Fn(Option<&Known>) -> Option<T>,
    ) -> T {
        let name = instance.to_string();
        self.until(|state| if state.synced { check(state.entries.get(&name)) } else { None }).await
    }

    /// The connection, once there is one.
    pub(in crate::node) async fn client(&self) -> Client {
        self.until(|state| state.client.clone()).await
    }

    /// Waits until the link is down.
    pub(in crate::node) async fn down(&self) {
        self.until(|state| state.client.is_none().then_some(())).await;
    }

    /// The connection, if there is one now.
    pub(in crate::node) fn client_now(&self) -> Option<Client> {
        lock(&self.state).client.clone()
    }

    async fn until<T>(&self, check: impl Fn(&LinkState) -> Option<T>) -> T {
        let bell = {
            let mut state = lock(&self.state);
            if let Some(answer) = check(&state) {
                return answer;
            }
            let (sender, bell) = async_channel::bounded(1);
            state.bells.push(sender);
            bell
        };
        loop {
            if let Some(answer) = check(&lock(&self.state)) {
                return answer;
            }
            if bell.recv().await.is_err() {
                // The link is never dropped before those who wait for it.
                future::pending::<()>().await;
            }
        }
    }
}

//! What the parts of one data plane share. Each field has one part that changes it; locks are held for a moment only.

use crate::forward::listener::Listener;
use crate::link::Links;
use crate::tables::Request;
use crate::tunnels::Tunnels;
use crate::ways::memory::Memory;
use crate::zone::Served;
use orchestrator::network::plane::{PeerReport, Report, Table, Way};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Connections that are carried at the same time. Then no more are accepted until one ends.
const CONNECTIONS: usize = 8192;

/// One data plane.
#[derive(Debug)]
pub(crate) struct Plane {
    /// This node.
    pub(crate) node: String,
    /// The build of this program.
    build: String,
    /// What is served. Changed by [`crate::tables`].
    pub(crate) table: watch::Sender<Arc<Table>>,
    /// What is listened for. Changed by [`crate::tables`].
    pub(crate) listeners: Mutex<Vec<Arc<Listener>>>,
    /// Raised when listeners have become those of another table.
    pub(crate) served: watch::Sender<u64>,
    /// Which ways worked. Changed by whoever takes one.
    pub(crate) memory: Mutex<Memory>,
    /// The links that stand. Changed by those who hold them.
    pub(crate) links: Links,
    /// This node's end of tunnels. Changed by [`crate::tables`].
    pub(crate) tunnels: Tunnels,
    /// The DNS zone. Changed by [`crate::tables`].
    pub(crate) zone: Mutex<Option<Arc<Served>>>,
    /// What came from other nodes. Changed by those who hold the links to them.
    pub(crate) others: Mutex<BTreeMap<String, Report>>,
    /// A permit for each connection.
    pub(crate) connections: Arc<Semaphore>,
    /// How much has changed since the start.
    pub(crate) changes: watch::Sender<Changes>,
    /// Asked to serve a table.
    serving: mpsc::Sender<Request>,
    /// Cancelled to end it.
    pub(crate) end: CancellationToken,
    start: Instant,
}

/// Counts of what changed in the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Whatever somebody decides by.
    pub(crate) state: u64,
    /// Counters only.
    pub(crate) counts: u64,
}

/// Takes a lock. A thread that panicked while it held one left values that are whole all the same.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Plane {
    /// The data plane of `node`, and what it is asked to serve.
    pub(crate) fn new(node: String, build: String) -> (Arc<Self>, mpsc::Receiver<Request>) {
        let (serving, requests) = mpsc::channel(16);
        let nothing = Table { node: node.clone(), ..Table::default() };
        let plane = Self {
            node,
            build,
            table: watch::Sender::new(Arc::new(nothing)),
            listeners: Mutex::default(),
            served: watch::Sender::default(),
            memory: Mutex::default(),
            links: Links::default(),
            tunnels: Tunnels::default(),
            zone: Mutex::default(),
            others: Mutex::default(),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            changes: watch::Sender::default(),
            serving,
            end: CancellationToken::new(),
            start: Instant::now(),
        };
        (Arc::new(plane), requests)
    }

    /// What the pure parts are told as the time: since the start.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The table that is served.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.borrow().clone()
    }

    /// Something changed that somebody decides by.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|changes| changes.state += 1);
    }

    /// A counter changed.
    pub(crate) fn counted(&self) {
        self.changes.send_modify(|changes| changes.counts += 1);
    }

    /// A way worked.
    pub(crate) fn way_worked(&self, node: &str, way: &Way, evidence: String, rtt: Option<Duration>) {
        let rtt = rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
        if lock(&self.memory).worked(node, way, evidence, rtt) {
            self.changed();
        }
    }

    /// A way failed.
    pub(crate) fn way_failed(&self, node: &str, way: &Way, why: String) {
        tracing::debug!(node, ?way, why, "a way failed");
        if lock(&self.memory).failed(node, way, why, self.now()) {
            self.changed();
        }
    }

    /// A link to the node stands; `rtt` if it was measured. Whatever goes over it is worth trying.
    pub(crate) fn link_stands(&self, node: &str, rtt: Option<Duration>) {
        let evidence = match rtt {
            Some(rtt) => format!("{node} answers over the link in {:.1} ms", rtt.as_secs_f64() * 1000.0),
            None => format!("{node} answers over the link"),
        };
        self.way_worked(node, &Way::Link, evidence, rtt);
        if rtt.is_none() {
            let relay = Way::Relay { via: node.to_owned() };
            let mut memory = lock(&self.memory);
            for other in self.table().peers.keys() {
                memory.forgive(other, &relay);
            }
            drop(memory);
            self.changed();
        }
    }

    /// Has a table served. Returns once it is, or why it isn't, for people.
    pub(crate) async fn serve(&self, table: Table) -> Result<(), String> {
        let (answer, served) = oneshot::channel();
        let over = |_| "the data plane is ending".to_owned();
        self.serving.send(Request { table, answer }).await.map_err(|_| over(()))?;
        served.await.map_err(|_| over(()))?
    }

    /// How everything is.
    pub(crate) fn report(&self) -> Report {
        let table = self.table();
        let memory = lock(&self.memory);
        let peers = table.peers.iter().map(|(node, peer)| {
            let made_here = !peer.link.is_empty() && !peer.ways.contains(&Way::Link);
            let ways = peer.ways.iter().chain(made_here.then_some(&Way::Link));
            (node.clone(), PeerReport { ways: ways.map(|way| memory.report(node, way)).collect() })
        });
        Report {
            node: self.node.clone(),
            build: self.build.clone(),
            connections: CONNECTIONS.saturating_sub(self.connections.available_permits()) as u64,
            version: table.version,
            listeners: lock(&self.listeners).iter().map(|listener| listener.report()).collect(),
            peers: peers.collect(),
            tunnel: self.tunnels.report(),
            zone: lock(&self.zone).as_ref().map(|zone| zone.report()),
            others: lock(&self.others).clone(),
        }
    }
}

/// Tells when to send a report again.
#[derive(Debug)]
pub(crate) struct Reporting {
    changes: watch::Receiver<Changes>,
    seen: Changes,
    last: tokio::time::Instant,
}

/// The least time between two reports.
const PAUSE: Duration = Duration::from_millis(200);
/// The least time between two reports that differ in counters only.
const PAUSE_OF_COUNTS: Duration = Duration::from_secs(1);

impl Reporting {
    /// A first report is due at once: the caller sends it, then waits.
    pub(crate) fn new(plane: &Plane) -> Self {
        let mut changes = plane.changes.subscribe();
        let seen = *changes.borrow_and_update();
        Self { changes, seen, last: tokio::time::Instant::now() }
    }

    /// Waits until another report is due. Ends only with the data plane.
    pub(crate) async fn due(&mut self) {
        loop {
            let now = *self.changes.borrow_and_update();
            let pause = match (now.state != self.seen.state, now.counts != self.seen.counts) {
                (true, _) => PAUSE,
                (false, true) => PAUSE_OF_COUNTS,
                (false, false) => Duration::MAX,
            };
            if pause == Duration::MAX {
                if self.changes.changed().await.is_err() {
                    return std::future::pending().await;
                }
                continue;
            }
            let wait = tokio::time::sleep_until(self.last + pause);
            tokio::select! {
                () = wait => {
                    self.seen = *self.changes.borrow_and_update();
                    self.last = tokio::time::Instant::now();
                    return;
                }
                // Counters may be followed by what can't wait.
                _ = self.changes.changed() => {}
            }
        }
    }
}

//! The one owner of all that is known of other nodes. It hears what is asked, what packets, probes and the kernel tell, and
//! has tunnels follow.

mod network;
mod paths;
mod peer;
mod set;
mod wire;

use crate::addresses::{Changes, Outlook};
use crate::config::{Config, Error, Report};
use crate::interface::Interface;
use crate::keep::{Folder, Last, OwnKey};
use crate::route::{Hint, Inlet, Outlet, Routes};
use crate::stack::Stack;
use crate::udp::{Identity, Port, Prober};
use gotatun::packet::Packet;
use gotatun::x25519::PublicKey;
use peer::Other;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::Wire;

/// How often streams that are open are looked after.
const TICK: Duration = Duration::from_millis(500);
/// How often the rest is.
const SLOW_TICK: Duration = Duration::from_secs(10);
/// Changes of addresses and routes come in bursts: this long after the first one they are looked at.
const SETTLE: Duration = Duration::from_millis(50);
/// A handshake that was seen on the wire has been worked on after this time.
const WORKED: Duration = Duration::from_millis(20);

/// What is asked of the actor.
pub(crate) enum Command {
    /// Serve this.
    Set(Box<Config>, oneshot::Sender<Result<(), Error>>),
    /// Somebody wants to talk with that node.
    Want(String),
    /// That node didn't answer through its tunnel.
    Failed(String),
    /// Tell how it is.
    Report(oneshot::Sender<Report>),
    /// End, and answer when nothing of it is left.
    End(oneshot::Sender<()>),
}

/// How a task of the actor ended.
enum Outcome {
    /// Somebody was asked.
    Probed {
        name: String,
        key: PublicKey,
        /// Where it answered, and what.
        found: Option<(SocketAddr, crate::config::Pong)>,
    },
    /// A handshake was tried.
    Shaken { name: String, key: PublicKey, done: bool },
}

/// Somebody asked this node: who, and from where.
pub(crate) type Asked = (String, SocketAddr);

/// What the actor is made of.
pub(crate) struct Parts {
    pub(crate) folder: Folder,
    pub(crate) last: Last,
    pub(crate) key: OwnKey,
    pub(crate) port: Port,
    pub(crate) stack: Arc<Stack>,
    pub(crate) prober: Arc<Prober>,
    pub(crate) inlet: Inlet,
    pub(crate) outlet: Outlet,
    /// For packets of an interface.
    pub(crate) outgoing: mpsc::Sender<Packet>,
    pub(crate) hints: mpsc::Sender<Hint>,
    pub(crate) identity: watch::Sender<Option<Arc<Identity>>>,
    pub(crate) routes: watch::Sender<Arc<Routes>>,
    pub(crate) ways: watch::Sender<u64>,
    pub(crate) shaken: Arc<Notify>,
}

/// What the actor hears.
pub(crate) struct Ears {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) hints: mpsc::Receiver<Hint>,
    pub(crate) asked: mpsc::Receiver<Asked>,
    pub(crate) changes: Changes,
}

/// See the module.
pub(crate) struct Actor {
    folder: Folder,
    last: Last,
    key: OwnKey,
    port: u16,
    wire: Arc<Wire>,
    stack: Arc<Stack>,
    interface: Option<Interface>,
    /// Why there is none although there should be.
    no_interface: Option<String>,
    outgoing: mpsc::Sender<Packet>,
    hints: mpsc::Sender<Hint>,
    prober: Arc<Prober>,
    identity: watch::Sender<Option<Arc<Identity>>>,
    routes: watch::Sender<Arc<Routes>>,
    /// Counts changes of ways, for those who wait for one.
    ways: watch::Sender<u64>,
    shaken: Arc<Notify>,
    config: Option<Config>,
    others: BTreeMap<String, Other>,
    seen_as: BTreeMap<String, SocketAddr>,
    outlook: Outlook,
    tasks: JoinSet<Outcome>,
    /// When to look for handshakes that happened, and for changes of the network.
    look: Option<Instant>,
    settle: Option<Instant>,
    tick: Instant,
}

impl Actor {
    /// Starts the tunnels, without any other end.
    pub(crate) async fn start(parts: Parts) -> Result<Self, Error> {
        let port = parts.port.number();
        let wire = Wire::start(parts.port, parts.inlet, parts.outlet, parts.key.secret.clone()).await?;
        Ok(Self {
            folder: parts.folder,
            last: parts.last,
            key: parts.key,
            port,
            wire: Arc::new(wire),
            stack: parts.stack,
            interface: None,
            no_interface: None,
            outgoing: parts.outgoing,
            hints: parts.hints,
            prober: parts.prober,
            identity: parts.identity,
            routes: parts.routes,
            ways: parts.ways,
            shaken: parts.shaken,
            config: None,
            others: BTreeMap::new(),
            seen_as: BTreeMap::new(),
            outlook: Outlook::now(std::iter::empty(), None),
            tasks: JoinSet::new(),
            look: None,
            settle: None,
            tick: Instant::now() + SLOW_TICK,
        })
    }

    /// Goes on until it is told to end, or nobody can tell it any more.
    pub(crate) async fn run(mut self, mut ears: Ears) {
        let mut kernel_tells = true;
        let answer = loop {
            let due = [Some(self.tick), self.look, self.settle, self.next_probe()];
            let due = due.into_iter().flatten().min().unwrap_or(self.tick);
            tokio::select! {
                command = ears.commands.recv() => match command {
                    None => break None,
                    Some(Command::End(answer)) => break Some(answer),
                    Some(command) => self.command(command).await,
                },
                Some(hint) = ears.hints.recv() => self.hint(hint),
                Some((name, from)) = ears.asked.recv() => self.asked(&name, from),
                Some(outcome) = self.tasks.join_next(), if !self.tasks.is_empty() => match outcome {
                    Ok(Outcome::Probed { name, key, found }) => self.probed(&name, &key, found).await,
                    Ok(Outcome::Shaken { name, key, done }) => self.shaken(&name, &key, done).await,
                    Err(error) => tracing::warn!("a task of the tunnels ended: {error}"),
                },
                () = self.shaken.notified() => {
                    self.look.get_or_insert(Instant::now() + WORKED);
                }
                changed = ears.changes.next(), if kernel_tells => match changed {
                    Ok(()) => {
                        self.settle.get_or_insert(Instant::now() + SETTLE);
                    }
                    Err(error) => {
                        tracing::warn!("no more word of changed addresses: {error}");
                        kernel_tells = false;
                    }
                },
                () = tokio::time::sleep_until(due) => self.due().await,
            }
        };
        self.end().await;
        if let Some(answer) = answer {
            let _ = answer.send(());
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Set(config, answer) => {
                let done = self.set(*config).await;
                let _ = answer.send(done);
            }
            Command::Want(name) => self.want(&name),
            Command::Failed(name) => self.failed(&name),
            Command::Report(answer) => {
                let report = self.report().await;
                let _ = answer.send(report);
            }
            Command::End(_) => {}
        }
    }

    /// Does what is due by now.
    async fn due(&mut self) {
        let now = Instant::now();
        if self.look.is_some_and(|at| at <= now) {
            self.look = None;
            self.look_for_handshakes().await;
        }
        if self.settle.is_some_and(|at| at <= now) {
            self.settle = None;
            self.network_changed().await;
        }
        if self.tick <= now {
            let busy = self.look_after_streams();
            self.look_after_interface().await;
            self.look_for_handshakes().await;
            self.tick = now + if busy { TICK } else { SLOW_TICK };
        }
        self.probe_who_is_due(now);
    }

    async fn end(&mut self) {
        self.remember().await;
        self.tasks.shutdown().await;
        if let Some(interface) = self.interface.take() {
            interface.end().await;
        }
        self.wire.stop().await;
    }

    fn hub(&self) -> Option<&str> {
        self.config.as_ref()?.hub.as_deref()
    }

    /// Whether that node has no other way than the straight one.
    fn is_without_alternative(&self, name: &str) -> bool {
        self.hub().is_none_or(|hub| hub == name)
    }
}

//! What others use: one end of tunnels.

use crate::actor::{Actor, Asked, Command, Ears, Parts};
use crate::addresses::Changes;
use crate::config::{Config, Error, Options, Pong, Report};
use crate::keep::{self, Folder, Last};
use crate::route::{Hint, Inlet, Outlet, Routes};
use crate::stack::{Driver, Stack, Stream};
use crate::udp::{Identity, Port, Prober};
use gotatun::packet::Packet;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Packets between TCP and the tunnels, in each direction; those that don't fit are lost. Several streams' buffers full.
const PACKETS: usize = 4096;
/// Streams that came in and wait to be accepted.
const ACCEPTED: usize = 128;
/// Questions to the engine, and what packets tell it.
const COMMANDS: usize = 64;
/// A port that another run just had is waited for this long.
const PORT_FREE: Duration = Duration::from_secs(1);
/// It is tried again after this time.
const PORT_AGAIN: Duration = Duration::from_millis(20);
/// While there is no way to a node, it is looked for again after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One end of tunnels. Its tasks end with it.
pub struct Engine {
    commands: mpsc::Sender<Command>,
    stack: Arc<Stack>,
    prober: Arc<Prober>,
    routes: watch::Receiver<Arc<Routes>>,
    ways: watch::Receiver<u64>,
    incoming: Mutex<mpsc::Receiver<(Ipv4Addr, Stream)>>,
    /// Ended when this is dropped.
    _tasks: JoinSet<()>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts one, without any other end. Its private key is made here at the first start, and stays in the state folder.
    /// Needs a tokio runtime with IO and time, and no privileges.
    ///
    /// # Errors
    /// When the state folder can't be used, or the port that was asked for is taken.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let folder = Folder::open(&options.state)?;
        let key = folder.key()?;
        let mut last = folder.last()?;
        let shaken = Arc::new(Notify::new());
        let (port, probes) = listen(options.port, &last, &shaken).await?;
        if last.port != port.number() || last.format != 1 {
            last = Last { format: 1, port: port.number(), ..last };
            folder.keep(&last)?;
        }
        let changes = Changes::open()?;

        let (commands, heard_commands) = mpsc::channel(COMMANDS);
        let (hints, heard_hints) = mpsc::channel::<Hint>(COMMANDS);
        let (asked, heard_asked) = mpsc::channel::<Asked>(COMMANDS);
        let (into_stack, from_tunnels) = mpsc::channel::<Packet>(PACKETS);
        let (into_tunnels, from_stack) = mpsc::channel::<Packet>(PACKETS);
        let (accepted, incoming) = mpsc::channel(ACCEPTED);
        let (identity, known_as) = watch::channel::<Option<Arc<Identity>>>(None);
        let (set_routes, routes) = watch::channel(Arc::new(Routes::default()));
        let (set_ways, ways) = watch::channel(0);

        let stack = Arc::new(Stack::new(keep::random()?, accepted));
        let prober = Arc::new(Prober::new(port.clone(), known_as));
        let inlet = Inlet {
            routes: routes.clone(),
            incoming: into_stack,
            outgoing: into_tunnels.clone(),
            hints: hints.clone(),
        };
        let parts = Parts {
            folder,
            last,
            key,
            port,
            stack: Arc::clone(&stack),
            prober: Arc::clone(&prober),
            inlet,
            outlet: Outlet::new(from_stack),
            outgoing: into_tunnels.clone(),
            hints,
            identity,
            routes: set_routes,
            ways: set_ways,
            shaken,
        };
        let actor = Actor::start(parts).await?;

        let mut tasks = JoinSet::new();
        let ears = Ears { commands: heard_commands, hints: heard_hints, asked: heard_asked, changes };
        tasks.spawn(actor.run(ears));
        let driver = Driver {
            stack: Arc::clone(&stack),
            incoming: from_tunnels,
            outgoing: into_tunnels,
            routes: routes.clone(),
        };
        tasks.spawn(driver.run());
        let answering = Arc::clone(&prober);
        tasks.spawn(async move {
            answering.serve(probes, |name, from| drop(asked.try_send((name, from)))).await;
        });
        let incoming = Mutex::new(incoming);
        Ok(Self { commands, stack, prober, routes, ways, incoming, _tasks: tasks })
    }

    /// Serves that from now on. What doesn't differ goes on: streams, sessions, ways. A node that is gone is cut off before
    /// this returns, and its streams are reset.
    ///
    /// # Errors
    /// [`Error::Config`] if it can't be served; then nothing has changed.
    pub async fn set(&self, config: Config) -> Result<(), Error> {
        let (answer, done) = oneshot::channel();
        self.tell(Command::Set(Box::new(config), answer)).await?;
        done.await.map_err(|_| Error::Ended)?
    }

    /// Opens a stream to that node's data plane: straight if it answers, through the hub otherwise. Streams that are open
    /// change ways without noticing.
    ///
    /// # Errors
    /// When there is no such node, no way to it, or no answer in time.
    pub async fn open(&self, peer: &str, timeout: Duration) -> Result<Stream, Error> {
        let deadline = Instant::now() + timeout;
        let mut ways = self.ways.clone();
        loop {
            ways.borrow_and_update();
            let address = self.address_of(peer)?;
            self.tell(Command::Want(peer.to_owned())).await?;
            if self.routes.borrow().reaches(address) {
                return self.connect(peer, address, deadline, timeout).await;
            }
            let again = deadline.min(Instant::now() + LOOK_AGAIN);
            let _ = tokio::time::timeout_at(again, ways.changed()).await;
            if Instant::now() >= deadline {
                return Err(Error::NoWay { peer: peer.to_owned() });
            }
        }
    }

    async fn connect(
        &self,
        peer: &str,
        address: Ipv4Addr,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<Stream, Error> {
        let stream = self.stack.connect(address)?;
        match tokio::time::timeout_at(deadline, stream.connected()).await {
            Ok(true) => Ok(stream),
            Ok(false) => Err(Error::Refused(peer.to_owned())),
            Err(_) => {
                self.tell(Command::Failed(peer.to_owned())).await?;
                Err(Error::Timeout { peer: peer.to_owned(), ms: timeout.as_millis() })
            }
        }
    }

    /// The next stream that another node has opened, and that node. WireGuard vouches for it: a packet with a node's
    /// address comes from that node or, through the hub, from the hub's own word.
    ///
    /// # Errors
    /// [`Error::Ended`] once the engine has ended.
    pub async fn accept(&self) -> Result<(String, Stream), Error> {
        let mut incoming = self.incoming.lock().await;
        loop {
            let (address, stream) = incoming.recv().await.ok_or(Error::Ended)?;
            // Who is gone by now has no name, and no stream either.
            if let Some(node) = self.routes.borrow().nodes.get(&address) {
                return Ok((node.name.clone(), stream));
            }
        }
    }

    /// Asks who is at that address. The answer is authentic, and names the node: a neighbour of another stack doesn't
    /// answer, one of this stack gives its own name.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] if there is none in time.
    pub async fn probe(&self, place: SocketAddr, timeout: Duration) -> Result<Pong, Error> {
        self.prober.ask(place, timeout).await
    }

    /// How it is.
    ///
    /// # Errors
    /// [`Error::Ended`] once the engine has ended.
    pub async fn report(&self) -> Result<Report, Error> {
        let (answer, report) = oneshot::channel();
        self.tell(Command::Report(answer)).await?;
        report.await.map_err(|_| Error::Ended)
    }

    /// Counts up whenever a way to a node changes: then a report is worth looking at.
    pub fn ways(&self) -> watch::Receiver<u64> {
        self.ways.clone()
    }

    /// Ends it. Its port is free soon after, and where the others are is kept for the next start.
    pub async fn stop(self) {
        let (answer, ended) = oneshot::channel();
        if self.tell(Command::End(answer)).await.is_ok() {
            let _ = ended.await;
        }
    }

    fn address_of(&self, peer: &str) -> Result<Ipv4Addr, Error> {
        let routes = self.routes.borrow();
        let found = routes.nodes.iter().find(|(_, node)| node.name == peer);
        found.map(|(address, _)| *address).ok_or_else(|| Error::NoPeer(peer.to_owned()))
    }

    async fn tell(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::Ended)
    }
}

/// Listens on the port that was asked for, or the one of the last run, or any.
async fn listen(
    wanted: u16,
    last: &Last,
    shaken: &Arc<Notify>,
) -> Result<(Port, mpsc::Receiver<(Vec<u8>, SocketAddr)>), Error> {
    let first = if wanted == 0 { last.port } else { wanted };
    let deadline = Instant::now() + PORT_FREE;
    loop {
        match Port::listen(first, Arc::clone(shaken)).await {
            // The run before this one may just be ending.
            Err(Error::Bind { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline =>
            {
                tokio::time::sleep(PORT_AGAIN).await;
            }
            Err(Error::Bind { .. }) if wanted == 0 && first != 0 => {
                return Port::listen(0, Arc::clone(shaken)).await;
            }
            done => return done,
        }
    }
}

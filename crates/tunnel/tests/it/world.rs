//! Nodes whose data planes answer with what they are told.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tunnel::{Config, Engine, Options, Peer, State, Stream};

/// The bound of whatever a test waits for.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// A node.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) engine: Arc<Engine>,
    pub(crate) key: String,
    pub(crate) port: u16,
    pub(crate) config: Config,
    state: PathBuf,
    /// What `state` is in, if it goes with the node.
    folder: Option<tempfile::TempDir>,
    echo: Option<JoinHandle<()>>,
}

impl Node {
    pub(crate) async fn start(n: u8, name: &str) -> Self {
        Self::start_in(&tokio::runtime::Handle::current(), n, name, 0).await
    }

    /// On that runtime, whose threads may be in another network, and on that port.
    pub(crate) async fn start_in(runtime: &tokio::runtime::Handle, n: u8, name: &str, port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Self::start_at(runtime, n, name, port, folder.path()).await;
        Self { folder: Some(folder), ..node }
    }

    /// With that folder, which is left when the node ends.
    pub(crate) async fn start_at(
        runtime: &tokio::runtime::Handle,
        n: u8,
        name: &str,
        port: u16,
        state: &Path,
    ) -> Self {
        let options = Options { state: state.to_owned(), port };
        let engine = runtime.spawn(Engine::start(options)).await.unwrap().unwrap();
        let config = Config {
            node: name.to_owned(),
            address: [10, 210, n, 1].into(),
            probe_key: [7; 32],
            key_epoch: 0,
            hub: None,
            interface: None,
            peers: BTreeMap::new(),
        };
        let mut node = Self {
            name: name.to_owned(),
            engine: Arc::new(engine),
            key: String::new(),
            port: 0,
            config,
            state: state.to_owned(),
            folder: None,
            echo: None,
        };
        node.read().await;
        node.serve();
        node
    }

    pub(crate) async fn read(&mut self) {
        let report = self.engine.report().await.unwrap();
        (self.key, self.port) = (report.public_key, report.port);
    }

    /// Sends back whatever comes in on any stream, until the other end closes its half.
    fn serve(&mut self) {
        let engine = Arc::clone(&self.engine);
        self.echo = Some(tokio::spawn(async move {
            while let Ok((_, stream)) = engine.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = tokio::io::split(stream);
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.shutdown().await;
                });
            }
        }));
    }

    pub(crate) fn place(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub(crate) fn as_peer(&self, reachable: bool) -> Peer {
        Peer {
            public_key: self.key.clone(),
            address: self.config.address,
            interface: self.config.interface.as_ref().map(|interface| interface.address),
            candidates: if reachable { vec![self.place()] } else { Vec::new() },
        }
    }

    pub(crate) fn knows(&mut self, other: &Node, reachable: bool) {
        self.config.peers.insert(other.name.clone(), other.as_peer(reachable));
    }

    /// Knows it at these places.
    pub(crate) fn knows_at(&mut self, other: &Node, places: &[SocketAddr]) {
        let peer = Peer { candidates: places.to_vec(), ..other.as_peer(false) };
        self.config.peers.insert(other.name.clone(), peer);
    }

    pub(crate) async fn set(&self) {
        self.engine.set(self.config.clone()).await.unwrap();
    }

    pub(crate) async fn open(&self, other: &Node) -> Stream {
        self.engine.open(&other.name, BOUND).await.unwrap()
    }

    pub(crate) async fn tunnel(&self, other: &Node) -> State {
        self.engine.report().await.unwrap().tunnels[&other.name].clone()
    }

    /// Waits until the tunnel to the other one is like that.
    pub(crate) async fn until(&self, other: &Node, like: impl Fn(&State) -> bool) -> State {
        let mut ways = self.engine.ways();
        within(async {
            loop {
                ways.borrow_and_update();
                let state = self.tunnel(other).await;
                if like(&state) {
                    return state;
                }
                ways.changed().await.unwrap();
            }
        })
        .await
    }

    /// Ends, and starts again with the same state.
    pub(crate) async fn restart(mut self) -> Self {
        self = self.stopped().await;
        self.engine = Arc::new(Engine::start(Options { state: self.state.clone(), port: 0 }).await.unwrap());
        let before = self.port;
        self.read().await;
        assert_eq!(self.port, before, "the port is kept");
        self.serve();
        self.set().await;
        self
    }

    /// From now on the test accepts by itself.
    pub(crate) async fn stop_echo(&mut self) {
        let Some(echo) = self.echo.take() else { return };
        echo.abort();
        let _ = echo.await;
    }

    /// Ends.
    pub(crate) async fn end(mut self) {
        self.stop_echo().await;
        Arc::into_inner(self.engine).unwrap().stop().await;
    }

    async fn stopped(mut self) -> Self {
        self.stop_echo().await;
        let Self { engine, name, key, port, config, state, folder, .. } = self;
        // Something else for the meantime: the engine has one owner then.
        let spare = tempfile::tempdir().unwrap();
        let other = Engine::start(Options { state: spare.path().to_owned(), port: 0 }).await.unwrap();
        Arc::into_inner(engine).unwrap().stop().await;
        Self { engine: Arc::new(other), name, key, port, config, state, folder, echo: None }
    }
}

/// A hub, and as many others that know each other; `reachable` also by their addresses.
pub(crate) async fn star(others: u8, reachable: bool) -> (Node, Vec<Node>) {
    let mut hub = Node::start(0, "hub").await;
    let mut nodes = Vec::new();
    for n in 1..=others {
        let mut node = Node::start(n, &format!("n{n}")).await;
        node.config.hub = Some("hub".to_owned());
        node.knows(&hub, true);
        hub.knows(&node, false);
        nodes.push(node);
    }
    for n in 0..nodes.len() {
        for m in 0..nodes.len() {
            if n != m {
                let peer = nodes[m].as_peer(reachable);
                let name = nodes[m].name.clone();
                nodes[n].config.peers.insert(name, peer);
            }
        }
    }
    hub.set().await;
    for node in &nodes {
        node.set().await;
    }
    for node in &nodes {
        hub.until(node, |tunnel| tunnel.endpoint.is_some()).await;
        node.until(&hub, |tunnel| tunnel.endpoint.is_some()).await;
    }
    (hub, nodes)
}

/// Two nodes that reach each other, without a hub.
pub(crate) async fn pair() -> (Node, Node) {
    let mut a = Node::start(1, "a").await;
    let mut b = Node::start(2, "b").await;
    a.knows(&b, true);
    b.knows(&a, true);
    a.set().await;
    b.set().await;
    (a, b)
}

/// The result, or a failure if it takes too long.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, work).await.expect("it takes too long")
}

/// One round trip.
pub(crate) async fn echo(stream: &mut Stream, text: &[u8]) {
    within(async {
        stream.write_all(text).await.unwrap();
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, text);
    })
    .await;
}

/// Round trips without a pause, until `done`; the longest one.
pub(crate) async fn longest_round_trip(
    stream: &mut Stream,
    done: &std::sync::atomic::AtomicBool,
) -> Duration {
    let mut longest = Duration::ZERO;
    while !done.load(std::sync::atomic::Ordering::Relaxed) {
        let begun = Instant::now();
        echo(stream, b"ping").await;
        longest = longest.max(begun.elapsed());
    }
    longest
}

/// Requests on one stream, about a millisecond apart, each with its number; the answer must be the request.
pub(crate) struct Flow {
    /// How many were answered, and the longest that one took since that was last asked.
    seen: watch::Receiver<(u64, Duration)>,
    forget: mpsc::UnboundedSender<()>,
    task: JoinHandle<()>,
}

/// Requests that show that the way is open again.
const ENOUGH: u64 = 50;

impl Flow {
    pub(crate) fn start(mut stream: Stream) -> Self {
        let (tell, seen) = watch::channel((0, Duration::ZERO));
        let (forget, mut forgotten) = mpsc::unbounded_channel::<()>();
        let task = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            for number in 1u64.. {
                let mut request = [0xa5; 200];
                request[..8].copy_from_slice(&number.to_be_bytes());
                let begun = Instant::now();
                stream.write_all(&request).await.unwrap();
                let mut answer = [0; 200];
                stream.read_exact(&mut answer).await.unwrap();
                assert_eq!(answer, request);
                while forgotten.try_recv().is_ok() {
                    longest = Duration::ZERO;
                }
                longest = longest.max(begun.elapsed());
                tell.send_replace((number, longest));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Self { seen, forget, task }
    }

    /// The longest that an answer took, the one that is under way included, once so many more have come as show that the
    /// way is open.
    pub(crate) async fn gap(&mut self) -> Duration {
        let (before, _) = *self.seen.borrow();
        let (_, gap) = self.until(|(answered, _)| answered >= before + ENOUGH).await;
        self.forget.send(()).unwrap();
        gap
    }

    /// Has requests go on for that time, and forgets how long they took.
    pub(crate) async fn goes_on_for(&mut self, time: Duration) {
        let begun = Instant::now();
        self.until(|_| begun.elapsed() >= time).await;
        self.forget.send(()).unwrap();
        let (before, _) = *self.seen.borrow();
        self.until(|(answered, _)| answered > before + 1).await;
    }

    async fn until(&mut self, like: impl Fn((u64, Duration)) -> bool) -> (u64, Duration) {
        match within(self.seen.wait_for(|seen| like(*seen))).await {
            Ok(seen) => *seen,
            Err(_) => panic!("the flow broke off: {:?}", (&mut self.task).await),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Bytes that tell where they belong.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

/// Sends that many bytes, which must come back as they were: how long it took.
pub(crate) async fn bulk(stream: Stream, length: usize) -> Duration {
    let begun = Instant::now();
    let (mut read, mut write) = tokio::io::split(stream);
    let sent = pattern(length);
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut received = Vec::with_capacity(length);
    let reading = read.read_to_end(&mut received);
    tokio::time::timeout(Duration::from_secs(40), reading).await.expect("it takes too long").unwrap();
    assert!(received == expected, "{} bytes came back, not the same ones", received.len());
    writing.await.unwrap();
    begun.elapsed()
}

//! This node's end of tunnels: started when a table has one, told what changes, and looked at for the report.

use crate::plane::{Plane, lock};
use crate::task::Task;
use crate::ways::export;
use crate::ways::hello::Hello;
use orchestrator::network::plane::{InterfaceReport, Table, Tunnel, TunnelReport, TunnelState, Way};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunnel::{Config, Engine, Interface, Options, Peer, Stream};

/// Streams from all other nodes that are open at the same time.
const STREAMS: usize = 4096;
/// How often counters are read; whatever else changes is seen at once.
const LOOK: Duration = Duration::from_secs(5);
/// How long an engine may take to do what it is told.
const SET: Duration = Duration::from_secs(5);

/// What the parts of a data plane see of the tunnels.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    engine: Mutex<Option<Arc<Engine>>>,
    /// Why there is none although there should be.
    error: Mutex<Option<String>>,
    report: Mutex<Option<TunnelReport>>,
}

impl Tunnels {
    /// Opens a stream to the data plane of another node.
    ///
    /// # Errors
    ///
    /// Why not, for people.
    pub(crate) async fn open(&self, node: &str, bound: Duration) -> Result<Stream, String> {
        let engine = lock(&self.engine).clone();
        let Some(engine) = engine else {
            return Err(lock(&self.error).clone().unwrap_or_else(|| "this node has no tunnel".to_owned()));
        };
        engine.open(node, bound).await.map_err(|error| error.to_string())
    }

    pub(crate) fn report(&self) -> Option<TunnelReport> {
        lock(&self.report).clone()
    }
}

/// The owner of the engine.
#[derive(Debug, Default)]
pub(crate) struct Owner {
    running: Option<Running>,
    wanted: bool,
}

#[derive(Debug)]
struct Running {
    port: u16,
    engine: Arc<Engine>,
    task: Task,
}

impl Owner {
    /// Whether there should be a tunnel and is none.
    pub(crate) fn lacks(&self) -> bool {
        self.wanted && self.running.is_none()
    }

    /// Has the table's tunnel served. What goes wrong is told by whoever tries to use it.
    pub(crate) async fn serve(&mut self, plane: &Arc<Plane>, state: PathBuf, table: &Table) {
        self.wanted = table.tunnel.is_some();
        let Some(tunnel) = &table.tunnel else { return self.end(plane).await };
        if self.running.as_ref().is_some_and(|running| running.port != tunnel.port) {
            self.end(plane).await;
        }
        let served = match config(&table.node, tunnel) {
            Ok(config) => self.set(plane, state, tunnel.port, config).await,
            Err(why) => Err(why),
        };
        if let Err(why) = &served {
            tracing::warn!(why, "the tunnels aren't as they should be");
        }
        *lock(&plane.tunnels.error) = served.err();
    }

    async fn set(
        &mut self,
        plane: &Arc<Plane>,
        state: PathBuf,
        port: u16,
        config: Config,
    ) -> Result<(), String> {
        let running = match &self.running {
            Some(running) => running,
            None => {
                let engine = Engine::start(Options { state, port }).await.map_err(|e| describe(&e))?;
                let engine = Arc::new(engine);
                let task = Task::spawn(attend(plane.clone(), engine.clone()));
                *lock(&plane.tunnels.engine) = Some(engine.clone());
                self.running.insert(Running { port, engine, task })
            }
        };
        let engine = running.engine.clone();
        match timeout(SET, engine.set(config)).await {
            Ok(set) => set.map_err(|error| describe(&error))?,
            Err(_) => return Err(format!("the tunnels don't change within {} s", SET.as_secs())),
        }
        // Whoever told the table finds the key in the report.
        look(plane, &engine, &mut BTreeMap::new()).await;
        Ok(())
    }

    async fn end(&mut self, plane: &Plane) {
        let Some(Running { engine, task, .. }) = self.running.take() else { return };
        *lock(&plane.tunnels.engine) = None;
        *lock(&plane.tunnels.report) = None;
        task.end().await;
        // Whoever is opening a stream has it a moment longer; then it ends as it is dropped.
        if let Some(engine) = Arc::into_inner(engine) {
            let _ = timeout(SET, engine.stop()).await;
        }
    }
}

fn describe(error: &tunnel::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn config(node: &str, tunnel: &Tunnel) -> Result<Config, String> {
    let peers = tunnel.peers.iter().map(|(name, peer)| {
        let peer = Peer {
            public_key: peer.public_key.clone(),
            address: peer.address,
            interface: peer.interface,
            candidates: peer.candidates.clone(),
        };
        (name.clone(), peer)
    });
    Ok(Config {
        node: node.to_owned(),
        address: tunnel.address,
        probe_key: key(&tunnel.probe_key).ok_or("the probe key isn't 64 hexadecimal digits")?,
        key_epoch: tunnel.key_epoch,
        hub: tunnel.hub.clone(),
        interface: tunnel.interface.as_ref().map(|interface| Interface {
            name: interface.name.clone(),
            address: interface.address,
            prefix: interface.prefix,
        }),
        peers: peers.collect(),
    })
}

fn key(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut key = [0; 32];
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(key)
}

/// Serves what comes through the tunnels, and looks at how they do.
async fn attend(plane: Arc<Plane>, engine: Arc<Engine>) {
    let mut streams = JoinSet::new();
    let limit = Arc::new(Semaphore::new(STREAMS));
    let mut ways = engine.ways();
    let mut every = tokio::time::interval(LOOK);
    let mut seen = BTreeMap::new();
    loop {
        tokio::select! {
            accepted = engine.accept() => {
                let Ok((from, stream)) = accepted else { return };
                while streams.try_join_next().is_some() {}
                // Above the limit the stream is dropped: the other end goes another way.
                let Ok(permit) = limit.clone().try_acquire_owned() else { continue };
                let plane = plane.clone();
                streams.spawn(async move {
                    answer(plane, stream, &from).await;
                    drop(permit);
                });
            }
            changed = ways.changed() => {
                if changed.is_err() {
                    return;
                }
                look(&plane, &engine, &mut seen).await;
            }
            _ = every.tick() => look(&plane, &engine, &mut seen).await,
        }
    }
}

async fn answer(plane: Arc<Plane>, mut stream: Stream, from: &str) {
    match export::asked(&mut stream).await {
        Ok(Hello::Export { node, export }) if node == plane.node => {
            export::serve(plane, stream, node, export).await;
        }
        Ok(other) => tracing::debug!(from, ?other, "a stream through a tunnel asked for something else"),
        Err(error) => tracing::debug!(from, %error, "a stream through a tunnel didn't say what it is for"),
    }
}

/// What makes one tunnel another than before: where packets go, and whether they arrive.
type Seen = BTreeMap<String, (Option<SocketAddr>, bool, bool)>;

async fn look(plane: &Plane, engine: &Engine, seen: &mut Seen) {
    let Ok(told) = engine.report().await else { return };
    for (node, state) in &told.tunnels {
        let now = (state.endpoint, state.through_hub, state.handshake_s.is_some());
        if seen.insert(node.clone(), now) == Some(now) || !now.2 {
            continue;
        }
        let evidence = match state.endpoint {
            Some(endpoint) if !state.through_hub => format!("tunnel to {endpoint}"),
            _ => "tunnel through the hub".to_owned(),
        };
        let rtt = state.rtt_us.map(Duration::from_micros);
        plane.way_worked(node, &Way::Wireguard, evidence, rtt);
    }
    seen.retain(|node, _| told.tunnels.contains_key(node));
    let tunnels = told.tunnels.into_iter().map(|(node, state)| {
        let state = TunnelState {
            endpoint: state.endpoint,
            through_hub: state.through_hub,
            handshake_s: state.handshake_s,
            rx: state.rx,
            tx: state.tx,
        };
        (node, state)
    });
    let report = TunnelReport {
        public_key: told.public_key,
        key_epoch: told.key_epoch,
        port: told.port,
        addresses: told.addresses,
        seen_as: told.seen_as,
        interface: told.interface.map(|interface| InterfaceReport {
            name: interface.name,
            address: interface.address.to_string(),
            error: interface.error,
        }),
        tunnels: tunnels.collect(),
    };
    let before = lock(&plane.tunnels.report).replace(report.clone());
    match before {
        Some(before) if before == report => {}
        Some(before) if without_counts(&before) == without_counts(&report) => plane.counted(),
        _ => plane.changed(),
    }
}

fn without_counts(report: &TunnelReport) -> TunnelReport {
    let mut report = report.clone();
    for state in report.tunnels.values_mut() {
        (state.rx, state.tx) = (0, 0);
        state.handshake_s = state.handshake_s.map(|_| 0);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_digits() {
        assert_eq!(key(&"0f".repeat(32)), Some([15; 32]));
        for wrong in [String::new(), "0f".repeat(31), "0g".repeat(32), "ß".repeat(32)] {
            assert_eq!(key(&wrong), None);
        }
    }
}

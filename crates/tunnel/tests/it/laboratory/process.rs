//! A node that is a process of its own, to be killed and stopped. It is this program again, which is told on its standard
//! input what to serve.

use crate::world::Node;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tunnel::{Config, Interface, Peer};

/// What is this process's own stands behind this, among what the test framework prints.
const MARK: &str = "node: ";

/// How it is started.
#[derive(Serialize, Deserialize)]
struct Begin {
    n: u8,
    name: String,
    port: u16,
    state: std::path::PathBuf,
}

/// What it is to serve.
#[derive(Serialize, Deserialize)]
struct Serve {
    node: String,
    address: Ipv4Addr,
    probe_key: [u8; 32],
    hub: Option<String>,
    interface: Option<(String, Ipv4Addr, u8)>,
    peers: BTreeMap<String, (String, Ipv4Addr, Vec<SocketAddr>)>,
}

/// A node in another process.
pub(super) struct Process {
    namespace: &'static str,
    begin: String,
    serve: String,
    running: Running,
    key: String,
    pub(super) address: Ipv4Addr,
    /// Lives as long as the node.
    _state: tempfile::TempDir,
}

struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub(super) fn start(namespace: &'static str, n: u8, name: &str, port: u16) -> Self {
        let state = tempfile::tempdir().unwrap();
        let begin = Begin { n, name: name.to_owned(), port, state: state.path().to_owned() };
        let begin = serde_json::to_string(&begin).unwrap();
        let (running, key) = Running::begin(namespace, &begin);
        let address = [10, 210, n, 1].into();
        Self { namespace, begin, serve: String::new(), running, key, address, _state: state }
    }

    pub(super) fn as_peer(&self, places: &[SocketAddr]) -> Peer {
        Peer {
            public_key: self.key.clone(),
            address: self.address,
            interface: None,
            candidates: places.to_vec(),
        }
    }

    pub(super) fn set(&mut self, config: &Config) {
        let peers = config.peers.iter().map(|(name, peer)| {
            (name.clone(), (peer.public_key.clone(), peer.address, peer.candidates.clone()))
        });
        let serve = Serve {
            node: config.node.clone(),
            address: config.address,
            probe_key: config.probe_key,
            hub: config.hub.clone(),
            interface: config.interface.as_ref().map(|it| (it.name.clone(), it.address, it.prefix)),
            peers: peers.collect(),
        };
        self.serve = serde_json::to_string(&serve).unwrap();
        self.running.say(&self.serve);
    }

    pub(super) fn signal(&self, signal: &str) {
        super::sh(&format!("kill -{signal} {}", self.running.child.id()));
    }

    /// Without a chance to put anything in order.
    pub(super) fn kill(&mut self) {
        self.running.child.kill().unwrap();
        self.running.child.wait().unwrap();
    }

    /// With what the one before left.
    pub(super) fn start_again(&mut self) {
        let (running, key) = Running::begin(self.namespace, &self.begin);
        assert_eq!(key, self.key, "the key is kept");
        self.running = running;
        self.running.say(&self.serve);
    }
}

impl Running {
    fn begin(namespace: &str, begin: &str) -> (Self, String) {
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace, "setpriv", "--pdeathsig", "KILL"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "laboratory::process::node", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut running = Self { child, input, output };
        let key = running.say(begin);
        (running, key)
    }

    fn say(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        loop {
            let mut answer = String::new();
            assert_ne!(self.output.read_line(&mut answer).unwrap(), 0, "the node has ended");
            if let Some((_, answer)) = answer.split_once(MARK) {
                return answer.trim().to_owned();
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "is a node, not a test: others start it"]
fn node() {
    let mut lines = std::io::stdin().lines();
    let begin: Begin = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut node = runtime.block_on(begin.node());
    println!("{MARK}{}", node.key);
    for line in lines {
        let serve: Serve = serde_json::from_str(&line.unwrap()).unwrap();
        node.config = serve.config();
        runtime.block_on(node.set());
        println!("{MARK}set");
    }
}

impl Begin {
    async fn node(&self) -> Node {
        let runtime = tokio::runtime::Handle::current();
        Node::start_at(&runtime, self.n, &self.name, self.port, Path::new(&self.state)).await
    }
}

impl Serve {
    fn config(self) -> Config {
        let peers = self.peers.into_iter().map(|(name, (public_key, address, candidates))| {
            (name, Peer { public_key, address, interface: None, candidates })
        });
        Config {
            node: self.node,
            address: self.address,
            probe_key: self.probe_key,
            key_epoch: 0,
            hub: self.hub,
            interface: self.interface.map(|(name, address, prefix)| Interface { name, address, prefix }),
            peers: peers.collect(),
        }
    }
}

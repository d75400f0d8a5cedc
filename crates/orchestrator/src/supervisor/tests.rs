//! What the loop tells data planes, and when. The engine carries out nothing: its tasks are thrown away.

use super::*;
use crate::command::{StartRequest, StopRequest};
use crate::model::{Node, Port, PortNumber, Protocol, Service, Stack};
use crate::network::plane::{PeerReport, Table, TunnelReport, Way, WayReport};
use crate::network::topology::Class;
use crate::node::{ConnectFailed, Connection, Connector, Installed, Installer, Planes, Project, wire};
use crate::testing::{instance, name, node, service, stack_of};
use command_executor::keeper::{KeeperOptions, Keepers};
use futures_util::future::BoxFuture;
use futures_util::task::{FutureObj, Spawn, SpawnError};
use indexmap::IndexMap;
use service_registry::model::{Execution, Exit};
use service_registry::store::MemoryStore;
use std::sync::Mutex;

struct Nobody;

impl Spawn for Nobody {
    fn spawn_obj(&self, _: FutureObj<'static, ()>) -> Result<(), SpawnError> {
        Ok(())
    }
}

impl Connector for Nobody {
    fn connect<'a>(
        &'a self,
        _: &'a IndexMap<String, crate::model::Node>,
        _: &'a str,
        _: &'a (dyn Fn(String) + Send + Sync),
    ) -> BoxFuture<'a, Result<Connection, ConnectFailed>> {
        Box::pin(std::future::pending())
    }
}

impl Installer for Nobody {
    fn install<'a>(
        &'a self,
        _: &'a crate::network::PackageSpec,
        _: &'a (dyn Fn(String) + Send + Sync),
    ) -> BoxFuture<'a, Result<Installed, String>> {
        Box::pin(std::future::pending())
    }
}

/// Keeps what it was handed.
#[derive(Default)]
struct Told {
    served: Mutex<Vec<BTreeMap<String, Table>>>,
    ended: Mutex<u32>,
}

impl Planes for Told {
    fn serve(&self, tables: BTreeMap<String, Table>, _: &IndexMap<String, Node>) {
        self.served.lock().unwrap().push(tables);
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        *self.ended.lock().unwrap() += 1;
        Box::pin(std::future::ready(()))
    }
}

impl Told {
    /// What was handed out since the last time: version, and listeners with their backends.
    fn news(&self) -> Vec<(u64, Vec<String>)> {
        let served = std::mem::take(&mut *self.served.lock().unwrap());
        let tables = served.iter().map(|tables| {
            let version = tables.values().map(|table| table.version).max().unwrap_or(0);
            let listeners = tables.iter().flat_map(|(node, table)| {
                table.listeners.iter().map(move |listener| {
                    let backends: Vec<&str> =
                        listener.backends.iter().map(|backend| backend.instance.as_str()).collect();
                    format!("{node}: {} [{}]", listener.service, backends.join(" "))
                })
            });
            (version, listeners.collect())
        });
        tables.collect()
    }
}

/// One project over several daemons.
struct Bench {
    folder: tempfile::TempDir,
    registry: Registry,
    told: Arc<Told>,
    time: Arc<Mutex<Moment>>,
}

impl Bench {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::default());
        Self {
            folder: tempfile::tempdir().unwrap(),
            registry: smol::block_on(Registry::open(store, Default::default())).unwrap(),
            told: Arc::default(),
            time: Arc::default(),
        }
    }

    fn open(&self) -> Supervisor {
        let state = self.folder.path().to_owned();
        let options = KeeperOptions {
            state: state.clone(),
            program: Some("/bin/false".into()),
            build: "test".into(),
            soft_open_files: None,
        };
        smol::block_on(async {
            let (events, received) = channel();
            let owner = wire::Owner { id: "me".into(), whose: "me".into() };
            let project = Project { id: "test-1".into(), name: "test".into(), state, owner, ambassador: &[] };
            let spawner: crate::node::Spawner = Arc::new(Nobody);
            let keepers = Keepers::open(options).unwrap();
            let engine =
                Engine::start(keepers, project, Arc::new(Nobody), Arc::new(Nobody), &spawner, events);
            let time = self.time.clone();
            let runs = std::sync::atomic::AtomicU32::new(0);
            let options = Options {
                registry: self.registry.clone(),
                engine: engine.unwrap(),
                planes: self.told.clone(),
                clock: Arc::new(move || (*time.lock().unwrap(), Timestamp::UNIX_EPOCH)),
                ports: PortRange { first: 20_000, last: 29_999 },
                seed: 0,
                node: "local".into(),
                run_id: Box::new(move || {
                    format!("r{}", runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                }),
            };
            Supervisor::open(options, received).await.unwrap()
        })
    }

    fn pass(&self, time: Duration) {
        *self.time.lock().unwrap() += time;
    }
}

fn needing(text: &str, needs: &[&str]) -> Service {
    let mut service = service(text);
    for need in needs {
        let condition = crate::model::Condition::Started;
        let dependency = crate::model::Dependency { condition, implied: false };
        service.dependencies.insert(name(need), dependency);
    }
    service
}

fn web(replicas: u32) -> Service {
    let port =
        Port { name: None, number: PortNumber::Auto, target: None, protocol: Protocol::Tcp, address: None };
    Service { replicas, ports: vec![port], ..service("web") }
}

fn start(supervisor: &mut Supervisor, stack: Stack) {
    let order = StartOrder {
        stack: Some(stack),
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        network: None,
        request: StartRequest::default(),
        dry_run: false,
    };
    let (sender, answer) = async_channel::bounded(1);
    supervisor.handle(Event::Command(Command::Start(Box::new(order), Reply(sender))));
    assert!(answer.try_recv().unwrap().is_ok());
    supervisor.next();
}

fn run_of(supervisor: &Supervisor, name: &str) -> Option<String> {
    Some(supervisor.world.observed.get(&instance(name))?.run()?.id.clone())
}

fn happens(supervisor: &mut Supervisor, name: &str, fact: NodeFact) {
    let run = run_of(supervisor, name).unwrap();
    supervisor.handle(Event::Node(NodeEvent { instance: instance(name), run, fact }));
    supervisor.next();
}

fn up(supervisor: &mut Supervisor, name: &str) {
    happens(supervisor, name, NodeFact::Started { execution: Execution::None, tells_health: false });
}

fn report(supervisor: &mut Supervisor, version: u64) {
    let report = Report { node: "local".into(), version, ..Report::default() };
    supervisor.handle(Event::Planes([("local".to_owned(), report)].into()));
    supervisor.next();
}

const EPOCH: u64 = 1 << 32;

#[test]
fn tables_are_handed_out_when_they_change_and_never_go_back() {
    let bench = Bench::new();
    let mut supervisor = bench.open();
    start(&mut supervisor, stack_of(vec![web(2), needing("front", &["web"])]));
    let listener = |backends: &str| vec![format!("local: web [{backends}]")];
    assert_eq!(bench.told.news(), [(EPOCH + 1, listener(""))], "before anybody serves");
    up(&mut supervisor, "web-1");
    up(&mut supervisor, "web-2");
    let told = bench.told.news();
    assert_eq!(told, [(EPOCH + 2, listener("web-1")), (EPOCH + 3, listener("web-1 web-2"))]);
    supervisor.next();
    let told_nothing_new = NodeFact::Probed { ok: true, message: "well".into(), duration: Duration::ZERO };
    happens(&mut supervisor, "web-1", told_nothing_new);
    assert_eq!(bench.told.news(), [], "nothing has changed");
    let slot = supervisor.world.virtuals.subnet();
    drop(supervisor);
    // Another daemon: what ran before it isn't found, as there are no keepers.
    let mut supervisor = bench.open();
    supervisor.next();
    assert_eq!(bench.told.news(), [(2 * EPOCH + 1, listener(""))]);
    assert_eq!(supervisor.world.virtuals.subnet(), slot);
    // Everything is stopped: nobody needs anything.
    let (sender, _answer) = async_channel::bounded(1);
    let stop = Command::Stop(StopRequest::default(), false, Reply(sender));
    supervisor.handle(Event::Command(stop));
    for name in ["front-1", "web-1", "web-2"] {
        if run_of(&supervisor, name).is_some() {
            happens(&mut supervisor, name, NodeFact::Exited { exit: Exit::with_code(0) });
        }
    }
    supervisor.next();
    assert_eq!(bench.told.news().last(), Some(&(0, vec![])));
    let (sender, _answer) = async_channel::bounded(1);
    supervisor.handle(Event::Command(Command::EndIfIdle(Reply(sender))));
    assert!(supervisor.idle);
    smol::block_on(supervisor.net.end());
    assert_eq!(*bench.told.ended.lock().unwrap(), 1);
}

#[test]
fn a_stack_that_needs_no_data_plane_hears_of_none() {
    let bench = Bench::new();
    let mut supervisor = bench.open();
    start(&mut supervisor, stack_of(vec![web(1), needing("front", &["web"])]));
    up(&mut supervisor, "web-1");
    assert!(run_of(&supervisor, "front-1").is_some());
    assert_eq!(bench.told.news(), []);
    smol::block_on(supervisor.net.end());
    // An agent's is told by another data plane, not from here; it ends with the agent.
    assert_eq!(*bench.told.ended.lock().unwrap(), 1);
}

#[test]
fn who_needs_a_listener_starts_once_it_is_there() {
    let bench = Bench::new();
    let mut supervisor = bench.open();
    start(&mut supervisor, stack_of(vec![web(2), needing("front", &["web"]), service("apart")]));
    for name in ["web-1", "web-2"] {
        up(&mut supervisor, name);
    }
    assert_eq!(run_of(&supervisor, "front-1"), None);
    let said = bench.registry.get("front-1").unwrap().status.reason.clone().unwrap();
    assert_eq!(said.message, "waiting for the data plane of local");
    assert!(run_of(&supervisor, "apart-1").is_some(), "it needs none");
    report(&mut supervisor, EPOCH);
    assert_eq!(run_of(&supervisor, "front-1"), None, "an older table");
    report(&mut supervisor, EPOCH + 1);
    assert!(run_of(&supervisor, "front-1").is_some());
    // One that doesn't come up is not waited for for ever.
    let bench = Bench::new();
    let mut supervisor = bench.open();
    start(&mut supervisor, stack_of(vec![web(2), needing("front", &["web"])]));
    for name in ["web-1", "web-2"] {
        up(&mut supervisor, name);
    }
    let wake = supervisor.next().unwrap();
    bench.pass(wake);
    supervisor.next();
    assert!(run_of(&supervisor, "front-1").is_some());
}

#[test]
fn what_data_planes_report_makes_ways_and_is_told() {
    let bench = Bench::new();
    let mut supervisor = bench.open();
    let mut stack = stack_of(vec![Service { host: Some("a".into()), ..web(1) }, needing("front", &["web"])]);
    stack.nodes.insert("a".into(), node("10.0.0.1", &[]));
    start(&mut supervisor, stack);
    let first = bench.told.served.lock().unwrap().pop().unwrap();
    assert_eq!(first["local"].peers["a"].ways, [Way::Link]);
    let tunnel = first["a"].tunnel.as_ref().unwrap();
    assert_eq!((tunnel.hub.as_deref(), tunnel.probe_key.len()), (Some("local"), 64));
    let end = |name: &str| TunnelReport { public_key: name.into(), port: 7, ..TunnelReport::default() };
    let link = WayReport { way: Way::Link, works: Some(true), evidence: "up".into(), rtt_us: None };
    let peers = [("a".to_owned(), PeerReport { ways: vec![link] })].into();
    let far = Report { node: "a".into(), tunnel: Some(end("a")), ..Report::default() };
    let stranger = Report { tunnel: Some(end("x")), ..far.clone() };
    let others = [("a".to_owned(), far), ("stranger".to_owned(), stranger)].into();
    let report = Report { node: "local".into(), peers, tunnel: Some(end("l")), others, ..Report::default() };
    supervisor.handle(Event::Planes([("local".to_owned(), report)].into()));
    supervisor.next();
    let second = bench.told.served.lock().unwrap().pop().unwrap();
    assert_eq!(second["local"].peers["a"].ways, [Way::Wireguard, Way::Link]);
    assert_eq!(second["local"].tunnel.as_ref().unwrap().peers["a"].public_key, "a");
    let (sender, answer) = async_channel::bounded(1);
    supervisor.handle(Event::Command(Command::Network(Reply(sender))));
    let status = answer.try_recv().unwrap();
    let classes: Vec<_> = status.pairs.iter().map(|pair| (pair.from.as_str(), pair.class)).collect();
    assert_eq!(classes, [("a", None), ("local", Some(Class::Link))]);
    assert_eq!(status.reports.len(), 2, "strangers aren't listened to");
    assert_eq!(status.services.len(), 1);
    assert!(!serde_json::to_string(&status).unwrap().contains(&tunnel.probe_key));
    let (sender, answer) = async_channel::bounded(1);
    supervisor.handle(Event::Command(Command::RotateKeys(Reply(sender))));
    supervisor.next();
    let rotated = bench.told.served.lock().unwrap().pop().unwrap();
    let epochs = rotated.values().map(|table| table.tunnel.as_ref().unwrap().key_epoch);
    assert_eq!((answer.try_recv(), epochs.collect::<Vec<_>>()), (Ok(2), vec![2, 2]));
    // The next daemon knows as much.
    drop(supervisor);
    let mut supervisor = bench.open();
    supervisor.next();
    let third = bench.told.served.lock().unwrap().pop().unwrap();
    assert_eq!(third["local"].peers["a"].ways, [Way::Wireguard, Way::Link]);
    assert_eq!(third["local"].tunnel.as_ref().unwrap().probe_key, tunnel.probe_key);
}

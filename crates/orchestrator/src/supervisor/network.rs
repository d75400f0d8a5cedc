//! What data planes are told, and what they have told.

use super::Supervisor;
use crate::command::{self, PortSource};
use crate::model::{Network, NetworkKind, Service, ServiceName};
use crate::network::plane::{Report, Table, Way};
use crate::network::reach::{Reach, Stand, asks_for, door_port, has_ambassadors, kind_of, reach, views};
use crate::network::topology::{Class, Facts, NodeFacts, Pair, pair};
use crate::network::zone::listen;
use crate::network::{Overlay, Scene, Subnet, Tunnels, tables};
use crate::node::{Listeners, Planes, routes};
use crate::observed::Moment;
use crate::plan::{Plan, Step, Wish, WishGoal, reason};
use indexmap::IndexMap;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use service_registry::model::ReasonCode;
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long a start waits for listeners that it needs. A data plane that doesn't come up is no reason not to start at all.
const HOLD: Duration = Duration::from_secs(5);

/// What is kept of it over the daemon's death.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// What data planes have told of nodes.
    #[serde(default)]
    facts: Facts,
    /// The addresses of nodes in tunnels.
    #[serde(default)]
    overlay: Overlay,
    /// With it nodes answer each other's probes, hex. Secret.
    #[serde(default)]
    probe_key: String,
    /// Raised to have every node make another key.
    #[serde(default)]
    key_epoch: u64,
}

/// The data planes, as the loop knows them.
pub(super) struct Net {
    planes: Arc<dyn Planes>,
    kept: Kept,
    /// Which daemon of the project this is that serves tables; the high half of their version.
    epoch: u64,
    /// Whether that was raised for this daemon.
    raised: bool,
    /// How many tables this daemon has served; the low half.
    count: u64,
    /// What is served, without its version; `None` before anything was said.
    served: Option<BTreeMap<String, Table>>,
    reports: BTreeMap<String, Report>,
    /// Nodes on which new listeners aren't served yet: from which version on they are, and until when that is waited for.
    coming: BTreeMap<String, (u64, Moment)>,
    /// Whether something has changed that the print doesn't show.
    pub(super) changed: bool,
    /// Whether data planes were ended though they are needed.
    pub(super) down: bool,
    print: u64,
}

impl Net {
    pub(super) fn new(planes: Arc<dyn Planes>, kept: Kept, epoch: u64) -> Self {
        Self {
            planes,
            kept,
            epoch,
            raised: false,
            count: 0,
            served: None,
            reports: BTreeMap::new(),
            coming: BTreeMap::new(),
            changed: true,
            down: false,
            print: 0,
        }
    }

    fn version(&self) -> u64 {
        self.epoch << 32 | self.count
    }

    pub(super) async fn end(&self) {
        self.planes.end().await;
    }
}

/// What is known of the project's networking.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// The project's node.
    pub node: String,
    /// The stack's /24 for virtual addresses, once it has one: `127.64.1.0/24`.
    pub virtuals: Option<String>,
    /// The addresses of tunnels' ends, once there are any: `10.210.0.0/16`.
    pub overlay: Option<Subnet>,
    /// A subnet of the project's nodes that overlaps it.
    pub conflict: Option<Subnet>,
    /// The version of the tables that are served; 0 where no data plane is needed.
    pub version: u64,
    /// The services that are reached other than at their own address, in the file's order.
    pub services: Vec<NetworkService>,
    /// The DNS zone, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<NetworkZone>,
    /// The nodes that have a data plane.
    pub nodes: Vec<NetworkNode>,
    /// Each of them to each other.
    pub pairs: Vec<Pair>,
    /// What data planes have reported last, by node.
    pub reports: BTreeMap<String, Report>,
}

/// A service that is reached by a virtual address, or at container networks' gateways.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkService {
    /// The service.
    pub service: ServiceName,
    /// The kind of its network.
    pub kind: NetworkKind,
    /// Its virtual address, if it has one.
    pub address: Option<Ipv4Addr>,
    /// Its TCP ports.
    pub ports: Vec<NetworkPort>,
}

/// A port of such a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkPort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// At the virtual address.
    pub number: Option<u16>,
    /// At the gateway of a container network.
    pub at_gateway: Option<u16>,
    /// At its name in container networks, where ambassadors stand for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_name: Option<u16>,
}

/// The DNS zone with the services' names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkZone {
    /// Its name: `shop.test`.
    pub name: String,
    /// Where it is asked, on every node.
    pub address: SocketAddr,
}

/// A node that has a data plane.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkNode {
    /// The node.
    pub node: String,
    /// Its address in the overlay, if there are tunnels.
    pub overlay: Option<Ipv4Addr>,
    /// Where it listens, and for which service.
    pub listeners: Vec<(SocketAddr, String)>,
    /// What is known of its end of tunnels.
    pub facts: Option<NodeFacts>,
}

impl Supervisor {
    /// What the stack needs and hasn't: one that an older harness has started.
    pub(super) async fn open_network(&mut self) {
        let Some(stack) = self.world.stack.clone() else { return };
        let before = self.world.clone();
        let listeners = LazyCell::new(Listeners::read);
        let ports = PortSource {
            range: self.ports,
            in_use: &|port| listeners.contains(port),
            seed: self.seed,
            slot_in_use: &|slot| listeners.has_slot(slot),
        };
        let world = &mut self.world;
        if let Err(full) = command::lease(&stack, &mut world.virtuals, &mut world.leases, &ports) {
            tracing::warn!(error = %full, "services can't all be reached");
        }
        let durable = self.memory.save(&self.registry, &before, &self.world);
        if self.needs_planes() {
            self.raise_epoch();
            // No data plane may ever see an older version than it has.
            if let Err(error) = self.registry.flush().await {
                tracing::error!(%error, "the tables' version isn't safe");
            }
        }
        durable.forget();
    }

    /// Whether anything was leased that a listener could stand for, or may be called by ambassadors.
    fn needs_planes(&self) -> bool {
        // On an agent it is whoever assigned it that hands out tables.
        let calls = |wish: &Wish| wish.assignment.is_none() && has_ambassadors(&wish.service);
        self.world.stack.as_ref().is_some_and(|stack| stack.zone.is_some())
            || !self.world.virtuals.is_empty()
            || self.world.leases.serves()
            || self.world.desired.wishes.values().any(calls)
    }

    /// Later than every epoch before it: also where the project's state was lost and data planes still run, as the seconds
    /// since 1970 fit into the high half.
    fn raise_epoch(&mut self) {
        if !self.net.raised {
            let seconds = u32::try_from((self.clock)().1.as_second()).unwrap_or_default();
            self.net.raised = true;
            self.net.epoch = u64::from(seconds).max(self.net.epoch + 1);
            self.memory.set_network_epoch(&self.registry, self.net.epoch);
        }
    }

    /// Hands data planes their tables, if these have changed.
    pub(super) fn serve_planes(&mut self) {
        if !self.needs_planes() {
            // Those of a daemon before this one may still run.
            if self.net.epoch > 0 && self.net.served.as_ref().is_none_or(|served| !served.is_empty()) {
                self.hand_out(BTreeMap::new());
            }
            return;
        }
        let print = self.print();
        if !std::mem::take(&mut self.net.changed) && print == self.net.print {
            return;
        }
        self.net.print = print;
        let tables = if self.net.down { BTreeMap::new() } else { self.tables() };
        match &self.net.served {
            Some(served) if *served == tables => {}
            None if tables.is_empty() && self.net.epoch == 0 => {}
            _ => self.hand_out(tables),
        }
    }

    /// Ends the data planes until something is started again. The answer: the nodes that had one.
    pub(super) fn network_down(&mut self) -> Vec<String> {
        (self.net.down, self.net.changed) = (true, true);
        self.net.served.iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    fn hand_out(&mut self, mut tables: BTreeMap<String, Table>) {
        self.raise_epoch();
        self.net.count += 1;
        self.expect(&tables);
        self.net.served = Some(tables.clone());
        for table in tables.values_mut() {
            table.version = self.net.version();
        }
        let none = IndexMap::new();
        let nodes = self.world.stack.as_ref().map_or(&none, |stack| &stack.nodes);
        self.net.planes.serve(tables, nodes);
    }

    /// Notes where listeners are new.
    fn expect(&mut self, tables: &BTreeMap<String, Table>) {
        if !self.net.planes.reports() {
            return;
        }
        let (now, _) = (self.clock)();
        let listening = |table: &Table| -> BTreeSet<SocketAddr> {
            table.listeners.iter().map(|listener| listener.address).collect()
        };
        for (node, table) in tables {
            let before = self.net.served.as_ref().and_then(|served| served.get(node)).map(listening);
            if !listening(table).is_subset(&before.unwrap_or_default()) {
                self.net.coming.insert(node.clone(), (self.net.version(), now + HOLD));
            }
        }
        self.net.coming.retain(|node, _| tables.contains_key(node));
    }

    /// Takes the starts out of a plan that need listeners which aren't there yet: what is started connects at once. They come
    /// with the next plan again.
    pub(super) fn hold(&mut self, plan: &mut Plan, now: Moment) {
        self.net.coming.retain(|_, (_, until)| now < *until);
        if self.net.coming.is_empty() {
            return;
        }
        let (mut held, mut wake) = (Vec::new(), None);
        plan.steps.retain(|step| {
            let Step::Start { instance, service, .. } = step else { return true };
            let node = service.host.as_ref().unwrap_or(&self.node);
            let Some((_, until)) = self.net.coming.get(node).filter(|_| self.needs_listener(service)) else {
                return true;
            };
            let why = reason(ReasonCode::Waiting, format!("waiting for the data plane of {node}"));
            held.push((instance.clone(), why));
            wake = wake.into_iter().chain([*until]).min();
            false
        });
        plan.waiting.retain(|(instance, _)| held.iter().all(|(other, _)| other != instance));
        plan.waiting.extend(held);
        plan.wake_at = plan.wake_at.into_iter().chain(wake).min();
    }

    fn needs_listener(&self, service: &Service) -> bool {
        let Some(stack) = &self.world.stack else { return false };
        let node = service.host.as_deref();
        asks_for(service).into_iter().filter_map(|name| self.lookup(name)).any(|asked| {
            let kind = kind_of(&stack.networks, asked);
            let how = |view| reach(kind, Stand { node, view }, asked, asked.host.as_deref());
            views(service).any(|view| matches!(how(view), Reach::Virtual | Reach::Gateway))
        })
    }

    /// What is wanted and seen, as far as tables depend on it, as a number.
    fn print(&self) -> u64 {
        let mut print = DefaultHasher::new();
        for (instance, wish) in &self.world.desired.wishes {
            (wish.goal == WishGoal::Up, Arc::as_ptr(&wish.service)).hash(&mut print);
            let Some(seen) = self.world.observed.get(instance) else { continue };
            std::mem::discriminant(&seen.phase).hash(&mut print);
            (seen.ready, seen.health.verdict as u8).hash(&mut print);
            seen.run().map(|run| (run.started, Arc::as_ptr(&run.service))).hash(&mut print);
        }
        print.finish()
    }

    fn tables(&mut self) -> BTreeMap<String, Table> {
        let Some(stack) = &self.world.stack else { return BTreeMap::new() };
        let known = |node: &str| node == self.node || stack.nodes.contains_key(node);
        let before = self.net.kept.clone();
        self.net.kept.facts.know(&self.node, &stack.nodes);
        self.net.kept.overlay.retain(known);
        self.net.reports.retain(|node, _| known(node));
        let mut tables = tables(&Scene {
            node: &self.node,
            stack,
            desired: &self.world.desired,
            observed: &self.world.observed,
            leases: &self.world.leases,
            virtuals: &self.world.virtuals,
            network: self.world.network.as_ref(),
            addresses: &self.world.addresses,
            sites: &self.world.sites,
            facts: &self.net.kept.facts,
        });
        if tables.len() > 1 {
            self.lease_overlay(tables.keys());
            let kept = &self.net.kept;
            let no_nodes = indexmap::IndexMap::new();
            let tunnels = Tunnels {
                hub: &self.node,
                probe_key: &kept.probe_key,
                key_epoch: kept.key_epoch,
                facts: &kept.facts,
                overlay: &kept.overlay,
                interface: self.world.stack.as_ref().and_then(|stack| interface(&stack.networks)),
                nodes: self.world.stack.as_ref().map_or(&no_nodes, |stack| &stack.nodes),
                sites: &self.world.sites,
            };
            // Without the key nobody could prove to be who it says.
            if !kept.probe_key.is_empty() {
                tunnels.into_tables(&mut tables);
            }
        }
        if self.net.kept != before {
            self.memory.set_network(&self.registry, &self.net.kept);
        }
        tables
    }

    fn lease_overlay<'a>(&mut self, nodes: impl Iterator<Item = &'a String>) {
        let (wanted, mut taken) = self.subnets();
        let kept = &mut self.net.kept;
        if kept.overlay.subnet().is_none() {
            // Before anybody has told addresses: what this machine is in is known all the same.
            taken.extend(routes());
        }
        for node in nodes {
            if let Err(full) = kept.overlay.lease(node, wanted, &taken) {
                // The other ways are there all the same.
                tracing::debug!(error = %full, "a node has no tunnels");
            }
        }
        if kept.probe_key.is_empty() {
            let mut key = [0u8; 32];
            match getrandom(&mut key, GetRandomFlags::empty()) {
                Ok(32) => kept.probe_key = key.iter().map(|byte| format!("{byte:02x}")).collect(),
                _ => tracing::warn!("the system gives no random bytes: there are no tunnels"),
            }
            kept.key_epoch = kept.key_epoch.max(1);
        }
    }

    /// Every node is to make another key.
    pub(super) fn rotate_keys(&mut self) -> u64 {
        self.net.kept.key_epoch += 1;
        self.net.changed = true;
        self.memory.set_network(&self.registry, &self.net.kept);
        self.net.kept.key_epoch
    }

    /// The overlay that the file names, and every other subnet that is known.
    fn subnets(&self) -> (Option<Subnet>, Vec<Subnet>) {
        let networks = || self.world.stack.iter().flat_map(|stack| stack.networks.values());
        let subnet = |text: &Option<String>| text.as_deref().and_then(Subnet::parse);
        let wireguard = |kind| matches!(kind, NetworkKind::Wireguard | NetworkKind::Auto);
        let wanted = networks().filter(|network| wireguard(network.kind)).find_map(|n| subnet(&n.subnet));
        let others = networks().filter(|network| !wireguard(network.kind));
        let declared = others.filter_map(|network| subnet(&network.subnet));
        let containers = self.world.network.iter().filter_map(|network| Subnet::parse(&network.subnet()));
        let nodes = std::iter::once(&self.node)
            .chain(self.world.stack.iter().flat_map(|stack| stack.nodes.keys()))
            .filter_map(|node| self.net.kept.facts.of(node))
            .flat_map(|facts| &facts.addresses);
        let around = nodes.filter_map(|address| match address {
            IpAddr::V4(address) => Subnet::parse(&format!("{address}/24")),
            IpAddr::V6(_) => None,
        });
        (wanted, declared.chain(containers).chain(around).collect())
    }

    /// Data planes have reported.
    pub(super) fn planes_event(&mut self, reports: BTreeMap<String, Report>) {
        let mut waiting: Vec<(String, Report)> = reports.into_iter().collect();
        while let Some((node, mut report)) = waiting.pop() {
            waiting.extend(std::mem::take(&mut report.others));
            let known = node == self.node
                || self.world.stack.as_ref().is_some_and(|stack| stack.nodes.contains_key(&node));
            if !known {
                continue;
            }
            if self.net.kept.facts.heard(&node, &report) {
                self.net.changed = true;
                self.memory.set_network(&self.registry, &self.net.kept);
            }
            if self.net.coming.get(&node).is_some_and(|(version, _)| report.version >= *version) {
                self.net.coming.remove(&node);
            }
            self.net.reports.insert(node, report);
        }
    }

    /// What is known of networking.
    pub(super) fn network_status(&self) -> NetworkStatus {
        let kept = &self.net.kept;
        let none = BTreeMap::new();
        let served = self.net.served.as_ref().unwrap_or(&none);
        let (_, taken) = self.subnets();
        NetworkStatus {
            node: self.node.clone(),
            virtuals: self.world.virtuals.subnet(),
            overlay: kept.overlay.subnet(),
            conflict: kept.overlay.conflict(&taken),
            version: if served.is_empty() { 0 } else { self.net.version() },
            services: self.network_services(),
            zone: self.world.stack.as_ref().and_then(|stack| {
                let zone = stack.zone.as_ref()?;
                let address = listen(zone, self.world.virtuals.zone())?;
                Some(NetworkZone { name: zone.name.clone(), address })
            }),
            nodes: served
                .iter()
                .map(|(node, table)| NetworkNode {
                    node: node.clone(),
                    overlay: table.tunnel.as_ref().map(|tunnel| tunnel.address),
                    listeners: table.listeners.iter().map(|it| (it.address, it.service.clone())).collect(),
                    facts: kept.facts.of(node).cloned(),
                })
                .collect(),
            pairs: served.iter().flat_map(|(node, table)| self.pairs(node, table)).collect(),
            reports: self.net.reports.clone(),
        }
    }

    fn pairs(&self, node: &str, table: &Table) -> Vec<Pair> {
        let report = self.net.reports.get(node);
        let own = table.listeners.iter().any(|it| it.backends.iter().any(|backend| backend.node == node));
        let own = own.then(|| Pair {
            from: node.to_owned(),
            to: node.to_owned(),
            class: Some(Class::Local),
            ways: Vec::<Way>::new(),
            evidence: "the same node".to_owned(),
        });
        let others = table.peers.iter().map(|(to, peer)| pair(node, to, &peer.ways, report));
        own.into_iter().chain(others).collect()
    }

    fn network_services(&self) -> Vec<NetworkService> {
        let Some(stack) = &self.world.stack else { return Vec::new() };
        let world = &self.world;
        let doors = self.net.served.iter().flat_map(BTreeMap::values).flat_map(|table| &table.doors);
        let doors: BTreeSet<(&str, u16)> = doors.map(|door| (door.service.as_str(), door.port)).collect();
        let services = stack.services.values().filter_map(|service| {
            let ports: Vec<NetworkPort> = crate::network::reach::tcp_ports(service)
                .map(|(position, port)| NetworkPort {
                    name: port.name.clone(),
                    number: world.virtuals.port(&world.leases, service, position),
                    at_gateway: world.leases.service_port(&service.name, position),
                    at_name: door_port(&world.leases, service, position)
                        .filter(|port| doors.contains(&(service.name.as_str(), *port))),
                })
                .collect();
            let address = world.virtuals.address(&service.name);
            let reached =
                address.is_some() || ports.iter().any(|port| port.at_gateway.or(port.at_name).is_some());
            let kind = kind_of(&stack.networks, service);
            reached.then(|| NetworkService { service: service.name.clone(), kind, address, ports })
        });
        services.collect()
    }
}

/// The name of the interface of the kernel's that the file wants beside tunnels.
fn interface(networks: &IndexMap<String, Network>) -> Option<&str> {
    let mut tunnels = networks.values().filter(|network| network.kind == NetworkKind::Wireguard);
    tunnels.find_map(|network| network.interface.as_deref())
}

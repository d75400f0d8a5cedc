//! What each node's data plane serves: a function of what is wanted, what was seen, and where nodes stand.
//!
//! A listener stands only where somebody may use it. On a node where a service itself runs, and nothing stands before it,
//! nobody listens for it: a process that listens on all addresses and a listener at one of them exclude each other.

use super::plane::{Backend, Door, FORMAT, Listener, Peer, Table, Zone};
use super::reach::{Reach, Stand, asks_for, door_port, is_wildcard, kind_of, reach, tcp_ports, views};
use super::topology::{Allowed, Facts};
use super::zone;
use super::{AddressLeases, ContainerNetwork, PortLeases, Sight, Sites, View, Virtuals};
use crate::health::Verdict;
use crate::model::{InstanceName, NetworkKind, Service, ServiceName, Stack};
use crate::observed::{Instance, Observed, Phase};
use crate::plan::{Desired, Wish, WishGoal};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The share of a backend that has no other.
const WEIGHT: u32 = 1;

/// What tables are made of.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The project's node.
    pub node: &'a str,
    /// The stack.
    pub stack: &'a Stack,
    /// What is wanted.
    pub desired: &'a Desired,
    /// What was seen.
    pub observed: &'a Observed,
    /// Ports that are leased.
    pub leases: &'a PortLeases,
    /// Virtual addresses.
    pub virtuals: &'a Virtuals,
    /// The container network of the project's node.
    pub network: Option<&'a ContainerNetwork>,
    /// The addresses that instances have in it.
    pub addresses: &'a AddressLeases,
    /// Where nodes stand.
    pub sites: &'a Sites,
    /// What data planes have told.
    pub facts: &'a Facts,
}

/// What listens on a node for a service.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    at_virtual: bool,
    at_gateway: bool,
    at_door: bool,
}

/// The tables of all nodes that need one, without versions and tunnels. None at all where nobody needs a listener: then
/// no data plane runs.
pub fn tables(scene: &Scene<'_>) -> BTreeMap<String, Table> {
    let of = scene.instances();
    let asked = scene.nodes_with_zone(&of);
    let wanted = scene.wanted(&asked);
    if wanted.is_empty() && asked.is_empty() {
        return BTreeMap::new();
    }
    let mut backends: BTreeMap<(&ServiceName, usize), Vec<Backend>> = BTreeMap::new();
    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    let mut pairs: BTreeMap<(String, String), Allowed> = BTreeMap::new();
    for ((node, name), wanted) in wanted {
        let Some(service) = scene.definition(name) else { continue };
        let kind = kind_of(&scene.stack.networks, service);
        let instances = of.get(name).map_or(&[][..], Vec::as_slice);
        // Also where none serves yet: what has to come up there, and the way to it, is there in time.
        for home in scene.homes(instances).into_iter().filter(|home| *home != node) {
            if kind != NetworkKind::Local {
                let allowed = match kind {
                    NetworkKind::Wireguard => Allowed::WIREGUARD,
                    _ => Allowed::ALL,
                };
                tables.entry(home.to_owned()).or_default();
                let pair = pairs.entry((node.to_owned(), home.to_owned())).or_insert(allowed);
                *pair = pair.and(allowed);
            }
        }
        for (position, _) in tcp_ports(service) {
            let all = backends
                .entry((name, position))
                .or_insert_with(|| scene.backends(of.get(name).map_or(&[], Vec::as_slice), position));
            let here = |backend: &&Backend| kind != NetworkKind::Local || backend.node == node;
            let reached: Vec<Backend> = all.iter().filter(here).cloned().collect();
            for backend in &reached {
                let exporter = tables.entry(backend.node.clone()).or_default();
                exporter.exports.insert(backend.export.clone(), backend.address);
            }
            let table = tables.entry(node.to_owned()).or_default();
            if let Some(port) = door_port(scene.leases, service, position).filter(|_| wanted.at_door) {
                let service = name.to_string();
                table.doors.push(Door { service, port, backends: reached.clone() });
            }
            for address in scene.addresses(node, service, position, wanted) {
                table.listeners.push(Listener {
                    service: name.to_string(),
                    address,
                    backends: reached.clone(),
                });
            }
        }
    }
    for node in asked {
        tables.entry(node.to_owned()).or_default().zone = scene.zone(node);
    }
    scene.with_peers(&mut tables, &pairs);
    for (node, table) in &mut tables {
        table.format = FORMAT;
        table.node.clone_from(node);
    }
    tables
}

impl<'a> Scene<'a> {
    fn name(&self, node: Option<&'a str>) -> &'a str {
        node.unwrap_or(self.node)
    }

    /// The definition that others see, as [`super::Caller::lookup`] gives it.
    fn definition(&self, name: &ServiceName) -> Option<&'a Service> {
        let wished = self.desired.wishes.get(&InstanceName::new(name.clone(), 1));
        let wished = wished.map(|wish| wish.service.as_ref());
        wished.or_else(|| self.stack.services.get(name).map(AsRef::as_ref))
    }

    /// Which services somebody asks for on which node, other than at their own address. Where there is a zone anybody may
    /// ask for any.
    fn wanted(&self, with_zone: &BTreeSet<&'a str>) -> BTreeMap<(&'a str, &'a ServiceName), Wanted> {
        let mut wanted: BTreeMap<(&str, &ServiceName), Wanted> = BTreeMap::new();
        for name in with_zone {
            let stand = Stand { node: self.host(name), view: View::Machine };
            for asked in self.stack.services.keys().filter_map(|name| self.definition(name)) {
                let kind = kind_of(&self.stack.networks, asked);
                if reach(kind, stand, asked, asked.host.as_deref()) == Reach::Virtual {
                    wanted.entry((*name, &asked.name)).or_default().at_virtual = true;
                }
            }
        }
        let mut done: BTreeSet<(Option<&str>, *const Service)> = BTreeSet::new();
        for (instance, wish) in &self.desired.wishes {
            // On an agent everything was resolved by whoever assigned it.
            if wish.assignment.is_some() {
                continue;
            }
            let live = self.observed.get(instance).filter(|seen| seen.is_live()).and_then(Instance::run);
            let up = (wish.goal == WishGoal::Up).then_some(&wish.service);
            for service in up.into_iter().chain(live.map(|run| &run.service)) {
                let service: &Service = service;
                let node = service.host.as_deref();
                // Instances of one service share their definition.
                if !done.insert((node, std::ptr::from_ref(service))) {
                    continue;
                }
                for name in asks_for(service) {
                    let Some(asked) = self.definition(name) else { continue };
                    let kind = kind_of(&self.stack.networks, asked);
                    for view in views(service) {
                        let how = reach(kind, Stand { node, view }, asked, asked.host.as_deref());
                        let (at_virtual, at_gateway) = (how == Reach::Virtual, how == Reach::Gateway);
                        let at_door = how == Reach::Ambassador;
                        if at_virtual || at_gateway || at_door {
                            let entry = wanted.entry((self.name(node), name)).or_default();
                            entry.at_virtual |= at_virtual;
                            entry.at_gateway |= at_gateway;
                            entry.at_door |= at_door;
                        }
                    }
                }
            }
        }
        wanted
    }

    /// The nodes on which the zone is asked: where something is wanted or lives, and the project's own then.
    fn nodes_with_zone(
        &self,
        instances: &BTreeMap<&'a ServiceName, Vec<(&'a InstanceName, &'a Wish)>>,
    ) -> BTreeSet<&'a str> {
        if self.stack.zone.is_none() {
            return BTreeSet::new();
        }
        let mut nodes: BTreeSet<&str> = instances.values().flat_map(|all| self.homes(all)).collect();
        if !nodes.is_empty() {
            nodes.insert(self.node);
        }
        nodes
    }

    fn zone(&self, node: &str) -> Option<Zone> {
        let declared = self.stack.zone.as_ref()?;
        let listen = zone::listen(declared, self.virtuals.zone())?;
        let services = self.stack.services.keys().filter_map(|name| self.definition(name));
        let sight = Sight {
            node: self.host(node),
            view: View::Machine,
            leases: self.leases,
            network: self.network,
            addresses: self.addresses,
            sites: self.sites,
            virtuals: self.virtuals,
            networks: &self.stack.networks,
        };
        Some(zone::zone(&declared.name, listen, services, &sight))
    }

    /// The node, as definitions name it.
    fn host<'b>(&self, node: &'b str) -> Option<&'b str> {
        (node != self.node).then_some(node)
    }

    fn instances(&self) -> BTreeMap<&'a ServiceName, Vec<(&'a InstanceName, &'a Wish)>> {
        let mut of: BTreeMap<&ServiceName, Vec<(&InstanceName, &Wish)>> = BTreeMap::new();
        for (instance, wish) in &self.desired.wishes {
            of.entry(instance.service()).or_default().push((instance, wish));
        }
        of
    }

    /// The nodes on which instances are wanted or live.
    fn homes(&self, instances: &[(&InstanceName, &'a Wish)]) -> BTreeSet<&'a str> {
        let homes = instances.iter().flat_map(|(instance, wish)| {
            let live = self.observed.get(instance).filter(|seen| seen.is_live()).and_then(Instance::run);
            let up = (wish.goal == WishGoal::Up).then_some(&wish.service);
            up.into_iter().chain(live.map(|run| &run.service))
        });
        homes.map(|service| self.name(service.host.as_deref())).collect()
    }

    /// Who serves that port, in order: those that are ready, and those that still finish what they have begun.
    fn backends(&self, instances: &[(&InstanceName, &Wish)], position: usize) -> Vec<Backend> {
        let serving = instances.iter().filter_map(|(instance, wish)| {
            let seen = self.observed.get(instance)?;
            Some((*instance, seen.run()?, serving(seen, wish)?))
        });
        let serving: Vec<_> = serving.collect();
        // Who is unhealthy gets nothing new while another is well.
        let well = serving.iter().any(|(.., how)| *how == Serving::Well);
        let backend = |(instance, run, how): &(&InstanceName, &crate::observed::Run, Serving)| {
            let address = self.own_address(instance, &run.service, position)?;
            Some(Backend {
                instance: instance.to_string(),
                node: self.name(run.service.host.as_deref()).to_owned(),
                export: format!("{instance}:{}", address.port()),
                address,
                weight: WEIGHT,
                draining: match how {
                    Serving::Well => false,
                    Serving::Unwell => well,
                    Serving::Ending => true,
                },
            })
        };
        serving.iter().filter_map(backend).collect()
    }

    /// Where an instance listens, as seen from its own node.
    fn own_address(&self, instance: &InstanceName, service: &Service, position: usize) -> Option<SocketAddr> {
        let number = self.leases.port(instance, service, position)?;
        let said = service.ports.get(position)?.address.as_deref();
        let said = said.filter(|address| !is_wildcard(address));
        let address = said.and_then(|address| address.parse().ok());
        Some(SocketAddr::new(address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), number))
    }

    /// Where to listen for a port of a service on a node.
    fn addresses(&self, node: &str, service: &Service, position: usize, wanted: Wanted) -> Vec<SocketAddr> {
        let at =
            |address: Option<Ipv4Addr>, port: Option<u16>| Some(SocketAddr::new(IpAddr::V4(address?), port?));
        let at_virtual = wanted.at_virtual.then(|| {
            let port = self.virtuals.port(self.leases, service, position);
            at(self.virtuals.address(&service.name), port)
        });
        let at_gateway = wanted.at_gateway.then(|| {
            let gateway = match node == self.node {
                true => self.network.map(|network| network.gateway),
                false => self.sites.gateway(node),
            };
            at(gateway, self.leases.service_port(&service.name, position))
        });
        at_virtual.into_iter().chain(at_gateway).flatten().collect()
    }

    /// Those that reach each other know each other; the project's node knows all, as it hands them their tables.
    fn with_peers(&self, tables: &mut BTreeMap<String, Table>, pairs: &BTreeMap<(String, String), Allowed>) {
        if tables.keys().any(|node| node != self.node) {
            tables.entry(self.node.to_owned()).or_default();
        }
        let nodes: Vec<String> = tables.keys().cloned().collect();
        for from in &nodes {
            let mut peers = BTreeMap::new();
            for to in nodes.iter().filter(|to| *to != from) {
                let key = |from: &String, to: &String| pairs.get(&(from.clone(), to.clone())).copied();
                let linked = from == self.node || to == self.node;
                let known = key(from, to).or_else(|| key(to, from)).or(linked.then_some(Allowed::ALL));
                if let Some(allowed) = known {
                    let ways = self.facts.ways(self.node, from, to, allowed);
                    peers.insert(to.clone(), Peer { ways, link: Vec::new() });
                }
            }
            if let Some(table) = tables.get_mut(from) {
                table.peers = peers;
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Serving {
    Well,
    Unwell,
    Ending,
}

fn serving(seen: &Instance, wish: &Wish) -> Option<Serving> {
    match &seen.phase {
        Phase::Running(_) if !seen.ready => None,
        Phase::Running(_) if wish.goal != WishGoal::Up => Some(Serving::Ending),
        Phase::Running(_) if seen.health.verdict == Verdict::Unhealthy => Some(Serving::Unwell),
        Phase::Running(_) => Some(Serving::Well),
        Phase::Stopping { run, .. } if run.started => Some(Serving::Ending),
        _ => None,
    }
}

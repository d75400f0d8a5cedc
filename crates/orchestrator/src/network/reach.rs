//! Who is reached how: by its own address, by its virtual one, or at the gateway of the caller's container network.
//!
//! It depends on the file and on where things are placed, never on paths, health or who runs at the moment: a value that
//! somebody was given stays true while ways come and go.

use super::View;
use crate::model::{
    Attach, NameView, Network, NetworkKind, Port, PortNumber, Protocol, Service, ServiceName, Strategy,
    Subject, Target, Template,
};
use crate::network::PortLeases;
use indexmap::IndexMap;
use std::collections::BTreeSet;

/// Where somebody looks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand<'a> {
    /// The node; `None` is the project's own.
    pub node: Option<&'a str>,
    /// From inside a container or from the machine.
    pub view: View,
}

/// How a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By its own address.
    Direct,
    /// By its virtual address.
    Virtual,
    /// At the gateway of the caller's container network, at the port that is leased for it.
    Gateway,
    /// By its name in the caller's container network, where an ambassador stands for it.
    Ambassador,
    /// Not at all: its network doesn't leave its machine, and the caller is on another.
    Apart,
}

/// The kind of the network that a service is on. One that names none takes the best way there is.
pub fn kind_of(networks: &IndexMap<String, Network>, service: &Service) -> NetworkKind {
    match &service.network {
        None => NetworkKind::Auto,
        Some(name) => networks.get(name).map_or(NetworkKind::Auto, |network| network.kind),
    }
}

/// How `service`, whose first instance is `at` that node, is reached from where the caller stands.
pub fn reach(kind: NetworkKind, from: Stand<'_>, service: &Service, at: Option<&str>) -> Reach {
    let Some(port) = service.ports.first() else { return Reach::Direct };
    let external = matches!(service.target, Target::Attach(Attach::External { .. }));
    if external || port.protocol == Protocol::Udp || kind == NetworkKind::Lan {
        return Reach::Direct;
    }
    let single = is_single(service);
    if single && from.node != at && kind == NetworkKind::Local {
        return Reach::Apart;
    }
    if !single || from.node != at {
        return match from.view {
            View::Machine => Reach::Virtual,
            View::Container => Reach::Gateway,
            View::Ambassador | View::Enclosed => Reach::Ambassador,
        };
    }
    match (from.view, View::of(service)) {
        // What listens on loopback, or doesn't say, can't be reached at the gateway itself.
        (View::Container, View::Machine) if port.address.as_deref().is_none_or(is_loopback) => Reach::Gateway,
        (View::Ambassador, View::Machine) | (View::Enclosed, _) => Reach::Ambassador,
        _ => Reach::Direct,
    }
}

/// Whether it can neither move nor multiply.
pub fn is_single(service: &Service) -> bool {
    let replaced_in_place =
        service.deployment.as_ref().is_none_or(|deployment| deployment.strategy == Strategy::Recreate);
    service.replicas <= 1 && service.scaling.is_none() && service.placement.is_empty() && replaced_in_place
}

/// The services whose addresses `service` is given.
pub fn asks_for(service: &Service) -> BTreeSet<&ServiceName> {
    let references = service.templates().flat_map(Template::references);
    let named = references.filter_map(|reference| match &reference.subject {
        Subject::Service(name) => Some(name),
        _ => None,
    });
    service.dependencies.keys().chain(named).collect()
}

/// From where the instances of `service` ask: what isn't a command of its health check is asked from the machine.
pub fn views(service: &Service) -> impl Iterator<Item = View> {
    let own = View::from(service);
    let checked = own != View::Machine && service.health_check.is_some();
    std::iter::once(own).chain(checked.then_some(View::Machine))
}

/// Whether ambassadors stand for what the service's containers reach outside of their network.
pub fn has_ambassadors(service: &Service) -> bool {
    match service.target {
        Target::Docker { .. } => service.names == Some(NameView::Ambassador),
        Target::Compose { .. } => service.names != Some(NameView::Env),
        _ => false,
    }
}

/// The port of the service's port number `position` where ambassadors stand for it: the declared one, or the one that
/// was leased to the service for an `auto`.
pub fn door_port(leases: &PortLeases, service: &Service, position: usize) -> Option<u16> {
    match service.ports.get(position)?.number {
        PortNumber::Fixed(number) => Some(number),
        PortNumber::Auto => leases.service_port(&service.name, position),
    }
}

/// The TCP ports of a service, with their positions.
pub fn tcp_ports(service: &Service) -> impl Iterator<Item = (usize, &Port)> {
    service.ports.iter().enumerate().filter(|(_, port)| port.protocol == Protocol::Tcp)
}

/// The ports, by position, that can't have their declared number at the virtual address: a process that listens on all
/// addresses and a listener at one of them exclude each other on the same node, in either order.
pub fn displaced<'a>(
    services: impl Iterator<Item = &'a Service> + Clone,
    service: &Service,
) -> BTreeSet<usize> {
    let displaced = |port: &Port| {
        let PortNumber::Fixed(number) = port.number else { return true };
        let moves = !is_single(service) && takes_all_addresses(service, port);
        let meets = |other: &Service| {
            other.name != service.name
                && tcp_ports(other).any(|(_, theirs)| {
                    theirs.number == PortNumber::Fixed(number) && takes_all_addresses(other, theirs)
                })
        };
        moves || services.clone().any(meets)
    };
    tcp_ports(service).filter(|(_, port)| displaced(port)).map(|(position, _)| position).collect()
}

/// Whether whoever serves the port may hold it at every address of the machine.
fn takes_all_addresses(service: &Service, port: &Port) -> bool {
    match (port.address.as_deref(), &service.target) {
        (_, Target::Attach(Attach::External { .. })) => false,
        (Some(address), _) => is_wildcard(address),
        // Containers' ports are published at loopback unless told otherwise.
        (None, _) => View::of(service) == View::Machine,
    }
}

/// `0.0.0.0` and its like.
pub(super) fn is_wildcard(address: &str) -> bool {
    matches!(address, "0.0.0.0" | "::" | "*")
}

/// An address that only its own machine reaches.
pub(super) fn is_loopback(address: &str) -> bool {
    address == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

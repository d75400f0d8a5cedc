//! The DNS zone: what a node's data plane answers when it is asked for services by name.
//!
//! An answer is where a process of that node reaches the service, so each node has its own. Like every value that somebody is
//! given it depends on the file and on where things are placed, never on paths, health or who runs.

use super::Sight;
use super::plane::{Zone, ZonePort};
use crate::model::{Protocol, Role, Service};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where the zone is asked at an address of the stack's own. 53 takes privileges.
pub const PORT: u16 = 5300;

/// Where every node's zone is asked: as the file says, else at the address that is leased for it.
pub(crate) fn listen(declared: &crate::model::Zone, leased: Option<Ipv4Addr>) -> Option<SocketAddr> {
    declared.listen.or_else(|| Some(SocketAddr::new(IpAddr::V4(leased?), PORT)))
}

/// The port of that, on every node: no service is leased it.
pub fn port(declared: &crate::model::Zone) -> u16 {
    declared.listen.map_or(PORT, |listen| listen.port())
}

/// The zone as it is seen from there.
pub(super) fn zone<'a>(
    name: &str,
    listen: SocketAddr,
    services: impl Iterator<Item = &'a Service>,
    sight: &Sight<'_>,
) -> Zone {
    let mut zone =
        Zone { name: name.to_owned(), listen, hosts: Default::default(), ports: Default::default() };
    for service in services.filter(|service| service.role == Role::Service) {
        let Some(address) = sight.ip(service) else { continue };
        let is_virtual = sight.virtuals.address(&service.name).map(IpAddr::V4) == Some(address);
        let host = service.name.to_string();
        for port in &service.ports {
            let Some(name) = port.name.as_deref().filter(|name| is_label(name)) else { continue };
            let Some(port_number) = sight.port(service, name) else { continue };
            let protocol = match port.protocol {
                Protocol::Tcp => "tcp",
                // Nobody listens for it at a virtual address.
                Protocol::Udp if is_virtual => continue,
                Protocol::Udp => "udp",
            };
            let entry = ZonePort { host: host.clone(), port: port_number };
            zone.ports.insert(format!("_{}._{protocol}.{host}", name.to_ascii_lowercase()), entry);
        }
        zone.hosts.insert(host, address);
    }
    zone
}

/// Whether a port's name can be a part of a DNS name, behind an underscore (RFC 6335 has them shorter still).
fn is_label(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..63).contains(&name.len()) && name.bytes().all(fits)
}

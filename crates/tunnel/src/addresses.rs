//! This machine's addresses, and word from the kernel when they or the routes change.

use crate::config::Error;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// Interfaces that no other machine reaches, or that are tunnels themselves, by how their names begin.
const LEFT_OUT: &[&str] = &["docker", "br-", "veth", "cni", "virbr", "tailscale", "wg"];
/// The most addresses that are reported.
const MOST: usize = 64;

/// This machine's addresses at which others may reach it, without those of that interface.
pub(crate) fn here(without: Option<&str>) -> Vec<IpAddr> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let mut addresses: Vec<IpAddr> = all
        .iter()
        .filter(|i| i.is_oper_up() && is_of_use(&i.name, i.ip()) && without != Some(i.name.as_str()))
        .map(if_addrs::Interface::ip)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MOST);
    addresses
}

/// Whether an address of that interface is worth telling others.
fn is_of_use(interface: &str, address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !address.is_loopback()
        && !address.is_unspecified()
        && !link_local
        && !LEFT_OUT.iter().any(|prefix| interface.starts_with(prefix))
}

/// All that matters of addresses and routes for reaching those places: who sees two equal ones needn't do anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// This machine's addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// The address that the kernel would send from, by where to.
    pub(crate) from: BTreeMap<SocketAddr, Option<IpAddr>>,
    /// The default routes.
    pub(crate) gateways: Vec<String>,
}

impl Outlook {
    /// As it is now. Sends nothing.
    pub(crate) fn now(places: impl Iterator<Item = SocketAddr>, without: Option<&str>) -> Self {
        let from = places.map(|place| (place, source_towards(place))).collect();
        Self { addresses: here(without), from, gateways: gateways() }
    }

    /// Takes in a place that wasn't looked at yet.
    pub(crate) fn learn(&mut self, place: SocketAddr) {
        self.from.entry(place).or_insert_with(|| source_towards(place));
    }
}

/// Connecting a UDP socket sends nothing, and has the kernel choose an address.
fn source_towards(place: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if place.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(place).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Interface and gateway of each IPv4 default route, as the kernel prints them.
fn gateways() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    let mut found: Vec<String> = table.lines().filter_map(default_route).collect();
    found.sort_unstable();
    found
}

fn default_route(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let (interface, destination, gateway) = (words.next()?, words.next()?, words.next()?);
    (destination == "00000000").then(|| format!("{interface} {gateway}"))
}

/// A socket on which the kernel tells of changes.
#[derive(Debug)]
pub(crate) struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    /// Opens it. Needs no privileges.
    pub(crate) fn open() -> Result<Self, Error> {
        // RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE
        const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
        let open = || -> io::Result<AsyncFd<OwnedFd>> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            // No protocol is protocol 0, NETLINK_ROUTE.
            let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
            let socket = rustix::net::socket_with(family, kind, flags, None)?;
            rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, GROUPS))?;
            #[expect(
                deprecated,
                reason = "unsound for what closes its descriptor behind tokio's back, which an OwnedFd doesn't; its successor is unsafe"
            )]
            AsyncFd::new(socket)
        };
        open().map(Self).map_err(Error::Watch)
    }

    /// Waits for a change, and takes all that is told by then. What it was doesn't matter: [`Outlook`] sees.
    ///
    /// # Errors
    /// When the socket fails; it won't tell anything after that.
    pub(crate) async fn next(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut heard = false;
            loop {
                let mut buffer = [0u8; 8192];
                match rustix::net::recv(self.0.get_ref(), &mut buffer, rustix::net::RecvFlags::DONTWAIT) {
                    Ok(_) => heard = true,
                    // More changed than the kernel could queue: a change all the same.
                    Err(rustix::io::Errno::NOBUFS) => heard = true,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(e) => return Err(e.into()),
                }
            }
            ready.clear_ready();
            if heard {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_others_reach_are_told() {
        let table: &[(&str, &str, bool)] = &[
            ("eth0", "192.168.1.4", true),
            ("enp3s0", "2001:db8::4", true),
            ("eth0", "169.254.3.4", false),
            ("eth0", "fe80::1", false),
            ("lo", "127.0.0.1", false),
            ("lo", "::1", false),
            ("docker0", "172.17.0.1", false),
            ("br-1f2e", "172.18.0.1", false),
            ("br0", "192.168.1.5", true),
            ("veth12", "10.0.0.1", false),
            ("cni0", "10.244.0.1", false),
            ("virbr0", "192.168.122.1", false),
            ("tailscale0", "100.64.0.1", false),
            ("wg0", "10.8.0.1", false),
        ];
        for (interface, address, of_use) in table {
            assert_eq!(is_of_use(interface, address.parse().unwrap()), *of_use, "{interface} {address}");
        }
    }

    #[test]
    fn default_routes_are_found() {
        assert_eq!(default_route("eth0\t00000000\t0101A8C0\t0003").as_deref(), Some("eth0 0101A8C0"));
        assert_eq!(default_route("eth0\t0001A8C0\t00000000\t0001"), None);
        assert_eq!(default_route(""), None);
    }
}

//! Which ports of this machine are listened on, and by whom.

use crate::network::slot_of;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The ports that something listens on, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Listeners {
    ports: HashSet<u16>,
    /// Those of them at other addresses than virtual ones.
    own: HashSet<u16>,
    /// Those /24 of the range for virtual addresses in which something listens.
    slots: HashSet<u16>,
}

/// State "LISTEN" in `/proc/net/tcp` (linux/include/net/tcp_states.h).
const LISTEN: &str = "0A";
/// State "CLOSE": what a UDP socket is in that is bound, and connected to nobody.
const UNCONNECTED: &str = "07";

impl Listeners {
    /// Reads them. What can't be read counts as empty: the answer only makes messages better and choices luckier.
    pub fn read() -> Self {
        let mut found = Self::default();
        for line in lines("tcp") {
            if let Some((port, _)) = parse(&line, LISTEN) {
                found.ports.insert(port);
                match slot(&line) {
                    Some(slot) => drop(found.slots.insert(slot)),
                    None => drop(found.own.insert(port)),
                }
            }
        }
        found
    }

    /// Whether something listens at any address of that /24 of the range for virtual addresses.
    pub fn has_slot(&self, slot: u16) -> bool {
        self.slots.contains(&slot)
    }

    /// Whether something listens on `port` that isn't at a virtual address: a service at 127.0.0.1 doesn't meet that.
    pub fn meets(&self, port: u16) -> bool {
        self.own.contains(&port)
    }

    /// Whether something listens on `port`.
    pub fn contains(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }
}

/// What the kernel says of all sockets of a protocol.
fn lines(protocol: &str) -> Vec<String> {
    let files = ["", "6"].iter().filter_map(|v| fs::read_to_string(format!("/proc/net/{protocol}{v}")).ok());
    files.flat_map(|text| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Port and inode of the line of a socket in that state: `sl local_address rem_address st … inode …`.
fn parse(line: &str, wanted: &str) -> Option<(u16, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    if state != wanted {
        return None;
    }
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    Some((port, inode))
}

/// The /24 of the range for virtual addresses that a socket's line is about.
fn slot(line: &str) -> Option<u16> {
    match address(line)?.ip() {
        IpAddr::V4(address) => slot_of(address),
        IpAddr::V6(_) => None,
    }
}

/// Who listens on `port`, other than at a virtual address: `python3 (pid 123)`. `None` where nobody does or it can't be seen.
pub fn holder(port: u16) -> Option<String> {
    let lines = lines("tcp");
    let own = lines.iter().filter(|line| slot(line).is_none());
    let inode = own.filter_map(|line| parse(line, LISTEN)).find(|(found, _)| *found == port)?.1;
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(fds) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds =
            |fd: fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str());
        if fds.flatten().any(holds) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// Every TCP socket of this machine that is listened on, sorted, with its program (`python3 (pid 123)`) as far as that can be
/// seen: others' programs can't without privileges.
pub fn listening() -> BTreeMap<SocketAddr, Option<String>> {
    sockets("tcp", LISTEN)
}

/// The same of every UDP socket that anybody may send to.
pub fn bound() -> BTreeMap<SocketAddr, Option<String>> {
    sockets("udp", UNCONNECTED)
}

fn sockets(protocol: &str, state: &str) -> BTreeMap<SocketAddr, Option<String>> {
    let mut sockets: HashMap<String, SocketAddr> = HashMap::new();
    for line in lines(protocol) {
        if let (Some((_, inode)), Some(address)) = (parse(&line, state), address(&line)) {
            sockets.insert(format!("socket:[{inode}]"), address);
        }
    }
    let mut found: BTreeMap<SocketAddr, Option<String>> =
        sockets.values().map(|address| (*address, None)).collect();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        for fd in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(link) = fs::read_link(fd.path()) else { continue };
            let Some(address) = link.to_str().and_then(|link| sockets.get(link)) else { continue };
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.insert(*address, Some(format!("{} (pid {pid})", name.trim())));
        }
    }
    found
}

/// The local address of a socket's line. The kernel prints addresses as 32-bit words in the machine's order.
fn address(line: &str) -> Option<SocketAddr> {
    let (address, port) = line.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let mut bytes = [0; 16];
            for (place, byte) in bytes.iter_mut().zip(words.iter().flatten()) {
                *place = *byte;
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The first of the kernel's ephemeral ports; its default where it can't be read.
pub fn ephemeral_first() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0";
        assert_eq!(parse(line, LISTEN), Some((8080, 4711)));
        assert_eq!(parse(&line.replace(" 0A ", " 01 "), LISTEN), None);
        assert_eq!(parse("junk", LISTEN), None);
        assert_eq!(address(line), "127.0.0.1:8080".parse().ok());
        assert_eq!((slot(line), slot(&line.replace("0100007F", "0701407F"))), (None, Some(1)));
        let six = "   1: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A";
        assert_eq!(address(six), "[::1]:22".parse().ok());
        assert_eq!((address("junk"), address("0: 00:1 x")), (None, None));
    }

    #[test]
    fn a_listener_is_found_with_its_holder() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(Listeners::read().contains(port));
        assert!(holder(port).unwrap().ends_with(&format!("(pid {})", std::process::id())));
        let all = listening();
        let own = all.get(&listener.local_addr().unwrap()).unwrap().as_deref();
        assert_eq!(own, holder(port).as_deref());
        drop(listener);
        assert!(!Listeners::read().contains(port));
        let inside = Ipv4Addr::new(127, 127, 254, 77);
        let listener = std::net::TcpListener::bind((inside, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(Listeners::read().has_slot(slot_of(inside).unwrap()) && Listeners::read().contains(port));
    }
}

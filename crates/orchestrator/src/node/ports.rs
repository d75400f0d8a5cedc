//! Which TCP ports of this machine are listened on, and by whom.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};

/// The ports that something listens on, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Listeners {
    ports: HashSet<u16>,
}

/// State "LISTEN" in `/proc/net/tcp` (linux/include/net/tcp_states.h).
const LISTEN: &str = "0A";

impl Listeners {
    /// Reads them. What can't be read counts as empty: the answer only makes messages better and choices luckier.
    pub fn read() -> Self {
        let mut ports = HashSet::new();
        for line in lines() {
            if let Some((port, _)) = parse(&line) {
                ports.insert(port);
            }
        }
        Self { ports }
    }

    /// Whether something listens on `port`.
    pub fn contains(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }
}

fn lines() -> Vec<String> {
    let files = ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|path| fs::read_to_string(path).ok());
    files.flat_map(|text| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Port and inode of a listening socket's line: `sl local_address rem_address st … inode …`.
fn parse(line: &str) -> Option<(u16, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    if state != LISTEN {
        return None;
    }
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    Some((port, inode))
}

/// The address of a socket's line. The kernel writes each 32 bits as the machine has them in memory.
fn parse_address(line: &str) -> Option<IpAddr> {
    let text = line.split_ascii_whitespace().nth(1)?.rsplit_once(':')?.0;
    let mut bytes = Vec::new();
    for at in (0..text.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical()),
    }
}

/// Who listens on `port`: `python3 (pid 123)`. `None` where nobody does or it can't be seen.
pub fn holder(port: u16) -> Option<String> {
    owner(lines().iter().filter_map(|line| parse(line)).find(|(found, _)| *found == port)?.1)
}

/// Who stands in the way of listening at `address`: has its port there or on every address. `None` where nobody does or
/// it can't be seen.
pub fn holder_at(address: SocketAddr) -> Option<String> {
    let lines = lines();
    let same_port: Vec<(u64, IpAddr)> = lines
        .iter()
        .filter_map(|line| Some((parse(line)?, parse_address(line)?)))
        .filter_map(|((port, inode), ip)| (port == address.port()).then_some((inode, ip)))
        .collect();
    let there = same_port.iter().find(|(_, ip)| *ip == address.ip());
    let everywhere = || same_port.iter().find(|(_, ip)| ip.is_unspecified());
    owner(there.or_else(everywhere)?.0)
}

/// The process with that socket: `python3 (pid 123)`.
fn owner(inode: u64) -> Option<String> {
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
        assert_eq!(parse(line), Some((8080, 4711)));
        assert_eq!(parse(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(parse("junk"), None);
    }

    #[test]
    fn addresses_of_proc() {
        let address = |text: &str| parse_address(&format!("0: {text} 0:0 0A")).map(|ip| ip.to_string());
        if cfg!(target_endian = "little") {
            assert_eq!(address("0200407F:1F90").as_deref(), Some("127.64.0.2"));
            assert_eq!(address("00000000000000000000000000000000:1F90").as_deref(), Some("::"));
            assert_eq!(address("0000000000000000FFFF00000100007F:1F90").as_deref(), Some("127.0.0.1"));
        }
        assert_eq!(address("0200407:1F90"), None);
    }

    #[test]
    fn who_has_the_same_port_elsewhere_is_not_in_the_way() {
        let here = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
        let address = here.local_addr().unwrap();
        assert!(holder_at(address).unwrap().ends_with(&format!("(pid {})", std::process::id())));
        assert_eq!(holder_at(SocketAddr::new("127.0.0.3".parse().unwrap(), address.port())), None);
        drop(here);
        let everywhere = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = everywhere.local_addr().unwrap().port();
        assert!(holder_at(SocketAddr::new("127.0.0.3".parse().unwrap(), port)).is_some());
    }

    #[test]
    fn a_listener_is_found_with_its_holder() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(Listeners::read().contains(port));
        assert!(holder(port).unwrap().ends_with(&format!("(pid {})", std::process::id())));
        drop(listener);
        assert!(!Listeners::read().contains(port));
    }
}

//! Which TCP ports of this machine are listened on, and by whom.

use crate::network::slot_of;
use std::collections::HashSet;
use std::fs;
use std::net::Ipv4Addr;

/// The ports that something listens on, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Listeners {
    ports: HashSet<u16>,
    /// Those /24 of the range for virtual addresses in which something listens.
    slots: HashSet<u16>,
}

/// State "LISTEN" in `/proc/net/tcp` (linux/include/net/tcp_states.h).
const LISTEN: &str = "0A";

impl Listeners {
    /// Reads them. What can't be read counts as empty: the answer only makes messages better and choices luckier.
    pub fn read() -> Self {
        let mut found = Self::default();
        for line in lines() {
            if let Some((port, _)) = parse(&line) {
                found.ports.insert(port);
                found.slots.extend(ipv4(&line).and_then(slot_of));
            }
        }
        found
    }

    /// Whether something listens at any address of that /24 of the range for virtual addresses.
    pub fn has_slot(&self, slot: u16) -> bool {
        self.slots.contains(&slot)
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

/// The local address of a line of `/proc/net/tcp`: eight hex digits, in the machine's byte order.
fn ipv4(line: &str) -> Option<Ipv4Addr> {
    let (address, _) = line.split_ascii_whitespace().nth(1)?.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok().filter(|_| address.len() == 8)?;
    Some(Ipv4Addr::from(address.to_ne_bytes()))
}

/// Who listens on `port`: `python3 (pid 123)`. `None` where nobody does or it can't be seen.
pub fn holder(port: u16) -> Option<String> {
    let inode = lines().iter().filter_map(|line| parse(line)).find(|(found, _)| *found == port)?.1;
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
        if cfg!(target_endian = "little") {
            assert_eq!(ipv4(line), Some(Ipv4Addr::LOCALHOST));
        }
        assert_eq!(ipv4(&line.replace("0100007F", "00000000000000000000000000000000")), None);
    }

    #[test]
    fn a_listener_is_found_with_its_holder() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(Listeners::read().contains(port));
        assert!(holder(port).unwrap().ends_with(&format!("(pid {})", std::process::id())));
        drop(listener);
        assert!(!Listeners::read().contains(port));
        let inside = Ipv4Addr::new(127, 127, 254, 77);
        let listener = std::net::TcpListener::bind((inside, 0)).unwrap();
        assert!(Listeners::read().has_slot(slot_of(inside).unwrap()));
        drop(listener);
    }
}

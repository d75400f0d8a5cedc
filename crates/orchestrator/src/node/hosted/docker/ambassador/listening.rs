//! Whether a container listens, looked up where the kernel shows its network.

use async_io::Timer;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The pause between two looks; nothing tells when a port is opened.
const PAUSE: Duration = Duration::from_millis(4);

/// Waits until all of `ports` are listened on in the network of that process. `false`: it has ended, or too much time has passed.
/// What can't be looked at is taken to listen: what connects too early is refused, and that is all.
pub(super) async fn within(pid: u32, ports: &BTreeSet<u16>, time: Duration) -> bool {
    let until = Instant::now() + time;
    loop {
        match std::fs::read_to_string(format!("/proc/{pid}/net/tcp")) {
            Ok(table) if ports.is_subset(&listening(&table)) => return true,
            Ok(_) if Instant::now() > until => return false,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return true,
            Err(_) => return false,
        }
        Timer::after(PAUSE).await;
    }
}

/// The ports that are listened on, as `/proc/net/tcp` has them (proc(5)): a line each, with the local address and port in
/// hexadecimal digits second, and the state fourth, where 0A is listening.
fn listening(table: &str) -> BTreeSet<u16> {
    let line = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (_, port) = words.next()?.rsplit_once(':')?;
        (words.nth(1)? == "0A").then(|| u16::from_str_radix(port, 16).ok())?
    };
    table.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_listens_counts() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \u{20}  0: 00000000:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0\n\
            \u{20}  1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0\n";
        assert_eq!(listening(table), [5432].into());
        assert_eq!(listening("junk\n 0: x 0A\n"), BTreeSet::new());
    }
}

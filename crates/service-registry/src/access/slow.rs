//! Who was refused waits before the next try. Pure: the time is handed in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The wait after the first refusal; each one more doubles it.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait. Who connects rightly from the same address waits as long: less than a client's patience.
const LONGEST: Duration = Duration::from_secs(2);
/// A refusal is forgotten after this.
const MEMORY: Duration = Duration::from_secs(60);
/// Addresses that are remembered; the one that was refused longest ago makes room.
const MOST: usize = 1_024;

/// Addresses that were refused lately.
#[derive(Debug, Default)]
pub(crate) struct Slowdown {
    refused: HashMap<IpAddr, Refused>,
}

#[derive(Debug)]
struct Refused {
    times: u32,
    last: Instant,
}

impl Slowdown {
    /// How long a connection from this address waits now.
    pub(crate) fn wait(&self, address: IpAddr, now: Instant) -> Duration {
        match self.refused.get(&network(address)) {
            Some(refused) if now.saturating_duration_since(refused.last) < MEMORY => {
                FIRST.saturating_mul(1 << (refused.times - 1).min(10)).min(LONGEST)
            }
            _ => Duration::ZERO,
        }
    }

    /// Notes a refusal.
    pub(crate) fn refused(&mut self, address: IpAddr, now: Instant) {
        let address = network(address);
        self.refused.retain(|_, refused| now.saturating_duration_since(refused.last) < MEMORY);
        if self.refused.len() >= MOST
            && !self.refused.contains_key(&address)
            && let Some(oldest) = self.refused.iter().min_by_key(|(_, refused)| refused.last).map(|(a, _)| *a)
        {
            self.refused.remove(&oldest);
        }
        let refused = self.refused.entry(address).or_insert(Refused { times: 0, last: now });
        refused.times = refused.times.saturating_add(1);
        refused.last = now;
    }
}

/// What one party has at hand: an IPv4 address, or the 64 bits of an IPv6 network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_slow_their_network_down_and_are_forgotten() {
        let (mut slow, now) = (Slowdown::default(), Instant::now());
        let guesser: IpAddr = "2001:db8::1".parse().unwrap();
        let waits: Vec<u128> = (0..8)
            .map(|_| {
                slow.refused(guesser, now);
                slow.wait("2001:db8::ffff".parse().unwrap(), now).as_millis()
            })
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000]);
        for other in ["2001:db8:0:1::1", "192.0.2.1"] {
            assert_eq!(slow.wait(other.parse().unwrap(), now), Duration::ZERO, "{other}");
        }
        assert_eq!(slow.wait(guesser, now + MEMORY), Duration::ZERO);
        slow.refused(guesser, now + MEMORY);
        assert_eq!(slow.wait(guesser, now + MEMORY), FIRST);
    }

    #[test]
    fn however_many_addresses_guess_the_table_stays_small_and_knows_the_latest() {
        let (mut slow, now) = (Slowdown::default(), Instant::now());
        let address = |n: u32| IpAddr::V4(n.into());
        for n in 0..5_000 {
            slow.refused(address(n), now + Duration::from_millis(n.into()));
        }
        let end = now + Duration::from_secs(5);
        assert_eq!(slow.refused.len(), MOST);
        assert_eq!(slow.wait(address(0), end), Duration::ZERO);
        assert_eq!(slow.wait(address(4_999), end), FIRST);
        assert_eq!(slow.wait("::ffff:0.0.19.135".parse().unwrap(), end), FIRST, "the same, written as IPv6");
    }
}

//! Another node, as the engine keeps it.

use crate::config::Peer;
use crate::overlay;
use crate::path::Path;
use crate::route::Node;
use gotatun::x25519::PublicKey;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Most places that are probed for one node.
const CANDIDATES: usize = 16;

/// Another node.
#[derive(Debug)]
pub(super) struct Other {
    /// What is configured.
    pub(super) config: Peer,
    /// Its key.
    pub(super) key: PublicKey,
    /// What packets see of it.
    pub(super) node: Arc<Node>,
    /// Whether packets go straight to it.
    pub(super) path: Path,
    /// Where it was reached last.
    pub(super) endpoint: Option<SocketAddr>,
    /// From where it asked last.
    pub(super) asked_from: Option<SocketAddr>,
    /// A probe is under way.
    pub(super) probing: bool,
    /// When to probe next.
    pub(super) due: Option<Instant>,
    /// Handshakes that were tried in a row, while one is under way.
    pub(super) shaking: Option<u8>,
    /// When somebody last wanted to talk with it.
    pub(super) wanted: Option<Instant>,
    /// When it was demoted last: older handshakes prove nothing.
    pub(super) demoted: Instant,
    /// When packets began to go straight to it last.
    pub(super) promoted: Instant,
    /// Since how many looks packets go and none comes.
    pub(super) stalled: u32,
    /// [`Node::sent`] and [`Node::received`] at the last look.
    pub(super) counted: (u64, u64),
    /// When a packet came straight from it, as of the last look.
    pub(super) heard: Option<Instant>,
    /// Bytes of tunnels that were begun anew: received, sent.
    pub(super) before: (u64, u64),
    /// How long the last answered probe took.
    pub(super) rtt: Option<Duration>,
    /// Probes that weren't answered since one was, or since packets to it went straight.
    pub(super) misses: u32,
}

impl Other {
    /// One that nothing is known of but where it was reached last.
    pub(super) fn new(name: &str, config: Peer, key: PublicKey, endpoint: Option<SocketAddr>) -> Self {
        Self {
            config,
            key,
            node: Arc::new(Node { name: name.to_owned(), ..Node::default() }),
            path: Path::default(),
            endpoint,
            asked_from: None,
            probing: false,
            due: None,
            shaking: None,
            wanted: None,
            demoted: Instant::now(),
            promoted: Instant::now(),
            stalled: 0,
            counted: (0, 0),
            heard: None,
            before: (0, 0),
            rtt: None,
            misses: 0,
        }
    }

    /// Where it may be, likeliest first.
    pub(super) fn places(&self) -> Vec<SocketAddr> {
        let mut places: Vec<SocketAddr> = Vec::new();
        let known = self.endpoint.iter().chain(&self.config.candidates).chain(&self.asked_from);
        for place in known.take(2 * CANDIDATES) {
            if !places.contains(place) && places.len() < CANDIDATES {
                places.push(*place);
            }
        }
        places
    }

    /// Whether somebody wanted it within that time.
    pub(super) fn wanted_within(&self, time: Duration) -> bool {
        self.wanted.is_some_and(|wanted| wanted.elapsed() < time)
    }
}

/// The addresses that may come from a peer: its own, and as the hub those of everybody else.
pub(super) fn allowed(
    name: &str,
    hub: Option<&str>,
    peers: &std::collections::BTreeMap<String, Peer>,
) -> Vec<Ipv4Addr> {
    let of = |peer: &Peer| std::iter::once(peer.address).chain(peer.interface);
    let own = || peers.get(name).into_iter().flat_map(of);
    let mut allowed: Vec<Ipv4Addr> = own().map(overlay::straight).collect();
    match hub {
        None => allowed.extend(own()),
        Some(hub) if hub == name => {
            allowed.extend(peers.iter().filter(|(other, _)| *other != name).flat_map(|(_, peer)| of(peer)));
        }
        Some(_) => {}
    }
    allowed
}

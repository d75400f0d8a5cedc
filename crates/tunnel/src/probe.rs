//! Authenticated probes: datagrams that prove who is at an address. Pure.
//!
//! They share a UDP port with WireGuard, whose datagrams begin with 1 to 4 and three zero bytes; these begin with
//! [`MAGIC`]. Whoever doesn't know the stack's key gets no answer at all.
//!
//! ```text
//! ping: MAGIC 1 nonce(16) length(1) name                             mac(32)
//! pong: MAGIC 2 nonce(16) length(1) name family(1) ip(16) port(2)    mac(32)
//! ```

use ring::hmac;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// How a probe begins.
const MAGIC: [u8; 8] = *b"\xb7hrnprb\x01";
const PING: u8 = 1;
const PONG: u8 = 2;
const MAC: usize = 32;
/// The longest name of a node that fits, in bytes.
pub(crate) const MAX_NAME: usize = 255;
/// No probe is longer, in bytes.
#[cfg(test)]
const MAX: usize = MAGIC.len() + 1 + 16 + 1 + MAX_NAME + 19 + MAC;

/// What belongs to a question, and comes back with its answer.
pub(crate) type Nonce = [u8; 16];

/// The key that all nodes of a stack have in common.
pub(crate) struct Key(hmac::Key);

impl Key {
    /// From the 32 bytes that the configuration has.
    pub(crate) fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Who are you?
    Ping {
        /// Comes back with the answer.
        nonce: Nonce,
        /// Who asks.
        name: String,
    },
    /// I am.
    Pong {
        /// The question's.
        nonce: Nonce,
        /// Who answers.
        name: String,
        /// From where the question came.
        seen_as: SocketAddr,
    },
}

/// Whether a datagram is meant to be a probe: it begins like one.
pub(crate) fn is_probe(datagram: &[u8]) -> bool {
    datagram.starts_with(&MAGIC)
}

impl Probe {
    /// As a datagram. A name longer than [`MAX_NAME`] is cut, and is then nobody's.
    pub(crate) fn encode(&self, key: &Key) -> Vec<u8> {
        let (kind, nonce, name, seen_as) = match self {
            Self::Ping { nonce, name } => (PING, nonce, name, None),
            Self::Pong { nonce, name, seen_as } => (PONG, nonce, name, Some(seen_as)),
        };
        let name: Vec<u8> = name.bytes().take(MAX_NAME).collect();
        let mut out = MAGIC.to_vec();
        out.push(kind);
        out.extend_from_slice(nonce);
        out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(&name);
        if let Some(address) = seen_as {
            let (family, ip) = match address.ip() {
                IpAddr::V4(ip) => (4, ip.to_ipv6_mapped()),
                IpAddr::V6(ip) => (6, ip),
            };
            out.push(family);
            out.extend_from_slice(&ip.octets());
            out.extend_from_slice(&address.port().to_be_bytes());
        }
        let mac = hmac::sign(&key.0, &out);
        out.extend_from_slice(mac.as_ref());
        out
    }

    /// Reads a datagram. `None` if it isn't a probe, or not of one who knows the key.
    pub(crate) fn decode(datagram: &[u8], key: &Key) -> Option<Self> {
        let (body, mac) = datagram.split_at_checked(datagram.len().checked_sub(MAC)?)?;
        let rest = body.strip_prefix(&MAGIC)?;
        hmac::verify(&key.0, body, mac).ok()?;
        let (kind, rest) = rest.split_first()?;
        let (nonce, rest) = rest.split_first_chunk::<16>()?;
        let (length, rest) = rest.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let name = std::str::from_utf8(name).ok()?.to_owned();
        match *kind {
            PING if rest.is_empty() => Some(Self::Ping { nonce: *nonce, name }),
            PONG => Some(Self::Pong { nonce: *nonce, name, seen_as: address(rest)? }),
            _ => None,
        }
    }
}

fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = bytes.split_first()?;
    let (ip, rest) = rest.split_first_chunk::<16>()?;
    let port = u16::from_be_bytes(rest.try_into().ok()?);
    let ip = Ipv6Addr::from(*ip);
    let ip = match family {
        4 => IpAddr::V4(ip.to_ipv4_mapped()?),
        6 => IpAddr::V6(ip),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn probes() -> impl Strategy<Value = Probe> {
        let name = "[a-z0-9-]{0,63}";
        prop_oneof![
            (any::<Nonce>(), name).prop_map(|(nonce, name)| Probe::Ping { nonce, name }),
            (any::<Nonce>(), name, any::<IpAddr>(), any::<u16>()).prop_map(|(nonce, name, ip, port)| {
                // An IPv6 socket may hear of IPv4 by a mapped address; what is sent is never one.
                let seen_as = SocketAddr::new(ip.to_canonical(), port);
                Probe::Pong { nonce, name, seen_as }
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(probe in probes(), key: [u8; 32], other: [u8; 32]) {
            let bytes = probe.encode(&Key::new(&key));
            prop_assert!(bytes.len() <= MAX && is_probe(&bytes));
            prop_assert_eq!(Probe::decode(&bytes, &Key::new(&key)), Some(probe));
            prop_assume!(key != other);
            prop_assert_eq!(Probe::decode(&bytes, &Key::new(&other)), None);
        }

        #[test]
        fn what_was_changed_is_refused(probe in probes(), key: [u8; 32], at: prop::sample::Index, by in 1u8..) {
            let key = Key::new(&key);
            let mut bytes = probe.encode(&key);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            prop_assert_eq!(Probe::decode(&bytes, &key), None);
            bytes[at] ^= by;
            bytes.truncate(at);
            prop_assert_eq!(Probe::decode(&bytes, &key), None);
        }

        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400), key: [u8; 32]) {
            let key = Key::new(&key);
            prop_assert_eq!(Probe::decode(&bytes, &key), None);
            // The same from one who knows the key: read or refused, never a panic.
            let mut signed = MAGIC.to_vec();
            signed.extend_from_slice(&bytes);
            let mac = hmac::sign(&key.0, &signed);
            signed.extend_from_slice(mac.as_ref());
            Probe::decode(&signed, &key);
        }
    }

    #[test]
    fn a_probe_is_no_wireguard() {
        assert!(!(1..=4).contains(&MAGIC[0]));
        assert!(!is_probe(&[1, 0, 0, 0]));
        assert_eq!(format!("{:?}", Key::new(&[7; 32])), "Key(..)");
    }
}

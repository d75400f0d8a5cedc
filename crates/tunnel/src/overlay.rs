//! Addresses inside the tunnels, and what is done with a packet on its way in or out. Pure.
//!
//! A packet between two nodes goes straight or through the hub, and each end changes its mind on its own. WireGuard lets
//! an address come from one peer only, so a packet that goes straight carries other addresses than one that is relayed:
//! the same ones with the upper half of the first byte flipped (10.210.0.1 is 250.210.0.1 there). Both ways are always
//! open at the receiver, and nothing has to change on both ends at the same moment.

use crate::checksum;
use std::net::Ipv4Addr;

const FLIP: u8 = 0xf0;
/// Where an IPv4 header has its source and its destination.
const SOURCE: usize = 12;
const DESTINATION: usize = 16;
/// The shortest IPv4 header.
const HEADER: usize = 20;

/// The address of a node on packets that come from it, or go to it, without a hub.
pub(crate) const fn straight(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, d] = address.octets();
    Ipv4Addr::new(a ^ FLIP, b, c, d)
}

/// What a packet that came out of a tunnel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inbound {
    /// For this node, without a hub. The packet's addresses have been flipped back.
    Straight(Ends),
    /// For this node, through the hub.
    Relayed(Ends),
    /// For another node: a hub hands it on.
    Onward(Ipv4Addr),
    /// None of ours.
    Foreign,
}

/// Where a packet comes from, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
}

/// Looks at a packet that came out of a tunnel.
pub(crate) fn inbound(packet: &mut [u8], is_own: impl Fn(Ipv4Addr) -> bool) -> Inbound {
    let Some(ends) = ends(packet) else { return Inbound::Foreign };
    let Ends { source, destination } = ends;
    if is_own(destination) {
        Inbound::Relayed(ends)
    } else if is_own(straight(destination)) {
        flip(packet);
        Inbound::Straight(Ends { source: straight(source), destination: straight(destination) })
    } else if source == destination {
        Inbound::Foreign
    } else {
        Inbound::Onward(destination)
    }
}

/// Marks a packet of this node as one that goes straight, or takes the mark away. Checksums that were right stay so.
pub(crate) fn flip(packet: &mut [u8]) {
    for at in [SOURCE, DESTINATION] {
        let Some(word) = packet.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) else { return };
        let before = u16::from_be_bytes(*word);
        word[0] ^= FLIP;
        let after = u16::from_be_bytes(*word);
        checksum::exchanged(packet, before, after);
    }
}

/// Whether the packet opens a TCP connection.
pub(crate) fn opens(packet: &[u8]) -> bool {
    const TCP: u8 = 6;
    const FLAGS: usize = 13;
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let Some(first) = packet.first() else { return false };
    let header = usize::from(first & 0x0f) * 4;
    packet.get(9) == Some(&TCP) && packet.get(header + FLAGS).is_some_and(|flags| flags & (SYN | ACK) == SYN)
}

/// Source and destination of an IPv4 packet.
pub(crate) fn ends(packet: &[u8]) -> Option<Ends> {
    if packet.len() < HEADER || packet.first()? >> 4 != 4 {
        return None;
    }
    Some(Ends { source: address(packet, SOURCE)?, destination: address(packet, DESTINATION)? })
}

fn address(packet: &[u8], at: usize) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 210, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 210, 1, 1);

    fn packet(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let mut packet = vec![0u8; 40];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[12..16].copy_from_slice(&source.octets());
        packet[16..20].copy_from_slice(&destination.octets());
        packet[33] = 0x02;
        packet
    }

    #[test]
    fn a_packet_is_told_by_its_addresses() {
        let ends = Ends { source: A, destination: B };
        assert_eq!(inbound(&mut packet(A, B), |it| it == B), Inbound::Relayed(ends));
        let mut direct = packet(straight(A), straight(B));
        assert_eq!(inbound(&mut direct, |it| it == B), Inbound::Straight(ends));
        assert_eq!(super::ends(&direct), Some(ends));
        assert_eq!(inbound(&mut packet(A, B), |it| it == Ipv4Addr::new(10, 210, 2, 1)), Inbound::Onward(B));
        assert_eq!(inbound(&mut packet(B, B), |it| it == A), Inbound::Foreign);
    }

    #[test]
    fn only_a_syn_opens() {
        assert!(opens(&packet(A, B)));
        let mut answer = packet(A, B);
        answer[33] = 0x12;
        assert!(!opens(&answer));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), own: [u8; 4]) {
            opens(&bytes);
            ends(&bytes);
            inbound(&mut bytes, |it| it == Ipv4Addr::from(own));
        }

        #[test]
        fn a_flipped_packet_has_right_checksums_and_flipped_again_it_is_as_it_was(
            protocol in prop::sample::select(vec![6u8, 17]),
            text: [u8; 24],
        ) {
            let mut packet = checksum::tests::packet(protocol, (A.octets(), B.octets()), &text);
            checksum::fill(&mut packet);
            let before = packet.clone();
            flip(&mut packet);
            prop_assert_eq!(ends(&packet), Some(Ends { source: straight(A), destination: straight(B) }));
            prop_assert!(checksum::tests::are_right(&packet));
            flip(&mut packet);
            prop_assert_eq!(packet, before);
        }
    }
}

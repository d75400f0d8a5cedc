//! The Internet checksum (RFC 1071) of what goes through tunnels. Pure.
//!
//! WireGuard authenticates every byte, so that our own TCP needs none. The far end may be a kernel's TCP though, which takes
//! nothing without.

/// Where an IPv4 header has its checksum.
const OF_IP: usize = 10;
/// IP's numbers of protocols, and where their headers have the checksum.
const TCP: (u8, usize) = (6, 16);
const UDP: (u8, usize) = (17, 6);

/// Puts the checksums of an IPv4 packet with TCP or UDP into it.
pub(crate) fn fill(packet: &mut [u8]) {
    let Some(header) = header(packet) else { return };
    let Some((ip, rest)) = packet.split_at_mut_checked(header) else { return };
    put(ip, OF_IP, 0);
    put(ip, OF_IP, !fold(sum(ip)));
    let Some((protocol, at)) = [TCP, UDP].into_iter().find(|(protocol, _)| ip.get(9) == Some(protocol))
    else {
        return;
    };
    let addresses = ip.get(12..20).unwrap_or_default();
    put(rest, at, 0);
    let found = !fold(sum(addresses) + sum(rest) + u64::from(protocol) + rest.len() as u64);
    put(rest, at, if found == 0 && protocol == UDP.0 { u16::MAX } else { found });
}

/// Makes up for a word of the addresses that was exchanged, in the IP header and in TCP's or UDP's.
pub(crate) fn exchanged(packet: &mut [u8], before: u16, after: u16) {
    let Some(header) = header(packet) else { return };
    update(packet, OF_IP, before, after);
    // Only the first fragment has the header of TCP or UDP.
    if fragment_offset(packet) != 0 {
        return;
    }
    match packet.get(9) {
        Some(&protocol) if protocol == TCP.0 => update(packet, header + TCP.1, before, after),
        // No checksum is told by 0.
        Some(&protocol) if protocol == UDP.0 && get(packet, header + UDP.1) != Some(0) => {
            update(packet, header + UDP.1, before, after);
            if get(packet, header + UDP.1) == Some(0) {
                put(packet, header + UDP.1, u16::MAX);
            }
        }
        _ => {}
    }
}

/// RFC 1624, equation 3.
fn update(packet: &mut [u8], at: usize, before: u16, after: u16) {
    if let Some(checksum) = get(packet, at) {
        put(packet, at, !fold(u64::from(!checksum) + u64::from(!before) + u64::from(after)));
    }
}

/// Bytes of an IPv4 header.
fn header(packet: &[u8]) -> Option<usize> {
    let first = packet.first()?;
    (first >> 4 == 4).then_some(usize::from(first & 0x0f) * 4).filter(|header| *header >= 20)
}

fn fragment_offset(packet: &[u8]) -> u16 {
    get(packet, 6).unwrap_or_default() & 0x1fff
}

fn get(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        *place = value.to_be_bytes();
    }
}

/// The sum of all 16-bit words, whose carries are still to be folded in.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    sum + u64::from(u32::from_be_bytes(last))
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether both checksums are right, as a receiver finds out.
    pub(crate) fn are_right(packet: &[u8]) -> bool {
        let (ip, rest) = packet.split_at(header(packet).unwrap());
        let transport = match ip[9] {
            17 if rest[6..8] == [0, 0] => return fold(sum(ip)) == u16::MAX,
            protocol => {
                fold(sum(&ip[12..20]) + sum(rest) + u64::from(protocol) + rest.len() as u64) == u16::MAX
            }
        };
        fold(sum(ip)) == u16::MAX && transport
    }

    /// A packet with some bytes in it, for `protocol`.
    pub(crate) fn packet(protocol: u8, ends: ([u8; 4], [u8; 4]), text: &[u8]) -> Vec<u8> {
        let mut packet = vec![0u8; 40];
        packet[0] = 0x45;
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&ends.0);
        packet[16..20].copy_from_slice(&ends.1);
        packet.extend_from_slice(text);
        let total = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet
    }

    #[test]
    fn a_known_header_has_its_known_checksum() {
        // The example that RFC 1071 is usually explained with.
        let mut header = vec![
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, 0xc0, 0xa8, 0x00, 0x01,
            0xc0, 0xa8, 0x00, 0xc7,
        ];
        fill(&mut header);
        assert_eq!(header[10..12], [0xb8, 0x61]);
    }

    proptest! {
        #[test]
        fn what_was_filled_is_right_and_stays_so(
            protocol in prop::sample::select(vec![6u8, 17]),
            ends: ([u8; 4], [u8; 4]),
            text in proptest::collection::vec(any::<u8>(), 0..64),
            other: [u8; 2],
        ) {
            let mut packet = packet(protocol, ends, &text);
            fill(&mut packet);
            prop_assert!(are_right(&packet));
            let before = u16::from_be_bytes([packet[12], packet[13]]);
            packet[12..14].copy_from_slice(&other);
            exchanged(&mut packet, before, u16::from_be_bytes(other));
            prop_assert!(are_right(&packet));
        }

        #[test]
        fn any_bytes_are_taken(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), words: (u16, u16)) {
            exchanged(&mut bytes, words.0, words.1);
            fill(&mut bytes);
        }
    }
}

//! What smoltcp 0.14 does wrong with lost packets, put right between it and the tunnels. Pure.
//!
//! - After a time-out it sends again from where the other end last said it was, and numbers mere acknowledgements like
//!   that too. If both ends do so at once, each finds the other's acknowledgements too old to look at, and neither ever hears
//!   of the other again. Here they get the number of what would be sent next.
//! - A window is told in units of several bytes, rounded down each time, so that its end moves back by a few bytes now and
//!   then. What was sent up to the old end is refused, and so are acknowledgements with a number beyond the new one. One
//!   unit less is told here, which is never taken back.
//! - An acknowledgement of a part of what is under way, with a closed window, has it wait for the window and forget that the
//!   rest may be lost: once the window opens nothing is sent again, and with a small congestion window nothing at all. Such
//!   a window is made one unit wide here, so that it goes on as after any loss.
//! - Its keep-alive carries a byte of rubbish in the place of the last byte that was sent. If an earlier byte is missing on
//!   the other end, the rubbish replaces what was there. The byte is taken out here; the empty packet asks as well.

use gotatun::packet::Packet;
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

/// A connection: the other node, our port, its port.
pub(super) type Ends = (Ipv4Addr, u16, u16);

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// What is needed of a TCP packet.
struct Segment {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ports: (u16, u16),
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    /// Bytes before TCP's header, before the payload, and of the payload.
    headers_of_ip: usize,
    headers: usize,
    payload: u32,
}

impl Segment {
    fn parse(packet: &[u8]) -> Option<Self> {
        const TCP: u8 = 6;
        let (first, protocol) = (*packet.first()?, *packet.get(9)?);
        let ip = usize::from(first & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes(*packet.get(2..)?.first_chunk()?));
        let tcp = packet.get(ip..total)?;
        if first >> 4 != 4 || ip < 20 || protocol != TCP {
            return None;
        }
        let short = |at: usize| Some(u16::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u32::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
        let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        let payload = u32::try_from(tcp.len().checked_sub(header)?).ok()?;
        Some(Self {
            source: address(12)?,
            destination: address(16)?,
            ports: (short(0)?, short(2)?),
            seq: long(4)?,
            ack: long(8)?,
            flags: *tcp.get(13)?,
            window: short(14)?,
            headers_of_ip: ip,
            headers: ip + header,
            payload,
        })
    }
}

/// How far each connection has sent.
#[derive(Debug, Default)]
pub(super) struct Mender(HashMap<Ends, u32>);

impl Mender {
    /// Looks at a packet that smoltcp sends.
    pub(super) fn outgoing(&mut self, packet: &mut Packet) {
        let Some(segment) = Segment::parse(packet) else { return };
        let ends = (segment.destination, segment.ports.0, segment.ports.1);
        let length =
            segment.payload + u32::from(segment.flags & SYN != 0) + u32::from(segment.flags & FIN != 0);
        let end = segment.seq.wrapping_add(length);
        if segment.flags & SYN != 0 {
            self.0.insert(ends, end);
            return;
        }
        if segment.flags & RST == 0 {
            set_window(packet, segment.window.saturating_sub(1));
        }
        let Some(sent) = self.0.get_mut(&ends) else { return };
        let is_keep_alive = segment.payload == 1 && segment.flags & (FIN | RST | PSH) == 0 && end == *sent;
        if is_keep_alive {
            packet.truncate(segment.headers);
            if let (Some(total), Ok(headers)) = (packet.get_mut(2..4), u16::try_from(segment.headers)) {
                total.copy_from_slice(&headers.to_be_bytes());
            }
        } else if length == 0 {
            let ip = segment.headers_of_ip;
            if let Some(number) = packet.get_mut(ip + 4..ip + 8) {
                number.copy_from_slice(&sent.to_be_bytes());
            }
        } else if is_after(end, *sent) {
            *sent = end;
        }
    }

    /// Looks at a packet that smoltcp will get.
    pub(super) fn incoming(&self, packet: &mut [u8]) {
        let Some(segment) = Segment::parse(packet) else { return };
        if segment.window != 0 || segment.flags & (SYN | RST | ACK) != ACK {
            return;
        }
        let ends = (segment.source, segment.ports.1, segment.ports.0);
        let is_partial = self.0.get(&ends).is_some_and(|sent| *sent != segment.ack);
        if is_partial {
            set_window(packet, 1);
        }
    }

    /// How many connections are known.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets a connection.
    pub(super) fn forget(&mut self, ends: Ends) {
        self.0.remove(&ends);
    }

    /// Forgets all others.
    pub(super) fn keep(&mut self, ends: &HashSet<Ends>) {
        self.0.retain(|known, _| ends.contains(known));
    }
}

fn set_window(packet: &mut [u8], units: u16) {
    let ip = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
    if let Some(window) = packet.get_mut(ip + 14..ip + 16) {
        window.copy_from_slice(&units.to_be_bytes());
    }
}

/// Whether `a` comes after `b`, with numbers that begin anew after the last.
const fn is_after(a: u32, b: u32) -> bool {
    let ahead = a.wrapping_sub(b);
    ahead != 0 && ahead < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: [u8; 4] = [10, 210, 0, 1];
    const B: [u8; 4] = [10, 210, 1, 1];

    fn packet(
        from: ([u8; 4], u16),
        to: ([u8; 4], u16),
        numbers: (u32, u32),
        flags: u8,
        window: u16,
        text: &[u8],
    ) -> Packet {
        let mut bytes = vec![0u8; 40];
        bytes[0] = 0x45;
        bytes[9] = 6;
        bytes[12..16].copy_from_slice(&from.0);
        bytes[16..20].copy_from_slice(&to.0);
        bytes[20..22].copy_from_slice(&from.1.to_be_bytes());
        bytes[22..24].copy_from_slice(&to.1.to_be_bytes());
        bytes[24..28].copy_from_slice(&numbers.0.to_be_bytes());
        bytes[28..32].copy_from_slice(&numbers.1.to_be_bytes());
        bytes[32] = 0x50;
        bytes[33] = flags;
        bytes[34..36].copy_from_slice(&window.to_be_bytes());
        bytes.extend_from_slice(text);
        let total = u16::try_from(bytes.len()).unwrap();
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        Packet::copy_from(bytes.as_slice())
    }

    /// Sends, after a SYN with that number.
    fn sent(first: u32, texts: &[&[u8]]) -> (Mender, u32) {
        let mut mender = Mender::default();
        mender.outgoing(&mut packet((A, 9), (B, 7), (first, 0), SYN, 1, b""));
        let mut seq = first.wrapping_add(1);
        for text in texts {
            mender.outgoing(&mut packet((A, 9), (B, 7), (seq, 0), ACK, 1, text));
            seq = seq.wrapping_add(u32::try_from(text.len()).unwrap());
        }
        (mender, seq)
    }

    fn window(packet: &Packet) -> u16 {
        u16::from_be_bytes([packet[34], packet[35]])
    }

    #[test]
    fn a_window_closes_only_when_all_has_arrived() {
        for first in [0, 1000, u32::MAX - 1, u32::MAX] {
            let (mender, end) = sent(first, &[b"abc", b"def"]);
            for (ack, closed) in [(end, true), (end.wrapping_sub(4), false), (end.wrapping_sub(6), false)] {
                let mut answer = packet((B, 7), (A, 9), (1, ack), ACK, 0, b"");
                mender.incoming(&mut answer);
                assert_eq!(window(&answer) == 0, closed, "{first} {ack}");
            }
            let mut other = packet((B, 7), (A, 10), (1, 0), ACK, 0, b"");
            mender.incoming(&mut other);
            assert_eq!(window(&other), 0);
        }
    }

    #[test]
    fn less_is_told_than_there_is() {
        let mut mender = Mender::default();
        for (flags, there, told) in [(ACK, 9, 8), (ACK, 1, 0), (ACK, 0, 0), (SYN | ACK, 9, 9), (RST, 9, 9)] {
            let mut answer = packet((A, 9), (B, 7), (1, 1), flags, there, b"");
            mender.outgoing(&mut answer);
            assert_eq!(window(&answer), told);
        }
    }

    #[test]
    fn an_acknowledgement_has_the_number_of_what_is_sent_next() {
        for first in [5, u32::MAX - 2] {
            let (mut mender, end) = sent(first, &[b"abc", b"def"]);
            for flags in [ACK, RST | ACK] {
                let mut late = packet((A, 9), (B, 7), (end.wrapping_sub(6), 1), flags, 1, b"");
                mender.outgoing(&mut late);
                assert_eq!(late[24..28], end.to_be_bytes());
            }
            let mut again = packet((A, 9), (B, 7), (end.wrapping_sub(6), 1), ACK, 1, b"abc");
            mender.outgoing(&mut again);
            assert_eq!(again[24..28], end.wrapping_sub(6).to_be_bytes());
        }
    }

    #[test]
    fn a_keep_alive_loses_its_byte_and_nothing_else_does() {
        let (mut mender, end) = sent(5, &[b"abc"]);
        let mut keep_alive = packet((A, 9), (B, 7), (end - 1, 0), ACK, 1, b"\0");
        mender.outgoing(&mut keep_alive);
        assert_eq!((keep_alive.len(), keep_alive[3]), (40, 40));
        for (seq, flags, text) in [
            (end - 1, ACK | PSH, &b"c"[..]),
            (end - 3, ACK, b"abc"),
            (end, ACK, b"d"),
            (end + 1, ACK, b"efg"),
        ] {
            let mut data = packet((A, 9), (B, 7), (seq, 0), flags, 1, text);
            mender.outgoing(&mut data);
            assert_eq!(data.len(), 40 + text.len(), "{seq}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut mender = Mender::default();
            let mut bytes = Packet::copy_from(bytes.as_slice());
            mender.incoming(&mut bytes);
            mender.outgoing(&mut bytes);
        }
    }
}

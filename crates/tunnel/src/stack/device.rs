//! What smoltcp takes for a network card: two queues.

use super::mend::Mender;
use crate::checksum;
use gotatun::packet::{Packet, PacketBufPool};
use smoltcp::phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use std::collections::VecDeque;

/// Bytes of a packet inside a tunnel. With WireGuard's own and IPv6's headers that is 1280, which every path carries: what is
/// larger is lost on some without a word, the hub's second hop is out of sight, and TCP would send it again for ever.
pub(crate) const MTU: u16 = 1200;
/// Packets that are made in one go.
const OUT: usize = 256;
/// Bytes of a buffer that is used again.
const POOLED: usize = 2048;

/// Packets that came in and packets to be sent.
pub(super) struct Queue {
    incoming: VecDeque<Packet>,
    outgoing: Vec<Packet>,
    pool: PacketBufPool<POOLED>,
    /// What smoltcp gets wrong.
    pub(super) mender: Mender,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            incoming: VecDeque::new(),
            outgoing: Vec::new(),
            pool: PacketBufPool::new(OUT),
            mender: Mender::default(),
        }
    }

    /// Takes packets in, to be worked on.
    pub(super) fn take_in(&mut self, packets: &mut Vec<Packet>) {
        self.incoming.extend(packets.drain(..));
    }

    /// Gives out what is to be sent.
    pub(super) fn take_out(&mut self, out: &mut Vec<Packet>) {
        out.append(&mut self.outgoing);
    }

    /// Whether packets wait that there was no room to answer.
    pub(super) fn has_more(&self) -> bool {
        !self.incoming.is_empty()
    }
}

impl Device for Queue {
    type RxToken<'a> = Received;
    type TxToken<'a> = ToSend<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, ToSend<'_>)> {
        if self.outgoing.len() >= OUT {
            return None;
        }
        let mut packet = self.incoming.pop_front()?;
        self.mender.incoming(&mut packet);
        let Self { outgoing, pool, mender, .. } = self;
        Some((Received(packet), ToSend { outgoing, pool, mender }))
    }

    fn transmit(&mut self, _: Instant) -> Option<ToSend<'_>> {
        let Self { outgoing, pool, mender, .. } = self;
        (outgoing.len() < OUT).then_some(ToSend { outgoing, pool, mender })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(MTU);
        // WireGuard has authenticated every byte.
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities
    }
}

/// A packet that came in.
pub(super) struct Received(Packet);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, work: F) -> R {
        work(&self.0)
    }
}

/// Room for a packet to send.
pub(super) struct ToSend<'a> {
    outgoing: &'a mut Vec<Packet>,
    pool: &'a PacketBufPool<POOLED>,
    mender: &'a mut Mender,
}

impl phy::TxToken for ToSend<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, work: F) -> R {
        let mut packet = self.pool.get();
        packet.buf_mut().resize(length, 0);
        let result = work(&mut packet);
        self.mender.outgoing(&mut packet);
        // Last, as it covers what was mended.
        checksum::fill(&mut packet);
        self.outgoing.push(packet);
        result
    }
}

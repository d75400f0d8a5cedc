//! Which way each packet goes, and the two ends of the queues between tunnels and TCP.

use crate::overlay::{self, Ends, Inbound};
use crate::stack::MTU;
use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use tokio::sync::{mpsc, watch};

/// Packets that are taken at a time.
const BATCH: usize = 128;

/// The nodes, and the ways to them. The table is replaced when nodes change; what changes with every packet or path is in
/// its nodes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// This node's address.
    pub(crate) own: Option<Ipv4Addr>,
    /// This node's interface, if it has one: its address, and the way into it.
    pub(crate) interface: Option<(Ipv4Addr, mpsc::Sender<Packet>)>,
    /// Whether packets for others are handed on.
    pub(crate) relays: bool,
    /// Who hands them on for this node.
    pub(crate) hub: Option<Ipv4Addr>,
    /// The others.
    pub(crate) nodes: HashMap<Ipv4Addr, Arc<Node>>,
    /// The others, by the address of their interface.
    pub(crate) interfaces: HashMap<Ipv4Addr, Arc<Node>>,
}

/// Another node, as packets see it.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: String,
    /// Packets go straight to it.
    pub(crate) straight: AtomicBool,
    /// The kernel has sent a packet to it since that was looked at.
    pub(crate) used: AtomicBool,
    /// Packets that went straight to it.
    pub(crate) sent: AtomicU64,
    /// Packets that came straight from it.
    pub(crate) received: AtomicU64,
    /// Packets have gone straight for so long that one through the hub means that the other end has given that up.
    pub(crate) settled: AtomicBool,
    /// A packet came in a way that the engine has been told of and hasn't looked at yet.
    pub(crate) told: AtomicBool,
}

impl Routes {
    /// Whether there is a way to that node now.
    pub(crate) fn reaches(&self, address: Ipv4Addr) -> bool {
        self.is_straight(address)
            || self.nodes.contains_key(&address) && self.hub.is_some_and(|hub| self.is_straight(hub))
    }

    fn is_straight(&self, address: Ipv4Addr) -> bool {
        let node = self.nodes.get(&address).or_else(|| self.interfaces.get(&address));
        node.is_some_and(|node| node.straight.load(Relaxed))
    }

    /// Addresses a packet of this node for its way. `false` if there is none: it is lost, as on any network.
    pub(crate) fn outbound(&self, packet: &mut [u8]) -> bool {
        let Some(Ends { destination, .. }) = overlay::ends(packet) else { return false };
        self.nodes.get(&destination).is_some_and(|node| self.send(node, packet))
    }

    /// The same for a packet that the kernel sends from this node's interface, which goes to others' interfaces only. Now
    /// and then it is told that the node is in use.
    pub(crate) fn outbound_of_kernel(&self, packet: &mut [u8]) -> (bool, Option<Hint>) {
        let Some(Ends { source, destination }) = overlay::ends(packet) else { return (false, None) };
        let is_own = self.interface.as_ref().is_some_and(|(address, _)| *address == source);
        let Some(node) = self.interfaces.get(&destination).filter(|_| is_own) else { return (false, None) };
        let hint = (!node.used.swap(true, Relaxed)).then_some(Hint::Wanted(destination));
        (self.send(node, packet), hint)
    }

    fn send(&self, node: &Node, packet: &mut [u8]) -> bool {
        if node.straight.load(Relaxed) {
            node.sent.fetch_add(1, Relaxed);
            overlay::flip(packet);
            return true;
        }
        self.hub.is_some_and(|hub| self.is_straight(hub))
    }

    fn is_own(&self, address: Ipv4Addr) -> bool {
        self.own == Some(address) || self.interface.as_ref().is_some_and(|(own, _)| *own == address)
    }

    /// From whom a packet for this node comes, and into what it goes. `None` if it has no business there: streams and
    /// interfaces are apart.
    fn arrival<'a>(&'a self, ends: Ends, streams: &'a mpsc::Sender<Packet>) -> Option<Arrival<'a>> {
        if self.own == Some(ends.destination) {
            return Some((self.nodes.get(&ends.source)?, streams));
        }
        let (_, kernel) = self.interface.as_ref()?;
        Some((self.interfaces.get(&ends.source)?, kernel))
    }
}

/// A node, and where its packets go here.
type Arrival<'a> = (&'a Arc<Node>, &'a mpsc::Sender<Packet>);

/// What packets tell the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// One came straight from a node that packets don't go straight to.
    Straight(Ipv4Addr),
    /// One came through the hub.
    Relayed(Ipv4Addr),
    /// The kernel sends to that node.
    Wanted(Ipv4Addr),
}

/// Takes the packets that come out of the tunnels.
pub(crate) struct Inlet {
    /// The ways.
    pub(crate) routes: watch::Receiver<Arc<Routes>>,
    /// To TCP.
    pub(crate) incoming: mpsc::Sender<Packet>,
    /// Back into the tunnels.
    pub(crate) outgoing: mpsc::Sender<Packet>,
    /// What the engine should know; what it can't take is told by the next packet.
    pub(crate) hints: mpsc::Sender<Hint>,
}

impl Inlet {
    fn hint(&self, node: &Node, hint: Hint) {
        if !node.told.swap(true, Relaxed) && self.hints.try_send(hint).is_err() {
            node.told.store(false, Relaxed);
        }
    }
}

impl IpSend for Inlet {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let mut packet = packet.into_bytes();
        let routes = Arc::clone(&self.routes.borrow());
        let to = match overlay::inbound(&mut packet, |address| routes.is_own(address)) {
            Inbound::Straight(ends) => {
                let Some((node, to)) = routes.arrival(ends, &self.incoming) else { return Ok(()) };
                node.received.fetch_add(1, Relaxed);
                if !node.straight.load(Relaxed) {
                    self.hint(node, Hint::Straight(ends.source));
                }
                to
            }
            Inbound::Relayed(ends) => {
                let Some((node, to)) = routes.arrival(ends, &self.incoming) else { return Ok(()) };
                if node.settled.swap(false, Relaxed) {
                    // The answer to this very packet should get there.
                    node.straight.store(false, Relaxed);
                    node.told.store(false, Relaxed);
                }
                self.hint(node, Hint::Relayed(ends.source));
                to
            }
            Inbound::Onward(destination) if routes.relays && routes.is_straight(destination) => {
                &self.outgoing
            }
            Inbound::Onward(_) | Inbound::Foreign => return Ok(()),
        };
        // A full queue loses packets, as on any network. gotatun holds a lock meanwhile that those who empty the queue wait
        // for: it must never be kept waiting.
        let _ = to.try_send(packet);
        Ok(())
    }
}

/// Gives the tunnels the packets that go into them.
pub(crate) struct Outlet {
    packets: mpsc::Receiver<Packet>,
    batch: Vec<Packet>,
}

impl Outlet {
    /// From that queue.
    pub(crate) const fn new(packets: mpsc::Receiver<Packet>) -> Self {
        Self { packets, batch: Vec::new() }
    }
}

impl IpRecv for Outlet {
    async fn recv<'a>(
        &'a mut self,
        _: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        if self.packets.recv_many(&mut self.batch, BATCH).await == 0 {
            // There is nothing more to come, and gotatun takes an error for a fault.
            std::future::pending::<()>().await;
        }
        Ok(self.batch.drain(..).filter_map(|packet| packet.try_into_ip().ok()))
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(MTU)
    }
}

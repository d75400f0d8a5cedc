//! TCP of our own, between the streams and the tunnels: smoltcp, without an interface of the kernel's.
//!
//! One lock holds sockets and interface. Streams take it to put bytes in and to take bytes out; the driver takes it to let
//! smoltcp work, for a bounded batch of packets at a time. Bytes are copied once on each side that way.

mod device;
mod driver;
mod mend;
mod stream;

pub(crate) use driver::Driver;
pub use stream::Stream;

use crate::config::Error;
use crate::overlay;
pub(crate) use device::MTU;
use device::Queue;
use gotatun::packet::Packet;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::{Duration as Span, Instant as Moment};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// The port that every node listens on inside the tunnels.
const PORT: u16 = 7700;
/// Each stream's buffers, in bytes. They bound its throughput to this much each round trip; pages that were never used
/// cost nothing.
const BUFFER: usize = 512 << 10;
/// smoltcp has no backlog: this many sockets listen, and are replaced when they are taken.
const LISTENING: usize = 16;
/// Most sockets that listen after a burst.
const LISTENING_MOST: usize = 48;
/// Streams that may be open.
const STREAMS: usize = 1024;
/// Streams that may linger after both ends have closed, in case the last packet was lost.
const WAITING: usize = 64;
/// How long what was written is still sent after the stream was dropped.
const LINGER: Duration = Duration::from_secs(60);
/// smoltcp never retransmits within a second of its own. Its clock runs faster than ours by this factor, which makes that
/// 100 ms: what a key that is replaced costs is one of these.
const CLOCK_RATE: u32 = 10;
/// Without any word from the other end for this time a stream is reset.
const SILENCE: Duration = Duration::from_secs(60);
/// A stream that says nothing asks the other end this often whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// An acknowledgement may wait this long for another one.
const ACK_DELAY: Duration = Duration::from_millis(10);

/// A stream that came in: from whose address, and itself.
pub(crate) type Incoming = (Ipv4Addr, Stream);

/// All TCP of this node's end of tunnels.
pub(crate) struct Stack {
    inner: Mutex<Inner>,
    /// There is something to send.
    wake: Notify,
    accepted: mpsc::Sender<Incoming>,
}

struct Inner {
    interface: Interface,
    sockets: SocketSet<'static>,
    queue: Queue,
    address: Option<Ipv4Addr>,
    begun: Instant,
    listening: Vec<SocketHandle>,
    flows: HashMap<SocketHandle, Flow>,
    next_port: u16,
}

/// A connection.
struct Flow {
    peer: Ipv4Addr,
    /// Our port, and the other's.
    ports: (u16, u16),
    /// Since when nobody holds its stream.
    dropped: Option<Instant>,
}

impl Flow {
    const fn ends(&self) -> mend::Ends {
        (self.peer, self.ports.0, self.ports.1)
    }
}

/// A time as smoltcp's clock tells it.
fn span(time: Duration) -> Span {
    Span::from_micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX).saturating_mul(CLOCK_RATE.into()))
}

impl Stack {
    /// A stack without an address; what comes in goes to `accepted`. `seed` is random.
    pub(crate) fn new(seed: [u8; 8], accepted: mpsc::Sender<Incoming>) -> Self {
        let mut queue = Queue::new();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = u64::from_le_bytes(seed);
        let interface = Interface::new(config, &mut queue, Moment::ZERO);
        let [a, b, ..] = seed;
        let inner = Inner {
            interface,
            sockets: SocketSet::new(Vec::new()),
            queue,
            address: None,
            begun: Instant::now(),
            listening: Vec::new(),
            flows: HashMap::new(),
            next_port: u16::from_le_bytes([a, b]) | FIRST_PORT,
        };
        Self { inner: Mutex::new(inner), wake: Notify::new(), accepted }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has that address from now on. Streams from another one are reset.
    pub(crate) fn set_address(&self, address: Ipv4Addr) {
        let mut inner = self.inner();
        if inner.address == Some(address) {
            return;
        }
        inner.reset(|_| true);
        for handle in std::mem::take(&mut inner.listening) {
            inner.sockets.remove(handle);
        }
        inner.address = Some(address);
        inner.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            // Everybody is in the same network: there are no routes to look up.
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(address), 0));
        });
        inner.listen(LISTENING);
        drop(inner);
        self.wake.notify_one();
    }

    /// Resets all streams with that node.
    pub(crate) fn reset(&self, peer: Ipv4Addr) {
        self.inner().reset(|flow| flow.peer == peer);
        self.wake.notify_one();
    }

    /// The nodes that streams are open with.
    pub(crate) fn in_use(&self) -> BTreeSet<Ipv4Addr> {
        self.inner().flows.values().filter(|flow| flow.dropped.is_none()).map(|flow| flow.peer).collect()
    }

    /// Begins a connection to that node. The stream can be used once it is [`Stream::connected`].
    pub(crate) fn connect(self: &Arc<Self>, peer: Ipv4Addr) -> Result<Stream, Error> {
        let mut inner = self.inner();
        if inner.flows.len() >= STREAMS {
            return Err(Error::Full(STREAMS));
        }
        let port = inner.free_port(peer).ok_or(Error::Full(STREAMS))?;
        let handle = inner.sockets.add(socket());
        let Inner { interface, sockets, .. } = &mut *inner;
        let connecting = sockets.get_mut::<Socket<'_>>(handle).connect(
            interface.context(),
            (IpAddress::Ipv4(peer), PORT),
            port,
        );
        if connecting.is_err() {
            sockets.remove(handle);
            return Err(Error::Ended);
        }
        inner.flows.insert(handle, Flow { peer, ports: (port, PORT), dropped: None });
        drop(inner);
        self.wake.notify_one();
        Ok(Stream::new(Arc::clone(self), handle))
    }

    /// Takes packets in and has smoltcp work. What is to be sent is put into `out`. Returns after which time this is
    /// due again, if nothing happens; zero if there is more to send.
    fn work(self: &Arc<Self>, packets: &mut Vec<Packet>, out: &mut Vec<Packet>) -> Option<Duration> {
        let mut inner = self.inner();
        let opening = packets.iter().filter(|packet| overlay::opens(packet)).count();
        if opening > 0 {
            inner.listen(LISTENING.saturating_add(opening));
        }
        inner.queue.take_in(packets);
        let now = inner.now();
        let Inner { interface, sockets, queue, .. } = &mut *inner;
        interface.poll(now, queue, sockets);
        inner.hand_over(self);
        inner.reap();
        inner.queue.take_out(out);
        if inner.queue.has_more() {
            return Some(Duration::ZERO);
        }
        let Inner { interface, sockets, .. } = &mut *inner;
        let delay = interface.poll_delay(now, sockets)?;
        Some(Duration::from_micros(delay.total_micros()) / CLOCK_RATE)
    }
}

/// The first port that connections are made from.
const FIRST_PORT: u16 = 0xc000;

fn socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_timeout(Some(span(SILENCE)));
    socket.set_keep_alive(Some(span(KEEP_ALIVE)));
    socket.set_ack_delay(Some(span(ACK_DELAY)));
    socket.set_nagle_enabled(false);
    socket.set_congestion_control(CongestionControl::Cubic);
    socket
}

impl Inner {
    fn now(&self) -> Moment {
        let elapsed = self.begun.elapsed().as_micros().saturating_mul(u128::from(CLOCK_RATE));
        Moment::from_micros(i64::try_from(elapsed).unwrap_or(i64::MAX))
    }

    fn reset(&mut self, which: impl Fn(&Flow) -> bool) {
        for (handle, flow) in &self.flows {
            if which(flow) {
                self.sockets.get_mut::<Socket<'_>>(*handle).abort();
            }
        }
    }

    /// A port that no connection with that node has.
    fn free_port(&mut self, peer: Ipv4Addr) -> Option<u16> {
        let taken: BTreeSet<u16> =
            self.flows.values().filter(|flow| flow.peer == peer).map(|flow| flow.ports.0).collect();
        for _ in 0..=STREAMS {
            let port = self.next_port;
            self.next_port = port.wrapping_add(1) | FIRST_PORT;
            if !taken.contains(&port) {
                return Some(port);
            }
        }
        None
    }

    /// Has at least so many sockets listen, as far as streams are left.
    fn listen(&mut self, wanted: usize) {
        if self.address.is_none() {
            return;
        }
        let is_free = |handle: &&SocketHandle| self.sockets.get::<Socket<'_>>(**handle).is_listening();
        let free = self.listening.iter().filter(is_free).count();
        let room = STREAMS.saturating_sub(self.flows.len() + self.listening.len());
        for _ in free..wanted.min(free.saturating_add(room)) {
            let mut socket = socket();
            if socket.listen(PORT).is_ok() {
                self.listening.push(self.sockets.add(socket));
            }
        }
    }

    /// Hands over the connections that have come in, and replaces them.
    fn hand_over(&mut self, stack: &Arc<Stack>) {
        let mut free = 0;
        for handle in std::mem::take(&mut self.listening) {
            let socket = self.sockets.get::<Socket<'_>>(handle);
            let peer = socket.remote_endpoint().map(|end| (end.addr, end.port));
            match (socket.state(), peer) {
                (State::Listen, _) if free < LISTENING_MOST => {
                    free += 1;
                    self.listening.push(handle);
                }
                (State::SynReceived, _) => self.listening.push(handle),
                (State::Listen | State::Closed | State::TimeWait, _) | (_, None) => {
                    self.sockets.remove(handle);
                }
                (_, Some((IpAddress::Ipv4(peer), port))) => match stack.accepted.try_reserve() {
                    Ok(permit) => {
                        self.flows.insert(handle, Flow { peer, ports: (PORT, port), dropped: None });
                        permit.send((peer, Stream::new(Arc::clone(stack), handle)));
                    }
                    // Nobody accepts just now: it waits.
                    Err(mpsc::error::TrySendError::Full(())) => self.listening.push(handle),
                    Err(mpsc::error::TrySendError::Closed(())) => {
                        self.sockets.remove(handle);
                    }
                },
            }
        }
        if free < LISTENING {
            self.listen(LISTENING);
        }
    }

    /// Removes the connections that have ended, of those that nobody holds any more.
    fn reap(&mut self) {
        let mut waiting = 0;
        let Self { sockets, queue, flows, .. } = self;
        flows.retain(|handle, flow| {
            let Some(dropped) = flow.dropped else { return true };
            let socket = sockets.get_mut::<Socket<'_>>(*handle);
            if socket.can_recv() {
                // Nobody will read it, and the other end should know.
                socket.abort();
            }
            let ended = match socket.state() {
                State::Closed => socket.remote_endpoint().is_none(),
                State::TimeWait => {
                    waiting += 1;
                    waiting > WAITING
                }
                _ => false,
            };
            if ended || dropped.elapsed() > LINGER {
                sockets.remove(*handle);
                queue.mender.forget(flow.ends());
                return false;
            }
            true
        });
        // Connections that came to nothing before they were flows.
        if self.queue.mender.len() > 2 * STREAMS {
            let known = self.flows.values().map(Flow::ends).collect();
            self.queue.mender.keep(&known);
        }
    }
}

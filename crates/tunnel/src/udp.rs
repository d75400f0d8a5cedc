//! The one UDP socket: WireGuard's datagrams go on to gotatun, probes are answered and asked here.

use crate::config::{Error, Pong};
use crate::keep;
use crate::probe::{self, Key, Nonce, Probe};
use gotatun::packet::{Packet, PacketBufPool};
use gotatun::udp::socket::{UdpSocket, UdpSocketFactory};
use gotatun::udp::{UdpRecv, UdpTransportFactory, UdpTransportFactoryParams};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// The kernel's buffers for datagrams, in bytes; it grants what `net.core.rmem_max` allows. With the usual 208 KB a
/// single stream lost a third of its packets.
const BUFFER: usize = 4 << 20;
/// Probes that wait to be looked at; more are dropped.
const PROBES: usize = 256;
/// Questions that wait for an answer at the same time; more fail at once.
const QUESTIONS: usize = 4096;
/// A question is asked again after this time, as a datagram may be lost.
const AGAIN: Duration = Duration::from_millis(200);
/// After an error of the socket it is tried again after this time.
const REST: Duration = Duration::from_millis(10);

/// A datagram that may be a probe, and from where it came.
type Datagram = (Vec<u8>, SocketAddr);

/// The socket. gotatun asks for one whenever it begins anew, and gets the same: a port that is closed and opened again
/// may be taken by then, by gotatun itself too.
#[derive(Clone)]
pub(crate) struct Port {
    socket: UdpSocket,
    number: u16,
    probes: mpsc::Sender<Datagram>,
    shaken: Arc<Notify>,
}

impl Port {
    /// Listens on that UDP port of all addresses; 0 is any. `shaken` is told when a handshake may have happened.
    pub(crate) async fn listen(
        port: u16,
        shaken: Arc<Notify>,
    ) -> Result<(Self, mpsc::Receiver<Datagram>), Error> {
        let mut factory = UdpSocketFactory { recv_buffer_size: Some(BUFFER), send_buffer_size: Some(BUFFER) };
        let wanted = UdpTransportFactoryParams { addr: None, port, fwmark: None };
        let failed = |source| Error::Bind { port, source };
        let (socket, _) = factory.bind(&wanted).await.map_err(failed)?;
        let number = socket.local_addr().map_err(failed)?.port();
        let (probes, heard) = mpsc::channel(PROBES);
        Ok((Self { socket, number, probes, shaken }, heard))
    }

    /// Its number.
    pub(crate) const fn number(&self) -> u16 {
        self.number
    }
}

impl UdpTransportFactory for Port {
    type Send = UdpSocket;
    type Recv = Sieve;

    async fn bind(&mut self, _: &UdpTransportFactoryParams) -> io::Result<(UdpSocket, Sieve)> {
        Ok((self.socket.clone(), Sieve(self.clone())))
    }
}

/// Takes the probes out of what comes in.
pub(crate) struct Sieve(Port);

impl Sieve {
    /// Whether the datagram is gotatun's.
    fn pass(&self, packet: &Packet, from: SocketAddr) -> bool {
        const INITIATION: u8 = 1;
        const RESPONSE: u8 = 2;
        if probe::is_probe(packet) {
            // Whoever asks, asks again.
            let _ = self.0.probes.try_send((packet.to_vec(), from));
            return false;
        }
        if matches!(packet.first(), Some(&(INITIATION | RESPONSE))) {
            self.0.shaken.notify_one();
        }
        true
    }

    /// An error of the socket is the network's, and passes: gotatun would end for good.
    async fn rest(error: io::Error) {
        tracing::debug!("receiving datagrams: {error}");
        tokio::time::sleep(REST).await;
    }
}

impl UdpRecv for Sieve {
    type RecvManyBuf = <UdpSocket as UdpRecv>::RecvManyBuf;

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        loop {
            match self.0.socket.recv_from(pool).await {
                Ok((packet, from)) if self.pass(&packet, from) => return Ok((packet, from)),
                Ok(_) => {}
                Err(error) => Self::rest(error).await,
            }
        }
    }

    async fn recv_many_from(
        &mut self,
        buffer: &mut Self::RecvManyBuf,
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        loop {
            if let Err(error) = self.0.socket.recv_many_from(buffer, pool, packets).await {
                Self::rest(error).await;
            }
            packets.retain(|(packet, from)| self.pass(packet, *from));
            if !packets.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Who this node is to those who probe it.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Its name.
    pub(crate) name: String,
    /// The stack's key.
    pub(crate) key: Key,
}

/// Asks and answers probes.
pub(crate) struct Prober {
    port: Port,
    identity: watch::Receiver<Option<Arc<Identity>>>,
    questions: Mutex<Questions>,
}

/// Who waits for an answer, by the question's nonce with 0 for the number of the attempt, its last byte.
type Questions = HashMap<Nonce, oneshot::Sender<Answer>>;

/// What an answer says.
struct Answer {
    name: String,
    seen_as: SocketAddr,
    attempt: u8,
}

/// The nonce of that attempt.
fn numbered(nonce: Nonce, attempt: u8) -> Nonce {
    let [rest @ .., _] = nonce;
    let mut numbered = [attempt; 16];
    for (to, from) in numbered.iter_mut().zip(rest) {
        *to = from;
    }
    numbered
}

impl Prober {
    /// Probes through that port, as who the watch says; nobody is answered before it says so.
    pub(crate) fn new(port: Port, identity: watch::Receiver<Option<Arc<Identity>>>) -> Self {
        Self { port, identity, questions: Mutex::default() }
    }

    /// Answers until the port is gone. `asked` hears who asked from where; what it can't take is left out.
    pub(crate) async fn serve(
        &self,
        mut heard: mpsc::Receiver<Datagram>,
        asked: impl Fn(String, SocketAddr),
    ) {
        while let Some((datagram, from)) = heard.recv().await {
            let Some(identity) = self.identity() else { continue };
            match Probe::decode(&datagram, &identity.key) {
                Some(Probe::Ping { nonce, name }) => {
                    let pong = Probe::Pong { nonce, name: identity.name.clone(), seen_as: from };
                    self.send(&pong.encode(&identity.key), from).await;
                    asked(name, from);
                }
                Some(Probe::Pong { nonce, name, seen_as }) => {
                    let [.., attempt] = nonce;
                    if let Some(answer) = self.questions().remove(&numbered(nonce, 0)) {
                        let _ = answer.send(Answer { name, seen_as, attempt });
                    }
                }
                // No answer at all: not even that there is somebody.
                None => {}
            }
        }
    }

    /// Asks who is at that address.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] if nobody who knows the key answers within the time.
    pub(crate) async fn ask(&self, place: SocketAddr, timeout: Duration) -> Result<Pong, Error> {
        let identity = self.identity().ok_or(Error::NoAnswer(place))?;
        let nonce = numbered(keep::random()?, 0);
        let mut answer = self.question(nonce).ok_or(Error::NoAnswer(place))?;
        let _question = Question { prober: self, nonce };
        let begun = Instant::now();
        let asking = async {
            for attempt in 0..=u8::MAX {
                let name = identity.name.clone();
                let ping = Probe::Ping { nonce: numbered(nonce, attempt), name };
                self.send(&ping.encode(&identity.key), place).await;
                tokio::select! {
                    answer = &mut answer => return answer.ok(),
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
            None
        };
        match tokio::time::timeout(timeout, asking).await {
            Ok(Some(Answer { name, seen_as, attempt })) => {
                let rtt = begun.elapsed().saturating_sub(AGAIN * u32::from(attempt));
                Ok(Pong { name, seen_as, rtt })
            }
            _ => Err(Error::NoAnswer(place)),
        }
    }

    fn question(&self, nonce: Nonce) -> Option<oneshot::Receiver<Answer>> {
        let mut questions = self.questions();
        if questions.len() >= QUESTIONS {
            return None;
        }
        let (answer, receiver) = oneshot::channel();
        questions.insert(nonce, answer);
        Some(receiver)
    }

    async fn send(&self, datagram: &[u8], to: SocketAddr) {
        // An address that can't be reached now is as one that doesn't answer.
        if let Err(error) = self.port.socket.socket().send_to(datagram, to).await {
            tracing::trace!("probe to {to}: {error}");
        }
    }

    fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.borrow().clone()
    }

    fn questions(&self) -> std::sync::MutexGuard<'_, Questions> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a question that nobody waits for any more.
struct Question<'a> {
    prober: &'a Prober,
    nonce: Nonce,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.prober.questions().remove(&self.nonce);
    }
}

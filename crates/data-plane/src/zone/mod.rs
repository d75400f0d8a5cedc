//! The DNS zone: programs of this machine that nobody has given an address ask for services by name.
//!
//! It listens on a loopback address, so that nobody else asks, and answers from memory what the last table says.

mod records;
#[cfg(test)]
mod tests;

use crate::plane::{Plane, lock};
use crate::port::cannot;
use crate::task::Task;
use orchestrator::network::plane::{Zone, ZoneReport};
use records::{LARGEST, Records};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Connections at a time; others wait to be accepted.
const CONNECTIONS: usize = 64;
/// How long a connection may be silent (RFC 7766, 6.2.3).
const SILENCE: Duration = Duration::from_secs(5);
/// After a failed accept or receive, for want of descriptors or memory: others end meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// The zone of the table that is served. Changed by [`crate::tables`].
#[derive(Debug, Default)]
pub(crate) struct Owner(Option<Open>);

#[derive(Debug)]
struct Open {
    served: Arc<Served>,
    task: Option<Task>,
}

/// A zone, as those who answer and report see it.
#[derive(Debug)]
pub(crate) struct Served {
    listen: SocketAddr,
    /// `None` where the zone's name is none.
    records: watch::Sender<Option<Arc<Records>>>,
    error: Mutex<Option<String>>,
    answered: AtomicU64,
}

impl Served {
    pub(crate) fn report(&self) -> ZoneReport {
        ZoneReport {
            address: self.listen.to_string(),
            error: lock(&self.error).clone(),
            answered: self.answered.load(Relaxed),
        }
    }

    fn answer(&self, plane: &Plane, message: &[u8]) -> Option<Vec<u8>> {
        let records = self.records.borrow().clone()?;
        let answer = records.answer(message)?;
        self.answered.fetch_add(1, Relaxed);
        plane.counted();
        Some(answer)
    }
}

impl Owner {
    /// Serves the zone of a table with that version from now on, or none.
    pub(crate) async fn serve(&mut self, plane: &Arc<Plane>, zone: Option<&Zone>, version: u64) {
        let stays = |open: &Open| zone.is_some_and(|zone| zone.listen == open.served.listen);
        if let Some(task) = self.0.take_if(|open| !stays(open)).and_then(|open| open.task) {
            task.end().await;
        }
        let Some(zone) = zone else {
            *lock(&plane.zone) = None;
            return;
        };
        let records = Records::new(zone, version).map(Arc::new);
        match &self.0 {
            Some(open) => drop(open.served.records.send_replace(records)),
            None => {
                let served = Arc::new(Served {
                    listen: zone.listen,
                    records: watch::Sender::new(records),
                    error: Mutex::default(),
                    answered: AtomicU64::default(),
                });
                *lock(&plane.zone) = Some(served.clone());
                self.0 = Some(Open { served, task: None });
            }
        }
        self.open(plane).await;
    }

    /// Whether it is to be asked, and can't be.
    pub(crate) fn lacks(&self) -> bool {
        self.0.as_ref().is_some_and(|open| open.task.is_none())
    }

    /// Listens, if it doesn't yet.
    pub(crate) async fn open(&mut self, plane: &Arc<Plane>) {
        let Some(open) = self.0.as_mut().filter(|open| open.task.is_none()) else { return };
        let listen = open.served.listen;
        let error = match bind(listen).await {
            Ok((udp, tcp)) => {
                open.task = Some(Task::spawn(run(plane.clone(), open.served.clone(), udp, tcp)));
                None
            }
            Err(why) => Some(why),
        };
        let mut before = lock(&open.served.error);
        if *before != error {
            *before = error;
            drop(before);
            plane.changed();
        }
    }
}

/// Opens both, or says why that isn't possible, for people.
async fn bind(listen: SocketAddr) -> Result<(UdpSocket, TcpListener), String> {
    let tcp = match crate::forward::listener::bind(listen) {
        Ok(tcp) => tcp,
        Err(error) => return Err(cannot(listen, error, orchestrator::node::listening).await),
    };
    match UdpSocket::bind(listen).await {
        Ok(udp) => Ok((udp, tcp)),
        Err(error) => Err(cannot(listen, error, orchestrator::node::bound).await),
    }
}

/// Answers until it is dropped, with all connections.
async fn run(plane: Arc<Plane>, served: Arc<Served>, udp: UdpSocket, tcp: TcpListener) {
    tokio::join!(datagrams(&plane, &served, &udp), connections(&plane, &served, &tcp));
}

async fn datagrams(plane: &Plane, served: &Served, socket: &UdpSocket) {
    let mut buffer = [0; LARGEST as usize];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let message = buffer.get(..length).unwrap_or_default();
                if let Some(answer) = served.answer(plane, message) {
                    // Whoever is gone has no use for it.
                    let _ = socket.send_to(&answer, from).await;
                }
            }
            // The same of an answer before this.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                tracing::warn!(%error, "a question can't be received");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connections(plane: &Arc<Plane>, served: &Arc<Served>, listener: &TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        // Never closed.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (plane, served) = (plane.clone(), served.clone());
                open.spawn(async move {
                    // An error is the end of the connection.
                    let _ = connection(&plane, &served, stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
        while open.try_join_next().is_some() {}
    }
}

/// Questions and answers, each behind its length in two bytes (RFC 1035, 4.2.2).
async fn connection(plane: &Plane, served: &Served, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let asked = tokio::time::timeout(SILENCE, async {
            let length = stream.read_u16().await?;
            let mut message = vec![0; length.into()];
            stream.read_exact(&mut message).await?;
            Ok::<_, io::Error>(message)
        });
        let Some(mut answer) = served.answer(plane, &asked.await??) else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        answer.splice(..0, length.to_be_bytes());
        tokio::time::timeout(SILENCE, stream.write_all(&answer)).await??;
    }
}

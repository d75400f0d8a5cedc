//! An interface of the kernel's: what any program of this machine sends to another node's interface goes through the same
//! tunnels as streams do. It takes root, or rather CAP_NET_ADMIN.

mod kernel;

use crate::config::{Error, Interface as Config};
use crate::route::{Hint, Routes};
use crate::stack::MTU;
use gotatun::packet::{Packet, PacketBufPool};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Packets that wait for the kernel to take them; what doesn't fit is lost.
const PACKETS: usize = 1024;
/// Packets that are taken at a time.
const BATCH: usize = 128;
/// Bytes of a buffer that is used again.
const POOLED: usize = 2048;
/// What the kernel tells of a device: a packet, or that somebody has removed it.
const TELLS: Interest = Interest::READABLE.add(Interest::ERROR);

/// Where packets of this machine's interface go.
pub(crate) struct Way {
    pub(crate) routes: watch::Receiver<Arc<Routes>>,
    pub(crate) outgoing: mpsc::Sender<Packet>,
    pub(crate) hints: mpsc::Sender<Hint>,
}

/// An interface that is there. It is gone once this has ended, or soon after it was dropped.
#[derive(Debug)]
pub(crate) struct Interface {
    /// As what it was made.
    pub(crate) config: Config,
    /// Packets for this machine.
    pub(crate) to: mpsc::Sender<Packet>,
    tasks: JoinSet<()>,
}

impl Interface {
    /// Makes it.
    ///
    /// # Errors
    /// [`Error::Interface`].
    pub(crate) fn make(config: &Config, way: Way) -> Result<Self, Error> {
        let failed = |source| Error::Interface { name: config.name.clone(), remedy: remedy(&source), source };
        if config.name.is_empty() || config.name.len() > kernel::NAME {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let made = kernel::make(&config.name, config.address, config.prefix, MTU);
        let device = made.and_then(watched).map_err(failed)?;
        let (to, packets) = mpsc::channel(PACKETS);
        let (mut tasks, name) = (JoinSet::new(), config.name.clone());
        // Both directions end together: one whose device somebody removed is no longer there.
        tasks.spawn(async move {
            tokio::select! {
                () = read(&device, way) => {}
                () = write(&device, packets, &name) => {}
            }
        });
        Ok(Self { config: config.clone(), to, tasks })
    }

    /// Removes it.
    pub(crate) async fn end(mut self) {
        self.tasks.shutdown().await;
    }

    /// Whether it is still there.
    pub(crate) fn is_there(&self) -> bool {
        !self.to.is_closed()
    }
}

fn watched(device: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "unsound for what closes its descriptor behind tokio's back, which an OwnedFd doesn't; its successor is unsafe"
    )]
    AsyncFd::with_interest(device, TELLS)
}

/// What is to be done about it.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "it takes root: `sudo: true` on this node, or leave `interface:` out"
        }
        io::ErrorKind::NotFound => {
            "this machine has no TUN devices: `modprobe tun`, or leave `interface:` out"
        }
        io::ErrorKind::ResourceBusy => "there is one of that name: choose another one",
        _ => "choose another name, or leave `interface:` out",
    }
}

/// Gives the kernel what came out of the tunnels, until that or the device is gone.
async fn write(device: &AsyncFd<OwnedFd>, mut packets: mpsc::Receiver<Packet>, name: &str) {
    while let Some(packet) = packets.recv().await {
        match rustix::io::write(device.get_ref(), &packet) {
            // No room, no memory, nothing that the kernel would have: lost, as on any network.
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INVAL | rustix::io::Errno::NOMEM) => {}
            // It is down for the moment.
            Err(rustix::io::Errno::IO | rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::warn!("the interface {name} is gone: {error}");
                return;
            }
        }
    }
}

/// Takes what the kernel sends, until the device is gone.
async fn read(device: &AsyncFd<OwnedFd>, way: Way) {
    let pool = PacketBufPool::<POOLED>::new(BATCH);
    loop {
        let Ok(mut ready) = device.ready(TELLS).await else { return };
        for _ in 0..BATCH {
            let mut packet = pool.get();
            // A byte more than it may have: somebody may have raised the device's.
            packet.buf_mut().resize(usize::from(MTU) + 1, 0);
            match rustix::io::read(device.get_ref(), &mut packet[..]) {
                Ok(length) if length > usize::from(MTU) => continue,
                Ok(length) => packet.truncate(length),
                Err(rustix::io::Errno::AGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => {
                    tracing::debug!("an interface: {error}");
                    return;
                }
            }
            let routes = Arc::clone(&way.routes.borrow());
            let (goes, hint) = routes.outbound_of_kernel(&mut packet);
            if let Some(hint) = hint {
                // What it can't take is told again after the next look.
                let _ = way.hints.try_send(hint);
            }
            if goes && way.outgoing.send(packet).await.is_err() {
                return;
            }
        }
    }
}

//! gotatun's device, and what is done with it.

use crate::config::Error;
use crate::route::{Inlet, Outlet};
use crate::udp::Port;
use gotatun::device::{Device, DeviceBuilder, Peer};
use gotatun::x25519::{PublicKey, StaticSecret};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

type Wires = Device<(Port, Inlet, Outlet)>;

/// All tunnels of this node.
pub(super) struct Wire(Wires);

/// One tunnel, as it should be.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// The other end's key.
    pub(super) key: PublicKey,
    /// Where it is, if known.
    pub(super) endpoint: Option<SocketAddr>,
    /// What may come from it and go to it.
    pub(super) allowed: Vec<Ipv4Addr>,
    /// Seconds between packets that keep the way open.
    pub(super) keep_alive: Option<u16>,
}

impl Spec {
    fn peer(&self) -> Peer {
        let mut peer =
            Peer::new(self.key).with_allowed_ips(self.allowed.iter().map(|ip| IpAddr::V4(*ip).into()));
        peer.endpoint = self.endpoint;
        peer.keepalive = self.keep_alive;
        peer
    }
}

/// One tunnel, as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Where the other end is.
    pub(super) endpoint: Option<SocketAddr>,
    /// How long ago the last handshake was.
    pub(super) handshake: Option<Duration>,
    /// Bytes received.
    pub(super) rx: u64,
    /// Bytes sent.
    pub(super) tx: u64,
}

/// A change of the tunnels, carried out at once.
#[derive(Default)]
pub(super) struct Change {
    /// Another key for this node.
    pub(super) secret: Option<StaticSecret>,
    /// Tunnels that end.
    pub(super) remove: Vec<PublicKey>,
    /// Tunnels that begin.
    pub(super) add: Vec<Spec>,
    /// Tunnels that stay, with other addresses or keep-alives.
    pub(super) modify: Vec<Spec>,
}

impl Wire {
    /// Tunnels without another end yet.
    pub(super) async fn start(
        port: Port,
        inlet: Inlet,
        outlet: Outlet,
        secret: StaticSecret,
    ) -> Result<Self, Error> {
        let device = DeviceBuilder::new()
            .with_udp(port)
            .with_ip_pair(inlet, outlet)
            .with_private_key(secret)
            .build()
            .await
            .map_err(failed)?;
        // Without a peer it doesn't listen, unless it is told that its peers have changed.
        device.clear_peers().await.map_err(failed)?;
        Ok(Self(device))
    }

    /// Stops all of them.
    pub(super) async fn stop(&self) {
        self.0.suspend().await;
    }

    /// Carries out a change.
    pub(super) async fn change(&self, change: Change) -> Result<(), Error> {
        let changed = self.0.write(async |device| {
            for key in &change.remove {
                device.remove_peer(key).await;
            }
            if let Some(secret) = change.secret {
                device.set_private_key(secret).await;
            }
            for spec in &change.modify {
                device
                    .modify_peer(&spec.key, |peer| {
                        peer.clear_allowed_ips();
                        peer.add_allowed_ips(spec.allowed.iter().map(|ip| IpAddr::V4(*ip)));
                        peer.set_keepalive(spec.keep_alive);
                    })
                    .await;
            }
            for spec in &change.add {
                device.add_peer(spec.peer());
            }
        });
        changed.await.map_err(failed)
    }

    /// Has a tunnel's packets go there.
    pub(super) async fn aim(&self, key: &PublicKey, endpoint: SocketAddr) -> Result<(), Error> {
        let aimed = self
            .0
            .write(async |device| device.modify_peer(key, |peer| peer.set_endpoint(Some(endpoint))).await);
        aimed.await.map(|_| ()).map_err(failed)
    }

    /// How they are, by the other end's key.
    pub(super) async fn look(&self) -> HashMap<[u8; 32], Seen> {
        let peers = self.0.peers().await;
        let seen = peers.into_iter().map(|found| {
            let seen = Seen {
                endpoint: found.peer.endpoint,
                handshake: found.stats.last_handshake,
                rx: found.stats.rx_bytes as u64,
                tx: found.stats.tx_bytes as u64,
            };
            (found.peer.public_key.to_bytes(), seen)
        });
        seen.collect()
    }

    /// Handshakes, unless there is a session. gotatun itself would wait for ever.
    pub(super) async fn shake(&self, key: &PublicKey, timeout: Duration) -> bool {
        matches!(tokio::time::timeout(timeout, self.0.force_handshake(key)).await, Ok(Ok(())))
    }
}

fn failed(error: gotatun::device::Error) -> Error {
    Error::Device(Box::new(error))
}

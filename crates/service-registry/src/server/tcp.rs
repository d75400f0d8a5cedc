//! A TCP listener, whose connections go through an [`Entrance`](super::Entrance).

use super::ListenError;
use async_net::{TcpListener as Listener, TcpStream};
use std::io;
use std::net::SocketAddr;

/// Listens on an address. What it accepts is served by [`super::Server::serve_tcp`] only, behind TLS and authentication.
#[derive(Debug)]
pub struct TcpListener {
    listener: Listener,
    address: SocketAddr,
}

impl TcpListener {
    /// Listens there; port 0 is one that is free.
    ///
    /// # Errors
    ///
    /// The address isn't this machine's, is in use, or not allowed.
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Tcp { address, source };
        let listener = Listener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.listener.accept().await?;
        // Small messages, each of which somebody waits for. Err: it is gone already, as its first read will say.
        let _ = stream.set_nodelay(true);
        Ok((stream, peer))
    }
}

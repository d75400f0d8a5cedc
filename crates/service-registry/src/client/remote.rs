//! The way to a server on TCP.

use super::{Client, ClientError, ClientOptions, Driver, greet, open};
use crate::access::Secret;
use crate::tls::{TlsClient, for_people};
use async_net::TcpStream;
use futures_rustls::TlsConnector;
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Where a server listens on TCP, whom to believe there, and what to show.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Its name or address; an IPv6 address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Which servers are believed, and the client's own certificate.
    pub tls: TlsClient,
    /// The client's token, unless it has a certificate.
    pub token: Option<Secret>,
}

/// As it stands in an address: `host:port`, `[::1]:port`.
impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Client {
    /// Connects to a server on TCP: looking up its name, TLS and `hello` together take no longer than
    /// [`ClientOptions::connect_timeout`].
    ///
    /// # Errors
    ///
    /// [`ClientError::ConnectTcp`] ([`ClientError::is_absent`] if nobody listens there), [`ClientError::Tls`],
    /// [`ClientError::Refused`], and those of [`Client::connect`].
    pub async fn connect_tls(
        remote: &Remote,
        options: &ClientOptions,
    ) -> Result<(Self, Driver), ClientError> {
        let address = remote.to_string();
        let greeted = async {
            let failed = |source: io::Error| ClientError::ConnectTcp {
                address: address.clone(),
                source: Arc::new(source),
            };
            let name = ServerName::try_from(remote.host.clone())
                .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
            let stream = TcpStream::connect((remote.host.as_str(), remote.port)).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            let connector = TlsConnector::from(remote.tls.config());
            let stream = connector.connect(name, stream).await.map_err(|source| ClientError::Tls {
                address: address.clone(),
                source: Arc::new(for_people(source)),
            })?;
            let uri = format!("wss://{address}/");
            greet(open(stream, &uri, remote.token.as_ref(), options).await?, options).await
        };
        Self::started(greeted, options).await
    }
}

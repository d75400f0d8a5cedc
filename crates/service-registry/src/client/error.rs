//! What can go wrong on the way to a server.

use crate::wire::RpcError;
use async_tungstenite::tungstenite;
use futures_util::task::SpawnError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Why a call has no result.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The socket can't be connected to.
    #[error("can't connect to {}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The address can't be connected to.
    #[error("can't connect to {address}")]
    ConnectTcp {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The other end isn't trusted, or speaks no TLS.
    #[error("no TLS with {address}")]
    Tls {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The server doesn't let this client in.
    #[error("the server refused the connection ({status}): {reason}")]
    Refused {
        /// The status of its HTTP answer: 401 without a valid token or certificate, 421 for a name that isn't its own.
        status: u16,
        /// What it said.
        reason: String,
    },
    /// The other end is no such server.
    #[error("the handshake with the server failed")]
    Handshake {
        /// Why.
        #[source]
        source: Arc<tungstenite::Error>,
    },
    /// The server speaks another version of the protocol.
    #[error("the server speaks another version of the protocol")]
    Incompatible {
        /// What it said, and which of the two is to be replaced.
        #[source]
        source: RpcError,
    },
    /// The server refused.
    #[error("{method} was refused")]
    Rpc {
        /// The method.
        method: String,
        /// Why.
        #[source]
        source: RpcError,
    },
    /// There was no answer in time.
    #[error("{method} was not answered within {after:?}")]
    TimedOut {
        /// The method.
        method: String,
        /// The time it had.
        after: Duration,
    },
    /// The connection is gone.
    #[error("the connection to the server is closed: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
    /// The request is larger than the server takes; it wasn't sent.
    #[error("{method} needs a message of {size} bytes, the server takes {limit}")]
    TooLarge {
        /// The method.
        method: String,
        /// Bytes of the message.
        size: usize,
        /// What the server takes.
        limit: usize,
    },
    /// The parameters can't be written as JSON.
    #[error("can't write the parameters of {method}")]
    Encode {
        /// The method.
        method: String,
        /// Why.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// The result isn't what was expected.
    #[error("can't understand the answer to {method}")]
    Decode {
        /// The method.
        method: String,
        /// Why.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// The spawner takes no tasks.
    #[error("can't spawn a task for the connection")]
    Spawn(#[source] Arc<SpawnError>),
}

impl ClientError {
    /// Whether nobody listens: there is no socket, or one that was left behind.
    pub fn is_absent(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, Self::Connect { source, .. } | Self::ConnectTcp { source, .. }
            if matches!(source.kind(), NotFound | ConnectionRefused))
    }

    /// The error that the server answered with.
    pub fn rpc(&self) -> Option<&RpcError> {
        match self {
            Self::Rpc { source, .. } | Self::Incompatible { source } => Some(source),
            _ => None,
        }
    }

    /// The code that the server answered with: one of [`crate::wire::code`], or a host's own.
    pub fn code(&self) -> Option<i64> {
        self.rpc().map(|error| error.code)
    }
}

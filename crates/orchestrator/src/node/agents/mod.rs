//! The agents of other nodes: who makes the way to them, and how the link is kept.
//!
//! A service on another node is kept by the agent there, so for the engine here it is a hosted run
//! (`docs/adr/0007-hosted-runs.md`). What is said over the way is the registry's API with the few methods of [`wire`].

mod again;
mod clock;
pub(super) mod copy;
mod keep;
mod link;
pub mod wire;

pub use keep::HEARTBEAT;
pub(super) use link::{Link, Links};
pub use link::{LinkEvent, LinkFact};

use crate::model::Node;
use futures_lite::{AsyncRead, AsyncWrite};
use futures_util::future::BoxFuture;
use indexmap::IndexMap;
use std::net::IpAddr;

/// Makes connections to the agents of other nodes. Every wait in it has a bound.
pub trait Connector: Send + Sync {
    /// Brings up the agent of the node `name` where it isn't, and connects to it. `progress` is told, for people, how that
    /// goes on where it takes its time: `copying the agent, 3 of 9 MiB`.
    fn connect<'a>(
        &'a self,
        nodes: &'a IndexMap<String, Node>,
        name: &'a str,
        progress: &'a (dyn Fn(String) + Send + Sync),
    ) -> BoxFuture<'a, Result<Connection, ConnectFailed>>;
}

/// A way to an agent: its socket, bridged.
pub struct Connection {
    /// What is written reaches the agent; dropping it ends the near end and with it the far one.
    pub stream: Box<dyn Duplex>,
    /// The address by which that node sees this one, where the way is a direct one.
    pub near: Option<IpAddr>,
    /// The address by which this node sees that one, where the way is a direct one.
    pub far: Option<IpAddr>,
}

/// A stream of bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// There is no way to an agent. Nothing is left half made there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node}: {step}: {message}")]
pub struct ConnectFailed {
    /// The node.
    pub node: String,
    /// What was being done: `log in`, `copy the agent`, `start the agent`.
    pub step: &'static str,
    /// What went wrong, for people.
    pub message: String,
    /// What to do about it, for people.
    pub hint: String,
    /// Whether trying again may help without anybody doing something: the host is down, say, rather than its key wrong.
    pub passing: bool,
}

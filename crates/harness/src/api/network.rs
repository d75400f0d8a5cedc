//! `network.*`: how services reach each other.

use orchestrator::supervisor::NetworkStatus;
use serde::{Deserialize, Serialize};

/// `network.show`: nothing → [`ShowResult`].
pub const SHOW: &str = "network.show";

/// `network.rotate-keys`: nothing → [`Rotated`].
pub const ROTATE_KEYS: &str = "network.rotate-keys";

/// `network.down`: nothing → [`Down`].
pub const DOWN: &str = "network.down";

/// Every node makes itself another key for its tunnels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Rotated {
    /// The number of these keys; a node's report has the one that it has made.
    pub epoch: u64,
}

/// The data planes end, until something is started again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Down {
    /// The nodes that had one.
    pub nodes: Vec<String>,
}

/// What is known of virtual addresses, of ways from node to node, and of the data planes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ShowResult {
    /// The project's node, the services that are reached other than at their own address, the nodes that have a data plane,
    /// each pair of them with its way and the evidence, and what data planes have reported last.
    #[cfg_attr(test, schemars(with = "serde_json::Map<String, serde_json::Value>"))]
    pub network: NetworkStatus,
}

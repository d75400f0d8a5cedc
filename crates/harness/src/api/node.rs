//! `node.*`: other machines, as the project's daemon sees them; and what it asks of the agents there.
//!
//! What an agent is asked is defined where it is asked, in [`orchestrator::node::wire`].

pub use orchestrator::node::wire::{
    ASSIGN, AssignParams, CLAIM, Owner, PING, PingParams, Pong, WITHDRAW, WithdrawParams,
};

use jiff::Timestamp;
use orchestrator::model::InstanceName;
use serde::{Deserialize, Serialize};

/// `node.list`: nothing → [`ListResult`].
pub const LIST: &str = "node.list";

/// `node.owner`: nothing → [`Owner`]: as whom this daemon claims agents. For commands that go to agents themselves.
pub const OWNER: &str = "node.owner";

/// `node.drain`: [`DrainParams`] → [`DrainResult`], once it is durable.
pub const DRAIN: &str = "node.drain";

/// `node.retry`: nothing → nothing. Nodes that are lost are tried now, rather than when it is their turn.
pub const RETRY: &str = "node.retry";

/// `node.forget`: [`ForgetParams`] → [`ForgetResult`], once it is durable. Only a node that is lost is forgotten: it isn't tried
/// any more, gets nothing new, and what was there isn't wanted any more. What runs there runs on.
pub const FORGET: &str = "node.forget";

/// Which node is forgotten.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ForgetParams {
    /// The node.
    pub name: String,
}

/// What is left on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ForgetResult {
    /// These may run on there. If something is ever started there again, they are killed before.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub left: Vec<InstanceName>,
}

/// Which node gets nothing new any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DrainParams {
    /// The node.
    pub name: String,
    /// Let it take part again instead.
    #[serde(default)]
    pub off: bool,
}

/// What becomes of what is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DrainResult {
    /// These end there and start elsewhere.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub moving: Vec<InstanceName>,
    /// These are bound to it by `host`, and stay.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub staying: Vec<InstanceName>,
}

/// The nodes of the stack.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ListResult {
    /// In the file's order.
    pub nodes: Vec<NodeInfo>,
}

/// Another machine, as the daemon knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NodeInfo {
    /// Its name in the file.
    pub name: String,
    /// The way to its agent.
    pub state: NodeState,
    /// When it was heard last, or first tried, if it can't be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// What is going on or wrong, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Whether it gets nothing new.
    #[serde(default)]
    pub drained: bool,
    /// How far its clock is ahead of the daemon's, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ahead_ms: Option<i64>,
    /// The error of that, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_uncertain_ms: Option<u64>,
    /// What is there, as far as it is wanted or lives.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub instances: Vec<InstanceName>,
}

/// The way to a node's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Nothing was ever wanted there.
    Unused,
    /// A first way is being made.
    Connecting,
    /// Its agent answers.
    Up,
    /// It was never reached; it is tried again.
    Unreachable,
    /// It was heard before, and isn't now. What runs there runs on.
    Lost,
}

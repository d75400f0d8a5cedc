//! What is asked of an agent, besides what every registry answers. JSON as all of the API.

use crate::model::{InstanceName, Service};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Be mine: the first that is asked of an agent over every connection.
pub const CLAIM: &str = "node.claim";
/// Run this.
pub const ASSIGN: &str = "node.assign";
/// Don't run this any more.
pub const WITHDRAW: &str = "node.withdraw";
/// End if nothing is left to keep, `{if_idle: true}`: a method of every daemon.
pub const END: &str = "daemon.stop";
/// Run the checks of services now, `{names, run_now: true}`, and say how they are: a method of every daemon.
pub const HEALTH: &str = "stack.health";
/// Say that you are there, and what time it is.
pub const PING: &str = "node.ping";

/// The code of the answer to [`ASSIGN`] and [`WITHDRAW`] where a newer run is known already. Any other error says nothing of
/// the run.
pub const OUTDATED: i64 = -32019;

/// Whose daemon steers an agent. What [`CLAIM`] is given; the answer is an empty object. An agent that keeps something for
/// another daemon refuses, and says whose it is: two daemons of one project would undo each other's wishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Owner {
    /// Differs from daemon to daemon, and stays the same over its restarts.
    pub id: String,
    /// For people: `alice@laptop, /home/alice/shop`.
    pub whose: String,
}

/// What [`ASSIGN`] is given. The answer is an empty object, once the wish is safe from a crash; the same again changes nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct AssignParams {
    /// [`Owner::id`] of whoever asks.
    pub owner: String,
    /// The project's name.
    pub project: String,
    /// The instance.
    #[cfg_attr(feature = "openrpc", schemars(with = "String"))]
    pub instance: InstanceName,
    /// The run that the project's daemon gave it, a UUIDv7. One that isn't newer than what is known is refused.
    pub run: String,
    /// The definition, with every hole filled, without dependencies.
    #[cfg_attr(feature = "openrpc", schemars(with = "serde_json::Map<String, serde_json::Value>"))]
    pub service: Arc<Service>,
}

/// What [`WITHDRAW`] is given. The answer is an empty object, once it is safe from a crash; what runs ends after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct WithdrawParams {
    /// [`Owner::id`] of whoever asks.
    pub owner: String,
    /// The instance.
    #[cfg_attr(feature = "openrpc", schemars(with = "String"))]
    pub instance: InstanceName,
    /// The run that was assigned. It, and all before it, are never started again.
    pub run: String,
    /// Kill it, now.
    #[serde(default)]
    pub force: bool,
}

/// What [`PING`] is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct PingParams {
    /// [`Owner::id`] of whoever asks; without one nothing is granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What was answered last over this connection: from then on the agent has [`crate::plan::LEASE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Stamp>,
}

/// A moment of a machine, by a clock that is never set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Stamp {
    /// The machine's boot.
    pub boot: String,
    /// Milliseconds since then, sleep included (CLOCK_BOOTTIME).
    pub ms: u64,
}

/// What [`PING`] answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Pong {
    /// When this was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
    /// The wall clock there, in milliseconds since 1970.
    pub now_ms: i64,
    /// The gateway of the stack's container network there, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
}

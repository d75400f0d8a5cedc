//! Whether an instance is well, as its checks say.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The verdict of an instance's checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum HealthStatus {
    /// Not asked yet, or not often enough to tell.
    Unknown,
    /// Well.
    Healthy,
    /// Not well.
    Unhealthy,
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// The verdict with the answer that it last rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Health {
    /// The verdict.
    pub status: HealthStatus,
    /// Since when it is the verdict.
    pub since: Timestamp,
    /// The last answer, also when it did not change the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<ProbeResult>,
}

/// One answer of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct ProbeResult {
    /// When it came.
    pub at: Timestamp,
    /// Whether it was good.
    pub ok: bool,
    /// What it said: `HTTP 503`, `connection refused`.
    pub message: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

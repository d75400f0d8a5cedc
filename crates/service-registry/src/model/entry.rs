//! All that the registry knows about one instance.

use super::{Endpoint, Execution, Health, Location, State, Status};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One instance. [`Entry::instance`] is the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Entry {
    /// The service that it is an instance of: `web`.
    pub service: String,
    /// Its own name, unique in the registry: `web-1`.
    pub instance: String,
    /// `service` or `task`.
    #[serde(default = "default_role")]
    pub role: String,
    /// Version that runs, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What carries it out.
    #[serde(default)]
    pub execution: Execution,
    /// Where it is.
    #[serde(default)]
    pub location: Location,
    /// Where it can be reached; the first is the main one.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Services that it needs.
    #[serde(default)]
    pub dependencies: Vec<String>,
    /// Its state.
    pub status: Status,
    /// The verdict of its checks; `None` if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Whether it can be used now: running, and healthy where it has a check.
    #[serde(default)]
    pub ready: bool,
    /// How often it was started again by itself.
    #[serde(default)]
    pub restarts: u32,
    /// Quick deaths in a row; what backoff counts.
    #[serde(default)]
    pub deaths: u32,
    /// What of its configuration differs from what it runs with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stale: Vec<String>,
    /// It has ended, and is started again without anybody asking for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub returning: bool,
    /// When its node was heard last, if it can't be reached now: everything else is as it was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_since: Option<Timestamp>,
    /// On the agent of another node: the run that the project's daemon gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<String>,
    /// Labels for people and filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Position in the file; listings are sorted by it, then by name.
    #[serde(default)]
    pub order: u32,
    /// When it became known. Set by the registry.
    #[serde(default)]
    pub created_at: Timestamp,
    /// When anything of it last changed. Set by the registry.
    #[serde(default)]
    pub updated_at: Timestamp,
    /// The registry's revision of that change. Set by the registry.
    #[serde(default)]
    pub revision: u64,
}

fn default_role() -> String {
    "service".to_owned()
}

impl Entry {
    /// A registered instance of `service`, with nothing else known about it.
    pub fn new(service: impl Into<String>, instance: impl Into<String>, now: Timestamp) -> Self {
        Self {
            service: service.into(),
            instance: instance.into(),
            role: default_role(),
            version: None,
            execution: Execution::None,
            location: Location::Local,
            endpoints: Vec::new(),
            dependencies: Vec::new(),
            status: Status::new(State::Registered, now),
            health: None,
            ready: false,
            restarts: 0,
            deaths: 0,
            stale: Vec::new(),
            returning: false,
            lost_since: None,
            assignment: None,
            labels: BTreeMap::new(),
            order: 0,
            created_at: now,
            updated_at: now,
            revision: 0,
        }
    }

    /// Whether it says the same as `other`, apart from the fields that the registry sets.
    pub fn same_content(&self, other: &Self) -> bool {
        // Spelled out so that a new field can't be forgotten.
        let Self {
            service,
            instance,
            role,
            version,
            execution,
            location,
            endpoints,
            dependencies,
            status,
            health,
            ready,
            restarts,
            deaths,
            stale,
            returning,
            lost_since,
            assignment,
            labels,
            order,
            created_at: _,
            updated_at: _,
            revision: _,
        } = self;
        *service == other.service
            && *instance == other.instance
            && *role == other.role
            && *version == other.version
            && *execution == other.execution
            && *location == other.location
            && *endpoints == other.endpoints
            && *dependencies == other.dependencies
            && *status == other.status
            && *health == other.health
            && *ready == other.ready
            && *restarts == other.restarts
            && *deaths == other.deaths
            && *stale == other.stale
            && *returning == other.returning
            && *lost_since == other.lost_since
            && *assignment == other.assignment
            && *labels == other.labels
            && *order == other.order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Exit, HealthStatus, ProbeResult, Reason, ReasonCode, Scope};

    fn full() -> Entry {
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut entry = Entry::new("web", "web-1", at(1_700_000_000));
        entry.version = Some("1.2.3".into());
        entry.execution = Execution::Process { pid: Some(42), run: Some("r1".into()) };
        entry.location = Location::Node("eu-1".into());
        entry.endpoints = vec![Endpoint {
            name: Some("http".into()),
            address: "127.0.0.1".into(),
            port: 8080,
            protocol: "tcp".into(),
            scope: Scope::ContainerNetwork,
        }];
        entry.dependencies = vec!["db".into()];
        entry.status = Status {
            state: State::Failed,
            since: at(1_700_000_001),
            reason: Some(Reason::new(ReasonCode::GaveUp, "gave up after 5 tries")),
            exit: Some(Exit::with_code(3)),
        };
        entry.health = Some(Health {
            status: HealthStatus::Unhealthy,
            since: at(1_700_000_002),
            last: Some(ProbeResult {
                at: at(1_700_000_003),
                ok: false,
                message: "HTTP 503".into(),
                duration_ms: 7,
            }),
        });
        entry.stale = vec!["args".into()];
        entry.labels.insert("team".into(), "shop".into());
        entry.revision = 9;
        entry
    }

    /// What an entry looks like on the wire and in stores that exist: change it and old state can't be read.
    #[test]
    fn an_entry_on_the_wire() {
        let sample = include_str!("../../samples/entry-v1.json");
        assert_eq!(serde_json::to_string_pretty(&full()).unwrap(), sample.trim_end());
        assert_eq!(serde_json::from_str::<Entry>(sample).unwrap(), full());
    }

    #[test]
    fn an_entry_with_only_what_is_needed_can_be_read() {
        let text = r#"{"service":"web","instance":"web-1","status":{"state":"running","since":"2026-11-23T10:00:00Z"},
            "execution":{"kind":"hologram","lamps":3},"new_field":1}"#;
        let entry: Entry = serde_json::from_str(text).unwrap();
        assert_eq!(entry.execution, Execution::Unknown);
        assert_eq!((entry.role.as_str(), entry.location, entry.health), ("service", Location::Local, None));
    }

    #[test]
    fn bookkeeping_is_not_content() {
        let mut other = full();
        other.revision += 1;
        other.updated_at = Timestamp::UNIX_EPOCH;
        assert!(full().same_content(&other));
        other.ready = true;
        assert!(!full().same_content(&other));
    }
}

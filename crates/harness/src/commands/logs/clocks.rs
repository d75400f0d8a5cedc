//! Times of other nodes, as this machine's clock would have had them.

use crate::api::node::{self, ListResult, NodeInfo};
use crate::connect;
use crate::project::Project;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// How far nodes' clocks are ahead of this machine's, where that is known for sure.
#[derive(Clone, Debug, Default)]
pub(super) struct Clocks(BTreeMap<String, Ahead>);

/// How far a clock is ahead of this machine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ahead(SignedDuration);

impl Clocks {
    /// As the project's daemon has measured them last. Where none answers, nothing is known.
    pub(super) fn of(project: &Project) -> Self {
        let listed = connect::block_on(async |executor| {
            let Some(daemon) = connect::existing(executor, project).await? else { return Ok(Vec::new()) };
            let ListResult { nodes } = daemon.call(node::LIST, &serde_json::json!({})).await?;
            Ok(nodes)
        });
        Self::from_nodes(&listed.unwrap_or_default())
    }

    pub(super) fn from_nodes(nodes: &[NodeInfo]) -> Self {
        let surely = |info: &NodeInfo| {
            let (ahead, uncertain) = (info.clock_ahead_ms?, info.clock_uncertain_ms?);
            let differs = ahead.unsigned_abs() > uncertain;
            differs.then(|| (info.name.clone(), Ahead(SignedDuration::from_millis(ahead))))
        };
        Self(nodes.iter().filter_map(surely).collect())
    }

    pub(super) fn of_node(&self, node: &str) -> Ahead {
        self.0.get(node).copied().unwrap_or_default()
    }
}

impl Ahead {
    /// The time here when it was `there` by that clock.
    pub(super) fn here(self, there: Timestamp) -> Timestamp {
        there.checked_sub(self.0).unwrap_or(there)
    }

    /// What that clock says when it is `here` by this one.
    pub(super) fn there(self, here: Timestamp) -> Timestamp {
        here.checked_add(self.0).unwrap_or(here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::node::NodeState;

    #[test]
    fn a_clock_that_surely_differs_is_corrected_both_ways() {
        let node = |name: &str, clock: Option<(i64, u64)>| NodeInfo {
            name: name.into(),
            state: NodeState::Lost,
            since: None,
            message: String::new(),
            drained: false,
            clock_ahead_ms: clock.map(|(ahead, _)| ahead),
            clock_uncertain_ms: clock.map(|(_, uncertain)| uncertain),
            instances: Vec::new(),
        };
        let clocks = Clocks::from_nodes(&[
            node("fast", Some((3_600_000, 5))),
            node("slow", Some((-3_600_000, 5))),
            node("right", Some((4, 5))),
            node("unknown", None),
        ]);
        let noon: Timestamp = "2026-12-01T12:00:00.000000001Z".parse().unwrap();
        for (name, there) in [
            ("fast", "2026-12-01T13:00:00.000000001Z"),
            ("slow", "2026-12-01T11:00:00.000000001Z"),
            ("right", "2026-12-01T12:00:00.000000001Z"),
            ("unknown", "2026-12-01T12:00:00.000000001Z"),
        ] {
            let ahead = clocks.of_node(name);
            assert_eq!(ahead.there(noon).to_string(), there, "{name}");
            assert_eq!(
                ahead.here(ahead.there(noon)),
                noon,
                "{name}: to the nanosecond, for a log that goes on"
            );
        }
        assert_eq!(clocks.of_node("fast").there(Timestamp::MAX), Timestamp::MAX);
    }
}

//! Which ways to a node worked, so that the next connection begins with one that does. Pure: the time is passed in.

use orchestrator::network::plane::{Way, WayReport};
use std::collections::BTreeMap;
use std::time::Duration;

/// For how long a way that failed comes last; doubles with each failure after that.
pub(crate) const AVOIDED: Duration = Duration::from_secs(2);
/// The longest that it does.
pub(crate) const AVOIDED_LONGEST: Duration = Duration::from_secs(60);

/// What is known of the ways to all nodes.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    known: BTreeMap<String, BTreeMap<Way, Known>>,
}

#[derive(Debug, Default)]
struct Known {
    works: Option<bool>,
    evidence: String,
    rtt_us: Option<u64>,
    avoided: Option<Avoided>,
}

/// A way that comes last for a while.
#[derive(Clone, Copy, Debug)]
struct Avoided {
    until: Duration,
    length: Duration,
    /// Whether somebody was given it to find out.
    on_trial: bool,
}

impl Memory {
    /// The ways in the order in which to try them: those that didn't fail lately as they stand in the table, then the
    /// others. A way whose time is over is given to one caller; the others go on avoiding it until that one has told.
    pub(crate) fn order(&mut self, node: &str, ways: &[Way], now: Duration) -> Vec<Way> {
        let mut first = Vec::new();
        let mut last = Vec::new();
        let mut known = self.known.get_mut(node);
        for way in ways {
            let avoided = known.as_mut().and_then(|ways| ways.get_mut(way)?.avoided.as_mut());
            match avoided {
                Some(avoided) if now < avoided.until => last.push(way.clone()),
                Some(avoided) => {
                    *avoided = Avoided { until: now + avoided.length, on_trial: true, ..*avoided };
                    first.push(way.clone());
                }
                None => first.push(way.clone()),
            }
        }
        first.append(&mut last);
        first
    }

    /// The way worked. Returns whether that is news.
    pub(crate) fn worked(&mut self, node: &str, way: &Way, evidence: String, rtt_us: Option<u64>) -> bool {
        let known = self.entry(node, way);
        let news = known.works != Some(true);
        *known = Known { works: Some(true), evidence, rtt_us: rtt_us.or(known.rtt_us), avoided: None };
        news
    }

    /// The way failed. Returns whether that is news.
    pub(crate) fn failed(&mut self, node: &str, way: &Way, why: String, now: Duration) -> bool {
        let known = self.entry(node, way);
        let news = known.works != Some(false) || known.evidence != why;
        let avoided = match known.avoided {
            // Several that were under way at once fail together: that is one failure.
            Some(avoided) if now < avoided.until && !avoided.on_trial => avoided,
            before => {
                let length = before.map_or(AVOIDED, |before| (before.length * 2).min(AVOIDED_LONGEST));
                Avoided { until: now + length, length, on_trial: false }
            }
        };
        *known = Known { works: Some(false), evidence: why, rtt_us: None, avoided: Some(avoided) };
        news
    }

    /// What stood in the way is gone: it is as good as any other.
    pub(crate) fn forgive(&mut self, node: &str, way: &Way) {
        if let Some(known) = self.known.get_mut(node).and_then(|ways| ways.get_mut(way)) {
            known.avoided = None;
        }
    }

    /// Forgets the nodes and ways that `keep` doesn't name.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str, &Way) -> bool) {
        self.known.retain(|node, ways| {
            ways.retain(|way, _| keep(node, way));
            !ways.is_empty()
        });
    }

    /// What is known of a way.
    pub(crate) fn report(&self, node: &str, way: &Way) -> WayReport {
        let known = self.known.get(node).and_then(|ways| ways.get(way));
        WayReport {
            way: way.clone(),
            works: known.and_then(|known| known.works),
            evidence: known.map(|known| known.evidence.clone()).unwrap_or_default(),
            rtt_us: known.and_then(|known| known.rtt_us),
        }
    }

    fn entry(&mut self, node: &str, way: &Way) -> &mut Known {
        self.known.entry(node.to_owned()).or_default().entry(way.clone()).or_default()
    }
}

#[cfg(test)]
mod tests;

//! What was current when, of one package.

use super::hash::Digest;
use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};

/// The version of the format that is written.
pub const SCHEMA: u32 = 1;
/// So many records are kept; older ones are forgotten.
pub const MAX_RECORDS: usize = 100;

/// The history of a package, as its file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Oldest first.
    pub records: Vec<Record>,
}

/// A switch to a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What became current.
    pub version: Version,
    /// What was current before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<Version>,
    /// When.
    pub at: Timestamp,
    /// By which deed.
    pub action: Action,
    /// The digest of the package, where one was deployed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// How a version became current.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It was deployed.
    Deploy,
    /// It was gone back to.
    Rollback,
    /// It was found to be current: who switched was killed before it could say so.
    Found,
}

impl Default for History {
    fn default() -> Self {
        Self { schema: SCHEMA, records: Vec::new() }
    }
}

impl History {
    /// The version that was said to be current last.
    pub fn current(&self) -> Option<&Version> {
        self.records.last().map(|record| &record.version)
    }

    /// What `version` replaced when it was deployed: where a rollback from it leads. So two rollbacks go back by two.
    pub fn before(&self, version: &Version) -> Option<&Version> {
        let deployed = |record: &&Record| record.version == *version && record.action != Action::Rollback;
        let record = self.records.iter().rev().find(deployed)?;
        record.previous.as_ref().filter(|previous| *previous != version)
    }

    /// Adds a switch.
    pub fn add(&mut self, version: Version, action: Action, at: Timestamp, digest: Option<Digest>) {
        let previous = self.current().cloned();
        self.records.push(Record { version, previous, at, action, digest });
        let over = self.records.len().saturating_sub(MAX_RECORDS);
        self.records.drain(..over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rollbacks_go_back_by_one_each() {
        let version = |text: &str| Version::parse(text).unwrap();
        let mut history = History::default();
        let mut add = |text, action| history.add(version(text), action, Timestamp::UNIX_EPOCH, None);
        add("1.0.0", Action::Deploy);
        add("2.0.0", Action::Deploy);
        add("3.0.0", Action::Found);
        add("2.0.0", Action::Rollback);
        let before = |text: &str| history.before(&version(text)).map(ToString::to_string);
        assert_eq!(before("3.0.0").as_deref(), Some("2.0.0"));
        assert_eq!(before("2.0.0").as_deref(), Some("1.0.0"));
        assert_eq!(before("1.0.0"), None);
        assert_eq!(history.current(), Some(&version("2.0.0")));
        for number in 0..300 {
            history.add(Version::new(number, 0, 0), Action::Deploy, Timestamp::UNIX_EPOCH, None);
        }
        assert_eq!(history.records.len(), MAX_RECORDS);
        let text = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
    }

    #[test]
    fn what_was_written_is_read() {
        let sample = include_str!("../../samples/package-history-v1.json");
        let history: History = serde_json::from_str(sample).unwrap();
        assert_eq!(history.records.len(), 3);
        assert_eq!(serde_json::to_string_pretty(&history).unwrap(), sample.trim_end());
    }
}

//! What is on disk about a run that somebody else keeps: an engine's container, a unit, what was joined.
//!
//! Beside the keepers' records, in the same folder: `instances/NAME-N/RUN.place.json`. It says where the run's log is
//! and how it ended, so that `logs` and `status` work without a daemon, and a new daemon knows what the last one saw.

use crate::model::{InstanceName, Node};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use service_registry::model::{Execution, Exit};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The format. A newer one is not read.
pub const HOSTED_VERSION: u32 = 1;

/// The ending of a record's file, behind the run's id.
const ENDING: &str = ".place.json";

/// A run that somebody else keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostedRecord {
    /// [`HOSTED_VERSION`] when it was written.
    pub version: u32,
    /// The instance.
    pub instance: InstanceName,
    /// The run.
    pub run: String,
    /// What carries it out.
    pub execution: Execution,
    /// Where what it says is kept.
    pub log: LogSource,
    /// When it was started.
    pub started_at: Timestamp,
    /// How and when it ended; `None` as far as anybody has seen.
    #[serde(default)]
    pub ended: Option<Ended>,
    /// The machine's boot in which it was started: what is told after another one isn't about this run.
    #[serde(default)]
    pub boot: Option<String>,
}

/// How and when a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// How.
    pub exit: Exit,
    /// When.
    pub at: Timestamp,
    /// Whether somebody wanted it to end.
    #[serde(default)]
    pub asked: bool,
}

/// Where the log of a run is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum LogSource {
    /// In the run's log file, as a keeper would write it.
    File,
    /// The container engine has it.
    Container {
        /// The container's id.
        id: String,
    },
    /// The engine has it, for each container of a Compose project.
    Compose {
        /// The project's name.
        project: String,
    },
    /// The journal has it.
    Journal {
        /// The unit.
        unit: String,
        /// systemd's id of this run of it.
        invocation: Option<String>,
    },
    /// A command of the user's prints it.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
        /// The folder to run it in.
        folder: PathBuf,
    },
    /// The agent of another node has it.
    Node {
        /// The node.
        node: String,
        /// It and the nodes on the way to it, as they were then.
        way: IndexMap<String, Node>,
    },
    /// Nobody keeps it.
    Nowhere {
        /// Why, for people.
        why: String,
    },
}

impl LogSource {
    /// Of what isn't up yet.
    pub(super) fn not_up() -> Self {
        Self::Nowhere { why: "it isn't up yet".into() }
    }
}

/// This boot of the machine, as the kernel names it.
pub(super) fn boot_id() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

impl HostedRecord {
    /// Whether it was never seen to be up.
    pub(super) fn is_not_up(&self) -> bool {
        self.log == LogSource::not_up()
    }

    /// Whether the machine was restarted since.
    pub fn is_of_another_boot(&self) -> bool {
        self.boot.is_some() && self.boot != boot_id()
    }

    /// Says of a run that ended unseen that its log was saved.
    pub(super) fn note_saved(state: &Path, instance: &InstanceName, run: &str, exit: Exit) {
        let Some(mut record) = Self::read(state, instance, run) else { return };
        record.log = LogSource::File;
        record.execution = record.execution.ended();
        record.ended.get_or_insert(Ended { exit, at: Timestamp::now(), asked: false });
        if let Err(error) = record.write(state) {
            tracing::error!(%instance, %error, "can't write the run's record");
        }
    }

    /// Writes it. With its end it survives the loss of power.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn write(&self, state: &Path) -> io::Result<()> {
        let folder = folder(state, &self.instance);
        fs::DirBuilder::new().recursive(true).create(&folder)?;
        let path = folder.join(format!("{}{ENDING}", self.run));
        let fresh = path.with_extension("new");
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&text)?;
        if self.ended.is_some() {
            file.sync_all()?;
        }
        fs::rename(&fresh, &path)?;
        if self.ended.is_some() {
            File::open(&folder)?.sync_all()?;
        }
        Ok(())
    }

    /// The record of one run. `None` if there is none, or none that this version understands.
    pub fn read(state: &Path, instance: &InstanceName, run: &str) -> Option<Self> {
        decode(&fs::read(folder(state, instance).join(format!("{run}{ENDING}"))).ok()?)
    }

    /// All records of an instance, oldest first. What can't be understood is left out.
    pub fn of_instance(state: &Path, instance: &InstanceName) -> Vec<Self> {
        runs(state, instance).iter().filter_map(|run| Self::read(state, instance, run)).collect()
    }

    /// The records of every instance in the project's state folder, by instance and then oldest first.
    ///
    /// # Errors
    /// The folder can't be listed.
    pub fn all(state: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(state.join("instances")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()?.parse().ok());
        let mut names: Vec<InstanceName> = names.collect();
        names.sort();
        Ok(names.iter().flat_map(|name| Self::of_instance(state, name)).collect())
    }

    /// Removes what is older than the last `keep` runs, with the logs that were kept of it.
    pub(super) fn prune(state: &Path, instance: &InstanceName, keep: u32) {
        let folder = folder(state, instance);
        let runs = runs(state, instance);
        let keep = usize::try_from(keep.max(1)).unwrap_or(usize::MAX);
        for run in runs.iter().take(runs.len().saturating_sub(keep)) {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            for entry in entries {
                let name = entry.file_name();
                let of_run = name.to_str().and_then(|name| name.strip_prefix(run.as_str()));
                if of_run.is_some_and(|rest| {
                    rest == ENDING || rest.starts_with(".log") || rest.starts_with(".saving")
                }) {
                    // What stays is removed the next time.
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }
}

/// The folder of an instance in the state folder.
pub(in crate::node) fn folder(state: &Path, instance: &InstanceName) -> PathBuf {
    state.join("instances").join(instance.to_string())
}

fn decode(bytes: &[u8]) -> Option<HostedRecord> {
    serde_json::from_slice::<HostedRecord>(bytes).ok().filter(|record| record.version <= HOSTED_VERSION)
}

/// Runs of an instance that have a record, oldest first: their names sort by time.
fn runs(state: &Path, instance: &InstanceName) -> Vec<String> {
    let entries = fs::read_dir(folder(state, instance)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut runs: Vec<String> =
        names.filter_map(|name| Some(name.strip_suffix(ENDING)?.to_owned())).collect();
    runs.sort();
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instance;

    fn record(run: &str) -> HostedRecord {
        HostedRecord {
            version: HOSTED_VERSION,
            instance: instance("db-1"),
            run: run.into(),
            execution: Execution::Unit { unit: "db.service".into(), pid: Some(7), run: Some(run.into()) },
            log: LogSource::Journal { unit: "db.service".into(), invocation: Some("ab".into()) },
            started_at: "2026-11-24T10:00:00Z".parse().unwrap(),
            ended: None,
            boot: Some("b".into()),
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_old_runs_go() {
        let state = tempfile::tempdir().unwrap();
        for run in ["0190-a", "0190-b", "0190-c"] {
            record(run).write(state.path()).unwrap();
            fs::write(folder(state.path(), &instance("db-1")).join(format!("{run}.log")), "").unwrap();
        }
        let ended =
            Ended { exit: Exit::with_code(3), asked: true, at: "2026-11-24T10:00:01Z".parse().unwrap() };
        let last = HostedRecord { ended: Some(ended), ..record("0190-c") };
        last.write(state.path()).unwrap();
        assert_eq!(HostedRecord::read(state.path(), &instance("db-1"), "0190-c"), Some(last.clone()));
        assert_eq!(HostedRecord::all(state.path()).unwrap(), [record("0190-a"), record("0190-b"), last]);
        HostedRecord::prune(state.path(), &instance("db-1"), 2);
        let left: Vec<String> =
            HostedRecord::all(state.path()).unwrap().into_iter().map(|record| record.run).collect();
        assert_eq!(left, ["0190-b", "0190-c"]);
        assert!(!folder(state.path(), &instance("db-1")).join("0190-a.log").exists());
    }

    #[test]
    fn samples_of_every_version_are_read_and_a_newer_one_is_left_alone() {
        let sample = include_bytes!("../../../samples/hosted-v1.json");
        assert_eq!(decode(sample), Some(record("0190-a")));
        let newer = HostedRecord { version: HOSTED_VERSION + 1, ..record("0190-a") };
        assert_eq!(decode(&serde_json::to_vec(&newer).unwrap()), None);
        assert_eq!(decode(b"nonsense"), None);
    }
}

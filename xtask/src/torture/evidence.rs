//! What is on disk after a run: records and logs as the harness wrote them, truth as the tempers wrote it.
//!
//! Read by rules of its own and not by the harness's code: who checks himself finds nothing.

use super::line::{Progress, Truth};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself.
    Code(i64),
    /// By a signal.
    Signal(i64),
    /// Nobody saw it.
    Unknown(String),
}

/// Where a run stands, as its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not over.
    Open(String),
    /// Over.
    Exited(Exit),
    /// It never ran.
    FailedToStart(String),
}

/// Output that is in no log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Why.
    pub(crate) reason: String,
    /// How many lines, where that is known.
    pub(crate) lines: Option<u64>,
}

/// A run's record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// Where it stands.
    pub(crate) state: State,
    /// Output that is in no log.
    pub(crate) gaps: Vec<Gap>,
    /// Processes that it couldn't end.
    pub(crate) left: usize,
}

/// A process as a record names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Its pid.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since boot.
    pub(crate) start: u64,
}

/// All that is known of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// Its instance.
    pub(crate) instance: String,
    /// Its name.
    pub(crate) run: String,
    /// Its record, or why there is none.
    pub(crate) record: Option<Result<Record, String>>,
    /// Its log files, the oldest first, with the number at the end of their names (0 for the current one).
    pub(crate) files: Vec<(u32, Vec<u8>)>,
    /// How far each writer came.
    pub(crate) writers: BTreeMap<String, Progress>,
    /// Whether its program came to run.
    pub(crate) begun: bool,
    /// How it said that it would end.
    pub(crate) declared: Option<Exit>,
    /// Seconds from its begin to the last word of its record, by the machine's clock, which isn't set.
    pub(crate) seconds: f64,
}

/// Reads a record's text.
pub(crate) fn record(text: &[u8]) -> Result<Record, String> {
    let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let state = value.get("state").ok_or("no state")?;
    let mut left = 0;
    let state = if let Some(exited) = state.get("exited") {
        left = exited.get("left").and_then(Value::as_array).map_or(0, Vec::len);
        State::Exited(exit(exited.get("exit").ok_or("no exit")?)?)
    } else if let Some(failed) = state.get("failed_to_start") {
        State::FailedToStart(failed.to_string())
    } else {
        State::Open(state.to_string())
    };
    let gaps = value.get("gaps").and_then(Value::as_array).into_iter().flatten().map(|gap| Gap {
        reason: gap.get("reason").and_then(Value::as_str).unwrap_or_default().to_owned(),
        lines: gap.get("lines").and_then(Value::as_u64),
    });
    Ok(Record { state, gaps: gaps.collect(), left })
}

fn exit(value: &Value) -> Result<Exit, String> {
    let number = |name: &str| value.get(name).and_then(Value::as_i64);
    match (number("code"), number("signal"), value.get("unknown").and_then(Value::as_str)) {
        (Some(code), None, None) => Ok(Exit::Code(code)),
        (None, Some(signal), None) => Ok(Exit::Signal(signal)),
        (None, None, Some(why)) => Ok(Exit::Unknown(why.to_owned())),
        _ => Err(format!("no exit: {value}")),
    }
}

/// The newest run of an instance that isn't over: its name, its keeper and its main process.
pub(crate) fn current(
    state_dir: &Path,
    instance: &str,
) -> Option<(String, Option<Identity>, Option<Identity>)> {
    let folder = state_dir.join("instances").join(instance);
    let names =
        fs::read_dir(&folder).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let newest = names.filter(|name| name.ends_with(".json")).max()?;
    open_run(&newest, &fs::read(folder.join(&newest)).ok()?)
}

/// The run of a record with this file name, if it isn't over: its name, its keeper and its main process.
pub(crate) fn open_run(name: &str, record: &[u8]) -> Option<(String, Option<Identity>, Option<Identity>)> {
    let value: Value = serde_json::from_slice(record).ok()?;
    let identity = |value: Option<&Value>| {
        let value = value?;
        let pid = i32::try_from(value.get("pid")?.as_i64()?).ok()?;
        Some(Identity { pid, start: value.get("start")?.as_u64()? })
    };
    let process = identity(value.get("state")?.get("running").and_then(|state| state.get("process")));
    let run = name.strip_suffix(".json")?.to_owned();
    let over =
        ["exited", "failed_to_start"].iter().any(|word| value.pointer(&format!("/state/{word}")).is_some());
    (!over).then(|| (run, identity(value.get("keeper")), process))
}

/// The names of all runs of an instance, of which there are files or truth, the oldest first.
pub(crate) fn runs(state_dir: &Path, truth: &Path, instance: &str) -> io::Result<BTreeSet<String>> {
    let mut runs = BTreeSet::new();
    for folder in [state_dir.join("instances").join(instance), truth.join(instance)] {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            runs.extend(name.split_once('.').map(|(run, _)| run.to_owned()));
        }
    }
    Ok(runs)
}

/// Reads all that there is about a run.
pub(crate) fn read(state_dir: &Path, truth: &Path, instance: &str, run: &str) -> io::Result<Run> {
    let mut found = Run { instance: instance.to_owned(), run: run.to_owned(), ..Run::default() };
    let folder = state_dir.join("instances").join(instance);
    for (rest, bytes) in files(&folder, run)? {
        match rest.as_str() {
            "json" => found.record = Some(record(&bytes)),
            "log" => found.files.push((0, bytes)),
            other => {
                if let Some(number) = other.strip_prefix("log.").and_then(|number| number.parse().ok()) {
                    found.files.push((number, bytes));
                }
            }
        }
    }
    found.files.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    for (rest, bytes) in files(&truth.join(instance), run)? {
        match rest.as_str() {
            "start" => found.begun = true,
            "exit" => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let number = |text: &str| text.trim().parse().ok();
                found.declared = match text.split_once(' ') {
                    Some(("code", code)) => number(code).map(Exit::Code),
                    Some(("signal", signal)) => number(signal).map(Exit::Signal),
                    _ => None,
                };
            }
            writer => {
                found.writers.insert(writer.to_owned(), Truth::read(&bytes));
            }
        }
    }
    let written = |path: std::path::PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let begun = written(truth.join(instance).join(format!("{run}.start")));
    let ended = written(folder.join(format!("{run}.json")));
    let lived = ended.zip(begun).and_then(|(ended, begun)| ended.duration_since(begun).ok());
    found.seconds = lived.map_or(0.0, |lived| lived.as_secs_f64());
    Ok(found)
}

/// The files of a run in a folder, by what follows the run's name.
fn files(folder: &Path, run: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((name, rest)) = name.split_once('.')
            && name == run
        {
            found.push((rest.to_owned(), fs::read(entry.path())?));
        }
    }
    Ok(found)
}

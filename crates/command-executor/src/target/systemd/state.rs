//! What systemd says of a unit.

use super::SystemdError;
use crate::process::Exit;
use jiff::Timestamp;
use jiff::civil::DateTime;
use std::collections::HashMap;
use std::path::PathBuf;

/// What is asked for.
pub(super) const PROPERTIES: &str = "Id,LoadState,LoadError,ActiveState,SubState,Result,Type,Restart,MainPID,\
     ExecMainCode,ExecMainStatus,ExecMainStartTimestamp,ExecMainExitTimestamp,InvocationID,NRestarts,\
     ActiveEnterTimestamp,FragmentPath,DropInPaths,UnitFileState,NeedDaemonReload,Job,RootDirectory,RootImage,\
     ConditionResult";

/// A unit as systemd sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitState {
    /// Its own name, also where an alias was asked for.
    pub id: String,
    /// Whether there is a unit file that can be used.
    pub load: LoadState,
    /// Why it can't be used.
    pub load_error: Option<String>,
    /// What it does.
    pub active: ActiveState,
    /// The same in the words of its kind: `running`, `exited`, `auto-restart`.
    pub sub: String,
    /// How its last run went: `success`, or `exit-code`, `signal`, `core-dump`, `timeout`, `oom-kill`,
    /// `start-limit-hit`, ….
    pub result: String,
    /// What systemd takes for its start: `simple`, `notify`, `oneshot`, …; empty for what isn't a service.
    pub kind: String,
    /// When systemd itself restarts it: `no`, `on-failure`, ….
    pub restart: String,
    /// Its main process, while there is one.
    pub main_pid: Option<u32>,
    /// How its main process ended last.
    pub exit: Option<Exit>,
    /// When its main process started last, to the second.
    pub started_at: Option<Timestamp>,
    /// When its main process ended last, to the second.
    pub exited_at: Option<Timestamp>,
    /// When it became active last, to the second.
    pub active_since: Option<Timestamp>,
    /// Which run it is: another one after each start, also those that systemd makes by itself.
    pub invocation: Option<String>,
    /// How often systemd has restarted it since somebody started it.
    pub restarts: u32,
    /// Its unit file.
    pub fragment: Option<PathBuf>,
    /// Files that change its unit file.
    pub drop_ins: Vec<PathBuf>,
    /// `enabled`, `disabled`, `static`, `masked`, ….
    pub file_state: String,
    /// Whether its files have changed since systemd read them.
    pub needs_reload: bool,
    /// Whether a job for it waits or runs.
    pub has_job: bool,
    /// The folder or image that its processes see as their root.
    pub root: Option<PathBuf>,
    /// Whether its conditions held when it was started last; one whose conditions don't hold isn't started, which is no
    /// failure.
    pub conditions_held: bool,
}

/// Whether a unit's file can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadState {
    /// It can.
    Loaded,
    /// There is none.
    NotFound,
    /// It has a mistake.
    BadSetting,
    /// It can't be read.
    Error,
    /// Somebody forbade to start it.
    Masked,
    /// Something else.
    Other,
}

/// What a unit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActiveState {
    /// It runs, or has done what it is there for.
    Active,
    /// It runs, and reads its configuration again.
    Reloading,
    /// It doesn't run, and nothing is wrong.
    Inactive,
    /// It doesn't run because it failed.
    Failed,
    /// It starts, or waits until it is started again.
    Activating,
    /// It stops.
    Deactivating,
    /// Something else.
    Other,
}

impl LoadState {
    fn parse(word: &str) -> Self {
        match word {
            "loaded" => Self::Loaded,
            "not-found" => Self::NotFound,
            "bad-setting" => Self::BadSetting,
            "error" => Self::Error,
            "masked" => Self::Masked,
            _ => Self::Other,
        }
    }
}

impl ActiveState {
    fn parse(word: &str) -> Self {
        match word {
            "active" => Self::Active,
            "reloading" | "refreshing" => Self::Reloading,
            "inactive" => Self::Inactive,
            "failed" => Self::Failed,
            "activating" => Self::Activating,
            "deactivating" => Self::Deactivating,
            _ => Self::Other,
        }
    }
}

impl UnitState {
    /// Reads what [`Systemd::status`](super::Systemd::status) printed.
    ///
    /// # Errors
    /// [`SystemdError::Answer`].
    pub fn parse(stdout: &[u8]) -> Result<Vec<Self>, SystemdError> {
        let text = String::from_utf8_lossy(stdout);
        // A blank line stands between units.
        text.split("\n\n").filter(|unit| !unit.trim().is_empty()).map(Self::read).collect()
    }

    /// Reads what [`SystemdService::status`](super::SystemdService::status) printed.
    ///
    /// # Errors
    /// [`SystemdError::Answer`], also if there isn't exactly one.
    pub fn parse_one(stdout: &[u8]) -> Result<Self, SystemdError> {
        let mut all = Self::parse(stdout)?;
        match (all.pop(), all.is_empty()) {
            (Some(one), true) => Ok(one),
            _ => Err(SystemdError::Answer { what: "one unit" }),
        }
    }

    fn read(block: &str) -> Result<Self, SystemdError> {
        let fields: HashMap<&str, &str> = block.lines().filter_map(|line| line.split_once('=')).collect();
        let get = |name: &str| fields.get(name).copied().filter(|value| !value.is_empty());
        let own = |name: &str| get(name).unwrap_or_default().to_owned();
        let number = |name: &str| get(name).and_then(|value| value.parse::<u32>().ok()).unwrap_or_default();
        let need = |name: &str| get(name).ok_or(SystemdError::Answer { what: "a unit's state" });
        Ok(Self {
            id: need("Id")?.to_owned(),
            load: LoadState::parse(need("LoadState")?),
            load_error: get("LoadError").map(load_error),
            active: ActiveState::parse(need("ActiveState")?),
            sub: own("SubState"),
            result: own("Result"),
            kind: own("Type"),
            restart: own("Restart"),
            main_pid: Some(number("MainPID")).filter(|pid| *pid > 0),
            exit: exit(number("ExecMainCode"), number("ExecMainStatus")),
            started_at: get("ExecMainStartTimestamp").and_then(time),
            exited_at: get("ExecMainExitTimestamp").and_then(time),
            active_since: get("ActiveEnterTimestamp").and_then(time),
            invocation: get("InvocationID").map(str::to_owned),
            restarts: number("NRestarts"),
            fragment: get("FragmentPath").map(PathBuf::from),
            drop_ins: get("DropInPaths").map(paths).unwrap_or_default(),
            file_state: own("UnitFileState"),
            needs_reload: get("NeedDaemonReload") == Some("yes"),
            has_job: number("Job") > 0,
            root: get("RootDirectory").or_else(|| get("RootImage")).map(PathBuf::from),
            conditions_held: get("ConditionResult") == Some("yes"),
        })
    }

    /// What systemd's own exit codes mean, which a program uses rarely: `203` is that it couldn't be executed. `None` for
    /// codes that are the program's.
    pub fn exit_meaning(exit: Exit) -> Option<&'static str> {
        let Exit::Code(code) = exit else { return None };
        Some(match code {
            200 => "its folder can't be entered",
            202 => "its inputs and outputs can't be set up",
            203 => "its program can't be executed",
            208 => "its standard input can't be set up",
            209 => "its standard output can't be set up",
            216 => "its group isn't there",
            217 => "its user isn't there",
            218 => "its capabilities can't be set",
            219 => "its control group can't be set up",
            222 => "its log level can't be set",
            224 => "PAM refused it",
            225 | 226 => "its namespaces can't be set up",
            228 => "its system call filter can't be set up",
            233 | 238..=242 => "its folders can't be made",
            243 => "its credentials can't be set up",
            _ => return None,
        })
    }
}

/// `org.freedesktop.systemd1.NoSuchUnit "Unit x.service not found."`
fn load_error(text: &str) -> String {
    text.split_once(" \"").map_or(text, |(_, message)| message.trim_end_matches('"')).to_owned()
}

/// The codes of waitid(2): exited, killed, dumped core.
fn exit(code: u32, status: u32) -> Option<Exit> {
    let status = i32::try_from(status).ok()?;
    match code {
        1 => Some(Exit::Code(status)),
        2 | 3 => Some(Exit::Signal(status)),
        _ => None,
    }
}

/// `Tue 2026-11-24 21:49:08 UTC`, with or without parts of a second.
fn time(text: &str) -> Option<Timestamp> {
    let (_, rest) = text.split_once(' ')?;
    let local = rest.strip_suffix(" UTC")?;
    let at: DateTime = local.replacen(' ', "T", 1).parse().ok()?;
    at.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// Paths with blanks between them; a blank in one is written `\x20`, which stays.
fn paths(text: &str) -> Vec<PathBuf> {
    text.split(' ').filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

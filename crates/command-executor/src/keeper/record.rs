//! The record of a run: a small JSON file beside its log, the truth about the run for whoever comes later.
//!
//! Written so that a reader sees a whole one. Readers are lenient: fields they don't know are ignored.

use super::{identity::ProcessIdentity, report::StartStage, spec::RunId, want::is_want};
use jiff::Timestamp;
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};
use thiserror::Error;

/// The version of the format that is written.
pub const RECORD_VERSION: u32 = 1;

/// The most gaps a record lists; later ones are added to the last.
const MAX_GAPS: usize = 64;

/// A record's longest size in bytes; a longer file isn't one.
const MAX_RECORD: u64 = 1 << 20;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody saw it end; why.
    Unknown(String),
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// A keeper exists, the program doesn't run yet.
    Starting,
    /// The program runs.
    Running {
        /// The main process.
        process: ProcessIdentity,
    },
    /// The program and everything it started are gone.
    Exited {
        /// How its main process ended.
        exit: Exit,
        /// When it did.
        #[serde(with = "timestamp")]
        ended_at: Timestamp,
        /// The main process it was.
        #[serde(default)]
        process: Option<ProcessIdentity>,
        /// Processes of its tree that couldn't be ended (of another user, or stuck in the kernel).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left: Vec<i32>,
    },
    /// The program never ran.
    FailedToStart {
        /// The step that failed.
        stage: StartStage,
        /// The error number it failed with.
        errno: i32,
        /// What the step was about.
        message: String,
        /// When.
        #[serde(with = "timestamp")]
        at: Timestamp,
    },
}

impl RunState {
    /// Whether nothing more will be written about this run.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Exited { .. } | Self::FailedToStart { .. })
    }
}

/// Output that is in no log, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// When it began.
    #[serde(with = "timestamp")]
    pub at: Timestamp,
    /// `stdout` or `stderr`; both when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// `keeper killed`, `disk full: N bytes`, …
    pub reason: String,
    /// How many bytes of output, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How many lines these were, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
}

/// What is known about one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The version of the format: [`RECORD_VERSION`].
    pub version: u32,
    /// The version of the control protocol that its keeper speaks.
    #[serde(default = "one")]
    pub protocol: u32,
    /// The instance.
    pub instance: String,
    /// The run.
    pub run: RunId,
    /// The boot in which it ran; the pids mean nothing in another one.
    pub boot_id: String,
    /// The keeper.
    #[serde(default)]
    pub keeper: Option<ProcessIdentity>,
    /// When it was started.
    #[serde(with = "timestamp")]
    pub started_at: Timestamp,
    /// `argv[0]`, with replacement characters where it isn't text.
    #[serde(default)]
    pub program: String,
    /// Where it stands.
    pub state: RunState,
    /// Output that is in no log.
    #[serde(default)]
    pub gaps: Vec<Gap>,
}

fn one() -> u32 {
    1
}

impl RunRecord {
    /// The record of a run that its keeper hasn't written one of.
    pub(super) fn unwritten(
        instance: String,
        run: RunId,
        boot_id: String,
        keeper: Option<ProcessIdentity>,
    ) -> Self {
        Self {
            version: RECORD_VERSION,
            protocol: super::report::PROTOCOL,
            instance,
            run,
            boot_id,
            keeper,
            started_at: Timestamp::now(),
            program: String::new(),
            state: RunState::Starting,
            gaps: Vec::new(),
        }
    }

    /// The main process, also when it is gone.
    pub fn process(&self) -> Option<ProcessIdentity> {
        match &self.state {
            RunState::Running { process } => Some(*process),
            RunState::Exited { process, .. } => *process,
            RunState::Starting | RunState::FailedToStart { .. } => None,
        }
    }

    /// Adds a gap; after the first [`MAX_GAPS`] its figures are added to the last.
    pub(super) fn add_gap(&mut self, gap: Gap) {
        if self.gaps.len() < MAX_GAPS {
            self.gaps.push(gap);
        } else if let Some(last) = self.gaps.last_mut() {
            let bytes = last.bytes.unwrap_or(0).saturating_add(gap.bytes.unwrap_or(0));
            last.bytes = Some(bytes);
            last.lines = Some(last.lines.unwrap_or(0).saturating_add(gap.lines.unwrap_or(0)));
            last.reason = format!("several gaps, the latest {}: {bytes} bytes in all", gap.reason);
        }
    }
}

/// Why a record couldn't be read.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The file can't be read.
    #[error("cannot read the run record {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file isn't a record.
    #[error("{} isn't a run record", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A later version of this program wrote it.
    #[error(
        "{} has format {version}, this version reads up to {RECORD_VERSION}: use the newer version, or another state folder",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
}

impl RecordError {
    /// Whether it may be there and only can't be read now, for want of descriptors or memory.
    pub(super) fn is_want(&self) -> bool {
        matches!(self, Self::Read { source, .. } if is_want(source))
    }
}

/// Reads a record. Unknown fields are ignored; a format newer than [`RECORD_VERSION`] is refused by its number.
pub fn read_record(path: &Path) -> Result<RunRecord, RecordError> {
    let open = || File::open(path).map_err(|source| RecordError::Read { path: path.to_owned(), source });
    // One may be met while it is written over; that takes less than a microsecond.
    match decode(path, open()?) {
        Err(RecordError::Decode { .. }) => decode(path, open()?),
        done => done,
    }
}

/// Like [`read_record`], of a file in an open folder.
pub(super) fn read_record_at(folder: BorrowedFd<'_>, run: RunId) -> Result<RunRecord, RecordError> {
    let name = PathBuf::from(format!("{run}.json"));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let open = || {
        let failed =
            |error: rustix::io::Errno| RecordError::Read { path: name.clone(), source: error.into() };
        rustix::fs::openat(folder, &name, flags, Mode::empty()).map(File::from).map_err(failed)
    };
    match decode(&name, open()?) {
        Err(RecordError::Decode { .. }) => decode(&name, open()?),
        done => done,
    }
}

fn decode(path: &Path, file: File) -> Result<RunRecord, RecordError> {
    let mut bytes = Vec::new();
    let read = |source| RecordError::Read { path: path.to_owned(), source };
    file.take(MAX_RECORD).read_to_end(&mut bytes).map_err(read)?;
    decode_record(path, &bytes)
}

/// The record that the bytes of the file at `path` are. A newer format is refused by its number, also where its fields
/// look like those of today: they may mean something else.
pub fn decode_record(path: &Path, bytes: &[u8]) -> Result<RunRecord, RecordError> {
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    if let Ok(Version { version }) = serde_json::from_slice(bytes)
        && version > u64::from(RECORD_VERSION)
    {
        return Err(RecordError::Newer { path: path.to_owned(), version });
    }
    serde_json::from_slice(bytes).map_err(|source| RecordError::Decode { path: path.to_owned(), source })
}

/// How a record is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    /// The first one of a run. A reader that sees half of it sees what it would have a moment earlier: none.
    First,
    /// The second one, over the first, in one write: a new file and the removal of the old one are what would cost most
    /// of a start. A reader that meets it in that moment reads again.
    Over,
    /// By rename.
    Replace,
    /// By rename, and it survives the loss of power.
    Durable,
}

/// Writes a record into the instance's folder. On a full disk the old file is overwritten where it lies, which needs no
/// new block, so that an exit is recorded even then.
pub(super) fn write_record(folder: BorrowedFd<'_>, record: &RunRecord, writing: Writing) -> io::Result<()> {
    let mut text = serde_json::to_vec(record)?;
    text.push(b'\n');
    let name = format!("{}.json", record.run);
    match writing {
        Writing::First => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::openat(folder, &name, flags, Mode::RUSR | Mode::WUSR)?;
            return File::from(file).write_all(&text);
        }
        Writing::Over => return overwrite(folder, &name, &text, false),
        Writing::Replace | Writing::Durable => {}
    }
    match replace(folder, &name, &text, writing == Writing::Durable) {
        Err(error) if is_full(&error) && text.len() <= 4096 => overwrite(folder, &name, &text, true),
        done => done,
    }
}

/// Whether the error says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

fn replace(folder: BorrowedFd<'_>, name: &str, text: &[u8], durable: bool) -> io::Result<()> {
    // A name of its own: the zygote and the daemon may write the last word of a run at the same time, and so may two tasks.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let fresh = format!("{name}.{}-{}.new", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(folder, &fresh, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(file);
    let written = file.write_all(text).and_then(|()| match durable {
        true => rustix::fs::fsync(file.as_fd()).map_err(io::Error::from),
        false => Ok(()),
    });
    if let Err(error) = written {
        // What remains would take the little room that there is.
        let _ = rustix::fs::unlinkat(folder, &fresh, AtFlags::empty());
        return Err(error);
    }
    Ok(rustix::fs::renameat(folder, &fresh, folder, name)?)
}

fn overwrite(folder: BorrowedFd<'_>, name: &str, text: &[u8], durable: bool) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?);
    file.write_all_at(text, 0)?;
    file.set_len(text.len() as u64)?;
    if durable {
        rustix::fs::fsync(file.as_fd())?;
    }
    Ok(())
}

/// Times in RFC 3339 with nanoseconds.
pub(super) mod timestamp {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(at: &Timestamp, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{at:.9}"))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: RunState) -> RunRecord {
        RunRecord {
            version: RECORD_VERSION,
            protocol: 1,
            instance: "web-1".into(),
            run: "01932b5e-8f00-7000-8000-000000000001".parse().unwrap(),
            boot_id: "b".into(),
            keeper: Some(ProcessIdentity { pid: 10, start: 100, inode: Some(7) }),
            started_at: "2026-11-23T10:00:00.123456789Z".parse().unwrap(),
            program: "/bin/web".into(),
            state,
            gaps: Vec::new(),
        }
    }

    #[test]
    fn samples_of_every_version_are_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/keeper");
        let mut seen = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "json") {
                let found = read_record(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                assert_eq!(found.instance, "web-1");
                seen += 1;
            }
        }
        assert!(seen >= 4, "only {seen} samples in {}", folder.display());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let fd = File::open(folder.path()).unwrap();
        let process = ProcessIdentity { pid: 11, start: 101, inode: None };
        let ended_at = "2026-11-23T10:00:01Z".parse().unwrap();
        let failed =
            RunState::FailedToStart { stage: StartStage::Cwd, errno: 2, message: "/no".into(), at: ended_at };
        let exited =
            RunState::Exited { exit: Exit::Signal(9), ended_at, process: Some(process), left: vec![3] };
        for (state, writing) in [
            (RunState::Starting, Writing::First),
            (RunState::Running { process }, Writing::Over),
            (RunState::Starting, Writing::Over),
            (failed, Writing::Replace),
            (exited, Writing::Durable),
        ] {
            let record = record(state);
            write_record(fd.as_fd(), &record, writing).unwrap();
            let path = folder.path().join(format!("{}.json", record.run));
            assert_eq!(read_record(&path).unwrap(), record);
            assert_eq!(read_record_at(fd.as_fd(), record.run).unwrap(), record);
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        std::fs::write(&path, r#"{"version":7,"state":"dreaming"}"#).unwrap();
        assert!(matches!(read_record(&path), Err(RecordError::Newer { version: 7, .. })));
        let mut sample: serde_json::Value = serde_json::to_value(record(RunState::Starting)).unwrap();
        sample["version"] = (RECORD_VERSION + 1).into();
        std::fs::write(&path, sample.to_string()).unwrap();
        let error = read_record(&path).unwrap_err();
        assert!(
            matches!(error, RecordError::Newer { version: 2, .. }),
            "fields of today may mean something else"
        );
        assert!(error.to_string().contains("use the newer version"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), sample.to_string(), "it is left as it is");
        std::fs::write(&path, "nonsense").unwrap();
        assert!(matches!(read_record(&path), Err(RecordError::Decode { .. })));
    }

    #[test]
    fn gaps_stay_bounded_and_keep_their_sum() {
        let mut record = record(RunState::Starting);
        for _ in 0..200 {
            let at = record.started_at;
            record.add_gap(Gap {
                at,
                stream: None,
                reason: "disk full".into(),
                bytes: Some(5),
                lines: Some(1),
            });
        }
        assert_eq!(record.gaps.len(), MAX_GAPS);
        assert_eq!(record.gaps.iter().filter_map(|gap| gap.bytes).sum::<u64>(), 1000);
    }
}

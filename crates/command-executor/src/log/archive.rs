//! Writes a log file for a run whose log somebody else kept until now.

use super::command::LogRecord;
use super::format;
use crate::keeper::LogLimits;
use jiff::Timestamp;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The log file of one run, as a keeper would have written it: `FOLDER/RUN.log`, rotated by size.
///
/// Readers see nothing of it until it is [finished](Self::finish). It replaces what an earlier try left.
#[derive(Debug)]
pub struct Archive {
    folder: PathBuf,
    run: String,
    limits: LogLimits,
    file: BufWriter<File>,
    size: u64,
    block: Vec<u8>,
    /// Times in a file never go back.
    last: Timestamp,
}

impl Archive {
    /// Begins the log of `run` in an instance's folder, which must exist.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(folder: &Path, run: &str, limits: LogLimits) -> io::Result<Self> {
        for number in 0..=limits.keep_files {
            remove(&folder.join(name(run, "saving", number)))?;
        }
        let file = BufWriter::new(open(&folder.join(name(run, "saving", 0)))?);
        let (folder, run) = (folder.to_owned(), run.to_owned());
        Ok(Self { folder, run, limits, file, size: 0, block: Vec::new(), last: Timestamp::UNIX_EPOCH })
    }

    /// Adds records, in their order.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&mut self, records: &[LogRecord]) -> io::Result<()> {
        for record in records {
            self.block.clear();
            self.last = self.last.max(record.time);
            format::write(&mut self.block, self.last, record.stream, record.partial, &record.text);
            let length = u64::try_from(self.block.len()).unwrap_or(u64::MAX);
            if self.size > 0 && self.size + length > self.limits.max_size.max(1) {
                self.rotate()?;
            }
            self.file.write_all(&self.block)?;
            self.size += length;
        }
        Ok(())
    }

    /// Ends it: what was written survives the loss of power, and is there for readers.
    ///
    /// # Errors
    /// What the file system says.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        // The oldest first: a reader that meets the newest finds those before it.
        for number in (0..=self.limits.keep_files).rev() {
            let (from, to) = (name(&self.run, "saving", number), name(&self.run, "log", number));
            remove(&self.folder.join(&to))?;
            rename(&self.folder.join(from), &self.folder.join(to))?;
        }
        File::open(&self.folder)?.sync_all()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let path = |number| self.folder.join(name(&self.run, "saving", number));
        remove(&path(self.limits.keep_files))?;
        for number in (0..self.limits.keep_files).rev() {
            rename(&path(number), &path(number + 1))?;
        }
        self.file = BufWriter::new(open(&path(0))?);
        self.size = 0;
        Ok(())
    }
}

/// `RUN.log`, `RUN.log.1` the newest that was rotated out.
fn name(run: &str, ending: &str, number: u32) -> String {
    match number {
        0 => format!("{run}.{ending}"),
        number => format!("{run}.{ending}.{number}"),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    missing_is_fine(fs::remove_file(path))
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    missing_is_fine(fs::rename(from, to))
}

fn missing_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn open(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::super::{LogQuery, Stream, read};
    use super::*;

    #[test]
    fn what_is_archived_is_read_as_a_log_and_rotated() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("instances/db-1");
        fs::create_dir_all(&folder).unwrap();
        let limits = LogLimits { max_size: 300, keep_files: 2, keep_runs: 1 };
        let record = |number: i64| LogRecord {
            time: jiff::Timestamp::from_second(1_700_000_000 + number).unwrap(),
            stream: if number % 2 == 0 { Stream::Stdout } else { Stream::Stderr },
            partial: false,
            text: format!("line {number}").into_bytes(),
        };
        for _ in 0..2 {
            let mut archive = Archive::create(&folder, "r", limits).unwrap();
            archive.write(&(0..30).map(record).collect::<Vec<_>>()).unwrap();
            archive.finish().unwrap();
        }
        let query = LogQuery { instances: vec!["db-1".into()], ..LogQuery::default() };
        let lines: Vec<_> = read(state.path(), &query).unwrap().map(Result::unwrap).collect();
        let last = lines.last().unwrap();
        assert_eq!(
            (&last.text[..], last.stream, last.time),
            (&b"line 29"[..], Stream::Stderr, record(29).time)
        );
        assert!(lines.len() < 30 && lines.len() > 10, "the oldest were rotated out: {}", lines.len());
        assert!(lines.windows(2).all(|two| two[0].time < two[1].time));
    }
}

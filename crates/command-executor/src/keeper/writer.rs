//! Writing the log: blocks of output become lines of the format that Kubernetes' CRI defines, in files of bounded size.
//!
//! `2026-11-23T10:00:00.123456789Z stdout F text`: the time at which the block was read, the stream, and `F` for a
//! line's last part or `P` for one that goes on in the stream's next line. Times never go back within a run.

use super::{
    record::{Gap, is_full},
    region::Region,
    spec::{LogLimits, RunId},
};
use jiff::Timestamp;
use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

/// The longest piece of a line that is written as one, in bytes, and the most that is read at once.
pub(super) const BLOCK: usize = 64 << 10;

/// The output is collected up to this size; lines are short of it by far, save for many empty ones.
const OUT: usize = 256 << 10;

/// Time (30), space, stream (6), space, tag, space.
const PREFIX: usize = 40;
const TAG: usize = 38;

/// One of the two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// Formats times, never going back, and only as much of the text as changed.
struct Stamp {
    last: i128,
    second: i128,
    text: [u8; PREFIX],
}

impl Stamp {
    fn new() -> Self {
        Self { last: 0, second: -1, text: *b"0000-00-00T00:00:00.000000000Z stdout F " }
    }

    /// The prefix of lines read at `now` (nanoseconds since 1970).
    fn prefix(&mut self, now: i128, stream: Stream) -> [u8; PREFIX] {
        let now = now.max(self.last);
        self.last = now;
        let second = now.div_euclid(1_000_000_000);
        if second != self.second {
            self.second = second;
            let date = Timestamp::from_second(i64::try_from(second).unwrap_or(0)).unwrap_or_default();
            let text = format!("{date:.0}");
            if let (Some(to), Some(from)) = (self.text.get_mut(..19), text.as_bytes().get(..19)) {
                to.copy_from_slice(from);
            }
        }
        let mut nanos = now.rem_euclid(1_000_000_000);
        for digit in self.text[20..29].iter_mut().rev() {
            *digit = b'0' + (nanos % 10) as u8;
            nanos /= 10;
        }
        self.text[31..37].copy_from_slice(match stream {
            Stream::Stdout => b"stdout",
            Stream::Stderr => b"stderr",
        });
        self.text
    }
}

/// Holds what a stream's unfinished line has so far.
pub(super) struct LineBuffer {
    stream: Stream,
    region: Region,
    len: usize,
    /// The line's earlier parts were written already.
    continued: bool,
}

impl LineBuffer {
    pub(super) fn new(stream: Stream) -> io::Result<Self> {
        Ok(Self { stream, region: Region::new(BLOCK)?, len: 0, continued: false })
    }

    /// Where the next bytes go; never empty.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let len = self.len;
        self.region.get_mut(len..).unwrap_or_default()
    }

    /// Takes `fresh` bytes that were put into [`Self::space`], read at `now`, and writes the lines they complete.
    pub(super) fn take(&mut self, fresh: usize, now: i128, log: &mut Log) {
        let prefix = log.stamp.prefix(now, self.stream);
        let end = (self.len + fresh).min(self.region.len());
        let Self { region, len, continued, .. } = self;
        let data = region.get(..end).unwrap_or_default();
        let mut from = 0;
        for at in memchr::memchr_iter(b'\n', data.get(*len..).unwrap_or_default()) {
            let newline = *len + at;
            log.line(&prefix, b'F', data.get(from..newline).unwrap_or_default());
            from = newline + 1;
            *continued = false;
        }
        if from == 0 && end == BLOCK {
            log.line(&prefix, b'P', data);
            from = end;
            *continued = true;
        }
        if from > 0 && from < end {
            region.copy_within(from..end, 0);
        }
        *len = end - from;
        log.flush();
    }

    /// The stream is over: what it had without an end of line becomes a line.
    pub(super) fn finish(&mut self, now: i128, log: &mut Log) {
        if self.len > 0 || self.continued {
            let prefix = log.stamp.prefix(now, self.stream);
            log.line(&prefix, b'F', self.region.get(..self.len).unwrap_or_default());
            log.flush();
        }
        self.len = 0;
        self.continued = false;
    }

    /// Writes a line of the keeper's own; what the stream has without an end of line becomes one before.
    pub(super) fn say(&mut self, text: &str, now: i128, log: &mut Log) {
        self.finish(now, log);
        let prefix = log.stamp.prefix(now, self.stream);
        log.line(&prefix, b'F', text.as_bytes());
        log.flush();
    }

    /// Gives the memory back if nothing is in it.
    pub(super) fn release(&mut self) {
        if self.len == 0 {
            self.region.release();
        }
    }
}

/// The log of a run.
pub(super) struct Log {
    stamp: Stamp,
    out: Region,
    used: usize,
    file: LogFile,
}

impl Log {
    /// Creates the run's file in the instance's folder.
    pub(super) fn create(folder: OwnedFd, run: RunId, limits: LogLimits) -> io::Result<Self> {
        let file = LogFile::create(folder, run, limits)?;
        Ok(Self { stamp: Stamp::new(), out: Region::new(OUT)?, used: 0, file })
    }

    fn line(&mut self, prefix: &[u8; PREFIX], tag: u8, text: &[u8]) {
        let size = PREFIX + text.len() + 1;
        if size > OUT - self.used {
            self.flush();
        }
        let Some(place) = self.out.get_mut(self.used..self.used + size) else { return };
        let (head, rest) = place.split_at_mut(PREFIX);
        head.copy_from_slice(prefix);
        head[TAG] = tag;
        if let Some((newline, body)) = rest.split_last_mut() {
            body.copy_from_slice(text);
            *newline = b'\n';
        }
        self.used += size;
    }

    fn flush(&mut self) {
        if self.used > 0 {
            self.file.write(self.out.get(..self.used).unwrap_or_default());
            self.used = 0;
        }
    }

    /// The gaps that came to an end since the last call; with `all`, also one that hasn't.
    pub(super) fn take_gaps(&mut self, all: bool) -> Vec<Gap> {
        if all {
            self.file.end_gap();
        }
        std::mem::take(&mut self.file.gaps)
    }

    /// Gives the memory back.
    pub(super) fn release(&mut self) {
        self.out.release();
    }
}

/// Lines that were dropped in a row.
struct Dropped {
    at: Timestamp,
    bytes: u64,
    lines: u64,
    error: io::Error,
}

struct LogFile {
    folder: OwnedFd,
    name: String,
    limits: LogLimits,
    file: OwnedFd,
    size: u64,
    dropped: Option<Dropped>,
    gaps: Vec<Gap>,
}

impl LogFile {
    fn create(folder: OwnedFd, run: RunId, limits: LogLimits) -> io::Result<Self> {
        let name = format!("{run}.log");
        let file = open_new(&folder, &name)?;
        Ok(Self { folder, name, limits, file, size: 0, dropped: None, gaps: Vec::new() })
    }

    /// Writes whole lines, rotating between two of them.
    fn write(&mut self, mut lines: &[u8]) {
        while !lines.is_empty() {
            let room = usize::try_from(self.limits.max_size.saturating_sub(self.size)).unwrap_or(usize::MAX);
            let mut now = lines;
            if lines.len() > room {
                let fits = lines
                    .get(..room)
                    .and_then(|fitting| memchr::memrchr(b'\n', fitting))
                    .map_or(0, |at| at + 1);
                if fits == 0 && self.size > 0 && self.rotate() {
                    continue;
                }
                // A single line longer than a whole file goes into one of its own; so does everything if the disk
                // has no room for another file.
                let first = || memchr::memchr(b'\n', lines).map_or(lines.len(), |at| at + 1);
                now = lines.get(..if fits == 0 { first() } else { fits }).unwrap_or(lines);
            }
            self.write_out(now);
            lines = lines.get(now.len()..).unwrap_or_default();
        }
    }

    /// Writes the lines to the current file; what has no room is dropped and counted.
    fn write_out(&mut self, lines: &[u8]) {
        let mut done = 0;
        while let Some(rest) = lines.get(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::write(&self.file, rest) {
                Ok(written) if written > 0 => done += written,
                Err(Errno::INTR) => {}
                Ok(_) => return self.drop_from(lines, done, Errno::IO),
                Err(error) => return self.drop_from(lines, done, error),
            }
        }
        self.size += done as u64;
        if self.dropped.is_some() {
            self.end_gap();
        }
    }

    /// The file took `done` bytes of the lines and no more: it is cut after its last whole line.
    fn drop_from(&mut self, lines: &[u8], done: usize, error: Errno) {
        let whole = lines.get(..done).and_then(|part| memchr::memrchr(b'\n', part)).map_or(0, |at| at + 1);
        if whole < done {
            // A file that can't even be cut keeps half a line; the next one then follows it on the same line.
            let _ = rustix::fs::ftruncate(&self.file, self.size + whole as u64);
        }
        self.size += whole as u64;
        let rest = lines.get(whole..).unwrap_or_default();
        let dropped = self.dropped.get_or_insert_with(|| Dropped {
            at: Timestamp::now(),
            bytes: 0,
            lines: 0,
            error: error.into(),
        });
        for line in rest.split_inclusive(|byte| *byte == b'\n') {
            // What the service wrote: without the prefix, and without the end of line that a part doesn't have.
            let part = line.get(TAG) == Some(&b'P');
            dropped.bytes += (line.len().saturating_sub(PREFIX) - usize::from(part)) as u64;
            dropped.lines += u64::from(!part);
        }
    }

    fn end_gap(&mut self) {
        let Some(Dropped { at, bytes, lines, error }) = self.dropped.take() else { return };
        let reason = if is_full(&error) {
            format!("disk full: {bytes} bytes")
        } else {
            format!("{error}: {bytes} bytes")
        };
        self.gaps.push(Gap { at, stream: None, reason, bytes: Some(bytes), lines: Some(lines) });
    }

    /// Begins a new file; whether that worked.
    fn rotate(&mut self) -> bool {
        let fresh = format!("{}.new", self.name);
        let Ok(file) = open_new(&self.folder, &fresh) else { return false };
        let keep = self.limits.keep_files;
        let numbered = |number: u32| format!("{}.{number}", self.name);
        if keep == 0 {
            // Renaming over it below removes it.
        } else {
            for number in (1..keep).rev() {
                let _ =
                    rustix::fs::renameat(&self.folder, numbered(number), &self.folder, numbered(number + 1));
            }
            let _ = rustix::fs::renameat(&self.folder, &self.name, &self.folder, numbered(1));
        }
        if rustix::fs::renameat(&self.folder, &fresh, &self.folder, &self.name).is_err() {
            let _ = rustix::fs::unlinkat(&self.folder, &fresh, AtFlags::empty());
            return false;
        }
        self.file = file;
        self.size = 0;
        true
    }
}

fn open_new(folder: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    const NOW: i128 = 1_763_892_000_123_456_789;

    fn log(folder: &Path, limits: LogLimits) -> (Log, RunId) {
        let run = RunId::generate();
        (Log::create(fs::File::open(folder).unwrap().into(), run, limits).unwrap(), run)
    }

    fn feed(buffer: &mut LineBuffer, log: &mut Log, mut bytes: &[u8], now: i128) {
        while !bytes.is_empty() {
            let space = buffer.space();
            let n = bytes.len().min(space.len());
            assert!(n > 0);
            space[..n].copy_from_slice(&bytes[..n]);
            buffer.take(n, now, log);
            bytes = &bytes[n..];
        }
    }

    #[test]
    fn lines_have_time_stream_and_tag() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, run) = log(folder.path(), LogLimits::default());
        let mut out = LineBuffer::new(Stream::Stdout).unwrap();
        let mut err = LineBuffer::new(Stream::Stderr).unwrap();
        feed(&mut out, &mut log, b"one\n\ntw", NOW);
        feed(&mut err, &mut log, b"\xff\xfe\n", NOW + 1_000_000_000);
        // The clock went back; the file doesn't.
        feed(&mut out, &mut log, b"o\nend", NOW);
        out.finish(NOW, &mut log);
        err.finish(NOW, &mut log);
        let text = fs::read(folder.path().join(format!("{run}.log"))).unwrap();
        let text = String::from_utf8_lossy(&text);
        assert_eq!(
            text,
            "2025-11-23T10:00:00.123456789Z stdout F one\n\
             2025-11-23T10:00:00.123456789Z stdout F \n\
             2025-11-23T10:00:01.123456789Z stderr F \u{fffd}\u{fffd}\n\
             2025-11-23T10:00:01.123456789Z stdout F two\n\
             2025-11-23T10:00:01.123456789Z stdout F end\n"
        );
    }

    /// Puts the parts together again.
    fn unpack(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            out.extend_from_slice(&line[PREFIX..line.len() - 1]);
            if line[TAG] == b'F' {
                out.push(b'\n');
            }
        }
        out
    }

    #[test]
    fn long_lines_are_parts_that_make_the_whole() {
        for size in [BLOCK - 1, BLOCK, BLOCK + 1, 10 * BLOCK, 10 * BLOCK + 7] {
            let folder = tempfile::tempdir().unwrap();
            let (mut log, run) = log(folder.path(), LogLimits::default());
            let mut out = LineBuffer::new(Stream::Stdout).unwrap();
            let mut text: Vec<u8> = (0..size).map(|at| b'a' + (at % 26) as u8).collect();
            text.extend_from_slice(b"\nnext\n");
            feed(&mut out, &mut log, &text, NOW);
            out.finish(NOW, &mut log);
            assert_eq!(unpack(&fs::read(folder.path().join(format!("{run}.log"))).unwrap()), text, "{size}");
        }
    }

    #[test]
    fn rotation_is_between_lines_and_keeps_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, run) = log(folder.path(), LogLimits { max_size: 1000, keep_files: 3, keep_runs: 1 });
        let mut out = LineBuffer::new(Stream::Stdout).unwrap();
        let text: String = (0..200).map(|number| format!("line {number:04}\n")).collect();
        feed(&mut out, &mut log, text.as_bytes(), NOW);
        let name = |end: &str| folder.path().join(format!("{run}.log{end}"));
        let mut all = Vec::new();
        for end in [".3", ".2", ".1", ""] {
            let bytes = fs::read(name(end)).unwrap();
            assert!(bytes.len() <= 1000 && bytes.ends_with(b"\n"), "{end}: {}", bytes.len());
            all.extend_from_slice(&bytes);
        }
        assert!(!name(".4").exists() && !name(".new").exists());
        let all = unpack(&all);
        assert!(text.as_bytes().ends_with(&all) && all.len() > 600, "{}", all.len());
    }

    #[test]
    fn a_line_longer_than_a_file_has_one_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, run) = log(folder.path(), LogLimits { max_size: 100, keep_files: 9, keep_runs: 1 });
        let mut out = LineBuffer::new(Stream::Stdout).unwrap();
        feed(&mut out, &mut log, format!("a\n{}\nb\n", "x".repeat(500)).as_bytes(), NOW);
        let sizes: Vec<_> = [".2", ".1", ""]
            .iter()
            .map(|end| fs::metadata(folder.path().join(format!("{run}.log{end}"))).unwrap().len())
            .collect();
        assert_eq!(sizes, [42, 541, 42]);
    }

    #[test]
    fn a_full_disk_drops_whole_lines_and_counts_them() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = log(folder.path(), LogLimits::default());
        log.file.file = fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into();
        let mut out = LineBuffer::new(Stream::Stdout).unwrap();
        feed(&mut out, &mut log, b"12345\n1234567\n", NOW);
        assert!(log.take_gaps(false).is_empty(), "the gap goes on");
        log.file.file = fs::File::create(folder.path().join("again")).unwrap().into();
        feed(&mut out, &mut log, b"back\n", NOW);
        let gaps = log.take_gaps(false);
        assert_eq!(gaps.len(), 1);
        assert_eq!(gaps[0].reason, "disk full: 14 bytes");
        assert_eq!((gaps[0].bytes, gaps[0].lines), (Some(14), Some(2)));
    }
}

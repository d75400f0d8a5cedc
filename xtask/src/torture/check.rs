//! The checker of one run: every line accounted for exactly once and in order, every exit recorded. Pure.

use super::evidence::{Exit, Run, State};
use super::line::{self, ERROR_WRITER, Progress, Read};
use std::collections::BTreeMap;

/// What may have happened to a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Circumstances {
    /// Its keeper was killed.
    pub(crate) keeper_killed: bool,
    /// The disk of its log was full at times.
    pub(crate) disk_full: bool,
    /// Rotated files that are kept.
    pub(crate) keep_files: u32,
    /// Zygotes were killed, so that a start may fail that one was about to make.
    pub(crate) zygotes_killed: bool,
    /// The daemon had no descriptors at times, so that starts may fail.
    pub(crate) starved: bool,
    /// So many newer runs of the instance have records that this one may have been forgotten.
    pub(crate) forgotten: bool,
}

/// What was found of one run, or of all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// Runs that were looked at.
    pub(crate) runs: u64,
    /// Runs that were forgotten, as their service wishes.
    pub(crate) forgotten: u64,
    /// Lines that were found in logs.
    pub(crate) lines: u64,
    /// Lines that were rotated out.
    pub(crate) rotated: u64,
    /// Lines that a gap record accounts for.
    pub(crate) gaps: u64,
    /// Lines that are nowhere.
    pub(crate) lost: u64,
    /// Lines that are there more than once.
    pub(crate) doubled: u64,
    /// Exits that are `unknown`, each with a killed keeper.
    pub(crate) unknown_exits: u64,
    /// Runs that could not be started.
    pub(crate) failed_starts: u64,
    /// Seconds that the services ran.
    pub(crate) seconds: f64,
    /// What must not be.
    pub(crate) violations: Vec<String>,
}

impl Findings {
    /// Adds those of another run.
    pub(crate) fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.forgotten += other.forgotten;
        self.lines += other.lines;
        self.rotated += other.rotated;
        self.gaps += other.gaps;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.unknown_exits += other.unknown_exits;
        self.failed_starts += other.failed_starts;
        self.seconds += other.seconds;
        self.violations.extend(other.violations);
    }
}

/// Checks one run.
pub(crate) fn check(run: &Run, around: Circumstances) -> Findings {
    let findings = Findings { runs: 1, ..Findings::default() };
    let mut checker = Checker { run, around, findings, fragments: Vec::new() };
    if run.record.is_none() && run.files.is_empty() {
        if around.forgotten {
            checker.findings.forgotten = 1;
        } else if run.begun {
            checker.violation("it ran, and there is neither record nor log");
        }
        return checker.findings;
    }
    checker.record();
    checker.log();
    checker.findings
}

struct Checker<'a> {
    run: &'a Run,
    around: Circumstances,
    findings: Findings,
    /// Streams whose latest line was too short to say whose it is: it must be their last.
    fragments: Vec<Vec<u8>>,
}

/// What the log says of one writer.
#[derive(Default)]
struct Seen {
    /// Numbers of whole lines, in the order of the log.
    lines: Vec<u64>,
    /// The line that was cut, with the count of whole lines before it.
    cut: Option<(u64, usize)>,
}

impl Checker<'_> {
    fn violation(&mut self, what: impl std::fmt::Display) {
        let Run { instance, run, .. } = self.run;
        self.findings.violations.push(format!("{instance} {run}: {what}"));
    }

    fn record(&mut self) {
        let record = match &self.run.record {
            None => return self.violation("it has a log and no record"),
            Some(Err(error)) => return self.violation(format_args!("its record can't be read: {error}")),
            Some(Ok(record)) => record,
        };
        self.findings.seconds = self.run.seconds;
        match &record.state {
            State::Open(state) => self.violation(format_args!("its exit isn't recorded: {state}")),
            State::FailedToStart(why) => {
                self.findings.failed_starts = 1;
                let excused = why.contains("the zygote was killed") && self.around.zygotes_killed;
                if !excused && !self.around.starved && !self.around.disk_full {
                    self.violation(format_args!("it could not be started: {why}"));
                }
            }
            State::Exited(exit) => self.exit(exit),
        }
        if record.left > 0 {
            self.violation(format_args!("{} processes were left", record.left));
        }
        for gap in &record.gaps {
            let known = (gap.reason.contains("keeper killed") && self.around.keeper_killed)
                || (gap.reason.contains("disk full") && self.around.disk_full);
            if !known {
                self.violation(format_args!("a gap that nothing explains: {gap:?}"));
            }
        }
    }

    fn exit(&mut self, exit: &Exit) {
        match (exit, &self.run.declared) {
            (Exit::Unknown(why), _) if self.around.keeper_killed && why == "keeper killed" => {
                self.findings.unknown_exits = 1;
            }
            (Exit::Unknown(why), _) => {
                self.violation(format_args!("its exit is unknown ({why}) though its keeper wasn't killed"));
            }
            (Exit::Code(2), None) if self.run.begun => self.violation("the temper itself failed"),
            (_, None) => {}
            (found, Some(declared)) if found == declared => {}
            // Killed in the moment between its words and its end.
            (Exit::Signal(9 | 15), Some(_)) => {}
            (found, Some(declared)) => {
                self.violation(format_args!("it ended with {declared:?}, and {found:?} is recorded"));
            }
        }
    }

    fn log(&mut self) {
        let seen = self.lines();
        let rotated_out = self
            .run
            .files
            .first()
            .is_some_and(|(number, _)| *number >= self.around.keep_files && self.around.keep_files > 0);
        let gaps = self.run.record.iter().flatten().flat_map(|record| &record.gaps);
        let (known, unknown): (Vec<_>, Vec<_>) = gaps.partition(|gap| gap.lines.is_some());
        let mut budget: u64 = known.iter().filter_map(|gap| gap.lines).sum();
        let tail_is_open = !unknown.is_empty() && self.around.keeper_killed;
        for writer in seen.keys().filter(|writer| !self.run.writers.contains_key(*writer)) {
            self.violation(format_args!("lines of `{writer}`, who wrote none"));
        }
        for (writer, progress) in &self.run.writers {
            let empty = Seen::default();
            let seen = seen.get(writer).unwrap_or(&empty);
            self.writer(writer, *progress, seen, rotated_out, tail_is_open, &mut budget);
        }
    }

    /// Holds what one writer wrote against what the log has of it.
    fn writer(
        &mut self,
        writer: &str,
        progress: Progress,
        seen: &Seen,
        rotated_out: bool,
        tail_is_open: bool,
        budget: &mut u64,
    ) {
        let Progress { attempted, written } = progress;
        let mut last = 0;
        let mut missing: Vec<(u64, u64)> = Vec::new();
        for (position, seq) in seen.lines.iter().copied().enumerate() {
            if seq > attempted {
                self.violation(format_args!("line {seq} of `{writer}`, who wrote only {attempted}"));
            }
            if seq <= last {
                let word = if seq == last { "twice" } else { "out of order" };
                self.findings.doubled += 1;
                self.violation(format_args!("line {seq} of `{writer}` is there {word}, after {last}"));
                continue;
            }
            if seq > last + 1 {
                // Before the first line that is there, everything may have been rotated out.
                if position == 0 && rotated_out {
                    self.findings.rotated += seq - 1;
                } else {
                    missing.push((last + 1, seq - 1));
                }
            }
            last = seq;
        }
        self.findings.lines += seen.lines.len() as u64;
        if let Some((seq, before)) = seen.cut {
            let at_the_end =
                before == seen.lines.len() && seq == last + 1 && seq <= attempted && seq > written;
            if !at_the_end && !self.around.disk_full && !self.around.keeper_killed {
                self.violation(format_args!("line {seq} of `{writer}` is cut"));
            }
        }
        let mut open_tail = false;
        if written > last {
            if seen.lines.is_empty() && rotated_out {
                self.findings.rotated += written;
            } else if tail_is_open {
                self.findings.gaps += written - last;
                open_tail = true;
            } else {
                missing.push((last + 1, written));
            }
        }
        for (from, to) in missing {
            let count = to - from + 1;
            let covered = count.min(*budget);
            *budget -= covered;
            self.findings.gaps += covered;
            if covered < count {
                self.findings.lost += count - covered;
                let note = if open_tail { ", before what the killed keeper explains" } else { "" };
                self.violation(format_args!(
                    "lines {from} to {to} of `{writer}` are lost ({attempted} attempted, {written} written{note})"
                ));
            }
        }
    }

    /// Reads the files, puts parts together, and looks at each line.
    fn lines(&mut self) -> BTreeMap<String, Seen> {
        let run = self.run;
        let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
        let mut begun: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
        let mut first: BTreeMap<&[u8], bool> = BTreeMap::new();
        let mut latest: &[u8] = b"";
        let torn_allowed = self.around.keeper_killed || self.around.disk_full;
        for (number, bytes) in &run.files {
            let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').peekable();
            while let Some(text) = lines.next() {
                let end = lines.peek().is_none() && !text.ends_with(b"\n");
                let parts = record_of(text.strip_suffix(b"\n").unwrap_or(text));
                let Some((time, stream, partial, text)) = parts.filter(|_| !end) else {
                    if !(torn_allowed && lines.peek().is_none()) {
                        let shown = String::from_utf8_lossy(text.get(..60).unwrap_or(text)).into_owned();
                        self.violation(format_args!("file {number} has a line that is no record: {shown:?}"));
                    }
                    continue;
                };
                if time < latest {
                    self.violation(format_args!("time goes back in file {number}"));
                }
                latest = time;
                let whole = begun.entry(stream).or_default();
                whole.extend_from_slice(text);
                if partial {
                    continue;
                }
                let whole = std::mem::take(whole);
                let is_first = !std::mem::replace(first.entry(stream).or_default(), true);
                self.line(&whole, stream, is_first, &mut seen);
            }
        }
        for (stream, rest) in begun {
            if !rest.is_empty() && !torn_allowed {
                let stream = String::from_utf8_lossy(stream).into_owned();
                self.violation(format_args!("a line of {stream} has no end ({} bytes)", rest.len()));
            }
        }
        seen
    }

    fn line(&mut self, text: &[u8], stream: &[u8], is_first: bool, seen: &mut BTreeMap<String, Seen>) {
        let excused = self.around.disk_full || self.around.keeper_killed;
        if !excused && self.fragments.iter().any(|fragment| fragment == stream) {
            self.violation("a piece of a line stands in the middle of the log");
        }
        match line::read(text) {
            Read::Whole { writer, seq } => {
                if (writer == ERROR_WRITER) != (stream == b"stderr") {
                    self.violation(format_args!("line {seq} of `{writer}` on the wrong stream"));
                }
                match seen.get_mut(writer) {
                    Some(seen) => seen.lines.push(seq),
                    None => {
                        seen.insert(writer.to_owned(), Seen { lines: vec![seq], cut: None });
                    }
                }
            }
            Read::Cut { writer, seq } => {
                let seen = seen.entry(writer.to_owned()).or_default();
                let earlier = seen.cut.replace((seq, seen.lines.len()));
                if earlier.is_some() {
                    self.violation(format_args!("several lines of `{writer}` are cut"));
                }
            }
            // The rest of a line whose beginning was rotated out.
            Read::Foreign if is_first && self.is_rotated() => {}
            Read::Fragment => self.fragments.push(stream.to_vec()),
            Read::Foreign if self.around.disk_full => {}
            Read::Foreign => {
                let shown = String::from_utf8_lossy(text.get(..80).unwrap_or(text)).into_owned();
                self.violation(format_args!("a line that nobody wrote: {shown:?} ({} bytes)", text.len()));
            }
        }
    }

    fn is_rotated(&self) -> bool {
        self.run.files.len() > 1
    }
}

/// A line of a run, as `logs` and the log files must both have it: run, stream and text.
pub(crate) type Line = (String, String, String);

/// The whole lines of a run that a temper wrote, in the order of its files.
pub(crate) fn whole_lines(run: &Run) -> Vec<Line> {
    let mut begun: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
    let mut lines = Vec::new();
    let texts = run.files.iter().flat_map(|(_, bytes)| bytes.split(|byte| *byte == b'\n'));
    for (_, stream, partial, text) in texts.filter_map(record_of) {
        let whole = begun.entry(stream).or_default();
        whole.extend_from_slice(text);
        if !partial {
            let text = String::from_utf8_lossy(whole).into_owned();
            whole.clear();
            lines.push((run.run.clone(), String::from_utf8_lossy(stream).into_owned(), text));
        }
    }
    lines.retain(|(_, _, text)| is_whole(text));
    lines
}

/// Whether a line is one that a temper wrote, from its begin to its end.
pub(crate) fn is_whole(text: &str) -> bool {
    matches!(line::read(text.as_bytes()), Read::Whole { .. })
}

/// Where two listings of the same lines differ; `None` if they don't.
pub(crate) fn difference(files: &[Line], shown: &[Line]) -> Option<String> {
    let same = files.iter().zip(shown).take_while(|(file, shown)| file == shown).count();
    (same < files.len().max(shown.len())).then(|| {
        let (file, other) = (files.get(same), shown.get(same));
        let counts = format!("{} lines in the files, {} shown", files.len(), shown.len());
        format!("{counts}; at {same} the files have {file:?} and `logs` has {other:?}")
    })
}

/// Time, stream, whether it is a part, and text.
type Entry<'a> = (&'a [u8], &'a [u8], bool, &'a [u8]);

/// One line of a log file.
fn record_of(line: &[u8]) -> Option<Entry<'_>> {
    let (time, rest) = line.split_at_checked(30)?;
    let (stream, rest) = (rest.get(1..7)?, rest.get(7..)?);
    let partial = match rest.get(..3)? {
        b" F " => false,
        b" P " => true,
        _ => return None,
    };
    let known = time.ends_with(b"Z") && (stream == b"stdout" || stream == b"stderr");
    known.then_some((time, stream, partial, rest.get(3..)?))
}

#[cfg(test)]
mod tests;

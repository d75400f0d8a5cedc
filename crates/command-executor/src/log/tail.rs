//! Where to begin reading so that the last lines are among what is read.
//!
//! Counted backwards, block by block, without reading what lies before. The place may be too early, never too late:
//! whoever reads from it keeps the last lines only.

use super::LogError;
use super::format::{Parser, Record, Stream};
use super::run::{Run, Side};
use super::segment::Segment;
use super::source::within;
use jiff::Timestamp;

/// Bytes before the window in which the first part of a line is looked for, counted anew from each part: further back
/// a line doesn't begin whose parts are written at once.
const LOOK_BACK: u64 = 128 * 1024;
/// A line may begin before `since` and end after it: at most one of each stream, which then isn't wanted.
const STREAMS: usize = 2;

/// The run and the file, set to the place, from which the last `lines` lines can be read; `None` if there is no file.
pub(crate) fn place(
    runs: &[Run],
    lines: usize,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
) -> Result<Option<(Run, Segment)>, LogError> {
    let mut count = Count::new(lines.saturating_add(STREAMS), since, until);
    for run in runs.iter().rev() {
        let Some(mut segment) = run.newest()? else { continue };
        loop {
            if let Some(place) = count.file(&segment)? {
                segment.seek(place);
                return Ok(Some((run.clone(), segment)));
            }
            match run.beside(segment.id(), Side::Older)? {
                Some(older) => segment = older,
                None => break,
            }
        }
        if count.is_full() {
            return Ok(Some((run.clone(), segment)));
        }
        count.next_run();
    }
    for run in runs {
        if let Some(oldest) = run.oldest()? {
            return Ok(Some((run.clone(), oldest)));
        }
    }
    Ok(None)
}

/// What was seen on the way back.
struct Count {
    missing: usize,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// For each stream, whether a line of the window can have no parts further back.
    closed: [bool; 2],
    /// Bytes since the window was full and no part was met.
    looked_back: u64,
    parser: Parser,
}

impl Count {
    fn new(missing: usize, since: Option<Timestamp>, until: Option<Timestamp>) -> Self {
        Self { missing, since, until, closed: [false; 2], looked_back: 0, parser: Parser::default() }
    }

    fn is_full(&self) -> bool {
        self.missing == 0
    }

    /// A line doesn't reach into the run before.
    fn next_run(&mut self) {
        self.closed = [false; 2];
    }

    /// Goes through a file; the place where all is found.
    fn file(&mut self, segment: &Segment) -> Result<Option<u64>, LogError> {
        let mut backwards = segment.backwards()?;
        while let Some((place, line)) = backwards.previous_line()? {
            let length = line.len() as u64;
            if let Some(record) = self.parser.parse(line) {
                take(
                    &mut self.closed,
                    &mut self.missing,
                    &mut self.looked_back,
                    &record,
                    self.since,
                    self.until,
                );
            }
            if self.missing == 0 {
                self.looked_back += length;
                if self.closed == [true; 2] || self.looked_back > LOOK_BACK {
                    return Ok(Some(place));
                }
            }
        }
        Ok(None)
    }
}

fn take(
    closed: &mut [bool; 2],
    missing: &mut usize,
    looked_back: &mut u64,
    record: &Record<'_>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
) {
    let [stdout, stderr] = closed;
    let closed = match record.stream {
        Stream::Stdout => stdout,
        Stream::Stderr => stderr,
    };
    if record.partial {
        // A part of a line that ends later, or of one that never ended and comes last: it may begin further back.
        if !*closed {
            *looked_back = 0;
        }
    } else if *missing == 0 {
        // The end of the line before.
        *closed = true;
    } else if within(record, since, until) {
        *missing -= 1;
    } else if since.is_some_and(|since| record.time < since) {
        // Times never go back within a run: nothing before is wanted.
        *missing = 0;
    }
}

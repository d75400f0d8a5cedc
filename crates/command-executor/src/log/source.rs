//! The lines of one instance, in order, over all its runs and their files; resumable where the files grow.

use super::format::{Joined, Joiner, Parser, Record, Stream};
use super::run::{self, FileId, Run, Side};
use super::segment::Segment;
use super::{LogError, LogLine, LogQuery, tail};
use jiff::Timestamp;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

/// What a [`Source`] reads on with once its file has ended for good.
#[derive(Debug)]
enum Successor {
    /// The file after it, of the same run.
    File(Segment),
    /// The first file of a later run.
    Run(Run, Segment),
}

/// Where a [`Source`] ends.
#[derive(Debug)]
enum Until {
    /// Where the log ended when it was opened.
    Opened { last_run: Arc<str>, last_file: Option<(FileId, u64)> },
    /// Never: what is written later comes later.
    Followed,
}

/// The log of one instance.
#[derive(Debug)]
pub(crate) struct Source {
    instance: Arc<str>,
    folder: Arc<Path>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    end: Until,
    /// Where it reads; `None` before the first run and at the very end.
    place: Option<(Run, Segment)>,
    /// Set when names in the folder may have changed: without that, the end of a file is the end for now.
    renamed: bool,
    /// Known to follow; the file before is read once more first, because it was written until it was replaced.
    successor: Option<Successor>,
    parser: Parser,
    joiner: Joiner,
    /// The time of the last record, for lines that have none.
    last_time: Timestamp,
    ready: VecDeque<LogLine>,
    finished: bool,
}

impl Source {
    /// Opens the log of an instance; one that has none is empty.
    pub(crate) fn open(
        state: &Path,
        instance: &str,
        query: &LogQuery,
        follow: bool,
    ) -> Result<Self, LogError> {
        let folder = run::folder(state, instance)?;
        let runs = run::runs(&folder)?;
        let mut source = Self {
            instance: instance.into(),
            folder,
            since: query.since,
            until: query.until,
            end: Until::Followed,
            place: None,
            renamed: true,
            successor: None,
            parser: Parser::default(),
            joiner: Joiner::default(),
            last_time: Timestamp::UNIX_EPOCH,
            ready: VecDeque::new(),
            finished: false,
        };
        if !follow {
            source.end_here(&runs)?;
        }
        if let Some(lines) = query.tail {
            source.keep_last(lines, &runs)?;
        }
        Ok(source)
    }

    /// The log of the latest run only.
    pub(crate) fn latest_run(state: &Path, instance: &str, lines: usize) -> Result<Self, LogError> {
        let mut source = Self::open(state, instance, &LogQuery::default(), false)?;
        let mut runs = run::runs(&source.folder)?;
        runs.drain(..runs.len().saturating_sub(1));
        source.end_here(&runs)?;
        source.keep_last(lines, &runs)?;
        Ok(source)
    }

    /// Remembers where the log ends now, so that reading ends though it is written on.
    fn end_here(&mut self, runs: &[Run]) -> Result<(), LogError> {
        let Some(last) = runs.last() else {
            self.finished = true;
            return Ok(());
        };
        let last_file = match last.newest()? {
            Some(file) => Some((file.id(), file.len()?)),
            None => None,
        };
        self.end = Until::Opened { last_run: Arc::clone(&last.id), last_file };
        Ok(())
    }

    /// Reads on to the end and keeps the last lines of that. The place to read from is only early enough.
    fn keep_last(&mut self, lines: usize, runs: &[Run]) -> Result<(), LogError> {
        if let Some((run, segment)) = tail::place(runs, lines, self.since, self.until)? {
            self.enter(run, segment);
        }
        let mut kept = VecDeque::new();
        while let Some(line) = self.next()? {
            if kept.len() == lines {
                kept.pop_front();
            }
            if lines > 0 {
                kept.push_back(line);
            }
        }
        self.ready = kept;
        Ok(())
    }

    /// Says that files were renamed, made or deleted in the folder.
    pub(crate) fn names_changed(&mut self) {
        self.renamed = true;
    }

    /// The next line; `None` at the end, for now if it is followed.
    pub(crate) fn next(&mut self) -> Result<Option<LogLine>, LogError> {
        loop {
            while let Some(line) = self.ready.pop_front() {
                if self.wanted(line.time) {
                    return Ok(Some(line));
                }
            }
            if self.finished {
                return Ok(None);
            }
            if !self.advance()? {
                return Ok(None);
            }
        }
    }

    fn wanted(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time <= until)
    }

    /// Reads a line into `ready`, or goes to the next file; whether there may be more.
    fn advance(&mut self) -> Result<bool, LogError> {
        let Some((run, segment)) = &mut self.place else {
            return self.go_on();
        };
        let Some(line) = segment.next_line()? else {
            return self.go_on();
        };
        let Some(record) = self.parser.parse(line) else {
            let line = broken(line, self.last_time);
            self.ready.extend([line.of(&self.instance, &run.id)]);
            return Ok(true);
        };
        self.last_time = record.time;
        if self.joiner.is_empty() {
            if self.until.is_some_and(|until| record.time > until) {
                // Times never go back within a file, so that the rest of it isn't wanted either.
                let end = segment.len()?;
                segment.seek(end);
                return Ok(true);
            }
            if !record.partial && self.since.is_some_and(|since| record.time < since) {
                return Ok(true);
            }
        }
        if let Some(line) = self.joiner.push(&record) {
            self.ready.push_back(line.of(&self.instance, &run.id));
        }
        Ok(true)
    }

    /// At the end of a file: goes to the one after it; whether there is one.
    fn go_on(&mut self) -> Result<bool, LogError> {
        if let Some(successor) = self.successor.take() {
            match successor {
                Successor::File(segment) => {
                    self.take_rest();
                    if let Some((run, _)) = self.place.take() {
                        self.enter(run, segment);
                    }
                }
                Successor::Run(run, segment) => {
                    self.finish_run();
                    self.enter(run, segment);
                }
            }
            return Ok(true);
        }
        let at_the_end = match (&self.end, &self.place) {
            (Until::Opened { last_file: Some((id, _)), .. }, Some((_, segment))) => segment.id() == *id,
            _ => false,
        };
        if self.renamed && !at_the_end {
            self.successor = self.find_successor()?;
            if self.successor.is_some() {
                return Ok(true);
            }
            self.renamed = false;
        }
        if matches!(self.end, Until::Opened { .. }) {
            self.finish_run();
            self.finished = true;
            return Ok(!self.ready.is_empty());
        }
        Ok(false)
    }

    fn find_successor(&self) -> Result<Option<Successor>, LogError> {
        if let Some((run, segment)) = &self.place
            && let Some(newer) = run.beside(segment.id(), Side::Newer)?
        {
            return Ok(Some(Successor::File(newer)));
        }
        let after = self.place.as_ref().map(|(run, _)| Arc::clone(&run.id));
        for run in run::runs(&self.folder)? {
            if after.as_ref().is_some_and(|after| run.id <= *after) {
                continue;
            }
            if let Until::Opened { last_run, .. } = &self.end
                && run.id > *last_run
            {
                break;
            }
            // A run whose files were deleted since the folder was read has nothing to tell.
            if let Some(oldest) = run.oldest()? {
                return Ok(Some(Successor::Run(run, oldest)));
            }
        }
        Ok(None)
    }

    fn enter(&mut self, run: Run, mut segment: Segment) {
        if let Until::Opened { last_file: Some((id, length)), .. } = &self.end
            && *id == segment.id()
        {
            segment.end_at(*length);
        }
        self.renamed = true;
        self.place = Some((run, segment));
    }

    /// Takes what stands behind the last line break of a file that is written no more: its keeper was killed while
    /// it wrote, or its disk was full.
    fn take_rest(&mut self) {
        let Some((run, segment)) = &mut self.place else { return };
        let Some(rest) = segment.take_rest() else { return };
        let line = match self.parser.parse(rest) {
            Some(record) => self.joiner.push(&record),
            None => Some(broken(rest, self.last_time)),
        };
        self.ready.extend(line.map(|line| line.of(&self.instance, &run.id)));
    }

    fn finish_run(&mut self) {
        self.take_rest();
        if let Some((run, _)) = self.place.take() {
            self.ready.extend(self.joiner.finish().map(|line| line.of(&self.instance, &run.id)));
        }
    }
}

/// A line of the file that is no record is shown as it is: better odd than lost.
fn broken(line: &[u8], time: Timestamp) -> Joined {
    Joined { time, stream: Stream::Stdout, text: line.to_vec() }
}

impl Joined {
    fn of(self, instance: &Arc<str>, run: &Arc<str>) -> LogLine {
        let Self { time, stream, text } = self;
        LogLine { instance: Arc::clone(instance), time, stream, text, run: Arc::clone(run) }
    }
}

/// Whether a record lies within the times asked for.
pub(crate) fn within(record: &Record<'_>, since: Option<Timestamp>, until: Option<Timestamp>) -> bool {
    since.is_none_or(|since| record.time >= since) && until.is_none_or(|until| record.time <= until)
}

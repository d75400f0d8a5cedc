//! Several logs as one, in the order of their times.

use super::LogError;
use super::LogLine;
use super::source::Source;
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// The next line of every source, the earliest first. It holds one line of each, so that logs of any size merge.
///
/// Lines of one source keep their order whatever their times; equal times of several come in the order of the
/// sources.
#[derive(Debug)]
pub(crate) struct Merge {
    sources: Vec<Source>,
    heads: Vec<Option<LogLine>>,
    order: BinaryHeap<Reverse<(Timestamp, usize)>>,
}

impl Merge {
    pub(crate) fn new(sources: Vec<Source>) -> Self {
        let heads = sources.iter().map(|_| None).collect();
        Self { sources, heads, order: BinaryHeap::new() }
    }

    /// The sources, to tell them what happened.
    pub(crate) fn source(&mut self, index: usize) -> Option<&mut Source> {
        self.sources.get_mut(index)
    }

    /// How many sources.
    pub(crate) fn len(&self) -> usize {
        self.sources.len()
    }

    /// Asks a source for its next line, if none of it waits.
    pub(crate) fn wake(&mut self, index: usize) -> Result<(), LogError> {
        let (Some(source), Some(head)) = (self.sources.get_mut(index), self.heads.get_mut(index)) else {
            return Ok(());
        };
        if head.is_none()
            && let Some(line) = source.next()?
        {
            self.order.push(Reverse((line.time, index)));
            *head = Some(line);
        }
        Ok(())
    }

    /// The earliest line of those that are there, and the source that it is from.
    pub(crate) fn pop(&mut self) -> Option<(usize, LogLine)> {
        let Reverse((_, index)) = self.order.pop()?;
        let line = self.heads.get_mut(index)?.take()?;
        Some((index, line))
    }
}

/// The lines of a finished query, earliest first. Made by [`read`](super::read).
#[derive(Debug)]
pub struct Lines {
    merge: Merge,
    /// The source whose line was given out last: it is asked first.
    last: Option<usize>,
    failed: VecDeque<LogError>,
}

impl Lines {
    pub(crate) fn new(sources: Vec<Source>) -> Self {
        let mut lines = Self { merge: Merge::new(sources), last: None, failed: VecDeque::new() };
        for index in 0..lines.merge.len() {
            lines.wake(index);
        }
        lines
    }

    /// A log that can't be read ends with its error; the others go on.
    fn wake(&mut self, index: usize) {
        if let Err(error) = self.merge.wake(index) {
            self.failed.push_back(error);
        }
    }
}

impl Iterator for Lines {
    type Item = Result<LogLine, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(index) = self.last.take() {
            self.wake(index);
        }
        if let Some(error) = self.failed.pop_front() {
            return Some(Err(error));
        }
        let (index, line) = self.merge.pop()?;
        self.last = Some(index);
        Some(Ok(line))
    }
}

//! One log file, read block by block: forwards as it grows, backwards from its end.

use super::LogError;
use super::format::MAX_LINE;
use super::run::FileId;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Bytes that are asked for at once.
const BLOCK: usize = 64 * 1024;

/// An open log file with a position in it. It stays readable after it was renamed or deleted.
#[derive(Debug)]
pub(crate) struct Segment {
    file: File,
    id: FileId,
    path: PathBuf,
    /// Where in the file the next block is read.
    offset: u64,
    /// Where reading ends though the file may have grown since.
    end: Option<u64>,
    buffer: Vec<u8>,
    /// What of `buffer` is not given out yet.
    unread: std::ops::Range<usize>,
    /// How much of `unread` is known to hold no line break.
    searched: usize,
}

impl Segment {
    pub(crate) fn new(file: File, id: FileId, path: PathBuf) -> Self {
        Self { file, id, path, offset: 0, end: None, buffer: Vec::new(), unread: 0..0, searched: 0 }
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// Bytes in it now.
    pub(crate) fn len(&self) -> Result<u64, LogError> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(|source| self.failed(source))
    }

    /// Starts again at this byte.
    pub(crate) fn seek(&mut self, offset: u64) {
        self.offset = offset;
        self.unread = 0..0;
        self.searched = 0;
    }

    /// Ends reading at this byte.
    pub(crate) fn end_at(&mut self, end: u64) {
        self.end = Some(end);
    }

    /// The next whole line without its line break; `None` if there is no whole one yet.
    pub(crate) fn next_line(&mut self) -> Result<Option<&[u8]>, LogError> {
        loop {
            let unsearched = self.buffer.get(self.unread.start + self.searched..self.unread.end);
            if let Some(found) = memchr::memchr(b'\n', unsearched.unwrap_or_default()) {
                let start = self.unread.start;
                let end = start + self.searched + found;
                self.unread.start = end + 1;
                self.searched = 0;
                return Ok(self.buffer.get(start..end));
            }
            self.searched = self.unread.len();
            if self.searched >= MAX_LINE {
                // Not written by a keeper, but it mustn't fill the memory either.
                return Ok(self.take_rest());
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// What stands behind the last line break.
    pub(crate) fn take_rest(&mut self) -> Option<&[u8]> {
        let rest = std::mem::replace(&mut self.unread, 0..0);
        self.searched = 0;
        self.buffer.get(rest).filter(|rest| !rest.is_empty())
    }

    /// Reads a block; whether there was one.
    fn fill(&mut self) -> Result<bool, LogError> {
        if self.unread.start > 0 {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        let mut room = BLOCK.max(self.unread.end);
        if let Some(end) = self.end {
            room = room.min(usize::try_from(end.saturating_sub(self.offset)).unwrap_or(room));
        }
        if self.buffer.len() < self.unread.end + room {
            self.buffer.resize(self.unread.end + room, 0);
        }
        let free = self.buffer.get_mut(self.unread.end..self.unread.end + room).unwrap_or_default();
        let count = retry(|| self.file.read_at(free, self.offset)).map_err(|source| self.failed(source))?;
        self.offset += count as u64;
        self.unread.end += count;
        Ok(count > 0)
    }

    fn failed(&self, source: io::Error) -> LogError {
        LogError::Read { path: self.path.clone(), source }
    }

    /// Reads it backwards from its end as it is now.
    pub(crate) fn backwards(&self) -> Result<Backwards<'_>, LogError> {
        let end = self.len()?;
        Ok(Backwards { segment: self, base: end, buffer: Vec::new(), end: None, finished: end == 0 })
    }
}

/// The lines of a [`Segment`] from the last to the first.
pub(crate) struct Backwards<'a> {
    segment: &'a Segment,
    /// Where in the file `buffer` begins.
    base: u64,
    buffer: Vec<u8>,
    /// Where in `buffer` the next line ends; `None` before the first.
    end: Option<usize>,
    finished: bool,
}

impl Backwards<'_> {
    /// The line before, with its place in the file; `None` before the first.
    pub(crate) fn previous_line(&mut self) -> Result<Option<(u64, &[u8])>, LogError> {
        if self.finished {
            return Ok(None);
        }
        let mut end = match self.end {
            Some(end) => end,
            None => {
                self.fill()?;
                // The last line break ends the last line; behind it is no line.
                self.buffer.len() - usize::from(self.buffer.last() == Some(&b'\n'))
            }
        };
        let mut searched = 0;
        loop {
            let unsearched = self.buffer.get(..end - searched).unwrap_or_default();
            if let Some(found) = memchr::memrchr(b'\n', unsearched) {
                self.end = Some(found);
                let place = self.base + found as u64 + 1;
                return Ok(self.buffer.get(found + 1..end).map(|line| (place, line)));
            }
            if self.base == 0 {
                self.finished = true;
                return Ok(self.buffer.get(..end).map(|line| (0, line)));
            }
            if end > MAX_LINE {
                end = 0;
            }
            searched = end;
            self.buffer.truncate(end);
            end += self.fill()?;
        }
    }

    /// Puts the block before in front of the buffer; its size.
    fn fill(&mut self) -> Result<usize, LogError> {
        let wanted = (BLOCK.max(self.buffer.len()) as u64).min(self.base);
        let mut block = vec![0; usize::try_from(wanted).unwrap_or(BLOCK)];
        self.base -= block.len() as u64;
        let mut count = 0;
        while count < block.len() {
            let free = block.get_mut(count..).unwrap_or_default();
            match retry(|| self.segment.file.read_at(free, self.base + count as u64)) {
                // Cut short by somebody else: what is missing reads as zeros, which are no record.
                Ok(0) => break,
                Ok(more) => count += more,
                Err(source) => return Err(self.segment.failed(source)),
            }
        }
        let size = block.len();
        block.append(&mut self.buffer);
        self.buffer = block;
        Ok(size)
    }
}

fn retry(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

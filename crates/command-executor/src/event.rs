//! What a process tells, as data, and the lines of its output without any IO.

use crate::process::Exit;

/// Longest line in bytes unless told otherwise; a longer one is delivered in parts.
pub const MAX_LINE: usize = 64 * 1024;

/// Something that happened to a process. The order: `Started`, lines, `Exited`, and nothing after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It runs.
    Started {
        /// Its process id, on the machine that launched it.
        pid: u32,
    },
    /// It wrote a line to its standard output.
    Stdout(Line),
    /// It wrote a line to its standard error.
    Stderr(Line),
    /// It ended, and so did everything that was left of its process group.
    Exited(Exit),
}

/// A line, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The bytes without the line break.
    pub text: Vec<u8>,
    /// Whether a line break followed. If not, the line goes on in the next one, or the output ended here.
    pub complete: bool,
}

/// Cuts bytes into lines, whatever they are and however they come.
///
/// A line longer than the limit comes in parts of exactly the limit, so that a process can't fill the memory. Where
/// the bytes were cut on their way changes nothing: the same bytes give the same lines.
#[derive(Clone, Debug)]
pub struct LineBuffer {
    limit: usize,
    begun: Vec<u8>,
}

impl LineBuffer {
    /// A buffer that holds at most `limit` bytes (at least 1).
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), begun: Vec::new() }
    }

    /// Takes bytes; calls `line` for every line or part that they complete.
    pub fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(Line)) {
        while !bytes.is_empty() {
            let room = self.limit - self.begun.len();
            // One byte more than fits: a break right after a full buffer belongs to it.
            let window = bytes.get(..=room).unwrap_or(bytes);
            match memchr::memchr(b'\n', window) {
                Some(end) => {
                    let (text, rest) = bytes.split_at(end);
                    self.begun.extend_from_slice(text);
                    line(Line { text: std::mem::take(&mut self.begun), complete: true });
                    bytes = rest.get(1..).unwrap_or_default();
                }
                None if bytes.len() > room => {
                    let (text, rest) = bytes.split_at(room);
                    self.begun.extend_from_slice(text);
                    line(Line { text: std::mem::take(&mut self.begun), complete: false });
                    bytes = rest;
                }
                None => {
                    self.begun.extend_from_slice(bytes);
                    return;
                }
            }
        }
    }

    /// At the end of the output: what came after the last line break.
    pub fn finish(&mut self) -> Option<Line> {
        let text = std::mem::take(&mut self.begun);
        (!text.is_empty()).then_some(Line { text, complete: false })
    }
}

impl Default for LineBuffer {
    fn default() -> Self {
        Self::new(MAX_LINE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(limit: usize, chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut buffer = LineBuffer::new(limit);
        let mut lines = Vec::new();
        for chunk in chunks {
            buffer.push(chunk, |line| lines.push((line.text, line.complete)));
        }
        lines.extend(buffer.finish().map(|line| (line.text, line.complete)));
        lines
    }

    #[test]
    fn a_long_line_comes_in_parts_and_a_full_one_does_not() {
        let part = |text: &[u8], complete| (text.to_vec(), complete);
        assert_eq!(lines(3, &[b"abc\n"]), [part(b"abc", true)]);
        assert_eq!(lines(3, &[b"abcd\n"]), [part(b"abc", false), part(b"d", true)]);
        assert_eq!(lines(3, &[b"abc"]), [part(b"abc", false)]);
        assert_eq!(lines(3, &[b"\n\n"]), [part(b"", true), part(b"", true)]);
        assert_eq!(lines(3, &[b""]), []);
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_changes_nothing(
            bytes in prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(b'\n')], 0..300),
            cuts in prop::collection::vec(0usize..300, 0..12),
            limit in 1usize..40,
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let whole = lines(limit, &[&bytes]);
            prop_assert_eq!(&lines(limit, &chunks), &whole);

            let mut again = Vec::new();
            for (text, complete) in &whole {
                prop_assert!(text.len() <= limit);
                again.extend_from_slice(text);
                again.extend(complete.then_some(b'\n'));
            }
            prop_assert_eq!(again, bytes);
        }
    }
}

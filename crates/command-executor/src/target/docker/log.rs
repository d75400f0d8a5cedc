//! Lines of `docker logs --timestamps`.
//!
//! An engine keeps what a container wrote in pieces, and puts the time before every piece: a longer line comes as
//! `TIME PIECE TIME PIECE`, without a break in between. Docker's pieces are of 16 KiB, and all of a line have one time;
//! podman's are of at least 8, and of any length. So behind so many bytes a time is the engine's, and taken out, if it is
//! not older than the line and less than a minute younger: what a program wrote itself was written before it was
//! received.

use crate::event::{Line, MAX_LINE};
use jiff::{SignedDuration, Timestamp};

/// Bytes that a piece has at least, unless it ends its line.
const PIECE: usize = 8 * 1024;
/// How much younger than its line a piece is at most.
const YOUNGER: SignedDuration = SignedDuration::from_secs(60);
/// The longest time that an engine writes (30 bytes, with an offset 35), with the blank after it.
const TIME: usize = 36;

/// A line that a container wrote, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerLogLine {
    /// When docker read its beginning; `None` if docker didn't say.
    pub time: Option<Timestamp>,
    /// The bytes without the line break, at most [`MAX_LINE`] of them.
    pub text: Vec<u8>,
    /// Whether a line break followed. If not, the line goes on in the next one, or the output ended here.
    pub complete: bool,
}

/// Puts the lines of one output of `docker logs --timestamps` together again: one for standard output, one for standard
/// error.
#[derive(Clone, Debug, Default)]
pub struct ContainerLog {
    /// Of the line being read.
    time: Option<Timestamp>,
    text: Vec<u8>,
    /// Bytes that can't be placed before more of them are seen.
    held: Vec<u8>,
    place: Place,
}

/// Where in a line it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Before the time of a line.
    #[default]
    Begin,
    /// In a piece, with so many bytes that are surely its own.
    Piece(usize),
    /// Where a piece may end anywhere.
    Long,
    /// In a line without a time.
    Whole,
}

impl ContainerLog {
    /// At the beginning of an output.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a line, or a part of one, as it came from the docker client; what became whole by it comes back.
    pub fn push(&mut self, line: &Line) -> Vec<ContainerLogLine> {
        let mut ready = Vec::new();
        self.held.extend_from_slice(&line.text);
        self.place_held(line.complete, &mut ready);
        if line.complete {
            self.end(true, &mut ready);
        }
        ready
    }

    /// At the end of the output: what came after the last line break.
    pub fn finish(&mut self) -> Vec<ContainerLogLine> {
        let mut ready = Vec::new();
        let begun = !self.held.is_empty() || self.place != Place::Begin;
        self.place_held(true, &mut ready);
        if begun {
            self.end(false, &mut ready);
        }
        ready
    }

    /// Moves held bytes to where they belong; `all` if no more will come for this line.
    fn place_held(&mut self, all: bool, ready: &mut Vec<ContainerLogLine>) {
        loop {
            match self.place {
                Place::Begin => {
                    if self.held.len() < TIME && !all {
                        return;
                    }
                    self.place = match split_time(&self.held) {
                        Some((time, used)) => {
                            self.time = Some(time);
                            self.held.drain(..used);
                            Place::Piece(PIECE)
                        }
                        None => Place::Whole,
                    };
                }
                Place::Piece(left) => {
                    let taken = self.take(left);
                    self.add(&taken, ready);
                    if taken.len() < left {
                        self.place = Place::Piece(left - taken.len());
                        return;
                    }
                    self.place = Place::Long;
                }
                Place::Long => {
                    let cut = self.find_cut(all);
                    let taken = self.take(cut.at);
                    self.add(&taken, ready);
                    if cut.time == 0 {
                        return;
                    }
                    self.held.drain(..cut.time);
                    self.place = Place::Piece(PIECE);
                }
                Place::Whole => {
                    let taken = std::mem::take(&mut self.held);
                    self.add(&taken, ready);
                    return;
                }
            }
        }
    }

    /// The first bytes of what is held.
    fn take(&mut self, bytes: usize) -> Vec<u8> {
        self.held.drain(..bytes.min(self.held.len())).collect()
    }

    /// The first time that is the engine's among what is held; without one, what can be placed.
    fn find_cut(&self, all: bool) -> Cut {
        let is_engines = |time: Timestamp| {
            self.time.is_some_and(|line| time >= line && time.duration_since(line) < YOUNGER)
        };
        for at in memchr::memchr_iter(b'T', &self.held) {
            // `2026-11-24T`
            let Some(begin) = at.checked_sub(10) else { continue };
            let rest = self.held.get(begin..).unwrap_or_default();
            if rest.len() < TIME && !all {
                return Cut { at: begin, time: 0 };
            }
            if let Some((_, used)) = split_time(rest).filter(|(time, _)| is_engines(*time)) {
                return Cut { at: begin, time: used };
            }
        }
        // A time may have begun in the last bytes.
        let kept = if all { 0 } else { TIME };
        Cut { at: self.held.len().saturating_sub(kept), time: 0 }
    }

    fn add(&mut self, mut bytes: &[u8], ready: &mut Vec<ContainerLogLine>) {
        while self.text.len() + bytes.len() > MAX_LINE {
            let (part, rest) = bytes.split_at(MAX_LINE - self.text.len());
            self.text.extend_from_slice(part);
            let text = std::mem::take(&mut self.text);
            ready.push(ContainerLogLine { time: self.time, text, complete: false });
            bytes = rest;
        }
        self.text.extend_from_slice(bytes);
    }

    fn end(&mut self, complete: bool, ready: &mut Vec<ContainerLogLine>) {
        let text = std::mem::take(&mut self.text);
        ready.push(ContainerLogLine { time: self.time.take(), text, complete });
        self.place = Place::Begin;
    }
}

/// Where a piece ends, and how many bytes the time behind it takes; none if the piece may go on.
struct Cut {
    at: usize,
    time: usize,
}

/// A time with its blank at the very beginning, and their length.
fn split_time(bytes: &[u8]) -> Option<(Timestamp, usize)> {
    let window = bytes.get(..TIME).unwrap_or(bytes);
    let end = memchr::memchr(b' ', window)?;
    let text = std::str::from_utf8(window.get(..end)?).ok()?;
    // With all nine digits of the nanoseconds, as few programs write it themselves.
    let time = (text.len() >= 30).then(|| text.parse().ok())??;
    Some((time, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::LineBuffer;
    use proptest::prelude::*;

    const AT: &str = "2026-11-24T21:29:26.192374107Z ";

    fn read(bytes: &[u8], chunk: usize) -> Vec<ContainerLogLine> {
        let (mut buffer, mut log) = (LineBuffer::default(), ContainerLog::new());
        let mut lines = Vec::new();
        for chunk in bytes.chunks(chunk.max(1)) {
            buffer.push(chunk, |line| lines.extend(log.push(&line)));
        }
        lines.extend(buffer.finish().into_iter().flat_map(|line| log.push(&line)));
        lines.extend(log.finish());
        lines
    }

    /// As an engine prints lines: so many bytes at a time.
    fn engine(lines: &[Vec<u8>], piece: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in lines {
            let mut pieces: Vec<&[u8]> = line.chunks(piece).collect();
            if line.len().is_multiple_of(piece) {
                pieces.push(b"");
            }
            for piece in pieces {
                bytes.extend_from_slice(AT.as_bytes());
                bytes.extend_from_slice(piece);
            }
            bytes.push(b'\n');
        }
        bytes
    }

    #[test]
    fn times_between_pieces_are_taken_out_and_others_stay() {
        let long = |length| vec![b'x'; length];
        let with = |at: usize, text: &str| {
            let mut line = long(PIECE + 300);
            line.splice(at..at, text.bytes());
            line
        };
        let lines = [
            b"short".to_vec(),
            Vec::new(),
            long(PIECE - 1),
            long(PIECE),
            long(PIECE + 1),
            long(2 * PIECE),
            long(3 * PIECE),
            long(7 * PIECE + 5),
            with(100, AT),
            with(PIECE + 100, "2026-11-24T21:29:26.192374106Z "),
            with(PIECE + 100, "2026-11-24T21:30:26.192374107Z "),
            with(PIECE + 100, "TTTT2026-11-24T21:29:26.19237410"),
            AT.as_bytes().to_vec(),
        ];
        let odd = 12286;
        for (chunk, piece) in [
            (1, 16384),
            (7, PIECE),
            (4096, 16384),
            (usize::MAX, 16384),
            (usize::MAX, PIECE),
            (11, odd),
            (4096, odd),
        ] {
            let read = read(&engine(&lines, piece), chunk);
            assert_eq!(read.len(), lines.len());
            for (read, line) in read.iter().zip(&lines) {
                assert!(read.text == *line && read.complete, "{} bytes", line.len());
                assert_eq!(read.time, Some(AT.trim().parse().unwrap()));
            }
        }
    }

    #[test]
    fn what_is_not_of_an_engine_comes_as_it_is() {
        let line = |text: &[u8], complete| ContainerLogLine { time: None, text: text.to_vec(), complete };
        assert_eq!(
            read(b"plain\n\n2026-11-24 x\nend", 3),
            [line(b"plain", true), line(b"", true), line(b"2026-11-24 x", true), line(b"end", false)]
        );
        let podman = read(b"2026-11-24T21:29:26.192374107+01:00 hi\n", 5);
        assert_eq!(podman[0].text, b"hi");
        assert_eq!(podman[0].time.unwrap().to_string(), "2026-11-24T20:29:26.192374107Z");
        assert_eq!(read(b"", 1), []);
    }

    #[test]
    fn a_line_without_an_end_comes_in_bounded_parts() {
        let bytes = engine(&[vec![b'y'; 5 * MAX_LINE]], 16384);
        let lines = read(&bytes, 999);
        assert!(lines.iter().all(|line| line.text.len() <= MAX_LINE));
        assert_eq!(lines.iter().map(|line| line.text.len()).sum::<usize>(), 5 * MAX_LINE);
        assert_eq!(lines.iter().filter(|line| line.complete).count(), 1);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_none_are_lost(
            bytes in prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(b'\n')], 0..200),
            chunk in 1usize..50,
        ) {
            let lines = read(&bytes, chunk);
            let mut again = Vec::new();
            for line in lines.iter().filter(|line| line.time.is_none()) {
                again.extend_from_slice(&line.text);
                again.extend(line.complete.then_some(b'\n'));
            }
            if lines.iter().all(|line| line.time.is_none()) {
                prop_assert_eq!(again, bytes);
            }
        }
    }
}

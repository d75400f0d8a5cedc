//! One line of a log file, in the container log format of Kubernetes' CRI.
//!
//! `2026-11-23T10:00:00.123456789Z stdout F text`: when, which stream, whether the line is full (`F`) or goes on in
//! the next record of that stream (`P`), and the bytes as they were written, without the line break.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Longest line in bytes that is put together again; a longer one comes in parts of this size.
pub const MAX_LINE: usize = 16 * 1024 * 1024;

/// Bytes of `2026-11-23T10:00:00`.
const SECOND: usize = 19;
/// Bytes of `2026-11-23T10:00:00.123456789Z`.
const NANOSECOND: usize = 30;

/// Which output of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One record of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was read from the process.
    pub time: Timestamp,
    /// From where.
    pub stream: Stream,
    /// Whether the line goes on in the next record of the same stream.
    pub partial: bool,
    /// The bytes, without line break.
    pub text: &'a [u8],
}

/// Writes a record with its line break behind what `out` holds. The bytes must hold no line break.
pub fn write(out: &mut Vec<u8>, time: Timestamp, stream: Stream, partial: bool, text: &[u8]) {
    let stream = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let tag = if partial { 'P' } else { 'F' };
    out.extend_from_slice(format!("{time:.9} {stream} {tag} ").as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// Reads records. It remembers the second of the last one, because most lines share theirs with their neighbours.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    second: [u8; SECOND],
    unix: Option<i64>,
}

impl Parser {
    /// The record that a line (without its line break) holds; `None` if it isn't one.
    pub fn parse<'a>(&mut self, line: &'a [u8]) -> Option<Record<'a>> {
        let (time, rest) = line.split_at_checked(memchr::memchr(b' ', line.get(..64).unwrap_or(line))?)?;
        let time = self.time(time)?;
        let (stream, rest) = match rest.split_at_checked(8)? {
            (b" stdout ", rest) => (Stream::Stdout, rest),
            (b" stderr ", rest) => (Stream::Stderr, rest),
            _ => return None,
        };
        let (partial, text) = match rest {
            [b'F', b' ', text @ ..] => (false, text),
            [b'P', b' ', text @ ..] => (true, text),
            [b'F'] => (false, &[][..]),
            [b'P'] => (true, &[][..]),
            // The format allows further tags, `F:more text`; nobody defines one yet.
            [tag @ (b'F' | b'P'), b':', more @ ..] => {
                (*tag == b'P', more.get(memchr::memchr(b' ', more)? + 1..)?)
            }
            _ => return None,
        };
        Some(Record { time, stream, partial, text })
    }

    fn time(&mut self, text: &[u8]) -> Option<Timestamp> {
        if let Some(unix) = self.unix
            && text.len() == NANOSECOND
            && text.starts_with(&self.second)
            && text.get(SECOND) == Some(&b'.')
            && text.last() == Some(&b'Z')
        {
            let mut nanosecond = 0i32;
            for digit in text.get(SECOND + 1..NANOSECOND - 1)? {
                if !digit.is_ascii_digit() {
                    return None;
                }
                nanosecond = nanosecond * 10 + i32::from(digit - b'0');
            }
            return Timestamp::new(unix, nanosecond).ok();
        }
        let time: Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
        // Only times since 1970 in UTC: before, the parts of a second count backwards.
        if text.len() == NANOSECOND && text.ends_with(b"Z") && time.as_second() > 0 {
            self.second.copy_from_slice(text.get(..SECOND)?);
            self.unix = Some(time.as_second());
        }
        Some(time)
    }
}

/// A line as the process wrote it, put together from its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) time: Timestamp,
    pub(crate) stream: Stream,
    pub(crate) text: Vec<u8>,
}

/// Puts `P` records and the `F` that ends them together, each stream for itself.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    stdout: Option<(Timestamp, Vec<u8>)>,
    stderr: Option<(Timestamp, Vec<u8>)>,
}

impl Joiner {
    /// Takes a record; the line, if it ends one. A line carries the time of its first record.
    pub(crate) fn push(&mut self, record: &Record<'_>) -> Option<Joined> {
        let stream = record.stream;
        let begun = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let (time, text) = match begun.take() {
            None => (record.time, record.text.to_vec()),
            Some((time, mut text)) => {
                text.extend_from_slice(record.text);
                (time, text)
            }
        };
        if record.partial && text.len() < MAX_LINE {
            *begun = Some((time, text));
            return None;
        }
        Some(Joined { time, stream, text })
    }

    /// Whether no line is begun.
    pub(crate) fn is_empty(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// The lines that were begun and will not be ended, the older first.
    pub(crate) fn finish(&mut self) -> impl Iterator<Item = Joined> + use<> {
        let line = |begun: Option<(Timestamp, Vec<u8>)>, stream| {
            begun.map(|(time, text)| Joined { time, stream, text })
        };
        let mut lines = [line(self.stdout.take(), Stream::Stdout), line(self.stderr.take(), Stream::Stderr)];
        lines.sort_by_key(|line| line.as_ref().map(|line| line.time));
        lines.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[u8]) -> Option<Record<'_>> {
        Parser::default().parse(line)
    }

    #[test]
    fn a_record_has_four_parts() {
        let record = parse(b"2026-11-23T10:00:00.123456789Z stderr F a b\xff").unwrap();
        assert_eq!(record.time, "2026-11-23T10:00:00.123456789Z".parse().unwrap());
        assert_eq!(record.stream, Stream::Stderr);
        assert!(!record.partial);
        assert_eq!(record.text, b"a b\xff");
    }

    #[test]
    fn an_empty_text_and_other_tags_are_read() {
        assert_eq!(parse(b"2026-11-23T10:00:00Z stdout F ").unwrap().text, b"");
        assert_eq!(parse(b"2026-11-23T10:00:00Z stdout F").unwrap().text, b"");
        let tagged = parse(b"2026-11-23T10:00:00Z stdout P:x:y text").unwrap();
        assert_eq!((tagged.partial, tagged.text), (true, &b"text"[..]));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for line in [
            &b""[..],
            b" ",
            b"text",
            b"2026-11-23T10:00:00Z",
            b"2026-11-23T10:00:00Z stdout ",
            b"2026-11-23T10:00:00Z stdfoo F x",
            b"2026-11-23T10:00:00Z stdout X x",
            b"2026-13-23T10:00:00Z stdout F x",
            b"\xff\xff stdout F x",
        ] {
            assert_eq!(parse(line), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn the_remembered_second_changes_no_time() {
        let mut parser = Parser::default();
        for time in [
            "2026-11-23T10:00:00.123456789Z",
            "2026-11-23T10:00:00.000000000Z",
            "2026-11-23T10:00:00.999999999Z",
            "2026-11-23T10:00:01.5Z",
            "2026-11-23T10:00:00.123456789+01:00",
            "2026-11-23T10:00:01.000000001Z",
        ] {
            let line = format!("{time} stdout F x");
            assert_eq!(parser.parse(line.as_bytes()).unwrap().time, time.parse().unwrap(), "{time}");
        }
        assert!(parser.parse(b"2026-11-23T10:00:01.00000000xZ stdout F x").is_none());
    }

    #[test]
    fn parts_of_both_streams_join_apart() {
        let mut parser = Parser::default();
        let mut joiner = Joiner::default();
        let mut lines = Vec::new();
        for line in [
            &b"2026-11-23T10:00:00Z stdout P a"[..],
            b"2026-11-23T10:00:01Z stderr P x",
            b"2026-11-23T10:00:02Z stdout P b",
            b"2026-11-23T10:00:03Z stderr F y",
            b"2026-11-23T10:00:04Z stdout F c",
            b"2026-11-23T10:00:05Z stdout P begun",
        ] {
            lines.extend(joiner.push(&parser.parse(line).unwrap()));
        }
        lines.extend(joiner.finish());
        let texts: Vec<_> = lines.iter().map(|line| line.text.as_slice()).collect();
        assert_eq!(texts, [&b"xy"[..], b"abc", b"begun"]);
        assert_eq!(lines[1].time, "2026-11-23T10:00:00Z".parse().unwrap());
    }
}

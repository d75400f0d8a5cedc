//! What the tempers write and the checker looks for: numbered lines whose content follows from their number, and beside
//! them, in files of their own, how far each writer came.
//!
//! Shared by the chore and by the program `temper`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The longest payload in bytes.
pub(crate) const MAX_PAYLOAD: usize = 2 << 20;

/// Variable that names the folder of truth, locks and violations.
pub(crate) const FOLDER: &str = "TORTURE_DIR";

/// The writer that writes to standard error.
pub(crate) const ERROR_WRITER: &str = "e";

const LETTERS: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";

/// Appends line `seq` of `writer`, with its line break: `T WRITER SEQ LEN PAYLOAD`.
pub(crate) fn compose(out: &mut Vec<u8>, writer: &str, seq: u64, len: usize) {
    let len = len.min(MAX_PAYLOAD);
    out.extend_from_slice(format!("T {writer} {seq} {len} ").as_bytes());
    let shift = shift(seq);
    out.extend(LETTERS.iter().cycle().skip(shift).take(len));
    out.push(b'\n');
}

fn shift(seq: u64) -> usize {
    usize::try_from(seq % 26).unwrap_or(0)
}

/// What a line of a log is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read<'a> {
    /// A line as it was written.
    Whole {
        /// Who wrote it.
        writer: &'a str,
        /// Its number, from 1.
        seq: u64,
    },
    /// The beginning of a line.
    Cut {
        /// Who wrote it.
        writer: &'a str,
        /// Its number.
        seq: u64,
    },
    /// Too short to say whose it is.
    Fragment,
    /// Nothing that a temper writes.
    Foreign,
}

/// Recognises a line (without its line break).
pub(crate) fn read(text: &[u8]) -> Read<'_> {
    let mut parts = text.splitn(5, |byte| *byte == b' ');
    let (Some(mark), writer, seq, len, payload) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Read::Foreign;
    };
    if mark != b"T" {
        return if mark.is_empty() { Read::Fragment } else { Read::Foreign };
    }
    let (Some(writer), Some(seq), Some(len), Some(payload)) = (writer, seq, len, payload) else {
        return Read::Fragment;
    };
    let text_of = |bytes| std::str::from_utf8(bytes).ok();
    let (Some(writer), Some(seq), Some(len)) = (
        text_of(writer),
        text_of(seq).and_then(|text| text.parse::<u64>().ok()),
        text_of(len).and_then(|text| text.parse::<usize>().ok()),
    ) else {
        return Read::Foreign;
    };
    let right = LETTERS.iter().cycle().skip(shift(seq)).zip(payload).all(|(letter, byte)| letter == byte);
    match payload.len().cmp(&len) {
        _ if !right => Read::Foreign,
        std::cmp::Ordering::Equal => Read::Whole { writer, seq },
        std::cmp::Ordering::Less => Read::Cut { writer, seq },
        std::cmp::Ordering::Greater => Read::Foreign,
    }
}

/// How far a writer came: written down before and after each write, so that it is right whenever the writer is killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Lines up to this number may be in the pipe.
    pub(crate) attempted: u64,
    /// Lines up to this number are: the write has returned.
    pub(crate) written: u64,
}

/// The file of a writer's progress.
pub(crate) struct Truth(File);

impl Truth {
    /// Makes it.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        file.write_all_at(&[0; 16], 0)?;
        Ok(Self(file))
    }

    /// Lines up to `seq` are about to be written.
    pub(crate) fn attempt(&self, seq: u64) -> io::Result<()> {
        self.0.write_all_at(&seq.to_le_bytes(), 0)
    }

    /// Lines up to `seq` were written.
    pub(crate) fn written(&self, seq: u64) -> io::Result<()> {
        self.0.write_all_at(&seq.to_le_bytes(), 8)
    }

    /// What a file says; nothing was attempted by a writer killed before it could write it.
    pub(crate) fn read(bytes: &[u8]) -> Progress {
        let number = |at: usize| {
            let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u64::from_le_bytes).unwrap_or(0)
        };
        Progress { attempted: number(0), written: number(8) }
    }
}

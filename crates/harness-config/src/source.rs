//! The texts that were read, and where in them something stands.

use std::io;
use std::path::{Path, PathBuf};

/// The largest configuration or environment file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// A range of bytes in one of the [`Sources`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Which source, in the order in which they were read.
    pub source: u32,
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

impl Span {
    pub(crate) fn new(source: u32, start: usize, end: usize) -> Self {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { source, start: small(start), end: small(end.max(start)) }
    }

    /// A part of this span, `from` and `to` counted from its start.
    pub(crate) fn part(self, from: usize, to: usize) -> Self {
        Self::new(self.source, self.start as usize + from, self.start as usize + to)
    }
}

/// A text that was read: services.yaml itself, or an `env_file`.
#[derive(Clone, Debug)]
pub struct Source {
    /// How the user knows it.
    pub name: String,
    /// Its content.
    pub text: String,
    lines: Vec<u32>,
}

/// Every text that was read, in order; the first is services.yaml.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    all: Vec<Source>,
}

/// A place as people count: both from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Sources {
    pub(crate) fn add(&mut self, name: String, text: String) -> u32 {
        let mut lines = vec![0];
        lines.extend(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at as u32 + 1));
        self.all.push(Source { name, text, lines });
        (self.all.len() - 1) as u32
    }

    /// The source with this number, where there is one.
    pub fn get(&self, source: u32) -> Option<&Source> {
        self.all.get(source as usize)
    }

    /// Its text, empty where there is none.
    pub(crate) fn text(&self, source: u32) -> &str {
        self.get(source).map_or("", |source| &source.text)
    }

    /// Line and column of the beginning of `span`.
    pub fn position(&self, span: Span) -> Position {
        let Some(source) = self.get(span.source) else { return Position { line: 1, column: 1 } };
        let line = source.line_of(span.start);
        let begin = source.lines.get(line).copied().unwrap_or(0) as usize;
        let before = source.text.get(begin..span.start as usize).unwrap_or("");
        Position { line: line + 1, column: before.chars().count() + 1 }
    }
}

impl Source {
    /// The line (from 0) that the byte at `offset` is on.
    fn line_of(&self, offset: u32) -> usize {
        self.lines.partition_point(|begin| *begin <= offset).saturating_sub(1)
    }

    /// The lines (from 0) that `start..end` touches, with the byte range of their text.
    pub(crate) fn lines_around(&self, start: u32, end: u32) -> (usize, std::ops::Range<usize>) {
        let first = self.line_of(start);
        let last = self.line_of(end.saturating_sub(1).max(start));
        let from = self.lines.get(first).copied().unwrap_or(0) as usize;
        let to = self.lines.get(last + 1).map_or(self.text.len(), |next| *next as usize);
        (first, from..to.max(from))
    }
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A file.
    File {
        /// Whether someone may execute it.
        executable: bool,
    },
    /// A folder.
    Folder,
    /// A device, socket or the like.
    Other,
}

/// The files of the machine, as far as configuration is concerned: a seam for tests and fuzzing.
pub trait Files {
    /// The content of a file, at most `limit` bytes of it.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// What stands there, following links; `None` where nothing does or it can't be seen.
    fn kind(&self, path: &Path) -> Option<FileKind>;
}

/// The files of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        use io::Read as _;
        let kind = std::fs::metadata(path)?.file_type();
        if kind.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // A pipe or a device could block for ever.
        if !kind.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn kind(&self, path: &Path) -> Option<FileKind> {
        use std::os::unix::fs::PermissionsExt as _;
        let data = std::fs::metadata(path).ok()?;
        Some(if data.is_dir() {
            FileKind::Folder
        } else if data.is_file() {
            FileKind::File { executable: data.permissions().mode() & 0o111 != 0 }
        } else {
            FileKind::Other
        })
    }
}

/// No files at all: what a fuzzer or a test of pure text wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &Path, _: u64) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn kind(&self, _: &Path) -> Option<FileKind> {
        None
    }
}

/// Why a file could not be read as text.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error("can't read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// More than [`MAX_FILE_BYTES`].
    #[error("{} is larger than {} MiB", path.display(), MAX_FILE_BYTES >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Bytes that are no UTF-8.
    #[error("{} is not UTF-8 at line {}, column {}", path.display(), position.line, position.column)]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first wrong byte.
        position: Position,
    },
}

/// The text of a file.
pub(crate) fn read_text(files: &dyn Files, path: &Path) -> Result<String, ReadError> {
    let bytes =
        files.read(path, MAX_FILE_BYTES + 1).map_err(|source| ReadError::Io { path: path.into(), source })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ReadError::TooLarge { path: path.into() });
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let good = String::from_utf8_lossy(error.as_bytes().get(..at).unwrap_or_default()).into_owned();
        let line = good.matches('\n').count() + 1;
        let column = good.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
        ReadError::NotUtf8 { path: path.into(), position: Position { line, column } }
    })
}

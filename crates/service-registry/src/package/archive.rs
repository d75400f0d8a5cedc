//! The loop over an archive: compressed tar in, one checked entry after the other out. Nothing here writes a file.

use super::hash::{Digest, Hashing};
use super::name::{self, PathProblem};
use super::tree::{EntryProblem, Kind, Tree};
use std::cell::Cell;
use std::io::{self, BufRead as _, BufReader, Cursor, Read};
use std::rc::Rc;
use tar::{EntryType, Header, PaxExtensions};

/// Bytes of a tar block.
const BLOCK: usize = 512;
/// Bytes of the largest extended header: a path and what else a tar program notes.
const MAX_EXTENDED: u64 = 64 * 1024;
/// Bytes of zeros after the end, at most: tar programs fill up to a record of 10 KiB, some to 1 MiB.
const MAX_PADDING: u64 = 1 << 20;
/// Bytes that may come of few compressed ones before their ratio counts.
const RATIO_FROM: u64 = 16 << 20;
/// The largest window of zstd that is accepted, as a power of two: 128 MiB, what the zstd program accepts too.
const MAX_WINDOW: u32 = 27;

/// What a package may need.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes unpacked, everything counted.
    pub unpacked: u64,
    /// Entries.
    pub entries: usize,
    /// Bytes that come of one compressed byte, once it is more than 16 MiB. Text reaches 20, zeros 10,000.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { unpacked: 32 << 30, entries: 100_000, ratio: 250 }
    }
}

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Neither zstd nor gzip.
    #[error("not a package: neither zstd nor gzip")]
    Format,
    /// It ends too early.
    #[error("truncated: it ends in the middle")]
    Truncated,
    /// It can't be decompressed, or a header of it is damaged.
    #[error("damaged: {0}")]
    Damaged(String),
    /// Something comes after the end.
    #[error("something comes after its end")]
    Trailing,
    /// Too much of something.
    #[error("larger than allowed: more than {0}")]
    TooLarge(String),
    /// An entry that can't be in a package.
    #[error("{path}: {problem}")]
    Entry {
        /// Its path, what can't be shown escaped.
        path: String,
        /// What is wrong with it.
        problem: EntryProblem,
    },
    /// The file can't be read.
    #[error("can't read it")]
    Read(#[source] io::Error),
}

impl ArchiveError {
    pub(super) fn entry(path: &[u8], problem: impl Into<EntryProblem>) -> Self {
        let path = String::from_utf8_lossy(path).escape_debug().to_string();
        Self::Entry { path, problem: problem.into() }
    }
}

/// A limit that was reached, on its way through [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reached(String);

/// What a reader of the decompressed bytes said.
impl From<io::Error> for ArchiveError {
    fn from(error: io::Error) -> Self {
        if let Some(Reached(limit)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            return Self::TooLarge(limit.clone());
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            // What the operating system says is about the file, all else about what is in it.
            _ if error.raw_os_error().is_some() => Self::Read(error),
            _ => Self::Damaged(error.to_string()),
        }
    }
}

/// An entry of an archive.
pub(super) enum Entry<'a> {
    Folder,
    File { executable: bool, size: u64, content: &'a mut dyn Read },
    Link { says: String },
}

/// What an archive held.
pub(super) struct Walked {
    pub(super) tree: Tree,
    /// The digest of the archive as it was read, compressed.
    pub(super) digest: Digest,
    /// Its bytes.
    pub(super) length: u64,
}

/// Reads an archive to its end and gives each entry to `each`, checked by itself and against those before it. The content
/// of a file may be read by `each`, or not.
pub(super) fn walk<E: From<ArchiveError>>(
    archive: impl Read,
    limits: &Limits,
    each: &mut dyn FnMut(&str, Entry<'_>) -> Result<(), E>,
) -> Result<Walked, E> {
    let packed = Rc::new(Cell::new(0));
    let source = Counting { reader: Hashing::new(archive), count: Rc::clone(&packed) };
    let decoder = Decoder::new(source)?;
    let mut unpacked = Bounded { reader: decoder, packed, count: 0, limits: *limits };
    let mut tree = Tree::default();
    entries(&mut unpacked, limits, &mut tree, each)?;
    let source = unpacked.reader.finish()?;
    if let Some((path, problem)) = tree.bad_links().next() {
        return Err(ArchiveError::entry(path.as_bytes(), problem).into());
    }
    let length = source.length();
    Ok(Walked { tree, digest: source.finish(), length })
}

fn entries<E: From<ArchiveError>>(
    reader: &mut dyn Read,
    limits: &Limits,
    tree: &mut Tree,
    each: &mut dyn FnMut(&str, Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut extended = Extended::default();
    let mut count = 0;
    loop {
        let mut block = [0; BLOCK];
        reader.read_exact(&mut block).map_err(ArchiveError::from)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(padding(reader)?);
        }
        count += 1;
        if count > limits.entries.saturating_mul(2) {
            return Err(ArchiveError::TooLarge(format!("{} entries", limits.entries)).into());
        }
        let header = Header::from_byte_slice(&block);
        let size = checked_size(header)?;
        match header.entry_type() {
            EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink => {
                extended.read(header.entry_type(), &content(reader, size)?)?;
            }
            _ => entry(reader, header, std::mem::take(&mut extended), size, tree, each)?,
        }
    }
}

/// One entry with its content.
fn entry<E: From<ArchiveError>>(
    reader: &mut dyn Read,
    header: &Header,
    extended: Extended,
    size: u64,
    tree: &mut Tree,
    each: &mut dyn FnMut(&str, Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let size = extended.size.unwrap_or(size);
    let raw = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let refuse = |problem: EntryProblem| E::from(ArchiveError::entry(&raw, problem));
    let kind = header.entry_type();
    if let Some(problem) = foreign(kind) {
        return Err(refuse(EntryProblem::Kind(problem)));
    }
    if header.mode().map_err(ArchiveError::from)? & 0o7000 != 0 {
        return Err(refuse(EntryProblem::Rights));
    }
    // `tar -c .` writes every path with `./` before it, and the folder itself as `./`.
    let mut bytes = raw.as_slice();
    while let Some(rest) = bytes.strip_prefix(b"./") {
        bytes = rest;
    }
    if kind.is_dir() {
        bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
        if bytes.is_empty() || bytes == b"." {
            return if raw.starts_with(b".") { Ok(()) } else { Err(refuse(PathProblem::Absolute.into())) };
        }
    }
    let path = name::path(bytes).map_err(|problem| refuse(problem.into()))?;
    if !kind.is_file() && size > 0 {
        return Err(ArchiveError::Damaged(format!("{path} has a content that only files have")).into());
    }
    if kind.is_dir() {
        tree.add(path, Kind::Folder { listed: true }).map_err(refuse)?;
        return each(path, Entry::Folder);
    }
    if kind.is_symlink() {
        let says = extended.link.or_else(|| header.link_name_bytes().map(Into::into)).unwrap_or_default();
        let says = tree.add_link(path, &says).map_err(refuse)?;
        return each(path, Entry::Link { says });
    }
    let executable = header.mode().map_err(ArchiveError::from)? & 0o111 != 0;
    tree.add(path, Kind::File { executable }).map_err(refuse)?;
    let mut content = reader.take(size);
    each(path, Entry::File { executable, size, content: &mut content })?;
    // What `each` didn't want, and the rest of the last block.
    let left = content.limit();
    skip(reader, left + (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64)?;
    Ok(())
}

/// What an entry is that a package doesn't hold.
fn foreign(kind: EntryType) -> Option<&'static str> {
    match kind {
        EntryType::Regular | EntryType::Directory | EntryType::Symlink => None,
        EntryType::Link => Some("a hard link"),
        EntryType::Char | EntryType::Block => Some("a device"),
        EntryType::Fifo => Some("a pipe"),
        EntryType::GNUSparse => Some("a sparse file"),
        EntryType::XGlobalHeader => Some("a header for all entries"),
        _ => Some("an entry of an unknown kind"),
    }
}

fn checked_size(header: &Header) -> Result<u64, ArchiveError> {
    let bytes = header.as_bytes();
    let sum: u32 = bytes
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
        .sum();
    let damaged = |what: &str| ArchiveError::Damaged(format!("{what} of a tar header"));
    if header.cksum().map_err(|_| damaged("the checksum"))? != sum {
        return Err(damaged("the checksum"));
    }
    header.entry_size().map_err(|_| damaged("the size"))
}

/// The content of an extended header, and the rest of its last block.
fn content(reader: &mut dyn Read, size: u64) -> Result<Vec<u8>, ArchiveError> {
    if size > MAX_EXTENDED {
        return Err(ArchiveError::TooLarge(format!("{} KiB of an extended header", MAX_EXTENDED >> 10)));
    }
    let padded = size.next_multiple_of(BLOCK as u64);
    let mut bytes = vec![0; usize::try_from(padded).unwrap_or_default()];
    reader.read_exact(&mut bytes)?;
    bytes.truncate(usize::try_from(size).unwrap_or_default());
    Ok(bytes)
}

fn skip(reader: &mut dyn Read, count: u64) -> Result<(), ArchiveError> {
    let skipped = io::copy(&mut reader.take(count), &mut io::sink())?;
    if skipped < count { Err(ArchiveError::Truncated) } else { Ok(()) }
}

/// After a block of zeros there is at least one more, and nothing but zeros.
fn padding(reader: &mut dyn Read) -> Result<(), ArchiveError> {
    let mut buffer = [0; 8192];
    let mut total = 0;
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return if total < BLOCK as u64 { Err(ArchiveError::Truncated) } else { Ok(()) };
        }
        total += count as u64;
        if total > MAX_PADDING || buffer.get(..count).unwrap_or_default().iter().any(|byte| *byte != 0) {
            return Err(ArchiveError::Trailing);
        }
    }
}

/// What stands before an entry because its header has no room for it.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extended {
    fn read(&mut self, kind: EntryType, content: &[u8]) -> Result<(), ArchiveError> {
        // GNU's end with a NUL, which is no part of them.
        let plain = || content.strip_suffix(b"\0").unwrap_or(content).to_vec();
        match kind {
            EntryType::GNULongName => once(&mut self.path, plain()),
            EntryType::GNULongLink => once(&mut self.link, plain()),
            _ => self.pax(content),
        }
    }

    fn pax(&mut self, content: &[u8]) -> Result<(), ArchiveError> {
        let damaged = || ArchiveError::Damaged("an extended header".into());
        for record in PaxExtensions::new(content) {
            let record = record.map_err(|_| damaged())?;
            match record.key_bytes() {
                b"path" => once(&mut self.path, record.value_bytes().to_vec())?,
                b"linkpath" => once(&mut self.link, record.value_bytes().to_vec())?,
                b"size" => {
                    let size = record.value().ok().and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
                    once(&mut self.size, size)?;
                }
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(ArchiveError::Damaged("a sparse file, which packages don't have".into()));
                }
                // Times, owners and the like are not carried.
                _ => {}
            }
        }
        Ok(())
    }
}

/// Two programs may take different ones of two names: there is only one.
fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), ArchiveError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ArchiveError::Damaged("an entry with two names or sizes".into())),
    }
}

/// Counts what is read of the compressed file.
struct Counting<R> {
    reader: Hashing<R>,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

/// Ends when more comes out than may.
struct Bounded<R> {
    reader: R,
    packed: Rc<Cell<u64>>,
    count: u64,
    limits: Limits,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.count += count as u64;
        let Limits { unpacked, ratio, .. } = self.limits;
        if self.count > unpacked {
            return Err(io::Error::other(Reached(format!("{unpacked} bytes unpacked"))));
        }
        if self.count > RATIO_FROM && self.count / ratio.max(1) > self.packed.get() {
            return Err(io::Error::other(Reached(format!(
                "{ratio} bytes from each compressed one, like a bomb"
            ))));
        }
        Ok(count)
    }
}

type Source<R> = BufReader<io::Chain<Cursor<Vec<u8>>, Counting<R>>>;

enum Decoder<R: Read> {
    Zstd(Box<zstd::Decoder<'static, Source<R>>>),
    Gzip(Box<flate2::bufread::GzDecoder<Source<R>>>),
}

impl<R: Read> Decoder<R> {
    fn new(mut source: Counting<R>) -> Result<Self, ArchiveError> {
        let mut magic = Vec::new();
        source.by_ref().take(4).read_to_end(&mut magic)?;
        let kind = magic.clone();
        let source = BufReader::with_capacity(128 * 1024, Cursor::new(magic).chain(source));
        if kind == [0x28, 0xb5, 0x2f, 0xfd] {
            let mut decoder = zstd::Decoder::with_buffer(source)?;
            decoder.window_log_max(MAX_WINDOW)?;
            Ok(Self::Zstd(Box::new(decoder)))
        } else if kind.starts_with(&[0x1f, 0x8b]) {
            Ok(Self::Gzip(Box::new(flate2::bufread::GzDecoder::new(source))))
        } else {
            Err(ArchiveError::Format)
        }
    }

    /// The compressed file, read to its end.
    fn finish(self) -> Result<Hashing<R>, ArchiveError> {
        let mut source = match self {
            Self::Zstd(decoder) => decoder.finish(),
            Self::Gzip(decoder) => decoder.into_inner(),
        };
        if !source.fill_buf()?.is_empty() {
            return Err(ArchiveError::Trailing);
        }
        Ok(source.into_inner().into_inner().1.reader)
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Zstd(decoder) => decoder.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
        }
    }
}

//! Records of the log, as bytes. Pure.
//!
//! | bytes | |
//! |---|---|
//! | 7, 1 | [`MAGIC`], the format |
//! | 8 | the store that it belongs to |
//! | 8 | its generation: which filling of a segment |
//! | 8 | its number in the generation, from 0 |
//! | 8 | bytes of the updates |
//! | 4, 4 | CRC-32 of all before it and of the updates; zero |
//! | … | the updates: for each a kind (1 put, 0 delete), the lengths of namespace (u32), key (u32) and value (u64), and these |
//! | … | zeros up to a multiple of eight |
//!
//! Numbers are little-endian. A segment is filled from its beginning and filled again later, without being cleared: what
//! follows the last record of a generation is left of an older one. One record is written at a time, and synced before the
//! next. So at most one can be torn, the last; whole records behind one that isn't whole are damage.

use super::super::Slot;
use std::collections::BTreeMap;

const MAGIC: &[u8; 7] = b"reg-log";
/// The newest format that is read and written here. Raise it when older versions could misread what is written.
pub(in crate::store) const FORMAT: u8 = 1;
/// Bytes before the updates.
const HEADER: usize = 48;
/// Bytes before the names of an update.
const UPDATE: usize = 1 + 4 + 4 + 8;
/// Records begin at multiples of this.
const ALIGNMENT: usize = 8;

/// Whose record it is, and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) store: u64,
    pub(super) generation: u64,
    pub(super) number: u64,
}

/// A record that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record<'a> {
    stamp: Stamp,
    updates: &'a [u8],
}

impl Record<'_> {
    /// Its bytes, with the zeros at its end.
    fn size(&self) -> usize {
        (HEADER + self.updates.len()).next_multiple_of(ALIGNMENT)
    }
}

/// Why a segment can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It has this format.
    Newer(u8),
    /// It is damaged: a sentence.
    Damaged(&'static str),
}

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Of its records; 0 where it has none that count.
    pub(super) generation: u64,
    /// How many these are.
    pub(super) records: u64,
    /// Bytes from its beginning to the end of the last.
    pub(super) end: usize,
}

/// Appends a record.
pub(super) fn encode(into: &mut Vec<u8>, stamp: Stamp, updates: &BTreeMap<Slot, Option<Vec<u8>>>) {
    let begin = into.len();
    into.extend(MAGIC);
    into.push(FORMAT);
    for number in [stamp.store, stamp.generation, stamp.number, 0] {
        into.extend(number.to_le_bytes());
    }
    into.extend([0; 8]);
    for ((namespace, key), value) in updates {
        into.push(u8::from(value.is_some()));
        // Names are a few bytes; one of more than 4 GiB can't be, and would be refused at reading.
        into.extend(u32::try_from(namespace.len()).unwrap_or(u32::MAX).to_le_bytes());
        into.extend(u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
        let value = value.as_deref().unwrap_or_default();
        into.extend((value.len() as u64).to_le_bytes());
        into.extend(namespace.as_bytes());
        into.extend(key.as_bytes());
        into.extend(value);
    }
    let length = (into.len() - begin - HEADER) as u64;
    if let Some(place) = into.get_mut(begin + 32..begin + 40) {
        place.copy_from_slice(&length.to_le_bytes());
    }
    let sum = into.get(begin..).map(sum).unwrap_or_default();
    if let Some(place) = into.get_mut(begin + 40..begin + 44) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    into.resize(begin + (into.len() - begin).next_multiple_of(ALIGNMENT), 0);
}

/// The checksum of a record without the zeros at its end.
fn sum(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(record.get(..40).unwrap_or_default());
    hasher.update(record.get(HEADER..).unwrap_or_default());
    hasher.finalize()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// The record at `place`, if a whole one of that kind is there. The stamp is looked at first: junk that looks like many long
/// records costs no checksums.
fn whole(bytes: &[u8], place: usize, wanted: impl Fn(Stamp) -> bool) -> Option<Record<'_>> {
    let bytes = bytes.get(place..)?;
    if bytes.get(..7)? != MAGIC || *bytes.get(7)? != FORMAT {
        return None;
    }
    let stamp =
        Stamp { store: u64_at(bytes, 8)?, generation: u64_at(bytes, 16)?, number: u64_at(bytes, 24)? };
    if !wanted(stamp) {
        return None;
    }
    let length = usize::try_from(u64_at(bytes, 32)?).ok()?;
    let record = bytes.get(..HEADER.checked_add(length)?)?;
    let found = Record { stamp, updates: record.get(HEADER..)? };
    // The zeros at its end were written with it.
    (bytes.len() >= found.size() && sum(record) == u32_at(bytes, 40)?).then_some(found)
}

/// What a segment holds of this store that came after the generation `after`.
pub(super) fn extent(bytes: &[u8], store: u64, after: u64) -> Result<Extent, Unreadable> {
    if bytes.get(..7) == Some(MAGIC)
        && let Some(format) = bytes.get(7)
        && *format > FORMAT
    {
        return Err(Unreadable::Newer(*format));
    }
    let mut extent = Extent { generation: 0, records: 0, end: 0 };
    let follows = |extent: &Extent, stamp: Stamp| match extent.records {
        0 => stamp.generation > after && stamp.number == 0,
        count => stamp.generation == extent.generation && stamp.number == count,
    };
    while let Some(record) = whole(bytes, extent.end, |stamp| stamp.store == store && follows(&extent, stamp))
    {
        let Stamp { generation, number, .. } = record.stamp;
        extent = Extent { generation, records: number + 1, end: extent.end + record.size() };
    }
    // Of a first one that isn't whole nothing is known: others must come after it.
    let later = |stamp: Stamp| match extent.records {
        0 => stamp.generation > after && stamp.number > 0,
        count => stamp.generation == extent.generation && stamp.number > count,
    };
    let mut places = (extent.end..bytes.len()).step_by(ALIGNMENT);
    if places.any(|place| whole(bytes, place, |stamp| stamp.store == store && later(stamp)).is_some()) {
        return Err(Unreadable::Damaged("a record in the middle of it isn't whole"));
    }
    Ok(extent)
}

/// An update: namespace, key and value; no value removes.
pub(super) type Update<'a> = (&'a str, &'a str, Option<&'a [u8]>);

/// Hands on the updates of all records of an extent that was measured, in order. `Err`: they can't be understood.
pub(super) fn each_update<'a>(
    bytes: &'a [u8],
    store: u64,
    mut take: impl FnMut(Update<'a>),
) -> Result<(), Unreadable> {
    let damaged = || Unreadable::Damaged("a record of it can't be understood");
    let mut place = 0;
    while place < bytes.len() {
        let record = whole(bytes, place, |stamp| stamp.store == store).ok_or_else(damaged)?;
        place += record.size();
        let mut rest = record.updates;
        while !rest.is_empty() {
            let (update, after) = update(rest).ok_or_else(damaged)?;
            take(update);
            rest = after;
        }
    }
    Ok(())
}

fn update(bytes: &[u8]) -> Option<(Update<'_>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(UPDATE)?;
    let length = |number: u32| usize::try_from(number).ok();
    let (namespace, rest) = rest.split_at_checked(length(u32_at(head, 1)?)?)?;
    let (key, rest) = rest.split_at_checked(length(u32_at(head, 5)?)?)?;
    let (value, rest) = rest.split_at_checked(usize::try_from(u64_at(head, 9)?).ok()?)?;
    let value = match head.first()? {
        0 if value.is_empty() => None,
        1 => Some(value),
        _ => return None,
    };
    Some(((std::str::from_utf8(namespace).ok()?, std::str::from_utf8(key).ok()?, value), rest))
}

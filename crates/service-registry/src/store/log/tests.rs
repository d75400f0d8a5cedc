//! What is read back of a segment, whatever became of it.

use super::super::Batch;
use super::record::{self, Extent, FORMAT, Stamp, Unreadable, encode, extent};
use super::*;
use proptest::prelude::*;

const STORE: u64 = 0x5eed_5eed_5eed_5eed;

fn batch(rows: &[(&'static str, &str, Option<&[u8]>)]) -> Batch {
    let mut batch = Batch::new();
    for (namespace, key, value) in rows {
        match value {
            Some(value) => batch.put(*namespace, *key, *value),
            None => batch.delete(*namespace, *key),
        }
    }
    batch
}

/// Records of a generation, of different lengths; also where each ends.
fn filled(generation: u64, count: u64) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for number in 0..count {
        let value = vec![b'v'; usize::try_from(number * 13 % 50).unwrap()];
        let key = format!("{generation}-{number}");
        let updates = batch(&[("n", &key, Some(&value)), ("n", "gone", None)]).updates;
        encode(&mut bytes, Stamp { store: STORE, generation, number }, &updates);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn measured(bytes: &[u8], after: u64) -> Extent {
    extent(bytes, STORE, after).unwrap()
}

#[test]
fn what_was_written_is_read_and_what_is_in_the_table_already_is_not() {
    let (bytes, ends) = filled(7, 5);
    let all = Extent { generation: 7, records: 5, end: bytes.len() };
    assert_eq!(measured(&bytes, 0), all);
    assert_eq!(measured(&bytes, 6), all);
    let none = Extent { generation: 0, records: 0, end: 0 };
    assert_eq!(measured(&bytes, 7), none);
    assert_eq!(extent(&bytes, STORE + 1, 0).unwrap(), none, "of another store");
    assert_eq!(measured(b"", 0), none);
    assert!(ends.iter().all(|end| end % 8 == 0));
    let mut updates = Vec::new();
    record::each_update(&bytes, STORE, |update| updates.push(update)).unwrap();
    assert_eq!(updates.len(), 10);
    assert_eq!(updates[..2], [("n", "7-0", Some(&b""[..])), ("n", "gone", None)]);
}

#[test]
fn a_record_torn_at_any_byte_is_as_if_it_was_never_written() {
    let (new, ends) = filled(9, 4);
    let (old, _) = filled(8, 12);
    let (whole, last) = (ends[2], ends[3]);
    let written = whole + 48 + usize::from(new[whole + 32]);
    let expected = Extent { generation: 9, records: 3, end: whole };
    for cut in whole..last {
        // at the end of a file that grows, and in one that is filled again
        assert_eq!(measured(&new[..cut], 0), expected);
        let mut again = new[..cut].to_vec();
        again.extend(&old[cut..]);
        let found = measured(&again, 8);
        assert!(found == expected || again[..written] == new[..written], "{cut}: {found:?}");
        // parts of it that came and parts that didn't, the other way round
        let mut late = new[..whole].to_vec();
        late.extend(&old[whole..cut]);
        late.extend(&new[cut..]);
        let found = measured(&late, 8);
        assert!(found == expected || late[..written] == new[..written], "{cut}: {found:?}");
    }
}

#[test]
fn a_first_record_torn_at_any_byte_leaves_what_is_in_the_table_alone() {
    let (new, ends) = filled(9, 1);
    let (old, _) = filled(8, 12);
    let written = 48 + usize::from(new[32]);
    for cut in 0..ends[0] {
        let mut again = new[..cut].to_vec();
        again.extend(&old[cut..]);
        let found = measured(&again, 8);
        assert!(found.records == 0 || again[..written] == new[..written], "{cut}: {found:?}");
    }
}

#[test]
fn damage_in_the_middle_is_told_and_not_taken_for_the_end() {
    let (good, ends) = filled(3, 6);
    for place in 0..ends[4] {
        let mut bad = good.clone();
        bad[place] ^= 0x20;
        match extent(&bad, STORE, 0) {
            Err(Unreadable::Damaged(_)) => {}
            // a format that isn't known yet
            Err(Unreadable::Newer(_)) => assert_eq!(place, 7),
            // bytes that mean nothing: behind a header's checksum, and at the end of a record
            Ok(found) => assert_eq!(found.records, 6, "byte {place}: {found:?}"),
        }
    }
}

#[test]
fn a_newer_format_is_refused() {
    let (mut bytes, _) = filled(1, 1);
    bytes[7] = FORMAT + 1;
    assert_eq!(extent(&bytes, STORE, 0), Err(Unreadable::Newer(FORMAT + 1)));
}

#[test]
fn what_looks_like_many_long_records_is_read_as_fast_as_anything() {
    // a value that a stranger has registered: each place claims to be a record of the whole rest
    let mut head = Vec::new();
    encode(&mut head, Stamp { store: STORE + 1, generation: 9, number: 9 }, &batch(&[]).updates);
    head[32..40].copy_from_slice(&(1_u64 << 19).to_le_bytes());
    let value: Vec<u8> = head.iter().copied().cycle().take(4 << 20).collect();
    let mut bytes = Vec::new();
    encode(
        &mut bytes,
        Stamp { store: STORE, generation: 1, number: 0 },
        &batch(&[("n", "k", Some(&value))]).updates,
    );
    let end = bytes.len();
    bytes.pop();
    bytes.pop();
    bytes[60] ^= 1;
    // torn: all of it is looked through
    assert_eq!(measured(&bytes, 0).records, 0);
    bytes[60] ^= 1;
    bytes.extend([0; 2]);
    assert_eq!(measured(&bytes, 0).end, end);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..400, flip in 0_usize..400) {
        let (mut good, _) = filled(2, 3);
        let at = cut.min(good.len());
        good.splice(at..at, bytes.iter().copied());
        let length = good.len();
        good[flip % length] ^= 0x81;
        for bytes in [&bytes, &good] {
            if let Ok(found) = extent(bytes, STORE, 0) {
                prop_assert!(record::each_update(&bytes[..found.end], STORE, |_| ()).is_ok());
            }
            let _ = record::each_update(bytes, STORE, |_| ());
        }
    }

    #[test]
    fn any_updates_come_back(rows in proptest::collection::btree_map(".{0,20}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..100)), 0..20)) {
        let mut batch = Batch::new();
        for (key, value) in &rows {
            match value {
                Some(value) => batch.put("ü/\0", key, value.clone()),
                None => batch.delete("ü/\0", key),
            }
        }
        let mut bytes = vec![0; 0];
        encode(&mut bytes, Stamp { store: STORE, generation: 1, number: 0 }, &batch.updates);
        let mut found = BTreeMap::new();
        record::each_update(&bytes, STORE, |(namespace, key, value)| {
            assert_eq!(namespace, "ü/\0");
            found.insert(key.to_owned(), value.map(<[u8]>::to_vec));
        }).unwrap();
        prop_assert_eq!(found, rows);
    }
}

fn table(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("t.redb");
    File::create(&path).unwrap();
    path
}

#[test]
fn segments_take_turns_and_are_found_again_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = table(&folder);
    let mut buffer = Vec::new();
    let Segments { mut active, mut other, mut next } = open(&path, STORE, 0).unwrap();
    assert_eq!((active.is_empty(), other.is_empty(), next), (true, true, 1));
    // each filling is a little shorter than the one before, so that older records lie behind it
    for filling in 0..6_u64 {
        active.begin(next);
        for number in 0..12 - filling {
            let value = vec![b'x'; 90];
            active
                .append(&batch(&[("n", &format!("{filling}-{number}"), Some(&value))]).updates, &mut buffer)
                .unwrap();
        }
        assert_eq!((active.generation(), next), (filling + 1, filling + 1));
        let again = open(&path, STORE, next.saturating_sub(2)).unwrap();
        assert_eq!((again.active.generation(), again.active.records), (next, 12 - filling));
        assert_eq!(again.other.generation(), next - 1, "the one before isn't in the table yet");
        let again = open(&path, STORE, next - 1).unwrap();
        assert_eq!((again.other.is_empty(), again.next), (true, next + 1));
        next += 1;
        std::mem::swap(&mut active, &mut other);
    }
    // nothing counts any more
    let done = open(&path, STORE, next).unwrap();
    assert!(done.active.is_empty() && done.other.is_empty());
    assert_eq!(done.next, next + 1);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(active.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn one_that_grew_is_small_again_when_it_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let Segments { mut active, .. } = open(&table(&folder), STORE, 0).unwrap();
    active.begin(1);
    let large = vec![7; usize::try_from(FULL * 3).unwrap()];
    active.append(&batch(&[("n", "k", Some(&large))]).updates, &mut Vec::new()).unwrap();
    active.begin(2);
    assert_eq!(std::fs::metadata(active.path()).unwrap().len(), FULL);
    active.clear();
    assert_eq!(std::fs::metadata(active.path()).unwrap().len(), 0);
}

//! Where files are cut: content-defined chunks with a gear hash and two masks, as FastCDC has it (Xia et al., USENIX ATC 2016).

use super::super::package::hash::Digest;
use std::io::{self, Read};

/// Bytes of the smallest chunk, but for the last of a file.
pub const LEAST: usize = 16 * 1024;
/// Bytes that a chunk has on average, or thereabouts.
pub const USUAL: usize = 64 * 1024;
/// Bytes of the largest chunk.
pub const MOST: usize = 256 * 1024;

/// Below the usual size a cut is made more rarely, above it more often.
const RARELY: u64 = 0xffff_c000_0000_0000;
const OFTEN: u64 = 0xfffc_0000_0000_0000;

/// A number for each byte, the same in every build.
const GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let mut state = 0x6861_726e_6573_7301_u64;
    let mut at = 0;
    while at < 256 {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = z ^ (z >> 31);
        at += 1;
    }
    table
}

/// How long the first chunk of these bytes is, of which there are more only if [`MOST`] are given.
pub fn cut(bytes: &[u8]) -> usize {
    let end = bytes.len().min(MOST);
    if end <= LEAST {
        return end;
    }
    let mut hash = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(end).skip(LEAST) {
        hash = (hash << 1).wrapping_add(GEAR.get(usize::from(*byte)).copied().unwrap_or_default());
        let mask = if at < USUAL { RARELY } else { OFTEN };
        if hash & mask == 0 {
            return at + 1;
        }
    }
    end
}

/// Takes a chunk, with its digest and where it began.
pub type Each<'a> = dyn FnMut(Digest, u64, &[u8]) -> io::Result<()> + 'a;

/// Reads to the end and gives every chunk to `each`, with its digest and where it began.
///
/// # Errors
///
/// What the reader says, or `each`.
pub fn chunks(reader: &mut impl Read, each: &mut Each<'_>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(4 * MOST);
    let (mut begin, mut offset, mut over) = (0, 0_u64, false);
    loop {
        if !over && buffer.len() - begin < MOST {
            buffer.drain(..begin);
            begin = 0;
            let room = u64::try_from(4 * MOST - buffer.len()).unwrap_or_default();
            over = u64::try_from(reader.by_ref().take(room).read_to_end(&mut buffer)?).unwrap_or(room) < room;
        }
        let left = buffer.get(begin..).unwrap_or_default();
        if left.is_empty() {
            return Ok(());
        }
        let (chunk, _) = left.split_at(cut(left));
        each(Digest::of(chunk), offset, chunk)?;
        begin += chunk.len();
        offset += u64::try_from(chunk.len()).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize, mut seed: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.extend(seed.to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    fn all(bytes: &[u8]) -> Vec<(Digest, u64, usize)> {
        let mut found = Vec::new();
        let mut reader = bytes;
        chunks(&mut reader, &mut |digest, offset, chunk| {
            found.push((digest, offset, chunk.len()));
            Ok(())
        })
        .unwrap();
        found
    }

    #[test]
    fn chunks_cover_everything_and_keep_their_sizes() {
        for count in [0, 1, LEAST, LEAST + 1, MOST, MOST + 1, 5 * MOST, 8_000_000] {
            let bytes = noise(count, 7);
            let found = all(&bytes);
            let mut next = 0;
            for (position, (digest, offset, length)) in found.iter().enumerate() {
                assert_eq!(*offset, next);
                let at = usize::try_from(next).unwrap();
                assert_eq!(*digest, Digest::of(&bytes[at..at + length]));
                assert!(*length <= MOST && (*length > LEAST || position + 1 == found.len()), "{length}");
                next += u64::try_from(*length).unwrap();
            }
            assert_eq!(next, u64::try_from(count).unwrap());
        }
        let usual = 8_000_000 / all(&noise(8_000_000, 7)).len();
        assert!((USUAL / 2..2 * USUAL).contains(&usual), "{usual} bytes on average");
        assert_eq!(all(&vec![0; 3 * MOST]).len(), 3, "what is all the same is cut at the most");
    }

    #[test]
    fn what_is_put_in_moves_no_more_than_the_chunks_around_it() {
        let bytes = noise(8_000_000, 3);
        let mut changed = bytes.clone();
        changed.splice(4_000_000..4_000_000, b"put in".iter().copied());
        let before: std::collections::BTreeSet<String> =
            all(&bytes).into_iter().map(|(digest, ..)| digest.to_string()).collect();
        let new = all(&changed).into_iter().filter(|(digest, ..)| !before.contains(&digest.to_string()));
        assert!(new.count() <= 3);
    }
}

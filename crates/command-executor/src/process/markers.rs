//! Takes the markers of a far shell out of a stream of bytes, which is what it was without them.

use memchr::memmem;

/// Longest marker after its beginning, in bytes.
const LONGEST: usize = 64;

/// A part of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// What the program wrote.
    Bytes(&'a [u8]),
    /// What the shell says.
    Marker(&'a str),
}

fn give(bytes: &[u8], part: &mut impl FnMut(Part<'_>)) {
    if !bytes.is_empty() {
        part(Part::Bytes(bytes));
    }
}

/// Finds markers however the stream is cut.
#[derive(Debug)]
pub(super) struct Markers {
    mark: Vec<u8>,
    /// What may be the beginning of one.
    held: Vec<u8>,
}

impl Markers {
    pub(super) fn new(mark: &str) -> Self {
        Self { mark: mark.as_bytes().to_vec(), held: Vec::new() }
    }

    /// Takes bytes; calls `part` for everything that is certain now, in order.
    pub(super) fn push(&mut self, bytes: &[u8], mut part: impl FnMut(Part<'_>)) {
        let joined;
        let mut rest = bytes;
        if !self.held.is_empty() {
            let mut all = std::mem::take(&mut self.held);
            all.extend_from_slice(bytes);
            joined = all;
            rest = &joined;
        }
        loop {
            let Some(at) = memmem::find(rest, &self.mark) else {
                let (certain, held) = rest.split_at(rest.len() - self.begun(rest));
                give(certain, &mut part);
                self.held = held.to_vec();
                return;
            };
            let (before, marker) = rest.split_at(at);
            let (mark, after) = marker.split_at(self.mark.len());
            match memchr::memchr(b';', after.get(..LONGEST).unwrap_or(after)) {
                Some(end) => {
                    give(before, &mut part);
                    let (text, behind) = after.split_at(end);
                    // What isn't text was never written by a shell; nothing is lost that anyone could mean.
                    let text = std::str::from_utf8(text).unwrap_or_default();
                    part(Part::Marker(text));
                    rest = behind.get(1..).unwrap_or_default();
                }
                None if after.len() < LONGEST => {
                    give(before, &mut part);
                    self.held = marker.to_vec();
                    return;
                }
                None => {
                    give(before, &mut part);
                    give(mark, &mut part);
                    rest = after;
                }
            }
        }
    }

    /// At the end: what looked like a beginning.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// How many bytes at the end could begin a marker.
    fn begun(&self, bytes: &[u8]) -> usize {
        let longest = bytes.len().min(self.mark.len() - 1);
        (1..=longest)
            .rev()
            .find(|length| bytes.ends_with(self.mark.get(..*length).unwrap_or_default()))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(mark: &str, chunks: &[&[u8]]) -> (Vec<u8>, Vec<String>) {
        let mut markers = Markers::new(mark);
        let (mut bytes, mut found) = (Vec::new(), Vec::new());
        for chunk in chunks {
            markers.push(chunk, |part| match part {
                Part::Bytes(more) => bytes.extend_from_slice(more),
                Part::Marker(text) => found.push(text.to_owned()),
            });
        }
        bytes.extend(markers.finish());
        (bytes, found)
    }

    #[test]
    fn a_marker_is_found_in_the_middle_of_a_line() {
        let (bytes, found) = split("<>", &[b"a<<>hop;b<>pi", b"d 7;c<", b"<>x"]);
        assert_eq!((&bytes[..], &found[..]), (&b"a<bc<<>x"[..], &["hop".to_owned(), "pid 7".to_owned()][..]));
    }

    proptest! {
        #[test]
        fn what_the_program_wrote_is_what_is_left(
            parts in prop::collection::vec(("[ab<>;x]{0,6}", prop::option::of("[a-z0-9 ]{0,9}")), 0..8),
            cuts in prop::collection::vec(0usize..120, 0..8),
        ) {
            let mark = "\u{1e}ab<";
            let (mut wire, mut bytes, mut told) = (Vec::new(), Vec::new(), Vec::new());
            for (text, marker) in &parts {
                wire.extend_from_slice(text.as_bytes());
                bytes.extend_from_slice(text.as_bytes());
                if let Some(marker) = marker {
                    wire.extend_from_slice(format!("{mark}{marker};").as_bytes());
                    told.push(marker.clone());
                }
            }
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(wire.len())).collect();
            cuts.extend([0, wire.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &wire[cut[0]..cut[1]]).collect();
            prop_assert_eq!(split(mark, &chunks), (bytes, told));
        }
    }
}

//! Whether packets to a node go straight or through the hub, by what probes and packets show. Pure.
//!
//! ```text
//!            hit                    2 misses
//!  Unknown ───────► Straight ────────────────────► Relayed
//!     │                ▲                              │  ▲
//!     │ miss           └──────────── 2 hits ──────────┘  │
//!     └──────────────────────────────────────────────────┘
//! ```

use std::time::Duration;

/// Answers that must be missing one after the other before a way is given up.
const MISSES: u8 = 2;
/// Answers that must come one after the other before a way that was given up is taken again.
const HITS: u8 = 2;

/// A way that was just given up is tried again after this time, then after twice as long each time.
const SOON: Duration = Duration::from_secs(2);
/// In the end it is tried this often.
const SELDOM: Duration = Duration::from_secs(60);

/// How long to wait before a node is probed again that didn't answer so many times in a row. One that there is no other
/// way to is tried again soon.
pub(crate) fn patience(misses: u32, is_without_alternative: bool) -> Duration {
    if is_without_alternative {
        return SOON;
    }
    SOON.saturating_mul(2u32.saturating_pow(misses.saturating_sub(1))).min(SELDOM)
}

/// The way to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Path {
    /// Nothing was tried yet. The hub relays, if there is one.
    #[default]
    Unknown,
    /// Straight to where the node answered.
    Straight {
        /// Answers that were missing since the last one that came.
        misses: u8,
    },
    /// Through the hub, because the node doesn't answer, or didn't lately.
    Relayed {
        /// Answers that came since the last one that was missing.
        hits: u8,
    },
}

/// What a probe showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The node answered, and its answer was authentic.
    Hit,
    /// Nobody answered in time, or somebody else did.
    Miss,
    /// A packet came straight out of the tunnel: proof enough.
    Packet,
    /// A handshake straight to it failed after it had answered.
    NoHandshake,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    Stay,
    /// Handshake with where the answer came from, then go straight.
    Promote,
    /// Go through the hub from now on.
    Demote,
    /// Probe once more, at once.
    Again,
}

impl Path {
    /// Whether packets go straight.
    pub(crate) const fn is_straight(self) -> bool {
        matches!(self, Self::Straight { .. })
    }

    /// The path after that, and what is to be done. A promotion is carried out first and told by [`Self::straight`].
    pub(crate) const fn after(self, seen: Seen) -> (Self, Next) {
        match (self, seen) {
            (Self::Straight { .. }, Seen::Hit | Seen::Packet) => (Self::Straight { misses: 0 }, Next::Stay),
            (Self::Straight { misses }, Seen::Miss | Seen::NoHandshake) => {
                if misses + 1 >= MISSES {
                    (Self::Relayed { hits: 0 }, Next::Demote)
                } else {
                    (Self::Straight { misses: misses + 1 }, Next::Again)
                }
            }
            (Self::Unknown | Self::Relayed { .. }, Seen::Packet) | (Self::Unknown, Seen::Hit) => {
                (self, Next::Promote)
            }
            (Self::Relayed { hits }, Seen::Hit) => {
                if hits + 1 >= HITS {
                    (Self::Relayed { hits: HITS }, Next::Promote)
                } else {
                    (Self::Relayed { hits: hits + 1 }, Next::Again)
                }
            }
            (Self::Unknown | Self::Relayed { .. }, Seen::Miss | Seen::NoHandshake) => {
                (Self::Relayed { hits: 0 }, Next::Stay)
            }
        }
    }

    /// The path once a promotion was carried out.
    pub(crate) const fn straight() -> Self {
        Self::Straight { misses: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The path after all of that, with every promotion carried out, and what was done.
    fn run(seen: &[Seen]) -> (Path, Vec<Next>) {
        let mut path = Path::default();
        let mut done = Vec::new();
        for seen in seen {
            let (after, next) = path.after(*seen);
            path = if next == Next::Promote { Path::straight() } else { after };
            done.push(next);
        }
        (path, done)
    }

    #[test]
    fn ways_are_taken_and_given_up() {
        use Next::{Again, Demote, Promote, Stay};
        use Seen::{Hit, Miss, NoHandshake, Packet};
        let table: &[(&[Seen], &[Next], bool)] = &[
            (&[Hit], &[Promote], true),
            (&[Packet], &[Promote], true),
            (&[Miss], &[Stay], false),
            (&[Miss, Hit], &[Stay, Again], false),
            (&[Miss, Hit, Hit], &[Stay, Again, Promote], true),
            (&[Miss, Hit, Miss, Hit], &[Stay, Again, Stay, Again], false),
            (&[Miss, Packet], &[Stay, Promote], true),
            (&[Hit, Miss], &[Promote, Again], true),
            (&[Hit, Miss, Hit, Miss], &[Promote, Again, Stay, Again], true),
            (&[Hit, Miss, Miss], &[Promote, Again, Demote], false),
            (&[Hit, Miss, Miss, Hit, Hit], &[Promote, Again, Demote, Again, Promote], true),
            (&[NoHandshake, Hit], &[Stay, Again], false),
        ];
        for (seen, next, straight) in table {
            let (path, done) = run(seen);
            assert_eq!((done.as_slice(), path.is_straight()), (*next, *straight), "{seen:?}");
        }
    }

    #[test]
    fn a_way_that_was_given_up_is_tried_again_soon_and_then_less_and_less() {
        let seconds = |misses| patience(misses, false).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 40, u32::MAX].map(seconds), [2, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(patience(40, true), SOON);
    }

    proptest! {
        #[test]
        fn two_misses_in_a_row_always_end_a_straight_way(before in proptest::collection::vec(0u8..4, 0..20)) {
            let mut seen: Vec<Seen> = before
                .into_iter()
                .map(|n| [Seen::Hit, Seen::Miss, Seen::Packet, Seen::NoHandshake][usize::from(n)])
                .collect();
            seen.extend([Seen::Miss, Seen::Miss]);
            prop_assert!(!run(&seen).0.is_straight());
            seen.extend([Seen::Hit, Seen::Hit]);
            prop_assert!(run(&seen).0.is_straight());
        }
    }
}

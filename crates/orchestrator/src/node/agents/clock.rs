//! How far another node's clock is ahead. Pure; nothing is decided by it, it is told.

use jiff::Timestamp;
use std::time::Duration;

/// Milliseconds by which two measures must differ at least to be told anew.
const NEWS: u64 = 50;

/// What was measured of one node's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    told: Option<i64>,
}

impl Measured {
    /// Takes an answer: `theirs`, in milliseconds since 1970, to a question that was asked at `asked` by this machine's clock
    /// and took so long. The result, if it is news: how far theirs is ahead, in milliseconds, and the error of that.
    pub(super) fn heard(&mut self, asked: Timestamp, took: Duration, theirs: i64) -> Option<(i64, u64)> {
        let half = u64::try_from((took / 2).as_millis()).unwrap_or(u64::MAX);
        let here = asked.as_millisecond().saturating_add_unsigned(half);
        let ahead = theirs.saturating_sub(here);
        let news = self.told.is_none_or(|told| told.abs_diff(ahead) > half.max(NEWS));
        news.then(|| {
            self.told = Some(ahead);
            (ahead, half.max(1))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_clock_is_told_once_and_again_when_one_of_both_was_set() {
        let mut measured = Measured::default();
        let (begin, took) = (1_700_000_000_000, Duration::from_millis(20));
        // This machine's clock, and how far theirs is ahead of it.
        let mut told = |here: i64, ahead: i64| {
            measured.heard(Timestamp::from_millisecond(here).unwrap(), took, here + 10 + ahead)
        };
        assert_eq!(told(begin, HOUR), Some((HOUR, 10)));
        assert_eq!(told(begin + 2_000, HOUR + 30), None, "less than what can be told apart");
        assert_eq!(told(begin + 4_000, -HOUR), Some((-HOUR, 10)), "theirs was set back");
        assert_eq!(told(begin + 6_000, -HOUR), None);
        assert_eq!(told(begin - 2 * HOUR, HOUR), Some((HOUR, 10)), "this one was set back");
        assert_eq!(told(begin - 2 * HOUR, 0), Some((0, 10)), "and theirs is right again");
    }

    #[test]
    fn a_slow_way_makes_it_less_sure() {
        let asked = Timestamp::from_millisecond(1_700_000_000_000).unwrap();
        let (took, again) = (Duration::from_secs(3), 1_700_000_001_500);
        let mut measured = Measured::default();
        assert_eq!(measured.heard(asked, took, again + HOUR), Some((HOUR, 1_500)));
        assert_eq!(measured.heard(asked, took, again + HOUR + 1_400), None);
        assert_eq!(measured.heard(asked, took, i64::MAX), Some((i64::MAX - again, 1_500)));
    }
}

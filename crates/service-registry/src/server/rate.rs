//! How often a connection may ask: a bucket of tokens, as in RFC 2697 but of one colour. Pure: time comes with the question.

use std::time::Duration;

/// So many requests a second, and as many at once after a second of silence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// Requests a second.
    rate: u32,
    /// Requests that may be made now, in billionths.
    left: u64,
    /// When it was filled last.
    at: Duration,
}

const ONE: u64 = 1_000_000_000;

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: u32, now: Duration) -> Self {
        Self { rate, left: Self::full(rate), at: now }
    }

    fn full(rate: u32) -> u64 {
        u64::from(rate) * ONE
    }

    /// Takes a request, or says in how long there is one to take. `now` never goes back.
    pub(super) fn take(&mut self, now: Duration) -> Result<(), Duration> {
        let nanos = u64::try_from(now.saturating_sub(self.at).as_nanos()).unwrap_or(u64::MAX);
        self.at = now;
        let filled = nanos.saturating_mul(u64::from(self.rate));
        self.left = self.left.saturating_add(filled).min(Self::full(self.rate));
        match self.left.checked_sub(ONE) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(Duration::from_nanos((ONE - self.left).div_ceil(u64::from(self.rate.max(1))))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_at_once_and_then_one_at_a_time() {
        let at = Duration::from_millis;
        let mut bucket = Bucket::new(10, at(5_000));
        for _ in 0..10 {
            assert_eq!(bucket.take(at(5_000)), Ok(()));
        }
        assert_eq!(bucket.take(at(5_000)), Err(at(100)));
        assert_eq!(bucket.take(at(5_040)), Err(at(60)));
        assert_eq!(bucket.take(at(5_100)), Ok(()), "asking costs nothing");
        assert_eq!(bucket.take(at(5_100)), Err(at(100)));
        assert_eq!(bucket.take(at(4_000)), Err(at(100)), "a clock that goes back gives nothing");
        assert_eq!(
            (0..20).filter(|_| bucket.take(at(900_000)).is_ok()).count(),
            10,
            "no more than a second's worth"
        );
    }

    #[test]
    fn extremes_neither_overflow_nor_divide_by_nothing() {
        let mut never = Bucket::new(0, Duration::ZERO);
        assert!(never.take(Duration::MAX).is_err());
        let mut most = Bucket::new(u32::MAX, Duration::ZERO);
        assert_eq!(most.take(Duration::MAX), Ok(()));
    }
}

//! When a way to an agent that was lost is tried again: pure.
//!
//! A machine that is away for a moment should be heard at once when it is back, one that is away for a night needn't be asked
//! every other second. So what passes between two tries grows with how long it has been away: an eighth of that, within bounds.

use std::time::Duration;

/// What passes before the first try after one that was refused at once; each further one waits twice as long.
const FIRST: Duration = Duration::from_millis(100);
/// What passes between two tries: at least, while it hasn't been away for long, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// The same at least where it needs somebody to do something.
const LATER: Duration = Duration::from_secs(10);
/// It waits so many times shorter than it has been away.
const PART: u32 = 8;

/// What passes from one try to the next while those before hang, by how long the agent hasn't been heard.
pub(super) fn spacing(away: Duration) -> Duration {
    (away / PART).clamp(PAUSE.0, PAUSE.1)
}

/// What passes after a try that failed. `failures`: how many in a row, with this one. `passing`: whether it may pass by itself.
pub(super) fn pause(failures: u32, away: Duration, passing: bool) -> Duration {
    if !passing {
        return spacing(away).max(LATER);
    }
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    FIRST.saturating_mul(doubled).min(spacing(away))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_absence_is_noticed_soon_and_a_long_one_is_asked_about_seldom() {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        for (failures, away, passing, expected) in [
            (1, s(0), true, ms(100)),
            (2, s(1), true, ms(200)),
            (5, s(3), true, ms(1600)),
            (6, s(5), true, s(2)),
            (100, s(16), true, s(2)),
            (100, s(60), true, ms(7500)),
            (100, s(3600), true, s(30)),
            (u32::MAX, Duration::MAX, true, s(30)),
            // The first after a link that broke late comes soon all the same.
            (1, s(3600), true, ms(100)),
            (1, s(0), false, s(10)),
            (1, s(3600), false, s(30)),
        ] {
            assert_eq!(pause(failures, away, passing), expected, "{failures} {away:?} {passing}");
        }
    }

    proptest! {
        #[test]
        fn it_never_waits_longer_than_an_eighth_of_the_absence_or_two_seconds(
            failures in 0_u32..80, away in 0_u64..100_000,
        ) {
            let away = Duration::from_millis(away * 10);
            let waits = pause(failures, away, true);
            prop_assert!(waits <= (away / 8).max(Duration::from_secs(2)).min(Duration::from_secs(30)));
            prop_assert!(pause(failures + 1, away, true) >= waits);
        }
    }
}

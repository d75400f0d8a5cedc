//! What the results of probes mean, and when the next one is due. Pure.

use crate::model::HealthCheck;
use crate::observed::Moment;
use std::time::Duration;

/// What the probes of one run have shown so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The verdict; it changes only after enough equal answers in a row.
    pub verdict: Verdict,
    /// Answers in a row that were good.
    pub successes: u32,
    /// Answers in a row that were bad and counted.
    pub failures: u32,
    /// All probes of this run, for the delay while starting.
    pub probes: u32,
    /// When the last one ended.
    pub last: Option<Moment>,
    /// Since when one is under way.
    pub in_flight: Option<Moment>,
}

/// Whether an instance is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough is known yet.
    #[default]
    Unknown,
    /// It answered well often enough.
    Healthy,
    /// It answered badly often enough.
    Unhealthy,
}

impl History {
    /// Takes the answer of the probe that was under way. `age` is the time since the run started.
    pub fn record(&mut self, check: &HealthCheck, ok: bool, age: Duration, now: Moment) {
        // The quick probes of a start are extra: only one that waited a whole interval says that something is wrong.
        let patient = self.probes > 0 && self.delay(check) >= check.interval;
        let counts = self.verdict != Verdict::Unknown || (patient && age >= check.start_period);
        self.in_flight = None;
        self.last = Some(now);
        self.probes = self.probes.saturating_add(1);
        if ok {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            if self.successes >= check.success_threshold {
                self.verdict = Verdict::Healthy;
            }
        } else {
            self.successes = 0;
            if counts {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= check.retries {
                    self.verdict = Verdict::Unhealthy;
                }
            }
        }
    }

    /// When the next probe is due; `None` while one is under way.
    pub fn due(&self, check: &HealthCheck) -> Option<Moment> {
        if self.in_flight.is_some() {
            return None;
        }
        let Some(last) = self.last else { return Some(Moment::ZERO) };
        Some(last + self.delay(check))
    }

    /// Until the first verdict the delay doubles from `start_interval` up to `interval`: a service is ready soon after
    /// it can be.
    fn delay(&self, check: &HealthCheck) -> Duration {
        if self.verdict == Verdict::Unknown {
            let factor = 1u32.checked_shl(self.probes.saturating_sub(1).min(31)).unwrap_or(u32::MAX);
            return check.start_interval.saturating_mul(factor).min(check.interval);
        }
        check.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    fn run(check: &HealthCheck, answers: &str) -> (Verdict, Option<Duration>) {
        let mut history = History::default();
        let mut now = Duration::ZERO;
        for answer in answers.chars() {
            now = history.due(check).unwrap().max(now);
            history.in_flight = Some(now);
            assert_eq!(history.due(check), None, "never two probes at once");
            history.record(check, answer == '+', now, now);
        }
        (history.verdict, history.due(check).map(|due| due - now))
    }

    #[test]
    fn verdicts() {
        let check = HealthCheck {
            interval: Duration::from_millis(80),
            start_period: Duration::from_millis(250),
            ..check()
        };
        let ms = |n| Some(Duration::from_millis(n));
        for (answers, verdict, next) in [
            ("", Verdict::Unknown, ms(0)),
            ("+", Verdict::Healthy, ms(80)),
            ("-", Verdict::Unknown, ms(20)),
            // 0, 20 and 60 ms are quick probes, 140 and 220 are within the start period; 300, 380 and 460 count
            ("---", Verdict::Unknown, ms(80)),
            ("-------", Verdict::Unknown, ms(80)),
            ("--------", Verdict::Unhealthy, ms(80)),
            ("--------+", Verdict::Healthy, ms(80)),
            // once healthy, every failure counts
            ("+--", Verdict::Healthy, ms(80)),
            ("+--+--", Verdict::Healthy, ms(80)),
            ("+---", Verdict::Unhealthy, ms(80)),
        ] {
            assert_eq!(run(&check, answers), (verdict, next), "{answers}");
        }
    }

    #[test]
    fn thresholds() {
        let check = HealthCheck { success_threshold: 2, retries: 1, ..check() };
        assert_eq!(run(&check, "+").0, Verdict::Unknown);
        assert_eq!(run(&check, "++").0, Verdict::Healthy);
        assert_eq!(run(&check, "++-").0, Verdict::Unhealthy);
        assert_eq!(run(&check, "++-+").0, Verdict::Unhealthy);
        assert_eq!(run(&check, "++-++").0, Verdict::Healthy);
    }
}

//! Durations and ages as people write and read them.

use std::time::Duration;

/// Reads `30` (seconds), `500ms`, `10s`, `5m`, `1h`, `2d`, and sums such as `1h30m`. The error says what is expected.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration such as 30, 500ms, 10s, 5m, 1h or 1h30m";
    let text = text.trim();
    if text.is_empty() {
        return Err(EXPECTED.into());
    }
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(EXPECTED)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(EXPECTED.into()),
        };
        let number: f64 = number.parse().map_err(|_| EXPECTED)?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| EXPECTED)?;
        total = total.checked_add(part).ok_or(EXPECTED)?;
        rest = tail;
    }
    Ok(total)
}

/// A measured time, short: `3ms`, `1.2s`, `48s`, `2m 05s`, `1h 02m`.
pub(crate) fn short(duration: Duration) -> String {
    let millis = duration.as_millis();
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{millis}ms"),
        1..=9 => format!("{:.1}s", duration.as_secs_f64()),
        10..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A short time to a tenth of a millisecond: `0.4ms`; longer ones as [`short`] has them.
pub(crate) fn fine(duration: Duration) -> String {
    if duration >= Duration::from_millis(10) {
        return short(duration);
    }
    format!("{:.1}ms", duration.as_secs_f64() * 1_000.0)
}

/// An age, of one or two units: `0s`, `59s`, `3m 20s`, `5h 12m`, `3d 4h`.
pub(crate) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A moment as `--since` and `--until` take it: RFC 3339, `2026-11-23T10:00` or `2026-11-23` (UTC), or an age (`10m`).
pub(crate) fn parse_moment(text: &str, now: jiff::Timestamp) -> Result<jiff::Timestamp, String> {
    const EXPECTED: &str = "expected an age such as 10m or 2h, or a time such as 2026-11-23T10:00:00Z";
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Ok(moment);
    }
    if let Ok(moment) = text.parse::<jiff::civil::DateTime>() {
        return moment.to_zoned(jiff::tz::TimeZone::UTC).map(|z| z.timestamp()).map_err(|_| EXPECTED.into());
    }
    let ago = parse_duration(text).map_err(|_| EXPECTED)?;
    let ago = jiff::SignedDuration::try_from(ago).map_err(|_| EXPECTED)?;
    now.checked_sub(ago).map_err(|_| EXPECTED.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_form() {
        for (text, millis) in [
            ("30", 30_000),
            ("0", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("1.5s", 1_500),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "x", "5x", "-1", "1h30", "s", "1..5s", "99999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn measured_times_are_short() {
        assert_eq!(fine(Duration::from_micros(420)), "0.4ms");
        assert_eq!(fine(Duration::from_millis(12)), "12ms");
        for (millis, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_234, "1.2s"),
            (48_900, "48s"),
            (125_000, "2m 05s"),
            (3_720_000, "1h 02m"),
        ] {
            assert_eq!(short(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn ages_have_two_units_at_most() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (200, "3m 20s"), (18_720, "5h 12m"), (273_600, "3d 4h")]
        {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn moments_are_ages_or_times() {
        let now: jiff::Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        for (text, moment) in [
            ("10m", "2026-11-23T11:50:00Z"),
            ("2026-11-23T10:00:00Z", "2026-11-23T10:00:00Z"),
            ("2026-11-23T10:00", "2026-11-23T10:00:00Z"),
            ("2026-11-22", "2026-11-22T00:00:00Z"),
        ] {
            assert_eq!(parse_moment(text, now), Ok(moment.parse().unwrap()), "{text}");
        }
        assert!(parse_moment("yesterday-ish", now).is_err());
    }
}

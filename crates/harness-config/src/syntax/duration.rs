//! `30` (seconds), `500ms`, `10s`, `5m`, `1h`, `1m30s`.

use std::time::Duration;

pub(crate) const EXPECTED: &str = "expected a duration such as 30 (seconds), 500ms, 10s, 5m or 1h30m";

/// The longest duration that makes sense here: a hundred years.
const MAX_SECONDS: f64 = 100.0 * 365.0 * 86_400.0;

/// The duration that the text says.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    let bare = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if bare(text) {
        return seconds(text.parse().ok()?);
    }
    let (mut rest, mut total, mut last) = (text, 0.0, f64::INFINITY);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let factor = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        // Units go down: `30s1m` is a slip.
        if !bare(number) || factor >= last {
            return None;
        }
        last = factor;
        total += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    if text.is_empty() { None } else { seconds(total) }
}

fn seconds(seconds: f64) -> Option<Duration> {
    (0.0..=MAX_SECONDS).contains(&seconds).then(|| Duration::from_nanos((seconds * 1e9).round() as u64))
}

/// The shortest text that [`parse`] reads as this duration.
pub(crate) fn text(duration: Duration) -> String {
    let millis = duration.as_millis();
    let seconds = duration.as_secs();
    if millis == 0 && duration.as_micros() > 0 {
        return format!("{}us", duration.as_micros());
    }
    if !millis.is_multiple_of(1000) {
        return format!("{millis}ms");
    }
    let mut out = String::new();
    for (size, unit) in [(3600, "h"), (60, "m"), (1, "s")] {
        let count = if size == 3600 { seconds / 3600 } else { seconds / size % 60 };
        if count > 0 {
            out.push_str(&format!("{count}{unit}"));
        }
    }
    if out.is_empty() { "0s".into() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("30", 30_000),
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1m30s", 90_000),
            ("0", 0),
            ("1.5", 1500),
            ("0.5s", 500),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "s",
            "5 parsecs",
            "-1",
            "1e9",
            "30s1m",
            "1x",
            "..",
            "1..2s",
            "NaN",
            "99999999999999999999",
            "10 s",
            "5S",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for millis in [0, 1, 20, 500, 1000, 1500, 90_000, 300_000, 3_600_000, 3_601_000, 90_000_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse(&text(duration)), Some(duration), "{}", text(duration));
        }
    }
}

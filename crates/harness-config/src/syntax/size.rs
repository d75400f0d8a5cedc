//! `1048576` (bytes), `512k`, `64KiB`, `100MB`, `1.5GiB`.

pub(crate) const EXPECTED: &str = "expected a size such as 1048576 (bytes), 512MiB or 2GB";

/// The bytes that the text says. `k`, `m`, `g`, `t` alone count by 1024, as in Docker; `kB`, `MB`, … by 1000.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let bytes = number.parse::<f64>().ok()? * factor as f64;
    (bytes < 9e15).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("512MiB", 512 << 20),
            ("64k", 64 << 10),
            ("2GB", 2_000_000_000),
            ("1.5GiB", 3 << 29),
            ("10 MiB", 10 << 20),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for bad in ["", "MiB", "-1", "1XB", "1..5M", "99999999999999999999", "18446744073709551615k"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}

//! The values that TOML has no type for: durations and sizes.

use std::time::Duration;

/// What a duration looks like, for hints.
pub(crate) const DURATION: &str =
    "a duration is a whole number and a unit: `\"250ms\"`, `\"30s\"`, `\"5m\"`, `\"24h\"`";

/// What a size looks like, for hints.
pub(crate) const SIZE: &str =
    "a size is a whole number and a unit: `\"512B\"`, `\"300KB\"` (1,000), `\"64MiB\"` (1,024)";

/// Longer is as good as for ever; where times end, additions do not go.
const LONGEST: Duration = Duration::from_hours(1_000 * 366 * 24);

/// The units of a duration, in milliseconds.
pub(crate) const DURATION_UNITS: [(&str, u64); 4] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// The units of a size, in bytes.
pub(crate) const SIZE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Reads `"250ms"`, `"30s"`, `"5m"`, `"24h"`; a thousand years at most.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    scaled(text, &DURATION_UNITS)
        .map(|milliseconds| Duration::from_millis(milliseconds).min(LONGEST))
}

/// Reads `"512B"`, `"300KB"`, `"64MiB"` into bytes.
pub(crate) fn size(text: &str) -> Option<u64> {
    scaled(text, &SIZE_UNITS)
}

/// A duration as [`duration`] reads it, in the largest unit that loses nothing.
pub(crate) fn show_duration(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if milliseconds == 0 { "0s".to_owned() } else { shown(milliseconds, &DURATION_UNITS) }
}

/// A number of bytes as [`size`] reads it, in the largest unit that loses nothing.
pub(crate) fn show_size(bytes: u64) -> String {
    shown(bytes, &SIZE_UNITS)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let (_, scale) = units.iter().find(|(unit, _)| *unit == text[digits.len()..].trim_start())?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(*scale)
}

fn shown(number: u64, units: &[(&str, u64)]) -> String {
    let fits = units.iter().filter(|(_, scale)| number > 0 && number.is_multiple_of(*scale));
    let (unit, scale) = fits.max_by_key(|(_, scale)| *scale).unwrap_or(&units[0]);
    format!("{}{unit}", number / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations() {
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Some(Duration::from_mins(5)));
        assert_eq!(duration("24h"), Some(Duration::from_hours(24)));
        assert_eq!(duration("18446744073709551615ms"), Some(LONGEST));
        for bad in
            ["", "s", "30", "1.5s", "-1s", "1m30s", "1d", "99999999999999999999s", "１s", " "]
        {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn reads_sizes() {
        assert_eq!(size("300KB"), Some(300_000));
        assert_eq!(size("64MiB"), Some(64 << 20));
        assert_eq!(size("1000B"), Some(1_000));
        for bad in ["1000", "1kb", "1.5MB", "18446744073709551615GiB"] {
            assert_eq!(size(bad), None, "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_reads_back(milliseconds in 0..u64::from(u32::MAX), bytes in 0..u64::MAX) {
            let time = Duration::from_millis(milliseconds);
            proptest::prop_assert_eq!(duration(&show_duration(time)), Some(time));
            proptest::prop_assert_eq!(size(&show_size(bytes)), Some(bytes));
        }
    }
}

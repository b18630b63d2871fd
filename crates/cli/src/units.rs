//! Numbers as people write them: `15.7 MB`, `63,666`, `1.20 ms`; and durations as they type them.

use std::time::Duration;

/// A count with thousands separators.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count of something that is counted by adding an s.
pub(crate) fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A number of bytes in decimal units, three digits or so.
pub(crate) fn bytes(number: u64) -> String {
    let mut rest = number as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        if rest < 999.5 {
            break;
        }
        (rest, unit) = (rest / 1000.0, next);
    }
    if unit == "B" { format!("{number} B") } else { format!("{} {unit}", three_digits(rest)) }
}

/// A duration in the unit that suits it.
pub(crate) fn duration(duration: Duration) -> String {
    let nanoseconds = duration.as_secs_f64() * 1e9;
    let (value, unit) = match nanoseconds {
        n if n < 999.5 => return format!("{n:.0} ns"),
        n if n < 999.5e3 => (n / 1e3, "us"),
        n if n < 999.5e6 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// How many per second, rounded; nothing took no time.
pub(crate) fn per_second(number: u64, elapsed: Duration) -> u64 {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    // Saturates, which is what is wanted of a rate.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rate = (number as f64 / seconds).round() as u64;
    rate
}

fn three_digits(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// Reads `250ms`, `1s`, `2m` or `1h`; more than zero.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration: write 500ms, 1s, 2m or 1h");
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    let milliseconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms)).ok_or_else(bad)?;
    if milliseconds == 0 { Err(bad()) } else { Ok(Duration::from_millis(milliseconds)) }
}

#[cfg(test)]
mod tests {
    use super::{bytes, count, counted, duration, parse_duration, per_second};
    use std::time::Duration;

    #[test]
    fn people_can_read_them() {
        assert_eq!(["0", "999", "1,000", "63,666", "1,234,567"], [0, 999, 1000, 63_666, 1_234_567].map(count)[..]);
        assert_eq!(
            ["0 B", "999 B", "1.00 kB", "15.7 MB", "1.00 GB", "18.4 EB"],
            [0, 999, 1000, 15_652_303, 999_999_999, u64::MAX].map(bytes)[..]
        );
        assert_eq!(
            ["0 ns", "999 ns", "1.00 us", "12.5 ms", "100 s"],
            [0, 999, 1000, 12_500_000, 100_000_000_000].map(|n| duration(Duration::from_nanos(n)))[..]
        );
        assert_eq!([counted(1, "key"), counted(2000, "key")], ["1 key", "2,000 keys"]);
        assert_eq!(per_second(500, Duration::from_millis(250)), 2000);
        assert!(per_second(1, Duration::ZERO) >= 1_000_000_000);
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "1", "s", "0s", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615h", "1 s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}

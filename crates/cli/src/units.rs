//! Formats of numbers (`15.7 MB`, `63,666`, `1.20 ms`), and the parser of durations.

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

/// A count with its noun, whose plural has an s.
pub(crate) fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A number of bytes in decimal units, with about three digits.
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

/// A duration in a fitting unit.
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

/// A duration for programs: milliseconds with three decimals.
pub(crate) fn as_ms<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e3)
}

/// The rate per second, rounded; 0 for an empty duration.
pub(crate) fn per_second(number: u64, elapsed: Duration) -> u64 {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    // The cast saturates, as a rate should.
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

/// A Unix time in milliseconds as `2026-11-23 09:05:07Z`.
pub(crate) fn date_time(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date_of(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// The Gregorian date of a day number since 1970-01-01. The computation uses years that begin in
/// March, so that the leap day is the last day of a year, and eras of 400 years, which all have the
/// same length.
fn date_of(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    let since_march_0 = days + 719_468;
    let (era, day_of_era) = (since_march_0.div_euclid(DAYS_PER_ERA), since_march_0.rem_euclid(DAYS_PER_ERA));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Reads a number from 1 on.
pub(crate) fn parse_some(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| format!("{text:?} is not a number from 1 on"))
}

/// Reads `250ms`, `1s`, `2m`, `1h` or `30d`; more than zero.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration: write 500ms, 1s, 2m, 1h or 30d");
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    let milliseconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms)).ok_or_else(bad)?;
    if milliseconds == 0 { Err(bad()) } else { Ok(Duration::from_millis(milliseconds)) }
}

#[cfg(test)]
mod tests {
    use super::{bytes, count, counted, date_time, duration, parse_duration, per_second};
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
    fn dates() {
        // As `date -u -d @SECONDS` has them.
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (951_868_799, "2000-02-29 23:59:59Z"),
            (1_709_251_199, "2024-02-29 23:59:59Z"),
            (1_709_251_200, "2024-03-01 00:00:00Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
            (-1, "1969-12-31 23:59:59Z"),
            (-2_203_891_200, "1900-03-01 00:00:00Z"),
        ] {
            assert_eq!(date_time(seconds * 1000), text);
        }
        assert_eq!(date_time(-1), "1969-12-31 23:59:59Z");
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(172_800)));
        for bad in ["", "1", "s", "0s", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615h", "1 s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}

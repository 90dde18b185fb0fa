//! Spans of time as they are typed: `5`, `1.5`, `250ms`, `2m`, `1h`, `1d`.
//!
//! Knows: units and what is sensible. Never: which option asked, what zero means to it.

use std::time::Duration;

/// The longest span that is believed: ten years of 365 days.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The shortest span apart from zero: timers are not finer.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);

/// Why a word is no span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DurationError {
    /// Not `NUMBER` or `NUMBER UNIT`.
    NotATime,
    /// Neither zero nor between [`SHORTEST`] and [`LONGEST`].
    OutOfRange,
}

/// Reads a decimal number and an optional unit (`ms s m h d`); without a unit it is seconds.
///
/// # Errors
/// See [`DurationError`].
pub(super) fn parse_duration(word: &str) -> Result<Duration, DurationError> {
    let unit_at = word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len());
    let (number, unit) = word.split_at(unit_at);
    let unit_nanos: u128 = match unit {
        "ms" => 1_000_000,
        "" | "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        "d" => 86_400 * 1_000_000_000,
        _ => return Err(DurationError::NotATime),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    // `.5` is a number, `5.` and `.` are typing errors.
    if number.is_empty() || fraction.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return Err(DurationError::NotATime);
    }
    let whole: u64 =
        if whole.is_empty() { 0 } else { whole.parse().map_err(|_| DurationError::OutOfRange)? };
    let nanos = u128::from(whole) * unit_nanos + fraction_nanos(fraction, unit_nanos);
    // Rounded up, so that nothing typed above zero becomes zero, which means "never" to some options.
    let any_digit = whole > 0 || fraction.bytes().any(|b| b != b'0');
    let nanos = if any_digit { nanos.max(1) } else { 0 };
    let span = u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| DurationError::OutOfRange)?;
    if span.is_zero() || (SHORTEST..=LONGEST).contains(&span) {
        Ok(span)
    } else {
        Err(DurationError::OutOfRange)
    }
}

/// The first 15 digits after the point are all that can matter.
fn fraction_nanos(digits: &str, unit_nanos: u128) -> u128 {
    let mut scale = 1;
    let mut value = 0;
    for digit in digits.bytes().take(15) {
        value = value * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    value * unit_nanos / scale
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_seconds_and_units_are_units() {
        let table = [
            ("0", 0),
            ("0.0", 0),
            ("0ms", 0),
            ("0d", 0),
            ("5", 5_000),
            ("05", 5_000),
            ("1.5", 1_500),
            (".5", 500),
            ("250ms", 250),
            ("1.5s", 1_500),
            ("2m", 120_000),
            ("0.5m", 30_000),
            ("1h", 3_600_000),
            ("1.25h", 4_500_000),
            ("1d", 86_400_000),
            ("3650d", 315_360_000_000),
            ("315360000", 315_360_000_000),
            ("0.001", 1),
            ("1.0000000000000000000000000000000000000001", 1_000),
        ];
        for (word, millis) in table {
            assert_eq!(parse_duration(word), Ok(Duration::from_millis(millis)), "{word}");
        }
    }

    #[test]
    fn what_is_not_a_time_is_said_to_be_none() {
        for word in [
            "", ".", "5.", "s", "ms", "x", "5x", "5 s", " 5", "5 ", "+5", "-5", "1e3", "1,5", "1.2.3", "5S",
            "5min", "5mss", "inf", "nan", "0x10", "٥", "5µs",
        ] {
            assert_eq!(parse_duration(word), Err(DurationError::NotATime), "{word:?}");
        }
    }

    #[test]
    fn absurd_sizes_are_out_of_range() {
        for word in [
            "3651d",
            "315360001",
            "315360000.001",
            "18446744073709551615",
            "18446744073709551616d",
            "99999999999999999999999999999999",
            "0.0001",
            "0.5ms",
            "0.00000000000000000000000000000000001",
        ] {
            assert_eq!(parse_duration(word), Err(DurationError::OutOfRange), "{word}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(word in ".*") {
            let _ = parse_duration(&word);
        }

        #[test]
        fn milliseconds_survive_as_a_fraction_of_a_second(millis in 1u64..315_360_000_000) {
            let word = format!("{}.{:03}", millis / 1_000, millis % 1_000);
            prop_assert_eq!(parse_duration(&word), Ok(Duration::from_millis(millis)));
        }
    }
}

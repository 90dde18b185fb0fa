//! Durations as they are typed and printed: `5`, `1.5`, `250ms`, `2m`, `1h`, `1d`.
//!
//! Knows: the units and the allowed range. Never: which option the duration is for, what zero means there.

use std::time::Duration;

/// The longest duration that is allowed: ten years of 365 days. A longer one is surely a typing mistake.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The shortest duration that is allowed except for zero: the resolution of timers.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);

/// The units and their lengths in nanoseconds, longest first.
const UNITS: [(&str, u128); 5] = [
    ("d", 86_400 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

/// Why a word is not a duration. It is printed behind the word in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Neither `NUMBER` nor `NUMBER UNIT`.
    #[error("is not a time; write seconds or a number with a unit, such as 5, 1.5, 250ms, 2m, 1h, 1d")]
    NotATime,
    /// Neither zero nor between 1 ms and ten years.
    #[error("is out of range; give 1ms to 3650d")]
    OutOfRange,
}

/// Reads a decimal number and an optional unit (`ms`, `s`, `m`, `h` or `d`); without a unit it is seconds.
/// The caller decides what zero means.
///
/// # Errors
/// See [`DurationError`].
pub fn parse_duration(word: &str) -> Result<Duration, DurationError> {
    let unit_at = word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len());
    let (number, unit) = word.split_at(unit_at);
    let name = if unit.is_empty() { "s" } else { unit };
    let Some((_, unit_nanos)) = UNITS.iter().find(|(unit, _)| *unit == name).copied() else {
        return Err(DurationError::NotATime);
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    // `.5` is a number; `5.` and `.` are typing mistakes.
    if number.is_empty() || fraction.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return Err(DurationError::NotATime);
    }
    let whole: u64 =
        if whole.is_empty() { 0 } else { whole.parse().map_err(|_| DurationError::OutOfRange)? };
    let nanos = u128::from(whole) * unit_nanos + fraction_nanos(fraction, unit_nanos);
    // Nothing above zero is rounded to zero, because zero means "never" for some options.
    let any_digit = whole > 0 || fraction.bytes().any(|b| b != b'0');
    let nanos = if any_digit { nanos.max(1) } else { 0 };
    let span = u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| DurationError::OutOfRange)?;
    if span.is_zero() || (SHORTEST..=LONGEST).contains(&span) {
        Ok(span)
    } else {
        Err(DurationError::OutOfRange)
    }
}

/// The shortest word that [`parse_duration`] reads as exactly this: a whole number of the longest unit that
/// divides it, or else seconds with a fraction; milliseconds if it is below one second.
pub fn print_duration(span: Duration) -> String {
    let nanos = span.as_nanos();
    let whole = UNITS.iter().find(|(_, unit_nanos)| nanos.is_multiple_of(*unit_nanos));
    match whole {
        _ if nanos == 0 => "0".to_owned(),
        Some((unit, unit_nanos)) if *unit != "ms" || nanos < 1_000_000_000 => {
            format!("{}{unit}", nanos / unit_nanos)
        }
        _ if nanos < 1_000_000_000 => {
            let fraction = format!("{:06}", nanos % 1_000_000);
            format!("{}.{}ms", nanos / 1_000_000, fraction.trim_end_matches('0'))
        }
        _ => {
            let fraction = format!("{:09}", span.subsec_nanos());
            format!("{}.{}s", span.as_secs(), fraction.trim_end_matches('0'))
        }
    }
}

/// The nanoseconds of a fraction. Digits after the fifteenth make no difference.
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

    #[test]
    fn a_span_prints_as_a_short_word_that_is_exact() {
        let table = [
            (0, "0"),
            (1, "1ms"),
            (250, "250ms"),
            (999, "999ms"),
            (1_500, "1.5s"),
            (61_001, "61.001s"),
            (5_000, "5s"),
            (90_000, "90s"),
            (120_000, "2m"),
            (5_400_000, "90m"),
            (3_600_000, "1h"),
            (86_400_000, "1d"),
            (315_360_000_000, "3650d"),
        ];
        for (millis, word) in table {
            assert_eq!(print_duration(Duration::from_millis(millis)), word);
        }
        assert_eq!(print_duration(Duration::from_nanos(1_000_010)), "1.00001ms");
        assert_eq!(print_duration(Duration::from_nanos(1_000_000_010)), "1.00000001s");
    }

    proptest! {
        #[test]
        fn any_text_is_answered_and_what_was_read_prints_as_itself(word in "[0-9]{0,12}\\.?[0-9]{0,12}(|s|m|h|d|ms)|.*") {
            if let Ok(span) = parse_duration(&word) {
                prop_assert_eq!(parse_duration(&print_duration(span)), Ok(span));
            }
        }

        #[test]
        fn milliseconds_survive_as_a_fraction_of_a_second(millis in 1u64..315_360_000_000) {
            let word = format!("{}.{:03}", millis / 1_000, millis % 1_000);
            prop_assert_eq!(parse_duration(&word), Ok(Duration::from_millis(millis)));
        }
    }
}

//! Numbers as short text.
//!
//! Knows: k, M, G. Never: what they count.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use super::facts::span;
use crate::control::status::{age, short_time};

const UNITS: [&str; 6] = ["", "k", "M", "G", "T", "P"];

/// A rate in at most four characters: `0`, `0.4`, `12`, `999`, `1.2k`, `12k`, `3.4M`.
pub(super) fn rate(rate: f64) -> String {
    let mut scaled = if rate.is_finite() { rate.max(0.0) } else { 0.0 };
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1_000.0;
        unit += 1;
    }
    let is_whole = unit == 0 && (scaled - scaled.round()).abs() < 0.05;
    let digits = usize::from(scaled < 9.95 && !is_whole);
    format!("{:.digits$}{}", scaled.min(9_999.0), UNITS[unit])
}

/// The same, or `-` if it is not known.
pub(super) fn known_rate(one: Option<f64>) -> String {
    one.map_or_else(|| "-".to_owned(), rate)
}

/// A number in at most `most` characters if possible: `18446744073709551615` becomes `18446P`.
pub(super) fn count(number: u64, most: usize) -> String {
    let mut text = number.to_string();
    let (mut scaled, mut unit) = (number, 0);
    while text.len() > most && unit + 1 < UNITS.len() {
        scaled /= 1_000;
        unit += 1;
        text = format!("{scaled}{}", UNITS[unit]);
    }
    text
}

/// An age in seconds, printed as in `status`.
pub(super) fn age_of(seconds: f64) -> String {
    age(span(seconds))
}

/// The time of a connect, printed as in `status`.
pub(super) fn connect(seconds: Option<f64>) -> String {
    let time = |seconds: f64| short_time(Duration::from_micros((seconds * 1e6).round().max(0.0) as u64));
    seconds.map_or_else(|| "-".to_owned(), time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (one, said) in [
            (0.0, "0"),
            (0.04, "0"),
            (0.4, "0.4"),
            (1.0, "1"),
            (9.94, "9.9"),
            (9.97, "10"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (12_345.0, "12k"),
            (1_250_000.0, "1.2M"),
            (f64::MAX, "9999P"),
            (f64::NAN, "0"),
            (-3.0, "0"),
        ] {
            assert_eq!(rate(one), said, "{one}");
        }
        assert_eq!((known_rate(None), known_rate(Some(2.0))), ("-".into(), "2".into()));
        assert_eq!(
            (count(1234, 4), count(12345, 4), count(u64::MAX, 6)),
            ("1234".into(), "12k".into(), "18446P".into())
        );
        assert_eq!(
            (connect(None), connect(Some(0.000028)), connect(Some(f64::NAN))),
            ("-".into(), "28us".into(), "0us".into())
        );
    }
}

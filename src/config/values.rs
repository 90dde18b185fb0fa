//! Values that several options share, such as times and numbers: how they are read and printed, and the
//! messages about wrong ones.
//!
//! Knows: how a range is checked and put into words. Never: which options exist, what a value is for.

use std::time::Duration;

use super::duration::{DurationError, LONGEST, SHORTEST, parse_duration, print_duration};
use super::number::whole_number;
use super::wrong::{Word, Wrong};
use crate::spec::{Keepalive, LogMoments};

/// The largest TCP_KEEPIDLE and TCP_KEEPINTVL that the kernel takes, in seconds (MAX_TCP_KEEPIDLE).
const MAX_KEEPALIVE_SECONDS: u64 = 32_767;
/// The largest TCP_KEEPCNT that the kernel takes (MAX_TCP_KEEPCNT).
const MAX_KEEPALIVE_PROBES: u64 = 127;

/// What is wrong with the value of an option.
#[derive(Debug, PartialEq)]
pub(super) enum Bad {
    /// The message, which follows the option and its value.
    Value(String),
    /// The message, which follows the option.
    Rule(String),
    /// The value is not an address.
    Address(Wrong),
}

/// The legal range of a time.
pub(super) struct Span {
    /// The shortest legal time, apart from zero.
    pub(super) least: Duration,
    /// The longest legal time.
    pub(super) most: Duration,
    /// What 0 means. `None`: 0 is out of range.
    pub(super) zero: Option<&'static str>,
}

impl Span {
    /// Any time except zero.
    pub(super) const ANY: Self = Self { least: SHORTEST, most: LONGEST, zero: None };
    /// Any time; `zero` says what 0 means.
    pub(super) const fn or(zero: &'static str) -> Self {
        Self { zero: Some(zero), ..Self::ANY }
    }

    /// Reads a time.
    ///
    /// # Errors
    /// The word is not a time, or is out of range.
    pub(super) fn read(&self, word: &Word) -> Result<Duration, Bad> {
        let span = parse_duration(&word.lossy());
        let is_legal = |span: &Duration| {
            if span.is_zero() { self.zero.is_some() } else { (self.least..=self.most).contains(span) }
        };
        let wrong = match span {
            Ok(span) if is_legal(&span) => return Ok(span),
            Err(DurationError::NotATime) => DurationError::NotATime.to_string(),
            Ok(_) | Err(DurationError::OutOfRange) => {
                let (least, most) = (print_duration(self.least), print_duration(self.most));
                let zero = self.zero.map_or_else(String::new, |zero| format!(" or 0 for {zero}"));
                format!("is out of range; give {least} to {most}{zero}")
            }
        };
        Err(Bad::Value(wrong))
    }

    /// Reads a time; 0 becomes `None`.
    ///
    /// # Errors
    /// The word is not a time, or is out of range.
    pub(super) fn read_or(&self, word: &Word) -> Result<Option<Duration>, Bad> {
        self.read(word).map(|span| (!span.is_zero()).then_some(span))
    }
}

/// The time as it would be typed; 0 for `None`.
pub(super) fn print_or(span: Option<Duration>) -> String {
    print_duration(span.unwrap_or_default())
}

/// A time as the old options print it: seconds without a unit where possible, because scripts read them.
pub(super) fn print_seconds(span: Duration) -> String {
    let word = print_duration(span);
    let bare =
        word.strip_suffix('s').filter(|number| number.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    bare.unwrap_or(&word).to_owned()
}

/// The legal range of a whole number.
pub(super) struct Count {
    /// The least legal number.
    pub(super) least: u32,
    /// The greatest legal number.
    pub(super) most: u32,
    /// What 0 means if it is not just the number 0.
    pub(super) zero: Option<&'static str>,
}

impl Count {
    /// 1 to `most`.
    pub(super) const fn to(most: u32) -> Self {
        Self { least: 1, most, zero: None }
    }

    /// 0 to `most`; `zero` says what 0 means.
    pub(super) const fn or(zero: &'static str, most: u32) -> Self {
        Self { least: 0, most, zero: Some(zero) }
    }

    /// Reads a number.
    ///
    /// # Errors
    /// The word is not a number, or is out of range.
    pub(super) fn read<N: TryFrom<u32>>(&self, word: &Word) -> Result<N, Bad> {
        let number = whole_number(&word.lossy()).flatten().and_then(|n| u32::try_from(n).ok());
        let legal = number.filter(|n| (self.least..=self.most).contains(n)).and_then(|n| N::try_from(n).ok());
        legal.ok_or_else(|| {
            let Self { least, most, zero } = self;
            let zero = zero.map_or_else(String::new, |zero| format!("; 0 means {zero}"));
            Bad::Value(format!("is not a number from {least} to {most}{zero}"))
        })
    }
}

/// The number; 0 for `None`.
pub(super) fn print_count(number: Option<impl Into<u32>>) -> String {
    number.map_or(0, Into::into).to_string()
}

/// Reads `IDLE:INTVL:CNT`, three whole numbers; the first two are seconds.
///
/// # Errors
/// It does not have this form, or a number is out of range.
pub(super) fn read_keepalive(word: &Word) -> Result<Keepalive, Bad> {
    let text = word.lossy();
    let in_range = |part: &str, most| whole_number(part).flatten().filter(|n| (1..=most).contains(n));
    let parts = match text.split(':').collect::<Vec<_>>()[..] {
        [idle, interval, count] => in_range(idle, MAX_KEEPALIVE_SECONDS)
            .zip(in_range(interval, MAX_KEEPALIVE_SECONDS))
            .zip(in_range(count, MAX_KEEPALIVE_PROBES).and_then(|n| u32::try_from(n).ok())),
        _ => None,
    };
    let Some(((idle, interval), count)) = parts else {
        return Err(Bad::Value(format!(
            "is not IDLE:INTVL:CNT; give seconds, seconds and a count, such as 60:10:6 \
             (1 to {MAX_KEEPALIVE_SECONDS}, the same, 1 to {MAX_KEEPALIVE_PROBES})"
        )));
    };
    Ok(Keepalive { idle: Duration::from_secs(idle), interval: Duration::from_secs(interval), count })
}

/// The three numbers as they would be typed; empty for `None`.
pub(super) fn print_keepalive(keepalive: Option<Keepalive>) -> String {
    keepalive.map_or_else(String::new, |of| {
        format!("{}:{}:{}", of.idle.as_secs(), of.interval.as_secs(), of.count)
    })
}

/// Reads a number with at most 3 decimals, in thousandths. `None`: anything else, or one that does not fit.
pub(super) fn thousandths(word: &str) -> Option<u32> {
    let (whole, fraction) = word.split_once('.').unwrap_or((word, "0"));
    if fraction.len() > 3 {
        return None;
    }
    let whole = whole_number(whole)??.checked_mul(1_000)?;
    let fraction = whole_number(&format!("{fraction:0<3}")).filter(|_| !fraction.is_empty())??;
    u32::try_from(whole.checked_add(fraction)?).ok()
}

/// The number as it would be typed; empty for `None`.
pub(super) fn print_thousandths(number: Option<u32>) -> String {
    number.map_or_else(String::new, |thousandths| {
        let digits = format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000);
        digits.trim_end_matches('0').trim_end_matches('.').to_owned()
    })
}

/// The shortest interval between two lines of one connection in the access log.
const LEAST_BETWEEN: Duration = Duration::from_secs(1);

/// Reads the list of `--access-log-at`.
///
/// # Errors
/// A word of the list is not legal, or is there twice.
pub(super) fn read_moments(word: &Word) -> Result<LogMoments, Bad> {
    let wrong = |why: &str| {
        Bad::Value(format!(
            "{why}; give start, end, a time of at least 1s, or several of them, as in start,end,5m"
        ))
    };
    let text = word.as_str().ok_or_else(|| wrong("is not UTF-8"))?;
    let mut moments = LogMoments { start: false, end: false, every: None };
    for one in text.split(',') {
        let is_new = match one {
            "start" => !std::mem::replace(&mut moments.start, true),
            "end" => !std::mem::replace(&mut moments.end, true),
            time => match parse_duration(time) {
                Ok(span) if (LEAST_BETWEEN..=LONGEST).contains(&span) => {
                    moments.every.replace(span).is_none()
                }
                Ok(_) | Err(DurationError::OutOfRange) => {
                    return Err(wrong("has a time that is out of range"));
                }
                Err(DurationError::NotATime) => return Err(wrong("is not a list of moments")),
            },
        };
        if !is_new {
            return Err(wrong("names the same moment twice"));
        }
    }
    Ok(moments)
}

/// The list as it would be typed.
pub(super) fn print_moments(moments: LogMoments) -> String {
    let LogMoments { start, end, every } = moments;
    let words = [start.then(|| "start".to_owned()), end.then(|| "end".to_owned()), every.map(print_duration)];
    words.into_iter().flatten().collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_read_to_the_thousandth() {
        let table = [
            ("1", Some(1_000)),
            ("1.0", Some(1_000)),
            ("1.25", Some(1_250)),
            ("01.255", Some(1_255)),
            ("100", Some(100_000)),
            ("0.5", Some(500)),
            ("100.001", Some(100_001)),
            ("", None),
            (".5", None),
            ("1.", None),
            ("1.2500", None),
            ("1.+5", None),
            ("1,25", None),
            ("+1", None),
            ("1e1", None),
            ("1.2.3", None),
            ("99999999999999999999", None),
            ("18446744073709551615", None),
            ("4294968", None),
        ];
        for (word, factor) in table {
            assert_eq!(thousandths(word), factor, "{word:?}");
        }
    }
}

//! Values that several options share, times, numbers and the like: how they are read and printed, and how a wrong one is told.
//!
//! Knows: how a range is checked and put into words. Never: which options there are, what a value is good for.

use std::time::Duration;

use super::duration::{DurationError, LONGEST, SHORTEST, parse_duration, print_duration};
use super::number::whole_number;
use super::wrong::{Word, Wrong};
use crate::spec::{Keepalive, LogMoments};

/// The most the kernel takes as TCP_KEEPIDLE and TCP_KEEPINTVL, in seconds.
const MAX_KEEPALIVE_SECONDS: u64 = 32_767;
/// The most the kernel takes as TCP_KEEPCNT.
const MAX_KEEPALIVE_PROBES: u64 = 127;

/// What is wrong with the value of an option.
#[derive(Debug, PartialEq)]
pub(super) enum Bad {
    /// What stands behind the option and its value in the message.
    Value(String),
    /// What stands behind the option.
    Rule(String),
    /// It is no address.
    Address(Wrong),
}

/// A time in a range.
pub(super) struct Span {
    /// The shortest time that is legal, apart from zero.
    pub(super) least: Duration,
    /// The longest one.
    pub(super) most: Duration,
    /// What 0 means. `None`: 0 is out of range.
    pub(super) zero: Option<&'static str>,
}

impl Span {
    /// Any time but zero.
    pub(super) const ANY: Self = Self { least: SHORTEST, most: LONGEST, zero: None };
    /// Any time, and a word for what 0 means.
    pub(super) const fn or(zero: &'static str) -> Self {
        Self { zero: Some(zero), ..Self::ANY }
    }

    /// # Errors
    /// What is no time, or not a legal one.
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

    /// `None` for 0.
    ///
    /// # Errors
    /// What is no time, or not a legal one.
    pub(super) fn read_or(&self, word: &Word) -> Result<Option<Duration>, Bad> {
        self.read(word).map(|span| (!span.is_zero()).then_some(span))
    }
}

/// 0 for `None`.
pub(super) fn print_or(span: Option<Duration>) -> String {
    print_duration(span.unwrap_or_default())
}

/// The old options take bare seconds, and so does everybody who reads them.
pub(super) fn print_seconds(span: Duration) -> String {
    let word = print_duration(span);
    let bare =
        word.strip_suffix('s').filter(|number| number.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    bare.unwrap_or(&word).to_owned()
}

/// A whole number in a range.
pub(super) struct Count {
    /// The least number that is legal.
    pub(super) least: u32,
    /// The greatest one.
    pub(super) most: u32,
    /// What 0 means, where it means something else than its number.
    pub(super) zero: Option<&'static str>,
}

impl Count {
    /// 1 to `most`.
    pub(super) const fn to(most: u32) -> Self {
        Self { least: 1, most, zero: None }
    }

    /// 0 to `most`, and a word for what 0 means.
    pub(super) const fn or(zero: &'static str, most: u32) -> Self {
        Self { least: 0, most, zero: Some(zero) }
    }

    /// # Errors
    /// What is no number, or not a legal one.
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

/// 0 for `None`.
pub(super) fn print_count(number: Option<impl Into<u32>>) -> String {
    number.map_or(0, Into::into).to_string()
}

/// `idle:interval:count`, whole numbers.
///
/// # Errors
/// What is not that, or out of range.
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

/// Nothing for `None`.
pub(super) fn print_keepalive(keepalive: Option<Keepalive>) -> String {
    keepalive.map_or_else(String::new, |of| {
        format!("{}:{}:{}", of.idle.as_secs(), of.interval.as_secs(), of.count)
    })
}

/// A number with at most 3 decimals, in thousandths. `None` for anything else.
pub(super) fn thousandths(word: &str) -> Option<u32> {
    let (whole, fraction) = word.split_once('.').unwrap_or((word, "0"));
    if fraction.len() > 3 {
        return None;
    }
    let whole = whole_number(whole)??.checked_mul(1_000)?;
    let fraction = whole_number(&format!("{fraction:0<3}")).filter(|_| !fraction.is_empty())??;
    u32::try_from(whole.checked_add(fraction)?).ok()
}

/// Nothing for `None`.
pub(super) fn print_thousandths(number: Option<u32>) -> String {
    number.map_or_else(String::new, |thousandths| {
        let digits = format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000);
        digits.trim_end_matches('0').trim_end_matches('.').to_owned()
    })
}

/// The shortest time after which a connection may have one more line in the access log.
const LEAST_BETWEEN: Duration = Duration::from_secs(1);

/// The list of `--access-log-at`.
///
/// # Errors
/// A word of it is none, or comes twice.
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

/// As it would be typed.
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

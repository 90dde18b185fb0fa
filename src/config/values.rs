//! Values that several options share, times and whole numbers, and how a wrong one is told.
//!
//! Knows: how a range is checked and put into words. Never: which options there are, what a value is good for.

use std::ffi::OsStr;
use std::time::Duration;

use super::duration::{DurationError, parse_duration, print_duration};
use super::settings::SettingsError;
use super::target::whole_number;

/// An option that takes a time.
pub(super) struct Span {
    /// Its name as messages have it.
    pub(super) option: &'static str,
    /// The shortest time that is legal, apart from zero.
    pub(super) least: Duration,
    /// The longest one.
    pub(super) most: Duration,
    /// What 0 means. `None`: 0 is out of range.
    pub(super) zero: Option<&'static str>,
}

impl Span {
    /// `None` without a word.
    ///
    /// # Errors
    /// `Usage` for what is no time, or not a legal one.
    pub(super) fn read(&self, word: Option<&OsStr>) -> Result<Option<Duration>, SettingsError> {
        let Some(word) = word else { return Ok(None) };
        let span = parse_duration(&word.to_string_lossy());
        let is_legal = |span: &Duration| {
            if span.is_zero() { self.zero.is_some() } else { (self.least..=self.most).contains(span) }
        };
        let wrong = match span {
            Ok(span) if is_legal(&span) => return Ok(Some(span)),
            Err(DurationError::NotATime) => DurationError::NotATime.to_string(),
            Ok(_) | Err(DurationError::OutOfRange) => {
                let (least, most) = (print_duration(self.least), print_duration(self.most));
                let zero = self.zero.map_or_else(String::new, |zero| format!(" or 0 for {zero}"));
                format!("is out of range; give {least} to {most}{zero}")
            }
        };
        Err(SettingsError::usage(format!("{} '{}' {wrong}", self.option, word.display())))
    }
}

/// An option that takes a whole number.
pub(super) struct Count {
    /// Its name as messages have it.
    pub(super) option: &'static str,
    /// The least number that is legal.
    pub(super) least: u32,
    /// The greatest one.
    pub(super) most: u32,
    /// What 0 means, where it means something else than its number.
    pub(super) zero: Option<&'static str>,
}

impl Count {
    /// `None` without a word.
    ///
    /// # Errors
    /// `Usage` for what is no number, or not a legal one.
    pub(super) fn read(&self, word: Option<&OsStr>) -> Result<Option<u32>, SettingsError> {
        let Some(word) = word else { return Ok(None) };
        let number = whole_number(&word.to_string_lossy()).flatten().and_then(|n| u32::try_from(n).ok());
        if let Some(number) = number.filter(|n| (self.least..=self.most).contains(n)) {
            return Ok(Some(number));
        }
        let Self { option, least, most, zero } = self;
        let zero = zero.map_or_else(String::new, |zero| format!("; 0 is {zero}"));
        let shown = word.display();
        Err(SettingsError::usage(format!("{option} '{shown}' is not a number from {least} to {most}{zero}")))
    }
}

/// For options where zero is the word for nothing.
pub(super) fn unless_zero(span: Duration) -> Option<Duration> {
    (!span.is_zero()).then_some(span)
}

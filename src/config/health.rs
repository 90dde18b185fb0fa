//! The options about the health of channels: what is probed and how, and what a channel that is down means.
//!
//! Knows: defaults and legal ranges. Never: how a probe is made, which channels there are.

use std::num::NonZeroU16;
use std::time::Duration;

use super::cli::RawArgs;
use super::settings::SettingsError;
use super::values::{Count, Span};
use crate::spec::{Check, CheckSpec, OnDown};

pub(super) const INTERVAL: Duration = Duration::from_secs(2);
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);
/// One good answer may be luck.
pub(super) const RISE: u32 = 2;
/// One lost packet is no reason, and a retransmission may be late twice.
pub(super) const FALL: u32 = 3;

/// Closer together, the probes of many channels would be a load of their own.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
const LONGEST_INTERVAL: Duration = Duration::from_secs(86_400);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Of rise and fall; more in a row would hardly ever happen.
const MOST_IN_A_ROW: u32 = 1_000;

const CHECK_INTERVAL: Span =
    Span { option: "--check-interval", least: SHORTEST_INTERVAL, most: LONGEST_INTERVAL, zero: None };
const CHECK_TIMEOUT: Span =
    Span { option: "--check-timeout", least: SHORTEST_TIMEOUT, most: LONGEST_TIMEOUT, zero: None };
const CHECK_RISE: Count = Count { option: "--check-rise", least: 1, most: MOST_IN_A_ROW, zero: None };
const CHECK_FALL: Count = Count { option: "--check-fall", least: 1, most: MOST_IN_A_ROW, zero: None };
const CHECK_PORT: Count = Count { option: "--check-port", least: 1, most: u16::MAX as u32, zero: None };

/// The values of `--on-down`.
pub(super) const ON_DOWN: [(&str, OnDown); 2] = [("keep", OnDown::Keep), ("kick", OnDown::Kick)];

/// `--on-down`; the table of options lets nothing else pass.
pub(super) fn on_down(raw: &RawArgs) -> OnDown {
    let named = |word: &str| ON_DOWN.iter().find(|(name, _)| *name == word);
    raw.on_down.as_deref().and_then(named).map(|(_, on_down)| *on_down).unwrap_or_default()
}

/// `--check` and the options that go with it. `None`: nobody asked for probes.
///
/// # Errors
/// `Usage`: a bad value, or an option of `--check` without it.
pub(super) fn check(raw: &RawArgs) -> Result<Option<CheckSpec>, SettingsError> {
    let interval = CHECK_INTERVAL.read(raw.check_interval.as_deref())?;
    let timeout = CHECK_TIMEOUT.read(raw.check_timeout.as_deref())?;
    let rise = CHECK_RISE.read(raw.check_rise.as_deref())?;
    let fall = CHECK_FALL.read(raw.check_fall.as_deref())?;
    let port = CHECK_PORT.read(raw.check_port.as_deref())?;
    let Some(word) = &raw.check else {
        let given = [
            (CHECK_INTERVAL.option, interval.is_some()),
            (CHECK_TIMEOUT.option, timeout.is_some()),
            (CHECK_RISE.option, rise.is_some()),
            (CHECK_FALL.option, fall.is_some()),
            (CHECK_PORT.option, port.is_some()),
            // Only a check takes a channel down.
            ("--on-down kick", on_down(raw) == OnDown::Kick),
        ];
        return match given.iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => Err(SettingsError::usage(format!(
                "{option} needs --check; say how to probe, such as --check tcp"
            ))),
            None => Ok(None),
        };
    };
    let kind = Check::parse(word)
        .map_err(|error| SettingsError::usage(format!("--check '{}' {error}", word.display())))?;
    Ok(Some(CheckSpec {
        check: kind,
        interval: interval.unwrap_or(INTERVAL),
        timeout: timeout.unwrap_or(TIMEOUT),
        rise: rise.unwrap_or(RISE),
        fall: fall.unwrap_or(FALL),
        port: port.and_then(|n| u16::try_from(n).ok()).and_then(NonZeroU16::new),
    }))
}

/// `--fail-open`; the table of options lets nothing pass but `on` and `off`.
pub(super) fn fail_open(raw: &RawArgs) -> bool {
    raw.fail_open.as_deref() != Some("off")
}

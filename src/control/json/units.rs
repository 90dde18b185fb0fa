//! Times and durations as text and numbers in JSON.
//!
//! Knows: RFC 3339, seconds. Never: the clock, what happened when.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::{Duration, UNIX_EPOCH};

use crate::observe::utc;

/// The latest time that is printed. It is within the range of every system's clock and beyond that of RFC
/// 3339.
const LAST: Duration = Duration::from_secs(1 << 40);

/// A time since the beginning of 1970 as UTC with milliseconds: `2026-11-28T23:50:00.123Z`.
pub(super) fn rfc3339(time: Duration) -> String {
    utc(UNIX_EPOCH + time.min(LAST)).to_string()
}

/// The time that is this long before `now`.
pub(super) fn ago(now: Duration, span: Duration) -> String {
    rfc3339(now.saturating_sub(span))
}

/// Seconds with milliseconds, for ages.
pub(super) fn seconds(span: Duration) -> f64 {
    span.as_millis() as f64 / 1e3
}

/// Seconds with microseconds, for connect times.
pub(super) fn short_seconds(span: Duration) -> f64 {
    span.as_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_utc_and_never_out_of_range() {
        let at = |millis| rfc3339(Duration::from_millis(millis));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(at(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(Duration::MAX), "9999-12-31T23:59:59.000Z");
        assert_eq!(ago(Duration::ZERO, Duration::MAX), "1970-01-01T00:00:00.000Z");
        assert_eq!(ago(Duration::from_secs(60), Duration::from_millis(1)), "1970-01-01T00:00:59.999Z");
    }

    #[test]
    fn seconds_have_no_more_digits_than_they_are_worth() {
        assert_eq!(seconds(Duration::from_nanos(1_234_567_890)), 1.234);
        assert_eq!(short_seconds(Duration::from_nanos(80_123)), 0.00008);
    }
}

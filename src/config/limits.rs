//! `--max-connections`, `--queue`, `--queue-timeout`, `--max-lifetime`: how much of everything there may be.
//!
//! Knows: defaults and legal ranges. Never: who counts, who waits.

use std::num::NonZeroU32;
use std::time::Duration;

use super::cli::RawArgs;
use super::duration::{LONGEST, SHORTEST};
use super::settings::SettingsError;
use super::values::{Count, Span, unless_zero};

/// How long a client waits for a full channel if nobody said otherwise: as long as a connect may take.
pub(super) const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// More clients than any machine has descriptors for.
const MAX_QUEUE: u32 = 1_000_000;

const MAX_CONNECTIONS: Count =
    Count { option: "--max-connections", least: 0, most: u32::MAX, zero: Some("no limit") };
const QUEUE: Count = Count { option: "--queue", least: 0, most: MAX_QUEUE, zero: Some("no queue") };
const WAIT: Span = Span { option: "--queue-timeout", least: SHORTEST, most: LONGEST, zero: None };
const LIFETIME: Span = Span { option: "--max-lifetime", least: SHORTEST, most: LONGEST, zero: Some("never") };

/// What the options say; the fields are those of [`super::Serve`].
pub(super) struct Limits {
    pub(super) max_connections: Option<NonZeroU32>,
    pub(super) queue: Option<NonZeroU32>,
    pub(super) queue_timeout: Duration,
    pub(super) max_lifetime: Option<Duration>,
}

/// # Errors
/// `Usage`: a bad value, or `--queue-timeout` where nobody waits.
pub(super) fn limits(raw: &RawArgs) -> Result<Limits, SettingsError> {
    let max_connections = MAX_CONNECTIONS.read(raw.max_connections.as_deref())?;
    let queue = QUEUE.read(raw.queue.as_deref())?.and_then(NonZeroU32::new);
    let queue_timeout = WAIT.read(raw.queue_timeout.as_deref())?;
    let max_lifetime = LIFETIME.read(raw.max_lifetime.as_deref())?;
    if queue_timeout.is_some() && queue.is_none() {
        return Err(SettingsError::usage(
            "--queue-timeout needs --queue; say how many clients may wait, such as --queue 100",
        ));
    }
    Ok(Limits {
        max_connections: max_connections.and_then(NonZeroU32::new),
        queue,
        queue_timeout: queue_timeout.unwrap_or(QUEUE_TIMEOUT),
        max_lifetime: max_lifetime.and_then(unless_zero),
    })
}

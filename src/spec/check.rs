//! What a health check does.
//!
//! Knows: the kinds of checks and their settings. Never: how a check is carried out, what its result means
//! for the channel.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Typed;

/// What a probe does to learn whether a channel works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Connects; the channel is up if the connect succeeds.
    Tcp,
    /// Requests a page by HTTP/1.1. Only the status of the answer counts, not its headers or body.
    Http {
        /// The `Host` header of the request, with or without a port, an IPv6 address in brackets. `None`: the
        /// checked address and port. The probe connects to the checked address either way.
        host: Option<String>,
        /// The path in the request: begins with `/`, percent-encoded, without spaces, control characters or a
        /// fragment.
        path: String,
        /// The statuses that count as up; if empty, none does. An interim status (1xx) counts as the answer
        /// only if it is listed here.
        statuses: Vec<RangeInclusive<u16>>,
    },
    /// Sends and expects bytes, in order. The channel is up when all steps have succeeded. Without steps it
    /// is the same as [`Check::Tcp`].
    Dialogue(Vec<Step>),
    /// Runs the program at this absolute path with the address and the port as its two arguments; exit code 0
    /// means up.
    ///
    /// The program starts in `/`, with `/dev/null` as its standard streams, in a process group of its own.
    /// When it ends or exceeds the timeout, balance kills the whole group. A process that has left the group
    /// survives.
    Exec(PathBuf),
}

/// One step of a [`Check::Dialogue`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Waits for these bytes, anywhere after the end of the previous match. An empty string matches at once.
    Expect(Vec<u8>),
}

/// How balance probes the channels of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckSpec {
    /// `--check`. `None`: balance probes only channels that have a `check` of their own.
    pub check: Option<Check>,
    /// The word as typed, for messages.
    pub typed: Typed,
    /// `--check-interval`, 10 ms to a day: the time from one probe to the next, before jitter.
    pub interval: Duration,
    /// `--check-timeout`, 1 ms to an hour: how long a probe may take. It may be longer than the interval.
    pub timeout: Duration,
    /// `--check-rise`, 1..=1000: successful probes in a row that make a channel up.
    pub rise: u32,
    /// `--check-fall`, 1..=1000: failed probes in a row that make a channel down.
    pub fall: u32,
    /// `--check-port`. `None`: the channel's own port.
    pub port: Option<NonZeroU16>,
}

/// `--on-down`, `--on-remove`: what happens to the connections of a channel that goes down or is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDown {
    /// They stay open.
    #[default]
    Keep,
    /// balance closes them.
    Kick,
}

//! What a health check does.
//!
//! Knows: the kinds of checks and what each is told. Never: how they are carried out, what follows from them.

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
    /// A connection that stands is enough.
    Tcp,
    /// Asks for a page by HTTP/1.1 and looks at the status of the answer, at nothing behind it.
    Http {
        /// What the request asks for as `Host`; `None` = the address and port that are checked. The connection goes to those
        /// either way. A host with or without a port, brackets around an IPv6 address.
        host: Option<String>,
        /// As it goes into the request: begins with `/`, percent-encoded, without spaces, control characters or fragment.
        path: String,
        /// The statuses that are up; empty = none is. An interim status (1xx) is an answer only if it is listed here.
        statuses: Vec<RangeInclusive<u16>>,
    },
    /// Says and hears bytes, in order. All steps done is up; no steps are the same as [`Check::Tcp`].
    Dialogue(Vec<Step>),
    /// Runs a program with the address and the port as its two arguments; exit code 0 is up.
    ///
    /// An absolute path: the program starts in `/`, with nothing on its standard streams and in a process group of its
    /// own. When it ends or is late, all of that group is killed. What has left the group lives on.
    Exec(PathBuf),
}

/// One step of a [`Check::Dialogue`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Waits until these bytes have come, anywhere behind the end of the previous match. Empty = they are there.
    Expect(Vec<u8>),
}

/// How the channels of a service are probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckSpec {
    /// `--check`. `None`: only channels that say so themselves are probed.
    pub check: Option<Check>,
    /// Its word, for messages.
    pub typed: Typed,
    /// `--check-interval`, 10 ms to a day: from one probe to the next, before jitter.
    pub interval: Duration,
    /// `--check-timeout`, 1 ms to an hour: how long a probe may take. It may be longer than the interval.
    pub timeout: Duration,
    /// `--check-rise`, 1..=1000: good probes in a row that make a channel up.
    pub rise: u32,
    /// `--check-fall`, 1..=1000: failed probes in a row that make it down.
    pub fall: u32,
    /// `--check-port`. `None`: the channel's.
    pub port: Option<NonZeroU16>,
}

/// `--on-down`: what becomes of the connections of a channel that is found to be down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDown {
    /// They live on.
    #[default]
    Keep,
    /// They are closed.
    Kick,
}

//! What is asked of the process, whatever services it has.
//!
//! Knows: its settings. Never: services, how a setting is carried out.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::Typed;

/// A word that names something of the system, such as a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// What it is called.
    pub name: String,
    /// The word, for messages.
    pub typed: Typed,
}

impl From<&str> for Named {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), typed: Typed::default() }
    }
}

/// The settings that all services of a process share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSpec {
    /// `-f`.
    pub foreground: bool,
    /// `-d`.
    pub debug: bool,
    /// `-p`. Only of use with `foreground`; the combination is legal and worth a warning.
    pub dump: bool,
    /// `--control-group`; whether there is such a group is asked later.
    pub control_group: Option<Named>,
    /// `--workers`, at most 1024. `None`: one per core.
    pub workers: Option<NonZeroUsize>,
    /// `--busy-poll`. `None`: where cores can be spared.
    pub busy_poll: Option<bool>,
    /// `--loopback-congestion`: the congestion control of bulk within this host; whether the system has it is asked later.
    /// `None`: the system's own.
    pub loopback_congestion: Option<Named>,
    /// `--drain-timeout`: how long connections may go on after SIGTERM; 0 = not at all.
    pub drain_timeout: Duration,
}

impl ProcessSpec {
    /// `--drain-timeout` that was not given.
    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
}

impl Default for ProcessSpec {
    fn default() -> Self {
        Self {
            foreground: false,
            debug: false,
            dump: false,
            control_group: None,
            workers: None,
            busy_poll: None,
            loopback_congestion: None,
            drain_timeout: Self::DRAIN_TIMEOUT,
        }
    }
}

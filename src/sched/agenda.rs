//! When which channel is to be probed.
//!
//! Knows: times, channels. Never: what for.

use std::collections::BTreeSet;
use std::time::Duration;

use super::ChannelKey;

/// The times of the next probes, earliest first: at most one per channel.
#[derive(Debug, Default)]
pub(super) struct Agenda(BTreeSet<(Duration, ChannelKey)>);

impl Agenda {
    /// Moves a channel from `old` (`None`: it had no time) to `new` (`None`: it has none from now on).
    pub(super) fn put(&mut self, key: ChannelKey, old: Option<Duration>, new: Option<Duration>) {
        if old == new {
            return;
        }
        if let Some(at) = old {
            self.0.remove(&(at, key));
        }
        if let Some(at) = new {
            self.0.insert((at, key));
        }
    }

    pub(super) fn due(&self, now: Duration) -> Option<ChannelKey> {
        self.0.first().filter(|(at, _)| *at <= now).map(|&(_, key)| key)
    }

    /// The earliest time.
    pub(super) fn next(&self) -> Option<Duration> {
        self.0.first().map(|&(at, _)| at)
    }
}

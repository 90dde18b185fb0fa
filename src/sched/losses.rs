//! Counts of clients that were lost before they had a channel, by reason.
//!
//! Knows: counters. Never: which client it was, who counts.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a client gets no channel: the most informative reason met on its walk. The reasons are in order of how
/// much they say, except `Full`: a full channel that the client may use says more than channels that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoChannel {
    /// There is no channel at all.
    Empty,
    /// There are channels, but none is enabled.
    Disabled,
    /// There are enabled channels, but none is up.
    Down,
    /// Some channels are up and did not fail, but all are at their maxc: with room in one of them the client
    /// would have been served.
    Full,
    /// Every usable channel was tried and failed.
    Failed,
}

/// Why a client was lost before it had a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Loss {
    /// Its walk found no channel.
    NoChannel(NoChannel),
    /// The wait queue was full.
    QueueFull,
    /// It waited for `--queue-timeout`.
    QueueTimeout,
    /// It waited for a paused channel for `--pause-timeout`.
    PauseTimeout,
    /// It left by itself.
    Left,
    /// An error on balance's side.
    Ours,
    /// What it sent before it could have a channel was invalid or incomplete.
    BadGreeting(BadGreeting),
    /// It did not send within `--greeting-timeout` what balance has to read first.
    GreetingTimeout,
    /// No group serves what it asks for.
    NotServed,
    /// Its channel does not speak TLS, which the client was promised.
    NoTls,
    /// There was no room for its first bytes: too many of others, or of its own, were not complete.
    GreetingsFull,
}

/// What is wrong with the first bytes of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BadGreeting {
    /// A PROXY header was required, and something else came.
    NoHeader,
    /// A PROXY header began, but is invalid.
    Malformed,
    /// The client ended in the middle.
    CutShort,
}

impl Loss {
    /// All reasons.
    pub const ALL: [Self; 17] = [
        Self::NoChannel(NoChannel::Empty),
        Self::NoChannel(NoChannel::Disabled),
        Self::NoChannel(NoChannel::Down),
        Self::NoChannel(NoChannel::Full),
        Self::NoChannel(NoChannel::Failed),
        Self::QueueFull,
        Self::QueueTimeout,
        Self::PauseTimeout,
        Self::Left,
        Self::Ours,
        Self::BadGreeting(BadGreeting::NoHeader),
        Self::BadGreeting(BadGreeting::Malformed),
        Self::BadGreeting(BadGreeting::CutShort),
        Self::GreetingTimeout,
        Self::NotServed,
        Self::NoTls,
        Self::GreetingsFull,
    ];

    pub(super) fn index(self) -> usize {
        match self {
            Self::NoChannel(why) => why as usize,
            Self::QueueFull => 5,
            Self::QueueTimeout => 6,
            Self::PauseTimeout => 7,
            Self::Left => 8,
            Self::Ours => 9,
            Self::BadGreeting(why) => 10 + why as usize,
            Self::GreetingTimeout => 13,
            Self::NotServed => 14,
            Self::NoTls => 15,
            Self::GreetingsFull => 16,
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoChannel(NoChannel::Empty) => "no channel",
            Self::NoChannel(NoChannel::Disabled) => "all channels disabled",
            Self::NoChannel(NoChannel::Down) => "no channel up",
            Self::NoChannel(NoChannel::Full) => "all channels full",
            Self::NoChannel(NoChannel::Failed) => "all channels failed",
            Self::QueueFull => "queue full",
            Self::QueueTimeout => "queue timeout",
            Self::PauseTimeout => "pause timeout",
            Self::Left => "client left",
            Self::Ours => "internal error",
            Self::BadGreeting(BadGreeting::NoHeader) => "bad greeting: no header",
            Self::BadGreeting(BadGreeting::Malformed) => "bad greeting: malformed",
            Self::BadGreeting(BadGreeting::CutShort) => "bad greeting: cut short",
            Self::GreetingTimeout => "greeting timeout",
            Self::NotServed => "unknown name",
            Self::NoTls => "channel without TLS",
            Self::GreetingsFull => "greetings full",
        })
    }
}

/// How many clients were lost for each reason. Counted without the table's lock.
#[derive(Debug, Default)]
pub(super) struct Losses([AtomicU64; Loss::ALL.len()]);

impl Losses {
    pub(super) fn count(&self, why: Loss) {
        self.0[why.index()].fetch_add(1, Relaxed);
    }

    /// Adds a predecessor's counts, which are named by their words. Reasons that are unknown here are
    /// skipped.
    pub(super) fn add(&self, record: &[(String, u64)]) {
        for (word, count) in record {
            if let Some(why) = Loss::ALL.into_iter().find(|why| why.to_string() == *word) {
                self.0[why.index()].fetch_add(*count, Relaxed);
            }
        }
    }

    /// The reasons with a count above 0.
    pub(super) fn snapshot(&self) -> Vec<(Loss, u64)> {
        let all = Loss::ALL.map(|why| (why, self.0[why.index()].load(Relaxed)));
        all.into_iter().filter(|&(_, count)| count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let losses = Losses::default();
        for (n, why) in Loss::ALL.into_iter().enumerate() {
            (0..=n).for_each(|_| losses.count(why));
        }
        let counts: Vec<u64> = losses.snapshot().into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts, (1..=Loss::ALL.len() as u64).collect::<Vec<_>>());
    }
}

//! How a client's connection ended, as a closed list, so that logs, answers and metrics use the same words.
//!
//! Knows: the words. Never: what decides an end.

use std::fmt;

use super::{BadGreeting, Loss, NoChannel};

/// How a client's connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The client closed first, then the channel.
    ClientClosed,
    /// The channel closed first, then the client.
    ChannelClosed,
    /// The client sent a reset, or was found to be gone.
    ClientReset,
    /// The channel sent a reset, or was found to be gone.
    ChannelReset,
    /// No byte moved for the idle timeout.
    Idle,
    /// One side had ended, and no byte moved for the half-close timeout.
    HalfClosed,
    /// The maximum lifetime was reached.
    Lifetime,
    /// The client got no channel.
    Lost(Loss),
    /// An operator closed the connections of its channel or its network.
    Kicked,
    /// Its channel went down, and `--on-down kick` closes the connections then.
    ChannelDown,
    /// Its service was removed from the file, with `--on-remove kick`.
    Removed,
    /// The name of its channel no longer has this address, with `--on-remove kick`.
    AddressRemoved,
    /// An operator closed this connection.
    Closed,
    /// The process or the service ended.
    ShutDown,
    /// A fault of balance's own.
    Ours(OwnFault),
    /// The client was not let in.
    Refused(Rule),
}

/// The rule that keeps a client out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A list or an operator denies its address.
    Denied,
    /// It has as many connections as one client may have.
    ClientMax,
    /// It connected more often than one client may.
    ClientRate,
}

/// A fault of balance's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnFault {
    /// The system had no memory for its bytes for as long as a connect may take.
    Memory,
    /// The system cannot watch another socket.
    Watch,
    /// A system call failed that should not fail.
    Call,
    /// A bug: a worker panicked.
    Panic,
}

impl End {
    /// All ends.
    pub const ALL: [Self; 37] = [
        Self::ClientClosed,
        Self::ChannelClosed,
        Self::ClientReset,
        Self::ChannelReset,
        Self::Idle,
        Self::HalfClosed,
        Self::Lifetime,
        Self::Kicked,
        Self::ChannelDown,
        Self::Removed,
        Self::AddressRemoved,
        Self::Closed,
        Self::ShutDown,
        Self::Ours(OwnFault::Memory),
        Self::Ours(OwnFault::Watch),
        Self::Ours(OwnFault::Call),
        Self::Ours(OwnFault::Panic),
        Self::Lost(Loss::NoChannel(NoChannel::Empty)),
        Self::Lost(Loss::NoChannel(NoChannel::Disabled)),
        Self::Lost(Loss::NoChannel(NoChannel::Down)),
        Self::Lost(Loss::NoChannel(NoChannel::Full)),
        Self::Lost(Loss::NoChannel(NoChannel::Failed)),
        Self::Lost(Loss::QueueFull),
        Self::Lost(Loss::QueueTimeout),
        Self::Lost(Loss::PauseTimeout),
        Self::Lost(Loss::Left),
        Self::Lost(Loss::Ours),
        Self::Lost(Loss::BadGreeting(BadGreeting::NoHeader)),
        Self::Lost(Loss::BadGreeting(BadGreeting::Malformed)),
        Self::Lost(Loss::BadGreeting(BadGreeting::CutShort)),
        Self::Lost(Loss::GreetingTimeout),
        Self::Lost(Loss::NotServed),
        Self::Lost(Loss::NoTls),
        Self::Lost(Loss::GreetingsFull),
        Self::Refused(Rule::Denied),
        Self::Refused(Rule::ClientMax),
        Self::Refused(Rule::ClientRate),
    ];

    /// The ends that a connection with a channel can have are the first ones of [`End::ALL`], this many.
    pub const WITH_CHANNEL: usize = 17;

    /// The ends before this index in [`End::ALL`] are those of clients that were let in.
    const LET_IN: usize = Self::ALL.len() - 3;

    /// Its index in [`End::ALL`].
    pub(super) fn index(self) -> usize {
        match self {
            Self::ClientClosed => 0,
            Self::ChannelClosed => 1,
            Self::ClientReset => 2,
            Self::ChannelReset => 3,
            Self::Idle => 4,
            Self::HalfClosed => 5,
            Self::Lifetime => 6,
            Self::Kicked => 7,
            Self::ChannelDown => 8,
            Self::Removed => 9,
            Self::AddressRemoved => 10,
            Self::Closed => 11,
            Self::ShutDown => 12,
            Self::Ours(fault) => 13 + fault as usize,
            Self::Lost(why) => Self::WITH_CHANNEL + why.index(),
            Self::Refused(rule) => Self::LET_IN + rule as usize,
        }
    }

    /// The same end for a client that had no channel yet. How the client left does not matter then.
    pub fn without_channel(self) -> Self {
        match self {
            Self::ClientClosed | Self::ClientReset => Self::Lost(Loss::Left),
            Self::ChannelClosed | Self::ChannelReset | Self::Idle | Self::HalfClosed | Self::Lifetime => {
                Self::Ours(OwnFault::Call)
            }
            other => other,
        }
    }

    /// Why a client that ends like this before it has a channel counts as lost. `None` if it does not count
    /// as lost.
    pub fn loss(self) -> Option<Loss> {
        match self.without_channel() {
            Self::Lost(why) => Some(why),
            Self::Ours(_) => Some(Loss::Ours),
            _ => None,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientClosed => "client closed",
            Self::ChannelClosed => "channel closed",
            Self::ClientReset => "client reset",
            Self::ChannelReset => "channel reset",
            Self::Idle => "idle timeout",
            Self::HalfClosed => "half-close timeout",
            Self::Lifetime => "lifetime",
            Self::Lost(why) => return why.fmt(f),
            Self::Kicked => "kicked",
            Self::ChannelDown => "channel down",
            Self::Removed => "service removed",
            Self::AddressRemoved => "address removed",
            Self::Closed => "closed by operator",
            Self::ShutDown => "shut down",
            Self::Ours(OwnFault::Memory) => "internal error: no memory",
            Self::Ours(OwnFault::Watch) => "internal error: no watch",
            Self::Ours(OwnFault::Call) => "internal error: system call",
            Self::Ours(OwnFault::Panic) => "internal error: panic",
            Self::Refused(Rule::Denied) => "refused: denied",
            Self::Refused(Rule::ClientMax) => "refused: client max",
            Self::Refused(Rule::ClientRate) => "refused: client rate",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_end_has_a_place_and_words_of_its_own() {
        for (place, end) in End::ALL.into_iter().enumerate() {
            assert_eq!(end.index(), place, "{end}");
        }
        let words: BTreeSet<String> = End::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(words.len(), End::ALL.len());
        // Names of protocols keep their usual spelling.
        let plain = |words: &String| {
            words.replace("TLS", "tls").chars().all(|c| c.is_ascii_lowercase() || " -:".contains(c))
        };
        assert!(words.iter().all(plain), "{words:?}");
    }

    #[test]
    fn only_a_client_that_had_a_channel_ends_by_it() {
        for end in End::ALL {
            let place = end.without_channel().index();
            assert!((7..End::ALL.len()).contains(&place), "{end}");
            assert_eq!(end.without_channel().without_channel(), end.without_channel());
        }
    }
}

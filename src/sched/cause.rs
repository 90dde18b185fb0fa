//! Why an attempt to connect to a channel came to nothing, in one closed list, so that logs, answers and metrics say the same words.
//!
//! Knows: the words. Never: errors of the system, what becomes of the client.

use std::fmt;

/// Why an attempt came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DialCause {
    /// Nobody listens there.
    Refused,
    /// It was given up.
    NoAnswer,
    /// The system gave it up.
    TimedOut,
    /// There is no way to the host.
    HostUnreachable,
    /// There is no way to its network.
    NetworkUnreachable,
    /// The interface is down.
    NetworkDown,
    /// A reset in place of an answer, or right behind it.
    Reset,
    /// A firewall of this machine forbids it, or a Unix socket lets this user not in.
    Denied,
    /// No address of this machine will do, or not the one that it is to come from.
    NoAddress,
    /// Such an address means nothing here.
    BadAddress,
    /// All source ports are taken.
    NoPort,
    /// No descriptor.
    NoDescriptor,
    /// No memory.
    NoMemory,
    /// No Unix socket is there.
    NoSocket,
    /// The system watches no further socket.
    NoWatch,
    /// The client would come back by it without end.
    LeadsBack,
    /// It was taken, and closed at once without a byte.
    ClosedAtOnce,
    /// As many wait to be accepted on a Unix socket as may.
    QueueFull,
    /// The system says something else.
    Other,
}

impl DialCause {
    /// All there are.
    pub const ALL: [Self; 19] = [
        Self::Refused,
        Self::NoAnswer,
        Self::TimedOut,
        Self::HostUnreachable,
        Self::NetworkUnreachable,
        Self::NetworkDown,
        Self::Reset,
        Self::Denied,
        Self::NoAddress,
        Self::BadAddress,
        Self::NoPort,
        Self::NoDescriptor,
        Self::NoMemory,
        Self::NoSocket,
        Self::NoWatch,
        Self::LeadsBack,
        Self::ClosedAtOnce,
        Self::QueueFull,
        Self::Other,
    ];

    /// The one with these words.
    pub fn named(words: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.words() == words)
    }

    fn words(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::NoAnswer => "no answer in time",
            Self::TimedOut => "timed out",
            Self::HostUnreachable => "host unreachable",
            Self::NetworkUnreachable => "network unreachable",
            Self::NetworkDown => "network down",
            Self::Reset => "connection reset",
            Self::Denied => "permission denied",
            Self::NoAddress => "address not available",
            Self::BadAddress => "address not usable",
            Self::NoPort => "no source port is free",
            Self::NoDescriptor => "too many open files",
            Self::NoMemory => "out of memory",
            Self::NoSocket => "no such socket",
            Self::NoWatch => "no watch",
            Self::LeadsBack => "leads back to this service",
            Self::ClosedAtOnce => "closed at once",
            Self::QueueFull => "listen queue is full",
            Self::Other => "other error",
        }
    }
}

impl fmt::Display for DialCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_cause_has_a_place_and_words_of_its_own() {
        for (place, cause) in DialCause::ALL.into_iter().enumerate() {
            assert_eq!((cause as usize, DialCause::named(&cause.to_string())), (place, Some(cause)));
        }
        let words: BTreeSet<&str> = DialCause::ALL.into_iter().map(DialCause::words).collect();
        assert_eq!(words.len(), DialCause::ALL.len());
        assert!(words.iter().all(|words| words.chars().all(|c| c.is_ascii_lowercase() || c == ' ')));
    }
}

//! Why a connect to a channel failed, as a closed list, so that logs, answers and metrics use the same words.
//!
//! Knows: the words. Never: errors of the system, what happens to the client.

use std::fmt;

/// Why a connect to a channel failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DialCause {
    /// Nobody listens there.
    Refused,
    /// balance gave up waiting for an answer.
    NoAnswer,
    /// The system gave up waiting for an answer.
    TimedOut,
    /// There is no route to the host.
    HostUnreachable,
    /// There is no route to its network.
    NetworkUnreachable,
    /// The network interface is down.
    NetworkDown,
    /// The peer sent a reset instead of an answer, or directly after it.
    Reset,
    /// A firewall of this machine forbids it, or this user may not connect to the Unix socket.
    Denied,
    /// This machine has no address that can be the source, or not the one that was asked for.
    NoAddress,
    /// The address cannot be used on this machine.
    BadAddress,
    /// All source ports are in use.
    NoPort,
    /// There is no descriptor.
    NoDescriptor,
    /// There is no memory.
    NoMemory,
    /// The Unix socket does not exist.
    NoSocket,
    /// The system cannot watch another socket.
    NoWatch,
    /// The address leads back to the service itself, without end.
    LeadsBack,
    /// The connection was accepted and closed at once, without a byte.
    ClosedAtOnce,
    /// The listen queue of a Unix socket is full.
    QueueFull,
    /// The system reported another error.
    Other,
}

impl DialCause {
    /// All causes.
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

    /// The cause with these words; `None` for other words.
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

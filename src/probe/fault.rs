//! Whose fault a failed attempt of a probe is, and how it is worded.
//!
//! Knows: errors of the system. Never: which probe it was, what is tried next.

use std::io;

use crate::sys::fault::{is_exhausted, is_ours, reason};
use crate::sys::socket::ConnectError;

/// Why an attempt at one address did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The channel does not answer, or not as it should.
    Channel(String),
    /// This address cannot be reached from here: another family than `-B`, no source port. This says nothing
    /// about the channel.
    Unusable(String),
    /// balance has run out of some resource, whatever the address. This says nothing about the channel.
    Exhausted(String),
}

impl Fault {
    /// The fault of a connection that could not be started.
    pub(super) fn of_start(error: &ConnectError) -> Self {
        match error {
            ConnectError::Ours(e) if is_exhausted(e) => Self::Exhausted(told(e)),
            ConnectError::Ours(e) | ConnectError::Ports(e) => Self::Unusable(told(e)),
            ConnectError::Crowded(_) => Self::Channel("connect: too many wait to be accepted".into()),
            ConnectError::Target(e) => Self::of_connect(e),
        }
    }

    /// The fault of a connect that failed.
    pub(super) fn of_connect(error: &io::Error) -> Self {
        if is_exhausted(error) {
            return Self::Exhausted(told(error));
        }
        if is_ours(error) { Self::Unusable(told(error)) } else { Self::Channel(told(error)) }
    }
}

fn told(error: &io::Error) -> String {
    format!("connect: {}", reason(error))
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    fn error(errno: Errno) -> io::Error {
        errno.into()
    }

    #[test]
    fn the_channel_is_blamed_for_its_own_faults_only() {
        let channel = Fault::Channel("connect: connection refused".into());
        assert_eq!(Fault::of_connect(&error(Errno::CONNREFUSED)), channel);
        for ours in [
            Errno::ADDRNOTAVAIL,
            Errno::ADDRINUSE,
            Errno::AFNOSUPPORT,
            Errno::ACCESS,
            Errno::PERM,
            Errno::INVAL,
        ] {
            assert!(matches!(Fault::of_connect(&error(ours)), Fault::Unusable(_)), "{ours}");
        }
        for lack in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::AGAIN] {
            assert!(matches!(Fault::of_connect(&error(lack)), Fault::Exhausted(_)), "{lack}");
            let at_start = Fault::of_start(&ConnectError::Ours(error(lack)));
            assert!(matches!(at_start, Fault::Exhausted(_)), "{lack}");
        }
        // Whatever goes wrong before connect(2) has nothing to do with the channel.
        let before = ConnectError::Ours(error(Errno::INVAL));
        assert!(matches!(Fault::of_start(&before), Fault::Unusable(_)));
    }
}

//! Why an attempt to connect to a channel failed: which of the known causes, whose fault, in which words.
//!
//! Knows: errors of the system and our own. Never: what happens to the client.

use std::io;

use rustix::io::Errno;

use super::circle::LeadsBack;
use crate::observe::AttemptError;
use crate::sched::{DialCause, DialFailure};
use crate::sys::fault::{is_exhausted, is_ours, reason};

/// The cause of an error. If the error has a number of the system, the number decides.
pub(super) fn cause_of(error: &io::Error) -> DialCause {
    if LeadsBack::is(error) {
        return DialCause::LeadsBack;
    }
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED) => DialCause::Refused,
        Some(Errno::TIMEDOUT) => DialCause::TimedOut,
        Some(Errno::HOSTUNREACH | Errno::HOSTDOWN) => DialCause::HostUnreachable,
        Some(Errno::NETUNREACH) => DialCause::NetworkUnreachable,
        Some(Errno::NETDOWN) => DialCause::NetworkDown,
        Some(Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE) => DialCause::Reset,
        Some(Errno::ACCESS | Errno::PERM) => DialCause::Denied,
        Some(Errno::ADDRNOTAVAIL) => DialCause::NoAddress,
        Some(Errno::INVAL | Errno::AFNOSUPPORT) => DialCause::BadAddress,
        Some(Errno::ADDRINUSE | Errno::AGAIN) => DialCause::NoPort,
        Some(Errno::MFILE | Errno::NFILE) => DialCause::NoDescriptor,
        Some(Errno::NOMEM | Errno::NOBUFS) => DialCause::NoMemory,
        Some(Errno::NOSPC) => DialCause::NoWatch,
        Some(_) => DialCause::Other,
        None => match error.kind() {
            io::ErrorKind::TimedOut => DialCause::NoAnswer,
            io::ErrorKind::WouldBlock => DialCause::QueueFull,
            io::ErrorKind::NotFound => DialCause::NoSocket,
            io::ErrorKind::UnexpectedEof => DialCause::ClosedAtOnce,
            io::ErrorKind::ConnectionRefused => DialCause::Refused,
            io::ErrorKind::PermissionDenied => DialCause::Denied,
            io::ErrorKind::AddrNotAvailable => DialCause::NoAddress,
            io::ErrorKind::AddrInUse => DialCause::NoPort,
            io::ErrorKind::OutOfMemory => DialCause::NoMemory,
            _ => DialCause::Other,
        },
    }
}

/// Whose fault an error is.
pub(super) fn fault_of(error: &io::Error) -> DialFailure {
    let is_local = is_exhausted(error) || is_ours(error) || LeadsBack::is(error);
    if is_local { own_fault_of(error) } else { DialFailure::Channel }
}

/// Whose fault an error is that came before the channel was asked. A channel that leads to its own service
/// serves nobody: a probe, which recognizes that, too, decides about it.
pub(super) fn own_fault_of(error: &io::Error) -> DialFailure {
    if LeadsBack::is_direct(error) { DialFailure::Unproven } else { DialFailure::Local }
}

/// The words of the error's cause, or more if more is known.
pub(super) fn words_of(error: &io::Error) -> String {
    match cause_of(error) {
        DialCause::LeadsBack | DialCause::NoAddress | DialCause::NoPort | DialCause::Other => reason(error),
        cause => cause.to_string(),
    }
}

/// The error as the access log records it.
pub(super) fn attempt_error(error: &io::Error) -> AttemptError {
    match (cause_of(error), error.raw_os_error()) {
        (DialCause::Other, Some(number)) => AttemptError::System(number),
        (cause, _) => AttemptError::Known(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_is_said_in_the_words_of_its_cause_everywhere() {
        for (error, cause) in [
            (Errno::CONNREFUSED, DialCause::Refused),
            (Errno::TIMEDOUT, DialCause::TimedOut),
            (Errno::HOSTUNREACH, DialCause::HostUnreachable),
            (Errno::NETUNREACH, DialCause::NetworkUnreachable),
            (Errno::NETDOWN, DialCause::NetworkDown),
            (Errno::CONNRESET, DialCause::Reset),
            (Errno::ACCESS, DialCause::Denied),
            (Errno::PERM, DialCause::Denied),
            (Errno::ADDRNOTAVAIL, DialCause::NoAddress),
            (Errno::INVAL, DialCause::BadAddress),
            (Errno::MFILE, DialCause::NoDescriptor),
            (Errno::NOBUFS, DialCause::NoMemory),
            (Errno::NOSPC, DialCause::NoWatch),
        ] {
            let error = io::Error::from(error);
            let said = (cause_of(&error), words_of(&error), attempt_error(&error).to_string());
            assert_eq!(said, (cause, cause.to_string(), cause.to_string()));
        }
        let strange = io::Error::from(Errno::PROTO);
        let words = words_of(&strange);
        assert_eq!(attempt_error(&strange).to_string(), format!("other error: {words}"));
        assert_eq!(cause_of(&io::Error::other("x")), DialCause::Other);
        assert_eq!(cause_of(&io::ErrorKind::TimedOut.into()), DialCause::NoAnswer);
        assert_eq!(cause_of(&io::ErrorKind::WouldBlock.into()), DialCause::QueueFull);
    }
}

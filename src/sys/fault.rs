//! Whose fault an error of a connection is, and how it is said.
//!
//! Knows: errors of the system. Never: what they interrupted.

use std::io;

use rustix::io::Errno;

/// Why a connection could not even begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// No socket, or the source address cannot be used: nothing to do with the address it was for.
    #[error("{0}")]
    Ours(io::Error),
    /// All ports of the source address are taken towards this address. One comes back when a connection has ended, or a
    /// minute later.
    #[error("no source port is free: {0}")]
    Ports(io::Error),
    /// As many wait to be accepted on this Unix socket as may. That is no refusal: the next moment may have room.
    #[error("too many clients wait to be accepted there: {0}")]
    Crowded(io::Error),
    /// connect(2) itself refused.
    #[error("{0}")]
    Target(io::Error),
}

/// Nothing to do with whom it was for: it would pass if others ended first. (`NOSPC`: no more watches of a poller.)
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN | Errno::NOSPC)
    )
}

/// Ours for another reason: no source port, another family than `-B`, a firewall of this machine, an address that means nothing
/// here (`INVAL`: a link-local one without its interface).
pub(crate) fn is_ours(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
        || matches!(
            Errno::from_io_error(error),
            Some(Errno::AFNOSUPPORT | Errno::ACCESS | Errno::PERM | Errno::INVAL)
        )
}

/// The same error; a lack of buffers, which has no kind of its own, as one of memory.
pub(crate) fn as_shortage(error: Errno) -> io::Error {
    if error == Errno::NOBUFS { io::ErrorKind::OutOfMemory.into() } else { error.into() }
}

/// An error in lower case, without its number where the words say it all.
pub(crate) fn reason(error: &io::Error) -> String {
    let kind = error.kind().to_string();
    // An error of our own making has a text of its own; those that std does not tell apart have only the system's.
    if error.raw_os_error().is_none() || kind == "uncategorized error" { error.to_string() } else { kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_lower_case_and_complete() {
        assert_eq!(reason(&Errno::HOSTUNREACH.into()), "host unreachable");
        assert_eq!(reason(&io::Error::other("of our own")), "of our own");
        assert!(reason(&Errno::NOTTY.into()).contains("os error"), "what has no kind keeps its number");
    }
}

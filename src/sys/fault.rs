//! Whether an error of a connection is balance's fault or the target's, and how it is worded.
//!
//! Knows: errors of the system. Never: what they interrupted.

use std::io;

use rustix::io::Errno;

/// Why a connection could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// There is no socket, or the source address cannot be used. The target has nothing to do with it.
    #[error("{0}")]
    Ours(io::Error),
    /// All ports of the source address are in use towards this target. A port becomes free when a connection
    /// ends, or a minute later.
    #[error("no source port is free: {0}")]
    Ports(io::Error),
    /// The listen queue of this Unix socket is full. That is not a refusal: a moment later there may be room.
    #[error("too many clients wait to be accepted there: {0}")]
    Crowded(io::Error),
    /// connect(2) itself failed.
    #[error("{0}")]
    Target(io::Error),
}

/// Is it a lack of some resource that has nothing to do with the target, and would pass if other connections
/// ended? (`NOSPC`: no more watches of a poller.)
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN | Errno::NOSPC)
    )
}

/// Is it balance's fault for another reason? No source port, an address family other than that of `-B`, a
/// firewall of this machine, or an address that is useless here (`INVAL`: a link-local one without its
/// interface).
pub(crate) fn is_ours(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
        || matches!(
            Errno::from_io_error(error),
            Some(Errno::AFNOSUPPORT | Errno::ACCESS | Errno::PERM | Errno::INVAL)
        )
}

/// The same error, with a lack of buffers as `OutOfMemory`, since it has no kind of its own.
pub(crate) fn as_shortage(error: Errno) -> io::Error {
    if error == Errno::NOBUFS { io::ErrorKind::OutOfMemory.into() } else { error.into() }
}

/// The error in lower case, without its number if the words say it all.
pub(crate) fn reason(error: &io::Error) -> String {
    let kind = error.kind().to_string();
    // An error that balance made has its own text. For an error that std does not classify, only the system's
    // text says anything.
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

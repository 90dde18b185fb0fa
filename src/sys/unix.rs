//! Unix sockets: connecting to one, and who has connected.
//!
//! Knows: what their calls return, and which errors are nobody's fault. Never: what a socket is for.
//! Source: docs/unix-sockets.md.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

use super::fault::ConnectError;
use crate::spec::{LocalPeer, UnixName};

/// Creates a non-blocking stream socket.
pub(crate) fn stream() -> io::Result<OwnedFd> {
    #[cfg(not(target_vendor = "apple"))]
    let fd = {
        use rustix::net::SocketFlags;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?
    };
    // On Apple's systems the flags cannot be set in the same call, so a program started at this moment may
    // inherit the socket.
    #[cfg(target_vendor = "apple")]
    let fd = {
        let fd = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        fd
    };
    Ok(fd)
}

/// The name as the kernel takes it.
///
/// # Errors
/// The system has no abstract names, or the path is too long for it.
pub(crate) fn address(name: UnixName) -> io::Result<SocketAddrUnix> {
    if !name.is_abstract() {
        return Ok(SocketAddrUnix::new(name.as_bytes())?);
    }
    #[cfg(target_os = "linux")]
    return Ok(SocketAddrUnix::new_abstract_name(name.as_bytes())?);
    #[cfg(not(target_os = "linux"))]
    Err(io::Error::new(io::ErrorKind::Unsupported, "only Linux has abstract names of Unix sockets"))
}

/// Is it a Unix socket?
pub(crate) fn is_unix(fd: impl AsFd) -> bool {
    let name = rustix::net::getsockname(fd);
    name.is_ok_and(|name| name.address_family() == AddressFamily::UNIX)
}

/// The process at the other end, as it was when it connected.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn peer(fd: impl AsFd) -> LocalPeer {
    // Not rustix: a peer in a PID namespace of its own has the pid 0 here, for which rustix's type has no
    // place; it reports an error instead.
    let said = nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::PeerCredentials);
    let pid = |pid| u32::try_from(pid).ok().filter(|&pid| pid > 0);
    said.map_or_else(
        |_| LocalPeer::default(),
        |said| LocalPeer { uid: Some(said.uid()), pid: pid(said.pid()) },
    )
}

/// The process at the other end, on systems without `SO_PEERCRED`.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn peer(fd: impl AsFd) -> LocalPeer {
    LocalPeer { uid: nix::unistd::getpeereid(fd).ok().map(|(uid, _)| uid.as_raw()), pid: None }
}

/// Connects. This never waits: the server need not have accepted yet.
///
/// # Errors
/// What socket(2) or connect(2) says.
pub(super) fn connect(name: UnixName) -> Result<OwnedFd, ConnectError> {
    let address = address(name).map_err(ConnectError::Ours)?;
    let fd = stream().map_err(ConnectError::Ours)?;
    // Otherwise urgent bytes are lost. A system without this option has no urgent bytes on Unix sockets.
    let _ = rustix::net::sockopt::set_socket_oobinline(&fd, true);
    #[cfg(test)]
    crate::sys::trouble::strike(crate::sys::trouble::FaultPoint::Connect).map_err(ConnectError::Target)?;
    match rustix::net::connect(&fd, &address) {
        // INTR cannot occur, since the call does not wait.
        Ok(()) => Ok(fd),
        Err(e @ (Errno::AGAIN | Errno::INPROGRESS | Errno::INTR)) => Err(ConnectError::Crowded(e.into())),
        // The permissions of the socket forbid it. That is the channel's fault, unlike a firewall that blocks
        // an address.
        Err(Errno::ACCESS | Errno::PERM) => {
            Err(ConnectError::Target(io::Error::new(io::ErrorKind::PermissionDenied, "permission denied")))
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
            Err(ConnectError::Target(io::Error::new(io::ErrorKind::NotFound, "no such socket")))
        }
        Err(e) => Err(ConnectError::Target(e.into())),
    }
}

//! What the service manager is told, and what a process finds in its input that was started by the one before it.
//!
//! Knows: the socket of sd_notify(3), descriptor 0. Never: what is handed over.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use sd_notify::NotifyState;

/// The service is this process from now on. Without a service manager nobody is told.
pub fn tell_main_process(pid: u32) {
    // Nothing can be done about a manager that does not listen; it looks for itself when this process ends.
    let _ = sd_notify::notify(&[NotifyState::MainPid(pid)]);
}

/// Takes the input as a descriptor of ours, and puts `/dev/null` in its place.
///
/// # Errors
/// No descriptor for it, or it is no socket.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    rustix::net::sockopt::socket_type(&stdin)?;
    let taken = rustix::io::fcntl_dupfd_cloexec(&stdin, 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null)?;
    Ok(taken)
}

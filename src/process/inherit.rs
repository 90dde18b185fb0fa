//! A listener that somebody else bound for us: socket activation.
//!
//! Knows: the descriptors' numbers as sd_listen_fds(3) fixes them. Never: the environment, what is served on it.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::fcntl_getfd;

/// The first inherited descriptor, by definition of the protocol.
const FIRST: i32 = 3;

/// Takes the listener that was passed in, given the values of `LISTEN_PID` and `LISTEN_FDS`. `None`: there is none, it was
/// meant for another process, or it was taken already. Call it before anything opens a descriptor.
#[allow(unsafe_code, reason = "a number from the environment becomes an owned descriptor")]
pub fn inherited_listener(pid: Option<&str>, count: Option<&str>) -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let meant_for_us = pid?.parse() == Ok(std::process::id());
    let count: u32 = count?.parse().ok()?;
    if !meant_for_us || count == 0 || TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    // SAFETY: the protocol says that descriptor 3 was opened for this process, whose id it names; nothing in it uses the
    // number yet, and `TAKEN` lets it become an owner once only.
    let fd = unsafe { OwnedFd::from_raw_fd(FIRST) };
    if fcntl_getfd(&fd).is_err() {
        // Promised and not there: closing it would be an error, and somebody may open that number later.
        std::mem::forget(fd);
        return None;
    }
    Some(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_that_was_not_passed_to_this_process() {
        let me = std::process::id().to_string();
        assert!(inherited_listener(None, None).is_none());
        assert!(inherited_listener(Some("1"), Some("1")).is_none());
        assert!(inherited_listener(Some(&me), Some("0")).is_none());
        assert!(inherited_listener(Some(&me), Some("many")).is_none());
        assert!(inherited_listener(Some("x"), Some("1")).is_none());
    }
}

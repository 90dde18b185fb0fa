//! Makes the kernel ignore signals, and unblocks all signals.
//!
//! Knows: sigaction(2), the signal mask. Never: what a signal means to balance.

#![allow(unsafe_code, reason = "sigaction(2) and pthread_sigmask(3) have no safe wrapper")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Ignores the signal for good, without a handler. A handler would not help where the kernel itself asks
/// whether a signal is ignored, as it does for SIGTTOU.
///
/// # Errors
/// The number is not a signal.
pub(super) fn ignore(signal: i32) -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zeros is a sigaction (no flags, an empty mask), and SIG_IGN is no function that could be run.
    let answer = unsafe {
        (*action.as_mut_ptr()).sa_sigaction = libc::SIG_IGN;
        libc::sigaction(signal, action.as_ptr(), ptr::null_mut())
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Unblocks all signals in this thread, and in those that it starts later. Otherwise a program that blocked
/// SIGTERM before it started balance would leave it without a way to be stopped.
pub(super) fn unblock_all() {
    let mut none = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is of the right type, and made empty before it is used. The answer can only be that `how` is wrong.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_ignored_does_nothing_and_what_is_none_is_an_error() {
        // It would otherwise end the test.
        ignore(libc::SIGXFSZ).expect("it is a signal");
        unblock_all();
        signal_hook::low_level::raise(libc::SIGXFSZ).expect("a signal to ourselves");
        assert!(ignore(0).is_err() && ignore(libc::SIGKILL).is_err());
    }
}

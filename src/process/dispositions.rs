//! What this process does with a signal, as the kernel has it.
//!
//! Knows: sigaction(2), the signal mask. Never: what a signal means to us.
//! There is no safe wrapper for asking, and /proc may be missing.

#![allow(unsafe_code, reason = "sigaction(2) and pthread_sigmask(3) have no safe wrapper that only asks")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Is the signal ignored, or held back by the mask of this thread? Asked before anything is changed, this is how the
/// program was started, for example by `nohup`.
pub(super) fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no new action is given, so that the kernel only writes the old one, into memory of the right type. All zeros
    // is a value of it, which stays if the number is no signal.
    let is_ignored = unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction == libc::SIG_IGN
    };
    is_ignored || is_blocked(signal)
}

fn is_blocked(signal: i32) -> bool {
    let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: no new mask is given, so that only the old one is written, into memory of the right type; all zeros is a value
    // of it.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), mask.as_mut_ptr());
        libc::sigismember(mask.as_ptr(), signal) == 1
    }
}

/// Ignores the signal for good, without a handler: a handler would not help where the kernel asks whether a signal is
/// ignored, as it does for SIGTTOU.
///
/// # Errors
/// The number is no signal.
pub(super) fn ignore(signal: i32) -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zeros is a sigaction (no flags, an empty mask), and SIG_IGN is no function that could be run.
    let answer = unsafe {
        (*action.as_mut_ptr()).sa_sigaction = libc::SIG_IGN;
        libc::sigaction(signal, action.as_ptr(), ptr::null_mut())
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets all signals through to this thread, and to those that it starts from now on: a program that blocked SIGTERM before
/// it started us must not leave us without an end.
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
    fn the_kernel_knows_what_is_ignored_and_what_is_blocked() {
        // Nothing else in the tests uses this one, and each thread has a mask of its own.
        let signal = libc::SIGURG;
        assert!(!is_ignored(signal) && !is_ignored(0) && !is_ignored(12_345));
        ignore(signal).expect("it is a signal");
        assert!(is_ignored(signal));
        assert!(ignore(0).is_err() && ignore(libc::SIGKILL).is_err());
        assert!(!is_blocked(libc::SIGWINCH));
        let mut one = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: a set of the right type, made empty and given one signal.
        unsafe {
            libc::sigemptyset(one.as_mut_ptr());
            libc::sigaddset(one.as_mut_ptr(), libc::SIGWINCH);
            libc::pthread_sigmask(libc::SIG_BLOCK, one.as_ptr(), ptr::null_mut());
        }
        assert!(is_blocked(libc::SIGWINCH) && is_ignored(libc::SIGWINCH));
        unblock_all();
        assert!(!is_blocked(libc::SIGWINCH));
    }
}

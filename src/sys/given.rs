//! What the process was given at its start, before it changed anything: limits, signals, descriptors.
//!
//! Knows: the state of the process at its start. Never: who gets it back.
//!
//! It is recorded once, since it is a fact about the process. Programs that balance starts get it back
//! (`program`). A process in the background closes the descriptors; otherwise it would hold locks, and pipes
//! whose end others wait for.

#![allow(unsafe_code, reason = "descriptors by number, and sigaction(2) has no safe wrapper")]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit};

static GIVEN: OnceLock<Inherited> = OnceLock::new();
/// Without /proc, open descriptors are searched below this number.
const MOST_DESCRIPTORS: u64 = 65_536;

/// The state at the start.
pub(super) struct Inherited {
    /// The limits on open files and on core files.
    pub(super) limits: [(Resource, Rlimit); 2],
    /// Signals that were ignored. SIGPIPE is never listed: Rust's runtime ignores it before this can be
    /// recorded.
    pub(super) ignored: Vec<i32>,
    /// The signal mask.
    pub(super) mask: libc::sigset_t,
    /// Open descriptors except 0 to 2.
    descriptors: Vec<RawFd>,
}

/// Records the state. Call it before anything opens a descriptor, starts a thread, or changes a limit or a
/// signal. From then on, started programs do not inherit any descriptor that was open at the start, except 0
/// to 2.
pub fn record() {
    GIVEN.get_or_init(|| {
        let descriptors = open_descriptors();
        for &fd in &descriptors {
            // SAFETY: it sets a flag of a descriptor and reads no memory. Nothing in this process relies on
            // its being inherited.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        let limits = [Resource::Nofile, Resource::Core].map(|resource| (resource, getrlimit(resource)));
        Inherited { limits, ignored: ignored(), mask: mask(), descriptors }
    });
}

/// The recorded state. `None`: nothing was recorded, and so nothing was changed.
pub(super) fn given() -> Option<&'static Inherited> {
    GIVEN.get()
}

/// Was the signal ignored or blocked at the start, as `nohup` does it?
pub fn ignores(signal: i32) -> bool {
    // SAFETY: the mask is a value that the kernel wrote. A number that is no signal is in no set.
    let is_blocked = |given: &Inherited| unsafe { libc::sigismember(&raw const given.mask, signal) == 1 };
    given().is_some_and(|given| given.ignored.contains(&signal) || is_blocked(given))
}

/// Closes what was open at the start, except 0 to 2 and `ours`. Call it once, before anything else is closed
/// or a thread is started.
pub fn close_all_but(ours: &[BorrowedFd<'_>]) {
    let Some(given) = given() else { return };
    let is_ours = |fd: RawFd| ours.iter().any(|one| one.as_raw_fd() == fd);
    for &fd in given.descriptors.iter().filter(|fd| !is_ours(**fd)) {
        // SAFETY: the number was open before this process opened anything, so nothing in the process owns it;
        // descriptors that became ours are left out.
        unsafe { libc::close(fd) };
    }
}

/// How many descriptors below `limit` are in use now. Those above the limit do not count against it.
pub fn open_below(limit: u64) -> usize {
    // 0 to 2 are always open: Rust's runtime sees to that.
    3 + open_descriptors().iter().filter(|&&fd| u64::try_from(fd).is_ok_and(|fd| fd < limit)).count()
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: it asks for a flag and reads no memory.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

/// The open descriptors from 3 on.
fn open_descriptors() -> Vec<RawFd> {
    let listed = ["/proc/self/fd", "/dev/fd"].iter().find_map(|path| std::fs::read_dir(path).ok());
    let candidates: Vec<RawFd> = match listed {
        Some(names) => names.flatten().filter_map(|name| name.file_name().to_str()?.parse().ok()).collect(),
        None => {
            let limit = getrlimit(Resource::Nofile).current.unwrap_or(MOST_DESCRIPTORS);
            (0..RawFd::try_from(limit.min(MOST_DESCRIPTORS)).unwrap_or(RawFd::MAX)).collect()
        }
    };
    // The descriptor that was used for listing is closed again.
    candidates.into_iter().filter(|&fd| fd > 2 && is_open(fd)).collect()
}

fn ignored() -> Vec<i32> {
    let is_ignored = |signal: i32| {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: no new action is given, so that the old one is written, into memory of the right type. All zeros is a value
        // of it, which stays if the number is no signal.
        unsafe {
            libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
            action.assume_init().sa_sigaction == libc::SIG_IGN
        }
    };
    (1..=last_signal()).filter(|&signal| signal != libc::SIGPIPE && is_ignored(signal)).collect()
}

fn mask() -> libc::sigset_t {
    let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: no new mask is given, so that the old one is written, into memory of the right type; all zeros is a value of it.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), mask.as_mut_ptr());
        mask.assume_init()
    }
}

/// The highest signal number.
#[cfg(target_os = "linux")]
pub(super) fn last_signal() -> i32 {
    libc::SIGRTMAX()
}

/// The highest signal number that all systems have.
#[cfg(not(target_os = "linux"))]
pub(super) fn last_signal() -> i32 {
    31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_found_and_the_one_to_find_them_by_is_not() {
        let file = std::fs::File::open("/dev/null").expect("a file");
        let found = open_descriptors();
        assert!(found.contains(&file.as_raw_fd()), "{found:?}");
        assert!(found.iter().all(|fd| *fd > 2), "{found:?}");
    }
}

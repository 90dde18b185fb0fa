//! How the system's scheduler treats a thread.
//!
//! Knows: a policy, a priority. Never: what the thread does.

/// Makes the calling thread a batch thread, which does not preempt other threads when it wakes up.
///
/// A worker is woken by the very clients and servers that are about to send it more. If each wake-up
/// preempted them, every few bytes would cost two context switches. If they may finish first, several
/// connections are ready by the time the worker runs. On a busy machine this is a fifth more requests per
/// second; on an idle one it changes nothing. If the system refuses or does not know the policy, the thread
/// runs without it.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code, reason = "no safe wrapper of sched_setscheduler exists")]
pub(crate) fn become_batch() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads one struct, which lives until after it; 0 names the calling thread.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
}

/// The nice value of a thread with low priority. At 10 it gets a tenth of a core that a worker wants, too:
/// enough to answer, and too little to be noticed. It can use all of a core that nobody else wants.
#[cfg(any(target_os = "linux", target_os = "android"))]
const BEHIND: i32 = 10;

/// Lowers the priority of the calling thread below the other threads of the process, for work that must never
/// delay a client.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn stand_back() {
    // On Linux the nice value belongs to the thread, whatever POSIX says. If the system refuses, the thread
    // runs without it.
    let _ = rustix::process::nice(BEHIND);
}

/// Does nothing, since here the nice value belongs to the whole process.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn stand_back() {}

/// Does nothing, since this system has no such policy.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn become_batch() {}

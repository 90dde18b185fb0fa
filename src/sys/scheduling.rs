//! How the system's scheduler treats a thread.
//!
//! Knows: a policy, a priority. Never: what the thread does.

/// Makes the calling thread a batch one: when it wakes up it does not push aside whoever runs.
///
/// A worker is woken by the very clients and servers that are about to send it more. If each wake-up interrupted them,
/// every few bytes would cost two changes of context; left to finish, they have several connections ready by the time
/// the worker runs. On a busy machine that is a fifth more requests per second, on an idle one it changes nothing. Refused
/// or unknown, it is done without.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code, reason = "no safe wrapper of sched_setscheduler exists")]
pub(crate) fn become_batch() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads one struct, which lives until after it; 0 names the calling thread.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
}

/// How far a thread that stands back is behind the others. At 10 it gets a tenth of a core that a worker wants, too: enough to answer, and
/// too little to be felt. A core that nobody else wants is all its own.
#[cfg(any(target_os = "linux", target_os = "android"))]
const BEHIND: i32 = 10;

/// Lets the calling thread stand back behind the other threads of the process, for what is never worth a client's time.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn stand_back() {
    // Here a priority is a thread's own, whatever POSIX says. Refused, it is done without.
    let _ = rustix::process::nice(BEHIND);
}

/// Here a priority is the whole process's.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn stand_back() {}

/// There is no such policy here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn become_batch() {}

//! The processor time that the process may use.
//!
//! Knows: cores it may run on, a limit of its control group. Never: what the time is spent on.

use std::num::NonZeroUsize;
use std::thread;

/// How many cores can be kept busy, at least 1, as the kernel and the process's control group say.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

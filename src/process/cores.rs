//! The processor time that the process may use.
//!
//! Knows: the cores it may run on, the limit of its control group. Never: what the time is spent on.

use std::num::NonZeroUsize;
use std::thread;

/// How many cores the process can keep busy according to the kernel and its control group; at least 1.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

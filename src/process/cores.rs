//! The processor time that the process may use.
//!
//! Knows: cores it may run on, a limit of its control group. Never: what the time is spent on.

use std::num::NonZeroUsize;
use std::thread;

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// How many cores can be kept busy, at least 1.
    pub count: usize,
    /// A limit of processor time makes this fewer than there are: time that is wasted is missing later.
    pub is_metered: bool,
}

impl Cores {
    /// May time of an idle core be spent on waiting?
    pub fn can_be_spared(self) -> bool {
        self.count >= 2 && !self.is_metered
    }
}

/// The cores that this process may use, as the kernel and its control group say.
pub fn cores() -> Cores {
    let count = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Cores { count, is_metered: allowed().is_some_and(|allowed| count < allowed) }
}

/// Cores that the scheduler may put the process on.
#[cfg(target_os = "linux")]
fn allowed() -> Option<usize> {
    let set = rustix::thread::sched_getaffinity(None).ok()?;
    usize::try_from(set.count()).ok()
}

/// Unknown here.
#[cfg(not(target_os = "linux"))]
fn allowed() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_core_or_a_limit_is_nothing_to_spare() {
        let can = |count, is_metered| Cores { count, is_metered }.can_be_spared();
        assert_eq!([can(1, false), can(1, true), can(2, true), can(2, false)], [false, false, false, true]);
    }
}

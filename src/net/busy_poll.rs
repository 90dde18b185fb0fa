//! When a worker looks for events for a moment instead of going to sleep.
//!
//! Knows: how well that went lately. Never: what an event is, a clock, a system call.
//!
//! To fall asleep and to be woken costs more time than a fast server needs for its answer, most of all where idle cores are
//! handed back to a hypervisor. So a worker that would sleep looks again and again for [`LONGEST`], giving way to whoever
//! wants its core. That pays if an event comes; if none does, it is time wasted. What will happen is judged by what did:
//! each try that finds nothing makes tries four times rarer, each one that finds something makes them twice as frequent. So
//! of those that are made two of three find something, or next to none are made.

use std::time::Duration;

/// For how long a try looks.
pub(super) const LONGEST: Duration = Duration::from_micros(50);
/// The most sleeps between two tries. A try in vain then costs a fifth of a microsecond per sleep, and a crowd that comes
/// after a lull is found out within some five hundred.
const RAREST: u32 = 255;

/// One worker's judgement.
#[derive(Debug, Default)]
pub(super) struct BusyPoll {
    /// Sleeps between two tries.
    apart: u32,
    /// Of these, how many are to come before the next try.
    left: u32,
}

impl BusyPoll {
    /// Is the coming wait one to try it in? If so, say how it went, unless there was no need to wait.
    pub(super) fn wants_to_try(&mut self) -> bool {
        let is_due = self.left == 0;
        self.left = self.left.saturating_sub(1);
        is_due
    }

    /// A try found an event.
    pub(super) fn found(&mut self) {
        self.apart /= 2;
        self.left = self.apart;
    }

    /// A try found none.
    pub(super) fn missed(&mut self) {
        self.apart = (self.apart * 4 + 1).min(RAREST);
        self.left = self.apart;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of `waits` that are tried, in per cent, where `finds` says for each try whether it finds something.
    fn tried(waits: u32, finds: impl Fn(u32) -> bool) -> u32 {
        let mut busy = BusyPoll::default();
        let mut tries = 0;
        for wait in 0..waits {
            if busy.wants_to_try() {
                tries += 1;
                if finds(wait) { busy.found() } else { busy.missed() }
            }
        }
        tries * 100 / waits
    }

    #[test]
    fn what_pays_is_always_done_and_what_does_not_next_to_never() {
        assert_eq!(tried(100_000, |_| true), 100);
        assert_eq!(tried(100_000, |_| false), 0);
        assert!(tried(100_000, |wait| wait % 16 != 0) > 90);
        assert_eq!(tried(100_000, |wait| wait % 2 == 0), 0);
    }

    #[test]
    fn it_comes_back_after_a_pause() {
        let mut busy = BusyPoll::default();
        while busy.apart < RAREST {
            assert!((0..=busy.apart).any(|_| busy.wants_to_try()));
            busy.missed();
        }
        let mut sleeps = 0;
        while busy.apart > 0 {
            if busy.wants_to_try() { busy.found() } else { sleeps += 1 }
        }
        assert!((RAREST..2 * RAREST).contains(&sleeps), "{sleeps}");
    }
}

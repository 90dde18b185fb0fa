//! When a worker polls for events for a moment instead of going to sleep.
//!
//! Knows: how successful that was lately. Never: what an event is, a clock, a system call.
//!
//! Falling asleep and being woken takes longer than a fast server needs for its answer, most of all where
//! idle cores are handed back to a hypervisor. So a worker that would sleep polls repeatedly for [`LONGEST`],
//! and yields its core in between. That pays off if an event comes; otherwise the time is wasted. The future
//! is judged by the past: each try that finds nothing makes tries four times rarer, and each one that finds
//! something makes them twice as frequent. So either two of three tries find something, or almost none are
//! made.

use std::time::Duration;

/// How long a try polls.
pub(super) const LONGEST: Duration = Duration::from_micros(50);
/// Maximum number of sleeps between two tries. A failed try then costs a fifth of a microsecond per sleep,
/// and a busy phase after a quiet one is noticed within about five hundred sleeps.
const RAREST: u32 = 255;

/// The judgement of one worker.
#[derive(Debug, Default)]
pub(super) struct BusyPoll {
    /// Sleeps between two tries.
    apart: u32,
    /// How many of these are left before the next try.
    left: u32,
}

impl BusyPoll {
    /// Should the coming wait be a try? If so, call [`found`](Self::found) or [`missed`](Self::missed)
    /// afterwards, unless there was no need to wait.
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

    /// The percentage of `waits` that are tries, if `finds` says for each try whether it finds an event.
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

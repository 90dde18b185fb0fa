//! Up to when a thread has seen all events that the kernel had to report.
//!
//! Knows: how much each look reported. Never: a clock, what an event means. A deadline may be acted on only
//! if every event before it has been seen: a thread that was held up wakes to old deadlines and unseen
//! events.

use super::poller::Seen;

/// Up to when a thread has seen all events.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// Every event before this time, in ms, has been seen.
    upto: u64,
    /// For looks that were full: when the first of them began, and how many watches were not yet among those
    /// reported.
    partial: Option<(u64, usize)>,
}

impl Sight {
    /// Notes that a look which began at `at` reported `events` of `watches` sockets. Returns the time up to
    /// which all events have been seen.
    pub(crate) fn looked(&mut self, at: u64, seen: Seen, events: usize, watches: usize) -> u64 {
        match seen {
            Seen::All => (self.upto, self.partial) = (at, None),
            // The kernel reports sockets with events in turn. Once all watches could have been reported,
            // every event from before the first of these looks has been.
            Seen::Part => {
                let (began, left) = self.partial.unwrap_or((at, watches));
                self.partial = left.checked_sub(events).filter(|&left| left > 0).map(|left| (began, left));
                if self.partial.is_none() {
                    self.upto = began;
                }
            }
            Seen::Interrupted => {}
        }
        self.upto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_look_that_brought_all_is_believed() {
        let mut sight = Sight::default();
        assert_eq!(sight.looked(5, Seen::All, 3, 10), 5);
        assert_eq!(sight.looked(9, Seen::Interrupted, 0, 10), 5);
        assert_eq!(sight.looked(9, Seen::All, 0, 10), 9);
    }

    #[test]
    fn full_looks_are_believed_once_everybody_had_a_turn() {
        let mut sight = Sight::default();
        assert_eq!(sight.looked(10, Seen::Part, 512, 1_500), 0);
        assert_eq!(sight.looked(20, Seen::Part, 512, 9_999), 0);
        assert_eq!(sight.looked(25, Seen::Interrupted, 0, 9_999), 0);
        assert_eq!(sight.looked(30, Seen::Part, 512, 9_999), 10, "as of the first");
        assert_eq!(sight.looked(40, Seen::Part, 512, 600), 10);
        assert_eq!(sight.looked(50, Seen::All, 3, 600), 50);
    }
}

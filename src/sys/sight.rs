//! Up to when a thread has heard all that the kernel had to tell.
//!
//! Knows: how much each look brought. Never: a clock, what an event means. A deadline may be believed only if everything
//! that happened before it has been heard: a thread that was held up wakes to old deadlines and unheard news.

use super::poller::Seen;

/// The state of a thread's knowledge.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// Nothing that happened before this time, in ms, is unheard.
    upto: u64,
    /// Looks that brought as much as they could hold: when the first of them began, and how many watches were not
    /// among the reported ones yet.
    partial: Option<(u64, usize)>,
}

impl Sight {
    /// A look that began `at` has brought `events` of `watches` sockets. Up to when all is heard now?
    pub(crate) fn looked(&mut self, at: u64, seen: Seen, events: usize, watches: usize) -> u64 {
        match seen {
            Seen::All => (self.upto, self.partial) = (at, None),
            // Whoever has news stands in the kernel's line and is reported in turn: once all could have been, all that had
            // news when the first of these looks began have been.
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

//! A worker's deadlines: at most one per connection, removed when it is no longer needed.
//!
//! Knows: milliseconds and keys. Never: what happens at a deadline, the clock.

use std::collections::BTreeSet;

/// Deadlines in milliseconds of the worker's clock, earliest first.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BTreeSet<(u64, usize)>,
}

impl Timers {
    /// Moves the deadline of `key` from `old` (`None`: it had none) to `new` (`None`: it has none from now
    /// on).
    pub(crate) fn reset(&mut self, key: usize, old: Option<u64>, new: Option<u64>) {
        if old == new {
            return;
        }
        if let Some(at) = old {
            self.queue.remove(&(at, key));
        }
        if let Some(at) = new {
            self.queue.insert((at, key));
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<u64> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// Takes one deadline that has passed, with its key. `None` if none has.
    pub(crate) fn due(&mut self, now: u64) -> Option<(u64, usize)> {
        let &(at, _) = self.queue.first()?;
        if at > now { None } else { self.queue.pop_first() }
    }
}

#[cfg(test)]
mod tests {
    use super::Timers;

    #[test]
    fn deadlines_come_in_order_and_moved_ones_do_not_come_at_their_old_time() {
        let mut timers = Timers::default();
        timers.reset(1, None, Some(50));
        timers.reset(2, None, Some(20));
        timers.reset(3, None, Some(30));
        timers.reset(2, Some(20), Some(60));
        timers.reset(3, Some(30), None);
        assert_eq!(timers.next(), Some(50));
        assert_eq!(timers.due(49), None);
        assert_eq!(timers.due(100), Some((50, 1)));
        assert_eq!(timers.due(100), Some((60, 2)));
        assert_eq!(timers.due(100), None);
    }
}

//! When the shares of returning channels grow next.
//!
//! Knows: numbers and times as they were reported. Never: channels, how a share grows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Finds the channels that are due in O(log n): most picks fall between two steps, and many channels may
/// return at once.
#[derive(Debug, Default)]
pub(super) struct Ramps {
    /// By number: when the ramp began, and when the channel is looked at next.
    known: BTreeMap<usize, (Duration, Duration)>,
    order: BTreeSet<(Duration, usize)>,
}

impl Ramps {
    /// A channel's ramp began at `from`; it is looked at as soon as possible. A ramp that is already known
    /// stays as it is.
    pub(super) fn begin(&mut self, number: usize, from: Duration) {
        if self.known.get(&number).is_none_or(|&(known, _)| known != from) {
            self.end(number);
            self.known.insert(number, (from, Duration::ZERO));
            self.order.insert((Duration::ZERO, number));
        }
    }

    /// Its share grows at `next`.
    pub(super) fn plan(&mut self, number: usize, next: Duration) {
        if let Some((_, at)) = self.known.get_mut(&number) {
            self.order.remove(&(*at, number));
            *at = next;
            self.order.insert((next, number));
        }
    }

    /// Its ramp ends early: it is looked at as soon as possible.
    pub(super) fn hurry(&mut self, number: usize) {
        self.plan(number, Duration::ZERO);
    }

    /// Its share no longer grows.
    pub(super) fn end(&mut self, number: usize) {
        if let Some((_, at)) = self.known.remove(&number) {
            self.order.remove(&(at, number));
        }
    }

    /// Takes a channel that is due. The caller then plans or ends its ramp.
    pub(super) fn take_due(&mut self, now: Duration) -> Option<usize> {
        let &(at, number) = self.order.first().filter(|(at, _)| *at <= now)?;
        self.order.remove(&(at, number));
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn whoever_is_due_comes_once_in_order_of_time() {
        let mut ramps = Ramps::default();
        ramps.begin(3, MS(0));
        assert_eq!((ramps.take_due(MS(0)), ramps.take_due(MS(0))), (Some(3), None));
        ramps.plan(3, MS(20));
        ramps.begin(3, MS(0));
        ramps.begin(4, MS(1));
        assert_eq!((ramps.take_due(MS(5)), ramps.take_due(MS(5))), (Some(4), None), "3 is known");
        ramps.plan(4, MS(10));
        assert_eq!([(); 3].map(|()| ramps.take_due(MS(30))), [Some(4), Some(3), None]);
        ramps.plan(3, MS(40));
        ramps.begin(3, MS(35));
        assert_eq!(ramps.take_due(MS(36)), Some(3), "it began anew");
        ramps.plan(3, MS(90));
        ramps.hurry(3);
        assert_eq!(ramps.take_due(MS(37)), Some(3), "there is no ramp any more");
        ramps.end(3);
        ramps.hurry(3);
        ramps.end(4);
        assert_eq!(ramps.take_due(MS(99)), None);
    }
}

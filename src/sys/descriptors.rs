//! How many descriptors are left: connections first, pipes with what is spare.
//!
//! Knows: numbers. Never: what a descriptor is. A client is accepted only when its server's descriptor can be had too, so
//! nobody is accepted to be dropped.

#![cfg_attr(any(not(target_os = "linux"), portable), allow(dead_code, reason = "no pipes, nothing to spare"))]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Kept free for the control socket's sessions, name lookups, health checks.
const RESERVE: usize = 64;
/// The least of that under a low limit: a session that looks a name up, and a check.
const LEAST_RESERVE: usize = 4;
/// What a client takes: its own connection and that to its channel.
const CLIENT: usize = 2;
/// Beside what a process has open for itself, it needs so many to serve one client and to answer while it does.
pub const LEAST: usize = CLIENT + LEAST_RESERVE;

/// The instance's share of descriptors.
#[derive(Debug)]
pub(crate) struct Budget {
    total: usize,
    left: AtomicUsize,
}

/// Descriptors taken from the budget; dropping gives them back.
#[derive(Debug)]
pub(crate) struct Taken {
    count: u16,
    budget: Arc<Budget>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.left.fetch_add(usize::from(self.count), Ordering::Relaxed);
    }
}

impl Budget {
    /// A budget under the process's limit, of which `open` are in use already. [`LEAST`] more than that serve one client.
    pub(crate) fn new(limit: usize, open: usize) -> Arc<Self> {
        let free = limit.saturating_sub(open);
        // Under a low limit the reserve gives way: better to serve a few than nobody.
        let reserve = RESERVE.min(limit / 4).min(free.saturating_sub(CLIENT));
        let total = free - reserve;
        Arc::new(Self { total, left: AtomicUsize::new(total) })
    }

    /// Takes `count`, if so many are left.
    pub(crate) fn take(self: &Arc<Self>, count: u16) -> Option<Taken> {
        self.take_above(count, 0)
    }

    /// Takes `count` for comfort: only while a quarter is left for those who need them.
    pub(crate) fn take_spare(self: &Arc<Self>, count: u16) -> Option<Taken> {
        self.take_above(count, self.total / 4)
    }

    /// Is so little left that nobody should keep any for comfort?
    pub(crate) fn is_short(&self) -> bool {
        self.left.load(Ordering::Relaxed) <= self.total / 4
    }

    /// Is so much left again that a lack of descriptors is over? At the limit itself each connection that ends makes room
    /// for the next one, which is no recovery.
    pub(crate) fn has_recovered(&self) -> bool {
        self.left.load(Ordering::Relaxed) > self.total / 2
    }

    fn take_above(self: &Arc<Self>, count: u16, floor: usize) -> Option<Taken> {
        let wanted = usize::from(count);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                if left >= wanted + floor { Some(left - wanted) } else { None }
            })
            .ok()?;
        Some(Taken { count, budget: Arc::clone(self) })
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, LEAST};

    #[test]
    fn what_is_taken_comes_back_when_dropped() {
        let budget = Budget::new(8, 0);
        let taken: Vec<_> = std::iter::from_fn(|| budget.take(2)).collect();
        assert_eq!(taken.len(), 3);
        assert!(budget.take(1).is_none());
        drop(taken);
        assert!(budget.take(2).is_some());
    }

    #[test]
    fn comfort_stops_before_need_does() {
        let budget = Budget::new(1_064, 0);
        let spare: Vec<_> = std::iter::from_fn(|| budget.take_spare(2)).collect();
        assert_eq!(spare.len(), 375);
        assert!(budget.is_short());
        assert!(budget.take(2).is_some());
    }

    #[test]
    fn the_least_limit_serves_one_client_and_keeps_the_reserve() {
        for open in [10, 20, 100] {
            let budget = Budget::new(open + LEAST, open);
            let taken = budget.take(2).expect("one client");
            assert!(budget.take(1).is_none(), "the rest is kept");
            drop(taken);
        }
        assert!(Budget::new(3, 10).take(1).is_none(), "nothing is invented");
    }
}

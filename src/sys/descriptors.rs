//! How many descriptors are left: connections first, pipes with what is spare.
//!
//! Knows: numbers. Never: what a descriptor is. A client is accepted only when its server's descriptor can be had too, so
//! nobody is accepted to be dropped.

#![cfg_attr(any(not(target_os = "linux"), portable), allow(dead_code, reason = "no pipes, nothing to spare"))]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Kept free for the log, the control socket and its sessions, name lookups, health checks.
const RESERVE: usize = 64;

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
    /// A budget under the process's limit, of which `open` are in use already. At least one connection is allowed.
    pub(crate) fn new(limit: usize, open: usize) -> Arc<Self> {
        // Under a very low limit the reserve gives way: better to serve a few than nobody.
        let reserve = RESERVE.min(limit / 4);
        let total = limit.saturating_sub(open + reserve).max(2);
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
    use super::Budget;

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
    fn even_an_absurd_limit_serves_one_client() {
        assert!(Budget::new(3, 10).take(2).is_some());
    }
}

//! How many descriptors are left: connections first, pipes with what is spare. And how many bytes of pipes.
//!
//! Knows: numbers. Never: what a descriptor is. A client is accepted only when its server's descriptor can be had too, so
//! nobody is accepted to be dropped.

#![cfg_attr(any(not(target_os = "linux"), portable), allow(dead_code, reason = "no pipes, nothing to spare"))]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Kept free for the control socket's sessions, name lookups, health checks.
const RESERVE: usize = 64;
/// The least of that under a low limit: a session that looks a name up, and a check.
const LEAST_RESERVE: usize = 4 + TO_START_A_PROGRAM;
/// What the standard library opens for it meanwhile: a copy of the input, and two to hear of a failure.
const TO_START_A_PROGRAM: usize = if cfg!(any(not(target_os = "linux"), portable)) { 3 } else { 0 };
/// What a client takes: its own connection and that to its channel.
const CLIENT: usize = 2;
/// How many descriptors a process needs, beside its own, to serve one client and to answer commands meanwhile.
pub const LEAST: usize = CLIENT + LEAST_RESERVE;

/// The instance's share of descriptors.
#[derive(Debug)]
pub(crate) struct Budget {
    total: usize,
    left: AtomicUsize,
    pipe_bytes: usize,
    pipe_bytes_left: AtomicUsize,
}

/// Descriptors taken from the budget; dropping gives them back.
#[derive(Debug)]
pub(crate) struct Taken {
    count: u16,
    budget: Arc<Budget>,
}

/// What a pipe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PipeFor {
    /// A destination that has not shown yet that it takes what it is given.
    Unproven,
    /// One that has.
    Flow,
    /// Much at once for one that has.
    LargeFlow,
}

/// A pipe's descriptors and bytes; dropping gives them back.
#[derive(Debug)]
pub(crate) struct TakenPipe {
    bytes: usize,
    descriptors: Taken,
}

impl Drop for TakenPipe {
    fn drop(&mut self) {
        self.descriptors.budget.pipe_bytes_left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.left.fetch_add(usize::from(self.count), Ordering::Relaxed);
    }
}

impl Taken {
    /// These and others as one; both have to be of the same budget.
    pub(crate) fn add(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.budget, &other.budget), "of one process");
        self.count = self.count.saturating_add(std::mem::take(&mut other.count));
    }

    /// So many of them are not needed any more.
    pub(crate) fn give_back(&mut self, count: u16) {
        let count = count.min(self.count);
        self.count -= count;
        self.budget.left.fetch_add(usize::from(count), Ordering::Relaxed);
    }
}

impl Budget {
    /// A budget under the process's limit, of which `open` are in use already. [`LEAST`] more than that serve one client.
    #[cfg(test)]
    pub(crate) fn new(limit: usize, open: usize) -> Arc<Self> {
        Self::with_pipes(limit, open, 0)
    }

    /// The same, with so many bytes for pipes.
    pub(crate) fn with_pipes(limit: usize, open: usize, pipe_bytes: usize) -> Arc<Self> {
        let free = limit.saturating_sub(open);
        // Under a low limit the reserve gives way to clients, down to the least; and the least to the first of them.
        let reserve = RESERVE.min((limit / 4).max(LEAST_RESERVE)).min(free.saturating_sub(CLIENT));
        let total = free - reserve;
        Arc::new(Self {
            total,
            left: AtomicUsize::new(total),
            pipe_bytes,
            pipe_bytes_left: AtomicUsize::new(pipe_bytes),
        })
    }

    /// Is nothing taken?
    #[cfg(test)]
    pub(crate) fn is_whole(&self) -> bool {
        self.left.load(Ordering::Relaxed) == self.total
    }

    /// How many are left.
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Takes `count`, if so many are left.
    pub(crate) fn take(self: &Arc<Self>, count: u16) -> Option<Taken> {
        self.take_above(count, 0)
    }

    /// Takes some for listeners that are opened while clients are served, if a client can be served beside them.
    pub(crate) fn take_for_listeners(self: &Arc<Self>, count: u16) -> Option<Taken> {
        self.take_above(count, CLIENT)
    }

    /// So many of those that were in use from the beginning, as if they had been taken: dropping gives them to all.
    pub(crate) fn count_in(self: &Arc<Self>, count: u16) -> Taken {
        Taken { count, budget: Arc::clone(self) }
    }

    /// Takes a pipe of so many bytes. Those that may never be emptied leave half of all bytes, and a quarter of the
    /// descriptors, to those that flow, and the large ones of these leave some bytes to the little ones.
    pub(crate) fn take_pipe(self: &Arc<Self>, bytes: usize, what: PipeFor) -> Option<TakenPipe> {
        let (descriptors, floor) = match what {
            PipeFor::Unproven => (self.total / 4, self.pipe_bytes / 2),
            PipeFor::LargeFlow => (self.total / 16, self.pipe_bytes / 8),
            PipeFor::Flow => (self.total / 16, 0),
        };
        let descriptors = self.take_above(2, descriptors)?;
        take(&self.pipe_bytes_left, bytes, floor)?;
        Some(TakenPipe { bytes, descriptors })
    }

    /// Is so much left for pipes that more may wait in them than is going to be taken at once?
    pub(crate) fn has_pipes_to_spare(&self) -> bool {
        self.pipe_bytes_left.load(Ordering::Relaxed) >= self.pipe_bytes / 8 * 3
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
        take(&self.left, usize::from(count), floor)?;
        Some(Taken { count, budget: Arc::clone(self) })
    }
}

/// Takes so many, if more than `floor` stay.
fn take(left: &AtomicUsize, wanted: usize, floor: usize) -> Option<usize> {
    let rest = |left: usize| left.checked_sub(wanted).filter(|&rest| rest >= floor);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).ok()
}

#[cfg(test)]
mod tests {
    use super::{Budget, LEAST, LEAST_RESERVE, PipeFor};

    #[test]
    fn what_is_taken_comes_back_when_dropped() {
        let budget = Budget::new(LEAST_RESERVE + 6, 0);
        let taken: Vec<_> = std::iter::from_fn(|| budget.take(2)).collect();
        assert_eq!(taken.len(), 3);
        assert!(budget.take(1).is_none());
        drop(taken);
        assert!(budget.take(2).is_some());
    }

    #[test]
    fn comfort_stops_before_need_does() {
        let budget = Budget::with_pipes(1_064, 0, 100_000);
        let all = |what| std::iter::from_fn(|| budget.take_pipe(1, what)).collect::<Vec<_>>();
        let (unproven, flows) = (all(PipeFor::Unproven), all(PipeFor::Flow));
        assert_eq!((unproven.len(), flows.len()), (375, 94));
        assert!(budget.is_short());
        assert!(budget.take(2).is_some());
    }

    #[test]
    fn what_stalls_leaves_pipes_to_what_flows() {
        let budget = Budget::with_pipes(10_064, 0, 80);
        let all = |bytes, what| std::iter::from_fn(|| budget.take_pipe(bytes, what)).collect::<Vec<_>>();
        let stalled = all(3, PipeFor::Unproven);
        assert_eq!((stalled.len(), budget.has_pipes_to_spare()), (13, true));
        let large = all(10, PipeFor::LargeFlow);
        assert_eq!((large.len(), budget.has_pipes_to_spare()), (3, false));
        let little = all(3, PipeFor::Flow);
        assert_eq!(little.len(), 3);
        drop((stalled, large, little));
        assert!(budget.take_pipe(80, PipeFor::Flow).is_some());
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

//! How many descriptors are left, for connections first and for pipes with what is spare; and how many bytes
//! of pipes.
//!
//! Knows: numbers. Never: what a descriptor is for. A client is accepted only if the descriptor for its
//! server is available, too, so no client is accepted and then dropped.

#![cfg_attr(any(not(target_os = "linux"), portable), allow(dead_code, reason = "no pipes, nothing to spare"))]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Descriptors kept free for sessions on the control socket, name lookups and health checks.
const RESERVE: usize = 64;
/// Least reserve under a low limit: a session that looks up a name, and a check.
const LEAST_RESERVE: usize = 4 + TO_START_A_PROGRAM;
/// Descriptors that the standard library opens while it starts a program: a copy of the input, and two to
/// learn of a failure.
const TO_START_A_PROGRAM: usize = if cfg!(any(not(target_os = "linux"), portable)) { 3 } else { 0 };
/// Descriptors per client: its own connection and the one to its channel.
const CLIENT: usize = 2;
/// How many descriptors a process needs, beside its own, to serve one client and answer commands meanwhile.
pub const LEAST: usize = CLIENT + LEAST_RESERVE;

/// The descriptors and pipe bytes that an instance may use.
#[derive(Debug)]
pub(crate) struct Budget {
    total: usize,
    left: AtomicUsize,
    pipe_bytes: usize,
    pipe_bytes_left: AtomicUsize,
}

/// Descriptors taken from the budget. Dropping the value gives them back.
#[derive(Debug)]
pub(crate) struct Taken {
    count: u16,
    budget: Arc<Budget>,
}

/// What a pipe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PipeFor {
    /// A destination that has not yet shown that it takes what it is given.
    Unproven,
    /// A destination that has shown it.
    Flow,
    /// A large pipe for a destination that has shown it.
    LargeFlow,
}

/// The descriptors and bytes of a pipe. Dropping the value gives them back.
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
    /// Adds others of the same budget to these.
    pub(crate) fn add(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.budget, &other.budget), "of one process");
        self.count = self.count.saturating_add(std::mem::take(&mut other.count));
    }

    /// Gives `count` of them back.
    pub(crate) fn give_back(&mut self, count: u16) {
        let count = count.min(self.count);
        self.count -= count;
        self.budget.left.fetch_add(usize::from(count), Ordering::Relaxed);
    }
}

impl Budget {
    /// A budget under the process's limit of `limit` descriptors, of which `open` are already in use. If
    /// `limit` is at least `open` + [`LEAST`], one client can be served.
    #[cfg(test)]
    pub(crate) fn new(limit: usize, open: usize) -> Arc<Self> {
        Self::with_pipes(limit, open, 0)
    }

    /// The same budget with `pipe_bytes` bytes for pipes.
    pub(crate) fn with_pipes(limit: usize, open: usize, pipe_bytes: usize) -> Arc<Self> {
        let free = limit.saturating_sub(open);
        // Under a low limit the reserve shrinks in favour of clients, down to `LEAST_RESERVE`; and that
        // shrinks in favour of the first client.
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

    /// How many descriptors are left.
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Takes `count` descriptors. `None` if fewer are left.
    pub(crate) fn take(self: &Arc<Self>, count: u16) -> Option<Taken> {
        self.take_above(count, 0)
    }

    /// Takes `count` descriptors for listeners opened at run time. `None` unless a client can still be served
    /// beside them.
    pub(crate) fn take_for_listeners(self: &Arc<Self>, count: u16) -> Option<Taken> {
        self.take_above(count, CLIENT)
    }

    /// Descriptors that were in use when the budget was made, such as those of inherited listeners. Dropping
    /// the value adds them to the budget.
    pub(crate) fn count_in(self: &Arc<Self>, count: u16) -> Taken {
        Taken { count, budget: Arc::clone(self) }
    }

    /// Takes a pipe of this many bytes; `None` if too little is left. A pipe that may never be emptied leaves
    /// half of all bytes and a quarter of the descriptors to others. A large pipe leaves some bytes to small
    /// ones.
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

    /// Are there enough pipe bytes left that a pipe may hold more than its destination is expected to take?
    pub(crate) fn has_pipes_to_spare(&self) -> bool {
        self.pipe_bytes_left.load(Ordering::Relaxed) >= self.pipe_bytes / 8 * 3
    }

    /// Are so few descriptors left that nothing should keep one merely for speed?
    pub(crate) fn is_short(&self) -> bool {
        self.left.load(Ordering::Relaxed) <= self.total / 4
    }

    /// Are enough descriptors left again to call a shortage over? At the limit itself each connection that
    /// ends makes room for the next one, which is no recovery.
    pub(crate) fn has_recovered(&self) -> bool {
        self.left.load(Ordering::Relaxed) > self.total / 2
    }

    fn take_above(self: &Arc<Self>, count: u16, floor: usize) -> Option<Taken> {
        take(&self.left, usize::from(count), floor)?;
        Some(Taken { count, budget: Arc::clone(self) })
    }
}

/// Takes `wanted` if at least `floor` stay.
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

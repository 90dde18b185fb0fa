//! How often something took how long, since the start: counts that only grow.
//!
//! Knows: bounds, counts. Never: what took so long, clocks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::handover::table::TimesRecord;

/// Upper bounds for connect times, in milliseconds.
pub(super) const CONNECT_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000];
/// Upper bounds for the duration of connections, in milliseconds.
pub(super) const LASTING_MS: [u64; 12] =
    [10, 100, 500, 1_000, 5_000, 15_000, 60_000, 300_000, 900_000, 3_600_000, 21_600_000, 86_400_000];
/// Upper bounds for waiting times in the wait queue, in milliseconds.
pub(super) const WAIT_MS: [u64; 12] = [1, 10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000];

/// Counts by upper bound, kept without a lock.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// The last one counts what is above all bounds.
    counts: [AtomicU64; 13],
    micros: AtomicU64,
}

impl Histogram {
    pub(super) fn add(&self, bounds: &[u64; 12], took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = bounds.iter().position(|&ms| micros <= ms * 1_000).unwrap_or(bounds.len());
        self.counts[place].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    /// Adds counts of another process. Counts with other bounds come from another version and are left out.
    pub(super) fn add_counted(&self, counts: &[u64], micros: u64) {
        if counts.len() == self.counts.len() {
            self.counts.iter().zip(counts).for_each(|(count, more)| _ = count.fetch_add(*more, Relaxed));
            self.micros.fetch_add(micros, Relaxed);
        }
    }

    pub(super) fn reset(&self) {
        self.counts.iter().for_each(|count| count.store(0, Relaxed));
        self.micros.store(0, Relaxed);
    }

    /// Adds the counts to `all`.
    pub(super) fn add_to(&self, all: &mut Distribution) {
        all.counts.resize(self.counts.len(), 0);
        for (sum, count) in all.counts.iter_mut().zip(&self.counts) {
            *sum += count.load(Relaxed);
        }
        all.micros = all.micros.wrapping_add(self.micros.load(Relaxed));
    }
}

/// How often something took how long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Upper bounds in milliseconds, ascending.
    pub bounds_ms: &'static [u64],
    /// For each bound, how often it took at most that long and longer than the bound before; then how often
    /// it took longer than all bounds. Empty if nothing was counted.
    pub counts: Vec<u64>,
    /// The sum of all times, in microseconds.
    pub micros: u64,
}

impl Distribution {
    pub(super) fn new(bounds_ms: &'static [u64]) -> Self {
        Self { bounds_ms, counts: Vec::new(), micros: 0 }
    }

    pub(super) fn restore(bounds_ms: &'static [u64], record: &TimesRecord) -> Self {
        Self { bounds_ms, counts: record.counts.clone(), micros: record.micros }
    }

    pub(super) fn record(&self) -> TimesRecord {
        TimesRecord { counts: self.counts.clone(), micros: self.micros }
    }

    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let had = before.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self.counts.iter().zip(had).map(|(now, had)| now.saturating_sub(had));
        Self { counts: counts.collect(), micros: self.micros.saturating_sub(before.micros), ..self.clone() }
    }

    /// How often in all.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_as_long_as_a_bound_is_within_it() {
        let histogram = Histogram::default();
        for micros in [0, 1_000, 1_001, 5_000_000, 5_000_001] {
            histogram.add(&CONNECT_MS, Duration::from_micros(micros));
        }
        let mut seen = Distribution::new(&CONNECT_MS);
        histogram.add_to(&mut seen);
        histogram.add_to(&mut seen);
        assert_eq!(seen.counts, [4, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2]);
        assert_eq!((seen.count(), seen.micros), (10, 2 * 10_002_002));
        let other = Histogram::default();
        other.add_counted(&seen.counts, seen.micros);
        other.add_counted(&[1, 2], 9);
        let mut carried = Distribution::new(&CONNECT_MS);
        other.add_to(&mut carried);
        assert_eq!(carried, seen);
    }
}

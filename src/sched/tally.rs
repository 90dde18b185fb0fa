//! Exact counts by worker: how connections ended, how long they took, and why connects failed.
//!
//! Knows: counters. Never: which client it was, who counts.

use std::fmt::Display;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::histogram::{self, Distribution, Histogram};
use super::{DialCause, End};
use crate::handover::table::{ChannelTallyRecord, ServiceTallyRecord};

/// What one worker has counted about one channel's connections. Takes almost no memory before the first one.
#[derive(Debug, Default)]
pub(super) struct ChannelTally(OnceLock<Box<OfChannel>>);

#[derive(Debug, Default)]
struct OfChannel {
    ends: [AtomicU64; End::WITH_CHANNEL],
    failures: [AtomicU64; DialCause::ALL.len()],
    outrun: AtomicU64,
    /// How many of them had not answered at all by then.
    unanswered: AtomicU64,
    connects: Histogram,
    lasted: Histogram,
}

impl ChannelTally {
    fn counts(&self) -> &OfChannel {
        self.0.get_or_init(Box::default)
    }

    /// Counts a successful connect and the time it took.
    pub(super) fn connected(&self, took: Duration) {
        self.counts().connects.add(&histogram::CONNECT_MS, took);
    }

    /// Counts a failed connect.
    pub(super) fn failed(&self, cause: DialCause) {
        self.counts().failures[cause as usize].fetch_add(1, Relaxed);
    }

    /// Counts a connect that was given up because another channel answered first.
    pub(super) fn outrun(&self, has_answered: bool) {
        let counts = self.counts();
        counts.outrun.fetch_add(1, Relaxed);
        counts.unanswered.fetch_add(u64::from(!has_answered), Relaxed);
    }

    /// Counts the end of a connection that had the channel, and how long it lasted.
    pub(super) fn ended(&self, how: End, lasted: Duration) {
        let counts = self.counts();
        if let Some(count) = counts.ends.get(how.index()) {
            count.fetch_add(1, Relaxed);
        }
        counts.lasted.add(&histogram::LASTING_MS, lasted);
    }

    pub(super) fn reset(&self) {
        if let Some(counts) = self.0.get() {
            let counters =
                counts.ends.iter().chain(&counts.failures).chain([&counts.outrun, &counts.unanswered]);
            counters.for_each(|count| count.store(0, Relaxed));
            counts.connects.reset();
            counts.lasted.reset();
        }
    }

    /// Adds the counts to `all`.
    pub(super) fn add_to(&self, all: &mut Ended) {
        if let Some(counts) = self.0.get() {
            add(&mut all.ends, End::ALL, &counts.ends);
            add(&mut all.failures, DialCause::ALL, &counts.failures);
            all.outrun += counts.outrun.load(Relaxed);
            all.unanswered += counts.unanswered.load(Relaxed);
            counts.connects.add_to(&mut all.connects);
            counts.lasted.add_to(&mut all.lasted);
        }
    }

    /// Adds what another process counted.
    pub(super) fn add_counted(&self, counted: &Ended) {
        if *counted == Ended::default() {
            return;
        }
        let counts = self.counts();
        for &(how, more) in &counted.ends {
            if let Some(count) = counts.ends.get(how.index()) {
                count.fetch_add(more, Relaxed);
            }
        }
        for &(cause, more) in &counted.failures {
            counts.failures[cause as usize].fetch_add(more, Relaxed);
        }
        counts.outrun.fetch_add(counted.outrun, Relaxed);
        counts.unanswered.fetch_add(counted.unanswered, Relaxed);
        counts.connects.add_counted(&counted.connects.counts, counted.connects.micros);
        counts.lasted.add_counted(&counted.lasted.counts, counted.lasted.micros);
    }
}

/// How the connections of a channel ended, how long they took, and why connects failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How many connections ended in each way; only ways that occurred.
    pub ends: Vec<(End, u64)>,
    /// How many connects failed for each cause; only causes that occurred.
    pub failures: Vec<(DialCause, u64)>,
    /// How many connects were given up because another channel answered first.
    pub outrun: u64,
    /// How many of those had not answered at all by then; the others were only slower.
    pub unanswered: u64,
    /// How long successful connects took.
    pub connects: Distribution,
    /// How long ended connections lasted.
    pub lasted: Distribution,
}

impl Default for Ended {
    fn default() -> Self {
        let (connects, lasted) =
            (Distribution::new(&histogram::CONNECT_MS), Distribution::new(&histogram::LASTING_MS));
        Self { ends: Vec::new(), failures: Vec::new(), outrun: 0, unanswered: 0, connects, lasted }
    }
}

/// Reads ends by their words; unknown words are skipped.
fn ends_of(record: &[(String, u64)]) -> Vec<(End, u64)> {
    let named = |words: &str| End::ALL.into_iter().find(|how| how.to_string() == words);
    let known = |(words, count): &(String, u64)| Some((named(words)?, *count));
    record.iter().filter_map(known).collect()
}

/// Reads causes by their words; unknown words are skipped.
fn causes_of(record: &[(String, u64)]) -> Vec<(DialCause, u64)> {
    let known = |(words, count): &(String, u64)| Some((DialCause::named(words)?, *count));
    record.iter().filter_map(known).collect()
}

fn record_of<T: Display>(counts: &[(T, u64)]) -> Vec<(String, u64)> {
    counts.iter().map(|(what, count)| (what.to_string(), *count)).collect()
}

/// Adds what one worker has counted to `sums`.
fn add<T: Copy + PartialEq, const N: usize>(sums: &mut Vec<(T, u64)>, all: [T; N], counts: &[AtomicU64]) {
    let counts = counts.iter().map(|count| count.load(Relaxed));
    for (what, count) in all.into_iter().zip(counts).filter(|&(_, count)| count > 0) {
        match sums.iter_mut().find(|(known, _)| *known == what) {
            Some((_, sum)) => *sum += count,
            None => sums.push((what, count)),
        }
    }
}

/// The increase from `before` to `now`.
fn more<T: Copy + PartialEq>(now: &[(T, u64)], before: &[(T, u64)]) -> Vec<(T, u64)> {
    let had = |how: T| before.iter().find(|(known, _)| *known == how).map_or(0, |(_, count)| *count);
    let more = now.iter().map(|&(how, count)| (how, count.saturating_sub(had(how))));
    more.filter(|&(_, count)| count > 0).collect()
}

impl Ended {
    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            ends: more(&self.ends, &before.ends),
            failures: more(&self.failures, &before.failures),
            outrun: self.outrun.saturating_sub(before.outrun),
            unanswered: self.unanswered.saturating_sub(before.unanswered),
            connects: self.connects.since(&before.connects),
            lasted: self.lasted.since(&before.lasted),
        }
    }

    /// The counts as a process sends them to its successor.
    pub fn record(&self) -> ChannelTallyRecord {
        ChannelTallyRecord {
            ends: record_of(&self.ends),
            failures: record_of(&self.failures),
            outrun: self.outrun,
            unanswered: self.unanswered,
            connects: self.connects.record(),
            lasted: self.lasted.record(),
        }
    }

    /// The counts that a predecessor sent.
    pub fn restore(record: &ChannelTallyRecord) -> Self {
        Self {
            ends: ends_of(&record.ends),
            failures: causes_of(&record.failures),
            outrun: record.outrun,
            unanswered: record.unanswered,
            connects: Distribution::restore(&histogram::CONNECT_MS, &record.connects),
            lasted: Distribution::restore(&histogram::LASTING_MS, &record.lasted),
        }
    }
}

/// What one worker has counted about one service's clients.
#[derive(Debug)]
#[repr(align(64))]
struct OfService {
    ends: [AtomicU64; End::ALL.len()],
    waits: Histogram,
}

impl Default for OfService {
    fn default() -> Self {
        Self { ends: std::array::from_fn(|_| AtomicU64::new(0)), waits: Histogram::default() }
    }
}

/// How the clients of a service ended, and how long they waited in the wait queue. Counted without the
/// table's lock.
#[derive(Debug)]
pub(super) struct ServiceTally(Box<[OfService]>);

impl ServiceTally {
    /// `shards` is the number of workers that count; 0 is treated as 1.
    pub(super) fn new(shards: usize) -> Self {
        Self(std::iter::repeat_with(OfService::default).take(shards.max(1)).collect())
    }

    fn shard(&self, number: usize) -> &OfService {
        &self.0[number % self.0.len()]
    }

    pub(super) fn ended(&self, shard: usize, how: End) {
        self.shard(shard).ends[how.index()].fetch_add(1, Relaxed);
    }

    /// Counts a client that left the wait queue for any reason after the time `long`.
    pub(super) fn waited(&self, shard: usize, long: Duration) {
        self.shard(shard).waits.add(&histogram::WAIT_MS, long);
    }

    /// How many clients ended in each way; only ways that occurred.
    pub(super) fn ends(&self) -> Vec<(End, u64)> {
        let of = |how: End| self.0.iter().map(|one| one.ends[how.index()].load(Relaxed)).sum();
        End::ALL.into_iter().map(|how| (how, of(how))).filter(|&(_, count)| count > 0).collect()
    }

    pub(super) fn waits(&self) -> Distribution {
        let mut all = Distribution::new(&histogram::WAIT_MS);
        self.0.iter().for_each(|one| one.waits.add_to(&mut all));
        // No client ever waited.
        if all.count() == 0 {
            all.counts.clear();
        }
        all
    }

    pub(super) fn snapshot(&self) -> ClientCounts {
        ClientCounts { ends: self.ends(), waits: self.waits() }
    }

    /// Adds what another process counted.
    pub(super) fn add(&self, counted: &ClientCounts) {
        for &(how, count) in &counted.ends {
            self.0[0].ends[how.index()].fetch_add(count, Relaxed);
        }
        self.0[0].waits.add_counted(&counted.waits.counts, counted.waits.micros);
    }
}

/// How the clients of a service ended, and how long they waited in the wait queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientCounts {
    /// How many clients ended in each way; only ways that occurred.
    pub ends: Vec<(End, u64)>,
    /// How long clients waited.
    pub waits: Distribution,
}

impl ClientCounts {
    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self { ends: more(&self.ends, &before.ends), waits: self.waits.since(&before.waits) }
    }

    /// The counts as a process sends them to its successor.
    pub fn record(&self) -> ServiceTallyRecord {
        ServiceTallyRecord { ends: record_of(&self.ends), waits: self.waits.record() }
    }

    /// The counts that a predecessor sent.
    pub fn restore(record: &ServiceTallyRecord) -> Self {
        let waits = Distribution::restore(&histogram::WAIT_MS, &record.waits);
        Self { ends: ends_of(&record.ends), waits }
    }
}

#[cfg(test)]
mod tests {
    use super::super::OwnFault;
    use super::*;

    #[test]
    fn what_was_counted_goes_to_a_successor_once() {
        let (ours, theirs) = (ChannelTally::default(), ChannelTally::default());
        ours.connected(Duration::from_millis(3));
        ours.ended(End::Idle, Duration::from_secs(3));
        ours.failed(DialCause::Refused);
        let seen = |tally: &ChannelTally| {
            let mut all = Ended::default();
            tally.add_to(&mut all);
            all
        };
        let before = seen(&ours);
        theirs.add_counted(&Ended::restore(&before.record()));
        ours.ended(End::Idle, Duration::from_secs(400));
        ours.ended(End::Ours(OwnFault::Panic), Duration::ZERO);
        DialCause::ALL.into_iter().for_each(|cause| ours.failed(cause));
        theirs.add_counted(&Ended::restore(&seen(&ours).since(&before).record()));
        assert_eq!(seen(&theirs), seen(&ours));
        assert_eq!(seen(&ours).ends, [(End::Idle, 2), (End::Ours(OwnFault::Panic), 1)]);
        let failures = seen(&ours).failures;
        assert_eq!(
            (failures.len(), failures[0], failures[15].1),
            (DialCause::ALL.len(), (DialCause::Refused, 2), 1)
        );
        ours.reset();
        assert_eq!((seen(&ours).failures, seen(&ours).ends), (vec![], vec![]));
        let (ours, theirs) = (ServiceTally::new(2), ServiceTally::new(0));
        for (n, how) in End::ALL.into_iter().enumerate() {
            (0..=n).for_each(|shard| ours.ended(shard, how));
        }
        ours.waited(1, Duration::from_millis(20));
        theirs.add(&ClientCounts::restore(&ours.snapshot().record()));
        assert_eq!(theirs.snapshot(), ours.snapshot());
        assert_eq!(ours.snapshot().ends.last(), Some(&(End::ALL[End::ALL.len() - 1], End::ALL.len() as u64)));
        let strange = vec![("eaten by a bear".to_owned(), 3)];
        let record = ServiceTallyRecord { ends: strange, ..ServiceTallyRecord::default() };
        assert_eq!(ClientCounts::restore(&record).ends, []);
    }
}

//! How long a channel recently took to answer connects: a histogram with four buckets per doubling.
//!
//! Knows: durations, counts. Never: channels, clocks.

use std::time::Duration;

/// The first bucket has everything below 1 us, the last one everything from 2^25 us (34 s) on.
const BUCKETS: usize = 1 + 25 * 4;
/// After this many connects all counts are halved, so that old ones fade.
const KEPT: u32 = 4_096;

/// The connect times of one channel. Takes no memory before the first one.
#[derive(Debug, Default)]
pub(super) struct ConnectTimes(Option<Box<Recent>>);

#[derive(Debug)]
struct Recent {
    total: u32,
    counts: [u16; BUCKETS],
}

impl ConnectTimes {
    pub(super) fn add(&mut self, took: Duration) {
        let histogram = self.0.get_or_insert_with(|| Box::new(Recent { total: 0, counts: [0; BUCKETS] }));
        if histogram.total == KEPT {
            histogram.counts.iter_mut().for_each(|count| *count /= 2);
            histogram.total = histogram.counts.iter().map(|&count| u32::from(count)).sum();
        }
        histogram.counts[bucket(took)] += 1;
        histogram.total += 1;
    }

    /// The time that `percent` of the connects did not exceed, accurate to a fifth. `None` if there were
    /// none.
    pub(super) fn percentile(&self, percent: u32) -> Option<Duration> {
        let histogram = self.0.as_ref()?;
        let rank = (histogram.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let bucket = histogram.counts.iter().position(|&count| {
            seen += u32::from(count);
            seen >= rank
        });
        bucket.map(upper_end)
    }

    /// The counts by number of bucket, without empty buckets.
    pub(super) fn record(&self) -> Vec<(usize, u16)> {
        let counts = self.0.iter().flat_map(|histogram| histogram.counts.iter().copied().enumerate());
        counts.filter(|&(_, count)| count > 0).collect()
    }

    /// `None` if these counts are impossible.
    pub(super) fn restore(record: &[(usize, u16)]) -> Option<Self> {
        if record.is_empty() {
            return Some(Self::default());
        }
        let mut histogram = Box::new(Recent { total: 0, counts: [0; BUCKETS] });
        for &(bucket, count) in record {
            histogram.total += u32::from(count);
            if histogram.total > KEPT {
                return None;
            }
            *histogram.counts.get_mut(bucket)? += count;
        }
        Some(Self(Some(histogram)))
    }

    pub(super) fn clear(&mut self) {
        self.0 = None;
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if micros == 0 {
        return 0;
    }
    let doubling = micros.ilog2() as usize;
    // The two bits below the highest one.
    let quarter = if doubling >= 2 { (micros >> (doubling - 2)) & 3 } else { (micros << (2 - doubling)) & 3 };
    (1 + doubling * 4 + quarter as usize).min(BUCKETS - 1)
}

fn upper_end(bucket: usize) -> Duration {
    let Some(index) = bucket.checked_sub(1) else { return Duration::from_micros(1) };
    let nanos = 1_000_u64 << (index / 4);
    Duration::from_nanos(nanos + nanos / 4 * (index as u64 % 4 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_before_the_first_connect() {
        let mut times = ConnectTimes::default();
        assert_eq!(times.percentile(50), None);
        times.add(Duration::from_millis(3));
        times.clear();
        assert_eq!(times.percentile(99), None);
    }

    #[test]
    fn every_time_lies_in_its_bucket_within_a_quarter() {
        for micros in (1..2_000).chain((2_000..30_000_000).step_by(9_973)) {
            let took = Duration::from_micros(micros);
            let mut times = ConnectTimes::default();
            times.add(took);
            let said = times.percentile(50).expect("one connect");
            assert!(said >= took && said <= took * 5 / 4 + Duration::from_micros(1), "{took:?} as {said:?}");
        }
        for extreme in [Duration::ZERO, Duration::MAX] {
            let mut times = ConnectTimes::default();
            times.add(extreme);
            assert!(times.percentile(50).is_some());
        }
    }

    #[test]
    fn percentiles_tell_the_usual_from_the_rare() {
        let mut times = ConnectTimes::default();
        (0..980).for_each(|_| times.add(Duration::from_micros(100)));
        (0..20).for_each(|_| times.add(Duration::from_millis(50)));
        assert!(times.percentile(50).expect("many") < Duration::from_micros(130));
        assert!(times.percentile(99).expect("many") >= Duration::from_millis(50));
    }

    #[test]
    fn old_times_fade() {
        let mut times = ConnectTimes::default();
        (0..100_000).for_each(|_| times.add(Duration::from_secs(1)));
        (0..20_000).for_each(|_| times.add(Duration::from_millis(1)));
        assert!(times.percentile(50).expect("many") < Duration::from_millis(2));
    }
}

//! The time that the table is told, and the time that deadlines go by.
//!
//! Knows: when the instance started, when a thread could not look. Never: who asks.

use std::time::{Duration, Instant};

/// Later than asked for by more than this, and the thread was held up: stopped, starved, or the machine was.
const LATE: Duration = Duration::from_millis(250);

/// Time since the start of the instance. Every copy tells the same.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    /// What it told then. The system's clock may not reach back to the time at which it would have told 0.
    before: Duration,
    /// What it tells instead of the system's time.
    #[cfg(test)]
    told: Option<&'static Told>,
}

/// A time that a test decides on.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Told(std::sync::atomic::AtomicU64);

#[cfg(test)]
impl Told {
    /// So many microseconds have passed since the start.
    pub(crate) fn set(&self, micros: u64) {
        self.0.store(micros, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock {
    /// Starts at 0.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            before: Duration::ZERO,
            #[cfg(test)]
            told: None,
        }
    }

    /// Goes on from the time that another process's tells.
    pub fn resume(elapsed: Duration) -> Self {
        Self { before: elapsed, ..Self::start() }
    }

    /// Tells what it is told.
    #[cfg(test)]
    pub(crate) fn told(told: &'static Told) -> Self {
        Self { told: Some(told), ..Self::start() }
    }

    /// Since the start.
    pub fn now(self) -> Duration {
        #[cfg(test)]
        let _ = super::trouble::strike(super::trouble::FaultPoint::Clock);
        #[cfg(test)]
        if let Some(Told(micros)) = self.told {
            return Duration::from_micros(micros.load(std::sync::atomic::Ordering::SeqCst));
        }
        self.before.saturating_add(self.start.elapsed())
    }

    /// As an instant of the system's clock.
    pub(crate) fn instant(self, at: Duration) -> Instant {
        match at.checked_sub(self.before) {
            Some(after) => self.start + after,
            // Before this process: as long ago as the system can tell.
            None => self.start.checked_sub(self.before - at).unwrap_or(self.start),
        }
    }
}

/// A thread's own time, for its deadlines: it stands still while the thread is held up, for nobody's patience may run out
/// while nobody looks.
#[derive(Debug, Default)]
pub(crate) struct OwnTime {
    /// The clock's time of the last look.
    real: Duration,
    /// What of it does not count.
    lost: Duration,
}

impl OwnTime {
    /// Begins together with the clock.
    pub(crate) fn at(real: Duration) -> Self {
        Self { real, lost: Duration::ZERO }
    }

    /// What the time would be if the thread were not held up.
    pub(crate) fn reading(&self, real: Duration) -> Duration {
        real.saturating_sub(self.lost)
    }

    /// The time after a wait that was to take `asked` at most (`None` = for ever).
    pub(crate) fn waited(&mut self, asked: Option<Duration>, real: Duration) -> Duration {
        let took = real.saturating_sub(self.real);
        let late = asked.map_or(Duration::ZERO, |asked| took.saturating_sub(asked));
        if late > LATE {
            self.lost += took - LATE;
        }
        self.real = real;
        self.reading(real)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_clock_goes_on_from_another_processs_time() {
        for elapsed in [Duration::ZERO, ms(90), Duration::from_secs(1 << 40)] {
            let clock = Clock::resume(elapsed);
            let now = clock.now();
            assert!(now >= elapsed && now < elapsed + Duration::from_secs(60), "{now:?} after {elapsed:?}");
            let (later, sooner) = (clock.instant(now + ms(5)), clock.instant(now));
            assert_eq!(later - sooner, ms(5));
            assert!(clock.instant(Duration::ZERO) <= sooner);
        }
    }

    #[test]
    fn own_time_goes_on_while_the_thread_sleeps_as_it_asked_to() {
        let mut time = OwnTime::at(ms(0));
        assert_eq!(time.waited(Some(ms(5_000)), ms(5_001)), ms(5_001));
        assert_eq!(time.waited(None, ms(90_000)), ms(90_000));
        assert_eq!(time.waited(Some(ms(5_000)), ms(90_007)), ms(90_007), "an event came first");
    }

    #[test]
    fn own_time_stands_still_while_the_thread_is_held_up() {
        let mut time = OwnTime::at(ms(0));
        assert_eq!(time.waited(Some(ms(1_000)), ms(61_000)), LATE);
        assert_eq!(time.reading(ms(61_010)), LATE + ms(10));
        assert_eq!(time.waited(Some(ms(100)), ms(61_100)), LATE + ms(100));
    }
}

//! The time that the table is told, and the time that deadlines use.
//!
//! Knows: when the instance started, when a thread could not run. Never: who asks.

use std::time::{Duration, Instant};

/// A wait that took longer than asked for by more than this means that the thread was held up: it or the
/// machine was stopped or starved.
const LATE: Duration = Duration::from_millis(250);

/// The time since the start of the instance. All copies show the same time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    /// What it showed at `start`. The system's clock may not reach back to the time at which it would have
    /// shown 0.
    before: Duration,
    /// The time that it shows instead of the system's.
    #[cfg(test)]
    told: Option<&'static Told>,
}

/// A time that a test sets.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Told(std::sync::atomic::AtomicU64);

#[cfg(test)]
impl Told {
    /// Sets the time, in microseconds since the start.
    pub(crate) fn set(&self, micros: u64) {
        self.0.store(micros, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock {
    /// A clock that starts at 0.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            before: Duration::ZERO,
            #[cfg(test)]
            told: None,
        }
    }

    /// A clock that continues another process's clock, which showed `elapsed`.
    pub fn resume(elapsed: Duration) -> Self {
        Self { before: elapsed, ..Self::start() }
    }

    /// A clock that shows the time set in `told`.
    #[cfg(test)]
    pub(crate) fn told(told: &'static Told) -> Self {
        Self { told: Some(told), ..Self::start() }
    }

    /// The time since the start.
    pub fn now(self) -> Duration {
        #[cfg(test)]
        let _ = super::trouble::strike(super::trouble::FaultPoint::Clock);
        #[cfg(test)]
        if let Some(Told(micros)) = self.told {
            return Duration::from_micros(micros.load(std::sync::atomic::Ordering::SeqCst));
        }
        self.before.saturating_add(self.start.elapsed())
    }

    /// The same moment as an instant of the system's clock.
    pub(crate) fn instant(self, at: Duration) -> Instant {
        match at.checked_sub(self.before) {
            Some(after) => self.start + after,
            // Before this process started: the earliest instant that the system can express.
            None => self.start.checked_sub(self.before - at).unwrap_or(self.start),
        }
    }
}

/// A thread's own time, for its deadlines. It stands still while the thread is held up, because no timeout
/// may run out while nobody can look.
#[derive(Debug, Default)]
pub(crate) struct OwnTime {
    /// The clock's time at the last look.
    real: Duration,
    /// The part of it that does not count.
    lost: Duration,
}

impl OwnTime {
    /// Own time that equals the clock's time now.
    pub(crate) fn at(real: Duration) -> Self {
        Self { real, lost: Duration::ZERO }
    }

    /// The thread's own time when the clock shows `real`.
    pub(crate) fn reading(&self, real: Duration) -> Duration {
        real.saturating_sub(self.lost)
    }

    /// The own time after a wait that was to take at most `asked` (`None`: without limit) and ended when the
    /// clock shows `real`.
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

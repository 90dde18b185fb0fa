//! The time that the table is told.
//!
//! Knows: when the instance started. Never: who asks.

use std::time::{Duration, Instant};

/// Time since the start of the instance. Every copy tells the same.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Starts at 0.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Since the start.
    pub fn now(self) -> Duration {
        self.0.elapsed()
    }

    /// As an instant of the system's clock.
    pub(crate) fn instant(self, at: Duration) -> Instant {
        self.0 + at
    }
}

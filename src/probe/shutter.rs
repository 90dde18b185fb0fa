//! Whether a service's listeners refuse connects, and when a failed change is tried again.
//!
//! Knows: what is wanted and what was done. Never: listeners, channels, the clock.

use std::time::Duration;

/// After how long a failed change is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The state of a service's listeners.
#[derive(Debug, Default)]
pub(super) struct Shutter {
    /// Connects are refused now.
    is_shut: bool,
    /// When a failed change is tried again. `None`: none has failed.
    pub(super) retry_at: Option<Duration>,
}

impl Shutter {
    pub(super) fn is_shut(&self) -> bool {
        self.is_shut
    }

    /// Do the listeners have to be changed now, to refuse if `shut`?
    pub(super) fn is_due(&mut self, shut: bool, now: Duration) -> bool {
        if shut == self.is_shut {
            // The change that failed before is no longer wanted.
            self.retry_at = None;
            return false;
        }
        self.retry_at.is_none_or(|at| at <= now)
    }

    pub(super) fn moved(&mut self, shut: bool) {
        (self.is_shut, self.retry_at) = (shut, None);
    }

    pub(super) fn stuck(&mut self, now: Duration) {
        self.retry_at = Some(now + RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_that_is_stuck_is_tried_again_only_while_that_is_wanted() {
        let second = Duration::from_secs;
        let mut shutter = Shutter::default();
        assert!(!shutter.is_due(false, second(0)), "it is open");
        assert!(shutter.is_due(true, second(0)));
        shutter.stuck(second(0));
        assert!(!shutter.is_due(true, second(0)));
        assert!(shutter.is_due(true, second(1)));
        shutter.stuck(second(1));
        assert!(!shutter.is_due(false, second(1)));
        assert_eq!(shutter.retry_at, None, "nothing is left to wake for");
        assert!(shutter.is_due(true, second(1)));
        shutter.moved(true);
        assert!(!shutter.is_due(true, second(9)) && shutter.is_due(false, second(9)));
    }
}

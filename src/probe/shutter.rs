//! Whether a service's listeners refuse, and when one that could not be moved is tried again.
//!
//! Knows: what is wanted and what was done. Never: listeners, channels, the clock.

use std::time::Duration;

/// A shutter that could not be moved is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// What has become of a service's listeners.
#[derive(Debug, Default)]
pub(super) struct Shutter {
    /// Connects are refused just now.
    is_shut: bool,
    /// When one that could not be moved is tried again.
    pub(super) retry_at: Option<Duration>,
}

impl Shutter {
    pub(super) fn is_shut(&self) -> bool {
        self.is_shut
    }

    /// Is it to be moved now, to be shut or not?
    pub(super) fn is_due(&mut self, shut: bool, now: Duration) -> bool {
        if shut == self.is_shut {
            // Whatever could not be done before is not wanted any more.
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

//! Counts waits that were interrupted by signals.
//!
//! Knows: how many there were in a row. Never: what is waited for, which signals came.

use std::time::Duration;

/// More interrupted waits in a row than this are no accident ...
const INTERRUPTIONS: u32 = 16;
/// ... and each further one sleeps this long, so that a flood of signals does not keep a core busy.
const GIVING_WAY: Duration = Duration::from_millis(5);

/// How many waits in a row were interrupted.
#[derive(Debug, Default)]
pub(super) struct Interruptions(u32);

impl Interruptions {
    /// Notes an interrupted wait.
    pub(super) fn another(&mut self) {
        self.0 = self.0.saturating_add(1);
        if self.0 > INTERRUPTIONS {
            std::thread::sleep(GIVING_WAY);
        }
    }

    /// Notes a wait that was not interrupted.
    pub(super) fn over(&mut self) {
        self.0 = 0;
    }
}

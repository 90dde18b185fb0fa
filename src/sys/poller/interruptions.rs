//! Waits that signals interrupt.
//!
//! Knows: how many there were in a row. Never: what is waited for, which signals came.

use std::time::Duration;

/// So many interrupted waits in a row are no accident, ...
const INTERRUPTIONS: u32 = 16;
/// ... and the next ones give way for so long, so that signals that come all the time do not keep a core busy.
const GIVING_WAY: Duration = Duration::from_millis(5);

/// Waits that signals interrupted, in a row.
#[derive(Debug, Default)]
pub(super) struct Interruptions(u32);

impl Interruptions {
    /// A wait was interrupted.
    pub(super) fn another(&mut self) {
        self.0 = self.0.saturating_add(1);
        if self.0 > INTERRUPTIONS {
            std::thread::sleep(GIVING_WAY);
        }
    }

    /// A wait was not.
    pub(super) fn over(&mut self) {
        self.0 = 0;
    }
}

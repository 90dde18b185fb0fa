//! Reads all channels of a table without holding up clients.
//!
//! Knows: the table's lock, how long to leave it alone between two pieces. Never: what a channel means.

use std::thread;
use std::time::Duration;

use crate::sched::{SharedTable, Snapshot, Survey};
use crate::sys::Clock;

/// Between two pieces, for clients that want the table's lock.
const LET_IN: Duration = Duration::from_micros(100);

/// All channels of a table, read piece by piece so that clients do not wait long.
pub(super) fn survey(table: &SharedTable, clock: Clock) -> Snapshot {
    let mut survey = Survey::default();
    while table.lock_at(clock.now()).survey(&mut survey) {
        thread::sleep(LET_IN);
    }
    survey.finish()
}

//! One service whose channels' names are looked up again.
//!
//! Knows: its table, how often, how to reach the data plane. Never: other services, when a name is due.

use crate::spec::Address;
use std::fmt;
use std::time::Duration;

use crate::observe::Log;
use crate::sched::{ChannelKey, GroupRange, SharedTable};

/// Closes the connections of a channel to these addresses, sooner or later.
type Kick = Box<dyn Fn(ChannelKey, Vec<Address>) + Send>;

/// What the thread has of a service.
pub struct Resident {
    /// Its one table.
    pub table: SharedTable,
    /// Where its events go.
    pub log: Log,
    /// How often its names are looked up; `None`: never by themselves.
    pub every: Option<Duration>,
    /// The groups that clients of one kind have; empty: all have all.
    pub ranges: Vec<GroupRange>,
    /// What becomes of connections to an address that left; `None`: they live on.
    pub kick: Option<Kick>,
    /// Called when its table has changed: clients may have got a channel, and probes may be due.
    pub changed: Box<dyn Fn() + Send>,
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resident").field("every", &self.every).finish_non_exhaustive()
    }
}

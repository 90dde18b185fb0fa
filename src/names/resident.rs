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

/// What the resolver thread knows about a service.
pub struct Resident {
    /// The table of the service.
    pub table: SharedTable,
    /// Where events are logged.
    pub log: Log,
    /// How often its names are looked up. `None`: only on request.
    pub every: Option<Duration>,
    /// The ranges of groups that sections of the service use. Empty: all clients may use all groups.
    pub ranges: Vec<GroupRange>,
    /// Closes connections to an address that was removed. `None`: they stay open.
    pub kick: Option<Kick>,
    /// Called after the table has changed: waiting clients may have a channel now, and probes may be due.
    pub changed: Box<dyn Fn() + Send>,
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resident").field("every", &self.every).finish_non_exhaustive()
    }
}

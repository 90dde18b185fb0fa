//! All groups, and the only place that changes them.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{AdminState, Addresses, ChannelId, ChannelKey, ClientAddr, GroupId, Lease, Policy, Route};

/// What holds for the whole instance.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// `-H`: a hash group fails over inside the group too.
    pub hash_failover: bool,
    /// `-a`: a channel whose connect fails is disabled.
    pub autodisable: bool,
    /// How many workers count bytes; each gets its own cache line per channel. At least 1.
    pub shards: usize,
}

/// Why a client gets no channel (the most telling reason met on its walk).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoChannel {
    /// There is no channel at all.
    Empty,
    /// Channels exist, none is enabled.
    Disabled,
    /// Enabled channels exist, all are at their maxc.
    Full,
    /// Every usable channel was tried and failed.
    Failed,
}

/// Whose fault a failed dial was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialFailure {
    /// The channel's: refused, timed out, unreachable.
    Channel,
    /// Ours: no descriptors, no source port, `-B` not bindable. Never autodisables.
    Local,
}

/// What a failure changed, to be told to the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// `-a` disabled this channel just now.
    Autodisabled(ChannelKey, SocketAddr),
}

/// Why an edit was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditError {
    /// The group has no such channel.
    UnknownChannel,
    /// All channel numbers of the group are taken.
    NoSlot,
    /// Only a disabled channel takes a new address.
    NotDisabled,
}

/// One channel as it was when the snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelSnapshot {
    /// Its number in its group.
    pub id: ChannelId,
    /// Its addresses.
    pub addresses: Addresses,
    /// What the operator decided.
    pub state: AdminState,
    /// Limit of simultaneous connections, `None` = no limit.
    pub maxc: Option<NonZeroU32>,
    /// Connections now, dialling ones included.
    pub active: u32,
    /// Connections handed to it, failed attempts too.
    pub totalc: u64,
    /// Failed attempts.
    pub failed: u64,
    /// Bytes client -> channel.
    pub sent_bytes: u64,
    /// Bytes channel -> client.
    pub rcvd_bytes: u64,
}

/// One group as it was when the snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSnapshot {
    /// Its number.
    pub id: GroupId,
    /// Its policy.
    pub policy: Policy,
    /// Its channels in order of their numbers.
    pub channels: Vec<ChannelSnapshot>,
}

/// The whole table at one instant, in order of group numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The groups that were ever touched.
    pub groups: Vec<GroupSnapshot>,
}

/// All groups and channels. `&mut self` throughout, so that rules are tested without threads; the running program shares
/// it as [`SharedTable`].
#[derive(Debug)]
pub struct Table {
    _todo: (),
}

#[allow(unused_variables)]
impl Table {
    /// An empty table.
    pub fn new(rules: Rules) -> Self {
        unimplemented!()
    }
    /// Adds a channel at the end of a group (which comes into being with it).
    pub fn create(&mut self, group: GroupId, addresses: Addresses, maxc: Option<NonZeroU32>, state: AdminState) -> Result<ChannelId, EditError> {
        unimplemented!()
    }
    /// Gives a disabled channel new addresses.
    pub fn assign(&mut self, key: ChannelKey, addresses: Addresses) -> Result<(), EditError> {
        unimplemented!()
    }
    /// Sets the admin state; answers the state before.
    pub fn set_state(&mut self, key: ChannelKey, state: AdminState) -> Result<AdminState, EditError> {
        unimplemented!()
    }
    /// Sets a group's policy (the group comes into being with it).
    pub fn set_policy(&mut self, group: GroupId, policy: Policy) {
        unimplemented!()
    }
    /// Sets the limit of a channel. Connections above a lowered limit live on.
    pub fn set_maxc(&mut self, key: ChannelKey, maxc: Option<NonZeroU32>) -> Result<(), EditError> {
        unimplemented!()
    }
    /// Zeroes sent, rcvd, totalc and failed of a channel.
    pub fn reset_counters(&mut self, key: ChannelKey) -> Result<(), EditError> {
        unimplemented!()
    }
    /// Was the group ever touched (a channel created, a policy set)?
    pub fn has_group(&self, group: GroupId) -> bool {
        unimplemented!()
    }
    /// One channel as it is now.
    pub fn channel(&self, key: ChannelKey) -> Option<ChannelSnapshot> {
        unimplemented!()
    }
    /// Everything as it is now.
    pub fn snapshot(&self) -> Snapshot {
        unimplemented!()
    }
    /// Connections of all channels now.
    pub fn active(&self) -> u64 {
        unimplemented!()
    }

    /// Starts a client's walk at group 0.
    pub fn begin(&self, client: ClientAddr) -> Route {
        unimplemented!()
    }
    /// The next channel of the walk, its slot taken and counted.
    pub fn next(&mut self, route: &mut Route) -> Result<Lease, NoChannel> {
        unimplemented!()
    }
    /// The dial failed: frees the slot, counts the failure, autodisables if `-a` and the fault is the channel's.
    pub fn failed(&mut self, lease: Lease, why: DialFailure) -> Option<Transition> {
        unimplemented!()
    }
    /// The dial succeeded.
    pub fn connected(&mut self, route: Route, lease: &Lease) {
        unimplemented!()
    }
}

/// The one table of an instance. Locked for one call at a time, never across a system call.
#[derive(Debug, Clone)]
pub struct SharedTable(Arc<Mutex<Table>>);

impl SharedTable {
    /// Shares a table.
    pub fn new(table: Table) -> Self {
        Self(Arc::new(Mutex::new(table)))
    }
    /// Locks it. A panic while it was locked does not take the instance down: the table is used as it was left.
    pub fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

//! One channel: its addresses, admin state, limit and counters, and the lease of one slot.
//!
//! Knows: that a `Lease` gives its slot back when dropped. Never: groups, sockets, text, time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Groups are numbered 0..MAX_GROUPS.
pub const MAX_GROUPS: usize = 65_535;
/// Channels of one group are numbered 0..MAX_CHANNELS.
pub const MAX_CHANNELS: usize = 65_535;

/// The number of a group, below [`MAX_GROUPS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(u16);

impl GroupId {
    /// The group that is tried first.
    pub const FIRST: Self = Self(0);
    /// `None` if `n` is not below [`MAX_GROUPS`].
    pub fn new(n: usize) -> Option<Self> {
        if n < MAX_GROUPS { u16::try_from(n).ok().map(Self) } else { None }
    }
    /// The number itself.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The number of a channel inside its group, below [`MAX_CHANNELS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(u16);

impl ChannelId {
    /// `None` if `n` is not below [`MAX_CHANNELS`].
    pub fn new(n: usize) -> Option<Self> {
        if n < MAX_CHANNELS { u16::try_from(n).ok().map(Self) } else { None }
    }
    /// The number itself.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Which channel of which group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelKey {
    /// Its group.
    pub group: GroupId,
    /// Its number in the group.
    pub channel: ChannelId,
}

/// A client's address as hashing sees it: no port, and `::ffff:a.b.c.d` is the same client as `a.b.c.d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddr(IpAddr);

impl From<IpAddr> for ClientAddr {
    fn from(ip: IpAddr) -> Self {
        Self(ip.to_canonical())
    }
}

/// The addresses of one channel, in the resolver's order; never empty. A dial tries each before the channel counts as failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses(Arc<[SocketAddr]>);

impl Addresses {
    /// `None` if the list is empty.
    pub fn new(list: Vec<SocketAddr>) -> Option<Self> {
        if list.is_empty() { None } else { Some(Self(list.into())) }
    }
    /// The address that `show` prints.
    pub fn first(&self) -> SocketAddr {
        self.0[0]
    }
    /// All of them, in order.
    pub fn as_slice(&self) -> &[SocketAddr] {
        &self.0
    }
}

impl From<SocketAddr> for Addresses {
    fn from(address: SocketAddr) -> Self {
        Self([address].into())
    }
}

/// What the operator decided about a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminState {
    /// Takes connections. `ENA`.
    Enabled,
    /// Takes no new connections, existing ones live on. `dis`.
    Disabled,
    /// Takes no new connections and existing ones were closed. `DIS`.
    DisabledHard,
}

/// One occupied slot of a channel. Dropping it is the only way the channel's connection count goes down.
#[derive(Debug)]
pub struct Lease {
    // helper: design this; keep it small (<= 48 bytes), there is one per connection.
    _todo: (),
}

impl Lease {
    /// Which channel the slot belongs to.
    pub fn key(&self) -> ChannelKey {
        unimplemented!()
    }
    /// The addresses to try, as they were when the lease was taken.
    pub fn addresses(&self) -> &Addresses {
        unimplemented!()
    }
    /// Counts bytes moved client -> channel. `shard` is the caller's worker number (taken modulo the shards of the table).
    pub fn add_sent(&self, _shard: usize, _bytes: u64) {
        unimplemented!()
    }
    /// Counts bytes moved channel -> client.
    pub fn add_rcvd(&self, _shard: usize, _bytes: u64) {
        unimplemented!()
    }
}

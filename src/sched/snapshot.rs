//! The table as it was at one instant, for those who tell about it.
//!
//! Knows: plain values. Never: the live table.

use std::num::NonZeroU32;

use super::{Addresses, AdminState, ChannelId, GroupId, Policy};

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

//! One group as it was configured.
//!
//! Knows: which channel has which number. Never: how a policy chooses.

use super::{ChannelSpec, FamilyKind, Policy};

/// One group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSpec {
    /// How the group distributes clients.
    pub policy: Policy,
    /// The channels and gaps in the order of their numbers; never empty.
    pub members: Vec<Member>,
}

/// What a number in a group stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// A channel.
    Channel(ChannelSpec),
    /// No channel, as after a channel was removed. The number stays reserved.
    Gap,
}

/// How many group numbers a service name (SRV) reserves. Its channels use the groups from the one with its
/// word up to the next multiple of this number, one group for each priority of its records.
pub const TIERS: usize = 100;

/// The last group that channels of a service name (SRV) in `group` can be in.
pub const fn last_tier(group: usize) -> usize {
    group / TIERS * TIERS + TIERS - 1
}

impl GroupSpec {
    /// Does the group contain a service name (SRV), whose channels may also be in later groups?
    pub fn has_tiers(&self) -> bool {
        let is_service = |member: &Member| {
            matches!(member, Member::Channel(ChannelSpec { family: Some(FamilyKind::Service), .. }))
        };
        self.members.iter().any(is_service)
    }
}

/// Tells for each group whether it is reserved for a service name (SRV) in an earlier group, so that it
/// cannot have words of its own.
pub fn reserved_groups(groups: &[GroupSpec]) -> Vec<bool> {
    let mut until = 0;
    let is_reserved = |(index, group): (usize, &GroupSpec)| {
        let is_reserved = index < until;
        if group.has_tiers() {
            until = last_tier(index) + 1;
        }
        is_reserved
    };
    groups.iter().enumerate().map(is_reserved).collect()
}

//! One group as it was asked for.
//!
//! Knows: what its numbers stand for. Never: how a policy chooses.

use super::{ChannelSpec, FamilyKind, Policy};

/// One group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSpec {
    /// How it distributes clients.
    pub policy: Policy,
    /// Its channels and gaps in order of their numbers; never empty.
    pub members: Vec<Member>,
}

/// What a number of a group stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// A channel.
    Channel(ChannelSpec),
    /// Nothing, as after a channel was removed. The number is taken all the same.
    Gap,
}

/// Where the numbers of groups are divided: a service whose name is looked up has those of its part from its own on, one for each priority of
/// its records.
pub const TIERS: usize = 100;

/// The last group that the channels of a service can be in whose word is in this group.
pub const fn last_tier(group: usize) -> usize {
    group / TIERS * TIERS + TIERS - 1
}

impl GroupSpec {
    /// Is there a word in it whose channels are in groups behind it?
    pub fn has_tiers(&self) -> bool {
        let is_service = |member: &Member| {
            matches!(member, Member::Channel(ChannelSpec { family: Some(FamilyKind::Service), .. }))
        };
        self.members.iter().any(is_service)
    }
}

/// Which of these groups no word can be in, since they are those of a service before them.
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

//! What a word and the records of its name say: which channels should be there, in which groups, with which
//! weights.
//!
//! Knows: the order of members, priorities, how weights of records become ours. Never: which channels
//! exist, what operators decided.
//! Source: docs/names.md.

use std::num::NonZeroU32;

use crate::sched::addresses::FoundMember;
use crate::sched::channel::Channel;
use crate::sched::{AdminState, GroupId, Weight};
use crate::spec::{ChannelManner, FamilyKind, last_tier};

/// What a word says about each of its channels.
pub(super) struct Template {
    pub(super) kind: FamilyKind,
    pub(super) state: AdminState,
    pub(super) maxc: Option<NonZeroU32>,
    pub(super) weight: Weight,
    pub(super) manner: ChannelManner,
    pub(super) paused: bool,
    pub(super) lazy: bool,
}

impl Template {
    pub(super) fn of(head: &Channel) -> Option<Self> {
        Some(Self {
            kind: head.addresses.family()?,
            state: head.state,
            maxc: head.maxc,
            weight: head.weight,
            manner: head.manner.clone(),
            paused: head.paused,
            lazy: head.addresses.is_lazy(),
        })
    }
}

/// A member as it should be.
pub(super) struct WantedMember<'a> {
    pub(super) found: &'a FoundMember,
    pub(super) group: GroupId,
    pub(super) weight: Weight,
}

/// The group and weight of each member, in the order in which they get numbers.
pub(super) fn placed<'a>(
    template: &Template,
    first: GroupId,
    members: &'a [FoundMember],
) -> Vec<WantedMember<'a>> {
    let mut members: Vec<&FoundMember> = members.iter().collect();
    if template.kind == FamilyKind::Each {
        // So that the same members get the same numbers, whatever order the answer has.
        members.sort_by_key(|member| member.addresses.first().copied());
        return members
            .into_iter()
            .map(|found| WantedMember { found, group: first, weight: template.weight })
            .collect();
    }
    members.sort_by(|one, other| {
        let by = |one: &FoundMember| (one.priority, std::cmp::Reverse(one.weight));
        (by(one), &one.host, one.port).cmp(&(by(other), &other.host, other.port))
    });
    let mut wanted = Vec::new();
    for (tier, members) in members.chunk_by(|one, other| one.priority == other.priority).enumerate() {
        let weights = member_weights(&members.iter().map(|one| one.weight).collect::<Vec<_>>());
        let group = GroupId::new((first.index() + tier).min(last_tier(first.index()))).unwrap_or(first);
        wanted.extend(members.iter().zip(weights).map(|(&found, weight)| WantedMember {
            found,
            group,
            weight,
        }));
    }
    wanted
}

/// The weights of SRV records of one priority, with the same ratios. If all records have 0, the weights are
/// equal. Beside others, 0 becomes the smallest weight, as RFC 2782 wants it, and so does every result that
/// would be smaller.
pub(super) fn member_weights(records: &[u16]) -> Vec<Weight> {
    let most = u32::from(records.iter().copied().max().unwrap_or(0));
    let has_none = records.contains(&0);
    let weight = |&record: &u16| {
        let record = u32::from(record);
        let scaled = match most {
            0 => 1,
            // Unchanged.
            most if most <= Weight::MAX && !has_none => record,
            most => (record * Weight::MAX + most / 2) / most,
        };
        Weight::new(scaled.clamp(1, Weight::MAX)).unwrap_or(Weight::ONE)
    };
    records.iter().map(weight).collect()
}

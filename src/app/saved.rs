//! Turns the channels of a running instance, and the permissions of its socket, back into the words of a
//! command line.
//!
//! Knows: snapshots and declarations. Never: other options, how a line is written.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use crate::control;
use crate::sched::{ChannelSnapshot, GroupSnapshot, Snapshot};
use crate::spec::{
    ChannelSpec, GroupSpec, Member, Named, Policy, PortWord, Section, ServiceSpec, SocketAccess, Typed,
    reserved_groups,
};

/// The groups in order of their numbers. Numbers without a channel become gaps, so that the other channels
/// keep theirs. Empty groups at the end are left out if they have the policy of later groups (`later`) and
/// are not needed for `sections`.
pub(super) fn groups(now: &Snapshot, later: Policy, sections: &[Section]) -> Vec<GroupSpec> {
    let counts = |group: &&GroupSnapshot| group.numbers > 0 || group.policy != later;
    let last = now.groups.iter().filter(counts).map(|group| group.id.index()).max();
    // Groups with names in front stay, even without channels.
    let last = last.max(sections.last().map(|section| section.group));
    let of: BTreeMap<_, _> = now.groups.iter().map(|group| (group.id.index(), group)).collect();
    let decl = |number| of.get(&number).map_or_else(|| empty(later), |&one| group(one));
    let mut groups: Vec<GroupSpec> = last.map_or_else(Vec::new, |last| (0..=last).map(decl).collect());
    // Groups that an SRV name uses for its priorities have no words of their own.
    for (index, is_reserved) in reserved_groups(&groups).into_iter().enumerate() {
        if is_reserved {
            groups[index].members.clear();
            groups[index].policy = groups[index - 1].policy;
        }
    }
    if let Some(last) = groups.iter().rposition(|group| !group.members.is_empty()) {
        let stays = sections.last().map_or(0, |section| section.group);
        if reserved_groups(&groups).last() == Some(&true) {
            groups.truncate(last.max(stays) + 1);
        }
    }
    groups
}

/// With the permissions that the Unix socket has, where the line says others: those may not have been to be had. `now`: what is known of them.
pub(super) fn with_access(spec: ServiceSpec, now: Option<SocketAccess>) -> ServiceSpec {
    let group = spec.socket_group.as_ref().map(|named| control::group_number(&named.name));
    let wanted = SocketAccess { mode: spec.socket_mode, group: group.flatten() };
    let Some(now) = now.filter(|_| spec.socket_mode.is_some() || group.is_some()) else { return spec };
    let is_other_mode = now.mode != spec.socket_mode.or(group.map(|_| SocketAccess::OF_GROUP));
    let is_other_group = group.is_some() && (wanted.group.is_none() || now.group != wanted.group);
    let name = now.group.filter(|_| is_other_group).map(control::group_name);
    ServiceSpec {
        socket_mode: if is_other_mode { now.mode } else { spec.socket_mode },
        socket_group: name.map(|name| Named::from(&*name)).or(spec.socket_group),
        ..spec
    }
}

fn group(group: &GroupSnapshot) -> GroupSpec {
    if group.numbers == 0 {
        return empty(group.policy);
    }
    // A channel that goes with its last connection is left out.
    let own = group.channels.iter().filter(|channel| channel.member_of.is_none() && !channel.retires);
    let all = own.chain(group.families.iter().map(|family| &family.head));
    let of: BTreeMap<_, _> = all.map(|channel| (channel.id.index(), channel)).collect();
    let member = |number| of.get(&number).map_or(Member::Gap, |&channel| Member::Channel(target(channel)));
    let mut members: Vec<Member> = (0..group.numbers).map(member).collect();
    // Channels of a name for several get new numbers whenever the line is read.
    if !group.families.is_empty() {
        while members.len() > 1 && members.last() == Some(&Member::Gap) {
            members.pop();
        }
    }
    GroupSpec { policy: group.policy, members }
}

/// A group must have at least one word, so an empty one has a gap.
fn empty(policy: Policy) -> GroupSpec {
    GroupSpec { policy, members: vec![Member::Gap] }
}

fn target(channel: &ChannelSnapshot) -> ChannelSpec {
    let first = channel.addresses.first();
    let host = channel.addresses.host().map_or_else(|| first.host(), str::to_owned);
    // 0 means the port that a client came to.
    let port = NonZeroU16::new(channel.addresses.port()).map(PortWord::Number);
    ChannelSpec {
        typed: Typed::default(),
        host,
        lazy: channel.addresses.is_lazy(),
        family: channel.addresses.family(),
        port,
        maxc: channel.maxc,
        weight: channel.weight,
        state: channel.state,
        manner: channel.manner.clone(),
    }
}

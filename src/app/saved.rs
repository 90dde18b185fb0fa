//! The channels of a running instance as a command line would have them.
//!
//! Knows: snapshots and declarations. Never: options, how a line is written.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use crate::sched::{ChannelSnapshot, GroupSnapshot, Snapshot};
use crate::spec::{ChannelSpec, GroupSpec, Member, Policy, PortWord, Section, Typed};

/// The groups in order of their numbers. A group or channel number without a channel is a gap, so that the others keep
/// theirs; empty groups at the end that are as any other would be (`later` is their policy) are left out, but for those of `sections`.
pub(super) fn groups(now: &Snapshot, later: Policy, sections: &[Section]) -> Vec<GroupSpec> {
    let counts = |group: &&GroupSnapshot| group.numbers > 0 || group.policy != later;
    let last = now.groups.iter().filter(counts).map(|group| group.id.index()).max();
    // Those that names stand in front of stay, whatever has become of their channels.
    let last = last.max(sections.last().map(|section| section.group));
    let of: BTreeMap<_, _> = now.groups.iter().map(|group| (group.id.index(), group)).collect();
    let decl = |number| of.get(&number).map_or_else(|| empty(later), |&one| group(one));
    last.map_or_else(Vec::new, |last| (0..=last).map(decl).collect())
}

fn group(group: &GroupSnapshot) -> GroupSpec {
    if group.numbers == 0 {
        return empty(group.policy);
    }
    let of: BTreeMap<_, _> = group.channels.iter().map(|channel| (channel.id.index(), channel)).collect();
    let member = |number| of.get(&number).map_or(Member::Gap, |&channel| Member::Channel(target(channel)));
    GroupSpec { policy: group.policy, members: (0..group.numbers).map(member).collect() }
}

/// A group cannot be without a word.
fn empty(policy: Policy) -> GroupSpec {
    GroupSpec { policy, members: vec![Member::Gap] }
}

fn target(channel: &ChannelSnapshot) -> ChannelSpec {
    let first = channel.addresses.first();
    let host = channel.addresses.host().map_or_else(|| first.ip().to_string(), str::to_owned);
    // Port 0 cannot be connected to, so nobody has it; if it were there, the default port would be as wrong.
    let port = NonZeroU16::new(channel.addresses.port()).map(PortWord::Number);
    ChannelSpec {
        typed: Typed::default(),
        host,
        lazy: channel.addresses.is_lazy(),
        port,
        maxc: channel.maxc,
        weight: channel.weight,
        state: channel.state,
        manner: channel.manner.clone(),
    }
}

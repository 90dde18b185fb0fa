//! Which channels belong to which word.
//!
//! Knows: a word's channels, the word of a channel, what a member is called. Never: what changes a set,
//! what operators decided.
//! Source: docs/names.md.

use std::collections::BTreeSet;

use super::wanted::{Template, placed};
use crate::sched::addresses::FoundMember;
use crate::sched::channel::Channel;
use crate::sched::membership::{MemberName, WordHead};
use crate::sched::{Addresses, ChannelKey, GroupId, Table};
use crate::spec::FamilyKind;

impl Table {
    /// The channels that a word stands for; empty for an ordinary channel.
    pub(in crate::sched) fn members(&self, key: ChannelKey) -> Vec<ChannelKey> {
        let head = self.get(key).and_then(|channel| channel.head.as_ref());
        head.map_or_else(Vec::new, |head| head.members.iter().copied().collect())
    }

    /// Does this number stand for a set of channels?
    pub fn is_head(&self, key: ChannelKey) -> bool {
        self.get(key).is_some_and(|channel| channel.head.is_some())
    }

    /// Is it a word whose channels get their weights from SRV records?
    pub fn weighs_by_records(&self, key: ChannelKey) -> bool {
        let is_service = |one: &Channel| one.addresses.family() == Some(FamilyKind::Service);
        self.get(key).is_some_and(|one| one.head.is_some() && is_service(one))
    }

    /// The channels that clients of this number may get: itself, or its set.
    pub fn ones(&self, key: ChannelKey) -> Vec<ChannelKey> {
        if self.is_head(key) { self.members(key) } else { vec![key] }
    }

    /// The word that a channel belongs to. `None`: it has a word of its own.
    pub fn head_of(&self, key: ChannelKey) -> Option<ChannelKey> {
        self.get(key)?.member.as_ref().map(|member| member.head)
    }

    /// These channels, together with the sets of those that stand for one.
    pub(in crate::sched) fn of_the_same(&self, keys: &[ChannelKey]) -> BTreeSet<ChannelKey> {
        keys.iter().flat_map(|&key| [self.ones(key), vec![key]].concat()).collect()
    }

    /// Connects words with their channels after a table was restored from a record.
    pub(in crate::sched) fn find_members(&mut self) {
        let all = self.groups.values().flat_map(|group| group.channels());
        let members: Vec<(ChannelKey, ChannelKey)> = all
            .filter(|channel| !channel.removed && !channel.retires)
            .filter_map(|channel| Some((channel.slots.key(), channel.member.as_ref()?.head)))
            .collect();
        for (one, head) in members {
            match self.head_mut(head) {
                Some(head) => _ = head.members.insert(one),
                // Nothing else decides about it from now on.
                None => _ = self.edit(one, |channel| channel.member = None),
            }
        }
        let all = self.groups.values().flat_map(|group| group.channels());
        let heads: Vec<ChannelKey> =
            all.filter(|one| one.head.is_some() && !one.removed).map(|one| one.slots.key()).collect();
        for key in heads {
            let leaving = self.left_of(key);
            self.awaits_another |= !leaving.is_empty();
            if let Some(head) = self.head_mut(key) {
                head.leaving = leaving;
            }
        }
    }

    /// The channels of a word that its name no longer has.
    fn left_of(&self, key: ChannelKey) -> BTreeSet<ChannelKey> {
        let head = self.get(key).and_then(|head| Some((Template::of(head)?, head.addresses.members()?)));
        let Some((template, members)) = head else { return BTreeSet::new() };
        let wanted = placed(&template, key.group, members).into_iter();
        let wanted: BTreeSet<(GroupId, &str, u16)> =
            wanted.map(|one| (one.group, &*one.found.host, one.found.port)).collect();
        let is_left = |one: &ChannelKey| {
            self.get(*one)
                .map(name_of)
                .is_some_and(|(host, port)| !wanted.contains(&(one.group, &*host, port)))
        };
        self.members(key).into_iter().filter(is_left).collect()
    }

    /// Detaches a channel from its word.
    pub(in crate::sched) fn leave_family(&mut self, one: ChannelKey) {
        let Some(member) = self.get(one).and_then(|channel| channel.member.as_deref().copied()) else {
            return;
        };
        let _ = self.edit(one, |channel| channel.member = None);
        if let Some(head) = self.head_mut(member.head) {
            head.members.remove(&one);
            head.leaving.remove(&one);
        }
    }

    pub(super) fn head_mut(&mut self, key: ChannelKey) -> Option<&mut WordHead> {
        let group = self.groups.get_mut(&key.group)?;
        group.channels.get_mut(key.channel.index())?.head.as_deref_mut()
    }
}

pub(super) fn name_of(channel: &Channel) -> MemberName {
    let host = channel.addresses.host().map_or_else(
        || channel.addresses.first().net().map_or_else(String::new, |at| FoundMember::of(at).host),
        str::to_owned,
    );
    (host, channel.addresses.port())
}

pub(super) fn label((host, port): &MemberName) -> String {
    Addresses::unknown(host, *port).words()
}

//! What those in line have to hear of: what changed since they were served last.
//!
//! Knows: news of groups, who in line is the first for a channel. Never: who gets a slot.

use std::collections::BTreeSet;

use super::group::Group;
use super::line::Line;
use super::news::News;
use super::{ChannelKey, GroupId, Policy, Rules, Ticket};

/// What changed since the line was served.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Channels that have room now.
    pub(super) ready: BTreeSet<ChannelKey>,
    /// Somebody in line may have lost the last channel to wait for, or may have one that is not up.
    pub(super) second: bool,
    /// Somebody is only kept from channels that are not up by one that is up and has room, though not for him.
    pub(super) kept: bool,
    /// `Line::settle` is due.
    pub(super) moved: bool,
    /// How often somebody in line was asked so far.
    #[cfg(test)]
    pub(super) asked: usize,
}

impl Changes {
    /// Takes in what changed in a group.
    pub(super) fn hear(&mut self, id: GroupId, group: &mut Group, line: &mut Line, rules: &Rules) {
        if group.news.are_none() {
            return;
        }
        let mut news = std::mem::take(&mut group.news);
        if !line.is_empty() {
            self.take_in(&news, id, group, line, rules);
        }
        news.clear();
        group.news = news;
    }

    fn take_in(&mut self, news: &News, id: GroupId, group: &Group, line: &mut Line, rules: &Rules) {
        let key = |&number: &u16| ChannelKey::of(id, usize::from(number));
        let is_home = is_one_each(group, rules);
        self.ready.extend(news.ready.iter().filter_map(key));
        self.second |= news.fell || news.moved || (news.taken && self.kept);
        if news.moved {
            self.moved = true;
            self.ready.extend(group.ready().filter_map(|number| ChannelKey::of(id, number)));
        }
        // A channel that is not up matters only if it is of use to anybody.
        for spare in news.spare.iter().filter_map(key) {
            self.second = self.second || first_for(line, spare, is_home).is_some();
        }
    }
}

/// May a client have one channel of this group only?
pub(super) fn is_one_each(group: &Group, rules: &Rules) -> bool {
    group.policy() == Policy::Hash && !rules.hash_failover
}

/// The first in line who may have this channel, as far as the channel itself goes.
pub(super) fn first_for(line: &mut Line, channel: ChannelKey, is_home: bool) -> Option<Ticket> {
    if is_home { line.first_at_home(channel) } else { line.first_untried(channel) }
}

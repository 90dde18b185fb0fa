//! What waiting clients have to learn: the changes since they were last served.
//!
//! Knows: changes in groups, which waiting client is the first for a channel. Never: who gets a slot.

use std::collections::BTreeSet;

use super::group::Group;
use super::line::Line;
use super::news::News;
use super::{ChannelKey, GroupId, Policy, Rules, Ticket};

/// What changed since waiting clients were last served.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Channels that have room now.
    pub(super) ready: BTreeSet<ChannelKey>,
    /// A waiting client may have lost the last channel that it waits for, or may now have a channel that is
    /// not up.
    pub(super) second: bool,
    /// The only thing that keeps a waiting client from channels that are not up is a channel that is up and
    /// has room, but not for this client.
    pub(super) kept: bool,
    /// `Line::settle` is due.
    pub(super) moved: bool,
    /// How many times a waiting client's walk was tried so far.
    #[cfg(test)]
    pub(super) asked: usize,
}

impl Changes {
    /// Takes the changes of a group.
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
        // A channel that is not up matters only if some waiting client could use it.
        for spare in news.spare.iter().filter_map(key) {
            self.second = self.second || first_for(line, spare, is_home).is_some();
        }
    }
}

/// May a client use only one channel of this group?
pub(super) fn is_one_each(group: &Group, rules: &Rules) -> bool {
    group.policy() == Policy::Hash && !rules.hash_failover
}

/// The first waiting client that may use this channel, as far as the channel itself is concerned.
pub(super) fn first_for(line: &mut Line, channel: ChannelKey, is_home: bool) -> Option<Ticket> {
    if is_home { line.first_at_home(channel) } else { line.first_untried(channel) }
}

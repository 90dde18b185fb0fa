//! What operators decided about single channels of a word, and how it outlives them.
//!
//! Knows: state, limit, weight and removal of a member, whether it exists now or not. Never: which members
//! a name has.
//! Source: docs/names.md.

use super::kin::name_of;
use super::wanted::Template;
use crate::sched::membership::{MemberDecision, MemberName};
use crate::sched::{AdminState, ChannelKey, DecidedMember, Table};

impl Table {
    /// Remembers what an operator decided about a channel that is being removed.
    pub(super) fn remember(&mut self, head: ChannelKey, one: ChannelKey, template: &Template) {
        let Some(channel) = self.get(one) else { return };
        let state = if channel.autodisabled { template.state } else { channel.state };
        let said = channel.member.as_ref().map(|member| member.weight);
        let weight = (said != Some(channel.weight)).then_some(channel.weight);
        let decision = MemberDecision { state, maxc: channel.maxc, weight, removed: false };
        let name = name_of(channel);
        let is_decided = (state, decision.maxc) != (template.state, template.maxc) || weight.is_some();
        let Some(head) = self.head_mut(head) else { return };
        // Of one in another group it may be known that an operator has taken it away.
        let is_removed = head.decided.get(&name).is_some_and(|decision| decision.removed);
        match is_decided {
            _ if is_removed => {}
            true => _ = head.decided.insert(name, decision),
            false => _ = head.decided.remove(&name),
        }
    }

    /// A channel that was about to leave stays, and another one of its name leaves: what operators decided about
    /// that one is said of it.
    pub(super) fn follow(&mut self, one: ChannelKey, current: ChannelKey, template: &Template) {
        let Some(channel) = self.get(current) else { return };
        let state = if channel.autodisabled { template.state } else { channel.state };
        let (maxc, weight) = (channel.maxc, channel.weight);
        let weight = Some(weight).filter(|weight| self.said_of(current) != Some(*weight));
        // Both are there: they were just looked at.
        let _ = self.set_state(one, state);
        let _ = self.set_maxc(one, maxc);
        if let Some(weight) = weight.or_else(|| self.said_of(one)) {
            let _ = self.set_weight(one, weight);
        }
    }

    /// Remembers that an operator removed a channel that its name still has.
    pub(in crate::sched) fn remember_removal(&mut self, one: ChannelKey) {
        let Some(channel) = self.get(one) else { return };
        let Some(member) = channel.member.as_deref().copied() else { return };
        let name = name_of(channel);
        let weight = (member.weight != channel.weight).then_some(channel.weight);
        let decision =
            MemberDecision { state: AdminState::Enabled, maxc: channel.maxc, weight, removed: true };
        if let Some(head) = self.head_mut(member.head) {
            head.gone.insert((name.clone(), one.group), one);
            head.decided.insert(name, decision);
        }
    }

    /// An operator enables a member that was removed under this number. Returns its present number; `None` if
    /// there is no such member.
    pub fn bring_back(&mut self, key: ChannelKey) -> Option<ChannelKey> {
        let heads = self.groups.values().flat_map(|group| group.channels()).filter(|one| !one.removed);
        let (head, name) = heads
            .filter_map(|one| {
                let head = one.head.as_deref()?;
                let is_it = |name: &&MemberName| head.gone.get(&((*name).clone(), key.group)) == Some(&key);
                let removed = head.decided.iter().filter(|(_, decision)| decision.removed);
                Some((one.slots.key(), removed.map(|(name, _)| name).find(is_it)?.clone()))
            })
            .next()?;
        if let Some(decision) = self.head_mut(head).and_then(|head| head.decided.get_mut(&name)) {
            (decision.removed, decision.state) = (false, AdminState::Enabled);
        }
        self.spread(head);
        let leaving = self.head_mut(head).map(|head| head.leaving.clone()).unwrap_or_default();
        let is_it = |one: &ChannelKey| self.get(*one).map(name_of).as_ref() == Some(&name);
        self.members(head).into_iter().find(|one| is_it(one) && !leaving.contains(one))
    }

    /// An operator enables all removed channels of a word. `true` if some were removed, or if some existing
    /// ones are not enabled.
    pub fn bring_all_back(&mut self, key: ChannelKey) -> bool {
        let Some(head) = self.head_mut(key) else { return false };
        let before = head.decided.len();
        head.decided.retain(|_, decision| !decision.removed);
        if head.decided.len() < before {
            self.spread(key);
            return true;
        }
        self.members(key).into_iter().any(|one| self.get(one).is_some_and(|one| !one.is_enabled()))
    }

    /// Discards everything that was decided about single channels of a word. `false` if nothing was.
    pub fn undo_members(&mut self, key: ChannelKey) -> bool {
        let Some(template) = self.get(key).and_then(Template::of) else { return false };
        let mut has_changed = self.head_mut(key).is_some_and(|head| {
            let is_decided = !head.decided.is_empty();
            head.decided.clear();
            is_decided
        });
        for one in self.members(key) {
            let Some(channel) = self.get(one) else { continue };
            let (state, maxc, weight) = (channel.state, channel.maxc, channel.weight);
            let said = self.said_of(one).unwrap_or(weight);
            // These cannot fail, since the channels were just looked up.
            if state != template.state {
                let _ = self.set_state(one, template.state);
            }
            if maxc != template.maxc {
                let _ = self.set_maxc(one, template.maxc);
            }
            if weight != said {
                let _ = self.set_weight(one, said);
            }
            has_changed |= (state, maxc, weight) != (template.state, template.maxc, said);
        }
        self.spread(key);
        has_changed
    }

    /// Applies an earlier decision about a member of a word, whether the member exists now or not.
    pub fn decide_member(&mut self, key: ChannelKey, name: (String, u16), decision: &DecidedMember) {
        let decision = MemberDecision {
            state: decision.state,
            maxc: decision.maxc,
            weight: decision.weight,
            removed: decision.removed,
        };
        if let Some(head) = self.head_mut(key) {
            head.decided.insert(name, decision);
        }
    }
}

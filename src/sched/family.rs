//! Words that stand for sets of channels: which channels are added, kept and removed when the name's records
//! change.
//!
//! Knows: how a member is identified, that it keeps what operators decided about it, that the last channel is
//! never removed. Never: who asks a resolver, whether an answer is to be believed.
//! Source: docs/names.md.
//!
//! A word has a number of its own, like every word of its line, and gets no clients. Its channels get the
//! next free numbers when they are added. The channels of a service name are in as many groups as its records
//! have priorities, beginning with the word's own group.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU32;

use super::addresses::FoundMember;
use super::channel::Channel;
use super::membership::{MemberDecision, MemberName};
use super::naming::Naming;
use super::{Addresses, AdminState, ChannelKey, GroupId, Membership, Table, Weight};
use crate::spec::{Address, ChannelManner, FamilyKind, last_tier};

/// What changed in the set of channels that a word stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyMoved {
    /// The word.
    pub head: ChannelKey,
    /// All channels of the set now, as `host:port`.
    pub now: Vec<String>,
    /// The new ones among them.
    pub joined: Vec<String>,
    /// The channels that were removed, with their names and addresses.
    pub left: Vec<(ChannelKey, String, Vec<Address>)>,
    /// Whether a remaining channel is up again or has another weight.
    pub changed: bool,
    /// What else the records changed about remaining channels, as text.
    pub other: Vec<String>,
    /// Some channels could not be added because no number is left.
    pub is_short: bool,
}

/// What a word says about each of its channels.
struct Template {
    kind: FamilyKind,
    state: AdminState,
    maxc: Option<NonZeroU32>,
    weight: Weight,
    manner: ChannelManner,
    paused: bool,
    lazy: bool,
}

impl Template {
    fn of(head: &Channel) -> Option<Self> {
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
struct WantedMember<'a> {
    found: &'a FoundMember,
    group: GroupId,
    weight: Weight,
}

impl Table {
    /// The channels that a word stands for; empty for an ordinary channel.
    pub(super) fn members(&self, key: ChannelKey) -> Vec<ChannelKey> {
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
    pub(super) fn of_the_same(&self, keys: &[ChannelKey]) -> BTreeSet<ChannelKey> {
        keys.iter().flat_map(|&key| [self.ones(key), vec![key]].concat()).collect()
    }

    /// Creates the channels of all words whose members are known. For a table that was just filled.
    pub fn settle_families(&mut self) -> Vec<FamilyMoved> {
        let heads = self.groups.values().flat_map(|group| group.channels());
        let heads: Vec<ChannelKey> =
            heads.filter(|one| one.head.is_some() && !one.removed).map(|one| one.slots.key()).collect();
        heads.into_iter().filter_map(|key| self.spread(key)).collect()
    }

    /// Gives a word the members in `addresses`; if they are not known, it keeps those that it has. Returns
    /// what changed.
    pub fn settle_family(&mut self, key: ChannelKey, addresses: &Addresses) -> Option<FamilyMoved> {
        let members = addresses.members()?.to_vec();
        self.set_members(key, members)
    }

    /// Applies a resolver's answer for the name of a word. Returns what changed.
    pub fn family_found(
        &mut self,
        key: ChannelKey,
        name: &str,
        found: &[FoundMember],
    ) -> Option<FamilyMoved> {
        let port = self.has_name(key, name)?.port();
        let now = self.now;
        let kind = self.get(key)?.addresses.family()?;
        let with_port = |one: &FoundMember| {
            let mut one = one.clone();
            if kind == FamilyKind::Each || port != 0 {
                one.port = port;
            }
            one.addresses.iter_mut().for_each(|address| address.set_port(one.port));
            one
        };
        let found = found.iter().map(with_port).collect();
        // This cannot fail, since the channel was just looked up.
        let _ = self.edit(key, |channel| {
            if let Some(naming) = &mut channel.naming {
                **naming = Naming { answered: Some(now), failing: None };
            }
        });
        self.set_members(key, found)
    }

    /// Applies that a service name is no longer offered, which was confirmed. Returns what changed.
    pub fn service_gone(&mut self, key: ChannelKey, name: &str) -> Option<FamilyMoved> {
        let is_service = self.has_name(key, name)?.family() == Some(FamilyKind::Service);
        if is_service { self.set_members(key, Vec::new()) } else { None }
    }

    fn set_members(&mut self, key: ChannelKey, members: Vec<FoundMember>) -> Option<FamilyMoved> {
        let (rules, now) = (self.rules.health, self.now);
        let addresses =
            self.get(key).filter(|channel| channel.head.is_some())?.addresses.with_members(members);
        let _ = self.edit(key, |channel| {
            channel.addresses = addresses;
            channel.health.reappear(&rules, now)
        });
        self.spread(key)
    }

    /// Makes the channels of a word match its members.
    fn spread(&mut self, key: ChannelKey) -> Option<FamilyMoved> {
        let channel = self.get(key).filter(|channel| !channel.retires)?;
        let (head, addresses) = (channel.head.as_ref()?, channel.addresses.clone());
        let template = Template::of(channel)?;
        let members = addresses.members()?;
        // One that has another priority now may still be in its old group as well.
        let mut there: BTreeMap<MemberName, Vec<ChannelKey>> = BTreeMap::new();
        for &one in &head.members {
            if let Some(channel) = self.get(one) {
                there.entry(name_of(channel)).or_default().push(one);
            }
        }
        let before: BTreeSet<MemberName> = there.keys().cloned().collect();
        let was_leaving = head.leaving.clone();
        let mut moved = FamilyMoved {
            head: key,
            now: Vec::new(),
            joined: Vec::new(),
            left: Vec::new(),
            changed: false,
            other: Vec::new(),
            is_short: false,
        };
        let was_short = head.is_short;
        let mut seen = BTreeSet::new();
        for wanted in placed(&template, key.group, members) {
            let name: MemberName = (wanted.found.host.clone(), wanted.found.port);
            if !seen.insert(name.clone()) {
                continue;
            }
            let label = label(&name);
            let mut all = there.remove(&name).unwrap_or_default();
            let current = all.iter().find(|one| !was_leaving.contains(one)).or(all.last()).copied();
            let here = all.iter().position(|one| one.group == wanted.group).map(|at| all.remove(at));
            there.insert(name.clone(), all);
            match here {
                Some(one) => {
                    if let Some(current) = current.filter(|&current| current != one) {
                        // It was about to leave, and what operators decided meanwhile is said of the other one.
                        let (from, to) = (current.group.index(), wanted.group.index());
                        moved.other.push(format!("{label} group {from} to {to}"));
                        self.follow(one, current, &template);
                    }
                    let said = self.said_of(one);
                    moved.changed |= self.stays(key, one, &wanted);
                    if let Some(said) = said.filter(|said| *said != wanted.weight) {
                        moved.other.push(format!("{label} weight {} to {}", said.get(), wanted.weight.get()));
                    }
                    moved.now.push(label);
                }
                None => {
                    // It is in another group now; it keeps what operators decided, and the addresses of its
                    // name.
                    let mut known = Vec::new();
                    if let Some(one) = current {
                        let (from, to) = (one.group.index(), wanted.group.index());
                        let weight = self.said_of(one).filter(|said| *said != wanted.weight);
                        let weight =
                            weight.map(|said| format!(" weight {} to {}", said.get(), wanted.weight.get()));
                        moved
                            .other
                            .push(format!("{label} group {from} to {to}{}", weight.unwrap_or_default()));
                        known = self.get(one).map_or(known, |one| {
                            one.addresses.as_slice().iter().filter_map(|at| at.net()).collect()
                        });
                        self.remember(key, one, &template);
                    }
                    match self.join(key, &wanted, &known, &template) {
                        Ok(true) => {
                            moved.now.push(label.clone());
                            if !before.contains(&name) {
                                moved.joined.push(label);
                            }
                            moved.changed = true;
                        }
                        Ok(false) => {}
                        Err(()) => moved.is_short = true,
                    }
                }
            }
        }
        // A channel that an operator removed may return after the name has once been without it.
        if let Some(head) = self.head_mut(key) {
            head.decided.retain(|name, decision| !decision.removed || seen.contains(name));
            head.leaving = there.into_values().flatten().collect();
            head.is_short = moved.is_short;
        }
        moved.is_short &= !was_short;
        self.see_leaving_off(key, &template, &mut moved);
        let is_news = !moved.joined.is_empty() || !moved.left.is_empty() || !moved.other.is_empty();
        (is_news || moved.changed || moved.is_short).then_some(moved)
    }

    /// The weight that the word or the record gives to a member.
    fn said_of(&self, one: ChannelKey) -> Option<Weight> {
        self.get(one)?.member.as_ref().map(|member| member.weight)
    }

    /// Removes the channels that the name no longer has, as long as another channel is left that clients can
    /// get.
    fn see_leaving_off(&mut self, key: ChannelKey, template: &Template, moved: &mut FamilyMoved) {
        let Some(leaving) = self.head_mut(key).map(|head| head.leaving.clone()) else { return };
        let is_left =
            |one: &Channel| one.is_up() && one.addresses.is_known() && !leaving.contains(&one.slots.key());
        // Only channels that the same clients may use count. All channels of a word are among them.
        let within = self.range_of(key.group);
        let mut groups = self.groups.iter().filter(|(id, _)| within.contains(**id));
        if leaving.is_empty() {
            return;
        }
        if !groups.any(|(_, group)| group.channels().iter().any(is_left)) {
            self.awaits_another = true;
            return;
        }
        // A service name has new targets, but none of them has an address yet: the previous ones stay.
        let targets = self.members(key);
        let mut targets = targets.iter().filter(|one| !leaving.contains(one)).peekable();
        if template.kind == FamilyKind::Service
            && targets.peek().is_some()
            && !targets.any(|&one| self.get(one).is_some_and(|one| one.addresses.is_known()))
        {
            return;
        }
        for one in leaving {
            let Some(channel) = self.get(one) else { continue };
            let (name, addresses) = (name_of(channel), channel.addresses.as_slice().to_vec());
            let label = label(&name);
            // What was decided about one that is in another group now is said of that one.
            if !moved.now.contains(&label) {
                self.remember(key, one, template);
            }
            // This cannot fail, since the channel was just looked up.
            let _ = self.retire(one);
            if let Some(head) = self.head_mut(key) {
                head.gone.insert((name, one.group), one);
            }
            let name = label;
            // It may only have moved to another group.
            if !moved.now.contains(&name) {
                moved.left.push((one, name, addresses));
            }
            moved.changed = true;
        }
    }

    /// Removes channels that stayed only for want of another usable one, now that there may be one.
    pub fn see_off_all(&mut self) -> Vec<FamilyMoved> {
        let all = self.groups.values().flat_map(|group| group.channels());
        let waits =
            |one: &&Channel| !one.removed && one.head.as_ref().is_some_and(|head| !head.leaving.is_empty());
        let heads: Vec<ChannelKey> = all.filter(waits).map(|one| one.slots.key()).collect();
        heads.into_iter().filter_map(|key| self.spread(key)).collect()
    }

    /// A member has got addresses: channels that were waiting for that may be removed.
    pub fn see_off_for(&mut self, one: ChannelKey) -> Option<FamilyMoved> {
        let key = self.head_of(one)?;
        let is_waited_for =
            self.get(key).and_then(|head| head.head.as_ref()).is_some_and(|head| !head.leaving.is_empty());
        if is_waited_for { self.spread(key) } else { None }
    }

    fn stays(&mut self, head: ChannelKey, one: ChannelKey, wanted: &WantedMember<'_>) -> bool {
        let (rules, now) = (self.rules.health, self.now);
        if let Some(head) = self.head_mut(head) {
            head.leaving.remove(&one);
        }
        let Some(channel) = self.get(one) else { return false };
        let (said, is) = (channel.member.as_ref().map(|member| member.weight), channel.weight);
        let mut changed = false;
        if said != Some(wanted.weight) {
            let _ =
                self.edit(one, |channel| channel.member.as_mut().map(|member| member.weight = wanted.weight));
            // A weight that an operator has set stays.
            if said == Some(is) {
                changed = self.set_weight(one, wanted.weight).is_ok();
            }
        }
        if wanted.found.addresses.is_empty() {
            return changed;
        }
        // A member with a name of its own is looked up by that name, which is more reliable.
        let is_literal = self.get(one).is_some_and(|channel| channel.naming.is_none());
        let reappears =
            is_literal && self.edit(one, |channel| channel.health.reappear(&rules, now)) == Ok(true);
        if reappears {
            self.schedule(one);
        }
        changed || reappears
    }

    /// Adds a channel. `Ok(false)`: an operator has removed it, and it stays removed.
    ///
    /// # Errors
    /// No number is left for it.
    fn join(
        &mut self,
        head: ChannelKey,
        wanted: &WantedMember<'_>,
        known: &[SocketAddr],
        template: &Template,
    ) -> Result<bool, ()> {
        let name = (wanted.found.host.clone(), wanted.found.port);
        let decided = self.head_mut(head).and_then(|head| match head.decided.get(&name) {
            Some(decision) if decision.removed => Some(*decision),
            _ => head.decided.remove(&name),
        });
        if decided.is_some_and(|decision| decision.removed) {
            return Ok(false);
        }
        let unknown = || Addresses::unknown(&name.0, name.1);
        let list = if wanted.found.addresses.is_empty() { known } else { &wanted.found.addresses };
        let addresses =
            Addresses::new(list.iter().map(|&at| at.into()).collect()).map(|all| all.named(&name.0));
        let addresses =
            addresses.unwrap_or_else(unknown).lazily(template.kind == FamilyKind::Service || template.lazy);
        let policy = self.groups.get(&head.group).map(|group| group.policy());
        if let Some(policy) = policy.filter(|_| !self.has_group(wanted.group)) {
            self.set_policy(wanted.group, policy);
        }
        let (state, maxc) =
            decided.map_or((template.state, template.maxc), |decision| (decision.state, decision.maxc));
        let weight = decided.and_then(|decision| decision.weight).unwrap_or(wanted.weight);
        let member = Membership { head, weight: wanted.weight };
        let was = self.head_mut(head).and_then(|head| head.gone.remove(&(name.clone(), wanted.group)));
        // A channel that was removed has no pause of its own any more.
        let was_paused = was.and_then(|key| self.get(key)).is_some_and(|channel| channel.paused);
        if let Some(key) = was.filter(|&one| self.comes_back(one, &name, &addresses)) {
            let is_paused = was_paused || template.paused || self.paused;
            if let Some(group) = self.groups.get_mut(&key.group) {
                group.set_paused(key.channel.index(), is_paused);
            }
            let _ = self.edit(key, |channel| {
                channel.maxc = maxc;
                channel.autodisabled = false;
                channel.member = Some(Box::new(member));
            });
            let _ = self.set_weight(key, weight);
            self.takes_part(head, key, template, state);
            return Ok(true);
        }
        let added = self.add(wanted.group, addresses, |channel| {
            (channel.maxc, channel.weight) = (maxc, weight);
            channel.paused |= template.paused;
            channel.member = Some(Box::new(member));
        });
        let key = ChannelKey { group: wanted.group, channel: added.map_err(|_| ())? };
        self.takes_part(head, key, template, state);
        Ok(true)
    }

    fn takes_part(&mut self, head: ChannelKey, one: ChannelKey, template: &Template, state: AdminState) {
        if let Some(head) = self.head_mut(head) {
            head.members.insert(one);
        }
        // This cannot fail, since the channel was just added. The manner is set before any client gets the
        // channel.
        let _ = self.set_manner(one, template.manner.clone());
        let _ = self.set_state(one, state);
    }

    /// Keeps a channel of this name that was being removed, or revives a removed one under its old number.
    /// `false`: the number belongs to another channel by now.
    fn comes_back(&mut self, one: ChannelKey, name: &MemberName, addresses: &Addresses) -> bool {
        let channel = self.groups.get(&one.group).and_then(|group| group.channels().get(one.channel.index()));
        // A process that took over knows only the number of a channel that was gone.
        let is_it = |channel: &&Channel| {
            name_of(channel) == *name || (channel.removed && channel.addresses.first() == Address::NOWHERE)
        };
        let Some(channel) = channel.filter(is_it) else { return false };
        if !channel.removed {
            return channel.retires && self.keep(one).is_ok();
        }
        let Some(group) = self.groups.get_mut(&one.group) else { return false };
        if group.revive(one.channel.index()).is_none() {
            return false;
        }
        // Nothing is known about it any more.
        self.move_to(one, addresses.clone()).is_ok()
    }

    /// Remembers what an operator decided about a channel that is being removed.
    fn remember(&mut self, head: ChannelKey, one: ChannelKey, template: &Template) {
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
    fn follow(&mut self, one: ChannelKey, current: ChannelKey, template: &Template) {
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
    pub(super) fn remember_removal(&mut self, one: ChannelKey) {
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
    pub fn decide_member(&mut self, key: ChannelKey, name: (String, u16), decision: &super::DecidedMember) {
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

    /// Detaches a channel from its word.
    pub(super) fn leave_family(&mut self, one: ChannelKey) {
        let Some(member) = self.get(one).and_then(|channel| channel.member.as_deref().copied()) else {
            return;
        };
        let _ = self.edit(one, |channel| channel.member = None);
        if let Some(head) = self.head_mut(member.head) {
            head.members.remove(&one);
            head.leaving.remove(&one);
        }
    }

    /// Connects words with their channels after a table was restored from a record.
    pub(super) fn find_members(&mut self) {
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

    fn head_mut(&mut self, key: ChannelKey) -> Option<&mut super::membership::WordHead> {
        let group = self.groups.get_mut(&key.group)?;
        group.channels.get_mut(key.channel.index())?.head.as_deref_mut()
    }
}

fn name_of(channel: &Channel) -> MemberName {
    let host = channel.addresses.host().map_or_else(
        || channel.addresses.first().net().map_or_else(String::new, |at| FoundMember::of(at).host),
        str::to_owned,
    );
    (host, channel.addresses.port())
}

fn label((host, port): &MemberName) -> String {
    Addresses::unknown(host, *port).words()
}

/// The group and weight of each member, in the order in which they get numbers.
fn placed<'a>(template: &Template, first: GroupId, members: &'a [FoundMember]) -> Vec<WantedMember<'a>> {
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
fn member_weights(records: &[u16]) -> Vec<Weight> {
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::super::{ClientAddr, GroupRange, HealthState, Lease, NoChannel, Policy, Rules};
    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn key(group: usize, number: usize) -> ChannelKey {
        ChannelKey::new(group, number).expect("a key")
    }

    fn each(numbers: &[u8]) -> Vec<FoundMember> {
        numbers.iter().map(|&number| FoundMember::of(at(number))).collect()
    }

    /// A table whose channel 0 is `db:80,each`.
    fn table(numbers: &[u8]) -> Table {
        let mut table = Table::new(Rules::CLASSIC);
        let addresses = Addresses::of_family(FamilyKind::Each, "db", 80, Some(each(numbers)));
        table.create(GroupId::FIRST, addresses, None, AdminState::Enabled).expect("a number");
        table.settle_families();
        table
    }

    fn found(table: &mut Table, numbers: &[u8]) -> Option<FamilyMoved> {
        table.family_found(key(0, 0), "db", &each(numbers))
    }

    fn pick(table: &mut Table, client: u8) -> Result<Lease, NoChannel> {
        let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, client])));
        table.next(&mut route)
    }

    /// The channels by number, with the last byte of their address.
    fn there(table: &mut Table) -> Vec<(usize, u8)> {
        let group = table.snapshot().groups.into_iter().next().expect("one");
        let last = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => 0,
        };
        let one = |one: &super::super::ChannelSnapshot| {
            (one.id.index(), last(one.addresses.first().net().expect("of the network").ip()))
        };
        group.channels.iter().map(one).collect()
    }

    #[test]
    fn each_address_is_a_channel_whose_number_it_has_for_ever() {
        let mut table = table(&[3, 1, 2]);
        assert_eq!(there(&mut table), [(1, 1), (2, 2), (3, 3)], "in whatever order they were said");
        assert_eq!(found(&mut table, &[2, 3, 1]), None, "a set");
        let moved = found(&mut table, &[1, 4]).expect("others");
        assert_eq!(moved.joined, ["10.0.0.4:80"]);
        let left: Vec<_> =
            moved.left.iter().map(|(key, label, _)| (key.channel.index(), label.as_str())).collect();
        assert_eq!(left, [(2, "10.0.0.2:80"), (3, "10.0.0.3:80")]);
        assert_eq!(there(&mut table), [(1, 1), (4, 4)]);
        found(&mut table, &[1, 2, 3, 4, 5]).expect("they are back");
        assert_eq!(there(&mut table), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
        assert_eq!(table.up_and_all(), (5, 5), "the word itself is none of them");
        let picked: BTreeSet<usize> =
            (0..10).map(|n| pick(&mut table, n).expect("up").key().channel.index()).collect();
        assert_eq!(picked, BTreeSet::from([1, 2, 3, 4, 5]));
    }

    #[test]
    fn one_that_left_keeps_its_connections_and_may_come_back_meanwhile() {
        let mut table = table(&[1, 2]);
        let leases = [pick(&mut table, 1).expect("up"), pick(&mut table, 1).expect("up")];
        found(&mut table, &[1]).expect("one left");
        let channel = table.channel(key(0, 2)).expect("it has a connection");
        assert!(channel.retires && channel.active == 1);
        assert!((0..4).all(|n| pick(&mut table, n).expect("up").key() == key(0, 1)));
        found(&mut table, &[1, 2]).expect("it is back");
        let channel = table.channel(key(0, 2)).expect("it is there");
        assert!(!channel.retires && channel.state == AdminState::Enabled && channel.active == 1);
        found(&mut table, &[1]).expect("it left");
        drop(leases);
        table.learn_freed();
        assert_eq!(there(&mut table), [(1, 1)]);
    }

    #[test]
    fn what_an_operator_decided_about_one_stays_whether_it_is_there_or_not() {
        let mut table = table(&[1, 2, 3]);
        table.set_state(key(0, 2), AdminState::Disabled).expect("it is there");
        table.set_weight(key(0, 3), Weight::new(7).expect("small")).expect("it is there");
        table.set_maxc(key(0, 3), NonZeroU32::new(5)).expect("it is there");
        found(&mut table, &[1]).expect("others");
        found(&mut table, &[1, 2, 3, 4]).expect("others");
        let one = |table: &Table, number| {
            let one = table.channel(key(0, number)).expect("it is there");
            (one.state, one.weight.get())
        };
        assert_eq!(
            [1, 2, 3, 4].map(|number| one(&table, number).0 == AdminState::Enabled),
            [true, false, true, true]
        );
        assert_eq!(one(&table, 3).1, 7);
        let limits = [1, 2, 3, 4].map(|number| table.channel(key(0, number)).expect("it is there").maxc);
        assert_eq!(limits, [None, None, NonZeroU32::new(5), None]);
        // A change of the word applies to all its channels, including later ones.
        table.set_state(key(0, 0), AdminState::Disabled).expect("it is there");
        found(&mut table, &[1, 2, 3, 4, 5]).expect("one more");
        assert!((1..=5).all(|number| one(&table, number).0 == AdminState::Disabled));
        table.set_state(key(0, 0), AdminState::Enabled).expect("it is there");
        table.set_weight(key(0, 0), Weight::new(3).expect("small")).expect("it is there");
        assert!((1..=5).all(|number| one(&table, number) == (AdminState::Enabled, 3)));
        // A channel that was removed stays removed as long as the name has it.
        table.set_state(key(0, 5), AdminState::Disabled).expect("it is there");
        table.remove(key(0, 5)).expect("it is idle");
        assert_eq!(found(&mut table, &[5, 4, 3, 2, 1]), None);
        found(&mut table, &[1, 2]).expect("others");
        found(&mut table, &[1, 2, 5]).expect("it is new");
        assert_eq!(there(&mut table), [(1, 1), (2, 2), (5, 5)]);
    }

    #[test]
    fn one_that_was_taken_away_by_hand_comes_back_by_hand() {
        let mut table = table(&[1, 2, 3]);
        let take_away = |table: &mut Table, number| {
            table.set_state(key(0, number), AdminState::Disabled).expect("it is there");
            table.remove(key(0, number)).expect("it is idle");
        };
        table.set_weight(key(0, 2), Weight::new(7).expect("small")).expect("it is there");
        take_away(&mut table, 2);
        assert_eq!(there(&mut table), [(1, 1), (3, 3)]);
        assert_eq!(table.bring_back(key(0, 4)), None, "nobody had that number");
        assert_eq!(table.bring_back(key(0, 1)), None, "it is there");
        // A process that takes over knows its number, too.
        let record = table.record();
        let after = Table::restore(Rules::CLASSIC, &record, std::time::Duration::ZERO).expect("it is whole");
        assert_eq!(after.record(), record);
        for mut table in [table, after] {
            assert_eq!(table.bring_back(key(0, 2)), Some(key(0, 2)));
            assert_eq!(there(&mut table), [(1, 1), (2, 2), (3, 3)]);
            let one = table.channel(key(0, 2)).expect("it is back");
            assert_eq!((one.state, one.weight.get()), (AdminState::Enabled, 7));
            assert_eq!(table.bring_back(key(0, 2)), None);
            // Both by the word, and one that is only disabled.
            [1, 2].into_iter().for_each(|number| take_away(&mut table, number));
            assert!(table.bring_all_back(key(0, 0)) && !table.bring_all_back(key(0, 0)));
            table.set_state(key(0, 3), AdminState::Disabled).expect("it is there");
            assert!(table.bring_all_back(key(0, 0)));
            assert!(!table.bring_all_back(key(0, 3)), "it is no word");
            // All decisions are discarded.
            table.set_maxc(key(0, 1), NonZeroU32::new(4)).expect("it is there");
            table.set_weight(key(0, 1), Weight::new(9).expect("small")).expect("it is there");
            take_away(&mut table, 2);
            assert!(table.undo_members(key(0, 0)) && !table.undo_members(key(0, 0)));
            for number in 1..=3 {
                let one = table.channel(key(0, number)).expect("it is back");
                assert_eq!((one.state, one.maxc, one.weight), (AdminState::Enabled, None, Weight::ONE));
            }
        }
    }

    #[test]
    fn one_that_comes_back_is_paused_if_those_that_come_are_and_not_else() {
        let mut table = table(&[1, 2, 3]);
        // All are paused, and one is missing when the pause ends.
        table.pause_all();
        found(&mut table, &[1, 3]).expect("one left");
        found(&mut table, &[1]).expect("another left");
        table.resume_all();
        found(&mut table, &[1, 2, 3]).expect("they are back");
        assert!((1..=3).all(|number| !table.channel(key(0, number)).expect("it is there").paused));
        // One is missing when the pause begins, and returns during it.
        found(&mut table, &[1]).expect("they left");
        table.pause(key(0, 0)).expect("it is there");
        found(&mut table, &[1, 2, 3]).expect("they are back");
        assert!((1..=3).all(|number| table.channel(key(0, number)).expect("it is there").paused));
        assert_eq!(table.resume(key(0, 0)), Ok(true));
        assert!((1..=3).all(|number| !table.channel(key(0, number)).expect("it is there").paused));
        assert_eq!(table.resume(key(0, 0)), Ok(false));
    }

    #[test]
    fn no_answer_takes_the_last_channel_away() {
        let mut table = table(&[1, 2]);
        table.set_state(key(0, 1), AdminState::Disabled).expect("it is there");
        assert_eq!(table.name_gone(&[key(0, 0)], "db", "no such name"), []);
        // The only one that clients can get is removed, and the new one is disabled.
        table.decide_member(
            key(0, 0),
            ("10.0.0.3".to_owned(), 80),
            &super::super::DecidedMember {
                host: String::new(),
                port: 0,
                state: AdminState::Disabled,
                maxc: None,
                weight: None,
                removed: false,
            },
        );
        found(&mut table, &[1, 3]).expect("one has come");
        assert_eq!(pick(&mut table, 1).expect("better than nothing").key(), key(0, 2));
        // A process that takes over knows that one is to be removed.
        let record = table.record();
        for mut table in
            [Table::restore(Rules::CLASSIC, &record, std::time::Duration::ZERO).expect("whole"), table]
        {
            assert!(!table.has_another() && table.see_off_all().is_empty());
            table.set_state(key(0, 3), AdminState::Enabled).expect("it is there");
            assert!(table.take_another() && !table.take_another());
            // It can be removed without another answer.
            let moved = table.see_off_all();
            assert_eq!(moved.iter().map(|moved| moved.left.len()).collect::<Vec<_>>(), [1]);
            assert_eq!(pick(&mut table, 1).expect("up").key(), key(0, 3));
            assert_eq!(there(&mut table), [(1, 1), (3, 3)]);
            // Nothing is held back any more.
            table.set_state(key(0, 1), AdminState::Enabled).expect("it is there");
            assert!(!table.has_another());
        }
    }

    #[test]
    fn a_name_that_is_gone_takes_all_its_channels_down_where_others_are_left() {
        let mut table = table(&[1, 2]);
        table.create(GroupId::FIRST, Addresses::from(at(9)), None, AdminState::Enabled).expect("a number");
        let gone = table.name_gone(&[key(0, 0)], "db", "no such name");
        assert_eq!(gone, [key(0, 0), key(0, 1), key(0, 2)]);
        assert!((0..6).all(|n| pick(&mut table, n).expect("up").key() == key(0, 3)));
        assert!(found(&mut table, &[2, 1]).expect("they are back").changed);
        let state = table.channel(key(0, 1)).expect("it is there").health.state;
        assert_eq!(state, HealthState::Untried);
    }

    #[test]
    fn hashed_clients_know_a_channel_by_its_address() {
        let mut table = table(&[1, 2, 3, 4]);
        table.set_policy(GroupId::FIRST, Policy::Hash);
        let home = |table: &mut Table, n: u8| pick(table, n).expect("up").addresses().first();
        let before: Vec<Address> = (0..100).map(|n| home(&mut table, n)).collect();
        found(&mut table, &[1, 2, 4]).expect("one left");
        for (n, was) in (0..100).zip(&before) {
            assert!(home(&mut table, n) == *was || *was == at(3));
        }
        found(&mut table, &[4, 3, 2, 1]).expect("it is back");
        assert_eq!((0..100).map(|n| home(&mut table, n)).collect::<Vec<_>>(), before);
        // The same weights, typed one by one.
        let mut typed = Table::new(Rules::CLASSIC);
        for n in 1..=4 {
            typed
                .create(GroupId::FIRST, Addresses::from(at(n)), None, AdminState::Enabled)
                .expect("a number");
        }
        typed.set_policy(GroupId::FIRST, Policy::Hash);
        assert_eq!((0..100).map(|n| home(&mut typed, n)).collect::<Vec<_>>(), before);
    }

    fn target(host: &str, priority: u16, weight: u16) -> FoundMember {
        let last = host.bytes().last().unwrap_or(0) - b'a' + 1;
        let mut address = at(last);
        address.set_port(389);
        FoundMember { host: host.to_owned(), port: 389, priority, weight, addresses: vec![address] }
    }

    fn service(targets: &[FoundMember]) -> Table {
        let mut table = Table::new(Rules::CLASSIC);
        let addresses =
            Addresses::of_family(FamilyKind::Service, "_ldap._tcp.corp", 0, Some(targets.to_vec()));
        table.create(GroupId::FIRST, addresses, None, AdminState::Enabled).expect("a number");
        table.settle_families();
        table
    }

    /// By group: host and weight.
    fn tiers(table: &mut Table) -> Vec<(usize, Vec<(String, u32)>)> {
        let groups = table.snapshot().groups.into_iter().map(|group| {
            let one = |one: &super::super::ChannelSnapshot| {
                (one.addresses.host().unwrap_or_default().to_owned(), one.weight.get())
            };
            (group.id.index(), group.channels.iter().filter(|one| !one.retires).map(one).collect::<Vec<_>>())
        });
        groups.filter(|(_, channels)| !channels.is_empty()).collect()
    }

    #[test]
    fn each_priority_is_a_group_and_weights_are_kept() {
        let mut table =
            service(&[target("c", 20, 0), target("b", 10, 30), target("a", 10, 10), target("d", 65_535, 0)]);
        let own = |all: &[(&str, u32)]| {
            all.iter().map(|&(host, weight)| (host.to_owned(), weight)).collect::<Vec<_>>()
        };
        assert_eq!(
            tiers(&mut table),
            [(0, own(&[("b", 30), ("a", 10)])), (1, own(&[("c", 1)])), (2, own(&[("d", 1)]))]
        );
        let other =
            table.family_found(key(0, 0), "_ldap._tcp.corp", &[target("b", 20, 3), target("a", 10, 12)]);
        let other = other.expect("they are others").other;
        assert_eq!(other, ["a:389 weight 10 to 12", "b:389 group 0 to 1 weight 30 to 3"]);
        let first = [target("c", 20, 0), target("b", 10, 30), target("a", 10, 10), target("d", 65_535, 0)];
        table.family_found(key(0, 0), "_ldap._tcp.corp", &first).expect("as before");
        let mut say = |targets: &[FoundMember]| {
            table.family_found(key(0, 0), "_ldap._tcp.corp", targets);
            tiers(&mut table)
        };
        // Another weight keeps the channel; without the first priority, the second one comes first.
        assert_eq!(say(&[target("a", 10, 40), target("b", 10, 10)]), [(0, own(&[("b", 10), ("a", 40)]))]);
        assert_eq!(
            say(&[target("c", 20, 0), target("d", 30, 0)]),
            [(0, own(&[("c", 1)])), (1, own(&[("d", 1)]))]
        );
        assert_eq!(say(&[target("d", 30, 0)]), [(0, own(&[("d", 1)]))]);
    }

    #[test]
    fn what_was_decided_about_a_target_stays_when_it_has_another_priority() {
        let mut table = service(&[target("a", 10, 1), target("b", 10, 1)]);
        table.set_state(key(0, 1), AdminState::Disabled).expect("it is there");
        table.set_maxc(key(0, 1), NonZeroU32::new(5)).expect("it is there");
        let others = [target("b", 10, 1), target("a", 20, 1)];
        table.family_found(key(0, 0), "_ldap._tcp.corp", &others).expect("one moves");
        let one = table.channel(key(1, 0)).expect("it is in another group");
        assert_eq!(
            (one.addresses.host(), one.state, one.maxc),
            (Some("a"), AdminState::Disabled, NonZeroU32::new(5))
        );
        let first = [target("a", 10, 1), target("b", 10, 1)];
        table.family_found(key(0, 0), "_ldap._tcp.corp", &first).expect("it moves back");
        let one = table.channel(key(0, 1)).expect("it has its number again");
        assert_eq!(
            (one.addresses.host(), one.state, one.maxc),
            (Some("a"), AdminState::Disabled, NonZeroU32::new(5))
        );
    }

    #[test]
    fn what_is_decided_about_a_target_last_is_what_it_keeps() {
        let mut table = service(&[target("a", 10, 1), target("b", 10, 1)]);
        table.set_state(key(0, 1), AdminState::Disabled).expect("it is there");
        let others = [target("b", 10, 1), target("a", 20, 1)];
        table.family_found(key(0, 0), "_ldap._tcp.corp", &others).expect("one moves");
        table.set_state(key(1, 0), AdminState::Enabled).expect("it is in another group");
        let first = [target("a", 10, 1), target("b", 10, 1)];
        table.family_found(key(0, 0), "_ldap._tcp.corp", &first).expect("it moves back");
        assert_eq!(table.channel(key(0, 1)).expect("it is there").state, AdminState::Enabled);
    }

    #[test]
    fn no_weight_above_0_becomes_0() {
        let weights =
            |records: &[u16]| member_weights(records).into_iter().map(Weight::get).collect::<Vec<_>>();
        assert_eq!(weights(&[0, 0, 0]), [1, 1, 1]);
        assert_eq!(weights(&[1, 2, 256]), [1, 2, 256]);
        assert_eq!(weights(&[65_535, 1, 0]), [256, 1, 1]);
        assert_eq!(weights(&[0, 10, 20]), [1, 128, 256]);
        assert_eq!(weights(&[1_000, 500, 250]), [256, 128, 64]);
    }

    #[test]
    fn a_service_whose_new_targets_nobody_knows_keeps_the_old_ones() {
        let mut table = service(&[target("a", 10, 0)]);
        let unknown = FoundMember { addresses: Vec::new(), ..target("b", 10, 0) };
        let moved = table.family_found(key(0, 0), "_ldap._tcp.corp", &[unknown]).expect("one has come");
        assert_eq!((moved.joined, moved.left), (vec!["b:389".to_owned()], vec![]));
        assert_eq!(pick(&mut table, 1).expect("the old one").key(), key(0, 1));
        table.name_found(key(0, 2), "b", &[at(2).into()]).expect("it is known");
        let moved = table.see_off_for(key(0, 2)).expect("the old one goes");
        assert_eq!(moved.left.len(), 1);
        assert_eq!(pick(&mut table, 1).expect("the new one").key(), key(0, 2));
        // A service name that is no longer offered keeps its last channel.
        assert_eq!(table.service_gone(key(0, 0), "_ldap._tcp.corp"), None);
        assert_eq!(pick(&mut table, 1).expect("the last one").key(), key(0, 2));
    }

    #[test]
    fn a_target_that_changes_its_priority_and_comes_back_has_its_number_again() {
        let found = |a: u16| [target("a", a, 0), target("b", 10, 0), target("c", 20, 0), target("d", 30, 0)];
        let mut table = service(&found(10));
        let a = |table: &Table| {
            let is_a = |one: &ChannelKey| table.get(*one).map(name_of) == Some(("a".to_owned(), 389));
            table.members(key(0, 0)).into_iter().find(is_a).expect("it is there")
        };
        let mut seen = Vec::new();
        for priority in [10, 20, 30, 10, 20] {
            table.family_found(key(0, 0), "_ldap._tcp.corp", &found(priority));
            seen.push(a(&table));
        }
        assert_eq!(seen, [key(0, 1), key(1, 1), key(2, 1), key(0, 1), key(1, 1)]);
    }

    #[test]
    fn targets_that_change_their_priority_before_they_have_an_address_leave_nothing_behind() {
        let unknown = |host, priority| FoundMember { addresses: Vec::new(), ..target(host, priority, 0) };
        let hosts = |table: &mut Table| {
            let told = |(group, all): (usize, Vec<(String, u32)>)| {
                (group, all.into_iter().map(|(host, _)| host).collect::<Vec<_>>())
            };
            tiers(table).into_iter().map(told).collect::<Vec<_>>()
        };
        let mut table = service(&[unknown("a", 10), unknown("b", 20)]);
        // As nobody has an address, those in the old groups stay for the time being. However often this is
        // said, no more come.
        for _ in 0..3 {
            table.family_found(key(0, 0), "_ldap._tcp.corp", &[unknown("a", 20), unknown("b", 10)]);
            let count: usize = hosts(&mut table).iter().map(|(_, hosts)| hosts.len()).sum();
            assert_eq!(count, 4, "{:?}", hosts(&mut table));
        }
        // An operator decides about the one that is there. It goes back to its old group with that.
        let is_new = |one: &ChannelKey| table.get(*one).map(name_of) == Some(("b".to_owned(), 389));
        let b = table.members(key(0, 0)).into_iter().find(is_new).expect("it is there");
        assert_eq!(b.group, GroupId::FIRST);
        table.set_maxc(b, NonZeroU32::new(5)).expect("it is there");
        table.family_found(key(0, 0), "_ldap._tcp.corp", &[unknown("a", 10), unknown("b", 20)]);
        table.family_found(key(0, 0), "_ldap._tcp.corp", &[unknown("a", 10), unknown("b", 20)]);
        for (host, last) in [("a", 1), ("b", 2)] {
            let of_host = |one: &ChannelKey| table.get(*one).map(name_of) == Some((host.to_owned(), 389));
            let all: Vec<_> = table.members(key(0, 0)).into_iter().filter(of_host).collect();
            for one in all {
                table.name_found(one, host, &[at(last).into()]);
                table.see_off_for(one);
            }
        }
        let left = vec![(0, vec!["a".to_owned()]), (1, vec!["b".to_owned()])];
        assert_eq!(hosts(&mut table), left);
        let one = table.channel(key(1, 0)).expect("it is there");
        assert_eq!((one.addresses.host(), one.maxc), (Some("b"), NonZeroU32::new(5)));
    }

    proptest! {
        /// Whatever a resolver says, and whether anybody has an address by then: in the end there is one
        /// channel for each target, in the group of its priority.
        #[test]
        fn each_target_is_there_once_in_the_end(
            answers in prop::collection::vec(
                prop::collection::vec((0..4_usize, 0..3_u16, any::<bool>()), 1..5),
                1..8,
            ),
            disabled in prop::collection::vec(any::<bool>(), 8),
        ) {
            const HOSTS: [&str; 4] = ["a", "b", "c", "d"];
            let mut table = service(&[]);
            for (answer, is_disabled) in answers.iter().zip(disabled) {
                let mut said = BTreeSet::new();
                let one = |&(host, priority, is_known): &(usize, u16, bool)| {
                    let mut one = target(HOSTS[host], priority, 0);
                    if !is_known {
                        one.addresses.clear();
                    }
                    one
                };
                let found: Vec<_> = answer.iter().filter(|one| said.insert(one.0)).map(one).collect();
                for _ in 0..2 {
                    table.family_found(key(0, 0), "_ldap._tcp.corp", &found);
                }
                let members = table.members(key(0, 0));
                // Of each target there is the one that is wanted, and at most one in each other group.
                let places: BTreeSet<_> = members.iter().map(|&one| (one.group, table.get(one).map(name_of))).collect();
                prop_assert_eq!(places.len(), members.len());
                if let Some(&one) = members.first().filter(|_| is_disabled) {
                    table.set_state(one, AdminState::Disabled).expect("it is there");
                }
            }
            for one in table.members(key(0, 0)) {
                let _ = table.set_state(one, AdminState::Enabled);
                let (host, _) = table.get(one).map(name_of).expect("it is there");
                let last = host.bytes().last().expect("a letter") - b'a' + 1;
                table.name_found(one, &host, &[at(last).into()]);
            }
            table.see_off_all();
            let last = answers.last().expect("at least one");
            let mut said = BTreeSet::new();
            let wanted: Vec<_> = last.iter().filter(|one| said.insert(one.0)).collect();
            let priorities: BTreeSet<u16> = wanted.iter().map(|one| one.1).collect();
            let tier = |priority: u16| priorities.iter().position(|&one| one == priority).expect("it is one");
            let wanted: BTreeSet<(usize, String)> =
                wanted.iter().map(|one| (tier(one.1), HOSTS[one.0].to_owned())).collect();
            let there = tiers(&mut table).into_iter().flat_map(|(group, all)| all.into_iter().map(move |(host, _)| (group, host)));
            let there: Vec<_> = there.collect();
            prop_assert_eq!(there.len(), wanted.len(), "{:?} {:?}", there, wanted);
            prop_assert_eq!(there.into_iter().collect::<BTreeSet<_>>(), wanted);
        }
    }

    #[test]
    fn targets_without_an_address_leave_no_client_to_the_backup() {
        let mut table = service(&[target("a", 10, 0)]);
        let backup = GroupId::new(7).expect("small");
        table.create(backup, at(99).into(), None, AdminState::Enabled).expect("a slot");
        let unknown = FoundMember { addresses: Vec::new(), ..target("b", 10, 0) };
        let moved = table.family_found(key(0, 0), "_ldap._tcp.corp", &[unknown]).expect("one has come");
        assert_eq!((moved.joined, moved.left), (vec!["b:389".to_owned()], vec![]));
        assert_eq!(pick(&mut table, 1).expect("the old one").key(), key(0, 1));
        // A service name that is no longer offered leaves its clients to it.
        table.service_gone(key(0, 0), "_ldap._tcp.corp").expect("they go");
        assert_eq!(pick(&mut table, 1).expect("the backup").key(), key(7, 0));
    }

    #[test]
    fn an_answer_costs_no_client_the_last_channel_that_it_may_have() {
        let mut table = service(&[target("a", 10, 0), target("b", 20, 0)]);
        let other = GroupId::new(100).expect("small");
        table.create(other, at(99).into(), None, AdminState::Enabled).expect("a slot");
        let ranges = [GroupRange::new(0, Some(100)), GroupRange::new(100, None)];
        table.set_ranges(ranges.map(|range| range.expect("a range")).to_vec());
        // There are no targets any more, and one channel is disabled: the clients of that name have no other.
        assert_eq!(table.service_gone(key(0, 0), "_ldap._tcp.corp"), None);
        table.set_state(key(0, 0), AdminState::Disabled).expect("it is there");
        table.set_state(key(0, 1), AdminState::Enabled).expect("it is there");
        let moved = table.family_found(key(0, 0), "_ldap._tcp.corp", &[target("c", 10, 0)]);
        assert_eq!(moved.expect("one has come").left, []);
        let range = table.range_of(GroupId::FIRST);
        let mut route = table.begin_within(ClientAddr::from(IpAddr::from([192, 0, 2, 1])), range);
        assert_eq!(table.next(&mut route).expect("it stays").key(), key(0, 1));
        // A backup group for the same clients is enough.
        table
            .create(GroupId::new(99).expect("small"), at(98).into(), None, AdminState::Enabled)
            .expect("a slot");
        table.service_gone(key(0, 0), "_ldap._tcp.corp").expect("they go");
    }

    #[test]
    fn a_port_that_was_typed_is_that_of_all_targets() {
        let mut table = Table::new(Rules::CLASSIC);
        let addresses = Addresses::of_family(FamilyKind::Service, "_ldap._tcp.corp", 636, None);
        table.create(GroupId::FIRST, addresses, None, AdminState::Enabled).expect("a number");
        table.family_found(key(0, 0), "_ldap._tcp.corp", &[target("a", 0, 0)]).expect("one has come");
        assert_eq!(pick(&mut table, 1).expect("up").addresses().first().port(), 636);
    }

    #[test]
    fn a_word_that_is_taken_away_takes_its_channels_along() {
        let mut table = table(&[1, 2]);
        let lease = pick(&mut table, 1).expect("up");
        table.create(GroupId::FIRST, Addresses::from(at(9)), None, AdminState::Enabled).expect("a number");
        table.retire(key(0, 0)).expect("it is there");
        assert_eq!(there(&mut table), [(1, 1), (3, 9)], "one has a connection");
        assert_eq!(found(&mut table, &[1, 2]), None);
        drop(lease);
        table.learn_freed();
        assert_eq!(there(&mut table), [(3, 9)]);
    }

    #[test]
    fn a_successor_has_the_same_sets() {
        let mut before = table(&[1, 2, 3]);
        before.set_state(key(0, 2), AdminState::Disabled).expect("it is there");
        found(&mut before, &[1, 3]).expect("one left");
        let record = before.record();
        let text = serde_json::to_string(&record).expect("it can be written");
        let record = serde_json::from_str(&text).expect("it can be read");
        let mut after =
            Table::restore(Rules::CLASSIC, &record, std::time::Duration::ZERO).expect("it is whole");
        assert_eq!(after.record(), before.record());
        assert_eq!(found(&mut after, &[3, 1]), None);
        found(&mut after, &[1, 2, 3]).expect("one has come");
        let one = after.channel(key(0, 2)).expect("it is there, under its number");
        assert_eq!((one.addresses.first(), one.state), (at(2).into(), AdminState::Disabled));
    }
}

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
//!
//! `wanted` says which channels should be there, `kin` which are there, and `decided` has what operators
//! decided
//! about them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::addresses::FoundMember;
use super::channel::Channel;
use super::membership::MemberName;
use super::naming::Naming;
use super::{Addresses, AdminState, ChannelKey, Membership, Table, Weight};
use crate::spec::{Address, FamilyKind};

mod decided;
mod kin;
#[cfg(test)]
mod trials;
mod wanted;

use kin::{label, name_of};
use wanted::{Template, WantedMember, placed};

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

impl Table {
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
                **naming = Naming::answered(now);
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
}

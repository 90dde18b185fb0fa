//! All groups, and the only place that changes them.
//!
//! Knows: every group, the rules of the instance, the time it is told. Never: text formats, sockets, files,
//! signals, the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::agenda::Agenda;
use super::changes::Changes;
use super::channel::Channel;
use super::group::Group;
use super::health::{Change, Health};
use super::lease::{Freed, Slots};
use super::line::Line;
use super::losses::Losses;
use super::random::Random;
use super::reach::Reach;
use super::route::{Patience, World};
use super::tally::ServiceTally;
use super::{
    Addresses, AdminState, ChannelId, ChannelKey, ChannelSnapshot, ClientAddr, DialCause, Grant, GroupId,
    GroupRange, Happened, Lease, NoChannel, Policy, Route, Rules, ToldOutage, Transition, Weight,
};
use crate::spec::{Address, ChannelManner, FamilyKind};

/// Whose fault a failed dial was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialFailure {
    /// The channel's: refused, timed out, unreachable.
    Channel,
    /// balance's: no descriptors, no source port, `-B` cannot be bound. Never ejects or disables a channel.
    Local,
    /// Possibly the channel's: there was no answer on a path that only this client uses. A probe in the
    /// background finds out, and may eject the channel.
    Unproven,
}

/// Why an edit was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditError {
    /// The group has no such channel.
    UnknownChannel,
    /// All channel numbers of the group are in use.
    NoSlot,
    /// Only a disabled channel can get a new address or be removed.
    NotDisabled,
    /// Only a channel without connections can be removed.
    Busy,
}

/// All groups and channels. All changes take `&mut self`, so that rules are tested without threads; the
/// program shares it as [`SharedTable`](super::SharedTable).
#[derive(Debug)]
pub struct Table {
    pub(super) rules: Rules,
    /// Only groups that were used: an unused group number costs nothing.
    pub(super) groups: BTreeMap<GroupId, Group>,
    freed: Arc<Freed>,
    /// `freed` is read into this. Kept for its memory, empty between calls.
    came_free: Vec<ChannelKey>,
    pub(super) random: Random,
    /// The time since the start of the instance.
    pub(super) now: Duration,
    pub(super) agenda: Agenda,
    pub(super) line: Line,
    pub(super) losses: Arc<Losses>,
    pub(super) tally: Arc<ServiceTally>,
    /// All channels are paused, including those that will be added, and every client waits.
    pub(super) paused: bool,
    /// How many times pauses have changed.
    pub(super) pauses: Arc<AtomicUsize>,
    pub(super) outage: ToldOutage,
    /// Changes that waiting clients have not been told yet.
    pub(super) changes: Changes,
    /// Groups with changes. Kept for its memory, empty between calls.
    stirred: Vec<GroupId>,
    /// Channels that have failed, whose names may have other addresses by now.
    pub(super) doubts: BTreeSet<ChannelKey>,
    /// The ranges of groups of the service's sections. Empty: all clients may use all groups.
    ranges: Vec<GroupRange>,
    /// An answer about a name would have removed channels if another one had been up.
    pub(super) awaits_another: bool,
    /// A channel has come up since.
    has_another: bool,
}

impl Table {
    /// An empty table. Its time is 0.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            groups: BTreeMap::new(),
            freed: Arc::default(),
            came_free: Vec::new(),
            random: Random::new(rules.seed),
            now: Duration::ZERO,
            agenda: Agenda::default(),
            line: Line::new(rules.queue),
            losses: Arc::default(),
            tally: Arc::new(ServiceTally::new(rules.shards)),
            paused: false,
            pauses: Arc::default(),
            outage: ToldOutage::default(),
            changes: Changes::default(),
            stirred: Vec::new(),
            doubts: BTreeSet::new(),
            ranges: Vec::new(),
            awaits_another: false,
            has_another: false,
        }
    }

    /// Sets the ranges of groups: a client may use only the groups of one range. Empty: all groups. No answer
    /// about a name removes the last channel of a range.
    pub fn set_ranges(&mut self, ranges: Vec<GroupRange>) {
        self.ranges = ranges;
    }

    /// These ranges; at least one.
    pub(super) fn ranges(&self) -> Vec<GroupRange> {
        if self.ranges.is_empty() { vec![GroupRange::ALL] } else { self.ranges.clone() }
    }

    /// The range that a group belongs to.
    pub(super) fn range_of(&self, group: GroupId) -> GroupRange {
        self.ranges.iter().copied().find(|range| range.contains(group)).unwrap_or(GroupRange::ALL)
    }

    /// Sets the time since the start of the instance. It never goes back.
    pub fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// Adds a channel at the end of a group, which is created if needed.
    ///
    /// # Errors
    /// `NoSlot` if the group has used up its [`MAX_CHANNELS`](super::MAX_CHANNELS) numbers.
    pub fn create(
        &mut self,
        group: GroupId,
        addresses: Addresses,
        maxc: Option<NonZeroU32>,
        state: AdminState,
    ) -> Result<ChannelId, EditError> {
        self.add(group, addresses, |channel| (channel.maxc, channel.state) = (maxc, state))
    }

    /// Uses up the next channel number of a group, as if its channel had been removed.
    ///
    /// # Errors
    /// `NoSlot`, as for [`create`](Self::create).
    pub fn skip(&mut self, group: GroupId) -> Result<ChannelId, EditError> {
        let nowhere = Addresses::from(Address::from(([0, 0, 0, 0], 0)));
        self.add(group, nowhere, |channel| channel.removed = true)
    }

    /// Adds a channel and sets its values by `set`.
    pub(super) fn add(
        &mut self,
        group: GroupId,
        addresses: Addresses,
        set: impl FnOnce(&mut Channel),
    ) -> Result<ChannelId, EditError> {
        let taken = self.groups.get(&group).map_or(0, |group| group.channels().len());
        let id = ChannelId::new(taken).ok_or(EditError::NoSlot)?;
        let key = ChannelKey { group, channel: id };
        let slots = Arc::new(Slots::new(key, Arc::clone(&self.freed), self.rules.shards));
        let health = Health::new(&self.rules.health, self.now, &mut self.random);
        let reach = Reach::of(addresses.as_slice().len(), 0, self.now, &mut self.random);
        let mut channel = Channel::new(addresses, None, AdminState::Disabled, health, slots);
        channel.reach = reach;
        channel.begin_naming(self.now);
        channel.paused = self.paused;
        set(&mut channel);
        self.group_mut(group).push(channel);
        self.hear(group);
        self.schedule(key);
        Ok(id)
    }

    /// Gives a disabled channel new addresses. Leases taken before keep the old ones; nothing is known about
    /// the new ones.
    ///
    /// # Errors
    /// `UnknownChannel`, or `NotDisabled` if it is enabled.
    pub fn assign(&mut self, key: ChannelKey, addresses: Addresses) -> Result<(), EditError> {
        let channel = self.get(key).ok_or(EditError::UnknownChannel)?;
        if channel.head.is_some() || addresses.family().is_some() {
            return Err(EditError::UnknownChannel);
        }
        if channel.is_enabled() {
            return Err(EditError::NotDisabled);
        }
        // From now on it belongs to no set.
        self.leave_family(key);
        self.move_to(key, addresses)
    }

    /// Gives a channel other addresses, about which nothing is known.
    pub(super) fn move_to(&mut self, key: ChannelKey, addresses: Addresses) -> Result<(), EditError> {
        if let Some(group) = self.groups.get_mut(&key.group) {
            group.assign(key.channel.index(), addresses);
        }
        self.hear(key.group);
        let (rules, now) = (self.rules.health, self.now);
        self.edit_by_lot(key, |channel, random| {
            channel.health.begin_anew(&rules, now, random);
            channel.begin_naming(now);
            channel.lives = channel.lives.wrapping_add(1);
            channel.reach = Reach::of(channel.addresses.as_slice().len(), channel.lives, now, random);
            channel.used = None;
            channel.unanswered = false;
            channel.connect_times.clear();
        })?;
        self.schedule(key);
        Ok(())
    }

    /// Sets the admin state; returns the previous state.
    ///
    /// # Errors
    /// `UnknownChannel`.
    pub fn set_state(&mut self, key: ChannelKey, state: AdminState) -> Result<AdminState, EditError> {
        let (rules, now) = (self.rules.health, self.now);
        if state == AdminState::Enabled {
            // An operator who enables a channel wants to keep it.
            self.set_retires(key, false);
        }
        for member in self.members(key) {
            self.set_state(member, state)?;
        }
        self.edit(key, |channel| {
            let before = std::mem::replace(&mut channel.state, state);
            channel.autodisabled = false;
            // An operator who enables a channel says that it is in order.
            channel.unanswered &= state != AdminState::Enabled;
            // After a time without clients, as after a failure, its server has to warm up.
            if before != state && channel.takes_clients() && channel.health.is_up() {
                channel.health.start_ramp(&rules, now);
            }
            before
        })
    }

    /// Removes a disabled channel without connections. Its number is not reused.
    ///
    /// # Errors
    /// `UnknownChannel`, `NotDisabled`, or `Busy`.
    pub fn remove(&mut self, key: ChannelKey) -> Result<(), EditError> {
        let channel = self.get(key).ok_or(EditError::UnknownChannel)?;
        if channel.is_enabled() {
            return Err(EditError::NotDisabled);
        }
        if channel.slots.active() > 0 {
            return Err(EditError::Busy);
        }
        self.remember_removal(key);
        self.take_away(key);
        Ok(())
    }

    /// Removes a channel in any state.
    pub(super) fn take_away(&mut self, key: ChannelKey) {
        self.leave_family(key);
        for member in self.members(key) {
            // This cannot fail, since the channel was just found.
            let _ = self.retire(member);
        }
        let Some(channel) = self.get(key) else { return };
        self.agenda.put(key, channel.probe_at, None);
        if let Some(group) = self.groups.get_mut(&key.group) {
            group.remove(key.channel.index());
        }
        self.hear(key.group);
    }

    /// Sets a group's policy; the group is created if needed.
    pub fn set_policy(&mut self, group: GroupId, policy: Policy) {
        self.group_mut(group).set_policy(policy);
        self.hear(group);
    }

    fn group_mut(&mut self, group: GroupId) -> &mut Group {
        self.groups.entry(group).or_insert_with(|| Group::new(self.rules.policy))
    }

    /// Sets the limit of a channel. Connections above a lowered limit stay open.
    ///
    /// # Errors
    /// `UnknownChannel`.
    pub fn set_maxc(&mut self, key: ChannelKey, maxc: Option<NonZeroU32>) -> Result<(), EditError> {
        for member in self.members(key) {
            self.set_maxc(member, maxc)?;
        }
        self.edit(key, |channel| channel.maxc = maxc)
    }

    /// Sets a channel's weight.
    ///
    /// # Errors
    /// `UnknownChannel`.
    pub fn set_weight(&mut self, key: ChannelKey, weight: Weight) -> Result<(), EditError> {
        let channel = self.get(key).ok_or(EditError::UnknownChannel)?;
        let is_each = channel.addresses.family() == Some(FamilyKind::Each);
        if let Some(group) = self.groups.get_mut(&key.group) {
            group.set_weight(key.channel.index(), weight);
        }
        self.hear(key.group);
        if is_each {
            for member in self.members(key) {
                self.edit(member, |one| one.member.as_mut().map(|member| member.weight = weight))?;
                self.set_weight(member, weight)?;
            }
        }
        Ok(())
    }

    /// Sets how to speak to a channel, for clients that get it from now on.
    ///
    /// # Errors
    /// `UnknownChannel`.
    pub fn set_manner(&mut self, key: ChannelKey, manner: ChannelManner) -> Result<(), EditError> {
        let (rules, now) = (self.rules.health, self.now);
        for member in self.members(key) {
            self.set_manner(member, manner.clone())?;
        }
        self.edit_by_lot(key, |channel, random| {
            if channel.manner.check != manner.check {
                channel.health.change_check((&manner.check).into(), &rules, now, random);
            }
            channel.manner = manner;
        })?;
        self.schedule(key);
        Ok(())
    }

    /// Sets sent, rcvd, totalc, failed and connect times of a channel to zero.
    ///
    /// # Errors
    /// `UnknownChannel`.
    pub fn reset_counters(&mut self, key: ChannelKey) -> Result<(), EditError> {
        self.edit(key, Channel::reset_counters)
    }

    /// Was the group ever used (a channel created, a policy set)?
    pub fn has_group(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// One channel as it is now, except `waiting`, which is left at 0.
    pub fn channel(&self, key: ChannelKey) -> Option<ChannelSnapshot> {
        let weighs = self.groups.get(&key.group)?.policy().weighs();
        let channel = self.get(key)?;
        let mut seen = channel.snapshot(&self.rules.health, weighs, self.now, 0);
        // A word has the connections of its channels.
        if channel.head.is_some() {
            seen.active =
                self.members(key).into_iter().filter_map(|one| Some(self.get(one)?.slots.active())).sum();
        }
        Some(seen)
    }

    /// The operator's decision about a channel.
    pub fn state(&self, key: ChannelKey) -> Option<AdminState> {
        self.get(key).map(|channel| channel.state)
    }

    /// The present connections of all channels. Reads every channel.
    pub fn active(&self) -> u64 {
        let channels = self.groups.values().flat_map(Group::channels);
        channels.map(|channel| u64::from(channel.slots.active())).sum()
    }

    /// How many channels take clients and are up, full or not, and how many channels there are.
    pub fn up_and_all(&self) -> (usize, usize) {
        let groups = self.groups.values();
        groups.fold((0, 0), |(up, all), group| (up + group.count_up(), all + group.existing))
    }

    /// Is there a channel that takes clients and is up, full or not?
    pub fn has_up(&self) -> bool {
        self.groups.values().any(Group::has_up)
    }

    /// Should some channel take clients, while none of them is up? `false` if all are disabled, since an
    /// operator did that and knows it; but with `-a`, balance may have disabled them, and disabled ones count.
    pub fn is_out(&self) -> bool {
        let counts = |group: &Group| if self.rules.autodisable { group.existing } else { group.enabled };
        !self.paused && !self.has_up() && self.groups.values().any(|group| counts(group) > 0)
    }

    /// What operators were told about a time without any channel; the code that tells them updates it.
    pub fn outage(&mut self) -> &mut ToldOutage {
        &mut self.outage
    }

    /// Starts a client's walk at group 0.
    pub fn begin(&self, client: ClientAddr) -> Route {
        self.begin_within(client, GroupRange::ALL)
    }

    /// Starts a client's walk at the first of these groups, which it never leaves.
    pub fn begin_within(&self, client: ClientAddr, within: GroupRange) -> Route {
        Route::new(client, within)
    }

    /// The next channel of the walk, with its slot taken and counted. Calling it again for the same route
    /// means that the dial of the previous channel failed (report that by [`failed`](Self::failed) first).
    /// Only for tables where no client waits: it does not check that.
    ///
    /// # Errors
    /// The walk is over; the most informative reason.
    pub fn next(&mut self, route: &mut Route) -> Result<Lease, NoChannel> {
        self.learn_freed();
        self.walk(route, Patience::NONE, self.rules.health.fail_open)
    }

    /// A step that uses only the freed slots known so far.
    pub(super) fn walk(
        &mut self,
        route: &mut Route,
        patience: Patience,
        fail_open: bool,
    ) -> Result<Lease, NoChannel> {
        let (rules, random, stirred) = (&self.rules, &mut self.random, &mut self.stirred);
        let mut world = World { rules, now: self.now, random, patience, fail_open, stirred };
        let found = route.step(&mut self.groups, &mut world);
        while let Some(group) = self.stirred.pop() {
            self.hear(group);
        }
        found
    }

    /// A channel to try beside the one that the walk handed out last and that has not answered yet: in the
    /// same group, up and with room. Waiting clients are served first; `grants` receives their slots. `None`:
    /// there is none now.
    pub fn next_beside(&mut self, route: &mut Route, grants: &mut Vec<Grant>) -> Option<Lease> {
        self.serve_before_newcomer(grants);
        let (rules, random, stirred) = (&self.rules, &mut self.random, &mut self.stirred);
        let patience = Patience::NONE;
        let mut world = World { rules, now: self.now, random, patience, fail_open: false, stirred };
        let found = route.step_beside(&mut self.groups, &mut world);
        while let Some(group) = self.stirred.pop() {
            self.hear(group);
        }
        found
    }

    /// Gives back a channel that could not be tried beside another one, for a reason on balance's side.
    pub fn give_back(&mut self, route: &mut Route, lease: Lease) {
        route.forget_last();
        drop(lease);
    }

    /// Another channel answered first, which is no failure of this one. But if this one had not answered at
    /// all by then, it may be down, and no client would ever wait long enough to find out: so it is probed in
    /// the background.
    pub fn outrun(&mut self, lease: Lease, has_answered: bool) {
        let (key, now) = (lease.key(), self.now);
        let is_minded = self.rules.health.eject && !self.rules.autodisable;
        let _ = self.edit(key, |channel| {
            channel.slots.outrun(has_answered);
            let is_same = !channel.paused && channel.addresses == *lease.addresses();
            if is_minded && !has_answered && is_same {
                channel.health.doubt(now);
            }
        });
        drop(lease);
        self.schedule(key);
    }

    /// The dial failed, as `words` say in full. Frees the slot and counts the failure. If the fault is the
    /// channel's, ejects it, or disables it with `-a`.
    ///
    /// A channel that got other addresses or returned since is left alone: it is not the one that failed. So
    /// is a paused channel, whose server is being restarted.
    pub fn failed(
        &mut self,
        lease: Lease,
        why: DialFailure,
        cause: DialCause,
        words: &str,
    ) -> Option<Transition> {
        let (key, rules, now) = (lease.key(), self.rules, self.now);
        let happened = self.edit_by_lot(key, |channel, random| {
            channel.count_failure(cause, words, now);
            let is_same = !channel.paused && channel.addresses == *lease.addresses();
            if why == DialFailure::Unproven && is_same && rules.health.eject && !rules.autodisable {
                channel.health.doubt(now);
                return None;
            }
            if why != DialFailure::Channel || !is_same {
                return None;
            }
            if rules.autodisable {
                channel.health.learned();
                channel.unanswered = true;
                let disables = channel.is_enabled();
                if disables {
                    channel.state = AdminState::Disabled;
                    channel.autodisabled = true;
                }
                return disables.then_some(Happened::Autodisabled);
            }
            let ejects = channel.health.connect_failed(&rules.health, lease.returns(), words, now, random);
            ejects.then(|| Happened::Ejected(words.to_owned()))
        });
        if why == DialFailure::Unproven {
            self.schedule(key);
        }
        let what = happened.ok().flatten()?;
        self.doubt(key);
        self.schedule(key);
        Some(Transition { channel: key, address: lease.addresses().first(), what })
    }

    /// The dial succeeded after the time `took`. An ejected channel is back by that.
    pub fn connected(&mut self, route: Route, lease: &Lease, took: Duration) -> Option<Transition> {
        let (key, rules, now) = (lease.key(), self.rules.health, self.now);
        let group = self.groups.get_mut(&key.group)?;
        route.arrive(key, group);
        let change = group.connected(key.channel.index(), lease, &rules, now, took)?;
        self.hear(key.group);
        self.schedule(key);
        Some(self.transition(key, change))
    }

    pub(super) fn transition(&self, key: ChannelKey, change: Change) -> Transition {
        let what = match change {
            Change::Returned(after) => Happened::Returned(after),
            Change::Ejected(why) => Happened::Ejected(why),
            Change::Fell(why) => Happened::Down(why),
            Change::Rose(after) => Happened::Up(after),
        };
        let nowhere = Address::from(([0, 0, 0, 0], 0));
        Transition { channel: key, address: self.get(key).map_or(nowhere, |c| c.addresses.first()), what }
    }

    pub(super) fn get(&self, key: ChannelKey) -> Option<&Channel> {
        let channel = self.groups.get(&key.group)?.channels().get(key.channel.index());
        channel.filter(|channel| !channel.removed)
    }

    pub(super) fn edit<T>(
        &mut self,
        key: ChannelKey,
        edit: impl FnOnce(&mut Channel) -> T,
    ) -> Result<T, EditError> {
        self.edit_by_lot(key, |channel, _| edit(channel))
    }

    pub(super) fn edit_by_lot<T>(
        &mut self,
        key: ChannelKey,
        edit: impl FnOnce(&mut Channel, &mut Random) -> T,
    ) -> Result<T, EditError> {
        let group = self.groups.get_mut(&key.group).ok_or(EditError::UnknownChannel)?;
        let random = &mut self.random;
        let answer = group.edit(key.channel.index(), |channel| edit(channel, random));
        self.hear(key.group);
        answer.ok_or(EditError::UnknownChannel)
    }

    /// Has a channel come up that an answer about a name was waiting for? Then the resolver applies that
    /// answer again.
    pub fn has_another(&self) -> bool {
        self.has_another
    }

    /// The same, but returned as `true` only once.
    pub fn take_another(&mut self) -> bool {
        let has_another = std::mem::take(&mut self.has_another);
        self.awaits_another &= !has_another;
        has_another
    }

    /// Tells waiting clients about changes in a group.
    pub(super) fn hear(&mut self, id: GroupId) {
        if let Some(group) = self.groups.get_mut(&id) {
            self.has_another |= self.awaits_another && !group.news.ready.is_empty();
            self.changes.hear(id, group, &mut self.line, &self.rules);
        }
    }

    /// Lets shares grow with time in all groups.
    pub(super) fn advance_groups(&mut self) {
        let (rules, now) = (self.rules.health, self.now);
        for (&id, group) in &mut self.groups {
            group.advance(&rules, now);
            if !group.news.are_none() {
                self.stirred.push(id);
            }
        }
        while let Some(group) = self.stirred.pop() {
            self.hear(group);
        }
    }

    /// Plans the probe that a channel's health wants next.
    pub(super) fn schedule(&mut self, key: ChannelKey) {
        let Some(group) = self.groups.get_mut(&key.group) else { return };
        let Some((old, new)) = group.plan_probe(key.channel.index()) else { return };
        self.agenda.put(key, old, new);
    }

    /// Checks the channels that were full and got a slot back since the last pick.
    pub(super) fn learn_freed(&mut self) {
        self.freed.drain_into(&mut self.came_free);
        while let Some(key) = self.came_free.pop() {
            if let Some(group) = self.groups.get_mut(&key.group) {
                group.refresh(key.channel.index());
            }
            self.hear(key.group);
            self.see_off(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::net::SocketAddr;

    use super::super::{MAX_CHANNELS, MAX_GROUPS};
    use super::*;

    const RULES: Rules = Rules { shards: 2, ..Rules::CLASSIC };

    fn address(n: u8) -> Addresses {
        Addresses::from(SocketAddr::from(([127, 0, 0, n], 80)))
    }

    fn client() -> ClientAddr {
        ClientAddr::from(IpAddr::from([192, 0, 2, 1]))
    }

    fn key(group: usize, channel: usize) -> ChannelKey {
        let group = GroupId::new(group).expect("a group");
        ChannelKey { group, channel: ChannelId::new(channel).expect("a channel") }
    }

    /// A table whose group 0 has channels 127.0.0.0, 127.0.0.1 ... with these limits (0 = none).
    fn table(rules: Rules, limits: &[u32]) -> Table {
        let mut table = Table::new(rules);
        for (n, &maxc) in limits.iter().enumerate() {
            let maxc = NonZeroU32::new(maxc);
            table.create(GroupId::FIRST, address(n as u8), maxc, AdminState::Enabled).expect("a slot");
        }
        table
    }

    fn pick(table: &mut Table) -> Result<Lease, NoChannel> {
        let mut route = table.begin(client());
        let lease = table.next(&mut route)?;
        table.connected(route, &lease, Duration::ZERO);
        Ok(lease)
    }

    #[test]
    fn edits_of_what_is_not_there_are_refused() {
        let mut table = table(RULES, &[0]);
        for key in [key(0, 1), key(1, 0), key(MAX_GROUPS - 1, MAX_CHANNELS - 1)] {
            let unknown = Err(EditError::UnknownChannel);
            assert_eq!(table.assign(key, address(9)), unknown);
            assert_eq!(table.set_state(key, AdminState::Disabled).map(drop), unknown);
            assert_eq!(table.set_maxc(key, None), unknown);
            assert_eq!(table.reset_counters(key), unknown);
            assert_eq!(table.channel(key), None);
        }
        assert_eq!(table.snapshot().groups.len(), 1, "a refused edit brings nothing into being");
    }

    #[test]
    fn a_group_has_numbers_for_so_many_channels_and_no_more() {
        let mut table = Table::new(Rules { shards: 0, ..RULES });
        let last = GroupId::new(MAX_GROUPS - 1).expect("the last group");
        for n in 0..MAX_CHANNELS {
            let created = table.create(last, address(1), None, AdminState::Disabled);
            assert_eq!(created.map(ChannelId::index), Ok(n));
        }
        assert_eq!(table.create(last, address(1), None, AdminState::Enabled), Err(EditError::NoSlot));
        table.set_state(key(MAX_GROUPS - 1, MAX_CHANNELS - 1), AdminState::Enabled).expect("the last one");
        let lease = pick(&mut table).expect("the last channel of the last group");
        assert_eq!(lease.key(), key(MAX_GROUPS - 1, MAX_CHANNELS - 1));
        assert!(table.has_group(last) && !table.has_group(GroupId::FIRST));
    }

    #[test]
    fn groups_come_into_being_by_a_channel_or_a_policy_only() {
        let mut table = Table::new(RULES);
        let fifth = GroupId::new(5).expect("small");
        assert!(!table.has_group(fifth));
        table.set_policy(fifth, Policy::Hash);
        assert!(table.has_group(fifth) && !table.has_group(GroupId::FIRST));
        let snapshot = table.snapshot();
        let groups: Vec<_> =
            snapshot.groups.iter().map(|g| (g.id.index(), g.policy, g.channels.len())).collect();
        assert_eq!(groups, [(5, Policy::Hash, 0)]);
    }

    #[test]
    fn only_a_disabled_channel_takes_an_address_and_old_leases_keep_theirs() {
        let mut table = table(RULES, &[0]);
        let lease = pick(&mut table).expect("a channel");
        assert_eq!(table.assign(key(0, 0), address(9)), Err(EditError::NotDisabled));
        for state in [AdminState::Disabled, AdminState::DisabledHard] {
            assert!(table.set_state(key(0, 0), state).is_ok());
            assert_eq!(table.assign(key(0, 0), address(9)), Ok(()), "{state:?}");
        }
        assert_eq!(lease.addresses(), &address(0));
        assert_eq!(table.set_state(key(0, 0), AdminState::Enabled), Ok(AdminState::DisabledHard));
        let next = pick(&mut table).expect("enabled again");
        assert_eq!((next.addresses(), table.active()), (&address(9), 2));
    }

    #[test]
    fn counters_tell_hand_outs_failures_and_bytes() {
        let mut table = table(RULES, &[0]);
        let (one, two, three) = (pick(&mut table), pick(&mut table), pick(&mut table));
        let (one, two, three) = (one.expect("1"), two.expect("2"), three.expect("3"));
        assert_eq!(table.failed(one, DialFailure::Channel, DialCause::Refused, "refused"), None);
        assert_eq!(table.failed(two, DialFailure::Local, DialCause::NoPort, "refused"), None);
        three.slot().add_sent(0, 3);
        three.slot().add_sent(1, 4);
        three.slot().add_rcvd(9, 5);
        let told = |table: &Table| {
            let c = table.channel(key(0, 0)).expect("it exists");
            (c.active, c.totalc, c.failed, c.sent_bytes, c.rcvd_bytes)
        };
        assert_eq!(told(&table), (1, 3, 2, 7, 5));
        table.reset_counters(key(0, 0)).expect("it exists");
        assert_eq!(told(&table), (1, 0, 0, 0, 0), "connections are no counter");
        drop(three);
        assert_eq!((told(&table), table.active()), ((0, 0, 0, 0, 0), 0));
    }

    #[test]
    fn autodisable_disables_once_and_never_for_our_own_faults() {
        let mut table = table(Rules { autodisable: true, ..RULES }, &[0]);
        let leases: Vec<_> = (0..4).map(|_| pick(&mut table).expect("a channel")).collect();
        let [a, b, c, d] = <[Lease; 4]>::try_from(leases).expect("four");
        assert_eq!(table.failed(a, DialFailure::Local, DialCause::NoPort, "refused"), None);
        let said = Some(Transition {
            channel: key(0, 0),
            address: address(0).first(),
            what: Happened::Autodisabled,
        });
        assert_eq!(table.failed(b, DialFailure::Channel, DialCause::Refused, "refused"), said);
        assert_eq!(table.failed(c, DialFailure::Channel, DialCause::Refused, "refused"), None, "said once");
        let addresses_up = |table: &Table| table.channel(key(0, 0)).map(|channel| channel.addresses_up());
        assert_eq!(addresses_up(&table), Some(0), "its address did not answer");
        let by_itself = |table: &Table| table.channel(key(0, 0)).map(|channel| channel.autodisabled);
        assert_eq!(by_itself(&table), Some(true));
        assert_eq!(pick(&mut table).err(), Some(NoChannel::Disabled));
        table.assign(key(0, 0), address(9)).expect("disabled");
        assert_eq!(addresses_up(&table), Some(1), "nothing is known of the new one");
        table.set_state(key(0, 0), AdminState::Disabled).expect("it exists");
        assert_eq!(by_itself(&table), Some(false), "an operator has spoken");
        table.set_state(key(0, 0), AdminState::Enabled).expect("it exists");
        assert_eq!(
            table.failed(d, DialFailure::Channel, DialCause::Refused, "refused"),
            None,
            "the address that failed is gone"
        );
        assert!(pick(&mut table).is_ok());
    }

    #[test]
    fn a_hard_disabled_channel_is_not_softened_by_a_failure() {
        let mut table = table(Rules { autodisable: true, ..RULES }, &[0]);
        let lease = pick(&mut table).expect("a channel");
        table.set_state(key(0, 0), AdminState::DisabledHard).expect("it exists");
        assert_eq!(table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused"), None);
        assert_eq!(table.channel(key(0, 0)).map(|c| c.state), Some(AdminState::DisabledHard));
    }

    #[test]
    fn a_lowered_limit_takes_nobody_until_below_and_a_raised_one_at_once() {
        let mut table = table(RULES, &[3]);
        let mut leases: Vec<_> = (0..3).map(|_| pick(&mut table).expect("below 3")).collect();
        table.set_maxc(key(0, 0), NonZeroU32::new(2)).expect("it exists");
        for _ in 0..2 {
            assert_eq!(pick(&mut table).err(), Some(NoChannel::Full));
            leases.pop();
        }
        leases.push(pick(&mut table).expect("one below 2"));
        assert_eq!(pick(&mut table).err(), Some(NoChannel::Full));
        table.set_maxc(key(0, 0), NonZeroU32::new(3)).expect("it exists");
        leases.push(pick(&mut table).expect("one below 3"));
        assert_eq!(pick(&mut table).err(), Some(NoChannel::Full));
        table.set_maxc(key(0, 0), None).expect("it exists");
        assert!(pick(&mut table).is_ok());
    }

    #[test]
    fn a_slot_that_ends_while_disabled_counts_when_enabled_again() {
        let mut table = table(RULES, &[1]);
        let lease = pick(&mut table).expect("a channel");
        table.set_state(key(0, 0), AdminState::Disabled).expect("it exists");
        drop(lease);
        assert_eq!(pick(&mut table).err(), Some(NoChannel::Disabled));
        table.set_state(key(0, 0), AdminState::Enabled).expect("it exists");
        assert!(pick(&mut table).is_ok());
    }
}

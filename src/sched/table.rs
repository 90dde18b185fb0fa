//! All groups, and the only place that changes them.
//!
//! Knows: every group, the rules of the instance. Never: text formats, sockets, files, signals.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::channel::Channel;
use super::lease::{Freed, Slots};
use super::pick::Group;
use super::{
    Addresses, AdminState, ChannelId, ChannelKey, ChannelSnapshot, ClientAddr, GroupId, GroupSnapshot, Lease,
    NoChannel, Policy, Route, Snapshot,
};

/// What holds for the whole instance.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// `-H`: a hash group fails over inside the group too.
    pub hash_failover: bool,
    /// `-a`: a channel whose connect fails is disabled.
    pub autodisable: bool,
    /// How many workers count bytes; each gets its own cache line per channel. At least 1.
    pub shards: usize,
}

/// Whose fault a failed dial was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialFailure {
    /// The channel's: refused, timed out, unreachable.
    Channel,
    /// Ours: no descriptors, no source port, `-B` not bindable. Never autodisables.
    Local,
}

/// What a failure changed, to be told to the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// `-a` disabled this channel just now.
    Autodisabled(ChannelKey, SocketAddr),
}

/// Why an edit was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditError {
    /// The group has no such channel.
    UnknownChannel,
    /// All channel numbers of the group are taken.
    NoSlot,
    /// Only a disabled channel takes a new address.
    NotDisabled,
}

/// All groups and channels. `&mut self` throughout, so that rules are tested without threads; the running program shares
/// it as [`SharedTable`](super::SharedTable).
#[derive(Debug)]
pub struct Table {
    rules: Rules,
    /// Only those that were touched: a group number costs nothing.
    groups: BTreeMap<GroupId, Group>,
    freed: Arc<Freed>,
    /// Where `freed` is read into; kept for its memory, empty between calls.
    news: Vec<ChannelKey>,
}

impl Table {
    /// An empty table.
    pub fn new(rules: Rules) -> Self {
        Self { rules, groups: BTreeMap::new(), freed: Arc::default(), news: Vec::new() }
    }

    /// Adds a channel at the end of a group (which comes into being with it).
    ///
    /// # Errors
    /// `NoSlot` if the group has [`MAX_CHANNELS`](super::MAX_CHANNELS) channels.
    pub fn create(
        &mut self,
        group: GroupId,
        addresses: Addresses,
        maxc: Option<NonZeroU32>,
        state: AdminState,
    ) -> Result<ChannelId, EditError> {
        let taken = self.groups.get(&group).map_or(0, |group| group.channels().len());
        let id = ChannelId::new(taken).ok_or(EditError::NoSlot)?;
        let key = ChannelKey { group, channel: id };
        let slots = Arc::new(Slots::new(key, Arc::clone(&self.freed), self.rules.shards));
        let group = self.groups.entry(group).or_insert_with(Group::new);
        group.push(Channel::new(addresses, maxc, state, slots));
        Ok(id)
    }

    /// Gives a disabled channel new addresses. Leases taken before keep the old ones.
    ///
    /// # Errors
    /// `UnknownChannel`, or `NotDisabled` if it takes connections.
    pub fn assign(&mut self, key: ChannelKey, addresses: Addresses) -> Result<(), EditError> {
        if self.get(key).ok_or(EditError::UnknownChannel)?.is_enabled() {
            return Err(EditError::NotDisabled);
        }
        if let Some(group) = self.groups.get_mut(&key.group) {
            group.assign(key.channel.index(), addresses);
        }
        Ok(())
    }

    /// Sets the admin state; answers the state before.
    ///
    /// # Errors
    /// `UnknownChannel`.
    pub fn set_state(&mut self, key: ChannelKey, state: AdminState) -> Result<AdminState, EditError> {
        self.edit(key, |channel| std::mem::replace(&mut channel.state, state))
    }

    /// Sets a group's policy (the group comes into being with it).
    pub fn set_policy(&mut self, group: GroupId, policy: Policy) {
        self.groups.entry(group).or_insert_with(Group::new).set_policy(policy);
    }

    /// Sets the limit of a channel. Connections above a lowered limit live on.
    ///
    /// # Errors
    /// `UnknownChannel`.
    pub fn set_maxc(&mut self, key: ChannelKey, maxc: Option<NonZeroU32>) -> Result<(), EditError> {
        self.edit(key, |channel| channel.maxc = maxc)
    }

    /// Zeroes sent, rcvd, totalc and failed of a channel.
    ///
    /// # Errors
    /// `UnknownChannel`.
    pub fn reset_counters(&mut self, key: ChannelKey) -> Result<(), EditError> {
        self.edit(key, Channel::reset_counters)
    }

    /// Was the group ever touched (a channel created, a policy set)?
    pub fn has_group(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// One channel as it is now.
    pub fn channel(&self, key: ChannelKey) -> Option<ChannelSnapshot> {
        self.get(key).map(Channel::snapshot)
    }

    /// Everything as it is now.
    pub fn snapshot(&self) -> Snapshot {
        let groups = self.groups.iter().map(|(&id, group)| GroupSnapshot {
            id,
            policy: group.policy(),
            channels: group.channels().iter().map(Channel::snapshot).collect(),
        });
        Snapshot { groups: groups.collect() }
    }

    /// Connections of all channels now. Looks at every channel.
    pub fn active(&self) -> u64 {
        let channels = self.groups.values().flat_map(Group::channels);
        channels.map(|channel| u64::from(channel.slots.active())).sum()
    }

    /// Starts a client's walk at group 0.
    pub fn begin(&self, client: ClientAddr) -> Route {
        Route::new(client)
    }

    /// The next channel of the walk, its slot taken and counted. Calling it again for the same route says that the dial
    /// of the channel before failed (tell [`failed`](Self::failed) first).
    ///
    /// # Errors
    /// The walk is over; the most telling reason.
    pub fn next(&mut self, route: &mut Route) -> Result<Lease, NoChannel> {
        self.learn_freed();
        route.step(&mut self.groups, self.rules.hash_failover)
    }

    /// The dial failed: frees the slot, counts the failure, autodisables if `-a` and the fault is the channel's.
    ///
    /// A channel that got other addresses since is not disabled: they are not the ones that failed.
    pub fn failed(&mut self, lease: Lease, why: DialFailure) -> Option<Transition> {
        let key = lease.key();
        let disable = self.rules.autodisable && why == DialFailure::Channel;
        let disabled = self.edit(key, |channel| {
            channel.failed += 1;
            let disable = disable && channel.is_enabled() && channel.addresses == *lease.addresses();
            if disable {
                channel.state = AdminState::Disabled;
            }
            disable
        });
        disabled.unwrap_or(false).then(|| Transition::Autodisabled(key, lease.addresses().first()))
    }

    /// The dial succeeded.
    pub fn connected(&mut self, route: Route, lease: &Lease) {
        if let Some(group) = self.groups.get_mut(&lease.key().group) {
            route.arrive(group);
        }
    }

    fn get(&self, key: ChannelKey) -> Option<&Channel> {
        self.groups.get(&key.group)?.channels().get(key.channel.index())
    }

    fn edit<T>(&mut self, key: ChannelKey, edit: impl FnOnce(&mut Channel) -> T) -> Result<T, EditError> {
        let group = self.groups.get_mut(&key.group).ok_or(EditError::UnknownChannel)?;
        group.edit(key.channel.index(), edit).ok_or(EditError::UnknownChannel)
    }

    /// Looks at the channels that were full and got a slot back since the last pick.
    fn learn_freed(&mut self) {
        self.freed.drain_into(&mut self.news);
        for key in self.news.drain(..) {
            if let Some(group) = self.groups.get_mut(&key.group) {
                group.refresh(key.channel.index());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::{MAX_CHANNELS, MAX_GROUPS};
    use super::*;

    const RULES: Rules = Rules { hash_failover: false, autodisable: false, shards: 2 };

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
        table.connected(route, &lease);
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
        assert_eq!(table.failed(one, DialFailure::Channel), None);
        assert_eq!(table.failed(two, DialFailure::Local), None);
        three.add_sent(0, 3);
        three.add_sent(1, 4);
        three.add_rcvd(9, 5);
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
        assert_eq!(table.failed(a, DialFailure::Local), None);
        let said = Some(Transition::Autodisabled(key(0, 0), address(0).first()));
        assert_eq!(table.failed(b, DialFailure::Channel), said);
        assert_eq!(table.failed(c, DialFailure::Channel), None, "said once");
        assert_eq!(pick(&mut table).err(), Some(NoChannel::Disabled));
        table.assign(key(0, 0), address(9)).expect("disabled");
        table.set_state(key(0, 0), AdminState::Enabled).expect("it exists");
        assert_eq!(table.failed(d, DialFailure::Channel), None, "the address that failed is gone");
        assert!(pick(&mut table).is_ok());
    }

    #[test]
    fn a_hard_disabled_channel_is_not_softened_by_a_failure() {
        let mut table = table(Rules { autodisable: true, ..RULES }, &[0]);
        let lease = pick(&mut table).expect("a channel");
        table.set_state(key(0, 0), AdminState::DisabledHard).expect("it exists");
        assert_eq!(table.failed(lease, DialFailure::Channel), None);
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

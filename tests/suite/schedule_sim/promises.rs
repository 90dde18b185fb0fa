//! What must always be true, seen from outside and without a model.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use balance::sched::{
    AdminState, ChannelKey, ChannelSnapshot, HealthState, Lease, Policy, Rules, Snapshot, Table, Weight,
};

use super::crowd::{Seen, Waiting};
use super::{Random, key, place, some_client};

/// A step of a walk, and the table as it was before it.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) before: &'a Snapshot,
    pub(super) rules: &'a Rules,
    pub(super) seen: &'a Seen,
    /// The client goes in line now.
    pub(super) waits: bool,
    /// The walk began again at group 0.
    pub(super) again: bool,
}

impl Step<'_> {
    /// The step gave this channel: was it allowed to? `true` = the channel was up.
    pub(super) fn gave(self, lease: &Lease) -> bool {
        let Self { rules, seen, .. } = self;
        let (at, is_up) = (lease.key(), is_up(self.before, lease.key()));
        assert!(!seen.visited.contains(&at), "{at:?} twice, {seen:?}");
        if is_up {
            assert!(!seen.second_round, "{at:?} is up, but those are used up: {seen:?}");
            self.passed_over(self.first(), at.group.index(), true);
            return true;
        }
        assert!(rules.health.fail_open, "{at:?} is not up");
        let mut first = self.first();
        if !seen.second_round {
            assert!(!self.is_any_ready(), "the second round begins with {at:?}, but some are up: {seen:?}");
            first = 0;
        }
        self.passed_over(first, at.group.index(), false);
        false
    }

    /// The step gave nothing: was there nothing?
    pub(super) fn gave_nothing(self) {
        if !self.seen.second_round {
            self.passed_over(self.first(), usize::MAX, true);
        }
        let second = self.seen.second_round;
        if self.rules.health.fail_open && !self.waits && (second || !self.is_any_ready()) {
            self.passed_over(if second { self.first() } else { 0 }, usize::MAX, false);
        }
    }

    /// Is any untried channel up and usable, even one that hashing keeps from this client?
    fn is_any_ready(self) -> bool {
        self.any(0, usize::MAX, true, |channel| has_room(channel) && is_healthy(channel))
    }

    /// Walks never go back but to wait.
    fn first(self) -> usize {
        if self.again {
            return 0;
        }
        self.seen.visited.last().map_or(0, |key| key.group.index())
    }

    /// No usable untried channel was left out in these groups, up ones or others.
    fn passed_over(self, first: usize, last: usize, up: bool) {
        assert!(first <= last, "back from group {first} to {last}: {:?}", self.seen);
        let missed = |channel: &ChannelSnapshot| has_room(channel) && is_healthy(channel) == up;
        assert!(!self.any(first, last, false, missed), "passed over, up {up}: {:?}", self.before);
    }

    /// `all` = also those that hashing keeps from this client.
    fn any(self, first: usize, last: usize, all: bool, is: impl Fn(&ChannelSnapshot) -> bool) -> bool {
        let groups = self.before.groups.iter().filter(|group| (first..last).contains(&group.id.index()));
        groups.filter(|group| all || group.policy != Policy::Hash || self.rules.hash_failover).any(|group| {
            let g = group.id.index();
            let mut channels = group.channels.iter().filter(|channel| takes_clients(channel));
            channels.any(|c| is(c) && !self.seen.visited.contains(&key(g, c.id.index())))
        })
    }
}

fn takes_clients(channel: &ChannelSnapshot) -> bool {
    channel.state == AdminState::Enabled && channel.weight > Weight::ZERO
}

fn has_room(channel: &ChannelSnapshot) -> bool {
    channel.maxc.is_none_or(|maxc| channel.active < maxc.get())
}

fn is_healthy(channel: &ChannelSnapshot) -> bool {
    !matches!(channel.health.state, HealthState::Ejected | HealthState::Down)
}

pub(super) fn is_up(snapshot: &Snapshot, at: ChannelKey) -> bool {
    let group = snapshot.groups.iter().find(|group| group.id == at.group).expect("it was there");
    is_healthy(group.channels.iter().find(|channel| channel.id == at.channel).expect("it was there"))
}

/// Just handed out: it takes clients, and not too many.
pub(super) fn is_within_limits(table: &Table, lease: &Lease) {
    let now = table.channel(lease.key()).expect("it was handed out");
    assert!(takes_clients(&now), "{now:?}");
    assert!(now.maxc.is_none_or(|maxc| now.active <= maxc.get()), "over the limit: {now:?}");
}

/// Connections of every channel = leases alive, dialling ones included.
pub(super) fn every_slot_has_a_lease<'a>(table: &mut Table, alive: impl Iterator<Item = &'a Lease>) {
    let mut leases = BTreeMap::new();
    for lease in alive {
        *leases.entry(place(lease.key())).or_insert(0) += 1;
    }
    for group in table.snapshot().groups {
        for channel in group.channels {
            let at = (group.id.index(), channel.id.index());
            assert_eq!(channel.active, leases.remove(&at).unwrap_or(0), "connections of {at:?}");
        }
    }
    assert!(leases.is_empty(), "leases of channels that do not exist: {leases:?}");
}

/// After the grants: whoever waits, waits for something.
pub(super) fn nobody_waits_in_vain(now: &Snapshot, line: &[Waiting]) {
    for group in now.groups.iter().filter(|group| group.policy != Policy::Hash) {
        for channel in group.channels.iter().filter(|channel| takes_clients(channel)) {
            let at = (group.id.index(), channel.id.index());
            let is_ready = has_room(channel) && is_healthy(channel);
            let vain = line.iter().find(|waiting| is_ready && !waiting.walk.tried.contains(&at));
            assert!(vain.is_none(), "{:?} waits beside {at:?}", vain.map(|waiting| waiting.ticket));
        }
    }
}

/// With everybody gone, every slot that can be had is had, and not one more.
pub(super) fn every_slot_can_be_had_again(table: &mut Table, rules: &Rules) {
    let mut slots = 0;
    for group in table.snapshot().groups {
        table.set_policy(group.id, Policy::RoundRobin);
        for channel in group.channels {
            let at = key(group.id.index(), channel.id.index());
            table.set_state(at, AdminState::Enabled).expect("it exists");
            table.set_weight(at, Weight::ONE).expect("it exists");
            if channel.maxc.is_none() {
                table.set_maxc(at, NonZeroU32::new(2)).expect("it exists");
            }
            if rules.health.fail_open || is_healthy(&channel) {
                slots += channel.maxc.map_or(2, NonZeroU32::get);
            }
        }
    }
    let mut random = Random(0);
    let mut have = Vec::new();
    while let Ok(lease) = {
        let mut route = table.begin(some_client(&mut random));
        table.next(&mut route)
    } {
        have.push(lease);
    }
    assert_eq!(have.len(), slots as usize, "slots lost or invented");
}

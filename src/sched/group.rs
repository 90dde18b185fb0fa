//! One group: its channels, and what is needed to choose one.
//!
//! Knows: which channels are up and usable, whose turn it is, shares and loads. Never: other groups, how a
//! choice is made, what happens on connect.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::bits::BitTree;
use super::channel::Channel;
use super::health::{Change, STEPS};
use super::loads::{Load, Loads};
use super::news::News;
use super::ramps::Ramps;
use super::rendezvous::Seating;
use super::seat::{Bucket, Seat};
use super::stride::Stride;
use super::totals::{Contribution, Totals};
use super::{Addresses, GroupSnapshot, HealthRules, Lease, Policy, Weight};
use crate::spec::Address;

/// The position of a cursor, and the number of hand-outs that led to it.
///
/// The contract moves the cursor on success, but then two clients that connect at the same time would both
/// get the same channel. So balance moves it when a channel is handed out, and puts it back when a walk
/// leaves the group without success. Moves work like a stack: putting one back also undoes earlier moves. A
/// number is reused only after the route that held it has left the group, so no route takes another's move
/// for its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The channel whose turn it is.
    pub(super) at: u16,
    /// Hand-outs so far, less those that were put back.
    pub(super) moves: u64,
}

/// A group: channels in the order of their numbers, and what is needed to choose one.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) policy: Policy,
    pub(super) channels: Vec<Channel>,
    /// How many channels were not removed.
    pub(super) existing: usize,
    /// How many take clients, full or not, up or not.
    pub(super) enabled: usize,
    /// How many are paused, including removed ones. If 0, no client has to be asked whether it waits for a
    /// paused channel.
    pub(super) paused: usize,
    /// The channels that are up, full or not.
    pub(super) up: BitTree,
    /// The channels that are up and usable. A lease that ends does not change this set: see
    /// `Slots::has_room`.
    pub(super) ready: BitTree,
    /// The channels that are usable but not up.
    pub(super) spare: BitTree,
    pub(super) cursor: Cursor,
    pub(super) seating: Seating,
    /// How many channels have which share; see `share`.
    pub(super) shares: BTreeMap<u32, usize>,
    /// Turns by weight. `None` while all shares are equal, when the cursor is enough, and under other
    /// policies.
    pub(super) stride: Option<Stride>,
    /// Channels by load. `None` under policies that do not use loads.
    pub(super) loads: Option<Loads>,
    /// The sums for bounded loads. `None` until they are first needed.
    pub(super) totals: Option<Totals>,
    /// The channels whose share is growing.
    pub(super) ramps: Ramps,
    /// What changed since waiting clients were told about the group.
    pub(super) news: News,
}

impl Group {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            channels: Vec::new(),
            existing: 0,
            enabled: 0,
            paused: 0,
            up: BitTree::default(),
            ready: BitTree::default(),
            spare: BitTree::default(),
            cursor: Cursor::default(),
            seating: Seating::default(),
            shares: BTreeMap::new(),
            stride: None,
            loads: (policy == Policy::LeastConnections).then(Loads::default),
            totals: None,
            ramps: Ramps::default(),
            news: News::default(),
        }
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    pub(super) fn set_policy(&mut self, policy: Policy) {
        self.news.moved |= self.policy != policy && [self.policy, policy].contains(&Policy::Hash);
        self.policy = policy;
        self.weigh();
        self.totals = None;
        self.loads = (policy == Policy::LeastConnections).then(Loads::default);
        if self.loads.is_some() {
            (0..self.channels.len()).for_each(|number| self.refresh(number));
        }
    }

    /// All channels that ever existed, including removed ones.
    pub(super) fn channels(&self) -> &[Channel] {
        &self.channels
    }

    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }

    pub(super) fn push(&mut self, channel: Channel) {
        self.existing += usize::from(channel.is_one());
        self.enabled += usize::from(channel.takes_clients());
        self.paused += usize::from(channel.paused);
        let number = self.channels.len();
        let hashed = if channel.is_one() { channel.weight.get() } else { 0 };
        self.seating.push(Seat::of(&channel.addresses), hashed);
        if channel.removed {
            self.seating.remove(number, Seat::of(&channel.addresses));
        }
        if let Some(share) = weighed(&channel) {
            *self.shares.entry(share).or_default() += 1;
        }
        self.channels.push(channel);
        self.map_anew();
        self.weigh();
        self.refresh(number);
    }

    /// Changes a channel by `edit`, which must not change its addresses or weight; returns the result of
    /// `edit`. `None` if there is no such channel.
    pub(super) fn edit<T>(&mut self, number: usize, edit: impl FnOnce(&mut Channel) -> T) -> Option<T> {
        let channel = self.channels.get_mut(number).filter(|channel| !channel.removed)?;
        let before = channel.takes_clients();
        let answer = edit(channel);
        self.enabled = self.enabled + usize::from(channel.takes_clients()) - usize::from(before);
        self.refresh(number);
        Some(answer)
    }

    /// Pauses a channel or ends its pause. `Some(false)`: it was already so; `None`: there is no such
    /// channel.
    pub(super) fn set_paused(&mut self, number: usize, paused: bool) -> Option<bool> {
        let is_other =
            self.edit(number, |channel| std::mem::replace(&mut channel.paused, paused) != paused)?;
        match (is_other, paused) {
            (true, true) => self.paused += 1,
            (true, false) => self.paused -= 1,
            (false, _) => {}
        }
        Some(is_other)
    }

    /// Is a pause the only reason why this channel gets no clients?
    pub(super) fn is_held(&self, number: usize) -> bool {
        self.paused > 0 && self.channels.get(number).is_some_and(Channel::is_held)
    }

    /// Gives a channel other addresses.
    pub(super) fn assign(&mut self, number: usize, addresses: Addresses) {
        let Some(channel) = self.channels.get_mut(number) else { return };
        self.seating.change(number, Seat::of(&channel.addresses), Seat::of(&addresses));
        channel.addresses = addresses;
        self.map_anew();
    }

    pub(super) fn set_weight(&mut self, number: usize, weight: Weight) {
        self.reshare(number, |channel| channel.weight = weight);
        if self.channels.get(number).is_some_and(|channel| !channel.retires && channel.head.is_none()) {
            self.seating.set_weight(number, weight.get());
        }
        self.map_anew();
        self.refresh(number);
    }

    /// Sets whether a channel is removed with its last connection. Such a channel is left out of hashing.
    pub(super) fn set_retires(&mut self, number: usize, retires: bool) {
        let Some(channel) = self.channels.get_mut(number) else { return };
        channel.retires = retires;
        let weight = if retires || channel.head.is_some() { 0 } else { channel.weight.get() };
        self.seating.set_weight(number, weight);
        self.map_anew();
        self.refresh(number);
    }

    /// Removes a channel; its number stays reserved.
    pub(super) fn remove(&mut self, number: usize) {
        let was_one = self.channels.get(number).is_some_and(Channel::is_one);
        self.reshare(number, |channel| channel.removed = true);
        self.existing -= usize::from(was_one);
        self.ramps.end(number);
        if let Some(channel) = self.channels.get(number) {
            self.seating.remove(number, Seat::of(&channel.addresses));
        }
        self.map_anew();
        self.refresh(number);
    }

    /// Brings back a removed channel under its number, disabled. `None` if it was not removed.
    pub(super) fn revive(&mut self, number: usize) -> Option<()> {
        let channel = self.channels.get_mut(number).filter(|channel| channel.removed)?;
        (channel.removed, channel.retires) = (false, false);
        self.existing += usize::from(channel.is_one());
        if let Some(share) = weighed(channel) {
            *self.shares.entry(share).or_default() += 1;
        }
        let (seat, weight) = (Seat::of(&channel.addresses), channel.weight.get());
        self.enabled += usize::from(channel.takes_clients());
        self.seating.reseat(number, seat, weight);
        self.map_anew();
        self.weigh();
        self.refresh(number);
        Some(())
    }

    pub(super) fn map_anew(&mut self) {
        self.news.moved |= self.policy == Policy::Hash;
    }

    /// Changes something that a channel's share depends on.
    fn reshare(&mut self, number: usize, edit: impl FnOnce(&mut Channel)) {
        let Some(channel) = self.channels.get_mut(number) else { return };
        let (before, took) = (weighed(channel), channel.takes_clients());
        edit(channel);
        let (after, takes) = (weighed(channel), channel.takes_clients());
        self.enabled = self.enabled + usize::from(takes) - usize::from(took);
        if let Some(count) = before.and_then(|share| self.shares.get_mut(&share)) {
            *count -= 1;
        }
        if let Some(share) = after {
            *self.shares.entry(share).or_default() += 1;
        }
        self.shares.retain(|_, count| *count > 0);
        self.weigh();
    }

    /// Turns follow the cursor while all shares are equal, otherwise the weights. Under other policies no
    /// turns are kept, so that nobody has turns saved up when the policy changes.
    fn weigh(&mut self) {
        if self.policy != Policy::RoundRobin || self.shares.len() < 2 {
            self.stride = None;
        } else if self.stride.is_none() {
            let mut stride = Stride::default();
            for number in self.ready.members() {
                stride.enter(number, share(&self.channels[number]));
            }
            self.stride = Some(stride);
        }
    }

    /// Checks again whether a channel is up and usable. Call it after every change that can affect this.
    pub(super) fn refresh(&mut self, number: usize) {
        let Some(channel) = self.channels.get(number) else { return };
        let (is_up, is_usable) = (channel.is_up(), channel.is_usable());
        let short = u16::try_from(number).unwrap_or(u16::MAX);
        self.news.fell |= put(&mut self.up, number, is_up) == Some(false);
        match put(&mut self.ready, number, is_up && is_usable) {
            Some(true) => self.news.ready.push(short),
            Some(false) => self.news.taken = true,
            None => {}
        }
        if put(&mut self.spare, number, !is_up && is_usable) == Some(true) {
            self.news.spare.push(short);
        }
        if let Some(stride) = &mut self.stride {
            if is_up && is_usable {
                stride.enter(number, share(channel));
            } else {
                stride.leave(number);
            }
        }
        if let Some(loads) = &mut self.loads {
            loads.set(number, (is_up && is_usable).then(|| load(channel)));
        }
        if let Some(totals) = &mut self.totals {
            totals.set(number, is_up.then(|| contribution(channel)));
        }
        match channel.health.ramp_from() {
            Some(from) => self.ramps.begin(number, from),
            None => self.ramps.hurry(number),
        }
    }

    /// The connections and weights of the channels that are up. From the first call on they are kept up to
    /// date.
    pub(super) fn totals(&mut self) -> &Totals {
        self.totals.get_or_insert_with(|| {
            let mut totals = Totals::default();
            self.up
                .members()
                .for_each(|number| totals.set(number, Some(contribution(&self.channels[number]))));
            totals
        })
    }

    /// Lets the shares of returning channels grow to their size at `now`.
    pub(super) fn advance(&mut self, rules: &HealthRules, now: Duration) {
        while let Some(number) = self.ramps.take_due(now) {
            let Some(channel) = self.channels.get_mut(number) else { continue };
            let goes_on = channel.health.is_ramping(rules, now);
            let (steps, next) = (channel.health.ramp(rules, now), channel.health.next_step(rules, now));
            if steps != channel.steps {
                self.reshare(number, |channel| channel.steps = steps);
                self.refresh(number);
            }
            if goes_on {
                self.ramps.plan(number, next);
            } else {
                self.ramps.end(number);
            }
        }
    }

    /// Takes a slot of the channel that `choose` returned, and moves the cursor past it.
    pub(super) fn hand_out(&mut self, number: usize) -> Lease {
        debug_assert!(self.channels[number].is_usable());
        let lease = self.channels[number].occupy();
        if let Some(stride) = &mut self.stride {
            stride.take(number);
        }
        if self.loads.is_some() || self.totals.is_some() || self.channels[number].is_at_limit() {
            self.refresh(number);
        }
        self.pass(number);
        self.cursor.moves += 1;
        lease
    }

    /// Updates when the channel's next probe is planned; returns the old and the new time.
    pub(super) fn plan_probe(&mut self, number: usize) -> Option<(Option<Duration>, Option<Duration>)> {
        let channel = self.channels.get_mut(number)?;
        let wanted = if channel.removed { None } else { channel.next_probe() };
        Some((std::mem::replace(&mut channel.probe_at, wanted), wanted))
    }

    /// A dial of a channel succeeded. The channel is checked again only if that brought it back.
    pub(super) fn connected(
        &mut self,
        number: usize,
        lease: &Lease,
        rules: &HealthRules,
        now: Duration,
        took: Duration,
    ) -> Option<Change> {
        let channel = self.channels.get_mut(number).filter(|channel| !channel.removed)?;
        channel.connect_times.add(took);
        channel.slots.connected(took);
        if channel.addresses != *lease.addresses() {
            return None;
        }
        channel.unanswered = false;
        let change = channel.health.connect_succeeded(rules, now.saturating_sub(took), now)?;
        self.refresh(number);
        Some(change)
    }

    /// A dial's attempt at one address of a channel was answered. Returns how long the address was ejected if
    /// that brings it back.
    pub(super) fn address_answered(
        &mut self,
        lease: &Lease,
        address: Address,
        begun: Duration,
        now: Duration,
    ) -> Option<Duration> {
        let channel =
            self.channels.get_mut(lease.key().channel.index()).filter(|channel| !channel.removed)?;
        if channel.addresses != *lease.addresses() {
            return None;
        }
        channel.address_answered(address, begun, now)
    }

    /// Puts the cursor back to its position before a walk that got nothing here, unless it was moved since.
    pub(super) fn put_back(&mut self, before: Cursor, last_move: u64) {
        if self.cursor.moves == last_move {
            self.cursor = before;
        }
    }

    /// The channel answered: it is the next channel's turn, unless the cursor was moved since. This matters
    /// only if the channel was the last one when it was handed out and is no longer.
    pub(super) fn settle(&mut self, number: usize, last_move: u64) {
        if self.cursor.moves == last_move {
            self.pass(number);
        }
    }

    fn pass(&mut self, number: usize) {
        let next = if number + 1 < self.channels.len() { number + 1 } else { 0 };
        // Channel numbers fit into 16 bits; if one ever did not, 0 would do as well.
        self.cursor.at = u16::try_from(next).unwrap_or(0);
    }

    /// Adds the channels with these numbers to a snapshot. `waiting(number)` is the number of waiting clients
    /// that the channel could serve.
    pub(super) fn add_to(
        &self,
        snapshot: &mut GroupSnapshot,
        part: Range<usize>,
        rules: &HealthRules,
        now: Duration,
        waiting: impl Fn(usize) -> u32,
    ) {
        let weighs = self.policy.weighs();
        let part = self.channels.iter().enumerate().take(part.end).skip(part.start);
        let there = part.filter(|(_, channel)| !channel.removed);
        for (number, channel) in there {
            let seen = channel.snapshot(rules, weighs, now, waiting(number));
            match &channel.head {
                None => snapshot.channels.push(seen),
                Some(head) => snapshot.families.push(head.snapshot(seen)),
            }
        }
        (snapshot.policy, snapshot.numbers) = (self.policy, self.channels.len());
    }

    /// The channel that a bucket maps to.
    pub(super) fn mapped(&mut self, bucket: Bucket) -> Option<usize> {
        self.seating.winner(bucket)
    }

    /// The channels that are up, full or not.
    pub(super) fn up(&self) -> impl Iterator<Item = usize> + '_ {
        self.up.members()
    }

    /// The channels that are up and usable.
    pub(super) fn ready(&self) -> impl Iterator<Item = usize> + '_ {
        self.ready.members()
    }

    /// Is this channel up and usable?
    pub(super) fn is_ready(&self, number: usize) -> bool {
        self.ready.contains(number)
    }

    /// Is any channel usable but not up?
    pub(super) fn has_spare(&self) -> bool {
        !self.spare.is_empty()
    }

    /// Is this channel up and at its limit?
    pub(super) fn is_full(&self, number: usize) -> bool {
        self.up.contains(number) && !self.ready.contains(number)
    }
}

/// A channel's share of turns and connections: its weight in 64ths, less while it is returning.
pub(super) fn share(channel: &Channel) -> u32 {
    channel.weight.get() * channel.steps.min(STEPS)
}

/// The share of a channel that can have clients at all.
fn weighed(channel: &Channel) -> Option<u32> {
    (channel.weight > Weight::ZERO && channel.is_one()).then(|| share(channel))
}

/// Adds a number to a set or removes it. `None` if that changed nothing, else the new membership.
fn put(set: &mut BitTree, number: usize, belongs: bool) -> Option<bool> {
    if set.contains(number) == belongs {
        return None;
    }
    if belongs {
        set.insert(number);
    } else {
        set.remove(number);
    }
    Some(belongs)
}

/// A channel's load now. The next lease that ends makes the table look again, since a stale load would send
/// clients past an idle channel.
fn load(channel: &Channel) -> Load {
    channel.slots.watch();
    Load { active: channel.slots.active(), share: share(channel) }
}

/// What a channel adds to its group's sums. It is watched like a load.
fn contribution(channel: &Channel) -> Contribution {
    channel.slots.watch();
    Contribution { clients: channel.slots.active(), weight: channel.weight.get() }
}

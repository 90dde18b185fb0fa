//! One group's choice.
//!
//! Knows: its channels, its cursor, its policy, what a route has tried here. Never: other groups, what happens on connect.

use super::bits::{BitTree, Tried};
use super::channel::Channel;
use super::rendezvous::{Bucket, EVEN, Seating};
use super::{Addresses, AdminState, Lease, NoChannel, Policy};

/// Where a cursor stands, and how many hand-outs brought it there.
///
/// The contract moves the cursor on success; then two clients who connect at the same time would both get the same
/// channel. So we move it when a channel is handed out, and put it back when a walk leaves the group in vain. Moves
/// work like a stack: putting one back makes it undone for those who moved before, too. A number is reused only after the
/// route that held it has left the group, so nobody mistakes another's move for its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The channel whose turn it is.
    pub(super) at: u16,
    /// Hand-outs so far, less those put back.
    pub(super) moves: u64,
}

/// A group: channels in order of their numbers, and the way to choose one.
#[derive(Debug)]
pub(super) struct Group {
    policy: Policy,
    channels: Vec<Channel>,
    /// The channels that are usable. A lease that ends does not touch it: see `Slots::has_room`.
    usable: BitTree,
    enabled: usize,
    cursor: Cursor,
    seating: Seating,
}

impl Group {
    pub(super) fn new() -> Self {
        Self {
            policy: Policy::RoundRobin,
            channels: Vec::new(),
            usable: BitTree::default(),
            enabled: 0,
            cursor: Cursor::default(),
            seating: Seating::default(),
        }
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    pub(super) fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    pub(super) fn channels(&self) -> &[Channel] {
        &self.channels
    }

    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }

    pub(super) fn push(&mut self, channel: Channel) {
        self.enabled += usize::from(channel.is_enabled());
        self.seating.push(channel.addresses.for_hashing(), EVEN);
        self.channels.push(channel);
        self.refresh(self.channels.len() - 1);
    }

    /// Changes a channel by `edit`, which may not touch its addresses; answers what `edit` does. `None` if there is no
    /// such channel.
    pub(super) fn edit<T>(&mut self, number: usize, edit: impl FnOnce(&mut Channel) -> T) -> Option<T> {
        let channel = self.channels.get_mut(number)?;
        let before = channel.is_enabled();
        let answer = edit(channel);
        self.enabled = self.enabled + usize::from(channel.is_enabled()) - usize::from(before);
        self.refresh(number);
        Some(answer)
    }

    /// Gives a channel other addresses.
    pub(super) fn assign(&mut self, number: usize, addresses: Addresses) {
        let Some(channel) = self.channels.get_mut(number) else { return };
        self.seating.change(number, channel.addresses.for_hashing(), addresses.for_hashing());
        channel.addresses = addresses;
    }

    /// Looks again whether a channel is usable. Must follow everything that can make it so.
    pub(super) fn refresh(&mut self, number: usize) {
        match self.channels.get(number) {
            Some(channel) if channel.is_usable() => self.usable.insert(number),
            _ => self.usable.remove(number),
        }
    }

    /// The channel that the contract gives to this client now, or the reason why there is none.
    pub(super) fn choose(
        &mut self,
        bucket: Bucket,
        tried: &Tried,
        hash_failover: bool,
    ) -> Result<usize, NoChannel> {
        let from = usize::from(self.cursor.at);
        let found = match self.policy {
            Policy::RoundRobin | Policy::LeastConnections | Policy::TwoChoices | Policy::First => {
                self.usable.first_from(from, tried).or_else(|| self.usable.first_from(0, tried))
            }
            Policy::Hash => {
                let Some(mapped) = self.seating.winner(bucket) else { return Err(NoChannel::Empty) };
                if self.usable.contains(mapped) && !tried.contains(mapped) {
                    Some(mapped)
                } else if hash_failover {
                    self.seating.best_of(bucket, self.usable.iter(tried))
                } else {
                    return Err(reason(self.channels[mapped].state));
                }
            }
        };
        found.ok_or(match (self.channels.len(), self.enabled) {
            (0, _) => NoChannel::Empty,
            (_, 0) => NoChannel::Disabled,
            _ => NoChannel::Full,
        })
    }

    /// Takes a slot of the channel that `choose` named, and moves the cursor past it.
    pub(super) fn hand_out(&mut self, number: usize) -> Lease {
        debug_assert!(self.channels[number].is_usable());
        let lease = self.channels[number].occupy();
        if self.channels[number].is_at_limit() {
            self.refresh(number);
        }
        self.pass(number);
        self.cursor.moves += 1;
        lease
    }

    /// Puts the cursor back to where it stood before a walk that got nothing here, if nobody moved it since.
    pub(super) fn put_back(&mut self, before: Cursor, last_move: u64) {
        if self.cursor.moves == last_move {
            self.cursor = before;
        }
    }

    /// The channel answered: the next one's turn, if nobody moved the cursor since. It matters only if the channel was
    /// the last one when it was handed out, and is not any more.
    pub(super) fn settle(&mut self, number: usize, last_move: u64) {
        if self.cursor.moves == last_move {
            self.pass(number);
        }
    }

    fn pass(&mut self, number: usize) {
        let next = if number + 1 < self.channels.len() { number + 1 } else { 0 };
        // Channel numbers fit 16 bits; 0 is as good a turn as any if they ever should not.
        self.cursor.at = u16::try_from(next).unwrap_or(0);
    }
}

fn reason(state: AdminState) -> NoChannel {
    match state {
        AdminState::Enabled => NoChannel::Full,
        AdminState::Disabled | AdminState::DisabledHard => NoChannel::Disabled,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use super::super::lease::{Freed, Slots};
    use super::super::{ChannelId, ChannelKey, ClientAddr, GroupId};
    use super::*;

    fn group(policy: Policy, size: usize, maxc: u32) -> Group {
        let mut group = Group::new();
        group.set_policy(policy);
        for n in 0..size {
            let channel = ChannelId::new(n).expect("few channels");
            let key = ChannelKey { group: GroupId::FIRST, channel };
            let slots = Arc::new(Slots::new(key, Arc::<Freed>::default(), 1));
            let address = Addresses::from(SocketAddr::from(([127, 0, 0, 1], 1000 + n as u16)));
            group.push(Channel::new(address, NonZeroU32::new(maxc), AdminState::Enabled, slots));
        }
        group
    }

    fn bucket(client: u8) -> Bucket {
        Bucket::of(ClientAddr::from(IpAddr::from([10, 0, 0, client])))
    }

    fn disable(group: &mut Group, number: usize) {
        group.edit(number, |channel| channel.state = AdminState::Disabled);
    }

    fn tried(numbers: &[usize]) -> Tried {
        let mut tried = Tried::default();
        numbers.iter().for_each(|&number| tried.insert(number));
        tried
    }

    #[test]
    fn round_robin_takes_the_first_usable_from_the_cursor_and_goes_round_once() {
        let check = |cursor, disabled: &[usize], tries: &[usize], expected| {
            let mut group = group(Policy::RoundRobin, 3, 0);
            group.cursor.at = cursor;
            disabled.iter().for_each(|&number| disable(&mut group, number));
            let found = group.choose(bucket(1), &tried(tries), false);
            assert_eq!(found, expected, "cursor {cursor}, disabled {disabled:?}, tried {tries:?}");
        };
        check(0, &[], &[], Ok(0));
        check(2, &[], &[], Ok(2));
        check(2, &[2], &[], Ok(0));
        check(2, &[2, 0], &[], Ok(1));
        check(2, &[], &[2], Ok(0));
        check(1, &[1], &[2], Ok(0));
        check(1, &[], &[0, 1, 2], Err(NoChannel::Full));
        check(1, &[0, 1, 2], &[], Err(NoChannel::Disabled));
    }

    #[test]
    fn an_empty_group_has_nobody_under_either_policy() {
        for policy in [Policy::RoundRobin, Policy::Hash] {
            for failover in [false, true] {
                let found = group(policy, 0, 0).choose(bucket(1), &tried(&[]), failover);
                assert_eq!(found, Err(NoChannel::Empty), "{policy:?}");
            }
        }
    }

    #[test]
    fn a_hash_group_says_why_the_mapped_channel_cannot_be_had() {
        let mut group = group(Policy::Hash, 3, 1);
        let mapped = group.choose(bucket(1), &tried(&[]), false).expect("all usable");
        assert_eq!(group.choose(bucket(1), &tried(&[mapped]), false), Err(NoChannel::Full), "one try only");
        let lease = group.hand_out(mapped);
        assert_eq!(group.choose(bucket(1), &tried(&[]), false), Err(NoChannel::Full));
        disable(&mut group, mapped);
        assert_eq!(group.choose(bucket(1), &tried(&[]), false), Err(NoChannel::Disabled));
        let second = group.choose(bucket(1), &tried(&[]), true).expect("-H goes on");
        assert_ne!(second, mapped);
        let third = group.choose(bucket(1), &tried(&[second]), true).expect("-H goes on");
        assert_eq!(mapped + second + third, 3, "three different ones");
        assert_eq!(group.choose(bucket(1), &tried(&[second, third]), true), Err(NoChannel::Full));
        drop(lease);
    }

    #[test]
    fn the_cursor_goes_back_only_if_nobody_moved_it() {
        let mut group = group(Policy::RoundRobin, 3, 0);
        let before = group.cursor();
        let first = group.hand_out(0);
        let mine = group.cursor();
        let second = group.hand_out(1);
        group.put_back(before, mine.moves);
        assert_eq!(group.cursor().at, 2, "another client moved it meanwhile");
        group.put_back(mine, group.cursor().moves);
        assert_eq!(group.cursor(), mine, "the other's move is undone");
        group.put_back(before, mine.moves);
        assert_eq!(group.cursor(), before, "and then ours can be, too");
        drop((first, second));
    }

    #[test]
    fn a_full_channel_is_out_until_it_is_looked_at_again() {
        let mut group = group(Policy::RoundRobin, 1, 2);
        let (one, two) = (group.hand_out(0), group.hand_out(0));
        assert_eq!(group.choose(bucket(1), &tried(&[]), false), Err(NoChannel::Full));
        drop(one);
        group.refresh(0);
        assert_eq!(group.choose(bucket(1), &tried(&[]), false), Ok(0));
        drop(two);
        group.refresh(7);
        assert_eq!(group.edit(7, |_| ()), None, "no such channel");
    }
}

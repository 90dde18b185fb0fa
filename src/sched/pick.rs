//! One group's choice of a channel.
//!
//! Knows: its channels, its policy, what a route has tried here. Never: other groups, what happens on
//! connect.

use std::num::NonZeroU32;

use super::bits::{BitTree, Tried};
use super::channel::Channel;
use super::group::{Group, share};
use super::loads::Load;
use super::random::Random;
use super::seat::Bucket;
use super::{NoChannel, Policy, Rules};

/// The channels that a walk considers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tier {
    /// Those that are up.
    Up,
    /// Those that are not up, which are tried when nothing else is left.
    NotUp,
}

/// What one client asks of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) bucket: Bucket,
    pub(super) tried: &'a Tried,
    pub(super) tier: Tier,
    pub(super) rules: &'a Rules,
}

impl Group {
    /// The channel that this client gets now, or the reason why there is none.
    pub(super) fn choose(&mut self, wish: &Wish<'_>, random: &mut Random) -> Result<usize, NoChannel> {
        if self.policy == Policy::Hash {
            return self.by_client(wish);
        }
        let found = match (self.policy, wish.tier, &self.stride) {
            (Policy::First, ..) => self.set(wish.tier).first_from(0, wish.tried),
            (Policy::LeastConnections, Tier::Up, _) => self.least(wish.tried),
            (Policy::TwoChoices, Tier::Up, _) => self.better_of_two(wish.tried, random),
            (Policy::RoundRobin, Tier::Up, Some(stride)) => stride.next(wish.tried),
            _ => self.in_turn(wish),
        };
        found.ok_or_else(|| self.reason())
    }

    /// The first channel from the cursor on, wrapping around once.
    fn in_turn(&self, wish: &Wish<'_>) -> Option<usize> {
        let set = self.set(wish.tier);
        set.first_from(usize::from(self.cursor.at), wish.tried).or_else(|| set.first_from(0, wish.tried))
    }

    /// The channel with the fewest connections relative to its share; of several, the first from the cursor
    /// on.
    fn least(&self, tried: &Tried) -> Option<usize> {
        self.loads.as_ref()?.least(self.cursor.at, tried)
    }

    /// The less loaded, relative to its share, of two channels chosen at random.
    fn better_of_two(&self, tried: &Tried, random: &mut Random) -> Option<usize> {
        let one = self.by_lot(tried, None, random)?;
        let Some(other) = self.by_lot(tried, Some(one), random) else { return Some(one) };
        let [mine, its] = [one, other].map(|number| {
            let channel = &self.channels[number];
            Load { active: channel.slots.active(), share: share(channel) }
        });
        Some(match mine.cmp(&its) {
            std::cmp::Ordering::Less => one,
            std::cmp::Ordering::Greater => other,
            // Shares also count among idle channels.
            std::cmp::Ordering::Equal => {
                let lot = random.below(u64::from(mine.share) + u64::from(its.share));
                if lot < u64::from(mine.share) { one } else { other }
            }
        })
    }

    /// A random ready channel other than `not`, each with equal probability.
    fn by_lot(&self, tried: &Tried, not: Option<usize>, random: &mut Random) -> Option<usize> {
        let count = self.channels.len() as u64;
        for _ in 0..LOTS {
            let number = random.below(count) as usize;
            if self.ready.contains(number) && !tried.contains(number) && Some(number) != not {
                return Some(number);
            }
        }
        // Few are ready, so list them all.
        let all: Vec<usize> = self.ready.iter(tried).filter(|&number| Some(number) != not).collect();
        all.get(random.below(all.len() as u64) as usize).copied()
    }

    fn by_client(&mut self, wish: &Wish<'_>) -> Result<usize, NoChannel> {
        let Some(mapped) = self.seating.winner(wish.bucket) else { return Err(self.reason()) };
        let is_ready = self.set(wish.tier).contains(mapped) && !wish.tried.contains(mapped);
        if !is_ready && !wish.rules.hash_failover {
            return Err(self.reason_of(mapped));
        }
        if let (Some(balance), Tier::Up) = (wish.rules.hash_balance, wish.tier) {
            let bound = self.bound(balance);
            if is_ready && bound.admits(&self.channels[mapped]) {
                return Ok(mapped);
            }
            if let Some(other) = self.best_for(wish, |channel| bound.admits(channel)) {
                return Ok(other);
            }
        }
        if is_ready {
            return Ok(mapped);
        }
        self.best_for(wish, |_| true).ok_or_else(|| self.reason())
    }

    /// The channel that scores highest for the client's bucket among those available that `fits` accepts.
    /// Looks at every channel only if none of the bucket's best ones will do.
    fn best_for(&mut self, wish: &Wish<'_>, fits: impl Fn(&Channel) -> bool) -> Option<usize> {
        let set = match wish.tier {
            Tier::Up => &self.ready,
            Tier::NotUp => &self.spare,
        };
        let channels = &self.channels;
        let fits = |number: &usize| fits(&channels[*number]);
        let can_be_had = |number: &usize| set.contains(*number) && !wish.tried.contains(*number);
        let first = self.seating.ranks(wish.bucket).filter(can_be_had).find(fits);
        first.or_else(|| self.seating.best_of(wish.bucket, set.iter(wish.tried).filter(fits)))
    }

    /// The bound on loads if one more client is added to the channels that are up.
    fn bound(&mut self, balance: NonZeroU32) -> Bound {
        let totals = self.totals();
        Bound { clients: totals.clients + 1, weights: totals.weights, balance: balance.get() }
    }

    fn set(&self, tier: Tier) -> &BitTree {
        match tier {
            Tier::Up => &self.ready,
            Tier::NotUp => &self.spare,
        }
    }

    /// Could the client have a channel if a full one had room? Asked after `choose` found none.
    pub(super) fn is_full_for(&mut self, wish: &Wish<'_>) -> bool {
        if self.policy == Policy::Hash && !wish.rules.hash_failover {
            let Some(mapped) = self.seating.winner(wish.bucket) else { return false };
            return self.up.contains(mapped) && !self.ready.contains(mapped) && !wish.tried.contains(mapped);
        }
        // A channel that is up, not ready and not tried is full.
        self.up.first_from(0, wish.tried).is_some()
    }

    /// Could the client have a channel if none were paused? Asked after `choose` found none.
    pub(super) fn is_held_for(&mut self, wish: &Wish<'_>) -> bool {
        if self.paused == 0 {
            return false;
        }
        if self.policy == Policy::Hash && !wish.rules.hash_failover {
            let Some(mapped) = self.seating.winner(wish.bucket) else { return false };
            return self.channels[mapped].is_held() && !wish.tried.contains(mapped);
        }
        self.up.iter(wish.tried).any(|number| self.channels[number].is_held())
    }

    /// Is a channel up, usable and not tried, whether or not the policy would give it to this client?
    pub(super) fn has_ready(&self, tried: &Tried) -> bool {
        self.ready.first_from(0, tried).is_some()
    }

    /// Is any channel up, full or not?
    pub(super) fn has_up(&self) -> bool {
        !self.up.is_empty()
    }

    /// How many channels take clients and are healthy, full or not, paused or not?
    pub(super) fn count_up(&self) -> usize {
        self.channels.iter().filter(|channel| channel.takes_clients() && channel.health.is_up()).count()
    }

    fn reason(&self) -> NoChannel {
        match (self.existing, self.enabled) {
            (0, _) => NoChannel::Empty,
            (_, 0) => NoChannel::Disabled,
            _ if self.up.is_empty() => NoChannel::Down,
            _ => NoChannel::Full,
        }
    }

    fn reason_of(&self, number: usize) -> NoChannel {
        match &self.channels[number] {
            channel if !channel.takes_clients() => NoChannel::Disabled,
            channel if !channel.is_up() => NoChannel::Down,
            _ => NoChannel::Full,
        }
    }
}

/// Number of random tries before every ready channel is listed instead.
const LOTS: usize = 16;

/// Hashing with bounded loads: no channel gets more than `balance` thousandths of its share of all clients,
/// rounded up.
#[derive(Debug, Clone, Copy)]
struct Bound {
    clients: u64,
    weights: u64,
    balance: u32,
}

impl Bound {
    fn admits(self, channel: &Channel) -> bool {
        let share = u128::from(self.balance) * u128::from(self.clients) * u128::from(channel.weight.get());
        u128::from(channel.slots.active()) < share.div_ceil(1_000 * u128::from(self.weights.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::num::NonZeroU32;
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::health::Health;
    use super::super::lease::{Freed, Slots};
    use super::super::{
        Addresses, AdminState, ChannelId, ChannelKey, ClientAddr, GroupId, HealthRules, Lease, Weight,
    };
    use super::*;

    fn group(policy: Policy, size: usize, maxc: u32) -> Group {
        let mut group = Group::new(policy);
        for n in 0..size {
            let channel = ChannelId::new(n).expect("few channels");
            let key = ChannelKey { group: GroupId::FIRST, channel };
            let slots = Arc::new(Slots::new(key, Arc::<Freed>::default(), 1));
            let address = Addresses::from(SocketAddr::from(([127, 0, 0, 1], 1000 + n as u16)));
            let health = Health::new(&HealthRules::NONE, Duration::ZERO, &mut Random::new(0));
            group.push(Channel::new(address, NonZeroU32::new(maxc), AdminState::Enabled, health, slots));
        }
        group
    }

    fn choose(
        group: &mut Group,
        client: u8,
        tries: &[usize],
        hash_failover: bool,
    ) -> Result<usize, NoChannel> {
        let rules = Rules { hash_failover, ..Rules::CLASSIC };
        let wish = Wish { bucket: bucket(client), tried: &tried(tries), tier: Tier::Up, rules: &rules };
        group.choose(&wish, &mut Random::new(1))
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
            let found = choose(&mut group, 1, tries, false);
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
                let found = choose(&mut group(policy, 0, 0), 1, &[], failover);
                assert_eq!(found, Err(NoChannel::Empty), "{policy:?}");
            }
        }
    }

    #[test]
    fn a_hash_group_says_why_the_mapped_channel_cannot_be_had() {
        let mut group = group(Policy::Hash, 3, 1);
        let mapped = choose(&mut group, 1, &[], false).expect("all usable");
        assert_eq!(choose(&mut group, 1, &[mapped], false), Err(NoChannel::Full), "one try only");
        let lease = group.hand_out(mapped);
        assert_eq!(choose(&mut group, 1, &[], false), Err(NoChannel::Full));
        disable(&mut group, mapped);
        assert_eq!(choose(&mut group, 1, &[], false), Err(NoChannel::Disabled));
        let second = choose(&mut group, 1, &[], true).expect("-H goes on");
        assert_ne!(second, mapped);
        let third = choose(&mut group, 1, &[second], true).expect("-H goes on");
        assert_eq!(mapped + second + third, 3, "three different ones");
        assert_eq!(choose(&mut group, 1, &[second, third], true), Err(NoChannel::Full));
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
        assert_eq!(choose(&mut group, 1, &[], false), Err(NoChannel::Full));
        drop(one);
        group.refresh(0);
        assert_eq!(choose(&mut group, 1, &[], false), Ok(0));
        drop(two);
        group.refresh(7);
        assert_eq!(group.edit(7, |_| ()), None, "no such channel");
    }

    #[test]
    fn picks_of_another_policy_are_no_turns() {
        let mut group = group(Policy::LeastConnections, 2, 0);
        group.set_weight(1, Weight::new(2).expect("a legal one"));
        // The second one is busy all the time, so the first one gets every client.
        let busy: Vec<_> = (0..3).map(|_| group.hand_out(1)).collect();
        for _ in 0..100 {
            assert_eq!(choose(&mut group, 1, &[], false), Ok(0));
            drop(group.hand_out(0));
        }
        group.set_policy(Policy::RoundRobin);
        let mut counts = [0, 0];
        for _ in 0..6 {
            let number = choose(&mut group, 1, &[], false).expect("all usable");
            drop(group.hand_out(number));
            counts[number] += 1;
        }
        assert_eq!(counts, [2, 4]);
        drop(busy);
    }
    /// The result of `by_client`, found by looking at every channel.
    fn looked_at_each(group: &Group, bucket: Bucket, balance: u32, tried: &Tried) -> Option<usize> {
        let up = || (0..group.channels.len()).filter(|&number| group.channels[number].is_up());
        let active = |number: usize| u64::from(group.channels[number].slots.active());
        let weight = |number: usize| u64::from(group.channels[number].weight.get());
        let bound =
            Bound { clients: 1 + up().map(active).sum::<u64>(), weights: up().map(weight).sum(), balance };
        let ready = || up().filter(|&n| group.channels[n].is_usable() && !tried.contains(n));
        let fitting = ready().filter(|&number| bound.admits(&group.channels[number]));
        let best = group.seating.best_of(bucket, fitting);
        best.or_else(|| group.seating.best_of(bucket, ready()))
    }

    #[test]
    fn bounded_loads_agree_with_looking_at_each() {
        for (seed, size, balance) in [(1, 8, 1_250), (2, 33, 1_000), (3, 90, 1_100), (4, 90, 2_000)] {
            let mut random = Random::new(seed);
            let mut group = group(Policy::Hash, size, 4);
            let rules =
                Rules { hash_failover: true, hash_balance: NonZeroU32::new(balance), ..Rules::CLASSIC };
            let mut leases = Vec::new();
            for step in 0..6_000 {
                let number = random.below(size as u64) as usize;
                match random.below(40) {
                    0 => disable(&mut group, number),
                    1..=3 => drop(group.edit(number, |channel| channel.state = AdminState::Enabled)),
                    4 => group.set_weight(number, Weight::new(random.below(4) as u32).expect("a legal one")),
                    5..=17 if !leases.is_empty() => {
                        let at = random.below(leases.len() as u64) as usize;
                        let (number, lease): (usize, Lease) = leases.swap_remove(at);
                        drop(lease);
                        group.refresh(number);
                    }
                    _ => {
                        let (bucket, tried) = (bucket(random.below(9) as u8), tried(&[number]));
                        let expected = looked_at_each(&group, bucket, balance, &tried);
                        let wish = Wish { bucket, tried: &tried, tier: Tier::Up, rules: &rules };
                        let found = group.choose(&wish, &mut random).ok();
                        assert_eq!(found, expected, "seed {seed}, step {step}, {size} channels");
                        leases.extend(found.map(|number| (number, group.hand_out(number))));
                    }
                }
            }
            assert!(group.totals.is_some(), "seed {seed}");
        }
    }
}

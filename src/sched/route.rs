//! One client's failover walk over the groups.
//!
//! Knows: tried channels, the order of groups, when to leave one. Never: how a connect is done, other
//! clients' walks.

use std::collections::BTreeMap;
use std::time::Duration;

use super::bits::Tried;
use super::group::{Cursor, Group};
use super::pick::{Tier, Wish};
use super::random::Random;
use super::seat::Bucket;
use super::{ChannelKey, ClientAddr, GroupId, GroupRange, Lease, NoChannel, Rules};

/// What a step of a walk depends on besides the groups.
pub(super) struct World<'a> {
    pub(super) rules: &'a Rules,
    pub(super) now: Duration,
    pub(super) random: &'a mut Random,
    /// What the client may wait for.
    pub(super) patience: Patience,
    /// When no channel that is up is left, the others are tried.
    pub(super) fail_open: bool,
    /// The step adds groups here that have changes for waiting clients.
    pub(super) stirred: &'a mut Vec<GroupId>,
}

/// What a client may wait for when it meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// A full channel.
    pub(super) full: bool,
    /// A paused channel.
    pub(super) paused: bool,
}

impl Patience {
    pub(super) const NONE: Self = Self { full: false, paused: false };
    pub(super) const ALL: Self = Self { full: true, paused: true };
}

/// The state of one client's walk: which channels were tried, which group comes next.
///
/// A walk always ends: each step marks a channel of the group as tried, or goes to a later group, or begins
/// the second and last round, or is the end. Nothing ever goes back. The first round is for channels that are
/// up. The second round begins only when no untried one of those is left anywhere, and is for channels that
/// are not up.
#[derive(Debug)]
pub struct Route {
    bucket: Bucket,
    /// The groups that it may go to.
    within: GroupRange,
    tier: Tier,
    reason: NoChannel,
    /// A channel that is up was full or paused.
    met_full: bool,
    /// A channel was paused.
    met_paused: bool,
    /// The first group that it has not left yet. `None`: the walk is over.
    at: Option<GroupId>,
    /// The channel of that group that was handed out last. If there is a further step, it has failed.
    last: Option<u16>,
    /// What this walk did to that group's cursor.
    moved: Option<Moved>,
    /// The channels that failed.
    tried: Vec<(GroupId, Tried)>,
}

#[derive(Debug, Clone, Copy)]
struct Moved {
    /// The cursor before this walk moved it.
    before: Cursor,
    /// `Cursor::moves` after this walk moved it.
    last_move: u64,
}

impl Route {
    pub(super) fn new(client: ClientAddr, within: GroupRange) -> Self {
        Self::of(Bucket::of(client), within)
    }

    pub(super) fn of(bucket: Bucket, within: GroupRange) -> Self {
        Self {
            bucket,
            within,
            tier: Tier::Up,
            reason: NoChannel::Empty,
            met_full: false,
            met_paused: false,
            at: Some(within.first),
            last: None,
            moved: None,
            tried: Vec::new(),
        }
    }

    /// A walk that does not try these channels.
    pub fn past(client: ClientAddr, within: GroupRange, channels: &[ChannelKey]) -> Self {
        let mut route = Self::new(client, within);
        for key in channels {
            route.tried_is(key.group, key.channel.index());
        }
        route
    }

    fn tried_is(&mut self, at: GroupId, channel: usize) {
        match self.tried.iter_mut().find(|(group, _)| *group == at) {
            Some((_, tried)) => tried.insert(channel),
            None => {
                let mut tried = Tried::default();
                tried.insert(channel);
                self.tried.push((at, tried));
            }
        }
    }

    /// The next channel of the walk, with its slot taken. The groups may have been edited since the last
    /// step.
    pub(super) fn step(
        &mut self,
        groups: &mut BTreeMap<GroupId, Group>,
        world: &mut World<'_>,
    ) -> Result<Lease, NoChannel> {
        self.learn_failure(groups);
        loop {
            let Some(at) = self.at else { return Err(self.end()) };
            if let Some(lease) = self.round(at, groups, world) {
                return Ok(lease);
            }
            self.at = None;
            let waits = self.may_wait(world.patience);
            if self.tier == Tier::Up && world.fail_open && !waits && self.is_spent(groups) {
                self.tier = Tier::NotUp;
                self.at = Some(self.within.first);
            }
        }
    }

    /// Another channel of the present group that is up, has room and was not tried. The client goes on with
    /// the one that it has, so the walk never leaves the group for this. `None`: there is none.
    ///
    /// The channel that was handed out last counts as tried from here on: this walk does not return to it.
    pub(super) fn step_beside(
        &mut self,
        groups: &mut BTreeMap<GroupId, Group>,
        world: &mut World<'_>,
    ) -> Option<Lease> {
        let at = self.at.filter(|_| self.tier == Tier::Up)?;
        let group = groups.get_mut(&at)?;
        group.advance(&world.rules.health, world.now);
        let mut tried = self.tried_in(at).cloned().unwrap_or_default();
        if let Some(last) = self.last {
            tried.insert(usize::from(last));
        }
        let wish = Wish { bucket: self.bucket, tried: &tried, tier: Tier::Up, rules: world.rules };
        let number = group.choose(&wish, world.random);
        let lease = number.ok().map(|number| {
            if let Some(last) = self.last {
                self.tried_is(at, usize::from(last));
            }
            self.take(group, number)
        });
        if !group.news.are_none() {
            world.stirred.push(at);
        }
        lease
    }

    /// The channel that was handed out last was not tried after all, for a reason that is not its fault.
    pub(super) fn forget_last(&mut self) {
        self.last = None;
    }

    /// Why there is no channel. Failed channels, and those that are not up, matter only if no full channel
    /// could have served the client.
    fn end(&self) -> NoChannel {
        if self.met_full { NoChannel::Full } else { self.reason }
    }

    /// The rest of a round over the groups.
    fn round(
        &mut self,
        from: GroupId,
        groups: &mut BTreeMap<GroupId, Group>,
        world: &mut World<'_>,
    ) -> Option<Lease> {
        let nobody = Tried::default();
        for (&id, group) in groups.range_mut(from..=self.within.last) {
            self.at = Some(id);
            group.advance(&world.rules.health, world.now);
            let tried = self.tried_in(id).unwrap_or(&nobody);
            let wish = Wish { bucket: self.bucket, tried, tier: self.tier, rules: world.rules };
            let found = match group.choose(&wish, world.random) {
                Ok(number) => Some(self.take(group, number)),
                Err(reason) => {
                    let is_full = self.tier == Tier::Up && group.is_full_for(&wish);
                    let is_held = is_full && group.is_held_for(&wish);
                    self.met_full |= is_full;
                    self.met_paused |= is_held;
                    self.reason = self.reason.max(reason);
                    self.leave(group);
                    None
                }
            };
            if !group.news.are_none() {
                world.stirred.push(id);
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn learn_failure(&mut self, groups: &BTreeMap<GroupId, Group>) {
        let (Some(last), Some(at)) = (self.last.take(), self.at) else { return };
        if groups.get(&at).is_some_and(|group| group.is_held(usize::from(last))) {
            // It was paused while it was dialled: that it does not answer now is the reason for the pause.
            return self.begin_again();
        }
        self.reason = NoChannel::Failed;
        self.tried_is(at, usize::from(last));
    }

    fn tried_in(&self, group: GroupId) -> Option<&Tried> {
        self.tried.iter().find(|(id, _)| *id == group).map(|(_, tried)| tried)
    }

    /// Is no channel left that is up, usable and not tried, not even one that the policies keep from this
    /// client?
    fn is_spent(&self, groups: &BTreeMap<GroupId, Group>) -> bool {
        let nobody = Tried::default();
        let mut mine = groups.range(self.within.first..=self.within.last);
        !mine.any(|(&id, group)| group.has_ready(self.tried_in(id).unwrap_or(&nobody)))
    }

    /// The walk is over, but it met a channel that is worth waiting for. The client may wait and then begin
    /// again, without the channels that failed.
    pub(super) fn may_wait(&self, patience: Patience) -> bool {
        (patience.full && self.met_full) || (patience.paused && self.met_paused)
    }

    /// Was a paused channel met?
    pub(super) fn has_met_paused(&self) -> bool {
        self.met_paused
    }

    /// Does it wait for a paused channel, or would it if all others were full?
    pub(super) fn is_held(&self, groups: &mut BTreeMap<GroupId, Group>, rules: &Rules) -> bool {
        let nobody = Tried::default();
        groups.range_mut(self.within.first..=self.within.last).any(|(&id, group)| {
            let tried = self.tried_in(id).unwrap_or(&nobody);
            group.is_held_for(&Wish { bucket: self.bucket, tried, tier: Tier::Up, rules })
        })
    }

    /// A walk for which these channels failed.
    #[cfg(test)]
    pub(super) fn after(failed: impl Iterator<Item = ChannelKey>) -> Self {
        let mut route = Self::new(std::net::IpAddr::from([192, 0, 2, 1]).into(), GroupRange::ALL);
        for key in failed {
            (route.at, route.last) = (Some(key.group), u16::try_from(key.channel.index()).ok());
            route.learn_failure(&BTreeMap::new());
        }
        route
    }

    /// Has a channel failed?
    pub(super) fn has_failed(&self) -> bool {
        !self.tried.is_empty()
    }

    /// The channels that failed.
    pub(super) fn tried(&self) -> impl Iterator<Item = ChannelKey> + '_ {
        self.tried.iter().flat_map(|&(group, ref tried)| {
            tried.iter().filter_map(move |number| ChannelKey::of(group, number))
        })
    }

    /// Did this channel fail?
    pub(super) fn has_tried(&self, channel: ChannelKey) -> bool {
        self.tried_in(channel.group).is_some_and(|tried| tried.contains(channel.channel.index()))
    }

    /// Begins again after a wait. Of what it met before, only failures remain valid.
    pub(super) fn begin_again(&mut self) {
        (self.at, self.tier) = (Some(self.within.first), Tier::Up);
        (self.met_full, self.met_paused) = (false, false);
        self.reason = if self.has_failed() { NoChannel::Failed } else { NoChannel::Empty };
    }

    /// The groups that it may go to.
    pub(super) fn within(&self) -> GroupRange {
        self.within
    }

    /// May the client use this channel, and did it not fail?
    pub(super) fn may_have(&self, channel: ChannelKey) -> bool {
        self.within.contains(channel.group) && !self.has_tried(channel)
    }

    pub(super) fn bucket(&self) -> Bucket {
        self.bucket
    }

    fn take(&mut self, group: &mut Group, number: usize) -> Lease {
        let cursor = group.cursor();
        // If others moved the cursor between two steps, only the later moves of this walk can be put back.
        let before = match self.moved {
            Some(moved) if moved.last_move == cursor.moves => moved.before,
            _ => cursor,
        };
        let lease = group.hand_out(number);
        self.last = u16::try_from(number).ok();
        self.moved = Some(Moved { before, last_move: group.cursor().moves });
        lease
    }

    fn leave(&mut self, group: &mut Group) {
        if let Some(Moved { before, last_move }) = self.moved.take() {
            group.put_back(before, last_move);
        }
    }

    /// This channel answered. If it is the one handed out last, the turns of its group continue after it.
    pub(super) fn arrive(self, key: ChannelKey, group: &mut Group) {
        if let (Some(last), Some(moved)) = (self.last, self.moved)
            && self.at == Some(key.group)
            && usize::from(last) == key.channel.index()
        {
            group.settle(usize::from(last), moved.last_move);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::num::NonZeroU32;

    use super::super::{Addresses, AdminState, DialCause, DialFailure, HealthRules, Policy, Rules, Table};
    use super::*;

    const RULES: Rules = Rules::CLASSIC;

    fn group_id(n: usize) -> GroupId {
        GroupId::new(n).expect("small")
    }

    /// Groups as a word each: `R` or `H`, then a letter per channel: `e`nabled, `d`isabled, `1` = enabled with maxc 1.
    fn table(groups: &[&str], rules: Rules) -> Table {
        let mut table = Table::new(rules);
        for (g, word) in groups.iter().enumerate() {
            let policy = if word.starts_with('H') { Policy::Hash } else { Policy::RoundRobin };
            table.set_policy(group_id(g), policy);
            for (c, letter) in word.chars().skip(1).enumerate() {
                let address = SocketAddr::from(([10, 0, g as u8, c as u8], 80));
                let state = if letter == 'd' { AdminState::Disabled } else { AdminState::Enabled };
                let maxc = (letter == '1').then_some(NonZeroU32::MIN);
                table.create(group_id(g), Addresses::from(address), maxc, state).expect("few channels");
            }
        }
        table
    }

    fn client() -> ClientAddr {
        ClientAddr::from(IpAddr::from([192, 0, 2, 1]))
    }

    fn place(key: ChannelKey) -> String {
        format!("{}.{}", key.group.index(), key.channel.index())
    }

    /// A walk on which every dial fails: the channels in order, and how it ended.
    fn walk(table: &mut Table) -> (Vec<String>, NoChannel) {
        let (mut route, mut seen) = (table.begin(client()), Vec::new());
        loop {
            match table.next(&mut route) {
                Ok(lease) => {
                    seen.push(place(lease.key()));
                    table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused");
                }
                Err(reason) => {
                    assert_eq!(table.next(&mut route).err(), Some(reason), "the end stays the end");
                    return (seen, reason);
                }
            }
        }
    }

    /// One client that connects to the first channel it gets.
    fn connect(table: &mut Table) -> (String, Lease) {
        let mut route = table.begin(client());
        let lease = table.next(&mut route).expect("a channel");
        table.connected(route, &lease, Duration::ZERO);
        (place(lease.key()), lease)
    }

    #[test]
    fn a_route_is_small() {
        assert!(size_of::<Route>() <= 80, "{} bytes", size_of::<Route>());
    }

    #[test]
    fn walks_visit_groups_in_order_and_tell_why_they_end() {
        let rows: &[(&[&str], &str, NoChannel)] = &[
            (&[], "", NoChannel::Empty),
            (&["R", "H"], "", NoChannel::Empty),
            (&["R", "Hd"], "", NoChannel::Disabled),
            (&["Rd", "Rdd"], "", NoChannel::Disabled),
            (&["Re"], "0.0", NoChannel::Failed),
            (&["Reee"], "0.0 0.1 0.2", NoChannel::Failed),
            (&["Rede", "R", "Rd", "Hd", "Re"], "0.0 0.2 4.0", NoChannel::Failed),
            (&["He", "Re"], "0.0 1.0", NoChannel::Failed),
            (&["Hd", "Re"], "1.0", NoChannel::Failed),
        ];
        for &(groups, expected, end) in rows {
            let (seen, reason) = walk(&mut table(groups, RULES));
            assert_eq!((seen.join(" ").as_str(), reason), (expected, end), "{groups:?}");
        }
    }

    #[test]
    fn a_full_table_says_full_whatever_else_there_is() {
        let mut table = table(&["R1", "Rd", "R1"], RULES);
        let (_one, _two) = (connect(&mut table), connect(&mut table));
        assert_eq!(walk(&mut table), (Vec::new(), NoChannel::Full));
    }

    #[test]
    fn a_failed_hash_channel_leaves_the_group_unless_told_otherwise() {
        for (hash_failover, in_group) in [(false, 1), (true, 5)] {
            let mut table = table(&["Heeeee", "Ree"], Rules { hash_failover, ..RULES });
            let (seen, _) = walk(&mut table);
            assert_eq!(seen.iter().filter(|place| place.starts_with('0')).count(), in_group, "{seen:?}");
            assert_eq!(seen[in_group..], ["1.0", "1.1"], "-H {hash_failover}");
            let mut once = seen.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), seen.len(), "none twice: {seen:?}");
        }
    }

    #[test]
    fn clients_who_connect_at_once_get_different_channels() {
        let mut table = table(&["Reee"], RULES);
        let (mut a, mut b, mut c) = (table.begin(client()), table.begin(client()), table.begin(client()));
        let leases = [&mut a, &mut b, &mut c].map(|route| table.next(route).expect("a channel"));
        assert_eq!(leases.each_ref().map(|lease| place(lease.key())), ["0.0", "0.1", "0.2"]);
        for (route, lease) in [c, a, b].into_iter().zip(&leases) {
            table.connected(route, lease, Duration::ZERO);
        }
        assert_eq!(connect(&mut table).0, "0.0", "the order of the answers does not matter");
    }

    #[test]
    fn a_walk_in_vain_leaves_the_cursor_where_it_was() {
        let mut table = table(&["Reee", "Re"], RULES);
        assert_eq!(connect(&mut table).0, "0.0");
        assert_eq!(walk(&mut table).0, ["0.1", "0.2", "0.0", "1.0"]);
        assert_eq!(connect(&mut table).0, "0.1");
    }

    #[test]
    fn a_walk_in_vain_undoes_its_own_moves_only() {
        let mut table = table(&["Reee"], RULES);
        let mut route = table.begin(client());
        let lease = table.next(&mut route).expect("0.0");
        assert_eq!(connect(&mut table).0, "0.1", "another client meanwhile");
        table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused");
        for expected in ["0.2", "0.1"] {
            let lease = table.next(&mut route).expect("not tried yet");
            assert_eq!(place(lease.key()), expected);
            table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused");
        }
        assert_eq!(table.next(&mut route).err(), Some(NoChannel::Failed));
        assert_eq!(connect(&mut table).0, "0.2", "after the one that answered last");
    }

    #[test]
    fn a_failover_moves_the_cursor_past_the_one_that_answered() {
        let mut table = table(&["Reee"], RULES);
        let mut route = table.begin(client());
        let lease = table.next(&mut route).expect("0.0");
        table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused");
        let lease = table.next(&mut route).expect("0.1");
        table.connected(route, &lease, Duration::ZERO);
        assert_eq!((place(lease.key()), connect(&mut table).0), ("0.1".into(), "0.2".into()));
    }

    #[test]
    fn a_channel_created_while_the_last_one_is_dialled_comes_next() {
        let mut table = table(&["Re"], RULES);
        let mut route = table.begin(client());
        let lease = table.next(&mut route).expect("0.0");
        let address = Addresses::from(SocketAddr::from(([10, 9, 9, 9], 80)));
        table.create(GroupId::FIRST, address, None, AdminState::Enabled).expect("a slot");
        table.connected(route, &lease, Duration::ZERO);
        assert_eq!(connect(&mut table).0, "0.1");
    }

    #[test]
    fn edits_during_a_walk_are_seen_from_the_next_step_on() {
        let mut table = table(&["Ree"], RULES);
        let mut route = table.begin(client());
        let lease = table.next(&mut route).expect("0.0");
        table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused");
        let second =
            ChannelKey { group: GroupId::FIRST, channel: super::super::ChannelId::new(1).expect("1") };
        table.set_state(second, AdminState::Disabled).expect("0.1 exists");
        table.set_policy(GroupId::FIRST, Policy::Hash);
        let address = Addresses::from(SocketAddr::from(([10, 9, 9, 9], 80)));
        table.create(group_id(3), address, None, AdminState::Enabled).expect("a slot");
        let lease = table.next(&mut route).expect("the new group");
        assert_eq!(place(lease.key()), "3.0");
        table.failed(lease, DialFailure::Local, DialCause::NoPort, "refused");
        assert_eq!(table.next(&mut route).err(), Some(NoChannel::Failed));
    }

    /// Ejects a channel: a client fails at this channel alone.
    fn eject(table: &mut Table, place_of: &str) {
        loop {
            let mut route = table.begin(client());
            let lease = table.next(&mut route).expect("a channel");
            if place(lease.key()) == place_of {
                table
                    .failed(lease, DialFailure::Channel, DialCause::Refused, "refused")
                    .expect("it is ejected");
                return;
            }
            table.connected(route, &lease, Duration::ZERO);
        }
    }

    #[test]
    fn what_is_not_up_is_tried_last_and_only_if_the_rules_say_so() {
        for (fail_open, expected) in [(true, "0.1 1.0 0.0 0.2"), (false, "0.1 1.0")] {
            let health = HealthRules { eject: true, fail_open, ..HealthRules::NONE };
            let mut table = table(&["Reee", "Re"], Rules { health, ..RULES });
            eject(&mut table, "0.0");
            eject(&mut table, "0.2");
            assert_eq!(connect(&mut table).0, "0.1", "while it is up");
            table.set_policy(GroupId::FIRST, Policy::First);
            assert_eq!(
                walk(&mut table),
                (expected.split(' ').map(String::from).collect(), NoChannel::Failed)
            );
        }
    }

    #[test]
    fn a_channel_that_is_up_keeps_everybody_from_those_that_are_not() {
        let health = HealthRules { eject: true, ..HealthRules::NONE };
        let mut table = table(&["Re", "Hee"], Rules { health, ..RULES });
        eject(&mut table, "0.0");
        let (seen, end) = walk(&mut table);
        assert_eq!((seen.len(), end), (1, NoChannel::Failed), "its other hash channel is up: {seen:?}");
        let (seen, _) = walk(&mut table);
        assert!(seen.is_empty(), "and nobody else is tried: {seen:?}");
    }

    #[test]
    fn without_any_up_channel_the_reason_says_so() {
        let health = HealthRules { eject: true, fail_open: false, ..HealthRules::NONE };
        let mut table = table(&["Re", "Rd"], Rules { health, ..RULES });
        eject(&mut table, "0.0");
        assert_eq!(walk(&mut table), (Vec::new(), NoChannel::Down));
    }

    #[test]
    fn beside_a_channel_there_are_those_of_its_group_only() {
        let rows: &[(&[&str], bool, &str)] = &[
            (&["Ree", "Re"], false, "0.1"),
            (&["Reee"], false, "0.1 0.2"),
            (&["Red", "Re"], false, ""),
            (&["Re", "Ree"], false, ""),
            (&["Hee", "Re"], false, ""),
            (&["Re1"], false, "0.1"),
        ];
        for &(groups, hash_failover, expected) in rows {
            let mut table = table(groups, Rules { hash_failover, ..RULES });
            let mut route = table.begin(client());
            let first = table.next(&mut route).expect("the first");
            let beside: Vec<_> =
                std::iter::from_fn(|| table.next_beside(&mut route, &mut Vec::new())).collect();
            let seen: Vec<_> = beside.iter().map(|lease| place(lease.key())).collect();
            assert_eq!(seen.join(" "), expected, "{groups:?}");
            // If all of them fail, the walk goes on after them.
            drop((first, beside));
            let next = table.next(&mut route).ok().map(|lease| place(lease.key()));
            assert_eq!(next, (groups.len() > 1).then(|| "1.0".to_owned()), "{groups:?}");
        }
        let mut table = table(&["Heee"], Rules { hash_failover: true, ..RULES });
        let mut route = table.begin(client());
        let first = table.next(&mut route).expect("the first");
        let second = table.next_beside(&mut route, &mut Vec::new()).expect("-H goes on");
        assert_ne!(first.key(), second.key());
        table.give_back(&mut route, second);
        assert!(table.next(&mut route).is_ok(), "it was not tried");
    }
}

//! Several walks open at once, their steps interleaved with edits and ends: what must hold at any time.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use balance::sched::{AdminState, ChannelKey, DialFailure, Lease, Policy, Route, Rules, Snapshot, Table};

use super::{Random, for_seeds, group_id, key, place, some_addresses, some_client};

const STEPS: usize = 400;
const GROUPS: usize = 4;

struct Walk {
    route: Route,
    /// The channel being dialled.
    lease: Option<Lease>,
    visited: Vec<ChannelKey>,
}

struct World {
    table: Table,
    rules: Rules,
    walks: Vec<Walk>,
    live: Vec<Lease>,
}

#[test]
fn interleaved_walks_keep_every_promise() {
    for_seeds("concurrent", |random| {
        let rules =
            Rules { hash_failover: random.one_in(2), autodisable: random.one_in(4), ..Rules::CLASSIC };
        let mut world = World { table: Table::new(rules), rules, walks: Vec::new(), live: Vec::new() };
        (0..6).for_each(|_| world.edit(random));
        for _ in 0..STEPS {
            match random.below(16) {
                0 | 1 => world.edit(random),
                2..=4 if !world.live.is_empty() => {
                    let ended = random.below(world.live.len());
                    drop(world.live.swap_remove(ended));
                }
                5 if !world.walks.is_empty() => {
                    // A client who leaves while its channel is dialled.
                    let gone = random.below(world.walks.len());
                    drop(world.walks.swap_remove(gone));
                }
                6..=8 => {
                    let route = world.table.begin(some_client(random));
                    world.walks.push(Walk { route, lease: None, visited: Vec::new() });
                }
                _ => world.advance(random),
            }
            world.count();
        }
        while !world.walks.is_empty() {
            world.advance(random);
            world.count();
        }
        world.live.clear();
        assert_eq!(world.table.active(), 0);
        world.every_slot_can_be_had_again();
    });
}

impl World {
    fn edit(&mut self, random: &mut Random) {
        let g = random.below(GROUPS);
        let snapshot = self.table.snapshot();
        let channels = snapshot.groups.iter().find(|group| group.id.index() == g);
        let c = random.below(channels.map_or(0, |group| group.channels.len()) + 1);
        let maxc = NonZeroU32::new(random.below(4) as u32);
        let states =
            [AdminState::Enabled, AdminState::Enabled, AdminState::Disabled, AdminState::DisabledHard];
        let state = states[random.below(4)];
        // An edit of a channel that does not exist is refused, which is as good.
        let _refused = match random.below(8) {
            0..=2 => self.table.create(group_id(g), some_addresses(random), maxc, state).map(drop),
            3 | 4 => self.table.set_state(key(g, c), state).map(drop),
            5 => self.table.set_maxc(key(g, c), maxc),
            6 => self.table.assign(key(g, c), some_addresses(random)),
            _ => {
                let policy = if random.one_in(2) { Policy::Hash } else { Policy::RoundRobin };
                self.table.set_policy(group_id(g), policy);
                Ok(())
            }
        };
    }

    /// One step of one walk: the dial under way ends, and if it failed the next one begins.
    fn advance(&mut self, random: &mut Random) {
        if self.walks.is_empty() {
            return;
        }
        let mut walk = self.walks.swap_remove(random.below(self.walks.len()));
        if let Some(lease) = walk.lease.take() {
            if random.one_in(2) {
                self.table.connected(walk.route, &lease, Duration::ZERO);
                self.live.push(lease);
                return;
            }
            let why = if random.one_in(4) { DialFailure::Local } else { DialFailure::Channel };
            self.table.failed(lease, why, "refused");
        }
        let before = self.table.snapshot();
        let next = self.table.next(&mut walk.route).ok();
        self.check_passed_over(&before, &walk.visited, next.as_ref().map(Lease::key));
        let Some(lease) = next else { return };
        let now = self.table.channel(lease.key()).expect("it was handed out");
        assert_eq!(now.state, AdminState::Enabled, "{now:?}");
        assert!(now.maxc.is_none_or(|maxc| now.active <= maxc.get()), "over the limit: {now:?}");
        assert!(!walk.visited.contains(&lease.key()), "{:?} twice, walk {:?}", lease.key(), walk.visited);
        assert!(walk.visited.last().is_none_or(|last| last.group <= lease.key().group), "never back");
        walk.visited.push(lease.key());
        walk.lease = Some(lease);
        self.walks.push(walk);
    }

    /// What a step went past could not be had: no usable untried channel in a group that it left or jumped over.
    fn check_passed_over(&self, before: &Snapshot, visited: &[ChannelKey], now: Option<ChannelKey>) {
        let first = visited.last().map_or(0, |key| key.group.index());
        let last = now.map_or(usize::MAX, |key| key.group.index());
        for group in before.groups.iter().filter(|group| (first..last).contains(&group.id.index())) {
            if group.policy == Policy::Hash && !self.rules.hash_failover {
                continue;
            }
            for channel in &group.channels {
                let tried = visited.contains(&key(group.id.index(), channel.id.index()));
                let room = channel.maxc.is_none_or(|maxc| channel.active < maxc.get());
                let missed = !tried && room && channel.state == AdminState::Enabled;
                assert!(!missed, "{channel:?} of {:?} was passed over for {now:?}", group.id);
            }
        }
    }

    /// Connections of every channel = leases alive, dialling ones included.
    fn count(&mut self) {
        let mut leases = BTreeMap::new();
        let dialling = self.walks.iter().filter_map(|walk| walk.lease.as_ref());
        for lease in self.live.iter().chain(dialling) {
            *leases.entry(place(lease.key())).or_insert(0) += 1;
        }
        for group in self.table.snapshot().groups {
            for channel in group.channels {
                let at = (group.id.index(), channel.id.index());
                assert_eq!(channel.active, leases.remove(&at).unwrap_or(0), "connections of {at:?}");
            }
        }
        assert!(leases.is_empty(), "leases of channels that do not exist: {leases:?}");
    }

    fn every_slot_can_be_had_again(&mut self) {
        let mut slots = 0;
        for group in self.table.snapshot().groups {
            self.table.set_policy(group.id, Policy::RoundRobin);
            for channel in group.channels {
                let at = key(group.id.index(), channel.id.index());
                self.table.set_state(at, AdminState::Enabled).expect("it exists");
                if channel.maxc.is_none() {
                    self.table.set_maxc(at, NonZeroU32::new(2)).expect("it exists");
                }
                slots += channel.maxc.map_or(2, NonZeroU32::get);
            }
        }
        let mut random = Random(0);
        let mut have = Vec::new();
        while let Ok(lease) = {
            let mut route = self.table.begin(some_client(&mut random));
            self.table.next(&mut route)
        } {
            have.push(lease);
        }
        assert_eq!(have.len(), slots as usize, "slots lost or invented");
    }
}

#[test]
fn round_robin_is_exact_however_connects_overlap() {
    for_seeds("exact", |random| {
        let mut table = Table::new(Rules::CLASSIC);
        let channels = 1 + random.below(130);
        for _ in 0..channels {
            let created =
                table.create(group_id(0), some_addresses(random), None, AdminState::Enabled).map(drop);
            created.expect("few channels");
        }
        let (mut dialling, mut live) = (Vec::new(), Vec::new());
        for turn in 0..3 * channels + 7 {
            let mut route = table.begin(some_client(random));
            let lease = table.next(&mut route).expect("nothing is full or disabled");
            assert_eq!(place(lease.key()), (0, turn % channels), "turn {turn}");
            dialling.push((route, lease));
            while !dialling.is_empty() && random.one_in(2) {
                let (route, lease) = dialling.swap_remove(random.below(dialling.len()));
                table.connected(route, &lease, Duration::ZERO);
                live.push(lease);
            }
            while !live.is_empty() && random.one_in(2) {
                let ended = random.below(live.len());
                drop(live.swap_remove(ended));
            }
        }
    });
}

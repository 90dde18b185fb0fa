//! Many clients at once: walks open side by side, a line of those who wait, connections that end.
//!
//! Every step is compared with the model's; `promises` are asked besides, and those know nothing of the model.

use std::time::Duration;

use balance::sched::{
    ChannelKey, DialFailure, Grant, Happened, Lease, NoChannel, Route, Ticket, Transition, Turn,
};

use super::model::{Handed, Model, Walk};
use super::promises::{self, Step};
use super::world::World;
use super::{Random, place, some_client};

/// A client whose channel is being dialled.
pub(super) struct Open {
    route: Route,
    pub(super) lease: Lease,
    walk: Walk,
    handed: Handed,
    seen: Seen,
}

/// What a walk met so far.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) visited: Vec<ChannelKey>,
    /// The channels that are up are used up.
    pub(super) second_round: bool,
}

/// A client in line.
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    tag: u64,
    pub(super) walk: Walk,
    seen: Seen,
}

pub(super) struct Crowd {
    pub(super) world: World,
    pub(super) open: Vec<Open>,
    pub(super) live: Vec<Lease>,
    pub(super) line: Vec<Waiting>,
    /// Places that were left, or whose turn came.
    gone: Vec<Ticket>,
    tags: u64,
}

impl Crowd {
    pub(super) fn new(world: World) -> Self {
        Self { world, open: Vec::new(), live: Vec::new(), line: Vec::new(), gone: Vec::new(), tags: 0 }
    }

    pub(super) fn arrive(&mut self, random: &mut Random) {
        self.grant();
        let client = some_client(random);
        let route = self.world.table.begin(client);
        self.go_on(route, Model::begin(client), Seen::default());
    }

    /// A step of a walk: the next dial, a place in line, or the end.
    fn go_on(&mut self, mut route: Route, mut walk: Walk, mut seen: Seen) {
        let before = self.world.table.snapshot();
        let rules = self.world.model.rules;
        let has_room = rules.queue.is_some_and(|limit| self.line.len() < limit.get() as usize);
        let expected = self.world.model.step(&mut walk, has_room);
        self.tags += 1;
        let turn = if rules.queue.is_some() {
            self.world.table.next_or_wait(route, self.tags, None)
        } else {
            match self.world.table.next(&mut route) {
                Ok(lease) => Turn::Now(route, lease),
                Err(why) => Turn::Never(why),
            }
        };
        let step = Step { before: &before, rules: &rules, seen: &seen, waits: false };
        match (turn, expected) {
            (Turn::Now(route, lease), Ok(allowed)) => {
                assert!(allowed.contains(&place(lease.key())), "{lease:?} is none of {allowed:?}: {walk:?}");
                let is_up = step.gave(&lease);
                self.dial(route, lease, walk, seen, is_up);
            }
            (Turn::Later(ticket), Err(_)) if has_room && walk.met_full => {
                Step { waits: true, ..step }.gave_nothing();
                seen.second_round = false;
                self.line.push(Waiting { ticket, tag: self.tags, walk, seen });
            }
            (Turn::Never(why), Err(expected)) if !(has_room && walk.met_full) => {
                assert_eq!(why, expected, "{walk:?}");
                step.gave_nothing();
            }
            (turn, expected) => panic!("{turn:?}, the model says {expected:?}: {walk:?}"),
        }
    }

    fn dial(&mut self, route: Route, lease: Lease, mut walk: Walk, mut seen: Seen, is_up: bool) {
        promises::is_within_limits(&self.world.table, &lease);
        let handed = self.world.model.hand_out(&mut walk, place(lease.key()));
        seen.visited.push(lease.key());
        seen.second_round |= !is_up;
        self.open.push(Open { route, lease, walk, handed, seen });
    }

    /// A dial under way ends; if it failed, the walk goes on.
    pub(super) fn dial_ends(&mut self, random: &mut Random) {
        if self.open.is_empty() {
            return;
        }
        let Open { route, lease, walk, handed, seen } = self.open.swap_remove(random.below(self.open.len()));
        let (channel, address) = (lease.key(), lease.addresses().first());
        let transition = |what: Happened| Transition { channel, address, what };
        if random.one_in(2) {
            let told = self.world.table.connected(route, &lease, Duration::ZERO);
            assert_eq!(told, self.world.model.connected(&handed).map(transition));
            self.live.push(lease);
            return;
        }
        let why = if random.one_in(4) { DialFailure::Local } else { DialFailure::Channel };
        let told = self.world.table.failed(lease, why, "refused");
        assert_eq!(told, self.world.model.failed(&handed, why, "refused").map(transition), "{why:?}");
        self.go_on(route, walk, seen);
    }

    /// A client leaves while its channel is dialled.
    pub(super) fn give_up(&mut self, random: &mut Random) {
        if !self.open.is_empty() {
            let gone = self.open.swap_remove(random.below(self.open.len()));
            self.world.end(gone.lease);
        }
    }

    pub(super) fn hang_up(&mut self, random: &mut Random) {
        if !self.live.is_empty() {
            let ended = self.live.swap_remove(random.below(self.live.len()));
            self.world.end(ended);
        }
    }

    pub(super) fn leave_line(&mut self, random: &mut Random) {
        if !self.line.is_empty() {
            let left = self.line.remove(random.below(self.line.len()));
            assert!(self.world.table.leave_line(left.ticket));
            self.gone.push(left.ticket);
        }
        for &ticket in &self.gone {
            assert!(!self.world.table.leave_line(ticket), "{ticket:?} is left for good");
        }
    }

    /// Free slots go to those in line: in order, to whoever can have one.
    pub(super) fn grant(&mut self) {
        let before = self.world.table.snapshot();
        let rules = self.world.model.rules;
        let mut grants = self.world.table.grant().into_iter();
        for mut waiting in std::mem::take(&mut self.line) {
            Model::begin_again(&mut waiting.walk);
            let Ok(allowed) = self.world.model.step(&mut waiting.walk, true) else {
                self.line.push(waiting);
                continue;
            };
            let Waiting { ticket, tag, walk, mut seen } = waiting;
            let Some(Grant { ticket: real, tag: real_tag, route, lease }) = grants.next() else {
                panic!("{ticket:?} gets none of {allowed:?}: {walk:?}");
            };
            assert_eq!((real, real_tag), (ticket, tag), "out of order, or twice");
            assert!(allowed.contains(&place(lease.key())), "{lease:?} is none of {allowed:?}: {walk:?}");
            let is_up = promises::is_up(&before, lease.key());
            assert!(!seen.visited.contains(&lease.key()), "{:?} twice, {seen:?}", lease.key());
            assert!(is_up || rules.health.fail_open, "{lease:?} is not up");
            seen.second_round = false;
            self.gone.push(ticket);
            self.dial(route, lease, walk, seen, is_up);
        }
        assert!(grants.next().is_none(), "a grant for nobody");
        promises::nobody_waits_in_vain(&self.world.table.snapshot(), &self.line);
    }

    /// Slots, places in line, and all the rest is what both say.
    pub(super) fn compare(&mut self, what: &str) {
        self.world.compare(what);
        let leases = self.live.iter().chain(self.open.iter().map(|open| &open.lease));
        promises::every_slot_has_a_lease(&mut self.world.table, leases);
        assert_eq!(self.world.table.waiting(), self.line.len(), "{what}");
        let limit = self.world.model.rules.queue.map_or(0, |limit| limit.get() as usize);
        assert!(self.line.len() <= limit, "{what}: {} in a line of {limit}", self.line.len());
    }

    /// No walk is endless: all of them are walked to their ends, and everybody leaves.
    pub(super) fn go_home(&mut self, random: &mut Random) {
        while !self.open.is_empty() || !self.line.is_empty() {
            self.dial_ends(random);
            self.leave_line(random);
        }
        while !self.live.is_empty() {
            self.hang_up(random);
        }
        self.compare("all are gone");
        assert_eq!(self.world.table.active(), 0);
        let table = &mut self.world.table;
        let mut route = table.begin(some_client(random));
        assert_ne!(table.next(&mut route).err(), Some(NoChannel::Full), "full of nobody");
    }
}

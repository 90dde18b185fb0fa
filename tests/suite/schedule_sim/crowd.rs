//! Many clients at once: simultaneous walks, a wait queue, connections that end.
//!
//! Every step is compared with the model. `promises` are checked, too, and those know nothing about the
//! model.

use std::num::NonZeroU32;
use std::time::Duration;

use balance::sched::{
    ChannelKey, DialCause, DialFailure, Grant, Happened, Lease, Loss, NoChannel, Route, Ticket, Transition,
    Turn,
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
    /// The place in line that it had.
    place: Option<Ticket>,
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
        let (open, live, line, gone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { world, open, live, line, gone, tags: 0 }
    }

    pub(super) fn arrive(&mut self, random: &mut Random) {
        let client = some_client(random);
        let route = self.world.table.begin(client);
        self.go_on(route, Model::begin(client), Seen::default(), None);
    }

    /// A step of a walk: the next dial, a place in line, or the end. Who had a place in line keeps it.
    fn go_on(&mut self, mut route: Route, mut walk: Walk, mut seen: Seen, had: Option<Ticket>) {
        let rules = self.world.model.rules;
        // Those in line come first: the step sees to that by itself.
        if self.tags.is_multiple_of(2) {
            self.grant();
        }
        let before = self.world.table.snapshot();
        self.tags += 1;
        let mut grants = Vec::new();
        let turn = if rules.queue.is_some() {
            self.world.table.next_or_wait(route, self.tags, had, &mut grants)
        } else {
            match self.world.table.next(&mut route) {
                Ok(lease) => Turn::Now(route, lease),
                Err(why) => Turn::Never(Loss::NoChannel(why)),
            }
        };
        let is_as_before = grants.is_empty();
        self.granted(grants);
        let is_full = |limit: NonZeroU32| self.line.len() >= limit.get() as usize;
        let has_room = had.is_some() || !rules.queue.is_none_or(is_full);
        let mut expected = self.world.model.step(&mut walk, has_room);
        let again = expected.is_err() && has_room && walk.met_full && !walk.tried.is_empty();
        if again {
            // Before it waits it looks from the beginning.
            Model::begin_again(&mut walk);
            expected = self.world.model.step(&mut walk, true);
            seen.second_round = false;
        }
        let step = Step { before: &before, rules: &rules, seen: &seen, waits: false, again };
        match (turn, expected) {
            (Turn::Now(route, lease), Ok(allowed)) => {
                assert!(allowed.contains(&place(lease.key())), "{lease:?} is none of {allowed:?}: {walk:?}");
                let is_up = if is_as_before {
                    step.gave(&lease)
                } else {
                    promises::is_up(&self.world.table.snapshot(), lease.key())
                };
                self.dial(route, lease, walk, seen, is_up, had);
            }
            (Turn::Later(ticket), Err(_)) if has_room && walk.met_full => {
                if is_as_before {
                    Step { waits: true, ..step }.gave_nothing();
                }
                seen.second_round = false;
                assert_eq!(self.gone.contains(&ticket), had.is_some(), "{ticket:?} is given out again");
                assert!(had.is_none_or(|had| had == ticket), "{had:?} is lost for {ticket:?}");
                self.gone.retain(|&gone| gone != ticket);
                let at = self.line.partition_point(|waiting| waiting.ticket < ticket);
                assert!(had.is_some() || at == self.line.len(), "{ticket:?} goes before others");
                self.line.insert(at, Waiting { ticket, tag: self.tags, walk, seen });
            }
            (Turn::Never(why), Err(expected)) if !(has_room && walk.met_full) => {
                let expected = match expected {
                    NoChannel::Full if rules.queue.is_some() => Loss::QueueFull,
                    expected => Loss::NoChannel(expected),
                };
                assert_eq!(why, expected, "{walk:?}");
                if is_as_before {
                    step.gave_nothing();
                }
            }
            (turn, expected) => panic!("{turn:?}, the model says {expected:?}: {walk:?}"),
        }
    }

    fn dial(
        &mut self,
        route: Route,
        lease: Lease,
        mut walk: Walk,
        mut seen: Seen,
        is_up: bool,
        had: Option<Ticket>,
    ) {
        promises::is_within_limits(&self.world.table, &lease);
        let handed = self.world.model.hand_out(&mut walk, place(lease.key()));
        seen.visited.push(lease.key());
        seen.second_round |= !is_up;
        self.open.push(Open { route, lease, walk, handed, seen, place: had });
    }

    /// A dial under way ends; if it failed, the walk goes on.
    pub(super) fn dial_ends(&mut self, random: &mut Random) {
        if self.open.is_empty() {
            return;
        }
        let Open { route, lease, walk, handed, seen, place } =
            self.open.swap_remove(random.below(self.open.len()));
        let (channel, address) = (lease.key(), lease.addresses().first());
        let transition = |what: Happened| Transition { channel, address, what };
        if random.one_in(2) {
            let told = self.world.table.connected(route, &lease, Duration::ZERO);
            assert_eq!(told, self.world.model.connected(&handed).map(transition));
            self.live.push(lease);
            return;
        }
        let why = if random.one_in(4) { DialFailure::Local } else { DialFailure::Channel };
        let told = self.world.table.failed(lease, why, DialCause::Refused, "refused");
        assert_eq!(told, self.world.model.failed(&handed, why, "refused").map(transition), "{why:?}");
        self.go_on(route, walk, seen, place);
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

    /// Free slots go to those in line: in order, to whoever can have one. Channels that are up first, and when all of those
    /// are given away, the others.
    pub(super) fn grant(&mut self) {
        let grants = self.world.table.grant();
        self.granted(grants);
    }

    fn granted(&mut self, grants: Vec<Grant>) {
        let rules = self.world.model.rules;
        let mut grants = grants.into_iter();
        let after = self.world.table.snapshot();
        for fail_open in [false, rules.health.fail_open] {
            for mut waiting in std::mem::take(&mut self.line) {
                Model::begin_again(&mut waiting.walk);
                self.world.model.rules.health.fail_open = fail_open;
                let step = self.world.model.step(&mut waiting.walk, true);
                self.world.model.rules = rules;
                let Ok(allowed) = step else {
                    self.line.push(waiting);
                    continue;
                };
                let Waiting { ticket, tag, walk, mut seen } = waiting;
                let Some(Grant { ticket: real, tag: real_tag, route, lease }) = grants.next() else {
                    panic!("{ticket:?} gets none of {allowed:?}: {walk:?}");
                };
                assert_eq!((real, real_tag), (ticket, tag), "out of order, or twice");
                assert!(allowed.contains(&place(lease.key())), "{lease:?} is none of {allowed:?}: {walk:?}");
                let is_up = promises::is_up(&after, lease.key());
                assert!(!seen.visited.contains(&lease.key()), "{:?} twice, {seen:?}", lease.key());
                assert!(is_up || fail_open, "{lease:?} is not up");
                seen.second_round = false;
                self.gone.push(ticket);
                self.dial(route, lease, walk, seen, is_up, Some(ticket));
            }
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
        self.compare_queues(what);
    }

    /// The column `queue` of `status`: who could take a slot of a channel that is full.
    fn compare_queues(&mut self, what: &str) {
        for group in self.world.table.snapshot().groups {
            for channel in group.channels {
                let at = (group.id.index(), channel.id.index());
                let model = &mut self.world.model;
                let could = self.line.iter().filter(|waiting| model.could_have(at, &waiting.walk)).count();
                let expected = if model.is_full(at) { could } else { 0 };
                assert_eq!(channel.waiting as usize, expected, "{what}: who waits for {at:?}");
            }
        }
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

//! Clients that wait for a slot, in the order in which they came.
//!
//! A slot that comes free goes to the first in line whose walk leads to it. A newcomer gets what nobody in line can take.
//!
//! Knows: tickets, whose walk each is. Never: sockets, how long they have waited, which worker has them.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::bits::Tried;
use super::group::Group;
use super::{GroupId, Lease, NoChannel, Policy, Route, Table};

/// A place in the line. Places are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// A client's turn has come.
#[derive(Debug)]
pub struct Grant {
    /// Which place it was.
    pub ticket: Ticket,
    /// What the client was put in line with.
    pub tag: u64,
    /// Its walk, to be gone on with if this channel fails.
    pub route: Route,
    /// Its slot.
    pub lease: Lease,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) tag: u64,
    pub(super) route: Route,
}

/// The line of an instance.
///
/// Whoever gives a slot back looks at `count` afterwards, and whoever gets in line raises `count` and looks for free slots
/// afterwards. All of these accesses are sequentially consistent, so one of the two sees the other, and no client waits
/// beside a free slot.
#[derive(Debug)]
pub(super) struct Line {
    /// `None` = nobody waits, ever.
    limit: Option<NonZeroU32>,
    waiters: BTreeMap<Ticket, Waiter>,
    next: u64,
    count: Arc<AtomicUsize>,
}

impl Line {
    pub(super) fn new(limit: Option<NonZeroU32>) -> Self {
        Self { limit, waiters: BTreeMap::new(), next: 0, count: Arc::default() }
    }

    pub(super) fn has_room(&self) -> bool {
        self.limit.is_some_and(|limit| self.waiters.len() < limit.get() as usize)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// `before`: the place that the client had, if its turn had come and got it nothing.
    pub(super) fn enter(&mut self, tag: u64, route: Route, before: Option<Ticket>) -> Ticket {
        let ticket = before.unwrap_or(Ticket(self.next));
        self.next = self.next.max(ticket.0 + 1);
        self.waiters.insert(ticket, Waiter { tag, route });
        self.count.fetch_add(1, Ordering::SeqCst);
        ticket
    }

    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.waiters.remove(&ticket)?;
        self.count.fetch_sub(1, Ordering::SeqCst);
        Some(waiter)
    }

    pub(super) fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.values()
    }

    /// The places from this one on, in order; a place at a time, so that they can be left meanwhile.
    pub(super) fn at_or_after(&mut self, ticket: Ticket) -> Option<(Ticket, &mut Waiter)> {
        self.waiters.range_mut(ticket..).next().map(|(&ticket, waiter)| (ticket, waiter))
    }

    /// How many wait, for those who have not locked the table.
    pub(super) fn count(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.count)
    }
}

impl Ticket {
    pub(super) const FIRST: Self = Self(0);

    pub(super) fn following(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What a client gets that would rather wait than be turned away.
#[derive(Debug)]
pub enum Turn {
    /// A channel.
    Now(Route, Lease),
    /// A place in line: its turn comes by [`Table::grant`].
    Later(Ticket),
    /// Nothing.
    Never(NoChannel),
}

impl Table {
    /// The next channel of a walk as by [`Table::next`], or a place in line if channels are full and the line is not.
    /// `tag` comes back with the grant. Who has waited already and got a channel that failed keeps its place, `before`,
    /// even if the line is full by now.
    pub fn next_or_wait(&mut self, mut route: Route, tag: u64, before: Option<Ticket>) -> Turn {
        let may_wait = before.is_some() || self.line.has_room();
        match self.step(&mut route, may_wait) {
            Ok(lease) => Turn::Now(route, lease),
            Err(_) if may_wait && route.may_wait() => Turn::Later(self.line.enter(tag, route, before)),
            Err(why) => Turn::Never(why),
        }
    }

    /// Gives free slots to those in line, in their order. To be called after everything that may have made room, and
    /// before a newcomer is served.
    pub fn grant(&mut self) -> Vec<Grant> {
        let mut grants = Vec::new();
        let mut at = Ticket::FIRST;
        self.learn_freed();
        while self.can_serve_anyone()
            && let Some((ticket, waiter)) = self.line.at_or_after(at)
        {
            at = ticket.following();
            // The walk is taken out of the line while the table is looked at.
            let client = waiter.route.bucket();
            let mut route = std::mem::replace(&mut waiter.route, Route::of(client));
            route.begin_again();
            match self.step(&mut route, true) {
                Ok(lease) => {
                    let tag = self.line.leave(ticket).map_or(0, |waiter| waiter.tag);
                    grants.push(Grant { ticket, tag, route, lease });
                }
                Err(_) => {
                    if let Some((_, waiter)) = self.line.at_or_after(ticket) {
                        waiter.route = route;
                    }
                }
            }
        }
        grants
    }

    /// Is there a slot that somebody in line could be given? So that a long line is not asked one by one for nothing.
    fn can_serve_anyone(&self) -> bool {
        let nobody = Tried::default();
        let groups = || self.groups.values();
        if groups().any(|group| group.has_ready(&nobody)) {
            return true;
        }
        // Channels that are not up are for clients who have nothing to wait for: all that are up were tried or, where one
        // channel is all that a client may have, are of no use to it.
        let is_bound = |group: &Group| group.policy() == Policy::Hash && !self.rules.hash_failover;
        let has_nothing = || {
            !self.has_up()
                || groups().any(is_bound)
                || self.line.waiters().any(|waiter| waiter.route.has_tried())
        };
        groups().any(Group::has_usable) && has_nothing()
    }

    /// Gives up a place. `false` = its turn has come already: the grant is on its way.
    pub fn leave_line(&mut self, ticket: Ticket) -> bool {
        self.line.leave(ticket).is_some()
    }

    /// Clients that wait.
    pub fn waiting(&self) -> usize {
        self.line.waiters().count()
    }

    /// How many clients each full channel could take from the line.
    pub(super) fn waiting_by_channel(&mut self) -> BTreeMap<(GroupId, usize), u32> {
        let mut waiting = BTreeMap::new();
        if self.line.is_empty() {
            return waiting;
        }
        let all = u32::try_from(self.waiting()).unwrap_or(u32::MAX);
        for (&id, group) in &mut self.groups {
            if group.policy() == Policy::Hash && !self.rules.hash_failover {
                for waiter in self.line.waiters() {
                    if let Some(number) = group.mapped(waiter.route.bucket()).filter(|&n| group.is_full(n)) {
                        *waiting.entry((id, number)).or_default() += 1;
                    }
                }
            } else {
                let full = (0..group.channels().len()).filter(|&number| group.is_full(number));
                waiting.extend(full.map(|number| ((id, number), all)));
            }
        }
        waiting
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::super::{Addresses, AdminState, ChannelId, ChannelKey, ClientAddr, Rules};
    use super::*;

    const KEY: fn(usize) -> ChannelKey =
        |n| ChannelKey { group: GroupId::FIRST, channel: ChannelId::new(n).expect("small") };

    /// A table with one group of channels with room for one client each.
    fn table(policy: Policy, channels: u8, queue: u32) -> Table {
        let mut table = Table::new(Rules { policy, queue: NonZeroU32::new(queue), ..Rules::CLASSIC });
        for n in 0..channels {
            let address = Addresses::from(SocketAddr::from(([127, 0, 0, n], 80)));
            let created = table.create(GroupId::FIRST, address, Some(NonZeroU32::MIN), AdminState::Enabled);
            created.expect("few channels");
        }
        table
    }

    fn ask(table: &mut Table, client: u8) -> Turn {
        let route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, client])));
        table.next_or_wait(route, u64::from(client), None)
    }

    #[test]
    fn whoever_meets_a_full_channel_waits_and_gets_its_slot_in_turn() {
        let mut table = table(Policy::RoundRobin, 1, 2);
        let Turn::Now(_, lease) = ask(&mut table, 1) else { panic!("it has room") };
        let Turn::Later(_) = ask(&mut table, 2) else { panic!("the line has room") };
        let Turn::Later(last) = ask(&mut table, 3) else { panic!("for two") };
        assert!(matches!(ask(&mut table, 4), Turn::Never(NoChannel::Full)), "and for no more");
        assert!(table.grant().is_empty());
        drop(lease);
        let grants = table.grant();
        assert_eq!(grants.iter().map(|grant| grant.tag).collect::<Vec<_>>(), [2]);
        assert_eq!(table.waiting(), 1);
        assert!(table.leave_line(last) && !table.leave_line(last));
        drop(grants);
        assert!(table.grant().is_empty(), "nobody is left");
    }

    #[test]
    fn nobody_waits_without_a_line_or_for_what_takes_no_clients() {
        let mut without = table(Policy::RoundRobin, 1, 0);
        let Turn::Now(_, _lease) = ask(&mut without, 1) else { panic!("it has room") };
        assert!(matches!(ask(&mut without, 2), Turn::Never(NoChannel::Full)));
        let mut with = table(Policy::RoundRobin, 1, 5);
        with.set_state(KEY(0), AdminState::Disabled).expect("it exists");
        assert!(matches!(ask(&mut with, 1), Turn::Never(NoChannel::Disabled)));
    }

    #[test]
    fn a_full_channel_tells_how_many_wait_for_it() {
        for (policy, expected) in [(Policy::RoundRobin, [3, 3]), (Policy::First, [3, 3])] {
            let mut table = table(policy, 2, 9);
            let _leases = [ask(&mut table, 1), ask(&mut table, 2)];
            (3..6).for_each(|client| drop(ask(&mut table, client)));
            let told = |table: &mut Table| -> Vec<u32> {
                table.snapshot().groups[0].channels.iter().map(|channel| channel.waiting).collect()
            };
            assert_eq!(told(&mut table), expected, "{policy:?}");
            table.set_maxc(KEY(1), None).expect("it exists");
            assert_eq!(told(&mut table), [3, 0], "{policy:?}: the second one has room now");
        }
        let mut table = table(Policy::Hash, 2, 99);
        let turns: Vec<Turn> = (0..40).map(|client| ask(&mut table, client)).collect();
        let now = turns.iter().filter(|turn| matches!(turn, Turn::Now(..))).count();
        let told: u32 = table.snapshot().groups[0].channels.iter().map(|channel| channel.waiting).sum();
        assert_eq!((now, told), (2, 38), "each waits for its own channel only");
    }
}

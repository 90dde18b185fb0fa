//! The wait queue: clients that wait for a slot in the order in which they came, and which of them is the
//! first for a channel.
//!
//! Knows: tickets, the walk of each client, which channels each must not use or may only use. Never: which
//! channels have room, how long anyone has waited, which worker has them.
//!
//! What a client waits for is determined by the channels that it has tried without success and, in groups
//! where a client may use only one channel, by that one. Both are indexed, so neither a newcomer nor a freed
//! slot needs a look at every place: no client that cannot use a channel is asked about it twice.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{ChannelKey, GroupRange, Route};

/// Maximum number of clients that wait for paused channels if no `--queue` is given.
const MOST_IN_PAUSE: usize = 10_000;

/// A place in the wait queue. Places are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) tag: u64,
    pub(super) route: Route,
    /// The only channel that it may use in each group where that is one.
    homes: Box<[ChannelKey]>,
}

/// The wait queue of an instance.
///
/// A thread that gives a slot back reads `count` afterwards. A client that joins the queue raises `count` and
/// looks for free slots afterwards. All these accesses are sequentially consistent, so one of the two sees
/// the other, and no client waits beside a free slot.
#[derive(Debug)]
pub(super) struct Line {
    /// `None`: clients may wait only for paused channels.
    limit: Option<NonZeroU32>,
    waiters: BTreeMap<Ticket, Waiter>,
    next: u64,
    count: Arc<AtomicUsize>,
    /// For each channel that is the only possible one of its group for some clients: those clients.
    homes: BTreeMap<ChannelKey, BTreeSet<Ticket>>,
    /// How many clients may go to each range of groups.
    within: BTreeMap<GroupRange, usize>,
    /// For each channel that failed for some waiting clients: how many they are.
    tried: BTreeMap<ChannelKey, u32>,
    /// For such channels: how far the queue was searched.
    searched: BTreeMap<ChannelKey, Searched>,
    /// No client, since the queue was last empty, has tried more channels than this.
    most_tried: usize,
}

/// How far the queue was searched for a client that may use a channel and has not tried it. A client that was
/// passed over would be passed over again.
#[derive(Debug, Default)]
struct Searched {
    /// Every client before this place has tried the channel or may not use it, except those in `behind`.
    to: Ticket,
    /// Clients that came back to an earlier place and may use the channel. May contain places that were left
    /// since.
    behind: BTreeSet<Ticket>,
}

impl Line {
    pub(super) fn new(limit: Option<NonZeroU32>) -> Self {
        Self {
            limit,
            waiters: BTreeMap::new(),
            next: 0,
            count: Arc::default(),
            homes: BTreeMap::new(),
            within: BTreeMap::new(),
            tried: BTreeMap::new(),
            searched: BTreeMap::new(),
            most_tried: 0,
        }
    }

    /// The number of the next place.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Reserves the places below `next`, which another process gave out.
    pub(super) fn begin_at(&mut self, next: u64) {
        self.next = next;
    }

    /// The place with this number, for a client that had it in another process. `None` if it was never given
    /// out or is taken.
    pub(super) fn place(&self, number: u64) -> Option<Ticket> {
        let ticket = Ticket(number);
        (number < self.next && !self.waiters.contains_key(&ticket)).then_some(ticket)
    }

    /// A place after all others.
    pub(super) fn last_place(&self) -> Ticket {
        Ticket(self.next)
    }

    /// Sets how many clients may wait. Clients that already wait stay.
    pub(super) fn set_limit(&mut self, limit: Option<NonZeroU32>) {
        self.limit = limit;
    }

    pub(super) fn has_room(&self) -> bool {
        self.limit.is_some_and(|limit| self.waiters.len() < limit.get() as usize)
    }

    /// Is there room for one more client that waits for a paused channel?
    pub(super) fn has_room_in_pause(&self) -> bool {
        self.waiters.len() < self.limit.map_or(MOST_IN_PAUSE, |limit| limit.get() as usize)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Adds a client. `homes` has, for each group where the client may use only one channel, that channel,
    /// unless it was tried. `before` is the place that the client had, if its turn came and got it nothing.
    pub(super) fn enter(
        &mut self,
        tag: u64,
        route: Route,
        homes: Vec<ChannelKey>,
        before: Option<Ticket>,
    ) -> Ticket {
        let ticket = before.unwrap_or(Ticket(self.next));
        self.next = self.next.max(ticket.0 + 1);
        let mut tried_by_it = 0;
        for channel in route.tried() {
            tried_by_it += 1;
            *self.tried.entry(channel).or_default() += 1;
        }
        self.most_tried = self.most_tried.max(tried_by_it);
        if before.is_some() {
            for (&channel, searched) in &mut self.searched {
                if ticket < searched.to && route.may_have(channel) {
                    searched.behind.insert(ticket);
                }
            }
        }
        for &home in &homes {
            self.homes.entry(home).or_default().insert(ticket);
        }
        *self.within.entry(route.within()).or_default() += 1;
        self.waiters.insert(ticket, Waiter { tag, route, homes: homes.into() });
        self.count.fetch_add(1, Ordering::SeqCst);
        ticket
    }

    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.waiters.remove(&ticket)?;
        self.count.fetch_sub(1, Ordering::SeqCst);
        for channel in waiter.route.tried() {
            if let Some(count) = self.tried.get_mut(&channel) {
                *count -= 1;
                if *count == 0 {
                    self.tried.remove(&channel);
                }
            }
        }
        let within = waiter.route.within();
        if let Some(count) = self.within.get_mut(&within) {
            *count -= 1;
            if *count == 0 {
                self.within.remove(&within);
            }
        }
        self.leave_homes(ticket, &waiter.homes);
        if self.waiters.is_empty() {
            self.searched.clear();
            self.most_tried = 0;
        }
        Some(waiter)
    }

    /// Updates which channels clients map to, as `homes_of` says.
    pub(super) fn settle(&mut self, mut homes_of: impl FnMut(&Route) -> Vec<ChannelKey>) {
        self.homes.clear();
        for (&ticket, waiter) in &mut self.waiters {
            waiter.homes = homes_of(&waiter.route).into();
            for &home in &waiter.homes {
                self.homes.entry(home).or_default().insert(ticket);
            }
        }
    }

    fn leave_homes(&mut self, ticket: Ticket, homes: &[ChannelKey]) {
        for home in homes {
            if let Some(tickets) = self.homes.get_mut(home) {
                tickets.remove(&ticket);
                if tickets.is_empty() {
                    self.homes.remove(home);
                }
            }
        }
    }

    /// The first client for which this is the only possible channel of its group.
    pub(super) fn first_at_home(&self, channel: ChannelKey) -> Option<Ticket> {
        self.homes.get(&channel)?.first().copied()
    }

    /// The first client that may use this channel and has not tried it.
    pub(super) fn first_untried(&mut self, channel: ChannelKey) -> Option<Ticket> {
        let may_have = self.untried(channel);
        if may_have == self.waiters.len() {
            return self.waiters.first_key_value().map(|(&ticket, _)| ticket);
        }
        if may_have == 0 {
            return None;
        }
        let searched = self.searched.entry(channel).or_default();
        while let Some(&ticket) = searched.behind.first() {
            if self.waiters.get(&ticket).is_some_and(|waiter| waiter.route.may_have(channel)) {
                return Some(ticket);
            }
            searched.behind.pop_first();
        }
        let mut rest = self.waiters.range(searched.to..);
        let (&ticket, _) = rest.find(|(_, waiter)| waiter.route.may_have(channel))?;
        searched.to = ticket;
        Some(ticket)
    }

    /// How many clients could take a slot of this channel. `is_home` says that clients may use only one
    /// channel of its group.
    pub(super) fn waiting_for(&self, channel: ChannelKey, is_home: bool) -> usize {
        if is_home { self.homes.get(&channel).map_or(0, BTreeSet::len) } else { self.untried(channel) }
    }

    /// How many clients may go to this channel's group and have not tried the channel.
    fn untried(&self, channel: ChannelKey) -> usize {
        let there = self.within.iter().filter(|(within, _)| within.contains(channel.group));
        let all: usize = there.map(|(_, count)| count).sum();
        // Every client that has tried it may also go there.
        all.saturating_sub(self.tried.get(&channel).map_or(0, |&count| count as usize))
    }

    /// May every waiting client go to all groups?
    pub(super) fn are_alike(&self) -> bool {
        self.within.keys().all(|within| *within == GroupRange::ALL)
    }

    /// No waiting client has tried more channels than this.
    pub(super) fn most_tried(&self) -> usize {
        self.most_tried
    }

    pub(super) fn waiter(&mut self, ticket: Ticket) -> Option<&mut Waiter> {
        self.waiters.get_mut(&ticket)
    }

    /// The first occupied place from this one on.
    pub(super) fn first_from(&self, ticket: Ticket) -> Option<Ticket> {
        self.waiters.range(ticket..).next().map(|(&ticket, _)| ticket)
    }

    /// The number of waiting clients, for code that has not locked the table.
    pub(super) fn count(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.count)
    }
}

impl Default for Ticket {
    fn default() -> Self {
        Self::FIRST
    }
}

impl Ticket {
    pub(super) const FIRST: Self = Self(0);

    /// The number of the place. Places are served in the order of their numbers.
    pub fn number(self) -> u64 {
        self.0
    }

    pub(super) fn following(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChannelId, GroupId};
    use super::*;

    fn key(number: usize) -> ChannelKey {
        ChannelKey { group: GroupId::FIRST, channel: ChannelId::new(number).expect("small") }
    }

    /// The walk of a client for which these channels failed.
    fn route(tried: &[usize]) -> Route {
        Route::after(tried.iter().map(|&number| key(number)))
    }

    /// A waiting client in the naive model: what it tried, and the only channel that it may use.
    #[derive(Debug, Clone)]
    struct Plain {
        tried: Vec<usize>,
        home: Option<usize>,
    }

    #[test]
    fn whoever_is_first_for_a_channel_is_found_as_by_asking_everybody() {
        let mut state = 3_u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let (mut line, mut plain) = (Line::new(NonZeroU32::new(50)), BTreeMap::new());
        let mut left: Vec<Ticket> = Vec::new();
        for step in 0..30_000 {
            // The queue is long at times and short at others.
            if random(if step / 1_000 % 2 == 0 { 3 } else { 7 }) < 2 {
                let tried: Vec<usize> = (0..5).filter(|_| random(3) == 0).collect();
                let home = Some(random(5)).filter(|home| random(2) == 0 && !tried.contains(home));
                let before = if left.is_empty() { 0 } else { random(2 * left.len()) };
                let before = (before < left.len()).then(|| left.swap_remove(before));
                let ticket = line.enter(0, route(&tried), home.map(key).into_iter().collect(), before);
                assert!(before.is_none_or(|before| before == ticket), "step {step}");
                assert!(
                    plain.insert(ticket, Plain { tried, home }).is_none(),
                    "step {step}: {ticket:?} twice"
                );
            } else if !plain.is_empty() {
                let ticket = *plain.keys().nth(random(plain.len())).expect("one of them");
                assert!(line.leave(ticket).is_some() && line.leave(ticket).is_none(), "step {step}");
                plain.remove(&ticket);
                left.push(ticket);
            }
            left.truncate(20);
            assert_eq!((line.len(), line.is_empty()), (plain.len(), plain.is_empty()), "step {step}");
            assert_eq!(line.has_room(), plain.len() < 50, "step {step}");
            let most = plain.values().map(|plain| plain.tried.len()).max();
            assert!(most <= Some(line.most_tried()), "step {step}");
            for channel in 0..5 {
                let untried = || plain.iter().filter(|(_, one)| !one.tried.contains(&channel));
                let at_home = || plain.iter().filter(|(_, one)| one.home == Some(channel));
                let found = (line.first_untried(key(channel)), line.first_at_home(key(channel)));
                let expected = (untried().next(), at_home().next());
                let expected = (expected.0.map(|one| *one.0), expected.1.map(|one| *one.0));
                assert_eq!(found, expected, "step {step}: {channel} of {plain:?}");
                let counts = [false, true].map(|is_home| line.waiting_for(key(channel), is_home));
                assert_eq!(counts, [untried().count(), at_home().count()], "step {step}: {channel}");
            }
        }
    }

    #[test]
    fn an_empty_line_has_nobody() {
        let mut line = Line::new(None);
        assert!(!line.has_room() && line.is_empty());
        assert_eq!((line.first_untried(key(0)), line.first_at_home(key(0))), (None, None));
        assert_eq!(line.first_from(Ticket::FIRST), None);
        assert!(line.leave(Ticket::FIRST).is_none());
    }
}

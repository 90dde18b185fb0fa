//! Which client gets a slot that becomes free while clients wait.
//!
//! A slot goes to the first waiting client whose walk leads to it. A newcomer gets what no waiting client can
//! take: waiting clients are served first, and a slot that is freed after that is not known to the newcomer's
//! walk, since nothing looks in between.
//!
//! Knows: what changed since waiting clients were last served, which rounds a walk has. Never: sockets, how
//! long anyone has waited.
//!
//! After waiting clients were served, none of them can have any channel as things are. So only later changes
//! can serve one: channels that have room now and had none (`ready`), and, for clients without any channel
//! that is up, any change about the others (`second`). Only for the latter are the walks of all waiting
//! clients tried.

use std::collections::{BTreeMap, BTreeSet};

use super::changes::{first_for, is_one_each};
use super::group::Group;
use super::route::Patience;
use super::{
    ChannelKey, Grant, GroupId, GroupRange, Lease, Loss, NoChannel, Route, Rules, Table, Ticket, Turn,
};

/// For each group where the client may use only one channel: that channel, unless it failed.
fn homes_of(route: &Route, groups: &mut BTreeMap<GroupId, Group>, rules: &Rules) -> Vec<ChannelKey> {
    let mut homes = Vec::new();
    let GroupRange { first, last } = route.within();
    for (&id, group) in groups.range_mut(first..=last).filter(|(_, group)| is_one_each(group, rules)) {
        let home = group.mapped(route.bucket()).and_then(|number| ChannelKey::of(id, number));
        homes.extend(home.filter(|&home| !route.has_tried(home)));
    }
    homes
}

impl Table {
    /// The next channel of a walk as [`Table::next`] finds it, or a place in the wait queue if channels are
    /// full and the queue is not. `tag` comes back with the grant. A client that waited and then got a
    /// channel that failed keeps its place `before`, even if the queue is full by now. Waiting clients are
    /// served first; `grants` receives their slots.
    pub fn next_or_wait(
        &mut self,
        mut route: Route,
        tag: u64,
        before: Option<Ticket>,
        grants: &mut Vec<Grant>,
    ) -> Turn {
        self.serve_before_newcomer(grants);
        let patience = Patience {
            full: before.is_some() || self.line.has_room(),
            paused: before.is_some() || self.line.has_room_in_pause(),
        };
        let fail_open = self.rules.health.fail_open;
        let mut found = self.walk(&mut route, patience, fail_open);
        if found.is_err() && route.may_wait(patience) && route.has_failed() {
            // It left earlier groups long ago, and may now find there what it is about to wait for, or that
            // there is nothing to wait for.
            route.begin_again();
            found = self.walk(&mut route, patience, fail_open);
        }
        match found {
            Ok(lease) => Turn::Now(route, lease),
            Err(_) if route.may_wait(patience) || (patience.paused && self.paused) => {
                let homes = homes_of(&route, &mut self.groups, &self.rules);
                Turn::Later(self.line.enter(tag, route, homes, before))
            }
            // It could have waited if the queue had room.
            Err(_) if route.has_met_paused() || self.paused => Turn::Never(Loss::QueueFull),
            Err(NoChannel::Full) if self.rules.queue.is_some() => Turn::Never(Loss::QueueFull),
            Err(why) => Turn::Never(Loss::NoChannel(why)),
        }
    }

    /// The next channel that is up, or a place in the wait queue if those are full and the queue is not.
    /// `None`: neither.
    pub(super) fn next_up_or_wait(
        &mut self,
        mut route: Route,
        tag: u64,
        grants: &mut Vec<Grant>,
    ) -> Option<Turn> {
        if let Ok(lease) = self.next_up(&mut route, grants) {
            return Some(Turn::Now(route, lease));
        }
        let patience = Patience { full: self.line.has_room(), paused: self.line.has_room_in_pause() };
        if !route.may_wait(patience) {
            return None;
        }
        let homes = homes_of(&route, &mut self.groups, &self.rules);
        Some(Turn::Later(self.line.enter(tag, route, homes, None)))
    }

    /// The turn of a client that had this place in another process's wait queue. It gets the same place here,
    /// even if the queue is full and whichever client came back before it. Clients with earlier places are
    /// served before it, later ones after it; `grants` receives their slots. If neither process gave out the
    /// place, or another client has it here, the client gets the last place.
    pub fn rejoin(&mut self, route: Route, tag: u64, ticket: u64, grants: &mut Vec<Grant>) -> Turn {
        let ticket = self.line.place(ticket).unwrap_or_else(|| self.line.last_place());
        self.advance_groups();
        let homes = homes_of(&route, &mut self.groups, &self.rules);
        // It joins the queue before the queue is served, so that no client after it gets what it may have.
        let ticket = self.line.enter(tag, route, homes, Some(ticket));
        let mut served = self.grant();
        let own = served.iter().position(|grant| grant.ticket == ticket).map(|at| served.remove(at));
        grants.append(&mut served);
        if let Some(own) = own {
            return Turn::Now(own.route, own.lease);
        }
        let Some(waiter) = self.line.leave(ticket) else { return Turn::Never(Loss::Ours) };
        // Channels that had room all the time were offered to no waiting client, and there may be nothing
        // that it could wait for.
        let mut route = waiter.route;
        route.begin_again();
        self.next_or_wait(route, tag, Some(ticket), grants)
    }

    /// The next channel of a walk as [`Table::next`] finds it, but only one that is up: for a client that
    /// could come back to an earlier channel, which is better than trying those that are not up. Waiting
    /// clients are served first; `grants` receives their slots.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    pub fn next_up(&mut self, route: &mut Route, grants: &mut Vec<Grant>) -> Result<Lease, NoChannel> {
        self.serve_before_newcomer(grants);
        self.walk(route, Patience::NONE, false)
    }

    /// Serves waiting clients, so that a walk takes nothing that one of them may have. Call it directly
    /// before the walk, under the same lock.
    pub(super) fn serve_before_newcomer(&mut self, grants: &mut Vec<Grant>) {
        if self.line.is_empty() {
            return self.learn_freed();
        }
        // Otherwise the walk itself would notice what time has changed, and with it a slot that was freed
        // just now.
        self.advance_groups();
        grants.append(&mut self.grant());
    }

    /// Gives free slots to waiting clients in their order. Call it after everything that may have made room.
    pub fn grant(&mut self) -> Vec<Grant> {
        let mut grants = Vec::new();
        self.learn_freed();
        if self.line.is_empty() {
            self.changes.ready.clear();
            (self.changes.second, self.changes.kept, self.changes.moved) = (false, false, false);
            return grants;
        }
        if std::mem::take(&mut self.changes.moved) {
            self.settle();
        }
        self.first_round(&mut grants);
        self.second_round(&mut grants);
        grants
    }

    /// Channels that have room now go to the first waiting clients that may use them.
    fn first_round(&mut self, grants: &mut Vec<Grant>) {
        // For each such channel, the first client that may use it; the first of these is the first that may
        // use any.
        let mut turns = BTreeSet::new();
        loop {
            for channel in std::mem::take(&mut self.changes.ready) {
                turns.extend(self.first_for(channel).map(|ticket| (ticket, channel)));
            }
            let Some((ticket, channel)) = turns.pop_first() else { return };
            match self.first_for(channel) {
                Some(first) if first == ticket => {
                    let got = self.turn_of(ticket, grants);
                    debug_assert!(got, "{ticket:?} may have {channel:?}");
                    if got {
                        turns.extend(self.first_for(channel).map(|next| (next, channel)));
                    }
                }
                // It got another one of these channels.
                first => turns.extend(first.map(|first| (first, channel))),
            }
        }
    }

    /// Clients with nothing left to wait for may use channels that are not up. Tries the walks of all waiting
    /// clients, unless it is clear that none is in that state.
    fn second_round(&mut self, grants: &mut Vec<Grant>) {
        if !std::mem::take(&mut self.changes.second) {
            return;
        }
        let most_tried = self.line.most_tried();
        if !self.rules.health.fail_open || !self.has_spare() {
            return;
        }
        // If some clients may use what others may not, nothing can be said about all of them.
        let are_alike = self.line.are_alike();
        if are_alike && self.has_more_up_for_all(most_tried) {
            return;
        }
        // A channel that is up and has room keeps from the others every client that has not tried it.
        let has_ready = self.groups.values().any(|group| group.ready().next().is_some());
        if are_alike && self.groups.values().flat_map(Group::ready).nth(most_tried).is_some() {
            self.changes.kept = true;
            return;
        }
        self.changes.kept = has_ready;
        let mut at = Ticket::FIRST;
        while let Some(ticket) = self.line.first_from(at) {
            at = ticket.following();
            if self.turn_of(ticket, grants) && !self.has_spare() {
                return;
            }
        }
    }

    /// Lets a waiting client try. `true` if it got a slot.
    fn turn_of(&mut self, ticket: Ticket, grants: &mut Vec<Grant>) -> bool {
        let Some(waiter) = self.line.waiter(ticket) else { return false };
        #[cfg(test)]
        {
            self.changes.asked += 1;
        }
        // The walk is taken out of the queue while the table is used.
        let empty = Route::of(waiter.route.bucket(), waiter.route.within());
        let mut route = std::mem::replace(&mut waiter.route, empty);
        route.begin_again();
        let found = self.walk(&mut route, Patience::ALL, self.rules.health.fail_open);
        if let Some(waiter) = self.line.waiter(ticket) {
            waiter.route = route;
        }
        let Ok(lease) = found else { return false };
        let Some(waiter) = self.line.leave(ticket) else { return false };
        grants.push(Grant { ticket, tag: waiter.tag, route: waiter.route, lease });
        true
    }

    /// The first waiting client that may use this channel, if the channel has room.
    fn first_for(&mut self, channel: ChannelKey) -> Option<Ticket> {
        let group = self.groups.get(&channel.group)?;
        if !group.is_ready(channel.channel.index()) {
            return None;
        }
        first_for(&mut self.line, channel, is_one_each(group, &self.rules))
    }

    /// Is any channel usable but not up?
    fn has_spare(&self) -> bool {
        self.groups.values().any(Group::has_spare)
    }

    /// Are more than `than` channels up, full or not, that any client may use?
    fn has_more_up_for_all(&self, than: usize) -> bool {
        let groups = self.groups.values().filter(|group| !is_one_each(group, &self.rules));
        groups.flat_map(Group::up).nth(than).is_some()
    }

    /// Updates which single channels waiting clients may use.
    pub(super) fn settle(&mut self) {
        self.line.settle(|route| homes_of(route, &mut self.groups, &self.rules));
    }

    /// Gives up a place. `false`: its turn has already come, and the grant is on its way.
    pub fn leave_line(&mut self, ticket: Ticket) -> bool {
        self.line.leave(ticket).is_some()
    }

    /// How many clients wait.
    pub fn waiting(&self) -> usize {
        self.line.len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::num::NonZeroU32;

    use std::time::Duration;

    use super::super::{
        Addresses, AdminState, ChannelId, ClientAddr, DialCause, DialFailure, HealthRules, Policy,
    };
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
        table.next_or_wait(route, u64::from(client), None, &mut Vec::new())
    }

    #[test]
    fn whoever_meets_a_full_channel_waits_and_gets_its_slot_in_turn() {
        let mut table = table(Policy::RoundRobin, 1, 2);
        let Turn::Now(_, lease) = ask(&mut table, 1) else { panic!("it has room") };
        let Turn::Later(_) = ask(&mut table, 2) else { panic!("the line has room") };
        let Turn::Later(last) = ask(&mut table, 3) else { panic!("for two") };
        assert!(matches!(ask(&mut table, 4), Turn::Never(Loss::QueueFull)), "and for no more");
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
    fn those_who_may_go_to_some_groups_only_wait_for_those() {
        let mut table = Table::new(Rules { queue: NonZeroU32::new(50), ..Rules::CLASSIC });
        let group = |number: usize| GroupId::new(number).expect("small");
        for number in 0..4_u8 {
            let address = Addresses::from(SocketAddr::from(([127, 0, 0, number], 80)));
            let created =
                table.create(group(number.into()), address, Some(NonZeroU32::MIN), AdminState::Enabled);
            created.expect("few channels");
        }
        let ranges = [(0, Some(2)), (2, Some(3)), (3, None)]
            .map(|(first, next)| GroupRange::new(first, next).expect("small"));
        let ask = |table: &mut Table, client: u8, within: GroupRange| {
            let route = table.begin_within(ClientAddr::from(IpAddr::from([192, 0, 2, client])), within);
            table.next_or_wait(route, u64::from(client), None, &mut Vec::new())
        };
        let group_of = |turn: Turn| match turn {
            Turn::Now(_, lease) => (lease.key().group.index(), lease),
            turn => panic!("{turn:?}"),
        };
        let mut held: BTreeMap<usize, Lease> = BTreeMap::new();
        for (client, (range, expected)) in [(0, 0), (0, 1), (1, 2), (2, 3)].into_iter().enumerate() {
            let (number, lease) = group_of(ask(&mut table, client as u8, ranges[range]));
            assert_eq!(number, expected);
            held.insert(number, lease);
        }
        // Six waiting clients, two for each part.
        for client in 10..16 {
            assert!(matches!(ask(&mut table, client, ranges[usize::from(client) % 3]), Turn::Later(_)));
        }
        let key =
            |number: usize| ChannelKey { group: group(number), channel: ChannelId::new(0).expect("small") };
        assert_eq!(table.line.waiting_for(key(0), false), 2);
        // Client 10 belongs to the second part, 11 to the third, 12 to the first, and so on.
        for (number, expected) in [(3, 11), (0, 12), (2, 10), (1, 15), (3, 14), (2, 13)] {
            drop(held.remove(&number));
            let mut grants = table.grant();
            assert_eq!(
                grants.iter().map(|grant| grant.tag).collect::<Vec<_>>(),
                [expected],
                "group {number}"
            );
            let grant = grants.remove(0);
            assert_eq!(grant.lease.key(), key(number));
            held.insert(number, grant.lease);
        }
        assert_eq!(table.waiting(), 0);
    }

    #[test]
    fn what_happens_in_other_groups_neither_serves_nor_loses_anybody_in_line() {
        for policy in [Policy::RoundRobin, Policy::LeastConnections, Policy::First, Policy::Hash] {
            for seed in 0..150 {
                let mut random = lot(seed);
                let rules = Rules {
                    policy,
                    queue: NonZeroU32::new(100),
                    health: HealthRules { eject: true, fail_open: seed % 2 == 0, ..HealthRules::NONE },
                    ..Rules::CLASSIC
                };
                let mut table = Table::new(rules);
                let parts = [(0, Some(2)), (2, Some(3)), (3, None)]
                    .map(|(first, next)| GroupRange::new(first, next).expect("small"));
                for number in 0..5 {
                    for n in 0..=random(2) {
                        let address =
                            Addresses::from(SocketAddr::from(([127, 0, number as u8, n as u8], 80)));
                        let group = GroupId::new(number).expect("small");
                        table
                            .create(group, address, Some(NonZeroU32::MIN), AdminState::Enabled)
                            .expect("few");
                    }
                }
                let (mut held, mut line): (Vec<(usize, Lease)>, BTreeMap<u64, usize>) = Default::default();
                for step in 0..120 {
                    let mut grants = Vec::new();
                    match random(5) {
                        0..=2 => {
                            let (part, client) = (random(3), IpAddr::from([192, 0, 2, random(9) as u8]));
                            let route = table.begin_within(client.into(), parts[part]);
                            match table.next_or_wait(route, step, None, &mut grants) {
                                Turn::Now(_, lease) => held.push((part, lease)),
                                Turn::Later(_) => _ = line.insert(step, part),
                                Turn::Never(_) => {}
                            }
                        }
                        3 if !held.is_empty() => drop(held.swap_remove(random(held.len()))),
                        _ => {
                            let key = ChannelKey::new(random(5), 0).expect("small");
                            let state = [AdminState::Enabled, AdminState::Disabled][random(2)];
                            let _ = table.set_state(key, state);
                        }
                    }
                    grants.append(&mut table.grant());
                    for grant in grants {
                        let part = line.remove(&grant.tag).expect("it is in line");
                        assert!(parts[part].contains(grant.lease.key().group), "{policy:?} {seed} {step}");
                        held.push((part, grant.lease));
                    }
                    assert_eq!(table.waiting(), line.len());
                }
                // When every channel has room, every client gets one.
                for number in 0..5 {
                    for n in 0..2 {
                        let key = ChannelKey::new(number, n).expect("small");
                        let _ = table.set_state(key, AdminState::Enabled);
                    }
                }
                while !line.is_empty() {
                    held.clear();
                    let grants = table.grant();
                    assert!(!grants.is_empty(), "{policy:?} {seed}: {line:?} wait for nothing");
                    for grant in grants {
                        let part = line.remove(&grant.tag).expect("it is in line");
                        assert!(parts[part].contains(grant.lease.key().group));
                    }
                }
            }
        }
    }

    fn lot(seed: u64) -> impl FnMut(usize) -> usize {
        let mut state = seed;
        move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        }
    }

    fn rejoin(table: &mut Table, ticket: u64, grants: &mut Vec<Grant>) -> Turn {
        let client = ClientAddr::from(IpAddr::from([192, 0, 2, ticket as u8]));
        let route = table.begin(client);
        table.rejoin(route, ticket, ticket, grants)
    }

    #[test]
    fn those_of_a_predecessor_come_back_in_any_order_and_are_served_by_their_places() {
        for seed in 0..200 {
            let mut random = lot(seed);
            let policies = [Policy::RoundRobin, Policy::LeastConnections, Policy::First, Policy::Hash];
            let policy = policies[random(4)];
            let channels = if policy == Policy::Hash { 1 } else { 1 + random(3) as u8 };
            let mut before = table(policy, channels, 50);
            let _leases: Vec<Turn> = (0..channels).map(|client| ask(&mut before, client)).collect();
            let mut away: Vec<u64> = (0..30)
                .map(|client| match ask(&mut before, client) {
                    Turn::Later(ticket) => ticket.number(),
                    turn => panic!("{turn:?}"),
                })
                .collect();
            // New clients may not wait any more.
            let rules = Rules { queue: None, ..before.rules };
            let mut table = Table::restore(rules, &before.record(), before.now).expect("a good record");
            let mut held: Vec<_> =
                (0..usize::from(channels)).map(|n| table.hold(KEY(n), 1).expect("it exists")).collect();
            let (mut line, mut served) = (BTreeSet::new(), Vec::new());
            while served.len() < 30 {
                let mut grants = Vec::new();
                match random(3) {
                    0 if !away.is_empty() => {
                        let ticket = away.swap_remove(random(away.len()));
                        match rejoin(&mut table, ticket, &mut grants) {
                            Turn::Now(_, lease) => {
                                // Clients before it are also served by this.
                                let passed = line
                                    .range(..ticket)
                                    .filter(|&&place| !grants.iter().any(|grant| grant.tag == place));
                                assert_eq!(passed.count(), 0, "seed {seed}: {ticket} before {line:?}");
                                served.push(ticket);
                                held.push(table.hold(lease.key(), 1).expect("it exists"));
                            }
                            Turn::Later(place) => {
                                assert_eq!(place.number(), ticket);
                                line.insert(ticket);
                            }
                            turn @ Turn::Never(_) => panic!("seed {seed}: {turn:?}"),
                        }
                    }
                    1 if !held.is_empty() => drop(held.swap_remove(random(held.len()))),
                    _ => {}
                }
                if random(2) == 0 {
                    grants.append(&mut table.grant());
                }
                for grant in grants {
                    assert_eq!(line.pop_first(), Some(grant.ticket.number()), "seed {seed}");
                    served.push(grant.tag);
                    held.push(table.hold(grant.lease.key(), 1).expect("it exists"));
                }
                assert_eq!(table.waiting(), line.len(), "seed {seed}");
            }
        }
    }

    #[test]
    fn whoever_comes_back_gets_what_is_free_before_those_behind_it() {
        let mut table = table(Policy::RoundRobin, 1, 9);
        let Turn::Now(_, lease) = ask(&mut table, 0) else { panic!("it has room") };
        let places: Vec<Turn> = (1..4).map(|client| ask(&mut table, client)).collect();
        assert!(matches!(places[..], [Turn::Later(_), Turn::Later(_), Turn::Later(_)]));
        let mut table = Table::restore(table.rules, &table.record(), table.now).expect("a good record");
        let mut held = table.hold(KEY(0), 1).expect("it exists");
        drop(lease);
        let mut grants = Vec::new();
        assert!(matches!(rejoin(&mut table, 1, &mut grants), Turn::Later(_)));
        held.shrink_to(0);
        // The slot is free, and no client has been served yet.
        assert!(matches!(rejoin(&mut table, 0, &mut grants), Turn::Now(..)));
        assert!(grants.is_empty());
    }

    #[test]
    fn a_place_that_nobody_can_have_is_the_last_one_and_whoever_waits_for_nothing_does_not() {
        let mut table = table(Policy::RoundRobin, 1, 1);
        let Turn::Now(_, lease) = ask(&mut table, 0) else { panic!("it has room") };
        let Turn::Later(first) = ask(&mut table, 1) else { panic!("the line has room") };
        let mut grants = Vec::new();
        for (place, number) in [(first.number(), 1), (7, 2), (u64::MAX, 3), (2, 4)] {
            match rejoin(&mut table, place, &mut grants) {
                Turn::Later(ticket) => assert_eq!(ticket.number(), number),
                turn => panic!("{turn:?}"),
            }
        }
        table.set_state(KEY(0), AdminState::Disabled).expect("it exists");
        let disabled = Loss::NoChannel(NoChannel::Disabled);
        let turn = rejoin(&mut table, 9, &mut grants);
        assert!(matches!(turn, Turn::Never(why) if why == disabled), "{turn:?}");
        assert!(grants.is_empty());
        drop(lease);
    }

    #[test]
    fn nobody_waits_without_a_line_or_for_what_takes_no_clients() {
        let mut without = table(Policy::RoundRobin, 1, 0);
        let Turn::Now(_, _lease) = ask(&mut without, 1) else { panic!("it has room") };
        assert!(matches!(ask(&mut without, 2), Turn::Never(Loss::NoChannel(NoChannel::Full))));
        let mut with = table(Policy::RoundRobin, 1, 5);
        with.set_state(KEY(0), AdminState::Disabled).expect("it exists");
        assert!(matches!(ask(&mut with, 1), Turn::Never(Loss::NoChannel(NoChannel::Disabled))));
    }

    /// Channel 0 has one slot, which is taken; channel 1 has room. `waiting` clients wait for channel 0:
    /// because of hashing, or because channel 1 failed for them. Also returns a client that channel 1 serves.
    fn beside(policy: Policy, waiting: usize) -> (Table, Lease, ClientAddr) {
        let mut table = table(policy, 2, 1_000);
        table.set_maxc(KEY(1), None).expect("it exists");
        let (mut holder, mut served) = (None, None);
        for n in 0.. {
            if table.waiting() == waiting && served.is_some() {
                break;
            }
            let client = ClientAddr::from(IpAddr::from([10, 0, (n / 256) as u8, n as u8]));
            let route = table.begin(client);
            match table.next_or_wait(route, 0, None, &mut Vec::new()) {
                Turn::Now(_, lease) if lease.key() == KEY(0) => holder = Some(lease),
                Turn::Now(route, lease) => {
                    served = Some(client);
                    if policy == Policy::RoundRobin {
                        table.failed(lease, DialFailure::Local, DialCause::NoPort, "no");
                        assert!(matches!(
                            table.next_or_wait(route, 0, None, &mut Vec::new()),
                            Turn::Later(_)
                        ));
                    }
                }
                Turn::Later(ticket) if table.waiting() > waiting => assert!(table.leave_line(ticket)),
                Turn::Later(_) => {}
                Turn::Never(why) => panic!("{why:?}"),
            }
        }
        (table, holder.expect("channel 0 was free"), served.expect("channel 1 serves some"))
    }

    #[test]
    fn clients_of_a_channel_with_room_ask_nobody_who_waits_for_another() {
        for policy in [Policy::Hash, Policy::RoundRobin] {
            let (mut table, holder, client) = beside(policy, 500);
            table.grant();
            let before = table.changes.asked;
            for _ in 0..100 {
                assert!(table.grant().is_empty());
                let route = table.begin(client);
                let Turn::Now(route, lease) = table.next_or_wait(route, 0, None, &mut Vec::new()) else {
                    panic!("it has room")
                };
                table.connected(route, &lease, Duration::ZERO);
                drop(lease);
            }
            assert_eq!(table.changes.asked - before, 0, "{policy:?}");
            drop(holder);
            assert_eq!((table.grant().len(), table.waiting()), (1, 499), "{policy:?}");
            assert_eq!(table.changes.asked - before, 1, "{policy:?}: the one who gets it");
        }
    }

    #[test]
    fn nobody_is_asked_for_a_channel_that_is_not_up_and_has_failed_for_all() {
        let health = HealthRules { eject: true, ..HealthRules::NONE };
        let (mut table, _holder, _) = beside(Policy::RoundRobin, 500);
        table.rules.health = health;
        // One more client, for which channel 1 fails by its own fault.
        let Turn::Now(route, lease) = ask(&mut table, 1) else { panic!("it has room") };
        table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused").expect("ejected");
        assert!(matches!(table.next_or_wait(route, 0, None, &mut Vec::new()), Turn::Later(_)));
        table.grant();
        let before = table.changes.asked;
        for _ in 0..100 {
            table.set_maxc(KEY(1), NonZeroU32::new(3)).expect("it exists");
            assert!(table.grant().is_empty());
        }
        assert_eq!(table.changes.asked - before, 0);
    }

    #[test]
    fn a_slot_that_came_free_unseen_is_not_a_newcomers() {
        let mut table = table(Policy::RoundRobin, 1, 5);
        let Turn::Now(_, lease) = ask(&mut table, 1) else { panic!("it has room") };
        let Turn::Later(_) = ask(&mut table, 2) else { panic!("the line has room") };
        assert!(table.grant().is_empty());
        drop(lease);
        let mut grants = Vec::new();
        let route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 3])));
        let turn = table.next_or_wait(route, 3, None, &mut grants);
        assert!(matches!(turn, Turn::Later(_)), "{turn:?}");
        assert_eq!(grants.iter().map(|grant| grant.tag).collect::<Vec<_>>(), [2]);
        // Nor does a client get it that looks for another channel than the one that it cannot try.
        grants.clear();
        let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 4])));
        assert_eq!(table.next_up(&mut route, &mut grants).err(), Some(NoChannel::Full));
        assert_eq!(grants.iter().map(|grant| grant.tag).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_walk_sees_no_slot_that_came_free_after_the_line_was_served() {
        let slow_start = Some(Duration::from_secs(10));
        let health = HealthRules { slow_start, ..HealthRules::NONE };
        let rules =
            Rules { policy: Policy::LeastConnections, queue: NonZeroU32::new(9), health, ..Rules::CLASSIC };
        for later in [Duration::ZERO, Duration::from_secs(5)] {
            let mut table = Table::new(rules);
            let address = Addresses::from(SocketAddr::from(([127, 0, 0, 1], 80)));
            let created = table.create(GroupId::FIRST, address, Some(NonZeroU32::MIN), AdminState::Disabled);
            created.expect("few channels");
            // Its share grows with time from here on, and the code that makes it grow looks at the channel.
            table.set_state(KEY(0), AdminState::Enabled).expect("it exists");
            let Turn::Now(_, lease) = ask(&mut table, 1) else { panic!("it has room") };
            let Turn::Later(_) = ask(&mut table, 2) else { panic!("the line has room") };
            table.advance(later);
            let mut grants = Vec::new();
            table.serve_before_newcomer(&mut grants);
            assert!(grants.is_empty());
            drop(lease);
            let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 3])));
            assert_eq!(table.walk(&mut route, Patience::ALL, true).err(), Some(NoChannel::Full), "{later:?}");
            assert_eq!(table.grant().len(), 1);
        }
    }

    /// How a channel appears to a client: its dial fails while others have it, or there is nothing to dial.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Is {
        /// Up, and fails.
        Fails,
        /// Up and at its maxc.
        Full,
        /// Ejected; if tried, it fails.
        Ejected,
        /// Ejected and at its maxc.
        EjectedFull,
        Disabled,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Queue {
        None,
        /// The wait queue is full.
        Full,
        HasRoom,
    }

    /// How a client is lost that meets these channels, each in a group of its own or all in one, and that
    /// waits without success.
    fn loss(channels: &[Is], queue: Queue, fail_open: bool, in_one: bool) -> Loss {
        let health = HealthRules { eject: true, fail_open, ..HealthRules::NONE };
        let limit = NonZeroU32::new(2).filter(|_| queue != Queue::None);
        let mut table = Table::new(Rules { queue: limit, health, ..Rules::CLASSIC });
        let mut held = Vec::new();
        for (n, &is) in channels.iter().enumerate() {
            let group = GroupId::new(if in_one { 0 } else { n }).expect("few groups");
            let address = Addresses::from(SocketAddr::from(([127, 0, 0, n as u8], 80)));
            let is_full = matches!(is, Is::Full | Is::EjectedFull);
            let maxc = NonZeroU32::new(if is_full { 2 } else { 0 });
            let channel = table.create(group, address, maxc, AdminState::Enabled).expect("few channels");
            let key = ChannelKey { group, channel };
            let others: Vec<ChannelKey> =
                all_keys(&table).into_iter().filter(|&other| other != key).collect();
            for &other in &others {
                table.set_state(other, AdminState::Disabled).expect("it exists");
            }
            let take = |table: &mut Table| {
                let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 1])));
                table.next(&mut route).expect("the only one")
            };
            if is_full {
                held.push(take(&mut table));
            }
            if matches!(is, Is::Ejected | Is::EjectedFull) {
                let lease = take(&mut table);
                table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused").expect("ejected");
            }
            if is_full {
                let maxc = NonZeroU32::new(1);
                table.set_maxc(key, maxc).expect("it exists");
            }
            for &other in &others {
                let index = if in_one { other.channel.index() } else { other.group.index() };
                let state =
                    if channels[index] == Is::Disabled { AdminState::Disabled } else { AdminState::Enabled };
                table.set_state(other, state).expect("it exists");
            }
            if is == Is::Disabled {
                table.set_state(key, AdminState::Disabled).expect("it exists");
            }
        }
        for _ in 0..if queue == Queue::Full { 2 } else { 0 } {
            let route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 2])));
            let mut turn = table.next_or_wait(route, 0, None, &mut Vec::new());
            while let Turn::Now(route, lease) = turn {
                // Not by their own fault, so they stay as they are.
                table.failed(lease, DialFailure::Local, DialCause::NoPort, "no");
                turn = table.next_or_wait(route, 0, None, &mut Vec::new());
            }
        }
        let route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 3])));
        let mut turn = table.next_or_wait(route, 1, None, &mut Vec::new());
        loop {
            match turn {
                Turn::Now(route, lease) => {
                    table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused");
                    turn = table.next_or_wait(route, 1, None, &mut Vec::new());
                }
                Turn::Later(ticket) => {
                    assert!(table.leave_line(ticket));
                    return Loss::QueueTimeout;
                }
                Turn::Never(why) => return why,
            }
        }
    }

    fn all_keys(table: &Table) -> Vec<ChannelKey> {
        let groups = table.groups.iter();
        groups
            .flat_map(|(&id, group)| (0..group.channels().len()).filter_map(move |n| ChannelKey::of(id, n)))
            .collect()
    }

    #[test]
    fn the_reason_for_a_loss_is_the_true_one() {
        use Is::*;
        let failed = Loss::NoChannel(NoChannel::Failed);
        let full = Loss::NoChannel(NoChannel::Full);
        let down = Loss::NoChannel(NoChannel::Down);
        let disabled = Loss::NoChannel(NoChannel::Disabled);
        // The channels; then the result without a queue, with a full one, and with one that has room.
        for (channels, [without, with_full, with_room]) in [
            (&[][..], [Loss::NoChannel(NoChannel::Empty); 3]),
            (&[Disabled], [disabled; 3]),
            (&[Fails], [failed; 3]),
            (&[Ejected], [failed; 3]),
            (&[Disabled, Fails], [failed; 3]),
            (&[Disabled, Ejected], [failed; 3]),
            (&[Fails, Fails, Ejected], [failed; 3]),
            // A full channel that is not up could not serve a waiting client.
            (&[EjectedFull], [down; 3]),
            (&[Disabled, EjectedFull], [down; 3]),
            (&[Fails, EjectedFull], [failed; 3]),
            // Whatever else there is: with room in the full one the client would have been served.
            (&[Full], [full, Loss::QueueFull, Loss::QueueTimeout]),
            (&[Full, Disabled], [full, Loss::QueueFull, Loss::QueueTimeout]),
            (&[Full, Ejected], [full, Loss::QueueFull, Loss::QueueTimeout]),
            (&[Ejected, Full], [full, Loss::QueueFull, Loss::QueueTimeout]),
            (&[Full, Fails], [full, Loss::QueueFull, Loss::QueueTimeout]),
            (&[Fails, Full], [full, Loss::QueueFull, Loss::QueueTimeout]),
            (&[Fails, Ejected, Full, Disabled], [full, Loss::QueueFull, Loss::QueueTimeout]),
            (&[Full, EjectedFull], [full, Loss::QueueFull, Loss::QueueTimeout]),
        ] {
            for in_one in [true, false] {
                for (queue, expected) in
                    [(Queue::None, without), (Queue::Full, with_full), (Queue::HasRoom, with_room)]
                {
                    let told = loss(channels, queue, true, in_one);
                    assert_eq!(told, expected, "{channels:?}, queue {queue:?}, in one group: {in_one}");
                }
            }
        }
        for (channels, expected) in [
            (&[Ejected][..], down),
            (&[Disabled, Ejected], down),
            (&[Fails, Ejected], failed),
            (&[Ejected, Full], full),
        ] {
            assert_eq!(loss(channels, Queue::None, false, true), expected, "{channels:?} and no fail-open");
        }
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

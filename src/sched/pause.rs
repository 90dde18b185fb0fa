//! Pauses: channels that take no clients for now, and clients that wait for the end of the pause.
//!
//! Knows: which channels are paused, which clients wait because of it. Never: how long, why, sockets.
//! Source: docs/pause.md.
//!
//! For waiting clients, a paused channel is one that is up and full, whatever its health. So a client that
//! may use only that channel waits, others use other channels, and the end of the pause is like room that
//! becomes free.

use std::sync::atomic::Ordering;

use super::{ChannelKey, EditError, Grant, Table, Ticket, Turn};

impl Table {
    /// Pauses a channel: clients that would get it wait. `false` if it was paused already.
    ///
    /// # Errors
    /// `UnknownChannel`.
    pub fn pause(&mut self, key: ChannelKey) -> Result<bool, EditError> {
        self.set_paused(key, true)
    }

    /// Ends the pause of a channel; channels that are added later are not paused either. `false` if it was
    /// not paused.
    ///
    /// # Errors
    /// `UnknownChannel`.
    pub fn resume(&mut self, key: ChannelKey) -> Result<bool, EditError> {
        let is_other = self.set_paused(key, false)?;
        self.paused &= !is_other;
        Ok(is_other)
    }

    /// Pauses all channels, including those added before [`resume_all`](Self::resume_all). `false` if that
    /// changes nothing.
    pub fn pause_all(&mut self) -> bool {
        let is_other = !std::mem::replace(&mut self.paused, true);
        self.pauses.fetch_add(usize::from(is_other), Ordering::SeqCst);
        self.set_all_paused(true) || is_other
    }

    /// Ends all pauses. `false` if nothing was paused.
    pub fn resume_all(&mut self) -> bool {
        let was_whole = std::mem::replace(&mut self.paused, false);
        self.pauses.fetch_add(usize::from(was_whole), Ordering::SeqCst);
        self.set_all_paused(false) || was_whole
    }

    /// Are all channels paused, including those that will be added?
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    fn set_all_paused(&mut self, paused: bool) -> bool {
        let all = self.groups.iter().flat_map(|(&id, group)| {
            let others = (0..group.channels().len()).filter(|&n| group.channels()[n].paused != paused);
            others.filter_map(move |number| ChannelKey::of(id, number))
        });
        let all: Vec<ChannelKey> = all.collect();
        let mut any = false;
        for key in all {
            // Removed channels stay as they are.
            any |= self.set_paused(key, paused).unwrap_or(false);
        }
        any
    }

    fn set_paused(&mut self, key: ChannelKey, paused: bool) -> Result<bool, EditError> {
        for member in self.members(key) {
            self.set_paused(member, paused)?;
        }
        let group = self.groups.get_mut(&key.group).ok_or(EditError::UnknownChannel)?;
        let is_other = group.set_paused(key.channel.index(), paused).ok_or(EditError::UnknownChannel)?;
        self.hear(key.group);
        self.pauses.fetch_add(usize::from(is_other), Ordering::SeqCst);
        Ok(is_other)
    }

    /// Does a client wait because of a pause, whatever else it waits for? `false` if it is not in the wait
    /// queue.
    pub fn waits_for_pause(&mut self, ticket: Ticket) -> bool {
        let Some(waiter) = self.line.waiter(ticket) else { return false };
        self.paused || waiter.route.is_held(&mut self.groups, &self.rules)
    }

    /// For a client that waited for a pause which is over: what it gets now, or waits for, or why it waits no
    /// longer. If it still waits, it keeps its place. `None`: it is not in the queue; its turn may have come,
    /// and then its grant was sent or is in `grants`.
    pub fn ask_again(&mut self, ticket: Ticket, grants: &mut Vec<Grant>) -> Option<Turn> {
        // Clients before it come first.
        grants.append(&mut self.grant());
        let waiter = self.line.leave(ticket)?;
        let mut route = waiter.route;
        route.begin_again();
        Some(self.next_or_wait(route, waiter.tag, Some(ticket), grants))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::super::{
        Addresses, AdminState, ClientAddr, DialCause, DialFailure, GroupId, HealthRules, Lease, Loss,
        NoChannel, Policy, Route, Rules,
    };
    use super::*;

    fn key(channel: usize) -> ChannelKey {
        ChannelKey::new(0, channel).expect("small")
    }

    /// One group of channels with this limit (0 = none).
    fn table(rules: Rules, channels: u8, maxc: u32) -> Table {
        let mut table = Table::new(rules);
        for n in 0..channels {
            let address = Addresses::from(SocketAddr::from(([127, 0, 0, n], 80)));
            let created = table.create(GroupId::FIRST, address, NonZeroU32::new(maxc), AdminState::Enabled);
            created.expect("few channels");
        }
        table
    }

    fn come(table: &mut Table, client: u16) -> Turn {
        let [high, low] = client.to_be_bytes();
        let route = table.begin(ClientAddr::from(IpAddr::from([192, 0, high, low])));
        table.next_or_wait(route, u64::from(client), None, &mut Vec::new())
    }

    fn waits(table: &mut Table, client: u16) -> Ticket {
        match come(table, client) {
            Turn::Later(ticket) => ticket,
            turn => panic!("client {client}: {turn:?}"),
        }
    }

    fn has(table: &mut Table, client: u16) -> (Route, Lease) {
        match come(table, client) {
            Turn::Now(route, lease) => (route, lease),
            turn => panic!("client {client}: {turn:?}"),
        }
    }

    fn tags(grants: &[Grant]) -> Vec<u64> {
        grants.iter().map(|grant| grant.tag).collect()
    }

    #[test]
    fn clients_wait_for_a_paused_channel_without_a_queue_and_are_served_in_order() {
        for policy in [Policy::RoundRobin, Policy::LeastConnections, Policy::First, Policy::Hash] {
            let mut table = table(Rules { policy, ..Rules::CLASSIC }, 2, 0);
            assert_eq!([table.pause_all(), table.pause_all()], [true, false]);
            let tickets: Vec<Ticket> = (0..20).map(|client| waits(&mut table, client)).collect();
            assert!(table.grant().is_empty());
            assert!(tickets.iter().all(|&ticket| table.waits_for_pause(ticket)));
            assert!(table.leave_line(tickets[3]));
            assert_eq!([table.resume_all(), table.resume_all()], [true, false]);
            let grants = table.grant();
            let order: Vec<u64> = (0..20).filter(|&client| client != 3).collect();
            assert_eq!(tags(&grants), order, "{policy:?}");
            assert_eq!(table.waiting(), 0);
            has(&mut table, 30);
        }
    }

    #[test]
    fn the_others_are_taken_first_and_only_who_is_left_waits() {
        let mut table = table(Rules::CLASSIC, 2, 0);
        assert_eq!(table.pause(key(0)), Ok(true));
        assert_eq!(table.pause(key(0)), Ok(false));
        assert_eq!(table.pause(key(7)), Err(EditError::UnknownChannel));
        for client in 0..6 {
            assert_eq!(has(&mut table, client).1.key(), key(1));
        }
        // The other one fails for it.
        let (route, lease) = has(&mut table, 7);
        table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused");
        let turn = table.next_or_wait(route, 7, None, &mut Vec::new());
        assert!(matches!(turn, Turn::Later(_)), "{turn:?}");
        assert_eq!(table.resume(key(0)), Ok(true));
        let grants = table.grant();
        assert_eq!((tags(&grants), grants[0].lease.key()), (vec![7], key(0)));
        assert_eq!(table.resume(key(0)), Ok(false));
    }

    #[test]
    fn of_a_hash_group_those_wait_who_belong_to_the_paused_channel() {
        let mut table = table(Rules { policy: Policy::Hash, ..Rules::CLASSIC }, 2, 0);
        let home: Vec<ChannelKey> = (0..40).map(|client| has(&mut table, client).1.key()).collect();
        table.pause(key(1)).expect("it exists");
        let mut expected = Vec::new();
        for (client, &home) in (0..40).zip(&home) {
            match come(&mut table, client) {
                Turn::Now(_, lease) => assert_eq!((lease.key(), home), (key(0), key(0))),
                Turn::Later(_) => expected.push(u64::from(client)),
                turn @ Turn::Never(_) => panic!("{turn:?}"),
            }
        }
        assert_eq!(expected.len(), home.iter().filter(|&&home| home == key(1)).count());
        table.resume(key(1)).expect("it exists");
        assert_eq!(tags(&table.grant()), expected);
    }

    #[test]
    fn nothing_that_happens_to_a_paused_channel_sends_those_away_who_wait() {
        let health = HealthRules { eject: true, ..HealthRules::NONE };
        for (autodisable, fail_open) in [(false, true), (false, false), (true, true)] {
            let health = HealthRules { fail_open, ..health };
            let mut table = table(Rules { health, autodisable, ..Rules::CLASSIC }, 1, 0);
            // It is being dialled when the pause begins.
            let (route, lease) = has(&mut table, 1);
            table.pause_all();
            assert_eq!(table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused"), None);
            let turn = table.next_or_wait(route, 1, None, &mut Vec::new());
            assert!(matches!(turn, Turn::Later(_)), "{turn:?}");
            waits(&mut table, 2);
            assert!(!table.is_out() && table.grant().is_empty());
            table.resume_all();
            assert_eq!(tags(&table.grant()), [1, 2], "-a {autodisable}, fail-open {fail_open}");
        }
    }

    #[test]
    fn a_channel_that_is_still_down_behaves_as_any_after_the_pause() {
        let health = HealthRules { eject: true, ..HealthRules::NONE };
        for (fail_open, whole) in [(true, true), (false, true), (true, false), (false, false)] {
            let health = HealthRules { fail_open, ..health };
            let mut table = table(Rules { health, ..Rules::CLASSIC }, 1, 0);
            let (_, lease) = has(&mut table, 1);
            table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused").expect("it is ejected");
            assert!(table.is_out());
            if whole {
                table.pause_all();
            } else {
                table.pause(key(0)).expect("it exists");
            }
            assert!(!table.is_out(), "clients come in to wait");
            let ticket = waits(&mut table, 2);
            table.resume_all();
            let mut grants = table.grant();
            if fail_open {
                assert_eq!(tags(&grants), [2], "it is tried");
            } else {
                let turn = table.ask_again(ticket, &mut grants);
                let down = Loss::NoChannel(NoChannel::Down);
                assert!(matches!(turn, Some(Turn::Never(why)) if why == down), "{turn:?}");
            }
        }
    }

    #[test]
    fn the_queue_bounds_who_waits_and_without_one_another_bound_does() {
        for (queue, most) in [(3, 3), (0, 10_000)] {
            let mut table = table(Rules { queue: NonZeroU32::new(queue), ..Rules::CLASSIC }, 1, 0);
            table.pause_all();
            for client in 0..most {
                waits(&mut table, client);
            }
            assert!(matches!(come(&mut table, most), Turn::Never(Loss::QueueFull)));
            table.resume_all();
            assert_eq!(table.grant().len(), usize::from(most));
        }
    }

    #[test]
    fn whoever_finds_the_channel_full_after_the_pause_waits_on() {
        let mut table = table(Rules::CLASSIC, 1, 2);
        table.pause_all();
        let tickets: Vec<Ticket> = (0..4).map(|client| waits(&mut table, client)).collect();
        table.resume_all();
        let mut grants = table.grant();
        assert_eq!(tags(&grants), [0, 1]);
        for &ticket in &tickets[2..] {
            assert!(!table.waits_for_pause(ticket));
            let turn = table.ask_again(ticket, &mut grants);
            assert!(matches!(turn, Some(Turn::Later(again)) if again == ticket), "{turn:?}");
        }
        // Without a queue, a newcomer does not wait.
        assert!(matches!(come(&mut table, 9), Turn::Never(Loss::NoChannel(NoChannel::Full))));
        drop(grants);
        assert_eq!(tags(&table.grant()), [2, 3]);
    }

    #[test]
    fn a_whole_pause_holds_for_what_comes_into_being_during_it() {
        let mut table = table(Rules::CLASSIC, 0, 0);
        assert!(matches!(come(&mut table, 1), Turn::Never(Loss::NoChannel(NoChannel::Empty))));
        table.pause_all();
        waits(&mut table, 1);
        let create = |table: &mut Table, group| {
            let address = Addresses::from(SocketAddr::from(([127, 0, 0, 9], 80)));
            let group = GroupId::new(group).expect("small");
            table.create(group, address, None, AdminState::Enabled).expect("a number");
        };
        create(&mut table, 3);
        create(&mut table, 0);
        assert!(table.grant().is_empty());
        waits(&mut table, 2);
        // Resuming one channel does not resume those that are added later.
        assert_eq!(table.resume(key(0)), Ok(true));
        assert!(!table.is_paused());
        assert_eq!(tags(&table.grant()), [1, 2]);
        create(&mut table, 0);
        has(&mut table, 3);
    }

    #[test]
    fn nobody_in_line_is_lost_and_nobody_waits_beside_a_channel_that_he_may_have() {
        for seed in 0..30_u64 {
            let mut state = seed;
            let mut random = move |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % below
            };
            let policies = [Policy::RoundRobin, Policy::LeastConnections, Policy::TwoChoices, Policy::First];
            let health = HealthRules { eject: true, fail_open: random(2) == 0, ..HealthRules::NONE };
            let rules = Rules {
                policy: policies[random(4)],
                queue: NonZeroU32::new(1_000 * random(2) as u32),
                health,
                ..Rules::CLASSIC
            };
            let maxc = random(4) as u32;
            let mut table = table(rules, 3, maxc);
            let (mut line, mut served): (Vec<(Ticket, u64)>, Vec<Lease>) = (Vec::new(), Vec::new());
            for client in 0..600_u16 {
                match random(10) {
                    0 => drop(table.pause_all()),
                    1 => drop(table.resume_all()),
                    2 => drop(table.pause(key(random(3)))),
                    3 => drop(table.resume(key(random(3)))),
                    4 if !served.is_empty() => drop(served.swap_remove(random(served.len()))),
                    5 if !line.is_empty() => {
                        let (ticket, _) = line.remove(random(line.len()));
                        assert!(table.leave_line(ticket), "seed {seed}: somebody was lost");
                    }
                    6 => table.advance(Duration::from_secs(u64::from(client))),
                    _ => {
                        let [high, low] = client.to_be_bytes();
                        let route = table.begin(ClientAddr::from(IpAddr::from([192, 0, high, low])));
                        let mut grants = Vec::new();
                        match table.next_or_wait(route, u64::from(client), None, &mut grants) {
                            Turn::Now(_, lease) => served.push(lease),
                            Turn::Later(ticket) => line.push((ticket, u64::from(client))),
                            Turn::Never(why) => {
                                let all_full = NonZeroU32::new(maxc).is_some() && rules.queue.is_none();
                                assert!(all_full, "seed {seed}: {why:?}");
                            }
                        }
                        assert!(grants.is_empty(), "seed {seed}: somebody waited beside a free channel");
                    }
                }
                let grants = table.grant();
                let expected: Vec<u64> = line.iter().take(grants.len()).map(|&(_, tag)| tag).collect();
                assert_eq!(tags(&grants), expected, "seed {seed}: in order");
                line.drain(..grants.len());
                served.extend(grants.into_iter().map(|grant| grant.lease));
                assert_eq!(table.waiting(), line.len(), "seed {seed}");
                let channels = &table.snapshot().groups[0].channels;
                let free = channels
                    .iter()
                    .any(|one| !one.paused && one.maxc.is_none_or(|maxc| one.active < maxc.get()));
                assert!(line.is_empty() || !free, "seed {seed}: {channels:?}");
            }
        }
    }
}

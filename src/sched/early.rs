//! Ejects a channel that accepts connections but serves nobody, because it closes them at once or stays
//! silent.
//!
//! Knows: what the channels of its group do. Never: what counts as closed too early, how long anyone has
//! waited, what a byte is.
//! Source: docs/health.md, "A server that closes its connections at once", "A server that stays silent".

use std::time::Duration;

use super::channel::Channel;
use super::{
    ChannelKey, ClientAddr, DialCause, Grant, GroupRange, Happened, Policy, Route, Table, Transition, Turn,
};

/// How many connections in a row must be closed at once before the channel counts as serving nobody.
const IN_A_ROW: usize = 3;

/// Adds a client that the channel has not served: each client once, and every one that has sent nothing.
fn note(unserved: &mut Vec<Option<ClientAddr>>, spoken: Option<ClientAddr>) {
    if unserved.len() < IN_A_ROW && (spoken.is_none() || !unserved.contains(&spoken)) {
        unserved.push(spoken);
    }
}

impl Table {
    /// Finds another channel for a client whose channel closed the connection before any byte went over it;
    /// takes its slot, and counts the failure. `past` has the channels that did so, the present one last. A
    /// channel that has only ended its direction (`is_reset` is `false`) may still take bytes, so it is left
    /// only if another channel of its group has answered its clients.
    ///
    /// If the channels that are up are full, the client joins the wait queue; `tag` comes back with the
    /// grant.
    ///
    /// `None`: the client stays where it is. Either such failures have no consequences, or this channel may
    /// still serve it, or no other channel that is up has room, now or later.
    pub fn next_past(
        &mut self,
        client: ClientAddr,
        within: GroupRange,
        tag: u64,
        past: &[ChannelKey],
        is_reset: bool,
        grants: &mut Vec<Grant>,
    ) -> Option<Turn> {
        let left = *past.last()?;
        if !self.judges() || !is_reset && !self.is_unlike_others(left) {
            return None;
        }
        let turn = self.next_up_or_wait(Route::past(client, within, past), tag, grants)?;
        let now = self.now;
        let _ = self.edit(left, |channel| {
            let cause = DialCause::ClosedAtOnce;
            channel.count_failure(cause, &cause.to_string(), now);
        });
        Some(turn)
    }

    /// Gives clients again to a channel that was ejected because it closed connections at once or stayed
    /// silent. `false` if it was not.
    pub fn end_rest(&mut self, key: ChannelKey) -> bool {
        let (rules, now) = (self.rules.health, self.now);
        let has_ended = self.edit(key, |channel| {
            channel.closed_early.clear();
            channel.silent_to.clear();
            channel.slots.forgive();
            channel.health.end_rest(&rules, now)
        });
        let has_ended = has_ended.unwrap_or(false);
        if has_ended {
            self.schedule(key);
        }
        has_ended
    }

    /// Do connections that are closed too early have consequences?
    fn judges(&self) -> bool {
        self.rules.health.eject && !self.rules.autodisable
    }

    /// Has another channel of the group that is up answered its clients? Channels of other groups may be of
    /// another kind.
    fn is_unlike_others(&self, key: ChannelKey) -> bool {
        let channels = self.groups.get(&key.group).map_or(&[][..], |group| group.channels());
        channels.iter().any(|one| one.slots.key() != key && one.is_up() && one.slots.answers())
    }

    /// Reports that a channel closed a connection at once, without a byte. `spoken` is the client, if it had
    /// sent something. Several in a row eject the channel, under three conditions. They come from several
    /// clients, since what one client sends may be the reason. Another channel of the group answers, to which
    /// the clients can go; if all behave like this, it is the clients' fault, or how the service works. And
    /// at most half of the group is ejected for this.
    pub fn closed_early(&mut self, key: ChannelKey, spoken: Option<ClientAddr>) -> Option<Transition> {
        let now = self.now;
        if !self.judges() {
            return None;
        }
        let may_eject = self.may_leave_alone(key, |other| other.slots.answers_now(now));
        let why = format!("closed {IN_A_ROW} connections in a row at once, without a byte");
        let ejects = self.edit_by_lot(key, |channel, random| {
            if channel.slots.closed_early() {
                channel.closed_early.clear();
            }
            note(&mut channel.closed_early, spoken);
            let is_judged =
                channel.takes_clients() && !channel.paused && channel.closed_early.len() == IN_A_ROW;
            let ejects =
                may_eject && is_judged && channel.health.leave_alone(&why, Duration::ZERO, now, random);
            if ejects {
                channel.slots.forgive();
            }
            ejects
        });
        self.left_alone(key, ejects.unwrap_or(false), why)
    }

    /// Reports that a client has waited for a channel's first byte for `limit`, since `began`. A wait that
    /// began before the channel returned does not count. `spoken` is the client, if it had sent something; a
    /// client that has not counts only while other channels of the group speak first. The channel is ejected
    /// under the same conditions as one that closes connections at once: several clients in a row, another
    /// channel answers in time, and at most half of the group.
    pub fn silent(
        &mut self,
        key: ChannelKey,
        spoken: Option<ClientAddr>,
        began: Duration,
        limit: Duration,
    ) -> Option<Transition> {
        let now = self.now;
        if !self.judges() || self.get(key)?.health.has_returned_after(began) {
            return None;
        }
        let speaks = |other: &Channel| match spoken {
            Some(_) => other.slots.serves_now(now),
            None => other.slots.speaks_first(now),
        };
        let may_eject = self.may_leave_alone(key, speaks);
        if spoken.is_none() && !self.others(key).any(|other| other.slots.speaks_first(now)) {
            return None;
        }
        let why = format!("no byte within {limit:?} for {IN_A_ROW} clients in a row");
        let ejects = self.edit_by_lot(key, |channel, random| {
            if channel.slots.fell_silent() {
                channel.silent_to.clear();
            }
            note(&mut channel.silent_to, spoken);
            let is_judged = channel.takes_clients() && !channel.paused && channel.silent_to.len() == IN_A_ROW;
            // It takes about this long to notice that the channel is silent again.
            let ejects = may_eject && is_judged && channel.health.leave_alone(&why, limit * 4, now, random);
            if ejects {
                channel.slots.forgive();
            }
            ejects
        });
        self.left_alone(key, ejects.unwrap_or(false), why)
    }

    /// The other channels of the group that take clients.
    fn others(&self, key: ChannelKey) -> impl Iterator<Item = &Channel> {
        let channels = self.groups.get(&key.group).map_or(&[][..], |group| group.channels());
        channels.iter().filter(move |one| one.slots.key() != key && one.takes_clients())
    }

    /// Can the group do without this channel for a while? Its clients must be able to use another channel;
    /// one with room must show, by `vouches`, that it is not the clients' fault; and at most half of the
    /// group may be ejected like this.
    fn may_leave_alone(&self, key: ChannelKey, vouches: impl Fn(&Channel) -> bool) -> bool {
        let Some(group) = self.groups.get(&key.group) else { return false };
        let is_bound = group.policy() == Policy::Hash && !self.rules.hash_failover;
        let resting = self.others(key).filter(|one| one.health.is_resting()).count();
        let half = self.others(key).filter(|one| !one.paused).count().div_ceil(2);
        !is_bound && resting < half && self.others(key).any(|one| one.has_place() && vouches(one))
    }

    fn left_alone(&mut self, key: ChannelKey, is_ejected: bool, why: String) -> Option<Transition> {
        if !is_ejected {
            return None;
        }
        self.schedule(key);
        let address = self.get(key)?.addresses.first();
        Some(Transition { channel: key, address, what: Happened::Ejected(why) })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::time::Duration;

    use super::super::{
        Addresses, AdminState, ChannelId, ClientAddr, FirstByte, GroupId, HealthRules, HealthState, Lease,
        ProbeResult, Rules,
    };
    use super::*;

    fn key(n: usize) -> ChannelKey {
        ChannelKey { group: GroupId::FIRST, channel: ChannelId::new(n).expect("small") }
    }

    fn table(rules: HealthRules, channels: u8) -> Table {
        let mut table = Table::new(Rules { health: rules, ..Rules::CLASSIC });
        for n in 0..channels {
            let address = Addresses::from(SocketAddr::from(([127, 0, 0, n], 80)));
            table.create(GroupId::FIRST, address, None, AdminState::Enabled).expect("few channels");
        }
        table
    }

    const EJECT: HealthRules = HealthRules { eject: true, ..HealthRules::NONE };

    /// The channel of the next client.
    fn take(table: &mut Table) -> Lease {
        let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 1])));
        let lease = table.next(&mut route).expect("one that is up");
        table.connected(route, &lease, Duration::ZERO);
        lease
    }

    /// One client for each channel; clients of these channels are answered.
    fn serve(table: &mut Table, answering: &[usize]) {
        for _ in 0..table.snapshot().groups[0].channels.len() {
            let lease = take(table);
            if answering.contains(&lease.key().channel.index()) {
                lease.slot().answered(table.now, FirstByte::default());
            }
        }
    }

    /// Connections of clients that send nothing are closed.
    fn close(table: &mut Table, n: usize) -> Option<Transition> {
        let told: Vec<_> = (0..3).filter_map(|_| table.closed_early(key(n), None)).collect();
        assert!(told.len() < 2, "{told:?}");
        told.into_iter().next()
    }

    fn states(table: &mut Table) -> Vec<HealthState> {
        table.snapshot().groups[0].channels.iter().map(|channel| channel.health.state).collect()
    }

    #[test]
    fn it_is_ejected_only_while_another_one_answers() {
        let mut table = table(EJECT, 2);
        assert_eq!(close(&mut table, 0), None, "nobody has answered yet");
        serve(&mut table, &[1]);
        let told = close(&mut table, 0).expect("it is ejected");
        let why = "closed 3 connections in a row at once, without a byte";
        assert_eq!((told.channel, told.what), (key(0), Happened::Ejected(why.into())));
        assert_eq!(states(&mut table), [HealthState::Ejected, HealthState::Up]);
        assert_eq!(close(&mut table, 0), None, "it is already");
        assert_eq!(close(&mut table, 1), None, "it is the last one");
    }

    #[test]
    fn one_that_has_begun_to_do_the_same_vouches_for_nobody() {
        let mut table = table(EJECT, 2);
        serve(&mut table, &[0, 1]);
        let lease = take(&mut table);
        let other = 1 - lease.key().channel.index();
        assert_eq!(table.closed_early(lease.key(), None), None);
        assert_eq!(close(&mut table, other), None);
        lease.slot().answered(table.now, FirstByte::default());
        assert!(close(&mut table, other).is_some());
    }

    #[test]
    fn no_more_than_half_of_a_group_is_ejected_for_it() {
        for (channels, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3)] {
            let mut table = table(EJECT, channels);
            serve(&mut table, &(0..usize::from(channels)).collect::<Vec<_>>());
            let ejected = (0..channels).filter(|&n| close(&mut table, n.into()).is_some()).count();
            assert_eq!(ejected, most, "of {channels}");
        }
    }

    #[test]
    fn what_one_client_says_ejects_nobody() {
        let client = |n| Some(ClientAddr::from(IpAddr::from([192, 0, 2, n])));
        let mut table = table(EJECT, 2);
        serve(&mut table, &[0, 1]);
        for n in [1, 1, 1, 2, 1, 2, 2] {
            assert_eq!(table.closed_early(key(0), client(n)), None);
        }
        assert!(table.closed_early(key(0), client(3)).is_some());
    }

    #[test]
    fn an_answer_of_long_ago_vouches_for_nobody_nor_does_a_channel_that_takes_nobody() {
        let mut old = table(EJECT, 2);
        serve(&mut old, &[1]);
        old.advance(Duration::from_secs(20));
        assert_eq!(close(&mut old, 0), None);
        let mut paused = table(EJECT, 2);
        serve(&mut paused, &[1]);
        paused.pause(key(1)).expect("it exists");
        assert_eq!(close(&mut paused, 0), None);
        let mut full = table(EJECT, 2);
        serve(&mut full, &[1]);
        full.set_maxc(key(1), std::num::NonZeroU32::new(1)).expect("it exists");
        let held: Vec<_> = (0..2).map(|_| take(&mut full)).collect();
        assert_eq!(close(&mut full, 0), None);
        drop(held);
    }

    #[test]
    fn clients_that_have_no_other_channel_keep_theirs() {
        let mut table = table(EJECT, 2);
        table.set_policy(GroupId::FIRST, Policy::Hash);
        for n in 0..2 {
            let slot = {
                let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, n])));
                table.next(&mut route).expect("one that is up")
            };
            slot.slot().answered(table.now, FirstByte::default());
        }
        assert_eq!((close(&mut table, 0), close(&mut table, 1)), (None, None));
    }

    #[test]
    fn without_ejection_nothing_comes_of_it() {
        let mut table = table(HealthRules::NONE, 2);
        serve(&mut table, &[1]);
        assert_eq!(close(&mut table, 0), None);
    }

    #[test]
    fn it_is_left_alone_for_longer_each_time_and_a_connect_of_a_client_is_no_news() {
        let mut table = table(EJECT, 2);
        let mut now = Duration::from_secs(10);
        for rest in [1, 2, 4, 8, 16, 32, 60, 60] {
            table.advance(now);
            serve(&mut table, &[1]);
            let route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 1])));
            let late = {
                let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 1])));
                loop {
                    let lease = table.next(&mut route).expect("one that is up");
                    if lease.key() == key(0) {
                        break lease;
                    }
                }
            };
            close(&mut table, 0).expect("it is ejected");
            assert_eq!(table.connected(route, &late, Duration::ZERO), None, "it takes connections, as ever");
            let due = table.next_probe().expect("a probe") - now;
            let rest = Duration::from_secs(rest);
            assert!(due >= rest - rest / 10 && due <= rest + rest / 10, "{due:?} after {rest:?}");
            now += due;
            table.advance(now);
            let probes = table.probes_due(9);
            let told = table.probed(&probes[0], ProbeResult::Good).expect("it is back");
            assert!(matches!(told.what, Happened::Returned(_)), "{told:?}");
        }
    }

    #[test]
    fn one_that_takes_no_connections_any_more_is_back_as_soon_as_it_takes_one() {
        let mut table = table(EJECT, 2);
        serve(&mut table, &[1]);
        close(&mut table, 0).expect("it is ejected");
        table.advance(Duration::from_secs(2));
        let probes = table.probes_due(9);
        assert_eq!(table.probed(&probes[0], ProbeResult::Bad("connect: connection refused".into())), None);
        table.advance(Duration::from_secs(4));
        let probes = table.probes_due(9);
        assert!(table.probed(&probes[0], ProbeResult::Good).is_some());
    }

    /// How a channel answers one client.
    fn answer(table: &mut Table, n: usize, byte: FirstByte) {
        loop {
            let lease = take(table);
            if lease.key() == key(n) {
                return lease.slot().answered(table.now, byte);
            }
        }
    }

    /// Three clients wait for the channel's first byte and get none; those that have sent something are
    /// different clients.
    fn wait(table: &mut Table, n: usize, has_spoken: bool) -> Option<Transition> {
        let limit = Duration::from_secs(2);
        let client = |n| has_spoken.then(|| ClientAddr::from(IpAddr::from([192, 0, 2, n])));
        let told: Vec<_> =
            (0..3).filter_map(|one| table.silent(key(n), client(one), table.now, limit)).collect();
        told.into_iter().next()
    }

    /// One client waits like that.
    fn wait_once(table: &mut Table, n: usize) -> Option<Transition> {
        let client = ClientAddr::from(IpAddr::from([192, 0, 2, 9]));
        table.silent(key(n), Some(client), table.now, Duration::from_secs(2))
    }

    const IN_TIME: FirstByte = FirstByte { is_late: false, is_unasked: false };
    const LATE: FirstByte = FirstByte { is_late: true, is_unasked: false };
    const UNASKED: FirstByte = FirstByte { is_late: false, is_unasked: true };

    #[test]
    fn silence_ejects_only_while_another_one_answers_in_time() {
        for (byte, has_spoken, is_ejected) in [
            (None, true, false),
            (Some(LATE), true, false),
            (Some(IN_TIME), true, true),
            (Some(UNASKED), true, true),
            (Some(IN_TIME), false, false),
            (Some(UNASKED), false, true),
        ] {
            let mut table = table(EJECT, 2);
            if let Some(byte) = byte {
                answer(&mut table, 1, byte);
            }
            let told = wait(&mut table, 0, has_spoken);
            assert_eq!(told.is_some(), is_ejected, "{byte:?}, spoken: {has_spoken}");
            if let Some(told) = told {
                let why = "no byte within 2s for 3 clients in a row";
                assert_eq!(told.what, Happened::Ejected(why.into()));
                assert_eq!(states(&mut table), [HealthState::Ejected, HealthState::Up]);
            }
        }
    }

    #[test]
    fn where_all_are_slow_nobody_is_ejected() {
        let mut table = table(EJECT, 3);
        (0..3).for_each(|n| answer(&mut table, n, IN_TIME));
        // Each has begun to be slow when the first would be judged.
        for n in 0..3 {
            assert_eq!(wait_once(&mut table, n), None);
        }
        for n in 0..3 {
            answer(&mut table, n, LATE);
            assert_eq!(wait(&mut table, n, true), None);
        }
        // And one answers in time again.
        answer(&mut table, 2, IN_TIME);
        assert!(wait_once(&mut table, 0).is_some());
        assert_eq!(wait(&mut table, 1, true), None, "no more than half");
    }

    #[test]
    fn one_client_or_an_answer_in_between_is_no_silence() {
        let mut table = table(EJECT, 2);
        let silent =
            |table: &mut Table, client| table.silent(key(0), client, table.now, Duration::from_secs(2));
        let client = |n| Some(ClientAddr::from(IpAddr::from([192, 0, 2, n])));
        (0..2).for_each(|n| answer(&mut table, n, IN_TIME));
        for n in [1, 1, 1, 2, 1, 2] {
            assert_eq!(silent(&mut table, client(n)), None);
        }
        answer(&mut table, 0, IN_TIME);
        assert_eq!(silent(&mut table, client(3)), None, "it begins anew");
        answer(&mut table, 0, LATE);
        assert_eq!(silent(&mut table, client(4)), None);
        assert!(silent(&mut table, client(5)).is_some(), "a late answer is none");
    }

    #[test]
    fn an_operator_ends_the_rest() {
        let mut table = table(EJECT, 2);
        answer(&mut table, 1, IN_TIME);
        assert!(!table.end_rest(key(0)));
        wait(&mut table, 0, true).expect("it is ejected");
        assert!(table.end_rest(key(0)));
        assert_eq!(states(&mut table), [HealthState::Up, HealthState::Up]);
        assert_eq!(table.next_probe(), None);
    }

    #[test]
    fn those_who_have_waited_since_before_it_was_back_say_nothing_about_it() {
        let mut table = table(EJECT, 2);
        answer(&mut table, 1, IN_TIME);
        wait(&mut table, 0, true).expect("it is ejected");
        let limit = Duration::from_secs(2);
        table.advance(limit);
        let probes = table.probes_due(9);
        assert!(table.probed(&probes[0], ProbeResult::Good).is_some());
        answer(&mut table, 1, IN_TIME);
        let client = |n| Some(ClientAddr::from(IpAddr::from([192, 0, 2, n])));
        for n in 1..9 {
            assert_eq!(table.silent(key(0), client(n), Duration::from_secs(1), limit), None);
        }
        assert!((1..4).any(|n| table.silent(key(0), client(n), limit, limit).is_some()));
    }
}

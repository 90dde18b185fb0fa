//! What a reload changes in a table that clients use meanwhile: rules, addresses, channels that are removed.
//!
//! Knows: what remains valid of a channel's past. Never: where the changes come from, sockets, the clock.

use super::{AdminState, ChannelKey, EditError, GroupId, Rules, Table};

impl Table {
    /// Replaces the rules, except `shards` and `seed`, which stay. Each channel keeps what the new rules
    /// could have found out themselves: without checks, no channel is down.
    pub fn set_rules(&mut self, rules: Rules) {
        let before = self.rules;
        self.rules = Rules { shards: before.shards, seed: before.seed, ..rules };
        self.line.set_limit(rules.queue);
        let remap = before.hash_failover != rules.hash_failover || before.hash_balance != rules.hash_balance;
        let keys: Vec<ChannelKey> = self.keys();
        if before.health != rules.health {
            let now = self.now;
            for key in keys {
                // This cannot fail, since nothing was removed meanwhile.
                let _ = self.edit_by_lot(key, |channel, random| {
                    channel.health.change_rules(&before.health, &rules.health, now, random);
                });
                self.schedule(key);
            }
        }
        if remap {
            let groups: Vec<GroupId> = self.groups.keys().copied().collect();
            for id in groups {
                if let Some(group) = self.groups.get_mut(&id) {
                    group.map_anew();
                }
                self.hear(id);
            }
        }
    }

    /// Starts the time of a table that was filled before its use: its channels count as they are from now on,
    /// not from time 0.
    pub fn begin_life(&mut self) {
        let (rules, now) = (self.rules.health, self.now);
        for key in self.keys() {
            // This cannot fail, since nothing was removed meanwhile.
            let _ = self.edit_by_lot(key, |channel, random| {
                channel.health.begin_anew(&rules, now, random);
                channel.begin_naming(now);
            });
            self.schedule(key);
        }
    }

    fn keys(&self) -> Vec<ChannelKey> {
        let all =
            self.groups.iter().flat_map(|(&id, group)| (0..group.channels().len()).map(move |n| (id, n)));
        all.filter_map(|(id, number)| ChannelKey::of(id, number))
            .filter(|&key| self.get(key).is_some())
            .collect()
    }

    /// Removes a channel that may have connections: it gets no more clients, and is gone when its last
    /// connection ends. Returns the number of its connections.
    ///
    /// # Errors
    /// `UnknownChannel`.
    pub fn retire(&mut self, key: ChannelKey) -> Result<u32, EditError> {
        self.edit(key, |channel| channel.state = AdminState::Disabled)?;
        self.leave_family(key);
        self.set_retires(key, true);
        self.see_off(key);
        Ok(self.get(key).map_or(0, |channel| channel.slots.active()))
    }

    /// Keeps a channel that was to be removed.
    ///
    /// # Errors
    /// `UnknownChannel` if it is already gone.
    pub fn keep(&mut self, key: ChannelKey) -> Result<(), EditError> {
        self.get(key).ok_or(EditError::UnknownChannel)?;
        self.set_retires(key, false);
        Ok(())
    }

    /// Sets whether the channel is removed with its last connection. Such a channel is left out of hashing,
    /// so that its clients go to other channels.
    pub(super) fn set_retires(&mut self, key: ChannelKey, retires: bool) {
        if self.get(key).is_some_and(|channel| channel.retires != retires) {
            if let Some(group) = self.groups.get_mut(&key.group) {
                group.set_retires(key.channel.index(), retires);
            }
            self.hear(key.group);
        }
    }

    /// Removes a retiring channel if it has no connections; otherwise arranges that the end of its last
    /// connection is noticed.
    pub(super) fn see_off(&mut self, key: ChannelKey) {
        let Some(channel) = self.get(key).filter(|channel| channel.retires) else { return };
        channel.slots.watch();
        if channel.slots.active() == 0 {
            self.take_away(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::super::{
        Addresses, ChannelId, CheckRules, ClientAddr, DialCause, DialFailure, HealthRules, HealthState,
        Lease, NoChannel, ProbeResult, Turn,
    };
    use super::*;
    use crate::spec::Address;
    use crate::spec::{Policy, Weight};

    const CHECK: CheckRules = CheckRules { interval: Duration::from_secs(1), rise: 1, fall: 1 };
    const CHECKED: Rules = Rules {
        health: HealthRules { eject: true, check: Some(CHECK), ..HealthRules::NONE },
        ..Rules::CLASSIC
    };

    fn key(channel: usize) -> ChannelKey {
        ChannelKey { group: GroupId::FIRST, channel: ChannelId::new(channel).expect("small") }
    }

    fn address(last: u8) -> Addresses {
        Addresses::from(SocketAddr::from(([127, 0, 0, last], 80)))
    }

    fn table(rules: Rules, channels: u8) -> Table {
        let mut table = Table::new(rules);
        for n in 0..channels {
            table.create(GroupId::FIRST, address(n), None, AdminState::Enabled).expect("a number");
        }
        table
    }

    fn client() -> ClientAddr {
        ClientAddr::from(IpAddr::from([192, 0, 2, 1]))
    }

    fn pick(table: &mut Table) -> Result<Lease, NoChannel> {
        let mut route = table.begin(client());
        table.next(&mut route)
    }

    fn state(table: &Table, channel: usize) -> HealthState {
        table.channel(key(channel)).expect("it exists").health.state
    }

    fn check(table: &mut Table, result: &ProbeResult) {
        table.advance(table.now + Duration::from_secs(2));
        for probe in table.probes_due(9) {
            table.probed(&probe, result.clone());
        }
    }

    #[test]
    fn without_checks_none_is_down_and_with_new_ones_all_are_asked_soon() {
        let mut table = table(CHECKED, 2);
        check(&mut table, &ProbeResult::Bad("no".into()));
        assert_eq!(state(&table, 0), HealthState::Down);
        table.set_rules(Rules::CLASSIC);
        assert_ne!(state(&table, 0), HealthState::Down);
        assert!(pick(&mut table).is_ok());
        assert_eq!(table.next_probe(), None);
        table.set_rules(CHECKED);
        assert!(table.next_probe().is_some());
        check(&mut table, &ProbeResult::Bad("no".into()));
        assert_eq!(state(&table, 1), HealthState::Down);
        let health = HealthRules { check: Some(CheckRules { rise: 2, ..CHECK }), ..CHECKED.health };
        table.set_rules(Rules { health, ..CHECKED });
        assert_eq!(state(&table, 1), HealthState::Down, "that it failed is known still");
        check(&mut table, &ProbeResult::Good);
        assert_eq!(state(&table, 1), HealthState::Down);
        check(&mut table, &ProbeResult::Good);
        assert_eq!(state(&table, 1), HealthState::Up);
    }

    #[test]
    fn a_table_that_was_filled_before_its_time_begins_when_it_is_served() {
        let mut table = table(CHECKED, 2);
        table.advance(Duration::from_secs(100));
        table.begin_life();
        let health = table.channel(key(1)).expect("it exists").health;
        assert_eq!((health.state, health.age), (HealthState::Untried, Duration::ZERO));
        assert!(table.next_probe().is_some_and(|at| at >= Duration::from_secs(100)));
        table.advance(Duration::from_secs(103));
        assert_eq!(table.channel(key(1)).expect("it exists").health.age, Duration::from_secs(3));
        assert_eq!(table.probes_due(9).len(), 2);
    }

    #[test]
    fn an_answer_to_a_check_that_is_not_wanted_any_more_changes_nothing() {
        let mut table = table(CHECKED, 1);
        table.advance(Duration::from_secs(2));
        let probes = table.probes_due(9);
        table.set_rules(Rules::CLASSIC);
        assert_eq!(table.probed(&probes[0], ProbeResult::Bad("no".into())), None);
        assert!(pick(&mut table).is_ok());
    }

    #[test]
    fn who_was_ejected_is_back_where_nobody_is_ejected() {
        let mut table = table(CHECKED, 1);
        let lease = pick(&mut table).expect("it is up");
        table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused").expect("it is ejected");
        table.set_rules(Rules::CLASSIC);
        assert!(table.has_up());
        assert_eq!(table.next_probe(), None);
    }

    #[test]
    fn a_channel_that_retires_takes_nobody_and_goes_with_its_last_connection() {
        let mut table = table(Rules::CLASSIC, 2);
        let leases = [pick(&mut table).expect("one"), pick(&mut table).expect("two")];
        assert_eq!(table.retire(key(0)), Ok(1));
        assert_eq!(table.retire(key(9)), Err(EditError::UnknownChannel));
        let [first, second] = leases;
        assert_eq!(pick(&mut table).expect("the other").key(), key(1));
        assert!(table.channel(key(0)).is_some_and(|channel| channel.retires));
        drop(first);
        table.learn_freed();
        assert_eq!(table.channel(key(0)), None);
        drop(second);
        assert_eq!(table.retire(key(1)), Ok(0), "idle: at once");
        assert_eq!(table.channel(key(1)), None);
        assert_eq!(pick(&mut table).err(), Some(NoChannel::Empty));
    }

    #[test]
    fn who_belonged_by_hash_to_one_that_retires_belongs_to_others_at_once() {
        let mut table = table(Rules::CLASSIC, 3);
        table.set_policy(GroupId::FIRST, Policy::Hash);
        let home = |table: &mut Table, n: u8| {
            let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, n])));
            table.next(&mut route).map(|lease| (lease.key().channel.index(), lease))
        };
        let before: Vec<_> = (0..100).map(|n| home(&mut table, n).expect("its channel")).collect();
        table.retire(key(0)).expect("it exists");
        for (n, (was, _)) in (0..100).zip(&before) {
            let (now, _) = home(&mut table, n).expect("nobody is lost");
            assert!(now != 0 && (*was == 0 || now == *was), "{n} was at {was} and is at {now}");
        }
        table.set_weight(key(0), Weight::new(2).expect("small")).expect("it is there still");
        assert!((0..100).all(|n| home(&mut table, n).is_ok_and(|(now, _)| now != 0)));
        table.set_weight(key(0), Weight::ONE).expect("it is there still");
        table.set_state(key(0), AdminState::Enabled).expect("it is there still");
        for (n, (was, _)) in (0..100).zip(&before) {
            assert_eq!(home(&mut table, n).expect("its channel").0, *was, "{n}");
        }
    }

    #[test]
    fn enabling_brings_back_who_retires() {
        let mut table = table(Rules::CLASSIC, 1);
        let lease = pick(&mut table).expect("one");
        table.retire(key(0)).expect("it exists");
        table.set_state(key(0), AdminState::Enabled).expect("it is there still");
        drop(lease);
        assert!(pick(&mut table).is_ok());
    }

    #[test]
    fn the_same_addresses_in_another_order_are_no_others() {
        let list = |numbers: &[u8]| {
            Addresses::new(numbers.iter().map(|&n| Address::from(([127, 0, 0, n], 80))).collect())
                .expect("some")
        };
        let mut table = Table::new(CHECKED);
        table
            .create(GroupId::FIRST, list(&[1, 2]).named("web"), None, AdminState::Enabled)
            .expect("a number");
        let lease = pick(&mut table).expect("it is up");
        table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused").expect("it is ejected");
        assert_eq!(table.readdress(key(0), list(&[2, 1]).named("web")), Ok(None));
        assert_eq!(state(&table, 0), HealthState::Ejected);
        let moved = table.readdress(key(0), list(&[2, 3]).named("web"));
        assert!(moved.is_ok_and(|moved| moved.is_some()));
        assert_eq!(state(&table, 0), HealthState::Untried, "nothing is known of it");
        assert_eq!(pick(&mut table).expect("it is up").addresses().as_slice(), list(&[2, 3]).as_slice());
    }

    #[test]
    fn a_longer_queue_takes_more_and_a_shorter_one_sends_nobody_away() {
        let queue = |n| Rules { queue: NonZeroU32::new(n), ..Rules::CLASSIC };
        let mut table = Table::new(queue(1));
        table.create(GroupId::FIRST, address(1), NonZeroU32::new(1), AdminState::Enabled).expect("a number");
        let lease = pick(&mut table).expect("a slot");
        let come = |table: &mut Table| {
            let route = table.begin(client());
            matches!(table.next_or_wait(route, 0, None, &mut Vec::new()), Turn::Later(_))
        };
        assert_eq!([come(&mut table), come(&mut table)], [true, false]);
        table.set_rules(queue(2));
        assert!(come(&mut table));
        table.set_rules(queue(0));
        assert_eq!((come(&mut table), table.waiting()), (false, 2));
        drop(lease);
        assert_eq!(table.grant().len(), 1, "who waits is served");
    }
}

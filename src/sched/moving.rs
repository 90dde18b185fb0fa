//! What a resolver's answer changes in a table that clients use.
//!
//! Knows: which addresses stay, are added and are removed, that a name without addresses never costs anyone
//! the last channel. Never: who asks a resolver, when, whether an answer is to be believed (`names` decides).
//! Source: docs/names.md.

use std::collections::BTreeSet;
use std::time::Duration;

use super::channel::Channel;
use super::naming::{NameSnapshot, Naming};
use super::random::Random;
use super::reach::Reach;
use super::{
    Addresses, ChannelKey, EditError, GroupRange, Happened, HealthRules, Purpose, Table, Transition,
};
use crate::spec::{Address, FamilyKind};

/// The reason shown for a channel whose name could not be looked up yet.
const NOT_YET: &str = "its name has no address yet";

/// How the addresses of a channel changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressesMoved {
    /// The channel.
    pub channel: ChannelKey,
    /// All its addresses now.
    pub now: Vec<Address>,
    /// The new ones among them.
    pub added: Vec<Address>,
    /// The addresses that were removed.
    pub left: Vec<Address>,
    /// Its name was believed to have no address, or none was known.
    pub returned: bool,
    /// The only address that is left is known not to answer, so the channel is ejected.
    pub ejected: Option<Transition>,
}

impl AddressesMoved {
    fn none(channel: ChannelKey) -> Self {
        let (now, added, left) = Default::default();
        Self { channel, now, added, left, returned: false, ejected: None }
    }
}

impl Channel {
    /// Resets what is known about its name: the channel has another name, or addresses that were found just
    /// now.
    pub(super) fn begin_naming(&mut self, now: Duration) {
        let answered = self.addresses.is_known().then_some(now);
        self.naming = self.addresses.name().map(|_| Box::new(Naming { answered, ..Naming::default() }));
        self.vanish_if_unknown(now);
    }

    pub(super) fn vanish_if_unknown(&mut self, now: Duration) {
        if !self.addresses.is_known() && !self.health.has_vanished() {
            self.health.vanish(NOT_YET, now);
        }
    }

    /// The addresses were replaced by those that its name has now. `places` says for each one its index among
    /// the old addresses, if it was there.
    fn carry(
        &mut self,
        places: &[Option<usize>],
        rules: &HealthRules,
        now: Duration,
        random: &mut Random,
    ) -> Option<String> {
        let had = self.reach.take();
        let was_out = (had.is_none() && self.health.is_ejected()).then(|| self.health.ejected_for());
        let was_out = was_out.flatten().map(str::to_owned);
        let place_of = |old: usize| places.iter().position(|&place| place == Some(old));
        let only = places.first().copied().flatten().filter(|_| places.len() == 1);
        let only_out = only.and_then(|old| had.as_ref()?.out_for(old).map(str::to_owned));
        self.lives = self.lives.wrapping_add(1);
        self.reach = Reach::carried(had, places, self.lives, now, random);
        self.used = self.used.and_then(|at| u16::try_from(place_of(usize::from(at))?).ok());
        if places.contains(&None) {
            self.unanswered = false;
            if !self.health.is_up() {
                // A new address may be in order.
                self.health.begin_anew(rules, now, random);
            }
            if let (Some(why), Some(at), Some(reach)) = (was_out, place_of(0), &mut self.reach) {
                // It is tried after the others until a probe succeeds.
                reach.failed(at, Purpose::Return, now, &why, now, random);
            }
            return None;
        }
        let returns = self.health.returns();
        only_out.filter(|why| self.health.connect_failed(rules, returns, why, now, random))
    }
}

impl Table {
    /// Notes that a channel failed whose name may have other addresses by now.
    pub(super) fn doubt(&mut self, key: ChannelKey) {
        let Some(channel) = self.get(key) else { return };
        let member = channel.member.as_ref().map(|member| member.head);
        let named = channel.naming.as_ref().map(|_| key);
        self.doubts.extend(named.into_iter().chain(member));
    }

    /// The names of channels that have failed since the last call.
    pub fn take_doubts(&mut self) -> BTreeSet<String> {
        let doubts = std::mem::take(&mut self.doubts);
        let names = doubts.iter().filter_map(|&key| self.get(key)?.addresses.name());
        names.map(str::to_owned).collect()
    }

    /// Looks at `most` channels from `from` on. Returns those whose host is a name, with their present
    /// addresses, and where to go on. Retiring channels are skipped, since their names are no longer looked
    /// up.
    pub fn named(&self, from: ChannelKey, most: usize) -> (Vec<(ChannelKey, Addresses)>, Option<ChannelKey>) {
        let mut found = Vec::new();
        let mut left = most;
        for (&id, group) in self.groups.range(from.group..) {
            let first = if id == from.group { from.channel.index() } else { 0 };
            for (number, channel) in group.channels().iter().enumerate().skip(first) {
                if left == 0 {
                    return (found, ChannelKey::of(id, number));
                }
                left -= 1;
                if channel.naming.is_some() && !channel.removed && !channel.retires {
                    found.push((channel.slots.key(), channel.addresses.clone()));
                }
            }
        }
        (found, None)
    }

    /// Applies a resolver's answer for the name of a channel; the ports in `found` are ignored. Returns what
    /// changed.
    pub fn name_found(&mut self, key: ChannelKey, name: &str, found: &[Address]) -> Option<AddressesMoved> {
        let (rules, now) = (self.rules.health, self.now);
        let before = self.has_name(key, name)?.clone();
        if before.family().is_some() {
            return None;
        }
        let list = found.iter().map(|&address| address.with_port(before.port())).collect();
        let returned = self.edit(key, |channel| {
            if let Some(naming) = &mut channel.naming {
                **naming = Naming::answered(now);
            }
            channel.health.reappear(&rules, now)
        });
        let returned = returned.ok()?;
        let moved = self.readdress(key, before.listing(list)).ok()?;
        // Without an address it may have had no probes.
        self.schedule(key);
        let same = || AddressesMoved { now: before.as_slice().to_vec(), ..AddressesMoved::none(key) };
        let moved = moved.or_else(|| returned.then(same));
        moved.map(|moved| AddressesMoved { returned, ..moved })
    }

    /// What is known about the name of a channel. `None`: it has none.
    pub fn naming(&self, key: ChannelKey) -> Option<NameSnapshot> {
        Some(self.get(key)?.naming.as_ref()?.snapshot(self.now))
    }

    /// Notes that no resolver gives an address for the name of a channel. That changes only what is shown
    /// about it. `absent`: how many answers in a row have reported that it has none, and how long ago the
    /// first of them came.
    pub fn name_failed(&mut self, key: ChannelKey, name: &str, why: &str, absent: Option<(u32, Duration)>) {
        let now = self.now;
        if self.has_name(key, name).is_none() {
            return;
        }
        // This cannot fail, since the channel was just looked up.
        let _ = self.edit(key, |channel| {
            let naming = channel.naming.get_or_insert_default();
            let since = naming.failing.as_ref().map_or(now, |&(since, _)| since);
            naming.failing = Some((since, why.to_owned()));
            naming.absent = absent.map(|(count, age)| (count, now.saturating_sub(age)));
        });
    }

    /// A name has no address any more, which was confirmed. Returns those of its channels that were not
    /// marked so before; they get no clients from now on while another channel is up. In a range of groups
    /// where no other channel is up, nothing changes.
    pub fn name_gone(&mut self, keys: &[ChannelKey], name: &str, why: &str) -> Vec<ChannelKey> {
        let keys = self.of_the_same(keys);
        let ranges = self.ranges().into_iter();
        ranges.flat_map(|range| self.name_gone_within(&keys, name, why, range)).collect()
    }

    fn name_gone_within(
        &mut self,
        keys: &BTreeSet<ChannelKey>,
        name: &str,
        why: &str,
        within: GroupRange,
    ) -> Vec<ChannelKey> {
        let now = self.now;
        let is_other = |channel: &Channel| channel.is_up() && !keys.contains(&channel.slots.key());
        let groups = self.groups.iter().filter(|(id, _)| within.contains(**id));
        let mut others = groups.flat_map(|(_, group)| group.channels()).filter(|channel| !channel.removed);
        if !others.any(is_other) {
            self.awaits_another |= keys.iter().any(|key| within.contains(key.group));
            return Vec::new();
        }
        let is_of = |&key: &ChannelKey| {
            let Some(one) = self.get(key).filter(|_| within.contains(key.group)) else { return false };
            let is_of_word = one.member.is_some() && one.naming.is_none();
            let is_of_service = one.addresses.family() == Some(FamilyKind::Service);
            is_of_word || (self.has_name(key, name).is_some() && !is_of_service)
        };
        let of_it: Vec<ChannelKey> = keys.iter().copied().filter(is_of).collect();
        let vanishes =
            |key: &ChannelKey| self.edit(*key, |channel| channel.health.vanish(why, now)) == Ok(true);
        of_it.into_iter().filter(vanishes).collect()
    }

    pub(super) fn has_name(&self, key: ChannelKey, name: &str) -> Option<&Addresses> {
        let channel = self.get(key).filter(|channel| !channel.retires)?;
        Some(&channel.addresses).filter(|addresses| addresses.name() == Some(name))
    }

    /// Gives a channel the addresses that its name has now; `None` if it has them already. They are treated
    /// as a set: the channel keeps its order, and what is known about addresses that stay. Leases taken
    /// before keep the old list.
    ///
    /// # Errors
    /// `UnknownChannel`.
    pub fn readdress(
        &mut self,
        key: ChannelKey,
        addresses: Addresses,
    ) -> Result<Option<AddressesMoved>, EditError> {
        let before = self.get(key).ok_or(EditError::UnknownChannel)?.addresses.clone();
        let (old, new) = (before.as_slice(), addresses.as_slice());
        let missing = |from: &[Address], those: &[Address]| -> Vec<Address> {
            those.iter().copied().filter(|one| !from.contains(one)).collect()
        };
        let (added, left) = (missing(old, new), missing(new, old));
        let is_same_word = before.host() == addresses.host() && before.is_lazy() == addresses.is_lazy();
        if addresses.family().is_some() {
            return Err(EditError::UnknownChannel);
        }
        if added.is_empty() && left.is_empty() && is_same_word && before.port() == addresses.port() {
            return Ok(None);
        }
        let stay: Vec<usize> = (0..old.len()).filter(|&at| new.contains(&old[at])).collect();
        if stay.is_empty() || before.host() != addresses.host() {
            let now = new.to_vec();
            self.move_to(key, addresses)?;
            return Ok(Some(AddressesMoved { now, added, left, ..AddressesMoved::none(key) }));
        }
        let now: Vec<Address> = stay.iter().map(|&at| old[at]).chain(added.iter().copied()).collect();
        let places: Vec<Option<usize>> =
            stay.into_iter().map(Some).chain(added.iter().map(|_| None)).collect();
        if let Some(group) = self.groups.get_mut(&key.group) {
            group.assign(key.channel.index(), addresses.listing(now.clone()));
        }
        let (rules, time) = (self.rules.health, self.now);
        let out = self.edit_by_lot(key, |channel, random| channel.carry(&places, &rules, time, random))?;
        self.schedule(key);
        let ejected = out.map(|why| Transition {
            channel: key,
            address: now.first().copied().unwrap_or_else(|| addresses.first()),
            what: Happened::Ejected(why),
        });
        Ok(Some(AddressesMoved { now, added, left, ejected, ..AddressesMoved::none(key) }))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::{
        AdminState, ClientAddr, DialCause, DialFailure, GroupId, HealthState, Lease, NameSnapshot, NoChannel,
        Rules,
    };
    use super::*;

    const EJECTING: Rules =
        Rules { health: HealthRules { eject: true, ..HealthRules::NONE }, ..Rules::CLASSIC };

    fn at(last: u8) -> Address {
        Address::from(([10, 0, 0, last], 80))
    }

    fn list(numbers: &[u8]) -> Vec<Address> {
        numbers.iter().map(|&number| at(number)).collect()
    }

    fn key(number: usize) -> ChannelKey {
        ChannelKey::new(0, number).expect("a key")
    }

    fn create(table: &mut Table, addresses: Addresses) {
        table.create(GroupId::FIRST, addresses, None, AdminState::Enabled).expect("a number");
    }

    fn table(names: &[(&str, &[u8])]) -> Table {
        let mut table = Table::new(EJECTING);
        for (name, numbers) in names {
            let all = Addresses::new(list(numbers));
            let addresses =
                all.map_or_else(|| Addresses::unknown(name, 80).lazily(true), |all| all.named(name));
            create(&mut table, addresses);
        }
        table
    }

    fn pick(table: &mut Table) -> Result<Lease, NoChannel> {
        let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 1])));
        table.next(&mut route)
    }

    fn order(table: &mut Table) -> Vec<Address> {
        let lease = pick(table).expect("it is up");
        (0..).map_while(|n| lease.target(n, 0)).collect()
    }

    fn state(table: &Table, number: usize) -> HealthState {
        table.channel(key(number)).expect("it is there").health.state
    }

    #[test]
    fn an_answer_is_a_set_whose_order_changes_nothing() {
        let mut table = table(&[("web", &[1, 2, 3])]);
        assert_eq!(table.name_found(key(0), "web", &list(&[3, 1, 2])), None);
        let moved = table.name_found(key(0), "web", &list(&[4, 3, 1])).expect("they are others");
        assert_eq!((moved.now, moved.added, moved.left), (list(&[1, 3, 4]), list(&[4]), list(&[2])));
        assert_eq!(order(&mut table), list(&[1, 3, 4]), "those that stay keep their order");
    }

    #[test]
    fn what_is_known_of_an_address_is_kept_as_long_as_it_stays() {
        let mut table = table(&[("web", &[1, 2, 3])]);
        let lease = pick(&mut table).expect("it is up");
        table.address_failed(&lease, at(1), Duration::ZERO, "refused").expect("it is out");
        assert_eq!(order(&mut table), list(&[2, 3, 1]));
        table.name_found(key(0), "web", &list(&[1, 3, 4])).expect("they are others");
        assert_eq!(order(&mut table), list(&[3, 4, 1]), "one that was out stays behind the others");
        let out = table.channel(key(0)).expect("it is there").addresses_out;
        assert_eq!(out, [(at(1), "refused".to_owned())]);
        // A probe that was started before counts for the address that it was for, wherever that is now.
        table.advance(Duration::from_secs(1));
        let probe = table.probes_due(9).pop().expect("it is due");
        assert_eq!(probe.addresses, list(&[1]));
        table.name_found(key(0), "web", &list(&[5, 4, 1])).expect("they are others");
        table.probed(&probe, super::super::ProbeResult::Good).expect("it is back");
        assert_eq!(order(&mut table), list(&[1, 4, 5]));
        // An address that left and came again is new.
        let lease = pick(&mut table).expect("it is up");
        table.address_failed(&lease, at(4), Duration::from_secs(1), "refused").expect("it is out");
        table.advance(Duration::from_secs(2));
        let probe = table.probes_due(9).pop().expect("it is due");
        table.name_found(key(0), "web", &list(&[1, 5])).expect("they are others");
        table.name_found(key(0), "web", &list(&[1, 5, 4])).expect("they are others");
        assert_eq!(table.probed(&probe, super::super::ProbeResult::Good), None);
        assert_eq!(order(&mut table), list(&[1, 5, 4]));
    }

    #[test]
    fn a_channel_that_is_out_may_be_well_at_its_new_address() {
        let mut table = table(&[("web", &[1]), ("other", &[9])]);
        let lease = pick(&mut table).expect("it is up");
        table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused").expect("it is ejected");
        assert_eq!(table.take_doubts(), BTreeSet::from(["web".to_owned()]));
        assert_eq!(table.take_doubts(), BTreeSet::new());
        table.name_found(key(0), "web", &list(&[1, 2])).expect("they are others");
        assert_eq!(state(&table, 0), HealthState::Untried);
        table.set_state(key(1), AdminState::Disabled).expect("it is there");
        assert_eq!(order(&mut table), list(&[2, 1]), "the one that failed comes last");
        // The one that is left is the one that failed.
        let moved = table.name_found(key(0), "web", &list(&[1])).expect("they are others");
        let what = moved.ejected.expect("it is out").what;
        assert_eq!((what, state(&table, 0)), (Happened::Ejected("refused".to_owned()), HealthState::Ejected));
    }

    #[test]
    fn one_that_is_up_stays_so_with_all_that_was_learned() {
        let mut table = table(&[("web", &[1, 2])]);
        let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 1])));
        let lease = table.next(&mut route).expect("it is up");
        table.address_answered(&lease, at(2), Duration::ZERO);
        table.connected(route, &lease, Duration::from_millis(1));
        table.name_found(key(0), "web", &list(&[2, 3])).expect("they are others");
        let now = table.channel(key(0)).expect("it is there");
        assert_eq!((now.health.state, now.used, now.active), (HealthState::Up, Some(at(2)), 1));
        table.name_found(key(0), "web", &list(&[3])).expect("they are others");
        assert_eq!(table.channel(key(0)).expect("it is there").used, None);
    }

    #[test]
    fn a_failure_is_told_and_changes_nothing() {
        let mut table = table(&[("web", &[1, 2])]);
        table.advance(Duration::from_secs(60));
        table.name_failed(key(0), "web", "try again", None);
        table.advance(Duration::from_secs(90));
        table.name_failed(key(0), "web", "no answer", Some((2, Duration::from_secs(7))));
        let now = table.channel(key(0)).expect("it is there");
        let told = NameSnapshot {
            answered: Some(Duration::from_secs(90)),
            failing: Some(("no answer".to_owned(), Duration::from_secs(30))),
            absent: Some((2, Duration::from_secs(7))),
        };
        assert_eq!((now.naming, now.health.state), (Some(told), HealthState::Untried));
        assert_eq!(order(&mut table), list(&[1, 2]));
        assert_eq!(table.name_found(key(0), "web", &list(&[1, 2])), None);
        let told = NameSnapshot { answered: Some(Duration::ZERO), ..NameSnapshot::default() };
        assert_eq!(table.channel(key(0)).expect("it is there").naming, Some(told));
    }

    #[test]
    fn a_name_that_is_gone_costs_nobody_the_last_channel() {
        let mut table = table(&[("web", &[1]), ("other", &[2])]);
        table.set_state(key(1), AdminState::Disabled).expect("it is there");
        assert_eq!(table.name_gone(&[key(0)], "web", "no such name"), []);
        table.set_state(key(1), AdminState::Enabled).expect("it is there");
        assert_eq!(table.name_gone(&[key(0)], "web", "no such name"), [key(0)]);
        assert_eq!(table.name_gone(&[key(0)], "web", "no such name"), [], "that is known");
        assert_eq!(state(&table, 0), HealthState::Down);
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            seen.insert(pick(&mut table).expect("the other one").key());
        }
        assert_eq!(seen, BTreeSet::from([key(1)]));
        assert_eq!(table.name_gone(&[key(1)], "other", "no such name"), [], "it is the last one");
        // And if the other channel is gone, the old address is better than nothing.
        table.set_state(key(1), AdminState::Disabled).expect("it is there");
        assert_eq!(pick(&mut table).expect("as a last resort").key(), key(0));
        let moved = table.name_found(key(0), "web", &list(&[1])).expect("it is there again");
        assert!(moved.returned && moved.added.is_empty() && moved.left.is_empty());
        assert_eq!(state(&table, 0), HealthState::Untried);
    }

    #[test]
    fn a_name_that_is_gone_costs_no_client_the_last_channel_that_it_may_have() {
        let mut table = table(&[("web", &[1])]);
        let second = GroupId::new(1).expect("small");
        table.create(second, Addresses::from(at(9)), None, AdminState::Enabled).expect("a number");
        let ranges =
            [GroupRange::new(0, Some(1)), GroupRange::new(1, None)].map(|range| range.expect("a range"));
        table.set_ranges(ranges.to_vec());
        assert_eq!(table.name_gone(&[key(0)], "web", "no such name"), []);
        table.set_ranges(Vec::new());
        assert_eq!(table.name_gone(&[key(0)], "web", "no such name"), [key(0)]);
    }

    #[test]
    fn nobody_is_sent_to_a_name_that_is_not_known_yet() {
        let mut table = table(&[("late", &[])]);
        assert_eq!(pick(&mut table).expect_err("nowhere"), NoChannel::Down);
        assert_eq!((state(&table, 0), table.next_probe()), (HealthState::Down, None));
        table.begin_life();
        assert_eq!(pick(&mut table).expect_err("still nowhere"), NoChannel::Down);
        let moved = table.name_found(key(0), "late", &list(&[1])).expect("it is known");
        assert!(moved.returned && moved.added == list(&[1]));
        assert_eq!(order(&mut table), list(&[1]));
        assert!(table.channel(key(0)).expect("it is there").addresses.is_lazy());
    }

    #[test]
    fn an_answer_for_a_name_that_a_channel_has_no_more_changes_nothing() {
        let mut table = table(&[("web", &[1])]);
        assert_eq!(table.name_found(key(0), "other", &list(&[2])), None);
        assert_eq!(table.name_found(key(7), "web", &list(&[2])), None);
        table.retire(key(0)).expect("it is there");
        assert_eq!(table.name_found(key(0), "web", &list(&[2])), None);
    }

    #[test]
    fn names_are_told_piece_by_piece_and_addresses_are_none() {
        let mut table =
            table(&[("a", &[1]), ("10.0.0.7", &[7]), ("b.example", &[2]), ("::1", &[3]), ("c", &[])]);
        create(&mut table, Addresses::from(at(9)));
        table.retire(key(0)).expect("it is there");
        let (mut names, mut from) = (Vec::new(), Some(key(0)));
        while let Some(at) = from {
            let (found, next) = table.named(at, 2);
            names.extend(found.iter().filter_map(|(_, addresses)| addresses.name().map(str::to_owned)));
            from = next;
        }
        assert_eq!(names, ["b.example", "c"]);
    }

    #[test]
    fn a_successor_knows_all_of_it() {
        let mut before = table(&[("web", &[1, 2]), ("other", &[3]), ("late", &[])]);
        before.advance(Duration::from_secs(50));
        before.name_found(key(0), "web", &list(&[2, 4]));
        before.name_failed(key(1), "other", "try again", Some((2, Duration::from_secs(20))));
        before.name_gone(&[key(1)], "other", "no such name");
        let record = before.record();
        let text = serde_json::to_string(&record).expect("it can be written");
        let record = serde_json::from_str(&text).expect("it can be read");
        let after = Table::restore(EJECTING, &record, Duration::from_secs(60)).expect("it is whole");
        assert_eq!(after.record(), before.record());
        let other = after.naming(key(1)).expect("it has a name");
        assert_eq!(other.absent, Some((2, Duration::from_secs(30))), "10 s later");
        for number in 0..3 {
            let [before, after] =
                [&before, &after].map(|table| table.channel(key(number)).expect("it is there"));
            assert_eq!((before.addresses, before.health.state), (after.addresses, after.health.state));
        }
    }
}

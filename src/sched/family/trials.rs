//! Words that stand for sets of channels, with answers as a resolver would give them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::FamilyMoved;
use super::kin::name_of;
use super::wanted::member_weights;
use crate::sched::addresses::FoundMember;
use crate::sched::{
    Addresses, AdminState, ChannelKey, ClientAddr, GroupId, GroupRange, HealthState, Lease, NoChannel,
    Policy, Rules, Table, Weight,
};
use crate::spec::{Address, FamilyKind};

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

fn key(group: usize, number: usize) -> ChannelKey {
    ChannelKey::new(group, number).expect("a key")
}

fn each(numbers: &[u8]) -> Vec<FoundMember> {
    numbers.iter().map(|&number| FoundMember::of(at(number))).collect()
}

/// A table whose channel 0 is `db:80,each`.
fn table(numbers: &[u8]) -> Table {
    let mut table = Table::new(Rules::CLASSIC);
    let addresses = Addresses::of_family(FamilyKind::Each, "db", 80, Some(each(numbers)));
    table.create(GroupId::FIRST, addresses, None, AdminState::Enabled).expect("a number");
    table.settle_families();
    table
}

fn found(table: &mut Table, numbers: &[u8]) -> Option<FamilyMoved> {
    table.family_found(key(0, 0), "db", &each(numbers))
}

fn pick(table: &mut Table, client: u8) -> Result<Lease, NoChannel> {
    let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, client])));
    table.next(&mut route)
}

/// The channels by number, with the last byte of their address.
fn there(table: &mut Table) -> Vec<(usize, u8)> {
    let group = table.snapshot().groups.into_iter().next().expect("one");
    let last = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(_) => 0,
    };
    let one = |one: &crate::sched::ChannelSnapshot| {
        (one.id.index(), last(one.addresses.first().net().expect("of the network").ip()))
    };
    group.channels.iter().map(one).collect()
}

#[test]
fn each_address_is_a_channel_whose_number_it_has_for_ever() {
    let mut table = table(&[3, 1, 2]);
    assert_eq!(there(&mut table), [(1, 1), (2, 2), (3, 3)], "in whatever order they were said");
    assert_eq!(found(&mut table, &[2, 3, 1]), None, "a set");
    let moved = found(&mut table, &[1, 4]).expect("others");
    assert_eq!(moved.joined, ["10.0.0.4:80"]);
    let left: Vec<_> =
        moved.left.iter().map(|(key, label, _)| (key.channel.index(), label.as_str())).collect();
    assert_eq!(left, [(2, "10.0.0.2:80"), (3, "10.0.0.3:80")]);
    assert_eq!(there(&mut table), [(1, 1), (4, 4)]);
    found(&mut table, &[1, 2, 3, 4, 5]).expect("they are back");
    assert_eq!(there(&mut table), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
    assert_eq!(table.up_and_all(), (5, 5), "the word itself is none of them");
    let picked: BTreeSet<usize> =
        (0..10).map(|n| pick(&mut table, n).expect("up").key().channel.index()).collect();
    assert_eq!(picked, BTreeSet::from([1, 2, 3, 4, 5]));
}

#[test]
fn one_that_left_keeps_its_connections_and_may_come_back_meanwhile() {
    let mut table = table(&[1, 2]);
    let leases = [pick(&mut table, 1).expect("up"), pick(&mut table, 1).expect("up")];
    found(&mut table, &[1]).expect("one left");
    let channel = table.channel(key(0, 2)).expect("it has a connection");
    assert!(channel.retires && channel.active == 1);
    assert!((0..4).all(|n| pick(&mut table, n).expect("up").key() == key(0, 1)));
    found(&mut table, &[1, 2]).expect("it is back");
    let channel = table.channel(key(0, 2)).expect("it is there");
    assert!(!channel.retires && channel.state == AdminState::Enabled && channel.active == 1);
    found(&mut table, &[1]).expect("it left");
    drop(leases);
    table.learn_freed();
    assert_eq!(there(&mut table), [(1, 1)]);
}

#[test]
fn what_an_operator_decided_about_one_stays_whether_it_is_there_or_not() {
    let mut table = table(&[1, 2, 3]);
    table.set_state(key(0, 2), AdminState::Disabled).expect("it is there");
    table.set_weight(key(0, 3), Weight::new(7).expect("small")).expect("it is there");
    table.set_maxc(key(0, 3), NonZeroU32::new(5)).expect("it is there");
    found(&mut table, &[1]).expect("others");
    found(&mut table, &[1, 2, 3, 4]).expect("others");
    let one = |table: &Table, number| {
        let one = table.channel(key(0, number)).expect("it is there");
        (one.state, one.weight.get())
    };
    assert_eq!(
        [1, 2, 3, 4].map(|number| one(&table, number).0 == AdminState::Enabled),
        [true, false, true, true]
    );
    assert_eq!(one(&table, 3).1, 7);
    let limits = [1, 2, 3, 4].map(|number| table.channel(key(0, number)).expect("it is there").maxc);
    assert_eq!(limits, [None, None, NonZeroU32::new(5), None]);
    // A change of the word applies to all its channels, including later ones.
    table.set_state(key(0, 0), AdminState::Disabled).expect("it is there");
    found(&mut table, &[1, 2, 3, 4, 5]).expect("one more");
    assert!((1..=5).all(|number| one(&table, number).0 == AdminState::Disabled));
    table.set_state(key(0, 0), AdminState::Enabled).expect("it is there");
    table.set_weight(key(0, 0), Weight::new(3).expect("small")).expect("it is there");
    assert!((1..=5).all(|number| one(&table, number) == (AdminState::Enabled, 3)));
    // A channel that was removed stays removed as long as the name has it.
    table.set_state(key(0, 5), AdminState::Disabled).expect("it is there");
    table.remove(key(0, 5)).expect("it is idle");
    assert_eq!(found(&mut table, &[5, 4, 3, 2, 1]), None);
    found(&mut table, &[1, 2]).expect("others");
    found(&mut table, &[1, 2, 5]).expect("it is new");
    assert_eq!(there(&mut table), [(1, 1), (2, 2), (5, 5)]);
}

#[test]
fn one_that_was_taken_away_by_hand_comes_back_by_hand() {
    let mut table = table(&[1, 2, 3]);
    let take_away = |table: &mut Table, number| {
        table.set_state(key(0, number), AdminState::Disabled).expect("it is there");
        table.remove(key(0, number)).expect("it is idle");
    };
    table.set_weight(key(0, 2), Weight::new(7).expect("small")).expect("it is there");
    take_away(&mut table, 2);
    assert_eq!(there(&mut table), [(1, 1), (3, 3)]);
    assert_eq!(table.bring_back(key(0, 4)), None, "nobody had that number");
    assert_eq!(table.bring_back(key(0, 1)), None, "it is there");
    // A process that takes over knows its number, too.
    let record = table.record();
    let after = Table::restore(Rules::CLASSIC, &record, std::time::Duration::ZERO).expect("it is whole");
    assert_eq!(after.record(), record);
    for mut table in [table, after] {
        assert_eq!(table.bring_back(key(0, 2)), Some(key(0, 2)));
        assert_eq!(there(&mut table), [(1, 1), (2, 2), (3, 3)]);
        let one = table.channel(key(0, 2)).expect("it is back");
        assert_eq!((one.state, one.weight.get()), (AdminState::Enabled, 7));
        assert_eq!(table.bring_back(key(0, 2)), None);
        // Both by the word, and one that is only disabled.
        [1, 2].into_iter().for_each(|number| take_away(&mut table, number));
        assert!(table.bring_all_back(key(0, 0)) && !table.bring_all_back(key(0, 0)));
        table.set_state(key(0, 3), AdminState::Disabled).expect("it is there");
        assert!(table.bring_all_back(key(0, 0)));
        assert!(!table.bring_all_back(key(0, 3)), "it is no word");
        // All decisions are discarded.
        table.set_maxc(key(0, 1), NonZeroU32::new(4)).expect("it is there");
        table.set_weight(key(0, 1), Weight::new(9).expect("small")).expect("it is there");
        take_away(&mut table, 2);
        assert!(table.undo_members(key(0, 0)) && !table.undo_members(key(0, 0)));
        for number in 1..=3 {
            let one = table.channel(key(0, number)).expect("it is back");
            assert_eq!((one.state, one.maxc, one.weight), (AdminState::Enabled, None, Weight::ONE));
        }
    }
}

#[test]
fn one_that_comes_back_is_paused_if_those_that_come_are_and_not_else() {
    let mut table = table(&[1, 2, 3]);
    // All are paused, and one is missing when the pause ends.
    table.pause_all();
    found(&mut table, &[1, 3]).expect("one left");
    found(&mut table, &[1]).expect("another left");
    table.resume_all();
    found(&mut table, &[1, 2, 3]).expect("they are back");
    assert!((1..=3).all(|number| !table.channel(key(0, number)).expect("it is there").paused));
    // One is missing when the pause begins, and returns during it.
    found(&mut table, &[1]).expect("they left");
    table.pause(key(0, 0)).expect("it is there");
    found(&mut table, &[1, 2, 3]).expect("they are back");
    assert!((1..=3).all(|number| table.channel(key(0, number)).expect("it is there").paused));
    assert_eq!(table.resume(key(0, 0)), Ok(true));
    assert!((1..=3).all(|number| !table.channel(key(0, number)).expect("it is there").paused));
    assert_eq!(table.resume(key(0, 0)), Ok(false));
}

#[test]
fn no_answer_takes_the_last_channel_away() {
    let mut table = table(&[1, 2]);
    table.set_state(key(0, 1), AdminState::Disabled).expect("it is there");
    assert_eq!(table.name_gone(&[key(0, 0)], "db", "no such name"), []);
    // The only one that clients can get is removed, and the new one is disabled.
    table.decide_member(
        key(0, 0),
        ("10.0.0.3".to_owned(), 80),
        &crate::sched::DecidedMember {
            host: String::new(),
            port: 0,
            state: AdminState::Disabled,
            maxc: None,
            weight: None,
            removed: false,
        },
    );
    found(&mut table, &[1, 3]).expect("one has come");
    assert_eq!(pick(&mut table, 1).expect("better than nothing").key(), key(0, 2));
    // A process that takes over knows that one is to be removed.
    let record = table.record();
    for mut table in
        [Table::restore(Rules::CLASSIC, &record, std::time::Duration::ZERO).expect("whole"), table]
    {
        assert!(!table.has_another() && table.see_off_all().is_empty());
        table.set_state(key(0, 3), AdminState::Enabled).expect("it is there");
        assert!(table.take_another() && !table.take_another());
        // It can be removed without another answer.
        let moved = table.see_off_all();
        assert_eq!(moved.iter().map(|moved| moved.left.len()).collect::<Vec<_>>(), [1]);
        assert_eq!(pick(&mut table, 1).expect("up").key(), key(0, 3));
        assert_eq!(there(&mut table), [(1, 1), (3, 3)]);
        // Nothing is held back any more.
        table.set_state(key(0, 1), AdminState::Enabled).expect("it is there");
        assert!(!table.has_another());
    }
}

#[test]
fn a_name_that_is_gone_takes_all_its_channels_down_where_others_are_left() {
    let mut table = table(&[1, 2]);
    table.create(GroupId::FIRST, Addresses::from(at(9)), None, AdminState::Enabled).expect("a number");
    let gone = table.name_gone(&[key(0, 0)], "db", "no such name");
    assert_eq!(gone, [key(0, 0), key(0, 1), key(0, 2)]);
    assert!((0..6).all(|n| pick(&mut table, n).expect("up").key() == key(0, 3)));
    assert!(found(&mut table, &[2, 1]).expect("they are back").changed);
    let state = table.channel(key(0, 1)).expect("it is there").health.state;
    assert_eq!(state, HealthState::Untried);
}

#[test]
fn hashed_clients_know_a_channel_by_its_address() {
    let mut table = table(&[1, 2, 3, 4]);
    table.set_policy(GroupId::FIRST, Policy::Hash);
    let home = |table: &mut Table, n: u8| pick(table, n).expect("up").addresses().first();
    let before: Vec<Address> = (0..100).map(|n| home(&mut table, n)).collect();
    found(&mut table, &[1, 2, 4]).expect("one left");
    for (n, was) in (0..100).zip(&before) {
        assert!(home(&mut table, n) == *was || *was == at(3));
    }
    found(&mut table, &[4, 3, 2, 1]).expect("it is back");
    assert_eq!((0..100).map(|n| home(&mut table, n)).collect::<Vec<_>>(), before);
    // The same weights, typed one by one.
    let mut typed = Table::new(Rules::CLASSIC);
    for n in 1..=4 {
        typed.create(GroupId::FIRST, Addresses::from(at(n)), None, AdminState::Enabled).expect("a number");
    }
    typed.set_policy(GroupId::FIRST, Policy::Hash);
    assert_eq!((0..100).map(|n| home(&mut typed, n)).collect::<Vec<_>>(), before);
}

fn target(host: &str, priority: u16, weight: u16) -> FoundMember {
    let last = host.bytes().last().unwrap_or(0) - b'a' + 1;
    let mut address = at(last);
    address.set_port(389);
    FoundMember { host: host.to_owned(), port: 389, priority, weight, addresses: vec![address] }
}

fn service(targets: &[FoundMember]) -> Table {
    let mut table = Table::new(Rules::CLASSIC);
    let addresses = Addresses::of_family(FamilyKind::Service, "_ldap._tcp.corp", 0, Some(targets.to_vec()));
    table.create(GroupId::FIRST, addresses, None, AdminState::Enabled).expect("a number");
    table.settle_families();
    table
}

/// By group: host and weight.
fn tiers(table: &mut Table) -> Vec<(usize, Vec<(String, u32)>)> {
    let groups = table.snapshot().groups.into_iter().map(|group| {
        let one = |one: &crate::sched::ChannelSnapshot| {
            (one.addresses.host().unwrap_or_default().to_owned(), one.weight.get())
        };
        (group.id.index(), group.channels.iter().filter(|one| !one.retires).map(one).collect::<Vec<_>>())
    });
    groups.filter(|(_, channels)| !channels.is_empty()).collect()
}

#[test]
fn each_priority_is_a_group_and_weights_are_kept() {
    let mut table =
        service(&[target("c", 20, 0), target("b", 10, 30), target("a", 10, 10), target("d", 65_535, 0)]);
    let own =
        |all: &[(&str, u32)]| all.iter().map(|&(host, weight)| (host.to_owned(), weight)).collect::<Vec<_>>();
    assert_eq!(
        tiers(&mut table),
        [(0, own(&[("b", 30), ("a", 10)])), (1, own(&[("c", 1)])), (2, own(&[("d", 1)]))]
    );
    let other = table.family_found(key(0, 0), "_ldap._tcp.corp", &[target("b", 20, 3), target("a", 10, 12)]);
    let other = other.expect("they are others").other;
    assert_eq!(other, ["a:389 weight 10 to 12", "b:389 group 0 to 1 weight 30 to 3"]);
    let first = [target("c", 20, 0), target("b", 10, 30), target("a", 10, 10), target("d", 65_535, 0)];
    table.family_found(key(0, 0), "_ldap._tcp.corp", &first).expect("as before");
    let mut say = |targets: &[FoundMember]| {
        table.family_found(key(0, 0), "_ldap._tcp.corp", targets);
        tiers(&mut table)
    };
    // Another weight keeps the channel; without the first priority, the second one comes first.
    assert_eq!(say(&[target("a", 10, 40), target("b", 10, 10)]), [(0, own(&[("b", 10), ("a", 40)]))]);
    assert_eq!(
        say(&[target("c", 20, 0), target("d", 30, 0)]),
        [(0, own(&[("c", 1)])), (1, own(&[("d", 1)]))]
    );
    assert_eq!(say(&[target("d", 30, 0)]), [(0, own(&[("d", 1)]))]);
}

#[test]
fn what_was_decided_about_a_target_stays_when_it_has_another_priority() {
    let mut table = service(&[target("a", 10, 1), target("b", 10, 1)]);
    table.set_state(key(0, 1), AdminState::Disabled).expect("it is there");
    table.set_maxc(key(0, 1), NonZeroU32::new(5)).expect("it is there");
    let others = [target("b", 10, 1), target("a", 20, 1)];
    table.family_found(key(0, 0), "_ldap._tcp.corp", &others).expect("one moves");
    let one = table.channel(key(1, 0)).expect("it is in another group");
    assert_eq!(
        (one.addresses.host(), one.state, one.maxc),
        (Some("a"), AdminState::Disabled, NonZeroU32::new(5))
    );
    let first = [target("a", 10, 1), target("b", 10, 1)];
    table.family_found(key(0, 0), "_ldap._tcp.corp", &first).expect("it moves back");
    let one = table.channel(key(0, 1)).expect("it has its number again");
    assert_eq!(
        (one.addresses.host(), one.state, one.maxc),
        (Some("a"), AdminState::Disabled, NonZeroU32::new(5))
    );
}

#[test]
fn what_is_decided_about_a_target_last_is_what_it_keeps() {
    let mut table = service(&[target("a", 10, 1), target("b", 10, 1)]);
    table.set_state(key(0, 1), AdminState::Disabled).expect("it is there");
    let others = [target("b", 10, 1), target("a", 20, 1)];
    table.family_found(key(0, 0), "_ldap._tcp.corp", &others).expect("one moves");
    table.set_state(key(1, 0), AdminState::Enabled).expect("it is in another group");
    let first = [target("a", 10, 1), target("b", 10, 1)];
    table.family_found(key(0, 0), "_ldap._tcp.corp", &first).expect("it moves back");
    assert_eq!(table.channel(key(0, 1)).expect("it is there").state, AdminState::Enabled);
}

#[test]
fn no_weight_above_0_becomes_0() {
    let weights = |records: &[u16]| member_weights(records).into_iter().map(Weight::get).collect::<Vec<_>>();
    assert_eq!(weights(&[0, 0, 0]), [1, 1, 1]);
    assert_eq!(weights(&[1, 2, 256]), [1, 2, 256]);
    assert_eq!(weights(&[65_535, 1, 0]), [256, 1, 1]);
    assert_eq!(weights(&[0, 10, 20]), [1, 128, 256]);
    assert_eq!(weights(&[1_000, 500, 250]), [256, 128, 64]);
}

#[test]
fn a_service_whose_new_targets_nobody_knows_keeps_the_old_ones() {
    let mut table = service(&[target("a", 10, 0)]);
    let unknown = FoundMember { addresses: Vec::new(), ..target("b", 10, 0) };
    let moved = table.family_found(key(0, 0), "_ldap._tcp.corp", &[unknown]).expect("one has come");
    assert_eq!((moved.joined, moved.left), (vec!["b:389".to_owned()], vec![]));
    assert_eq!(pick(&mut table, 1).expect("the old one").key(), key(0, 1));
    table.name_found(key(0, 2), "b", &[at(2).into()]).expect("it is known");
    let moved = table.see_off_for(key(0, 2)).expect("the old one goes");
    assert_eq!(moved.left.len(), 1);
    assert_eq!(pick(&mut table, 1).expect("the new one").key(), key(0, 2));
    // A service name that is no longer offered keeps its last channel.
    assert_eq!(table.service_gone(key(0, 0), "_ldap._tcp.corp"), None);
    assert_eq!(pick(&mut table, 1).expect("the last one").key(), key(0, 2));
}

#[test]
fn a_target_that_changes_its_priority_and_comes_back_has_its_number_again() {
    let found = |a: u16| [target("a", a, 0), target("b", 10, 0), target("c", 20, 0), target("d", 30, 0)];
    let mut table = service(&found(10));
    let a = |table: &Table| {
        let is_a = |one: &ChannelKey| table.get(*one).map(name_of) == Some(("a".to_owned(), 389));
        table.members(key(0, 0)).into_iter().find(is_a).expect("it is there")
    };
    let mut seen = Vec::new();
    for priority in [10, 20, 30, 10, 20] {
        table.family_found(key(0, 0), "_ldap._tcp.corp", &found(priority));
        seen.push(a(&table));
    }
    assert_eq!(seen, [key(0, 1), key(1, 1), key(2, 1), key(0, 1), key(1, 1)]);
}

#[test]
fn targets_that_change_their_priority_before_they_have_an_address_leave_nothing_behind() {
    let unknown = |host, priority| FoundMember { addresses: Vec::new(), ..target(host, priority, 0) };
    let hosts = |table: &mut Table| {
        let told = |(group, all): (usize, Vec<(String, u32)>)| {
            (group, all.into_iter().map(|(host, _)| host).collect::<Vec<_>>())
        };
        tiers(table).into_iter().map(told).collect::<Vec<_>>()
    };
    let mut table = service(&[unknown("a", 10), unknown("b", 20)]);
    // As nobody has an address, those in the old groups stay for the time being. However often this is
    // said, no more come.
    for _ in 0..3 {
        table.family_found(key(0, 0), "_ldap._tcp.corp", &[unknown("a", 20), unknown("b", 10)]);
        let count: usize = hosts(&mut table).iter().map(|(_, hosts)| hosts.len()).sum();
        assert_eq!(count, 4, "{:?}", hosts(&mut table));
    }
    // An operator decides about the one that is there. It goes back to its old group with that.
    let is_new = |one: &ChannelKey| table.get(*one).map(name_of) == Some(("b".to_owned(), 389));
    let b = table.members(key(0, 0)).into_iter().find(is_new).expect("it is there");
    assert_eq!(b.group, GroupId::FIRST);
    table.set_maxc(b, NonZeroU32::new(5)).expect("it is there");
    table.family_found(key(0, 0), "_ldap._tcp.corp", &[unknown("a", 10), unknown("b", 20)]);
    table.family_found(key(0, 0), "_ldap._tcp.corp", &[unknown("a", 10), unknown("b", 20)]);
    for (host, last) in [("a", 1), ("b", 2)] {
        let of_host = |one: &ChannelKey| table.get(*one).map(name_of) == Some((host.to_owned(), 389));
        let all: Vec<_> = table.members(key(0, 0)).into_iter().filter(of_host).collect();
        for one in all {
            table.name_found(one, host, &[at(last).into()]);
            table.see_off_for(one);
        }
    }
    let left = vec![(0, vec!["a".to_owned()]), (1, vec!["b".to_owned()])];
    assert_eq!(hosts(&mut table), left);
    let one = table.channel(key(1, 0)).expect("it is there");
    assert_eq!((one.addresses.host(), one.maxc), (Some("b"), NonZeroU32::new(5)));
}

proptest! {
    /// Whatever a resolver says, and whether anybody has an address by then: in the end there is one
    /// channel for each target, in the group of its priority.
    #[test]
    fn each_target_is_there_once_in_the_end(
        answers in prop::collection::vec(
            prop::collection::vec((0..4_usize, 0..3_u16, any::<bool>()), 1..5),
            1..8,
        ),
        disabled in prop::collection::vec(any::<bool>(), 8),
    ) {
        const HOSTS: [&str; 4] = ["a", "b", "c", "d"];
        let mut table = service(&[]);
        for (answer, is_disabled) in answers.iter().zip(disabled) {
            let mut said = BTreeSet::new();
            let one = |&(host, priority, is_known): &(usize, u16, bool)| {
                let mut one = target(HOSTS[host], priority, 0);
                if !is_known {
                    one.addresses.clear();
                }
                one
            };
            let found: Vec<_> = answer.iter().filter(|one| said.insert(one.0)).map(one).collect();
            for _ in 0..2 {
                table.family_found(key(0, 0), "_ldap._tcp.corp", &found);
            }
            let members = table.members(key(0, 0));
            // Of each target there is the one that is wanted, and at most one in each other group.
            let places: BTreeSet<_> = members.iter().map(|&one| (one.group, table.get(one).map(name_of))).collect();
            prop_assert_eq!(places.len(), members.len());
            if let Some(&one) = members.first().filter(|_| is_disabled) {
                table.set_state(one, AdminState::Disabled).expect("it is there");
            }
        }
        for one in table.members(key(0, 0)) {
            let _ = table.set_state(one, AdminState::Enabled);
            let (host, _) = table.get(one).map(name_of).expect("it is there");
            let last = host.bytes().last().expect("a letter") - b'a' + 1;
            table.name_found(one, &host, &[at(last).into()]);
        }
        table.see_off_all();
        let last = answers.last().expect("at least one");
        let mut said = BTreeSet::new();
        let wanted: Vec<_> = last.iter().filter(|one| said.insert(one.0)).collect();
        let priorities: BTreeSet<u16> = wanted.iter().map(|one| one.1).collect();
        let tier = |priority: u16| priorities.iter().position(|&one| one == priority).expect("it is one");
        let wanted: BTreeSet<(usize, String)> =
            wanted.iter().map(|one| (tier(one.1), HOSTS[one.0].to_owned())).collect();
        let there = tiers(&mut table).into_iter().flat_map(|(group, all)| all.into_iter().map(move |(host, _)| (group, host)));
        let there: Vec<_> = there.collect();
        prop_assert_eq!(there.len(), wanted.len(), "{:?} {:?}", there, wanted);
        prop_assert_eq!(there.into_iter().collect::<BTreeSet<_>>(), wanted);
    }
}

#[test]
fn targets_without_an_address_leave_no_client_to_the_backup() {
    let mut table = service(&[target("a", 10, 0)]);
    let backup = GroupId::new(7).expect("small");
    table.create(backup, at(99).into(), None, AdminState::Enabled).expect("a slot");
    let unknown = FoundMember { addresses: Vec::new(), ..target("b", 10, 0) };
    let moved = table.family_found(key(0, 0), "_ldap._tcp.corp", &[unknown]).expect("one has come");
    assert_eq!((moved.joined, moved.left), (vec!["b:389".to_owned()], vec![]));
    assert_eq!(pick(&mut table, 1).expect("the old one").key(), key(0, 1));
    // A service name that is no longer offered leaves its clients to it.
    table.service_gone(key(0, 0), "_ldap._tcp.corp").expect("they go");
    assert_eq!(pick(&mut table, 1).expect("the backup").key(), key(7, 0));
}

#[test]
fn an_answer_costs_no_client_the_last_channel_that_it_may_have() {
    let mut table = service(&[target("a", 10, 0), target("b", 20, 0)]);
    let other = GroupId::new(100).expect("small");
    table.create(other, at(99).into(), None, AdminState::Enabled).expect("a slot");
    let ranges = [GroupRange::new(0, Some(100)), GroupRange::new(100, None)];
    table.set_ranges(ranges.map(|range| range.expect("a range")).to_vec());
    // There are no targets any more, and one channel is disabled: the clients of that name have no other.
    assert_eq!(table.service_gone(key(0, 0), "_ldap._tcp.corp"), None);
    table.set_state(key(0, 0), AdminState::Disabled).expect("it is there");
    table.set_state(key(0, 1), AdminState::Enabled).expect("it is there");
    let moved = table.family_found(key(0, 0), "_ldap._tcp.corp", &[target("c", 10, 0)]);
    assert_eq!(moved.expect("one has come").left, []);
    let range = table.range_of(GroupId::FIRST);
    let mut route = table.begin_within(ClientAddr::from(IpAddr::from([192, 0, 2, 1])), range);
    assert_eq!(table.next(&mut route).expect("it stays").key(), key(0, 1));
    // A backup group for the same clients is enough.
    table.create(GroupId::new(99).expect("small"), at(98).into(), None, AdminState::Enabled).expect("a slot");
    table.service_gone(key(0, 0), "_ldap._tcp.corp").expect("they go");
}

#[test]
fn a_port_that_was_typed_is_that_of_all_targets() {
    let mut table = Table::new(Rules::CLASSIC);
    let addresses = Addresses::of_family(FamilyKind::Service, "_ldap._tcp.corp", 636, None);
    table.create(GroupId::FIRST, addresses, None, AdminState::Enabled).expect("a number");
    table.family_found(key(0, 0), "_ldap._tcp.corp", &[target("a", 0, 0)]).expect("one has come");
    assert_eq!(pick(&mut table, 1).expect("up").addresses().first().port(), 636);
}

#[test]
fn a_word_that_is_taken_away_takes_its_channels_along() {
    let mut table = table(&[1, 2]);
    let lease = pick(&mut table, 1).expect("up");
    table.create(GroupId::FIRST, Addresses::from(at(9)), None, AdminState::Enabled).expect("a number");
    table.retire(key(0, 0)).expect("it is there");
    assert_eq!(there(&mut table), [(1, 1), (3, 9)], "one has a connection");
    assert_eq!(found(&mut table, &[1, 2]), None);
    drop(lease);
    table.learn_freed();
    assert_eq!(there(&mut table), [(3, 9)]);
}

#[test]
fn a_successor_has_the_same_sets() {
    let mut before = table(&[1, 2, 3]);
    before.set_state(key(0, 2), AdminState::Disabled).expect("it is there");
    found(&mut before, &[1, 3]).expect("one left");
    let record = before.record();
    let text = serde_json::to_string(&record).expect("it can be written");
    let record = serde_json::from_str(&text).expect("it can be read");
    let mut after = Table::restore(Rules::CLASSIC, &record, std::time::Duration::ZERO).expect("it is whole");
    assert_eq!(after.record(), before.record());
    assert_eq!(found(&mut after, &[3, 1]), None);
    found(&mut after, &[1, 2, 3]).expect("one has come");
    let one = after.channel(key(0, 2)).expect("it is there, under its number");
    assert_eq!((one.addresses.first(), one.state), (at(2).into(), AdminState::Disabled));
}

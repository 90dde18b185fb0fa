//! Waiting clients: places, grants, clients that leave, amid everything else that happens.

use std::num::NonZeroU32;
use std::time::Duration;

use balance::sched::{
    Addresses, AdminState, DialCause, DialFailure, HealthRules, Lease, Loss, NoChannel, Policy, Rules, Table,
    Ticket, Turn,
};

use super::crowd::Crowd;
use super::world::{World, some_rules};
use super::{Random, for_seeds, group_id, key, place, some_client};

const STEPS: usize = 300;

#[test]
fn every_history_of_a_line_is_the_models() {
    for_seeds("line", |random| {
        let (rules, classic) = some_rules(random);
        let most = [6, 6, 60][random.below(3)];
        let rules = Rules { queue: NonZeroU32::new(1 + random.below(most) as u32), ..rules };
        let mut crowd = Crowd::new(World::new((rules, classic), false, random));
        for _ in 0..5 {
            let g = random.below(3);
            crowd.world.create(random, g);
        }
        for step in 0..STEPS {
            match random.below(22) {
                0 => drop(crowd.world.edit(random)),
                1 | 20 | 21 => drop(crowd.world.live_on(random)),
                2..=5 => crowd.hang_up(random),
                6 => crowd.give_up(random),
                7..=12 => crowd.arrive(random),
                13 => crowd.leave_line(random),
                _ => crowd.dial_ends(random),
            }
            // Those who serve the line do so after everything that may have made room, but not at once.
            if random.one_in(2) {
                crowd.grant();
            }
            if step % 4 == 0 {
                crowd.compare(&format!("step {step}"));
            }
        }
        crowd.go_home(random);
    });
}

/// Groups of one channel each, of these policies, with room for one client.
fn table(policies: &[Policy], queue: u32) -> Table {
    let mut table = Table::new(Rules { queue: NonZeroU32::new(queue), ..Rules::CLASSIC });
    for (g, &policy) in policies.iter().enumerate() {
        table.set_policy(group_id(g), policy);
        let address = Addresses::from(std::net::SocketAddr::from(([10, 3, 0, g as u8], 80)));
        let created = table.create(group_id(g), address, NonZeroU32::new(1), AdminState::Enabled);
        created.expect("few channels");
    }
    table
}

fn turn(table: &mut Table, tag: u64) -> Turn {
    let route = table.begin(some_client(&mut Random(tag)));
    table.next_or_wait(route, tag, None, &mut Vec::new())
}

fn now(table: &mut Table) -> Lease {
    match turn(table, 99) {
        Turn::Now(route, lease) => {
            table.connected(route, &lease, Duration::ZERO);
            lease
        }
        other => panic!("{other:?}"),
    }
}

fn later(table: &mut Table, tag: u64) -> Ticket {
    match turn(table, tag) {
        Turn::Later(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn granted(table: &mut Table) -> Vec<(u64, Lease)> {
    table.grant().into_iter().map(|grant| (grant.tag, grant.lease)).collect()
}

#[test]
fn slots_go_to_those_who_wait_in_the_order_in_which_they_came() {
    let mut table = table(&[Policy::RoundRobin, Policy::RoundRobin], 3);
    let (one, two) = (now(&mut table), now(&mut table));
    let places = [1, 2, 3].map(|tag| later(&mut table, tag));
    assert!(matches!(turn(&mut table, 4), Turn::Never(Loss::QueueFull)), "no more room in the line");
    assert_eq!((table.waiting(), granted(&mut table).len()), (3, 0));
    drop(two);
    drop(one);
    assert!(table.leave_line(places[0]), "the first one gives up");
    let turns = granted(&mut table);
    assert_eq!(turns.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(turns.iter().map(|(_, lease)| place(lease.key())).collect::<Vec<_>>(), [(0, 0), (1, 0)]);
    assert!(places.iter().all(|&place| !table.leave_line(place)), "nobody is in line any more");
    assert_eq!(table.waiting(), 0);
}

#[test]
fn whatever_makes_room_serves_the_line() {
    // What they leave of the connection that has the only slot.
    type Makes = fn(&mut Table, Lease) -> Option<Lease>;
    let rows: [(&str, Makes); 5] = [
        ("a connection ends", |_, _| None),
        ("a higher limit", |table, lease| {
            table.set_maxc(key(0, 0), NonZeroU32::new(2)).expect("it exists");
            Some(lease)
        }),
        ("no limit", |table, lease| {
            table.set_maxc(key(0, 0), None).expect("it exists");
            Some(lease)
        }),
        ("a new channel", |table, lease| {
            let address = Addresses::from(std::net::SocketAddr::from(([10, 3, 1, 1], 80)));
            table.create(group_id(2), address, None, AdminState::Enabled).expect("a slot");
            Some(lease)
        }),
        ("a channel that is enabled", |table, lease| {
            table.set_state(key(1, 0), AdminState::Enabled).expect("it exists");
            Some(lease)
        }),
    ];
    for (what, makes_room) in rows {
        let mut table = table(&[Policy::RoundRobin, Policy::First], 5);
        table.set_state(key(1, 0), AdminState::Disabled).expect("it exists");
        let lease = now(&mut table);
        later(&mut table, 1);
        assert!(granted(&mut table).is_empty(), "{what}");
        let _left = makes_room(&mut table, lease);
        assert_eq!(granted(&mut table).len(), 1, "{what}");
    }
}

#[test]
fn nobody_waits_for_what_is_not_up_or_not_enabled_or_has_failed() {
    let mut table = table(&[Policy::RoundRobin], 5);
    table.set_state(key(0, 0), AdminState::Disabled).expect("it exists");
    assert!(matches!(turn(&mut table, 1), Turn::Never(Loss::NoChannel(NoChannel::Disabled))));
    table.set_state(key(0, 0), AdminState::Enabled).expect("it exists");
    let Turn::Now(route, lease) = turn(&mut table, 2) else { panic!("it has room") };
    table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused");
    let _other = now(&mut table);
    let turn = table.next_or_wait(route, 2, None, &mut Vec::new());
    assert!(matches!(turn, Turn::Never(Loss::NoChannel(NoChannel::Failed))), "full, but tried: {turn:?}");
    assert_eq!(table.waiting(), 0);
}

#[test]
fn those_whose_hash_channel_is_full_do_not_hold_up_the_others() {
    let mut table = Table::new(Rules { queue: NonZeroU32::new(9), policy: Policy::Hash, ..Rules::CLASSIC });
    for c in 0..2 {
        let address = Addresses::from(std::net::SocketAddr::from(([10, 3, 0, c], 80)));
        table.create(group_id(0), address, NonZeroU32::new(1), AdminState::Enabled).expect("a slot");
    }
    // Two clients for each channel.
    let mut clients = [Vec::new(), Vec::new()];
    for tag in 0..64 {
        let mut route = table.begin(some_client(&mut Random(tag)));
        let home = table.next(&mut route).expect("nothing is full").key().channel.index();
        clients[home].push(tag);
    }
    let [mut a, mut b] = clients.map(Vec::into_iter);
    let mut tag = |c: usize| if c == 0 { a.next() } else { b.next() }.expect("many clients of each");
    let take = |table: &mut Table, tag| match turn(table, tag) {
        Turn::Now(_, lease) => lease,
        other => panic!("{other:?}"),
    };
    let (at_a, at_b) = (take(&mut table, tag(0)), take(&mut table, tag(1)));
    let (first, second, third) = (tag(0), tag(1), tag(0));
    for tag in [first, second, third] {
        later(&mut table, tag);
    }
    drop(at_b);
    let turns = granted(&mut table);
    assert_eq!(turns.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [second], "past the first in line");
    drop(at_a);
    let turns = granted(&mut table);
    assert_eq!(turns.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [first]);
}

/// Waiting comes before trying what is not up; with no room in line, what is not up is tried.
#[test]
fn a_full_channel_is_waited_for_before_what_is_not_up_is_tried() {
    let health = HealthRules { eject: true, ..HealthRules::NONE };
    let mut table = Table::new(Rules { queue: NonZeroU32::new(1), health, ..Rules::CLASSIC });
    for (c, maxc) in [(0, 0), (1, 1)] {
        let address = Addresses::from(std::net::SocketAddr::from(([10, 3, 0, c], 80)));
        table.create(group_id(0), address, NonZeroU32::new(maxc), AdminState::Enabled).expect("a slot");
    }
    let broken = now(&mut table);
    assert_eq!(place(broken.key()), (0, 0));
    table.failed(broken, DialFailure::Channel, DialCause::Refused, "refused").expect("ejected");
    let full = now(&mut table);
    assert_eq!(place(full.key()), (0, 1));
    later(&mut table, 1);
    assert_eq!(place(now(&mut table).key()), (0, 0), "no room in line");
    drop(full);
}

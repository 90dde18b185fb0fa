//! One client at a time, between edits, probes and ends of connections: the table does exactly what the model
//! does.

use std::time::Duration;

use balance::sched::{DialCause, DialFailure, Lease, NoChannel, Rules, Transition};

use super::model::Model;
use super::world::{World, some_rules};
use super::{Random, for_seeds, key, place, some_client};

const STEPS: usize = 250;

#[test]
fn every_sequential_history_is_the_contracts() {
    for_seeds("sequential", |random| {
        let (rules, classic) = some_rules(random);
        let world = World::new((rules, classic), true, random);
        history(random, world);
    });
}

#[test]
fn every_sequential_history_is_3_57s_without_the_new_rules() {
    for_seeds("classic", |random| {
        let rules = Rules {
            hash_failover: random.one_in(2),
            autodisable: random.one_in(3),
            shards: 1 + random.below(3),
            ..Rules::CLASSIC
        };
        let world = World::new((rules, true), true, random);
        history(random, world);
    });
}

fn history(random: &mut Random, mut world: World) {
    let mut live = Vec::new();
    // Some groups are so large that hashing works from memory.
    let large = if random.one_in(8) { 40 } else { 0 };
    (0..large).for_each(|_| drop(world.create(random, 0)));
    for step in 0..STEPS {
        let what = match random.below(24) {
            0..=6 => world.edit(random),
            7..=9 if !live.is_empty() => world.end(live.swap_remove(random.below(live.len()))),
            10 => world.move_bytes(random, &live),
            11..=16 => world.live_on(random),
            _ => connect(&mut world, random, &mut live),
        };
        world.compare(&format!("step {step}: {what}"));
    }
    live.clear();
    assert_eq!(world.table.active(), 0, "every slot ended with its connection");
}

/// A walk from the accept to the answer of a channel, alone in the world.
fn connect(world: &mut World, random: &mut Random, live: &mut Vec<Lease>) -> String {
    let client = some_client(random);
    let fails = [0, 2, 5, 10][random.below(4)];
    let (mut route, mut walk) = (world.table.begin(client), Model::begin(client));
    let mut visited = Vec::new();
    let end = loop {
        let allowed = world.model.step(&mut walk, false);
        let lease = match (world.table.next(&mut route), allowed) {
            (Ok(lease), Ok(allowed)) if allowed.contains(&place(lease.key())) => lease,
            (Err(reason), Err(expected)) if reason == expected => {
                assert_eq!(world.table.next(&mut route).err(), Some(reason), "the end stays the end");
                break Err(reason);
            }
            (real, expected) => {
                panic!("{client:?} after {visited:?} got {real:?}, the model says {expected:?}: {walk:?}")
            }
        };
        let at = place(lease.key());
        visited.push(at);
        let handed = world.model.hand_out(&mut walk, at);
        let transition = |what, address| Transition { channel: key(at.0, at.1), address, what };
        let address = lease.addresses().first();
        if random.below(10) >= fails {
            let told = world.table.connected(route, &lease, Duration::ZERO);
            assert_eq!(told, world.model.connected(&handed).map(|what| transition(what, address)));
            live.push(lease);
            break Ok::<_, NoChannel>(at);
        }
        let why = if random.one_in(5) { DialFailure::Local } else { DialFailure::Channel };
        let told = world.table.failed(lease, why, DialCause::Refused, "refused");
        let expected = world.model.failed(&handed, why, "refused");
        assert_eq!(told, expected.map(|what| transition(what, address)));
    };
    format!("connect {client:?}: {visited:?}, {end:?}")
}

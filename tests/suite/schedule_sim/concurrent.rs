//! Several walks at once, their steps interleaved with edits, probes and ends: what must always be true.

use std::time::Duration;

use balance::sched::{AdminState, Rules, Table};

use super::crowd::Crowd;
use super::world::{World, some_rules};
use super::{Random, for_seeds, group_id, place, promises, some_addresses, some_client};

const STEPS: usize = 400;

#[test]
fn interleaved_walks_keep_every_promise() {
    for_seeds("concurrent", |random| {
        let (rules, classic) = some_rules(random);
        let world = World::new((rules, classic), false, random);
        history(random, world);
    });
}

#[test]
fn interleaved_walks_keep_the_promises_of_3_57_without_the_new_rules() {
    for_seeds("classic concurrent", |random| {
        let rules =
            Rules { hash_failover: random.one_in(2), autodisable: random.one_in(4), ..Rules::CLASSIC };
        let world = World::new((rules, true), false, random);
        history(random, world);
    });
}

fn history(random: &mut Random, world: World) {
    let mut crowd = Crowd::new(world);
    for _ in 0..6 {
        let g = random.below(3);
        crowd.world.create(random, g);
    }
    for step in 0..STEPS {
        match random.below(18) {
            0 | 1 => drop(crowd.world.edit(random)),
            2 | 16 | 17 => drop(crowd.world.live_on(random)),
            3..=5 => crowd.hang_up(random),
            6 => crowd.give_up(random),
            7..=9 => crowd.arrive(random),
            _ => crowd.dial_ends(random),
        }
        // Every lease and every counter, but not at every step: a loss stays a loss.
        if step % 4 == 0 {
            crowd.compare(&format!("step {step}"));
        }
    }
    crowd.go_home(random);
    let rules = crowd.world.model.rules;
    promises::every_slot_can_be_had_again(&mut crowd.world.table, &rules);
}

#[test]
fn round_robin_is_exact_however_connects_overlap() {
    for_seeds("exact", |random| {
        let mut table = Table::new(Rules::CLASSIC);
        let channels = 1 + random.below(130);
        for _ in 0..channels {
            let created =
                table.create(group_id(0), some_addresses(random), None, AdminState::Enabled).map(drop);
            created.expect("few channels");
        }
        let (mut dialling, mut live) = (Vec::new(), Vec::new());
        for turn in 0..3 * channels + 7 {
            let mut route = table.begin(some_client(random));
            let lease = table.next(&mut route).expect("nothing is full or disabled");
            assert_eq!(place(lease.key()), (0, turn % channels), "turn {turn}");
            dialling.push((route, lease));
            while !dialling.is_empty() && random.one_in(2) {
                let (route, lease) = dialling.swap_remove(random.below(dialling.len()));
                table.connected(route, &lease, Duration::ZERO);
                live.push(lease);
            }
            while !live.is_empty() && random.one_in(2) {
                let ended = random.below(live.len());
                drop(live.swap_remove(ended));
            }
        }
    });
}

//! Clients who wait: places, grants, leavers, between all else that happens.

use std::num::NonZeroU32;
use std::time::Duration;

use balance::sched::{Addresses, AdminState, Lease, NoChannel, Policy, Rules, Table, Ticket, Turn};

use super::crowd::Crowd;
use super::world::{World, some_rules};
use super::{Random, for_seeds, group_id, key, place, some_client};

const STEPS: usize = 300;

#[test]
fn every_history_of_a_line_is_the_models() {
    for_seeds("line", |random| {
        let (rules, classic) = some_rules(random);
        let rules = Rules { queue: NonZeroU32::new(1 + random.below(6) as u32), ..rules };
        let mut crowd = Crowd::new(World::new((rules, classic), false));
        for _ in 0..5 {
            let g = random.below(3);
            crowd.world.create(random, g);
        }
        for step in 0..STEPS {
            match random.below(20) {
                0 => drop(crowd.world.edit(random)),
                1 => drop(crowd.world.live_on(random)),
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

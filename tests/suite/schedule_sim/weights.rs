//! Turns by weight: exact over every full undisturbed round, whatever happened before.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use balance::sched::{AdminState, DialCause, DialFailure, HealthRules, Lease, Policy, Rules, Table, Weight};

use super::{Random, for_seeds, group_id, key, some_addresses, some_client};

/// A group 0 with channels of these weights.
fn table(rules: Rules, weights: &[u32], random: &mut Random) -> Table {
    let mut table = Table::new(rules);
    for (c, &weight) in weights.iter().enumerate() {
        let created = table.create(group_id(0), some_addresses(random), None, AdminState::Enabled);
        assert_eq!(created.expect("few channels").index(), c);
        table.set_weight(key(0, c), Weight::new(weight).expect("a legal one")).expect("it exists");
    }
    table
}

/// A client that connects; the channel's number.
fn pick(table: &mut Table, random: &mut Random) -> (usize, Lease) {
    let mut route = table.begin(some_client(random));
    let lease = table.next(&mut route).expect("nothing is full");
    table.connected(route, &lease, Duration::ZERO);
    (lease.key().channel.index(), lease)
}

/// Weights of which some are equal, some 0, and not all the same.
fn some_weights(random: &mut Random) -> Vec<u32> {
    loop {
        let count = 2 + random.below(6);
        let most = [3, 5, 30][random.below(3)];
        let weights: Vec<u32> = (0..count).map(|_| random.below(most + 1) as u32).collect();
        if weights.iter().any(|&weight| weight > 0) {
            return weights;
        }
    }
}

/// Picks for three rounds: any round that begins anywhere in the first two is exact.
fn assert_exact(picks: &[usize], weights: &[u32], what: &str) {
    let round = weights.iter().sum::<u32>() as usize;
    for (from, window) in picks.windows(round).enumerate() {
        let mut counts = vec![0; weights.len()];
        window.iter().for_each(|&c| counts[c] += 1);
        assert_eq!(counts, weights, "{what}: the round from {from} on of {picks:?}");
    }
}

#[test]
fn three_to_one_is_a_a_b_a() {
    let mut random = Random(1);
    let mut table = table(Rules::CLASSIC, &[3, 1], &mut random);
    let picks: Vec<usize> = (0..8).map(|_| pick(&mut table, &mut random).0).collect();
    assert_eq!(picks, [0, 0, 1, 0, 0, 0, 1, 0]);
}

#[test]
fn every_round_is_exact_however_connects_overlap() {
    for_seeds("weighted", |random| {
        let weights = some_weights(random);
        let mut table = table(Rules::CLASSIC, &weights, random);
        let (mut dialling, mut live, mut picks) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 * weights.iter().sum::<u32>() {
            let mut route = table.begin(some_client(random));
            let lease = table.next(&mut route).expect("nothing is full or disabled");
            picks.push(lease.key().channel.index());
            dialling.push((route, lease));
            while !dialling.is_empty() && random.one_in(2) {
                let (route, lease) = dialling.swap_remove(random.below(dialling.len()));
                table.connected(route, &lease, Duration::ZERO);
                live.push(lease);
            }
            while !live.is_empty() && random.one_in(2) {
                drop(live.swap_remove(random.below(live.len())));
            }
        }
        assert_exact(&picks, &weights, "overlapping");
    });
}

#[test]
fn turns_are_smooth() {
    for_seeds("smooth", |random| {
        let weights = some_weights(random);
        let mut table = table(Rules::CLASSIC, &weights, random);
        let round: u32 = weights.iter().sum();
        let mut counts = vec![0; weights.len()];
        for turn in 1..=round {
            counts[pick(&mut table, random).0] += 1;
            for (c, &weight) in weights.iter().enumerate() {
                let fair = f64::from(turn) * f64::from(weight) / f64::from(round);
                let off: f64 = f64::from(counts[c]) - fair;
                let bound = 1.0 + weights.len() as f64 / 2.0;
                assert!(off.abs() < bound, "channel {c} of {weights:?} is off by {off} at turn {turn}");
            }
        }
    });
}

#[test]
fn what_happened_before_gives_nobody_more_in_quiet_rounds() {
    for_seeds("disturbed", |random| {
        let rules = Rules {
            health: HealthRules { eject: random.one_in(2), ..HealthRules::NONE },
            policy: Policy::RoundRobin,
            ..Rules::CLASSIC
        };
        let mut weights = some_weights(random);
        let mut table = table(rules, &weights, random);
        for _ in 0..4 {
            disturb(&mut table, &mut weights, random);
            let round: u32 = weights.iter().sum();
            let picks: Vec<usize> = (0..3 * round).map(|_| pick(&mut table, random).0).collect();
            let shares: std::collections::BTreeSet<_> = weights.iter().filter(|&&w| w > 0).collect();
            if shares.len() > 1 {
                assert_exact(&picks, &weights, "after a storm");
            }
        }
    });
}

/// A storm: limits, failures, other policies and weights; afterwards everything is enabled, up and without a limit.
fn disturb(table: &mut Table, weights: &mut [u32], random: &mut Random) {
    let mut live = Vec::new();
    for _ in 0..random.below(120) {
        let c = random.below(weights.len());
        match random.below(12) {
            0 => drop(table.set_state(key(0, c), AdminState::Disabled)),
            1 => drop(table.set_state(key(0, c), AdminState::Enabled)),
            2 => table.set_maxc(key(0, c), NonZeroU32::new(random.below(4) as u32)).expect("it exists"),
            3 => {
                weights[c] = random.below(6) as u32;
                let weight = Weight::new(weights[c]).expect("a legal one");
                table.set_weight(key(0, c), weight).expect("it exists");
            }
            4 => {
                let policies = [Policy::RoundRobin, Policy::LeastConnections, Policy::First];
                table.set_policy(group_id(0), policies[random.below(3)]);
            }
            5 | 6 if !live.is_empty() => drop(live.swap_remove(random.below(live.len()))),
            _ => {
                let mut route = table.begin(some_client(random));
                // One channel that is broken most of the time, and others that fail now and then.
                while let Ok(lease) = table.next(&mut route) {
                    if lease.key().channel.index() != 0 && !random.one_in(5) {
                        table.connected(route, &lease, Duration::ZERO);
                        live.push(lease);
                        break;
                    }
                    let local = random.one_in(3);
                    let why = if local { DialFailure::Local } else { DialFailure::Channel };
                    table.failed(lease, why, DialCause::Refused, "refused");
                }
            }
        }
    }
    if weights.iter().all(|&weight| weight == 0) {
        weights[0] = 2;
        table.set_weight(key(0, 0), Weight::new(2).expect("a legal one")).expect("it exists");
    }
    table.set_policy(group_id(0), Policy::RoundRobin);
    for c in 0..weights.len() {
        table.set_state(key(0, c), AdminState::Enabled).expect("it exists");
        table.set_maxc(key(0, c), None).expect("it exists");
        // Reassigned, nothing is held against it.
        table.set_state(key(0, c), AdminState::Disabled).expect("it exists");
        table.assign(key(0, c), some_addresses(random)).expect("it is disabled");
        table.set_state(key(0, c), AdminState::Enabled).expect("it exists");
    }
}

#[test]
fn a_returning_channels_share_grows_from_a_64th_to_all() {
    for weight in [1, 2, 7] {
        let slow_start = Some(Duration::from_secs(64));
        let health = HealthRules { slow_start, ..HealthRules::NONE };
        let mut random = Random(u64::from(weight));
        let mut table = table(Rules { health, ..Rules::CLASSIC }, &[1, weight], &mut random);
        table.set_state(key(0, 1), AdminState::Disabled).expect("it exists");
        let enabled_at = Duration::from_secs(1_000);
        table.advance(enabled_at);
        table.set_state(key(0, 1), AdminState::Enabled).expect("it exists");
        for seconds in [0, 1, 2, 5, 13, 32, 48, 63, 64, 100] {
            table.advance(enabled_at + Duration::from_secs(seconds));
            let steps = (seconds as u32).clamp(1, 64);
            // Whatever is left of a round that began with another share.
            let round = 64 + weight * steps;
            (0..round).for_each(|_| drop(pick(&mut table, &mut random)));
            let mut counts = BTreeMap::new();
            (0..round).for_each(|_| *counts.entry(pick(&mut table, &mut random).0).or_insert(0) += 1);
            let shares = BTreeMap::from([(0, 64), (1, weight * steps)]);
            if weight == 1 && steps == 64 {
                assert_eq!(counts, BTreeMap::from([(0, 64), (1, 64)]));
            } else {
                assert_eq!(counts, shares, "weight {weight} after {seconds} s");
            }
        }
    }
}

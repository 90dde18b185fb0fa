//! leastconn, p2c, first, hashing by weight and with bounded loads: what each promises to a site.

use std::num::NonZeroU32;
use std::time::Duration;

use balance::sched::{AdminState, Lease, Policy, Rules, Table, Weight};

use super::{Random, for_seeds, group_id, key, some_client};

/// A group 0 with channels of these weights.
fn table(rules: Rules, weights: &[u32]) -> Table {
    let mut table = Table::new(rules);
    for (c, &weight) in weights.iter().enumerate() {
        let address = std::net::SocketAddr::from(([10, 2, 0, c as u8], 80));
        let created = table.create(group_id(0), address.into(), None, AdminState::Enabled);
        assert_eq!(created.expect("few channels").index(), c);
        table.set_weight(key(0, c), Weight::new(weight).expect("a legal one")).expect("it exists");
    }
    table
}

fn rules(policy: Policy) -> Rules {
    Rules { policy, seed: 7, ..Rules::CLASSIC }
}

/// A client that connects; the channel's number.
fn pick(table: &mut Table, random: &mut Random) -> (usize, Lease) {
    let client = std::net::IpAddr::from((random.next() as u32).to_be_bytes());
    let mut route = table.begin(client.into());
    let lease = table.next(&mut route).expect("something has room");
    table.connected(route, &lease, Duration::ZERO);
    (lease.key().channel.index(), lease)
}

fn active(table: &mut Table) -> Vec<u32> {
    table.snapshot().groups[0].channels.iter().map(|channel| channel.active).collect()
}

#[test]
fn leastconn_keeps_connections_in_proportion() {
    for_seeds("leastconn", |random| {
        let weights: Vec<u32> = (0..1 + random.below(8)).map(|_| 1 + random.below(9) as u32).collect();
        let mut table = table(rules(Policy::LeastConnections), &weights);
        let mut live = Vec::new();
        for _ in 0..150 {
            if random.one_in(3) && !live.is_empty() {
                drop(live.swap_remove(random.below(live.len())));
            }
            let before = active(&mut table);
            let (c, lease) = pick(&mut table, random);
            live.push(lease);
            for (other, &connections) in before.iter().enumerate() {
                let is_more = before[c] * weights[other] > connections * weights[c];
                assert!(!is_more, "{c} of {before:?}, weights {weights:?}, and not {other}");
            }
        }
    });
}

#[test]
fn idle_channels_of_leastconn_take_turns() {
    let mut random = Random(2);
    let mut table = table(rules(Policy::LeastConnections), &[1, 5, 1]);
    let picks: Vec<usize> = (0..6).map(|_| pick(&mut table, &mut random).0).collect();
    assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn first_fills_channels_in_order_of_their_numbers() {
    for_seeds("first", |random| {
        let limits: Vec<u32> = (0..1 + random.below(5)).map(|_| 1 + random.below(4) as u32).collect();
        let mut table = table(rules(Policy::First), &vec![3; limits.len()]);
        for (c, &maxc) in limits.iter().enumerate() {
            table.set_maxc(key(0, c), NonZeroU32::new(maxc)).expect("it exists");
        }
        let mut live: Vec<Lease> = Vec::new();
        for _ in 0..100 {
            let expected = active(&mut table).iter().zip(&limits).position(|(active, maxc)| active < maxc);
            let mut route = table.begin(some_client(random));
            let found = table.next(&mut route).ok();
            assert_eq!(found.as_ref().map(|lease| lease.key().channel.index()), expected);
            live.extend(found);
            if random.one_in(2) && !live.is_empty() {
                drop(live.swap_remove(random.below(live.len())));
            }
        }
    });
}

#[test]
fn two_choices_give_equal_channels_equal_shares() {
    for size in [2, 3, 10, 40] {
        let mut random = Random(size as u64);
        let mut table = table(rules(Policy::TwoChoices), &vec![1; size]);
        let mut counts = vec![0_u32; size];
        let clients = 20_000;
        (0..clients).for_each(|_| counts[pick(&mut table, &mut random).0] += 1);
        let expected = f64::from(clients) / size as f64;
        let square: f64 = counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
        let freedom = (size - 1) as f64;
        let bound = freedom + 5.0 * (2.0 * freedom).sqrt() + 5.0;
        assert!(square < bound, "{size} channels: chi-square {square:.1}, bound {bound:.1}");
    }
}

#[test]
fn two_choices_keep_loads_even_and_in_proportion_where_chance_does_not() {
    let mut random = Random(3);
    let weights: Vec<u32> = (0..60).map(|c| 1 + c % 4).collect();
    let total: u32 = weights.iter().sum();
    let mut table = table(rules(Policy::TwoChoices), &weights);
    let mut live: Vec<Lease> = Vec::new();
    let mut by_chance = vec![0_u32; weights.len()];
    for client in 0..12_000 {
        live.push(pick(&mut table, &mut random).1);
        if client < 3_000 {
            by_chance[random.below(weights.len())] += 1;
        } else {
            // They come and go, whoever it is.
            drop(live.swap_remove(random.below(live.len())));
        }
    }
    let fair = 3_000.0 / f64::from(total);
    let worst = |active: &[u32], weights: &[u32]| {
        let loads =
            active.iter().zip(weights).map(|(&active, &weight)| f64::from(active) / f64::from(weight));
        loads.fold(0.0, f64::max)
    };
    let found = active(&mut table);
    for (c, (&active, &weight)) in found.iter().zip(&weights).enumerate() {
        let off = f64::from(active) - fair * f64::from(weight);
        assert!(off.abs() <= 0.25 * fair * f64::from(weight) + 4.0, "channel {c}: {active}, off by {off:.1}");
    }
    let [worst, chance] = [worst(&found, &weights) / fair, worst(&by_chance, &[1; 60]) / 50.0];
    assert!(
        worst < 1.3 && (worst - 1.0) * 1.3 < chance - 1.0,
        "the worst load {worst:.2}, {chance:.2} by chance"
    );
}

#[test]
fn two_choices_are_the_same_for_the_same_seed_and_others_for_another() {
    let picks = |seed| {
        let mut table = table(Rules { seed, ..rules(Policy::TwoChoices) }, &[1; 9]);
        (0..200).map(|_| pick(&mut table, &mut Random(1)).0).collect::<Vec<_>>()
    };
    assert_eq!(picks(5), picks(5));
    assert_ne!(picks(5), picks(6));
}

#[test]
fn hashing_goes_by_weight_and_another_weight_moves_only_whom_it_must() {
    for weights in [&[1, 2, 4][..], &[256, 1, 100, 0], &[3; 40]] {
        let mut table = table(rules(Policy::Hash), weights);
        let mut homes = || -> Vec<usize> {
            let mut random = Random(4);
            (0..20_000).map(|_| pick(&mut table, &mut random).0).collect()
        };
        let before = homes();
        let total: u32 = weights.iter().sum();
        for (c, &weight) in weights.iter().enumerate() {
            let expected = 20_000.0 * f64::from(weight) / f64::from(total);
            let count = before.iter().filter(|&&home| home == c).count() as f64;
            let bound = 6.0 * expected.sqrt() + 0.03 * expected;
            assert!((count - expected).abs() <= bound, "{c} of {weights:?}: {count}, expected {expected:.0}");
        }
        assert_eq!(before, homes(), "they stay");
        table.set_weight(key(0, 0), Weight::new(6).expect("a legal one")).expect("it exists");
        let grows = weights[0] < 6;
        let mut random = Random(4);
        for home in before {
            let after = pick(&mut table, &mut random).0;
            let may_move = if grows { after == 0 } else { home == 0 };
            assert!(after == home || may_move, "{weights:?}: from {home} to {after}");
        }
    }
}

#[test]
fn bounded_hashing_lets_nobody_be_overrun() {
    for_seeds("bounded", |random| {
        let balance = 1_000 + random.below(600) as u32;
        let weights: Vec<u32> = (0..2 + random.below(7)).map(|_| 1 + random.below(4) as u32).collect();
        let total: u32 = weights.iter().sum();
        let hash_failover = random.one_in(2);
        let rules = Rules { hash_balance: NonZeroU32::new(balance), hash_failover, ..rules(Policy::Hash) };
        let mut table = table(rules, &weights);
        // A few clients from few addresses: without bounds nearly all would be on one or two channels.
        let clients = [some_client(random), some_client(random)];
        let homes = clients.map(|client| {
            let mut route = table.begin(client);
            table.next(&mut route).expect("all are idle").key().channel.index()
        });
        let mut live: Vec<Lease> = Vec::new();
        for _ in 0..200 {
            let before = active(&mut table);
            let who = random.below(2);
            let mut route = table.begin(clients[who]);
            let lease = table.next(&mut route).expect("nothing is full");
            table.connected(route, &lease, Duration::ZERO);
            let c = lease.key().channel.index();
            // ceil(balance/1000 * (clients + 1) * weight / weights)
            let bound = |c: usize| {
                let share = u64::from(balance) * (live.len() as u64 + 1) * u64::from(weights[c]);
                share.div_ceil(1_000 * u64::from(total)) as u32
            };
            assert!(before[c] < bound(c), "{c} of {before:?} had its share: {weights:?}, {balance}");
            let home = homes[who];
            assert!(c == home || before[home] >= bound(home), "{home} had room in {before:?}");
            live.push(lease);
            while random.one_in(3) && !live.is_empty() {
                drop(live.swap_remove(random.below(live.len())));
            }
        }
    });
}

//! When channels are ejected, probed and brought back; and that health and the operator's state do not affect
//! each other.

use std::time::Duration;

use balance::sched::{
    AdminState, CheckRules, DialCause, DialFailure, Happened, HealthRules, HealthState, Lease, Probe,
    ProbeResult, Purpose, Route, Rules, Table, Weight,
};

use super::{Random, for_seeds, group_id, key, some_addresses, some_client};

const MS: fn(u64) -> Duration = Duration::from_millis;
const EJECT: HealthRules = HealthRules { eject: true, ..HealthRules::NONE };

fn table(health: HealthRules, channels: usize, random: &mut Random) -> Table {
    let mut table = Table::new(Rules { health, seed: random.next(), ..Rules::CLASSIC });
    for _ in 0..channels {
        let created = table.create(group_id(0), some_addresses(random), None, AdminState::Enabled);
        created.expect("few channels");
    }
    table
}

/// A dial that begins: the only channel's, or some channel's.
fn dial(table: &mut Table, random: &mut Random) -> (Route, Lease) {
    let mut route = table.begin(some_client(random));
    let lease = table.next(&mut route).expect("a channel, up or not");
    (route, lease)
}

fn fail(table: &mut Table, lease: Lease) -> Option<Happened> {
    table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused").map(|transition| transition.what)
}

fn state(table: &Table, channel: usize) -> HealthState {
    table.channel(key(0, channel)).expect("it exists").health.state
}

/// Time goes on until the next probe; that probe, and how long it took.
fn next_probe(table: &mut Table, now: &mut Duration) -> (Probe, Duration) {
    let at = table.next_probe().expect("a probe is wanted");
    let waited = at - *now;
    table.advance(at - Duration::from_nanos(1));
    assert!(table.probes_due(9).is_empty(), "too early");
    table.advance(at);
    let mut due = table.probes_due(9);
    assert!(table.probes_due(9).is_empty() && table.next_probe().is_none(), "one at a time");
    *now = at;
    assert_eq!(due.len(), 1);
    (due.remove(0), waited)
}

fn assert_about(waited: Duration, millis: u64) {
    let (least, most) = (MS(millis) * 9 / 10, MS(millis) * 11 / 10);
    assert!(waited >= least && waited <= most, "{waited:?}, not about {millis} ms");
}

#[test]
fn delays_double_to_two_seconds_and_begin_anew_after_a_good_while() {
    for_seeds("delays", |random| {
        let mut table = table(EJECT, 1, random);
        let (mut now, mut delay, mut back) = (Duration::ZERO, 250, None);
        for _ in 0..12 {
            let (_, lease) = dial(&mut table, random);
            // About as long as would have been enough.
            now += MS(random.below(3 * delay as usize) as u64);
            table.advance(now);
            assert_eq!(fail(&mut table, lease), Some(Happened::Ejected("refused".into())));
            let ejected_at = now;
            delay = match back {
                Some(at) if now - at < 2 * MS(delay) => (2 * delay).min(2_000),
                _ => 250,
            };
            loop {
                let (probe, waited) = next_probe(&mut table, &mut now);
                assert_about(waited, delay);
                assert_eq!((probe.purpose, probe.channel), (Purpose::Return, key(0, 0)));
                let result = match random.below(4) {
                    0 => ProbeResult::Unknown,
                    1 | 2 => ProbeResult::Bad("still".into()),
                    _ => ProbeResult::Good,
                };
                if result == ProbeResult::Good {
                    let told = table.probed(&probe, result).map(|transition| transition.what);
                    assert_eq!(told, Some(Happened::Returned(now - ejected_at)));
                    break;
                }
                let doubles = matches!(result, ProbeResult::Bad(_));
                assert_eq!(table.probed(&probe, result), None);
                assert_eq!(state(&table, 0), HealthState::Ejected);
                delay = if doubles { (2 * delay).min(2_000) } else { delay };
            }
            assert_eq!((state(&table, 0), table.next_probe()), (HealthState::Up, None));
            back = Some(now);
        }
    });
}

#[test]
fn only_a_dial_of_the_channel_as_it_is_now_ejects_it() {
    let mut random = Random(1);
    let mut table = table(EJECT, 1, &mut random);
    let (_, ours) = dial(&mut table, &mut random);
    assert_eq!(table.failed(ours, DialFailure::Local, DialCause::NoPort, "no port"), None, "our own fault");
    let (_, old) = dial(&mut table, &mut random);
    let (_, older) = dial(&mut table, &mut random);
    let (_, refused) = dial(&mut table, &mut random);
    assert!(fail(&mut table, refused).is_some());
    // Failed open, and a client gets through.
    let (route, through) = dial(&mut table, &mut random);
    let told = table.connected(route, &through, Duration::ZERO).map(|transition| transition.what);
    assert_eq!(told, Some(Happened::Returned(Duration::ZERO)));
    assert_eq!(fail(&mut table, old), None, "it began before the return");
    assert_eq!(state(&table, 0), HealthState::Up);
    table.set_state(key(0, 0), AdminState::Disabled).expect("it exists");
    let same = older.addresses().clone();
    table.assign(key(0, 0), same).expect("it is disabled");
    assert_eq!(fail(&mut table, older), None, "it began before the addresses were given anew");
    table.set_state(key(0, 0), AdminState::Enabled).expect("it exists");
    let (_, new) = dial(&mut table, &mut random);
    assert_eq!(fail(&mut table, new), Some(Happened::Ejected("refused".into())));
}

#[test]
fn checks_are_an_interval_apart_and_never_two_at_a_time() {
    for_seeds("checks", |random| {
        let interval = 10 + random.below(5_000) as u64;
        let (rise, fall) = (1 + random.below(4) as u32, 1 + random.below(4) as u32);
        let check = CheckRules { interval: MS(interval), rise, fall };
        let mut table = table(HealthRules { check: Some(check), ..HealthRules::NONE }, 1, random);
        let (mut now, mut is_up, mut row) = (Duration::ZERO, true, 0);
        for nth in 0..40 {
            let (probe, waited) = next_probe(&mut table, &mut now);
            assert_eq!(probe.purpose, Purpose::Check);
            if nth == 0 {
                assert!(waited <= MS(interval.min(250)), "the first one soon: {waited:?}");
                assert_eq!(state(&table, 0), HealthState::Untried);
            } else {
                assert_about(waited, interval);
            }
            // The answer takes time, and the next one is an interval after it.
            now += MS(random.below(100) as u64);
            table.advance(now);
            if nth > 0 && random.one_in(4) {
                assert_eq!(table.probed(&probe, ProbeResult::Unknown), None, "it says nothing");
                continue;
            }
            let good = random.one_in(2);
            let result = if good { ProbeResult::Good } else { ProbeResult::Bad("no".into()) };
            row = if good == is_up { 0 } else { row + 1 };
            let turns = nth == 0 && !good || row == if is_up { fall } else { rise };
            if turns {
                (is_up, row) = (!is_up, 0);
            }
            let told = table.probed(&probe, result).map(|transition| transition.what);
            let expected = if turns { Some(is_up) } else { None };
            assert_eq!(told.map(|what| matches!(what, Happened::Up(_))), expected, "{nth}");
            assert_eq!(state(&table, 0), if is_up { HealthState::Up } else { HealthState::Down });
        }
    });
}

/// Two tables meet the same failures and probes; in one of them the operator turns all that can be turned.
#[test]
fn the_operator_and_health_never_change_each_other() {
    for_seeds("independent", |random| {
        let check = CheckRules { interval: MS(400), rise: 2, fall: 2 };
        let health = HealthRules { eject: true, check: Some(check), ..HealthRules::NONE };
        let seed = random.next();
        let mut tables = [(); 2].map(|()| table(health, 3, &mut Random(seed)));
        // Dials begun at first, so that both tables have the same ones.
        let mut dials: [Vec<_>; 2] =
            tables.each_mut().map(|table| (0..60).map(|_| dial(table, &mut Random(1))).collect());
        let (mut probes, mut now) = (Vec::new(), Duration::ZERO);
        for _ in 0..120 {
            now += MS(random.below(120) as u64);
            tables.iter_mut().for_each(|table| table.advance(now));
            match random.below(6) {
                0 if !dials[0].is_empty() => {
                    let connects = random.one_in(3);
                    let nth = random.below(dials[0].len());
                    for (table, dials) in tables.iter_mut().zip(&mut dials) {
                        let (route, lease) = dials.swap_remove(nth);
                        if connects {
                            drop(table.connected(route, &lease, Duration::ZERO));
                        } else {
                            fail(table, lease);
                        }
                    }
                }
                1 | 2 => probes.extend(tables[0].probes_due(9).into_iter().zip(tables[1].probes_due(9))),
                3 if !probes.is_empty() => {
                    let (one, other) = probes.swap_remove(random.below(probes.len()));
                    assert_eq!((one.channel, one.purpose), (other.channel, other.purpose));
                    let good = random.one_in(2);
                    let result = if good { ProbeResult::Good } else { ProbeResult::Bad("no".into()) };
                    let told = [tables[0].probed(&one, result.clone()), tables[1].probed(&other, result)];
                    assert_eq!(told[0], told[1]);
                }
                _ => turn(&mut tables[1], random),
            }
            for c in 0..3 {
                let [plain, turned] = [0, 1].map(|t| tables[t].channel(key(0, c)).expect("it exists"));
                assert_eq!(plain.health, turned.health, "the operator changed the health of {c}");
                let untouched = (plain.state, plain.weight, plain.maxc);
                let expected = (AdminState::Enabled, Weight::ONE, None);
                assert_eq!(untouched, expected, "health changed what the operator said of {c}");
            }
            assert_eq!(tables[0].next_probe(), tables[1].next_probe());
        }
    });
}

fn turn(table: &mut Table, random: &mut Random) {
    let at = key(0, random.below(3));
    match random.below(3) {
        0 => {
            let states = [AdminState::Enabled, AdminState::Disabled, AdminState::DisabledHard];
            table.set_state(at, states[random.below(3)]).map(drop)
        }
        1 => table.set_weight(at, Weight::new(random.below(4) as u32).expect("a legal one")),
        _ => table.set_maxc(at, std::num::NonZeroU32::new(random.below(3) as u32)),
    }
    .expect("it exists");
}

#[test]
fn what_was_ejected_together_does_not_come_back_in_step() {
    let mut random = Random(9);
    let mut table = table(EJECT, 40, &mut random);
    let leases: Vec<Lease> = (0..40).map(|_| dial(&mut table, &mut random).1).collect();
    leases.into_iter().for_each(|lease| drop(fail(&mut table, lease)));
    let mut times = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let at = table.next_probe().expect("one for each");
        table.advance(at);
        assert_eq!(table.probes_due(1).len(), 1);
        times.insert(at.as_micros() / 100);
    }
    assert_eq!(table.next_probe(), None);
    assert!(times.len() > 30, "40 probes at {} different times", times.len());
}

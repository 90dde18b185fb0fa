//! A simulator of the relay: the decisions that move customers' bytes, run against a virtual kernel and two
//! virtual peers.
//!
//! Every connection meets its own conditions (partial writes, full buffers, interruptions, zero windows,
//! short splices, ends and resets at any byte, urgent bytes, deadlines, events in the middle of a turn), all
//! from one seed. After every step: delivered bytes are a prefix of the sent ones; an end comes only after
//! all the data, otherwise an error; held bytes stay within limits; every wake-up makes progress or sleeps,
//! and sleeps only with nothing to do; everything is released exactly once. At the end both programs finish,
//! and so must the connection.
//!
//! `BALANCE_SEED=n` replays one seed; `BALANCE_SEEDS=n` and `BALANCE_STEPS=n` run more seeds and longer ones.

mod driver;
mod faulty;
mod kernel;
mod oracle;
mod peer;
pub(crate) mod random;
mod world;

use std::fmt::{self, Display, Formatter};

use driver::Driver;
use faulty::{BUGS, Bug};
use oracle::{Kind, Stats, Violation};
use random::mix;
use world::World;

/// In the test command.
const SEEDS: u64 = 256;
const STEPS: u64 = 3000;
/// Seeds in which a planted bug must show.
const SEEDS_PER_BUG: u64 = 64;

/// A seed that broke a promise.
#[derive(Debug)]
struct Failure {
    seed: u64,
    connection: u64,
    violation: Violation,
    trace: Vec<String>,
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { seed, connection, violation: Violation { kind, what }, trace } = self;
        writeln!(f, "{kind:?}: {what}\nBALANCE_SEED={seed} replays it; connection {connection} ends so:")?;
        trace.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// One connection of a seed; the steps it took.
fn run_connection(seed: u64, connection: u64, most: u64, bug: Bug, tracing: bool) -> (World, u64) {
    let mut world = World::new(mix(seed) ^ mix(connection ^ 0x5eed), tracing);
    let mut driver = Driver::new(&mut world, bug);
    let dialing = world.random.below(20);
    let length = most.min(20 + world.random.magnitude(11));
    let mut steps = 0;
    while steps < length && !driver.done && world.violation.is_none() {
        steps += 1;
        for _ in 0..world.random.up_to(4) {
            world.act();
        }
        world.now += world.random.below(4);
        if world.random.chance(2) {
            world.now += world.random.below(6000);
        }
        if steps > dialing && !world.connected {
            driver.connect(&mut world);
        } else if world.connected && !driver.done && world.random.chance(15) {
            driver.carry(&mut world);
        } else if world.random.chance(700) {
            driver.round(&mut world);
        }
    }
    if !world.connected {
        driver.connect(&mut world);
    }
    driver.wind_down(&mut world);
    world.stats.connections = 1;
    world.stats.bytes = world.sockets.iter().map(|socket| socket.written).sum();
    (world, steps.max(1))
}

/// One seed: connections one after the other until the steps are used up.
fn run(seed: u64, steps: u64, bug: Bug) -> Result<Stats, Box<Failure>> {
    let mut stats = Stats::default();
    let mut left = steps;
    let mut connection = 0;
    while left > 0 {
        let (world, used) = run_connection(seed, connection, left, bug, false);
        if let Some(violation) = world.violation {
            // The same again, this time written down.
            let trace = run_connection(seed, connection, left, bug, true).0.take_trace();
            return Err(Box::new(Failure { seed, connection, violation, trace }));
        }
        stats.add(world.stats);
        left -= used.min(left);
        connection += 1;
    }
    Ok(stats)
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

#[test]
fn a_relay_keeps_its_promises_whatever_peers_and_kernel_do() {
    let steps = from_environment("BALANCE_STEPS").unwrap_or(STEPS);
    let seeds = match from_environment("BALANCE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("BALANCE_SEEDS").unwrap_or(SEEDS),
    };
    let whole = seeds.end - seeds.start >= SEEDS && steps >= STEPS;
    let mut stats = Stats::default();
    for seed in seeds {
        match run(seed, steps, Bug::None) {
            Ok(more) => stats.add(more),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{stats:?}");
    if whole {
        // A simulator that never gets into these states would prove nothing about them.
        let Stats { spliced, urgent, resets, clean, passed_resets, abandoned, lingers, failures, .. } = stats;
        let Stats { carried, carried_bytes, taps, tapped_bytes, led, .. } = stats;
        for (what, times) in [
            ("spliced bytes", spliced),
            ("urgent bytes", urgent),
            ("resets", resets),
            ("clean ends", clean),
            ("resets passed on", passed_resets),
            ("deadlines", abandoned),
            ("failures of our own", failures),
            ("connections carried", carried),
            ("bytes carried", carried_bytes),
            ("taps", taps),
            ("bytes seen by taps", tapped_bytes),
            ("waits for the last acknowledgement", lingers),
        ] {
            assert!(times >= 100, "only {times} {what}: {stats:?}");
        }
        // Few are in so calm a weather that it is known what has to come of them.
        assert!(led >= 30, "only {led} headers in front: {stats:?}");
    }
}

#[test]
fn the_simulator_catches_every_bug_that_is_planted() {
    for &bug in BUGS {
        let found = (0..SEEDS_PER_BUG).find_map(|seed| run(seed, STEPS, bug).err());
        let failure = found.unwrap_or_else(|| panic!("{bug:?} was not found in {SEEDS_PER_BUG} seeds"));
        let kind = failure.violation.kind;
        println!("{bug:?}: found by seed {} as {kind:?}: {}", failure.seed, failure.violation.what);
        assert!(expected(bug).contains(&kind), "{bug:?} was taken for something else: {failure}");
    }
}

/// As what a bug may show.
fn expected(bug: Bug) -> &'static [Kind] {
    match bug {
        Bug::None => &[],
        Bug::EndOvertakesData => &[Kind::EarlyEnd],
        Bug::ResetAtOnce | Bug::ResetHidesData => &[Kind::LostByReset],
        Bug::DeafToEnds => &[Kind::Stuck, Kind::NeverEnds],
        Bug::NoDeadline => &[Kind::NeverEnds],
        Bug::ResetBecomesEnd => &[Kind::HiddenReset],
        Bug::FirstEndEndsAll => &[Kind::EarlyEnd, Kind::NeedlessReset],
        Bug::DeafToSpace => &[Kind::Stuck],
        Bug::MissesMark => &[Kind::Urgent],
        Bug::SendsTwice | Bug::ForgetsRest => &[Kind::Bytes, Kind::Memory],
        Bug::Swaps => &[Kind::Bytes],
        Bug::AsksForEver | Bug::NeverSleeps => &[Kind::Spin],
        Bug::LeaksPipes => &[Kind::Memory, Kind::Release],
        Bug::GivesFullPipes | Bug::TellsTwice => &[Kind::Release],
        Bug::CountsCopiesOnly => &[Kind::Counters],
        Bug::ShortIsDrained | Bug::ShortIsFull => &[Kind::Stuck, Kind::NeverEnds],
        Bug::SparesAiling | Bug::AbandonsUnread => &[Kind::EarlyEnd],
        Bug::ForgetsShortage | Bug::BelievesRefusals => &[Kind::Stuck, Kind::NeverEnds],
        Bug::CarriesNoBytes => &[Kind::Bytes, Kind::Memory],
        Bug::CarriesNoLead => &[Kind::Counters],
        Bug::LeadsAlone => &[Kind::Header, Kind::Stuck],
        Bug::CarriesNoUrgent => &[Kind::Urgent, Kind::Bytes, Kind::Memory],
        Bug::CarriesNoEnd => &[Kind::Release, Kind::EarlyEnd],
        Bug::CarriesNoLoss => &[Kind::HiddenReset, Kind::LostByReset],
        Bug::HearsOnlyNews => &[Kind::Stuck, Kind::NeverEnds],
        Bug::SplicesUnseen => &[Kind::Unseen],
        Bug::NeverFlushes | Bug::FlushesOnce => &[Kind::Stuck, Kind::EarlyEnd],
    }
}

#[test]
fn a_seed_replays_the_same_way() {
    let trace = || run_connection(7, 0, STEPS, Bug::None, true).0.take_trace();
    assert!(trace().len() > 10);
    assert_eq!(trace(), trace());
}

//! A simulator of the worker: its real code and real sockets, with a poller and a clock that the simulator
//! controls.
//!
//! A history has one to three workers, services with channels of every fate, clients, servers and operators.
//! In between, the kernel's events come late, in any order, in part, twice, or after a pause; something
//! panics, or a system call fails. Everything follows from one seed. After each round of a worker, whenever
//! all workers sleep, and at the end, the oracle checks.
//!
//! `BALANCE_SEED=n` replays one history, `BALANCE_HISTORIES=n` runs n of them. A history that breaks a
//! promise is printed.

// Tests talk through the test runner, which captures what they print.
#![allow(clippy::print_stdout)]

mod oracle;
mod peers;
#[allow(dead_code, reason = "shared with the simulator of the relay, which needs more of it")]
#[path = "../../../tests/suite/relay_sim/random.rs"]
mod random;
mod world;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use self::oracle::{Kind, Violation};
use self::world::World;
use crate::net::planted::Bug;

/// Number of histories in the test command.
const HISTORIES: u64 = 150;
/// Number of histories within which a planted bug must show.
const HISTORIES_PER_BUG: u64 = 300;

/// The planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plant {
    Nothing,
    /// An event of a closed socket is reported for the next one in its place.
    ForgetsGenerations,
    /// Deadlines are acted on before all events were seen.
    BelievesDeadlines,
    /// A bug in the code.
    Bug(Bug),
}

impl Plant {
    /// Can it show in histories in which clients leave?
    fn is_of_leaving(self) -> bool {
        matches!(self, Self::Nothing | Self::Bug(Bug::StaysWatched))
    }

    fn bug(self) -> Option<Bug> {
        match self {
            Self::Bug(bug) => Some(bug),
            // Only both together are a bug; each alone does no harm.
            Self::ForgetsGenerations => Some(Bug::BelievesNews),
            Self::Nothing | Self::BelievesDeadlines => None,
        }
    }
}

/// The totals of all histories.
#[derive(Debug, Default, Clone, Copy)]
struct Stats {
    clients: u64,
    opened: u64,
    closed: u64,
    lost: u64,
    panicked: u64,
    queue_timeouts: u64,
    greeting_timeouts: u64,
    rounds: u64,
    pauses: u64,
    mishaps: u64,
    carried: u64,
    /// Attempts that lost a race.
    outrun: u64,
}

impl Stats {
    fn add(&mut self, other: Self) {
        self.clients += other.clients;
        self.opened += other.opened;
        self.closed += other.closed;
        self.lost += other.lost;
        self.panicked += other.panicked;
        self.queue_timeouts += other.queue_timeouts;
        self.greeting_timeouts += other.greeting_timeouts;
        self.rounds += other.rounds;
        self.pauses += other.pauses;
        self.mishaps += other.mishaps;
        self.carried += other.carried;
        self.outrun += other.outrun;
    }
}

struct Failure {
    violation: Violation,
    trace: Vec<String>,
}

fn run(seed: u64, plant: Plant, is_traced: bool) -> Result<Stats, Failure> {
    let mut world = World::new(seed, plant, is_traced);
    let length = 20 + world.random.magnitude(9);
    for _ in 0..length {
        world.act();
        for _ in 0..world.random.below(3) {
            if world.violation.is_none() {
                world.work();
            }
        }
    }
    let is_cut_short = world.random.chance(200);
    if is_cut_short {
        world.shut_down();
    } else {
        world.wind_down();
        world.stop_listening();
    }
    world.wind_down();
    if world.violation.is_none() {
        world.see_off();
        world.check_end();
        world.check_drained();
    }
    match world.violation.take() {
        None => Ok(world.stats),
        Some(violation) => Err(Failure { violation, trace: world.take_trace() }),
    }
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

#[test]
fn workers_keep_their_promises_whatever_comes_in_between() {
    let seeds = match from_environment("BALANCE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("BALANCE_HISTORIES").unwrap_or(HISTORIES),
    };
    let began = Instant::now();
    let count = seeds.end - seeds.start;
    let mut stats = Stats::default();
    for seed in seeds {
        // Recorded from the start, since the history may go another way the next time.
        match run(seed, Plant::Nothing, true) {
            Ok(more) => stats.add(more),
            Err(Failure { violation: Violation { kind, what }, trace }) => {
                // A busy kernel may be late, and then a history goes another way the next time. That is
                // reported, but is no excuse: workers keep their promises with a late kernel, too.
                let again = (0..3).filter(|_| run(seed, Plant::Nothing, false).is_err()).count();
                panic!(
                    "{kind:?}: {what}\n{}\nBALANCE_SEED={seed} replays it, and {again} times of 3 it happened again",
                    trace.join("\n")
                );
            }
        }
    }
    assert!(stats.outrun > 0 || count < HISTORIES, "nobody has raced: {stats:?}");
    println!("{count} histories in {:?}: {stats:?}", began.elapsed());
}

/// Ends the threads of a test with it, even if it fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn children_that_are_started_meanwhile_keep_nothing_watched() {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&is_over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    Command::new("true").status().expect("a program that is everywhere");
                }
            });
        }
        let failed = (0..30).find_map(|seed| run(seed, Plant::Nothing, false).err().map(|it| (seed, it)));
        if let Some((seed, Failure { violation: Violation { kind, what }, .. })) = failed {
            panic!("history {seed}: {kind:?}: {what}");
        }
    });
}

#[test]
fn the_simulator_catches_every_bug_that_is_planted() {
    let asked = from_environment("BALANCE_HISTORIES");
    let (count, is_counted) = (asked.unwrap_or(HISTORIES_PER_BUG), asked.is_some());
    let mut missed = Vec::new();
    for (plant, expected) in [
        (Plant::ForgetsGenerations, Kind::RefusingPort),
        (Plant::BelievesDeadlines, Kind::Cut),
        (Plant::Bug(Bug::ForgetsLine), Kind::LostWakeUp),
        (Plant::Bug(Bug::ForgetsDropped), Kind::Stuck),
        (Plant::Bug(Bug::LosesMessages), Kind::Message),
        (Plant::Bug(Bug::LosesCount), Kind::Counts),
        (Plant::Bug(Bug::EndsClean), Kind::CleanEnd),
        (Plant::Bug(Bug::StaysWatched), Kind::Watch),
        (Plant::Bug(Bug::ForgetsRoutes), Kind::Place),
        (Plant::Bug(Bug::KeepsPlace), Kind::Counts),
        (Plant::Bug(Bug::ForgetsHeld), Kind::Counts),
    ] {
        let mut found: BTreeMap<Kind, u64> = BTreeMap::new();
        for seed in 0..count {
            if let Err(failure) = run(seed, plant, false) {
                let kind = failure.violation.kind;
                *found.entry(kind).or_default() += 1;
                if kind == expected && !is_counted {
                    println!("{plant:?}: found in history {seed}");
                    break;
                }
            }
        }
        if is_counted {
            println!("{plant:?}: of {count} histories {found:?}");
        }
        if !found.contains_key(&expected) {
            missed.push(format!("{plant:?} was not found as {expected:?}: {found:?}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

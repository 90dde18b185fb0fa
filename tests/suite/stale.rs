//! Events of a socket that was closed meanwhile: they must not be taken for events of the next socket in its
//! place.
//!
//! Dials to servers that answer, to ports that refuse and to some that stay silent race with operators, and
//! checks, that close what is being dialled. In one batch of events, the message that a channel is closed can
//! come before the event that a dial of it was answered; by then the client is being connected to the next
//! channel. If the event is taken for that dial, the client counts as connected where nobody listens.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    BlackHole, Client, DEADLINE, Instance, Over, Refusing, Server, eventually, own_address,
};
use crate::relay_sim::random::Random;

/// Not a wait for anything: so long does each race last.
const RACE: Duration = Duration::from_millis(1_500);
/// Clients that come at the same time.
const CLIENTS: usize = 24;

fn seed() -> u64 {
    let seed = std::env::var("BALANCE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("BALANCE_SEED={seed}");
    seed
}

/// A session that is told a command and waits for its answer.
struct Operator(BufReader<UnixStream>);

impl Operator {
    fn of(instance: &Instance) -> Self {
        let name = format!("balance.{}.{}", instance.addr.port(), instance.addr.ip());
        let stream =
            UnixStream::connect(instance.directory.path().join("run").join(name)).expect("its socket");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut operator = Self(BufReader::new(stream));
        let mut greeting = String::new();
        operator.0.read_line(&mut greeting).expect("a greeting");
        operator
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.0.get_mut(), "{command}").expect("it listens");
        self.answer();
    }

    /// Up to the line that ends an answer.
    fn answer(&mut self) {
        let mut line = String::new();
        while !line.starts_with(". ") {
            line.clear();
            assert!(self.0.read_line(&mut line).expect("an answer") > 0, "the instance has gone");
        }
    }
}

/// What became of clients.
#[derive(Debug, Default)]
struct Fates {
    /// Served, and their own words came back.
    served: AtomicUsize,
    /// Closed before they heard anything.
    unheard: AtomicUsize,
}

/// Clients come and come, while `meddle` does what it does again and again.
fn race(instance: &Instance, seed: u64, meddle: impl FnMut(&mut Random) + Send) -> Fates {
    race_until(instance, seed, meddle, || true)
}

/// The same, also for as long as there was not enough of something.
fn race_until(
    instance: &Instance,
    seed: u64,
    mut meddle: impl FnMut(&mut Random) + Send,
    is_enough: impl Fn() -> bool,
) -> Fates {
    let (fates, is_over) = (Fates::default(), AtomicBool::new(false));
    let begun = Instant::now();
    thread::scope(|scope| {
        let (fates, is_over) = (&fates, &is_over);
        for _ in 0..CLIENTS {
            scope.spawn(move || {
                while !is_over.load(Ordering::SeqCst) {
                    // A reset can come before the connect has come back.
                    let client = Client::try_connect(instance.addr, None, None);
                    let Ok(mut client) = client else {
                        fates.unheard.fetch_add(1, Ordering::SeqCst);
                        continue;
                    };
                    let mut name = [0];
                    match client.read(&mut name) {
                        Ok(1) => {
                            // Who has b has a channel that nobody meddles with.
                            if name == *b"b" {
                                client.send("mine");
                                assert_eq!(client.recv(4), b"mine");
                            }
                            fates.served.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok(_) | Err(_) => drop(fates.unheard.fetch_add(1, Ordering::SeqCst)),
                    }
                }
            });
        }
        // A panic must not leave the others racing for ever.
        let _over = Over(is_over);
        let mut random = Random::new(seed);
        // And for as long as nobody had time to be served.
        let is_enough = || fates.served.load(Ordering::SeqCst) > 0 && is_enough();
        while begun.elapsed() < RACE || begun.elapsed() < DEADLINE && !is_enough() {
            meddle(&mut random);
        }
    });
    fates
}

/// Nobody was ever said to be connected to one of these, no client was lost, and connections have ended for such reasons only.
#[track_caller]
fn is_clean(instance: &Instance, fates: &Fates, dead: &[SocketAddr]) {
    eventually("all have ended", || instance.show().iter().all(|row| row.c == 0).then_some(()));
    let told = |event: &str, word: &str| {
        let lines = instance.told(event).into_iter();
        lines.filter(|line| line.contains(word)).collect::<Vec<_>>()
    };
    for address in dead {
        let address = format!("address={address}");
        let ends = |line: &String| line.split_whitespace().any(|word| word == address);
        for event in ["opened", "returned"] {
            let lines: Vec<_> = told(event, &address).into_iter().filter(ends).collect();
            assert_eq!(lines, [""; 0], "{fates:?}");
        }
    }
    let reset = [told("closed", "channel reset"), told("closed", "internal error")].concat();
    assert_eq!(reset, [""; 0], "{fates:?}");
    let unheard = fates.unheard.load(Ordering::SeqCst);
    let kicked = || [told("closed", "how=kicked"), told("closed", "how=\"channel down\"")].concat().len();
    eventually(&format!("those who heard nothing were closed on purpose: {fates:?}"), || {
        (unheard <= kicked()).then_some(())
    });
    let kicked = kicked();
    assert!(fates.served.load(Ordering::SeqCst) > 0, "{fates:?}");
    println!("{fates:?}, {kicked} closed on purpose");
}

#[test]
fn operators_who_close_what_is_dialled_connect_nobody_where_nobody_answers() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let (dead, holes) = (Refusing::new(), [(); 2].map(|()| BlackHole::new()));
    // Without ejection each of them is dialled all the time, and what says nothing not for long.
    let args = ["-d", "--no-eject", "-t", "30ms", "--workers", "1", "PORT"].map(String::from);
    let channels = [&a as &dyn std::fmt::Display, &holes[0], &a, &dead, &a, &holes[1], &b];
    let instance = Instance::start(args.into_iter().chain(channels.map(|channel| channel.to_string())));
    let mut operator = Operator::of(&instance);
    let fates = race(&instance, seed(), |random| {
        let channel = [0, 2, 4][random.below(3) as usize];
        match random.below(3) {
            0 => operator.tell(&format!("disable {channel} hard; enable {channel}")),
            1 => operator.tell("kick 0; kick 2; kick 4"),
            _ => operator.tell(&format!("kick {channel}")),
        }
    });
    drop(operator);
    is_clean(&instance, &fates, &[dead.addr(), holes[0].addr(), holes[1].addr()]);
    assert_eq!(instance.losses(), "");
    instance.end();
}

#[test]
fn dead_channels_stay_ejected_whatever_operators_close() {
    let a = Server::named("a");
    let (dead, hole) = (Refusing::new(), BlackHole::new());
    // Where a is closed nothing is left but those that are ejected, and they are tried again.
    let args = ["-d", "-t", "30ms", "--workers", "1", "PORT"].map(String::from);
    let channels = [&a as &dyn std::fmt::Display, &hole, &dead];
    let instance = Instance::start(args.into_iter().chain(channels.map(|channel| channel.to_string())));
    let mut operator = Operator::of(&instance);
    let fates = race(&instance, seed(), |_| operator.tell("disable 0 hard; enable 0"));
    drop(operator);
    let lost = instance.told("client_lost").len();
    fates.unheard.fetch_sub(lost.min(fates.unheard.load(Ordering::SeqCst)), Ordering::SeqCst);
    is_clean(&instance, &fates, &[dead.addr(), hole.addr()]);
    assert_eq!(instance.health(), "up ejected ejected");
    instance.end();
}

#[test]
fn channels_that_go_down_and_lose_their_connections_connect_nobody_where_nobody_answers() {
    let (a, b) = (Server::named_at(own_address(), "a"), Server::named_at(own_address(), "b"));
    let hole = BlackHole::at(own_address());
    // Checks ask another port: of b always, of a now and then.
    let of_b = Server::on(b.addr.ip(), |_, _| ());
    let of_hole = Server::at(SocketAddr::new(hole.addr().ip(), of_b.addr.port()), |_, _| ());
    let port = of_b.addr.port().to_string();
    let args =
        ["-d", "--no-eject", "-t", "30ms", "--workers", "1", "--check", "tcp", "--check-interval", "10ms"];
    let args = args.into_iter().chain(["--check-fall", "1", "--check-rise", "1", "--on-down", "kick"]);
    let args = args.chain(["--check-port", &port, "PORT"]).map(String::from);
    let channels = [&a as &dyn std::fmt::Display, &hole, &a, &b];
    let instance = Instance::start(args.chain(channels.map(|channel| channel.to_string())));
    instance.await_health(3, "up");
    let at = SocketAddr::new(a.addr.ip(), of_b.addr.port());
    let mut checked = None;
    let are_many = || instance.told("channel_down").len() > 5;
    let change = |_: &mut Random| {
        checked = checked.take().is_none().then(|| Server::at(at, |_, _| ()));
        // Not a wait for anything: so often does a change.
        thread::sleep(Duration::from_millis(15));
    };
    let fates = race_until(&instance, seed(), change, are_many);
    is_clean(&instance, &fates, &[hole.addr()]);
    assert!(are_many());
    drop((checked, of_b, of_hole));
    instance.end();
}

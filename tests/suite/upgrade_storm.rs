//! Signals in any order and at any moment during an upgrade.
//!
//! Source: docs/upgrade.md, docs/stop.md.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Direction, Instance, Over, Server, Setup, Stream, eventually, own_address, unique};

/// Any sequence will do, as long as the seed says which: xorshift64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % most
    }

    /// A signal to one of the processes that there are; it may have just ended.
    fn send(&mut self, instance: &Instance, signals: &[Signal]) {
        let signal = signals[self.below(signals.len())];
        let there = instance.processes();
        if !there.is_empty() {
            send(there[self.below(there.len())], signal);
        }
    }

    /// Nothing to wait for: so that signals come at other moments each time.
    fn rest(&mut self) {
        std::thread::sleep(Duration::from_millis(self.below(60) as u64));
    }
}

fn send(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).expect("a pid is not 0"), signal);
}

/// Has the process been sent this signal, and not looked at it?
fn has_pending(pid: i32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let masks =
        status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")));
    masks
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}

/// An instance with a file of lines, so that a hangup has something to read again.
fn with_file(server: &Server, options: &[&str]) -> Instance {
    let listen = own_address();
    let setup = Setup::binding(listen);
    let line = format!("web: -b {} {} {server}\n", listen.ip(), listen.port());
    let file = setup.directory().file("services", &line);
    setup.start(["--file", &file.display().to_string()].iter().chain(options))
}

#[test]
fn signals_in_any_order_hurt_no_client() {
    let seed = 0x57_0a3b_11e5;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let server = Server::echo();
    let mut instance = with_file(&server, &[]);
    let first = instance.pid();
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let to = instance.addr;
    std::thread::scope(|scope| {
        let _over = Over(&stop);
        for is_long in [true, true, true, true, false, false] {
            let (stop, rounds) = (&stop, &rounds);
            scope.spawn(move || {
                let open = || {
                    (
                        crate::harness::Client::connect(to),
                        Stream::new(u64::from(unique()), Direction::Sent),
                        0,
                    )
                };
                let (mut client, mut stream, mut at) = open();
                while !stop.load(Ordering::SeqCst) {
                    let length = 20_000;
                    client.send(stream.bytes(at, length));
                    stream.check(at, &client.recv(length));
                    at += length as u64;
                    rounds.fetch_add(1, Ordering::SeqCst);
                    if !is_long {
                        (client, stream, at) = open();
                    }
                }
            });
        }
        for _ in 0..40 {
            dice.send(&instance, &[Signal::HUP, Signal::USR1, Signal::USR2, Signal::USR2]);
            dice.rest();
        }
        // A clean one, whatever is still under way.
        let told = eventually("it can be told to", || {
            let answer = instance.ctl("upgrade");
            (answer.code == 0).then_some(answer.stdout)
        });
        let heir: Option<i32> =
            told.strip_prefix("process ").and_then(|rest| rest.split(' ').next()?.parse().ok());
        eventually("one is left", || {
            (instance.processes().first() == heir.as_ref() && instance.processes().len() == 1).then_some(())
        });
        instance.find_survivor();
        let before = rounds.load(Ordering::SeqCst);
        eventually("all go on", || (rounds.load(Ordering::SeqCst) > before + 30).then_some(()));
        stop.store(true, Ordering::SeqCst);
    });
    assert_ne!(instance.pid(), first);
    assert!(!instance.stderr().contains("panicked"), "{}", instance.stderr());
    instance.end();
}

#[test]
fn whatever_is_under_way_two_terms_end_it() {
    for round in 1..=8_u64 {
        let seed = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(round);
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let server = Server::echo();
        // One that drained instead would be noticed.
        let mut instance = with_file(&server, &["--drain-timeout", "1h"]);
        let mut clients: Vec<_> = (0..10).map(|_| instance.connect()).collect();
        for client in &mut clients {
            client.send("x");
            assert_eq!(client.recv(1), b"x");
        }
        for _ in 0..dice.below(4) {
            dice.send(&instance, &[Signal::HUP, Signal::USR2]);
            dice.rest();
        }
        dice.send(&instance, &[Signal::USR2]);
        dice.rest();
        let end = [Signal::TERM, Signal::TERM, Signal::INT][dice.below(3)];
        instance.processes().into_iter().for_each(|pid| send(pid, end));
        // Two that come before anybody looks are one, to the kernel as well.
        eventually("it was heard of", || {
            let is_pending = instance.processes().into_iter().any(|pid| has_pending(pid, end));
            (!is_pending).then_some(())
        });
        dice.rest();
        // Who is there now serves, drains or takes over. None of them is to wait for clients any more.
        instance.processes().into_iter().for_each(|pid| send(pid, Signal::TERM));
        eventually("nothing is left running", || instance.processes().is_empty().then_some(()));
        instance.wait();
        let stderr = instance.stderr();
        assert!(!stderr.contains("panicked"), "seed {seed}: {stderr}");
        let left: Vec<_> = fs::read_dir(instance.directory.path().join("run"))
            .map_or_else(|_| Vec::new(), |all| all.flatten().map(|one| one.file_name()).collect());
        assert!(left.is_empty(), "seed {seed}: {left:?}\n{stderr}");
        // Nobody has the port: it is free.
        assert!(std::net::TcpStream::connect(instance.addr).is_err(), "seed {seed}");
    }
}

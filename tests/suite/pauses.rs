//! A pause of the program under test costs its clients nothing. A debugger, a snapshot of the virtual machine
//! and `kill -STOP` cause such pauses.
//!
//! Two things ensure this, and each has its tests here. First, what happened during a pause is in the kernel,
//! and is read before a deadline is acted on. In those tests the deadline falls into the pause, just before
//! its end, and what makes it void comes before it. Second, a thread's own time stands still while the thread
//! is held up. In those tests nothing happens during the pause, and what a client waits for comes after it,
//! within the time that was left. (For bytes that wait for a reader the kernel is asked at every deadline, so
//! they have no test of the first kind.)

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{BlackHole, Client, Instance, Received, Server, eventually, pause, unless_held_up};
use crate::queue::waiting;

/// Stops the instance for the length of `act`.
fn stopped<T>(instance: &Instance, act: impl FnOnce() -> T) -> T {
    instance.signal(Signal::STOP);
    let result = act();
    instance.signal(Signal::CONT);
    result
}

/// Not a wait for anything: so long does the pause last.
fn last(millis: u64) {
    thread::sleep(Duration::from_millis(millis));
}

/// The same, up to just behind a deadline that began to run then: by far less than what a thread takes for being held up.
fn last_until_just_behind(begun: Instant, patience: u64) {
    let end = begun + Duration::from_millis(patience + 100);
    thread::sleep(end.saturating_duration_since(Instant::now()));
}

/// Not a wait for anything either: time in which whoever believes an old deadline acts on it.
fn tempt() {
    last(300);
}

fn exchange(client: &mut Client) {
    client.send("ping");
    assert_eq!(client.recv(4), b"ping");
}

#[test]
fn bytes_that_came_before_the_idle_deadline_are_heard_first() {
    unless_held_up(150, || {
        let server = Server::echo();
        let instance = Instance::start(["-T", "2", "PORT", &server.to_string()]);
        let mut clients: Vec<_> = (0..20).map(|_| instance.connect()).collect();
        clients.iter_mut().for_each(exchange);
        let begun = Instant::now();
        clients.iter_mut().for_each(exchange);
        stopped(&instance, || {
            last(1_000);
            clients.iter_mut().for_each(|client| client.send("x"));
            last_until_just_behind(begun, 2_000);
        });
        for client in &mut clients {
            assert_eq!(client.recv(1), b"x");
        }
        clients.iter_mut().for_each(exchange);
        drop(clients);
        instance.end();
    });
}

#[test]
fn nobody_is_idle_during_a_pause() {
    unless_held_up(150, || {
        let server = Server::echo();
        let instance = Instance::start(["-T", "3", "PORT", &server.to_string()]);
        let mut client = instance.connect();
        exchange(&mut client);
        stopped(&instance, || last(4_000));
        tempt();
        exchange(&mut client);
        drop(client);
        instance.end();
    });
}

/// A client whose channel is being dialled.
fn dialled(hole: &BlackHole) -> (Instance, Client, Instant) {
    let instance = Instance::start(["-t", "2", "PORT", &hole.to_string()]);
    let begun = Instant::now();
    let mut client = instance.connect();
    client.send("x");
    eventually("it is dialled", || (instance.dials(hole.addr()) == 1).then_some(()));
    (instance, client, begun)
}

#[track_caller]
fn is_served(instance: Instance, mut client: Client, mut server: Client) {
    assert_eq!(server.recv(1), b"x");
    server.send("y");
    assert_eq!(client.recv(1), b"y");
    assert_eq!(instance.told("ejected"), [""; 0]);
    assert_eq!(instance.told("dial_failed"), [""; 0]);
    drop((client, server));
    instance.end();
}

#[test]
fn a_dial_that_was_answered_before_its_deadline_is_no_failure() {
    unless_held_up(150, || {
        let hole = BlackHole::new();
        let (instance, client, begun) = dialled(&hole);
        let server = stopped(&instance, || {
            // The kernel sends the first packet of a dial again after a second.
            let server = hole.accepts();
            last_until_just_behind(begun, 2_000);
            server
        });
        is_served(instance, client, server);
    });
}

#[test]
fn a_dial_has_after_a_pause_the_time_that_it_had_before() {
    unless_held_up(150, || {
        let hole = BlackHole::new();
        let (instance, client, _) = dialled(&hole);
        stopped(&instance, || last(2_400));
        // The kernel tries again three seconds after the first time.
        let server = hole.accepts();
        is_served(instance, client, server);
    });
}

/// A client that is served, and one that waits for its slot.
fn in_line(timeout: &str) -> (Server, Instance, Client, Client, Instant) {
    let server = Server::echo();
    // One worker: what has come free at another one is known when that one has run.
    let args = ["--workers", "1", "--queue", "10", "--queue-timeout", timeout, "PORT"];
    let instance = Instance::start(args.into_iter().chain([&format!("{server}:1")[..]]));
    let mut first = instance.connect();
    exchange(&mut first);
    let begun = Instant::now();
    let mut second = instance.connect();
    second.send("ping");
    eventually("it is in line", || (waiting(&instance) == [1]).then_some(()));
    (server, instance, first, second, begun)
}

#[test]
fn whoever_waits_in_line_gets_the_slot_that_came_free_before_the_deadline() {
    unless_held_up(150, || {
        let (_server, instance, first, mut second, begun) = in_line("1");
        stopped(&instance, || {
            // An end would have to go to the server and back first.
            first.rst();
            last_until_just_behind(begun, 1_000);
        });
        assert_eq!(second.recv(4), b"ping");
        drop(second);
        instance.end();
    });
}

#[test]
fn whoever_waits_in_line_has_after_a_pause_the_time_that_it_had_before() {
    unless_held_up(150, || {
        let (_server, instance, first, mut second, _) = in_line("2");
        stopped(&instance, || last(3_000));
        tempt();
        drop(first);
        assert_eq!(second.recv(4), b"ping");
        drop(second);
        instance.end();
    });
}

#[test]
fn whoever_waits_for_a_resume_has_after_a_pause_of_ours_the_time_that_it_had_before() {
    unless_held_up(150, || {
        let server = Server::echo();
        let args = ["--workers", "1", "--pause-timeout", "2", "PORT", &server.to_string()];
        let instance = Instance::start(args);
        instance.ctl("pause").code(0);
        let mut client = instance.connect();
        client.send("ping");
        eventually("it is in line", || (waiting(&instance) == [1]).then_some(()));
        stopped(&instance, || last(3_000));
        tempt();
        instance.ctl("resume").code(0);
        assert_eq!(client.recv(4), b"ping");
        drop(client);
        instance.end();
    });
}

#[test]
fn what_a_server_left_that_reset_has_after_a_pause_the_time_that_it_had_before() {
    unless_held_up(150, || {
        const BYTES: usize = 150_000;
        let channel = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = channel.local_addr().expect("it is bound").to_string();
        let instance = Instance::start(["PORT", &address]);
        let mut client = Client::connect_narrow(instance.addr);
        let (mut server, _) = channel.accept().expect("the client's channel");
        server.write_all(&[b'x'; BYTES]).expect("sent");
        // All of it is on its way to the client, which reads nothing yet.
        instance.await_show("all of it was read", |rows| rows[0].rcvd == BYTES as u64);
        Client(server).rst();
        // Its patience with the client is five seconds from the last acknowledgement that it knows of, and at its end it asks.
        last(5_300);
        stopped(&instance, || last(5_500));
        tempt();
        assert_eq!(client.recv(BYTES), [b'x'; BYTES]);
        assert_eq!(client.ending(), Received::Reset);
        instance.end();
    });
}

/// An instance that checks a server, which answers while the gate is open; a check is under way.
fn checked(timeout: &str) -> (Server, Arc<AtomicBool>, Instance, Instant) {
    let (gate, held) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (seen, holds) = (Arc::clone(&gate), Arc::clone(&held));
    let server = Server::with(move |mut stream, _| {
        while !seen.load(Ordering::SeqCst) {
            holds.store(true, Ordering::SeqCst);
            pause();
        }
        let _ = stream.write_all(b"a");
        let _ = std::io::Read::read(&mut stream, &mut [0]);
    });
    let args = ["--check", "expect:a", "--check-interval", "10ms", "--check-fall", "1", "--check-timeout"];
    let instance = Instance::start(args.into_iter().chain([timeout, "PORT", &server.to_string()]));
    instance.await_health(0, "up");
    gate.store(false, Ordering::SeqCst);
    eventually("a check is under way", || held.load(Ordering::SeqCst).then_some(()));
    (server, gate, instance, Instant::now())
}

#[track_caller]
fn stays_up(server: &Server, instance: Instance) {
    let before = server.accepted();
    server.await_accepted(before + 3);
    assert_eq!(instance.told("channel_down"), [""; 0]);
    instance.end();
}

#[test]
fn a_check_that_was_answered_before_its_deadline_has_not_failed() {
    unless_held_up(150, || {
        let (server, gate, instance, begun) = checked("600ms");
        stopped(&instance, || {
            gate.store(true, Ordering::SeqCst);
            last_until_just_behind(begun, 600);
        });
        stays_up(&server, instance);
    });
}

#[test]
fn a_check_has_after_a_pause_the_time_that_it_had_before() {
    unless_held_up(150, || {
        let (server, gate, instance, _) = checked("2s");
        stopped(&instance, || last(2_500));
        tempt();
        gate.store(true, Ordering::SeqCst);
        stays_up(&server, instance);
    });
}

#[test]
fn a_connection_is_as_old_as_it_is_whatever_pauses_there_were() {
    unless_held_up(150, || {
        let server = Server::echo();
        // A deadline, so that the worker's own time is held up.
        let instance = Instance::before(&[&"-T3", &server]);
        let mut client = instance.connect();
        client.send("x");
        assert_eq!(client.recv(1), b"x");
        let accepted = |command: &str, list: &str| {
            let told = instance.ctl(command).code(0).stdout;
            let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
            let at = told[list][0]["accepted_at"].as_str().map(humantime::parse_rfc3339);
            at.expect("there is one").expect("a time")
        };
        let before = accepted("sessions json", "sessions");
        let is_same = |at: std::time::SystemTime| {
            let (earlier, later) = (at.min(before), at.max(before));
            later.duration_since(earlier).expect("in order") < Duration::from_secs(1)
        };
        stopped(&instance, || last(4_000));
        client.send("y");
        assert_eq!(client.recv(1), b"y");
        assert!(is_same(accepted("sessions json", "sessions")), "it is older now");
        drop(client);
        instance.await_show("it has gone", |rows| rows[0].c == 0);
        stopped(&instance, || last(2_000));
        assert!(is_same(accepted("ended json", "ended")), "and it came when it came");
        instance.end();
    });
}

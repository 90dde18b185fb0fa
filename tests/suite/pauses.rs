//! What a pause of the program under test costs its clients: nothing. A debugger, a snapshot of the virtual machine and
//! `kill -STOP` make one. What happened meanwhile is in the kernel, and is heard before a deadline is believed.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{BlackHole, Client, Instance, Server, eventually};
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

fn exchange(client: &mut Client) {
    client.send("ping");
    assert_eq!(client.recv(4), b"ping");
}

#[test]
fn clients_that_go_on_sending_are_not_idle() {
    let server = Server::echo();
    let instance = Instance::start(["-T", "2", "PORT", &server.to_string()]);
    let mut clients: Vec<_> = (0..120).map(|_| instance.connect()).collect();
    clients.iter_mut().for_each(exchange);
    stopped(&instance, || {
        for _ in 0..15 {
            last(200);
            clients.iter_mut().for_each(|client| client.send("x"));
        }
    });
    for client in &mut clients {
        assert_eq!(client.recv(15), [b'x'; 15]);
    }
    clients.iter_mut().for_each(exchange);
    drop(clients);
    instance.end();
}

#[test]
fn a_dial_that_was_answered_meanwhile_is_no_failure() {
    let hole = BlackHole::new();
    let instance = Instance::start(["-t", "2", "PORT", &hole.to_string()]);
    let mut client = instance.connect();
    client.send("x");
    eventually("it is dialled", || (instance.dials(hole.addr()) == 1).then_some(()));
    let mut server = stopped(&instance, || {
        // The kernel sends the first packet of a dial again after a second.
        let server = hole.accepts();
        last(2_000);
        server
    });
    assert_eq!(server.recv(1), b"x");
    server.send("y");
    assert_eq!(client.recv(1), b"y");
    assert_eq!(instance.told("ejected"), [""; 0]);
    assert_eq!(instance.told("dial_failed"), [""; 0]);
    drop((client, server));
    instance.end();
}

#[test]
fn whoever_waits_in_line_gets_the_slot_that_came_free_meanwhile() {
    let server = Server::echo();
    let instance = Instance::start(["--queue", "10", "--queue-timeout", "1", "PORT", &format!("{server}:1")]);
    let mut first = instance.connect();
    exchange(&mut first);
    let mut second = instance.connect();
    second.send("ping");
    eventually("it is in line", || (waiting(&instance) == [1]).then_some(()));
    stopped(&instance, || {
        drop(first);
        last(2_000);
    });
    assert_eq!(second.recv(4), b"ping");
    drop(second);
    instance.end();
}

//! Clients that wait for a channel.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::instance::{DEADLINE, Instance, ask, greeting, rest};
use crate::control::find;

#[test]
fn wait_answers_when_the_last_connection_is_over_and_holds_up_nobody() {
    let instance = Instance::start();
    assert_eq!(ask(&mut instance.client(), b"wait 0"), ("channel 0 idle\n".into(), 0, 0, false));
    let leases = [instance.lease(), instance.lease()];
    let mut stream = instance.connect();
    stream.write_all(b"drain 0; wait 0; version; x\n").expect("written");
    let mut first = vec![0; (greeting() + "channel 0 draining, 2 connections left\n").len()];
    stream.read_exact(&mut first).expect("told before the wait begins");
    // Other sessions work meanwhile, and a client that has ended its direction still gets its answer.
    stream.shutdown(Shutdown::Write).expect("shut");
    let [one, other] = leases;
    drop(one);
    assert_eq!(
        ask(&mut instance.client(), b"wait 0 0"),
        ("channel 0 still has 1 connection\n".into(), 75, 0, false)
    );
    assert_eq!(
        ask(&mut instance.client(), b"enable 0; drain 0").0,
        "channel 0 enabled\nchannel 0 draining, 1 connection left\n"
    );
    drop(other);
    let said = rest(&mut stream);
    assert!(said.starts_with("channel 0 idle\n  This is balance "), "{said}");
    assert!(said.ends_with("syntax error\n. 64 0\n"), "{said}");
}

#[test]
fn wait_in_vain_ends_when_its_time_is_over_and_not_before() {
    let instance = Instance::start();
    let lease = instance.lease();
    let mut stream = instance.connect();
    stream.write_all(b"wait 0 30\n").expect("written");
    stream.shutdown(Shutdown::Write).expect("shut");
    let mut greeted = vec![0; greeting().len()];
    stream.read_exact(&mut greeted).expect("a greeting");
    // The session began to wait at some time after now. Slightly less than its time is too little.
    instance.clock.store(29_999, Ordering::SeqCst);
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    assert!(stream.read(&mut [0]).is_err(), "it goes on waiting");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    instance.clock.store(60_000, Ordering::SeqCst);
    assert_eq!(rest(&mut stream), "channel 0 still has 1 connection\n. 75 0\n");
    drop(lease);
}

#[test]
fn a_channel_that_is_gone_is_waited_for_by_nobody() {
    let instance = Instance::start();
    let mut client = instance.client();
    assert_eq!(ask(&mut client, b"drain 0; remove 0; wait 0").1, 65);
    assert_eq!(ask(&mut client, b"group 9; wait 0"), ("no such channel 0\n".into(), 65, 9, false));
}

#[test]
fn clients_that_leave_while_they_wait_take_their_sessions_with_them() {
    let instance = Instance::start();
    let lease = instance.lease();
    // Root may have more sessions than others.
    let most = if crate::control::peer::own_uid() == 0 { 72 } else { 64 };
    let mut waiting = Vec::new();
    for _ in 0..most {
        let mut stream = instance.connect();
        stream.write_all(b"drain 0; wait 0\n").expect("written");
        let mut first = vec![0; (greeting() + "channel 0 draining, 1 connection left\n").len()];
        stream.read_exact(&mut first).expect("it waits");
        waiting.push(stream);
    }
    assert!(rest(&mut instance.connect()).starts_with(". busy: "), "all sessions are taken");
    drop(waiting);
    let end = std::time::Instant::now() + DEADLINE;
    while find::find(&instance.wanted(), false).is_err() {
        assert!(std::time::Instant::now() < end, "their sessions are still taken");
        thread::yield_now();
    }
    drop(lease);
}

#[test]
fn a_kill_leaves_those_who_wait_alone_and_a_stop_waits_for_nobody() {
    let instance = Instance::start();
    let lease = instance.lease();
    let mut stream = instance.connect();
    stream.write_all(b"drain 0; wait 0\n").expect("written");
    let mut first = vec![0; (greeting() + "channel 0 draining, 1 connection left\n").len()];
    stream.read_exact(&mut first).expect("it waits");
    assert_eq!(ask(&mut instance.client(), b"kill").0, "shutdown complete, exiting.\n");
    stream.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
    assert!(stream.read(&mut [0]).is_err(), "there is something to wait for still");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    instance.control.stop(DEADLINE);
    assert_eq!(rest(&mut stream), "channel 0 still has 1 connection\n. 75 0\n");
    drop(lease);
}

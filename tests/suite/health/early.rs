//! A server that accepts connections and closes them at once, without a byte.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Instance, Received, Server, Setup, eventually, unless_held_up};

use super::super::access::lines;
use super::super::tap::{Watcher, number_of};
use super::{name, names};

/// Clients until the first channel is ejected; what is told then.
fn await_ejected(instance: &Instance) -> String {
    eventually("the first channel is ejected", || {
        name(instance);
        instance.told("ejected").pop()
    })
}

/// So many clients, none of whom is sent to the first channel: it has a second before it is tried again, and a machine that was
/// slower than that shows nothing.
fn are_kept_away(instance: &Instance, n: usize) {
    let totalc = instance.show()[0].totalc;
    let got = names(instance, n);
    let now = instance.show()[0].totalc;
    if instance.told("returned").is_empty() {
        assert_eq!((got, now), ("b".repeat(n), totalc));
    }
}

#[test]
fn a_server_that_closes_at_once_is_ejected_while_another_one_answers() {
    unless_held_up(300, || {
        for bad in [Server::closer, Server::resetter] {
            let (bad, good) = (bad(), Server::named("b"));
            let instance = Instance::before(&[&bad, &good]);
            let line = await_ejected(&instance);
            assert!(line.contains("group=0 channel=0"), "{line}");
            are_kept_away(&instance, 8);
            instance.end();
        }
    });
}

#[test]
fn it_returns_when_it_serves_again() {
    unless_held_up(300, || {
        let is_bad = Arc::new(AtomicBool::new(true));
        let its = Arc::clone(&is_bad);
        let a = Server::with(move |mut stream, _| {
            if !its.load(Ordering::SeqCst) && stream.write_all(b"a").is_ok() {
                let _ = stream.read(&mut [0]);
            }
        });
        let b = Server::named("b");
        let instance = Instance::before(&[&a, &b]);
        let line = await_ejected(&instance);
        assert!(line.contains(r#"cause="closed 3 connections in a row at once, without a byte""#), "{line}");
        is_bad.store(false, Ordering::SeqCst);
        instance.await_health(0, "up");
        let got = names(&instance, 4);
        assert!(got == "abab" || got == "baba", "{got}");
        instance.end();
    });
}

#[test]
fn what_all_servers_do_ejects_nobody() {
    let servers = [Server::closer(), Server::closer(), Server::closer()];
    let instance = Instance::before(&[&servers[0], &servers[1], &servers[2]]);
    assert_eq!(names(&instance, 15), "-".repeat(15));
    assert!(instance.told("ejected").is_empty());
    assert_eq!(instance.show().iter().map(|row| row.totalc).collect::<Vec<_>>(), [5, 5, 5]);
    instance.end();
}

#[test]
fn a_client_that_ends_first_is_no_fault_of_the_server() {
    // It reads to the end and then closes, without a word.
    let (quiet, good) = (Server::silent(), Server::named("b"));
    let instance = Instance::before(&[&quiet, &good]);
    for _ in 0..8 {
        let mut client = instance.connect();
        client.shut_wr();
        assert_ne!(client.ending(), Received::Reset);
    }
    assert!(instance.told("ejected").is_empty(), "{}", instance.stderr());
    instance.end();
}

#[test]
fn with_no_eject_it_keeps_its_clients() {
    let (bad, good) = (Server::closer(), Server::named("b"));
    let instance = Instance::before(&[&"--no-eject", &bad, &good]);
    let got = names(&instance, 20);
    assert_eq!(got.matches('-').count(), 10, "{got}");
    instance.end();
}

#[test]
fn its_rest_goes_on_in_the_next_process() {
    let (bad, good) = (Server::closer(), Server::named("b"));
    let mut instance = Instance::before(&[&bad, &good]);
    await_ejected(&instance);
    instance.upgrade();
    are_kept_away(&instance, 4);
    instance.end();
}

/// A server that ends each connection at once, and takes part in nothing else.
fn ends_at_once(is_reset: bool) -> Server {
    if is_reset { Server::resetter() } else { Server::closer() }
}

#[test]
fn a_client_that_has_said_nothing_goes_on_to_the_next_server() {
    unless_held_up(300, || {
        for is_reset in [false, true] {
            let (bad, good) = (ends_at_once(is_reset), Server::named("b"));
            let instance = Instance::before(&[&bad, &good]);
            // The one that answers is known by one answer.
            eventually("an answer", || (name(&instance) == 'b').then_some(()));
            assert_eq!(names(&instance, 20), "b".repeat(20), "reset: {is_reset}");
            await_ejected(&instance);
            let rows = instance.status();
            assert!(rows[0].failed >= 2, "{rows:?}");
            instance.end();
        }
    });
}

#[test]
fn a_client_that_nobody_serves_sees_the_end_that_the_last_server_made() {
    unless_held_up(300, || {
        let servers = [Server::resetter(), Server::resetter(), Server::resetter()];
        let instance = Instance::before(&[&servers[0], &servers[1], &servers[2]]);
        let mut client = instance.connect();
        client.ending();
        let accepted: usize = servers.iter().map(Server::accepted).sum();
        assert_eq!(accepted, 3, "each was tried once");
        instance.end();
    });
}

#[test]
fn a_client_that_has_waited_goes_on_too() {
    unless_held_up(300, || {
        let (bad, good) = (Server::resetter(), Server::named("b"));
        let instance = Instance::before(&[&bad, &good]);
        eventually("an answer", || (name(&instance) == 'b').then_some(()));
        instance.ctl("pause").code(0);
        let mut clients: Vec<_> = (0..4).map(|_| instance.connect()).collect();
        // Not a wait for anything: the time from a client's arrival is not that of its connection to the server.
        std::thread::sleep(std::time::Duration::from_millis(1_100));
        instance.ctl("resume").code(0);
        for client in &mut clients {
            assert_eq!(client.recv(1), b"b");
        }
        drop(clients);
        instance.end();
    });
}

#[test]
fn a_client_that_leaves_a_server_gets_in_line_for_one_that_is_full() {
    unless_held_up(300, || {
        for is_reset in [false, true] {
            let (bad, good) = (ends_at_once(is_reset), Server::named("b"));
            let instance = Instance::before(&[&"--queue", &"9", &bad, &format!("{good}:1")]);
            // It holds the only slot, and has been answered.
            let mut holder = eventually("an answer", || {
                let mut client = instance.connect();
                matches!(client.read(&mut [0]), Ok(1)).then_some(client)
            });
            let mut waits = instance.connect();
            eventually("it waits", || (instance.status()[1].queue == 1).then_some(()));
            holder.shut_wr();
            holder.ending();
            assert_eq!(waits.recv(1), b"b", "reset: {is_reset}");
            drop((holder, waits));
            instance.await_show("no slot is lost", |rows| rows.iter().all(|row| row.c == 0));
            instance.end();
        }
    });
}

#[test]
fn an_operator_who_enables_it_ends_its_rest() {
    let is_bad = Arc::new(AtomicBool::new(true));
    let its = Arc::clone(&is_bad);
    let a = Server::with(move |mut stream, _| {
        if !its.load(Ordering::SeqCst) && stream.write_all(b"a").is_ok() {
            let _ = stream.read(&mut [0]);
        }
    });
    let b = Server::named("b");
    let instance = Instance::before(&[&a, &b]);
    let mut told = 0;
    // So that its rest is a long one.
    for _ in 0..4 {
        eventually("it is ejected", || {
            name(&instance);
            let now = instance.told("ejected").len();
            (now > told).then(|| told = now)
        });
        is_bad.store(false, Ordering::SeqCst);
        let reply = instance.ctl("enable 0").code(0).stdout;
        // If it has come back by itself in this very moment, it was enabled already.
        assert!(reply.starts_with("channel 0"), "{reply}");
        assert_eq!(instance.status()[0].health, "up");
        let got = names(&instance, 2);
        assert!(got == "ab" || got == "ba", "{got}");
        is_bad.store(true, Ordering::SeqCst);
    }
    instance.end();
}

#[test]
fn a_client_that_is_moved_on_does_not_come_back_after_an_upgrade() {
    unless_held_up(300, || {
        let (bad, good) = (Server::resetter(), Server::named("b"));
        let mut instance = Instance::before(&[&"--queue", &"9", &bad, &format!("{good}:1")]);
        let mut holder = eventually("an answer", || {
            let mut client = instance.connect();
            matches!(client.read(&mut [0]), Ok(1)).then_some(client)
        });
        let mut waits = instance.connect();
        eventually("it waits", || (instance.status()[1].queue == 1).then_some(()));
        let accepted = bad.accepted();
        instance.upgrade();
        eventually("it waits again", || (instance.status()[1].queue == 1).then_some(()));
        holder.shut_wr();
        holder.ending();
        assert_eq!(waits.recv(1), b"b");
        assert_eq!(bad.accepted(), accepted, "it was there before");
        drop((holder, waits));
        instance.end();
    });
}

#[test]
fn a_client_goes_on_to_eight_channels_and_no_more() {
    unless_held_up(300, || {
        let servers: Vec<_> = (0..12).map(|_| Server::resetter()).collect();
        let channels: Vec<&dyn std::fmt::Display> = servers.iter().map(|server| server as _).collect();
        let instance = Instance::before(&channels);
        let mut client = instance.connect();
        client.ending();
        assert_eq!(servers.iter().map(Server::accepted).sum::<usize>(), 9);
        instance.end();
    });
}

#[test]
fn the_access_log_has_one_start_and_says_where_the_client_went() {
    unless_held_up(300, || {
        let (bad, good) = (Server::resetter(), Server::named("b"));
        let setup = Setup::new();
        let path = setup.directory().path().join("access.log");
        let path_text = path.display().to_string();
        let (a, b) = (bad.to_string(), good.to_string());
        let instance = setup.start(
            ["--access-log", &path_text, "--access-log-at", "start,end", "PORT", &a, &b].map(str::to_owned),
        );
        let id = eventually("one is moved on", || {
            assert_eq!(name(&instance), 'b');
            lines(&path).into_iter().find(|line| line["event"] == "moved_on").map(|line| line["id"].clone())
        });
        let events = eventually("its end", || {
            let all: Vec<_> = lines(&path).into_iter().filter(|line| line["id"] == id).collect();
            let events: Vec<_> =
                all.iter().map(|line| (line["event"].clone(), line["channel"].clone())).collect();
            (events.last()?.0 == "end").then_some(events)
        });
        let expected = |event: &str| (event.to_owned(), "1".to_owned());
        // One that is left before its start could be told has none.
        let moved = &events[events.len() - 2..];
        assert_eq!(moved, [expected("moved_on"), expected("end")]);
        assert!(
            events.len() <= 3 && events.iter().filter(|(event, _)| event == "start").count() <= 1,
            "{events:?}"
        );
        instance.end();
    });
}

#[test]
fn a_tap_tells_of_the_move() {
    let is_over = Arc::new(AtomicBool::new(false));
    let its = Arc::clone(&is_over);
    let bad = Server::with(move |stream, _| {
        while !its.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let _ = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
    });
    let good = Server::named("b");
    let instance = Instance::before(&[&bad, &good]);
    // A connection is young for a second only: on a machine that is slower than that, the next one shows it.
    eventually("a tap sees one move", || {
        is_over.store(false, Ordering::SeqCst);
        let mut client = instance.connect();
        let id = number_of(&instance, &client);
        let tap = Watcher::start(&instance, &format!("tap {id}")).begun();
        is_over.store(true, Ordering::SeqCst);
        let served = matches!(client.read(&mut [0]), Ok(1));
        client.shut_wr();
        client.ending();
        let (text, _, _) = tap.ends();
        let told = "\n\\ group 0 channel 0 has closed the connection at once; the client goes on to another channel\n-< 1\nb\n";
        (served && text.contains(told)).then_some(())
    });
    instance.end();
}

//! The wait queue for channels with room, seen from outside.
//!
//! Source: docs/compatibility.md, "Limits".

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::failover::{client_ip, name_of};
use crate::harness::{BlackHole, Client, Instance, Received, Refusing, Server, eventually};

/// An instance with a line, in front of these channels.
pub(crate) fn with_line(queue: &str, timeout: &str, channels: &[&dyn std::fmt::Display]) -> Instance {
    let options: [&dyn std::fmt::Display; 4] = [&"--queue", &queue, &"--queue-timeout", &timeout];
    Instance::before(&[&options, channels].concat())
}

/// The column `queue` of `status`.
pub(crate) fn waiting(instance: &Instance) -> Vec<usize> {
    let status = instance.ctl("status").code(0).stdout;
    let told_of_all = ["lost clients: ", "ended: ", "changed by hand: ", "names: "];
    let lines = status.lines().filter(|line| !told_of_all.iter().any(|what| line.starts_with(what)));
    let lines: Vec<Vec<_>> = lines.map(|line| line.split_whitespace().collect()).collect();
    let column = lines[0].iter().position(|word| *word == "queue").expect("a column queue");
    lines[1..].iter().map(|words| words[column].parse().expect("a number")).collect()
}

#[track_caller]
fn await_waiting(instance: &Instance, n: usize) {
    eventually("so many in line", || (waiting(instance).iter().max() == Some(&n)).then_some(()));
}

/// Gets into line as the `n`-th.
#[track_caller]
pub(crate) fn wait_as(instance: &Instance, n: usize) -> Client {
    let client = instance.connect();
    await_waiting(instance, n);
    client
}

#[test]
fn clients_are_served_in_the_order_in_which_they_came() {
    const CLIENTS: usize = 8;
    let a = Server::named("a");
    let instance = with_line("20", "1m", &[&"--workers", &"3", &format!("{a}:1")]);
    let (mut holder, _) = instance.named();
    let clients: Vec<_> = (1..=CLIENTS).map(|n| wait_as(&instance, n)).collect();
    let row = instance.show().remove(0);
    assert_eq!((row.c, row.totalc), (1, 1), "who waits is nobody's connection yet");
    for (served, mut client) in clients.into_iter().enumerate() {
        // The one slot: whoever has it, nobody else does.
        drop(holder);
        assert_eq!(name_of(&mut client), Some('a'), "client {served}");
        assert_eq!((instance.show()[0].c, waiting(&instance)), (1, vec![CLIENTS - 1 - served]));
        holder = client;
    }
    drop(holder);
    instance.end();
}

#[test]
fn a_slot_that_a_client_leaves_for_another_server_goes_to_the_line() {
    let reset = |stream: &TcpStream| {
        SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("linger");
    };
    // It keeps its first client until it is told to reset it, and serves the others.
    let (tell, told) = channel::<()>();
    let told = Mutex::new(told);
    let a = Server::with(move |mut stream, number| match number {
        0 => {
            let _ = told.lock().expect("one client").recv();
            reset(&stream);
        }
        _ => _ = stream.write_all(b"a").and_then(|()| stream.read(&mut [0])),
    });
    let is_good = Arc::new(AtomicBool::new(false));
    let its = Arc::clone(&is_good);
    let b = Server::with(move |mut stream, _| match its.load(Ordering::SeqCst) {
        false => reset(&stream),
        true => _ = stream.read(&mut [0]),
    });
    let instance = with_line("9", "5m", &[&format!("{a}:1"), &format!("{b}:1")]);
    let leaves = instance.connect();
    a.await_accepted(1);
    // One that the second server has reset waits for the first one alone. If the reset came late, it is closed.
    let mut waits = eventually("it waits", || {
        let client = instance.connect();
        eventually("it waits or is gone", || {
            let is_waiting = waiting(&instance).iter().max() == Some(&1);
            (is_waiting || !client.is_quiet_for(Duration::from_millis(1))).then_some(is_waiting)
        })
        .then_some(client)
    });
    is_good.store(true, Ordering::SeqCst);
    drop(tell);
    assert_eq!(waits.recv(1), b"a", "it waits beside a free slot");
    drop((leaves, waits));
    instance.end();
}

#[test]
fn a_client_beyond_the_line_is_closed_at_once() {
    let a = Server::named("a");
    let instance = with_line("2", "1m", &[&format!("{a}:1")]);
    let holder = instance.named();
    let mut first = wait_as(&instance, 1);
    let second = wait_as(&instance, 2);
    for _ in 0..3 {
        assert_eq!(instance.connect().ending(), Received::End);
    }
    assert_eq!(waiting(&instance), [2]);
    drop(holder);
    assert_eq!(name_of(&mut first), Some('a'));
    let third = wait_as(&instance, 2);
    drop((first, second, third));
    instance.end();
}

#[test]
fn who_waits_too_long_is_closed() {
    let a = Server::named("a");
    let instance = with_line("5", "300ms", &[&format!("{a}:1")]);
    let holder = instance.named();
    let begin = Instant::now();
    let mut client = instance.connect();
    assert_eq!(client.ending(), Received::End);
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(15), "{took:?}");
    await_waiting(&instance, 0);
    drop(holder);
    assert_eq!(instance.names(2), "aa", "its place is nobody's");
    assert_eq!(a.accepted(), 3);
    instance.end();
}

#[test]
fn a_client_that_leaves_gives_up_its_place() {
    let a = Server::named("a");
    let instance = with_line("5", "1m", &[&format!("{a}:1")]);
    let holder = instance.named();
    let resets = wait_as(&instance, 1);
    let closes = wait_as(&instance, 2);
    let half_closes = wait_as(&instance, 3);
    let mut stays = wait_as(&instance, 4);
    resets.rst();
    await_waiting(&instance, 3);
    drop(closes);
    await_waiting(&instance, 2);
    // It never said anything, so there is nothing that it could wait for an answer to.
    half_closes.shut_wr();
    await_waiting(&instance, 1);
    drop(holder);
    assert_eq!(name_of(&mut stays), Some('a'));
    assert_eq!(a.accepted(), 2, "no channel ever heard of the others");
    drop((half_closes, stays));
    instance.end();
}

#[test]
fn a_client_that_resets_while_its_channel_is_dialled_gives_up_its_slot() {
    let hole = BlackHole::new();
    // Longer than this test waits for anything.
    let instance = with_line("5", "2m", &[&"-t", &"120", &format!("{hole}:1")]);
    for ends_before in [false, true] {
        let mut dialled = instance.connect();
        eventually("it is dialled", || (instance.dials(hole.addr()) == 1).then_some(()));
        let behind = wait_as(&instance, 1);
        let last = wait_as(&instance, 2);
        if ends_before {
            dialled.send("question");
            dialled.shut_wr();
            eventually("its end was heard", || (instance.half_closed() == 1).then_some(()));
        }
        dialled.rst();
        // The next one has its slot, and then the last one.
        await_waiting(&instance, 1);
        assert_eq!(instance.show()[0].c, 1);
        behind.rst();
        await_waiting(&instance, 0);
        last.rst();
        instance.await_show("all have gone", |rows| rows[0].c == 0);
    }
    instance.await_losses("6 (client left 6)");
    instance.end();
}

#[test]
fn a_client_that_half_closes_while_its_channel_is_dialled_is_served() {
    // The second one waits for what its server says by itself.
    for question in ["question", ""] {
        let hole = BlackHole::new();
        let instance = Instance::before(&[&"-t", &"120", &hole]);
        let mut client = instance.connect();
        eventually("it is dialled", || (instance.dials(hole.addr()) == 1).then_some(()));
        client.send(question);
        client.shut_wr();
        eventually("its end was heard", || (instance.half_closed() == 1).then_some(()));
        let mut server = hole.accepts();
        assert_eq!(server.recv_all(), question.as_bytes());
        server.send("answer");
        drop(server);
        assert_eq!(client.recv_all(), b"answer");
        drop(client);
        instance.end();
    }
}

#[test]
fn a_client_that_has_closed_before_it_would_have_to_wait_does_not() {
    let (hole, a) = (BlackHole::new(), Server::named("a"));
    // Each client tries the first channel in vain, and then waits for the second.
    let options: [&dyn std::fmt::Display; 4] = [&"--no-eject", &"-t", &"5", &hole];
    let instance = with_line("5", "2m", &[&options[..], &[&"!", &format!("{a}:1")]].concat());
    let holder = instance.named();
    let mut asks = instance.connect();
    let silent = instance.connect();
    eventually("they are dialled", || (instance.dials(hole.addr()) == 2).then_some(()));
    asks.send("question");
    asks.shut_wr();
    drop(silent);
    eventually("one has gone", || (instance.losses() == "1 (client left 1)").then_some(()));
    eventually("the other waits", || (waiting(&instance) == [0, 1]).then_some(()));
    drop(holder);
    assert_eq!(asks.recv_all(), b"aquestion");
    drop(asks);
    instance.end();
}

#[test]
fn a_client_that_has_asked_and_half_closed_keeps_its_place_and_gets_its_answer() {
    let a = Server::named("a");
    let instance = with_line("5", "1m", &[&format!("{a}:1")]);
    let holder = instance.named();
    let mut client = wait_as(&instance, 1);
    client.send("question");
    client.shut_wr();
    let behind = wait_as(&instance, 2);
    drop(holder);
    assert_eq!(client.recv_all(), b"aquestion");
    drop((client, behind));
    instance.end();
}

#[test]
fn a_slot_of_any_group_serves_the_line_in_the_order_of_the_walk() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = with_line("5", "1m", &[&format!("{a}:1"), &"!", &format!("{b}:1")]);
    let (on_a, on_b) = (instance.named(), instance.named());
    assert_eq!((on_a.1.as_str(), on_b.1.as_str()), ("a", "b"));
    let mut first = wait_as(&instance, 1);
    let mut second = wait_as(&instance, 2);
    let mut third = wait_as(&instance, 3);
    drop(on_b);
    assert_eq!(name_of(&mut first), Some('b'), "a later group has room");
    drop(on_a);
    assert_eq!(name_of(&mut second), Some('a'));
    drop((first, second));
    assert!(name_of(&mut third).is_some());
    drop(third);
    instance.await_show("idle", |rows| rows.iter().all(|row| row.c == 0));
    assert_eq!(instance.names(1), "a");
    instance.end();
}

#[test]
fn a_hashed_client_waits_for_its_own_channel_and_holds_up_nobody() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = with_line("9", "1m", &[&format!("{a}:1"), &format!("{b}:1"), &"%"]);
    let connect = |client| Client::connect_from(client_ip(client), instance.addr);
    let (mut held, mut owner) = (std::collections::BTreeMap::new(), [None; 2]);
    for client in 0..64 {
        let mut holder = connect(client);
        holder.0.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        if let Some(name) = name_of(&mut holder) {
            owner[usize::from(name == 'b')] = Some(client);
            held.insert(name, holder);
        }
        if owner.iter().all(Option::is_some) {
            break;
        }
    }
    let [Some(of_a), Some(of_b)] = owner else { panic!("64 clients have one favourite") };
    await_waiting(&instance, 0);
    let mut first = connect(of_a);
    eventually("one for a", || (waiting(&instance) == [1, 0]).then_some(()));
    let mut second = connect(of_b);
    eventually("one for b", || (waiting(&instance) == [1, 1]).then_some(()));
    drop(held.remove(&'b'));
    assert_eq!(name_of(&mut second), Some('b'), "though another is in line before it");
    assert_eq!(waiting(&instance), [1, 0]);
    drop(held.remove(&'a'));
    assert_eq!(name_of(&mut first), Some('a'));
    drop((first, second));
    instance.end();
}

#[test]
fn whatever_makes_room_serves_the_line_at_once() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let (ip, port) = (b.addr.ip(), b.addr.port());
    for (before, after, name) in [
        ("version", "maxc 0 2".to_owned(), 'a'),
        ("version", "maxc 0 0".to_owned(), 'a'),
        ("disable 1", "enable 1".to_owned(), 'b'),
        ("weight 1 0", "weight 1 1".to_owned(), 'b'),
        ("disable 1", format!("assign 1 {ip} {port}; enable 1"), 'b'),
        ("disable 1; remove 1", format!("create {ip} {port}; enable 2"), 'b'),
        ("disable 1; remove 1", format!("group 3; create {ip} {port}; enable 0"), 'b'),
    ] {
        let second = format!("{b}:{}", if before == "version" { 1 } else { 9 });
        let instance = with_line("5", "1m", &[&format!("{a}:1"), &second]);
        instance.ctl(before).code(0);
        let mut held = vec![instance.named().0];
        if before == "version" {
            held.push(instance.named().0);
        }
        let mut client = wait_as(&instance, 1);
        instance.ctl(&after).code(0);
        assert_eq!(name_of(&mut client), Some(name), "{after}");
        await_waiting(&instance, 0);
        drop((held, client));
        instance.end();
    }
}

#[test]
fn a_connection_that_the_operator_closes_makes_room_too() {
    let a = Server::named("a");
    for command in ["kick 0", "disable 0 hard; enable 0", "close"] {
        let instance = with_line("5", "1m", &[&format!("{a}:1")]);
        let holder = instance.named();
        let mut first = wait_as(&instance, 1);
        let second = wait_as(&instance, 2);
        if command == "close" {
            let sessions = instance.ctl("sessions 0").code(0).stdout;
            let id = sessions.lines().nth(1).and_then(|line| line.split_whitespace().next());
            instance.ctl(&format!("close {}", id.expect("the holder's number"))).code(0);
        } else {
            instance.ctl(command).code(0);
        }
        assert_eq!(name_of(&mut first), Some('a'), "{command}");
        assert_eq!(
            (waiting(&instance), instance.show()[0].c),
            (vec![1], 1),
            "{command}: only one was closed"
        );
        drop((holder, first, second));
        instance.end();
    }
}

#[test]
fn those_in_line_sit_out_a_rest_of_their_channel() {
    let a = Server::named("a");
    let instance = with_line("5", "1m", &[&format!("{a}:1")]);
    let holder = instance.named();
    let mut client = wait_as(&instance, 1);
    instance.ctl("disable 0").code(0);
    assert_eq!(instance.connect().ending(), Received::End, "nobody joins for a channel that is off");
    drop(holder);
    instance.await_show("idle", |rows| rows[0].c == 0);
    assert!(client.is_quiet_for(Duration::from_millis(100)), "off is off, room or not");
    instance.ctl("enable 0").code(0);
    assert_eq!(name_of(&mut client), Some('a'));
    drop(client);
    instance.end();
}

#[test]
fn channels_that_are_off_or_do_not_answer_are_waited_for_by_nobody() {
    let (a, dead) = (Server::named("a"), Refusing::new());
    let instance = with_line("5", "1m", &[&a]);
    for off in ["disable 0", "enable 0; weight 0 0", "weight 0 1; disable 0 hard; remove 0"] {
        instance.ctl(off).code(0);
        assert_eq!(instance.connect().ending(), Received::End, "{off}");
    }
    instance.end();
    for options in [&[][..], &["--no-eject"], &["-a"]] {
        let options: Vec<&dyn std::fmt::Display> =
            options.iter().map(|option| option as _).chain([&dead as _]).collect();
        let instance = with_line("5", "1m", &options);
        for _ in 0..3 {
            assert_eq!(instance.connect().ending(), Received::End);
        }
        instance.end();
    }
}

#[test]
fn without_the_option_nobody_waits() {
    let a = Server::named("a");
    let instance = Instance::before(&[&format!("{a}:1")]);
    let holder = instance.named();
    assert_eq!(instance.connect().ending(), Received::End);
    assert_eq!(waiting(&instance), [0]);
    drop(holder);
    instance.end();
}

#[test]
fn kill_lets_the_line_be_served_to_its_end() {
    let a = Server::named("a");
    let mut instance = with_line("5", "1m", &[&format!("{a}:1")]);
    let holder = instance.named();
    let mut first = wait_as(&instance, 1);
    let mut second = wait_as(&instance, 2);
    instance.ctl("kill").code(0).out("shutdown complete, exiting.\n");
    drop(holder);
    assert_eq!(name_of(&mut first), Some('a'));
    assert!(instance.is_running());
    drop(first);
    assert_eq!(name_of(&mut second), Some('a'));
    drop(second);
    instance.killed();
}

#[test]
fn kill_ends_when_those_in_line_have_waited_long_enough() {
    let a = Server::named("a");
    let instance = with_line("5", "500ms", &[&format!("{a}:1")]);
    let holder = instance.named();
    let mut client = instance.connect();
    instance.ctl("kill").code(0);
    assert_eq!(client.ending(), Received::End);
    drop(holder);
    instance.killed();
}

#[test]
fn an_interrupt_ends_at_once_whoever_waits() {
    let a = Server::named("a");
    let instance = with_line("5", "1h", &[&format!("{a}:1")]);
    let holder = instance.named();
    let mut clients: Vec<_> = (1..=3).map(|n| wait_as(&instance, n)).collect();
    instance.terminate();
    for client in &mut clients {
        assert_eq!(client.ending(), Received::End);
    }
    drop(holder);
}

//! `--race`: a channel that has not answered in time, and the next one beside it.
//!
//! The kernel drops connects to the first channel because its listen queue is full, as if its machine had
//! vanished. `-t` is a minute, so a test in which a client waits for it does not end in time.
//!
//! Source: docs/health.md, "A race between channels".

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{BlackHole, Client, Instance, Received, Server, Setup, eventually};

use super::super::access::lines;
use super::{name, names};

const SLOW: [&dyn std::fmt::Display; 2] = [&"-t", &"60s"];

fn racing(channels: &[&dyn std::fmt::Display]) -> Instance {
    Instance::before(&[&SLOW[..], &[&"--race", &"20ms"], channels].concat())
}

/// How often each channel of the first group was outrun.
fn outrun(instance: &Instance) -> Vec<u64> {
    let text = instance.ctl("status json").code(0).stdout;
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let channels = json["groups"][0]["channels"].as_array().expect("channels").clone();
    channels.iter().map(|channel| channel["outrun"].as_u64().expect("a number")).collect()
}

fn await_dials(instance: &Instance, hole: &BlackHole, count: usize) {
    eventually("it is dialled", || (instance.dials(hole.addr()) == count).then_some(()));
}

#[test]
fn a_machine_that_vanished_is_outrun_and_then_found_out_in_the_background() {
    let (hole, b) = (BlackHole::new(), Server::named("b"));
    let instance = racing(&[&hole, &b]);
    assert_eq!(names(&instance, 4), "bbbb");
    assert!(outrun(&instance)[0] >= 1);
    let row = instance.await_health(0, "ejected");
    let lost = match outrun(&instance)[0] {
        1 => "lost 1 race: no answer yet".to_owned(),
        races => format!("lost {races} races: no answer yet"),
    };
    assert_eq!((row.failed, row.why), (0, format!("no answer within 2s; {lost}")));
    let totalc = instance.show()[0].totalc;
    assert_eq!(names(&instance, 4), "bbbb");
    assert_eq!((instance.show()[0].totalc, instance.show()[0].c), (totalc, 0), "and is left alone");
    instance.end();
}

#[test]
fn with_no_eject_each_client_pays_for_the_race_and_nobody_asks() {
    let (hole, b) = (BlackHole::new(), Server::named("b"));
    let instance = racing(&[&"--no-eject", &format!("{hole}:1"), &b]);
    assert_eq!(names(&instance, 6), "bbbbbb");
    // Both had their turn when the second one was tried, so the next turn is the first one's again.
    assert_eq!(outrun(&instance), [6, 0], "its only slot was free each time");
    let rows = instance.show();
    assert_eq!((rows[0].c, rows[0].totalc, instance.dials(hole.addr())), (0, 6, 0));
    instance.end();
}

#[test]
fn there_are_as_many_in_a_race_as_it_takes() {
    let holes = [BlackHole::new(), BlackHole::new(), BlackHole::new()];
    let b = Server::named("b");
    let instance = racing(&[&holes[0], &holes[1], &holes[2], &b]);
    assert_eq!(name(&instance), 'b');
    assert_eq!(outrun(&instance), [1, 1, 1, 0]);
    instance.await_show("no slot is lost", |rows| rows.iter().all(|row| row.c == 0));
    instance.end();
}

#[test]
fn one_that_answers_at_last_has_the_client() {
    let holes = [BlackHole::new(), BlackHole::new()];
    let instance = racing(&[&holes[0], &holes[1]]);
    for (number, hole) in holes.iter().enumerate() {
        let mut client = instance.connect();
        holes.iter().for_each(|hole| await_dials(&instance, hole, 1));
        let mut server = hole.accepts();
        server.send("late");
        assert_eq!(client.recv(4), b"late");
        assert_eq!(instance.show()[number].c, 1);
        server.shut_wr();
        client.shut_wr();
        client.ending();
        server.ending();
        instance.await_show("it is over", |rows| rows.iter().all(|row| row.c == 0));
        if number == 0 {
            // It answers from now on: the second one is alone in that it does not.
            break;
        }
    }
    instance.end();
}

#[test]
fn a_refusal_in_a_race_is_a_failure_and_the_others_go_on() {
    let (hole, b) = (BlackHole::new(), Server::named("b"));
    let refusing = crate::harness::Refusing::new();
    let instance = racing(&[&hole, &refusing, &b]);
    assert_eq!(name(&instance), 'b');
    let rows = instance.status();
    assert_eq!((rows[0].failed, rows[1].failed), (0, 1), "{rows:?}");
    assert_eq!(rows[1].health, "ejected");
    instance.end();
}

#[test]
fn whoever_waited_all_of_the_time_has_failed() {
    let holes = [BlackHole::new(), BlackHole::new()];
    let instance = Instance::before(&[&"-t", &"300ms", &"--race", &"20ms", &holes[0], &holes[1]]);
    assert_eq!(name(&instance), '-');
    let rows = instance.status();
    assert_eq!((rows[0].failed, rows[1].failed), (1, 1), "{rows:?}");
    assert_eq!(outrun(&instance), [0, 0]);
    assert!(
        rows.iter().all(|row| row.health == "ejected" && row.why == "connect: no answer in time"),
        "{rows:?}"
    );
    instance.end();
}

#[test]
fn a_race_does_not_leave_its_group_nor_a_hashed_channel() {
    let (hole, b) = (BlackHole::new(), Server::named("b"));
    let short: [&dyn std::fmt::Display; 4] = [&"-t", &"400ms", &"--race", &"10ms"];
    let instance = Instance::before(&[&short[..], &[&hole, &"!", &b]].concat());
    assert_eq!(name(&instance), 'b');
    assert_eq!(outrun(&instance), [0]);
    assert_eq!(instance.status()[0].failed, 1);
    instance.end();
    for (option, is_raced) in [("--no-eject", false), ("-H", true)] {
        let instance = Instance::before(&[&short[..], &[&option, &hole, &b, &"%", &"-"]].concat());
        let mut got = String::new();
        for last in 1..=16 {
            let mut client = Client::connect_from([127, 0, 0, last], instance.addr);
            got.push(if matches!(client.peek(&mut [0]), Ok(1)) { 'b' } else { '-' });
            client.shut_wr();
            client.ending();
        }
        assert_eq!((got.contains('-'), outrun(&instance)[0] > 0), (!is_raced, is_raced), "{option}: {got}");
        instance.end();
    }
}

#[test]
fn a_race_that_cannot_begin_is_refused() {
    let directory = crate::harness::Directory::new();
    let race = ["-f", "--race", "50ms"];
    for (more, wrong) in [
        (&["-t", "50ms", "80", "127.0.0.1:9"][..], "--race must be less than -t"),
        (&["80", "127.0.0.1:9", "%"][..], "--race is of no use with %"),
        (&["--policy", "hash", "80", "127.0.0.1:9"][..], "--race is of no use with %"),
    ] {
        let run = crate::harness::Run::balance(&directory).args(race).args(more).finish();
        let _ = run.code(64).err(wrong);
    }
}

#[test]
fn a_client_that_leaves_in_mid_race_leaves_nothing_behind() {
    let holes = [BlackHole::new(), BlackHole::new()];
    let instance = racing(&[&holes[0], &holes[1]]);
    for is_reset in [true, false] {
        let client = instance.connect();
        holes.iter().for_each(|hole| await_dials(&instance, hole, 1));
        if is_reset {
            client.rst();
        } else {
            instance.ctl(&format!("close {}", super::super::tap::number_of(&instance, &client))).code(0);
        }
        instance.await_show("no slot is lost", |rows| rows.iter().all(|row| row.c == 0));
        holes.iter().for_each(|hole| await_dials(&instance, hole, 0));
    }
    assert_eq!(outrun(&instance), [0, 0]);
    instance.end();
}

#[test]
fn a_kick_in_mid_race_takes_that_channel_out_of_it() {
    for kicked in [0, 1] {
        let holes = [BlackHole::new(), BlackHole::new()];
        let instance = racing(&[&holes[0], &holes[1]]);
        let mut client = instance.connect();
        holes.iter().for_each(|hole| await_dials(&instance, hole, 1));
        instance.ctl(&format!("disable {kicked} hard")).code(0);
        await_dials(&instance, &holes[kicked], 0);
        let mut server = holes[1 - kicked].accepts();
        server.send("x");
        assert_eq!(client.recv(1), b"x");
        let rows = instance.status();
        assert_eq!((rows[0].failed, rows[1].failed), (0, 0), "{rows:?}");
        client.shut_wr();
        assert_eq!(server.ending(), Received::End);
        drop((client, server));
        instance.end();
    }
}

#[test]
fn an_upgrade_in_mid_race_loses_nobody() {
    let (hole, other) = (BlackHole::new(), BlackHole::new());
    let mut instance = racing(&[&"--no-eject", &hole, &other]);
    let mut client = instance.connect();
    [&hole, &other].into_iter().for_each(|hole| await_dials(&instance, hole, 1));
    let old = instance.pid();
    // While the processes change hands, one of them answers at last.
    let answering = std::thread::spawn(move || {
        let mut server = hole.accepts();
        server.send("x");
        (server, hole)
    });
    instance.upgrade();
    assert_ne!(instance.pid(), old);
    assert_eq!(client.recv(1), b"x");
    let (mut server, _hole) = answering.join().expect("no panic");
    client.shut_wr();
    server.ending();
    drop((client, server));
    instance.end();
}

#[test]
fn the_winner_gets_its_header_once_and_the_access_log_counts_both() {
    let (hole, echo) = (BlackHole::new(), Server::echo());
    let setup = Setup::new();
    let path = setup.directory().path().join("access.log");
    let args = [&path.display().to_string(), "-t", "60s", "--race", "20ms", "PORT"].map(str::to_owned);
    let channels = [format!("{hole},proxy=v1"), format!("{echo},proxy=v1")];
    let instance = setup.start(["--access-log".to_owned()].into_iter().chain(args).chain(channels));
    let mut client = instance.connect();
    client.send("hello\n");
    client.shut_wr();
    let text = String::from_utf8(client.recv_all()).expect("text");
    let ours = client.0.local_addr().expect("it is connected");
    let (header, rest) = text.split_once("\r\n").expect("a header");
    assert!(header.starts_with(&format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} ", ours.port())), "{text}");
    assert_eq!(rest, "hello\n");
    let line = eventually("its line", || lines(&path).pop());
    assert_eq!((&*line["attempts"], &*line["failed"], &*line["channel"]), ("2", "-", "1"));
    instance.end();
}

#[test]
fn a_pause_of_the_process_in_mid_race_is_no_failure() {
    let holes = [BlackHole::new(), BlackHole::new()];
    let instance = Instance::before(&[&"-t", &"5s", &"--race", &"20ms", &holes[0], &holes[1]]);
    let mut client = instance.connect();
    holes.iter().for_each(|hole| await_dials(&instance, hole, 1));
    instance.signal(Signal::STOP);
    // It answers while nobody looks; then it is later than `-t`.
    let mut server = holes[0].accepts();
    server.send("x");
    std::thread::sleep(Duration::from_secs(6));
    instance.signal(Signal::CONT);
    assert_eq!(client.recv(1), b"x");
    let rows = instance.status();
    assert_eq!((rows[0].failed, rows[1].failed), (0, 0), "{rows:?}");
    client.shut_wr();
    server.ending();
    drop((client, server));
    instance.end();
}

#[test]
fn without_descriptors_to_spare_there_is_no_race_and_nobody_is_lost() {
    let (hole, b) = (BlackHole::new(), Server::named("b"));
    let setup = Setup::new().shell("ulimit -n 64; ");
    let args = ["--workers", "1", "-t", "1s", "--race", "10ms", "--no-eject", "PORT"].map(str::to_owned);
    let instance = setup.start(args.into_iter().chain([hole.to_string(), b.to_string()]));
    let threads: Vec<_> = (0..12)
        .map(|_| {
            let addr = instance.addr;
            std::thread::spawn(move || {
                (0..3)
                    .map(|_| crate::harness::visit(addr).got)
                    .filter(|got| *got != crate::harness::Got::Name('b'))
                    .count()
            })
        })
        .collect();
    let lost: usize = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
    assert_eq!(lost, 0);
    instance.await_show("no slot is lost", |rows| rows.iter().all(|row| row.c == 0));
    instance.end();
}

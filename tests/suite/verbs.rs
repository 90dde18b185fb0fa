//! The everyday commands on a loaded instance: look, drain, wait, kick, close, remove.
//!
//! Source: docs/control.md, "Commands".

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::failover::name_of;
use crate::harness::{
    BALANCE, BlackHole, Client, Direction, Got, Instance, Load, Over, Received, Revivable, Run, Server,
    Stream, Visit, eventually,
};

/// How many controllers are in a session with it.
fn sessions_open(instance: &Instance) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", instance.pid())).into_iter().flatten().flatten();
    let names = tasks.map(|task| fs::read_to_string(task.path().join("comm")).unwrap_or_default());
    names.filter(|name| name.trim_end() == "session").count()
}

/// `balance -c COMMAND` at work; comes back when its session is open.
#[track_caller]
fn at_work(instance: &Instance, command: &str) -> Child {
    eventually("no session of before", || (sessions_open(instance) == 0).then_some(()));
    let child = Command::new(BALANCE)
        .args(instance.bind_option())
        .args(["-c", command, &instance.port()])
        .env("BALANCE_RUN_DIR", instance.directory.path().join("run"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program under test");
    eventually("a session", || (sessions_open(instance) > 0).then_some(()));
    child
}

/// Its exit code and its stdout.
#[track_caller]
fn outcome(mut child: Child) -> (Option<i32>, String) {
    let status = eventually("the controller's end", || child.try_wait().expect("our own child"));
    let mut said = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut said).expect("text");
    (status.code(), said)
}

/// Sends a stream of its own to an echo, piece by piece, and checks what comes back, until told to stop or until the
/// connection ends. `true` = it lived.
fn talk(client: &mut Client, number: u64, stop: &AtomicBool) -> bool {
    let stream = Stream::new(number, Direction::Sent);
    let (mut at, mut buffer) = (0, vec![0; 16 << 10]);
    while !stop.load(Ordering::SeqCst) {
        let piece = stream.bytes(at, 1 + (at as usize * 7) % (16 << 10));
        if client.0.write_all(&piece).is_err() {
            return false;
        }
        let mut back = 0;
        while back < piece.len() {
            match client.read(&mut buffer[..piece.len() - back]) {
                Ok(0) | Err(_) => return false,
                Ok(n) => {
                    stream.check(at, &buffer[..n]);
                    at += n as u64;
                    back += n;
                }
            }
        }
    }
    true
}

/// Runs `act` while every client talks; which of them lived.
fn while_talking(clients: &mut [(Client, String)], act: impl FnOnce()) -> Vec<bool> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&stop);
        let talkers: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(number, (client, _))| {
                let stop = &stop;
                scope.spawn(move || talk(client, number as u64, stop))
            })
            .collect();
        act();
        stop.store(true, Ordering::SeqCst);
        talkers.into_iter().map(|talker| talker.join().expect("no byte was wrong")).collect()
    })
}

/// Waits until channels have moved bytes since.
fn await_traffic(instance: &Instance) {
    let sum = || instance.show().iter().map(|row| row.rcvd).sum::<u64>();
    let before = sum();
    eventually("traffic", || (sum() > before + 200_000).then_some(()));
}

#[test]
fn kick_closes_the_connections_of_one_channel_and_no_byte_of_the_others() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&a, &b]);
    let mut clients: Vec<_> = (0..6).map(|_| instance.named()).collect();
    let lived = while_talking(&mut clients, || {
        await_traffic(&instance);
        instance.ctl("kick 0").code(0).out("channel 0 kicked, 3 connections closed\n");
        instance.await_show("they are gone", |rows| rows[0].c == 0 && rows[1].c == 3);
        instance.ctl("kick 0").code(0).out("channel 0 kicked, 0 connections closed\n");
        await_traffic(&instance);
    });
    let of_b: Vec<_> = clients.iter().map(|(_, name)| name == "b").collect();
    assert_eq!(lived, of_b);
    assert_eq!(instance.names(2), "ab", "a kicked channel takes new connections");
    drop(clients);
    instance.end();
}

#[test]
fn a_kick_sends_clients_whose_dial_is_under_way_to_the_next_channel() {
    let (hole, b) = (BlackHole::new(), Server::named("b"));
    let instance = Instance::before(&[&"-t", &"60", &hole, &"!", &b]);
    let mut clients: Vec<_> = (0..3).map(|_| instance.connect()).collect();
    instance.await_show("three dials", |rows| rows[0].c == 3);
    instance.ctl("wait 0 10ms").code(75).out("channel 0 still has 3 connections\n");
    instance.ctl("drain 0; kick 0; wait 0").code(0).out(
        "channel 0 draining, 3 connections left\nchannel 0 kicked, 0 connections closed\nchannel 0 idle\n",
    );
    for client in &mut clients {
        assert_eq!(client.recv(1), b"b");
    }
    let status = &instance.status()[0];
    assert_eq!((status.failed, &status.why[..]), (0, "-"), "nobody failed");
    assert_eq!(instance.names(1), "b");
    drop(clients);
    instance.end();
}

#[test]
fn a_kick_of_the_only_channel_closes_clients_whose_dial_is_under_way() {
    let hole = BlackHole::new();
    let instance = Instance::before(&[&"-t", &"60", &hole]);
    let mut client = instance.connect();
    instance.await_show("a dial", |rows| rows[0].c == 1);
    instance.ctl("kick 0").code(0);
    assert_eq!(client.ending(), Received::End);
    instance.end();
}

#[test]
fn drain_sends_nobody_new_and_leaves_streams_alone() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&a, &b]);
    let mut clients: Vec<_> = (0..4).map(|_| instance.named()).collect();
    let lived = while_talking(&mut clients, || {
        await_traffic(&instance);
        instance.ctl("drain 0").code(0).out("channel 0 draining, 2 connections left\n");
        assert_eq!(instance.names(5), "bbbbb");
        await_traffic(&instance);
    });
    assert_eq!(lived, [true; 4]);
    assert_eq!(instance.show()[0].state, "dis");
    drop(clients.remove(2));
    instance.await_show("one has left", |rows| rows[0].c == 1);
    instance.ctl("drain 0").code(0).out("channel 0 draining, 1 connection left\n");
    drop(clients);
    instance.await_show("idle", |rows| rows[0].c == 0);
    instance.ctl("drain 0").code(0).out("channel 0 drained\n");
    instance.end();
}

#[test]
fn wait_answers_when_the_last_connection_ends() {
    let a = Server::named("a");
    let instance = Instance::before(&[&a]);
    instance.ctl("wait 0").code(0).out("channel 0 idle\n");
    let clients = [instance.named(), instance.named()];
    let mut waiter = at_work(&instance, "drain 0; wait 0");
    let mut said = vec![0; "channel 0 draining, 2 connections left\n".len()];
    waiter.stdout.as_mut().expect("a pipe").read_exact(&mut said).expect("what there is to wait for, first");
    assert_eq!(said, b"channel 0 draining, 2 connections left\n");
    let [first, last] = clients;
    drop(first);
    instance.await_show("one has left", |rows| rows[0].c == 1);
    // It looks every few ms: what it would have done wrong, it has done by now.
    assert!(last.0.is_quiet_for(Duration::from_millis(100)));
    assert_eq!(waiter.try_wait().expect("our own child"), None, "one is still there");
    drop(last);
    assert_eq!(outcome(waiter), (Some(0), "channel 0 idle\n".to_owned()));
    instance.end();
}

#[test]
fn wait_in_vain_says_so_with_75_when_its_time_is_over() {
    let a = Server::named("a");
    let instance = Instance::before(&[&a]);
    let client = instance.named();
    let begin = Instant::now();
    instance.ctl("wait 0 300ms").code(75).out("channel 0 still has 1 connection\n");
    assert!(begin.elapsed() >= Duration::from_millis(300));
    let second = instance.named();
    instance.ctl("wait 0 0.01").code(75).out("channel 0 still has 2 connections\n");
    instance.ctl("wait 0 0; version").code(75).out(
        "channel 0 still has 2 connections\n  This is balance 4.0\n  MAXGROUPS=65535\n  MAXCHANNELS=65535\n",
    );
    drop((client, second));
    instance.end();
}

#[test]
fn a_controller_that_is_killed_while_it_waits_leaves_no_session_behind() {
    let a = Server::named("a");
    let instance = Instance::before(&[&a]);
    let client = instance.named();
    let mut waiter = at_work(&instance, "wait 0");
    waiter.kill().expect("our own child");
    waiter.wait().expect("our own child");
    eventually("no session", || (sessions_open(&instance) == 0).then_some(()));
    assert_eq!(instance.show()[0].c, 1);
    drop(client);
    instance.end();
}

#[test]
fn a_wait_keeps_the_instance_from_stopping_neither_by_signal_nor_by_kill() {
    let a = Server::named("a");
    for by_signal in [true, false] {
        let mut instance = Instance::before(&[&a]);
        let client = instance.named();
        let waiter = at_work(&instance, "wait 0");
        if by_signal {
            instance.signal(Signal::INT);
            assert_eq!(instance.wait(), 0);
            let (code, said) = outcome(waiter);
            assert!(matches!(code, Some(0 | 69 | 75)), "{code:?} {said}");
        } else {
            instance.ctl("kill").code(0).out("shutdown complete, exiting.\n");
            // Its connections live on, and so does whoever waits for their end.
            drop(client);
            assert_eq!(outcome(waiter), (Some(0), "channel 0 idle\n".to_owned()));
            instance.killed();
        }
    }
}

#[test]
fn a_rolling_restart_loses_nobody() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let (c, d) = (Server::named("c"), Server::named("d"));
    let instance = Instance::before(&[&a, &b]);
    let stop = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let _over = Over(&stop);
        let ask = |i: usize| {
            let mut asked = 0;
            while !stop.load(Ordering::SeqCst) {
                let (mut client, _) = instance.named();
                client.send(format!("{i}"));
                client.shut_wr();
                assert_eq!(client.recv_all(), i.to_string().as_bytes());
                asked += 1;
            }
            asked
        };
        let clients: Vec<_> = (0..4).map(|i| scope.spawn(move || ask(i))).collect();
        let roll = |number, server: &Server, new| {
            let port = format!("-b {} {}", instance.addr.ip(), instance.port());
            let (ip, at) = (server.addr.ip(), server.addr.port());
            let script = format!(
                "balance -c 'drain {number}; wait {number} 30' {port} >/dev/null
                 balance -c 'remove {number}; create {ip} {at}; enable {new}' {port}"
            );
            let said = format!("channel {number} removed\nchannel created\nchannel {new} enabled\n");
            Run::script(&instance.directory, &script).finish().code(0).out(&said);
        };
        roll(0, &c, 2);
        roll(1, &d, 3);
        c.await_accepted(5);
        d.await_accepted(5);
        stop.store(true, Ordering::SeqCst);
        clients.into_iter().map(|client| client.join().expect("every answer came")).sum::<usize>()
    });
    assert_eq!([&a, &b, &c, &d].map(Server::accepted).iter().sum::<usize>(), asked);
    let rows = instance.show();
    assert_eq!(rows.iter().map(|row| row.channel).collect::<Vec<_>>(), [2, 3]);
    instance.end();
}

#[test]
fn remove_takes_only_an_unused_channel_and_its_number_is_never_given_again() {
    let (a, b, c) = (Server::named("a"), Server::named("b"), Server::named("c"));
    let instance = Instance::before(&[&a, &b, &c]);
    let used = "channel must be disabled and without connections to be removed\n";
    instance.ctl("remove 1").code(65).out(used);
    let clients: Vec<_> = (0..3).map(|_| instance.named()).collect();
    instance.ctl("disable 1").code(0);
    instance.ctl("remove 1").code(65).out(used);
    drop(clients);
    instance.await_show("idle", |rows| rows[1].c == 0);
    instance.ctl("remove 1").code(0).out("channel 1 removed\n");
    instance
        .ctl("remove 1; enable 1; maxc 1 5; drain 1")
        .code(65)
        .out("no such channel 1\nno such channel 1\nunknown channel\nno such channel 1\n");
    assert_eq!(instance.names(4), "acac");
    let numbers = |instance: &Instance| instance.show().iter().map(|row| row.channel).collect::<Vec<_>>();
    assert_eq!(numbers(&instance), [0, 2]);
    let b_again = format!("create {} {}; enable 3", b.addr.ip(), b.addr.port());
    instance.ctl(&b_again).code(0).out("channel created\nchannel 3 enabled\n");
    assert_eq!(numbers(&instance), [0, 2, 3]);
    let mut names: Vec<_> = instance.names(3).chars().collect();
    names.sort_unstable();
    assert_eq!(names, ['a', 'b', 'c']);
    // The last one too leaves its number taken.
    instance.await_show("idle", |rows| rows.iter().all(|row| row.c == 0));
    instance.ctl("disable 3; remove 3; create 127.0.0.1 9; enable 4").code(0);
    assert_eq!(numbers(&instance), [0, 2, 4]);
    instance.end();
}

#[test]
fn close_ends_exactly_the_connection_of_that_number() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&a, &b]);
    let mut clients: Vec<_> = (0..5).map(|_| instance.named().0).collect();
    let address = clients[2].0.local_addr().expect("it is connected").to_string();
    let sessions = instance.ctl("sessions").code(0).stdout;
    let line = sessions.lines().find(|line| line.contains(&format!(" {address} "))).expect("its line");
    let id = line.split_whitespace().next().expect("its number").to_owned();
    instance.ctl(&format!("close {id}")).code(0).out(&format!("session {id} closed\n"));
    assert_eq!(name_of(&mut clients[2]), None);
    for (number, client) in clients.iter_mut().enumerate().filter(|(number, _)| *number != 2) {
        client.send(format!("{number}"));
        assert_eq!(client.recv(1), number.to_string().as_bytes());
    }
    instance.ctl(&format!("close {id}")).code(65).out(&format!("no such session {id}\n"));
    drop(clients);
    instance.end();
}

#[test]
fn a_channel_with_another_address_has_no_connect_times_of_the_old_one() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&a]);
    assert_eq!(instance.names(1), "a");
    assert_ne!(instance.status()[0].p50, "-");
    instance.await_show("it is over", |rows| rows[0].c == 0);
    instance.ctl(&format!("disable 0; assign 0 {} {}", b.addr.ip(), b.addr.port())).code(0);
    assert_eq!(instance.status()[0].p50, "-");
    instance.ctl("enable 0").code(0);
    assert_eq!(instance.names(1), "b");
    assert_ne!(instance.status()[0].p50, "-");
    instance.end();
}

/// Servers that are restarted one after another lose nobody, if the next one is drained only when the last one has
/// answered.
#[test]
fn a_rolling_restart_with_servers_that_listen_late_loses_no_client() {
    for options in [&["--check", "tcp", "--check-rise", "1"][..], &["--check", "tcp"], &[], &["--no-eject"]] {
        let mut servers = ["a", "b"].map(Revivable::new);
        let addresses = [&servers[0], &servers[1]].map(ToString::to_string);
        let line: Vec<&str> = [options, &["PORT"], &[&addresses[0], &addresses[1]]].concat();
        let instance = Instance::start(line);
        let load = Load::on(instance.addr, 3);
        load.await_more(20);
        for (channel, server) in servers.iter_mut().enumerate() {
            instance.ctl(&format!("drain {channel}; wait {channel} 30s")).code(0);
            server.stop();
            // It takes its time, and meanwhile nobody answers.
            let told = instance.ctl(&format!("wait {channel} up 0.3")).code(75).stdout;
            assert!(told.starts_with(&format!("channel {channel} is not up yet")), "{told}");
            std::thread::scope(|scope| {
                let up = scope.spawn(|| instance.ctl(&format!("wait {channel} up 60s; enable {channel}")));
                load.await_more(200);
                assert!(!up.is_finished(), "nobody listens there");
                server.start();
                let said = up.join().expect("a controller").code(0);
                said.out(&format!("channel {channel} up\nchannel {channel} enabled\n"));
            });
        }
        load.await_more(50);
        let lost: Vec<Visit> =
            load.finish().into_iter().filter(|visit| !matches!(visit.got, Got::Name(_))).collect();
        assert!(lost.is_empty(), "{options:?}: {lost:?}");
        instance.end();
    }
}

#[test]
fn wait_up_asks_the_server_and_believes_no_check_of_before() {
    let mut server = Revivable::new("a");
    // The next check is far away, so `status` shows what was true before.
    let instance =
        Instance::start(["--check", "tcp", "--check-interval", "10m", "PORT", &server.to_string()]);
    eventually("the first check", || (instance.status()[0].health == "up").then_some(()));
    instance.ctl("wait 0 up").code(0).out("channel 0 up\n");
    server.stop();
    assert_eq!(instance.status()[0].health, "up");
    let said = instance.ctl("wait 0 up 200ms").code(75).stdout;
    assert!(said.starts_with("channel 0 is not up yet"), "{said}");
    server.start();
    instance.ctl("wait 0 up 60s").code(0).out("channel 0 up\n");
    // One that is removed meanwhile is waited for no longer, nor is one that nobody checks any more.
    server.stop();
    let waiter = at_work(&instance, "disable 0; wait 0 up");
    instance.await_show("it is disabled", |rows| rows[0].state == "dis");
    instance.ctl("remove 0").code(0);
    assert_eq!(outcome(waiter), (Some(65), "channel 0 disabled\nno such channel 0\n".to_owned()));
    instance.end();
    let instance = Instance::before(&[&server]);
    let client = instance.connect();
    let waiter = at_work(&instance, "wait 0 up");
    instance.ctl("kill").code(0);
    let (code, said) = outcome(waiter);
    let why = "channel 0 is not up yet: the service ends, so its channels are not tried";
    assert!(code == Some(75) && said.contains(why), "{code:?} {said}");
    drop(client);
    instance.killed();
}

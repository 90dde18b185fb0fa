//! Another process takes over while clients are served: `upgrade`, SIGUSR2.
//!
//! Source: docs/upgrade.md.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::harness::{
    Client, Direction, Instance, Received, Run, Server, Setup, Stream, eventually, executable, own_address,
};

#[test]
fn connections_and_all_that_is_known_go_on_in_another_process() {
    let (a, b) = (Server::echo(), Server::echo());
    let mut instance = Instance::before(&[&a, &b]);
    let stream = Stream::new(1, Direction::Sent);
    let mut clients: Vec<Client> = (0..20).map(|_| instance.connect()).collect();
    let mut at = 0;
    let mut exchange = |clients: &mut [Client]| {
        for client in clients {
            client.send(stream.bytes(at, 3_000));
            stream.check(at, &client.recv(3_000));
        }
        at += 3_000;
    };
    exchange(&mut clients);
    instance.ctl("weight 1 3; maxc 1 77; disable 0").code(0);
    for round in 1..=3 {
        // A worker counts when its call has come back, and the client may have the bytes before.
        let moved = 10 * 3_000 * round;
        let before = instance.await_show("all is counted", |rows| {
            rows.iter().all(|row| (row.sent, row.rcvd) == (moved, moved))
        });
        let sessions = instance.ctl("sessions").code(0).stdout.lines().count();
        let pid = instance.pid();
        let told = instance.upgrade();
        assert!(told.ends_with("serves now: carried 20, draining 0\n"), "{told}");
        assert_ne!(instance.pid(), pid);
        assert_eq!(instance.show(), before, "round {round}: nothing is forgotten");
        assert_eq!(instance.ctl("sessions").code(0).stdout.lines().count(), sessions);
        let status = instance.ctl("status").code(0).stdout;
        assert!(status.ends_with(&format!("from process {pid}: carried 20, draining 0\n")), "{status}");
        exchange(&mut clients);
    }
    // It takes new ones, too, by the rules that were set by hand.
    instance.ctl("disable 1; enable 0").code(0);
    let mut client = instance.connect();
    client.send("new");
    assert_eq!(client.recv(3), b"new");
    drop((client, clients));
    instance.end();
}

#[test]
fn a_signal_does_it_too() {
    let server = Server::echo();
    let mut instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    client.send("one");
    assert_eq!(client.recv(3), b"one");
    instance.signal(Signal::USR2);
    instance.find_successor();
    client.send("two");
    assert_eq!(client.recv(3), b"two");
    drop(client);
    instance.end();
}

#[test]
fn whoever_waits_to_be_accepted_is_served() {
    const WAITING: usize = 100;
    let server = Server::echo();
    // No more are accepted than this: the others wait in the kernel.
    let mut instance = Instance::before(&[&"--max-connections", &WAITING.to_string(), &server]);
    let ping = |clients: &mut Vec<Client>| {
        for client in clients {
            client.send("ping");
        }
    };
    let pong = |clients: &mut Vec<Client>| {
        for client in clients {
            assert_eq!(client.recv(4), b"ping");
        }
    };
    let mut first: Vec<Client> = (0..WAITING).map(|_| instance.connect()).collect();
    ping(&mut first);
    pong(&mut first);
    let mut clients: Vec<Client> = (0..WAITING).map(|_| instance.connect()).collect();
    ping(&mut clients);
    assert_eq!(instance.ctl("sessions").code(0).stdout.lines().count(), WAITING + 1);
    assert_eq!(server.accepted(), WAITING, "the others are nobody's yet");
    instance.upgrade();
    ping(&mut first);
    pong(&mut first);
    assert_eq!(server.accepted(), WAITING, "the new process keeps to it, too");
    drop(first);
    pong(&mut clients);
    drop(clients);
    instance.end();
}

#[test]
fn what_is_held_for_a_slow_reader_is_delivered() {
    // The server takes nothing until it is told to, then all.
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let (total, counted) = std::sync::mpsc::channel();
    let server = Server::with(move |mut stream, _| {
        let _ = gone.lock().expect("no panic").recv();
        let mut all = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut all);
        let _ = total.send(all);
    });
    let mut instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    let stream = Stream::new(7, Direction::Sent);
    const LENGTH: u64 = 24 << 20;
    let sender = std::thread::spawn(move || {
        client.send_stream(stream, LENGTH);
        client.shut_wr();
        client
    });
    eventually("all buffers are full", || {
        let before = instance.show()[0].sent;
        std::thread::sleep(Duration::from_millis(200));
        (before > 0 && instance.show()[0].sent == before).then_some(())
    });
    for _ in 0..3 {
        instance.upgrade();
    }
    go.send(()).expect("the server waits");
    let all = counted.recv_timeout(Duration::from_secs(60)).expect("it ends");
    assert_eq!(all.len() as u64, LENGTH);
    stream.check(0, &all);
    drop(sender.join().expect("it sends"));
    instance.end();
}

#[test]
fn a_half_closed_connection_stays_half_closed() {
    let server = Server::with(|mut stream, _| {
        let mut all = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut all);
        let _ = std::io::Write::write_all(&mut stream, &all);
    });
    let mut instance = Instance::before(&[&server]);
    let slow = Server::with(|mut stream, _| {
        // Ends its own direction at once, and hears the client out.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut all = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut all);
    });
    instance.ctl(&format!("create {} {}; enable 1", slow.addr.ip(), slow.addr.port())).code(0);
    let mut first = instance.connect();
    first.send("before");
    // Two that come at once may be let in in any order.
    instance.await_show("the first one has its channel", |rows| rows[0].c == 1 && rows[0].sent == 6);
    let mut second = instance.connect();
    assert_eq!(second.recv_all(), b"");
    eventually("the end was seen", || (instance.half_closed() == 1).then_some(()));
    instance.upgrade();
    assert_eq!(instance.half_closed(), 1);
    second.send("still heard");
    first.send(" and after");
    first.shut_wr();
    assert_eq!(first.recv_all(), b"before and after");
    drop((first, second));
    instance.end();
}

#[test]
fn clients_in_line_keep_their_places() {
    let server = Server::echo();
    let mut instance = Instance::start(["--queue", "10", "PORT", &format!("{server}:1")]);
    let mut first = instance.connect();
    first.send("a");
    assert_eq!(first.recv(1), b"a");
    let mut waiting = Vec::new();
    for n in 0..3_u64 {
        let mut client = instance.connect();
        client.send([b'0' + n as u8]);
        waiting.push(client);
        eventually("it is in line", || (instance.status()[0].queue == n + 1).then_some(()));
    }
    instance.upgrade();
    eventually("they are in line", || (instance.status()[0].queue == 3).then_some(()));
    drop(first);
    for (n, mut client) in waiting.into_iter().enumerate() {
        assert_eq!(client.recv(1), [b'0' + n as u8]);
    }
    instance.end();
}

#[test]
fn a_program_that_is_no_balance_changes_nothing() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    let wrong = executable(&instance.directory, "wrong", "#!/bin/sh\nexit 3\n");
    let plain = instance.directory.file("plain", "no program");
    for (path, why) in [
        ("/nonexistent", "/nonexistent: No such file or directory"),
        ("/bin/true", "the new process ended with exit code 0"),
        ("/bin/cat", "the new process"),
        (wrong.to_str().expect("text"), "the new process ended with exit code 3"),
        (plain.to_str().expect("text"), "Permission denied"),
    ] {
        let finished = instance.ctl(&format!("upgrade {path}")).code(69);
        let start = "no upgrade, this process goes on: ";
        assert!(finished.stdout.starts_with(start) && finished.stdout.contains(why), "{}", finished.stdout);
        client.send("x");
        assert_eq!(client.recv(1), b"x");
        let mut new = instance.connect();
        new.send("y");
        assert_eq!(new.recv(1), b"y");
    }
    drop(client);
    instance.end();
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_a_new_one_holds() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let listen = own_address();
    let setup = Setup::binding(listen);
    let line = |channel: &Server| format!("web: -b {} {} {channel}\n", listen.ip(), listen.port());
    let file = setup.directory().file("services", &line(&a));
    let mut instance = setup.start(["--file".to_owned(), file.display().to_string()]);
    let (held, name) = instance.named();
    assert_eq!(name, "a");
    instance.directory.file("services", "web: nonsense\n");
    let told = instance.ctl("upgrade").code(69).stdout;
    assert!(told.contains("services:1:"), "{told}");
    assert_eq!(instance.names(2), "aa");
    let more = own_address();
    let other = format!("more: -b {} {} {b}\n", more.ip(), more.port());
    instance.directory.file("services", &format!("{}{other}", line(&b)));
    instance.upgrade();
    assert_eq!(instance.names(2), "bb");
    assert_eq!(Client::connect(more).recv(1), b"b");
    let told = instance.ctl("services").code(0).stdout;
    assert!(told.contains("more") && !told.contains("changed"), "{told}");
    drop(held);
    // It listens twice now, so it has more descriptors than at its start.
    instance.await_show("nobody is left", |rows| rows.iter().all(|row| row.c == 0));
    instance.terminate();
}

#[test]
fn kills_and_new_sessions_work_after_many_upgrades() {
    let server = Server::echo();
    let mut instance = Instance::before(&[&server]);
    let baseline = instance.descriptors();
    let mut client = instance.connect();
    for n in 0..20u8 {
        instance.upgrade();
        client.send([n]);
        assert_eq!(client.recv(1), [n]);
    }
    drop(client);
    instance.await_show("all are gone", |rows| rows[0].c == 0);
    eventually("no descriptor is lost", || (instance.descriptors() <= baseline).then_some(()));
    instance.ctl("kill").code(0);
    instance.killed();
}

#[test]
fn a_reset_is_still_passed_on() {
    let server = Server::with(|mut stream, _| {
        let mut byte = [0];
        while std::io::Read::read_exact(&mut stream, &mut byte).is_ok() && byte != *b"!" {
            let _ = std::io::Write::write_all(&mut stream, &byte);
        }
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
    });
    let mut instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    client.send("x");
    assert_eq!(client.recv(1), b"x");
    instance.upgrade();
    client.send("!");
    assert!(matches!(client.ending(), Received::Reset), "the server has reset it");
    instance.terminate();
}

#[test]
fn another_command_line_takes_the_port_over() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let listen = own_address();
    let bind = [String::from("-b"), listen.ip().to_string(), listen.port().to_string()];
    let mut old = Setup::binding(listen).start(bind.iter().cloned().chain([a.to_string()]));
    let (held, name) = old.named();
    assert_eq!(name, "a");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let comers = std::thread::spawn({
        let stop = std::sync::Arc::clone(&stop);
        move || {
            let mut names = String::new();
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                names.push_str(&String::from_utf8_lossy(&Client::connect(listen).recv(1)));
            }
            names
        }
    });
    // One that cannot start changes nothing.
    let start = || Run::balance(&old.directory).arg("--replace").args(&bind);
    start().arg("no.such.host.invalid").finish().code(65);
    let name = format!("process.{}", old.pid());
    let ask_by_name = || Run::balance(&old.directory).args(["-c", "sessions", &name]).finish();
    // It is found by its number, too.
    ask_by_name().code(0);
    // A start that does not ask for the port hears who has it.
    let plain = Run::balance(&old.directory).args(&bind).arg(b.addr.to_string()).finish().code(71);
    let has_it = format!("process {} serves {listen}; --replace takes the port over from it", old.pid());
    plain.err("bind(): Address already in use").err(&has_it);
    start().arg(b.addr.to_string()).finish().code(0).err(&format!("taken over from process {}", old.pid()));
    eventually("the new one serves", || {
        String::from_utf8(Client::connect(listen).recv(1)).is_ok_and(|name| name == "b").then_some(())
    });
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let names = comers.join().expect("nobody was refused");
    assert_eq!(
        names.trim_start_matches('a').trim_start_matches('b'),
        "",
        "first the old one, then the new: {names}"
    );
    // Who was connected is served by the old one, which can be asked.
    let asked =
        || Run::balance(&old.directory).args(["-c", "sessions"]).arg(format!("process.{}", old.pid()));
    // It goes by that name a moment after the new one serves, and may still have one that has just left.
    eventually("the old one is asked", || {
        let told = asked().finish();
        (told.code == 0 && told.stdout.lines().count() == 2).then_some(())
    });
    drop(held);
    let kill = Run::balance(&old.directory).args(["-c", "kill"]).args(&bind);
    assert_eq!(old.wait(), 0);
    let gone = Run::balance(&old.directory).args(["-c", "sessions", &name]).finish();
    gone.code(69).err(&format!("process {} has ended", old.pid()));
    kill.finish().code(0);
    // Nobody has it now, which is said.
    let again = Run::balance(&old.directory).arg("--replace").args(&bind).arg(b.addr.to_string());
    again.finish().code(0).err("no instance of yours serves these addresses");
    Run::balance(&old.directory).args(["-c", "kill"]).args(&bind).finish().code(0);
}

/// What a script has started has the input of the script, and with it what was never read there.
#[test]
fn a_script_that_fails_keeps_nothing_that_it_was_offered() {
    for (ending, why) in [("kill -9 $$", "by signal 9"), ("exit 3", "with exit code 3")] {
        let listen = own_address();
        let setup = Setup::binding(listen);
        let socket = setup.directory().path().join("x.sock");
        let lines = format!(
            "a: -b {} {} 127.0.0.1:9\nb: unix:{} 127.0.0.1:9\n",
            listen.ip(),
            listen.port(),
            socket.display()
        );
        let file = setup.directory().file("services", &lines);
        let instance = setup.start(["--file".to_owned(), file.display().to_string()]);
        let pid = instance.directory.path().join("pid");
        // A background job of a shell has /dev/null as its input, unless it is given another one.
        let text = format!("#!/bin/sh\nexec 3<&0\nsleep 300 <&3 &\necho $! >{}\n{ending}\n", pid.display());
        let script = executable(&instance.directory, "script", &text);
        let refused = instance.ctl(&format!("upgrade {}", script.display())).code(69).stdout;
        assert!(refused.contains(&format!("the new process ended {why}")), "{refused}");
        let left = read_pid(&pid);
        UnixStream::connect(&socket).expect("it is served here");
        instance.terminate();
        let lives = test_kill_process(left);
        let at = (TcpStream::connect(listen).is_ok(), UnixStream::connect(&socket).is_ok());
        kill_process(left, Signal::KILL).expect("nobody has ended it");
        assert_eq!((lives, at), (Ok(()), (false, false)), "it lives, and nobody listens");
    }
}

#[test]
fn what_a_script_has_started_ends_with_it_when_the_upgrade_fails() {
    let listen = own_address();
    let setup = Setup::binding(listen);
    let lines = format!("a: -b {} {} 127.0.0.1:9\n", listen.ip(), listen.port());
    let file = setup.directory().file("services", &lines);
    let mut instance = setup.start(["--file".to_owned(), file.display().to_string()]);
    let pid = instance.directory.path().join("pid");
    // A shell waits for a shell that waits for the program.
    let text = format!(
        "#!/bin/sh\nsh -c 'sh -c \"echo \\$\\$ >{0}.new; mv {0}.new {0}; exec sleep 300\"; true'; true\n",
        pid.display()
    );
    let script = executable(&instance.directory, "script", &text);
    thread::scope(|scope| {
        scope.spawn(|| instance.ctl(&format!("upgrade {}", script.display())));
        eventually("the new process begins", || pid.exists().then_some(()));
        let later = "another process is taking over just now, and nothing was changed; try again\n";
        instance.ctl("reload").code(75).out(later);
        instance.ctl("kill").code(0).out("shutdown complete, exiting.\n");
    });
    let left = read_pid(&pid);
    // Nobody may reap it; then it has no words.
    let words = || fs::read(format!("/proc/{}/cmdline", left.as_raw_nonzero())).unwrap_or_default();
    eventually("it has ended", || words().is_empty().then_some(()));
    assert_eq!(instance.wait(), 0);
}

fn read_pid(file: &Path) -> Pid {
    let text = fs::read_to_string(file).expect("written");
    text.trim().parse().ok().and_then(Pid::from_raw).expect("a number")
}

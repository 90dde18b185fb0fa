//! The time in which the new process serves and the old one still hands over. A connect that nobody answers
//! prolongs it.
//!
//! Source: docs/upgrade.md, docs/stop.md.

use std::net::{IpAddr, Ipv4Addr, TcpListener};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{BlackHole, Client, Finished, Instance, Run, Server, Setup, eventually, own_address};

/// Where the client comes from that is on its way.
const DIALLED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 5));

/// Channel 0 serves, a connect to channel 1 is not answered before the test wants it to be.
struct Window {
    instance: Instance,
    hole: BlackHole,
    /// Served by channel 0.
    held: Client,
    /// On its way to channel 1.
    dialled: Client,
    _server: Server,
}

impl Window {
    fn new() -> Self {
        let (server, hole) = (Server::echo(), BlackHole::new());
        let instance = Instance::before(&[&"-t", &"120", &server, &hole]);
        let mut held = instance.connect();
        held.send("x");
        assert_eq!(held.recv(1), b"x");
        let mut dialled = Client::connect_from(DIALLED, instance.addr);
        dialled.send("question");
        eventually("it is dialled", || (instance.dials(hole.addr()) == 1).then_some(()));
        Self { instance, hole, held, dialled, _server: server }
    }

    /// Does this while the old process still hands over; `act` gets the numbers of the old process and of the new one.
    fn meanwhile(&mut self, act: impl FnOnce(&mut Self, i32, i32)) -> Finished {
        let old = self.instance.pid();
        let upgrading = Run::balance(&self.instance.directory).args(self.instance.bind_option()).args([
            "-c",
            "upgrade",
            &self.instance.port(),
        ]);
        let upgrading = std::thread::spawn(move || upgrading.finish());
        let heir = eventually("the new process serves", || {
            let served =
                self.instance.ctl("status").stdout.contains(&format!("from process {old}: carried 1,"));
            self.instance.processes().into_iter().find(|&pid| comes_from(pid, old)).filter(|_| served)
        });
        act(self, old, heir);
        upgrading.join().expect("it is answered")
    }

    /// The one who was dialled is served by channel 1.
    fn answer(&mut self) -> Client {
        let mut server = self.hole.accepts();
        assert_eq!(server.recv(8), b"question");
        server.send("answer");
        assert_eq!(self.dialled.recv(6), b"answer");
        server
    }

    /// Waits until nobody listens there. A client that tried would be one more on its way to channel 1.
    fn await_free(&self) {
        eventually("the port is free", || TcpListener::bind(self.instance.addr).ok().map(drop));
    }

    fn assert_free(&self) {
        drop(TcpListener::bind(self.instance.addr).expect("the port is free"));
    }

    fn assert_over(&self) {
        eventually("no process is left", || self.instance.processes().is_empty().then_some(()));
        assert!(!self.instance.stderr().contains("panicked"), "{}", self.instance.stderr());
    }
}

/// Was a process started to take over from this one? Whoever asks for that is a process, too.
fn comes_from(pid: i32, old: i32) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|one| one == format!("BALANCE_HANDOVER={old}").as_bytes())
}

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a pid is not 0"), signal).expect("it is there");
}

#[test]
fn a_second_upgrade_waits_for_the_first() {
    let mut window = Window::new();
    let mut served = None;
    let told = window.meanwhile(|window, old, heir| {
        let told = window.instance.ctl("upgrade").code(69).stdout;
        assert!(told.contains("has not handed over all of its connections yet"), "{told}");
        // This one is put off.
        send(heir, Signal::USR2);
        let all = window.instance.processes();
        assert!([old, heir].iter().all(|pid| all.contains(pid)), "{old} and {heir}: {all:?}");
        served = Some(window.answer());
    });
    let told = told.code(0).stdout;
    assert!(told.ends_with("carried 2, draining 0\n"), "{told}");
    let heir: i32 = told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("a process");
    window.instance.succeed(heir);
    window.instance.find_successor();
    assert_eq!(window.instance.processes(), [window.instance.pid()]);
    window.held.send("y");
    assert_eq!(window.held.recv(1), b"y");
    window.dialled.send("more");
    assert_eq!(served.as_mut().expect("it was answered").recv(4), b"more");
    window.instance.terminate();
}

#[test]
fn both_processes_are_told_to_drain_and_drain_once() {
    for who in [[true, true], [true, false], [false, true]] {
        let mut window = Window::new();
        let mut served = None;
        window.meanwhile(|window, old, heir| {
            for (pid, _) in [old, heir].into_iter().zip(who).filter(|(_, is_told)| *is_told) {
                send(pid, Signal::TERM);
            }
            window.await_free();
            window.held.send("y");
            assert_eq!(window.held.recv(1), b"y", "{who:?}: it lives on");
            served = Some(window.answer());
        });
        window.dialled.send("more");
        assert_eq!(served.as_mut().expect("it was answered").recv(4), b"more", "{who:?}: it lives on");
        window.held.send("z");
        assert_eq!(window.held.recv(1), b"z");
        let Window { instance, held, dialled, .. } = &mut window;
        assert!(!instance.processes().is_empty(), "{who:?}");
        held.shut_wr();
        dialled.shut_wr();
        drop(served);
        window.assert_over();
    }
}

#[test]
fn an_end_at_once_ends_both() {
    for to_heir in [true, false] {
        let mut window = Window::new();
        window.meanwhile(|window, old, heir| {
            send(if to_heir { heir } else { old }, Signal::INT);
            window.assert_over();
            window.assert_free();
        });
    }
    // Nobody is served again by the one that was there before.
    let mut window = Window::new();
    window.meanwhile(|window, _, _| {
        window.instance.ctl("kill 0").code(0);
        window.assert_free();
        let _ = window.held.ending();
        // Who comes later goes the same way.
        let mut server = window.hole.accepts();
        let _ = window.dialled.ending();
        let _ = server.ending();
    });
    window.assert_over();
}

#[test]
fn what_is_done_to_a_channel_is_done_to_who_is_on_the_way() {
    for command in ["kick 1", "disable 1 hard", "deny 127.0.0.5 kick"] {
        let mut window = Window::new();
        let told = window.meanwhile(|window, _, _| {
            window.instance.ctl(command).code(0);
            let mut server = window.hole.accepts();
            // With the command in the way it may be a reset or an end, and does come.
            let _ = window.dialled.ending();
            let _ = server.ending();
        });
        let heir = told.code(0).stdout.split(' ').nth(1).and_then(|pid| pid.parse().ok());
        window.instance.succeed(heir.expect("a process"));
        window.instance.await_show("it has nobody", |rows| rows[1].c == 0 && rows[0].c == 1);
        window.held.send("y");
        assert_eq!(window.held.recv(1), b"y");
        window.instance.terminate();
    }
}

#[test]
fn a_service_that_is_killed_meanwhile_gets_those_who_are_on_the_way() {
    let mut window = Window::new();
    let mut served = None;
    window.meanwhile(|window, _, _| {
        window.instance.ctl("kill").code(0);
        window.assert_free();
        served = Some(window.answer());
    });
    window.dialled.send("more");
    assert_eq!(served.as_mut().expect("it was answered").recv(4), b"more");
    window.held.shut_wr();
    window.dialled.shut_wr();
    drop(served);
    window.assert_over();
}

#[test]
fn who_finds_no_server_in_the_old_process_goes_on_to_the_next_one() {
    let (hole, server) = (BlackHole::new(), Server::named("a"));
    let listen = own_address();
    let port = listen.port().to_string();
    let bind = ["-b".to_owned(), listen.ip().to_string(), "-t".to_owned(), "6".to_owned()];
    let mut old = Setup::binding(listen).start(bind.iter().cloned().chain([
        port.clone(),
        hole.to_string(),
        "!".to_owned(),
        server.to_string(),
    ]));
    let mut client = old.connect();
    eventually("it is dialled", || (old.dials(hole.addr()) == 1).then_some(()));
    Run::balance(&old.directory)
        .arg("--replace")
        .args(&bind)
        .args([&port, &server.to_string()])
        .finish()
        .code(0);
    assert_eq!(client.recv(1), b"a", "by the old process, after its time");
    drop(client);
    assert_eq!(old.wait(), 0);
    Run::balance(&old.directory).args(["-c", "kill"]).args(&bind).arg(&port).finish().code(0);
}

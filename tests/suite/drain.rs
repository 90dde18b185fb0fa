//! Stopping: SIGTERM and `kill TIME` free the port at once, connections finish, and those left when the time
//! is over are closed.
//!
//! Source: docs/stop.md. `ending` has ends that come at once, `signals` has signals that end nothing.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::ending::{endings, stalled_downloads};
use crate::failover::name_of;
use crate::harness::{
    Client, Direction, Directory, Finished, Instance, Received, Run, Server, Setup, Stream, eventually,
    own_address, unless_held_up,
};
use crate::queue::{wait_as, with_line};

/// Listening on an address of its own, with these options, in front of this server.
fn start(options: &[&str], server: &Server) -> Instance {
    start_at(own_address(), options, server)
}

fn start_at(address: SocketAddr, options: &[&str], server: &Server) -> Instance {
    let ip = address.ip().to_string();
    let server = server.to_string();
    let args = options.iter().copied().chain(["-b", &ip, "PORT", &server]);
    Setup::binding(address).start(args)
}

/// A client whose connection is there on both sides.
fn served(instance: &Instance) -> Client {
    let mut client = instance.connect();
    echo(&mut client);
    client
}

#[track_caller]
fn echo(client: &mut Client) {
    client.send("x");
    assert_eq!(client.recv(1), b"x");
}

/// Waits until nobody listens there. Asked of the kernel: a connect would be one more client.
#[track_caller]
fn await_free(address: SocketAddr) {
    let SocketAddr::V4(v4) = address else { panic!("{address} is not IPv4") };
    let place = format!(" {:08X}:{:04X} ", u32::from_ne_bytes(v4.ip().octets()), v4.port());
    let listens = |line: &str| line.contains(&format!("{place}00000000:0000 0A"));
    eventually("nobody listens", || {
        let sockets = fs::read_to_string("/proc/net/tcp").expect("Linux has it");
        (!sockets.lines().any(listens)).then_some(())
    });
}

/// Asks the process that drains.
#[track_caller]
fn ask(instance: &Instance, command: &str) -> Finished {
    ask_in(&instance.directory, instance.pid(), command)
}

fn ask_in(directory: &Directory, pid: i32, command: &str) -> Finished {
    Run::balance(directory).args(["-c", command, &format!("process.{pid}")]).finish()
}

fn names(instance: &Instance) -> Vec<String> {
    let run = std::fs::read_dir(instance.directory.path().join("run")).into_iter().flatten().flatten();
    run.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn after_a_sigterm_clients_live_on_and_a_successor_has_port_and_name() {
    let server = Server::echo();
    let mut old = start(&["-d", "--drain-timeout", "1h"], &server);
    let mut client = served(&old);
    old.signal(Signal::TERM);
    await_free(old.addr);
    let told = eventually("it is logged", || old.told("stopping").pop());
    assert!(told.ends_with(" connections=1 within=3600.0s"), "{told}");
    // The next one, with the same directory of names.
    let (ip, port) = (old.addr.ip().to_string(), old.port());
    let next = ["--drain-timeout", "0", "-b", &ip, &port, &server.to_string()].map(str::to_owned);
    Run::balance(&old.directory).args(next).finish().code(0);
    let mut late = served(&old);
    let shell = old.shell("").code(0).stdout;
    let pid = shell.lines().find_map(|line| line.strip_prefix("PID of master process is ")).expect("a pid");
    assert_ne!(pid, old.pid().to_string(), "the port means the successor");
    // Both can be asked.
    echo(&mut client);
    assert!(ask(&old, "status").code(0).stdout.contains(&server.addr.port().to_string()));
    assert_eq!(ask(&old, "sessions").code(0).stdout.lines().count(), 2);
    assert!(ask(&old, "services").code(0).stdout.contains(" 1 draining "));
    assert_eq!(old.show()[0].c, 1, "this is the successor's");
    let list = Run::balance(&old.directory).arg("--list").finish().code(0);
    let row = |pid: &str| {
        let mut rows = list.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.find(|row| row[2] == pid).unwrap_or_else(|| panic!("{pid} is not in {list}"))
    };
    assert_eq!(row(&old.pid().to_string())[4..7], ["1/1", "1", "draining"]);
    assert_eq!(row(pid)[4..7], ["1/1", "1", "serving"]);
    // A channel can be closed in the one that drains, and with its last connection it ends.
    ask(&old, "kick 0").code(0).out("channel 0 kicked, 1 connection closed\n");
    assert_eq!(client.ending(), Received::End);
    assert_eq!(old.wait(), 0);
    old.await_told([("drained", 1)]);
    assert_ne!(ask(&old, "status").code, 0);
    echo(&mut late);
    old.ctl("kill").code(0);
    drop(late);
    eventually("no name is left", || names(&old).is_empty().then_some(()));
}

#[test]
fn without_connections_a_sigterm_is_the_end() {
    let server = Server::echo();
    let mut instance = start(&["--drain-timeout", "1h"], &server);
    drop(served(&instance));
    instance.await_show("it is over", |rows| rows[0].c == 0);
    instance.signal(Signal::TERM);
    assert_eq!(instance.wait(), 0);
    assert!(names(&instance).is_empty());
}

#[test]
fn at_the_end_of_the_time_who_misses_bytes_is_reset_and_others_end_cleanly() {
    const CLIENTS: usize = 50;
    let channel = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let to = channel.local_addr().expect("it is bound");
    for by_kill in [false, true] {
        let mut instance = Instance::before(&[&"--drain-timeout", &"500ms", &"-d", &to]);
        let mut idle = instance.connect();
        let (kept, _) = channel.accept().expect("its channel");
        let mut downloads = stalled_downloads(&instance, &channel, CLIENTS);
        if by_kill {
            instance.ctl("kill 500ms").code(0).out("shutdown complete, exiting.\n");
        } else {
            instance.signal(Signal::TERM);
        }
        assert_eq!(idle.ending(), Received::End);
        assert_eq!(instance.wait(), 0);
        assert_eq!(endings(&mut downloads), [CLIENTS, 0]);
        let closed = instance.told("closed");
        assert_eq!(closed.len(), CLIENTS + 1);
        assert!(closed.iter().all(|line| line.contains("how=\"shut down\"")), "{closed:#?}");
        drop(kept);
    }
}

#[test]
fn a_second_sigterm_an_interrupt_and_a_second_kill_are_the_end() {
    let server = Server::echo();
    for how in ["TERM", "INT", "QUIT", "kill", "kill 0", "0"] {
        let time = if how == "0" { "0" } else { "1h" };
        let mut instance = start(&["--drain-timeout", time], &server);
        let mut client = served(&instance);
        instance.signal(Signal::TERM);
        await_free(instance.addr);
        match how {
            "TERM" => instance.signal(Signal::TERM),
            "INT" => instance.signal(Signal::INT),
            "QUIT" => instance.signal(Signal::QUIT),
            "0" => {}
            kill => {
                echo(&mut client);
                ask(&instance, kill).code(0).out("shutdown complete, exiting.\n");
            }
        }
        assert_eq!(instance.wait(), 0, "{how}");
        assert_eq!(client.ending(), Received::End, "{how}");
        assert!(names(&instance).is_empty(), "{how}");
    }
}

#[test]
fn after_a_kill_the_process_is_asked_by_its_own_name_and_a_sigterm_sets_it_a_time() {
    let server = Server::echo();
    let mut instance = start(&["--drain-timeout", "200ms"], &server);
    let mut client = served(&instance);
    let mut other = served(&instance);
    instance.ctl("kill").code(0).out("shutdown complete, exiting.\n");
    assert_eq!(instance.ctl("show").code, 69);
    echo(&mut client);
    let sessions = ask(&instance, "sessions").code(0).stdout;
    // Those of the same age come in either order.
    let ours = client.0.local_addr().expect("it is connected").to_string();
    let line = sessions.lines().find(|line| line.split_whitespace().nth(1) == Some(&ours)).expect("ours");
    let id = line.split_whitespace().next().expect("a number");
    ask(&instance, &format!("close {id}")).code(0);
    assert_eq!(client.ending(), Received::End);
    echo(&mut other);
    instance.signal(Signal::TERM);
    assert_eq!(other.ending(), Received::End);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_process_that_was_stopped_gives_its_clients_what_was_left_of_their_time() {
    unless_held_up(300, || {
        let server = Server::echo();
        let mut instance = start(&["--drain-timeout", "5s"], &server);
        let mut client = served(&instance);
        instance.signal(Signal::TERM);
        await_free(instance.addr);
        instance.signal(Signal::STOP);
        // What the client asks for meanwhile can only be answered afterwards.
        client.send("y");
        thread::sleep(Duration::from_secs(6));
        instance.signal(Signal::CONT);
        assert_eq!(client.recv(1), b"y");
        echo(&mut client);
        assert_eq!(client.ending(), Received::End);
        assert_eq!(instance.wait(), 0);
    });
}

#[test]
fn kill_with_a_time_is_for_one_service_of_several() {
    let server = Server::echo();
    let [web, mail] = [(); 2].map(|()| own_address());
    let setup = Setup::binding(mail);
    let line = |name: &str, at: SocketAddr| format!("{name}: -b {} {} {server}\n", at.ip(), at.port());
    let file = setup.directory().file("services", &(line("web", web) + &line("mail", mail)));
    let mut instance = setup.start(["--file", &file.display().to_string()]);
    let connect = |to| {
        let mut client = Client::connect(to);
        echo(&mut client);
        client
    };
    let [mut at_web, mut at_mail] = [web, mail].map(connect);
    instance.ctl("use web; kill 300ms").code(0).out("using service web\nshutdown complete, exiting.\n");
    await_free(web);
    assert_eq!(at_web.ending(), Received::End);
    echo(&mut at_mail);
    // The last word counts, and one that drains may be told to hurry.
    instance.ctl("reload").code(0);
    let mut at_web = connect(web);
    instance.ctl("use web; kill 1h").code(0);
    echo(&mut at_web);
    instance.ctl("use web; kill").code(0);
    assert_eq!(at_web.ending(), Received::End);
    echo(&mut at_mail);
    instance.ctl("use mail; kill 1h").code(0);
    assert!(ask(&instance, "services").code(0).stdout.contains(" 1 draining "));
    ask(&instance, "kill 100ms").code(0);
    assert_eq!(at_mail.ending(), Received::End);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn who_waits_in_line_is_served_after_a_sigterm() {
    let a = Server::named("a");
    let mut instance = with_line("5", "1m", &[&format!("{a}:1")]);
    let holder = instance.named();
    let mut first = wait_as(&instance, 1);
    instance.signal(Signal::TERM);
    await_free(instance.addr);
    drop(holder);
    assert_eq!(name_of(&mut first), Some('a'));
    drop(first);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_storm_of_signals_under_load_loses_no_byte_unseen() {
    for round in 0..4_u64 {
        let seed = 0x5109_u64.wrapping_mul(round + 1);
        println!("seed {seed}");
        let server = Server::echo();
        let address = own_address();
        let setup = Setup::binding(address);
        let text = format!("* --drain-timeout 2s\n-b {} {} {server}\n", address.ip(), address.port());
        let file = setup.directory().file("services", &text);
        let mut instance = setup.start(["--file", &file.display().to_string()]);
        let stop = Arc::new(AtomicBool::new(false));
        let load: Vec<_> = (0..4_u32)
            .map(|number| {
                let stop = Arc::clone(&stop);
                thread::spawn(move || {
                    let stream = Stream::new(u64::from(number), Direction::Sent);
                    while !stop.load(Ordering::SeqCst) {
                        let Ok(mut client) = Client::try_connect(address, None, None) else { continue };
                        if exchange(&mut client, stream).is_none() {
                            return;
                        }
                    }
                })
            })
            .collect();
        server.await_accepted(8);
        let mut state = seed;
        let kinds = [Signal::HUP, Signal::USR1, Signal::ALARM, Signal::HUP, Signal::TERM];
        for number in 0..60 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // TERM once: a second one is the end, which comes last.
            let kind = if number == 30 { 4 } else { (state >> 33) as usize % 4 };
            instance.signal(kinds[kind]);
        }
        if round % 2 == 0 {
            await_free(address);
        }
        for signal in [Signal::TERM, Signal::INT, Signal::TERM] {
            if instance.is_running() {
                instance.signal(signal);
            }
        }
        assert_eq!(instance.wait(), 0, "seed {seed}: {}", instance.stderr());
        stop.store(true, Ordering::SeqCst);
        for one in load {
            one.join().unwrap_or_else(|_| panic!("seed {seed}"));
        }
        assert!(!instance.stderr().contains("panic"), "{}", instance.stderr());
        assert!(names(&instance).is_empty());
    }
}

/// One exchange with an echo. `None`: the instance ended meanwhile. A clean end before all has come is a lost byte.
fn exchange(client: &mut Client, stream: Stream) -> Option<()> {
    use std::io::Write;
    let bytes = stream.bytes(0, 20_000);
    client.0.write_all(&bytes).ok()?;
    let (mut got, mut buffer) = (0, [0; 20_000]);
    while got < bytes.len() {
        match client.read(&mut buffer) {
            // The end, closed by an operator who was asked to: nothing was on its way back.
            Ok(0) => return None,
            Ok(n) => {
                stream.check(got as u64, &buffer[..n]);
                got += n;
            }
            Err(_) => return None,
        }
    }
    Some(())
}

#[test]
fn a_reload_that_is_under_way_opens_nothing_after_a_sigterm() {
    let server = Server::echo();
    for _ in 0..10 {
        let [first, second] = [(); 2].map(|()| own_address());
        let setup = Setup::binding(first);
        let line = |at: SocketAddr| format!("-b {} {} {server}\n", at.ip(), at.port());
        let file = setup.directory().file("services", &line(first));
        let mut instance = setup.start(["--drain-timeout", "1h", "--file", &file.display().to_string()]);
        let client = served(&instance);
        instance.directory.file("services", &(line(first) + &line(second)));
        instance.signal(Signal::HUP);
        instance.signal(Signal::TERM);
        await_free(first);
        eventually("the reload is over", || {
            let told = instance.told("note");
            let reads_nothing =
                || told.is_empty() && !names(&instance).iter().any(|name| name.starts_with("balance."));
            (told.iter().any(|line| line.contains("reload")) || reads_nothing()).then_some(())
        });
        await_free(second);
        let own = [format!("service.process.{}", instance.pid())];
        eventually("nobody else's name is left", || (names(&instance) == own).then_some(()));
        drop(client);
        assert_eq!(instance.wait(), 0);
    }
}

/// Clients that wait, in this order, for an instance whose channels are paused.
fn paused_with_line(instance: &Instance, count: usize) -> Vec<Client> {
    instance.ctl("pause").code(0).out("all channels paused\n");
    let come = |n: usize| {
        let client = instance.connect();
        eventually("it waits", || {
            (instance.ctl("sessions").code(0).stdout.lines().count() == n + 2).then_some(())
        });
        client
    };
    (0..count).map(come).collect()
}

#[test]
fn who_waits_for_a_pause_when_a_sigterm_comes_is_served_at_resume() {
    let server = Server::named("a");
    let mut instance = start(&["--drain-timeout", "1h"], &server);
    let mut clients = paused_with_line(&instance, 3);
    instance.signal(Signal::TERM);
    await_free(instance.addr);
    ask(&instance, "resume").code(0).out("all channels resumed, 3 clients waited\n");
    for client in &mut clients {
        assert_eq!(name_of(client), Some('a'));
    }
    drop(clients);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn who_still_waits_for_a_pause_at_the_end_of_the_time_is_closed_and_it_is_told_why() {
    let server = Server::named("a");
    let mut instance = start(&["-d", "--drain-timeout", "200ms"], &server);
    let mut clients = paused_with_line(&instance, 3);
    instance.signal(Signal::TERM);
    for client in &mut clients {
        // Nobody has missed a byte of an answer.
        assert_eq!(client.ending(), Received::End);
    }
    assert_eq!(instance.wait(), 0);
    // The same is not logged again and again.
    let told = instance.told("client_lost");
    assert!(!told.is_empty() && told.iter().all(|line| line.contains("shut down")), "{told:?}");
    assert_eq!(server.accepted(), 0);
}

#[test]
fn whoever_asks_by_the_name_of_a_service_that_drains_is_told_how_it_is_called() {
    let server = Server::echo();
    let (web, mail) = (own_address(), own_address());
    let setup = Setup::binding(web);
    let line = |name: &str, at: SocketAddr| format!("{name}: -b {} {} {server}\n", at.ip(), at.port());
    let name = format!("drains-{}", web.port());
    for others in [String::new(), line("mail", mail)] {
        let file = setup.directory().file("services", &(line(&name, web) + &others));
        let file = file.display().to_string();
        let mut instance = Setup::binding(web).within(Directory::new()).start(["--file".to_owned(), file]);
        let client = served(&instance);
        let ask =
            |service: &str| Run::balance(&instance.directory).args(["-c", "services", service]).finish();
        let pid = instance.pid();
        Run::balance(&instance.directory).args(["-c", "kill", &name]).finish().code(0);
        let refused = ask(&name);
        assert!(refused.code != 0, "{refused}");
        let told = format!(
            "service {name} of process {pid} takes no more clients, and is called process.{pid} until"
        );
        assert!(refused.stderr.contains(&told), "{refused}");
        assert!(ask(&format!("process.{pid}")).code(0).stdout.contains("draining"));
        drop(client);
        match others.is_empty() {
            true => assert_eq!(instance.wait(), 0),
            false => instance.terminate(),
        }
    }
}

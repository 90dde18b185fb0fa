//! Signals: which ones end an instance, which ones do nothing and are logged, and what SIGHUP means.
//!
//! Source: docs/compatibility.md, "Process".

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::harness::{
    BALANCE, Direction, Instance, Run, Server, Setup, Stream, eventually, needs_root, own_address,
};

/// Those that cannot be caught, and those that say "end" or "stop", or that a bug of the program itself causes.
const OTHERS: &[(u32, &str)] = &[
    (2, "INT"),
    (3, "QUIT"),
    (4, "ILL"),
    (5, "TRAP"),
    (6, "ABRT"),
    (7, "BUS"),
    (8, "FPE"),
    (9, "KILL"),
    (11, "SEGV"),
    (15, "TERM"),
    (19, "STOP"),
    (12, "USR2"),
    (20, "TSTP"),
    (31, "SYS"),
    (32, "of the C library"),
    (33, "of the C library"),
];

/// Sends these signals to a process.
#[track_caller]
fn send(signals: &[u32], pid: i32) {
    let pid = pid.to_string();
    let names = signals.iter().map(u32::to_string);
    let script = "pid=$1; shift; for signal; do kill -$signal $pid; done";
    Run::new("sh").args(["-ec", script, "sh", &pid]).args(names).finish().code(0);
}

/// Every signal that may come and has to do nothing.
fn harmless() -> Vec<u32> {
    (1..=64).filter(|signal| OTHERS.iter().all(|(other, _)| other != signal)).collect()
}

#[test]
fn signals_that_mean_nothing_end_nothing_and_disturb_no_stream() {
    let server = Server::echo();
    let instance = Setup::new().start(["PORT", &server.to_string()]);
    let mut client = instance.connect();
    let stream = Stream::new(1, Direction::Sent);
    for round in 0..20 {
        let offset = round * 100_000;
        client.send(stream.bytes(offset, 100_000));
        send(&harmless(), instance.pid());
        stream.check(offset, &client.recv(100_000));
    }
    let told = eventually("all are logged", || {
        let told = instance.told("signal_ignored");
        (told.len() >= 40).then_some(told)
    });
    for (signal, why) in [
        ("HUP", "there is no file to read again"),
        ("USR1", "there is no log file to reopen"),
        ("ALRM", "balance does not use it"),
        ("VTALRM", "balance does not use it"),
        ("PROF", "balance does not use it"),
        ("IO", "balance does not use it"),
        ("PWR", "balance does not use it"),
        ("STKFLT", "balance does not use it"),
        ("XCPU", "the limit of CPU time (ulimit -t) is used up"),
        ("34", "balance does not use it"),
        ("64", "balance does not use it"),
    ] {
        let line = format!("balance: level=notice event=signal_ignored signal={signal} why=\"{why}\"");
        assert!(told.contains(&line), "{line} in {told:#?}");
    }
    drop(client);
    instance.end();
}

/// In the foreground at a terminal of its own. The pid is that of the program that holds the terminal.
fn at_a_terminal(words: &str, server: &Server) -> Instance {
    let shell =
        format!(r#"exec script -qec "exec {words} $0 -f $* >$XDG_RUNTIME_DIR/output 2>&1" /dev/null;"#);
    let address = own_address();
    let (ip, server) = (address.ip().to_string(), server.to_string());
    Setup::binding(address).shell(&shell).start(["-b", &ip, "PORT", &server])
}

/// The process of the instance, whatever it was started through.
fn pid_of(instance: &Instance) -> i32 {
    let greeting = instance.shell("").code(0).stdout;
    let pid = greeting.lines().find_map(|line| line.strip_prefix("PID of master process is "));
    pid.and_then(|pid| pid.parse().ok()).expect("the shell says the pid")
}

fn entries(instance: &Instance) -> usize {
    fs::read_dir(instance.directory.path().join("run")).map_or(0, Iterator::count)
}

#[test]
fn a_terminal_that_hangs_up_takes_the_instance_in_front_of_it_along() {
    let server = Server::named("a");
    let (mut instance, terminal) = at_the_head_of_a_terminal(&server, "--default-signal=HUP");
    assert_eq!(entries(&instance), 1);
    drop(terminal);
    assert_eq!(instance.wait(), 0);
    assert_eq!(entries(&instance), 0, "it ends cleanly");
    instance.ctl("show").code(69);
    // The same without a hangup: there is a terminal to lose.
    let mut instance = at_a_terminal("env --default-signal=HUP", &server);
    send(&[1], pid_of(&instance));
    assert_eq!(instance.wait(), 0);
}

/// In the foreground at the head of a terminal of its own, with nothing between. Its own end is the terminal's.
fn at_the_head_of_a_terminal(server: &Server, hangup: &str) -> (Instance, OwnedFd) {
    let terminal =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&terminal).expect("it is ours");
    unlockpt(&terminal).expect("it is new");
    let path = ptsname(&terminal, Vec::new()).expect("it has a name").into_string().expect("text");
    let shell =
        format!(r#"exec env {hangup} setsid --ctty "$0" -f "$@" <{path} >$XDG_RUNTIME_DIR/output 2>&1;"#);
    let address = own_address();
    let (ip, channel) = (address.ip().to_string(), server.to_string());
    (Setup::binding(address).shell(&shell).start(["-b", &ip, "PORT", &channel]), terminal)
}

#[test]
fn where_the_end_of_the_old_process_would_hang_up_on_the_new_one_there_is_no_upgrade() {
    let server = Server::named("a");
    let (mut instance, terminal) = at_the_head_of_a_terminal(&server, "--default-signal=HUP");
    let why = "this process goes on: this process is the first one of its terminal";
    instance.signal(Signal::USR2);
    let log = instance.directory.path().join("output");
    eventually("the signal is answered in the log", || {
        fs::read_to_string(&log).ok()?.contains(why).then_some(())
    });
    let told = instance.ctl("upgrade").code(69).stdout;
    assert!(told.starts_with(&format!("no upgrade, {why}")), "{told}");
    assert_eq!(instance.names(2), "aa");
    drop(terminal);
    assert_eq!(instance.wait(), 0);
    // Whoever ignores it lives on, and so does its successor.
    let (mut instance, terminal) = at_the_head_of_a_terminal(&server, "--ignore-signal=HUP");
    instance.upgrade();
    assert_eq!(instance.names(2), "aa");
    drop(terminal);
    assert_eq!(instance.names(2), "aa");
    instance.ctl("kill").code(0);
    eventually("it ends", || (!instance.is_running()).then_some(()));
}

#[test]
fn under_nohup_a_terminal_that_hangs_up_does_not_matter() {
    let server = Server::named("a");
    let instance = at_a_terminal("nohup", &server);
    let pid = pid_of(&instance);
    instance.signal(Signal::KILL);
    send(&[1], pid);
    assert_eq!(instance.names(3), "aaa");
    instance.ctl("kill").code(0);
}

#[test]
fn without_a_terminal_to_lose_a_hangup_is_a_wish_to_reload() {
    // As a service manager starts it. `setsid` takes the terminal away, if the tests run at one.
    let server = Server::named("a");
    let instance = Setup::new().shell("exec setsid \"$0\" -f \"$@\";").start(["PORT", &server.to_string()]);
    instance.signal(Signal::HUP);
    let told = eventually("it is logged", || instance.told("signal_ignored").pop());
    assert!(told.contains("signal=HUP"), "{told}");
    assert_eq!(instance.names(3), "aaa");
    instance.end();
}

#[test]
fn process_1_ends_by_no_signal_that_means_nothing() {
    if needs_root("a pid namespace") {
        return;
    }
    let server = Server::named("a");
    let address = own_address();
    let (ip, channel) = (address.ip().to_string(), server.to_string());
    let shell = "exec unshare -pf --kill-child \"$0\" \"$@\";";
    let mut instance = Setup::binding(address).shell(shell).start(["-b", &ip, "PORT", &channel]);
    let children = format!("/proc/{0}/task/{0}/children", instance.pid());
    let children = fs::read_to_string(children).expect("our own child");
    let pid = children.trim().parse().expect("one child");
    send(&harmless(), pid);
    eventually("all are logged", || (instance.told("signal_ignored").len() >= 40).then_some(()));
    assert_eq!(instance.names(3), "aaa");
    send(&[3], pid);
    assert_eq!(instance.wait(), 0);
}

/// An instance whose start takes long: it waits for a file that somebody else has.
fn starting(server: &Server) -> (Instance, File) {
    let setup = Setup::new();
    let state = setup.directory().path().join("state");
    let lock = File::create(setup.directory().path().join("state.lock")).expect("our own");
    flock(&lock, FlockOperation::LockExclusive).expect("nobody else has it");
    let instance = setup.spawn(["--state", &state.display().to_string(), "PORT", &server.to_string()]);
    eventually("it waits for the file", || {
        let tried = fs::read_to_string(format!("/proc/{}/syscall", instance.pid())).ok()?;
        let names = fs::read_link(format!("/proc/{}/exe", instance.pid())).ok()?;
        // It sleeps between two tries: clock_nanosleep.
        (names == Path::new(BALANCE) && tried.starts_with("230 ")).then_some(())
    });
    (instance, lock)
}

#[test]
fn a_signal_that_comes_before_an_instance_serves_ends_it_cleanly_or_not_at_all() {
    let server = Server::named("a");
    for signal in [2, 3, 15] {
        let (mut instance, _lock) = starting(&server);
        send(&[signal], instance.pid());
        assert_eq!(instance.wait(), 0, "signal {signal}");
        assert_eq!(entries(&instance), 0);
    }
    let (mut instance, lock) = starting(&server);
    send(&harmless(), instance.pid());
    // HUP and USR2.
    send(&[1, 12], instance.pid());
    drop(lock);
    instance.await_serving();
    assert_eq!(instance.names(2), "aa");
    eventually("the hangup is remembered", || instance.told("signal_ignored").pop());
    instance.end();
}

#[test]
fn each_signal_that_asks_for_the_end_ends_it_cleanly_even_if_it_was_blocked_or_ignored() {
    let server = Server::named("a");
    for (signal, name) in [(2, "INT"), (3, "QUIT"), (15, "TERM")] {
        for start in ["--default-signal", "--block-signal", "--ignore-signal"] {
            let shell = format!("exec env {start}={name} \"$0\" -f \"$@\";");
            let mut instance = Setup::new().shell(&shell).start(["PORT", &server.to_string()]);
            assert_eq!(entries(&instance), 1);
            send(&[signal], instance.pid());
            assert_eq!((instance.wait(), entries(&instance)), (0, 0), "{name} after {start}");
        }
    }
}

/// Lets system calls of the main thread fail, which waits for signals; those of no other thread.
fn tracing(instance: &Instance, call: &str, fault: &str) -> std::process::Child {
    let pid = instance.pid().to_string();
    let inject = format!("inject={call}:error={fault}");
    let strace = std::process::Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject, "-p", &pid])
        .spawn()
        .expect("strace: apt-get install strace");
    eventually("it is traced", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("our own child");
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).expect("a line");
        (tracer.trim() == strace.id().to_string()).then_some(())
    });
    strace
}

#[test]
fn signals_are_heard_although_the_pipe_that_they_come_by_fails() {
    let server = Server::named("a");
    for fault in ["EIO:when=1", "EIO", "ENOMEM:when=1", "ENOMEM"] {
        let mut instance = Setup::new().start(["PORT", &server.to_string()]);
        let mut strace = tracing(&instance, "recvfrom", fault);
        send(&[10], instance.pid());
        let trouble = eventually("the failure is logged", || instance.told("note").pop());
        assert!(
            trouble.contains("level=warning") && trouble.contains("cannot wait for signals"),
            "{trouble}"
        );
        let told = eventually("the signal is", || instance.told("signal_ignored").pop());
        assert!(told.contains("signal=USR1"), "{fault}: {told}");
        assert_eq!(instance.names(3), "aaa", "{fault}");
        send(&[14], instance.pid());
        eventually("the next one too", || (instance.told("signal_ignored").len() == 2).then_some(()));
        instance.await_told([("note", 1)]);
        instance.assert_idle();
        send(&[15], instance.pid());
        assert_eq!(instance.wait(), 0, "{fault}");
        strace.wait().expect("it ends with the instance");
    }
}

#[test]
fn an_instance_that_cannot_wait_for_signals_serves_and_can_be_ended() {
    let server = Server::named("a");
    let mut instance = Setup::new().start(["PORT", &server.to_string()]);
    let mut strace = tracing(&instance, "ppoll,poll", "ENOMEM");
    send(&harmless(), instance.pid());
    assert_eq!(instance.names(3), "aaa");
    instance.assert_idle();
    send(&[15], instance.pid());
    assert_eq!(instance.wait(), 0);
    strace.wait().expect("it ends with the instance");
}

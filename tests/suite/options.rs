//! Options that change how sockets are made, seen from outside: `ss`, strace, the peers' addresses.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::harness::{
    Client, Direction, Directory, Instance, Received, Run, Server, Setup, Stream, eventually, needs_root,
    own_address,
};
use crate::queue::waiting;

/// Runs the program under strace with these options. The tracer detaches (`-D`), so that the program keeps its pid.
fn traced(options: &str) -> String {
    format!("set -- -f \"$@\"; exec strace -D -f -qq {options} \"$0\" \"$@\";")
}

/// An instance whose system calls of this name are written down; and where.
fn writing_down(call: &str, options: &[&str], channel: &str) -> (Instance, PathBuf) {
    let address = own_address();
    let setup = Setup::binding(address);
    let trace = setup.directory().path().join("trace");
    let shell = traced(&format!("-e trace={call} -o {}", trace.display()));
    let host = address.ip().to_string();
    let words = [&["-b", &host][..], options, &["PORT", channel]].concat();
    (setup.shell(&shell).start(words), trace)
}

fn sockets(filter: &str) -> String {
    Run::new("ss").args(["-tnoH", "state", "established", filter]).finish().code(0).stdout
}

#[test]
fn keepalive_timing_reaches_the_sockets_of_both_sides() {
    let server = Server::silent();
    let port = server.addr.port();
    let instance = Instance::before(&[&"-K", &"4000:10:3", &"-k", &"3000:10:3", &server]);
    let client = instance.connect();
    server.await_accepted(1);
    // The options may be set after the connection is there.
    let minutes = |filter: &str| {
        eventually("a keepalive timer", || {
            let text = sockets(filter);
            text.split("timer:(keepalive,").nth(1)?.split("min").next()?.parse::<u32>().ok()
        })
    };
    let client_side = minutes(&format!("sport = :{}", instance.addr.port()));
    assert!((64..=66).contains(&client_side), "{client_side}");
    let server_side = minutes(&format!("dport = :{port}"));
    assert!((48..=50).contains(&server_side), "{server_side}");
    drop(client);
    instance.end();
}

#[test]
fn listener_and_channel_sockets_are_made_without_delay() {
    let server = Server::named("a");
    let (mut instance, trace) = writing_down("setsockopt", &[], &server.to_string());
    instance.named();
    eventually("one for the listener, whose connections inherit it, and one for the channel", || {
        let text = std::fs::read_to_string(&trace).unwrap_or_default();
        (text.matches("TCP_NODELAY, [1]").count() == 2).then_some(())
    });
    instance.signal(rustix::process::Signal::TERM);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_channel_hears_at_once_of_a_client_only_if_it_has_nothing_to_say() {
    let server = Server::echo();
    let (mut instance, trace) = writing_down("setsockopt", &["--queue", "9"], &format!("{server}:1"));
    let calls = |value| {
        let text = std::fs::read_to_string(&trace).unwrap_or_default();
        text.matches(&format!("TCP_QUICKACK, [{value}]")).count()
    };
    let silent = instance.connect();
    server.await_accepted(1);
    eventually("the acknowledgement is asked for", || ((calls(0), calls(1)) == (1, 1)).then_some(()));
    // The next one has spoken by the time it gets its channel.
    let mut talker = instance.connect();
    talker.send("words");
    eventually("one in line", || (waiting(&instance).iter().max() == Some(&1)).then_some(()));
    drop(silent);
    assert_eq!(talker.recv(5), b"words");
    drop(talker);
    instance.await_show("it is over", |rows| rows[0].c == 0);
    instance.signal(rustix::process::Signal::TERM);
    assert_eq!(instance.wait(), 0);
    assert_eq!((calls(0), calls(1)), (2, 1));
}

#[test]
fn a_worker_looks_for_events_before_it_sleeps_unless_told_not_to() {
    for (option, does) in [("on", true), ("off", false)] {
        let server = Server::echo();
        let (mut instance, trace) =
            writing_down("sched_yield", &["--busy-poll", option], &server.to_string());
        let mut client = instance.connect();
        for _ in 0..20 {
            client.send("ping");
            assert_eq!(client.recv(4), b"ping");
        }
        drop(client);
        instance.await_show("it is over", |rows| rows[0].c == 0);
        instance.assert_idle();
        instance.signal(rustix::process::Signal::TERM);
        assert_eq!(instance.wait(), 0);
        let calls = std::fs::read_to_string(&trace).expect("a trace");
        assert_eq!(calls.contains("sched_yield()"), does, "--busy-poll {option}");
    }
}

#[test]
fn bulk_within_the_host_has_the_congestion_control_that_was_asked_for() {
    for (options, does) in [(&["--loopback-congestion", "reno"][..], true), (&[], false)] {
        let server = Server::echo();
        let (mut instance, trace) = writing_down("setsockopt", options, &server.to_string());
        let mut client = instance.connect();
        let block = "x".repeat(1 << 20);
        for _ in 0..4 {
            client.send(&block);
            assert_eq!(client.recv(block.len()).len(), block.len());
        }
        drop(client);
        instance.await_show("it is over", |rows| rows[0].c == 0);
        instance.signal(rustix::process::Signal::TERM);
        assert_eq!(instance.wait(), 0);
        let calls = std::fs::read_to_string(&trace).expect("a trace");
        // The first is the question at the start whether the system has it.
        assert_eq!(calls.matches("TCP_CONGESTION").count() > 1, does, "{options:?}");
    }
    let directory = Directory::new();
    let run = Run::balance(&directory)
        .args(["-f", "--loopback-congestion", "nonesuch", "80", "127.0.0.1:9"])
        .finish()
        .code(71);
    assert!(run.stderr.contains("--loopback-congestion nonesuch: the system does not have it"), "{run}");
}

#[test]
fn a_congestion_control_for_root_alone_is_refused_to_a_user() {
    if needs_root("a user without capabilities") {
        return;
    }
    let list = |which: &str| {
        let path = format!("/proc/sys/net/ipv4/tcp_{which}_congestion_control");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let (available, allowed) = (list("available"), list("allowed"));
    let is_allowed = |name: &&str| allowed.split_whitespace().any(|one| one == *name);
    let Some(restricted) = available.split_whitespace().find(|name| !is_allowed(name)) else {
        return eprintln!("LEFT OUT: this system allows all users all that it has");
    };
    let directory = Directory::new();
    let as_nobody = |name: &str| {
        let line = format!(
            "exec setpriv --reuid 65534 --clear-groups balance --check-only --loopback-congestion {name} 80 127.0.0.1:9"
        );
        Run::script(&directory, &line).finish()
    };
    let refused = as_nobody(restricted).code(71);
    let told =
        format!("--loopback-congestion {restricted}: this user may not use it; reno is for all users ");
    assert!(refused.stderr.contains(&told), "{refused}");
    if is_allowed(&"reno") {
        as_nobody("reno").code(0);
    }
}

#[test]
fn an_ipv6_source_address_is_used() {
    let server = Server::named_on(Ipv6Addr::LOCALHOST, "s");
    let instance = Instance::before(&[&"-B", &"::1", &server]);
    assert_eq!(instance.named().1, "s");
    let clients = server.clients();
    assert!(clients.iter().all(|client| client.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST)), "{clients:?}");
    instance.end();
}

#[test]
fn a_source_that_cannot_be_bound_never_disables_a_channel() {
    let server = Server::named_on(Ipv6Addr::LOCALHOST, "s");
    // Nobody here has it, which is nobody's refusal.
    let instance = Instance::before(&[&"-a", &"-B", &"fe80::1%lo", &server]);
    assert_eq!(instance.connect().ending(), Received::End);
    let rows = instance.show();
    assert_eq!((&rows[0].state[..], rows[0].totalc, server.accepted()), ("ENA", 1, 0));
    instance.end();
}

#[test]
fn a_dial_without_memory_waits_as_long_as_t_and_then_says_so() {
    let address = own_address();
    let setup = Setup::binding(address);
    let shell = traced("-o /dev/null -e trace=connect -e inject=connect:error=ENOBUFS");
    let mut instance =
        setup.shell(&shell).start(["-b", &address.ip().to_string(), "-t", "300ms", "PORT", "127.0.0.1:9"]);
    let begin = std::time::Instant::now();
    let mut client = instance.connect();
    assert_eq!(client.ending(), Received::End);
    assert!(begin.elapsed() >= Duration::from_millis(270), "it waits for memory first");
    let rows = instance.await_show("the slot is free again", |rows| rows[0].c == 0);
    assert_eq!((rows[0].totalc, &rows[0].state[..]), (1, "ENA"));
    eventually("a line that says so", || instance.stderr().contains("event=dial_failed").then_some(()));
    instance.signal(rustix::process::Signal::TERM);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_dump_of_a_bulk_transfer_has_every_byte() {
    const LENGTH: u64 = 3 << 20;
    let stream = Stream::new(7, Direction::Rcvd);
    let server = Server::with(move |peer, _| Client(peer).send_stream(stream, LENGTH));
    let instance = Instance::before(&[&"-p", &server]);
    let mut client = instance.connect();
    client.recv_stream(stream, LENGTH);
    assert_eq!(client.ending(), Received::End);
    drop(client);
    instance.await_show("it is over", |rows| rows[0].c == 0);
    // A thread of its own writes it.
    let dumped = || {
        let text = instance.stdout();
        let lines =
            text.lines().filter_map(|line| line.strip_prefix("-< ").and_then(|n| n.parse::<u64>().ok()));
        lines.sum::<u64>()
    };
    eventually("the whole dump", || (dumped() >= LENGTH).then_some(()));
    assert_eq!(dumped(), LENGTH);
    instance.end();
}

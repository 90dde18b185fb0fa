//! Choosing a channel, seen from outside: round robin, groups, limits, hashing, failing channels.
//!
//! Source: docs/compatibility.md, "Choosing a channel".

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::harness::{
    BlackHole, Client, DEADLINE, Instance, Received, Refusing, Server, Setup, eventually, needs_root,
};

/// Connects so many clients at the same moment; each answers what `each` makes of its connection.
pub(crate) fn burst<T: Send>(
    instance: &Instance,
    n: usize,
    each: impl Fn(Client, usize) -> T + Sync,
) -> Vec<T> {
    let start = Barrier::new(n);
    std::thread::scope(|scope| {
        let (start, each) = (&start, &each);
        let client = |i| {
            scope.spawn(move || {
                start.wait();
                each(instance.connect(), i)
            })
        };
        let threads: Vec<_> = (0..n).map(client).collect();
        threads.into_iter().map(|thread| thread.join().expect("a client thread")).collect()
    })
}

/// The channel's name, or nothing if the client was closed without one.
pub(crate) fn name_of(client: &mut Client) -> Option<char> {
    let mut byte = [0];
    match client.read(&mut byte) {
        Ok(1) => Some(char::from(byte[0])),
        _ => None,
    }
}

#[test]
fn round_robin_is_exact() {
    let (a, b, c) = (Server::named("a"), Server::named("b"), Server::named("c"));
    let instance = Instance::before(&[&a, &b, &c]);
    assert_eq!(instance.names(30), "abc".repeat(10));
    instance.end();
}

#[test]
fn round_robin_is_exact_under_concurrent_connects() {
    let (a, b, c) = (Server::named("a"), Server::named("b"), Server::named("c"));
    let instance = Instance::before(&[&a, &b, &c]);
    burst(&instance, 90, |mut client, _| name_of(&mut client).expect("a channel"));
    assert_eq!([a.accepted(), b.accepted(), c.accepted()], [30, 30, 30]);
    instance.end();
}

#[test]
fn a_refusing_channel_is_skipped_inside_its_group() {
    let (dead, b, c) = (Refusing::new(), Server::named("b"), Server::named("c"));
    let instance = Instance::before(&[&"--no-eject", &dead, &b, &c]);
    // The cursor moves after the channel that answered, so the dead one is asked once per round.
    assert_eq!(instance.names(8), "bcbcbcbc");
    let rows = instance.show();
    assert_eq!(rows[0].totalc, 4, "failed attempts are counted as handed over");
    assert_eq!(rows[0].state, "ENA", "without -a nothing is disabled");
    instance.end();
}

#[test]
fn a_failed_group_hands_over_to_the_next() {
    let (dead, also_dead, c) = (Refusing::new(), Refusing::new(), Server::named("c"));
    let args =
        ["PORT".to_owned(), dead.to_string(), "!".into(), also_dead.to_string(), "!".into(), c.to_string()];
    let instance = Instance::start(args);
    assert_eq!(instance.names(3), "ccc");
    instance.end();
}

#[test]
fn the_first_group_is_preferred_while_it_can() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&a, &"!", &b]);
    assert_eq!(instance.names(4), "aaaa");
    instance.ctl("disable 0").code(0);
    assert_eq!(instance.names(4), "bbbb");
    instance.ctl("enable 0").code(0);
    assert_eq!(instance.names(4), "aaaa");
    instance.end();
}

#[test]
fn a_client_without_a_usable_channel_is_closed() {
    let dead = Refusing::new();
    let instance = Instance::before(&[&dead]);
    assert!(name_of(&mut instance.connect()).is_none());
    instance.ctl("disable 0").code(0);
    assert!(name_of(&mut instance.connect()).is_none());
    instance.end();
}

#[test]
fn an_instance_without_channels_closes_clients_until_one_is_created() {
    let a = Server::named("a");
    let instance = Instance::start(["PORT"]);
    assert!(name_of(&mut instance.connect()).is_none());
    instance.ctl(&format!("create {} {}", a.addr.ip(), a.addr.port())).code(0).out("channel created\n");
    assert!(name_of(&mut instance.connect()).is_none(), "a created channel starts disabled");
    instance.ctl("enable 0").code(0);
    assert_eq!(instance.names(2), "aa");
    instance.end();
}

#[test]
fn maxc_is_never_exceeded_in_a_burst() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&format!("{a}:5"), &"!", &format!("{b}:7")]);
    let clients = burst(&instance, 40, |mut client, _| (name_of(&mut client), client));
    let count = |name| clients.iter().filter(|(got, _)| *got == name).count();
    assert_eq!((count(Some('a')), count(Some('b')), count(None)), (5, 7, 28));
    assert_eq!((a.most(), b.most()), (5, 7));
    let rows = instance.show();
    assert_eq!((rows[0].c, rows[1].c), (5, 7));
    drop(clients);
    instance.await_show("all slots free", |rows| rows.iter().all(|row| row.c == 0));
    assert_eq!(instance.names(3), "aaa", "freed slots are used again");
    instance.end();
}

#[test]
fn a_failed_attempt_gives_its_slot_back() {
    let (dead, b) = (Refusing::new(), Server::named("b"));
    let instance = Instance::before(&[&"--no-eject", &format!("{dead}:1"), &"!", &b]);
    assert_eq!(instance.names(5), "bbbbb");
    assert_eq!(instance.show()[0].totalc, 5, "the one slot was free each time");
    instance.end();
}

#[test]
fn a_later_group_keeps_to_disabled_and_maxc_on_its_first_pick() {
    let (dead, off, full, last) =
        (Refusing::new(), Server::named("o"), Server::named("f"), Server::named("l"));
    let args: [&dyn std::fmt::Display; 6] = [&dead, &"!", &off, &format!("{full}:1"), &"!", &last];
    let instance = Instance::before(&args);
    instance.ctl("group 1; disable 0").code(0);
    let (_holder, name) = instance.named();
    assert_eq!(name, "f");
    assert_eq!(instance.names(4), "llll");
    assert_eq!((off.accepted(), full.accepted()), (0, 1));
    drop(_holder);
    instance.end();
}

#[test]
fn maxc_changed_at_run_time_holds_at_once() {
    let a = Server::named("a");
    let instance = Instance::before(&[&a]);
    let holder = instance.named();
    instance.ctl("maxc 0 1").code(0);
    assert!(name_of(&mut instance.connect()).is_none());
    instance.ctl("maxc 0 0").code(0);
    assert_eq!(instance.names(2), "aa");
    drop(holder);
    instance.end();
}

/// Clients' addresses away from those of servers and instances.
pub(crate) fn client_ip(i: usize) -> IpAddr {
    Ipv4Addr::new(127, 1, (i / 250) as u8, 1 + (i % 250) as u8).into()
}

fn mapping(instance: &Instance, clients: usize) -> BTreeMap<IpAddr, char> {
    let ask = |i| {
        let mut client = Client::connect_from(client_ip(i), instance.addr);
        (client_ip(i), name_of(&mut client).unwrap_or('-'))
    };
    (0..clients).map(ask).collect()
}

#[test]
fn a_hash_group_is_sticky_even_and_the_same_after_a_restart() {
    const CLIENTS: usize = 150;
    let (a, b, c) = (Server::named("a"), Server::named("b"), Server::named("c"));
    let channels: [&dyn std::fmt::Display; 4] = [&a, &b, &c, &"%"];
    let instance = Instance::before(&channels);
    let first = mapping(&instance, CLIENTS);
    assert_eq!(first, mapping(&instance, CLIENTS), "the same client gets the same channel");
    for name in ['a', 'b', 'c'] {
        let share = first.values().filter(|got| **got == name).count();
        assert!((CLIENTS / 6..=CLIENTS / 2).contains(&share), "{name} has {share} of {CLIENTS} clients");
    }
    instance.end();
    let again = Instance::before(&channels);
    assert_eq!(first, mapping(&again, CLIENTS), "stable across restarts");
    again.end();
}

#[test]
fn a_channel_more_or_less_moves_only_the_clients_it_must() {
    const CLIENTS: usize = 120;
    let (a, b, c, d) = (Server::named("a"), Server::named("b"), Server::named("c"), Server::named("d"));
    let instance = Instance::before(&[&"-H", &a, &b, &c, &"%"]);
    let before = mapping(&instance, CLIENTS);
    instance.ctl(&format!("create {} {}; enable 3", d.addr.ip(), d.addr.port())).code(0);
    let after = mapping(&instance, CLIENTS);
    let moved: BTreeSet<_> =
        before.iter().filter(|(ip, name)| after[*ip] != **name).map(|(ip, _)| *ip).collect();
    assert!(moved.iter().all(|ip| after[ip] == 'd'), "clients move to the new channel only");
    assert!((CLIENTS / 10..CLIENTS / 2).contains(&moved.len()), "{} of {CLIENTS} moved", moved.len());
    instance.ctl("disable 3").code(0);
    assert_eq!(before, mapping(&instance, CLIENTS), "and back when it goes");
    instance.end();
}

#[test]
fn a_hash_channel_that_is_off_leaves_the_group_unless_told_to_stay() {
    let (a, b, other) = (Server::named("a"), Server::named("b"), Server::named("o"));
    for flag in ["", "-H"] {
        let channels: [&dyn std::fmt::Display; 5] = [&a, &b, &"%", &other, &"!"];
        let args = ["PORT"].into_iter().map(String::from).chain(channels.iter().map(ToString::to_string));
        let instance = Instance::start(args.chain((!flag.is_empty()).then(|| flag.to_owned())));
        let name = name_of(&mut Client::connect_from(client_ip(0), instance.addr)).expect("a channel");
        let number = if name == 'a' { 0 } else { 1 };
        instance.ctl(&format!("disable {number}")).code(0);
        let now = name_of(&mut Client::connect_from(client_ip(0), instance.addr)).expect("a channel");
        let stays = if name == 'a' { 'b' } else { 'a' };
        assert_eq!(now, if flag == "-H" { stays } else { 'o' }, "flag {flag:?}");
        instance.end();
    }
}

#[test]
fn a_hash_channel_that_fails_leaves_the_group_unless_told_to_stay() {
    let (dead, also_dead, other) = (Refusing::new(), Refusing::new(), Server::named("o"));
    let instance = Instance::before(&[&"--no-eject", &dead, &also_dead, &"%", &other]);
    assert_eq!(instance.names(2), "oo");
    let tried: u64 = instance.show()[..2].iter().map(|row| row.totalc).sum();
    assert_eq!(tried, 2, "one channel per client");
    instance.end();
    let instance = Instance::before(&[&"--no-eject", &"-H", &dead, &also_dead, &"%", &other]);
    assert_eq!(instance.names(2), "oo");
    let tried: Vec<_> = instance.show()[..2].iter().map(|row| row.totalc).collect();
    assert_eq!(tried, [2, 2], "every channel of the group once per client, and no loop");
    instance.end();
}

#[test]
fn an_empty_hash_group_is_passed_by() {
    let a = Server::named("a");
    let instance = Instance::start(["PORT"]);
    instance.ctl("hash").code(0).out("group 0 set to hash\n");
    assert!(name_of(&mut instance.connect()).is_none());
    instance.ctl(&format!("group 1; create {} {}; enable 0", a.addr.ip(), a.addr.port())).code(0);
    assert_eq!(instance.names(2), "aa");
    instance.end();
}

#[test]
fn a_v4_client_hashes_the_same_through_a_v6_listener() {
    let (a, b, c) = (Server::named("a"), Server::named("b"), Server::named("c"));
    let channels: [&dyn std::fmt::Display; 4] = [&a, &b, &c, &"%"];
    let v4 = Instance::before(&channels);
    let expected = mapping(&v4, 40);
    v4.end();
    let args =
        ["-6".to_owned(), "PORT".to_owned()].into_iter().chain(channels.iter().map(ToString::to_string));
    let mut dual = Setup::listening("[::]:0".parse().expect("an address")).start(args);
    dual.addr.set_ip(Ipv4Addr::LOCALHOST.into());
    assert_eq!(expected, mapping(&dual, 40));
    dual.end();
}

#[test]
fn autodisable_takes_a_failed_channel_out_until_enabled_and_says_so_once() {
    let (dead, b) = (Refusing::new(), Server::named("b"));
    let instance = Instance::before(&[&"-a", &dead, &b]);
    assert_eq!(instance.names(6), "bbbbbb");
    let rows = instance.show();
    assert_eq!((rows[0].state.as_str(), rows[0].totalc), ("dis", 1));
    let said = instance.stderr().matches(&dead.to_string()).count();
    assert_eq!(said, 1, "{}", instance.stderr());
    let status = instance.ctl("status").code(0).stdout;
    assert!(status.contains(": disabled by -a, on the command line enabled\n"), "{status}");
    instance.ctl("enable 0").code(0);
    assert_eq!(instance.names(2), "bb");
    assert_eq!(instance.show()[0].state, "dis", "and out again");
    instance.end();
}

#[test]
fn a_connect_that_gets_no_answer_is_given_up_after_the_timeout() {
    let (hole, b) = (BlackHole::new(), Server::named("b"));
    let instance = Instance::before(&[&"-t1", &hole, &b]);
    let begin = Instant::now();
    assert_eq!(instance.names(1), "b");
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(15), "{took:?}");
    instance.end();
}

#[test]
fn a_client_that_leaves_during_the_dial_frees_its_slot() {
    let hole = BlackHole::new();
    let instance = Instance::before(&[&"-t20", &hole]);
    let clients: Vec<_> = (0..5).map(|_| instance.connect()).collect();
    instance.await_show("five dials", |rows| rows[0].c == 5);
    for client in clients {
        client.rst();
    }
    let begin = Instant::now();
    instance.await_show("no dial", |rows| rows[0].c == 0);
    assert!(begin.elapsed() < DEADLINE);
    instance.end();
}

#[test]
fn a_dial_that_hangs_holds_up_nobody_else() {
    let (hole, b) = (BlackHole::new(), Server::named("b"));
    let instance = Instance::before(&[&"-t20", &format!("{hole}:1"), &b]);
    let stuck = instance.connect();
    instance.await_show("the dial", |rows| rows[0].c == 1);
    let begin = Instant::now();
    assert_eq!(instance.names(10), "b".repeat(10));
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    stuck.rst();
    instance.end();
}

#[test]
fn a_name_with_several_addresses_answers_as_long_as_one_does() {
    if needs_root("a hosts file of its own takes a mount namespace") {
        return;
    }
    let server = Server::named_on(Ipv4Addr::new(127, 2, 0, 3), "m");
    let hosts = "127.0.0.1 localhost\n127.2.0.2 many\n127.2.0.3 many\n127.2.0.4 many\n";
    let instance = Setup::new().hosts(hosts).start(["PORT", &format!("many:{}", server.addr.port())]);
    assert_eq!(instance.names(3), "mmm");
    let rows = instance.show();
    assert_eq!((rows.len(), rows[0].totalc), (1, 3), "one channel, one attempt per client: {rows:?}");
    instance.end();
}

#[test]
fn outgoing_connections_have_the_source_address_that_was_asked_for() {
    let a = Server::named("a");
    let instance = Instance::before(&[&"-B", &"127.3.0.9", &a]);
    assert_eq!(instance.names(3), "aaa");
    assert!(
        a.clients().iter().all(|client| client.ip() == IpAddr::from([127, 3, 0, 9])),
        "{:?}",
        a.clients()
    );
    instance.end();
}

#[test]
fn a_source_address_that_is_not_ours_is_a_failed_attempt() {
    let a = Server::named("a");
    // TEST-NET-1: never an address of this machine.
    let instance = Instance::before(&[&"-a", &"-B", &"192.0.2.7", &a]);
    assert!(name_of(&mut instance.connect()).is_none());
    assert_eq!(a.accepted(), 0, "never connected from another address instead");
    let rows = instance.show();
    assert_eq!(rows[0].state, "ENA", "the fault is ours, not the channel's");
    eventually("a line that says so", || {
        instance.stderr().contains("cause=\"connect: address not available\"").then_some(())
    });
    instance.end();
}

#[test]
fn a_channel_that_refers_to_the_instance_itself_works_until_maxc_says_no() {
    // `balance 8888 localhost::12 ! localhost:25` of the manual: each pass takes a slot, the last goes elsewhere.
    let last = Server::named("z");
    let instance = Instance::before(&[&"127.0.0.1::12", &"!", &last]);
    let (client, name) = instance.named();
    assert_eq!(name, "z");
    let rows = instance.show();
    assert_eq!((rows[0].c, rows[1].c), (12, 1));
    drop(client);
    instance.end();
}

#[test]
fn a_channel_that_resets_at_once_ends_its_clients_at_once() {
    // Seen before the connect is known to have succeeded, the reset is a failed attempt and the client is closed; seen
    // after it, it is passed on, maybe before the client's own connect has come back.
    let server = Server::resetter();
    let instance = Instance::before(&[&server]);
    for _ in 0..10 {
        match Client::try_connect(instance.addr, None, None) {
            Ok(mut client) => assert!(matches!(client.ending(), Received::End | Received::Reset)),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    instance.end();
}

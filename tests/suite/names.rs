//! Names whose addresses change: balance looks them up again by the system's resolver, whatever that answers.
//!
//! Source: docs/names.md.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{
    Directory, Got, Instance, Load, Server, Setup, eventually, needs_root, own_address, private_network,
    unless_held_up,
};

const HOSTS: &str = "a hosts file of its own takes a mount namespace";

/// Addresses of one port that only this test uses.
fn addresses<const N: usize>() -> [SocketAddr; N] {
    let first = own_address();
    let IpAddr::V4(ip) = first.ip() else { panic!("{first}") };
    let [a, b, c, d] = ip.octets();
    std::array::from_fn(|n| SocketAddr::new(Ipv4Addr::new(a, b, c ^ (n as u8) << 6, d).into(), first.port()))
}

/// A hosts file in which each of these names has these addresses.
fn hosts(names: &[(&str, &[SocketAddr])]) -> String {
    let lines = names
        .iter()
        .flat_map(|(name, all)| all.iter().map(move |address| format!("{} {name}\n", address.ip())));
    lines.fold("127.0.0.1 localhost\n".to_owned(), |text, line| text + &line)
}

/// The names have these addresses from now on.
fn rename(instance: &Instance, names: &[(&str, &[SocketAddr])]) {
    instance.directory.file("hosts", &hosts(names));
}

fn start(options: &[&str], names: &[(&str, &[SocketAddr])], channels: &[String]) -> Instance {
    let options = options.iter().map(|&option| option.to_owned()).chain(["PORT".to_owned()]);
    with_hosts(Setup::new(), names).start(options.chain(channels.iter().cloned()))
}

/// With this hosts file, and nobody else to ask.
fn with_hosts(setup: Setup, names: &[(&str, &[SocketAddr])]) -> Setup {
    let switch = setup.directory().file("nsswitch.conf", "hosts: files\n");
    let resolv = setup.directory().file("resolv.conf", "nameserver 127.255.255.254\n");
    setup.hosts(&hosts(names)).mounting(&mounts(&resolv, &switch))
}

/// The settings of the C library's resolver. A system without a switch reads the hosts file first.
fn mounts(resolv: &Path, switch: &Path) -> String {
    format!(
        "mount --bind {} /etc/resolv.conf; if test -e /etc/nsswitch.conf; then mount --bind {} /etc/nsswitch.conf; fi;",
        resolv.display(),
        switch.display()
    )
}

/// Waits until the first channel has these addresses, in any order.
#[track_caller]
fn await_addresses(instance: &Instance, wanted: &[SocketAddr]) {
    let wanted: std::collections::BTreeSet<String> = wanted.iter().map(ToString::to_string).collect();
    eventually("the addresses are others", || {
        let answer: serde_json::Value =
            serde_json::from_str(&instance.ctl("show json").code(0).stdout).expect("it is JSON");
        let all = answer["groups"][0]["channels"][0]["addresses"].as_array().expect("a list").clone();
        let now = all.iter().map(|one| one["address"].as_str().expect("text").to_owned()).collect();
        (wanted == now).then_some(())
    });
}

#[test]
fn a_name_that_moves_takes_new_clients_along_and_loses_no_connection() {
    if needs_root(HOSTS) {
        return;
    }
    let [a, b] = addresses();
    let (_old, _new) = (Server::named_at(a, "a"), Server::named_at(b, "b"));
    let channel = format!("web:{}", a.port());
    let instance = start(&["--resolve", "100ms"], &[("web", &[a])], &[channel]);
    let (mut client, name) = instance.named();
    assert_eq!(name, "a");
    rename(&instance, &[("web", &[b])]);
    await_addresses(&instance, &[b]);
    assert_eq!(instance.names(3), "bbb");
    client.send("hello");
    assert_eq!(client.recv(5), b"hello", "it lives on");
    instance.await_told([("resolved", 1)]);
    let told = instance.told("resolved");
    let line = format!("group=0 channel=0 host=web addresses={b} added={b} left={a}");
    assert!(matches!(&told[..], [one] if one.ends_with(&line)), "{told:?}");
    // In another order, or asked for by hand, it is the same.
    rename(&instance, &[("web", &[b, a])]);
    await_addresses(&instance, &[a, b]);
    rename(&instance, &[("web", &[a, b])]);
    let (one, other) = (a.ip().min(b.ip()), a.ip().max(b.ip()));
    for command in ["resolve", "resolve 0"] {
        instance.ctl(command).code(0).out(&format!("web: {one}, {other}\n"));
    }
    instance.await_told([("resolved", 2)]);
    assert_eq!(instance.status()[0].address, b.to_string(), "it keeps its place");
    client.send("still");
    assert_eq!(client.recv(5), b"still");
    drop(client);
    instance.end();
}

#[test]
fn connections_to_an_address_that_left_are_closed_if_that_is_wanted() {
    if needs_root(HOSTS) {
        return;
    }
    let [a, b, c] = addresses();
    let _servers = [(a, "a"), (b, "b"), (c, "c")].map(|(at, name)| Server::named_at(at, name));
    let channel = format!("web:{}", a.port());
    let options = ["--resolve", "100ms", "--on-remove", "kick"];
    let instance = start(&options, &[("web", &[a])], &[channel]);
    let (mut leaves, _) = instance.named();
    rename(&instance, &[("web", &[b])]);
    leaves.ending();
    let (mut stays, name) = instance.named();
    assert_eq!(name, "b");
    rename(&instance, &[("web", &[b, c])]);
    await_addresses(&instance, &[b, c]);
    stays.send("hello");
    assert_eq!(stays.recv(5), b"hello");
    let ended = instance.ctl("ended").code(0).stdout;
    assert!(ended.lines().nth(1).is_some_and(|line| line.ends_with(" address removed")), "{ended}");
    drop(stays);
    instance.end();
}

#[test]
fn a_channel_that_fails_has_its_name_looked_up_at_once() {
    if needs_root(HOSTS) {
        return;
    }
    for check in [&[][..], &["--check", "tcp", "--check-interval", "50ms"]] {
        let [a, b, other] = addresses();
        let (old, _other) = (Server::named_at(a, "a"), Server::named_at(other, "z"));
        let channels = [format!("web:{}", a.port()), other.to_string()];
        let options = [&["--resolve", "1d"][..], check].concat();
        let instance = start(&options, &[("web", &[a])], &channels);
        assert_eq!(instance.names(1), "a");
        rename(&instance, &[("web", &[b])]);
        let _new = Server::named_at(b, "b");
        old.crash();
        eventually("the new server is found", || instance.names(2).contains('b').then_some(()));
        await_addresses(&instance, &[b]);
        instance.end();
    }
    // As it was in 3.57.
    let [a, b, other] = addresses();
    let (old, _other) = (Server::named_at(a, "a"), Server::named_at(other, "z"));
    let channels = [format!("web:{}", a.port()), other.to_string()];
    let options = ["--resolve", "0", "--check", "tcp", "--check-interval", "20ms"];
    let instance = start(&options, &[("web", &[a])], &channels);
    rename(&instance, &[("web", &[b])]);
    let _new = Server::named_at(b, "b");
    old.crash();
    eventually("checks fail", || (instance.status()[0].health == "down").then_some(()));
    assert_eq!(instance.names(3), "zzz");
    assert_eq!(instance.told("resolved"), [""; 0]);
    // By hand it is looked up all the same.
    instance.ctl("resolve 0; resolve 1").code(0);
    await_addresses(&instance, &[b]);
    instance.end();
}

#[test]
fn a_name_that_is_lazy_may_come_later_and_any_other_may_not() {
    if needs_root(HOSTS) {
        return;
    }
    let [a, b] = addresses();
    let _servers = [(a, "a"), (b, "b")].map(|(at, name)| Server::named_at(at, name));
    let channels = [format!("late:{},lazy", b.port()), format!("web:{}", a.port())];
    let instance = start(&["--resolve", "100ms"], &[("web", &[a])], &channels);
    assert_eq!(instance.names(3), "aaa");
    assert_eq!(instance.show()[0].address, format!("unresolved:{}", b.port()));
    let why = || instance.status().remove(0).why;
    eventually("it is told", || why().starts_with("resolve: ").then_some(()));
    let row = instance.status().remove(0);
    assert_eq!((&row.address[..], &row.health[..], &row.addrs[..]), ("unresolved", "down", "0/0"));
    let line = instance.ctl("save").code(0).stdout;
    assert!(line.contains(&format!("late:{},lazy", b.port())), "{line}");
    instance.ctl("enable 0; weight 0 2; disable 0; enable 0; weight 0 1").code(0);
    rename(&instance, &[("web", &[a]), ("late", &[b])]);
    eventually("it has come", || instance.names(2).contains('b').then_some(()));
    assert_eq!(instance.status()[0].why, "-");
    instance.end();
    let typed = ["PORT".to_owned(), format!("no-such-name.invalid:{}", a.port())];
    let mut instance = with_hosts(Setup::new(), &[]).spawn(typed);
    assert_eq!(instance.wait(), 65);
    assert!(instance.stderr().contains("no host 'no-such-name.invalid'"), "{}", instance.stderr());
}

#[test]
fn a_reload_and_an_upgrade_keep_the_addresses_that_are_in_use() {
    if needs_root(HOSTS) {
        return;
    }
    let [a, b, c] = addresses();
    let _servers = [(a, "a"), (b, "b"), (c, "c")].map(|(at, name)| Server::named_at(at, name));
    let setup = Setup::new();
    let listen = setup.address().port();
    let port = own_address().port();
    assert_ne!(listen, port);
    let line = format!("--resolve 100ms {port} web:{} late:{},lazy\n", a.port(), a.port());
    let file = setup.directory().file("lines", &line);
    let mut instance = with_hosts(Setup::binding(([0, 0, 0, 0], port).into()), &[("web", &[a])])
        .start(["--file".to_owned(), file.display().to_string()]);
    rename(&instance, &[("web", &[b])]);
    await_addresses(&instance, &[b]);
    // Nobody can be asked any more.
    rename(&instance, &[]);
    eventually("it fails", || instance.status()[0].why.starts_with("resolve: ").then_some(()));
    let answer = instance.ctl("reload").code(0).stdout;
    assert!(answer.contains("no host 'web'") && answer.contains("it keeps the addresses it has"), "{answer}");
    assert_eq!(instance.names(2), "bb");
    instance.upgrade();
    assert_eq!(instance.names(2), "bb");
    let rows = instance.status();
    assert_eq!((&rows[0].address, &rows[1].address[..]), (&b.to_string(), "unresolved"));
    assert!(instance.ctl("status").code(0).stdout.lines().all(|line| !line.contains("changed by hand")));
    // And the successor looks them up itself.
    rename(&instance, &[("web", &[c]), ("late", &[a])]);
    await_addresses(&instance, &[c]);
    eventually("both are there", || {
        let mut names: Vec<char> = instance.names(2).chars().collect();
        names.sort_unstable();
        (names == ['a', 'c']).then_some(())
    });
    let answer = instance.ctl("reload").code(0).stdout;
    assert_eq!(answer, "nothing has changed\n");
    instance.end();
}

/// What a resolver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// The addresses, each time in another order.
    Truth,
    /// So many of them, over TCP only.
    Truncated,
    /// An answer to a question that nobody has asked.
    WrongId,
    /// The answer to another question.
    WrongQuestion,
    /// A name that is another name of itself.
    Loop,
    /// The name exists, and has no address.
    NoData,
    NoSuchName,
    ServFail,
    Refused,
    /// Bytes that mean nothing.
    Garbage,
    Nothing,
}

/// A name server on 127.0.0.1 of this network that says what it is told to.
#[derive(Clone)]
struct Liar {
    says: Arc<Mutex<(Says, Vec<Ipv4Addr>)>>,
    asked: Arc<AtomicUsize>,
}

impl Liar {
    fn start() -> Self {
        let liar = Self { says: Arc::new(Mutex::new((Says::Truth, Vec::new()))), asked: Arc::default() };
        let udp = UdpSocket::bind("127.0.0.1:53").expect("our own network");
        let tcp = TcpListener::bind("127.0.0.1:53").expect("our own network");
        let [by_udp, by_tcp] = [liar.clone(), liar.clone()];
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut question) {
                if let Some(answer) = by_udp.answer(&question[..length], false) {
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let mut length = [0; 2];
                let mut question = [0; 512];
                while stream.read_exact(&mut length).is_ok() {
                    let length = usize::from(u16::from_be_bytes(length));
                    if length > question.len() || stream.read_exact(&mut question[..length]).is_err() {
                        break;
                    }
                    let Some(answer) = by_tcp.answer(&question[..length], true) else { break };
                    let length = u16::try_from(answer.len()).expect("it is short").to_be_bytes();
                    let _ = stream.write_all(&[&length[..], &answer].concat());
                }
            }
        });
        liar
    }

    fn says(&self, what: Says, addresses: &[SocketAddr]) {
        let v4 = |address: &SocketAddr| match address.ip() {
            IpAddr::V4(ip) => ip,
            IpAddr::V6(ip) => panic!("{ip}"),
        };
        *self.says.lock().expect("whole") = (what, addresses.iter().map(v4).collect());
    }

    /// Waits until so many more questions were asked.
    fn await_asked(&self, more: usize) {
        let enough = self.asked.load(Ordering::SeqCst) + more;
        eventually("it is asked", || (self.asked.load(Ordering::SeqCst) >= enough).then_some(()));
    }

    fn answer(&self, question: &[u8], by_tcp: bool) -> Option<Vec<u8>> {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        let (says, mut addresses) = self.says.lock().expect("whole").clone();
        let end = 12 + question.get(12..)?.iter().position(|&byte| byte == 0)? + 5;
        let mut asks = question.get(12..end)?.to_vec();
        let is_v4 = asks.ends_with(&[0, 1, 0, 1]);
        let name = asks[..asks.len() - 4].to_vec();
        let (mut id, mut flags, mut rcode) = (question[..2].to_vec(), 0x8180_u16, 0);
        let mut records = Vec::new();
        match says {
            Says::Nothing => return None,
            Says::Garbage => return Some(question[..2].iter().copied().chain([0xff; 40]).collect()),
            Says::WrongId => id[1] ^= 1,
            Says::WrongQuestion => asks[1] ^= 1,
            Says::ServFail => rcode = 2,
            Says::NoSuchName => rcode = 3,
            Says::Refused => rcode = 5,
            Says::NoData => {}
            Says::Loop => records
                .push([&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 0][..], &[0, name.len() as u8], &name].concat()),
            Says::Truncated if !by_tcp => flags |= 0x0200,
            Says::Truth | Says::Truncated => {}
        }
        if matches!(says, Says::Truth | Says::WrongId | Says::WrongQuestion)
            || (says == Says::Truncated && by_tcp)
        {
            let count = addresses.len().max(1);
            addresses.rotate_left(asked / 2 % count);
            let record =
                |ip: &Ipv4Addr| [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4][..], &ip.octets()].concat();
            records.extend(addresses.iter().filter(|_| is_v4).map(record));
        }
        let count = (records.len() as u16).to_be_bytes();
        let head = [&id[..], &(flags | rcode).to_be_bytes(), &[0, 1], &count, &[0, 0, 0, 0]].concat();
        Some([head, asks, records.concat()].concat())
    }
}

/// In a network of our own, where 127.0.0.1 is the name server: what its resolver is set up as.
fn asking(setup: Setup) -> Setup {
    let resolv =
        setup.directory().file("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
    let switch = setup.directory().file("nsswitch.conf", "hosts: files dns\n");
    setup.hosts("127.0.0.1 localhost\n").mounting(&mounts(&resolv, &switch))
}

#[test]
fn no_lie_of_a_name_server_costs_a_client() {
    unless_held_up(200, || {
        private_network("a name server on port 53", || {
            let liar = Liar::start();
            let [a, b, c] = [1, 2, 3].map(|n| SocketAddr::from(([127, 0, 1, n], 7_000)));
            let _servers = [(a, "a"), (b, "b"), (c, "c")].map(|(at, name)| Server::named_at(at, name));
            liar.says(Says::Truth, &[a, b]);
            let instance = asking(Setup::new()).start(["--resolve", "100ms", "PORT", "db.test:7000"]);
            let load = Load::on(instance.addr, 2);
            load.await_more(10);
            for says in [
                Says::ServFail,
                Says::Refused,
                Says::NoSuchName,
                Says::NoData,
                Says::Garbage,
                Says::Loop,
                Says::WrongId,
                Says::WrongQuestion,
                Says::Truth,
            ] {
                liar.says(says, &[a, b]);
                liar.await_asked(6);
                load.await_more(20);
                let answer = instance.ctl("resolve");
                assert_eq!(
                    answer.code,
                    if says == Says::Truth { 0 } else { 75 },
                    "{says:?}: {}",
                    answer.stdout
                );
            }
            assert_eq!(instance.told("resolved"), [""; 0], "nothing has changed");
            assert_eq!(instance.told("unresolved"), [""; 0]);
            instance.await_told([("resolve_failed", 1), ("resolve_back", 1)]);
            // Too much for a datagram is asked for by TCP.
            liar.says(Says::Truncated, &[a, b, c]);
            await_addresses(&instance, &[a, b, c]);
            liar.says(Says::Truth, &[c]);
            await_addresses(&instance, &[c]);
            liar.says(Says::ServFail, &[]);
            liar.await_asked(4);
            eventually("it is told", || instance.status()[0].why.starts_with("resolve: ").then_some(()));
            load.await_more(20);
            let visits = load.finish();
            let lost = visits.iter().filter(|visit| !matches!(visit.got, Got::Name(_))).count();
            assert_eq!(lost, 0, "of {}", visits.len());
            instance.end();
        });
    });
}

#[test]
fn no_lie_told_to_questions_of_our_own_costs_a_client() {
    unless_held_up(200, || {
        private_network("a name server on port 53", || {
            let liar = Liar::start();
            let [a, b, c] = [1, 2, 3].map(|n| SocketAddr::from(([127, 0, 1, n], 7_000)));
            let _servers = [(a, "a"), (b, "b"), (c, "c")].map(|(at, name)| Server::named_at(at, name));
            liar.says(Says::Truth, &[a, b]);
            let args = ["--resolve", "100ms", "--dns", "127.0.0.1", "PORT", "db.test:7000,each"];
            let instance = asking(Setup::new()).start(args);
            let there = |wanted: &[SocketAddr]| {
                let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
                let mut now = Vec::new();
                eventually(&format!("{wanted:?}"), || {
                    now = channels(&instance)
                        .iter()
                        .filter_map(|one| Some(one.split_once('=')?.1.to_owned()))
                        .collect();
                    now.sort();
                    (now == wanted).then_some(())
                });
            };
            there(&[a, b]);
            let load = Load::on(instance.addr, 2);
            load.await_more(10);
            for says in [
                Says::ServFail,
                Says::Refused,
                Says::NoSuchName,
                Says::NoData,
                Says::Garbage,
                Says::Loop,
                Says::WrongId,
                Says::WrongQuestion,
            ] {
                liar.says(says, &[c]);
                // What is heard after this question was asked after the lie began.
                liar.await_asked(2);
                eventually(&format!("{says:?} is seen"), || {
                    instance.ctl("status").code(0).stdout.contains("; resolve: ").then_some(())
                });
                load.await_more(10);
                there(&[a, b]);
                liar.says(Says::Truth, &[a, b]);
                eventually(&format!("it is over: {says:?}"), || {
                    (!instance.ctl("status").code(0).stdout.contains("; resolve: ")).then_some(())
                });
            }
            // In another order, twice, and all at once that are too many for a datagram.
            liar.says(Says::Truth, &[b, a, b]);
            liar.await_asked(4);
            there(&[a, b]);
            assert_eq!(instance.told("resolved"), [""; 0], "nothing has changed");
            assert!(!instance.told("resolve_failed").is_empty() && !instance.told("resolve_back").is_empty());
            liar.says(Says::Truncated, &[a, b, c]);
            there(&[a, b, c]);
            liar.says(Says::Truth, &[c]);
            there(&[c]);
            // To nothing at all, which is never believed of the last one.
            liar.says(Says::NoData, &[]);
            liar.await_asked(4);
            load.await_more(20);
            there(&[c]);
            let visits = load.finish();
            let lost = visits.iter().filter(|visit| !matches!(visit.got, Got::Name(_))).count();
            assert_eq!(lost, 0, "of {}", visits.len());
            instance.end();
        });
    });
}

/// The answer is that of 3.57. What DNS said, and which server, is on stderr only.
#[test]
fn a_host_that_is_not_found_is_told_with_what_dns_said_and_which_server() {
    private_network("a name server on port 53", || {
        let liar = Liar::start();
        // The C library has words of its own for the same thing, and the same for all failures.
        let of_library = "(name server 127.0.0.1)";
        for (server, says, cause) in [
            (&["--dns", "127.0.0.1"][..], Says::NoSuchName, "no such name (127.0.0.1)"),
            (&["--dns", "127.0.0.1"], Says::NoData, "no address (127.0.0.1)"),
            (&["--dns", "127.0.0.1"], Says::ServFail, "SERVFAIL (127.0.0.1)"),
            (&["--dns", "127.0.0.1"], Says::Refused, "REFUSED (127.0.0.1)"),
            (&["--dns", "127.0.0.1"], Says::Nothing, "no answer from name server 127.0.0.1"),
            (&["--dns", "127.0.0.9"], Says::Nothing, "name server 127.0.0.9: connection refused"),
            (&[], Says::ServFail, of_library),
        ] {
            liar.says(says, &[]);
            let with = |channel| [server, &["PORT", channel]].concat();
            let instance = asking(Setup::new()).start(with("127.0.1.1:7000"));
            instance.ctl("disable 0").code(0);
            // A server that says nothing is asked for six seconds each time.
            let commands = ["create db.test 80", "assign 0 db.test 80"];
            for command in commands.into_iter().take(if cause.starts_with("no answer") { 1 } else { 2 }) {
                let said = instance.ctl(command).code(65).out("invalid address\n");
                let told = said.stderr.strip_prefix("balance: no address for db.test: ");
                let is_it = told == Some(&format!("{cause}\n"))
                    || cause == of_library && told.is_some_and(|told| told.ends_with(&format!(" {cause}\n")));
                assert!(is_it, "{says:?}: {said}");
                let told = told.unwrap_or_default().trim_end().to_owned();
                eventually("the log has it", || {
                    instance.stderr().contains(&format!("no address for db.test: {told}")).then_some(())
                });
            }
            if cause.starts_with("no answer") {
                instance.end();
                continue;
            }
            // Through a pipe, the shell prints what 3.57 prints.
            let said = instance.shell("create db.test 80\n").code(0);
            assert!(said.stdout.ends_with("invalid address\nbalance[0] \n"), "{said}");
            assert_eq!(said.stderr, "");
            instance.end();
            let mut refused = asking(Setup::new()).spawn(with("db.test:80"));
            assert_eq!(refused.wait(), 65);
            let said = refused.stderr();
            let told =
                said.strip_prefix("unknown or invalid address [db.test:80]\nbalance: no host 'db.test': ");
            assert!(told.is_some_and(|told| told.contains(cause)), "{says:?}: {said}");
        }
        // Several commands of a line, and words that no server is asked about.
        let instance = Instance::start(["PORT", "127.0.1.1:7000"]);
        for (command, cause) in [
            (
                "create 127.0.0.1 nosuch; create a,b 80",
                "no address for 127.0.0.1: no service 'nosuch' is known; give a number from 1 to 65535; \
                 no address for a,b: that cannot be a host",
            ),
            ("create 127.0.0.1 65536", "write HOST PORT with a port from 1 to 65535, or unix:/PATH"),
        ] {
            let said = instance.ctl(command).code(65);
            assert_eq!(said.stderr, format!("balance: {cause}\n"));
            assert!(said.stdout.lines().all(|line| line == "invalid address"), "{said}");
        }
        assert_eq!(instance.ctl("assign 7 127.0.0.1 nosuch").code(65).out("unknown channel\n").stderr, "");
        instance.end();
    });
}

/// Three answers over 30 s are needed. Two of them and the time belong to the predecessor, and only the third one to the successor.
#[test]
fn absences_and_failures_of_a_name_go_on_in_the_successor() {
    private_network("a name server on port 53", || {
        let liar = Liar::start();
        let [a, b] = [1, 2].map(|n| SocketAddr::from(([127, 0, 1, n], 7_000)));
        let _servers = [(a, "a"), (b, "b")].map(|(at, name)| Server::named_at(at, name));
        liar.says(Says::Truth, &[a]);
        // Nothing but the command has names looked up.
        let port = own_address().port();
        let args = ["--resolve", "1d", &port.to_string(), "db.test:7000", "127.0.1.2:7000"];
        let mut instance = asking(Setup::binding(([0, 0, 0, 0], port).into())).start(args);
        instance.names(4);
        liar.says(Says::NoSuchName, &[]);
        for _ in 0..2 {
            instance.ctl("resolve 0").code(75);
        }
        let long = Duration::from_secs(31);
        let failing = |instance: &Instance| {
            let answer: serde_json::Value =
                serde_json::from_str(&instance.ctl("status json").code(0).stdout).expect("it is JSON");
            let age = answer["groups"][0]["channels"][0]["resolve"]["failing_age_seconds"].as_f64();
            Duration::from_secs_f64(age.expect("it fails"))
        };
        for least in [long / 2, long] {
            eventually("it is absent for long", || (failing(&instance) > least).then_some(()));
        }
        assert_eq!(instance.told("unresolved"), [""; 0]);
        instance.upgrade();
        assert!(failing(&instance) > long, "since when it fails is known");
        instance.ctl("resolve 0").code(75);
        eventually("one more answer is enough", || (instance.told("unresolved").len() == 1).then_some(()));
        assert_eq!((&instance.status()[0].health[..], &instance.names(2)[..]), ("down", "bb"));
        liar.says(Says::Truth, &[a]);
        instance.ctl("resolve 0").code(0);
        let back = eventually("it is told", || instance.told("resolve_back").pop());
        // One outage for all who read the log.
        assert_eq!(instance.told("resolve_failed").len(), 1, "{}", instance.stderr());
        let after = back.split("after=").nth(1).and_then(|text| text.split('s').next()?.parse::<f64>().ok());
        assert!(after.is_some_and(|after| after > long.as_secs_f64()), "{back}");
        instance.end();
    });
}

#[test]
fn a_name_server_that_says_nothing_holds_up_nobody() {
    unless_held_up(200, || {
        private_network("a name server on port 53", || {
            let liar = Liar::start();
            let [a, b] = [1, 2].map(|n| SocketAddr::from(([127, 0, 1, n], 7_000)));
            let _servers = [(a, "a"), (b, "b")].map(|(at, name)| Server::named_at(at, name));
            liar.says(Says::Truth, &[a]);
            let setup = asking(Setup::new());
            let hosts = setup.directory().file("hosts", "127.0.1.1 near\n");
            let channels = ["db.test:7000", "near:7000", "late.test:7000,lazy"];
            let args = [&["--resolve", "100ms", "PORT"][..], &channels].concat();
            let mut instance = setup.start(args);
            // Longer than this test lasts.
            instance.directory.file("resolv.conf", "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n");
            liar.says(Says::Nothing, &[]);
            liar.await_asked(2);
            // Another name moves meanwhile, operators are answered, clients are served.
            // In place: a file without the name would have the server asked for it.
            let file = fs::OpenOptions::new().write(true).open(hosts).expect("it is there");
            file.write_all_at(b"127.0.1.2 near\n", 0).expect("written");
            eventually("the other name moves", || {
                (instance.status()[1].address == b.to_string()).then_some(())
            });
            assert_eq!(instance.names(4).len(), 4);
            // A process that takes over looks them up at its start and cannot be held up for ever by that; this one ends at once.
            instance.signal(Signal::TERM);
            let begun = Instant::now();
            assert_eq!(instance.wait(), 0);
            assert!(begun.elapsed() < Duration::from_secs(20), "it waits for no resolver");
        });
    });
}

/// The channels of the service, as `NUMBER=ADDRESS`, with `!` behind one that is disabled.
fn channels(instance: &Instance) -> Vec<String> {
    let answer: serde_json::Value =
        serde_json::from_str(&instance.ctl("show json").code(0).stdout).expect("it is JSON");
    let groups = answer["groups"].as_array().expect("a list").clone();
    let all = groups.iter().flat_map(|group| group["channels"].as_array().expect("a list"));
    let there = all.filter(|one| one["removing"] == false);
    let text = |one: &serde_json::Value| {
        let mark = if one["enabled"] == true { "" } else { "!" };
        format!("{}={}{mark}", one["channel"], one["address"].as_str().unwrap_or("-"))
    };
    there.map(text).collect()
}

#[test]
fn each_address_of_a_name_is_a_channel_of_its_own() {
    if needs_root(HOSTS) {
        return;
    }
    let [a, b, c, d] = addresses();
    let mut ordered = [a, b, c];
    ordered.sort_unstable();
    let [a, b, c] = ordered;
    let _servers = [(a, "a"), (b, "b"), (c, "c"), (d, "d")].map(|(at, name)| Server::named_at(at, name));
    let word = format!("db:{},each", a.port());
    let options = ["--resolve", "100ms"];
    let mut instance = start(&options, &[("db", &[c, a, b])], std::slice::from_ref(&word));
    let wait_for = |instance: &Instance, wanted: &[String]| {
        eventually(&format!("{wanted:?}"), || (channels(instance) == wanted).then_some(()));
    };
    wait_for(&instance, &[format!("1={a}"), format!("2={b}"), format!("3={c}")]);
    assert_eq!(instance.names(6), "abcabc");
    instance.ctl("disable 2").code(0);
    let (mut client, name) =
        (0..3).map(|_| instance.named()).find(|(_, name)| name == "c").expect("it is up");
    assert_eq!(name, "c");
    rename(&instance, &[("db", &[d, b, a])]);
    wait_for(&instance, &[format!("1={a}"), format!("2={b}!"), format!("4={d}")]);
    client.send("hello");
    assert_eq!(client.recv(5), b"hello", "it lives on");
    instance.await_told([("resolved", 1)]);
    let told = instance.told("resolved");
    let end = format!(" added={d} left={c}");
    assert!(
        matches!(&told[..], [one] if one.contains("group=0 channel=0 host=db ") && one.ends_with(&end)),
        "{told:?}"
    );
    let saved = instance.ctl("save").code(0).stdout;
    assert!(saved.trim_end().ends_with(&format!(" {word}")), "{saved}");
    // Another process has the same ones, and what was decided about them.
    instance.upgrade();
    wait_for(&instance, &[format!("1={a}"), format!("2={b}!"), format!("4={d}")]);
    rename(&instance, &[("db", &[a])]);
    wait_for(&instance, &[format!("1={a}")]);
    rename(&instance, &[("db", &[a, b])]);
    eventually("b is back, and disabled", || {
        channels(&instance).get(1).is_some_and(|one| one.ends_with(&format!("={b}!"))).then_some(())
    });
    let status = instance.ctl("status").code(0).stdout;
    let row = format!("group 0 channel 0: {word}: channels 1, ");
    assert!(status.contains(&row), "{status}");
    drop(client);
    instance.end();
}

#[test]
fn an_address_that_was_removed_by_hand_is_seen_and_comes_back_by_hand() {
    if needs_root(HOSTS) {
        return;
    }
    let mut all: [SocketAddr; 3] = addresses();
    all.sort_unstable();
    let [a, b, c] = all;
    let _servers = [(a, "a"), (b, "b"), (c, "c")].map(|(at, name)| Server::named_at(at, name));
    let word = format!("db:{},each", a.port());
    let mut instance = start(&["--resolve", "1d"], &[("db", &[a, b, c])], std::slice::from_ref(&word));
    let numbers = |instance: &Instance| channels(instance).len();
    eventually("all are there", || (numbers(&instance) == 3).then_some(()));
    instance.ctl("disable 2; remove 2").code(0);
    instance.ctl("resolve").code(0);
    let rows = [
        format!("group 0 channel 0: {word}: channels 1, 3; removed by hand: {b}\n"),
        format!("changed by hand: group 0 channel 0: {b} of db:{} is removed\n", a.port()),
    ];
    let seen = |instance: &Instance| {
        let status = instance.ctl("status").code(0).stdout;
        let json: serde_json::Value =
            serde_json::from_str(&instance.ctl("status json").code(0).stdout).expect("it is JSON");
        let removed = &json["groups"][0]["families"][0]["removed"];
        (rows.each_ref().map(|row| status.contains(row)), removed.as_array().map(Vec::len))
    };
    assert_eq!(seen(&instance), ([true, true], Some(1)), "{}", instance.ctl("status").stdout);
    instance.upgrade();
    assert_eq!(seen(&instance), ([true, true], Some(1)), "{}", instance.ctl("status").stdout);
    assert_eq!(instance.ctl("enable 4").code, 65, "nobody had that number");
    assert_eq!(instance.ctl("enable 2").code(0).stdout, "channel 2 enabled\n");
    assert_eq!(channels(&instance), [format!("1={a}"), format!("2={b}"), format!("3={c}")]);
    assert_eq!(seen(&instance), ([false, false], Some(0)), "{}", instance.ctl("status").stdout);
    // By the word, with one that is only disabled.
    instance.ctl("disable 1; disable 3; remove 3; enable 0").code(0);
    assert_eq!(channels(&instance), [format!("1={a}"), format!("2={b}"), format!("3={c}")]);
    assert_eq!(instance.ctl("enable 0").code(0).stdout, "channel 0 already enabled\n");
    instance.ctl("disable 1; maxc 2 7; disable 3; remove 3").code(0);
    let said = instance.ctl("reload clean").code(0).stdout;
    assert!(said.contains("all its channels are as the word says"), "{said}");
    assert_eq!(channels(&instance), [format!("1={a}"), format!("2={b}"), format!("3={c}")]);
    let status = instance.ctl("status").code(0).stdout;
    assert!(!status.contains("by hand") && !status.contains("0/7"), "{status}");
    instance.end();
}

#[test]
fn an_address_that_left_goes_as_soon_as_another_one_is_up() {
    if needs_root(HOSTS) {
        return;
    }
    let mut both: [SocketAddr; 2] = addresses();
    both.sort_unstable();
    let [a, b] = both;
    let _old = Server::named_at(a, "a");
    let word = format!("db:{},each", a.port());
    let instance = start(&["--resolve", "1d"], &[("db", &[a, b])], &[word]);
    // Nobody listens at b, so it is ejected.
    assert_eq!(instance.names(4), "aaaa");
    rename(&instance, &[("db", &[b])]);
    instance.ctl("resolve 0").code(0);
    assert_eq!(channels(&instance), [format!("1={a}"), format!("2={b}")], "nobody else is left");
    assert_eq!(instance.names(2), "aa");
    // From here on nobody looks the name up any more.
    let _new = Server::named_at(b, "b");
    eventually("the old one goes", || (channels(&instance) == [format!("2={b}")]).then_some(()));
    assert_eq!(instance.names(2), "bb");
    eventually("it is told", || {
        let told = instance.told("resolved").pop();
        told.is_some_and(|line| line.ends_with(&format!(" left={a}"))).then_some(())
    });
    instance.end();
}

/// A name server on 127.0.0.1 of this network; gone when dropped.
struct Dnsmasq(std::process::Child);

impl Dnsmasq {
    fn start(zone: &Path) -> Self {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let child = std::process::Command::new("dnsmasq")
            .env("PATH", path)
            .args(["-k", "--conf-file=/dev/null", "--listen-address=127.0.0.1", "--bind-interfaces"])
            .args(["--no-resolv", "--no-hosts", "--local-ttl=0", "--user=root", "--pid-file"])
            .args(["--local=/test/", &format!("--addn-hosts={}", zone.display())])
            .spawn();
        Self(child.expect("ci/test installs it"))
    }

    fn read_again(&self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::HUP).expect("it runs");
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn dnsmasq_is_asked_again() {
    unless_held_up(200, || {
        private_network("a name server on port 53", || {
            let [a, b] = [1, 2].map(|n| SocketAddr::from(([127, 0, 1, n], 7_000)));
            let _servers = [(a, "a"), (b, "b")].map(|(at, name)| Server::named_at(at, name));
            let setup = asking(Setup::new());
            let zone = setup.directory().file("zone", "127.0.1.1 db.test\n");
            let dnsmasq = Dnsmasq::start(&zone);
            eventually("it answers", || std::net::TcpStream::connect("127.0.0.1:53").ok());
            let instance = setup.start(["--resolve", "100ms", "PORT", "db.test:7000", "late.test:7000,lazy"]);
            assert_eq!(instance.names(3), "aaa");
            fs::write(&zone, "127.0.1.2 db.test\n127.0.1.1 late.test\n").expect("written");
            dnsmasq.read_again();
            await_addresses(&instance, &[b]);
            eventually("both are there", || instance.names(2).contains('a').then_some(()));
            // Without it, all stays.
            drop(dnsmasq);
            eventually("it fails", || instance.status()[0].why.starts_with("resolve: ").then_some(()));
            assert!(instance.names(2).contains('a') && instance.names(2).contains('b'));
            instance.end();
        });
    });
}

/// bind9 in charge of `corp` on 127.0.0.1 of this network; gone when dropped.
struct Bind {
    child: std::process::Child,
    zone: std::path::PathBuf,
    serial: u32,
}

impl Bind {
    fn start(directory: &Directory, records: &str) -> Self {
        let zone = directory.file("corp.zone", &zone(1, records));
        let home = zone.parent().expect("a directory").display().to_string();
        let config = directory.file(
            "named.conf",
            &format!(
                "options {{ directory \"{home}\"; listen-on {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; \
                 pid-file \"{home}/named.pid\"; session-keyfile \"{home}/session.key\"; dnssec-validation no; }};\n\
                 controls {{ }};\nzone \"corp\" {{ type primary; file \"{}\"; }};\n",
                zone.display()
            ),
        );
        let log = fs::File::create(zone.with_extension("log")).expect("a file");
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let child = std::process::Command::new("named")
            .env("PATH", path)
            .args(["-g", "-n", "1", "-c", &config.display().to_string()])
            .stderr(log)
            .spawn();
        let bind = Self { child: child.expect("ci/test installs it"), zone, serial: 1 };
        eventually("it answers", || std::net::TcpStream::connect("127.0.0.1:53").ok());
        bind
    }

    fn says(&mut self, records: &str) {
        self.serial += 1;
        fs::write(&self.zone, zone(self.serial, records)).expect("written");
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::HUP).expect("it runs");
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn zone(serial: u32, records: &str) -> String {
    format!(
        "$TTL 1\n@ SOA ns.corp. root.corp. {serial} 3600 600 86400 1\n NS ns.corp.\nns A 127.0.0.1\n\
         a A 127.0.1.1\nb CNAME b2\nb2 A 127.0.1.2\nc A 127.0.1.3\nd A 127.0.1.4\n{records}"
    )
}

/// `GROUP: ADDRESS*WEIGHT`, for each group that has channels.
fn tiers(instance: &Instance) -> Vec<String> {
    let answer: serde_json::Value =
        serde_json::from_str(&instance.ctl("show json").code(0).stdout).expect("it is JSON");
    let groups = answer["groups"].as_array().expect("a list").clone();
    let text = |group: &serde_json::Value| {
        let all = group["channels"].as_array().expect("a list").iter().filter(|one| one["removing"] == false);
        let mut all: Vec<String> =
            all.map(|one| format!("{}*{}", one["address"].as_str().unwrap_or("-"), one["weight"])).collect();
        all.sort();
        (!all.is_empty()).then(|| format!("{}: {}", group["group"], all.join(" ")))
    };
    groups.iter().filter_map(text).collect()
}

#[test]
fn priorities_of_a_service_are_groups_and_no_change_of_them_costs_a_client() {
    private_network("a name server on port 53", || {
        let at = |n: u8, port| SocketAddr::from(([127, 0, 1, n], port));
        let [a, b, c] = [(1, "a"), (2, "b"), (3, "c")].map(|(n, name)| Server::named_at(at(n, 7_000), name));
        let _others = [(4, "d"), (9, "s")].map(|(n, name)| Server::named_at(at(n, 7_000), name));
        let _elsewhere = Server::named_at(at(3, 7_001), "C");
        let setup = asking(Setup::new());
        let first = "_ldap._tcp SRV 10 30 7000 a\n_ldap._tcp SRV 10 10 7000 b\n_ldap._tcp SRV 20 0 7000 c\n";
        let mut bind = Bind::start(setup.directory(), first);
        // Those of /etc/resolv.conf are asked without --dns.
        let args = ["--dns", "127.0.0.1", "PORT", "_ldap._tcp.corp", "!", "127.0.1.9:7000"];
        let instance = setup.start(args);
        let wait_for = |wanted: &[&str]| {
            eventually(&format!("{wanted:?}, not {:?}", tiers(&instance)), || {
                (tiers(&instance) == wanted).then_some(())
            });
        };
        wait_for(&["0: 127.0.1.1:7000*30 127.0.1.2:7000*10", "1: 127.0.1.3:7000*1", "100: 127.0.1.9:7000*1"]);
        let names = instance.names(8);
        assert_eq!((names.matches('a').count(), names.matches('b').count()), (6, 2), "{names}");
        // The word has none of its own, and each of its channels has.
        let refused = instance.ctl("weight 0 3").code(65).stdout;
        assert!(refused.starts_with("channel 0 has no weight of its own: its records say"), "{refused}");
        instance.ctl("weight 2 3; weight 2 10").code(0);
        let load = Load::on(instance.addr, 2);
        load.await_more(10);
        // Other weights, one more; c comes first and on another port.
        bind.says("_ldap._tcp SRV 10 1 7000 a\n_ldap._tcp SRV 10 3 7000 b\n_ldap._tcp SRV 5 0 7001 c\n_ldap._tcp SRV 30 0 7000 d\n");
        wait_for(&[
            "0: 127.0.1.3:7001*1",
            "1: 127.0.1.1:7000*1 127.0.1.2:7000*3",
            "2: 127.0.1.4:7000*1",
            "100: 127.0.1.9:7000*1",
        ]);
        assert_eq!(instance.names(3), "CCC");
        let wanted =
            " changed=\"b.corp:7000 group 0 to 1 weight 10 to 3, a.corp:7000 group 0 to 1 weight 30 to 1\"";
        eventually("it is told", || {
            instance.told("resolved").iter().any(|line| line.ends_with(wanted)).then_some(())
        });
        load.await_more(10);
        // Not offered: that takes three answers over half a minute to be believed, so nothing changes here.
        bind.says("_ldap._tcp SRV 0 0 0 .\n");
        eventually("it is told", || {
            instance
                .ctl("status")
                .code(0)
                .stdout
                .contains("resolve: the service is not offered since")
                .then_some(())
        });
        assert_eq!(instance.names(1), "C");
        bind.says(first);
        wait_for(&["0: 127.0.1.1:7000*30 127.0.1.2:7000*10", "1: 127.0.1.3:7000*1", "100: 127.0.1.9:7000*1"]);
        load.await_more(10);
        // The port that is typed is that of all; it is the same name, asked for once.
        drop(bind);
        eventually("the server is gone", || {
            instance
                .ctl("status")
                .code(0)
                .stdout
                .contains("; resolve: name server 127.0.0.1: connection refused since")
                .then_some(())
        });
        load.await_more(10);
        let visits = load.finish();
        let lost = visits.iter().filter(|visit| !matches!(visit.got, Got::Name(_))).count();
        assert_eq!(lost, 0, "of {}", visits.len());
        // Tier by tier, and at last the one behind them.
        drop((a, b));
        assert_eq!(instance.names(2), "cc");
        drop(c);
        assert_eq!(instance.names(2), "ss");
        let saved = instance.ctl("save").code(0).stdout;
        assert!(saved.trim_end().ends_with(" _ldap._tcp.corp '!' 127.0.1.9:7000"), "{saved}");
        instance.end();
    });
}

#[test]
fn a_name_server_of_ours_is_asked_when_an_answer_ends_and_by_tcp_if_it_is_long() {
    private_network("a name server on port 53", || {
        let setup = asking(Setup::new());
        let many: String = (1..=60).map(|n| format!("many A 127.0.2.{n}\n")).collect();
        let mut bind = Bind::start(setup.directory(), &many);
        let servers: Vec<Server> =
            (1..=61).map(|n| Server::named_at(SocketAddr::from(([127, 0, 2, n], 7_000)), "m")).collect();
        // By an interval of its own it would not be asked for a day.
        let args = ["--resolve", "1d", "--dns", "[::1]:53,127.0.0.1", "PORT", "many.corp:7000,each"];
        let instance = setup.start(args);
        eventually("all are there", || (channels(&instance).len() == 60).then_some(()));
        assert_eq!(instance.names(60).len(), 60);
        bind.says(&format!("{many}many A 127.0.2.61\n"));
        eventually("one more is", || (channels(&instance).len() == 61).then_some(()));
        instance.ctl("disable 0").code(0);
        assert!(channels(&instance).iter().all(|one| one.ends_with('!')));
        instance.ctl("enable 0").code(0);
        bind.says("many A 127.0.2.7\n");
        eventually("one is left", || (channels(&instance) == ["7=127.0.2.7:7000"]).then_some(()));
        drop(servers);
        instance.end();
    });
}

/// What was reported of other balancers: nginx 1656 (an address that alternates), haproxy 971 (two ports of one host), haproxy 3400 (all
/// targets replaced at once), nginx-upstream-dynamic-servers 24 (a name server that was started again), envoy 2691 (a name that is
/// said not to exist now and then).
#[test]
fn what_other_balancers_trip_over_costs_no_client() {
    private_network("a name server on port 53", || {
        let at = |n: u8, port| SocketAddr::from(([127, 0, 1, n], port));
        let _servers: Vec<Server> = (1..=4)
            .flat_map(|n| {
                [7_000, 7_001]
                    .map(|port| Server::named_at(at(n, port), ["1", "2", "3", "4"][usize::from(n) - 1]))
            })
            .collect();
        let setup = asking(Setup::new());
        let (one, other) = ("web A 127.0.1.1\n", "web A 127.0.1.2\n");
        let two_ports = "_x._tcp SRV 1 0 7000 a\n_x._tcp SRV 1 0 7001 a\n";
        let mut bind = Bind::start(setup.directory(), &format!("{one}{two_ports}"));
        let instance = setup.start(["--dns", "127.0.0.1", "PORT", "web.corp:7000,each", "_x._tcp.corp"]);
        eventually("all are there", || (channels(&instance).len() == 3).then_some(()));
        let load = Load::on(instance.addr, 2);
        load.await_more(10);
        let address_of_web = |last: u8| {
            eventually("it has moved", || {
                channels(&instance)
                    .iter()
                    .any(|one| one.ends_with(&format!("=127.0.1.{last}:7000")))
                    .then_some(())
            });
        };
        for turn in 0..3 {
            bind.says(&format!("{}{two_ports}", if turn % 2 == 0 { other } else { one }));
            address_of_web(if turn % 2 == 0 { 2 } else { 1 });
            load.await_more(10);
        }
        // The names are not there for a moment, nor is the server.
        bind.says("");
        eventually("it is told", || {
            instance.ctl("status").code(0).stdout.contains("resolve: no such name").then_some(())
        });
        let before = channels(&instance);
        drop(bind);
        load.await_more(10);
        assert_eq!(channels(&instance), before);
        let all_others = "web A 127.0.1.3\n_x._tcp SRV 1 0 7000 c\n_x._tcp SRV 1 0 7001 d\n";
        let bind = Bind::start(&instance.directory, all_others);
        instance.ctl("resolve");
        let wanted = ["127.0.1.3:7000", "127.0.1.3:7000", "127.0.1.4:7001"];
        eventually("all are others", || {
            let mut now: Vec<String> = channels(&instance)
                .iter()
                .filter_map(|one| Some(one.split_once('=')?.1.to_owned()))
                .collect();
            now.sort();
            (now == wanted).then_some(())
        });
        load.await_more(10);
        let visits = load.finish();
        let lost = visits.iter().filter(|visit| !matches!(visit.got, Got::Name(_))).count();
        assert_eq!(lost, 0, "of {}", visits.len());
        drop(bind);
        instance.end();
    });
}

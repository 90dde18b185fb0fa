//! How groups distribute clients, seen from outside: weights, and every policy except plain round robin.
//!
//! Source: docs/compatibility.md, "Choosing a channel".

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::failover::{burst, client_ip, name_of};
use crate::harness::{Client, Instance, Server, Setup, eventually, needs_root, own_address};

/// Connects so many clients one after the other and keeps them: the connections, and the names of their channels.
fn hold(instance: &Instance, n: usize) -> (Vec<Client>, String) {
    let held: Vec<_> = (0..n).map(|_| instance.named()).collect();
    let names = held.iter().map(|(_, name)| name.as_str()).collect();
    (held.into_iter().map(|(client, _)| client).collect(), names)
}

/// The same from an address of its own.
fn hold_from(instance: &Instance, client: usize) -> (Client, char) {
    let mut client = Client::connect_from(client_ip(client), instance.addr);
    let name = name_of(&mut client).expect("a channel");
    (client, name)
}

fn count(names: &str, name: char) -> usize {
    names.chars().filter(|got| *got == name).count()
}

/// Connections of each channel.
fn loads(instance: &Instance) -> Vec<i64> {
    instance.show().iter().map(|row| row.c).collect()
}

#[test]
fn weighted_round_robin_is_smooth_and_exact() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&format!("{a},weight=3"), &b]);
    assert_eq!(instance.names(16), "aaba".repeat(4));
    instance.end();
}

#[test]
fn weighted_round_robin_is_exact_over_full_rounds_of_concurrent_clients() {
    let (a, b, c) = (Server::named("a"), Server::named("b"), Server::named("c"));
    let instance = Instance::before(&[&format!("{a},weight=5"), &format!("{b},weight=2"), &c]);
    for round in 1..=3 {
        burst(&instance, 40, |mut client, _| name_of(&mut client).expect("a channel"));
        assert_eq!([a.accepted(), b.accepted(), c.accepted()], [25, 10, 5].map(|share| share * round));
    }
    instance.end();
}

#[test]
fn a_channel_of_weight_0_gets_nobody_and_keeps_what_it_has() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&a, &b]);
    let (mut held, names) = hold(&instance, 2);
    assert_eq!(names, "ab");
    instance.ctl("weight 0 0").code(0).out("weight of channel 0 changed to 0\n");
    assert_eq!(instance.names(6), "bbbbbb");
    held[0].send("still");
    assert_eq!(held[0].recv(5), b"still");
    assert_eq!(instance.show()[0].state, "ENA", "an operator's weight is no operator's disable");
    instance.ctl("weight 0 2").code(0);
    assert_eq!(count(&instance.names(9), 'a'), 6, "two of three over three full rounds");
    drop(held);
    instance.end();
}

#[test]
fn a_weight_changed_at_run_time_holds_from_then_on() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&a, &b]);
    assert_eq!(instance.names(7), "abababa");
    instance.ctl("weight 1 4").code(0).out("weight of channel 1 changed to 4\n");
    let names = instance.names(50);
    // The change may cost a part of a round, and no more.
    assert!((39..=41).contains(&count(&names, 'b')), "{names}");
    instance.ctl("weight 1 1").code(0);
    let names = instance.names(50);
    assert!((24..=26).contains(&count(&names, 'b')), "{names}");
    instance.end();
}

#[test]
fn least_connections_fills_up_whoever_has_fewest_and_takes_turns_among_equals() {
    let (a, b, c) = (Server::named("a"), Server::named("b"), Server::named("c"));
    let instance = Instance::before(&[&"--policy", &"leastconn", &a, &b, &c]);
    let (mut held, names) = hold(&instance, 9);
    assert_eq!(names, "abc".repeat(3));
    // b loses two, a one: the next three level that out, b first.
    for index in [7, 4, 3] {
        held.remove(index);
    }
    instance.await_show("three have left", |rows| rows.iter().map(|row| row.c).eq([2, 1, 3]));
    let (more, names) = hold(&instance, 3);
    assert_eq!(names, "bab");
    assert_eq!(loads(&instance), [3, 3, 3]);
    drop((held, more));
    instance.await_show("idle", |rows| rows.iter().all(|row| row.c == 0));
    let mut names = String::new();
    for _ in 0..6 {
        names += &instance.names(1);
        instance.await_show("idle", |rows| rows.iter().all(|row| row.c == 0));
    }
    assert_eq!(['a', 'b', 'c'].map(|name| count(&names, name)), [2; 3], "idle channels take turns: {names}");
    instance.end();
}

#[test]
fn least_connections_is_exact_under_concurrent_connects() {
    let (a, b, c) = (Server::named("a"), Server::named("b"), Server::named("c"));
    let instance = Instance::before(&[&"--policy", &"leastconn", &a, &format!("{b},weight=2"), &c]);
    let clients = burst(&instance, 40, |mut client, _| (name_of(&mut client), client));
    assert_eq!(loads(&instance), [10, 20, 10]);
    drop(clients);
    instance.end();
}

#[test]
fn least_connections_counts_connections_for_a_weight() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&"--policy", &"leastconn", &format!("{a},weight=3"), &b]);
    let (held, names) = hold(&instance, 12);
    assert_eq!((&names[..4], count(&names, 'a')), ("abaa", 9), "{names}");
    drop(held);
    instance.end();
}

#[test]
fn of_two_choices_the_worse_is_never_taken() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&"--policy", &"p2c", &a, &b]);
    instance.ctl("disable 1").code(0);
    let (held, names) = hold(&instance, 8);
    assert_eq!(names, "a".repeat(8));
    instance.ctl("enable 1").code(0);
    let (more, names) = hold(&instance, 8);
    assert_eq!(names, "b".repeat(8), "with two channels both are looked at");
    let (mut rest, mut difference) = (Vec::new(), 0_i64);
    for _ in 0..20 {
        let (client, name) = instance.named();
        rest.push(client);
        difference += if name == "a" { 1 } else { -1 };
        assert!(difference.abs() <= 1, "never more than one apart");
    }
    drop((held, more, rest));
    instance.end();
}

#[test]
fn two_choices_never_take_the_fullest_channel_and_keep_a_balance() {
    let servers: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().map(Server::named).collect();
    let args = ["--policy", "p2c", "PORT"].map(String::from);
    let instance = Instance::start(args.into_iter().chain(servers.iter().map(ToString::to_string)));
    instance.ctl("disable 1; disable 2; disable 3; disable 4").code(0);
    let (held, _) = hold(&instance, 30);
    instance.ctl("enable 1; enable 2; enable 3; enable 4").code(0);
    let (more, names) = hold(&instance, 80);
    assert_eq!(count(&names, 'a'), 0, "alone at the top it loses every comparison: {names}");
    let (rest, _) = hold(&instance, 90);
    let loads = loads(&instance);
    let (least, most) = (loads.iter().min().expect("five"), loads.iter().max().expect("five"));
    // 200 clients by lot alone spread over 20 or more.
    assert!(most - least <= 12, "{loads:?}");
    drop((held, more, rest));
    instance.end();
}

#[test]
fn first_fills_channels_in_order_up_to_their_limits() {
    let (a, b, c) = (Server::named("a"), Server::named("b"), Server::named("c"));
    let channels: [&dyn std::fmt::Display; 5] =
        [&"--policy", &"first", &format!("{a}:2"), &format!("{b}:3"), &c];
    let instance = Instance::before(&channels);
    let (mut held, names) = hold(&instance, 7);
    assert_eq!(names, "aabbbcc");
    drop(held.remove(3));
    instance.await_show("a slot at b", |rows| rows[1].c == 2);
    drop(held.remove(0));
    instance.await_show("a slot at a", |rows| rows[0].c == 1);
    let (more, names) = hold(&instance, 3);
    assert_eq!(names, "abc");
    drop((held, more));
    instance.await_show("idle", |rows| rows.iter().all(|row| row.c == 0));
    for _ in 0..3 {
        assert_eq!(instance.names(1), "a", "and never anybody else while it has room");
        instance.await_show("idle", |rows| rows[0].c == 0);
    }
    instance.end();
}

#[test]
fn hashing_shares_clients_by_weight() {
    const CLIENTS: usize = 240;
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&format!("{a},weight=3"), &b, &"%"]);
    let ask = |_| (0..CLIENTS).map(|client| hold_from(&instance, client).1).collect::<String>();
    let [first, again] = [0, 1].map(ask);
    assert_eq!(first, again, "sticky");
    // Three quarters, give or take five standard deviations of 6.7.
    assert!((147..=213).contains(&count(&first, 'a')), "{first}");
    instance.ctl("weight 0 0").code(0);
    assert_eq!(count(&ask(0), 'b'), CLIENTS, "of weight 0 it wins nobody");
    instance.ctl("weight 0 3").code(0);
    assert_eq!(first, ask(0), "and everybody comes back");
    instance.end();
}

#[test]
fn a_hashed_client_stays_when_the_addresses_of_names_change() {
    const CLIENTS: usize = 90;
    if needs_root("a hosts file of its own takes a mount namespace") {
        return;
    }
    // Four addresses of one port that only this test uses; a fixed one, since the hash goes by it.
    let first = SocketAddr::new(own_address().ip(), 7_000);
    let IpAddr::V4(ip) = first.ip() else { panic!("{first}") };
    let [a, b, c, d] = ip.octets();
    let at = |n: u8| SocketAddr::new(Ipv4Addr::new(a, b, c ^ n << 6, d).into(), first.port());
    let servers: Vec<_> =
        ["a", "b", "c", "d"].into_iter().zip(0..).map(|(name, n)| Server::named_at(at(n), name)).collect();
    // Which server each client gets when the three names are at these addresses.
    let homes = |words: [&str; 3], places: [usize; 3]| -> String {
        let lines = ["web1", "web2", "web3"].into_iter().zip(places);
        let hosts: String = lines.map(|(name, n)| format!("{} {name}\n", servers[n].addr.ip())).collect();
        let words = words.map(|word| format!("{word}:{}", first.port()));
        let args = ["PORT".to_owned()].into_iter().chain(words).chain(["%".to_owned()]);
        let instance = Setup::new().hosts(&format!("127.0.0.1 localhost\n{hosts}")).start(args);
        let homes = (0..CLIENTS).map(|client| hold_from(&instance, client).1).collect();
        instance.end();
        homes
    };
    let before = homes(["web1", "web2", "web3"], [0, 1, 2]);
    assert!("abc".chars().all(|name| count(&before, name) > CLIENTS / 6), "{before}");
    // web2 moved to d, and web1 to where web2 was.
    let moved = before.replace('b', "d").replace('a', "b");
    assert_eq!(homes(["web1", "web2", "web3"], [1, 3, 2]), moved);
    // Neither the order nor the spelling says anything.
    assert_eq!(homes(["WEB3", "web2", "web1"], [0, 1, 2]), before);
    // The same word twice is two channels: each has clients of its own, and what they have is more than one had.
    let twice = homes(["web1", "web1", "web3"], [0, 1, 2]);
    assert!(
        before.chars().zip(twice.chars()).all(|(was, is)| was == is || was == 'b' || is == 'a'),
        "{twice}"
    );
    assert!(count(&twice, 'a') > count(&before, 'a'), "{twice}");
}

#[test]
fn hashing_with_a_balance_keeps_every_channel_below_its_bound() {
    const CLIENTS: usize = 120;
    let servers: Vec<_> = ["a", "b", "c", "d"].into_iter().map(Server::named).collect();
    let args = ["--hash-balance", "1.25", "PORT"].map(String::from);
    let channels = servers.iter().map(ToString::to_string).chain(["%".to_owned()]);
    let instance = Instance::start(args.into_iter().chain(channels));
    let mut held = Vec::new();
    let mut loads = std::collections::BTreeMap::new();
    for client in 0..CLIENTS {
        let (client, name) = hold_from(&instance, client);
        held.push(client);
        *loads.entry(name).or_insert(0_usize) += 1;
        // 1.25 times the average, rounded up.
        let bound = (held.len() * 5).div_ceil(16);
        assert!(loads.values().all(|load| *load <= bound), "{loads:?} of {} clients", held.len());
    }
    assert_eq!(loads.values().sum::<usize>(), CLIENTS);
    // One address that everybody comes from overflows to the others, too.
    let crowd: Vec<_> = (0..40).map(|_| hold_from(&instance, 7)).collect();
    let most = self::loads(&instance).into_iter().max().expect("four");
    assert!(most <= 50, "a bound of 50 for 160 clients: {most}");
    drop((held, crowd));
    instance.await_show("idle", |rows| rows.iter().all(|row| row.c == 0));
    instance.end();
}

#[test]
fn hashing_with_a_balance_is_sticky_while_there_is_room() {
    let (a, b, c) = (Server::named("a"), Server::named("b"), Server::named("c"));
    let plain = Instance::before(&[&a, &b, &c, &"%"]);
    let balanced = Instance::before(&[&"--hash-balance", &"1.25", &a, &b, &c, &"%"]);
    for client in 0..24 {
        let wanted = hold_from(&plain, client).1;
        for _ in 0..2 {
            // Nobody else is connected, so nobody has to go elsewhere.
            assert_eq!(hold_from(&balanced, client).1, wanted, "client {client}");
            balanced.await_show("idle", |rows| rows.iter().all(|row| row.c == 0));
        }
    }
    plain.end();
    balanced.end();
}

#[test]
fn every_policy_has_its_word_in_show_and_its_command() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    for (name, word, said) in [
        ("rr", "RR", "round robin"),
        ("leastconn", "LC", "least connections"),
        ("p2c", "P2C", "power of two choices"),
        ("first", "Fst", "first"),
        ("hash", "Hash", "hash"),
    ] {
        let instance = Instance::before(&[&"--policy", &name, &a]);
        assert_eq!(instance.show()[0].policy, word);
        assert_eq!(instance.names(1), "a");
        instance.end();
        let instance = Instance::before(&[&a, &"!", &b]);
        instance.ctl(&format!("group 1; policy {name}")).code(0).out(&format!("group 1 set to {said}\n"));
        let rows = instance.show();
        assert_eq!([&rows[0].policy[..], &rows[1].policy], ["RR", word]);
        instance.end();
    }
}

#[test]
fn one_policy_is_for_all_groups_but_those_that_a_percent_sign_ends() {
    let words = |args: &[&str]| {
        let instance = Instance::start(args);
        let words: Vec<_> = instance.show().into_iter().map(|row| row.policy).collect();
        instance.ctl("group 9; create 127.0.0.1 9").code(0);
        let later = instance.show().pop().expect("a channel").policy;
        instance.terminate();
        format!("{} later {later}", words.join(" "))
    };
    let channels = ["PORT", "127.0.0.1:9", "!", "127.0.0.1:10", "%", "127.0.0.1:11"];
    let with = |policy| words(&[&["--policy", policy], &channels[..]].concat());
    assert_eq!(words(&channels), "RR Hash RR later RR");
    assert_eq!(with("leastconn"), "LC Hash LC later LC");
    assert_eq!(with("first,hash,p2c"), "Fst Hash P2C later RR");
}

#[test]
fn a_policy_that_is_none_changes_nothing() {
    let a = Server::named("a");
    let instance = Instance::before(&[&"--policy", &"first", &a]);
    let unknown = "unknown policy, it is one of rr, leastconn, p2c, first, hash\n";
    instance.ctl("policy lc").code(65).out(unknown);
    instance.ctl("policy RR").code(65).out(unknown);
    instance.ctl("policy").code(64).out("usage: policy <name>\n");
    instance.ctl("policy rr first").code(64).out("usage: policy <name>\n");
    assert_eq!(instance.show()[0].policy, "Fst");
    // The same command as ever, by its name of 3.57.
    instance.ctl("rr").code(0).out("group 0 set to round robin\n");
    assert_eq!(instance.show()[0].policy, "RR");
    instance.end();
}

#[test]
fn a_new_policy_counts_for_the_next_client() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&a, &b]);
    let (held, names) = hold(&instance, 5);
    assert_eq!(names, "ababa");
    instance.ctl("policy first").code(0);
    let (more, names) = hold(&instance, 3);
    assert_eq!(names, "aaa");
    instance.ctl("policy leastconn").code(0);
    let (rest, names) = hold(&instance, 4);
    assert_eq!(names, "bbbb");
    eventually("both have six", || loads(&instance).iter().all(|load| *load == 6).then_some(()));
    drop((held, more, rest));
    instance.end();
}

//! What hashing promises to the clients of a site: an even distribution, stability, and that no client moves
//! without need.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use balance::sched::{Addresses, AdminState, ClientAddr, Policy, Rules, Table, Weight};

use super::{Random, group_id, key, place};

/// One hash group of these channels, and a group 1 with one channel for those who get none there.
fn table(channels: &[SocketAddr], hash_failover: bool) -> Table {
    let mut table = Table::new(Rules { hash_failover, ..Rules::CLASSIC });
    table.set_policy(group_id(0), Policy::Hash);
    let spare = SocketAddr::from(([127, 0, 0, 1], 9));
    for (group, address) in channels.iter().map(|&address| (0, address)).chain([(1, spare)]) {
        let created = table.create(group_id(group), Addresses::from(address), None, AdminState::Enabled);
        created.expect("few channels");
    }
    table
}

fn channels(count: usize) -> Vec<SocketAddr> {
    (0..count).map(|n| SocketAddr::from(([10, 1, (n / 250) as u8, (n % 250) as u8], 80))).collect()
}

/// The address a client ends at.
fn home(table: &mut Table, client: IpAddr) -> SocketAddr {
    let mut route = table.begin(ClientAddr::from(client));
    let lease = table.next(&mut route).expect("there always is the spare one");
    lease.addresses().first().net().expect("of the network")
}

fn homes(table: &mut Table, clients: &[IpAddr]) -> Vec<SocketAddr> {
    clients.iter().map(|&client| home(table, client)).collect()
}

fn clients(count: usize) -> Vec<IpAddr> {
    let mut random = Random(2026);
    (0..count).map(|_| IpAddr::from((random.next() as u32).to_be_bytes())).collect()
}

#[test]
fn real_looking_populations_spread_evenly() {
    let v6 = |n: u128| IpAddr::from((0x2001_0db8_u128 << 96 | n).to_be_bytes());
    let v4 = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(n));
    let count = 40_000_u32;
    let populations: [(&str, Vec<IpAddr>); 7] = [
        ("random", clients(count as usize)),
        ("one network", (0..count).map(|n| v4(0x0a00_0000 + n)).collect()),
        ("the same host of many networks", (0..count).map(|n| v4((n << 8) + 1)).collect()),
        ("even addresses", (0..count).map(|n| v4(0xc0a8_0000 + 2 * n)).collect()),
        ("hosts of one v6 network", (0..count).map(|n| v6(n.into())).collect()),
        ("v6 networks", (0..count).map(|n| v6(u128::from(n) << 64 | 1)).collect()),
        ("autoconfigured v6", (0..count).map(|n| v6(0x0202_b3ff_fe00_0000 + u128::from(n))).collect()),
    ];
    for size in [2, 3, 7, 10, 40] {
        let channels = channels(size);
        let mut table = table(&channels, false);
        for (name, population) in &populations {
            let found = homes(&mut table, population);
            let expected = f64::from(count) / size as f64;
            let square: f64 = channels
                .iter()
                .map(|channel| found.iter().filter(|&home| home == channel).count() as f64 - expected)
                .map(|off| off * off / expected)
                .sum();
            // Two throws of dice: the buckets fall to channels, the clients to buckets. What both give to chi-square
            // has this mean; the bound is about five deviations above it.
            let freedom = (size - 1) as f64;
            let two_throws = 1.0 + f64::from(count) / 65_536.0;
            let bound = two_throws * (freedom + 5.0 * (2.0 * freedom).sqrt() + 5.0);
            assert!(square < bound, "{name} over {size} channels: chi-square {square:.1}, bound {bound:.1}");
        }
    }
}

#[test]
fn a_new_channel_takes_its_share_and_moves_nobody_else() {
    let population = clients(20_000);
    for size in [1, 4, 31, 32, 33, 60] {
        let mut table = table(&channels(size), false);
        let before = homes(&mut table, &population);
        let new = SocketAddr::from(([10, 9, 9, 9], 80));
        let created = table.create(group_id(0), Addresses::from(new), None, AdminState::Enabled);
        created.expect("few channels");
        let after = homes(&mut table, &population);
        let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
        assert!(moved.iter().all(|&(_, &after)| after == new), "{size} channels: moved elsewhere");
        let share = population.len() / (size + 1);
        assert!(moved.len().abs_diff(share) < share / 4, "{size} channels: {} moved of {share}", moved.len());
    }
}

#[test]
fn losing_a_channel_moves_only_its_clients_and_back_again() {
    let population = clients(20_000);
    for size in [2, 5, 32, 50] {
        let addresses = channels(size);
        let mut whole = table(&addresses, true);
        let before = homes(&mut whole, &population);
        let lost = size / 2;
        let rest: Vec<_> = addresses.iter().copied().filter(|&address| address != addresses[lost]).collect();
        let without = homes(&mut table(&rest, true), &population);
        whole.set_state(key(0, lost), AdminState::Disabled).expect("it exists");
        let disabled = homes(&mut whole, &population);
        assert_eq!(disabled, without, "{size}: with -H, disabled is as good as not there");
        for (before, after) in before.iter().zip(&disabled) {
            assert!(before == after || *before == addresses[lost], "{size}: {before} moved to {after}");
        }
        let spread = rest.iter().filter(|&&heir| {
            before.iter().zip(&disabled).any(|(before, after)| *before == addresses[lost] && *after == heir)
        });
        assert_eq!(spread.count(), rest.len(), "{size}: its clients are shared by all others");
        whole.set_state(key(0, lost), AdminState::Enabled).expect("it exists");
        assert_eq!(homes(&mut whole, &population), before, "{size}: all come home");
    }
}

#[test]
fn without_h_the_clients_of_a_lost_channel_leave_the_group() {
    let population = clients(5_000);
    let mut table = table(&channels(5), false);
    let before = homes(&mut table, &population);
    let lost = channels(5)[3];
    table.set_state(key(0, 3), AdminState::Disabled).expect("it exists");
    for (before, after) in before.iter().zip(homes(&mut table, &population)) {
        let expected = if *before == lost { SocketAddr::from(([127, 0, 0, 1], 9)) } else { *before };
        assert_eq!(after, expected);
    }
}

#[test]
fn the_order_on_the_command_line_says_nothing() {
    let population = clients(5_000);
    for size in [3, 32, 45] {
        let mut addresses = channels(size);
        let before = homes(&mut table(&addresses, false), &population);
        let mut random = Random(1);
        for _ in 0..3 {
            (1..size).rev().for_each(|n| addresses.swap(n, random.below(n + 1)));
            assert_eq!(homes(&mut table(&addresses, false), &population), before, "{size} channels");
        }
    }
}

#[test]
fn equal_channels_share_their_clients_and_their_order_says_nothing() {
    let population = clients(9_000);
    let [a, b] = [SocketAddr::from(([10, 0, 0, 1], 80)), SocketAddr::from(([10, 0, 0, 2], 80))];
    let mut first = table(&[a, b, a], false);
    let before = homes(&mut first, &population);
    assert_eq!(homes(&mut table(&[b, a, a], false), &population), before);
    let at_a = before.iter().filter(|&&home| home == a).count();
    assert!(at_a.abs_diff(6_000) < 300, "two of three channels, {at_a} of 9000 clients");
    let snapshot = first.snapshot();
    let counts: Vec<u64> = snapshot.groups[0].channels.iter().map(|channel| channel.totalc).collect();
    assert!(counts.iter().all(|count| count.abs_diff(3_000) < 300), "{counts:?}");
}

#[test]
fn a_mapped_client_is_the_v4_client_and_a_mapped_channel_the_v4_channel() {
    let addresses = channels(6);
    let mapped: Vec<SocketAddr> = addresses
        .iter()
        .map(|address| match address.ip() {
            IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
            v6 => SocketAddr::new(v6, address.port()),
        })
        .collect();
    let (mut plain, mut spelled) = (table(&addresses, false), table(&mapped, false));
    for client in clients(3_000) {
        let IpAddr::V4(v4) = client else { unreachable!("clients are v4") };
        let home_of = home(&mut plain, client);
        assert_eq!(home(&mut plain, v4.to_ipv6_mapped().into()), home_of, "{client}");
        assert_eq!(home(&mut spelled, client).ip().to_canonical(), home_of.ip(), "{client}");
    }
}

#[test]
fn what_else_happens_does_not_move_a_client() {
    let population = clients(500);
    let mut table = table(&channels(8), true);
    let before = homes(&mut table, &population);
    let mut random = Random(3);
    for _ in 0..5_000 {
        let client = population[random.below(population.len())];
        let mut route = table.begin(ClientAddr::from(client));
        let lease = table.next(&mut route).expect("a channel");
        if random.one_in(3) {
            table.failed(
                lease,
                balance::sched::DialFailure::Channel,
                balance::sched::DialCause::Refused,
                "refused",
            );
        } else {
            table.connected(route, &lease, Duration::ZERO);
        }
    }
    table.set_policy(group_id(0), Policy::RoundRobin);
    table.set_policy(group_id(0), Policy::Hash);
    assert_eq!(homes(&mut table, &population), before);
}

/// A hash group of these channels: host as typed, port, weight. What they resolve to is not what counts.
fn typed(channels: &[(&str, u16, u32)]) -> Table {
    let mut table = Table::new(Rules::CLASSIC);
    table.set_policy(group_id(0), Policy::Hash);
    for (c, &(host, port, weight)) in channels.iter().enumerate() {
        let ip = host.parse().unwrap_or_else(|_| IpAddr::from([172, 16, 1, c as u8]));
        let addresses = Addresses::from(SocketAddr::new(ip, port)).named(host);
        table.create(group_id(0), addresses, None, AdminState::Enabled).expect("few channels");
        table.set_weight(key(0, c), Weight::new(weight).expect("a legal one")).expect("it exists");
    }
    table
}

/// Clients and channel numbers of sites that run, worked out apart from this code. If this fails, an upgrade would move
/// customers: do not change the values, change the code back.
#[test]
fn the_mapping_is_the_one_of_every_release() {
    let clients = [
        "10.0.0.1",
        "10.0.0.2",
        "192.0.2.1",
        "127.0.0.1",
        "255.255.255.255",
        "0.0.0.0",
        "203.0.113.77",
        "::ffff:203.0.113.77",
        "2001:db8::1",
        "2001:db8::2",
        "::1",
        "fe80::1",
    ];
    let mixed = ["[2001:db8::a]:443", "[2001:db8::b]:443", "10.0.0.1:443", "10.0.0.1:8443", "10.0.0.1:443"];
    let mixed = mixed.map(|text| text.parse::<SocketAddr>().expect("an address")).to_vec();
    let many: Vec<_> = (0..100).map(|n| (format!("node{n}.example"), 80, 1 + n % 3)).collect();
    let many: Vec<_> = many.iter().map(|(host, port, weight)| (host.as_str(), *port, *weight)).collect();
    let pinned = [
        (table(&channels(3), false), [1, 1, 1, 0, 1, 2, 2, 2, 2, 2, 2, 1]),
        (table(&channels(5), false), [1, 1, 1, 3, 3, 2, 4, 4, 2, 2, 4, 1]),
        (table(&channels(64), false), [17, 11, 13, 60, 3, 5, 62, 62, 43, 6, 6, 52]),
        (table(&channels(1000), false), [310, 68, 939, 113, 400, 64, 720, 720, 221, 810, 892, 452]),
        (table(&mixed, false), [2, 4, 1, 0, 1, 1, 1, 1, 2, 3, 3, 1]),
        (
            typed(&[
                ("web1", 80, 1),
                ("web2", 80, 1),
                ("web3.example", 80, 1),
                ("db", 5432, 1),
                ("a-long.name.of.many.labels.example", 443, 1),
            ]),
            [0, 2, 0, 4, 1, 4, 4, 4, 1, 0, 2, 3],
        ),
        (
            typed(&[
                ("web1.example", 80, 1),
                ("WEB1.example.", 80, 1),
                ("::ffff:10.0.0.1", 80, 1),
                ("2001:DB8:0::A", 80, 1),
                ("unix:/run/Web.sock", 0, 1),
                ("Web1.Example", 8080, 1),
            ]),
            [1, 1, 1, 2, 5, 2, 2, 2, 3, 2, 5, 1],
        ),
        (
            typed(&[("big", 80, 5), ("middle", 80, 2), ("small", 80, 1), ("none", 80, 0)]),
            [2, 1, 2, 0, 1, 1, 0, 0, 1, 0, 0, 1],
        ),
        (typed(&many), [8, 92, 58, 66, 28, 28, 68, 68, 53, 11, 23, 23]),
    ];
    for (mut table, expected) in pinned {
        let found = clients.map(|client| {
            let client: IpAddr = client.parse().expect("an address");
            let mut route = table.begin(ClientAddr::from(client));
            place(table.next(&mut route).expect("a channel").key())
        });
        assert_eq!(found, expected.map(|channel| (0, channel)), "{:?}", table.snapshot().groups[0].channels);
    }
}

#[test]
fn a_name_that_gets_other_addresses_moves_nobody() {
    let population = clients(3_000);
    let mut table = typed(&[("web1", 80, 1), ("web2", 80, 1), ("web3", 80, 1)]);
    let numbers = |table: &mut Table| -> Vec<(usize, usize)> {
        let pick = |&client: &IpAddr| {
            let mut route = table.begin(ClientAddr::from(client));
            place(table.next(&mut route).expect("a channel").key())
        };
        population.iter().map(pick).collect()
    };
    let before = numbers(&mut table);
    for (host, address) in [("web2", "10.7.7.7:80"), ("WEB2.", "[2001:db8::7]:80")] {
        let addresses = Addresses::from(address.parse::<SocketAddr>().expect("an address")).named(host);
        table.set_state(key(0, 1), AdminState::Disabled).expect("it exists");
        table.assign(key(0, 1), addresses).expect("disabled");
        table.set_state(key(0, 1), AdminState::Enabled).expect("it exists");
        assert!(numbers(&mut table) == before, "{host} at {address}");
    }
    table.set_state(key(0, 1), AdminState::Disabled).expect("it exists");
    let other = Addresses::from("10.7.7.7:80".parse::<SocketAddr>().expect("an address")).named("web4");
    table.assign(key(0, 1), other).expect("disabled");
    table.set_state(key(0, 1), AdminState::Enabled).expect("it exists");
    assert!(numbers(&mut table) != before, "another host is another channel");
}

#[test]
fn the_order_in_which_a_name_resolves_does_not_matter() {
    let names: [&[&str]; 3] =
        [&["10.0.0.1:80", "[2001:db8::1]:80"], &["10.0.0.2:80", "10.0.0.9:80"], &["10.0.0.3:80"]];
    let table_of = |rotated: bool| {
        let mut table = Table::new(Rules::CLASSIC);
        table.set_policy(group_id(0), Policy::Hash);
        for name in names {
            let mut addresses: Vec<SocketAddr> =
                name.iter().map(|address| address.parse().expect("an address")).collect();
            if rotated {
                addresses.reverse();
            }
            let addresses =
                Addresses::new(addresses.into_iter().map(Into::into).collect()).expect("not empty");
            table.create(group_id(0), addresses, None, AdminState::Enabled).expect("a slot");
        }
        table
    };
    let (mut today, mut tomorrow) = (table_of(false), table_of(true));
    for n in 0..2_000u32 {
        let client = ClientAddr::from(std::net::IpAddr::from(n.to_be_bytes()));
        let pick = |table: &mut Table| {
            let mut route = table.begin(client);
            table.next(&mut route).expect("a channel").key()
        };
        assert_eq!(pick(&mut today), pick(&mut tomorrow), "client {n}");
    }
}

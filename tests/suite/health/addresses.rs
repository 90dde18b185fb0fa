//! A name with several addresses, some of which do not answer: which client waits for that, and what is
//! logged.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use crate::harness::{
    BlackHole, Instance, Server, Setup, eventually, needs_root, own_address, unless_held_up,
};

use super::names;

/// Addresses of one port that only this test uses.
fn addresses<const N: usize>() -> [SocketAddr; N] {
    let first = own_address();
    let IpAddr::V4(ip) = first.ip() else { panic!("{first}") };
    let [a, b, c, d] = ip.octets();
    // The addresses of one test are as near to each other as to nobody else's; the resolver keeps the order of the hosts file.
    std::array::from_fn(|n| SocketAddr::new(Ipv4Addr::new(a, b, c ^ (n as u8) << 6, d).into(), first.port()))
}

/// An instance with these options and, as its last channels, the name `many` for these addresses and what comes behind it.
fn before_many(options: &[&str], addresses: &[SocketAddr], behind: &[&str]) -> Instance {
    let lines: Vec<String> = addresses.iter().map(|address| format!("{} many\n", address.ip())).collect();
    let hosts = format!("127.0.0.1 localhost\n{}", lines.concat());
    let many = format!("many:{}", addresses[0].port());
    let all = [options, &["PORT", &many], behind].concat();
    let instance = Setup::new().hosts(&hosts).start(all);
    assert_eq!(instance.status()[0].address, addresses[0].to_string(), "the order of the hosts file");
    instance
}

#[test]
fn a_dead_first_address_costs_the_first_client_and_nobody_else() {
    if needs_root("a hosts file of its own takes a mount namespace") {
        return;
    }
    let [dead, alive] = addresses();
    let (hole, _server) = (BlackHole::at(dead), Server::named_at(alive, "b"));
    let instance = before_many(&["-d", "-t", "1s"], &[dead, alive], &[]);
    assert_eq!(instance.status()[0].addrs, "2/2");
    assert_eq!(names(&instance, 30), "b".repeat(30));
    instance.await_told([("channel_failed", 1), ("address_ejected", 1)]);
    let row = instance.status().remove(0);
    assert_eq!((&row.health[..], &row.addrs[..], row.used), ("up", "1/2", alive.to_string()));
    assert_eq!(row.why, format!("{dead}: connect: no answer in time"));
    let told = instance.told("address_ejected");
    assert!(matches!(&told[..], [line] if line.contains(&format!(" address={dead} "))), "{told:?}");
    assert_eq!(instance.told("ejected"), [""; 0], "the channel is up");
    drop(hole);
    let _back = Server::named_at(dead, "a");
    let back =
        eventually("it is tried in the background", || instance.told("address_returned").first().cloned());
    assert!(back.contains(&format!(" address={dead} ")), "{back}");
    assert_eq!(names(&instance, 3), "aaa", "the order of the resolver");
    let row = instance.status().remove(0);
    assert_eq!((&row.addrs[..], row.used, &row.why[..]), ("2/2", dead.to_string(), "-"));
    instance.end();
}

#[test]
fn the_timeout_is_for_the_channel_and_not_for_each_of_its_addresses() {
    if needs_root("a hosts file of its own takes a mount namespace") {
        return;
    }
    let all: [SocketAddr; 3] = addresses();
    let holes = all.map(BlackHole::at);
    let next = Server::named("z");
    let instance = before_many(&["-t", "900ms"], &all, &[&next.addr.to_string()]);
    assert_eq!(names(&instance, 1), "z");
    // Of each address, and of the channel.
    instance.await_told([("address_ejected", 3), ("ejected", 1)]);
    let row = instance.status().remove(0);
    assert_eq!((&row.health[..], &row.addrs[..]), ("ejected", "0/3"));
    assert_eq!(names(&instance, 20), "z".repeat(20));
    drop(holes);
    instance.end();
}

#[test]
fn an_address_that_fails_its_check_is_tried_behind_one_that_passes() {
    unless_held_up(300, || {
        if needs_root("a hosts file of its own takes a mount namespace") {
            return;
        }
        let [bad, good] = addresses();
        // The check asks for what each says first.
        let (_a, _b) = (Server::named_at(bad, "a"), Server::named_at(good, "b"));
        let check = ["--check", "expect:b", "--check-interval", "100ms", "--check-timeout", "1s"];
        let instance = before_many(&check, &[bad, good], &[]);
        eventually("the check has found it", || (instance.status()[0].addrs == "1/2").then_some(()));
        assert_eq!(names(&instance, 20), "b".repeat(20));
        assert!(TcpStream::connect(bad).is_ok(), "it takes connections all the same");
        assert_eq!(instance.health(), "up");
        instance.end();
    });
}

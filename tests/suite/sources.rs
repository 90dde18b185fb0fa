//! `-B`: the source addresses of connections to channels, in turn.
//!
//! Source: docs/compatibility.md, "Command line".

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::harness::{Directory, Instance, Run, Server, Setup, own_address};

/// How many connections came from each of the addresses `127.3.0.N`, by N.
fn sources_of(server: &Server) -> BTreeMap<u8, usize> {
    let mut sources = BTreeMap::new();
    for client in server.clients() {
        let IpAddr::V4(ip) = client.ip() else { panic!("{client}") };
        assert_eq!(ip.octets()[..3], [127, 3, 0], "{client}");
        *sources.entry(ip.octets()[3]).or_insert(0) += 1;
    }
    sources
}

#[test]
fn several_source_addresses_take_turns_after_a_reload_and_an_upgrade_too() {
    let a = Server::named("a");
    let listen = own_address();
    let setup = Setup::binding(listen);
    let line = |sources: &str| format!("-B {sources} -b {} {} {a}\n", listen.ip(), listen.port());
    let file = setup.directory().file("services", &line("127.3.0.1,127.3.0.2"));
    let mut instance = setup.start(["--file".to_owned(), file.display().to_string()]);
    assert_eq!(instance.names(6), "aaaaaa");
    assert_eq!(sources_of(&a), BTreeMap::from([(1, 3), (2, 3)]));
    instance.directory.file("services", &line("127.3.0.2,127.3.0.3,127.3.0.4"));
    let told = "--source is 127.3.0.2,127.3.0.3,127.3.0.4, was 127.3.0.1,127.3.0.2";
    let answer = instance.ctl("reload").code(0);
    assert!(answer.stdout.contains(told), "{answer}");
    assert_eq!(instance.names(6), "aaaaaa");
    assert_eq!(sources_of(&a), BTreeMap::from([(1, 3), (2, 5), (3, 2), (4, 2)]));
    instance.upgrade();
    assert_eq!(instance.names(6), "aaaaaa");
    assert_eq!(sources_of(&a), BTreeMap::from([(1, 3), (2, 7), (3, 4), (4, 4)]));
    assert!(instance.ctl("save").code(0).stdout.contains("-B 127.3.0.2,127.3.0.3,127.3.0.4 "));
    instance.end();
}

#[test]
fn a_source_address_that_cannot_be_used_is_passed_over_while_another_one_can() {
    let a = Server::named("a");
    // The first two are nobody's, the last one is of another family.
    let instance = Instance::before(&[&"-a", &"-B", &"192.0.2.7,192.0.2.8,127.3.0.5,::1", &a]);
    assert_eq!(instance.names(4), "aaaa");
    assert_eq!(sources_of(&a), BTreeMap::from([(5, 4)]));
    assert_eq!(instance.show()[0].state, "ENA");
    let told =
        "-B: this host does not have the addresses 192.0.2.7, 192.0.2.8; balance uses the other addresses";
    assert_eq!(instance.stderr().matches(told).count(), 1, "{}", instance.stderr());
    let doctor = instance.ctl("doctor");
    let line = doctor.stdout.lines().find(|line| line.starts_with("advice source-addresses"));
    assert!(line.is_some_and(|line| line.contains("192.0.2.7, 192.0.2.8")), "{doctor}");
    instance.end();
}

#[test]
fn a_reload_tells_of_a_source_address_that_there_is_not() {
    let a = Server::named("a");
    let listen = own_address();
    let setup = Setup::binding(listen);
    let line = |source: &str| format!("-B {source} -b {} {} {a}\n", listen.ip(), listen.port());
    let file = setup.directory().file("services", &line("127.3.0.1"));
    let instance = setup.start(["--file".to_owned(), file.display().to_string()]);
    assert!(!instance.stderr().contains("does not have"), "{}", instance.stderr());
    instance.directory.file("services", &line("192.0.2.7"));
    let told =
        "-B: this host does not have the address 192.0.2.7; connections to channels fail until it has it";
    let answer = instance.ctl("reload").code(0);
    assert!(answer.stdout.contains(told), "{answer}");
    let doctor = instance.ctl("doctor").code(2);
    assert!(doctor.stdout.contains("broken source-addresses"), "{doctor}");
    instance.directory.file("services", &line("127.3.0.1"));
    instance.ctl("reload").code(0);
    assert_eq!(instance.names(1), "a");
    instance.end();
}

#[test]
fn a_wrong_source_address_of_several_is_named() {
    let directory = Directory::new();
    for (sources, wrong) in [
        ("127.3.0.1,", "[127.3.0.1,]\nbalance: a host is missing beside a comma"),
        ("127.3.0.1,127.3.0.2:80", "[127.3.0.2:80]\nbalance: give a host or an address here, without a port"),
        ("127.3.0.1,127.3.0.1", "[127.3.0.1]\nbalance: it is there twice; give each once"),
    ] {
        let run = Run::balance(&directory).args(["-f", "-B", sources, "80", "127.0.0.1:9"]).finish();
        assert!(run.code == 65 && run.stderr.trim_end().ends_with(wrong), "{sources}: {run}");
    }
}

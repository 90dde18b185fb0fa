//! A failed connect ejects a channel; what brings it back; which failures eject no channel.

use std::fmt::Display;

use crate::harness::{Instance, Refusing, Revivable, Server, Setup, eventually};

use super::{name, names};

#[test]
fn a_channel_whose_connect_fails_is_offered_to_nobody_until_a_probe_succeeds() {
    let (mut a, b) = (Revivable::stopped("a"), Server::named("b"));
    let instance = Instance::before(&[&a, &b]);
    assert_eq!(names(&instance, 8), "bbbbbbbb");
    let status = &instance.status()[0];
    assert_eq!((&status.health[..], status.totalc, status.failed), ("ejected", 1, 1), "{status:?}");
    assert!(status.why.contains("connect: connection refused"), "{status:?}");
    assert_eq!(instance.show()[0].state, "ENA", "the operator's word is not health's");
    a.start();
    instance.await_health(0, "up");
    eventually("the probe at the server", || (a.accepted() == 1).then_some(()));
    let got = names(&instance, 6);
    assert!(got == "ababab" || got == "bababa", "{got}");
    instance.await_told([("ejected", 1), ("returned", 1)]);
    let (ejected, returned) = (instance.told("ejected"), instance.told("returned"));
    let (key, address) = ("group=0 channel=0", format!("address={a}"));
    for (line, more) in [(&ejected[0], r#"cause="connect: connection refused""#), (&returned[0], "after=")] {
        assert!(line.contains(key) && line.contains(&address) && line.contains(more), "{line}");
    }
    instance.end();
}

#[test]
fn an_ejected_channel_gives_way_to_usable_ones_of_any_group() {
    let (dead, also_dead, last) = (Refusing::new(), Refusing::new(), Server::named("z"));
    for hash in [false, true] {
        let ending: &dyn Display = if hash { &"%" } else { &"!" };
        let instance = Instance::before(&[&dead, ending, &also_dead, ending, &last]);
        assert_eq!(names(&instance, 6), "zzzzzz");
        let rows = instance.status();
        assert_eq!([rows[0].totalc, rows[1].totalc, rows[2].totalc], [1, 1, 6], "hash {hash}: {rows:?}");
        assert_eq!(instance.health(), "ejected ejected up");
        instance.end();
    }
}

#[test]
fn an_only_channel_is_tried_though_ejected_and_serves_the_very_next_client() {
    let mut a = Revivable::new("a");
    let instance = Instance::before(&[&a]);
    for _ in 0..5 {
        assert_eq!(name(&instance), 'a');
        a.stop();
        // The first is closed because the connect fails, the others because it is tried anyway and fails again.
        let before = instance.show()[0].totalc;
        assert_eq!(names(&instance, 3), "---");
        assert_eq!(instance.show()[0].totalc, before + 3);
        instance.await_health(0, "ejected");
        a.start();
        // Nobody waits for a probe.
        assert_eq!(name(&instance), 'a');
        instance.await_health(0, "up");
    }
    instance.await_told([("ejected", 5), ("returned", 5)]);
    instance.end();
}

#[test]
fn when_all_are_ejected_they_are_tried_in_the_order_of_the_groups() {
    let (a, b, c) = (Refusing::new(), Refusing::new(), Refusing::new());
    let instance = Instance::before(&[&"-d", &a, &b, &"!", &c]);
    assert_eq!(names(&instance, 1), "-");
    assert_eq!(instance.health(), "ejected ejected ejected");
    instance.await_told([("channel_failed", 3)]);
    assert_eq!(names(&instance, 2), "--");
    instance.await_told([("channel_failed", 9)]);
    let failed = instance.told("channel_failed");
    for client in failed.chunks(3) {
        let groups: Vec<_> = client.iter().map(|line| line.contains("group=1 channel=0")).collect();
        assert_eq!(groups, [false, false, true], "group 0 first: {client:?}");
        assert_ne!(client[0].split("channel=").nth(1), client[1].split("channel=").nth(1), "each once");
    }
    instance.await_told([("ejected", 3)]);
    instance.end();
}

#[test]
fn without_fail_open_an_ejected_channel_waits_for_its_probe() {
    let mut a = Revivable::stopped("a");
    let instance = Instance::before(&[&"-d", &"--fail-open", &"off", &a]);
    assert_eq!(names(&instance, 6), "------");
    assert_eq!(instance.show()[0].totalc, 1, "only the first client was tried on it");
    eventually("the reason", || {
        let lost = instance.told("client_lost");
        (lost.iter().filter(|line| line.contains("no channel up")).count() == 5).then_some(())
    });
    a.start();
    let mut clients = 0;
    eventually("a probe brings it back", || {
        clients += 1;
        (name(&instance) == 'a').then_some(())
    });
    assert_eq!(instance.show()[0].totalc, 2, "the first one and the one that was served, of {clients}");
    assert_eq!(a.accepted(), 2, "the probe and the client");
    instance.end();
}

#[test]
fn a_source_address_that_is_not_ours_ejects_nobody() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    // TEST-NET-1: never an address of this machine.
    let args: [&dyn Display; 8] =
        [&"-B", &"192.0.2.7", &"--check", &"tcp", &"--check-interval", &"50ms", &a, &b];
    let instance = Instance::before(&args);
    assert_eq!(names(&instance, 5), "-----");
    let rows = instance.status();
    // Checks cannot be made either, and that says nothing.
    assert_eq!(instance.health(), "untried untried", "{rows:?}");
    assert_eq!([rows[0].failed, rows[1].failed], [5, 5]);
    assert!(rows[0].why.starts_with("last error"), "{rows:?}");
    assert!(instance.told("ejected").is_empty() && instance.told("channel_down").is_empty());
    instance.end();
}

#[test]
fn descriptors_that_are_used_up_eject_nobody() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let args = ["--check", "tcp", "--check-interval", "20ms", "--check-fall", "1", "PORT"];
    let args = args.map(String::from).into_iter().chain([a.to_string(), b.to_string()]);
    let instance = Setup::new().shell("ulimit -n 48;").start(args);
    let mut clients: Vec<_> = (0..60).map(|_| instance.connect()).collect();
    eventually("a line with the limit", || instance.stderr().contains("limit=48").then_some(()));
    let health = instance.health();
    assert!(!health.contains("down") && !health.contains("ejected"), "{health}");
    while !clients.is_empty() {
        let mut client = clients.remove(0);
        assert_eq!(client.recv(1).len(), 1, "nobody is lost");
    }
    assert!(instance.told("ejected").is_empty() && instance.told("channel_down").is_empty());
    instance.end();
}

#[test]
fn no_eject_offers_a_dead_channel_each_time() {
    let (dead, b) = (Refusing::new(), Server::named("b"));
    for (option, attempts) in [("--no-eject", 10), ("--fail-open=on", 1)] {
        let instance = Instance::before(&[&option, &dead, &b]);
        assert_eq!(names(&instance, 10), "b".repeat(10));
        assert_eq!(instance.show()[0].totalc, attempts, "{option}");
        let health = instance.health();
        assert_eq!(health, if attempts == 10 { "up up" } else { "ejected up" });
        instance.end();
    }
}

#[test]
fn autodisable_disables_and_does_not_eject() {
    let (mut a, b) = (Revivable::stopped("a"), Server::named("b"));
    let instance = Instance::before(&[&"-a", &a, &b]);
    assert_eq!(names(&instance, 4), "bbbb");
    let status = instance.status();
    assert_eq!((&status[0].state[..], &status[0].health[..], status[0].totalc), ("dis", "up", 1));
    assert_eq!(status[0].addrs, "0/1", "its address did not answer");
    instance.await_told([("autodisabled", 1), ("ejected", 0)]);
    a.start();
    assert_eq!(names(&instance, 4), "bbbb", "until it is enabled by hand");
    assert_eq!(a.accepted(), 0, "and nobody probes it");
    instance.ctl("enable 0").code(0);
    assert_eq!(instance.status()[0].addrs, "1/1");
    assert!(names(&instance, 4).contains('a'));
    instance.end();
}

#[test]
fn disabling_and_enabling_does_not_change_health_nor_health_the_state() {
    let (mut a, b) = (Revivable::stopped("a"), Server::named("b"));
    let instance = Instance::before(&[&a, &b]);
    assert_eq!(names(&instance, 2), "bb");
    assert_eq!(instance.health(), "ejected up");
    instance.ctl("disable 0").code(0);
    assert_eq!(instance.health(), "ejected up");
    instance.ctl("enable 0").code(0);
    assert_eq!(instance.health(), "ejected up", "no probe has succeeded");
    assert_eq!(names(&instance, 4), "bbbb");
    assert_eq!(instance.show()[0].totalc, 1);
    instance.ctl("disable 0").code(0);
    a.start();
    let status = instance.await_health(0, "up");
    assert_eq!(status.state, "dis", "health does not enable");
    assert_eq!(names(&instance, 4), "bbbb");
    instance.ctl("enable 0").code(0);
    assert!(names(&instance, 4).contains('a'));
    instance.await_told([("ejected", 1), ("returned", 1)]);
    instance.end();
}

#[test]
fn another_address_starts_with_fresh_health() {
    let (dead, good, b) = (Refusing::new(), Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&dead, &b]);
    let assign = |addr: std::net::SocketAddr| {
        instance.ctl(&format!("disable 0; assign 0 {} {}; enable 0", addr.ip(), addr.port())).code(0);
    };
    assert_eq!(names(&instance, 2), "bb");
    assert_eq!(instance.health(), "ejected up");
    assign(good.addr);
    assert_eq!(instance.health(), "untried up", "at once");
    assert_eq!(good.accepted(), 0, "without a probe");
    let got = names(&instance, 4);
    assert!(got == "abab" || got == "baba", "{got}");
    // And the other way: what was good says nothing about the new one, and its failure is told with its address.
    assign(dead.addr());
    assert_eq!(instance.health(), "untried up");
    assert_eq!(names(&instance, 4), "bbbb");
    assert_eq!(instance.health(), "ejected up");
    instance.await_told([("ejected", 2)]);
    assert!(instance.told("returned").is_empty());
    instance.end();
}

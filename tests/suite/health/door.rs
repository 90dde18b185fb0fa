//! `--refuse-when-down`: the port refuses connects while no channel is up.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::harness::{
    Client, Got, Instance, Load, Refusing, Revivable, Server, Setup, eventually, own_address, visit,
};

use super::{count, name, names};

/// An instance that binds its port itself, as usual outside of tests.
fn binding(args: &[&dyn std::fmt::Display]) -> Instance {
    let address = own_address();
    let own = ["-b".to_owned(), address.ip().to_string(), "--refuse-when-down".into(), "PORT".into()];
    Setup::binding(address).start(own.into_iter().chain(args.iter().map(ToString::to_string)))
}

fn is_refused(to: SocketAddr) -> bool {
    Client::try_connect(to, None, None).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

#[track_caller]
fn await_refusing(instance: &Instance) {
    eventually("connects are refused", || is_refused(instance.addr).then_some(()));
}

/// Nobody else gets the port, whatever options they set.
#[track_caller]
fn assert_reserved(address: SocketAddr) {
    for (reuse_address, reuse_port) in [(false, false), (true, false), (false, true), (true, true)] {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(reuse_address).expect("an option");
        socket.set_reuse_port(reuse_port).expect("an option");
        let taken = socket.bind(&address.into()).and_then(|()| socket.listen(1));
        let error = taken.expect_err("the port was taken by somebody else");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }
}

#[test]
fn while_no_channel_is_up_connects_are_refused_and_nobody_else_gets_the_port() {
    // The port is bound by the program itself, and in the second round by somebody before it.
    for inherited in [false, true] {
        let mut a = Revivable::new("a");
        let instance = match inherited {
            false => binding(&[&a]),
            true => Instance::before(&[&"--refuse-when-down", &a]),
        };
        let mut held = instance.connect();
        assert_eq!(held.recv(1), b"a");
        for outage in 1..=3 {
            assert_eq!(name(&instance), 'a');
            a.stop();
            let _ = visit(instance.addr);
            await_refusing(&instance);
            eventually("it is told", || (instance.told("refusing").len() == outage).then_some(()));
            assert_reserved(instance.addr);
            instance.await_health(0, "ejected");
            a.start();
            eventually("the door opens", || (name(&instance) == 'a').then_some(()));
        }
        // It is told of behind the deed.
        let told = || (instance.told("refusing").len(), instance.told("welcoming").len());
        eventually("all is told", || (told() >= (3, 3)).then_some(()));
        assert_eq!(told(), (3, 3), "inherited: {inherited}");
        assert!(instance.stderr().lines().all(|line| !line.contains("cannot")), "{}", instance.stderr());
        drop(held);
        instance.end();
    }
}

#[test]
fn the_operators_disable_of_the_last_channel_shuts_the_door_and_enable_opens_it() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = binding(&[&a, &"!", &b]);
    let mut held = instance.connect();
    assert_eq!(held.recv(1), b"a");
    instance.ctl("disable 0").code(0);
    assert_eq!(names(&instance, 3), "bbb", "one is left");
    instance.ctl("group 1; disable 0").code(0);
    await_refusing(&instance);
    eventually("it is told", || (instance.told("refusing").len() == 1).then_some(()));
    assert_reserved(instance.addr);
    held.send("x");
    assert_eq!(held.recv(1), b"x", "connections live on");
    instance.ctl("group 1; enable 0").code(0);
    eventually("the door opens", || (name(&instance) == 'b').then_some(()));
    eventually("it is told of", || (instance.told("welcoming").len() == 1).then_some(()));
    instance.await_told([("refusing", 1)]);
    drop(held);
    instance.end();
}

#[test]
fn a_port_that_refuses_refuses_after_an_upgrade_too_and_opens_again() {
    let a = Server::named("a");
    let mut instance = binding(&[&a]);
    instance.ctl("disable 0").code(0);
    for _ in 0..2 {
        await_refusing(&instance);
        instance.upgrade();
    }
    await_refusing(&instance);
    assert_reserved(instance.addr);
    instance.ctl("enable 0").code(0);
    eventually("the door opens", || (name(&instance) == 'a').then_some(()));
    instance.upgrade();
    assert_eq!(names(&instance, 3), "aaa");
    instance.end();
}

#[test]
fn an_instance_without_channels_refuses_from_the_start() {
    let a = Server::named("a");
    let instance = binding(&[]);
    await_refusing(&instance);
    instance.ctl(&format!("create {} {}", a.addr.ip(), a.addr.port())).code(0);
    assert!(is_refused(instance.addr), "a created channel starts disabled");
    instance.ctl("enable 0").code(0);
    eventually("the door opens", || (name(&instance) == 'a').then_some(()));
    instance.end();
}

#[test]
fn an_outer_instance_fails_over_while_the_inner_one_refuses() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let inner = binding(&[&a]);
    let outer = Instance::before(&[&"-d", &inner.addr, &"!", &b]);
    assert_eq!(names(&outer, 3), "aaa");
    for _ in 0..3 {
        inner.ctl("disable 0").code(0);
        await_refusing(&inner);
        let load = Load::on(outer.addr, 4);
        load.await_more(50);
        outer.await_health(0, "ejected");
        // Its door opens under load, and clients are back with it.
        inner.ctl("enable 0").code(0);
        outer.await_health(0, "up");
        let before = a.accepted();
        eventually("clients at the inner one", || (a.accepted() >= before + 20).then_some(()));
        let visits = load.finish();
        let (first, second) = (count(&visits, Got::Name('a')), count(&visits, Got::Name('b')));
        assert_eq!(first + second, visits.len(), "nobody is lost");
        assert!(first > 0 && second > 0);
    }
    outer.await_told([("ejected", 3), ("returned", 3)]);
    outer.end();
    inner.end();
}

#[test]
fn while_it_refuses_it_can_be_asked_and_ended_and_gives_the_port_back() {
    for kill in [false, true] {
        let dead = Refusing::new();
        let instance = binding(&[&dead]);
        assert_eq!(name(&instance), '-');
        await_refusing(&instance);
        assert_eq!(instance.show()[0].state, "ENA");
        assert_eq!(instance.health(), "ejected");
        instance.assert_idle();
        let address = instance.addr;
        if kill {
            instance.ctl("kill");
        } else {
            instance.signal(Signal::TERM);
        }
        instance.killed();
        drop(eventually("the port is free", || TcpListener::bind(address).ok()));
    }
}

#[test]
fn checks_shut_and_open_the_door_too() {
    let mut a = Revivable::new("a");
    let instance = binding(&[&"--check", &"tcp", &"--check-interval", &"20ms", &"--fail-open=off", &a]);
    instance.await_health(0, "up");
    assert_eq!(name(&instance), 'a');
    a.stop();
    await_refusing(&instance);
    instance.await_health(0, "down");
    eventually("it is told", || (instance.told("refusing").len() == 1).then_some(()));
    assert_reserved(instance.addr);
    a.start();
    eventually("the door opens", || (name(&instance) == 'a').then_some(()));
    instance.end();
}

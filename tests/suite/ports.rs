//! Source ports run out: clients wait, or go where ports are free.

use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::{Client, Instance, Received, Server, Setup, eventually, port_range, private_network};

/// How many ports connections have.
const PORTS: u16 = 4;
/// The first port of the clients.
const CLIENTS: u16 = 20_100;

fn instance(options: &[&str]) -> Instance {
    port_range(40_000, 40_000 + PORTS - 1);
    let setup = Setup::listening(([127, 0, 0, 1], 20_000).into());
    setup.start(options.iter().copied().chain(["PORT"]).collect::<Vec<_>>())
}

/// A server on this port that says its name and then waits for the end.
fn server(port: u16, name: &'static str) -> Server {
    Server::at(([127, 0, 0, 1], port).into(), move |stream, _| {
        let mut peer = Client(stream);
        peer.send(name);
        peer.ending();
    })
}

#[track_caller]
fn add(instance: &Instance, number: usize, channel: SocketAddr) {
    instance.ctl(&format!("create {} {}", channel.ip(), channel.port())).code(0).out("channel created\n");
    instance.ctl(&format!("enable {number}")).code(0);
}

/// Clients that use up the ports to the only channel.
fn use_up(instance: &Instance) -> Vec<Client> {
    (0..PORTS)
        .map(|n| {
            let mut client = Client::connect_by(CLIENTS + n, instance.addr);
            assert_eq!(client.recv(1), b"a", "client {n}");
            client
        })
        .collect()
}

#[test]
fn a_client_waits_for_a_port() {
    private_network("a range of ports of its own", || {
        let a = server(20_001, "a");
        let instance = instance(&["-a"]);
        add(&instance, 0, a.addr);
        let mut clients = use_up(&instance);
        let mut late = Client::connect_by(CLIENTS + 50, instance.addr);
        eventually("a line that says so", || {
            instance.stderr().contains("no source port is free").then_some(())
        });
        assert!(late.is_quiet_for(Duration::from_millis(50)));
        // A reset leaves no port behind in TIME_WAIT.
        clients.remove(0).rst();
        assert_eq!(late.recv(1), b"a");
        let rows = instance.show();
        assert_eq!((&rows[0].state[..], rows[0].totalc), ("ENA", u64::from(PORTS) + 1));
        drop((clients, late));
        instance.end();
    });
}

#[test]
fn each_source_address_has_all_ports() {
    private_network("a range of ports of its own", || {
        let a = server(20_001, "a");
        let instance = instance(&["-a", "-t", "200ms", "-B", "127.0.0.1,127.0.0.2,127.0.0.3"]);
        add(&instance, 0, a.addr);
        let clients: Vec<_> = (0..3 * PORTS)
            .map(|n| {
                let mut client = Client::connect_by(CLIENTS + n, instance.addr);
                assert_eq!(client.recv(1), b"a", "client {n}");
                client
            })
            .collect();
        let mut late = Client::connect_by(CLIENTS + 50, instance.addr);
        assert_eq!(late.ending(), Received::End, "there is no port left");
        assert_eq!(instance.show()[0].c, i64::from(3 * PORTS));
        eventually("it says so", || instance.stderr().contains("no source port is free").then_some(()));
        drop((clients, late));
        instance.end();
    });
}

#[test]
fn it_waits_no_longer_than_t() {
    private_network("a range of ports of its own", || {
        let a = server(20_001, "a");
        let instance = instance(&["-t", "200ms"]);
        add(&instance, 0, a.addr);
        let clients = use_up(&instance);
        let mut late = Client::connect_by(CLIENTS + 50, instance.addr);
        assert_eq!(late.ending(), Received::End);
        assert_eq!(instance.show()[0].c, i64::from(PORTS));
        drop((clients, late));
        instance.end();
    });
}

#[test]
fn another_channel_is_better_than_waiting_and_waiting_better_than_a_dead_one() {
    private_network("a range of ports of its own", || {
        let (a, b) = (server(20_001, "a"), server(20_002, "b"));
        let instance = instance(&["--policy", "first"]);
        add(&instance, 0, a.addr);
        let mut clients = use_up(&instance);
        add(&instance, 1, b.addr);
        let mut other = Client::connect_by(CLIENTS + 50, instance.addr);
        assert_eq!(other.recv(1), b"b");
        assert_eq!(instance.show()[0].c, i64::from(PORTS), "what was not used is given back");
        other.rst();
        drop(b);
        // It is found dead by this one, and left out by the next.
        let mut late = Vec::new();
        for n in 1..=2 {
            late.push(Client::connect_by(CLIENTS + 50 + n, instance.addr));
            instance.await_show("it waits for the first", |rows| rows[0].c == i64::from(PORTS + n));
        }
        assert!(late.iter().all(|client| client.is_quiet_for(Duration::from_millis(50))));
        clients.drain(..late.len()).for_each(Client::rst);
        for client in &mut late {
            assert_eq!(client.recv(1), b"a");
        }
        let rows = instance.show();
        assert_eq!((&rows[1].state[..], rows[1].totalc), ("ENA", 2), "tried once, and then left out");
        drop((clients, late));
        instance.end();
    });
}

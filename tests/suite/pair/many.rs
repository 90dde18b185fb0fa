//! Many hosts with one address, and a router that distributes clients over them, as in `docs/many.md`,
//! `dist/bird.conf` and `dist/exabgp.conf`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;

use crate::harness::{Server, eventually, private_network, unless_held_up};

use super::nodes::{CHANNELS, Node, host, servers, shipped, visit};
use super::{is_alive, is_cut};

/// What the router has: the routes of its neighbours, all of them at once.
const ROUTER: &str = "router id 10.78.0.1;
log stderr all;
protocol device { }
protocol kernel { merge paths on; ipv4 { export all; }; }
template bgp host { local 10.78.0.1 as 64511; hold time 60; ipv4 { import all; export none; }; }
protocol bgp host1 from host { neighbor 10.78.0.11 as 64512; }
protocol bgp host2 from host { neighbor 10.78.0.12 as 64512; }
protocol bgp host3 from host { neighbor 10.78.0.13 as 64512; }
";

const CLIENTS: u8 = 90;

/// Clients and servers on one network, three hosts on another one, and a router between them.
struct Network {
    router: Node,
    hosts: [Node; 3],
    _servers: Vec<Server>,
}

impl Network {
    fn new() -> Self {
        host(
            "ip link add br0 type bridge forward_delay 0
             ip addr add 10.77.0.2/16 dev br0
             ip link set br0 up
             for last in 21 22 23; do ip addr add 10.77.0.$last/16 dev br0; done
             for last in $(seq 0 89); do ip addr add 10.77.1.$last/16 dev br0; done",
        );
        let servers = servers();
        let router = Node::new();
        router.link("router", "br0", "10.77.0.1/16");
        host("ip route add default via 10.77.0.1");
        router.does(
            "ip link add br1 type bridge forward_delay 0
             ip addr add 10.78.0.1/24 dev br1
             ip link set br1 up
             echo 1 >/proc/sys/net/ipv4/ip_forward
             echo 1 >/proc/sys/net/ipv4/fib_multipath_hash_policy",
        );
        let hosts = [1, 2, 3].map(|number| {
            let node = Node::new();
            // By way of the network that it leaves: the router's bridge is not on the host of the test.
            node.link(&format!("host{number}"), "br0", &format!("10.78.0.1{number}/24"));
            host(&format!("ip link set host{number} nomaster netns {}", router.pid()));
            router.does(&format!("ip link set host{number} master br1 up"));
            node.does("ip route add default via 10.78.0.1; ip addr add 10.99.0.10/32 dev lo");
            node.serve(CHANNELS);
            node
        });
        Self { router, hosts, _servers: servers }
    }

    fn routes(&self) -> BTreeSet<u8> {
        let told = self.router.does("ip route show 10.99.0.10");
        (1..=3).filter(|number| told.contains(&format!("via 10.78.0.1{number} "))).collect()
    }

    #[track_caller]
    fn await_routes(&self, what: &str, hosts: &[u8]) {
        let start = Instant::now();
        let wanted: BTreeSet<u8> = hosts.iter().copied().collect();
        eventually(&format!("routes to {hosts:?}: {what}"), || (self.routes() == wanted).then_some(()));
        eprintln!("{what}: the router has it after {:.1?}", start.elapsed());
    }

    /// Which of these clients this host has. (It may have more, of clients that are gone.)
    fn clients_of(&self, number: u8, clients: &Clients) -> BTreeSet<Ipv4Addr> {
        let told = self.hosts[usize::from(number) - 1].does("ss -Htn state established sport = :80");
        let peers: BTreeSet<SocketAddr> =
            told.lines().filter_map(|line| line.split_whitespace().nth(3)?.parse().ok()).collect();
        let is_there = |stream: &TcpStream| peers.contains(&stream.local_addr().expect("it has one"));
        clients.iter().filter(|(_, (stream, _))| is_there(stream)).map(|(client, _)| *client).collect()
    }
}

/// By address: the connection, and the server that it came to.
type Clients = BTreeMap<Ipv4Addr, (TcpStream, char)>;

fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, number)
}

/// All clients, each with the server that it came to.
#[track_caller]
fn connect() -> Clients {
    let to = SocketAddr::from(([10, 99, 0, 10], 80));
    (0..CLIENTS)
        .map(|number| (client(number), eventually("an answer", || visit(client(number), to))))
        .collect()
}

fn seats(clients: &Clients) -> BTreeMap<Ipv4Addr, char> {
    clients.iter().map(|(client, (_, name))| (*client, *name)).collect()
}

/// Those whose connection does not go on; they are taken out.
fn cut(clients: &mut Clients) -> BTreeSet<Ipv4Addr> {
    let mut gone = BTreeSet::new();
    for (client, (stream, name)) in std::mem::take(clients) {
        if is_alive(&stream) {
            clients.insert(client, (stream, name));
        } else {
            assert!(is_cut(stream));
            gone.insert(client);
        }
    }
    gone
}

#[test]
fn hosts_are_announced_while_they_are_ready_and_a_lost_one_costs_its_own_connections_only() {
    unless_held_up(300, || {
        private_network("a router and three hosts", || {
            let net = Network::new();
            net.router.file("/run/bird.conf", ROUTER);
            net.router.start("bird", "bird -f -c /run/bird.conf -s /run/bird/bird.ctl");
            for number in [1, 3] {
                let node = &net.hosts[number - 1];
                let config = shipped("bird.conf").replace("10.78.0.11", &format!("10.78.0.1{number}"));
                node.file("/run/bird.conf", &config);
                node.start("bird", "bird -f -c /run/bird.conf -s /run/bird/bird.ctl");
            }
            // Nothing is announced by BIRD alone.
            eventually("a session", || {
                net.router.run("birdc show protocols host1").stdout.contains("Established").then_some(())
            });
            assert_eq!(net.routes(), BTreeSet::new());
            for number in [1, 3] {
                net.hosts[number - 1].start("announce", "balance-announce vip web");
            }
            // What exabgp says is read by nobody else, and its checks run as nobody.
            net.hosts[1].file("/run/exabgp.conf", &shipped("exabgp.conf"));
            net.hosts[1].start("exabgp", "exabgp /run/exabgp.conf");
            net.await_routes("three hosts begin", &[1, 2, 3]);

            let mut clients = connect();
            let seats_before = seats(&clients);
            assert_eq!(seats_before.values().collect::<BTreeSet<_>>().len(), 3);
            for number in [1, 2, 3] {
                assert!(!net.clients_of(number, &clients).is_empty(), "host {number} has none");
            }
            // Its process dies: exabgp withdraws it.
            let lost = net.clients_of(2, &clients);
            net.hosts[1].does("kill -KILL $(cat /run/pid.balance)");
            net.await_routes("balance is killed (exabgp)", &[1, 3]);
            assert_eq!(cut(&mut clients), lost);
            // It hangs: BIRD withdraws it.
            let lost = net.clients_of(3, &clients);
            net.hosts[2].does("kill -STOP $(cat /run/pid.balance)");
            net.await_routes("balance is stopped by SIGSTOP (BIRD)", &[1]);
            assert_eq!(cut(&mut clients), lost);
            eprintln!("{} of {CLIENTS} connections are left, all of host 1", clients.len());
            // New ones come to the same servers by the one that is left.
            assert_eq!(seats(&connect()), seats_before);
            net.hosts[2].does("kill -CONT $(cat /run/pid.balance)");
            net.await_routes("it goes on (BIRD)", &[1, 3]);
            net.hosts[1].serve_again();
            net.await_routes("it runs again (exabgp)", &[1, 2, 3]);
            assert_eq!(seats(&connect()), seats_before);
            // No channel can be used: withdrawn, while it serves those that it has.
            net.hosts[0].does("balance -c 'disable 0; disable 1; disable 2' web");
            net.await_routes("no usable channel (BIRD)", &[2, 3]);
            net.hosts[0].does("balance -c 'enable 0; enable 1; enable 2' web");
            net.await_routes("it has channels again (BIRD)", &[1, 2, 3]);
            // Whoever ends the announcing takes the host out.
            net.hosts[0].does("kill -TERM $(cat /run/pid.announce)");
            net.await_routes("balance-announce is ended", &[2, 3]);
            // BIRD comes back, and announces nothing unasked.
            net.hosts[0].start("announce", "balance-announce vip web");
            net.await_routes("and started again", &[1, 2, 3]);
            net.hosts[0].does("kill -KILL $(cat /run/pid.bird)");
            net.await_routes("BIRD is killed", &[2, 3]);
            eventually("it is said", || {
                net.hosts[0].said("announce").contains("does not answer").then_some(())
            });
            net.hosts[0].start("bird", "bird -f -c /run/bird.conf -s /run/bird/bird.ctl");
            net.await_routes("BIRD is started again", &[1, 2, 3]);
        });
    });
}

#[test]
fn with_resilient_hashing_neither_the_loss_nor_the_return_of_a_host_moves_a_connection_of_another_one() {
    unless_held_up(300, || {
        private_network("a router and three hosts", || {
            let net = Network::new();
            let hops = "for n in 1 2 3; do ip nexthop replace id $n via 10.78.0.1$n dev br1; done";
            for (name, group) in [("plain", ""), ("resilient", "type resilient buckets 256 idle_timer 120")] {
                net.router.does(&format!(
                    "{hops}; ip nexthop add id 10 group 1/2/3 {group}; ip route add 10.99.0.10/32 nhid 10"
                ));
                let mut clients = connect();
                let lost = net.clients_of(1, &clients);
                net.router.does(&format!("ip nexthop replace id 10 group 2/3 {group}"));
                let gone = cut(&mut clients);
                clients.append(&mut connect());
                net.router.does(&format!("ip nexthop replace id 10 group 1/2/3 {group}"));
                let gone_later = cut(&mut clients);
                eprintln!(
                    "{name}: host 1 of 3 had {} of {CLIENTS} connections, and {} ended when it went; {} of {CLIENTS} ended when it came back",
                    lost.len(),
                    gone.len(),
                    gone_later.len()
                );
                // Plain routes move connections of others, too.
                assert!(gone.is_superset(&lost), "{name}");
                if name == "resilient" {
                    assert_eq!((gone, gone_later), (lost, BTreeSet::new()));
                }
                net.router.does("ip route del 10.99.0.10/32; ip nexthop del id 10");
            }
        });
    });
}

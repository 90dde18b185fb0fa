//! A pair of hosts with one shared address, as in `docs/pair.md` and `dist/keepalived.conf`.
//!
//! Times are printed, not judged: `PAIR_TIMES=shipped cargo test --test suite -- pair:: --nocapture`.

mod freebind;
mod many;
mod nodes;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;

use crate::harness::{DEADLINE, Server, eventually, private_network, unless_held_up};
use nodes::{CHANNELS, Node, host, servers, shipped, visit};

/// Where clients come to, in `dist/keepalived.conf`.
const ADDRESS: &str = "10.77.0.10";

/// Two hosts, three servers and many clients on one network.
struct Pair {
    nodes: [Node; 2],
    servers: Vec<Server>,
}

impl Pair {
    fn new() -> Self {
        host(
            "ip link add br0 type bridge forward_delay 0
             ip addr add 10.77.0.1/24 dev br0
             ip link set br0 up
             for last in 21 22 23 $(seq 100 129); do ip addr add 10.77.0.$last/24 dev br0; done",
        );
        let servers = servers();
        let nodes = [Node::new(), Node::new()];
        for (node, last) in nodes.iter().zip([11, 12]) {
            node.link(&format!("node{last}"), "br0", &format!("10.77.0.{last}/24"));
            node.serve(CHANNELS);
        }
        for node in &nodes {
            node.file("/run/keepalived.conf", &shipped("keepalived.conf"));
            node.start("keepalived", "keepalived -n -l -D -P -f /run/keepalived.conf");
        }
        let pair = Self { nodes, servers };
        pair.owner();
        // Until then it counts as good, whatever it would say.
        for node in &pair.nodes {
            eventually("a first answer", || {
                node.said("keepalived").contains("VRRP_Script(balance) succeeded").then_some(())
            });
        }
        pair.owner();
        pair
    }

    /// Which of the two has the address, once exactly one has it.
    #[track_caller]
    fn owner(&self) -> usize {
        eventually("one host has the address", || {
            match [0, 1].map(|index: usize| self.nodes[index].has(ADDRESS)) {
                [true, false] => Some(0),
                [false, true] => Some(1),
                _ => None,
            }
        })
    }

    /// Awaits that the other one has the address, and an answer from there; says how long that takes.
    #[track_caller]
    fn moved(&self, what: &str, before: usize) -> usize {
        let start = Instant::now();
        let mut answered = start;
        // This one may answer until then.
        while !self.nodes[1 - before].has(ADDRESS) {
            assert!(start.elapsed() < DEADLINE, "the address stays: {what}");
            if visit(client(0), to()).is_some() {
                answered = Instant::now();
            }
        }
        let at = start.elapsed();
        eventually("an answer", || visit(client(0), to()));
        let gap = answered.elapsed();
        eprintln!("{what}: the address has moved after {at:.1?}, and clients had no answer for {gap:.1?}");
        assert_eq!(self.owner(), 1 - before, "{what}");
        1 - before
    }
}

fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 100 + number)
}

fn to() -> SocketAddr {
    SocketAddr::from(([10, 77, 0, 10], 80))
}

/// The server that each client comes to.
#[track_caller]
fn seats() -> (BTreeMap<u8, char>, Vec<TcpStream>) {
    let visits = (0..30).map(|number| {
        let (stream, name) = eventually("an answer", || visit(client(number), to()));
        ((number, name), stream)
    });
    visits.unzip()
}

/// Does it end as soon as its client says something?
fn is_cut(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let _ = stream.write_all(b"x");
    !matches!(stream.read(&mut [0]), Ok(1))
}

fn is_alive(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.write_all(b"x").is_ok() && matches!(stream.read(&mut [0]), Ok(1))
}

#[test]
fn the_address_goes_where_balance_is_ready_and_clients_to_the_servers_that_they_had() {
    unless_held_up(300, || {
        private_network("two hosts", || {
            let pair = Pair::new();
            let (seats_before, mut streams) = seats();
            assert_eq!(
                seats_before.values().collect::<std::collections::BTreeSet<_>>().len(),
                3,
                "{seats_before:?}"
            );
            let mut owner = pair.owner();
            for (what, fault, cure) in [
                (
                    "no usable channel",
                    "balance -c 'disable 0; disable 1; disable 2' web",
                    "balance -c 'enable 0; enable 1; enable 2' web",
                ),
                (
                    "balance is stopped (SIGSTOP)",
                    "kill -STOP $(cat /run/pid.balance)",
                    "kill -CONT $(cat /run/pid.balance)",
                ),
                ("balance is killed", "kill -KILL $(cat /run/pid.balance)", ""),
                ("the host is cut off", "ip link set eth0 down", "ip link set eth0 up"),
            ] {
                let node = &pair.nodes[owner];
                let failed = node.said("keepalived").matches("VRRP_Script(balance) succeeded").count();
                node.does(fault);
                let new = pair.moved(what, owner);
                // Whoever goes on talking learns it at once, and comes to the same server by the other host.
                assert!(streams.drain(..).all(is_cut), "{what}");
                let (seats_now, new_streams) = seats();
                assert_eq!(seats_now, seats_before, "{what}");
                streams = new_streams;
                // The first host is well again, and does not take the address back.
                if cure.is_empty() {
                    node.serve_again()
                } else {
                    drop(node.does(cure))
                }
                eventually("keepalived sees that", || {
                    let said = node.said("keepalived");
                    (what.contains("cut off")
                        || said.matches("VRRP_Script(balance) succeeded").count() > failed)
                        .then_some(())
                });
                assert_eq!(pair.owner(), new, "{what}");
                assert!(streams.iter().all(is_alive), "{what}");
                // Nobody is left over there.
                eventually("no connection is left", || {
                    let show = node.run("balance -c sessions web");
                    (show.code == 0 && show.stdout.lines().count() == 1).then_some(())
                });
                owner = new;
            }
        });
    });
}

#[test]
fn the_address_stays_where_it_is_if_no_host_is_ready_and_a_split_heals() {
    unless_held_up(300, || {
        private_network("two hosts", || {
            let pair = Pair::new();
            let (seats_before, streams) = seats();
            let owner = pair.owner();
            // The worse of the two first: else the address would go to the other one on the way.
            for index in [1 - owner, owner] {
                pair.nodes[index].does("balance -c 'disable 0; disable 1; disable 2' web");
                eventually("keepalived sees that", || {
                    pair.nodes[index]
                        .said("keepalived")
                        .contains("effective priority from 200 to 100")
                        .then_some(())
                });
            }
            assert!(streams.iter().all(is_alive), "connections go on");
            assert_eq!(pair.owner(), owner);
            for node in &pair.nodes {
                node.does("balance -c 'enable 0; enable 1; enable 2' web");
                eventually("keepalived sees that", || {
                    node.said("keepalived").contains("effective priority from 100 to 200").then_some(())
                });
            }
            let _ = pair.owner();
            // Neither hears the other, and clients hear both.
            host("bridge link set dev node11 isolated on; bridge link set dev node12 isolated on");
            eventually("both have it", || pair.nodes.iter().all(|node| node.has(ADDRESS)).then_some(()));
            for (number, name) in &seats_before {
                let (_, now) = eventually("an answer", || visit(client(*number), to()));
                assert_eq!(now, *name, "client {number} while both have the address");
            }
            host("bridge link set dev node11 isolated off; bridge link set dev node12 isolated off");
            let owner = pair.owner();
            let link = pair.nodes[owner].does("ip -o link show dev eth0");
            let mac =
                link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("it has one");
            eventually("clients know whose it is", || {
                host("ip neigh show 10.77.0.10").contains(mac).then_some(())
            });
            assert_eq!(seats().0, seats_before);
        });
    });
}

#[test]
fn both_hosts_have_the_same_servers_for_a_client_after_one_was_ejected_and_came_back() {
    unless_held_up(300, || {
        private_network("two hosts", || {
            let mut pair = Pair::new();
            let (seats_before, _) = seats();
            let owner = pair.owner();
            let node = |index: usize| SocketAddr::from(([10, 77, 0, 11 + index as u8], 80));
            let by = |index: usize| -> BTreeMap<u8, char> {
                (0..30)
                    .map(|number| (number, eventually("an answer", || visit(client(number), node(index))).1))
                    .collect()
            };
            assert_eq!((by(0), by(1)), (seats_before.clone(), seats_before.clone()));
            // Server b goes. The hosts find out by themselves, and agree on who has its clients instead.
            drop(pair.servers.remove(1));
            let without = (by(0), by(1));
            assert_eq!(without.0, without.1);
            for (number, name) in &seats_before {
                assert!(*name == 'b' || without.0[number] == *name, "client {number} was at {name}");
                assert_ne!(without.0[number], 'b');
            }
            let again = Server::named_at(SocketAddr::from(([10, 77, 0, 22], 8080)), "b");
            for node in &pair.nodes {
                eventually("it is up again", || {
                    (!node.does("balance -c status web").contains("ejected")).then_some(())
                });
            }
            assert_eq!((by(0), by(1)), (seats_before.clone(), seats_before.clone()));
            assert_eq!(pair.owner(), owner);
            drop(again);
        });
    });
}

#[test]
fn ready_does_not_say_no_while_an_instance_is_reloaded_and_upgraded() {
    unless_held_up(300, || {
        private_network("two hosts", || {
            let pair = Pair::new();
            let owner = pair.owner();
            let node = &pair.nodes[owner];
            let (_, streams) = seats();
            node.start(
                "asking",
                "sh -c 'while [ ! -e /run/enough ]; do
                    balance -c ready web || echo NO $?
                    balance-check http://127.0.0.1:7780/readyz || echo NO by http
                    echo asked
                 done'",
            );
            for number in 0..4 {
                node.does(&format!("echo 'web: -H -t {} 80 {CHANNELS} %' >/run/services", 5 + number));
                node.does("balance -c reload web");
                node.does("balance -c upgrade web");
                let asked = node.said("asking").matches("asked").count();
                eventually("it was asked", || {
                    (node.said("asking").matches("asked").count() > asked).then_some(())
                });
            }
            node.does("touch /run/enough");
            let said = node.said("asking");
            assert!(!said.contains("NO"), "{said}");
            assert!(!node.said("keepalived").contains("from 200 to 100"));
            assert_eq!(pair.owner(), owner);
            assert!(streams.iter().all(is_alive), "connections have gone to the new process");
        });
    });
}

#[test]
fn users_without_the_right_to_control_an_instance_ask_by_http() {
    unless_held_up(300, || {
        private_network("a host", || {
            let node = Node::new();
            // Of a channel that nobody has tried it is not known that it fails.
            node.serve("127.0.0.1:9");
            let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
            // Root may ask by both ways, others by HTTP only.
            node.does("balance-check web && balance-check http://127.0.0.1:7780/readyz");
            node.does(&format!("{nobody} balance-check http://127.0.0.1:7780/readyz"));
            node.run(&format!("{nobody} balance-check web")).code(1);
            let why = node.run(&format!("{nobody} balance -c ready web"));
            assert_ne!(why.code, 0, "{why}");
            // A stopped one does not answer, and that is a no by both ways; so is one that is gone.
            node.does("kill -STOP $(cat /run/pid.balance)");
            node.run("balance-check web").code(1);
            node.run("balance-check http://127.0.0.1:7780/readyz").code(1);
            node.does("kill -CONT $(cat /run/pid.balance)");
            eventually("it answers again", || (node.run("balance-check web").code == 0).then_some(()));
            node.does("balance -c 'disable 0' web");
            node.run("balance-check web").code(1);
            node.run("balance-check http://127.0.0.1:7780/readyz").code(1);
            node.does("kill -KILL $(cat /run/pid.balance)");
            node.run("balance-check web").code(1);
            node.run("balance-check http://127.0.0.1:7780/readyz").code(1);
        });
    });
}

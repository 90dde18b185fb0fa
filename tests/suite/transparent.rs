//! `--transparent`: servers see the client's address. There are three networks: a client's, balance's (the
//! test's own), and the servers', whose default route is balance.
//!
//! Source: docs/transparent.md.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{self, Sender};

use crate::harness::{
    BALANCE, Client, Directory, Finished, Instance, Run, Server, Setup, Unprivileged, eventually,
    private_network,
};

type Job = Box<dyn FnOnce() + Send>;

/// A thread with a network of its own, where things can be done.
struct Place {
    jobs: Sender<Job>,
    /// Names its network for `ip link`.
    thread: i32,
}

impl Place {
    fn new() -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may have a network");
            tell.send(nix::unistd::gettid().as_raw()).expect("the test waits for it");
            todo.into_iter().for_each(|job| job());
        });
        Self { jobs, thread: told.recv().expect("the thread has started") }
    }

    /// Does something there.
    #[track_caller]
    fn does<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(tell.send(what())))).expect("the thread lives");
        told.recv().expect("it did not panic")
    }

    /// A shell script there.
    #[track_caller]
    fn runs(&self, script: &str) {
        let script = script.to_owned();
        self.does(move || sh(&script).code(0));
    }

    /// A client there with this address comes to `to`, says something, and hears the server's name.
    #[track_caller]
    fn visits(&self, from: &str, to: &str, says: &'static str) -> Client {
        let (from, to): (IpAddr, SocketAddr) = (from.parse().expect("an address"), at(to));
        let mut client = self.does(move || Client::connect_from(from, to));
        client.send(says.as_bytes());
        assert_eq!(client.recv(1), b"s", "from {from} to {to}");
        client
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn sh(script: &str) -> Finished {
    Run::new("sh").env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(["-ec", script]).finish()
}

/// The three networks, and two servers.
struct Lab {
    client: Place,
    servers: Place,
    v4: Server,
    v6: Server,
}

impl Lab {
    fn new() -> Self {
        let (client, servers) = (Place::new(), Place::new());
        sh(&format!(
            "ip link add c type veth peer name eth0 netns {}
             ip link add s type veth peer name eth0 netns {}
             ip addr add 10.1.0.1/24 dev c; ip addr add fd01::1/64 dev c nodad
             ip addr add 10.2.0.1/24 dev s; ip addr add fd02::1/64 dev s nodad
             ip link set c up; ip link set s up",
            client.thread, servers.thread
        ))
        .code(0);
        for (place, net, hosts) in [(&client, 1, &[7, 8][..]), (&servers, 2, &[2])] {
            let addresses = hosts.iter().map(|host| {
                format!(
                    "ip addr add 10.{net}.0.{host}/24 dev eth0; ip addr add fd0{net}::{host}/64 dev eth0 nodad\n"
                )
            });
            place.runs(&format!(
                "ip link set lo up; ip link set eth0 up
                 {}
                 ip route add default via 10.{net}.0.1; ip -6 route add default via fd0{net}::1",
                addresses.collect::<String>()
            ));
        }
        let [v4, v6] = ["10.2.0.2:8080", "[fd02::2]:8080"]
            .map(|address| servers.does(move || Server::named_at(at(address), "s")));
        // A link needs a moment.
        for to in ["10.2.0.2:8080", "[fd02::2]:8080"] {
            eventually("a way to the servers", || Client::try_connect(at(to), None, None).ok());
        }
        for (from, to) in [("10.1.0.7", "10.1.0.1:9"), ("fd01::7", "[fd01::1]:9")] {
            let (from, to): (IpAddr, _) = (from.parse().expect("an address"), at(to));
            eventually("a way to the balancer", || {
                let refused = client.does(move || Client::try_connect(to, Some(from), None).err());
                refused.filter(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
            });
        }
        Self { client, servers, v4, v6 }
    }

    /// A client with this address comes to this one, and the server sees `seen`. A check from an address of ours may come beside it.
    #[track_caller]
    fn shows(&self, from: &str, to: &str, server: &Server, seen: &str) {
        let before = server.clients().len();
        drop(self.client.visits(from, to, ""));
        let came: Vec<String> =
            server.clients()[before..].iter().map(|client| client.ip().to_string()).collect();
        let has = |ip: &str| came.iter().any(|one| one == ip);
        assert!(has(seen) && (seen == from || !has(from)), "{from} to {to}: the server saw {came:?}");
    }
}

/// The commands that a start which lacks something prints.
#[track_caller]
fn commands(words: &[&str]) -> Vec<String> {
    let refused = Run::balance(&Directory::new()).arg("-f").args(words).finish().code(71);
    commands_of(&refused.stderr)
}

#[track_caller]
fn commands_of(text: &str) -> Vec<String> {
    let is_command = |line: &&str| ["ip ", "nft ", "iptables "].iter().any(|start| line.starts_with(start));
    let found: Vec<String> = text.lines().filter(is_command).map(str::to_owned).collect();
    assert!(!found.is_empty(), "{text}");
    found
}

#[track_caller]
fn paste(commands: &[String]) {
    sh(&commands.join("\n")).code(0);
}

/// What the kernel is to do with replies, for all servers of the lab.
fn prepare() {
    paste(&commands(&["--transparent", "80", "10.2.0.2:8080", "[fd02::2]:8080"]));
}

/// An instance of these lines, asked at its first service.
#[track_caller]
fn instance(setup: Setup, lines: &str) -> Instance {
    let file = setup.directory().file("services", lines);
    setup.start(["--file".to_owned(), file.display().to_string()])
}

#[test]
fn the_commands_that_are_printed_make_servers_see_the_client() {
    private_network("clients' addresses", || {
        let lab = Lab::new();
        let v4 = ["--transparent", "-b", "10.1.0.1", "80", "10.2.0.2:8080"];
        let v6 = ["--transparent", "-b", "fd01::1", "80", "[fd02::2]:8080"];
        let printed = commands(&v4);
        assert_eq!(printed.len(), 3, "{printed:?}");
        assert!(printed[0].starts_with("ip rule ") && printed[1].starts_with("ip route "), "{printed:?}");
        let both = commands(&["--transparent", "80", "10.2.0.2:8080", "[fd02::2]:8080"]);
        assert_eq!(both.iter().filter(|command| command.starts_with("ip -6 ")).count(), 2, "{both:?}");
        let checked = Run::balance(&Directory::new()).args(["--check-only"]).args(v4).finish().code(71);
        assert_eq!(commands_of(&checked.stderr), printed);
        // After each of them the others are still missing.
        for done in 0..printed.len() {
            assert_eq!(commands(&v4), printed[done..]);
            paste(&printed[done..=done]);
        }
        let instance = Setup::binding(at("10.1.0.1:80")).start(v4);
        lab.shows("10.1.0.7", "10.1.0.1:80", &lab.v4, "10.1.0.7");
        lab.shows("10.1.0.8", "10.1.0.1:80", &lab.v4, "10.1.0.8");
        let saved = instance.ctl("save").code(0).stdout;
        assert!(saved.contains("--transparent"), "{saved}");
        instance.end();

        let printed = commands(&v6);
        assert_eq!(printed.len(), 3, "the rules for IPv4 are not for IPv6: {printed:?}");
        paste(&printed);
        let instance = Setup::binding(at("[fd01::1]:80")).start(v6);
        lab.shows("fd01::7", "[fd01::1]:80", &lab.v6, "fd01::7");
        instance.end();

        // With iptables in place of nft it is the same.
        sh("nft flush ruleset").code(0);
        assert_eq!(commands(&v4).len(), 1);
        sh("iptables -t mangle -A PREROUTING -p tcp -m socket --transparent -j MARK --set-mark 0xba1")
            .code(0);
        let instance = Setup::binding(at("10.1.0.1:80")).start(v4);
        lab.shows("10.1.0.7", "10.1.0.1:80", &lab.v4, "10.1.0.7");
        instance.end();
    });
}

#[test]
fn a_server_on_the_same_host_sees_the_client_too() {
    private_network("clients' addresses", || {
        let lab = Lab::new();
        // What brings replies from the network is of no use to them.
        prepare();
        for (listen, own, from) in
            [("10.1.0.1", "127.0.0.1:8081", "10.1.0.7"), ("fd01::1", "[::1]:8081", "fd01::7")]
        {
            let server = Server::named_at(at(own), "s");
            let words = ["--transparent", "-b", listen, "80", own];
            let printed = commands(&words);
            assert_eq!(printed.len(), 2, "{printed:?}");
            paste(&printed);
            let to = SocketAddr::new(listen.parse().expect("an address"), 80);
            let instance = Setup::binding(to).start(words);
            lab.shows(from, &to.to_string(), &server, from);
            instance.end();
        }
    });
}

#[test]
fn an_announced_client_counts_and_one_without_a_usable_address_comes_from_ours() {
    private_network("clients' addresses", || {
        let lab = Lab::new();
        prepare();
        let lines = "proxy: --transparent --accept-proxy 10.1.0.0/24 -b 10.1.0.1 80 10.2.0.2:8080\n\
                     mixed: --transparent -6 81 10.2.0.2:8080\n\
                     local: --transparent --check tcp --check-interval 100ms -b 127.0.0.1 82 10.2.0.2:8080\n";
        let instance = instance(Setup::binding(at("10.1.0.1:80")), lines);
        let header = "PROXY TCP4 203.0.113.9 10.1.0.1 4711 80\r\n";
        drop(lab.client.visits("10.1.0.7", "10.1.0.1:80", header));
        let is = |seen: &str| lab.v4.clients().iter().any(|client| client.ip().to_string() == seen);
        assert!(is("203.0.113.9") && !is("10.1.0.7"), "{:?}", lab.v4.clients());
        // Nobody can be answered there, and that is nobody's fault.
        drop(lab.client.visits("10.1.0.7", "10.1.0.1:80", "PROXY TCP4 255.255.255.255 10.1.0.1 4711 80\r\n"));
        drop(lab.client.visits("fd01::7", "[fd01::1]:81", ""));
        drop(lab.client.visits("fd01::8", "[fd01::1]:81", ""));
        drop(lab.client.visits("10.1.0.8", "10.1.0.1:81", ""));
        assert!(is("10.1.0.8"), "{:?}", lab.v4.clients());
        let mut near = Client::connect(at("127.0.0.1:82"));
        assert_eq!(near.recv(1), b"s");
        drop(near);
        let known = ["203.0.113.9", "10.1.0.8", "10.2.0.1"];
        let others: Vec<_> =
            lab.v4.clients().into_iter().filter(|one| !known.contains(&&*one.ip().to_string())).collect();
        assert!(others.is_empty(), "{others:?}: checks and all others come from an address of the balancer");
        let log = instance.stderr();
        for (service, client, why) in [
            ("mixed", "[fd01::7]", "different families"),
            ("local", "127.0.0.1", "a loopback address"),
            ("proxy", "255.255.255.255", "cannot be used on other networks"),
        ] {
            let told: Vec<_> = log
                .lines()
                .filter(|line| line.contains("--transparent: client") && line.contains(why))
                .collect();
            assert!(
                told.len() == 1 && told[0].contains(client) && told[0].contains(service),
                "{service}: {told:?}\n{log}"
            );
        }
        instance.end();
    });
}

#[test]
fn it_comes_and_goes_by_reload_and_survives_an_upgrade() {
    private_network("clients' addresses", || {
        let lab = Lab::new();
        let plain = "web: -b 10.1.0.1 80 10.2.0.2:8080\n";
        let transparent = "web: --transparent -b 10.1.0.1 80 10.2.0.2:8080\n";
        let mut instance = instance(Setup::binding(at("10.1.0.1:80")), plain);
        lab.shows("10.1.0.7", "10.1.0.1:80", &lab.v4, "10.2.0.1");
        instance.directory.file("services", transparent);
        // Without the routes nothing is changed.
        let refused = instance.ctl("reload");
        assert_ne!(refused.code, 0, "{refused}");
        let told = format!("{}{}", refused.stdout, refused.stderr);
        let printed = commands_of(&told);
        assert!(told.contains("nothing was changed"), "{told}");
        lab.shows("10.1.0.7", "10.1.0.1:80", &lab.v4, "10.2.0.1");
        paste(&printed);
        instance.ctl("reload").code(0);
        lab.shows("10.1.0.7", "10.1.0.1:80", &lab.v4, "10.1.0.7");
        let kept = lab.client.visits("10.1.0.7", "10.1.0.1:80", "");
        instance.upgrade();
        lab.shows("10.1.0.8", "10.1.0.1:80", &lab.v4, "10.1.0.8");
        let mut kept = kept;
        kept.send(b"still");
        assert_eq!(kept.recv(5), b"still", "the connection goes on in the new process");
        drop(kept);
        // The doctor sees what is missing later.
        let doctor = || instance.ctl("doctor").stdout;
        assert!(!doctor().contains("transparent"), "{}", doctor());
        sh("ip rule del fwmark 0xba1 lookup 2977").code(0);
        let told = doctor();
        let line = told.lines().find(|line| line.starts_with("broken transparent")).unwrap_or_default();
        assert!(line.contains(&printed[0]) && !line.contains("nft "), "{told}");
        paste(&printed[..1]);
        assert!(!doctor().contains("transparent"), "{}", doctor());
        instance.directory.file("services", plain);
        instance.ctl("reload").code(0);
        lab.shows("10.1.0.7", "10.1.0.1:80", &lab.v4, "10.2.0.1");
        instance.end();
    });
}

#[test]
fn channels_that_come_later_or_cannot_be_looked_at_are_told() {
    private_network("clients' addresses", || {
        let _lab = Lab::new();
        prepare();
        let line = "web: --transparent -b 10.1.0.1 80 10.2.0.2:8080 [fd09::1]:8080\n";
        let mut instance = instance(Setup::binding(at("10.1.0.1:80")), line);
        let told = |instance: &Instance, what: &str| instance.stderr().matches(what).count();
        assert_eq!(told(&instance, "there is no route to fd09::1, so balance cannot tell"), 1);
        let what = "--transparent: replies of 127.0.0.1:8081 to clients do not reach balance; type: ip rule add from";
        assert_eq!(told(&instance, what), 0);
        instance.ctl("create 127.0.0.1 8081").code(0).out("channel created\n");
        eventually("it is told", || (told(&instance, what) == 1).then_some(()));
        // It goes on as it was, and the new process says so, too.
        instance.upgrade();
        eventually("it is told again", || (told(&instance, what) == 2).then_some(()));
        instance.end();
    });
}

#[test]
fn a_name_that_gets_an_address_of_another_family_is_told() {
    private_network("clients' addresses", || {
        let _lab = Lab::new();
        paste(&commands(&["--transparent", "80", "10.2.0.2:8080"]));
        let setup = Setup::binding(at("10.1.0.1:80")).hosts("10.2.0.2 srv\n");
        let instance = instance(setup, "web: --transparent --resolve 1s -b 10.1.0.1 80 srv:8080\n");
        let what = "--transparent: replies of [fd02::2]:8080 to clients do not reach balance; type: ip -6 rule add fwmark";
        let told = |instance: &Instance| instance.stderr().matches(what).count();
        // In its place, since it is mounted.
        let hosts = instance.directory.path().join("hosts");
        std::fs::write(&hosts, "10.2.0.2 srv\nfd02::2 srv\n").expect("our own file");
        // No command is given meanwhile, since balance looks after each.
        eventually("it is told", || (told(&instance) == 1).then_some(()));
        // Another answer that lacks the same is not told again: the address that comes is one with a way.
        std::fs::write(&hosts, "10.2.0.2 srv\n10.2.0.3 srv\nfd02::2 srv\n").expect("our own file");
        eventually("it is taken", || instance.stderr().contains("10.2.0.3").then_some(()));
        instance.ctl("create 127.0.0.1 8081").code(0);
        let all = "--transparent: replies of 127.0.0.1:8081 to clients";
        eventually("it has looked again", || instance.stderr().contains(all).then_some(()));
        assert_eq!(told(&instance), 1, "{}", instance.stderr());
        instance.end();
    });
}

#[test]
fn a_client_that_servers_cannot_answer_does_not_cost_the_others_a_channel() {
    private_network("clients' addresses", || {
        let lab = Lab::new();
        prepare();
        lab.servers.runs("ip route add blackhole 10.1.0.8/32");
        let instance = instance(
            Setup::binding(at("10.1.0.1:80")),
            "web: --transparent -t 3 -b 10.1.0.1 80 10.2.0.2:8080\n",
        );
        let mut lost = lab.client.does(|| Client::connect_from([10, 1, 0, 8], at("10.1.0.1:80")));
        let _ = lost.ending();
        let told = "no answer in time to the client's address 10.1.0.8";
        eventually("it is told", || instance.stderr().contains(told).then_some(()));
        lab.shows("10.1.0.7", "10.1.0.1:80", &lab.v4, "10.1.0.7");
        // The channel was asked in the background, from an address of ours, and is well.
        eventually("the channel was asked", || {
            let is_ours = |client: &SocketAddr| client.ip() == IpAddr::from([10, 2, 0, 1]);
            (lab.v4.clients().iter().filter(|client| is_ours(client)).count() > 1).then_some(())
        });
        assert!(!instance.stderr().contains("event=ejected"), "{}", instance.stderr());
        // One that answers nobody is ejected by that.
        lab.servers.runs("ip route add blackhole 10.2.0.1/32");
        let mut lost = lab.client.does(|| Client::connect_from([10, 1, 0, 8], at("10.1.0.1:80")));
        let _ = lost.ending();
        eventually("it is ejected", || instance.stderr().contains("event=ejected").then_some(()));
        lab.servers.runs("ip route del blackhole 10.2.0.1/32");
        instance.end();
    });
}

#[test]
fn it_needs_the_capability_and_another_user_keeps_it() {
    private_network("clients' addresses", || {
        let lab = Lab::new();
        prepare();
        let directory = Directory::new();
        let words = ["-f", "--transparent", "-b", "10.1.0.1", "80", "10.2.0.2:8080"];
        let refused = Run::new("setpriv")
            .args(["--bounding-set=-net_admin,-net_raw", "--inh-caps=-all", BALANCE])
            .args(words)
            .env("BALANCE_RUN_DIR", directory.path().join("run"))
            .finish()
            .code(71);
        let _ = refused.err("--transparent needs CAP_NET_ADMIN");

        let setup = Unprivileged::at(at("10.1.0.1:80"));
        let mut instance = setup.serve(&["--transparent"], &"10.2.0.2:8080");
        for _ in 0..2 {
            let status =
                std::fs::read_to_string(format!("/proc/{}/status", instance.pid())).expect("it runs");
            assert!(
                status.contains("CapEff:\t0000000000001400\n"),
                "net_admin beside net_bind_service: {status}"
            );
            lab.shows("10.1.0.7", "10.1.0.1:80", &lab.v4, "10.1.0.7");
            let doctor = instance.ask("doctor").stdout;
            assert!(doctor.contains("net_admin (for --transparent)"), "{doctor}");
            let told = instance.ask("upgrade").code(0).stdout;
            let pid = told.strip_prefix("process ").and_then(|rest| rest.split(' ').next()?.parse().ok());
            instance.succeed(pid.unwrap_or_else(|| panic!("no process is named: {told}")));
        }
        instance.terminate();
    });
}

#[test]
fn it_does_not_go_with_addresses_of_ours() {
    for words in [["--transparent", "-B", "127.3.0.1"], ["-B", "127.3.0.1", "--transparent"]] {
        let run =
            Run::balance(&Directory::new()).args(["-f"]).args(words).args(["80", "127.0.0.1:9"]).finish();
        let _ = run.code(64).err("cannot go with");
    }
    let directory = Directory::new();
    for lines in [
        "* --transparent\nweb: -B 127.3.0.1 80 127.0.0.1:9\n",
        "* -B 127.3.0.1\nweb: --transparent 80 127.0.0.1:9\n",
    ] {
        let file = directory.file("services", lines);
        let run = Run::balance(&directory)
            .args(["--check-only".as_ref(), "--file".as_ref(), file.as_os_str()])
            .finish();
        let _ = run.code(78).err("cannot go with");
    }
}

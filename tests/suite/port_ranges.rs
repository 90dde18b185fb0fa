//! A service on many ports: `balance 20000-20999 pbx1 pbx2`.
//!
//! Source: docs/port-ranges.md.

use std::net::{IpAddr, SocketAddr, TcpListener};

use rustix::process::Signal;

use crate::harness::{Client, Directory, Finished, Instance, Server, Setup, own_address};

/// Ports of addresses that are this test's own.
const FIRST: u16 = 20_000;

fn own_ip() -> IpAddr {
    own_address().ip()
}

/// Servers on so many ports of an address of their own; each says this letter and its port to its clients, and waits for their end.
fn servers(letter: char, ports: u16) -> (IpAddr, Vec<Server>) {
    let ip = own_ip();
    let server = |port| {
        Server::at((ip, port).into(), move |stream, _| {
            let mut peer = Client::of(stream);
            peer.send(format!("{letter}{port}"));
            peer.ending();
        })
    };
    (ip, (FIRST..FIRST + ports).map(server).collect())
}

/// Who serves a client that comes to this port.
#[track_caller]
fn server_at(ip: IpAddr, port: u16) -> (Client, String) {
    let mut client = Client::connect((ip, port).into());
    let name = String::from_utf8(client.recv(6)).expect("a letter and a port");
    (client, name)
}

fn is_free(at: SocketAddr) -> bool {
    TcpListener::bind(at).is_ok()
}

/// One service of a file, on ports of its own address.
struct Ranged {
    instance: Instance,
    ip: IpAddr,
}

impl Ranged {
    #[track_caller]
    fn start(ports: &str, channels: &str) -> Self {
        let ip = own_ip();
        let first = ports[..5].parse().expect("a port");
        let setup = Setup::binding(SocketAddr::new(ip, first));
        let file = setup.directory().file("services", &format!("-b {ip} {ports} {channels}\n"));
        Self { instance: setup.start(["--file".to_owned(), file.display().to_string()]), ip }
    }

    #[track_caller]
    fn reload(&self, ports: &str, channels: &str) -> Finished {
        let line = format!("-b {} {ports} {channels}\n", self.ip);
        self.instance.directory.file("services", &line);
        self.instance.ctl("reload")
    }
}

#[test]
fn a_channel_without_a_port_has_the_one_that_its_client_came_to() {
    let ((a, _a), (b, _b)) = (servers('a', 4), servers('b', 4));
    let ranged = Ranged::start("20000-20003", &format!("{a} {b}:20001"));
    let (instance, ip) = (&ranged.instance, ranged.ip);
    instance.ctl("disable 1").code(0);
    let clients: Vec<Client> = (FIRST..FIRST + 4)
        .map(|port| {
            let (client, name) = server_at(ip, port);
            assert_eq!(name, format!("a{port}"));
            client
        })
        .collect();
    let shown = instance.ctl("show").code(0).stdout;
    assert!(shown.lines().nth(1).is_some_and(|row| row.contains("     -    4 ")), "{shown}");
    let sessions = instance.ctl("sessions").code(0).stdout;
    for port in FIRST..FIRST + 4 {
        assert!(sessions.contains(&format!(" port {port}\n")), "{sessions}");
    }
    let services = instance.ctl("services").code(0).stdout;
    assert!(services.contains(&format!("{ip}:20000-20003 ")), "{services}");
    instance.ctl("disable 0; enable 1").code(0);
    assert!((FIRST..FIRST + 4).all(|port| server_at(ip, port).1 == "b20001"), "it has a port of its own");
    drop(clients);
    instance.ctl("enable 0").code(0);
    // Of a hash group one client is served by one channel on all ports.
    ranged.reload("20000-20003", &format!("{a} {b}:20001 %")).code(0);
    let names: Vec<String> = (FIRST..FIRST + 4).map(|port| server_at(ip, port).1).collect();
    let of_a: Vec<String> = (FIRST..FIRST + 4).map(|port| format!("a{port}")).collect();
    assert!(names == of_a || names == vec!["b20001"; 4], "{names:?}");
    ranged.instance.end();
}

#[test]
fn a_port_that_cannot_be_had_is_named_and_none_is_kept() {
    let ip = own_ip();
    let taken = TcpListener::bind((ip, FIRST + 2)).expect("a port of our own");
    let setup = Setup::binding((ip, FIRST).into());
    let mut instance = setup.spawn(["-b".to_owned(), ip.to_string(), "20000-20003".to_owned()]);
    assert_eq!(instance.wait(), 71);
    let said = instance.stderr();
    assert!(said.contains(&format!("bind(): Address already in use ({ip}:20002)")), "{said}");
    assert!(is_free((ip, FIRST).into()) && is_free((ip, FIRST + 3).into()));
    drop(taken);
}

#[test]
fn a_reload_opens_and_closes_only_what_is_different() {
    let (a, _servers) = servers('a', 8);
    let ranged = Ranged::start("20002-20003", &a.to_string());
    let ip = ranged.ip;
    let (mut stays, _) = server_at(ip, FIRST + 3);
    let ports_are = |ports: &str, open: &[u16]| {
        let said = ranged.reload(ports, &a.to_string()).code(0).stdout;
        for port in FIRST..FIRST + 8 {
            let is_open = open.contains(&port);
            match is_open {
                true => assert_eq!(server_at(ip, port).1, format!("a{port}"), "{said}"),
                false => assert!(is_free((ip, port).into()), "{port} is left: {said}"),
            }
        }
        assert!(!said.contains("is removed") && !said.contains("is added"), "{said}");
        said
    };
    let said = ports_are("20002-20005", &[20_002, 20_003, 20_004, 20_005]);
    assert!(said.contains(&format!("listens on {ip}:20004-20005, too")), "{said}");
    // Another port is the lowest: it is the same service all the same.
    ports_are("20000-20003", &[20_000, 20_001, 20_002, 20_003]);
    let said = ports_are("20001-20002", &[20_001, 20_002]);
    assert!(said.contains(&format!("listens on {ip}:20000, {ip}:20003 no more")), "{said}");
    // Nobody was cut off, not even at a port that is closed now.
    stays.shut_wr();
    stays.ending();
    let taken = TcpListener::bind((ip, FIRST + 5)).expect("a port of our own");
    let failed = ranged.reload("20001-20006", &a.to_string());
    assert_ne!(failed.code, 0);
    let said = format!("{}{}", failed.stdout, failed.stderr);
    assert!(said.contains(&format!("({ip}:20005)")), "{said}");
    assert!(is_free((ip, FIRST + 3).into()), "all or none");
    drop(taken);
    ranged.instance.end();
}

#[test]
fn a_range_of_most_of_the_descriptors_goes_to_another_process() {
    let a = Server::named("a");
    let ip = own_ip();
    let setup = || Setup::binding((ip, FIRST).into()).shell("ulimit -n 256;");
    let args =
        |ports: u16| ["-b".to_owned(), ip.to_string(), format!("20000-{}", FIRST + ports - 1), a.to_string()];
    // As many as a start takes, and one more is refused there already.
    let mut too_many = setup().spawn(args(250));
    assert_eq!(too_many.wait(), 71);
    let said = too_many.stderr();
    let needed = said.split("but ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u16>().ok());
    let most = 250 - (needed.unwrap_or_else(|| panic!("{said}")) - 256);
    assert!(most > 128, "{most}");
    let mut instance = setup().start(args(most));
    for _ in 0..2 {
        instance.upgrade();
        assert_eq!(Client::connect((ip, FIRST + most - 1).into()).recv(1), b"a");
    }
    instance.end();
}

#[test]
fn what_operators_changed_stays_when_a_range_becomes_one_port_and_the_other_way_round() {
    let ((a, _a), (b, _b)) = (servers('a', 4), servers('b', 4));
    let channels = format!("{a} {b} {b}:20003");
    let ranged = Ranged::start("20000-20003", &channels);
    let instance = &ranged.instance;
    instance.ctl("disable 0; maxc 1 7; weight 2 3").code(0);
    let is_kept = |ports: &str, at: &str| {
        let said = ranged.reload(ports, &channels).code(0).stdout;
        assert!(!said.contains("is added") && !said.contains("is removed"), "{ports}: {said}");
        let of_two = said.matches(&format!(" is connected to at {at}\n")).count();
        assert!(of_two == 2 && !said.contains("other addresses"), "{ports}: {said}");
        let rows = instance.show();
        let kept: Vec<(&str, u64)> = rows.iter().map(|row| (row.state.as_str(), row.maxc)).collect();
        assert_eq!(kept, [("dis", 0), ("ENA", 7), ("ENA", 0)], "{ports}: {said}");
        let status = instance.ctl("status").code(0).stdout;
        assert!(status.contains("channel 2: weight 3, in the file 1"), "{ports}: {status}");
    };
    is_kept("20000", "port 20000");
    // The channel that has the port of the service has its port of today.
    instance.ctl("disable 2").code(0);
    assert_eq!(server_at(ranged.ip, FIRST).1, "b20000");
    instance.ctl("enable 2").code(0);
    is_kept("20000-20001", "the port that each client came to");
    instance.ctl("disable 2").code(0);
    assert_eq!(server_at(ranged.ip, FIRST + 1).1, "b20001");
    instance.ctl("enable 2").code(0);
    is_kept("20000-20000", "port 20000");
    ranged.instance.end();
}

#[test]
fn what_is_kept_is_found_again_when_the_first_port_of_a_range_is_another() {
    let ip = own_ip();
    let mut directory = Directory::new();
    for ports in ["20000-20003", "20001-20003", "20003", "20002-20004"] {
        let first = ports[..5].parse().expect("a port");
        let state = directory.path().join("state");
        let setup = Setup::binding((ip, first).into()).within(directory);
        let args =
            ["--state", &state.display().to_string(), "-b", &ip.to_string(), ports, "127.0.0.1", "127.0.0.2"];
        let mut instance = setup.start(args);
        if ports.starts_with("20000") {
            instance.ctl("disable 1; maxc 0 9").code(0);
        }
        let rows = instance.show();
        let kept: Vec<(&str, u64)> = rows.iter().map(|row| (row.state.as_str(), row.maxc)).collect();
        assert_eq!(kept, [("ENA", 9), ("dis", 0)], "{ports}: {}", instance.stderr());
        instance.signal(Signal::TERM);
        assert_eq!(instance.wait(), 0);
        directory = std::mem::replace(&mut instance.directory, Directory::new());
    }
}

#[test]
fn another_process_has_all_ports_and_knows_where_clients_came_to() {
    let (a, _servers) = servers('a', 300);
    let mut ranged = Ranged::start("20000-20299", &a.to_string());
    let ip = ranged.ip;
    let (mut carried, _) = server_at(ip, FIRST + 7);
    ranged.instance.upgrade();
    assert_eq!(server_at(ip, FIRST + 299).1, "a20299");
    let sessions = ranged.instance.ctl("sessions").code(0).stdout;
    assert!(sessions.contains(" port 20007\n"), "{sessions}");
    ranged.reload("20000-20010", &a.to_string()).code(0);
    ranged.instance.upgrade();
    assert_eq!(server_at(ip, FIRST + 10).1, "a20010");
    assert!(is_free((ip, FIRST + 11).into()));
    carried.shut_wr();
    carried.ending();
    ranged.instance.end();
}

//! PROXY headers that balance sends before a client's bytes: `web1:80,proxy`.
//!
//! Source: docs/proxy-protocol.md.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::harness::{
    Client, DEADLINE, Directory, Instance, Received, Refusing, Server, Setup, eventually, own_address,
    unless_held_up,
};

mod receivers;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The header of version 2 for two addresses of IPv4, without values.
fn v2(client: SocketAddr, came_to: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(client), SocketAddr::V4(came_to)) = (client, came_to) else {
        panic!("{client} {came_to}")
    };
    let ips = [client.ip().octets(), came_to.ip().octets()].concat();
    let ports = [client.port().to_be_bytes(), came_to.port().to_be_bytes()].concat();
    [SIGNATURE, b"\x21\x11\x00\x0c", &ips, &ports].concat()
}

fn v1(client: SocketAddr, came_to: SocketAddr) -> Vec<u8> {
    let (ips, ports) = ((client.ip(), came_to.ip()), (client.port(), came_to.port()));
    format!("PROXY TCP4 {} {} {} {}\r\n", ips.0, ips.1, ports.0, ports.1).into_bytes()
}

fn address(client: &Client) -> SocketAddr {
    client.0.local_addr().expect("it is connected")
}

/// A server that tells of all that comes on each connection, once that has ended.
fn recorder() -> (Server, Receiver<Vec<u8>>) {
    let (told, all): (Sender<Vec<u8>>, _) = channel();
    let server = Server::with(move |mut stream: TcpStream, _| {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let _ = told.send(bytes);
    });
    (server, all)
}

#[track_caller]
fn next(all: &Receiver<Vec<u8>>) -> Vec<u8> {
    all.recv_timeout(DEADLINE).expect("a connection that has ended")
}

#[test]
fn a_header_comes_before_the_client_and_is_not_counted() {
    let (first, second) = (recorder(), recorder());
    let instance =
        Instance::before(&[&format!("{},proxy", first.0.addr), &format!("{},proxy=v1", second.0.addr)]);
    for (all, header) in [(&first.1, v2 as fn(_, _) -> _), (&second.1, v1)] {
        let mut client = instance.connect();
        let from = address(&client);
        client.send(b"hello");
        client.shut_wr();
        assert_eq!(client.ending(), Received::End);
        assert_eq!(next(all), [&header(from, instance.addr)[..], b"hello"].concat());
    }
    let rows = instance.await_show("both have ended", |rows| rows.iter().all(|row| row.c == 0));
    assert!(rows.iter().all(|row| (row.sent, row.rcvd) == (5, 0)), "{rows:?}");
    let options: Vec<_> = instance.status().into_iter().map(|row| row.options).collect();
    assert_eq!(options, ["proxy", "proxy=v1"]);
    assert!(instance.ctl("save").code(0).stdout.contains(&format!("{},proxy=v1", second.0.addr)));
    instance.end();
}

#[test]
fn a_header_waits_for_nobody() {
    // Speaks first, once it knows who the client is.
    let server = Server::with(|mut stream, _| {
        let mut header = [0; 28];
        if stream.read_exact(&mut header).is_ok() {
            let _ = stream.write_all(&header);
        }
    });
    let instance = Instance::before(&[&format!("{server},proxy")]);
    let mut client = instance.connect();
    assert_eq!(client.recv(28), v2(address(&client), instance.addr));
    assert_eq!(instance.show()[0].sent, 0);
    drop(client);
    instance.end();
}

#[test]
fn a_client_that_ends_or_goes_before_a_byte_is_announced_all_the_same() {
    let (server, all) = recorder();
    let instance = Instance::before(&[&format!("{server},proxy")]);
    let client = instance.connect();
    let from = address(&client);
    client.shut_wr();
    assert_eq!(next(&all), v2(from, instance.addr));
    drop(client);
    let client = instance.connect();
    instance.await_show("it is served", |rows| rows[0].c == 1);
    client.rst();
    // The server hears of a reset, and whether it has read the header before is its own affair.
    next(&all);
    instance.end();
}

#[test]
fn every_channel_that_is_tried_gets_a_header_of_its_own() {
    let dead = Refusing::new();
    let (server, all) = recorder();
    let instance = Instance::before(&[&format!("{dead},proxy"), &format!("{server},proxy=v1")]);
    for _ in 0..3 {
        let mut client = instance.connect();
        let from = address(&client);
        client.send(b"x");
        client.shut_wr();
        assert_eq!(client.ending(), Received::End);
        assert_eq!(next(&all), [&v1(from, instance.addr)[..], b"x"].concat());
    }
    instance.end();
}

#[test]
fn a_channel_that_takes_the_header_and_closes_leaves_the_client_to_the_next_one() {
    unless_held_up(300, || {
        let closer = Server::with(|mut stream, _| drop(stream.read_exact(&mut [0; 28])));
        // Answers when it has read the header.
        let (told, all) = channel();
        let server = Server::with(move |mut stream: TcpStream, _| {
            let mut bytes = vec![0; 28];
            if stream.read_exact(&mut bytes).is_ok() && stream.write_all(b"k").is_ok() {
                let _ = stream.read_to_end(&mut bytes);
            }
            let _ = told.send(bytes);
        });
        let instance = Instance::before(&[&format!("{closer},proxy"), &format!("{server},proxy")]);
        // Whoever is known to answer is gone on to.
        instance.ctl("disable 0").code(0);
        assert_eq!(instance.connect().recv(1), b"k");
        next(&all);
        instance.ctl("enable 0").code(0);
        while closer.accepted() == 0 {
            let mut client = instance.connect();
            let from = address(&client);
            assert_eq!(client.recv(1), b"k");
            client.send(b"x");
            client.shut_wr();
            assert_eq!(client.ending(), Received::End);
            assert_eq!(next(&all), [&v2(from, instance.addr)[..], b"x"].concat());
        }
        instance.end();
    });
}

#[test]
fn a_client_of_ipv4_is_one_at_a_listener_for_both_families_too() {
    let (server, all) = recorder();
    let listener =
        socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).expect("a socket");
    listener.set_only_v6(false).expect("an option");
    listener.bind(&SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)).into()).expect("a free port");
    listener.listen(16).expect("listen");
    let listener = TcpListener::from(listener);
    let port = listener.local_addr().expect("it is bound").port();
    let instance = Setup::passing(listener).start(["PORT".to_owned(), format!("{server},proxy=v1")]);
    for (ip, family) in [("127.0.0.1", "TCP4"), ("::1", "TCP6")] {
        let to = SocketAddr::new(ip.parse().expect("an address"), port);
        let mut client = Client::connect(to);
        let from = address(&client);
        client.send(b"x");
        client.shut_wr();
        assert_eq!(client.ending(), Received::End);
        let header = format!("PROXY {family} {ip} {ip} {} {port}\r\nx", from.port());
        assert_eq!(String::from_utf8_lossy(&next(&all)), header);
    }
    instance.end();
}

/// The values of a header of version 2 for addresses of IPv4, and what comes behind it.
fn values(bytes: &[u8]) -> (Vec<(u8, Vec<u8>)>, Vec<u8>) {
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let (header, behind) = bytes.split_at(16 + length);
    let (mut rest, mut values) = (&header[28..], Vec::new());
    while let [kind, high, low, more @ ..] = rest {
        let (value, behind) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        values.push((*kind, value.to_vec()));
        rest = behind;
    }
    (values, behind.to_vec())
}

#[test]
fn values_name_the_connection_as_sessions_does_and_sum_the_header_up() {
    let (server, all) = recorder();
    let args = ["--proxy-tlv", "unique-id,crc32c", "PORT"].map(str::to_owned);
    let instance = Instance::start(args.into_iter().chain([format!("{server},proxy")]));
    let mut names = Vec::new();
    for _ in 0..2 {
        let mut client = instance.connect();
        let id = eventually("it is served", || {
            let sessions = instance.ctl("sessions").code(0).stdout;
            sessions.lines().nth(1).and_then(|line| line.split_whitespace().next()).map(str::to_owned)
        });
        client.send(b"x");
        client.shut_wr();
        assert_eq!(client.ending(), Received::End);
        let (values, behind) = values(&next(&all));
        let kinds: Vec<_> = values.iter().map(|(kind, value)| (*kind, value.len())).collect();
        assert_eq!((&behind[..], kinds[0].0, kinds[1]), (&b"x"[..], 5, (3, 4)), "{kinds:?}");
        let name = String::from_utf8(values[0].1.clone()).expect("text");
        assert!(name.ends_with(&format!("-{id}")), "{name} {id}");
        names.push(name);
    }
    assert_ne!(names[0], names[1]);
    assert_eq!(names[0].split('-').next(), names[1].split('-').next(), "of one instance");
    instance.end();
}

#[test]
fn what_a_proxy_in_front_has_announced_goes_on() {
    let (server, all) = recorder();
    let args = ["--accept-proxy", "127.0.0.1", "PORT"].map(str::to_owned);
    let instance = Instance::start(args.into_iter().chain([format!("{server},proxy")]));
    let [client, came_to] = ["203.0.113.7:4711", "192.0.2.80:443"].map(|at| at.parse().expect("an address"));
    let alpn = b"\x01\x00\x02h2";
    let mut announced = v2(client, came_to);
    announced[15] += alpn.len() as u8;
    announced.extend(alpn);
    for said in [&b"hello"[..], b""] {
        let mut proxy = instance.connect();
        proxy.send([&announced[..], said].concat());
        proxy.shut_wr();
        assert_eq!(proxy.ending(), Received::End);
        assert_eq!(next(&all), [&announced[..], said].concat());
    }
    instance.await_show("only what the client said is counted", |rows| rows[0].sent == 5);
    instance.end();
}

#[test]
fn checks_say_that_they_are_for_nobody() {
    let (v2_server, all) = recorder();
    let (v1_server, all_v1) = recorder();
    let (plain, all_plain) = recorder();
    let args = |channel: &str, more: &[&str]| {
        let words =
            ["--check", "tcp", "--check-interval", "20ms"].iter().chain(more).map(|w| (*w).to_owned());
        words.chain(["PORT".to_owned(), channel.to_owned()]).collect::<Vec<_>>()
    };
    let instance = Instance::start(args(&format!("{v2_server},proxy"), &[]));
    assert_eq!(next(&all), LOCAL);
    instance.end();
    let instance = Instance::start(args(&format!("{v1_server},proxy=v1"), &[]));
    let said = String::from_utf8(next(&all_v1)).expect("text");
    let (ip, port) = (v1_server.addr.ip(), v1_server.addr.port());
    assert!(said.starts_with(&format!("PROXY TCP4 {ip} {ip} ")), "{said:?}");
    assert!(said.ends_with(&format!(" {port}\r\n")), "{said:?}");
    instance.end();
    // Another port is asked without one.
    let port = plain.addr.port().to_string();
    let instance = Instance::start(args(&format!("{v2_server},proxy"), &["--check-port", &port]));
    assert_eq!(next(&all_plain), b"");
    instance.end();
}

#[test]
fn a_probe_for_a_return_says_so_too() {
    let at = own_address();
    let instance = Instance::before(&[&format!("{at},proxy")]);
    // Nobody listens there yet.
    drop(instance.connect());
    instance.await_health(0, "ejected");
    let (told, all) = channel();
    let _server = Server::at(at, move |mut stream: TcpStream, _| {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let _ = told.send(bytes);
    });
    assert_eq!(next(&all), LOCAL);
    instance.await_health(0, "up");
    instance.end();
}

#[test]
fn the_option_is_reloaded_created_kept_and_handed_over() {
    let (server, all) = recorder();
    let listen = own_address();
    // Of our own, since it is there for longer than an instance.
    let directory = Directory::new();
    let line = |option: &str| format!("-b {} {} {server}{option}\n", listen.ip(), listen.port());
    let file = directory.file("services", &line(""));
    let state = directory.path().join("state");
    let words =
        ["--state", &state.display().to_string(), "--file", &file.display().to_string()].map(String::from);
    let mut instance = Setup::binding(listen).start(words.clone());
    let ask = |instance: &Instance| {
        let mut client = instance.connect();
        let from = address(&client);
        client.send(b"x");
        client.shut_wr();
        assert_eq!(client.ending(), Received::End);
        (from, next(&all))
    };
    assert_eq!(ask(&instance).1, b"x");
    // Of the file, from the next client on.
    let mut before = instance.connect();
    instance.await_show("it is served", |rows| rows[0].c == 1);
    directory.file("services", &line(",proxy"));
    let told = instance.ctl("reload").code(0).stdout;
    assert!(told.contains("options proxy"), "{told}");
    before.send(b"plain");
    before.shut_wr();
    assert_eq!((before.ending(), next(&all)), (Received::End, b"plain".to_vec()));
    let (from, said) = ask(&instance);
    assert_eq!(said, [&v2(from, listen)[..], b"x"].concat());
    // Handed over.
    instance.upgrade();
    let (from, said) = ask(&instance);
    assert_eq!(said, [&v2(from, listen)[..], b"x"].concat());
    // By hand, and after a restart.
    let port = server.addr.port();
    let wrong = instance.ctl(&format!("create 127.0.0.1 {port},colour=red"));
    assert!(wrong.stdout.contains("unknown option 'colour=red'"), "{wrong}");
    instance.ctl(&format!("disable 0; create 127.0.0.1 {port},proxy=v1; enable 1")).code(0);
    let (from, said) = ask(&instance);
    assert_eq!(said, [&v1(from, listen)[..], b"x"].concat());
    instance.upgrade();
    let (from, said) = ask(&instance);
    assert_eq!(said, [&v1(from, listen)[..], b"x"].concat());
    let saved = instance.ctl("save").code(0).stdout;
    assert!(saved.contains(&format!("127.0.0.1:{port},proxy,disabled 127.0.0.1:{port},proxy=v1")), "{saved}");
    eventually("it is kept", || {
        let text = std::fs::read_to_string(&state).unwrap_or_default();
        text.contains(" options proxy=v1 at ").then_some(())
    });
    instance.terminate();
    let instance = Setup::binding(listen).start(words);
    let (from, said) = ask(&instance);
    assert_eq!(said, [&v1(from, listen)[..], b"x"].concat());
    instance.end();
}

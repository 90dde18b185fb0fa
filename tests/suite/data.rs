//! Moving data: fidelity, half-close, resets, urgent data, IPv6, idle timeout, counters, the dump.
//!
//! Source: docs/compatibility.md, "Moving data" and "Packet dump".

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::harness::{
    Client, Direction, Instance, Received, Server, Setup, Stream, eventually, private_network, unless_held_up,
};

/// A server that sends its stream and checks the client's, both of this length, at the same time.
fn duplex(length: u64) -> Server {
    Server::with(move |stream, number| {
        let (mut sender, mut receiver) = (Client(stream.try_clone().expect("a descriptor")), Client(stream));
        let id = number as u64;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sender.send_stream(Stream::new(id, Direction::Rcvd), length);
                sender.shut_wr();
            });
            receiver.recv_stream(Stream::new(id, Direction::Sent), length);
            assert!(receiver.recv_all().is_empty(), "more than was sent");
        });
    })
}

/// The client's half of [`duplex`].
fn exchange(instance: &Instance, id: u64, length: u64) {
    let mut receiver = instance.connect();
    exchange_over(&mut receiver, id, length);
}

fn exchange_over(receiver: &mut Client, id: u64, length: u64) {
    let mut sender = Client(receiver.0.try_clone().expect("a descriptor"));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            sender.send_stream(Stream::new(id, Direction::Sent), length);
            sender.shut_wr();
        });
        receiver.recv_stream(Stream::new(id, Direction::Rcvd), length);
        assert!(receiver.recv_all().is_empty(), "more than was sent");
    });
}

#[test]
fn both_sides_push_large_data_at_once_and_every_byte_arrives() {
    const LENGTH: u64 = 48 << 20;
    let server = duplex(LENGTH);
    let instance = Instance::before(&[&server]);
    exchange(&instance, 0, LENGTH);
    server.await_idle();
    let rows = instance.await_show("the end", |rows| rows[0].c == 0);
    assert_eq!((rows[0].sent, rows[0].rcvd), (LENGTH, LENGTH));
    instance.end();
}

#[test]
fn many_connections_at_once_keep_their_bytes_apart() {
    const LENGTH: u64 = 100_000;
    const CLIENTS: u64 = 100;
    // The server learns from the client which stream it is.
    let server = Server::with(|stream, _| {
        let mut peer = Client(stream);
        let id = u64::from_le_bytes(peer.recv(8).try_into().expect("eight bytes"));
        let mut sender = Client(peer.0.try_clone().expect("a descriptor"));
        std::thread::scope(|scope| {
            scope.spawn(|| sender.send_stream(Stream::new(id, Direction::Rcvd), LENGTH));
            peer.recv_stream(Stream::new(id, Direction::Sent), LENGTH);
        });
    });
    let instance = Instance::before(&[&server]);
    std::thread::scope(|scope| {
        for id in 0..CLIENTS {
            let instance = &instance;
            scope.spawn(move || {
                let mut client = instance.connect();
                client.send(id.to_le_bytes());
                exchange_over(&mut client, id, LENGTH);
            });
        }
    });
    instance.end();
}

#[test]
fn a_client_that_half_closes_still_gets_its_answer() {
    // The server answers only after the end of the question, and slowly.
    let server = Server::with(|stream, _| {
        let mut peer = Client(stream);
        let question = peer.recv_all();
        peer.send(format!("{} bytes", question.len()));
        peer.send_stream(Stream::new(9, Direction::Rcvd), 1 << 20);
    });
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    client.send_stream(Stream::new(9, Direction::Sent), 1 << 20);
    client.shut_wr();
    assert_eq!(client.recv(13), b"1048576 bytes");
    client.recv_stream(Stream::new(9, Direction::Rcvd), 1 << 20);
    assert_eq!(client.ending(), Received::End);
    instance.end();
}

#[test]
fn a_server_that_half_closes_still_gets_the_rest() {
    let (tell, told) = mpsc::channel();
    let server = Server::with(move |stream, _| {
        let mut peer = Client(stream);
        peer.send("hello");
        peer.shut_wr();
        peer.recv_stream(Stream::new(3, Direction::Sent), 3 << 20);
        tell.send(peer.recv_all().len()).expect("the test waits");
    });
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    assert_eq!(client.recv_all(), b"hello");
    client.send_stream(Stream::new(3, Direction::Sent), 3 << 20);
    client.shut_wr();
    assert_eq!(told.recv_timeout(crate::harness::DEADLINE), Ok(0));
    instance.end();
}

#[test]
fn the_end_never_overtakes_data_that_a_slow_reader_has_not_taken() {
    const LENGTH: u64 = 2 << 20;
    let server = Server::with(|stream, number| {
        Client(stream).send_stream(Stream::new(number as u64, Direction::Rcvd), LENGTH);
    });
    let instance = Instance::before(&[&server]);
    std::thread::scope(|scope| {
        for _ in 0..1 {
            scope.spawn(|| {
                for id in 0..4 {
                    let mut client = Client::connect_narrow(instance.addr);
                    // The server is done and gone before we read the first byte.
                    server.await_accepted(id + 1);
                    client.recv_stream(Stream::new(id as u64, Direction::Rcvd), LENGTH);
                    assert_eq!(client.ending(), Received::End);
                }
            });
        }
    });
    instance.end();
}

#[test]
fn what_was_accepted_before_the_end_is_delivered_whatever_its_size() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    for length in [0, 1, 2, 4095, 4096, 4097, 16_384, 65_535, 65_536, 65_537, 131_072, 262_145, 1_048_576] {
        let stream = Stream::new(length, Direction::Sent);
        let mut client = instance.connect();
        let mut sender = Client(client.0.try_clone().expect("a descriptor"));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                sender.send_stream(stream, length);
                sender.shut_wr();
            });
            client.recv_stream(stream, length);
            assert_eq!(client.recv_all(), b"", "length {length}");
        });
    }
    instance.end();
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let server = Server::with(|mut stream, _| {
        let _ = stream.write_all(b"220 ready\r\n");
        crate::harness::echo(stream);
    });
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    assert_eq!(client.recv(11), b"220 ready\r\n");
    client.send("QUIT\r\n");
    assert_eq!(client.recv(6), b"QUIT\r\n");
    drop(client);
    instance.end();
}

#[test]
fn a_client_that_never_speaks_costs_nothing() {
    let server = Server::silent();
    let instance = Instance::before(&[&server]);
    let clients: Vec<_> = (0..50).map(|_| instance.connect()).collect();
    server.await_accepted(50);
    instance.assert_idle();
    drop(clients);
    server.await_idle();
    instance.end();
}

#[test]
fn a_half_closed_connection_costs_nothing() {
    let server = Server::with(|mut stream, _| {
        assert!(matches!(stream.read(&mut [0]), Ok(0)));
        await_reset(&stream);
    });
    let instance = Instance::before(&[&server]);
    let clients: Vec<_> = (0..20).map(|_| instance.connect()).collect();
    server.await_accepted(20);
    for client in &clients {
        client.shut_wr();
    }
    instance.await_show("still connected", |rows| rows[0].c == 20);
    instance.assert_idle();
    for client in clients {
        client.rst();
    }
    instance.end();
}

/// Waits until the other side resets the connection.
fn await_reset(stream: &TcpStream) {
    eventually("a reset", || stream.take_error().ok().flatten().map(drop));
}

#[test]
fn a_reset_by_the_client_reaches_the_server_as_a_reset() {
    let (tell, told) = mpsc::channel();
    let server = Server::with(move |stream, _| {
        let mut peer = Client(stream);
        peer.send("x");
        tell.send(peer.ending()).expect("the test waits");
    });
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    client.recv(1);
    client.rst();
    assert_eq!(told.recv_timeout(crate::harness::DEADLINE), Ok(Received::Reset));
    instance.end();
}

#[test]
fn a_reset_by_the_server_reaches_the_client_as_a_reset() {
    let server = Server::with(|stream, _| {
        let mut peer = Client(stream);
        assert_eq!(peer.recv(1), b"?");
        peer.rst();
    });
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    client.send("?");
    assert_eq!(client.ending(), Received::Reset);
    instance.end();
}

#[test]
fn a_reset_after_a_half_close_reaches_the_other_side_too() {
    let server = Server::with(|stream, _| {
        let mut peer = Client(stream);
        assert_eq!(peer.recv_all(), b"question");
        peer.rst();
    });
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    client.send("question");
    client.shut_wr();
    assert_eq!(client.ending(), Received::Reset);
    instance.end();
}

#[test]
fn urgent_bytes_pass_in_both_directions_nul_included() {
    // Answers each urgent byte with the same one, urgent.
    let server = Server::with(|stream, _| {
        let mut peer = Client(stream);
        peer.send("+");
        for _ in 0..3 {
            let byte = peer.recv_urgent();
            peer.send_urgent(byte);
        }
        assert_eq!(peer.ending(), Received::End);
    });
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    client.recv(1);
    for byte in [0x00, 0xff, b'!'] {
        client.send_urgent(byte);
        assert_eq!(client.recv_urgent(), byte);
    }
    drop(client);
    instance.end();
}

#[test]
fn an_urgent_byte_disturbs_neither_the_bytes_before_it_nor_those_after() {
    let (tell, told) = mpsc::channel();
    let server = Server::with(move |stream, _| {
        let mut peer = Client(stream);
        peer.send("+");
        let urgent = peer.recv_urgent();
        tell.send((urgent, peer.recv_all())).expect("the test waits");
    });
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    client.recv(1);
    client.send("before");
    client.send_urgent(0);
    client.send("after");
    client.shut_wr();
    let (urgent, rest) = told.recv_timeout(crate::harness::DEADLINE).expect("the server reports");
    assert_eq!((urgent, rest.as_slice()), (0, b"beforeafter".as_slice()));
    drop(client);
    instance.end();
}

#[test]
fn an_ipv6_client_reaches_an_ipv6_channel() {
    let server = Server::named_on(std::net::Ipv6Addr::LOCALHOST, "6");
    let listen = "[::1]:0".parse().expect("an address");
    let instance = Setup::listening(listen).start(["-b", "::1", "PORT", &server.addr.to_string()]);
    assert_eq!(instance.names(2), "66");
    let row = &instance.show()[0];
    assert_eq!(row.address, format!("::1:{}", server.addr.port()));
    instance.end();
}

#[test]
fn a_dual_stack_listener_takes_both_kinds_of_clients() {
    private_network("a port that is free on all addresses", || {
        let server = Server::named("x");
        // The program's own bind: -6 must switch IPV6_V6ONLY off.
        let listen = "[::]:20000".parse().expect("an address");
        let mut instance = Setup::binding(listen).start(["-6", "PORT", &server.to_string()]);
        for ip in ["127.0.0.1", "::1"] {
            instance.addr.set_ip(ip.parse().expect("an address"));
            assert_eq!(instance.names(1), "x", "{ip}");
        }
        instance.end();
    });
}

#[test]
fn an_idle_connection_ends_and_a_busy_one_does_not() {
    unless_held_up(200, || {
        let server = Server::echo();
        let instance = Instance::before(&[&"-T1", &server]);
        let mut idle = instance.connect();
        let mut busy = instance.connect();
        let begin = Instant::now();
        let mut ended = None;
        idle.0.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        // The busy one speaks all the time; the idle one is looked at in between.
        while begin.elapsed() < Duration::from_millis(2500) {
            busy.send("ping");
            assert_eq!(busy.recv(4), b"ping");
            if ended.is_none()
                && !matches!(idle.read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
            {
                ended = Some(begin.elapsed());
            }
        }
        let ended = ended.expect("the idle connection ended");
        assert!(ended >= Duration::from_millis(900), "{ended:?}");
        drop((idle, busy));
        instance.end();
    });
}

#[test]
fn an_idle_timeout_counts_bytes_of_either_direction() {
    unless_held_up(200, || {
        // Only the server speaks, for more than twice the timeout.
        const DOTS: usize = 25;
        let server = Server::with(|mut stream, _| {
            for _ in 0..DOTS {
                if stream.write_all(b".").is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            let _ = stream.shutdown(Shutdown::Write);
        });
        let instance = Instance::before(&[&"-T", &"1", &server]);
        let dots = instance.connect().recv_all();
        assert_eq!(dots.len(), DOTS);
        instance.end();
    });
}

#[test]
fn an_idle_timeout_of_zero_is_never() {
    let server = Server::echo();
    let instance = Instance::before(&[&"-T", &"0", &server]);
    let mut client = instance.connect();
    assert!(client.is_quiet_for(Duration::from_millis(500)));
    client.send("x");
    assert_eq!(client.recv(1), b"x");
    drop(client);
    instance.end();
}

#[test]
fn counters_grow_while_data_flows() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    for round in 1..=3 {
        client.send([7; 1000]);
        client.recv(1000);
        let rows = instance.await_show("the bytes so far", |rows| rows[0].rcvd == round * 1000);
        assert_eq!((rows[0].c, rows[0].totalc, rows[0].sent), (1, 1, round * 1000));
    }
    drop(client);
    instance.end();
}

#[test]
fn both_sides_have_nodelay_and_keepalive() {
    if !std::path::Path::new("/usr/bin/ss").exists() && !std::path::Path::new("/bin/ss").exists() {
        panic!("ss is missing: apt-get install iproute2");
    }
    let server = Server::silent();
    let instance = Instance::before(&[&server]);
    let client = instance.connect();
    server.await_accepted(1);
    let filter = format!("( sport = :{} or dport = :{} )", instance.addr.port(), server.addr.port());
    // The options are set after the connection is there.
    eventually("both sides have their timer", || {
        let run =
            crate::harness::Run::new("ss").args(["-tnpo", "state", "established", &filter]).finish().code(0);
        let ours: Vec<_> =
            run.stdout.lines().filter(|line| line.contains(&format!("pid={},", instance.pid()))).collect();
        (ours.len() == 2 && ours.iter().all(|line| line.contains("timer:(keepalive"))).then_some(())
    });
    drop(client);
    instance.end();
}

#[test]
fn the_dump_shows_a_conversation_byte_for_byte() {
    let server = Server::echo();
    let instance = Instance::before(&[&"-p", &server]);
    let mut client = instance.connect();
    client.send(b"GET / HTTP/1.0\r\nA: b\\c\r\n\r\n");
    client.recv(26);
    client.shut_wr();
    assert_eq!(client.ending(), Received::End);
    let body = "GET / HTTP/1.0\\0D\\0A\nA: b\\\\c\\0D\\0A\n\\0D\\0A\n\n";
    let expected = format!("-> 26\n{body}-< 26\n{body}-> 0\n\n-< 0\n\n");
    eventually("the whole dump", || (instance.stdout().len() >= expected.len()).then_some(()));
    assert_eq!(instance.stdout(), expected);
    instance.end();
}

#[test]
fn chunks_of_different_connections_never_interleave_in_the_dump() {
    let server = Server::echo();
    let instance = Instance::before(&[&"-p", &server]);
    std::thread::scope(|scope| {
        for letter in b'a'..=b'h' {
            let instance = &instance;
            scope.spawn(move || {
                let mut client = instance.connect();
                for _ in 0..20 {
                    client.send([letter; 2000]);
                    assert_eq!(client.recv(2000), [letter; 2000]);
                }
            });
        }
    });
    instance.await_show("the end", |rows| rows[0].c == 0);
    let ends = |dump: &str| dump.lines().filter(|line| ["-> 0", "-< 0"].contains(line)).count();
    let dump = eventually("the whole dump", || Some(instance.stdout()).filter(|dump| ends(dump) == 2 * 8));
    let mut total = 0;
    // Heads start with `-`, which no payload of this test has.
    for chunk in dump.split("\n-").flat_map(|part| part.strip_prefix('-').or(Some(part))) {
        let (head, body) = chunk.split_once('\n').expect("a head line");
        let count: usize = head[2..].parse().expect("a number of bytes");
        let letters: Vec<_> = body.bytes().filter(|b| *b != b'\n').collect();
        assert_eq!(letters.len(), count, "chunk {chunk:?}");
        assert!(letters.windows(2).all(|pair| pair[0] == pair[1]), "mixed chunk {chunk:?}");
        total += count;
    }
    assert_eq!(total, 8 * 20 * 2000 * 2);
    instance.end();
}

#[test]
fn a_connection_survives_a_channel_that_is_disabled() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    client.send("a");
    client.recv(1);
    instance.ctl("disable 0").code(0);
    client.send("b");
    assert_eq!(client.recv(1), b"b");
    SockRef::from(&client.0).set_linger(None).expect("linger");
    drop(client);
    instance.end();
}

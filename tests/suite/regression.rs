//! One test for each bug that was found, named after what went wrong; the issue or commit is in the line
//! above.
//!
//! The first ones are bugs of 3.57 or of similar programs, which balance never had and must never have.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{Client, Direction, Instance, Over, Received, Server, Stream};

// HAProxy issue 3457: the end was forwarded before retained data had drained.
#[test]
fn the_last_bytes_before_an_end_are_not_lost_when_the_reader_stalls() {
    const LENGTH: u64 = 1 << 20;
    let server =
        Server::with(|stream, _| Client(stream).send_stream(Stream::new(1, Direction::Rcvd), LENGTH));
    let instance = Instance::before(&[&server]);
    let mut client = Client::connect_narrow(instance.addr);
    server.await_accepted(1);
    // Read a little, leave the rest until everything in between is full, then read on.
    let stream = Stream::new(1, Direction::Rcvd);
    let head = client.recv(32_768);
    stream.check(0, &head);
    instance.assert_idle();
    let rest = client.recv_all();
    stream.check(32_768, &rest);
    assert_eq!(rest.len() as u64 + 32_768, LENGTH);
    drop(client);
    instance.end();
}

// Envoy issue 45267: a reset threw away a response that had been accepted for delivery. Here the server answers and closes
// with bytes unread, which the kernel turns into a reset behind the answer.
#[test]
fn an_answer_followed_by_a_reset_ends_in_a_reset_and_not_in_a_clean_end() {
    let server = Server::with(|stream, _| {
        let mut peer = Client(stream);
        peer.recv(1);
        peer.send("answer");
        // Dropped with unread bytes.
        peer.peek(&mut [0; 1]).expect("more bytes");
    });
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    client.send("q");
    client.send("unread");
    let ending = client.ending();
    assert_eq!(ending, Received::Reset);
    instance.end();
}

// HAProxy 2522, tokio 3876, linkerd 5180: half-closed sockets stayed for ever.
#[test]
fn a_half_closed_connection_whose_other_side_dies_is_gone() {
    let server = Server::with(|stream, _| {
        let mut peer = Client(stream);
        peer.recv_all();
        peer.rst();
    });
    let instance = Instance::before(&[&server]);
    let clients: Vec<_> = (0..50).map(|_| instance.connect()).collect();
    for client in &clients {
        client.shut_wr();
    }
    instance.await_show("all gone", |rows| rows[0].c == 0 && rows[0].totalc == 50);
    drop(clients);
    instance.end();
}

// 3.57 starves a direction when the other is busy.
#[test]
fn a_flood_in_one_direction_leaves_room_for_the_other() {
    let server = Server::with(|stream, _| {
        let mut peer = Client(stream);
        let mut flood = Client(peer.0.try_clone().expect("a descriptor"));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _over = Over(&stop);
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    flood.send([0; 1 << 16]);
                }
            });
            // The client's word ends the flood.
            peer.recv(4);
            stop.store(true, Ordering::SeqCst);
        });
    });
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    let mut reader = Client(client.0.try_clone().expect("a descriptor"));
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || reader.ending());
        client.send("stop");
        assert_eq!(reader.join().expect("the reader"), Received::End);
    });
    drop(client);
    instance.end();
}

// 3.57 loses a slot whenever a client leaves at the wrong moment.
#[test]
fn slots_never_leak_whenever_a_client_leaves() {
    let server = Server::echo();
    let instance = Instance::before(&[&format!("{server}:3")]);
    for round in 0..60_u8 {
        let mut client = instance.connect();
        match round % 5 {
            0 => {}
            1 => client.send("x"),
            2 => client.shut_wr(),
            3 => {
                client.send([round; 100]);
                client.is_quiet_for(Duration::from_millis(u64::from(round % 4) + 1));
            }
            _ => {
                client.rst();
                continue;
            }
        }
        drop(client);
    }
    instance.await_show("all slots free", |rows| rows[0].c == 0);
    let mut clients: Vec<_> = (0..3).map(|_| instance.connect()).collect();
    for client in &mut clients {
        client.send("x");
        assert_eq!(client.recv(1), b"x");
    }
    drop(clients);
    instance.end();
}

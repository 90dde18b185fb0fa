//! Every byte must arrive: the real program between two ends that do everything at the worst moment.
//!
//! Chunks from 1 byte to 1 MiB with pauses, tiny and large socket buffers, so that every change between copy
//! and splice happens in every state; half-closes and resets in every state; readers that stop; many
//! connections at once; no descriptors for pipes. Received bytes are compared one by one with the keyed
//! stream, the SHA-256 of both ends with each other, counters with both. `BALANCE_SEED=n` sets another seed
//! than the usual one.
//!
//! Source: docs/compatibility.md, "Moving data".

mod ends;
mod faults;

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ends::{End, Habits, Half, Payload, announce, await_acknowledged, is_reset, receive, send};

use crate::harness::{Client, DEADLINE, Direction, Instance, Server, Setup, eventually, unless_held_up};
use crate::relay_sim::random::Random;

/// The number in front of what a client sends, which tells the server who it is, in bytes.
const HEAD: u64 = 8;

fn seed() -> u64 {
    let seed = std::env::var("BALANCE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("BALANCE_SEED={seed}");
    seed
}

/// One connection: how much goes each way, how each end behaves, and who speaks when.
#[derive(Debug, Clone, Copy)]
struct Talk {
    seed: u64,
    id: u64,
    /// Bytes from the client and from the server.
    lengths: [u64; 2],
    habits: [Habits; 2],
    /// This end (0 = client) sends only when it has received everything.
    answers: [bool; 2],
}

impl Talk {
    fn random(seed: u64, id: u64, longest: u64) -> Self {
        let mut random = Random::new(seed << 32 | id);
        let habits = [Habits::random(&mut random), Habits::random(&mut random)];
        let [(says, hears), (answers, listens)] = habits.map(|habits| habits.limits(longest));
        Self {
            seed,
            id,
            lengths: [random.below(says.min(listens)), random.below(answers.min(hears))],
            habits,
            answers: [false, random.chance(200)],
        }
    }

    fn payload(&self, direction: Direction) -> Payload {
        Payload { seed: self.seed, id: self.id, direction }
    }

    /// What one end does: both directions at once, or one after the other.
    fn play(&self, stream: &TcpStream, end: usize) -> Result<[Half; 2], String> {
        let (out, into) = match end {
            0 => (self.payload(Direction::Sent), self.payload(Direction::Rcvd)),
            _ => (self.payload(Direction::Rcvd), self.payload(Direction::Sent)),
        };
        let habits = self.habits[end];
        let speak = || {
            let mut sent = send(stream, out, self.lengths[end], habits)?;
            match stream.shutdown(Shutdown::Write) {
                // It does not say which.
                Err(e) if is_reset(&e) && sent.end == End::Clean => sent.end = End::Broken,
                Err(e) if is_reset(&e) => {}
                result => result.map_err(|e| format!("{out:?}: half-close: {e}"))?,
            }
            Ok::<_, String>(sent)
        };
        if self.answers[end] {
            let received = receive(stream, into, habits)?;
            return Ok([speak()?, received]);
        }
        std::thread::scope(|scope| {
            let speaker = scope.spawn(speak);
            let mut received = receive(stream, into, habits)?;
            let sent = speaker.join().map_err(|_| "the sender panicked".to_owned())??;
            // One of the two calls takes the error away from the other.
            if sent.end == End::Reset {
                received.end = End::Reset;
            }
            Ok([sent, received])
        })
    }
}

/// What the server's end says of a connection.
type Report = (u64, Result<[Half; 2], String>);

/// A server that plays its part of whatever talk a client announces.
fn player(talks: Vec<Talk>) -> (Server, Receiver<Report>) {
    let (tell, told) = channel();
    let server = Server::with(move |mut stream, _| {
        let mut head = [0; HEAD as usize];
        let id = stream.read_exact(&mut head).map(|()| u64::from_le_bytes(head)).unwrap_or(u64::MAX);
        let result = match talks.iter().find(|talk| talk.id == id) {
            Some(talk) => {
                talk.habits[1].apply(&stream);
                talk.play(&stream, 1)
            }
            None => Err(format!("nobody has number {id}")),
        };
        // Only a test that failed already does not listen.
        let _ = tell.send((id, result));
    });
    (server, told)
}

/// Plays all talks at once and compares both ends of each with each other, and the counters with the sum.
#[track_caller]
fn play_all(instance: &Instance, told: &Receiver<Report>, talks: &[Talk]) {
    let before = instance.show().swap_remove(0);
    let at_client: Vec<_> = std::thread::scope(|scope| {
        let players: Vec<_> = talks
            .iter()
            .map(|talk| scope.spawn(|| talk.play(&announce(instance.addr, talk.id, &talk.habits[0]), 0)))
            .collect();
        players.into_iter().map(|player| player.join().expect("a player")).collect()
    });
    let mut at_server: Vec<_> = talks
        .iter()
        .map(|_| told.recv_timeout(DEADLINE).expect("the server tells of every connection"))
        .collect();
    at_server.sort_by_key(|(id, _)| *id);
    let mut sums = [0, 0];
    for ((talk, client), (_, server)) in talks.iter().zip(at_client).zip(at_server) {
        let (client, server) = match (client, server) {
            (Ok(client), Ok(server)) => (client, server),
            (client, server) => panic!("{talk:?}\nclient: {client:?}\nserver: {server:?}"),
        };
        let [sent, received] = client;
        let [answered, heard] = server;
        assert_eq!((sent.bytes, answered.bytes), (talk.lengths[0], talk.lengths[1]), "{talk:?}");
        assert_eq!(sent, heard, "client to server, {talk:?}");
        assert_eq!(answered, received, "server to client, {talk:?}");
        sums = [sums[0] + HEAD + sent.bytes, sums[1] + answered.bytes];
    }
    let rows = instance.await_show("all connections ended", |rows| rows[0].c == 0);
    assert_eq!([rows[0].sent - before.sent, rows[0].rcvd - before.rcvd], sums, "counters");
    assert_eq!(rows[0].totalc - before.totalc, talks.len() as u64, "connections counted");
}

#[test]
fn random_chunks_both_ways_with_tiny_buffers_and_pauses_stay_exact() {
    let seed = seed();
    let talks: Vec<_> = (0..40).map(|id| Talk::random(seed, id, 6 << 20)).collect();
    let (server, told) = player(talks.clone());
    let instance = Instance::before(&[&server]);
    play_all(&instance, &told, &talks);
    instance.end();
}

#[test]
fn two_hundred_connections_at_once_stay_exact() {
    let seed = seed() + 1;
    let talks: Vec<_> = (0..200).map(|id| Talk::random(seed, id, 400_000)).collect();
    let (server, told) = player(talks.clone());
    let instance = Instance::before(&[&server]);
    play_all(&instance, &told, &talks);
    instance.end();
}

#[test]
fn without_descriptors_for_pipes_everything_still_arrives() {
    let seed = seed() + 2;
    // Enough that a reader who takes its time lets the buffers run full: then short writes meet copies.
    let habits = Habits { receive_buffer: 60_000, pauses: 100, longest: 3, ..Habits::PLAIN };
    let talks: Vec<_> = (0..8)
        .map(|id| Talk { lengths: [4 << 20, 9 << 20], habits: [habits; 2], ..Talk::random(seed, id, 1) })
        .collect();
    // From hardly any connection at a time, over connections without pipes, to pipes for some.
    for limit in [26, 40, 64] {
        let (server, told) = player(talks.clone());
        let instance =
            Setup::new().shell(&format!("ulimit -n {limit};")).start(["PORT", &server.to_string()]);
        play_all(&instance, &told, &talks);
        instance.end();
    }
}

#[test]
fn a_half_close_in_any_state_ends_one_direction_and_only_after_its_data() {
    let seed = seed() + 3;
    let lengths = [0, 1, 1000, 65_536, 65_537, 200_001, 1 << 20, 3_000_000];
    let mut talks = Vec::new();
    for client in lengths {
        for server in lengths {
            // Who waits for the other's end, and with which buffers: as it comes, but each combination once.
            for answers in [[false, false], [true, false], [false, true]] {
                let id = talks.len() as u64;
                let mut random = Random::new(seed << 32 | id);
                let habits = [(); 2].map(|()| {
                    let (receive_buffer, send_buffer) =
                        [(0, 0), (0, 4608), (60_000, 0)][random.below(3) as usize];
                    Habits { seed: random.next(), receive_buffer, send_buffer, ..Habits::PLAIN }
                });
                talks.push(Talk { seed, id, lengths: [client, server], habits, answers });
            }
        }
    }
    let (server, told) = player(talks.clone());
    let instance = Instance::before(&[&server]);
    for some in talks.chunks(24) {
        play_all(&instance, &told, some);
    }
    instance.end();
}

#[test]
fn a_reader_that_stops_for_seconds_holds_up_its_own_direction_only() {
    let seed = seed() + 4;
    let length = 24 << 20;
    let (server, told) = {
        let talk =
            Talk { lengths: [1 << 20, length], habits: [Habits::PLAIN; 2], ..Talk::random(seed, 0, 1) };
        player(vec![Talk { answers: [false; 2], ..talk }])
    };
    let instance = Instance::before(&[&server]);
    let stream = announce(instance.addr, 0, &Habits { receive_buffer: 60_000, ..Habits::PLAIN });
    let payload = |direction| Payload { seed, id: 0, direction };
    // The other direction passes while nobody reads this one.
    let sent =
        send(&stream, payload(Direction::Sent), 1 << 20, Habits::PLAIN).expect("the way to the server");
    stream.shutdown(Shutdown::Write).expect("half-close");
    instance.await_show("the server has it all", |rows| rows[0].sent == HEAD + sent.bytes);
    // Nothing can move: it must sleep, and what it keeps is bounded.
    instance.assert_idle();
    std::thread::sleep(Duration::from_secs(2));
    instance.assert_idle();
    let stuck = instance.show().swap_remove(0);
    assert!(stuck.rcvd < length, "nobody reads, and all is gone: {stuck:?}");
    let received = receive(&stream, payload(Direction::Rcvd), Habits::PLAIN).expect("the way back");
    let (_, server_end) = told.recv_timeout(DEADLINE).expect("the server tells");
    let [answered, heard] = server_end.expect("the server's end");
    assert_eq!((sent, answered.clone()), (heard, received));
    assert_eq!(answered.bytes, length);
    drop(stream);
    instance.end();
}

/// One end sends so many bytes and resets; the other reads slowly, and sends all the while if `busy`.
#[derive(Debug, Clone, Copy)]
struct Break {
    id: u64,
    length: u64,
    by_client: bool,
    busy: bool,
    /// The other end begins to read only after the reset.
    late: bool,
    seed: u64,
}

impl Break {
    /// Who breaks: comes back when it is done.
    fn act(&self, stream: TcpStream, direction: Direction, broken: &AtomicBool) -> Result<Half, String> {
        let payload = Payload { seed: self.seed, id: self.id, direction };
        let sent = send(&stream, payload, self.length, Habits::PLAIN)?;
        await_acknowledged(&stream);
        Client(stream).rst();
        broken.store(true, Ordering::SeqCst);
        Ok(sent)
    }

    /// Who is left: what it hears.
    fn suffer(&self, stream: &TcpStream, direction: Direction, broken: &AtomicBool) -> Result<Half, String> {
        let payload = Payload { seed: self.seed, id: self.id, direction };
        let other = match direction {
            Direction::Sent => Direction::Rcvd,
            Direction::Rcvd => Direction::Sent,
        };
        std::thread::scope(|scope| {
            let writer = self.busy.then(|| {
                scope.spawn(|| {
                    send(stream, Payload { direction: other, ..payload }, u64::MAX / 2, Habits::PLAIN)
                })
            });
            if self.late {
                eventually("the other end broke", || broken.load(Ordering::SeqCst).then_some(()));
            }
            let mut heard = receive(stream, payload, Habits { pauses: 100, longest: 2, ..Habits::PLAIN })?;
            if let Some(writer) = writer {
                let written = writer.join().map_err(|_| "the writer panicked".to_owned())??;
                // One of the two calls takes the error away from the other.
                if written.end == End::Reset {
                    heard.end = End::Reset;
                }
            }
            Ok(heard)
        })
    }
}

#[test]
fn a_reset_in_any_state_arrives_as_one_and_after_all_that_was_delivered() {
    let seed = seed() + 5;
    for length in [0, 1, 1000, 50_000, 1 << 20, 3_000_001] {
        for case in 0..8 {
            let (by_client, busy, late) = (case & 1 > 0, case & 2 > 0, case & 4 > 0);
            // Without a reader no more gets away than the buffers hold.
            let length = if late { length.min(60_000) } else { length };
            let play = Break { id: case, length, by_client, busy, late, seed };
            let broken = Arc::new(AtomicBool::new(false));
            let begun = Arc::new(AtomicBool::new(false));
            let (tell, told) = channel();
            let server = Server::with({
                let (broken, begun) = (Arc::clone(&broken), Arc::clone(&begun));
                move |mut stream, _| {
                    let head = stream.read_exact(&mut [0; HEAD as usize]).map_err(|e| e.to_string());
                    begun.store(true, Ordering::SeqCst);
                    let half = head.and_then(|()| {
                        if play.by_client {
                            play.suffer(&stream, Direction::Sent, &broken)
                        } else {
                            play.act(stream, Direction::Rcvd, &broken)
                        }
                    });
                    let _ = tell.send(half);
                }
            });
            let instance = Instance::before(&[&server]);
            let stream = announce(instance.addr, play.id, &Habits::PLAIN);
            // A reset while the channel is still being dialled is not what this is about.
            eventually("the server is reached", || begun.load(Ordering::SeqCst).then_some(()));
            let at_client = if play.by_client {
                play.act(stream, Direction::Sent, &broken)
            } else {
                play.suffer(&stream, Direction::Rcvd, &broken)
            };
            let at_server = told.recv_timeout(DEADLINE).expect("the server tells");
            let (actor, victim) = if by_client { (at_client, at_server) } else { (at_server, at_client) };
            let (actor, victim) = match (actor, victim) {
                (Ok(actor), Ok(victim)) => (actor, victim),
                (actor, victim) => panic!("{play:?}\nbreaks: {actor:?}\nis left: {victim:?}"),
            };
            assert_eq!(actor.bytes, length, "{play:?}");
            assert_eq!(victim, Half { end: End::Reset, ..actor }, "{play:?}");
            instance.await_show("it is over", |rows| rows[0].c == 0);
            instance.terminate();
        }
    }
}

/// What a server does behind its last byte.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Afterwards {
    Stays,
    Closes,
    Resets,
}

#[test]
fn a_reader_that_is_slow_is_not_idle_whatever_the_server_does() {
    unless_held_up(200, || {
        let seed = seed() + 6;
        let payload = Payload { seed, id: 0, direction: Direction::Rcvd };
        // More than fits into what is between the two, or as much as does.
        for (afterwards, length) in
            [(Afterwards::Stays, 12 << 20), (Afterwards::Closes, 700_000), (Afterwards::Resets, 700_000)]
        {
            let server = Server::with(move |stream, _| {
                let _ = send(&stream, payload, length, Habits::PLAIN);
                match afterwards {
                    Afterwards::Stays => drop((&stream).read(&mut [0])),
                    Afterwards::Closes => {}
                    Afterwards::Resets => {
                        await_acknowledged(&stream);
                        Client(stream).rst();
                    }
                }
            });
            let timeouts = ["-T1", "--half-close-timeout", "1s"];
            let instance = Instance::start(timeouts.into_iter().chain(["PORT", &server.to_string()]));
            let mut client = Client::connect_narrow(instance.addr);
            // 80 kB/s for several times the timeout, never a quarter of a second without.
            let begin = Instant::now();
            let mut at = 0;
            while begin.elapsed() < Duration::from_millis(4500) {
                let bytes = client.recv(4000);
                payload.check(at, &bytes).unwrap_or_else(|e| panic!("{afterwards:?}: {e}"));
                at += 4000;
                std::thread::sleep(Duration::from_millis(50));
            }
            let mut rest = Vec::new();
            let end = client.0.read_to_end(&mut rest);
            payload.check(at, &rest).unwrap_or_else(|e| panic!("{afterwards:?}: {e}"));
            assert_eq!(at + rest.len() as u64, length, "{afterwards:?}, {end:?}");
            // One that stays is quiet in the end.
            assert_eq!(end.is_err(), afterwards == Afterwards::Resets, "{afterwards:?}, {end:?}");
            drop(client);
            instance.end();
        }
    });
}

#[test]
fn a_reader_that_takes_nothing_is_idle_however_often_its_kernel_answers() {
    let payload = Payload { seed: seed() + 7, id: 0, direction: Direction::Rcvd };
    let server = Server::with(move |stream, _| {
        let _ = send(&stream, payload, 64 << 20, Habits::PLAIN);
    });
    let instance = Instance::before(&[&"-T1", &server]);
    let stream = announce(instance.addr, 0, &Habits { receive_buffer: 8192, ..Habits::PLAIN });
    // The kernels ask and answer all the while whether there is room.
    instance.await_show("it is idle", |rows| rows[0].totalc == 1 && rows[0].c == 0);
    assert_eq!(receive(&stream, payload, Habits::PLAIN).map(|half| half.end), Ok(End::Reset));
    instance.end();
}

//! Connections that go from one data plane to another: two of them in one process, as if in two processes.
//!
//! What messages do between processes is done by hand here. Everything else is the same: other descriptors of
//! the same sockets, another poller, another table.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use balance::handover::connection::StageRecord;
use balance::net::server::{Options, Running, Server as Plane};
use balance::net::{Arriving, Changed, Departing, Left, NewService, ServiceOptions};
use balance::observe::Log;
use balance::sched::{Addresses, AdminState, ChannelKey, GroupId, Rules, SharedTable, Table};
use balance::spec::ProxyTlvs;
use balance::sys::listen::Listener;
use balance::sys::{Clock, Outgoing};

use crate::harness::{
    BlackHole, Client, DEADLINE, Direction, Over, Received, Refusing, Server, Stream, eventually, pause,
    unless_held_up,
};

/// A data plane with one service.
struct Half {
    plane: Plane,
    running: Running,
    table: SharedTable,
}

fn options() -> ServiceOptions {
    ServiceOptions {
        outgoing: Outgoing::default(),
        connect_timeout: Duration::from_secs(5),
        race: None,
        first_byte: None,
        idle_timeout: None,
        half_close_timeout: None,
        max_lifetime: None,
        queue_timeout: DEADLINE,
        pause_timeout: DEADLINE,
        max_connections: None,
        accept_proxy: None,
        starttls: None,
        routes: None,
        greeting_timeout: Duration::from_secs(3),
        proxy_tlvs: ProxyTlvs::default(),
    }
}

/// Who may have how many connections at a time.
type Channels<'a> = &'a [(SocketAddr, Option<u32>)];

const RULES: Rules = Rules { shards: 2, queue: NonZeroU32::new(100), ..Rules::CLASSIC };

impl Half {
    fn new(listener: Listener, channels: Channels<'_>, options: ServiceOptions) -> Self {
        let mut table = Table::new(RULES);
        for &(address, maxc) in channels {
            let maxc = maxc.and_then(NonZeroU32::new);
            let added = table.create(GroupId::FIRST, Addresses::from(address), maxc, AdminState::Enabled);
            added.expect("few channels");
        }
        Self::of(listener, table, options)
    }

    /// The one that comes after another.
    fn after(&self, listener: Listener, options: ServiceOptions) -> Self {
        let record = self.table.lock().record();
        let table = Table::restore(RULES, &record, Duration::ZERO).expect("a record of a table");
        Self::of(listener, table, options)
    }

    fn of(listener: Listener, table: Table, options: ServiceOptions) -> Self {
        let table = SharedTable::new(table);
        let log = Log::stderr(false);
        let plane = Plane::start(
            Clock::start(),
            &log,
            Options {
                workers: 2,
                busy_poll: false,
                loopback_congestion: None,
                seed: 1,
                dump: None,
                descriptor_limit: 20_000,
                access: None,
                own_descriptors: 100,
                first_id: 0,
            },
            || (),
        );
        let plane = plane.expect("descriptors and threads");
        let service = NewService {
            listeners: vec![listener],
            table: table.clone(),
            log,
            options,
            changed: Changed::new(|| ()),
        };
        let running = plane.open(vec![service]).expect("it can be watched").remove(0);
        Self { plane, running, table }
    }

    /// Two that share a listener; the second one's doors are held.
    fn pair(channels: Channels<'_>, options: &ServiceOptions) -> ([Self; 2], SocketAddr) {
        let first = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), None).expect("a free port");
        let address = first.address().net().expect("TCP");
        let second = Listener::inherit(duplicate(first.as_fd()), None).expect("it listens");
        let halves = [first, second].map(|listener| Self::new(listener, channels, options.clone()));
        assert!(halves[1].plane.hold_doors());
        (halves, address)
    }

    /// The slot of a connection that has not come yet.
    fn hold(&self) -> impl Sized + use<> {
        let key = ChannelKey::new(0, 0).expect("small");
        self.table.lock().hold(key, 1).expect("it exists")
    }

    /// What another process would make of it.
    fn arriving(&self, departing: &Departing) -> Arriving {
        let mut descriptors = departing.descriptors().map(duplicate);
        let slot = match &departing.record().stage {
            StageRecord::Relaying(relaying) => {
                let key = ChannelKey::new(relaying.group, relaying.channel).expect("small");
                self.table.lock().slot(key)
            }
            StageRecord::Greeting | StageRecord::Unheard(_) | StageRecord::Waiting(_) => None,
        };
        let arriving = Arriving {
            record: departing.record().clone(),
            bytes: departing.bytes().to_vec(),
            client: descriptors.next().expect("a client"),
            server: descriptors.next(),
            service: self.running.id(),
            slot,
            taken: self.plane.admits(1).expect("enough descriptors").remove(0),
        };
        arriving.check().expect("it makes sense");
        arriving
    }

    /// Everybody goes, in batches of so many.
    fn hand_all_to(&self, other: &Self, batch: usize) -> Carried {
        assert!(self.plane.hold_doors());
        other.plane.number_above(self.plane.next_id());
        let mut carried = Carried::default();
        eventually("everybody to go", || {
            loop {
                let departing = self.plane.pack(batch);
                if departing.is_empty() {
                    break;
                }
                let arriving = departing.iter().map(|one| {
                    carried.add(one);
                    other.arriving(one)
                });
                let arriving: Vec<Arriving> = arriving.collect();
                drop(departing);
                other.plane.arrive(arriving).expect("they were looked at");
            }
            (self.plane.left() == Left::default()).then_some(())
        });
        other.plane.release_doors();
        carried
    }

    /// Nobody is left, and nothing is counted.
    fn assert_empty(&self) {
        eventually("an empty half", || {
            let active = self.table.lock().active();
            let waiting = self.table.lock().waiting();
            ((active, waiting, self.plane.connections()) == (0, 0, 0)).then_some(())
        });
    }
}

/// What was carried.
#[derive(Debug, Default)]
struct Carried {
    connections: usize,
    bytes: usize,
    most_bytes: usize,
    waiting: Vec<u64>,
    greeting: usize,
}

impl Carried {
    fn add(&mut self, one: &Departing) {
        self.connections += 1;
        self.bytes += one.bytes().len();
        self.most_bytes = self.most_bytes.max(one.bytes().len());
        match &one.record().stage {
            StageRecord::Waiting(waiting) => self.waiting.push(waiting.ticket),
            StageRecord::Greeting | StageRecord::Unheard(_) => self.greeting += 1,
            StageRecord::Relaying(_) => {}
        }
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> OwnedFd {
    fd.try_clone_to_owned().expect("a descriptor")
}

/// Takes connections and keeps them.
struct Host {
    address: SocketAddr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Host {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        // A queue that overflows makes the system forget connections whose client says nothing (SYN cookies).
        rustix::net::listen(&listener, 4096).expect("it listens");
        let address = listener.local_addr().expect("it is bound");
        let streams: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let all = Arc::clone(&streams);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                all.lock().expect("nobody panics").push(stream);
            }
        });
        Self { address, streams }
    }

    fn count(&self) -> usize {
        self.streams.lock().expect("nobody panics").len()
    }

    /// The server's end of a client's connection: the only one that has got this word.
    fn end_of(&self, client: &mut Client, word: &str) -> Client {
        client.send(word);
        eventually("the word of a client", || {
            let mut streams = self.streams.lock().expect("nobody panics");
            let at = streams.iter().position(|stream| {
                stream.set_nonblocking(true).expect("an option");
                let mut seen = vec![0; word.len()];
                let got = stream.peek(&mut seen);
                stream.set_nonblocking(false).expect("an option");
                matches!(got, Ok(n) if n == word.len()) && seen == word.as_bytes()
            })?;
            let mut end = Client::of(streams.remove(at));
            end.recv(word.len());
            Some(end)
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The thread that takes connections goes with the test.
        if let Ok(mut streams) = self.streams.lock() {
            streams.clear();
        }
    }
}

const MIB: u64 = 1 << 20;

#[test]
fn streams_in_both_directions_go_on_through_many_hand_overs() {
    let echo = Server::echo();
    let (halves, address) = Half::pair(&[(echo.addr, None)], &options());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&is_over);
        let clients: Vec<_> = (0..6_u64)
            .map(|number| {
                scope.spawn(move || {
                    let stream = Stream::new(number, Direction::Sent);
                    let client = Client::connect(address);
                    let length = 3 * MIB + number * 1_001;
                    let mut writer = Client::of(client.0.try_clone().expect("a descriptor"));
                    std::thread::scope(|scope| {
                        scope.spawn(move || {
                            writer.send_stream(stream, length);
                            writer.shut_wr();
                        });
                        let mut reader = client;
                        reader.recv_stream(stream, length);
                        assert_eq!(reader.ending(), Received::End);
                    });
                })
            })
            .collect();
        let is_over = &is_over;
        let halves = &halves;
        let mover = scope.spawn(move || {
            let (mut rounds, mut bytes) = (0_usize, 0);
            while !is_over.load(Ordering::SeqCst) || rounds < 2 {
                let (from, to) = (&halves[rounds % 2], &halves[(rounds + 1) % 2]);
                bytes += from.hand_all_to(to, 3).bytes;
                rounds += 1;
            }
            println!("{rounds} hand-overs with {bytes} bytes");
        });
        let failed = clients.into_iter().map(|client| client.join()).filter(Result::is_err).count();
        is_over.store(true, Ordering::SeqCst);
        mover.join().expect("it can be handed over");
        assert_eq!(failed, 0);
    });
    halves.iter().for_each(Half::assert_empty);
}

#[test]
fn what_waits_for_a_slow_reader_goes_with_its_connection() {
    let host = Host::new();
    let (halves, address) = Half::pair(&[(host.address, None)], &options());
    let mut ends = Vec::new();
    for number in 0..4_u64 {
        let mut client = Client::connect_narrow(address);
        let server = host.end_of(&mut client, &format!("client {number}"));
        ends.push([client, server]);
    }
    let length = 24 * MIB;
    std::thread::scope(|scope| {
        let mut readers = Vec::new();
        let mut writers = Vec::new();
        for (number, [client, server]) in ends.into_iter().enumerate() {
            let stream = Stream::new(number as u64, Direction::Rcvd);
            // Half of them the other way round.
            let (reader, mut writer) = if number % 2 == 0 { (client, server) } else { (server, client) };
            readers.push((reader, stream));
            writers.push(scope.spawn(move || {
                writer.send_stream(stream, length);
                writer.shut_wr();
                writer
            }));
        }
        // Bytes move until nobody takes any more, and then everybody has some.
        eventually("full pipes", || {
            let moved = || {
                halves[0]
                    .running
                    .sessions(None)
                    .iter()
                    .map(|one| one.sent_bytes + one.rcvd_bytes)
                    .sum::<u64>()
            };
            let before = moved();
            (0..100).for_each(|_| pause());
            (before > 0 && moved() == before).then_some(())
        });
        for round in 0..5 {
            let carried = halves[round % 2].hand_all_to(&halves[(round + 1) % 2], 1);
            println!("{carried:?}");
            assert_eq!(carried.connections, 4);
            assert!(carried.bytes > 0, "somebody holds something");
        }
        for (reader, stream) in &mut readers {
            reader.recv_stream(*stream, length);
            assert_eq!(reader.ending(), Received::End);
        }
        for writer in writers {
            writer.join().expect("all is taken");
        }
    });
    drop(host);
}

#[test]
fn a_half_closed_connection_goes_on_in_each_of_its_stages() {
    let host = Host::new();
    let (halves, address) = Half::pair(&[(host.address, None)], &options());
    for round in 0..4_u64 {
        let (from, to) = (&halves[round as usize % 2], &halves[(round as usize + 1) % 2]);
        let mut client = Client::connect(address);
        let mut server = host.end_of(&mut client, &format!("round {round}"));
        let is_clients = round % 2 == 0;
        let (first, second) =
            if is_clients { (&mut client, &mut server) } else { (&mut server, &mut client) };
        let stream = Stream::new(round, Direction::Sent);
        if round < 2 {
            // The end was passed on before.
            first.send("all there is");
            first.shut_wr();
            assert_eq!(second.recv_all(), b"all there is");
            from.hand_all_to(to, 10);
            second.send_stream(stream, 100_000);
            second.shut_wr();
            first.recv_stream(stream, 100_000);
            assert_eq!(first.ending(), Received::End);
        } else {
            // Bytes and an end wait behind a reader that does not read.
            std::thread::scope(|scope| {
                let length = 16 * MIB;
                let mut writer = Client::of(first.0.try_clone().expect("a descriptor"));
                let written = scope.spawn(move || {
                    writer.send_stream(stream, length);
                    writer.shut_wr();
                });
                eventually("something that waits", || {
                    from.running
                        .sessions(None)
                        .first()
                        .filter(|one| one.sent_bytes + one.rcvd_bytes > MIB)
                        .map(|_| ())
                });
                from.hand_all_to(to, 10);
                second.recv_stream(stream, length);
                written.join().expect("all is taken");
                // Here is its end, and nothing else.
                to.hand_all_to(from, 10);
                from.hand_all_to(to, 10);
                assert_eq!(second.recv_all(), b"");
                second.send("and the answer");
                second.shut_wr();
                assert_eq!(first.recv_all(), b"and the answer");
            });
        }
        halves.iter().for_each(Half::assert_empty);
    }
}

#[test]
fn ages_counters_and_limits_go_on() {
    unless_held_up(300, || {
        let host = Host::new();
        let options = ServiceOptions {
            idle_timeout: Some(Duration::from_secs(5)),
            max_lifetime: Some(Duration::from_secs(3_600)),
            ..options()
        };
        let (halves, address) = Half::pair(&[(host.address, None)], &options);
        let mut client = Client::connect(address);
        let mut server = host.end_of(&mut client, "hello");
        server.send("yes");
        client.recv(3);
        let before = eventually("bytes", || {
            halves[0].running.sessions(None).into_iter().find(|one| one.rcvd_bytes == 3)
        });
        halves[0].plane.hold_doors();
        let departing = halves[0].plane.pack(10);
        let record = departing[0].record().clone();
        let expires_in = record.expires_in.expect("it does not live for ever");
        assert!(expires_in > Duration::from_secs(3_000) && expires_in < Duration::from_secs(4_000));
        assert_eq!(
            (record.delivered, record.id, Some(record.client.into())),
            ([3, 5], before.id, before.client)
        );
        assert_eq!(Some(record.client), client.0.local_addr().ok().map(Into::into));
        let arriving = departing.iter().map(|one| halves[1].arriving(one)).collect();
        drop(departing);
        halves[1].plane.arrive(arriving).expect("it makes sense");
        let after = eventually("the session", || halves[1].running.sessions(None).pop());
        assert_eq!((after.id, after.sent_bytes, after.rcvd_bytes), (before.id, 5, 3));
        let counted = |half: &Half| {
            let snapshot = half.table.lock().snapshot();
            let channel = &snapshot.groups[0].channels[0];
            (channel.sent_bytes, channel.rcvd_bytes)
        };
        assert_eq!((counted(&halves[0]), counted(&halves[1])), ((5, 3), (0, 0)), "where they moved");
        // It was idle for a while there, and is here.
        assert_eq!(client.recv_all(), b"");
        halves.iter().for_each(Half::assert_empty);
    });
}

#[test]
fn whoever_waits_in_line_is_served_in_order_elsewhere() {
    let host = Host::new();
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), None).expect("a free port");
    let address = listener.address().net().expect("TCP");
    let another = Listener::inherit(duplicate(listener.as_fd()), None).expect("it listens");
    let first = Half::new(listener, &[(host.address, Some(1))], options());
    let mut connected = Client::connect(address);
    let end = host.end_of(&mut connected, "the first");
    let mut waiting: Vec<Client> = Vec::new();
    for number in 0..7 {
        waiting.push(Client::connect(address));
        eventually("a place in line", || (first.table.lock().waiting() == number + 1).then_some(()));
    }
    let second = first.after(another, options());
    second.plane.hold_doors();
    // As long as the connection is not there, its slot is kept for it.
    let kept = second.hold();
    first.plane.hold_doors();
    second.plane.number_above(first.plane.next_id());
    let line = first.plane.pack(3);
    assert_eq!(line.len(), 3);
    let line: Vec<Departing> = line.into_iter().chain(first.plane.pack(4)).collect();
    let tickets: Vec<u64> = line
        .iter()
        .map(|one| match &one.record().stage {
            StageRecord::Waiting(waiting) => waiting.ticket,
            stage => panic!("{stage:?} goes before those in line"),
        })
        .collect();
    assert!(tickets.is_sorted() && tickets.len() == 7, "{tickets:?}");
    assert_eq!(first.table.lock().waiting(), 0);
    // In whatever order they come.
    for one in line.iter().rev() {
        second.plane.arrive(vec![second.arriving(one)]).expect("it makes sense");
    }
    drop(line);
    eventually("the line", || (second.table.lock().waiting() == 7).then_some(()));
    let last = first.plane.pack(10).remove(0);
    drop(kept);
    second.plane.arrive(vec![second.arriving(&last)]).expect("it makes sense");
    drop((last, end, connected));
    for (number, client) in waiting.iter_mut().enumerate() {
        eventually("the next one", || (host.count() == 1).then_some(()));
        assert_eq!(second.table.lock().waiting(), 6 - number, "one at a time");
        // It is the one whose turn it is.
        let end = host.end_of(client, &format!("number {number}"));
        client.0.shutdown(Shutdown::Both).expect("it is open");
        drop(end);
    }
    first.assert_empty();
    second.assert_empty();
}

#[test]
fn a_dial_under_way_goes_on_or_its_client_goes_without_a_channel() {
    let host = Host::new();
    let hole = BlackHole::new();
    let options = ServiceOptions { connect_timeout: Duration::from_secs(3), ..options() };
    let first = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), None).expect("a free port");
    let second = Listener::inherit(duplicate(first.as_fd()), None).expect("it listens");
    let address = first.address().net().expect("TCP");
    let other = Refusing::new();
    let first = Half::new(first, &[(hole.addr(), None), (other.addr(), None)], options.clone());
    let second = Half::new(second, &[(host.address, None)], options);
    second.plane.hold_doors();
    let mut client = Client::connect(address);
    eventually("a dial", || (first.plane.left().dialing == 1).then_some(()));
    let carried = first.hand_all_to(&second, 10);
    assert_eq!((carried.connections, carried.greeting), (1, 1), "{carried:?}");
    let mut end = host.end_of(&mut client, "served there");
    end.send("yes");
    assert_eq!(client.recv(3), b"yes");
    first.assert_empty();
    let failed: Vec<u64> =
        first.table.lock().snapshot().groups[0].channels.iter().map(|channel| channel.failed).collect();
    assert_eq!(failed, [1, 0], "the one that it was dialled to, and no other");
}

#[test]
fn clients_that_were_kept_back_are_served_here_if_nobody_leaves_after_all() {
    let host = Host::new();
    let hole = BlackHole::new();
    let options = ServiceOptions { connect_timeout: Duration::from_secs(3), ..options() };
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), None).expect("a free port");
    let address = listener.address().net().expect("TCP");
    let half = Half::new(listener, &[(hole.addr(), None), (host.address, None)], options);
    let mut first = Client::connect(address);
    eventually("a dial", || (half.plane.left().dialing == 1).then_some(()));
    half.plane.hold_doors();
    // It is in the kernel's queue: nobody lets it in.
    let mut second = Client::connect(address);
    eventually("a dial that failed", || (half.plane.left() == Left { dialing: 0, others: 1 }).then_some(()));
    assert_eq!((half.plane.connections(), host.count()), (1, 0));
    let departing = half.plane.pack(10);
    assert_eq!((departing.len(), half.plane.left()), (1, Left::default()));
    half.plane.take_back(departing);
    assert_eq!(half.plane.left(), Left { dialing: 0, others: 1 });
    half.plane.release_doors();
    for (client, word) in [(&mut first, "first"), (&mut second, "second")] {
        let mut end = host.end_of(client, word);
        end.send("yes");
        assert_eq!(client.recv(3), b"yes");
    }
}

#[test]
fn what_is_taken_back_loses_nothing() {
    let echo = Server::echo();
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), None).expect("a free port");
    let address = listener.address().net().expect("TCP");
    let half = Half::new(listener, &[(echo.addr, None)], options());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&is_over);
        let clients: Vec<_> = (0..5_u64)
            .map(|number| {
                scope.spawn(move || {
                    let stream = Stream::new(number, Direction::Sent);
                    let mut reader = Client::connect_narrow(address);
                    let mut writer = Client::of(reader.0.try_clone().expect("a descriptor"));
                    std::thread::scope(|scope| {
                        scope.spawn(move || {
                            writer.send_stream(stream, 2 * MIB);
                            writer.shut_wr();
                        });
                        reader.recv_stream(stream, 2 * MIB);
                        assert_eq!(reader.ending(), Received::End);
                    });
                })
            })
            .collect();
        let (half, is_over) = (&half, &is_over);
        let mover = scope.spawn(move || {
            let mut carried = Carried::default();
            for round in 0_usize.. {
                if is_over.load(Ordering::SeqCst) && round > 3 {
                    break;
                }
                let ids = |half: &Half| -> BTreeMap<u64, (u64, u64)> {
                    let sessions = half.running.sessions(None).into_iter();
                    sessions.map(|one| (one.id, (one.sent_bytes, one.rcvd_bytes))).collect()
                };
                half.plane.hold_doors();
                let some = half.plane.pack(1 + round % 3);
                let more = half.plane.pack(round % 4);
                some.iter().chain(&more).for_each(|one| carried.add(one));
                let here = ids(half);
                assert!(some.iter().all(|one| !here.contains_key(&one.record().id)));
                half.plane.take_back(more);
                half.plane.take_back(some);
                half.plane.release_doors();
            }
            println!("{carried:?}");
        });
        let failed = clients.into_iter().map(|client| client.join()).filter(Result::is_err).count();
        is_over.store(true, Ordering::SeqCst);
        mover.join().expect("it can be taken back");
        assert_eq!(failed, 0);
    });
    half.assert_empty();
}

#[test]
fn many_connections_go_there_and_back_and_nothing_is_left_behind() {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    // Both ends of both sockets, all of them twice for a moment, and other tests beside this one.
    let clients = if most > 16_000 { 2_000 } else { 100 };
    let host = Host::new();
    let (halves, address) = Half::pair(&[(host.address, None)], &options());
    let mut all: Vec<Client> = (0..clients).map(|_| Client::connect(address)).collect();
    eventually("all of them", || (host.count() == clients).then_some(()));
    eventually("nobody who is dialled", || (halves[0].plane.left().dialing == 0).then_some(()));
    let ids = |half: &Half| -> Vec<u64> { half.running.sessions(None).iter().map(|one| one.id).collect() };
    let mut before = ids(&halves[0]);
    before.sort_unstable();
    for round in 0..10 {
        for (from, to) in [(0, 1), (1, 0)] {
            let carried = halves[from].hand_all_to(&halves[to], 120);
            assert_eq!(carried.connections, clients, "round {round}");
            halves[from].assert_empty();
            // Whoever looks for a client counts it before it is there.
            eventually("all of them", || (halves[to].plane.connections() == clients).then_some(()));
            assert_eq!(halves[to].table.lock().active(), clients as u64);
        }
        let mut end = host.end_of(&mut all[round * 7], &format!("round {round}"));
        end.send("yes");
        assert_eq!(all[round * 7].recv(3), b"yes");
        end.0.write_all(b"more").expect("it is open");
        host.streams.lock().expect("nobody panics").push(end.0);
        let mut more = [0; 4];
        all[round * 7].0.read_exact(&mut more).expect("it comes");
    }
    let mut after = ids(&halves[0]);
    after.sort_unstable();
    assert_eq!(before, after, "they are called what they were");
    let mut newcomer = Client::connect(address);
    host.end_of(&mut newcomer, "one more");
    assert!(ids(&halves[0]).iter().max() > before.iter().max(), "its number is its own");
    drop((all, newcomer, host));
    halves.iter().for_each(Half::assert_empty);
}

#[test]
fn an_urgent_byte_behind_much_else_goes_with_its_connection() {
    let host = Host::new();
    let (halves, address) = Half::pair(&[(host.address, None)], &options());
    let mut client = Client::connect(address);
    let mut server = host.end_of(&mut client, "hello");
    let (stream, length) = (Stream::new(1, Direction::Sent), 9 * MIB);
    std::thread::scope(|scope| {
        let mut writer = Client::of(client.0.try_clone().expect("a descriptor"));
        let written = scope.spawn(move || {
            writer.send_stream(stream, length);
            writer.send_urgent(b'!');
            writer.send("and more");
        });
        for round in 0..6 {
            let (from, to) = (&halves[round % 2], &halves[(round + 1) % 2]);
            assert_eq!(from.hand_all_to(to, 10).connections, 1);
            stream.check(round as u64 * MIB, &server.recv(MIB as usize));
        }
        stream.check(6 * MIB, &server.recv(3 * MIB as usize));
        written.join().expect("all is taken");
    });
    halves[0].hand_all_to(&halves[1], 10);
    assert_eq!(server.recv_urgent(), b'!');
    assert_eq!(server.recv(8), b"and more");
}

#[test]
fn a_port_that_refuses_does_so_after_a_hand_over_that_came_to_nothing() {
    let host = Host::new();
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), None).expect("a free port");
    let address = listener.address().net().expect("TCP");
    let half = Half::new(listener, &[(host.address, None)], options());
    half.running.refuse().expect("on Linux it can be done");
    half.plane.hold_doors();
    half.plane.release_doors();
    Client::try_connect(address, None, None).expect_err("it refuses still");
    // What opens meanwhile is open afterwards, and not before.
    half.plane.hold_doors();
    half.running.admit().expect("it listens again");
    let mut client = Client::connect(address);
    assert_eq!(half.plane.left(), Left::default(), "whoever waits is for another process");
    half.plane.release_doors();
    let mut end = host.end_of(&mut client, "let in");
    end.send("yes");
    assert_eq!(client.recv(3), b"yes");
}

//! Tests of the engine with real sockets; `programs` has those with real programs.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, test_kill_process};

use super::super::order::Outcome;
use super::*;
use crate::spec::Step;
use crate::sys::{Outgoing, Sources};

mod programs;

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// A timeout that must not be reached.
const LONG: Duration = Duration::from_secs(20);
/// A timeout that is to be reached.
const SHORT: Duration = Duration::from_millis(250);

/// An engine and everything that it may use.
struct Lab {
    engine: Engine,
    budget: Arc<Budget>,
    outgoing: Outgoing,
    all: usize,
}

fn left(budget: &Arc<Budget>) -> usize {
    std::iter::from_fn(|| budget.take(1)).collect::<Vec<_>>().len()
}

impl Lab {
    fn new() -> Self {
        Self::with(Outgoing::default(), 2_000)
    }

    fn with(outgoing: Outgoing, descriptors: usize) -> Self {
        let budget = Budget::new(descriptors, 0);
        let all = left(&budget);
        Self { engine: Engine::new(Arc::clone(&budget)).expect("an engine"), budget, outgoing, all }
    }

    fn start(&mut self, id: u64, addresses: &[SocketAddr], check: Check, timeout: Duration) {
        let addresses = addresses.iter().copied().map(Into::into).collect();
        self.engine.start(Order {
            id,
            addresses,
            barred: Vec::new(),
            port: None,
            check: Arc::new(check),
            proxy: None,
            timeout,
            outgoing: self.outgoing.clone(),
        });
    }

    /// The outcomes of so many probes, by id.
    fn outcomes(&mut self, count: usize) -> Vec<(u64, Outcome)> {
        let until = Instant::now() + PATIENCE;
        let mut done = VecDeque::new();
        while done.len() < count {
            assert!(Instant::now() < until, "{} of {count} outcomes", done.len());
            self.engine.wait(Some(until), &mut done);
            assert!(self.engine.probes.len() <= PROBES && self.engine.lingering.len() <= LINGERING);
        }
        let mut done: Vec<_> = done.into_iter().map(|(id, findings)| (id, findings.outcome)).collect();
        done.sort_by_key(|&(id, _)| id);
        done
    }

    fn outcome(&mut self, addresses: &[SocketAddr], check: Check, timeout: Duration) -> Outcome {
        self.start(1, addresses, check, timeout);
        self.outcomes(1).remove(0).1
    }

    /// Lets the engine run until this holds; no probe comes to its end meanwhile.
    fn run_until(&mut self, mut holds: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        let mut done = VecDeque::new();
        while !holds(self) {
            assert!(Instant::now() < until, "it does not come to hold");
            self.engine.wait(Some(Instant::now() + Duration::from_millis(5)), &mut done);
        }
        assert_eq!(done, []);
    }

    fn has_all_back(&self) -> bool {
        left(&self.budget) == self.all
    }
}

fn down(cause: &str) -> Outcome {
    Outcome::Down(cause.into())
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// A server of one client.
fn serve<T: Send + 'static>(
    act: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let (listener, address) = listener();
    let server = thread::spawn(move || {
        let (client, _) = listener.accept().expect("a client");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        act(client)
    });
    (address, server)
}

/// A server that answers a request with this, in pieces of `size` bytes.
fn answering(answer: &[u8], size: usize) -> SocketAddr {
    let answer = answer.to_vec();
    let (address, _) = serve(move |mut client| {
        client.set_nodelay(true).expect("an option");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(client.read(&mut byte).expect("a request"), 1);
            request.push(byte[0]);
        }
        for piece in answer.chunks(size) {
            if client.write_all(piece).is_err() {
                break;
            }
        }
        let _ = io::copy(&mut client, &mut io::sink());
    });
    address
}

/// A port that is taken, so that nobody else gets it, and on which nobody listens.
struct Deaf {
    _socket: socket2::Socket,
    address: SocketAddr,
}

fn deaf() -> Deaf {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    let address = socket.local_addr().ok().and_then(|any| any.as_socket()).expect("it is bound");
    Deaf { _socket: socket, address }
}

/// A listener that answers nobody, since its queue is full.
struct BlackHole {
    _sockets: Vec<socket2::Socket>,
    address: SocketAddr,
}

fn black_hole() -> BlackHole {
    let Deaf { _socket: socket, address } = deaf();
    socket.listen(0).expect("listen");
    let mut sockets = vec![socket];
    loop {
        let client =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        // A connect that came back late has been answered all the same.
        let is_late = client.connect_timeout(&address.into(), Duration::from_millis(300)).is_err();
        let is_full = is_late && client.peer_addr().is_err();
        sockets.push(client);
        if is_full {
            return BlackHole { _sockets: sockets, address };
        }
        assert!(sockets.len() < 64, "the accept queue of a backlog of 0 takes too many");
    }
}

fn http(path: &str) -> Check {
    Check::Http { host: None, path: path.into(), statuses: vec![200..=299, 301..=301] }
}

fn send(text: &str) -> Step {
    Step::Send(text.into())
}

fn expect(text: &str) -> Step {
    Step::Expect(text.into())
}

#[test]
fn a_listener_is_up_and_a_dead_port_is_down() {
    let mut lab = Lab::new();
    let (_listener, alive) = listener();
    let dead = deaf();
    assert_eq!(lab.outcome(&[alive], Check::Tcp, LONG), Outcome::Up);
    assert_eq!(lab.outcome(&[dead.address], Check::Tcp, LONG), down("connect: connection refused"));
    // The next one may begin while its predecessor is still parting.
    assert_eq!(lab.outcome(&[alive], Check::Tcp, LONG), Outcome::Up);
}

#[test]
fn the_check_can_have_a_port_of_its_own() {
    let mut lab = Lab::new();
    let (_listener, alive) = listener();
    let dead = deaf();
    let addresses = vec![dead.address.into()];
    let check = Arc::new(Check::Tcp);
    lab.engine.start(Order {
        id: 1,
        addresses,
        barred: Vec::new(),
        port: Some(alive.port()),
        check,
        proxy: None,
        timeout: LONG,
        outgoing: Outgoing::default(),
    });
    assert_eq!(lab.outcomes(1), [(1, Outcome::Up)]);
}

#[test]
fn silence_is_down_at_the_timeout() {
    let mut lab = Lab::new();
    let hole = black_hole();
    let begin = Instant::now();
    assert_eq!(lab.outcome(&[hole.address], Check::Tcp, SHORT), down("no answer within 250ms"));
    assert!(begin.elapsed() >= SHORT);
    assert!(lab.has_all_back(), "what never stood has nothing to part from");
    let (_silent, address) = listener();
    let cause = down("http: no answer within 250ms");
    assert_eq!(lab.outcome(&[address], http("/"), SHORT), cause);
}

#[test]
fn one_address_of_many_is_enough() {
    let mut lab = Lab::new();
    let (_listener, alive) = listener();
    let (dead, hole) = (deaf(), black_hole());
    assert_eq!(lab.outcome(&[dead.address, alive], Check::Tcp, LONG), Outcome::Up);
    let all = [hole.address, dead.address, alive];
    assert_eq!(lab.outcome(&all, Check::Tcp, Duration::from_secs(3)), Outcome::Up);
    // The cause is the last one's.
    let none = [hole.address, dead.address];
    assert_eq!(lab.outcome(&none, Check::Tcp, 12 * SHORT), down("connect: connection refused"));
    let none = [dead.address, hole.address];
    assert_eq!(lab.outcome(&none, Check::Tcp, SHORT), down("no answer within 250ms"));
}

#[test]
fn a_bad_answer_of_one_address_leads_to_the_next() {
    let mut lab = Lab::new();
    let bad = answering(b"HTTP/1.1 503 Busy\r\n\r\n", 100);
    let good = answering(b"HTTP/1.0 200 OK\r\n\r\n", 100);
    assert_eq!(lab.outcome(&[bad, good], http("/"), LONG), Outcome::Up);
}

#[test]
fn what_was_said_before_a_reset_has_been_said() {
    let farewell = || vec![expect("220"), send("QUIT\r\n")];
    let request = || vec![send(&"PING\r\n".repeat(100)), expect("220")];
    let table: [(&str, Check, Outcome); 8] = [
        ("220 mail\r\n", Check::Dialogue(vec![expect("220")]), Outcome::Up),
        ("220 mail\r\n", Check::Dialogue(farewell()), Outcome::Up),
        ("220 mail\r\n", Check::Dialogue(request()), Outcome::Up),
        ("421 busy\r\n", Check::Dialogue(vec![expect("220")]), down("reset before \"220\" came")),
        ("421 busy\r\n", Check::Dialogue(vec![send("X")]), down("reset before \"X\" was sent")),
        ("HTTP/1.0 200 OK\r\n\r\n", http("/"), Outcome::Up),
        ("HTTP/1.0 503 No\r\n\r\n", http("/"), down("http: status 503")),
        ("", Check::Tcp, Outcome::Up),
    ];
    for (said, check, outcome) in table {
        let mut lab = Lab::new();
        let (listener, address) = listener();
        lab.start(1, &[address], check.clone(), LONG);
        // Both the answer and the reset are there before the engine looks.
        lab.engine.now = millis(lab.engine.epoch.elapsed());
        lab.engine.admit();
        let (mut client, _) = listener.accept().expect("the probe comes");
        client.write_all(said.as_bytes()).expect("it is taken");
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("an option");
        drop(client);
        assert_eq!(lab.outcomes(1), [(1, outcome)], "{said:?} to {check:?}");
    }
}

#[test]
fn what_came_while_the_engine_could_not_look_was_in_time() {
    let mut lab = Lab::new();
    let (listener, address) = listener();
    let steps = vec![expect("220"), send("X"), expect("250")];
    lab.start(1, &[address], Check::Dialogue(steps), 4 * SHORT);
    lab.engine.now = lab.engine.own_time();
    lab.engine.admit();
    let (mut client, _) = listener.accept().expect("the probe comes");
    client.write_all(b"220 mail\r\n").expect("it is taken");
    // As if the process had been stopped for long: the deadline has passed, and nobody could go on with the check.
    lab.engine.epoch -= Duration::from_secs(60);
    // Its first look hears the first half of the answer and says what comes next, and nothing is late by that.
    lab.engine.round(Some(Instant::now()));
    client.read_exact(&mut [0]).expect("it goes on");
    client.write_all(b"250 well\r\n").expect("it is taken");
    assert_eq!(lab.outcomes(1), [(1, Outcome::Up)]);
    // And whoever really says nothing is late all the same.
    let (dead, _) = serve(|mut client| io::copy(&mut client, &mut io::sink()));
    assert_eq!(
        lab.outcome(&[dead], Check::Dialogue(vec![expect("220")]), SHORT),
        down("\"220\" did not come within 250ms")
    );
}

#[test]
fn http_statuses_decide() {
    let mut lab = Lab::new();
    let table: &[(&[u8], Outcome)] = &[
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Outcome::Up),
        (b"HTTP/1.0 301 Moved\r\n\r\n", Outcome::Up),
        (b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 204 None\r\n\r\n", Outcome::Up),
        (b"HTTP/1.1 302 Found\r\n\r\n", down("http: status 302")),
        (b"HTTP/1.1 503 Busy\r\n\r\n", down("http: status 503")),
        (b"SSH-2.0-OpenSSH\r\n", down("http: not an HTTP answer")),
    ];
    for (answer, expected) in table {
        for size in [1, 1_000] {
            let address = answering(answer, size);
            let outcome = lab.outcome(&[address], http("/health"), LONG);
            assert_eq!(outcome, *expected, "{} in pieces of {size}", answer.escape_ascii());
        }
    }
    let (address, _server) = serve(drop);
    let outcome = lab.outcome(&[address], http("/"), LONG);
    // With the request unread, its close is a reset.
    let causes = [down("http: reset before an answer came"), down("http: closed before an answer came")];
    assert!(causes.contains(&outcome), "{outcome:?}");
}

#[test]
fn a_dialogue_goes_step_by_step() {
    let (address, server) = serve(|mut client| {
        client.set_nodelay(true)?;
        for piece in ["2", "20 wel", "come\r\n"] {
            client.write_all(piece.as_bytes())?;
        }
        let mut ping = [0; 6];
        client.read_exact(&mut ping)?;
        for piece in ["+PO", "NG\r\n"] {
            client.write_all(piece.as_bytes())?;
        }
        let rest = io::copy(&mut client, &mut io::sink())?;
        io::Result::Ok((ping, rest))
    });
    let mut lab = Lab::new();
    let steps = vec![expect("220"), expect("\r\n"), send("PING\r\n"), expect("+PONG")];
    assert_eq!(lab.outcome(&[address], Check::Dialogue(steps), LONG), Outcome::Up);
    lab.run_until(Lab::has_all_back);
    assert_eq!(server.join().expect("no panic").expect("no reset"), (*b"PING\r\n", 0));
}

#[test]
fn a_dialogue_that_breaks_off_names_its_step() {
    let mut lab = Lab::new();
    let (address, _server) = serve(|mut client| {
        let _ = client.write_all(b"220\r\n");
    });
    let steps = vec![expect("220"), expect("ready")];
    let outcome = lab.outcome(&[address], Check::Dialogue(steps), LONG);
    assert_eq!(outcome, down("closed before \"ready\" came"));
    let (_silent, address) = listener();
    let outcome = lab.outcome(&[address], Check::Dialogue(vec![expect("220")]), SHORT);
    assert_eq!(outcome, down("\"220\" did not come within 250ms"));
    // More than any socket buffer holds, to somebody who reads nothing.
    let flood = vec![Step::Send(vec![b'x'; 32 << 20]), expect("thanks")];
    let outcome = lab.outcome(&[address], Check::Dialogue(flood), SHORT);
    let Outcome::Down(cause) = outcome else { panic!("{outcome:?}") };
    assert!(cause.ends_with("xxx...\" could not be sent within 250ms"), "{cause}");
}

#[test]
fn what_does_not_fit_is_sent_bit_by_bit() {
    const SIZE: usize = 8 << 20;
    let (address, server) = serve(|mut client| {
        let mut all = vec![0; SIZE];
        client.read_exact(&mut all)?;
        client.write_all(b"thanks")?;
        io::copy(&mut client, &mut io::sink())
    });
    let steps = vec![Step::Send(vec![b'x'; SIZE]), expect("thanks")];
    let mut lab = Lab::new();
    assert_eq!(lab.outcome(&[address], Check::Dialogue(steps), LONG), Outcome::Up);
    lab.run_until(Lab::has_all_back);
    assert_eq!(server.join().expect("no panic").expect("no reset"), 0);
}

#[test]
fn a_flood_without_a_match_is_down() {
    let (address, server) = serve(|mut client| while client.write_all(&[b'n'; 4_096]).is_ok() {});
    let mut lab = Lab::new();
    let outcome = lab.outcome(&[address], Check::Dialogue(vec![expect("never")]), LONG);
    assert_eq!(outcome, down("\"never\" not in the first 1 MiB"));
    lab.run_until(Lab::has_all_back);
    server.join().expect("it was cut off");
}

#[test]
fn a_server_that_speaks_first_sees_an_end_and_no_reset() {
    let checks: [(Check, Outcome); 4] = [
        (Check::Tcp, Outcome::Up),
        (Check::Dialogue(vec![expect("22")]), Outcome::Up),
        (http("/"), down("http: not an HTTP answer")),
        (Check::Dialogue(vec![expect("221")]), down("\"221\" did not come within 250ms")),
    ];
    for (check, expected) in checks {
        let (address, server) = serve(|mut client| {
            client.write_all(b"220 welcome\r\n")?;
            let heard = io::copy(&mut client, &mut io::sink())?;
            // Who goes on talking after our end is heard out as well.
            client.write_all(&[b'b'; 10_000])?;
            let pending = client.take_error()?;
            io::Result::Ok((heard, pending.map(|e| e.kind())))
        });
        let mut lab = Lab::new();
        // Only what does not come may be short of time.
        let is_awaited = matches!(&expected, Outcome::Down(cause) if cause.contains("250ms"));
        let timeout = if is_awaited { SHORT } else { LONG };
        assert_eq!(lab.outcome(&[address], check.clone(), timeout), expected);
        lab.run_until(Lab::has_all_back);
        let (_, pending) = server.join().expect("no panic").expect("no reset");
        assert_eq!(pending, None, "{check:?}");
    }
}

#[test]
fn a_server_that_never_ends_is_left_after_a_while() {
    let mut lab = Lab::new();
    let (listener, address) = listener();
    assert_eq!(lab.outcome(&[address], Check::Tcp, LONG), Outcome::Up);
    let _kept = listener.accept().expect("it was there");
    assert!(!lab.has_all_back(), "a lingering socket counts");
    lab.run_until(Lab::has_all_back);
}

#[test]
fn lingering_sockets_make_room_for_probes() {
    let mut lab = Lab::with(Outgoing::default(), 4);
    let (_listener, address) = listener();
    for _ in 0..20 {
        assert_eq!(lab.outcome(&[address], Check::Tcp, LONG), Outcome::Up);
    }
}

#[test]
fn many_probes_end_at_their_timeouts_and_keep_nothing() {
    const MANY: u64 = 300;
    // A queue that all fit into: a connection that it drops is tried again by the kernel only after the timeout.
    let Deaf { _socket: socket, address } = deaf();
    socket.listen(512).expect("listen");
    let listener = TcpListener::from(socket);
    let acceptor = thread::spawn(move || {
        // Held and silent until all have come.
        (0..MANY).map(|_| listener.accept().map(|(client, _)| client)).collect::<Vec<_>>()
    });
    let mut lab = Lab::new();
    for id in 0..MANY {
        lab.start(id, &[address], http("/"), SHORT);
    }
    let outcomes = lab.outcomes(300);
    let expected: Vec<_> = (0..MANY).map(|id| (id, down("http: no answer within 250ms"))).collect();
    assert_eq!(outcomes, expected);
    let held = acceptor.join().expect("no panic");
    assert!(held.iter().all(Result::is_ok));
    lab.run_until(Lab::has_all_back);
    assert_eq!(lab.engine.timers.next(), None);
}

#[test]
fn want_of_descriptors_is_unknown() {
    let mut lab = Lab::with(Outgoing::default(), 8);
    let (_listener, address) = listener();
    let taken: Vec<_> = std::iter::from_fn(|| lab.budget.take(1)).collect();
    let unknown = Outcome::Unknown("connect: no descriptor is left".into());
    assert_eq!(lab.outcome(&[address], Check::Tcp, LONG), unknown);
    let program = Check::Exec("/bin/true".into());
    assert!(matches!(lab.outcome(&[address], program, LONG), Outcome::Unknown(_)));
    drop(taken);
    assert_eq!(lab.outcome(&[address], Check::Tcp, LONG), Outcome::Up);
}

#[test]
fn the_source_address_counts_and_its_faults_are_ours() {
    let source =
        |ip: IpAddr| Outgoing { sources: Sources::new([SocketAddr::new(ip, 0)]), ..Outgoing::default() };
    let (listener, address) = listener();
    let mut other_family = Lab::with(source("::1".parse().expect("an address")), 100);
    assert!(matches!(other_family.outcome(&[address], Check::Tcp, LONG), Outcome::Unknown(_)));
    // TEST-NET-1 is nobody's.
    let mut foreign = Lab::with(source([192, 0, 2, 1].into()), 100);
    let unknown = Outcome::Unknown("connect: address not available".into());
    assert_eq!(foreign.outcome(&[address], Check::Tcp, LONG), unknown);
    if cfg!(target_os = "linux") {
        let mut lab = Lab::with(source([127, 0, 0, 2].into()), 100);
        assert_eq!(lab.outcome(&[address], Check::Tcp, LONG), Outcome::Up);
        let (_, peer) = listener.accept().expect("it was there");
        assert_eq!(peer.ip(), IpAddr::from([127, 0, 0, 2]));
    }
}

#[test]
fn the_waker_and_the_clock_end_a_wait() {
    let mut lab = Lab::new();
    let mut done = VecDeque::new();
    let waker = lab.engine.waker();
    let other = thread::spawn(move || waker.wake());
    lab.engine.wait(None, &mut done);
    other.join().expect("no panic");
    let until = Instant::now() + Duration::from_millis(20);
    lab.engine.wait(Some(until), &mut done);
    assert!(Instant::now() >= until);
    lab.engine.wait(Some(until), &mut done);
    assert_eq!(done, []);
}

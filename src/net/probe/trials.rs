//! The engine against real sockets and programs.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use rustix::process::{Pid, test_kill_process};

use super::*;

/// Whatever has not happened by then does not.
const PATIENCE: Duration = Duration::from_secs(30);
/// A timeout that is not to be met.
const LONG: Duration = Duration::from_secs(20);
/// A timeout that is.
const SHORT: Duration = Duration::from_millis(250);

/// An engine and all that it may take.
struct Lab {
    engine: Engine,
    budget: Arc<Budget>,
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
        Self { engine: Engine::new(outgoing, Arc::clone(&budget)).expect("an engine"), budget, all }
    }

    fn start(&mut self, id: u64, addresses: &[SocketAddr], check: Check, timeout: Duration) {
        let addresses = Addresses::new(addresses.to_vec()).expect("at least one");
        self.engine.start(Order { id, addresses, port: None, check: Arc::new(check), timeout });
    }

    /// The outcomes of so many probes, by id.
    fn outcomes(&mut self, count: usize) -> Vec<(u64, Outcome)> {
        let until = Instant::now() + PATIENCE;
        let mut done = Vec::new();
        while done.len() < count {
            assert!(Instant::now() < until, "{} of {count} outcomes", done.len());
            self.engine.wait(Some(until), &mut done);
            assert!(self.engine.probes.len() <= PROBES && self.engine.lingering.len() <= LINGERING);
        }
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
        let mut done = Vec::new();
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
        let is_full = client.connect_timeout(&address.into(), Duration::from_millis(300)).is_err();
        sockets.push(client);
        if is_full {
            return BlackHole { _sockets: sockets, address };
        }
        assert!(sockets.len() < 64, "the accept queue of a backlog of 0 takes too many");
    }
}

fn http(path: &str) -> Check {
    Check::Http { path: path.into(), statuses: vec![200..=299, 301..=301] }
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
    let addresses = Addresses::from(dead.address);
    let check = Arc::new(Check::Tcp);
    lab.engine.start(Order { id: 1, addresses, port: Some(alive.port()), check, timeout: LONG });
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
    assert_eq!(lab.outcome(&none, Check::Tcp, SHORT), down("connect: connection refused"));
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
        let timeout = if expected == Outcome::Up { LONG } else { SHORT };
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
    let source = |ip: IpAddr| Outgoing { source: Some(SocketAddr::new(ip, 0)), keepalive: None };
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
    let mut done = Vec::new();
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

/// Programs and what they leave in a directory.
struct Shop(PathBuf);

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Shop {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("balance-check-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a directory of ours");
        Self(path)
    }

    /// A program. Another process writes it: a fork of ours that still holds it open for writing would keep it from being
    /// run.
    fn program(&self, text: &str) -> Check {
        let path = self.0.join("check");
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat >\"$1\" && chmod 700 \"$1\"", "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let text = format!("#!/bin/sh\n{text}\n");
        writer.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
        assert!(writer.wait().expect("it ends").success());
        Check::Exec(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// The process whose number stands on the line of this file, once the line is complete.
fn pid_in(file: &Path) -> Option<Pid> {
    let text = fs::read_to_string(file).ok()?;
    Pid::from_raw(text.strip_suffix('\n')?.parse().ok()?)
}

/// Not even a zombie is left.
fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid).is_err()
}

/// Killed, though whoever inherited it may not have reaped it.
fn is_dead(pid: Pid) -> bool {
    if !cfg!(target_os = "linux") {
        return is_gone(pid);
    }
    let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) else { return true };
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']))
}

const TARGET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8_080);

#[test]
fn an_exit_code_is_the_outcome() {
    let mut lab = Lab::new();
    let shop = Shop::new();
    let table = [
        ("exit 0", Outcome::Up),
        ("exit 3", down("exit code 3")),
        ("kill -TERM $$", down("killed by signal 15")),
        ("[ \"$# $1 $2\" = '2 127.0.0.1 8080' ]", Outcome::Up),
        ("[ \"$(pwd)\" = / ] && [ -z \"$(cat)\" ]", Outcome::Up),
    ];
    for (text, expected) in table {
        assert_eq!(lab.outcome(&[TARGET], shop.program(text), LONG), expected, "{text}");
        assert!(lab.has_all_back());
    }
}

#[test]
fn a_program_that_cannot_be_run_is_down() {
    let mut lab = Lab::new();
    let shop = Shop::new();
    let missing = Check::Exec("/no/such/check".into());
    let cause = "cannot run /no/such/check: No such file or directory (os error 2)";
    assert_eq!(lab.outcome(&[TARGET], missing, LONG), down(cause));
    let directory = Check::Exec(shop.0.clone());
    let cause = format!("cannot run {}: Permission denied (os error 13)", shop.0.display());
    assert_eq!(lab.outcome(&[TARGET], directory, LONG), down(&cause));
    assert!(lab.has_all_back());
}

#[test]
fn a_late_program_is_killed_with_its_children() {
    let mut lab = Lab::new();
    let shop = Shop::new();
    let (own, child) = (shop.file("own"), shop.file("child"));
    let text = format!("sleep 1000 & echo $! >{}\necho $$ >{}\nsleep 1000", child.display(), own.display());
    let check = shop.program(&text);
    // On a busy machine it may take a while to start.
    let pids = [250, 2_000, 15_000].into_iter().find_map(|ms| {
        let timeout = Duration::from_millis(ms);
        let outcome = lab.outcome(&[TARGET], check.clone(), timeout);
        assert_eq!(outcome, down(&format!("killed at the timeout of {timeout:?}")));
        pid_in(&own).zip(pid_in(&child))
    });
    let (own, child) = pids.expect("it ran");
    lab.run_until(|lab| is_gone(own) && is_dead(child) && lab.engine.programs.running == 0);
}

#[test]
fn a_program_that_floods_its_output_holds_up_nobody() {
    let mut lab = Lab::new();
    let shop = Shop::new();
    let outcome = lab.outcome(&[TARGET], shop.program("yes; exit 0"), SHORT);
    assert_eq!(outcome, down("killed at the timeout of 250ms"));
    let outcome = lab.outcome(&[TARGET], shop.program("yes | head -c 10000000\nexit 0"), LONG);
    assert_eq!(outcome, Outcome::Up);
}

#[test]
fn what_a_program_leaves_behind_is_killed() {
    let mut lab = Lab::new();
    let shop = Shop::new();
    let (own, child) = (shop.file("own"), shop.file("child"));
    let text = format!("sleep 1000 & echo $! >{}\necho $$ >{}\nexit 0", child.display(), own.display());
    assert_eq!(lab.outcome(&[TARGET], shop.program(&text), LONG), Outcome::Up);
    let (own, child) = pid_in(&own).zip(pid_in(&child)).expect("it has written them");
    assert!(is_gone(own), "it was reaped before the outcome was told");
    lab.run_until(|_| is_dead(child));
}

#[test]
fn programs_of_a_dropped_engine_are_killed() {
    let mut lab = Lab::new();
    let shop = Shop::new();
    let own = shop.file("own");
    let check = shop.program(&format!("echo $$ >{}\nexec sleep 1000", own.display()));
    lab.start(1, &[TARGET], check.clone(), LONG);
    // Never begun, or only just.
    lab.start(2, &[TARGET], check, LONG);
    lab.run_until(|_| pid_in(&own).is_some());
    let pid = pid_in(&own).expect("it runs");
    drop(lab);
    assert!(is_gone(pid), "the process may end now");
}

#[test]
fn programs_wait_for_a_place_and_hold_up_no_sockets() {
    let mut lab = Lab::new();
    let (_listener, address) = listener();
    let shop = Shop::new();
    let check = shop.program("exec sleep 1000");
    for id in 0..40 {
        lab.start(id, &[TARGET], check.clone(), Duration::from_millis(1_500));
    }
    lab.start(100, &[address], Check::Tcp, LONG);
    assert_eq!(lab.outcomes(1), [(100, Outcome::Up)]);
    assert!(lab.engine.programs.is_full());
    assert_eq!(lab.engine.waiting_programs.len(), 8);
    let late: Vec<_> = (0..40).map(|id| (id, down("killed at the timeout of 1.5s"))).collect();
    assert_eq!(lab.outcomes(40), late);
    lab.run_until(|lab| lab.engine.programs.running == 0 && lab.has_all_back());
}

/// Not in a portable build: the sockets of the tests beside this one are made in two steps there.
#[cfg(all(target_os = "linux", not(portable)))]
#[test]
fn programs_inherit_no_descriptor() {
    const CLOEXEC: u32 = 0o2_000_000;
    let mut lab = Lab::new();
    let (_silent, address) = listener();
    lab.start(2, &[address], http("/"), LONG);
    // The harness may have got some from whoever started it.
    let is_inherited = |entry: &fs::DirEntry| {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.is_some_and(|octal| u32::from_str_radix(octal.trim(), 8).is_ok_and(|f| f & CLOEXEC == 0))
    };
    let entries = fs::read_dir("/proc/self/fdinfo").expect("there is one").flatten();
    let inherited = entries.filter(is_inherited).count();
    let shop = Shop::new();
    let seen = shop.file("seen");
    let text = format!(
        "ls -l /proc/self/fd >{}\n[ \"$(ls /proc/self/fd | wc -l)\" -eq {} ]",
        seen.display(),
        inherited + 1
    );
    let outcome = lab.outcome(&[TARGET], shop.program(&text), LONG);
    assert_eq!(outcome, Outcome::Up, "{}", fs::read_to_string(&seen).unwrap_or_default());
}

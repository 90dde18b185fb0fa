//! How tests start, ask and end instances, and the clients and servers that they put around them.
//!
//! Rules: no fixed ports; no sleeps (facts are polled with a deadline); every failure prints what somebody
//! who does not know the test needs.

mod clients;
mod held_up;
mod instance;
mod load;
mod network;
mod payload;
mod revivable;
mod run;
mod scripts;
mod servers;
mod status;
mod terminal;
mod tracer;
mod unprivileged;

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) use clients::{Client, Received};
pub(crate) use held_up::unless_held_up;
pub(crate) use instance::{Instance, Row, Setup};
pub(crate) use load::{Got, Load, Visit, visit};
pub(crate) use network::{port_range, private_network};
pub(crate) use payload::{Direction, Stream};
pub(crate) use revivable::Revivable;
pub(crate) use run::{Finished, Run, isolate};
pub(crate) use scripts::{alive, await_no_children, children, copy_program, executable, mark, script};
pub(crate) use servers::{Server, echo};
pub(crate) use terminal::Terminal;
pub(crate) use tracer::Tracer;
pub(crate) use unprivileged::{
    Elsewhere, USER, Unprivileged, has_landlock, open_to_all, own_directory, program_for_all, set_mode,
};

/// The program under test.
pub(crate) const BALANCE: &str = env!("CARGO_BIN_EXE_balance");

/// Nothing here takes this long unless it is broken. It is generous, because test machines are slow and
/// shared.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Polls until `fact` returns a value. Panics with `what` at the deadline.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, fact: impl FnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, fact)
}

/// The same for what is much work.
#[track_caller]
pub(crate) fn eventually_within<T>(time: Duration, what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + time;
    loop {
        if let Some(value) = fact() {
            return value;
        }
        assert!(Instant::now() < end, "not within {time:?}: {what}");
        pause();
    }
}

/// Polls until what is looked at is the same many times in a row, and returns it. Two looks would not do: who moves it may not have
/// had a turn between them.
#[track_caller]
pub(crate) fn settled<T: PartialEq>(what: &str, look: impl Fn() -> T) -> T {
    let (mut last, mut times) = (look(), 0);
    eventually(what, || {
        let now = look();
        times = if now == last { times + 1 } else { 0 };
        last = now;
        (times >= 8).then_some(())
    });
    last
}

/// Makes the call again for as long as it is interrupted. A call on a socket with a timeout is, if the test's
/// process is stopped and goes on.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            ended => return ended,
        }
    }
}

/// The pause between two polls: short enough not to slow a test down, long enough to leave the CPU to the
/// program.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(3));
}

/// Sets the flag when it is dropped, so that threads which run until then end with their test, even if it
/// fails.
#[derive(Debug)]
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

static COUNTER: AtomicU32 = AtomicU32::new(1);

/// A number that no other test of this process has.
pub(crate) fn unique() -> u32 {
    COUNTER.fetch_add(1, Ordering::Relaxed)
}

static RUN: LazyLock<u32> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()) as u32);

/// A number that no other run of the tests has. A process ID will not do: in namespaces of their own, two runs have the same one.
pub(crate) fn run_number() -> u32 {
    *RUN
}

/// A directory that is removed when the test ends.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("balance-suite-{:08x}-{}", run_number(), unique()));
        std::fs::create_dir(&path).expect("a temporary directory that is not there yet");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file with this text in it.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file in a fresh directory");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A loopback address and port that only this test uses. The address is its own, so no other test can take
/// the port before the program binds it.
pub(crate) fn own_address() -> SocketAddr {
    let n = unique();
    let [_, _, high, low] = run_number().to_be_bytes();
    // 127.x.y.z with x from 64 to 191: not 127.0.0.1 or the clients' addresses.
    let ip = Ipv4Addr::new(127, 64 + (high ^ (n >> 8) as u8) % 128, low, 1 + (n % 254) as u8);
    // Below the range for outgoing connections, so that no other test's connection has it, even on 127.0.0.1.
    let first = (run_number() >> 16).wrapping_mul(401).wrapping_add(n) % 20_000;
    let ports = (0..20_000).map(|more| 12_000 + ((first + more) % 20_000) as u16);
    let is_free = |at: SocketAddr| {
        // It never listens, so a copy of its descriptor in a child of another test, between fork and exec, is
        // harmless.
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("an option");
        socket.bind(&at.into()).is_ok()
    };
    let mut free = ports.filter(|&port| is_free((Ipv4Addr::UNSPECIFIED, port).into()));
    (ip, free.next().expect("a free port")).into()
}

/// A port on 127.0.0.1 that refuses connects: it is bound by the test, so no other program takes it, and
/// never listens.
pub(crate) struct Refusing(socket2::Socket);

impl Refusing {
    pub(crate) fn new() -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        Self(socket)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        let address = self.0.local_addr().expect("a bound socket has an address");
        address.as_socket().expect("it is IPv4")
    }
}

impl std::fmt::Display for Refusing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.addr().fmt(f)
    }
}

/// A port on 127.0.0.1 that never answers: its listen queue is full, so further connects are dropped.
pub(crate) struct BlackHole {
    socket: socket2::Socket,
    queue: Vec<socket2::Socket>,
}

impl BlackHole {
    pub(crate) fn new() -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into())
    }

    pub(crate) fn at(address: SocketAddr) -> Self {
        let new =
            || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let socket = new();
        socket.set_reuse_address(true).expect("an option");
        socket.bind(&address.into()).expect("a free port");
        socket.listen(0).expect("listen");
        let address = socket.local_addr().expect("a bound socket has an address");
        let mut queue = Vec::new();
        // Connects until a connect no longer completes.
        loop {
            let client = new();
            // A connect that came back late has been answered all the same.
            let late = client.connect_timeout(&address, Duration::from_millis(300)).is_err();
            let filled = late && client.peer_addr().is_err();
            queue.push(client);
            if filled {
                break;
            }
            assert!(queue.len() < 64, "the accept queue of a backlog of 0 takes too many");
        }
        Self { socket, queue }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        let address = self.socket.local_addr().expect("a bound socket has an address");
        address.as_socket().expect("it is IPv4")
    }

    /// Accepts the first connection that is not one of those that fill the queue; from now on it answers.
    pub(crate) fn accepts(&self) -> Client {
        let fillers: Vec<_> =
            self.queue.iter().filter_map(|one| one.local_addr().ok()?.as_socket()).collect();
        loop {
            let (stream, peer) = self.socket.accept().expect("a connection");
            if peer.as_socket().is_some_and(|peer| !fillers.contains(&peer)) {
                return Client::of(stream.into());
            }
        }
    }
}

impl std::fmt::Display for BlackHole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.addr().fmt(f)
    }
}

/// Does the test run as root? Tests of other users and of mounts need that, and say so where they are
/// skipped.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// For tests that need root: `if needs_root("why") { return; }`.
pub(crate) fn needs_root(why: &str) -> bool {
    let left_out = !is_root();
    if left_out {
        eprintln!("left out, needs root: {why}");
    }
    left_out
}

//! One of the two processes is killed during an upgrade, at each message that it sends or waits for.
//!
//! The connections that only the killed process has are lost. All others go on without a byte lost or
//! repeated, the port always has a listener, and a later upgrade works.
//! Source: docs/upgrade.md.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use crate::harness::{
    BALANCE, Client, Direction, Instance, Server, Setup, Stream, echo, eventually, executable, own_address,
    pause, unique,
};

/// Several batches.
const HELD: usize = 230;
/// So many of them have more on the way than all buffers hold.
const SLOW: usize = 2;
/// What a server has for a client that is slow to read.
const MUCH: usize = 3 << 20;
const LITTLE: usize = 700;
/// Clients of the load that may be among those handed over.
const OTHERS: usize = 20;

/// What a client and its server do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The server sends back what it gets.
    Echo,
    /// In each round the server sends so much that something is held for the client, which reads it a round later.
    Slow,
    /// The server sends a little in each round, after the client has ended its own direction.
    Half,
}

/// How a client found its connection.
#[derive(Debug, PartialEq, Eq)]
enum Health {
    GoesOn,
    /// It was ended, after nothing but right bytes.
    Ended,
}

/// A connection that is held through many upgrades.
struct Held {
    client: Client,
    kind: Kind,
    id: u64,
    /// Bytes that have come.
    at: u64,
}

impl Held {
    fn open(to: SocketAddr, kind: Kind) -> Self {
        let id = u64::from(unique());
        let mut client = if kind == Kind::Slow { Client::connect_narrow(to) } else { Client::connect(to) };
        client.send(head(kind, id));
        let mut this = Self { client, kind, id, at: 0 };
        // It is with its server.
        assert_eq!(this.read(1), 1, "nobody is killed");
        if kind == Kind::Half {
            this.client.shut_wr();
        }
        this
    }

    /// The bytes of a round, each of which must be right. The server was told that it has begun.
    #[track_caller]
    fn exchange(&mut self) -> Health {
        let length = if self.kind == Kind::Slow { MUCH } else { LITTLE };
        if self.kind == Kind::Echo {
            let bytes = Stream::new(self.id, Direction::Rcvd).bytes(self.at, length);
            if self.client.0.write_all(&bytes).is_err() {
                return Health::Ended;
            }
        }
        let came = self.read(length);
        // What was held by nobody but the kernel comes from the dead as well; what is sent after that does not.
        let is_fed = self.kind != Kind::Slow || matches!(self.client.peek(&mut [0]), Ok(1));
        if came == length && is_fed { Health::GoesOn } else { Health::Ended }
    }

    /// So many bytes, or fewer and the end.
    #[track_caller]
    fn read(&mut self, length: usize) -> usize {
        let mut buffer = vec![0; length];
        let mut came = 0;
        while came < length {
            match self.client.read(&mut buffer[came..]) {
                Ok(0) => break,
                Ok(more) => came += more,
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => break,
                Err(e) => panic!("{:?} {}, after {} bytes: {e}", self.kind, self.id, self.at),
            }
        }
        Stream::new(self.id, Direction::Rcvd).check(self.at, &buffer[..came]);
        self.at += came as u64;
        came
    }
}

fn head(kind: Kind, id: u64) -> Vec<u8> {
    [&[kind as u8][..], &id.to_be_bytes()].concat()
}

/// What servers that speak in rounds wait for.
#[derive(Default)]
struct Rounds {
    number: Mutex<u64>,
    begun: Condvar,
}

impl Rounds {
    fn begin(&self) {
        *self.number.lock().expect("whole") += 1;
        self.begun.notify_all();
    }

    fn now(&self) -> u64 {
        *self.number.lock().expect("whole")
    }

    fn await_after(&self, round: u64) {
        let number = self.number.lock().expect("whole");
        drop(self.begun.wait_while(number, |number| *number <= round).expect("whole"));
    }
}

/// The other side of them.
fn serve(mut stream: TcpStream, rounds: &Rounds) {
    let mut head = [0; 9];
    if stream.read_exact(&mut head).is_err() {
        return;
    }
    let id = head[1..].try_into().map(u64::from_be_bytes).expect("eight bytes");
    let keyed = Stream::new(id, Direction::Rcvd);
    let mut round = rounds.now();
    if stream.write_all(&keyed.bytes(0, 1)).is_err() {
        return;
    }
    let length = match head[0] {
        kind if kind == Kind::Echo as u8 => return echo(stream),
        kind if kind == Kind::Slow as u8 => MUCH,
        _ => LITTLE,
    };
    let mut at = 1;
    let mut speak = || {
        let is_out = stream.write_all(&keyed.bytes(at, length)).is_ok();
        at += length as u64;
        is_out
    };
    // The client reads a round later what it is slow to read.
    if length == MUCH && !speak() {
        return;
    }
    loop {
        rounds.await_after(round);
        round += 1;
        if !speak() {
            return;
        }
    }
}

/// Clients that come all the time. A kill may end them; nothing may refuse, silence or garble them.
struct Visitors {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Visitors {
    fn of(to: SocketAddr) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let visit = |_| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    served.fetch_add(u64::from(visit(to) == Health::GoesOn), Ordering::SeqCst);
                    pause();
                }
            })
        };
        let threads = (0..2).map(visit).collect();
        Self { stop, served, threads }
    }

    fn finish(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("no client was hurt");
        }
        assert!(self.served.load(Ordering::SeqCst) > 0);
    }
}

fn visit(to: SocketAddr) -> Health {
    let mut client = match Client::try_connect(to, None, None) {
        Ok(client) => client,
        Err(e) if e.kind() == ErrorKind::ConnectionReset => return Health::Ended,
        Err(e) => panic!("connect to {to}: {e}"),
    };
    let id = u64::from(unique());
    if client.0.write_all(&head(Kind::Echo, id)).is_err() {
        return Health::Ended;
    }
    let mut this = Held { client, kind: Kind::Echo, id, at: 0 };
    if this.read(1) == 1 { this.exchange() } else { Health::Ended }
}

/// What a process said until it was killed, as strace saw it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    /// Connections that came to it and were acknowledged.
    taken: usize,
    /// Connections in batches that it sent whole.
    sent: usize,
    was_killed: bool,
}

impl Said {
    fn read(log: &str, call: &str) -> Self {
        let mut said = Self { was_killed: log.contains("+++ killed by SIGKILL +++"), ..Self::default() };
        let (mut came, mut goes) = (0, 0);
        for line in log.lines().filter(|line| !line.ends_with("= ?") && !line.contains("unfinished")) {
            if line.contains(" recvmsg(") && line.contains("SCM_RIGHTS") {
                came = pairs(line);
            }
            if !line.contains(" sendmsg(") {
                continue;
            }
            // A frame begins: the one before it is out.
            if line.contains(r#"iov_base="bal\n"#) {
                said.sent += std::mem::take(&mut goes);
                if line.contains(r#"{\"taken\""#) {
                    said.taken += std::mem::take(&mut came);
                }
            }
            if line.contains(r#"{\"batch\""#) {
                goes = pairs(line);
            }
        }
        // Whoever waits for an answer has said all that it had to say.
        said.sent += if said.was_killed && call == "sendmsg" { 0 } else { goes };
        said
    }
}

/// Connections of which the descriptors go with a message: two each.
fn pairs(line: &str) -> usize {
    let length =
        line.split("cmsg_len=").nth(1).and_then(|rest| rest.split(',').next()?.parse::<usize>().ok());
    length.map_or(0, |length| (length - 16) / 8)
}

/// One instance under load, that is upgraded, killed and upgraded again.
struct Scene {
    instance: Instance,
    server: Server,
    rounds: Arc<Rounds>,
    held: Vec<Held>,
    /// How many connections had changed hands at the kills so far.
    moved: BTreeSet<usize>,
}

impl Scene {
    fn new() -> Self {
        let rounds = Arc::new(Rounds::default());
        let of_server = Arc::clone(&rounds);
        let server = Server::with(move |stream, _| serve(stream, &of_server));
        let listen = own_address();
        // It binds its port by itself: what comes after a kill in the first moment has nothing but the command line.
        let (ip, port) = (listen.ip().to_string(), listen.port().to_string());
        let instance = Setup::binding(listen).start(["-b", &ip, &port, &server.to_string()]);
        let mut this = Self { instance, server, rounds, held: Vec::new(), moved: BTreeSet::new() };
        this.fill();
        this
    }

    /// As many connections as before the kill.
    fn fill(&mut self) {
        let slow = |held: &&Held| held.kind == Kind::Slow;
        let mut lacking = SLOW - self.held.iter().filter(slow).count();
        while self.held.len() < HELD {
            let others = [Kind::Echo, Kind::Half][self.held.len() % 2];
            let kind = if lacking > 0 { Kind::Slow } else { others };
            lacking = lacking.saturating_sub(1);
            self.held.push(Held::open(self.instance.addr, kind));
        }
    }

    /// How many of the connections were ended. All others have gone on.
    #[track_caller]
    fn check(&mut self) -> usize {
        let before = self.held.len();
        self.rounds.begin();
        self.held.retain_mut(|held| held.exchange() == Health::GoesOn);
        // Who comes now is served.
        assert_eq!(visit(self.instance.addr), Health::GoesOn, "a new client");
        assert_eq!(self.instance.ctl("show").code(0).stdout.lines().count(), 2);
        eventually("one process is there", || (self.instance.processes().len() == 1).then_some(()));
        before - self.held.len()
    }

    fn strace(&self, call: &str, n: usize, more: &str) -> (String, PathBuf) {
        let log = self.instance.directory.path().join(format!("strace-{}", unique()));
        let mut words = String::from("strace -f -qq -s 64 -e trace=sendmsg,recvmsg ");
        let _ = write!(words, "-e inject={call}:signal=SIGKILL:when={n} -o {} {more}", log.display());
        (words, log)
    }

    /// An upgrade in which each thread of the new process is killed at its `n`th call. False: it has lived.
    #[track_caller]
    fn kill_successor(&mut self, call: &str, n: usize) -> bool {
        let (strace, log) = self.strace(call, n, "-D");
        let wrapper = executable(
            &self.instance.directory,
            "wrapper",
            &format!("#!/bin/sh\nexec {strace} {BALANCE} \"$@\"\n"),
        );
        let pid = self.instance.pid();
        let answer = self.instance.ctl(&format!("upgrade {}", wrapper.display()));
        if answer.code == 0 {
            let told =
                answer.stdout.strip_prefix("process ").and_then(|rest| rest.split(' ').next()?.parse().ok());
            self.instance.succeed(told.unwrap_or_else(|| panic!("{answer}")));
            assert_eq!(self.check(), 0, "nobody was killed: {answer}");
            return false;
        }
        let start = "no upgrade, this process goes on: the new process ";
        assert!(answer.code == 69 && answer.stdout.starts_with(start), "{answer}");
        let said = eventually("strace has seen it", || {
            let said = Said::read(&fs::read_to_string(&log).ok()?, call);
            said.was_killed.then_some(said)
        });
        assert_eq!(self.instance.pid(), pid);
        let lost = self.check();
        println!("new process killed at {call} {n}: {said:?}, {lost} lost");
        assert!(lost <= said.taken, "{lost} lost of {said:?}");
        self.moved.insert(said.taken);
        self.fill();
        if n % 5 == 1 {
            self.instance.upgrade();
            assert_eq!(self.check(), 0, "nobody is killed any more");
        }
        true
    }

    /// An upgrade in which each thread of the old process is killed at its `n`th call. False: it has lived to its end.
    #[track_caller]
    fn kill_predecessor(&mut self, call: &str, n: usize) -> bool {
        // The new process is let go of where it begins.
        let (strace, log) = self.strace(call, n, &format!("-b execve -p {}", self.instance.pid()));
        let mut tracer = Command::new("sh")
            .args(["-c", &format!("exec {strace}")])
            .stderr(Stdio::null())
            .spawn()
            .expect("strace: apt-get install strace");
        let tasks = format!("/proc/{}/task", self.instance.pid());
        eventually("strace has all threads", || {
            let is_traced = |status: String| !status.contains("TracerPid:\t0\n");
            let traced =
                |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).is_ok_and(is_traced);
            fs::read_dir(&tasks).ok()?.flatten().all(traced).then_some(())
        });
        let answer = self.instance.ctl("upgrade");
        let code = self.instance.find_survivor();
        tracer.wait().expect("it ends with the process");
        let said = Said::read(&fs::read_to_string(&log).expect("its log"), call);
        let lost = self.check();
        println!("old process killed at {call} {n}: {said:?}, {lost} lost, exit code {code}");
        if code == 0 {
            assert_eq!((answer.code, lost), (0, 0), "nobody was killed: {answer}");
            return false;
        }
        assert_eq!(code, 128 + 9, "{answer}");
        let stay = self.held.len();
        assert!(stay + OTHERS >= HELD.min(said.sent), "{stay} stay of {said:?}");
        self.moved.insert(said.sent);
        self.fill();
        true
    }

    /// Every kill there is, until an upgrade is over before it comes. How many those are depends on how many messages come
    /// with one call; but some come before any connection has changed hands, and some after.
    #[track_caller]
    fn all(mut self, first: usize, kill: impl Fn(&mut Self, usize) -> bool) {
        let visitors = Visitors::of(self.instance.addr);
        let mut n = first;
        while kill(&mut self, n) {
            n += 1;
        }
        assert!(
            self.moved.contains(&0) && self.moved.len() >= 3,
            "killed when so many had moved: {:?}",
            self.moved
        );
        visitors.finish();
        self.held.clear();
        // Whoever waits for a round finds out when it speaks.
        eventually("no connection is left", || {
            self.rounds.begin();
            (self.server.open() == 0).then_some(())
        });
        self.instance.terminate();
    }
}

#[test]
fn the_new_process_is_killed_before_each_message_that_it_sends() {
    Scene::new().all(1, |scene, n| scene.kill_successor("sendmsg", n));
}

#[test]
fn the_new_process_is_killed_at_each_message_that_it_waits_for() {
    Scene::new().all(1, |scene, n| scene.kill_successor("recvmsg", n));
}

/// Before its first message there is no other process that could go on.
#[test]
fn the_old_process_is_killed_before_each_message_that_it_sends() {
    Scene::new().all(2, |scene, n| scene.kill_predecessor("sendmsg", n));
}

#[test]
fn the_old_process_is_killed_at_each_message_that_it_waits_for() {
    Scene::new().all(1, |scene, n| scene.kill_predecessor("recvmsg", n));
}

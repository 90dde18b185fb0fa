//! A sweep: every system call of the running program fails, with every plausible error, once, at the n-th
//! call, or as long as the traffic lasts.
//!
//! It runs under keyed traffic in both directions. Afterwards no peer has missed bytes before a clean end,
//! nothing has kept a core busy, and the instance serves. strace makes the calls fail, so the program
//! contains nothing for this test.
//!
//! A seeded selection is run; `BALANCE_SEED=n` chooses another one. `BALANCE_SWEEP=all` runs all cases,
//! `BALANCE_SWEEP="sendto ENOMEM 1+"` those whose names begin like that.

use std::fmt::{self, Display, Formatter};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::ends::{End, Habits, Half};
use super::{HEAD, Talk, seed};
use crate::ending::{endings, stalled_downloads};
use crate::harness::{BALANCE, Client, Instance, Server, Tracer, eventually, isolate, needs_root, pause};
use crate::relay_sim::random::Random;

/// The calls, and the errors that a kernel may answer them with.
///
/// Not among them is the `EAGAIN` of a socket that has told of data or of room: a kernel that denies what it has told is
/// none. What a lack of memory looks like is in the simulator (`relay_sim`).
const SUSPECTS: &[(&str, &[&str])] = &[
    (
        "accept4",
        &[
            "EMFILE",
            "ENFILE",
            "ENOBUFS",
            "ENOMEM",
            "ECONNABORTED",
            "EPROTO",
            "ENETDOWN",
            "EINTR",
            "EPERM",
            "EIO",
        ],
    ),
    ("socket", &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]),
    (
        "connect",
        &[
            "ECONNREFUSED",
            "ETIMEDOUT",
            "EADDRNOTAVAIL",
            "ENETUNREACH",
            "EAGAIN",
            "ENOMEM",
            "ENOBUFS",
            "EINTR",
            "EPERM",
        ],
    ),
    ("setsockopt", &["ENOMEM", "ENOBUFS", "EINVAL", "ENOPROTOOPT"]),
    ("getsockopt", &["ENOMEM", "ENOBUFS"]),
    ("getsockname", &["ENOBUFS"]),
    ("getpeername", &["ENOTCONN", "ENOBUFS"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    ("epoll_pwait", &["EINTR", "ENOMEM"]),
    ("recvfrom", &["ENOMEM", "ENOBUFS", "EIO", "EINTR", "ECONNRESET", "ETIMEDOUT"]),
    ("sendto", &["ENOMEM", "ENOBUFS", "EIO", "EINTR", "EPIPE", "ECONNRESET", "ETIMEDOUT"]),
    ("shutdown", &["ENOTCONN", "ENOBUFS", "ENOMEM"]),
    ("splice", &["ENOMEM", "EIO", "EINTR", "EINVAL", "EPIPE"]),
    ("pipe2", &["EMFILE", "ENFILE", "ENOMEM"]),
    ("fcntl", &["EPERM", "ENOMEM", "EBUSY"]),
    ("ioctl", &["ENOMEM", "EINVAL"]),
    ("write", &["EINTR", "EAGAIN", "EIO", "ENOSPC"]),
    ("read", &["EINTR", "EAGAIN", "EIO"]),
    ("ppoll", &["EINTR", "ENOMEM"]),
    ("poll", &["EINTR", "ENOMEM"]),
    ("futex", &["EINTR", "EAGAIN"]),
    ("clone3", &["EAGAIN", "ENOMEM"]),
];

/// Calls that are made, too, and why they are left out.
const LEFT_OUT: &[(&str, &str)] = &[
    ("close", "on Linux it closes, whatever it says"),
    ("mmap brk munmap mprotect madvise", "memory of our own: without it there is no program"),
    ("clock_nanosleep nanosleep restart_syscall sched_yield", "a sleep that ends early"),
    ("exit exit_group rt_sigreturn", "they do not come back"),
    (
        "rseq set_robust_list prctl gettid getpid sigaltstack rt_sigprocmask rt_sigaction sched_getaffinity \
         sched_setscheduler arch_prctl",
        "how the C library begins a thread",
    ),
    (
        "openat newfstatat fstat getdents64 readlinkat statx lseek",
        "commands look at files; the traffic does not",
    ),
    ("getrandom", "seeds of maps; std sees to it"),
    ("unlinkat unlink", "the end of the instance"),
];

/// When a call fails, as strace has it: for each thread on its own.
const WHENS: &[&str] = &["1", "2", "5", "17", "1+", "6+"];

/// In the test command.
const SELECTED: usize = 26;
/// Instances at a time.
const SIDE_BY_SIDE: usize = 4;
/// So many failing calls in 300 ms are a spin. A retry every 50 ms of two workers is none.
const SPIN: usize = 250;
/// How long a failure lasts that lasts for ever.
const EVER: Duration = Duration::from_millis(1500);
/// A connection that has come to no end by then is stuck.
const STUCK: Duration = Duration::from_secs(40);

#[derive(Debug, Clone, Copy)]
struct Case {
    call: &'static str,
    error: &'static str,
    when: &'static str,
}

impl Display for Case {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.call, self.error, self.when)
    }
}

fn all_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(call, errors) in SUSPECTS {
        for &error in errors {
            cases.extend(WHENS.iter().map(|&when| Case { call, error, when }));
        }
    }
    cases.retain(|case| {
        let is_ever = case.when.ends_with('+');
        // The library begins again at once for controllers, and so does who waits for signals: they do not come for ever. A wake-up is tried four times: a
        // counter that takes nothing at all is no error of an eventfd.
        !is_ever
            || case.call != "write"
                && (case.error != "EINTR" || !["accept4", "ppoll", "recvfrom", "sendto"].contains(&case.call))
    });
    cases
}

/// What one end has to say: who it was, how it went.
type Account = (Option<u64>, Result<[Half; 2], String>);

/// Plays its part of whatever talk a client announces; tells what it heard from clients that announced none.
fn server(talks: Vec<Talk>) -> (Server, Receiver<Account>) {
    let (tell, told) = channel();
    let server = Server::with(move |mut stream, _| {
        let mut head = [0; HEAD as usize];
        let mut got = 0;
        let silence = loop {
            match stream.read(&mut head[got..]) {
                Ok(0) => break Some(End::Clean),
                Err(_) => break Some(End::Reset),
                Ok(n) => got += n,
            }
            if got == head.len() {
                break None;
            }
        };
        let account = match silence {
            // Nothing at all, or a probe: nobody whose bytes could be missing.
            Some(_) if got == 0 => return,
            Some(end) => (None, Err(format!("{end:?} after {got} bytes of a name"))),
            None => {
                let id = u64::from_le_bytes(head);
                let talk = talks.iter().find(|talk| talk.id == id);
                (
                    Some(id),
                    talk.map_or_else(|| Err("nobody has this name".into()), |talk| talk.play(&stream, 1)),
                )
            }
        };
        let _ = tell.send(account);
    });
    (server, told)
}

/// The client's part. A connection that is reset before it has said its name has said all it can.
fn client(instance: &Instance, talk: &Talk) -> Result<Option<[Half; 2]>, String> {
    let mut stream = match Client::try_connect(instance.addr, None, None) {
        Ok(client) => client.0,
        // So soon that the system still sees it as part of the connect.
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
        Err(e) => return Err(format!("connect: {e}")),
    };
    stream.set_read_timeout(Some(STUCK)).map_err(|e| e.to_string())?;
    stream.set_write_timeout(Some(STUCK)).map_err(|e| e.to_string())?;
    talk.habits[0].apply(&stream);
    match stream.write_all(&talk.id.to_le_bytes()) {
        Ok(()) => talk.play(&stream, 0).map(Some),
        Err(_) => Ok(None),
    }
}

fn talks(seed: u64) -> Vec<Talk> {
    let slow = Habits { receive_buffer: 60_000, pauses: 100, longest: 3, ..Habits::PLAIN };
    let small = Habits { bits: 10, ..Habits::PLAIN };
    let talk = |id, lengths, habits, answers| Talk { seed, id, lengths, habits: [habits; 2], answers };
    vec![
        talk(0, [900, 900], small, [false, true]),
        talk(1, [40_000, 70_000], small, [false; 2]),
        talk(2, [3_000_000, 5_000_000], Habits::PLAIN, [false; 2]),
        talk(3, [1 << 20, 3 << 20], slow, [false; 2]),
        talk(4, [10, 2 << 20], slow, [false, true]),
        talk(5, [2 << 20, 10], slow, [true, false]),
    ]
}

/// Has this end missed bytes behind a clean end?
fn is_deceived(half: &Half, length: u64) -> bool {
    half.end == End::Clean && half.bytes != length
}

fn judge(
    talk: &Talk,
    at_client: Result<Option<[Half; 2]>, String>,
    at_server: Option<Account>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let heard_of = at_server.is_some();
    match at_client {
        // Who gets no channel is closed.
        Ok(Some([_, received])) if received.bytes == 0 && !heard_of => {}
        Ok(Some([_, received])) if is_deceived(&received, talk.lengths[1]) => {
            wrong.push(format!("the client of {} gets {received:?} of {} bytes", talk.id, talk.lengths[1]));
        }
        Ok(_) => {}
        Err(e) => wrong.push(format!("the client of {}: {e}", talk.id)),
    }
    match at_server {
        Some((_, Ok([_, heard]))) if is_deceived(&heard, talk.lengths[0]) => {
            wrong.push(format!("the server of {} gets {heard:?} of {} bytes", talk.id, talk.lengths[0]));
        }
        Some((_, Err(e))) => wrong.push(format!("the server of {}: {e}", talk.id)),
        _ => {}
    }
    wrong
}

/// One case; what went wrong.
fn run(case: Case, seed: u64) -> Vec<String> {
    let talks = talks(seed);
    let (server, told) = server(talks.clone());
    let instance =
        Instance::before(&[&"--workers", &"2", &"--check", &"tcp", &"--check-interval", &"500ms", &server]);
    let inject = format!("inject={}:error={}:when={}", case.call, case.error, case.when);
    let mut tracer = Some(Tracer::attach(&instance, &[&format!("trace={}", case.call), &inject]));
    let mut wrong = Vec::new();
    let done = AtomicUsize::new(0);
    let at_client: Vec<_> = std::thread::scope(|scope| {
        let players: Vec<_> = talks
            .iter()
            .map(|talk| {
                scope.spawn(|| {
                    let result = client(&instance, talk);
                    done.fetch_add(1, Ordering::SeqCst);
                    result
                })
            })
            .collect();
        // Controllers come, too; what becomes of them is not this test's subject.
        scope.spawn(|| {
            let mut command = Command::new(BALANCE);
            isolate(&mut command, &instance.directory);
            drop(command.args(["-c", "show", &instance.port()]).stdin(Stdio::null()).output());
        });
        let begin = Instant::now();
        let is_done = || done.load(Ordering::SeqCst) == talks.len();
        while !is_done() && begin.elapsed() < EVER {
            pause();
        }
        if case.when.ends_with('+') {
            let calls = tracer.as_ref().map_or(0, Tracer::calls_when_quiet);
            if calls > SPIN {
                wrong.push(format!("it spins: {calls} failing calls in 300 ms"));
            }
            tracer.take();
        }
        players
            .into_iter()
            .map(|player| player.join().unwrap_or_else(|_| Err("it panicked".into())))
            .collect()
    });
    tracer.take();
    // Connections are over at the server soon after they are at the client.
    eventually("the server has told of all", || (server.open() == 0).then_some(()));
    let mut accounts: Vec<Account> = told.try_iter().collect();
    for (talk, at_client) in talks.iter().zip(at_client) {
        let account = accounts.iter().position(|(id, _)| *id == Some(talk.id)).map(|at| accounts.remove(at));
        wrong.extend(judge(talk, at_client, account));
    }
    wrong.extend(accounts.into_iter().filter_map(|(id, account)| {
        let account = account.map(|[_, heard]| heard);
        // A reset is honest, whenever it comes.
        (!matches!(&account, Err(text) if text.starts_with("Reset")))
            .then(|| format!("{id:?} at the server: {account:?}"))
    }));
    // It serves, and nobody holds a slot. A channel may have to be probed first.
    let last = Talk { id: 99, lengths: [0, 0], ..talks[0] };
    eventually("it serves", || matches!(client(&instance, &last), Ok(Some(_))).then_some(()));
    instance.await_show("every c is 0", |rows| rows.iter().all(|row| row.c == 0));
    instance.assert_idle();
    instance.terminate();
    wrong
}

/// Runs them side by side; those that went wrong.
fn run_all(cases: Vec<Case>, seed: u64) -> Vec<String> {
    let (left, found) = (Mutex::new(cases.into_iter().enumerate()), Mutex::new(Vec::new()));
    let next = || left.lock().expect("nobody panics with it").next();
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some((number, case)) = next() {
                    let wrong = std::panic::catch_unwind(|| run(case, seed + number as u64));
                    let wrong = wrong.unwrap_or_else(|panic| {
                        let text = panic.downcast_ref::<String>().cloned();
                        vec![text.unwrap_or_else(|| "the test itself panicked".into())]
                    });
                    if !wrong.is_empty() {
                        println!("{case}: {wrong:#?}");
                        found.lock().expect("nobody panics with it").push(format!("{case}: {wrong:#?}"));
                    }
                }
            });
        }
    });
    found.into_inner().expect("nobody panics with it")
}

#[test]
fn whatever_call_fails_nobody_misses_bytes_behind_a_clean_end_and_nothing_spins() {
    if needs_root("attaching to a process") {
        return;
    }
    let seed = seed() + 8;
    let mut cases = all_cases();
    match std::env::var("BALANCE_SWEEP").as_deref() {
        Ok("all") => {}
        Ok(which) => cases.retain(|case| case.to_string().starts_with(which)),
        Err(_) => {
            let mut random = Random::new(seed);
            let all = cases.len() as u64;
            let chosen = (0..SELECTED).map(|_| cases[random.below(all) as usize]).collect();
            cases = chosen;
        }
    }
    let number = cases.len();
    let found = run_all(cases, seed);
    assert!(found.is_empty(), "{} of {number} cases:\n{}", found.len(), found.join("\n"));
}

#[test]
fn an_accept_that_fails_for_ever_is_told_once_and_served_when_it_is_over() {
    if needs_root("attaching to a process") {
        return;
    }
    let server = Server::named("a");
    let instance = Instance::before(&[&"--workers", &"2", &server]);
    let told = || instance.stderr().lines().filter(|line| line.contains("accept_failed")).count();
    for (number, error) in (1..).zip(["ECONNABORTED", "EPROTO", "ENETDOWN", "EIO"]) {
        let inject = format!("inject=accept,accept4:error={error}:when=1+");
        let tracer = Tracer::attach(&instance, &["trace=accept,accept4", &inject]);
        let mut client = instance.connect();
        let tried = || tracer.so_far().matches(error).count() >= 100;
        eventually("it is tried again and again", || tried().then_some(()));
        assert_eq!(told(), number, "{error}: {}", instance.stderr());
        drop(tracer);
        assert_eq!(client.recv(1), b"a", "{error}");
    }
    instance.terminate();
}

#[test]
fn an_instance_that_is_stopped_takes_its_time_to_reset_those_who_miss_bytes() {
    const CLIENTS: usize = 100;
    if needs_root("attaching to a process") {
        return;
    }
    let channel = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let to = channel.local_addr().expect("it is bound");
    let mut instance = Instance::before(&[&"--workers", &"1", &to]);
    let mut downloads = stalled_downloads(&instance, &channel, CLIENTS);
    // As it would be among many more.
    let tracer = Tracer::attach(&instance, &["trace=close", "inject=close:delay_enter=8ms"]);
    instance.signal(Signal::INT);
    assert_eq!(instance.wait(), 0);
    drop(tracer);
    assert_eq!(endings(&mut downloads), [CLIENTS, 0]);
}

#[test]
#[cfg_attr(portable, ignore = "its poller makes calls of its own, and the list is of ours")]
fn every_call_that_a_serving_instance_makes_is_in_the_sweep() {
    if needs_root("attaching to a process") {
        return;
    }
    let talks = talks(seed());
    let (server, _told) = server(talks.clone());
    let instance =
        Arc::new(Instance::before(&[&"-T9", &"--check", &"tcp", &"--check-interval", &"50ms", &server]));
    let tracer = Tracer::attach(&instance, &["trace=all"]);
    std::thread::scope(|scope| {
        for talk in &talks {
            scope.spawn(|| client(&instance, talk).expect("it is served"));
        }
    });
    instance.ctl("show; status; sessions; kick 0").code(0);
    let text = tracer.detach();
    let known: Vec<&str> = SUSPECTS
        .iter()
        .map(|(call, _)| *call)
        .chain(LEFT_OUT.iter().flat_map(|(calls, _)| calls.split_whitespace()))
        .collect();
    let mut unknown: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('('))
        .map(|(call, _)| call)
        .filter(|call| call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !known.contains(call))
        .collect();
    unknown.sort_unstable();
    unknown.dedup();
    assert!(unknown.is_empty(), "give them errors, or a reason to be left out: {unknown:?}");
    drop(instance);
}

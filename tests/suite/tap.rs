//! `tap`: shows the bytes of one session to operators who may see them, and never slows the session down.
//!
//! Source: docs/observability.md, "One session's bytes".

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{
    BALANCE, Client, DEADLINE, Direction, Instance, Received, Run, Server, Stream, eventually, isolate,
    uninterrupted, unique,
};

/// `balance -c 'tap ...'` that runs beside the test.
pub(super) struct Watcher {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Watcher {
    pub(super) fn start(instance: &Instance, command: &str) -> Self {
        let number = unique();
        let [out, err] =
            ["out", "err"].map(|kind| instance.directory.path().join(format!("{kind}.{number}")));
        let file = File::create(&out).expect("a file of our own");
        Self { child: ask(instance, command, file.into(), &err), out, err }
    }

    pub(super) fn text(&self) -> String {
        fs::read_to_string(&self.out).expect("what is shown is text")
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("our own child");
    }

    #[track_caller]
    pub(super) fn awaits(&self, part: &str) {
        eventually(&format!("{part:?} in what is shown"), || self.text().contains(part).then_some(()));
    }

    /// It has begun.
    #[track_caller]
    pub(super) fn begun(self) -> Self {
        self.awaits("\\ session ");
        self
    }

    /// What it has shown, its exit code (128 + the signal) and stderr.
    #[track_caller]
    pub(super) fn ends(mut self) -> (String, i32, String) {
        let status = eventually("the asker ends", || self.child.try_wait().expect("our own child"));
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        (self.text(), code, fs::read_to_string(&self.err).unwrap_or_default())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(instance: &Instance, command: &str, out: Stdio, err: &PathBuf) -> Child {
    // Whoever runs the tests in the background has SIGINT ignored.
    let mut ask = Command::new("env");
    ask.args(["--default-signal=INT", BALANCE]);
    isolate(&mut ask, &instance.directory);
    ask.args(instance.bind_option()).args(["-c", command, &instance.port()]);
    ask.stdin(Stdio::null()).stdout(out).stderr(File::create(err).expect("a file of our own"));
    ask.spawn().expect("it is built")
}

/// The number of the session of this client.
#[track_caller]
pub(super) fn number_of(instance: &Instance, client: &Client) -> u64 {
    let ours = client.0.local_addr().expect("it is connected").to_string();
    eventually("the session is listed", || {
        let sessions = instance.ctl("sessions").code(0).stdout;
        let line = sessions.lines().find(|line| line.split_whitespace().nth(1) == Some(&ours))?.to_owned();
        line.split_whitespace().next()?.parse().ok()
    })
}

/// What a tap has shown of one direction, put where it belongs: `Err` is as many bytes that are missing.
type Parts = Vec<Result<Vec<u8>, u64>>;

/// Reads what was shown back: by direction, and our own lines.
#[track_caller]
fn read_back(text: &str) -> ([Parts; 2], Vec<String>) {
    let (mut parts, mut marks) = ([Parts::new(), Parts::new()], Vec::new());
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\n').expect("whole lines");
        let head = std::str::from_utf8(&rest[..end]).expect("text");
        rest = &rest[end + 1..];
        if let Some(mark) = head.strip_prefix("\\ ") {
            let numbers: Vec<u64> = mark.split(' ').filter_map(|word| word.parse().ok()).collect();
            let missing = mark.strip_prefix("left out: ").map(|_| [numbers[0], numbers[1]]);
            let before = mark.find("not shown: ").map(|at| &mark[at..]);
            let before =
                before.map(|text| text.split(' ').filter_map(|word| word.parse().ok()).collect::<Vec<u64>>());
            for (way, parts) in parts.iter_mut().enumerate() {
                parts.extend(missing.map(|missing| Err(missing[way])));
                if let Some(before) = &before {
                    // From a later process: it knows how much there was.
                    *parts = vec![Err(before[way])];
                }
            }
            marks.push(mark.to_owned());
            continue;
        }
        let (arrow, length) = head.split_once(' ').unwrap_or_else(|| panic!("no head: {head:?}"));
        let way = ["->", "-<"].iter().position(|one| *one == arrow).expect("a direction");
        let length: usize = length.parse().expect("a length");
        let (mut bytes, mut column) = (Vec::new(), 0);
        while bytes.len() < length {
            let (byte, used) = match rest {
                [b'\\', b'\\', ..] => (b'\\', 2),
                [b'\\', high, low, ..] => {
                    let hex = [*high, *low];
                    let hex = std::str::from_utf8(&hex).expect("hex");
                    (u8::from_str_radix(hex, 16).expect("hex"), 3)
                }
                [byte @ b' '..=b'~', ..] => (*byte, 1),
                other => panic!("not as it should be: {:?}", other.get(..20)),
            };
            bytes.push(byte);
            rest = &rest[used..];
            column += used;
            if byte == b'\n' || column > 80 {
                assert_eq!(rest[0], b'\n');
                rest = &rest[1..];
                column = 0;
            }
        }
        assert_eq!(rest[0], b'\n', "the end of a chunk");
        rest = &rest[1..];
        parts[way].push(Ok(bytes));
    }
    (parts, marks)
}

/// Are these the stream's bytes, with the gaps where they were told? Up to where they go, and how many were missing.
#[track_caller]
fn check(parts: &Parts, stream: Stream) -> (u64, u64) {
    let (mut at, mut missing) = (0, 0);
    for (number, part) in parts.iter().enumerate() {
        match part {
            Ok(bytes) => {
                stream.check(at, bytes);
                at += bytes.len() as u64;
            }
            Err(gap) => {
                at += gap;
                missing += if number > 0 { *gap } else { 0 };
            }
        }
    }
    (at, missing)
}

/// Sends the stream of a direction without a pause, on a thread of its own, until it is told to stop; how much that was.
struct Pump(Arc<AtomicBool>, thread::JoinHandle<u64>);

impl Pump {
    fn into(stream: TcpStream, payload: Stream) -> Self {
        let stops = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stops);
        let thread = thread::spawn(move || {
            let mut client = Client::of(stream);
            let mut at = 0;
            while !told.load(Ordering::SeqCst) {
                let bytes = payload.bytes(at, 64 << 10);
                client.send(&bytes);
                at += bytes.len() as u64;
            }
            client.shut_wr();
            at
        });
        Self(stops, thread)
    }

    fn stop(self) -> u64 {
        self.0.store(true, Ordering::SeqCst);
        self.1.join().expect("it sends")
    }
}

/// Reads a stream to its end and checks each byte, on a thread of its own; how much that was.
fn reading(mut stream: TcpStream, payload: Stream) -> thread::JoinHandle<u64> {
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    thread::spawn(move || {
        let (mut at, mut buffer) = (0, vec![0; 64 << 10]);
        loop {
            match uninterrupted(|| stream.read(&mut buffer)).unwrap_or_else(|e| panic!("at byte {at}: {e}")) {
                0 => return at,
                got => {
                    payload.check(at, &buffer[..got]);
                    at += got as u64;
                }
            }
        }
    })
}

/// A server that sends a stream and checks one, and how much it got.
fn busy_server(stops: &Arc<AtomicBool>) -> (Server, std::sync::mpsc::Receiver<(u64, u64)>) {
    let (tell, told) = std::sync::mpsc::channel();
    let stops = Arc::clone(stops);
    let server = Server::with(move |stream, number| {
        let number = number as u64;
        let pump =
            Pump::into(stream.try_clone().expect("a descriptor"), Stream::new(number, Direction::Rcvd));
        let read = reading(stream, Stream::new(number, Direction::Sent));
        while !stops.load(Ordering::SeqCst) {
            crate::harness::pause();
        }
        let sent = pump.stop();
        let _ = tell.send((read.join().expect("each byte is right"), sent));
    });
    (server, told)
}

#[test]
fn a_session_is_shown_as_the_dump_shows_it_with_what_was_before() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    client.send("before");
    assert_eq!(client.recv(6), b"before");
    let id = number_of(&instance, &client);
    let tap = Watcher::start(&instance, &format!("tap {id}")).begun();
    client.send("GET / \x1b[2J\x07\\\r\n");
    client.recv(14);
    client.shut_wr();
    assert_eq!(client.ending(), Received::End);
    let (text, code, told) = tap.ends();
    let ours = client.0.local_addr().expect("it is connected");
    let expected = format!(
        "\\ session {id}: client {ours}, service {}, group 0 channel 0, {}; not shown: 6 bytes sent and 6 received before\n\
         -> 14\nGET / \\1B[2J\\07\\\\\\0D\\0A\n\n-< 14\nGET / \\1B[2J\\07\\\\\\0D\\0A\n\n-> 0\n\n-< 0\n\n\
         \\ session {id} has ended: client closed\n",
        instance.addr, server.addr
    );
    assert_eq!((text, code, told.as_str()), (expected, 0, ""));
    let told = instance.told("commanded");
    assert!(told.iter().any(|line| line.ends_with(&format!("command=\"tap {id}\""))), "{told:?}");
    instance.end();
}

#[test]
fn what_cannot_be_tapped_is_told() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let client = instance.connect();
    let id = number_of(&instance, &client);
    instance.ctl("tap 4711").code(65).out("no such session 4711\n");
    instance.ctl("tap -1").code(65).out("no such session -1\n");
    instance.ctl("tap 99999999999999999999999").code(65);
    for wrong in ["tap", "tap x", "tap 1 file", "tap 1 2 3", "tap 1 1KiB 1KiB", "tap 1 - x.pcapng"] {
        instance.ctl(wrong).code(64).out("usage: tap <id> [<time>] [<size>] [<file>.pcapng|-]\n");
    }
    let told = instance.ctl(&format!("tap {id} 10ms; version")).code(0).stdout;
    assert!(
        told.contains(&format!("\\ 10ms have passed; session {id} goes on\n  This is balance")),
        "{told}"
    );
    instance.ctl("show; tap 1 -").code(64);
    // Only so many at one time.
    let taps: Vec<Watcher> =
        (0..16).map(|_| Watcher::start(&instance, &format!("tap {id}")).begun()).collect();
    let told = "16 taps are open, which is the maximum; end one of them\n";
    instance.ctl(&format!("tap {id}")).code(75).out(told);
    drop(taps);
    eventually("there is a place again", || (instance.ctl(&format!("tap {id} 1ms")).code == 0).then_some(()));
    drop(client);
    instance.end();
}

#[test]
fn a_size_ends_it_at_the_byte() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    let id = number_of(&instance, &client);
    let tap = Watcher::start(&instance, &format!("tap {id} 1KiB 1h")).begun();
    let stream = Stream::new(7, Direction::Sent);
    client.send(stream.bytes(0, 3_000));
    client.recv_stream(stream, 3_000);
    let (text, code, _) = tap.ends();
    let (parts, marks) = read_back(&text);
    let (sent, rcvd) = (check(&parts[0], stream).0, check(&parts[1], stream).0);
    assert_eq!((sent + rcvd, code), (1_024, 0), "{text}");
    assert_eq!(marks.last().map(String::as_str), Some(&*format!("1KiB were shown; session {id} goes on")));
    drop(client);
    instance.end();
}

#[test]
fn every_end_of_a_session_ends_the_tap_in_the_same_words() {
    let server = Server::echo();
    let instance = Instance::start(["--queue", "9", "PORT", &format!("{server}:1")]);
    let shown = |client: &Client| {
        let id = number_of(&instance, client);
        (id, Watcher::start(&instance, &format!("tap {id}")).begun())
    };
    let ends = |(id, tap): (u64, Watcher), how: &str| {
        let (text, code, _) = tap.ends();
        assert!(text.ends_with(&format!("\\ session {id} has ended: {how}\n")), "{text}");
        assert_eq!(code, 0);
    };
    let client = instance.connect();
    let tap = shown(&client);
    // It waits for a channel, and nothing is known of that yet.
    let next = instance.connect();
    let waits = shown(&next);
    assert!(waits.1.text().contains("no channel yet; not shown: 0 bytes"), "{}", waits.1.text());
    client.rst();
    ends(tap, "client reset");
    let mut next = next;
    next.send("hello");
    assert_eq!(next.recv(5), b"hello");
    waits.1.awaits("-> 5\nhello\n-< 5\nhello\n");
    instance.ctl(&format!("close {}", waits.0)).code(0);
    ends(waits, "closed by operator");
    drop(next);
    let client = instance.connect();
    let tap = shown(&client);
    instance.ctl("kick 0").code(0);
    ends(tap, "kicked");
    drop(client);
    let client = instance.connect();
    let tap = shown(&client);
    drop(client);
    ends(tap, "client closed");
    instance.end();
}

#[test]
fn a_busy_session_loses_nothing_while_taps_come_and_go() {
    let stops = Arc::new(AtomicBool::new(false));
    let (server, told) = busy_server(&stops);
    let instance = Instance::before(&[&server]);
    let client = instance.connect();
    let id = number_of(&instance, &client);
    let [sent, rcvd] = [Direction::Sent, Direction::Rcvd].map(|way| Stream::new(0, way));
    let read = reading(client.0.try_clone().expect("a descriptor"), rcvd);
    let pump = Pump::into(client.0.try_clone().expect("a descriptor"), sent);
    // Enough that it is spliced, in a build that splices.
    eventually("much of it goes through", || (moved(&instance, id) > 16 << 20).then_some(()));
    for round in 0..12 {
        let taps: Vec<Watcher> =
            (0..1 + round % 3).map(|_| Watcher::start(&instance, &format!("tap {id}")).begun()).collect();
        for tap in &taps {
            // Some is shown, and then it is stopped for a while, killed, or both.
            eventually("it shows something", || (tap.text().len() > 200_000).then_some(()));
            if round % 2 == 0 {
                tap.signal(Signal::STOP);
            }
        }
        for tap in taps {
            if round % 4 < 2 {
                tap.signal(Signal::CONT);
            }
            tap.signal(Signal::KILL);
            // What it wrote last may be cut in the middle.
            tap.ends();
        }
    }
    let tap = Watcher::start(&instance, &format!("tap {id} 1h")).begun();
    eventually("it shows something", || (tap.text().len() > 1_000_000).then_some(()));
    tap.signal(Signal::STOP);
    // Nobody reads it, and the session goes on.
    let before = moved(&instance, id);
    eventually("the session goes on", || (moved(&instance, id) > before + (24 << 20)).then_some(()));
    tap.signal(Signal::CONT);
    stops.store(true, Ordering::SeqCst);
    let bytes_sent = pump.stop();
    let bytes_rcvd = read.join().expect("each byte is right");
    assert_eq!(told.recv().expect("the server tells"), (bytes_sent, bytes_rcvd));
    let (text, code, _) = tap.ends();
    let (parts, _) = read_back(&text);
    let (up_to, missing) =
        [(&parts[0], sent), (&parts[1], rcvd)].map(|(parts, stream)| check(parts, stream)).into();
    assert_eq!(
        (up_to.0, missing.0, code),
        (bytes_sent, bytes_rcvd, 0),
        "what was left out is told to the byte"
    );
    assert!(up_to.1 + missing.1 > 1 << 20, "{up_to:?} {missing:?}");
    instance.end();
}

/// Bytes of a session so far.
fn moved(instance: &Instance, id: u64) -> u64 {
    let sessions = instance.ctl("sessions").code(0).stdout;
    let line = sessions.lines().find(|line| line.split_whitespace().next() == Some(&id.to_string()));
    let words: Vec<&str> = line.expect("it is there").split_whitespace().collect();
    words[6].parse::<u64>().expect("bytes") + words[7].parse::<u64>().expect("bytes")
}

#[test]
#[cfg_attr(any(not(target_os = "linux"), portable), ignore = "nothing is spliced in this build")]
fn after_the_tap_a_session_is_spliced_again() {
    let stops = Arc::new(AtomicBool::new(false));
    let (server, _told) = busy_server(&stops);
    let instance = Instance::before(&[&server]);
    let client = instance.connect();
    let id = number_of(&instance, &client);
    let read = reading(client.0.try_clone().expect("a descriptor"), Stream::new(0, Direction::Rcvd));
    let pump = Pump::into(client.0.try_clone().expect("a descriptor"), Stream::new(0, Direction::Sent));
    let splices = || {
        let calls = Run::new("timeout")
            .args([
                "--signal=INT",
                "1",
                "strace",
                "-f",
                "-c",
                "-e",
                "trace=splice",
                "-p",
                &instance.pid().to_string(),
            ])
            .finish();
        calls.stderr.lines().find(|line| line.ends_with("splice")).is_some()
    };
    eventually("it flows, so it is spliced", || splices().then_some(()));
    let tap = Watcher::start(&instance, &format!("tap {id} 1h")).begun();
    // What was in the pipes by then goes out.
    eventually("it is copied: what is spliced is not seen", || (!splices()).then_some(()));
    drop(tap);
    eventually("it is spliced again", || splices().then_some(()));
    stops.store(true, Ordering::SeqCst);
    pump.stop();
    read.join().expect("each byte is right");
    instance.end();
}

#[test]
fn half_closed_and_urgent_bytes_pass_through_a_tap() {
    let server = Server::with(|stream, _| {
        let mut stream = Client::of(stream);
        assert_eq!(stream.recv_all(), b"ab");
        stream.send("after the end");
    });
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    client.send("a");
    let id = number_of(&instance, &client);
    eventually("it has passed", || (moved(&instance, id) >= 1).then_some(()));
    let tap = Watcher::start(&instance, &format!("tap {id}")).begun();
    client.send_urgent(b'!');
    tap.awaits("-> 1\n!\n");
    client.send("b");
    tap.awaits("-> 1\nb\n");
    client.shut_wr();
    assert_eq!(client.recv_all(), b"after the end");
    let (text, code, _) = tap.ends();
    let (parts, _) = read_back(&text);
    let seen = parts.map(|parts| parts.into_iter().filter_map(Result::ok).flatten().collect::<Vec<u8>>());
    assert_eq!((seen, code), ([b"!b".to_vec(), b"after the end".to_vec()], 0), "{text}");
    instance.end();
}

#[test]
fn an_asker_that_goes_away_leaves_nothing_behind() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    let id = number_of(&instance, &client);
    let open = instance.descriptors();
    let err = instance.directory.path().join("err");
    // A pipe whose reader goes while nothing is shown.
    let mut child = ask(&instance, &format!("tap {id}"), Stdio::piped(), &err);
    let mut reader: ChildStdout = child.stdout.take().expect("a pipe");
    assert_eq!(reader.read(&mut [0; 2]).expect("it begins"), 2);
    drop(reader);
    let status = eventually("it ends with its reader", || child.try_wait().expect("our own child"));
    assert_eq!((status.code(), fs::read_to_string(&err).expect("a file")), (Some(0), String::new()));
    // One that is interrupted, and one that is killed.
    for (signal, code) in [(Signal::INT, 130), (Signal::KILL, 137)] {
        let tap = Watcher::start(&instance, &format!("tap {id}")).begun();
        tap.signal(signal);
        assert_eq!(tap.ends().1, code);
    }
    // A disk that is full.
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let mut child = ask(&instance, &format!("tap {id} 1h"), full.into(), &err);
    let status = eventually("it ends with its disk", || child.try_wait().expect("our own child"));
    let told = fs::read_to_string(&err).expect("a file");
    assert_eq!(status.code(), Some(74), "{told}");
    assert!(told.starts_with("balance: cannot write the answer: No space left"), "{told}");
    eventually("no descriptor is left", || (instance.descriptors() <= open).then_some(()));
    client.send("x");
    assert_eq!(client.recv(1), b"x");
    drop(client);
    instance.end();
}

#[test]
fn an_asker_that_stands_still_is_not_waited_for_and_is_told() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    let id = number_of(&instance, &client);
    let tap = Watcher::start(&instance, &format!("tap {id} 10s")).begun();
    tap.signal(Signal::STOP);
    let stream = Stream::new(id, Direction::Sent);
    for at in (0..8 << 20).step_by(64 << 10) {
        client.send(stream.bytes(at, 64 << 10));
        stream.check(at, &client.recv(64 << 10));
    }
    eventually("the instance has let it go", || (!instance.has_thread("session")).then_some(()));
    tap.signal(Signal::CONT);
    let (_, code, told) = tap.ends();
    let expected = "balance: the answer was not read in time, and its end is missing\n";
    assert_eq!((code, told.as_str()), (74, expected));
    drop(client);
    instance.end();
}

#[test]
fn a_tap_follows_its_session_to_another_process() {
    let server = Server::echo();
    let mut instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    let id = number_of(&instance, &client);
    let tap = Watcher::start(&instance, &format!("tap {id}")).begun();
    client.send("one");
    client.recv(3);
    tap.awaits("-< 3\none\n");
    instance.upgrade();
    let there = "not shown: 3 bytes sent and 3 received before\n";
    tap.awaits(there);
    client.send("two");
    client.recv(3);
    tap.awaits("-< 3\ntwo\n");
    drop(client);
    let (text, code, told) = tap.ends();
    assert!(text.contains(&format!("\\ session {id} is being handed over to another process\n")), "{text}");
    assert!(text.ends_with(&format!("\\ session {id} has ended: client closed\n")), "{text}");
    assert_eq!((code, told.as_str()), (0, ""));
    instance.end();
}

#[test]
fn in_the_shell_an_interrupt_ends_the_tap_and_not_the_shell() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    let id = number_of(&instance, &client);
    let mut terminal = crate::harness::Terminal::shell(&instance);
    terminal.types(&format!("tap {id}\n"));
    terminal.awaits("not shown: 0 bytes");
    client.send("seen\x1b]0;evil\x07");
    terminal.awaits("seen\\1B]0;evil\\07");
    assert!(!terminal.said().contains("\x1b]0;evil"));
    // A Ctrl-C may come before the terminal makes a signal of it, and shows it as "^C". What is typed while
    // the tap runs is nobody's.
    terminal.types_until("\x03", |said| {
        said.rsplit_once("^C").is_some_and(|(_, rest)| rest.contains("balance["))
    });
    terminal.types_until("version\n", |said| said.contains("This is balance"));
    terminal.types("quit\n");
    terminal.ends();
    drop(client);
    instance.end();
}

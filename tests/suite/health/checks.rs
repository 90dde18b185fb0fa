//! Checks of test servers: how many answers they need, what they ask where, how a probe's connection ends.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::harness::{Instance, Revivable, Server, eventually, own_address, pause, unless_held_up};

use super::names;

/// Answers checks by a list, each when the test lets it.
struct Script {
    server: Server,
    arrived: Arc<AtomicUsize>,
    allowed: Arc<AtomicUsize>,
}

impl Script {
    /// The last answer is given for ever.
    fn new(answers: &'static [&'static str]) -> Self {
        let (arrived, allowed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (arrivals, permits) = (Arc::clone(&arrived), Arc::clone(&allowed));
        let server = Server::with(move |mut stream, number| {
            arrivals.fetch_max(number + 1, Ordering::SeqCst);
            while permits.load(Ordering::SeqCst) <= number {
                pause();
            }
            let answer = answers.get(number).or(answers.last()).expect("an answer");
            let _ = stream.write_all(answer.as_bytes());
            while matches!(stream.read(&mut [0; 1024]), Ok(1..)) {}
        });
        Self { server, arrived, allowed }
    }

    /// Lets the next answer go, and waits until it was taken: the check after it has come.
    fn answer(&self) {
        let taken = self.allowed.fetch_add(1, Ordering::SeqCst) + 1;
        eventually("the next check", || (self.arrived.load(Ordering::SeqCst) > taken).then_some(()));
    }

    /// From now on everything is answered at once.
    fn open(&self) {
        self.allowed.store(usize::MAX, Ordering::SeqCst);
    }
}

impl std::fmt::Display for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.server.fmt(f)
    }
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const BAD: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy";

#[test]
fn it_takes_fall_failures_to_go_down_and_rise_successes_to_come_up() {
    let script = Script::new(&[GOOD, BAD, BAD, GOOD, BAD, BAD, BAD, GOOD, BAD, GOOD, GOOD]);
    let args = ["--check", "http:/health", "--check-interval", "20ms", "--check-timeout", "1m"];
    let args = args.into_iter().chain(["--check-rise", "2", "--check-fall", "3", "PORT"]);
    let instance = Instance::start(args.map(String::from).chain([script.to_string()]));
    eventually("the first check", || (script.arrived.load(Ordering::SeqCst) == 1).then_some(()));
    assert_eq!(instance.health(), "untried");
    let healths = ["up", "up", "up", "up", "up", "up", "down", "down", "down", "down", "up"];
    // How many of three failures in a row it has, while it is up.
    let failed = ["-", "up 1/3", "up 2/3", "-", "up 1/3", "up 2/3"];
    for (at, health) in healths.into_iter().enumerate() {
        script.answer();
        let status = &instance.status()[0];
        assert_eq!(status.health, health, "after answer {at}: {status:?}");
        if health == "down" {
            assert!(status.why.contains("http: status 503"), "{status:?}");
        }
        if let Some(failed) = failed.get(at) {
            let why = if *failed == "-" { "-".to_owned() } else { format!("{failed}: http: status 503") };
            assert_eq!(status.why, why, "after answer {at}");
        }
        assert_eq!(instance.told("channel_down").len(), usize::from(at >= 6), "after answer {at}");
        assert_eq!(instance.told("channel_up").len(), usize::from(at >= 10), "after answer {at}");
    }
    script.open();
    instance.end();
}

#[test]
fn of_a_channel_that_was_never_seen_up_the_first_answer_is_believed() {
    let script = Script::new(&[BAD, GOOD]);
    let args = ["--check", "http:/", "--check-interval", "20ms", "--check-timeout", "1m", "PORT"];
    let instance = Instance::start(args.map(String::from).into_iter().chain([script.to_string()]));
    script.answer();
    assert_eq!(instance.health(), "down");
    script.answer();
    assert_eq!(instance.health(), "down", "but two are needed to rise");
    script.answer();
    assert_eq!(instance.health(), "up");
    script.open();
    instance.end();
}

#[test]
fn a_banner_is_expected_and_another_one_is_down() {
    let busy = Arc::new(AtomicBool::new(false));
    let is_busy = Arc::clone(&busy);
    let server = Server::with(move |mut stream, _| {
        let banner = if is_busy.load(Ordering::SeqCst) { "421 busy\r\n" } else { "220 mail ESMTP\r\n" };
        let _ = stream.write_all(banner.as_bytes());
        while matches!(stream.read(&mut [0; 1024]), Ok(1..)) {}
    });
    let args = ["--check", "expect:220", "--check-interval", "20ms", "--check-timeout", "300ms", "PORT"];
    let instance = Instance::start(args.map(String::from).into_iter().chain([server.to_string()]));
    instance.await_health(0, "up");
    busy.store(true, Ordering::SeqCst);
    let status = instance.await_health(0, "down");
    assert_eq!(status.why, "\"220\" did not come within 300ms", "nothing that the server wrote");
    busy.store(false, Ordering::SeqCst);
    instance.await_health(0, "up");
    instance.end();
}

#[test]
fn a_channel_that_is_down_is_not_offered_and_is_again_when_it_is_up() {
    let (mut a, b) = (Revivable::new("a"), Server::named("b"));
    let args = ["--check", "tcp", "--check-interval", "20ms", "--check-fall", "1", "--no-eject", "PORT"];
    let instance = Instance::start(args.map(String::from).into_iter().chain([a.to_string(), b.to_string()]));
    instance.await_health(0, "up");
    a.stop();
    let status = instance.await_health(0, "down");
    assert!(status.why.contains("connection refused"), "{status:?}");
    assert_eq!(names(&instance, 10), "b".repeat(10));
    let row = &instance.show()[0];
    assert_eq!((row.totalc, &row.state[..]), (0, "ENA"), "no client was tried on it");
    // The last one down, too: fail open tries them in order.
    drop(b);
    instance.await_health(1, "down");
    assert_eq!(names(&instance, 1), "-");
    assert_eq!(instance.show()[0].totalc, 1);
    a.start();
    instance.await_health(0, "up");
    assert_eq!(names(&instance, 4), "aaaa");
    instance.end();
}

#[test]
fn the_port_of_the_check_may_be_another_one() {
    let mut a = Revivable::new("a");
    let port = a.addr.port().to_string();
    // The channels are other servers on the same hosts.
    let served = Server::named_on(a.addr.ip(), "s");
    let b = Server::named_on(own_address().ip(), "b");
    let _checked = Server::at((b.addr.ip(), a.addr.port()).into(), |_, _| ());
    let args = ["--check", "tcp", "--check-interval", "20ms", "--check-port", &port, "PORT"];
    let args = args.map(String::from).into_iter().chain([served.to_string(), "!".into(), b.to_string()]);
    let instance = Instance::start(args);
    instance.await_health(0, "up");
    assert_eq!(names(&instance, 2), "ss");
    a.stop();
    instance.await_health(0, "down");
    assert_eq!(names(&instance, 4), "bbbb", "though the channel itself would answer");
    assert_eq!(served.accepted(), 2, "its own port was never checked");
    a.start();
    instance.await_health(0, "up");
    assert_eq!(names(&instance, 2), "ss");
    instance.end();
}

/// Writes `reply`, reads to the end, and records how that was.
fn recorder(reply: String) -> (Server, Arc<Mutex<Vec<Option<ErrorKind>>>>) {
    let endings = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&endings);
    let serve = move |mut stream: TcpStream, _| {
        let written = stream.write_all(reply.as_bytes());
        let read = written.and_then(|()| stream.read_to_end(&mut Vec::new()));
        record.lock().expect("no server thread panics with it").push(read.err().map(|e| e.kind()));
    };
    (Server::with(serve), endings)
}

#[test]
fn a_probes_connection_ends_without_a_reset() {
    unless_held_up(200, || {
        let page = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(200_000));
        let banner = format!("220-mail\r\n{}220 ready\r\n", "220-much to read\r\n".repeat(1_000));
        for (check, reply) in [
            ("tcp", String::new()),
            ("tcp", banner.clone()),
            ("http:/", page),
            ("expect:220", banner.clone()),
            ("expect:220;send:QUIT\\r\\n", banner),
            ("send:PING\\r\\n;expect:+PONG", "+PONG\r\n".into()),
            // One that is not as wished ends no worse.
            ("http:/=204", GOOD.into()),
            ("http:/", "SSH-2.0-OpenSSH\r\n".into()),
        ] {
            let (server, endings) = recorder(reply);
            let args = ["--check", check, "--check-interval", "20ms", "PORT"];
            let instance = Instance::start(args.map(String::from).into_iter().chain([server.to_string()]));
            let seen = eventually("some probes", || {
                let seen = endings.lock().expect("no server thread panics with it").clone();
                (seen.len() >= 5).then_some(seen)
            });
            assert!(seen.iter().all(Option::is_none), "{check}: {seen:?}");
            instance.end();
        }
    });
}

#[test]
fn the_host_of_a_check_is_the_one_that_was_typed() {
    // Of a server with two sites one is up. It puts an empty line in front of its answers, as some do.
    let server = Server::with(|mut stream, _| {
        let mut request = Vec::new();
        let mut buffer = [0; 1024];
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(count @ 1..) => request.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        }
        let is_good =
            request.windows(25).any(|line| line == b"\r\nHost: good.example:80\r\n\r\n"[..25].as_ref());
        let _ = stream.write_all(b"\r\n");
        let _ = stream.write_all(if is_good { GOOD } else { BAD }.as_bytes());
        while matches!(stream.read(&mut buffer), Ok(1..)) {}
    });
    for (check, health, why) in [
        ("http://good.example:80/x?y=z=200", "up", "-"),
        ("http://bad.example/", "down", "http: status 503"),
        ("http:/", "down", "http: status 503"),
    ] {
        let instance = Instance::before(&[&"--check", &check, &"--check-interval", &"20ms", &server]);
        assert_eq!(instance.await_health(0, health).why, why, "{check}");
        instance.end();
    }
}

#[test]
fn a_server_that_answers_and_resets_has_answered() {
    unless_held_up(200, || {
        let server = Server::with(|mut stream, _| {
            let _ = stream.write_all(b"220 mail ESMTP\r\n");
            socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).expect("linger");
        });
        for check in ["expect:220", "expect:220;send:QUIT\\r\\n", "tcp"] {
            let args = ["--check", check, "--check-interval", "10ms", "--check-fall", "1", "PORT"];
            let instance = Instance::start(args.map(String::from).into_iter().chain([server.to_string()]));
            let before = server.accepted();
            server.await_accepted(before + 60);
            assert_eq!(instance.told("channel_down"), [""; 0], "{check}: {:?}", instance.status());
            assert_eq!(instance.health(), "up");
            instance.end();
        }
    });
}

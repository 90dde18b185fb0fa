//! Why connects fail, and connections that end by balance's own fault: each cause is produced from outside,
//! and is shown with the same words and numbers everywhere.
//!
//! Source: docs/observability.md, "Why a connect fails" and "How a connection ends".

use std::io::Write;
use std::net::SocketAddr;

use super::access::{await_lines, talking, until_over};
use super::agree::{Numbers, difference, logged, of_json, of_log, of_metrics};
use super::http::{get, has};
use crate::harness::{
    BlackHole, Client, Instance, Refusing, Run, Server, Setup, Tracer, needs_root, own_address, port_range,
    private_network,
};

/// An instance with an access log and HTTP.
struct Told {
    instance: Instance,
    http: SocketAddr,
}

impl Told {
    fn start(options: &[&str], channels: &[&str]) -> Self {
        Self::on(Setup::listening(own_address()), options, channels)
    }

    fn on(setup: Setup, options: &[&str], channels: &[&str]) -> Self {
        let (at, http) = (setup.address(), own_address());
        let log = setup.directory().path().join("access.log").display().to_string();
        let own = at.to_string();
        let mut args = vec!["--access-log", &log, "--http"];
        let http_word = http.to_string();
        args.push(&http_word);
        args.extend(["--no-eject"].iter().chain(options));
        args.push("PORT");
        args.extend(channels.iter().map(|&channel| if channel == "itself" { own.as_str() } else { channel }));
        Self { instance: setup.start(args), http }
    }

    fn log(&self) -> std::path::PathBuf {
        self.instance.directory.path().join("access.log")
    }

    /// So many clients have come and gone: all forms say the same, and that connects failed so often by this cause.
    #[track_caller]
    fn agrees(&self, clients: usize, cause: &str, failures: u64) {
        let log = self.numbers(clients, cause);
        assert_eq!(log.get(&format!(" 0/0 failed {cause}")), Some(&failures), "{cause}: {log:?}");
        let failed = self.instance.status().iter().map(|row| row.failed).sum::<u64>();
        assert_eq!(failed, failures, "{cause}: status");
    }

    /// What all forms say after so many clients.
    #[track_caller]
    fn numbers(&self, clients: usize, what: &str) -> Numbers {
        let log = await_lines(&self.log(), clients);
        let json = |command: &str| {
            let text = self.instance.ctl(command).code(0).stdout;
            of_json(&serde_json::from_str(&text).expect("JSON"), "")
        };
        // What a line tells was counted before it was written.
        let (show, status) = (json("show json"), json("status json"));
        let text = get(self.http, "/metrics").1;
        let (log, metrics) = (of_log(&log), of_metrics(&text, |_| String::new()));
        for (form, numbers) in [("status json", &status), ("metrics", &metrics)] {
            assert_eq!(difference(&show, numbers), [""; 0], "show json and {form}, {what}");
        }
        assert_eq!(difference(&log, &logged(&show)), [""; 0], "access log and show json, {what}");
        if has("promtool") {
            Run::new("promtool").args(["check", "metrics"]).stdin(&text).finish().code(0).out("");
        }
        log
    }
}

fn visit(told: &Told) {
    until_over(told.instance.connect());
}

#[test]
fn a_cause_is_told_in_the_same_words_and_numbers_everywhere() {
    private_network("routes of its own", || {
        for (kind, to) in [("unreachable", "10.9.0.1"), ("prohibit", "10.9.0.2"), ("blackhole", "10.9.0.3")] {
            Run::new("ip").args(["route", "add", kind, to]).finish().code(0);
        }
        let (refusing, hole) = (Refusing::new(), BlackHole::new());
        let (refusing, hole) = (&*refusing.to_string(), &*hole.to_string());
        for (cause, options, channel) in [
            ("connection refused", &[][..], refusing),
            ("no answer in time", &["-t", "50ms"], hole),
            ("host unreachable", &[], "10.9.0.1:80"),
            ("permission denied", &[], "10.9.0.2:80"),
            ("address not usable", &[], "10.9.0.3:80"),
            ("network unreachable", &[], "192.0.2.1:80"),
            ("address not available", &["-B", "127.0.0.1"], "[::1]:80"),
            ("leads back to this service", &[], "itself"),
        ] {
            let told = Told::start(options, &[channel]);
            for _ in 0..3 {
                visit(&told);
            }
            told.agrees(3, cause, 3);
            told.instance.terminate();
        }
    });
}

#[test]
fn what_the_kernel_denies_us_or_says_of_a_channel_seldom_is_told_alike_too() {
    if needs_root("strace on a process that is not its child") {
        return;
    }
    let server = Server::echo();
    for (cause, fault) in [
        ("too many open files", "socket:error=EMFILE"),
        ("out of memory", "socket:error=ENOBUFS"),
        ("timed out", "connect:error=ETIMEDOUT"),
        ("connection reset", "connect:error=ECONNRESET"),
        ("network down", "connect:error=ENETDOWN"),
        ("other error", "connect:error=EPROTO"),
    ] {
        let told = Told::start(&["-t", "50ms"], &[&server.to_string()]);
        let call = fault.split(':').next().expect("a call");
        let tracer = Tracer::attach(&told.instance, &[&format!("trace={call}"), &format!("inject={fault}")]);
        for _ in 0..2 {
            visit(&told);
        }
        drop(tracer);
        told.agrees(2, cause, 2);
        // Those that have a connection in the end have told nothing but the truth.
        let client = talking(&told.instance);
        client.shut_wr();
        until_over(client);
        told.agrees(3, cause, 2);
        told.instance.terminate();
    }
}

#[test]
fn a_socket_that_cannot_be_watched_is_told_as_that() {
    if needs_root("strace on a process that is not its child") {
        return;
    }
    let server = Server::echo();
    let told = Told::start(&["-t", "50ms", "--workers", "1"], &[&server.to_string()]);
    // The first one is for the client.
    let tracer =
        Tracer::attach(&told.instance, &["trace=epoll_ctl", "inject=epoll_ctl:error=ENOSPC:when=2+"]);
    visit(&told);
    drop(tracer);
    told.agrees(1, "no watch", 1);
    told.instance.terminate();
}

#[test]
fn a_channel_that_no_source_port_was_left_for_is_told_as_one_that_failed() {
    private_network("a range of ports of its own", || {
        let holds = || {
            Server::with(|stream, _| {
                let mut peer = Client::of(stream);
                peer.send("x");
                peer.ending();
            })
        };
        let (first, second) = (holds(), holds());
        port_range(40_000, 40_001);
        let told =
            Told::start(&["-t", "100ms", "--policy", "first"], &[&first.to_string(), &second.to_string()]);
        let by = |port| {
            let mut client = Client::connect_by(port, told.instance.addr);
            assert_eq!(client.recv(1), b"x");
            client
        };
        // The third finds no port towards the first channel, and goes to the second.
        let clients: Vec<_> = (20_100..20_103).map(by).collect();
        port_range(32_768, 60_999);
        for client in clients {
            client.shut_wr();
            until_over(client);
        }
        told.agrees(3, "no source port is free", 1);
        told.instance.terminate();
    });
}

#[test]
fn a_name_with_several_addresses_fails_once_by_the_cause_of_the_last_one() {
    private_network("a route of its own", || {
        Run::new("ip").args(["route", "add", "unreachable", "10.9.0.1"]).finish().code(0);
        let refusing = Refusing::new();
        let setup = Setup::listening(own_address()).hosts("10.9.0.1 two\n127.0.0.1 two\n");
        let told = Told::on(setup, &[], &[&format!("two:{}", refusing.addr().port())]);
        visit(&told);
        let line = await_lines(&told.log(), 1).remove(0);
        let failed: Vec<&str> = line["failed"].split("; ").collect();
        assert_eq!((failed.len(), &*line["attempts"]), (2, "2"), "{line:?}");
        let text = told.instance.ctl("show json").code(0).stdout;
        let shown = of_json(&serde_json::from_str(&text).expect("JSON"), "");
        let (_, last) = failed[1]
            .rsplit_once(&format!(" {} ", failed[1].split(' ').nth(1).expect("an address")))
            .expect("a cause");
        let counted: Vec<_> = shown.iter().filter(|(name, _)| name.contains(" failed ")).collect();
        assert_eq!(counted, [(&format!(" 0/0 failed {last}"), &1)]);
        told.instance.terminate();
    });
}

#[test]
fn a_connection_that_ends_by_our_own_fault_says_which() {
    if needs_root("strace on a process that is not its child") {
        return;
    }
    let server = Server::echo();
    for (end, fault) in [
        // A worker's first call is for the client.
        ("internal error: no watch", "epoll_ctl:error=ENOSPC:when=1"),
        ("internal error: no memory", "recvfrom:error=ENOMEM"),
    ] {
        let told = Told::start(&["-t", "100ms", "--workers", "1"], &[&server.to_string()]);
        let call = fault.split(':').next().expect("a call");
        let tracer = Tracer::attach(&told.instance, &[&format!("trace={call}"), &format!("inject={fault}")]);
        // It may be over before it is known to be connected.
        if let Ok(mut client) = Client::try_connect(told.instance.addr, None, None) {
            let _ = client.0.write_all(b"x");
            until_over(client);
        }
        drop(tracer);
        let numbers = told.numbers(1, end);
        assert_eq!(numbers.get(&format!(" end {end}")), Some(&1), "{fault}: {numbers:?}");
        told.instance.terminate();
    }
}

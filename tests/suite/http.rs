//! `--http`: metrics and probes, requested by real clients and by misbehaving ones.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::harness::{
    Client, DEADLINE, Directory, Finished, Instance, Over, Refusing, Run, Server, Setup, eventually,
    eventually_within, own_address,
};

/// A program that the tests need. `ci/test` installs it, so that there none of this is ever left out.
pub(super) fn has(program: &str) -> bool {
    let is_there = Run::new("sh").args(["-c", &format!("command -v {program}")]).finish().code == 0;
    assert!(is_there || std::env::var_os("CI").is_none(), "{program} is missing: ci/test installs it");
    if !is_there {
        eprintln!("LEFT OUT: {program} is not installed, and what it would check is not checked");
    }
    is_there
}

/// An instance that answers HTTP, and where.
fn instance(channels: &[&dyn std::fmt::Display]) -> (Instance, SocketAddr) {
    let at = own_address();
    let mut args = vec!["--http".to_owned(), at.to_string(), "PORT".to_owned()];
    args.extend(channels.iter().map(ToString::to_string));
    (Instance::start(args), at)
}

/// What is sent back for these bytes, to the end.
pub(super) fn raw(at: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    // It may answer, and close, before it has all of it.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status and the body of a GET.
pub(super) fn get(at: SocketAddr, path: &str) -> (u16, String) {
    let answer =
        raw(at, format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").as_bytes());
    let status = status(&answer);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

pub(super) fn status(answer: &str) -> u16 {
    let code = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    code.unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

/// The samples of a text, by series.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
        (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line:?}")))
    };
    let all: Vec<_> = lines.map(sample).collect();
    let count = all.len();
    let all: BTreeMap<_, _> = all.into_iter().collect();
    assert_eq!(all.len(), count, "a series twice");
    all
}

pub(super) fn metrics(at: SocketAddr) -> BTreeMap<String, f64> {
    let (status, body) = get(at, "/metrics");
    assert_eq!(status, 200);
    samples(&body)
}

/// The series of this family that has this in its labels.
fn value(samples: &BTreeMap<String, f64>, family: &str, label: &str) -> f64 {
    let is_it = |series: &&String| series.split('{').next() == Some(family) && series.contains(label);
    let found: Vec<_> = samples.keys().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{family} with {label}: {found:?} of {samples:#?}");
    samples[found[0]]
}

/// A client that says this, hears it and goes.
pub(super) fn ask(at: SocketAddr, bytes: &[u8]) {
    let mut client = Client::connect(at);
    client.send(bytes);
    assert_eq!(client.recv(bytes.len()), bytes);
}

pub(super) fn curl(args: &[&str]) -> Finished {
    Run::new("curl").args(["-sS", "--noproxy", "*", "-m", "20"]).args(args).finish()
}

#[test]
fn curl_gets_health_readiness_and_metrics() {
    let server = Server::echo();
    let (instance, at) = instance(&[&server]);
    let url = |path: &str| format!("http://{at}{path}");
    curl(&[&url("/healthz")]).code(0).out("ok\n");
    curl(&[&url("/readyz")]).code(0).out("ok\n");
    curl(&[&url("/%68ealthz?x=y")]).code(0).out("ok\n");
    curl(&["-0", &url("/healthz")]).code(0).out("ok\n");
    // Both over one connection, and by way of a proxy's form of the target.
    let twice = curl(&["-v", &url("/healthz"), &url("/readyz")]).code(0).out("ok\nok\n");
    assert!(twice.stderr.contains("Re-using existing connection"), "{twice}");
    curl(&["--proxy", &url(""), "--noproxy", "", "http://localhost/healthz"]).code(0).out("ok\n");
    let head = curl(&["-I", &url("/metrics")]).code(0).stdout;
    assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    assert!(!head.contains("Content-Length: 0\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let open = curl(&["-i", "-H", "Accept: application/openmetrics-text; version=1.0.0", &url("/metrics")])
        .code(0)
        .stdout;
    assert!(
        open.contains("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{open}"
    );
    assert!(
        open.ends_with("\n# EOF\n") && open.contains("# UNIT balance_channel_sent_bytes bytes\n"),
        "{open}"
    );
    for (path, code) in [
        ("//metrics", "404"),
        ("/metrics/", "404"),
        ("/METRICS", "404"),
        ("/../metrics", "404"),
        ("/%zz", "400"),
    ] {
        let code_of = curl(&["--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", &url(path)]);
        code_of.code(0).out(code);
    }
    let post = curl(&["-i", "-d", &"x".repeat(100_000), &url("/metrics")]).code(0).stdout;
    assert!(post.contains("HTTP/1.1 405 ") && post.contains("Allow: GET, HEAD\r\n"), "{post}");
    instance.end();
}

#[test]
fn metrics_tell_what_show_tells() {
    let (server, refuses) = (Server::echo(), Refusing::new());
    let (instance, at) = instance(&[&server, &refuses]);
    for _ in 0..4 {
        ask(instance.addr, b"abc");
    }
    let ends = |seen: &BTreeMap<String, f64>| -> f64 {
        seen.iter()
            .filter(|(series, _)| series.starts_with("balance_service_ends_total{"))
            .map(|(_, n)| n)
            .sum()
    };
    let seen = eventually("all connections have ended", || {
        let seen = metrics(at);
        let counted = value(&seen, "balance_channel_connection_duration_seconds_count", "channel=\"0\"");
        (counted == 4.0 && ends(&seen) == 4.0).then_some(seen)
    });
    let rows = instance.show();
    for row in &rows {
        let label = format!("channel=\"{}\"", row.channel);
        let is = |family: &str| value(&seen, family, &label);
        assert_eq!(is("balance_channel_connections_total"), row.totalc as f64, "{row:?}");
        assert_eq!(is("balance_channel_sent_bytes_total"), row.sent as f64, "{row:?}");
        assert_eq!(is("balance_channel_received_bytes_total"), row.rcvd as f64, "{row:?}");
        assert_eq!(is("balance_channel_active_connections"), 0.0);
    }
    assert_eq!(value(&seen, "balance_channel_up", &format!("host=\"{server}\"")), 1.0);
    assert_eq!(value(&seen, "balance_channel_up", &format!("host=\"{refuses}\"")), 0.0);
    assert_eq!(value(&seen, "balance_channel_connect_failures_total", "channel=\"1\""), 1.0);
    assert_eq!(value(&seen, "balance_service_connections", ""), 0.0);
    assert_eq!(value(&seen, "balance_service_ready", ""), 1.0);
    let bucket = format!("host=\"{server}\",le=\"+Inf\"");
    assert_eq!(value(&seen, "balance_channel_connect_seconds_bucket", &bucket), 4.0);
    assert_eq!(ends(&seen), 4.0);
    // No limit, no series; and a limit is one.
    assert!(!seen.keys().any(|series| series.starts_with("balance_channel_max_connections")));
    instance.ctl("maxc 1 7").code(0);
    assert_eq!(value(&metrics(at), "balance_channel_max_connections", "channel=\"1\""), 7.0);
    instance.end();
}

#[test]
fn counters_never_go_backwards() {
    let server = Server::echo();
    let (instance, at) = instance(&[&server]);
    let counters = |samples: &BTreeMap<String, f64>| -> BTreeMap<String, f64> {
        let is_counter = |series: &String| {
            let family = series.split('{').next().unwrap_or_default();
            ["_total", "_bucket", "_count", "_sum"].iter().any(|end| family.ends_with(end))
        };
        samples
            .iter()
            .filter(|(series, _)| is_counter(series))
            .map(|(series, n)| (series.clone(), *n))
            .collect()
    };
    let mut before = BTreeMap::new();
    for round in 1..=3 {
        for _ in 0..round {
            ask(instance.addr, b"abcd");
        }
        let now = eventually("they have ended", || {
            let now = counters(&metrics(at));
            let family = "balance_channel_connection_duration_seconds_count";
            (value(&now, family, "") == f64::from((1..=round).sum::<i32>())).then_some(now)
        });
        for (series, last) in &before {
            assert!(
                now.get(series).is_some_and(|now| now >= last),
                "{series} was {last}, is {:?}",
                now.get(series)
            );
        }
        before = now;
        instance.ctl("reset 0").code(0);
        assert_eq!(instance.show()[0].totalc, 0);
        let after = counters(&metrics(at));
        for (series, last) in &before {
            assert!(after.get(series) >= Some(last), "{series} was {last}, is {:?}", after.get(series));
        }
    }
    assert_eq!(value(&before, "balance_channel_sent_bytes_total", ""), 24.0);
    instance.end();
}

#[test]
fn readiness_says_why_in_the_words_of_status() {
    let (server, refuses) = (Server::echo(), Refusing::new());
    let directory = Directory::new();
    let (one, two, at) = (own_address(), own_address(), own_address());
    let file = directory.file(
        "services.conf",
        &format!(
            "* --http {at}\nweb: -b {} {} {server}\n-b {} {} {refuses}\n",
            one.ip(),
            one.port(),
            two.ip(),
            two.port()
        ),
    );
    let instance = Setup::binding(one).start(["--file", &file.display().to_string()]);
    assert_eq!(get(at, "/readyz"), (200, "ok\n".to_owned()));
    // The first client finds out.
    let _ = Client::connect(two).ending();
    let why = format!("{two}: no usable channel: 0 0 {refuses} ENA ejected (connect: connection refused)\n");
    assert_eq!(get(at, "/readyz"), (503, why.clone()));
    assert_eq!(get(at, &format!("/readyz/{two}")), (503, why.clone()));
    assert_eq!(get(at, "/readyz/web"), (200, "ok\n".to_owned()));
    assert_eq!(get(at, &format!("/readyz/{}", one.port())), (200, "ok\n".to_owned()));
    assert_eq!(get(at, "/readyz/w%65b"), (200, "ok\n".to_owned()));
    assert_eq!(get(at, "/readyz/nobody%0d%0aX").0, 404);
    // The verb says the same, of the current service and of all.
    let ready = |command: &str| {
        let all = Run::balance(&instance.directory).args(["-c", command, "web"]).finish();
        (all.code, all.stdout)
    };
    assert_eq!(ready("ready"), (0, "ready\n".to_owned()));
    assert_eq!(ready("ready all"), (69, why));
    assert_eq!(ready(&format!("use {two}; ready")).0, 69);
    assert_eq!(
        ready("disable 0; ready"),
        (69, format!("channel 0 disabled\nweb: no usable channel: 0 0 {server} dis untried\n"))
    );
    let lines = get(at, "/readyz").1;
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert_eq!(ready("enable 0; ready").0, 0);
    // One that is stopped counts no more, unless it is asked for by its name.
    let held = Client::connect(one);
    instance.ctl("use web; kill").code(0);
    assert_eq!(get(at, "/readyz/web"), (503, "web: draining\n".to_owned()));
    drop(held);
    instance.terminate();
}

#[test]
fn a_channel_that_gets_another_host_has_counted_nothing_for_it_yet() {
    let (server, other) = (Server::echo(), Server::echo());
    let (instance, at) = instance(&[&server]);
    let total =
        |host: &Server| value(&metrics(at), "balance_channel_connections_total", &format!("host=\"{host}\""));
    for _ in 0..3 {
        ask(instance.addr, b"abc");
    }
    assert_eq!(total(&server), 3.0);
    let assign = format!("disable 0; assign 0 {} {}; enable 0", other.addr.ip(), other.addr.port());
    instance.ctl(&assign).code(0);
    assert_eq!(total(&other), 0.0);
    ask(instance.addr, b"abc");
    assert_eq!(total(&other), 1.0);
    instance.end();
}

#[test]
fn a_paused_service_is_ready_since_its_clients_wait() {
    let server = Server::echo();
    let (instance, at) = instance(&[&server]);
    instance.ctl("pause all").code(0);
    assert_eq!(get(at, "/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(value(&metrics(at), "balance_service_paused", ""), 1.0);
    instance.end();
}

#[test]
fn what_drains_is_not_ready_and_answers_to_the_end() {
    let server = Server::echo();
    let (instance, at) = instance(&[&server]);
    let mut client = Client::connect(instance.addr);
    client.send(b"x");
    assert_eq!(client.recv(1), b"x");
    instance.signal(rustix::process::Signal::TERM);
    eventually("it drains", || (get(at, "/readyz").0 == 503).then_some(()));
    let label = instance.addr.to_string();
    assert_eq!(get(at, "/readyz").1, format!("{label}: draining\n"));
    assert_eq!(get(at, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(value(&metrics(at), "balance_service_draining", ""), 1.0);
    drop(client);
    instance.killed();
}

#[test]
fn after_kill_the_next_instance_has_the_port() {
    let server = Server::echo();
    let (first, at) = instance(&[&server]);
    let mut client = Client::connect(first.addr);
    client.send(b"x");
    assert_eq!(client.recv(1), b"x");
    first.ctl("kill").code(0);
    let second = Instance::start(["--http", &at.to_string(), "PORT", &server.to_string()]);
    assert_eq!(get(at, "/readyz"), (200, "ok\n".to_owned()));
    drop(client);
    first.killed();
    second.end();
}

#[test]
fn an_upgrade_from_one_address_to_all_and_back_has_the_port_and_one_that_fails_leaves_it() {
    let server = Server::echo();
    let (address, one, other) = (own_address(), own_address(), own_address());
    // A port that no client of anybody's has, at no address.
    let port =
        (11_000..19_000).find(|&port| std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok());
    let port = port.expect("a free port");
    let (one, all) = (SocketAddr::new(one.ip(), port), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    let setup = Setup::binding(address);
    let text =
        |http: SocketAddr| format!("* --http {http}\n-b {} {} {server}\n", address.ip(), address.port());
    let file = setup.directory().file("services", &text(one));
    let write = |http| std::fs::write(&file, text(http)).expect("a file of ours");
    let mut instance = setup.start(["--file", &file.display().to_string()]);
    let elsewhere = SocketAddr::new(other.ip(), port);
    write(all);
    // Another one has the port elsewhere.
    let taken = std::net::TcpListener::bind(elsewhere).expect("a port of our own");
    let refused = instance.ctl("upgrade");
    assert_ne!(refused.code, 0, "{refused}");
    assert_eq!(get(one, "/healthz"), (200, "ok\n".to_owned()), "as before");
    drop(taken);
    instance.upgrade();
    assert_eq!([get(one, "/healthz").0, get(elsewhere, "/healthz").0], [200; 2]);
    write(one);
    instance.upgrade();
    assert_eq!(get(one, "/healthz").0, 200);
    TcpStream::connect(elsewhere).expect_err("nobody listens there");
    instance.end();
}

#[test]
fn an_upgrade_onto_another_port_frees_the_one_before() {
    let server = Server::echo();
    let (address, one, two) = (own_address(), own_address(), own_address());
    let setup = Setup::binding(address);
    let text = |http: &str| format!("{http}\n-b {} {} {server}\n", address.ip(), address.port());
    let file = setup.directory().file("services", &text(&format!("* --http {one}")));
    let write = |text: &str| std::fs::write(&file, text).expect("a file of ours");
    let mut instance = setup.start(["--file", &file.display().to_string()]);
    let is_free = |at: SocketAddr| TcpStream::connect(at).is_err();
    for (now, before) in [(two, one), (one, two)] {
        write(&text(&format!("* --http {now}")));
        instance.upgrade();
        assert_eq!(get(now, "/healthz"), (200, "ok\n".to_owned()));
        assert!(is_free(before), "nobody answers there, so nobody may be let in");
    }
    write(&text(""));
    instance.upgrade();
    assert!(is_free(one) && is_free(two));
    instance.end();
}

#[test]
fn a_port_that_another_process_has_is_an_error_at_the_start() {
    let server = Server::echo();
    let (instance, at) = instance(&[&server]);
    let other = own_address();
    let (ip, port) = (other.ip().to_string(), other.port().to_string());
    for foreground in [true, false] {
        let words = ["--http", &at.to_string(), "-b", &ip, &port, &server.to_string()].map(str::to_owned);
        let mut run = Run::balance(&Directory::new());
        if foreground {
            run = run.arg("-f");
        }
        run.args(words).finish().code(71).err(&format!("balance: --http {at}: Address already in use"));
    }
    // Nothing of it is left.
    let third = Setup::binding(other).start(["-b", &ip, &port, &server.to_string()]);
    third.end();
    instance.end();
}

#[test]
fn only_hosts_that_are_ours_are_answered() {
    let server = Server::echo();
    let port = own_address().port();
    let args = ["--http", &format!("localhost:{port}"), "PORT", &server.to_string()].map(str::to_owned);
    let instance = Instance::start(args);
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let at = if TcpStream::connect(at).is_ok() { at } else { SocketAddr::from((Ipv6Addr::LOCALHOST, port)) };
    for (host, expected) in [
        ("localhost", 200),
        ("10.1.2.3:99", 200),
        ("[::1]:80", 200),
        ("rebound.example", 421),
        ("localhost.example:80", 421),
    ] {
        let answer =
            raw(at, format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes());
        assert_eq!(status(&answer), expected, "{host}");
        assert_eq!(answer.contains("balance_"), expected == 200, "{host}");
    }
    instance.end();
}

#[test]
fn a_port_alone_is_loopback_only() {
    let server = Server::echo();
    let port = own_address().port();
    let instance = Instance::start(["--http", &port.to_string(), "PORT", &server.to_string()]);
    assert_eq!(get((Ipv4Addr::LOCALHOST, port).into(), "/healthz").0, 200);
    assert!(TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), port)).is_err());
    instance.end();
}

#[test]
fn an_ipv6_address_is_served() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("LEFT OUT: there is no IPv6 here");
        return;
    }
    let server = Server::echo();
    let at = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), own_address().port());
    let instance = Instance::start(["--http", &at.to_string(), "PORT", &server.to_string()]);
    curl(&["-g", &format!("http://{at}/healthz")]).code(0).out("ok\n");
    instance.end();
}

#[test]
fn what_is_no_request_is_refused_and_harms_nobody() {
    let server = Server::echo();
    let (instance, at) = instance(&[&server]);
    let huge = format!("GET / HTTP/1.1\r\nHost: {at}\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\nHost: {at}\r\n{}\r\n", "A: b\r\n".repeat(1_000));
    for (request, expected) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], 400),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"\0\0\0\0\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 405),
        (b"DELETE / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 405),
        (huge.as_bytes(), 431),
        (many.as_bytes(), 431),
    ] {
        let answer = raw(at, request);
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        assert_eq!(status(&answer), expected, "{shown:?}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{shown:?}: {answer}");
    }
    // What follows a request with a body is not taken for one.
    let smuggled = "GET /healthz HTTP/1.1\r\nHost: [::]\r\nContent-Length: 5\r\n\r\nGET /metrics HTTP/1.1\r\nHost: [::]\r\n\r\n";
    let answer = raw(at, smuggled.as_bytes());
    assert_eq!((answer.matches("HTTP/1.1 ").count(), answer.ends_with("ok\n")), (1, true), "{answer}");
    // Requests in a row are answered in a row, the last one without waiting for more.
    let one = format!("GET /healthz HTTP/1.1\r\nHost: {at}\r\n\r\n");
    let last = format!("GET /healthz HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    let answer = raw(at, format!("{}{last}", one.repeat(9)).as_bytes());
    assert_eq!(answer.matches("\r\n\r\nok\n").count(), 10, "{answer}");
    // A client that has said all it wants to say is answered.
    let mut stream = TcpStream::connect(at).expect("it listens");
    stream.write_all(one.as_bytes()).expect("sent");
    stream.shutdown(Shutdown::Write).expect("shut");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and an end");
    assert!(answer.ends_with("ok\n"), "{answer}");
    assert_eq!(get(at, "/healthz").0, 200);
    instance.end();
}

#[test]
fn who_keeps_all_places_and_says_nothing_keeps_nobody_out() {
    let server = Server::echo();
    let (instance, at) = instance(&[&server]);
    // Half of them are silent, half drip.
    let crowd: Vec<TcpStream> = (0..1_000)
        .map(|n| {
            let mut one = TcpStream::connect(at).expect("the queue takes it");
            if n % 2 == 0 {
                one.write_all(b"GET /metr").expect("sent");
            }
            one
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(get(at, "/readyz"), (200, "ok\n".to_owned()));
        ask(instance.addr, b"abc");
    }
    drop(crowd);
    instance.end();
}

#[test]
fn a_head_that_never_ends_is_ended() {
    let server = Server::echo();
    let (instance, at) = instance(&[&server]);
    let mut slow = TcpStream::connect(at).expect("it listens");
    slow.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
    let mut answer = Vec::new();
    eventually("it is cut off though it goes on to say something", || {
        let _ = slow.write_all(b"x");
        let mut buffer = [0; 512];
        match slow.read(&mut buffer) {
            Ok(0) => Some(()),
            Ok(count) => {
                answer.extend_from_slice(&buffer[..count]);
                Some(())
            }
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Some(()),
            Err(_) => None,
        }
    });
    instance.end();
}

#[test]
fn who_does_not_read_answers_keeps_nobody_out() {
    let server = Server::echo();
    let channels: Vec<String> = (0..500).map(|_| server.to_string()).collect();
    let channels: Vec<&dyn std::fmt::Display> =
        channels.iter().map(|one| one as &dyn std::fmt::Display).collect();
    let (instance, at) = instance(&channels);
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {at}\r\n\r\n");
    let crowd: Vec<TcpStream> = (0..70)
        .map(|_| {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            socket.set_recv_buffer_size(2_048).expect("set");
            socket.connect(&at.into()).expect("it listens");
            let mut stream = TcpStream::from(socket);
            stream.write_all(request.as_bytes()).expect("sent");
            stream
        })
        .collect();
    // In between it makes 64 answers of half a megabyte, in what time it has.
    eventually_within(DEADLINE * 6, "there is a place again", || {
        let answer =
            raw(at, format!("GET /healthz HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").as_bytes());
        answer.ends_with("ok\n").then_some(())
    });
    eventually_within(DEADLINE * 6, "the others get metrics again", || {
        let answer = raw(at, request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes());
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
    drop(crowd);
    instance.end();
}

#[test]
fn scraping_works_when_clients_have_all_descriptors() {
    let server = Server::echo();
    let at = own_address();
    let args = ["--workers", "1", "--http", &at.to_string(), "PORT", &server.to_string()].map(str::to_owned);
    let instance = Setup::new().shell("ulimit -n 80;").start(args);
    // More than can be served: the rest waits.
    let clients: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect(instance.addr).expect("queued")).collect();
    eventually("none is left", || (value(&metrics(at), "balance_descriptors_free", "") < 2.0).then_some(()));
    for _ in 0..5 {
        assert_eq!(get(at, "/healthz").0, 200);
        assert_eq!(value(&metrics(at), "process_max_fds", ""), 80.0);
    }
    drop(clients);
    instance.end();
}

/// The name and the nice value of each thread.
fn threads(instance: &Instance) -> Vec<(String, i32)> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", instance.pid())).expect("it runs");
    let threads = tasks.flatten().filter_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        // The 19th field; the first two are the number and the name.
        Some((name.to_owned(), rest.split_whitespace().nth(16)?.parse().ok()?))
    });
    threads.collect()
}

#[test]
fn who_looks_comes_behind_those_who_are_served() {
    let server = Server::echo();
    let (mut instance, at) = instance(&[&server]);
    for _ in 0..2 {
        let all = eventually("the thread of HTTP stands back", || {
            let all = threads(&instance);
            let others = all.iter().find(|(name, _)| name != "http")?.1;
            all.contains(&("http".to_owned(), (others + 10).min(19))).then_some(all)
        });
        // It alone: workers and checks have the priority of the process.
        let mut others: Vec<i32> =
            all.iter().filter(|(name, _)| name != "http").map(|&(_, nice)| nice).collect();
        others.dedup();
        assert_eq!(others.len(), 1, "{all:?}");
        assert_eq!(get(at, "/healthz").0, 200);
        instance.upgrade();
    }
    instance.end();
}

#[test]
fn an_upgrade_takes_the_port_along_and_loses_no_request() {
    let server = Server::echo();
    let (mut instance, at) = instance(&[&server]);
    ask(instance.addr, b"abc");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&stop);
        let asks = scope.spawn(|| {
            let mut count = 0;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                assert_eq!(get(at, "/healthz"), (200, "ok\n".to_owned()), "request {count}");
                count += 1;
            }
            count
        });
        for _ in 0..2 {
            instance.upgrade();
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(asks.join().expect("all were answered") > 0);
    });
    let seen = metrics(at);
    assert_eq!(value(&seen, "balance_channel_connections_total", ""), 1.0);
    assert_eq!(value(&seen, "balance_channel_sent_bytes_total", ""), 3.0);
    instance.end();
}

#[test]
fn labels_are_escaped_and_promtool_finds_nothing() {
    if !has("promtool") {
        return;
    }
    let (server, refuses) = (Server::echo(), Refusing::new());
    let (instance, at) = instance(&[&server, &refuses, &"localhost:9", &"!", &server]);
    for _ in 0..3 {
        ask(instance.addr, b"abc");
    }
    let (_, text) = get(at, "/metrics");
    Run::new("promtool").args(["check", "metrics"]).stdin(&text).finish().code(0).out("");
    assert!(text.contains("host=\"localhost:9\""), "{text}");
    instance.end();
}

#[test]
fn what_the_docs_give_to_prometheus_is_accepted_by_it() {
    if !has("promtool") {
        return;
    }
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/observability.md");
    let docs = std::fs::read_to_string(docs).expect("the docs");
    let block = |name: &str| {
        let start =
            docs.find(&format!("```yaml\n# {name}")).unwrap_or_else(|| panic!("{name} is in the docs")) + 8;
        docs[start..].split("```").next().expect("it ends").to_owned()
    };
    let directory = Directory::new();
    let rules = directory.file("balance.rules.yml", &block("balance.rules.yml"));
    let checked = Run::new("promtool").args(["check", "rules"]).arg(&rules).finish().code(0);
    assert!(checked.stdout.contains("SUCCESS"), "{checked}");
    let config = directory.file("prometheus.yml", &block("prometheus.yml"));
    Run::new("promtool").args(["check", "config"]).arg(&config).finish().code(0);
    // All metrics that the rules name are there.
    let server = Server::echo();
    let (instance, at) = instance(&[&server]);
    ask(instance.addr, b"abc");
    instance.ctl("maxc 0 5").code(0);
    let text = get(at, "/metrics").1;
    let named = std::fs::read_to_string(&rules).expect("just written");
    let words = named.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for word in words.filter(|word| {
        word.starts_with("balance_channel")
            || word.starts_with("balance_service")
            || word.starts_with("process_")
    }) {
        assert!(text.contains(&format!("\n{word}")), "{word} is in the rules, but not in the metrics");
    }
    instance.end();
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are_in_words_that_prometheus_knows() {
    if !has("promtool") {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/balance.grafana.json");
    let dashboard = std::fs::read_to_string(path).expect("it is there");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let exprs: Vec<&str> = targets.map(|target| target["expr"].as_str().expect("text")).collect();
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, expr) in exprs.iter().enumerate() {
        let expr = expr.replace("$__rate_interval", "5m");
        rules += &format!("      - record: panel:{number}\n        expr: '{expr}'\n");
    }
    let directory = Directory::new();
    let file = directory.file("dashboard.rules.yml", &rules);
    Run::new("promtool").args(["check", "rules"]).arg(&file).finish().code(0);
    // The first refuses: of failures nothing is said before there are any.
    let (refuses, server, at) = (Refusing::new(), Server::echo(), own_address());
    let log = directory.path().join("access.log").display().to_string();
    let [http, refuses, server] = [at.to_string(), refuses.to_string(), server.to_string()];
    let args = ["--http", &http, "--access-log", &log, "PORT", &refuses, &server];
    let instance = Instance::start(args);
    ask(instance.addr, b"abc");
    // One that waits: otherwise nothing is said of that.
    instance.ctl("pause").code(0);
    let mut client = instance.connect();
    let services = || instance.ctl("services json").code(0).stdout;
    eventually("it waits", || services().contains("\"queue\":1").then_some(()));
    instance.ctl("resume").code(0);
    client.send("x");
    assert_eq!(client.recv(1), b"x");
    drop(client);
    let text = get(at, "/metrics").1;
    let all = exprs.join(" ");
    let words = all.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named: Vec<&str> =
        words.filter(|word| word.starts_with("balance_") || word.starts_with("process_")).collect();
    assert!(named.len() > 20, "{named:?}");
    for word in named {
        assert!(text.contains(&format!("\n{word}")), "{word} is on the dashboard, but not in the metrics");
    }
    instance.end();
}

//! PROXY headers of clients that come through a proxy: `--accept-proxy`.
//!
//! Source: docs/proxy-protocol.md.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failover::name_of;
use crate::harness::{
    Client, Instance, Received, Refusing, Run, Server, Setup, eventually, own_address, unless_held_up,
};
use crate::real_programs::{Daemon, program, strings};

/// A proxy, and somebody who is none.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const V1: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n";

/// Version 2 of the same, with these bytes behind the addresses.
fn v2(tlvs: &[u8]) -> Vec<u8> {
    let block = [&[203, 0, 113, 7, 192, 0, 2, 1, 0x12, 0x67, 1, 0xbb][..], tlvs].concat();
    let length = u16::try_from(block.len()).expect("a short block").to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &length, &block].concat()
}

/// In front of these channels, with headers from `PROXY`.
fn before(channels: &[&dyn std::fmt::Display]) -> Instance {
    let options: [&dyn std::fmt::Display; 2] = [&"--accept-proxy", &PROXY];
    Instance::before(&[&options, channels].concat())
}

/// What `sessions` calls this client: which of two came first is not for a test to know, they may be with two threads.
#[track_caller]
fn id_of(instance: &Instance, client: &Client) -> String {
    let address = client.0.local_addr().expect("an address").to_string();
    let sessions = json(instance, "sessions json");
    let mut all = sessions["sessions"].as_array().expect("a list").iter();
    all.find(|one| one["client"] == address.as_str()).expect("the client is listed")["id"].to_string()
}

fn by_proxy(instance: &Instance) -> Client {
    Client::connect_from(PROXY, instance.addr)
}

fn echoes(client: &mut Client, bytes: &str) {
    client.send(bytes);
    assert_eq!(String::from_utf8_lossy(&client.recv(bytes.len())), bytes);
}

#[track_caller]
fn json(instance: &Instance, command: &str) -> Value {
    serde_json::from_str(&instance.ctl(command).code(0).stdout).expect("JSON")
}

/// Who `sessions` says that there are, and by whom they came.
#[track_caller]
fn sessions(instance: &Instance) -> Vec<(String, Option<String>)> {
    let sessions = json(instance, "sessions json");
    let text = |one: &Value, key: &str| one[key].as_str().map(str::to_owned);
    let all = sessions["sessions"].as_array().expect("a list").iter();
    let mut all: Vec<_> =
        all.map(|one| (text(one, "client").unwrap_or_default(), text(one, "via"))).collect();
    all.sort();
    all
}

#[test]
fn a_header_is_needed_from_those_on_the_list_and_looked_for_from_nobody_else() {
    let server = Server::echo();
    let instance = before(&[&server]);
    let mut other = Client::connect_from(OTHER, instance.addr);
    other.send(V1);
    assert_eq!(other.recv(V1.len()), V1, "from others it is what they send, like anything else");
    for header in [V1, &v2(b""), b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let mut client = by_proxy(&instance);
        client.send([header, b"question"].concat());
        assert_eq!(client.recv(8), b"question");
        echoes(&mut client, "and more");
        client.shut_wr();
        assert_eq!(client.recv_all(), b"");
    }
    drop(other);
    instance.end();
}

#[test]
fn the_announced_client_is_the_client_wherever_it_is_told_of() {
    let server = Server::echo();
    let log = |instance: &Instance| instance.directory.path().join("access.log");
    let setup = Setup::new();
    let path = setup.directory().path().join("access.log").display().to_string();
    let words = ["-d", "--access-log", &path, "--accept-proxy", "127.0.0.2", "PORT", &server.to_string()];
    let instance = setup.start(words);
    let mut client = by_proxy(&instance);
    let seen = client.0.local_addr().expect("it is connected").to_string();
    client.send([&v2(&[0xe0, 0, 1, 7]), &b"x"[..]].concat());
    assert_eq!(client.recv(1), b"x");
    assert_eq!(sessions(&instance), [("203.0.113.7:4711".to_owned(), Some(seen.clone()))]);
    let text = instance.ctl("sessions").code(0).stdout;
    let line = text.lines().nth(1).expect("a session");
    assert!(line.contains(" 203.0.113.7:4711 ") && line.ends_with(&format!(" via {seen}")), "{text}");
    client.shut_wr();
    assert_eq!(client.recv_all(), b"");
    let ended = eventually("it has ended", || {
        let ended = json(&instance, "ended 1000 json");
        (!ended["ended"].as_array()?.is_empty()).then(|| ended["ended"][0].clone())
    });
    assert_eq!((ended["client"].as_str(), ended["via"].as_str()), (Some("203.0.113.7:4711"), Some(&*seen)));
    let text = instance.ctl("ended").code(0).stdout;
    assert!(text.ends_with(&format!(" client closed via {seen}\n")), "{text}");
    for event in ["opened", "closed"] {
        let line = eventually(event, || instance.told(event).pop());
        assert!(line.contains(&format!(" client=203.0.113.7:4711 via={seen} ")), "{line}");
    }
    let line =
        eventually("a line", || fs::read_to_string(log(&instance)).ok().filter(|text| text.ends_with('\n')));
    assert!(line.contains(" client=203.0.113.7:4711 "), "{line}");
    assert!(line.contains(&format!(" end=\"client closed\" via={seen} port=")), "{line}");
    instance.end();
}

#[test]
fn hashing_goes_by_the_announced_client() {
    let servers = ["a", "b", "c", "d"].map(Server::named);
    let [a, b, c, d] = &servers;
    let instance = before(&[a, b, c, d, &"%"]);
    let mut names = String::new();
    for number in 10..30 {
        let address = Ipv4Addr::new(127, 0, 0, number);
        let itself = name_of(&mut Client::connect_from(address, instance.addr)).expect("a name");
        let mut announced = by_proxy(&instance);
        announced.send(format!("PROXY TCP4 {address} 127.0.0.1 1 1\r\n"));
        assert_eq!(name_of(&mut announced), Some(itself), "{address}");
        names.push(itself);
    }
    assert!(names.chars().any(|name| name != names.chars().next().expect("some")), "{names}");
    instance.end();
}

#[test]
fn a_header_may_come_in_any_pieces() {
    let server = Server::echo();
    let instance = before(&[&server]);
    for header in [V1, &v2(&[0xe0, 0, 3, 1, 2, 3])] {
        let all = [header, b"question"].concat();
        for at in 1..all.len() {
            let mut client = by_proxy(&instance);
            client.send(&all[..at]);
            client.send(&all[at..]);
            assert_eq!(client.recv(8), b"question", "cut at {at}");
        }
        let mut client = by_proxy(&instance);
        for byte in &all {
            client.send([*byte]);
        }
        assert_eq!(client.recv(8), b"question");
    }
    // The longest there can be.
    let filler = [&[0xe1, 0xff, 0xf0][..], &vec![b'.'; 0xfff0]].concat();
    let mut client = by_proxy(&instance);
    client.send([&v2(&filler), &b"question"[..]].concat());
    assert_eq!(client.recv(8), b"question");
    drop(client);
    instance.end();
}

#[test]
fn nothing_is_dialled_before_the_header_is_whole() {
    let server = Server::named("a");
    let instance = before(&[&server]);
    let mut client = by_proxy(&instance);
    client.send(&V1[..20]);
    // The process has read it when it answers, for one worker does both before this ends.
    eventually("it is here", || (sessions(&instance).len() == 1).then_some(()));
    assert!(client.is_quiet_for(Duration::from_millis(50)));
    assert_eq!((server.accepted(), instance.show()[0].totalc), (0, 0));
    client.send(&V1[20..]);
    assert_eq!(name_of(&mut client), Some('a'), "a server that speaks first waits for nothing else");
    assert_eq!(server.accepted(), 1);
    drop(client);
    instance.end();
}

#[test]
fn what_is_no_header_is_reset_and_counts_against_no_channel() {
    let server = Server::echo();
    let instance = before(&[&server]);
    for (bytes, why) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "no header"),
        (b"\x16\x03\x01\x02\0", "no header"),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 4711\r\n", "malformed"),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\n", "malformed"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x01x", "malformed"),
        (&v2(&[3, 0, 4, 1, 2, 3, 4]), "malformed"),
        (&V1[..20], "cut short"),
        (&v2(b"")[..15], "cut short"),
    ] {
        let mut client = by_proxy(&instance);
        client.send(bytes);
        if why == "cut short" {
            client.shut_wr();
        }
        assert_eq!(client.ending(), Received::Reset, "{:?}", String::from_utf8_lossy(bytes));
        let end = format!("bad greeting: {why}\n");
        eventually("it is told", || instance.ctl("ended 1").stdout.ends_with(&end).then_some(()));
    }
    // One that has said nothing has changed its mind: a check of the proxy's, say.
    let mut silent = by_proxy(&instance);
    silent.shut_wr();
    assert_eq!(silent.ending(), Received::End);
    let counts = ["no header 2", "malformed 4", "cut short 2"].map(|count| format!("bad greeting: {count}"));
    eventually("all are counted", || {
        let losses = instance.losses();
        let are_all = counts.iter().all(|count| losses.contains(count));
        (are_all && losses.contains("client left 1")).then_some(())
    });
    let row = &json(&instance, "status json")["groups"][0]["channels"][0];
    assert_eq!(
        (&row["health"], &row["failed"], server.accepted()),
        (&"untried".into(), &0.into(), 0),
        "{row}"
    );
    instance.end();
}

#[test]
fn a_header_that_does_not_come_in_time_ends_in_a_reset() {
    let server = Server::echo();
    let instance = before(&[&"--greeting-timeout", &"300ms", &server]);
    let begin = Instant::now();
    let (mut silent, mut slow) = (by_proxy(&instance), by_proxy(&instance));
    slow.send(&V1[..V1.len() - 1]);
    assert_eq!((silent.ending(), slow.ending()), (Received::Reset, Received::Reset));
    assert!(begin.elapsed() >= Duration::from_millis(300));
    eventually("both are told", || (instance.losses() == "2 (greeting timeout 2)").then_some(()));
    // Others are not hurried.
    let mut other = Client::connect_from(OTHER, instance.addr);
    assert!(other.is_quiet_for(Duration::from_millis(400)));
    echoes(&mut other, "slow");
    drop(other);
    instance.end();
}

#[test]
fn what_comes_with_the_header_is_kept_while_its_client_waits() {
    let server = Server::echo();
    let instance = before(&[&"--queue", &"5", &format!("{server}:1")]);
    let mut holder = instance.connect();
    echoes(&mut holder, "holder");
    let question = [V1, b"question"].concat();
    let mut asks = by_proxy(&instance);
    asks.send(&question);
    eventually("it waits", || (crate::queue::waiting(&instance) == [1]).then_some(()));
    // Whoever has asked before it ended gets its answer; whoever has not waits for nothing.
    asks.shut_wr();
    let mut asks_nothing = by_proxy(&instance);
    asks_nothing.send(V1);
    asks_nothing.shut_wr();
    assert_eq!(asks_nothing.ending(), Received::End);
    eventually("one waits", || (crate::queue::waiting(&instance) == [1]).then_some(()));
    drop(holder);
    assert_eq!(asks.recv_all(), b"question");
    instance.ctl("pause").code(0);
    let mut paused = by_proxy(&instance);
    paused.send(&question);
    eventually("it waits", || (crate::queue::waiting(&instance) == [1]).then_some(()));
    instance.ctl("resume").code(0);
    assert_eq!(paused.recv(8), b"question");
    drop(paused);
    instance.end();
}

#[test]
fn urgent_bytes_behind_a_header_stay_urgent() {
    let server = Server::with(|stream, _| {
        let mut client = Client::of(stream);
        let byte = client.recv_urgent();
        client.send([byte]);
    });
    let instance = before(&[&server]);
    let mut client = by_proxy(&instance);
    client.send(V1);
    client.send_urgent(b'!');
    assert_eq!(client.recv(1), b"!");
    drop(client);
    instance.end();
}

#[test]
fn clients_whose_header_has_not_come_are_clients_to_operators() {
    let server = Server::echo();
    let instance = before(&[&"--max-connections", &"2", &"--greeting-timeout", &"5m", &server]);
    let (mut first, mut second) = (by_proxy(&instance), by_proxy(&instance));
    first.send(&V1[..9]);
    eventually("both are here", || (sessions(&instance).len() == 2).then_some(()));
    // They count: a third one waits to be let in.
    let mut third = by_proxy(&instance);
    third.send([V1, b"third"].concat());
    assert!(third.is_quiet_for(Duration::from_millis(50)));
    let id = id_of(&instance, &first);
    assert!(instance.ctl(&format!("close {id}")).code(0).stdout.contains("closed"));
    assert_eq!(first.ending(), Received::Reset);
    assert_eq!(third.recv(5), b"third");
    // Nobody is kicked from a channel that it does not have.
    instance.ctl("kick 0").code(0);
    assert_eq!(third.ending(), Received::End);
    second.send([V1, b"second"].concat());
    assert_eq!(second.recv(6), b"second");
    let mut last = by_proxy(&instance);
    last.send(&V1[..9]);
    eventually("it is here", || (sessions(&instance).len() == 2).then_some(()));
    instance.terminate();
    assert_eq!((second.ending(), last.ending()), (Received::End, Received::Reset));
}

#[test]
fn a_client_goes_on_in_another_process_wherever_its_header_is() {
    let server = Server::echo();
    let mut instance = before(&[&"--queue", &"5", &"--greeting-timeout", &"5m", &format!("{server}:1")]);
    let mut holder = by_proxy(&instance);
    holder.send([&v2(&[0xe0, 0, 1, 7]), &b"holder"[..]].concat());
    assert_eq!(holder.recv(6), b"holder");
    let mut silent = by_proxy(&instance);
    let mut begins: Vec<Client> = (0..4).map(|_| by_proxy(&instance)).collect();
    let all = [V1, b"question"].concat();
    let cuts = [1, 6, 20, V1.len() - 1];
    for (client, cut) in begins.iter_mut().zip(cuts) {
        client.send(&all[..cut]);
    }
    let mut waits = by_proxy(&instance);
    waits.send(&all);
    eventually("it waits", || (crate::queue::waiting(&instance) == [1]).then_some(()));
    eventually("all are here", || (sessions(&instance).len() == 7).then_some(()));
    let before = sessions(&instance);
    for _ in 0..2 {
        let told = instance.upgrade();
        assert!(told.contains("carried 7, "), "{told}");
        assert_eq!(sessions(&instance), before, "who is announced stays so");
    }
    echoes(&mut holder, "again");
    drop(holder);
    assert_eq!(waits.recv(8), b"question");
    drop(waits);
    for (mut client, cut) in begins.into_iter().zip(cuts) {
        client.send(&all[cut..]);
        assert_eq!(client.recv(8), b"question", "cut at {cut}");
    }
    silent.send(&all);
    assert_eq!(silent.recv(8), b"question");
    drop(silent);
    instance.end();
}

#[test]
fn a_header_that_is_late_in_another_process_has_what_was_left_of_its_time() {
    unless_held_up(200, || {
        let server = Server::echo();
        let mut instance = before(&[&"--greeting-timeout", &"1s", &server]);
        let mut client = by_proxy(&instance);
        client.send(&V1[..20]);
        eventually("it is here", || (sessions(&instance).len() == 1).then_some(()));
        instance.upgrade();
        assert_eq!(client.ending(), Received::Reset);
        eventually("it is told", || (instance.losses() == "1 (greeting timeout 1)").then_some(()));
        instance.end();
    });
}

#[test]
fn a_channel_that_fails_does_not_lose_what_came_with_the_header() {
    let (refusing, server) = (Refusing::new(), Server::echo());
    let instance = before(&[&refusing, &server]);
    let mut client = by_proxy(&instance);
    client.send([V1, b"question"].concat());
    assert_eq!(client.recv(8), b"question");
    drop(client);
    instance.end();
}

#[test]
fn the_list_is_saved_and_a_reload_changes_it() {
    let server = Server::echo();
    let listen = own_address();
    let line = |options: &str| format!("{options}-b {} {} {server}\n", listen.ip(), listen.port());
    let setup = Setup::binding(listen);
    let options = "--accept-proxy 127.0.0.2,127.0.9.0/24 --greeting-timeout 5m ";
    let file = setup.directory().file("services", &line(options));
    let instance = setup.start(["--file".to_owned(), file.display().to_string()]);
    let saved = instance.ctl("save").code(0).stdout;
    let said = "--accept-proxy 127.0.0.2,127.0.9.0/24 --greeting-timeout 5m";
    assert!(saved.contains(said), "{saved}");
    let mut before = by_proxy(&instance);
    before.send(&V1[..9]);
    eventually("it is here", || (sessions(&instance).len() == 1).then_some(()));
    instance.directory.file("services", &line(""));
    instance.ctl("reload").code(0);
    assert!(!instance.ctl("save").code(0).stdout.contains("proxy"));
    // Whoever was asked for a header still owes it; whoever comes now is asked for none.
    let mut after = by_proxy(&instance);
    echoes(&mut after, "plain");
    before.send([&V1[9..], b"x"].concat());
    assert_eq!(before.recv(1), b"x");
    drop((before, after));
    instance.end();
}

/// Says yes to any request.
fn web() -> Server {
    Server::with(|mut stream, _| {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nyes");
    })
}

/// A program that sends headers, in front of an instance that says who its client is.
fn sender(name: &str, args: impl Fn(u16, &Path, &Instance) -> Vec<String>) {
    let server = web();
    let instance = Instance::start(["--accept-proxy", "127.0.0.1", "PORT", &server.to_string()]);
    let daemon = Daemon::start(name, |port, directory| args(port, directory, &instance));
    let mut client = Client::connect_from(Ipv4Addr::new(127, 0, 0, 77), ([127, 0, 0, 1], daemon.port).into());
    let from: SocketAddr = client.0.local_addr().expect("it is connected");
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert!(client.recv_all().ends_with(b"\r\n\r\nyes"), "{name}");
    drop(client);
    let told = eventually("it has ended", || {
        let ended = json(&instance, "ended 1000 json");
        let of = ended["ended"].as_array()?.iter().find(|one| one["client"] == from.to_string())?;
        Some((of["via"].as_str()?.to_owned(), of["channel"].clone()))
    });
    assert!(told.0.starts_with("127.0.0.1:") && told.1 == 0, "{told:?}");
    drop(daemon);
    instance.end();
}

fn haproxy(directory: &Path, port: u16, to: &Instance, how: &str) -> Vec<String> {
    let config = format!(
        "global\n maxconn 100\ndefaults\n mode tcp\n timeout connect 10s\n timeout client 1m\n timeout server 1m\n\
         listen in\n bind 127.0.0.1:{port}\n unique-id-format %pid-%rt\n server one {} {how}\n",
        to.addr
    );
    fs::write(directory.join("haproxy.cfg"), config).expect("our own file");
    strings(["-db", "-f", "haproxy.cfg"])
}

#[test]
fn haproxy_sends_both_versions() {
    for how in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
        "send-proxy-v2 check inter 50ms",
        "send-proxy check inter 50ms",
    ] {
        sender("haproxy", |port, directory, to| haproxy(directory, port, to, how));
    }
}

#[test]
fn nginx_sends_version_1() {
    sender("nginx", |port, directory, to| {
        let module =
            ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"];
        let module = module.into_iter().find(|path| Path::new(path).exists());
        let load = module.map_or_else(String::new, |path| format!("load_module {path};\n"));
        let config = format!(
            "{load}daemon off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\n\
             stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass {}; proxy_protocol on; }} }}\n",
            to.addr
        );
        fs::write(directory.join("nginx.conf"), config).expect("our own file");
        let prefix = directory.display().to_string();
        strings(["-p", &prefix, "-c", "nginx.conf", "-e", "stderr"])
    });
}

#[test]
fn stunnel_sends_version_1() {
    let server = web();
    let instance = Instance::start(["--accept-proxy", "127.0.0.1", "PORT", &server.to_string()]);
    let stunnel = Daemon::start("stunnel4", |port, directory| {
        let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=a"];
        let (key, certificate) = (directory.join("key.pem"), directory.join("cert.pem"));
        let made = Run::new(program("openssl")).args(request).arg("-keyout").arg(&key).arg("-out");
        made.arg(&certificate).finish().code(0);
        let config = format!(
            "foreground = yes\npid =\n[in]\naccept = 127.0.0.1:{port}\nconnect = {}\nprotocol = proxy\n\
             cert = {}\nkey = {}\n",
            instance.addr,
            certificate.display(),
            key.display()
        );
        let path = directory.join("stunnel.conf");
        fs::write(&path, config).expect("our own file");
        strings([&path.display().to_string()])
    });
    let url = format!("https://{}/", stunnel.channel());
    let words = ["-sk", "--noproxy", "*", "--max-time", "20", "--interface", "127.0.0.77", &url];
    Run::new(program("curl")).args(words).finish().code(0).out("yes");
    eventually("it has ended", || {
        let ended = json(&instance, "ended 1000 json");
        let of = |one: &Value| one["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.77:"));
        ended["ended"].as_array()?.iter().any(of).then_some(())
    });
    drop(stunnel);
    instance.end();
}

#[test]
fn curl_sends_version_1() {
    let server = web();
    let instance = Instance::start(["--accept-proxy", "any", "PORT", &server.to_string()]);
    let url = format!("http://{}/", instance.addr);
    let words = ["-s", "--noproxy", "*", "--max-time", "20", "--haproxy-protocol", &url];
    Run::new(program("curl")).args(words).finish().code(0).out("yes");
    let words = ["-s", "--noproxy", "*", "--max-time", "20", &url];
    let refused = Run::new(program("curl")).args(words).finish();
    assert_ne!(refused.code, 0, "without a header it is reset: {refused}");
    eventually("it is counted", || instance.losses().contains("bad greeting: no header 1").then_some(()));
    instance.end();
}

//! Clients go to the groups that serve what they ask for: `@NAME`.
//!
//! Source: docs/routing.md.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{
    Client, Instance, Received, Refusing, Run, Server, Setup, eventually, own_address, unless_held_up,
};
use crate::real_programs::{Daemon, program, strings};

/// A ClientHello for this name, with this protocol in it, in records of so many bytes.
pub(crate) fn hello(name: Option<&str>, protocol: Option<&str>, record: usize) -> Vec<u8> {
    let short = |length: usize| u16::try_from(length).expect("it is short").to_be_bytes();
    let extension =
        |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &short(content.len()), content].concat();
    let mut extensions = extension(51, &[9; 1_200]);
    if let Some(name) = name {
        let entry = [&[0][..], &short(name.len()), name.as_bytes()].concat();
        extensions.extend(extension(0, &[&short(entry.len())[..], &entry].concat()));
    }
    if let Some(protocol) = protocol {
        let list = [&[protocol.len() as u8][..], protocol.as_bytes()].concat();
        extensions.extend(extension(16, &[&short(list.len())[..], &list].concat()));
    }
    let body =
        [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &short(extensions.len()), &extensions].concat();
    let length = u32::try_from(body.len()).expect("it is short").to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    message.chunks(record).flat_map(|part| [&[22, 3, 1][..], &short(part.len()), part].concat()).collect()
}

/// Servers that say their names behind what they get, and an instance with these words, in which `a` to `d` are they.
struct Named {
    instance: Instance,
    servers: Vec<Server>,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

impl Named {
    fn start(words: &str) -> Self {
        let servers: Vec<Server> = NAMES.into_iter().map(tells_its_name).collect();
        let word = |word: &str| match NAMES.iter().position(|name| word.split(':').next() == Some(name)) {
            Some(at) => word.replacen(NAMES[at], &servers[at].to_string(), 1),
            None => word.to_owned(),
        };
        let words: Vec<String> = ["PORT"].into_iter().chain(words.split_whitespace()).map(word).collect();
        Self { instance: Instance::start(words), servers }
    }

    fn connect(&self) -> Client {
        self.instance.connect()
    }

    /// The server that a client gets who says this.
    #[track_caller]
    fn name(&self, said: &[u8]) -> String {
        let mut client = self.connect();
        client.send(said);
        name_of(&mut client, said)
    }

    fn end(self) {
        drop(self.servers);
        self.instance.end();
    }
}

/// Sends back what it gets first, and then its name.
fn tells_its_name(name: &'static str) -> Server {
    Server::with(move |mut stream, _| {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(got @ 1..) = stream.read(&mut buffer) {
            let answer = [&buffer[..got], name.as_bytes()].concat();
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    })
}

/// The name behind what was said, which comes back untouched.
#[track_caller]
pub(crate) fn name_of(client: &mut Client, said: &[u8]) -> String {
    let mut got = Vec::new();
    let mut byte = [0];
    // It may come in parts, with the name behind each.
    while got.len() < said.len() {
        assert_eq!(client.read(&mut byte).expect("an answer"), 1, "{got:?}");
        if byte[0] == said[got.len()] {
            got.push(byte[0]);
        }
    }
    String::from_utf8(client.recv(1)).expect("a letter")
}

fn json(instance: &Instance, command: &str) -> Value {
    serde_json::from_str(&instance.ctl(command).code(0).stdout).expect("JSON")
}

#[test]
fn a_client_goes_to_the_groups_of_the_name_that_it_asks_for() {
    let named =
        Named::start("@shop.example.com @www.example.com a @*.example.com b @*.mail.example.com c @ d");
    for (name, expected) in [
        (Some("shop.example.com"), "a"),
        (Some("SHOP.Example.com"), "a"),
        (Some("www.example.com"), "a"),
        (Some("other.example.com"), "b"),
        (Some("mail.example.com"), "b"),
        (Some("mx.mail.example.com"), "c"),
        (Some("deep.mx.mail.example.com"), "c"),
        (Some("example.com"), "d"),
        (Some("example.org"), "d"),
        (None, "d"),
    ] {
        assert_eq!(named.name(&hello(name, None, 16_384)), expected, "{name:?}");
    }
    assert_eq!(named.name(b"GET / HTTP/1.1\r\n\r\n"), "d");
    assert_eq!(named.name(b"SSH-2.0-x\r\n"), "d");
    let status = named.instance.ctl("status").code(0).stdout;
    let names = "names: 0 @shop.example.com @www.example.com, 1 @*.example.com, 2 @*.mail.example.com, 3 @\n";
    assert!(status.contains(names), "{status}");
    let groups = json(&named.instance, "show json")["groups"].clone();
    assert_eq!(groups[0]["names"], serde_json::json!(["@shop.example.com", "@www.example.com"]));
    assert_eq!(groups[3]["names"], serde_json::json!(["@"]));
    named.end();
}

#[test]
fn tls_http_ssh_and_protocols_have_groups_of_their_own() {
    unless_held_up(80, || {
        let named = Named::start("--greeting-timeout 300ms @tls a @http b @ssh c @alpn:h2 d");
        assert_eq!(named.name(&hello(Some("any.example"), None, 16_384)), "a");
        assert_eq!(named.name(&hello(None, Some("h2"), 16_384)), "d");
        assert_eq!(named.name(b"GET / HTTP/1.1\r\n\r\n"), "b");
        assert_eq!(named.name(b"SSH-2.0-x\r\n"), "c");
        // There is nothing for others, those who say nothing included.
        let mut other = named.connect();
        other.send(b"\0\0\0\x08\x04\xd2\x16\x2f");
        assert_eq!(other.ending(), Received::Reset);
        let begin = Instant::now();
        assert_eq!(named.connect().ending(), Received::Reset);
        assert!(begin.elapsed() >= Duration::from_millis(300));
        eventually("both are told", || (named.instance.losses() == "2 (unknown name 2)").then_some(()));
        named.end();
    });
}

#[test]
fn a_name_that_nobody_serves_is_answered_by_the_alert() {
    let named = Named::start("@shop.example.com a ! b");
    for name in [Some("other.example.com"), None] {
        let mut client = named.connect();
        client.send(hello(name, None, 16_384));
        assert_eq!(client.recv_all(), [21, 3, 1, 0, 2, 2, 112], "unrecognized_name, and a clean end");
    }
    eventually("both are told", || (named.instance.losses() == "2 (unknown name 2)").then_some(()));
    assert!(named.servers.iter().all(|server| server.accepted() == 0), "nothing is dialled for them");
    assert_eq!(named.name(&hello(Some("shop.example.com"), None, 16_384)), "a");
    named.end();
}

#[test]
fn a_hello_may_come_in_any_pieces_and_records() {
    let named = Named::start("@shop.example.com a @ b");
    let whole = hello(Some("shop.example.com"), None, 16_384);
    for at in (1..whole.len()).step_by(7) {
        let mut client = named.connect();
        client.send(&whole[..at]);
        client.send(&whole[at..]);
        assert_eq!(name_of(&mut client, &whole), "a", "cut at {at}");
    }
    for record in [1, 2, 3, 64, 1_000] {
        let said = hello(Some("shop.example.com"), None, record);
        assert_eq!(named.name(&said), "a", "records of {record}");
    }
    let said = hello(Some("shop.example.com"), None, 1);
    let mut client = named.connect();
    for byte in said.chunks(3) {
        client.send(byte);
    }
    assert_eq!(name_of(&mut client, &said), "a");
    drop(client);
    named.end();
}

#[test]
fn failover_stays_inside_the_groups_of_a_name() {
    let (refusing, other) = (Refusing::new(), Refusing::new());
    let words = format!("@a.example {refusing} ! a @b.example {other} @ c");
    let named = Named::start(&words);
    assert_eq!(named.name(&hello(Some("a.example"), None, 16_384)), "a");
    let mut lost = named.connect();
    lost.send(hello(Some("b.example"), None, 16_384));
    assert_eq!(lost.ending(), Received::End);
    named.instance.await_losses("1 (all channels failed 1)");
    assert_eq!(named.name(b"GET / HTTP/1.1\r\n\r\n"), "c");
    named.end();
}

#[test]
fn who_says_nothing_goes_to_the_others_after_a_while() {
    let server = Server::named("x");
    let named = Named::start(&format!("--greeting-timeout 300ms @shop.example.com a @ {server}"));
    let begin = Instant::now();
    let mut silent = named.connect();
    let mut begins = named.connect();
    begins.send(b"\x16\x03\x01");
    assert_eq!((silent.recv(1), begins.recv(1)), (b"x".to_vec(), b"x".to_vec()));
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(begins.recv(3), b"\x16\x03\x01", "what it has said is not lost");
    drop((silent, begins));
    named.end();
}

#[test]
fn clients_in_line_wait_for_their_own_groups_only() {
    let named = Named::start("--queue 9 @a.example a:1 @b.example b:1");
    let [first, second] = ["a.example", "b.example"].map(|name| hello(Some(name), None, 16_384));
    let mut holders = [&first, &second].map(|said| {
        let mut client = named.connect();
        client.send(said);
        name_of(&mut client, said);
        client
    });
    let in_line = |said: &[u8], n: usize| {
        let mut client = named.connect();
        client.send(said);
        let waiting = || crate::queue::waiting(&named.instance).iter().sum::<usize>();
        eventually("it waits", || (waiting() == n).then_some(()));
        client
    };
    let (mut one, mut other) = (in_line(&first, 1), in_line(&second, 2));
    assert_eq!(crate::queue::waiting(&named.instance), [1, 1]);
    // The one who came later is served first, for its channel is free first.
    let [a, b] = &mut holders;
    b.shut_wr();
    assert_eq!(name_of(&mut other, &second), "b");
    assert_eq!(crate::queue::waiting(&named.instance), [1, 0]);
    a.shut_wr();
    assert_eq!(name_of(&mut one, &first), "a");
    drop((one, other, holders));
    named.end();
}

#[test]
fn names_go_on_in_another_process() {
    let mut named = Named::start("--queue 9 --greeting-timeout 5m @a.example a:1 @b.example b @ c");
    let [first, second] = ["a.example", "b.example"].map(|name| hello(Some(name), None, 16_384));
    let mut holder = named.connect();
    holder.send(&first);
    assert_eq!(name_of(&mut holder, &first), "a");
    let mut waits = named.connect();
    waits.send(&first);
    eventually("it waits", || (crate::queue::waiting(&named.instance)[0] == 1).then_some(()));
    let mut begins = named.connect();
    begins.send(&second[..700]);
    eventually("it is here", || {
        let sessions = json(&named.instance, "sessions json");
        (sessions["sessions"].as_array()?.len() == 3).then_some(())
    });
    for _ in 0..2 {
        let told = named.instance.upgrade();
        assert!(told.contains("carried 3, "), "{told}");
    }
    begins.send(&second[700..]);
    assert_eq!(name_of(&mut begins, &second), "b");
    holder.shut_wr();
    assert_eq!(name_of(&mut waits, &first), "a");
    assert_eq!(named.name(b"SSH-2.0-x\r\n"), "c");
    drop((waits, begins, holder));
    named.end();
}

/// A message for this name that is much longer than usual.
fn long_hello(name: &str) -> Vec<u8> {
    let short = hello(Some(name), None, usize::MAX);
    let body = &short[5 + 4..];
    let (fixed, extensions) = (&body[..2 + 32 + 1 + 4 + 2], &body[2 + 32 + 1 + 4 + 4..]);
    let padding = [&[0, 21][..], &50_000_u16.to_be_bytes(), &[0; 50_000]].concat();
    let extensions = [&padding, extensions].concat();
    let length = u16::try_from(extensions.len()).expect("it is short").to_be_bytes();
    let body = [fixed, &length, &extensions].concat();
    let length = u32::try_from(body.len()).expect("it is short").to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    let head = |part: &[u8]| u16::try_from(part.len()).expect("it is short").to_be_bytes();
    message.chunks(16_384).flat_map(|part| [&[22, 3, 1][..], &head(part), part].concat()).collect()
}

#[test]
fn long_first_messages_that_never_end_keep_nobody_else_out() {
    let (a, b) = (tells_its_name("a"), tells_its_name("b"));
    let listen = own_address();
    let line = |time: &str| {
        format!("-b {} --greeting-timeout {time} {} @x.x {a} @ {b}\n", listen.ip(), listen.port())
    };
    let setup = Setup::binding(listen);
    let file = setup.directory().file("services", &line("5m"));
    let instance = setup.start(["--file".to_owned(), file.display().to_string()]);
    let come = |from: [u8; 4], said: &[u8]| {
        let mut client = Client::connect_from(from, listen);
        client.send(said);
        client
    };
    let name = |from, said: &[u8]| name_of(&mut come(from, said), said);
    let (short, long) = (hello(Some("x.x"), None, 16_384), long_hello("x.x"));
    assert_eq!(name([127, 0, 0, 1], &long), "a");
    let never_end: Vec<Client> = (0..170).map(|_| come([127, 0, 0, 1], &long[..long.len() - 1])).collect();
    let told = || instance.told("greetings_full");
    eventually("all room of one client is used", || (!told().is_empty()).then_some(()));
    assert!(
        told()[0].ends_with("last=127.0.0.1 cause=\"8 MiB of first messages of this client\""),
        "{:?}",
        told()
    );
    // Short ones of the same client, and long ones of another.
    assert_eq!(name([127, 0, 0, 1], &short), "a");
    assert_eq!(name([127, 0, 0, 2], &long), "a");
    assert_eq!(instance.losses(), "");
    // A long one that has no room in time is not sent to the others.
    instance.directory.file("services", &line("300ms"));
    instance.ctl("reload").code(0);
    assert_eq!(come([127, 0, 0, 1], &long).ending(), Received::Reset);
    eventually("it is counted", || (instance.losses() == "1 (greetings full 1)").then_some(()));
    let doctor = instance.ctl("doctor").stdout;
    assert!(
        doctor.contains("1 client got no channel, since there was no memory left for the first bytes"),
        "{doctor}"
    );
    assert_eq!(told().len(), 1, "at most once a minute");
    drop(never_end);
    eventually("its room is free again", || {
        let mut client = come([127, 0, 0, 1], &long);
        let mut first = [0];
        client.read(&mut first).is_ok_and(|got| got == 1).then_some(())
    });
    instance.end();
}

#[test]
fn long_first_messages_count_until_a_channel_has_them() {
    let (a, b) = (tells_its_name("a"), tells_its_name("b"));
    let listen = own_address();
    let line = |time: &str| {
        format!("-b {} --greeting-timeout {time} {} @x.x {a} @ {b}\n", listen.ip(), listen.port())
    };
    let setup = Setup::binding(listen);
    let file = setup.directory().file("services", &line("5m"));
    let mut instance = setup.start(["--file".to_owned(), file.display().to_string()]);
    let come = |from: [u8; 4], said: &[u8]| {
        let mut client = Client::connect_from(from, listen);
        client.send(said);
        client
    };
    let (short, long) = (hello(Some("x.x"), None, 16_384), long_hello("x.x"));
    instance.ctl("pause").code(0);
    let mut wait: Vec<Client> = (0..230).map(|_| come([127, 0, 0, 1], &long)).collect();
    let told = || instance.told("greetings_full");
    eventually("all room of one client is used", || (!told().is_empty()).then_some(()));
    assert!(
        told()[0].ends_with("last=127.0.0.1 cause=\"8 MiB of first messages of this client\""),
        "{:?}",
        told()
    );
    // They count in another process, too.
    instance.directory.file("services", &line("3s"));
    instance.ctl("reload").code(0);
    let carried = instance.upgrade();
    assert!(carried.contains("carried 230, "), "{carried}");
    // Short ones of the same client, and long ones of another.
    let (mut few, mut other) = (come([127, 0, 0, 1], &short), come([127, 0, 0, 2], &long));
    assert_eq!(come([127, 0, 0, 1], &long).ending(), Received::Reset);
    eventually("it is counted", || (instance.losses() == "1 (greetings full 1)").then_some(()));
    instance.ctl("resume").code(0);
    assert_eq!(name_of(&mut few, &short), "a");
    assert_eq!(name_of(&mut other, &long), "a");
    // There is room for all again, the first and the last.
    assert_eq!(name_of(&mut wait[0], &long), "a");
    assert_eq!(name_of(&mut wait[229], &long), "a");
    let mut more = come([127, 0, 0, 1], &long);
    assert_eq!(name_of(&mut more, &long), "a");
    assert_eq!(instance.losses(), "1 (greetings full 1)");
    drop((wait, few, other, more));
    instance.end();
}

#[test]
fn long_headers_count_until_a_channel_has_them() {
    let named = Named::start("--greeting-timeout 5m --accept-proxy any @a.example a @ b");
    let values = [&[0xe0][..], &60_000_u16.to_be_bytes(), &[7; 60_000]].concat();
    let addresses = [203, 0, 113, 7, 192, 0, 2, 1, 18, 103, 1, 187];
    let length = u16::try_from(addresses.len() + values.len()).expect("it is short").to_be_bytes();
    let header = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &length, &addresses, &values].concat();
    let mut clients: Vec<Client> = (0..190).map(|_| named.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(&header));
    let told = || named.instance.told("greetings_full");
    eventually("all room of the proxy is used", || (!told().is_empty()).then_some(()));
    assert!(told()[0].ends_with("cause=\"8 MiB of first messages of this client\""), "{:?}", told());
    let said = hello(Some("a.example"), None, 500);
    // There is room again as they go on.
    for client in &mut clients {
        client.send(&said);
    }
    for client in &mut clients {
        assert_eq!(name_of(client, &said), "a");
    }
    assert_eq!(named.instance.losses(), "");
    drop(clients);
    named.end();
}

#[test]
fn names_are_saved_and_a_reload_changes_them() {
    let (a, b) = (tells_its_name("a"), tells_its_name("b"));
    let listen = own_address();
    let line = |words: &str| format!("-b {} {} {words}\n", listen.ip(), listen.port());
    let setup = Setup::binding(listen);
    let file = setup.directory().file("services", &line(&format!("@a.example '@*.b.example' {a} @ {b}")));
    let instance = setup.start(["--file".to_owned(), file.display().to_string()]);
    let name = |host: &str| {
        let said = hello(Some(host), None, 16_384);
        let mut client = Client::connect(listen);
        client.send(&said);
        name_of(&mut client, &said)
    };
    assert_eq!([name("a.example"), name("x.b.example"), name("c.example")], ["a", "a", "b"]);
    let saved = instance.ctl("save").code(0).stdout;
    assert!(saved.contains(&format!(" @a.example '@*.b.example' {a} @ {b}")), "{saved}");
    instance.directory.file("services", &line(&format!("@c.example {a} @ {b}")));
    let told = instance.ctl("reload").code(0).stdout;
    assert!(told.contains("names are 0 @c.example, 1 @, were 0 @a.example @*.b.example, 1 @"), "{told}");
    assert_eq!([name("a.example"), name("c.example")], ["b", "a"]);
    // Names stay, whatever becomes of their channels.
    instance.ctl("group 1; disable 0; wait 0 20s; remove 0").code(0);
    let saved = instance.ctl("save").code(0).stdout;
    assert!(saved.contains(&format!(" @c.example {a} @ -")), "{saved}");
    instance.end();
}

#[test]
fn a_header_of_a_proxy_may_come_first() {
    let named = Named::start("--accept-proxy any @a.example a @ b");
    let said = hello(Some("a.example"), None, 500);
    let mut client = named.connect();
    client.send(b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n");
    client.send(&said[..77]);
    client.send(&said[77..]);
    assert_eq!(name_of(&mut client, &said), "a");
    let session = json(&named.instance, "sessions json")["sessions"][0].clone();
    assert_eq!(session["client"], "203.0.113.7:4711");
    drop(client);
    named.end();
}

#[test]
fn gnutls_reaches_the_server_of_its_name() {
    let (shop, other) = (tls_server("shop"), tls_server("other"));
    let words = ["PORT", "@shop.example.com", &shop.channel(), "@*.example.org", &other.channel()];
    let instance = Instance::start(words);
    let port = instance.port();
    // Old and new, and with the long hello of a client that has many groups to offer.
    for priority in ["NORMAL", "NORMAL:-VERS-TLS1.3", "NORMAL:+GROUP-ALL"] {
        let ask = |name: &str| {
            let words =
                ["--insecure", "--sni-hostname", name, "--priority", priority, "--port", &port, "127.0.0.1"];
            Run::new(program("gnutls-cli")).args(words).stdin("").finish()
        };
        for (name, expected) in [("shop.example.com", "CN=shop"), ("www.example.org", "CN=other")] {
            let seen = ask(name).code(0);
            assert!(seen.stdout.contains(expected), "{priority}, {name}: {seen}");
        }
        let refused = ask("example.net");
        assert!(
            refused.code != 0 && refused.to_string().contains("server name sent was not recognized"),
            "{priority}: {refused}"
        );
    }
    drop((shop, other));
    instance.end();
}

/// A server of TLS that says its name.
fn tls_server(name: &str) -> Daemon {
    Daemon::start("openssl", |port, directory| {
        let (key, certificate) = (directory.join("key.pem"), directory.join("cert.pem"));
        let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj"];
        let made = Run::new(program("openssl")).args(request).arg(format!("/CN={name}")).arg("-keyout");
        made.arg(&key).arg("-out").arg(&certificate).finish().code(0);
        let at = format!("127.0.0.1:{port}");
        let (key, certificate) = (key.display().to_string(), certificate.display().to_string());
        strings(["s_server", "-accept", &at, "-key", &key, "-cert", &certificate, "-www"])
    })
}

#[test]
fn openssl_and_curl_reach_the_server_of_their_name() {
    let (shop, other) = (tls_server("shop"), tls_server("other"));
    let words = ["PORT", "@shop.example.com", &shop.channel(), "@*.example.org", &other.channel()];
    let instance = Instance::start(words);
    let at = instance.addr.to_string();
    let subject = |name: &str| {
        let words = ["s_client", "-connect", &at, "-servername", name];
        Run::new(program("openssl")).args(words).stdin("").finish()
    };
    for (name, expected) in [("shop.example.com", "CN = shop"), ("www.example.org", "CN = other")] {
        let seen = subject(name);
        assert!(seen.stdout.contains(expected), "{name}: {seen}");
    }
    let refused = subject("example.net");
    assert!(refused.stderr.contains("unrecognized name"), "{refused}");
    let port = instance.port();
    for (name, expected) in [("shop.example.com", &shop), ("www.example.org", &other)] {
        let _ = expected;
        let resolve = format!("{name}:{port}:127.0.0.1");
        let url = format!("https://{name}:{port}/");
        let words = ["-skv", "--noproxy", "*", "--max-time", "20", "--resolve", &resolve, &url];
        let got = Run::new(program("curl")).args(words).finish().code(0);
        let issued = if name.starts_with("shop") { "CN=shop" } else { "CN=other" };
        assert!(got.stderr.contains(issued), "{got}");
    }
    drop((shop, other));
    instance.end();
}

//! PostgreSQL clients, which ask for TLS before they say which host they want: `--starttls postgres`.
//!
//! Source: docs/routing.md, "PostgreSQL".

use std::io::{Read, Write};
use std::time::Duration;

use crate::harness::{Client, Instance, Received, Run, Server, eventually, unless_held_up};
use crate::pausing::Postgres;
use crate::real_programs::program;
use crate::routing::hello;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x30];
/// A session without TLS, as far as anybody needs to see.
const STARTUP: [u8; 9] = [0, 0, 0, 9, 0, 3, 0, 0, 0];
const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 1, 0, 2, 2, 40];

/// A server that answers an SSLRequest by this, and says its name behind whatever comes next.
fn asked(name: &'static str, answer: &'static [u8]) -> Server {
    Server::with(move |mut stream, _| {
        let mut first = [0; 8];
        if stream.read_exact(&mut first).is_err() {
            return;
        }
        let mut said = if first == SSL_REQUEST {
            if answer.is_empty() || stream.write_all(answer).is_err() {
                return;
            }
            Vec::new()
        } else {
            first.to_vec()
        };
        let mut buffer = vec![0; 64 << 10];
        while let Ok(got @ 1..) = stream.read(&mut buffer) {
            said.extend_from_slice(&buffer[..got]);
            let told = [&std::mem::take(&mut said)[..], name.as_bytes()].concat();
            if stream.write_all(&told).is_err() {
                return;
            }
        }
    })
}

fn instance(words: &str) -> Instance {
    let words = words.split_whitespace().map(str::to_owned);
    Instance::start(["--starttls".to_owned(), "postgres".to_owned()].into_iter().chain(words))
}

/// A client that has asked for TLS and was told to begin.
fn granted(instance: &Instance) -> Client {
    let mut client = instance.connect();
    client.send(SSL_REQUEST);
    assert_eq!(client.recv(1), b"S");
    client
}

fn name_behind(client: &mut Client, said: &[u8]) -> String {
    client.send(said);
    crate::routing::name_of(client, said)
}

fn hello_for(name: &str) -> Vec<u8> {
    hello(Some(name), None, 16_384)
}

#[test]
fn a_client_that_asks_for_tls_first_goes_where_its_name_is_served() {
    let (a, b, other) = (asked("a", b"S"), asked("b", b"S"), asked("o", b"S"));
    let instance = instance(&format!("PORT @a.example {a} @*.b.example {b} @ {other}"));
    for (name, expected) in [("a.example", "a"), ("x.b.example", "b"), ("c.example", "o")] {
        let mut client = granted(&instance);
        assert_eq!(name_behind(&mut client, &hello_for(name)), expected);
        let mut client = instance.connect();
        client.send(GSS_REQUEST);
        assert_eq!(client.recv(1), b"N");
        client.send(SSL_REQUEST);
        assert_eq!(client.recv(1), b"S");
        assert_eq!(name_behind(&mut client, &hello_for(name)), expected);
    }
    // PostgreSQL 17 can begin with TLS at once; its servers know that by themselves.
    let direct = hello(Some("a.example"), Some("postgresql"), 16_384);
    assert_eq!(name_behind(&mut instance.connect(), &direct), "a");
    // Without TLS there is no name.
    assert_eq!(name_behind(&mut instance.connect(), &STARTUP), "o");
    let mut client = instance.connect();
    client.send(GSS_REQUEST);
    assert_eq!(client.recv(1), b"N");
    assert_eq!(name_behind(&mut client, &STARTUP), "o");
    drop(client);
    // One byte at a time, and in records of one byte.
    let mut client = instance.connect();
    for byte in SSL_REQUEST {
        client.send([byte]);
    }
    assert_eq!(client.recv(1), b"S");
    let said = hello(Some("a.example"), None, 1);
    assert_eq!(name_behind(&mut client, &said), "a");
    drop(client);
    instance.end();
}

#[test]
fn what_is_slipped_in_between_a_request_and_its_answer_is_refused() {
    let a = asked("a", b"S");
    let instance = instance(&format!("PORT @a.example {a} @ {a}"));
    for behind in [&b"Q\0\0\0\x0eDROP ALL\0"[..], &hello_for("a.example"), b"x"] {
        let mut client = instance.connect();
        client.send([&SSL_REQUEST, behind].concat());
        assert_eq!(client.ending(), Received::Reset);
    }
    // Behind the answer, only TLS may come.
    let mut client = granted(&instance);
    client.send(STARTUP);
    assert_eq!(client.ending(), Received::Reset);
    eventually("all are told", || (instance.losses() == "4 (bad greeting: malformed 4)").then_some(()));
    assert_eq!(a.accepted(), 0, "nothing is dialled for them");
    instance.end();
}

#[test]
fn a_server_without_tls_ends_the_client_with_a_reason_and_stays_up() {
    let (plain, odd) = (asked("p", b"N"), asked("e", b"E"));
    let instance = instance(&format!("PORT @plain.example {plain} @odd.example {odd}"));
    for name in ["plain.example", "odd.example", "plain.example"] {
        let mut client = granted(&instance);
        client.send(hello_for(name));
        assert_eq!(client.recv_all(), HANDSHAKE_FAILURE, "{name}");
    }
    let mut client = granted(&instance);
    client.send(hello_for("other.example"));
    assert_eq!(client.recv_all(), [21, 3, 1, 0, 2, 2, 112]);
    eventually("all are told", || {
        (instance.losses() == "4 (unknown name 1, channel without TLS 3)").then_some(())
    });
    for row in instance.status() {
        assert_eq!((&*row.health, row.failed, &*row.why), ("untried", 0, "-"));
    }
    assert!(instance.show().iter().all(|row| row.c == 0));
    instance.end();
}

#[test]
fn a_server_that_does_not_answer_its_request_is_one_that_does_not_connect() {
    unless_held_up(200, || {
        let (closes, silent, good) = (asked("c", b""), Server::silent(), asked("g", b"S"));
        let instance =
            instance(&format!("-t 1 PORT @a.example {closes} ! {good} @b.example {silent} ! {good}"));
        for name in ["a.example", "b.example"] {
            let mut client = granted(&instance);
            assert_eq!(name_behind(&mut client, &hello_for(name)), "g", "{name}");
        }
        let failed: Vec<_> = instance.status().iter().map(|row| row.failed).collect();
        assert_eq!(failed, [1, 0, 1, 0]);
        // A client that gives up in the middle leaves nothing behind.
        let mut client = granted(&instance);
        client.send(hello_for("b.example"));
        client.rst();
        instance.await_show("nobody is left", |rows| rows.iter().all(|row| row.c == 0));
        instance.end();
    });
}

#[test]
fn the_header_of_a_proxy_goes_in_front_of_the_request() {
    let server = Server::with(|mut stream, _| {
        let mut first = [0; 28 + 8];
        if stream.read_exact(&mut first).is_ok() && first[28..] == SSL_REQUEST {
            let mut rest = [0; 1_024];
            let _ = stream.write_all(b"S");
            let got = stream.read(&mut rest).unwrap_or(0);
            let _ = stream.write_all(&[&first[..16], &rest[..got.min(1)]].concat());
        }
    });
    let instance = instance(&format!("--accept-proxy any PORT @a.example {server},proxy"));
    let mut client = instance.connect();
    client.send([&b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"[..], &SSL_REQUEST].concat());
    assert_eq!(client.recv(1), b"S");
    client.send(hello_for("a.example"));
    assert_eq!(client.recv(17), b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x16");
    drop(client);
    instance.end();
}

#[test]
fn clients_that_have_asked_go_on_in_another_process() {
    let (a, other) = (asked("a", b"S"), asked("o", b"S"));
    let words = format!("--queue 9 --greeting-timeout 5m PORT @a.example {a}:1 @ {other}");
    let mut instance = instance(&words);
    let said = hello_for("a.example");
    let mut holder = granted(&instance);
    assert_eq!(name_behind(&mut holder, &said), "a");
    let mut waits = granted(&instance);
    waits.send(&said);
    eventually("it waits", || (crate::queue::waiting(&instance)[0] == 1).then_some(()));
    let mut begins = instance.connect();
    begins.send(&SSL_REQUEST[..5]);
    let mut granted = granted(&instance);
    granted.send(&said[..9]);
    eventually("they are here", || {
        (instance.ctl("sessions").code(0).stdout.lines().count() == 5).then_some(())
    });
    for _ in 0..2 {
        let told = instance.upgrade();
        assert!(told.contains("carried 4, "), "{told}");
    }
    begins.send(&SSL_REQUEST[5..]);
    assert_eq!(begins.recv(1), b"S");
    assert_eq!(name_behind(&mut begins, &hello_for("c.example")), "o");
    holder.shut_wr();
    assert_eq!(crate::routing::name_of(&mut waits, &said), "a");
    drop(waits);
    granted.send(&said[9..]);
    assert_eq!(crate::routing::name_of(&mut granted, &said), "a");
    drop((holder, begins, granted));
    let saved = instance.ctl("save").code(0).stdout;
    assert!(saved.contains("--starttls postgres"), "{saved}");
    instance.end();
}

/// A database with TLS that knows its own name.
fn database(name: &str) -> Postgres {
    let database = Postgres::start();
    database.run(&format!(
        "psql -q -h 127.0.0.1 -p {} -U postgres -c 'create database {name}' >&2\n\
         cd data && as openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN={name} \
         -keyout server.key -out server.crt 2>&1 && echo \"ssl = on\" >>postgresql.conf && cd ..\n\
         as pg_ctl -D data reload",
        database.port
    ));
    database
}

#[test]
fn psql_reaches_the_database_of_its_name() {
    let [first, second] = ["first", "second"].map(database);
    let (one, two) = (format!("127.0.0.1:{}", first.port), format!("127.0.0.1:{}", second.port));
    let instance = instance(&format!("PORT @first.example {one} @second.example {two} @ {two}"));
    let ask = |host: &str, database: &str, mode: &str| {
        let to = format!(
            "host={host} hostaddr=127.0.0.1 port={} user=postgres dbname={database} sslmode={mode} connect_timeout=60",
            instance.port()
        );
        let sql = "select current_database(), ssl from pg_stat_ssl where pid = pg_backend_pid()";
        Run::new(program("psql")).args(["-qAt", "-c", sql, &to]).within(Duration::from_secs(100)).finish()
    };
    ask("first.example", "first", "require").code(0).out("first|t\n");
    ask("second.example", "second", "require").code(0).out("second|t\n");
    ask("SECOND.Example", "second", "prefer").code(0).out("second|t\n");
    // They are not the same, and without TLS nobody can tell which is meant.
    assert_eq!(ask("first.example", "second", "require").code, 2);
    ask("first.example", "second", "disable").code(0).out("second|f\n");
    drop((first, second));
    instance.end();
}

#[test]
fn psql_is_told_of_a_database_without_tls() {
    let plain = Postgres::start();
    let instance = instance(&format!("PORT @plain.example 127.0.0.1:{}", plain.port));
    let to = format!(
        "host=plain.example hostaddr=127.0.0.1 port={} user=postgres sslmode=require connect_timeout=60",
        instance.port()
    );
    let said =
        Run::new(program("psql")).args(["-c", "select 1", &to]).within(Duration::from_secs(100)).finish();
    assert!(said.code == 2 && said.stderr.contains("handshake failure"), "{said}");
    instance.await_losses("1 (channel without TLS 1)");
    assert_eq!(instance.health(), "untried");
    drop(plain);
    instance.end();
}

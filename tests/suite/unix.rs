//! Unix sockets as channels.
//!
//! Source: docs/unix-sockets.md.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::pausing::Postgres;
use crate::harness::{
    Client, Direction, Directory, Instance, Received, Run, Server, Setup, Stream, eventually, executable,
    run_number,
};
use crate::real_programs::program;

/// Tells its name to every client, and then sends back what it gets. Ends with the test's process.
fn named(listener: UnixListener, name: &'static str) {
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut stream = stream;
                let mut said = stream.write_all(name.as_bytes());
                let mut bytes = [0; 4_096];
                while said.is_ok() {
                    match stream.read(&mut bytes) {
                        Ok(0) | Err(_) => return,
                        Ok(count) => said = stream.write_all(&bytes[..count]),
                    }
                }
            });
        }
    });
}

fn listen(path: &Path) -> UnixListener {
    UnixListener::bind(path).expect("a path in a directory of our own")
}

fn word(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// A name that no other test and no other run has.
fn abstract_name() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("balance-test-{}-{}", run_number(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[test]
fn clients_are_served_by_a_path_by_an_abstract_name_and_by_a_name_of_odd_bytes() {
    let directory = Directory::new();
    let (plain, odd) = (directory.path().join("a.sock"), directory.path().join("b, c:d%"));
    named(listen(&plain), "a");
    named(listen(&odd), "b");
    let name = abstract_name();
    let address = UnixAddress::from_abstract_name(&name).expect("a short name");
    named(UnixListener::bind_addr(&address).expect("nobody has it"), "c");
    let odd = word(&odd).replace("b, c:d%", "b%2C%20c%3Ad%25");
    let channels = [word(&plain), odd.clone(), format!("unix:@{name}::5,weight=1")];
    let instance = Instance::before(&[&channels[0], &channels[1], &channels[2]]);
    assert_eq!(instance.names(6), "abcabc");
    let (mut client, _) = instance.named();
    let stream = Stream::new(7, Direction::Sent);
    thread::scope(|scope| {
        let mut writer = Client(client.0.try_clone().expect("a descriptor"));
        scope.spawn(move || {
            writer.send_stream(stream, 3_000_000);
            writer.shut_wr();
        });
        client.recv_stream(stream, 3_000_000);
        assert_eq!(client.recv_all(), b"", "the end is passed on");
    });
    let rows = instance.status();
    assert_eq!(rows[1].address, odd);
    assert_eq!(rows[2].address, format!("unix:@{name}"));
    let saved = instance.ctl("save").code(0).stdout;
    assert!(saved.contains(&format!(" {} {odd} unix:@{name}::5", channels[0])), "{saved}");
    let json: serde_json::Value =
        serde_json::from_str(&instance.ctl("show json").code(0).stdout).expect("JSON");
    let one = &json["groups"][0]["channels"][1];
    assert_eq!((&one["address"], &one["port"]), (&odd.clone().into(), &serde_json::Value::Null), "{json}");
    instance.end();
}

#[test]
fn a_socket_that_is_not_there_is_ejected_with_the_reason_and_comes_back_by_itself() {
    let directory = Directory::new();
    let (late, stale) = (directory.path().join("late"), directory.path().join("stale"));
    // A file that nobody listens at, as a crash leaves it.
    drop(listen(&stale));
    let other = Server::named("b");
    let channels = [word(&late), word(&stale), other.to_string()];
    let instance = Instance::before(&[&channels[0], &channels[1], &channels[2]]);
    assert_eq!(instance.names(4), "bbbb");
    let rows = instance.status();
    assert!(rows[0].why.contains("no such socket"), "{rows:?}");
    assert!(rows[1].why.contains("connection refused"), "{rows:?}");
    named(listen(&late), "a");
    instance.await_health(0, "up");
    eventually("the socket has clients", || instance.names(3).contains('a').then_some(()));
    instance.end();
}

#[test]
fn a_queue_that_is_full_is_no_refusal() {
    let directory = Directory::new();
    let path = directory.path().join("full");
    let slow = listen(&path);
    rustix::net::listen(&slow, 0).expect("a shorter queue");
    let instance = Setup::new().start(["-t", "20", "PORT", &word(&path)]);
    let fills = UnixStream::connect(&path).expect("there is room for one");
    let mut client = instance.connect();
    client.send("x");
    // The client waits: it has come to nobody, and nobody was told that the channel has failed.
    assert!(client.is_quiet_for(Duration::from_millis(300)));
    assert_eq!(instance.status()[0].failed, 0);
    drop(slow.accept().expect("the one that filled it"));
    let (mut served, _) = slow.accept().expect("the client");
    served.write_all(b"y").expect("it is there");
    assert_eq!(client.recv(1), b"y");
    drop((fills, served));
    assert_eq!(instance.status()[0].health, "up");
    drop(client);

    // With another channel nobody waits.
    let other = Server::named("b");
    let _fills = UnixStream::connect(&path).expect("there is room for one again");
    instance.ctl(&format!("create {}", other.to_string().replace(':', " "))).code(0);
    instance.ctl("enable 1").code(0);
    assert_eq!(instance.names(2), "bb");
    // It counts with its cause.
    let row = &instance.status()[0];
    assert!(row.failed > 0 && row.why.contains("connect: listen queue is full"), "{row:?}");
    instance.end();
}

#[test]
fn what_ends_without_having_read_all_resets_its_client() {
    let directory = Directory::new();
    let path = directory.path().join("rude");
    let listener = listen(&path);
    let instance = Instance::before(&[&word(&path)]);
    let mut client = instance.connect();
    client.send("unread");
    let (stream, _) = listener.accept().expect("the client");
    eventually("the bytes are there", || {
        let unread = rustix::io::ioctl_fionread(&stream).expect("a number");
        (unread == 6).then_some(())
    });
    drop(stream);
    assert_eq!(client.ending(), Received::Reset, "it misses bytes, and is told");
    instance.end();
}

#[test]
fn a_channel_is_created_and_assigned_at_run_time_and_is_there_after_an_upgrade() {
    let directory = Directory::new();
    let (a, b) = (directory.path().join("a"), directory.path().join("b"));
    named(listen(&a), "a");
    named(listen(&b), "b");
    let mut instance = Instance::before(&[&word(&a)]);
    instance.ctl(&format!("create {},check=none", word(&b))).code(0);
    instance.ctl("enable 1").code(0);
    let (mut client, name) = instance.named();
    assert_eq!(name, "a");
    instance.upgrade();
    client.send("still there");
    assert_eq!(client.recv(11), b"still there");
    let mut names: Vec<char> = instance.names(4).chars().collect();
    names.sort_unstable();
    assert_eq!(names, ['a', 'a', 'b', 'b']);
    instance.ctl("disable 1").code(0);
    instance.ctl(&format!("assign 1 {}", word(&a))).code(0);
    instance.ctl("enable 1").code(0);
    assert_eq!(instance.names(2), "aa");
    drop(client);
    instance.end();
}

#[test]
fn a_program_that_checks_is_told_the_socket() {
    let directory = Directory::new();
    let path = directory.path().join("a");
    named(listen(&path), "a");
    let told = directory.path().join("told");
    let script = executable(
        &directory,
        "check",
        &format!("#!/bin/sh\necho \"$1 $2\" > {0}.new && mv {0}.new {0}\n", told.display()),
    );
    let check = format!("exec:{}", script.display());
    let instance = Setup::new().start(["--check", &check, "--check-interval", "100ms", "PORT", &word(&path)]);
    let text = eventually("it was asked", || std::fs::read_to_string(&told).ok());
    assert_eq!(text, format!("{} 0\n", word(&path)));
    instance.end();
}

#[test]
fn a_database_is_reached_by_its_socket() {
    let database = Postgres::start();
    let instance = Setup::new().start(["--check", "tcp", "PORT", &word(&database.socket())]);
    let query = |sql: &str| {
        Run::new(program("psql"))
            .args(["-h", "127.0.0.1", "-p", &instance.port(), "-U", "postgres", "-qAt", "-c", sql])
            .within(Duration::from_secs(60))
            .finish()
            .code(0)
            .stdout
    };
    // Without a Unix socket at its end the server would say an address here.
    assert_eq!(query("select inet_server_addr() is null"), "t\n");
    assert_eq!(query("select length(repeat('x', 5000000))"), "5000000\n");
    assert_eq!(query("select sum(n) from generate_series(1, 200000) n"), "20000100000\n");
    instance.end();
}

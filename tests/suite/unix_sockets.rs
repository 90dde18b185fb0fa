//! Services that listen on Unix sockets.
//!
//! Source: docs/unix-sockets.md.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::pausing::Postgres;
use crate::harness::{
    BALANCE, Client, DEADLINE, Directory, Instance, Run, Server, Setup, eventually, is_root, needs_root,
    own_address, run_number, unique,
};
use crate::real_programs::program;

/// A path for a socket in a directory of the test's own.
struct Place {
    directory: Directory,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = Directory::new();
        let path = directory.path().join("x.sock");
        Self { directory, path }
    }

    fn word(&self) -> String {
        word(&self.path)
    }

    /// What is in the directory.
    fn names(&self) -> Vec<String> {
        let all = fs::read_dir(self.directory.path()).expect("our own").flatten();
        let mut names: Vec<_> = all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time");
        stream
    }

    /// The names of the channels that so many clients get.
    fn served_by(&self, clients: usize) -> String {
        (0..clients).map(|_| named(&mut self.connect())).collect()
    }

    fn file(&self) -> (u64, u64) {
        let meta = fs::symlink_metadata(&self.path).expect("it is there");
        assert!(meta.file_type().is_socket());
        (meta.dev(), meta.ino())
    }

    fn mode(&self) -> u32 {
        fs::symlink_metadata(&self.path).expect("it is there").permissions().mode() & 0o7777
    }
}

fn word(path: &Path) -> String {
    format!("unix:{}", path.display())
}

fn named(stream: &mut UnixStream) -> char {
    let mut name = [0];
    stream.read_exact(&mut name).expect("a name");
    name[0].into()
}

/// A web server that says hello.
fn hello() -> Server {
    Server::with(|mut stream, _| {
        let _ = stream.read(&mut [0; 4_096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
    })
}

/// What the kernel says of us at the other end.
fn own_name() -> String {
    format!("uid:{},pid:{}", rustix::process::geteuid().as_raw(), std::process::id())
}

#[test]
fn a_client_comes_by_a_path_and_is_told_by_its_user_and_process() {
    let place = Place::new();
    let server = Server::echo();
    let log = place.directory.path().join("access.log");
    let options =
        ["--access-log", &log.display().to_string(), "--access-log-format", "json"].map(str::to_owned);
    let instance = Setup::on_socket(&place.word())
        .start(options.into_iter().chain(["PORT".to_owned(), server.addr.to_string()]));
    assert_eq!(place.names(), ["access.log", "x.sock"], "no temporary name is left");
    let mut client = place.connect();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut writer = client.try_clone().expect("a descriptor");
    let bytes = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&bytes).expect("it is read");
        writer.shutdown(std::net::Shutdown::Write).expect("connected");
    });
    let mut got = vec![0; 1_000_000];
    client.read_exact(&mut got).expect("an echo");
    let sessions = instance.ctl("sessions").code(0).stdout;
    assert!(sessions.contains(&own_name()), "{sessions}");
    let json: serde_json::Value =
        serde_json::from_str(&instance.ctl("sessions json").code(0).stdout).expect("JSON");
    assert_eq!(json["sessions"][0]["client"], own_name(), "{json}");
    client.read_to_end(&mut got).expect("the end is passed on");
    writing.join().expect("no panic");
    assert!(got == sent, "{} bytes", got.len());
    drop(client);
    let line = eventually("the client is logged", || {
        let text = fs::read_to_string(&log).ok()?;
        (text.contains("\"event\":\"end\"") && text.ends_with('\n')).then_some(text)
    });
    let line: serde_json::Value = serde_json::from_str(line.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&line["client"], &line["port"]), (&own_name().into(), &serde_json::Value::Null), "{line}");
    let ended = instance.ctl("ended").stdout;
    assert!(ended.contains(&own_name()) || ended.contains("syntax"), "{ended}");

    let services = instance.ctl("services").code(0).stdout;
    assert!(services.contains(&place.word()), "{services}");
    let saved = instance.ctl("save").code(0).stdout;
    assert!(saved.contains(&format!("{} {}", place.word(), server.addr)), "{saved}");
    let list = Run::balance(&instance.directory).arg("--list").finish().code(0).stdout;
    assert!(list.lines().any(|line| line.starts_with('-') && line.contains(&place.word())), "{list}");
    instance.end();
    assert_eq!(place.names(), ["access.log"], "it is gone with its process");
}

#[test]
fn an_abstract_name_is_listened_on_once() {
    let name = format!("balance-listen-{}-{}", run_number(), unique());
    let server = Server::named("a");
    let socket = format!("unix:@{name}");
    let instance = Setup::on_socket(&socket).start(["PORT", &server.addr.to_string()]);
    let address = UnixAddress::from_abstract_name(&name).expect("a short name");
    let mut client = UnixStream::connect_addr(&address).expect("it listens");
    assert_eq!(named(&mut client), 'a');
    let second = Run::balance(&instance.directory).args(["-f", &socket, "127.0.0.1:9"]).finish();
    assert!(second.code != 0 && second.stderr.contains("Address already in use"), "{second:?}");
    let mode = Run::balance(&instance.directory)
        .args(["--check-only", "--socket-mode", "600", &socket, "127.0.0.1:9"])
        .finish();
    assert!(mode.code == 64 && mode.stderr.contains("--socket-mode is for"), "{mode:?}");
    drop(client);
    instance.end();
}

#[test]
fn permissions_and_group_are_those_that_were_asked_for() {
    let server = Server::named("a");
    let group = if is_root() { 4_711 } else { rustix::process::getegid().as_raw() };
    let group_word = group.to_string();
    for (options, mode, is_given) in [
        (&["--socket-mode", "620"][..], 0o620, false),
        (&["--socket-group", &group_word], 0o660, true),
        (&["--socket-group", &group_word, "--socket-mode", "0666"], 0o666, true),
    ] {
        let place = Place::new();
        let args = options.iter().copied().chain(["PORT"]).map(str::to_owned);
        // An umask that would leave more, or less.
        let instance =
            Setup::on_socket(&place.word()).shell("umask 0;").start(args.chain([server.addr.to_string()]));
        let meta = fs::symlink_metadata(&place.path).expect("it is there");
        assert_eq!(place.mode(), mode, "{options:?}");
        assert!(!is_given || meta.gid() == group, "{options:?}: {}", meta.gid());
        assert_eq!(place.served_by(1), "a");
        let saved = instance.ctl("save").code(0).stdout;
        assert!(saved.contains("--socket-"), "{saved}");
        instance.end();
    }
    // What the umask leaves.
    let place = Place::new();
    let instance =
        Setup::on_socket(&place.word()).shell("umask 027;").start(["PORT", &server.addr.to_string()]);
    assert_eq!(place.mode(), 0o750);
    instance.end();
}

#[test]
fn who_has_no_permission_is_not_let_in() {
    if needs_root("another user") {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.directory.path(), fs::Permissions::from_mode(0o755)).expect("our own");
    let server = hello();
    let as_nobody = |path: &Path| {
        let path = path.display().to_string();
        Run::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "curl", "-sS"])
            .args(["--unix-socket", &path, "http://localhost/"])
            .finish()
    };
    let start = |options: &[&str]| {
        let args = options.iter().copied().chain(["PORT"]).map(str::to_owned);
        Setup::on_socket(&place.word()).start(args.chain([server.addr.to_string()]))
    };
    let instance = start(&["--socket-mode", "600"]);
    // It could not connect.
    let refused = as_nobody(&place.path).code(7);
    assert_eq!(refused.stdout, "");
    instance.end();
    let instance = start(&["--socket-group", "65534"]);
    assert_eq!(as_nobody(&place.path).code(0).stdout, "hello");
    instance.end();
}

#[test]
fn a_socket_is_taken_over_only_from_the_dead() {
    let place = Place::new();
    let server = Server::named("a");
    let mut first = Setup::on_socket(&place.word()).start(["PORT", &server.addr.to_string()]);
    let file = place.file();
    let second = Directory::new();
    let start = || Run::balance(&second).args(["-f", &place.word(), &server.addr.to_string()]).finish();
    let refused = start();
    assert!(refused.code != 0 && refused.stderr.contains("Address already in use"), "{refused:?}");
    assert_eq!((place.file(), place.served_by(2)), (file, "aa".to_owned()));

    first.signal(Signal::KILL);
    assert_eq!(first.wait(), 128 + 9);
    assert_eq!(place.file(), file, "nobody could take it away");
    assert!(UnixStream::connect(&place.path).is_err());
    let again = Setup::on_socket(&place.word()).start(["PORT", &server.addr.to_string()]);
    assert_ne!(place.file(), file);
    assert_eq!((place.names(), place.served_by(2)), (vec!["x.sock".to_owned()], "aa".to_owned()));

    // Another file in its place is not its own any more.
    fs::remove_file(&place.path).expect("our own directory");
    let _other = UnixListener::bind(&place.path).expect("free");
    let other = place.file();
    again.terminate();
    assert_eq!(place.file(), other);
}

#[test]
fn whoever_has_the_path_gets_two_clients_at_most() {
    let place = Place::new();
    let other = UnixListener::bind(&place.path).expect("free");
    other.set_nonblocking(true).expect("a listener");
    let count = || std::iter::from_fn(|| other.accept().ok()).count();
    let refused = Run::balance(&place.directory).args(["-f", &place.word(), "127.0.0.1:9"]).finish();
    assert!(refused.code != 0 && refused.stderr.contains("Address already in use"), "{refused:?}");
    let clients = count();
    assert!((1..=2).contains(&clients), "{clients} clients");
    let name = format!("unix:@balance-{}-{}", run_number(), unique());
    let lines = place.directory.file("lines", &format!("a: {name} 127.0.0.1:9\n")).display().to_string();
    let instance = Setup::on_socket(&name).start(["--file", &lines]);
    place.directory.file("lines", &format!("a: {name} 127.0.0.1:9\n{} 127.0.0.1:9\n", place.word()));
    instance.ctl("reload").code(78);
    let clients = count();
    assert!((1..=2).contains(&clients), "{clients} clients");
    instance.terminate();
}

#[test]
fn two_paths_of_one_socket_are_found_before_the_start() {
    let place = Place::new();
    symlink(place.directory.path(), place.directory.path().join("link")).expect("free");
    for other in ["/x.sock", "/./x.sock", "/link/x.sock"] {
        let other = format!("unix:{}/{other}", place.directory.path().display());
        let file = place.directory.file("lines", &format!("{} a:1\n{other} a:1\n", place.word()));
        let args = ["--check-only", "--file", &file.display().to_string()];
        let refused = Run::balance(&place.directory).args(args).finish().code(78).stderr;
        assert!(refused.contains(&format!("{other} and {} are the same path", place.word())), "{refused}");
    }
}

#[test]
fn what_is_no_socket_is_not_touched() {
    let place = Place::new();
    let directory = Directory::new();
    let refused = |socket: &str, words: &str| {
        let [refused, foreseen] = ["-f", "--check-only"]
            .map(|how| Run::balance(&directory).args([how, socket, "127.0.0.1:9"]).finish());
        assert!(refused.code != 0 && refused.stderr.contains(words), "{refused:?}");
        assert_eq!((foreseen.code, &foreseen.stderr), (refused.code, &refused.stderr));
    };
    fs::write(&place.path, "precious").expect("our own");
    refused(&place.word(), "a file is there, which is not replaced");
    assert_eq!(fs::read_to_string(&place.path).expect("there"), "precious");
    fs::remove_file(&place.path).expect("our own");
    let target = place.directory.path().join("target");
    drop(UnixListener::bind(&target).expect("free"));
    symlink(&target, &place.path).expect("free");
    refused(&place.word(), "a symbolic link is there, which is not replaced");
    fs::remove_file(&place.path).expect("our own");
    assert_eq!(place.names(), ["target"]);
    let none = place.directory.path().join("none");
    refused(
        &word(&none.join("x")),
        &format!("open(): No such file or directory: the directory {} (", none.display()),
    );
    refused("unix:x", "the path must be absolute");
    refused(
        "/run/x.sock",
        "invalid port [/run/x.sock], exiting.\nbalance: a Unix socket is written unix:/run/x.sock",
    );
    refused(&format!("unix:/{}", "x".repeat(107)), "a Unix socket may have 107 at most");
    refused("unix:/run/", "the path is that of a directory");
    // What belongs to a channel is no part of a name.
    let limit = "write --max-connections 5 unix:/run/lim to limit the whole service";
    let start =
        "invalid port [unix:/run/lim::5], exiting.\nbalance: a limit behind two colons is for a channel; ";
    refused("unix:/run/lim::5", start);
    refused("unix:/run/lim::5", limit);
    refused(&format!("{},weight=2", place.word()), "options behind a comma are for a channel");
    let line = place.directory.file("lines", &format!("x: {}:80 127.0.0.1:9\n", place.word()));
    let refused = Run::balance(&directory).args(["-f", "--file", &line.display().to_string()]).finish();
    assert!(refused.code != 0 && refused.stderr.contains("a Unix socket has no port"), "{refused:?}");
    fs::remove_file(line).expect("our own");
    assert_eq!(place.names(), ["target"], "no temporary name is left");
}

#[test]
fn a_path_as_long_as_the_kernel_takes_can_be_had() {
    let place = Place::new();
    let room = 107 - place.directory.path().as_os_str().len() - 1;
    let path = place.directory.path().join("x".repeat(room));
    let server = Server::named("a");
    let instance = Setup::on_socket(&word(&path)).start(["PORT", &server.addr.to_string()]);
    let mut client = UnixStream::connect(&path).expect("it listens");
    assert_eq!(named(&mut client), 'a');
    drop(client);
    instance.end();
    assert!(place.names().is_empty());
}

#[test]
fn a_directory_that_is_closed_or_full_is_told() {
    if needs_root("another user and a file system") {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.directory.path(), fs::Permissions::from_mode(0o755)).expect("our own");
    let closed = Run::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            BALANCE,
            "-f",
            &place.word(),
            "127.0.0.1:9",
        ])
        .finish();
    assert!(closed.code != 0 && closed.stderr.contains("Permission denied"), "{closed:?}");
    let directory = place.directory.path().display();
    let why = format!("Permission denied: the directory {directory} (");
    assert!(closed.stderr.contains(&why), "{closed:?}");
    // A file system with no room for another name.
    for (mode, call) in [("755", "bind()"), ("1777", "mkdir()")] {
        let full = format!(
            "mount -t tmpfs -o nr_inodes=2,mode={mode} none {directory}; touch {directory}/x; exec {BALANCE} -f unix:{directory}/y 127.0.0.1:9",
        );
        let full = Run::new("unshare").args(["-m", "sh", "-ec", &full]).finish();
        let why = format!("{call}: No space left on device");
        assert!(full.code != 0 && full.stderr.contains(&why), "{full:?}");
    }
}

/// What `kill -9` has left is replaced, though there is no room for a directory and a socket beside it.
#[test]
fn a_stale_socket_is_replaced_where_nothing_else_fits() {
    if needs_root("a file system") {
        return;
    }
    let place = Place::new();
    let directory = place.directory.path().join("full");
    fs::create_dir(&directory).expect("our own");
    let path = directory.join("x");
    let prefix = format!(
        "mount -t tmpfs -o nr_inodes=3,mode=755 none {0}; {BALANCE} -f unix:{0}/x 127.0.0.1:9 & \
         while ! [ -S {0}/x ]; do sleep 0.02; done; kill -9 $!; wait $! || true; touch {0}/y;",
        directory.display()
    );
    let server = Server::named("a");
    let instance = Setup::on_socket(&word(&path)).mounting(&prefix).start([
        "--socket-mode",
        "606",
        "PORT",
        &server.addr.to_string(),
    ]);
    let inside = PathBuf::from(format!("/proc/{}/root{}", instance.pid(), path.display()));
    // Until then the stale one is there.
    eventually("it has replaced the stale one", || {
        let mode = fs::symlink_metadata(&inside).ok()?.permissions().mode() & 0o777;
        (mode == 0o606).then_some(())
    });
    eventually("it listens", || UnixStream::connect(&inside).ok());
    assert_eq!(named(&mut UnixStream::connect(&inside).expect("it listens")), 'a');
    instance.ctl("ready").code(0);
    instance.terminate();
}

/// Who may make a file in a directory need not be able to list it.
#[test]
fn a_directory_that_cannot_be_read_is_no_obstacle() {
    if needs_root("--user") {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.directory.path(), fs::Permissions::from_mode(0o733)).expect("our own");
    drop(UnixListener::bind(&place.path).expect("free"));
    chown(&place.path, Some(65_534), Some(65_534)).expect("root may");
    let server = Server::named("a");
    let options = ["--user", "nobody", "--socket-mode", "606", "PORT", &server.addr.to_string()];
    let instance = Setup::on_socket(&place.word()).start(options);
    assert_eq!((place.mode(), place.served_by(1)), (0o606, "a".to_owned()));
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o640)).expect("root may");
    instance.ctl("reload").code(0);
    assert_eq!(place.mode(), 0o606);
    instance.terminate();
    assert!(place.names().iter().all(|name| !name.contains("x.sock")));
}

#[test]
fn of_several_that_want_a_dead_name_one_serves() {
    let place = Place::new();
    let server = Server::named("a");
    drop(UnixListener::bind(&place.path).expect("free"));
    let mut all: Vec<_> = (0..5)
        .map(|_| {
            let directory = Directory::new();
            let mut command = Command::new(BALANCE);
            command.env("BALANCE_RUN_DIR", directory.path()).args([
                "-f",
                &place.word(),
                &server.addr.to_string(),
            ]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            (command.spawn().expect("our program"), directory)
        })
        .collect();
    eventually("all but one have given up", || {
        let ends = all.iter_mut().map(|(one, _)| one.try_wait().expect("ours"));
        let ended = ends.flatten().count();
        assert!(ended < 5, "all have given up");
        (ended == 4).then_some(())
    });
    eventually("it listens", || UnixStream::connect(&place.path).ok());
    eventually("no name is left of the others", || (place.names() == ["x.sock"]).then_some(()));
    assert_eq!(place.served_by(2), "aa");
    for (one, _) in &mut all {
        let _ = one.kill();
        let _ = one.wait();
    }
}

#[test]
fn an_upgrade_under_held_connections_leaves_the_file_to_the_new_process() {
    let place = Place::new();
    let server = Server::echo();
    let mut instance =
        Setup::on_socket(&place.word()).start(["--socket-mode", "666", "PORT", &server.addr.to_string()]);
    let file = place.file();
    let mut client = place.connect();
    client.write_all(b"before").expect("connected");
    let mut bytes = [0; 6];
    client.read_exact(&mut bytes).expect("an echo");
    for round in 0..2 {
        instance.upgrade();
        assert_eq!((place.file(), place.mode()), (file, 0o666), "round {round}");
        client.write_all(b"behind").expect("connected");
        client.read_exact(&mut bytes).expect("an echo");
        assert_eq!(&bytes, b"behind");
        let sessions = instance.ctl("sessions").code(0).stdout;
        assert!(sessions.contains(&own_name()), "{sessions}");
        place.connect().write_all(b"x").expect("it listens");
    }
    drop(client);
    instance.end();
    assert!(place.names().is_empty(), "the last one takes it away: {:?}", place.names());
}

#[test]
fn a_new_process_that_cannot_serve_leaves_the_file_alone() {
    let place = Place::new();
    let server = Server::named("a");
    let file = place.directory.file("lines", &format!("pg: {} {}\n", place.word(), server.addr));
    let instance = Setup::on_socket(&place.word()).start(["--file", &file.display().to_string()]);
    let socket = place.file();
    let taken = Server::silent();
    let more = format!("other: -b 127.0.0.1 {} {}\n", taken.addr.port(), server.addr);
    fs::write(&file, format!("pg: {} {}\n{more}", place.word(), server.addr)).expect("our own");
    let failed = instance.ctl("upgrade");
    assert!(failed.code != 0, "{failed:?}");
    assert_eq!((place.file(), place.served_by(2)), (socket, "aa".to_owned()));
    instance.end();
    assert_eq!(place.names(), ["lines"]);
}

#[test]
fn another_start_replaces_it_and_takes_the_file_over() {
    let place = Place::new();
    let server = Server::named("a");
    let mut first = Setup::on_socket(&place.word()).start(["PORT", &server.addr.to_string()]);
    let file = place.file();
    let hint = Run::balance(&first.directory).args(["-f", &place.word(), &server.addr.to_string()]).finish();
    assert!(hint.stderr.contains("--replace takes the port over from it"), "{hint:?}");
    let unknown = "balance: --socket-group: unknown group \"no-such-group\"\n";
    for first_word in ["-f", "--check-only"] {
        let words = [first_word, "--socket-group", "no-such-group", &place.word(), &server.addr.to_string()];
        Run::balance(&first.directory).args(words).finish().code(65).err(unknown);
    }
    let mut second = Command::new(BALANCE);
    second.env("BALANCE_RUN_DIR", first.directory.path().join("run"));
    second.args(["-f", "--replace", &place.word(), &server.addr.to_string()]);
    second.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut second = second.spawn().expect("our program");
    assert_eq!(first.wait(), 0);
    assert_eq!((place.file(), place.served_by(2)), (file, "aa".to_owned()));
    let pid = rustix::process::Pid::from_child(&second);
    rustix::process::kill_process(pid, Signal::TERM).expect("our own child");
    second.wait().expect("our own child");
    assert!(place.names().is_empty());
}

/// A start in place of this one, which serves until it is told to end.
fn replacing(first: &Instance, options: &[&str]) -> Child {
    let mut second = Command::new(BALANCE);
    second.env("BALANCE_RUN_DIR", first.directory.path().join("run"));
    second.args(["-f", "--replace"]).args(options);
    second.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    second.spawn().expect("our program")
}

fn end(mut child: Child) {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).expect("our own child");
    child.wait().expect("our own child");
}

#[test]
fn another_start_and_an_upgrade_set_the_permissions_that_they_ask_for() {
    let place = Place::new();
    let server = Server::named("a");
    let target = server.addr.to_string();
    let mut first = Setup::on_socket(&place.word()).start(["--socket-mode", "600", "PORT", &target]);
    let file = place.file();
    let refused = Run::balance(&first.directory)
        .args(["-f", "--replace", "--socket-group", "no-such-group", &place.word(), &target])
        .finish();
    assert!(refused.code != 0 && refused.stderr.contains("no-such-group"), "{refused:?}");
    assert_eq!((place.file(), place.mode(), place.served_by(1)), (file, 0o600, "a".to_owned()));
    let second = replacing(&first, &["--socket-mode", "606", &place.word(), &target]);
    assert_eq!(first.wait(), 0);
    assert_eq!((place.file(), place.mode(), place.served_by(1)), (file, 0o606, "a".to_owned()));
    end(second);

    let lines = place.directory.file("lines", &format!("--socket-mode 600 {} {target}\n", place.word()));
    let mut third = Setup::on_socket(&place.word()).start(["--file", &lines.display().to_string()]);
    assert_eq!(place.mode(), 0o600);
    fs::write(&lines, format!("--socket-mode 606 {} {target}\n", place.word())).expect("our own");
    third.upgrade();
    assert_eq!((place.mode(), place.served_by(1)), (0o606, "a".to_owned()));
    third.end();
}

#[test]
fn a_socket_whose_file_was_removed_is_not_served_twice_and_is_made_anew() {
    let place = Place::new();
    let server = Server::named("a");
    let target = server.addr.to_string();
    let mut first = Setup::on_socket(&place.word()).start(["--socket-mode", "600", "PORT", &target]);
    fs::remove_file(&place.path).expect("our own directory");
    let refused = Run::balance(&first.directory).args(["-f", &place.word(), &target]).finish();
    assert!(refused.code != 0 && refused.stderr.contains("--replace takes the port over"), "{refused:?}");
    assert!(place.names().is_empty());
    first.upgrade();
    assert_eq!((place.mode(), place.served_by(1)), (0o600, "a".to_owned()));
    fs::remove_file(&place.path).expect("our own directory");
    let second = replacing(&first, &["--socket-mode", "606", &place.word(), &target]);
    first.wait();
    assert_eq!((place.mode(), place.served_by(1)), (0o606, "a".to_owned()));
    end(second);
    assert!(place.names().is_empty());
}

/// As long as the file cannot be made, no other process takes over.
#[test]
fn a_file_that_could_not_be_made_is_made_by_a_later_upgrade() {
    let place = Place::new();
    let (at, aside) = (place.directory.path().join("at"), place.directory.path().join("aside"));
    fs::create_dir(&at).expect("our own directory");
    let path = at.join("x");
    let server = Server::named("a");
    let mut instance = Setup::on_socket(&word(&path)).start(["PORT", &server.addr.to_string()]);
    let refused = |words: &str| {
        let refused = instance.ctl("upgrade").code(69).stdout;
        assert!(refused.contains(words), "{refused}");
    };
    fs::rename(&at, &aside).expect("our own directory");
    refused("No such file or directory");
    fs::rename(&aside, &at).expect("our own directory");
    fs::remove_file(&path).expect("our own directory");
    fs::write(&path, "a file").expect("our own directory");
    refused("a file is there, which is not replaced");
    fs::remove_file(&path).expect("our own directory");
    instance.upgrade();
    assert_eq!(named(&mut UnixStream::connect(&path).expect("it listens")), 'a');
    instance.terminate();
    assert!(!path.exists());
}

#[test]
fn a_socket_whose_file_is_gone_is_told_and_a_reload_makes_it_anew() {
    let place = Place::new();
    let aside = place.directory.path().join("aside");
    let server = Server::with(|mut stream, _| {
        let _ = stream.write_all(b"a");
        let _ = io::copy(&mut stream.try_clone().expect("a descriptor"), &mut stream);
    });
    let target = server.addr.to_string();
    let instance = Setup::on_socket(&place.word()).start(["--socket-mode", "600", "PORT", &target]);
    let mut held = place.connect();
    assert_eq!(named(&mut held), 'a');
    let is_told = |words: &str| {
        let why = format!("no client finds {}: {words}", place.word());
        let ready = instance.ctl("ready");
        assert!(ready.code != 0 && ready.stdout.contains(&why), "{ready:?}");
        let status = instance.ctl("status").code(0).stdout;
        assert!(status.contains(&format!("no client finds its Unix socket: {words}; ")), "{status}");
        let json: Value = serde_json::from_str(&instance.ctl("status json").code(0).stdout).expect("JSON");
        assert_eq!(
            (&json["lost_socket"], &json["service"]["phase"]),
            (&words.into(), &"not-listening".into())
        );
        let doctor = instance.ctl("doctor").code(2).stdout;
        let found = format!("this service listens on {}, and {words}. Why: ", place.word());
        assert!(doctor.contains(&format!("broken socket-file {}: {found}", place.word())), "{doctor}");
        assert!(doctor.contains(&format!("balance -c reload {} makes ", place.word())), "{doctor}");
    };
    let is_fine = || {
        instance.ctl("ready").code(0);
        assert!(!instance.ctl("doctor").stdout.contains("socket-file"));
        assert_eq!((place.mode(), place.served_by(1)), (0o600, "a".to_owned()));
        let json: Value = serde_json::from_str(&instance.ctl("status json").code(0).stdout).expect("JSON");
        assert!(json["lost_socket"].is_null() && json["service"]["phase"] == "serving", "{json}");
    };
    is_fine();
    let before = place.file();
    fs::rename(&place.path, &aside).expect("our own directory");
    is_told("its file is gone");
    fs::rename(&aside, &place.path).expect("our own directory");
    is_fine();
    fs::remove_file(&place.path).expect("our own directory");
    is_told("its file is gone");
    let told = instance.ctl("reload").code(0).stdout;
    assert!(told.contains(&format!("listens on {} again", place.word())), "{told}");
    assert_ne!(place.file(), before);
    is_fine();
    // Somebody else's, dead or alive.
    fs::remove_file(&place.path).expect("our own directory");
    let other = UnixListener::bind(&place.path).expect("free");
    is_told("another file is at its path");
    let before = place.file();
    let refused = instance.ctl("reload");
    assert!(refused.code != 0 && refused.stdout.contains("Address already in use"), "{refused:?}");
    assert_eq!(place.file(), before, "it is not touched");
    drop(other);
    is_told("another file is at its path");
    instance.signal(Signal::HUP);
    eventually("it is made anew", || (place.file() != before).then_some(()));
    eventually("it is served", || (instance.ctl("ready").code == 0).then_some(()));
    is_fine();
    // Who came before that is served still.
    held.write_all(b"b").expect("it is open");
    assert_eq!(named(&mut held), 'b');
    instance.terminate();
    assert!(place.names().is_empty());
}

#[test]
fn permissions_that_somebody_has_changed_are_told_and_saved_and_set_again() {
    let place = Place::new();
    let instance = Setup::on_socket(&place.word()).start(["--socket-mode", "606", "PORT", "127.0.0.1:9"]);
    let lines = |mode: &str| {
        let saved = instance.ctl("save").code(0).stdout;
        assert!(saved.contains(&format!("--socket-mode {mode} ")), "{saved}");
        instance.ctl("doctor").stdout
    };
    assert!(!lines("606").contains("socket-permissions"));
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o640)).expect("our own");
    let doctor = lines("640");
    let found = format!("the permissions of {} are 640, and its line says 606. Why: ", place.word());
    assert!(doctor.contains("broken socket-permissions ") && doctor.contains(&found), "{doctor}");
    let told = instance.ctl("reload").code(0).stdout;
    assert!(told.contains("the socket's permissions are as its line says again"), "{told}");
    assert_eq!(place.mode(), 0o606);
    assert!(!lines("606").contains("socket-permissions"));
    instance.terminate();
}

#[test]
fn permissions_that_cannot_be_had_are_told_and_not_saved() {
    const NOBODY: u32 = 65_534;
    if needs_root("--user") {
        return;
    }
    let place = Place::new();
    let owner = |path: &Path| chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
    owner(place.directory.path());
    let write =
        |options: &str| place.directory.file("lines", &format!("{options} {} 127.0.0.1:9\n", place.word()));
    let file = write("--socket-mode 600").display().to_string();
    let instance = Setup::on_socket(&place.word()).start(["--user", "nobody", "--file", &file]);
    write("--socket-mode 606 --socket-group root");
    for _ in 0..2 {
        let told = instance.ctl("reload").code(78).stdout;
        let why = "the socket's permissions stay as they are: Operation not permitted";
        assert!(told.contains(why) && told.contains("not everything is as the files say"), "{told}");
        let group = fs::symlink_metadata(&place.path).expect("there").gid();
        assert_eq!((place.mode(), group), (0o600, NOBODY));
        let saved = instance.ctl("save").code(0).stdout;
        assert!(saved.contains("--socket-mode 600 --socket-group nogroup "), "{saved}");
        let doctor = instance.ctl("doctor").stdout;
        assert!(doctor.contains("are 600 nogroup, and its line says 606 root. Why: "), "{doctor}");
    }
    instance.terminate();
    // If it may not write in the directory, it says in which one.
    let place = Place::new();
    let directory = place.directory.path();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("our own");
    let args = ["-f", "--user", "nobody", &place.word(), "127.0.0.1:9"].map(str::to_owned);
    let told = Run::balance(&place.directory).args(args).finish().code(71);
    let why = format!("mkdir(): Permission denied: the directory {} ", directory.display());
    assert!(told.stderr.contains(&why), "{told}");
}

#[test]
fn a_reload_adds_changes_and_takes_away_sockets() {
    let place = Place::new();
    let (one, other) = (Server::named("a"), Server::named("b"));
    let at = own_address();
    let second = place.directory.path().join("y.sock");
    let web = format!("web: -b {} {} {}\n", at.ip(), at.port(), one.addr);
    let write = |lines: &str| place.directory.file("lines", &format!("{web}{lines}"));
    let file = write(&format!("pg: {} {}\n", place.word(), one.addr));
    let instance = Setup::binding(at).start(["--file", &file.display().to_string()]);
    let before = place.file();
    assert_eq!(place.served_by(1), "a");
    write(&format!(
        "pg: --socket-mode 606 {} {}\nnew: {} {}\n",
        place.word(),
        other.addr,
        word(&second),
        other.addr
    ));
    let told = instance.ctl("reload").code(0).stdout;
    assert!(
        told.contains("service new is added") && told.contains("--socket-mode is 606, was none"),
        "{told}"
    );
    assert_eq!((place.file(), place.mode(), place.served_by(1)), (before, 0o606, "b".to_owned()));
    assert_eq!(named(&mut UnixStream::connect(&second).expect("it listens")), 'b');
    let sessions = instance.ctl(&format!("use {}; show", word(&second))).code(0).stdout;
    assert!(sessions.contains(&other.addr.port().to_string()), "{sessions}");
    write(&format!("new: {} {}\n", word(&second), other.addr));
    let told = instance.ctl("reload").code(0).stdout;
    assert!(told.contains("service pg is removed"), "{told}");
    assert_eq!(place.names(), ["lines", "y.sock"]);
    // What is not ours is not touched, and nothing is said to be set.
    fs::remove_file(&second).expect("our own directory");
    let listener = UnixListener::bind(&second).expect("free");
    let before = fs::symlink_metadata(&second).expect("there").permissions();
    write(&format!("new: --socket-mode 606 {} {}\n", word(&second), other.addr));
    let told = instance.ctl("reload");
    assert!(told.code != 0 && !told.stdout.contains("--socket-mode is"), "{told:?}");
    assert!(told.stdout.contains("Address already in use"), "{told:?}");
    assert_eq!(fs::symlink_metadata(&second).expect("there").permissions(), before);
    drop(listener);
    let told = instance.ctl("reload").code(0).stdout;
    assert!(told.contains("again") && told.contains("--socket-mode is 606"), "{told}");
    let mode = fs::symlink_metadata(&second).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o606);
    // Two services on one socket, and a name that is no group.
    write(&format!("a: {0} b:1\nb: {0} b:1\n", word(&second)));
    let wrong = instance.ctl("reload");
    assert!(wrong.code != 0 && wrong.stdout.contains("give another path"), "{wrong:?}");
    instance.ctl("use new; kill").code(0);
    assert_eq!(place.names(), ["lines"]);
    instance.terminate();
}

#[test]
fn clients_without_an_address_are_announced_as_such() {
    let place = Place::new();
    for (option, header) in
        [("proxy=v1", &b"PROXY UNKNOWN\r\n"[..]), ("proxy", b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00")]
    {
        let server = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let at = server.local_addr().expect("bound");
        let instance = Setup::on_socket(&place.word()).start(["PORT", &format!("{at},{option}")]);
        let mut client = place.connect();
        client.write_all(b"hello").expect("connected");
        let (mut stream, _) = server.accept().expect("a client");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time");
        let mut said = vec![0; header.len() + 5];
        stream.read_exact(&mut said).expect("a header and the client's bytes");
        assert_eq!((&said[..header.len()], &said[header.len()..]), (header, &b"hello"[..]));
        drop((client, stream));
        instance.end();
    }
}

/// The lines of `sessions`, without the head.
fn sessions(instance: &Instance) -> usize {
    let text = instance.ctl("sessions json").code(0).stdout;
    let json: Value = serde_json::from_str(&text).expect("JSON");
    json["sessions"].as_array().map_or(0, Vec::len)
}

/// The only session until it has ended, as `sessions json` has it each time.
fn session_until_its_end(instance: &Instance) -> Vec<Value> {
    let mut seen = Vec::new();
    eventually("the session ends", || {
        let text = instance.ctl("sessions json").code(0).stdout;
        let json: Value = serde_json::from_str(&text).expect("JSON");
        match json["sessions"].get(0) {
            None => Some(()),
            Some(session) => {
                seen.push(session.clone());
                None
            }
        }
    });
    seen
}

#[test]
fn a_connection_to_a_unix_socket_is_idle_since_its_last_byte() {
    let channel = Place::new();
    let listener = UnixListener::bind(&channel.path).expect("a path of our own");
    // Longer than the time after which a half-closed connection is looked at.
    let instance = Instance::start(["--half-close-timeout", "7s", "PORT", &channel.word()]);
    let mut client = instance.connect();
    client.send("x");
    let (mut server, _) = listener.accept().expect("a client");
    server.read_exact(&mut [0]).expect("its byte");
    client.0.shutdown(Shutdown::Write).expect("connected");
    let idle = session_until_its_end(&instance).into_iter().map(|one| one["idle_seconds"].as_f64());
    let idle: Vec<f64> = idle.map(|seconds| seconds.expect("a number")).collect();
    assert!(idle.is_sorted(), "no byte has moved meanwhile: {idle:?}");
    instance.end();
}

#[test]
fn a_client_that_has_reset_is_named_as_long_as_its_channel_has_the_connection() {
    let channel = Place::new();
    let listener = UnixListener::bind(&channel.path).expect("a path of our own");
    let instance = Instance::start(["PORT", &channel.word()]);
    let mut client = instance.connect();
    client.send("x");
    let server = listener.accept().expect("a client");
    let name = client.0.local_addr().expect("connected").to_string();
    client.rst();
    let seen = session_until_its_end(&instance);
    assert!(seen.iter().all(|session| session["client"] == *name), "{name}: {seen:?}");
    drop(server);
    instance.end();
}

#[test]
fn a_peer_that_has_closed_both_directions_is_gone_after_a_minute() {
    // Servers and clients that end nothing by themselves.
    let (server, channel) = (Place::new(), Place::new());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = listener.local_addr().expect("it is bound").to_string();
    let of_clients = Setup::on_socket(&server.word()).start(["PORT".to_owned(), at]);
    let channels = UnixListener::bind(&channel.path).expect("a path of our own");
    let of_channels = Instance::start(["PORT".to_owned(), channel.word()]);
    // One that goes and one that only ends its direction, on either side.
    let (goes, mut stays) = (server.connect(), server.connect());
    let mut held: Vec<TcpStream> = (0..2).map(|_| listener.accept().expect("a client").0).collect();
    let mut waits: Vec<Client> = (0..2).map(|_| of_channels.connect()).collect();
    let mut answers: Vec<UnixStream> = (0..2).map(|_| channels.accept().expect("a client").0).collect();
    drop(goes);
    stays.shutdown(Shutdown::Write).expect("connected");
    drop(answers.remove(0));
    answers[0].shutdown(Shutdown::Write).expect("connected");
    eventually("both ends are heard", || {
        ([&of_clients, &of_channels].map(Instance::half_closed) == [2, 2]).then_some(())
    });
    let begin = Instant::now();
    let counts = || [&of_clients, &of_channels].map(sessions);
    while counts() != [1, 1] && begin.elapsed() < Duration::from_secs(150) {
        thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(counts(), [1, 1], "half-closed: {}", of_clients.ctl("sessions").stdout);
    let ended = of_clients.ctl("ended").stdout + &of_channels.ctl("ended").stdout;
    assert!(ended.contains("client reset") && ended.contains("channel reset"), "{ended}");
    // The others are served.
    for server in &mut held {
        let _ = server.write_all(b"x");
    }
    let mut byte = [0];
    stays.read_exact(&mut byte).expect("its server answers");
    for client in &mut waits {
        let _ = client.0.write_all(b"x");
    }
    answers[0].read_exact(&mut byte).expect("its client speaks");
    drop((held, waits, stays, answers));
    of_clients.end();
    of_channels.end();
}

#[test]
fn a_proxy_may_announce_its_clients_by_a_unix_socket() {
    let place = Place::new();
    let server = Server::named("a");
    let args = ["--accept-proxy", "unix", "--deny", "198.51.100.0/24", "PORT"].map(str::to_owned);
    let instance = Setup::on_socket(&place.word()).start(args.into_iter().chain([server.addr.to_string()]));
    let mut client = place.connect();
    client.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n").expect("connected");
    assert_eq!(named(&mut client), 'a');
    let sessions = instance.ctl("sessions").code(0).stdout;
    assert!(
        sessions.contains("192.0.2.7:4711") && sessions.contains(&format!("via {}", own_name())),
        "{sessions}"
    );
    let mut denied = place.connect();
    denied.write_all(b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 80\r\n").expect("connected");
    assert!(denied.read(&mut [0]).is_err_and(|_| true) || denied.read(&mut [0]).is_ok_and(|n| n == 0));
    drop((client, denied));
    instance.end();
}

#[test]
fn one_user_is_one_client() {
    let place = Place::new();
    let (one, other) = (Server::named("a"), Server::named("b"));
    let channels = [one.addr.to_string(), other.addr.to_string()];
    let instance =
        Setup::on_socket(&place.word()).start(["--client-max", "2", "PORT", &channels[0], &channels[1], "%"]);
    let mut first = place.connect();
    let mut second = place.connect();
    assert_eq!(named(&mut first), named(&mut second), "hashing goes by the user");
    let mut third = place.connect();
    assert_eq!(third.read(&mut [0]).unwrap_or(0), 0, "two connections of a user are the most");
    drop((first, third));
    eventually("there is room again", || {
        let mut client = place.connect();
        let mut name = [0];
        (client.read(&mut name).unwrap_or(0) == 1).then_some(())
    });
    drop(second);
    instance.end();
}

#[test]
fn options_for_ports_and_addresses_are_refused() {
    let directory = Directory::new();
    for (options, words) in [
        (&["-b", "127.0.0.1"][..], "-b (--bind) is for TCP ports"),
        (&["-6"], "-6 (--ipv6) is for TCP ports"),
        (&["-K", "1:2:3"], "-K (--client-keepalive) is for TCP ports"),
        (&["--refuse-when-down"], "--refuse-when-down is for TCP ports"),
        (&["--freebind"], "--freebind is for TCP ports"),
        (&["--allow", "10.0.0.0/8"], "--allow goes by the addresses of clients"),
        (&["--accept-proxy", "1.2.3.4"], "--accept-proxy has no sender that can connect to this service"),
        (&["--socket-mode", "9"], "--socket-mode '9' is not a mode"),
        (&["--socket-mode", "77"], "--socket-mode '77' is not a mode"),
        (&["--socket-mode", "1777"], "--socket-mode '1777' is not a mode"),
        (&["--socket-group", "no-such-group"], "--socket-group: unknown group \"no-such-group\""),
    ] {
        let args = ["--check-only"].iter().chain(options).chain(&["unix:/run/x.sock", "127.0.0.1:80"]);
        let refused = Run::balance(&directory).args(args).finish();
        assert!(refused.code != 0 && refused.stderr.contains(words), "{refused:?}");
    }
    let refused = Run::balance(&directory).args(["--check-only", "unix:/run/x.sock", "127.0.0.1"]).finish();
    assert!(refused.stderr.contains("a channel needs a port here"), "{refused:?}");
    let refused =
        Run::balance(&directory).args(["--check-only", "--socket-mode", "600", "80", "a:1"]).finish();
    assert!(refused.stderr.contains("--socket-mode is for a service that listens on the socket of a path"));
    let refused =
        Run::balance(&directory).args(["--check-only", "--accept-proxy", "unix", "80", "a:1"]).finish();
    assert!(
        refused.stderr.contains("--accept-proxy has no sender that can connect to this service"),
        "{refused:?}"
    );
    for senders in ["any", "1.2.3.4,unix"] {
        for port in ["80", "unix:/run/x.sock"] {
            let args = ["--check-only", "--accept-proxy", senders, port, "127.0.0.1:1"];
            Run::balance(&directory).args(args).finish().code(0);
        }
    }
    // What is said for all lines is for those that it fits.
    let file = directory.file(
        "lines",
        "* -b 127.0.0.1 --socket-mode 600 --accept-proxy 10.0.0.5 --allow 10.0.0.0/8\n80 127.0.0.1:1\nunix:/run/x.sock 127.0.0.1:1\n",
    );
    Run::balance(&directory).args(["--check-only", "--file", &file.display().to_string()]).finish().code(0);
}

#[test]
fn a_channel_that_leads_back_is_not_connected_to() {
    let place = Place::new();
    let instance = Setup::on_socket(&place.word()).start(["PORT", &place.word()]);
    let mut client = place.connect();
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    await_leads_back(&instance);
    drop(client);
    instance.end();
}

/// What is told on stderr may come after what its client sees.
#[track_caller]
fn await_leads_back(instance: &Instance) {
    eventually("it says so", || instance.stderr().contains("leads back to this service").then_some(()));
}

#[test]
fn a_client_that_comes_round_by_several_unix_sockets_is_sent_away() {
    let place = Place::new();
    let second = place.directory.path().join("y.sock");
    let alias = place.directory.path().join("alias");
    symlink(place.directory.path(), &alias).expect("free");
    // Also where a channel is written in another way.
    let round = word(&alias.join("x.sock"));
    for back in [&place.word(), &round] {
        let lines = format!("a: {0} {1}\nb: {1} {back}\n", place.word(), word(&second));
        let lines = place.directory.file("lines", &lines);
        let instance = Setup::on_socket(&place.word()).start(["--file", &lines.display().to_string()]);
        eventually("it says so", || instance.stderr().contains("which leads back here").then_some(()));
        let mut client = place.connect();
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
        drop(client);
        for service in ["a", "b"] {
            let status = eventually("it is over", || {
                let status = instance.ctl(&format!("use {service}; status")).code(0).stdout;
                status.contains("ended: ").then_some(status)
            });
            assert!(status.contains("ended: 1 ("), "one client came to {service}: {status}");
        }
        instance.end();
    }
    let instance = Setup::on_socket(&place.word()).start(["PORT", &round]);
    assert_eq!(place.connect().read(&mut [0]).unwrap_or(0), 0);
    await_leads_back(&instance);
    instance.end();
    // Three in a row are no circle.
    let server = Server::named("s");
    let third = place.directory.path().join("z.sock");
    let lines = format!(
        "a: {} {1}\nb: {1} {2}\nc: {2} {3}\n",
        place.word(),
        word(&second),
        word(&third),
        server.addr
    );
    let lines = place.directory.file("lines", &lines);
    let instance = Setup::on_socket(&place.word()).start(["--file", &lines.display().to_string()]);
    assert_eq!(place.served_by(3), "sss");
    instance.end();
}

#[test]
fn urgent_bytes_of_a_client_arrive_in_their_place() {
    let place = Place::new();
    let (tcp, unix) =
        (std::net::TcpListener::bind(own_address()).expect("free"), place.directory.path().join("server"));
    rustix::net::sockopt::set_socket_oobinline(&tcp, true).expect("a socket");
    let at = tcp.local_addr().expect("bound").to_string();
    let unix_word = word(&unix);
    let unix = UnixListener::bind(&unix).expect("free");
    for target in [&at, &unix_word] {
        let instance = Setup::on_socket(&place.word()).start(["PORT", target]);
        let mut client = place.connect();
        client.write_all(b"one").expect("connected");
        let sent = rustix::net::send(&client, b"!", rustix::net::SendFlags::OOB);
        if sent == Err(rustix::io::Errno::OPNOTSUPP) {
            // A kernel before 5.15, or one without it.
            drop(client);
            return instance.end();
        }
        assert_eq!(sent, Ok(1));
        client.write_all(b"two").expect("connected");
        client.shutdown(std::net::Shutdown::Write).expect("connected");
        let mut got = Vec::new();
        let read = match target == &at {
            true => {
                let (mut stream, _) = tcp.accept().expect("a client");
                stream.set_read_timeout(Some(DEADLINE)).expect("a time");
                stream.read_to_end(&mut got)
            }
            false => {
                let (mut stream, _) = unix.accept().expect("a client");
                stream.set_read_timeout(Some(DEADLINE)).expect("a time");
                stream.read_to_end(&mut got)
            }
        };
        read.expect("the end comes");
        assert_eq!(String::from_utf8_lossy(&got), "one!two", "{target}");
        drop(client);
        instance.end();
    }
}

#[test]
fn a_socket_of_the_service_manager_is_served_and_not_taken_away() {
    let place = Place::new();
    let server = Server::named("a");
    let listener = UnixListener::bind(&place.path).expect("free");
    let file = place.file();
    let directory = Directory::new();
    let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" -f \"$@\"";
    let mut command = Command::new("sh");
    let said = directory.path().join("said");
    command.env("BALANCE_RUN_DIR", directory.path()).args(["-ec", script, BALANCE, "--socket-mode", "606"]);
    command.args([place.word(), server.addr.to_string()]).stdin(OwnedFd::from(listener));
    command.stdout(Stdio::null()).stderr(fs::File::create(&said).expect("our own directory"));
    let mode = place.mode();
    let mut child = command.spawn().expect("sh is everywhere");
    assert_eq!((place.served_by(2), place.mode()), ("aa".to_owned(), mode));
    eventually("it says so", || {
        let said = fs::read_to_string(&said).expect("our own directory");
        said.contains("--socket-mode and --socket-group have no effect").then_some(())
    });
    eventually("it can be asked", || {
        let show =
            Run::new(BALANCE).env("BALANCE_RUN_DIR", directory.path()).args(["-c", "show", &place.word()]);
        (show.finish().code == 0).then_some(())
    });
    let told = Run::new(BALANCE)
        .env("BALANCE_RUN_DIR", directory.path())
        .args(["-c", "upgrade", &place.word()])
        .finish()
        .code(0);
    let pid: i32 = told.stdout.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("its number");
    child.wait().expect("our own child");
    assert_eq!((place.file(), place.served_by(2)), (file, "aa".to_owned()));
    // Nobody but the manager makes it anew.
    let aside = place.directory.path().join("aside");
    let ask = |command: &str| {
        let ask = Run::new(BALANCE).env("BALANCE_RUN_DIR", directory.path());
        ask.args(["-c", command, &place.word()]).finish()
    };
    assert!(ask("doctor").stdout.contains("advice socket-permissions "));
    fs::rename(&place.path, &aside).expect("our own directory");
    assert!(ask("ready").stdout.contains("its file is gone"));
    let doctor = ask("doctor").code(2).stdout;
    assert!(doctor.contains("its file is gone") && doctor.contains("Do: systemd has made it"), "{doctor}");
    assert_ne!(ask("reload").code, 0);
    assert!(!place.path.exists());
    fs::rename(&aside, &place.path).expect("our own directory");
    ask("ready").code(0);
    let pid = rustix::process::Pid::from_raw(pid).expect("a number");
    rustix::process::kill_process(pid, Signal::TERM).expect("it runs");
    eventually("it has ended", || fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).err());
    assert_eq!(place.file(), file, "it is the manager's");
}

#[test]
fn what_an_operator_has_changed_is_kept_for_the_socket() {
    let place = Place::new();
    let (one, other) = (Server::named("a"), Server::named("b"));
    let state = place.directory.path().join("state").display().to_string();
    let args = ["--state", &state, "PORT", &one.addr.to_string(), &other.addr.to_string()].map(str::to_owned);
    let mut instance = Setup::on_socket(&place.word()).start(args.clone());
    instance.ctl("disable 0").code(0);
    eventually("it is kept", || {
        fs::read_to_string(&state).ok().filter(|text| text.contains(&format!("service {} ", place.word())))
    });
    instance.signal(Signal::KILL);
    instance.wait();
    let instance = Setup::on_socket(&place.word()).start(args);
    assert_eq!(place.served_by(3), "bbb");
    instance.end();
}

#[test]
fn in_the_background_the_socket_is_there_until_the_instance_ends() {
    let place = Place::new();
    let server = Server::named("a");
    let directory = Directory::new();
    Run::balance(&directory).args([place.word(), server.addr.to_string()]).finish().code(0);
    assert_eq!(place.served_by(2), "aa");
    Run::balance(&directory).args(["-c", "kill", &place.word()]).finish().code(0);
    assert!(place.names().is_empty());
}

#[test]
fn real_programs_talk_through_sockets() {
    let database = Postgres::start();
    let place = Place::new();
    let socket = place.directory.path().join(format!(".s.PGSQL.{}", database.port));
    let instance = Setup::on_socket(&word(&socket)).start([
        "--check",
        "tcp",
        "PORT",
        &format!("127.0.0.1:{}", database.port),
    ]);
    let query = |host: &Path, sql: &str| {
        Run::new(program("psql"))
            .args(["-h", &host.display().to_string(), "-p", &database.port.to_string()])
            .args(["-U", "postgres", "-qAt", "-c", sql])
            .within(Duration::from_secs(60))
            .finish()
            .code(0)
            .stdout
    };
    let here = place.directory.path();
    // The server sees TCP, the client a socket.
    assert_eq!(query(here, "select inet_server_addr() is not null"), "t\n");
    assert_eq!(query(here, "select length(repeat('x', 5000000))"), "5000000\n");
    instance.end();
    // From socket to socket.
    let instance = Setup::on_socket(&word(&socket)).start(["PORT", &word(&database.socket())]);
    assert_eq!(query(here, "select inet_server_addr() is null"), "t\n");
    assert_eq!(query(here, "select sum(n) from generate_series(1, 200000) n"), "20000100000\n");
    instance.end();

    let web = hello();
    let instance = Setup::on_socket(&place.word()).start(["PORT", &web.addr.to_string()]);
    let got = Run::new(program("curl"))
        .args(["-s", "--unix-socket", &place.path.display().to_string(), "http://localhost/"])
        .finish()
        .code(0);
    assert_eq!(got.stdout, "hello");
    instance.end();
}

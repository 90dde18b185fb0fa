//! What balance tells a service manager and gets from it: sd_notify(3), the watchdog, listeners.
//!
//! The manager of these tests is a socket: it receives what systemd would.

use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::Signal;

use crate::harness::{Client, Directory, Instance, Server, Setup, eventually, own_address, pause};

/// What was heard, word by word, with the descriptor that came with it.
type Heard = Arc<Mutex<Vec<(String, Option<OwnedFd>)>>>;

/// A service manager that listens.
struct Manager {
    directory: Directory,
    heard: Heard,
}

impl Manager {
    fn new() -> Self {
        let directory = Directory::new();
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("a socket");
        let heard = Heard::default();
        let hears = Arc::clone(&heard);
        thread::spawn(move || {
            loop {
                let mut words = [0; 4096];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
                let mut with = RecvAncillaryBuffer::new(&mut space);
                let mut into = [IoSliceMut::new(&mut words)];
                let Ok(got) = rustix::net::recvmsg(&socket, &mut into, &mut with, RecvFlags::CMSG_CLOEXEC)
                else {
                    return;
                };
                let fds = with.drain().flat_map(|one| match one {
                    RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
                    _ => Vec::new(),
                });
                let fd = fds.last();
                let text = String::from_utf8_lossy(&words[..got.bytes]).into_owned();
                if text == "over" {
                    return;
                }
                hears.lock().expect("nobody panics").push((text, fd));
            }
        });
        Self { directory, heard }
    }

    fn setup(&self) -> Setup {
        self.setup_with("")
    }

    fn setup_with(&self, more: &str) -> Setup {
        let path = self.directory.path().join("notify");
        Setup::new().shell(&format!("export NOTIFY_SOCKET={};{more}", path.display()))
    }

    /// All that was heard so far; it is forgotten.
    fn take(&self) -> Vec<String> {
        self.heard.lock().expect("nobody panics").drain(..).map(|(text, _)| text).collect()
    }

    /// Waits for a message that begins so, and forgets all that came before it.
    #[track_caller]
    fn next(&self, begin: &str) -> (String, Option<OwnedFd>) {
        let found = || {
            let mut heard = self.heard.lock().expect("nobody panics");
            let at = heard.iter().position(|(text, _)| text.starts_with(begin))?;
            heard.drain(..=at).next_back()
        };
        eventually(&format!("{begin:?} is told"), found)
    }

    #[track_caller]
    fn hears(&self, text: &str) {
        assert_eq!(self.next(text.split_inclusive('=').next().unwrap_or(text)).0, text);
    }

    /// Waits for this status.
    #[track_caller]
    fn sees(&self, status: &str) {
        let line = format!("STATUS={status}");
        let is_it = || self.take().iter().any(|text| text.lines().any(|one| one == line)).then_some(());
        eventually(&format!("the status is {status:?}"), is_it);
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Ok(socket) = UnixDatagram::unbound() {
            let _ = socket.send_to(b"over", self.directory.path().join("notify"));
        }
    }
}

/// The microseconds of the system's clock that only goes forward.
fn monotonic() -> u128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u128 * 1_000_000 + now.tv_nsec as u128 / 1_000
}

#[test]
fn a_start_a_reload_and_the_end_are_told_with_a_status_for_people() {
    let manager = Manager::new();
    let (server, other) = (Server::echo(), Server::silent());
    let at = own_address();
    let line = |channels: &str| format!("-b {} {} {channels}\n", at.ip(), at.port());
    let file = manager.directory.file("services", &line(&format!("{server} {other}")));
    let binding = Setup::binding(at)
        .shell(&format!("export NOTIFY_SOCKET={};", manager.directory.path().join("notify").display()));
    let mut instance = binding.spawn(["--file".to_owned(), file.display().to_string()]);
    manager.hears("READY=1\nSTATUS=2/2 up, 0 connections");
    // It serves when it says so.
    let client = Client::connect(at);
    manager.sees("2/2 up, 1 connection");

    let before = monotonic();
    std::fs::write(&file, line(&server.to_string())).expect("our own file");
    let process = format!("process.{}", instance.pid());
    let reload =
        || crate::harness::Run::balance(&instance.directory).args(["-c", "reload", &process]).finish();
    reload().code(0);
    let told = manager.next("RELOADING=1").0;
    let micros =
        told.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("the time is told");
    let micros: u128 = micros.parse().expect("a number");
    assert!((before..=monotonic()).contains(&micros), "{told}");
    manager.hears("READY=1\nSTATUS=reloaded");
    manager.sees("1/1 up, 1 connection");

    // A reload that fails fails for whoever asks for it, too, and is seen until one works.
    std::fs::write(&file, "no-such-word-is-a-port x\n").expect("our own file");
    let failed = reload();
    assert_ne!(failed.code, 0, "{failed}");
    let why = failed.stdout.lines().chain(failed.stderr.lines()).next().expect("it says why").to_owned();
    manager.next("RELOADING=1");
    let ready = manager.next("READY=1").0;
    assert!(
        ready.starts_with("READY=1\nSTATUS=reload failed: ") && why.contains("services:1"),
        "{ready} {why}"
    );
    eventually("the status says so", || {
        manager.take().iter().any(|text| text.contains("1 connection; reload failed: ")).then_some(())
    });
    std::fs::write(&file, line(&server.to_string())).expect("our own file");
    reload().code(0);
    manager.sees("1/1 up, 1 connection");

    instance.signal(Signal::TERM);
    let stopping = manager.next("STOPPING=1").0;
    assert_eq!(stopping, "STOPPING=1\nSTATUS=draining, 1 connection\nEXTEND_TIMEOUT_USEC=40000000");
    drop(client);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn after_an_upgrade_the_new_process_speaks_and_no_other() {
    let manager = Manager::new();
    let server = Server::echo();
    let mut instance = manager.setup().start(["PORT", &server.to_string()]);
    manager.next("READY=1");
    let mut client = instance.connect();
    manager.sees("1/1 up, 1 connection");
    for _ in 0..2 {
        instance.upgrade();
        // Which of the two speaks first is chance: the old one says who it is, the new one that it serves.
        let main = format!("MAINPID={}\n", instance.pid());
        let mut heard = String::new();
        eventually("the new one is the main one, and ready", || {
            heard.extend(manager.take().iter().map(|text| format!("{text}\n")));
            let all = [&*main, "READY=1\n", "STATUS=1/1 up, 1 connection\n"];
            all.iter().all(|text| heard.contains(text)).then_some(())
        });
        client.send("x");
        assert_eq!(client.recv(1), b"x");
    }
    // The processes before have ended: that was no end of the service.
    eventually("one process is left", || (instance.processes().len() == 1).then_some(()));
    assert!(!manager.take().iter().any(|text| text.contains("STOPPING")));
    drop(client);
    instance.terminate();
    manager.next("STOPPING=1");
}

/// If a main process is not a child of systemd when systemd is told of it, systemd does not wait for its end: a
/// stop or a restart kills it at once, with all its connections.
#[test]
#[cfg_attr(any(not(target_os = "linux"), portable), ignore = "the standard library starts children only")]
fn a_successor_is_a_child_of_the_manager_from_its_first_moment() {
    let manager = Manager::new();
    let server = Server::echo();
    let (first, second) = (own_address(), own_address());
    let notify = format!("export NOTIFY_SOCKET={};", manager.directory.path().join("notify").display());
    let setup = Setup::binding(first).shell(&notify);
    let line = |at: SocketAddr| format!("-b {} {} {server}\n", at.ip(), at.port());
    let file = setup.directory().file("services", &(line(first) + &line(second)));
    let mut instance = setup.spawn(["--file".to_owned(), file.display().to_string()]);
    manager.next("READY=1");
    // The old process stays with a client whose line is gone, so that nobody else adopts its children.
    let mut client = Client::connect(second);
    client.send("x");
    assert_eq!(client.recv(1), b"x");
    std::fs::write(&file, line(first)).expect("our own file");
    let old = instance.pid();
    let ctl = |words: &[&str]| crate::harness::Run::balance(&instance.directory).args(words).finish();
    let told = ctl(&["-c", "upgrade", &format!("process.{old}")]).code(0).stdout;
    let new: i32 = told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect(&told);
    manager.hears(&format!("MAINPID={new}"));
    let status = std::fs::read_to_string(format!("/proc/{new}/status")).expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).expect("it has a parent");
    assert_eq!(parent, std::process::id().to_string(), "the old process is {old}");
    // Nor is its end lost on the old one, who is asked for the next one.
    client.send("y");
    assert_eq!(client.recv(1), b"y");
    drop(client);
    instance.succeed(new);
    let ctl = |words: &[&str]| crate::harness::Run::balance(&instance.directory).args(words).finish();
    let failed = ctl(&["-c", "upgrade /bin/false", &format!("process.{new}")]).code(69).stdout;
    assert_eq!(failed, "no upgrade, this process goes on: the new process ended\n");
    instance.terminate();
}

#[test]
fn one_worker_that_hangs_starves_the_watchdog() {
    let manager = Manager::new();
    let server = Server::echo();
    let setup = manager.setup_with("export WATCHDOG_USEC=600000 WATCHDOG_PID=$$;");
    let mut instance = setup.start(["--workers", "2", "PORT", &server.to_string()]);
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    instance.upgrade();
    // It is the new process that is watched.
    manager.hears(&format!("MAINPID={}", instance.pid()));
    manager.hears("WATCHDOG=1");
    let threads = std::fs::read_dir(format!("/proc/{}/task", instance.pid())).expect("it runs");
    let called = |path: &std::path::Path| std::fs::read_to_string(path.join("comm")).unwrap_or_default();
    let worker = threads.flatten().map(|one| one.path()).find(|path| called(path).trim() == "worker-1");
    let worker = worker.expect("it has two workers");
    let number = worker.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a number");
    let worker = Pid::from_raw(number);
    ptrace::seize(worker, ptrace::Options::empty()).expect("our own child");
    ptrace::interrupt(worker).expect("it is ours to stop");
    waitpid(worker, Some(WaitPidFlag::__WALL)).expect("it stands still");
    // What was asked of it before that may have been answered, and the answer may be passed on late.
    eventually("the watchdog is starved", || {
        manager.take();
        std::thread::sleep(std::time::Duration::from_millis(1_500));
        (!manager.take().iter().any(|text| text.contains("WATCHDOG"))).then_some(())
    });
    ptrace::detach(worker, None).expect("it goes on");
    manager.hears("WATCHDOG=1");
    instance.terminate();
}

#[test]
fn the_manager_keeps_listeners_for_the_next_process_and_lets_go_of_what_nobody_wants() {
    let manager = Manager::new();
    let server = Server::named("a");
    let at = own_address();
    let bind = ["-b".to_owned(), at.ip().to_string(), at.port().to_string(), server.to_string()];
    let setup = Setup::binding(at)
        .shell(&format!("export NOTIFY_SOCKET={};", manager.directory.path().join("notify").display()));
    let mut instance = setup.start(bind);
    let (told, kept) = manager.next("FDSTORE=1");
    let name = format!("listener {}_{}", at.ip(), at.port());
    assert_eq!(told, format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"));
    let kept = TcpListener::from(kept.expect("the listener comes with it"));
    instance.signal(Signal::KILL);
    instance.wait();
    // Nobody is refused: who comes now waits for the next process.
    let mut waits = Client::connect(at);
    let names = format!("export 'LISTEN_FDNAMES={name}';");
    let again = kept.try_clone().expect("a descriptor");
    let setup = Setup::passing(again).shell(&names);
    let bind = ["-b".to_owned(), at.ip().to_string(), "PORT".to_owned(), server.to_string()];
    let mut instance = setup.start(bind);
    assert_eq!(waits.recv(1), b"a");
    drop(waits);
    instance.signal(Signal::TERM);
    assert_eq!(instance.wait(), 0);
    // The next line listens elsewhere: what was kept is no reason not to start, and is let go of.
    let setup = manager.setup_with(&names);
    let elsewhere = own_address();
    let setup_args =
        ["-b".to_owned(), elsewhere.ip().to_string(), elsewhere.port().to_string(), server.to_string()];
    let mut instance = setup.spawn(setup_args);
    let dropped = manager.next("FDSTOREREMOVE=1").0;
    assert_eq!(dropped, format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    manager.next("READY=1");
    assert_eq!(Client::connect(elsewhere).recv(1), b"a");
    // So is what is stopped: the port is free.
    let kill =
        ["-b", &elsewhere.ip().to_string(), "-c", "kill", &elsewhere.port().to_string()].map(str::to_owned);
    crate::harness::Run::balance(&instance.directory).args(kill).finish().code(0);
    manager.hears(&format!("FDSTOREREMOVE=1\nFDNAME=listener {}_{}", elsewhere.ip(), elsewhere.port()));
    assert_eq!(instance.wait(), 0);
}

#[test]
fn the_manager_keeps_a_unix_socket_with_its_file() {
    let manager = Manager::new();
    let server = Server::named("a");
    let path = manager.directory.path().join("a b.sock");
    let notify = format!("export NOTIFY_SOCKET={};", manager.directory.path().join("notify").display());
    let written = format!("unix:{}", path.display()).replace(' ', "%20");
    let start = |kept: Option<(OwnedFd, &str)>| {
        let setup = Setup::on_socket(&written);
        let setup = match kept {
            None => setup.shell(&notify),
            Some((fd, name)) => setup.kept(fd).shell(&format!("{notify} export 'LISTEN_FDNAMES={name}';")),
        };
        setup.start(["PORT", &server.to_string()])
    };
    let name_of = |told: &str| {
        let name = told.strip_prefix("FDSTORE=1\nFDNAME=").and_then(|rest| rest.strip_suffix("\nFDPOLL=0"));
        name.expect("a name").to_owned()
    };
    let first = |path: &std::path::Path| {
        let mut byte = [0];
        let mut client = UnixStream::connect(path).expect("it listens");
        client.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        move || client.read_exact(&mut byte).map(|()| byte)
    };
    let mut instance = start(None);
    let (told, kept) = manager.next("FDSTORE=1");
    let (name, kept) = (name_of(&told), kept.expect("the listener comes with it"));
    let file = std::fs::metadata(&path).expect("it is there");
    let id = format!("{}.{}", file.dev(), file.ino());
    assert_eq!(name, format!("listener {} {id}", written.replace("unix:", "unix_")));
    instance.signal(Signal::KILL);
    instance.wait();
    // Nobody is refused: who comes now waits for the next process, which goes on with the same file.
    let mut waits = first(&path);
    let mut instance = start(Some((kept.try_clone().expect("a descriptor"), &name)));
    assert_eq!(waits().expect("it is served"), *b"a");
    assert_eq!(std::fs::metadata(&path).expect("it is there").ino(), file.ino());
    assert_eq!(name_of(&manager.next("FDSTORE=1").0), name);
    assert_eq!(first(&path)().expect("it is served"), *b"a");
    instance.signal(Signal::KILL);
    instance.wait();
    // Somebody has removed the file: what was kept is of no use to clients, and another socket is made.
    std::fs::remove_file(&path).expect("it is there");
    let mut instance = start(Some((kept, &name)));
    manager.hears(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    let told = manager.next("FDSTORE=1").0;
    assert_ne!(name_of(&told), name);
    assert_eq!(first(&path)().expect("it is served"), *b"a");
    instance.signal(Signal::TERM);
    assert_eq!(instance.wait(), 0);
    manager.hears(&format!("FDSTOREREMOVE=1\nFDNAME={}", name_of(&told)));
    assert!(!path.exists(), "it was made by the process that has ended");
}

#[test]
fn a_reload_that_closes_ports_answers_when_the_manager_has_been_told_to_close_them() {
    let manager = Manager::new();
    let server = Server::named("a");
    let [stays, moves, goes, to] = [(); 4].map(|()| own_address());
    let line = |name: &str, at: SocketAddr| format!("{name}: -b {} {} {server}\n", at.ip(), at.port());
    let before = line("web", stays) + &line("mail", moves) + &line("ftp", goes);
    let file = manager.directory.file("services", &before);
    let notify = manager.directory.path().join("notify");
    let setup = Setup::binding(stays).shell(&format!("export NOTIFY_SOCKET={};", notify.display()));
    let instance = setup.spawn(["--file".to_owned(), file.display().to_string()]);
    manager.next("READY=1");
    for ready in [line("web", stays) + &line("mail", to), line("web", stays)] {
        std::fs::write(&file, ready).expect("our own file");
        let process = format!("process.{}", instance.pid());
        crate::harness::Run::balance(&instance.directory).args(["-c", "reload", &process]).finish().code(0);
    }
    let mut heard = Vec::new();
    eventually("two reloads are told", || {
        heard.extend(manager.take());
        let reloads = heard.iter().filter(|text| text.starts_with("READY=1\nSTATUS=reloaded"));
        (reloads.count() == 2).then_some(())
    });
    let mut parts = heard.split(|text| text.starts_with("READY=1\nSTATUS=reloaded"));
    for gone in [&[moves, goes][..], &[to]] {
        let told = parts.next().expect("counted");
        for at in gone {
            let forgets = format!("FDSTOREREMOVE=1\nFDNAME=listener {}_{}", at.ip(), at.port());
            assert!(told.contains(&forgets), "{forgets:?} is not in {told:?}");
        }
    }
}

#[test]
fn several_listeners_are_passed_by_the_names_of_services() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let second = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at: SocketAddr = second.local_addr().expect("an address");
    // The second one travels by a path of its own: a process that has it open.
    let pid = std::process::id();
    let number = std::os::fd::AsRawFd::as_raw_fd(&second);
    let start = |lines: &dyn Fn(u16) -> String, names: &str| {
        let first = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = first.local_addr().expect("an address").port();
        let setup = Setup::passing(first);
        let file = setup.directory().file("services", &lines(port));
        let take = format!(
            "exec python3 -c 'import os,socket,sys\n\
             p=os.pidfd_open({pid}); s=__import__(\"ctypes\").CDLL(None).syscall(438,p,{number},0)\n\
             os.dup2(s,4); os.environ.update(LISTEN_FDS=\"2\",LISTEN_FDNAMES=\"{names}\",LISTEN_PID=str(os.getpid()))\n\
             os.execv(sys.argv[1],[sys.argv[1],\"-f\"]+sys.argv[2:])' \"$0\" \"$@\";"
        );
        (setup.shell(&take).spawn(["--file".to_owned(), file.display().to_string()]), port)
    };
    let both = |port: u16| format!("web: {port} {a}\nmail: {} {b}\n", at.port());
    let (mut instance, port) = start(&both, "web:mail");
    let name_at =
        |port: u16| eventually("it serves", || Some(Client::connect(([127, 0, 0, 1], port).into()).recv(1)));
    assert_eq!((name_at(port), name_at(at.port())), (b"a".to_vec(), b"b".to_vec()));
    instance.signal(Signal::TERM);
    assert_eq!(instance.wait(), 0);
    // Names that are the wrong way round, one that no line claims, one too many for its line.
    let said = |lines: &dyn Fn(u16) -> String, names: &str| {
        let (mut instance, port) = start(lines, names);
        assert_eq!(instance.wait(), 71, "{}", instance.stderr());
        instance.stderr().replace(&port.to_string(), "FIRST").replace(&at.port().to_string(), "SECOND")
    };
    let swapped = said(&both, "mail:web");
    assert!(
        swapped.contains("LISTEN_FDNAMES calls the listener at 127.0.0.1:FIRST 'mail', but service mail listens on port SECOND"),
        "{swapped}"
    );
    let one = |port: u16| format!("web: {port} {a}\n");
    assert_eq!(
        said(&one, "web:mail"),
        "balance: LISTEN_FDS passes a listener at 127.0.0.1:SECOND (mail), but the service listens on port FIRST\n"
    );
    pause();
}

/// What is not there is no reason to do anything otherwise.
#[test]
fn a_manager_that_has_gone_holds_nobody_up() {
    let server = Server::named("a");
    let setup = Setup::new().shell("export NOTIFY_SOCKET=/no/such/socket WATCHDOG_USEC=300000;");
    let instance: Instance = setup.start(["PORT", &server.to_string()]);
    assert_eq!(instance.named().1, "a");
    instance.end();
}

/// One that is there and reads nothing is waited for a moment, and not a moment for each listener.
#[test]
fn a_manager_that_does_not_read_holds_nobody_up() {
    let server = Server::named("a");
    let directory = Directory::new();
    let path = directory.path().join("notify");
    let _deaf = UnixDatagram::bind(&path).expect("a socket");
    let at = SocketAddr::new(own_address().ip(), 20_000);
    let setup = Setup::binding(at).shell(&format!("export NOTIFY_SOCKET={};", path.display()));
    let mut instance =
        setup.start(["-b", &at.ip().to_string(), "20000-20079", &server.to_string()].map(str::to_owned));
    assert_eq!(instance.named().1, "a");
    instance.ctl("kill").code(0);
    instance.wait();
}

/// When the old process ends, a manager that takes it for the main one ends the new one, too.
#[test]
fn a_manager_that_reads_late_learns_which_process_is_the_main_one() {
    let server = Server::named("a");
    let directory = Directory::new();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_nonblocking(true).expect("an option");
    let setup = Setup::new().shell(&format!("export NOTIFY_SOCKET={};", path.display()));
    let mut instance = setup.start(["PORT", &server.to_string()]);
    let mut words = [0; 4096];
    let mut next = || {
        let length = manager.recv(&mut words).ok()?;
        Some(String::from_utf8_lossy(&words[..length]).into_owned())
    };
    eventually("the start is told", || next().filter(|text| text.starts_with("READY=1")));
    let filler = UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("an option");
    let old = instance.pid();
    let told = thread::scope(|scope| {
        let upgrade = scope.spawn(|| instance.upgrade());
        // Nothing is read until the new process serves and the old one has tried for more than a second. Filled again and
        // again: the old one reports its status until then.
        while filler.send_to(b"filler", &path).is_ok() {}
        thread::sleep(Duration::from_millis(2_500));
        let told = eventually("the main process is told", || {
            std::iter::from_fn(&mut next).find(|text| text.starts_with("MAINPID="))
        });
        upgrade.join().expect("it succeeds");
        told
    });
    assert_ne!(instance.pid(), old);
    assert_eq!(told, format!("MAINPID={}", instance.pid()));
    instance.end();
}

/// If it never learned that the service has started, it would end it.
#[test]
fn a_manager_that_reads_late_is_told_everything() {
    let server = Server::named("a");
    let directory = Directory::new();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    let filler = UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("an option");
    while filler.send_to(b"filler", &path).is_ok() {}
    let at = own_address();
    let setup = Setup::binding(at).shell(&format!("export NOTIFY_SOCKET={};", path.display()));
    let args = ["-b".to_owned(), at.ip().to_string(), at.port().to_string(), server.to_string()];
    let instance = setup.start(args);
    eventually("the start has been told in vain", || instance.has_thread("manager").then_some(()));
    manager.set_nonblocking(true).expect("an option");
    let mut heard = Vec::new();
    eventually("all is told", || {
        let mut words = [0; 4096];
        while let Ok(length) = manager.recv(&mut words) {
            heard.push(String::from_utf8_lossy(&words[..length]).into_owned());
        }
        let kept = format!("FDSTORE=1\nFDNAME=listener {}_{}\n", at.ip(), at.port());
        let is_told = |begin: &str| heard.iter().any(|text| text.starts_with(begin));
        (is_told("READY=1\nSTATUS=") && is_told(&kept)).then_some(())
    });
    instance.end();
}

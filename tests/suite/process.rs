//! The operating system's side: background, signals, ports, descriptors, unusual environments.
//!
//! Source: docs/compatibility.md, "Process".

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{
    BALANCE, Client, DEADLINE, Directory, Finished, Instance, Received, Refusing, Run, Server, Setup,
    copy_program, eventually, needs_root, own_address, settled, unless_held_up,
};

/// An instance in the background, killed at the end of the test whatever happens.
struct Background {
    address: SocketAddr,
    directory: Directory,
    pid: i32,
}

impl Background {
    fn start(channel: &str) -> Self {
        Self::at(own_address(), Directory::new(), channel)
    }

    fn at(address: SocketAddr, directory: Directory, channel: &str) -> Self {
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let started = Run::balance(&directory).args(["-b", &ip, &port, channel]).finish();
        let started = started.code(0).out("");
        assert_eq!(started.stderr, "", "{started}");
        let mut background = Self { address, directory, pid: 0 };
        let greeting = background.run(&["-i", &port]).code(0).stdout;
        let pid = greeting.lines().find_map(|line| line.strip_prefix("PID of master process is "));
        background.pid = pid.and_then(|pid| pid.parse().ok()).expect("the shell says the pid");
        background
    }

    fn run(&self, args: &[&str]) -> Finished {
        Run::balance(&self.directory).args(["-b", &self.address.ip().to_string()]).args(args).finish()
    }

    fn link(&self, name: &str) -> String {
        let link = fs::read_link(format!("/proc/{}/{name}", self.pid)).expect("our own process");
        link.to_string_lossy().into_owned()
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_raw(self.pid).expect("a pid is not 0"), signal);
    }

    fn is_gone(&self) -> bool {
        // A zombie is gone too: whoever adopted it may take its time.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    }

    fn await_gone(&self) {
        eventually("the background process ends", || self.is_gone().then_some(()));
    }
}

/// A child that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if !self.is_gone() {
            self.signal(Signal::KILL);
        }
    }
}

#[test]
fn exit_0_of_a_background_start_means_serving() {
    let server = Server::named("a");
    for _ in 0..10 {
        let background = Background::start(&server.to_string());
        assert_eq!(Client::connect(background.address).recv(1), b"a");
    }
}

#[test]
fn a_background_instance_is_a_proper_daemon() {
    let background = Background::start("127.0.0.1:9");
    for fd in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(background.link(fd), "/dev/null", "{fd}");
    }
    assert_eq!(background.link("cwd"), "/");
    let stat = fs::read_to_string(format!("/proc/{}/stat", background.pid)).expect("our own process");
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(fields[3], background.pid.to_string(), "its own session");
    assert_eq!(fields[4], "0", "no terminal");
    let comm = fs::read_to_string(format!("/proc/{}/comm", background.pid)).expect("our own process");
    assert_eq!(comm, "balance\n");
    let cmdline = fs::read(format!("/proc/{}/cmdline", background.pid)).expect("our own process");
    let argv: Vec<_> = cmdline.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    assert!(argv[0].ends_with("balance") && argv[1] == "-b", "argv is not rewritten: {argv:?}");
}

#[test]
fn a_background_start_holds_none_of_its_callers_pipes() {
    let address = own_address();
    let directory = Directory::new();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let mut caller = Command::new(BALANCE)
        .args(["-b", &ip, &port, "127.0.0.1:9"])
        .env("BALANCE_RUN_DIR", directory.path().join("run"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program under test");
    // `$(balance ...)` of a shell waits for this.
    let (mut out, mut err) = (String::new(), String::new());
    let begin = Instant::now();
    caller.stdout.take().expect("a pipe").read_to_string(&mut out).expect("the end of stdout");
    caller.stderr.take().expect("a pipe").read_to_string(&mut err).expect("the end of stderr");
    assert!(begin.elapsed() < DEADLINE);
    assert_eq!((caller.wait().expect("our own child").code(), out.as_str(), err.as_str()), (Some(0), "", ""));
    Run::balance(&directory).args(["-b", &address.ip().to_string(), "-c", "kill", &port]).finish().code(0);
}

#[test]
fn sigterm_and_sigint_free_the_port_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::echo();
        let background = Background::start(&server.to_string());
        let begin = Instant::now();
        background.signal(signal);
        background.await_gone();
        assert!(begin.elapsed() < Duration::from_secs(5), "{signal:?} took {:?}", begin.elapsed());
        // Free of the instance at once; but a client of another test may just have been given its number.
        drop(eventually("the port is free", || TcpListener::bind(background.address).ok()));
        background.run(&["-c", "show", &background.address.port().to_string()]).code(69);
    }
}

#[test]
fn sigterm_frees_the_port_while_clients_are_connected() {
    let server = Server::echo();
    let background = Background::start(&server.to_string());
    let mut client = Client::connect(background.address);
    client.send("x");
    client.recv(1);
    background.signal(Signal::TERM);
    eventually("no listener", || TcpStream::connect(background.address).is_err().then_some(()));
    let again = Background::at(background.address, Directory::new(), &server.to_string());
    Client::connect(again.address).send("x");
    drop(client);
    background.await_gone();
}

#[test]
fn a_hangup_does_not_end_an_instance_in_the_background() {
    let server = Server::named("a");
    let background = Background::start(&server.to_string());
    background.signal(Signal::HUP);
    assert_eq!(Client::connect(background.address).recv(1), b"a");
    assert!(!background.is_gone());
}

#[test]
fn killall_and_start_again_works_with_nothing_between() {
    unless_held_up(100, || {
        let server = Server::named("a");
        let address = own_address();
        for round in 0..5 {
            let background = Background::at(address, Directory::new(), &server.to_string());
            assert_eq!(Client::connect(address).recv(1), b"a", "round {round}");
            // A connection in between, so that the port has one in its last states.
            background.signal(Signal::TERM);
        }
    });
}

#[test]
fn out_of_descriptors_accept_waits_quietly_and_goes_on() {
    let server = Server::named("a");
    let instance = Setup::new().shell("ulimit -n 64;").start(["PORT", &server.to_string()]);
    let mut clients: Vec<_> = (0..60).map(|_| instance.connect()).collect();
    eventually("a line with the limit", || instance.stderr().contains("limit=64").then_some(()));
    server.await_accepted(5);
    instance.assert_idle();
    let lines = instance.stderr().lines().count();
    assert!(lines <= 2, "{}", instance.stderr());
    // Some leave; the ones in the queue get their turn, and nobody was taken only to be dropped.
    let before = server.accepted();
    assert!(before < 32, "{before} clients with 64 descriptors");
    while !clients.is_empty() {
        let mut client = clients.remove(0);
        assert_eq!(client.recv(1), b"a", "in the order in which they came");
    }
    assert_eq!(server.accepted(), 60);
    instance.end();
}

#[test]
fn an_instance_can_still_be_asked_when_its_descriptors_are_used_up() {
    let server = Server::named("a");
    let instance = Setup::new().shell("ulimit -n 64;").start(["PORT", &server.to_string()]);
    let clients: Vec<_> = (0..60).map(|_| instance.connect()).collect();
    eventually("a line with the limit", || instance.stderr().contains("limit=64").then_some(()));
    instance.ctl("show").code(0);
    drop(clients);
    instance.end();
}

/// How many descriptors so many workers need, as the program says when it is given one too few for anything.
#[track_caller]
fn needed(workers: &str) -> usize {
    let mut instance = Setup::new().shell("ulimit -n 13;").spawn(["--workers", workers, "PORT"]);
    assert_eq!(instance.wait(), 71, "{}", instance.stderr());
    let said = instance.stderr();
    let number = said
        .strip_prefix("balance: the limit of open files is 13, but ")
        .and_then(|rest| rest.split(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number in {said:?}"))
}

#[test]
fn too_low_a_limit_of_descriptors_is_refused_and_the_lowest_serves_a_client_and_a_controller() {
    let server = Server::named("a");
    for (workers, threads) in [("1", "1 worker"), ("2", "2 workers"), ("8", "8 workers")] {
        let needed = needed(workers);
        for low in [13, 16, needed - 2, needed - 1] {
            let shell = format!("ulimit -n {low};");
            let mut instance =
                Setup::new().shell(&shell).spawn(["--workers", workers, "PORT", &server.to_string()]);
            assert_eq!(instance.wait(), 71, "{low}: {}", instance.stderr());
            let said = format!(
                "balance: the limit of open files is {low}, but {needed} are needed to serve one client with {threads}; \
                 raise it (ulimit -n), or use fewer --workers\n"
            );
            assert_eq!(instance.stderr(), said);
        }
        let shell = format!("ulimit -n {needed};");
        let instance = Setup::new().shell(&shell).start(["--workers", workers, "PORT", &server.to_string()]);
        let limit = needed as i32;
        // Two for a client, four for a command, and what the start of a program takes.
        let spare = 6 + if cfg!(any(not(target_os = "linux"), portable)) { 3 } else { 0 };
        assert_eq!(
            instance.open_descriptors().filter(|fd| *fd < limit).count(),
            needed - spare,
            "what is said is true"
        );
        for _ in 0..3 {
            let (mut client, name) = instance.named();
            assert_eq!(name, "a");
            // The next one waits, and is served when this one leaves.
            let mut next = instance.connect();
            instance.ctl("create localhost 9; show").code(0);
            client.send("x");
            assert_eq!(client.recv(1), b"x");
            drop(client);
            assert_eq!(next.recv(1), b"a");
        }
        instance.end();
    }
}

#[test]
fn the_lowest_limit_of_descriptors_serves_in_the_background_too() {
    let server = Server::named("a");
    let (address, directory) = (own_address(), Directory::new());
    let (ip, port) = (address.ip(), address.port());
    let start = |limit: usize| {
        let script = format!("ulimit -n {limit}; balance --workers 2 -b {ip} {port} {server}");
        Run::script(&directory, &script).finish()
    };
    let said = start(13).code(71).stderr;
    let number = said.strip_prefix("balance: the limit of open files is 13, but ");
    let needed = number.and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("a number");
    start(needed - 1).code(71).err(&format!("but {needed} are needed"));
    assert_eq!(start(needed).code(0).stderr, "");
    let mut client = Client::connect(address);
    assert_eq!(client.recv(1), b"a");
    let ip = address.ip().to_string();
    let control =
        |command: &str| Run::balance(&directory).args(["-b", &ip, "-c", command, &port.to_string()]).finish();
    control("show").code(0);
    drop(client);
    control("kill").code(0);
}

#[test]
fn the_soft_descriptor_limit_is_raised_to_the_hard_one() {
    let instance = Setup::new().shell("ulimit -Sn 50;").start(["PORT"]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", instance.pid())).expect("our own child");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[3], words[4], "{line}");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert!(matches!(core.split_whitespace().nth(4), Some("0" | "1")), "no payload in core files: {core}");
    instance.end();
}

#[test]
fn closed_standard_descriptors_never_end_up_in_a_connection() {
    let server = Server::echo();
    for closed in ["exec 0<&-;", "exec 1>&-;", "exec 2>&-;", "exec 0<&- 1>&- 2>&-;"] {
        let address = own_address();
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let setup = Setup::binding(address).shell(closed);
        let instance = setup.start(["-d", "-p", "-b", &ip, &port, &server.to_string()]);
        let mut client = instance.connect();
        client.send("exactly this");
        client.shut_wr();
        assert_eq!(client.recv_all(), b"exactly this", "{closed}");
        instance.end();
    }
}

#[test]
fn an_instance_in_the_background_keeps_none_of_its_callers_descriptors() {
    let address = own_address();
    let directory = Directory::new();
    let (ip, port, lock) = (address.ip(), address.port(), directory.path().join("lock"));
    // As a script has it that must not run twice. In front, the instance holds the lock for as long as it runs.
    let lock = lock.display();
    let script = format!("exec 9>{lock}; flock -w 20 9; balance -b {ip} {port} 127.0.0.1:9 5<&0 0<&-");
    Run::script(&directory, &script).finish().code(0);
    Run::script(&directory, &format!("flock -w 20 {lock} true")).finish().code(0);
    Run::balance(&directory).args(["-b", &ip.to_string(), "-c", "kill", &port.to_string()]).finish().code(0);
    let script = format!("exec 9>{lock}; flock -w 20 9; exec balance -f -b {ip} {port} 127.0.0.1:9");
    let mut front = Killed(
        Command::new("sh")
            .args([
                "-ec",
                &format!(
                    "PATH={}:$PATH; {script}",
                    Path::new(BALANCE).parent().expect("its directory").display()
                ),
            ])
            .env("BALANCE_RUN_DIR", directory.path().join("run"))
            .spawn()
            .expect("sh is everywhere"),
    );
    eventually("it serves", || Client::try_connect(address, None, None).ok());
    Run::script(&directory, &format!("! flock -n {lock} true")).finish().code(0);
    Run::balance(&directory).args(["-b", &ip.to_string(), "-c", "kill", &port.to_string()]).finish().code(0);
    eventually("its end", || front.0.try_wait().expect("our own child"));
}

#[test]
fn a_background_start_without_standard_descriptors_serves() {
    let server = Server::echo();
    let address = own_address();
    let directory = Directory::new();
    let (ip, port) = (address.ip(), address.port());
    let script = format!("balance -b {ip} {port} {server} 0<&- 1>&- 2>&-");
    Run::script(&directory, &script).finish().code(0);
    let mut client = Client::connect(address);
    client.send("exactly this");
    client.shut_wr();
    assert_eq!(client.recv_all(), b"exactly this");
    Run::balance(&directory)
        .args(["-b", &address.ip().to_string(), "-c", "kill", &port.to_string()])
        .finish()
        .code(0);
}

#[test]
fn a_dump_whose_reader_is_gone_stops_and_the_traffic_goes_on() {
    let server = Server::echo();
    // The reader ends at once; the pipe is broken from then on.
    let instance = Setup::new()
        .shell("mkfifo $XDG_RUNTIME_DIR/p; true < $XDG_RUNTIME_DIR/p & exec 1> $XDG_RUNTIME_DIR/p; wait;")
        .start(["-p", "PORT", &server.to_string()]);
    for _ in 0..3 {
        let mut client = instance.connect();
        client.send("hello");
        assert_eq!(client.recv(5), b"hello");
    }
    eventually("it is said", || instance.stderr().contains("dump").then_some(()));
    for _ in 0..3 {
        let mut client = instance.connect();
        client.send("hello");
        assert_eq!(client.recv(5), b"hello");
    }
    let said = instance.stderr();
    assert_eq!(said.matches("dump").count(), 1, "said once: {said}");
    instance.end();
}

/// An instance whose dump goes to a pipe, and the end of the pipe that nobody reads so far.
fn with_unread_dump<S: ToString>(args: impl IntoIterator<Item = S>) -> (Instance, fs::File) {
    let setup = Setup::new();
    let path = setup.directory().path().join("dump");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0)
        .expect("a directory of ours");
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let pipe = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).expect("our own pipe");
    let setup = setup.shell(&format!("exec 1>'{}';", path.display()));
    (setup.start(["-p".into()].into_iter().chain(args.into_iter().map(|arg| arg.to_string()))), pipe.into())
}

/// Sends until nothing moves any more; how much it sent.
fn stall(instance: &Instance, client: &Client) -> usize {
    client.0.set_nonblocking(true).expect("a mode");
    let sent = std::cell::Cell::new(0);
    settled("nothing moves any more", || {
        while let Ok(n) = std::io::Write::write(&mut &client.0, &[b'x'; 10_000]) {
            sent.set(sent.get() + n);
        }
        (sent.get(), instance.show()[0].sent)
    });
    client.0.set_nonblocking(false).expect("a mode");
    sent.get()
}

#[test]
fn a_dump_that_nobody_reads_stops_the_traffic_and_nothing_else() {
    let server = Server::echo();
    let args = ["-T", "1", "--workers", "2", "--check", "tcp", "--check-interval", "50ms", "PORT"];
    let (instance, pipe) = with_unread_dump(args.into_iter().map(String::from).chain([server.to_string()]));
    let mut first = instance.connect();
    let sent = stall(&instance, &first);
    // Others are let in, and wait, on whichever worker they are; nobody is idle for a fault of ours.
    let mut others: Vec<_> = (0..4).map(|_| instance.connect()).collect();
    others.iter_mut().for_each(|client| client.send("question"));
    instance.await_show("they have their channel", |rows| rows[0].c == 5);
    let checks = server.accepted();
    eventually("checks go on", || (server.accepted() > checks + 5).then_some(()));
    for client in &others {
        assert!(client.is_quiet_for(Duration::from_millis(700)));
    }
    // One of them is closed by an operator.
    let mut kicked = others.pop().expect("there are four");
    let address = kicked.0.local_addr().expect("it is connected").to_string();
    let sessions = instance.ctl("sessions").code(0).stdout;
    let line = sessions.lines().find(|line| line.split_whitespace().nth(1) == Some(&address));
    let id = line.and_then(|line| line.split_whitespace().next()).expect("its session");
    instance.ctl(&format!("close {id}")).code(0);
    instance.await_show("it is closed", |rows| rows[0].c == 4);
    assert_eq!(kicked.ending(), Received::Reset, "it missed its answer");
    // Somebody reads it: all of it is there, and everybody is served.
    let read = thread::spawn(move || {
        rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::empty()).expect("a mode");
        let mut pipe = pipe;
        let mut text = Vec::new();
        pipe.read_to_end(&mut text).map(|_| text).expect("the end of the dump")
    });
    for client in &mut others {
        assert_eq!(client.recv(8), b"question");
    }
    let mut got = 0;
    while got < sent {
        got += first.recv((sent - got).min(100_000)).len();
    }
    drop((first, others));
    instance.end();
    let text = String::from_utf8(read.join().expect("it reads")).expect("the dump is ASCII");
    let count = |head: &str| -> usize {
        let heads = text.lines().filter_map(|line| line.strip_prefix(head));
        heads.filter_map(|count| count.parse::<usize>().ok()).sum()
    };
    assert_eq!([count("-> "), count("-< ")], [sent + 3 * 8; 2], "without a hole");
}

#[test]
fn a_dump_that_nobody_reads_delays_no_end() {
    unless_held_up(500, || {
        // So long did it take while workers waited for the reader.
        const HUNG: Duration = Duration::from_secs(5);
        let server = Server::echo();
        for by_kill in [false, true] {
            let (mut instance, pipe) = with_unread_dump(["PORT".into(), server.to_string()]);
            let client = instance.connect();
            stall(&instance, &client);
            let begun = Instant::now();
            if by_kill {
                instance.ctl("kill").code(0).out("shutdown complete, exiting.\n");
                eventually("the port is free", || {
                    Client::try_connect(instance.addr, None, None).is_err().then_some(())
                });
                assert!(instance.is_running(), "it has a client");
                client.rst();
            } else {
                instance.signal(Signal::INT);
            }
            assert_eq!(instance.wait(), 0);
            assert!(begun.elapsed() < HUNG, "{:?}, by kill: {by_kill}", begun.elapsed());
            drop(pipe);
        }
    });
}

#[test]
fn the_end_of_a_dump_is_written_before_the_process_ends() {
    let server = Server::echo();
    let (instance, mut pipe) = with_unread_dump(["PORT".into(), server.to_string()]);
    let mut client = instance.connect();
    client.send([b'x'; 30_000]);
    client.recv(30_000);
    let reader = thread::spawn(move || {
        rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::empty()).expect("a mode");
        let mut text = Vec::new();
        pipe.read_to_end(&mut text).map(|_| text).expect("the end of the dump")
    });
    drop(client);
    instance.end();
    let text = reader.join().expect("it reads");
    assert_eq!(text.iter().filter(|byte| **byte == b'x').count(), 60_000);
}

#[test]
fn as_pid_1_it_stays_in_front_and_stops_on_sigterm() {
    if needs_root("a pid namespace") {
        return;
    }
    let server = Server::named("a");
    let address = own_address();
    let directory = Directory::new();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    // Without -f: a container whose first process detaches ends.
    let unshare = Command::new("unshare")
        .args(["-pf", "--kill-child", BALANCE, "-b", &ip, &port, &server.to_string()])
        .env("BALANCE_RUN_DIR", directory.path().join("run"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(directory.path().join("stderr")).expect("our own file"))
        .spawn()
        .expect("unshare: apt-get install util-linux");
    let mut unshare = Killed(unshare);
    let served = eventually("it serves", || {
        assert!(unshare.0.try_wait().expect("our own child").is_none(), "it ended");
        Client::try_connect(address, None, None).ok()
    });
    let mut served = served;
    assert_eq!(served.recv(1), b"a");
    drop(served);
    let children =
        fs::read_to_string(format!("/proc/{0}/task/{0}/children", unshare.0.id())).expect("our own child");
    let pid = children.trim().parse().ok().and_then(Pid::from_raw).expect("one child");
    eventually("it answers", || {
        (Run::balance(&directory).args(["-c", "show", &port]).finish().code == 0).then_some(())
    });
    // It cannot hand its port over, and says why.
    let replace = ["-f", "-b", &ip, "--replace", &port, &server.to_string()];
    let refused = Run::balance(&directory).args(replace).finish();
    assert_eq!(refused.code, 71, "{refused}");
    let why = "does not hand its port over: it is the first process of its container";
    assert!(refused.stderr.contains(why), "{refused}");
    kill_process(pid, Signal::TERM).expect("our own process");
    let status = eventually("its end", || unshare.0.try_wait().expect("our own child"));
    assert_eq!(status.code(), Some(0));
}

#[test]
fn an_empty_root_directory_is_enough() {
    if needs_root("chroot") {
        return;
    }
    // A scratch container: no /etc, no /run, no /dev/log. What a dynamically linked program needs is brought along.
    let server = Server::named("a");
    let address = own_address();
    let directory = Directory::new();
    let root = directory.path().join("root");
    fs::create_dir_all(root.join("dev")).expect("a fresh directory");
    let ldd = Run::new("ldd").arg(BALANCE).finish();
    let libraries = ldd.stdout.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain([BALANCE]) {
        let target = root.join(Path::new(file.trim_end_matches(':')).strip_prefix("/").expect("absolute"));
        fs::create_dir_all(target.parent().expect("a directory")).expect("a fresh directory");
        copy_program(file, &target);
    }
    let (ip, port) = (address.ip(), address.port());
    let script = format!(
        "touch {0}/dev/null; mount --bind /dev/null {0}/dev/null; exec chroot {0} {BALANCE} -f -b {ip} {port} localhost:{1}",
        root.display(),
        server.addr.port()
    );
    let stderr = fs::File::create(directory.path().join("stderr")).expect("our own file");
    let unshare =
        Command::new("unshare").args(["-m", "sh", "-ec", &script]).stderr(stderr).spawn().expect("unshare");
    let mut unshare = Killed(unshare);
    let said = || fs::read_to_string(directory.path().join("stderr")).unwrap_or_default();
    let mut client = eventually("it serves", || {
        assert!(unshare.0.try_wait().expect("our own child").is_none(), "it ended: {}", said());
        Client::try_connect(address, None, None).ok()
    });
    assert_eq!(client.recv(1), b"a", "{}", said());
    drop(client);
    let pid = Pid::from_raw(i32::try_from(unshare.0.id()).expect("a pid")).expect("not 0");
    kill_process(pid, Signal::TERM).expect("our own child");
    let status = eventually("its end", || unshare.0.try_wait().expect("our own child"));
    assert_eq!(status.code(), Some(0), "{}", said());
}

#[test]
fn in_the_background_syslog_is_told() {
    if needs_root("a /dev of its own takes a mount namespace") {
        return;
    }
    let dead = Refusing::new();
    let address = own_address();
    let directory = Directory::new();
    let log = directory.path().join("log");
    let syslog = UnixDatagram::bind(&log).expect("a fresh directory");
    syslog.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let (ip, port) = (address.ip(), address.port());
    let script = format!(
        "mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; ln -s {} /dev/log; balance -a -b {ip} {port} {dead}",
        log.display()
    );
    let script = format!("exec unshare -m sh -ec '{script}'");
    let started = Run::script(&directory, &script).finish().code(0).out("");
    assert_eq!(started.stderr, "", "{started}");
    let greeting = Run::balance(&directory).args(["-i", &port.to_string()]).finish().code(0).stdout;
    let pid =
        greeting.lines().find_map(|line| line.strip_prefix("PID of master process is ")).expect("its pid");
    assert_eq!(Client::connect(address).ending(), Received::End);
    // Daemon facility with severity notice is 29.
    let line = loop {
        let mut buffer = [0; 1024];
        let length = syslog.recv(&mut buffer).expect("a line within the deadline");
        let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if line.contains("autodisabled") {
            break line;
        }
    };
    let expected = format!("<29>Balance[{pid}]: event=autodisabled group=0 channel=0 address={dead}");
    assert_eq!(line, expected);
    Run::balance(&directory)
        .args(["-b", &address.ip().to_string(), "-c", "kill", &port.to_string()])
        .finish()
        .code(0);
}

#[test]
fn a_foreground_instance_says_nothing_while_all_is_well() {
    let server = Server::named("a");
    let instance = Instance::before(&[&server]);
    assert_eq!(instance.names(3), "aaa");
    assert_eq!((instance.stdout().as_str(), instance.stderr().as_str()), ("", ""));
    instance.end();
}

#[test]
fn debugging_goes_to_stderr_and_never_into_a_connection() {
    let server = Server::echo();
    let instance = Instance::before(&[&"-d", &server]);
    let mut client = instance.connect();
    client.send("payload");
    client.shut_wr();
    assert_eq!(client.recv_all(), b"payload");
    eventually("a line about it", || (!instance.stderr().is_empty()).then_some(()));
    assert_eq!(instance.stdout(), "");
    instance.end();
}

#[test]
fn a_burst_of_clients_that_leave_at_once_costs_nothing_afterwards() {
    let server = Server::closer();
    let instance = Instance::before(&[&server]);
    for _ in 0..300 {
        instance.connect().rst();
    }
    for _ in 0..100 {
        assert_ne!(instance.connect().ending(), Received::Reset, "a clean end stays one");
    }
    instance.end();
}

#[test]
fn thousands_of_connections_leave_nothing_behind() {
    let server = Server::silent();
    let instance = Instance::before(&[&server]);
    let clients: Vec<_> = (0..1000).map(|_| instance.connect()).collect();
    server.await_accepted(1000);
    assert_eq!(instance.show()[0].c, 1000);
    drop(clients);
    instance.end();
}

#[test]
fn what_is_passed_and_cannot_be_served_is_an_error_at_the_start() {
    let refused = |listen: &str, shell: &str, args: &[&str]| {
        let mut instance = Setup::listening(listen.parse().expect("an address")).shell(shell).spawn(args);
        let code = instance.wait();
        let said = instance.stderr();
        assert_eq!((code, said.lines().count()), (71, 1), "{shell} {args:?}: {said}");
        said.replace(&instance.addr.port().to_string(), "PORT").trim_end().to_owned()
    };
    for (shell, args, said) in [
        (
            "exec 4<&3; export LISTEN_FDS=2;",
            &["PORT"][..],
            "LISTEN_FDS passes a listener at 127.0.0.1:PORT, but the service listens on port PORT",
        ),
        ("export LISTEN_FDS=2;", &["PORT"], "LISTEN_FDS promises descriptor 4, which is not open"),
        ("export LISTEN_FDS=two;", &["PORT"], "LISTEN_FDS 'two' is not a number"),
        ("export LISTEN_PID=me;", &["PORT"], "LISTEN_PID 'me' is not a number"),
        ("export LISTEN_FDNAMES=a:b;", &["PORT"], "LISTEN_FDS is 1, but LISTEN_FDNAMES has 2 names"),
        (
            "exec 3</dev/null;",
            &["PORT"],
            "descriptor 3, passed by LISTEN_FDS, is not a listening TCP or Unix socket: it is not a socket",
        ),
        ("", &["1"], "LISTEN_FDS passes a listener at 127.0.0.1:PORT, but the service listens on port 1"),
        (
            "",
            &["-b", "127.0.0.2", "PORT"],
            "LISTEN_FDS passes a listener at 127.0.0.1:PORT, but the service listens on 127.0.0.2:PORT",
        ),
        (
            "",
            &["-6", "PORT"],
            "LISTEN_FDS passes a listener at 127.0.0.1:PORT, but the service listens on [::]:PORT",
        ),
    ] {
        assert_eq!(refused("127.0.0.1:0", shell, args), format!("balance: {said}"));
    }
}

#[test]
fn what_is_passed_is_served_where_we_could_not_have_bound_it() {
    if needs_root("a port below 1024 for a process that may not have one") {
        return;
    }
    let server = Server::named("a");
    let address = SocketAddr::new(own_address().ip(), 81);
    // Without the capability for it, as a service has it that is started as an ordinary user with a socket of systemd's.
    let shell =
        "exec setpriv --bounding-set -net_bind_service --inh-caps -net_bind_service -- \"$0\" -f \"$@\";";
    let bind = ["-b".to_owned(), address.ip().to_string(), "PORT".to_owned(), server.to_string()];
    let mut instance = Setup::listening(address).shell(shell).start(bind);
    assert_eq!(Client::connect(address).recv(1), b"a");
    instance.upgrade();
    assert_eq!(Client::connect(address).recv(1), b"a");
    instance.terminate();
}

#[test]
fn what_is_passed_is_served_whatever_its_address_if_the_port_is_right() {
    let server = Server::named("a");
    for (listen, args, shell) in [
        ("127.0.0.1:0", &[][..], "export LISTEN_FDNAMES=web.socket;"),
        ("[::]:0", &[], ""),
        ("[::]:0", &["-6"], ""),
        ("127.0.0.1:0", &["-b", "localhost"], ""),
        ("127.0.0.1:0", &["-b", "::ffff:127.0.0.1"], ""),
        // For another process: nothing was passed to us.
        ("127.0.0.1:0", &["-b", "127.0.0.7"], "export LISTEN_PID=1 LISTEN_FDS=many;"),
    ] {
        let address: SocketAddr = listen.parse().expect("an address");
        let args = args.iter().map(|arg| (*arg).to_owned()).chain(["PORT".into(), server.to_string()]);
        let instance = Setup::listening(address).shell(shell).start(args);
        if !shell.contains("PID") {
            assert_eq!(
                Client::connect(([127, 0, 0, 1], instance.addr.port()).into()).recv(1),
                b"a",
                "{listen}"
            );
        }
        instance.end();
    }
}

/// Small inits of containers end when their only child does. One is known by its command line, and one by its
/// name.
#[test]
fn an_upgrade_that_would_end_the_container_is_refused() {
    if needs_root("a pid namespace") {
        return;
    }
    let server = Server::named("a");
    let directory = Directory::new();
    directory.file("init", "import os, subprocess, sys; sys.exit(subprocess.call(sys.argv[2:]))");
    // Adds a word, so that the command line of the first process does not end with that of balance.
    directory.file("entry", &format!("exec \"$@\" {server}"));
    let asked = ["-c", "import os, sys; print(os.path.realpath(sys.executable))"];
    let python = Run::new("python3").args(asked).finish().code(0).stdout;
    std::os::unix::fs::symlink(python.trim(), directory.path().join("tini")).expect("a link");
    let server = server.to_string();
    for (init, entry, server, refused) in [
        ("python3", "", &*server, true),
        ("./tini", "sh entry", "", true),
        ("python3", "sh entry", "", false),
    ] {
        let address = own_address();
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let said = directory.path().join("stderr");
        let file = || fs::File::create(&said).expect("our own file");
        let words = format!("exec {init} init -- {entry} {BALANCE} -f -b {ip} {port} {server}");
        let unshare = Command::new("unshare")
            .args(["-mpf", "--mount-proc", "--kill-child", "sh", "-c", &words])
            .current_dir(directory.path())
            .env("BALANCE_RUN_DIR", directory.path().join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file())
            .spawn()
            .expect("unshare: apt-get install util-linux");
        let mut unshare = Killed(unshare);
        let said = || fs::read_to_string(&said).unwrap_or_default();
        eventually("it serves", || {
            assert!(unshare.0.try_wait().expect("our own child").is_none(), "it ended: {}", said());
            let show = Run::balance(&directory).args(["-b", &ip, "-c", "show", &port]).finish();
            (show.code == 0).then_some(())
        });
        let upgrade = Run::balance(&directory).args(["-b", &ip, "-c", "upgrade", &port]).finish();
        let why = ", the first process of its container, and the container would end with it; start a second container";
        let is_refused = upgrade.code == 69 && upgrade.stdout.contains(why);
        assert_eq!(is_refused, refused, "{init} {entry}: {upgrade}{}", said());
        if refused {
            assert_eq!(Client::connect(address).recv(1), b"a");
        }
    }
}

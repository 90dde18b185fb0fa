//! One running instance of the program under test.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::run::isolate;
use super::{BALANCE, Client, DEADLINE, Directory, Finished, Run, eventually, pause};

/// How to start an instance.
pub(crate) struct Setup {
    listen: SocketAddr,
    inherit: bool,
    prefix: String,
    env: Vec<(String, String)>,
    directory: Directory,
}

/// An instance in the foreground. End it with [`Instance::end`]; dropped otherwise it is killed and, in a failing test,
/// reported.
pub(crate) struct Instance {
    pub(crate) addr: SocketAddr,
    /// Where it listens, whatever address its clients use.
    bound: SocketAddr,
    pub(crate) directory: Directory,
    child: Child,
    pid: i32,
    argv: String,
    baseline: usize,
    ended: bool,
}

/// One line of `show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) group: usize,
    pub(crate) policy: String,
    pub(crate) channel: usize,
    pub(crate) state: String,
    pub(crate) address: String,
    pub(crate) c: i64,
    pub(crate) totalc: u64,
    pub(crate) maxc: u64,
    pub(crate) sent: u64,
    pub(crate) rcvd: u64,
}

impl Setup {
    /// Listening on 127.0.0.1, on a port of the kernel's choice that is bound here and inherited as descriptor 3.
    pub(crate) fn new() -> Self {
        Self::listening(([127, 0, 0, 1], 0).into())
    }

    /// The same on this address.
    pub(crate) fn listening(listen: SocketAddr) -> Self {
        let directory = Directory::new();
        Self { listen, inherit: true, prefix: String::new(), env: Vec::new(), directory }
    }

    /// Let the program bind `address` itself (the arguments must say `-b` or `-6` where needed).
    pub(crate) fn binding(address: SocketAddr) -> Self {
        Self { inherit: false, ..Self::listening(address) }
    }

    /// Shell words in front of the program, such as `ulimit -n 20;` or `exec 1>&-;`.
    pub(crate) fn shell(mut self, prefix: &str) -> Self {
        self.prefix = prefix.to_owned();
        self
    }

    /// With this hosts file. Needs root for a mount namespace of its own.
    pub(crate) fn hosts(mut self, hosts: &str) -> Self {
        let path = self.directory.file("hosts", hosts);
        let Self { prefix, .. } = &mut self;
        prefix.push_str(&format!("mount --bind {} /etc/hosts;", path.display()));
        self.env.push(("UNSHARE".into(), "unshare -m".into()));
        self
    }

    /// In this directory (of rendezvous, home and logs), to share it with another instance or start again in it.
    pub(crate) fn within(mut self, directory: Directory) -> Self {
        self.directory = directory;
        self
    }

    /// Where the instance will have its files.
    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Starts `balance -f ARGS`; `PORT` among the arguments is replaced by the port. Comes back when it answers `show`.
    #[track_caller]
    pub(crate) fn start<S: ToString>(self, args: impl IntoIterator<Item = S>) -> Instance {
        let mut instance = self.spawn(args);
        instance.await_serving();
        instance
    }

    /// The same without waiting.
    #[track_caller]
    pub(crate) fn spawn<S: ToString>(self, args: impl IntoIterator<Item = S>) -> Instance {
        let Self { listen, inherit, prefix, env, directory } = self;
        let listener = inherit.then(|| TcpListener::bind(listen).expect("a free port"));
        let addr =
            listener.as_ref().map_or(listen, |l| l.local_addr().expect("a bound socket has an address"));
        let port = addr.port().to_string();
        let args =
            args.into_iter().map(|a| a.to_string()).map(|a| if a == "PORT" { port.clone() } else { a });
        let args: Vec<OsString> = args.map(OsString::from).collect();
        // The listener travels as stdin, because that needs no unsafe code here and leaks into no other test's child.
        let inherited = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$;";
        let start = if inherit { inherited } else { "exec </dev/null;" };
        let script = format!("{start} {prefix} exec \"$0\" -f \"$@\"");
        let mut command = match env.iter().find(|(key, _)| key == "UNSHARE") {
            None => Command::new("sh"),
            Some(_) => {
                let mut command = Command::new("unshare");
                command.args(["-m", "sh"]);
                command
            }
        };
        command.arg("-ec").arg(script).arg(BALANCE).args(&args);
        isolate(&mut command, &directory);
        let output = |name: &str| File::create(directory.path().join(name)).expect("a file of our own");
        command.stdout(output("stdout")).stderr(output("stderr"));
        command.stdin(listener.map_or_else(Stdio::null, |listener| OwnedFd::from(listener).into()));
        let argv = format!("balance -f {args:?} (port {port}, {prefix:?})");
        let child = command.spawn().expect("sh is everywhere");
        let pid = i32::try_from(child.id()).expect("a pid");
        Instance { addr, bound: addr, directory, child, pid, argv, baseline: 0, ended: false }
    }
}

impl Instance {
    /// The usual start: `balance -f ARGS` on a port of 127.0.0.1.
    #[track_caller]
    pub(crate) fn start<S: ToString>(args: impl IntoIterator<Item = S>) -> Self {
        Setup::new().start(args)
    }

    /// In front of these channels, in one group.
    #[track_caller]
    pub(crate) fn before(channels: &[&dyn std::fmt::Display]) -> Self {
        Self::start([String::from("PORT")].into_iter().chain(channels.iter().map(ToString::to_string)))
    }

    #[track_caller]
    pub(crate) fn await_serving(&mut self) {
        let end = Instant::now() + DEADLINE;
        while self.ctl("show").code != 0 {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                panic!("it ended while starting: {status}");
            }
            assert!(Instant::now() < end, "it does not answer");
            pause();
        }
        // The descriptor of the question just asked may still be closing.
        let mut counts = [usize::MAX; 4];
        self.baseline = eventually("a steady number of descriptors", || {
            counts.rotate_left(1);
            counts[3] = self.descriptors();
            counts.iter().all(|count| *count == counts[3]).then_some(counts[3])
        });
    }

    pub(crate) fn port(&self) -> String {
        self.addr.port().to_string()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.addr)
    }

    /// Connects and receives the name of the channel (one character) that it got; keeps the connection.
    #[track_caller]
    pub(crate) fn named(&self) -> (Client, String) {
        let mut client = self.connect();
        let name = client.recv(1);
        (client, String::from_utf8_lossy(&name).into_owned())
    }

    /// The names of the channels that so many clients one after the other get.
    #[track_caller]
    pub(crate) fn names(&self, n: usize) -> String {
        (0..n).map(|_| self.named().1).collect()
    }

    /// `balance -c CMD PORT`.
    #[track_caller]
    pub(crate) fn ctl(&self, command: &str) -> Finished {
        // Where it listens is not always known here, and to look the port alone will do.
        let bind = if command == "show" { Vec::new() } else { self.bind_option() };
        Run::balance(&self.directory).args(bind).args(["-c", command, &self.port()]).finish()
    }

    /// `balance -i PORT` with this on stdin.
    #[track_caller]
    pub(crate) fn shell(&self, input: impl AsRef<[u8]>) -> Finished {
        Run::balance(&self.directory)
            .args(self.bind_option())
            .args(["-i", &self.port()])
            .stdin(input)
            .finish()
    }

    /// `-b` for where it listens: without it, what changes something is for an instance on all addresses.
    pub(crate) fn bind_option(&self) -> Vec<String> {
        let ip = self.bound.ip();
        if ip.is_unspecified() { Vec::new() } else { vec!["-b".into(), ip.to_string()] }
    }

    #[track_caller]
    pub(crate) fn show(&self) -> Vec<Row> {
        let table = self.ctl("show").code(0).stdout;
        table
            .lines()
            .skip(1)
            .map(|line| Row::parse(line).unwrap_or_else(|| panic!("no row: {line:?}")))
            .collect()
    }

    /// Waits until `show` is as `fact` wants it.
    #[track_caller]
    pub(crate) fn await_show(&self, what: &str, fact: impl Fn(&[Row]) -> bool) -> Vec<Row> {
        eventually(what, || Some(self.show()).filter(|rows| fact(rows)))
    }

    pub(crate) fn stdout(&self) -> String {
        self.output("stdout")
    }

    pub(crate) fn stderr(&self) -> String {
        self.output("stderr")
    }

    fn output(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.path().join(name)).unwrap_or_default()).into_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid).expect("a pid is not 0"), signal).expect("our own child");
    }

    /// Waits for its end; the exit code, or 128 + the signal.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> i32 {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                self.ended = true;
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            assert!(Instant::now() < end, "it does not end");
            pause();
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// The descriptors that it has open, those of pipes included.
    pub(crate) fn open_descriptors(&self) -> impl Iterator<Item = i32> {
        let names = fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        names.filter_map(|name| name.file_name().to_str()?.parse().ok())
    }

    pub(crate) fn descriptors(&self) -> usize {
        self.open_descriptors().count()
    }

    /// What its pipes hold when they are full, in bytes.
    pub(crate) fn pipe_bytes(&self) -> usize {
        let mut seen = std::collections::BTreeMap::new();
        for descriptor in self.open_descriptors() {
            let path = format!("/proc/{}/fd/{descriptor}", self.pid);
            // Opened anew it is the same pipe. Others cannot be opened, or are no pipes.
            let Some(name) =
                fs::read_link(&path).ok().filter(|name| name.to_string_lossy().starts_with("pipe:"))
            else {
                continue;
            };
            let nonblocking = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
            if let Ok(pipe) = rustix::fs::open(&path, nonblocking, rustix::fs::Mode::empty()) {
                seen.insert(name, rustix::pipe::fcntl_getpipe_size(&pipe).expect("a pipe"));
            }
        }
        seen.values().sum()
    }

    /// CPU time it used so far, in clock ticks (usually 10 ms).
    pub(crate) fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
    }

    /// Does it use no CPU to speak of? Looks at a window of 300 ms.
    #[track_caller]
    pub(crate) fn assert_idle(&self) {
        // What a shared machine does to a window, it does not do to five in a row; a spin shows in all.
        let mut used = 0;
        // One that was told to check its channels fifty times a second is not quiet; a spin takes thirty ticks.
        let allowed = if self.argv.contains("--check-interval") { 6 } else { 1 };
        for _ in 0..5 {
            let before = self.ticks();
            std::thread::sleep(Duration::from_millis(300));
            used = self.ticks() - before;
            if used <= allowed {
                return;
            }
        }
        panic!("it uses {used} ticks of CPU in 300 ms of quiet");
    }

    /// The standard epilogue: all clients are gone, so nothing may be left of them, and a SIGTERM ends it cleanly.
    #[track_caller]
    pub(crate) fn end(self) {
        self.await_show("every c is 0", |rows| rows.iter().all(|row| row.c == 0));
        eventually("descriptors are back at the baseline", || {
            (self.descriptors() <= self.baseline).then_some(())
        });
        // A check that has just ended waits for its server's end, for a second at most.
        let mut left = Vec::new();
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            left = self.half_dead();
            if left.is_empty() {
                break;
            }
            pause();
        }
        assert_eq!(left, Vec::<String>::new(), "sockets in CLOSE_WAIT or FIN_WAIT2");
        self.assert_idle();
        self.end_by(Signal::TERM);
    }

    /// The end of an instance that has nothing to show any more, or clients still connected.
    #[track_caller]
    pub(crate) fn terminate(self) {
        self.end_by(Signal::INT);
    }

    #[track_caller]
    fn end_by(mut self, signal: Signal) {
        self.signal(signal);
        let code = self.wait();
        self.check_outcome(code);
        assert_eq!(code, 0, "exit code after {signal:?}");
    }

    /// The end of an instance that was told to `kill` itself.
    #[track_caller]
    pub(crate) fn killed(mut self) {
        let code = self.wait();
        self.check_outcome(code);
        assert_eq!(code, 0, "exit code after kill");
    }

    #[track_caller]
    fn check_outcome(&self, code: i32) {
        assert!(![101, 134, 139].contains(&code), "it crashed with {code}");
        assert!(!self.stderr().contains("panicked"), "it panicked");
    }

    /// Its sockets whose other side is gone while it still holds them.
    fn half_dead(&self) -> Vec<String> {
        self.sockets().into_iter().filter(|line| matches!(state(line), Some("05" | "08"))).collect()
    }

    /// How many connects of it to this address are not answered yet.
    pub(crate) fn dials(&self, to: SocketAddr) -> usize {
        let port = format!(":{:04X}", to.port());
        let is_to = |line: &String| line.split_whitespace().nth(2).is_some_and(|to| to.ends_with(&port));
        self.sockets().into_iter().filter(|line| state(line) == Some("02") && is_to(line)).count()
    }

    /// Its TCP sockets, as the lines that the kernel has for them.
    fn sockets(&self) -> Vec<String> {
        let mut inodes = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten() {
            if let Ok(link) = fs::read_link(entry.path())
                && let Some(inode) = link.to_str().and_then(|l| l.strip_prefix("socket:[")?.strip_suffix(']'))
            {
                inodes.push(inode.to_owned());
            }
        }
        let mut found = Vec::new();
        for table in ["tcp", "tcp6"] {
            let text = fs::read_to_string(format!("/proc/{}/net/{table}", self.pid)).unwrap_or_default();
            let is_own = |line: &&str| {
                line.split_whitespace().nth(9).is_some_and(|inode| inodes.iter().any(|own| own == inode))
            };
            // Thousands of TIME_WAITs, which are nobody's, would make this slow.
            let living = text.lines().skip(1).filter(|line| !line.contains(" 06 "));
            found.extend(living.filter(is_own).map(str::to_owned));
        }
        found
    }
}

/// The state of a socket in a line of the kernel's table.
fn state(line: &str) -> Option<&str> {
    line.split_whitespace().nth(3)
}

impl Drop for Instance {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
        }
        let status = self.child.wait();
        if std::thread::panicking() {
            let (stdout, stderr) = (self.stdout(), self.stderr());
            let stdout: String = stdout.chars().take(4000).collect();
            let stderr: String = stderr.chars().take(4000).collect();
            eprintln!("{}\nended: {status:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---", self.argv);
        }
    }
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [group, policy, channel, state, ip, port, c, totalc, maxc, sent, rcvd] = words[..] else {
            return None;
        };
        Some(Self {
            group: group.parse().ok()?,
            policy: policy.into(),
            channel: channel.parse().ok()?,
            state: state.into(),
            address: format!("{ip}:{port}"),
            c: c.parse().ok()?,
            totalc: totalc.parse().ok()?,
            maxc: maxc.parse().ok()?,
            sent: sent.parse().ok()?,
            rcvd: rcvd.parse().ok()?,
        })
    }

    /// The row as the contract formats it.
    pub(crate) fn text(&self) -> String {
        let (ip, port) = self.address.rsplit_once(':').expect("an address has a port");
        let Self { group, policy, channel, state, c, totalc, maxc, sent, rcvd, .. } = self;
        format!(
            "{group:>3} {policy:>4} {channel:>2} {state:>3} {ip:>16} {port:>5} {c:>4} {totalc:>11} {maxc:>4} {sent:>11} {rcvd:>11}\n"
        )
    }
}

//! One running instance of the program under test.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};

use super::run::isolate;
use super::{BALANCE, Client, DEADLINE, Directory, Finished, Run, eventually, pause};

/// The descriptors, besides the standard three, that this process would leave to its children: those of a
/// shell or a build.
static STRAYS: LazyLock<Vec<(i32, PathBuf)>> = LazyLock::new(|| {
    let ours = descriptors_of("self").filter(|descriptor| {
        let told = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).unwrap_or_default();
        let flags = told.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        *descriptor > 2 && flags.is_some_and(|flags| flags & CLOSE_ON_EXEC == 0)
    });
    ours.map(|descriptor| described("self", descriptor)).collect()
});

/// `O_CLOEXEC` as the kernel shows it in `fdinfo`.
const CLOSE_ON_EXEC: u32 = 0o2_000_000;

fn descriptors_of(pid: impl Display) -> impl Iterator<Item = i32> {
    let names = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    names.filter_map(|name| name.file_name().to_str()?.parse().ok())
}

/// A descriptor and what it refers to.
fn described(pid: impl Display, descriptor: i32) -> (i32, PathBuf) {
    (descriptor, fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).unwrap_or_default())
}

/// How to start an instance.
pub(crate) struct Setup {
    listen: SocketAddr,
    inherit: bool,
    prefix: String,
    env: Vec<(String, String)>,
    stderr: Option<OwnedFd>,
    listener: Option<TcpListener>,
    socket: Option<String>,
    directory: Directory,
}

/// An instance in the foreground. End it by [`Instance::end`]. If it is dropped otherwise it is killed, and
/// reported if the test fails.
pub(crate) struct Instance {
    pub(crate) addr: SocketAddr,
    /// The address that it listens on, whatever address its clients use.
    bound: SocketAddr,
    /// Its PORT, if that is a Unix socket.
    socket: Option<String>,
    pub(crate) directory: Directory,
    child: Child,
    /// The serving process: the child, or its successor.
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
    /// Listens on 127.0.0.1, on a port of the kernel's choice that is bound here and inherited as descriptor
    /// 3.
    pub(crate) fn new() -> Self {
        Self::listening(([127, 0, 0, 1], 0).into())
    }

    /// Does the same on this address.
    pub(crate) fn listening(listen: SocketAddr) -> Self {
        let directory = Directory::new();
        Self {
            listen,
            inherit: true,
            prefix: String::new(),
            env: Vec::new(),
            stderr: None,
            listener: None,
            socket: None,
            directory,
        }
    }

    /// Lets the program bind `address` itself (the arguments must have `-b` or `-6` where needed).
    pub(crate) fn binding(address: SocketAddr) -> Self {
        Self { inherit: false, ..Self::listening(address) }
    }

    /// Lets the program make this Unix socket, which is then its PORT.
    pub(crate) fn on_socket(socket: &str) -> Self {
        Self { socket: Some(socket.to_owned()), ..Self::binding(([127, 0, 0, 1], 0).into()) }
    }

    /// Adds shell words before the program, such as `ulimit -n 20;` or `exec 1>&-;`.
    pub(crate) fn shell(mut self, prefix: &str) -> Self {
        self.prefix = prefix.to_owned();
        self
    }

    /// Passes this listener instead of one that is bound here.
    pub(crate) fn passing(listener: TcpListener) -> Self {
        let at = listener.local_addr().expect("a bound socket has an address");
        Self { listener: Some(listener), ..Self::listening(at) }
    }

    /// Passes this listener for its Unix socket, as a service manager would.
    pub(crate) fn kept(self, listener: OwnedFd) -> Self {
        Self { listener: Some(TcpListener::from(listener)), inherit: true, ..self }
    }

    /// Uses this as its stderr instead of a file.
    pub(crate) fn stderr(self, stderr: impl Into<OwnedFd>) -> Self {
        Self { stderr: Some(stderr.into()), ..self }
    }

    /// Uses this hosts file. Needs root for a mount namespace of its own.
    pub(crate) fn hosts(self, hosts: &str) -> Self {
        let path = self.directory.file("hosts", hosts);
        self.mounting(&format!("mount --bind {} /etc/hosts;", path.display()))
    }

    /// Adds shell words before the program, such as `mount ...;`, in a mount namespace of its own. Needs
    /// root.
    pub(crate) fn mounting(mut self, prefix: &str) -> Self {
        self.prefix.push_str(prefix);
        self.env.push(("UNSHARE".into(), "unshare -m".into()));
        self
    }

    /// Uses this directory (for the control socket, home and logs), to share it with another instance or
    /// start again in it.
    pub(crate) fn within(mut self, directory: Directory) -> Self {
        self.directory = directory;
        self
    }

    /// The address that it will listen on; the port may still be 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    /// The directory for the instance's files.
    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Starts `balance -f ARGS`; `PORT` among the arguments is replaced by the port. Returns when it answers
    /// `show`.
    #[track_caller]
    pub(crate) fn start<S: ToString>(self, args: impl IntoIterator<Item = S>) -> Instance {
        let mut instance = self.spawn(args);
        instance.await_serving();
        instance
    }

    /// Does the same without waiting.
    #[track_caller]
    pub(crate) fn spawn<S: ToString>(self, args: impl IntoIterator<Item = S>) -> Instance {
        let Self { listen, inherit, prefix, env, stderr, listener, socket, directory } = self;
        let listener =
            inherit.then(|| listener.unwrap_or_else(|| TcpListener::bind(listen).expect("a free port")));
        let addr = listener
            .as_ref()
            .filter(|_| socket.is_none())
            .map_or(listen, |l| l.local_addr().expect("a bound socket has an address"));
        let port = socket.clone().unwrap_or_else(|| addr.port().to_string());
        let args =
            args.into_iter().map(|a| a.to_string()).map(|a| if a == "PORT" { port.clone() } else { a });
        let args: Vec<OsString> = args.map(OsString::from).collect();
        // The listener is passed as stdin, because that needs no unsafe code here and is not inherited by
        // another test's child.
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
        let stderr = stderr.map_or_else(|| output("stderr").into(), Stdio::from);
        command.stdout(output("stdout")).stderr(stderr);
        command.stdin(listener.map_or_else(Stdio::null, |listener| OwnedFd::from(listener).into()));
        let argv = format!("balance -f {args:?} (port {port}, {prefix:?})");
        // A successor is the child of the process before it; when that has ended, it becomes ours.
        set_child_subreaper(Some(getpid())).expect("Linux has it");
        let child = command.spawn().expect("sh is everywhere");
        let pid = i32::try_from(child.id()).expect("a pid");
        Instance { addr, bound: addr, socket, directory, child, pid, argv, baseline: 0, ended: false }
    }
}

impl Instance {
    /// The usual start: `balance -f ARGS` on a port of 127.0.0.1.
    #[track_caller]
    pub(crate) fn start<S: ToString>(args: impl IntoIterator<Item = S>) -> Self {
        Setup::new().start(args)
    }

    /// Starts an instance with these channels in one group.
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
        if self.asks_for_http() {
            // It serves HTTP a moment later, and has more descriptors then.
            eventually("it serves HTTP", || self.has_thread("http").then_some(()));
        }
        eventually("no session is left", || (!self.has_thread("session")).then_some(()));
        // The descriptor of the last question may still be closing.
        let mut counts = [usize::MAX; 4];
        self.baseline = eventually("a steady number of descriptors", || {
            counts.rotate_left(1);
            counts[3] = self.descriptors();
            counts.iter().all(|count| *count == counts[3]).then_some(counts[3])
        });
    }

    /// Is `--http` among its arguments, or in a service file in its directory?
    fn asks_for_http(&self) -> bool {
        let says = |file: fs::DirEntry| {
            let is_small = file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() < 1 << 20);
            is_small && fs::read_to_string(file.path()).is_ok_and(|text| text.contains("* --http "))
        };
        self.argv.contains("\"--http\"")
            || self.argv.contains("\"--file\"")
                && fs::read_dir(self.directory.path()).is_ok_and(|files| files.flatten().any(says))
    }

    /// Does it have a thread with this name?
    pub(crate) fn has_thread(&self, name: &str) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).expect("it runs");
        threads.flatten().any(|thread| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|called| called.trim_end() == name)
        })
    }

    pub(crate) fn port(&self) -> String {
        self.socket.clone().unwrap_or_else(|| self.addr.port().to_string())
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.addr)
    }

    /// Connects and receives the name (one character) of its channel; keeps the connection.
    #[track_caller]
    pub(crate) fn named(&self) -> (Client, String) {
        let mut client = self.connect();
        let name = client.recv(1);
        (client, String::from_utf8_lossy(&name).into_owned())
    }

    /// The names of the channels that `n` clients get, one after another.
    #[track_caller]
    pub(crate) fn names(&self, n: usize) -> String {
        (0..n).map(|_| self.named().1).collect()
    }

    /// Runs `balance -c CMD PORT`.
    #[track_caller]
    pub(crate) fn ctl(&self, command: &str) -> Finished {
        // The address is not always known here, and for a look the port alone is enough.
        let bind = if command == "show" { Vec::new() } else { self.bind_option() };
        Run::balance(&self.directory).args(bind).args(["-c", command, &self.port()]).finish()
    }

    /// Runs `balance -i PORT` with this input.
    #[track_caller]
    pub(crate) fn shell(&self, input: impl AsRef<[u8]>) -> Finished {
        Run::balance(&self.directory)
            .args(self.bind_option())
            .args(["-i", &self.port()])
            .stdin(input)
            .finish()
    }

    /// `-b` with its address: without it, commands that change something are for an instance on all
    /// addresses.
    pub(crate) fn bind_option(&self) -> Vec<String> {
        let ip = self.bound.ip();
        if ip.is_unspecified() || self.socket.is_some() {
            Vec::new()
        } else {
            vec!["-b".into(), ip.to_string()]
        }
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

    /// Waits until `fact` is true of `show`.
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

    /// Waits for its end; returns the exit code, or 128 + the signal.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> i32 {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(code) = self.poll_end() {
                self.ended = true;
                return code;
            }
            assert!(Instant::now() < end, "it does not end");
            pause();
        }
    }

    fn poll_end(&mut self) -> Option<i32> {
        if self.is_child() {
            let status = self.child.try_wait().expect("our own child")?;
            return Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
        }
        // A successor is ours after the process before it has ended; until then it is that process's child.
        let (_, status) = waitpid(Pid::from_raw(self.pid), WaitOptions::NOHANG).ok()??;
        status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
    }

    fn is_child(&self) -> bool {
        i32::try_from(self.child.id()) == Ok(self.pid)
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.poll_end().is_none()
    }

    /// Upgrades it to a new process of the same program, and follows that one; returns the answer.
    #[track_caller]
    pub(crate) fn upgrade(&mut self) -> String {
        let told = self.ctl("upgrade").code(0).stdout;
        let pid = told.strip_prefix("process ").and_then(|rest| rest.split(' ').next()?.parse().ok());
        self.succeed(pid.unwrap_or_else(|| panic!("no process is named: {told}")));
        told
    }

    /// Follows the process with this ID as soon as the one before has ended.
    #[track_caller]
    pub(crate) fn succeed(&mut self, pid: i32) {
        let code = self.wait();
        self.check_outcome(code);
        assert_eq!(code, 0, "exit code of the process that was succeeded");
        (self.pid, self.ended) = (pid, false);
    }

    /// Follows its successor as soon as there is one, even if nobody has said which one it is.
    #[track_caller]
    pub(crate) fn find_successor(&mut self) {
        let before = self.pid;
        let found = eventually("another process answers", || {
            let told = self.ctl("status").stdout;
            let served = told.contains(&format!("from process {before}: "));
            self.processes().into_iter().filter(|&pid| pid != before).max().filter(|_| served)
        });
        self.succeed(found);
    }

    /// Follows the process that goes on after one was killed in an upgrade, or has ended; returns the exit
    /// code of that one.
    #[track_caller]
    pub(crate) fn find_survivor(&mut self) -> i32 {
        let code = self.wait();
        let found = eventually("one process is left", || match self.processes()[..] {
            [pid] => Some(pid),
            _ => None,
        });
        (self.pid, self.ended) = (found, false);
        eventually("it answers", || (self.ctl("show").code == 0).then_some(()));
        code
    }

    /// All processes of this instance: the one that serves, those that take over from it, and those that are
    /// ending.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let names = fs::read_dir("/proc").expect("Linux has it").flatten();
        let pids = names.filter_map(|name| name.file_name().to_str()?.parse().ok());
        pids.filter(|&pid| self.is_ours(pid)).collect()
    }

    /// Does this process keep its files in our directory?
    fn is_ours(&self, pid: i32) -> bool {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        // Of another test's directory, ours may be the beginning.
        let directory = format!("{}/", self.directory.path().display());
        let is_balance = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("balance"));
        is_balance && environment.windows(directory.len()).any(|part| part == directory.as_bytes())
    }

    /// Its open descriptors, including those of pipes.
    pub(crate) fn open_descriptors(&self) -> impl Iterator<Item = i32> {
        descriptors_of(self.pid)
    }

    /// How many descriptors of its own it has open. Those inherited from the program that runs the tests do
    /// not count, because a successor does not inherit them.
    pub(crate) fn descriptors(&self) -> usize {
        self.open_descriptors()
            .filter(|descriptor| !STRAYS.contains(&described(self.pid, *descriptor)))
            .count()
    }

    /// How many bytes its pipes can hold.
    pub(crate) fn pipe_bytes(&self) -> usize {
        let mut seen = std::collections::BTreeMap::new();
        for descriptor in self.open_descriptors() {
            let path = format!("/proc/{}/fd/{descriptor}", self.pid);
            // Opening it anew gives the same pipe. Others cannot be opened, or are not pipes.
            let Some(name) =
                fs::read_link(&path).ok().filter(|name| name.to_string_lossy().starts_with("pipe:"))
            else {
                continue;
            };
            let nonblocking =
                rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
            if let Ok(pipe) = rustix::fs::open(&path, nonblocking, rustix::fs::Mode::empty()) {
                seen.insert(name, rustix::pipe::fcntl_getpipe_size(&pipe).expect("a pipe"));
            }
        }
        seen.values().sum()
    }

    /// The CPU time that it has used so far, in clock ticks (usually 10 ms).
    pub(crate) fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
    }

    /// Asserts that it uses almost no CPU time, in a window of 300 ms.
    #[track_caller]
    pub(crate) fn assert_idle(&self) {
        // A shared machine may disturb one window, but not five in a row; a busy loop shows in all of them.
        let mut used = 0;
        // An instance that checks its channels fifty times a second is not idle; a busy loop takes thirty
        // ticks.
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

    /// The standard epilogue: all clients are gone, so nothing may be left of them, and SIGTERM ends it
    /// cleanly.
    #[track_caller]
    pub(crate) fn end(self) {
        self.await_show("every c is 0", |rows| rows.iter().all(|row| row.c == 0));
        eventually("descriptors are back at the baseline", || {
            (self.descriptors() <= self.baseline).then_some(())
        });
        // A check that has just ended waits for its server to close, for at most a second.
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

    /// Ends an instance that cannot answer `show` any more, or that still has clients.
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

    /// Waits for the end of an instance that got the command `kill`.
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

    /// Sockets that it still holds although the other side is gone.
    fn half_dead(&self) -> Vec<String> {
        self.sockets().into_iter().filter(|line| matches!(state(line), Some("05" | "08"))).collect()
    }

    /// How many of its connects to this address are not answered yet.
    pub(crate) fn dials(&self, to: SocketAddr) -> usize {
        let port = format!(":{:04X}", to.port());
        let is_to = |line: &String| line.split_whitespace().nth(2).is_some_and(|to| to.ends_with(&port));
        self.sockets().into_iter().filter(|line| state(line) == Some("02") && is_to(line)).count()
    }

    /// Its TCP sockets, as lines of the kernel's table.
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
            // Thousands of sockets in TIME_WAIT, which belong to no process, would make this slow.
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
            if let Some(pid) = Pid::from_raw(self.pid).filter(|_| !self.is_child()) {
                let _ = kill_process(pid, Signal::KILL);
                let _ = waitpid(Some(pid), WaitOptions::empty());
            }
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

    /// The row in the contract's format.
    pub(crate) fn text(&self) -> String {
        let (ip, port) = self.address.rsplit_once(':').expect("an address has a port");
        let Self { group, policy, channel, state, c, totalc, maxc, sent, rcvd, .. } = self;
        format!(
            "{group:>3} {policy:>4} {channel:>2} {state:>3} {ip:>16} {port:>5} {c:>4} {totalc:>11} {maxc:>4} {sent:>11} {rcvd:>11}\n"
        )
    }
}

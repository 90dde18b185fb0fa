//! Hosts for a test: each has a network, a file system of its own below /run, and a process whose end ends
//! all others.
//!
//! Knows: namespaces, how balance gets there. Never: who moves addresses.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::harness::{BALANCE, Finished, Run, Server, eventually};

/// What is in PATH, and no variable else, but for `sh`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Files of `dist` have times of less than a second, which a machine at its limit does not keep: an address would move that should stay.
/// With `PAIR_TIMES=shipped` they are left alone, to measure.
pub(super) fn shipped(name: &str) -> String {
    let path = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/dist/{}"), name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    if std::env::var("PAIR_TIMES").is_ok_and(|times| times == "shipped") {
        return text;
    }
    let slower = [
        ("timeout 3", "timeout 15"),
        ("timeout 2", "timeout 15"),
        ("timeout 0.3", "timeout 3"),
        ("--max-time 0.3", "--max-time 3"),
        ("advert_int 0.1", "advert_int 1"),
        ("hold time 3;", "hold time 60;"),
        ("hold-time 3;", "hold-time 60;"),
    ];
    slower.iter().fold(text, |text, (short, long)| text.replace(short, long))
}

/// A host of its own. When it is dropped, all that runs there is killed.
pub(super) struct Node {
    unshare: Child,
    /// The first process there, as we see it.
    init: u32,
}

impl Node {
    /// A host without a link, where `balance` and what `dist` has are installed.
    pub(super) fn new() -> Self {
        let script = format!(
            "mount -t tmpfs tmpfs /run
             mount -t tmpfs -o mode=755 tmpfs /usr/local/sbin
             ln -s {BALANCE} /usr/local/sbin/balance
             mkdir -p /run/bird /run/exabgp
             ip link set lo up
             touch /run/is-up
             while sleep 1000; do :; done"
        );
        let unshare = Command::new("unshare")
            .args(["-nmpf", "--mount-proc", "--kill-child", "sh", "-ec", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare: apt-get install util-linux");
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let init = eventually("a first process", || {
            std::fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()
        });
        let node = Self { unshare, init };
        eventually("a host", || (node.run("test -e /run/is-up").code == 0).then_some(()));
        for name in ["balance-check", "balance-announce"] {
            node.file(&format!("/usr/local/sbin/{name}"), &shipped(name));
            node.does(&format!("chmod 755 /usr/local/sbin/{name}"));
        }
        node
    }

    /// A file there.
    pub(super) fn file(&self, path: &str, text: &str) {
        self.does(&format!("cat >{path} <<'END OF FILE'\n{text}END OF FILE\n"));
    }

    /// Its first process: names its network for `ip link`.
    pub(super) fn pid(&self) -> u32 {
        self.init
    }

    /// A link named `eth0` there with this address and prefix; here its other end, on this bridge.
    pub(super) fn link(&self, here: &str, bridge: &str, address: &str) {
        host(&format!(
            "ip link add {here} type veth peer name eth0 netns {}
             ip link set {here} master {bridge} up",
            self.init
        ));
        self.does(&format!("ip addr add {address} dev eth0; ip link set eth0 up"));
    }

    /// A shell script there, to its end.
    pub(super) fn run(&self, script: &str) -> Finished {
        let init = self.init.to_string();
        let words = [
            "-t",
            &init,
            "-n",
            "-m",
            "-p",
            "env",
            "-i",
            "LC_ALL=C",
            &format!("PATH={PATH}"),
            "sh",
            "-ec",
            script,
        ];
        Run::new("nsenter").args(words).finish()
    }

    /// The same, which has to succeed; what it says.
    #[track_caller]
    pub(super) fn does(&self, script: &str) -> String {
        self.run(script).code(0).stdout
    }

    /// A program that stays; what it says goes to a file of this name in /run.
    #[track_caller]
    pub(super) fn start(&self, name: &str, command: &str) {
        // The file is there, and has nothing of the one before, when this comes back.
        self.does(&format!(
            ": >/run/{name}.log; {command} >>/run/{name}.log 2>&1 & echo $! >/run/pid.{name}"
        ));
    }

    /// What the program that was started under this name has said.
    pub(super) fn said(&self, name: &str) -> String {
        self.does(&format!("cat /run/{name}.log"))
    }

    /// Starts the instance whose service `web` has these channels.
    #[track_caller]
    pub(super) fn serve(&self, channels: &str) {
        self.does(&format!("echo 'web: -H 80 {channels} %' >/run/services"));
        self.serve_again();
    }

    /// The same after its end.
    #[track_caller]
    pub(super) fn serve_again(&self) {
        self.start("balance", "balance -f --http 7780 --file /run/services");
        eventually("it is ready", || (self.run("balance -c ready web").code == 0).then_some(()));
    }

    /// Is this one of its addresses?
    pub(super) fn has(&self, address: &str) -> bool {
        self.does("ip -o addr show dev eth0").contains(&format!(" {address}/"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let told = self.run("tail -n 40 /run/*.log; ip addr; ip route").stdout;
            eprintln!("--- a host\n{told}---");
        }
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// A shell script on the host of the test.
#[track_caller]
pub(super) fn host(script: &str) -> String {
    Run::new("sh").env("PATH", PATH).args(["-ec", script]).finish().code(0).stdout
}

/// Three servers at these addresses, port 8080, that say their names.
pub(super) fn servers() -> Vec<Server> {
    let named = |(last, name)| Server::named_at(SocketAddr::from(([10, 77, 0, last], 8080)), name);
    [(21, "a"), (22, "b"), (23, "c")].into_iter().map(named).collect()
}

/// The same as words for balance.
pub(super) const CHANNELS: &str = "10.77.0.21:8080 10.77.0.22:8080 10.77.0.23:8080";

/// A connection from this address, and the name of the server that it came to. `None`: nobody answers within a moment.
pub(super) fn visit(from: Ipv4Addr, to: SocketAddr) -> Option<(TcpStream, char)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address of ours");
    socket.connect_timeout(&to.into(), Duration::from_millis(300)).ok()?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let mut name = [0];
    stream.read_exact(&mut name).ok()?;
    Some((stream, name[0].into()))
}

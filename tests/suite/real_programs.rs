//! Programs that people run behind a load balancer, with their own clients, through balance.
//!
//! They come from Debian. If one is missing, the test fails and prints the line that installs it, because a
//! skipped test proves nothing.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Direction, Directory, Instance, Run, Stream, eventually, own_address, pause};

const PACKAGES: &str = "redis-server redis-tools nginx-light curl iperf3 openssh-server openssh-client \
                        postgresql rsync netcat-openbsd haproxy stunnel4 libnginx-mod-stream apache2-bin varnish \
                        dovecot-imapd postfix gnutls-bin";

/// Where a program is.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/bin"]);
    let found = places.find_map(|place| Some(Path::new(place).join(name)).filter(|path| path.is_file()));
    found.unwrap_or_else(|| panic!("{name} is missing: run ci/test, or apt-get install -y {PACKAGES}"))
}

/// A server program, killed at the end of the test.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) port: u16,
    pub(crate) directory: Directory,
}

impl Daemon {
    /// Starts it with what `args` makes of its port and directory, and waits until it listens. The port is looked for and
    /// then taken by somebody who is not us: when another program was faster, try the next.
    pub(crate) fn start(name: &str, args: impl Fn(u16, &Path) -> Vec<String>) -> Self {
        let program = program(name);
        for _ in 0..5 {
            let directory = Directory::new();
            // Not one that the system gives to others meanwhile.
            let port = own_address().port();
            let output = |name: &str| fs::File::create(directory.path().join(name)).expect("our own file");
            let mut command = Command::new(&program);
            command.args(args(port, directory.path())).current_dir(directory.path()).stdin(Stdio::null());
            command.stdout(output("stdout")).stderr(output("stderr"));
            let child = command.spawn().expect("it is there");
            let mut daemon = Self { child, port, directory };
            let is_up = eventually("it listens or ends", || {
                let ended = daemon.child.try_wait().expect("our own child").is_some();
                let listens = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
                (ended || listens).then_some(!ended)
            });
            if is_up {
                return daemon;
            }
            eprintln!("{name} ended:\n{}{}", daemon.said("stdout"), daemon.said("stderr"));
        }
        panic!("{name} does not start");
    }

    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    pub(crate) fn channel(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Asked first: a program that is killed leaves its own children behind, as nginx does.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        let end = Instant::now() + Duration::from_secs(5);
        while asked && Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            pause();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(String::from).to_vec()
}

#[test]
fn redis_and_its_benchmark() {
    let redis = || {
        Daemon::start("redis-server", |port, dir| {
            let dir = dir.display().to_string();
            strings(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir", &dir])
        })
    };
    let (first, second) = (redis(), redis());
    let instance = Instance::before(&[&first.channel(), &second.channel()]);
    let benchmark = Run::new(program("redis-benchmark"))
        .args([
            "-p",
            &instance.port(),
            "-n",
            "20000",
            "-c",
            "50",
            "-P",
            "8",
            "-d",
            "512",
            "-t",
            "ping,set,get,lpush,lrange_100",
        ])
        .args(["--csv"])
        .within(Duration::from_secs(120))
        .finish()
        .code(0);
    assert!(benchmark.stdout.contains("LRANGE") && !benchmark.stderr.contains("rror"), "{benchmark}");
    // A value of every byte there is, written and read through the balancer.
    instance.ctl("disable 1").code(0);
    let value: String =
        Stream::new(5, Direction::Sent).bytes(0, 60_000).iter().map(|b| format!("{b:02x}")).collect();
    let cli = |args: &[&str]| {
        Run::new(program("redis-cli"))
            .args(["-p", &instance.port()])
            .args(args)
            .stdin(&value)
            .finish()
            .code(0)
    };
    cli(&["-x", "set", "key"]).out("OK\n");
    cli(&["get", "key"]).out(&format!("{value}\n"));
    instance.end();
}

#[test]
fn nginx_and_curl() {
    let size = 20 << 20;
    let content = Stream::new(6, Direction::Rcvd).bytes(0, size);
    let nginx = Daemon::start("nginx", |port, dir| {
        let dir = dir.display();
        fs::write(format!("{dir}/file"), &content).expect("our own file");
        let user = if crate::harness::is_root() { "user root;" } else { "" };
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {dir}/{kind};"))
            .concat();
        let conf = format!(
            "daemon off; {user} worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
            events {{ }}
            http {{ access_log off; {temp} client_max_body_size 100m; root {dir};
                server {{ listen 127.0.0.1:{port}; location /up {{ dav_methods PUT; }} }} }}"
        );
        fs::write(format!("{dir}/nginx.conf"), conf).expect("our own file");
        strings([
            "-p",
            &dir.to_string(),
            "-c",
            &format!("{dir}/nginx.conf"),
            "-e",
            &format!("{dir}/error.log"),
        ])
    });
    let instance = Instance::before(&[&nginx.channel()]);
    let directory = Directory::new();
    let url = format!("http://127.0.0.1:{}", instance.port());
    let got = directory.path().join("got");
    let curl = |args: &[&str]| {
        Run::new(program("curl"))
            .args(["-sS", "--fail", "--noproxy", "*"])
            .args(args)
            .within(Duration::from_secs(90))
            .finish()
    };
    for extra in [&[][..], &["--limit-rate", "20M"], &["--http1.0"], &["-r", "0-"]] {
        curl(&[extra, &["-o", &got.display().to_string(), &format!("{url}/file")]].concat()).code(0);
        assert!(fs::read(&got).expect("the download") == content, "{extra:?}: the file differs");
    }
    let up = directory.path().join("up");
    fs::write(&up, &content).expect("our own file");
    curl(&["-T", &up.display().to_string(), &format!("{url}/up")]).code(0);
    assert!(
        fs::read(nginx.directory.path().join("up")).expect("the upload") == content,
        "the upload differs"
    );
    // Parallel connections.
    let urls: Vec<_> = (0..20).map(|_| format!("{url}/file")).collect();
    let mut args = vec!["-Z", "--parallel-immediate"];
    args.extend(urls.iter().flat_map(|url| ["-o", "/dev/null", url.as_str()]));
    curl(&args).code(0);
    instance.end();
}

#[test]
fn iperf3_in_both_directions_and_over_two_hash_channels() {
    let iperf =
        || Daemon::start("iperf3", |port, _| strings(["-s", "-B", "127.0.0.1", "-p", &port.to_string()]));
    let (first, second) = (iperf(), iperf());
    // Its connection for control and those for data must reach the same server.
    let instance = Instance::before(&[&first.channel(), &second.channel(), &"%"]);
    for extra in [&["--bidir"][..], &["-R", "-P4"], &["-P4"]] {
        let run = Run::new(program("iperf3"))
            .args(["-c", "127.0.0.1", "-p", &instance.port(), "-t", "1"])
            .args(extra)
            .within(Duration::from_secs(60))
            .finish()
            .code(0);
        assert!(run.stdout.contains("iperf Done."), "{run}");
        instance.await_show("all connections ended", |rows| rows.iter().all(|row| row.c == 0));
    }
    let used = instance.show().iter().filter(|row| row.totalc > 0).count();
    assert_eq!(used, 1, "one client, one channel");
    instance.end();
}

/// A server of OpenSSH, and who may come in.
pub(crate) struct Sshd {
    pub(crate) daemon: Daemon,
    keys: Directory,
}

impl Sshd {
    pub(crate) fn start() -> Self {
        let keys = Directory::new();
        let keygen = |name: &str| {
            let path = keys.path().join(name);
            Run::new(program("ssh-keygen"))
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&path)
                .finish()
                .code(0);
            path
        };
        let (host_key, user_key) = (keygen("host"), keygen("user"));
        if crate::harness::is_root() {
            // Where Debian's sshd puts its privileges down.
            let _ = fs::create_dir_all("/run/sshd");
        }
        let daemon = Daemon::start("sshd", |port, dir| {
            let conf = format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}.pub\nPidFile {}/pid\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n\
                 SetEnv HOME={}\n",
                host_key.display(),
                user_key.display(),
                dir.display(),
                // The user's shell reads no files of the user's: what they do, and how long, is the machine's affair.
                dir.display()
            );
            let path = dir.join("sshd_config");
            fs::write(&path, conf).expect("our own file");
            strings(["-D", "-e", "-f", &path.display().to_string()])
        });
        Self { daemon, keys }
    }

    /// Of a client that may come in and asks nobody anything.
    pub(crate) fn options(&self) -> Vec<String> {
        let options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "LogLevel=ERROR",
        ];
        let key = self.keys.path().join("user").display().to_string();
        let options = options.into_iter().flat_map(|option| ["-o", option]);
        ["-F", "none", "-i", &key].into_iter().chain(options).map(str::to_owned).collect()
    }
}

#[test]
fn openssh_copies_files_both_ways() {
    let sshd = Sshd::start();
    let instance = Instance::before(&[&sshd.daemon.channel()]);
    let directory = Directory::new();
    let content = Stream::new(7, Direction::Sent).bytes(0, 30 << 20);
    let [here, there, back] = ["here", "there", "back"].map(|name| directory.path().join(name));
    fs::write(&here, &content).expect("our own file");
    let user = Run::new("id").arg("-un").finish().stdout.trim().to_owned();
    let remote = |path: &Path| format!("{user}@127.0.0.1:{}", path.display());
    let scp = |from: &str, to: &str| {
        let run = Run::new(program("scp")).args(["-q", "-P", &instance.port()]).args(sshd.options());
        let run = run.args([from, to]).within(Duration::from_secs(90)).finish();
        assert_eq!(run.code, 0, "{run}\nsshd: {}", sshd.daemon.said("stderr"));
    };
    scp(&here.display().to_string(), &remote(&there));
    assert!(fs::read(&there).expect("the copy") == content, "the copy differs");
    scp(&remote(&there), &back.display().to_string());
    assert!(fs::read(&back).expect("the copy") == content, "the copy back differs");
    instance.end();
}

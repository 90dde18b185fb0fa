//! Sessions of real programs, each of which lives through all upgrades that happen while it lasts.
//!
//! Source: docs/upgrade.md.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{
    Direction, Directory, Finished, Instance, Run, Server, Setup, Stream, eventually, own_address,
};
use crate::pausing::Postgres;
use crate::real_programs::{Daemon, Sshd, program, strings};

/// So long the sessions take that end by themselves, in seconds.
const LASTS: u32 = 3;
const UPGRADES: usize = 20;

/// Tells the sessions that would go on for ever to come to their end, however the test ends.
struct Stop {
    is_over: Arc<AtomicBool>,
    file: PathBuf,
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // If it cannot be made, the sessions' own deadlines end them.
        let _ = fs::write(&self.file, "");
    }
}

fn run(name: &str) -> Run {
    Run::new(program(name)).within(Duration::from_secs(120))
}

fn place(address: SocketAddr) -> (String, String) {
    (address.ip().to_string(), address.port().to_string())
}

/// The numbers from 1 on, each on its line, and then "end".
#[track_caller]
fn assert_counts(who: &str, said: &str) {
    let mut lines = said.lines();
    assert_eq!(lines.next_back(), Some("end"), "{who}");
    let mut n = 0;
    for line in lines {
        n += 1;
        assert_eq!(line, n.to_string(), "{who}");
    }
    // How fast it counts is the machine's affair; but it has to go on from upgrade to upgrade.
    assert!(n > UPGRADES, "{who} came to {n}");
}

/// Listens to a channel of Redis. It must not have to come back for it.
struct Subscriber {
    child: Child,
    said: PathBuf,
}

impl Subscriber {
    fn of(address: SocketAddr, directory: &Directory) -> Self {
        let said = directory.path().join("subscriber");
        let (host, port) = place(address);
        let child = Command::new(program("redis-cli"))
            .args(["-h", &host, "-p", &port, "subscribe", "news"])
            .stdin(Stdio::null())
            .stdout(File::create(&said).expect("our own file"))
            .spawn()
            .expect("it is there");
        let this = Self { child, said };
        eventually("it has subscribed", || this.words().contains(&"subscribe".to_owned()).then_some(()));
        this
    }

    fn words(&self) -> Vec<String> {
        fs::read_to_string(&self.said).expect("our own file").lines().map(str::to_owned).collect()
    }

    fn publish(address: SocketAddr, message: &str) {
        let (host, port) = place(address);
        let cli = run("redis-cli").args(["-h", &host, "-p", &port, "publish", "news", message]);
        cli.finish().code(0).out("1\n");
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Files of all sizes.
fn make_tree(at: &Path) {
    let content = Stream::new(11, Direction::Sent).bytes(0, 1 << 20);
    for n in 0..120 {
        let directory = at.join(format!("d{}", n % 7));
        fs::create_dir_all(&directory).expect("our own directory");
        let size = [0, 1, 700, 40_000, 300_000, 1 << 20][n % 6];
        fs::write(directory.join(format!("f{n}")), &content[content.len() - size..]).expect("our own file");
    }
}

/// `cksum` of each file in it.
fn sums(of: &Path) -> String {
    let script = format!("cd {} && find . -type f | sort | xargs cksum", of.display());
    Run::new("sh").args(["-ec", &script]).finish().code(0).stdout
}

#[test]
fn sessions_of_real_programs_live_through_twenty_upgrades() {
    let directory = Directory::new();
    let path = |name: &str| directory.path().join(name);
    let is_over = Arc::new(AtomicBool::new(false));
    let redis = Daemon::start("redis-server", |port, dir| {
        let dir = dir.display().to_string();
        strings(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir", &dir])
    });
    let iperf =
        Daemon::start("iperf3", |port, _| strings(["-s", "-B", "127.0.0.1", "-p", &port.to_string()]));
    let sshd = Sshd::start();
    let postgres = Postgres::start();
    let rsync = Daemon::start("rsync", |port, dir| {
        let owner = if crate::harness::is_root() { "uid = root\ngid = root\n" } else { "" };
        let conf = format!("use chroot = no\n{owner}[tree]\npath = {}\nread only = no\n", dir.display());
        fs::write(dir.join("conf"), conf).expect("our own file");
        let conf = format!("--config={}/conf", dir.display());
        strings(["--daemon", "--no-detach", &conf, "--address=127.0.0.1", &format!("--port={port}")])
    });
    // It hears its client out, and then goes on to speak.
    let counter = Server::with({
        let is_over = Arc::clone(&is_over);
        move |mut stream, _| {
            let mut heard = String::new();
            if stream.read_to_string(&mut heard).is_ok() && heard == "all that there is to say\n" {
                let mut n = 0;
                while !is_over.load(Ordering::SeqCst) && writeln!(stream, "{}", n + 1).is_ok() {
                    n += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                let _ = writeln!(stream, "end");
            }
        }
    });
    let channels = [
        redis.channel(),
        iperf.channel(),
        sshd.daemon.channel(),
        format!("127.0.0.1:{}", postgres.port),
        rsync.channel(),
        counter.to_string(),
    ];
    let listen: Vec<SocketAddr> = channels.iter().map(|_| own_address()).collect();
    let mut lines = String::new();
    for (n, (at, channel)) in listen.iter().zip(&channels).enumerate() {
        let _ = writeln!(lines, "service-{n}: -b {} {} {channel}", at.ip(), at.port());
    }
    let [redis_at, iperf_at, ssh_at, postgres_at, rsync_at, counter_at] = listen[..] else {
        unreachable!("there are six")
    };
    let setup = Setup::binding(redis_at);
    let file = setup.directory().file("services", &lines);
    let mut instance: Instance = setup.start(["--file", &file.display().to_string()]);
    postgres.run(&format!("pgbench -q -i -h 127.0.0.1 -p {} -U postgres postgres", postgres.port));
    make_tree(&path("tree"));

    let subscriber = Subscriber::of(redis_at, &directory);
    let mut published = Vec::new();
    std::thread::scope(|scope| {
        let stop = Stop { is_over: Arc::clone(&is_over), file: path("stop") };
        let begun = path("begun");
        let count = format!(
            "touch {}; i=0; while [ ! -e {} ]; do i=$((i+1)); echo $i; sleep 0.01; done; echo end",
            begun.display(),
            stop.file.display()
        );
        let sshd = &sshd;
        let counting = scope.spawn(move || {
            let (host, port) = place(ssh_at);
            let ssh = run("ssh").args(sshd.options()).args(["-p", &port, &host, &count]);
            assert_counts("ssh", &ssh.finish().code(0).stdout);
        });
        let half = scope.spawn(move || {
            let (host, port) = place(counter_at);
            let nc = run("nc").args(["-N", &host, &port]).stdin("all that there is to say\n");
            assert_counts("nc", &nc.finish().code(0).stdout);
        });
        let bench = scope.spawn(move || {
            let (host, port) = place(postgres_at);
            let time = LASTS.to_string();
            run("pgbench")
                .args(["-h", &host, "-p", &port, "-U", "postgres", "-n", "-c", "4", "-T", &time, "postgres"])
                .finish()
                .code(0)
        });
        let iperf = scope.spawn(move || {
            let (host, port) = place(iperf_at);
            let (time, most) = (LASTS.to_string(), "100M");
            run("iperf3")
                .args(["-c", &host, "-p", &port, "--bidir", "-b", most, "-t", &time])
                .finish()
                .code(0)
        });
        let (tree, back) = (path("tree"), path("back"));
        let copy = scope.spawn(move || {
            let url = format!("rsync://{rsync_at}/tree/there/");
            // As slow as it takes to last.
            let copy = |from: &str, to: &str| {
                run("rsync").args(["-a", "--bwlimit=12m", from, to]).finish().code(0).out("");
            };
            copy(&format!("{}/", tree.display()), &url);
            copy(&url, &format!("{}/", back.display()));
        });
        // A login takes its time: the shell of the user reads files of its own first.
        eventually("ssh counts", || (begun.exists() || counting.is_finished()).then_some(()));
        let mut upgrades = 0;
        while upgrades < UPGRADES || !(bench.is_finished() && iperf.is_finished() && copy.is_finished()) {
            instance.upgrade();
            upgrades += 1;
            let message = format!("message {upgrades}");
            Subscriber::publish(redis_at, &message);
            published.push(message);
            // Whoever has ended before its time has failed, and says so.
            if counting.is_finished() || half.is_finished() {
                break;
            }
        }
        drop(stop);
        let done = |finished: std::thread::Result<Finished>| {
            finished.unwrap_or_else(|e| std::panic::resume_unwind(e))
        };
        let (bench, iperf) = (done(bench.join()), done(iperf.join()));
        assert!(!bench.stderr.contains("rror") && !bench.stderr.contains("abort"), "{bench}");
        assert!(iperf.stdout.contains("iperf Done.") && !iperf.stderr.contains("rror"), "{iperf}");
        println!("{upgrades} upgrades");
    });
    // What is published has come, in order, and by the one subscription.
    let is_last = |words: &Vec<String>| words.last() == published.last();
    let words = eventually("the last message comes", || Some(subscriber.words()).filter(is_last));
    assert_eq!(words.iter().filter(|word| *word == "subscribe").count(), 1, "{words:?}");
    let came: Vec<_> = words.iter().filter(|word| word.starts_with("message ")).cloned().collect();
    // "message" is also what Redis calls the kind of it.
    assert_eq!(came.into_iter().filter(|word| *word != "message").collect::<Vec<_>>(), published);
    drop(subscriber);
    let sums_of_tree = sums(&path("tree"));
    assert_eq!(sums(&rsync.directory.path().join("there")), sums_of_tree);
    assert_eq!(sums(&path("back")), sums_of_tree);
    let (host, port) = place(postgres_at);
    let sql = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), \
               (select sum(tbalance) from pgbench_tellers) = (select sum(bbalance) from pgbench_branches), \
               (select count(*) > 100 from pgbench_history)";
    let psql = run("psql").args(["-h", &host, "-p", &port, "-U", "postgres", "-qAt", "-c", sql]);
    psql.finish().code(0).out("t|t|t\n");
    assert!(!instance.stderr().contains("panicked"), "{}", instance.stderr());
    instance.end();
}

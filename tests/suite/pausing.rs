//! Channels that an operator pauses: clients wait, and are served after `resume`.
//!
//! Source: docs/pause.md.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::failover::{client_ip, name_of};
use crate::harness::{
    Client, Instance, Over, Received, Revivable, Run, Server, Setup, eventually, own_address, unless_held_up,
};
use crate::queue::{wait_as, waiting};

#[track_caller]
fn says(instance: &Instance, command: &str, answer: &str) {
    instance.ctl(command).code(0).out(&format!("{answer}\n"));
}

/// The column `queue`, of services of a file as well.
fn in_line(instance: &Instance) -> Vec<usize> {
    let status = instance.ctl("status").code(0).stdout;
    let lines = status.lines().skip(1).filter(|line| line.starts_with(' '));
    let column = |line: &str| line.split_whitespace().nth(8).and_then(|word| word.parse().ok());
    lines.map(|line| column(line).expect("a number in the column queue")).collect()
}

#[track_caller]
fn await_sessions(instance: &Instance, n: usize) {
    eventually("so many sessions", || {
        (instance.ctl("sessions").code(0).stdout.lines().count() == n + 1).then_some(())
    });
}

#[test]
fn two_hundred_clients_wait_and_are_served_in_the_order_in_which_they_came() {
    const CLIENTS: usize = 200;
    let order = Arc::new(Mutex::new(Vec::new()));
    let server = Server::with({
        let order = Arc::clone(&order);
        move |mut stream, number| {
            let mut word = [0; 3];
            if stream.read_exact(&mut word).is_ok() {
                order.lock().expect("whole").push((number, String::from_utf8_lossy(&word).into_owned()));
                let _ = std::io::Write::write_all(&mut stream, &word);
                let _ = stream.read(&mut [0]);
            }
        }
    });
    // One worker dials in the order in which it is told to.
    let instance = Instance::before(&[&"--workers", &"1", &server]);
    let mut before = instance.connect();
    before.send("own");
    assert_eq!(before.recv(3), b"own");
    says(&instance, "pause", "all channels paused");
    says(&instance, "pause all", "all channels already paused");
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|n| {
            let mut client = instance.connect();
            client.send(format!("{n:03}"));
            client
        })
        .collect();
    eventually("all are in line", || (in_line(&instance) == [CLIENTS]).then_some(()));
    let row = &instance.status()[0];
    assert_eq!((row.state.as_str(), row.why.as_str(), row.totalc), ("ENA", "paused", 1));
    assert_eq!(instance.show()[0].c, 1, "those that are connected live on");
    says(&instance, "resume", "all channels resumed, 200 clients waited");
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.recv(3), format!("{n:03}").as_bytes());
    }
    let mut order = std::mem::take(&mut *order.lock().expect("whole"));
    order.sort_unstable();
    let words: Vec<String> = order.into_iter().map(|(_, word)| word).collect();
    let expected: Vec<String> = (0..CLIENTS).map(|n| format!("{n:03}")).collect();
    assert_eq!(words, [&["own".to_owned()][..], &expected].concat());
    says(&instance, "resume", "no channel was paused");
    drop((before, clients));
    instance.end();
}

#[test]
fn more_than_the_queue_holds_are_turned_away() {
    let a = Server::named("a");
    let instance = Instance::before(&[&"--queue", &"2", &a]);
    says(&instance, "pause 0", "channel 0 paused");
    says(&instance, "pause 0", "channel 0 already paused");
    let (mut first, mut second) = (wait_as(&instance, 1), wait_as(&instance, 2));
    assert_eq!(instance.connect().ending(), Received::End);
    instance.await_losses("1 (queue full 1)");
    says(&instance, "resume 0", "channel 0 resumed, 2 clients waited");
    assert_eq!([name_of(&mut first), name_of(&mut second)], [Some('a'); 2]);
    says(&instance, "resume 0", "channel 0 was not paused");
    drop((first, second));
    instance.end();
}

#[test]
fn who_has_waited_too_long_is_closed_and_the_pause_goes_on() {
    let a = Server::named("a");
    let instance = Instance::before(&[&"--pause-timeout", &"300ms", &a]);
    says(&instance, "pause", "all channels paused");
    assert_eq!(instance.connect().ending(), Received::End);
    instance.await_losses("1 (pause timeout 1)");
    assert_eq!(instance.connect().ending(), Received::End);
    says(&instance, "resume", "all channels resumed");
    assert_eq!(instance.names(1), "a");
    assert_eq!(a.accepted(), 1);
    instance.end();
}

#[test]
fn who_waits_in_the_queue_when_the_pause_comes_is_not_cut_short_by_its_timeout() {
    unless_held_up(200, || {
        let a = Server::named("a");
        let args: [&dyn std::fmt::Display; 5] =
            [&"--queue", &"5", &"--queue-timeout", &"1", &format!("{a}:1")];
        let instance = Instance::before(&args);
        let holder = instance.named();
        let mut in_queue = wait_as(&instance, 1);
        says(&instance, "pause", "all channels paused");
        let mut in_pause = wait_as(&instance, 2);
        // Not a wait for anything: longer than the queue's timeout.
        std::thread::sleep(Duration::from_millis(1_500));
        assert_eq!(in_line(&instance), [2]);
        drop(holder);
        says(&instance, "resume", "all channels resumed, 2 clients waited");
        assert_eq!(name_of(&mut in_queue), Some('a'));
        // After the resume it waits in the queue, as long as there one may.
        assert_eq!(in_pause.ending(), Received::End);
        instance.await_losses("1 (queue timeout 1)");
        drop(in_queue);
        instance.end();
    });
}

#[test]
fn who_leaves_while_it_waits_is_no_channels_client() {
    let a = Server::named("a");
    let instance = Instance::before(&[&a]);
    says(&instance, "pause 0", "channel 0 paused");
    let resets = wait_as(&instance, 1);
    let closes = wait_as(&instance, 2);
    let mut stays = wait_as(&instance, 3);
    resets.rst();
    drop(closes);
    eventually("one is left", || (waiting(&instance) == [1]).then_some(()));
    says(&instance, "resume 0", "channel 0 resumed, 1 client waited");
    assert_eq!(name_of(&mut stays), Some('a'));
    assert_eq!(a.accepted(), 1);
    drop(stays);
    instance.end();
}

#[test]
fn while_one_of_two_is_paused_the_other_takes_all_clients() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&a, &b]);
    says(&instance, "pause 0", "channel 0 paused");
    assert_eq!(instance.names(6), "bbbbbb");
    instance.ctl("disable 1").code(0);
    // Otherwise it would be lost.
    let mut waits = wait_as(&instance, 1);
    says(&instance, "resume 0", "channel 0 resumed, 1 client waited");
    assert_eq!(name_of(&mut waits), Some('a'));
    drop(waits);
    instance.end();
}

#[test]
fn of_a_hash_group_those_wait_whose_channel_is_paused() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&a, &b, &"%"]);
    let name = |host: usize| name_of(&mut Client::connect_from(client_ip(host), instance.addr));
    let home = |letter| (1..250).find(|&host| name(host) == Some(letter)).expect("of 249 clients one");
    let (of_a, of_b) = (home('a'), home('b'));
    says(&instance, "pause 0", "channel 0 paused");
    let mut waits = Client::connect_from(client_ip(of_a), instance.addr);
    eventually("it is in line", || (waiting(&instance) == [1, 0]).then_some(()));
    assert_eq!(name(of_b), Some('b'));
    says(&instance, "resume 0", "channel 0 resumed, 1 client waited");
    assert_eq!(name_of(&mut waits), Some('a'));
    drop(waits);
    instance.end();
}

#[test]
fn a_server_that_is_restarted_during_a_pause_loses_no_client() {
    let mut server = Revivable::new("a");
    let instance = Instance::before(&[
        &"--check",
        &"tcp",
        &"--check-interval",
        &"10ms",
        &"--fail-open=off",
        &"--refuse-when-down",
        &server,
    ]);
    instance.await_health(0, "up");
    says(&instance, "pause", "all channels paused");
    let mut early = instance.connect();
    await_sessions(&instance, 1);
    server.stop();
    eventually("its checks fail", || instance.ctl("status").code(0).stdout.contains(" down ").then_some(()));
    // The port is open, whatever is known of the channel.
    let mut late = instance.connect();
    await_sessions(&instance, 2);
    server.start();
    eventually("its checks succeed", || instance.ctl("status").code(0).stdout.contains(" up ").then_some(()));
    says(&instance, "resume", "all channels resumed, 2 clients waited");
    assert_eq!([name_of(&mut early), name_of(&mut late)], [Some('a'); 2]);
    assert_eq!(instance.losses(), "");
    drop((early, late));
    instance.end();
}

#[test]
fn a_channel_that_is_still_down_after_the_pause_keeps_nobody_waiting() {
    let mut server = Revivable::new("a");
    let instance =
        Instance::before(&[&"--check", &"tcp", &"--check-interval", &"10ms", &"--fail-open=off", &server]);
    instance.await_health(0, "up");
    says(&instance, "pause", "all channels paused");
    let mut waits = instance.connect();
    await_sessions(&instance, 1);
    server.stop();
    eventually("its checks fail", || instance.ctl("status").code(0).stdout.contains(" down ").then_some(()));
    says(&instance, "resume", "all channels resumed, 1 client waited");
    assert_eq!(waits.ending(), Received::End);
    instance.await_losses("1 (no channel up 1)");
    drop(waits);
    instance.end();
}

#[test]
fn after_kill_those_in_line_are_served_when_the_service_is_resumed() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let (first, second) = (own_address(), own_address());
    let setup = Setup::binding(first);
    let text = format!(
        "web: -b {} {} {a}\nother: -b {} {} {b}\n",
        first.ip(),
        first.port(),
        second.ip(),
        second.port()
    );
    let file = setup.directory().file("services", &text);
    let instance = setup.start(["--file", &file.display().to_string()]);
    let other = |command: &str| {
        let (ip, port) = (second.ip().to_string(), second.port().to_string());
        Run::balance(&instance.directory).args(["-b", &ip, "-c", command, &port]).finish().code(0).stdout
    };
    says(&instance, "pause", "all channels paused");
    assert!(other("services").lines().any(|line| line.starts_with("web ") && line.contains(" paused ")));
    let mut waits = Client::connect(first);
    await_sessions(&instance, 1);
    instance.ctl("kill").code(0);
    assert!(std::net::TcpStream::connect(first).is_err(), "the port is free");
    assert_eq!(other("use web; resume"), "using service web\nall channels resumed, 1 client waited\n");
    assert_eq!(name_of(&mut waits), Some('a'));
    drop(waits);
    eventually("it is gone", || (!other("services").contains("web ")).then_some(()));
    instance.terminate();
}

#[test]
fn a_reload_keeps_a_pause_and_a_clean_one_ends_it() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let listen = own_address();
    let setup = Setup::binding(listen);
    let text = |rest: &str| format!("web: -b {} {} {rest}\n", listen.ip(), listen.port());
    let file = setup.directory().file("services", &text(&a.to_string()));
    let instance = setup.start(["--file", &file.display().to_string()]);
    says(&instance, "pause 0", "channel 0 paused");
    let by_hand = |instance: &Instance| -> Vec<String> {
        let status = instance.ctl("status").code(0).stdout;
        status.lines().filter(|line| line.starts_with("changed by hand")).map(str::to_owned).collect()
    };
    assert_eq!(by_hand(&instance), ["changed by hand: group 0 channel 0: paused"]);
    let saved = instance.ctl("save").code(0).stdout;
    assert_eq!(saved, text(&a.to_string()), "a pause is nothing to be saved");
    says(&instance, "pause", "all channels paused");
    assert_eq!(by_hand(&instance), ["changed by hand: paused"]);
    let mut waits = instance.connect();
    await_sessions(&instance, 1);
    // What comes while all is paused is paused as well.
    instance.directory.file("services", &text(&format!("{a} {b}")));
    instance.ctl("reload").code(0).out(&format!("service web: group 0 channel 1: {b} is added\n"));
    assert_eq!(in_line(&instance), [1, 1]);
    instance.ctl("reload clean").code(0).out("service web: is not paused any more\n");
    assert!(name_of(&mut waits).is_some());
    assert_eq!(by_hand(&instance), [""; 0]);
    assert_eq!(instance.names(2).len(), 2);
    drop(waits);
    instance.end();
}

/// PostgreSQL with a data directory of its own, restarted at will. It refuses to run as root.
pub(crate) struct Postgres {
    home: crate::harness::Directory,
    pub(crate) port: u16,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        let this = Self { home: crate::harness::Directory::new(), port: own_address().port() };
        this.run(
            "chmod 755 . && mkdir data && if [ $(id -u) = 0 ]; then chown postgres data; fi && \
             as initdb -D data -A trust -U postgres --no-sync --no-instructions",
        );
        this.run(&this.control("start"));
        this
    }

    /// Its Unix socket.
    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.home.path().join(format!("data/.s.PGSQL.{}", self.port))
    }

    fn control(&self, verb: &str) -> String {
        let options = format!(
            "-p {} -h 127.0.0.1 -k {} -c fsync=off",
            self.port,
            self.home.path().join("data").display()
        );
        format!("as pg_ctl -D data -l data/log -w -m fast -o \"{options}\" {verb}")
    }

    #[track_caller]
    pub(crate) fn run(&self, script: &str) {
        let script = format!(
            "set -e; cd {}; for d in /usr/lib/postgresql/*/bin; do PATH=$d:$PATH; done\n\
             as() {{ if [ $(id -u) = 0 ]; then setpriv --reuid=postgres --regid=postgres --clear-groups \"$@\"; else \"$@\"; fi; }}\n\
             {script}",
            self.home.path().display()
        );
        Run::script(&self.home, &script).within(Duration::from_secs(120)).finish().code(0);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let stop = self.control("stop").replace("-m fast", "-m immediate");
        if !std::thread::panicking() {
            self.run(&stop);
        } else if self.home.path().join("data/postmaster.pid").exists() {
            // A second panic would hide the first one.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.run(&stop)));
        }
    }
}

#[test]
fn a_database_is_restarted_behind_balance_and_no_client_sees_an_error() {
    crate::real_programs::program("psql");
    let database = Postgres::start();
    let instance = Instance::before(&[&format!("127.0.0.1:{}", database.port)]);
    let query = |sql: &str| {
        Run::new(crate::real_programs::program("psql"))
            .args(["-h", "127.0.0.1", "-p", &instance.port(), "-U", "postgres", "-qAt", "-c", sql])
            .within(Duration::from_secs(100))
            .finish()
    };
    query("create table seen (client int, number int)").code(0);
    let stop = AtomicBool::new(false);
    let done = [const { AtomicUsize::new(0) }; 3];
    std::thread::scope(|scope| {
        let _over = Over(&stop);
        for (client, done) in done.iter().enumerate() {
            let (stop, query) = (&stop, &query);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let number = done.load(Ordering::SeqCst);
                    let asked = query(&format!("insert into seen values ({client}, {number})"));
                    if asked.code != 0 {
                        stop.store(true, Ordering::SeqCst);
                    }
                    asked.code(0).out("");
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for _round in 0..2 {
            let more = || {
                let before = done.each_ref().map(|done| done.load(Ordering::SeqCst));
                eventually("each client was served again", || {
                    let all = done
                        .iter()
                        .zip(before)
                        .all(|(done, before)| done.load(Ordering::SeqCst) > before + 1);
                    (all || stop.load(Ordering::SeqCst)).then_some(())
                });
            };
            more();
            says(&instance, "pause; wait 0 30s", "all channels paused\nchannel 0 idle");
            database.run(&database.control("restart"));
            eventually("all wait", || {
                (in_line(&instance) == [3] || stop.load(Ordering::SeqCst)).then_some(())
            });
            says(&instance, "resume", "all channels resumed, 3 clients waited");
            more();
        }
        stop.store(true, Ordering::SeqCst);
    });
    let all: usize = done.iter().map(|done| done.load(Ordering::SeqCst)).sum();
    query("select count(*) from seen").code(0).out(&format!("{all}\n"));
    assert_eq!((instance.losses().as_str(), instance.status()[0].failed), ("", 0));
    instance.end();
}

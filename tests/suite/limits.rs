//! Limits of the whole instance, seen from outside: number of clients, age of a connection. `queue.rs` has
//! the wait queue.
//!
//! Source: docs/compatibility.md, "Limits".

use std::io::Read as _;
use std::time::{Duration, Instant};

use crate::failover::{burst, name_of};
use crate::harness::{Client, Instance, Received, Run, Server, Setup, eventually};

fn lines_about(instance: &Instance, what: &str) -> usize {
    instance.stderr().lines().filter(|line| line.contains(what)).count()
}

#[test]
fn a_client_above_the_limit_waits_in_the_kernel_until_one_leaves() {
    let a = Server::named("a");
    let instance = Instance::before(&[&"--max-connections", &"3", &a]);
    let mut held: Vec<_> = (0..3).map(|_| instance.named()).collect();
    let waiting: Vec<_> = (0..2).map(|_| instance.connect()).collect();
    eventually("a line that says so", || {
        (lines_about(&instance, "event=max_connections") == 1).then_some(())
    });
    assert!(
        waiting.iter().all(|client| client.is_quiet_for(Duration::from_millis(200))),
        "not served, not closed"
    );
    assert_eq!((instance.show()[0].c, a.accepted()), (3, 3));
    for (left, mut client) in (0..2).rev().zip(waiting) {
        drop(held.pop());
        assert_eq!(name_of(&mut client), Some('a'), "served when one has left");
        held.insert(0, (client, String::new()));
        assert_eq!(instance.show()[0].c, 3, "{left} still wait");
    }
    assert_eq!(lines_about(&instance, "event=max_connections"), 1, "told once: {}", instance.stderr());
    assert!(instance.stderr().contains("event=max_connections limit=3"), "{}", instance.stderr());
    drop(held);
    instance.end();
}

#[test]
fn nothing_is_lost_in_a_burst_of_five_times_the_limit() {
    const LIMIT: usize = 8;
    let server = Server::echo();
    let limit = LIMIT.to_string();
    let instance = Instance::before(&[&"--max-connections", &limit, &server]);
    let most = std::sync::atomic::AtomicI64::new(0);
    burst(&instance, 5 * LIMIT, |mut client, i| {
        let text = format!("client {i}");
        client.send(&text);
        assert_eq!(client.recv(text.len()), text.as_bytes());
        most.fetch_max(instance.show()[0].c, std::sync::atomic::Ordering::SeqCst);
        client.shut_wr();
        assert_eq!(client.ending(), Received::End);
    });
    assert!(most.into_inner() <= LIMIT as i64);
    assert_eq!((server.accepted(), instance.show()[0].totalc), (5 * LIMIT, 5 * LIMIT as u64));
    instance.end();
}

#[test]
fn a_limit_of_1_serves_one_after_the_other() {
    let a = Server::named("a");
    let instance = Instance::before(&[&"--max-connections", &"1", &"--workers", &"2", &a]);
    assert_eq!(instance.names(12), "a".repeat(12));
    instance.end();
}

#[test]
fn a_client_that_gave_up_while_it_waited_in_the_kernel_costs_nobody_a_place() {
    let a = Server::named("a");
    let instance = Instance::before(&[&"--max-connections", &"1", &a]);
    let holder = instance.named();
    instance.connect().rst();
    drop(instance.connect());
    let mut last = instance.connect();
    drop(holder);
    assert_eq!(name_of(&mut last), Some('a'));
    drop(last);
    instance.end();
}

#[test]
fn a_busy_connection_ends_when_it_is_old_enough_and_one_without_a_limit_lives_on() {
    let server = Server::echo();
    let instance = Instance::before(&[&"-d", &"--max-lifetime", &"1s", &server]);
    let ageless = Instance::before(&[&server]);
    let mut other = ageless.connect();
    let begin = Instant::now();
    let mut client = instance.connect();
    let (mut sent, mut rcvd) = (0, 0);
    // Never quiet: what ends it is its age.
    let ending = loop {
        if std::io::Write::write_all(&mut client.0, b"x").is_err() {
            break Received::Reset;
        }
        sent += 1;
        match client.read(&mut [0]) {
            Ok(0) => break Received::End,
            Ok(n) => rcvd += n as u64,
            Err(_) => break Received::Reset,
        }
    };
    let lived = begin.elapsed();
    assert!(lived >= Duration::from_millis(900), "a tenth sooner at most: {lived:?} ({ending:?})");
    assert!(lived < Duration::from_secs(15), "{lived:?}");
    let rows = instance.await_show("it is gone", |rows| rows[0].c == 0);
    assert_eq!((rows[0].totalc, rows[0].rcvd), (1, rcvd));
    assert!((sent - 1..=sent).contains(&rows[0].sent), "{} of {sent}", rows[0].sent);
    eventually("it is told once", || (lines_about(&instance, "how=lifetime") == 1).then_some(()));
    other.send("still");
    assert_eq!(other.recv(5), b"still");
    drop((client, other));
    instance.end();
    ageless.end();
}

#[test]
fn a_quiet_connection_that_is_old_enough_ends_cleanly() {
    let server = Server::silent();
    let instance = Instance::before(&[&"--max-lifetime", &"200ms", &server]);
    let begin = Instant::now();
    let mut clients: Vec<_> = (0..20).map(|_| instance.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ending(), Received::End);
    }
    assert!(begin.elapsed() >= Duration::from_millis(180));
    instance.end();
}

#[test]
fn a_wrong_limit_is_told_with_its_option_and_what_is_legal() {
    let directory = crate::harness::Directory::new();
    for (option, value, part) in [
        (
            "--max-connections",
            "-1",
            "--max-connections '-1' is not a number from 0 to 4294967295; 0 means no limit",
        ),
        ("--queue", "many", "--queue 'many' is not a number from 0 to 1000000; 0 means no queue"),
        ("--queue-timeout", "1s", "--queue-timeout needs --queue"),
        (
            "--max-lifetime",
            "0.1ms",
            "--max-lifetime '0.1ms' is out of range; give 1ms to 3650d or 0 for never",
        ),
        (
            "--hash-balance",
            "0.9",
            "--hash-balance '0.9' is not a number from 1 to 100 with at most 3 decimals",
        ),
        (
            "--policy",
            "random",
            "--policy 'random' is not a policy; give one of rr, leastconn, p2c, first, hash",
        ),
        ("--slow-start", "soon", "--slow-start 'soon' is not a time"),
    ] {
        let run = Run::balance(&directory).args([option, value, "-f", "9", "127.0.0.1:9"]).finish();
        run.code(64).out("").err(part);
    }
    let channel = "127.0.0.1:9,weight=257";
    let refused = "weight=257 in [127.0.0.1:9,weight=257] is out of range; give 0 to 256";
    Run::balance(&directory).args(["-f", "9", channel]).finish().code(64).err(refused);
}

#[test]
fn a_limit_of_clients_and_a_line_count_together() {
    // Those in line are clients like others: the limit is for both.
    let a = Server::named("a");
    let args = ["--max-connections", "2", "--queue", "9", "--queue-timeout", "1m", "PORT"];
    let args = args.map(String::from).into_iter().chain([format!("{a}:1")]);
    let instance = Setup::new().start(args);
    let holder = instance.named();
    let mut clients: Vec<_> = (0..3).map(|_| instance.connect()).collect();
    drop(holder);
    for client in &mut clients {
        assert_eq!(name_of(client), Some('a'));
        client.shut_wr();
        assert_eq!(client.ending(), Received::End);
    }
    instance.end();
}

#[test]
fn downloads_that_nobody_reads_leave_the_users_pipes_alone() {
    const DOWNLOADS: usize = 40;
    let server = Server::with(|peer, _| {
        // More than all buffers on the way hold; it ends when the client goes.
        let _ = std::io::copy(&mut std::io::repeat(7).take(1 << 30), &mut &peer);
    });
    let instance = Instance::before(&[&"--workers", &"2", &server]);
    let own = instance.pipe_bytes();
    let clients: Vec<_> = (0..DOWNLOADS).map(|_| Client::connect_narrow(instance.addr)).collect();
    let mut seen = [u64::MAX; 8];
    eventually("all of them stand still", || {
        seen.rotate_left(1);
        seen[7] = instance.show()[0].rcvd;
        (seen[7] > 0 && seen.iter().all(|&bytes| bytes == seen[7])).then_some(())
    });
    // A little one each, and a large one for each worker.
    let most = DOWNLOADS * 64 * 1024 + 2 * 1024 * 1024;
    let took = instance.pipe_bytes() - own;
    // Without splice there are no pipes.
    let least = usize::from(cfg!(all(target_os = "linux", not(portable))));
    assert!((least..=most).contains(&took), "{took} bytes for {DOWNLOADS} downloads");
    drop(clients);
    instance.end();
}

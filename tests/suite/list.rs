//! `--list`: all instances and services that a user can see.
//!
//! Source: docs/control.md, "All instances". `strangers` has what other users see.

use std::fs;
use std::net::SocketAddr;

use rustix::process::Signal;

use crate::harness::{Directory, Finished, Run, Server, Setup, eventually, own_address};

fn list(directory: &Directory) -> Finished {
    Run::balance(directory).arg("--list").finish().code(0)
}

/// The rows, as words, for a listener each.
fn rows(list: &Finished) -> Vec<Vec<&str>> {
    let mut lines = list.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let header = lines.next().expect("a line of names");
    assert_eq!(header, ["port", "address", "pid", "user", "up/channels", "connections", "state", "name"]);
    lines.collect()
}

#[track_caller]
fn assert_row(list: &Finished, at: SocketAddr, pid: i32, rest: [&str; 4]) {
    let (port, ip, pid) = (at.port().to_string(), at.ip().to_string(), pid.to_string());
    let user = Run::new("id").arg("-un").finish().stdout;
    let [up, connections, state, name] = rest;
    let expected = [&port, &ip, &pid, user.trim_end(), up, connections, state, name];
    assert!(rows(list).iter().any(|row| *row == expected), "{expected:?} is not in {list}");
}

fn entries(directory: &Directory) -> usize {
    fs::read_dir(directory.path().join("run")).map_or(0, |names| names.count())
}

#[test]
fn every_service_is_a_line_and_what_does_not_answer_is_listed_too() {
    let server = Server::named("a");
    let [web, other, single] = [(); 3].map(|()| own_address());
    let setup = Setup::binding(web);
    let line = |at: SocketAddr| format!("-b {} {} {server}", at.ip(), at.port());
    let text = format!("web: {} 127.0.0.1:9,disabled\n{}\n", line(web), line(other));
    let file = setup.directory().file("services", &text);
    let mut many = setup.start(["--file", &file.display().to_string()]);
    assert!(
        list(&Directory::new()).stdout.lines().count() == 1,
        "only the line of names where there is none"
    );

    // One more in the same directory, in the background: its process is not the one that was started here.
    let directory = &many.directory;
    let start = |at: SocketAddr| {
        let (ip, port) = (at.ip().to_string(), at.port().to_string());
        Run::balance(directory).args(["-b", &ip, &port, &server.to_string()]).finish().code(0);
        let said = Run::balance(directory).args(["-b", &ip, "-i", &port]).finish().code(0).stdout;
        let pid = said.lines().find_map(|line| line.strip_prefix("PID of master process is "));
        pid.expect("a banner").parse::<i32>().expect("a pid")
    };
    let pid = start(single);
    let (_client, name) = many.named();
    assert_eq!(name, "a");
    let listed = eventually("the connection", || {
        Some(list(directory)).filter(|list| list.stdout.contains("1/2           1 serving"))
    });
    assert_eq!((rows(&listed).len(), listed.stderr.as_str()), (3, ""), "{listed}");
    assert_row(&listed, web, many.pid(), ["1/2", "1", "serving", "web"]);
    assert_row(&listed, other, many.pid(), ["1/1", "0", "serving", "-"]);
    assert_row(&listed, single, pid, ["1/1", "0", "serving", "-"]);

    // A process that is stopped keeps nobody waiting for ever.
    many.signal(Signal::STOP);
    // The other one may have no time to answer at once.
    let listed = eventually("the other one answers", || {
        Some(list(directory)).filter(|list| list.stdout.contains("1/1           0 serving"))
    });
    assert_row(&listed, web, many.pid(), ["-", "-", "not-answering", "-"]);
    assert_row(&listed, other, many.pid(), ["-", "-", "not-answering", "-"]);
    assert_row(&listed, single, pid, ["1/1", "0", "serving", "-"]);
    let asked = ["-b", &web.ip().to_string(), "-c", "show", &web.port().to_string()];
    let asked = Run::balance(directory).args(asked).finish().code(69);
    let advice =
        "timed out; balance --list shows its pid, and ps -o stat= -p PID prints T if it is stopped\n";
    assert!(asked.stderr.ends_with(advice), "{asked}");

    // What a killed one leaves behind goes, and nothing else.
    let before = entries(directory);
    many.signal(Signal::KILL);
    assert_eq!(many.wait(), 137);
    let directory = &many.directory;
    let listed = list(directory);
    assert_eq!(rows(&listed).len(), 1, "{listed}");
    assert_row(&listed, single, pid, ["1/1", "0", "serving", "-"]);
    let run = directory.path().join("run");
    assert_eq!(listed.stderr, format!("balance: removed 3 dead entries from {}\n", run.display()));
    assert_eq!(entries(directory), before - 3);
    assert_eq!(list(directory).stderr, "");
    let (ip, port) = (single.ip().to_string(), single.port().to_string());
    Run::balance(directory).args(["-b", &ip, "-c", "kill", &port]).finish().code(0);
    assert_eq!(entries(directory), 0);
}

#[test]
fn the_list_takes_nothing_else() {
    let directory = Directory::new();
    for (args, wrong) in [
        (&["--list", "-c", "show"][..], "--list and -c cannot be used together; choose one"),
        (&["-i", "--list", "80"], "--list and -i cannot be used together; choose one"),
        (&["--list", "80"], "'80' is one word too many; --list lists all instances"),
    ] {
        let finished = Run::balance(&directory).args(args).finish().code(64).out("");
        assert!(finished.stderr.starts_with(&format!("balance: {wrong}\nusage: ")), "{finished}");
    }
    let full = Run::script(&directory, "balance --list >/dev/full").finish();
    full.code(74).err("cannot write the answer");
}

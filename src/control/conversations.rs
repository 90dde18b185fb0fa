//! Whole sessions over real sockets: a server, and clients that follow the protocol or do not.

use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::Ordering;

use crate::control::client::Client;
use crate::control::wire::MAX_LINE;

mod ending;
mod finding;
mod instance;
mod readiness;
mod several;
mod waiting;

pub(crate) use instance::Instance;
use instance::{ask, greeting, rest};

#[test]
fn a_session_is_greeting_answers_and_status_lines() {
    let said = Instance::start().says(b"disable 0\r\n\ngroup 7\nx\nquit\nshow\n");
    let body = "channel 0 disabled\n. 0 0\n. 0 0\n. 0 7\nsyntax error\n. 64 7\n. 0 7 end\n";
    assert_eq!(said, greeting() + body);
}

#[test]
fn commands_of_one_line_share_a_status_and_the_first_error_counts() {
    let instance = Instance::start();
    let mut client = instance.client();
    assert_eq!(
        ask(&mut client, b"group 1; create ::1 80; x; disable 0; quit; show"),
        ("channel created\nsyntax error\nchannel 0 already disabled\n".into(), 64, 1, true)
    );
    let mut client = instance.client();
    assert_eq!(ask(&mut client, b"disable 5;x").1, 65);
    assert_eq!(ask(&mut client, b"group 3\nrr"), ("group 3 set to round robin\n".into(), 0, 3, false));
    assert_eq!(ask(&mut client, b""), (String::new(), 0, 3, false));
}

#[test]
fn long_lines_nul_bytes_and_half_lines_are_answered_or_dropped_as_a_whole() {
    let instance = Instance::start();
    let long =
        [&b"disable 0 ;"[..], &vec![b'x'; 3 * MAX_LINE], b"\nversion\0\n\xff\xfe\n", b"disable 0"].concat();
    assert_eq!(instance.says(&long), greeting() + &"syntax error\n. 64 0\n".repeat(3));
    assert_eq!(instance.says(b"disable 0\n"), greeting() + "channel 0 disabled\n. 0 0\n");
}

#[test]
fn a_line_may_come_in_pieces() {
    let instance = Instance::start();
    let mut stream = instance.connect();
    for byte in b"mrtg-conns 0 0\n" {
        stream.write_all(&[*byte]).expect("written");
    }
    stream.shutdown(Shutdown::Write).expect("shut");
    let body = "0\nUNKNOWN\nUNKNOWN\ngroup 0 channel 0\n. 0 0\n";
    assert_eq!(rest(&mut stream), greeting() + body);
}

#[test]
fn clients_that_leave_early_harm_nobody() {
    let instance = Instance::start();
    for bytes in [&b""[..], b"show", b"show\n", b"show;show;show\nshow\n"] {
        let mut stream = instance.connect();
        stream.write_all(bytes).expect("written");
        drop(stream);
    }
    assert_eq!(ask(&mut instance.client(), b"disable 0").0, "channel 0 disabled\n");
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let instance = Instance::start();
    let mut stuck = instance.connect();
    // Its answer of about 5 MB fits into no socket buffer.
    stuck.write_all(&[&b"s;".repeat(30_000)[..], b"\n"].concat()).expect("written");
    assert_eq!(ask(&mut instance.client(), b"disable 0").0, "channel 0 disabled\n");
    // The session still exists: only it waits, for itself.
    drop(stuck);
}

#[test]
fn among_too_many_sessions_the_oldest_idle_one_gives_way() {
    let instance = Instance::start();
    let mut clients: Vec<Client> = (0..64).map(|_| instance.client()).collect();
    // Each session has answered before the next one begins.
    for client in &mut clients {
        assert_eq!(ask(client, b"version").1, 0);
    }
    let mut late = instance.client();
    assert_eq!(ask(&mut late, b"group 1").2, 1);
    let gone = clients[0].ask(b"show", |_| ()).expect_err("it was closed").to_string();
    assert_eq!(
        gone,
        "balance: the instance closed this session: 64 sessions are open, and this one was idle"
    );
    assert_eq!(ask(&mut clients[1], b"group 1").2, 1, "the others are still there");
}

#[test]
fn disabling_hard_closes_the_connections_of_the_channel_once() {
    let instance = Instance::start();
    let text = ask(&mut instance.client(), b"disable 0 hard; disable 0 hard; disable 0").0;
    assert_eq!(text, "channel 0 disabled\nchannel 0 already disabled\nchannel 0 already disabled\n");
    assert_eq!(instance.closed.lock().expect("not poisoned").len(), 1);
}

#[test]
fn what_the_data_plane_did_or_knows_is_the_answer() {
    let instance = Instance::start();
    let mut client = instance.client();
    let mut hears = |line: &[u8], answer: &str, code| {
        let (text, status, ..) = ask(&mut client, line);
        assert_eq!((text.as_str(), status), (answer, code), "{}", line.escape_ascii());
    };
    hears(b"kick 0", "channel 0 kicked, 3 connections closed\n", 0);
    hears(b"kick 1", "no such channel 1\n", 65);
    hears(b"resolve 0", "web: 10.0.0.7, 10.0.0.8\n", 0);
    let all = "db: not found: Name or service not known; see status for the addresses in use\nweb: 10.0.0.7, 10.0.0.8\n";
    hears(b"reso", all, 75);
    hears(b"resolve 7", "no such channel 7\n", 65);
    hears(b"resolve 0 1", "usage: resolve [<channel>]\n", 64);
    hears(b"close 7", "session 7 closed\n", 0);
    hears(b"close 8", "no such session 8\n", 65);
    hears(b"save", "balance 1 # 1 groups\n", 0);
    let header =
        "      id client                     group  chan     age    idle        sent        rcvd state\n";
    let line = |group, channel| {
        format!(
            "{header}       7 127.0.0.1:4711             {group:>5} {channel:>5}   1m15s    0.0s           1           2 -\n"
        )
    };
    hears(b"sessions", &line("-", "-"), 0);
    hears(b"sessions 0", &line("0", "0"), 0);
    hears(b"group 1; sessions 0", "no such channel 0\n", 65);
    assert_eq!(instance.closed.lock().expect("not poisoned").len(), 1);
}

#[test]
fn the_data_plane_is_told_of_changes_and_not_of_looks() {
    let instance = Instance::start();
    let mut client = instance.client();
    let mut changes = |line: &[u8]| {
        ask(&mut client, line);
        instance.changed.swap(0, Ordering::SeqCst) > 0
    };
    for look in [&b"show"[..], b"status", b"sessions", b"save", b"wait 0", b"group 1", b"help", b"x", b""] {
        assert!(!changes(look), "{}", look.escape_ascii());
    }
    for change in [
        &b"group 0; drain 0"[..],
        b"enable 0",
        b"weight 0 2",
        b"maxc 0 2",
        b"policy first",
        b"rr",
        b"kick 0",
        b"close 7",
        b"create ::1 80",
        b"remove 1",
    ] {
        assert!(changes(change), "{}", change.escape_ascii());
    }
}

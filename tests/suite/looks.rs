//! The exact answers of the newer commands: `status`, `sessions`, errors, exit codes, abbreviated words.
//!
//! Source: docs/control.md, "Commands".

use std::time::Duration;

use crate::harness::{Client, Instance, Refusing, Server, eventually};

/// The lines below the header, word by word.
fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn status_has_one_line_per_channel_under_a_line_of_names() {
    let (a, b, dead) = (Server::named("a"), Server::named("b"), Refusing::new());
    let instance = Instance::before(&[&"--queue", &"9", &format!("{a}:1,weight=3"), &dead, &"!", &b, &"%"]);
    let clients = [instance.named(), instance.named(), instance.named()];
    let instance_status = || instance.ctl("status").code(0).stdout;
    eventually("the dead one was met", || instance_status().contains("ejected").then_some(()));
    let status = instance_status();
    let header = "group  chan address                state health     since weight    c/maxc queue    totalc  failed     p50     p99 addrs used                   options why";
    assert_eq!(status.lines().next(), Some(header));
    let rows = rows(&status);
    let column = |from: usize, to: usize| rows.iter().map(|row| row[from..to].join(" ")).collect::<Vec<_>>();
    assert_eq!(
        column(0, 5),
        [format!("0 0 {a} ENA up"), format!("0 1 {dead} ENA ejected"), format!("1 0 {b} ENA up"),]
    );
    assert_eq!(column(6, 11), ["3 1/1 0 1 0", "1 0/- 0 1 1", "1 2/- 0 2 0"]);
    assert_eq!((rows[1][15], rows[1][16..].join(" ")), ("-", "connect: connection refused".to_owned()));
    for row in [0, 2] {
        assert!(rows[row][11].ends_with('s') && rows[row][12].ends_with('s'), "connect times: {status}");
    }
    drop(clients);
    instance.end();
}

#[test]
fn sessions_show_who_is_connected_to_what_and_how_much_went_by() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[
        &"--queue",
        &"9",
        &"--queue-timeout",
        &"1m",
        &format!("{a}:1"),
        &"!",
        &format!("{b}:1"),
    ]);
    let (mut on_a, _) = instance.named();
    on_a.send("12345");
    on_a.recv(5);
    let (on_b, name) = instance.named();
    assert_eq!(name, "b");
    let waits = instance.connect();
    // A worker counts bytes when its call has come back, and the client may have them before.
    let is_counted = |text: &String| {
        rows(text).iter().any(|row| row[6..8] == ["5", "6"])
            && rows(text).iter().any(|row| row[6..8] == ["0", "1"])
    };
    let sessions = eventually("three sessions", || {
        let text = instance.ctl("sessions").code(0).stdout;
        Some(text).filter(|text| text.lines().count() == 4 && is_counted(text))
    });
    let header =
        "      id client                     group  chan     age    idle        sent        rcvd state";
    assert_eq!(sessions.lines().next(), Some(header));
    let rows = rows(&sessions);
    let peers =
        [&on_a, &on_b, &waits].map(|client| client.0.local_addr().expect("it is connected").to_string());
    for (peer, group, rest) in
        [(&peers[0], "0 0", "5 6"), (&peers[1], "1 0", "0 1"), (&peers[2], "- -", "0 0")]
    {
        let row = rows.iter().find(|row| row[1] == peer).expect("its line");
        assert_eq!((row[2..4].join(" ").as_str(), row[6..8].join(" ").as_str()), (group, rest), "{sessions}");
    }
    let ids: std::collections::BTreeSet<_> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(ids.len(), 3, "each has a number of its own");
    let of = |command| instance.ctl(command).code(0).stdout;
    assert!(of("sessions 0").contains(&peers[0]) && of("sessions 0").lines().count() == 2);
    assert!(of("group 1; sessions 0").contains(&peers[1]) && of("group 1; sessions 0").lines().count() == 2);
    // Who waits can be sent away as well.
    let id = rows.iter().find(|row| row[1] == peers[2]).expect("its line")[0].to_owned();
    instance.ctl(&format!("close {id}")).code(0).out(&format!("session {id} closed\n"));
    assert!(!waits.is_quiet_for(Duration::from_secs(20)), "it hears of it");
    drop((on_a, on_b, waits));
    eventually("nobody", || (of("sessions") == format!("{header}\n")).then_some(()));
    instance.end();
}

#[test]
fn a_burst_among_many_connections_is_not_left_to_one_worker() {
    const WORKERS: u64 = 2;
    const CLIENTS: usize = 600;
    let server = Server::silent();
    let instance = Instance::before(&[&"--workers", &WORKERS, &server]);
    let clients: Vec<_> = (0..CLIENTS).map(|_| instance.connect()).collect();
    instance.await_show("all are there", |rows| usize::try_from(rows[0].c) == Ok(CLIENTS));
    let text = instance.ctl("sessions").code(0).stdout;
    // A connection's number says which worker has it.
    let numbers = rows(&text).into_iter().map(|row| row[0].parse::<u64>().expect("a number"));
    let of_one = numbers.filter(|number| number % WORKERS == 0).count();
    let more = of_one.abs_diff(CLIENTS - of_one);
    assert!(more <= 12, "one worker has {more} more than the other");
    drop(clients);
    instance.end();
}

#[test]
fn every_answer_and_exit_code_of_an_idle_instance() {
    let instance = Instance::start(["PORT", "127.0.0.1:9", "127.0.0.1:10"]);
    let number = "99999999999999999999";
    for (command, code, answer) in [
        ("drain 0", 0, "channel 0 drained"),
        ("drain 0", 0, "channel 0 drained"),
        ("drain 2", 65, "no such channel 2"),
        ("drain", 64, "usage: drain <channel>"),
        ("drain x", 64, "usage: drain <channel>"),
        ("wait 0", 0, "channel 0 idle"),
        ("wait 0 1h", 0, "channel 0 idle"),
        ("wait 0 0", 0, "channel 0 idle"),
        ("wait 2", 65, "no such channel 2"),
        ("wait", 64, "usage: wait <channel> [up] [<time>]"),
        ("wait 0 soon", 64, "usage: wait <channel> [up] [<time>]"),
        ("wait 0 -1", 64, "usage: wait <channel> [up] [<time>]"),
        ("wait 0 1 1", 64, "usage: wait <channel> [up] [<time>]"),
        ("kick 1", 0, "channel 1 kicked, 0 connections closed"),
        ("kick 2", 65, "no such channel 2"),
        ("kick", 64, "usage: kick <channel>"),
        ("weight 1 256", 0, "weight of channel 1 changed to 256"),
        ("weight 1 0", 0, "weight of channel 1 changed to 0"),
        ("weight 1 257", 65, "value out of range, a weight is 0 to 256"),
        ("weight 1 -1", 65, "value out of range, a weight is 0 to 256"),
        ("weight 2 1", 65, "no such channel 2"),
        ("weight 1", 64, "usage: weight <channel> <weight>"),
        ("weight 1 1.5", 64, "usage: weight <channel> <weight>"),
        ("remove 1", 65, "channel must be disabled and without connections to be removed"),
        ("remove 0", 0, "channel 0 removed"),
        ("remove 0", 65, "no such channel 0"),
        ("remove", 64, "usage: remove <channel>"),
        ("sessions 0", 65, "no such channel 0"),
        ("sessions x", 64, "usage: sessions [<channel>] [json]"),
        ("sessions 1 1", 64, "usage: sessions [<channel>] [json]"),
        ("close 1", 65, "no such session 1"),
        ("close -1", 65, "no such session -1"),
        ("close 007", 65, "no such session 7"),
        ("close", 64, "usage: close <id>"),
        ("close x", 64, "usage: close <id>"),
        ("save now", 64, "usage: save"),
        ("status 0", 64, "usage: status [json]"),
        ("policy leastconn", 0, "group 0 set to least connections"),
        ("group 7; kick 0", 65, "no such channel 0"),
        ("wait 5; wait", 65, "no such channel 5\nusage: wait <channel> [up] [<time>]"),
    ] {
        instance.ctl(command).code(code).out(&format!("{answer}\n"));
    }
    for word in ["drain", "wait", "kick", "remove", "sessions", "close"] {
        let (what, answer) = if word == "close" { ("session", number) } else { ("channel", number) };
        let said = format!("no such {what} {answer}\n");
        instance.ctl(&format!("{word} {number}")).code(65).out(&said);
    }
    instance.end();
}

#[test]
fn the_words_of_3_57_keep_their_short_forms() {
    let instance = Instance::start(["PORT", "127.0.0.1:9", "127.0.0.1:10"]);
    let shown = instance.ctl("show").code(0).stdout;
    for word in ["s", "sh", "sho"] {
        instance.ctl(word).code(0).out(&shown);
    }
    let help = instance.ctl("help").code(0).stdout;
    for word in ["h", "he", "?"] {
        instance.ctl(word).code(0).out(&help);
    }
    for (command, answer) in [
        ("d 0", "channel 0 disabled"),
        ("di 1", "channel 1 disabled"),
        ("e 0", "channel 0 enabled"),
        ("r 0", "channel 0 counters reset"),
        ("re 0", "channel 0 counters reset"),
        ("rr", "group 0 set to round robin"),
        ("ha", "group 0 set to hash"),
        ("c 127.0.0.1 11", "channel created"),
        ("cr 127.0.0.1 12", "channel created"),
        ("a 1 127.0.0.1 13", "channel reassigned"),
        ("m 0 4", "maxc of channel 0 changed to 4"),
        ("mrtg-c 0 0", "0\nUNKNOWN\nUNKNOWN\ngroup 0 channel 0"),
        ("g 1; e 0", "no such channel 0"),
        ("v", "  This is balance 4.0\n  MAXGROUPS=65535\n  MAXCHANNELS=65535"),
    ] {
        let said = instance.ctl(command);
        assert_eq!(said.stdout, format!("{answer}\n"), "{said}");
    }
    // The new ones by the shortest words that are theirs.
    for (command, answer) in [
        ("dr 0", "channel 0 drained"),
        ("w 0", "channel 0 idle"),
        ("kic 0", "channel 0 kicked, 0 connections closed"),
        ("rem 0", "channel 0 removed"),
        ("we 2 5", "weight of channel 2 changed to 5"),
        ("p first", "group 0 set to first"),
        ("cl 5", "no such session 5"),
    ] {
        let said = instance.ctl(command);
        assert_eq!(said.stdout, format!("{answer}\n"), "{said}");
    }
    assert!(instance.ctl("st").code(0).stdout.starts_with("group "));
    assert!(instance.ctl("se").code(0).stdout.starts_with("      id "));
    assert!(instance.ctl("sa").code(0).stdout.starts_with("balance -f "));
    instance.ctl("k").code(0).out("shutdown complete, exiting.\n");
    instance.killed();
}

#[test]
fn more_sessions_than_a_worker_shows_in_one_go_are_listed_once_each() {
    const CLIENTS: usize = 700;
    let server = Server::silent();
    let instance = Instance::before(&[&"--workers", &"1", &server]);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| instance.connect()).collect();
    let is_listed = |clients: &[Client]| {
        let mut own: Vec<String> = clients
            .iter()
            .map(|client| client.0.local_addr().expect("it is connected").to_string())
            .collect();
        own.sort_unstable();
        ["sessions", "sessions 0"].iter().all(|command| {
            let text = instance.ctl(command).code(0).stdout;
            let mut listed: Vec<String> = rows(&text).into_iter().map(|row| row[1].to_owned()).collect();
            listed.sort_unstable();
            listed == own
        })
    };
    instance.await_show("all are there", |rows| usize::try_from(rows[0].c) == Ok(CLIENTS));
    assert!(is_listed(&clients));
    // A hole in the middle is no end.
    clients.drain(100..650);
    eventually("the others have gone", || is_listed(&clients).then_some(()));
    drop(clients);
    instance.end();
}

//! A log without a reader: a terminal after Ctrl-S, a pager, a stopped service manager.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use super::harness::{Client, Instance, Server, Setup, eventually, own_address};

/// The end to read at and the one to write to.
type Ends = (OwnedFd, OwnedFd);

fn terminal() -> Ends {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).expect("a terminal");
    grantpt(&ours).expect("it is ours");
    unlockpt(&ours).expect("it is new");
    let theirs = ioctl_tiocgptpeer(&ours, flags).expect("the other side");
    (ours, theirs)
}

fn pipe() -> Ends {
    let (read, write) = std::io::pipe().expect("a pipe");
    (read.into(), write.into())
}

fn socket() -> Ends {
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    (ours.into(), theirs.into())
}

/// What the process says of lines that are lost.
fn dropped(at: SocketAddr) -> u64 {
    let mut client = Client::connect(at);
    client.send(format!("GET /metrics HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"));
    let mut text = String::new();
    client.0.read_to_string(&mut text).expect("an answer");
    let series = "balance_log_dropped_lines_total{log=\"messages\"} ";
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no such series: {text}"))
}

fn echoes(client: &mut Client) {
    client.send("hello");
    assert_eq!(client.recv(5), b"hello");
}

/// The log goes to one of these ends, and nobody reads the other.
fn nobody_reads((ours, theirs): Ends) {
    let server = Server::echo();
    let at = own_address();
    let setup = Setup::new().stderr(theirs);
    let instance: Instance =
        setup.start(["-d".to_owned(), "--http".into(), at.to_string(), "PORT".into(), server.to_string()]);
    let mut held = instance.connect();
    echoes(&mut held);
    let mut clients = 0;
    eventually("lines are lost", || {
        (0..50).for_each(|_| echoes(&mut instance.connect()));
        clients += 50;
        (dropped(at) > 20).then_some(())
    });
    // Neither those who are there nor those who come miss anything; nor do operators.
    echoes(&mut held);
    echoes(&mut instance.connect());
    instance.ctl("weight 0 2").code(0);
    let told = instance.ctl("doctor").stdout;
    assert!(told.contains("advice log: ") && told.contains("the log has lost "), "{told}");
    assert!(told.contains("Ctrl-Q in the terminal of balance"), "{told}");
    instance.await_show("all but one have gone", |rows| rows[0].c == 1 && rows[0].totalc == clients + 2);
    drop(held);
    instance.await_show("all have gone", |rows| rows[0].c == 0);
    let lost = eventually("nothing more is said", || {
        let before = dropped(at);
        thread::sleep(std::time::Duration::from_millis(50));
        (dropped(at) == before).then_some(before)
    });
    // Somebody reads again. Each line is whole, and what is missing is said.
    let read = thread::spawn(move || {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        let mut ours = File::from(ours);
        // A terminal that its last program has closed is an error to read from.
        while let Ok(count) = ours.read(&mut buffer) {
            text.extend_from_slice(&buffer[..count]);
            if count == 0 {
                break;
            }
        }
        String::from_utf8(text).expect("text")
    });
    let mut weight = 3;
    eventually("lines are taken again", || {
        let before = dropped(at);
        instance.ctl(&format!("weight 0 {weight}")).code(0);
        weight += 1;
        (dropped(at) == before).then_some(())
    });
    let lost_at_last = dropped(at);
    assert!(lost_at_last >= lost);
    instance.end();
    let text = read.join().expect("it reads");
    let mut said = Vec::new();
    for line in text.lines() {
        let words = line.strip_prefix("balance: ").unwrap_or_else(|| panic!("half a line: {line:?}"));
        if words.starts_with("listening on ") {
            continue;
        }
        assert_eq!(line.matches("level=").count(), 1, "two in one: {line:?}");
        let is_whole = ["how=", "address=", "command=", "pid=", "connections=", "lines=", "event=drained"];
        assert!(is_whole.iter().any(|key| line.contains(key)), "half a line: {line:?}");
        said.extend(words.strip_prefix("level=warning event=lines_dropped lines=").map(str::to_owned));
    }
    let said: Vec<u64> = said.iter().map(|count| count.parse().expect("a number")).collect();
    assert_eq!(said.iter().sum::<u64>(), lost_at_last, "{said:?}: what is missing is said");
    assert!(text.contains("event=commanded") && !text.contains("panicked"));
}

#[test]
fn a_terminal_that_nobody_reads_stops_nothing() {
    nobody_reads(terminal());
}

#[test]
fn a_pipe_that_nobody_reads_stops_nothing() {
    nobody_reads(pipe());
}

#[test]
fn a_service_manager_that_does_not_read_stops_nothing() {
    nobody_reads(socket());
}

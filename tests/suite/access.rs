//! `--access-log`: one line per connection, whatever happens to the connection, the file and the process.
//!
//! Source: docs/observability.md, "The access log".

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::http::{get, has};
use crate::harness::{
    BALANCE, BlackHole, Client, Directory, Instance, Received, Refusing, Run, Server, Setup, eventually,
    own_address, script,
};

/// What a line says, by its keys.
pub(super) type Line = BTreeMap<String, String>;

/// An instance that logs to a file in its directory, and the file.
fn logging(options: &[&str], channels: &[&dyn std::fmt::Display]) -> (Instance, PathBuf) {
    let setup = Setup::new();
    let path = setup.directory().path().join("access.log");
    let mut args = vec!["--access-log".to_owned(), path.display().to_string()];
    args.extend(options.iter().map(|&option| option.to_owned()));
    args.push("PORT".to_owned());
    args.extend(channels.iter().map(ToString::to_string));
    (setup.start(args), path)
}

/// The keys and values of a line of text.
#[track_caller]
pub(super) fn fields(line: &str) -> Line {
    let (mut all, mut rest) = (Line::new(), line);
    while !rest.is_empty() {
        let (key, behind) = rest.split_once('=').unwrap_or_else(|| panic!("no key: {line:?}"));
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or_else(|| panic!("no end: {line:?}")),
            None => behind.split_at(behind.find(' ').unwrap_or(behind.len())),
        };
        assert!(all.insert(key.to_owned(), value.to_owned()).is_none(), "{key} twice: {line:?}");
        rest = behind.strip_prefix(' ').unwrap_or(behind);
    }
    all
}

/// All lines so far.
#[track_caller]
pub(super) fn lines(path: &Path) -> Vec<Line> {
    // A line may be read while it is being written.
    let text = eventually("whole lines", || {
        let text = fs::read_to_string(path).unwrap_or_default();
        (text.is_empty() || text.ends_with('\n')).then_some(text)
    });
    text.lines().map(fields).collect()
}

/// The lines, once there are so many.
#[track_caller]
pub(super) fn await_lines(path: &Path, count: usize) -> Vec<Line> {
    let all = eventually("lines", || {
        let text = fs::read_to_string(path).unwrap_or_default();
        let all = text.ends_with('\n').then(|| text.lines().map(fields).collect::<Vec<_>>());
        all.filter(|all| all.len() >= count)
    });
    assert_eq!(all.len(), count, "{all:?}");
    all
}

fn number(line: &Line, key: &str) -> f64 {
    line[key].parse().unwrap_or_else(|_| panic!("{key} is no number: {line:?}"))
}

#[test]
fn a_line_says_who_came_where_it_went_how_long_it_took_and_how_it_ended() {
    let (refusing, server) = (Refusing::new(), Server::echo());
    let (instance, path) = logging(&[], &[&refusing, &server]);
    let mut client = instance.connect();
    let from = client.0.local_addr().expect("it is connected");
    client.send("hello");
    assert_eq!(client.recv(5), b"hello");
    client.shut_wr();
    assert_eq!(client.ending(), Received::End);
    let line = await_lines(&path, 1).remove(0);
    assert_eq!(line["client"], from.to_string());
    let said = ["event", "service", "group", "channel", "sent", "rcvd", "attempts", "queue", "end"];
    let said = said.map(|key| &*line[key]);
    assert_eq!(said, ["end", "-", "0", "1", "5", "5", "2", "-", "client closed"]);
    assert_eq!(line["address"], server.to_string());
    assert_eq!(line["failed"], format!("0/0 {refusing} connection refused"));
    for key in ["duration", "connect", "first_byte", "client_rtt", "channel_rtt"] {
        assert!(number(&line, key) > 0.0, "{key}: {line:?}");
    }
    assert!(number(&line, "connect") <= number(&line, "first_byte"), "{line:?}");
    assert!(number(&line, "first_byte") <= number(&line, "duration"), "{line:?}");
    humantime::parse_rfc3339(&line["time"]).expect("a time");
    instance.end();
}

#[test]
fn an_ipv4_client_is_called_by_its_ipv4_address_whatever_the_listener() {
    let server = Server::echo();
    let setup = Setup::listening("[::]:0".parse().expect("an address"));
    let path = setup.directory().path().join("access.log");
    let args = ["--access-log".to_owned(), path.display().to_string(), "-6".into(), "PORT".into()];
    let mut instance = setup.start(args.into_iter().chain([server.to_string()]));
    instance.addr.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let client = talking(&instance);
    let from = client.0.local_addr().expect("it is connected").to_string();
    assert!(instance.ctl("sessions").code(0).stdout.contains(&format!(" {from} ")));
    drop(client);
    let line = await_lines(&path, 1).remove(0);
    assert_eq!(line["client"], from);
    assert!(instance.ctl("ended").code(0).stdout.contains(&format!(" {from} ")));
    instance.end();
}

/// What `services json` says of the only one.
fn services(instance: &Instance) -> serde_json::Value {
    let services = instance.ctl("services json").code(0).stdout;
    let services: serde_json::Value = serde_json::from_str(&services).expect("JSON");
    services["services"][0].clone()
}

/// How one connection ends, and what the log calls that.
struct Case {
    end: &'static str,
    options: &'static [&'static str],
    act: fn(&Instance, &Server),
}

pub(super) fn talking(instance: &Instance) -> Client {
    let mut client = instance.connect();
    client.send("x");
    assert_eq!(client.recv(1), b"x");
    client
}

/// Waits until a client that did nothing itself is over.
pub(super) fn until_over(mut client: Client) {
    client.ending();
}

/// Clients that do nothing themselves, until one of them was served before it was over: one whose time is short may not be, on a
/// busy machine, and is over by the same end.
fn until_served_and_over(instance: &Instance) {
    eventually("a client is served", || {
        let mut client = instance.connect();
        let is_served = client.0.write_all(b"x").is_ok() && matches!(client.read(&mut [0]), Ok(1));
        until_over(client);
        is_served.then_some(())
    });
}

#[test]
fn every_end_of_a_connection_has_its_line_and_its_count() {
    let cases = [
        Case {
            end: "client closed",
            options: &[],
            act: |instance, _| {
                let client = talking(instance);
                client.shut_wr();
                until_over(client);
            },
        },
        Case { end: "client reset", options: &[], act: |instance, _| talking(instance).rst() },
        Case {
            end: "idle timeout",
            options: &["-T", "50ms"],
            act: |instance, _| until_served_and_over(instance),
        },
        Case {
            end: "lifetime",
            options: &["--max-lifetime", "100ms"],
            act: |instance, _| until_served_and_over(instance),
        },
        Case {
            end: "kicked",
            options: &[],
            act: |instance, _| {
                let client = talking(instance);
                instance.ctl("kick 0").code(0);
                until_over(client);
            },
        },
        Case {
            end: "closed by operator",
            options: &[],
            act: |instance, _| {
                let client = talking(instance);
                let sessions = instance.ctl("sessions json").code(0).stdout;
                let sessions: serde_json::Value = serde_json::from_str(&sessions).expect("JSON");
                instance.ctl(&format!("close {}", sessions["sessions"][0]["id"])).code(0);
                until_over(client);
            },
        },
        Case {
            end: "all channels disabled",
            options: &[],
            act: |instance, _| {
                instance.ctl("disable 0").code(0);
                until_over(instance.connect());
            },
        },
        Case {
            end: "all channels full",
            options: &[],
            act: |instance, _| {
                instance.ctl("maxc 0 1").code(0);
                let first = talking(instance);
                until_over(instance.connect());
                first.shut_wr();
                until_over(first);
            },
        },
        Case {
            end: "queue timeout",
            options: &["--queue", "1", "--queue-timeout", "50ms"],
            act: |instance, _| {
                instance.ctl("maxc 0 1").code(0);
                let first = talking(instance);
                until_over(instance.connect());
                first.shut_wr();
                until_over(first);
            },
        },
        Case {
            end: "queue full",
            options: &["--queue", "1", "--queue-timeout", "60s"],
            act: |instance, _| {
                instance.ctl("maxc 0 1").code(0);
                let first = talking(instance);
                let waits = instance.connect();
                eventually("it waits", || (services(instance)["queue"] == 1).then_some(()));
                until_over(instance.connect());
                first.shut_wr();
                until_over(first);
                waits.shut_wr();
                until_over(waits);
            },
        },
        Case {
            end: "pause timeout",
            options: &["--pause-timeout", "50ms"],
            act: |instance, _| {
                instance.ctl("pause").code(0);
                until_over(instance.connect());
            },
        },
        Case {
            end: "client left",
            options: &[],
            act: |instance, _| {
                instance.ctl("pause").code(0);
                let client = instance.connect();
                eventually("it waits", || (services(instance)["queue"] == 1).then_some(()));
                client.rst();
            },
        },
        Case {
            end: "no channel",
            options: &[],
            act: |instance, _| {
                instance.ctl("disable 0; remove 0").code(0);
                until_over(instance.connect());
            },
        },
    ];
    for Case { end, options, act } in cases {
        let server = Server::echo();
        let at = own_address();
        let http = ["--http".to_owned(), at.to_string()];
        let options: Vec<&str> = options.iter().copied().chain(http.iter().map(|word| &**word)).collect();
        let (instance, path) = logging(&options, &[&server]);
        act(&instance, &server);
        ends_agree(&instance, &path, at, end);
        instance.terminate();
    }
}

#[test]
fn the_ends_that_channels_make_have_their_lines_and_their_counts() {
    let (closer, resetter, refusing) = (Server::closer(), Server::resetter(), Refusing::new());
    let silent = Server::with(|stream, _| {
        // Ends its direction, and keeps the other open.
        let mut open = Client::of(stream);
        open.shut_wr();
        open.ending();
    });
    let channels: [(&str, &[&str], &dyn std::fmt::Display); 5] = [
        ("channel closed", &[], &closer),
        ("channel reset", &[], &resetter),
        ("all channels failed", &["--no-eject"], &refusing),
        ("no channel up", &["--fail-open", "off"], &refusing),
        ("half-close timeout", &["--half-close-timeout", "50ms"], &silent),
    ];
    for (end, options, channel) in channels {
        let at = own_address();
        let http = ["--http".to_owned(), at.to_string()];
        let options: Vec<&str> = options.iter().copied().chain(http.iter().map(|word| &**word)).collect();
        let (instance, path) = logging(&options, &[channel]);
        if end == "no channel up" {
            until_over(instance.connect());
        }
        // One that is reset at once may be so before it is known to be connected.
        let client = Client::try_connect(instance.addr, None, None);
        let client = client.ok().map(|mut client| {
            client.ending();
            client
        });
        // Of the others nothing is left to be waited for.
        let _held = client.filter(|_| end == "half-close timeout");
        ends_agree(&instance, &path, at, end);
        instance.terminate();
    }
}

#[test]
fn a_connection_whose_channel_went_down_ends_by_that() {
    let (server, at, setup) = (Server::echo(), own_address(), Setup::new());
    let mark = setup.directory().path().join("mark");
    let check = script(setup.directory(), "check", &format!("test ! -e {}", mark.display()));
    let path = setup.directory().path().join("access.log");
    let (log, check, http) =
        (path.display().to_string(), format!("exec:{}", check.display()), at.to_string());
    let args = ["--access-log", &log, "--http", &http, "--check", &check, "--check-interval", "50ms"];
    let more =
        ["--check-timeout", "20s", "--check-fall", "1", "--on-down", "kick", "PORT", &server.to_string()];
    let instance = setup.start(args.into_iter().chain(more));
    let client = talking(&instance);
    fs::write(&mark, "").expect("ours");
    until_over(client);
    ends_agree(&instance, &path, at, "channel down");
    instance.terminate();
}

#[test]
fn a_connection_whose_service_was_removed_ends_by_that_and_has_its_name() {
    let (server, first, second) = (Server::echo(), own_address(), own_address());
    let setup = Setup::binding(first);
    let line = |name: &str, at: std::net::SocketAddr| {
        format!("{name}: --on-remove kick -b {} {} {server}\n", at.ip(), at.port())
    };
    let file = setup.directory().file("services", &(line("one", first) + &line("two", second)));
    let path = setup.directory().path().join("access.log");
    let (log, services) = (path.display().to_string(), file.display().to_string());
    let instance = setup.start(["--access-log", &log, "--file", &services]);
    let mut client = Client::connect(second);
    client.send("x");
    assert_eq!(client.recv(1), b"x");
    fs::write(&file, line("one", first)).expect("ours");
    instance.ctl("reload").code(0);
    until_over(client);
    let line = await_lines(&path, 1).remove(0);
    assert_eq!((&*line["end"], &*line["service"]), ("service removed", "two"));
    instance.terminate();
}

/// Log, JSON and metrics say the same of how connections have ended, and this is one of the ways.
#[track_caller]
fn ends_agree(instance: &Instance, path: &Path, at: std::net::SocketAddr, end: &str) {
    eventually("all have ended", || (services(instance)["connections"] == 0).then_some(()));
    let metrics = get(at, "/metrics").1;
    let mut counted = BTreeMap::new();
    for line in metrics.lines().filter_map(|line| line.strip_prefix("balance_service_ends_total{")) {
        let (labels, count) = line.rsplit_once(' ').expect("a sample");
        let reason =
            labels.split_once("reason=\"").and_then(|(_, rest)| rest.split_once('"')).expect("a reason").0;
        let count: f64 = count.parse().expect("a number");
        if count > 0.0 {
            counted.insert(reason.to_owned(), count as usize);
        }
    }
    let logged = await_lines(path, counted.values().sum());
    let mut said = BTreeMap::new();
    logged.iter().for_each(|line| *said.entry(line["end"].clone()).or_insert(0) += 1);
    assert_eq!(said, counted, "{end}");
    assert!(said.contains_key(end), "{end}: {said:?}");
    let remembered = instance.ctl("ended 1000 json").code(0).stdout;
    let remembered: serde_json::Value = serde_json::from_str(&remembered).expect("JSON");
    let told = |key: &str, value: &serde_json::Value| match (key, value) {
        ("group" | "channel", serde_json::Value::Null) => "-".to_owned(),
        (_, serde_json::Value::String(text)) => text.clone(),
        (_, other) => other.to_string(),
    };
    let keys = [
        ("id", "id"),
        ("client", "client"),
        ("group", "group"),
        ("channel", "channel"),
        ("sent", "sent_bytes"),
    ];
    let keys = keys.into_iter().chain([("rcvd", "rcvd_bytes"), ("end", "end")]);
    let by_ended = remembered["ended"].as_array().expect("a list").iter();
    let mut by_ended: Vec<Vec<String>> =
        by_ended.map(|one| keys.clone().map(|(_, key)| told(key, &one[key])).collect()).collect();
    let mut by_log: Vec<Vec<String>> =
        logged.iter().map(|line| keys.clone().map(|(key, _)| line[key].clone()).collect()).collect();
    by_ended.sort();
    by_log.sort();
    assert_eq!(by_ended, by_log, "{end}: `ended` says what the log says");
    let shown = instance.ctl("show json").code(0).stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let bytes = |key: &str| -> u64 {
        let groups = shown["groups"].as_array().expect("groups").iter();
        let channels = groups.flat_map(|group| group["channels"].as_array().expect("channels"));
        channels.map(|channel| channel[key].as_u64().expect("a number")).sum()
    };
    if end != "no channel" {
        let logged = |key: &str| logged.iter().map(|line| number(line, key) as u64).sum::<u64>();
        assert_eq!(
            (bytes("sent_bytes"), bytes("rcvd_bytes")),
            (logged("sent"), logged("rcvd")),
            "{end}: {shown}"
        );
    }
}

#[test]
fn the_last_connections_have_their_lines_before_the_process_ends() {
    let server = Server::echo();
    let (mut instance, path) = logging(&[], &[&server]);
    let clients: Vec<_> = (0..200).map(|_| talking(&instance)).collect();
    instance.signal(Signal::INT);
    assert_eq!(instance.wait(), 0);
    let all = lines(&path);
    assert_eq!(all.len(), clients.len());
    assert!(all.iter().all(|line| line["end"] == "shut down"), "{:?}", all[0]);
}

#[test]
fn the_file_may_be_moved_deleted_or_truncated_at_any_time() {
    let server = Server::named("a");
    let (instance, path) = logging(&[], &[&server]);
    let visit = || assert_eq!(instance.names(1), "a");
    visit();
    await_lines(&path, 1);
    let moved = path.with_extension("1");
    for (round, how) in ["reopen", "HUP", "USR1", "nothing"].into_iter().enumerate() {
        fs::rename(&path, &moved).expect("a file of ours");
        match how {
            "reopen" => drop(instance.ctl("reopen").code(0).out("access log opened again\n")),
            "HUP" => instance.signal(Signal::HUP),
            "USR1" => instance.signal(Signal::USR1),
            _ => {}
        }
        if how != "nothing" {
            eventually("it is there again", || path.exists().then_some(()));
            visit();
        }
        // Without a word it is noticed a little later: what comes until then is in the old file.
        let mut visited = usize::from(how != "nothing");
        eventually("it is written to", || {
            let is_new = fs::read_to_string(&path).is_ok_and(|text| !text.is_empty());
            if how == "nothing" && !is_new {
                visit();
                visited += 1;
            }
            is_new.then_some(())
        });
        let count = || lines(&path).len() + lines(&moved).len();
        eventually("every line is somewhere", || (count() == visited + 1).then_some(()));
        assert_eq!(lines(&moved).len() + lines(&path).len(), visited + 1, "round {round}");
        let last = lines(&path).len();
        fs::write(&path, "").expect("as copytruncate does it");
        fs::remove_file(&moved).expect("ours");
        assert!(last > 0);
        visit();
        await_lines(&path, 1);
    }
    assert!(instance.told("signal_ignored").is_empty(), "{}", instance.stderr());
    instance.end();
}

#[test]
fn without_an_access_log_nothing_is_opened_again_and_that_is_said() {
    let server = Server::named("a");
    let instance = Instance::before(&[&server]);
    instance.ctl("reopen").code(69).out("there is no access log; start balance with --access-log FILE\n");
    instance.signal(Signal::USR1);
    let told = eventually("it is told", || instance.told("signal_ignored").pop());
    assert!(told.contains("signal=USR1"), "{told}");
    instance.end();
}

#[test]
fn lines_that_cannot_be_written_are_counted_and_clients_do_not_wait() {
    let directory = Directory::new();
    let fifo = directory.path().join("fifo");
    Run::new("mkfifo").args([&fifo.display().to_string()]).finish().code(0);
    // Read and write: it has a reader that never reads.
    let _held = File::options().read(true).write(true).open(&fifo).expect("a FIFO of ours");
    for target in ["/dev/full", &fifo.display().to_string()] {
        let (server, at) = (Server::named("a"), own_address());
        let http = at.to_string();
        let instance =
            Instance::start(["--access-log", target, "--http", &http, "PORT", &server.to_string()]);
        let mut visits = 0_u64;
        let dropped = eventually("lines are dropped", || {
            for _ in 0..50 {
                assert_eq!(instance.names(1), "a");
            }
            visits += 50;
            let metrics = get(at, "/metrics").1;
            let value = metrics
                .lines()
                .find_map(|line| line.strip_prefix("balance_log_dropped_lines_total{log=\"access\"} "))
                .expect("it is there from the start");
            let dropped: f64 = value.parse().expect("a number");
            (dropped > 0.0).then_some(dropped)
        });
        assert!(dropped as u64 <= visits, "{dropped} of {visits}");
        eventually("it is told", || instance.told("access_lines_dropped").pop());
        let advice = instance.ctl("doctor").stdout;
        // Which of them depends on how the last write went.
        let texts = ["the access log has lost ", "the access log cannot be written: "];
        assert!(texts.iter().any(|text| advice.contains(text)), "{advice}");
        instance.terminate();
    }
}

#[test]
fn a_connection_that_goes_to_another_process_has_one_line_with_all_that_was_known() {
    let (hole, server) = (BlackHole::new(), Server::echo());
    let (mut instance, path) = logging(&["-t", "1"], &[&hole, &server]);
    let mut client = talking(&instance);
    let from = client.0.local_addr().expect("it is connected");
    for _ in 0..2 {
        instance.upgrade();
        client.send("y");
        assert_eq!(client.recv(1), b"y");
    }
    client.shut_wr();
    assert_eq!(client.ending(), Received::End);
    let line = await_lines(&path, 1).remove(0);
    assert_eq!((&line["client"], &line["attempts"]), (&from.to_string(), &"2".to_owned()));
    assert_eq!(line["failed"], format!("0/0 {hole} no answer in time"));
    assert_eq!((&*line["sent"], &*line["rcvd"]), ("3", "3"));
    assert_ne!((&*line["connect"], &*line["first_byte"]), ("-", "-"));
    instance.end();
}

#[test]
fn lines_come_at_the_start_and_every_so_often_if_they_are_asked_for() {
    let (refusing, server) = (Refusing::new(), Server::echo());
    let (mut instance, path) = logging(&["--access-log-at", "start,end,1s"], &[&refusing, &server]);
    let client = talking(&instance);
    assert_eq!(await_lines(&path, 1)[0]["event"], "start");
    let open = |least| {
        eventually("it goes on", || {
            let open: Vec<_> = lines(&path).into_iter().filter(|line| line["event"] == "open").collect();
            (open.len() >= least).then_some(open.len())
        })
    };
    let before = open(2);
    instance.upgrade();
    // One more may have come from the process before.
    open(before + 2);
    client.shut_wr();
    until_over(client);
    let all = eventually("its end", || {
        let all = lines(&path);
        all.last().is_some_and(|line| line["event"] == "end").then_some(all)
    });
    let last = &all[all.len() - 1];
    let open: Vec<_> = all.iter().filter(|line| line["event"] == "open").collect();
    for line in &open {
        for key in ["id", "time", "channel", "address", "connect", "first_byte", "attempts", "failed", "sent"]
        {
            assert_eq!(line[key], last[key], "{key}: {line:?}");
        }
        assert_ne!((&*line["client_rtt"], &*line["channel_rtt"], &*line["connect"]), ("-", "-", "-"));
    }
    assert_eq!((&*last["attempts"], &*last["channel"], &*last["sent"]), ("2", "1", "1"), "{last:?}");
    // No second has two.
    assert!(open.len() as f64 <= number(last, "duration"), "{open:?}");
    instance.end();
}

#[test]
fn a_client_that_waits_has_lines_every_so_often_too() {
    let server = Server::named("a");
    let (instance, path) = logging(&["--access-log-at", "1s"], &[&server]);
    instance.ctl("pause").code(0);
    let client = instance.connect();
    let line = eventually("a line", || lines(&path).pop());
    assert_eq!((&*line["event"], &*line["channel"], &*line["attempts"]), ("open", "-", "0"), "{line:?}");
    assert!(number(&line, "queue") > 0.5, "{line:?}");
    drop(client);
    instance.end();
}

#[test]
fn json_is_one_object_on_each_line() {
    let server = Server::named("a");
    let (instance, path) = logging(&["--access-log-format", "json"], &[&server]);
    assert_eq!(instance.names(3), "aaa");
    let text = eventually("three lines", || {
        let text = fs::read_to_string(&path).ok()?;
        (text.lines().count() == 3).then_some(text)
    });
    for line in text.lines() {
        let object: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&object["rcvd"], &object["failed"]), (&1.into(), &serde_json::json!([])));
        assert!(object["duration"].is_f64() && object["service"].is_null(), "{object}");
    }
    instance.end();
}

#[test]
fn stdout_takes_lines_in_the_foreground_only_and_a_bad_path_says_why() {
    let server = Server::named("a");
    let instance = Instance::start(["--access-log", "-", "PORT", &server.to_string()]);
    assert_eq!(instance.names(1), "a");
    eventually("a line", || instance.stdout().contains("event=end").then_some(()));
    instance.end();
    let run = |args: &[&str]| {
        let directory = Directory::new();
        let run = Run::new(BALANCE).args(args).args(["-b", "127.0.0.1", "1", "127.0.0.1:9"]);
        run.env("BALANCE_RUN_DIR", directory.path()).finish()
    };
    let refused = run(&["--access-log", "-"]).code(64).stderr;
    assert!(refused.contains("--access-log -: needs -f"), "{refused}");
    let port = own_address().port().to_string();
    let missing = Run::new(BALANCE)
        .args(["-f", "--access-log", "/no/such/directory/log", &port, "127.0.0.1:9"])
        .finish()
        .code(71)
        .stderr;
    assert!(missing.contains("--access-log /no/such/directory/log: No such file"), "{missing}");
}

#[test]
fn the_rotation_of_the_docs_loses_no_line() {
    if !has("logrotate") {
        return;
    }
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/observability.md");
    let docs = fs::read_to_string(docs).expect("the docs");
    let (_, text) = docs.split_once("```logrotate\n").expect("it is there");
    let (text, _) = text.split_once("```").expect("its end");
    let server = Server::named("a");
    let (instance, path) = logging(&[], &[&server]);
    // The log of this test belongs to its user, not to the package's.
    let text = text.replace("/var/log/balance/*.log", &path.display().to_string());
    let text = text.replace("su balance balance", "").replace("0640 balance balance", "0640");
    let directory = Directory::new();
    let config = directory.file("logrotate.conf", &text);
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).expect("our own file");
    let state = directory.path().join("state");
    let mut visits = 0;
    for round in 1..=3 {
        assert_eq!(instance.names(2), "aa");
        visits += 2;
        eventually("they are written", || (!lines(&path).is_empty()).then_some(()));
        let args = ["--force", "--state", &state.display().to_string(), &config.display().to_string()];
        Run::new("logrotate").args(args).finish().code(0);
        // A line that comes before balance has seen the move goes into the old file.
        eventually("it is written to", || {
            assert_eq!(instance.names(1), "a");
            visits += 1;
            (!lines(&path).is_empty()).then_some(())
        });
        assert!(round == 1 || path.with_extension("log.2.gz").exists(), "round {round}");
    }
    let count = || {
        let script = format!("cat {0} {0}.1; zcat {0}.*.gz", path.display());
        let all = Run::script(&directory, &script).finish().stdout;
        all.lines().inspect(|line| drop(fields(line))).count()
    };
    eventually("every line is somewhere", || (count() == visits).then_some(()));
    instance.end();
}

#[test]
fn the_rule_of_the_docs_is_one_that_rsyslog_knows() {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    if !has("rsyslogd") && !Path::new("/usr/sbin/rsyslogd").exists() {
        return;
    }
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/observability.md");
    let docs = fs::read_to_string(docs).expect("the docs");
    let (_, text) = docs.split_once("```rsyslog\n").expect("it is there");
    let (text, _) = text.split_once("```").expect("its end");
    let directory = Directory::new();
    let config = directory.file("balance.conf", text);
    let args = ["-N1", "-f", &config.display().to_string()];
    let checked = Run::new("rsyslogd").args(args).env("PATH", path).finish().code(0);
    assert!(!checked.stderr.contains("error"), "{checked}");
}

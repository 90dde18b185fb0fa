//! Tests with made-up instances: what is counted, what keys do, what the screen shows.

use std::time::Duration;

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Modifier};
use serde_json::{Value, json};

use super::desk::{TopDeed, TopDesk, TopMode, TopView};
use super::facts::{AnswerFacts, Shown, read_answer};
use super::figures::{age_of, connect};
use super::keys::TopKey;
use super::looked::{ChannelOrder, Looked, StartSpan, TopLook};
use super::paint::{TerminalPowers, width_of};
use super::verbs::TopOrder;
use super::view::paint;
use crate::control::execute::Reply;
use crate::control::json::{Content, Document, ProcessFacts};
use crate::control::render;
use crate::control::services::ServiceSnapshot;
use crate::sched::{
    Addresses, AdminState, ChannelId, ChannelSnapshot, ClientCounts, Ended, GroupId, GroupSnapshot,
    HealthSnapshot, HealthState, Policy, Snapshot, Weight,
};
use crate::spec::ChannelManner;

const ALL: TerminalPowers = TerminalPowers { has_color: true, has_unicode: true };
const SIZES: [(u16, u16); 3] = [(80, 24), (200, 60), (40, 10)];

/// A channel as `status json` prints it.
fn channel(number: u32, seconds: u64) -> Value {
    let address = format!("10.0.0.{}:80", number + 1);
    json!({
        "channel": number, "host": format!("web{number}.example"), "port": 80, "address": address,
        "addresses": [{"address": address, "up": true, "why": null}], "used": address, "state": "ENA", "enabled": true,
        "autodisabled": false, "removing": false, "paused": false, "up": true, "health": "up", "ramp_percent": null,
        "health_age_seconds": 723.0, "why": null, "failing": null, "weight": 1, "maxc": 100, "c": number + 1, "queue": 0,
        "totalc": seconds * 10 * u64::from(number + 1), "failed": 0, "sent_bytes": seconds * 1_000, "rcvd_bytes": seconds * 50_000,
        "connect_p50_seconds": 0.000028, "connect_p99_seconds": 0.0035, "ended": {"total": 3, "reasons": {"client closed": 3}},
        "last_error": null,
    })
}

fn service(name: &str) -> Value {
    json!({
        "name": name, "listen": ["0.0.0.0:80"], "phase": "serving", "paused": false, "connections": 6, "queue": 0,
        "channels": 4, "channels_up": 3, "file": null,
    })
}

/// What an instance of this age answers to the commands of one look.
fn answers(seconds: u64, names: &[&str]) -> Vec<Value> {
    let process =
        json!({"pid": 4711, "version": "4.0.0", "uptime_seconds": seconds as f64, "taken_over": null});
    let mut channels: Vec<Value> = (0..4).map(|number| channel(number, seconds)).collect();
    channels[2]["up"] = false.into();
    channels[2]["health"] = "ejected".into();
    channels[2]["why"] = "connect: connection refused".into();
    channels[2]["sent_bytes"] = 0.into();
    channels[2]["rcvd_bytes"] = 0.into();
    channels[2]["totalc"] = 0.into();
    channels[2]["failed"] = 7.into();
    let session = |id: u64| {
        json!({
            "id": id, "client": format!("192.0.2.{}:4000", 9 - id), "group": 0, "channel": id % 2, "age_seconds": 5.0,
            "idle_seconds": 0.5, "half_closed_seconds": null, "sent_bytes": id * seconds * 100, "rcvd_bytes": 7,
        })
    };
    let services: Vec<Value> = names.iter().map(|name| service(name)).collect();
    vec![
        json!({"answer": "services", "taken_at": "2026-11-29T08:44:51.000Z", "process": process, "services": services}),
        json!({
            "answer": "status", "process": process, "service": services[0], "changed_by_hand": null,
            "lost": {"total": 2, "reasons": {"queue full": 2, "no channel": 0}}, "ended": {"total": 0, "reasons": {}},
            "groups": [{"group": 0, "policy": "rr", "channels": channels}, {"group": 1, "policy": "hash", "channels": [channel(0, 0)]}],
        }),
        json!({"answer": "sessions", "process": process, "sessions": (1..=3).map(session).collect::<Vec<_>>()}),
        json!({"answer": "events", "process": process, "events": [
            {"at": "2026-11-29T08:42:21.438Z", "level": "info", "line": "event=started pid=4711"},
            {"at": "2026-11-29T08:43:21.438Z", "level": "notice", "line": "event=ejected group=0 channel=2 cause=\"connect: connection refused\""},
        ]}),
    ]
}

fn look_of(answers: &[Value], label: &str) -> TopLook {
    let mut look = TopLook::default();
    for answer in answers {
        match read_answer(&answer.to_string()).unwrap_or_else(|| panic!("no answer: {answer}")) {
            AnswerFacts::Services(one) => {
                (look.taken_at, look.process, look.services) = (one.taken_at, one.process, one.services);
            }
            AnswerFacts::Table(one) => look.tables.push((label.to_owned(), *one)),
            AnswerFacts::Sessions(list) => look.sessions = Some(list),
            AnswerFacts::Events(list) => look.events = Some(list),
            AnswerFacts::Failure(why) => panic!("{why}"),
        }
    }
    look
}

fn look(seconds: u64, names: &[&str]) -> TopLook {
    look_of(&answers(seconds, names), names[0])
}

/// Two looks, one second apart.
fn looked(names: &[&str]) -> Looked {
    let mut looked = Looked::default();
    for seconds in [100, 101] {
        looked.take(Duration::from_secs(seconds), look(seconds, names));
    }
    looked
}

fn painted(
    desk: &mut TopDesk,
    looked: &Looked,
    (width, height): (u16, u16),
    powers: TerminalPowers,
) -> Buffer {
    let mut cells = Buffer::empty(Rect::new(0, 0, width, height));
    paint(&mut cells, powers, desk, looked, Duration::from_secs(101));
    cells
}

fn lines(cells: &Buffer) -> Vec<String> {
    let line = |y: u16| (0..cells.area.width).map(|x| cells[(x, y)].symbol()).collect::<String>();
    (0..cells.area.height).map(|y| line(y).trim_end().to_owned()).collect()
}

fn screen(desk: &mut TopDesk, looked: &Looked, size: (u16, u16)) -> String {
    lines(&painted(desk, looked, size, ALL)).join("\n")
}

fn typed(desk: &mut TopDesk, looked: &Looked, keys: &str) -> Option<TopDeed> {
    keys.chars()
        .filter_map(|c| desk.key(if c == '\n' { TopKey::Enter } else { TopKey::Char(c) }, looked))
        .last()
}

#[test]
fn the_usual_size_shows_all_that_matters() {
    let expected = "\
balance 4.0.0  pid 4711  up 1m41s  channels                         08:44:51 UTC
 service listen     state     up  conns queue conn/s sent/s rcvd/s last 2m
>web     0.0.0.0:80 serving  3/4      6     0     70   3.0k   150k             █
 mail    0.0.0.0:80 serving  3/4      6     0      -      -      -
 chan address     state    c/maxc failed conn/s sent/s rcvd/s   p50 last 2m
>0/0  10.0.0.1:80 up        1/100      0     10   1.0k    50k  28us            █
 0/1  10.0.0.2:80 up        2/100      0     20   1.0k    50k  28us            █
 0/2  10.0.0.3:80 ejected   3/100      7 connect: connection refused
 0/3  10.0.0.4:80 up        4/100      0     40   1.0k    50k  28us            █
 1/0  10.0.0.1:80 up        1/100      0      0      0      0  28us
── 5 channels ── sorted by chan ────────────────────────────────────────────────
0/0 10.0.0.1:80 (web0.example)  ENA up for 12m03s  c/maxc 1/100  weight 1  queu…
why: -
totalc 1010  failed 0  p50 28us  p99 3.5ms  addrs 1/1  sent 101000  rcvd 5050k
── events, the newest first ────────────────────────────────────────────────────
 time     level   event
 08:43:21 notice  ejected group=0 channel=2 cause=\"connect: connection refused\"
 08:42:21 info    started pid=4711





q quit  ? help  Tab service  / filter  <> sort  d disable  e enable  2 sessions";
    let text = screen(&mut TopDesk::default(), &looked(&["web", "mail"]), (80, 24));
    assert!(text == expected, "{text}");
}

#[test]
fn a_large_screen_has_more_and_a_small_one_what_matters_most() {
    let looked = looked(&["web"]);
    let large = screen(&mut TopDesk::default(), &looked, (200, 60));
    for part in [
        "state health     since weight c/maxc queue   totalc failed",
        "ENA   ejected   12m03s      1",
        " connect: connection refused",
        "web: bytes a second, sent and received, last 10m00s",
        "lost clients: 2 (queue full 2)",
        "2026-11-29T08:43:21.438Z notice  ejected group=0",
    ] {
        assert!(large.contains(part), "no {part:?} in\n{large}");
    }
    let small = screen(&mut TopDesk::default(), &looked, (40, 10));
    let expected = "\
balance 4.0.0  pid 4711  up 1m41s
web serving  3/4 up  6 conns  70 conn/s…
 chan address     state    c/maxc conn/s
>0/0  10.0.0.1:80 up        1/100     10
 0/1  10.0.0.2:80 up        2/100     20
 0/2  10.0.0.3:80 ejected   3/100 conne…
 0/3  10.0.0.4:80 up        4/100     40
 1/0  10.0.0.1:80 up        1/100      0

q quit  ? help  / filter  <> sort";
    assert!(small == expected, "{small}");
}

#[test]
fn every_view_fits_every_size() {
    let looked = looked(&["web", "mail"]);
    let views = ["", "2", "3", "?", "\n", "2\n", "3\n", "d", "w12", "/web", "/nothing\n"];
    for keys in views {
        let widths = [0, 1, 2, 3, 5, 9, 20, 41, 79, 121];
        let sizes =
            widths.into_iter().flat_map(|width| (0..=40).step_by(2).map(move |height| (width, height)));
        for (width, height) in sizes.chain(SIZES).chain([(7, 1), (33, 3), (12, 5), (250, 7)]) {
            let mut desk = TopDesk::default();
            typed(&mut desk, &looked, keys);
            for line in lines(&painted(&mut desk, &looked, (width, height), ALL)) {
                assert!(width_of(&line) <= usize::from(width), "{keys:?} at {width}x{height}: {line:?}");
            }
            painted(&mut desk, &Looked::default(), (width, height), ALL);
        }
    }
}

#[test]
fn commands_are_shown_whole_and_sent_only_with_y() {
    let (several, one) = (looked(&["web", "mail"]), looked(&["web"]));
    for (keys, looked, line) in [
        ("jd", &one, "use web; group 0; disable 1"),
        ("jd", &several, "use web; group 0; disable 1"),
        ("D", &one, "use web; group 0; disable 0 hard"),
        ("e", &one, "use web; group 0; enable 0"),
        ("n", &one, "use web; group 0; drain 0"),
        ("GK", &one, "use web; group 1; kick 0"),
        ("p", &one, "use web; group 0; pause 0"),
        ("r", &one, "use web; group 0; resume 0"),
        ("z", &one, "use web; group 0; reset 0"),
        ("P", &several, "use web; pause all"),
        ("R", &one, "use web; resume all"),
        ("w12\n", &one, "use web; group 0; weight 0 12"),
        ("m0\n", &one, "use web; group 0; maxc 0 0"),
        ("\nd", &one, "use web; group 0; disable 0"),
        ("2jx", &one, "use web; close 2"),
        ("2jx", &several, "use web; close 2"),
    ] {
        for size in SIZES {
            let mut desk = TopDesk::default();
            typed(&mut desk, looked, keys);
            let text = screen(&mut desk, looked, size);
            let text = text.split(['\u{2502}', '\n']).map(str::trim).collect::<Vec<_>>().join(" ");
            assert!(text.contains(line), "{keys} at {size:?}: {text}");
            // No other key sends it, and nothing is sent without confirmation.
            assert_eq!(typed(&mut desk, looked, "\n"), None, "{keys}");
            assert!(matches!(desk.mode, TopMode::Confirm(_)), "{keys}");
            let sent = typed(&mut desk, looked, "y");
            assert!(matches!(&sent, Some(TopDeed::Send(order)) if order.line == line), "{keys}: {sent:?}");
            assert_eq!(typed(&mut desk, looked, "y"), None);
            typed(&mut desk, looked, &format!("123{keys}"));
            typed(&mut desk, looked, keys);
            // Keys that were typed for another purpose do not leave the box open for a y.
            for leaves in ['n', 'q', 'Y', 'd', 'k', 'x', ' '] {
                let mut desk = TopDesk::default();
                typed(&mut desk, looked, keys);
                assert_eq!(typed(&mut desk, looked, &leaves.to_string()), None, "{keys}");
                assert_eq!(desk.mode, TopMode::Tables);
            }
        }
    }
}

#[test]
fn a_number_that_is_none_sends_nothing() {
    let looked = looked(&["web"]);
    for keys in ["w\n", "wx\n", "w12\u{7f}"] {
        let mut desk = TopDesk::default();
        typed(&mut desk, &looked, keys);
        assert!(!matches!(desk.mode, TopMode::Confirm(_)), "{keys}");
    }
    let mut desk = TopDesk::default();
    typed(&mut desk, &looked, "w12");
    desk.key(TopKey::Backspace, &looked);
    typed(&mut desk, &looked, "9\n");
    assert!(matches!(&desk.mode, TopMode::Confirm(order) if order.line.ends_with("weight 0 19")));
}

#[test]
fn an_instance_that_does_not_answer_is_told_of_and_sent_nothing() {
    let mut looked = looked(&["web"]);
    looked.fails(Duration::from_secs(101), "no instance has this port or name".into());
    looked.fails(Duration::from_secs(109), "no instance has this port or name".into());
    let mut desk = TopDesk::default();
    typed(&mut desk, &looked, "d");
    assert_eq!(desk.mode, TopMode::Tables);
    let mut cells = Buffer::empty(Rect::new(0, 0, 80, 24));
    paint(&mut cells, ALL, &mut desk, &looked, Duration::from_secs(113));
    let text = lines(&cells);
    assert_eq!(text[0], "no answer for 12s: no instance has this port or name");
    assert_eq!(text[23], "nothing was sent: the instance does not answer");
    looked.take(Duration::from_secs(114), look(114, &["web"]));
    assert!(screen(&mut desk, &looked, (80, 24)).starts_with("balance 4.0.0"));
}

/// The order that is confirmed after these keys.
fn confirmed(keys: &str) -> TopOrder {
    let mut looked = Looked::default();
    looked.take(Duration::from_secs(100), look(100, &["web", "mail"]));
    let mut desk = TopDesk::default();
    typed(&mut desk, &looked, keys);
    match typed(&mut desk, &looked, "y") {
        Some(TopDeed::Send(order)) => order,
        other => panic!("{keys}: {other:?}"),
    }
}

#[test]
fn a_command_is_for_what_was_shown_or_for_nothing() {
    type Change = fn(&mut Vec<Value>);
    let nothing: Change = |_| {};
    let counted: Change = |all| {
        all[1]["groups"][0]["channels"][0]["c"] = 9.into();
        // The name was looked up again; the host as it was typed is the same.
        all[1]["groups"][0]["channels"][0]["address"] = "10.0.0.77:80".into();
    };
    let upgraded: Change = |all| {
        all.iter_mut().for_each(|one| {
            one["process"]["pid"] = 4712.into();
            one["process"]["taken_over"] = json!({"pid": 4711, "carried": 3, "draining": 0});
        });
    };
    let other_process: Change = |all| all.iter_mut().for_each(|one| one["process"]["pid"] = 4712.into());
    let moved: Change = |all| all[1]["service"]["listen"] = json!(["0.0.0.0:81"]);
    let draining: Change = |all| all[1]["service"]["phase"] = "draining".into();
    let other_service: Change = |all| all[1]["service"]["name"] = "mail".into();
    let no_service: Change = |all| drop(all.remove(1));
    let other_host: Change = |all| all[1]["groups"][0]["channels"][0]["host"] = "web9.example".into();
    let other_port: Change = |all| all[1]["groups"][0]["channels"][0]["port"] = 81.into();
    let no_channel: Change = |all| all[1]["groups"][0]["channels"] = json!([]);
    let no_group: Change = |all| all[1]["groups"] = json!([]);
    let other_client: Change = |all| all[2]["sessions"][0]["client"] = "192.0.2.8:4001".into();
    let younger: Change = |all| all[2]["sessions"][0]["age_seconds"] = 1.0.into();
    let ended: Change = |all| all[2]["sessions"] = json!([]);
    for (keys, change, told) in [
        ("d", nothing, None),
        ("d", counted, None),
        ("d", upgraded, None),
        ("d", other_client, None),
        ("P", no_group, None),
        ("2x", other_host, None),
        ("d", other_process, Some("another process answers now, 4712")),
        ("P", moved, Some("service web listens on 0.0.0.0:81 now")),
        ("R", draining, Some("service web is draining now")),
        ("d", other_service, Some("service web is not there any more")),
        ("d", no_service, Some("service web is not there any more")),
        ("d", other_host, Some("group 0 channel 0 is web9.example:80 now, not web0.example:80")),
        ("w7\n", other_port, Some("group 0 channel 0 is web0.example:81 now, not web0.example:80")),
        ("D", no_channel, Some("group 0 has no channel 0 any more")),
        ("GK", no_group, Some("group 1 has no channel 0 any more")),
        ("2x", upgraded, None),
        ("2x", other_client, Some("session 1 is another connection now")),
        ("2x", younger, Some("session 1 is another connection now")),
        ("2x", ended, Some("session 1 has ended")),
    ] {
        let order = confirmed(keys);
        let mut answers = answers(101, &["web", "mail"]);
        change(&mut answers);
        assert_eq!(order.target.difference(&look_of(&answers, "web")).as_deref(), told, "{}", order.line);
    }
    // A process with the same number that was started later, as in a container.
    let order = confirmed("d");
    let mut again = look(3, &["web", "mail"]);
    again.started = StartSpan::new(Duration::from_secs(103), Duration::from_secs(104), 3.0);
    assert_eq!(order.target.difference(&again).as_deref(), Some("the instance was started again"));
    again.started = StartSpan::new(Duration::from_secs(103), Duration::from_secs(160), 103.2);
    assert_eq!(order.target.difference(&again), None);
}

#[test]
fn what_is_confirmed_while_nothing_answers_is_not_sent() {
    let mut looked = looked(&["web"]);
    let mut desk = TopDesk::default();
    typed(&mut desk, &looked, "D");
    looked.fails(Duration::from_secs(109), "the instance does not answer".into());
    assert_eq!(typed(&mut desk, &looked, "y"), None);
    assert_eq!(desk.mode, TopMode::Tables);
    assert_eq!(
        desk.message.map(|one| one.text).as_deref(),
        Some("nothing was sent: the instance does not answer")
    );
}

#[test]
fn after_an_upgrade_the_time_and_a_frozen_screen_are_told_as_before() {
    let mut answers = answers(101, &["web"]);
    answers.iter_mut().for_each(|one| {
        one["process"]["taken_over"] = json!({"pid": 11452, "carried": 4, "draining": 0});
    });
    let mut looked = Looked::default();
    looked.take(Duration::from_secs(101), look_of(&answers, "web"));
    for keys in ["", "3"] {
        for width in 20..200 {
            let mut desk = TopDesk::default();
            typed(&mut desk, &looked, keys);
            let title = |desk: &mut TopDesk| lines(&painted(desk, &looked, (width, 24), ALL)).remove(0);
            let live = title(&mut desk);
            assert!(width < 80 || live.contains("08:44:51"), "{width}: {live}");
            typed(&mut desk, &looked, " ");
            let frozen = title(&mut desk);
            assert!(width < 40 || frozen.contains("FROZEN at "), "{width}: {frozen}");
            assert!(
                width < 160 || frozen.contains("from process 11452: carried 4, draining 0"),
                "{width}: {frozen}"
            );
        }
    }
}

#[test]
fn the_filter_and_the_order_choose_rows() {
    let looked = looked(&["web"]);
    let shown = |desk: &TopDesk| -> Vec<String> {
        looked.channels(&desk.filter, desk.channel_order).iter().map(|row| row.name()).collect()
    };
    let mut desk = TopDesk::default();
    typed(&mut desk, &looked, "/EJEC");
    assert_eq!(shown(&desk), ["0/2"]);
    desk.key(TopKey::Esc, &looked);
    assert_eq!(shown(&desk).len(), 5);
    typed(&mut desk, &looked, "/web3\n");
    assert_eq!(shown(&desk), ["0/3"]);
    assert!(screen(&mut desk, &looked, (80, 24)).contains("1 of 5 channels ── filter: web3"));
    // Keys are commands again, for the rows that the filter leaves.
    typed(&mut desk, &looked, "d");
    assert!(matches!(&desk.mode, TopMode::Confirm(order) if order.line == "use web; group 0; disable 3"));
    typed(&mut desk, &looked, "n");
    desk.key(TopKey::Esc, &looked);
    assert_eq!(shown(&desk), ["0/0", "0/1", "0/2", "0/3", "1/0"]);
    while desk.channel_order.column != ChannelOrder::Conns {
        typed(&mut desk, &looked, ">");
    }
    assert_eq!(shown(&desk), ["0/3", "0/1", "0/0", "0/2", "1/0"]);
    typed(&mut desk, &looked, "o");
    assert_eq!(shown(&desk).last().map(String::as_str), Some("0/3"));
    assert!(screen(&mut desk, &looked, (80, 24)).contains("sorted by conn/s, reversed"));
    while desk.channel_order.column != ChannelOrder::State {
        typed(&mut desk, &looked, "<");
    }
    assert_eq!(shown(&desk)[0], "0/2", "what somebody should look at comes first");
    // Sessions are sorted separately.
    typed(&mut desk, &looked, "2>");
    let clients: Vec<u64> =
        looked.sessions("", desk.session_order).iter().map(|row| row.session.id).collect();
    assert_eq!(clients, [3, 2, 1]);
}

#[test]
fn what_is_selected_stays_so_wherever_it_moves() {
    let mut looked = looked(&["web"]);
    let mut desk = TopDesk::default();
    typed(&mut desk, &looked, "jjj");
    assert_eq!(desk.place(&looked), Some(3));
    while desk.channel_order.column != ChannelOrder::Conns {
        typed(&mut desk, &looked, ">");
    }
    assert_eq!(desk.place(&looked), Some(0));
    // This also holds after an upgrade. While the channel is away, the row in its place is selected.
    looked.take(Duration::from_secs(102), look(102, &["web"]));
    assert_eq!(desk.place(&looked), Some(0));
    typed(&mut desk, &looked, "GG");
    assert_eq!(desk.place(&looked), Some(4));
    typed(&mut desk, &looked, "jg");
    assert_eq!(desk.place(&looked), Some(0));
    typed(&mut desk, &looked, "/nothing\n");
    assert_eq!(desk.place(&looked), None);
    typed(&mut desk, &looked, "jdK\n");
    assert_eq!(desk.mode, TopMode::Tables);
}

#[test]
fn services_follow_each_other_round() {
    let looked = looked(&["web", "mail", "imap"]);
    let mut desk = TopDesk::default();
    assert_eq!(desk.key(TopKey::Tab, &looked), Some(TopDeed::Look));
    assert_eq!(desk.service.as_deref(), Some("mail"));
    desk.key(TopKey::BackTab, &looked);
    assert_eq!(desk.service.as_deref(), Some("imap"));
    let one = self::looked(&["web"]);
    assert_eq!(TopDesk::default().key(TopKey::Tab, &one), None);
    assert_eq!(TopDesk::default().key(TopKey::Tab, &Looked::default()), None);
}

#[test]
fn rates_are_what_came_between_two_looks() {
    let rates = |looked: &Looked| looked.service_rates("web").map(|one| [one.conns, one.sent, one.rcvd]);
    let mut looked = Looked::default();
    looked.take(Duration::from_secs(7), look(100, &["web"]));
    assert_eq!(rates(&looked), None, "one look says nothing of a rate");
    // The rate goes by the instance's clock, not by the time that its answer took.
    looked.take(Duration::from_secs(17), look(102, &["web"]));
    assert_eq!(rates(&looked), Some([70.0, 3_000.0, 150_000.0]));
    // It was asked twice at the same time.
    looked.take(Duration::from_secs(17), look(102, &["web"]));
    assert_eq!(rates(&looked), None);
    // After a restart its counters and its age are lower.
    looked.take(Duration::from_secs(20), look(3, &["web"]));
    assert_eq!(rates(&looked), None);
    looked.take(Duration::from_secs(21), look(4, &["web"]));
    assert_eq!(rates(&looked), Some([70.0, 3_000.0, 150_000.0]));
    // After `reset`, only what has come since counts.
    let mut answers = answers(6, &["web"]);
    answers[1]["groups"][0]["channels"][0]["sent_bytes"] = 500.into();
    looked.take(Duration::from_secs(23), look_of(&answers, "web"));
    assert_eq!(rates(&looked), Some([70.0, 2_250.0, 150_000.0]));
    // Another process that is not a successor, though its age fits.
    let mut other = self::answers(9, &["web"]);
    other.iter_mut().for_each(|one| one["process"]["pid"] = 5.into());
    looked.take(Duration::from_secs(25), look_of(&other, "web"));
    assert_eq!(rates(&looked), None);
    let mut next = self::answers(10, &["web"]);
    next.iter_mut().for_each(|one| {
        one["process"]["pid"] = 6.into();
        one["process"]["taken_over"] = json!({"pid": 5, "carried": 3, "draining": 0});
    });
    looked.take(Duration::from_secs(26), look_of(&next, "web"));
    assert_eq!(rates(&looked), Some([70.0, 3_000.0, 150_000.0]));
}

#[test]
fn bars_show_the_past_and_its_gaps() {
    let mut looked = Looked::default();
    for seconds in (0..=60).chain(90..=120) {
        looked.take(Duration::from_secs(seconds), look(seconds + 1, &["web"]));
    }
    let bars = |columns| {
        let samples = looked.samples.of("web").expect("it was looked at");
        samples.bars((0, 0), Duration::from_secs(120), Duration::from_secs(120), columns)
    };
    let known: Vec<bool> = bars(12).iter().map(Option::is_some).collect();
    let (yes, no) = (true, false);
    assert_eq!(known, [yes, yes, yes, yes, yes, yes, no, no, yes, yes, yes, yes]);
    assert!(bars(12)[11].is_some_and(|last| (last - 51_000.0).abs() < 1.0));
    assert_eq!((bars(0).len(), bars(1).len()), (0, 1));
}

#[test]
fn what_is_kept_has_a_bound() {
    let mut looked = Looked::default();
    for seconds in 0..2_000 {
        looked.take(Duration::from_secs(seconds), look(seconds + 1, &["web"]));
    }
    let samples = looked.samples.of("web").expect("it was looked at");
    let bars = samples.all_bars(Duration::from_secs(2_000), Duration::from_secs(2_000), 2_000);
    assert_eq!(bars.iter().flatten().count(), 600);
    looked.take(Duration::from_secs(2_001), look(2_001, &["mail"]));
    assert!(looked.samples.of("web").is_none());
}

#[test]
fn strangers_steer_no_terminal() {
    let mut answers = answers(100, &["we\u{1b}[2Jb"]);
    answers[1]["groups"][0]["channels"][0]["why"] = "\u{1b}]0;x\u{7}\u{202e}gnp\n\u{200b}".into();
    answers[1]["groups"][0]["channels"][0]["up"] = false.into();
    answers[1]["lost"]["reasons"] = json!({"\u{9b}31m": 4});
    answers[3]["events"][1]["line"] = "event=\u{1b}c\u{0}".into();
    let mut looked = Looked::default();
    looked.take(Duration::from_secs(100), look_of(&answers, "we<U+001B>[2Jb"));
    for keys in ["", "2", "3", "\n", "3\n", "d"] {
        for size in SIZES {
            let mut desk = TopDesk::default();
            typed(&mut desk, &looked, keys);
            let cells = painted(&mut desk, &looked, size, ALL);
            for cell in &cells.content {
                let is_shown =
                    |c: char| !c.is_control() && Shown::new(&c.to_string()).as_str().chars().eq([c]);
                assert!(cell.symbol().chars().all(is_shown), "{:?}", cell.symbol());
            }
        }
    }
    let text = screen(&mut TopDesk::default(), &looked, (200, 60));
    assert!(text.contains("<U+001B>]0;x<U+0007><U+202E>gnp<U+000A><U+200B>"), "{text}");
}

#[test]
fn without_colours_and_with_ascii_alone_the_words_are_the_same() {
    let looked = looked(&["web", "mail"]);
    let powers = TerminalPowers { has_color: false, has_unicode: false };
    for keys in ["", "2", "3", "?", "d", "w", "\n"] {
        for size in SIZES {
            let mut desk = TopDesk::default();
            typed(&mut desk, &looked, keys);
            let plain = painted(&mut desk, &looked, size, powers);
            assert!(
                plain.content.iter().all(|cell| cell.fg == Color::Reset && cell.symbol().is_ascii()),
                "{keys}"
            );
            let words = |cells: &Buffer| -> Vec<String> {
                let text = lines(cells).join(" ");
                text.split(|c: char| !c.is_ascii_alphanumeric())
                    .filter(|word| word.len() > 1)
                    .map(str::to_owned)
                    .collect()
            };
            assert_eq!(words(&plain), words(&painted(&mut desk, &looked, size, ALL)), "{keys} at {size:?}");
        }
    }
    let colored = painted(&mut TopDesk::default(), &looked, (80, 24), ALL);
    assert!(colored.content.iter().any(|cell| cell.fg == Color::Red));
    let selected = |cells: &Buffer| cells[(1, 5)].modifier.contains(Modifier::REVERSED);
    assert!(selected(&colored) && selected(&painted(&mut TopDesk::default(), &looked, (80, 24), powers)));
}

#[test]
fn a_frozen_screen_says_so_and_looks_only_when_it_is_told_to() {
    let looked = looked(&["web", "mail"]);
    let mut desk = TopDesk::default();
    assert_eq!((typed(&mut desk, &looked, " "), desk.is_frozen), (None, true));
    for size in [(80, 24), (200, 60)] {
        assert!(
            screen(&mut desk, &looked, size).lines().next().is_some_and(|line| line.contains("FROZEN at "))
        );
    }
    assert_eq!((typed(&mut desk, &looked, " "), desk.is_frozen), (Some(TopDeed::Look), false));
}

#[test]
fn views_are_left_the_way_they_were_come_to() {
    let looked = looked(&["web"]);
    let mut desk = TopDesk::default();
    typed(&mut desk, &looked, "3");
    assert_eq!(desk.view, TopView::Events);
    typed(&mut desk, &looked, "?");
    assert_eq!(desk.mode, TopMode::Help);
    let help = screen(&mut desk, &looked, (80, 60));
    assert!(help.contains("Space        freeze") && help.contains("x  close the session"), "{help}");
    typed(&mut desk, &looked, "jjjj");
    let last = screen(&mut desk, &looked, (80, 60));
    assert_eq!((last, desk.scrolled), (help, 0), "what fits is not scrolled");
    assert_eq!((typed(&mut desk, &looked, "q"), &desk.mode), (None, &TopMode::Tables));
    assert_eq!(desk.view, TopView::Events);
    typed(&mut desk, &looked, "\n");
    assert!(screen(&mut desk, &looked, (40, 10)).contains("event=ejected"));
    desk.key(TopKey::Esc, &looked);
    assert_eq!(typed(&mut desk, &looked, "q"), Some(TopDeed::Leave));
    for key in [TopKey::Ctrl('c'), TopKey::Ctrl('z'), TopKey::Ctrl('l')] {
        // These keys act in every mode.
        for keys in ["", "?", "/", "w", "d", "\n"] {
            let mut desk = TopDesk::default();
            typed(&mut desk, &looked, keys);
            assert!(desk.key(key, &looked).is_some(), "{key:?} after {keys:?}");
        }
    }
}

#[test]
fn answers_that_make_no_sense_are_none() {
    for line in [
        "",
        "{",
        "[]",
        "{\"answer\":7}",
        "{\"answer\":\"doctor\"}",
        "{\"answer\":\"sessions\"}",
        "using service web",
    ] {
        assert!(read_answer(line).is_none(), "{line}");
    }
    assert!(matches!(
        read_answer(r#"{"schema":1,"answer":"error","error":"no such channel 9","exit_code":65}"#),
        Some(AnswerFacts::Failure(why)) if why == "no such channel 9"
    ));
    // Unknown fields of later versions are ignored, and missing fields of older ones are empty.
    assert!(matches!(
        read_answer(r#"{"answer":"status","groups":[{"more":1}]}"#),
        Some(AnswerFacts::Table(_))
    ));
}

/// Channels in every possible state.
fn all_states() -> Vec<ChannelSnapshot> {
    let addresses: Vec<std::net::SocketAddr> =
        ["10.0.0.1:80", "[2001:db8::1]:80"].map(|one| one.parse().expect("an address")).to_vec();
    let states = [AdminState::Enabled, AdminState::Disabled, AdminState::DisabledHard];
    let healths = [
        HealthState::Up,
        HealthState::Untried,
        HealthState::Ramping(16),
        HealthState::Ejected,
        HealthState::Down,
    ];
    let mut all = Vec::new();
    for state in states {
        for health in healths {
            for bits in 0..32_u32 {
                let is = |bit: u32| bits & (1 << bit) != 0;
                let why = is(0).then(|| "connect: connection refused".to_owned());
                all.push(ChannelSnapshot {
                    retires: false,
                    paused: is(1),
                    id: ChannelId::new(all.len()).expect("in range"),
                    addresses: Addresses::new(addresses.iter().copied().map(Into::into).collect())
                        .expect("some"),
                    addresses_out: is(2)
                        .then(|| (addresses[1].into(), "timed out".to_owned()))
                        .into_iter()
                        .collect(),
                    used: is(3).then_some(addresses[1].into()),
                    naming: None,
                    member_of: None,
                    unanswered: false,
                    autodisabled: false,
                    state,
                    maxc: std::num::NonZeroU32::new(bits),
                    weight: Weight::ONE,
                    manner: ChannelManner::default(),
                    health: HealthSnapshot {
                        state: health,
                        age: Duration::from_millis(u64::from(bits) * 4_321),
                        why,
                        failing: (health == HealthState::Up).then_some((1, 3)),
                    },
                    active: bits,
                    waiting: 0,
                    totalc: 7,
                    failed: 0,
                    last_error: is(4).then(|| ("http: status 503".to_owned(), Duration::from_secs(75))),
                    connect_p50: is(3).then_some(Duration::from_micros(28)),
                    connect_p99: is(3).then_some(Duration::from_micros(1_234_567)),
                    sent_bytes: 0,
                    rcvd_bytes: 0,
                    ended: Ended::default(),
                });
            }
        }
    }
    all
}

#[test]
fn the_words_are_those_of_status() {
    let groups = vec![GroupSnapshot {
        id: GroupId::FIRST,
        policy: Policy::RoundRobin,
        numbers: 480,
        channels: all_states(),
        families: Vec::new(),
    }];
    let table = Snapshot {
        groups,
        paused: false,
        losses: Vec::new(),
        served: ClientCounts::default(),
        stale_lists: None,
        not_listening: None,
        lost_socket: None,
    };
    let text = render::text(&Reply::Status(table.clone(), Vec::new(), Vec::new(), None));
    let service = ServiceSnapshot {
        name: None,
        listen: Vec::new(),
        up: 0,
        channels: 0,
        connections: 0,
        is_draining: false,
        listens_nowhere: false,
        is_paused: false,
        waiting: 0,
        differs: None,
    };
    let told = Content::Channels { word: "status", service, table, sections: Vec::new(), differences: None };
    let process = ProcessFacts { pid: 1, uptime: Duration::ZERO, carried: None };
    let document = Document { taken_at: Duration::from_secs(1_795_910_399), process, told };
    let json = render::text(&Reply::Json(Box::new(document)));
    let Some(AnswerFacts::Table(facts)) = read_answer(&json) else { panic!("no table: {json}") };
    let channels = &facts.groups[0].channels;
    assert_eq!((channels.len(), text.lines().count()), (480, 481));
    for (line, one) in text.lines().skip(1).zip(channels) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let health = one.health_word();
        let (since, load, addrs) = (age_of(one.health_age_seconds), one.load(), one.addresses_word());
        let (p50, p99) = (connect(one.connect_p50_seconds), connect(one.connect_p99_seconds));
        let used = one.used.as_ref().map_or("-", Shown::as_str);
        let ours = [
            one.address.as_str(),
            one.state.as_str(),
            &health,
            &since,
            "1",
            &load,
            "0",
            "7",
            "0",
            &p50,
            &p99,
            &addrs,
            used,
        ];
        // The options are between them and are not shown here.
        assert_eq!((&words[2..15], words[15]), (&ours[..], "-"), "{line}");
        assert!(
            line.ends_with(&one.why_word()) && words[16..].join(" ") == one.why_word(),
            "{line}: {}",
            one.why_word()
        );
    }
}

//! `show json` and other JSON output: the same numbers and words as the text, in the form of the schema.
//!
//! Source: docs/json.md, dist/balance.schema.json.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::harness::{DEADLINE, Instance, Refusing, Run, Server, Setup, eventually, own_address};

/// The answer to one command; one line, and exactly that.
#[track_caller]
fn ask(instance: &Instance, command: &str) -> Value {
    let answer = instance.ctl(command).code(0).stdout;
    assert_eq!(answer.find('\n'), Some(answer.len() - 1), "{answer}");
    serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

/// Holds these answers, one a line, against the schema in `dist/`, and lets jq read them.
#[track_caller]
fn assert_conforms(instance: &Instance, answers: &str) {
    let root = env!("CARGO_MANIFEST_DIR");
    let judge = format!("python3 -B {root}/ci/conforms {root}/dist/balance.schema.json");
    // A long answer is much work for it.
    Run::script(&instance.directory, &judge).stdin(answers).within(DEADLINE * 6).finish().code(0);
    let lines = answers.lines().count().to_string() + "\n";
    Run::script(&instance.directory, "jq -c . | wc -l").stdin(answers).finish().code(0).out(&lines);
}

/// All channels of an answer, each with the number of its group.
fn channels(answer: &Value) -> Vec<(&Value, &Value)> {
    let groups = answer["groups"].as_array().expect("groups").iter();
    groups
        .flat_map(|group| {
            group["channels"].as_array().expect("channels").iter().map(move |one| (&group["group"], one))
        })
        .collect()
}

/// A number as the text forms print it.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What `status` makes of a span: the text is never more exact than the number.
fn is_said(text: &str, seconds: &Value) -> bool {
    let Some(seconds) = seconds.as_f64() else { return text == "-" };
    let (number, factor) = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)]
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?.parse::<f64>().ok()?, factor)))
        .expect("a span");
    (number * factor - seconds).abs() <= factor * 0.06 + 1e-9
}

/// Compares the answers of an instance at rest.
#[track_caller]
fn assert_same(instance: &Instance) {
    let (shown, status) = (ask(instance, "show json"), ask(instance, "status json"));
    let table = instance.show();
    let rows: Vec<_> = channels(&shown);
    assert_eq!(rows.len(), table.len());
    for ((group, channel), row) in rows.iter().zip(&table) {
        let policy = shown["groups"].as_array().expect("groups").iter().find(|one| one["group"] == **group);
        let policy = cell(&policy.expect("its group")["policy"]);
        let as_shown = match policy.as_str() {
            "rr" => "RR",
            "hash" => "Hash",
            "leastconn" => "LC",
            "p2c" => "P2C",
            "first" => "Fst",
            other => panic!("{other}"),
        };
        assert_eq!(row.policy, as_shown);
        let told =
            json!([row.group, row.channel, row.state, row.address, row.c, row.totalc, row.sent, row.rcvd]);
        let one = channel;
        let said = [&one["channel"], &one["state"], &one["address"], &one["c"], &one["totalc"]];
        let bytes = [&one["sent_bytes"], &one["rcvd_bytes"]];
        let said: Vec<Value> = std::iter::once(*group).chain(said).chain(bytes).cloned().collect();
        assert_eq!(Value::from(said), told);
        assert_eq!(one["maxc"].as_u64().unwrap_or(0), row.maxc);
        assert_eq!(one["enabled"], json!(row.state == "ENA"));
    }
    // Of the one form and of the other the same, but for the time that goes by.
    let still = |answer: &Value| {
        let mut channels: Vec<Value> = channels(answer).into_iter().map(|(_, one)| one.clone()).collect();
        for channel in &mut channels {
            let channel = channel.as_object_mut().expect("a channel");
            channel.retain(|name, _| !name.starts_with("health_") && name != "last_error");
        }
        (channels, answer["lost"].clone(), answer["service"].clone(), answer["changed_by_hand"].clone())
    };
    assert_eq!(still(&shown), still(&status));
    assert_eq!((&shown["answer"], &status["answer"]), (&json!("show"), &json!("status")));

    let text = instance.ctl("status").code(0).stdout;
    let lines: Vec<Vec<&str>> = text
        .lines()
        .skip(1)
        .filter(|line| line.starts_with(' '))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), rows.len(), "{text}");
    for (words, (group, one)) in lines.iter().zip(channels(&status)) {
        let health = match one["ramp_percent"].as_u64() {
            Some(percent) => format!("ramp:{percent}%"),
            None => cell(&one["health"]),
        };
        let up = one["addresses"].as_array().expect("addresses").iter();
        let addresses = (up.clone().filter(|address| address["up"] == true).count(), up.count());
        let said = [
            cell(group),
            cell(&one["channel"]),
            cell(&one["address"]),
            cell(&one["state"]),
            health,
            words[5].to_owned(),
            cell(&one["weight"]),
            format!("{}/{}", one["c"], cell(&one["maxc"])),
            cell(&one["queue"]),
            cell(&one["totalc"]),
            cell(&one["failed"]),
        ];
        assert_eq!(said.as_slice(), &words[..11], "{text}");
        assert!(is_said(words[11], &one["connect_p50_seconds"]), "{one}: {text}");
        assert!(is_said(words[12], &one["connect_p99_seconds"]), "{one}: {text}");
        assert_eq!(words[13], format!("{}/{}", addresses.0, addresses.1), "{text}");
        assert_eq!(words[14], cell(&one["used"]), "{text}");
        let proxy = match one["proxy"].as_str() {
            None => "-",
            Some("v2") => "proxy",
            Some(_) => "proxy=v1",
        };
        assert_eq!(words[15], proxy, "{text}");
        let why = words[16..].join(" ");
        for said in [&one["why"], &one["last_error"]["error"]].into_iter().filter_map(Value::as_str) {
            assert!(why.contains(said), "{said}: {why}");
        }
        assert_eq!(one["paused"] == true, why.starts_with("paused"), "{why}");
    }
    let lost = &status["lost"];
    let reasons = lost["reasons"].as_object().expect("reasons").iter();
    let reasons: BTreeMap<_, _> =
        reasons.filter_map(|(why, n)| n.as_u64().filter(|&n| n > 0).map(|n| (why.clone(), n))).collect();
    let said = instance.losses();
    let inside = said.split_once('(').map_or("", |(_, inside)| inside.trim_end_matches(')'));
    let told = inside.split(", ").filter_map(|one| one.rsplit_once(' '));
    let told: BTreeMap<_, u64> =
        told.map(|(why, n)| (why.to_owned(), n.parse().expect("a number"))).collect();
    assert_eq!(reasons, told, "{said}");
    assert_eq!(lost["total"].as_u64(), Some(told.values().sum()), "{said}");

    let services = ask(instance, "services json");
    let text = instance.ctl("services").code(0).stdout;
    let line: Vec<_> = text.lines().nth(1).expect("one service").split_whitespace().collect();
    let service = &services["services"][0];
    assert_eq!(&status["service"], service);
    let listen = service["listen"].as_array().expect("addresses").iter().map(cell).collect::<Vec<_>>();
    let state = if service["paused"] == true { "paused".into() } else { cell(&service["phase"]) };
    let said = [
        cell(&service["name"]),
        listen.join(","),
        format!("{}/{}", service["channels_up"], service["channels"]),
        cell(&service["connections"]),
        state,
        cell(&service["file"]),
    ];
    assert_eq!(said.as_slice(), line, "{text}");
    let up = rows.iter().filter(|(_, one)| one["up"] == true).count();
    assert_eq!(
        (service["channels_up"].as_u64(), service["channels"].as_u64()),
        (Some(up as u64), Some(rows.len() as u64))
    );

    let ended = ask(instance, "ended json");
    let text = instance.ctl("ended").code(0).stdout;
    let list = ended["ended"].as_array().expect("connections that have ended");
    assert_eq!(list.len(), text.lines().count() - 1, "{text}");
    for (one, line) in list.iter().zip(text.lines().skip(1)) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let said = ["id", "client", "group", "channel"].map(|name| cell(&one[name]));
        assert_eq!(said.as_slice(), &words[..4], "{text}");
        let said = ["sent_bytes", "rcvd_bytes"].map(|name| cell(&one[name]));
        assert_eq!(said.as_slice(), &words[6..8], "{text}");
        assert_eq!(cell(&one["end"]), words[8..].join(" "), "{text}");
    }

    let sessions = ask(instance, "sessions json");
    let text = instance.ctl("sessions").code(0).stdout;
    let mut lines: Vec<Vec<&str>> =
        text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let mut list = sessions["sessions"].as_array().expect("sessions").clone();
    // Workers are asked one after the other, so those of nearly the same age may change places.
    lines.sort_by_key(|words| words[0].parse::<u64>().expect("a number"));
    list.sort_by_key(|one| one["id"].as_u64());
    assert_eq!(list.len(), lines.len());
    for (one, words) in list.iter().zip(&lines) {
        let said = ["id", "client", "group", "channel"].map(|name| cell(&one[name]));
        assert_eq!(said.as_slice(), &words[..4], "{text}");
        let said = ["sent_bytes", "rcvd_bytes"].map(|name| cell(&one[name]));
        assert_eq!(said.as_slice(), &words[6..8], "{text}");
        assert_eq!(one["half_closed_seconds"].is_null(), words[8] == "-", "{text}");
    }
    let events = ask(instance, "events 1000 json");
    let list = events["events"].as_array().expect("events").iter();
    let lines: Vec<_> = list
        .map(|one| format!("{} {} {}", cell(&one["at"]), cell(&one["level"]), cell(&one["line"])))
        .collect();
    assert_eq!(lines.join("\n") + "\n", instance.ctl("events 1000").code(0).stdout);

    let answers = ["show json", "status json", "sessions json", "services json", "events json", "ended json"];
    let all: String = answers.iter().map(|command| instance.ctl(command).code(0).stdout).collect();
    assert_conforms(instance, &all);
}

#[test]
fn json_says_the_numbers_and_the_words_of_the_text() {
    // The one of the second group ends its direction at once, and stays.
    let half_closing = |mut stream: TcpStream, _| {
        let _ = stream.shutdown(Shutdown::Write);
        while matches!(stream.read(&mut [0; 64]), Ok(1..)) {}
    };
    let (a, b, dead) = (Server::named("a"), Server::with(half_closing), Refusing::new());
    let instance = Instance::before(&[
        &"--queue",
        &"1",
        &"--queue-timeout",
        &"1h",
        &format!("{a}:2,weight=3"),
        &dead,
        &"!",
        &format!("{b}:1"),
        &"%",
    ]);
    assert_same(&instance);
    let mut clients = [instance.named().0, instance.named().0];
    clients[0].send("12345");
    clients[0].recv(5);
    let half = instance.connect();
    instance.await_show("it is connected", |rows| rows[2].c == 1);
    // One waits, and one finds the queue full.
    let waits = instance.connect();
    eventually("it waits", || (ask(&instance, "show json")["service"]["queue"] == 1).then_some(()));
    assert_eq!(instance.connect().recv_all(), b"");
    eventually("the dead one was met", || instance.health().contains("ejected").then_some(()));
    eventually("one has half ended", || (instance.half_closed() == 1).then_some(()));
    assert_same(&instance);
    let shown = ask(&instance, "show json");
    let dead = &shown["groups"][0]["channels"][1];
    assert_eq!((&dead["up"], &dead["health"]), (&json!(false), &json!("ejected")));
    assert_eq!(dead["why"], "connect: connection refused");
    assert_eq!(dead["last_error"]["error"], "connect: connection refused");
    assert_eq!(shown["lost"], ask(&instance, "status json")["lost"]);
    assert_eq!(shown["lost"]["reasons"]["queue full"], 1);
    let events = ask(&instance, "events json");
    let last = events["events"].as_array().and_then(|list| list.last()).expect("an event");
    assert_eq!((&last["event"], &last["fields"]["channel"]), (&json!("ejected"), &json!(1)), "{events}");
    assert_eq!(last["fields"]["cause"], "connect: connection refused");
    assert_eq!(shown["groups"][0]["channels"][0]["host"], "127.0.0.1");
    assert_eq!(shown["process"]["pid"], instance.pid());
    instance.ctl("disable 1; group 1; disable 0 hard; group 0; pause 0; weight 0 0").code(0);
    assert_same(&instance);
    instance.ctl("resume 0; pause; create 127.0.0.1 9; remove 2").code(0);
    assert_same(&instance);
    // Of one channel, as the text has it.
    let of_one = ask(&instance, "sessions 0 json");
    assert_eq!(of_one["sessions"].as_array().map(Vec::len), Some(2));
    instance.ctl("resume").code(0);
    drop((clients, half, waits));
    eventually("all are gone", || (ask(&instance, "sessions json")["sessions"] == json!([])).then_some(()));
    assert_same(&instance);
    // Whoever was connected has ended, and is counted once at its channel and once at the service.
    let shown = ask(&instance, "show json");
    let number = |value: &Value| value.as_u64().expect("a number");
    let mut with_channel = 0;
    for (_, one) in channels(&shown) {
        assert_eq!(number(&one["ended"]["total"]) + number(&one["failed"]), number(&one["totalc"]), "{one}");
        let reasons = one["ended"]["reasons"].as_object().expect("reasons").values();
        assert_eq!(one["ended"]["total"], json!(reasons.map(number).sum::<u64>()));
        with_channel += number(&one["ended"]["total"]);
    }
    assert_eq!(number(&shown["ended"]["total"]), with_channel + number(&shown["lost"]["total"]), "{shown}");
    assert_eq!(shown["ended"]["reasons"]["queue full"], 1);
    instance.end();
}

#[test]
fn an_error_is_json_for_those_who_asked_for_it() {
    let instance = Instance::start(["PORT", "127.0.0.1:9"]);
    let error =
        r#"{"schema":1,"answer":"error","error":"no such channel 7","exit_code":65}"#.to_owned() + "\n";
    instance.ctl("sessions 7 json").code(65).out(&error);
    assert_conforms(&instance, &error);
    instance.ctl("sessions 7").code(65).out("no such channel 7\n");
    for text in ["show xml", "show json 1", "show Json", "show js"] {
        instance.ctl(text).code(64).out("syntax error\n");
    }
    for name in ["status", "services"] {
        instance.ctl(&format!("{name} xml")).code(64).out(&format!("usage: {name} [json]\n"));
    }
    instance.ctl("sessions json 0").code(64).out("usage: sessions [<channel>] [json]\n");
    // Short forms as everywhere, and several commands in one.
    let both = instance.ctl("s json; st json; s").code(0).stdout;
    let answers: Vec<&str> = both.lines().collect();
    assert_eq!(answers.len(), 4, "two answers, and two lines of a table");
    assert!(answers[..2].iter().all(|answer| serde_json::from_str::<Value>(answer).is_ok()), "{both}");
    instance.end();
}

#[test]
fn a_line_of_any_length_comes_whole_by_every_door() {
    const CHANNELS: usize = 2_000;
    let channels = (1..=CHANNELS).map(|n| format!("127.0.0.1:{}", 20_000 + n));
    let instance = Instance::start(["PORT".to_owned(), "--no-eject".to_owned()].into_iter().chain(channels));
    let ports = |answer: &str| -> Vec<u64> {
        let answer: Value = serde_json::from_str(answer).expect("one line of JSON");
        self::channels(&answer).iter().filter_map(|(_, one)| one["port"].as_u64()).collect()
    };
    let expected: Vec<u64> = (1..=CHANNELS as u64).map(|n| 20_000 + n).collect();
    let once = instance.ctl("show json").code(0).stdout;
    assert!(once.len() > 1 << 20, "{} bytes are more than any buffer", once.len());
    assert_eq!(ports(&once), expected);
    assert_conforms(&instance, &once);
    let said = instance.shell("show json\nrr\n").code(0).stdout;
    let line = said.lines().find_map(|line| line.strip_prefix("balance[0] {")).expect("the answer");
    assert_eq!(ports(&format!("{{{line}")), expected);
    assert!(
        said.ends_with("balance[0] group 0 set to round robin\nbalance[0] \n"),
        "the next answer is one of its own"
    );
    let ip = instance.addr.ip();
    let path = instance.directory.path().join(format!("run/balance.{}.{ip}", instance.port()));
    let mut stream = UnixStream::connect(path).expect("the control socket");
    stream.write_all(b"show json\nquit\n").expect("written");
    let lines: Vec<String> = BufReader::new(stream).lines().map(|line| line.expect("text")).collect();
    assert_eq!(ports(&lines[1]), expected);
    assert_eq!(lines[2..], [". 0 0", ". 0 0 end"]);
    instance.end();
}

#[test]
fn a_service_of_a_file_says_what_was_changed_by_hand() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let (first, second) = (own_address(), own_address());
    let setup = Setup::binding(first);
    let text = format!(
        "web: -b {} {} {a} {b}\n-b {} {} {a}\n",
        first.ip(),
        first.port(),
        second.ip(),
        second.port()
    );
    let file = setup.directory().file("services", &text);
    let mut instance = setup.start(["--file", &file.display().to_string()]);
    let shown = ask(&instance, "show json");
    assert_eq!((&shown["changed_by_hand"], &shown["service"]["file"]), (&json!([]), &json!("same")));
    assert_eq!(shown["service"]["name"], "web");
    instance.ctl("disable 1").code(0);
    let status = instance.ctl("status").code(0).stdout;
    let said: Vec<_> = status.lines().filter_map(|line| line.strip_prefix("changed by hand: ")).collect();
    let shown = ask(&instance, "show json");
    assert_eq!((&shown["changed_by_hand"], &shown["service"]["file"]), (&json!(said), &json!("changed")));
    assert_eq!(said.len(), 1, "{status}");
    let services = ask(&instance, "services json");
    let told = services["services"].as_array().expect("services").iter();
    let names: Vec<_> = told.map(|one| (one["name"].clone(), one["file"].clone())).collect();
    assert_eq!(names, [(json!("web"), json!("changed")), (Value::Null, json!("same"))]);

    // What is denied, to this service and to all.
    assert_eq!(ask(&instance, "denied json")["denied"], json!([]));
    instance.ctl("deny 198.51.100.0/24 1h all; deny 203.0.113.7").code(0);
    let nets = |command: &str| {
        let answer = ask(&instance, command);
        let all = answer["denied"].as_array().expect("networks").iter();
        all.map(|one| {
            let left = one["left_seconds"].as_f64();
            assert_eq!(left.is_some(), one["ends_at"].is_string(), "{one}");
            assert!(left.is_none_or(|left| (0.0..=3_600.0).contains(&left)), "{one}");
            assert!(
                one["ends_at"].as_str().is_none_or(|at| at > cell(&answer["taken_at"]).as_str()),
                "{one}"
            );
            format!("{} {} {}", cell(&one["service"]), cell(&one["network"]), left.is_some())
        })
        .collect::<BTreeSet<_>>()
    };
    let mine = ["web 198.51.100.0/24 true", "web 203.0.113.7 false"].map(str::to_owned);
    assert_eq!(nets("denied json"), BTreeSet::from(mine.clone()));
    let other = format!("{second} 198.51.100.0/24 true");
    assert_eq!(nets("denied all json"), mine.into_iter().chain([other]).collect());
    let all = instance.ctl("denied json").code(0).stdout + &instance.ctl("denied all json").code(0).stdout;
    assert_conforms(&instance, &all);

    // Another process: it says what came over, and the time goes on.
    let (client, _) = instance.named();
    let before = ask(&instance, "show json")["process"].clone();
    instance.upgrade();
    let shown = ask(&instance, "show json");
    let after = &shown["process"];
    assert_eq!(after["taken_over"], json!({ "pid": before["pid"], "carried": 1, "draining": 0 }));
    assert!(after["uptime_seconds"].as_f64() > before["uptime_seconds"].as_f64(), "{before} {after}");
    assert_eq!(shown["changed_by_hand"], json!(said));

    // A service that was stopped is draining until its last connection has ended.
    let killed = instance.ctl("use web; kill; services json").code(0).stdout;
    assert_eq!(killed.lines().last(), Some("shutdown complete, exiting."));
    let other = |command: &str| {
        let (ip, port) = (second.ip().to_string(), second.port().to_string());
        Run::balance(&instance.directory).args(["-b", &ip, "-c", command, &port]).finish().code(0).stdout
    };
    let phases = || {
        let services: Value = serde_json::from_str(&other("services json")).expect("JSON");
        let all = services["services"].as_array().expect("services").iter();
        all.map(|one| cell(&one["phase"])).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(phases(), "draining serving");
    assert_conforms(&instance, &(other("services json") + &other("show json")));
    drop(client);
    eventually("its last connection", || (phases() == "serving").then_some(()));
    instance.terminate();
}

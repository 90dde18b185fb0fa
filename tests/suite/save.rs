//! `save`: the present command line of an instance, and another instance started with it.
//!
//! Source: docs/control.md, "Commands".

use std::path::Path;

use crate::harness::{BALANCE, Instance, Run, Server, Setup, own_address};

/// What it says to `save`: one line.
#[track_caller]
fn saved(instance: &Instance) -> String {
    let said = instance.ctl("save").code(0).stdout;
    let line = said.strip_suffix('\n').expect("a line");
    assert!(!line.contains('\n'), "one line: {said}");
    line.to_owned()
}

/// `show` without what happens by itself: the columns GRP Type # S ip-address port maxc.
fn settled(instance: &Instance) -> Vec<String> {
    let row = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        [0, 1, 2, 3, 4, 5, 8].map(|column| words[column]).join(" ")
    };
    instance.ctl("show").code(0).stdout.lines().map(row).collect()
}

/// The columns of `status` that an operator sets and `show` does not have.
fn weights(instance: &Instance) -> Vec<String> {
    let status = instance.ctl("status").code(0).stdout;
    let weight = |line: &str| line.split_whitespace().nth(6).expect("a column weight").to_owned();
    let channels =
        status.lines().skip(1).filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    channels.map(weight).collect()
}

/// Ends the instance and starts the line as it was printed, in a shell.
fn start_again(instance: Instance, line: &str) -> Instance {
    let address = instance.addr;
    instance.ctl("kill").code(0);
    instance.killed();
    let own = Path::new(BALANCE).parent().expect("the program is in a directory");
    let prefix = format!("PATH={}:$PATH; export PATH; exec {line};", own.display());
    Setup::binding(address).shell(&prefix).start([""; 0])
}

/// Starts an instance with these options on an address of its own.
fn start(options: &[&str], channels: &[&str]) -> Instance {
    let address = own_address();
    let ip = address.ip().to_string();
    Setup::binding(address).start([&["-b", &ip], options, &["PORT"], channels].concat())
}

/// There and back: the same table, and the same line once more.
fn assert_comes_back(instance: Instance) -> Instance {
    let (line, table, weighed) = (saved(&instance), settled(&instance), weights(&instance));
    let again = start_again(instance, &line);
    assert_eq!(settled(&again), table, "{line}");
    assert_eq!(weights(&again), weighed, "{line}");
    assert_eq!(saved(&again), line);
    again
}

#[test]
fn an_instance_that_was_started_plainly_is_a_plain_line() {
    let instance = start(&[], &["127.0.0.1:9", "!", "127.0.0.1:10:5", "%"]);
    let line = saved(&instance);
    let (ip, port) = (instance.addr.ip(), instance.port());
    // An interactive shell would take a bare `!` for a word of its history.
    assert_eq!(line, format!("balance -f -b {ip} {port} 127.0.0.1:9 '!' 127.0.0.1:10:5 %"));
    assert_comes_back(instance).end();
}

#[test]
fn options_are_all_there() {
    let options = [
        "-d",
        "--workers",
        "2",
        "--busy-poll",
        "off",
        "--loopback-congestion",
        "reno",
        "--drain-timeout",
        "8s",
        "--state",
        "/nowhere/the state",
        "-K",
        "30:5:3",
        "-B",
        "127.0.0.1",
        "-t",
        "7",
        "--race",
        "50ms",
        "--first-byte",
        "3s",
        "--resolve",
        "45s",
        "-T",
        "300",
        "--half-close-timeout",
        "90s",
        "-k",
        "60:10:4",
        "-a",
        "-H",
        "--policy",
        "leastconn",
        "--hash-balance",
        "1.25",
        "--slow-start",
        "20s",
        "--no-eject",
        "--check",
        "send:it's $HOME\\r\\n;expect:a \"b\" !",
        "--check-interval",
        "1d",
        "--check-timeout",
        "3s",
        "--check-rise",
        "4",
        "--check-fall",
        "5",
        "--check-port",
        "9",
        "--fail-open",
        "off",
        "--on-down",
        "kick",
        "--max-connections",
        "1000",
        "--queue",
        "50",
        "--queue-timeout",
        "1500ms",
        "--max-lifetime",
        "12h",
    ];
    let instance = start(&options, &["127.0.0.1:9,weight=3", "127.0.0.1:10,disabled"]);
    let line = saved(&instance);
    for words in [
        "balance -f -d --workers 2 --busy-poll off --loopback-congestion reno --drain-timeout 8s --state '/nowhere/the state' ",
        " -K 30:5:3 -B 127.0.0.1 -t 7 --race 50ms --resolve 45s -T 5m --half-close-timeout 90s -k 60:10:4 ",
        " -a -H --policy leastconn --hash-balance 1.25 --slow-start 20s --no-eject --first-byte 3s ",
        r#" --check 'send:it'\''s $HOME\r\n;expect:a "b" !' --check-interval 1d --check-timeout 3s "#,
        " --check-rise 4 --check-fall 5 --check-port 9 --fail-open off --on-down kick ",
        " --max-connections 1000 --queue 50 --queue-timeout 1.5s --max-lifetime 12h ",
        " 127.0.0.1:9,weight=3 127.0.0.1:10,disabled",
    ] {
        assert!(line.contains(words), "{words}: {line}");
    }
    assert_comes_back(instance).end();
}

#[test]
fn what_commands_made_of_it_comes_back_and_serves() {
    let (a, b, c) = (Server::named("a"), Server::named("b"), Server::named("c"));
    let channels = [a.to_string(), "127.0.0.1:9".into(), "127.0.0.1:10:4".into(), "!".into(), b.to_string()];
    let instance = start(&[], &channels.each_ref().map(String::as_str));
    let said = instance.shell(format!(
        "create localhost 11
         enable 3
         create ::1 12
         maxc 4 7
         create 127.0.0.1 13
         disable 1
         disable 2 hard
         assign 2 127.0.0.1 14
         weight 0 5
         weight 4 0
         disable 5
         remove 5
         create [::1] 15
         policy leastconn
         group 1
         hash
         weight 0 256
         group 4
         create {ip} {port}
         create {ip} {port}
         enable 1
         maxc 1 3
         disable 0
         remove 0
         policy first
         group 6
         policy p2c\n",
        ip = c.addr.ip(),
        port = c.addr.port(),
    ));
    assert!(!said.code(0).stdout.contains("syntax error"));
    let line = saved(&instance);
    for word in [
        "localhost:11",
        "'[::1]:12:7,weight=0,disabled' - '[::1]:15,disabled'",
        "127.0.0.1:14:4,disabled=hard",
    ] {
        assert!(line.contains(&format!(" {word}")), "{word}: {line}");
    }
    let again = assert_comes_back(instance);
    let rows = again.show();
    let place =
        |row: &crate::harness::Row| format!("{}.{} {} {}", row.group, row.channel, row.policy, row.state);
    assert_eq!(
        rows.iter().map(place).collect::<Vec<_>>(),
        [
            "0.0 LC ENA",
            "0.1 LC dis",
            "0.2 LC DIS",
            "0.3 LC ENA",
            "0.4 LC dis",
            "0.6 LC dis",
            "1.0 Hash ENA",
            "4.1 Fst ENA",
        ]
    );
    assert_eq!(again.names(1), "a");
    again.ctl("group 0; disable 0; disable 3").code(0);
    assert_eq!(again.names(1), "b");
    again.ctl("group 1; disable 0").code(0);
    assert_eq!(again.names(1), "c");
    // Numbers of channels that were removed stay taken.
    again.ctl("create 127.0.0.1 9; enable 7").code(0);
    again.end();
}

#[test]
fn an_instance_without_channels_comes_back_and_so_does_one_that_lost_them() {
    assert_comes_back(start(&[], &[])).end();
    let instance = start(&["--policy", "first"], &["127.0.0.1:9", "127.0.0.1:10"]);
    instance.ctl("disable 0; disable 1; remove 0; remove 1").code(0);
    let again = assert_comes_back(instance);
    again.ctl("create 127.0.0.1 9").code(0);
    assert_eq!(settled(&again)[1], "0 Fst 2 dis 127.0.0.1 9 0");
    again.end();
}

#[test]
fn a_policy_per_group_comes_back() {
    let instance =
        start(&["--policy", "rr,hash,p2c"], &["127.0.0.1:9", "!", "127.0.0.1:10", "!", "127.0.0.1:11"]);
    instance.ctl("policy first; group 2; policy leastconn").code(0);
    let again = assert_comes_back(instance);
    let policies: Vec<_> = again.show().into_iter().map(|row| row.policy).collect();
    assert_eq!(policies, ["Fst", "Hash", "LC"]);
    again.end();
}

#[test]
fn the_policy_of_groups_to_come_comes_back_where_groups_differ() {
    let instance = start(&["--policy", "first"], &["127.0.0.1:9", "!", "127.0.0.1:10"]);
    instance.ctl("policy leastconn").code(0);
    assert!(saved(&instance).contains(" --policy leastconn,first,first "), "{}", saved(&instance));
    let again = assert_comes_back(instance);
    again.ctl("group 7; create 127.0.0.1 11").code(0);
    let policies: Vec<_> = again.show().into_iter().map(|row| row.policy).collect();
    assert_eq!(policies, ["LC", "Fst", "Fst"]);
    again.end();
}

#[test]
fn one_that_runs_in_the_background_is_saved_as_one() {
    let directory = crate::harness::Directory::new();
    let address = own_address();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let run = |args: &[&str]| Run::balance(&directory).args(args).finish();
    run(&["-b", &ip, &port, "127.0.0.1:9"]).code(0);
    run(&["-b", &ip, "-c", "disable 0", &port]).code(0);
    let line = run(&["-c", "save", &port]).code(0).stdout;
    assert_eq!(line, format!("balance -b {ip} {port} 127.0.0.1:9,disabled\n"));
    // The whole of it as an operator does it.
    let script = format!(
        "line=$(balance -c save {port}); balance -b {ip} -c kill {port}; eval \"$line\"; balance -c save {port}"
    );
    let said = Run::script(&directory, &script).finish().code(0);
    assert_eq!(said.stdout, format!("shutdown complete, exiting.\n{line}"));
    run(&["-b", &ip, "-c", "kill", &port]).code(0);
}

#[test]
fn whatever_commands_made_of_it_comes_back() {
    for seed in 1..=8 {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
        // xorshift64: any sequence will do, as long as the seed says which.
        let mut below = |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 20) % n
        };
        let mut script = String::new();
        for step in 0..60 {
            let (group, channel) = (below(4), below(5));
            let port = 1_000 + step;
            let host = ["127.0.0.1", "::1", "[::1]", "localhost", "::ffff:10.0.0.1"][below(5) as usize];
            let policy = ["rr", "leastconn", "p2c", "first", "hash"][below(5) as usize];
            let command = match below(12) {
                0..=3 => format!("create {host} {port}"),
                4 | 5 => format!("enable {channel}"),
                6 => format!("disable {channel}{}", ["", " hard"][below(2) as usize]),
                7 => format!("remove {channel}"),
                8 => format!("maxc {channel} {}", below(3)),
                9 => format!("weight {channel} {}", below(4)),
                10 => format!("policy {policy}"),
                _ => format!("assign {channel} {host} {port}"),
            };
            script += &format!("group {}\n{command}\n", group * group);
        }
        println!("seed {seed}:\n{script}");
        let options: &[&str] = if seed % 2 == 0 { &[] } else { &["--policy", "leastconn"] };
        let instance = start(options, &["127.0.0.1:9", "127.0.0.1:10", "!", "127.0.0.1:11:3,weight=2", "%"]);
        instance.shell(&script).code(0);
        assert_comes_back(instance).terminate();
    }
}

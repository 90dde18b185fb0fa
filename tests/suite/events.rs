//! `events`: the last events, in the words of the log and with their times.
//!
//! Source: docs/observability.md, "Events".

use std::fs;

use serde_json::Value;

use crate::harness::{
    Directory, Instance, Refusing, Run, Server, Setup, Terminal, eventually, own_address, script,
};

/// The lines of `events N`, after each was seen to be `TIME LEVEL event=...`; from `event=` on, with the level in front.
#[track_caller]
fn events(instance: &Instance, command: &str) -> Vec<String> {
    let text = instance.ctl(command).code(0).stdout;
    let mut times = Vec::new();
    let lines = text.lines().map(|line| {
        let (time, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no time: {line}"));
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{line}");
        times.push(time.to_owned());
        let (level, event) = rest.split_once(' ').unwrap_or_else(|| panic!("no level: {line}"));
        assert!(["error", "warning", "notice", "info"].contains(&level), "{line}");
        assert!(event.starts_with("event="), "{line}");
        rest.to_owned()
    });
    let lines = lines.collect();
    assert!(times.is_sorted(), "oldest first: {text}");
    lines
}

#[test]
fn events_are_shown_in_the_words_of_the_log_with_their_times() {
    let refusing = Refusing::new();
    let server = Server::named("a");
    let instance = Setup::new().start(["PORT".to_owned(), refusing.to_string(), server.to_string()]);
    let before = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    assert_eq!(instance.named().1, "a");
    let ejected = format!(
        "notice event=ejected group=0 channel=0 address={refusing} cause=\"connect: connection refused\""
    );
    let told = eventually("it is ejected", || {
        let told = events(&instance, "events");
        told.iter().any(|line| line == &ejected).then_some(told)
    });
    let started = format!("info event=started listen={} pid={}", instance.addr, instance.pid());
    assert_eq!(told, [started.clone(), ejected.clone()]);
    let line = format!("balance: level={ejected}\n");
    eventually("the words of the log", || instance.stderr().contains(&line).then_some(()));
    let text = instance.ctl("events").stdout;
    assert!(text.lines().all(|line| line[..11] == before[..11] || before.contains("T23:59")), "{text}");
    // Of a client nothing is remembered, nor of what only looks; an operator's command is.
    instance.ctl("reset 1; maxc 1 0").code(0);
    let uid = rustix::process::geteuid().as_raw();
    let commanded = format!("notice event=commanded uid={uid} command=\"reset 1; maxc 1 0\"");
    assert_eq!(events(&instance, "events"), [started, ejected.clone(), commanded.clone()]);
    assert_eq!(events(&instance, "events 2"), [ejected, commanded.clone()]);
    assert_eq!(events(&instance, "ev 1"), [commanded]);
    assert_eq!(events(&instance, "events 0"), [""; 0]);
    assert_eq!(events(&instance, "events 99999999999999999999").len(), 3);
    assert_eq!(instance.ctl("events -1").code(64).stdout, "usage: events [<number>] [json]\n");
    let shell = instance.shell("events 1\nquit\n").code(0).stdout;
    assert!(shell.contains("Z notice event=commanded uid="), "{shell}");
    instance.end();
}

#[test]
fn commands_that_failed_are_told_after_what_was_typed_with_their_exit_code() {
    let server = Server::named("a");
    let directory = Directory::new();
    let heard = directory.path().join("heard");
    let text = format!(
        "test $BALANCE_EVENT = command_failed && echo $BALANCE_EXIT_CODE \"$BALANCE_COMMAND\" >>{}; true",
        heard.display()
    );
    let program = script(&directory, "hook", &text);
    let instance = Setup::new().start([
        "--event-program".to_owned(),
        program.display().to_string(),
        "PORT".to_owned(),
        server.to_string(),
    ]);
    let uid = rustix::process::geteuid().as_raw();
    for (typed, code, failed) in [
        ("remove 0; maxc 0 7; disable 9; disable x", 65, Some("remove 0; disable 9; disable x")),
        ("reopen", 69, Some("reopen")),
        ("maxc 0 8; show", 0, None),
        // What only looks is not told, whatever comes of it.
        ("show; bogus", 64, None),
    ] {
        let before = events(&instance, "events 1000").len();
        instance.ctl(typed).code(code);
        let told = events(&instance, "events 1000").split_off(before);
        let commanded = format!("notice event=commanded uid={uid} command=\"{typed}\"");
        let failed = failed.map(|failed| {
            format!(
                "notice event=command_failed uid={uid} exit_code={code} command={}",
                match failed.contains(' ') {
                    true => format!("\"{failed}\""),
                    false => failed.to_owned(),
                }
            )
        });
        let commanded =
            Some(commanded.replace("\"reopen\"", "reopen")).filter(|_| !typed.starts_with("show"));
        let expected: Vec<_> = commanded.into_iter().chain(failed).collect();
        assert_eq!(told, expected, "{typed}");
    }
    let all: Value = serde_json::from_str(&instance.ctl("events 1000 json").code(0).stdout).expect("JSON");
    let all = all["events"].as_array().cloned().unwrap_or_default();
    let failed = all.iter().find(|event| event["event"] == "command_failed").expect("it was told");
    assert_eq!(failed["fields"]["exit_code"], 65, "{failed}");
    eventually("the program hears of it", || {
        let heard = fs::read_to_string(&heard).unwrap_or_default();
        (heard == "65 remove 0; disable 9; disable x\n69 reopen\n").then_some(())
    });
    instance.end();
}

#[test]
fn the_last_thousand_events_are_kept_and_no_text_forges_one() {
    let instance = Instance::before(&[&"127.0.0.1:9"]);
    // What was typed is a part of an event: it stays one line, and a megabyte at most is kept of all.
    let long = format!("disable 0; reset \u{1b}[2J\u{2028} level=error event=forged {}", "x".repeat(9_000));
    let line = format!("{long}\n{}", "disable 0\nenable 0\n".repeat(600));
    instance.shell(line.as_bytes());
    assert_eq!(events(&instance, "events").len(), 20);
    let all = events(&instance, "events 2000");
    assert_eq!(all.len(), 1_000);
    assert!(all.last().is_some_and(|line| line.ends_with("command=\"enable 0\"")), "{:?}", all.last());
    instance.shell(format!("{long}\n").as_bytes());
    let last = events(&instance, "events 2");
    for (line, begin) in last.iter().zip(["notice event=commanded uid=", "notice event=command_failed uid="])
    {
        assert!(line.starts_with(begin) && line.len() <= 1_100, "{line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    assert_eq!(last.len(), 2);
    instance.end();
}

#[test]
fn a_service_has_its_own_events_and_those_of_the_process_also_after_an_upgrade() {
    let [web, shop] = [own_address(), own_address()];
    let refusing = Refusing::new();
    let setup = Setup::binding(web);
    let line =
        |name: &str, at: std::net::SocketAddr| format!("{name}: -b {} {} {refusing}\n", at.ip(), at.port());
    let file = setup.directory().file("services", &(line("web", web) + &line("shop", shop)));
    let mut instance = setup.start(["--file".to_owned(), file.display().to_string()]);
    let of = |instance: &Instance, name: &str| {
        let text =
            Run::balance(&instance.directory).args(["-c", "events 1000", name]).finish().code(0).stdout;
        text.lines().map(|line| line[25..].to_owned()).collect::<Vec<_>>()
    };
    for (name, channel) in [("web", "reset 0"), ("shop", "maxc 0 9")] {
        Run::balance(&instance.directory).args(["-c", channel, name]).finish().code(0);
    }
    let uid = rustix::process::geteuid().as_raw();
    let started = format!("info event=started listen={web},{shop} services=2 pid={}", instance.pid());
    let reset = format!("notice event=commanded service=web uid={uid} command=\"reset 0\"");
    let maxc = format!("notice event=commanded service=shop uid={uid} command=\"maxc 0 9\"");
    assert_eq!(of(&instance, "web"), [started.clone(), reset.clone()]);
    assert_eq!(of(&instance, "shop"), [started.clone(), maxc.clone()]);
    let times = |instance: &Instance| {
        let text = Run::balance(&instance.directory).args(["-c", "events 1000", "web"]).finish().stdout;
        text.lines().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = times(&instance);
    let told = Run::balance(&instance.directory).args(["-c", "upgrade", "web"]).finish().code(0).stdout;
    let pid = told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named");
    instance.succeed(pid);
    assert_eq!(times(&instance), before, "with their times");
    for (name, own, other) in [("web", &reset, &maxc), ("shop", &maxc, &reset)] {
        let told = eventually("the end of the upgrade is told", || {
            let told = of(&instance, name);
            told.iter().any(|line| line.contains("carried from process")).then_some(told)
        });
        assert_eq!(told[..2], [started.clone(), own.clone()], "{told:?}");
        assert!(!told.contains(other), "{told:?}");
        let upgrade = format!("notice event=note text=\"upgrade: process {pid} was started to take over: ");
        assert!(told.iter().any(|line| line.starts_with(&upgrade)), "{told:?}");
    }
    // And of one more.
    let told = Run::balance(&instance.directory).args(["-c", "upgrade", "web"]).finish().code(0).stdout;
    instance.succeed(told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named"));
    assert_eq!(of(&instance, "shop")[..2], [started, maxc]);
    instance.terminate();
}

#[test]
fn what_a_background_start_warned_of_is_among_the_events_once() {
    let at = own_address();
    let directory = Directory::new();
    let args = ["--check", "exec:/no/such/check", "-p", "-b"].map(str::to_owned);
    let place = [at.ip().to_string(), at.port().to_string(), "127.0.0.1:9".to_owned()];
    Run::balance(&directory).args(args).args(&place).finish().code(0);
    let control = |command: &str| {
        Run::balance(&directory).args(["-b", &place[0], "-c", command, &place[1]]).finish().code(0).stdout
    };
    let told = control("events");
    control("kill");
    for warned in ["-p needs -f", "--check: cannot run /no/such/check", "event=started listen="] {
        assert_eq!(told.matches(warned).count(), 1, "{warned}: {told}");
    }
}

#[test]
fn with_log_time_each_line_on_stderr_begins_with_its_time() {
    let refusing = Refusing::new();
    let instance =
        Setup::new().start(["--log-time", "--check", "exec:/no/such", "PORT", &refusing.to_string()]);
    instance.ctl("disable 0").code(0);
    let text = eventually("some lines", || {
        let text = instance.stderr();
        (text.ends_with('\n') && text.lines().count() >= 2).then_some(text)
    });
    // A line may be on stderr before it is among the events.
    let mut told = String::new();
    for line in text.lines() {
        let (time, rest) = line.split_once(" balance: level=").unwrap_or_else(|| panic!("{line}"));
        eventually(&format!("{line} is told"), || {
            let line = format!("{time} {rest}\n");
            if !told.contains(&line) {
                told = instance.ctl("events").stdout;
            }
            told.contains(&line).then_some(())
        });
    }
    assert!(instance.ctl("save").stdout.contains("--log-time"));
    instance.end();
    // Without it nothing has changed.
    let instance = Instance::before(&[&"127.0.0.1:9"]);
    instance.ctl("disable 0").code(0);
    let text = instance.stderr();
    assert!(text.starts_with("balance: level=notice event=commanded uid="), "{text}");
    instance.end();
}

#[test]
fn debug_messages_are_switched_while_it_runs_and_stay_so_over_a_reload_and_an_upgrade() {
    let server = Server::echo();
    let at = own_address();
    let setup = Setup::binding(at);
    let line = format!("web: -b {} {} {server}\n", at.ip(), at.port());
    let file = setup.directory().file("services", &line);
    let mut instance = setup.start(["--file".to_owned(), file.display().to_string()]);
    let say = |instance: &Instance, command: &str| {
        Run::balance(&instance.directory).args(["-c", command, "web"]).finish().code(0).stdout
    };
    let closed = |instance: &Instance| instance.stderr().matches("level=debug event=closed").count();
    assert_eq!(say(&instance, "debug"), "debug is off\n");
    let mut kicked = instance.connect();
    kicked.send(b"x");
    kicked.recv(1);
    let mut other = instance.connect();
    other.send(b"xy");
    other.recv(2);
    assert_eq!(instance.stderr(), "", "a question is no command");
    assert_eq!(say(&instance, "debug on; debug"), "debug is on\ndebug is on\n");
    assert!(instance.stderr().contains("event=commanded service=web uid="), "{}", instance.stderr());
    // Those that were open before are told of with what is known: the system knows a client as long as it is connected.
    say(&instance, "kick 0");
    let told = |client: &str, bytes: usize| {
        format!(
            "level=debug event=closed service=web client={client} group=0 channel=0 sent_bytes={bytes} rcvd_bytes={bytes} \
             how=kicked\n"
        )
    };
    for (client, bytes) in [(&kicked, 1), (&other, 2)] {
        let told = told(&client.0.local_addr().expect("it is connected").to_string(), bytes);
        eventually("its end is told", || instance.stderr().contains(&told).then_some(()));
    }
    instance.directory.file("services", &line.replace("web:", "web: -t 9"));
    say(&instance, "reload");
    assert_eq!(say(&instance, "debug"), "debug is on\n");
    let text = say(&instance, "upgrade");
    instance.succeed(text.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named"));
    assert_eq!(say(&instance, "debug"), "debug is on\n");
    let opened = instance.stderr().matches("event=opened").count();
    drop(instance.connect());
    eventually("a client is told of", || {
        (instance.stderr().matches("event=opened").count() > opened).then_some(())
    });
    let ends = closed(&instance);
    eventually("and its end", || (closed(&instance) > ends || closed(&instance) >= 2).then_some(()));
    // No debug event is remembered, and off is off.
    assert!(!instance.ctl("events 1000").stdout.contains("event=opened"));
    eventually("the end of the upgrade is told", || {
        instance.stderr().contains("carried from process").then_some(())
    });
    assert_eq!(say(&instance, "debug off"), "debug is off\n");
    let said = instance.stderr();
    drop(instance.connect());
    instance.await_show("it has gone", |rows| rows.iter().all(|row| row.c == 0 && row.totalc >= 3));
    assert_eq!(instance.stderr(), said);
    for (command, usage) in
        [("debug maybe", "usage: debug [on|off]\n"), ("debug on off", "usage: debug [on|off]\n")]
    {
        assert_eq!(instance.ctl(command).code(64).stdout, usage);
    }
    instance.terminate();
}

#[test]
fn a_start_at_a_terminal_says_what_it_listens_on_and_elsewhere_nothing() {
    let directory = Directory::new();
    let [web, shop] = [own_address(), own_address()];
    let (ip, port) = (web.ip().to_string(), web.port().to_string());
    let at_terminal = |args: &[&str]| {
        let mut terminal = Terminal::of(&directory, args);
        terminal.awaits("\n");
        terminal.types("\u{3}");
        assert!(terminal.ends().success());
        terminal.said().replace("\r\n", "\n").replace("^C", "")
    };
    let said = at_terminal(&["-f", "-b", &ip, &port, "127.0.0.1:9", "127.0.0.2:9", "!", "127.0.0.3:9"]);
    assert_eq!(said, format!("balance: listening on {web}: 3 channels\n"));
    let lines =
        format!("web: -b {ip} {port} 127.0.0.1:9\nshop: -b {} {} 127.0.0.1:9\n", shop.ip(), shop.port());
    let file = directory.file("services", &lines).display().to_string();
    let said = at_terminal(&["-f", "--log-time", "--file", &file]);
    let (time, text) = said.split_once(' ').expect("a time");
    assert_eq!(text, format!("balance: listening on {web}, {shop}: 2 services, 2 channels\n"));
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    // With stderr in a file there is silence, as in 3.57.
    let setup = Setup::new();
    let instance = setup.start(["PORT", "127.0.0.1:9"]);
    assert_eq!(fs::read_to_string(instance.directory.path().join("stderr")).expect("it is there"), "");
    instance.end();
}

#[test]
fn the_manual_page_and_the_help_have_the_same_commands() {
    let instance = Instance::before(&[&"127.0.0.1:9"]);
    let help = instance.ctl("help").code(0).stdout;
    let page = Run::balance(&instance.directory).arg("--man").finish().code(0).stdout;
    for line in help.lines().skip(1) {
        let name = line.split_whitespace().next().expect("a command").replace('-', "\\-");
        let is_there = page
            .lines()
            .any(|line| line.split(['\\', ' ']).any(|word| word.trim_start_matches("fB") == name));
        assert!(is_there || page.contains(&format!("\\fB{name}")), "{name} is not in the manual page");
    }
    instance.end();
}

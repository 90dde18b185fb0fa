//! Tests of the whole room: the command lines and the exit codes of the documentation, from `argv` to
//! [`Invocation`].
//!
//! Knows: the interface of this room only. Never: how words are read inside it.
//! Source: docs/compatibility.md, "Command line" and "Exit codes".

use std::ffi::OsString;
use std::num::{NonZeroU16, NonZeroUsize};
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use proptest::prelude::*;

use super::{Instance, Invocation, LineError, Serve, Wrong, parse};
use crate::spec::{
    ClientPrefix, GroupSpec, HostSpec, Keepalive, ListenHost, ListenSpec, Member, OnDown, Policy, PortWord,
    ProcessSpec, ProxyTlvs, ServiceSpec, Typed,
};

/// How a command line was refused, as the program would print it.
#[derive(Debug, PartialEq)]
pub(super) enum Refused {
    Usage(String),
    Other(LineError),
}

pub(super) fn invoke(argv: &[OsString]) -> Result<Invocation, Refused> {
    parse(argv).map_err(|error| match error.wrong {
        Wrong::Usage(_) => Refused::Usage(error.to_string()),
        _ => Refused::Other(error),
    })
}

pub(super) fn argv(words: &[&str]) -> Vec<OsString> {
    std::iter::once("balance").chain(words.iter().copied()).map(OsString::from).collect()
}

pub(super) fn split(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[track_caller]
pub(super) fn serve(line: &str) -> Serve {
    match invoke(&argv(&split(line))) {
        Ok(Invocation::Serve(serve)) => *serve,
        other => panic!("balance {line}: {other:?}"),
    }
}

/// The first line of the message. Checks that the usage text follows it.
#[track_caller]
pub(super) fn blame(words: &[&str]) -> String {
    match invoke(&argv(words)) {
        Err(Refused::Usage(text)) => {
            let (first, rest) = text.split_once('\n').expect("several lines");
            assert!(rest.starts_with("usage: balance [-b addr] [-B addr] "), "{text}");
            assert!(
                rest.ends_with("\ntry 'balance --help'; 'balance --list' shows what runs here\n"),
                "{text}"
            );
            first.strip_prefix("balance: ").expect("says who speaks").to_owned()
        }
        other => panic!("{words:?}: {other:?}"),
    }
}

fn number(n: u16) -> PortWord {
    PortWord::Number(NonZeroU16::new(n).expect("not 0"))
}

fn name(word: &str) -> PortWord {
    PortWord::Name(word.to_owned())
}

fn host(name: &str) -> HostSpec {
    HostSpec { name: name.to_owned(), typed: Typed::default() }
}

/// What `balance 80` means.
pub(super) fn plain() -> Serve {
    let host = ListenHost::AnyV4;
    let service = ServiceSpec {
        name: None,
        listen: ListenSpec { host, ports: number(80).into(), typed: Typed::default() },
        groups: Vec::new(),
        sections: Vec::new(),
        sources: Vec::new(),
        transparent: false,
        connect_timeout: Duration::from_secs(5),
        race: None,
        first_byte: None,
        resolve: Some(Duration::from_secs(30)),
        idle_timeout: None,
        half_close_timeout: Some(Duration::from_secs(600)),
        autodisable: false,
        hash_failover: false,
        client_keepalive: None,
        server_keepalive: None,
        proxy_tlvs: ProxyTlvs::default(),
        later_policy: Policy::RoundRobin,
        hash_balance: None,
        slow_start: None,
        eject: true,
        check: None,
        fail_open: true,
        on_down: OnDown::Keep,
        on_remove: OnDown::Keep,
        on_change: None,
        refuse_when_down: false,
        freebind: false,
        socket_mode: None,
        socket_group: None,
        allow: None,
        deny: None,
        client_max: None,
        client_rate: None,
        client_prefix: ClientPrefix::default(),
        max_connections: None,
        queue: None,
        queue_timeout: Duration::from_secs(5),
        pause_timeout: Duration::from_secs(60),
        accept_proxy: None,
        starttls: None,
        greeting_timeout: Duration::from_secs(3),
        max_lifetime: None,
    };
    Serve { process: ProcessSpec::default(), service, check_only: false, replace: false }
}

#[test]
fn port_alone_serves_with_no_channels_and_the_defaults() {
    assert_eq!(serve("80"), plain());
}

#[test]
fn every_option_sets_its_own_setting_and_no_other() {
    type Edit = fn(&mut Serve);
    let alive = Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 };
    let table: &[(&str, Edit)] = &[
        ("-6", |s| s.service.listen.host = ListenHost::AnyV6),
        ("--ipv6", |s| s.service.listen.host = ListenHost::AnyV6),
        ("-a", |s| s.service.autodisable = true),
        ("--disable-on-failure", |s| s.service.autodisable = true),
        ("--autodisable", |s| s.service.autodisable = true),
        ("-b 10.0.0.1", |s| s.service.listen.host = ListenHost::Host(host("10.0.0.1"))),
        ("-b10.0.0.1", |s| s.service.listen.host = ListenHost::Host(host("10.0.0.1"))),
        ("--bind localhost", |s| s.service.listen.host = ListenHost::Host(host("localhost"))),
        ("--bind=::1", |s| s.service.listen.host = ListenHost::Host(host("::1"))),
        ("-b [::1]", |s| s.service.listen.host = ListenHost::Host(host("::1"))),
        ("-6 -b ::1", |s| s.service.listen.host = ListenHost::Host(host("::1"))),
        ("-b 10.0.0.1 -6", |s| s.service.listen.host = ListenHost::Host(host("10.0.0.1"))),
        ("-B 10.0.0.2", |s| s.service.sources = vec![host("10.0.0.2")]),
        ("--source [2001:db8::2]", |s| s.service.sources = vec![host("2001:db8::2")]),
        ("-d", |s| s.process.debug = true),
        ("--debug", |s| s.process.debug = true),
        ("-f", |s| s.process.foreground = true),
        ("--foreground", |s| s.process.foreground = true),
        ("-H", |s| s.service.hash_failover = true),
        ("--hash-failover", |s| s.service.hash_failover = true),
        ("-M", |_| ()),
        ("--mmap", |_| ()),
        ("-p", |s| s.process.dump = true),
        ("--dump", |s| s.process.dump = true),
        ("-t 2", |s| s.service.connect_timeout = Duration::from_secs(2)),
        ("-t2", |s| s.service.connect_timeout = Duration::from_secs(2)),
        ("--connect-timeout 250ms", |s| s.service.connect_timeout = Duration::from_millis(250)),
        ("-T 90", |s| s.service.idle_timeout = Some(Duration::from_secs(90))),
        ("-T 0", |_| ()),
        ("--idle-timeout=1.5", |s| s.service.idle_timeout = Some(Duration::from_millis(1500))),
        ("--half-close-timeout 2m", |s| s.service.half_close_timeout = Some(Duration::from_secs(120))),
        ("--half-close-timeout 0", |s| s.service.half_close_timeout = None),
        ("--control-group adm", |s| s.process.control_group = Some("adm".into())),
        ("--workers 4", |s| s.process.workers = NonZeroUsize::new(4)),
        ("--workers 1024", |s| s.process.workers = NonZeroUsize::new(1024)),
    ];
    for (option, edit) in table {
        let mut expected = plain();
        edit(&mut expected);
        assert_eq!(serve(&format!("{option} 80")), expected, "{option} before PORT");
        assert_eq!(serve(&format!("80 {option}")), expected, "{option} after PORT");
    }
    for option in ["-K 60:10:6", "--client-keepalive=60:10:6"] {
        let mut expected = plain();
        expected.service.client_keepalive = Some(alive);
        assert_eq!(serve(&format!("{option} 80")), expected);
    }
    for option in ["-k 60:10:6", "--server-keepalive=60:10:6"] {
        let mut expected = plain();
        expected.service.server_keepalive = Some(alive);
        assert_eq!(serve(&format!("{option} 80")), expected);
    }
}

pub(super) fn first_line(error: &LineError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The port and the groups in short: `host/port/maxc`, `-` for what was not given, `|` between groups.
fn shape(serve: &Serve) -> String {
    let place = |place: &Member| {
        let Member::Channel(target) = place else { return "-".to_owned() };
        let port = target.port.as_ref().map_or("-".to_owned(), PortWord::to_string);
        let maxc = target.maxc.map_or("-".to_owned(), |maxc| maxc.to_string());
        format!("{}/{port}/{maxc}", target.host)
    };
    let group = |group: &GroupSpec| group.members.iter().map(place).collect::<Vec<_>>().join(" ");
    let Serve { service, .. } = serve;
    format!("{}: {}", service.listen.ports, service.groups.iter().map(group).collect::<Vec<_>>().join(" | "))
}

#[test]
fn the_examples_of_the_seed_and_the_manual_work_as_written() {
    let table = [
        ("smtp host1 host2", "smtp: host1/-/- host2/-/-"),
        ("smtp host1.test.net host2.test.net", "smtp: host1.test.net/-/- host2.test.net/-/-"),
        ("-b 2001:DB8::1 80 10.1.1.1 10.1.1.2", "80: 10.1.1.1/-/- 10.1.1.2/-/-"),
        ("-b ::ffff:10.1.1.3 80 10.1.1.1 10.1.1.2", "80: 10.1.1.1/-/- 10.1.1.2/-/-"),
        ("-fp imap mailserver", "imap: mailserver/-/-"),
        ("-f 8888 host1 10.1.1.1:8000", "8888: host1/-/- 10.1.1.1/8000/-"),
        ("imap mailserver1::16 ! mailserver2", "imap: mailserver1/-/16 | mailserver2/-/-"),
        ("pop3 host1 host2 host3 ! failover1", "pop3: host1/-/- host2/-/- host3/-/- | failover1/-/-"),
        ("telnet target.munich.net::1", "telnet: target.munich.net/-/1"),
        (
            "8888 localhost::12 ! localhost::4 ! localhost::2 localhost::2 ! localhost:25",
            "8888: localhost/-/12 | localhost/-/4 | localhost/-/2 localhost/-/2 | localhost/25/-",
        ),
    ];
    for (line, expected) in table {
        let serve = serve(line);
        assert_eq!(shape(&serve), expected, "{line}");
        assert!(serve.service.groups.iter().all(|group| group.policy == Policy::RoundRobin), "{line}");
    }
    assert_eq!(serve("-b 2001:DB8::1 80 a").service.listen.host, ListenHost::Host(host("2001:DB8::1")));
    assert_eq!(
        serve("-b ::ffff:10.1.1.3 80 a").service.listen.host,
        ListenHost::Host(host("::ffff:10.1.1.3"))
    );
    let both = serve("-fp imap mailserver");
    assert!(both.process.foreground && both.process.dump);
    let instance = Instance {
        bind: None,
        ipv6: false,
        ports: name("smtp").into(),
        typed: Typed::default(),
        debug: false,
    };
    assert_eq!(invoke(&argv(&["-i", "smtp"])), Ok(Invocation::Shell { instance }));
}

#[test]
fn policies_follow_the_end_of_each_group() {
    let policies: Vec<_> = serve("80 a b % c ! d").service.groups.iter().map(|group| group.policy).collect();
    assert_eq!(policies, [Policy::Hash, Policy::RoundRobin, Policy::RoundRobin]);
}

#[test]
fn a_command_may_stand_anywhere_and_other_options_are_accepted_with_it() {
    let instance = Instance {
        bind: Some(host("10.0.0.1")),
        ipv6: false,
        ports: number(80).into(),
        typed: Typed::default(),
        debug: false,
    };
    let create = Invocation::Command { instance: instance.clone(), text: "create h 1".into() };
    for words in [
        ["-b", "10.0.0.1", "80", "-c", "create h 1"].as_slice(),
        &["-c", "create h 1", "-b", "10.0.0.1", "80"],
        &["80", "--command=create h 1", "--bind", "10.0.0.1"],
        &["-M", "-afHp", "-t2", "-T0", "-ccreate h 1", "-b10.0.0.1", "--", "80"],
    ] {
        assert_eq!(invoke(&argv(words)).as_ref(), Ok(&create), "{words:?}");
    }
    let debug = Instance { bind: None, ipv6: true, debug: true, ..instance };
    assert_eq!(invoke(&argv(&["80", "-di6"])), Ok(Invocation::Shell { instance: debug.clone() }));
    let text = String::new();
    assert_eq!(invoke(&argv(&["80", "-d6c", ""])), Ok(Invocation::Command { instance: debug, text }));
}

#[test]
fn clusters_repetitions_and_the_end_of_options_work_as_with_getopt() {
    assert_eq!(serve("-fpt2 80"), serve("-f -p -t 2 80"));
    assert_eq!(serve("80 a -f b -p"), serve("-f -p 80 a b"));
    assert_eq!(serve("-t 1 -t 2 -ff -b a -b c 80"), serve("-t 2 -f -b c 80"));
    assert_eq!(serve("-f -- 80 a"), serve("-f 80 a"));
    assert_eq!(shape(&serve("-- 80 -a")), "80: -a/-/-");
    // The word behind an option that takes a value is its value, whatever it looks like.
    let Ok(Invocation::Command { text, .. }) = invoke(&argv(&["80", "-c", "-x"])) else {
        panic!("a command")
    };
    assert_eq!(text, "-x");
}

#[test]
fn wrong_usage_is_told_in_one_line_that_names_the_word_and_the_cure() {
    let table: &[(&[&str], &str)] = &[
        (&[], "no PORT; give a number from 1 to 65535 or the name of a service"),
        (&["-f"], "no PORT; give a number from 1 to 65535 or the name of a service"),
        (&["-i"], "no PORT; say which instance: balance -i PORT ('balance --list' shows them)"),
        (&["-c", "show"], "no PORT; say which instance: balance -c CMD PORT ('balance --list' shows them)"),
        (&["-z", "80"], "unknown option '-z'; 'balance --help' lists all options"),
        (&["-fz", "80"], "unknown option '-z'; 'balance --help' lists all options"),
        (&["80", "-5"], "unknown option '-5'; 'balance --help' lists all options"),
        (&["-h"], "unknown option '-h'; did you mean '--help'?"),
        (&["-V"], "unknown option '-V'; did you mean '--version'?"),
        (&["--binde", "::1", "80"], "unknown option '--binde'; did you mean '--bind'?"),
        (
            &["--acces-log-fromat", "80"],
            "unknown option '--acces-log-fromat'; did you mean '--access-log-format'?",
        ),
        (&["--log-fromat", "80"], "unknown option '--log-fromat'; did you mean '--log-format'?"),
        (&["80", "-b"], "option -b (--bind) needs a value: -b ADDR"),
        (&["80", "-ft"], "option -t (--connect-timeout) needs a value: -t TIME"),
        (&["80", "--workers"], "option --workers needs a value: --workers N"),
        (&["80", "--debug=yes"], "option -d (--debug) takes no value, but has 'yes'; write -d"),
        (&["--completions", "csh"], "'csh' is not a value of --completions; it is one of bash, zsh, fish"),
        (&["--completions"], "option --completions needs a value: --completions SHELL"),
        (&["-i", "-c", "show", "80"], "-i and -c cannot be used together; choose one"),
        (&["-i", "80", "a"], "'a' is one word too many; -i takes one PORT and nothing else"),
        (
            &["80", "-c", "disable", "0"],
            "'0' is one word too many; -c takes one PORT, and a CMD of several words needs quotes",
        ),
        (&["-t", "0", "80"], "-t (--connect-timeout) must be more than 0; it is 5 seconds without -t"),
        (&["-t", "3651d", "80"], "-t (--connect-timeout) '3651d' is out of range; give 1ms to 3650d"),
        (
            &["-T", "99999999999999999999", "80"],
            "-T (--idle-timeout) '99999999999999999999' is out of range; give 1ms to 3650d or 0 for never",
        ),
        (
            &["--half-close-timeout", "0.1ms", "80"],
            "--half-close-timeout '0.1ms' is out of range; give 1ms to 3650d or 0 for never",
        ),
        (&["--workers", "0", "80"], "--workers '0' is not a number from 1 to 1024"),
        (&["--workers", "1025", "80"], "--workers '1025' is not a number from 1 to 1024"),
        (&["--workers", "x", "80"], "--workers 'x' is not a number from 1 to 1024"),
        (&["--control-group", "", "80"], "--control-group '' is not the name of a Unix group"),
        (&["--control-group", "a:b", "80"], "--control-group 'a:b' is not the name of a Unix group"),
    ];
    for (words, expected) in table {
        assert_eq!(blame(words), *expected, "{words:?}");
    }
    for option in ["-t", "-T", "--half-close-timeout"] {
        for value in ["x", "", "-1", "5x", "+5"] {
            let line = blame(&[option, value, "80"]);
            assert!(
                line.starts_with(option) && line.contains(&format!(" '{value}' is not a time; ")),
                "{line}"
            );
        }
    }
    for option in ["-k", "-K"] {
        for value in
            ["", "60", "60:10", "60:10:6:1", "0:10:6", "60:0:6", "60:10:0", "60:10:128", "32768:1:1", "a:b:c"]
        {
            let line = blame(&[option, value, "80"]);
            assert!(
                line.starts_with(option) && line.contains(&format!(" '{value}' is not IDLE:INTVL:CNT; ")),
                "{line}"
            );
        }
    }
}

#[test]
fn what_cannot_be_a_port_is_an_invalid_port() {
    for word in ["0", "65536", "99999999999", "+5", " 5", "", "-", "80:81", "!", "%", "a b"] {
        for mode in [&["-f"] as &[&str], &["-i"], &["-c", "show"]] {
            let words: Vec<_> = mode.iter().copied().chain([word]).collect();
            let Err(Refused::Other(error)) = invoke(&argv(&words)) else { panic!("{words:?} is legal") };
            assert_eq!(error.wrong, Wrong::Port { word: word.to_owned() });
            let why = match word {
                "80:81" => "a range is written 80-81",
                _ => "give a number from 1 to 65535 or the name of a service",
            };
            assert_eq!(error.to_string(), format!("invalid port [{word}], exiting.\nbalance: {why}"));
        }
    }
}

#[test]
fn what_cannot_be_an_address_is_an_invalid_address_and_a_group_of_none_is_empty() {
    let table: &[(&[&str], &str)] = &[
        (&["80", "a", ":80"], ":80"),
        (&["80", "a:0"], "a:0"),
        (&["80", "a:80:x"], "a:80:x"),
        (&["80", ""], ""),
        (&["-b", "", "80"], ""),
        (&["-b", "10.0.0.1:80", "80"], "10.0.0.1:80"),
        (&["-B", "[10.0.0.1]", "80"], "[10.0.0.1]"),
    ];
    for (words, word) in table {
        let Err(Refused::Other(error)) = invoke(&argv(words)) else { panic!("{words:?} is legal") };
        assert_eq!(first_line(&error), format!("unknown or invalid address [{word}]"));
    }
    for line in ["80 !", "80 %", "80 a ! !"] {
        let Err(Refused::Other(error)) = invoke(&argv(&split(line))) else { panic!("{line} is legal") };
        assert_eq!(error.wrong, Wrong::EmptyGroup);
        assert_eq!(error.to_string(), "balance: no channels in group");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_answered_everywhere() {
    let bad = OsString::from_vec(vec![b'a', 0xff]);
    let with = |words: &[&str]| invoke(&argv(words).into_iter().chain([bad.clone()]).collect::<Vec<_>>());
    let Ok(Invocation::Command { text, .. }) = with(&["80", "-c"]) else { panic!("a command") };
    assert_eq!(text, "a\u{fffd}");
    let word = "a\u{fffd}".to_owned();
    let wrong = |wrong| Err(Refused::Other(LineError { at: None, wrong }));
    assert_eq!(with(&[]), wrong(Wrong::Port { word: word.clone() }));
    for words in [&["80"] as &[&str], &["80", "-b"], &["80", "-B"]] {
        let why = "the word is not UTF-8".to_owned();
        assert_eq!(with(words), wrong(Wrong::Address { word: word.clone(), why }));
    }
    let options = "-t --race --first-byte -T -k -K --half-close-timeout --workers --control-group --user --landlock --completions --busy-poll --loopback-congestion --drain-timeout --state --access-log --access-log-format --access-log-at --policy \
                   --hash-balance --slow-start --check --check-interval --check-timeout --check-rise --check-fall \
                   --check-port --fail-open --on-down --event-program --allow --deny --client-max --client-rate --client-prefix --max-connections --queue --queue-timeout --pause-timeout --max-lifetime --accept-proxy --greeting-timeout --starttls";
    for option in options.split(' ') {
        assert!(matches!(with(&["80", option]), Err(Refused::Usage(_))), "{option}");
    }
    for raw in [b"-\xff".as_slice(), b"-f\xff", b"--\xff", b"--bind\xff=1", b"--debug=\xff"] {
        let words = [OsString::from("balance"), OsString::from_vec(raw.to_vec()), OsString::from("80")];
        assert!(matches!(invoke(&words), Err(Refused::Usage(_))), "{raw:?}");
    }
}

#[test]
fn help_version_and_the_printed_pages_need_no_port() {
    let printed = |words: &[&str]| match invoke(&argv(words)) {
        Ok(Invocation::Print(page)) => String::from_utf8(page).expect("text"),
        other => panic!("{words:?}: {other:?}"),
    };
    let help = printed(&["--help"]);
    assert!(help.contains("Usage: balance [-b addr] [-B addr]"), "{help}");
    assert!(help.starts_with("balance - TCP load balancer: "), "{help}");
    for line in super::usage::HELP_EXAMPLES {
        assert!(help.contains(&format!("\n  {line}\n")), "{line}: {help}");
    }
    assert!(help.contains("mrtg-conns"), "{help}");
    assert!(help.lines().count() < 220, "{help}");
    let version = format!("balance {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(printed(&["-f", "--version"]), version);
    assert_eq!(printed(&["-z", "80", "--help"]), help);
    assert!(printed(&["--man"]).contains(".TH BALANCE"));
    assert!(printed(&["--completions", "zsh"]).contains("#compdef balance"));
    assert!(matches!(invoke(&[]), Err(Refused::Usage(_))));
}

fn any_word() -> impl Strategy<Value = OsString> {
    let telling = prop::sample::select(vec![
        "-6",
        "-a",
        "-b",
        "-B",
        "-c",
        "-d",
        "-f",
        "-H",
        "-i",
        "-M",
        "-p",
        "-t",
        "-T",
        "-k",
        "-K",
        "--",
        "-",
        "!",
        "%",
        "--bind",
        "--bind=",
        "--workers=2",
        "--completions",
        "--man",
        "--policy=p2c",
        "--policy=rr,hash",
        "--check",
        "--check=tcp",
        "--check-rise=2",
        "--queue=3",
        "80",
        "smtp",
        "a::1",
        "[::1]:80",
        "1:1:1",
        "=",
        "",
    ]);
    prop_oneof![
        3 => telling.prop_map(OsString::from),
        1 => "-{0,2}[a-zA-Z0-9:%=.]{0,6}".prop_map(OsString::from),
        1 => prop::collection::vec(any::<u8>(), 0..8).prop_map(OsString::from_vec),
    ]
}

proptest! {
    // Each case builds the table of options anew, which is slow without optimization.
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn any_argv_is_answered(argv in prop::collection::vec(any_word(), 0..8)) {
        match invoke(&argv) {
            Err(Refused::Usage(text)) => prop_assert!(text.starts_with("balance: ") && text.ends_with('\n'), "{}", text),
            Err(Refused::Other(error)) => prop_assert!(!error.to_string().is_empty()),
            Ok(Invocation::Serve(serve)) => super::round_trip::assert_survives(&serve),
            Ok(_) => (),
        }
    }
}

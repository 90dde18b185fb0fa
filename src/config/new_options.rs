//! Tests of the options that 3.57 did not have, from `argv` to [`Serve`].
//!
//! Knows: the interface of this room only. Never: how words are read inside it.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::contract::{Refused, argv, blame, first_line, invoke, plain, serve, split};
use super::groups::print_member;
use super::{Invocation, Serve};
use crate::spec::{
    Check, CheckSpec, ClientPrefix, ClientRate, GroupSpec, HttpSpec, LineFormat, LogMoments, NetItem,
    NetList, OnDown, Policy, ProxySender, ProxySenders, Step, Typed,
};

const TCP: CheckSpec = CheckSpec {
    typed: Typed { text: String::new(), at: None },
    check: Some(Check::Tcp),
    interval: Duration::from_secs(2),
    timeout: Duration::from_secs(1),
    rise: 2,
    fall: 3,
    port: None,
};

fn senders(networks: &[&str]) -> Option<ProxySenders> {
    let networks = networks.iter().map(|network| ProxySender::Net(network.parse().expect("a network")));
    Some(ProxySenders::Of(networks.collect()))
}

#[test]
fn every_new_option_sets_its_own_setting_and_no_other() {
    type Edit = fn(&mut Serve);
    let table: &[(&str, Edit)] = &[
        ("--no-eject", |s| s.service.eject = false),
        ("--race 50ms", |s| s.service.race = Some(Duration::from_millis(50))),
        ("--race 0", |_| ()),
        ("--first-byte 2s", |s| s.service.first_byte = Some(Duration::from_secs(2))),
        ("--first-byte 1s --first-byte 0", |_| ()),
        ("--fail-open on", |_| ()),
        ("--fail-open off", |s| s.service.fail_open = false),
        ("--fail-open=off --fail-open=on", |_| ()),
        ("--on-down keep", |_| ()),
        ("--on-remove keep", |_| ()),
        ("--on-remove kick", |s| s.service.on_remove = OnDown::Kick),
        ("--event-program /usr/sbin/tell", |s| s.service.on_change = Some("/usr/sbin/tell".into())),
        ("--on-change /usr/sbin/tell", |s| s.service.on_change = Some("/usr/sbin/tell".into())),
        ("--log-time", |s| s.process.log_time = true),
        ("--access-log /var/log/a", |s| s.process.access_log = Some("/var/log/a".into())),
        ("--access-log-format json --access-log -", |s| {
            s.process.access_log = Some("-".into());
            s.process.log_format = LineFormat::Json;
        }),
        ("--access-log syslog --access-log-at 5m,start", |s| {
            s.process.access_log = Some("syslog".into());
            s.process.log_at = LogMoments { start: true, end: false, every: Some(Duration::from_secs(300)) };
        }),
        ("--log-format json --log-at start --access-log a", |s| {
            s.process.access_log = Some("a".into());
            s.process.log_format = LineFormat::Json;
            s.process.log_at = LogMoments { start: true, end: false, every: None };
        }),
        ("--access-log-at start --log-at=end --access-log a", |s| s.process.access_log = Some("a".into())),
        ("--access-log a --access-log-at end", |s| s.process.access_log = Some("a".into())),
        ("--refuse-when-down", |s| s.service.refuse_when_down = true),
        ("--freebind", |s| s.service.freebind = true),
        ("--transparent", |s| s.service.transparent = true),
        ("--drain-timeout 8s", |s| s.process.drain_timeout = Duration::from_secs(8)),
        ("--drain-timeout 30s", |_| ()),
        ("--drain-timeout 0", |s| s.process.drain_timeout = Duration::ZERO),
        ("--state /var/lib/b.state", |s| s.process.state = Some("/var/lib/b.state".into())),
        ("--state=a:b", |s| s.process.state = Some("a:b".into())),
        ("--http 7780", |s| s.process.http = http(None, 7_780)),
        ("--http 10.0.0.1:7780", |s| s.process.http = http(Some("10.0.0.1"), 7_780)),
        ("--http 7780 --http-token-file /etc/b.token", |s| {
            s.process.http = http(None, 7_780);
            s.process.http_token_file = Some("/etc/b.token".into());
        }),
        ("--http=[::1]:7780", |s| s.process.http = http(Some("::1"), 7_780)),
        ("--http [fe80::1%lo]:1", |s| s.process.http = http(Some("fe80::1%lo"), 1)),
        ("--http web1.example.com:65535", |s| s.process.http = http(Some("web1.example.com"), 65_535)),
        ("--user balance", |s| s.process.user = Some("balance".into())),
        ("--user=1000:www-data", |s| s.process.user = Some("1000:www-data".into())),
        ("--landlock off", |s| s.process.landlock = Some(false)),
        ("--user balance --landlock on", |s| {
            (s.process.user, s.process.landlock) = (Some("balance".into()), Some(true));
        }),
        ("--busy-poll on", |s| s.process.busy_poll = Some(true)),
        ("--dns 10.0.0.2", |s| s.process.dns = vec![([10, 0, 0, 2], 53).into()]),
        ("--dns=[::1]:5353,10.0.0.2:54", |s| {
            s.process.dns = vec!["[::1]:5353".parse().expect("an address"), ([10, 0, 0, 2], 54).into()];
        }),
        ("--busy-poll=off", |s| s.process.busy_poll = Some(false)),
        ("--slow-start 30s", |s| s.service.slow_start = Some(Duration::from_secs(30))),
        ("--slow-start 0", |_| ()),
        ("--hash-balance 1.25", |s| s.service.hash_balance = Some(1_250)),
        ("--hash-balance 1.0", |s| s.service.hash_balance = Some(1_000)),
        ("--hash-balance 100", |s| s.service.hash_balance = Some(100_000)),
        ("--allow 10.0.0.0/8,/etc/friends", |s| {
            let net = NetItem::Net("10.0.0.0/8".parse().expect("a network"));
            let items = vec![net, NetItem::File("/etc/friends".into())];
            s.service.allow = Some(NetList { items, typed: Typed::default() });
        }),
        ("--allow 10.0.0.0/8 --client-max 0 --allow=/etc/friends", |s| {
            let net = NetItem::Net("10.0.0.0/8".parse().expect("a network"));
            let items = vec![net, NetItem::File("/etc/friends".into())];
            s.service.allow = Some(NetList { items, typed: Typed::default() });
        }),
        ("--allow any --deny none --client-rate 0 --client-max 0", |_| ()),
        ("--deny ::ffff:192.0.2.1", |s| {
            let items = vec![NetItem::Net("192.0.2.1/32".parse().expect("a network"))];
            s.service.deny = Some(NetList { items, typed: Typed::default() });
        }),
        ("--client-max 20", |s| s.service.client_max = NonZeroU32::new(20)),
        ("--client-rate 10/10s", |s| s.service.client_rate = rate()),
        ("--client-rate 10/10s --client-prefix 24,56", |s| {
            (s.service.client_rate, s.service.client_prefix) = (rate(), ClientPrefix { v4: 24, v6: 56 });
        }),
        ("--max-connections 0", |_| ()),
        ("--max-connections 4294967295", |s| s.service.max_connections = NonZeroU32::new(u32::MAX)),
        ("--queue 1000000", |s| s.service.queue = NonZeroU32::new(1_000_000)),
        ("--queue 0", |_| ()),
        ("--queue 1 --queue-timeout 1ms", |s| {
            s.service.queue = NonZeroU32::new(1);
            s.service.queue_timeout = Duration::from_millis(1);
        }),
        ("--pause-timeout 1ms", |s| s.service.pause_timeout = Duration::from_millis(1)),
        ("--pause-timeout 60s", |_| ()),
        ("--accept-proxy any", |s| s.service.accept_proxy = Some(ProxySenders::Any)),
        ("--accept-proxy 192.0.2.7,10.0.0.0/8,2001:db8::/32,::1,0.0.0.0/0", |s| {
            s.service.accept_proxy =
                senders(&["192.0.2.7/32", "10.0.0.0/8", "2001:db8::/32", "::1/128", "0.0.0.0/0"]);
        }),
        ("--accept-proxy ::ffff:10.0.0.0/104", |s| s.service.accept_proxy = senders(&["10.0.0.0/8"])),
        ("--accept-proxy ::ffff:192.0.2.7", |s| s.service.accept_proxy = senders(&["192.0.2.7/32"])),
        ("--accept-proxy any --greeting-timeout 1ms", |s| {
            s.service.accept_proxy = Some(ProxySenders::Any);
            s.service.greeting_timeout = Duration::from_millis(1);
        }),
        ("--max-lifetime 1h", |s| s.service.max_lifetime = Some(Duration::from_secs(3_600))),
        ("--max-lifetime 0s", |_| ()),
        ("--policy leastconn", |s| s.service.later_policy = Policy::LeastConnections),
        ("--policy p2c", |s| s.service.later_policy = Policy::TwoChoices),
        ("--policy first", |s| s.service.later_policy = Policy::First),
        ("--policy hash", |s| s.service.later_policy = Policy::Hash),
        ("--policy rr", |_| ()),
        ("--check tcp", |s| s.service.check = Some(TCP)),
        ("--check http:/healthz", |s| {
            let check = Check::Http { host: None, path: "/healthz".into(), statuses: vec![200..=399] };
            s.service.check = Some(CheckSpec { check: Some(check), ..TCP });
        }),
        ("--check send:PING\\r\\n;expect:+PONG", |s| {
            let steps = vec![Step::Send(b"PING\r\n".into()), Step::Expect(b"+PONG".into())];
            s.service.check = Some(CheckSpec { check: Some(Check::Dialogue(steps)), ..TCP });
        }),
        ("--check exec:/bin/true", |s| {
            s.service.check = Some(CheckSpec { check: Some(Check::Exec("/bin/true".into())), ..TCP });
        }),
        ("--check tcp --on-down kick", |s| (s.service.check, s.service.on_down) = (Some(TCP), OnDown::Kick)),
        ("--check-interval 10ms --check tcp", |s| {
            s.service.check = Some(CheckSpec { interval: Duration::from_millis(10), ..TCP });
        }),
        ("--check tcp --check-interval 1d --check-timeout 1h", |s| {
            let (interval, timeout) = (Duration::from_secs(86_400), Duration::from_secs(3_600));
            s.service.check = Some(CheckSpec { interval, timeout, ..TCP });
        }),
        ("--check tcp --check-rise 1 --check-fall 1000", |s| {
            s.service.check = Some(CheckSpec { rise: 1, fall: 1_000, ..TCP });
        }),
        ("--check tcp --check-port 65535", |s| {
            s.service.check = Some(CheckSpec { port: NonZeroU16::new(65_535), ..TCP });
        }),
    ];
    for (options, edit) in table {
        let mut expected = plain();
        edit(&mut expected);
        assert_eq!(serve(&format!("{options} 80")), expected, "{options} before PORT");
        assert_eq!(serve(&format!("80 {options}")), expected, "{options} after PORT");
    }
}

fn rate() -> Option<ClientRate> {
    NonZeroU32::new(10).map(|count| ClientRate { count, per: Duration::from_secs(10) })
}

#[test]
fn where_http_is_served_is_a_port_or_a_host_and_a_port() {
    let legal = "give a port, or ADDRESS:PORT as in 127.0.0.1:7780 or [::1]:7780";
    for (value, why) in [
        ("0", "has no port from 1 to 65535"),
        ("65536", "has no port from 1 to 65535"),
        ("http", "has no port from 1 to 65535"),
        ("", "has no port from 1 to 65535"),
        ("127.0.0.1", "has no port from 1 to 65535"),
        ("127.0.0.1:", "has no port from 1 to 65535"),
        ("127.0.0.1:x", "has no port from 1 to 65535"),
        (":7780", "has no host in front of its port"),
        ("7780:7780", "has no host in front of its port"),
        ("a b:7780", "has no host in front of its port"),
        ("::1:7780", "is not an address and a port"),
        ("[::1:7780", "is not an address and a port"),
        ("[::x]:7780", "is not an address and a port"),
        ("[web1]:7780", "has no host in front of its port"),
    ] {
        assert_eq!(blame(&["--http", value, "80"]), format!("--http '{value}' {why}; {legal}"));
    }
}

#[test]
fn moments_of_the_access_log_are_words_and_one_time() {
    let legal = "give start, end, a time of at least 1s, or several of them, as in start,end,5m";
    for (value, why) in [
        ("", "is not a list of moments"),
        ("begin", "is not a list of moments"),
        ("start,", "is not a list of moments"),
        ("start end", "is not a list of moments"),
        ("0", "has a time that is out of range"),
        ("999ms", "has a time that is out of range"),
        ("3651d", "has a time that is out of range"),
        ("end,end", "names the same moment twice"),
        ("5m,300s", "names the same moment twice"),
    ] {
        let words = ["--access-log", "a", "--access-log-at", value, "80"];
        assert_eq!(blame(&words), format!("--access-log-at '{value}' {why}; {legal}"));
    }
    for option in [["--access-log-at", "start"], ["--access-log-format", "json"]] {
        let said = blame(&[option[0], option[1], "80"]);
        let needs =
            "needs --access-log; say where the lines go, such as --access-log /var/log/balance/access.log";
        assert_eq!(said, format!("{} {needs}", option[0]));
    }
}

fn http(host: Option<&str>, port: u16) -> Option<HttpSpec> {
    let port = NonZeroU16::new(port).expect("not 0");
    Some(HttpSpec { host: host.map(str::to_owned), port, typed: Typed::default() })
}

#[test]
fn a_wrong_value_is_told_with_its_option_and_what_is_legal() {
    let table = [
        ("--fail-open maybe", "'maybe' is not a value of --fail-open; it is one of on, off"),
        ("--fail-open -f", "'-f' is not a value of --fail-open; it is one of on, off"),
        ("--on-down drop", "'drop' is not a value of --on-down; it is one of keep, kick"),
        ("--on-down kick", "--on-down kick needs --check; say how to check, such as --check tcp"),
        (
            "--event-program tell",
            "--event-program 'tell' is not an absolute path without control characters, such as /usr/local/sbin/tell-me",
        ),
        (
            "--dns ns1.corp",
            "--dns needs addresses, and 'ns1.corp' is not one; give one such as 10.0.0.2, 10.0.0.2:5353 or [fd00::2]:5353",
        ),
        ("--busy-poll 50us", "'50us' is not a value of --busy-poll; it is one of on, off"),
        ("--no-eject=no", "option --no-eject takes no value, but has 'no'; write --no-eject"),
        ("--slow-start 0.1ms", "--slow-start '0.1ms' is out of range; give 1ms to 3650d or 0 for off"),
        ("--max-lifetime 3651d", "--max-lifetime '3651d' is out of range; give 1ms to 3650d or 0 for never"),
        (
            "--max-connections 4294967296",
            "--max-connections '4294967296' is not a number from 0 to 4294967295; 0 means no limit",
        ),
        (
            "--max-connections -1",
            "--max-connections '-1' is not a number from 0 to 4294967295; 0 means no limit",
        ),
        ("--queue 1000001", "--queue '1000001' is not a number from 0 to 1000000; 0 means no queue"),
        ("--pause-timeout 0", "--pause-timeout '0' is out of range; give 1ms to 3650d"),
        ("--queue 1 --queue-timeout 0", "--queue-timeout '0' is out of range; give 1ms to 3650d"),
        (
            "--queue-timeout 1s",
            "--queue-timeout needs --queue; say how many clients may wait, such as --queue 100",
        ),
        (
            "--queue 0 --queue-timeout 1s",
            "--queue-timeout needs --queue; say how many clients may wait, such as --queue 100",
        ),
        (
            "--accept-proxy 10.0.0.0/33",
            "--accept-proxy '10.0.0.0/33' has '10.0.0.0/33', whose prefix is out of range; give 0 to 32",
        ),
        (
            "--accept-proxy ::1,::1/129",
            "--accept-proxy '::1,::1/129' has '::1/129', whose prefix is out of range; give 0 to 128",
        ),
        (
            "--accept-proxy 10.0.0.1/8",
            "--accept-proxy '10.0.0.1/8' has '10.0.0.1/8', which has bits set behind its prefix; write 10.0.0.0/8, or 10.0.0.1 for the one address",
        ),
        (
            "--accept-proxy 10.0.0.1,any",
            "--accept-proxy '10.0.0.1,any' has any beside others; any stands for every address, so write it alone",
        ),
        (
            "--accept-proxy 10.0.0.1,",
            "--accept-proxy '10.0.0.1,' has an empty entry; give addresses such as 192.0.2.7, networks such as 10.0.0.0/8 and unix, separated by commas, or any",
        ),
        (
            "--accept-proxy lb1",
            "--accept-proxy 'lb1' has 'lb1', which is neither an address nor a network; give addresses such as 192.0.2.7, networks such as 10.0.0.0/8 and unix, separated by commas, or any",
        ),
        (
            "--accept-proxy any --greeting-timeout 0",
            "--greeting-timeout '0' is out of range; give 1ms to 3650d",
        ),
        (
            "--greeting-timeout 1s",
            "--greeting-timeout needs --accept-proxy or groups behind @NAME; without them balance waits for nothing, so leave it out",
        ),
        ("--starttls mysql", "'mysql' is not a value of --starttls; it is one of postgres"),
        (
            "--starttls postgres",
            "--starttls needs groups behind @NAME; without them balance does not read what clients ask for, so leave it out",
        ),
        ("--check-interval 9ms", "--check-interval '9ms' is out of range; give 10ms to 1d"),
        ("--check-interval 0", "--check-interval '0' is out of range; give 10ms to 1d"),
        ("--check-timeout 61m", "--check-timeout '61m' is out of range; give 1ms to 1h"),
        ("--check-rise 0", "--check-rise '0' is not a number from 1 to 1000"),
        ("--check-fall 1001", "--check-fall '1001' is not a number from 1 to 1000"),
        ("--check-port 0", "--check-port '0' is not a number from 1 to 65535"),
        ("--check-port http", "--check-port 'http' is not a number from 1 to 65535"),
        (
            "--check udp",
            r"--check 'udp' is not a check; give tcp, http:/healthz, 'expect:220', 'send:PING\r\n;expect:+PONG' or exec:/path/prog",
        ),
        (
            "--check http:healthz",
            "--check 'http:healthz' needs a path that begins with / and has no blanks in it, such as http:/healthz",
        ),
        (
            "--check exec:true",
            "--check 'exec:true' needs an absolute path without control characters, such as exec:/path/prog",
        ),
        (
            r"--check send:\q",
            r"--check 'send:\q' has the unknown escape '\q'; there are \r \n \t \0 \\ \; and \xHH",
        ),
        (
            "--check expect:a;b",
            r"--check 'expect:a;b' has the step 'b', which is neither send:TEXT nor expect:TEXT; a ; that is text is written \;",
        ),
        (
            "--check expect:",
            "--check 'expect:' has a step without text, 'expect:'; give something to send or to expect, such as expect:220",
        ),
    ];
    for (options, expected) in table {
        for modes in ["80", "80 -i", "80 -c show"] {
            assert_eq!(blame(&split(&format!("{options} {modes}"))), expected, "{options} {modes}");
        }
    }
    for option in ["--check-interval", "--check-timeout", "--slow-start", "--queue-timeout", "--max-lifetime"]
    {
        for value in ["x", "", "-1", "5x"] {
            let line = blame(&[option, value, "80"]);
            assert!(line.starts_with(&format!("{option} '{value}' is not a time; ")), "{line}");
        }
    }
    for value in ["", "0.999", "100.001", "1.2345", "1.", ".9", "-1", "x", "101"] {
        let line = blame(&["--hash-balance", value, "80"]);
        let legal = "is not a number from 1 to 100 with at most 3 decimals, such as 1.25";
        assert_eq!(line, format!("--hash-balance '{value}' {legal}"));
    }
}

#[test]
fn options_of_a_check_need_a_check() {
    for (option, value) in [
        ("--check-interval", "2s"),
        ("--check-timeout", "1s"),
        ("--check-rise", "2"),
        ("--check-fall", "3"),
        ("--check-port", "80"),
    ] {
        let expected = format!("{option} needs --check; say how to check, such as --check tcp");
        assert_eq!(blame(&[option, value, "80"]), expected);
    }
}

/// The policies of the groups, and behind a slash the policy of later groups.
fn policies(line: &str) -> String {
    let serve = serve(line);
    let groups: Vec<_> = serve.service.groups.iter().map(|group| super::policy_name(group.policy)).collect();
    format!("{}/{}", groups.join(" "), super::policy_name(serve.service.later_policy))
}

#[test]
fn one_policy_is_for_all_groups_and_a_list_for_one_after_the_other() {
    let table = [
        ("80 a ! b % c", "rr hash rr/rr"),
        ("--policy leastconn 80 a ! b % c", "leastconn hash leastconn/leastconn"),
        ("--policy rr 80 a % b", "hash rr/rr"),
        ("--policy hash 80 a ! b", "hash hash/hash"),
        ("80 a ! b % c --policy p2c,hash,first", "p2c hash first/rr"),
        ("--policy hash,rr 80 a ! b !", "hash rr/rr"),
        ("--policy rr,rr --policy first 80 a", "first/first"),
        ("--policy first,leastconn 80 - ! a", "first leastconn/rr"),
        ("--policy first 80", "/first"),
        ("--policy rr,first 80 a", "rr/first"),
        ("--policy first,rr,p2c 80 a ! b", "first rr/p2c"),
        ("--policy hash,hash,leastconn 80 a % b %", "hash hash/leastconn"),
    ];
    for (line, expected) in table {
        assert_eq!(policies(line), expected, "{line}");
    }
}

#[test]
fn a_policy_that_fits_no_group_is_wrong_usage() {
    let names = "rr, leastconn, p2c, first, hash, or a list such as leastconn,rr with one for each group";
    let table = [
        ("--policy lc 80 a", format!("--policy 'lc' is not a policy; give one of {names}")),
        ("--policy= 80 a", format!("--policy '' is not a policy; give one of {names}")),
        ("--policy RR 80 a", format!("--policy 'RR' is not a policy; give one of {names}")),
        (
            "--policy rr,foo 80 a ! b",
            format!("--policy 'rr,foo' has 'foo', which is not a policy; give one of {names}"),
        ),
        ("--policy rr, 80 a", format!("--policy 'rr,' has '', which is not a policy; give one of {names}")),
        (
            "--policy rr,first 80 a ! b ! c",
            "--policy 'rr,first' has 2 policies, but the number of groups is 3; give one for each group, or one word \
             for all"
                .to_owned(),
        ),
        (
            "--policy rr,first 80",
            "--policy 'rr,first' has 2 policies, but the number of groups is 0; give one for each group, or one word \
             for all"
                .to_owned(),
        ),
        (
            "--policy rr,first 80 a ! b %",
            "--policy 'rr,first' has first for group 1, which % makes hash; write hash there, or end the group with !"
                .to_owned(),
        ),
    ];
    for (line, expected) in table {
        assert_eq!(blame(&split(line)), expected, "{line}");
    }
}

#[test]
fn options_and_gaps_of_channels_are_read_among_the_others() {
    let shown = |line: &str| {
        let groups = serve(line).service.groups;
        let group = |group: &GroupSpec| group.members.iter().map(print_member).collect::<Vec<_>>().join(" ");
        groups.iter().map(group).collect::<Vec<_>>().join(" | ")
    };
    let table = [
        ("80 a - b", "a - b"),
        ("80 - -f a", "- a"),
        ("80 - ! a", "- | a"),
        ("80 -- - -a", "- -a"),
        (
            "-f 80 a:1:2,weight=3,disabled - % [::1]:80,disabled=hard",
            "a:1:2,weight=3,disabled - | [::1]:80,disabled=hard",
        ),
    ];
    for (line, expected) in table {
        assert_eq!(shown(line), expected, "{line}");
    }
    assert_eq!(
        blame(&["80", "host:80,weight=300"]),
        "weight=300 in [host:80,weight=300] is out of range; give 0 to 256"
    );
    let Err(Refused::Other(error)) = invoke(&argv(&["80", "host:0,weight=3"])) else { panic!("legal") };
    assert_eq!(first_line(&error), "unknown or invalid address [host:0,weight=3]");
    assert!(matches!(invoke(&argv(&["80", "-c", "wait 0"])), Ok(Invocation::Command { .. })));
}

#[test]
fn every_example_is_a_command_line_that_is_understood() {
    for (line, _) in super::usage::EXAMPLES {
        let mut quote = None;
        let words = line.split(|c| {
            match quote {
                None if c == '\'' || c == '"' => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ => (),
            }
            c == ' ' && quote.is_none()
        });
        let words: Vec<_> = words.skip(1).map(|word| word.trim_matches(['\'', '"'])).collect();
        assert!(invoke(&argv(&words)).is_ok(), "{line}: {words:?}");
    }
}

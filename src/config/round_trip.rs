//! Round trips: settings are printed as a line, a shell splits the line, and the words are read as the same
//! settings.
//!
//! Knows: how lines are printed and read. Never: what either does inside.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;

use super::channel::tests::any_target;
use super::contract::{argv, invoke, plain};
use super::draft::Draft;
use super::host::is_host;
use super::lex::SourceLines;
use super::options::options;
use super::row::Scope;
use super::{Invocation, Serve, command_line, option_changes, print_file, print_line, read_file, read_line};
use crate::spec::{
    Check, CheckSpec, ClientPrefix, ClientRate, GroupSpec, HostSpec, HttpSpec, Keepalive, LineFormat,
    ListenHost, ListenSpec, LogMoments, Member, Name, Named, NetItem, NetList, OnDown, Policy, PortRange,
    PortWord, PortsSpec, ProcessSpec, ProxySender, ProxySenders, RouteName, Section, ServiceSpec, StartTls,
    Step, Typed, UnixName,
};

const POLICIES: [Policy; 5] =
    [Policy::RoundRobin, Policy::Hash, Policy::LeastConnections, Policy::TwoChoices, Policy::First];

/// Splits a line as a POSIX shell does that meets no variables and patterns. Panics if the line has something
/// that a shell would change.
fn shell_split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        match first {
            ' ' => words.extend(word.take()),
            '\'' => {
                let (inside, behind) = rest.split_once('\'').expect("a quote that ends");
                word.get_or_insert_default().push_str(inside);
                rest = behind;
            }
            '\\' => {
                let literal = rest.chars().next().expect("a character after a backslash");
                word.get_or_insert_default().push(literal);
                rest = &rest[literal.len_utf8()..];
            }
            _ => {
                assert!(!"|&;<>()$`\"\t\r\n*?[#~!{}^".contains(first), "{first:?} is bare in {line}");
                word.get_or_insert_default().push(first);
            }
        }
    }
    words.extend(word);
    words
}

#[track_caller]
pub(super) fn assert_survives(serve: &Serve) {
    let line = command_line(&serve.process, &serve.service);
    assert!(!line.contains('\n'), "one line: {line}");
    let words = shell_split(&line);
    assert_eq!(words[0], "balance");
    let words: Vec<_> = words[1..].iter().map(String::as_str).collect();
    match invoke(&argv(&words)) {
        Ok(Invocation::Serve(again)) => assert_eq!(*again, *serve, "{line}"),
        other => panic!("{line}: {other:?}"),
    }
}

fn span(range: RangeInclusive<Duration>) -> impl Strategy<Value = Duration> {
    let nanos = |span: &Duration| u64::try_from(span.as_nanos()).expect("at most ten years");
    let (least, most) = (nanos(range.start()), nanos(range.end()));
    let exact = (least..=most).prop_map(Duration::from_nanos);
    // Users mostly write whole numbers of short units.
    let round = (1u64..1_000, prop::sample::select(vec![1, 1_000, 60_000, 3_600_000]))
        .prop_map(move |(n, unit)| Duration::from_millis(n * unit).clamp(*range.start(), *range.end()));
    prop_oneof![exact, round]
}

fn any_span() -> impl Strategy<Value = Duration> {
    span(Duration::from_millis(1)..=Duration::from_secs(315_360_000))
}

/// Each host once.
fn sources() -> impl Strategy<Value = Vec<HostSpec>> {
    prop::collection::vec(host(), 0..4).prop_map(|mut hosts| {
        let mut names = BTreeSet::new();
        hosts.retain(|host| names.insert(host.name.clone()));
        hosts
    })
}

fn host() -> impl Strategy<Value = HostSpec> {
    let name = prop_oneof![
        "[a-z0-9.!$`'\"\\\\*~#&;|<>(){}=-]{1,12}",
        any::<u128>().prop_map(|bits| std::net::Ipv6Addr::from(bits).to_string()),
        Just("--".to_owned()),
    ];
    name.prop_filter("a bare number is no host", |name| is_host(name))
        .prop_map(|name| HostSpec { name, typed: Typed::default() })
}

fn keepalive() -> impl Strategy<Value = Option<Keepalive>> {
    let numbers = (1u64..=32_767, 1u64..=32_767, 1u32..=127);
    prop::option::of(numbers.prop_map(|(idle, interval, count)| Keepalive {
        idle: Duration::from_secs(idle),
        interval: Duration::from_secs(interval),
        count,
    }))
}

fn status_range() -> impl Strategy<Value = RangeInclusive<u16>> {
    (100u16..=599, 100u16..=599).prop_map(|(a, b)| a.min(b)..=a.max(b))
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![prop::collection::vec(any::<u8>(), 1..12), "[ -~]{1,12}".prop_map(Into::into)];
    (any::<bool>(), bytes).prop_map(|(is_send, bytes)| match is_send {
        true => Step::Send(bytes),
        false => Step::Expect(bytes),
    })
}

fn check() -> impl Strategy<Value = Option<CheckSpec>> {
    let statuses = prop_oneof![Just(vec![200..=399]), prop::collection::vec(status_range(), 1..4)];
    let check = prop_oneof![
        Just(Check::Tcp),
        (
            prop::option::of("([a-z][a-z0-9.-]{0,6}|\\[2001:db8::[1-9]\\])(:[1-9][0-9]{0,3})?"),
            "/{1,3}[!-~]{0,12}(=[1-6][0-9]{2}(-[1-6][0-9]{2})?)?",
            statuses
        )
            .prop_map(|(host, path, statuses)| Check::Http { host, path, statuses }),
        prop::collection::vec(step(), 1..4).prop_map(Check::Dialogue),
        "/[ -~]{0,16}ü?".prop_map(|path| Check::Exec(path.into())),
    ];
    let interval = span(Duration::from_millis(10)..=Duration::from_secs(86_400));
    let timeout = span(Duration::from_millis(1)..=Duration::from_secs(3_600));
    let numbers = (1u32..=1_000, 1u32..=1_000, any::<Option<NonZeroU16>>());
    prop::option::of((check, interval, timeout, numbers).prop_map(
        |(check, interval, timeout, (rise, fall, port))| CheckSpec {
            typed: Typed::default(),
            check: Some(check),
            interval,
            timeout,
            rise,
            fall,
            port,
        },
    ))
}

fn senders() -> impl Strategy<Value = ProxySenders> {
    let v4 = (any::<[u8; 4]>(), 0..=32u8).prop_map(|(ip, prefix)| (IpAddr::from(ip), prefix));
    // If it is written with an IPv4 address, it is that address.
    let v6 = (any::<[u8; 15]>(), 0..=128u8).prop_map(|(ip, prefix)| {
        let all: Vec<u8> = std::iter::once(0x20).chain(ip).collect();
        (IpAddr::from(<[u8; 16]>::try_from(all).expect("16 bytes")), prefix)
    });
    let network =
        prop_oneof![v4, v6].prop_map(|(ip, prefix)| IpNet::new(ip, prefix).expect("a network").trunc());
    let sender = prop_oneof![8 => network.prop_map(ProxySender::Net), 1 => Just(ProxySender::Unix)];
    prop_oneof![Just(ProxySenders::Any), prop::collection::vec(sender, 1..4).prop_map(ProxySenders::Of),]
}

/// Groups, and the policy of later groups.
fn groups() -> impl Strategy<Value = (Vec<GroupSpec>, Policy)> {
    let policy = || prop::sample::select(POLICIES.to_vec());
    let member = prop_oneof![1 => Just(Member::Gap), 4 => any_target().prop_map(Member::Channel)];
    let group = (policy(), prop::collection::vec(member, 1..4))
        .prop_map(|(policy, members)| GroupSpec { policy, members });
    (prop::collection::vec(group, 0..4), policy())
}

/// Which of this many groups are for which clients.
fn sections(places: Vec<(bool, Vec<RouteName>)>, groups: usize) -> Vec<Section> {
    let mut known = BTreeSet::new();
    let mut all: Vec<Section> = Vec::new();
    for (group, (is_first, asked)) in places.into_iter().take(groups).enumerate() {
        let asked: Vec<RouteName> = asked.into_iter().filter(|one| known.insert(one.clone())).collect();
        let begins = is_first && !asked.is_empty() && (group == 0 || !all.is_empty());
        if begins {
            all.push(Section { group, asked });
        }
    }
    all
}

fn asked() -> impl Strategy<Value = RouteName> {
    let host = "[a-z0-9_-]{1,9}(\\.[a-z0-9_-]{1,5}){1,3}\\.[a-z]{2}";
    prop_oneof![
        4 => host.prop_map(RouteName::Name),
        2 => host.prop_map(RouteName::Under),
        1 => "[!-~]{1,9}".prop_map(RouteName::Alpn),
        1 => prop::sample::select(vec![RouteName::Tls, RouteName::Http, RouteName::Ssh, RouteName::Else]),
    ]
}

/// The target of the access log, its format, and when it gets a line.
fn access_log() -> impl Strategy<Value = (String, (LineFormat, LogMoments))> {
    let every = prop::option::of((1_000u64..=315_360_000_000).prop_map(Duration::from_millis));
    let moments = (any::<[bool; 2]>(), every).prop_map(|([start, end], every)| LogMoments {
        start,
        end: end || (!start && every.is_none()),
        every,
    });
    let format = prop::sample::select(vec![LineFormat::Text, LineFormat::Json]);
    ("[ -~]{1,12}", (format, moments))
}

prop_compose! {
    fn old_options()(
        host in prop_oneof![Just(ListenHost::AnyV4), Just(ListenHost::AnyV6), host().prop_map(ListenHost::Host)],
        ports in prop_oneof![
            any::<NonZeroU16>().prop_map(|port| PortsSpec::One(PortWord::Number(port))),
            "[a-z][a-z0-9*/+_.-]{0,8}".prop_map(|name| PortsSpec::One(PortWord::Name(name))),
            any::<[NonZeroU16; 2]>().prop_map(|[one, other]| match PortRange::new(one.min(other), one.max(other)) {
                Some(range) => PortsSpec::Range(range),
                None => PortsSpec::One(PortWord::Number(one)),
            }),
            unix_name().prop_map(PortsSpec::Unix),
        ]
        .boxed(),
        sources in sources(),
        (connect_timeout, race, first_byte) in (any_span(), prop::option::of(any_span()), prop::option::of(any_span())).boxed(),
        idle_timeout in prop::option::of(any_span()),
        half_close_timeout in prop::option::of(any_span()),
        [foreground, debug, log_time, dump, autodisable, hash_failover] in any::<[bool; 6]>(),
        client_keepalive in keepalive(),
        server_keepalive in keepalive(),
        control_group in prop::option::of("[ -9;-~]{1,12}"),
        (user, landlock) in (prop::option::of("[a-z]{1,8}(:[a-z]{1,8})?"), any::<Option<bool>>()).boxed(),
        busy_poll in any::<Option<bool>>(),
        dns in prop::collection::vec((any::<std::net::IpAddr>(), 1..=u16::MAX), 0..3).boxed(),
        loopback_congestion in prop::option::of("[a-z][a-z0-9_]{1,14}"),
        drain_timeout in any_span(),
        state in prop::option::of("[ -~]{1,12}"),
        access in prop::option::of(access_log()).boxed(),
        http in prop::option::of((prop::option::of(host()), any::<NonZeroU16>())).boxed(),
        workers in prop::option::of((1usize..=1_024).prop_map(|n| NonZeroUsize::new(n).expect("not 0"))),
    ) -> Serve {
        let named = |name: Option<String>| name.as_deref().map(Named::from);
        let user = named(user);
        let (control_group, loopback_congestion, state) = (named(control_group), named(loopback_congestion), named(state));
        let (access_log, (log_format, log_at)) = access.map_or_else(Default::default, |(path, how)| (named(Some(path)), how));
        let http = http.map(|(host, port)| HttpSpec { host: host.map(|host| host.name), port, typed: Typed::default() });
        let http_token_file = http.as_ref().and(state.clone());
        let mut dns: Vec<std::net::SocketAddr> = dns.into_iter().map(std::net::SocketAddr::from).collect();
        dns.dedup();
        let process = ProcessSpec { foreground, debug, log_time, dump, control_group, user, landlock, workers, busy_poll, dns, loopback_congestion, drain_timeout, state, http, http_token_file, access_log, log_format, log_at };
        let service = ServiceSpec {
            listen: ListenSpec { host, ports, typed: Typed::default() }, sources, connect_timeout, race, first_byte, idle_timeout, half_close_timeout, autodisable,
            hash_failover, client_keepalive, server_keepalive, ..plain().service
        };
        Serve { process, service, check_only: false, replace: false }
    }
}

fn unix_name() -> impl Strategy<Value = UnixName> {
    (any::<bool>(), "[ -~ü]{0,20}[!-.0-~]").prop_map(|(is_abstract, text)| {
        let name = if is_abstract {
            UnixName::abstracted(text.as_bytes())
        } else {
            UnixName::path(format!("/{text}").as_bytes())
        };
        name.expect("a short one")
    })
}

fn nets() -> impl Strategy<Value = Option<NetList>> {
    let v4 = (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(ip, length)| IpNet::new(ip.into(), length));
    let v6 = (any::<[u8; 16]>(), 0..=128_u8).prop_map(|(ip, length)| IpNet::new(ip.into(), length));
    let net = prop_oneof![v4, v6].prop_map(|net| NetItem::Net(net.expect("short").trunc()));
    // An IPv4-mapped address would be read as IPv4.
    let net = net.prop_filter("canonical", |item| match item {
        NetItem::Net(net) => net.addr().to_canonical() == net.addr(),
        NetItem::File(_) => true,
    });
    let file = "/[ -+.-~]{0,12}ü?".prop_map(|path| NetItem::File(path.into()));
    let items = prop::collection::vec(prop_oneof![net, file], 1..4);
    prop::option::of(items.prop_map(|items| NetList { items, typed: Typed::default() }))
}

type ClientsSpec = (Option<NetList>, Option<NetList>, Option<NonZeroU32>, Option<ClientRate>, ClientPrefix);

fn access() -> impl Strategy<Value = ClientsSpec> {
    let rate = (1_u32..=1_000_000, span(Duration::from_millis(1)..=Duration::from_secs(86_400)));
    let rate = rate.prop_map(|(count, per)| NonZeroU32::new(count).map(|count| ClientRate { count, per }));
    let rate = prop_oneof![Just(None), rate];
    let prefix = (1..=32_u8, 1..=128_u8).prop_map(|(v4, v6)| ClientPrefix { v4, v6 });
    (nets(), nets(), any::<Option<NonZeroU32>>(), rate, prefix).prop_map(
        |(allow, deny, max, rate, prefix)| {
            let is_idle = max.is_none() && rate.is_none();
            (allow, deny, max, rate, if is_idle { ClientPrefix::default() } else { prefix })
        },
    )
}

prop_compose! {
    fn any_serve()(
        old in old_options(),
        (groups, later_policy) in groups(),
        hash_balance in prop::option::of(1_000u32..=100_000),
        slow_start in prop::option::of(any_span()),
        check in check(),
        [eject, fail_open, refuse_when_down, is_kick, freebind, transparent] in any::<[bool; 6]>(),
        max_connections in any::<Option<NonZeroU32>>(),
        queue in (0u32..=1_000_000, any_span()).prop_map(|(n, span)| NonZeroU32::new(n).map(|n| (n, span))),
        has_queue in any::<bool>(),
        max_lifetime in prop::option::of(any_span()),
        (accept_proxy, greeting_timeout, access, has_starttls) in (prop::option::of(senders()), any_span(), access(), any::<bool>()).boxed(),
        places in prop::collection::vec((any::<bool>(), prop::collection::vec(asked(), 1..4)), 4),
        on_change in prop::option::of("/[ -~]{0,16}ü?"),
        socket in (prop::option::of(0..=0o777u32), prop::option::of("[ -9;-~]{1,12}")),
    ) -> Serve {
        let unix = old.service.listen.ports.unix();
        let (is_unix, has_file) = (unix.is_some(), unix.is_some_and(|name| !name.is_abstract()));
        let accept_proxy = accept_proxy.filter(|senders| senders.can_come(is_unix));
        let is_listed = !is_unix || accept_proxy.is_some();
        let mut old = old;
        if is_unix {
            (old.service.listen.host, old.service.client_keepalive) = (ListenHost::AnyV4, None);
        }
        let on_change = on_change.as_deref().map(Named::from);
        let sections = sections(places, groups.len());
        let (queue, has_check) = (queue.filter(|_| has_queue), check.is_some());
        let transparent = transparent && old.service.sources.is_empty();
        let hashes = match groups.is_empty() {
            true => later_policy == Policy::Hash,
            false => groups.iter().all(|group| group.policy == Policy::Hash),
        };
        let (longest, has_next) = (old.service.connect_timeout, old.service.hash_failover || !hashes);
        let race = old.service.race.filter(|&race| race < longest && has_next);
        let service = ServiceSpec {
            transparent: transparent && is_listed, race,
            groups, later_policy, hash_balance, slow_start, check, eject, fail_open,
            refuse_when_down: refuse_when_down && !is_unix, freebind: freebind && !is_unix,
            socket_mode: socket.0.filter(|_| has_file), socket_group: socket.1.filter(|_| has_file).as_deref().map(Named::from),
            on_down: if is_kick && has_check { OnDown::Kick } else { OnDown::Keep },
            on_remove: if is_kick { OnDown::Kick } else { OnDown::Keep },
            greeting_timeout: if accept_proxy.is_some() || !sections.is_empty() { greeting_timeout } else { plain().service.greeting_timeout },
            starttls: (has_starttls && !sections.is_empty()).then_some(StartTls::Postgres),
            sections,
            accept_proxy, max_connections, max_lifetime, on_change,
            allow: access.0.filter(|_| is_listed), deny: access.1.filter(|_| is_listed), client_max: access.2, client_rate: access.3, client_prefix: access.4,
            queue: queue.map(|(n, _)| n),
            queue_timeout: queue.map_or(plain().service.queue_timeout, |(_, span)| span),
            ..old.service
        };
        Serve { process: old.process, service, check_only: false, replace: false }
    }
}

proptest! {
    // Each case builds the table of options anew, which is slow without optimization.
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn a_printed_line_starts_the_same_instance(serve in any_serve()) {
        assert_survives(&serve);
    }

    #[test]
    fn a_printed_line_reads_as_the_same_service(serve in any_serve(), name in prop::option::of("[a-zA-Z][a-z0-9._-]{0,8}")) {
        let service = ServiceSpec { name: name.as_deref().and_then(Name::new), ..serve.service };
        let line = print_line(&service);
        let words = SourceLines::of("f", line.as_bytes()).next().expect("a line").words;
        prop_assert_eq!(read_line(&words), Ok(service), "{}", line);
    }

    #[test]
    fn a_reload_tells_each_option_that_it_changes(mut serves in prop::collection::vec(any_serve(), 2)) {
        let (other, before) = (serves.remove(1), serves.remove(0).service);
        let after = ServiceSpec {
            listen: before.listen.clone(), groups: before.groups.clone(), sections: before.sections.clone(),
            later_policy: before.later_policy, ..other.service
        };
        let told = option_changes(&before, &after);
        let [was, is] = [before, after].map(Draft::of);
        for row in options().filter(|row| row.scope == Scope::Service && !["bind", "ipv6", "policy"].contains(&row.long)) {
            let change = format!("--{} is ", row.long);
            prop_assert_eq!((row.print)(&was) != (row.print)(&is), told.iter().any(|one| one.starts_with(&change)), "{}: {:?}", change, told);
        }
    }

    #[test]
    fn a_printed_file_reads_as_itself(serves in prop::collection::vec(any_serve(), 1..5)) {
        let process = serves[0].process.clone();
        let services: Vec<_> = serves.into_iter().zip(1u16..).map(|(serve, port)| {
            let port = PortWord::Number(NonZeroU16::new(port).expect("from 1"));
            let listen = ListenSpec { ports: port.into(), ..serve.service.listen };
            let name = Name::new(&format!("s{}", listen.ports));
            let reached = |senders: ProxySenders| if senders.can_come(false) { senders } else { ProxySenders::Any };
            let accept_proxy = serve.service.accept_proxy.map(reached);
            // These options are for Unix sockets.
            ServiceSpec { name, listen, accept_proxy, socket_mode: None, socket_group: None, ..serve.service }
        }).collect();
        let text = print_file(&process, &services);
        prop_assert_eq!(read_file("f", text.as_bytes()), Ok((process, services)), "{}", text);
    }
}

//! Tests of the way there and back: settings become a line, a shell splits the line, the words become the same settings.
//!
//! Knows: both front doors. Never: what either does inside.

use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::time::Duration;

use proptest::prelude::*;

use super::contract::{argv, invoke, plain};
use super::target::tests::any_target;
use super::{
    Check, CheckKind, GroupDecl, Invocation, Keepalive, Listen, OnDown, Place, PortWord, Serve, Step,
    command_line,
};
use crate::sched::Policy;

const POLICIES: [Policy; 5] =
    [Policy::RoundRobin, Policy::Hash, Policy::LeastConnections, Policy::TwoChoices, Policy::First];

/// What a POSIX shell makes of a line without variables and patterns. Panics on what a shell would not leave alone.
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

/// The word as typed is for messages; it may differ.
fn without_words(serve: &Serve) -> Serve {
    let mut serve = serve.clone();
    for place in serve.groups.iter_mut().flat_map(|group| &mut group.places) {
        if let Place::Channel(target) = place {
            target.word.clear();
        }
    }
    serve
}

#[track_caller]
pub(super) fn assert_survives(serve: &Serve) {
    let line = command_line(serve);
    assert!(!line.contains('\n'), "one line: {line}");
    let words = shell_split(&line);
    assert_eq!(words[0], "balance");
    let words: Vec<_> = words[1..].iter().map(String::as_str).collect();
    match invoke(&argv(&words)) {
        Ok(Invocation::Serve(again)) => assert_eq!(without_words(&again), without_words(serve), "{line}"),
        other => panic!("{line}: {other:?}"),
    }
}

fn span(range: RangeInclusive<Duration>) -> impl Strategy<Value = Duration> {
    let nanos = |span: &Duration| u64::try_from(span.as_nanos()).expect("at most ten years");
    let (least, most) = (nanos(range.start()), nanos(range.end()));
    let exact = (least..=most).prop_map(Duration::from_nanos);
    // Whole numbers of short units are what people write.
    let round = (1u64..1_000, prop::sample::select(vec![1, 1_000, 60_000, 3_600_000]))
        .prop_map(move |(n, unit)| Duration::from_millis(n * unit).clamp(*range.start(), *range.end()));
    prop_oneof![exact, round]
}

fn any_span() -> impl Strategy<Value = Duration> {
    span(Duration::from_millis(1)..=Duration::from_secs(315_360_000))
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9.!$`'\"\\\\*~#&;|<>(){}=-]{1,12}",
        any::<u128>().prop_map(|bits| std::net::Ipv6Addr::from(bits).to_string()),
        Just("--".to_owned()),
    ]
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

fn check() -> impl Strategy<Value = Option<Check>> {
    let statuses = prop_oneof![Just(vec![200..=399]), prop::collection::vec(status_range(), 1..4)];
    let kind = prop_oneof![
        Just(CheckKind::Tcp),
        ("/[!-~]{0,12}(=[1-6][0-9]{2}(-[1-6][0-9]{2})?)?", statuses)
            .prop_map(|(path, statuses)| CheckKind::Http { path, statuses }),
        prop::collection::vec(step(), 1..4).prop_map(CheckKind::Dialogue),
        "/[ -~]{0,16}ü?".prop_map(|path| CheckKind::Exec(path.into())),
    ];
    let interval = span(Duration::from_millis(10)..=Duration::from_secs(86_400));
    let timeout = span(Duration::from_millis(1)..=Duration::from_secs(3_600));
    let numbers = (1u32..=1_000, 1u32..=1_000, any::<Option<NonZeroU16>>());
    prop::option::of((kind, interval, timeout, numbers).prop_map(
        |(kind, interval, timeout, (rise, fall, port))| Check { kind, interval, timeout, rise, fall, port },
    ))
}

/// Groups and the policy of later ones, as one word or a list for `--policy` can have them.
fn groups() -> impl Strategy<Value = (Vec<GroupDecl>, Policy)> {
    let policy = || prop::sample::select(POLICIES.to_vec());
    let place = prop_oneof![1 => Just(Place::Gap), 4 => any_target().prop_map(Place::Channel)];
    let group = (policy(), prop::collection::vec(place, 1..4))
        .prop_map(|(policy, places)| GroupDecl { policy, places });
    (prop::collection::vec(group, 0..4), prop::option::of(policy())).prop_map(|(mut groups, word)| {
        if groups.len() > 1 && word.is_none() {
            return (groups, Policy::RoundRobin);
        }
        let word = word.unwrap_or(Policy::RoundRobin);
        groups.iter_mut().filter(|group| group.policy != Policy::Hash).for_each(|group| group.policy = word);
        (groups, word)
    })
}

prop_compose! {
    fn old_options()(
        listen in prop_oneof![Just(Listen::AnyV4), Just(Listen::AnyV6), host().prop_map(Listen::Host)],
        port in prop_oneof![
            any::<NonZeroU16>().prop_map(PortWord::Number),
            "[a-z][a-z0-9*/+_.-]{0,8}".prop_map(PortWord::Name),
        ],
        source in prop::option::of(host()),
        connect_timeout in any_span(),
        idle_timeout in prop::option::of(any_span()),
        half_close_timeout in prop::option::of(any_span()),
        [foreground, debug, dump, autodisable, hash_failover] in any::<[bool; 5]>(),
        client_keepalive in keepalive(),
        server_keepalive in keepalive(),
        control_group in prop::option::of("[ -9;-~]{1,12}"),
        busy_poll in any::<Option<bool>>(),
        workers in prop::option::of((1usize..=1_024).prop_map(|n| NonZeroUsize::new(n).expect("not 0"))),
    ) -> Serve {
        Serve {
            listen, port, source, connect_timeout, idle_timeout, half_close_timeout, foreground, debug, dump,
            autodisable, hash_failover, client_keepalive, server_keepalive, control_group, workers, busy_poll,
            ..plain()
        }
    }
}

prop_compose! {
    fn any_serve()(
        old in old_options(),
        (groups, policy) in groups(),
        hash_balance in prop::option::of(1_000u32..=100_000),
        slow_start in prop::option::of(any_span()),
        check in check(),
        [eject, fail_open, refuse_when_down, is_kick] in any::<[bool; 4]>(),
        max_connections in any::<Option<NonZeroU32>>(),
        queue in (0u32..=1_000_000, any_span()).prop_map(|(n, span)| NonZeroU32::new(n).map(|n| (n, span))),
        has_queue in any::<bool>(),
        max_lifetime in prop::option::of(any_span()),
    ) -> Serve {
        let (queue, has_check) = (queue.filter(|_| has_queue), check.is_some());
        Serve {
            groups, policy, hash_balance, slow_start, check, eject, fail_open, refuse_when_down,
            on_down: if is_kick && has_check { OnDown::Kick } else { OnDown::Keep },
            max_connections, max_lifetime,
            queue: queue.map(|(n, _)| n),
            queue_timeout: queue.map_or(plain().queue_timeout, |(_, span)| span),
            ..old
        }
    }
}

proptest! {
    // Each case builds the table of options anew, which is slow without optimization.
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn a_printed_line_starts_the_same_instance(serve in any_serve()) {
        assert_survives(&serve);
    }
}

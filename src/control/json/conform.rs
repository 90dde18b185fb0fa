//! Whatever a table contains, its JSON conforms to the schema and has no other fields.

use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::process::{Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use super::document::{Content, Document, ProcessFacts};
use crate::control::doctor::{Diagnosis, Finding, Gravity};
use crate::control::execute::Reply;
use crate::control::render;
use crate::control::services::{CarriedCount, DeniedNet, ServiceSnapshot};
use crate::observe::{Owner, PastEvent};
use crate::sched::{
    Address, Addresses, AdminState, Announced, ChannelId, ChannelKey, ChannelSnapshot, ClientCounts,
    DialCause, End, Ended, EndedSnapshot, GroupId, GroupSnapshot, HealthSnapshot, HealthState, Loss,
    NameSnapshot, Peers, Policy, SessionSnapshot, Snapshot, UnixName, Weight,
};
use crate::spec::{ChannelManner, ClientSource, ListenSpan, LocalPeer, LostSocket, RouteName, Section};

/// How many reports of each kind are checked.
const REPORTS: usize = 400;

fn span() -> BoxedStrategy<Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::MAX),
        any::<Duration>(),
        (0_u64..100_000).prop_map(Duration::from_micros)
    ]
    .boxed()
}

fn net_address() -> BoxedStrategy<SocketAddr> {
    any::<SocketAddr>().prop_map(|address| SocketAddr::new(address.ip(), address.port().max(1))).boxed()
}

fn address() -> BoxedStrategy<Address> {
    let net = net_address().prop_map(Address::from);
    prop_oneof![4 => net, 1 => "[ -~]{1,90}".prop_map(|name| UnixName::abstracted(name.as_bytes()).expect("short").into())].boxed()
}

fn addresses() -> BoxedStrategy<Addresses> {
    let list = prop::collection::vec(address(), 0..4)
        .prop_map(|list| Addresses::new(list).unwrap_or_else(|| Addresses::unknown("web", 80)));
    (list, any::<Option<String>>())
        .prop_map(|(list, host)| match host {
            Some(host) => list.named(&host),
            None => list,
        })
        .boxed()
}

fn health() -> BoxedStrategy<HealthSnapshot> {
    let state = prop_oneof![
        Just(HealthState::Up),
        Just(HealthState::Untried),
        (1_u32..64).prop_map(HealthState::Ramping),
        Just(HealthState::Ejected),
        Just(HealthState::Down),
    ];
    (state, span(), any::<Option<String>>(), any::<Option<(u32, u32)>>())
        .prop_map(|(state, age, why, failing)| HealthSnapshot { state, age, why, failing })
        .boxed()
}

fn ends(all: &[End]) -> BoxedStrategy<Vec<(End, u64)>> {
    prop::collection::vec((prop::sample::select(all.to_vec()), 0_u64..1 << 50), 0..3).boxed()
}

fn channel() -> BoxedStrategy<ChannelSnapshot> {
    let state =
        prop::sample::select(vec![AdminState::Enabled, AdminState::Disabled, AdminState::DisabledHard]);
    let weight = (0..=Weight::MAX).prop_map(|n| Weight::new(n).expect("in range"));
    let first = (addresses(), health(), state, weight, any::<[bool; 4]>(), 0..crate::sched::MAX_CHANNELS);
    let second = (any::<[u32; 3]>(), any::<[u64; 4]>(), [(); 2].map(|()| prop::option::of(span())));
    let third = (
        prop::option::of((any::<String>(), span())),
        prop::option::of(address()),
        any::<String>(),
        ends(&End::ALL[..End::WITH_CHANNEL]),
        prop::option::of((prop::option::of(span()), prop::option::of((any::<String>(), span())))),
    );
    (first, second, third)
        .prop_map(|(first, second, third)| {
            let (addresses, health, state, weight, bits, id) = first;
            let ([maxc, active, waiting], [totalc, failed, sent_bytes, rcvd_bytes], [p50, p99]) = second;
            let (last_error, used, why, ends, naming) = third;
            let failures = DialCause::ALL.into_iter().zip([failed % 7, 0, failed % 3]).collect();
            let ended = Ended { ends, failures, ..Ended::default() };
            let [unanswered, autodisabled, retires, paused] = bits;
            let mut addresses_out: Vec<_> =
                addresses.as_slice().iter().map(|&address| (address, why.clone())).collect();
            addresses_out.pop();
            ChannelSnapshot {
                id: ChannelId::new(id).expect("in range"),
                addresses,
                addresses_out,
                used,
                naming: naming.map(|(answered, failing)| NameSnapshot { answered, failing, absent: None }),
                member_of: None,
                unanswered,
                autodisabled,
                state,
                retires,
                paused,
                maxc: NonZeroU32::new(maxc),
                weight,
                manner: ChannelManner::default(),
                health,
                active,
                waiting,
                totalc,
                failed,
                last_error,
                connect_p50: p50,
                connect_p99: p99,
                sent_bytes,
                rcvd_bytes,
                ended,
            }
        })
        .boxed()
}

fn table() -> BoxedStrategy<Snapshot> {
    let policy = prop::sample::select(Policy::NAMES.map(|(_, policy)| policy).to_vec());
    let group = (policy, prop::collection::vec(channel(), 0..4));
    let losses = prop::collection::vec((prop::sample::select(Loss::ALL.to_vec()), 0_u64..1 << 60), 0..3);
    (prop::collection::vec(group, 0..3), any::<bool>(), losses, ends(&End::ALL), any::<Option<[bool; 2]>>())
        .prop_map(|(groups, paused, losses, ends, lost)| {
            let served = ClientCounts { ends, ..ClientCounts::default() };
            let groups = groups.into_iter().enumerate().map(|(id, (policy, channels))| {
                let numbers = channels.len();
                GroupSnapshot {
                    id: GroupId::new(id).expect("small"),
                    policy,
                    channels,
                    families: Vec::new(),
                    numbers,
                }
            });
            Snapshot {
                groups: groups.collect(),
                paused,
                losses,
                served,
                stale_lists: None,
                not_listening: None,
                lost_socket: lost.map(|[is_replaced, is_passed]| LostSocket { is_replaced, is_passed }),
            }
        })
        .boxed()
}

fn service() -> BoxedStrategy<ServiceSnapshot> {
    let listen = prop::collection::vec(address(), 1..3);
    (any::<Option<String>>(), listen, any::<[usize; 4]>(), any::<[bool; 3]>(), any::<Option<bool>>())
        .prop_map(
            |(
                name,
                listen,
                [up, channels, connections, waiting],
                [is_draining, listens_nowhere, is_paused],
                differs,
            )| {
                ServiceSnapshot {
                    name,
                    listen: ListenSpan::of(listen),
                    up,
                    channels,
                    connections,
                    is_draining,
                    listens_nowhere,
                    is_paused,
                    waiting,
                    differs,
                }
            },
        )
        .boxed()
}

/// The first group has names.
fn sections() -> Vec<Section> {
    vec![Section { group: 0, asked: vec![RouteName::Name("a.example".to_owned()), RouteName::Else] }]
}

fn session() -> BoxedStrategy<SessionSnapshot> {
    let key = (0..crate::sched::MAX_GROUPS, 0..crate::sched::MAX_CHANNELS)
        .prop_map(|(group, channel)| ChannelKey::new(group, channel).expect("in range"));
    let spans = (span(), span(), prop::option::of(span()));
    let claim = (net_address(), net_address()).prop_map(|(client, local)| Announced { client, local });
    let local = any::<[Option<u32>; 2]>().prop_map(|[uid, pid]| LocalPeer { uid, pid }.into());
    let seen = prop_oneof![4 => net_address().prop_map(ClientSource::Net), 1 => local];
    let peers = (seen, prop::option::of(claim)).prop_map(|(seen, claimed)| Peers { seen, claimed });
    (any::<[u64; 3]>(), prop::option::of(peers), prop::option::of(key), spans)
        .prop_map(|([id, sent_bytes, rcvd_bytes], client, channel, (age, idle, half_closed))| {
            SessionSnapshot {
                id,
                client,
                port: channel.map(|_| 20_000),
                channel,
                begun: Duration::ZERO,
                age,
                idle,
                half_closed,
                sent_bytes,
                rcvd_bytes,
            }
        })
        .boxed()
}

fn ended() -> BoxedStrategy<EndedSnapshot> {
    let how = prop::sample::select(End::ALL.to_vec());
    (session(), span(), how)
        .prop_map(|(session, ended, how)| EndedSnapshot {
            id: session.id,
            client: session.client,
            channel: session.channel,
            age: session.age,
            ended,
            sent_bytes: session.sent_bytes,
            rcvd_bytes: session.rcvd_bytes,
            how,
        })
        .boxed()
}

fn event() -> BoxedStrategy<PastEvent> {
    let level = prop::sample::select(vec!["error", "warning", "notice", "info"]);
    let text = "(event=|)[a-z=\" \\\\]{0,20}( (group|channel|after|text)=(-?[0-9.]{1,21}s?|\"[^\\p{C}]{0,9}\"?|[^ ]{0,9})){0,4}";
    (level, 0_u64..1 << 50, text)
        .prop_filter_map("an event", |(level, at, text)| {
            PastEvent::of_parts(at, level, Owner::PROCESS, &format!("event=note{text}"))
        })
        .boxed()
}

fn report() -> BoxedStrategy<Document> {
    let word = prop::sample::select(vec!["show", "status"]);
    let differences = prop::option::of(prop::collection::vec(any::<String>(), 0..3));
    let told = prop_oneof![
        (word, service(), table(), differences).prop_map(|(word, service, table, differences)| {
            Content::Channels { word, service, table, sections: sections(), differences }
        }),
        (service(), prop::collection::vec(session(), 0..4))
            .prop_map(|(service, list)| Content::Sessions { service, list }),
        (service(), prop::collection::vec(ended(), 0..4))
            .prop_map(|(service, list)| Content::Ended { service, list }),
        prop::collection::vec(service(), 0..3).prop_map(Content::Services),
        (service(), prop::collection::vec(denied(), 0..4))
            .prop_map(|(service, list)| Content::Denied { service, list }),
        (service(), prop::collection::vec(event(), 0..4))
            .prop_map(|(service, list)| Content::Events { service, list }),
        (1_usize..50, any::<usize>(), prop::collection::vec(finding(), 0..4), any::<Option<String>>())
            .prop_map(|(checks, services, findings, holds)| Diagnosis { checks, services, findings, holds })
            .prop_map(Content::Doctor),
    ];
    let carried = any::<Option<(u64, Option<u64>, u32)>>()
        .prop_map(|carried| carried.map(|(carried, draining, pid)| CarriedCount { carried, draining, pid }));
    (told, carried, span(), span(), any::<u32>())
        .prop_map(|(told, carried, taken_at, uptime, pid)| Document {
            taken_at,
            process: ProcessFacts { pid, uptime, carried },
            told,
        })
        .boxed()
}

fn denied() -> BoxedStrategy<DeniedNet> {
    (any::<String>(), any::<std::net::IpAddr>(), prop::option::of(span()))
        .prop_map(|(service, address, left)| DeniedNet { service, net: address.into(), left })
        .boxed()
}

fn finding() -> BoxedStrategy<Finding> {
    let gravity = prop_oneof![Just(Gravity::Advice), Just(Gravity::Broken)];
    (gravity, any::<Option<String>>(), any::<[String; 3]>())
        .prop_map(|(gravity, service, [found, why, cure])| Finding {
            gravity,
            check: "names",
            service,
            found,
            why,
            cure,
        })
        .boxed()
}

/// Checks answers, one on each line, against the schema in `dist/`.
#[track_caller]
fn assert_conforms(answers: &str) {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut judge = Command::new("python3")
        .args(["-B", &format!("{root}/ci/conforms"), &format!("{root}/dist/balance.schema.json")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3; ci/test installs it");
    judge.stdin.take().expect("a pipe").write_all(answers.as_bytes()).expect("it reads all");
    let said = judge.wait_with_output().expect("our own child");
    let text = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{text}");
}

#[test]
fn whatever_is_seen_is_printed_as_the_schema_says() {
    let mut runner = TestRunner::deterministic();
    let (strategy, mut answers) = (report(), String::new());
    for _ in 0..REPORTS {
        let report = strategy.new_tree(&mut runner).expect("a report").current();
        let answer = render::text(&Reply::Json(Box::new(report)));
        assert!(
            answer.ends_with('\n')
                && answer.trim_end_matches('\n').bytes().all(|b| (b' '..=b'~').contains(&b))
        );
        answers += &answer;
    }
    let number = crate::control::argument::Number::from(7);
    answers += &render::text(&Reply::JsonError(Box::new(Reply::NoSuchChannel(number))));
    assert_conforms(&answers);
}

/// All fields that the schema names.
fn fields(schema: &Value, found: &mut std::collections::BTreeSet<String>) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                found.extend(properties.keys().cloned());
            }
            object.values().for_each(|value| fields(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[test]
fn every_field_and_every_reason_is_explained_in_the_docs() {
    let root = env!("CARGO_MANIFEST_DIR");
    let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).expect("it is here");
    let schema: Value = serde_json::from_str(&read("dist/balance.schema.json")).expect("JSON");
    let (docs, mut names) = (read("docs/json.md"), std::collections::BTreeSet::new());
    fields(&schema, &mut names);
    assert!(names.len() > 60, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !docs.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/json.md does not tell of {missing:?}");
}

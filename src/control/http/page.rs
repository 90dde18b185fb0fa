//! The page at `/`: makes rows of text from what was seen, and HTML from those.
//!
//! Knows: what stands where on the page. Never: the live table, the clock, sockets. The templates escape all
//! values.
//! Source: docs/observability.md, "The page".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use askama::Template;

use super::history::{HourHistory, ServiceHistory};
use super::plot::{Plot, byte_rate, plots};
use super::question::{PageQuestion, SessionColumn};
use super::sight::{SeenProcess, SeenService, SeenSession};
use crate::control::status::{age, health_word, service_word, short_time, shown_address, state_word, why};
use crate::control::vitals::Vitals;
use crate::observe::{PastEvent, utc};
use crate::sched::{
    AdminState, ChannelKey, ChannelSnapshot, DialCause, GroupSnapshot, HealthState, Snapshot,
};

/// The style of the page.
pub(crate) const STYLE: &str = include_str!("../../../templates/page.css");
/// The script of the page.
pub(crate) const SCRIPT: &str = include_str!("../../../templates/page.js");
/// The icon of the page.
pub(crate) const ICON: &str = include_str!("../../../templates/icon.svg");
/// Number of services shown in full unless one is asked for.
const MOST_SERVICES: usize = 16;
/// Maximum number of channels shown on one page.
const MOST_CHANNELS: usize = 1_000;
/// Maximum number of connections shown.
const MOST_SESSIONS: usize = 200;

/// The values that the page shows.
pub(crate) struct PageParts<'a> {
    pub(crate) asked: &'a PageQuestion,
    pub(crate) seen: &'a SeenProcess,
    pub(crate) history: &'a HourHistory,
    /// Now, on the clock of the history.
    pub(crate) now: Duration,
    pub(crate) vitals: &'a Vitals,
    /// The connections; `None`: there are too many to list them without being asked.
    pub(crate) sessions: Option<&'a [SeenSession]>,
    /// Whether operators can change something from here.
    pub(crate) can_change: bool,
}

#[derive(Template)]
#[template(path = "page.html")]
struct PageView<'a> {
    title: String,
    /// `ok`, `warn` or `bad`.
    tone: &'static str,
    headline: String,
    taken_at: String,
    taken: String,
    address: String,
    everything: String,
    is_filtered: bool,
    services: Vec<ServiceView<'a>>,
    left_out: usize,
    events: Vec<EventView<'a>>,
    sessions: SessionsView,
    process: Vec<(&'static str, String)>,
    can_change: bool,
    is_several: bool,
}

struct ServiceView<'a> {
    label: &'a str,
    anchor: String,
    address: String,
    listen: String,
    state: &'static str,
    tone: &'static str,
    why_not: Option<String>,
    up: usize,
    channels: usize,
    connections: usize,
    queue: usize,
    file: Option<&'static str>,
    rates: Option<(String, String)>,
    is_paused: bool,
    is_draining: bool,
    is_shown: bool,
    plots: Vec<Plot>,
    groups: Vec<GroupView>,
    unseen: usize,
    ended: Vec<(String, u64)>,
    /// Failed connects of all its channels, by cause.
    failures: Vec<(DialCause, u64)>,
}

struct GroupView {
    number: usize,
    policy: &'static str,
    channels: Vec<ChannelView>,
}

struct ChannelView {
    number: usize,
    address: String,
    host: Option<String>,
    tone: &'static str,
    state: &'static str,
    state_said: &'static str,
    is_enabled: bool,
    is_paused: bool,
    health: String,
    since: String,
    why: Option<String>,
    weight: u32,
    active: u32,
    maxc: Option<u32>,
    fill: Option<u32>,
    queue: u32,
    totalc: u64,
    failed: u64,
    p50: String,
    p99: String,
    rates: Option<(String, String)>,
}

struct EventView<'a> {
    at: String,
    moment: String,
    level: &'static str,
    name: &'a str,
    text: &'a str,
}

struct SessionsView {
    columns: Vec<ColumnView>,
    rows: Vec<SessionView>,
    all: usize,
    /// If they are not listed, the address of the page that lists them.
    elsewhere: Option<String>,
}

struct ColumnView {
    name: &'static str,
    address: String,
    /// The value of `aria-sort`.
    order: &'static str,
    is_number: bool,
}

struct SessionView {
    id: u64,
    service: String,
    client: String,
    channel: String,
    age: String,
    idle: String,
    sent: u64,
    rcvd: u64,
    state: String,
}

/// Makes the page.
///
/// # Errors
/// The template fails.
pub(crate) fn page(parts: &PageParts<'_>) -> Result<String, askama::Error> {
    let PageParts { asked, seen, history, now, vitals, sessions, can_change } = *parts;
    let is_wanted = |label: &str| asked.service.as_deref().is_none_or(|wanted| wanted == label);
    let (tone, headline) = headline(&seen.services);
    let (mut shown, mut room) = (0, MOST_CHANNELS);
    let views = seen.services.iter().enumerate().map(|(number, service)| {
        let is_shown = is_wanted(&service.label) && shown < MOST_SERVICES;
        shown += usize::from(is_shown);
        ServiceView::of(service, (number, is_shown), asked, (history.of(&service.label), now), &mut room)
    });
    let services: Vec<ServiceView<'_>> = views.collect();
    let wanted = services.iter().filter(|one| is_wanted(one.label)).count();
    let connections = || seen.services.iter().filter(|one| is_wanted(&one.label));
    let count = connections().map(|one| one.snapshot.connections).sum();
    PageView {
        title: format!("{} {headline} - balance", mark(tone)),
        tone,
        headline,
        taken_at: utc(seen.at).to_string(),
        taken: moment(&utc(seen.at).to_string()),
        address: asked.address(),
        everything: asked.of_service(None).address(),
        is_filtered: asked.service.is_some(),
        left_out: wanted - services.iter().filter(|one| one.is_shown).count(),
        is_several: services.len() > 1,
        services,
        events: seen.events.iter().rev().map(EventView::of).collect(),
        sessions: SessionsView::of(asked, sessions, count),
        process: process(vitals),
        can_change,
    }
    .render()
}

#[derive(Template)]
#[template(path = "answer.html")]
struct AnswerView<'a> {
    command: &'a str,
    text: &'a str,
    code: u8,
}

/// Makes the page that answers a form sent without a script.
///
/// # Errors
/// The template fails.
pub(crate) fn answer_page(command: &str, text: &str, code: u8) -> Result<String, askama::Error> {
    AnswerView { command, text, code }.render()
}

/// The overall state, as a tone and in words.
fn headline(all: &[SeenService]) -> (&'static str, String) {
    let serving: Vec<_> = all.iter().filter(|one| !one.snapshot.is_draining).collect();
    let unready = serving.iter().filter(|one| one.readiness.why_not.is_some()).count();
    let down: usize = serving.iter().map(|one| one.snapshot.channels - one.snapshot.up).sum();
    let channels = |count: usize| if count == 1 { "channel" } else { "channels" };
    match (serving.len(), unready) {
        (0, _) => ("bad", if all.is_empty() { "no service".into() } else { "draining".into() }),
        (1, 1) => ("bad", "not ready".into()),
        (count, unready) if unready > 0 => ("bad", format!("{unready} of {count} services not ready")),
        _ if down > 0 => ("warn", format!("ready, {down} {} not up", channels(down))),
        _ => ("ok", "ready".into()),
    }
}

fn mark(tone: &str) -> &'static str {
    match tone {
        "ok" => "\u{25cf}",
        "warn" => "\u{25b2}",
        "bad" => "\u{2716}",
        _ => "\u{25cb}",
    }
}

impl<'a> ServiceView<'a> {
    fn of(
        service: &'a SeenService,
        (number, is_shown): (usize, bool),
        asked: &PageQuestion,
        (history, now): (Option<&ServiceHistory>, Duration),
        room: &mut usize,
    ) -> Self {
        let SeenService { label, snapshot, table, readiness, .. } = service;
        let listen: Vec<_> = snapshot.listen.iter().map(ToString::to_string).collect();
        let mut groups = Vec::new();
        let mut unseen = 0;
        for group in table.groups.iter().filter(|_| is_shown) {
            let shown = group.channels.len().min(*room);
            *room -= shown;
            unseen += group.channels.len() - shown;
            groups.push(GroupView::of(group, shown, history));
        }
        let rates = history.and_then(|history| history.samples().last());
        Self {
            label,
            anchor: format!("service-{number}"),
            address: asked.of_service(Some(label)).address(),
            listen: listen.join(", "),
            state: service_word(snapshot),
            tone: match (&readiness.why_not, snapshot.is_draining) {
                (_, true) => "off",
                (Some(_), _) => "bad",
                _ if snapshot.up < snapshot.channels || snapshot.is_paused => "warn",
                _ => "ok",
            },
            why_not: readiness.why_not.clone().filter(|_| !snapshot.is_draining),
            up: snapshot.up,
            channels: snapshot.channels,
            connections: snapshot.connections,
            queue: snapshot.waiting,
            file: snapshot.file_word(),
            rates: rates.map(|last| (byte_rate(last.rcvd_rate), byte_rate(last.sent_rate))),
            is_paused: snapshot.is_paused,
            is_draining: snapshot.is_draining,
            is_shown,
            plots: if is_shown { plots(history, now) } else { Vec::new() },
            groups,
            unseen,
            failures: failures(table),
            ended: table.served.ends.iter().map(|(how, count)| (how.to_string(), *count)).collect(),
        }
    }
}

/// Failed connects by cause.
fn failures(table: &Snapshot) -> Vec<(DialCause, u64)> {
    let mut sums = BTreeMap::new();
    for channel in table.groups.iter().flat_map(|group| &group.channels) {
        channel.ended.failures.iter().for_each(|(cause, count)| *sums.entry(*cause).or_default() += count);
    }
    sums.into_iter().collect()
}

impl GroupView {
    fn of(group: &GroupSnapshot, most: usize, history: Option<&ServiceHistory>) -> Self {
        let channels = group.channels.iter().take(most).map(|channel| {
            let key = ChannelKey { group: group.id, channel: channel.id };
            ChannelView::of(
                channel,
                history
                    .and_then(|history| history.rates(key))
                    .as_ref()
                    .map(|rates| (byte_rate(rates.rcvd), byte_rate(rates.sent))),
            )
        });
        Self { number: group.id.index(), policy: group.policy.name(), channels: channels.collect() }
    }
}

impl ChannelView {
    fn of(channel: &ChannelSnapshot, rates: Option<(String, String)>) -> Self {
        let time = |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), short_time);
        let maxc = channel.maxc.map(std::num::NonZeroU32::get);
        let why = Some(why(channel)).filter(|why| why != "-");
        let tone = match (channel.state, channel.health.state) {
            (AdminState::Disabled | AdminState::DisabledHard, _) => "off",
            (_, HealthState::Ejected | HealthState::Down) => "bad",
            (_, HealthState::Ramping(_)) => "warn",
            _ if channel.paused || channel.health.failing.is_some() || !channel.addresses_out.is_empty() => {
                "warn"
            }
            _ if maxc.is_some_and(|maxc| channel.active >= maxc) || channel.weight.get() == 0 => "warn",
            _ => "ok",
        };
        Self {
            number: channel.id.index(),
            address: shown_address(channel),
            host: channel.addresses.host().filter(|host| host.parse::<IpAddr>().is_err()).map(str::to_owned),
            tone,
            state: state_word(channel.state),
            state_said: match channel.state {
                AdminState::Enabled => "enabled",
                AdminState::Disabled => "disabled",
                AdminState::DisabledHard => "disabled, its connections were closed",
            },
            is_enabled: channel.state == AdminState::Enabled,
            is_paused: channel.paused,
            health: health_word(channel.health.state),
            since: age(channel.health.age),
            why,
            weight: channel.weight.get(),
            active: channel.active,
            maxc,
            fill: maxc.map(|maxc| (u64::from(channel.active.min(maxc)) * 100 / u64::from(maxc)) as u32),
            queue: channel.waiting,
            totalc: channel.totalc,
            failed: channel.failed,
            p50: time(channel.connect_p50),
            p99: time(channel.connect_p99),
            rates,
        }
    }
}

impl<'a> EventView<'a> {
    /// Splits the line of an event into its name and the rest; both are on the page, word for word.
    fn of(event: &'a PastEvent) -> Self {
        let line = event.line.strip_prefix("event=").unwrap_or(&event.line);
        let (name, text) = line.split_once(' ').unwrap_or((line, ""));
        let at = utc(event.at).to_string();
        Self { moment: moment(&at), at, level: event.severity.name(), name, text }
    }
}

impl SessionsView {
    fn of(asked: &PageQuestion, sessions: Option<&[SeenSession]>, connections: usize) -> Self {
        let is_wanted = |one: &&SeenSession| asked.service.as_deref().is_none_or(|wanted| wanted == one.0);
        let mut found: Vec<&SeenSession> = sessions.into_iter().flatten().filter(is_wanted).collect();
        let all = sessions.map_or(connections, |_| found.len());
        sort(&mut found, asked.sort);
        if asked.is_descending {
            found.reverse();
        }
        let columns = SessionColumn::ALL.map(|column| ColumnView {
            name: column.name(),
            address: asked.sorted_by(column).address(),
            order: match (asked.sort == column, asked.is_descending) {
                (false, _) => "none",
                (true, true) => "descending",
                (true, false) => "ascending",
            },
            is_number: !matches!(
                column,
                SessionColumn::Service | SessionColumn::Client | SessionColumn::Channel
            ),
        });
        Self {
            columns: columns.into(),
            rows: found.into_iter().take(MOST_SESSIONS).map(SessionView::of).collect(),
            all,
            elsewhere: sessions.is_none().then(|| asked.with_sessions().address()),
        }
    }
}

fn sort(found: &mut [&SeenSession], column: SessionColumn) {
    match column {
        SessionColumn::Id => found.sort_by_key(|(_, one)| one.id),
        SessionColumn::Service => found.sort_by(|a, b| (&a.0, a.1.id).cmp(&(&b.0, b.1.id))),
        SessionColumn::Client => {
            found.sort_by_key(|(_, one)| (one.client.map(|client| client.client()), one.id))
        }
        SessionColumn::Channel => found.sort_by_key(|(_, one)| {
            (one.channel.map(|key| (key.group.index(), key.channel.index())), one.id)
        }),
        SessionColumn::Age => found.sort_by_key(|(_, one)| std::cmp::Reverse(one.place())),
        SessionColumn::Idle => found.sort_by_key(|(_, one)| (one.idle, one.id)),
        SessionColumn::Sent => found.sort_by_key(|(_, one)| (one.sent_bytes, one.id)),
        SessionColumn::Rcvd => found.sort_by_key(|(_, one)| (one.rcvd_bytes, one.id)),
    }
}

impl SessionView {
    fn of((service, session): &SeenSession) -> Self {
        let channel = |key: ChannelKey| format!("{} {}", key.group.index(), key.channel.index());
        Self {
            id: session.id,
            service: service.clone(),
            client: session.client.map_or_else(|| "-".to_owned(), |client| client.to_string()),
            channel: session.channel.map_or_else(|| "-".to_owned(), channel),
            age: age(session.age),
            idle: age(session.idle),
            sent: session.sent_bytes,
            rcvd: session.rcvd_bytes,
            state: session
                .half_closed
                .map_or_else(|| "-".to_owned(), |since| format!("half-closed:{}", age(since))),
        }
    }
}

/// Shortens `2026-11-28T23:59:59.123Z` to `2026-11-28 23:59:59` for people.
fn moment(at: &str) -> String {
    at.split('.').next().unwrap_or_default().replacen('T', " ", 1)
}

fn process(vitals: &Vitals) -> Vec<(&'static str, String)> {
    let workers: Vec<_> = vitals.worker_connections.iter().map(ToString::to_string).collect();
    let limit = vitals.descriptor_limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
    let mut all = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("pid", std::process::id().to_string()),
        ("uptime", age(vitals.uptime)),
        ("clients of each worker", workers.join(" ")),
    ];
    all.extend(vitals.system.open_descriptors.map(|open| ("file descriptors", format!("{open} of {limit}"))));
    all.extend(vitals.system.resident_bytes.map(|bytes| ("memory", format!("{} MiB", bytes >> 20))));
    all.extend(vitals.system.cpu.map(|cpu| ("processor time", age(cpu))));
    all
}

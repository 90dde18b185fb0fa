//! The last state that was fetched, and what is shown of it: services, channels, sessions and events,
//! filtered and sorted.
//!
//! Knows: the columns for sorting, where the filter searches. Never: sockets, where anything stands on the
//! screen.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::cmp::Ordering;
use std::time::Duration;

use super::facts::{
    ChannelFacts, EventFacts, GroupFacts, InstanceFacts, ServiceFacts, SessionFacts, Shown, TableFacts,
};
use super::samples::{ChannelAt, SampledInstance, SeenRates};

/// The earliest and the latest time at which a process can have been started, in milliseconds on our clock.
/// It is a range because the process answered at an unknown moment between two of ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StartSpan {
    earliest: i64,
    latest: i64,
}

impl StartSpan {
    /// How much two clocks may differ, in milliseconds.
    const SLACK: i64 = 1_000;

    /// The range for a process that was asked at `before`, had answered at `after` (times on our clock), and
    /// reported this uptime.
    pub(super) fn new(before: Duration, after: Duration, uptime_seconds: f64) -> Self {
        // This conversion saturates.
        let at = |time: Duration| ((time.as_secs_f64() - uptime_seconds) * 1e3) as i64;
        Self { earliest: at(before), latest: at(after) }
    }

    /// Can both ranges belong to one process?
    pub(super) fn may_be(self, other: Self) -> bool {
        self.earliest.saturating_sub(Self::SLACK) <= other.latest
            && other.earliest.saturating_sub(Self::SLACK) <= self.latest
    }
}

/// The state of an instance at one moment.
#[derive(Debug, Default)]
pub(super) struct TopLook {
    pub(super) taken_at: Shown,
    pub(super) process: InstanceFacts,
    pub(super) started: StartSpan,
    pub(super) services: Vec<ServiceFacts>,
    /// Labels of services with their tables; the shown one is the first.
    pub(super) tables: Vec<(String, TableFacts)>,
    /// The sessions; `None`: they were not fetched.
    pub(super) sessions: Option<Vec<SessionFacts>>,
    pub(super) events: Option<Vec<EventFacts>>,
}

/// The last state, and what was learned from all states so far.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) last: TopLook,
    pub(super) samples: SampledInstance,
    /// When the last state was fetched, on our clock; `None`: never.
    pub(super) at: Option<Duration>,
    /// Since when the instance has not answered, and why; `None`: it answers.
    pub(super) trouble: Option<(Duration, String)>,
}

impl Looked {
    /// Adds a state. `at` is the time on our clock.
    pub(super) fn take(&mut self, at: Duration, mut look: TopLook) {
        for (label, table) in &look.tables {
            self.samples.take(at, label, table);
        }
        let labels: Vec<String> = look.services.iter().map(ServiceFacts::label).collect();
        self.samples.keep(&labels);
        let is_other = self.label() != look.tables.first().map(|(label, _)| label.as_str());
        if is_other {
            self.samples.forget_sessions();
        }
        match &look.sessions {
            Some(list) => self.samples.take_sessions(at, list),
            // The previous sessions are better than none.
            None if !is_other => look.sessions = self.last.sessions.take(),
            None => {}
        }
        if look.events.is_none() && !is_other {
            look.events = self.last.events.take();
        }
        self.last = look;
        (self.at, self.trouble) = (Some(at), None);
    }

    /// Notes that the instance did not answer.
    pub(super) fn fails(&mut self, at: Duration, why: String) {
        let since = self.trouble.as_ref().map_or_else(|| self.at.unwrap_or(at), |(since, _)| *since);
        self.trouble = Some((since, why));
    }

    /// The label of the shown service.
    pub(super) fn label(&self) -> Option<&str> {
        self.last.tables.first().map(|(label, _)| label.as_str())
    }

    pub(super) fn table(&self) -> Option<&TableFacts> {
        self.last.tables.first().map(|(_, table)| table)
    }

    /// The labels of the services that can be chosen.
    pub(super) fn labels(&self) -> Vec<String> {
        let mut labels: Vec<String> = Vec::new();
        for label in self.last.services.iter().map(ServiceFacts::label) {
            if !labels.contains(&label) {
                labels.push(label);
            }
        }
        labels
    }

    /// The present rates of all channels of a service together.
    pub(super) fn service_rates(&self, label: &str) -> Option<SeenRates> {
        self.samples.of(label)?.all()
    }
}

/// A channel of the shown service.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChannelRow<'a> {
    pub(super) group: &'a GroupFacts,
    pub(super) channel: &'a ChannelFacts,
    pub(super) rates: Option<SeenRates>,
}

impl ChannelRow<'_> {
    pub(super) fn at(&self) -> ChannelAt {
        (self.group.group, self.channel.channel)
    }

    /// Group and number, such as `0/12`.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.group.group, self.channel.channel)
    }
}

/// A connection of the shown service.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionRow<'a> {
    pub(super) session: &'a SessionFacts,
    pub(super) rates: Option<SeenRates>,
}

impl SessionRow<'_> {
    /// Group and number of the channel, such as `0/12`, or `-`.
    pub(super) fn channel(&self) -> String {
        match (self.session.group, self.session.channel) {
            (Some(group), Some(channel)) => format!("{group}/{channel}"),
            _ => "-".into(),
        }
    }
}

/// The order of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SortOrder<C> {
    pub(super) column: C,
    pub(super) is_reversed: bool,
}

/// The columns by which channels can be sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChannelOrder {
    Number,
    Address,
    State,
    Load,
    Failed,
    Conns,
    Sent,
    Rcvd,
    P50,
}

/// The columns by which connections can be sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionOrder {
    Id,
    Client,
    Channel,
    Age,
    Idle,
    SentRate,
    RcvdRate,
    Sent,
    Rcvd,
}

impl ChannelOrder {
    /// All columns from left to right.
    pub(super) const ALL: [Self; 9] = [
        Self::Number,
        Self::Address,
        Self::State,
        Self::Load,
        Self::Failed,
        Self::Conns,
        Self::Sent,
        Self::Rcvd,
        Self::P50,
    ];

    /// The head of the column.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Number => "chan",
            Self::Address => "address",
            Self::State => "state",
            Self::Load => "c/maxc",
            Self::Conns => "conn/s",
            Self::Sent => "sent/s",
            Self::Rcvd => "rcvd/s",
            Self::P50 => "p50",
            Self::Failed => "failed",
        }
    }

    fn compare(self, one: &ChannelRow<'_>, other: &ChannelRow<'_>) -> Ordering {
        let (a, b) = (one.channel, other.channel);
        let rate = |of: fn(SeenRates) -> f64| {
            let rate = |row: &ChannelRow<'_>| row.rates.map_or(-1.0, of);
            rate(other).total_cmp(&rate(one))
        };
        match self {
            Self::Number => one.at().cmp(&other.at()),
            Self::Address => a.address.cmp(&b.address),
            Self::State => badness(a).cmp(&badness(b)).reverse(),
            Self::Load => b.c.cmp(&a.c),
            Self::Conns => rate(|rates| rates.conns),
            Self::Sent => rate(|rates| rates.sent),
            Self::Rcvd => rate(|rates| rates.rcvd),
            Self::P50 => {
                let time = |one: &ChannelFacts| one.connect_p50_seconds.unwrap_or(-1.0);
                time(b).total_cmp(&time(a))
            }
            Self::Failed => b.failed.cmp(&a.failed),
        }
    }
}

/// How urgent it is to look at this channel; higher is more urgent.
fn badness(channel: &ChannelFacts) -> u8 {
    match channel.health.as_str() {
        "down" | "ejected" if channel.is_enabled() => 5,
        _ if channel.failing.is_some() => 4,
        _ if channel.is_enabled() && channel.paused => 3,
        "ramp" | "untried" if channel.is_enabled() => 2,
        _ if channel.is_enabled() => 0,
        _ => 1,
    }
}

impl SessionOrder {
    /// All columns from left to right.
    pub(super) const ALL: [Self; 9] = [
        Self::Id,
        Self::Client,
        Self::Channel,
        Self::Age,
        Self::Idle,
        Self::SentRate,
        Self::RcvdRate,
        Self::Sent,
        Self::Rcvd,
    ];

    /// The head of the column.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Client => "client",
            Self::Channel => "chan",
            Self::Age => "age",
            Self::Idle => "idle",
            Self::SentRate => "sent/s",
            Self::RcvdRate => "rcvd/s",
            Self::Sent => "sent",
            Self::Rcvd => "rcvd",
        }
    }

    fn compare(self, one: &SessionRow<'_>, other: &SessionRow<'_>) -> Ordering {
        let (a, b) = (one.session, other.session);
        let rate = |of: fn(SeenRates) -> f64| {
            let rate = |row: &SessionRow<'_>| row.rates.map_or(-1.0, of);
            rate(other).total_cmp(&rate(one))
        };
        match self {
            Self::Id => a.id.cmp(&b.id),
            Self::Client => a.client.cmp(&b.client),
            Self::Channel => (a.group, a.channel).cmp(&(b.group, b.channel)),
            Self::Age => b.age_seconds.total_cmp(&a.age_seconds),
            Self::Idle => b.idle_seconds.total_cmp(&a.idle_seconds),
            Self::SentRate => rate(|rates| rates.sent),
            Self::RcvdRate => rate(|rates| rates.rcvd),
            Self::Sent => b.sent_bytes.cmp(&a.sent_bytes),
            Self::Rcvd => b.rcvd_bytes.cmp(&a.rcvd_bytes),
        }
    }
}

impl Looked {
    /// The channels that match the filter, sorted.
    pub(super) fn channels(&self, filter: &str, order: SortOrder<ChannelOrder>) -> Vec<ChannelRow<'_>> {
        let samples = self.label().and_then(|label| self.samples.of(label));
        let filter = Filter::new(filter);
        let groups = self.table().into_iter().flat_map(|table| &table.groups);
        let rows = groups.flat_map(|group| {
            group.channels.iter().map(move |channel| ChannelRow { group, channel, rates: None })
        });
        let mut rows: Vec<ChannelRow<'_>> = rows
            .filter(|row| {
                let ChannelFacts { address, state, host, .. } = row.channel;
                let host = host.as_ref().map_or("", Shown::as_str);
                filter.finds(&[&row.name(), address.as_str(), state.as_str(), host])
                    || filter.finds(&[
                        &row.channel.health_word(),
                        &row.channel.word(),
                        &row.channel.why_word(),
                    ])
            })
            .map(|row| ChannelRow { rates: samples.and_then(|one| one.channel(row.at())), ..row })
            .collect();
        sort(&mut rows, order.is_reversed, |a, b| order.column.compare(a, b).then(a.at().cmp(&b.at())));
        rows
    }

    /// The connections that match the filter, sorted.
    pub(super) fn sessions(&self, filter: &str, order: SortOrder<SessionOrder>) -> Vec<SessionRow<'_>> {
        let filter = Filter::new(filter);
        let rows = self.last.sessions.iter().flatten();
        let rows = rows.map(|session| SessionRow { session, rates: self.samples.of_session(session.id) });
        let mut rows: Vec<SessionRow<'_>> = rows
            .filter(|row| {
                let client = row.session.client.as_ref().map_or("-", Shown::as_str);
                filter.finds(&[&row.session.id.to_string(), client, &row.channel(), &row.session.state()])
            })
            .collect();
        sort(&mut rows, order.is_reversed, |a, b| {
            order.column.compare(a, b).then(a.session.id.cmp(&b.session.id))
        });
        rows
    }

    /// The events that match the filter, the newest first.
    pub(super) fn events(&self, filter: &str) -> Vec<&EventFacts> {
        let filter = Filter::new(filter);
        let all = self.last.events.iter().flatten().rev();
        all.filter(|one| filter.finds(&[one.at.as_str(), one.level.as_str(), one.line.as_str()])).collect()
    }
}

fn sort<T>(rows: &mut [T], is_reversed: bool, compare: impl Fn(&T, &T) -> Ordering) {
    rows.sort_by(|a, b| if is_reversed { compare(b, a) } else { compare(a, b) });
}

/// A text to search for, without regard to upper and lower case.
struct Filter(String);

impl Filter {
    fn new(text: &str) -> Self {
        Self(text.to_lowercase())
    }

    fn finds(&self, texts: &[&str]) -> bool {
        self.0.is_empty() || texts.iter().any(|text| text.to_lowercase().contains(&self.0))
    }
}

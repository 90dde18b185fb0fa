//! Metrics: a table of metric families, and the text that Prometheus reads.
//!
//! Knows: names, units, labels, both text formats. Never: the live table, sockets, who asks.
//! Source: docs/observability.md, "Metrics".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeSet, HashMap};
use std::fmt::{Display, Write};
use std::hash::Hash;

use crate::control::vitals::Vitals;
use crate::observe::Owner;
use crate::sched::{
    AdminState, ChannelCounts, ChannelKey, ChannelSnapshot, ClientCounts, Distribution, End, HealthState,
    Snapshot,
};

/// The values at the time of a request.
#[derive(Debug, Default)]
pub(crate) struct Scene {
    pub(crate) services: Vec<SceneService>,
    pub(crate) vitals: Vitals,
}

/// The values of one service.
#[derive(Debug)]
pub(crate) struct SceneService {
    /// Identifies the service even if its name changes.
    pub(crate) owner: Owner,
    /// The label of the service, which no other one has.
    pub(crate) label: String,
    pub(crate) table: Snapshot,
    /// Clients accepted and not yet closed.
    pub(crate) connections: usize,
    /// Clients that wait for a channel.
    pub(crate) waiting: usize,
    pub(crate) is_draining: bool,
    pub(crate) is_ready: bool,
}

fn failing_names(table: &Snapshot) -> usize {
    let heads = table.groups.iter().flat_map(|group| group.families.iter().map(|family| &family.head));
    let all = table.groups.iter().flat_map(|group| &group.channels).chain(heads);
    let fails = |one: &&ChannelSnapshot| one.naming.as_ref().is_some_and(|naming| naming.failing.is_some());
    all.filter(fails).filter_map(|one| one.addresses.host()).collect::<BTreeSet<_>>().len()
}

/// The text format of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exposition {
    /// The text format 0.0.4 of Prometheus.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MetricKind {
    Gauge,
    /// A counter, which only grows; its samples end in `_total`.
    Counter,
    /// Counts durations in buckets.
    Histogram,
    /// Always 1; the information is in the labels. Its sample ends in `_info`.
    Info,
}

/// A metric family: one row of the table, with all its series.
struct Family {
    /// Without the suffix that its type adds.
    name: &'static str,
    kind: MetricKind,
    help: &'static str,
    of: Of,
}

/// What the series of a family are about, and the function that writes the samples of one of them.
enum Of {
    Process(fn(&Vitals, &mut Samples<'_>)),
    Service(fn(&ServiceSeries<'_>, &mut Samples<'_>)),
    Channel(fn(&ChannelSeries<'_>, &mut Samples<'_>)),
}

/// A service and its totals.
struct ServiceSeries<'a> {
    labels: String,
    now: &'a SceneService,
    counts: ClientCounts,
}

/// A channel and its totals.
struct ChannelSeries<'a> {
    labels: String,
    now: &'a ChannelSnapshot,
    counts: ChannelCounts,
}

const fn gauge(name: &'static str, help: &'static str, of: Of) -> Family {
    Family { name, kind: MetricKind::Gauge, help, of }
}

const fn counter(name: &'static str, help: &'static str, of: Of) -> Family {
    Family { name, kind: MetricKind::Counter, help, of }
}

const fn histogram(name: &'static str, help: &'static str, of: Of) -> Family {
    Family { name, kind: MetricKind::Histogram, help, of }
}

/// All families, in the order in which they are printed. A name never changes, because dashboards and alerts
/// use it.
const FAMILIES: &[Family] = &[
    Family {
        name: "balance_build",
        kind: MetricKind::Info,
        help: "Version of balance.",
        of: Of::Process(|_, out| out.with("version", env!("CARGO_PKG_VERSION"), 1)),
    },
    gauge(
        "balance_uptime_seconds",
        "Time since the first process of this instance was started; an upgrade does not restart it.",
        Of::Process(|vitals, out| out.one(vitals.uptime.as_secs_f64())),
    ),
    gauge(
        "balance_worker_connections",
        "Clients that a worker thread serves.",
        Of::Process(|vitals, out| {
            for (worker, clients) in vitals.worker_connections.iter().enumerate() {
                out.with("worker", worker, clients);
            }
        }),
    ),
    gauge(
        "balance_descriptors_free",
        "File descriptors that are left for clients; each takes at least two.",
        Of::Process(|vitals, out| out.maybe(vitals.descriptors_free)),
    ),
    counter(
        "balance_log_dropped_lines",
        "Lines of a log that were lost because they could not be written in time.",
        Of::Process(|vitals, out| {
            out.with("log", "messages", vitals.dropped_lines);
            if let Some(lines) = vitals.access_lines_dropped {
                out.with("log", "access", lines);
            }
        }),
    ),
    gauge(
        "balance_file_failing",
        "1 if balance cannot write this file now.",
        Of::Process(|vitals, out| {
            let files = [("state", vitals.is_state_failing), ("access_log", vitals.is_access_failing)];
            for (file, is_failing) in files {
                if let Some(is_failing) = is_failing {
                    out.with("file", file, u8::from(is_failing));
                }
            }
        }),
    ),
    gauge(
        "balance_service_connections",
        "Clients accepted and not yet closed.",
        Of::Service(|service, out| out.one(service.now.connections)),
    ),
    gauge(
        "balance_service_queue_clients",
        "Clients that wait in the queue for a channel.",
        Of::Service(|service, out| out.one(service.now.waiting)),
    ),
    gauge(
        "balance_service_ready",
        "1 if the service takes clients and has a usable channel, as /readyz says.",
        Of::Service(|service, out| out.flag(service.now.is_ready)),
    ),
    gauge(
        "balance_service_lists_stale",
        "1 if a file of --allow or --deny has changed and cannot be read, so that an older version of it holds.",
        Of::Service(|service, out| out.flag(service.now.table.stale_lists.is_some())),
    ),
    gauge(
        "balance_service_names_failing",
        "Names of channels that cannot be looked up now; their channels keep what they have.",
        Of::Service(|service, out| out.one(failing_names(&service.now.table))),
    ),
    gauge(
        "balance_service_draining",
        "1 if the service takes no clients any more and serves those it has.",
        Of::Service(|service, out| out.flag(service.now.is_draining)),
    ),
    gauge(
        "balance_service_paused",
        "1 if all channels of the service are paused.",
        Of::Service(|service, out| out.flag(service.now.table.paused)),
    ),
    counter(
        "balance_service_ends",
        "Clients that have ended, by how they ended; docs/observability.md has the list.",
        Of::Service(|service, out| {
            for how in End::ALL {
                let count =
                    service.counts.ends.iter().find(|(known, _)| *known == how).map_or(0, |&(_, n)| n);
                out.with("reason", how, count);
            }
        }),
    ),
    histogram(
        "balance_service_queue_wait_seconds",
        "How long clients waited in the queue, those included that left it without a channel.",
        Of::Service(|service, out| out.times(&service.counts.waits)),
    ),
    gauge(
        "balance_channel_up",
        "1 if the channel is up as far as its health is known, 0 if it is ejected or down.",
        Of::Channel(|channel, out| out.flag(is_up(channel.now))),
    ),
    gauge(
        "balance_channel_enabled",
        "1 if the channel is enabled, 0 if it is disabled.",
        Of::Channel(|channel, out| out.flag(channel.now.state == AdminState::Enabled)),
    ),
    gauge(
        "balance_channel_paused",
        "1 if the channel is paused: its clients wait.",
        Of::Channel(|channel, out| out.flag(channel.now.paused)),
    ),
    gauge(
        "balance_channel_active_connections",
        "Connections of the channel now, those being connected included.",
        Of::Channel(|channel, out| out.one(channel.now.active)),
    ),
    gauge(
        "balance_channel_max_connections",
        "Limit of simultaneous connections (maxc); there is no series without a limit.",
        Of::Channel(|channel, out| out.maybe(channel.now.maxc)),
    ),
    gauge(
        "balance_channel_weight",
        "Share of clients of the channel, against the others of its group.",
        Of::Channel(|channel, out| out.one(channel.now.weight.get())),
    ),
    gauge(
        "balance_channel_queue_clients",
        "Clients in the queue that this channel could serve; one that several could serve counts for each.",
        Of::Channel(|channel, out| out.one(channel.now.waiting)),
    ),
    gauge(
        "balance_channel_addresses",
        "Addresses of the channel.",
        Of::Channel(|channel, out| out.one(channel.now.addresses.as_slice().len())),
    ),
    gauge(
        "balance_channel_addresses_up",
        "Addresses of the channel that answer, as far as is known.",
        Of::Channel(|channel, out| out.one(channel.now.addresses_up())),
    ),
    counter(
        "balance_channel_connections",
        "Connections handed to the channel, failed attempts included.",
        Of::Channel(|channel, out| out.one(channel.counts.totalc)),
    ),
    counter(
        "balance_channel_connect_failures",
        "Attempts to connect to the channel that failed.",
        Of::Channel(|channel, out| out.one(channel.counts.failed)),
    ),
    counter(
        "balance_channel_dial_failures",
        "Attempts to connect to the channel that failed, by cause; only the causes that occurred.",
        Of::Channel(|channel, out| {
            for &(cause, count) in &channel.counts.ended.failures {
                out.with("cause", cause, count);
            }
        }),
    ),
    counter(
        "balance_channel_outrun",
        "Attempts to connect to the channel that were given up since another channel had answered first (--race).",
        Of::Channel(|channel, out| out.one(channel.counts.ended.outrun)),
    ),
    counter(
        "balance_channel_sent_bytes",
        "Bytes from clients to the channel.",
        Of::Channel(|channel, out| out.one(channel.counts.sent_bytes)),
    ),
    counter(
        "balance_channel_received_bytes",
        "Bytes from the channel to clients.",
        Of::Channel(|channel, out| out.one(channel.counts.rcvd_bytes)),
    ),
    counter(
        "balance_channel_ends",
        "Connections of the channel that have ended, by how they ended; only the reasons that occurred.",
        Of::Channel(|channel, out| {
            for &(how, count) in &channel.counts.ended.ends {
                out.with("reason", how, count);
            }
        }),
    ),
    histogram(
        "balance_channel_connect_seconds",
        "How long connects to the channel took that were answered.",
        Of::Channel(|channel, out| out.times(&channel.counts.ended.connects)),
    ),
    histogram(
        "balance_channel_connection_duration_seconds",
        "How long connections of the channel lasted that have ended.",
        Of::Channel(|channel, out| out.times(&channel.counts.ended.lasted)),
    ),
    counter(
        "process_cpu_seconds",
        "Processor time of the process, user and system.",
        Of::Process(|vitals, out| out.maybe(vitals.system.cpu.map(|time| time.as_secs_f64()))),
    ),
    gauge(
        "process_open_fds",
        "Open file descriptors of the process.",
        Of::Process(|vitals, out| out.maybe(vitals.system.open_descriptors)),
    ),
    gauge(
        "process_max_fds",
        "Limit of open file descriptors of the process.",
        Of::Process(|vitals, out| out.maybe(vitals.descriptor_limit)),
    ),
    gauge(
        "process_resident_memory_bytes",
        "Resident memory of the process.",
        Of::Process(|vitals, out| out.maybe(vitals.system.resident_bytes)),
    ),
    gauge(
        "process_virtual_memory_bytes",
        "Virtual memory of the process.",
        Of::Process(|vitals, out| out.maybe(vitals.system.virtual_bytes)),
    ),
    gauge(
        "process_threads",
        "Threads of the process.",
        Of::Process(|vitals, out| out.maybe(vitals.system.threads)),
    ),
    gauge(
        "process_start_time_seconds",
        "When the process was started, in seconds since 1970.",
        Of::Process(|vitals, out| out.maybe(vitals.system.started.map(|time| time.as_secs_f64()))),
    ),
];

/// Totals of all counters, so that none of them ever decreases while the process runs: `reset` sets to zero
/// what operators see, and a service that is started again under its old name begins at 0. Nothing is counted
/// twice, even if a service or channel gets other labels: what it counts from then on goes to the new ones.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    channels: LedgerBook<(Owner, ChannelKey), ChannelCounts>,
    services: LedgerBook<Owner, ClientCounts>,
}

/// The totals of one kind of objects. Each object is known by a key, whatever its labels are.
#[derive(Debug)]
struct LedgerBook<K, C> {
    /// The counts of each object in the previous round.
    last: HashMap<K, C>,
    /// The counts of each object in this round.
    now: HashMap<K, C>,
    /// The totals by labels.
    all: HashMap<String, LedgerEntry<C>>,
}

#[derive(Debug)]
struct LedgerEntry<C> {
    all: C,
    /// Whether it was seen in this round.
    is_there: bool,
}

/// Totals of removed objects are dropped when there are more of them than of present ones plus this number.
const MOST_GONE: usize = 10_000;

/// A set of counts that all start at the same moment.
trait Growing: Clone + Default {
    /// Is any of the counts lower than before?
    fn fell(&self, before: &Self) -> bool;
    /// The increase since `before`. No count may be lower than there.
    fn grown_since(&self, before: &Self) -> Self;
    fn add(&mut self, more: &Self);
}

impl<K, C> Default for LedgerBook<K, C> {
    fn default() -> Self {
        Self { last: HashMap::new(), now: HashMap::new(), all: HashMap::new() }
    }
}

impl<K: Hash + Eq, C: Growing> LedgerBook<K, C> {
    /// Adds what the object has counted since the last round to the totals of these labels, and returns
    /// those.
    fn grown(&mut self, key: K, labels: &str, now: C) -> C {
        let more = match self.last.get(&key) {
            Some(last) if !now.fell(last) => now.grown_since(last),
            // The object is new, or its counts were reset.
            _ => now.clone(),
        };
        self.now.insert(key, now);
        let Some(entry) = self.all.get_mut(labels) else {
            self.all.insert(labels.to_owned(), LedgerEntry { all: more.clone(), is_there: true });
            return more;
        };
        entry.all.add(&more);
        entry.is_there = true;
        entry.all.clone()
    }

    /// Ends a round, in which all objects were seen.
    fn close(&mut self) {
        self.last = std::mem::take(&mut self.now);
        let there = self.all.values().filter(|entry| entry.is_there).count();
        if self.all.len() > there * 2 + MOST_GONE {
            self.all.retain(|_, entry| entry.is_there);
        }
        self.all.values_mut().for_each(|entry| entry.is_there = false);
    }
}

impl Growing for ChannelCounts {
    fn fell(&self, before: &Self) -> bool {
        let numbers = |of: &Self| [of.totalc, of.failed, of.sent_bytes, of.rcvd_bytes];
        numbers(self).iter().zip(numbers(before)).any(|(now, before)| *now < before)
            || any_fell(&self.ended.ends, &before.ended.ends)
            || any_fell(&self.ended.failures, &before.ended.failures)
            || self.ended.connects.fell(&before.ended.connects)
            || self.ended.lasted.fell(&before.ended.lasted)
    }

    fn grown_since(&self, before: &Self) -> Self {
        Self {
            totalc: self.totalc - before.totalc,
            failed: self.failed - before.failed,
            sent_bytes: self.sent_bytes - before.sent_bytes,
            rcvd_bytes: self.rcvd_bytes - before.rcvd_bytes,
            ended: self.ended.since(&before.ended),
        }
    }

    fn add(&mut self, more: &Self) {
        self.totalc += more.totalc;
        self.failed += more.failed;
        self.sent_bytes += more.sent_bytes;
        self.rcvd_bytes += more.rcvd_bytes;
        add_all(&mut self.ended.ends, &more.ended.ends);
        add_all(&mut self.ended.failures, &more.ended.failures);
        self.ended.connects.add(&more.ended.connects);
        self.ended.lasted.add(&more.ended.lasted);
    }
}

impl Growing for ClientCounts {
    fn fell(&self, before: &Self) -> bool {
        any_fell(&self.ends, &before.ends) || self.waits.fell(&before.waits)
    }

    fn grown_since(&self, before: &Self) -> Self {
        self.since(before)
    }

    fn add(&mut self, more: &Self) {
        add_all(&mut self.ends, &more.ends);
        self.waits.add(&more.waits);
    }
}

impl Growing for Distribution {
    fn fell(&self, before: &Self) -> bool {
        self.count() < before.count() || self.micros < before.micros
    }

    fn grown_since(&self, before: &Self) -> Self {
        self.since(before)
    }

    fn add(&mut self, more: &Self) {
        if more.counts.is_empty() {
            return;
        }
        if self.counts.is_empty() {
            *self = more.clone();
            return;
        }
        self.counts.iter_mut().zip(&more.counts).for_each(|(all, more)| *all += more);
        self.micros += more.micros;
    }
}

fn any_fell<T: Copy + PartialEq>(now: &[(T, u64)], before: &[(T, u64)]) -> bool {
    let has = |how: T| now.iter().find(|(known, _)| *known == how).map_or(0, |&(_, count)| count);
    before.iter().any(|&(how, count)| has(how) < count)
}

fn add_all<T: Copy + PartialEq>(all: &mut Vec<(T, u64)>, more: &[(T, u64)]) {
    for &(how, count) in more {
        match all.iter_mut().find(|(known, _)| *known == how) {
            Some((_, sum)) => *sum += count,
            None => all.push((how, count)),
        }
    }
}

/// Writes the samples of one family.
struct Samples<'a> {
    out: &'a mut String,
    name: &'a str,
    kind: MetricKind,
    exposition: Exposition,
    /// The labels of the object; the text ends in a comma or is empty.
    labels: &'a str,
}

impl Samples<'_> {
    /// Writes the only sample.
    fn one(&mut self, value: impl Display) {
        self.write(self.suffix(), format_args!(""), value);
    }

    /// Writes the only sample, if there is a value.
    fn maybe(&mut self, value: Option<impl Display>) {
        if let Some(value) = value {
            self.one(value);
        }
    }

    fn flag(&mut self, is: bool) {
        self.one(u8::from(is));
    }

    /// Writes one of several samples, told apart by this label.
    fn with(&mut self, label: &str, is: impl Display, value: impl Display) {
        let is = escaped(&is.to_string());
        self.write(self.suffix(), format_args!("{label}=\"{is}\","), value);
    }

    /// Writes the samples of a histogram; none if it has counted nothing yet.
    fn times(&mut self, times: &Distribution) {
        if times.counts.is_empty() {
            return;
        }
        let mut so_far = 0;
        let bounds = times.bounds_ms.iter().map(|&ms| Some(ms)).chain([None]);
        for (bound, count) in bounds.zip(&times.counts) {
            so_far += count;
            match bound.map(|ms| ms as f64 / 1_000.0) {
                None => self.write("_bucket", format_args!("le=\"+Inf\","), so_far),
                // Each format writes numbers in its own way.
                Some(bound) if self.exposition == Exposition::OpenMetrics => {
                    self.write("_bucket", format_args!("le=\"{bound:?}\","), so_far);
                }
                Some(bound) => self.write("_bucket", format_args!("le=\"{bound}\","), so_far),
            }
        }
        self.write("_sum", format_args!(""), times.micros as f64 / 1e6);
        self.write("_count", format_args!(""), so_far);
    }

    fn suffix(&self) -> &'static str {
        match self.kind {
            MetricKind::Gauge | MetricKind::Histogram => "",
            MetricKind::Counter => "_total",
            MetricKind::Info => "_info",
        }
    }

    fn write(&mut self, suffix: &str, more: std::fmt::Arguments<'_>, value: impl Display) {
        let Self { out, name, labels, .. } = self;
        out.push_str(name);
        out.push_str(suffix);
        let start = out.len();
        out.push('{');
        out.push_str(labels);
        let _ = out.write_fmt(more);
        if out.pop() == Some(',') {
            out.push('}');
        } else {
            out.truncate(start);
        }
        let _ = writeln!(out, " {value}");
    }
}

/// The text of all families that have samples.
pub(crate) fn render(scene: &Scene, ledger: &mut Ledger, exposition: Exposition) -> String {
    let services: Vec<ServiceSeries<'_>> =
        scene.services.iter().map(|service| of_service(service, ledger)).collect();
    let channels: Vec<ChannelSeries<'_>> =
        services.iter().flat_map(|service| of_channels(service, &mut ledger.channels)).collect();
    ledger.services.close();
    ledger.channels.close();
    let mut out = String::new();
    for &Family { name, kind, help, ref of } in FAMILIES {
        let start = out.len();
        head(&mut out, name, kind, help, exposition);
        let first = out.len();
        let out = &mut out;
        let mut samples = Samples { out, name, kind, exposition, labels: "" };
        match of {
            Of::Process(of) => of(&scene.vitals, &mut samples),
            Of::Service(of) => {
                for service in &services {
                    samples.labels = &service.labels;
                    of(service, &mut samples);
                }
            }
            Of::Channel(of) => {
                for channel in &channels {
                    samples.labels = &channel.labels;
                    of(channel, &mut samples);
                }
            }
        }
        if out.len() == first {
            // A family without samples is left out.
            out.truncate(start);
        }
    }
    if exposition == Exposition::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

/// Writes the lines before a family's samples.
fn head(out: &mut String, name: &str, kind: MetricKind, help: &str, exposition: Exposition) {
    let (suffix, word) = match (exposition, kind) {
        (_, MetricKind::Gauge) => ("", "gauge"),
        (_, MetricKind::Histogram) => ("", "histogram"),
        (Exposition::Prometheus, MetricKind::Counter) => ("_total", "counter"),
        (Exposition::OpenMetrics, MetricKind::Counter) => ("", "counter"),
        (Exposition::Prometheus, MetricKind::Info) => ("_info", "gauge"),
        (Exposition::OpenMetrics, MetricKind::Info) => ("", "info"),
    };
    let _ = writeln!(out, "# TYPE {name}{suffix} {word}");
    let unit = name.rsplit('_').next().filter(|unit| ["seconds", "bytes"].contains(unit));
    if let Some(unit) = unit.filter(|_| exposition == Exposition::OpenMetrics) {
        let _ = writeln!(out, "# UNIT {name} {unit}");
    }
    let _ = writeln!(out, "# HELP {name}{suffix} {help}");
}

fn of_service<'a>(service: &'a SceneService, ledger: &mut Ledger) -> ServiceSeries<'a> {
    let labels = format!("service=\"{}\",", escaped(&service.label));
    let counts = ledger.services.grown(service.owner, &labels, service.table.served.clone());
    ServiceSeries { labels, now: service, counts }
}

fn of_channels<'a>(
    service: &ServiceSeries<'a>,
    ledger: &mut LedgerBook<(Owner, ChannelKey), ChannelCounts>,
) -> Vec<ChannelSeries<'a>> {
    let all = service.now.table.groups.iter();
    let all = all.flat_map(|group| group.channels.iter().map(move |channel| (group.id, channel)));
    let series = all.map(|(group, channel)| {
        let (number, host) = (channel.id.index(), escaped(&channel.addresses.words()));
        let labels =
            format!("{}group=\"{}\",channel=\"{number}\",host=\"{host}\",", service.labels, group.index());
        let counts = ChannelCounts {
            totalc: channel.totalc,
            failed: channel.failed,
            sent_bytes: channel.sent_bytes,
            rcvd_bytes: channel.rcvd_bytes,
            ended: channel.ended.clone(),
        };
        let key = ChannelKey { group, channel: channel.id };
        let counts = ledger.grown((service.now.owner, key), &labels, counts);
        ChannelSeries { labels, now: channel, counts }
    });
    series.collect()
}

fn is_up(channel: &ChannelSnapshot) -> bool {
    !matches!(channel.health.state, HealthState::Ejected | HealthState::Down)
}

/// Escapes a label value for use between quotation marks.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_label_cannot_end_it() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }

    #[test]
    fn what_was_forgotten_still_counts() {
        let mut ledger = LedgerBook::default();
        let counts = |totalc, sent_bytes| ChannelCounts { totalc, sent_bytes, ..ChannelCounts::default() };
        let mut seen = Vec::new();
        for (totalc, sent_bytes) in [(5, 100), (7, 100), (0, 0), (1, 300), (1, 2), (2, 2)] {
            let all = ledger.grown(1, "x", counts(totalc, sent_bytes));
            ledger.close();
            seen.push((all.totalc, all.sent_bytes));
        }
        // All counters of a series are forgotten together, even one that is already larger than it was.
        assert_eq!(seen, [(5, 100), (7, 100), (7, 100), (8, 400), (9, 402), (10, 402)]);
        assert_eq!(ledger.grown(2, "y", counts(1, 1)).totalc, 1);
    }

    #[test]
    fn what_gets_other_labels_counts_nothing_twice() {
        let mut ledger = LedgerBook::default();
        let (old, new, third) = (1, 2, 3);
        let of = |totalc| ChannelCounts { totalc, ..ChannelCounts::default() };
        let mut look = |all: &[(u64, &str, u64)]| -> Vec<u64> {
            let one = |&(key, label, totalc): &(_, _, _)| ledger.grown(key, label, of(totalc)).totalc;
            let seen = all.iter().map(one).collect();
            ledger.close();
            seen
        };
        assert_eq!(look(&[(old, "web", 5)]), [5]);
        // A series that takes the name of another one has counted more than that had, ...
        assert_eq!(look(&[(new, "web", 7), (old, "web (draining)", 6)]), [12, 1]);
        assert_eq!(look(&[(new, "web", 8), (old, "web (draining)", 6)]), [13, 1]);
        // ... and a third one takes the name that it had before.
        assert_eq!(look(&[(third, "web", 0), (new, "web (draining)", 9)]), [13, 2]);
    }

    #[test]
    fn a_histogram_is_cumulative_and_its_bounds_are_seconds() {
        let times = Distribution { bounds_ms: &[1, 2_000], counts: vec![3, 2, 1], micros: 1_500_000 };
        let text = |exposition| {
            let mut out = String::new();
            let mut samples = Samples {
                out: &mut out,
                name: "x_seconds",
                kind: MetricKind::Histogram,
                exposition,
                labels: "a=\"b\",",
            };
            samples.times(&times);
            samples.times(&Distribution::default());
            out
        };
        let expected = "x_seconds_bucket{a=\"b\",le=\"0.001\"} 3\nx_seconds_bucket{a=\"b\",le=\"2\"} 5\n\
                        x_seconds_bucket{a=\"b\",le=\"+Inf\"} 6\nx_seconds_sum{a=\"b\"} 1.5\nx_seconds_count{a=\"b\"} 6\n";
        assert_eq!(text(Exposition::Prometheus), expected);
        assert_eq!(text(Exposition::OpenMetrics), expected.replace("le=\"2\"", "le=\"2.0\""));
    }

    #[test]
    fn every_family_has_a_name_of_its_own_and_a_sentence() {
        let mut names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FAMILIES.len(), "OpenMetrics has no gauge and counter of one name");
        for Family { name, help, .. } in FAMILIES {
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
            assert!(name.starts_with("balance_") || name.starts_with("process_"), "{name}");
        }
    }
}

//! Rates and their history, from the differences between fetched states.
//!
//! Knows: counters that were reset, how much is kept. Never: sockets, the clock, how it is drawn.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::facts::{SessionFacts, TableFacts};

/// Maximum number of samples per channel: ten minutes with one per second.
const MOST: usize = 600;
/// Maximum number of samples of all channels of a service together, but at least [`LEAST`] for each channel.
const ALL_TOGETHER: usize = 1_000_000;
/// Number of samples kept for each channel, however many channels there are.
const LEAST: usize = 60;

/// A channel of a service: the numbers of its group and of the channel in it.
pub(super) type ChannelAt = (u32, u32);

/// Rates per second between two states.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct SeenRates {
    pub(super) conns: f64,
    pub(super) sent: f64,
    pub(super) rcvd: f64,
}

/// The samples of an instance.
#[derive(Debug, Default)]
pub(super) struct SampledInstance {
    services: HashMap<String, SampledTable>,
    sessions: SampledSessions,
}

/// The samples of one service.
#[derive(Debug, Default)]
pub(super) struct SampledTable {
    last: Option<LastTable>,
    /// When the samples were taken, the oldest first.
    times: VecDeque<Duration>,
    all: Track,
    channels: HashMap<ChannelAt, Track>,
}

#[derive(Debug)]
struct LastTable {
    pid: u32,
    uptime: f64,
    totals: HashMap<ChannelAt, [u64; 3]>,
}

/// The samples of one channel, or of all together.
#[derive(Debug, Default)]
struct Track {
    now: Option<SeenRates>,
    /// Bytes per second in both directions together, the latest last; not a number where it is not known.
    bytes: VecDeque<f32>,
}

#[derive(Debug, Default)]
struct SampledSessions {
    last: Option<(Duration, HashMap<u64, [u64; 2]>)>,
    rates: HashMap<u64, SeenRates>,
}

impl SampledInstance {
    /// Adds the state of one service. `at` is the time on our clock.
    pub(super) fn take(&mut self, at: Duration, label: &str, table: &TableFacts) {
        self.services.entry(label.to_owned()).or_default().take(at, table);
    }

    /// Drops services that are not among these.
    pub(super) fn keep(&mut self, labels: &[String]) {
        self.services.retain(|label, _| labels.contains(label));
    }

    pub(super) fn of(&self, label: &str) -> Option<&SampledTable> {
        self.services.get(label)
    }

    /// Adds the connections of the shown service.
    pub(super) fn take_sessions(&mut self, at: Duration, list: &[SessionFacts]) {
        self.sessions.take(at, list);
    }

    /// Drops the connections, because another service will be shown.
    pub(super) fn forget_sessions(&mut self) {
        self.sessions = SampledSessions::default();
    }

    pub(super) fn of_session(&self, id: u64) -> Option<SeenRates> {
        self.sessions.rates.get(&id).copied()
    }
}

impl SampledTable {
    fn take(&mut self, at: Duration, table: &TableFacts) {
        let channels =
            || table.groups.iter().flat_map(|group| group.channels.iter().map(|one| (group.group, one)));
        let totals: HashMap<ChannelAt, [u64; 3]> = channels()
            .map(|(group, one)| ((group, one.channel), [one.totalc, one.sent_bytes, one.rcvd_bytes]))
            .collect();
        let now = LastTable { pid: table.process.pid, uptime: table.process.uptime_seconds, totals };
        let last = self.last.replace(now);
        let Some(now) = &self.last else { return };
        let seconds = last.as_ref().map_or(0.0, |last| now.uptime - last.uptime);
        // If the instance was restarted, or was asked twice within a millisecond, there is no earlier state
        // to compare with.
        let predecessor = table.process.taken_over.as_ref().map(|before| before.pid);
        let is_same = |pid| pid == now.pid || Some(pid) == predecessor;
        let last = last.filter(|last| seconds > 0.0 && is_same(last.pid));
        self.times.push_back(at);
        self.channels.retain(|at, _| now.totals.contains_key(at));
        let most = (ALL_TOGETHER / now.totals.len().max(1)).clamp(LEAST, MOST);
        let mut all = last.as_ref().map(|_| SeenRates::default());
        for (channel, totals) in &now.totals {
            let before = last.as_ref().and_then(|last| last.totals.get(channel));
            let rates = before.map(|before| SeenRates::of(totals, before, seconds));
            if let (Some(all), Some(one)) = (&mut all, rates) {
                (all.conns, all.sent, all.rcvd) =
                    (all.conns + one.conns, all.sent + one.sent, all.rcvd + one.rcvd);
            }
            self.channels.entry(*channel).or_default().push(rates, most);
        }
        self.all.push(all, most);
        while self.times.len() > most {
            self.times.pop_front();
        }
    }

    /// The rates of all channels together between the last two states.
    pub(super) fn all(&self) -> Option<SeenRates> {
        self.all.now
    }

    /// The rates of a channel between the last two states.
    pub(super) fn channel(&self, at: ChannelAt) -> Option<SeenRates> {
        self.channels.get(&at)?.now
    }

    /// The bytes per second of all channels; see [`Track::bars`].
    pub(super) fn all_bars(&self, now: Duration, span: Duration, columns: usize) -> Vec<Option<f32>> {
        self.all.bars(&self.times, now, span, columns)
    }

    /// The bytes per second of one channel.
    pub(super) fn bars(
        &self,
        at: ChannelAt,
        now: Duration,
        span: Duration,
        columns: usize,
    ) -> Vec<Option<f32>> {
        self.channels
            .get(&at)
            .map_or_else(|| vec![None; columns], |one| one.bars(&self.times, now, span, columns))
    }
}

impl Track {
    fn push(&mut self, rates: Option<SeenRates>, most: usize) {
        self.now = rates;
        self.bytes.push_back(rates.map_or(f32::NAN, |one| (one.sent + one.rcvd) as f32));
        while self.bytes.len() > most {
            self.bytes.pop_front();
        }
    }

    /// Divides the last `span` into `columns` equal parts and returns the mean of each, the oldest first;
    /// `None` where nothing is known. The parts begin at multiples of their length, so that a value stays in
    /// the same part until it is too old.
    fn bars(
        &self,
        times: &VecDeque<Duration>,
        now: Duration,
        span: Duration,
        columns: usize,
    ) -> Vec<Option<f32>> {
        let mut sums = vec![(0.0_f32, 0_u32); columns];
        let part = span.as_secs_f64() / columns.max(1) as f64;
        let number = |at: Duration| (at.as_secs_f64() / part).floor();
        let last = number(now);
        for (at, bytes) in times.iter().rev().zip(self.bytes.iter().rev()) {
            let back = last - number(*at);
            if back >= columns as f64 {
                break;
            }
            let place = columns - 1 - back.max(0.0) as usize;
            if let Some(sum) = sums.get_mut(place).filter(|_| bytes.is_finite()) {
                *sum = (sum.0 + bytes, sum.1 + 1);
            }
        }
        sums.into_iter().map(|(sum, count)| (count > 0).then(|| sum / count as f32)).collect()
    }
}

impl SampledSessions {
    fn take(&mut self, at: Duration, list: &[SessionFacts]) {
        let now: HashMap<u64, [u64; 2]> =
            list.iter().map(|one| (one.id, [one.sent_bytes, one.rcvd_bytes])).collect();
        self.rates.clear();
        if let Some((before, totals)) = &self.last {
            let seconds = at.saturating_sub(*before).as_secs_f64();
            for (id, [sent, rcvd]) in &now {
                if let Some([sent_before, rcvd_before]) = totals.get(id).filter(|_| seconds > 0.0) {
                    let rates = SeenRates::of(&[0, *sent, *rcvd], &[0, *sent_before, *rcvd_before], seconds);
                    self.rates.insert(*id, rates);
                }
            }
        }
        self.last = Some((at, now));
    }
}

impl SeenRates {
    fn of(now: &[u64; 3], before: &[u64; 3], seconds: f64) -> Self {
        let rate = |place: usize| grown(now[place], before[place]) as f64 / seconds;
        Self { conns: rate(0), sent: rate(1), rcvd: rate(2) }
    }
}

/// How much a counter has grown. If it is less than before, it was reset and counts from 0.
fn grown(now: u64, before: u64) -> u64 {
    if now < before { now } else { now - before }
}

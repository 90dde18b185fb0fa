//! What each look at an instance adds to what was seen before: rates, and how they went.
//!
//! Knows: counters that begin anew, how much is kept. Never: sockets, the clock, how it is drawn.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::facts::{SessionFacts, TableFacts};

/// So many samples of a channel at most: ten minutes, at one a second.
const MOST: usize = 600;
/// So many of all channels of a service together, but always [`LEAST`] of each.
const ALL_TOGETHER: usize = 1_000_000;
/// So many of a channel, however many channels there are.
const LEAST: usize = 60;

/// Which channel of a service: its group, and its number there.
pub(super) type ChannelAt = (u32, u32);

/// What counted in the time between two looks, per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct SeenRates {
    pub(super) conns: f64,
    pub(super) sent: f64,
    pub(super) rcvd: f64,
}

/// All that is known of how it went.
#[derive(Debug, Default)]
pub(super) struct SampledInstance {
    services: HashMap<String, SampledTable>,
    sessions: SampledSessions,
}

/// One service.
#[derive(Debug, Default)]
pub(super) struct SampledTable {
    last: Option<LastTable>,
    /// When samples were taken, the oldest first.
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

/// One channel, or all of them.
#[derive(Debug, Default)]
struct Track {
    now: Option<SeenRates>,
    /// Bytes per second, both ways, at the last so many times; not a number where that is not known.
    bytes: VecDeque<f32>,
}

#[derive(Debug, Default)]
struct SampledSessions {
    last: Option<(Duration, HashMap<u64, [u64; 2]>)>,
    rates: HashMap<u64, SeenRates>,
}

impl SampledInstance {
    /// A look at one service. `at` is a time of ours.
    pub(super) fn take(&mut self, at: Duration, label: &str, table: &TableFacts) {
        self.services.entry(label.to_owned()).or_default().take(at, table);
    }

    /// Services that are not among these are forgotten.
    pub(super) fn keep(&mut self, labels: &[String]) {
        self.services.retain(|label, _| labels.contains(label));
    }

    pub(super) fn of(&self, label: &str) -> Option<&SampledTable> {
        self.services.get(label)
    }

    /// A look at the connections of the service that is shown.
    pub(super) fn take_sessions(&mut self, at: Duration, list: &[SessionFacts]) {
        self.sessions.take(at, list);
    }

    /// Other connections will come.
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
        // Of an instance that was started again, or that was asked twice in a millisecond, this look is the first one.
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

    /// What all channels did between the last two looks.
    pub(super) fn all(&self) -> Option<SeenRates> {
        self.all.now
    }

    /// What a channel did between the last two looks.
    pub(super) fn channel(&self, at: ChannelAt) -> Option<SeenRates> {
        self.channels.get(&at)?.now
    }

    /// Bytes per second of all channels, see [`Track::bars`].
    pub(super) fn all_bars(&self, now: Duration, span: Duration, columns: usize) -> Vec<Option<f32>> {
        self.all.bars(&self.times, now, span, columns)
    }

    /// The same of one channel.
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

    /// The means of `columns` equal parts of the last `span`, the oldest first; `None` where nothing is known. The parts begin at multiples of
    /// their length, so that a value stays in its part until that has moved out.
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

/// A counter that is less than it was has begun anew.
fn grown(now: u64, before: u64) -> u64 {
    if now < before { now } else { now - before }
}

//! Samples of the last hour of each service, in a bounded amount of memory.
//!
//! Knows: the counters at the last sample, how much is kept. Never: the clock, the live table, how it is
//! drawn.
//! Source: docs/observability.md, "The page".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::sched::{ChannelKey, ChannelSnapshot, Distribution, Snapshot};

/// The time between two samples.
pub(crate) const STEP: Duration = Duration::from_secs(10);
/// Number of steps that are kept: one hour.
pub(crate) const STEPS: u32 = 360;
/// Maximum number of services. With [`STEPS`] this bounds the memory to 5 MiB.
const MOST_SERVICES: usize = 256;
/// Maximum number of channels of a service whose rates are known.
const MOST_CHANNELS: usize = 4_096;

/// What happened in one step. Rates are per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// The end of the step.
    pub(crate) at: Duration,
    pub(crate) sent_rate: f64,
    pub(crate) rcvd_rate: f64,
    /// Connections at the end of the step.
    pub(crate) open: u32,
    /// New connections.
    pub(crate) new_rate: f64,
    /// The mean time of the successful connects, in seconds; `None`: there were none.
    pub(crate) connect_mean: Option<f64>,
    /// The highest p99 of all channels, in seconds, as `status` shows it.
    pub(crate) connect_p99: Option<f64>,
    /// Attempts to connect that failed.
    pub(crate) failed: u64,
    /// Clients that were lost before they had a channel.
    pub(crate) lost: u64,
}

/// The bytes per second of a channel in the last step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ChannelRates {
    pub(crate) sent: f64,
    pub(crate) rcvd: f64,
}

/// The history of one service.
#[derive(Debug, Default)]
pub(crate) struct ServiceHistory {
    samples: VecDeque<Sample>,
    last: Option<LastLook>,
    rates: HashMap<ChannelKey, ChannelRates>,
    is_there: bool,
}

#[derive(Debug)]
struct LastLook {
    at: Duration,
    channels: HashMap<ChannelKey, ChannelTotals>,
    connects: Distribution,
    lost: u64,
}

/// The counters of a channel.
#[derive(Debug, Clone, Copy, Default)]
struct ChannelTotals {
    totalc: u64,
    failed: u64,
    sent: u64,
    rcvd: u64,
}

/// The history of all services.
#[derive(Debug, Default)]
pub(crate) struct HourHistory {
    services: HashMap<String, ServiceHistory>,
}

/// A service at the end of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SampledService<'a> {
    pub(crate) label: &'a str,
    pub(crate) table: &'a Snapshot,
    pub(crate) connections: usize,
}

impl HourHistory {
    /// Ends a step. Services that are not in `all` are forgotten.
    pub(crate) fn take<'a>(&mut self, at: Duration, all: impl Iterator<Item = SampledService<'a>>) {
        self.services.values_mut().for_each(|one| one.is_there = false);
        for one in all {
            if !self.services.contains_key(one.label) && self.services.len() >= MOST_SERVICES {
                continue;
            }
            let history = self.services.entry(one.label.to_owned()).or_default();
            history.is_there = true;
            history.take(at, &one);
        }
        self.services.retain(|_, one| one.is_there);
    }

    /// The history of the service with this label.
    pub(crate) fn of(&self, label: &str) -> Option<&ServiceHistory> {
        self.services.get(label)
    }
}

impl ServiceHistory {
    /// The steps, the oldest first.
    pub(crate) fn samples(&self) -> impl DoubleEndedIterator<Item = &Sample> {
        self.samples.iter()
    }

    /// The rates of a channel in the last step; `None`: not known.
    pub(crate) fn rates(&self, channel: ChannelKey) -> Option<ChannelRates> {
        self.rates.get(&channel).copied()
    }

    fn take(&mut self, at: Duration, seen: &SampledService<'_>) {
        let channels = || {
            let groups = seen.table.groups.iter();
            groups.flat_map(|group| group.channels.iter().map(|channel| (group.id, channel)))
        };
        let key = |(group, channel): (_, &ChannelSnapshot)| ChannelKey { group, channel: channel.id };
        let totals: HashMap<ChannelKey, ChannelTotals> =
            channels().take(MOST_CHANNELS).map(|one| (key(one), ChannelTotals::of(one.1))).collect();
        let connects = connects(seen.table);
        let lost = seen.table.losses.iter().map(|(_, count)| count).sum();
        let now = LastLook { at, channels: totals, connects, lost };
        let Some(last) = self.last.replace(now) else { return };
        let Some(now) = &self.last else { return };
        let seconds = at.saturating_sub(last.at).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let mut all = ChannelTotals::default();
        self.rates.clear();
        for (key, totals) in &now.channels {
            let grown = totals.since(last.channels.get(key).copied().unwrap_or_default());
            all.add(grown);
            let rate = |count: u64| count as f64 / seconds;
            self.rates.insert(*key, ChannelRates { sent: rate(grown.sent), rcvd: rate(grown.rcvd) });
        }
        let connects = mean_of_grown(&now.connects, &last.connects);
        let highest = channels().filter_map(|(_, channel)| channel.connect_p99).max();
        self.samples.push_back(Sample {
            at,
            sent_rate: all.sent as f64 / seconds,
            rcvd_rate: all.rcvd as f64 / seconds,
            open: u32::try_from(seen.connections).unwrap_or(u32::MAX),
            new_rate: all.totalc as f64 / seconds,
            connect_mean: connects,
            connect_p99: highest.filter(|_| connects.is_some()).map(|p99| p99.as_secs_f64()),
            failed: all.failed,
            lost: grown(now.lost, last.lost),
        });
        while self.samples.len() > STEPS as usize + 1 {
            self.samples.pop_front();
        }
    }
}

impl ChannelTotals {
    fn of(channel: &ChannelSnapshot) -> Self {
        let ChannelSnapshot { totalc, failed, sent_bytes: sent, rcvd_bytes: rcvd, .. } = *channel;
        Self { totalc, failed, sent, rcvd }
    }

    fn since(self, before: Self) -> Self {
        Self {
            totalc: grown(self.totalc, before.totalc),
            failed: grown(self.failed, before.failed),
            sent: grown(self.sent, before.sent),
            rcvd: grown(self.rcvd, before.rcvd),
        }
    }

    fn add(&mut self, more: Self) {
        self.totalc += more.totalc;
        self.failed += more.failed;
        self.sent += more.sent;
        self.rcvd += more.rcvd;
    }
}

/// How much a counter has grown. If it is less than before, it was reset and counts from 0.
fn grown(now: u64, before: u64) -> u64 {
    if now < before { now } else { now - before }
}

/// The connect times of all channels together.
fn connects(table: &Snapshot) -> Distribution {
    let mut all = Distribution::default();
    for times in table.groups.iter().flat_map(|group| &group.channels).map(|one| &one.ended.connects) {
        all.counts.resize(all.counts.len().max(times.counts.len()), 0);
        all.counts.iter_mut().zip(&times.counts).for_each(|(sum, count)| *sum += count);
        all.micros = all.micros.saturating_add(times.micros);
    }
    all
}

/// The mean, in seconds, of what was added since `before`. `None`: nothing was, or a channel was removed with
/// its counters.
fn mean_of_grown(now: &Distribution, before: &Distribution) -> Option<f64> {
    let count = now.count().checked_sub(before.count()).filter(|&count| count > 0)?;
    let micros = now.micros.checked_sub(before.micros)?;
    Some(micros as f64 / 1e6 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::{AdminState, GroupId, Rules, Table};

    fn table(channels: u8) -> Snapshot {
        let mut table = Table::new(Rules::CLASSIC);
        for number in 0..channels {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1 + u16::from(number)));
            table.create(GroupId::FIRST, address.into(), None, AdminState::Enabled).expect("a slot");
        }
        let mut survey = crate::sched::Survey::default();
        while table.survey(&mut survey) {}
        survey.finish()
    }

    fn take(history: &mut HourHistory, step: u32, table: &Snapshot) {
        let seen = SampledService { label: "web", table, connections: 3 };
        history.take(STEP * step, [seen].into_iter());
    }

    fn last(history: &HourHistory) -> Sample {
        *history.of("web").and_then(|one| one.samples().last()).expect("a sample")
    }

    #[test]
    fn a_step_is_what_came_in_it() {
        let (mut history, mut now) = (HourHistory::default(), table(2));
        now.groups[0].channels[0].sent_bytes = 1_000_000;
        take(&mut history, 0, &now);
        assert_eq!(history.of("web").expect("known").samples().count(), 0, "one look says nothing of a rate");
        now.groups[0].channels[0].sent_bytes += 500;
        now.groups[0].channels[1].rcvd_bytes += 20;
        now.groups[0].channels[1].totalc += 30;
        now.groups[0].channels[1].failed += 4;
        let connects = &mut now.groups[0].channels[1].ended.connects;
        (connects.counts, connects.micros) = (vec![2, 0, 0], 5_000);
        take(&mut history, 1, &now);
        let sample = last(&history);
        assert_eq!((sample.sent_rate, sample.rcvd_rate, sample.new_rate), (50.0, 2.0, 3.0));
        assert_eq!((sample.open, sample.failed, sample.connect_mean), (3, 4, Some(0.0025)));
        let key = ChannelKey { group: GroupId::FIRST, channel: now.groups[0].channels[0].id };
        assert_eq!(history.of("web").and_then(|one| one.rates(key)).map(|rates| rates.sent), Some(50.0));
        take(&mut history, 2, &now);
        assert_eq!((last(&history).sent_rate, last(&history).connect_mean), (0.0, None));
    }

    #[test]
    fn a_counter_that_was_reset_is_no_spike_and_no_panic() {
        let (mut history, mut now) = (HourHistory::default(), table(2));
        now.groups[0].channels[0].sent_bytes = u64::MAX;
        now.groups[0].channels[1].sent_bytes = 100;
        now.groups[0].channels[1].ended.connects.counts = vec![9];
        take(&mut history, 0, &now);
        now.groups[0].channels.remove(0);
        now.groups[0].channels[0].sent_bytes = 10;
        now.groups[0].channels[0].ended.connects.counts = vec![1];
        take(&mut history, 1, &now);
        assert_eq!((last(&history).sent_rate, last(&history).connect_mean), (1.0, None));
        // Two samples at the same time give no rate.
        take(&mut history, 1, &now);
        assert_eq!(history.of("web").expect("known").samples().count(), 1);
    }

    #[test]
    fn an_hour_is_kept_of_those_that_are_there_and_of_no_more_than_there_is_room_for() {
        let (mut history, now) = (HourHistory::default(), table(1));
        (0..STEPS * 2).for_each(|step| take(&mut history, step, &now));
        let samples: Vec<_> = history.of("web").expect("known").samples().collect();
        assert_eq!(samples.len(), STEPS as usize + 1);
        assert_eq!(samples[0].at, samples[samples.len() - 1].at - STEP * STEPS);
        let labels: Vec<String> = (0..MOST_SERVICES + 10).map(|n| n.to_string()).collect();
        let many = labels.iter().map(|label| SampledService { label, table: &now, connections: 0 });
        history.take(STEP * STEPS * 3, many);
        assert!(history.services.len() <= MOST_SERVICES, "{}", history.services.len());
        history.take(STEP * STEPS * 4, std::iter::empty());
        assert!(history.services.is_empty());
    }
}

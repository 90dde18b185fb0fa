//! Which probes are due, and what their answers change.
//!
//! Knows: times, channels. Never: how a probe is made; thresholds, which are the channel's health.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Addresses, ChannelKey, ProbeResult, Purpose, Table, Transition};

/// Times of the next probes, earliest first: at most one per channel.
#[derive(Debug, Default)]
pub(super) struct Agenda(BTreeSet<(Duration, ChannelKey)>);

impl Agenda {
    /// Moves a channel from `old` (`None` = it did not stand here) to `new`.
    pub(super) fn put(&mut self, key: ChannelKey, old: Option<Duration>, new: Option<Duration>) {
        if old == new {
            return;
        }
        if let Some(at) = old {
            self.0.remove(&(at, key));
        }
        if let Some(at) = new {
            self.0.insert((at, key));
        }
    }

    fn due(&self, now: Duration) -> Option<ChannelKey> {
        self.0.first().filter(|(at, _)| *at <= now).map(|&(_, key)| key)
    }
}

/// One probe to be made now. Its answer goes to [`Table::probed`].
#[derive(Debug, Clone)]
pub struct Probe {
    /// Of which channel.
    pub channel: ChannelKey,
    /// Where it is.
    pub addresses: Addresses,
    /// What is asked.
    pub purpose: Purpose,
    serial: u32,
}

impl Table {
    /// The probes that are due, at most so many. Each counts as under way until it is answered; until then its channel has
    /// no other.
    pub fn probes_due(&mut self, most: usize) -> Vec<Probe> {
        let mut probes = Vec::new();
        while probes.len() < most
            && let Some(key) = self.agenda.due(self.now)
        {
            let now = self.now;
            let begun = self.edit_by_lot(key, |channel, _| {
                let (purpose, serial) = channel.health.begin_probe(now);
                Probe { channel: key, addresses: channel.addresses.clone(), purpose, serial }
            });
            probes.extend(begun);
            self.schedule(key);
        }
        probes
    }

    /// When the next probe is due, if nothing changes before.
    pub fn next_probe(&self) -> Option<Duration> {
        self.agenda.0.first().map(|&(at, _)| at)
    }

    /// A probe was answered. The answer to one of a channel that is gone or has other addresses by now changes nothing.
    pub fn probed(&mut self, probe: &Probe, result: ProbeResult) -> Option<Transition> {
        let (rules, now) = (self.rules.health, self.now);
        let change = self.edit_by_lot(probe.channel, |channel, random| {
            channel.health.probed(&rules, probe.serial, result, now, random)
        });
        self.schedule(probe.channel);
        change.ok().flatten().map(|change| self.transition(probe.channel, change))
    }

    /// Puts a channel on the agenda for the probe that its health wants next.
    pub(super) fn schedule(&mut self, key: ChannelKey) {
        let Some(group) = self.groups.get_mut(&key.group) else { return };
        let Some((old, new)) = group.plan_probe(key.channel.index()) else { return };
        self.agenda.put(key, old, new);
    }
}

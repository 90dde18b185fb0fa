//! Which probes are due, and what their results change.
//!
//! Knows: times, channels. Never: how a probe is made; thresholds, which `health` has.

use std::time::Duration;

use super::reach::ProbedAddress;
use super::{ChannelKey, Happened, ProbeResult, Purpose, Table, Transition};
use crate::spec::{Address, ChannelManner};

/// A probe to make now. Its result goes to [`Table::probed`].
#[derive(Debug, Clone)]
pub struct Probe {
    /// The channel.
    pub channel: ChannelKey,
    /// The addresses to try, in this order; one that is up is enough.
    pub addresses: Vec<Address>,
    /// The purpose.
    pub purpose: Purpose,
    /// How to speak to the channel.
    pub manner: ChannelManner,
    /// It is for this address of the channel only. `None`: for the channel.
    address: Option<ProbedAddress>,
    serial: u32,
    begun: Duration,
}

impl Probe {
    pub(super) fn is_of_one(&self) -> bool {
        self.address.is_some()
    }

    pub(super) fn serial(&self) -> u32 {
        self.serial
    }

    pub(super) fn begun(&self) -> Duration {
        self.begun
    }
}

impl Table {
    /// The probes that are due, at most `most`. Each counts as running until its result is reported; until
    /// then its channel has no other.
    pub fn probes_due(&mut self, most: usize) -> Vec<Probe> {
        let mut probes = Vec::new();
        while probes.len() < most
            && let Some(key) = self.agenda.due(self.now)
        {
            let now = self.now;
            let begun = self.edit_by_lot(key, |channel, _| {
                let (address, purpose, serial, addresses) = channel.begin_probe(now);
                let manner = channel.manner.clone();
                Probe { channel: key, addresses, purpose, manner, address, serial, begun: now }
            });
            probes.extend(begun);
            self.schedule(key);
        }
        probes
    }

    /// When the next probe is due if nothing changes before. `None`: none is planned.
    pub fn next_probe(&self) -> Option<Duration> {
        self.agenda.next()
    }

    /// Is this channel up, and has a probe of it succeeded that began after `then`? With checks, only a check
    /// counts. If not, the next probe is due soon. `None`: there is no such channel.
    pub fn ask(&mut self, key: ChannelKey, then: Duration) -> Option<bool> {
        let (rules, now) = (self.rules.health, self.now);
        // A channel that stands for several has no probes of its own.
        let ones = self.ones(key);
        let mut is_proven = false;
        for one in ones {
            let found = self.edit(one, |channel| {
                let is_proven = channel.health.is_proven_after(then);
                if !is_proven {
                    channel.health.ask(&rules, now);
                }
                is_proven
            });
            is_proven |= found.ok()?;
            self.schedule(one);
        }
        Some(is_proven)
    }

    /// Reports the result of a probe. It changes nothing if the channel is gone or has other addresses by
    /// now.
    pub fn probed(&mut self, probe: &Probe, result: ProbeResult) -> Option<Transition> {
        let (rules, now) = (self.rules.health, self.now);
        if matches!(result, ProbeResult::Bad(_)) {
            self.doubt(probe.channel);
        }
        if let Some(place) = probe.address {
            return self.address_probed(probe, place, result);
        }
        let change = self.edit_by_lot(probe.channel, |channel, random| {
            channel.health.probed(&rules, probe.serial, result, now, random)
        });
        self.schedule(probe.channel);
        change.ok().flatten().map(|change| self.transition(probe.channel, change))
    }

    fn address_probed(
        &mut self,
        probe: &Probe,
        place: ProbedAddress,
        result: ProbeResult,
    ) -> Option<Transition> {
        let (channel, now) = (probe.channel, self.now);
        let after = self.edit_by_lot(channel, |channel, random| {
            channel.reach.as_mut()?.probed(place, probe.serial, result, now, random)
        });
        self.schedule(channel);
        let (after, address) = (after.ok().flatten()?, *probe.addresses.first()?);
        Some(Transition { channel, address, what: Happened::AddressReturned(after) })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::super::{
        Addresses, AdminState, ChannelId, ClientAddr, DialCause, DialFailure, GroupId, HealthRules, Lease,
        Rules,
    };
    use super::*;

    /// A table with this number of channels, all ejected at time 0.
    fn ejected(channels: u8) -> Table {
        let health = HealthRules { eject: true, ..HealthRules::NONE };
        let mut table = Table::new(Rules { health, ..Rules::CLASSIC });
        for n in 0..channels {
            let address = Addresses::from(SocketAddr::from(([127, 0, 0, n], 80)));
            table.create(GroupId::FIRST, address, None, AdminState::Enabled).expect("few channels");
        }
        for _ in 0..channels {
            let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 1])));
            let lease = table.next(&mut route).expect("one that is up");
            table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused").expect("it is ejected");
        }
        table
    }

    fn key(n: usize) -> ChannelKey {
        ChannelKey { group: GroupId::FIRST, channel: ChannelId::new(n).expect("small") }
    }

    #[test]
    fn probes_are_handed_out_when_due_as_many_as_asked_for_and_once() {
        let mut table = ejected(5);
        assert!(table.probes_due(9).is_empty(), "nothing is due yet");
        assert!(table.next_probe().is_some_and(|at| at >= Duration::from_millis(225)));
        table.advance(Duration::from_secs(1));
        assert_eq!(table.probes_due(0).len(), 0);
        let mut probes = table.probes_due(2);
        assert_eq!(probes.len(), 2);
        probes.extend(table.probes_due(9));
        let mut channels: Vec<_> = probes.iter().map(|probe| probe.channel.channel.index()).collect();
        channels.sort_unstable();
        assert_eq!(channels, [0, 1, 2, 3, 4]);
        assert!(probes.iter().all(|probe| probe.purpose == Purpose::Return));
        assert_eq!((table.next_probe(), table.probes_due(9).len()), (None, 0), "all are under way");
    }

    #[test]
    fn an_answer_counts_once_and_only_for_the_channel_that_was_asked() {
        let mut table = ejected(3);
        table.advance(Duration::from_secs(1));
        let mut probes = table.probes_due(9);
        probes.sort_by_key(|probe| probe.channel);
        for n in [1, 2] {
            table.set_state(key(n), AdminState::Disabled).expect("it exists");
        }
        table.assign(key(1), Addresses::from(SocketAddr::from(([127, 0, 0, 9], 80)))).expect("disabled");
        table.remove(key(2)).expect("disabled and idle");
        let told: Vec<_> =
            probes.iter().map(|probe| table.probed(probe, ProbeResult::Good).map(|told| told.what)).collect();
        assert_eq!(told, [Some(Happened::Returned(Duration::from_secs(1))), None, None]);
        assert_eq!(table.probed(&probes[0], ProbeResult::Bad("late".into())), None, "answered before");
        assert_eq!(table.next_probe(), None);
    }

    #[test]
    fn a_removed_channel_is_never_probed() {
        let mut table = ejected(1);
        table.set_state(key(0), AdminState::Disabled).expect("it exists");
        table.remove(key(0)).expect("disabled and idle");
        table.advance(Duration::from_secs(9));
        assert_eq!((table.next_probe(), table.probes_due(9).len()), (None, 0));
    }

    /// A table of two channels, and the leases of a client that tries the second one beside the first.
    fn racing(rules: HealthRules) -> (Table, Lease, Lease) {
        let mut table = Table::new(Rules { health: rules, ..Rules::CLASSIC });
        for n in 0..2 {
            let address = Addresses::from(SocketAddr::from(([127, 0, 0, n], 80)));
            table.create(GroupId::FIRST, address, None, AdminState::Enabled).expect("few channels");
        }
        let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 1])));
        let first = table.next(&mut route).expect("one that is up");
        let second = table.next_beside(&mut route, &mut Vec::new()).expect("another one");
        assert!(table.next_beside(&mut route, &mut Vec::new()).is_none(), "there are two");
        assert!(table.next(&mut route).is_err(), "both have had their turn");
        (table, first, second)
    }

    const EJECT: HealthRules = HealthRules { eject: true, ..HealthRules::NONE };
    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn one_that_was_outrun_without_an_answer_is_asked_and_ejected_if_it_gives_none() {
        for result in [ProbeResult::Good, ProbeResult::Unknown, ProbeResult::Bad("no answer".into())] {
            let (mut table, first, _second) = racing(EJECT);
            table.advance(MS(50));
            table.outrun(first, false);
            let [probe] = &table.probes_due(9)[..] else { panic!("one probe") };
            assert_eq!((probe.channel, probe.purpose), (key(0), Purpose::Doubt));
            let told = table.probed(probe, result.clone());
            let channel = table.channel(key(0)).expect("it exists");
            assert_eq!((channel.active, channel.failed, channel.ended.outrun), (0, 0, 1));
            let what = told.map(|told| told.what);
            let is_bad = matches!(result, ProbeResult::Bad(_));
            assert_eq!(what, is_bad.then(|| Happened::Ejected("no answer".into())), "{result:?}");
            assert_eq!(table.next_probe().is_some(), is_bad, "{result:?}");
        }
    }

    #[test]
    fn one_that_is_outrun_all_the_time_is_asked_once_a_second() {
        let (mut table, first, _second) = racing(EJECT);
        table.outrun(first, false);
        for second in 0..3 {
            let [probe] = &table.probes_due(9)[..] else { panic!("one probe") };
            for ms in [0, 100, 200] {
                table.advance(MS(1_000 * second + ms));
                let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 1])));
                let leases: Vec<_> =
                    std::iter::from_fn(|| table.next(&mut route).ok().filter(|one| one.key() == key(0)))
                        .collect();
                leases.into_iter().for_each(|lease| table.outrun(lease, false));
                assert_eq!(table.probes_due(9).len(), 0);
                table.probed(probe, ProbeResult::Good);
            }
            let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 1])));
            let lease = loop {
                let lease = table.next(&mut route).expect("one of the two");
                if lease.key() == key(0) {
                    break lease;
                }
            };
            table.outrun(lease, false);
            assert_eq!(table.next_probe(), Some(MS(1_000 * (second + 1))));
            table.advance(MS(1_000 * (second + 1)));
        }
    }

    #[test]
    fn one_that_has_answered_too_late_or_is_not_minded_is_not_asked() {
        for (rules, has_answered) in [(EJECT, true), (HealthRules::NONE, false)] {
            let (mut table, first, _second) = racing(rules);
            table.outrun(first, has_answered);
            assert_eq!(table.next_probe(), None);
        }
        let (mut table, first, _second) = racing(EJECT);
        table.pause(key(0)).expect("it exists");
        table.outrun(first, false);
        assert_eq!(table.next_probe(), None, "its server is being restarted");
    }
}

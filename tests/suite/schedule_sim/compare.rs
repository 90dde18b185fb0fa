//! Compares everything visible of a table with the model.

use std::num::NonZeroU32;

use balance::sched::{ChannelSnapshot, Policy};

use super::key;
use super::world::World;

impl World {
    pub(super) fn compare(&mut self, what: &str) {
        let snapshot = self.table.snapshot();
        let (health, now) = (self.model.rules.health, self.model.now);
        assert_eq!(snapshot.groups.len(), self.model.groups.len(), "{what}");
        let mut active = 0;
        for (real, (&g, model)) in snapshot.groups.iter().zip(&self.model.groups) {
            assert_eq!((real.id.index(), real.policy), (g, model.policy), "{what}");
            assert_eq!(real.numbers, model.channels.len(), "{what}: numbers of group {g}");
            let left: Vec<_> = model.channels.iter().enumerate().filter(|(_, c)| !c.removed).collect();
            assert_eq!(real.channels.len(), left.len(), "{what}: group {g}");
            let weighs = !matches!(model.policy, Policy::Hash | Policy::First);
            for (real, (c, model)) in real.channels.iter().zip(left) {
                let told = (real.id.index(), &real.addresses, real.state, real.maxc, real.weight.get());
                let expected = (c, &model.addresses, model.state, NonZeroU32::new(model.maxc), model.weight);
                assert_eq!(told, expected, "{what}: channel {c} of group {g}");
                let told = (real.active, real.totalc, real.failed, real.sent_bytes, real.rcvd_bytes);
                let expected = (model.active, model.totalc, model.failed, model.sent, model.rcvd);
                assert_eq!(told, expected, "{what}: counters of channel {c} of group {g}");
                let told = (real.health.state, real.health.age, real.health.why.clone());
                let expected = model.health.told(&health, weighs, now);
                assert_eq!(told, expected, "{what}: health of channel {c} of group {g}");
                let alone = ChannelSnapshot { waiting: 0, ..real.clone() };
                assert_eq!(self.table.channel(key(g, c)), Some(alone), "{what}");
                active += u64::from(model.active);
            }
            for c in (0..=model.channels.len()).filter(|&c| model.channels.get(c).is_none_or(|c| c.removed)) {
                assert_eq!(self.table.channel(key(g, c)), None, "{what}: {c} of group {g} is not there");
            }
        }
        assert_eq!(self.table.active(), active, "{what}");
        let has_up = self.model.groups.values().flat_map(|group| &group.channels).any(|c| c.is_up());
        assert_eq!(self.table.has_up(), has_up, "{what}");
        let channels = || snapshot.groups.iter().flat_map(|group| &group.channels);
        let told = (channels().filter(|channel| channel.is_up()).count(), channels().count());
        assert_eq!(told, self.table.up_and_all(), "{what}: a snapshot counts as the table does");
        self.compare_agenda(what);
    }

    /// The next probe is due when one of the model's may be and none of them must have been.
    fn compare_agenda(&self, what: &str) {
        let channels = self.model.groups.values().flat_map(|group| &group.channels);
        let windows: Vec<_> =
            channels.filter(|c| !c.removed).filter_map(|channel| channel.health.next_probe()).collect();
        let earliest = windows.iter().map(|window| window.earliest).min();
        let latest = windows.iter().map(|window| window.latest).min();
        let next = self.table.next_probe();
        assert!(next >= earliest && next <= latest, "{what}: {next:?} of {earliest:?}..={latest:?}");
        assert_eq!(next.is_some(), earliest.is_some(), "{what}: {next:?}");
    }
}

//! Takes a snapshot of the table, at once or piece by piece.
//!
//! Knows: that clients may wait for the lock meanwhile. Never: how it is shown.

use std::collections::BTreeMap;
use std::ops::Range;

use super::changes::is_one_each;
use super::{ChannelKey, GroupId, Snapshot, Survey, Table};

/// How many channels a survey reads before it releases the lock.
const PIECE: usize = 256;

impl Table {
    /// Everything as it is now. Reads every channel: where clients may wait for the lock meanwhile, take a
    /// [`Survey`].
    pub fn snapshot(&mut self) -> Snapshot {
        let mut survey = Survey::default();
        while self.survey(&mut survey) {}
        survey.finish()
    }

    /// Adds one more piece to a survey; `false` if it was the last one. What is created meanwhile may be
    /// included or not.
    pub fn survey(&mut self, survey: &mut Survey) -> bool {
        self.learn_freed();
        let mut left = PIECE;
        while let Some((&id, group)) = self.groups.range(survey.next.0..).next() {
            let from = if id == survey.next.0 { survey.next.1 } else { 0 };
            let part = from..group.channels().len().min(from + left);
            let waiting = self.waiting_by_channel(id, part.clone());
            let Some(group) = self.groups.get(&id) else { break };
            let of = |number| waiting.get(&number).copied().unwrap_or(0);
            group.add_to(survey.group(id, group.policy()), part.clone(), &self.rules.health, self.now, of);
            if part.end < group.channels().len() {
                survey.next = (id, part.end);
                return true;
            }
            // A group without channels costs time, too.
            left = left.saturating_sub(part.len() + 1);
            match GroupId::new(id.index() + 1) {
                Some(next) => survey.next = (next, 0),
                None => break,
            }
            if left == 0 {
                return true;
            }
        }
        (survey.losses, survey.paused) = (self.losses.snapshot(), self.paused);
        survey.served = self.tally.snapshot();
        false
    }

    /// How many waiting clients each full channel in a part of a group could take.
    fn waiting_by_channel(&mut self, id: GroupId, part: Range<usize>) -> BTreeMap<usize, u32> {
        let mut waiting = BTreeMap::new();
        if self.line.is_empty() {
            return waiting;
        }
        if std::mem::take(&mut self.changes.moved) {
            self.settle();
        }
        let Some(group) = self.groups.get(&id) else { return waiting };
        let is_home = is_one_each(group, &self.rules);
        for number in part.filter(|&number| group.is_full(number)) {
            let Some(key) = ChannelKey::of(id, number) else { continue };
            let count = self.line.waiting_for(key, is_home);
            waiting.insert(number, u32::try_from(count).unwrap_or(u32::MAX));
        }
        waiting
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::{Addresses, AdminState, Policy, Rules};
    use super::*;

    #[test]
    fn a_survey_looks_at_few_channels_at_a_time_and_leaves_none_out() {
        let mut table = Table::new(Rules::CLASSIC);
        let address = Addresses::from(SocketAddr::from(([127, 0, 0, 1], 80)));
        let sizes = [(0, PIECE * 2 + 1), (1, PIECE), (3, 0), (4, 1), (9, PIECE - 1), (10, 3)];
        for (group, size) in sizes {
            let group = GroupId::new(group).expect("small");
            table.set_policy(group, Policy::RoundRobin);
            for _ in 0..size {
                table.create(group, address.clone(), None, AdminState::Disabled).expect("a number");
            }
        }
        table.remove(ChannelKey::new(0, PIECE).expect("small")).expect("it is unused");
        let (mut survey, mut seen) = (Survey::default(), 0);
        loop {
            let goes_on = table.survey(&mut survey);
            let now: usize = survey.clone().finish().groups.iter().map(|group| group.channels.len()).sum();
            assert!(now - seen <= PIECE, "{seen} and then {now}");
            seen = now;
            if !goes_on {
                break;
            }
        }
        let found = survey.finish();
        assert_eq!(found, table.snapshot());
        let numbers: Vec<_> = found.groups.iter().map(|group| (group.id.index(), group.numbers)).collect();
        assert_eq!(numbers, sizes);
        assert_eq!(seen, sizes.iter().map(|(_, size)| size).sum::<usize>() - 1, "one was removed");
        for group in found.groups {
            assert!(group.channels.windows(2).all(|two| two[0].id < two[1].id));
        }
    }
}

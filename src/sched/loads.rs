//! The channels of a group in order of their load: connections relative to their share.
//!
//! Knows: loads as they were reported. Never: channels, when a load changes.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::bits::Tried;

/// Connections relative to a share; less is better.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) active: u32,
    /// Above 0.
    pub(super) share: u32,
}

impl Ord for Load {
    fn cmp(&self, other: &Self) -> Ordering {
        let mine = u64::from(self.active) * u64::from(other.share);
        mine.cmp(&(u64::from(other.active) * u64::from(self.share)))
    }
}

impl PartialOrd for Load {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Load {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Load {}

/// Finds the least loaded channel in O(log n). A load is wrong until a change is reported; see
/// `Slots::watch`.
#[derive(Debug, Default)]
pub(super) struct Loads {
    order: BTreeSet<(Load, u16)>,
    /// The loads in `order`, by channel number.
    known: Vec<Option<Load>>,
}

impl Loads {
    /// Sets the load of a channel. `None`: it is not available.
    pub(super) fn set(&mut self, number: usize, load: Option<Load>) {
        let Ok(short) = u16::try_from(number) else { return };
        if self.known.len() <= number {
            self.known.resize(number + 1, None);
        }
        if let Some(old) = std::mem::replace(&mut self.known[number], load) {
            self.order.remove(&(old, short));
        }
        if let Some(load) = load {
            self.order.insert((load, short));
        }
    }

    /// The least loaded channel that was not tried; of several, the first from `from` on, wrapping around.
    pub(super) fn least(&self, from: u16, tried: &Tried) -> Option<usize> {
        let untried = |&&(_, number): &&(Load, u16)| !tried.contains(usize::from(number));
        let &(least, first) = self.order.iter().find(untried)?;
        // All channels with this load are adjacent, in order of their numbers.
        let later = self.order.range((least, from)..).find(untried);
        let number = later.filter(|(load, _)| *load == least).map_or(first, |&(_, number)| number);
        Some(usize::from(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(active: u32, share: u32) -> Option<Load> {
        Some(Load { active, share })
    }

    #[test]
    fn loads_are_compared_as_fractions() {
        let mut loads = Loads::default();
        loads.set(0, load(2, 1));
        loads.set(1, load(5, 3));
        loads.set(2, load(4, 2));
        let nobody = Tried::default();
        assert_eq!(loads.least(0, &nobody), Some(1));
        loads.set(1, load(6, 3));
        assert_eq!(loads.least(0, &nobody), Some(0), "all equal now");
        assert_eq!(loads.least(1, &nobody), Some(1));
        assert_eq!(loads.least(2, &nobody), Some(2));
        assert_eq!(loads.least(3, &nobody), Some(0), "round again");
        loads.set(0, None);
        assert_eq!(loads.least(3, &nobody), Some(1));
    }

    #[test]
    fn the_tried_ones_are_passed_over_and_equals_are_not_left_for_worse_ones() {
        let mut loads = Loads::default();
        (0..4).for_each(|number| loads.set(number, load(1, 1)));
        loads.set(3, load(9, 1));
        let mut tried = Tried::default();
        tried.insert(2);
        assert_eq!(loads.least(2, &tried), Some(0), "3 comes next, but is worse");
        (0..2).for_each(|number| tried.insert(number));
        assert_eq!(loads.least(0, &tried), Some(3));
        tried.insert(3);
        assert_eq!(loads.least(0, &tried), None);
    }

    #[test]
    fn it_agrees_with_looking_at_each() {
        let mut state = 11_u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (mut loads, mut plain) = (Loads::default(), vec![None; 20]);
        for step in 0..5_000 {
            let number = random(20) as usize;
            let told =
                (random(4) > 0).then(|| Load { active: random(6) as u32, share: 1 + random(4) as u32 });
            loads.set(number, told);
            plain[number] = told;
            let from = random(21) as u16;
            let turn = |number: usize| (number + 40 - usize::from(from)) % 20;
            let expected = (0..20).filter_map(|n| Some((plain[n]?, turn(n), n))).min().map(|found| found.2);
            assert_eq!(loads.least(from, &Tried::default()), expected, "step {step}, from {from}");
        }
    }
}
